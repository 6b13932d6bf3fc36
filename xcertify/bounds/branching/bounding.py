"""The bounds of many branches at once, as functions of tensors that are traced once.

A branch is a region cut by splits: a box of inputs, and intervals of the tensors before the
activations. Its bounds are those of a backward pass over these intervals, with the shares of the
lines of activations (alpha) and the multipliers of the sides of intervals (beta) optimised
together.

Sources: Wang et al., Beta-CROWN: Efficient Bound Propagation with Per-neuron Split Constraints for
Neural Network Robustness Verification, 2021; Shi et al., Neural Network Verification with
Branch-and-Bound for General Nonlinearities (GenBaB), 2024; De Palma et al., Improved Branch and
Bound for Neural Network Verification via Lagrangian Decomposition (FSB), 2021; Zhou et al.,
Clip-and-Verify: Linear Constraint-Driven Domain Clipping, 2025.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.branching.layout import Layout
from xcertify.bounds.graph.operations import Enclosure, Options, Relaxed
from xcertify.bounds.graph.relaxations import Activation
from xcertify.bounds.propagation import interval
from xcertify.bounds.propagation.budget import Budget
from xcertify.bounds.propagation.crown import NOTHING, Tuning
from xcertify.bounds.propagation.refinement import BackwardBounds
from xcertify.bounds.propagation.relaxing import blended
from xcertify.bounds.propagation.target_rows import nominal_rows
from xcertify.bounds.query import Query
from xcertify.bounds.rounding import as_lower, as_upper, round_down, round_up

_WEIGHT_STEPS = 12
_LEAST_SLOPE = 0.05  # of the largest one
_ROUNDINGS = 1e-6  # of an interval: what of it may be there by roundings alone
FRESH = -1.0  # a share that is not known yet: that of the first lines


class Branches(NamedTuple):
    """N branches as tensors.

    Attributes
    ----------
    rows
        (N, S, *outputs).
    limits
        (N, S) float64: a branch is closed if some row is above its limit everywhere.
    lower, upper
        (N, D): sides of the tensors that are split, as deviations from the reference values of any
        pass.
    shares
        (N, S, C) in [0, 1]: weights of the steeper one of two lines; or `FRESH`.
    below, above
        (N, S, D): multipliers of the lower and of the upper sides.
    is_split
        (N, D) bool: where the branch was split, which is where multipliers are optimised.
    """

    rows: Any
    limits: Any
    lower: Any
    upper: Any
    shares: Any
    below: Any
    above: Any
    is_split: Any


@dataclass(frozen=True)
class Bounding:
    """How branches are bounded.

    Attributes
    ----------
    layout
        What can be split.
    node
        What is bounded.
    options, budget
        See `Queries`.
    refine
        Tensors that backward passes bound anew in every branch.
    share_rate, multiplier_rate
        Of the optimisation of shares and multipliers.
    nb_candidates
        How many entries are proposed for the next split, of all tensors together, about.
    """

    layout: Layout
    node: int
    options: Options
    budget: Budget
    refine: Container[int] | bool = False
    share_rate: float = 0.03
    multiplier_rate: float = 0.05
    nb_candidates: int = 16

    def roots(self, query: Query, optimizer: tuple[int, float] | None) -> list[Any]:
        """What is known of the tensors of N regions before any split, (N, D) each.

        Returns
        -------
        lower, upper
            Sides, as deviations from the reference values.
        reference
            float64.
        noise
            What reference values of two passes can differ by: the roundings of each of them.
        """
        passes = BackwardBounds(
            self.layout.graph,
            query.domain,
            self.options,
            targets=[self.node],
            refine=True,
            relax=True,
            budget=self.budget,
            optimizer=optimizer,
        )
        domain = query.domain
        zero = ops.zeros_like(query.lower)
        points = dict(domain.known) | {0: Enclosure(query.center, zero, zero)}
        # Of reference values alone, whatever the network's own arithmetic is.
        real = replace(self.options, network_dtype=None)
        interval.propagate(self.layout.graph, points, real, [self.node])
        found = [passes.enclosures[i] for i in self.layout.tensors]
        noise = [2.01 * points[i].deviation for i in self.layout.tensors]
        columns = ([e.lower for e in found], [e.upper for e in found], [e.reference for e in found])
        return [self.layout.joined(column, 1) for column in (*columns, noise)]

    def bounds(self, query: Query, branches: Branches, nb_steps: Any) -> list[Any]:
        """What is proved of branches, and how to go on.

        Parameters
        ----------
        query, branches
            N branches.
        nb_steps
            Most steps of the optimisation, a tensor.

        Returns
        -------
        margins
            (N,) float64: lower bounds of ``max_s (rows[s] @ f(x) - limits[s])``; inf for a branch
            that is empty.
        boxes
            (N, *input) twice: the sides of the inputs, cut by what a violation needs.
        sides
            (N, D) twice: the sides of the tensors, as tight as they are known.
        shares, below, above
            The best ones, as in `Branches`.
        points
            (N, *input) float64, where the bound is attained.
        feature
            (N,) int: the input feature to split next.
        entries, points, scores
            (N, candidates): entries to split next, the values to split them at in float64, and how
            good that seems to be; 0 where there is nothing to split.
        """
        passes = self._passes(query, branches, self.refine)
        route = passes.route(self.node)
        values, variables = self._optimized(passes, route, branches, nb_steps)
        tuning = self._tuning(passes, variables)
        seen: dict[int, Any] = {}
        ends, constant = passes.pull_back(route, -branches.rows, tuning, both=False, seen=seen)
        values = ops.minimum(values, passes.closed(route, ends, constant)[:, 0])
        nominal, slack = nominal_rows(passes.enclosures[self.node].reference, branches.rows)
        lower = self._lower(passes, values, nominal - slack)
        worst = ops.one_hot(
            ops.argmax(lower - branches.limits, axis=1), lower.shape[1], dtype=self.options.dtype
        )
        zeros = ops.zeros_like(passes.enclosures[0].lower)[:, None, None]
        line = (ends.get(0, 0.0) + zeros)[:, 0]
        reach = constant[:, 0] + passes.input_error(line[:, None])[:, 0]
        reach = reach - (nominal - slack - branches.limits)
        reach = reach + 1e-12 * (ops.abs(nominal) + ops.abs(branches.limits) + ops.abs(reach))
        proved = ops.logical_and(ops.isfinite(reach), interval.finite(passes.enclosures)[:, None])
        cuts = ops.cast(ops.where(_beside(proved, line), line, 0.0), "float64")
        reach = ops.where(proved, reach, 0.0)
        whole = passes.enclosures[0].lower, passes.enclosures[0].upper
        margins = ops.max(lower - branches.limits, axis=1)
        if lower.shape[1] > 1:
            margins = ops.maximum(margins, -_together(whole, cuts, reach, proved))
        boxes = _cut(whole, cuts, reach, self.options.dtype)
        steepest = _of_row(line, worst)
        found = [passes.enclosures[i] for i in self.layout.tensors]
        sides = [branches.lower, branches.upper]
        if found:
            columns = [e.lower for e in found], [e.upper for e in found]
            sides = [self.layout.joined(column, 1) for column in columns]
        slopes = ops.reshape(ops.sum(ops.abs(line), axis=1), (ops.shape(line)[0], -1))
        # Slopes are of lines: features that these do without may be worth a split, too.
        slopes = slopes + _LEAST_SLOPE * ops.max(slopes, axis=1, keepdims=True)
        width = ops.reshape(boxes[1] - boxes[0], ops.shape(slopes))
        feature = ops.argmax(slopes * width, axis=1)
        deviation = ops.where(steepest > 0, boxes[1], boxes[0])
        points = passes.enclosures[0].reference + ops.cast(deviation, "float64")
        return [
            margins,
            *boxes,
            *sides,
            *variables,
            points,
            ops.cast(feature, "int32"),
            *self._candidates(passes, route, tuning, seen, worst),
        ]

    def probe(self, query: Query, branches: Branches, entries: Any, down: Any, up: Any) -> Any:
        """The bounds of both parts of branches that are split at one of some entries each.

        Parameters
        ----------
        query, branches
            N branches.
        entries
            (N, k) int: numbers of entries.
        down, up
            (N, k): the deviations at which they are split, rounded down and up.

        Returns
        -------
        margins
            (N, k, 2) float64: ``max_s (lower_s - limit_s)`` of the part below and the part above.
        """
        nb_parts = 2 * entries.shape[1]

        def repeated(tensor: Any) -> Any:
            return ops.repeat(tensor, nb_parts, axis=0)

        marks = ops.one_hot(entries, branches.lower.shape[1], dtype="bool")  # (N, k, D)
        split = {
            "lower": ops.where(
                marks,
                ops.maximum(branches.lower[:, None], down[..., None]),
                branches.lower[:, None],
            ),
            "upper": ops.where(
                marks, ops.minimum(branches.upper[:, None], up[..., None]), branches.upper[:, None]
            ),
        }
        same = {
            side: ops.broadcast_to(getattr(branches, side)[:, None], ops.shape(split[side]))
            for side in split
        }
        lower = ops.stack([same["lower"], split["lower"]], axis=2)
        upper = ops.stack([split["upper"], same["upper"]], axis=2)
        size = branches.lower.shape[1]
        parts = Branches(*map(repeated, branches))._replace(
            lower=ops.reshape(lower, (-1, size)), upper=ops.reshape(upper, (-1, size))
        )
        passes = self._passes(query.map(repeated), parts, False)
        route = passes.route(self.node)
        values, _ = self._optimized(passes, route, parts, None)
        nominal, slack = nominal_rows(passes.enclosures[self.node].reference, parts.rows)
        margins = ops.max(self._lower(passes, values, nominal - slack) - parts.limits, axis=1)
        return ops.reshape(margins, (-1, nb_parts // 2, 2))

    # --- parts ------------------------------------------------------------------------------------

    def _passes(
        self, query: Query, branches: Branches, refine: Container[int] | bool
    ) -> BackwardBounds:
        """Backward passes over the intervals of branches."""
        layout, domain = self.layout, query.domain
        lower = layout.parted(branches.lower, layout.tensors)
        upper = layout.parted(branches.upper, layout.tensors)
        known = {i: Enclosure(None, lower[i], upper[i]) for i in layout.tensors}
        return BackwardBounds(
            layout.graph,
            domain._replace(known=domain.known | known),
            self.options,
            targets=[self.node],
            refine=refine,
            relax=True,
            budget=self.budget,
            multiplied=layout.tensors,
        )

    def _optimized(
        self, passes: BackwardBounds, route: Any, branches: Branches, nb_steps: Any
    ) -> tuple[Any, list[Any]]:
        """Upper bounds (N, S) of the negated rows' deviations, and the variables that give them."""
        start = self._start(passes, branches)
        nominal, slack = nominal_rows(passes.enclosures[self.node].reference, branches.rows)

        def values(variables: list[Any]) -> Any:
            tuning = self._tuning(passes, variables)
            return passes.upper_bounds(route, -branches.rows, tuning, both=False)[:, 0]

        if not self.options.alternatives:
            return values([]), start
        if nb_steps is None:
            return values(start), start
        rate = self.multiplier_rate * self._sizes(passes, route, branches, start)
        return backend.minimize_and_keep(
            values,
            start,
            largest=(1.0, math.inf, math.inf),
            rates=(self.share_rate, rate, rate),
            nb_steps=nb_steps,
            enough=nominal - slack - branches.limits,
        )

    def _sizes(
        self, passes: BackwardBounds, route: Any, branches: Branches, start: list[Any]
    ) -> Any:
        """The size of multipliers (N, S, D): that of the coefficients, 0 where there are none."""
        seen: dict[int, Any] = {}
        tuning = self._tuning(passes, start)
        passes.pull_back(route, -branches.rows, tuning, both=False, seen=seen)
        sizes = {}
        for index in self.layout.activations:
            (parent,) = self.layout.graph.nodes[index].parents
            coefficients = ops.abs(seen[index][:, 0])
            axes = tuple(range(2, len(coefficients.shape)))
            sizes[parent] = ops.max(coefficients, axis=axes, keepdims=True) + 0 * coefficients
        found = self.layout.joined([sizes[i] for i in self.layout.tensors], 2)
        return found * ops.cast(branches.is_split[:, None], found.dtype)

    def _start(self, passes: BackwardBounds, branches: Branches) -> list[Any]:
        """The variables to begin with: where there are none yet, those of the first lines."""
        shares = branches.shares
        if self.options.alternatives and self.layout.activations:
            turned = self.layout.joined([_turned(passes, i) for i in self.layout.activations], 1)
            shares = ops.where(shares < 0, turned[:, None], shares)
        return [shares, branches.below, branches.above]

    def _tuning(self, passes: BackwardBounds, variables: list[Any]) -> Tuning:
        """Variables (N, S, ...) as what is free in bounds of one side."""
        if not variables or not self.options.alternatives:
            return NOTHING
        shares, below, above = variables
        layout = self.layout
        parts = layout.parted(shares[:, None], layout.activations)
        for index in layout.activations:
            turned = _turned(passes, index)[:, None, None]
            parts[index] = turned + (1 - 2 * turned) * parts[index]
        lower = layout.parted(below[:, None], layout.tensors)
        upper = layout.parted(above[:, None], layout.tensors)
        return Tuning(parts, {i: (lower[i], upper[i]) for i in layout.tensors})

    def _lower(self, passes: BackwardBounds, values: Any, nominal: Any) -> Any:
        """Bounds (N, S) of rows: nothing of what is not finite, inf where a branch is empty."""
        finite = interval.finite(passes.enclosures)
        empty = ops.zeros_like(finite)
        for index in (0, *self.layout.tensors):
            enclosure = passes.enclosures[index]
            crossed = ops.reshape(enclosure.lower > enclosure.upper, (ops.shape(finite)[0], -1))
            empty = ops.logical_or(empty, ops.any(crossed, axis=1))
        lower = ops.where(finite[:, None], as_lower(nominal - values), -np.inf)
        empty = ops.logical_or(empty, _misses_ball(passes))
        return ops.where(ops.logical_and(finite, empty)[:, None], np.inf, lower)

    def _candidates(
        self, passes: BackwardBounds, route: Any, tuning: Tuning, seen: dict[int, Any], worst: Any
    ) -> tuple[Any, Any, Any]:
        """Entries (N, k) to split, the values to split them at, and their scores."""
        layout = self.layout
        scores = {i: 0.0 for i in layout.tensors}
        points: dict[int, Any] = {}
        for index in layout.activations:
            (parent,) = layout.graph.nodes[index].parents
            if parent not in scores:
                continue
            activation = layout.activation(index)
            enclosure = passes.enclosures[parent]
            point, can_split = split_points(activation, *enclosure.absolute())
            points.setdefault(parent, point)
            relaxed = route.at(index)
            if index in tuning.shares:
                relaxed = blended(relaxed, relaxed.alternative, tuning.shares[index])
            relaxed = relaxed._replace(alternative=None).map(lambda x: _of_row(x[:, 0], worst))
            gap = self._gap(
                activation,
                passes,
                index,
                relaxed,
                _of_row(seen[index][:, 0], worst),
                points[parent],
            )
            scores[parent] = scores[parent] + ops.where(can_split, gap, 0.0)
        if not layout.tensors:
            nothing = ops.zeros((ops.shape(worst)[0], 1))
            return ops.cast(nothing, "int32"), ops.cast(nothing, "float64"), nothing
        # Some of every tensor: early ones decide more than their own lines cost.
        found, first = [], 0
        for index in layout.tensors:
            own = ops.reshape(scores[index], (ops.shape(worst)[0], layout.size(index)))
            best, entries = ops.top_k(own, min(self._nb_of_each, layout.size(index)))
            found.append((best, entries + first))
            first += layout.size(index)
        best, entries = (ops.concatenate(column, axis=1) for column in zip(*found))
        best, order = ops.top_k(best, best.shape[1])
        entries = backend.gather(entries, order)
        values = layout.joined([points[i] for i in layout.tensors], 1)
        return entries, backend.gather(values, entries), best

    @property
    def _nb_of_each(self) -> int:
        """How many entries of each tensor are proposed."""
        return max(1, self.nb_candidates // len(self.layout.tensors))

    def _gap(
        self,
        activation: Activation,
        passes: BackwardBounds,
        index: int,
        relaxed: Relaxed,
        coefficients: Any,
        point: Any,
    ) -> Any:
        """What the lines of an activation cost the bound, about, (N, *shape).

        The line that a coefficient takes is off by some amount at the split point and at both ends
        of the interval; the lower one of the ends counts, since at the better end nothing is lost
        for good.
        """
        (parent,) = self.layout.graph.nodes[index].parents
        enclosure, output = passes.enclosures[parent], passes.enclosures[index]
        below, above = relaxed.slopes
        positive = coefficients > 0
        slope = ops.where(positive, above, below)
        offset = ops.where(positive, relaxed.upper, relaxed.lower)
        lower, upper = enclosure.absolute()

        def distance(place: Any) -> Any:
            step = ops.cast(place - enclosure.reference, slope.dtype)
            value = ops.cast(activation.value(place) - output.reference, slope.dtype)
            return ops.abs(slope * step + offset - value)

        ends = ops.minimum(distance(lower), distance(upper))
        return ops.abs(coefficients) * (distance(point) + ends)


def split_points(activation: Activation, lower: Any, upper: Any) -> tuple[Any, Any]:
    """Where intervals are split, float64, and whether that helps: the kink nearest to the middle.

    Where there is no kink inside, the middle, of functions that bend. A part that was split at a
    kink reaches over it by roundings, which is not inside: it would be split there for ever.
    """
    middle, reach = (lower + upper) / 2, _ROUNDINGS * (upper - lower)
    point, nearest = middle, ops.full_like(middle, np.inf)
    for kink in activation.kinks:
        inside = ops.logical_and(lower + reach < kink, kink < upper - reach)
        distance = ops.where(inside, ops.abs(middle - kink), np.inf)
        point = ops.where(distance < nearest, kink, point)
        nearest = ops.minimum(nearest, distance)
    at_kink = nearest < np.inf
    if activation.piecewise_linear:
        return point, at_kink
    wide = upper - lower > 1e-6 * (1e-3 + ops.abs(lower) + ops.abs(upper))
    return point, ops.logical_or(at_kink, wide)


def _turned(passes: BackwardBounds, index: int) -> Any:
    """Where the first line under an activation is the steeper one, 1 or 0, (N, *shape)."""
    relaxed = passes.relaxations[index]
    assert relaxed.alternative is not None  # as the options say
    steeper = relaxed.slopes[0] > relaxed.alternative.slopes[0]
    return ops.cast(steeper, relaxed.slopes[0].dtype)


def _of_row(values: Any, chosen: Any) -> Any:
    """Of (N, S, ...) the row that one-hot (N, S) marks; of (N, 1, ...) the only one."""
    if values.shape[1] == 1:
        return values[:, 0]
    weights = ops.reshape(chosen, (*ops.shape(chosen), *[1] * (len(values.shape) - 2)))
    return ops.sum(values * ops.cast(weights, values.dtype), axis=1)


def _beside(values: Any, other: Any) -> Any:
    """Values (N, S) with axes of length 1 for the rest of (N, S, ...)."""
    return ops.reshape(values, (*ops.shape(values), *[1] * (len(other.shape) - 2)))


def _misses_ball(passes: BackwardBounds) -> Any:
    """Which of N boxes lie outside of the ball that they are parts of, (N,) bool."""
    enclosure, domain = passes.enclosures[0], passes.domain
    if math.isinf(domain.norm):
        return ops.zeros(ops.shape(enclosure.lower)[:1], "bool")
    nearest = ops.maximum(ops.maximum(enclosure.lower, -enclosure.upper), 0.0)
    nearest, radius = (ops.cast(x, "float64") for x in (nearest, domain.radius))
    scaled = ops.where(radius > 0, nearest / ops.maximum(radius, 1e-300), 0.0)
    axes = tuple(range(1, len(scaled.shape)))
    return ops.sum(scaled**domain.norm, axis=axes) > 1 + 1e-6


def _together(boxes: tuple[Any, Any], lines: Any, constants: Any, proved: Any) -> Any:
    """Upper bounds (N,) of the least of linear functions (N, S, *shape) of boxes, all S together.

    As far as they are `proved`, (N, S) bool; infinite where none is.

    ``max_d min_s (line_s . d + constant_s)`` is at most ``max_d sum_s w_s (line_s . d +
    constant_s)`` for any weights w that add up to 1. Some steps of multiplicative weights, of which
    the best counts.
    """
    lower, upper = (ops.cast(side, "float64") for side in boxes)
    axes = tuple(range(1, len(lower.shape)))
    sizes = ops.maximum(ops.abs(lower), ops.abs(upper))[:, None]
    size = ops.sum(ops.abs(lines) * sizes, axis=tuple(range(2, len(lines.shape))))
    size = ops.max(size + ops.abs(constants), axis=1)
    weights = ops.cast(proved, "float64")
    count = ops.sum(weights, axis=1, keepdims=True)
    weights = weights / ops.maximum(count, 1.0)
    best = ops.full_like(size, np.inf)
    for _ in range(_WEIGHT_STEPS):
        line = ops.sum(_beside(weights, lines) * lines, axis=1)
        point = ops.where(line > 0, upper, lower)
        value = ops.sum(line * point, axis=axes) + ops.sum(weights * constants, axis=1)
        best = ops.minimum(best, as_upper(value))
        own = ops.sum(lines * point[:, None], axis=tuple(range(2, len(lines.shape)))) + constants
        spread = ops.maximum(ops.max(own, axis=1) - ops.min(own, axis=1), 1e-30)
        weights = weights * ops.exp(
            -2.0 * (own - ops.min(own, axis=1, keepdims=True)) / spread[:, None]
        )
        weights = weights / ops.sum(weights, axis=1, keepdims=True)
    return ops.where(count[:, 0] > 0, best + 1e-9 * size, np.inf)


def _cut(boxes: tuple[Any, Any], cuts: Any, constants: Any, dtype: str) -> tuple[Any, Any]:
    """Boxes (N, *input) without what the cuts leave of them.

    Parameters
    ----------
    boxes
        Lower and upper deviations of the inputs.
    cuts, constants
        (N, S, *input) and (N, S) float64: linear functions ``cut . d + constant`` that are at least
        0 wherever the property is violated.
    """
    lower, upper = (ops.cast(side, "float64")[:, None] for side in boxes)
    lines = cuts
    largest = ops.maximum(lines * lower, lines * upper)
    axes = tuple(range(2, len(lines.shape)))
    room = ops.sum(largest, axis=axes) + constants
    room = ops.maximum(room, 0.0) + 1e-9 * (
        ops.sum(ops.abs(largest), axis=axes) + ops.abs(constants)
    )
    # A feature may be as far from its best side as its own slope uses up the room.
    size = ops.abs(lines)
    reach = ops.where(size > 1e-30, _beside(room, lines) / ops.maximum(size, 1e-30), np.inf)
    at_least = ops.max(ops.where(lines > 0, upper - reach, -np.inf), axis=1)
    at_most = ops.min(ops.where(lines < 0, lower + reach, np.inf), axis=1)
    return (
        ops.maximum(boxes[0], as_lower(round_down(at_least, dtype))),
        ops.minimum(boxes[1], as_upper(round_up(at_most, dtype))),
    )
