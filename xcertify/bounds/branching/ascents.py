"""Projected gradient ascents towards violations of a property."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from xcertify.ascent import arrays_of, ascend, random_start
from xcertify.bounds import backend
from xcertify.bounds.branching.attacked import Attacked
from xcertify.bounds.branching.random_points import RandomPoints
from xcertify.bounds.graph.graph import Graph
from xcertify.regions import as_column

_STEPS = 0.5, 0.1, 0.5, 0.02  # lengths of the first steps of restarts in turn, of the radius
_ENOUGH = 1e-5  # a violation of this size, relative to the outputs, is not climbed any further
_NB_AIMS, _MORE_AIMS = 4, 32  # the nearest conjunctions that restarts try; the second tries more
_GIVEN_AIMS = 2  # the same from points that are given, which are near a violation already
_SHARE_OF_STEP = 0.015  # a step uncompiled takes this share of the time to compile the loop


class Ascents:
    """Ascents towards violations of the conjunctions of each region.

    Parameters
    ----------
    attacked
        The regions; takes what is found.
    random_points
        Where ascents begin.
    nb_steps
        Of each.
    """

    def __init__(self, attacked: Attacked, random_points: RandomPoints, nb_steps: int) -> None:
        self._attacked, self._random, self._nb_steps = attacked, random_points, nb_steps
        self._nb_aims = [_GIVEN_AIMS] * 2 if random_points.are_given else [_NB_AIMS, _MORE_AIMS]

    def climb(self, restarts: range, deadline: float) -> None:
        """Ascents of all regions that are open, from some of the starts."""
        attacked = self._attacked
        starts = np.concatenate([self._starts(number) for number in restarts])  # (B, 3)
        while len(starts) and time.monotonic() <= deadline:
            batch = starts[: attacked.nb_at_once]
            self._climb(*batch.T)
            attacked.confirm(np.unique(batch[:, 0]))
            starts = starts[len(batch) :]
            starts = starts[np.array(attacked.open[starts[:, 0]])]

    def _starts(self, number: int) -> np.ndarray:
        """Of a restart the ascents to make, (B, 3) int: region, conjunction, restart."""
        attacked = self._attacked
        places = np.flatnonzero(attacked.open)
        reached = attacked.reached[places]
        aims = np.argsort(reached, axis=1, kind="stable")
        aims = aims[:, : self._nb_aims[number == 1]]
        starts = np.stack(np.broadcast_arrays(places[:, None], aims, number), axis=2)
        return starts[attacked.possible[places[:, None], aims]]

    def _climb(self, places: np.ndarray, aims: np.ndarray, numbers: np.ndarray) -> None:
        """Ascents towards conjunctions (B,) in regions (B,), of restarts (B,)."""
        attacked = self._attacked
        points = np.empty((len(places), *attacked.region.shape), attacked.dtype)
        for number in np.unique(numbers):
            own = numbers == number
            points[own] = self._points(number, places[own], aims[own])
        steps = np.array(_STEPS)[numbers % len(_STEPS)]
        points, values = self._ascend(places, aims, points, steps)
        np.minimum.at(attacked.reached, (places, aims), values)
        attacked.keep_worst(points, values, places)

    def _points(self, number: int, places: np.ndarray, aims: np.ndarray) -> np.ndarray:
        """Where a restart begins, (B, *input)."""
        attacked, turn, kind = self._attacked, *divmod(number, 4)
        if kind in (1, 3) and number > 1:
            return attacked.points[places]
        if kind == 2 and turn % 2 == 0:
            shares = self._random.shares(number, 2)[turn // 2 % 2]
            return random_start(attacked.region[places], shares)
        order = self._random.order
        which = order[places, number // 2 % order.shape[1], aims]
        points = np.empty((len(places), *attacked.region.shape), attacked.dtype)
        for one in np.unique(which):
            own = which == one
            points[own] = self._random.start(attacked.region[places[own]], places[own], one)
        return points

    def _ascend(
        self, places: np.ndarray, aims: np.ndarray, points: np.ndarray, steps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best points of ascents from points (B, *input) by steps (B,), and their values."""
        attacked = self._attacked
        engine, dtype = attacked.engine, attacked.dtype
        norm, arrays = arrays_of(attacked.region[places])
        rows, limits = attacked.rows[places, aims], attacked.limits[places, aims]  # (B, J, ...)
        finite = np.where(np.isfinite(limits), np.abs(limits), 0.0)
        size = np.abs(rows).sum(axis=2) * attacked.sizes[places, None] + finite
        size = np.maximum(size.max(axis=1), 1e-30)  # (B,)
        given = [rows, limits, size, *(constant[places] for constant in attacked.constants)]
        shape, *others = engine.input_shapes
        signature = [
            *[((None, *shape), dtype)] * 5,
            ((), "int32"),
            ((None, *[1] * len(shape)), dtype),
            ((), "float32"),
            ((None, None, rows.shape[-1]), dtype),
            ((None, None), dtype),
            ((None,), dtype),
            *[((None, *other), dtype) for other in others],
        ]
        loop = partial(ascend, partial(_depth, engine.graph), norm)
        with backend.full_precision():
            found, depth = engine.compiled(("attack", norm, dtype), loop, signature)(
                *(array.astype(dtype) for array in (*arrays, points)),
                np.int32(self._nb_steps),
                as_column(steps, points).astype(dtype),
                np.float32(_ENOUGH),
                *(array.astype(dtype) for array in given),
                share=attacked.share(_SHARE_OF_STEP * self._nb_steps),
            )
        return np.asarray(found), -np.asarray(depth).astype(np.float64) * size


def _depth(
    graph: Graph, points: Any, rows: Any, limits: Any, size: Any, *constants: Any
) -> tuple[Any, Any]:
    """How far conjunctions are violated, and what is climbed to violate them, (B,) each."""
    outputs = ops.reshape(graph.evaluate([points, *constants]), (-1, 1, rows.shape[-1]))
    values = ops.sum(rows * outputs, axis=2) - limits  # (B, J)
    worst = ops.max(values, axis=1)
    climbed = worst + ops.sum(ops.relu(values), axis=1)  # all that are still above their limits
    return ops.cast(-worst / size, "float32"), -climbed
