"""The attack on texts: words exchanged one by one, without gradients."""

from __future__ import annotations

import numpy as np

from xcertify.bounds.branching.ascents import Ascents
from xcertify.regions import sums_by_group
from xcertify.words import Words


class Substitutions(Ascents):
    """As `Ascents`, for texts: steps are exchanges of the word at one position.

    Each step tries all words of all positions, and takes the one that leads nearest to a violation.
    Where as many positions as may have another word, the one that is nearest to the center goes
    back to it.

    Source of the idea: Alzantot et al., Generating Natural Language Adversarial Examples, 2018.
    """

    def _ascend(
        self, places: np.ndarray, aims: np.ndarray, points: np.ndarray, steps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best texts that exchanges lead to from points (B, T, E), and their values (B,)."""
        points, values = points.copy(), self._values(points[None], places, aims)[0]
        positions, numbers = np.nonzero(self._words.other[places].any(axis=0))
        at_once = max(1, self._attacked.nb_at_once // max(1, len(positions)))
        for first in range(0, len(places) if len(positions) else 0, at_once):
            some = slice(first, first + at_once)
            points[some], values[some] = self._exchanged(
                points[some], values[some], places[some], aims[some], positions, numbers
            )
        return points, values

    @property
    def _words(self) -> Words:
        region = self._attacked.region
        assert isinstance(region, Words)
        return region

    def _exchanged(
        self,
        points: np.ndarray,
        values: np.ndarray,
        places: np.ndarray,
        aims: np.ndarray,
        positions: np.ndarray,
        numbers: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same of some texts, by choices of numbers (C,) at positions (C,)."""
        region, each = self._words[places], np.arange(len(places))
        going = np.ones(len(places), bool)
        for _ in range(self._nb_steps):
            tried = np.repeat(points[None], len(positions), axis=0)  # (C, B, T, E)
            candidate = np.arange(len(positions))
            new = np.moveaxis(region.choices[:, positions, numbers], 1, 0)
            tried[candidate, :, positions] = new
            tried = _with_new(region, tried, positions)
            found = self._values(tried, places, aims)
            best = found.argmin(axis=0)
            going &= (found[best, each] < values) & (values > 0)
            if not going.any():
                break
            points[going] = tried[best, each][going]
            values[going] = found[best, each][going]
        return points, values

    def _values(self, points: np.ndarray, places: np.ndarray, aims: np.ndarray) -> np.ndarray:
        """Values (S, B) of conjunctions (B,) at texts (S, B, T, E)."""
        found = self._attacked.look_at(points, places)  # (B, S, P)
        return found[np.arange(len(places)), :, aims].T


def _with_new(region: Words, points: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Texts (C, B, T, E) with as many other words as may be, those of positions (C,) among them."""
    if region.groups is None:
        return points
    step = np.abs(points.astype(np.float64) - region.center)
    weights = sums_by_group(step, region.groups)  # (C, B, G)
    own = region.groups[:, positions, 0].T  # (C, B)
    np.put_along_axis(weights, np.maximum(own, 0)[..., None], np.inf, axis=2)
    return region.with_few(points, weights)
