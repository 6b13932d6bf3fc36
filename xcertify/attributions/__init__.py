"""Explainers: attribution maps, and certificates where something can be proved."""

from xcertify.attributions.eva import EVA, EVAHybrid, TargetedExplanation

__all__ = ["EVA", "EVAHybrid", "TargetedExplanation"]
