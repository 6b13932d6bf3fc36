"""Branch and bound: regions cut at activations or inputs until every part is proved or refuted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from xcertify.bounds.branching.bounding import FRESH, Branches
from xcertify.bounds.branching.compiled import Branching
from xcertify.bounds.branching.pool import Pool
from xcertify.bounds.branching.problems import Problems
from xcertify.bounds.branching.proof import Growth
from xcertify.bounds.query import Query, round_outward
from xcertify.progress import progress_bar

_ROOT_STEPS = 50  # of the optimisation before the first split
_ROOT_OPTIMIZER = (20, 0.1)  # steps and their length, for the rows of tensors
_LEAST = np.nextafter(0.0, 1.0)
_POOL = 0.5  # share of the memory budget for open branches

Arrays = dict[str, np.ndarray]


class Search:
    """Branch and bound of some problems.

    Parameters
    ----------
    branching
        The compiled questions.
    problems
        What is to be proved, and what is known of it so far; it takes what is found.
    check
        ``check(points (M, *input), problems (M,) int)``: looks whether points show a violation, and
        notes it in the problems.
    deadline
        When to stop, in seconds of `time.monotonic`.
    nb_branches
        Most branches of one region; None: no limit.
    nb_steps
        Of the optimisation of each branch.
    tree
        Takes the splits and what is proved of their parts.
    verbose
        Whether to show a progress bar.
    """

    def __init__(
        self,
        branching: Branching,
        problems: Problems,
        check: Callable[[np.ndarray, np.ndarray], None],
        tree: Growth,
        deadline: float,
        nb_branches: int | None,
        nb_steps: int = 20,
        verbose: bool = False,
    ) -> None:
        self.branching, self.problems, self.check = branching, problems, check
        self.tree = tree
        self.deadline, self.nb_branches, self.nb_steps = deadline, nb_branches, nb_steps
        self.verbose = verbose
        self.pool = Pool()
        self.optimizes = branching.strategy == "activations"

    def run(self) -> str:
        """Search until nothing is open or a limit is reached; gives the reason why it stopped."""
        self._start()
        return self.go_on()

    def go_on(self) -> str:
        """The same from the branches that are open now."""
        problems = self.problems
        with progress_bar(unit="branch", name="branches", verbose=self.verbose) as bar:
            while len(self.pool):
                self._drop_decided()
                places = self._chosen() if len(self.pool) else self.pool.places
                if not len(places):
                    break
                if time.monotonic() > self.deadline:
                    return "timeout"
                children = self._split(self.pool.take(places))
                self._bound(children, self.nb_steps)
                bar.update(len(children["problem"]))
                bar.set_postfix(open=len(self.pool), worst=f"{problems.worst:.3g}")
        if not len(self.pool):  # or the time was up before some had their first branch
            return "timeout" if problems.needed.any() else "branch and bound"
        return "no split" if not self._can_split(self.pool.places).any() else "nb_branches"

    # --- steps ------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Bound the open problems before any split."""
        problems = self.problems
        branching, layout = self.branching, self.branching.layout
        box_lower, box_upper = problems.region.sides("float64")
        for some in branching.in_batches(problems.open):
            regions_of = problems.region_of[some]
            regions, of_region = np.unique(regions_of, return_inverse=True)
            lower, upper, reference, noise = self._roots(regions)
            query = problems.query(some)
            size = (len(some), problems.limits.shape[1])
            rows = {
                "problem": some,
                "node": some,
                "margin": problems.lower[some],
                "is_cut": np.zeros(len(some), bool),
                "box_lower": box_lower[regions_of],
                "box_upper": box_upper[regions_of],
                "lower": lower[of_region],
                "upper": upper[of_region],
                "reference": reference[of_region],
                "noise": noise[of_region],
                "shares": np.full((*size, layout.nb_shares), FRESH, query.lower.dtype),
                "below": np.zeros((*size, layout.nb_entries), query.lower.dtype),
                "above": np.zeros((*size, layout.nb_entries), query.lower.dtype),
                "is_split": np.zeros((len(some), layout.nb_entries), bool),
            }
            self._bound(rows, _ROOT_STEPS)
            if time.monotonic() > self.deadline:
                return

    def _roots(self, regions: np.ndarray) -> list[np.ndarray]:
        """What is known of the tensors of regions before any split, (M, D) each."""
        query = self.problems.regions(regions)
        if not self.branching.layout.tensors:
            nothing = np.zeros((len(regions), 0), query.lower.dtype)
            return [nothing, nothing, nothing.astype("float64"), nothing]
        return self.branching.roots(query, _ROOT_OPTIMIZER)

    def _bound(self, branches: Arrays, nb_steps: int) -> None:
        """Bound branches, look at the points that their bounds lead to, and keep the open ones."""
        problems, some = self.problems, branches["problem"]
        query = self._query(branches)
        margin, *found = self.branching.bounds(
            query, self._tensors(branches), nb_steps * self.optimizes
        )
        lower_sides, upper_sides = found[2:4]
        shares, below, above, points, feature, entries, at, scores = found[4:]
        margin = np.fmax(margin, branches["margin"])  # of the parent, which holds for its parts
        is_cut, *box = self._cut(branches, query, *found[:2])
        *cut, nothing_left = problems.hull(some, *box)
        whole = branches["box_lower"], branches["box_upper"]
        feature, box_lower, box_upper = problems.to_split(feature, (cut[0], cut[1]), whole)
        # Of what was cut away it is only known that it is above 0.
        margin = np.where(is_cut, np.minimum(margin, _LEAST), margin)
        margin = np.where(nothing_left, _LEAST, margin)
        self.tree.note(branches["node"], margin)
        problems.note_branches(some)
        is_open = ~(margin > 0)
        problems.note_leaves(some[~is_open], margin[~is_open])
        if is_open.any():
            self.check(points[is_open], some[is_open])
        rows = {
            "problem": some,
            "node": branches["node"],
            "margin": margin,
            "is_cut": is_cut,
            "box_lower": box_lower,
            "box_upper": box_upper,
            "lower": lower_sides,
            "upper": upper_sides,
            "reference": branches["reference"],
            "noise": branches["noise"],
            "shares": shares,
            "below": below,
            "above": above,
            "is_split": branches["is_split"],
            "feature": feature,
            "entries": entries,
            "at": at,
            "scores": scores,
        }
        self.pool.put({name: array[is_open] for name, array in rows.items()})
        self._note_open()

    def _split(self, parents: Arrays) -> Arrays:
        """Both parts of each branch, one branch after the other."""
        children = {name: np.repeat(array, 2, axis=0) for name, array in parents.items()}
        entries, values = self._choice(parents)
        children["node"] = self.tree.split(parents["node"], entries, values)
        nb_entries = self.branching.layout.nb_entries
        some = np.flatnonzero(entries < nb_entries)
        if len(some):
            entry = entries[some]
            names = ("reference", "noise", "lower", "upper")
            each = {name: parents[name][some] for name in names}
            down, up = self._deviations(each, entry[:, None], values[some, None])
            children["upper"][2 * some, entry] = up[:, 0]
            children["lower"][2 * some + 1, entry] = down[:, 0]
            children["is_split"][2 * some, entry] = True
            children["is_split"][2 * some + 1, entry] = True
        lower, upper = (
            children[f"box_{side}"].reshape(len(children["node"]), -1)
            for side in ("lower", "upper")
        )
        some = np.flatnonzero(entries >= nb_entries)
        below, above, feature = 2 * some, 2 * some + 1, entries[some] - nb_entries
        upper[below, feature] = np.minimum(upper[below, feature], values[some])
        lower[above, feature] = np.maximum(lower[above, feature], values[some])
        children["box_lower"], children["box_upper"], _ = self.problems.hull(
            children["problem"], children["box_lower"], children["box_upper"]
        )
        return children

    def _choice(self, parents: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """Where branches (M,) are split: entries, with features behind them, and values float64."""
        each = np.arange(len(parents["problem"]))
        feature = parents["feature"]
        lower, upper = (parents[f"box_{s}"].reshape(len(each), -1) for s in ("lower", "upper"))
        entries = self.branching.layout.nb_entries + feature
        values = _middle(lower[each, feature], upper[each, feature])
        some = np.flatnonzero(parents["scores"][:, 0] > 0)
        if len(some):
            among = {name: array[some] for name, array in parents.items()}
            several = among["entries"].shape[1] > 1
            best = self._best_candidates(among) if several else 0 * some
            entries[some] = among["entries"][np.arange(len(some)), best]
            values[some] = among["at"][np.arange(len(some)), best]
        return entries, values

    def _best_candidates(self, parents: Arrays) -> np.ndarray:
        """Which of the proposed entries improves both parts most, (M,): by the product of gains."""
        down, up = self._deviations(parents, parents["entries"], parents["at"])
        step = max(1, 2 * self.branching.batch_size // down.shape[1] // 2)
        margins = []
        for first in range(0, len(down), step):
            some = slice(first, first + step)
            of_some = {name: array[some] for name, array in parents.items()}
            margins.append(
                self.branching.probe(
                    self._query(of_some),
                    self._tensors(of_some),
                    of_some["entries"],
                    down[some],
                    up[some],
                )
            )
        missing = -parents["margin"][:, None, None]  # more than what closes a part is no gain
        gains = np.fmin(np.fmax(np.concatenate(margins) + missing, 1e-3 * missing), missing)
        product = np.where(parents["scores"] > 0, gains.prod(axis=2), -1.0)
        return product.argmax(axis=1)

    def _deviations(
        self, branches: Arrays, entries: np.ndarray, at: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values (M, k) of entries as deviations, rounded down and up, within their sides."""
        each = np.arange(len(entries))[:, None]
        step = at - branches["reference"][each, entries]
        slack = 2.0**-51 * (np.abs(at) + np.abs(step)) + branches["noise"][each, entries]
        down, up = (np.empty(step.shape, branches["lower"].dtype) for _ in range(2))
        round_outward(step - slack, down, up=False)
        round_outward(step + slack, up, up=True)
        down = np.maximum(down, branches["lower"][each, entries])
        up = np.minimum(up, branches["upper"][each, entries])
        return down, up

    # --- bookkeeping ------------------------------------------------------------------------------

    def _query(self, branches: Arrays) -> Query:
        """The boxes of branches as deviations, from their own middles where that is possible.

        Roundings are relative to deviations. The sides of tensors are deviations from what the
        network makes of one center; balls, and words of texts, are around theirs.
        """
        query = self.problems.query(branches["problem"])
        lower, upper = branches["box_lower"], branches["box_upper"]
        center = query.center
        if not self.optimizes and math.isinf(query.norm) and query.words is None:
            center = _middle(lower, upper)
        sides = [np.empty(center.shape, query.lower.dtype) for _ in range(2)]
        for side, out, sign in zip((lower, upper), sides, (-1, 1)):
            step = side - center
            slack = 2.0**-51 * (np.abs(step) + 2.0**-1000)
            round_outward(step + sign * slack, out, up=sign > 0)
        return replace(query, center=center, lower=sides[0], upper=sides[1])

    def _cut(
        self, branches: Arrays, query: Query, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which branches were cut, now or before, (M,) bool, and their boxes.

        `lower` and `upper` are the deviations (M, *input) that are left of those of the query.
        """
        is_less = (lower > query.lower) | (upper < query.upper)
        found = []
        for name, step, sign in (("box_lower", lower, -1), ("box_upper", upper, 1)):
            step = step.astype(np.float64)
            slack = 2.0**-51 * (np.abs(query.center) + np.abs(step))
            found.append(np.where(is_less, query.center + step + sign * slack, branches[name]))
        box_lower = np.maximum(found[0], branches["box_lower"])
        box_upper = np.minimum(found[1], branches["box_upper"])
        is_cut = branches["is_cut"] | is_less.reshape(len(is_less), -1).any(axis=1)
        return is_cut, box_lower, box_upper

    def _tensors(self, branches: Arrays) -> Branches:
        some = branches["problem"]
        sides = {}
        for name, sign in (("lower", -1.0), ("upper", 1.0)):
            # The reference values of the next pass may be others, by roundings in float64.
            moved = branches[name].astype(np.float64) + sign * branches["noise"]
            sides[name] = np.empty_like(branches[name])
            round_outward(moved, sides[name], up=sign > 0)
        names = ("shares", "below", "above", "is_split")
        return Branches(
            self.problems.rows[some],
            self.problems.limits[some],
            **sides,
            **{name: branches[name] for name in names},
        )

    def _drop_decided(self) -> None:
        """Forget the branches of regions that need no more work."""
        places = self.pool.places
        some = self.pool.column("problem", places)
        self.pool.drop(places[~self.problems.needed[some]])

    def _chosen(self) -> np.ndarray:
        """The branches to split next: the worst ones; the best ones where memory gets scarce."""
        places = self.pool.places
        places = places[self._can_split(places)]
        order = np.argsort(self.pool.column("margin", places), kind="stable")
        if self.nb_branches is not None:
            order = order[self._within_limit(places[order])]
        is_large = len(places) * self.pool.nb_bytes > _POOL * self.branching.engine.budget.nb_bytes
        if is_large:
            order = order[::-1]
        return places[order[: max(1, self.branching.batch_size // 2)]]

    def _can_split(self, places: np.ndarray) -> np.ndarray:
        """Which branches can be split, at an entry or where a feature has room between its ends."""
        feature = self.pool.column("feature", places)
        lower, upper = (
            self.pool.column(f"box_{side}", places).reshape(len(places), -1)
            for side in ("lower", "upper")
        )
        lower, upper = (side[np.arange(len(places)), feature] for side in (lower, upper))
        middle = _middle(lower, upper)
        between = (lower < middle) & (middle < upper)
        return between | (self.pool.column("scores", places)[:, 0] > 0)

    def _within_limit(self, places: np.ndarray) -> np.ndarray:
        """Which of the branches may be split, the first ones first, as `nb_branches` allows."""
        regions = self.problems.region_of[self.pool.column("problem", places)]
        order = np.argsort(regions, kind="stable")
        first = np.searchsorted(regions[order], regions[order])
        rank = np.empty(len(places), int)
        rank[order] = np.arange(len(places)) - first  # of a branch in its region
        used = self.problems.nb_branches[regions]
        assert self.nb_branches is not None
        return used + 2 * (rank + 1) <= self.nb_branches

    def _note_open(self) -> None:
        places = self.pool.places
        self.problems.note_open(
            self.pool.column("problem", places), self.pool.column("margin", places)
        )


def _middle(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The middles of intervals, strictly inside where a number is between their ends."""
    return np.clip(lower + (upper - lower) / 2, lower, upper)
