"""Attacks on explanations: what is attacked, and what an attack gives.

The map changes, the prediction does not, however it is rounded. An explanation is given as a
callable (model, inputs, targets) -> maps of TensorFlow operations, the form of Xplique's operators:
`model` gives logits, `inputs` are (B, *shape) and `targets` one-hot rows or weights (B, K).
`input_gradient` is one; a callable of the inputs alone is written
``lambda model, inputs, targets: explain(inputs)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attacks.roundings import margin_with_allowance
from xcertify.inputs import evaluate_in_batches
from xcertify.logits import logits_of, two_classes, weights_of
from xcertify.models import channels_last_layer, gradient_by, is_graph
from xcertify.smoothing import SmoothCopy

Explanation = Callable[[Callable, tf.Tensor, tf.Tensor], tf.Tensor]


@dataclass(frozen=True, eq=False)
class MapAttackResult:
    """The worst change of the maps that an attack found.

    Attributes
    ----------
    points
        Inputs (N, *shape), inside the region; for an attack on the weights the inputs themselves.
    maps, original_maps
        Explanations of the model at the points, and of the original one at the nominal inputs.
    values
        (N,): how far the attack came, in the measure of the attack; larger is worse.
    model
        The copy of the model with attacked weights, or None.

    No guarantee
    ------------
    A stronger attack may find larger values.
    """

    points: np.ndarray
    maps: np.ndarray
    original_maps: np.ndarray
    values: np.ndarray
    model: keras.Model | None = None

    def __repr__(self) -> str:
        return (
            f"<MapAttackResult: {len(self.values)} samples, values from {self.values.min():.4g} "
            f"to {self.values.max():.4g}>"
        )


class Explained:
    """A model, its explanations of some inputs, and the classes that an attack has to keep.

    Parameters
    ----------
    model, explanation, targets
        As for `top_k_attack`.
    inputs
        (N, *shape).
    batch_size
        Number of inputs that are explained at once.

    Attributes
    ----------
    logits
        Of the model, (B, *shape) -> (B, K).
    targets
        (N, K): weights of the logits.
    classes
        (N,) int32: the classes predicted for the inputs.
    maps
        (N, *map): the explanations of the inputs.
    """

    def __init__(
        self,
        model: Callable,
        explanation: Explanation,
        inputs: np.ndarray,
        targets: Any,
        batch_size: int,
    ) -> None:
        self.model, self.explanation, self._batch_size = model, explanation, batch_size
        self.logits = logits_of(model)
        logits = evaluate_in_batches(self.logits, batch_size, inputs)
        self.targets = weights_of(model, logits, targets)
        rows = two_classes(tf.convert_to_tensor(logits))
        self.classes = tf.argmax(rows, axis=1, output_type=tf.int32)
        self.maps = self.maps_of(inputs)

    def maps_at(self, points: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Explanations (B, *map) of points (B, *shape), for targets (B, K)."""
        return self.explanation(self.logits, points, targets)

    def maps_of(self, inputs: np.ndarray) -> np.ndarray:
        """Explanations (N, *map) of N inputs, in the order of the first ones."""
        return evaluate_in_batches(self.maps_at, self._batch_size, inputs, self.targets)

    def keeps_class(self, points: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Where points are of their classes beyond what roundings can feign, (B,) bool."""
        _, largest, slack = margin_with_allowance(self.model, self.logits, points, classes)
        return -largest > slack


def input_gradient(model: Callable, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Gradient of the target logit by the input, (B, *shape): the plainest explanation.

    Parameters
    ----------
    model
        A TensorFlow callable that gives logits (B, K).
    inputs
        (B, *shape).
    targets
        One-hot rows (B, K), or other weights of the logits.
    """
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        score = tf.reduce_sum(model(inputs) * tf.cast(targets, inputs.dtype))
    return gradient_by(tape, score, inputs)


def as_target_maps(target_maps: Any, maps: np.ndarray) -> np.ndarray:
    """What maps shall look like, (N, *map) float32, for one or for all.

    Raises
    ------
    ValueError
        For another shape, and values that are NaN or infinite.
    """
    target_maps = np.asarray(target_maps, np.float32)
    if target_maps.shape not in (maps.shape, maps.shape[1:]):
        raise ValueError(
            f"target_maps must have the shape of the maps, {maps.shape}, or of one of them. "
            f"Received: {target_maps.shape}"
        )
    if not np.isfinite(target_maps).all():
        raise ValueError("target_maps have NaN or infinite values")
    return np.broadcast_to(target_maps, maps.shape)


def flat(maps: tf.Tensor) -> tf.Tensor:
    """Maps (B, *map) as rows, (B, S)."""
    return tf.reshape(maps, [tf.shape(maps)[0], -1])


def climbed_copy(model: Any) -> tuple[SmoothCopy | None, Callable]:
    """A copy with softplus for ReLU, if a model has any, and the logits that an attack climbs."""
    copy = SmoothCopy(model) if is_graph(model) else None
    copy = copy if copy is not None and copy.differs else None
    return copy, logits_of(model if copy is None else copy.model, channels_last_layer(model))


def free_variable(dtype: tf.DType, rank: int | None = None) -> tf.Variable:
    """A variable of any size, and of any rank if none is given, which is traced once."""
    shape = tf.TensorShape(None if rank is None else [None] * rank)
    value = tf.zeros([1] * (1 if rank is None else rank), dtype)
    return tf.Variable(value, shape=shape, trainable=False)
