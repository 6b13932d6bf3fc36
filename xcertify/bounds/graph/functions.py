"""Functions of arithmetic as facts for `relaxations.py`: powers, logarithms, waves, limits.

Where a function has no value, nothing is proved of an interval; see `Activation.undefined`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from keras import ops

from xcertify.bounds.graph.relaxations import Activation

SQUARE = Activation(
    "square",
    ops.square,
    lambda z: 2 * z,
    extrema=(0.0,),
    curvature=2.0,
    least=0.0,
    slope=Activation("slope of square", lambda z: 2 * z, lambda z: 2 * ops.ones_like(z), ulps=1),
)


def error_of(*numbers: float) -> float:
    """Relative error of what is computed from numbers that a network may hold in float32."""
    given = np.array(numbers, "float64")
    with np.errstate(over="ignore"):
        return 0.0 if np.array_equal(given.astype("float32"), given) else 2.0**-23


def power(exponent: float) -> Activation:
    """z ** exponent for any exponent but 0 and 1: of negative z where it is an integer."""
    facts = _monomial(1.0, exponent)
    slope = None if exponent == 2 else _monomial(exponent, exponent - 1)
    if error_of(exponent):  # which float32 rounds; |log z| < 100 for the numbers that it has
        ulps = 32 + 100 * abs(exponent)
        facts, slope = replace(facts, ulps=ulps), slope and replace(slope, ulps=ulps)
    return replace(facts, name="power", slope=slope)


def _monomial(factor: float, exponent: float) -> Activation:
    """factor * z ** exponent."""
    whole = float(exponent).is_integer()
    even = whole and exponent % 2 == 0
    undefined = None
    if exponent < 0:
        undefined = (0.0, 0.0) if whole else (-math.inf, 0.0)
    elif not whole:
        undefined = (-math.inf, -1e-300)
    return Activation(
        "slope of power",
        lambda z: factor * _powered(z, exponent),
        lambda z: factor * exponent * _powered(z, exponent - 1),
        inflections=(0.0,) if whole and exponent > 2 and not even else (),
        extrema=(0.0,) if even and exponent > 0 else (),
        curvature=0.0 if exponent in (0, 1) else math.inf,
        undefined=undefined,
        least=0.0 if factor > 0 and (even or not whole) else -math.inf,
    )


def _powered(z: Any, exponent: float) -> Any:
    """z ** exponent, by multiplications and roots where these are exact but for a rounding."""
    known: dict[float, Callable[[Any], Any]] = {
        -1: lambda z: 1 / z,
        -0.5: lambda z: 1 / ops.sqrt(z),
        0: ops.ones_like,
        0.5: ops.sqrt,
        1: lambda z: z,
        2: ops.square,
        3: lambda z: z * z * z,
    }
    return known[exponent](z) if exponent in known else ops.power(z, exponent)


SQRT, RSQRT, RECIPROCAL = (
    replace(power(exponent), name=name)
    for name, exponent in (("sqrt", 0.5), ("rsqrt", -0.5), ("reciprocal", -1.0))
)


def logarithm(name: str, factor: float = 1.0, shift: float = 0.0) -> Activation:
    """factor * log(z + shift)."""

    def slope(z: Any) -> Any:
        return factor / (z + shift)

    return Activation(
        name,
        lambda z: factor * (ops.log1p(z) if shift else ops.log(z)),
        slope,
        curvature=math.inf,
        constant_error=0.0 if factor == 1 else 2.0**-23,
        absolute_ulps=1,
        undefined=(-math.inf, -shift),
        slope=Activation(
            f"slope of {name}",
            slope,
            lambda z: -factor / (z + shift) ** 2,
            curvature=math.inf,
            undefined=(-math.inf, -shift),
            least=0.0,
        ),
    )


LOG, LOG1P = logarithm("log"), logarithm("log1p", shift=1.0)
LOG2, LOG10 = (logarithm(f"log{base}", 1 / math.log(base)) for base in (2, 10))

EXPONENTIAL = Activation(
    "exponential",
    ops.exp,
    ops.exp,
    curvature=ops.exp,
    least=0.0,
    slope=Activation("slope of exponential", ops.exp, ops.exp, curvature=ops.exp),
)

EXPM1 = Activation(
    "expm1", ops.expm1, ops.exp, curvature=ops.exp, absolute_ulps=4, slope=EXPONENTIAL
)


def _wave(name: str, phase: int, slope: Activation | None = None) -> Activation:
    """sin, cos, -sin or -cos: the cosine, later by so many quarters of its period."""
    values = (ops.cos, ops.sin, lambda z: -ops.cos(z), lambda z: -ops.sin(z))
    quarters = [quarter * math.pi / 2 for quarter in range(-3, 8)]
    turns = [number for number in range(-3, 8) if (number - phase) % 2 == 0]
    return Activation(
        name,
        values[phase % 4],
        values[(phase - 1) % 4],
        inflections=tuple(q for n, q in zip(range(-3, 8), quarters) if n not in turns),
        extrema=tuple(q for n, q in zip(range(-3, 8), quarters) if n in turns),
        curvature=1.0,
        absolute_ulps=4,
        period=2 * math.pi,
        slope=slope,
    )


SIN = _wave("sin", 1, slope=_wave("slope of sin", 0))
COS = _wave("cos", 0, slope=_wave("slope of cos", 3))


def _erf_slope(z: Any) -> Any:
    return 2 * ops.exp(-z * z) / math.sqrt(math.pi)


ERF = Activation(
    "erf",
    ops.erf,
    _erf_slope,
    inflections=(0.0,),
    curvature=0.968,  # sqrt(8 / (pi e))
    slope=Activation(
        "slope of erf",
        _erf_slope,
        lambda z: -2 * z * _erf_slope(z),
        inflections=(-math.sqrt(0.5), math.sqrt(0.5)),
        extrema=(0.0,),
        curvature=2.2568,  # 4 / sqrt(pi)
        absolute_ulps=16,
    ),
)

SIGN = Activation(
    "sign",
    ops.sign,
    ops.zeros_like,
    kinks=(-1e-290, 0.0, 1e-290),
    ulps=0,
    continuous=False,
)

ABSOLUTE = Activation("absolute", ops.abs, ops.sign, kinks=(0.0,), ulps=0, least=0.0)


def limit(constant: float, below: bool) -> Activation:
    """max(z, constant) if the function is limited from below, else min(z, constant)."""
    cut, passes = (ops.maximum, ops.greater) if below else (ops.minimum, ops.less)
    return Activation(
        "maximum" if below else "minimum",
        lambda z: cut(z, constant),
        lambda z: ops.cast(passes(z, constant), z.dtype),
        kinks=(constant,),
        ulps=0,
        constant_error=error_of(constant),
        least=constant if below and constant >= 0 else -math.inf,
    )


def limits(low: float, high: float) -> Activation:
    """z cut to [low, high]."""
    return Activation(
        "clip",
        lambda z: ops.maximum(ops.minimum(z, high), low),
        lambda z: ops.cast(ops.logical_and(z > low, z < high), z.dtype),
        kinks=(low, high) if low < high else (low,),
        ulps=0,
        constant_error=error_of(low, high),
        least=low if low >= 0 else -math.inf,
    )
