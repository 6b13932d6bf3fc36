"""What all metrics share: their result, and their class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.batches import most_at_once
from xcertify.checks import whole_number
from xcertify.inputs import as_arrays, input_shape_of
from xcertify.metrics.scores import Score
from xcertify.models import channels_last_layer
from xcertify.settings import Settings


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


def inputs_of(model: Callable, inputs: Any, targets: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Inputs (N, *shape) float32 and targets as arrays, as the model takes them.

    Raises
    ------
    ValueError
        For inputs that do not fit the model, and what is neither images nor series nor tables.
    """
    inputs, targets = as_arrays(inputs, targets, input_shape_of(model))
    if inputs.ndim > 4:
        raise ValueError(
            f"inputs must be images (N, H, W, C), time series (N, T, W) or tabular (N, W). "
            f"Received: {inputs.shape}"
        )
    return inputs, targets


def channels_last(model: Callable, inputs: np.ndarray) -> np.ndarray:
    """Inputs of which images have their channels last, whatever the model takes."""
    return inputs if channels_last_layer(model) is None else np.moveaxis(inputs, 1, -1)


class Metric(Settings):
    """A quality of explanations, measured on fixed inputs.

    A metric keeps settings, and what is compiled; what it computes is a function of arrays that
    stands beside it. It is built once for a model and inputs, and then evaluates any number of
    explanations::

        deletion = Deletion(model, images, labels, activation="softmax")
        deletion.evaluate(maps)                  # one number
        deletion.evaluate_samples(maps)          # (N,)
        deletion.detailed_evaluate(maps)         # a MetricResult, with curves

    All its settings may be assigned at any time; see `Settings`.

    Parameters
    ----------
    model, inputs, targets, batch_size, operator, activation, seed, verbose
        As for `Deletion`.

    Attributes
    ----------
    higher_is_better
        How to read the score.
    """

    higher_is_better: bool

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 512,
        operator: Callable | str | None = None,
        activation: str | None = None,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        Score(model, operator, activation)  # refuses what it does not take before any work
        most_at_once(model, batch_size)
        self.model, self.operator, self.activation = model, operator, activation
        self.inputs, self.targets = inputs_of(model, inputs, targets)
        self.batch_size, self.verbose = batch_size, verbose
        self.seed = whole_number("seed", seed, least=0)

    @property
    def _nb_at_once(self) -> int:
        """`batch_size`, or fewer where memory does not hold so many."""
        return self._derive("at once", lambda: most_at_once(self.model, self.batch_size))

    @property
    def _points(self) -> np.ndarray:
        """The inputs, as the score takes them: images have their channels last."""
        return self._derive("points", lambda: channels_last(self.model, self.inputs))

    @property
    def _score(self) -> Score:
        return self._derive("score", lambda: Score(self.model, self.operator, self.activation))

    @abstractmethod
    def detailed_evaluate(self, explanations: Any) -> MetricResult:
        """Curves and scores of every sample.

        Parameters
        ----------
        explanations
            As for `evaluate`.
        """

    def evaluate_samples(self, explanations: Any) -> np.ndarray:
        """The score of every sample, (N,).

        Parameters
        ----------
        explanations
            As for `evaluate`.
        """
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
