"""The smallest perturbation that moves one of the most important cells of a map out of them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.attacks.ascent import PGD
from xcertify.attacks.minimal import MinimalResult
from xcertify.attacks.roundings import relative_allowance
from xcertify.radii import RadiusSearch
from xcertify.regions import Ball, Region, as_column, as_norm, valid_range
from xcertify.settings import Settings

Maps = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_SOFTNESS = 0.02  # of the smooth gap, in standard deviations of the map


class MinimalTopK(Settings):
    """Search for the smallest perturbation after which the top k are not among the top k2.

    The radius is bisected (`RadiusSearch`), for all samples side by side; at the end the segment
    from the nominal input to the point that was found is bisected, too.

    Parameters
    ----------
    maps
        (points (B, *shape), data (B, D)) -> maps (B, S), of TensorFlow operations; `data` is what
        belongs to the sample of each point.
    exact
        The same of NumPy arrays, in float64: what decides whether a point counts. A cell must have
        left by more than what float32 can be expected to round (`xcertify.attacks.roundings`, as a
        share of the largest cell), so that it has left in the model's own arithmetic, too.
    smooth
        `maps` of a smoothed network, climbed by "sum". None: `maps`.
    climb
        What is climbed within a radius. "gap": the largest of the other cells (for k2 > k the one
        in place k2 - k + 1) minus the smallest of the top k; first smoothly, so that several cells
        move together, then itself. "sum": minus the sum of the top k (Ghorbani et al.).
    norm
        inf, 2 or 1: how a perturbation is measured.
    clip
        Valid range of the inputs, as for `Ball`.
    steps, step_size
        Of the ascent within a radius, as for `PGD`.
    nb_halvings
        Of the logarithm of the radius, and of the segment at the end.
    batch_size
        Number of points that are attacked at once.

    Raises
    ------
    ValueError
        For an unknown `climb`, and what `PGD` and `Ball` refuse.

    No guarantee
    ------------
    Nearer points may exist.

    References
    ----------
    Ghorbani, Abid, Zou: Interpretation of Neural Networks is Fragile, AAAI 2019; Gu et al.:
    Certified Interpretability Robustness for Class Activation Mapping, 2020 (Algorithm 1).
    """

    def __init__(
        self,
        maps: Maps,
        exact: Callable[[np.ndarray, np.ndarray], np.ndarray],
        smooth: Maps | None = None,
        *,
        climb: str = "gap",
        norm: float = np.inf,
        clip: tuple[Any, Any] | None = None,
        steps: int = 50,
        step_size: float = 0.5,
        nb_halvings: int = 10,
        batch_size: int = 512,
    ) -> None:
        if climb not in ("gap", "sum"):
            raise ValueError(f"climb must be 'gap' or 'sum'. Received: {climb!r}")
        self.maps, self.exact, self.smooth, self.climb = maps, exact, smooth, climb
        self.norm, self.clip, self.nb_halvings = as_norm(norm), clip, nb_halvings
        self.steps, self.step_size, self.batch_size = steps, step_size, batch_size
        # Variables, so that a call with other samples does not compile anew; one call at a time.
        self._data = _free_variable(tf.float32)
        self._top = _free_variable(tf.bool)
        self._place = tf.Variable(1, trainable=False)
        self._lock = threading.Lock()

    def __call__(
        self,
        inputs: np.ndarray,
        data: np.ndarray,
        top: np.ndarray,
        k2: int,
        smallest: np.ndarray,
        largest: float,
    ) -> MinimalResult:
        """Search around every input.

        Parameters
        ----------
        inputs
            (N, *shape).
        data
            (N, D), handed to the maps.
        top
            (N, S) bool: the cells that are the top k.
        k2
            Among how many they have to stay.
        smallest
            (N,) radii above 0 up to which nothing should be found, as certified ones; they are
            tried first, and further ones from there on.
        largest
            Largest radius that is tried.
        """
        place = int(k2) - int(top[0].sum()) + 1
        allowed = relative_allowance(math.prod(inputs.shape[1:]))
        points = np.array(inputs)
        search = RadiusSearch(
            smallest,
            np.maximum(smallest, largest),
            nb_halvings=self.nb_halvings,
            test_low=True,
            batch_size=self.batch_size,
        )
        for samples, radii in search:
            region = Ball(inputs[samples], as_column(radii, inputs), self.norm, self.clip)
            held = np.ones(len(samples), bool)
            for ascent in self._derive("ascents", self._ascents):
                tried = np.flatnonzero(held)
                some = samples[tried]
                found = self._climb(ascent, region[tried], data[some], top[some], place)
                left = has_left(self.exact(found, data[some]), top[some], place, allowed)
                points[some[left]] = found[left]
                held[tried[left]] = False
                if not held.any():
                    break
            search.answer(held)

        moved = np.flatnonzero(np.isfinite(search.broken))
        steps = points.astype(np.float64) - inputs
        search = RadiusSearch(
            np.zeros(len(moved)),
            1.0,
            nb_halvings=self.nb_halvings,
            linear=True,
            batch_size=self.batch_size,
        )
        for numbers, shares in search:
            some = moved[numbers]
            found = inputs[some] + as_column(shares, inputs) * steps[some]
            found = self._in_range(found.astype(inputs.dtype))
            left = has_left(self.exact(found, data[some]), top[some], place, allowed)
            points[some[left]] = found[left]
            search.answer(~left)
        steps = (points.astype(np.float64) - inputs).reshape(len(inputs), -1)
        distances = np.full(len(inputs), np.inf)
        distances[moved] = np.linalg.norm(steps[moved], self.norm, axis=1)
        return MinimalResult(points, distances)

    def _in_range(self, points: np.ndarray) -> np.ndarray:
        """Points (B, *shape) that rounding has moved out of the valid range, back in it."""
        if self.clip is None:
            return points
        return np.clip(points, *valid_range(self.clip, points.shape, points.dtype))

    def _climb(
        self, ascent: PGD, region: Region, data: np.ndarray, top: np.ndarray, place: int
    ) -> np.ndarray:
        """The best points of some balls, (B, *shape)."""
        with self._lock:
            self._data.assign(data)
            self._top.assign(top)
            self._place.assign(place)
            return ascent(region, stop_above=0.0).points

    def _ascents(self) -> list[PGD]:
        climbed = {"gap": (self._smooth_gap, self._gap), "sum": (self._sum,)}[self.climb]
        return [
            PGD(
                objective=objective,
                steps=self.steps,
                step_size=self.step_size,
                batch_size=self.batch_size,
            )
            for objective in climbed
        ]

    def _at(self, points: tf.Tensor, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Maps (B, S), their top k (B, S), and a gap (B,), positive where one has surely left."""
        maps, top = self.maps(points, tf.gather(self._data, samples)), tf.gather(self._top, samples)
        # Twice what counts in the end, since these maps are rounded, too.
        allowed = 2 * relative_allowance(math.prod(points.shape[1:]))
        return maps, top, gap_to_top(maps, top, self._place, allowed)

    def _gap(self, points: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        return self._at(points, samples)[2]

    def _smooth_gap(self, points: tf.Tensor, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        maps, top, gap = self._at(points, samples)
        return gap, smooth_gap_to_top(maps, top)

    def _sum(self, points: tf.Tensor, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        _, top, gap = self._at(points, samples)
        smooth = self.maps if self.smooth is None else self.smooth
        maps = smooth(points, tf.gather(self._data, samples))
        return gap, -tf.reduce_sum(tf.where(top, maps, tf.zeros_like(maps)), axis=1)


def gap_to_top(maps: tf.Tensor, top: tf.Tensor, place: Any, allowed: float) -> tf.Tensor:
    """By how much a cell of the top k has surely left the top k2, (B,); negative where none has.

    ``max_j map[j] - min_i map[i] - allowed max |map|`` for i of the top k and j of the others; with
    a larger `place` it is not the largest of the others, but the one in that place.

    Parameters
    ----------
    maps
        (B, S).
    top
        (B, S) bool: the cells that were the top k.
    place
        k2 - k + 1.
    allowed
        What roundings can be expected to cost, as a share of the largest cell.
    """
    infinite = tf.constant(np.inf, maps.dtype)
    others = tf.math.top_k(tf.where(top, -infinite, maps), place).values[:, -1]
    least = tf.reduce_min(tf.where(top, maps, infinite), axis=1)
    return others - least - allowed * tf.reduce_max(abs(maps), axis=1)


def smooth_gap_to_top(maps: tf.Tensor, top: tf.Tensor) -> tf.Tensor:
    """The gap with log-sum-exp for max and min, by which several cells move together, (B,)."""
    scaled = tf.math.divide_no_nan(maps, _SOFTNESS * tf.math.reduce_std(maps, 1, True))
    highest = tf.reduce_logsumexp(tf.where(top, -np.inf, scaled), axis=1)
    return highest + tf.reduce_logsumexp(tf.where(top, -scaled, -np.inf), axis=1)


def has_left(maps: np.ndarray, top: np.ndarray, place: int, allowed: float) -> np.ndarray:
    """Where a cell of the top k has left the top k2, by maps in float64, (B,) bool."""
    return gap_to_top(tf.constant(maps), tf.constant(top), place, allowed).numpy() > 0


def _free_variable(dtype: tf.DType) -> tf.Variable:
    shape = tf.TensorShape([None, None])
    return tf.Variable(tf.zeros((1, 1), dtype), shape=shape, trainable=False)
