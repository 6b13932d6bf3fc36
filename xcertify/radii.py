"""Certified against attacked: every proof is held against the best attack on the same quantity.

`Interval` holds both sides. `RadiusSearch` is the one search for either of them: the largest radius
that is proved, the least one that is attacked. An attack that succeeds where a certificate says
that none can is no result: `compare_radii` and `compare_bounds` refuse it in one way, wherever the
package has both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from xcertify.inputs import in_batches
from xcertify.progress import progress_bar
from xcertify.regions import Region
from xcertify.targets import margin_rows

__all__ = [
    "ContradictionError",
    "Interval",
    "RadiusSearch",
    "class_radii",
    "compare_bounds",
    "compare_radii",
    "keeps_class",
]

_MORE_TESTS = 3  # than bisection takes, of a search by values that say little
_MANY = 32  # margins, of which that of the runner-up is bounded before the others


class Bounds(Protocol):
    """What is asked here of a `Verifier`, which stands above this file."""

    @property
    def nb_outputs(self) -> int:
        """Number of the outputs."""

    def evaluate(self, inputs: np.ndarray, constants: Sequence[Any] = ()) -> np.ndarray:
        """The outputs, (N, K)."""

    def bound_rows(
        self, region: Region, rows: Any, constants: Sequence[Any] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds (N, S) of rows of the outputs over regions."""


class ContradictionError(RuntimeError):
    """An attack succeeded inside a certified region: one of the two is wrong."""


@dataclass(frozen=True, eq=False, repr=False)
class Interval:
    """What is known of a number of each input: between what is proved and what an attack found.

    Of a radius the proof is the lower end, ``certified <= radius <= attacked``; of a largest value
    it is the upper one, ``attacked <= value <= certified``.

    Attributes
    ----------
    certified
        (N,): the proved end.
    attacked
        (N,): the end that an attack showed, infinite where it found nothing; None without one.

    Guarantee
    ---------
    Of `certified`, that of the certificate whose interval it is. **No guarantee** that `attacked`
    is the best that an attack can do.
    """

    certified: np.ndarray
    attacked: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.certified)

    def __getitem__(self, index: slice | np.ndarray) -> Interval:
        """The intervals of some inputs."""
        attacked = None if self.attacked is None else self.attacked[index]
        return Interval(self.certified[index], attacked)

    @property
    def gap(self) -> np.ndarray | None:
        """(N,): how far both ends are from each other; None without an attack."""
        if self.attacked is None:
            return None
        with np.errstate(invalid="ignore"):  # both infinite
            return np.abs(self.attacked - self.certified)

    def to_dict(self) -> dict[str, Any]:
        """Both ends as lists, ready for JSON."""
        attacked = None if self.attacked is None else self.attacked.tolist()
        return {"certified": self.certified.tolist(), "attacked": attacked}

    def __repr__(self) -> str:
        if not len(self):
            return "<Interval of no inputs>"
        attacked = "not attacked"
        if self.attacked is not None:
            attacked = f"attacked {np.median(self.attacked):.4g}"
        return (
            f"<Interval: certified {np.median(self.certified):.4g}, {attacked} "
            f"(medians of {len(self)})>"
        )


class RadiusSearch:
    """Bisection of a radius for N inputs side by side: it says what to test and is told what holds.

    The same for proofs (does it hold within the radius?) and attacks (was it not broken there?)::

        search = RadiusSearch(low, high, nb_halvings=10)
        for samples, radii in search:
            search.answer(holds_within(samples, radii))
        search.held, search.broken

    Parameters
    ----------
    low, high
        (N,) radii between which it looks. Without `test_low` the lower end counts as one that
        holds, without `test_high` the upper one as one that does not; neither is then reported.
    nb_halvings
        Number of bisections. None: until `tolerance` is reached.
    tolerance
        Of an input whose ``high <= low (1 + tolerance)`` nothing more is tested; None: tested until
        `nb_halvings`.
    linear
        Whether the middle of two radii is their mean; else it is their geometric mean.
    integers
        Whether radii are whole numbers, as numbers of features are (with `linear`, and ends that
        are whole): then it goes on until both ends are neighbours.
    values
        (N,) numbers below 0, such as margins, of which those of radii 0 are given here and those of
        the tested radii with each answer. The next radius is then interpolated instead of halved
        (with `linear` and `nb_halvings`): it ends between the same two radii, after about half as
        many tests, and at most three more. None: without.
    known
        (N,) radii that are known to hold, with which `held` begins. None: 0. With them the search
        rises by factors of two until one does not hold; with `linear` by steps that double, the
        first a sixteenth of what is between `low` and `high`, for tests that are the dearer the
        larger the radius is.
    test_low
        Whether the lower end is tested first: True, or (N,) bool for some inputs.
    test_high
        "first": the upper end is tested before all others; "last": where no smaller one has failed.
    whole
        Whether all inputs are tested each time, the decided ones at a radius that holds, for tests
        that cannot be made of some of them.
    batch_size
        Most inputs that are tested at once; None: all.
    name, verbose
        Of a progress bar of decided inputs, and whether to show it.

    Attributes
    ----------
    held
        (N,) float64: the largest radius that was tested (or `known`) and held; 0 where none did. It
        was itself tested, so that nothing depends on answers being monotone.
    broken
        (N,) float64: the least radius that was tested and did not hold, or where an answer says
        that it was broken; inf where none was.

    Examples
    --------
    >>> search = RadiusSearch(np.zeros(2), np.ones(2), nb_halvings=8, linear=True)
    >>> for samples, radii in search:
    ...     search.answer(radii < np.array([0.3, 0.7])[samples])
    >>> search.held
    array([0.296875, 0.69921875])
    """

    held: np.ndarray
    broken: np.ndarray

    def __init__(
        self,
        low: Any,
        high: Any,
        *,
        nb_halvings: int | None = None,
        tolerance: float | None = None,
        linear: bool = False,
        integers: bool = False,
        values: np.ndarray | None = None,
        known: np.ndarray | None = None,
        test_low: Any = False,
        test_high: str | None = None,
        whole: bool = False,
        batch_size: int | None = None,
        name: str = "radius",
        verbose: bool = False,
    ) -> None:
        if nb_halvings is None and tolerance is None and not integers:
            raise ValueError("give nb_halvings, tolerance or both: without one it would not end")
        low, high = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
        self._low, self._high, self._end = low.copy(), high.copy(), high
        self._halvings, self._tolerance, self._linear = nb_halvings, tolerance, linear
        self._integers = integers
        self._interpolation: Interpolation | None = None
        if values is not None and linear and nb_halvings is not None:
            self._interpolation = Interpolation(self._low, self._high, nb_halvings, values)
            self._halvings = nb_halvings + _MORE_TESTS
        self._rises = np.zeros(len(low), bool) if known is None else np.asarray(known) > 0
        self._step = (high - low) / 16
        self._test_low, self._test_high = np.broadcast_to(test_low, low.shape), test_high
        self._whole, self._batch_size = whole, batch_size
        self._answer: np.ndarray | None = None
        self._values: np.ndarray | None = None
        self._broken: np.ndarray | None = None
        self._name, self._verbose = name, verbose
        self.held = np.zeros(len(low)) if known is None else np.array(known, np.float64)
        self.broken = np.full(len(low), np.inf)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Which inputs (M,) to test at which radii (M,); an `answer` is due after each."""
        bar = progress_bar(len(self.held), "input", self._name, verbose=self._verbose)
        with bar as progress:
            yield from self._ask(self._test_low & (self._low <= self._high), self._low)
            if self._test_high == "first":
                yield from self._ask(self._low < self._high, self._high)
            while (undecided := self._undecided()).any() and self._halvings != 0:
                yield from self._ask(undecided, self._middle())
                self._halvings = None if self._halvings is None else self._halvings - 1
                progress.update(int((~self._undecided()).sum()) - progress.n)
            if self._test_high == "last":
                untouched = (self._high == self._end) & (self._low < self._high)
                yield from self._ask(untouched, self._high)
            progress.update(len(self.held) - progress.n)

    def answer(
        self,
        holds: Any,
        values: np.ndarray | None = None,
        broken: np.ndarray | None = None,
    ) -> None:
        """Whether it holds within each of the radii that were just given, (M,) bool.

        With `values`, (M,) numbers that are below 0 where it does and grow with the radius. With
        `broken`, (M,) radii at which it was seen not to hold, inf where nothing was seen: then
        larger ones than that just given are not tested, but none counts as broken. None: where it
        does not hold, it is broken at the radius that was given.
        """
        self._answer, self._values, self._broken = np.asarray(holds, bool), values, broken

    def _ask(
        self, wanted: np.ndarray, radii: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The wanted inputs (N,) bool at their radii (N,), and what follows from the answers."""
        if not wanted.any():
            return
        radii = np.where(wanted, radii, self._low)
        some = np.arange(len(radii)) if self._whole else np.flatnonzero(wanted)
        for samples in in_batches(some, self._batch_size):
            yield samples, radii[samples]
            answer, self._answer = self._answer, None
            if answer is None or answer.shape != samples.shape:
                raise RuntimeError(
                    f"answer() is due after each test, with one entry for each of the "
                    f"{len(samples)} inputs. Received: {answer!r}"
                )
            broken = radii[samples] if self._broken is None else self._broken
            own = wanted[samples]
            self._note(samples[own], radii, answer[own], broken[own])
            if self._interpolation is not None and self._values is not None:
                self._interpolation.note(samples, radii[samples], self._values)

    def _note(
        self, samples: np.ndarray, radii: np.ndarray, holds: np.ndarray, broken: np.ndarray
    ) -> None:
        held, failed, broken = samples[holds], samples[~holds], broken[~holds]
        self.held[held] = np.maximum(self.held[held], radii[held])
        self.broken[failed] = np.minimum(self.broken[failed], broken)
        self._low[held], self._high[failed] = radii[held], np.minimum(radii[failed], broken)
        self._rises[failed] = False
        self._step[held] *= 2

    def _undecided(self) -> np.ndarray:
        """Inputs that are still worth a test, (N,) bool."""
        tolerance = self._tolerance or 0.0
        wide = self._low * (1 + tolerance) < self._high - self._integers
        if self._interpolation is not None:
            wide &= self._interpolation.is_wide(self._low, self._high)
        return wide

    def _middle(self) -> np.ndarray:
        """Radii between both ends, (N,)."""
        if self._interpolation is not None and self._halvings is not None:
            return self._interpolation.between(self._low, self._high, self._halvings)
        if self._linear:
            middle = (self._low + self._high) / 2
            middle = np.where(self._rises, np.minimum(self._low + self._step, middle), middle)
            return np.maximum(np.floor(middle), self._low + 1) if self._integers else middle
        middle = np.sqrt(self._low * self._high)
        return np.where(self._rises, np.minimum(2 * self._low, middle), middle)


class Interpolation:
    """Where values that grow with a radius become 0, on a grid of radii, for N inputs.

    Values of bounds grow about as a parabola does: each guess is where the one through the three
    values nearest to 0 is 0; through two of them, one of radius 0, where an even one is.

    Parameters
    ----------
    low, high
        (N,) radii; the grid has ``2 ** nb_halvings`` steps from one to the other.
    nb_halvings
        Number of bisections that would come to one step.
    values
        (N,) at `low`.
    """

    def __init__(
        self, low: np.ndarray, high: np.ndarray, nb_halvings: int, values: np.ndarray
    ) -> None:
        self._start, self._step = low.copy(), (high - low) / 2.0**nb_halvings
        self._places = [np.zeros(len(low))]  # in steps of the grid, NaN where nothing was tested
        self._found = [np.asarray(values, np.float64)]

    def note(self, samples: np.ndarray, radii: np.ndarray, values: np.ndarray) -> None:
        """The values (M,) of some inputs at their radii (M,)."""
        for kept, new in ((self._places, self._place(radii, samples)), (self._found, values)):
            kept.append(np.full(len(self._start), np.nan))
            kept[-1][samples] = new

    def is_wide(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Where two radii (N,) are farther from each other than a step, (N,) bool."""
        return high - low > 1.5 * self._step

    def between(self, low: np.ndarray, high: np.ndarray, nb_left: int) -> np.ndarray:
        """Radii of the grid between others (N,), so that `nb_left` tests are enough in any case."""
        first, last = np.round(self._place(low)), np.round(self._place(high))
        middle = np.floor((first + last) / 2)
        guess = self._guess()
        use = np.isfinite(guess) & (last - first <= 2.0 ** (nb_left - 1))
        place = np.where(use, np.clip(np.floor(guess), first + 1, last - 1), middle)
        return self._start + place * self._step

    def _place(self, radii: np.ndarray, samples: Any = slice(None)) -> np.ndarray:
        step = self._step[samples]
        return np.divide(
            radii - self._start[samples], step, out=np.zeros(len(step)), where=step > 0
        )

    def _guess(self) -> np.ndarray:
        """Places (N,) where the parabolas are 0, not finite where nothing can be said."""
        places, found = self._places, self._found
        if len(places) == 2:
            places, found = [*places, -places[1]], [*found, found[1]]
        if len(places) < 3:
            return np.full(len(self._start), np.nan)
        nearest = np.argsort(np.abs(found), axis=0)[:3]  # NaN last
        a, b, c = np.take_along_axis(np.stack(places), nearest, axis=0)
        at_a, at_b, at_c = np.take_along_axis(np.stack(found), nearest, axis=0)
        with np.errstate(all="ignore"):  # infinite values say nothing
            slope = (at_b - at_a) / (b - a)
            bend = ((at_c - at_a) / (c - a) - slope) / (c - b)
            slope = slope - bend * (b - a)  # at a
            return a - 2 * at_a / (slope + np.sqrt(slope**2 - 4 * bend * at_a))


def class_radii(
    verifier: Bounds,
    region_at: Callable[[np.ndarray, np.ndarray], Region],
    classes: np.ndarray,
    ends: np.ndarray,
    nb_halvings: int,
) -> np.ndarray:
    """Largest radii, of those tested, within which the class of N inputs is proved.

    Parameters
    ----------
    verifier
        Of the logits.
    region_at
        (samples (M,), radii (M,)) -> M regions around what the network is given of these samples.
    classes
        (N,) int.
    ends
        (N,): the largest radii that are tested.
    nb_halvings
        Radii are exact to ``ends / 2 ** nb_halvings``.

    Returns
    -------
    radii
        (N,) float64, 0 where none was proved.

    Guarantee
    ---------
    That of the verifier, for the regions of the radii. Each was itself tested.
    """
    for held in class_radii_so_far(verifier, region_at, classes, ends, nb_halvings):
        found = held
    return found


def class_radii_so_far(
    verifier: Bounds,
    region_at: Callable[[np.ndarray, np.ndarray], Region],
    classes: np.ndarray,
    ends: np.ndarray,
    nb_halvings: int,
    constants: Sequence[np.ndarray] = (),
) -> Iterator[np.ndarray]:
    """`class_radii` after each test, at first zeros, for callers whose time is limited.

    `constants` are the inputs that do not vary, (N, *shape) each.
    """
    centers = region_at(np.arange(len(classes)), np.zeros(len(classes))).center
    values = class_margins(verifier.evaluate(centers, constants), classes)
    search = RadiusSearch(
        0.0, ends, nb_halvings=nb_halvings, linear=True, values=values, test_high="last"
    )
    yield search.held
    for some, radii in search:
        own = [array[some] for array in constants]
        largest = _largest_margins(verifier, region_at(some, radii), classes[some], own)
        search.answer(largest < 0, largest)
        yield search.held


def class_margins(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """max_{c' != c} f_c' - f_c of logits (N, K) and classes c (N,), (N,)."""
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    own = np.eye(logits.shape[1], dtype=bool)[classes]
    return np.where(own, -np.inf, logits).max(axis=1) - logits[own]


def keeps_class(verifier: Bounds, region: Region, classes: np.ndarray) -> np.ndarray:
    """Where no point of a region is proved to have another class than the given one, (N,) bool.

    Parameters
    ----------
    verifier
        Of the logits.
    region
        N regions.
    classes
        (N,) int.

    Guarantee
    ---------
    That of the verifier: True where all margins ``f_c' - f_c`` are proved to be negative.
    """
    return _largest_margins(verifier, region, classes) < 0


def _largest_margins(
    verifier: Bounds, region: Region, classes: np.ndarray, constants: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """Upper bounds of the margins ``f_c' - f_c`` over regions, the largest of each, (N,).

    Of many margins, that of the runner-up at the center comes first. Where it is not proved to be
    negative, it is returned, and the others are not bounded.
    """
    rows = margin_rows(classes, verifier.nb_outputs)
    if rows.shape[1] < _MANY:
        return verifier.bound_rows(region, rows, constants)[1].max(axis=1)
    logits = verifier.evaluate(region.center, constants).reshape(len(region), -1)
    units = np.eye(verifier.nb_outputs, dtype=np.float32)
    first = units[second_classes(logits, classes)] - units[classes]
    largest = verifier.bound_rows(region, first[:, None], constants)[1][:, 0]
    held = np.flatnonzero(largest < 0)
    if len(held):
        own = [array[held] for array in constants]
        _, upper = verifier.bound_rows(region[held], rows[held], own)
        largest[held] = upper.max(axis=1)
    return largest


def second_classes(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The other class with the largest logit, (N,) int, of logits (N, K) and classes (N,)."""
    own = np.eye(logits.shape[1], dtype=bool)[classes]
    return np.where(own, -np.inf, logits).argmax(axis=1)


def compare_radii(
    certified: Any,
    attacked: Any,
    *,
    what: str,
    method: str,
    region: Any,
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
        Of the certificate, for the message; `region` in words, or itself.
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
    region: Any,
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
    region: Any,
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
