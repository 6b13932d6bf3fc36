"""Masks: tensors of entries that are 0 or 1, how they are found, and what they hide.

A mask of an input that varies may be uncertain at some entries: there it is enclosed by [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from xcertify.bounds.graph.standardization import IntervalOnly
from xcertify.bounds.rounding import relative_error, round_down, round_up

HIDDEN = -1e9  # the score, before a softmax, of what is masked

# For each comparison with a number: what is true of all values of an interval, and of none.
_ALL: dict[str, Callable[[Any, Any, float], Any]] = {
    "!=": lambda lower, upper, number: ops.logical_or(lower > number, upper < number),
    ">": lambda lower, upper, number: lower > number,
    ">=": lambda lower, upper, number: lower >= number,
}
_NONE: dict[str, Callable[[Any, Any, float], Any]] = {
    "!=": lambda lower, upper, number: ops.logical_and(lower == number, upper == number),
    ">": lambda lower, upper, number: upper <= number,
    ">=": lambda lower, upper, number: upper < number,
}


class Indicator(IntervalOnly):
    """1 where a comparison with a number is true, else 0, entry by entry.

    Parameters
    ----------
    comparison
        "!=", ">" or ">=".
    number
        That entries are compared with.
    """

    window = Window()
    placewise = True

    def __init__(self, comparison: str, number: float = 0.0) -> None:
        self.comparison, self.number = comparison, number

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        (x,) = inputs
        return ops.cast(_ALL[self.comparison](x, x, self.number), x.dtype)

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`."""
        lower, upper = inputs[0].absolute()
        least = _ALL[self.comparison](lower, upper, self.number)
        most = ops.logical_not(_NONE[self.comparison](lower, upper, self.number))
        return Enclosure(
            reference,
            ops.cast(ops.cast(least, "float64") - reference, options.dtype),
            ops.cast(ops.cast(most, "float64") - reference, options.dtype),
        )


class Masked(Operation):
    """The first input where the second, a mask of the same shape, is 1; elsewhere something else.

    Exact where it is known what the mask is; elsewhere an interval.

    Parameters
    ----------
    filler
        The value elsewhere. One below 0 stands for what is lower than all other entries: nothing is
        said of entries that may be half as low.
    shifts
        Whether the filler is added to the first input there, instead of taking its place. The sum
        may have the roundings of float32, whatever the network's arithmetic: they are so large
        that nothing may be left of the first input.
    """

    window = Window()
    placewise = True

    def __init__(self, filler: float = 0.0, shifts: bool = False) -> None:
        self.filler, self.shifts = filler, shifts

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        x, mask = inputs
        filler = ops.convert_to_tensor(self.filler, x.dtype)
        return ops.where(mask > 0.5, x, x + filler if self.shifts else filler)

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`."""
        sides = self._sides(inputs, options)
        shown, hidden = self._known(inputs)
        lower, upper = (ops.cast(side, "float64") for side in inputs[0][1:])
        least = round_down(ops.minimum(*(low for low, _ in sides)) - reference, options.dtype)
        most = round_up(ops.maximum(*(high for _, high in sides)) - reference, options.dtype)
        noise = self._noise(inputs[0], options)
        found = []
        for own, side, sign in ((lower, least, -1.0), (upper, most, 1.0)):
            moved = own + sign * noise if self.shifts else ops.zeros_like(own)
            known = ops.where(shown, own, moved)
            known = round_down(known, options.dtype) if sign < 0 else round_up(known, options.dtype)
            found.append(ops.where(ops.logical_or(shown, hidden), known, side))
        return Enclosure(reference, *found)

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`."""
        shown, hidden = self._known(inputs)
        known = ops.logical_or(shown, hidden)
        follows = known if self.shifts else shown
        noise = self._noise(inputs[0], options) * ops.cast(hidden, "float64")
        return Relaxed(
            ops.where(known, round_down(-noise, options.dtype), output.lower),
            ops.where(known, round_up(noise, options.dtype), output.upper),
            (ops.cast(follows, options.dtype),),
        )

    def pull_back(
        self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]
    ) -> list[Any | None]:
        """See `Operation`."""
        return [coefficients * relaxed.slopes[0], None]

    def has_lines_in(self, number: int) -> bool:
        """See `Operation`: the mask is known, or nothing is."""
        return number == 0

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any | None]:
        """See `Operation`: where the mask is not known."""
        shown, hidden = self._known(inputs)
        open_ = ops.logical_not(ops.logical_or(shown, hidden))
        return [open_, open_]

    def _known(self, inputs: Sequence[Enclosure]) -> tuple[Any, Any]:
        """Entries where the mask is 1 for certain, as at the reference, and where it is 0.

        A mask may have roundings.
        """
        mask = inputs[1]
        lower, upper = mask.absolute()
        shown = ops.logical_and(lower > 0.5, mask.reference > 0.5)
        hidden = ops.logical_and(upper < 0.5, mask.reference < 0.5)
        return ops.logical_and(shown, ops.logical_not(self._too_low(inputs[0]))), hidden

    def _too_low(self, enclosure: Enclosure) -> Any:
        lower, _ = enclosure.absolute()
        if self.shifts or self.filler >= 0:
            return ops.zeros_like(lower, "bool")
        return lower < self.filler / 2

    def _sides(self, inputs: Sequence[Enclosure], options: Options) -> list[tuple[Any, Any]]:
        """The interval where the mask is 1, and that where it is 0; float64."""
        lower, upper = inputs[0].absolute()
        if self.shifts:
            noise = self._noise(inputs[0], options)
            return [(lower, upper), (lower + self.filler - noise, upper + self.filler + noise)]
        too_low = self._too_low(inputs[0])
        filler = ops.zeros_like(lower) + self.filler
        return [
            (ops.where(too_low, -float("inf"), lower), ops.where(too_low, float("inf"), upper)),
            (filler, filler),
        ]

    def _noise(self, enclosure: Enclosure, options: Options) -> Any:
        """Roundings of the sum with the filler; float64."""
        size = ops.cast(enclosure.deviation, "float64") + ops.abs(enclosure.reference)
        if not self.shifts:
            return ops.zeros_like(size)
        error = relative_error(4, "float32") + options.network_error(1)
        return error * (size + abs(self.filler))


class Shown(Affine):
    """The first input as it is, which is 0 where the second, a mask of the same shape, is 0.

    A product with the mask in the network: what is hidden has no gradient.
    """

    def __init__(self) -> None:
        super().__init__(lambda x, mask: x, nb_inputs=2, window=Window())

    def pull_back(
        self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]
    ) -> list[Any | None]:
        """See `Operation`."""
        return [coefficients, None]

    def has_lines_in(self, number: int) -> bool:
        """See `Operation`."""
        return number == 0
