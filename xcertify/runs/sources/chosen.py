"""Some of the inputs of a source, with targets that are given beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xcertify.runs.sources.arrays import absolute, load_array, split_name
from xcertify.runs.sources.base import Batch, Source


class Chosen(Source):
    """The first inputs of a source, and targets from elsewhere.

    Parameters
    ----------
    source
        What is chosen from.
    first
        How many inputs; all if there are fewer. None: all.
    targets
        Integers, one for each input or one for all; or a ``.npy`` or ``.npz`` file of integers
        (N,) or weights (N, K), as `xcertify.runs.sources.arrays.load_array` takes it. Of a file
        with one for each input of `source`, the first ones are taken. None: those of `source`.

    Raises
    ------
    ValueError
        For another number of targets, and what is no target.
    """

    def __init__(
        self,
        source: Source,
        *,
        first: int | None = None,
        targets: Sequence[int] | str | None = None,
    ):
        if first is not None and (isinstance(first, bool) or first != int(first) or first < 1):
            raise ValueError(f"first must be a whole number above 0. Received: {first!r}")
        self._source = source
        self._length = len(source) if first is None else min(int(first), len(source))
        self._file = absolute(targets) if isinstance(targets, str) else None
        self._targets = None if targets is None else self._checked(self._file or targets)
        self.kind, self.path, self.shape = source.kind, source.path, source.shape
        self.groups, self.feature_names = source.groups, source.feature_names

    def __len__(self) -> int:
        return self._length

    def _files(self) -> list[Path]:
        beside = [] if self._file is None else [Path(split_name(self._file)[0])]
        return [*self._source._files(), *beside]

    def _options(self) -> dict[str, Any]:
        options = {**self._source._options(), "first": len(self)}
        if self._targets is not None:
            options["targets"] = self._file or self._targets.tolist()
        return options

    def _read(self, first: int, last: int) -> Batch:
        batch = self._source.read(first, last)
        if self._targets is None:
            return batch
        some = self._targets[first:last]
        targets = some.tolist() if some.ndim == 1 else list(some)
        return Batch(batch.inputs, batch.errors, batch.names, targets)

    def _checked(self, targets: Sequence[int] | str) -> np.ndarray:
        array = load_array(targets) if isinstance(targets, str) else np.asarray(targets)
        whole = array.ndim == 1 and array.dtype.kind in "iu"
        weights = array.ndim == 2 and array.dtype.kind in "fiub" and np.isfinite(array).all()
        if not whole and not weights:
            raise ValueError(
                f"targets must be integers (N,) or finite weights (N, K). "
                f"Received: shape {array.shape} of {array.dtype}"
            )
        if whole and len(array) == 1:
            array = np.repeat(array, len(self))
        if len(array) not in (len(self), len(self._source)):
            raise ValueError(
                f"targets must be one per input, {len(self)} of them, or one integer for all. "
                f"Received: {len(array)}"
            )
        return array[: len(self)]
