"""Where intervals are exact: rows that go back can tell no more there than they do.

An affine operation on a box, a tensor whose entries do not depend on each other, loses nothing, and
neither does what works entry by entry behind it. Behind two operations that mix entries something
is lost: what the first one gives is no box any more.
"""

from __future__ import annotations

from collections.abc import Iterable

from xcertify.bounds.graph.graph import Graph, Node
from xcertify.bounds.graph.operations import Affine, Elementwise, Input, Operation
from xcertify.bounds.graph.weights import Varied


def exact_tensors(graph: Graph, indices: Iterable[int], is_box: bool = True) -> set[int]:
    """Nodes whose intervals are exact for every entry, but for roundings.

    Parameters
    ----------
    graph
        The network.
    indices
        Nodes to look at, parents first, and all that they depend on but inputs.
    is_box
        Whether the input that varies is in a box.
    """
    # By node that is a box: what its entries depend on, nothing for a point.
    boxes: dict[int, frozenset[int]] = {}
    for index, node in enumerate(graph.nodes):
        if isinstance(node.operation, Input) and (index > 0 or is_box):
            boxes[index] = frozenset(() if node.operation.is_point else {index})
    exact = set(boxes)
    for index in indices:
        node = graph.nodes[index]
        operation, sources = node.operation, frozenset[int]()
        if isinstance(operation, Varied):  # weights are a box, too, and of each use their own
            operation, sources = operation.operation, frozenset({index})
        parents = [parent for parent in _used(node) if boxes.get(parent) != frozenset()]
        behind = [sources, *(boxes[parent] for parent in parents if parent in boxes)]
        sources = frozenset[int]().union(*behind)
        apart = len(behind) == len(parents) + 1 and len(sources) == sum(map(len, behind))
        linear = isinstance(operation, Affine) or not parents
        by_entries = _is_by_entries(operation, len(parents))
        if (linear and apart) or (by_entries and exact.issuperset(parents)):
            exact.add(index)
        if apart and (not parents or _keeps_apart(operation)):
            boxes[index] = sources
    return exact


def _used(node: Node) -> list[int]:
    """Parents that a node depends on: of a constant none."""
    is_affine = isinstance(node.operation, Affine)
    return [
        parent
        for number, parent in enumerate(node.parents)
        if not is_affine or node.operation.has_lines_in(number)
    ]


def _is_in_place(operation: Operation) -> bool:
    """Whether each entry depends on those in its own place alone."""
    if isinstance(operation, Affine):
        window = operation.window
        return window is not None and not window.axes and window.mixed is None
    return isinstance(operation, Elementwise)


def _is_by_entries(operation: Operation, nb_varying: int) -> bool:
    """Whether each entry depends on a single entry of the inputs that vary."""
    if isinstance(operation, Affine) and operation.nb_terms == 0:
        return True
    single = isinstance(operation, Affine) and operation.nb_terms == 1
    return nb_varying <= 1 and (single or _is_in_place(operation))


def _keeps_apart(operation: Operation) -> bool:
    """Whether no entry of an input is used by several of the output."""
    if _is_in_place(operation):
        return True
    return isinstance(operation, Affine) and operation.nb_terms_back <= 1
