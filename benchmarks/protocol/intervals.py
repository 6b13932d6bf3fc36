"""Means over images and networks with 95 % intervals, and paired comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student  # scipy comes with mlxtend

LEVEL = 0.05


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
    ``value[s, i] = mean + network[s] + image[i] + rest[s, i]``, random effects: the variance of the
    mean is ``(M_s + M_i - M_r) / (S I)`` with the mean squares of a two-way analysis of variance,
    and its degrees of freedom are Satterthwaite's. With three networks and a real difference among
    them the interval is wide: three are few.
    """
    values = np.atleast_2d(np.asarray(values, np.float64))
    nb_nets, nb_images = values.shape
    mean = float(values.mean())
    if nb_images == 1 and nb_nets == 1:
        return Mean(mean, float("nan"), float("nan"), float("nan"))
    if nb_nets == 1 or nb_images == 1:
        flat = values.ravel()
        error, free = flat.std(ddof=1) / np.sqrt(flat.size), flat.size - 1.0
    else:
        of_net, of_image = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
        rest = values - of_net - of_image + mean
        free_s, free_i = nb_nets - 1, nb_images - 1
        squares = [
            nb_images * np.sum((of_net - mean) ** 2) / free_s,
            nb_nets * np.sum((of_image - mean) ** 2) / free_i,
            -np.sum(rest**2) / (free_s * free_i),
        ]
        total = max(sum(squares), *squares[:2])  # not below what one of the effects gives alone
        parts = np.array(squares) ** 2 / np.array([free_s, free_i, free_s * free_i])
        free = total**2 / parts.sum() if parts.sum() > 0 else float(free_i)
        error = np.sqrt(total / values.size)
    half = float(student.ppf(1 - level / 2, free) * error)
    if error == 0:
        return Mean(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    return Mean(mean, mean - half, mean + half, float(2 * student.sf(abs(mean) / error, free)))


def compare(values: np.ndarray, others: np.ndarray) -> Mean:
    """Mean of the differences of paired values, (networks, images) each."""
    values, others = np.asarray(values, np.float64), np.asarray(others, np.float64)
    if values.shape != others.shape:
        raise ValueError(
            f"paired values must be of the same networks and images. "
            f"Received: {values.shape} and {others.shape}"
        )
    return mean_interval(values - others)


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which of several hypotheses are rejected, with `level` for all of them together (Holm)."""
    order = np.argsort(p_values)
    rejected = [False] * len(p_values)
    for rank, place in enumerate(order):
        if not p_values[place] <= level / (len(p_values) - rank):
            break
        rejected[place] = True
    return rejected
