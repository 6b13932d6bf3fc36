"""Softmax, with lines above and below that know that its entries sum to 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import ops

from xcertify.bounds.graph.operations import Enclosure, Operation, Options, Relaxed
from xcertify.bounds.rounding import relative_error, round_down, round_up

_LEAST = 1e-280  # of smaller numbers no logarithms are taken
_NARROW = 1e-6  # of narrower intervals no difference quotients


class _Box(NamedTuple):
    """A box, what the shares in it can be, and the parts of their lines; float64."""

    finite: Any  # whether its sides are, for all entries that are summed
    center: Any
    step: Any  # from the center to the reference
    deviation: Any
    reach: Any  # from the lower sides up to the highest upper one
    smallest: Any
    largest: Any
    weights: Any  # w, see `Softmax`
    shares: Any  # s
    logarithms: Any  # of s
    tangent: Any  # L


class _Lines(NamedTuple):
    """Lines of the entries; their values in the center and at the reference, and their slopes.

    The slope of entry i in x_j is ``own_i delta_ij - by_weights_i w_j - by_steep_i M_j +
    by_shares_i s_j``.
    """

    middle: Any
    value: Any
    own: Any
    by_weights: Any
    by_steep: Any
    by_shares: Any


class Softmax(Operation):
    """Softmax along some axes (batch axis counted).

    Let p be its entries over a box [l, u] of x, and c the middle of the box.

    - Above: ``p_i = exp(t)`` for ``t = x_i - log(sum_k exp(x_k))``, which is concave in x. The
      chord of exp over the interval of t, with the slope M_i, is above p_i; its tangent in c has
      the slopes ``M_i (delta_ij - s_j)``, s the softmax of c.
    - Below: with the chord of exp over each interval in place of each term of the sum, D in all,
      ``exp(x_i) / D(x)`` is convex and below p_i. Its tangent in c has the slopes
      ``L_i (delta_ij - w_j)``.
    - Or below: ``1 - sum_(k != i)`` of the lines above, whichever is higher in c.

    The slopes are a diagonal and products of vectors: they need no more memory than the entries.

    Source: Wei et al., Convex Bounds on the Softmax Function with Applications to Robustness
    Verification, 2023 (the first two; its bounds "LSE").
    """

    refinable = True

    def __init__(self, axis: int | tuple[int, ...] = -1) -> None:
        self.axes = axis if isinstance(axis, tuple) else (axis,)

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        (x,) = inputs
        shares = ops.exp(x - self._max(x))
        return shares / self._sum(shares)

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`: ``e^l_i / (e^l_i + sum_(j != i) e^u_j)`` and its mirror, exact."""
        lower, upper = inputs[0].absolute()
        highest = self._max(upper)
        low, high = ops.exp(lower - highest), ops.exp(upper - highest)
        # What the sum of the others can be, less and more than its rounding errors.
        unit = _rounding(highest)
        error = unit * self._sum(high)
        others_high = self._sum(high) - high + error
        others_low = self._sum(low) - low - error
        smallest = low / (low + others_high)
        largest = high / (high + ops.maximum(others_low, 0.0))
        unit += self._network_error(highest - lower, options)
        smallest, largest = smallest * (1 - unit), largest * (1 + unit)
        # Also where numbers overflow, shares are from 0 to 1.
        smallest = ops.where(smallest > 0, smallest, 0.0)
        largest = ops.where(largest < 1, largest, 1.0)
        return Enclosure(
            reference,
            round_down(smallest - reference, options.dtype),
            round_up(largest - reference, options.dtype),
        )

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`.

        Of two lines below that which is higher in the middle. The alternatives are the other one,
        and above a constant.
        """
        dtype = options.dtype
        box = self._box(inputs[0], output)
        above = self._above(box, dtype)
        tangent, rest = self._tangent(box), self._rest(box, above)
        is_rest = rest.middle > tangent.middle
        below = _Lines(*(ops.where(is_rest, *pair) for pair in zip(rest, tangent)))

        def relaxed(upper: _Lines, lower: _Lines) -> Relaxed:
            noise = self._noise(box, upper, lower, above, options)
            slopes = (upper.own, lower.own, lower.by_weights, lower.by_steep, lower.by_shares)
            return Relaxed(
                round_down(lower.value - output.reference - noise, dtype),
                round_up(upper.value - output.reference + noise, dtype),
                tuple(ops.cast(values, dtype) for values in slopes),
                common=tuple(ops.cast(v, dtype) for v in (box.weights, above.own, box.shares)),
            )

        first = relaxed(above, below)
        if not options.alternatives:
            return first
        other = _Lines(*(ops.where(is_rest, *pair) for pair in zip(tangent, rest)))
        constant = _Lines(box.largest, box.largest, *[ops.zeros_like(box.center)] * 4)
        return first._replace(alternative=relaxed(constant, other))

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`."""
        upper, own, by_weights, by_steep, by_shares = relaxed.slopes
        weights, steep, shares = relaxed.common
        positive = ops.relu(coefficients)
        negative = coefficients - positive

        def total(values: Any) -> Any:
            axes = tuple(axis if axis < 0 else axis + 2 for axis in self.axes)
            return ops.sum(values, axis=axes, keepdims=True)

        return [
            positive * upper
            + negative * own
            - weights * total(negative * by_weights)
            - steep * total(negative * by_steep)
            + shares * total(negative * by_shares - positive * upper)
        ]

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any]:
        """See `Operation`."""
        return [enclosure.upper > enclosure.lower for enclosure in inputs]

    # --- lines ------------------------------------------------------------------------------------

    def _box(self, enclosure: Enclosure, output: Enclosure) -> _Box:
        lower, upper = enclosure.absolute()
        finite = ops.all(ops.isfinite(upper - lower), axis=self.axes, keepdims=True)
        # Where it is not, the lines are constants, whatever is computed here.
        lower, upper = (ops.where(finite, side, enclosure.reference) for side in (lower, upper))
        center, highest = (lower + upper) / 2, self._max(upper)
        low, high = ops.exp(lower - highest), ops.exp(upper - highest)
        narrow = upper - lower < _NARROW
        chords = (high - low) / ops.where(narrow, 1.0, upper - lower)
        chords = ops.where(narrow, ops.exp(center - highest), chords)
        # For these slopes, whatever they are, the lowest lines above exp.
        starts = ops.maximum(low - chords * (lower - highest), high - chords * (upper - highest))
        starts += relative_error(16, "float64") * (high + chords * (highest - lower))
        total = self._sum(chords * (center - highest) + starts)
        peak = self._max(center)
        shares = ops.exp(center - peak)
        smallest, largest = (ops.clip(side, 0.0, 1.0) for side in output.absolute())
        return _Box(
            finite=finite,
            center=center,
            step=enclosure.reference - center,
            deviation=ops.where(finite, ops.cast(enclosure.deviation, "float64"), 0.0),
            reach=highest - lower,
            smallest=smallest,
            largest=largest,
            weights=ops.where(finite, chords / total, 0.0),
            shares=shares / self._sum(shares),
            logarithms=center - peak - ops.log(self._sum(shares)),
            tangent=ops.where(finite, ops.exp(center - highest) / total, 0.0),
        )

    def _above(self, box: _Box, dtype: str) -> _Lines:
        """The lines above; a constant where logarithms would be too large."""
        usable = ops.logical_and(box.finite, box.smallest > _LEAST)
        low, high = (ops.where(usable, p, 1.0) for p in (box.smallest, box.largest))
        width = ops.log(high) - ops.log(low)
        narrow = width < _NARROW
        steep = ops.where(narrow, high, (high - low) / ops.where(narrow, 1.0, width))
        steep = ops.cast(ops.cast(ops.where(usable, steep, 0.0), dtype), "float64")
        # For this slope, whatever it is, the lowest line above exp.
        start = ops.maximum(low - steep * ops.log(low), high - steep * ops.log(high))
        start += relative_error(16, "float64") * (high - steep * ops.log(low))
        start = ops.where(usable, start, box.largest)
        middle = start + steep * box.logarithms
        along = box.step - self._sum(box.shares * box.step)
        nothing = ops.zeros_like(steep)
        return _Lines(middle, middle + steep * along, steep, nothing, nothing, -steep)

    def _tangent(self, box: _Box) -> _Lines:
        """The lines below that are tangents; a constant where the box is not finite."""
        along = box.step - self._sum(box.weights * box.step)
        nothing = ops.zeros_like(box.center)
        middle = ops.where(box.finite, box.tangent, box.smallest)
        value = middle + box.tangent * along
        return _Lines(middle, value, box.tangent, box.tangent, nothing, nothing)

    def _rest(self, box: _Box, above: _Lines) -> _Lines:
        """The lines below that are what the others, at most, leave."""
        middle, value, steep = (
            self._sum(part) - part for part in (above.middle, above.value, above.own)
        )
        nothing = ops.zeros_like(steep)
        return _Lines(1.0 - middle, 1.0 - value, above.own, nothing, nothing + 1.0, steep)

    def _noise(
        self, box: _Box, upper: _Lines, lower: _Lines, above: _Lines, options: Options
    ) -> Any:
        """All roundings, of coefficients times slopes and of the values of the lines."""

        def along(distances: Any) -> Any:
            """What lines rise by at most."""
            sums = [self._sum(v * distances) for v in (box.weights, above.own, box.shares)]
            rises = [
                sum(
                    (ops.abs(slope) * length for slope, length in zip(lines[3:], sums)),
                    ops.abs(lines.own) * distances,
                )
                for lines in (upper, lower)
            ]
            return ops.maximum(*rises)

        size = math.prod(box.center.shape[axis] for axis in self.axes)
        nb_roundings = 2 * size + (40 if options.alternatives else 24)
        noise = relative_error(nb_roundings, options.dtype) * along(box.deviation)
        # What is too small for the working type.
        noise += 1e-36 * (1.0 + box.deviation + self._sum(box.deviation))
        values = along(ops.abs(box.step) + box.deviation) + 1.0
        values += self._sum(above.own * (1.0 - box.logarithms))
        highest = self._max(box.center)
        noise += (8 * _rounding(highest) + relative_error(4 * size, "float64")) * values
        return noise + self._network_error(box.reach, options) * box.largest

    def _network_error(self, reach: Any, options: Options) -> Any:
        """Relative error of a share in the network's own arithmetic, `reach` below the largest."""
        size = math.prod(reach.shape[axis] for axis in self.axes)
        return options.network_error(2 * size + 40) + options.network_error(2) * ops.clip(
            reach, 0.0, 110.0
        )

    def _sum(self, values: Any) -> Any:
        return ops.sum(values, axis=self.axes, keepdims=True)

    def _max(self, values: Any) -> Any:
        return ops.max(values, axis=self.axes, keepdims=True)


def _rounding(size: Any) -> Any:
    """Relative error of exp at float64 sums of numbers around this; below -750 it is 0."""
    return relative_error(8, "float64") * (1000.0 + ops.abs(size))
