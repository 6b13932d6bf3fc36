"""Division by the root of the mean square, which normalizations do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from xcertify.bounds.graph.operations import Enclosure, Operation, Options, Relaxed
from xcertify.bounds.rounding import round_down, round_up


class IntervalOnly(Operation):
    """An operation with interval bounds alone: its linear bounds are constants."""

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`."""
        return Relaxed(output.lower, output.upper)

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`: nothing of the input is left."""
        return [None] * len(shapes)

    def has_lines_in(self, number: int) -> bool:
        """See `Operation`."""
        return False

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any]:
        """See `Operation`."""
        return [enclosure.upper > enclosure.lower for enclosure in inputs]


class Standardization(IntervalOnly):
    """``x / sqrt(mean(x ** 2) + epsilon)`` along some axes, batch axis counted."""

    def __init__(self, axes: tuple[int, ...], epsilon: float, nb_entries: int) -> None:
        self.axes, self.epsilon, self.nb_entries = axes, epsilon, nb_entries

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        (x,) = inputs
        return x * ops.rsqrt(ops.mean(x * x, axis=self.axes, keepdims=True) + self.epsilon)

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`.

        The output grows with its own entry and falls in size with the squares of the others, which
        are taken at their ends independently.
        """
        lower, upper = inputs[0].absolute()
        most = ops.maximum(lower * lower, upper * upper)
        least = ops.where(lower * upper > 0, ops.minimum(lower * lower, upper * upper), 0.0)
        error = 1e-13 * ops.sum(most, axis=self.axes, keepdims=True)
        others_most = ops.sum(most, axis=self.axes, keepdims=True) - most + error
        others_least = ops.sum(least, axis=self.axes, keepdims=True) - least - error
        others_least = ops.maximum(others_least, 0.0)

        def output(own: Any, others: Any) -> Any:
            return own * ops.rsqrt((own * own + others) / self.nb_entries + self.epsilon)

        largest = ops.where(upper > 0, output(upper, others_least), output(upper, others_most))
        smallest = ops.where(lower < 0, output(lower, others_least), output(lower, others_most))
        unit = 1e-13 + options.network_error(self.nb_entries + 16)
        unit *= ops.maximum(ops.abs(smallest), ops.abs(largest))
        return Enclosure(
            reference,
            round_down(smallest - unit - reference, options.dtype),
            round_up(largest + unit - reference, options.dtype),
        )


class InverseRoot(IntervalOnly):
    """What a standardization multiplies with: ``1 / sqrt(mean(x ** 2) + epsilon)``, everywhere."""

    def __init__(self, operation: Standardization) -> None:
        self.operation = operation

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        (x,) = inputs
        return self._factor(x * x) * ops.ones_like(x)

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`: it falls with the square of every entry."""
        lower, upper = inputs[0].absolute()
        most = ops.maximum(lower * lower, upper * upper)
        least = ops.where(lower * upper > 0, ops.minimum(lower * lower, upper * upper), 0.0)
        unit = 1e-13 + options.network_error(self.operation.nb_entries + 16)
        smallest = self._factor(most) * (1 - unit) * ops.ones_like(lower)
        largest = self._factor(least) * (1 + unit) * ops.ones_like(lower)
        return Enclosure(
            reference,
            round_down(smallest - reference, options.dtype),
            round_up(largest - reference, options.dtype),
        )

    def _factor(self, squares: Any) -> Any:
        mean = ops.mean(squares, axis=self.operation.axes, keepdims=True)
        return ops.rsqrt(mean + self.operation.epsilon)
