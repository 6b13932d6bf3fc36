"""Adversarial overlaps of regions, made of bounds of rows of the logits (EVA, Eq. 1).

The overlap of a region is the largest value of ``f_c' - f_c`` on it, over all other classes c'. Of
a regression it is the largest value of ``|f - f(x0)| - delta``: negative where the output stays
within delta of its value at the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xcertify.answers import Answers
from xcertify.inputs import in_batches
from xcertify.progress import progress_bar
from xcertify.regions import Region
from xcertify.targets import margin_rows

OVERLAPS = ("margin", "separate")

Rows = Any  # `MarginRows` or an array, (N, S, K); None: the K logits by themselves


class Overlaps(NamedTuple):
    """Upper bounds of the overlap: of each region, (N,), and with each cell held, (N, cells)."""

    full: np.ndarray
    fixed: np.ndarray


@dataclass(frozen=True)
class Overlap:
    """Which overlap of N regions is bounded, and by which rows of the logits.

    Attributes
    ----------
    form
        "margin": each ``f_c' - f_c`` is one row. "separate": each logit is, and the bound is that
        of ``max upper(f_c') - lower(f_c)``.
    classes
        (N,) int: c.
    alternatives
        (N,) int: the one c' that counts. None: all other classes.
    temperature
        T of `smooth_maximum`, by which the c' count; 0: the largest alone.
    within
        Of a regression the outputs and their deltas, `Answers` with `delta`; the rows are then both
        signs of the output, whatever the form. None: classes.
    """

    form: str
    classes: np.ndarray
    alternatives: np.ndarray | None = None
    temperature: float = 0.0
    within: Answers | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, samples: slice | np.ndarray) -> Overlap:
        """That of some regions."""
        alternatives = None if self.alternatives is None else self.alternatives[samples]
        within = None if self.within is None else self.within[samples]
        return Overlap(self.form, self.classes[samples], alternatives, self.temperature, within)

    def against(self, alternatives: np.ndarray) -> Overlap:
        """The margins of one other class each, (N,) int, which are among those of this one."""
        return Overlap("margin", self.classes, alternatives, self.temperature)

    def rows(self, nb_logits: int) -> Rows:
        """The rows to be bounded, (N, S, K) for K logits; None: the K logits by themselves."""
        if self.within is not None:
            return -self.within.property()[0][:, :, 0]
        if nb_logits == 1 or (self.form == "margin" and self.alternatives is None):
            return margin_rows(self.classes, nb_logits)
        if self.form == "separate":
            return None
        units = np.eye(nb_logits, dtype=np.float32)
        return (units[self.alternatives] - units[self.classes])[:, None]

    @property
    def offsets(self) -> np.ndarray | None:
        """What is added to each of the rows, (N, S) float64; None: nothing."""
        return None if self.within is None else self.within.property()[1][:, :, 0]

    def of_sides(self, rows: Rows, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """Upper bounds of the overlap, (N,), from both sides (N, S) of its rows."""
        largest = LargestOverlap(self, rows)
        largest.add(slice(0, len(upper)), slice(0, upper.shape[1]), lower, upper)
        return largest.bounds


class LargestOverlap:
    """Upper bounds of an overlap, from sides of its rows that come in parts.

    Parameters
    ----------
    overlap
        Of N regions.
    rows
        What was bounded, ``overlap.rows(K)``.
    shape
        Of what there is of each row: (R,) for R parts of each region.
    """

    def __init__(self, overlap: Overlap, rows: Rows, shape: tuple[int, ...] = ()) -> None:
        self._overlap, self._by_logits, self._offsets = overlap, rows is None, overlap.offsets
        self._largest = np.full((len(overlap), *shape), -np.inf)
        self._own = np.zeros_like(self._largest)  # lower(f_c), where logits are bounded

    def add(self, samples: slice, rows: slice, lower: np.ndarray, upper: np.ndarray) -> None:
        """Take in the sides (n, s, *shape) of s rows of n regions."""
        if self._by_logits:
            is_own, counts = self._logits(samples, rows, nb_axes=upper.ndim)
            self._own[samples] += np.where(is_own, lower, 0).sum(axis=1)
            upper = np.where(counts, upper, -np.inf)
        if self._offsets is not None:
            offsets = self._offsets[samples, rows]
            upper = upper + np.expand_dims(offsets, tuple(range(2, upper.ndim)))
            upper = np.nextafter(upper, np.inf)  # for the sum
        upper = np.concatenate([self._largest[samples, None], upper], axis=1)
        self._largest[samples] = smooth_maximum(upper, self._overlap.temperature)

    @property
    def bounds(self) -> np.ndarray:
        """(N, *shape), once all rows are in."""
        return self._largest - self._own

    def _logits(self, samples: slice, rows: slice, nb_axes: int) -> tuple[np.ndarray, np.ndarray]:
        """Which of some logits are f_c, and which are f_c', (n, s, 1, ...) bool each."""
        logits = np.arange(rows.start, rows.stop)
        some = self._overlap[samples]
        is_own = logits == some.classes[:, None]
        counts = ~is_own if some.alternatives is None else logits == some.alternatives[:, None]
        axes = tuple(range(2, nb_axes))
        return np.expand_dims(is_own, axes), np.expand_dims(counts, axes)


def smooth_maximum(values: np.ndarray, temperature: float) -> np.ndarray:
    """``T log sum exp(values / T)`` over the second axis, for T = 0 the largest of the values.

    It rises with every value, so that upper bounds of the values give one of it.
    """
    largest = values.max(axis=1)
    if temperature == 0:
        return largest
    with np.errstate(invalid="ignore"):  # infinite bounds prove nothing, and stay infinite
        shares = np.exp((values - largest[:, None]) / temperature)
    smooth = largest + temperature * np.log(shares.sum(axis=1))
    return np.where(np.isfinite(largest), smooth, largest)


def with_cells_held(
    region: Region, cells: np.ndarray, nb_at_once: int, verbose: bool = False
) -> Iterator[tuple[np.ndarray, Region]]:
    """Each region whole, then with each of its cells held: (1 + cells) regions of each input.

    Parameters
    ----------
    region
        N regions.
    cells
        Integers (*shape): the cell that each feature belongs to.
    nb_at_once
        Most regions that are given at once.
    verbose
        Whether to show a progress bar of all N (1 + cells) of them.

    Yields
    ------
    samples, part
        (M,): the inputs whose regions they are, and M regions.
    """
    nb_parts = int(cells.max()) + 2
    places = np.arange(len(region) * nb_parts)
    with progress_bar(len(places), "bound", verbose=verbose) as progress:
        for some in in_batches(places, nb_at_once):
            samples, cell = some // nb_parts, some % nb_parts - 1  # -1: none is held
            held = cells == cell.reshape(-1, *[1] * cells.ndim)
            yield samples, region[samples].fix(held)
            progress.update(len(some))


def overlaps_of(bounds: np.ndarray) -> Overlaps:
    """Overlaps from bounds (N, 1 + cells) of each region and of its parts with a cell held.

    Each part lies in the whole, so that both bounds hold on it and no score is negative.
    """
    return Overlaps(bounds[:, 0], np.minimum(bounds[:, 1:], bounds[:, :1]))
