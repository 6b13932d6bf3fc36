"""Average stability: how far the map of an input is from those of its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xcertify.checks import whole_number
from xcertify.inputs import in_batches
from xcertify.metrics.base import MetricResult
from xcertify.metrics.of_explainers import ExplainerMetric, check_distance, distances, maps_by
from xcertify.progress import progress_bar
from xcertify.regions import Region


def neighbours(
    region: Region, samples: np.ndarray, draws: np.ndarray, *, two_sided: bool = False
) -> np.ndarray:
    """Points ``x + radius u`` of box regions around x, cut to the regions, (P, *shape).

    Parameters
    ----------
    region
        N balls of the norm inf.
    samples
        (P,): which of them.
    draws
        (P, *shape) in [0, 1): u, or with `two_sided` the numbers that ``2 draws - 1`` makes u of.
    """
    some = region[samples]
    shares = 2 * draws - 1 if two_sided else draws
    points = some.center + np.asarray(some.epsilon) * shares
    return np.clip(points, some.lower, some.upper).astype(some.center.dtype)


def neighbour_distances(
    explainer: Callable,
    region: Region,
    targets: np.ndarray,
    maps: np.ndarray,
    *,
    distance: str | Callable = "l2",
    nb_samples: int = 20,
    two_sided: bool = False,
    batch_size: int | None = 64,
    seed: int = 0,
    verbose: bool = False,
) -> np.ndarray:
    """Distances of the maps of neighbours to those of the inputs, (N, nb_samples).

    Parameters
    ----------
    explainer
        (inputs, targets) -> maps.
    region
        N balls of the norm inf around the inputs.
    targets, maps
        (N, K), and the maps of the inputs, (N, *map).
    distance, nb_samples, two_sided, batch_size, seed, verbose
        As for `AverageStability`.
    """
    generator = np.random.default_rng(seed)
    draws = generator.random((nb_samples, *region.shape), dtype=np.float32)
    found = np.zeros((len(region), nb_samples))
    with progress_bar(found.size, "neighbour", verbose=verbose) as progress:
        for part in in_batches(np.arange(found.size), batch_size):
            sample, draw = np.divmod(part, nb_samples)
            points = neighbours(region, sample, draws[draw], two_sided=two_sided)
            moved = maps_by(explainer, points, targets[sample])
            found.flat[part] = distances(moved, maps[sample], distance)
            progress.update(len(part))
    return found


class AverageStability(ExplainerMetric):
    """Average stability (lower is better): the mean distance of a map to those of its neighbours.

    For an input x and draws u, uniform in [0, 1) for each feature and the same for all inputs, it
    is the mean of ``distance(map(x + radius u), map(x))``. The score depends on the scale of the
    maps: compare explainers only where that is the same.

    Arguments and numbers are those of Xplique's metric, up to the draws. Unlike there, they repeat
    with `seed`, neighbours can be kept in a valid range, and targets may be labels.

    Parameters
    ----------
    model
        Keras model or callable, (B, *shape) -> (B, K). It is asked for the class of each input
        where `targets` is None; maps come from the explainer.
    inputs
        Images (N, H, W, C), time series (N, T, W) or tabular data (N, W).
    targets
        What is explained, of an input and its neighbours: labels (N,), rows (N, K), or None for the
        class predicted for the input.
    batch_size
        Most neighbours that are explained at once; None for all.
    radius
        Largest change of a feature, in units of the inputs: a number, or as `epsilon` for `Ball`.
    distance
        Of two maps: "l2" (Euclidean), "l1" (sum of absolute differences), "linf" (largest one), or
        a function of two maps (*map) that gives a number.
    nb_samples
        Number of neighbours of each input.
    clip
        Valid range of the inputs, (low, high), to which neighbours are cut. None: neighbours may
        leave the range that inputs have.
    outside
        What becomes of inputs outside `clip`: "error" (default), or "clip": they are cut to it.
    two_sided
        Whether features also become smaller: draws are then uniform in [-1, 1), as in the
        neighbourhood of the paper and of `CertifiedStability`. Xplique's only become larger.
    seed
        Of the draws.
    verbose
        Show a progress bar.

    Raises
    ------
    ValueError
        For arguments that do not fit, and inputs outside `clip`.

    No guarantee
    ------------
    Neighbours are random: the worst one may be much farther. See `CertifiedStability`.

    References
    ----------
    Bhatt, Weller, Moura: Evaluating and Aggregating Feature-based Model Explanations, IJCAI 2020,
    definition 2.

    Examples
    --------
    >>> metric = AverageStability(model, images, labels, radius=0.1, clip=(0.0, 1.0))
    >>> metric.evaluate(Saliency(model))
    """

    higher_is_better = False

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 64,
        radius: Any = 0.1,
        distance: str | Callable = "l2",
        nb_samples: int = 20,
        *,
        clip: tuple[Any, Any] | None = None,
        outside: str = "error",
        two_sided: bool = False,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, inputs, targets, batch_size, seed=seed, verbose=verbose)
        check_distance(distance)
        self.radius, self.distance, self.clip, self.outside = radius, distance, clip, outside
        self.nb_samples, self.two_sided = whole_number("nb_samples", nb_samples), two_sided
        self.perturbation.around(self.inputs)  # refuses what does not fit

    def detailed_evaluate(self, explainer: Any, base_explanations: Any = None) -> MetricResult:
        """Scores of every sample; `curves` are the distances to each of its neighbours.

        Parameters
        ----------
        explainer
            As for `evaluate`.
        base_explanations
            Its maps of the inputs, (N, *map), where they are known already.
        """
        region = self.perturbation.around(self.inputs)
        targets = self._rows(region.center)
        maps = base_explanations
        if maps is None:
            maps = self._explain(explainer, region.center, targets)
        found = neighbour_distances(
            explainer,
            region,
            targets,
            np.asarray(maps, np.float64),
            distance=self.distance,
            nb_samples=self.nb_samples,
            two_sided=self.two_sided,
            batch_size=self._nb_at_once,
            seed=self.seed,
            verbose=self.verbose,
        )
        return MetricResult(
            metric="AverageStability",
            axis=np.arange(1, self.nb_samples + 1),
            axis_label="neighbour",
            curves=found,
            scores=found.mean(axis=1),
            tied=np.zeros(len(found), bool),
            higher_is_better=False,
        )

    def evaluate(self, explainer: Any, base_explanations: Any = None) -> float:
        """The score: the mean over the samples.

        Parameters
        ----------
        explainer, base_explanations
            As for `detailed_evaluate`.
        """
        return self.detailed_evaluate(explainer, base_explanations).score
