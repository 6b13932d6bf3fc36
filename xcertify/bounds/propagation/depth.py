"""How far the rows of inner tensors go back: a dial between crown-ibp and crown.

A row of an inner tensor may stop after so many nonlinear layers and be closed by the intervals of
the tensor that it has reached, which are proved, too. Bounds of 0 layers are those of crown-ibp.
"""

from __future__ import annotations

import math

from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import Affine, Elementwise
from xcertify.bounds.propagation.exactness import exact_tensors
from xcertify.bounds.propagation.routes import Patches, Route, patch_routes

Depth = int | None

LARGEST_WORK = 3e11  # of "auto", for one sample: at most some six seconds of a processor
# What a step costs for each coefficient beside its products, in products.
_ENTRYWISE, _MOVED = 300.0, 60.0


def ends_of(graph: Graph, start: int, depth: Depth) -> set[int]:
    """Nonlinear nodes that are more than `depth` nonlinear layers before a node."""
    if depth is None:
        return set()
    layers = {start: 0}
    for index in reversed(graph.ancestors([start])):
        node = graph.nodes[index]
        layers[index] += not node.operation.exact_affine
        for parent in node.parents:
            layers[parent] = max(layers.get(parent, 0), layers[index])
    nonlinear = (i for i in layers if not graph.nodes[i].operation.exact_affine)
    return {
        index for index in nonlinear if layers[index] > depth and not graph.nodes[index].is_input
    }


def inner_tensors(graph: Graph, targets: list[int]) -> set[int]:
    """Nodes whose entries rows are started from: inputs of nonlinear ones."""
    found = set()
    for index in graph.ancestors(targets):
        if not graph.nodes[index].operation.exact_affine:
            found |= {source_of(graph, parent)[0] for parent in graph.nodes[index].parents}
    return {i for i in found if graph.nodes[i].operation.refinable}


def source_of(graph: Graph, index: int) -> tuple[int, list[int]]:
    """Where the entries of a tensor come from, one each, and the nodes between, from there on.

    Back through what only moves entries, and through activations.
    """
    between: list[int] = []
    operation = graph.nodes[index].operation
    while operation.only_moves or isinstance(operation, Elementwise):
        between.insert(0, index)
        (index,) = graph.nodes[index].parents
        operation = graph.nodes[index].operation
    return index, between


def work(graph: Graph, targets: list[int], depth: Depth) -> float:
    """Products for one sample if all entries of all inner tensors have a row of this depth."""
    total = 0.0
    exact = exact_tensors(graph, graph.ancestors(targets))
    for start in inner_tensors(graph, targets) - exact:
        total += row_work(graph, start, depth) * math.prod(graph.nodes[start].shape)
    return total


def row_work(graph: Graph, start: int, depth: Depth) -> float:
    """Products for one sample and one row that goes back from a node."""
    route = Route(graph, start, ends_of(graph, start, depth))
    patches = patch_routes(route)
    seen = route if patches is None else Patches(patches, [])
    row = 0.0
    for index in route.passed:
        node = graph.nodes[index]
        size = math.prod(seen.shape(index))
        widest = max(math.prod(seen.shape(i)) for i in (index, *node.parents) if i in seen.seen)
        terms = node.operation.nb_terms if isinstance(node.operation, Affine) else 0
        row += size * terms + widest * (_MOVED if node.operation.exact_affine else _ENTRYWISE)
    return 2 * row


def refines(given: int | str | None, graph: Graph, targets: list[int]) -> bool:
    """Whether rows of inner tensors go back at all.

    With "auto" they do not where 0 layers are more than `LARGEST_WORK`. That costs tightness behind
    several linear layers in a row.
    """
    return not isinstance(given, str) or work(graph, targets, 0) <= LARGEST_WORK


def depth_of(given: int | str | None, graph: Graph, targets: list[int]) -> Depth:
    """A depth as it is given; "auto" is the largest one whose work is at most `LARGEST_WORK`."""
    if not isinstance(given, str):
        return given
    if work(graph, targets, None) <= LARGEST_WORK:
        return None
    depth = 0
    while work(graph, targets, depth + 1) <= LARGEST_WORK:
        depth += 1
    return depth
