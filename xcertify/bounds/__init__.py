"""Verified bounds of Keras models over regions of inputs; all that the rest may import of them."""

# Importing the rules fills the registry.
from xcertify.bounds import rules as rules
from xcertify.bounds.branching.attacked import WorstPoints
from xcertify.bounds.branching.confirmation import contains
from xcertify.bounds.branching.decision import Decision
from xcertify.bounds.branching.proof import ProofTree
from xcertify.bounds.branching.radius import decided_radii
from xcertify.bounds.coverage import LayerCoverage, Work, coverage_of, work_of
from xcertify.bounds.gradient_interval import GradientInterval, MarginInterval
from xcertify.bounds.graph.activations import smooth_rectifier
from xcertify.bounds.graph.relaxations import Activation
from xcertify.bounds.linear_bounds import LinearBounds
from xcertify.bounds.propagation.budget import default_bytes
from xcertify.bounds.propagation.gradient import (
    FORMER_GRADIENT_METHODS,
    GRADIENT_METHODS,
    gradient_method,
)
from xcertify.bounds.rules.identities import IDENTITIES
from xcertify.bounds.rules.registry import (
    activation_facts,
    find_rule,
    register,
    register_affine,
    register_elementwise,
    supported_activations,
    supported_layers,
    supported_operations,
)
from xcertify.bounds.verifier import METHODS, Verifier
from xcertify.keras_graph import UnsupportedLayerError
from xcertify.targets import stays_in_class

__all__ = [
    "FORMER_GRADIENT_METHODS",
    "GRADIENT_METHODS",
    "IDENTITIES",
    "METHODS",
    "Activation",
    "Decision",
    "GradientInterval",
    "LayerCoverage",
    "LinearBounds",
    "MarginInterval",
    "ProofTree",
    "UnsupportedLayerError",
    "Verifier",
    "Work",
    "WorstPoints",
    "activation_facts",
    "contains",
    "coverage_of",
    "decided_radii",
    "default_bytes",
    "find_rule",
    "gradient_method",
    "register",
    "register_affine",
    "register_elementwise",
    "smooth_rectifier",
    "stays_in_class",
    "supported_activations",
    "supported_layers",
    "supported_operations",
    "work_of",
]
