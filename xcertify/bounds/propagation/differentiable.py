"""Interval bounds of gradients and logits in plain float32: the bounds that train.

The same graphs and the same rules of functions as in the engine, without reference values and
without error terms. They agree with the method "ibp" up to roundings, cost about as much as a
few passes of the network, and prove nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from keras import ops

from xcertify.bounds.graph import relaxations
from xcertify.bounds.graph.backpropagation import GradientGraph
from xcertify.bounds.graph.derivatives import Gate
from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.maximum import Largest
from xcertify.bounds.graph.operations import (
    Affine,
    Elementwise,
    Enclosure,
    Operation,
    Options,
    Relaxed,
)
from xcertify.bounds.graph.products import Product
from xcertify.bounds.graph.standardization import Standardized

Sides = tuple[Any, Any]


def gradient_sides(graph: GradientGraph, lower: Any, upper: Any, rows: Any, gamma: Any) -> Sides:
    """Lower and upper input gradients over boxes, (N, *input), in the type of the boxes.

    Parameters
    ----------
    graph
        The network and its backpropagation.
    lower, upper
        Sides of the boxes, (N, *input).
    rows
        (N, *outputs): rows of the logits, or the label's probabilities.
    gamma
        Relative radius of all learned weights and biases, a scalar.

    No guarantee
    ------------
    Roundings are not covered.
    """
    sides = {0: (lower, upper)}
    _propagate(graph.network, sides, graph.targets, gamma)
    sides[graph.seed] = (rows, rows)
    _propagate(graph.intervals, sides, [graph.output], gamma)
    return sides[graph.output]


def upper_rows(network: Graph, lower: Any, upper: Any, rows: Any) -> Any:
    """Upper bounds (N, S) of rows of the logits over boxes, in the type of the boxes.

    An affine operation at the end is merged with the rows: it is the same for all of them, which
    intervals of the logits would forget.

    Parameters
    ----------
    network
        With logits of shape (K,).
    lower, upper
        Sides of the boxes, (N, *input).
    rows
        (N, S, K).

    No guarantee
    ------------
    Roundings are not covered.
    """
    sides, target, constant = {0: (lower, upper)}, network.output, 0.0
    last, parents = network.nodes[target].operation, network.nodes[target].parents
    if isinstance(last, Affine) and last.nb_inputs == 1:
        (target,) = parents
        if last.bias is not None:
            constant = ops.sum(rows * ops.cast(last.bias(), rows.dtype), axis=-1)
        shape = network.nodes[target].shape
        rows = last.pull_back(rows[:, None], Relaxed(), [shape])[0][:, 0]
    _propagate(network, sides, [target], 0.0)
    low, up = (side[:, None] for side in sides[target])
    products = ops.maximum(rows, 0) * up + ops.minimum(rows, 0) * low
    flat = ops.reshape(products, (*ops.shape(products)[:2], -1))
    return ops.sum(flat, axis=-1) + constant


def _propagate(graph: Graph, sides: dict[int, Sides], targets: list[int], gamma: Any) -> None:
    for index in graph.ancestors(targets):
        node = graph.nodes[index]
        sides[index] = image(node.operation, [sides[p] for p in node.parents], gamma)


@singledispatch
def image(operation: Operation, inputs: Sequence[Sides], gamma: Any) -> Sides:
    """Interval image of an operation; by default that of the engine."""
    dtype = inputs[0][0].dtype
    middles = [ops.cast((lower + upper) / 2, "float64") for lower, upper in inputs]
    enclosures = [
        Enclosure(middle, *(ops.cast(side, "float64") - middle for side in sides))
        for middle, sides in zip(middles, inputs)
    ]
    reference = operation.evaluate(*middles)
    enclosure = operation.interval(enclosures, reference, Options("float64"))
    lower, upper = enclosure.absolute()
    return ops.cast(lower, dtype), ops.cast(upper, dtype)


@image.register
def _affine(operation: Affine, inputs: Sequence[Sides], gamma: Any) -> Sides:
    if operation.nb_terms == 0 and operation.bias is None:
        return tuple(operation.linear(*side) for side in zip(*inputs))
    bias_radius = 0.0
    if operation.learned:
        inputs = [(lo - gamma * ops.abs(lo), up + gamma * ops.abs(up)) for lo, up in inputs]
        if operation.bias_size is not None:
            bias_radius = gamma * ops.abs(ops.cast(operation.bias_size(), inputs[0][0].dtype))
    middle = operation.evaluate(*((lower + upper) / 2 for lower, upper in inputs))
    radius = operation.absolute(*((upper - lower) / 2 for lower, upper in inputs)) + bias_radius
    return middle - radius, middle + radius


@image.register
def _elementwise(operation: Elementwise, inputs: Sequence[Sides], gamma: Any) -> Sides:
    sides = [ops.maximum(side, operation.least) for side in inputs[0]]
    return relaxations.image(operation.activation, *sides)


@image.register
def _largest(operation: Largest, inputs: Sequence[Sides], gamma: Any) -> Sides:
    return tuple(operation.evaluate(side) for side in inputs[0])


@image.register
def _product(operation: Product, inputs: Sequence[Sides], gamma: Any) -> Sides:
    corners = ops.stack([first * second for first in inputs[0] for second in inputs[1]])
    return ops.min(corners, axis=0), ops.max(corners, axis=0)


image.register(Standardized, image.dispatch(object))  # its own interval, not that of a product


@image.register
def _gate(operation: Gate, inputs: Sequence[Sides], gamma: Any) -> Sides:
    gradients = [operation.repeated(side) for side in inputs[0]]
    factors = [ops.cast(f, gradients[0].dtype) for f in operation.factors(*inputs[1])]
    corners = ops.stack([gradient * factor for gradient in gradients for factor in factors])
    return ops.min(corners, axis=0), ops.max(corners, axis=0)
