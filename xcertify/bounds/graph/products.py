"""Products of tensors that may both vary: entry by entry, and as matrices.

In deviations a and b from the references x and y a product is ``x b + y a + a b``, and a b has two
planes of McCormick above it and two below. With the middles and radii of the intervals, ``a = a_m +
r_a s``, ``b = b_m + r_b t`` for s and t in [-1, 1], their means are ``a_m b + b_m a - a_m b_m``
plus and minus ``r_a r_b``. To these every share of ``r_b a - r_a b`` (above) and of ``r_b a +
r_a b`` (below), both less what they are in the middle, may be added, from -1 to 1: with 1 and -1
they are the planes themselves. All have the same distance from the product in the middle; which is
the best depends on the row, so that the means are the lines, and one plane is the alternative.

Source: McCormick, Computability of global solutions to factorable nonconvex programs, 1976.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.graph.operations import (
    Enclosure,
    Operation,
    Options,
    Relaxed,
    Window,
    largest_terms,
)
from xcertify.bounds.rounding import relative_error, round_down, round_up

_LARGEST_PART = 2**17  # products of one sample that are held at once


class Product(Operation):
    """Product of two tensors of one shape, entry by entry. Exact where one factor is fixed."""

    window = Window()
    least_share = -1.0

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        return inputs[0] * inputs[1]

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`."""
        lower, upper = corners(*(enclosure.absolute() for enclosure in inputs))
        slack = _noise(ops.multiply, inputs, 1, options)
        return Enclosure(
            reference,
            round_down(lower - reference - slack, options.dtype),
            round_up(upper - reference + slack, options.dtype),
        )

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`."""
        planes = Planes(ops.multiply, inputs, options)
        for_first, for_second = (ops.cast(middle, options.dtype) for middle in planes.slopes)
        noise = _noise(ops.multiply, inputs, 1, options)
        for slope, enclosure in zip(planes.steepest, inputs):
            # The slope in the working type, its product with a coefficient, a mixture of slopes.
            error = relative_error(12 if options.alternatives else 4, options.dtype)
            noise += error * slope * ops.cast(enclosure.deviation, "float64")
        mean = planes.mean(noise, (for_first, for_second))
        if not options.alternatives:
            return mean
        steeper, steeper_second = (ops.cast(radius, options.dtype) for radius in planes.turns)
        turned = (
            for_first + steeper,
            for_second + steeper_second,
            for_second - steeper_second,
        )
        first = mean._replace(slopes=(for_first, for_second, for_second))
        return first._replace(alternative=planes.turned(noise, turned))

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`: lower and upper planes share the slope of the first factor."""
        for_first, *for_second = relaxed.slopes
        if len(for_second) == 1:
            return [coefficients * for_first, coefficients * for_second[0]]
        return [coefficients * for_first, largest_terms(coefficients, *for_second)]

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any]:
        """See `Operation`: where both factors vary."""
        both = ops.logical_and(*(e.upper > e.lower for e in inputs))
        return [both, both]


class Contraction(Operation):
    """Products of matrices that may both vary: ``sum_k x[g, i, k] y[g, j, k]``, (N, G, I, J).

    The planes of the products are summed. Each output has one share of the alternative, for all
    of its products, so that rows need no more memory than outputs.
    """

    least_share = -1.0
    refinable = True

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        return _contracted(*inputs)

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`: the sum of the intervals of the products."""
        sides = [enclosure.absolute() for enclosure in inputs]
        nb_terms = sides[0][0].shape[-1]

        def body(first: Any, last: Any, *sums: Any) -> list[Any]:
            x, y = ([side[:, :, :, first:last] for side in pair] for pair in sides)
            products = corners(
                tuple(side[:, :, :, None] for side in x), tuple(side[:, :, None] for side in y)
            )
            return [old + ops.sum(new, axis=-1) for old, new in zip(sums, products)]

        nothing = ops.zeros_like(reference)
        at_once = max(1, _LARGEST_PART // max(1, _size(reference)))
        if at_once >= nb_terms:
            lower, upper = body(0, nb_terms, nothing, nothing)
        else:
            lower, upper = backend.loop_over_chunks(body, nb_terms, at_once, [nothing, nothing])
        slack = _noise(_contracted, inputs, nb_terms, options)
        return Enclosure(
            reference,
            round_down(lower - reference - slack, options.dtype),
            round_up(upper - reference + slack, options.dtype),
        )

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`.

        `common` holds what the planes have in common: the slopes of the means and, for the
        alternative, what its share is multiplied with; the share itself is the slope.
        """
        planes = Planes(_contracted, inputs, options)
        (_, _, nb_rows, nb_terms), nb_columns = (
            inputs[0].reference.shape,
            output.reference.shape[-1],
        )
        noise = _noise(_contracted, inputs, nb_terms, options)
        of_first, of_second = (ops.cast(e.deviation, "float64") for e in inputs)
        slopes = planes.steepest
        # Roundings of slopes, of sums of coefficient * slope, and of mixtures.
        noise += relative_error(nb_columns + 16, options.dtype) * _contracted(of_first, slopes[0])
        noise += relative_error(nb_rows + 16, options.dtype) * _contracted(slopes[1], of_second)
        common = tuple(ops.cast(slope, options.dtype) for slope in planes.slopes)
        mean = planes.mean(noise)._replace(common=common)
        if not options.alternatives:
            return mean
        common += tuple(ops.cast(turn, options.dtype) for turn in planes.turns)
        share = ops.zeros_like(mean.lower)
        turned = planes.turned(noise, (share + 1.0,))._replace(common=common)
        return mean._replace(slopes=(share,), common=common, alternative=turned)

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`: products with the slopes, as matrices."""
        for_first, for_second, *turns = (values[:, 0, 0] for values in relaxed.common)
        by_columns, by_rows = "ntsgij,ngjk->ntsgik", "ntsgij,ngik->ntsgjk"
        pulled = [
            ops.einsum(by_columns, coefficients, for_first),
            ops.einsum(by_rows, coefficients, for_second),
        ]
        if relaxed.slopes:
            (share,) = relaxed.slopes
            pulled[0] += ops.einsum(by_columns, coefficients * share, turns[0])
            pulled[1] -= ops.einsum(by_rows, ops.abs(coefficients) * share, turns[1])
        return pulled

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any]:
        """See `Operation`: what varies and meets something that varies."""
        first, second = (ops.cast(e.upper > e.lower, "float32") for e in inputs)
        meets = [
            ops.max(other, axis=2, keepdims=True) * own
            for own, other in ((first, second), (second, first))
        ]
        return [values > 0 for values in meets]


class Planes:
    """Lines of products that are summed by a bilinear function of two tensors, in deviations.

    Parameters
    ----------
    bilinear
        Of float64 tensors; with factors at least 0 it grows with both.
    inputs
        The factors.
    options
        Arithmetic of the bounds.

    Attributes
    ----------
    slopes
        Of the means, of the first factor (made of the second one) and of the second.
    turns
        What a share of 1 adds to these: to the first; to the second below, and takes from it above.
    steepest
        Absolute slopes are at most these, whatever the share.
    """

    def __init__(self, bilinear: Any, inputs: Sequence[Enclosure], options: Options) -> None:
        first, second = inputs
        sides = [(ops.cast(e.lower, "float64"), ops.cast(e.upper, "float64")) for e in inputs]
        self._middles = [(lower + upper) / 2 for lower, upper in sides]
        self.turns = [(upper - lower) / 2 for lower, upper in reversed(sides)]
        self._bilinear, self._dtype = bilinear, options.dtype
        self.slopes = (
            second.reference + self._middles[1],
            first.reference + self._middles[0],
        )
        sizes = (ops.cast(e.deviation, "float64") for e in inputs)
        # Lines and their mixtures are rounded, which counts double with shares below 0.
        error = relative_error(32, options.dtype) if options.alternatives else 0.0
        self._rounding = error * bilinear(*sizes)
        self.steepest = [
            ops.abs(slope) + (turn if options.alternatives else 0.0)
            for slope, turn in zip(self.slopes, self.turns)
        ]

    def mean(self, noise: Any, slopes: tuple = ()) -> Relaxed:
        """The means of both planes on each side."""
        noise = noise + self._rounding
        of_first, of_second = self._middles
        middle = self._bilinear(of_first, of_second)
        gap = self._bilinear(self.turns[1], self.turns[0])
        return Relaxed(
            round_down(-middle - gap - noise, self._dtype),
            round_up(-middle + gap + noise, self._dtype),
            slopes,
        )

    def turned(self, noise: Any, slopes: tuple) -> Relaxed:
        """The planes with a share of 1."""
        noise = noise + self._rounding
        (of_first, of_second), (radius, own_radius) = self._middles, self.turns
        highest = self._bilinear(own_radius - of_first, radius + of_second)
        lowest = self._bilinear(own_radius + of_first, radius + of_second)
        return Relaxed(
            round_down(-lowest - noise, self._dtype),
            round_up(highest + noise, self._dtype),
            slopes,
        )


def corners(first: tuple[Any, Any], second: tuple[Any, Any]) -> tuple[Any, Any]:
    """Least and largest product of numbers between float64 sides."""
    products = [one * other for one in first for other in second]
    low = ops.minimum(ops.minimum(*products[:2]), ops.minimum(*products[2:]))
    high = ops.maximum(ops.maximum(*products[:2]), ops.maximum(*products[2:]))
    return low, high


def _contracted(first: Any, second: Any) -> Any:
    """``sum_k x[g, i, k] y[g, j, k]``."""
    return ops.matmul(first, ops.swapaxes(second, -1, -2))


def _noise(bilinear: Any, inputs: Sequence[Enclosure], nb_terms: int, options: Options) -> Any:
    """Errors in float64, and if asked for of the network's own arithmetic."""
    sizes = [ops.abs(e.reference) + ops.cast(e.deviation, "float64") for e in inputs]
    error = relative_error(2 * nb_terms + 16, "float64") + options.network_error(nb_terms)
    return error * bilinear(*sizes)


def _size(values: Any) -> int:
    """Entries of one sample."""
    size = 1
    for length in values.shape[1:]:
        size *= length
    return size
