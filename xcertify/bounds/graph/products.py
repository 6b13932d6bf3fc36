"""Products of tensors that may both vary: entry by entry, and as matrices.

In deviations a and b from the references x and y a product is ``x b + y a + a b``, and a b has two
planes of McCormick above it and two below. With the middles and radii of the intervals, ``a = a_m +
r_a s``, ``b = b_m + r_b t`` for s and t in [-1, 1], and any turn u in [-1, 1], the lines are

- above: ``(b_m + u r_b) a + (a_m - u r_a) b``,
- below: ``(b_m - u r_b) a + (a_m - u r_a) b``,

and constants. With 1 and -1 they are planes, with 0 the means of two. All are as far from the
product in the middle, so that which are best depends on the row. Where the sign of the first factor
is known, the second one's slope is the first one's end that is nearest to 0: what is certain of it,
as of the shares of a softmax or of gates. Else the means are taken.

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
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of values that are tried


class Product(Operation):
    """Product of two tensors of one shape, entry by entry. Exact where one factor is fixed."""

    window = Window()

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
        noise = _noise(ops.multiply, inputs, 1, options)
        for slope, enclosure in zip(planes.steepest, inputs):
            # The slope in the working type, its product with a coefficient, a mixture of slopes.
            error = relative_error(12 if options.alternatives else 4, options.dtype)
            noise += error * slope * ops.cast(enclosure.deviation, "float64")

        def turned(turn: Any) -> Relaxed:
            middle, radius = planes.slopes[0], turn * planes.radii[1]
            slopes = (middle - radius, middle + radius, planes.slopes[1] - turn * planes.radii[0])
            slopes = tuple(ops.cast(slope, options.dtype) for slope in slopes)
            return planes.lines(turn, noise)._replace(slopes=slopes)

        lines = turned(planes.turn)
        if not options.alternatives:
            return lines
        return lines._replace(
            alternative=turned(planes.other_turn),
            least=-ops.cast(ops.equal(planes.turn, 0.0), options.dtype),
        )

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`: lower and upper lines share the slope of the second factor."""
        below, above, for_second = relaxed.slopes
        return [largest_terms(coefficients, below, above), coefficients * for_second]

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any]:
        """See `Operation`: where both factors vary."""
        both = ops.logical_and(*(e.upper > e.lower for e in inputs))
        return [both, both]


class Contraction(Operation):
    """Products of matrices that may both vary: ``sum_k x[g, i, k] y[g, j, k]``, (N, G, I, J).

    The planes of the products are summed. Each output has one share of the alternative, for all
    of its products, so that rows need no more memory than outputs.
    """

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

        `common` holds what the lines have in common: slopes of the means, the radii of the second
        factor, turns, and what the share of the alternative, the only slope, adds to them.
        """
        dtype = options.dtype
        planes, noise = self._planes(inputs, options)
        (_, _, nb_rows, nb_terms), nb_columns = (
            inputs[0].reference.shape,
            output.reference.shape[-1],
        )
        noise += _noise(_contracted, inputs, nb_terms, options)
        of_first, of_second = (ops.cast(e.deviation, "float64") for e in inputs)
        for_first, for_second = planes.steepest
        # Roundings of slopes, of sums of coefficient * slope, and of mixtures.
        noise += relative_error(2 * nb_columns + 16, dtype) * _contracted(of_first, for_first)
        noise += relative_error(2 * nb_rows + 16, dtype) * _contracted(for_second, of_second)
        turn, radius = planes.turn, planes.radii[0]
        common = [planes.slopes[0], planes.slopes[1] - turn * radius, planes.spread, turn]
        change = planes.other_turn - turn
        common += [change, change * radius] if options.alternatives else []
        parts = tuple(ops.cast(values, dtype) for values in common)
        lines = planes.lines(turn, noise)._replace(common=parts)
        if not options.alternatives:
            return lines
        share = ops.zeros_like(lines.lower)
        other = planes.lines(planes.other_turn, noise)
        undecided = ops.all(ops.equal(turn, 0.0), axis=-1, keepdims=True)
        return lines._replace(
            slopes=(share,),
            alternative=other._replace(slopes=(share + 1.0,), common=parts),
            least=share - ops.cast(undecided, dtype),
        )

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`: products with the slopes, as matrices."""
        for_first, for_second, radius, turn, *others = (v[:, 0, 0] for v in relaxed.common)
        size = ops.abs(coefficients)

        def by_columns(values: Any, slopes: Any) -> Any:
            return ops.einsum("ntsgij,ngjk->ntsgik", values, slopes)

        def by_rows(values: Any, slopes: Any) -> Any:
            return ops.einsum("ntsgij,ngik->ntsgjk", values, slopes)

        first = by_columns(coefficients, for_first)
        first += turn[:, None, None] * by_columns(size, radius)
        second = by_rows(coefficients, for_second)
        if relaxed.slopes:
            (share,) = relaxed.slopes
            change, changed_radius = others
            first += change[:, None, None] * by_columns(size * share, radius)
            second -= by_rows(coefficients * share, changed_radius)
        return [first, second]

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any]:
        """See `Operation`: what varies and meets something that varies."""
        first, second = (ops.cast(e.upper > e.lower, "float32") for e in inputs)
        meets = [
            ops.max(other, axis=2, keepdims=True) * own
            for own, other in ((first, second), (second, first))
        ]
        return [values > 0 for values in meets]

    def _planes(self, inputs: Sequence[Enclosure], options: Options) -> tuple[Planes, Any]:
        """The lines of the products, and an error beside."""
        return Planes(_contracted, inputs, options), 0.0


class Average(Contraction):
    """Means with moving weights: a `Contraction` whose first factor has rows that sum to 1.

    These are at least 0, as softmax makes them. So any number c may be taken off a row of the
    second factor and added to the result: ``sum_k x[k] y[k] = c + sum_k x[k] (y[k] - c)``, where
    the weights are multiplied with smaller numbers.
    """

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`: the best of some c, each a value that bounds of the factor take.

        For the largest mean, weights are at most theirs where ``y > c`` and at least theirs
        elsewhere; one of the values of y is the best c.
        """
        (least, most), sides = (enclosure.absolute() for enclosure in inputs)
        least = ops.maximum(least, 0.0)
        of_sums = _error_of_sums(least.shape[-1], options)
        found = []
        for sign, side in zip((-1.0, 1.0), sides):
            values = sign * side
            ordered, nb_terms = ops.sort(values, axis=-1), values.shape[-1]
            best: Any = None
            for share in _QUANTILES:
                number = round(share * (nb_terms - 1))
                c = ordered[..., number : number + 1]
                above, below = ops.relu(values - c), ops.relu(c - values)
                c, rise, fall = c[..., 0], _contracted(most, above), _contracted(least, below)
                slack = relative_error(2 * nb_terms + 16, "float64") * (rise + fall)
                slack += options.network_error(nb_terms + 4) * _contracted(most, ops.abs(values))
                slack += of_sums * ops.abs(c)[..., None, :]
                bound = c[..., None, :] + rise - fall + slack
                best = bound if best is None else ops.minimum(best, bound)
            found.append(sign * best)
        plain = super().interval(inputs, reference, options)
        return Enclosure(
            reference,
            ops.maximum(plain.lower, round_down(found[0] - reference, options.dtype)),
            ops.minimum(plain.upper, round_up(found[1] - reference, options.dtype)),
        )

    def _planes(self, inputs: Sequence[Enclosure], options: Options) -> tuple[Planes, Any]:
        """See `Contraction`: the slopes of each row of weights less a mean of them.

        By how far the weights vary; nothing is known of where they do not.
        """
        planes = Planes(_contracted, inputs, options, signs=1.0)
        room = ops.mean(planes.radii[0], axis=2, keepdims=True)
        room = room / ops.maximum(ops.sum(room, axis=-1, keepdims=True), 1e-300)
        means = [
            ops.sum(v * room, axis=-1, keepdims=True) for v in (planes.slopes[0], planes.radii[1])
        ]
        planes.take_off(*means)
        size = ops.abs(means[0]) + means[1]
        nb_terms = inputs[0].reference.shape[-1]
        return planes, _error_of_sums(nb_terms, options) * ops.swapaxes(size, -1, -2)


def _error_of_sums(nb_terms: int, options: Options) -> float:
    """How far the sum of the weights of an `Average` is from 1, in the reference and the network.

    There their sum, by which they are divided, may be rounded at every term; what is wrong of the
    terms themselves is wrong of it, too.
    """
    return 1e-12 + options.network_error(nb_terms + 32)


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
    signs
        Of the entries of the first factor, where that is known beforehand.

    Attributes
    ----------
    slopes
        Of the means, of the first factor (made of the second one) and of the second.
    radii
        Of the factors.
    spread
        What turns add to and take from the slopes of the first factor: the radii of the second.
    steepest
        Absolute slopes are at most these, whatever the turn.
    turn, other_turn
        Turns of the lines and of their alternatives, in the shape of the first factor: from end to
        end where its sign is known, else from the middle to an end.
    """

    def __init__(
        self, bilinear: Any, inputs: Sequence[Enclosure], options: Options, signs: Any = None
    ) -> None:
        first, second = inputs
        sides = [(ops.cast(e.lower, "float64"), ops.cast(e.upper, "float64")) for e in inputs]
        self._middles = [(lower + upper) / 2 for lower, upper in sides]
        self.radii = [(upper - lower) / 2 for lower, upper in sides]
        self._bilinear, self._dtype = bilinear, options.dtype
        self.slopes = (
            second.reference + self._middles[1],
            first.reference + self._middles[0],
        )
        self.steepest = [
            ops.abs(slope) + radius for slope, radius in zip(self.slopes, reversed(self.radii))
        ]
        self.spread = self.radii[1]
        lower, upper = first.absolute()
        known = ops.cast(lower >= 0, "float64") - ops.cast(upper <= 0, "float64")
        self.turn = signs = known if signs is None else ops.ones_like(known) * signs
        self.other_turn = ops.where(ops.equal(signs, 0.0), 1.0, -signs)
        # Lines and their mixtures are rounded, which counts double with shares below 0.
        error = relative_error(32, options.dtype) if options.alternatives else 0.0
        sizes = [ops.cast(e.deviation, "float64") for e in inputs]
        self._rounding: Any = error * bilinear(sizes[0], sizes[1])

    def take_off(self, middle: Any, radius: Any) -> None:
        """Take numbers off the slopes of the first factor, where they make no difference."""
        self.slopes = (self.slopes[0] - middle, self.slopes[1])
        self.spread = self.spread - radius
        self.steepest[0] = self.steepest[0] + ops.abs(middle) + radius

    def lines(self, turn: Any, noise: Any) -> Relaxed:
        """The lines with a turn in the shape of the first factor, without their slopes."""
        (of_first, of_second), (radius, radius_of_second) = self._middles, self.radii
        middle = self._bilinear(of_first, of_second)
        gap = self._bilinear(radius, radius_of_second) + noise + self._rounding
        rise = self._bilinear(turn * radius, of_second)
        turned = self._bilinear(turn * of_first, radius_of_second)
        return Relaxed(
            round_down(rise - middle + turned - gap, self._dtype),
            round_up(rise - middle - turned + gap, self._dtype),
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
