"""The last proof: what was found is proved once more, in one piece and in float64."""

from __future__ import annotations

import math
import time

import numpy as np

from xcertify.bounds import Verifier
from xcertify.reasons.found import Found

_LEAST_SECONDS = 1.0  # for each input, if the time is over
_MOST = 100_000  # branches of one proof


def prove(
    verifier: Verifier,
    found: Found,
    rows: np.ndarray,
    limits: np.ndarray,
    *,
    deadline: float,
    seed: int,
) -> None:
    """Prove that the irrelevant groups of N inputs may move together; keep what is proved.

    Where that fails, or takes too long, fewer groups are irrelevant: those of the first half of the
    steps in which they became so, and so on. The others are open then, and so is what only they
    show to be needed.

    Parameters
    ----------
    verifier
        Of the logits, in float64.
    found
        What was found.
    rows, limits
        The property that is violated where the answer is another one, see `Verifier.decide`.
    deadline
        As `time.monotonic` tells the time; a first proof of little is always tried.
    seed
        Of attacks.

    Raises
    ------
    KeyboardInterrupt
        If it is interrupted (Ctrl-C): nothing is proved then.
    """
    samples = np.arange(len(rows))
    steps = found.added.max(axis=1, initial=0)
    while len(samples):
        found.back_to(samples, steps[samples])
        left = max(deadline - time.monotonic(), _LEAST_SECONDS * len(samples))
        with found.timed(samples):
            decision = verifier.decide(
                found.freed(samples, found.irrelevant[samples]),
                rows[samples],
                limits[samples],
                timeout=left if math.isfinite(left) else None,
                nb_branches=_MOST,
                seed=seed,
            )
        if "interrupted" in decision.reason:
            raise KeyboardInterrupt
        samples = samples[~decision.holds & (steps[samples] >= 0)]
        steps[samples] = np.where(steps[samples] > 0, steps[samples] // 2, -1)
