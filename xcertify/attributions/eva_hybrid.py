"""EVAHybrid: EVA for large models, sampled up to an inner layer.

Source: Fel et al., Don't Lie to Me! Robust and Efficient Explainability with Verified Perturbation
Analysis, CVPR 2023, section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attributions.base import WITHOUT_BOUNDS
from xcertify.attributions.eva import OverlapExplainer
from xcertify.attributions.overlaps import Overlap
from xcertify.bounds import Verifier
from xcertify.checks import whole_number
from xcertify.inputs import in_batches
from xcertify.keras_graph import layer_output
from xcertify.models import Run, as_rows
from xcertify.regions import Box, Region
from xcertify.tracing import traced


class EVAHybrid(OverlapExplainer):
    """EVA for large models: sampled up to a layer, bounded from there on (section 3.4).

    For the region and for the region of every cell, `nb_samples` points are drawn and sent to
    `latent_layer`; the smallest box around what arrives there is bounded through the rest of the
    network.

    Parameters
    ----------
    model
        A Keras classifier of which `Verifier` can bound the layers behind `latent_layer`.
    epsilon, norm, clip, outside, grid_size, overlap, temperature, delta, method, verbose
        As for `EVA`.
    latent_layer
        Name of the layer whose output is boxed; all paths to the output must go through it.
    nb_samples
        Points drawn from each region. All regions of an input share the same draws, so that two
        cells differ by what is fixed and not by chance.
    batch_size
        Most perturbed samples that are held at once.
    seed
        Of the draws; the same in every call.

    No guarantee
    ------------
    The box at `latent_layer` comes from samples and may be left by other points of the region, so
    that the overlaps are estimates. There is no `certify`.

    Examples
    --------
    >>> EVAHybrid(model, "flatten", epsilon=0.1, nb_samples=100).explain(images)
    """

    def __init__(
        self,
        model: keras.Model,
        latent_layer: str,
        nb_samples: int = 100,
        epsilon: Any = 0.05,
        norm: float = np.inf,
        clip: tuple[Any, Any] | None = None,
        grid_size: int | tuple[int, int] | None = 12,
        overlap: str = "margin",
        temperature: float = 2.0,
        method: str = "crown",
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
            method=method,
            delta=delta,
            outside=outside,
            batch_size=batch_size,
            seed=seed,
            verbose=verbose,
        )
        self.latent_layer = latent_layer
        self.nb_samples = whole_number("nb_samples", nb_samples)

    @property
    def _verifier(self) -> Verifier:
        """Of the layers behind the latent one."""
        layer = self.latent_layer

        def make() -> Verifier:
            behind = Verifier(self.model, self.method, strip_head=True, start_layer=layer)
            if behind.nb_constants:
                raise ValueError(
                    f"latent_layer must be a layer that all paths from the input to the outputs go "
                    f"through. Received: {layer!r}"
                )
            return behind

        return self._derive("verifier", make)

    @property
    def _cures(self) -> str:
        return f"a latent_layer nearer to the output, or {WITHOUT_BOUNDS}"

    @property
    def _nb_regions_at_once(self) -> int:
        return max(1, self._nb_at_once // self.nb_samples)

    def _logits(self, inputs: np.ndarray) -> np.ndarray:
        latents = [self._latents(part) for part in in_batches(inputs, self._nb_at_once)]
        return as_rows(self._verifier.evaluate(np.concatenate(latents)))

    def _bound(self, region: Region, overlap: Overlap) -> np.ndarray:
        return super()._bound(self._latent_box(region), overlap)

    def _latent_box(self, region: Region) -> Box:
        """The smallest boxes around what random points of N regions become at the latent layer."""
        lower, upper = np.inf, -np.inf
        points = region.sample(self.nb_samples, self.seed)  # (nb_samples, N, *shape)
        for some in in_batches(points, max(1, self._nb_at_once // len(region))):
            latents = self._latents(some.reshape(-1, *region.shape))
            latents = latents.reshape(*some.shape[:2], *latents.shape[1:])
            lower = np.minimum(lower, latents.min(axis=0))
            upper = np.maximum(upper, latents.max(axis=0))
        return Box(lower, upper)

    def _latents(self, inputs: np.ndarray) -> np.ndarray:
        """Outputs of the latent layer, (N, *latent shape) float32."""

        def make() -> Callable:
            latents = layer_output(self.model, self.latent_layer)
            return traced(
                lambda x: Run(start_layer=self._start)(self.model, x, latents),
                input_signature=[tf.TensorSpec((None, *inputs.shape[1:]), tf.float32)],
                autograph=False,
            )

        return self._derive("latents", make)(inputs).numpy().astype(np.float32)
