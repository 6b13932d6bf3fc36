"""One step of an attack: what it climbs, in which direction, and the way back into the region."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

# Nothing here loops or branches on tensors; to rewrite it for graphs took half a second.
_as_written = tf.autograph.experimental.do_not_convert


@_as_written
def margins(logits: tf.Tensor, classes: tf.Tensor, aims: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """max_{c' != c} f_c' - f_c, (B,), and the margin to climb.

    Parameters
    ----------
    logits
        (B, K), K at least 2; see `xcertify.logits.two_classes`.
    classes
        Class c of each, (B,) int.
    aims
        The one class c' whose margin f_c' - f_c is to be climbed, (B,) int, -1 for the largest.
    """
    own = tf.gather(logits, classes, batch_dims=1)
    mine = tf.one_hot(classes, tf.shape(logits)[1], on_value=True, off_value=False)
    largest = tf.reduce_max(tf.where(mine, -math.inf, logits), axis=1) - own
    aimed = tf.gather(logits, tf.maximum(aims, 0), batch_dims=1) - own
    return largest, tf.where(aims < 0, largest, aimed)


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
