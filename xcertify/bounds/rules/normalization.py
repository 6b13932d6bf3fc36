"""Rules of layers that scale and shift."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from xcertify.bounds.graph import functions
from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.least import least_value
from xcertify.bounds.graph.operations import Affine, Elementwise, Reshaped, Scaled
from xcertify.bounds.graph.products import Product
from xcertify.bounds.graph.standardization import Standardized
from xcertify.bounds.rules.merging import broadcast_to
from xcertify.bounds.rules.registry import register
from xcertify.bounds.rules.windows import axes_of
from xcertify.keras_graph import UnsupportedLayerError


def _scale_and_shift(
    emit: Emitter,
    node: int,
    scale: Callable[[], Any],
    shift: Callable[[], Any] | None,
    shift_size: Callable[[], Any] | None = None,
    learned: bool = True,
) -> int:
    """``scale * x + shift`` with computed, broadcast factors."""
    operation = Scaled(scale, bias=shift, bias_size=shift_size, weight_error=8, learned=learned)
    return emit(operation, node)


@register(layers.BatchNormalization)
def _batch_normalization(layer: Any, emit: Emitter, node: int) -> int:
    emit.mask()  # which only training looks at
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
    return _scale_and_shift(emit, node, scale, shift, learned=False)


@register(layers.Rescaling)
def _rescaling(layer: Any, emit: Emitter, node: int) -> int:
    rank = len(emit.shape(node)) + 1
    # Of numbers of Python the layer computes with float32, whatever its type is.
    scale, offset = (
        np.asarray(values, "float64" if hasattr(values, "dtype") else "float32")
        for values in (layer.scale, layer.offset)
    )
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
    return _scale_and_shift(emit, node, lambda: scale, lambda: offset, learned=False)


def _entries(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """How many entries lie along some axes, batch axis counted."""
    return math.prod(shape[axis - 1] for axis in axes)


def centered(emit: Emitter, node: int, axes: tuple[int, ...]) -> int:
    """A node less its mean along some axes, batch axis counted."""
    nb_entries = _entries(emit.shape(node), axes)
    operation = Affine(
        lambda inputs, own, mean: own * inputs + mean * ops.sum(inputs, axes, keepdims=True),
        weights=lambda: (np.float64(1), np.float64(-1 / nb_entries)),
        nb_terms=nb_entries + 2,
        nb_terms_back=nb_entries + 2,
        weight_error=2,
    )
    return emit(operation, node)


def sum_of_squares(
    emit: Emitter, node: int, axes: tuple[int, ...], share: float = 1.0, plus: float = 0.0
) -> int:
    """``share * sum(x ** 2) + plus`` along some axes, which are kept."""
    operation = Affine(
        lambda inputs, share: share * ops.sum(inputs, axes, keepdims=True),
        weights=lambda: (np.float64(share),),
        bias=(lambda: np.float64(plus)) if plus else None,
        nb_terms=_entries(emit.shape(node), axes) + 2,
        nb_terms_back=2,
        weight_error=2,
        increasing=True,
    )
    return emit(operation, emit(Elementwise(functions.SQUARE), node))


def standardized(
    emit: Emitter,
    node: int,
    axes: tuple[int, ...],
    epsilon: float,
    share: float | None = None,
    least: float = 0.0,
    factor_of: int | None = None,
) -> int:
    """``x * rsqrt(max(share * sum(x ** 2), least) + epsilon)`` along some axes.

    Parameters
    ----------
    emit, node, axes
        What x is, and the axes of the sum, batch axis counted.
    epsilon, least
        Numbers of the formula.
    share
        The reciprocal of how many there are, if it is not given.
    factor_of
        Another node whose squares are summed.
    """
    nb_entries = _entries(emit.shape(node), axes)
    share = 1 / nb_entries if share is None else share
    total = sum_of_squares(emit, node if factor_of is None else factor_of, axes, share, epsilon)
    if least:
        total = emit(Elementwise(functions.limit(least, below=True)), total)
    root = emit(Elementwise(functions.RSQRT, least_value(emit.graph, total)), total)
    root = broadcast_to(emit, root, emit.shape(node))
    if factor_of is not None:
        return emit(Product(), node, root)
    return emit(Standardized(axes, share, least, epsilon, nb_entries), node, root)


def scaled(
    emit: Emitter,
    node: int,
    gamma: Any,
    beta: Any,
    shape: tuple[int, ...],
) -> int:
    """``gamma * x + beta``, weights that may be missing, in a shape that broadcasts to x."""
    if gamma is None and beta is None:
        return node
    ones = np.ones(shape)
    return _scale_and_shift(
        emit,
        node,
        lambda: ones if gamma is None else ops.reshape(gamma, shape),
        None if beta is None else lambda: ops.reshape(beta, shape),
    )


def along(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with 1 for all other axes."""
    return tuple(size if axis in axes else 1 for axis, size in enumerate(shape, 1))


@register(layers.LayerNormalization)
def _layer_normalization(layer: Any, emit: Emitter, node: int) -> int:
    shape = emit.shape(node)
    axes = axes_of(layer, layer.axis, shape)
    middle = centered(emit, node, axes)
    if getattr(layer, "rms_scaling", False):  # divides by the deviation and keeps the mean
        node = standardized(emit, node, axes, layer.epsilon, factor_of=middle)
        return scaled(emit, node, layer.gamma, None, along(shape, axes))
    node = standardized(emit, middle, axes, layer.epsilon)
    return scaled(emit, node, layer.gamma, layer.beta, along(shape, axes))


@register(layers.RMSNormalization)
def _rms_normalization(layer: Any, emit: Emitter, node: int) -> int:
    node = standardized(emit, node, axes_of(layer, layer.axis, emit.shape(node)), layer.epsilon)
    # Keras multiplies along the last axes, whichever were named.
    return scaled(emit, node, layer.scale, None, tuple(layer.scale.shape))


@register(layers.UnitNormalization)
def _unit_normalization(layer: Any, emit: Emitter, node: int) -> int:
    axes = axes_of(layer, layer.axis, emit.shape(node))
    return standardized(emit, node, axes, 0.0, share=1.0, least=1e-24)


@register(layers.GroupNormalization)
def _group_normalization(layer: Any, emit: Emitter, node: int) -> int:
    shape = emit.shape(node)
    (axis,) = axes_of(layer, layer.axis, shape)
    size = shape[axis - 1] // layer.groups
    grouped = (*shape[: axis - 1], layer.groups, size, *shape[axis:])
    axes = tuple(a for a in range(1, len(grouped) + 1) if a != axis)
    node = emit(Reshaped(lambda x: ops.reshape(x, (-1, *grouped))), node)
    node = standardized(emit, centered(emit, node, axes), axes, layer.epsilon)
    node = emit(Reshaped(lambda x: ops.reshape(x, (-1, *shape))), node)
    return scaled(emit, node, layer.gamma, layer.beta, along(shape, (axis,)))
