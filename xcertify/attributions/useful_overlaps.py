"""Whether the overlaps behind maps say anything, and a warning with a cure where they do not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.attributions.attained import ShortAttack
from xcertify.attributions.overlaps import Overlap, Overlaps
from xcertify.regions import Ball, Region
from xcertify.usefulness import VACUOUS, seeks_cures, times_wider, warn_vacuous

_NB_JUDGED = 16  # inputs of a call, spread evenly
_NB_TRIED, _SECONDS = 4, 20.0  # inputs for which a smaller epsilon is sought, and for how long
_SMALLEST = -9  # power of ten


def are_flat(region: Region, overlaps: Overlaps, tolerance: float) -> np.ndarray:
    """Where no cell changes the bound, though the region has points beside its center, (N,) bool.

    A score of `tolerance` times the bound is taken for a rounding.
    """
    with np.errstate(invalid="ignore"):  # infinite bounds, which are refused elsewhere
        scores = np.max(overlaps.full[:, None] - overlaps.fixed, axis=1)
    moves = (region.upper > region.lower).reshape(len(region), -1).any(axis=1)
    return moves & (scores <= tolerance * np.abs(overlaps.full))


def times_as_far(full: np.ndarray, nominal: np.ndarray, attained: np.ndarray) -> np.ndarray:
    """How many times as far from their centers overlaps are bounded as they were attained, (N,).

    1 where bounds prove the class, or are as tight as roundings let them be.
    """
    says_something = (full < 0) | (full - nominal <= 1e-3 * (1 + np.abs(nominal)))
    return np.where(says_something, 1.0, times_wider(full - nominal, attained - nominal))


@dataclass(frozen=True)
class Usefulness:
    """Compares the bounds of overlaps with what a short attack attains, and warns.

    Attributes
    ----------
    name
        Of the explainer.
    attack
        What overlaps attain.
    bound
        Upper bounds (N,) of the overlaps of N regions.
    epsilon
        As the user gave it, for the message.
    tighter, cures
        What can be tried before and behind a smaller epsilon, in words.
    """

    name: str
    attack: ShortAttack
    bound: Callable[[Region, Overlap], np.ndarray]
    epsilon: Any
    tighter: str
    cures: str

    def warn(self, region: Region, overlap: Overlap, full: np.ndarray, flat: np.ndarray) -> bool:
        """A `VacuousWarning`, at most one, for vacuous bounds and for maps of zeros.

        Parameters
        ----------
        region, overlap, full
            N regions and the bounds (N,) of their overlaps.
        flat
            (N,) bool: where the map is zero everywhere.

        Returns
        -------
        warned
            Whether there was one.
        """
        nb_judged = min(len(region), _NB_JUDGED)
        judged = np.linspace(0, len(region) - 1, nb_judged).astype(int)
        judged = np.union1d(judged, np.flatnonzero(flat)[:1])
        ratio, is_constant = self._looseness(region[judged], overlap[judged], full[judged])
        problems = []
        vacuous = ratio > VACUOUS
        if vacuous.any():
            worst = judged[vacuous][np.argsort(-ratio[vacuous], kind="stable")[:_NB_TRIED]]
            times = float(np.median(ratio[vacuous]))
            how = f"{times:.2g} times (median) as far from its value at the input as an attack gets"
            if np.isinf(times):
                how = "far from its value at the input, which an attack does not change at all"
            problems.append(
                f"the bounds behind the maps are vacuous for {int(vacuous.sum())} of {len(judged)} "
                f"inputs that were looked at: with epsilon={self.epsilon!r} the overlap is bounded "
                f"{how}. Try {self.tighter}{self._smaller(region[worst], overlap[worst])}, "
                f"{self.cures}"
            )
        if flat.any():
            first = int(np.argmax(flat))
            why = "no cell that is held alone lowers the bound, by any lines that were tried"
            if is_constant[np.searchsorted(judged, first)]:
                why = "an attack does not change the overlap in this region either"
            problems.append(
                f"{int(flat.sum())} of {len(region)} maps are zero everywhere, first that of input "
                f"{first}: {why}. Try a larger epsilon, or larger cells (grid_size)"
            )
        if problems:
            warn_vacuous(f"{self.name}: {'; and '.join(problems)}")
        return bool(problems)

    def _looseness(
        self, region: Region, overlap: Overlap, full: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """`times_as_far`, and where an attack changes nothing, (N,) each."""
        nominal, attained = self.attack(region, overlap)
        is_constant = attained - nominal <= 1e-6 * (1 + np.abs(nominal))
        return times_as_far(full, nominal, attained), is_constant

    def _smaller(self, region: Region, overlap: Overlap) -> str:
        """A smaller epsilon, in words: a tenth, hundredth, ... at which bounds are useful."""
        if not seeks_cures():
            return "a smaller epsilon (see suggest_epsilon)"
        end, power = time.monotonic() + _SECONDS, -1
        while True:
            scale = 10.0**power
            radius = np.asarray(region.epsilon) * scale
            smaller = Ball(region.center, radius, region.norm, region.clip)
            ratio, _ = self._looseness(smaller, overlap, self.bound(smaller, overlap))
            times = float(np.median(ratio))
            is_number = np.ndim(self.epsilon) == 0
            tried = f"{self.epsilon * scale:.2g}" if is_number else f"{scale:g} times this one"
            if times <= VACUOUS / 10:
                return f"a smaller epsilon (at {tried} the bounds are useful; see suggest_epsilon)"
            if power == _SMALLEST or time.monotonic() > end:
                return (
                    f"a smaller epsilon (not found: down to {tried} none that was tried is useful)"
                )
            # bounds that are a thousand times too wide are not useful at a tenth of the radius
            jump = int(math.log10(times / VACUOUS)) if math.isfinite(times) else 2
            power = max(_SMALLEST, power - max(1, jump))
