"""What all metrics share: the score that they watch, their result, and their class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from xcertify.checks import nb_at_once
from xcertify.inputs import as_arrays, input_shape_of
from xcertify.logits import head_of
from xcertify.models import as_rows, channels_last_layer, check_model, outputs_of
from xcertify.settings import Settings
from xcertify.targets import one_hot_targets, output_weights, two_outputs
from xcertify.tracing import traced

_ACTIVATIONS = {None: tf.identity, "softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid}


@dataclass(frozen=True, eq=False)
class MetricResult:
    """What a metric found, the same for all metrics.

    Attributes
    ----------
    metric
        Name of the metric.
    axis, axis_label
        Where the curves are sampled, (P,), and what that is.
    curves
        One curve per sample, (N, P).
    scores
        The metric, one value per sample, (N,).
    tied
        (N,) bool: True where equal attributions had to be told apart by the metric's tie rule, so
        that the explanation alone does not decide the score.
    higher_is_better
        How to read `scores`.
    """

    metric: str
    axis: np.ndarray
    axis_label: str
    curves: np.ndarray
    scores: np.ndarray
    tied: np.ndarray
    higher_is_better: bool

    @property
    def mean_curve(self) -> np.ndarray:
        """Mean of the curves over the samples, (P,)."""
        return self.curves.mean(axis=0)

    @property
    def score(self) -> float:
        """Mean of the scores over the samples."""
        return float(self.scores.mean())

    @property
    def nb_tied(self) -> int:
        """Number of samples whose score depends on the tie rule."""
        return int(self.tied.sum())

    def __repr__(self) -> str:
        better = "higher" if self.higher_is_better else "lower"
        return (
            f"<{self.metric} {self.score:.4f} ({better} is better) over {len(self.scores)} "
            f"samples, {self.nb_tied} with ties>"
        )


class Score(Settings):
    """The number that a metric watches, g(f, x, y), compiled once for batches of any size.

    A model with one output is looked at as `xcertify.targets` says: the score of class 1 is the
    output, that of class 0 its negative, or 1 - p where the output is a probability p (a Keras
    model that ends with a sigmoid, or ``activation="sigmoid"``).

    Parameters
    ----------
    model
        Keras model, TensorFlow callable, or function of arrays, (B, *shape) -> (B, K); Keras models
        are called at inference, with images that have channels last (see
        `xcertify.models.channels_last_layer`). The score is taken of what it returns, be it logits
        or probabilities.
    operator
        g: a callable (model, inputs, targets) -> (B,), as in Xplique. None: the sum of targets
        times outputs, that is the output of the target class.
    activation
        None, "softmax" or "sigmoid": applied to the outputs of `model` first. Fidelity curves are
        usually drawn of probabilities, so "softmax" belongs to a model that returns logits (and
        None to one that ends in a softmax).

    Raises
    ------
    ValueError
        For a model or an operator that cannot be called, and an unknown activation.
    """

    def __init__(
        self,
        model: Callable,
        operator: Callable | None = None,
        activation: str | None = None,
    ) -> None:
        check_model(model)
        if operator is not None and not callable(operator):
            raise ValueError(
                f"operator must be None or a callable (model, inputs, targets) -> (B,). "
                f"Received: {operator!r}"
            )
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {list(_ACTIVATIONS)}. Received: {activation!r}"
            )
        self.model, self.operator, self.activation = model, operator, activation

    def outputs(self, inputs: tf.Tensor) -> tf.Tensor:
        """Outputs of the model after the activation, (B, K) float32."""
        start = self._derive("start", lambda: channels_last_layer(self.model))
        model = self._derive("outputs", lambda: outputs_of(self.model, start))
        return _ACTIVATIONS[self.activation](tf.cast(model(inputs), tf.float32))

    @property
    def _is_probability(self) -> bool:
        """Whether a single output is known to be the probability of class 1."""
        if self.activation is not None:
            return self.activation == "sigmoid"
        return self._derive("head", lambda: head_of(self.model)) == "sigmoid"

    def _rows(self, inputs: tf.Tensor) -> tf.Tensor:
        """Outputs (B, K); of a single output those of both classes, (B, 2)."""
        outputs = as_rows(self.outputs(inputs))
        return two_outputs(outputs, self._is_probability) if outputs.shape[1] == 1 else outputs

    def __call__(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Scores (B,) of inputs (B, *shape), float32, with targets as `self.targets` gives them."""
        # a free batch size in the signature: the last, smaller batch is not traced again
        signature = (
            tf.TensorSpec((None, *inputs.shape[1:]), tf.float32),
            tf.TensorSpec((None, *targets.shape[1:]), targets.dtype),
        )
        own = {"input_signature": signature, "autograph": self.operator is not None}
        compiled = self._derive(signature, lambda: traced(self._score, **own))
        return compiled(inputs, targets)

    def _score(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        if self.operator is None:
            return tf.reduce_sum(self._rows(inputs) * targets, axis=1)
        scores = tf.cast(self.operator(self.outputs, inputs, targets), tf.float32)
        return tf.ensure_shape(scores, [None])

    def targets(self, inputs: np.ndarray, targets: Any, batch_size: int) -> np.ndarray:
        """Targets as weights of `_rows`; with an operator they are its own affair and left."""
        if self.operator is not None and targets is not None:
            return targets
        first = as_rows(self.outputs(tf.constant(inputs[:1])))
        if first.shape[1] == 1 and self.activation == "softmax":
            raise ValueError(
                "activation='softmax' of a model with one output is always 1; take 'sigmoid' if it "
                "is the logit of two classes. Received: activation='softmax'"
            )

        def outputs() -> np.ndarray:
            starts = range(0, len(inputs), batch_size)
            parts = [self.outputs(tf.constant(inputs[s : s + batch_size])) for s in starts]
            return np.concatenate([as_rows(part).numpy() for part in parts])

        if first.shape[1] == 1:
            return output_weights(outputs(), targets, self._is_probability)
        return one_hot_targets(outputs, targets, len(inputs), first.shape[1])


def as_explanations(explanations: Any, inputs: np.ndarray) -> np.ndarray:
    """One attribution per feature: (N, H, W) for images, else the shape of the inputs, float64.

    Parameters
    ----------
    explanations
        (N, H, W), (N, H, W, 1) or (N, H, W, C) for images, of which the channels are averaged as
        Xplique does; (N, T, W) for time series; (N, W) for tabular data.
    inputs
        The inputs that they explain.

    Raises
    ------
    ValueError
        For another shape, or values that are NaN or infinite (the first such sample is named).
    """
    explanations = np.asarray(explanations)
    accepted = [inputs.shape]
    if inputs.ndim == 4:
        accepted = [inputs.shape[:-1], (*inputs.shape[:-1], 1), inputs.shape]
    if explanations.shape not in accepted or explanations.dtype.kind not in "fiub":
        wanted = " or ".join(str(shape) for shape in dict.fromkeys(accepted))
        raise ValueError(
            f"explanations must have the shape {wanted}, as the inputs. "
            f"Received: {explanations.shape} of {explanations.dtype}"
        )
    explanations = explanations.astype(np.float64)
    finite = np.isfinite(explanations).reshape(len(explanations), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"explanations have NaN or infinite values in sample {int(np.argmin(finite))}: a "
            f"score of them would mean nothing; see why the explainer gave them"
        )
    if explanations.ndim == 4:
        explanations = explanations.mean(axis=-1)
    return explanations


def importance_ranks(
    explanations: np.ndarray, counts: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rank of each feature, 0 for the most important, and which samples the tie rule decides.

    Equal attributions are ranked in one random order of the features, the same for all samples.

    Parameters
    ----------
    explanations
        (N, *features), without NaN.
    counts
        The numbers of features that the metric cuts the ranks at.
    seed
        Of the random order.

    Returns
    -------
    ranks, tied
        (N, *features) int32, and (N,) bool: True where a cut falls between equal features.
    """
    flat = explanations.reshape(len(explanations), -1)
    nb_features = flat.shape[1]
    shuffled = np.random.default_rng(seed).permutation(nb_features)
    order = shuffled[np.argsort(-flat[:, shuffled], axis=1, kind="stable")]
    ranks = np.empty(flat.shape, np.int32)
    np.put_along_axis(ranks, order, np.arange(nb_features, dtype=np.int32)[None], axis=1)

    inner = counts[(counts > 0) & (counts < nb_features)]
    values = np.take_along_axis(flat, order, axis=1)
    tied = (values[:, inner - 1] == values[:, inner]).any(axis=1)
    return ranks.reshape(explanations.shape), tied


class Metric(Settings):
    """A quality of explanations, measured on fixed inputs.

    A metric is built once for a model and inputs, and then evaluates any number of explanations::

        deletion = Deletion(model, images, labels, activation="softmax")
        deletion.evaluate(maps)                  # one number
        deletion.evaluate_samples(maps)          # (N,)
        deletion.detailed_evaluate(maps)         # a MetricResult, with curves

    All its settings may be assigned at any time; see `Settings`.

    Attributes
    ----------
    higher_is_better
        How to read the score.
    """

    higher_is_better: ClassVar[bool]

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 512,
        operator: Callable | None = None,
        activation: str | None = None,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        Score(model, operator, activation)  # refuses what it does not take before any work
        nb_at_once(batch_size)
        self.model, self.operator, self.activation = model, operator, activation
        self.inputs, self.targets = as_arrays(inputs, targets, input_shape_of(model))
        if self.inputs.ndim > 4:
            raise ValueError(
                f"inputs must be images (N, H, W, C), time series (N, T, W) or tabular (N, W). "
                f"Received: {self.inputs.shape}"
            )
        self.batch_size, self.seed, self.verbose = batch_size, seed, verbose

    @property
    def _points(self) -> np.ndarray:
        """The inputs; images have their channels last, whatever the model takes."""
        start = self._derive("start", lambda: channels_last_layer(self.model))
        return self.inputs if start is None else np.moveaxis(self.inputs, 1, -1)

    @property
    def _score(self) -> Score:
        return self._derive("score", lambda: Score(self.model, self.operator, self.activation))

    @abstractmethod
    def detailed_evaluate(self, explanations: Any) -> MetricResult:
        """Curves and scores of every sample."""

    def evaluate_samples(self, explanations: Any) -> np.ndarray:
        """The score of every sample, (N,)."""
        return self.detailed_evaluate(explanations).scores

    def evaluate(self, explanations: Any) -> float:
        """The score: the mean over the samples.

        Parameters
        ----------
        explanations
            One per input: (N, H, W), (N, H, W, 1) or (N, H, W, C) for images, (N, T, W) for time
            series, (N, W) for tabular data. Larger means more important; the sign counts.

        Raises
        ------
        ValueError
            For another shape, or NaN or infinite values.
        """
        return self.detailed_evaluate(explanations).score

    def __call__(self, explanations: Any) -> float:
        """The same as `evaluate`."""
        return self.evaluate(explanations)
