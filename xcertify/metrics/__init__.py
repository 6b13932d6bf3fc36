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
from xcertify.metrics.reliability import (
    ClassRetrieval,
    FeatureRelevance,
    RelevanceResult,
    as_masks,
    rank_correlation,
    top_k_overlap,
)
from xcertify.metrics.robustness import RobustnessResult, RobustnessSr, robustness_sr

__all__ = [
    "ClassRetrieval",
    "Deletion",
    "FeatureRelevance",
    "Insertion",
    "Metric",
    "MetricResult",
    "MuFidelity",
    "RelevanceResult",
    "RobustnessResult",
    "RobustnessSr",
    "Score",
    "as_masks",
    "baseline_values",
    "deletion",
    "insertion",
    "mu_fidelity",
    "rank_correlation",
    "robustness_sr",
    "top_k_overlap",
]
