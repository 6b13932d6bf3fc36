"""Rules of `keras.ops` functions that stand as nodes of their own in a functional model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.operations import Affine, Reshaped
from xcertify.bounds.graph.softmax import Softmax
from xcertify.bounds.rules import merging
from xcertify.bounds.rules.registry import register_operation
from xcertify.bounds.rules.windows import axes_of
from xcertify.keras_graph import UnsupportedLayerError


@register_operation("Softmax")
def _softmax(operation: Any, emit: Emitter, node: int) -> int:
    axes = axes_of(operation, operation.axis, emit.shape(node))
    return emit(Softmax(axes if len(axes) > 1 else axes[0]), node)


@register_operation("Reshape", "Squeeze", "ExpandDims")
def _reshape(operation: Any, emit: Emitter, node: int) -> int:
    return emit(Reshaped(emit.arguments.evaluate), node)


@register_operation("Cast")
def _cast(operation: Any, emit: Emitter, node: int) -> int:
    if operation.dtype not in ("float32", "float64"):
        raise UnsupportedLayerError(
            f"The operation '{operation.name}' of class Cast can be bounded where it casts to "
            f"float32 or float64. Received: dtype={operation.dtype!r}"
        )
    return node


@register_operation("Transpose", "Flip", "Moveaxis", "Swapaxes", "Concatenate", "Stack")
def _rearrangement(operation: Any, emit: Emitter, *nodes: int) -> int:
    return emit(Affine(emit.arguments.evaluate, nb_inputs=len(nodes)), *nodes)


_WHOLE = [slice(start, None, step) for start in (None, 0) for step in (None, 1)]


@register_operation("GetItem", settings=("key",))
def _item(operation: Any, emit: Emitter, node: int) -> int:
    key = emit.arguments.settings["key"]
    parts = key if isinstance(key, tuple) else (key,)
    known = (int, slice, type(None), type(...))
    if any(isinstance(part, bool) or not isinstance(part, known) for part in parts):
        raise UnsupportedLayerError(
            f"The operation '{operation.name}' of class GetItem can be bounded with numbers, "
            f"slices, None and '...' only. Received: {key!r}"
        )
    of_batch = parts[0] if parts else ...
    if of_batch is not ... and of_batch not in _WHOLE:
        raise UnsupportedLayerError(
            f"The operation '{operation.name}' of class GetItem cannot be bounded: it mixes "
            f"samples, since it selects along the batch axis. Begin with x[:, ...]. "
            f"Received: {key!r}"
        )
    return emit(Affine(emit.arguments.evaluate), node)


@register_operation("Repeat")
def _repetition(operation: Any, emit: Emitter, node: int) -> int:
    uses = int(np.max(operation.repeats))
    return emit(Affine(emit.arguments.evaluate, nb_terms_back=uses), node)


@register_operation("Tile")
def _tiles(operation: Any, emit: Emitter, node: int) -> int:
    repeats = np.ravel(operation.repeats).tolist()
    repeats = [1] * (len(emit.shape(node)) + 1 - len(repeats)) + repeats

    def tiled(inputs: Any) -> Any:
        for axis, count in enumerate(repeats):
            inputs = ops.concatenate([inputs] * count, axis=axis) if count > 1 else inputs
        return inputs

    return emit(Affine(tiled, nb_terms_back=math.prod(repeats)), node)


@register_operation("Pad", settings=("constant_values",))
def _padding(operation: Any, emit: Emitter, node: int) -> int:
    if operation.mode != "constant":  # an entry is repeated before and behind itself
        uses = 3 ** len(emit.shape(node))
        return emit(Affine(emit.arguments.evaluate, nb_terms_back=uses), node)
    value = emit.arguments.settings.get("constant_values")
    value = np.asarray(0 if value is None else value, dtype="float64")
    if value.ndim or not np.isfinite(value):
        raise UnsupportedLayerError(
            f"The operation '{operation.name}' of class Pad can be bounded when it pads with a "
            f"finite number. Received: constant_values={value!r}"
        )
    pads = operation.pad_width
    ones = np.ones((1, *emit.shape(node)))
    border = value * (1 - ops.convert_to_numpy(ops.pad(ones, pads))[0])
    padded = Affine(
        lambda inputs: ops.pad(inputs, pads),
        bias=(lambda: border) if value else None,
        nb_terms=1 if value else 0,
        nb_terms_back=1,
    )
    return emit(padded, node)


@register_operation("Negative")
def _negative(operation: Any, emit: Emitter, node: int) -> int:
    return merging.negative_of(emit, node)


_MERGES = {
    "Add": merging.sum_of,
    "Subtract": merging.difference_of,
    "Multiply": merging.product_of,
    "Divide": merging.quotient_of,
    "TrueDivide": merging.quotient_of,
    "Maximum": merging.largest_of,
    "Minimum": merging.smallest_of,
}


@register_operation(*_MERGES, inputs=("x2",))
def _binary(operation: Any, emit: Emitter, first: int, second: int) -> int:
    return _MERGES[type(operation).__name__](emit, (first, second))
