"""Probabilities from bounds of log-odds: what softmax and sigmoid make of an interval, exactly.

With d_j = f_j - f_c the softmax of class c is ``1 / (1 + sum over j != c of exp(d_j))``. It falls
in every d_j: bounds of the differences give bounds of it, and no tighter ones follow from them. A
sigmoid is the same with the single d = -f_c.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_ULPS = 16  # that exponentials of NumPy are trusted to, in float64
_LARGEST = 600.0  # exponent from which on an upper bound of a probability is exp(-600), or 1e-261
_NB_PAIRS = 4096  # rows that are asked for at once


def probability_of(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of ``1 / (1 + sum_j exp(d_j))`` from those of d, rounded outward.

    Parameters
    ----------
    lower, upper
        Bounds of d, (..., J), infinite where nothing is known.

    Returns
    -------
    lower, upper
        (...) float64, from 0 to 1.

    Guarantee
    ---------
    In real arithmetic, where exponentials of NumPy are right to 16 units in the last place.
    """
    # Relative errors: of the exponentials, of the sum in any order, and of the last three steps.
    error = (lower.shape[-1] + _ULPS + 8) * np.finfo(np.float64).eps
    with np.errstate(over="ignore", under="ignore"):  # infinite is 1 / (1 + inf) = 0, from below
        most = np.exp(upper.astype(np.float64)).sum(axis=-1)
        least = np.exp(np.minimum(lower.astype(np.float64), _LARGEST)).sum(axis=-1)
        below = (1 - error) / (1 + most)
        above = (1 + error) / (1 + least)
    # numbers below the normal ones have no relative error
    below = np.where(below < np.finfo(np.float64).tiny, 0.0, below)
    return below, np.minimum(above, 1.0)


def pair_rows(nb_outputs: int) -> Iterator[np.ndarray]:
    """Rows (P, K) float32 that make the differences ``f_j - f_c`` of all c < j, some at a time."""
    first, second = np.triu_indices(nb_outputs, 1)
    for start in range(0, len(first), _NB_PAIRS):
        some = slice(start, start + _NB_PAIRS)
        places = np.arange(len(first[some]))
        rows = np.zeros((len(places), nb_outputs), np.float32)
        rows[places, first[some]], rows[places, second[some]] = -1, 1
        yield rows


def softmax_bounds(
    lower: np.ndarray, upper: np.ndarray, nb_outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the softmax, (N, K) float64, from those of all `pair_rows` together, (N, P)."""
    first, second = np.triu_indices(nb_outputs, 1)
    others = ~np.eye(nb_outputs, dtype=bool)
    found = np.empty((2, len(lower), nb_outputs))
    for sample, (low, high) in enumerate(zip(lower, upper)):
        sides = np.zeros((2, nb_outputs, nb_outputs))  # [side, c, j]: of f_j - f_c
        sides[:, first, second] = low, high
        sides[:, second, first] = -high, -low
        found[:, sample] = probability_of(*sides[:, others].reshape(2, nb_outputs, -1))
    return found[0], found[1]


def sigmoid_bounds(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the sigmoid, float64, from those of its argument, of any shape."""
    return probability_of(-upper[..., None], -lower[..., None])


def outward(lower: np.ndarray, upper: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of probabilities in another type, not inside of the given ones."""
    below, above = lower.astype(dtype), upper.astype(dtype)
    below = np.where(below > lower, np.nextafter(below, below.dtype.type(0)), below)
    return below, np.where(above < upper, np.nextafter(above, above.dtype.type(1)), above)
