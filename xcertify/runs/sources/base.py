"""Where the inputs of a run come from: numbered, and read a few at a time."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Batch:
    """Some consecutive inputs of a source; all four lists are equally long.

    Parameters
    ----------
    inputs
        float32 arrays of the source's `shape`, None for an input that cannot be used.
    errors
        For each None in `inputs`, one sentence that says why; None for the others.
    names
        Of the files, where every input is a file of its own; else None.
    targets
        One for each input, an integer or a row of K weights; None without targets, and None in
        the list where there is an error.
    """

    inputs: list[np.ndarray | None]
    errors: list[str | None]
    names: list[str | None]
    targets: list[Any] | None = None


class Source(ABC):
    """Numbered inputs that are read when they are needed.

    A source holds paths and options, no inputs: it can be pickled and sent to other processes,
    which see the same inputs under the same numbers. What a process keeps open to read faster
    (`functools.cached_property`) stays behind.
    """

    #: What it is, in ``run.json``.
    kind: str
    #: Absolute path, as given.
    path: str
    #: Shape of one input.
    shape: tuple[int, ...]
    #: Labels (one a feature) of one-hot columns that are one feature together, or None.
    groups: list[int] | None = None
    #: Names of the features of a table, or None.
    feature_names: list[str] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """How many inputs there are."""

    @abstractmethod
    def _files(self) -> list[Path]:
        """All that is read."""

    def _options(self) -> dict[str, Any]:
        """What else decides which inputs there are; JSON-able."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What is read, for ``run.json``.

        Returns
        -------
        description
            JSON-able: ``kind``, ``path`` (absolute), ``nb_inputs``, ``shape``, the options, and
            ``fingerprint``, which is another one if the files are (by sizes and times of
            modification: what is in them is not read).
        """
        return {
            "kind": self.kind,
            "path": self.path,
            "nb_inputs": len(self),
            "shape": list(self.shape),
            **self._options(),
            "fingerprint": fingerprint_of(self._files()),
        }

    def __getstate__(self) -> dict[str, Any]:
        kept = dict(self.__dict__)
        for name in kept.keys() & _cached(type(self)):
            del kept[name]
        return kept

    @abstractmethod
    def _read(self, first: int, last: int) -> Batch:
        """The inputs `first` to `last` - 1 as they are: shapes and values are checked by `read`."""

    def read(self, first: int, last: int) -> Batch:
        """The inputs with the numbers `first` to `last` - 1.

        An input that cannot be used (unreadable, of another shape, NaN, infinite, without its
        target) is None and has its error; the others are not touched by it.

        Raises
        ------
        ValueError
            If there are no such numbers.
        """
        if not 0 <= first <= last <= len(self):
            raise ValueError(
                f"inputs have the numbers 0 to {len(self) - 1}. Received: {first} to {last - 1}"
            )
        batch = self._read(first, last)
        inputs, errors = list(batch.inputs), list(batch.errors)
        targets = None if batch.targets is None else list(batch.targets)
        for place, array in enumerate(inputs):
            if array is not None and errors[place] is None:
                errors[place] = self._fault(array)
            if errors[place] is not None:
                inputs[place] = None
                if targets is not None:
                    targets[place] = None
        return Batch(inputs, errors, list(batch.names), targets)

    def _fault(self, array: np.ndarray) -> str | None:
        if array.shape != self.shape:
            return f"has the shape {array.shape}, and {self.shape} is taken"
        if not np.isfinite(array).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            where = f"index {place[0] if len(place) == 1 else place}"
            return f"has the value {array[place]} at {where}: inputs must be finite numbers"
        return None


def fingerprint_of(files: Iterable[Path]) -> str:
    """SHA-256 of the names, sizes and times of modification of files."""
    digest = hashlib.sha256()
    for file in files:
        facts = file.stat()
        digest.update(f"{file.name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _cached(kind: type) -> set[str]:
    return {
        name
        for ancestor in kind.__mro__
        for name, value in vars(ancestor).items()
        if isinstance(value, cached_property)
    }


def nameless(inputs: Sequence[np.ndarray | None], targets: list[Any] | None = None) -> Batch:
    """A batch of inputs without names, none of which has an error yet."""
    nothing: list[None] = [None] * len(inputs)
    return Batch(list(inputs), list(nothing), list(nothing), targets)
