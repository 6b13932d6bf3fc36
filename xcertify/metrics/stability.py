"""Soft stability: how often the class of a selection of features stays when more are revealed.

Source: Jin, Xue, You, Goel, Wong, Probabilistic Stability Guarantees for Feature Attributions,
NeurIPS 2025; the proof for smoothed models: Xue, Alur, Wong, Stability Guarantees for Feature
Attributions with Multiplicative Smoothing, NeurIPS 2023.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.checks import positive, whole_number
from xcertify.inputs import evaluate_in_batches
from xcertify.logits import classes_of, logits_of
from xcertify.metrics.base import Metric, MetricResult
from xcertify.metrics.baselines import Baseline, baseline_values
from xcertify.metrics.explanations import (
    as_explanations,
    importance_ranks,
    largest_of_groups,
    step_counts,
)
from xcertify.metrics.revealed import Votes, hard_radii, kept_levels, set_draws
from xcertify.models import channels_last_layer
from xcertify.progress import progress_bar
from xcertify.radii import Interval, compare_radii
from xcertify.reasons import Features
from xcertify.sampling import Streams, sampled
from xcertify.statistics import binomial_interval, nb_samples_for
from xcertify.tracing import traced

KEEPS = ("selected", "input")
TOGETHER = ("each", "curve", "all")


@dataclass(frozen=True, eq=False, repr=False)
class SoftStabilityResult(MetricResult):
    """What `Stability` found.

    Attributes
    ----------
    axis
        Radii (R,): at most so many further features are revealed.
    curves
        Estimated stability rates (N, R): the share of the sampled sets that keep the class.
    lower, upper
        Confidence bars of the rates, (N, R), by Clopper and Pearson; never farther than `error`
        from `curves`.
    scores
        The estimates at the largest radius, (N,).
    tied
        (N,) bool: True where an equal attribution on both sides of the cut was told apart at
        random.
    nb_samples
        Sets that were drawn for each point.
    error, confidence
        What holds of the points, each or together as `together` says.
    together
        Of which points the confidence is: "each", "curve" or "all".
    mean_error
        How far `mean_curve` is from the mean of the true rates of these inputs, at most, with the
        same confidence: at each radius, or at all of them unless `together` is "each".
    interval
        Of the largest radius of *hard* stability, (N,): within it every set keeps the class. At
        least `certified`, which is proved and is 0 without smoothing (-1 where not even the
        selection itself has the class that is to stay); less than `attacked`, the fewest further
        features of a sampled set of another class, inf where none was drawn.
    selected
        (N, *features) bool: what the explanation selects.
    classes
        The class that is to stay, (N,).

    Guarantee
    ---------
    Of `lower`, `upper`, `error` and `mean_error`, and of ``interval.certified``: see `Stability`.
    """

    lower: np.ndarray
    upper: np.ndarray
    nb_samples: int
    error: float
    confidence: float
    together: str
    mean_error: float
    interval: Interval
    selected: np.ndarray
    classes: np.ndarray

    def __repr__(self) -> str:
        score = f"{self.score:.4f}"
        return super().__repr__().replace(score, f"{score} +- {self.mean_error:.4f}", 1)


class Stability(Metric):
    """Soft stability (higher is better): the class stays when further features are revealed.

    An explanation selects features. The others are hidden: they have the values of a baseline. Of
    all sets that reveal the selected features and at most r others, the *stability rate* is the
    share of those for which the model has the same class as for the selection alone. It is
    estimated from uniformly drawn sets, within a stated error, and needs nothing but calls of the
    model.

    There are far more sets of r further features than of fewer, so that a rate is about sets of
    nearly r of them.

    Parameters
    ----------
    model
        Keras model or TensorFlow callable, (B, *shape) -> (B, K). Its class is that of the largest
        logit, the first of equal ones; a single logit counts as two classes.
    inputs
        Images (N, H, W, C), of which a feature is a pixel with all its channels, time series
        (N, T, W) or tabular data (N, W): an array, a tensor or a `tf.data.Dataset`.
    targets
        With ``keeps="input"`` the classes that are to stay: labels (N,), one-hot rows (N, K), or
        None for the class that the model gives to the whole input. Else they are not looked at.
    batch_size
        Number of masked inputs held at once; None for all.
    radius
        The largest number r of further features. More than there are features: all of them.
    error, delta
        Half the width of the bars at most, and how likely they may be wrong, in ]0, 1[. The number
        of sets is ceil(log(2 / delta) / (2 error^2)): 150 for the defaults, whatever the model.
    together
        What `delta` is shared by: "each" (default), no sharing, each point of each curve has its
        own; "curve", all points of an input's curve; "all", all points of all inputs. Sharing
        takes a few more sets.
    steps
        Number of radii at which the curve is sampled, equally far apart up to rounding; -1 for
        every one. Each takes the whole number of sets; 1: the largest radius alone.
    top
        Share of the features, in ]0, 1], that a map selects: those of the largest values, at least
        one. Of masks it is not looked at.
    baseline_mode
        What hidden features become: see `baseline_values`.
    keeps
        Which class is to stay: "selected" (default, as in the paper), the model's for the selected
        features alone; or "input", the target.
    groups, grid_size
        Features that are revealed together, as for `SufficientSize`. A group has the largest value
        of its features; a mask has to select it whole or not at all.
    keep, levels
        Multiplicative smoothing: the model is replaced by the vote of `levels` copies of it, of
        which each sees only a share `keep` of the features; a multiple of 1 / `levels`, such as
        1 / 8 with 64. That takes `levels` as many calls, and gives a proof beside the estimate:
        ``interval.certified``. 1 (default): no smoothing.
    seed
        Of the sets, of the smoothing's masks, of a random baseline, and of the tie rule.
    verbose
        Show a progress bar.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.
    ContradictionError
        If a sampled set within the proved radius has another class: a bug, to be reported.

    Guarantee
    ---------
    *From samples.* Random are the drawn sets alone; model, inputs, explanation, baseline, radii
    and the number of sets are fixed before, and do not depend on them. The model is a function: the
    class of an input does not depend on what is beside it in a batch. At each radius each input has
    draws of its own, independent and uniform among the sets that reveal the selection and at most r
    others. With probability of at least 1 - `delta` over the draws, the true rate of a point lies
    between `lower` and `upper` (Clopper and Pearson, two-sided), and these are within `error` of
    the estimate. With ``together="each"`` this holds of each point on its own: of many, about the
    share `delta` may be missed. With "curve" it holds of all points of an input at once, and with
    "all" of those of all inputs, whatever their dependence (Bonferroni). An explanation that was
    chosen by this metric needs another `seed` for its final number; and explanations that are
    compared share their random numbers, so that errors of differences are not those of independent
    estimates. `mean_error` holds of these inputs, not of others from where they came.

    *Proved, where* `keep` *is below 1.* Every set that reveals the selection and at most
    ``interval.certified`` others has the class that is to stay, of the *smoothed* model, with the
    masks that `seed` fixes, as it is computed in float32; nothing is random about it. Nothing
    follows for the model without smoothing.

    **No guarantee** that the class stays for every set (a rate of 1 has a lower bar below 1), nor
    of other values for hidden features than the baseline's, nor of perturbed inputs, nor that the
    selection is what the model looks at.

    References
    ----------
    Jin, Xue, You, Goel, Wong: Probabilistic Stability Guarantees for Feature Attributions, NeurIPS
    2025 (the rate, its estimate). Xue, Alur, Wong: Stability Guarantees for Feature Attributions
    with Multiplicative Smoothing, NeurIPS 2023 (the proof). Bars, joint levels and the curve are
    new here.

    Examples
    --------
    >>> metric = Stability(model, images, radius=20, top=0.1)
    >>> metric.evaluate(Saliency(model)(images))             # mean rate at 20 further pixels
    >>> result = metric.detailed_evaluate(RelEx(model).masks(images) > 0.5)
    >>> result.lower, result.upper                           # (N, R) each
    """

    higher_is_better = True

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 512,
        *,
        radius: int = 10,
        error: float = 0.1,
        delta: float = 0.1,
        together: str = "each",
        steps: int = 5,
        top: float = 0.2,
        baseline_mode: Baseline = 0.0,
        keeps: str = "selected",
        groups: Any = None,
        grid_size: int | tuple[int, int] | None = None,
        keep: float = 1.0,
        levels: int = 64,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, inputs, targets, batch_size, seed=seed, verbose=verbose)
        _check_word("together", together, TOGETHER)
        _check_word("keeps", keeps, KEEPS)
        if isinstance(top, (bool, str)) or not 0 < top <= 1:
            raise ValueError(f"top must be a share in ]0, 1]. Received: {top!r}")
        nb_samples_for(positive("error", error), positive("delta", delta))
        kept_levels(keep, levels)
        self.radius, self.steps = whole_number("radius", radius), steps
        self.error, self.delta, self.together = error, delta, together
        self.top, self.baseline_mode, self.keeps = top, baseline_mode, keeps
        self.groups, self.grid_size = groups, grid_size
        self.keep, self.levels = keep, levels
        _ = self._features, self._radii, self._baselines

    def detailed_evaluate(self, explanations: Any) -> SoftStabilityResult:
        """Rates and their bars of every sample; see `SoftStabilityResult`.

        Parameters
        ----------
        explanations
            Maps as for `evaluate`, of which the `top` share is selected; or masks, boolean arrays
            of one of the same shapes: True where a feature is selected.
        """
        features, radii = self._features, self._radii
        selected, tied = selected_groups(
            features, explanations, self._points, top=self.top, seed=self.seed
        )
        votes = Votes(
            self._logits,
            self._points,
            self._baselines,
            features,
            keep=self.keep,
            levels=self.levels,
            seed=self.seed,
            batch_size=self._nb_at_once,
        )
        every = np.arange(len(features))
        of_selection = votes(every, selected)  # (N, K)
        classes = self._classes(of_selection)
        hidden = features.valid & ~selected
        nb_samples = nb_samples_for(self.error, self._level)

        def changed_by(added: np.ndarray, which: np.ndarray) -> np.ndarray:
            """How many features were added where the class has changed, else -1, (B,)."""
            found = votes(which, selected[which] | added).argmax(axis=1)
            return np.where(found == classes[which], -1, added.sum(axis=1))

        proved = np.minimum(hard_radii(of_selection, classes, votes.nb_kept), hidden.sum(axis=1))
        fewest = np.where(proved < 0, 0.0, np.inf)
        kept = np.zeros((len(features), len(radii)), int)
        streams = Streams(self.seed, self._points, "stability")
        total = nb_samples * kept.size
        with progress_bar(total, "set", "Stability", verbose=self.verbose) as progress:
            for place, radius in enumerate(radii):
                for which, changed in sampled(
                    streams,
                    nb_samples,
                    set_draws(hidden, int(radius)),
                    changed_by,
                    batch_size=max(1, self._nb_at_once // votes.nb_levels),
                    progress=progress,
                ):
                    np.add.at(kept[:, place], which, changed < 0)
                    np.minimum.at(fewest, which, np.where(changed < 0, np.inf, changed))
        compare_radii(
            proved,
            fewest,
            what="another class",
            method="multiplicative smoothing",
            region="numbers of revealed features",
        )
        lower, upper = binomial_interval(kept, nb_samples, self._level)
        curves = kept / nb_samples
        return SoftStabilityResult(
            metric="Stability",
            axis=radii,
            axis_label="further features revealed, at most",
            curves=curves,
            scores=curves[:, -1],
            tied=tied,
            higher_is_better=True,
            lower=lower,
            upper=upper,
            nb_samples=nb_samples,
            error=self.error,
            confidence=1 - self.delta,
            together=self.together,
            mean_error=self._mean_error(nb_samples),
            interval=Interval(proved, fewest),
            selected=features.expand(selected),
            classes=classes,
        )

    @property
    def _features(self) -> Features:
        shape, size = self._points.shape[1:], len(self._points)
        return self._derive(
            "features", lambda: Features.of(shape, size, self.groups, self.grid_size)
        )

    @property
    def _radii(self) -> np.ndarray:
        """(R,) int, from 1 on."""
        return step_counts(min(self.radius, self._features.nb_groups), self.steps)[1:]

    @property
    def _baselines(self) -> np.ndarray:
        return self._derive(
            "baselines", lambda: baseline_values(self.baseline_mode, self._points, self.seed)
        )

    @property
    def _level(self) -> float:
        """How likely a single point may be wrong."""
        nb_radii = len(self._radii)
        shared_by = {"each": 1, "curve": nb_radii, "all": nb_radii * len(self._points)}
        return self.delta / shared_by[self.together]

    def _mean_error(self, nb_samples: int) -> float:
        """Of the mean over the inputs, by Hoeffding; equal inputs have equal random numbers."""
        level = self.delta / (1 if self.together == "each" else len(self._radii))
        repeats = np.array([*Counter(one.tobytes() for one in self._points).values()])
        nb_equal = np.sum((repeats / len(self._points)) ** 2)
        return math.sqrt(math.log(2 / level) * nb_equal / (2 * nb_samples))

    def _classes(self, of_selection: np.ndarray) -> np.ndarray:
        """The class that is to stay, (N,), of the votes (N, K) for the selections."""
        of_inputs = classes_of(self.model, self._logits(self._points), self.targets)
        return of_inputs if self.keeps == "input" else of_selection.argmax(axis=1)

    def _logits(self, inputs: np.ndarray) -> np.ndarray:
        """Logits (B, K) of inputs, a few at a time."""
        points = tf.TensorSpec((None, *inputs.shape[1:]), tf.float32)
        start = channels_last_layer(self.model)
        logits = self._derive(
            "logits",
            lambda: traced(logits_of(self.model, start), input_signature=[points], autograph=False),
        )
        return evaluate_in_batches(logits, self._nb_at_once, inputs)


def selected_groups(
    features: Features, explanations: Any, inputs: np.ndarray, *, top: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """What explanations select, and where the tie rule decided it.

    Parameters
    ----------
    features
        Of the inputs; G groups.
    explanations
        Maps or masks, as for `Stability.detailed_evaluate`.
    inputs
        (N, *shape), channels last.
    top, seed
        As for `Stability`.

    Returns
    -------
    selected, tied
        (N, G) bool and (N,) bool.

    Raises
    ------
    ValueError
        As `as_explanations`, and for masks that select a part of a group.
    """
    values = as_explanations(explanations, inputs)
    if np.asarray(explanations).dtype == bool:
        shares = features.sums(values) / np.maximum(features.sums(np.ones_like(values)), 1)
        parts = ((shares > 0) & (shares < 1)).any(axis=1)
        if parts.any():
            raise ValueError(
                f"masks must select each group of features (of an image: each pixel with all its "
                f"channels) whole or not at all; give a map, of which the largest value of a group "
                f"counts. Received: a part of one for sample {int(np.argmax(parts))}"
            )
        return shares == 1, np.zeros(len(values), bool)
    of_groups = largest_of_groups(features, values)
    ranks, _ = importance_ranks(of_groups, np.zeros(0, int), seed)
    sizes = np.maximum(1, np.round(top * features.valid.sum(axis=1)))
    selected = ranks < sizes[:, None]
    least = np.where(selected, of_groups, np.inf).min(axis=1)
    next_one = np.where(features.valid & ~selected, of_groups, -np.inf).max(axis=1)
    return selected, least == next_one


def _check_word(name: str, value: Any, known: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {known}. Received: {value!r}")
