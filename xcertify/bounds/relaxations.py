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

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from keras import ops

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
        Bound of the absolute second derivative between kinks; 0 for piecewise linear functions.
    ulps
        Rounding errors of the network's own float32 evaluation of the function, in units of
        ``2**-24 * |value|``.

    Example
    -------
    >>> square = Activation("square", lambda z: z * z, lambda z: 2 * z, extrema=(0.0,), curvature=2)
    """

    name: str
    value: Scalar
    derivative: Scalar
    kinks: tuple[float, ...] = ()
    inflections: tuple[float, ...] = ()
    extrema: tuple[float, ...] = ()
    curvature: float = 0.0
    ulps: float = 16.0

    @property
    def piecewise_linear(self) -> bool:
        """Whether the function consists of straight pieces."""
        return self.curvature == 0.0


class Lines(NamedTuple):
    """``lower_slope * z + lower_intercept <= f(z) <= upper_slope * z + upper_intercept``."""

    lower_slope: Any
    lower_intercept: Any
    upper_slope: Any
    upper_intercept: Any


def image(activation: Activation, lower: Any, upper: Any) -> tuple[Any, Any]:
    """Smallest and largest value on [lower, upper], proved; float64, elementwise."""
    points = [lower, upper]
    points += [_into(point, lower, upper) for point in (*activation.kinks, *activation.extrema)]
    values = [activation.value(point) for point in points]
    smallest, largest = reduce(ops.minimum, values), reduce(ops.maximum, values)
    # An extremum is given in decimals, right to 1e-9.
    slack = 0.5e-18 * activation.curvature if activation.extrema else 0.0
    exact = activation.piecewise_linear and activation.ulps == 0
    unit = 0.0 if exact else _SLACK
    return (
        smallest - unit * ops.abs(smallest) - slack,
        largest + unit * ops.abs(largest) + slack,
    )


def derivative_range(activation: Activation, lower: Any, upper: Any) -> tuple[Any, Any]:
    """Smallest and largest slope on [lower, upper], both sides of every kink included."""
    slopes = [activation.derivative(lower), activation.derivative(upper)]
    slopes += [activation.derivative(_into(p, lower, upper)) for p in activation.inflections]
    smallest, largest = reduce(ops.minimum, slopes), reduce(ops.maximum, slopes)
    for kink in activation.kinks:
        inside = ops.logical_and(lower <= kink, kink <= upper)
        for side in (-np.inf, np.inf):
            beside = activation.derivative(ops.zeros_like(lower) + np.nextafter(kink, side))
            smallest = ops.where(inside, ops.minimum(smallest, beside), smallest)
            largest = ops.where(inside, ops.maximum(largest, beside), largest)
    unit = 0.0 if activation.piecewise_linear else _SLACK
    return smallest - unit * ops.abs(smallest), largest + unit * ops.abs(largest)


def is_bent(activation: Activation, lower: Any, upper: Any) -> Any:
    """Where the function is not a straight line on [lower, upper]: what tighter bounds can help."""
    if not activation.piecewise_linear:
        return upper > lower
    inside = [ops.logical_and(lower < kink, kink < upper) for kink in activation.kinks]
    return reduce(ops.logical_or, inside, ops.zeros_like(lower, dtype="bool"))


def lines(activation: Activation, lower: Any, upper: Any, dtype: str) -> Lines:
    """A line below and a line above the function on [lower, upper].

    Of several candidate slopes the one is taken whose line is closest to the function in the
    middle of the interval, which is the line that leaves the smallest area. For ReLU this is
    CROWN's relaxation: the chord above, and below slope 1 where upper > -lower, else 0.

    Slopes are numbers of the working type `dtype`, returned in it; the intercepts are proved for
    just these numbers and returned in float64.
    """
    best = []
    for sign in (-1.0, 1.0):  # a line below f is the mirror of a line above -f
        slope = _best_slope(activation, lower, upper, sign)
        slope = ops.cast(ops.cast(slope, dtype), "float64")
        intercept = sign * _largest_gap(activation, lower, upper, slope, sign)
        best += [ops.cast(slope, dtype), intercept]
    return Lines(*best)


def _into(point: float, lower: Any, upper: Any) -> Any:
    """The point of [lower, upper] nearest to a number."""
    return ops.minimum(ops.maximum(lower, point), upper)


def _best_slope(activation: Activation, lower: Any, upper: Any, sign: float) -> Any:
    """Slope of the line above ``sign * f`` with the least value in the middle; heuristic."""
    value, slope_at = activation.value, activation.derivative
    middle = (lower + upper) / 2
    width = upper - lower
    degenerate = width <= 1e-12 * (ops.abs(lower) + ops.abs(upper))
    safe_width = ops.where(degenerate, ops.ones_like(width), width)
    at_lower, at_upper = value(lower), value(upper)
    tangent = slope_at(middle)
    chord = ops.where(degenerate, tangent, (at_upper - at_lower) / safe_width)

    if activation.piecewise_linear:
        points = [_into(kink, lower, upper) for kink in activation.kinks]
    else:
        points = [lower + width * (i / (_GRID + 1)) for i in range(1, _GRID + 1)]
    # The steepest (flattest) line through the left (right) end that leaves the function below it.
    from_lower, from_upper = chord, chord
    for point in points:
        before, after = point - lower, upper - point
        rise = (value(point) - at_lower) / ops.where(before > 0, before, ops.ones_like(before))
        fall = (at_upper - value(point)) / ops.where(after > 0, after, ops.ones_like(after))
        from_lower = ops.where(
            ops.logical_and(before > 0, sign * rise > sign * from_lower), rise, from_lower
        )
        from_upper = ops.where(
            ops.logical_and(after > 0, sign * fall < sign * from_upper), fall, from_upper
        )

    candidates = [chord, from_lower, from_upper]
    if activation.piecewise_linear:
        candidates += [slope_at(lower), slope_at(upper)]
    else:
        candidates.append(tangent)
    best, best_height = None, None
    for slope in candidates:
        gaps = [sign * (value(p) - slope * p) for p in (lower, upper, *points)]
        height = reduce(ops.maximum, gaps) + sign * slope * middle
        if best is None:
            best, best_height = slope, height
        else:
            better = height < best_height
            best = ops.where(better, slope, best)
            best_height = ops.where(better, height, best_height)
    return best


def _largest_gap(
    activation: Activation, lower: Any, upper: Any, slope: Any, sign: float
) -> Any:
    """Proved upper bound of ``sign * (f(z) - slope * z)`` on [lower, upper]."""

    def gap(point: Any) -> Any:
        return sign * (activation.value(point) - slope * point)

    points = [lower, upper, *(_into(kink, lower, upper) for kink in activation.kinks)]
    hidden = 0.0
    if not activation.piecewise_linear:
        turns = sorted({*activation.kinks, *activation.inflections})
        edges = [lower, *(_into(turn, lower, upper) for turn in turns), upper]
        for left, right in zip(edges[:-1], edges[1:]):
            left, right = _bracket(activation.derivative, left, right, slope)
            points += [left, right]
            # Between the bracket's ends and the point where f' = slope.
            hidden = ops.maximum(hidden, activation.curvature / 2 * (right - left) ** 2)
    largest = reduce(ops.maximum, [gap(point) for point in points])
    size = ops.maximum(ops.abs(lower), ops.abs(upper))
    values = ops.maximum(ops.abs(activation.value(lower)), ops.abs(activation.value(upper)))
    return largest + hidden + _SLACK * (values + ops.abs(slope) * size)


def _bracket(derivative: Scalar, left: Any, right: Any, slope: Any) -> tuple[Any, Any]:
    """Shrink [left, right], on which the derivative is monotone, around derivative = slope."""
    # Just inside, so that a kink at an end shows the derivative of this piece.
    inner = (right - left) * 1e-9
    rising = derivative(right - inner) >= derivative(left + inner)
    for _ in range(_BISECTIONS):
        middle = (left + right) / 2
        go_right = ops.equal(derivative(middle) < slope, rising)
        left, right = ops.where(go_right, middle, left), ops.where(go_right, right, middle)
    return left, right


def _sigmoid(z: Any) -> Any:
    return ops.sigmoid(z)


RELU = Activation(
    "relu",
    ops.relu,
    lambda z: ops.cast(z > 0, z.dtype),
    kinks=(0.0,),
    ulps=0,
)

SIGMOID = Activation(
    "sigmoid",
    _sigmoid,
    lambda z: _sigmoid(z) * _sigmoid(-z),
    inflections=(0.0,),
    curvature=0.0963,  # 1 / (6 sqrt 3)
)

TANH = Activation(
    "tanh",
    ops.tanh,
    lambda z: 4 * _sigmoid(2 * z) * _sigmoid(-2 * z),
    inflections=(0.0,),
    curvature=0.7699,  # 4 / (3 sqrt 3)
)


def leaky_relu(negative_slope: float) -> Activation:
    """max(z, 0) + negative_slope * min(z, 0)."""
    return Activation(
        "leaky_relu",
        lambda z: ops.where(z > 0, z, negative_slope * z),
        lambda z: ops.where(z > 0, ops.ones_like(z), negative_slope * ops.ones_like(z)),
        kinks=(0.0,),
        ulps=2,
    )
