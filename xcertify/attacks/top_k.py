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
from xcertify.regions import Ball, as_column, as_norm, valid_range
from xcertify.settings import Settings

Maps = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_SOFTNESS = 0.02  # of the smooth gap, in standard deviations of the map


class MinimalTopK(Settings):
    """Search for the smallest perturbation after which the top k are not among the top k2.

    The radius is bisected, for all samples side by side; at the end the segment from the nominal
    input to the point that was found is bisected, too.

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
        with self._lock:
            return self._search(inputs, data, top, k2, smallest, largest)

    def _search(
        self,
        inputs: np.ndarray,
        data: np.ndarray,
        top: np.ndarray,
        k2: int,
        smallest: np.ndarray,
        largest: float,
    ) -> MinimalResult:
        place = int(k2) - int(top[0].sum()) + 1
        low, high = np.array(smallest, float), np.full(len(inputs), float(largest))
        points = np.array(inputs)
        for halving in range(1 + self.nb_halvings):
            radius = np.sqrt(low * high) if halving else low.copy()
            missing = np.arange(len(inputs))
            for ascent in self._derive("ascents", self._ascents):
                self._data.assign(data[missing])
                self._top.assign(top[missing])
                self._place.assign(place)
                radii = as_column(radius[missing], inputs)
                region = Ball(inputs[missing], radii, self.norm, self.clip)
                found = ascent(region, stop_above=0.0).points
                moved = self._moved(found, data[missing], top[missing], place)
                points[missing[moved]] = found[moved]
                high[missing[moved]] = radius[missing[moved]]
                missing = missing[~moved]
                if not len(missing):
                    break
            low[missing] = radius[missing]
        points = self._nearest(inputs, points, data, top, place)
        moved = self._moved(points, data, top, place)
        steps = (points.astype(np.float64) - inputs).reshape(len(inputs), -1)
        distances = np.where(moved, np.linalg.norm(steps, self.norm, axis=1), np.inf)
        return MinimalResult(points, distances)

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

    def _nearest(
        self,
        inputs: np.ndarray,
        points: np.ndarray,
        data: np.ndarray,
        top: np.ndarray,
        place: int,
    ) -> np.ndarray:
        """The first points found to count on the segments to the given ones."""
        inside, outside = np.zeros(len(inputs)), np.ones(len(inputs))
        steps, best = points.astype(np.float64) - inputs, points
        low, high = -np.inf, np.inf
        if self.clip is not None:
            low, high = valid_range(self.clip, inputs.shape, inputs.dtype)
        for _ in range(self.nb_halvings):
            middle = (inside + outside) / 2
            share = as_column(middle, inputs)
            tried = np.clip((inputs + share * steps).astype(inputs.dtype), low, high)
            moved = self._moved(tried, data, top, place)
            best = np.where(moved.reshape(share.shape), tried, best)
            inside, outside = np.where(moved, inside, middle), np.where(moved, middle, outside)
        return best

    def _moved(
        self, points: np.ndarray, data: np.ndarray, top: np.ndarray, place: int
    ) -> np.ndarray:
        """Whether a cell of the top k is not among the top k2, (N,)."""
        size = self.batch_size
        some = (slice(first, first + size) for first in range(0, len(points), size))
        maps = np.concatenate([self.exact(points[part], data[part]) for part in some])
        others = np.sort(np.where(top, -np.inf, maps), axis=1)[:, -place]
        slack = np.abs(maps).max(axis=1) * relative_allowance(points[0].size)
        return others - np.where(top, maps, np.inf).min(axis=1) > slack

    def _at(self, points: tf.Tensor, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Maps, which cells were the top k, and the gap, positive where one has surely left."""
        top = tf.gather(self._top, samples)
        maps = self.maps(points, tf.gather(self._data, samples))
        others = tf.math.top_k(tf.where(top, -np.inf, maps), self._place).values[:, -1]
        gap = others - tf.reduce_min(tf.where(top, maps, np.inf), axis=1)
        # twice what `_moved` asks for, since these maps are rounded, too
        slack = 2 * relative_allowance(math.prod(points.shape[1:]))
        return maps, top, gap - slack * tf.reduce_max(abs(maps), axis=1)

    def _gap(self, points: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        return self._at(points, samples)[2]

    def _smooth_gap(self, points: tf.Tensor, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        maps, top, gap = self._at(points, samples)
        scaled = tf.math.divide_no_nan(maps, _SOFTNESS * tf.math.reduce_std(maps, 1, True))
        highest = tf.reduce_logsumexp(tf.where(top, -np.inf, scaled), axis=1)
        return gap, highest + tf.reduce_logsumexp(tf.where(top, -scaled, -np.inf), axis=1)

    def _sum(self, points: tf.Tensor, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        _, top, gap = self._at(points, samples)
        smooth = self.maps if self.smooth is None else self.smooth
        maps = smooth(points, tf.gather(self._data, samples))
        return gap, -tf.reduce_sum(tf.where(top, maps, tf.zeros_like(maps)), axis=1)


def _free_variable(dtype: tf.DType) -> tf.Variable:
    shape = tf.TensorShape([None, None])
    return tf.Variable(tf.zeros((1, 1), dtype), shape=shape, trainable=False)
