"""The largest of several entries."""

from __future__ import annotations

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
