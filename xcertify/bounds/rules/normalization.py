"""Rules of layers that scale and shift."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.operations import IN_FLOAT32, Affine, Scaled
from xcertify.bounds.graph.standardization import Standardization
from xcertify.bounds.rules.registry import register
from xcertify.bounds.rules.windows import axes_of
from xcertify.keras_graph import UnsupportedLayerError


def _scale_and_shift(
    emit: Emitter,
    node: int,
    scale: Callable[[], Any],
    shift: Callable[[], Any] | None,
    shift_size: Callable[[], Any] | None = None,
    weight_error: int = 8,
    learned: bool = True,
) -> int:
    """``scale * x + shift`` with computed, broadcast factors."""
    operation = Scaled(
        scale, bias=shift, bias_size=shift_size, weight_error=weight_error, learned=learned
    )
    return emit(operation, node)


@register(layers.BatchNormalization)
def _batch_normalization(layer: Any, emit: Emitter, node: int) -> int:
    (axis,) = axes_of(layer, layer.axis, emit.shape(node))
    shape = [-1 if number == axis else 1 for number in range(1, len(emit.shape(node)) + 1)]

    def scale() -> Any:
        scale = ops.rsqrt(ops.cast(layer.moving_variance, "float64") + layer.epsilon)
        scale = scale * ops.cast(layer.gamma, "float64") if layer.scale else scale
        return ops.reshape(scale, shape)

    def mean() -> Any:
        return ops.reshape(ops.cast(layer.moving_mean, "float64"), shape) * scale()

    def beta() -> Any:
        if not layer.center:
            return ops.zeros(shape=[1] * len(shape), dtype="float64")
        return ops.reshape(ops.cast(layer.beta, "float64"), shape)

    return _scale_and_shift(
        emit, node, scale, lambda: beta() - mean(), lambda: ops.abs(mean()) + ops.abs(beta())
    )


@register(layers.Normalization)
def _normalization(layer: Any, emit: Emitter, node: int) -> int:
    if layer.axis:
        axes_of(layer, layer.axis, emit.shape(node))
    least = keras.config.epsilon()

    def deviation() -> Any:
        return ops.maximum(ops.sqrt(ops.cast(layer.variance, "float64")), least)

    def mean() -> Any:
        return ops.cast(layer.mean, "float64")

    if layer.invert:
        parts = (deviation, mean)
    else:
        parts = (lambda: 1 / deviation(), lambda: -mean() / deviation())
    scale, shift = (lambda part=part: part()[0] for part in parts)  # they carry a batch axis
    return _scale_and_shift(emit, node, scale, shift, weight_error=IN_FLOAT32, learned=False)


@register(layers.Rescaling)
def _rescaling(layer: Any, emit: Emitter, node: int) -> int:
    rank = len(emit.shape(node)) + 1
    scale, offset = np.asarray(layer.scale, "float64"), np.asarray(layer.offset, "float64")
    if scale.ndim and keras.config.image_data_format() == "channels_first":
        scale = scale.reshape(*scale.shape, *[1] * (3 - scale.ndim))  # Keras moves the scale alone
    scale, offset = (
        values.reshape(values.shape[1:]) if values.ndim == rank and len(values) == 1 else values
        for values in (scale, offset)
    )
    if np.broadcast_shapes(emit.shape(node), scale.shape, offset.shape) != emit.shape(node):
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class Rescaling cannot be bounded with a scale or offset "
            f"that enlarges its input of shape {emit.shape(node)}, or has values along the batch "
            f"axis. Received: scale of shape {scale.shape}, offset of shape {offset.shape}"
        )
    return _scale_and_shift(
        emit, node, lambda: scale, lambda: offset, weight_error=IN_FLOAT32, learned=False
    )


@register(layers.LayerNormalization)
def _layer_normalization(layer: Any, emit: Emitter, node: int) -> int:
    rank = len(emit.shape(node))
    axes = axes_of(layer, layer.axis, emit.shape(node))
    if getattr(layer, "rms_scaling", False):
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class LayerNormalization cannot be bounded with "
            f"rms_scaling=True, which divides by the deviation and keeps the mean."
        )
    shape = tuple(emit.shape(node)[a - 1] if a in axes else 1 for a in range(1, rank + 1))
    nb_entries = math.prod(shape)
    centering = Affine(
        lambda inputs, own, mean: own * inputs + mean * ops.sum(inputs, axes, keepdims=True),
        weights=lambda: (np.float64(1), np.float64(-1 / nb_entries)),
        nb_terms=nb_entries + 2,
        nb_terms_back=nb_entries + 2,
        weight_error=2,
    )
    node = emit(centering, node)
    node = emit(Standardization(axes, layer.epsilon, nb_entries), node)
    if layer.gamma is None and layer.beta is None:
        return node
    scale = np.ones(shape) if layer.gamma is None else None
    return _scale_and_shift(
        emit,
        node,
        lambda: scale if scale is not None else ops.reshape(layer.gamma, shape),
        None if layer.beta is None else lambda: ops.reshape(layer.beta, shape),
    )
