"""The search for sufficient sets: linear bounds, attacks, then branch and bound for what is left.

A group is *irrelevant* once it is proved that all irrelevant ones may move together, and *needed*
once a point is found that changes the answer, in which only it and irrelevant ones have moved. Both
stay true while more becomes irrelevant. All inputs go through the same batches.
"""

from __future__ import annotations

import time

import numpy as np
from tqdm import tqdm

from xcertify.bounds import Decision, Verifier
from xcertify.inputs import in_batches
from xcertify.reasons.deadline import Deadline, TimeLimit
from xcertify.reasons.found import Found
from xcertify.reasons.freeing import Freeing
from xcertify.reasons.witnesses import Witnesses

_DECIDED = 0.8  # share of the time, the rest is for attacks on what is free by then
_EFFORT, _MORE = 250, 8  # branches of a decision, and how many times as many in the next turn
_MOST = 100_000  # branches of one decision: what is left then is a near tie
_NB_TRIES = 2  # of groups together, which attacks do not refute but decisions do
_NB_NEAREST = 4  # groups of an input that are decided at a time, each on its own


class Search:
    """Looks for sufficient sets of N inputs.

    Parameters
    ----------
    verifiers
        Of the logits: in float32, and in float64 for what roundings leave undecided.
    found
        What is known; takes what is found.
    rows, limits
        (N, P, J, K) and (N, P, J): the property that is violated where the answer is another one.
    order
        (N, G) of groups, in which they are freed; None: by what they contribute to the bound.
    complete
        Whether branch and bound decides what is left.
    deadline
        As `time.monotonic` tells the time.
    batch_size
        Most regions that are worked on at once.
    seed
        Of attacks.
    progress
        Counts the groups that are settled.
    """

    def __init__(
        self,
        verifiers: tuple[Verifier, Verifier],
        found: Found,
        rows: np.ndarray,
        limits: np.ndarray,
        order: np.ndarray | None,
        *,
        complete: bool,
        deadline: float,
        batch_size: int,
        seed: int,
        progress: tqdm,
    ) -> None:
        self._verifier, self._precise = verifiers
        self._found, self._rows, self._limits = found, rows, limits
        self._complete, self._order, self._end = complete, order, deadline
        self._batch_size, self._seed, self._progress = batch_size, seed, progress
        now = time.monotonic()
        self._deadline = Deadline(now + (_DECIDED if complete else 1.0) * (deadline - now))
        shared = verifiers[0], found, rows, limits
        self._freeing = Freeing(*shared, order, self._deadline, batch_size)
        self._witnesses = Witnesses(*shared, self._deadline, batch_size, seed, progress)
        nb_inputs, nb_groups = found.irrelevant.shape
        self._aside = np.zeros((nb_inputs, nb_groups), bool)  # open, but not for this effort
        self._no_cap = nb_groups + 1
        self._cap = np.full(nb_inputs, self._no_cap)  # so many were not decided
        self._one_by_one = np.zeros(nb_inputs, bool)
        self._is_large = np.zeros(nb_inputs, bool)  # what is irrelevant, so that attacks are near

    def run(self) -> str:
        """Until nothing is open, and why something is.

        "", "bounds", "branches", "time limit", "interrupted".
        """
        try:
            self._freeing.free()
            self._progress.update(int(self._found.irrelevant.sum()))
            if self._complete:
                return self._decide_all()
            self._witnesses.look_for(np.flatnonzero(self._found.open.any(axis=1)))
            return "bounds" if self._found.open.any() else ""
        except TimeLimit:
            return self._last_attack()
        except KeyboardInterrupt:
            return "interrupted"

    def _last_attack(self) -> str:
        """Witnesses for what is irrelevant now, in the rest of the time."""
        self._deadline.at = self._end
        left = self._found.open.any(axis=1) & self._witnesses.grown
        try:
            self._witnesses.look_for(np.flatnonzero(left))
        except TimeLimit:
            pass
        except KeyboardInterrupt:
            return "interrupted"
        return "time limit"

    # --- decisions --------------------------------------------------------------------------------

    def _decide_all(self) -> str:
        """Until nothing is open, or the time is over; what is hard is put aside, for more effort.

        A near tie is never decided, so that effort has an end, too: then it gives "branches".

        While many groups can be freed together they are. Then those go first that attacks came
        nearest to refute: once such a group is irrelevant, hardly any other can follow, and an
        attack shows so.
        """
        effort: int = _EFFORT
        while self._found.open.any():
            samples = np.flatnonzero(self._left.any(axis=1))
            if not len(samples):
                if effort * _MORE > _MOST:
                    return "branches"
                self._aside[:], self._cap[:] = False, self._no_cap
                effort *= _MORE
                continue
            grown = samples[self._witnesses.grown[samples] & self._is_large[samples]]
            if len(grown):
                self._witnesses.look_for(grown)
            together = samples[~self._one_by_one[samples]]
            if len(together):
                self._decide_together(together, effort)
            samples = np.flatnonzero((self._left & self._one_by_one[:, None]).any(axis=1))
            self._decide_nearest(samples, effort)
        return ""

    @property
    def _left(self) -> np.ndarray:
        """(N, G) bool: open, and not put aside."""
        return self._found.open & ~self._aside

    def _decide_together(self, samples: np.ndarray, effort: int) -> None:
        """Free as many groups in order as can be proved: at first the most that are not refuted.

        Where that is one or none, groups are decided one by one from then on.
        """
        ranks, counts = self._left_in_order(samples)
        counts = np.minimum(counts, self._cap[samples] - 1)
        steps, failed, freed = np.ones((3, len(samples)), int) * [[1], [0], [0]]
        tries = np.where(self._is_large[samples], _NB_TRIES, self._no_cap)
        places = refuted = np.arange(len(samples))
        while True:
            counts[refuted] = self._witnesses.not_refuted(
                samples[refuted], ranks[refuted], counts[refuted]
            )
            places = places[(counts[places] > 0) & (tries[places] > 0)]
            if not len(places):
                break
            some, count = samples[places], counts[places]
            new = ranks[places] < count[:, None]
            decision = self._decide(some, self._found.irrelevant[some] | new, effort)
            self._free(some[decision.holds], new[decision.holds])
            freed[places[decision.holds]] = count[decision.holds]
            self._witnesses.keep(
                some[decision.violated], decision.counterexamples[decision.violated]
            )
            tries[places] -= decision.violated
            failed[places[decision.unknown]] = count[decision.unknown]
            counts[places] -= np.where(decision.unknown, steps[places], 1)
            steps[places] *= np.where(decision.unknown, 2, 1)
            self._stop_if_interrupted(decision)
            refuted, places = places[decision.violated], places[~decision.holds]
        # what was not decided together with those that are free by now is not tried again
        self._cap[samples] = np.where(failed > freed, failed - freed, self._no_cap)
        self._one_by_one[samples], self._is_large[samples] = freed < 2, True

    def _left_in_order(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rank of each group (M, G) among those left, G for others, and their number (M,)."""
        left, order = self._left[samples], self._freeing.ranked(samples)
        if self._order is None:  # by what attacks reached, where they were made
            values = np.take_along_axis(self._witnesses.values[samples], order, axis=1)
            by_value = np.argsort(-values, axis=1, kind="stable")
            order = np.take_along_axis(order, by_value, axis=1)
        ordered = np.take_along_axis(left, order, axis=1)
        ranks = np.empty(order.shape, int)
        numbers = np.where(ordered, np.cumsum(ordered, axis=1) - 1, order.shape[1])
        np.put_along_axis(ranks, order, numbers, axis=1)
        return ranks, left.sum(axis=1)

    def _decide_nearest(self, samples: np.ndarray, effort: int) -> None:
        """Decide the groups, each on its own, that attacks came nearest to refute; free one.

        In a given order, the first ones of it.
        """
        if not len(samples):
            return
        left = self._left[samples]
        values = self._witnesses.values[samples]
        if self._order is not None:
            values = np.argsort(self._order[samples], axis=1)  # ranks
        values = np.where(left, values, np.inf)
        nearest = np.argsort(values, axis=1, kind="stable")[:, :_NB_NEAREST]
        places, numbers = np.nonzero(np.take_along_axis(left, nearest, axis=1))
        some, own = samples[places], nearest[places, numbers]
        status, shown = np.full(nearest.shape, "", "U8"), np.zeros(len(some), bool)
        points = np.empty((len(some), *self._found.region.shape), np.float32)
        for part in in_batches(np.arange(len(some)), self._batch_size):
            decision = self._decide(some[part], self._found.with_one(some[part], own[part]), effort)
            status[places[part], numbers[part]] = decision.status
            shown[part], points[part] = decision.violated, decision.counterexamples
            own_shown = part[decision.violated]
            self._witnesses.need(some[own_shown], own[own_shown], points[own_shown])
            self._stop_if_interrupted(decision)
        self._witnesses.keep_first(some[shown], points[shown])
        holds = status == "holds"
        first = np.where(holds.any(axis=1), holds.argmax(axis=1), nearest.shape[1])
        hard = (status == "unknown") & (np.arange(nearest.shape[1]) < first[:, None])
        places, numbers = np.nonzero(hard)
        self._aside[samples[places], nearest[places, numbers]] = True
        proved = np.flatnonzero(holds.any(axis=1))
        chosen = nearest[proved, first[proved]]
        self._free(samples[proved], np.arange(left.shape[1]) == chosen[:, None])
        self._one_by_one[samples[proved]] = False

    def _free(self, samples: np.ndarray, groups: np.ndarray) -> None:
        if len(samples):
            self._found.free(samples, groups)
            self._witnesses.grown[samples] = True
            self._progress.update(int(groups.sum()))

    def _decide(self, samples: np.ndarray, masks: np.ndarray, effort: int) -> Decision:
        """Whether groups (M, G) of samples (M,) may move."""
        self._deadline.check()
        verifier = self._verifier if effort == _EFFORT else self._precise
        with self._found.timed(samples):
            return verifier.decide(
                self._found.freed(samples, masks),
                self._rows[samples],
                self._limits[samples],
                timeout=self._deadline.left,
                nb_branches=effort,
                seed=self._seed,
            )

    def _stop_if_interrupted(self, decision: Decision) -> None:
        if "interrupted" in decision.reason:
            raise KeyboardInterrupt
