"""What overlaps attain: a short attack on the quantity that `EVA` bounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from xcertify.ascent import arrays_of, ascend
from xcertify.attributions.overlaps import Overlap
from xcertify.inputs import in_batches
from xcertify.logits import two_classes
from xcertify.regions import Region

_NB_STEPS = 5


def overlap_at(
    logits: tf.Tensor, classes: tf.Tensor, alternatives: tf.Tensor, temperature: float
) -> tf.Tensor:
    """Overlaps (B,) of logits (B, K): of `alternatives` (B,), or where they are -1 of all classes.

    See `Overlap`.
    """
    logits = two_classes(logits)
    nb_classes = logits.shape[-1]
    margins = logits - tf.gather(logits, classes, axis=1, batch_dims=1)[:, None]
    is_own = tf.one_hot(classes, nb_classes, on_value=True, off_value=False)
    is_other = tf.one_hot(alternatives, nb_classes, on_value=True, off_value=False)
    counts = tf.where(alternatives[:, None] < 0, ~is_own, is_other)
    margins = tf.where(counts, margins, -np.inf)
    if temperature == 0:
        return tf.reduce_max(margins, axis=1)
    return temperature * tf.reduce_logsumexp(margins / temperature, axis=1)


def attained_overlaps(
    logits_at: Callable[[tf.Tensor], tf.Tensor],
    region: Region,
    overlap: Overlap,
    batch_size: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Overlaps at the centers of N regions and at the worst points that a short attack finds.

    Gradient ascent from the center in five steps, the first as long as the region. It runs without
    a graph, which takes less time than to compile one.

    Parameters
    ----------
    logits_at
        (B, *shape) -> (B, K).
    region, overlap
        N regions and what is looked at.
    batch_size
        Most points at once; None: all.

    Returns
    -------
    nominal, attained
        (N,) float64 each, as float32 computes them.

    No guarantee
    ------------
    A stronger attack may find larger ones.
    """
    norm, arrays = arrays_of(region)
    sizes = [np.asarray(array, np.float32) for array in arrays]
    alternatives = overlap.alternatives
    alternatives = np.full(len(overlap), -1) if alternatives is None else alternatives
    pairs = overlap.classes.astype(np.int32), alternatives.astype(np.int32)

    def values_at(
        points: tf.Tensor, classes: tf.Tensor, alternatives: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        found = overlap_at(logits_at(points), classes, alternatives, overlap.temperature)
        return found, found

    found = []
    for some in in_batches(np.arange(len(region)), batch_size):
        center, lower, upper, radius = (tf.constant(array[some]) for array in sizes)
        given = [tf.constant(array[some]) for array in pairs]
        nominal, _ = values_at(center, *given)
        steps, step_size = tf.constant(_NB_STEPS), tf.constant(1.0)
        _, attained = ascend(
            values_at, norm, center, lower, upper, radius, center, steps, step_size,
            tf.constant(np.inf, tf.float32), *given,
        )  # fmt: skip
        found.append([nominal.numpy(), attained.numpy()])
    both = np.concatenate(found, axis=1).astype(np.float64)
    return both[0], both[1]
