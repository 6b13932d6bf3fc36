"""Certified stability: how far the map of an input can be from that of any point of a region."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.bounds import gradient_method
from xcertify.checks import whole_number
from xcertify.criteria import DISTANCES
from xcertify.inputs import in_batches
from xcertify.metrics.base import MetricResult
from xcertify.metrics.of_explainers import ExplainerMetric
from xcertify.models import refuse_channels_first
from xcertify.progress import progress_bar
from xcertify.radii import Interval
from xcertify.regions import Norm, as_norm
from xcertify.usefulness import VACUOUS, times_wider, warn_vacuous


@dataclass(frozen=True, eq=False, repr=False)
class StabilityResult(MetricResult):
    """What `CertifiedStability` found.

    Attributes
    ----------
    curves, scores
        The certified distances, (N, 1) and (N,).
    attacked_curves
        The attacked ones, (N, 1).
    interval
        Between what the largest distance of each input lies: at least `attacked`, at most
        `certified`, (N,) each.

    Guarantee
    ---------
    Of the certified distances; see `CertifiedStability`.
    """

    attacked_curves: np.ndarray
    interval: Interval

    @property
    def looseness(self) -> np.ndarray:
        """How many times larger the certified distance is than the attacked one, (N,).

        1 is exact; inf where nothing was attained, or nothing is proved.
        """
        return times_wider(self.scores, self.attacked_curves[:, 0])

    def __repr__(self) -> str:
        interval = f"[{self.attacked_curves.mean():.4g}, {self.score:.4g}]"
        return (
            f"<{self.metric} {interval} (attacked, certified; lower is better) over "
            f"{len(self.scores)} samples>"
        )


class CertifiedStability(ExplainerMetric):
    """Certified stability (lower is better): the largest distance of a map to any map nearby.

    For an input x it is the largest ``distance(map(x'), map(x))`` of all x' with
    ``|| x' - x ||_p <= radius`` in the valid range, of which `AverageStability` is the mean over
    random x'. It lies between what an attack attains and what is proved from bounds of the
    gradient. The class may change on the way: what is explained is the score of the same target.

    Parameters
    ----------
    model
        Keras model or callable, (B, *shape) -> (B, K). It is asked for the class of each input
        where `targets` is None.
    inputs
        Images (N, H, W, C), time series (N, T, W) or tabular data (N, W).
    targets
        What is explained: labels (N,), rows (N, K), or None for the class predicted for the input.
    batch_size
        Number of inputs that are certified at once; None for all. The explainer has a batch size of
        its own, for gradients.
    radius
        As `epsilon` for `Ball`, in units of the inputs.
    distance
        Of two maps: "l2" (Euclidean), "l1" (sum of absolute differences) or "linf" (largest one).
    norm
        inf (default), 2 or 1, of the region.
    clip
        Valid range of the inputs, (low, high), to which regions are cut; None: no limits.
    outside
        What becomes of inputs outside `clip`: "error" (default), or "clip": they are cut to it.
    method
        Of the bounds: "crown" (tightest), "crown-ibp", "ibp-crown" or "ibp" (cheapest); see
        `Verifier.bound_gradient`.
    steps, restarts
        Of the attack, `CriterionAttack`.
    nb_samples
        Number of random points of each region that are tried beside it.
    seed
        Of the attack and the random points.
    verbose
        Show a progress bar.

    Raises
    ------
    ValueError
        For arguments that do not fit, and explainers whose maps cannot be bounded.
    UnsupportedLayerError
        For a model whose gradients cannot be bounded.
    ContradictionError
        If an attack goes beyond what is certified: a bug, to be reported.

    Warns
    -----
    VacuousWarning
        Where the certified distance is more than 100 times what the attack attains.

    Guarantee
    ---------
    Of the certified distance: no point of the region has a map farther from that of the input, in
    real arithmetic, whatever subgradient is taken at a kink; the map of the input is the one that
    `explain` gives. **No guarantee** of the attacked one, but that a point with this distance was
    found in float32.

    References
    ----------
    The average: Bhatt, Weller, Moura: Evaluating and Aggregating Feature-based Model Explanations,
    IJCAI 2020. The largest distance, estimated: Yeh et al.: On the (In)fidelity and Sensitivity of
    Explanations, NeurIPS 2019. Bounds of gradients: Wicker et al.: Robust Explanation Constraints
    for Neural Networks, ICLR 2023. The metric made of them is new here.

    Examples
    --------
    >>> metric = CertifiedStability(model, images, labels, radius=0.01, clip=(0.0, 1.0))
    >>> metric.detailed_evaluate(Saliency(model)).interval
    """

    higher_is_better = False

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 64,
        radius: Any = 0.01,
        distance: str = "l2",
        *,
        norm: Norm = math.inf,
        clip: tuple[Any, Any] | None = None,
        outside: str = "error",
        method: str = "crown",
        steps: int = 20,
        restarts: int = 3,
        nb_samples: int = 20,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, inputs, targets, batch_size, seed=seed, verbose=verbose)
        if not isinstance(distance, str) or distance not in DISTANCES:
            raise ValueError(
                f"distance must be one of {', '.join(DISTANCES)}: no others can be bounded. "
                f"Received: {distance!r}"
            )
        refuse_channels_first(model, "CertifiedStability")
        self.radius, self.distance, self.norm = radius, distance, as_norm(norm)
        self.clip, self.outside, self.method = clip, outside, gradient_method(method, stacklevel=4)
        self.steps = whole_number("steps", steps, least=0)
        self.restarts = whole_number("restarts", restarts)
        self.nb_samples = whole_number("nb_samples", nb_samples, least=0)
        self.perturbation.around(self.inputs)  # refuses what does not fit

    def detailed_evaluate(self, explainer: Any) -> StabilityResult:
        """Both ends for every sample.

        Parameters
        ----------
        explainer
            `Saliency`, `GradientInput`, `IntegratedGradients`, `SmoothGrad`, `CertifiedGradient` or
            `AttributionBound` (with a number as `beta`) of this package.
        """
        if not hasattr(explainer, "largest_change"):
            raise ValueError(
                f"CertifiedStability is of explainers whose maps over a region can be bounded: "
                f"Saliency, GradientInput, IntegratedGradients, SmoothGrad, CertifiedGradient and "
                f"AttributionBound of xcertify. AverageStability measures any explainer by "
                f"samples. Received: {type(explainer).__name__}"
            )
        region = self.perturbation.around(self.inputs)
        targets = self._rows(region.center)
        found = []
        with progress_bar(
            len(region), "input", "CertifiedStability", verbose=self.verbose
        ) as progress:
            for some in in_batches(np.arange(len(region)), self._nb_at_once):
                found.append(
                    explainer.largest_change(
                        region[some],
                        targets[some],
                        distance=self.distance,
                        method=self.method,
                        steps=self.steps,
                        restarts=self.restarts,
                        nb_samples=self.nb_samples,
                        seed=self.seed,
                    )
                )
                progress.update(len(some))
        certified = np.concatenate([part.certified for part in found])
        attacked = np.concatenate([part.attacked for part in found])
        result = StabilityResult(
            metric="CertifiedStability",
            axis=np.zeros(1),
            axis_label="certified",
            curves=certified[:, None],
            scores=certified,
            tied=np.zeros(len(certified), bool),
            higher_is_better=False,
            attacked_curves=attacked[:, None],
            interval=Interval(certified, attacked),
        )
        # where nothing was attained and little is proved, maps do not move
        vacuous = (result.looseness > VACUOUS) & ((attacked > 0) | np.isinf(certified))
        if vacuous.any():
            warn_vacuous(
                f"the certified distance of {vacuous.sum()} of {len(vacuous)} inputs says nothing: "
                f"it is more than {VACUOUS:g} times what an attack attains. Give a smaller radius"
                f"{'' if self.method == 'crown' else ', or a tighter method (crown)'}. "
                f"Received: radius={self.radius!r}, method={self.method!r}"
            )
        return result
