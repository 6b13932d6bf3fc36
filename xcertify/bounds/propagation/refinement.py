"""Intervals that backward passes make tighter, node by node: what passes further on start from."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable
from typing import Any

from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import Enclosure, Options, Relaxed
from xcertify.bounds.propagation import interval
from xcertify.bounds.propagation.budget import Budget
from xcertify.bounds.propagation.crown import BackwardPasses, Domain, split_signs
from xcertify.bounds.propagation.shared_rows import Sums, choose_rows
from xcertify.bounds.rounding import as_lower, as_upper, round_down, round_up


class BackwardBounds(BackwardPasses):
    """Backward passes of one graph, over intervals that they refine on the way.

    It lives inside one trace of a compiled function.

    Parameters
    ----------
    graph, domain, options, budget, optimizer
        See `BackwardPasses`.
    targets
        Nodes that rows will start from.
    refine
        Whether the inputs of nonlinear operations are bounded by backward passes themselves
        ("crown") or by intervals ("crown-ibp"); or which tensors may be bounded so.
    relax
        Whether nonlinear operations get linear bounds; without, rows go back through affine
        operations only ("ibp").

    Attributes
    ----------
    is_nonlinear
        For each node whether its values are more than an affine function of a box.
    """

    def __init__(
        self,
        graph: Graph,
        domain: Domain,
        options: Options,
        targets: Iterable[int],
        refine: bool | Container[int],
        relax: bool,
        budget: Budget,
        optimizer: tuple[int, float] | None = None,
    ) -> None:
        super().__init__(graph, domain, options, budget, optimizer)
        self.is_nonlinear = {index: False for index in self.enclosures}
        self.is_nonlinear[0] = not math.isinf(domain.norm)
        self._refinable: Container[int] = ()
        if refine:
            self._refinable = range(len(graph.nodes)) if isinstance(refine, bool) else refine
        interval.propagate(
            graph,
            self.enclosures,
            options,
            targets,
            before=self._refine_inputs if refine else self._note_nonlinear,
            after=self.relaxations.make if relax else self.relaxations.make_affine,
        )

    def refine(self, index: int, mask: Any) -> None:
        """Bound the marked entries of a tensor, (N, *shape) bool, by backward passes."""
        enclosure, shape = self.enclosures[index], self.graph.nodes[index].shape
        rows = choose_rows(self.graph, index, self.options.dtype, self.domain.norm)
        needed = rows.needed(mask)
        nb_rows = ops.max(ops.sum(ops.cast(needed, "int32"), axis=1))
        chosen = backend.first_true(needed, nb_rows)

        def some(first: Any, last: Any) -> tuple[Any, Any, Sums]:
            part = chosen[:, first:last]
            return rows.unit_rows(part), rows.places(part), rows.sums(part)

        # A column more than there are entries takes what shared rows have beyond the border.
        lower, upper = (
            ops.pad(
                ops.cast(ops.reshape(side, (-1, math.prod(shape))), "float64"), [(0, 0), (0, 1)]
            )
            for side in (enclosure.lower, enclosure.upper)
        )
        lower, upper = self._tightened(index, nb_rows, some, lower, upper)
        self.enclosures[index] = _narrowed(
            enclosure, lower[:, :-1], upper[:, :-1], shape, self.options
        )

    def _tightened(
        self,
        start: int,
        nb_rows: Any,
        rows: Callable[[Any, Any], tuple[Any, Any, Sums]],
        lower: Any,
        upper: Any,
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
        lower, upper = backend.loop_over_chunks(body, nb_rows, chunk, [lower, upper])
        return lower, upper

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
            # Intervals are exact behind affine operations on a box; behind a nonlinearity whose
            # input was refined a further pass gains nothing.
            affine = self.graph.nodes[source].operation.exact_affine
            if source in self._refinable and affine and self.is_nonlinear[source]:
                self.refine(source, mask)
                for move in moves:
                    interval.step(self.graph, move, self.enclosures, self.options)

    def _source(self, index: int, mask: Any) -> tuple[int, list[int], Any]:
        """Where the entries of a tensor come from that was only rearranged, and which they are."""
        moves: list[int] = []
        node = self.graph.nodes[index]
        while node.operation.only_moves:
            moves.insert(0, index)
            (index,) = node.parents
            shape = self.graph.nodes[index].shape
            weight = ops.cast(mask, self.options.dtype)[:, None]
            (weight,) = node.operation.pull_back(weight, Relaxed(), [shape])
            mask = ops.squeeze(weight, 1) > 0
            node = self.graph.nodes[index]
        return index, moves, mask


def _narrowed(
    enclosure: Enclosure, lower: Any, upper: Any, shape: tuple[int, ...], options: Options
) -> Enclosure:
    """An enclosure with tighter float64 deviations (N, D), rounded outward to the working type."""
    lower = round_down(ops.reshape(lower, (-1, *shape)), options.dtype)
    upper = round_up(ops.reshape(upper, (-1, *shape)), options.dtype)
    return interval.intersect(enclosure, as_lower(lower), as_upper(upper))
