"""The score that a metric watches while features are taken away."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.inputs import evaluate_in_batches
from xcertify.logits import head_of
from xcertify.models import as_rows, channels_last_layer, check_model, flat_rows, outputs_of
from xcertify.operators import (
    Operator,
    as_operator,
    scores_of,
    takes_weights,
    targets_of_operator,
)
from xcertify.settings import Settings
from xcertify.targets import entry_weights, one_hot_targets, output_weights, two_outputs
from xcertify.tracing import traced

_ACTIVATIONS = {None: tf.identity, "softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid}


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
        g: a function (model, inputs, targets) -> (B,), where labels as targets become one-hot rows
        (B, K), or the name of a task, as for `Saliency`. None, "classification" and "regression":
        the sum of targets times outputs, that is the output of the target class.
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
        operator: Operator | str | None = None,
        activation: str | None = None,
    ) -> None:
        check_model(model)
        as_operator(operator)
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
        """Outputs (B, K), flattened; of a single output those of both classes, (B, 2)."""
        outputs = flat_rows(self.outputs(inputs))
        return two_outputs(outputs, self._is_probability) if outputs.shape[1] == 1 else outputs

    def __call__(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Scores (B,) of inputs (B, *shape), float32, with targets as `self.targets` gives them."""
        # a free batch size in the signature: the last, smaller batch is not traced again
        signature = (
            tf.TensorSpec((None, *inputs.shape[1:]), tf.float32),
            tf.TensorSpec((None, *targets.shape[1:]), targets.dtype),
        )
        compiled = self._derive(
            signature, lambda: traced(self._score, input_signature=signature, autograph=False)
        )
        return compiled(inputs, targets)

    def _score(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        operator = as_operator(self.operator)
        if operator is None or takes_weights(operator):
            return tf.reduce_sum(self._rows(inputs) * targets, axis=1)
        return scores_of(operator, self.outputs, inputs, targets)

    def targets(self, inputs: np.ndarray, targets: Any, batch_size: int | None) -> np.ndarray:
        """Targets as weights of `_rows`, or as a function of one's own is given them."""

        def outputs() -> np.ndarray:
            return as_rows(evaluate_in_batches(self.outputs, batch_size, inputs))

        if not takes_weights(as_operator(self.operator)):
            return targets_of_operator(outputs, targets, len(inputs))
        shape = tuple(self.outputs(tf.constant(inputs[:1])).shape[1:])
        if any(size != 1 for size in shape[:-1]):
            return entry_weights(targets, len(inputs), shape)
        nb_outputs = math.prod(shape)
        if nb_outputs == 1 and self.activation == "softmax":
            raise ValueError(
                "activation='softmax' of a model with one output is always 1; take 'sigmoid' if it "
                "is the logit of two classes. Received: activation='softmax'"
            )

        if nb_outputs == 1:
            return output_weights(outputs(), targets, self._is_probability)
        return one_hot_targets(outputs, targets, len(inputs), nb_outputs)
