"""Rules: how each Keras layer and `keras.ops` function becomes operations of the graph."""

# Importing them fills the registry.
from xcertify.bounds.rules import (
    activation,
    applications,
    attention,
    contraction,
    convolution,
    embedding,
    identities,
    keras_ops,
    masks,
    merging,
    normalization,
    pooling,
    preprocessing,
    recurrent,
    reductions,
    reshaping,
    scalars,
    weighted,
)

__all__ = [
    "activation",
    "applications",
    "attention",
    "contraction",
    "convolution",
    "embedding",
    "identities",
    "keras_ops",
    "masks",
    "merging",
    "normalization",
    "pooling",
    "preprocessing",
    "recurrent",
    "reductions",
    "reshaping",
    "scalars",
    "weighted",
]
