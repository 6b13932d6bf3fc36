"""Softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras import ops

from xcertify.bounds.graph.operations import Enclosure, Operation, Options, Relaxed
from xcertify.bounds.rounding import relative_error, round_down, round_up


class Softmax(Operation):
    """Softmax along some axes (batch axis counted).

    Along a single axis the linear bounds are the mean value theorem: between the reference and any
    point of the box, the derivatives p_i (1 - p_i) and -p_i p_j stay between the values that the
    intervals of p allow. The middles are the slopes, the rest is an error; an entry whose interval
    is narrower than that keeps the interval.
    """

    def __init__(self, axis: int | tuple[int, ...] = -1) -> None:
        self.axis: Any = axis

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        (x,) = inputs
        shares = ops.exp(x - ops.max(x, axis=self.axis, keepdims=True))
        return shares / ops.sum(shares, axis=self.axis, keepdims=True)

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`: ``e^l_i / (e^l_i + sum_(j != i) e^u_j)`` and its mirror, exact."""
        lower, upper = inputs[0].absolute()
        highest = ops.max(upper, axis=self.axis, keepdims=True)
        low, high = ops.exp(lower - highest), ops.exp(upper - highest)
        # What the sum of the others can be, less and more than its rounding errors.
        error = 1e-13 * ops.sum(high, axis=self.axis, keepdims=True)
        others_high = ops.sum(high, axis=self.axis, keepdims=True) - high + error
        others_low = ops.sum(low, axis=self.axis, keepdims=True) - low - error
        smallest = low / (low + others_high)
        largest = ops.minimum(high / (high + ops.maximum(others_low, 0.0)), 1.0)
        unit = 1e-13 + options.network_error(32)
        return Enclosure(
            reference,
            round_down(smallest * (1 - unit) - reference, options.dtype),
            round_up(largest * (1 + unit) - reference, options.dtype),
        )

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`."""
        (enclosure,) = inputs
        if not self.nb_slopes(output.reference.shape[1:], options.largest_matrix):
            return Relaxed(output.lower, output.upper)
        dtype = options.dtype
        lower, upper = (ops.clip(self._last(side), 0.0, 1.0) for side in output.absolute())
        deviation = ops.cast(self._last(enclosure.deviation), "float64")
        own = ops.stack([lower * (1 - lower), upper * (1 - upper)])
        turns = ops.logical_and(lower < 0.5, upper > 0.5)
        least, most = ops.min(own, axis=0), ops.where(turns, 0.25, ops.max(own, axis=0))
        same = ops.eye(lower.shape[-1], dtype="float64")
        smallest = same * least[..., None] - (1 - same) * upper[..., None] * upper[..., None, :]
        largest = same * most[..., None] - (1 - same) * lower[..., None] * lower[..., None, :]
        slopes = ops.cast((smallest + largest) / 2, dtype)
        exact = ops.cast(slopes, "float64")
        room = ops.maximum(largest - exact, exact - smallest) * (1 + 1e-12) + 1e-15
        # Roundings of the sum over all entries of coefficient * slope.
        room += relative_error(lower.shape[-1] + 8, dtype) * ops.abs(exact)
        error = ops.sum(room * deviation[..., None, :], axis=-1) + 1e-13
        error += options.network_error(32) * upper
        low, high = self._last(output.lower), self._last(output.upper)
        flat = 2 * error >= ops.cast(high - low, "float64")
        return Relaxed(
            self._back(ops.where(flat, low, round_down(-error, dtype))),
            self._back(ops.where(flat, high, round_up(error, dtype))),
            (ops.where(flat[..., None], 0.0, slopes),),
        )

    def pull_back(
        self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]
    ) -> list[Any | None]:
        """See `Operation`: the matrix of slopes, transposed."""
        if not relaxed.slopes:
            return [None]
        (slopes,) = relaxed.slopes
        nb_samples, *nb_rows = ops.shape(coefficients)[:3]
        size = slopes.shape[-1]
        axis = self._axis(len(coefficients.shape) - 2) + 2
        moved = ops.moveaxis(coefficients, axis, -1)
        flat = ops.reshape(moved, (nb_samples, nb_rows[0] * nb_rows[1], -1, size))
        matrices = ops.reshape(slopes, (nb_samples, -1, size, size))
        pulled = ops.einsum("nsoi,noij->nsoj", flat, matrices)
        return [ops.moveaxis(ops.reshape(pulled, ops.shape(moved)), -1, axis)]

    def has_lines_in(self, number: int) -> bool:
        """See `Operation`."""
        return isinstance(self.axis, int)

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any]:
        """See `Operation`."""
        return [enclosure.upper > enclosure.lower for enclosure in inputs]

    def nb_slopes(self, shape: tuple[int, ...], largest: int) -> int:
        """See `Operation`: matrices along a single axis, where they are worth their memory."""
        if not isinstance(self.axis, int):
            return 0
        size = math.prod(shape) * shape[self._axis(len(shape) + 1) - 1]
        return size if size <= largest else 0

    def _axis(self, rank: int) -> int:
        return self.axis % rank

    def _last(self, values: Any) -> Any:
        """The axis of the softmax moved to the end, and back."""
        return ops.moveaxis(values, self._axis(len(values.shape)), -1)

    def _back(self, values: Any) -> Any:
        return ops.moveaxis(values, -1, self._axis(len(values.shape)))
