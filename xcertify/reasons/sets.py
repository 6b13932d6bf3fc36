"""Sufficient sets of N inputs: found, and then proved once more."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from xcertify.answers import Answers
from xcertify.bounds import Verifier
from xcertify.reasons.features import Features
from xcertify.reasons.found import Found
from xcertify.reasons.proof import prove
from xcertify.reasons.search import Search
from xcertify.reasons.smallest import least_size
from xcertify.reasons.sparse import make_sparse
from xcertify.regions import Region

_SEARCHED = 0.75  # share of the time, the rest is for the last proof


@dataclass(frozen=True)
class Sets:
    """What is proved of the groups of N inputs.

    Attributes
    ----------
    irrelevant, needed
        (N, G) bool; the other groups that there are are unknown.
    witnesses
        N dictionaries {number of a needed group: input}.
    smallest
        (N,) int: no sufficient set has fewer groups.
    contributions
        (N, G) float64: what each group costs a bound.
    seconds
        (N,).
    reason
        (N,) words: why something is unknown.
    interrupted
        Whether the search was (Ctrl-C).
    """

    irrelevant: np.ndarray
    needed: np.ndarray
    witnesses: list[dict[int, np.ndarray]]
    smallest: np.ndarray
    contributions: np.ndarray
    seconds: np.ndarray
    reason: np.ndarray
    interrupted: bool = False

    @classmethod
    def none(cls, features: Features, reason: str) -> Sets:
        """Nothing is known."""
        nb_inputs, shape = len(features), features.keys.shape
        return cls(
            irrelevant=np.zeros(shape, bool),
            needed=np.zeros(shape, bool),
            witnesses=[{} for _ in range(nb_inputs)],
            smallest=np.zeros(nb_inputs, int),
            contributions=np.zeros(shape),
            seconds=np.zeros(nb_inputs),
            reason=np.full(nb_inputs, reason, object),
        )

    @classmethod
    def joined(cls, parts: Sequence[Sets]) -> Sets:
        """Those of all inputs, of those of some each."""
        fields: dict[str, Any] = {
            name: np.concatenate([vars(part)[name] for part in parts])
            for name in vars(parts[0])
            if name not in ("witnesses", "interrupted")
        }
        return cls(**fields, witnesses=[own for part in parts for own in part.witnesses])

    def or_smaller(self, other: Sets) -> Sets:
        """Of each input the smaller set of both; the seconds are those of both."""
        size, others = (sets.irrelevant.sum(axis=1) for sets in (self, other))
        better = np.flatnonzero(
            (others > size) | ((others == size) & (other.needed.sum(1) > self.needed.sum(1)))
        )
        arrays = {n: a.copy() for n, a in vars(self).items() if isinstance(a, np.ndarray)}
        for name, array in arrays.items():
            array[better] = vars(other)[name][better]
        chosen = set(better.tolist())
        witnesses = [
            other.witnesses[n] if n in chosen else own for n, own in enumerate(self.witnesses)
        ]
        arrays["seconds"] = self.seconds + other.seconds
        return replace(self, **arrays, witnesses=witnesses)


def sufficient_sets(
    verifiers: tuple[Verifier, Verifier],
    region: Region,
    features: Features,
    answers: Answers,
    order: np.ndarray | None,
    *,
    complete: bool,
    deadline: float,
    batch_size: int,
    seed: int,
    progress: tqdm,
) -> Sets:
    """Sets of groups of features that are enough for the answers of N inputs.

    Parameters
    ----------
    verifiers
        Of the logits, in float32 to find sets, and in float64 to prove them.
    region, features, answers
        Of N inputs, at which the model gives the answers.
    order, complete, batch_size, seed, progress
        See `Search`.
    deadline
        As `time.monotonic` tells the time, for the proof as well.
    """
    rows, limits = answers.property()
    found = Found(region, features)
    now = time.monotonic()
    search = Search(
        verifiers,
        found,
        rows,
        limits,
        order,
        complete=complete,
        deadline=now + _SEARCHED * (deadline - now),
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    reason = search.run()
    prove(verifiers[1], found, rows, limits, deadline=deadline, seed=seed)
    interrupted = reason == "interrupted"
    try:
        make_sparse(
            verifiers[0],
            found,
            rows,
            limits,
            deadline=-math.inf if interrupted else deadline,
            batch_size=batch_size,
            seed=seed,
        )
    except KeyboardInterrupt:  # witnesses as they were are as good
        interrupted = True
    is_open = found.open.any(axis=1)
    smallest = []
    for sample, own in enumerate(found.witnesses):
        points = np.stack(list(own.values())) if own else region.center[:0]
        smallest.append(least_size(found.moved(np.full(len(own), sample), points)))
    return Sets(
        found.irrelevant,
        found.needed,
        found.witnesses,
        np.array(smallest, int),
        found.contributions,
        found.seconds,
        np.where(is_open, reason or "time limit", "").astype(object),
        interrupted,
    )
