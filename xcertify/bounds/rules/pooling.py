"""Rules of pooling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import layers, ops

from xcertify.bounds.graph.graph import Emitter, no_mask
from xcertify.bounds.graph.masks import Masked
from xcertify.bounds.graph.maximum import Largest
from xcertify.bounds.graph.operations import Affine, Reshaped, Scaled
from xcertify.bounds.rules.merging import broadcast_to, quotient_of
from xcertify.bounds.rules.registry import register
from xcertify.bounds.rules.windows import channel_axis, spatial_axes, window_of, windows_of


@register(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D)
def _average_pooling(layer: Any, emit: Emitter, node: int) -> int:
    shape = emit.shape(node)
    axes = spatial_axes(layer, shape)
    nb_terms = math.prod(layer.pool_size)
    uses = math.prod(math.ceil(k / s) for k, s in zip(layer.pool_size, layer.strides))

    def total(padding: str) -> Callable[[Any], Any]:
        parts = [
            windows_of((axis,), (size,), (stride,), padding)
            for axis, size, stride in zip(axes, layer.pool_size, layer.strides)
        ]

        def totals(inputs: Any) -> Any:
            for part in parts:  # one axis after the other; TensorFlow pools in float32 alone
                inputs = ops.sum(part(inputs), axis=-1)
            return inputs

        return totals

    totals = Affine(
        total(layer.padding),
        nb_terms=nb_terms,
        nb_terms_back=uses,
        window=window_of(layer, shape, layer.pool_size, layer.strides),
        patchwise=Affine(total("valid")),
    )
    # Entries beyond the border do not count.
    share = 1 / np.asarray(totals.apply(np.ones((1, *shape))), dtype="float64")[0]
    return emit(Scaled(lambda: share, weight_error=2), emit(totals, node))


@register(layers.GlobalAveragePooling1D, masks=no_mask)
def _average_of_places(layer: Any, emit: Emitter, node: int) -> int:
    mask = emit.mask(casts=False)
    if mask is None:
        return _global_average(layer, emit, node)
    (axis,) = spatial_axes(layer, emit.shape(node))
    size = emit.shape(node)[axis - 1]
    total = Affine(
        lambda x: ops.sum(x, axis=axis, keepdims=layer.keepdims), nb_terms=size, nb_terms_back=1
    )
    laid = Reshaped(lambda x: ops.expand_dims(x, 3 - axis))
    mask = broadcast_to(emit, emit(laid, mask), emit.shape(node))
    return quotient_of(emit, [emit(total, emit(Masked(), node, mask)), emit(total, mask)])


@register(layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D)
def _global_average(layer: Any, emit: Emitter, node: int) -> int:
    axes = spatial_axes(layer, emit.shape(node))
    nb_terms = math.prod(emit.shape(node)[axis - 1] for axis in axes)
    average = Affine(
        lambda inputs: ops.mean(inputs, axis=axes, keepdims=layer.keepdims),
        nb_terms=nb_terms + 1,
        nb_terms_back=2,
    )
    return emit(average, node)


@register(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)
def _max_pooling(layer: Any, emit: Emitter, node: int) -> int:
    shape = emit.shape(node)
    axes = spatial_axes(layer, shape)
    windows = windows_of(axes, layer.pool_size, layer.strides, layer.padding)
    patchwise = Affine(windows_of(axes, layer.pool_size, layer.strides, "valid"))
    valid = np.asarray(windows(np.ones((1, *shape), "float32")))[0] > 0
    uses = math.prod(math.ceil(k / s) for k, s in zip(layer.pool_size, layer.strides))
    window = window_of(layer, shape, layer.pool_size, layer.strides)
    laid = Affine(windows, nb_terms_back=uses, window=window, patchwise=patchwise)
    return emit(Largest(None if valid.all() else valid), emit(laid, node))


@register(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D)
def _global_maximum(layer: Any, emit: Emitter, node: int) -> int:
    axes = spatial_axes(layer, emit.shape(node))
    channel = channel_axis(layer, emit.shape(node))
    size = math.prod(emit.shape(node)[axis - 1] for axis in axes)
    nb_channels = emit.shape(node)[channel - 1]
    ones = [1] * len(axes) if layer.keepdims else []
    keep = (-1, nb_channels, *ones) if channel == 1 else (-1, *ones, nb_channels)

    def channels_first(inputs: Any) -> Any:
        moved = ops.transpose(inputs, (0, channel, *axes))
        return ops.reshape(moved, (*keep, size))

    return emit(Largest(), emit(Affine(channels_first), node))
