"""Controls: what an explainer has to be better than to have shown anything."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from xcertify.attributions.base import Explainer
from xcertify.attributions.gradients import GradientExplainer
from xcertify.attributions.perturbations import as_maps
from xcertify.attributions.rounds import scores_in_rounds
from xcertify.checks import whole_number
from xcertify.grid import grid_cells
from xcertify.logits import classes_of
from xcertify.perturbation import as_outside
from xcertify.regions import Region
from xcertify.targets import margin_rows


class MarginGradientRange(GradientExplainer):
    """Margin gradient times range: how far a feature alone can push the margin, to first order.

    With g the gradient of the overlap ``T log sum exp((f_c' - f_c) / T)`` at the input x, the map
    is max(g (upper - x), g (lower - x)), summed over the channels. It answers the question of
    `EVA` by a plain gradient: the difference of their scores is what the verified bound adds. On
    an affine model with two classes both give the same map.

    Parameters
    ----------
    model, batch_size, seed, verbose
        As for `Saliency`.
    epsilon, clip
        Radius of the l_inf region and valid range of the inputs, as for `EVA`.
    outside
        What becomes of inputs outside `clip`, as for `EVA`.
    temperature
        T, as for `EVA`; 0 for the margin to the strongest other class alone.
    nb_rounds
        As for `EVA`, with gradients at the far end of each region in the place of lines over it.

    No guarantee
    ------------
    Nothing is proved: the margin is taken for linear.

    Examples
    --------
    >>> MarginGradientRange(model, epsilon=0.05, clip=(0.0, 1.0)).explain(images, labels)
    """

    def __init__(
        self,
        model: keras.Model,
        epsilon: Any = 0.05,
        clip: tuple[Any, Any] | None = None,
        temperature: float = 2.0,
        *,
        nb_rounds: int = 1,
        outside: str = "error",
        batch_size: int | None = 512,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, reducer="sum", batch_size=batch_size, seed=seed, verbose=verbose)
        self.epsilon, self.clip, self.temperature = epsilon, clip, temperature
        self.nb_rounds = whole_number("nb_rounds", nb_rounds)
        self.outside = as_outside(outside)

    _resolves_at_inputs = True

    def _resolve(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        """Weights (N, K) of the logits whose sum is the overlap to first order."""
        logits = self._logits(inputs)
        rows = np.asarray(margin_rows(classes_of(self.model, logits, targets), logits.shape[1]))
        margins = (rows @ logits[..., None])[..., 0]
        behind = margins - margins.max(axis=1, keepdims=True)
        shares = np.exp(behind / self.temperature) if self.temperature else behind == 0
        shares = shares / shares.sum(axis=1, keepdims=True)
        return (shares[:, None] @ rows)[:, 0].astype(np.float32)

    def _of_features(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        gradient = self._mean_gradients(inputs, weights)
        region = self.perturbation.around(inputs)
        return np.maximum(gradient * (region.upper - inputs), gradient * (region.lower - inputs))

    def _explain(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        if self.nb_rounds == 1:
            return super()._explain(inputs, weights)

        def gradients(region: Region, far: np.ndarray, rows: np.ndarray) -> np.ndarray:
            each = [self._mean_gradients(far, rows[:, s]) for s in range(rows.shape[1])]
            return np.stack(each, axis=1)

        logits = self._logits(inputs)
        classes = weights.argmin(axis=1)  # -1, where those of the others are shares of 1
        rows = weights[:, None] if weights.shape[1] == 1 else margin_rows(classes, weights.shape[1])
        rows = np.asarray(rows, np.float32)
        cells = grid_cells(inputs.shape[1:], None)
        scores = scores_in_rounds(
            gradients,
            self.perturbation.around(inputs),
            rows,
            (rows @ logits[..., None].astype(np.float64))[..., 0],
            cells,
            clip=self.clip,
            temperature=self.temperature,
            nb_rounds=self.nb_rounds,
        )
        return as_maps(scores[:, cells], inputs)


class RandomMap(Explainer):
    """A random map for every input, which explains nothing.

    Parameters
    ----------
    model, batch_size, verbose
        As for `Saliency`; none of them matters.
    seed
        Of the maps.

    No guarantee
    ------------
    What else.

    Examples
    --------
    >>> RandomMap(model, seed=1).explain(images)
    """

    def _explain(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        shape = (*inputs.shape[:-1], 1) if inputs.ndim == 4 else inputs.shape
        return np.random.default_rng(self.seed).random(shape)
