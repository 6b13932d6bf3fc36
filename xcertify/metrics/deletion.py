"""Deletion and insertion: how the score follows as important features go, or come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.metrics.base import Metric, MetricResult, channels_last, inputs_of
from xcertify.metrics.baselines import Baseline
from xcertify.metrics.explanations import as_explanations, importance_ranks, step_counts
from xcertify.metrics.replaced import ReplacedScores
from xcertify.metrics.scores import Score


def deletion(
    model: Callable,
    inputs: Any,
    targets: Any,
    explanations: Any,
    *,
    operator: Callable | str | None = None,
    activation: str | None = None,
    **settings: Any,
) -> MetricResult:
    """Deletion: the score while the most important features are taken away, step by step.

    Parameters
    ----------
    model, inputs, targets, operator, activation, **settings
        As for the class `Deletion`, which evaluates many explanations with one compiled model.
    explanations
        One per input, as for `Metric.evaluate`.

    Returns
    -------
    result
        `axis`: share of the features that are deleted; `curves`: the score there.

    No guarantee
    ------------
    An empirical measure; see `Deletion`.

    Examples
    --------
    >>> deletion(model, images, labels, maps, activation="softmax").score
    """
    score = Score(model, operator, activation)
    inputs, targets = inputs_of(model, inputs, targets)
    inputs = channels_last(model, inputs)
    return importance_curves(score, inputs, targets, explanations, inserts=False, **settings)


def insertion(
    model: Callable,
    inputs: Any,
    targets: Any,
    explanations: Any,
    *,
    operator: Callable | str | None = None,
    activation: str | None = None,
    **settings: Any,
) -> MetricResult:
    """Insertion: the score while the most important features are put into a baseline.

    Parameters
    ----------
    model, inputs, targets, operator, activation, **settings
        As for the class `Insertion`, which evaluates many explanations with one compiled model.
    explanations
        One per input, as for `Metric.evaluate`.

    Returns
    -------
    result
        `axis`: share of the features that are inserted; `curves`: the score there.

    No guarantee
    ------------
    An empirical measure; see `Deletion`.

    Examples
    --------
    >>> insertion(model, images, labels, maps, baseline_mode="blur", activation="softmax").score
    """
    score = Score(model, operator, activation)
    inputs, targets = inputs_of(model, inputs, targets)
    inputs = channels_last(model, inputs)
    return importance_curves(score, inputs, targets, explanations, inserts=True, **settings)


def importance_curves(
    score: Score,
    inputs: np.ndarray,
    targets: Any,
    explanations: Any,
    *,
    inserts: bool,
    baseline_mode: Baseline = 0.0,
    steps: int = 10,
    max_percentage_perturbed: float = 1.0,
    batch_size: int | None = 512,
    seed: int = 0,
    verbose: bool = False,
) -> MetricResult:
    """The score over the number of most important features that are deleted, or inserted.

    Parameters
    ----------
    score
        What is watched.
    inputs
        (N, *shape) float32, images with their channels last.
    targets, explanations
        In any form, one per input.
    inserts
        Whether features are put into the baseline, or taken out of the inputs.
    baseline_mode, steps, max_percentage_perturbed, batch_size, seed, verbose
        As for `Deletion`.

    Returns
    -------
    result
        `curves` are s(x_k), (N, P), of the numbers k of features that `axis` (P,) has as shares.
    """
    name, done = ("Insertion", "inserted") if inserts else ("Deletion", "deleted")
    explanations = as_explanations(explanations, inputs)
    nb_features = explanations[0].size
    counts = step_counts(nb_features, steps, max_percentage_perturbed)
    ranks, tied = importance_ranks(explanations, counts, seed)
    scores = ReplacedScores(
        score,
        inputs,
        targets,
        len(counts),
        baseline_mode=baseline_mode,
        seed=seed,
        batch_size=batch_size,
        name=name,
        verbose=verbose,
    )
    rank_of, count_of = tf.constant(ranks), tf.constant(counts)
    for samples, variants in scores:
        count = tf.reshape(tf.gather(count_of, variants), [-1] + [1] * (ranks.ndim - 1))
        important = tf.gather(rank_of, samples) < count  # (B, *features): the k most important
        scores.replace(~important if inserts else important)
    curves = scores.values
    return MetricResult(
        metric=name,
        axis=counts / nb_features,
        axis_label=f"share of features {done}",
        curves=curves,
        scores=((curves[:, :-1] + curves[:, 1:]) / 2).mean(axis=1),
        tied=tied,
        higher_is_better=inserts,
    )


class _ImportanceCurve(Metric):
    """What `Deletion` and `Insertion` share: everything but the direction."""

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 512,
        baseline_mode: Baseline = 0.0,
        steps: int = 10,
        max_percentage_perturbed: float = 1.0,
        operator: Callable | str | None = None,
        activation: str | None = None,
        *,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, inputs, targets, batch_size, operator, activation, seed, verbose)
        self.baseline_mode, self.steps = baseline_mode, steps
        self.max_percentage_perturbed = max_percentage_perturbed

    def detailed_evaluate(self, explanations: Any) -> MetricResult:
        """Curves and scores of every sample; see `evaluate` for the explanations."""
        return importance_curves(
            self._score,
            self._points,
            self.targets,
            explanations,
            inserts=self.higher_is_better,
            baseline_mode=self.baseline_mode,
            steps=self.steps,
            max_percentage_perturbed=self.max_percentage_perturbed,
            batch_size=self._nb_at_once,
            seed=self.seed,
            verbose=self.verbose,
        )


class Deletion(_ImportanceCurve):
    """Deletion (lower is better): how fast the score falls when important features are removed.

    The features are replaced by a baseline in the order of their attribution, largest first, and
    the score is the area under the curve of the model's score, divided by its length: the mean of
    the trapezoids between `steps` + 1 points.

    Parameters
    ----------
    model
        Keras model or TensorFlow callable, (B, *shape) -> (B, K).
    inputs
        Images (N, H, W, C), of which a feature is a pixel with all its channels, time series
        (N, T, W) or tabular data (N, W): an array, a tensor or a `tf.data.Dataset` (with targets
        or without).
    targets
        Integer labels (N,), one-hot rows or weights (N, K), or None for the predicted class.
    batch_size
        Number of perturbed samples held at once; None for all.
    baseline_mode
        Number, array, callable, "random", "blur" or "mean": see `baseline_values`.
    steps
        Number of steps, equally long up to rounding; -1 for one feature per step. More steps than
        features become one feature per step.
    max_percentage_perturbed
        Share of the features at which the curve ends, in ]0, 1].
    operator, activation
        What is watched instead of the output of the target class: see `Score`. The score is of
        the model's outputs as they are; for the usual curve of a probability, a model that
        returns logits needs `activation="softmax"`.
    seed
        Of the tie rule and of the random baseline.
    verbose
        Show a progress bar.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.

    Notes
    -----
    Equal attributions are taken in a random order of the features that `seed` fixes, the same for
    all samples, so that a constant map scores as a random one; the result says for which samples
    that mattered (`tied`). The maps of an explainer that works on cells are tied inside them.

    Xplique's Deletion, with its defaults (except `batch_size`, which only costs time), and the
    same number where nothing is tied; there the order of equal attributions is left to the sort.

    No guarantee
    ------------
    An empirical measure; it depends on the baseline, and perturbed inputs are unlike the ones that
    the model has learned from.

    References
    ----------
    Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box Models,
    BMVC 2018.

    Examples
    --------
    >>> metric = Deletion(model, images, labels, activation="softmax")
    >>> metric.evaluate(explainer.explain(images, labels))
    """

    higher_is_better = False


class Insertion(_ImportanceCurve):
    """Insertion (higher is better): how fast the score rises when important features are added.

    The features are put into a baseline in the order of their attribution, largest first. All
    the rest is as in `Deletion`.

    Parameters
    ----------
    model, inputs, targets, batch_size, baseline_mode, steps, max_percentage_perturbed
        As for `Deletion`.
    operator, activation, seed, verbose
        As for `Deletion`.

    No guarantee
    ------------
    An empirical measure; see `Deletion`.

    References
    ----------
    Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box Models,
    BMVC 2018.

    Examples
    --------
    >>> metric = Insertion(model, images, labels, baseline_mode="blur", activation="softmax")
    >>> metric.evaluate(explainer.explain(images, labels))
    """

    higher_is_better = True
