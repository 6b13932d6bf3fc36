"""EVA: explanations by verified perturbation analysis.

Source: Fel et al., Don't Lie to Me! Robust and Efficient Explainability with Verified Perturbation
Analysis, CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from xcertify.attributions.base import Certifying, ClassExplainer
from xcertify.bounds import Verifier
from xcertify.certificates import OverlapCertificate
from xcertify.checks import whole_number
from xcertify.grid import grid_cells
from xcertify.inputs import in_batches
from xcertify.keras_graph import layer_output
from xcertify.models import Run, as_rows
from xcertify.radii import Interval
from xcertify.regions import Ball, Box, Region, as_norm
from xcertify.targets import margin_rows
from xcertify.tracing import traced

# Bounds of rows of logits on regions, some samples and rows at a time: slices of both, and sides
# (N, S) or, with several regions of a kind for each sample, (N, S, ...).
Bound = Callable[[Region, Any], Iterable[tuple[slice, slice, np.ndarray, np.ndarray]]]

MODES = ("one-pass", "exact")
OVERLAPS = ("margin", "separate")


class TargetedExplanation(NamedTuple):
    """Two maps, (N, H, W, 1) or the shape of the inputs, float32.

    `positive`: importance of what may be added (B(+), drawn in red in the paper); `negative`: of
    what may be taken away (B(-), blue).
    """

    positive: np.ndarray
    negative: np.ndarray


class Overlaps(NamedTuple):
    """Upper bounds of the adversarial overlap: of each region, (N,), and with each cell fixed."""

    full: np.ndarray
    fixed: np.ndarray


class _OverlapExplainer(ClassExplainer):
    """What EVA and EVAHybrid share: a score is the overlap that vanishes with a cell fixed."""

    def __init__(
        self,
        model: keras.Model,
        *,
        epsilon: Any,
        norm: float,
        clip: tuple[Any, Any] | None,
        grid_size: int | tuple[int, int] | None,
        overlap: str,
        temperature: float,
        method: str,
        batch_size: int | None,
        seed: int,
        verbose: bool,
    ) -> None:
        if overlap not in OVERLAPS:
            raise ValueError(f"overlap must be 'margin' or 'separate'. Received: {overlap!r}")
        if not 0 <= temperature < np.inf:
            raise ValueError(
                f"temperature must be 0 (the largest class alone) or a positive number. "
                f"Received: {temperature!r}"
            )
        super().__init__(model, batch_size=batch_size, seed=seed, verbose=verbose)
        self.epsilon, self.norm, self.clip = epsilon, as_norm(norm), clip
        self.grid_size, self.overlap, self.method = grid_size, overlap, method
        self.temperature = temperature

    def explain_targeted(
        self, inputs: Any, towards: Any, targets: Any = None
    ) -> TargetedExplanation:
        """What would have to be added, or taken away, for another class to win (section 4.3).

        The overlap of the one class `towards` against `targets` is explained, over the part of the
        region where features only grow, B(+), and where they only fall, B(-).

        Parameters
        ----------
        inputs
            As for `explain`.
        towards
            The class c' that is asked for: one integer for all, labels (N,) or one-hot rows (N, K).
        targets
            The class c that it is set against, default the predicted one.
        """
        inputs, classes = self._prepare(inputs, targets)
        towards = np.asarray(towards)
        if not towards.ndim:
            towards = np.full(len(inputs), towards)
        try:
            others = self._resolve(inputs, towards)
        except ValueError as error:
            raise ValueError(str(error).replace("targets", "towards")) from None
        if (classes == others).any():
            sample = int(np.argmax(classes == others))
            raise ValueError(
                f"towards must be another class than the target. Received: {others[sample]} for "
                f"both in sample {sample}"
            )
        maps = []
        region = self.perturbation.around(inputs)
        for half in (region.positive(), region.negative()):
            overlaps = self._overlaps(half, classes, others)
            maps.append(self._to_map(overlaps, inputs))
        return TargetedExplanation(*(m.astype(np.float32) for m in maps))

    def _explain(self, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
        region = self.perturbation.around(inputs)
        overlaps = self._overlaps(region, classes, temperature=self.temperature)
        return self._to_map(overlaps, inputs)

    @property
    def _verifier(self) -> Verifier:
        return self._derive(
            "verifier",
            lambda: Verifier(self.model, self.method, strip_head=True, start_layer=self._start),
        )

    @property
    def _nb_regions_at_once(self) -> int:
        return self._nb_at_once

    def _logits(self, inputs: np.ndarray) -> np.ndarray:
        return as_rows(self._verifier.evaluate(inputs))

    def _cells(self, shape: tuple[int, ...]) -> np.ndarray:
        return grid_cells(shape, self.grid_size)

    def _to_map(self, overlaps: Overlaps, inputs: np.ndarray) -> np.ndarray:
        if not (np.isfinite(overlaps.full).all() and np.isfinite(overlaps.fixed).all()):
            known = np.isfinite(overlaps.full) & np.isfinite(overlaps.fixed).all(axis=1)
            raise ValueError(
                f"the overlap of sample {int(np.argmin(known))} has no finite bound, since numbers "
                f"overflow on the way. Choose a smaller epsilon, or a tighter method such as "
                f"'crown'. Received: epsilon={self.epsilon}, method={self.method!r}"
            )
        scores = overlaps.full[:, None] - overlaps.fixed
        maps = scores[:, self._cells(inputs.shape[1:])]
        return maps[..., None] if inputs.ndim == 4 else maps

    def _overlaps(
        self,
        region: Region,
        classes: np.ndarray,
        others: np.ndarray | None = None,
        temperature: float = 0.0,
    ) -> Overlaps:
        """Overlaps of all regions, by one bound computation for each region and cell."""
        cells = _per_feature(self._cells(region.shape), region.shape)
        nb_cells = int(cells.max()) + 1
        # Cell number -1 stands for the whole region.
        pairs = np.arange(len(region) * (nb_cells + 1))
        found = np.empty(len(pairs))
        progress = tqdm(total=len(pairs), unit="bound", disable=not self.verbose)
        for part in in_batches(pairs, self._nb_regions_at_once):
            samples, cell = part // (nb_cells + 1), part % (nb_cells + 1) - 1
            fixed = cells == cell.reshape(-1, *[1] * cells.ndim)
            found[part] = self._bound_overlap(
                region[samples].fix(fixed),
                classes[samples],
                None if others is None else others[samples],
                temperature,
            )
            progress.update(len(part))
        progress.close()
        return _overlaps_of(found.reshape(len(region), nb_cells + 1))

    def _bound_overlap(
        self, region: Region, classes: np.ndarray, others: np.ndarray | None, temperature: float
    ) -> np.ndarray:
        """Bound of the overlap over each region, (N,)."""

        def bound(region: Region, rows: Any) -> Iterable[tuple[slice, slice, Any, Any]]:
            sides = self._verifier.bound_rows(region, rows)
            yield slice(0, len(region)), slice(0, sides[0].shape[1]), *sides

        nb_classes = self._verifier.nb_outputs
        return self._combine(bound, region, classes, others, nb_classes, temperature)

    def _combine(
        self,
        bound: Bound,
        region: Region,
        classes: np.ndarray,
        others: np.ndarray | None,
        nb_classes: int,
        temperature: float,
    ) -> np.ndarray:
        """Upper bound of the overlap, (N, ...), from bounds of rows of logits, (N, S, ...)."""
        rows = None
        if nb_classes == 1 or (self.overlap == "margin" and others is None):
            rows = margin_rows(classes, nb_classes)
        elif self.overlap == "margin":
            units = np.eye(nb_classes, dtype=np.float32)
            rows = (units[others] - units[classes])[:, None]
        largest, own = None, None
        for samples, some, lower, upper in bound(region, rows):
            if largest is None:
                largest = np.full((len(region), *upper.shape[2:]), -np.inf)
                own = np.zeros(largest.shape)
            if rows is None:  # each logit by itself
                logits = np.arange(some.start, some.stop)
                mine = logits == classes[samples, None]
                counted = ~mine if others is None else logits == others[samples, None]
                mine, counted = (
                    mask.reshape(*mask.shape, *[1] * (upper.ndim - 2)) for mask in (mine, counted)
                )
                own[samples] += np.where(mine, lower, 0).sum(axis=1)
                upper = np.where(counted, upper, -np.inf)
            upper = np.concatenate([largest[samples, None], upper], axis=1)
            largest[samples] = smooth_maximum(upper, temperature)
        return largest - own


class EVA(_OverlapExplainer, Certifying):
    """EVA: the importance of a feature is the verified adversarial overlap that it makes possible.

    The adversarial overlap of a region is the largest value of ``f_c' - f_c`` on it, over all other
    classes c' (Eq. 1); `Verifier` bounds it from above. The score of a cell is how much of this
    bound vanishes when the features of the cell are held at their nominal value (Eq. 2).

    Parameters
    ----------
    model
        A Keras classifier that `Verifier` can bound. A single logit counts as two classes.
    epsilon
        Radius of the region, in units of the inputs: a scalar or as for `Ball`. Start where
        `certify` proves some predictions and not all.
    norm
        inf, 2 or 1.
    clip
        Valid range of the inputs, (low, high); None: no limits.
    grid_size
        Cells per side of images, where it may be a pair (rows, columns), and along time; None:
        every feature (every pixel with its channels) is a cell.
    mode
        "one-pass": all cells from the linear bounds of the whole region, which hold on each of its
        parts: one backward pass per input. "exact": the region of each cell bounded on its own, as
        in the paper: 1 + cells passes.
    overlap
        "margin": each ``f_c' - f_c`` is bounded as one function, tighter at no cost. "separate":
        max upper(f_c') - lower(f_c), the paper's form.
    temperature
        How the other classes count in a map. 0, as in the paper: only the one whose bound is
        largest. Above, all of them do: the overlap is ``T log sum exp((f_c' - f_c) / T)``, for
        T = 1 the log-odds against c, so that a cell also counts that makes other classes
        possible. Certificates are of the paper's overlap, whatever the temperature.
    method
        How to bound, a name of `Verifier`: "crown", "crown-ibp", "ibp", "decomon:crown", ...;
        "one-pass" needs "crown" or "crown-ibp".
    batch_size
        Most regions that are bounded at once.
    seed
        Not used (nothing is random); kept for a common signature.
    verbose
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        For an unknown mode, overlap or method, and for inputs outside `clip`; by `explain` also
        where bounds overflow (`certify` then says that nothing is proved).
    UnsupportedLayerError
        At the first use, for a model that cannot be bounded.

    Guarantee
    ---------
    Of `certify`: no point of the region has a larger overlap than the certificate says, with the
    cells free or fixed; where the overlap is negative, the predicted class is proved constant.
    Arithmetic and assumptions are those of `Verifier`. The scores of `explain` are differences of
    such bounds, of the overlap at the `temperature`: each bound is proved (but for the rounding of
    the logarithm of the sum), the difference is not the drop of the true overlap.

    Examples
    --------
    >>> explainer = EVA(model, epsilon=0.05, clip=(0.0, 1.0))
    >>> maps = explainer.explain(images, labels)          # (N, H, W, 1)
    >>> explainer.certify(images, labels).robust          # (N,) bool
    """

    def __init__(
        self,
        model: keras.Model,
        epsilon: Any = 0.05,
        norm: float = np.inf,
        clip: tuple[Any, Any] | None = None,
        grid_size: int | tuple[int, int] | None = None,
        mode: str = "one-pass",
        overlap: str = "margin",
        temperature: float = 2.0,
        method: str = "crown",
        *,
        batch_size: int | None = 512,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be 'one-pass' or 'exact'. Received: {mode!r}")
        if mode == "one-pass" and method not in ("crown", "crown-ibp", "alpha-crown"):
            raise ValueError(
                f"mode='one-pass' needs the linear bounds of method='crown' or 'crown-ibp'; with "
                f"other methods use mode='exact'. Received: method={method!r}"
            )
        super().__init__(
            model,
            epsilon=epsilon,
            norm=norm,
            clip=clip,
            grid_size=grid_size,
            overlap=overlap,
            temperature=temperature,
            method=method,
            batch_size=batch_size,
            seed=seed,
            verbose=verbose,
        )
        self.mode = mode

    def _certify(self, region: Ball, classes: np.ndarray) -> OverlapCertificate:
        overlaps = self._overlaps(region, classes)
        return OverlapCertificate(
            region=region,
            method=self.method,
            arithmetic=self._verifier.guarantee,
            interval=Interval(overlaps.full),
            cell_overlaps=overlaps.fixed,
            cells=self._cells(region.shape),
            targets=classes,
        )

    def _overlaps(
        self,
        region: Region,
        classes: np.ndarray,
        others: np.ndarray | None = None,
        temperature: float = 0.0,
    ) -> Overlaps:
        if self.mode == "exact":
            return super()._overlaps(region, classes, others, temperature)
        cells = _per_feature(self._cells(region.shape), region.shape)
        found = []
        progress = tqdm(total=len(region), unit="input", disable=not self.verbose)
        for first in range(0, len(region), self._nb_at_once):
            part = slice(first, first + self._nb_at_once)
            chosen = None if others is None else others[part]
            nb_classes = self._verifier.nb_outputs
            found.append(
                self._combine(
                    lambda region, rows: self._bound_cells(region, rows, cells),
                    region[part],
                    classes[part],
                    chosen,
                    nb_classes,
                    temperature,
                )
            )
            progress.update(len(found[-1]))
        progress.close()
        return _overlaps_of(np.concatenate(found))

    def _bound_cells(
        self, region: Region, rows: Any, cells: np.ndarray
    ) -> Iterable[tuple[slice, slice, np.ndarray, np.ndarray]]:
        """Bounds of rows on each region and on those of its cells, (N, S, 1 + cells)."""
        # Both sides in float64, and some copies of one of them.
        nb_bytes = 6 * 8 * (int(cells.max()) + 2)
        for samples, some, lines in self._verifier.linear_bounds_in_parts(
            region, rows, nb_bytes=nb_bytes
        ):
            upper = _with_whole(*lines.largest(cells))
            # Margins are looked at from above only.
            lower = upper if rows is not None else _with_whole(*lines.smallest(cells))
            yield samples, some, lower, upper


class EVAHybrid(_OverlapExplainer):
    """EVA for large models: sampled up to a layer, bounded from there on (section 3.4).

    For the region and for the region of every cell, `nb_samples` points are drawn and sent to
    `latent_layer`; the smallest box around what arrives there is bounded through the rest of the
    network.

    Parameters
    ----------
    model, epsilon, norm, clip, grid_size, overlap, temperature, method, verbose
        As for `EVA`. Only the layers behind `latent_layer` have to be supported.
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
            batch_size=batch_size,
            seed=seed,
            verbose=verbose,
        )
        self.latent_layer = latent_layer
        self.nb_samples = whole_number("nb_samples", nb_samples)

    @property
    def _verifier(self) -> Verifier:
        return self._derive(
            "verifier",
            lambda: Verifier(
                self.model, self.method, strip_head=True, start_layer=self.latent_layer
            ),
        )

    @property
    def _nb_regions_at_once(self) -> int:
        return max(1, self._nb_at_once // self.nb_samples)

    def _logits(self, inputs: np.ndarray) -> np.ndarray:
        latents = [self._latents(part) for part in in_batches(inputs, self._nb_at_once)]
        return as_rows(self._verifier.evaluate(np.concatenate(latents)))

    def _bound_overlap(
        self, region: Region, classes: np.ndarray, others: np.ndarray | None, temperature: float
    ) -> np.ndarray:
        lower, upper = np.inf, -np.inf
        nb_at_once = max(1, self._nb_at_once // len(region))
        points = region.sample(self.nb_samples, self.seed)
        for part in in_batches(points, nb_at_once):
            latents = self._latents(part.reshape(-1, *region.shape))
            latents = latents.reshape(*part.shape[:2], *latents.shape[1:])
            lower = np.minimum(lower, latents.min(axis=0))
            upper = np.maximum(upper, latents.max(axis=0))
        return super()._bound_overlap(Box(lower, upper), classes, others, temperature)

    def _latents(self, inputs: np.ndarray) -> np.ndarray:
        """Outputs of the latent layer."""

        def make() -> Callable:
            latents = layer_output(self.model, self.latent_layer)
            return traced(
                lambda x: Run(start_layer=self._start)(self.model, x, latents),
                input_signature=[tf.TensorSpec((None, *inputs.shape[1:]), tf.float32)],
                autograph=False,
            )

        return self._derive("latents", make)(inputs).numpy().astype(np.float32)


class SampledEVA(_OverlapExplainer):
    """EVA with the largest overlap of random points in the place of its bound (appendix B).

    What EVA's verified bound is compared with: any model will do, and nothing is proved.

    Parameters
    ----------
    model, epsilon, norm, clip, grid_size, overlap, temperature, verbose
        As for `EVA`; the model may have any layers.
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
            batch_size=batch_size,
            seed=seed,
            verbose=verbose,
        )
        self.nb_samples = whole_number("nb_samples", nb_samples)

    @property
    def _nb_regions_at_once(self) -> int:
        return max(1, self._nb_at_once // self.nb_samples)

    def _bound_overlap(
        self, region: Region, classes: np.ndarray, others: np.ndarray | None, temperature: float
    ) -> np.ndarray:
        points = region.sample(self.nb_samples, self.seed)
        logits = self._logits(points.reshape(-1, *region.shape)).astype(np.float64)
        logits = logits.reshape(*points.shape[:2], -1)

        def attained(region: Region, rows: Any) -> Iterable[tuple[slice, slice, Any, Any]]:
            values = logits if rows is None else np.einsum("nsk,pnk->pns", np.asarray(rows), logits)
            yield (
                slice(0, len(region)),
                slice(0, values.shape[2]),
                values.min(axis=0),
                values.max(axis=0),
            )

        return self._combine(attained, region, classes, others, logits.shape[-1], temperature)


def smooth_maximum(values: np.ndarray, temperature: float) -> np.ndarray:
    """``T log sum exp(values / T)`` over the second axis, for T = 0 the largest of the values.

    It rises with every value, so that upper bounds of the values give one of it.
    """
    largest = values.max(axis=1)
    if temperature == 0:
        return largest
    with np.errstate(invalid="ignore"):  # infinite bounds prove nothing, and stay infinite
        shares = np.exp((values - largest[:, None]) / temperature)
    smooth = largest + temperature * np.log(shares.sum(axis=1))
    return np.where(np.isfinite(largest), smooth, largest)


def _with_whole(full: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Bounds (N, S) of whole regions and (N, S, cells) of those of cells, as (N, S, 1 + cells)."""
    return np.concatenate([full[..., None], fixed], axis=-1)


def _overlaps_of(found: np.ndarray) -> Overlaps:
    """Overlaps from bounds (N, 1 + cells) of the whole region and of each cell's.

    A cell's region is a part of the whole one, so both bounds hold on it and no score is negative.
    """
    return Overlaps(found[:, 0], np.minimum(found[:, 1:], found[:, :1]))


def _per_feature(cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Cell of every entry of an input: channels of a pixel belong together."""
    return np.broadcast_to(cells[..., None], shape) if len(shape) == 3 else cells
