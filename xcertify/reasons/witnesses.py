"""Witnesses: points with another answer, which show that groups are needed."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from xcertify.bounds import Verifier, WorstPoints
from xcertify.inputs import in_batches
from xcertify.radii import ContradictionError
from xcertify.reasons.deadline import Deadline
from xcertify.reasons.found import Found

_QUICK, _THOROUGH = (20, 1), (40, 4)  # steps and restarts of attacks
_NB_STARTS = 4  # points that attacks begin with, for each input


class Witnesses:
    """Attacks on groups of N inputs, each of which begins where others came near.

    Parameters
    ----------
    verifier, found, rows, limits, deadline, batch_size, seed, progress
        See `Search`; of the verifiers the first.

    Attributes
    ----------
    grown
        (N,) bool: whether more is irrelevant, or another start is known, since `look_for`.
    values
        (N, G): the least value of the property that attacks on one group reached, inf where there
        was none.
    """

    def __init__(
        self,
        verifier: Verifier,
        found: Found,
        rows: np.ndarray,
        limits: np.ndarray,
        deadline: Deadline,
        batch_size: int,
        seed: int,
        progress: tqdm,
    ) -> None:
        self._verifier, self._found, self._rows, self._limits = verifier, found, rows, limits
        self._deadline, self._batch_size = deadline, batch_size
        self._seed, self._progress = seed, progress
        self.grown = np.ones(len(rows), bool)
        self.values = np.full(found.irrelevant.shape, np.inf)
        self._nearest = np.full(len(rows), np.inf)  # the least of them, reached at the first start
        self._starts = np.repeat(found.worst[None], _NB_STARTS, axis=0)

    def look_for(self, samples: np.ndarray) -> None:
        """Look for witnesses of the open groups of samples, from the worst points known."""
        found = self._found
        for some in in_batches(samples, self._batch_size):
            masks = found.irrelevant[some]
            worst = self._attacked(some, masks, self._starts_of(some), *_THOROUGH)
            if worst.violated.any():
                sample = some[np.argmax(worst.violated)]
                raise ContradictionError(
                    f"another answer was found where bounds prove that there is none, for input "
                    f"{sample}: this is a bug, please report it with the model"
                )
            found.note_worst(some, worst)
            self._nearest[some] = np.inf
        self.grown[samples] = False
        is_open = np.zeros(found.open.shape, bool)
        is_open[samples] = found.open[samples]
        tasks, groups = np.nonzero(is_open)
        for effort in ((1, 0), _QUICK):
            refuted, near = np.zeros(len(tasks), bool), self._starts[0].copy()
            for part in in_batches(np.arange(len(tasks)), self._batch_size):
                some, own = tasks[part], groups[part]
                worst = self._attacked(
                    some, self._found.with_one(some, own), self._ends(some, own), *effort
                )
                refuted[part], self.values[some, own] = worst.violated, worst.values
                self._keep_nearest(some, worst, near)
                self.need(some[worst.violated], own[worst.violated], worst.points[worst.violated])
            self._starts[0] = near
            tasks, groups = tasks[~refuted], groups[~refuted]

    def _ends(self, samples: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Where attacks begin, with a group (M,) at its two ends: (S, M, *input)."""
        found = self._found
        own = found.features[samples].numbers == groups.reshape(-1, *[1] * len(found.region.shape))
        region, starts = found.region[samples], self._starts_of(samples)
        ends = [np.where(own, side, starts) for side in (region.lower, region.upper)]
        return np.concatenate(ends)

    def _attacked(
        self,
        samples: np.ndarray,
        masks: np.ndarray,
        starts: np.ndarray,
        nb_steps: int,
        restarts: int,
    ) -> WorstPoints:
        """The worst points where groups (M, G) of samples (M,) move."""
        self._deadline.check()
        with self._found.timed(samples):
            return self._verifier.attack(
                self._found.freed(samples, masks),
                self._rows[samples],
                self._limits[samples],
                starts=starts,
                nb_steps=nb_steps,
                restarts=restarts,
                seed=self._seed,
            )

    def keep_first(self, samples: np.ndarray, points: np.ndarray) -> None:
        """Of points (M, *input) with another answer the first one of each sample, for attacks."""
        samples, firsts = np.unique(samples, return_index=True)
        self.keep(samples, points[firsts])
        self.grown[samples] = True

    def _keep_nearest(self, samples: np.ndarray, worst: WorstPoints, near: np.ndarray) -> None:
        """Of points (M, *input) that are no other answers, the nearest to one goes to `near`.

        Should the group that moves there become irrelevant, attacks go on from there.
        """
        values = np.where(worst.violated, np.inf, worst.values)
        order = np.lexsort((values, samples))
        samples, firsts = np.unique(samples[order], return_index=True)
        best = order[firsts]
        nearer = values[best] < self._nearest[samples]
        self._nearest[samples[nearer]] = values[best[nearer]]
        near[samples[nearer]] = worst.points[best[nearer]]

    def _starts_of(self, samples: np.ndarray) -> np.ndarray:
        """Where attacks begin: the worst points, and other answers known, (S, M, *input)."""
        return np.concatenate([self._found.worst[samples][None], self._starts[:, samples]])

    def keep(self, samples: np.ndarray, points: np.ndarray) -> None:
        """Points (M, *input) of different samples with another answer, where others may be near."""
        self._starts[1:, samples] = np.concatenate([points[None], self._starts[1:-1, samples]])

    def need(self, samples: np.ndarray, groups: np.ndarray, points: np.ndarray) -> None:
        """Groups (M,) of samples (M,) are needed, as points (M, *input) show."""
        self._found.need(samples, groups, points)
        self._progress.update(len(samples))

    def not_refuted(self, samples: np.ndarray, ranks: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """How many of the first groups (M,) an attack does not refute, by halving."""
        low, high = np.zeros(len(samples), int), counts + 1
        test = counts.copy()
        while (high - low > 1).any():
            places = np.flatnonzero(high - low > 1)
            for part in in_batches(places, self._batch_size):
                some, new = samples[part], ranks[part] < test[part, None]
                masks = self._found.irrelevant[some] | new
                worst = self._attacked(some, masks, self._starts_of(some), *_THOROUGH)
                self.keep(some[worst.violated], worst.points[worst.violated])
                high[part] = np.where(worst.violated, test[part], high[part])
                low[part] = np.where(worst.violated, low[part], test[part])
                shown = worst.violated & (test[part] == 1)
                self._need_first(some[shown], ranks[part[shown]], worst.points[shown])
            test = (low + high) // 2
        return low

    def _need_first(self, samples: np.ndarray, ranks: np.ndarray, points: np.ndarray) -> None:
        """The first group of each sample is needed."""
        if len(samples):
            self.need(samples, ranks.argmin(axis=1), points)
