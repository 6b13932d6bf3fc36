"""Elementwise nonlinearities: one specification each, one way to bound them all.

An `Activation` states facts about a scalar function: where its slope jumps (kinks), where its slope
turns (inflections), where it turns itself (extrema), and how fast its slope can change (curvature).
From these facts alone this file derives

- the interval image,
- a line above and a line below, valid on a whole interval (CROWN's relaxation for ReLU, its
  counterpart for everything else),
- the range of the derivative.

A line is found in two steps. Its slope is a heuristic and cannot make a bound wrong; its intercept
is the proved extremum of ``value(z) - slope * z``, which lies at an end of the interval, at a kink,
or where the derivative equals the slope. That last point is bracketed by bisection, and the
curvature bounds what the bracket can hide.

All of it runs in float64 on (N, *shape) tensors; nothing here depends on the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from xcertify.bounds import backend

Scalar = Callable[[Any], Any]

_BISECTIONS = 26
_GRID = 12
_SLACK = 64 * 2.0**-53  # covers float64 evaluation, transcendental functions within 16 ulp


@dataclass(frozen=True)
class Activation:
    """Facts about a scalar function, from which sound bounds follow.

    Parameters
    ----------
    name
        As it appears in messages and in the layer table.
    value, derivative
        The function and its derivative, elementwise on float64 tensors. At a kink the derivative
        may return either side.
    kinks
        Points where the derivative jumps, ascending.
    inflections
        Points between which (and between kinks) the derivative is monotone, ascending.
    extrema
        Points where the function itself turns, so that an interval image may be attained there.
        A point off by d costs nothing above ``curvature * d**2 / 2``, which is added.
    curvature
        Bound of the absolute second derivative between kinks; 0 for piecewise linear functions. A
        callable gives it for the interval up to `upper`, where there is no bound for all. Infinite
        where there is none: then extrema have to be exact.
    ulps
        Rounding errors of the network's own float32 evaluation of the function, in units of
        ``2**-24 * |value|``.
    absolute_ulps
        The same in units of ``2**-24``, where the value is a difference of larger numbers.
    constant_error
        Relative error of the value that comes from constants which the network may hold in float32.
    constant_noise
        The same as an absolute error.
    continuous
        Whether the function has no jumps. A jump at k is stated as two kinks, k and the next
        number; its derivative is not bounded.
    uniform
        Whether it is the same function for every entry; False where it has parameters of the shape
        of the entries.
    slope
        The same facts about the derivative, if it is continuous: linear bounds of it make bounds of
        gradients tighter. None: its range is taken.
    undefined
        From the first to the second of these numbers, both included, the function has no finite
        value. Of an interval that holds one of them nothing is proved: its sides are NaN, which
        become infinite.
    period
        Length after which the function repeats, if it does: the other facts are for intervals that
        begin in ``[-period / 2, period / 2]``. Its slope is at most 1.
    least
        A number at least 0 that no value is below, in the network's own arithmetic either.

    Examples
    --------
    >>> square = Activation("square", lambda z: z * z, lambda z: 2 * z, extrema=(0.0,), curvature=2)
    """

    name: str
    value: Scalar
    derivative: Scalar
    kinks: tuple[float, ...] = ()
    inflections: tuple[float, ...] = ()
    extrema: tuple[float, ...] = ()
    curvature: float | Scalar = 0.0
    ulps: float = 16.0
    absolute_ulps: float = 0.0
    constant_error: float = 0.0
    constant_noise: float = 0.0
    continuous: bool = True
    uniform: bool = True
    slope: Activation | None = None
    undefined: tuple[float, float] | None = None
    period: float = 0.0
    least: float = -math.inf

    @property
    def piecewise_linear(self) -> bool:
        """Whether the function consists of straight pieces."""
        return self.curvature == 0.0

    @property
    def stands_alone(self) -> bool:
        """Whether its functions surely read nothing but their argument."""
        functions = [self.value, self.derivative]
        functions += [self.curvature] if callable(self.curvature) else []
        modules = [(getattr(f, "__module__", None) or "").split(".")[0] for f in functions]
        is_free = all(getattr(f, "__closure__", f) is None for f in functions)
        return self.uniform and is_free and {"keras", "xcertify"}.issuperset(modules)

    def curvature_up_to(self, upper: Any) -> Any:
        """Bound of the absolute second derivative on intervals that end at `upper`."""
        return self.curvature(upper) if callable(self.curvature) else self.curvature


class Relaxation(NamedTuple):
    """``lower_slope * z + lower_intercept <= f(z) <= upper_slope * z + upper_intercept``."""

    lower_slope: Any
    lower_intercept: Any
    upper_slope: Any
    upper_intercept: Any


def image(activation: Activation, lower: Any, upper: Any) -> tuple[Any, Any]:
    """Smallest and largest value on [lower, upper], proved; float64, elementwise.

    NaN where the function is not defined on all of it.
    """
    reach = ops.maximum(ops.abs(lower), ops.abs(upper))
    lower, upper, _ = _folded(activation, *_defined(activation, lower, upper))
    points = [lower, upper]
    points += [_into(point, lower, upper) for point in (*activation.kinks, *activation.extrema)]
    values = [activation.value(point) for point in points]
    smallest, largest = reduce(ops.minimum, values), reduce(ops.maximum, values)
    # An extremum is given in decimals, right to 1e-9.
    slack: Any = 0.0
    if activation.extrema and activation.curvature != math.inf:
        slack = 0.5e-18 * activation.curvature_up_to(upper)
    if not activation.piecewise_linear or activation.ulps > 0:
        size = ops.maximum(ops.abs(smallest), ops.abs(largest))
        if not activation.piecewise_linear:
            size += reach
        slack += _SLACK * size
    return smallest - slack, largest + slack


def derivative_range(activation: Activation, lower: Any, upper: Any) -> tuple[Any, Any]:
    """Smallest and largest slope on [lower, upper], both sides of every kink included.

    Raises
    ------
    ValueError
        For a function with jumps.
    """
    if not activation.continuous:
        raise ValueError(f"the derivative of {activation.name} is not bounded: it jumps")
    reach = ops.maximum(ops.abs(lower), ops.abs(upper))
    lower, upper, _ = _folded(activation, *_defined(activation, lower, upper))
    slopes = [activation.derivative(lower), activation.derivative(upper)]
    slopes += [activation.derivative(_into(p, lower, upper)) for p in activation.inflections]
    smallest, largest = reduce(ops.minimum, slopes), reduce(ops.maximum, slopes)
    for kink in activation.kinks:
        inside = ops.logical_and(lower <= kink, kink <= upper)
        step = max(abs(kink) * 2.0**-50, 1e-290)  # not a subnormal number, which may count as 0
        for side in (kink - step, kink + step):
            beside = activation.derivative(ops.zeros_like(lower) + side)
            smallest = ops.where(inside, ops.minimum(smallest, beside), smallest)
            largest = ops.where(inside, ops.maximum(largest, beside), largest)
    if activation.piecewise_linear:
        return smallest, largest
    slack = _SLACK * (1 + ops.maximum(ops.abs(smallest), ops.abs(largest)))
    slack += _SLACK * reach
    return smallest - slack, largest + slack


def _defined(activation: Activation, lower: Any, upper: Any) -> tuple[Any, Any]:
    """The interval, or NaN where it holds a point without a value."""
    if activation.undefined is None:
        return lower, upper
    first, last = activation.undefined
    outside = ops.logical_and(lower <= last, upper >= first)
    return ops.where(outside, np.nan, lower), ops.where(outside, np.nan, upper)


def _folded(activation: Activation, lower: Any, upper: Any) -> tuple[Any, Any, Any]:
    """The interval moved by whole periods to where the facts are, cut to one, and by how much."""
    if not activation.period:
        return lower, upper, 0.0
    shift = activation.period * ops.round(lower / activation.period)
    lower = lower - shift
    return lower, ops.minimum(upper - shift, lower + activation.period), shift


def is_unstable(activation: Activation, lower: Any, upper: Any) -> Any:
    """Where the function is not a straight line on [lower, upper]: what tighter bounds can help."""
    if not activation.piecewise_linear:
        return upper > lower
    inside = [ops.logical_and(lower < kink, kink < upper) for kink in activation.kinks]
    return reduce(ops.logical_or, inside, ops.zeros_like(lower, dtype="bool"))


LOWER_SLOPES = ("adaptive", "parallel", "left", "right")


def relaxation(
    activation: Activation, lower: Any, upper: Any, dtype: str, lower_slope: str = "adaptive"
) -> Relaxation:
    """A line below and a line above the function on [lower, upper].

    Of several candidate slopes the one is taken whose line is closest to the function in the
    middle of the interval, which is the line that leaves the smallest area. For ReLU this is
    CROWN's relaxation: the chord above, and below slope 1 where upper > -lower, else 0.

    Slopes are numbers of the working type `dtype`, returned in it; the intercepts are proved for
    just these numbers and returned in float64.

    Parameters
    ----------
    activation
        The function.
    lower, upper
        Ends of the intervals, float64, (...).
    dtype
        Working type.
    lower_slope
        "adaptive", as above; "parallel": the slope of the line above; "left" ("right"): the slope
        of the function at the left (right) end, for ReLU 0 (1).
    """
    if activation.stands_alone and not activation.piecewise_linear:
        return Relaxation(*_shared_relaxation(activation, dtype, lower_slope)(lower, upper))
    return _relaxation(activation, lower, upper, dtype, lower_slope)


@lru_cache(maxsize=64)
def _shared_relaxation(activation: Activation, dtype: str, lower_slope: str) -> backend.Shared:
    """`relaxation` as a function of its own: its hundreds of operations are many times in a graph.

    Recurrent networks have the same functions at every step.
    """

    def of_sides(lower: Any, upper: Any) -> Relaxation:
        return _relaxation(activation, lower, upper, dtype, lower_slope)

    return backend.Shared(of_sides, nb_inputs=2)


def _relaxation(
    activation: Activation, lower: Any, upper: Any, dtype: str, lower_slope: str
) -> Relaxation:
    sample = _sample(activation, lower, upper)
    points, values = sample.points, sample.values
    bent_once = activation.piecewise_linear and len(activation.kinks) == 1
    best = _best_slopes_at_kink if bent_once else _best_slopes
    below, above = best(activation, points, values)
    if lower_slope == "parallel":
        below = above
    elif lower_slope != "adaptive":
        below = activation.derivative(points[0] if lower_slope == "left" else points[1])
    return _proved(activation, sample, (below, above), dtype)


def opposite_relaxation(
    first: Relaxation, activation: Activation, lower: Any, upper: Any, dtype: str
) -> Relaxation:
    """A second pair of lines, with the slope of the function at the end that `first` is not at."""
    sample = _sample(activation, lower, upper)
    left, right = (activation.derivative(point) for point in (sample.points[0], sample.points[1]))

    def far_from(slope: Any) -> Any:
        slope = ops.cast(slope, "float64")
        return ops.where(ops.abs(left - slope) > ops.abs(right - slope), left, right)

    # Above a convex function only the chord is good: tangents lie below it.
    below = far_from(first.lower_slope)
    above = ops.cast(first.upper_slope, "float64")
    if not activation.piecewise_linear:
        above = far_from(first.upper_slope)
    return _proved(activation, sample, (below, above), dtype)


class _Sample(NamedTuple):
    """A function on intervals, as lines are fitted to it.

    Attributes
    ----------
    points, values
        Points (P, ...) of the intervals, their ends first, and the function there. Of functions of
        straight pieces lists of P tensors, which are few.
    shift
        How far the intervals have been moved, see `_folded`.
    whole
        Which of them are longer than a period, None for none.
    reach
        Largest distance from 0 on the intervals.
    """

    points: Any
    values: Any
    shift: Any
    whole: Any
    reach: Any


def _sample(activation: Activation, lower: Any, upper: Any) -> _Sample:
    reach = ops.maximum(ops.abs(lower), ops.abs(upper))
    whole = upper - lower > activation.period if activation.period else None
    lower, upper, shift = _folded(activation, *_defined(activation, lower, upper))
    inner = [_into(kink, lower, upper) for kink in activation.kinks]
    if activation.piecewise_linear:
        points = [lower, upper, *inner]
        return _Sample(points, [activation.value(p) for p in points], shift, whole, reach)
    width = upper - lower
    inner += [lower + width * (i / (_GRID + 1)) for i in range(1, _GRID + 1)]
    stacked = ops.stack([lower, upper, *inner])
    return _Sample(stacked, activation.value(stacked), shift, whole, reach)


def _proved(
    activation: Activation, sample: _Sample, slopes: tuple[Any, Any], dtype: str
) -> Relaxation:
    """Lines of the given slopes, below and above the function."""
    found = []
    points, values = sample.points, sample.values
    value_size = ops.maximum(ops.abs(values[0]), ops.abs(values[1]))
    for sign, slope in zip((-1.0, 1.0), slopes):  # a line below f mirrors a line above -f
        slope = ops.cast(ops.cast(slope, dtype), "float64")
        if activation.undefined is not None:  # the derivative may be infinite at an end
            slope = ops.where(ops.isfinite(slope), slope, 0.0)
        if sample.whole is not None:  # a line has to hold for all periods
            slope = ops.where(sample.whole, 0.0, slope)
        gap = _largest_gap(points, values, slope, sign)
        if not activation.piecewise_linear:
            gap = ops.maximum(gap, _gap_between(activation, points[0], points[1], slope, sign))
        # Functions such as z * Phi(z) lose digits relative to z, not to their value.
        steepness = ops.abs(slope) + (0.0 if activation.piecewise_linear else 1.0)
        gap += _SLACK * (value_size + steepness * sample.reach)
        found += [ops.cast(slope, dtype), sign * gap - slope * sample.shift]
    return Relaxation(*found)


def _largest_gap(points: Any, values: Any, slope: Any, sign: float) -> Any:
    """Largest ``sign * (f(z) - slope * z)`` at the points."""
    if isinstance(points, list):
        return reduce(ops.maximum, [sign * (v - slope * p) for p, v in zip(points, values)])
    return ops.max(sign * (values - slope * points), axis=0)


def _into(point: float, lower: Any, upper: Any) -> Any:
    """The point of [lower, upper] nearest to a number."""
    return ops.minimum(ops.maximum(lower, point), upper)


def _best_slopes(activation: Activation, points: Any, values: Any) -> tuple[Any, Any]:
    """Slopes of the lines below and above with the least distance in the middle; heuristic.

    `points` (P, ...) are the ends of the interval and points between, `values` the function there.
    """
    if activation.piecewise_linear:  # points and values are lists
        points, values = ops.stack(points), ops.stack(values)
    below, above = (_best_slope(activation, points, values, sign) for sign in (-1.0, 1.0))
    return below, above


def _best_slopes_at_kink(activation: Activation, points: Any, values: Any) -> tuple[Any, Any]:
    """The same for a function of two straight pieces, as ReLU, in closed form.

    Where the function bends upward the chord is above it, and below it, of the lines of the two
    pieces, that of the one with the middle of the interval; and the other way round.
    """
    lower, upper = points[:2]
    middle = (lower + upper) / 2
    left, right = activation.derivative(lower), activation.derivative(upper)
    chord = _chord(activation, points, values)
    (kink,) = activation.kinks
    piece = ops.where(middle > kink, right, ops.where(middle < kink, left, chord))
    upward = right >= left
    return ops.where(upward, piece, chord), ops.where(upward, chord, piece)


def _chord(activation: Activation, points: Any, values: Any) -> Any:
    """Slope between the ends of the interval; of a point, the derivative."""
    lower, upper = points[0], points[1]
    degenerate = _degenerate(lower, upper)
    chord = (values[1] - values[0]) / ops.where(degenerate, 1.0, upper - lower)
    return ops.where(degenerate, activation.derivative((lower + upper) / 2), chord)


def _degenerate(lower: Any, upper: Any) -> Any:
    """Where an interval is too short for a difference quotient."""
    return upper - lower <= 1e-12 * (ops.abs(lower) + ops.abs(upper))


def _best_slope(activation: Activation, points: Any, values: Any, sign: float) -> Any:
    """Slope of the line above ``sign * f`` with the least value in the middle."""
    lower, upper = points[0], points[1]
    middle = (lower + upper) / 2
    tangent = activation.derivative(middle)
    candidates = [_chord(activation, points, values)]
    if activation.piecewise_linear:
        candidates += [activation.derivative(lower), activation.derivative(upper)]
    else:
        candidates.append(tangent)
    # The flattest lines through the left and through the right end that stay above sign * f.
    before, after = points - lower, upper - points
    rise = (values - values[0]) / ops.where(before > 0, before, 1.0)
    fall = (values[1] - values) / ops.where(after > 0, after, 1.0)
    steepest = sign * ops.max(ops.where(before > 0, sign * rise, -np.inf), axis=0)
    flattest = sign * ops.min(ops.where(after > 0, sign * fall, np.inf), axis=0)
    degenerate = _degenerate(lower, upper)
    candidates += [ops.where(degenerate, tangent, slope) for slope in (steepest, flattest)]
    gaps = [ops.max(sign * (values - slope * points), axis=0) for slope in candidates]
    heights = [gap + sign * slope * middle for gap, slope in zip(gaps, candidates)]
    return _first_least(ops.stack(candidates), ops.stack(heights))


def _first_least(slopes: Any, heights: Any) -> Any:
    """The slope, of (C, ...), with the least height."""
    chosen = ops.one_hot(ops.argmin(heights, axis=0), slopes.shape[0], axis=0, dtype="float64")
    return ops.sum(ops.where(chosen > 0, slopes, 0.0), axis=0)


def _gap_between(activation: Activation, lower: Any, upper: Any, slope: Any, sign: float) -> Any:
    """Proved upper bound of ``sign * (f(z) - slope * z)`` where the derivative is the slope."""
    turns = sorted({*activation.kinks, *activation.inflections})
    edges = [lower, *(_into(turn, lower, upper) for turn in turns), upper]
    left, right = ops.stack(edges[:-1]), ops.stack(edges[1:])
    # Just inside, so that a kink at an end shows the derivative of its own piece.
    inside = (right - left) * 1e-9
    rising = activation.derivative(right - inside) >= activation.derivative(left + inside)

    def halve(_: Any, bracket: tuple[Any, Any]) -> tuple[Any, Any]:
        left, right = bracket
        middle = (left + right) / 2
        go_right = ops.equal(activation.derivative(middle) < slope, rising)
        return ops.where(go_right, middle, left), ops.where(go_right, right, middle)

    left, right = ops.fori_loop(0, _BISECTIONS, halve, (left, right))
    gap = sign * (activation.value(left) - slope * left)
    # Between the left end of the bracket and the point itself, where the gap is flat.
    if activation.curvature == math.inf:  # where it has a maximum it is below its own tangent
        steepness = ops.relu(sign * (activation.derivative(left) - slope))
        room = ops.where(right > left, (1 + 1e-9) * steepness * (right - left), 0.0)
    else:
        room = activation.curvature_up_to(upper) / 2 * (right - left) ** 2
    return ops.max(gap + room, axis=0)
