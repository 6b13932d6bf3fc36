"""Products of tensors that both vary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from xcertify.bounds.graph.operations import Enclosure, Operation, Options, Relaxed, Window
from xcertify.bounds.rounding import relative_error, round_down, round_up


class Product(Operation):
    """Product of two tensors of one shape, entry by entry; both may be perturbed.

    In deviations a and b from the references it is ``x b + y a + a b``, and a b is bounded by the
    mean of McCormick's two planes on each side. Exact where one factor is fixed.
    """

    window = Window()

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        return inputs[0] * inputs[1]

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`."""
        (a, b), (c, d) = (enclosure.absolute() for enclosure in inputs)
        corners = ops.stack([a * c, a * d, b * c, b * d])
        slack = self._noise(inputs, options)
        return Enclosure(
            reference,
            round_down(ops.min(corners, axis=0) - reference - slack, options.dtype),
            round_up(ops.max(corners, axis=0) - reference + slack, options.dtype),
        )

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`."""
        dtype = options.dtype
        first, second = inputs
        (la, ua), (lb, ub) = (
            (ops.cast(e.lower, "float64"), ops.cast(e.upper, "float64")) for e in inputs
        )
        slopes = (
            ops.cast(second.reference + (lb + ub) / 2, dtype),
            ops.cast(first.reference + (la + ua) / 2, dtype),
        )
        noise = self._noise(inputs, options)
        for slope, enclosure in zip(slopes, inputs):
            # The slope in the working type, and its product with a coefficient.
            error = relative_error(4, dtype) * ops.abs(slope) * enclosure.deviation
            noise += ops.cast(error, "float64")
        return Relaxed(
            round_down(-(ua * ub + la * lb) / 2 - noise, dtype),
            round_up(-(ua * lb + la * ub) / 2 + noise, dtype),
            slopes,
        )

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`: the two planes of each side share their slopes."""
        return [coefficients * slope for slope in relaxed.slopes]

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any]:
        """See `Operation`: where both factors vary."""
        both = ops.logical_and(*(e.upper > e.lower for e in inputs))
        return [both, both]

    def _noise(self, inputs: Sequence[Enclosure], options: Options) -> Any:
        sizes = [ops.maximum(*(ops.abs(side) for side in e.absolute())) for e in inputs]
        return (relative_error(8, "float64") + options.network_error(1)) * sizes[0] * sizes[1]
