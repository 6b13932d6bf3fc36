"""Gradient ascent inside regions, as a loop of tensors: what attacks and verifiers climb with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from xcertify.inputs import in_batches
from xcertify.regions import Region, refuse_few_changed
from xcertify.tracing import repeat
from xcertify.words import refuse_words

# (points, *given) -> what is sought, and what is climbed to find it, (B,) each
Values = Callable[..., tuple[tf.Tensor, ...]]

# Nothing here loops or branches on tensors; to rewrite it for graphs took half a second.
_as_written = tf.autograph.experimental.do_not_convert


def ascend(
    values_at: Values,
    norm: float,
    center: tf.Tensor,
    lower: tf.Tensor,
    upper: tf.Tensor,
    radius: tf.Tensor,
    points: tf.Tensor,
    steps: tf.Tensor,
    step_size: tf.Tensor,
    stop_above: tf.Tensor,
    *given: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Best points (B, *shape) on the way up inside regions, and their values (B,).

    Parameters
    ----------
    values_at
        (points, *given) -> what is sought, (B,) float32, and what is climbed to find it, (B,).
    norm, center, lower, upper, radius
        The regions, see `arrays_of`.
    points
        (B, *shape): where to begin.
    steps, step_size
        Number of steps, and the length of the first as a share of the radius; it falls to zero.
    stop_above
        Stop once every value is larger. The best point is the first one of a larger value.
    given
        (B, ...) each, handed to `values_at`.
    """

    def step_up(step: tf.Tensor, points: tf.Tensor, best: tuple) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(points)
            value, climbed = values_at(points, *given)
        # what goes on is for the others of the batch, on which no result may depend
        better = tf.where(best[1] > stop_above, tf.fill(tf.shape(value), -math.inf), value)
        best = keep_better(best, (points, better))
        gradient = tape.gradient(climbed, points)
        if gradient is None:
            raise ValueError(
                "the objective has no gradient: build it of TensorFlow operations on the points, "
                "without a detour through NumPy"
            )
        direction = steepest(gradient, points, lower, upper, radius, norm)
        length = step_size * (1 - tf.cast(step / tf.maximum(steps, 1), step_size.dtype))
        points = points + length * direction
        return project(points, center, lower, upper, radius, norm), best

    start = points, (points, tf.fill([tf.shape(points)[0]], -math.inf))
    _, best = repeat(
        step_up,
        steps + 1,  # the last one only looks at where the others led
        start,
        stop=lambda points, best: tf.reduce_all(best[1] > stop_above),
    )
    return best


def arrays_of(region: Region) -> tuple[float, tuple[np.ndarray, ...]]:
    """Norm, and (center, lower, upper, radius of each feature), (N, *shape) each, of N regions.

    A box is the ball of the norm inf that has half its width as radius.

    Raises
    ------
    ValueError
        Where few features may change at a time, and of words: ascents do not keep to these.
    """
    refuse_few_changed(region, "gradient ascent")
    refuse_words(region, "gradient ascent")
    norm, radius = region.norm, region.epsilon
    if radius is None or math.isinf(norm):
        norm, radius = math.inf, (region.upper - region.lower) / 2
    radius = np.broadcast_to(radius, region.center.shape)
    return norm, (region.center, region.lower, region.upper, radius)


def runs(nb_samples: int, restarts: int, batch_size: int) -> Iterator[tuple[np.ndarray, range]]:
    """Which samples are attacked together, and from which of their starts.

    Samples side by side as long as all of their starts fit into a batch, then starts of one sample.
    """
    nb_together = min(nb_samples, max(1, batch_size // restarts))
    nb_starts = min(restarts, batch_size // nb_together)
    for some in in_batches(np.arange(nb_samples, dtype=np.int32), nb_together):
        for first in range(0, restarts, nb_starts):
            yield some, range(first, min(first + nb_starts, restarts))


def best_of_restarts(
    points: np.ndarray, values: np.ndarray, restarts: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of points (R S, *shape) with values (R S,), R restarts of S samples, the best of each."""
    values = values.reshape(restarts, -1)
    winner, samples = values.argmax(axis=0), np.arange(values.shape[1])
    return points.reshape(*values.shape, *points.shape[1:])[winner, samples], values.max(axis=0)


def random_start(region: Region, noise: np.ndarray) -> np.ndarray:
    """Points (N, *shape) of N regions, by shares in [0, 1] of their boxes, (N, *shape)."""
    points = region.lower + noise * (region.upper - region.lower)
    return region.project(points.astype(region.center.dtype))


@_as_written
def steepest(
    gradient: tf.Tensor,
    points: tf.Tensor,
    lower: tf.Tensor,
    upper: tf.Tensor,
    radius: tf.Tensor,
    norm: float,
) -> tf.Tensor:
    """Direction of length 1, in units of the radius, in which the objective grows fastest.

    For the l1 ball the length is Euclidean too: the projection finds the few features that count.
    Features that cannot move (radius 0, or at a side that the gradient points out of) are left out
    before the gradient is normalised.

    Parameters
    ----------
    gradient, points, lower, upper, radius
        (B, *shape).
    norm
        1, 2 or inf.
    """
    blocked = ((gradient > 0) & (points >= upper)) | ((gradient < 0) & (points <= lower))
    gradient = tf.where(blocked | ~tf.math.is_finite(gradient), tf.zeros_like(gradient), gradient)
    if math.isinf(norm):
        return tf.sign(gradient) * radius
    scaled = gradient * radius
    # squares of tiny gradients must not underflow
    scaled = tf.math.divide_no_nan(scaled, per_sample(_reduce(tf.reduce_max, abs(scaled)), points))
    return radius * tf.math.divide_no_nan(scaled, per_sample(lengths(scaled, 2), points))


@_as_written
def project(
    points: tf.Tensor,
    center: tf.Tensor,
    lower: tf.Tensor,
    upper: tf.Tensor,
    radius: tf.Tensor,
    norm: float,
) -> tf.Tensor:
    """Into the box by clipping, then into the ball, towards the center so as to stay in the box.

    Into the l2 ball by shrinking, into the l1 ball by its Euclidean projection, which takes the
    same amount from every feature and so leaves few of them moved.
    """
    points = tf.clip_by_value(points, lower, upper)
    if math.isinf(norm):
        return points
    scaled = tf.math.divide_no_nan(points - center, radius)
    if norm == 1:
        excess = per_sample(_l1_excess(scaled), points)
        scaled = tf.sign(scaled) * tf.maximum(abs(scaled) - excess, 0)
    unit = 2.0**-52 if points.dtype == tf.float64 else 2.0**-23
    slack = (8 + math.sqrt(math.prod(points.shape[1:]))) * unit  # of the length, a sum
    scaled /= per_sample(tf.maximum(lengths(scaled, norm) * (1 + slack), 1), points)
    step = scaled * radius
    moved = center + step
    # what was rounded away from the center goes a unit back, not farther than the center
    outward = abs(moved - center) > abs(step)
    back = moved - tf.sign(step) * unit * abs(moved)
    back = tf.clip_by_value(back, tf.minimum(center, moved), tf.maximum(center, moved))
    return tf.clip_by_value(tf.where(outward, back, moved), lower, upper)


def _l1_excess(steps: tf.Tensor) -> tf.Tensor:
    """What to take from the size of every feature so that the l1 norm becomes at most 1, (B,)."""
    flat = tf.reshape(abs(steps), [tf.shape(steps)[0], math.prod(steps.shape[1:])])
    ordered = tf.sort(flat, axis=1, direction="DESCENDING")
    count = tf.range(1, flat.shape[1] + 1, dtype=flat.dtype)
    excess = (tf.cumsum(ordered, axis=1) - 1) / count
    last = tf.reduce_sum(tf.cast(ordered > excess, tf.int32), axis=1) - 1
    return tf.maximum(tf.gather(excess, last, batch_dims=1), 0)


@_as_written
def lengths(steps: tf.Tensor, norm: float) -> tf.Tensor:
    """Norm of each step, (B,)."""
    if math.isinf(norm):
        return _reduce(tf.reduce_max, abs(steps))
    if norm == 1:
        return _reduce(tf.reduce_sum, abs(steps))
    return tf.sqrt(_reduce(tf.reduce_sum, steps**2))


@_as_written
def per_sample(values: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
    """(B,) with as many axes as the points."""
    return tf.reshape(values, [-1] + [1] * (points.shape.rank - 1))


@_as_written
def keep_better(
    kept: tuple[tf.Tensor, tf.Tensor], found: tuple[tf.Tensor, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Points and values, of each sample those with the larger value; NaN is never larger."""
    better = found[1] > kept[1]
    points = tf.where(per_sample(better, found[0]), found[0], kept[0])
    return points, tf.where(better, found[1], kept[1])


def _reduce(reduction: Callable, values: tf.Tensor) -> tf.Tensor:
    return reduction(values, axis=list(range(1, values.shape.rank)))
