"""Numbers that tensors are never below, from what makes them and not from where inputs lie.

Intervals are kept as deviations in the working type, which rounds: that of a square may end a
little below 0. A root or a logarithm behind it is defined nonetheless, and so is known to be.
"""

from __future__ import annotations

import math
from functools import singledispatch

import numpy as np

from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.maximum import Largest
from xcertify.bounds.graph.operations import Affine, Constant, Elementwise, Operation
from xcertify.bounds.graph.softmax import Softmax

_ROUNDINGS = 1 - 2.0**-20  # a number above 0 that the network's arithmetic has come to


def least_value(graph: Graph, index: int) -> float:
    """A number at least 0 that no entry of a node is below, also as the network rounds; or -inf."""
    node = graph.nodes[index]
    least = _least(node.operation, graph, node.parents)
    return least * _ROUNDINGS if least >= 0 else -math.inf


@singledispatch
def _least(operation: Operation, graph: Graph, parents: tuple[int, ...]) -> float:
    return -math.inf


@_least.register
def _elementwise(operation: Elementwise, graph: Graph, parents: tuple[int, ...]) -> float:
    return operation.activation.least


@_least.register
def _softmax(operation: Softmax, graph: Graph, parents: tuple[int, ...]) -> float:
    return 0.0


@_least.register
def _largest(operation: Largest, graph: Graph, parents: tuple[int, ...]) -> float:
    return least_value(graph, parents[0])


@_least.register
def _constant(operation: Constant, graph: Graph, parents: tuple[int, ...]) -> float:
    return float(np.min(operation.values)) if operation.fixed else -math.inf


@_least.register
def _affine(operation: Affine, graph: Graph, parents: tuple[int, ...]) -> float:
    if not operation.increasing:
        return -math.inf
    least = [least_value(graph, parent) for parent in parents]
    if min(least) < 0:
        return -math.inf
    inputs = [
        np.full((1, *graph.nodes[parent].shape), value) for parent, value in zip(parents, least)
    ]
    return float(np.min(operation.evaluate(*inputs)))
