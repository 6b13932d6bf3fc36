"""How far N inputs may move and stay in their class: radii by attacks, bounds and decisions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from xcertify.bounds.branching.decision import Decision
from xcertify.radii import (
    Bounds,
    Interval,
    RadiusSearch,
    class_margins,
    class_radii_so_far,
    compare_radii,
)
from xcertify.regions import Ball, Region
from xcertify.targets import stays_in_class

_SMALLEST, _NB_ATTACKS = 1e-3, 8  # of the largest radius, where the attack alone looks
_ATTACKED = 0.25  # share of the time, for that
_DECIDED = 0.4  # most of the time that is left, for each test
_MORE_TESTS = 3  # than halvings need, of a search that rises from what is known

RegionAt = Callable[[np.ndarray, np.ndarray], Region]
Attack = Callable[..., Any]


class Decides(Bounds, Protocol):
    """What is asked here of a `Verifier`, which stands above this file."""

    method: str

    def decide(
        self,
        region: Region,
        rows: Any,
        limits: Any,
        constants: Sequence[Any] = (),
        *,
        timeout: float | None,
        nb_branches: int | None,
        strategy: str,
        seed: int,
    ) -> Decision:
        """Whether a property holds on each region."""


def decided_radii(
    verifier: Decides,
    region_at: RegionAt,
    classes: np.ndarray,
    largest: Any,
    nb_halvings: int,
    *,
    attacked: np.ndarray | None = None,
    constants: Sequence[np.ndarray] = (),
    norm: float | None = None,
    attack: Attack | None = None,
    timeout: float | None = 60.0,
    nb_branches: int | None = None,
    strategy: str = "auto",
    seed: int = 0,
    verbose: bool = False,
    partial: bool = False,
) -> Interval:
    """Largest radii, of those tested, within which the class of N inputs is decided to stay.

    The search is between a radius of an attack and one that bounds of whole regions prove;
    `Verifier.decide` decides the radii between.

    Parameters
    ----------
    verifier
        Of the logits.
    region_at
        (samples (M,), radii (M,)) -> M regions around what the network is given of these samples.
    classes
        (N,) int.
    largest
        The largest radius that is tested, a number or (N,).
    nb_halvings
        Radii are exact to the attacked or largest one divided by two to this power, as far as
        decisions are made in time.
    attacked
        (N,) radii at which another class is known, inf where none is; None: nothing is known.
    constants
        The inputs that do not vary, (N, *shape) each.
    norm
        Of regions that are balls of the radii, or parts of them: counterexamples are as far away as
        they are. None: as far as the radius that was tested.
    attack
        (region, rows, limits, constants, deadline=) -> an `Attacked`: looks for an end before
        anything is proved. None: without.
    timeout
        Seconds that all may take, about; None: no limit.
    nb_branches, strategy, seed
        Of `Verifier.decide`.
    verbose
        Whether to show progress bars.
    partial
        Whether an interrupted call (Ctrl-C) returns what is known by then.

    Returns
    -------
    interval
        Of the radii.

    Raises
    ------
    ContradictionError
        If a counterexample is nearer than what is certified: a bug, to be reported.

    Guarantee
    ---------
    Of `certified`, that of `Verifier.decide`, for the regions of the radii. Each was itself tested.
    At `attacked` the model itself gives another class, or two of them the same value.
    """
    largest = np.broadcast_to(np.asarray(largest, np.float64), (len(classes),))
    found = DecidedRadii(
        verifier, region_at, classes, largest, attacked, constants, norm, timeout, verbose
    )
    settings = {"nb_branches": nb_branches, "strategy": strategy, "seed": seed}
    try:
        found.start()
        if attack is not None:
            found.attack(attack)
        found.bound(nb_halvings + _MORE_TESTS)
        found.decide(nb_halvings, settings)
    except KeyboardInterrupt:
        if not partial:
            raise
    compare_radii(
        found.held,
        found.broken,
        what="another class",
        method=f"{verifier.method}, decided",
        region="radii of decisions",
    )
    return Interval(found.held, found.broken)


def decided_radii_of_balls(
    verifier: Decides,
    balls: Ball,
    classes: np.ndarray,
    largest: float,
    nb_halvings: int,
    **settings: Any,
) -> Interval:
    """`decided_radii` of balls around N inputs; the distances are those of counterexamples."""

    def region_at(some: np.ndarray, radii: np.ndarray) -> Region:
        return balls[some].resized(radii)

    return decided_radii(
        verifier,
        region_at,
        classes,
        largest,
        nb_halvings,
        norm=balls.norm,
        partial=True,
        **settings,
    )


class DecidedRadii:
    """What is known of the radii of N inputs, stage by stage; see `decided_radii`.

    Attributes
    ----------
    held
        (N,) float64: the largest radius that is proved, 0 where none is.
    broken
        (N,) float64: the least one at which another class was found, inf where none was.
    """

    def __init__(
        self,
        verifier: Decides,
        region_at: RegionAt,
        classes: np.ndarray,
        largest: np.ndarray,
        attacked: np.ndarray | None,
        constants: Sequence[np.ndarray],
        norm: float | None,
        timeout: float | None,
        verbose: bool,
    ) -> None:
        self._deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        self._verifier, self._region_at, self._classes = verifier, region_at, classes
        self._largest, self._constants, self._verbose = largest, constants, verbose
        self._norm = norm
        self.held = np.zeros(len(classes))
        self.broken = np.full(len(classes), np.inf)
        if attacked is not None:
            self.broken = np.array(attacked, np.float64)

    @property
    def _ends(self) -> np.ndarray:
        """The largest radii that are worth a test, (N,)."""
        return np.minimum(self._largest, self.broken)

    @property
    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def start(self) -> None:
        """Inputs that are of another class as they are have no radius."""
        centers = self._regions(np.arange(len(self._classes)), 0 * self.held).center
        logits = self._verifier.evaluate(centers, self._constants)
        margins = class_margins(logits.reshape(len(logits), -1), self._classes)
        self.broken[margins >= 0] = 0.0

    def attack(self, attack: Attack) -> None:
        """Radii at which an attack finds another class, until they are close to each other."""
        ends, deadline = self._ends, self._deadline
        if math.isfinite(deadline):
            now = time.monotonic()
            deadline = now + _ATTACKED * (deadline - now)
        search = RadiusSearch(
            ends * _SMALLEST,
            ends,
            nb_halvings=_NB_ATTACKS,
            test_high="first",
            name="attack",
            verbose=self._verbose,
        )
        for some, radii in search:
            if time.monotonic() > deadline:
                break
            region, own = self._regions(some, radii), self._constants_of(some)
            found = attack(region, *self._property(some), own, deadline=deadline)
            broken = self._note(some, radii, found.violated, found.points)
            search.answer(~found.violated, broken=broken)

    def bound(self, nb_halvings: int) -> None:
        """Radii within which bounds of whole regions are enough."""
        steps = class_radii_so_far(
            self._verifier,
            self._regions,
            self._classes,
            self._ends,
            nb_halvings,
            self._constants,
        )
        for self.held in steps:
            if self._is_late:
                break

    def decide(self, nb_halvings: int, settings: dict[str, Any]) -> None:
        """Radii between what is proved and what is attacked, by decisions."""
        ends = self._ends
        search = RadiusSearch(
            np.minimum(self.held, ends),
            ends,
            nb_halvings=nb_halvings + _MORE_TESTS,
            tolerance=2.0**-nb_halvings,
            linear=True,
            known=self.held,
            test_high="last",
            verbose=self._verbose,
        )
        self.held, decision = search.held, None
        for some, radii in search:
            if self._is_late:
                break
            holds, broken = np.zeros(len(some), bool), self.broken[some]
            new = radii < broken
            if new.any():
                decision = self._decide(some[new], radii[new], settings)
                holds[new] = decision.holds
                broken[new] = self._note(
                    some[new], radii[new], decision.violated, decision.counterexamples
                )
            search.answer(holds, broken=broken)
            if decision is not None and "interrupted" in decision.reason:
                self.held[some[holds]] = np.maximum(self.held[some[holds]], radii[holds])
                raise KeyboardInterrupt

    def _decide(self, some: np.ndarray, radii: np.ndarray, settings: dict[str, Any]) -> Decision:
        """A decision at radii (M,) of some inputs, in a share of the time that is left."""
        left = self._deadline - time.monotonic()
        return self._verifier.decide(
            self._regions(some, radii),
            *self._property(some),
            self._constants_of(some),
            timeout=_DECIDED * max(left, 0.0) if math.isfinite(left) else None,
            **settings,
        )

    def _regions(self, some: np.ndarray, radii: np.ndarray) -> Region:
        return self._region_at(some, radii)

    def _property(self, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return stays_in_class(self._classes[some], self._verifier.nb_outputs)

    def _constants_of(self, some: np.ndarray) -> list[np.ndarray]:
        return [array[some] for array in self._constants]

    def _note(
        self, some: np.ndarray, radii: np.ndarray, violated: np.ndarray, points: np.ndarray
    ) -> np.ndarray:
        """Keep where classes are seen to change: radii (M,), inf where they are not."""
        seen = np.full(len(some), np.inf)
        seen[violated] = radii[violated]
        if self._norm is not None and violated.any():
            centers = self._regions(some, 0 * radii).center
            steps = (points.astype(np.float64) - centers)[violated]
            seen[violated] = np.linalg.norm(steps.reshape(len(steps), -1), self._norm, axis=1)
        self.broken[some] = np.minimum(self.broken[some], seen)
        return seen
