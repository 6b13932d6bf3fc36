"""Products of a gate and of what it lets through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from xcertify.bounds.graph.operations import Enclosure, Options, Relaxed, largest_terms
from xcertify.bounds.graph.products import Product
from xcertify.bounds.rounding import relative_error, round_down, round_up


class Gated(Product):
    """A gate, mostly in [0, 1], times a tensor that many steps have made.

    Of x y, with middles and radii, the planes of McCormick and what lies between them are

    ``(y_m - t r_y) x + q y`` below and ``(y_m + t r_y) x + q y`` above, ``q = x_m - t r_x``,

    and constants, for t in [-1, 1]. Over the box alone many t are equally good. Here t makes the
    slope q of the second factor as small as it can be, since its lines, those of all steps before,
    have lost more than those of the gate. The alternative is the same with -t.
    """

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`."""
        gate, other = inputs
        (gate_middle, gate_radius), (other_middle, other_radius) = (
            _middle_and_radius(enclosure) for enclosure in inputs
        )
        x, y = gate.reference + gate_middle, other.reference + other_middle
        turn = x / ops.where(gate_radius > 0, gate_radius, 1.0)
        turn = ops.where(gate_radius > 0, ops.clip(turn, -1.0, 1.0), 0.0)
        gap = gate_radius * other_radius

        def lines(turn: Any) -> Relaxed:
            tilt, second = turn * other_radius, x - turn * gate_radius
            common = turn * gate_radius * other_middle - gate_middle * other_middle
            moved = gap - tilt * gate_middle
            return Relaxed(
                round_down(common - moved - noise, options.dtype),
                round_up(common + moved + noise, options.dtype),
                tuple(ops.cast(s, options.dtype) for s in (y - tilt, y + tilt, second)),
            )

        deviations = [ops.cast(enclosure.deviation, "float64") for enclosure in inputs]
        sizes = [ops.abs(e.reference) + d for e, d in zip(inputs, deviations)]
        noise = (relative_error(32, "float64") + options.network_error(1)) * sizes[0] * sizes[1]
        # Slopes in the working type, their products with coefficients, mixtures of both lines.
        steepest = (ops.abs(y) + other_radius, ops.abs(x) + gate_radius)
        error = relative_error(16 if options.alternatives else 4, options.dtype)
        for slope, deviation in zip(steepest, deviations):
            noise += error * slope * deviation
        if options.alternatives:
            noise += relative_error(32, options.dtype) * deviations[0] * deviations[1]
        first = lines(turn)
        return first._replace(alternative=lines(-turn)) if options.alternatives else first

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`."""
        below, above, second = relaxed.slopes
        return [largest_terms(coefficients, below, above), coefficients * second]


def _middle_and_radius(enclosure: Enclosure) -> tuple[Any, Any]:
    lower, upper = (ops.cast(side, "float64") for side in enclosure[1:])
    return (lower + upper) / 2, (upper - lower) / 2
