"""Rules: how each Keras layer and `keras.ops` function becomes operations of the graph."""

# Importing them fills the registry.
from xcertify.bounds.rules import (
    activation,
    convolution,
    identities,
    keras_ops,
    merging,
    normalization,
    pooling,
    reshaping,
    weighted,
)

__all__ = [
    "activation",
    "convolution",
    "identities",
    "keras_ops",
    "merging",
    "normalization",
    "pooling",
    "reshaping",
    "weighted",
]
