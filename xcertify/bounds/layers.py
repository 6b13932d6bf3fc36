"""The registry: what each Keras layer is made of.

A rule is a function ``rule(layer, emit, *inputs)``: it emits primitive operations on the nodes
`inputs` and returns the node of the layer's output. Weights are read when a bound is computed, so a
model that is trained further is bounded with its new weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from xcertify.bounds import relaxations
from xcertify.bounds.graph import Emitter, Rule, UnsupportedLayerError
from xcertify.bounds.operations import Affine, Elementwise, Largest, Operation
from xcertify.bounds.relaxations import Activation

_RULES: dict[type, Rule] = {}


def register(*layer_classes: type) -> Callable[[Rule], Rule]:
    """Make a function the rule of some layer classes (subclasses are not included)."""

    def add(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(layer_classes, rule))
        return rule

    return add


def find_rule(layer: Any) -> Rule:
    """The rule of a layer.

    Raises
    ------
    UnsupportedLayerError
        Naming the layer, its class and what is supported.
    """
    if type(layer) not in _RULES:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class {type(layer).__name__} cannot be bounded. "
            f"Supported layers: {', '.join(supported_layers())}; supported activations: "
            f"{', '.join(supported_activations())}."
        )
    return _RULES[type(layer)]


def supported_layers() -> list[str]:
    """Names of the Keras layers that can be bounded, in alphabetical order."""
    return sorted({layer_class.__name__ for layer_class in _RULES})


def supported_activations() -> list[str]:
    """Names of the activation functions that can be bounded, in alphabetical order."""
    return sorted([*(function.__name__ for function in _ACTIVATIONS), "softmax (at the output)"])


def activations_by_name() -> dict[str, Activation]:
    """The specification of every activation function that can be bounded."""
    return {f.__name__: a for f, a in _ACTIVATIONS.items() if a is not None}


class Softmax(Operation):
    """A softmax head: a marker that stands only at the output, where it is left out."""

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        return ops.softmax(inputs[0])


_ACTIVATIONS: dict[Callable, Activation | None] = {
    keras.activations.linear: None,
    keras.activations.relu: relaxations.RELU,
    keras.activations.leaky_relu: relaxations.leaky_relu(0.2),
    keras.activations.sigmoid: relaxations.SIGMOID,
    keras.activations.tanh: relaxations.TANH,
}


def _activate(layer: Any, function: Any, emit: Emitter, node: int) -> int:
    """Emit an activation given as a function or as a layer."""
    if isinstance(function, layers.Layer):
        return find_rule(function)(function, emit, node)
    if function is keras.activations.softmax:
        return emit(Softmax(), node)
    if function not in _ACTIVATIONS:
        raise UnsupportedLayerError(
            f"The activation '{getattr(function, '__name__', function)}' of the layer "
            f"'{layer.name}' of class {type(layer).__name__} cannot be bounded. Supported "
            f"activations: {', '.join(supported_activations())}."
        )
    activation = _ACTIVATIONS[function]
    return node if activation is None else emit(Elementwise(activation), node)


def _bias(layer: Any) -> Callable[[], Any] | None:
    """The bias as it broadcasts to the output."""
    if not layer.use_bias:
        return None
    if getattr(layer, "data_format", None) == "channels_first":
        return lambda: ops.reshape(layer.bias, (-1, *[1] * layer.rank))
    return lambda: layer.bias


@register(layers.Dense)
def _dense(layer: Any, emit: Emitter, node: int) -> int:
    if getattr(layer, "quantization_mode", None) is not None:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' is quantized ({layer.quantization_mode}); bound the model "
            f"before its quantization."
        )
    nb_inputs, nb_units = layer.kernel.shape
    dense = Affine(
        ops.matmul,
        weights=lambda: (layer.kernel,),
        bias=_bias(layer),
        nb_terms=nb_inputs,
        nb_terms_back=nb_units,
    )
    return _activate(layer, layer.activation, emit, emit(dense, node))


@register(layers.Conv2D)
def _convolution(layer: Any, emit: Emitter, node: int) -> int:
    *window, nb_channels, nb_filters = layer.kernel.shape

    def apply(inputs: Any, kernel: Any) -> Any:
        return ops.conv(
            inputs,
            kernel,
            strides=layer.strides,
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )

    convolution = Affine(
        apply,
        weights=lambda: (layer.kernel,),
        bias=_bias(layer),
        nb_terms=math.prod(window) * nb_channels,
        nb_terms_back=math.prod(window) * nb_filters,
    )
    return _activate(layer, layer.activation, emit, emit(convolution, node))


@register(layers.BatchNormalization)
def _batch_normalization(layer: Any, emit: Emitter, node: int) -> int:
    shape = [1] * len(emit.shape(node))
    shape[layer.axis - 1 if layer.axis > 0 else layer.axis] = -1

    def scale() -> Any:
        variance = ops.cast(layer.moving_variance, "float64")
        scale = ops.rsqrt(variance + layer.epsilon)
        return scale * ops.cast(layer.gamma, "float64") if layer.scale else scale

    def shift() -> Any:
        shift = -ops.cast(layer.moving_mean, "float64") * scale()
        if layer.center:
            shift += ops.cast(layer.beta, "float64")
        return ops.reshape(shift, shape)

    def shift_size() -> Any:
        size = ops.abs(ops.cast(layer.moving_mean, "float64") * scale())
        if layer.center:
            size += ops.abs(ops.cast(layer.beta, "float64"))
        return ops.reshape(size, shape)

    normalization = Affine(
        ops.multiply,
        weights=lambda: (ops.reshape(scale(), shape),),
        bias=shift,
        bias_size=shift_size,
        nb_terms=1,
        nb_terms_back=1,
        weight_error=8,
    )
    return emit(normalization, node)


@register(layers.Dropout)
def _identity(layer: Any, emit: Emitter, node: int) -> int:
    return node


@register(layers.Flatten, layers.Reshape)
def _rearrangement(layer: Any, emit: Emitter, node: int) -> int:
    return emit(Affine(layer.call), node)  # not layer(...), which would cast


@register(layers.Add)
def _sum(layer: Any, emit: Emitter, *nodes: int) -> int:
    count = len(nodes)
    total = Affine(
        lambda *inputs: sum(inputs[1:], inputs[0]),
        nb_inputs=count,
        nb_terms=count,
        nb_terms_back=1,
    )
    return emit(total, *nodes)


@register(layers.Concatenate)
def _concatenation(layer: Any, emit: Emitter, *nodes: int) -> int:
    joined = Affine(lambda *inputs: ops.concatenate(inputs, layer.axis), nb_inputs=len(nodes))
    return emit(joined, *nodes)


@register(layers.AveragePooling2D)
def _average_pooling(layer: Any, emit: Emitter, node: int) -> int:
    nb_terms = math.prod(layer.pool_size)
    average = Affine(
        lambda inputs: ops.average_pool(
            inputs, layer.pool_size, layer.strides, layer.padding, layer.data_format
        ),
        nb_terms=nb_terms + 1,
        nb_terms_back=nb_terms + 1,
    )
    return emit(average, node)


@register(layers.GlobalAveragePooling2D)
def _global_average(layer: Any, emit: Emitter, node: int) -> int:
    axes = _spatial_axes(layer, emit.shape(node))
    nb_terms = math.prod(emit.shape(node)[axis - 1] for axis in axes)
    average = Affine(
        lambda inputs: ops.mean(inputs, axis=axes, keepdims=layer.keepdims),
        nb_terms=nb_terms + 1,
        nb_terms_back=2,
    )
    return emit(average, node)


@register(layers.MaxPooling2D)
def _max_pooling(layer: Any, emit: Emitter, node: int) -> int:
    shape = emit.shape(node)
    axes = _spatial_axes(layer, shape)
    windows = _windows(shape, axes, layer.pool_size, layer.strides, layer.padding)
    valid = np.asarray(windows(np.ones((1, *shape), "float32")))[0] > 0
    spread = emit(Affine(windows), node)
    return emit(Largest(None if valid.all() else valid), spread)


@register(layers.GlobalMaxPooling2D)
def _global_maximum(layer: Any, emit: Emitter, node: int) -> int:
    axes = _spatial_axes(layer, emit.shape(node))
    channel = next(axis for axis in range(1, len(axes) + 2) if axis not in axes)
    size = math.prod(emit.shape(node)[axis - 1] for axis in axes)
    nb_channels = emit.shape(node)[channel - 1]
    ones = [1] * len(axes) if layer.keepdims else []
    keep = (-1, nb_channels, *ones) if channel == 1 else (-1, *ones, nb_channels)

    def spread(inputs: Any) -> Any:
        moved = ops.transpose(inputs, (0, channel, *axes))
        return ops.reshape(moved, (*keep, size))

    return emit(Largest(), emit(Affine(spread), node))


@register(layers.Activation)
def _activation(layer: Any, emit: Emitter, node: int) -> int:
    return _activate(layer, layer.activation, emit, node)


@register(layers.ReLU)
def _relu(layer: Any, emit: Emitter, node: int) -> int:
    if layer.max_value is not None or layer.threshold:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class ReLU can be bounded without max_value and "
            f"threshold only. Received: max_value={layer.max_value}, threshold={layer.threshold}"
        )
    if layer.negative_slope:
        return emit(Elementwise(relaxations.leaky_relu(float(layer.negative_slope))), node)
    return emit(Elementwise(relaxations.RELU), node)


@register(layers.LeakyReLU)
def _leaky_relu(layer: Any, emit: Emitter, node: int) -> int:
    return emit(Elementwise(relaxations.leaky_relu(float(layer.negative_slope))), node)


@register(layers.Softmax)
def _softmax(layer: Any, emit: Emitter, node: int) -> int:
    return emit(Softmax(), node)


def _spatial_axes(layer: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes that a pooling layer runs over, batch axis counted."""
    rank = len(shape) - 1
    first = 1 if layer.data_format == "channels_last" else 2
    return tuple(range(first, first + rank))


def _windows(
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    size: tuple[int, ...],
    strides: tuple[int, ...],
    padding: str,
) -> Callable[[Any], Any]:
    """A function that lays the entries of every pooling window along a new last axis.

    Entries beyond the border are 0.
    """
    pads = [(0, 0)] * (len(shape) + 1)
    counts = []
    for axis, width, stride in zip(axes, size, strides):
        length = shape[axis - 1]
        if padding == "same":
            count = math.ceil(length / stride)
            missing = max((count - 1) * stride + width - length, 0)
            pads[axis] = (missing // 2, missing - missing // 2)
        else:
            count = (length - width) // stride + 1
        counts.append(count)

    def windows(inputs: Any) -> Any:
        padded = ops.pad(inputs, pads) if any(pad != (0, 0) for pad in pads) else inputs
        parts = []
        for offsets in itertools.product(*map(range, size)):
            index = [slice(None)] * len(pads)
            for axis, offset, stride, count in zip(axes, offsets, strides, counts):
                index[axis] = slice(offset, offset + (count - 1) * stride + 1, stride)
            parts.append(padded[tuple(index)])
        return ops.stack(parts, axis=-1)

    return windows
