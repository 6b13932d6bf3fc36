"""Robustness-Sr: whether the features that an explanation names are the ones that matter."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.attacks.minimal import MinimalPerturbation, farthest
from xcertify.bounds import Verifier, decided_radii
from xcertify.data_range import range_for
from xcertify.inputs import evaluate_in_batches, in_batches
from xcertify.logits import classes_of, logits_of
from xcertify.metrics.base import Metric, MetricResult
from xcertify.metrics.explanations import as_explanations, importance_ranks
from xcertify.models import refuse_channels_first
from xcertify.progress import progress_bar
from xcertify.radii import Interval, class_radii, compare_radii
from xcertify.regions import Ball, Box, Region, as_column, as_norm, describe_ball, valid_range

FRACTIONS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)


@dataclass(frozen=True, eq=False, repr=False)
class RobustnessResult(MetricResult):
    """What `RobustnessSr` found for one side.

    Attributes
    ----------
    axis
        Shares r of the features, (P,).
    curves, scores
        Smallest perturbation that was found to change the class, (N, P), and the mean of each
        curve (its area divided by its length), (N,).
    certified_curves, certified_scores
        The same of the largest perturbation that was *proved* not to change it, or None. The true
        values lie in between.
    found
        (N, P) bool: False where no perturbation of these features was found to change the class,
        however large; `curves` then has the largest one that the valid range allows.

    Guarantee
    ---------
    Of `certified_curves`: that of the `Verifier` method, in float32 arithmetic. **No guarantee** of
    `curves`: smaller perturbations may exist.
    """

    certified_curves: np.ndarray | None
    certified_scores: np.ndarray | None
    found: np.ndarray

    @property
    def interval(self) -> Interval:
        """Between what the true curves lie, (N, P): ``[certified_curves, curves]``.

        The proved end is 0 where nothing was asked to be proved.
        """
        certified = self.certified_curves
        return Interval(np.zeros_like(self.curves) if certified is None else certified, self.curves)

    @property
    def certified_score(self) -> float | None:
        """Mean of the certified scores over the samples."""
        return None if self.certified_scores is None else float(self.certified_scores.mean())

    def __repr__(self) -> str:
        text = super().__repr__()
        if self.certified_scores is None:
            return text
        interval = f"[{self.certified_score:.4f}, {self.score:.4f}]"
        return text.replace(f"{self.score:.4f}", interval, 1)


def robustness_sr(
    model: Callable, inputs: Any, targets: Any, explanations: Any, **settings: Any
) -> tuple[RobustnessResult, RobustnessResult]:
    """Robustness-Sr of both sides: of the features that explanations name, and of all others.

    Parameters
    ----------
    model, inputs, targets, **settings
        As for the class `RobustnessSr`, which evaluates many explanations with one compiled model.
    explanations
        One per input, as for `Metric.evaluate`.

    Returns
    -------
    named, others
        Results where only the share r of the most important features may move (lower is better),
        and where only the others may (higher is better).

    Guarantee
    ---------
    See `RobustnessResult`.

    Examples
    --------
    >>> named, others = robustness_sr(model, images, labels, maps, certified=True)
    """
    return RobustnessSr(model, inputs, targets, **settings).evaluate_both(explanations)


def robustness_of(
    explanations: Any,
    *,
    sides: Sequence[bool],
    attack: MinimalPerturbation,
    verifier: Verifier | None,
    inputs: np.ndarray,
    classes: np.ndarray,
    clip: tuple[Any, Any],
    fractions: Sequence[float] | None = None,
    nb_halvings: int = 8,
    complete: bool = False,
    timeout: float | None = 60.0,
    seed: int = 0,
    verbose: bool = False,
) -> tuple[RobustnessResult, ...]:
    """Least perturbations that change the class, for N inputs, sides and P shares r side by side.

    Parameters
    ----------
    explanations
        In any form, one per input.
    sides
        Of each result: False where the share r of the most important features may move, True where
        all others may.
    attack
        Finds perturbations, in its norm.
    verifier
        Proves that there are none, of the logits. None: nothing is proved.
    inputs
        (N, *shape) float32, inside `clip`.
    classes
        (N,) int: to be left.
    clip, fractions, nb_halvings, complete, timeout, seed, verbose
        As for `RobustnessSr`.

    Returns
    -------
    results
        One for each side.

    Raises
    ------
    ContradictionError
        If the attack succeeds within a distance that the verifier certifies.

    Guarantee
    ---------
    Of the certified values, that of the verifier.
    """
    explanations = as_explanations(explanations, inputs)
    counts = _feature_counts(fractions, explanations[0].size)
    ranks, tied = importance_ranks(explanations, counts, seed)
    shape = (len(inputs), len(sides), len(counts))
    attacked, proved = np.zeros(shape), np.zeros(shape)
    found = np.zeros(shape, bool)
    at_once = max(1, attack.batch_size // attack.restarts)
    deadline = time.monotonic() + (math.inf if timeout is None else timeout)
    with progress_bar(found.size, "value", "RobustnessSr", verbose=verbose) as bar:
        for some in in_batches(np.arange(found.size), at_once):
            sample, side, place = np.unravel_index(some, shape)
            nominal = inputs[sample]
            named = ranks[sample] < as_column(counts[place], ranks)
            held = _of_entries(named == as_column(np.asarray(sides)[side], ranks), nominal)
            region = _all_valid(nominal, clip).fix(held)
            nearest = attack(region, classes[sample])
            ends = np.where(nearest.found, nearest.distances, farthest(region, attack.norm))
            attacked.flat[some], found.flat[some] = ends, nearest.found
            if verifier is not None:
                left = max(deadline - time.monotonic(), 0.0)
                share = None if timeout is None else left * len(some) / (found.size - some[0])
                radii = _proved_radii(
                    verifier,
                    Ball(nominal, 0.0, attack.norm, clip),
                    held,
                    classes[sample],
                    ends,
                    nearest.distances,
                    nb_halvings,
                    **({"timeout": share, "seed": seed} if complete else {}),
                )
                compare_radii(
                    radii.certified,
                    nearest.distances,
                    what="another class",
                    method=verifier.method,
                    region=f"{describe_ball(radii.certified, attack.norm, clip)}, with some "
                    f"features held",
                    samples=sample,
                )
                proved.flat[some] = radii.certified
                if complete:  # decisions may have found nearer ones
                    assert radii.attacked is not None
                    attacked.flat[some] = np.minimum(ends, radii.attacked)
                    found.flat[some] = np.isfinite(radii.attacked)
            bar.update(len(some))
    axis = counts / explanations[0].size
    return tuple(
        _result(
            side,
            axis,
            tied,
            attacked[:, place],
            None if verifier is None else proved[:, place],
            found[:, place],
        )
        for place, side in enumerate(sides)
    )


def _result(
    side: bool,
    axis: np.ndarray,
    tied: np.ndarray,
    attacked: np.ndarray,
    proved: np.ndarray | None,
    found: np.ndarray,
) -> RobustnessResult:
    """The result of one side, from its curves (N, P)."""
    return RobustnessResult(
        metric="RobustnessSr" + " of the complement" * side,
        axis=axis,
        axis_label="share r of the most important features",
        curves=attacked,
        scores=_area(axis, attacked),
        tied=tied,
        higher_is_better=side,
        certified_curves=proved,
        certified_scores=None if proved is None else _area(axis, proved),
        found=found,
    )


def _proved_radii(
    verifier: Verifier,
    balls: Region,
    held: np.ndarray,
    classes: np.ndarray,
    ends: np.ndarray,
    attacked: np.ndarray,
    nb_halvings: int,
    **decisions: Any,
) -> Interval:
    """Largest radii (J,) up to `ends` (J,) within which no class can change; `held` (J, *shape).

    By bounds alone, or with settings of `decided_radii` also by decisions, which may find nearer
    points than those at the distances `attacked` (J,).
    """

    def region_at(some: np.ndarray, radii: np.ndarray) -> Region:
        return balls[some].resized(radii).fix(held[some])

    if not decisions:
        radii = class_radii(verifier, region_at, classes, ends, nb_halvings)
        return Interval(radii, attacked)
    return decided_radii(
        verifier,
        region_at,
        classes,
        ends,
        nb_halvings,
        attacked=attacked,
        norm=balls.norm,
        **decisions,
    )


def _feature_counts(fractions: Sequence[float] | None, nb_features: int) -> np.ndarray:
    """Number of the most important features at each share, (P,)."""
    if fractions is None and nb_features > 1:
        counts = np.round(np.asarray(FRACTIONS) * nb_features).astype(int)
        return np.unique(counts.clip(1, nb_features - 1))
    fractions = FRACTIONS if fractions is None else fractions
    shares = np.asarray(fractions, dtype=float)
    rising = shares.ndim == 1 and shares.size and (np.diff(shares) > 0).all()
    if not rising or not 0 < shares[0] <= shares[-1] < 1:
        raise ValueError(
            f"fractions must be rising shares inside ]0, 1[. Received: {shares.tolist()}"
        )
    counts = np.round(shares * nb_features).astype(int)
    if counts[0] < 1 or counts[-1] >= nb_features or (np.diff(counts) == 0).any():
        raise ValueError(
            f"fractions must differ by at least one feature, and leave one in and one out. "
            f"Received: {shares.tolist()} of {nb_features} features, that is {counts.tolist()}"
        )
    return counts


def _of_entries(features: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """What is so of features (J, *features), of every entry (J, *shape): channels go together."""
    return np.broadcast_to(features[..., None] if inputs.ndim == 4 else features, inputs.shape)


def _area(axis: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Mean of each curve over the axis, by trapezoids, (N,)."""
    if len(axis) == 1:
        return curves[:, 0]
    widths = np.diff(axis)
    return ((curves[:, :-1] + curves[:, 1:]) / 2) @ widths / widths.sum()


def _all_valid(inputs: np.ndarray, clip: tuple[Any, Any]) -> Box:
    """All that inputs may become: `clip` limits how far a feature may be moved."""
    low, high = valid_range(clip, inputs.shape, inputs.dtype)
    outside = ((inputs < low) | (inputs > high)).reshape(len(inputs), -1).any(axis=1)
    if outside.any():
        raise ValueError(
            f"inputs leave the valid range clip={clip!r} in sample {int(np.argmax(outside))}: "
            f"give the range that they really have, or clip='auto'"
        )
    return Box(low, high, inputs)


class RobustnessSr(Metric):
    """Robustness-Sr: the smallest perturbation of the important features that changes the class.

    For shares r of the features, only the most important ones (S_r) may move: a good explanation
    names those of which a small perturbation is enough (lower is better). With `complement` only
    all the others may move, and a good explanation leaves those that must be moved far (higher is
    better). The score is the area under the curve over r, divided by its length: a mean distance,
    in units of the inputs.

    Parameters
    ----------
    model
        Keras model or TensorFlow callable, (B, *shape) -> (B, K); its class is that of the largest
        logit (a callable must return logits; a softmax or sigmoid at the end of a Keras model is
        left out). With `certified`, a Keras model that `Verifier` can bound.
    inputs
        Images (N, H, W, C), of which a feature is a pixel with all its channels, time series
        (N, T, W) or tabular data (N, W), inside `clip`: an array, a tensor or a `tf.data.Dataset`.
    targets
        The class to be left: integer labels (N,), one-hot rows (N, K), or None for the predicted
        one. Where the model gives another class already, every distance is 0.
    batch_size
        Number of points that are attacked, and of regions that are bounded, at once; None for all.
    complement
        Which side `evaluate` measures; `evaluate_both` measures both at once.
    fractions
        The shares r, rising, inside ]0, 1[; the nearest whole number of features is taken. None:
        0.05, 0.1, ..., 0.45, of which those that come to the same number of features count once.
    norm
        2 (default), inf or 1: how a perturbation is measured.
    clip
        Valid range (low, high) of the inputs, scalars or arrays of the shape of one input. Where
        nothing inside it changes the class, the farthest distance inside it counts. "auto"
        (default): that of `xcertify.data_range.data_range`, which a warning names unless it is
        (0, 1); `valid_range` says what it is.
    steps, restarts
        Of the attack, `MinimalPerturbation`, which runs for all samples, shares and sides at once.
    certified
        Whether to prove for every value, with `Verifier`, the largest perturbation that does
        *not* change the class. The score is then an interval, [certified, attacked].
    method
        Method of the `Verifier`.
    nb_halvings
        Of the search for the certified radius: it is exact to the attacked distance divided by two
        to this power.
    complete
        With `certified`: whether `Verifier.decide` goes on where the bounds of the method end. The
        interval becomes narrower from both sides, as far as the time allows. Else without effect.
    timeout
        Seconds that an evaluation may take with `complete`, about, beside the attacks; None: no
        limit.
    seed
        Of the tie rule (equal attributions are ranked in one random order) and of the attack.
    verbose
        Show a progress bar.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.
    UnsupportedLayerError
        With `certified`, for a model that cannot be bounded.
    ContradictionError
        If an attack succeeds inside a certified region: a bug, to be reported.

    Guarantee
    ---------
    Of the certified values: no perturbation up to that norm, inside `clip` and of these features,
    changes the class in float32 arithmetic, under the assumptions of `Verifier`. **No guarantee**
    of the attacked ones: smaller perturbations may exist, so that the attacked score is an upper
    bound of the true one.

    References
    ----------
    Hsieh et al.: Evaluations and Methods for Explanation through Robustness Analysis, ICLR 2021.
    There, one attack at a time is bisected from outside; the certified side is new here.

    Examples
    --------
    >>> metric = RobustnessSr(model, images, labels, certified=True)
    >>> metric.detailed_evaluate(maps)
    """

    higher_is_better = False

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 512,
        *,
        complement: bool = False,
        fractions: Sequence[float] | None = None,
        norm: float = 2,
        clip: tuple[Any, Any] | str = "auto",
        steps: int = 30,
        restarts: int = 4,
        certified: bool = False,
        method: str = "crown",
        nb_halvings: int = 8,
        complete: bool = False,
        timeout: float | None = 60.0,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, inputs, targets, batch_size, seed=seed, verbose=verbose)
        if certified and str(method).startswith("decomon:"):
            raise ValueError(
                f"certified values stand beside attacks in float32, which bounds by decomon do not "
                f"cover: use method='crown' or 'crown-ibp'. Received: method={method!r}"
            )
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be seconds, or None. Received: {timeout!r}")
        refuse_channels_first(model, "RobustnessSr")
        self.complement, self.higher_is_better = complement, complement
        self.fractions, self.norm, self.clip = fractions, as_norm(norm), clip
        self.steps, self.restarts = steps, restarts
        self.certified, self.method, self.nb_halvings = certified, method, nb_halvings
        self.complete, self.timeout = complete, timeout
        _all_valid(self.inputs, range_for(clip, self.inputs, warns=4))  # refuses inputs outside

    @property
    def valid_range(self) -> tuple[Any, Any]:
        """`clip`, or the range that was taken from the inputs."""
        return range_for(self.clip, self.inputs, warns=None)

    def detailed_evaluate(self, explanations: Any) -> RobustnessResult:
        """Curves and scores of every sample, of one side; see `RobustnessResult`."""
        return robustness_of(explanations, sides=[self.complement], **self._parts())[0]

    def evaluate_both(self, explanations: Any) -> tuple[RobustnessResult, RobustnessResult]:
        """Results of both sides, S_r and its complement, measured at once."""
        named, others = robustness_of(explanations, sides=[False, True], **self._parts())
        return named, others

    def _parts(self) -> dict[str, Any]:
        """What `robustness_of` takes beside explanations and sides."""
        logits = evaluate_in_batches(logits_of(self.model), self._nb_at_once, self.inputs)
        return {
            "attack": self._attack,
            "verifier": self._verifier if self.certified else None,
            "inputs": self.inputs,
            "classes": classes_of(self.model, logits, self.targets),
            "clip": self.valid_range,
            "fractions": self.fractions,
            "nb_halvings": self.nb_halvings,
            "complete": self.complete,
            "timeout": self.timeout,
            "seed": self.seed,
            "verbose": self.verbose,
        }

    @property
    def _attack(self) -> MinimalPerturbation:
        return self._derive(
            "attack",
            lambda: MinimalPerturbation(
                self.model,
                norm=self.norm,
                steps=self.steps,
                restarts=self.restarts,
                batch_size=self._nb_at_once,
                seed=self.seed,
            ),
        )

    @property
    def _verifier(self) -> Verifier:
        # for the class that float32 shows as well as for that in real arithmetic
        return self._derive(
            "verifier",
            lambda: Verifier(self.model, self.method, arithmetic="float32", strip_head=True),
        )
