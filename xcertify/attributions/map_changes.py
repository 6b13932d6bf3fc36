"""How far the map of an input can change within a region: proved, and attained by an attack.

For explainers whose maps are made of gradients: a `GradientMean`, perhaps its magnitude, and the
reduction of channels. All of these are bounded by what `Verifier.bound_gradient` proves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.attacks import CriterionAttack
from xcertify.attacks.maps import Explanation
from xcertify.attacks.roundings import relative_allowance
from xcertify.attributions.base import REDUCERS, ScoreExplainer, reduce_channels
from xcertify.attributions.gradient_means import GradientMean, bound_explanations
from xcertify.bounds import Verifier
from xcertify.criteria import DISTANCES, Within, farthest, magnitudes, nearest
from xcertify.models import refuse_channels_first
from xcertify.radii import Interval, compare_bounds
from xcertify.regions import Ball, Region

_SLACK = 1e-12  # covers sums in float64


class BoundedMaps(ScoreExplainer):
    """An explainer whose maps over a region can be bounded; a subclass implements `_mean`."""

    reducer: str | None
    _is_magnitude = False  # whether a map is the magnitude of what `_mean` gives

    @property
    def network(self) -> Any:
        """What is explained: the model."""
        return self.model

    def _mean(self, shape: tuple[int, ...]) -> GradientMean:
        """What maps of inputs of a shape are made of, before magnitudes and the reduction."""
        raise ValueError(
            f"the maps of {type(self).__name__} over a region cannot be bounded; those of "
            f"Saliency, GradientInput, IntegratedGradients, SmoothGrad, CertifiedGradient and "
            f"AttributionBound can. AverageStability measures any explainer by samples. "
            f"Received: {self!r}"
        )

    def bound_maps(
        self, region: Region, targets: Any = None, *, method: str = "crown", dtype: str = "float32"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the maps of all points of regions.

        Parameters
        ----------
        region
            N regions of inputs.
        targets
            As for `explain`; None: the classes predicted at the centers.
        method
            As for `Verifier.bound_gradient`.
        dtype
            Type of the bounds' own computation, "float32" or "float64".

        Returns
        -------
        lower, upper
            Of the shape of the maps of `explain`, float64.

        Raises
        ------
        ValueError
            For an explainer of an `operator` or `output_layer`, and for models that take channels
            first.
        UnsupportedLayerError
            For a model whose gradients cannot be bounded.

        Guarantee
        ---------
        That of `Verifier.bound_gradient`: no point of a region has a map outside, in real
        arithmetic, whatever subgradient is taken at a kink.
        """
        _, weights = self._prepare(region.center, targets)
        return self._bounds_of_maps(region, weights, method, dtype)

    def largest_change(
        self,
        region: Region,
        targets: Any = None,
        *,
        distance: str = "l2",
        method: str = "crown",
        steps: int = 20,
        restarts: int = 3,
        nb_samples: int = 20,
        seed: int = 0,
    ) -> Interval:
        """The largest distance of the map of any point of a region to that of its center.

        Parameters
        ----------
        region, targets, method
            As for `bound_maps`.
        distance
            "l1", "l2" or "linf".
        steps, restarts, seed
            Of the attack, as for `CriterionAttack`.
        nb_samples
            Number of random points of each region that are tried beside the attack.

        Returns
        -------
        interval
            Of the largest distance: `certified` is an upper bound of it, `attacked` the largest one
            that was found, (N,) each.

        Raises
        ------
        ContradictionError
            If a point is found that is farther than is certified, also in float64: a bug, to be
            reported.

        Guarantee
        ---------
        Of `certified`, that of `bound_maps`. **No guarantee** that `attacked` is the largest.
        """
        _, weights = self._prepare(region.center, targets)
        lower, upper = self._bounds_of_maps(region, weights, method, "float32")
        original = self._explain(region.center, weights)
        certified = farthest(lower, upper, original, distance)
        best, points = np.zeros(len(region)), np.array(region.center)

        def keep(candidates: np.ndarray, maps: np.ndarray) -> None:
            values = _distances(maps, original, distance)
            better = values > best
            best[better], points[better] = values[better], candidates[better]

        for candidates in region.sample(nb_samples, seed):
            keep(candidates, self._explain(candidates.astype(np.float32), weights))
        found = CriterionAttack(
            self.network,
            self._maps_by,
            Within(0.0, distance),
            original,
            weights,
            steps=steps,
            restarts=restarts,
            batch_size=max(1, self._nb_at_once // len(self._mean(region.shape))),
            seed=seed,
        )(region)
        keep(found.points, found.maps)
        slack = relative_allowance(original[0].size) * (
            best + _distances(original, 0 * original, distance)
        )
        attained = best - slack
        some = np.flatnonzero(attained > certified)
        if len(some):  # by what roundings can feign? float64 decides
            at_points = Ball(points[some].astype(np.float64), 0.0)
            sides = self._bounds_of_maps(at_points, weights[some], "ibp", "float64")
            for place, lowest, highest in zip(some, *sides):
                least = nearest(lowest[None], highest[None], original[place], distance)
                attained[place] = min(attained[place], least[0])
        what = f"a map whose {distance} distance is"
        compare_bounds(certified, attained, what=what, method=method, region=region)
        return Interval(certified, np.minimum(best, certified))

    def _bounds_of_maps(
        self, region: Region, weights: np.ndarray, method: str, dtype: str
    ) -> tuple[np.ndarray, np.ndarray]:
        refuse_channels_first(self.model, "bounds of maps")
        mean = self._mean(region.shape)
        self._refuse_other_maps()
        lower, upper = bound_explanations(
            self._verifier_of_maps(dtype),
            mean,
            region,
            weights,
            method=method,
            batch_size=self._nb_at_once,
            verbose=self.verbose,
        )
        if self._is_magnitude:
            lower, upper = magnitudes(lower, upper)
        lower, upper = lower.astype(np.float64), upper.astype(np.float64)
        if lower.ndim != 4 or self.reducer is None:
            return lower, upper
        # every reduction grows with each channel
        size = _SLACK * np.maximum(np.abs(lower), np.abs(upper)).sum(axis=-1, keepdims=True)
        return (
            reduce_channels(lower, self.reducer) - size,
            reduce_channels(upper, self.reducer) + size,
        )

    def _verifier_of_maps(self, dtype: str) -> Verifier:
        """Of the logits of the network."""
        return self._derive(
            ("verifier of maps", dtype),
            lambda: Verifier(self.network, dtype=dtype, strip_head=True),
        )

    def _refuse_other_maps(self) -> None:
        """A ValueError for maps that are not what is bounded, those of logits made by `_mean`."""
        of_mean, *others = (
            next(place for place, kind in enumerate(type(self).__mro__) if name in vars(kind))
            for name in ("_mean", "_of_features", "_explain")
        )
        if min(others) < of_mean:
            raise ValueError(
                f"a subclass that makes other maps must say by _mean what they are made of, or "
                f"they cannot be bounded. Received: {type(self).__name__}, whose _mean is that of "
                f"{type(self).__mro__[of_mean].__name__}"
            )
        for name in ("operator", "output_layer"):
            value = getattr(self, name, None)
            if value is not None:
                raise ValueError(
                    f"bounds of maps are of those of logits: leave {name} out, a softmax or "
                    f"sigmoid at the end is passed by anyway. Received: {name}={value!r}"
                )

    def _as_operations(self, shape: tuple[int, ...]) -> Explanation | None:
        try:
            self._refuse_other_maps()
        except ValueError:
            return None
        return self._maps_by

    def _maps_by(self, model: Any, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """The maps as TensorFlow operations, in the form that `xcertify.attacks` takes."""
        maps = self._mean(tuple(inputs.shape[1:])).maps(model, inputs, targets)
        maps = tf.abs(maps) if self._is_magnitude else maps
        if maps.shape.rank != 4 or self.reducer is None:
            return maps
        return _REDUCTIONS[self.reducer](maps, axis=-1, keepdims=True)


_REDUCTIONS = {name: getattr(tf, f"reduce_{name}") for name in REDUCERS}


def _distances(first: np.ndarray, second: np.ndarray, distance: str) -> np.ndarray:
    """Distances (N,) of maps (N, *map), in float64."""
    flat = np.reshape(first.astype(np.float64) - second, (len(first), -1))
    return np.linalg.norm(flat, DISTANCES[distance], axis=1)
