"""The search for sufficient sets: linear bounds, attacks, then branch and bound for what is left.

A group is *irrelevant* once it is proved that all irrelevant ones may move together, and *needed*
once a point is found that changes the answer, in which only it and irrelevant ones have moved. Both
stay true while more becomes irrelevant. All inputs go through the same batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from xcertify.bounds import Decision, Verifier, WorstPoints
from xcertify.inputs import in_batches
from xcertify.radii import ContradictionError
from xcertify.reasons.found import Found
from xcertify.reasons.knapsack import at_prices, costs_and_room, largest_sets
from xcertify.regions import Region

_SIZES = 1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.02  # of the first parts, in shares of the groups
_FACTORS = 1.0, 1.04, 1.1, 1.25, 1.6  # of later ones, in units of the largest set so far
_NB_ROUNDS = 3
_NB_ROWS = 32  # of output rows that linear bounds look at, those nearest to another answer
_NB_COEFFICIENTS = 2**24  # of lines that are held at once
_DECIDED = 0.8  # share of the time, the rest is for attacks on what is free by then
_EFFORT, _MORE = 250, 8  # branches of a decision, and how many times as many in the next turn
_MOST = 100_000  # branches of one decision: what is left then is a near tie
_QUICK, _THOROUGH = (20, 1), (40, 4)  # steps and restarts of attacks
_NB_TRIES = 2  # of groups together, which attacks do not refute but decisions do
_NB_NEAREST, _NB_TASKS = 2, 48  # groups of a sample, and of all, that are decided at a time
_NB_STARTS = 4  # points that attacks begin with, for each input


class TimeLimit(Exception):
    """The time is over."""


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
        self._complete, self._end = complete, deadline
        now = time.monotonic()
        self._deadline = now + (_DECIDED if complete else 1.0) * (deadline - now)
        self._batch_size, self._seed, self._progress = batch_size, seed, progress
        self._order = order
        nb_inputs = len(found.irrelevant)
        self._aside = np.zeros(found.irrelevant.shape, bool)  # open, but not for this effort
        self._grown = np.ones(nb_inputs, bool)  # since groups were attacked one by one
        self._no_cap = found.irrelevant.shape[1] + 1
        self._cap = np.full(nb_inputs, self._no_cap)  # so many were not decided
        self._one_by_one = np.zeros(nb_inputs, bool)
        self._is_large = np.zeros(nb_inputs, bool)  # what is irrelevant, so that attacks are near
        self._values = np.full(found.irrelevant.shape, np.inf)  # that attacks on one group reached
        self._nearest = np.full(nb_inputs, np.inf)  # the least of them, reached at the first start
        self._starts = np.repeat(found.worst[None], _NB_STARTS, axis=0)

    def run(self) -> str:
        """Until nothing is open, and why something is.

        "", "bounds", "branches", "time limit", "interrupted".
        """
        try:
            self._bound()
            if self._complete:
                return self._decide_all()
            self._attack(np.flatnonzero(self._found.open.any(axis=1)))
            return "bounds" if self._found.open.any() else ""
        except TimeLimit:
            return self._last_attack()
        except KeyboardInterrupt:
            return "interrupted"

    def _last_attack(self) -> str:
        """Witnesses for what is irrelevant now, in the rest of the time."""
        self._deadline = self._end
        try:
            self._attack(np.flatnonzero(self._found.open.any(axis=1) & self._grown))
        except TimeLimit:
            pass
        except KeyboardInterrupt:
            return "interrupted"
        return "time limit"

    # --- linear bounds ----------------------------------------------------------------------------

    def _bound(self) -> None:
        """Free as many groups as linear bounds of ever better chosen parts allow."""
        found = self._found
        samples, valid = np.arange(len(self._rows)), found.features.valid
        self._choose_rows()
        nb_rows = self._linear_rows.shape[1]
        self._prices = np.full((len(samples), nb_rows), 1.0 / nb_rows)
        for part, costs, room in self._lines(samples, valid):
            # with the room at the inputs themselves: it is known whatever the bounds are worth
            _, prices = largest_sets(costs, self._nominal[part], valid[part], self._prices[part])
            found.contributions[part] = at_prices(costs, self._nominal[part], prices)
            self._prices[part] = prices
            self._choose(part, costs, room, valid[part])
        size, nb_groups = found.irrelevant.sum(axis=1), valid.sum(axis=1)
        for number in range(_NB_ROUNDS):
            left = np.flatnonzero(size < nb_groups)
            if not len(left):
                break
            units = nb_groups[left] if number == 0 else size[left]
            factors = np.array(_FACTORS if number else _SIZES)
            sizes = np.ceil(units[:, None] * factors).astype(int)  # (n, parts)
            ranks = np.argsort(self._ranked(left), axis=1)
            masks = ranks[:, None] < np.clip(sizes, 1, nb_groups[left, None])[..., None]
            tasks = np.repeat(left, len(factors))
            masks = masks.reshape(len(tasks), -1) & valid[tasks]
            for part, costs, room in self._lines(tasks, masks):
                self._choose(tasks[part], costs, room, masks[part])
            before, size = size, found.irrelevant.sum(axis=1)
            if number and (size == before).all():
                break

    def _choose_rows(self) -> None:
        """Rows (N, S, K) whose lower bounds prove the answer, their limits and room (N, S).

        Of a conjunction the row that is farthest from fulfilled, at the input itself.
        """
        rows, limits = self._rows, self._limits
        outputs = self._verifier.evaluate(self._found.region.center).reshape(len(rows), -1)
        values = np.einsum("npjk,nk->npj", rows.astype(np.float64), outputs) - limits
        best = values.argmax(axis=2)[..., None]  # (N, P, 1)
        values = np.take_along_axis(values, best, axis=2)[..., 0]
        near = np.argsort(values, axis=1, kind="stable")[:, :_NB_ROWS]  # (N, S)
        self._nominal = np.take_along_axis(values, near, axis=1)
        chosen = np.take_along_axis(best[..., 0], near, axis=1)
        number = np.arange(len(rows))[:, None]
        self._linear_rows, self._linear_limits = (
            rows[number, near, chosen],
            limits[number, near, chosen],
        )

    def _lines(
        self, samples: np.ndarray, masks: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Costs and room of the parts where groups (M, G) of samples (M,) move, some at a time."""
        found = self._found
        each = self._linear_rows.shape[1] * math.prod(found.region.shape)
        step = max(1, min(self._batch_size, _NB_COEFFICIENTS // each))
        for part in in_batches(np.arange(len(samples)), step):
            self._check_time()
            some = samples[part]
            with found.timed(some):
                rows = self._linear_rows[some]
                lines = self._verifier.linear_bounds(found.freed(some, masks[part]), rows)
                costs, room = costs_and_room(
                    lines, found.region[some], found.features[some], self._linear_limits[some]
                )
                yield part, costs, room

    def _choose(
        self, samples: np.ndarray, costs: np.ndarray, room: np.ndarray, allowed: np.ndarray
    ) -> None:
        """Keep the largest sets that lines of parts of samples (M,) prove."""
        found = self._found
        order = None if self._order is None else self._order[samples]
        chosen, prices = largest_sets(costs, room, allowed, self._prices[samples], order)
        size = chosen.sum(axis=1)
        by_size = np.lexsort((-size, samples))
        places, firsts = np.unique(samples[by_size], return_index=True)
        best = by_size[firsts]
        best = best[size[best] > found.irrelevant[places].sum(axis=1)]
        places = samples[best]
        self._prices[places] = prices[best]
        found.contributions[places] = at_prices(costs[best], room[best], prices[best])
        self._replace(places, chosen[best])

    def _replace(self, samples: np.ndarray, groups: np.ndarray) -> None:
        """Other groups (M, G) are irrelevant than before; those that cannot move always are."""
        found = self._found
        fixed = found.irrelevant[samples] & (found.added[samples] == 0)
        found.irrelevant[samples] = groups | fixed
        found.added[samples] = np.where(fixed, 0, groups.astype(int))
        found.step = 1

    def _ranked(self, samples: np.ndarray) -> np.ndarray:
        """Groups (M, G) in the order in which they are freed."""
        if self._order is not None:
            return self._order[samples]
        costs = np.where(
            self._found.features.valid[samples], self._found.contributions[samples], np.inf
        )
        return np.argsort(costs, axis=1, kind="stable")

    # --- attacks ----------------------------------------------------------------------------------

    def _attack(self, samples: np.ndarray) -> None:
        """Look for witnesses of the open groups of samples, from the worst points known."""
        found = self._found
        for some in in_batches(samples, self._batch_size):
            worst = self._attacked(
                some, found.irrelevant[some], found.worst[some][None], *_THOROUGH
            )
            if worst.violated.any():
                sample = some[np.argmax(worst.violated)]
                raise ContradictionError(
                    f"another answer was found where bounds prove that there is none, for input "
                    f"{sample}: this is a bug, please report it with the model"
                )
            found.note_worst(some, worst)
            self._nearest[some] = np.inf
        self._grown[samples] = False
        is_open = np.zeros(found.open.shape, bool)
        is_open[samples] = found.open[samples]
        tasks, groups = np.nonzero(is_open)
        for effort in ((1, 0), _QUICK):
            refuted = np.zeros(len(tasks), bool)
            for part in in_batches(np.arange(len(tasks)), self._batch_size):
                some, own = tasks[part], groups[part]
                worst = self._attacked(some, self._with(some, own), self._ends(some, own), *effort)
                refuted[part], self._values[some, own] = worst.violated, worst.values
                self._keep_nearest(some, worst)
                self._need(some[worst.violated], own[worst.violated], worst.points[worst.violated])
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
        self._check_time()
        with self._found.timed(samples):
            return self._verifier.attack(
                *self._asked(samples, masks),
                starts=starts,
                nb_steps=nb_steps,
                restarts=restarts,
                seed=self._seed,
            )

    def _keep_one(self, samples: np.ndarray, points: np.ndarray) -> None:
        """Of points (M, *input) with another answer the first one of each sample, for attacks."""
        samples, firsts = np.unique(samples, return_index=True)
        self._keep_start(samples, points[firsts])
        self._grown[samples] = True

    def _keep_nearest(self, samples: np.ndarray, worst: WorstPoints) -> None:
        """Of points (M, *input) that are no other answers, keep the nearest to one of each sample.

        Should the group that moves there become irrelevant, attacks go on from there.
        """
        values = np.where(worst.violated, np.inf, worst.values)
        order = np.lexsort((values, samples))
        samples, firsts = np.unique(samples[order], return_index=True)
        best = order[firsts]
        near = values[best] < self._nearest[samples]
        self._nearest[samples[near]] = values[best[near]]
        self._starts[0, samples[near]] = worst.points[best[near]]

    def _starts_of(self, samples: np.ndarray) -> np.ndarray:
        """Where attacks begin: the worst points, and other answers known, (S, M, *input)."""
        return np.concatenate([self._found.worst[samples][None], self._starts[:, samples]])

    def _keep_start(self, samples: np.ndarray, points: np.ndarray) -> None:
        """Points (M, *input) of different samples with another answer, where others may be near."""
        self._starts[1:, samples] = np.concatenate([points[None], self._starts[1:-1, samples]])

    def _need(self, samples: np.ndarray, groups: np.ndarray, points: np.ndarray) -> None:
        self._found.need(samples, groups, points)
        self._progress.update(len(samples))

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
            grown = samples[self._grown[samples] & self._is_large[samples]]
            if len(grown):
                self._attack(grown)
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
            counts[refuted] = self._not_refuted(samples[refuted], ranks[refuted], counts[refuted])
            places = places[(counts[places] > 0) & (tries[places] > 0)]
            if not len(places):
                break
            some, count = samples[places], counts[places]
            new = ranks[places] < count[:, None]
            decision = self._decide(some, self._found.irrelevant[some] | new, effort)
            self._free(some[decision.holds], new[decision.holds])
            freed[places[decision.holds]] = count[decision.holds]
            self._keep_start(some[decision.violated], decision.counterexamples[decision.violated])
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
        left, order = self._left[samples], self._ranked(samples)
        if self._order is None:  # by what attacks reached, where they were made
            values = np.take_along_axis(self._values[samples], order, axis=1)
            by_value = np.argsort(-values, axis=1, kind="stable")
            order = np.take_along_axis(order, by_value, axis=1)
        ordered = np.take_along_axis(left, order, axis=1)
        ranks = np.empty(order.shape, int)
        numbers = np.where(ordered, np.cumsum(ordered, axis=1) - 1, order.shape[1])
        np.put_along_axis(ranks, order, numbers, axis=1)
        return ranks, left.sum(axis=1)

    def _not_refuted(
        self, samples: np.ndarray, ranks: np.ndarray, counts: np.ndarray
    ) -> np.ndarray:
        """How many of the first groups (M,) an attack does not refute, by halving."""
        low, high = np.zeros(len(samples), int), counts + 1
        test = counts.copy()
        while (high - low > 1).any():
            places = np.flatnonzero(high - low > 1)
            for part in in_batches(places, self._batch_size):
                some, new = samples[part], ranks[part] < test[part, None]
                masks = self._found.irrelevant[some] | new
                worst = self._attacked(some, masks, self._starts_of(some), *_THOROUGH)
                self._keep_start(some[worst.violated], worst.points[worst.violated])
                high[part] = np.where(worst.violated, test[part], high[part])
                low[part] = np.where(worst.violated, low[part], test[part])
                shown = worst.violated & (test[part] == 1)
                self._need_first(some[shown], ranks[part[shown]], worst.points[shown])
            test = (low + high) // 2
        return low

    def _need_first(self, samples: np.ndarray, ranks: np.ndarray, points: np.ndarray) -> None:
        """The first group of each sample is needed."""
        if len(samples):
            self._need(samples, ranks.argmin(axis=1), points)

    def _decide_nearest(self, samples: np.ndarray, effort: int) -> None:
        """Decide the groups, each on its own, that attacks came nearest to refute; free one.

        How many at a time depends on how many samples there are, but not what comes out.
        """
        if not len(samples):
            return
        left = self._left[samples]
        values = np.where(left, self._values[samples], np.inf)
        nb_nearest = max(_NB_NEAREST, _NB_TASKS // len(samples))
        nearest = np.argsort(values, axis=1, kind="stable")[:, :nb_nearest]
        places, numbers = np.nonzero(np.take_along_axis(left, nearest, axis=1))
        some, own = samples[places], nearest[places, numbers]
        status = np.full(nearest.shape, "", "U8")
        for part in in_batches(np.arange(len(some)), self._batch_size):
            decision = self._decide(some[part], self._with(some[part], own[part]), effort)
            shown = part[decision.violated]
            self._need(some[shown], own[shown], decision.counterexamples[decision.violated])
            status[places[part], numbers[part]] = decision.status
            self._keep_one(some[shown], decision.counterexamples[decision.violated])
            self._stop_if_interrupted(decision)
        holds = status == "holds"
        first = np.where(holds.any(axis=1), holds.argmax(axis=1), nearest.shape[1])
        hard = (status == "unknown") & (np.arange(nearest.shape[1]) < first[:, None])
        places, numbers = np.nonzero(hard)
        self._aside[samples[places], nearest[places, numbers]] = True
        proved = np.flatnonzero(holds.any(axis=1))
        chosen = nearest[proved, first[proved]]
        self._free(samples[proved], np.arange(left.shape[1]) == chosen[:, None])
        self._one_by_one[samples[proved]] = False

    def _with(self, samples: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Groups (M, G): the irrelevant ones of samples (M,), and one of `groups` (M,) each."""
        masks = self._found.irrelevant[samples].copy()
        masks[np.arange(len(samples)), groups] = True
        return masks

    def _free(self, samples: np.ndarray, groups: np.ndarray) -> None:
        if len(samples):
            self._found.free(samples, groups)
            self._grown[samples] = True
            self._progress.update(int(groups.sum()))

    def _decide(self, samples: np.ndarray, masks: np.ndarray, effort: int) -> Decision:
        """Whether groups (M, G) of samples (M,) may move."""
        self._check_time()
        left = self._deadline - time.monotonic()
        with self._found.timed(samples):
            verifier = self._verifier if effort == _EFFORT else self._precise
            return verifier.decide(
                *self._asked(samples, masks),
                timeout=left if math.isfinite(left) else None,
                nb_branches=effort,
                seed=self._seed,
            )

    def _asked(
        self, samples: np.ndarray, masks: np.ndarray
    ) -> tuple[Region, np.ndarray, np.ndarray]:
        region = self._found.freed(samples, masks)
        return region, self._rows[samples], self._limits[samples]

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimeLimit

    def _stop_if_interrupted(self, decision: Decision) -> None:
        if "interrupted" in decision.reason:
            raise KeyboardInterrupt
