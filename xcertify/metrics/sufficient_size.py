"""How many of the top features of an explanation are proved to be enough for the class."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.attacks import PGD
from xcertify.bounds import Verifier
from xcertify.inputs import evaluate_in_batches, in_batches
from xcertify.logits import classes_of, logits_of
from xcertify.metrics.base import Metric, MetricResult
from xcertify.metrics.explanations import (
    as_explanations,
    importance_ranks,
    largest_of_groups,
    step_counts,
)
from xcertify.models import refuse_channels_first
from xcertify.progress import progress_bar
from xcertify.radii import Interval, RadiusSearch, compare_radii, keeps_class
from xcertify.reasons import Answers, Features
from xcertify.regions import Ball, Norm, Region, as_norm

_DECIDED = 0.4  # most of the time that is left, for each round of decisions


@dataclass(frozen=True, eq=False, repr=False)
class SufficiencyResult(MetricResult):
    """What `SufficientSize` found.

    Attributes
    ----------
    axis
        Shares of the features that are kept, (P,), the most important first.
    curves
        (N, P): 1 where keeping them is proved to be enough, else 0. Their mean, `mean_curve`, is
        the certified deletion curve: the share of inputs for which it is.
    attacked_curves
        (N, P): 0 where a counterexample is known, else 1. What lies between both is undecided.
    scores
        (N,): the proved sizes as shares of the features.
    interval
        Of the least number k of top features that are enough, (N,): at most `certified`, which is
        proved; at least `attacked`, one more than the largest number with a counterexample, 0
        where none is known.
    nb_features
        (N,) int: number of all features, or of their groups.

    Guarantee
    ---------
    Of `curves`, `scores` and ``interval.certified``: see `SufficientSize`. The counterexamples
    behind `attacked_curves` and ``interval.attacked`` are inputs of the region. **No guarantee**
    that what is undecided is not enough.
    """

    attacked_curves: np.ndarray
    interval: Interval
    nb_features: np.ndarray

    @property
    def refuted(self) -> np.ndarray:
        """Share of inputs with a counterexample, at each share of the features, (P,)."""
        return 1 - self.attacked_curves.mean(axis=0)

    @property
    def undecided(self) -> np.ndarray:
        """Share of inputs that are neither proved nor refuted, (P,)."""
        return (self.attacked_curves - self.curves).mean(axis=0)

    def __repr__(self) -> str:
        assert self.interval.attacked is not None
        attacked = (self.interval.attacked / self.nb_features).mean()
        interval = f"[{attacked:.4f}, {self.score:.4f}]"
        return super().__repr__().replace(f"{self.score:.4f}", interval, 1)


def sufficient_size(
    model: Callable, inputs: Any, targets: Any, explanations: Any, **settings: Any
) -> SufficiencyResult:
    """How many of the top features of explanations are proved to be enough for the class.

    Parameters
    ----------
    model, inputs, targets, **settings
        As for the class `SufficientSize`, which evaluates many explanations with one verifier.
    explanations
        One per input, as for `Metric.evaluate`.

    Returns
    -------
    result
        Sizes, and the certified deletion curve.

    Guarantee
    ---------
    See `SufficientSize`.

    Examples
    --------
    >>> sufficient_size(model, images, labels, maps, epsilon=0.05, clip=(0, 1)).interval
    """
    return SufficientSize(model, inputs, targets, **settings).detailed_evaluate(explanations)


def sizes_of(
    explanations: Any,
    *,
    attack: PGD,
    verifier: Verifier,
    region: Region,
    classes: np.ndarray,
    features: Features,
    steps: int = 10,
    batch_size: int | None = 512,
    complete: bool = True,
    timeout: float | None = 60.0,
    seed: int = 0,
    verbose: bool = False,
) -> SufficiencyResult:
    """Least numbers of top features that are enough, for N inputs side by side.

    Parameters
    ----------
    explanations
        In any form, one per input.
    attack
        Looks for other classes.
    verifier
        Proves that there are none, of the logits.
    region
        N regions, the inputs being their centers.
    classes
        (N,) int: given by the model at the inputs.
    features
        What is kept, or free, together.
    steps, batch_size, complete, timeout, seed, verbose
        As for `SufficientSize`.

    Guarantee
    ---------
    Of what is proved, that of the verifier, for the class of the network.
    """
    values = largest_of_groups(features, as_explanations(explanations, region.center))  # (N, G)
    ranks, _ = importance_ranks(values, np.zeros(0, int), seed)
    nb_features = features.valid.sum(axis=1)
    freed, refuted = np.zeros(len(ranks)), np.full(len(ranks), np.inf)
    deadline = time.monotonic() + (math.inf if timeout is None else timeout)
    with progress_bar(len(ranks), "input", "SufficientSize", verbose=verbose) as bar:
        for some in in_batches(np.arange(len(ranks)), batch_size):
            search = _SizeSearch(verifier, region[some], classes[some], features[some], ranks[some])
            search.attack(attack)
            search.bound()
            if complete:
                share = len(some) / (len(ranks) - some[0])
                now = time.monotonic()
                search.decide(now + share * (deadline - now), seed)
            compare_radii(
                search.freed,
                search.refuted,
                what="another class",
                method=verifier.method,
                region=f"numbers of free features, in {region[some].describe()}",
                samples=some,
            )
            freed[some], refuted[some] = search.freed, search.refuted
            bar.update(len(some))
    sizes = nb_features - freed
    needed = np.where(np.isinf(refuted), 0.0, nb_features - refuted + 1)
    most = int(nb_features.max(initial=1))
    axis = step_counts(most, steps) / most
    scores = sizes / nb_features
    return SufficiencyResult(
        metric="SufficientSize",
        axis=axis,
        axis_label="share of features kept, the most important first",
        curves=(scores[:, None] <= axis).astype(float),
        scores=scores,
        tied=is_tied(values, sizes.astype(int)),
        higher_is_better=False,
        attacked_curves=((needed / nb_features)[:, None] <= axis).astype(float),
        interval=Interval(sizes, needed),
        nb_features=nb_features,
    )


class _SizeSearch:
    """What is known of N inputs of which the least important features are free, stage by stage.

    What holds with some features free holds with fewer of them free: every stage halves between
    the most that are proved and the fewest that are refuted.

    Attributes
    ----------
    freed
        (N,) float64: the largest number of free features for which the class is proved to stay.
    refuted
        (N,) float64: the least one for which another class was found, inf where none was.
    """

    def __init__(
        self,
        verifier: Verifier,
        region: Region,
        classes: np.ndarray,
        features: Features,
        ranks: np.ndarray,
    ) -> None:
        self._verifier, self._region, self._classes = verifier, region, classes
        self._features, self._ranks = features, ranks
        self._nb_features = features.valid.sum(axis=1)
        self.freed = np.zeros(len(ranks))  # with none free there is only the input
        self.refuted = np.full(len(ranks), np.inf)

    def attack(self, attack: PGD) -> None:
        """Fewest free features with which an attack finds another class."""
        search = RadiusSearch(0, self._nb_features, linear=True, integers=True, test_high="first")
        for some, nb_free in search:
            found = attack(self._with_free(some, nb_free), self._classes[some], stop_above=0)
            assert found.changed is not None
            search.answer(~found.changed)
        self.refuted = search.broken

    def bound(self) -> None:
        """Most free features for which bounds are enough; up to what is refuted, which none are."""
        ends = np.minimum(self.refuted, self._nb_features)
        search = RadiusSearch(0, ends, linear=True, integers=True, test_high="last")
        for some, nb_free in search:
            region = self._with_free(some, nb_free)
            search.answer(keeps_class(self._verifier, region, self._classes[some]))
        self.freed = search.held

    def decide(self, deadline: float, seed: int) -> None:
        """What is between both ends, by branch and bound."""
        ends = np.minimum(self.refuted, self._nb_features + 1)  # the first that is not to be tried
        search = RadiusSearch(self.freed, ends, linear=True, integers=True, known=self.freed)
        for some, nb_free in search:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            decision = self._verifier.decide(
                self._with_free(some, nb_free),
                *Answers(self._classes[some], self._verifier.nb_outputs).property(),
                timeout=_DECIDED * left if math.isfinite(left) else None,
                seed=seed,
            )
            if "interrupted" in decision.reason:
                raise KeyboardInterrupt
            search.answer(decision.holds, broken=np.where(decision.violated, nb_free, np.inf))
        self.freed = search.held
        self.refuted = np.minimum(self.refuted, search.broken)

    def _with_free(self, some: np.ndarray, nb_free: np.ndarray) -> Region:
        """The regions of some inputs (M,), of which the least important features (M,) are free."""
        nb_kept = self._nb_features[some] - nb_free
        kept = self._ranks[some] < nb_kept[:, None]  # (M, G)
        return self._region[some].fix(self._features[some].to_inputs(kept))


def is_tied(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Whether one of the top sizes (N,), or one less, falls between equal values (N, G), (N,)."""
    ordered = -np.sort(-values, axis=1)
    equal = np.zeros((len(values), values.shape[1] + 2), bool)
    equal[:, 2:-1] = ordered[:, :-1] == ordered[:, 1:]  # equal[:, k + 1] is of the top k
    samples = np.arange(len(values))
    return equal[samples, sizes] | equal[samples, sizes + 1]


class SufficientSize(Metric):
    """SufficientSize (lower is better): how many of the top features are provably enough.

    The k features that an explanation ranks first keep their values, and all others move freely in
    the region. The size of an input is the least k with which its class cannot change; the score is
    the size as a share of all features. It is found by halving, between what is proved and what a
    counterexample refutes. An explanation has a small one if it ranks the features first that the
    decision rests on.

    Parameters
    ----------
    model
        Keras model that `Verifier` can bound, (B, *shape) -> (B, K); a softmax or sigmoid at its
        end is left out.
    inputs
        Images (N, H, W, C), of which a feature is a pixel with all its channels, time series
        (N, T, W) or tabular data (N, W), inside `clip`: an array, a tensor or a `tf.data.Dataset`.
    targets
        The class that the model gives: integer labels (N,), one-hot rows (N, K), or None. Another
        class than the predicted one is refused: no features are enough for it.
    batch_size
        Number of inputs that are searched, and of points that are attacked, at once; None for all.
    epsilon, norm, clip
        Of the regions, as for `Ball`.
    groups
        Integer labels (*features) or (N, *features), with *features (H, W), (T, W) or (W,):
        features of one label are kept or free together, such as the columns of a one-hot code. A
        group has the rank of its most important feature. None: every feature on its own.
    grid_size
        Groups that are the cells of a grid, as for `EVA`; not together with `groups`.
    steps
        Number of steps of the curve, equally long up to rounding; -1 for one feature per step. The
        sizes do not depend on it.
    method
        Method of the `Verifier`, whose bounds are the first proofs.
    complete
        Whether `Verifier.decide` goes on where these bounds end. False: attacks and bounds alone;
        sizes are larger, and more is undecided.
    timeout
        Seconds that an evaluation may take with `complete`, about; None: no limit.
    nb_steps, restarts
        Of the attack, `PGD`.
    seed
        Of the tie rule (equal attributions are ranked in one random order) and of the attacks.
    verbose
        Show a progress bar.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.
    UnsupportedLayerError
        For a model that cannot be bounded.
    ContradictionError
        If an attack succeeds where the class is proved to stay: a bug, to be reported.

    Guarantee
    ---------
    Of the proved size k: every input of the region that agrees with the given one in its k top
    features has the same class, under the assumptions of `Verifier`. The same for every k above,
    so that the curve needs no more proofs. **No guarantee** that k is the smallest number that is
    enough, unless both ends of its interval are equal; and none that no other k features are: that
    is the question of a sufficient reason.

    References
    ----------
    Features that are provably enough: Ignatiev, Narodytska, Marques-Silva: Abduction-Based
    Explanations for Machine Learning Models, AAAI 2019; Wu, Wu, Barrett: VeriX: Towards Verified
    Explainability of Deep Neural Networks, NeurIPS 2023. Taking the order of any explanation for
    them, and the curve, are new here.

    Examples
    --------
    >>> metric = SufficientSize(model, images, labels, epsilon=0.05, clip=(0.0, 1.0))
    >>> metric.evaluate(maps)                            # mean share of the features, proved
    >>> metric.detailed_evaluate(maps).interval          # between what is proved and attacked
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
        groups: Any = None,
        grid_size: int | tuple[int, int] | None = None,
        steps: int = 10,
        method: str = "crown",
        complete: bool = True,
        timeout: float | None = 60.0,
        nb_steps: int = 30,
        restarts: int = 3,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, inputs, targets, batch_size, seed=seed, verbose=verbose)
        if complete and str(method).startswith("decomon:"):
            raise ValueError(
                f"complete=True is not available through decomon: use complete=False, or "
                f"method='crown'. Received: method={method!r}"
            )
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be seconds, or None. Received: {timeout!r}")
        refuse_channels_first(model, "SufficientSize")
        self.epsilon, self.norm, self.clip = epsilon, as_norm(norm), clip
        self.groups, self.grid_size, self.steps = groups, grid_size, steps
        self.method, self.complete, self.timeout = method, complete, timeout
        self.nb_steps, self.restarts = nb_steps, restarts
        Ball(self.inputs, epsilon, norm, clip)  # refuses what does not fit
        features = Features.of(self.inputs.shape[1:], len(self.inputs), groups, grid_size)
        step_counts(features.nb_groups, steps)

    def detailed_evaluate(self, explanations: Any) -> SufficiencyResult:
        """Sizes and curves of every sample; see `SufficiencyResult`."""
        logits = evaluate_in_batches(logits_of(self.model), self._nb_at_once, self.inputs)
        classes = classes_of(self.model, logits, self.targets)
        Answers(classes, logits.shape[1]).check(logits)
        return sizes_of(
            explanations,
            attack=self._attack,
            verifier=self._verifier,
            region=Ball(self.inputs, self.epsilon, self.norm, self.clip),
            classes=classes,
            features=Features.of(
                self.inputs.shape[1:], len(self.inputs), self.groups, self.grid_size
            ),
            steps=self.steps,
            batch_size=self._nb_at_once,
            complete=self.complete,
            timeout=self.timeout,
            seed=self.seed,
            verbose=self.verbose,
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

    @property
    def _verifier(self) -> Verifier:
        return self._derive("verifier", lambda: Verifier(self.model, self.method, strip_head=True))
