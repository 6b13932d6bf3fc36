"""From a property to a decision: attack, then bounds, then branch and bound for the rest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from xcertify.bounds.branching.attack import attack
from xcertify.bounds.branching.compiled import Branching
from xcertify.bounds.branching.confirmation import confirm, given_type, move_inside, outputs_at
from xcertify.bounds.branching.decision import Decision
from xcertify.bounds.branching.problems import Problems
from xcertify.bounds.branching.proof import Growth, ProofTree
from xcertify.bounds.branching.search import Search
from xcertify.bounds.engine import Engine
from xcertify.regions import Region
from xcertify.words import Words

STRATEGIES = ("auto", "inputs", "activations")
FEW_FEATURES = 8  # so few features of the input are split themselves
_QUICK, _THOROUGH = 2, 8  # restarts of the attacks before and after bounds
_ATTACKED = 0.2  # share of the time that is left, for each of them


class Decider:
    """One call of `Verifier.decide`: what is known of N regions, stage by stage.

    Parameters
    ----------
    engines
        The engine of "crown", and that of "alpha-crown".
    bound
        ``bound(region, rows, constants)``: bounds of rows (N, S, K) by crown, (N, S) each.
    region, rows, limits, constants
        As for `Verifier.decide`, rows (N, P, J, K) and limits (N, P, J).
    timeout, nb_branches, strategy, seed, verbose
        See there.
    proof
        Makes a `ProofTree` of what only this call knows; None: none is made.
    """

    def __init__(
        self,
        engines: tuple[Engine, Engine],
        bound: Callable[..., tuple[np.ndarray, np.ndarray]],
        region: Region,
        rows: np.ndarray,
        limits: np.ndarray,
        constants: Sequence[np.ndarray],
        *,
        timeout: float | None,
        nb_branches: int | None,
        strategy: str,
        seed: int,
        verbose: bool,
        proof: Callable[..., ProofTree] | None = None,
    ) -> None:
        self._begin = time.monotonic()
        self._deadline = self._begin + (math.inf if timeout is None else timeout)
        self._engines, self._bound = engines, bound
        self._region, self._constants = region, constants
        self._rows, self._limits = rows, limits
        self._nb_branches, self._strategy = nb_branches, strategy
        self._seed, self._verbose = seed, verbose
        engine = engines[0]
        self._dtype = given_type(engine)
        self.problems = Problems(region, constants, rows, limits, engine.output_shape, engine.dtype)
        self._proof = proof
        self._tree = Growth(len(self.problems.region_of), proof is not None)
        nb_regions = len(region)
        self._points = region.center.astype(self._dtype)
        self._values = np.full(nb_regions, np.inf)
        self._seconds, self._reason = np.zeros(nb_regions), np.full(nb_regions, "", object)

    def decide(self) -> Decision:
        """Stage by stage, until all is decided or a limit is reached."""
        reason = "interrupted"
        try:
            self._attack(_QUICK)
            self._prove()
            self._attack(_THOROUGH)
            reason = self._search()
        except KeyboardInterrupt:
            pass
        return self._decision(reason)

    # --- stages -----------------------------------------------------------------------------------

    def _attack(self, restarts: int) -> None:
        """Look for counterexamples of what is undecided, for a share of the time that is left."""
        left = np.flatnonzero(~(self.problems.violated | self.problems.holds))
        now = time.monotonic()
        if not len(left):
            return
        found = attack(
            self._engines[0],
            self._region[left],
            self._rows[left],
            self._limits[left],
            [array[left] for array in self._constants],
            restarts=restarts,
            seed=self._seed,
            deadline=now + _ATTACKED * (self._deadline - now),
        )
        better = found.values < self._values[left]
        self._points[left[better]] = found.points[better]
        self._values[left[better]] = found.values[better]
        self.problems.violated[left] |= found.violated
        self._note("attack")

    def _prove(self) -> None:
        """Bounds of whole regions."""
        problems = self.problems
        left = np.unique(problems.region_of[problems.open])
        bound_whole(problems, left, self._bound, self._rows, self._limits)
        self._note("bounds")

    def _search(self) -> str:
        problems = self.problems
        if not len(problems.open):
            return ""
        if time.monotonic() > self._deadline:
            return "timeout"
        branching = self._branching()
        search = Search(
            branching,
            problems,
            self._check,
            self._tree,
            self._deadline,
            self._nb_branches,
            verbose=self._verbose,
        )
        return search.run()

    def _branching(self) -> Branching:
        crown, alpha = self._engines
        varied: np.ndarray = self._region.upper > self._region.lower
        if isinstance(self._region, Words):  # a word is one feature
            varied = np.any(varied, axis=2)
        by_inputs = self._strategy == "inputs"
        if self._strategy == "auto":
            by_inputs = varied.reshape(len(varied), -1).sum(axis=1).max() <= FEW_FEATURES
        if not by_inputs:
            branching = Branching(alpha, "activations")
            if branching.layout.tensors:
                return branching
        return Branching(crown, "inputs")

    def _check(self, points: np.ndarray, some: np.ndarray) -> None:
        """Look whether points (M, *input) show that problems (M,) are violated."""
        problems, engine = self.problems, self._engines[0]
        regions = problems.region_of[some]
        points = move_inside(self._region[regions], points, self._dtype)
        outputs = outputs_at(engine, [points, *(array[regions] for array in self._constants)])
        rows = problems.rows[some].reshape(*problems.limits[some].shape, -1)
        with np.errstate(invalid="ignore"):
            values = np.einsum("mjk,mk->mj", rows.astype(np.float64), outputs)
            values = np.max(values - problems.limits[some], axis=1)
        values = np.where(np.isnan(values), np.inf, values)
        order = np.lexsort((values, regions))
        regions, firsts = np.unique(regions[order], return_index=True)
        best = order[firsts]
        new = (values[best] < self._values[regions]) & ~problems.violated[regions]
        regions, best = regions[new], best[new]
        if len(regions):
            points, values, violated = self._confirm(regions, points[best])
            new = values < self._values[regions]
            regions = regions[new]
            self._points[regions], self._values[regions] = points[new], values[new]
            problems.violated[regions] = violated[new]
        self._note("branch and bound")

    def _confirm(self, regions: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, ...]:
        return confirm(
            self._engines[0],
            self._region[regions],
            points,
            self._rows[regions],
            self._limits[regions],
            [array[regions] for array in self._constants],
        )

    # --- what is known ----------------------------------------------------------------------------

    def _note(self, reason: str) -> None:
        """When and by what regions were decided that were not before."""
        decided = (self.problems.violated | self.problems.holds) & (self._reason == "")
        self._seconds[decided] = time.monotonic() - self._begin
        self._reason[decided] = reason

    def _decision(self, reason: str) -> Decision:
        self._note("branch and bound")
        problems = self.problems
        violated, holds = problems.violated, problems.holds & ~problems.violated
        status = np.where(violated, "violated", np.where(holds, "holds", "unknown"))
        self._seconds[self._reason == ""] = time.monotonic() - self._begin
        self._reason[self._reason == ""] = reason
        points = self._points.astype(self._dtype)
        points[~violated] = np.nan
        lower = problems.worst_of_regions
        upper = self._values
        return Decision(
            status,
            points,
            lower,
            upper,
            problems.nb_branches,
            self._seconds,
            self._reason.astype(str),
            None if self._proof is None else self._tree_of(self._proof),
        )

    def _tree_of(self, make: Callable[..., ProofTree]) -> ProofTree:
        branching = self._branching()
        layers, sizes = branching.layout.described
        make = partial(
            make,
            region=self._region,
            constants=tuple(self._constants),
            rows=self._rows,
            limits=self._limits,
            strategy=branching.strategy,
            layers=layers,
            sizes=sizes,
        )
        return self._tree.tree(self.problems.lower, make)


def bound_whole(
    problems: Problems,
    regions: np.ndarray,
    bound: Callable[..., tuple[np.ndarray, np.ndarray]],
    rows: np.ndarray,
    limits: np.ndarray,
) -> None:
    """Bounds of some whole regions (M,), noted in the problems; `bound` as for `Decider`."""
    if not len(regions):
        return
    asked = rows[regions].reshape(len(regions), math.prod(limits.shape[1:]), -1)
    constants = [array[regions] for array in problems.constants]
    lower, _ = bound(problems.region[regions], asked, constants)
    lower = lower.astype(np.float64).reshape(-1, *limits.shape[1:])
    with np.errstate(invalid="ignore"):  # an infinite limit
        margins = np.max(lower - limits[regions], axis=2)
    problems.note_bounds(regions, margins)
