"""Attacks on explanations by models with weights near the given ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attacks.maps import Explained, Explanation, MapAttackResult, as_target_maps, flat
from xcertify.inputs import as_arrays, in_batches, input_shape_of
from xcertify.smoothing import copy_model
from xcertify.tracing import traced


def weight_attack(
    model: keras.Model,
    explanation: Explanation,
    inputs: Any,
    targets: Any = None,
    *,
    gamma: float,
    target_maps: Any = None,
    steps: int = 50,
    step_size: float = 0.2,
    batch_size: int = 128,
    seed: int = 0,
) -> MapAttackResult:
    """Change the weights of a copy of the model a little so that its maps change a lot.

    Every trainable weight w stays within [w - gamma |w|, w + gamma |w|], the set of Wicker et al.;
    one change is sought for all inputs together (pass a single input to attack it alone), by
    gradient steps of equal relative size, with the predicted class of every input unchanged.

    Parameters
    ----------
    model
        Keras model; it is not touched.
    explanation
        (model, inputs, targets) -> maps, see `xcertify.attacks.maps`.
    inputs
        (N, *shape), an array, a tensor or a `tf.data.Dataset`.
    targets
        As for `top_k_attack`.
    gamma
        Largest relative change of a weight.
    target_maps
        (N, *map) or (*map): what the maps shall look like. None: anything but the original.
    steps, step_size
        Number of steps, and length of the first one as a share of gamma; it falls to zero.
    batch_size
        Number of inputs that are explained at once.
    seed
        Of the first step away from the original maps, which goes in a random direction.

    Returns
    -------
    result
        `values`: mean squared error to the original map, or minus that to the target map;
        `model`: the attacked copy.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.

    No guarantee
    ------------
    An empirical attack.

    References
    ----------
    Heo, Joo, Moon: Fooling Neural Network Interpretations via Adversarial Model Manipulation,
    NeurIPS 2019. The bounded set of weights: Wicker et al., ICLR 2023.

    Examples
    --------
    >>> weight_attack(model, input_gradient, images, labels, gamma=0.01).values
    """
    if not gamma >= 0 or not step_size > 0:
        raise ValueError(
            f"gamma must be at least 0 and step_size positive. Received: {gamma!r}, {step_size!r}"
        )
    inputs, targets = as_arrays(inputs, targets, input_shape_of(model))
    copy = copy_model(model)
    explained = Explained(copy, explanation, inputs, targets, batch_size)
    original = explained.maps
    sign, wanted = 1, original
    if target_maps is not None:
        sign, wanted = -1, as_target_maps(target_maps, original)
    weights = copy.trainable_variables
    measure = traced(partial(_measured, explained, weights, sign), reduce_retracing=True)
    centers = [tf.identity(weight) for weight in weights]
    radii = [gamma * tf.abs(center) for center in centers]
    generator = np.random.default_rng(seed)
    best, best_values = [weight.numpy() for weight in weights], np.zeros(len(inputs))
    arrays = inputs, explained.targets, wanted, explained.classes.numpy()
    for step in range(steps + 1):  # the last one only looks at where the others led
        pieces = zip(*(in_batches(array, batch_size) for array in arrays))
        parts = [measure(*map(tf.constant, piece)) for piece in pieces]
        values = np.concatenate([part[0] for part in parts])
        kept = np.concatenate([part[1] for part in parts]).all()
        if not step or (kept and values.mean() > best_values.mean()):
            best, best_values = [weight.numpy() for weight in weights], values
        directions = [sum(gradients) for gradients in zip(*(part[2] for part in parts))]
        if step == 0 and target_maps is None:  # the distance to the original has no slope yet
            directions = [generator.normal(size=weight.shape) for weight in weights]
        length = step_size * (1 - step / max(steps, 1))
        for weight, center, radius, direction in zip(weights, centers, radii, directions):
            moved = weight + length * radius * tf.sign(tf.cast(direction, radius.dtype))
            weight.assign(tf.clip_by_value(moved, center - radius, center + radius))
    for weight, value in zip(weights, best):
        weight.assign(value)
    return MapAttackResult(inputs, explained.maps_of(inputs), original, best_values, copy)


def _measured(
    explained: Explained,
    weights: list[Any],
    sign: int,
    points: tf.Tensor,
    targets: tf.Tensor,
    goals: tf.Tensor,
    classes: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
    """What is sought (B,), where the class is kept (B,) bool, and gradients by the weights.

    Sought is `sign` times the mean squared error between maps and goals (B, *map); the gradients
    are those of its sum over all points.
    """
    with tf.GradientTape() as tape:
        errors = flat(explained.maps_at(points, targets) - goals)
        distance = tf.reduce_mean(errors**2, axis=1)
        total = sign * tf.reduce_sum(distance)
    variables = [weight.value for weight in weights]
    unconnected = tf.UnconnectedGradients.ZERO
    gradients = tape.gradient(total, variables, unconnected_gradients=unconnected)
    return sign * distance, explained.keeps_class(points, classes), gradients
