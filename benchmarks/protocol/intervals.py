"""Means over images and networks with 95 % intervals, and paired comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq  # scipy comes with mlxtend
from scipy.stats import t as student

LEVEL = 0.05
Half = Callable[[float], float]  # level -> half of the interval's width


class Mean(NamedTuple):
    """A mean, its interval, and the probability of so large a mean where the truth is 0."""

    mean: float
    low: float
    high: float
    p_value: float


def mean_interval(values: np.ndarray, level: float = LEVEL) -> Mean:
    """Mean over images and networks, both being samples of all that there could be.

    Parameters
    ----------
    values
        (networks, images), the same images for all networks; (1, images) or (images,) for one
        network, of which the interval then is.
    level
        Of the interval: the share of runs whose interval would not hold the truth.

    Notes
    -----
    ``value[s, i] = mean + network[s] + image[i] + rest[s, i]``, random effects with mean squares
    ``M_s, M_i, M_r`` of S networks and I images. Half of the interval is the larger one of

    - ``t(free) sqrt(M_s + M_i - M_r)``, with Satterthwaite's degrees of freedom, and
    - ``sqrt(t(S - 1)^2 (M_s - M_r) + t(I - 1)^2 M_i)``,

    divided by ``sqrt(S I)``; either alone holds the truth too seldom for some networks and images.
    With three networks that differ it is wide: three are few.
    """
    values = np.atleast_2d(np.asarray(values, np.float64))
    mean = float(values.mean())
    if values.size == 1:
        return Mean(mean, float("nan"), float("nan"), float("nan"))
    half = _half_of_one(values.ravel()) if 1 in values.shape else _half_of_both(values)
    width = half(level)
    if width == 0:
        return Mean(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    return Mean(mean, mean - width, mean + width, _p_value(half, abs(mean)))


def _half_of_one(values: np.ndarray) -> Half:
    """Student's, of independent values."""
    error = values.std(ddof=1) / np.sqrt(values.size)
    return lambda level: float(student.ppf(1 - level / 2, values.size - 1) * error)


def _half_of_both(values: np.ndarray) -> Half:
    """Of networks and images, both drawn; see `mean_interval`."""
    mean = values.mean()
    of_net, of_image = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    rest = values - of_net - of_image + mean
    free = np.array([len(values) - 1, values.shape[1] - 1])
    both = values.size * np.array([np.mean((e - mean) ** 2) for e in (of_net, of_image)]) / free
    left = np.sum(rest**2) / free.prod()
    total = max(both.sum() - left, both.max())
    parts = np.sum(both**2 / free) + left**2 / free.prod()
    of_total = total**2 / parts if parts > 0 else 1.0
    weights = np.array([max(both[0] - left, 0.0), both[1]])

    def half(level: float) -> float:
        first = student.ppf(1 - level / 2, of_total) ** 2 * total
        second = student.ppf(1 - level / 2, free) ** 2 @ weights
        return float(np.sqrt(max(first, second) / values.size))

    return half


def _p_value(half: Half, distance: float, least: float = 1e-12) -> float:
    """The level at which the interval just reaches 0."""
    if half(least) <= distance:
        return least
    return float(np.exp(brentq(lambda log: half(np.exp(log)) - distance, np.log(least), 0.0)))


def compare(values: np.ndarray, others: np.ndarray) -> Mean:
    """Mean of the differences of paired values, (networks, images) each, on these networks.

    The interval is Student's over images, of which these are a sample; the networks are those at
    hand, because three tell little of all that there could be. The probability is the largest one
    of single networks, and 1 where their differences have several signs: what is told apart is
    better on *each* network (an intersection-union test, so `level` is that of all of them).
    """
    values, others = np.asarray(values, np.float64), np.asarray(others, np.float64)
    if values.shape != others.shape:
        raise ValueError(
            f"paired values must be of the same networks and images. "
            f"Received: {values.shape} and {others.shape}"
        )
    differences = np.atleast_2d(values - others)
    of_each = [mean_interval(of_network) for of_network in differences]
    same = len({np.sign(one.mean) for one in of_each}) == 1
    over_images = mean_interval(differences.mean(0))
    return over_images._replace(p_value=max(one.p_value for one in of_each) if same else 1.0)


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which of several hypotheses are rejected, with `level` for all of them together (Holm)."""
    order = np.argsort(p_values)
    rejected = [False] * len(p_values)
    for rank, place in enumerate(order):
        if not p_values[place] <= level / (len(p_values) - rank):
            break
        rejected[place] = True
    return rejected
