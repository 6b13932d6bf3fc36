"""MuFidelity: whether the score falls by as much as the attribution that is taken away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.checks import whole_number
from xcertify.grid import grid_cells
from xcertify.metrics.base import Metric, MetricResult, channels_last, inputs_of
from xcertify.metrics.baselines import Baseline
from xcertify.metrics.correlations import average_ranks, row_correlations
from xcertify.metrics.explanations import as_explanations
from xcertify.metrics.replaced import ReplacedScores
from xcertify.metrics.scores import Score

_CORRELATIONS = ("spearman", "pearson")


def mu_fidelity(
    model: Callable,
    inputs: Any,
    targets: Any,
    explanations: Any,
    *,
    operator: Callable | str | None = None,
    activation: str | None = None,
    **settings: Any,
) -> MetricResult:
    """MuFidelity: correlation of the drop of the score with the attribution that is taken away.

    Parameters
    ----------
    model, inputs, targets, operator, activation, **settings
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
    score = Score(model, operator, activation)
    inputs, targets = inputs_of(model, inputs, targets)
    inputs = channels_last(model, inputs)
    return subset_correlations(score, inputs, targets, explanations, **settings)


def subset_correlations(
    score: Score,
    inputs: np.ndarray,
    targets: Any,
    explanations: Any,
    *,
    grid_size: int | tuple[int, int] | None = 9,
    subset_percent: float = 0.2,
    baseline_mode: Baseline = 0.0,
    nb_samples: int = 200,
    correlation: str = "spearman",
    batch_size: int | None = 512,
    seed: int = 0,
    verbose: bool = False,
) -> MetricResult:
    """Correlation over S of f(x) - f(x with S replaced) with the sum of the attributions in S.

    Parameters
    ----------
    score
        f: what is watched.
    inputs
        (N, *shape) float32, images with their channels last.
    targets, explanations
        In any form, one per input.
    grid_size, subset_percent, baseline_mode, nb_samples, correlation, batch_size, seed, verbose
        As for `MuFidelity`.

    Returns
    -------
    result
        As of `MuFidelity.detailed_evaluate`.
    """
    nb_samples = _check_subsets(nb_samples, correlation)
    explanations = as_explanations(explanations, inputs)
    cells = grid_cells(inputs.shape[1:], grid_size)
    subsets = _random_subsets(int(cells.max()) + 1, subset_percent, nb_samples, seed)
    scores = ReplacedScores(
        score,
        inputs,
        targets,
        1 + nb_samples,  # the first variant is the input itself
        baseline_mode=baseline_mode,
        seed=seed,
        batch_size=batch_size,
        name="MuFidelity",
        verbose=verbose,
    )
    cell_of, is_in = tf.constant(cells), tf.constant(subsets)
    for _, variants in scores:
        chosen = tf.gather(is_in, tf.maximum(variants - 1, 0))  # (B, cells)
        scores.replace(tf.gather(chosen & (variants > 0)[:, tf.newaxis], cell_of, axis=1))
    drops = _drops(scores.values.astype(np.float64))
    removed = _removed_attributions(explanations, cells, subsets)
    order = np.argsort(removed, axis=1, kind="stable")
    compared = (removed, drops)
    if correlation == "spearman":
        compared = (average_ranks(removed), average_ranks(drops))
    correlations, constant = row_correlations(*compared)
    return MetricResult(
        metric="MuFidelity",
        axis=np.linspace(0, 1, nb_samples),
        axis_label="subsets, from the least to the most important",
        curves=np.take_along_axis(drops, order, axis=1),
        scores=correlations,
        tied=constant,
        higher_is_better=True,
    )


def _check_subsets(nb_samples: Any, correlation: Any) -> int:
    """The number of subsets, or a ValueError."""
    if correlation not in _CORRELATIONS:
        raise ValueError(f"correlation must be one of {_CORRELATIONS}. Received: {correlation!r}")
    return whole_number("nb_samples", nb_samples, least=2)


def _drops(scores: np.ndarray) -> np.ndarray:
    """f(x) - f(x with S replaced), (N, S), of scores (N, 1 + S) of which the first is f(x)."""
    drops = scores[:, :1] - scores[:, 1:]
    # a model that does not react shows the rounding of its float32 arithmetic, no drop
    rounding = 4 * np.finfo(np.float32).eps * np.abs(scores).max(axis=1, keepdims=True)
    return np.where(np.ptp(drops, axis=1, keepdims=True) <= rounding, 0.0, drops)


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


class MuFidelity(Metric):
    """MuFidelity (higher is better): how well attributions predict how much the score falls.

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
        operator: Callable | str | None = None,
        activation: str | None = None,
        *,
        correlation: str = "spearman",
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, inputs, targets, batch_size, operator, activation, seed, verbose)
        self.grid_size, self.subset_percent = grid_size, subset_percent
        self.baseline_mode, self.correlation = baseline_mode, correlation
        self.nb_samples = _check_subsets(nb_samples, correlation)

    def detailed_evaluate(self, explanations: Any) -> MetricResult:
        """Curves and scores of every sample.

        `scores` are the correlations; `curves` the drop of the score for each subset, in the order
        of the attribution of the subsets, from the least (`axis` 0) to the most important (1): a
        faithful explanation makes it rise. `tied` are samples of which all subsets have the same
        attribution, or the same drop; their score is 0.
        """
        return subset_correlations(
            self._score,
            self._points,
            self.targets,
            explanations,
            grid_size=self.grid_size,
            subset_percent=self.subset_percent,
            baseline_mode=self.baseline_mode,
            nb_samples=self.nb_samples,
            correlation=self.correlation,
            batch_size=self._nb_at_once,
            seed=self.seed,
            verbose=self.verbose,
        )
