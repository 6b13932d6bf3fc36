"""Backpropagation as a graph: operations of the same kind as those of the network.

For every tensor between input and output there is a node with the gradient by that tensor, put
together from gradients further back: the transposed map of an affine operation, the slope of an
activation times a gradient, a selection where a maximum was taken. The nodes stand behind those of
the network in one graph, so that intervals and backward passes, relaxations, roundings and memory
are those of the engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch

from keras import ops

from xcertify.bounds.graph.activations import SIGMOID
from xcertify.bounds.graph.derivatives import LargestGate, SlopeGate, Transposed
from xcertify.bounds.graph.graph import Graph, Node
from xcertify.bounds.graph.logsumexp import LogSumExp
from xcertify.bounds.graph.masks import Indicator, Masked, Shown
from xcertify.bounds.graph.maximum import Largest
from xcertify.bounds.graph.mixture import Mixture
from xcertify.bounds.graph.operations import Affine, Constant, Elementwise, Input, Operation
from xcertify.bounds.graph.products import Contraction, Product
from xcertify.bounds.graph.softmax import Softmax
from xcertify.bounds.graph.standardization import Standardized
from xcertify.keras_graph import UnsupportedLayerError


@dataclass
class GradientGraph:
    """A network and its backpropagation.

    Attributes
    ----------
    network
        The network; for the cross-entropy with the probabilities behind it.
    graph
        The same nodes, and behind them the seed and the gradients. Tensors of the network of which
        linear bounds need nothing but the interval are inputs.
    intervals
        The same where all tensors of the network are inputs.
    targets
        Tensors of the network to enclose, and nonlinear operations whose inputs are to be.
    seed
        Node of the gradient by the logits, or of the label's probabilities.
    output
        Node of the gradient by the input.
    """

    network: Graph
    graph: Graph
    intervals: Graph
    targets: list[int]
    seed: int
    output: int


def gradient_graph(network: Graph, loss: str) -> GradientGraph:
    """Backpropagation of rows of the logits, or of the cross-entropy, through a network.

    Raises
    ------
    UnsupportedLayerError
        For an operation whose derivative is not bounded, naming its layer.
    """
    forward = Graph(list(network.nodes), output=network.output, nb_inputs=network.nb_inputs)
    shape = forward.nodes[network.output].shape
    if loss == "cross-entropy":
        head = Elementwise(SIGMOID) if shape == (1,) else Softmax(-1)
        forward.nodes.append(Node(head, (network.output,), shape, "probabilities"))
    nodes = [*forward.nodes, Node(Input(is_point=True), (), shape, "seed")]
    seed = first = len(forward.nodes)
    if loss == "cross-entropy":
        nodes.append(Node(_difference(), (seed - 1, seed), shape, "seed"))
        first += 1
    varying = _varying(forward)
    gradients: dict[int, list[int]] = {network.output: [first]}
    for index in reversed(forward.ancestors([network.output])):
        if index not in gradients:
            continue
        emit = GradientEmitter(nodes, index)
        parts = derivatives(forward.nodes[index].operation, emit, emit.total(gradients.pop(index)))
        for parent, part in zip(emit.parents, parts):
            if part is not None and parent in varying:
                gradients.setdefault(parent, []).append(part)
    if 0 not in gradients:
        raise UnsupportedLayerError("The outputs do not depend on the input that varies.")
    emit = GradientEmitter(nodes, 0)
    output = emit.total(gradients[0])
    if output == seed:  # the network does nothing
        output = emit(Affine(lambda gradient: gradient), seed)
    return _assembled(forward, nodes, seed, output)


class GradientEmitter:
    """Appends gradients that belong to one node of the network.

    Attributes
    ----------
    index
        The node.
    parents, shapes
        The nodes it is computed from and their shapes.
    layer
        The layer that it belongs to.
    """

    def __init__(self, nodes: list[Node], index: int) -> None:
        node = nodes[index]
        self.nodes, self.index, self.layer, self.shape = nodes, index, node.layer, node.shape
        self.parents = node.parents
        self.shapes = [nodes[parent].shape for parent in node.parents]

    def __call__(
        self, operation: Operation, *parents: int, shape: tuple[int, ...] | None = None
    ) -> int:
        """Append an operation; of the shape of its first parent if no other is given."""
        shape = self.nodes[parents[0]].shape if shape is None else shape
        self.nodes.append(Node(operation, parents, shape, self.layer))
        return len(self.nodes) - 1

    def total(self, parts: list[int]) -> int:
        """Sum of the gradients that arrive from several users of the node."""
        if len(parts) == 1:
            return parts[0]
        plus = Affine(
            lambda *x: sum(x[1:], x[0]),
            nb_inputs=len(parts),
            nb_terms=len(parts),
            nb_terms_back=1,
        )
        return self(plus, *parts)


def _difference() -> Affine:
    return Affine(
        lambda a, b, minus: a + minus * b,
        nb_inputs=2,
        weights=lambda: (-1.0,),
        nb_terms=2,
        nb_terms_back=1,
    )


@singledispatch
def derivatives(operation: Operation, emit: GradientEmitter, gradient: int) -> Sequence[int | None]:
    """Emit the gradient by each parent of a node from the gradient by the node: the chain rule.

    None for a parent whose part is in that of another one.
    """
    raise UnsupportedLayerError(
        f"The gradient of the layer '{emit.layer}' cannot be bounded: there is no rule for "
        f"{type(operation).__name__}."
    )


@derivatives.register
def _affine(operation: Affine, emit: GradientEmitter, gradient: int) -> list[int]:
    return [
        emit(Transposed(operation, number, emit.shapes), gradient, shape=shape)
        for number, shape in enumerate(emit.shapes)
    ]


@derivatives.register
def _elementwise(operation: Elementwise, emit: GradientEmitter, gradient: int) -> list[int]:
    activation = operation.activation
    if not activation.continuous:
        raise UnsupportedLayerError(
            f"The gradient of the layer '{emit.layer}' cannot be bounded: its activation "
            f"'{activation.name}' jumps, so that its derivative has no bound."
        )
    (parent,) = emit.parents
    if activation.slope is None:
        return [emit(SlopeGate(activation), gradient, parent)]
    return [emit(Product(), gradient, emit(Elementwise(activation.slope), parent))]


@derivatives.register
def _largest(operation: Largest, emit: GradientEmitter, gradient: int) -> list[int]:
    (parent,), (shape,) = emit.parents, emit.shapes
    return [emit(LargestGate(operation, shape[-1]), gradient, parent, shape=shape)]


@derivatives.register
def _log_sum_exp(operation: LogSumExp, emit: GradientEmitter, gradient: int) -> list[int]:
    (parent,), (shape,) = emit.parents, emit.shapes
    repeated = Affine(
        lambda g: ops.repeat(g[..., None], shape[-1], axis=-1), nb_terms_back=shape[-1]
    )
    gradient = emit(repeated, gradient, shape=shape)
    return [emit(Product(), gradient, emit(Softmax(-1), parent))]


@derivatives.register
def _product(operation: Product, emit: GradientEmitter, gradient: int) -> list[int]:
    first, second = emit.parents
    return [emit(Product(), gradient, other) for other in (second, first)]


@derivatives.register
def _mixture(operation: Mixture, emit: GradientEmitter, gradient: int) -> Sequence[int | None]:
    return [gradient, gradient, None, None]


@derivatives.register
def _masked(operation: Masked, emit: GradientEmitter, gradient: int) -> list[int]:
    own = gradient if operation.shifts else emit(Product(), gradient, emit.parents[1])
    return [own, gradient]  # what the second is good for, `_indicator` says


@derivatives.register
def _shown(operation: Shown, emit: GradientEmitter, gradient: int) -> list[int | None]:
    return [emit(Product(), gradient, emit.parents[1]), None]


@derivatives.register
def _indicator(operation: Indicator, emit: GradientEmitter, gradient: int) -> list[int]:
    raise UnsupportedLayerError(
        f"The gradient of the layer '{emit.layer}' cannot be bounded: it is 0 or 1 by what the "
        f"input is, and so jumps."
    )


@derivatives.register
def _contraction(operation: Contraction, emit: GradientEmitter, gradient: int) -> list[int]:
    def turned(node: int) -> int:
        groups, rows, columns = emit.nodes[node].shape
        turn = Affine(lambda x: ops.swapaxes(x, -1, -2))
        return emit(turn, node, shape=(groups, columns, rows))

    first, second = emit.parents
    of_first, of_second = emit.shapes
    return [
        emit(Contraction(), gradient, turned(second), shape=of_first),
        emit(Contraction(), turned(gradient), turned(first), shape=of_second),
    ]


@derivatives.register
def _softmax(operation: Softmax, emit: GradientEmitter, gradient: int) -> list[int]:
    # p * (g - sum(p * g))
    size = _size(emit.shape, operation.axes)
    centering = Affine(
        lambda g, h, minus: g + minus * ops.sum(h, axis=operation.axes, keepdims=True),
        nb_inputs=2,
        weights=lambda: (-1.0,),
        nb_terms=size + 2,
        nb_terms_back=size + 2,
    )
    centered = emit(centering, gradient, emit(Product(), gradient, emit.index))
    return [emit(Product(), centered, emit.index)]


@derivatives.register
def _standardized(
    operation: Standardized, emit: GradientEmitter, gradient: int
) -> Sequence[int | None]:
    if operation.least:  # below it the factor is constant
        return _product(operation, emit, gradient)
    # r * (g - y * sum(y * g) * share) for y = r * x, of which r is the second factor
    average = Affine(
        lambda h, share: share * ops.sum(h, axis=operation.axes, keepdims=True) + ops.zeros_like(h),
        weights=lambda: (operation.share,),
        nb_terms=operation.nb_entries + 1,
        nb_terms_back=operation.nb_entries + 1,
        weight_error=2,
    )
    mean = emit(average, emit(Product(), gradient, emit.index))
    rest = emit(_difference(), gradient, emit(Product(), mean, emit.index))
    return [emit(Product(), rest, emit.parents[1]), None]


def _size(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """Entries along some axes, batch axis counted."""
    return math.prod(shape[axis - 1 if axis > 0 else axis] for axis in axes)


def _varying(graph: Graph) -> set[int]:
    """Nodes that depend on the input that varies."""
    varying = {0}
    for index, node in enumerate(graph.nodes):
        if varying.intersection(node.parents) and not isinstance(node.operation, Constant):
            varying.add(index)
    return varying


def _assembled(forward: Graph, nodes: list[Node], seed: int, output: int) -> GradientGraph:
    """Both graphs, in which tensors of the network are inputs where that is enough."""

    def graph(needed: set[int]) -> Graph:
        parts = [
            node if index >= seed or index in needed else Node(Input(), (), node.shape, node.layer)
            for index, node in enumerate(nodes)
        ]
        return Graph(parts, output=output, nb_inputs=forward.nb_inputs)

    needed, pending = set(), [output]
    while pending:
        index = pending.pop()
        if index not in needed:
            needed.add(index)
            operation = nodes[index].operation
            parents = enumerate(nodes[index].parents)
            pending += [parent for number, parent in parents if operation.has_lines_in(number)]
    used = {parent for node in nodes[seed:] for parent in node.parents if parent < seed}
    ends = [forward.output, *used]
    nonlinear = [i for i in forward.ancestors(ends) if not _is_affine(forward.nodes[i])]
    targets = sorted(used.union(nonlinear))
    return GradientGraph(forward, graph(needed), graph(set()), targets, seed, output)


def _is_affine(node: Node) -> bool:
    return node.operation.exact_affine
