"""Operations that derivatives are made of: transposed maps, and factors known by their range.

A gradient goes back through an affine operation by the transposed map, and through a nonlinear one
by its product with a factor. Where only the range of the factor is known (a ReLU that may be on or
off), the product is bounded by chords in the gradient, which is the hull of what is possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.graph import relaxations
from xcertify.bounds.graph.maximum import Largest
from xcertify.bounds.graph.operations import (
    Affine,
    Enclosure,
    Operation,
    Options,
    Relaxed,
    largest_terms,
)
from xcertify.bounds.graph.relaxations import Activation
from xcertify.bounds.rounding import relative_error, round_down, round_up


class Transposed(Affine):
    """The transposed linear map of an affine operation, back to one of its inputs.

    Parameters
    ----------
    operation
        The affine operation.
    number
        Which of its inputs.
    shapes
        Shapes of all of them.
    """

    def __init__(self, operation: Affine, number: int, shapes: Sequence[tuple]) -> None:
        self.operation, self.number, self.shapes = operation, number, shapes
        only_moves = operation.nb_terms == 0 and operation.nb_terms_back <= 1
        super().__init__(
            self._transposed,
            weights=operation.weights,
            nb_terms=0 if only_moves else operation.nb_terms_back,
            nb_terms_back=max(operation.nb_terms, 1),
            weight_error=operation.weight_error,
            learned=operation.learned,
        )

    def _transposed(self, gradient: Any, *weights: Any) -> Any:
        if self.operation.transposed is not None:
            pulled = self.operation.transposed(gradient, *weights)
            return pulled[self.number] if isinstance(pulled, list) else pulled

        def forward(*inputs: Any) -> Any:
            return self.operation.apply(*inputs, *weights)

        return backend.transpose(forward, self.shapes, gradient)[self.number]

    def pull_back(
        self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]
    ) -> list[Any | None]:
        """See `Operation`: the operation itself."""
        rows = ops.shape(coefficients)[:3]
        flat = ops.reshape(coefficients, (-1, *coefficients.shape[3:]))
        inputs = [ops.zeros((ops.shape(flat)[0], *shape), flat.dtype) for shape in self.shapes]
        inputs[self.number] = flat
        return [ops.reshape(self.operation.linear(*inputs), (*rows, *shapes[0]))]


class Gate(Operation):
    """``gradient * factor(selector)``, of which only the range of the factor is used.

    For a gradient g in [l, u] and a factor in [a, b] the product is above the chord of
    ``min(a g, b g)`` between l and u, and below that of ``max(a g, b g)``: lines in the gradient,
    which do not depend on the selector.
    """

    def factor(self, selector: Any) -> Any:
        """The factor itself."""
        raise NotImplementedError

    def factors(self, lower: Any, upper: Any) -> tuple[Any, Any]:
        """Its range for selectors between float64 sides."""
        raise NotImplementedError

    def repeated(self, gradient: Any) -> Any:
        """A gradient (N, *shape) in the shape of the factors, each entry `nb_repeats` times."""
        return gradient

    def summed(self, values: Any) -> Any:
        """Values in the shape of the factors summed to that of the gradient: `repeated`, back."""
        return values

    nb_repeats = 1

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        gradient, selector = inputs
        return self.repeated(gradient) * ops.cast(self.factor(selector), gradient.dtype)

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`: the corners of the product."""
        smallest, largest = self._products(*self._ranges(inputs))
        lower, upper = ops.min(smallest, axis=0), ops.max(largest, axis=0)
        slack = self._noise(ops.maximum(ops.abs(lower), ops.abs(upper)), reference, options)
        return Enclosure(
            reference,
            round_down(lower - reference - slack, options.dtype),
            round_up(upper - reference + slack, options.dtype),
        )

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`: any slope is valid with its own intercept, the chord is the tightest."""
        sides, factors = self._ranges(inputs)
        smallest, largest = self._products(sides, factors)
        width = sides[1] - sides[0]
        middle = (factors[0] + factors[1]) / 2
        reference = self.repeated(inputs[0].reference)
        deviation = ops.cast(self.repeated(inputs[0].deviation), "float64")
        size = ops.max(ops.abs(ops.concatenate([smallest, largest])), axis=0)
        slopes, limits = [], []
        for sign, values in ((-1.0, smallest), (1.0, largest)):
            chord = (values[1] - values[0]) / ops.where(width > 0, width, 1.0)
            slope = ops.cast(ops.where(width > 0, chord, middle), options.dtype)
            exact = ops.cast(slope, "float64")
            gap = ops.max(sign * (values - exact * sides), axis=0)
            error = self._noise(size + ops.abs(exact * reference), output.reference, options)
            # Roundings of coefficient * slope and of the sum over repeated entries.
            error += relative_error(self.nb_repeats + 4, options.dtype) * ops.abs(exact) * deviation
            slopes.append(slope)
            limits.append(exact * reference - output.reference + sign * (gap + error))
        below, above = limits
        return Relaxed(
            round_down(below, options.dtype), round_up(above, options.dtype), tuple(slopes)
        )

    def pull_back(
        self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]
    ) -> list[Any | None]:
        """See `Operation`."""
        return [self.summed(largest_terms(coefficients, *relaxed.slopes)), None]

    def has_lines_in(self, number: int) -> bool:
        """See `Operation`."""
        return number == 0

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any | None]:
        """See `Operation`: gradients of either sign with a factor that is not fixed.

        The selector is bounded as well as it can be by the time its network has been bounded.
        """
        sides, factors = self._ranges(inputs)
        either = ops.logical_and(sides[0] < 0, sides[1] > 0)
        unstable = ops.logical_and(either, factors[1] > factors[0])
        return [self.summed(ops.cast(unstable, "int32")) > 0, None]

    def _ranges(self, inputs: Sequence[Enclosure]) -> tuple[Any, tuple[Any, Any]]:
        """Sides of the gradient, (2, N, *shape), and of the factor, (N, *shape) each."""
        gradient, selector = inputs
        sides = ops.stack([self.repeated(side) for side in gradient.absolute()])
        return sides, self.factors(*selector.absolute())

    def _products(self, sides: Any, factors: tuple[Any, Any]) -> tuple[Any, Any]:
        """Smallest and largest product at each side of the gradient, (2, N, *shape) each."""
        low, high = sides * factors[0], sides * factors[1]
        return ops.minimum(low, high), ops.maximum(low, high)

    def _noise(self, size: Any, reference: Any, options: Options) -> Any:
        error = relative_error(8, "float64") + options.network_error(2)
        return error * (size + ops.abs(reference))


class SlopeGate(Gate):
    """Gradient times the slope of an activation."""

    def __init__(self, activation: Activation) -> None:
        self.activation, self.placewise = activation, activation.uniform

    def factor(self, selector: Any) -> Any:
        """See `Gate`: at a kink, the slope of either side."""
        return self.activation.derivative(selector)

    def factors(self, lower: Any, upper: Any) -> tuple[Any, Any]:
        """See `Gate`; constants that the network holds in float32 are covered."""
        facts = self.activation
        shift = facts.constant_error * max((abs(kink) for kink in facts.kinks), default=0.0)
        low, high = relaxations.derivative_range(facts, lower - shift, upper + shift)
        error = facts.constant_error * ops.maximum(ops.abs(low), ops.abs(high))
        return low - error - facts.constant_noise, high + error + facts.constant_noise


class LargestGate(Gate):
    """The gradient of a maximum, (N, *shape), given to the largest entry of (N, *shape, entries).

    Where several are the largest, any share between them is covered.
    """

    def __init__(self, operation: Largest, nb_entries: int) -> None:
        self.operation, self.nb_repeats = operation, nb_entries

    def repeated(self, gradient: Any) -> Any:
        """See `Gate`."""
        return ops.repeat(gradient[..., None], self.nb_repeats, axis=-1)

    def summed(self, values: Any) -> Any:
        """See `Gate`."""
        return ops.sum(values, axis=-1)

    def factor(self, selector: Any) -> Any:
        """See `Gate`: the first of the largest."""
        first = ops.argmax(self.operation.hide(selector), axis=-1)
        return ops.one_hot(first, self.nb_repeats, dtype=selector.dtype)

    def factors(self, lower: Any, upper: Any) -> tuple[Any, Any]:
        """See `Gate`: 1 where no other entry can be larger, 0 where another one must be."""
        lower, upper = self.operation.hide(lower), self.operation.hide(upper)
        surely, possibly = lower > _largest_other(upper), upper >= _largest_other(lower)
        return ops.cast(surely, "float64"), ops.cast(possibly, "float64")


def _largest_other(values: Any) -> Any:
    """For every entry the largest of the others along the last axis."""
    largest = ops.max(values, axis=-1, keepdims=True)
    first = ops.one_hot(ops.argmax(values, axis=-1), values.shape[-1], dtype="int32") > 0
    second = ops.max(ops.where(first, -float("inf"), values), axis=-1, keepdims=True)
    return ops.where(first, second, largest)
