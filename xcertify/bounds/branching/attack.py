"""The attack on a property: random points, then ascents towards points that violate it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from xcertify.bounds.branching.ascents import Ascents
from xcertify.bounds.branching.attacked import Attacked
from xcertify.bounds.branching.random_points import RandomPoints
from xcertify.bounds.branching.substitutions import Substitutions
from xcertify.bounds.engine import Engine
from xcertify.regions import Region
from xcertify.words import Words

_NB_QUICK = 2  # restarts of an attack that does nothing beside


def attack(
    engine: Engine,
    region: Region,
    rows: np.ndarray,
    limits: np.ndarray,
    constants: Sequence[np.ndarray] = (),
    *,
    starts: np.ndarray | None = None,
    nb_steps: int = 40,
    restarts: int = 8,
    seed: int = 0,
    deadline: float = math.inf,
    proves_all: bool = True,
) -> Attacked:
    """Look for points of N regions that violate a property.

    Random points, or given ones, first; then ascents from those nearest to a violation of each
    conjunction, from the worst point so far, and from anywhere. A region is left alone once a
    counterexample is found.

    Parameters
    ----------
    engine
        The network.
    region
        N regions.
    rows, limits
        (N, P, J, K) and (N, P, J): a property, see `Verifier.decide`.
    constants
        The inputs that do not vary, (N, *shape) each.
    starts
        (S, N, *input): points to begin with, instead of random ones.
    nb_steps, restarts
        Of the ascents. With more than two restarts, regions of few features are searched without
        gradients, too.
    seed
        Of the random points, which are the same for all regions.
    deadline
        As `time.monotonic` tells the time: nothing is begun behind it.
    proves_all
        Whether the values of points that are no counterexamples are proved, too.

    No guarantee
    ------------
    What the attack does not find may exist all the same.
    """
    attacked = Attacked(engine, region, rows, limits, constants)
    random_points = RandomPoints(attacked, seed, starts)
    random_points.sample(deadline)
    kind = Substitutions if isinstance(region, Words) else Ascents
    ascents = kind(attacked, random_points, nb_steps)
    first, at_once = 0, 1
    while first < restarts and attacked.open.any() and time.monotonic() <= deadline:
        last = min(first + at_once, restarts)
        ascents.climb(range(first, last), deadline)
        if restarts > _NB_QUICK:
            random_points.breed(first, deadline)
        first, at_once = last, max(1, last)  # twice as many at a time
    if proves_all:
        attacked.confirm_others()
    return attacked
