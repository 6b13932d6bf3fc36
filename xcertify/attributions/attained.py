"""What overlaps attain: a short attack on the quantity that `EVA` bounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf

from xcertify.ascent import arrays_of, ascend
from xcertify.attributions.overlaps import Overlap
from xcertify.inputs import in_batches
from xcertify.logits import two_classes
from xcertify.regions import Region
from xcertify.tracing import traced

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


def deviation_at(
    logits: tf.Tensor, outputs: tf.Tensor, sign: float, values: tf.Tensor, delta: tf.Tensor
) -> tf.Tensor:
    """Overlaps (B,) of one output each of logits (B, K), to one side: see `Overlap.within`."""
    own = tf.gather(tf.cast(logits, tf.float32), outputs, axis=1, batch_dims=1)
    return sign * (own - values) - delta


class ShortAttack:
    """Overlaps at the centers of regions, and at the worst points that a short attack finds.

    Gradient ascent from the center in five steps, the first as long as the region.

    Parameters
    ----------
    logits_at
        (B, *shape) -> (B, K).
    temperature
        Of the overlaps.
    batch_size
        Most points at once; None: all.

    No guarantee
    ------------
    A stronger attack may find larger ones.
    """

    def __init__(
        self,
        logits_at: Callable[[tf.Tensor], tf.Tensor],
        temperature: float,
        batch_size: int | None,
    ) -> None:
        self._logits_at, self._temperature = logits_at, temperature
        self._batch_size = batch_size
        self._graphs: dict[tuple, Callable] = {}

    def __call__(self, region: Region, overlap: Overlap) -> tuple[np.ndarray, np.ndarray]:
        """The overlaps of N regions, (N,) float64 each, as float32 computes them.

        Returns
        -------
        nominal, attained
            At the centers, and at the worst points.
        """
        norm, arrays = arrays_of(region)
        alternatives = overlap.alternatives
        alternatives = np.full(len(overlap), -1) if alternatives is None else alternatives
        within = overlap.within
        numbers = np.zeros((2, len(overlap))) if within is None else (within.values, within.delta)
        given = [
            *(np.asarray(array, np.float32) for array in (*arrays, *numbers)),
            overlap.classes.astype(np.int32),
            alternatives.astype(np.int32),
        ]
        climb = self._graph(norm, region.shape, within is not None)
        found = [
            climb(*(array[some] for array in given))
            for some in in_batches(np.arange(len(region)), self._batch_size)
        ]
        nominal, attained = (np.concatenate(side).astype(np.float64) for side in zip(*found))
        return nominal, attained

    def _graph(self, norm: float, shape: tuple[int, ...], is_within: bool) -> Callable:
        """The ascent in regions of a norm and shape, compiled once."""
        key = norm, shape, is_within
        if key not in self._graphs:
            points, numbers = [tf.TensorSpec((None, *shape))] * 4, [tf.TensorSpec((None,))] * 2
            classes = [tf.TensorSpec((None,), tf.int32)] * 2
            self._graphs[key] = traced(
                partial(self._climb, norm, is_within),
                input_signature=[*points, *numbers, *classes],
                autograph=False,
            )
        return self._graphs[key]

    def _climb(
        self,
        norm: float,
        is_within: bool,
        center: tf.Tensor,
        lower: tf.Tensor,
        upper: tf.Tensor,
        radius: tf.Tensor,
        values: tf.Tensor,
        delta: tf.Tensor,
        classes: tf.Tensor,
        alternatives: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        def values_at(sign: float, points: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            logits = self._logits_at(points)
            if is_within:
                found = deviation_at(logits, classes, sign, values, delta)
            else:
                found = overlap_at(logits, classes, alternatives, self._temperature)
            return found, found

        region = center, lower, upper, radius
        numbers = tf.constant(_NB_STEPS), tf.constant(1.0), tf.constant(np.inf, tf.float32)
        ways = [partial(values_at, sign) for sign in ((1.0, -1.0) if is_within else (1.0,))]
        attained = [ascend(way, norm, *region, center, *numbers)[1] for way in ways]
        nominal = [way(center)[0] for way in ways]
        return tf.reduce_max(nominal, axis=0), tf.reduce_max(attained, axis=0)
