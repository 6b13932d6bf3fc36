"""Fidelity: whether the model reacts as the explanation says when features are taken away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from xcertify.checks import nb_at_once
from xcertify.grid import grid_cells
from xcertify.metrics.base import (
    Metric,
    MetricResult,
    as_explanations,
    importance_ranks,
)
from xcertify.metrics.baselines import Baseline, baseline_values

_CORRELATIONS = ("spearman", "pearson")


def deletion(
    model: Callable, inputs: Any, targets: Any, explanations: Any, **settings: Any
) -> MetricResult:
    """Deletion: the score while the most important features are taken away, step by step.

    Parameters
    ----------
    model, inputs, targets, **settings
        As for the class `Deletion`, which evaluates many explanations with one compiled model.
    explanations
        One per input, as for `Metric.evaluate`.

    Returns
    -------
    result
        `axis`: share of the features that are deleted; `curves`: the score there.

    No guarantee
    ------------
    An empirical measure; see `Deletion`.

    Examples
    --------
    >>> deletion(model, images, labels, maps, activation="softmax").score
    """
    return Deletion(model, inputs, targets, **settings).detailed_evaluate(explanations)


def insertion(
    model: Callable, inputs: Any, targets: Any, explanations: Any, **settings: Any
) -> MetricResult:
    """Insertion: the score while the most important features are put into a baseline.

    Parameters
    ----------
    model, inputs, targets, **settings
        As for the class `Insertion`, which evaluates many explanations with one compiled model.
    explanations
        One per input, as for `Metric.evaluate`.

    Returns
    -------
    result
        `axis`: share of the features that are inserted; `curves`: the score there.

    No guarantee
    ------------
    An empirical measure; see `Deletion`.

    Examples
    --------
    >>> insertion(model, images, labels, maps, baseline_mode="blur", activation="softmax").score
    """
    return Insertion(model, inputs, targets, **settings).detailed_evaluate(explanations)


def _step_counts(nb_features: int, steps: int, max_percentage_perturbed: float) -> np.ndarray:
    """Number of features that are changed at each point of the curve, (steps + 1,)."""
    if not 0 < max_percentage_perturbed <= 1:
        raise ValueError(
            f"max_percentage_perturbed must be a share in ]0, 1]. "
            f"Received: {max_percentage_perturbed!r}"
        )
    last = int(np.floor(nb_features * max_percentage_perturbed))
    if not last:
        raise ValueError(
            f"max_percentage_perturbed={max_percentage_perturbed} of {nb_features} features is "
            f"less than one: give at least {1 / nb_features:.3g}"
        )
    if isinstance(steps, bool) or steps != int(steps) or not (steps == -1 or steps >= 1):
        raise ValueError(
            f"steps must be a whole number of at least 1, or -1 for one feature per step. "
            f"Received: {steps!r}"
        )
    steps = last if steps == -1 else min(int(steps), last)
    return np.linspace(0, last, steps + 1, dtype=np.int32)


class _Fidelity(Metric):
    """A metric that looks at inputs of which some features are replaced by `baseline_mode`."""

    baseline_mode: Baseline

    def _perturbed_scores(
        self, replaced: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], nb_variants: int
    ) -> np.ndarray:
        """Scores (N, nb_variants) of the inputs with some features replaced.

        `replaced` takes (sample, variant), two (B,) index tensors, and gives bool (B, *features),
        True where the feature takes its baseline value; a feature is a pixel with all its channels.
        """
        batch_size = nb_at_once(self.batch_size)
        baselines = baseline_values(self.baseline_mode, self._points, self.seed)
        targets = self._score.targets(self._points, self.targets, batch_size)
        inputs, baselines, targets = map(tf.constant, (self._points, baselines, targets))
        total = len(self._points) * nb_variants
        scores = np.empty(total, np.float32)
        title = type(self).__name__
        with tqdm(total=total, desc=title, disable=not self.verbose, unit="sample") as bar:
            for start in range(0, total, batch_size):
                index = np.arange(start, min(start + batch_size, total))
                sample, variant = map(tf.constant, np.divmod(index, nb_variants))
                mask = replaced(sample, variant)
                if inputs.shape.rank == 4:
                    mask = mask[..., tf.newaxis]
                points = tf.where(mask, tf.gather(baselines, sample), tf.gather(inputs, sample))
                scores[index] = self._score(points, tf.gather(targets, sample)).numpy()
                bar.update(len(index))
        scores = scores.reshape(len(self._points), nb_variants)
        missing = np.isnan(scores).any(axis=1)
        if missing.any():
            raise ValueError(
                f"the score of sample {int(np.argmax(missing))} is NaN for some of its perturbed "
                f"versions: the model's outputs there are not finite (an overflow, the root or "
                f"logarithm of 0); another baseline_mode may keep away from it"
            )
        return scores


class _Causal(_Fidelity):
    """What Deletion and Insertion share: everything but the direction."""

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 512,
        baseline_mode: Baseline = 0.0,
        steps: int = 10,
        max_percentage_perturbed: float = 1.0,
        operator: Callable | None = None,
        activation: str | None = None,
        *,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, inputs, targets, batch_size, operator, activation, seed, verbose)
        self.baseline_mode, self.steps = baseline_mode, steps
        self.max_percentage_perturbed = max_percentage_perturbed

    def detailed_evaluate(self, explanations: Any) -> MetricResult:
        """Curves and scores of every sample; see `evaluate` for the explanations."""
        explanations = as_explanations(explanations, self._points)
        nb_features = explanations[0].size
        counts = _step_counts(nb_features, self.steps, self.max_percentage_perturbed)
        ranks, tied = importance_ranks(explanations, counts, self.seed)
        tf_ranks, tf_counts = tf.constant(ranks), tf.constant(counts)

        def replaced(sample: tf.Tensor, variant: tf.Tensor) -> tf.Tensor:
            rank = tf.gather(tf_ranks, sample)
            count = tf.reshape(tf.gather(tf_counts, variant), [-1] + [1] * (ranks.ndim - 1))
            return rank >= count if self.higher_is_better else rank < count

        curves = self._perturbed_scores(replaced, len(counts))
        return MetricResult(
            metric=type(self).__name__,
            axis=counts / nb_features,
            axis_label=f"share of features {'inserted' if self.higher_is_better else 'deleted'}",
            curves=curves,
            scores=((curves[:, :-1] + curves[:, 1:]) / 2).mean(axis=1),
            tied=tied,
            higher_is_better=self.higher_is_better,
        )


class Deletion(_Causal):
    """Deletion (lower is better): how fast the score falls when important features are removed.

    The features are replaced by a baseline in the order of their attribution, largest first, and
    the score is the area under the curve of the model's score, divided by its length: the mean of
    the trapezoids between `steps` + 1 points.

    Parameters
    ----------
    model
        Keras model or TensorFlow callable, (B, *shape) -> (B, K).
    inputs
        Images (N, H, W, C), of which a feature is a pixel with all its channels, time series
        (N, T, W) or tabular data (N, W): an array, a tensor or a `tf.data.Dataset` (with targets
        or without).
    targets
        Integer labels (N,), one-hot rows or weights (N, K), or None for the predicted class.
    batch_size
        Number of perturbed samples held at once; None for all.
    baseline_mode
        Number, array, callable, "random", "blur" or "mean": see `baseline_values`.
    steps
        Number of steps, equally long up to rounding; -1 for one feature per step. More steps than
        features become one feature per step.
    max_percentage_perturbed
        Share of the features at which the curve ends, in ]0, 1].
    operator, activation
        What is watched instead of the output of the target class: see `Score`. The score is of
        the model's outputs as they are; for the usual curve of a probability, a model that
        returns logits needs `activation="softmax"`.
    seed
        Of the tie rule and of the random baseline.
    verbose
        Show a progress bar.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.

    Notes
    -----
    Equal attributions are taken in a random order of the features that `seed` fixes, the same for
    all samples, so that a constant map scores as a random one; the result says for which samples
    that mattered (`tied`). The maps of an explainer that works on cells are tied inside them.

    Xplique's Deletion, with its defaults (except `batch_size`, which only costs time), and the
    same number where nothing is tied; there the order of equal attributions is left to the sort.

    No guarantee
    ------------
    An empirical measure; it depends on the baseline, and perturbed inputs are unlike the ones that
    the model has learned from.

    References
    ----------
    Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box Models,
    BMVC 2018.

    Examples
    --------
    >>> metric = Deletion(model, images, labels, activation="softmax")
    >>> metric.evaluate(explainer.explain(images, labels))
    """

    higher_is_better = False


class Insertion(_Causal):
    """Insertion (higher is better): how fast the score rises when important features are added.

    The features are put into a baseline in the order of their attribution, largest first. All
    the rest is as in `Deletion`, the parameters and their order too.

    No guarantee
    ------------
    An empirical measure; see `Deletion`.

    References
    ----------
    Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box Models,
    BMVC 2018.

    Examples
    --------
    >>> metric = Insertion(model, images, labels, baseline_mode="blur", activation="softmax")
    >>> metric.evaluate(explainer.explain(images, labels))
    """

    higher_is_better = True


def mu_fidelity(
    model: Callable, inputs: Any, targets: Any, explanations: Any, **settings: Any
) -> MetricResult:
    """MuFidelity: correlation of the drop of the score with the attribution that is taken away.

    Parameters
    ----------
    model, inputs, targets, **settings
        As for the class `MuFidelity`, which evaluates many explanations with one compiled model.
    explanations
        One per input, as for `Metric.evaluate`.

    Returns
    -------
    result
        As of `MuFidelity.detailed_evaluate`.

    No guarantee
    ------------
    An empirical measure; see `MuFidelity`.

    Examples
    --------
    >>> mu_fidelity(model, images, labels, maps, activation="softmax").score
    """
    return MuFidelity(model, inputs, targets, **settings).detailed_evaluate(explanations)


def _random_subsets(nb_cells: int, subset_percent: float, nb_samples: int, seed: int) -> np.ndarray:
    """Random subsets of exactly the stated size, (nb_samples, nb_cells) bool."""
    size = round(nb_cells * subset_percent)
    if not 0 < size < nb_cells:
        raise ValueError(
            f"subset_percent must be a share that leaves some cells in and takes some out. "
            f"Received: {subset_percent!r} of {nb_cells} cells, that is {size}"
        )
    order = np.random.default_rng(seed).random((nb_samples, nb_cells)).argsort(axis=1)
    return order.argsort(axis=1) < size


def _removed_attributions(
    explanations: np.ndarray, cells: np.ndarray, subsets: np.ndarray
) -> np.ndarray:
    """Attribution of every subset, (N, nb_samples)."""
    order = np.argsort(cells, axis=None, kind="stable")
    starts = np.searchsorted(cells.ravel()[order], np.arange(subsets.shape[1]))
    flat = explanations.reshape(len(explanations), -1)
    sums = np.add.reduceat(flat[:, order], starts, axis=1)
    removed = sums @ subsets.T.astype(np.float64)
    # sums that differ by their rounding alone are ties
    scale = np.abs(sums).sum(axis=1, keepdims=True)
    return np.round(removed / np.where(scale > 0, scale, 1), 12) * scale


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value in its row; equal values share the mean of their ranks."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    position = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    differs = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((len(values), 1), bool)
    first = np.maximum.accumulate(np.where(np.hstack([edge, differs]), position, 0), axis=1)
    last = np.minimum.accumulate(
        np.where(np.hstack([differs, edge]), position, values.shape[1])[:, ::-1], axis=1
    )[:, ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2, axis=1)
    return ranks


def row_correlations(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of the rows, (N,), 0 where a row is constant, and where that is so."""
    constant = (np.ptp(first, axis=1) == 0) | (np.ptp(second, axis=1) == 0)
    first, second = (x - x.mean(axis=1, keepdims=True) for x in (first, second))
    product = (first * second).sum(axis=1)
    length = np.sqrt((first**2).sum(axis=1)) * np.sqrt((second**2).sum(axis=1))
    return np.divide(product, length, out=np.zeros(len(first)), where=~constant), constant


class MuFidelity(_Fidelity):
    """MuFidelity (higher is better): whether the score falls with the attribution taken away.

    For random subsets S of the cells of a grid, all of the same size, the features of S are
    replaced by a baseline. The score is the correlation over the subsets of the drop
    f(x) - f(x with S replaced) with the sum of the attributions in S, averaged over the samples.

    Parameters
    ----------
    model, inputs, targets, batch_size, baseline_mode, operator, activation, verbose
        As for `Deletion`.
    grid_size
        Images are cut into grid_size x grid_size cells, or for a pair into so many rows and
        columns, time series into grid_size stretches of time for every variable; None, and tabular
        data: every feature is a cell.
    subset_percent
        Share of the cells in a subset, in ]0, 1[; |S| is the nearest whole number.
    nb_samples
        Number of subsets, the same ones for all samples.
    correlation
        "spearman" (default, of ranks; ties share the mean of their ranks) or "pearson".
    seed
        Of the subsets and of the random baseline.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.

    Notes
    -----
    Where all subsets of a sample have the same attribution (a constant map), or the same drop,
    no correlation exists: it counts as 0, and the result says for which samples (`tied`).

    The parameters and their defaults are Xplique's (except `batch_size`, which only costs time),
    the numbers are close but not the same:

    - here every subset has exactly the size that the definition asks for (|S| = k); Xplique
      draws each cell with the probability `subset_percent`, so that the sizes differ, and as a
      larger subset takes more of everything away, even a random positive map correlates;
    - here the subsets are the same for all samples and in every call; Xplique draws new ones for
      every batch and call;
    - the paper's definition takes Pearson's correlation, Xplique's code Spearman's. Both are
      here; the default is Xplique's.

    No guarantee
    ------------
    An empirical measure; it depends on the baseline and on the grid.

    References
    ----------
    Bhatt, Weller, Moura: Evaluating and Aggregating Feature-based Model Explanations, IJCAI 2020,
    definition 3.

    Examples
    --------
    >>> metric = MuFidelity(model, images, labels, grid_size=7, activation="softmax")
    >>> metric.evaluate(explainer.explain(images, labels))
    """

    higher_is_better = True

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 512,
        grid_size: int | tuple[int, int] | None = 9,
        subset_percent: float = 0.2,
        baseline_mode: Baseline = 0.0,
        nb_samples: int = 200,
        operator: Callable | None = None,
        activation: str | None = None,
        *,
        correlation: str = "spearman",
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, inputs, targets, batch_size, operator, activation, seed, verbose)
        if correlation not in _CORRELATIONS:
            raise ValueError(
                f"correlation must be one of {_CORRELATIONS}. Received: {correlation!r}"
            )
        if isinstance(nb_samples, bool) or nb_samples != int(nb_samples) or nb_samples < 2:
            raise ValueError(
                f"nb_samples must be a whole number of subsets, at least 2. "
                f"Received: {nb_samples!r}"
            )
        self.grid_size, self.subset_percent = grid_size, subset_percent
        self.baseline_mode, self.nb_samples = baseline_mode, int(nb_samples)
        self.correlation = correlation

    def detailed_evaluate(self, explanations: Any) -> MetricResult:
        """Curves and scores of every sample.

        `scores` are the correlations; `curves` the drop of the score for each subset, in the order
        of the attribution of the subsets, from the least (`axis` 0) to the most important (1): a
        faithful explanation makes it rise. `tied` are samples of which all subsets have the same
        attribution, or the same drop; their score is 0.
        """
        explanations = as_explanations(explanations, self._points)
        cells = grid_cells(self._points.shape[1:], self.grid_size)
        nb_cells = int(cells.max()) + 1
        subsets = _random_subsets(nb_cells, self.subset_percent, self.nb_samples, self.seed)
        tf_subsets, tf_cells = tf.constant(subsets), tf.constant(cells)

        def replaced(sample: tf.Tensor, variant: tf.Tensor) -> tf.Tensor:
            # the first variant is the input itself
            chosen = tf.gather(tf_subsets, tf.maximum(variant - 1, 0))
            return tf.gather(chosen & (variant > 0)[:, tf.newaxis], tf_cells, axis=1)

        scores = self._perturbed_scores(replaced, len(subsets) + 1).astype(np.float64)
        drops = scores[:, :1] - scores[:, 1:]
        # a model that does not react shows the rounding of its float32 arithmetic, no drop
        rounding = 4 * np.finfo(np.float32).eps * np.abs(scores).max(axis=1, keepdims=True)
        drops = np.where(np.ptp(drops, axis=1, keepdims=True) <= rounding, 0.0, drops)
        removed = _removed_attributions(explanations, cells, subsets)
        if self.correlation == "spearman":
            correlations, constant = row_correlations(average_ranks(removed), average_ranks(drops))
        else:
            correlations, constant = row_correlations(removed, drops)
        order = np.argsort(removed, axis=1, kind="stable")
        return MetricResult(
            metric="MuFidelity",
            axis=np.linspace(0, 1, len(subsets)),
            axis_label="subsets, from the least to the most important",
            curves=np.take_along_axis(drops, order, axis=1),
            scores=correlations,
            tied=constant,
            higher_is_better=True,
        )
