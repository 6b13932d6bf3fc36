"""Warnings of many batches: each kind once, with the number of batches that had it."""

from __future__ import annotations

import builtins
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from xcertify.usefulness import VacuousWarning

_DIFFERS = re.compile(r"\([^()]*\)|[-+]?\d[\d.,]*(e[-+]?\d+)?")
_MOST = 20  # kinds


class Warned:
    """Counts warnings by their category and their words, without numbers and brackets."""

    def __init__(self, earlier: Iterable[dict[str, Any]] = ()) -> None:
        self._found: dict[tuple[str, str], dict[str, Any]] = {}
        self.add(earlier)

    def add(self, found: Iterable[dict[str, Any]]) -> None:
        """Count what another one has found."""
        for one in found:
            self._count(one["category"], one["message"], one["batches"])

    def _count(self, category: str, message: str, batches: int) -> None:
        key = category, _DIFFERS.sub("#", message)
        if key in self._found or len(self._found) < _MOST:
            new = {"category": category, "message": message, "batches": 0}
            self._found.setdefault(key, new)["batches"] += batches

    @contextmanager
    def of_a_batch(self) -> Iterator[None]:
        """Count what is warned of within, instead of showing it."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", VacuousWarning)
            yield
        for category, message in dict.fromkeys(
            (w.category.__name__, str(w.message)) for w in caught
        ):
            self._count(category, message, 1)

    def as_list(self) -> list[dict[str, Any]]:
        """``category``, ``message`` (that of the first batch) and ``batches`` of each kind."""
        return list(self._found.values())

    def show(self, stacklevel: int = 2) -> None:
        """Warn once of each kind."""
        for one in self._found.values():
            category = getattr(builtins, one["category"], UserWarning)
            if one["category"] == VacuousWarning.__name__:
                category = VacuousWarning
            batches = one["batches"]
            where = (
                "one batch" if batches == 1 else f"{batches} batches, of which this is the first"
            )
            warnings.warn(
                f"{one['message']} (said of {where})", category, stacklevel=stacklevel + 1
            )
