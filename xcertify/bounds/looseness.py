"""How much wider bounds are than what a short attack attains of the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from xcertify.bounds.branching.attack import attack
from xcertify.bounds.engine import Engine
from xcertify.inputs import in_batches
from xcertify.regions import Region

_NB_STEPS, _NB_CORNERS = 10, 4
_NB_ENTRIES = 2**22  # of the copies of regions that are attacked together


def attained_rows(
    engine: Engine,
    region: Region,
    rows: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    constants: Sequence[Any] = (),
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest values of rows that a short attack finds, (N, S) float64 each.

    Parameters
    ----------
    engine
        Of the network.
    region, constants, seed
        As for `Verifier.attack`.
    rows
        (S, K) or (N, S, K).
    lower, upper
        (N, S): what is proved of them, and so is out of reach.
    """
    nb_samples = len(lower)
    rows = np.broadcast_to(rows, (nb_samples, *rows.shape[-2:]))
    signs = np.array([1.0, -1.0])
    ends = np.stack([lower, -upper], axis=-1).astype(np.float64)  # (N, S, 2)
    limits = ends - 1.0 - np.abs(ends)
    limits = np.where(np.isfinite(limits), limits, -1e30)
    found = np.empty(limits.shape)
    step = max(1, _NB_ENTRIES // math.prod(region.shape))
    for some in in_batches(np.arange(found.size), step):
        sample, row, side = np.unravel_index(some, found.shape)
        regions = region[sample]
        worst = attack(
            engine,
            regions,
            (signs[side, None] * rows[sample, row]).astype(rows.dtype)[:, None, None],
            limits[sample, row, side][:, None, None],
            [np.asarray(values)[sample] for values in constants],
            starts=np.concatenate([regions.center[None], regions.corners(_NB_CORNERS, seed)]),
            nb_steps=_NB_STEPS,
            restarts=1,
            seed=seed,
            deadline=math.inf,
            proves_all=False,
        )
        found.reshape(-1)[some] = worst.least
    found = found + limits
    return found[..., 0], -found[..., 1]
