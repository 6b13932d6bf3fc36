"""The attack on a property: projected gradient ascent towards points that violate it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from xcertify.ascent import arrays_of, ascend, random_start
from xcertify.bounds import backend
from xcertify.bounds.branching.confirmation import confirm, given_type, inner_box
from xcertify.bounds.engine import Engine
from xcertify.bounds.graph.graph import Graph
from xcertify.inputs import in_batches
from xcertify.regions import Region, as_column

# Restarts in turn begin at the best random point, at the best point that is known, anywhere, ...
_STEPS = 0.5, 0.1, 0.5, 0.02  # lengths of their first steps, as shares of the radius
_ENOUGH = 1e-5  # a violation of this size, relative to the outputs, is not climbed any further
_NB_AIMS = 4  # conjunctions of which all restarts climb towards the nearest; one looks at all
_NB_RANDOM = 2**15, 16, 2048  # random points of a region: by the features; the fewest, the most
_NB_BEST = 32  # of the random points, from which ascents begin
_FEW_FEATURES, _NB_GENERATIONS, _NB_ELITES, _NB_CHILDREN = 24, 15, 32, 16
_NB_ENTRIES = 2**22  # of all tensors of the network, for the points that are worked on together


@dataclass(frozen=True, eq=False)
class Attacked:
    """The worst points of N regions that an attack found.

    Attributes
    ----------
    points
        (N, *input), inside the regions, in the type that the model gets.
    values
        (N,) float64: upper bounds of the value of the property there, see `confirm`.
    violated
        (N,) bool: where the point is a counterexample, see `confirm`.
    """

    points: np.ndarray
    values: np.ndarray
    violated: np.ndarray


def attack(
    engine: Engine,
    region: Region,
    rows: np.ndarray,
    limits: np.ndarray,
    constants: Sequence[np.ndarray] = (),
    *,
    nb_steps: int = 40,
    restarts: int = 8,
    seed: int = 0,
    deadline: float = math.inf,
) -> Attacked:
    """Look for points of N regions that violate a property.

    Random points first; then ascents, from those nearest to a violation of each conjunction, and
    from other random points and corners. A region is left alone once a counterexample is found.

    Parameters
    ----------
    engine
        The network.
    region
        N regions.
    rows, limits
        (N, P, J, K) and (N, P, J): a property, see `Verifier.decide`.
    constants
        The inputs that do not vary, (N, *shape) each.
    nb_steps, restarts
        Of the ascents.
    seed
        Of the random points, which are the same for all regions.
    deadline
        As `time.monotonic` tells the time: nothing is begun behind it.

    No guarantee
    ------------
    What the attack does not find may exist all the same.
    """
    search = Attack(engine, region, rows, limits, constants, seed)
    first, at_once = 0, 1
    search.sample(deadline)
    while first < restarts and search.open.any():
        last = min(first + at_once, restarts)
        search.climb(range(first, last), nb_steps, deadline)
        search.breed(first, deadline)
        first, at_once = last, max(1, last)  # twice as many at a time
    return search.result()


class Attack:
    """What is known of N regions while they are attacked.

    Parameters
    ----------
    engine, region, rows, limits, constants, seed
        See `attack`.

    Attributes
    ----------
    open
        (N,) bool: which regions are still attacked: those without a counterexample, of which there
        may be one.
    """

    def __init__(
        self,
        engine: Engine,
        region: Region,
        rows: np.ndarray,
        limits: np.ndarray,
        constants: Sequence[np.ndarray],
        seed: int,
    ) -> None:
        self._engine, self._stated, self._seed = engine, region, seed
        self._rows, self._limits = rows, limits
        self._dtype = given_type(engine)
        self._constants = [np.asarray(array).astype(self._dtype) for array in constants]
        lower, upper = inner_box(region, self._dtype)
        center = np.clip(region.center.astype(self._dtype), lower, upper)
        radius = None if math.isinf(region.norm) else region.epsilon
        self._region = Region(center, lower, upper, radius, region.norm)
        nb_regions, nb_features = len(region), math.prod(region.shape)
        number, fewest, most = _NB_RANDOM
        shares = self._shares(0, min(most, max(fewest, number // nb_features)))
        self._shares_tried = np.concatenate([np.full((1, *region.shape), np.nan), shares])
        # (N, T, P): which of them are nearest to a violation of each conjunction
        nb_best = min(_NB_BEST, len(self._shares_tried))
        self._order = np.zeros((nb_regions, nb_best, limits.shape[1]), np.int32)
        self._reached = np.full(limits.shape[:2], np.inf)  # (N, P): the least values
        self._points, self._least = center.copy(), np.full(nb_regions, np.inf)  # (N, *input), (N,)
        self._sizes = np.zeros(nb_regions)  # of the outputs, (N,)
        self._tried = np.full(nb_regions, np.inf)  # (N,): the least values that were confirmed
        self._values, self._violated = np.full(nb_regions, np.inf), np.zeros(nb_regions, bool)
        self._possible = np.all(limits > -np.inf, axis=2)  # (N, P)
        between = np.all((lower <= upper).reshape(nb_regions, -1), axis=1)
        self.open: np.ndarray = self._possible.any(axis=1) & between
        entries = sum(math.prod(node.shape) for node in engine.graph.nodes)
        self._nb_at_once = min(
            max(16, _NB_ENTRIES // entries), engine.budget.nb_samples(engine.graph)
        )

    def result(self) -> Attacked:
        """What was found."""
        self._confirm(np.flatnonzero(~self._violated), always=True)
        return Attacked(self._points, self._values, self._violated)

    def look_at(self, points: np.ndarray, places: np.ndarray) -> None:
        """Whether points (M, *input) near some of the regions, (M,) int, are counterexamples."""
        for some in in_batches(np.flatnonzero(self.open[places]), self._nb_at_once):
            own, region = places[some], self._region[places[some]]
            moved = region.project(points[some].astype(self._dtype))
            outputs = self._outputs(moved, own)
            values = [self._values_of(n, outputs[[i]]).min() for i, n in enumerate(own)]
            self._keep_best(moved, np.array(values), own)
            self._confirm(np.unique(own))

    def _keep_best(self, points: np.ndarray, values: np.ndarray, places: np.ndarray) -> None:
        """Note points (B, *input) of values (B,) where they are the worst so far of a region."""
        for place in np.unique(places):
            own = np.flatnonzero(places == place)
            best = own[values[own].argmin()]
            if values[best] < self._least[place]:
                self._least[place], self._points[place] = values[best], points[best]

    # --- random points ----------------------------------------------------------------------------

    def sample(self, deadline: float) -> None:
        """Look at the centers, at random points and at corners."""
        for some in self._in_turn(len(self._shares_tried), deadline):
            self._sample(some)
            self._confirm(some)

    def _in_turn(self, nb_points: int, deadline: float) -> Iterator[np.ndarray]:
        """Open regions, of which so many points each are looked at together."""
        step = max(1, self._nb_at_once // nb_points)
        for some in in_batches(np.flatnonzero(self.open), step):
            if time.monotonic() > deadline:
                return
            yield some

    def _sample(self, some: np.ndarray) -> None:
        """Look at the random points of some of the regions."""
        region, nb_points = self._region[some], len(self._shares_tried)
        values = []
        for first in range(0, nb_points, self._nb_at_once):
            numbers = range(first, min(first + self._nb_at_once, nb_points))
            points = np.concatenate([self._start(region, number) for number in numbers])
            outputs = self._outputs(points, np.tile(some, len(numbers)))
            outputs = outputs.reshape(len(numbers), len(some), -1)  # (S, n, K)
            self._sizes[some] = np.fmax(self._sizes[some], np.abs(outputs).max(axis=(0, 2)))
            values.append([self._values_of(n, outputs[:, i]) for i, n in enumerate(some)])
        found = np.concatenate(values, axis=1)  # (n, S, P)
        self._order[some] = np.argsort(found, axis=1)[:, : self._order.shape[1]]
        self._reached[some] = found.min(axis=1)
        best = found.min(axis=2).argmin(axis=1)  # (n,)
        for number in np.unique(best):
            own = best == number
            points = self._start(region[own], number)
            self._keep_best(points, found[own, number].min(axis=1), some[own])

    def breed(self, turn: int, deadline: float) -> None:
        """Of few features: random points, and others near the best of them, ever nearer.

        Where outputs are constant in parts of a region, gradients lead nowhere.
        """
        if math.prod(self._region.shape) > _FEW_FEATURES:
            return
        for some in self._in_turn(_NB_ELITES * _NB_CHILDREN, deadline):
            self._breed(some, turn)
            self._confirm(some)

    def _breed(self, some: np.ndarray, turn: int) -> None:
        """The same for some of the regions."""
        region, number = self._region[some], np.arange(len(some))
        generator = np.random.default_rng([self._seed, 1, turn])
        points = self._points[some][None]  # (S, n, *input)
        shape = (_NB_CHILDREN * _NB_ELITES, 1, *region.shape)
        children = region.lower + generator.random(shape) * (region.upper - region.lower)
        values = self._least[some][None]  # (S, n)
        for generation in range(_NB_GENERATIONS):
            children = region.project(children.astype(self._dtype))
            points = np.concatenate([points, children])
            values = np.concatenate([values, self._worst_of(some, children)])
            best = np.argsort(values, axis=0, kind="stable")[:_NB_ELITES]
            points, values = points[best, number], values[best, number]
            if (values[0] < 0).all():
                break
            steps = generator.standard_normal(shape) * (generator.random(shape) < 0.6)
            steps = 0.25 * 0.8**generation * steps * (region.upper - region.lower)
            children = np.tile(points, (_NB_CHILDREN, 1, *[1] * len(region.shape))) + steps
        self._keep_best(points[0], values[0], some)

    def _worst_of(self, some: np.ndarray, points: np.ndarray) -> np.ndarray:
        """min_p max_j (rows @ f - limits) (S, n) at points (S, n, *input) of some regions."""
        places = np.tile(some, len(points))
        outputs = self._outputs(points.reshape(-1, *self._region.shape), places)
        outputs = outputs.reshape(len(points), len(some), -1)
        found = [self._values_of(n, outputs[:, i]).min(axis=1) for i, n in enumerate(some)]
        return np.stack(found, axis=1)

    def _values_of(self, place: int, outputs: np.ndarray) -> np.ndarray:
        """max_j (rows @ f - limits) (S, P) for outputs f (S, K) in one of the regions."""
        rows, limits = np.asarray(self._rows[place], np.float64), self._limits[place]
        with np.errstate(invalid="ignore"):
            values = outputs @ rows.reshape(-1, rows.shape[-1]).T
            values = (values.reshape(-1, *limits.shape) - limits).max(axis=2)
        return np.where(np.isnan(values), np.inf, values)

    def _start(self, region: Region, number: int) -> np.ndarray:
        """One of the random points in each region; the center first."""
        return region.center if number == 0 else random_start(region, self._shares_tried[number])

    def _shares(self, stream: int, count: int) -> np.ndarray:
        """Shares (count, *input) of the sides of a box: random ones and corners in turn."""
        generator = np.random.default_rng([self._seed, stream])
        shares = generator.random((count, *self._region.shape))
        shares[1::2] = np.round(shares[1::2])
        return shares

    def _outputs(self, points: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Outputs (B, K) float64 of the network at points of some regions, in the model's type."""
        graph = self._engine.graph
        shapes = [node.shape for node in graph.nodes[: graph.nb_inputs]]
        signature = [((None, *shape), self._dtype) for shape in shapes]
        outputs_at = self._engine.compiled(
            ("outputs", self._dtype), lambda *inputs: graph.evaluate(inputs), signature
        )
        with backend.full_precision():
            inputs = [points, *(constant[places] for constant in self._constants)]
            found = np.asarray(outputs_at(*inputs, share=self._share(0.1)))
        return found.astype(np.float64).reshape(len(points), -1)

    # --- ascents ----------------------------------------------------------------------------------

    def climb(self, restarts: range, nb_steps: int, deadline: float) -> None:
        """Ascents of all regions that are open, from some of the starts."""
        places, aims, numbers = self._starts(restarts)
        batch = np.arange(0)
        while len(places) and time.monotonic() <= deadline:
            batch = np.arange(min(len(places), self._nb_at_once))
            self._climb(places[batch], aims[batch], numbers[batch], nb_steps)
            self._confirm(np.unique(places[batch]))
            left = np.array(self.open[places])
            left[batch] = False
            places, aims, numbers = places[left], aims[left], numbers[left]

    def _starts(self, restarts: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of region, conjunction and restart, (B,) each, of the ascents to make."""
        starts = []
        for number in restarts:
            for place in np.flatnonzero(self.open):
                nearest = np.argsort(self._reached[place], kind="stable")
                nearest = nearest[self._possible[place][nearest]]
                for aim in nearest[: None if number == 1 else _NB_AIMS]:
                    starts.append((place, aim, number))
        found = np.array(starts, np.int64).reshape(-1, 3)
        return found[:, 0], found[:, 1], found[:, 2]

    def _climb(
        self, places: np.ndarray, aims: np.ndarray, numbers: np.ndarray, nb_steps: int
    ) -> None:
        """Ascents towards conjunctions (B,) in regions (B,), from the given starts (B,)."""
        region = self._region[places]
        points, steps = np.empty((len(places), *region.shape), self._dtype), np.empty(len(places))
        for number in np.unique(numbers):
            some = np.flatnonzero(numbers == number)
            steps[some] = _STEPS[number % len(_STEPS)]
            self._put_starts(points, some, places[some], aims[some], number)
        rows = np.stack([np.asarray(self._rows[n, p]) for n, p in zip(places, aims)])  # (B, J, K)
        limits = self._limits[places, aims]  # (B, J)
        points, values = self._ascend(region, points, steps, rows, limits, places, nb_steps)
        better = values < self._reached[places, aims]
        np.minimum.at(self._reached, (places[better], aims[better]), values[better])
        self._keep_best(points, values, places)

    def _put_starts(
        self,
        points: np.ndarray,
        some: np.ndarray,
        places: np.ndarray,
        aims: np.ndarray,
        number: int,
    ) -> None:
        """Where a restart begins, in some rows of the points (B, *input)."""
        turn, kind = divmod(number, 4)
        if kind in (1, 3) and number > 1:
            points[some] = self._points[places]
        elif kind == 2 and turn % 2 == 0:
            shares = self._shares(number, 2)[turn // 2 % 2]
            points[some] = random_start(self._region[places], shares)
        else:
            nearest = number // 2 % self._order.shape[1]
            which = self._order[places, nearest, aims]
            for one in np.unique(which):
                same = which == one
                points[some[same]] = self._start(self._region[places[same]], one)

    def _ascend(
        self,
        region: Region,
        points: np.ndarray,
        steps: np.ndarray,
        rows: np.ndarray,
        limits: np.ndarray,
        places: np.ndarray,
        nb_steps: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best points of ascents from points (B, *input) by steps (B,), and their values."""
        graph, dtype = self._engine.graph, self._dtype
        norm, arrays = arrays_of(region)
        inputs = [node.shape for node in graph.nodes[: graph.nb_inputs]]
        signature = [
            *[((None, *inputs[0]), dtype)] * 5,
            ((), "int32"),
            ((None, *[1] * len(inputs[0])), dtype),
            ((), "float32"),
            ((None, None, rows.shape[-1]), dtype),
            ((None, None), dtype),
            ((None,), dtype),
            *[((None, *shape), dtype) for shape in inputs[1:]],
        ]
        loop = partial(ascend, partial(_depth, graph), norm)
        with np.errstate(invalid="ignore"):
            finite = np.where(np.isfinite(limits), np.abs(limits), 0.0)
            size = np.abs(rows).sum(axis=2) * self._sizes[places, None] + finite
            size = np.maximum(size.max(axis=1), 1e-30)  # (B,)
        given = [rows, limits, size, *(constant[places] for constant in self._constants)]
        with backend.full_precision():
            found, depth = self._engine.compiled(("attack", norm, dtype), loop, signature)(
                *(array.astype(dtype) for array in (*arrays, points)),
                np.int32(nb_steps),
                as_column(steps, points).astype(dtype),
                np.float32(_ENOUGH),
                *(array.astype(dtype) for array in given),
                share=self._share(0.015 * nb_steps),
            )
        depth = np.asarray(depth).astype(np.float64)
        return np.asarray(found), -depth * size

    def _share(self, share: float) -> float:
        """What a call takes uncompiled, as a share of what it takes to compile it."""
        if self._engine.compile == "auto":
            return share
        return math.inf if self._engine.compile else 0.0

    def _confirm(self, places: np.ndarray, always: bool = False) -> None:
        """Close regions whose points are counterexamples; those that may be, or all."""
        if not always:
            least = self._least[places]
            places = places[(least <= 0) & (least < self._tried[places])]
        if len(places):
            self._tried[places] = self._least[places]
            self._points[places], self._values[places], self._violated[places] = confirm(
                self._engine,
                self._stated[places],
                self._points[places],
                self._rows[places],
                self._limits[places],
                [constant[places] for constant in self._constants],
            )
            self.open &= ~self._violated


def _depth(
    graph: Graph, points: Any, rows: Any, limits: Any, size: Any, *constants: Any
) -> tuple[Any, Any]:
    """How far conjunctions are violated, and what is climbed to violate them, (B,) each."""
    outputs = ops.reshape(graph.evaluate([points, *constants]), (-1, 1, rows.shape[-1]))
    values = ops.sum(rows * outputs, axis=2) - limits  # (B, J)
    worst = ops.max(values, axis=1)
    climbed = worst + ops.sum(ops.relu(values), axis=1)  # all that are still above their limits
    return ops.cast(-worst / size, "float32"), -climbed
