"""Rules of masks: comparisons and logical functions, whose values are 0 or 1, and `Masking`."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

from xcertify.bounds import backend
from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.masks import Indicator, Masked, Shown
from xcertify.bounds.graph.operations import Affine, Reshaped, Window
from xcertify.bounds.rules.merging import at_least, broadcast_to, difference_of
from xcertify.bounds.rules.registry import register, register_operation
from xcertify.keras_graph import UnsupportedLayerError

# Functions of two tensors: the comparison, and whether the two trade places, or 0 and 1 do.
_COMPARISONS = {
    "NotEqual": ("!=", False, False),
    "Equal": ("!=", False, True),
    "Greater": (">", False, False),
    "LessEqual": (">", False, True),
    "GreaterEqual": (">=", False, False),
    "Less": (">=", False, True),
}
_WITH_SIDES_CHANGED = {"!=": ("!=", False), ">": (">=", True), ">=": (">", True)}


@register_operation(*_COMPARISONS, inputs=("x2",))
def _comparison(operation: Any, emit: Emitter, first: int, second: int) -> int:
    comparison, _, negated = _COMPARISONS[type(operation).__name__]
    return compared(emit, comparison, first, second, negated)


def compared(emit: Emitter, comparison: str, first: int, second: int, negated: bool = False) -> int:
    """1 where a comparison of two nodes is true, else 0; the other way round if `negated`."""
    number, other = _number(emit, second), first
    if number is None and _number(emit, first) is not None:
        number, other = _number(emit, first), second
        comparison, turned = _WITH_SIDES_CHANGED[comparison]
        negated = negated != turned
    if number is None:
        number, other = 0.0, difference_of(emit, [first, second])
    node = emit(Indicator(comparison, number), other)
    return negation_of(emit, node) if negated else node


def _number(emit: Emitter, node: int) -> float | None:
    """The number that a node is, in float32, as Keras compares with it; None for other nodes."""
    constant = emit.value(node)
    if constant is None or not constant.fixed or constant.values.size != 1:
        return None
    return float(np.float32(constant.values.item()))


def negation_of(emit: Emitter, node: int) -> int:
    """1 - node."""
    negation = Affine(
        lambda x, minus: minus * x,
        weights=lambda: (np.float64(-1),),
        bias=lambda: np.float64(1),
        nb_terms=2,
        nb_terms_back=1,
        window=Window(),
    )
    return emit(negation, node)


def as_mask(emit: Emitter, node: int) -> int:
    """1 where a node is not 0."""
    operation = emit.graph.nodes[node].operation
    return node if isinstance(operation, Indicator) else emit(Indicator("!="), node)


@register_operation("LogicalAnd", inputs=("x2",))
def _both(operation: Any, emit: Emitter, first: int, second: int) -> int:
    return at_least(emit, [as_mask(emit, node) for node in (first, second)], 2)


@register_operation("LogicalOr", inputs=("x2",))
def _either(operation: Any, emit: Emitter, first: int, second: int) -> int:
    return at_least(emit, [as_mask(emit, node) for node in (first, second)], 1)


@register_operation("LogicalNot")
def _not(operation: Any, emit: Emitter, node: int) -> int:
    return negation_of(emit, as_mask(emit, node))


@register_operation("Any", "All")
def _of_axes(operation: Any, emit: Emitter, node: int) -> int:
    mask, axes, keepdims = as_mask(emit, node), operation.axis, operation.keepdims
    negated = type(operation).__name__ == "All"
    mask = negation_of(emit, mask) if negated else mask
    axes = tuple(range(1, len(emit.shape(node)) + 1)) if axes is None else axes
    found = any_of(emit, mask, axes, keepdims)
    return negation_of(emit, found) if negated else found


@register_operation("ZerosLike", "OnesLike")
def _filled(operation: Any, emit: Emitter, node: int) -> int:
    shape = emit.shape(node)
    value = 0.0 if type(operation).__name__ == "ZerosLike" else 1.0
    return emit.constant(np.full(shape, value), shape)


@register_operation("ConvertToTensor")
def _as_it_is(operation: Any, emit: Emitter, node: int) -> int:
    if operation.dtype not in (None, "bool", "float32", "float64"):
        raise UnsupportedLayerError(
            f"The operation '{operation.name}' of class ConvertToTensor can be bounded where it "
            f"keeps the type, or gives float32 or float64. Received: dtype={operation.dtype!r}"
        )
    return as_mask(emit, node) if operation.dtype == "bool" else node


def any_of(emit: Emitter, mask: int, axes: Any, keepdims: bool = False) -> int:
    """1 where a mask is 1 anywhere along some axes, batch axis counted."""

    def total(x: Any) -> Any:
        return ops.sum(x, axis=axes, keepdims=keepdims)

    shape = emit.shape(mask)
    size = int(np.prod(shape)) // int(np.prod(backend.output_shape(total, [shape], "float32")))
    return emit(Indicator(">", 0.5), emit(Affine(total, nb_terms=size, nb_terms_back=1), mask))


def along(emit: Emitter, mask: int, shape: tuple[int, ...]) -> int:
    """A mask (T,) of the places of a tensor, for all entries of each: in its shape (T, ...)."""
    nb_new = len(shape) - len(emit.shape(mask))
    own = (*emit.shape(mask), *[1] * nb_new)
    return broadcast_to(emit, emit(Reshaped(lambda x: ops.reshape(x, (-1, *own))), mask), shape)


def _mask_of_values(layer: layers.Masking, emit: Emitter, node: int) -> int:
    number = float(np.float32(layer.mask_value))
    return any_of(emit, emit(Indicator("!=", number), node), len(emit.shape(node)))


@register(layers.Masking, masks=_mask_of_values)
def _masking(layer: layers.Masking, emit: Emitter, node: int) -> int:
    mask = along(emit, _mask_of_values(layer, emit, node), emit.shape(node))
    return emit(Shown() if layer.mask_value == 0 else Masked(), node, mask)
