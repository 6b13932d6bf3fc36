"""Division by the root of the mean square, which normalizations do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from xcertify.bounds.graph.operations import (
    Enclosure,
    Operation,
    Options,
    Relaxed,
    or_constant,
)
from xcertify.bounds.graph.products import Product
from xcertify.bounds.rounding import as_lower, as_upper, round_down, round_up


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


class Standardized(Product):
    """``x * rsqrt(max(sum(x ** 2) * share, least) + epsilon)``, as the product with that factor.

    Its interval is the smaller of that of the product and of that of the function of x. Where
    McCormick's planes are farther apart than that, the lines are constants.

    Parameters
    ----------
    axes
        Of the sum, batch axis counted.
    share, least, epsilon
        Of the formula.
    nb_entries
        How many are summed.
    """

    def __init__(
        self, axes: tuple[int, ...], share: float, least: float, epsilon: float, nb_entries: int
    ) -> None:
        self.axes, self.share, self.least, self.epsilon = axes, share, least, epsilon
        self.nb_entries = nb_entries

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`.

        The output grows with its own entry and falls in size with the squares of the others, which
        are taken at their ends independently.
        """
        product = super().interval(inputs, reference, options)
        lower, upper = inputs[0].absolute()
        most = ops.maximum(lower * lower, upper * upper)
        least = ops.where(lower * upper > 0, ops.minimum(lower * lower, upper * upper), 0.0)
        error = 1e-13 * ops.sum(most, axis=self.axes, keepdims=True)
        others_most = ops.sum(most, axis=self.axes, keepdims=True) - most + error
        others_least = ops.sum(least, axis=self.axes, keepdims=True) - least - error
        others_least = ops.maximum(others_least, 0.0)

        def output(own: Any, others: Any) -> Any:
            size = ops.maximum((own * own + others) * self.share, self.least) + self.epsilon
            return ops.where(ops.equal(own, 0.0), 0.0, own * ops.rsqrt(size))

        largest = ops.where(upper > 0, output(upper, others_least), output(upper, others_most))
        smallest = ops.where(lower < 0, output(lower, others_least), output(lower, others_most))
        unit = 1e-13 + options.network_error(self.nb_entries + 16)
        unit *= ops.maximum(ops.abs(smallest), ops.abs(largest))
        own = round_down(smallest - unit - reference, options.dtype)
        return Enclosure(
            reference,
            ops.maximum(as_lower(product.lower), own),
            ops.minimum(
                as_upper(product.upper),
                round_up(largest + unit - reference, options.dtype),
            ),
        )

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`."""
        planes = super().relax(inputs, output, options)
        other = planes.alternative and or_constant(planes.alternative, output)
        return or_constant(planes, output)._replace(alternative=other, least=None)
