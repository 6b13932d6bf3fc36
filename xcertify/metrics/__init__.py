"""Metrics of explanations. All take Xplique's explanations, or any array."""

from xcertify.metrics.average_stability import AverageStability
from xcertify.metrics.base import Metric, MetricResult
from xcertify.metrics.baselines import baseline_values
from xcertify.metrics.certified_stability import CertifiedStability, StabilityResult
from xcertify.metrics.class_retrieval import ClassRetrieval, as_masks
from xcertify.metrics.deletion import Deletion, Insertion, deletion, insertion
from xcertify.metrics.feature_relevance import FeatureRelevance, RelevanceResult
from xcertify.metrics.likeness import rank_correlation, top_k_overlap
from xcertify.metrics.mu_fidelity import MuFidelity, mu_fidelity
from xcertify.metrics.probable_size import (
    ProbableResult,
    ProbableSets,
    ProbableSize,
    probable_size,
    probably_sufficient,
)
from xcertify.metrics.randomization import (
    ModelRandomization,
    RandomizationResult,
    RandomLogit,
)
from xcertify.metrics.robustness import RobustnessResult, RobustnessSr, robustness_sr
from xcertify.metrics.scores import Score
from xcertify.metrics.stability import SoftStabilityResult, Stability
from xcertify.metrics.sufficient_size import SufficiencyResult, SufficientSize, sufficient_size

__all__ = [
    "AverageStability",
    "CertifiedStability",
    "ClassRetrieval",
    "Deletion",
    "FeatureRelevance",
    "Insertion",
    "Metric",
    "MetricResult",
    "ModelRandomization",
    "MuFidelity",
    "ProbableResult",
    "ProbableSets",
    "ProbableSize",
    "RandomLogit",
    "RandomizationResult",
    "RelevanceResult",
    "RobustnessResult",
    "RobustnessSr",
    "Score",
    "SoftStabilityResult",
    "Stability",
    "StabilityResult",
    "SufficiencyResult",
    "SufficientSize",
    "as_masks",
    "baseline_values",
    "deletion",
    "insertion",
    "mu_fidelity",
    "probable_size",
    "probably_sufficient",
    "rank_correlation",
    "robustness_sr",
    "sufficient_size",
    "top_k_overlap",
]
