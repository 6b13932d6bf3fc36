"""Backward linear bound propagation (CROWN) on any graph.

A row is a linear function of one tensor of the network. Pulled back operation by operation it
becomes a linear upper bound in terms of earlier tensors, at last of the input, where its largest
value over the region is known in closed form. Lower bounds are upper bounds of the negated row, so
every row goes back together with its negative: as one through the affine operations that come
first, side by side from the first nonlinear operation on. Coefficients are (N, T, S, *shape), for N
regions, S rows and T = 1 or 2, the row and its negative.

Sources: Zhang et al., Efficient Neural Network Robustness Certification with General Activation
Functions, 2018 (CROWN); Xu et al., Automatic Perturbation Analysis for Scalable Certified
Robustness and Beyond, 2020 (general graphs).
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any, NamedTuple

from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import Options, largest_terms
from xcertify.bounds.propagation.budget import Budget
from xcertify.bounds.propagation.closing import Closing, Domain
from xcertify.bounds.propagation.interval import Enclosures
from xcertify.bounds.propagation.relaxing import Relaxations, blended
from xcertify.bounds.propagation.routes import Route, total
from xcertify.bounds.rounding import as_upper, relative_error


class Tuning(NamedTuple):
    """What is free in a bound: any values give a valid one.

    Attributes
    ----------
    shares
        By node with two relaxations: the share of the second, (N, T, S, *shape) in [0, 1]; "alpha".
    multipliers
        By node, the multipliers of its two sides, a and b >= 0, (N, T, S, *shape) each. Since
        ``a (d - lower) >= 0`` and ``b (upper - d) >= 0`` for its deviations d, both may be added to
        what is bounded from above. Where splits have made the sides tighter than what the
        relaxations know of them, this is the "beta" of beta-CROWN.
    """

    shares: dict[int, Any]
    multipliers: dict[int, tuple[Any, Any]]


NOTHING = Tuning({}, {})


class BackwardPasses:
    """Backward passes of one graph over one batch of regions.

    Parameters
    ----------
    graph
        The network.
    domain
        The regions.
    options
        Arithmetic of the bounds.
    budget
        Says how many rows go back at once.
    optimizer
        Number of steps and learning rate with which the shares of two relaxations are optimised for
        every row; None: the first relaxations are used.
    multiplied
        Nodes whose sides may get multipliers, see `Tuning`.

    Attributes
    ----------
    enclosures
        Intervals of the nodes; at first those that are known.
    relaxations
        What a pass goes through; at first none.
    """

    def __init__(
        self,
        graph: Graph,
        domain: Domain,
        options: Options,
        budget: Budget,
        optimizer: tuple[int, float] | None = None,
        multiplied: Container[int] = (),
    ) -> None:
        self.graph, self.domain, self.options = graph, domain, options
        self.budget, self.optimizer = budget, optimizer
        self.enclosures: Enclosures = dict(domain.known)
        self.relaxations = Relaxations(graph, self.enclosures, options, multiplied)

    def route(self, start: int, ends: Container[int] = ()) -> Route:
        """The way back of rows of a node to the inputs, or to `ends` where they stop before."""
        way = Route(self.graph, start, ends)
        way.met = {i: self.relaxations[i] for i in way.passed}
        way.spread = {i: self.relaxations.spread(i) for i in way.passed}
        way.met |= {i: self._closing(i) for i in way.reached_ends}
        return way

    def upper_bounds(
        self, route: Route, rows: Any, tuning: Tuning = NOTHING, both: bool = True
    ) -> Any:
        """Largest values of rows r and of -r, (N, 2, S) float64, over the deviations of a node.

        ``max r_s . d`` and ``max -r_s . d``, d the deviation of the node from its reference;
        infinite where numbers overflow.

        Parameters
        ----------
        route
            The way back from the node.
        rows
            (N, S, *shape of what rows see of the node).
        tuning
            What is free.
        both
            Whether the negated rows are bounded, too; else the result is (N, 1, S).
        """
        return self.closed(route, *self.pull_back(route, rows, tuning, both))

    def closed(self, route: Route, ends: dict[int, Any], bound: Any) -> Any:
        """Largest values (N, T, S) float64 of what `pull_back` gives."""
        for index, coefficients in ends.items():
            bound = bound + self._largest_values(index, coefficients, route.at(index))
        return as_upper(bound)

    def best_upper_bounds(self, route: Route, rows: Any) -> Any:
        """`optimized_upper_bounds` where there is something to optimise, else `upper_bounds`."""
        if self.optimizer and self._optimized(route):
            return self.optimized_upper_bounds(route, rows, *self.optimizer)
        return self.upper_bounds(route, rows)

    def optimized_upper_bounds(
        self, route: Route, rows: Any, nb_steps: int, learning_rate: float
    ) -> Any:
        """`upper_bounds` with the shares of relaxations optimised for every row (alpha-CROWN).

        Projected Adam from the first relaxations on; the best bound of all steps is returned, so
        that it is never above `upper_bounds`.

        Source: Xu et al., Fast and Complete: Enabling Complete Neural Network Verification with
        Rapid and Massively Parallel Incomplete Verifiers, 2021.
        """
        nodes = self._optimized(route)
        nb_samples, nb_rows = ops.shape(rows)[:2]
        size = (nb_samples, 2, nb_rows)
        shares = [ops.zeros((*size, *route.shape(i)), rows.dtype) for i in nodes]

        def bounds(shares: list[Any]) -> Any:
            return self.upper_bounds(route, rows, Tuning(dict(zip(nodes, shares)), {}))

        least = [0.0 if route.met[index].least is None else -1.0 for index in nodes]
        return backend.minimize(bounds, shares, least, nb_steps, learning_rate)

    def _optimized(self, route: Route) -> list[int]:
        """Nodes on a way that have two relaxations."""
        return [index for index in route.passed if route.met[index].alternative is not None]

    def nb_rows_at_once(self, route: Route) -> Any:
        """Rows of a node that go back together within the budget, a tensor."""
        nb_samples = ops.shape(self.enclosures[0].reference)[0]
        optimized = self._optimized(route) if self.optimizer else []
        sizes = [2 * math.prod(route.shape(index)) for index in optimized]
        if 0 in route.reached_ends:
            sizes.append(self.domain.nb_held(route.shape(0)))
        return self.budget.nb_rows(route.largest_size + sum(sizes), nb_samples)

    def pull_back(
        self,
        route: Route,
        rows: Any,
        tuning: Tuning = NOTHING,
        both: bool = True,
        seen: dict[int, Any] | None = None,
    ) -> tuple[dict[int, Any], Any]:
        """Rows r and their negatives as linear upper bounds in the tensors where they end.

        Parameters
        ----------
        route, rows, tuning, both
            As for `upper_bounds`.
        seen
            Takes the coefficients (N, T, S, *shape) of the nonlinear nodes on the way.

        Returns
        -------
        ends
            Coefficients (N, T, S, *shape) by node, T = 2, or 1 without `both`.
        bound
            The constant part, (N, T, S) float64.
        """
        pending: dict[int, Any] = {route.start: rows[:, None]}
        ends: dict[int, Any] = {}
        bound = ops.zeros((*ops.shape(rows)[:1], 1 + both, *ops.shape(rows)[1:2]), "float64")
        as_one = both
        while pending:
            index = max(pending)
            is_end = route.ends_at(index)
            # What affine operations add are errors, the same for both.
            if as_one and (is_end or not self.graph.nodes[index].operation.exact_affine):
                pending = {i: ops.concatenate([r, -r], axis=1) for i, r in pending.items()}
                as_one = False
            coefficients = pending.pop(index)
            if index in tuning.multipliers:
                below, above = tuning.multipliers[index]
                coefficients = coefficients + (below - above)
                bound = bound + self._multiplied(index, below, above)
            if is_end:
                ends[index] = coefficients
                continue
            if seen is not None and not self.graph.nodes[index].operation.exact_affine:
                seen[index] = coefficients
            relaxed = route.at(index)
            if index in tuning.shares:
                relaxed = blended(relaxed, relaxed.alternative, tuning.shares[index])
            if relaxed.lower is not None:
                terms = largest_terms(coefficients, relaxed.lower, relaxed.upper)
                bound = bound + total(terms)
            pulled = route.pull_back(index, coefficients, relaxed)
            for parent, part in zip(self.graph.nodes[index].parents, pulled):
                if part is not None:
                    pending[parent] = pending[parent] + part if parent in pending else part
        return ends, bound

    def _multiplied(self, index: int, below: Any, above: Any) -> Any:
        """What multipliers of the sides of a tensor add to a bound, (N, T, S) float64."""
        enclosure = self.enclosures[index]
        lower, upper = self.relaxations.inflated(enclosure)
        # The difference of both multipliers is rounded before it is a coefficient.
        error = relative_error(4, self.options.dtype) * enclosure.deviation
        lower, upper = (lower - error)[:, None, None], (upper + error)[:, None, None]
        return total(above * upper - below * lower)

    def _closing(self, index: int) -> Closing:
        """What coefficients are multiplied with where rows end."""
        enclosure = self.enclosures[index]
        sides = self.relaxations.inflated(enclosure)
        if index > 0:
            return Closing(*sides)
        return self.domain.closing(enclosure, sides, self.relaxations.most_uses)

    def _largest_values(self, index: int, coefficients: Any, closing: Closing) -> Any:
        """Largest values of linear functions of a tensor's deviation, (N, T, S) float64."""
        if index > 0:
            return total(largest_terms(coefficients, closing.lower, closing.upper))
        return self.domain.largest_values(coefficients, closing, self.relaxations.most_uses)

    def input_error(self, coefficients: Any) -> Any:
        """What rounding the sum of the coefficients of several paths costs at the input, (N, 2, S).

        `upper_bounds` has this error in its own sums; lines that are handed out need it beside.
        """
        error = relative_error(self.relaxations.most_uses + 2, self.options.dtype)
        sizes = error * self.enclosures[0].deviation
        return total(ops.abs(coefficients) * sizes[:, None, None])
