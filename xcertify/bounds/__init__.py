"""Verified bounds of Keras models over regions of inputs."""

# Importing the rules fills the registry.
from xcertify.bounds import (
    functions,
    layers,
    merging_layers,
    normalization_layers,
    pooling_layers,
    weighted_layers,
)
from xcertify.bounds.graph import UnsupportedLayerError
from xcertify.bounds.lines import LinearBounds
from xcertify.bounds.registry import (
    register,
    register_affine,
    register_elementwise,
    supported_activations,
    supported_layers,
    supported_operations,
)
from xcertify.bounds.relaxations import Activation
from xcertify.bounds.verifier import Verifier

__all__ = [
    "Activation",
    "LinearBounds",
    "UnsupportedLayerError",
    "Verifier",
    "functions",
    "layers",
    "merging_layers",
    "normalization_layers",
    "pooling_layers",
    "register",
    "register_affine",
    "register_elementwise",
    "supported_activations",
    "supported_layers",
    "supported_operations",
    "weighted_layers",
]
