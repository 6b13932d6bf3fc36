"""What backward passes go through: the operations of a graph, relaxed over known intervals.

All roundings of a pass are in the relaxations: each node has an error ``e >= 0`` that is added to
its lines, ``lower - e`` and ``upper + e``, so that a pass itself just multiplies and sums.
"""

from __future__ import annotations

import math
from collections.abc import Container
from functools import reduce
from typing import Any

from keras import ops

from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import Elementwise, Enclosure, Options, Relaxed
from xcertify.bounds.propagation.interval import Enclosures
from xcertify.bounds.propagation.routes import BLOCK, spread
from xcertify.bounds.rounding import as_lower, as_upper, relative_error


class Relaxations:
    """The relaxations of one graph, made node by node.

    Parameters
    ----------
    graph
        The network.
    enclosures
        The intervals that are known when a node is relaxed.
    options
        Arithmetic of the bounds.
    multiplied
        Nodes at which multipliers are added to the coefficients, see `crown.Tuning`.

    Attributes
    ----------
    most_uses
        Most terms of a coefficient: one for each user of a node, from which paths join, and one of
        multipliers.
    """

    def __init__(
        self,
        graph: Graph,
        enclosures: Enclosures,
        options: Options,
        multiplied: Container[int] = (),
    ) -> None:
        self.graph, self.enclosures, self.options = graph, enclosures, options
        self._multiplied = multiplied
        self._consumers = graph.consumers()
        self.most_uses = max(
            len(users) + 2 * (index in multiplied) for index, users in enumerate(self._consumers)
        )
        self._made: dict[int, Relaxed] = {}
        self._spread: dict[int, Relaxed] = {}

    def __getitem__(self, index: int) -> Relaxed:
        """That of a node."""
        return self._made[index]

    def spread(self, index: int) -> Relaxed:
        """The same with axes for rows, made once for all passes."""
        if index not in self._spread:
            self._spread[index] = spread(self._made[index])
        return self._spread[index]

    def make(self, index: int) -> None:
        """Relax a node over the intervals of its inputs."""
        node = self.graph.nodes[index]
        relaxed = node.operation.by_places(
            lambda inputs, output: node.operation.relax(inputs, output, self.options),
            [self.enclosures[parent] for parent in node.parents],
            self.enclosures[index],
        )
        versions = [version for version in (relaxed, relaxed.alternative) if version is not None]
        widened = [_widened(v, e) for v, e in zip(versions, self._errors(index, versions))]
        if widened[0].lower is not None:
            sides = [Enclosure(None, v.lower, v.upper) for v in widened]
            size = reduce(ops.maximum, [side.deviation for side in sides])
            widened = [_widened(version, self.sum_error(size)) for version in widened]
        first, *others = widened
        self._spread.pop(index, None)
        self._made[index] = first._replace(alternative=others[0] if others else None)

    def make_affine(self, index: int) -> None:
        """`make` for an affine node; nothing for others."""
        if self.graph.nodes[index].operation.exact_affine:
            self.make(index)

    def _errors(self, index: int, versions: list[Relaxed]) -> list[Any]:
        """What roundings of coefficients cost at a node, for each version; None for nothing."""
        node, dtype = self.graph.nodes[index], self.options.dtype
        errors: list[Any] = [None] * len(versions)
        if len(self._consumers[index]) > 1 or index in self._multiplied:
            # Coefficients that arrive on several paths are summed, which rounds them.
            error = relative_error(self.most_uses, dtype) * self.enclosures[index].deviation
            errors = [error] * len(versions)
        if isinstance(node.operation, Elementwise):
            (parent,) = node.parents
            inherited = self._take_error(parent)
            if inherited is not None:
                steepest = [ops.maximum(*map(ops.abs, v.slopes)) for v in versions]
                inherited = [(1.0 + relative_error(4, dtype)) * s * inherited for s in steepest]
                errors = [i if e is None else e + i for e, i in zip(errors, inherited)]
        return errors

    def _take_error(self, index: int) -> Any:
        """The rounding error of an affine node, taken over by the one activation that uses it.

        There it costs nothing, here it would cost a sum of its own.
        """
        relaxed = self._made.get(index)
        if relaxed is None or relaxed.upper is None or len(self._consumers[index]) != 1:
            return None
        if index in self._multiplied:  # its coefficients are not those of the activation
            return None
        if not self.graph.nodes[index].operation.exact_affine:
            return None
        self._made[index] = relaxed._replace(lower=None, upper=None)
        self._spread.pop(index, None)
        return relaxed.upper

    def sum_error(self, size: Any) -> Any:
        """What rounding does to a sum over terms of coefficients and these sizes, per term."""
        nb_terms = min(math.prod(size.shape[1:]), BLOCK) + 8 + self.most_uses
        return relative_error(nb_terms, self.options.dtype) * size

    def inflated(self, enclosure: Enclosure) -> tuple[Any, Any]:
        """Sides moved outward by the rounding error of the sums that they go into."""
        error = self.sum_error(enclosure.deviation)
        return enclosure.lower - error, enclosure.upper + error


def blended(first: Relaxed, second: Any, share: Any) -> Relaxed:
    """``(1 - share) * first + share * second``, for every row: share (N, T, S, *shape).

    Shares below the least ones count as these.
    """
    if first.least is not None:
        share = ops.maximum(share, first.least)

    def blend(one: Any, other: Any) -> Any:
        return one + share * (other - one)

    return Relaxed(
        blend(first.lower, second.lower),
        blend(first.upper, second.upper),
        tuple(blend(*pair) for pair in zip(first.slopes, second.slopes)),
        common=first.common,
    )


def _widened(relaxed: Relaxed, error: Any) -> Relaxed:
    """``lower - error`` and ``upper + error``; None stands for 0."""
    lower, upper = relaxed.lower, relaxed.upper
    if error is not None:
        lower = -error if lower is None else lower - error
        upper = error if upper is None else upper + error
    if lower is not None:
        lower, upper = as_lower(lower), as_upper(upper)
    return relaxed._replace(lower=lower, upper=upper)
