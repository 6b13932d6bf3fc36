"""Floating point: the error terms that make a computed bound a proved one.

The engine works with *deviations*. A nominal forward pass in float64 gives every tensor of the
network a reference value; everything that grows with the number of rows (coefficients, intervals)
is computed in the working type on deviations from it. Rounding errors of the working type are then
proportional to the size of the region, not to the size of the activations.

The standard model of floating-point arithmetic is assumed: a sum of n products, in any order, with
or without fused multiply-adds, is off by at most ``relative_error(n) * sum(|x_i * y_i|)`` (Higham,
Accuracy and Stability of Numerical Algorithms, section 3.1, where the factor is called gamma_n).

Numbers that overflow obey no such model. What comes out of them is NaN or an infinity, on which
TensorFlow's sums, products, maxima and minima all depend, so that it can be told: `as_lower` and
`as_upper` make it the infinity that is a true bound of anything.
"""

from __future__ import annotations

from typing import Any

from keras import ops

UNDERFLOW = 1e-30  # what numbers too small for the working type can add up to
_UNIT = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}


def relative_error(nb_terms: int, dtype: str) -> float:
    """Largest relative error of `nb_terms` consecutive roundings, n u / (1 - n u)."""
    error = nb_terms * _UNIT[dtype]
    if error >= 0.5:
        raise ValueError(
            f"a sum of {nb_terms} terms cannot be bounded in {dtype}. Use dtype='float64'"
        )
    return error / (1.0 - error)


def round_down(values: Any, dtype: str) -> Any:
    """float64 values in the working type, never above the given ones."""
    rounded = ops.cast(values, dtype)
    return rounded - 3.0 * _UNIT[dtype] * ops.abs(rounded)


def round_up(values: Any, dtype: str) -> Any:
    """float64 values in the working type, never below the given ones."""
    rounded = ops.cast(values, dtype)
    return rounded + 3.0 * _UNIT[dtype] * ops.abs(rounded)


def as_lower(values: Any) -> Any:
    """Values as lower bounds: -inf where an overflow (NaN, +inf) leaves nothing proved."""
    return ops.where(values < float("inf"), values, -float("inf"))


def as_upper(values: Any) -> Any:
    """Values as upper bounds: +inf where an overflow (NaN, -inf) leaves nothing proved."""
    return ops.where(values > -float("inf"), values, float("inf"))


def block_size(nb_terms: int, largest: int = 256) -> int:
    """Largest divisor of `nb_terms` up to `largest`: how many terms are summed in working type."""
    return next(size for size in range(min(nb_terms, largest), 0, -1) if nb_terms % size == 0)
