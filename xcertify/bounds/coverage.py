"""What of a model can be bounded, layer by layer, and how much work each method is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from xcertify.bounds.graph.backpropagation import GradientEmitter, derivatives, gradient_graph
from xcertify.bounds.graph.graph import Graph, Node
from xcertify.bounds.graph.operations import Affine, Input
from xcertify.bounds.graph.translation import graph_of_call
from xcertify.bounds.network import HEADS, Network, before_head, head_of
from xcertify.bounds.propagation.budget import Budget
from xcertify.bounds.propagation.depth import depth_of, inner_tensors, refines, row_work, work
from xcertify.bounds.rules.registry import find_rule
from xcertify.keras_graph import UnsupportedLayerError, calls_between, ends_of

LINES, INTERVALS, REFUSED, LEFT_OUT = "lines", "intervals", "refused", "left out"


@dataclass(frozen=True)
class LayerCoverage:
    """How a layer of a model is bounded.

    Attributes
    ----------
    name, kind
        Of the layer and its class; that of a nested model stands before the name, and a slash.
    shape
        Of its output, without the batch axis; None where it is not known.
    nb_parameters
        Of the layer, trained or not.
    bounded
        "lines", "intervals" (no lines, so that nothing behind it depends on the input by lines),
        "refused", or "left out", as a softmax at the end of the model is.
    reason
        Why it is refused, or "".
    gradient
        Whether its derivative is bounded, as `CertifiedGradient` needs it.
    gradient_reason
        Why not, or "".
    """

    name: str
    kind: str
    shape: tuple[int | None, ...] | None
    nb_parameters: int
    bounded: str
    reason: str
    gradient: bool
    gradient_reason: str


def coverage_of(model: keras.Model) -> list[LayerCoverage]:
    """Of each call of a layer, in order, whether and how it is bounded. Nothing is computed.

    Parameters
    ----------
    model
        Built Sequential or functional model.

    Returns
    -------
    layers
        One for each call; a layer that is called twice is there twice.

    Raises
    ------
    UnsupportedLayerError
        For a model whose layers are not known.

    Examples
    --------
    >>> [(layer.name, layer.bounded) for layer in coverage_of(model)]
    [('dense', 'lines'), ('softmax', 'left out')]
    """
    _, outputs = ends_of(model)
    ends = {id(tensor) for tensor in outputs}
    return [_covered(call, name, ends) for call, name in _calls(model, "")]


def _calls(model: keras.Model, prefix: str) -> Iterator[tuple[Any, str]]:
    """Calls of layers, those inside nested models in the place of these."""
    for call in calls_between(*ends_of(model)):
        layer = call.operation
        try:
            is_nested = isinstance(layer, keras.Model) and bool(ends_of(layer))
        except UnsupportedLayerError:
            is_nested = False
        if is_nested:
            yield from _calls(layer, f"{prefix}{layer.name}/")
        else:
            yield call, prefix + layer.name


def _covered(call: Any, name: str, ends: set[int]) -> LayerCoverage:
    layer = call.operation
    shapes = [tuple(tensor.shape[1:]) for tensor in call.output_tensors]
    bounded, reason, gradient_reason = LINES, "", ""
    try:
        graph = graph_of_call(call, find_rule)
        if any(id(tensor) in ends for tensor in call.output_tensors) and head_of(graph) in HEADS:
            graph.output = before_head(graph)
        nodes = [graph.nodes[index] for index in graph.ancestors([graph.output])]
        if not nodes:
            bounded = LEFT_OUT
        elif not all(map(_has_lines, nodes)):
            bounded = INTERVALS
        gradient_reason = _refused_gradient(graph)
    except UnsupportedLayerError as error:
        bounded, reason, gradient_reason = REFUSED, str(error), str(error)
    count = getattr(layer, "count_params", lambda: 0)
    return LayerCoverage(
        name=name,
        kind=type(layer).__name__,
        shape=shapes[0] if len(shapes) == 1 else None,
        nb_parameters=int(count()),
        bounded=bounded,
        reason=reason,
        gradient=not gradient_reason,
        gradient_reason=gradient_reason,
    )


def _has_lines(node: Node) -> bool:
    if isinstance(node.operation, Affine):
        return True
    return any(node.operation.has_lines_in(number) for number in range(len(node.parents)))


def _refused_gradient(graph: Graph) -> str:
    """Why a derivative is not bounded; "" where all are."""
    seed = Node(Input(is_point=True), (), (), "seed")
    for index in graph.ancestors([graph.output]):
        nodes = [*graph.nodes, Node(seed.operation, (), graph.nodes[index].shape, "seed")]
        try:
            derivatives(graph.nodes[index].operation, GradientEmitter(nodes, index), len(nodes) - 1)
        except UnsupportedLayerError as error:
            return str(error)
    return ""


# --- work -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What it is to bound a model, for one sample and by products of numbers.

    Attributes
    ----------
    forward
        Of one evaluation.
    outputs
        By method, of bounds of all outputs.
    gradient
        By method, of bounds of the gradient of one output; empty where none is bounded.
    gradient_reason
        Why none is, or "".
    sample_bytes
        What is known of a sample's tensors takes so much.
    row_bytes
        What goes back through the network takes so much for each row of coefficients.
    rows
        By method, most rows of a sample that go back at once, if memory allows.
    """

    forward: float
    outputs: dict[str, float]
    gradient: dict[str, float]
    gradient_reason: str
    sample_bytes: int
    row_bytes: int
    rows: dict[str, int]


def work_of(model: keras.Model) -> Work:
    """How much work the methods are on a model, without doing any.

    Parameters
    ----------
    model
        Built Sequential or functional model.

    Raises
    ------
    UnsupportedLayerError
        For a model that cannot be bounded.
    """
    graph = Network(model).graph()
    forward, ibp = _forward(graph), _PASSES * _forward(graph)
    nb_outputs = math.prod(graph.nodes[graph.output].shape)
    lines = ibp + nb_outputs * row_work(graph, graph.output, None)
    inner = _inner_work(graph, [graph.output])
    outputs = {"ibp": ibp, "crown-ibp": lines, "crown": lines + inner}
    outputs["alpha-crown"] = _OPTIMIZED * outputs["crown"]
    gradient, reason = {}, ""
    try:
        back = gradient_graph(graph, "logit")
    except UnsupportedLayerError as error:
        reason = str(error)
    else:
        both = _PASSES * _forward(back.graph, ends=False)
        entries = math.prod(back.graph.nodes[back.output].shape)
        lines = entries * row_work(back.graph, back.output, None)
        within = _inner_work(back.network, back.targets)
        gradient = {
            "ibp": both,
            "ibp-crown": both + within,
            "crown-ibp": both + lines,
            "crown": both + within + _inner_work(back.graph, [back.output]) + lines,
        }
    budget = Budget(2**30, "float32")
    sample_bytes, row_bytes = budget.bytes_of(graph)
    sizes = [math.prod(graph.nodes[i].shape) for i in inner_tensors(graph, [graph.output])]
    most = max([nb_outputs, *sizes])
    rows = {"ibp": 0, "crown-ibp": nb_outputs, "crown": most, "alpha-crown": most}
    return Work(forward, outputs, gradient, reason, sample_bytes, row_bytes, rows)


def _inner_work(graph: Graph, targets: list[int]) -> float:
    """Of the rows of inner tensors, as far back as a `Verifier` goes that is told nothing."""
    if not refines("auto", graph, targets):
        return 0.0
    return work(graph, targets, depth_of("auto", graph, targets))


# Of intervals: centers and radii, both in float64. Of alpha-crown: twenty steps, there and back.
_PASSES, _OPTIMIZED = 6.0, 60.0


def _forward(graph: Graph, ends: bool = True) -> float:
    """Products of one evaluation of a graph, up to its output or of all of it."""
    some = graph.ancestors([graph.output]) if ends else range(len(graph.nodes))
    total = 0.0
    for index in some:
        node = graph.nodes[index]
        terms = node.operation.nb_terms if isinstance(node.operation, Affine) else 1
        total += math.prod(node.shape) * max(terms, 1)
    return total
