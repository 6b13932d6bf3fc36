"""What is known of regions while they are attacked: their worst points so far."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from xcertify.bounds.branching.confirmation import confirm, given_type, inner_box, outputs_at
from xcertify.bounds.engine import Engine
from xcertify.inputs import in_batches
from xcertify.regions import Region
from xcertify.words import Words

_NB_ENTRIES = 2**22  # of all tensors of the network, for the points that are worked on together
_NB_NUMBERS = 2**22  # of rows, which are looked at together


class WorstPoints(NamedTuple):
    """What an attack found in N regions.

    Attributes
    ----------
    points
        (N, *input): the worst points, in the type that the model gets.
    values
        (N,) float64: those of the property there, as the model's type computes them.
    violated
        (N,) bool: where the point is a counterexample.
    """

    points: np.ndarray
    values: np.ndarray
    violated: np.ndarray


class Attacked:
    """N regions, each with a property, and the worst points that were found.

    Parameters
    ----------
    engine, region, rows, limits, constants
        See `attack`.

    Attributes
    ----------
    region
        The regions in the type that the model gets, rounded inward.
    points
        (N, *input): the worst points, at first the centers.
    least
        (N,): the values of the property there, as the model's type computes them.
    values
        (N,) float64: proved upper bounds of them, for points that were confirmed; see `confirm`.
    violated
        (N,) bool: where the point is a counterexample; see `confirm`.
    open
        (N,) bool: where there is none, but there may be one.
    possible
        (N, P) bool: conjunctions that no limit of -inf rules out.
    reached
        (N, P): the least values of each conjunction.
    sizes
        (N,): of the outputs.
    nb_at_once
        Points that are worked on together.
    """

    def __init__(
        self,
        engine: Engine,
        region: Region,
        rows: np.ndarray,
        limits: np.ndarray,
        constants: Sequence[np.ndarray] = (),
    ) -> None:
        self.engine, self.rows, self.limits = engine, rows, limits
        self.dtype, self._stated = given_type(engine), region
        self.constants = [np.asarray(array).astype(self.dtype) for array in constants]
        self.region = _inner(region, self.dtype)
        self.points, self.least = self.region.center.copy(), np.full(len(region), np.inf)
        self.values, self.violated = np.full(len(region), np.inf), np.zeros(len(region), bool)
        self._confirmed = np.full(len(region), np.inf)  # the least values that were
        self.possible = np.all(limits > -np.inf, axis=2)
        between = (self.region.lower <= self.region.upper).reshape(len(region), -1).all(axis=1)
        self.open: np.ndarray = np.any(self.possible, axis=1) & between
        self.reached: np.ndarray = np.full(limits.shape[:2], np.inf)
        self.sizes = np.zeros(len(region))
        entries = sum(math.prod(node.shape) for node in engine.graph.nodes)
        largest = engine.budget.nb_samples(engine.graph)
        self.nb_at_once = min(max(1, _NB_ENTRIES // entries), largest)

    def in_turn(self, nb_points: int, deadline: float) -> Iterator[np.ndarray]:
        """Open regions, of which so many points each are looked at together."""
        step = max(1, self.nb_at_once // nb_points)
        for some in in_batches(np.flatnonzero(self.open), step):
            if time.monotonic() > deadline:
                return
            yield some

    def look_at(self, points: np.ndarray, some: np.ndarray) -> np.ndarray:
        """Values max_j (rows @ f(x) - limits), (n, S, P), at points (S, n, *input) of n regions."""
        nb_points = len(points)
        points = points.reshape(-1, *self.region.shape)
        places, found = np.tile(some, nb_points), []
        for batch in in_batches(np.arange(len(points)), self.nb_at_once):
            constants = [constant[places[batch]] for constant in self.constants]
            share = self.share(0.1)
            found.append(outputs_at(self.engine, [points[batch], *constants], share))
        outputs = np.concatenate(found).reshape(nb_points, len(some), -1)  # (S, n, K)
        known = np.where(np.isfinite(outputs), np.abs(outputs), 0.0)
        self.sizes[some] = np.maximum(self.sizes[some], known.max(axis=(0, 2)))
        return self._values_of(some, outputs)

    def _values_of(self, some: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """The same (n, S, P) for outputs (S, n, K) of n regions."""
        found = np.empty((len(some), len(outputs), *self.limits.shape[1:]))
        step = max(1, _NB_NUMBERS // max(1, self.rows[:1].size))
        with np.errstate(invalid="ignore", over="ignore"):
            for part in in_batches(np.arange(len(some)), step):
                rows = np.asarray(self.rows[some[part]], np.float64)
                rows = rows.reshape(len(part), -1, rows.shape[-1])  # (n, P J, K)
                values = np.moveaxis(outputs[:, part], 0, 1) @ np.swapaxes(rows, 1, 2)
                found[part] = values.reshape(found[part].shape)
            values = (found - self.limits[some, None]).max(axis=3)
        return np.where(np.isnan(values), np.inf, values)

    def keep_worst(self, points: np.ndarray, values: np.ndarray, places: np.ndarray) -> None:
        """Note points (B, *input) of values (B,) where they are the worst so far of a region."""
        order = np.lexsort((values, places))
        places, firsts = np.unique(places[order], return_index=True)
        best = order[firsts]
        worse = values[best] < self.least[places]
        self.least[places[worse]] = values[best[worse]]
        self.points[places[worse]] = points[best[worse]]

    def confirm(self, places: np.ndarray) -> None:
        """Close those of the regions whose points are counterexamples."""
        least = self.least[places]
        self._confirm(places[(least <= 0) & (least < self._confirmed[places])])

    def confirm_others(self) -> None:
        """Prove the values of all points that are no counterexamples."""
        self._confirm(np.flatnonzero(~self.violated))

    def _confirm(self, places: np.ndarray) -> None:
        if not len(places):
            return
        self._confirmed[places] = self.least[places]
        self.points[places], self.values[places], self.violated[places] = confirm(
            self.engine,
            self._stated[places],
            self.points[places],
            self.rows[places],
            self.limits[places],
            [constant[places] for constant in self.constants],
        )
        self.open &= ~self.violated

    def share(self, share: float) -> float:
        """What a call takes uncompiled, as a share of what it takes to compile it."""
        if self.engine.compile == "auto":
            return share
        return math.inf if self.engine.compile else 0.0


def _inner(region: Region, dtype: str) -> Region:
    """Regions in another floating type, rounded inward; the words of texts to nearest."""
    if isinstance(region, Words):
        return region.as_type(dtype)
    lower, upper = inner_box(region, dtype)
    center = np.clip(region.center.astype(dtype), lower, upper)
    radius = None if math.isinf(region.norm) else region.epsilon
    few = region.nb_changed, region.groups
    return Region(center, lower, upper, radius, region.norm, None, *few)
