"""Random points of regions, and points near the best of them: the attack without gradients."""

from __future__ import annotations

import math

import numpy as np

from xcertify.ascent import random_start
from xcertify.bounds.branching.attacked import Attacked
from xcertify.regions import Region

_NUMBER, _FEWEST, _MOST = 2**15, 16, 2048  # of random points: divided by the features; the limits
_NB_BEST = 32  # of them, that are known by their order
_FEW_FEATURES = 24
_NB_GENERATIONS, _NB_PARENTS, _NB_CHILDREN = 10, 16, 16  # children of each
_WIDTH, _SHRINKING = 0.25, 0.8  # how far children are, as a share of the box, and from then on
_MOVED = 0.6  # share of the features in which a child differs


class RandomPoints:
    """Random points, by the same draws for all regions, or points that are given.

    Parameters
    ----------
    attacked
        The regions; takes what is found.
    seed
        Of the draws.
    given
        (S, N, *input): these points, moved into the regions, take the place of random ones.

    Attributes
    ----------
    order
        (N, T, P): the T points that are nearest to a violation of each conjunction, see `start`.
    """

    def __init__(self, attacked: Attacked, seed: int, given: np.ndarray | None = None) -> None:
        self._attacked, self._seed, self._given = attacked, seed, given
        count = min(_MOST, max(_FEWEST, _NUMBER // math.prod(attacked.region.shape)))
        count = min(count, max(_FEWEST, 8 * attacked.nb_at_once))
        self._shares = self.shares(0, count if given is None else 0)
        count = self._count = count if given is None else len(given)
        nb_regions, nb_conjunctions = attacked.reached.shape
        self.order = np.zeros((nb_regions, min(_NB_BEST, count + 1), nb_conjunctions), np.int32)

    @property
    def are_given(self) -> bool:
        """Whether they are not random."""
        return self._given is not None

    def shares(self, stream: int, count: int) -> np.ndarray:
        """Shares (count, *input) of the sides of a box: random ones and corners in turn."""
        generator = np.random.default_rng([self._seed, stream])
        shares = generator.random((count, *self._attacked.region.shape))
        shares[1::2] = np.round(shares[1::2])
        return shares

    def start(self, region: Region, places: np.ndarray, number: int) -> np.ndarray:
        """One of the points in some regions, those of places (n,): (n, *input); 0: the center."""
        if number == 0:
            return region.center
        if self._given is None:
            return random_start(region, self._shares[number - 1])
        return region.project(self._given[number - 1, places].astype(region.center.dtype))

    def sample(self, deadline: float) -> None:
        """Look at the centers and at random points."""
        for some in self._attacked.in_turn(self._count + 1, deadline):
            self._sample(some)
            self._attacked.confirm(some)

    def _sample(self, some: np.ndarray) -> None:
        """The same for some of the regions."""
        attacked, region, values = self._attacked, self._attacked.region[some], []
        for first in range(0, self._count + 1, attacked.nb_at_once):
            numbers = range(first, min(first + attacked.nb_at_once, self._count + 1))
            points = np.stack([self.start(region, some, number) for number in numbers])
            values.append(attacked.look_at(points, some))
        found = np.concatenate(values, axis=1)  # (n, S, P)
        self.order[some] = np.argsort(found, axis=1)[:, : self.order.shape[1]]
        attacked.reached[some] = found.min(axis=1)
        best = found.min(axis=2).argmin(axis=1)  # (n,)
        for number in np.unique(best):
            own = best == number
            points = self.start(region[own], some[own], number)
            attacked.keep_worst(points, found[own, number].min(axis=1), some[own])

    def breed(self, turn: int, deadline: float) -> None:
        """Of few features: random points, and others near the best of them, ever nearer.

        Where outputs are constant in parts of a region, gradients lead nowhere.
        """
        if math.prod(self._attacked.region.shape) > _FEW_FEATURES:
            return
        for some in self._attacked.in_turn(_NB_PARENTS * _NB_CHILDREN, deadline):
            self._breed(some, turn)
            self._attacked.confirm(some)

    def _breed(self, some: np.ndarray, turn: int) -> None:
        """The same for some of the regions."""
        attacked, region, number = self._attacked, self._attacked.region[some], np.arange(len(some))
        generator = np.random.default_rng([self._seed, 1, turn])
        width = region.upper - region.lower
        shape = (_NB_CHILDREN * _NB_PARENTS, 1, *region.shape)
        points, values = attacked.points[some][None], attacked.least[some][None]  # (S, n, ...)
        children = region.lower + generator.random(shape) * width
        for generation in range(_NB_GENERATIONS):
            children = region.project(children.astype(attacked.dtype))
            found = attacked.look_at(children, some).min(axis=2).T  # (S, n)
            points, values = np.concatenate([points, children]), np.concatenate([values, found])
            best = np.argsort(values, axis=0, kind="stable")[:_NB_PARENTS]
            points, values = points[best, number], values[best, number]
            if (values[0] < 0).all():
                break
            steps = generator.standard_normal(shape) * (generator.random(shape) < _MOVED)
            parents = np.tile(points, (_NB_CHILDREN, 1, *[1] * len(region.shape)))
            children = parents + _WIDTH * _SHRINKING**generation * steps * width
        attacked.keep_worst(points[0], values[0], some)
