"""The branches that are still open, as arrays that grow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Pool:
    """Rows of several arrays that are put in and taken out together.

    Attributes
    ----------
    nb_bytes
        What one row takes; 0 as long as there was none.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._used = np.zeros(0, bool)
        self.nb_bytes = 0

    def __len__(self) -> int:
        return int(self._used.sum())

    @property
    def places(self) -> np.ndarray:
        """Numbers of the rows that are in it."""
        return np.flatnonzero(self._used)

    def column(self, name: str, places: np.ndarray) -> np.ndarray:
        """One of the arrays at some places."""
        return self._arrays[name][places]

    def put(self, rows: Mapping[str, np.ndarray]) -> None:
        """Add rows, (M, ...) each."""
        nb_rows = len(next(iter(rows.values())))
        if not self._arrays:
            self._arrays = {name: np.empty((0, *r.shape[1:]), r.dtype) for name, r in rows.items()}
            self.nb_bytes = sum(r.dtype.itemsize * int(np.prod(r.shape[1:])) for r in rows.values())
        missing = nb_rows - int((~self._used).sum())
        if missing > 0:
            more = max(missing, len(self._used))
            self._used = np.concatenate([self._used, np.zeros(more, bool)])
            for name, array in self._arrays.items():
                room = np.empty((more, *array.shape[1:]), array.dtype)
                self._arrays[name] = np.concatenate([array, room])
        places = np.flatnonzero(~self._used)[:nb_rows]
        for name, values in rows.items():
            self._arrays[name][places] = values
        self._used[places] = True

    def take(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """Remove rows and return them."""
        found = {name: array[places] for name, array in self._arrays.items()}
        self.drop(places)
        return found

    def drop(self, places: np.ndarray) -> None:
        """Remove rows."""
        self._used[places] = False
