"""EVA: explanations by verified perturbation analysis.

Source: Fel et al., Don't Lie to Me! Robust and Efficient Explainability with Verified Perturbation
Analysis, CVPR 2023.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np

from xcertify.answers import Answers
from xcertify.attacks.ascent import PGD
from xcertify.attributions.attained import ShortAttack
from xcertify.attributions.base import WITHOUT_BOUNDS, Certifying, ClassExplainer
from xcertify.attributions.overlaps import (
    OVERLAPS,
    LargestOverlap,
    Overlap,
    Overlaps,
    overlaps_of,
    with_cells_held,
)
from xcertify.attributions.rounds import scores_in_rounds
from xcertify.attributions.useful_overlaps import Usefulness, are_flat
from xcertify.bounds import Decision, LinearBounds, Verifier
from xcertify.certificates import OverlapCertificate
from xcertify.checks import whole_number
from xcertify.grid import cells_of_entries, grid_cells
from xcertify.models import as_rows
from xcertify.perturbation import as_outside
from xcertify.progress import progress_bar
from xcertify.radii import Interval, class_margins, compare_bounds
from xcertify.reasons.check import asked_outputs
from xcertify.regions import Ball, Region, as_norm
from xcertify.targets import margin_rows

MODES = ("one-pass", "exact")
LINE_METHODS = ("crown", "crown-ibp", "alpha-crown")  # those with linear bounds


class TargetedExplanation(NamedTuple):
    """Two maps, (N, H, W, 1) or the shape of the inputs, float32.

    Attributes
    ----------
    positive
        Importance of what may be added: B(+), drawn in red in the paper.
    negative
        Of what may be taken away: B(-), blue.
    """

    positive: np.ndarray
    negative: np.ndarray


class OverlapExplainer(ClassExplainer):
    """What EVA and its variants share: a score is the overlap that vanishes with a cell held.

    A variant says in `_bound` how the overlap over regions is bounded or estimated; here `Verifier`
    bounds it.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        epsilon: Any,
        norm: float,
        clip: tuple[Any, Any] | None,
        grid_size: int | tuple[int, int] | None,
        overlap: str,
        temperature: float,
        method: str,
        delta: Any,
        outside: str,
        batch_size: int | None,
        seed: int,
        verbose: bool,
    ) -> None:
        if overlap not in OVERLAPS:
            raise ValueError(f"overlap must be 'margin' or 'separate'. Received: {overlap!r}")
        if not 0 <= temperature < np.inf:
            raise ValueError(
                f"temperature must be 0 (the largest class alone) or a positive number. "
                f"Received: {temperature!r}"
            )
        super().__init__(model, batch_size=batch_size, seed=seed, verbose=verbose)
        self.epsilon, self.norm, self.clip = epsilon, as_norm(norm), clip
        self.grid_size, self.overlap, self.method = grid_size, overlap, method
        self.temperature, self.delta, self.outside = temperature, delta, as_outside(outside)

    def _resolve(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        """Classes (N,) int, or with `delta` numbers of outputs."""
        return asked_outputs(self.model, self._logits(inputs), targets, self.delta)

    def explain_targeted(
        self, inputs: Any, towards: Any, targets: Any = None
    ) -> TargetedExplanation:
        """What would have to be added, or taken away, for another class to win (section 4.3).

        The overlap of the one class `towards` against `targets` is explained, over the part of the
        region where features only grow, B(+), and where they only fall, B(-).

        Parameters
        ----------
        inputs
            As for `explain`.
        towards
            The class c' that is asked for: one integer for all, labels (N,) or one-hot rows (N, K).
        targets
            The class c that it is set against, default the predicted one.
        """
        if self.delta is not None:
            raise ValueError(
                f"towards is another class, and with delta there are none: take explain. "
                f"Received: delta={self.delta!r}"
            )
        inputs, classes = self._prepare(inputs, targets)
        overlap = self._overlap(inputs, classes, self._alternatives(inputs, classes, towards))
        region = self.perturbation.around(inputs)
        is_warned = self._warn_before(region)
        found = [
            self._overlaps_for_maps(half, overlap)
            for half in (region.positive(), region.negative())
        ]
        maps = [self._to_map(overlaps, inputs.shape[1:]).astype(np.float32) for overlaps in found]
        if not is_warned:
            self._warn_where_vacuous(region, overlap, found)
        return TargetedExplanation(*maps)

    def _alternatives(self, inputs: np.ndarray, classes: np.ndarray, towards: Any) -> np.ndarray:
        """The classes c' that are asked for, (N,) int, each another one than c."""
        towards = np.asarray(towards)
        if not towards.ndim:
            towards = np.full(len(inputs), towards)
        try:
            alternatives = self._resolve(inputs, towards)
        except ValueError as error:
            raise ValueError(str(error).replace("targets", "towards")) from None
        if (classes == alternatives).any():
            sample = int(np.argmax(classes == alternatives))
            raise ValueError(
                f"towards must be another class than the target. Received: {classes[sample]} for "
                f"both in sample {sample}"
            )
        return alternatives

    def _explain(self, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
        overlap = self._overlap(inputs, classes, temperature=self.temperature)
        region = self.perturbation.around(inputs)
        is_warned = self._warn_before(region)
        overlaps = self._overlaps_for_maps(region, overlap)
        maps = self._to_map(overlaps, inputs.shape[1:])
        if not is_warned:
            self._warn_where_vacuous(region, overlap, [overlaps])
        return maps

    def _overlaps_for_maps(self, region: Region, overlap: Overlap) -> Overlaps:
        """Overlaps whose differences are scores."""
        return self._overlaps(region, overlap)

    def _are_flat(self, region: Region, overlaps: Overlaps) -> np.ndarray:
        """Where the map is zero everywhere, (N,) bool, but for what float32 rounds."""
        return are_flat(region, overlaps, tolerance=2.0**-20)

    def _warn_where_vacuous(self, region: Region, overlap: Overlap, found: list[Overlaps]) -> None:
        """A `VacuousWarning` where the overlaps behind one or two maps of an input say nothing."""
        flat = np.all([self._are_flat(region, overlaps) for overlaps in found], axis=0)
        full = np.max([overlaps.full for overlaps in found], axis=0)
        self._usefulness.warn(region, overlap, full, flat)

    @property
    def _usefulness(self) -> Usefulness:
        return Usefulness(
            name=type(self).__name__,
            attack=self._short_attack(self.temperature),
            bound=self._bound_whole,
            epsilon=self.epsilon,
            tighter="" if self.method in ("crown", "alpha-crown") else "method='crown', ",
            cures=self._cures,
        )

    def _short_attack(self, temperature: float) -> ShortAttack:
        """What overlaps at a temperature attain."""
        return self._derive(
            ("short attack", temperature),
            lambda: ShortAttack(self._logits_at, temperature, self.batch_size),
        )

    @property
    def _cures(self) -> str:
        """What can be tried where bounds are vacuous, behind a smaller epsilon."""
        return f"EVAHybrid, or {WITHOUT_BOUNDS}"

    def _overlap(
        self,
        inputs: np.ndarray,
        classes: np.ndarray,
        alternatives: np.ndarray | None = None,
        temperature: float = 0.0,
    ) -> Overlap:
        if self.delta is None:
            return Overlap(self.overlap, classes, alternatives, temperature)
        within = Answers.of(self._values(inputs), classes, delta=self.delta)
        return Overlap("margin", classes, within=within)

    def _values(self, inputs: np.ndarray) -> np.ndarray:
        """Outputs (N, K) that others are compared with, where `delta` says how near they stay."""
        return self._logits(inputs)

    def _overlaps(self, region: Region, overlap: Overlap) -> Overlaps:
        """Overlaps of N regions, each bounded whole and with each of its cells held."""
        cells = cells_of_entries(self._cells(region.shape), region.shape)
        bounds = []
        for samples, part in with_cells_held(region, cells, self._nb_regions_at_once, self.verbose):
            bounds.append(self._bound(part, overlap[samples]))
        return overlaps_of(np.concatenate(bounds).reshape(len(region), -1))

    def _bound(self, region: Region, overlap: Overlap) -> np.ndarray:
        """Bounds of the overlap over N regions, (N,)."""
        rows = overlap.rows(self._verifier.nb_outputs)
        return overlap.of_sides(rows, *self._verifier.bound_rows(region, rows))

    def _bound_whole(self, region: Region, overlap: Overlap) -> np.ndarray:
        """Bounds (N,) of the overlaps that maps are made of."""
        return self._bound(region, overlap)

    def _to_map(self, overlaps: Overlaps, shape: tuple[int, ...]) -> np.ndarray:
        """Scores ``overlap(B) - overlap(B_u)`` of the cells u, at the features of each cell."""
        self._refuse_infinite(np.maximum(overlaps.full, overlaps.fixed.max(axis=1)))
        return self._on_features(overlaps.full[:, None] - overlaps.fixed, shape)

    def _on_features(self, scores: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Scores (N, cells) at the features of each cell: a map, as `explain` returns it."""
        maps = scores[:, self._cells(shape)]
        return maps[..., None] if len(shape) == 3 else maps

    def _refuse_infinite(self, bounds: np.ndarray) -> None:
        """A ValueError for the first of N bounds that is not finite."""
        known = np.isfinite(bounds)
        if not known.all():
            raise ValueError(
                f"the overlap of sample {int(np.argmin(known))} has no finite bound, since numbers "
                f"overflow on the way. Choose a smaller epsilon, or a tighter method such as "
                f"'crown', or {self._cures}. "
                f"Received: epsilon={self.epsilon}, method={self.method!r}"
            )

    def _cells(self, shape: tuple[int, ...]) -> np.ndarray:
        """Cell of each feature, (H, W), (T, W) or (W,)."""
        return grid_cells(shape, self.grid_size)

    @property
    def _verifier(self) -> Verifier:
        return self._verifier_of(self.method)

    @property
    def _nb_regions_at_once(self) -> int:
        return self._nb_at_once


class EVA(OverlapExplainer, Certifying):
    """EVA: the importance of a feature is the verified adversarial overlap that it makes possible.

    The adversarial overlap of a region is the largest value of ``f_c' - f_c`` on it, over all other
    classes c' (Eq. 1); `Verifier` bounds it from above. The score of a cell is how much of this
    bound vanishes when the features of the cell are held at their nominal value (Eq. 2).

    Parameters
    ----------
    model
        A Keras classifier that `Verifier` can bound. A single logit counts as two classes.
    epsilon
        Radius of the region, in units of the inputs: a scalar or as for `Ball`. Start where
        `certify` proves some predictions and not all.
    norm
        inf, 2 or 1.
    clip
        Valid range of the inputs, (low, high); None: no limits.
    grid_size
        Cells per side of images, where it may be a pair (rows, columns), and along time; None:
        every feature (every pixel with its channels) is a cell.
    mode
        "one-pass": all cells from the linear bounds of the whole region, which hold on each of its
        parts: one backward pass per input. "exact": the region of each cell bounded on its own, as
        in the paper: 1 + cells passes.
    overlap
        "margin": each ``f_c' - f_c`` is bounded as one function, tighter at no cost. "separate":
        max upper(f_c') - lower(f_c), the paper's form.
    delta
        For regression: the overlap is ``|f - f(x0)| - delta`` of the output that the targets name,
        so that a map says what moves the output, and `certify` proves where it stays less than
        `delta` away from its value at the input; a number or (N,). `overlap` and `temperature` have
        no meaning then. None: classes.
    temperature
        How the other classes count in a map. 0, as in the paper: only the one whose bound is
        largest. Above, all of them do: the overlap is ``T log sum exp((f_c' - f_c) / T)``, for
        T = 1 the log-odds against c, so that a cell also counts that makes other classes
        possible. Certificates are of the paper's overlap, whatever the temperature.
    method
        How to bound, a name of `Verifier`: "crown", "crown-ibp", "ibp", "decomon:crown", ...;
        "one-pass" needs "crown" or "crown-ibp".
    nb_rounds
        Passes behind a map of `explain`. 1: its scores are those of one pass over the whole region.
        More (4 are mostly enough): the half of the cells through which the class is changed least
        is held, the rest is looked at again in a region of its own, and so on, so that the map
        ranks cells by how soon the class changes through them and stays when they are held (what
        `RobustnessSr` measures). "one-pass" only; see `xcertify.attributions.rounds`.
    attack
        Whether `certify` also looks for points with a large overlap, by `PGD` from two starts: the
        other end of its `interval`.
    outside
        What becomes of inputs outside `clip`: "error" (default), a ValueError; or "clip": they are
        cut to it first, and maps and certificates are those of the cut inputs, which stand in
        ``certificate.region.center``.
    batch_size
        Most regions that are bounded, and points that are attacked, at once.
    seed
        Of the random start of the attack; nothing else is random.
    verbose
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        For an unknown mode, overlap or method, and for inputs outside `clip`; by `explain` also
        where bounds overflow (`certify` then says that nothing is proved).
    UnsupportedLayerError
        At the first use, for a model that cannot be bounded.

    Warns
    -----
    VacuousWarning
        By `explain`, once a call, where the bounds behind a map are more than 100 times wider than
        what a short attack attains of the overlap, and where a map is zero everywhere; with what
        to try. 16 inputs of the call are looked at; of a large network one before any map is made.

    Guarantee
    ---------
    Of `certify`: no point of the region has a larger overlap than the certificate says, with the
    cells free or fixed; where the overlap is negative, the predicted class is proved constant.
    What is decided with ``complete=True`` has the guarantee of `Decision`.
    Arithmetic and assumptions are those of `Verifier`. The scores of `explain` are differences of
    such bounds, of the overlap at the `temperature`: each bound is proved (but for the rounding of
    the logarithm of the sum), the difference is not the drop of the true overlap. Where the lines
    of the method say nothing of any cell (each line under a ReLU is constant), both bounds are
    those of steeper lines, which are proved as well. **No guarantee** of the scores of several
    rounds: the lines of each round are proved on its region, the ranking by them is a greedy one.

    Examples
    --------
    >>> explainer = EVA(model, epsilon=0.05, clip=(0.0, 1.0))
    >>> maps = explainer.explain(images, labels)          # (N, H, W, 1)
    >>> explainer.certify(images, labels).robust          # (N,) bool
    """

    def __init__(
        self,
        model: keras.Model,
        epsilon: Any = 0.05,
        norm: float = np.inf,
        clip: tuple[Any, Any] | None = None,
        grid_size: int | tuple[int, int] | None = None,
        mode: str = "one-pass",
        overlap: str = "margin",
        temperature: float = 2.0,
        method: str = "crown",
        *,
        nb_rounds: int = 1,
        delta: Any = None,
        attack: bool = False,
        outside: str = "error",
        batch_size: int | None = 512,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be 'one-pass' or 'exact'. Received: {mode!r}")
        if mode == "one-pass" and method not in LINE_METHODS:
            raise ValueError(
                f"mode='one-pass' needs the linear bounds of method='crown' or 'crown-ibp'; with "
                f"other methods use mode='exact'. Received: method={method!r}"
            )
        if whole_number("nb_rounds", nb_rounds) > 1 and mode == "exact":
            raise ValueError(
                f"nb_rounds above 1 need the linear bounds of mode='one-pass'. "
                f"Received: nb_rounds={nb_rounds!r} with mode={mode!r}"
            )
        super().__init__(
            model,
            epsilon=epsilon,
            norm=norm,
            clip=clip,
            grid_size=grid_size,
            overlap=overlap,
            temperature=temperature,
            method=method,
            delta=delta,
            outside=outside,
            batch_size=batch_size,
            seed=seed,
            verbose=verbose,
        )
        self.mode, self.nb_rounds, self.attack = mode, int(nb_rounds), attack

    def certify(
        self,
        inputs: Any,
        targets: Any = None,
        *,
        complete: bool = False,
        timeout: float | None = 60.0,
    ) -> OverlapCertificate:
        """Bounds of the overlaps, and where the predictions are proved to stay.

        Parameters
        ----------
        inputs, targets
            As for `explain`.
        complete
            Whether predictions that bounds do not prove are decided by `Verifier.decide`: proved by
            branch and bound, or refuted by a counterexample.
        timeout
            Seconds that this may take, about, for all inputs together; None: no limit.

        Returns
        -------
        certificate
            With `complete` its `decision` says of each input what was found, and by what.

        Raises
        ------
        ValueError
            As `explain`; for inputs outside `clip`; and for `complete` with decomon.
        UnsupportedLayerError
            For a model that cannot be bounded.
        ContradictionError
            If an attack succeeds inside what is certified: a bug, to be reported.
        """
        inputs, classes = self._prepare(inputs, targets)
        region = self._looked_at(self.perturbation.around(inputs))
        return self._given_out(self._certify(region, classes, complete, timeout))

    def _certify(
        self,
        region: Ball,
        classes: np.ndarray,
        complete: bool = False,
        timeout: float | None = None,
    ) -> OverlapCertificate:
        overlap = self._overlap(region.center, classes)
        overlaps = self._overlaps(region, overlap)
        if self.mode == "one-pass":  # lines alone; the bounds of `Verifier` know intervals, too
            full = np.minimum(overlaps.full, self._bound(region, overlap))
            overlaps = Overlaps(full, np.minimum(overlaps.fixed, full[:, None]))
        nominal, reached = self._short_attack(0.0)(region, overlap)
        decision = self._decide(region, overlap, overlaps.full, timeout) if complete else None
        attained = self._attained(region, overlap) if self.attack else None
        if attained is not None:
            stays = overlaps.full if decision is None else np.where(decision.holds, 0.0, np.inf)
            proved, what = np.minimum(overlaps.full, stays), "an overlap"
            compare_bounds(proved, attained, what=what, method=self.method, region=region)
        return OverlapCertificate(
            region=region,
            method=self.method,
            arithmetic=self._verifier.guarantee,
            interval=Interval(overlaps.full, attained),
            cell_overlaps=overlaps.fixed,
            cells=self._cells(region.shape),
            targets=classes,
            nominal=nominal,
            attained=reached if attained is None else np.maximum(reached, attained),
            decision=decision,
            answers=overlap.within,
        )

    def _decide(
        self, region: Ball, overlap: Overlap, overlaps: np.ndarray, timeout: float | None
    ) -> Decision:
        """Whether the answers stay: by overlaps (N,) that are negative, the others by decisions."""
        within, logits = overlap.within, self._logits(region.center)
        if within is None:
            margins = class_margins(logits, overlap.classes)
        else:
            margins = -np.asarray(within.delta)
        nb_inputs, left = len(region), np.flatnonzero(~(overlaps < 0))
        found: dict[str, Any] = {
            "status": np.full(nb_inputs, "holds", object),
            "counterexamples": np.full(region.center.shape, np.nan, region.center.dtype),
            "lower": -overlaps.astype(np.float64),
            "upper": -margins.astype(np.float64),
            "nb_branches": np.zeros(nb_inputs, int),
            "seconds": np.zeros(nb_inputs),
            "reason": np.full(nb_inputs, "bounds", object),
        }
        if len(left):
            asked = within or Answers(overlap.classes, logits.shape[1])
            rows, limits = asked[left].property()
            some = self._verifier.decide(
                region[left], rows, limits, timeout=timeout, seed=self.seed, verbose=self.verbose
            )
            for name, values in found.items():
                values[left] = getattr(some, name)
        words = {name: found[name].astype(str) for name in ("status", "reason")}
        return Decision(**found | words)

    def _explain(self, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
        maps = super()._explain(inputs, classes)
        return maps if self.nb_rounds == 1 else self._in_rounds(inputs, classes)

    def _in_rounds(self, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Maps whose scores are found in several rounds."""

        def lines(region: Region, far: np.ndarray, rows: np.ndarray) -> np.ndarray:
            return self._verifier.linear_bounds(region, rows).upper_coefficients

        overlap = replace(self._overlap(inputs, classes), form="margin")
        values = self._values(inputs).astype(np.float64)
        rows = np.asarray(overlap.rows(values.shape[1]), np.float32)
        margins = (rows @ values[..., None])[..., 0]
        if overlap.offsets is not None:
            margins = margins + overlap.offsets
        scores = scores_in_rounds(
            lines,
            self.perturbation.around(inputs),
            rows,
            margins,
            self._cells(inputs.shape[1:]),
            clip=self.clip,
            temperature=self.temperature,
            nb_rounds=self.nb_rounds,
        )
        return self._on_features(scores, inputs.shape[1:])

    def _logits(self, inputs: np.ndarray) -> np.ndarray:
        return as_rows(self._verifier.evaluate(inputs))

    def _values(self, inputs: np.ndarray) -> np.ndarray:
        return as_rows(self._verifier_of("ibp", "float64").evaluate(inputs))

    def _overlaps(self, region: Region, overlap: Overlap) -> Overlaps:
        if self.mode == "exact":
            return super()._overlaps(region, overlap)
        return self._by_lines(self._verifier, region, overlap)

    def _overlaps_for_maps(self, region: Region, overlap: Overlap) -> Overlaps:
        """Overlaps, by other lines where those of the method say nothing of any cell.

        Where a ReLU is negative for the larger part, the nearest line under it is constant, though
        its output depends on the inputs.
        """
        overlaps = self._overlaps(region, overlap)
        if self.method not in LINE_METHODS:
            return overlaps
        full, fixed = overlaps.full.copy(), overlaps.fixed.copy()
        for slope in ("parallel", "right"):
            flat = np.flatnonzero(self._are_flat(region, Overlaps(full, fixed)))
            if not len(flat):
                break
            verifier = self._verifier_with(slope)
            full[flat], fixed[flat] = self._by_lines(verifier, region[flat], overlap[flat])
        return Overlaps(full, fixed)

    def _bound_whole(self, region: Region, overlap: Overlap) -> np.ndarray:
        if self.mode == "exact":
            return self._bound(region, overlap)
        return self._overlaps(region, overlap).full  # by the graph that is there

    def _are_flat(self, region: Region, overlaps: Overlaps) -> np.ndarray:
        tolerance = 1e-12 if self.mode == "one-pass" else 2.0**-20  # sums in float64, or in float32
        return are_flat(region, overlaps, tolerance)

    def _verifier_with(self, lower_slope: str) -> Verifier:
        method = "crown" if self.method == "alpha-crown" else self.method
        return self._derive(
            ("verifier", method, lower_slope),
            lambda: Verifier(
                self.model,
                method,
                strip_head=True,
                start_layer=self._start,
                lower_slope=lower_slope,
            ),
        )

    def _by_lines(self, verifier: Verifier, region: Region, overlap: Overlap) -> Overlaps:
        """Overlaps of N regions from the lines of each region, which hold on all of its parts."""
        bounds = []
        with progress_bar(len(region), "input", verbose=self.verbose) as progress:
            for first in range(0, len(region), self._nb_at_once):
                some = slice(first, first + self._nb_at_once)
                bounds.append(self._in_one_pass(verifier, region[some], overlap[some]))
                progress.update(len(bounds[-1]))
        return overlaps_of(np.concatenate(bounds))

    def _attained(self, region: Ball, overlap: Overlap) -> np.ndarray:
        """Overlaps of the worst points that an attack finds, (N,), in real arithmetic.

        At each point the largest margin is proved to be at least this.
        """
        exact = self._verifier_of("ibp", "float64")
        rows = overlap.rows(exact.nb_outputs)
        rows = margin_rows(overlap.classes, exact.nb_outputs) if rows is None else rows
        if overlap.within is None:
            attack = self._derive(
                "attack",
                lambda: PGD(
                    self._logits_at, restarts=2, batch_size=self._nb_at_once, seed=self.seed
                ),
            )
            points = attack(region, overlap.classes).points
            margins = exact.bound_rows(Ball(points.astype(np.float64), 0.0), rows)
            return margins[0].max(axis=1)
        asked = overlap.within.property()
        found = exact.attack(region, *asked, restarts=2, seed=self.seed)
        lower, _ = exact.bound_rows(Ball(found.points.astype(np.float64), 0.0), rows)
        sums = lower + overlap.offsets
        return (sums - 1e-15 * (np.abs(lower) + np.abs(sums))).max(axis=1)

    def _in_one_pass(self, verifier: Verifier, region: Region, overlap: Overlap) -> np.ndarray:
        """Bounds of N regions and of their parts with a cell held, (N, 1 + cells)."""
        cells = cells_of_entries(self._cells(region.shape), region.shape)
        nb_parts = int(cells.max()) + 2
        rows = overlap.rows(verifier.nb_outputs)
        largest = LargestOverlap(overlap, rows, (nb_parts,))
        # both sides in float64, and some copies of one of them
        nb_bytes = 6 * 8 * nb_parts
        for samples, some, lines in verifier.linear_bounds_in_parts(
            region, rows, nb_bytes=nb_bytes
        ):
            largest.add(samples, some, *_sides(lines, cells, only_upper=rows is not None))
        return largest.bounds


def _sides(
    lines: LinearBounds, cells: np.ndarray, only_upper: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Sides of lines on N regions and their parts with a cell held, (N, S, 1 + cells) each.

    Of margins only the upper ones are looked at, and take the place of the lower ones.
    """
    upper = _side_by_side(*lines.largest(cells))
    return upper if only_upper else _side_by_side(*lines.smallest(cells)), upper


def _side_by_side(full: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """(N, S) and (N, S, cells) as (N, S, 1 + cells)."""
    return np.concatenate([full[..., None], fixed], axis=-1)
