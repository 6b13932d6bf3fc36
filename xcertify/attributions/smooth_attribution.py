"""An attribution with a derivative: of a smooth model, or of its copy with softplus for ReLU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attacks.maps import Explanation
from xcertify.attributions.gradient_means import GradientMean, gradient_mean
from xcertify.attributions.gradients import GradientExplainer
from xcertify.attributions.jacobian import Jacobian
from xcertify.checks import whole_number
from xcertify.logits import logits_of
from xcertify.smoothing import SmoothCopy, kinks

ATTRIBUTIONS = {
    "saliency": "gradient",
    "gradient_input": "gradient_input",
    "integrated_gradients": "integrated_gradients",
}


def attribution_of(attribution: str | Explanation) -> str:
    """The name in `gradient_means` of an attribution of which something can be proved.

    Raises
    ------
    ValueError
        For a callable.
    """
    if not isinstance(attribution, str):
        raise ValueError(
            f"proved=True needs an attribution by name: {', '.join(ATTRIBUTIONS)}. "
            f"Received: {attribution!r}"
        )
    return ATTRIBUTIONS[attribution]


class SmoothAttribution(GradientExplainer):
    """What `AttributionBound` explains; see there for the settings.

    Parameters
    ----------
    model, attribution, beta, steps, baseline_value, reducer, batch_size, seed, verbose
        As for `AttributionBound`.
    """

    def __init__(
        self,
        model: keras.Model,
        attribution: str | Explanation,
        beta: float | None,
        *,
        steps: int,
        baseline_value: Any,
        **settings: Any,
    ) -> None:
        if not callable(attribution) and attribution not in ATTRIBUTIONS:
            raise ValueError(
                f"attribution must be one of {', '.join(ATTRIBUTIONS)}, or a callable. "
                f"Received: {attribution!r}"
            )
        if beta is not None and not 0 < beta < math.inf:
            raise ValueError(f"beta must be a number above 0, or None. Received: {beta!r}")
        super().__init__(model, **settings)
        self.attribution, self.beta = attribution, beta
        self.steps, self.baseline_value = whole_number("steps", steps), baseline_value

    @property
    def network(self) -> Any:
        """What is explained: the model, or with `beta` its copy with softplus for ReLU."""
        smooth = self._derive("smooth", self._smooth_copy)
        return self.model if smooth is None else smooth.model

    def _smooth_copy(self) -> SmoothCopy | None:
        if self.beta is None or not isinstance(self.model, keras.Model):
            return None
        smooth = SmoothCopy(self.model)
        smooth.beta.assign(self.beta)
        return smooth if smooth.differs else None

    def explanation(self, model: Callable, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """The attribution as TensorFlow operations, in the form that `xcertify.attacks` takes.

        Parameters
        ----------
        model
            Gives logits (B, K); that of `network` for what is certified here.
        inputs, targets
            (B, *shape) and weights of the logits (B, K).

        Returns
        -------
        maps
            (B, *shape), or (B, *map) of a callable `attribution`.
        """
        return self._explain_with(tuple(inputs.shape[1:]))(model, inputs, targets)

    def _explain_with(self, shape: tuple[int, ...]) -> Explanation:
        """The attribution of inputs of a shape."""
        return self.attribution if callable(self.attribution) else self._mean(shape).maps

    def _mean(self, shape: tuple[int, ...]) -> GradientMean:
        """A named attribution of inputs of a shape."""
        settings = {"steps": self.steps, "baseline_value": self.baseline_value}
        name = attribution_of(self.attribution)
        return self._derive(("mean", shape), lambda: gradient_mean(name, shape, **settings))

    def _of_features(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return self._jacobian.maps(inputs, weights)

    def _resolve(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        # first in every call: a copy must not be made while a graph is traced, nor be outdated
        smooth = self._derive("smooth", self._smooth_copy)
        if smooth is not None:
            smooth.update()
        return super()._resolve(inputs, targets)

    def _logits_at(self, points: tf.Tensor) -> tf.Tensor:
        logits = self._derive("logits", lambda: logits_of(self.network, self._start))
        return tf.cast(logits(points), tf.float32)

    @property
    def _jacobian(self) -> Jacobian:
        """The attribution and its derivative, compiled."""
        nb_gradients = self.steps if self.attribution == "integrated_gradients" else 1
        size = max(1, self._nb_at_once // nb_gradients)
        name = getattr(self.model, "name", self.model)
        return self._derive(
            "jacobian", lambda: Jacobian(self.explanation, self._logits_at, size, name)
        )

    def _refuse_without_curvature(self) -> None:
        """A ValueError for layers whose second derivative is zero almost everywhere."""
        for name, facts in kinks(self.network):
            if facts is None or not facts.piecewise_linear:
                continue
            cure = "give beta=, such as beta=10.0, for a copy of the model with softplus instead"
            if self.beta is not None:
                cure = "beta replaces ReLU and LeakyReLU only: use one of them, or a smooth one"
            raise ValueError(
                f"the activation {facts.name} of the layer '{name}' has a second derivative of "
                f"zero almost everywhere, so that the estimate would miss how the attribution "
                f"changes; {cure}. Received: beta={self.beta!r}"
            )
