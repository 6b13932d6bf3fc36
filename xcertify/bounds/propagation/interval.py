"""Interval bound propagation: every tensor of a graph enclosed, one operation after the other.

Source: Gowal et al., On the Effectiveness of Interval Bound Propagation, 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keras import ops

from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import Enclosure, Options
from xcertify.bounds.rounding import as_lower, as_upper

Enclosures = dict[int, Enclosure]


def propagate(
    graph: Graph,
    enclosures: Enclosures,
    options: Options,
    targets: Iterable[int],
    before: Callable[[int], None] | None = None,
    after: Callable[[int], None] | None = None,
) -> None:
    """Enclose all nodes that the targets depend on.

    Parameters
    ----------
    graph
        The network.
    enclosures
        Holds the input's; the others are added.
    options
        Arithmetic of the bounds.
    targets
        Nodes to reach.
    before, after
        Called with a node's index before and after the node is bounded; may tighten enclosures.
    """
    for index in graph.ancestors(targets):
        if before is not None:
            before(index)
        step(graph, index, enclosures, options)
        if after is not None:
            after(index)


def step(graph: Graph, index: int, enclosures: Enclosures, options: Options) -> None:
    """Bound one node from its parents; a node that has an enclosure already can only shrink.

    Of that enclosure the reference may be missing.
    """
    node = graph.nodes[index]
    inputs = [enclosures[parent] for parent in node.parents]
    known = enclosures.get(index)
    reference = None if known is None else known.reference
    if reference is None:
        reference = node.operation.evaluate(*(e.reference for e in inputs))

    def bound(inputs: Sequence[Enclosure], reference: Any) -> tuple[Any, Any]:
        return node.operation.interval(inputs, reference, options)[1:]

    lower, upper = node.operation.by_places(bound, inputs, reference)
    if not node.operation.only_moves:
        lower, upper = as_lower(lower), as_upper(upper)
    new = Enclosure(reference, lower, upper)
    enclosures[index] = new if known is None else intersect(new, known.lower, known.upper)


def intersect(enclosure: Enclosure, lower: object, upper: object) -> Enclosure:
    """An enclosure with further bounds of the deviations."""
    return Enclosure(
        enclosure.reference,
        ops.maximum(enclosure.lower, lower),
        ops.minimum(enclosure.upper, upper),
    )


def finite(enclosures: Enclosures) -> Any:
    """For which samples all reference values are finite, (N,) bool: of others nothing is known."""
    found = True
    for enclosure in filter(None, enclosures.values()):
        axes = tuple(range(1, len(enclosure.reference.shape)))
        found = ops.logical_and(found, ops.all(ops.isfinite(enclosure.reference), axis=axes))
    return found
