"""The logarithm of a sum of exponentials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from xcertify.bounds.graph.operations import (
    Enclosure,
    Operation,
    Options,
    Relaxed,
    Window,
    largest_terms,
    or_constant,
)
from xcertify.bounds.rounding import relative_error, round_down, round_up


class LogSumExp(Operation):
    """``log(sum(exp(x)))`` over the last axis, a convex function that grows with every entry.

    The line below is the tangent in the middle of the box. Above, each exponential is below its
    chord, and the logarithm of their sum below its tangent at what the sum is in the middle.
    """

    window = Window()
    placewise = True

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        return ops.logsumexp(inputs[0], axis=-1)

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`."""
        lower, upper = inputs[0].absolute()
        slack = self._noise(inputs[0], options)
        return Enclosure(
            reference,
            round_down(self.evaluate(lower) - reference - slack, options.dtype),
            round_up(self.evaluate(upper) - reference + slack, options.dtype),
        )

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`."""
        (enclosure,) = inputs
        lower, upper = enclosure.absolute()
        middle, width = (lower + upper) / 2, upper - lower
        tangent = ops.softmax(middle, axis=-1)
        highest = ops.max(upper, axis=-1, keepdims=True)
        least = ops.exp(lower - highest)
        varies = width > 0
        rise = ops.where(varies, ops.expm1(width) / ops.where(varies, width, 1.0), 1.0)
        chords = least * rise
        total = ops.sum(least + chords * (width / 2), axis=-1, keepdims=True)
        chords = chords / total
        # log t <= log t0 + (t - t0) / t0
        above = (ops.log(total) + highest)[..., 0]
        noise = self._noise(enclosure, options)
        sides, slopes = [], []
        for sign, slope, value in ((-1, tangent, self.evaluate(middle)), (1, chords, above)):
            rounded = ops.cast(slope, options.dtype)
            # The slope in the working type, and sums of its products with coefficients.
            error = ops.abs(slope - ops.cast(rounded, "float64"))
            error += relative_error(8, options.dtype) * slope
            error = ops.sum(error * ops.cast(enclosure.deviation, "float64"), axis=-1)
            at_reference = value + ops.sum(slope * (enclosure.reference - middle), axis=-1)
            sides.append(at_reference - output.reference + sign * (error + noise))
            slopes.append(rounded)
        lines = Relaxed(
            round_down(sides[0], options.dtype), round_up(sides[1], options.dtype), tuple(slopes)
        )
        return or_constant(lines, output)

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`."""
        return [largest_terms(coefficients[..., None], *relaxed.slopes)]

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any]:
        """See `Operation`."""
        return [inputs[0].upper > inputs[0].lower]

    def _noise(self, enclosure: Enclosure, options: Options) -> Any:
        """Errors in float64, and if asked for of the network's own arithmetic."""
        lower, upper = enclosure.absolute()
        size = 1.0 + ops.max(ops.maximum(ops.abs(lower), ops.abs(upper)), axis=-1)
        nb_roundings = lower.shape[-1] + 32
        return (
            relative_error(nb_roundings, "float64") + options.network_error(nb_roundings)
        ) * size
