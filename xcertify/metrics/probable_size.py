"""How many of the top features of an explanation are probably enough, for networks of any size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.answers import Answers
from xcertify.attacks import PGD
from xcertify.checks import whole_number
from xcertify.inputs import evaluate_in_batches, in_batches
from xcertify.logits import classes_of, logits_of
from xcertify.metrics.base import Metric, MetricResult
from xcertify.metrics.drawn_points import Changes, Distribution, as_distribution
from xcertify.metrics.explanations import (
    as_explanations,
    importance_ranks,
    largest_of_groups,
    step_counts,
)
from xcertify.metrics.sufficient_size import is_tied
from xcertify.models import refuse_channels_first, takes_words
from xcertify.progress import progress_bar
from xcertify.radii import Interval, RadiusSearch
from xcertify.reasons import Features
from xcertify.regions import Ball, Norm, Region, as_norm
from xcertify.statistics import binomial_lower, binomial_tail, binomial_upper
from xcertify.tracing import traced

SEARCHES = ("bisection", "sequence")

_OUTWARD = 1e-10  # of a level: more than the error of a tail


@dataclass(frozen=True, eq=False, repr=False)
class ProbableResult(MetricResult):
    """What `ProbableSize` found.

    Attributes
    ----------
    axis
        Shares of the features that are kept, (P,), the most important first.
    curves
        (N, P): 1 where some number of top features, at most that share, is certified to be probably
        enough. Their mean, `mean_curve`, is the certified deletion curve.
    unrefuted_curves
        (N, P): 0 where a counterexample is known with so many features kept, so that they are not
        *always* enough. They may be probably enough all the same: where `curves` is 1 as well,
        another class exists in the region and is rare.
    scores
        (N,): the certified sizes as shares of the features.
    interval
        (N,) both: `certified`, a number of top features that is probably enough; and `attacked`,
        one more than the largest number with a counterexample, 0 where none is known. The two ends
        are about two questions, so that `attacked` may be the larger one.
    nb_features
        (N,) int: number of all features, or of their groups.
    nb_drawn
        (N,) int: random points that the model was asked about.
    share, delta
        As for `ProbableSize`.

    Guarantee
    ---------
    Of `curves`, `scores` and ``interval.certified``: see `ProbableSize`. The counterexamples behind
    `unrefuted_curves` and ``interval.attacked`` are inputs of the region.
    """

    unrefuted_curves: np.ndarray
    interval: Interval
    nb_features: np.ndarray
    nb_drawn: np.ndarray
    share: float
    delta: float

    @property
    def refuted(self) -> np.ndarray:
        """Share of inputs with a counterexample, at each share of the features, (P,)."""
        return 1 - self.unrefuted_curves.mean(axis=0)

    def __repr__(self) -> str:
        claim = f", probably enough (for {self.share:g}, confidence {1 - self.delta:g})"
        return super().__repr__()[:-1] + claim + ">"


@dataclass(frozen=True, eq=False, repr=False)
class ProbableSets:
    """What `ProbableSize.of_sets` found of given sets of features.

    Attributes
    ----------
    certified
        (N,) bool: where the set is certified to be probably enough, ``lower >= share``.
    lower, upper
        (N,): limits of the share of points of the region that keep the class, each of them with the
        confidence 1 - `delta` on its own.
    refuted
        (N,) bool: where a counterexample is known, so that the set is not *always* enough.
    sizes
        (N,) int: number of features in each set.
    counts
        (N,) int: drawn points that kept the class.
    nb_samples, share, delta
        As for `ProbableSize`.

    Guarantee
    ---------
    See `ProbableSize`, for sets in the place of sizes: of one set for each input, nothing is shared
    among tests.
    """

    certified: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    refuted: np.ndarray
    sizes: np.ndarray
    counts: np.ndarray
    nb_samples: int
    share: float
    delta: float

    def __len__(self) -> int:
        return len(self.certified)

    def __repr__(self) -> str:
        return (
            f"<ProbableSets: {self.certified.sum()} of {len(self)} are enough for a share of "
            f"{self.share:g} with confidence {1 - self.delta:g}, {self.refuted.sum()} have a "
            f"counterexample>"
        )


def probable_size(
    model: Callable, inputs: Any, targets: Any, explanations: Any, **settings: Any
) -> ProbableResult:
    """How many of the top features of explanations are probably enough for the class.

    Parameters
    ----------
    model, inputs, targets, **settings
        As for the class `ProbableSize`.
    explanations
        One per input, as for `Metric.evaluate`.

    Guarantee
    ---------
    See `ProbableSize`.

    Examples
    --------
    >>> probable_size(model, images, labels, maps, epsilon=0.2, clip=(0, 1)).interval
    """
    return ProbableSize(model, inputs, targets, **settings).detailed_evaluate(explanations)


def probably_sufficient(
    model: Callable, inputs: Any, targets: Any, sets: Any, **settings: Any
) -> ProbableSets:
    """Whether given sets of features are probably enough for the class.

    Parameters
    ----------
    model, inputs, targets, **settings
        As for the class `ProbableSize`.
    sets
        As for `ProbableSize.of_sets`.

    Guarantee
    ---------
    See `ProbableSize`.

    Examples
    --------
    >>> reason = SufficientReason(model, epsilon=0.2, clip=(0, 1)).certify(images)
    >>> probably_sufficient(model, images, None, ~reason.irrelevant, epsilon=0.2, clip=(0, 1))
    """
    settings = {"search": "sequence"} | settings  # one test of each, which needs the fewest draws
    return ProbableSize(model, inputs, targets, **settings).of_sets(sets)


class ProbableSize(Metric):
    """ProbableSize (lower is better): how many of the top features are probably enough.

    The k features that an explanation ranks first keep their values, and all others are drawn at
    random in the region. They are *probably enough* if the class stays for at least the share
    `share` of the points. That needs calls of the model and nothing else, so that it is there for
    networks that no bounds reach; where bounds do, `SufficientSize` proves more. The score is a
    certified k as a share of all features.

    Parameters
    ----------
    model
        Keras model or callable, (B, *shape) -> (B, K), of which the largest output is the class; a
        softmax or sigmoid at its end is left out. Without a gradient (a function of arrays): with
        ``attack=False``.
    inputs
        Images (N, H, W, C), of which a feature is a pixel with all its channels, time series
        (N, T, W) or tabular data (N, W), inside `clip`: an array, a tensor or a `tf.data.Dataset`.
    targets
        The class that the model gives: integer labels (N,), one-hot rows (N, K), or None. Another
        class than the predicted one is refused: no features are enough for it.
    batch_size
        Number of inputs that are searched, and of points that the model is given, at once; None for
        all.
    epsilon, norm, clip
        Of the regions, as for `Ball`.
    distribution
        Of the points: "uniform", each value between its sides, or uniform in the l2 or l1 ball and
        then cut to `clip`; "corners", each value at one of its two sides (for norm inf); or a
        function (generator, region, count) -> points (count, *shape) of one region, a `Region` of
        one input whose kept features are held. It draws from the `numpy.random.Generator`; what is
        held is put back, and points outside of the region are refused.
    share
        Of the points, that must keep the class, in ]0, 1[.
    delta
        How probable it may be that a claim is wrong, in ]0, 1[, for each input.
    nb_samples
        Most points that are drawn for one test. More of them certify sets that are enough for
        little more than `share`.
    nb_inputs
        Number of inputs that share `delta`: 1, each has it for itself; N, all claims about N inputs
        are right together with confidence 1 - `delta`; None, the inputs that are given here.
    search
        "bisection": halves between what passed and what did not, to a single feature, with `delta`
        divided by the number of its tests. "sequence": from all features downward in `steps`, up to
        the first size that does not pass, each test at `delta`; then all tested sizes above are
        certified with it, together.
    groups
        Integer labels (*features) or (N, *features), with *features (H, W), (T, W) or (W,):
        features of one label are kept or free together. A group has the rank of its most important
        feature. None: every feature on its own.
    grid_size
        Groups that are the cells of a grid, as for `EVA`; not together with `groups`.
    steps
        Number of steps of the curve, equally long up to rounding; -1 for one feature per step. With
        ``search="sequence"`` the sizes that are tested, too.
    attack
        Whether counterexamples are looked for by `PGD`, beside those that are drawn.
    nb_steps, restarts
        Of the attack.
    seed
        Of the tie rule (equal attributions are ranked in one random order), the draws and the
        attack. What is drawn for an input depends on the seed and the input alone.
    verbose
        Show a progress bar.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.

    Guarantee
    ---------
    For each input x, before anything is drawn: the model, its class c at x, the map, the region,
    the distribution and all settings are fixed. Random are the draws alone. Let P_k be the
    probability that a point of the distribution, with the k top features put back to those of x, is
    given the class c by the model as it is evaluated (a tie, or NaN, counts as another class). Then
    with probability at least 1 - `delta` over the draws, the certified k has P_k >= `share`; with
    all features k is right by itself.

    - A test passes if at least as many of `nb_samples` independent points keep the class as make
      the one-sided limit of Clopper and Pearson at least `share`. It stops when so many points have
      lost the class that it cannot pass any more; it would not have passed with all of them either,
      so that its level is the same.
    - "sequence": the sizes are ordered before drawing, and the first one that does not pass ends
      it. A wrong claim must then pass the first size of the order that is not probably enough,
      which happens with a probability of at most `delta`, however many sizes are tested.
    - "bisection": which size is next depends on the tests before it, whose draws are not used
      again. Given them, a test of a size that is not probably enough passes with a probability of
      at most `delta` divided by the number of tests, which is known before; the sum is `delta`.
      Nothing is assumed about sizes between.

    **No guarantee** that less is not enough, or that larger sizes than were tested are (P_k need
    not grow with k); of points of another distribution; or that the class stays for *all* points:
    that is what `SufficientSize` proves. Each evaluation has its own level: that of many maps,
    or seeds, of which the best is taken, is not kept. Draws are pseudo-random.

    References
    ----------
    Sets that are enough with a probability: Waeldchen, Macdonald, Hauch, Kutyniok: The
    Computational Complexity of Understanding Binary Classifier Decisions, JAIR 2021; Izza et al.:
    On Computing Probabilistic Abductive Explanations, IJAR 2023. Rules that are precise with a
    confidence: Ribeiro, Singh, Guestrin: Anchors, AAAI 2018. Limits: Clopper, Pearson, Biometrika
    1934. Tests in a fixed order: Maurer, Hothorn, Lehmacher: Multiple Comparisons in Drug Clinical
    Trials and Preclinical Assays, 1995. To test sets along the order of any map is new here, as far
    as is known.

    Examples
    --------
    >>> metric = ProbableSize(model, images, labels, epsilon=0.3, clip=(0.0, 1.0))
    >>> metric.evaluate(maps)                            # mean share of the features
    >>> metric.detailed_evaluate(maps).interval.certified

    Features that are not kept as in other images:

    >>> def of_others(generator, region, count):
    ...     return others[generator.integers(len(others), size=count)]
    >>> ProbableSize(model, images, epsilon=1.0, clip=(0.0, 1.0), distribution=of_others)
    """

    higher_is_better = False

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 512,
        *,
        epsilon: Any = 0.05,
        norm: Norm = math.inf,
        clip: tuple[Any, Any] | None = None,
        distribution: str | Distribution = "uniform",
        share: float = 0.95,
        delta: float = 0.01,
        nb_samples: int = 300,
        nb_inputs: int | None = 1,
        search: str = "bisection",
        groups: Any = None,
        grid_size: int | tuple[int, int] | None = None,
        steps: int = 10,
        attack: bool = True,
        nb_steps: int = 30,
        restarts: int = 3,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, inputs, targets, batch_size, seed=seed, verbose=verbose)
        refuse_channels_first(model, "ProbableSize")
        if search not in SEARCHES:
            raise ValueError(f"search must be one of {', '.join(SEARCHES)}. Received: {search!r}")
        self.epsilon, self.norm, self.clip = epsilon, as_norm(norm), clip
        as_distribution(distribution, self.norm)
        if isinstance(distribution, str) and takes_words(model):
            raise ValueError(
                f"distribution must be a function that draws words, (generator, region, count) -> "
                f"points, for a model of whole numbers. Received: {distribution!r}"
            )
        self.distribution = distribution
        self.share, self.delta = _probability("share", share), _probability("delta", delta)
        self.nb_samples = whole_number("nb_samples", nb_samples)
        self.nb_inputs = None if nb_inputs is None else whole_number("nb_inputs", nb_inputs)
        if 1 < self._nb_sharing < len(self.inputs):
            raise ValueError(
                f"nb_inputs must be at least the number of inputs, {len(self.inputs)}, or 1 for a "
                f"level of each. Received: {nb_inputs}"
            )
        self.search, self.groups, self.grid_size, self.steps = search, groups, grid_size, steps
        self.attack, self.nb_steps, self.restarts = attack, nb_steps, restarts
        Ball(self.inputs, epsilon, norm, clip)  # refuses what does not fit
        nb_features = self._features.valid.sum(axis=1)
        step_counts(int(nb_features.max()), steps)
        self._most_changes(self._levels(nb_features))

    def detailed_evaluate(self, explanations: Any) -> ProbableResult:
        """Sizes and curves of every sample; see `ProbableResult`."""
        answers = self._answers()
        region = Ball(self.inputs, self.epsilon, self.norm, self.clip)
        features = self._features
        nb_features = features.valid.sum(axis=1)
        values = largest_of_groups(features, as_explanations(explanations, self.inputs))  # (N, G)
        ranks, _ = importance_ranks(values, np.zeros(0, int), self.seed)
        most = int(nb_features.max())
        counts = step_counts(most, self.steps)
        sizes, needed, nb_drawn = (np.zeros(len(region), int) for _ in range(3))
        with progress_bar(len(region), "input", "ProbableSize", verbose=self.verbose) as bar:
            for some in in_batches(np.arange(len(region)), self._nb_at_once):
                search = _SizeSearch(region[some], features[some], ranks[some])
                if self.attack:
                    search.refute(self._attack, answers.classes[some])
                changes = self._changes(region.center[some], answers[some])
                allowed = self._most_changes(self._levels(nb_features[some]))
                ordered = counts[::-1] if self.search == "sequence" else None
                sizes[some] = search.certify(changes, self.nb_samples, allowed, ordered)
                needed[some], nb_drawn[some] = search.needed, changes.nb_drawn
                bar.update(len(some))
        axis, scores = counts / most, sizes / nb_features
        return ProbableResult(
            metric="ProbableSize",
            axis=axis,
            axis_label="share of features kept, the most important first",
            curves=(scores[:, None] <= axis).astype(float),
            scores=scores,
            tied=is_tied(values, sizes),
            higher_is_better=False,
            unrefuted_curves=((needed / nb_features)[:, None] <= axis).astype(float),
            interval=Interval(sizes.astype(float), needed.astype(float)),
            nb_features=nb_features,
            nb_drawn=nb_drawn,
            share=self.share,
            delta=self.delta,
        )

    def of_sets(self, sets: Any) -> ProbableSets:
        """Whether given sets of features are probably enough, by one test of each.

        Parameters
        ----------
        sets
            Bool, (N, *features), with *features (H, W), (T, W) or (W,); True where the feature
            keeps its value. Of images (N, H, W, 1) as well.

        Raises
        ------
        ValueError
            For another shape or type.
        """
        sets = self._as_sets(sets)
        answers = self._answers()
        entries = np.broadcast_to(
            sets[..., None] if self.inputs.ndim == 4 else sets, self.inputs.shape
        )
        region = Ball(self.inputs, self.epsilon, self.norm, self.clip).fix(entries)
        kept, refuted = np.zeros(len(sets), int), np.zeros(len(sets), bool)
        with progress_bar(len(sets), "input", "ProbableSize", verbose=self.verbose) as bar:
            for some in in_batches(np.arange(len(sets)), self._nb_at_once):
                changes = self._changes(region.center[some], answers[some])
                numbers = np.arange(len(some))
                kept[some] = self.nb_samples - changes.count(numbers, region[some], self.nb_samples)
                if self.attack:
                    found = self._attack(region[some], answers.classes[some], stop_above=0)
                    refuted[some] = found.changed
                bar.update(len(some))
        level = self.delta / self._nb_sharing
        lower = binomial_lower(kept, self.nb_samples, level)
        return ProbableSets(
            certified=lower >= self.share,
            lower=lower,
            upper=binomial_upper(kept, self.nb_samples, level),
            refuted=refuted | (kept < self.nb_samples),
            sizes=sets.reshape(len(sets), -1).sum(axis=1),
            counts=kept,
            nb_samples=self.nb_samples,
            share=self.share,
            delta=self.delta,
        )

    @property
    def _features(self) -> Features:
        shape, groups = self.inputs.shape[1:], self.groups
        return Features.of(shape, len(self.inputs), groups, self.grid_size)

    @property
    def _nb_sharing(self) -> int:
        return len(self.inputs) if self.nb_inputs is None else self.nb_inputs

    def _levels(self, nb_features: np.ndarray) -> np.ndarray:
        """Level of each test of inputs of so many features (N,), (N,)."""
        level = self.delta / self._nb_sharing
        if self.search == "sequence":
            return np.full(len(nb_features), level)
        # halving from n + 1 steps to one takes ceil(log2(n + 1)) tests
        return level / np.array([int(n).bit_length() for n in nb_features])

    def _most_changes(self, levels: np.ndarray) -> np.ndarray:
        """Most points without the class with which tests at levels (N,) pass, (N,) int."""
        most, too_many = np.full(len(levels), -1), np.full(len(levels), self.nb_samples)
        while (too_many - most > 1).any():
            lost = (most + too_many) // 2
            tails = binomial_tail(self.nb_samples - lost, self.nb_samples, self.share)
            fits = tails <= levels * (1 - _OUTWARD)
            most, too_many = np.where(fits, lost, most), np.where(fits, too_many, lost)
        if (most < 0).any():
            least = math.ceil(math.log(levels.min()) / math.log(self.share))
            raise ValueError(
                f"nb_samples must be at least {least} for share={self.share:g}, "
                f"delta={self.delta:g} and search={self.search!r}, or no set can pass: draw more, "
                f"or ask for a smaller share. Received: {self.nb_samples}"
            )
        return most

    def _answers(self) -> Answers:
        logits = evaluate_in_batches(self._logits, self._nb_at_once, self.inputs)
        answers = Answers(classes_of(self.model, logits, self.targets), logits.shape[1])
        answers.check(logits)
        return answers

    def _changes(self, inputs: np.ndarray, answers: Answers) -> Changes:
        return Changes(
            inputs,
            answers,
            lambda points: np.asarray(self._logits(tf.constant(points))),
            as_distribution(self.distribution, self.norm),
            seed=self.seed,
            batch_size=self._nb_at_once,
        )

    def _as_sets(self, sets: Any) -> np.ndarray:
        sets = np.asarray(sets)
        wanted = self.inputs.shape[:3] if self.inputs.ndim == 4 else self.inputs.shape
        if sets.shape == (*wanted, 1) and self.inputs.ndim == 4:
            sets = sets[..., 0]
        if sets.shape != wanted or sets.dtype != bool:
            raise ValueError(
                f"sets must be bool of shape {wanted}, True where a feature keeps its value; of "
                f"maps, such as ranks < 10. Received: {sets.dtype} of shape {sets.shape}"
            )
        return sets

    @property
    def _logits(self) -> Callable:
        points = tf.TensorSpec((None, *self.inputs.shape[1:]), tf.float32)
        return self._derive(
            "logits",
            lambda: traced(logits_of(self.model), input_signature=[points], autograph=False),
        )

    @property
    def _attack(self) -> PGD:
        return self._derive(
            "attack",
            lambda: PGD(
                self.model,
                steps=self.nb_steps,
                restarts=self.restarts,
                batch_size=self._nb_at_once,
                seed=self.seed,
            ),
        )


class _SizeSearch:
    """Sizes of N inputs, side by side: which are probably enough, and which are not always.

    Attributes
    ----------
    needed
        (N,) int: one more than the largest number of features with a counterexample, 0 for none.
    """

    def __init__(self, region: Region, features: Features, ranks: np.ndarray) -> None:
        self._region, self._features, self._ranks = region, features, ranks
        self._nb_features = features.valid.sum(axis=1)
        self.needed = np.zeros(len(region), int)

    def refute(self, attack: PGD, classes: np.ndarray) -> None:
        """Look for other classes; what is found with features kept is there with fewer of them."""
        search = RadiusSearch(0, self._nb_features, linear=True, integers=True, test_high="first")
        for some, nb_free in search:
            region = self._keeping(some, self._nb_features[some] - nb_free)
            found = attack(region, classes[some], stop_above=0)
            assert found.changed is not None
            search.answer(~found.changed)
        found_one = np.isfinite(search.broken)
        self.needed[found_one] = (self._nb_features - search.broken + 1)[found_one]

    def certify(
        self, changes: Changes, nb_samples: int, allowed: np.ndarray, ordered: np.ndarray | None
    ) -> np.ndarray:
        """The smallest size of each input that passes, (N,) int; all features where none does.

        Parameters
        ----------
        changes, nb_samples
            Points of a test, and what counts them.
        allowed
            (N,) int: most points without the class, for a test to pass.
        ordered
            (P,) int, descending from the most features of any input: to be tested in this order,
            up to the first that does not pass. None: halving.
        """
        nb_features = self._nb_features
        passed = np.zeros(len(nb_features), int)  # places in the order, of which 0 is all features
        failed = nb_features + 1 if ordered is None else np.full(len(nb_features), len(ordered))

        def at(some: Any, place: np.ndarray) -> np.ndarray:
            if ordered is None:
                return nb_features[some] - place
            return ordered[place] * nb_features[some] // ordered[0]

        while (is_open := failed - passed > 1).any():
            some = np.flatnonzero(is_open)
            place = (passed[some] + failed[some]) // 2 if ordered is None else passed[some] + 1
            sizes = at(some, place)
            lost = changes.count_up_to(some, self._keeping(some, sizes), nb_samples, allowed[some])
            self.needed[some] = np.maximum(self.needed[some], np.where(lost > 0, sizes + 1, 0))
            passes = lost <= allowed[some]
            passed[some[passes]] = place[passes]
            failed[some[~passes]] = place[~passes]
        return at(slice(None), passed)

    def _keeping(self, some: np.ndarray, sizes: np.ndarray) -> Region:
        """The regions of some inputs (M,), whose top features (M,) are held."""
        kept = self._ranks[some] < sizes[:, None]  # (M, G)
        return self._region[some].fix(self._features[some].to_inputs(kept))


def _probability(name: str, value: Any) -> float:
    """`value` as a number in ]0, 1[, or a ValueError that names it."""
    fits = isinstance(value, (int, float, np.number)) and 0 < value < 1
    if not fits:
        raise ValueError(f"{name} must be a number above 0 and below 1. Received: {value!r}")
    return float(value)
