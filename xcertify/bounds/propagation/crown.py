"""Backward linear bound propagation (CROWN) on any graph.

A row is a linear function of one tensor of the network. Pulled back operation by operation it
becomes a linear upper bound in terms of earlier tensors, at last of the input, where its largest
value over the region is known in closed form. Lower bounds are upper bounds of the negated row, so
every row goes back together with its negative: as one through the affine operations that come
first, side by side from the first nonlinear operation on.

Sources: Zhang et al., Efficient Neural Network Robustness Certification with General Activation
Functions, 2018 (CROWN); Xu et al., Automatic Perturbation Analysis for Scalable Certified
Robustness and Beyond, 2020 (general graphs).
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any, NamedTuple

from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import Options, per_row
from xcertify.bounds.propagation.budget import Budget
from xcertify.bounds.propagation.interval import Enclosures
from xcertify.bounds.propagation.relaxing import Relaxations, blended
from xcertify.bounds.propagation.shared_rows import BLOCK, Sums
from xcertify.bounds.rounding import as_upper, relative_error

Shares = dict[int, Any]


class Domain(NamedTuple):
    """Where bounds hold: N regions of the inputs of a network; its first one is perturbed.

    Attributes
    ----------
    known
        Enclosures by node: of the inputs, and of what else is known.
    radius
        For an l1 or l2 ball the radius per feature, (N, *shape), rounded up; None for a box.
    norm
        Norm of the ball part of the region.
    """

    known: Enclosures
    radius: Any = None
    norm: float = math.inf


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
    ) -> None:
        self.graph, self.domain, self.options = graph, domain, options
        self.budget, self.optimizer = budget, optimizer
        self.enclosures: Enclosures = dict(domain.known)
        self.relaxations = Relaxations(graph, self.enclosures, options)

    def upper_bounds(
        self, start: int, rows: Any, sums: Sums | None = None, shares: Shares | None = None
    ) -> Any:
        """Largest values of rows r and of -r, (N, 2 S) float64, over the deviations of a node.

        ``[max r_s . d for all s] + [max -r_s . d for all s]``, d the deviation of the node from its
        reference; `split_signs` takes them apart. Infinite where numbers overflow.

        Parameters
        ----------
        start
            The node.
        rows
            (N, S, *shape of the node).
        sums
            Of shared rows: a value for each window, (N, 2 S * windows).
        shares
            For nodes with two relaxations the share of the second, (N, 2 S, *shape) in [0, 1].
        """
        sums = sums or Sums()
        ends, bound = self.pull_back(start, rows, sums, shares=shares)
        if 0 in ends:
            return as_upper(bound + self._largest_value(ends[0], sums))
        # The rows do not depend on what is perturbed.
        nothing = [sums(index, ops.zeros_like(end)) for index, end in ends.items()]
        return as_upper(reduce(ops.add, nothing, bound))

    def best_upper_bounds(self, start: int, rows: Any, sums: Sums | None = None) -> Any:
        """`optimized_upper_bounds` where there is something to optimise, else `upper_bounds`."""
        if self.optimizer and self.relaxations.with_alternatives(start):
            return self.optimized_upper_bounds(start, rows, sums, *self.optimizer)
        return self.upper_bounds(start, rows, sums)

    def optimized_upper_bounds(
        self, start: int, rows: Any, sums: Sums | None, nb_steps: int, learning_rate: float
    ) -> Any:
        """`upper_bounds` with the shares of relaxations optimised for every row (alpha-CROWN).

        Projected Adam from the first relaxations on; the best bound of all steps is returned, so
        that it is never above `upper_bounds`.

        Source: Xu et al., Fast and Complete: Enabling Complete Neural Network Verification with
        Rapid and Massively Parallel Incomplete Verifiers, 2021.
        """
        nodes = self.relaxations.with_alternatives(start)
        nb_samples, nb_rows = ops.shape(rows)[:2]
        size = (nb_samples, 2 * nb_rows)
        shares = [ops.zeros((*size, *self.graph.nodes[i].shape), rows.dtype) for i in nodes]

        def bounds(shares: list[Any]) -> Any:
            return self.upper_bounds(start, rows, sums, dict(zip(nodes, shares)))

        return backend.minimize(bounds, shares, nb_steps, learning_rate)

    def interval_upper_bounds(self, start: int, rows: Any) -> Any:
        """The same as `upper_bounds` by intervals: back through affine operations only."""
        sums = Sums()
        ends, bound = self.pull_back(start, rows, sums, affine_only=True)
        for index, coefficients in ends.items():
            sides = self.relaxations.inflated(self.enclosures[index])
            bound += sums(index, largest_terms(coefficients, *sides))
        return as_upper(bound)

    def nb_rows_at_once(self, start: int) -> Any:
        """Rows of a node that go back together within the budget, a tensor."""
        nb_samples = ops.shape(self.enclosures[0].reference)[0]
        optimized = self.relaxations.with_alternatives(start) if self.optimizer else []
        return self.budget.nb_rows(self.graph, nb_samples, optimized)

    def pull_back(
        self,
        start: int,
        rows: Any,
        sums: Sums | None = None,
        affine_only: bool = False,
        shares: Shares | None = None,
    ) -> tuple[dict[int, Any], Any]:
        """Rows and their negatives, r and -r, as linear upper bounds in earlier tensors.

        Parameters
        ----------
        start, rows, sums, shares
            As for `upper_bounds`.
        affine_only
            Whether to stop at nonlinear operations.

        Returns
        -------
        ends
            Coefficients (N, 2 S, *shape) by node: of inputs, and of where it stopped.
        bound
            The constant part, (N, 2 S) float64.
        """
        sums = sums or Sums()
        pending: dict[int, Any] = {start: rows}
        ends: dict[int, Any] = {}
        bound: Any = 0.0
        as_one = True
        while pending:
            index = max(pending)
            node = self.graph.nodes[index]
            affine = node.operation.exact_affine
            if as_one and not affine:
                pending = {i: ops.concatenate([r, -r], axis=1) for i, r in pending.items()}
                # What affine operations add are errors, the same for both.
                bound = bound if isinstance(bound, float) else ops.concatenate([bound] * 2, axis=1)
                as_one = False
            coefficients = pending.pop(index)
            if node.is_input or (affine_only and not affine):
                ends[index] = coefficients
                continue
            relaxed = self.relaxations[index]
            if shares and index in shares:
                relaxed = blended(relaxed, relaxed.alternative, shares[index])
            if relaxed.lower is not None:
                terms = largest_terms(coefficients, relaxed.lower, relaxed.upper)
                bound += sums(index, terms)
            shapes = [self.graph.nodes[parent].shape for parent in node.parents]
            pulled = node.operation.pull_back(coefficients, relaxed, shapes)
            for parent, part in zip(node.parents, pulled):
                if part is not None:
                    pending[parent] = pending[parent] + part if parent in pending else part
        return ends, bound

    def _largest_value(self, coefficients: Any, sums: Sums) -> Any:
        """Largest value over the region of a linear function a of the input's deviation, (N, 2 S).

        The smaller of two bounds, since the region lies in both: of the box,
        ``sum(max(a * lower, a * upper))``, and of the ball, by its dual norm, ``|a * radius|``.
        """
        region, norm = self.enclosures[0], self.domain.norm
        terms = largest_terms(coefficients, *self.relaxations.inflated(region))
        bound = as_upper(sums(0, terms))
        if math.isinf(norm):
            return bound
        # A feature that cannot grow (fall) does not use a positive (negative) coefficient.
        usable = ops.where(coefficients > 0, region.upper[:, None], -region.lower[:, None]) > 0
        scaled = ops.where(usable, ops.abs(coefficients) * self.domain.radius[:, None], 0.0)
        nb_terms = min(math.prod(scaled.shape[2:]), BLOCK) + 16 + self.relaxations.most_uses
        slack = 1.0 + relative_error(nb_terms, self.options.dtype)
        if norm == 2:
            return ops.minimum(bound, ops.sqrt(sums(0, scaled * scaled)) * slack)
        return ops.minimum(bound, sums.largest(0, scaled) * slack)

    def input_error(self, coefficients: Any) -> Any:
        """What rounding the sum of the coefficients of several paths can cost at the input, (N, S).

        `upper_bounds` has this error in its own sums; lines that are handed out need it beside.
        """
        error = relative_error(self.relaxations.most_uses + 2, self.options.dtype)
        sizes = error * self.enclosures[0].deviation
        return Sums()(0, ops.abs(coefficients) * sizes[:, None])


def largest_terms(coefficients: Any, lower: Any, upper: Any) -> Any:
    """``max(a * lower, a * upper)`` of (N, S, *shape) and (N, *shape) or (N, S, *shape)."""
    lower, upper = per_row(lower, coefficients), per_row(upper, coefficients)
    return ops.maximum(coefficients * lower, coefficients * upper)


def split_signs(values: Any) -> tuple[Any, Any]:
    """Of (N, 2 S, ...) what belongs to rows r, and what to -r behind them; (N, S, ...) each."""
    nb_rows = ops.shape(values)[1] // 2
    return values[:, :nb_rows], values[:, nb_rows:]
