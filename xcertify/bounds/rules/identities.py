"""Rules of layers that do nothing when a trained model is used."""

from __future__ import annotations

from typing import Any

from keras import layers

from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.rules.registry import find_rule, register

IDENTITIES = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)

# Layers that change images at random in training; at inference they do nothing. In Keras 3 they
# also work in `model(x)`, which says nothing of training, and not in `model.predict(x)`.
# A RandomCrop is none of them: it crops and resizes at inference too.
AUGMENTATIONS: tuple[type, ...] = tuple(
    kind
    for name, kind in sorted(vars(layers).items())
    if (name.startswith("Random") and name != "RandomCrop")
    or name in ("AugMix", "CutMix", "MixUp", "RandAugment", "Solarization")
)


@register(*IDENTITIES)
def _identity(layer: Any, emit: Emitter, node: int) -> int:
    return node


# Keras writes their default, training=True, into every call.
@register(*AUGMENTATIONS, settings=("training",))
def _augmentation(layer: Any, emit: Emitter, node: int) -> int:
    return node


@register(layers.SpectralNormalization)
def _spectral_normalization(layer: Any, emit: Emitter, node: int) -> int:
    # In training it divides the kernel, which is read here as it is then.
    return find_rule(layer.layer)(layer.layer, emit, node)
