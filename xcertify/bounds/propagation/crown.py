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
from collections.abc import Callable, Container, Iterable, Sequence
from functools import reduce
from typing import Any

from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import Elementwise, Enclosure, Options, Relaxed, per_row
from xcertify.bounds.propagation import interval
from xcertify.bounds.propagation.budget import Budget
from xcertify.bounds.propagation.interval import Enclosures
from xcertify.bounds.propagation.shared_rows import BLOCK, Sums, choose_rows
from xcertify.bounds.rounding import as_lower, as_upper, relative_error, round_down, round_up

Shares = dict[int, Any]


class BackwardBounds:
    """Intervals, relaxations and backward passes of one graph over one batch of regions.

    It lives inside one trace of a compiled function.

    Parameters
    ----------
    graph
        The network.
    inputs
        Enclosures of the perturbed input and, behind it, of the fixed ones.
    radius
        For an l1 or l2 ball the radius per feature, (N, *shape), rounded up; None for a box.
    norm
        Norm of the ball part of the region.
    options
        Arithmetic of the bounds.
    targets
        Nodes that rows will start from.
    refine
        Whether the inputs of nonlinear operations are bounded by backward passes themselves
        ("crown") or by intervals ("crown-ibp"); or which tensors may be bounded so.
    relax
        Whether nonlinear operations get linear bounds; without, rows go back through affine
        operations only ("ibp").
    budget
        Says how many rows go back at once.
    optimizer
        Number of steps and learning rate with which the mixture of two relaxations is optimised for
        every row; None: the first relaxations are used.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Sequence[Enclosure],
        radius: Any,
        norm: float,
        options: Options,
        targets: Iterable[int],
        refine: bool | Container[int],
        relax: bool,
        budget: Budget,
        optimizer: tuple[int, float] | None = None,
    ) -> None:
        self.graph, self.options, self.budget = graph, options, budget
        self.optimizer = optimizer
        self.radius, self.norm = radius, norm
        self.relaxed: dict[int, Relaxed] = {}
        self.enclosures: Enclosures = dict(enumerate(inputs))
        self.is_nonlinear = {index: False for index in self.enclosures} | {0: not math.isinf(norm)}
        self._refinable = range(len(graph.nodes)) if refine is True else refine
        self._consumers = graph.consumers()
        # Coefficients that arrive on several paths are summed, which rounds them.
        self._most_uses = max(map(len, self._consumers))
        interval.propagate(
            graph,
            self.enclosures,
            options,
            targets,
            before=self._refine_inputs if refine else self._note_nonlinear,
            after=self._relax if relax else self._relax_affine,
        )

    def upper_bounds(
        self, start: int, rows: Any, sums: Sums | None = None, shares: Shares | None = None
    ) -> Any:
        """Largest deviations of rows (N, S, *shape of the node) from their references; float64.

        Those of the rows and, behind them, of their negatives, (N, 2 S); with the `sums` of shared
        rows a value for each window. Infinite where numbers overflow. `shares` give for nodes
        with two relaxations the share of the second, (N, 2 S, *shape) in [0, 1].
        """
        sums = sums or Sums()
        ends, bound = self.pull_back(start, rows, sums, shares=shares)
        if 0 in ends:
            return as_upper(bound + self._concretize(ends[0], sums))
        # The rows do not depend on what is perturbed.
        nothing = [sums(index, ops.zeros_like(end)) for index, end in ends.items()]
        return as_upper(reduce(ops.add, nothing, bound))

    def best_upper_bounds(self, start: int, rows: Any, sums: Sums | None = None) -> Any:
        """`optimized_upper_bounds` where there is something to optimise, else `upper_bounds`."""
        optimize = self.optimizer and self._optimized_nodes(start)
        return (self.optimized_upper_bounds if optimize else self.upper_bounds)(start, rows, sums)

    def optimized_upper_bounds(self, start: int, rows: Any, sums: Sums | None = None) -> Any:
        """`upper_bounds` with the mixture of relaxations optimised for every row (alpha-CROWN).

        Projected Adam from the first relaxations on; the best bound of all steps is returned, so
        that it is never above `upper_bounds`.

        Source: Xu et al., Fast and Complete: Enabling Complete Neural Network Verification with
        Rapid and Massively Parallel Incomplete Verifiers, 2021.
        """
        nodes = self._optimized_nodes(start)
        nb_samples, nb_rows = ops.shape(rows)[:2]
        size = (nb_samples, 2 * nb_rows)
        shares = [ops.zeros((*size, *self.graph.nodes[i].shape), rows.dtype) for i in nodes]

        def bounds(shares: list[Any]) -> Any:
            return self.upper_bounds(start, rows, sums, dict(zip(nodes, shares)))

        return backend.minimize(bounds, shares, *self.optimizer)

    def _optimized_nodes(self, start: int) -> list[int]:
        """Nodes before `start` that have two relaxations."""
        nodes = self.graph.ancestors([start])
        return [i for i in nodes if i in self.relaxed and self.relaxed[i].alternative is not None]

    def interval_upper_bounds(self, start: int, rows: Any) -> Any:
        """The same as `upper_bounds` by intervals: back through affine operations only."""
        sums = Sums()
        ends, bound = self.pull_back(start, rows, sums, affine_only=True)
        for index, coefficients in ends.items():
            sides = self._inflated(self.enclosures[index])
            bound += sums(index, largest_terms(coefficients, *sides))
        return as_upper(bound)

    def tighten(
        self,
        start: int,
        nb_rows: Any,
        rows: Callable[[Any, Any], tuple[Any, Any, Sums]],
        sides: tuple[Any, Any],
    ) -> tuple[Any, Any]:
        """Intersect (N, D) deviations with backward bounds of rows, in chunks within the budget.

        ``rows(first, last)`` gives the coefficients of some rows, the columns that they bound, and
        how their terms are summed.
        """

        def body(first: Any, last: Any, lower: Any, upper: Any) -> tuple[Any, Any]:
            coefficients, places, sums = rows(first, last)
            above, below = split_signs(self.best_upper_bounds(start, coefficients, sums))
            return backend.tighten(lower, upper, places, -below, above)

        chunk = self.nb_rows_at_once(start)
        return tuple(backend.loop_over_chunks(body, nb_rows, chunk, list(sides)))

    def nb_rows_at_once(self, start: int) -> Any:
        """Rows of a node that go back together within the budget, a tensor."""
        nb_samples = ops.shape(self.enclosures[0].reference)[0]
        optimized = self._optimized_nodes(start) if self.optimizer else []
        return self.budget.nb_rows(self.graph, nb_samples, optimized)

    def pull_back(
        self,
        start: int,
        rows: Any,
        sums: Sums | None = None,
        affine_only: bool = False,
        shares: Shares | None = None,
    ) -> tuple[dict[int, Any], Any]:
        """Rows (N, S, *shape) and their negatives as linear upper bounds in earlier tensors.

        Coefficients (N, 2 S, *shape) of the input (or of the last nonlinear tensors), and the
        constant part (N, 2 S).
        """
        sums = sums or Sums()
        pending, ends = {start: rows}, {}
        bound, as_one = 0.0, True
        while pending:
            index = max(pending)
            node = self.graph.nodes[index]
            affine = node.operation is not None and node.operation.exact_affine
            if as_one and not affine:
                pending = {i: _with_negative(rows) for i, rows in pending.items()}
                # What affine operations add are errors, the same for both.
                bound = bound if isinstance(bound, float) else ops.concatenate([bound] * 2, axis=1)
                as_one = False
            coefficients = pending.pop(index)
            if node.operation is None or (affine_only and not affine):
                ends[index] = coefficients
                continue
            relaxed = self.relaxed[index]
            if shares and index in shares:
                relaxed = _blended(relaxed, shares[index])
            if relaxed.lower is not None:
                terms = largest_terms(coefficients, relaxed.lower, relaxed.upper)
                bound += sums(index, terms)
            shapes = [self.graph.nodes[parent].shape for parent in node.parents]
            pulled = node.operation.pull_back(coefficients, relaxed, shapes)
            for parent, part in zip(node.parents, pulled):
                if part is not None:
                    pending[parent] = pending[parent] + part if parent in pending else part
        return ends, bound

    def _concretize(self, coefficients: Any, sums: Sums) -> Any:
        """Largest value over the region of a linear function of the input's deviation.

        The box part and the ball part give a bound each, by ``sum(max(a l, a u))`` and by the dual
        norm; the region lies in both.
        """
        region = self.enclosures[0]
        bound = as_upper(sums(0, largest_terms(coefficients, *self._inflated(region))))
        if math.isinf(self.norm):
            return bound
        # A feature that cannot grow (fall) does not use a positive (negative) coefficient.
        usable = ops.where(coefficients > 0, region.upper[:, None], -region.lower[:, None]) > 0
        scaled = ops.where(usable, ops.abs(coefficients) * self.radius[:, None], 0.0)
        nb_terms = min(math.prod(scaled.shape[2:]), BLOCK) + 16 + self._most_uses
        slack = 1.0 + relative_error(nb_terms, self.options.dtype)
        if self.norm == 2:
            return ops.minimum(bound, ops.sqrt(sums(0, scaled * scaled)) * slack)
        return ops.minimum(bound, sums.largest(0, scaled) * slack)

    def input_error(self, coefficients: Any) -> Any:
        """What rounding the sum of the coefficients of several paths can cost at the input, (N, S).

        `upper_bounds` has this error in its own sums; lines that are handed out need it beside.
        """
        error = (
            relative_error(self._most_uses + 2, self.options.dtype) * self.enclosures[0].deviation
        )
        return Sums()(0, ops.abs(coefficients) * error[:, None])

    def _note_nonlinear(self, index: int) -> None:
        node = self.graph.nodes[index]
        nonlinear = not node.operation.exact_affine
        self.is_nonlinear[index] = nonlinear or any(self.is_nonlinear[p] for p in node.parents)

    def _refine_inputs(self, index: int) -> None:
        """Tighten the inputs of a nonlinear operation where that tightens its relaxation."""
        self._note_nonlinear(index)
        node = self.graph.nodes[index]
        if node.operation.exact_affine:
            return
        inputs = [self.enclosures[parent] for parent in node.parents]
        for parent, mask in zip(node.parents, node.operation.unstable(inputs)):
            if mask is None:
                continue
            source, moves, mask = self._source(parent, mask)
            if source not in self._refinable:
                continue
            operation = self.graph.nodes[source].operation
            # Intervals are exact behind affine operations on a box; behind a nonlinearity whose
            # input was refined a further pass gains nothing.
            if operation is None or not operation.exact_affine or not self.is_nonlinear[source]:
                continue
            self.refine(source, mask)
            for move in moves:
                interval.step(self.graph, move, self.enclosures, self.options)

    def _source(self, index: int, mask: Any) -> tuple[int, list[int], Any]:
        """Where the entries of a tensor come from that was only rearranged, and which they are."""
        moves = []
        node = self.graph.nodes[index]
        while (
            node.operation is not None
            and node.operation.exact_affine
            and node.operation.nb_terms == 0
            and node.operation.bias is None
            and len(node.parents) == 1
        ):
            moves.insert(0, index)
            (index,) = node.parents
            shape = self.graph.nodes[index].shape
            weight = ops.cast(mask, self.options.dtype)[:, None]
            (weight,) = node.operation.pull_back(weight, Relaxed(), [shape])
            mask = weight[:, 0] > 0
            node = self.graph.nodes[index]
        return index, moves, mask

    def refine(self, index: int, mask: Any) -> None:
        """Bound the marked entries of a tensor by backward passes."""
        enclosure, shape = self.enclosures[index], self.graph.nodes[index].shape
        rows = choose_rows(self.graph, index, self.options.dtype, self.norm)
        needed = rows.needed(mask)
        nb_rows = ops.max(ops.sum(ops.cast(needed, "int32"), axis=1))
        chosen = backend.first_true(needed, nb_rows)

        def some(first: Any, last: Any) -> tuple[Any, Any, Sums]:
            part = chosen[:, first:last]
            return rows.unit_rows(part), rows.places(part), rows.sums(part)

        # A column more than there are entries takes what shared rows have beyond the border.
        sides = [
            ops.pad(
                ops.cast(ops.reshape(side, (-1, math.prod(shape))), "float64"), [(0, 0), (0, 1)]
            )
            for side in (enclosure.lower, enclosure.upper)
        ]
        lower, upper = self.tighten(index, nb_rows, some, sides)
        self.enclosures[index] = narrow(
            enclosure, lower[:, :-1], upper[:, :-1], shape, self.options
        )

    def _relax_affine(self, index: int) -> None:
        if self.graph.nodes[index].operation.exact_affine:
            self._relax(index)

    def _relax(self, index: int) -> None:
        """Prepare a node for backward passes, all rounding errors of the pass included."""
        node, dtype = self.graph.nodes[index], self.options.dtype
        inputs = [self.enclosures[parent] for parent in node.parents]
        relaxed = node.operation.by_places(
            lambda inputs, output: node.operation.relax(inputs, output, self.options),
            inputs,
            self.enclosures[index],
        )
        versions = [version for version in (relaxed, relaxed.alternative) if version is not None]
        errors: list[Any] = [None] * len(versions)
        if len(self._consumers[index]) > 1:
            # Coefficients that arrive on several paths are summed, which rounds them.
            errors = [relative_error(self._most_uses, dtype) * self.enclosures[index].deviation] * 2
        if isinstance(node.operation, Elementwise):
            (parent,) = node.parents
            inherited = self._take_error(parent)
            if inherited is not None:
                steepest = [ops.maximum(*map(ops.abs, v.slopes)) for v in versions]
                inherited = [(1.0 + relative_error(4, dtype)) * s * inherited for s in steepest]
                errors = [i if e is None else e + i for e, i in zip(errors, inherited)]
        first, *alternatives = (_widened(v, e) for v, e in zip(versions, errors))
        if first.lower is not None:
            sides = [Enclosure(None, v.lower, v.upper) for v in (first, *alternatives)]
            size = reduce(ops.maximum, [side.deviation for side in sides])
            first, *alternatives = (
                _widened(v, self._sum_error(size)) for v in (first, *alternatives)
            )
        self.relaxed[index] = first._replace(alternative=alternatives[0] if alternatives else None)

    def _take_error(self, index: int) -> Any:
        """The rounding error of an affine node, taken over by the one activation that uses it.

        There it costs nothing, here it would cost a sum of its own.
        """
        relaxed = self.relaxed.get(index)
        if relaxed is None or relaxed.upper is None or len(self._consumers[index]) != 1:
            return None
        if not self.graph.nodes[index].operation.exact_affine:
            return None
        self.relaxed[index] = relaxed._replace(lower=None, upper=None)
        return relaxed.upper

    def _inflated(self, enclosure: Enclosure) -> tuple[Any, Any]:
        """Sides moved outward by the rounding error of the sums that they go into."""
        error = self._sum_error(enclosure.deviation)
        return enclosure.lower - error, enclosure.upper + error

    def _sum_error(self, size: Any) -> Any:
        """What rounding does to a sum over terms of coefficients and these sizes, per term."""
        nb_terms = min(math.prod(size.shape[1:]), BLOCK) + 8 + self._most_uses
        return relative_error(nb_terms, self.options.dtype) * size


def largest_terms(coefficients: Any, lower: Any, upper: Any) -> Any:
    """``max(a * lower, a * upper)`` of (N, S, *shape) and (N, *shape) or (N, S, *shape)."""
    lower, upper = per_row(lower, coefficients), per_row(upper, coefficients)
    return ops.maximum(coefficients * lower, coefficients * upper)


def split_signs(values: Any) -> tuple[Any, Any]:
    """What belongs to rows, and what to their negatives behind them, of (N, 2 S, ...)."""
    half = ops.shape(values)[1] // 2
    return values[:, :half], values[:, half:]


def _with_negative(rows: Any) -> Any:
    return ops.concatenate([rows, -rows], axis=1)


def _widened(relaxed: Relaxed, error: Any) -> Relaxed:
    lower, upper = relaxed.lower, relaxed.upper
    if error is not None:
        lower = -error if lower is None else lower - error
        upper = error if upper is None else upper + error
    if lower is not None:
        lower, upper = as_lower(lower), as_upper(upper)
    return relaxed._replace(lower=lower, upper=upper)


def _blended(relaxed: Relaxed, share: Any) -> Relaxed:
    """(1 - share) of a relaxation and share of its other one, for every row."""

    def mix(first: Any, second: Any) -> Any:
        return first[:, None] + share * (second - first)[:, None]

    alternative = relaxed.alternative
    return Relaxed(
        mix(relaxed.lower, alternative.lower),
        mix(relaxed.upper, alternative.upper),
        tuple(mix(*pair) for pair in zip(relaxed.slopes, alternative.slopes)),
    )


def narrow(
    enclosure: Enclosure, lower: Any, upper: Any, shape: tuple[int, ...], options: Options
) -> Enclosure:
    """An enclosure with tighter float64 deviations (N, D), rounded outward to the working type."""
    lower = round_down(ops.reshape(lower, (-1, *shape)), options.dtype)
    upper = round_up(ops.reshape(upper, (-1, *shape)), options.dtype)
    return interval.intersect(enclosure, as_lower(lower), as_upper(upper))
