"""Random points of regions, and how many of them get another answer: for claims about a share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from xcertify.answers import Answers
from xcertify.regions import Region
from xcertify.sampling import Streams, added_up, ball_draws, sampled

__all__ = ["Changes", "Distribution", "as_distribution"]

Distribution = Callable[[np.random.Generator, Region, int], Any]

_FIRST = 32  # draws before the first look; each round after it is twice as large


def uniform(generator: np.random.Generator, region: Region, count: int) -> np.ndarray:
    """Uniform in the box; in an l1 or l2 ball uniform there, then cut to the sides of the box.

    The box of a ball is its bounding box within `clip`. Where no value reaches a side, the points
    are uniform in the region.
    """
    if region.epsilon is None or math.isinf(region.norm):
        share = generator.random((count, *region.shape), np.float32)
        points = region.lower + share * (region.upper - region.lower)
    else:
        radius = np.broadcast_to(region.epsilon, region.center.shape)[0]
        free = radius > 0
        size = int(free.sum())
        if region.norm == 2:
            rows = ball_draws((size,))(generator, 0, count)
        else:  # all but one of exponential numbers, over the sum of all, with random signs
            rows = generator.laplace(size=(count, size + 1))
            rows = (rows / np.abs(rows).sum(axis=1, keepdims=True))[:, :size]
        points = np.repeat(region.center, count, axis=0)
        points[:, free] += (radius[free] * rows).astype(points.dtype)
    return np.clip(points, region.lower, region.upper)


def corners(generator: np.random.Generator, region: Region, count: int) -> np.ndarray:
    """Each value at one of its two sides of the box, both equally likely, independently."""
    is_upper = generator.random((count, *region.shape), np.float32) < 0.5
    return np.where(is_upper, region.upper, region.lower)


_NAMED = {"uniform": uniform, "corners": corners}


def as_distribution(distribution: Any, norm: float) -> Distribution:
    """What draws points of regions of a norm, from its name or a function of a user.

    Raises
    ------
    ValueError
        For what is neither, and corners of a ball that is no box.
    """
    if distribution == "corners" and not math.isinf(norm):
        raise ValueError(
            f"distribution='corners' is of boxes: give norm=np.inf, or distribution='uniform'. "
            f"Received: norm={norm!r}"
        )
    if isinstance(distribution, str) and distribution in _NAMED:
        return _NAMED[distribution]
    if not callable(distribution):
        raise ValueError(
            f"distribution must be one of {', '.join(_NAMED)}, or a function (generator, region, "
            f"count) -> points (count, *shape). Received: {distribution!r}"
        )

    def of_user(generator: np.random.Generator, region: Region, count: int) -> np.ndarray:
        points = np.asarray(distribution(generator, region, count))
        if points.shape != (count, *region.shape) or points.dtype.kind not in "fiub":
            raise ValueError(
                f"the distribution must give points {(count, *region.shape)}, one for each that "
                f"is asked for. Received: shape {points.shape} of {points.dtype}"
            )
        held = region.lower == region.upper
        points = np.where(held, region.center, points).astype(region.center.dtype)
        inside = region.project(points[:, None])[:, 0]  # but for roundings, the same
        if not np.allclose(inside, points, 1e-5, 1e-6):
            raise ValueError(
                f"the distribution must give points of the region, {region.describe()}: give the "
                f"region that they are from, such as epsilon=1, clip=(0, 1) for all images of "
                f"that range. Received: points from {points.min():.4g} to {points.max():.4g}"
            )
        return inside

    return of_user


class Changes:
    """How many of random points of N inputs get another answer: each call goes on with new draws.

    Parameters
    ----------
    inputs
        (N, *shape).
    answers
        Of the N inputs.
    outputs
        Points (B, *shape) to outputs (B, K), arrays; B is at most `batch_size`.
    distribution
        As `as_distribution` gives it.
    seed, batch_size
        As for `Streams` and `sampled`.

    Attributes
    ----------
    nb_drawn
        (N,) int: points drawn so far.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        answers: Answers,
        outputs: Callable[[np.ndarray], np.ndarray],
        distribution: Distribution,
        *,
        seed: int,
        batch_size: int | None,
    ) -> None:
        self._streams = Streams(seed, inputs, "points with another answer")
        self._answers, self._outputs, self._distribution = answers, outputs, distribution
        self._batch_size = batch_size
        self.nb_drawn = np.zeros(len(inputs), int)

    def count(self, some: np.ndarray, region: Region, nb_samples: Any) -> np.ndarray:
        """Points with another answer, or none, among the next ones, (M,) int.

        Parameters
        ----------
        some
            (M,) numbers of inputs, ascending.
        region
            Their M regions, of which points are drawn.
        nb_samples
            Points of each of them, (M,) int or one number.
        """
        counts = np.zeros(len(self.nb_drawn), int)
        counts[some] = nb_samples

        def draw(generator: np.random.Generator, number: int, count: int) -> np.ndarray:
            row = int(np.searchsorted(some, number))
            return self._distribution(generator, region[row : row + 1], count)

        def changes(points: np.ndarray, which: np.ndarray) -> np.ndarray:
            return ~self._answers[which].stay(self._outputs(points))

        answers = sampled(self._streams, counts, draw, changes, batch_size=self._batch_size)
        found = added_up(answers, len(counts))[some].astype(int)
        self.nb_drawn += counts
        return found

    def count_up_to(
        self, some: np.ndarray, region: Region, nb_samples: int, most: np.ndarray
    ) -> np.ndarray:
        """The same, of an input no further than to the first look at more than `most` (M,) of them.

        Whether there are more than `most` is what all `nb_samples` draws would tell: their number
        only grows.
        """
        found, going = np.zeros(len(some), int), np.ones(len(some), bool)
        drawn, size = 0, _FIRST
        while drawn < nb_samples and going.any():
            size = min(size, nb_samples - drawn)
            found[going] += self.count(some[going], region[going], size)
            going &= found <= most
            drawn, size = drawn + size, 2 * size
        return found
