"""Training of models whose explanations are robust, as an ordinary Keras workflow.

A regulariser is added to the loss of a model: the proved width of the input gradient over a region
(Wicker et al.), one of the heuristics that it is compared with, or what makes predictions robust:
the loss at the worst logits that intervals allow, or at the worst point that an attack finds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.bounds import GradientInterval, MarginInterval
from xcertify.checks import whole_number
from xcertify.logits import logits_of
from xcertify.regions import valid_range

LOSSES = ("logit", "cross-entropy")
REDUCTIONS = ("mean", "sum")


class Regularizer(ABC):
    """A penalty of each input that is added to the loss; see `RegularizedModel`.

    What all of them share: a subclass says in `__call__` what the penalty is.

    Parameters
    ----------
    loss
        Whose input gradient is meant: "logit", the logit of the label; "cross-entropy", that of the
        label.
    reduction
        "mean" or "sum" over the features of an input. The paper's text has the sum, its code the
        mean; a sum needs an alpha that is smaller by the number of features.
    """

    name = "penalty"

    def __init__(self, loss: str = "logit", reduction: str = "mean") -> None:
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}. Received: {loss!r}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be 'mean' or 'sum'. Received: {reduction!r}")
        self.loss, self.reduction = loss, reduction

    def prepare(self, model: keras.Model) -> None:
        """Meet the model, once."""
        self.logits = logits_of(model)

    @property
    def radii(self) -> list[keras.Variable]:
        """Variables that `LinearRamp` lets grow from 0 to their values."""
        return []

    @abstractmethod
    def __call__(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Penalties (B,) of inputs (B, *shape) with one-hot targets (B, K), or (B, 1) in [0, 1]."""

    def _reduce(self, values: tf.Tensor) -> tf.Tensor:
        """(B, *shape) to (B,)."""
        flat = tf.reshape(values, (tf.shape(values)[0], -1))
        reduce = tf.reduce_mean if self.reduction == "mean" else tf.reduce_sum
        return reduce(flat, axis=1)

    def _gradient(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            logits = self.logits(inputs)
            if self.loss == "logit":
                score = logits if logits.shape[-1] == 1 else logits * targets
            elif logits.shape[-1] == 1:
                score = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
            else:
                score = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            score = tf.reduce_sum(score)
        return tape.gradient(score, inputs)


class CertifiedWidth(Regularizer):
    """Width of the interval that encloses the input gradient over a region: delta of the paper.

    Where it is 0 the model is proved to be linear in the region.

    Parameters
    ----------
    epsilon
        l_inf radius of the region of inputs, in units of the inputs.
    gamma
        Relative radius of the region of weights.
    loss, reduction
        As for `Regularizer`.

    Raises
    ------
    UnsupportedLayerError
        When it meets a model that `Verifier.bound_gradient` refuses.

    No guarantee
    ------------
    Bounds in training are those of the method "ibp" without rounding terms, and of the network
    as it is used (moving statistics, no dropout). Certify the trained model with
    `CertifiedGradient`.

    References
    ----------
    Wicker et al.: Robust Explanation Constraints for Neural Networks, ICLR 2023, section 5.1.

    Examples
    --------
    >>> trained = RegularizedModel(model, CertifiedWidth(epsilon=0.025, gamma=0.01), alpha=0.5)
    >>> trained.compile("adam", "sparse_categorical_crossentropy")
    >>> trained.fit(images, labels, epochs=20, callbacks=[LinearRamp(20)])
    """

    name = "certified_width"

    def __init__(
        self,
        epsilon: float,
        gamma: float = 0.0,
        *,
        loss: str = "logit",
        reduction: str = "mean",
    ) -> None:
        super().__init__(loss, reduction)
        self.epsilon, self.gamma = _radius("epsilon", epsilon), _radius("gamma", gamma)

    @property
    def radii(self) -> list[keras.Variable]:
        """See `Regularizer`."""
        return [self.epsilon, self.gamma]

    def prepare(self, model: keras.Model) -> None:
        """See `Regularizer`."""
        loss = "logits" if self.loss == "logit" else self.loss
        self._bounds = GradientInterval(model, loss, weights_vary=float(self.gamma) > 0)

    def __call__(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """See `Regularizer`."""
        epsilon = tf.cast(self.epsilon, inputs.dtype)
        single_logit = targets.shape[-1] == 1 and self.loss == "logit"
        lower, upper = self._bounds(
            inputs - epsilon,
            inputs + epsilon,
            tf.ones_like(targets) if single_logit else targets,
            tf.cast(self.gamma, inputs.dtype),
        )
        return self._reduce(upper - lower)


class GradientNorm(Regularizer):
    """Squares of the input gradient: double backpropagation (Drucker and Le Cun, 1992).

    Parameters
    ----------
    loss, reduction
        As for `Regularizer`; the default is the gradient of the cross-entropy, as in the original.
    """

    name = "gradient_norm"

    def __init__(self, *, loss: str = "cross-entropy", reduction: str = "mean") -> None:
        super().__init__(loss, reduction)

    def __call__(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """See `Regularizer`."""
        return self._reduce(self._gradient(inputs, targets) ** 2)


class HessianNorm(Regularizer):
    """Squares of the input Hessian times a random vector: an estimate of the Hessian's norm.

    Of a ReLU network only the cross-entropy has a Hessian other than 0 (Dombrowski et al., 2022).

    Parameters
    ----------
    loss, reduction
        As for `Regularizer`.
    seed
        Of the random vectors.
    """

    name = "hessian_norm"

    def __init__(
        self, *, loss: str = "cross-entropy", reduction: str = "mean", seed: int = 0
    ) -> None:
        super().__init__(loss, reduction)
        self.seed = keras.random.SeedGenerator(seed)

    def __call__(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """See `Regularizer`."""
        probe = keras.random.normal(tf.shape(inputs), dtype=inputs.dtype, seed=self.seed)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            along = tf.reduce_sum(self._gradient(inputs, targets) * probe)
        product = tape.gradient(along, inputs)
        return self._reduce(tf.zeros_like(inputs) if product is None else product**2)


class GradientDifference(Regularizer):
    """Squared change of the input gradient between the input and a random point near it.

    What the paper compares with as "l2" (there attributed to Drucker and Le Cun).

    Parameters
    ----------
    epsilon
        l_inf distance from which the point is drawn.
    loss, reduction
        As for `Regularizer`.
    seed
        Of the random points.
    """

    name = "gradient_difference"

    def __init__(
        self, epsilon: float, *, loss: str = "logit", reduction: str = "mean", seed: int = 0
    ) -> None:
        super().__init__(loss, reduction)
        self.epsilon, self.seed = _radius("epsilon", epsilon), keras.random.SeedGenerator(seed)

    @property
    def radii(self) -> list[keras.Variable]:
        """See `Regularizer`."""
        return [self.epsilon]

    def __call__(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """See `Regularizer`."""
        share = keras.random.uniform(tf.shape(inputs), -1, 1, inputs.dtype, seed=self.seed)
        near = inputs + tf.cast(self.epsilon, inputs.dtype) * share
        change = self._gradient(inputs, targets) - self._gradient(near, targets)
        return self._reduce(change**2)


class WorstCaseLoss(Regularizer):
    """Cross-entropy of the worst logits that intervals allow: certified training of predictions.

    Where it is small the label is proved to be predicted in the region. Gowal et al. take
    ``kappa * loss + (1 - kappa) * worst_case_loss``, of which `RegularizedModel` takes the same
    shares with ``alpha = (1 - kappa) / kappa``: 1 for their 0.5.

    Parameters
    ----------
    epsilon
        l_inf radius of the region of inputs, in units of the inputs.

    Raises
    ------
    UnsupportedLayerError
        When it meets a model that `Verifier` refuses.

    No guarantee
    ------------
    Bounds in training are those of the method "ibp" without rounding terms, and of the network
    as it is used (moving statistics, no dropout). They say nothing of explanations. Certify the
    trained model with `Verifier`, and its explanations with `CertifiedGradient`.

    References
    ----------
    Gowal et al.: On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust
    Models, 2018, with the last layer merged with the margins ("elision", section 3).

    Examples
    --------
    >>> trained = RegularizedModel(model, WorstCaseLoss(epsilon=0.025), alpha=1.0)
    >>> trained.compile("adam", "sparse_categorical_crossentropy")
    >>> trained.fit(images, labels, epochs=20, callbacks=[LinearRamp(10)])
    """

    name = "worst_case_loss"

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = _radius("epsilon", epsilon)

    @property
    def radii(self) -> list[keras.Variable]:
        """See `Regularizer`."""
        return [self.epsilon]

    def prepare(self, model: keras.Model) -> None:
        """See `Regularizer`."""
        self._bounds = MarginInterval(model)

    def __call__(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """See `Regularizer`."""
        epsilon = tf.cast(self.epsilon, inputs.dtype)
        if targets.shape[-1] == 1:
            rows = (1 - 2 * targets)[:, None]  # the logit counts against its label
        else:
            rows = tf.eye(targets.shape[-1]) - targets[:, None]
        worst = self._bounds(inputs - epsilon, inputs + epsilon, tf.cast(rows, inputs.dtype))
        if targets.shape[-1] == 1:
            return tf.nn.softplus(worst)[:, 0]
        return tf.reduce_logsumexp(worst, axis=1)


class AdversarialLoss(Regularizer):
    """Cross-entropy at the worst point that sign steps find near the input: adversarial training.

    Parameters
    ----------
    epsilon
        l_inf distance of the points, in units of the inputs.
    steps
        Number of steps, each of 2.5 / steps of the distance, from a random point.
    clip
        Lowest and highest valid values of the inputs, (low, high), numbers or arrays of the shape
        of one input, which the points keep to; None: no limits.
    seed
        Of the random points.

    Raises
    ------
    ValueError
        For a radius below 0, fewer than one step, or a clip that is no range.

    No guarantee
    ------------
    The attack may miss the worst point, and of explanations it knows nothing.

    References
    ----------
    Madry et al.: Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018.

    Examples
    --------
    >>> trained = RegularizedModel(model, AdversarialLoss(0.025, clip=(0, 1)), alpha=1.0)
    >>> trained.compile("adam", "sparse_categorical_crossentropy")
    >>> trained.fit(images, labels, epochs=20, callbacks=[LinearRamp(10)])
    """

    name = "adversarial_loss"

    def __init__(
        self,
        epsilon: float,
        *,
        steps: int = 5,
        clip: tuple[Any, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.epsilon, self.seed = _radius("epsilon", epsilon), keras.random.SeedGenerator(seed)
        self.steps, self.clip = whole_number("steps", steps), clip

    @property
    def radii(self) -> list[keras.Variable]:
        """See `Regularizer`."""
        return [self.epsilon]

    def prepare(self, model: keras.Model) -> None:
        """See `Regularizer`."""
        super().prepare(model)
        shape = tuple(model.input_shape[1:])
        self._limits = None if self.clip is None else valid_range(self.clip, shape, "float32")

    def __call__(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """See `Regularizer`."""
        epsilon = tf.cast(self.epsilon, inputs.dtype)
        share = keras.random.uniform(tf.shape(inputs), -1, 1, inputs.dtype, seed=self.seed)
        points = inputs + epsilon * share
        for _ in range(self.steps):
            with tf.GradientTape() as tape:
                tape.watch(points)
                loss = tf.reduce_sum(self._loss(points, targets))
            points += 2.5 / self.steps * epsilon * tf.sign(tape.gradient(loss, points))
            points = tf.clip_by_value(points, inputs - epsilon, inputs + epsilon)
        if self._limits is not None:
            points = tf.clip_by_value(points, *self._limits)
        return self._loss(tf.stop_gradient(points), targets)

    def _loss(self, points: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """(B,)."""
        logits = self.logits(points)
        if logits.shape[-1] == 1:
            return tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)[:, 0]
        return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


class RegularizedModel(keras.Model):
    """A model that is trained with ``loss + alpha * mean(penalty)``; compile and fit it as usual.

    The mean penalty is logged under the regulariser's name, as in ``certified_width`` and
    ``val_certified_width``. Targets given to `fit` are integer labels, one-hot rows, or 0 and 1
    for a model with one output.

    Parameters
    ----------
    model
        Built Keras classifier, with or without a softmax or sigmoid at its end. Its weights are
        trained in place, and it is what is used, saved and certified afterwards.
    regularizer
        `CertifiedWidth`, `GradientNorm`, `HessianNorm`, `GradientDifference`, `WorstCaseLoss`,
        `AdversarialLoss`, or one of your own.
    alpha
        Weight of the penalty.

    Raises
    ------
    ValueError
        For a negative alpha.
    UnsupportedLayerError
        For a model that cannot be bounded, with `CertifiedWidth` and `WorstCaseLoss`.

    No guarantee
    ------------
    Training makes certificates likely, it is none. See `CertifiedGradient`.

    References
    ----------
    Wicker et al.: Robust Explanation Constraints for Neural Networks, ICLR 2023, section 5.1.

    Examples
    --------
    >>> trained = RegularizedModel(model, CertifiedWidth(0.025), alpha=0.5)
    >>> trained.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> trained.fit(images, labels, epochs=20, callbacks=[LinearRamp(20)])
    >>> CertifiedGradient(model, 0.025).certify(images[:10])
    """

    def __init__(self, model: keras.Model, regularizer: Regularizer, alpha: float = 0.5) -> None:
        if not alpha >= 0:
            raise ValueError(f"alpha must be at least 0. Received: {alpha!r}")
        super().__init__()
        regularizer.prepare(model)
        self.model, self.regularizer, self.alpha = model, regularizer, alpha
        self._penalty = keras.metrics.Mean(regularizer.name)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The model itself."""
        return self.model(inputs, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The compiled loss and the penalty."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        penalty = self.regularizer(tf.cast(x, self.compute_dtype), _targets(y, y_pred.shape[-1]))
        self._penalty.update_state(penalty)
        return loss + self.alpha * tf.reduce_mean(penalty)


class LinearRamp(keras.callbacks.Callback):
    """Callback: the radii of a regulariser grow linearly from 0, epoch by epoch, to their values.

    Parameters
    ----------
    nb_epochs
        Epoch from which on the radii have their full values: in epoch e they have the share
        ``e / nb_epochs``, counted from 1 after the warm-up.
    warm_up
        Number of epochs before, with radii 0.

    Examples
    --------
    >>> trained.fit(images, labels, epochs=30, callbacks=[LinearRamp(20, warm_up=5)])
    """

    def __init__(self, nb_epochs: int, warm_up: int = 0) -> None:
        super().__init__()
        if not nb_epochs >= 1 or not warm_up >= 0:
            raise ValueError(
                f"nb_epochs must be at least 1 and warm_up at least 0. "
                f"Received: {nb_epochs!r} and {warm_up!r}"
            )
        self.nb_epochs, self.warm_up = nb_epochs, warm_up

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Remember the full values."""
        self._full = [float(radius) for radius in self.model.regularizer.radii]

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the values of this epoch."""
        share = np.clip((epoch + 1 - self.warm_up) / self.nb_epochs, 0.0, 1.0)
        for radius, full in zip(self.model.regularizer.radii, self._full):
            radius.assign(share * full)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Restore the full values."""
        for radius, full in zip(self.model.regularizer.radii, self._full):
            radius.assign(full)


def _radius(name: str, value: float) -> keras.Variable:
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0. Received: {value!r}")
    return keras.Variable(float(value), trainable=False, dtype="float32", name=name)


def _targets(targets: tf.Tensor, nb_outputs: int) -> tf.Tensor:
    """Labels as one-hot rows (B, K), or (B, 1) for a single output; float32."""
    targets = tf.convert_to_tensor(targets)
    if nb_outputs == 1:
        return tf.cast(tf.reshape(targets, (-1, 1)), tf.float32)
    if targets.shape.rank == 2 and targets.shape[-1] == nb_outputs:
        return tf.cast(targets, tf.float32)
    return tf.one_hot(tf.cast(tf.reshape(targets, (-1,)), tf.int32), nb_outputs)
