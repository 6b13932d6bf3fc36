"""What metrics of explainers share: they ask an explainer for maps of other inputs, or models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from xcertify.criteria import DISTANCES
from xcertify.inputs import evaluate_in_batches, in_batches
from xcertify.logits import logits_of, weights_of
from xcertify.metrics.base import Metric, MetricResult


class ExplainerMetric(Metric):
    """A quality of an explainer, measured on fixed inputs.

    `evaluate`, `evaluate_samples`, `detailed_evaluate` and a call take the explainer itself, of
    this package or of Xplique, or any function (inputs, targets) -> maps; targets are given to it
    as rows (N, K).
    """

    @abstractmethod
    def detailed_evaluate(self, explainer: Any) -> MetricResult:
        """Curves and scores of every sample."""

    def evaluate(self, explainer: Any) -> float:
        """The score: the mean over the samples.

        Parameters
        ----------
        explainer
            Called with inputs (B, *shape) and targets (B, K), gives maps (B, *map).

        Raises
        ------
        ValueError
            For something that cannot be called, and for maps that are NaN or infinite.
        """
        return self.detailed_evaluate(explainer).score

    def _rows(self, inputs: np.ndarray) -> np.ndarray:
        """Targets as rows (N, K) float32; those of dense outputs as they are."""
        if self.targets is not None and self.targets.ndim > 2:
            return self.targets.astype(np.float32)
        logits = evaluate_in_batches(logits_of(self.model), self._nb_at_once, inputs)
        return weights_of(self.model, logits, self.targets)

    def _explain(self, explainer: Callable, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Maps of inputs, `batch_size` at a time."""
        pairs = zip(in_batches(inputs, self._nb_at_once), in_batches(targets, self._nb_at_once))
        return np.concatenate([maps_by(explainer, *pair) for pair in pairs])


def maps_by(explainer: Callable, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Maps (B, *map) of an explainer, float64.

    Raises
    ------
    ValueError
        For something that cannot be called, and maps that are not one per input, NaN or infinite.
    """
    if not callable(explainer):
        raise ValueError(
            f"this metric asks for maps of other inputs or models: give it the explainer, or a "
            f"function (inputs, targets) -> maps. Received: {type(explainer).__name__}"
        )
    maps = np.asarray(explainer(inputs, targets), np.float64)
    if maps.shape[:1] != inputs.shape[:1]:
        raise ValueError(
            f"the explainer must give one map per input, {len(inputs)} of them. "
            f"Received: shape {maps.shape}"
        )
    if not np.isfinite(maps).all():
        raise ValueError(
            f"the explainer gave NaN or infinite values for perturbed inputs or models. "
            f"Received: {explainer!r}"
        )
    return maps


def distances(first: np.ndarray, second: np.ndarray, distance: str | Callable) -> np.ndarray:
    """Distances (B,) of maps (B, *map); `distance` is one of `DISTANCES`, or of two maps."""
    if callable(distance):
        return np.array([float(distance(*pair)) for pair in zip(first, second)])
    flat = np.reshape(np.asarray(first, np.float64) - second, (len(first), -1))
    return np.linalg.norm(flat, DISTANCES[distance], axis=1)


def check_distance(distance: Any) -> None:
    """A ValueError for what is neither one of `DISTANCES` nor callable."""
    known = isinstance(distance, str) and distance in DISTANCES
    if not known and not callable(distance):
        raise ValueError(
            f"distance must be one of {', '.join(DISTANCES)}, or a function of two maps. "
            f"Received: {distance!r}"
        )
