"""Robustness-Sr: whether the features that an explanation names are the ones that matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from xcertify.attacks import MinimalPerturbation
from xcertify.bounds import Verifier
from xcertify.checks import nb_at_once
from xcertify.logits import logits_of
from xcertify.metrics.base import Metric, MetricResult
from xcertify.metrics.explanations import as_explanations, importance_ranks
from xcertify.models import refuse_channels_first
from xcertify.radii import RadiusSearch, compare_radii, keeps_class
from xcertify.regions import Ball, Box, Region, as_norm, valid_range
from xcertify.targets import target_classes

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
        The shares r, rising, inside ]0, 1[; the nearest whole number of features is taken.
    norm
        2 (default), inf or 1: how a perturbation is measured.
    clip
        Valid range (low, high) of the inputs, scalars or arrays of the shape of one input. Where
        nothing inside it changes the class, the farthest distance inside it counts.
    steps, restarts
        Of the attack, `MinimalPerturbation`, which runs for all samples, shares and sides at once.
    certified
        Whether to prove for every value, with `Verifier`, the largest perturbation that does
        *not* change the class. The score is then an interval, [certified, attacked].
    method
        Method of the `Verifier`.
    nb_halvings
        Steps of the bisection for the certified radius: it is exact to the attacked distance
        divided by two to this power.
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
        fractions: Sequence[float] = FRACTIONS,
        norm: float = 2,
        clip: tuple[Any, Any] = (0.0, 1.0),
        steps: int = 30,
        restarts: int = 4,
        certified: bool = False,
        method: str = "crown",
        nb_halvings: int = 8,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, inputs, targets, batch_size, seed=seed, verbose=verbose)
        if certified and str(method).startswith("decomon:"):
            raise ValueError(
                f"certified values stand beside attacks in float32, which bounds by decomon do not "
                f"cover: use method='crown' or 'crown-ibp'. Received: method={method!r}"
            )
        refuse_channels_first(model, "RobustnessSr")
        self.complement, self.higher_is_better = complement, complement
        self.fractions, self.norm, self.clip = fractions, as_norm(norm), clip
        self.steps, self.restarts = steps, restarts
        self.certified, self.method, self.nb_halvings = certified, method, nb_halvings
        self._valid = _valid_range(self.inputs, clip)

    def detailed_evaluate(self, explanations: Any) -> RobustnessResult:
        """Curves and scores of every sample, of one side; see `RobustnessResult`."""
        return self._evaluate(explanations, [self.complement])[0]

    def evaluate_both(self, explanations: Any) -> tuple[RobustnessResult, RobustnessResult]:
        """Results of both sides, S_r and its complement, measured at once."""
        return self._evaluate(explanations, [False, True])

    @property
    def _attack(self) -> MinimalPerturbation:
        return self._derive(
            "attack",
            lambda: MinimalPerturbation(
                self.model,
                norm=self.norm,
                steps=self.steps,
                restarts=self.restarts,
                batch_size=nb_at_once(self.batch_size),
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

    def _evaluate(self, explanations: Any, sides: list[bool]) -> tuple[RobustnessResult, ...]:
        explanations = as_explanations(explanations, self.inputs)
        nb_features = explanations[0].size
        counts = _counts(self.fractions, nb_features)
        ranks, tied = importance_ranks(explanations, counts, self.seed)
        classes = self._classes()
        attacked, found, proved = [], [], []
        total = len(ranks) * len(sides) * len(counts)
        with tqdm(total=total, desc="RobustnessSr", disable=not self.verbose, unit="value") as bar:
            for jobs in self._jobs(ranks, classes, counts, sides):
                distances, changed = self._attacked(jobs)
                attacked.append(distances)
                found.append(changed)
                if self.certified:
                    proved.append(self._proved(jobs, distances, changed))
                bar.update(len(distances))
        shape = (len(ranks), len(sides), len(counts))
        attacked, found = np.concatenate(attacked).reshape(shape), np.concatenate(found)
        found = found.reshape(shape)
        proved = np.concatenate(proved).reshape(shape) if self.certified else None
        axis = counts / nb_features
        return tuple(
            RobustnessResult(
                metric="RobustnessSr" + " of the complement" * side,
                axis=axis,
                axis_label="share r of the most important features",
                curves=attacked[:, place],
                scores=_area(axis, attacked[:, place]),
                tied=tied,
                higher_is_better=side,
                certified_curves=None if proved is None else proved[:, place],
                certified_scores=None if proved is None else _area(axis, proved[:, place]),
                found=found[:, place],
            )
            for place, side in enumerate(sides)
        )

    def _classes(self) -> np.ndarray:
        logits = logits_of(self.model)
        size = nb_at_once(self.batch_size)
        parts = [self.inputs[s : s + size] for s in range(0, len(self.inputs), size)]
        outputs = np.concatenate([np.asarray(logits(tf.constant(part))) for part in parts])
        return target_classes(outputs, self.targets)

    def _jobs(
        self, ranks: np.ndarray, classes: np.ndarray, counts: np.ndarray, sides: list[bool]
    ) -> Iterator[_Jobs]:
        """All values to be found, as many at a time as fit into a batch of the attack."""
        shape = (len(ranks), len(sides), len(counts))
        total = int(np.prod(shape))
        step = max(1, nb_at_once(self.batch_size) // self._attack.restarts)
        for first in range(0, total, step):
            index = np.arange(first, min(first + step, total))
            sample, side, place = np.unravel_index(index, shape)
            column = (-1, *[1] * (ranks.ndim - 1))
            named = ranks[sample] < counts[place].reshape(column)
            held = named == np.asarray(sides)[side].reshape(column)
            if self.inputs.ndim == 4:
                held = held[..., None]
            held = np.broadcast_to(held, (len(index), *self.inputs.shape[1:]))
            yield _Jobs(self._valid[sample].fix(held), held, classes[sample], sample)

    def _attacked(self, jobs: _Jobs) -> tuple[np.ndarray, np.ndarray]:
        """Distance of the nearest point of another class, and where one was found."""
        result = self._attack(jobs.valid, jobs.classes)
        return np.where(result.found, result.distances, jobs.farthest(self.norm)), result.found

    def _proved(self, jobs: _Jobs, attacked: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Largest radius, by bisection up to the attacked one, at which no class can change."""
        search = RadiusSearch(
            0.0, attacked, nb_halvings=self.nb_halvings, linear=True, test_high="last"
        )
        for some, radii in search:
            search.answer(self._holds(jobs.part(some), radii))
        proved = search.held
        compare_radii(
            proved,
            np.where(found, attacked, np.inf),
            what="another class",
            method=self.method,
            region=f"l{self.norm} balls within {self.clip}, with some features held",
            samples=jobs.sample,
        )
        return proved

    def _holds(self, jobs: _Jobs, radius: np.ndarray) -> np.ndarray:
        """Whether the class is proved constant up to each radius, (J,) bool."""
        radius = radius.reshape(-1, *[1] * (self.inputs.ndim - 1))
        region = Ball(jobs.valid.center, radius, self.norm, self.clip).fix(jobs.held)
        return keeps_class(self._verifier, region, jobs.classes)


class _Jobs(NamedTuple):
    """Values to be found, J of them."""

    valid: Region  # all points that are allowed
    held: np.ndarray  # (J, *shape)
    classes: np.ndarray  # (J,)
    sample: np.ndarray  # (J,)

    def part(self, index: np.ndarray) -> _Jobs:
        return _Jobs(*(field[index] for field in self))

    def farthest(self, norm: float) -> np.ndarray:
        """Largest distance from the nominal input that the valid range allows, (J,)."""
        valid = self.valid
        step = np.maximum(valid.upper - valid.center, valid.center - valid.lower)
        return np.linalg.norm(step.reshape(len(step), -1).astype(np.float64), norm, axis=1)


def _counts(fractions: Sequence[float], nb_features: int) -> np.ndarray:
    """Number of the most important features at each share, (P,)."""
    fractions = np.asarray(fractions, dtype=float)
    rising = fractions.ndim == 1 and fractions.size and (np.diff(fractions) > 0).all()
    if not rising or not 0 < fractions[0] <= fractions[-1] < 1:
        raise ValueError(
            f"fractions must be rising shares inside ]0, 1[. Received: {fractions.tolist()}"
        )
    counts = np.round(fractions * nb_features).astype(int)
    if counts[0] < 1 or counts[-1] >= nb_features or (np.diff(counts) == 0).any():
        raise ValueError(
            f"fractions must differ by at least one feature, and leave one in and one out. "
            f"Received: {fractions.tolist()} of {nb_features} features, that is {counts.tolist()}"
        )
    return counts


def _area(axis: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Mean of each curve over the axis, by trapezoids, (N,)."""
    if len(axis) == 1:
        return curves[:, 0]
    widths = np.diff(axis)
    return ((curves[:, :-1] + curves[:, 1:]) / 2) @ widths / widths.sum()


def _valid_range(inputs: np.ndarray, clip: tuple[Any, Any]) -> Box:
    """All that inputs may become: `clip` limits how far a feature may be moved."""
    low, high = valid_range(clip, inputs.shape, inputs.dtype)
    outside = ((inputs < low) | (inputs > high)).reshape(len(inputs), -1).any(axis=1)
    if outside.any():
        raise ValueError(
            f"inputs leave the valid range clip={clip!r} in sample {int(np.argmax(outside))}: "
            f"give the range that they really have"
        )
    return Box(low, high, inputs)
