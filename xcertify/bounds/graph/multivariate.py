"""Primitive operations that mix entries nonlinearly: maximum, product, softmax, standardization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras import backend, ops

from xcertify.bounds.graph.operations import (
    Enclosure,
    Operation,
    Options,
    Relaxed,
    Window,
    largest_terms,
)
from xcertify.bounds.rounding import relative_error, round_down, round_up

# Stands for entries that cannot be the largest: next to the least number of the type.
_NEVER = {"float16": -6e4, "bfloat16": -3e38, "float32": -3e38, "float64": -1e308}


class Largest(Operation):
    """Maximum over the last axis; `valid` (*shape of the input) marks the entries that count."""

    window = Window()

    def __init__(self, valid: Any = None) -> None:
        self.valid = valid
        self.placewise = valid is None

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        return ops.max(self.hide(inputs[0]), axis=-1)

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`."""
        lower, upper = inputs[0].absolute()
        slack = relative_error(4, "float64") * ops.max(ops.abs(self.hide(lower, 0.0)), axis=-1)
        return Enclosure(
            reference,
            round_down(self.evaluate(lower) - reference - slack, options.dtype),
            round_up(self.evaluate(upper) - reference + slack, options.dtype),
        )

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`.

        Below: the entry with the largest lower bound, floor; of several, as behind ReLU, that with
        the largest upper one. Above: that entry where it dominates all others; else, whichever is
        lower in the middle of the box, the constant max(upper) or ``floor + sum_i chord_i (x_i -
        lower_i)``, the chords of max(x_i - floor, 0) summed.
        """
        (enclosure,) = inputs
        dtype = options.dtype
        lower, upper = (self.hide(side) for side in enclosure.absolute())
        nb_entries = lower.shape[-1]
        floor = ops.max(lower, axis=-1, keepdims=True)
        never = ops.convert_to_tensor(_NEVER["float64"], "float64")
        size = ops.maximum(ops.abs(self.hide(lower, 0.0)), ops.abs(self.hide(upper, 0.0)))
        # what is equal but for roundings is equal: else lines would hang on these
        near = lower >= floor - 2.0**-20 * ops.max(size, axis=-1, keepdims=True)
        best = ops.argmax(ops.where(near, upper, never), axis=-1)
        first = ops.one_hot(best, nb_entries, dtype="float64")
        reach = ops.maximum(upper - floor, 0.0)
        chords = reach / ops.where(reach > 0, upper - lower, 1.0)
        height = floor[..., 0] + ops.sum(chords * (upper - lower) / 2, axis=-1)
        dominated = ops.max(ops.where(first > 0, floor, upper), axis=-1) <= floor[..., 0]
        slopes = ops.where((height < ops.max(upper, axis=-1))[..., None], chords, 0.0)
        slopes = ops.where(dominated[..., None], first, slopes)
        slopes = ops.cast(ops.cast(slopes, dtype), "float64")
        # Proved for the rounded slopes s >= 0: where entry j is the largest, the gap to
        # sum_i s_i x_i is at most (1 - s_j) x_j - sum_(i != j) s_i lower_i, and x_j >= floor.
        own = slopes * lower
        others = ops.sum(own, axis=-1, keepdims=True) - own
        gaps = ops.maximum((1.0 - slopes) * upper, (1.0 - slopes) * lower) - others
        intercept = ops.max(ops.where(upper >= floor, gaps, never), axis=-1)
        reference = self.hide(enclosure.reference, 0.0)
        size = ops.max(ops.abs(self.hide(lower, 0.0)) + ops.abs(self.hide(upper, 0.0)), axis=-1)
        slack = relative_error(4 * nb_entries + 8, "float64") * (
            size * (1.0 + ops.sum(slopes, axis=-1)) + ops.abs(output.reference)
        )
        deviation = ops.cast(self.hide(enclosure.deviation, 0.0), "float64")
        slack += relative_error(4, dtype) * ops.sum((slopes + first) * deviation, axis=-1)
        above = intercept + ops.sum(slopes * reference, axis=-1) - output.reference + slack
        below = ops.sum(first * reference, axis=-1) - output.reference - slack
        return Relaxed(
            round_down(below, dtype),
            round_up(above, dtype),
            (ops.cast(first, dtype), ops.cast(slopes, dtype)),
        )

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`."""
        return [largest_terms(coefficients[..., None], *relaxed.slopes)]

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any]:
        """See `Operation`: entries of windows that no entry dominates, and that could win."""
        lower, upper = (self.hide(side) for side in inputs[0].absolute())
        floor = ops.max(lower, axis=-1, keepdims=True)
        contenders = upper > floor
        several = ops.sum(ops.cast(contenders, "int32"), axis=-1, keepdims=True) > 1
        return [ops.logical_and(contenders, several)]

    def hide(self, values: Any, filler: float | None = None) -> Any:
        """The input with a filler, by default `_NEVER`, where entries do not count."""
        if self.valid is None:
            return values
        if filler is None:
            filler = _NEVER[backend.standardize_dtype(values.dtype)]
        return ops.where(self.valid, values, ops.convert_to_tensor(filler, values.dtype))


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
