"""Attacks on explanations: the map changes, the prediction does not, however it is rounded.

An explanation is given as a callable (model, inputs, targets) -> maps of TensorFlow operations,
the form of Xplique's operators: `model` gives logits, `inputs` are (B, *shape) and `targets`
one-hot rows or weights (B, K). `input_gradient` is one; a callable of the inputs alone is written
``lambda model, inputs, targets: explain(inputs)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attacks.ascent import PGD
from xcertify.attacks.roundings import margin_with_allowance
from xcertify.inputs import as_arrays, input_shape_of
from xcertify.logits import head_of, logits_of, two_classes
from xcertify.models import gradient_by
from xcertify.regions import Region
from xcertify.smoothing import BETAS, copy_model, softplus_copy
from xcertify.targets import logit_weights
from xcertify.tracing import traced

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


def input_gradient(model: Callable, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Gradient of the target logit by the input, (B, *shape): the plainest explanation."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        score = tf.reduce_sum(model(inputs) * tf.cast(targets, inputs.dtype))
    return gradient_by(tape, score, inputs)


def top_k_attack(
    model: Callable,
    explanation: Explanation,
    region: Region,
    targets: Any = None,
    *,
    k: int,
    betas: Sequence[float] | None = BETAS,
    steps: int = 30,
    step_size: float = 0.5,
    restarts: int = 1,
    mask: Any = None,
    batch_size: int = 128,
    seed: int = 0,
) -> MapAttackResult:
    """Move features out of the k most important ones, with the predicted class unchanged.

    Climbs minus the sum of the attributions of the features that are the top k at the nominal
    input (Ghorbani et al., the top-k attack).

    Parameters
    ----------
    model
        Keras model, or a callable that returns logits.
    explanation
        (model, inputs, targets) -> maps, see the module. Compared as it is, with its sign.
    region
        N regions in which the inputs may move.
    targets
        What is explained: integer labels (N,), one-hot rows or weights (N, K), or None for the
        predicted class.
    k
        Number of important features.
    betas
        A ReLU network has no second derivative, so the maps are climbed on a copy whose ReLUs are
        softplus(beta z) / beta, for each beta in turn, beginning where the last one ended; what
        counts are the maps of the model itself. None: climb the model's own maps.
    steps, step_size, restarts, mask, batch_size, seed
        As for `PGD`, for each beta.

    Returns
    -------
    result
        `values`: share of the original top k that is not among the top k any more, from 0 to 1.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.

    No guarantee
    ------------
    An empirical attack.

    References
    ----------
    Ghorbani, Abid, Zou: Interpretation of Neural Networks is Fragile, AAAI 2019.

    Examples
    --------
    >>> top_k_attack(model, input_gradient, Ball(images, 0.05), labels, k=15).values
    """
    attacked = _Attacked(model, explanation, region, targets, batch_size)
    nb_features = attacked.maps[0].size
    if isinstance(k, bool) or k != int(k) or not 0 < k < nb_features:
        raise ValueError(f"k must be a whole number from 1 to {nb_features - 1}. Received: {k!r}")
    order = np.argsort(-attacked.maps.reshape(len(region), -1), axis=1, kind="stable")
    top = np.zeros((len(region), nb_features), np.float32)
    np.put_along_axis(top, order[:, : int(k)], 1, axis=1)
    top = tf.constant(top)

    def displaced(maps: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        best = tf.math.top_k(_flat(maps), int(k)).indices
        return 1 - tf.reduce_mean(tf.gather(tf.gather(top, samples), best, batch_dims=1), axis=1)

    def climbed(maps: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        return -tf.reduce_sum(_flat(maps) * tf.gather(top, samples), axis=1)

    settings = {"steps": steps, "step_size": step_size, "restarts": restarts, "seed": seed}
    return attacked.run(displaced, climbed, betas, mask, settings)


def targeted_map_attack(
    model: Callable,
    explanation: Explanation,
    region: Region,
    target_maps: Any,
    targets: Any = None,
    *,
    betas: Sequence[float] | None = BETAS,
    steps: int = 30,
    step_size: float = 0.5,
    restarts: int = 1,
    mask: Any = None,
    batch_size: int = 128,
    seed: int = 0,
) -> MapAttackResult:
    """Bring the maps as close as possible to given ones, with the predicted class unchanged.

    Climbs minus the mean squared error between the map and its target (Dombrowski et al.; there
    the outputs are held by a penalty, here by taking no point of another class).

    Parameters
    ----------
    target_maps
        (N, *map) or (*map): what the maps shall look like, in the scale of the maps.
    model, explanation, region, targets, betas
        As for `top_k_attack`.
    steps, step_size, restarts, mask, batch_size, seed
        As for `PGD`, for each beta.

    Returns
    -------
    result
        `values`: minus the mean squared error, at most 0.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.

    No guarantee
    ------------
    An empirical attack.

    References
    ----------
    Dombrowski et al.: Explanations Can Be Manipulated and Geometry Is to Blame, NeurIPS 2019.

    Examples
    --------
    >>> targeted_map_attack(model, input_gradient, Ball(images, 0.05), maps[::-1], labels).values
    """
    attacked = _Attacked(model, explanation, region, targets, batch_size)
    wanted = tf.constant(_target_maps(target_maps, attacked.maps))

    def closeness(maps: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        return -tf.reduce_mean(_flat(maps - tf.gather(wanted, samples)) ** 2, axis=1)

    settings = {"steps": steps, "step_size": step_size, "restarts": restarts, "seed": seed}
    return attacked.run(closeness, closeness, betas, mask, settings)


class _Attacked:
    """A model, its explanation and the regions that are attacked."""

    def __init__(
        self,
        model: Callable,
        explanation: Explanation,
        region: Region,
        targets: Any,
        batch_size: int,
    ) -> None:
        self.model, self.explanation, self.region = model, explanation, region
        self.batch_size = batch_size
        self.logits = logits_of(model)
        nominal = _in_batches(self.logits, region.center, batch_size)
        self.targets = logit_weights(nominal, targets, head_of(model) == "sigmoid")
        self.classes = tf.constant(_predicted(nominal))
        self.maps = self.explain(region.center)

    def explain(self, points: np.ndarray) -> np.ndarray:
        """Maps of the model itself."""

        def maps(inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
            return self.explanation(self.logits, inputs, targets)

        return _in_batches(maps, points, self.batch_size, self.targets)

    def kept(self, points: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        """Where the class is that of the nominal input, however its logits were rounded."""
        classes = tf.gather(self.classes, samples)
        kept = _keeps_class(self.model, self.logits, points, classes)
        at_start = _flat(points == tf.gather(tf.constant(self.region.center), samples))
        return kept | tf.reduce_all(at_start, axis=1)

    def run(
        self,
        value: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        climbed: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        betas: Sequence[float] | None,
        mask: Any,
        settings: dict[str, Any],
    ) -> MapAttackResult:
        """Attack of the maps, judged by `value`, on smoothed copies of the model."""
        targets, smooth, beta = tf.constant(self.targets), self.logits, None
        if betas is not None and isinstance(self.model, keras.Model):
            copy, beta = softplus_copy(self.model)
            smooth = logits_of(copy)

        def objective(points: tf.Tensor, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = tf.gather(targets, samples)
            maps = self.explanation(self.logits, points, rows)
            judged = tf.where(self.kept(points, samples), value(maps, samples), -np.inf)
            if beta is not None:
                maps = self.explanation(smooth, points, rows)
            return judged, climbed(maps, samples)

        attack = PGD(objective=objective, batch_size=self.batch_size, **settings)
        points = None
        for sharpness in [None] if beta is None else betas:
            if beta is not None:
                beta.assign(sharpness)
            found = attack(self.region, mask=mask, starts=points)
            points = found.points
        return MapAttackResult(points, self.explain(points), self.maps, found.values)


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
        (model, inputs, targets) -> maps, see the module.
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
    logits = logits_of(copy)
    nominal = _in_batches(logits, inputs, batch_size)
    targets = logit_weights(nominal, targets, head_of(model) == "sigmoid")
    classes = _predicted(nominal)

    def explain(points: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        return explanation(logits, points, rows)

    original = _in_batches(explain, inputs, batch_size, targets)
    sign = 1 if target_maps is None else -1
    wanted = original if target_maps is None else _target_maps(target_maps, original)
    weights = copy.trainable_variables
    centers = [tf.identity(weight) for weight in weights]
    radii = [gamma * tf.abs(center) for center in centers]

    def measure(
        points: tf.Tensor, rows: tf.Tensor, goal: tf.Tensor, given: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            distance = tf.reduce_mean(_flat(explain(points, rows) - goal) ** 2, axis=1)
            total = sign * tf.reduce_sum(distance)
        variables = [weight.value for weight in weights]
        unconnected = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(total, variables, unconnected_gradients=unconnected)
        return sign * distance, _keeps_class(copy, logits, points, given), gradients

    measure = traced(measure, reduce_retracing=True)
    generator = np.random.default_rng(seed)
    best, best_values = [weight.numpy() for weight in weights], None
    arrays = inputs, targets, wanted, classes
    for step in range(steps + 1):  # the last one only looks at where the others led
        parts = [
            measure(*(tf.constant(array[first : first + batch_size]) for array in arrays))
            for first in range(0, len(inputs), batch_size)
        ]
        values = np.concatenate([part[0] for part in parts])
        kept = not step or np.concatenate([part[1] for part in parts]).all()
        if kept and (best_values is None or values.mean() > best_values.mean()):
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
    maps = _in_batches(explain, inputs, batch_size, targets)
    return MapAttackResult(inputs, maps, original, best_values, copy)


def _predicted(logits: tf.Tensor) -> tf.Tensor:
    """Predicted class of each row, int32; the sign of a single logit."""
    return tf.argmax(two_classes(tf.convert_to_tensor(logits)), axis=1, output_type=tf.int32)


def _keeps_class(
    model: Callable, logits: Callable, points: tf.Tensor, classes: tf.Tensor
) -> tf.Tensor:
    """Where points are of their classes beyond what roundings can feign, (B,) bool."""
    _, largest, slack = margin_with_allowance(model, logits, points, classes)
    return -largest > slack


def _target_maps(target_maps: Any, maps: np.ndarray) -> np.ndarray:
    target_maps = np.asarray(target_maps, np.float32)
    if target_maps.shape not in (maps.shape, maps.shape[1:]):
        raise ValueError(
            f"target_maps must have the shape of the maps, {maps.shape}, or of one of them. "
            f"Received: {target_maps.shape}"
        )
    if not np.isfinite(target_maps).all():
        raise ValueError("target_maps have NaN or infinite values")
    return np.broadcast_to(target_maps, maps.shape)


def _flat(maps: tf.Tensor) -> tf.Tensor:
    return tf.reshape(maps, [tf.shape(maps)[0], -1])


def _in_batches(function: Callable, inputs: np.ndarray, size: int, *others: Any) -> np.ndarray:
    """A tensor function of many inputs, some at a time."""
    parts = [
        np.asarray(function(*(tf.constant(a[s : s + size]) for a in (inputs, *others))))
        for s in range(0, len(inputs), size)
    ]
    return np.concatenate(parts)
