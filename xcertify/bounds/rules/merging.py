"""Rules of layers that join several tensors, and the merges themselves, broadcast as needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import layers, ops

from xcertify.bounds.graph.functions import RECIPROCAL, limit
from xcertify.bounds.graph.gated import Gated
from xcertify.bounds.graph.graph import Emitter, unknown_mask
from xcertify.bounds.graph.least import least_value
from xcertify.bounds.graph.masks import Indicator
from xcertify.bounds.graph.maximum import Largest
from xcertify.bounds.graph.mixture import Mixture
from xcertify.bounds.graph.operations import Affine, Elementwise, Scaled, Window
from xcertify.bounds.graph.products import Product
from xcertify.bounds.rules.registry import register
from xcertify.bounds.rules.windows import axes_of
from xcertify.keras_graph import UnsupportedLayerError


def _affine_merge(
    emit: Emitter,
    nodes: Sequence[int],
    apply: Callable,
    nb_terms: int,
    weights: Callable[[], Sequence[Any]] = tuple,
    increasing: bool = False,
    transposed: Callable[..., Any] | None = None,
) -> int:
    nodes = broadcast(emit, nodes)
    merged = Affine(
        apply,
        nb_inputs=len(nodes),
        weights=weights,
        nb_terms=nb_terms,
        nb_terms_back=2,
        weight_error=2,
        window=Window(),
        increasing=increasing,
        transposed=transposed,
        by_rows=True,
    )
    return emit(merged, *nodes)


def broadcast(emit: Emitter, nodes: Sequence[int]) -> list[int]:
    """The nodes, all in the shape that they broadcast to."""
    shape = np.broadcast_shapes(*(emit.shape(node) for node in nodes))
    return [broadcast_to(emit, node, shape) for node in nodes]


def broadcast_to(emit: Emitter, node: int, shape: tuple[int, ...]) -> int:
    """A node in a larger shape, without batch axis; its last axes are the last ones there."""
    if emit.shape(node) == shape:
        return node
    constant = emit.value(node)
    if constant is not None:
        return emit.constant(constant.values, constant.own, shape)
    own = (1,) * (len(shape) - len(emit.shape(node))) + emit.shape(node)

    def apply(inputs: Any) -> Any:
        inputs = ops.reshape(inputs, (-1, *own))
        for axis, (size, target) in enumerate(zip(own, shape)):
            if size != target:
                inputs = ops.repeat(inputs, target, axis=axis + 1)
        return inputs

    return emit(Affine(apply, nb_terms_back=math.prod(shape) // math.prod(own)), node)


def check_addition(layer: str, first: Sequence[int], second: Sequence[int], fixed: bool) -> None:
    """Refuse a sum that `keras.ops.add` takes for the addition of a bias along another axis.

    With TensorFlow it does so where the second of its arguments has a single axis longer than 1, of
    the length of the first's last axis, or else of its second.

    Parameters
    ----------
    layer
        Name, for the message.
    first, second
        Shapes without batch axis.
    fixed
        Whether the second is the same for all samples, with a batch axis of length 1.

    Raises
    ------
    UnsupportedLayerError
        Where such a sum, for some size of batches, is not the sum.
    """
    ranks = len(first), len(second)
    first, second = (
        (1,) * (ranks[1] - ranks[0]) + tuple(first),
        (1,) * (ranks[0] - ranks[1]) + tuple(second),
    )
    long = [axis for axis, size in enumerate(second) if size > 1]
    if not first or len(long) > 1:
        return
    if long:
        along = [axis for axis in (len(first) - 1, 0) if first[axis] == second[long[0]]]
        wrong = bool(along) and along[0] != long[0]
    else:  # a batch of that many samples
        wrong = not fixed and max(first[0], first[-1]) > 1
    if wrong:
        raise UnsupportedLayerError(
            f"The layer '{layer}' cannot be bounded: keras.ops.add takes what it adds, of shape "
            f"{second}, for a bias along another axis of what it adds it to, of shape {first}, "
            f"for batches of some size. Put the smaller one first, or give it the full shape by "
            f"keras.ops.repeat; for the bias of a layer choose another data format or size."
        )


def _check_additions(emit: Emitter, nodes: Sequence[int]) -> None:
    shape = emit.shape(nodes[0])
    for node in nodes[1:]:
        check_addition(emit.layer, shape, emit.shape(node), emit.value(node) is not None)
        shape = np.broadcast_shapes(shape, emit.shape(node))


def sum_of(emit: Emitter, nodes: Sequence[int]) -> int:
    """Sum of nodes."""
    _check_additions(emit, nodes)
    return _affine_merge(
        emit,
        nodes,
        lambda *x: sum(x[1:], x[0]),
        len(nodes),
        increasing=True,
        transposed=lambda output: [output] * len(nodes),
    )


def mean_of(emit: Emitter, nodes: Sequence[int]) -> int:
    """Mean of nodes."""
    _check_additions(emit, nodes)
    count = len(nodes)
    return _affine_merge(
        emit,
        nodes,
        lambda *x: sum(x[1:-1], x[0]) * x[-1],
        count + 1,
        lambda: (np.float64(1 / count),),
    )


def difference_of(emit: Emitter, nodes: Sequence[int]) -> int:
    """First node minus second."""
    return _affine_merge(
        emit,
        nodes,
        lambda a, b, minus: a + minus * b,
        2,
        lambda: (np.float64(-1),),
        transposed=lambda output, minus: [output, minus * output],
    )


def product_of(emit: Emitter, nodes: Sequence[int], kind: type[Product] = Product) -> int:
    """Product of nodes."""
    constants = [value for value in map(emit.value, nodes) if value is not None]
    laid = broadcast(emit, nodes)
    first, *others = [node for node in laid if emit.value(node) is None] or laid[:1]
    if len(constants) == len(nodes):
        constants = constants[1:]
    for other in others:
        first = emit(kind(), first, other)
    for constant in constants:
        first = emit(Scaled(constant.read), first)
    return first


def mixture_of(emit: Emitter, share: int, first: int, second: int) -> int:
    """A share of the first node, and the rest of the second, entry by entry."""
    share, first, second = broadcast(emit, [share, first, second])
    change = product_of(emit, [share, difference_of(emit, [first, second])], Gated)
    return emit(Mixture(), change, second, share, first)


def quotient_of(emit: Emitter, nodes: Sequence[int]) -> int:
    """First node by the second; nothing is proved where the second can be 0."""
    divisor = emit.value(nodes[1])
    if divisor is None:
        reciprocal = Elementwise(RECIPROCAL, least_value(emit.graph, nodes[1]))
        return product_of(emit, [nodes[0], emit(reciprocal, nodes[1])])
    if divisor.fixed and not divisor.values.all():
        raise UnsupportedLayerError(
            f"The operation '{emit.layer}' cannot be bounded: it divides by a constant that is 0."
        )
    first = broadcast(emit, nodes)[0]
    factor = lambda: 1 / ops.cast(divisor.read(), "float64")  # noqa: E731
    return emit(Scaled(factor, weight_error=2), first)


def number_of(emit: Emitter, node: int) -> float | None:
    """The number that a node is for all entries, None for any other node."""
    constant = emit.value(node)
    if constant is None or not constant.fixed or constant.values.size != 1:
        return None
    return float(constant.values.item())


def _limited(emit: Emitter, nodes: Sequence[int], below: bool) -> int | None:
    """The larger (smaller) of a node and a number; None for anything else."""
    numbers = [number for number in (number_of(emit, node) for node in nodes) if number is not None]
    if len(nodes) != 2 or len(numbers) != 1:
        return None
    (node,) = (node for node in nodes if number_of(emit, node) is None)
    return emit(Elementwise(limit(numbers[0], below)), node)


def largest_of(emit: Emitter, nodes: Sequence[int]) -> int:
    """Largest of nodes, entry by entry."""
    limited = _limited(emit, nodes, below=True)
    if limited is not None:
        return limited
    nodes = broadcast(emit, nodes)
    stacked = Affine(
        lambda *inputs: ops.stack(inputs, axis=-1), nb_inputs=len(nodes), window=Window()
    )
    return emit(Largest(), emit(stacked, *nodes))


def smallest_of(emit: Emitter, nodes: Sequence[int]) -> int:
    """Smallest of nodes, entry by entry."""
    limited = _limited(emit, nodes, below=False)
    if limited is not None:
        return limited
    return negative_of(emit, largest_of(emit, [negative_of(emit, node) for node in nodes]))


def negative_of(emit: Emitter, node: int) -> int:
    """The negated node."""
    operation = Affine(
        lambda inputs, minus: minus * inputs,
        weights=lambda: (np.float64(-1),),
        nb_terms=1,
        nb_terms_back=1,
        window=Window(),
    )
    return emit(operation, node)


# --- masks --------------------------------------------------------------------------------------


def at_least(emit: Emitter, masks: Sequence[int], number: int) -> int:
    """1 where so many of some masks are 1, else 0."""
    masks = broadcast(emit, masks)
    total = Affine(
        lambda *x: sum(x[1:], x[0]),
        nb_inputs=len(masks),
        nb_terms=len(masks),
        nb_terms_back=1,
        window=Window(),
    )
    return emit(Indicator(">", number - 0.5), emit(total, *masks))


def _mask_of_all(layer: Any, emit: Emitter, *nodes: int) -> int | None:
    """1 where the mask of any tensor is 1; no mask where a tensor has none."""
    masks = [mask for mask in map(emit.mask, range(len(nodes))) if mask is not None]
    if len(masks) < len(nodes):
        return None
    return masks[0] if len({*masks}) == 1 else at_least(emit, masks, 1)


def _mask_of_parts(layer: layers.Concatenate, emit: Emitter, *nodes: int) -> int | str | None:
    """The masks of sequences one behind the other, or 1 where that of any of them is 1."""
    masks = [emit.mask(number) for number in range(len(nodes))]
    if all(mask is None for mask in masks):
        return None
    shapes = [emit.shape(node) for node in nodes]
    if any(len(shape) != 2 for shape in shapes):
        return unknown_mask(layer)
    full = [
        emit.constant(np.ones(shape[:1]), shape[:1]) if mask is None else mask
        for mask, shape in zip(masks, shapes)
    ]
    if layer.axis in (-1, 2):
        return at_least(emit, full, 1)
    return emit(Affine(lambda *x: ops.concatenate(x, 1), nb_inputs=len(full)), *full)


# --- layers -------------------------------------------------------------------------------------


@register(layers.Add, masks=_mask_of_all)
def _add(layer: Any, emit: Emitter, *nodes: int) -> int:
    return sum_of(emit, nodes)


@register(layers.Subtract, masks=_mask_of_all)
def _subtract(layer: Any, emit: Emitter, *nodes: int) -> int:
    return difference_of(emit, nodes)


@register(layers.Average, masks=_mask_of_all)
def _average(layer: Any, emit: Emitter, *nodes: int) -> int:
    return mean_of(emit, nodes)


@register(layers.Multiply, masks=_mask_of_all)
def _multiply(layer: Any, emit: Emitter, *nodes: int) -> int:
    return product_of(emit, nodes)


@register(layers.Maximum)
def _maximum(layer: Any, emit: Emitter, *nodes: int) -> int:
    return largest_of(emit, nodes)


@register(layers.Minimum)
def _minimum(layer: Any, emit: Emitter, *nodes: int) -> int:
    return smallest_of(emit, nodes)


@register(layers.Concatenate, masks=_mask_of_parts)
def _concatenation(layer: Any, emit: Emitter, *nodes: int) -> int:
    (axis,) = axes_of(layer, layer.axis, emit.shape(nodes[0]))
    joined = Affine(
        lambda *inputs: ops.concatenate(inputs, axis),
        nb_inputs=len(nodes),
        window=Window(mixed=axis - 1),
    )
    return emit(joined, *nodes)
