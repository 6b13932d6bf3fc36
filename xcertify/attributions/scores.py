"""What explainers that prove nothing share: the logits, and the one number that they explain."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.attributions.base import Explainer
from xcertify.logits import head_of, logits_of
from xcertify.targets import logit_weights
from xcertify.tracing import traced


class LogitExplainer(Explainer):
    """An explainer that evaluates the logits, of any model and in graphs that are traced once."""

    def _logits(self, inputs: np.ndarray) -> np.ndarray:
        logits = self._compile(self._logits_at, ((None, *inputs.shape[1:]), tf.float32))
        return np.concatenate([logits(part) for part in parts(inputs, self._nb_at_once)])

    def _logits_at(self, points: tf.Tensor) -> tf.Tensor:
        logits = self._derive("logits", lambda: logits_of(self.model, self._start))
        return tf.cast(logits(points), tf.float32)

    def _compile(self, function: Callable, *arguments: tuple[tuple, tf.DType]) -> Callable:
        """A method as a graph; `arguments` are the shape and type of each argument."""
        signature = [tf.TensorSpec(*argument) for argument in arguments]
        return self._derive(
            (function.__name__, *arguments),
            lambda: traced(function, input_signature=signature, autograph=False),
        )


class ScoreExplainer(LogitExplainer):
    """An explainer of a score of each input: the sum of its targets times the logits.

    With labels or one-hot targets that is the logit of a class. Of a single logit, the negative is
    the logit of class 0; without targets it is explained itself, or, where a sigmoid stands behind
    it, the predicted class (see `xcertify.targets`).
    """

    def _explain(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        return self._attributions(inputs, self._weights(inputs, targets))

    def _weights(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        """Weights of the logits whose sum is explained, (N, K) float32."""
        logits = self._logits(inputs)
        return logit_weights(logits, targets, head_of(self.model) == "sigmoid")

    @abstractmethod
    def _attributions(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Maps of inputs whose score is the sum of weights (N, K) times logits."""


def parts(array: Any, size: int) -> Iterator[Any]:
    """Pieces of at most `size` of the first axis."""
    return (array[first : first + size] for first in range(0, len(array), size))
