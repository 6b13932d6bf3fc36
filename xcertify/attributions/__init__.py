"""Explainers: attribution maps, and certificates where something can be proved."""

from xcertify.attributions.attribution_bound import AttributionBound
from xcertify.attributions.certified_gradient import CertifiedGradient
from xcertify.attributions.controls import MarginGradientRange, RandomMap
from xcertify.attributions.corgi import CORGI
from xcertify.attributions.eva import EVA, TargetedExplanation
from xcertify.attributions.eva_hybrid import EVAHybrid
from xcertify.attributions.grad_cam import GradCAM
from xcertify.attributions.grad_cam_pp import GradCAMPP
from xcertify.attributions.gradients import (
    GradientInput,
    IntegratedGradients,
    Saliency,
    SmoothGrad,
)
from xcertify.attributions.greedy_as import GreedyAS
from xcertify.attributions.perturbations import Occlusion, Rise
from xcertify.attributions.relex import RelEx
from xcertify.attributions.sampled_eva import SampledEVA
from xcertify.attributions.smoothed_attribution import SmoothedAttribution
from xcertify.attributions.sufficient_reason import SufficientReason
from xcertify.attributions.uniformly_smoothed import UniformlySmoothedAttribution

__all__ = [
    "CORGI",
    "EVA",
    "AttributionBound",
    "CertifiedGradient",
    "EVAHybrid",
    "GradCAM",
    "GradCAMPP",
    "GradientInput",
    "GreedyAS",
    "IntegratedGradients",
    "MarginGradientRange",
    "Occlusion",
    "RandomMap",
    "RelEx",
    "Rise",
    "Saliency",
    "SampledEVA",
    "SmoothGrad",
    "SmoothedAttribution",
    "SufficientReason",
    "TargetedExplanation",
    "UniformlySmoothedAttribution",
]
