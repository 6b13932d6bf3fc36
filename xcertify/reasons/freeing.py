"""Groups freed by linear bounds: many at once, without looking at any of them alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from xcertify.bounds import Verifier
from xcertify.inputs import in_batches
from xcertify.reasons.deadline import Deadline
from xcertify.reasons.found import Found
from xcertify.reasons.knapsack import at_prices, costs_and_room, largest_sets

_SIZES = 1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.02  # of the first parts, in shares of the groups
_FACTORS = 1.0, 1.04, 1.1, 1.25, 1.6  # of later ones, in units of the largest set so far
_NB_ROUNDS = 3
_NB_ROWS = 32  # of output rows that linear bounds look at, those nearest to another answer
_NB_COEFFICIENTS = 2**24  # of lines that are held at once


class Freeing:
    """Frees the groups of N inputs that linear bounds of ever better chosen parts allow.

    Lines of a part of the region, in which only some groups move, are better than those of the
    whole region, and prove sets of these groups only. So parts of several sizes are tried, each of
    the groups that cost least by the best lines so far.

    Parameters
    ----------
    verifier, found, rows, limits, order, deadline, batch_size
        See `Search`; of the verifiers the first.
    """

    def __init__(
        self,
        verifier: Verifier,
        found: Found,
        rows: np.ndarray,
        limits: np.ndarray,
        order: np.ndarray | None,
        deadline: Deadline,
        batch_size: int,
    ) -> None:
        self._verifier, self._found, self._rows, self._limits = verifier, found, rows, limits
        self._order, self._deadline, self._batch_size = order, deadline, batch_size

    def free(self) -> None:
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
            ranks = np.argsort(self.ranked(left), axis=1)
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
            self._deadline.check()
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

    def ranked(self, samples: np.ndarray) -> np.ndarray:
        """Groups (M, G) in the order in which they are freed."""
        if self._order is not None:
            return self._order[samples]
        costs = np.where(
            self._found.features.valid[samples], self._found.contributions[samples], np.inf
        )
        return np.argsort(costs, axis=1, kind="stable")
