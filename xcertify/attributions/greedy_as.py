"""Greedy-AS: features chosen by attacks on random sets of them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from xcertify.attacks.minimal import MinimalPerturbation, farthest
from xcertify.attributions.base import ClassExplainer
from xcertify.checks import whole_number
from xcertify.data_range import range_for
from xcertify.inputs import in_batches
from xcertify.models import refuse_channels_first
from xcertify.perturbation import as_outside
from xcertify.progress import progress_bar
from xcertify.regions import Box, Region, as_norm, valid_range

_RIDGE = 1e-3  # of the number of subsets: there may be fewer of them than features


class GreedyAS(ClassExplainer):
    """Greedy-AS: the features whose perturbation changes the class soonest, set by set.

    The set starts empty. In every round random features are added to it in `nb_subsets` ways, the
    smallest perturbation that changes the class is searched for each (only these features may
    move), and a linear regression of its size on the features tells which ones make it small;
    those join the set. The earlier a feature joins, the higher its score.

    Parameters
    ----------
    model, verbose
        As for `Saliency`.
    seed
        Of the subsets and of the attack.
    norm
        2 (default), inf or 1: how a perturbation is measured.
    clip
        Valid range (low, high) of the inputs. "auto" (default): that of all inputs of a call, by
        `xcertify.data_range.data_range`, which a warning names unless it is (0, 1).
    outside
        What becomes of inputs outside `clip`, as for `EVA`.
    complement
        Features whose loss makes the attack hard: everything but the subset moves, and the
        features that make the perturbation large join.
    nb_subsets
        Number of subsets in a round.
    share, last_share
        Share of the features that join in a round, and share at which the rounds end; the rest is
        ranked by the last regression.
    probability
        Probability that a feature is added to the set.
    steps, restarts
        Of the attack, `MinimalPerturbation`.
    batch_size
        Number of points that are attacked at once.

    No guarantee
    ------------
    The attack may miss smaller perturbations, and a greedy choice is not the best one. It takes
    `nb_subsets` attacks a round: seconds to minutes for one image.

    References
    ----------
    Hsieh et al.: Evaluations and Methods for Explanation through Robustness Analysis, ICLR 2021.

    Examples
    --------
    >>> GreedyAS(model, nb_subsets=1000).explain(images[:4], labels[:4])
    """

    def __init__(
        self,
        model: keras.Model,
        norm: float = 2,
        clip: tuple[Any, Any] | str = "auto",
        complement: bool = False,
        nb_subsets: int = 5000,
        share: float = 0.05,
        last_share: float = 0.5,
        probability: float = 0.2,
        steps: int = 30,
        restarts: int = 1,
        *,
        outside: str = "error",
        **settings: Any,
    ) -> None:
        super().__init__(model, **settings)
        for name, value in [
            ("share", share),
            ("last_share", last_share),
            ("probability", probability),
        ]:
            if not 0 < value < 1:
                raise ValueError(f"{name} must be inside ]0, 1[. Received: {value!r}")
        self.norm, self.clip, self.complement = as_norm(norm), clip, complement
        self.outside = as_outside(outside)
        self.nb_subsets = whole_number("nb_subsets", nb_subsets)
        self.share, self.last_share, self.probability = share, last_share, probability
        self.steps, self.restarts = steps, restarts

    def _prepare(self, inputs: Any, targets: Any) -> tuple[np.ndarray, Any]:
        refuse_channels_first(self.model, "GreedyAS")
        return super()._prepare(inputs, targets)

    def _explain(self, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
        features = inputs.shape[1:3] if inputs.ndim == 4 else inputs.shape[1:]
        clip = range_for(self.clip, inputs, warns=4)
        valid = Box(*valid_range(clip, inputs.shape, inputs.dtype), inputs)
        scores = np.empty((len(inputs), *features))
        nb_at_once = max(1, self._nb_at_once // self.nb_subsets)
        with progress_bar(len(inputs), "input", verbose=self.verbose) as progress:
            for some in in_batches(np.arange(len(inputs)), nb_at_once):
                scores[some] = self._ranked(valid[some], classes[some], features)
                progress.update(len(some))
        return scores[..., None] if inputs.ndim == 4 else scores

    def _ranked(self, valid: Region, classes: np.ndarray, features: tuple[int, ...]) -> np.ndarray:
        nb_features = int(np.prod(features))
        nb_joining = max(1, round(self.share * nb_features))
        nb_rounds = max(1, round(self.last_share * nb_features / nb_joining))
        generator = np.random.default_rng(self.seed)
        scores = np.zeros((len(valid), nb_features))
        joined = np.zeros(scores.shape, bool)
        for number in range(1, nb_rounds + 1):
            added = generator.random((self.nb_subsets, nb_features)) < self.probability
            subsets = joined[:, None] | added
            distances = self._distances(valid, classes, subsets.reshape(-1, *features))
            gains = _coefficients(subsets, distances)
            gains = np.where(joined, np.inf, gains if self.complement else -gains)
            ranks = gains.argsort(axis=1, kind="stable").argsort(axis=1)
            scores = np.where(joined, scores, nb_rounds - number + ranks / nb_features)
            joined = ranks >= nb_features - number * nb_joining
        return scores.reshape(-1, *features)

    def _distances(self, valid: Region, classes: np.ndarray, subsets: np.ndarray) -> np.ndarray:
        """Smallest perturbation that was found for each subset (N * V, *features), (N, V)."""
        attack = self._derive(
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
        sample = np.repeat(np.arange(len(valid)), self.nb_subsets)
        held = subsets if self.complement else ~subsets
        held = held[..., None] if valid.center.ndim == 4 else held
        region = valid[sample]
        region = region.fix(np.broadcast_to(held, region.center.shape))
        distances = attack(region, classes[sample]).distances
        # where no perturbation was found, the largest one stands for it
        return np.minimum(distances, farthest(region, self.norm)).reshape(len(valid), -1)


def _coefficients(subsets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Least squares of values (N, V) on the members of subsets (N, V, F), (N, F)."""
    members = subsets - subsets.mean(axis=1, keepdims=True)
    transposed = members.transpose(0, 2, 1)
    ridge = _RIDGE * members.shape[1] * np.eye(members.shape[2])
    right = transposed @ (values - values.mean(axis=1, keepdims=True))[..., None]
    return np.linalg.solve(transposed @ members + ridge, right)[..., 0]
