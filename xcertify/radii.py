"""Certified against attacked: every proof is held against the best attack on the same quantity.

An attack that succeeds where a certificate says that none can is no result: it is refused, in one
way, wherever the package has both sides. The search for the largest radius up to an attack is here
too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class ContradictionError(RuntimeError):
    """An attack succeeded inside a certified region: one of the two is wrong."""


def largest_proved(
    holds: Callable[[np.ndarray, np.ndarray], np.ndarray], ends: np.ndarray, nb_halvings: int
) -> np.ndarray:
    """The largest radii that were tried and proved, by bisection from 0 to given ends.

    What is returned was itself proved, so that it does not matter that bounds are not monotone.

    Parameters
    ----------
    holds
        (samples (M,), radii (M,)) -> (M,) bool: where it is proved that nothing happens up to the
        radius; `samples` are places in `ends`.
    ends
        (N,): where to stop, such as the distance of an attack. An end is tried itself, last, where
        no smaller radius has failed: so a proof that reaches an attack is found out.
    nb_halvings
        Number of bisections.

    Returns
    -------
    radii
        (N,) float64; 0 where none was proved.
    """
    ends = np.asarray(ends, np.float64)
    low, high, some = np.zeros(len(ends)), ends.copy(), np.flatnonzero(ends)
    for _ in range(nb_halvings if len(some) else 0):
        middle = (low[some] + high[some]) / 2
        proved = holds(some, middle)
        low[some[proved]], high[some[~proved]] = middle[proved], middle[~proved]
    left = some[high[some] == ends[some]]
    if len(left):
        proved = left[holds(left, ends[left])]
        low[proved] = ends[proved]
    return low


def compare_radii(
    certified: Any,
    attacked: Any,
    *,
    what: str,
    method: str,
    region: str,
    samples: Any = None,
) -> None:
    """Refuse attacks at a distance that is certified.

    Parameters
    ----------
    certified
        (N,): radii up to which, with themselves, it is proved that something does not happen; 0
        where nothing is proved.
    attacked
        (N,): distances at which an attack made it happen, beyond what roundings can feign; inf
        where none did.
    what
        What does not happen, for the message: "another class".
    method, region
        Of the certificate, for the message.
    samples
        (N,) numbers of the inputs; None: in their order.

    Raises
    ------
    ContradictionError
        Where ``attacked <= certified``; the message names the first such input.
    """
    certified, attacked = np.asarray(certified, np.float64), np.asarray(attacked, np.float64)
    inside = (attacked <= certified) & (certified > 0)
    _refuse(inside, certified, attacked, "certifies up to", what, method, region, samples)


def compare_bounds(
    proved: Any,
    attained: Any,
    *,
    what: str,
    method: str,
    region: str,
    samples: Any = None,
) -> None:
    """Refuse attacks that attain more than an upper bound.

    Parameters
    ----------
    proved
        (N,): upper bounds of a quantity over regions.
    attained
        (N,): values at points of the regions, less what roundings can feign; -inf where there are
        none.
    what, method, region, samples
        As for `compare_radii`.

    Raises
    ------
    ContradictionError
        Where ``attained > proved``; the message names the first such input.
    """
    proved, attained = np.asarray(proved, np.float64), np.asarray(attained, np.float64)
    _refuse(attained > proved, proved, attained, "bounds by", what, method, region, samples)


def _refuse(
    wrong: np.ndarray,
    certified: np.ndarray,
    attacked: np.ndarray,
    claims: str,
    what: str,
    method: str,
    region: str,
    samples: Any,
) -> None:
    if not wrong.any():
        return
    place = int(np.argmax(wrong))
    sample = place if samples is None else int(np.asarray(samples)[place])
    raise ContradictionError(
        f"an attack beat a certificate: it found {what} at {attacked[place]:.9g} for input "
        f"{sample}, which method={method!r} {claims} {certified[place]:.9g} ({region}). This is a "
        f"bug of xcertify, or the model changed between proof and attack; please report it with "
        f"the model"
    )
