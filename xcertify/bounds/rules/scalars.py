"""Rules of `keras.ops` functions that work on each entry by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from xcertify.bounds.graph import activations, functions
from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.least import least_value
from xcertify.bounds.graph.operations import Affine, Elementwise, Window
from xcertify.bounds.graph.relaxations import Activation
from xcertify.bounds.rules import merging
from xcertify.bounds.rules.registry import register_operation
from xcertify.keras_graph import UnsupportedLayerError


def scalar(emit: Emitter, facts: Activation, node: int) -> int:
    """A function of every entry; where it has a domain, with what is known of its input."""
    if facts.undefined is None:
        return emit(Elementwise(facts), node)
    return emit(Elementwise(facts, least_value(emit.graph, node)), node)


@register_operation(*activations.NODES)
def _elementwise(operation: Any, emit: Emitter, node: int) -> int:
    return scalar(emit, activations.of_node(operation), node)


@register_operation("Power", inputs=("x2",))
def _power(operation: Any, emit: Emitter, base: int, exponent: int) -> int:
    number = merging.number_of(emit, exponent)
    if number is None or emit.value(base) is not None:
        raise UnsupportedLayerError(
            f"The operation '{operation.name}' of class Power can be bounded with one number as "
            f"exponent, of a base that depends on the input. Write c ** x as "
            f"keras.ops.exp(x * keras.ops.log(c))."
        )
    if number == 0:
        rank = len(emit.shape(base))
        return emit.constant(np.ones((1,) * rank), (1,) * rank, emit.shape(base))
    return base if number == 1 else scalar(emit, functions.power(number), base)


@register_operation("Clip")
def _clip(operation: Any, emit: Emitter, node: int) -> int:
    low, high = (np.asarray(side, "float64") for side in (operation.x_min, operation.x_max))
    if low.size != 1 or high.size != 1:
        raise UnsupportedLayerError(
            f"The operation '{operation.name}' of class Clip can be bounded between two numbers. "
            f"Write keras.ops.minimum(keras.ops.maximum(x, low), high) with arrays of the shape "
            f"(1, ...). Received: arrays of the shapes {low.shape} and {high.shape}"
        )
    return emit(Elementwise(functions.limits(low.item(), high.item())), node)


@register_operation("Where", inputs=("x1", "x2"))
def _where(operation: Any, emit: Emitter, condition: int, first: int, second: int) -> int:
    mask, first, second = merging.broadcast(emit, (condition, first, second))
    constant = emit.value(condition)
    if constant is None or not constant.fixed:  # entries of the mask are 0 or 1
        step = merging.product_of(emit, (mask, merging.difference_of(emit, (first, second))))
        return merging.sum_of(emit, (second, step))
    chosen = np.broadcast_to(constant.read(), emit.shape(mask)) != 0
    selection = Affine(lambda a, b: ops.where(chosen, a, b), nb_inputs=2, window=Window())
    return emit(selection, first, second)
