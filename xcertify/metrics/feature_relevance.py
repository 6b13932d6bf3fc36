"""Feature relevance: one number for what is kept and what is lost as features are removed.

Source: Lim, Lee, Kim, Building Reliable Explanations of Unreliable Neural Networks, CVPR 2021,
section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.metrics.base import Metric, MetricResult
from xcertify.metrics.baselines import Baseline
from xcertify.metrics.deletion import importance_curves
from xcertify.metrics.scores import Score


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


def relevance(
    score: Score, inputs: np.ndarray, targets: Any, explanations: Any, **settings: Any
) -> RelevanceResult:
    """R of probabilities over the number of features that are removed, from either end.

    Taking the least important features away, in the end all, is inserting the most important ones
    first, read from the other end.

    Parameters
    ----------
    score
        What is watched, a probability.
    inputs
        (N, *shape) float32, images with their channels last.
    targets, explanations, **settings
        As for `importance_curves`.

    Raises
    ------
    ValueError
        For scores that are not probabilities, and as `importance_curves`.
    """
    deletion, insertion = (
        importance_curves(score, inputs, targets, explanations, inserts=inserts, **settings)
        for inserts in (False, True)
    )
    for result in (deletion, insertion):
        if not ((result.curves > -1e-6) & (result.curves < 1 + 1e-6)).all():
            raise ValueError(
                f"relevance is made of probabilities: for a model that returns logits give "
                f"activation='softmax'. Received: activation={score.activation!r} and scores "
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


def _harmonic_mean(first: Any, second: Any) -> Any:
    total = first + second
    return np.divide(2 * first * second, total, out=np.zeros_like(total), where=total > 0)


class FeatureRelevance(Metric):
    """Feature relevance R: the harmonic mean of preservation P and of 1 - deletion D.

    ``1 / R = (1 / P + 1 / (1 - D)) / 2``: only an explanation that keeps the class where its most
    important features are left (P), and loses it where they are taken away (D), has a high one.
    (The code that the authors released uses D in place of 1 - D.)

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
        """Scores of every sample; `curves` are of preservation, over the share that is kept."""
        return relevance(
            self._score,
            self._points,
            self.targets,
            explanations,
            baseline_mode=self.baseline_mode,
            steps=self.steps,
            batch_size=self._nb_at_once,
            seed=self.seed,
            verbose=self.verbose,
        )
