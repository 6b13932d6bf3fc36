"""Intervals that backward passes make tighter, node by node: what passes further on start from."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from typing import Any

from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import (
    Elementwise,
    Enclosure,
    Operation,
    Options,
    Relaxed,
    Reshaped,
)
from xcertify.bounds.propagation import interval
from xcertify.bounds.propagation.budget import Budget
from xcertify.bounds.propagation.closing import Domain
from xcertify.bounds.propagation.crown import BackwardPasses
from xcertify.bounds.propagation.depth import Depth, depth_of, ends_of, refines, source_of
from xcertify.bounds.propagation.exactness import exact_tensors
from xcertify.bounds.propagation.routes import Route, patch_routes, unit_rows
from xcertify.bounds.rounding import as_lower, as_upper, round_down, round_up


class BackwardBounds(BackwardPasses):
    """Backward passes of one graph, over intervals that they refine on the way.

    It lives inside one trace of a compiled function.

    Parameters
    ----------
    graph, domain, options, budget, optimizer, multiplied
        See `BackwardPasses`.
    targets
        Nodes that rows will start from.
    refine
        Whether the inputs of nonlinear operations are bounded by backward passes themselves
        ("crown") or by intervals ("crown-ibp"); or which tensors may be bounded so. With True,
        `refines` has the last word.
    relax
        Whether nonlinear operations get linear bounds; without, rows go back through affine
        operations only ("ibp").

    Attributes
    ----------
    depth
        Through how many nonlinear layers rows of inner tensors go back before they are closed by
        intervals; None: to the input.
    exact
        Nodes whose intervals are exact for every entry, but for roundings.
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
        multiplied: Container[int] = (),
    ) -> None:
        super().__init__(graph, domain, options, budget, optimizer, multiplied)
        self.depth: Depth = None
        if refine is True:
            refine = refines(options.backward_depth, graph, list(targets))
        if refine:
            self.depth = depth_of(options.backward_depth, graph, list(targets))
        self._refined: dict[int, Any] = {}  # which entries, (N, D) bool
        self._whole: set[int] = set()  # nodes of which all entries are that vary
        self.exact = exact_tensors(graph, graph.ancestors(targets), domain.is_box)
        self._refinable: Container[int] = ()
        if refine:
            self._refinable = range(len(graph.nodes)) if isinstance(refine, bool) else refine
        interval.propagate(
            graph,
            self.enclosures,
            options,
            targets,
            before=self._refine_inputs if refine else None,
            after=self.relaxations.make if relax else self.relaxations.make_affine,
        )

    def refine(self, index: int, mask: Any) -> None:
        """Bound the marked entries of a tensor, (N, *shape) bool, by backward passes."""
        enclosure, shape = self.enclosures[index], self.graph.nodes[index].shape
        size = math.prod(shape)
        mask = ops.reshape(mask, (-1, size))
        done = self._refined.get(index)
        self._refined[index] = mask if done is None else ops.logical_or(mask, done)
        if done is not None:
            mask = ops.logical_and(mask, ops.logical_not(done))
        nb_rows = ops.max(ops.sum(ops.cast(mask, "int32"), axis=1))
        chosen = backend.first_true(mask, nb_rows)
        route = self.route(index, ends_of(self.graph, index, self.depth))
        patches = patch_routes(route)

        def body(first: Any, last: Any, lower: Any, upper: Any) -> tuple[Any, Any]:
            part = chosen[:, first:last]
            if patches is None:
                way, rows = route, unit_rows(part, shape, self.options.dtype)
            else:
                way = patches.of(part)
                rows = way.unit_rows(part, self.options.dtype)
            bounds = self.best_upper_bounds(way, rows)
            # Others fill up the rows where another sample has more: bounds must not depend on it.
            bounds = ops.where(backend.gather(mask, part)[:, None], bounds, float("inf"))
            return backend.tighten(lower, upper, part, -bounds[:, 1], bounds[:, 0])

        nb_at_once = self.nb_rows_at_once(route if patches is None else patches.of(chosen))
        sides = [
            ops.cast(ops.reshape(side, (-1, size)), "float64")
            for side in (enclosure.lower, enclosure.upper)
        ]
        lower, upper = backend.loop_over_chunks(body, nb_rows, nb_at_once, sides)
        self.enclosures[index] = _narrowed(enclosure, lower, upper, shape, self.options)

    def affine_route(self, start: int) -> Route:
        """The way back through affine operations only, which interval bounds take."""
        nodes = enumerate(self.graph.nodes)
        return self.route(start, {i for i, node in nodes if not node.operation.exact_affine})

    def _refine_inputs(self, index: int) -> None:
        """Tighten the inputs of a nonlinear operation where that tightens its relaxation."""
        node = self.graph.nodes[index]
        if node.operation.exact_affine:
            return
        inputs = [self.enclosures[parent] for parent in node.parents]
        for parent, mask in zip(node.parents, node.operation.unstable(inputs)):
            if mask is None or source_of(self.graph, parent)[0] in self._whole:
                continue
            source, between, mask = self._source(parent, mask)
            refinable = self.graph.nodes[source].operation.refinable
            if source in self._refinable and refinable and source not in self.exact:
                self.refine(source, mask)
                if self._asks_for_all(node.operation, between):
                    self._whole.add(source)
                for later in between:
                    interval.step(self.graph, later, self.enclosures, self.options)
                if any(isinstance(self.graph.nodes[i].operation, Elementwise) for i in between):
                    for later in (source, *between):
                        self.relaxations.make(later)

    def _asks_for_all(self, operation: Operation, between: list[int]) -> bool:
        """Whether an operation needs all entries of a tensor that vary, with these between."""
        smooth = isinstance(operation, Elementwise) and not operation.activation.piecewise_linear
        kinds = (Elementwise, Reshaped)
        return smooth and all(isinstance(self.graph.nodes[i].operation, kinds) for i in between)

    def _source(self, index: int, mask: Any) -> tuple[int, list[int], Any]:
        """Where the entries of a tensor come from, one each, and which they are.

        Back through what only rearranges them, and through activations: those that are stable were
        not refined for their own sake.
        """
        source, between = source_of(self.graph, index)
        for later in reversed(between):
            node = self.graph.nodes[later]
            if node.operation.only_moves:
                weight = ops.cast(mask, self.options.dtype)[:, None, None]
                shape = self.graph.nodes[node.parents[0]].shape
                (moved,) = node.operation.pull_back(weight, Relaxed(), [shape])
                mask = ops.squeeze(moved, (1, 2)) > 0
        return source, between, mask


def _narrowed(
    enclosure: Enclosure, lower: Any, upper: Any, shape: tuple[int, ...], options: Options
) -> Enclosure:
    """An enclosure with tighter float64 deviations (N, D), rounded outward to the working type."""
    lower = round_down(ops.reshape(lower, (-1, *shape)), options.dtype)
    upper = round_up(ops.reshape(upper, (-1, *shape)), options.dtype)
    return interval.intersect(enclosure, as_lower(lower), as_upper(upper))
