"""Backward linear bound propagation (CROWN) on any graph.

A row is a linear function of one tensor of the network. Pulled back operation by operation it
becomes a linear upper bound in terms of earlier tensors, at last of the input, where its largest
value over the region is known in closed form. Lower bounds are upper bounds of the negated row.

Sources: Zhang et al., Efficient Neural Network Robustness Certification with General Activation
Functions, 2018 (CROWN); Xu et al., Automatic Perturbation Analysis for Scalable Certified
Robustness and Beyond, 2020 (general graphs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from keras import ops

from xcertify.bounds import backend, interval
from xcertify.bounds.graph import Graph
from xcertify.bounds.interval import Enclosures
from xcertify.bounds.operations import Elementwise, Enclosure, Precision, Relaxed
from xcertify.bounds.rounding import block_size, gamma, round_down, round_up

_BLOCK = 256  # products summed in the working type; longer sums go on in float64
_TENSORS_HELD = 8  # tensors of the size of the coefficients that one step back keeps alive


class BackwardBounds:
    """Intervals, relaxations and backward passes of one graph over one batch of regions.

    It lives inside one trace of a compiled function.

    Parameters
    ----------
    graph
        The network.
    region
        Enclosure of the input.
    radius
        For an l1 or l2 ball the radius per feature, (N, *shape), rounded up; None for a box.
    norm
        Norm of the ball part of the region.
    precision
        Arithmetic of the bounds.
    targets
        Nodes that rows will start from.
    refine
        Whether the inputs of nonlinear operations are bounded by backward passes themselves
        ("crown") or by intervals ("crown-ibp").
    relax
        Whether nonlinear operations get linear bounds; without, rows go back through affine
        operations only ("ibp").
    budget
        Bytes that the coefficients of one backward pass may take.
    """

    def __init__(
        self,
        graph: Graph,
        region: Enclosure,
        radius: Any,
        norm: float,
        precision: Precision,
        targets: Iterable[int],
        refine: bool,
        relax: bool,
        budget: int,
    ) -> None:
        self.graph, self.precision, self.budget = graph, precision, budget
        self.radius, self.norm = radius, norm
        self.relaxed: dict[int, Relaxed] = {}
        self.curved = {0: not math.isinf(norm)}
        self._consumers = graph.consumers()
        self.enclosures: Enclosures = {0: region}
        interval.propagate(
            graph,
            self.enclosures,
            precision,
            targets,
            before=self._refine_inputs if refine else self._note_curvature,
            after=self._relax if relax else self._relax_affine,
        )

    def upper_bounds(self, start: int, rows: Any) -> Any:
        """Largest deviation of each row (N, S, *shape of the node) from its reference; float64."""
        ends, bound = self.pull_back(start, rows)
        return bound + self._concretize(ends[0])

    def interval_upper_bounds(self, start: int, rows: Any) -> Any:
        """The same by intervals: back through affine operations only."""
        ends, bound = self.pull_back(start, rows, affine_only=True)
        for index, coefficients in ends.items():
            bound += contract(coefficients, *self._inflated(self.enclosures[index]))
        return bound

    def tighten(
        self, start: int, rows: Callable[[Any, Any], Any], places: Any, sides: tuple[Any, Any]
    ) -> tuple[Any, Any]:
        """Intersect (N, D) deviations with backward bounds of rows, in chunks within the budget.

        `places` (N, S) names the columns that the rows bound; ``rows(first, last)`` gives the
        coefficients of some of them.
        """
        nb_samples, nb_rows = ops.shape(places)

        def body(first: Any, last: Any, lower: Any, upper: Any) -> tuple[Any, Any]:
            seeds = rows(first, last)
            bound = self.upper_bounds(start, ops.concatenate([seeds, -seeds], axis=1))
            above, below = bound[:, : last - first], -bound[:, last - first :]
            return backend.tighten(lower, upper, places[:, first:last], below, above)

        chunk = self._chunk(nb_samples)
        return tuple(backend.loop_over_chunks(body, nb_rows, chunk, list(sides)))

    def pull_back(
        self, start: int, rows: Any, affine_only: bool = False
    ) -> tuple[dict[int, Any], Any]:
        """Coefficients at the input (or at the last nonlinear tensors), and the constant part."""
        pending, ends = {start: rows}, {}
        bound = ops.zeros(ops.shape(rows)[:2], dtype="float64")
        while pending:
            index = max(pending)
            coefficients = pending.pop(index)
            node = self.graph.nodes[index]
            stop = affine_only and not getattr(node.operation, "exact_affine", False)
            if node.operation is None or stop:
                ends[index] = coefficients
                continue
            relaxed = self.relaxed[index]
            if relaxed.lower is not None:
                bound += contract(coefficients, relaxed.lower, relaxed.upper)
            shapes = [self.graph.nodes[parent].shape for parent in node.parents]
            pulled = node.operation.pull_back(coefficients, relaxed, shapes)
            for parent, part in zip(node.parents, pulled):
                pending[parent] = pending[parent] + part if parent in pending else part
        return ends, bound

    def _concretize(self, coefficients: Any) -> Any:
        """Largest value over the region of a linear function of the input's deviation.

        The box part and the ball part give a bound each, by ``sum(max(a l, a u))`` and by the dual
        norm; the region lies in both.
        """
        region = self.enclosures[0]
        bound = contract(coefficients, *self._inflated(region))
        if math.isinf(self.norm):
            return bound
        # A feature that cannot grow (fall) does not use a positive (negative) coefficient.
        usable = ops.where(coefficients > 0, region.upper[:, None], -region.lower[:, None]) > 0
        scaled = ops.where(usable, ops.abs(coefficients) * self.radius[:, None], 0.0)
        slack = 1.0 + gamma(_BLOCK + 16, self.precision.dtype)
        if self.norm == 2:
            return ops.minimum(bound, ops.sqrt(_block_sum(scaled * scaled)) * slack)
        axes = tuple(range(2, len(scaled.shape)))
        return ops.minimum(bound, ops.cast(ops.max(scaled, axis=axes), "float64") * slack)

    def _note_curvature(self, index: int) -> None:
        node = self.graph.nodes[index]
        nonlinear = not node.operation.exact_affine
        self.curved[index] = nonlinear or any(self.curved[p] for p in node.parents)

    def _refine_inputs(self, index: int) -> None:
        """Tighten the inputs of a nonlinear operation where that tightens its relaxation."""
        self._note_curvature(index)
        node = self.graph.nodes[index]
        if node.operation.exact_affine:
            return
        inputs = [self.enclosures[parent] for parent in node.parents]
        for parent, mask in zip(node.parents, node.operation.bend(inputs)):
            source, moves, mask = self._source(parent, mask)
            operation = self.graph.nodes[source].operation
            # Intervals are exact behind affine operations on a box; behind a nonlinearity whose
            # input was refined a further pass gains nothing.
            if operation is None or not operation.exact_affine or not self.curved[source]:
                continue
            self._refine(source, mask)
            for move in moves:
                interval.step(self.graph, move, self.enclosures, self.precision)

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
            weight = ops.cast(mask, self.precision.dtype)[:, None]
            (weight,) = node.operation.pull_back(weight, Relaxed(), [shape])
            mask = weight[:, 0] > 0
            node = self.graph.nodes[index]
        return index, moves, mask

    def _refine(self, index: int, mask: Any) -> None:
        enclosure, shape = self.enclosures[index], self.graph.nodes[index].shape
        size = math.prod(shape)
        mask = ops.reshape(mask, (-1, size))
        nb_rows = ops.max(ops.sum(ops.cast(mask, "int32"), axis=1))
        places = backend.first_true(mask, nb_rows)

        def rows(first: Any, last: Any) -> Any:
            seeds = ops.one_hot(places[:, first:last], size, dtype=self.precision.dtype)
            return ops.reshape(seeds, (*ops.shape(seeds)[:2], *shape))

        sides = [
            ops.cast(ops.reshape(side, (-1, size)), "float64")
            for side in (enclosure.lower, enclosure.upper)
        ]
        lower, upper = self.tighten(index, rows, places, sides)
        self.enclosures[index] = narrow(enclosure, lower, upper, shape, self.precision)

    def _relax_affine(self, index: int) -> None:
        if self.graph.nodes[index].operation.exact_affine:
            self._relax(index)

    def _relax(self, index: int) -> None:
        """Prepare a node for backward passes, all rounding errors of the pass included."""
        node, dtype = self.graph.nodes[index], self.precision.dtype
        inputs = [self.enclosures[parent] for parent in node.parents]
        relaxed = node.operation.relax(inputs, self.enclosures[index], self.precision)
        lower, upper = relaxed.lower, relaxed.upper
        if isinstance(node.operation, Elementwise):
            # What the parent's roundings cost is cheaper to add here than in a sum of its own.
            (parent,) = node.parents
            error = self.relaxed[parent].upper if parent in self.relaxed else None
            affine = parent in self.relaxed and self.graph.nodes[parent].operation.exact_affine
            if affine and error is not None and len(self._consumers[parent]) == 1:
                steepest = ops.maximum(*(ops.abs(slope) for slope in relaxed.slopes))
                error = (1.0 + gamma(4, dtype)) * steepest * error
                lower, upper = lower - error, upper + error
                self.relaxed[parent] = Relaxed(slopes=self.relaxed[parent].slopes)
        nb_uses = len(self._consumers[index])
        if nb_uses > 1:
            error = gamma(nb_uses, dtype) * self.enclosures[index].deviation
            lower = -error if lower is None else lower - error
            upper = error if upper is None else upper + error
        if lower is not None:
            lower, upper = self._inflated(Enclosure(None, lower, upper))
        self.relaxed[index] = Relaxed(lower, upper, relaxed.slopes)

    def _inflated(self, enclosure: Enclosure) -> tuple[Any, Any]:
        """Sides moved outward by the rounding error of the sums of `contract`."""
        error = gamma(_BLOCK + 64, self.precision.dtype) * enclosure.deviation
        return enclosure.lower - error, enclosure.upper + error

    def _chunk(self, nb_samples: Any) -> Any:
        """Rows of one backward pass that keep its coefficients within the budget."""
        widest = max(math.prod(node.shape) for node in self.graph.nodes)
        itemsize = 4 if self.precision.dtype == "float32" else 8
        per_row = 2 * _TENSORS_HELD * widest * itemsize
        return ops.maximum(ops.cast(self.budget / per_row, "int32") // nb_samples, 1)


def contract(coefficients: Any, lower: Any, upper: Any) -> Any:
    """``sum(max(a * lower, a * upper))`` of (N, S, *shape) and (N, *shape), (N, S) in float64."""
    chosen = ops.where(coefficients > 0, upper[:, None], lower[:, None])
    return _block_sum(coefficients * chosen)


def _block_sum(terms: Any) -> Any:
    """Sum over all but the first two axes: short sums in the working type, the rest in float64."""
    size = math.prod(terms.shape[2:])
    block = block_size(size, _BLOCK)
    terms = ops.reshape(terms, (*ops.shape(terms)[:2], size // block, block))
    return ops.sum(ops.cast(ops.sum(terms, axis=-1), "float64"), axis=-1)


def narrow(
    enclosure: Enclosure, lower: Any, upper: Any, shape: tuple[int, ...], precision: Precision
) -> Enclosure:
    """An enclosure with tighter float64 deviations (N, D), rounded outward to the working type."""
    lower = round_down(ops.reshape(lower, (-1, *shape)), precision.dtype)
    upper = round_up(ops.reshape(upper, (-1, *shape)), precision.dtype)
    return interval.intersect(enclosure, lower, upper)
