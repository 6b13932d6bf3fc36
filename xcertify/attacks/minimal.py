"""The smallest perturbation that changes the class: an upper bound of a verified radius."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.attacks.ascent import runners_up
from xcertify.attacks.roundings import ClassChange, Exact, allowance, unit_roundoff
from xcertify.attacks.steps import (
    keep_better,
    lengths,
    margins,
    per_sample,
    project,
    steepest,
)
from xcertify.logits import logits_of, two_classes
from xcertify.models import gradient_by
from xcertify.regions import Region, as_norm
from xcertify.settings import Settings
from xcertify.targets import target_classes
from xcertify.tracing import traced

_GROWTH, _LAST_GROWTH = 0.2, 0.001  # how fast a radius grows or shrinks, first and last
_LAST_STEP = 0.01  # of the radius
_DUAL = {1: math.inf, 2: 2, math.inf: 1}
_NB_HALVINGS = 12  # on the segment between the nominal input and the point that was found


@dataclass(frozen=True, eq=False)
class MinimalResult:
    """The nearest points of another class that an attack found.

    Attributes
    ----------
    points
        (N, *shape), inside the region; the nominal input where none was found.
    distances
        (N,) float64: their distance to the nominal input; inf where none was found, 0 where the
        nominal input is of another class already.

    Guarantee
    ---------
    A point that was found is of another class, in the model's own arithmetic with more room than
    roundings are expected to take (`xcertify.attacks.roundings`), and, for a Keras model that
    `Verifier` can read, in real arithmetic: proved in float64 with the weights as stored.

    No guarantee
    ------------
    Nearer points may exist.
    """

    points: np.ndarray
    distances: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Where a point of another class was found, (N,) bool."""
        return np.isfinite(self.distances)

    def __repr__(self) -> str:
        distances = self.distances[self.found]
        median = f", median distance {np.median(distances):.4g}" if len(distances) else ""
        return f"<MinimalResult: {len(distances)} of {len(self.points)} found{median}>"


class MinimalPerturbation(Settings):
    """Search for the smallest perturbation that changes the class, inside a box.

    Gradient ascent of the margin as in `PGD`, with a radius of its own for every sample, which is
    bisected *inside* the loop rather than around it: it shrinks below the distance of every point
    of another class that is met, and grows while none is met (first to where the class would
    change if the margin were linear). Steps are in units of the radius and both die out along a
    cosine. At the end the segment from the nominal input to the best point is bisected. All
    samples and all restarts go side by side.

    Parameters
    ----------
    model
        Keras model or TensorFlow callable, as for `PGD`.
    norm
        inf, 2 or 1: how a perturbation is measured.
    steps
        Number of gradient steps.
    restarts
        Number of starts. The first climbs the margin of any class, the next three that of the
        second, third and fourth other class; further ones start from random points of the box.
    batch_size
        Number of points that are attacked at once.
    seed
        Of the random starts.
    exact
        What decides whether a point counts, beside the model's own arithmetic: a function of
        points (N, *shape) and rows (N, S, K), both of NumPy, that gives lower and upper sides
        (N, S) of the rows of the logits in real arithmetic. None: by `Verifier` in float64 for a
        Keras model that it can read, else nothing.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.

    No guarantee
    ------------
    The distance is an upper bound of the smallest one, nothing more.

    References
    ----------
    The radius follows Rony et al.: Decoupling Direction and Norm, CVPR 2019, and Pintor et al.:
    Fast Minimum-norm Adversarial Attacks, NeurIPS 2021.

    Examples
    --------
    >>> attack = MinimalPerturbation(model, norm=2)
    >>> attack(Box(np.zeros_like(images), np.ones_like(images), images), labels).distances
    """

    def __init__(
        self,
        model: Callable,
        *,
        norm: float = 2,
        steps: int = 30,
        restarts: int = 4,
        batch_size: int = 512,
        seed: int = 0,
        exact: Exact | None = None,
    ) -> None:
        if not callable(model):
            raise ValueError(f"model must be a Keras model or a callable. Received: {model!r}")
        for name, value in [("steps", steps), ("restarts", restarts), ("batch_size", batch_size)]:
            if isinstance(value, bool) or value != int(value) or value < 1:
                raise ValueError(f"{name} must be a whole number above 0. Received: {value!r}")
        self.model, self.norm, self.steps = model, as_norm(norm), int(steps)
        self.restarts, self.batch_size, self.seed = int(restarts), int(batch_size), seed
        self.exact = exact

    @tf.autograph.experimental.do_not_convert
    def _logits(self, points: Any) -> tf.Tensor:
        return self._derive("logits", lambda: logits_of(self.model))(points)

    def __call__(self, region: Region, targets: Any = None, mask: Any = None) -> MinimalResult:
        """Search every region.

        Parameters
        ----------
        region
            N boxes (a `Box` with a center, or an l_inf `Ball`) around the nominal inputs: the
            points that are allowed.
        targets
            The classes to leave: labels (N,), one-hot rows (N, K), or None for the predicted ones.
        mask
            Boolean, (*shape) or (N, *shape); True where a feature is held, as in `Region.fix`.

        Raises
        ------
        ValueError
            For arguments that do not fit.
        """
        if not isinstance(region, Region) or not math.isinf(region.norm):
            raise ValueError(
                f"region must be a Box, or a Ball of norm inf. Received: {region!r}; for inputs "
                f"and a valid range (low, high) write Box(0 * inputs + low, 0 * inputs + high, "
                f"inputs)"
            )
        if mask is not None:
            region = region.fix(mask)
        starts = range(0, len(region), self.batch_size)
        centers = [tf.constant(region.center[s : s + self.batch_size]) for s in starts]
        logits = np.concatenate([np.asarray(self._logits(center)) for center in centers])
        classes = target_classes(logits, targets).astype(np.int32)
        aims = runners_up(two_classes(tf.constant(logits)).numpy(), classes)
        noise = np.random.default_rng(self.seed).random((self.restarts, *region.shape))
        change = self._derive("change", lambda: ClassChange(self.model, self.exact))

        points = np.array(region.center)
        distances = np.full(len(region), np.inf)
        pairs = np.arange(len(region) * self.restarts)
        for first in range(0, len(pairs), self.batch_size):
            sample, restart = np.divmod(pairs[first : first + self.batch_size], self.restarts)
            some = region[sample]
            random = some.lower + noise[restart] * (some.upper - some.lower)
            again = (restart >= aims.shape[1]).reshape(-1, *[1] * len(region.shape))
            found, changed = self._search(
                some,
                np.where(again, random, some.center),
                classes[sample],
                aims[sample, restart % aims.shape[1]],
            )
            ones = np.flatnonzero(changed)
            settled = change.settle(some[ones], found[ones], classes[sample[ones]])
            found[ones], changed[ones] = settled
            distance = np.where(changed, _distances(found, some.center, self.norm), np.inf)
            # the nearest of the restarts of each sample: the first one in this order
            order = np.lexsort((distance, sample))
            winner = order[np.unique(sample[order], return_index=True)[1]]
            better = winner[distance[winner] < distances[sample[winner]]]
            points[sample[better]] = found[better]
            distances[sample[better]] = distance[better]
        return MinimalResult(points, distances)

    def _search(
        self, region: Region, points: np.ndarray, classes: np.ndarray, aims: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest points found, and whether their class seems to be another one."""
        dtype = region.center.dtype
        arrays = (region.center, region.lower, region.upper, points)
        inputs = tf.TensorSpec((None, *region.shape), dtype)
        numbers = tf.TensorSpec((None,), tf.int32)
        loop = self._derive(
            (region.shape, dtype),
            lambda: traced(
                self._loop,
                input_signature=[*[inputs] * 4, numbers, numbers, tf.TensorSpec((), tf.int32)],
            ),
        )
        found, changed = loop(
            *(tf.constant(array, dtype) for array in arrays),
            tf.constant(classes),
            tf.constant(aims),
            tf.constant(self.steps),
        )
        return np.array(found), np.array(changed)

    def _loop(
        self,
        center: tf.Tensor,
        lower: tf.Tensor,
        upper: tf.Tensor,
        points: tf.Tensor,
        classes: tf.Tensor,
        aims: tf.Tensor,
        steps: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        free = tf.cast(upper > lower, center.dtype)
        farthest = lengths(tf.maximum(upper - center, center - lower), self.norm)
        radius = tf.zeros_like(farthest)
        best = center, tf.fill(tf.shape(farthest), tf.constant(-math.inf, center.dtype))
        for step in tf.range(steps + 1):  # the last one only looks at where the others led
            largest, climbed, gradient, slack = self._at(points, classes, aims)
            changed = largest > slack
            distance = lengths(points - center, self.norm)
            best = _keep_nearer(best, points, changed, distance)

            fade = (1 + tf.cos(math.pi * tf.cast(step / steps, center.dtype))) / 2
            growth = _GROWTH * fade + _LAST_GROWTH
            slope = lengths(gradient * free, _DUAL[self.norm])
            missing = tf.cast(slack - climbed, center.dtype)
            needed = distance + tf.math.divide_no_nan(missing, slope)
            nearest = -best[1]
            radius *= 1 + growth
            radius = tf.where(tf.math.is_inf(nearest), tf.maximum(radius, needed), radius)
            radius = tf.minimum(radius, nearest * (1 + growth))
            radius = tf.where(changed, nearest * (1 - growth), radius)
            radius = tf.minimum(radius, farthest)

            reach = per_sample(radius, points) * free
            low, high = lower, upper
            if math.isinf(self.norm):
                low, high = tf.maximum(lower, center - reach), tf.minimum(upper, center + reach)
            direction = steepest(gradient, points, low, high, reach, self.norm)
            points = points + (fade + _LAST_STEP) * direction
            points = project(points, center, low, high, reach, self.norm)

        slack = self._at(best[0], classes, aims)[-1]
        inside, outside = tf.zeros_like(farthest), tf.ones_like(farthest)
        for _ in tf.range(_NB_HALVINGS):
            middle = (inside + outside) / 2
            points = center + per_sample(middle, points) * (best[0] - center)
            changed = margins(two_classes(self._logits(points)), classes, aims)[0] > slack
            inside = tf.where(changed, inside, middle)
            outside = tf.where(changed, middle, outside)
        points = center + per_sample(outside, points) * (best[0] - center)
        points = tf.where(per_sample(outside < 1, points), points, best[0])
        # the sum may have been rounded out of the box
        return tf.clip_by_value(points, lower, upper), ~tf.math.is_inf(best[1])

    def _at(
        self, points: tf.Tensor, classes: tf.Tensor, aims: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Largest margin, the one to climb and its gradient, and what roundings may feign."""
        with tf.GradientTape() as tape:
            tape.watch(points)
            raw = self._logits(points)
            logits = two_classes(raw)
            largest, climbed = margins(logits, classes, aims)
        gradient = gradient_by(tape, climbed, points)
        slack = allowance(logits, gradient, points, unit_roundoff(self.model, raw))
        return largest, climbed, gradient, slack


def _keep_nearer(
    best: tuple[tf.Tensor, tf.Tensor], points: tf.Tensor, changed: tf.Tensor, distance: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Points and their negative distances; -inf where no point of another class was met."""
    return keep_better(best, (points, tf.where(changed, -distance, -math.inf)))


def _distances(points: np.ndarray, centers: np.ndarray, norm: float) -> np.ndarray:
    steps = points.astype(np.float64) - centers
    return np.linalg.norm(steps.reshape(len(steps), -1), norm, axis=1)


def minimal_perturbation(
    model: Callable, region: Region, targets: Any = None, *, mask: Any = None, **settings: Any
) -> MinimalResult:
    """The smallest perturbations inside boxes that were found to change the class.

    Parameters
    ----------
    model, **settings
        As for the class `MinimalPerturbation`, which does not compile anew at every call.
    region, targets, mask
        As for a call of it.

    No guarantee
    ------------
    The distance is an upper bound of the smallest one, nothing more.

    Examples
    --------
    >>> minimal_perturbation(model, Box(0 * images, 0 * images + 1, images), labels).distances
    """
    return MinimalPerturbation(model, **settings)(region, targets, mask)
