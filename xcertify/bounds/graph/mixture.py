"""Weighted means of two tensors whose weights vary: what a gate keeps, and what it lets in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from xcertify.bounds.graph.operations import (
    Affine,
    Enclosure,
    Operation,
    Options,
    Relaxed,
    Window,
)
from xcertify.bounds.graph.products import corners
from xcertify.bounds.rounding import relative_error, round_down, round_up


class Mixture(Operation):
    """``w x + (1 - w) y``, of w (x - y), y, w and x; entry by entry.

    Its linear bounds are those of the sum of the first two inputs. Its interval is that of the
    formula, in which w stands twice: where w is in [0, 1] it lies between the two tensors, as the
    sum of the intervals does not.
    """

    window = Window()
    placewise = True

    def __init__(self) -> None:
        # What the network itself computes has more roundings, relative to the same sizes.
        self.sum = Affine(
            lambda one, other: one + other,
            nb_inputs=2,
            nb_terms=8,
            nb_terms_back=1,
            window=Window(),
        )

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        return self.sum.evaluate(*inputs[:2])

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`: linear in w, its ends are at those of w."""
        share = inputs[2].absolute()
        others = tuple(1.0 - side for side in reversed(share))
        first, second = inputs[3].absolute(), inputs[1].absolute()
        # With the upper side of w the lower one of 1 - w.
        sums = [
            [
                one + other
                for one, other in zip(corners((w, w), first), corners((rest, rest), second))
            ]
            for w, rest in zip(share, reversed(others))
        ]
        error = relative_error(16, "float64") + options.network_error(8)
        sizes = [ops.maximum(*map(ops.abs, sides)) for sides in (share, others, first, second)]
        slack = error * (sizes[0] * sizes[2] + (1.0 + sizes[1]) * sizes[3] + ops.abs(reference))
        return Enclosure(
            reference,
            round_down(ops.minimum(sums[0][0], sums[1][0]) - reference - slack, options.dtype),
            round_up(ops.maximum(sums[0][1], sums[1][1]) - reference + slack, options.dtype),
        )

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`."""
        return self.sum.relax(inputs[:2], output, options)

    def pull_back(
        self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]
    ) -> list[Any | None]:
        """See `Operation`."""
        return [coefficients, coefficients, None, None]

    def has_lines_in(self, number: int) -> bool:
        """See `Operation`."""
        return number < 2

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any | None]:
        """See `Operation`: none of them, its lines are exact."""
        return [None] * len(inputs)
