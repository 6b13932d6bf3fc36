"""SampledEVA: EVA without a proof, from random points.

Source: Fel et al., Don't Lie to Me! Robust and Efficient Explainability with Verified Perturbation
Analysis, CVPR 2023, appendix B.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from xcertify.attributions.eva import OverlapExplainer
from xcertify.attributions.overlaps import Overlap, Overlaps
from xcertify.checks import whole_number
from xcertify.regions import Region


class SampledEVA(OverlapExplainer):
    """EVA with the largest overlap of random points in the place of its bound (appendix B).

    To compare EVA's verified bound with. It works for any model, and nothing is proved.

    Parameters
    ----------
    model
        A Keras classifier, of any layers.
    epsilon, norm, clip, outside, grid_size, overlap, temperature, delta, verbose
        As for `EVA`.
    nb_samples
        Points drawn from each region. All regions of an input share the same draws, so that two
        cells differ by what is fixed and not by chance.
    batch_size
        Most perturbed samples that are held at once.
    seed
        Of the draws; the same in every call.

    No guarantee
    ------------
    The overlap of random points is a lower bound of the largest one, and often a poor one: in many
    dimensions random points stay away from the corners. There is no `certify`.

    Examples
    --------
    >>> SampledEVA(model, epsilon=0.1, clip=(0.0, 1.0), nb_samples=200).explain(images)
    """

    def __init__(
        self,
        model: keras.Model,
        nb_samples: int = 100,
        epsilon: Any = 0.05,
        norm: float = np.inf,
        clip: tuple[Any, Any] | None = None,
        grid_size: int | tuple[int, int] | None = 12,
        overlap: str = "margin",
        temperature: float = 2.0,
        *,
        delta: Any = None,
        outside: str = "error",
        batch_size: int | None = 4096,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            model,
            epsilon=epsilon,
            norm=norm,
            clip=clip,
            grid_size=grid_size,
            overlap=overlap,
            temperature=temperature,
            method="sampled",
            delta=delta,
            outside=outside,
            batch_size=batch_size,
            seed=seed,
            verbose=verbose,
        )
        self.nb_samples = whole_number("nb_samples", nb_samples)

    @property
    def _nb_regions_at_once(self) -> int:
        return max(1, self._nb_at_once // self.nb_samples)

    def _warn_where_vacuous(self, region: Region, overlap: Overlap, found: list[Overlaps]) -> None:
        """Nothing: these overlaps are attained, not bounded."""

    def _bound(self, region: Region, overlap: Overlap) -> np.ndarray:
        """The largest overlap of random points of N regions, (N,), which is no bound."""
        points = region.sample(self.nb_samples, self.seed)  # (P, N, *shape)
        logits = self._logits(points.reshape(-1, *region.shape)).astype(np.float64)
        logits = logits.reshape(*points.shape[:2], -1)  # (P, N, K)
        rows, values = overlap.rows(logits.shape[-1]), logits
        if rows is not None:
            values = np.einsum("nsk,pnk->pns", np.asarray(rows), logits)
        return overlap.of_sides(rows, values.min(axis=0), values.max(axis=0))
