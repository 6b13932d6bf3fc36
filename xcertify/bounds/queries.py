"""What a `Verifier` asks of a network, as functions of tensors that are traced once.

Each takes a node of the graph, rows of its output (`TargetRows`) and the regions (`Query`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.graph.backpropagation import GradientGraph
from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import Enclosure, Options
from xcertify.bounds.propagation import interval
from xcertify.bounds.propagation.budget import Budget
from xcertify.bounds.propagation.depth import Depth, depth_of, refines
from xcertify.bounds.propagation.gradient import enclose_gradient
from xcertify.bounds.propagation.refinement import BackwardBounds
from xcertify.bounds.propagation.target_rows import TargetRows, nominal_rows
from xcertify.bounds.query import Query
from xcertify.bounds.rounding import UNDERFLOW, as_lower, as_upper


@dataclass(frozen=True)
class Queries:
    """Bounds of one network by one method.

    Attributes
    ----------
    graph
        The network.
    method
        "ibp", "crown-ibp", "crown" or "alpha-crown".
    options
        Arithmetic of the bounds.
    budget
        What is worked on at once.
    optimizer
        Number and length of the steps of "alpha-crown".
    """

    graph: Graph
    method: str
    options: Options
    budget: Budget
    optimizer: tuple[int, float]

    @property
    def _input_shape(self) -> tuple[int, ...]:
        return self.graph.nodes[0].shape

    def depth(self, node: int) -> Depth:
        """How far the rows of tensors before a node go back; see `propagation.depth`."""
        return depth_of(self.options.backward_depth, self.graph, [node])

    def refines(self, node: int) -> bool:
        """Whether rows of tensors before a node go back at all; see `propagation.depth`."""
        takes_lines = self.method in ("crown", "alpha-crown")
        return takes_lines and refines(self.options.backward_depth, self.graph, [node])

    def _backward(self, node: int, query: Query, optimize: bool = False) -> BackwardBounds:
        return BackwardBounds(
            self.graph,
            query.domain,
            self.options,
            targets=[node],
            refine=self.method in ("crown", "alpha-crown"),
            relax=self.method != "ibp",
            budget=self.budget,
            optimizer=self.optimizer if optimize else None,
        )

    def bounds(self, node: int, rows: TargetRows, query: Query) -> list[Any]:
        """Lower and upper bounds of rows, (N, S) float64 each."""
        bounds = self._backward(node, query)
        ways = [(bounds, bounds.affine_route(node))]
        if self.method != "ibp":
            ways.append((bounds, bounds.route(node)))
        if self.method == "alpha-crown":
            # Tighter intervals inside can choose worse lines: intersected, not trusted to be best.
            optimized = self._backward(node, query, optimize=True)
            ways.append((optimized, optimized.route(node)))
        nb_at_once = reduce(ops.minimum, [passes.nb_rows_at_once(way) for passes, way in ways])
        finite = interval.finite(bounds.enclosures)[:, None]

        def some(first: Any, last: Any) -> tuple[Any, Any]:
            some_rows = rows.between(first, last)
            found = [passes.best_upper_bounds(way, some_rows) for passes, way in ways]
            above, below = split_signs(reduce(ops.minimum, found))
            nominal, slack = nominal_rows(bounds.enclosures[node].reference, some_rows)
            return (
                ops.where(finite, as_lower(nominal - below - slack), -np.inf),
                ops.where(finite, as_upper(nominal + above + slack), np.inf),
            )

        sides = [((), "float64")] * 2
        return backend.rows_in_chunks(some, rows.nb_samples, rows.nb_rows, nb_at_once, sides)

    def entries(self, node: int, rows: TargetRows, query: Query) -> tuple[Any, Any]:
        """Bounds of all entries of a tensor, (N, 1, *shape), by as few rows as windows allow."""
        bounds = self._backward(node, query, optimize=self.method == "alpha-crown")
        if self.method != "ibp":
            bounds.refine(node, ops.ones(ops.shape(bounds.enclosures[node].lower), "bool"))
        lower, upper = _sides(bounds.enclosures[node], interval.finite(bounds.enclosures))
        return lower[:, None], upper[:, None]

    def gradients(
        self, graph: GradientGraph, method: str, node: int, rows: TargetRows, query: Query
    ) -> tuple[Any, Any]:
        """Lower and upper input gradients of rows, (N, S, *input) float64 each."""
        enclosure, finite = enclose_gradient(
            graph,
            query.domain,
            rows.between(0, rows.nb_rows),
            replace(self.options, alternatives=False),
            method,
            self.budget,
            query.weight_radii,
        )
        shape = (rows.nb_samples, rows.nb_rows, *self._input_shape)
        return tuple(ops.reshape(side, shape) for side in _sides(enclosure, finite))

    def lines(self, node: int, rows: TargetRows, query: Query) -> list[Any]:
        """Coefficients (N, S, *input) and constants (N, S) of the lines below and above rows."""
        bounds = self._backward(node, query)
        route = bounds.route(node)
        finite = interval.finite(bounds.enclosures)[:, None, None]
        axes = tuple(range(3, 3 + len(self._input_shape)))

        def some(first: Any, last: Any) -> list[Any]:
            some_rows = rows.between(first, last)
            nominal, slack = nominal_rows(bounds.enclosures[node].reference, some_rows)
            ends, bound = bounds.pull_back(route, some_rows)
            nothing = ops.zeros((rows.nb_samples, 2, last - first, *self._input_shape))
            coefficients = ends.get(0, ops.cast(nothing, some_rows.dtype))
            bound = bound + bounds.input_error(coefficients)
            # A line is proved with finite numbers, or is an infinite constant.
            proved = ops.all(ops.isfinite(coefficients), axis=axes)
            proved = ops.logical_and(ops.logical_and(proved, ops.isfinite(bound)), finite)
            places = ops.reshape(proved, (*ops.shape(proved), *[1] * len(axes)))
            upper, lower = split_signs(ops.where(places, coefficients, 0.0))
            above, below = split_signs(ops.where(proved, bound, np.inf))
            nominal = ops.where(finite[:, 0], nominal, 0.0)
            slack = ops.where(finite[:, 0], slack, 0.0)
            return [-lower, upper, nominal - below - slack, nominal + above + slack]

        results = [(self._input_shape, self.options.dtype)] * 2 + [((), "float64")] * 2
        nb_at_once = bounds.nb_rows_at_once(route)
        return backend.rows_in_chunks(some, rows.nb_samples, rows.nb_rows, nb_at_once, results)


def split_signs(values: Any) -> tuple[Any, Any]:
    """Of (N, 2, S, ...) what belongs to rows r, and what to -r; (N, S, ...) each."""
    return values[:, 0], values[:, 1]


def _sides(enclosure: Enclosure, finite: Any) -> tuple[Any, Any]:
    """Proved sides of an enclosure, float64; infinite for samples that are not `finite`."""
    lower, upper = enclosure.absolute()
    slack = ops.abs(enclosure.reference) * 1e-12 + UNDERFLOW
    finite = ops.reshape(finite, (-1, *[1] * (len(lower.shape) - 1)))
    return (
        ops.where(finite, as_lower(lower - slack), -np.inf),
        ops.where(finite, as_upper(upper + slack), np.inf),
    )
