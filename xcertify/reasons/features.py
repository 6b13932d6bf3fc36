"""Features: what is freed together, and the names that a user has for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.grid import grid_cells


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """The groups of features of N inputs, numbered from 0 in each of them.

    A feature is a pixel with its channels, a column of a table, a variable at a time. Groups are in
    the order of their labels, so that without groups the number of a feature is its label.

    Attributes
    ----------
    shape
        Of one input: (H, W, C), (T, W) or (W,).
    labels
        (N, *features) int64: the label of each feature's group, as given by the user; without
        groups its flat row-major index. *features is (H, W), (T, W) or (W,).
    places
        (N, *features) int32: the number of the group, from 0 to G - 1.
    keys
        (N, G) int64: the label of each group, G being the most groups of any input; -1 where an
        input has no group of this number.
    """

    shape: tuple[int, ...]
    labels: np.ndarray
    places: np.ndarray
    keys: np.ndarray

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        nb_inputs: int,
        groups: Any = None,
        grid_size: int | tuple[int, int] | None = None,
    ) -> Features:
        """The features of N inputs.

        Parameters
        ----------
        shape
            Of one input: (H, W, C), (T, W) or (W,).
        nb_inputs
            N.
        groups
            Integer labels of at least 0, (*features) for all inputs or (N, *features): features of
            one label are one group. None: every feature is a group, or every cell of the grid.
        grid_size
            As for `xcertify.grid.grid_cells`.

        Raises
        ------
        ValueError
            For groups and a grid, labels of another shape, those that are not integers or are
            negative (the message names the sample), and as `grid_cells`.
        """
        cells = grid_cells(shape, grid_size)
        if groups is None:  # numbered from 0 without a gap
            places = np.broadcast_to(cells.astype(np.int32), (nb_inputs, *cells.shape))
            keys = np.tile(np.arange(cells.max(initial=-1) + 1), (nb_inputs, 1))
            return cls(tuple(shape), places.astype(np.int64), places, keys)
        if grid_size is not None:
            raise ValueError(
                f"groups and grid_size both say what belongs together: give one of them. "
                f"Received: grid_size={grid_size!r} beside groups"
            )
        labels = _checked(np.asarray(groups), cells.shape, nb_inputs)
        return cls(tuple(shape), labels, *_numbered(labels))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | np.ndarray) -> Features:
        """Those of some inputs, by a slice or an array of indices; G stays as it is."""
        return Features(self.shape, self.labels[index], self.places[index], self.keys[index])

    @property
    def nb_groups(self) -> int:
        """G: the most groups of any input."""
        return self.keys.shape[1]

    @property
    def valid(self) -> np.ndarray:
        """(N, G) bool: which groups there are."""
        return self.keys >= 0

    @property
    def numbers(self) -> np.ndarray:
        """(N, *shape) int32: the number of the group that each entry of an input belongs to."""
        return self._to_entries(self.places)

    def label_of(self, sample: int, group: int) -> int:
        """The user's label of a group."""
        return int(self.keys[sample, group])

    def expand(self, values: np.ndarray) -> np.ndarray:
        """Values (N, G) of groups at their features, (N, *features)."""
        flat = self.places.reshape(len(self), math.prod(self.places.shape[1:]))
        return np.take_along_axis(np.asarray(values), flat, axis=1).reshape(self.places.shape)

    def to_inputs(self, values: np.ndarray) -> np.ndarray:
        """Values (N, G) of groups at the entries of the inputs, (N, *shape)."""
        return self._to_entries(self.expand(values))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums (N, G) float64 of values (N, *shape) or (N, *features) over each group."""
        numbers = self.places if values.shape == self.places.shape else self.numbers
        first = self.nb_groups * np.arange(len(self))
        flat = numbers + first.reshape(-1, *[1] * (numbers.ndim - 1))
        size = len(self) * self.nb_groups
        found = np.bincount(flat.ravel(), np.asarray(values, np.float64).ravel(), size)
        return found.reshape(len(self), self.nb_groups)

    def _to_entries(self, maps: np.ndarray) -> np.ndarray:
        """Maps (N, *features) at the entries of the inputs, (N, *shape)."""
        if len(self.shape) == 3:
            return np.broadcast_to(maps[..., None], (len(maps), *self.shape))
        return maps

    def __repr__(self) -> str:
        features = " x ".join(map(str, self.labels.shape[1:]))
        return f"<Features of {len(self)} inputs: {features}, in up to {self.nb_groups} groups>"


def _checked(groups: np.ndarray, features: tuple[int, ...], nb_inputs: int) -> np.ndarray:
    """Labels (N, *features) int64."""
    batch = (nb_inputs, *features)
    if groups.shape not in (features, batch):
        raise ValueError(
            f"groups must be labels of the features, {features}, or for each input, {batch}. "
            f"Received: shape {groups.shape}"
        )
    if groups.dtype.kind not in "iu":
        raise ValueError(f"groups must be integer labels. Received: {groups.dtype}")
    labels = np.broadcast_to(groups.astype(np.int64), batch)
    negative = (labels < 0).reshape(nb_inputs, -1).any(axis=1)
    if negative.any():
        sample = int(np.argmax(negative))
        raise ValueError(
            f"groups must be labels of at least 0. Received: {labels[sample].min()} for sample "
            f"{sample}"
        )
    return labels


def _numbered(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, *features) int32 and keys (N, G) of labels."""
    flat = labels.reshape(len(labels), -1)
    order = np.argsort(flat, axis=1, kind="stable")
    ordered = np.take_along_axis(flat, order, axis=1)
    is_new = np.diff(ordered, axis=1) != 0
    numbers = np.concatenate([np.zeros((len(flat), 1), int), np.cumsum(is_new, axis=1)], axis=1)
    places = np.empty(flat.shape, np.int32)
    np.put_along_axis(places, order, numbers.astype(np.int32), axis=1)
    keys = np.full((len(flat), numbers.max(initial=0) + 1), -1, np.int64)
    np.put_along_axis(keys, numbers, ordered, axis=1)
    return places.reshape(labels.shape), keys
