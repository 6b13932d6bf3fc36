"""Randomisation checks: whether a map changes with the weights, and with the class explained.

Source: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.inputs import evaluate_in_batches
from xcertify.logits import classes_of, head_of, logits_of
from xcertify.metrics.base import MetricResult
from xcertify.metrics.of_explainers import ExplainerMetric
from xcertify.metrics.random_models import WEIGHTS, RandomModel, explainer_of
from xcertify.metrics.similarity import SIMILARITIES, check_similarity
from xcertify.models import is_graph
from xcertify.progress import progress_bar
from xcertify.targets import logit_weights


@dataclass(frozen=True, eq=False, repr=False)
class RandomizationResult(MetricResult):
    """What `ModelRandomization` found.

    Attributes
    ----------
    axis
        1 to P: how many layers are random, or with ``cascading=False`` which one is.
    curves
        Similarity of the maps to those of the trained model, (N, P).
    scores
        Mean of each curve, (N,).
    tied
        (N,) bool: where a map was constant, so that its correlation counts as 0.
    layers
        Names of the P layers, in the order in which they become random.
    similarities
        The curves of all measures that the maps allow, by name.
    """

    layers: tuple[str, ...]
    similarities: dict[str, np.ndarray]


class ModelRandomization(ExplainerMetric):
    """Model randomisation check (lower is better): whether maps change when weights become random.

    Layer by layer, from the outputs to the inputs, the weights of a copy of the model become
    random; after each, maps of it are compared with those of the trained model. An explainer whose
    maps stay alike explains something else than what the model has learned. Seen the other way
    round, a low similarity is needed and proves nothing: random maps have it as well.

    The model and the explainer are not touched: both are copied.

    Parameters
    ----------
    model
        Sequential or functional Keras model, (B, *shape) -> (B, K). Copied is the model of the
        explainer, if it has one of its own.
    inputs
        Images (N, H, W, C), time series (N, T, W) or tabular data (N, W).
    targets
        What is explained, of all models: labels (N,), rows (N, K), or None for the class that the
        trained model predicts.
    batch_size
        Number of inputs that are explained at once; None for all.
    cascading
        True: layers that have become random stay so. False: each layer in turn is the only one.
    top_down
        Whether layers are taken from the outputs to the inputs (True), or the other way.
    stop_layer
        Where to stop, as in Xplique's `ProgressiveLayerRandomization`: the name of the layer that
        is left, how many layers become random (int), or which share of them (float). None: all do.
    weights
        "initial": drawn anew by the initializers of the layers, as in the paper; weights whose
        initializer is not known are permuted. "permuted": the trained weights, each array in random
        order. Statistics, such as those of `BatchNormalization`, stay.
    similarity
        Of two maps, the channels of images being averaged: "spearman" (rank correlation),
        "absolute spearman" (of magnitudes) or "ssim" (of images).
    seed
        Of the weights.
    verbose
        Show a progress bar.

    Raises
    ------
    ValueError
        For arguments that do not fit, a model that cannot be copied, and an explainer without a
        `model` that is no function model -> explainer.

    No guarantee
    ------------
    An empirical measure. Rank correlations of noisy maps fall for noise alone, and networks with
    random upper layers still pass on what the lower ones respond to (Binder et al., CVPR 2023).

    References
    ----------
    Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim: Sanity Checks for Saliency Maps, NeurIPS 2018.

    Examples
    --------
    >>> metric = ModelRandomization(model, images, labels)
    >>> metric.evaluate(Saliency(model))                     # mean over the layers
    >>> metric.detailed_evaluate(lambda model: Saliency(model, output_layer=-2)).mean_curve
    """

    higher_is_better = False

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 64,
        *,
        cascading: bool = True,
        top_down: bool = True,
        stop_layer: str | int | float | None = None,
        weights: str = "initial",
        similarity: str = "spearman",
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        if hasattr(batch_size, "randomize"):
            raise ValueError(
                f"ModelRandomization has no strategy: ProgressiveLayerRandomization(stop_layer, "
                f"reverse) is written stop_layer=..., top_down=.... Received: {batch_size!r}"
            )
        super().__init__(model, inputs, targets, batch_size, seed=seed, verbose=verbose)
        if weights not in WEIGHTS:
            raise ValueError(
                f"weights must be one of {', '.join(map(repr, WEIGHTS))}. Received: {weights!r}"
            )
        check_similarity(similarity)
        self.cascading, self.top_down, self.stop_layer = cascading, top_down, stop_layer
        self.weights, self.similarity = weights, similarity

    def detailed_evaluate(self, explainer: Any) -> RandomizationResult:
        """Curves of every sample.

        Parameters
        ----------
        explainer
            Something with a `model`, or a function model -> explainer, which is called for every
            random model.
        """
        model = getattr(explainer, "model", None)
        model = model if is_graph(model) else self.model
        random = RandomModel(model, self.weights, self.seed)
        layers = self._layers(random.names)
        targets = self._rows(self.inputs)
        other = explainer_of(explainer, random.model)
        original = self._explain(other, self.inputs, targets)  # the copy is as the model still
        found = []
        with progress_bar(
            len(layers), "layer", "ModelRandomization", verbose=self.verbose
        ) as progress:
            for number, name in enumerate(layers):
                if number and not self.cascading:
                    random.restore(layers[number - 1])
                random.randomize(name)
                if not hasattr(explainer, "model"):  # made anew, as it may keep weights
                    other = explainer_of(explainer, random.model)
                maps = self._explain(other, self.inputs, targets)
                found.append(_all_similarities(original, maps, self.similarity))
                progress.update()
        curves = {
            measure: np.stack([step[measure][0] for step in found], axis=1) for measure in found[0]
        }
        constant = np.any([step[self.similarity][1] for step in found], axis=0)
        return RandomizationResult(
            metric="ModelRandomization",
            axis=np.arange(1, len(layers) + 1),
            axis_label="random layers" if self.cascading else "random layer",
            curves=curves[self.similarity],
            scores=curves[self.similarity].mean(axis=1),
            tied=constant,
            higher_is_better=False,
            layers=layers,
            similarities=curves,
        )

    def _layers(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those that become random, in this order."""
        names = names[::-1] if self.top_down else names
        stop = self.stop_layer
        if stop is None:
            return names
        if isinstance(stop, str) and stop in names:
            number = names.index(stop)
        elif isinstance(stop, int) and not isinstance(stop, bool):
            number = stop
        elif isinstance(stop, float) and 0 <= stop <= 1:
            number = int(len(names) * stop)
        else:
            number = 0
        if not 1 <= number <= len(names):
            raise ValueError(
                f"stop_layer must be the name of a layer behind the first of {', '.join(names)}, a "
                f"number of them from 1 to {len(names)}, or a share that is at least one of them. "
                f"Received: {stop!r}"
            )
        return names[:number]


class RandomLogit(ExplainerMetric):
    """Random logit check (lower is better): whether maps change with the class that is explained.

    The map of the target class is compared with that of another class, drawn at random. Maps that
    stay alike show what is in the input, not what speaks for the class.

    Parameters
    ----------
    model
        Keras model or callable, (B, *shape) -> (B, K), of at least two classes; a single logit is
        that of class 1.
    inputs, batch_size
        As for `ModelRandomization`.
    targets
        The classes: labels (N,), one-hot rows (N, K), or None for the predicted ones.
    similarity
        As for `ModelRandomization`; Xplique's metric of this name has "ssim".
    seed
        Of the other classes.
    verbose
        Not used: there are two calls of the explainer.

    Raises
    ------
    ValueError
        For arguments that do not fit.

    No guarantee
    ------------
    An empirical measure: maps of different classes may well be alike, with two classes for
    instance, of which one speaks against the other.

    References
    ----------
    Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim: Sanity Checks for Saliency Maps, NeurIPS 2018;
    Sixt, Granz, Landgraf: When Explanations Lie, ICML 2020.

    Examples
    --------
    >>> RandomLogit(model, images, labels, similarity="ssim").evaluate(Saliency(model))
    """

    higher_is_better = False

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 64,
        *,
        similarity: str = "spearman",
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, inputs, targets, batch_size, seed=seed, verbose=verbose)
        check_similarity(similarity)
        self.similarity = similarity

    def detailed_evaluate(self, explainer: Any) -> MetricResult:
        """Similarities of every sample; curves are of that one value, (N, 1)."""
        logits = evaluate_in_batches(logits_of(self.model), self._nb_at_once, self.inputs)
        classes = classes_of(self.model, logits, self.targets)
        others = np.random.default_rng(self.seed).integers(
            max(logits.shape[1], 2) - 1, size=len(logits)
        )
        others = others + (others >= classes)
        is_binary = head_of(self.model) == "sigmoid"
        first, second = (
            self._explain(explainer, self.inputs, logit_weights(logits, labels, is_binary))
            for labels in (classes, others)
        )
        scores, constant = SIMILARITIES[self.similarity](first, second)
        return MetricResult(
            metric="RandomLogit",
            axis=np.ones(1),
            axis_label="another class",
            curves=scores[:, None],
            scores=scores,
            tied=constant,
            higher_is_better=False,
        )


def _all_similarities(
    first: np.ndarray, second: np.ndarray, wanted: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By all measures that the maps allow; a ValueError if the wanted one is not among them."""
    names = [name for name in SIMILARITIES if name in (wanted, "spearman", "absolute spearman")]
    if first.ndim == 4 and "ssim" not in names:
        names.append("ssim")
    return {name: SIMILARITIES[name](first, second) for name in names}
