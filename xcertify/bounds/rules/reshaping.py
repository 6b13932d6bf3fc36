"""Rules of layers that move, repeat or drop entries: rearrangement, padding, up-sampling."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.operations import Affine, Reshaped, Window
from xcertify.bounds.rules.preprocessing import resized
from xcertify.bounds.rules.registry import register
from xcertify.bounds.rules.windows import spatial_axes
from xcertify.keras_graph import UnsupportedLayerError


@register(layers.Flatten, layers.Reshape, layers.Permute)
def _rearrangement(layer: Any, emit: Emitter, node: int) -> int:
    moves = isinstance(layer, layers.Permute) or (
        isinstance(layer, layers.Flatten) and layer.data_format == "channels_first"
    )
    operation = Affine if moves else Reshaped
    return emit(operation(layer.call), node)  # not layer(...), which would cast


@register(layers.RepeatVector)
def _repetition(layer: Any, emit: Emitter, node: int) -> int:
    return emit(Affine(layer.call, nb_terms_back=layer.n), node)


@register(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
def _zero_padding(layer: Any, emit: Emitter, node: int) -> int:
    axes = spatial_axes(layer, emit.shape(node))
    amounts = _amounts(layer.padding, len(axes))
    pads = [(0, 0)] * (len(emit.shape(node)) + 1)
    for axis, amount in zip(axes, amounts):
        pads[axis] = amount
    shift = Window(
        tuple(axis - 1 for axis in axes),
        (1,) * len(axes),
        (1,) * len(axes),
        tuple(before for before, _ in amounts),
    )
    patchwise = Affine(lambda inputs: inputs)
    padding = Affine(lambda inputs: ops.pad(inputs, pads), window=shift, patchwise=patchwise)
    return emit(padding, node)


@register(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D)
def _cropping(layer: Any, emit: Emitter, node: int) -> int:
    axes = spatial_axes(layer, emit.shape(node))
    amounts = _amounts(layer.cropping, len(axes))
    shift = Window(
        tuple(axis - 1 for axis in axes),
        (1,) * len(axes),
        (1,) * len(axes),
        tuple(-before for before, _ in amounts),
    )
    patchwise = Affine(lambda inputs: inputs)
    return emit(Affine(layer.call, window=shift, patchwise=patchwise), node)


def _amounts(amounts: Any, rank: int) -> list[tuple[int, int]]:
    return [tuple(amounts)] if rank == 1 and len(np.shape(amounts)) == 1 else list(amounts)


@register(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D)
def _up_sampling(layer: Any, emit: Emitter, node: int) -> int:
    shape = emit.shape(node)
    axes = spatial_axes(layer, shape)
    sizes = layer.size if isinstance(layer.size, (list, tuple)) else (layer.size,)
    interpolation = getattr(layer, "interpolation", "nearest")
    if interpolation == "nearest":

        def repeat(inputs: Any) -> Any:
            for axis, size in zip(axes, sizes):
                inputs = ops.repeat(inputs, size, axis=axis)
            return inputs

        return emit(Affine(repeat, nb_terms_back=math.prod(sizes)), node)
    if interpolation != "bilinear" or keras.config.image_data_format() != "channels_last":
        # With other global formats some versions of Keras resize along the channels.
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class {type(layer).__name__} can be bounded with the "
            f"interpolations nearest and, where keras.config.image_data_format() is "
            f"'channels_last', bilinear. Received: {interpolation}"
        )
    return resized(layer.call, layer, emit, node)
