"""An attribution with a derivative: of a smooth model, or of its copy with softplus for ReLU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attacks.maps import Explanation
from xcertify.attributions.gradient_means import GradientMean, gradient_mean
from xcertify.attributions.gradients import GradientExplainer
from xcertify.attributions.jacobian import Jacobian
from xcertify.bounds import Activation
from xcertify.checks import positive, whole_number
from xcertify.inputs import in_batches
from xcertify.logits import logits_of, two_classes
from xcertify.settings import setting_names
from xcertify.smoothing import SmoothCopy, kinks

ATTRIBUTIONS = {
    "saliency": "gradient",
    "gradient_input": "gradient_input",
    "integrated_gradients": "integrated_gradients",
}

AUTO = "auto"
# What `beta="auto"` tries, and how far logits may be off, in units of the margin to the next class.
AUTO_BETAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
AUTO_SHARE = 0.1


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
        beta: float | str | None,
        *,
        steps: int,
        baseline_value: Any,
        **settings: Any,
    ) -> None:
        refuse_explainer(attribution)
        if not callable(attribution) and attribution not in ATTRIBUTIONS:
            raise ValueError(
                f"attribution must be one of {', '.join(ATTRIBUTIONS)}, or a callable. "
                f"Received: {attribution!r}"
            )
        if isinstance(beta, str) and beta != AUTO:
            raise ValueError(
                f"beta must be {AUTO!r}, a number above 0, or None. Received: {beta!r}"
            )
        if not isinstance(beta, str) and beta is not None:
            positive("beta", beta)
        super().__init__(model, **settings)
        self.attribution, self.beta = attribution, beta
        self.steps, self.baseline_value = whole_number("steps", steps), baseline_value

    @property
    def network(self) -> Any:
        """What is explained: the model, or with `beta` its copy with softplus for ReLU.

        Raises
        ------
        ValueError
            With ``beta="auto"`` for a model that needs a copy, since inputs may have several.
        """
        smooth = self._smooth
        if smooth is None:
            return self.model
        if self.beta == AUTO:
            raise ValueError(
                "the network that is explained is chosen for each input with beta='auto': give a "
                "number, such as the largest of explainer.betas(inputs). Received: beta='auto'"
            )
        return smooth.model

    def betas(self, inputs: Any) -> np.ndarray:
        """The softplus of the copy that each input is explained with, (N,); inf: the model itself.

        Of ``beta="auto"`` it is the smallest of `AUTO_BETAS` with which no logit of the copy is off
        by more than a tenth of the margin between the two largest logits of the model (of a single
        logit, by more than a tenth of it), so that the class stays; the last one where none is. It
        depends on no other input.
        """
        inputs, _ = self._prepare(inputs, None)
        return self._betas(inputs)

    def _betas(self, inputs: np.ndarray) -> np.ndarray:
        if self._smooth is None:
            return np.full(len(inputs), math.inf)
        if isinstance(self.beta, (int, float)):
            return np.full(len(inputs), float(self.beta))
        logits = self._classes(self._logits, inputs)
        second, first = np.sort(logits, axis=1)[:, -2:].T
        found = np.full(len(inputs), AUTO_BETAS[-1])
        open_ones = np.arange(len(inputs))
        for beta in AUTO_BETAS:
            self._smooth.beta.assign(beta)
            copied = self._classes(self._logits_of_copy, inputs[open_ones])
            far = np.abs(copied - logits[open_ones]).max(axis=1)
            fits = far <= AUTO_SHARE * (first - second)[open_ones]
            found[open_ones[fits]] = beta
            open_ones = open_ones[~fits]
            if not len(open_ones):
                break
        return found

    def _classes(self, logits_at: Callable, inputs: np.ndarray) -> np.ndarray:
        """Logits of two classes at least, (N, K) float64."""
        return two_classes(logits_at(inputs)).numpy().astype(np.float64)

    def _logits_of_copy(self, inputs: np.ndarray) -> np.ndarray:
        at = self._compile(self._copied_logits, ((None, *inputs.shape[1:]), tf.float32))
        return np.concatenate([at(part) for part in in_batches(inputs, self._nb_at_once)])

    def _copied_logits(self, points: tf.Tensor) -> tf.Tensor:
        copy = self.model if self._smooth is None else self._smooth.model
        return logits_of(copy, self._start)(points)

    def _by_network(self, inputs: np.ndarray) -> Iterator[tuple[np.ndarray, Any]]:
        """Numbers of inputs that have one network, (M,), and the explainer of that network."""
        if self.beta != AUTO or self._smooth is None:
            yield np.arange(len(inputs)), self
            return
        betas = self._betas(inputs)
        for beta in np.unique(betas).tolist():
            yield np.flatnonzero(betas == beta), self._with(beta)

    def _with(self, beta: float) -> Any:
        """The same explainer of the copy with a given beta, as it is now."""
        settings = {name: getattr(self, name) for name in setting_names(type(self))}
        kind: Any = type(self)
        explainer = self._derive(("beta", beta), lambda: kind(**(settings | {"beta": beta})))
        explainer._update()
        return explainer

    @property
    def _smooth(self) -> SmoothCopy | None:
        """The copy; None where the model itself is explained."""
        return self._derive("smooth", self._smooth_copy)

    def _smooth_copy(self) -> SmoothCopy | None:
        if self.beta is None or not isinstance(self.model, keras.Model):
            return None
        if self.beta == AUTO and not any(_flat(self.model)):  # none is needed
            return None
        smooth = SmoothCopy(self.model)
        if self.beta == AUTO:  # unless it does not help
            return None if any(_flat(smooth.model)) else smooth
        smooth.beta.assign(self.beta)
        return smooth if smooth.differs else None

    def _update(self) -> None:
        """Have the copy follow the model; one must not be made while a graph is traced."""
        if self._smooth is not None:
            self._smooth.update()

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
        parts = [*self._by_network(inputs)]
        maps = [one._jacobian.maps(inputs[some], weights[some]) for some, one in parts]
        order = np.argsort(np.concatenate([some for some, _ in parts]))
        return np.concatenate(maps)[order]

    def _resolve(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        self._update()  # first in every call
        return super()._resolve(inputs, targets)

    def _logits_at(self, points: tf.Tensor) -> tf.Tensor:
        network = self.model if self.beta == AUTO else self.network
        logits = self._derive("logits", lambda: logits_of(network, self._start))
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
        for name, facts in _flat(self.network):
            cure = "give beta=, such as beta='auto', for a copy of the model with softplus instead"
            if self.beta is not None:
                cure = "beta replaces ReLU and LeakyReLU only: use one of them, or a smooth one"
            raise ValueError(
                f"the activation {facts.name} of the layer '{name}' has a second derivative of "
                f"zero almost everywhere, so that the estimate would miss how the attribution "
                f"changes; {cure}. Received: beta={self.beta!r}"
            )


def _flat(network: Any) -> Iterator[tuple[str, Activation]]:
    """Layers whose activation has a second derivative of zero almost everywhere."""
    for name, facts in kinks(network):
        if facts is not None and facts.piecewise_linear:
            yield name, facts


def refuse_explainer(attribution: Any) -> None:
    """A ValueError for an explainer, whose maps have no derivative that could be taken."""
    if not hasattr(attribution, "explain"):
        return
    kind = type(attribution).__name__
    named = {"Saliency": "saliency", "GradientInput": "gradient_input"}
    named |= {"IntegratedGradients": "integrated_gradients"}
    sign = ", which is the gradient with its sign" if kind == "Saliency" else ""
    cure = f"write attribution={named[kind]!r}{sign}. " if kind in named else ""
    raise ValueError(
        f"attribution must be one of {', '.join(ATTRIBUTIONS)}, or a function (model, inputs, "
        f"targets) -> maps of TensorFlow operations, since its derivative is taken. An explainer "
        f"is a black box: {cure}How far maps of any explainer move is measured, without a "
        f"derivative and without a proof, by xcertify.metrics.AverageStability(model, inputs)"
        f"(explainer). Received: an explainer, {kind}"
    )
