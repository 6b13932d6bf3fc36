"""Verified bounds of Keras models over regions of inputs."""

# Importing the rules fills the registry.
from xcertify.bounds import rules as rules
from xcertify.bounds.graph.relaxations import Activation
from xcertify.bounds.linear_bounds import LinearBounds
from xcertify.bounds.rules.registry import (
    register,
    register_affine,
    register_elementwise,
    supported_activations,
    supported_layers,
    supported_operations,
)
from xcertify.bounds.verifier import Verifier
from xcertify.keras_graph import UnsupportedLayerError

__all__ = [
    "Activation",
    "LinearBounds",
    "UnsupportedLayerError",
    "Verifier",
    "register",
    "register_affine",
    "register_elementwise",
    "supported_activations",
    "supported_layers",
    "supported_operations",
]
