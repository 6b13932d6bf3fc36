"""Reliability: whether explanations of attacked inputs still name what the model decides by.

Source: Lim, Lee, Kim, Building Reliable Explanations of Unreliable Neural Networks, CVPR 2021,
section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.checks import nb_at_once
from xcertify.logits import logits_of, two_classes
from xcertify.metrics.base import Metric, MetricResult
from xcertify.metrics.baselines import Baseline, baseline_values
from xcertify.metrics.fidelity import Deletion, Insertion, average_ranks, row_correlations
from xcertify.models import channels_last_layer
from xcertify.targets import target_classes
from xcertify.tracing import traced


def as_masks(explanations: Any, inputs: Any, percentile: float = 99.0) -> np.ndarray:
    """Explanations of any explainer as masks: magnitudes, divided by a high percentile of them.

    Parameters
    ----------
    explanations
        (N, H, W), (N, H, W, 1) or (N, H, W, C) for images, else the shape of the inputs. The
        magnitude counts; to count positive attributions only, cut the others off first.
    inputs
        The inputs (N, *shape) that they explain.
    percentile
        Of each explanation: what becomes 1; all above is cut to 1. A map of zeros becomes a mask
        of zeros.

    Returns
    -------
    masks
        (N, *shape) float32 in [0, 1].

    Raises
    ------
    ValueError
        For a shape that does not fit.

    Source: Lim et al., CVPR 2021 (the authors' code).
    """
    inputs = np.asarray(inputs)
    sizes = np.abs(_per_feature(explanations, inputs))
    flat = sizes.reshape(len(sizes), -1)
    high = np.percentile(flat, percentile, axis=1, keepdims=True)
    high = np.where(high > 0, high, flat.max(axis=1, keepdims=True))
    masks = np.divide(flat, high, out=np.zeros_like(flat), where=high > 0)
    return np.minimum(masks, 1).reshape(inputs.shape)


class ClassRetrieval(Metric):
    """Target-class retrieval: whether what a mask keeps of an input is given the target class.

    For attacked inputs x_adv and the classes of the clean ones, that is the paper's measure: with
    masks of the attacked inputs, ``m_adv * x_adv``, whether the explainer still finds evidence of
    the class; with masks of the clean ones, ``m_0 * x_adv``, whether these are robust.

    Parameters
    ----------
    model
        Keras model or TensorFlow callable, (B, *shape) -> (B, K); its class is that of the largest
        logit (a callable must return logits). A single logit counts as two classes.
    inputs
        What is masked, (N, *shape): the attacked inputs.
    targets
        The classes to be retrieved, such as those that the model gave the clean inputs: labels
        (N,) or one-hot rows (N, K). None: the classes predicted for `inputs`.
    batch_size
        Number of masked inputs that are evaluated at once; None for all.
    neutral_value
        What masked-out features become, as for `baseline_values`.
    seed
        Of a random neutral value.

    Raises
    ------
    ValueError
        For arguments that do not fit, and masks that leave [0, 1]; see `as_masks`.

    No guarantee
    ------------
    A mask with values for every pixel can be made to retrieve *any* class, like an adversarial
    perturbation: retrieval says that evidence was found, not that a person would see it. See
    `RelEx.certify` for a proof of how stable a retrieved class is.

    Examples
    --------
    >>> metric = ClassRetrieval(model, attacked_images, clean_classes)
    >>> metric.evaluate(RelEx(model).masks(attacked_images, clean_classes))
    >>> metric.evaluate(as_masks(Saliency(model)(attacked_images, clean_classes), attacked_images))
    """

    higher_is_better = True

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 512,
        neutral_value: Baseline = 0.0,
        *,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, inputs, targets, batch_size, seed=seed, verbose=verbose)
        self.neutral_value = neutral_value

    def detailed_evaluate(self, explanations: Any) -> MetricResult:
        """Scores (1 where the class is retrieved, else 0) and probabilities of every sample.

        `curves` are the softmax probabilities of all classes, (N, K), `axis` the classes.
        """
        masks = _per_feature(explanations, self._points)
        if not ((masks >= 0) & (masks <= 1)).all():
            raise ValueError(
                f"masks must be within [0, 1]: make them of explanations by as_masks. "
                f"Received: {masks.min():.4g} to {masks.max():.4g}"
            )
        neutral = baseline_values(self.neutral_value, self._points, self.seed)
        classes = target_classes(self._logits(self._points), self.targets)
        logits = two_classes(self._logits(neutral + masks * (self._points - neutral))).numpy()
        largest = np.sort(logits, axis=1)
        return MetricResult(
            metric="ClassRetrieval",
            axis=np.arange(logits.shape[1]),
            axis_label="class",
            curves=tf.nn.softmax(logits).numpy(),
            scores=(logits.argmax(axis=1) == classes).astype(float),
            tied=largest[:, -1] == largest[:, -2],
            higher_is_better=True,
        )

    def _logits(self, inputs: np.ndarray) -> np.ndarray:
        points = tf.TensorSpec((None, *inputs.shape[1:]), tf.float32)
        start = channels_last_layer(self.model)
        logits = self._derive(
            "logits",
            lambda: traced(logits_of(self.model, start), input_signature=[points], autograph=False),
        )
        size = nb_at_once(self.batch_size)
        starts = range(0, len(inputs), size)
        return np.concatenate([logits(inputs[s : s + size]) for s in starts])


@dataclass(frozen=True, eq=False, repr=False)
class RelevanceResult(MetricResult):
    """Feature relevance, and the two scores that it is made of.

    Attributes
    ----------
    preservation, deletion
        (N,): P, mean score while the least important features are removed first (higher is
        better), and D, while the most important ones are (lower is better).
    """

    preservation: np.ndarray
    deletion: np.ndarray

    @property
    def overall(self) -> float:
        """R of the mean P and the mean D over all samples, instead of the mean of their R."""
        return float(_harmonic_mean(self.preservation.mean(), 1 - self.deletion.mean()))


class FeatureRelevance(Metric):
    """Feature relevance R: the harmonic mean of preservation P and of 1 - deletion D.

    ``1 / R = (1 / P + 1 / (1 - D)) / 2``: only an explanation that keeps the class where its most
    important features are left (P), and loses it where they are taken away (D), has a high one.
    (The code that the authors released takes D for 1 - D.)

    Parameters
    ----------
    model
        Keras model, (B, *shape) -> (B, K), or a TensorFlow callable that gives probabilities.
    inputs, targets, batch_size, baseline_mode, seed, verbose
        As for `Deletion`.
    steps
        Number of steps of both curves (the paper: a row of pixels at a time); -1 for one feature
        per step.
    activation
        "softmax" for a model that returns logits; R needs probabilities.

    Raises
    ------
    ValueError
        For arguments that do not fit, and scores that are not probabilities.

    No guarantee
    ------------
    An empirical measure; see `Deletion`.

    References
    ----------
    Lim, Lee, Kim: Building Reliable Explanations of Unreliable Neural Networks, CVPR 2021,
    section 4.2.

    Examples
    --------
    >>> metric = FeatureRelevance(model, attacked_images, clean_classes, activation="softmax")
    >>> metric.evaluate(RelEx(model).explain(attacked_images, clean_classes))
    """

    higher_is_better = True

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 512,
        baseline_mode: Baseline = 0.0,
        steps: int = 10,
        activation: str | None = None,
        *,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            model, inputs, targets, batch_size, activation=activation, seed=seed, verbose=verbose
        )
        self.baseline_mode, self.steps = baseline_mode, steps

    def detailed_evaluate(self, explanations: Any) -> RelevanceResult:
        """Scores of every sample; `curves` are those of preservation over the share that is kept.

        Taking the least important features away, in the end all, is inserting the most important
        ones first, read from the other end.
        """
        deletion, insertion = (self._curve(kind, explanations) for kind in (Deletion, Insertion))
        for result in (deletion, insertion):
            if not ((result.curves > -1e-6) & (result.curves < 1 + 1e-6)).all():
                raise ValueError(
                    f"relevance is made of probabilities: for a model that returns logits give "
                    f"activation='softmax'. Received: activation={self.activation!r} and scores "
                    f"from {result.curves.min():.4g} to {result.curves.max():.4g}"
                )
        return RelevanceResult(
            metric="FeatureRelevance",
            axis=insertion.axis,
            axis_label="share of features kept",
            curves=insertion.curves,
            scores=_harmonic_mean(insertion.scores, 1 - deletion.scores),
            tied=insertion.tied | deletion.tied,
            higher_is_better=True,
            preservation=insertion.scores,
            deletion=deletion.scores,
        )

    def _curve(self, kind: type[Deletion] | type[Insertion], explanations: Any) -> MetricResult:
        metric = self._derive(
            kind,
            lambda: kind(
                self.model,
                self.inputs,
                self.targets,
                self.batch_size,
                self.baseline_mode,
                self.steps,
                activation=self.activation,
                seed=self.seed,
                verbose=self.verbose,
            ),
        )
        return metric.detailed_evaluate(explanations)


def rank_correlation(explanations: Any, others: Any) -> np.ndarray:
    """Spearman's rank correlation of two explanations of each input.

    Parameters
    ----------
    explanations, others
        (N, *map), such as those of clean and of attacked inputs. Equal values share the mean of
        their ranks.

    Returns
    -------
    correlations
        (N,) from -1 to 1; 0 where one of the two is constant.

    Raises
    ------
    ValueError
        For shapes that differ, and values that are NaN or infinite.

    Notes
    -----
    That two maps are alike does not say that they are right (Lim et al., section 4.2).

    Examples
    --------
    >>> rank_correlation([[1.0, 2.0, 3.0]], [[10.0, 20.0, 15.0]])
    array([0.5])
    """
    first, second = _pair(explanations, others)
    return row_correlations(average_ranks(first), average_ranks(second))[0]


def top_k_overlap(explanations: Any, others: Any, k: int) -> np.ndarray:
    """Share of the k most important features that two explanations of each input have in common.

    Parameters
    ----------
    explanations, others
        (N, *map). The sign counts; of equal values the first ones count as more important.
    k
        Number of features (the paper: 1000 of 224x224).

    Returns
    -------
    overlaps
        (N,) from 0 to 1.

    Raises
    ------
    ValueError
        For shapes that differ, NaN or infinite values, and a k that is not a number of features.

    Examples
    --------
    >>> top_k_overlap([[1.0, 2.0, 3.0, 0.0]], [[10.0, 20.0, 15.0, 0.0]], k=1)
    array([0.])
    """
    first, second = _pair(explanations, others)
    if isinstance(k, bool) or k != int(k) or not 0 < k <= first.shape[1]:
        raise ValueError(f"k must be a whole number from 1 to {first.shape[1]}. Received: {k!r}")
    top = []
    for maps in (first, second):
        order = np.argsort(-maps, axis=1, kind="stable")[:, : int(k)]
        mask = np.zeros(maps.shape, bool)
        np.put_along_axis(mask, order, True, axis=1)
        top.append(mask)
    return (top[0] & top[1]).sum(axis=1) / k


def _harmonic_mean(first: Any, second: Any) -> Any:
    total = first + second
    return np.divide(2 * first * second, total, out=np.zeros_like(total), where=total > 0)


def _pair(explanations: Any, others: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as (N, features) float64."""
    first, second = np.asarray(explanations), np.asarray(others)
    if first.shape != second.shape or first.ndim < 2:
        raise ValueError(
            f"both explanations must have one shape, (N, *map). "
            f"Received: {first.shape} and {second.shape}"
        )
    first, second = (x.reshape(len(x), -1).astype(np.float64) for x in (first, second))
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError(
            "explanations have NaN or infinite values: see why the explainer gave them"
        )
    return first, second


def _per_feature(explanations: Any, inputs: np.ndarray) -> np.ndarray:
    """Explanations (N, *shape) float32; the channels of a pixel share the value of a map."""
    explanations = np.asarray(explanations)
    accepted = [inputs.shape]
    if inputs.ndim == 4:
        accepted += [inputs.shape[:-1], (*inputs.shape[:-1], 1)]
    if explanations.shape not in accepted or explanations.dtype.kind not in "fiub":
        raise ValueError(
            f"explanations must have the shape {' or '.join(map(str, accepted))}. "
            f"Received: {explanations.shape} of {explanations.dtype}"
        )
    if inputs.ndim == 4 and explanations.ndim == 3:
        explanations = explanations[..., None]
    return np.broadcast_to(explanations, inputs.shape).astype(np.float32)
