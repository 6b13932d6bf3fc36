"""Metrics of explanations. All take Xplique's explanations, or any array."""

from xcertify.metrics.base import Metric, MetricResult, Score
from xcertify.metrics.baselines import baseline_values
from xcertify.metrics.fidelity import (
    Deletion,
    Insertion,
    MuFidelity,
    deletion,
    insertion,
    mu_fidelity,
)
from xcertify.metrics.robustness import RobustnessResult, RobustnessSr, robustness_sr

__all__ = [
    "Deletion",
    "Insertion",
    "Metric",
    "MetricResult",
    "MuFidelity",
    "RobustnessResult",
    "RobustnessSr",
    "Score",
    "baseline_values",
    "deletion",
    "insertion",
    "mu_fidelity",
    "robustness_sr",
]
