"""Rules of layers that are activations."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from xcertify.bounds.graph import activations
from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.masks import HIDDEN, Masked
from xcertify.bounds.graph.operations import Elementwise
from xcertify.bounds.graph.softmax import Softmax
from xcertify.bounds.rules.merging import broadcast_to
from xcertify.bounds.rules.registry import activate, register
from xcertify.bounds.rules.windows import axes_of
from xcertify.keras_graph import UnsupportedLayerError


@register(layers.Activation)
def _activation(layer: Any, emit: Emitter, node: int) -> int:
    return activate(layer, layer.activation, emit, node)


@register(layers.ReLU)
def _relu(layer: Any, emit: Emitter, node: int) -> int:
    settings = (float(layer.negative_slope or 0), layer.max_value, float(layer.threshold or 0))
    if settings == (0.0, None, 0.0):
        return emit(Elementwise(activations.RELU), node)
    return emit(Elementwise(activations.rectifier(*settings)), node)


@register(layers.LeakyReLU)
def _leaky_relu(layer: Any, emit: Emitter, node: int) -> int:
    return emit(Elementwise(activations.leaky_relu(float(layer.negative_slope))), node)


@register(layers.PReLU)
def _parametric_relu(layer: Any, emit: Emitter, node: int) -> int:
    return emit(Elementwise(activations.leaky_relu(lambda: layer.alpha)), node)


@register(layers.ELU)
def _elu(layer: Any, emit: Emitter, node: int) -> int:
    return emit(Elementwise(activations.elu(float(layer.alpha))), node)


@register(layers.Softmax)
def _softmax(layer: Any, emit: Emitter, node: int) -> int:
    shape = emit.shape(node)
    axes = axes_of(layer, layer.axis, shape)
    softmax = Softmax(axes if len(axes) > 1 else axes[0])
    mask = emit.mask(rank=len(shape) + 1, casts=False)
    if mask is None:
        return emit(softmax, node)
    if len(emit.shape(mask)) != len(shape) or np.broadcast_shapes(shape, emit.shape(mask)) != shape:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class Softmax cannot be bounded with a mask that does "
            f"not have the axes of its input, of shape {shape}: Keras lays it along other axes. "
            f"Received: a mask of shape {emit.shape(mask)}"
        )
    mask = broadcast_to(emit, mask, shape)
    shares = emit(softmax, emit(Masked(HIDDEN), node, mask))
    return emit(Masked(), shares, mask)
