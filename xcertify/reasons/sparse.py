"""Witnesses that move as few groups as possible: they say more of how small a set can be."""

from __future__ import annotations

import time

import numpy as np

from xcertify.bounds import Verifier
from xcertify.inputs import in_batches
from xcertify.reasons.found import Found
from xcertify.regions import as_column

_CLEARLY = 1e-3  # another answer, in units of the outputs: near ties take long to confirm


def make_sparse(
    verifier: Verifier,
    found: Found,
    rows: np.ndarray,
    limits: np.ndarray,
    *,
    deadline: float,
    batch_size: int,
    seed: int,
) -> None:
    """Move groups of witnesses back to the input, as far as the answer stays another one.

    Of the groups that a witness moves, its own and those that contribute most stay moved; how many
    is found by halving. What comes out is confirmed as a counterexample, else nothing is changed.

    Parameters
    ----------
    verifier, found, rows, limits
        As for `Search`; the witnesses are changed.
    deadline
        As `time.monotonic` tells the time: nothing is begun behind it.
    batch_size, seed
        See `Search`.
    """
    samples = np.array([n for n, own in enumerate(found.witnesses) for _ in own], int)
    groups = np.array([group for own in found.witnesses for group in own], int)
    for part in in_batches(np.arange(len(samples)), batch_size):
        if time.monotonic() > deadline:
            return
        some, own = samples[part], groups[part]
        with found.timed(some):
            points = np.stack([found.witnesses[n][g] for n, g in zip(some, own)])
            before = found.moved(some, points)
            points = _sparse(verifier, found, rows, limits, some, own, points)
            moved = found.moved(some, points)
            fewer = moved.sum(axis=1) < before.sum(axis=1)
            some, own, points, moved = some[fewer], own[fewer], points[fewer], moved[fewer]
            if not len(some):
                continue
            again = verifier.attack(
                found.freed(some, moved),
                rows[some],
                limits[some],
                starts=points[None],
                restarts=0,
                seed=seed,
            )
            good = again.violated
            found.need(some[good], own[good], again.points[good])


def _sparse(
    verifier: Verifier,
    found: Found,
    rows: np.ndarray,
    limits: np.ndarray,
    samples: np.ndarray,
    groups: np.ndarray,
    points: np.ndarray,
) -> np.ndarray:
    """Points (M, *input) with fewer groups moved, with other answers as far as is seen."""
    center, features = found.region.center[samples], found.features[samples]
    moved, each = found.moved(samples, points), np.arange(len(samples))
    importance = np.where(moved, found.contributions[samples], -np.inf)
    importance[each, groups] = np.inf
    ranks = np.argsort(np.argsort(-importance, axis=1, kind="stable"), axis=1)  # (M, G)
    low, high = np.zeros(len(samples), int), moved.sum(axis=1)
    rows = rows[samples].astype(np.float64)  # (M, P, J, K)
    while (high - low > 1).any():
        count = (low + high) // 2
        tried = np.where(features.to_inputs(ranks < as_column(count, ranks)), points, center)
        outputs = verifier.evaluate(tried).reshape(len(tried), -1)
        values = np.einsum("mpjk,mk->mpj", rows, outputs) - limits[samples]
        size = np.abs(outputs).max(axis=1)
        changed = values.max(axis=2).min(axis=1) < -_CLEARLY * size
        high, low = np.where(changed, count, high), np.where(changed, low, count)
    return np.where(features.to_inputs(ranks < as_column(high, ranks)), points, center)
