"""Rules of `keras.ops` functions along axes: sums, extrema, moments, norms."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.graph import functions
from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.logsumexp import LogSumExp
from xcertify.bounds.graph.maximum import Largest
from xcertify.bounds.graph.operations import Affine, Elementwise, Reshaped
from xcertify.bounds.rules import merging
from xcertify.bounds.rules.normalization import (
    centered,
    scaled,
    standardized,
    sum_of_squares,
)
from xcertify.bounds.rules.registry import register_operation
from xcertify.bounds.rules.scalars import scalar
from xcertify.bounds.rules.windows import axes_of
from xcertify.keras_graph import UnsupportedLayerError


def _axes(operation: Any, emit: Emitter, node: int) -> tuple[int, ...]:
    """The axes that a function names; None, all of them, has been refused: it mixes samples."""
    return axes_of(operation, operation.axis, emit.shape(node))


def _shape_without(
    shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool
) -> tuple[int, ...]:
    """A shape of which some axes, batch axis counted, are reduced."""
    sizes = [1 if axis in axes else size for axis, size in enumerate(shape, 1)]
    return tuple(s for axis, s in enumerate(sizes, 1) if keepdims or axis not in axes)


def _laid_last(emit: Emitter, node: int, axes: tuple[int, ...], keepdims: bool) -> int:
    """The entries along some axes laid along a new last one, behind what is left of the others."""
    shape = emit.shape(node)
    rest = [axis for axis in range(len(shape) + 1) if axis not in axes]
    size = math.prod(shape[axis - 1] for axis in axes)
    target = (-1, *_shape_without(shape, axes, keepdims), size)
    laid = Affine(lambda x: ops.reshape(ops.transpose(x, (*rest, *axes)), target))
    return emit(laid, node)


def _dropped(emit: Emitter, node: int, axes: tuple[int, ...], keepdims: bool) -> int:
    """A node without the axes of length 1 that a sum has left, if they are not kept."""
    target = (-1, *_shape_without(emit.shape(node), axes, keepdims))
    return node if keepdims else emit(Reshaped(lambda x: ops.reshape(x, target)), node)


@register_operation("Sum", "Mean")
def _total(operation: Any, emit: Emitter, node: int) -> int:
    total = emit.arguments.evaluate
    shape = backend.output_shape(total, [emit.shape(node)], "float32")
    nb_terms = math.prod(emit.shape(node)) // math.prod(shape)
    return emit(Affine(total, nb_terms=nb_terms + 1, nb_terms_back=2, increasing=True), node)


@register_operation("Max", "Amax")
def _largest(operation: Any, emit: Emitter, node: int) -> int:
    axes = _axes(operation, emit, node)
    node = emit(Largest(), _laid_last(emit, node, axes, operation.keepdims))
    initial = getattr(operation, "initial", None)
    if initial is None:
        return node
    return emit(Elementwise(functions.limit(float(initial), below=True)), node)


@register_operation("Min", "Amin")
def _smallest(operation: Any, emit: Emitter, node: int) -> int:
    laid = _laid_last(emit, node, _axes(operation, emit, node), operation.keepdims)
    node = merging.negative_of(emit, emit(Largest(), merging.negative_of(emit, laid)))
    initial = getattr(operation, "initial", None)
    if initial is None:
        return node
    return emit(Elementwise(functions.limit(float(initial), below=False)), node)


@register_operation("Cumsum")
def _cumulated(operation: Any, emit: Emitter, node: int) -> int:
    (axis,) = _axes(operation, emit, node)
    _refuse_type(operation)
    length = emit.shape(node)[axis - 1]
    cumulated = Affine(
        lambda x: ops.cumsum(x, axis=axis),
        nb_terms=length,
        nb_terms_back=length,
        increasing=True,
    )
    return emit(cumulated, node)


@register_operation("Prod")
def _product(operation: Any, emit: Emitter, node: int) -> int:
    _refuse_type(operation)
    node = _laid_last(emit, node, _axes(operation, emit, node), operation.keepdims)
    while (size := emit.shape(node)[-1]) > 1:
        half = size // 2

        def part(first: int, last: int, node: int = node) -> int:
            return emit(Affine(lambda x: x[..., first:last]), node)

        halves = merging.product_of(emit, (part(0, half), part(half, 2 * half)))
        if size % 2:
            rest = part(size - 1, size)
            joined = Affine(lambda *x: ops.concatenate(x, axis=-1), nb_inputs=2)
            halves = emit(joined, halves, rest)
        node = halves
    target = (-1, *emit.shape(node)[:-1])
    return emit(Reshaped(lambda x: ops.reshape(x, target)), node)


def _refuse_type(operation: Any) -> None:
    if operation.dtype not in (None, "float32", "float64"):
        raise UnsupportedLayerError(
            f"The operation '{operation.name}' of class {type(operation).__name__} can be bounded "
            f"in float32 or float64. Received: dtype={operation.dtype!r}"
        )


@register_operation("Var", "Std")
def _variance(operation: Any, emit: Emitter, node: int) -> int:
    axes = _axes(operation, emit, node)
    share = 1 / math.prod(emit.shape(node)[axis - 1] for axis in axes)
    variance = sum_of_squares(emit, centered(emit, node, axes), axes, share)
    if type(operation).__name__ == "Std":
        variance = scalar(emit, functions.SQRT, variance)
    return _dropped(emit, variance, axes, operation.keepdims)


@register_operation("Logsumexp")
def _log_sum_exp(operation: Any, emit: Emitter, node: int) -> int:
    axes = _axes(operation, emit, node)
    return emit(LogSumExp(), _laid_last(emit, node, axes, operation.keepdims))


@register_operation("LogSoftmax")
def _log_softmax(operation: Any, emit: Emitter, node: int) -> int:
    laid = _laid_last(emit, node, _axes(operation, emit, node), keepdims=True)
    return merging.difference_of(emit, (node, emit(LogSumExp(), laid)))


@register_operation("Norm")
def _norm(operation: Any, emit: Emitter, node: int) -> int:
    axes, order = _axes(operation, emit, node), operation.ord
    if order in (None, "fro") or (order == 2 and len(axes) == 1):
        node = scalar(emit, functions.SQRT, sum_of_squares(emit, node, axes))
        return _dropped(emit, node, axes, operation.keepdims)
    if len(axes) == 1 and order in (1, math.inf):
        sizes = emit(Elementwise(functions.ABSOLUTE), node)
        laid = _laid_last(emit, sizes, axes, operation.keepdims)
        if order == math.inf:
            return emit(Largest(), laid)
        nb_terms = emit.shape(laid)[-1]
        total = Affine(
            lambda x: ops.sum(x, -1), nb_terms=nb_terms, nb_terms_back=1, increasing=True
        )
        return emit(total, laid)
    raise UnsupportedLayerError(
        f"The operation '{operation.name}' of class Norm can be bounded with ord=None, or "
        f"along one axis with ord=1, 2 or infinity. Received: ord={order!r}, axis={operation.axis}"
    )


@register_operation("Normalize")
def _normalized(operation: Any, emit: Emitter, node: int) -> int:
    if operation.order != 2:
        raise UnsupportedLayerError(
            f"The operation '{operation.name}' of class Normalize can be bounded with order=2. "
            f"Divide by keras.ops.norm. Received: order={operation.order}"
        )
    axes = _axes(operation, emit, node)
    return standardized(emit, node, axes, 0.0, share=1.0, least=_epsilon(operation) ** 2)


@register_operation("RMSNorm", settings=("scale",))
def _rms_normalized(operation: Any, emit: Emitter, node: int) -> int:
    node = standardized(emit, node, _axes(operation, emit, node), _epsilon(operation))
    scale: Any = getattr(operation, "scale", None)  # in Keras 3.10
    scale = emit.arguments.settings.get("scale") if scale is None else scale
    if scale is None:
        return node
    if not hasattr(scale, "assign"):
        scale = np.asarray(scale, "float64")
    return scaled(emit, node, scale, None, np.shape(scale))


def _epsilon(operation: Any) -> float:
    return keras.config.epsilon() if operation.epsilon is None else float(operation.epsilon)
