"""UniformlySmoothedAttribution: how far small perturbations can turn a smoothed map.

Source: Wang and Kong, Certified l2 Attribution Robustness via Uniformly Smoothed Attributions,
2024. The bound is not theirs: see `xcertify.certificates.cosines`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from xcertify.attacks.maps import Explanation, input_gradient
from xcertify.attacks.smoothed_cosines import SmoothedCosineAttack
from xcertify.attributions.noisy_maps import NoisyExplainer, normal_noise, scaled
from xcertify.certificates import Certificate
from xcertify.certificates.cosines import NOISES, CosineCertificate, Noise
from xcertify.checks import positive, whole_number
from xcertify.models import has_gradient
from xcertify.progress import progress_bar
from xcertify.radii import Interval
from xcertify.regions import Ball, Norm, as_norm
from xcertify.sampling import Draw, added_up, ball_draws
from xcertify.usefulness import warn_vacuous

__all__ = ["UniformlySmoothedAttribution"]

_NB_WAYS = 4  # random ones that are tried beside the attack


class UniformlySmoothedAttribution(NoisyExplainer):
    """Smoothed maps of any explainer whose direction small perturbations turn little.

    Noise is added to the input `nb_samples` times, each noisy input is explained, and each map is
    scaled to length 1; `explain` gives the mean. `certify` bounds from below, with a stated
    confidence, the cosine between the *expectation* of such maps at the input and at any point
    within `epsilon`, and the radius within which that cosine is at least `threshold`.

    It needs nothing but calls of the explainer. Useful numbers take much noise: the radius grows
    with ``noise_radius / sqrt(d)``, the deviation of the noise in each of d features; maps that the
    noise turns in all directions have a short mean, of which little can be certified.

    Parameters
    ----------
    explainer
        What makes the maps: an explainer of this package or of Xplique, or a function
        (inputs (B, *shape), targets (B, K)) -> maps (B, *map), as for `SmoothedAttribution`.
    noise_radius
        Radius of the ball that uniform noise fills, in units of the inputs as the model takes them.
    epsilon
        Largest l2 distance of a perturbed input.
    norm
        2, the only norm for which anything is certified.
    noise
        "uniform" (default), that of the paper; "gaussian": normal noise of the same deviation
        ``noise_radius / sqrt(d + 2)`` in each feature, of which more can be certified where inputs
        have many features or maps agree well.
    threshold
        Of the cosine, above 0 and below 1: for `radii` of the certificate.
    nb_samples
        Noisy maps that the length of the smoothed map is bounded by.
    nb_choosing
        Further noisy maps, which the bound does not look at: their mean is the direction along
        which it is measured. With few of them that direction is wrong, and the length too short.
    alpha
        The level: how likely something wrong is certified, at most. See `nb_inputs`.
    nb_inputs
        How many inputs share the level. 1 (default): each has the level `alpha`. A number: each has
        ``alpha / nb_inputs``. None: those of the call.
    attack
        Whether `certify` also looks for a point within epsilon whose smoothed map is turned
        farthest: the other end of `interval`. Explainers of gradients, `GradCAM`, `Rise` (by its
        first 128 masks) and `Occlusion` (of at most 128 patches) are attacked by
        `xcertify.attacks.SmoothedCosineAttack`, others by what it finds for the magnitude of the
        gradient, where the model has one; beside both, random directions are tried.
    clip
        What noisy points are cut to before they are explained, (low, high). The cut is part of the
        function that is smoothed. None: noisy points leave the range of images.
    outside
        What becomes of inputs outside `clip`: "error" (default) or "clip": they are cut to it.
    model
        That the explainer is of; None: its attribute `model`. Of a function it must be given.
    batch_size
        Most noisy points that are explained at once, and maps that are held.
    seed
        Of the noise, which is that of each input whatever is beside it.
    verbose
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        For settings out of their range; at first use for explainers whose maps depend on the
        batch, or whose own valid range noisy points leave.

    Warns
    -----
    VacuousWarning
        By `certify`, where nothing is certified of any input; with what to try.

    Guarantee
    ---------
    Of `certify`, that of `CosineCertificate`: with confidence 1 - alpha over the noise, for every
    x' within `epsilon` the cosine between the expected maps at x' and at x is at least
    ``certificate.cosine``. Fixed before any noise is drawn: inputs, targets (without targets the
    class that is predicted at the input itself, for all points), model, explainer, settings. To try
    several settings and report the best one is not covered; share `alpha` among them.

    No guarantee
    ------------
    Of `explain`: a mean over samples. Nothing is said of the map without noise. The paper's own
    number is no lower bound: there are maps that fall below it. It is kept as
    `cosine_estimate` of the certificate.

    References
    ----------
    Wang, Kong: Certified l2 Attribution Robustness via Uniformly Smoothed Attributions, 2024.

    Examples
    --------
    >>> explainer = UniformlySmoothedAttribution(Saliency(model), noise_radius=8.0, epsilon=0.1)
    >>> certificate = explainer.certify(images, labels)
    >>> certificate.cosine, certificate.radii, certificate.radius_for(0.5)
    """

    def __init__(
        self,
        explainer: Any,
        noise_radius: float = 4.0,
        *,
        epsilon: float = 0.05,
        norm: Norm = 2,
        noise: str = "uniform",
        threshold: float = 0.8,
        nb_samples: int = 1000,
        nb_choosing: int = 100,
        alpha: float = 0.001,
        nb_inputs: int | None = 1,
        attack: bool = False,
        clip: tuple[Any, Any] | None = None,
        outside: str = "error",
        model: Any = None,
        batch_size: int | None = 512,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            explainer,
            clip=clip,
            outside=outside,
            model=model,
            batch_size=batch_size,
            seed=seed,
            verbose=verbose,
        )
        if noise not in NOISES:
            raise ValueError(f"noise must be one of {NOISES}. Received: {noise!r}")
        if as_norm(norm) != 2:
            raise ValueError(
                f"norm must be 2: of perturbations in another norm nothing is certified here. "
                f"Received: {norm!r}"
            )
        for name, value in (("threshold", threshold), ("alpha", alpha)):
            if not positive(name, value) < 1:
                raise ValueError(f"{name} must be above 0 and below 1. Received: {value!r}")
        self.noise_radius = float(positive("noise_radius", noise_radius))
        self.epsilon = float(positive("epsilon", epsilon, or_zero=True))
        self.norm, self.noise = 2, noise
        self.threshold, self.alpha = float(threshold), float(alpha)
        self.nb_samples = whole_number("nb_samples", nb_samples)
        self.nb_choosing = whole_number("nb_choosing", nb_choosing)
        self.nb_inputs = None if nb_inputs is None else whole_number("nb_inputs", nb_inputs)
        self.attack = attack

    def _region(self, inputs: np.ndarray) -> Ball:
        return Ball(inputs, self.epsilon, 2)

    def _explain(self, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        with self._progress(len(inputs) * self.nb_samples) as progress:
            return self._means(inputs, targets, "test", self.nb_samples, progress)[0]

    def _certify(self, region: Ball, targets: np.ndarray) -> CosineCertificate:
        inputs = region.center
        nb_inputs = self._nb_sharing(len(inputs))
        with self._progress(len(inputs) * (self.nb_choosing + self.nb_samples)) as progress:
            first, _ = self._means(inputs, targets, "choose", self.nb_choosing, progress)
            projections = np.empty((len(inputs), self.nb_samples))
            means, squares = self._means(
                inputs, targets, "test", self.nb_samples, progress, _unit(first), projections
            )
        certificate = CosineCertificate(
            region=region,
            method="sampling",
            arithmetic="sampled",
            interval=Interval(np.full(len(inputs), 2.0)),
            explanation=means.astype(np.float32),
            projections=projections,
            targets=targets,
            noise=self.noise,
            noise_radius=float(self.noise_radius),
            threshold=float(self.threshold),
            alpha=float(self.alpha),
            nb_inputs=nb_inputs,
            nb_samples=self.nb_samples,
            nb_choosing=self.nb_choosing,
            seed=int(self.seed),
            clip=self._clip_sides,
        )
        certified = 1 - certificate.cosine_within(certificate.epsilon)
        attacked = self._attacked(region, targets, means, squares) if self.attack else None
        return replace(certificate, interval=Interval(certified, attacked))

    def _attacked(
        self, region: Ball, targets: np.ndarray, means: np.ndarray, squares: np.ndarray
    ) -> np.ndarray:
        """The largest cosine distances (N,) found, by samples that chose none of the points."""
        every = np.tile(np.arange(len(region)), (_NB_WAYS + 1, 1))  # (C, N)
        points = self._candidates(region, targets, means)
        flat_points, flat_every = points.reshape(-1, *region.shape), every.ravel()
        about = targets[flat_every], "attack", self.nb_choosing
        distances = cosine_distances(
            means[flat_every],
            squares[flat_every],
            self.nb_samples,
            *self._means(flat_points, *about),
            self.nb_choosing,
        )
        worst = distances.reshape(every.shape).argmax(axis=0)
        found = points[worst, np.arange(len(region))]
        judged = self._means(found, targets, "judge", self.nb_samples)
        return cosine_distances(means, squares, self.nb_samples, *judged, self.nb_samples)

    def _candidates(self, region: Ball, targets: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Points (C, N, *shape) within the balls: of the attack, and in random directions."""
        ways = np.random.default_rng(self.seed).standard_normal((_NB_WAYS, 1, *region.shape))
        around = region.center + self.epsilon * _unit(ways)  # (C - 1, N, *shape)
        around = region.project(around.astype(np.float32))
        explanation = self._climbed_explanation(region.shape, means[0].size)
        if explanation is None:
            return np.concatenate([region.center[None], around])
        attack = self._derive(
            ("attack", region.shape),
            lambda: SmoothedCosineAttack(
                self.model,
                explanation,
                self._draws(region.shape),
                clip=self.clip,
                batch_size=self._nb_climbed(region.shape),
                seed=self.seed,
            ),
        )
        return np.concatenate([attack(region, targets, means)[None], around])

    def _climbed_explanation(self, shape: tuple[int, ...], nb_entries: int) -> Explanation | None:
        """What is climbed for maps of so many entries: the maps themselves, or the gradient."""
        own = self._climbed_maps(shape)
        if own is not None or not has_gradient(self._logits_at, shape):
            return own
        if nb_entries == math.prod(shape):
            return _gradient_sizes
        return _largest_gradient_sizes if nb_entries == math.prod(shape[:-1]) else None

    def _draws(self, shape: tuple[int, ...]) -> Draw:
        """Draws of the noise of one input."""
        if self.noise == "uniform":
            return scaled(ball_draws(shape), self.noise_radius)
        return normal_noise(shape, Noise(self.noise_radius, math.prod(shape)).deviation)

    def _means(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        purpose: str,
        nb_samples: int,
        progress: tqdm | None = None,
        directions: np.ndarray | None = None,
        projections: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means of noisy maps of length 1, (N, *map), and of their squared lengths, (N,).

        With directions (N, *map), the projections (N, nb_samples) of the maps are filled in.
        """
        shape = inputs.shape[1:]
        streams = self._streams(inputs, purpose)
        maps = self._noisy_maps(inputs, targets, streams, nb_samples, self._draws(shape), progress)
        map_shape: tuple[int, ...] = ()

        def units() -> Any:
            nonlocal map_shape
            begin = 0
            for which, some in maps:
                map_shape = some.shape[1:]
                rows = _rows(_unit(some))
                if directions is not None and projections is not None:
                    along = (rows * _rows(directions)[which]).sum(axis=1)
                    projections.ravel()[begin : begin + len(rows)] = np.clip(along, -1.0, 1.0)
                    begin += len(rows)  # inputs are in order
                yield which, np.concatenate([rows, np.any(rows != 0, axis=1)[:, None]], axis=1)

        sums = added_up(units(), len(inputs)) / nb_samples
        return sums[:, :-1].reshape(len(inputs), *map_shape), sums[:, -1]

    def _progress(self, total: int) -> Any:
        return progress_bar(total, "map", verbose=self.verbose)

    def _warn_of(self, certificate: Certificate) -> None:
        what = certificate.describe_vacuous()
        if what:
            warn_vacuous(
                f"{type(self).__name__}: {what}. Try more noise, more samples, a smaller epsilon, "
                f"noise='gaussian', or an explainer whose maps change less under noise"
            )


def cosine_distances(
    first: np.ndarray,
    first_squares: np.ndarray,
    nb_first: int,
    second: np.ndarray,
    second_squares: np.ndarray,
    nb_second: int,
) -> np.ndarray:
    """Estimates (N,) of 1 - cosine of two expectations, from means of independent samples.

    The mean of n samples is longer than the expectation, by 1 / n of what single samples vary by:
    its squared length is replaced by an estimate without that bias, without which noise would look
    like a turn. 0 where a length cannot be told from 0.

    Parameters
    ----------
    first, second
        Means of maps, (N, *map).
    first_squares, second_squares
        Means of the squared lengths of the maps, (N,).
    nb_first, nb_second
        Numbers of samples.
    """

    def squared_length(means: np.ndarray, squares: np.ndarray, count: int) -> np.ndarray:
        biased = (_rows(means) ** 2).sum(axis=1)
        return (count * biased - squares) / max(count - 1, 1)

    lengths = [
        squared_length(first, first_squares, nb_first),
        squared_length(second, second_squares, nb_second),
    ]
    known = np.minimum(*lengths) > 0
    dot = (_rows(first) * _rows(second)).sum(axis=1)
    cosine = dot / np.sqrt(np.where(known, lengths[0] * lengths[1], 1.0))
    return np.where(known, 1 - np.clip(cosine, -1.0, 1.0), 0.0)


def _rows(maps: np.ndarray) -> np.ndarray:
    """Maps (B, *map) as rows (B, S)."""
    return maps.reshape(len(maps), -1)


def _unit(maps: np.ndarray) -> np.ndarray:
    """Maps (B, *map) scaled to length 1; one of zeros stays."""
    rows = _rows(maps)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(lengths, 1.0)).reshape(maps.shape)


def _gradient_sizes(model: Any, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Magnitudes of the gradient."""
    return tf.abs(input_gradient(model, inputs, targets))


def _largest_gradient_sizes(model: Any, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """The largest of them along the last axis."""
    return tf.reduce_max(_gradient_sizes(model, inputs, targets), axis=-1)
