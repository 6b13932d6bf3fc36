"""The smallest perturbation that changes the class: an upper bound of a verified radius."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.ascent import keep_better, lengths, per_sample, project, steepest
from xcertify.attacks.margins import margins, runners_up
from xcertify.attacks.roundings import (
    ClassChange,
    Exact,
    allowance,
    distances_of,
    unit_roundoff,
)
from xcertify.batches import most_at_once
from xcertify.checks import whole_number
from xcertify.inputs import evaluate_in_batches, in_batches
from xcertify.logits import classes_of, logits_of, two_classes
from xcertify.models import gradient_by
from xcertify.regions import Region, as_column, as_norm, refuse_few_changed
from xcertify.settings import Settings
from xcertify.tracing import repeat, traced
from xcertify.words import refuse_words

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
        self.model, self.norm = model, as_norm(norm)
        self.steps = whole_number("steps", steps)
        self.restarts = whole_number("restarts", restarts)
        self.batch_size, self.seed = whole_number("batch_size", batch_size), seed
        self.exact = exact

    @property
    def _nb_at_once(self) -> int:
        """`batch_size`, or fewer where memory does not hold so many."""
        return self._derive("at once", lambda: most_at_once(self.model, self.batch_size))

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
        refuse_few_changed(region, "a search of nearest inputs")
        refuse_words(region, "a search of nearest inputs")
        if mask is not None:
            region = region.fix(mask)
        logits = evaluate_in_batches(self._logits, self._nb_at_once, region.center)
        classes = classes_of(self.model, logits, targets).astype(np.int32)
        aims = runners_up(two_classes(tf.constant(logits)).numpy(), classes)
        noise = np.random.default_rng(self.seed).random((self.restarts, *region.shape))
        change = self._derive("change", lambda: ClassChange(self.model, self.exact))

        points = np.array(region.center)
        distances = np.full(len(region), np.inf)
        pairs = np.arange(len(region) * self.restarts)
        for pair in in_batches(pairs, self._nb_at_once):
            sample, restart = np.divmod(pair, self.restarts)
            some = region[sample]
            random = some.lower + noise[restart] * (some.upper - some.lower)
            begin = np.where(as_column(restart < aims.shape[1], random), some.center, random)
            aim = aims[sample, restart % aims.shape[1]]
            found, changed = self._search(some, begin, classes[sample], aim)
            ones = np.flatnonzero(changed)
            places, nearest, far = change.settle(
                some[ones], found[ones], classes[sample[ones]], sample[ones], self.norm
            )
            better = far < distances[sample[ones[places]]]
            winners = sample[ones[places[better]]]
            points[winners], distances[winners] = nearest[better], far[better]
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
                partial(approach, self.model, self._logits, self.norm),
                input_signature=[*[inputs] * 4, numbers, numbers, tf.TensorSpec((), tf.int32)],
                autograph=False,
            ),
        )
        found, changed = loop(
            *(tf.constant(array, dtype) for array in arrays),
            tf.constant(classes),
            tf.constant(aims),
            tf.constant(self.steps),
        )
        return np.array(found), np.array(changed)


def approach(
    model: Any,
    logits: Callable[[tf.Tensor], tf.Tensor],
    norm: float,
    center: tf.Tensor,
    lower: tf.Tensor,
    upper: tf.Tensor,
    points: tf.Tensor,
    classes: tf.Tensor,
    aims: tf.Tensor,
    steps: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The nearest points of another class (B, *shape), and where there seems to be one (B,) bool.

    Parameters
    ----------
    model, logits
        The model, whose types say what roundings may feign, and its logits, (B, *shape) -> (B, K).
    norm
        1, 2 or inf.
    center, lower, upper
        (B, *shape): nominal inputs and the boxes around them.
    points
        (B, *shape): where to begin.
    classes, aims
        (B,) int: the classes to leave, and those whose margins are climbed, -1 for any.
    steps
        Number of steps.
    """
    free = tf.cast(upper > lower, center.dtype)
    largest_radius = lengths(tf.maximum(upper - center, center - lower), norm)  # (B,)

    def step_near(step: tf.Tensor, points: tf.Tensor, radius: tf.Tensor, best: tuple) -> tuple:
        largest, climbed, gradient, slack = _margins_at(model, logits, points, classes, aims)
        changed = largest > slack
        distance = lengths(points - center, norm)
        best = _keep_nearer(best, points, changed, distance)

        fade = (1 + tf.cos(math.pi * tf.cast(step / steps, center.dtype))) / 2
        growth = _GROWTH * fade + _LAST_GROWTH
        slope = lengths(gradient * free, _DUAL[norm])
        missing = tf.cast(slack - climbed, center.dtype)
        needed = distance + tf.math.divide_no_nan(missing, slope)
        nearest = -best[1]
        radius *= 1 + growth
        radius = tf.where(tf.math.is_inf(nearest), tf.maximum(radius, needed), radius)
        radius = tf.minimum(radius, nearest * (1 + growth))
        radius = tf.where(changed, nearest * (1 - growth), radius)
        radius = tf.minimum(radius, largest_radius)

        reach = per_sample(radius, points) * free
        low, high = lower, upper
        if math.isinf(norm):
            low, high = tf.maximum(lower, center - reach), tf.minimum(upper, center + reach)
        direction = steepest(gradient, points, low, high, reach, norm)
        points = points + (fade + _LAST_STEP) * direction
        return project(points, center, low, high, reach, norm), radius, best

    radius = tf.zeros_like(largest_radius)
    best = center, tf.fill(tf.shape(radius), tf.constant(-math.inf, center.dtype))
    # the last step only looks at where the others led
    *_, best = repeat(step_near, steps + 1, (points, radius, best))
    slack = _margins_at(model, logits, best[0], classes, aims)[-1]
    points = _bisect(logits, center, best[0], classes, aims, slack)
    # the sum may have been rounded out of the box
    return tf.clip_by_value(points, lower, upper), ~tf.math.is_inf(best[1])


def _bisect(
    logits: Callable[[tf.Tensor], tf.Tensor],
    center: tf.Tensor,
    points: tf.Tensor,
    classes: tf.Tensor,
    aims: tf.Tensor,
    slack: tf.Tensor,
) -> tf.Tensor:
    """The first points of another class that are found on the segments from centers to points.

    Where the margin is larger than `slack` (B,), as it is at the points.
    """

    def halve(_: tf.Tensor, inside: tf.Tensor, outside: tf.Tensor) -> tuple:
        middle = (inside + outside) / 2
        tried = center + per_sample(middle, points) * (points - center)
        changed = margins(two_classes(logits(tried)), classes, aims)[0] > slack
        return tf.where(changed, inside, middle), tf.where(changed, middle, outside)

    inside = tf.zeros([tf.shape(center)[0]], center.dtype)
    _, outside = repeat(halve, _NB_HALVINGS, (inside, tf.ones_like(inside)))
    first = center + per_sample(outside, points) * (points - center)
    return tf.where(per_sample(outside < 1, points), first, points)


@tf.autograph.experimental.do_not_convert
def _margins_at(
    model: Any,
    logits: Callable[[tf.Tensor], tf.Tensor],
    points: tf.Tensor,
    classes: tf.Tensor,
    aims: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Largest margin (B,), the one to climb (B,) and its gradient, and what roundings may feign."""
    with tf.GradientTape() as tape:
        tape.watch(points)
        raw = logits(points)
        both = two_classes(raw)
        largest, climbed = margins(both, classes, aims)
    gradient = gradient_by(tape, climbed, points)
    return largest, climbed, gradient, allowance(both, gradient, points, unit_roundoff(model, raw))


def _keep_nearer(
    best: tuple[tf.Tensor, tf.Tensor], points: tf.Tensor, changed: tf.Tensor, distance: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Points and their negative distances; -inf where no point of another class was met."""
    return keep_better(best, (points, tf.where(changed, -distance, -math.inf)))


def farthest(region: Region, norm: float) -> np.ndarray:
    """Largest distance of a point of each box from its center, (N,) float64."""
    return distances_of(
        np.maximum(region.upper - region.center, region.center - region.lower), norm
    )


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
