"""SmoothedAttribution: pixels of any explainer's map that no small perturbation moves.

Source: Anani et al., Pixel-level Certified Explanations via Randomized Smoothing, ICML 2025.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import tqdm

from xcertify.attacks.smoothed_maps import SmoothedMapAttack
from xcertify.attributions.noisy_maps import NoisyExplainer, normal_noise
from xcertify.certificates import Certificate, SmoothedCertificate
from xcertify.certificates.smoothed import (
    decide_pixels,
    expected_overlaps,
    pixel_radii,
    top_sets,
    top_size,
)
from xcertify.checks import positive, whole_number
from xcertify.inputs import as_arrays, input_shape_of
from xcertify.progress import progress_bar
from xcertify.radii import Interval
from xcertify.regions import Ball
from xcertify.sampling import added_up
from xcertify.statistics import CORRECTIONS, binomial_tail, normal_quantile
from xcertify.usefulness import warn_vacuous

__all__ = ["SmoothedAttribution", "decide_pixels", "pixel_radii", "top_sets"]

_DOWN = 1 - 1e-12
_LEVEL_OF_A_FLIP = 0.05  # of an abstained pixel, at the input and at the point, each alone


class SmoothedAttribution(NoisyExplainer):
    """Which pixels are in the top set of an explainer's map, by a vote of noisy inputs.

    Normal noise is added to the input `nb_samples` times, each noisy input is explained, and of
    each map the top set is taken: its k = max(1, round(top d)) largest entries of d (signed: for
    magnitudes give an explainer of magnitudes; equal entries at the border are all out). A map of
    `explain` says how often each pixel is in it. `certify` proves, with a stated confidence, for
    which pixels the majority stays the same whatever small perturbation is added to the input.

    It needs nothing but calls of the explainer, so that it works for networks of any size and
    architecture, and for explainers of Xplique and one's own.

    Parameters
    ----------
    explainer
        What makes the maps: an explainer of this package or of Xplique, or a function
        (inputs (B, *shape), targets (B, K)) -> maps (B, *map). The map of a point must depend on
        the point and its targets alone, not on the points beside it; which is tried out at first
        use. It may be random itself, if its draws are new and independent for each point.
    sigma
        Standard deviation of the noise, in units of the inputs as the model takes them.
    nb_samples
        Noisy maps that each answer is tested by. With too few nothing can be certified; the
        warning then says how many are needed.
    top
        Share of the entries of a map that are its top set.
    tau
        Share of the noisy maps that an answer must be shown to exceed, from 0.5 to 1; the radius is
        ``sigma * Phi^-1(tau)``. A larger one gives a larger radius and fewer pixels.
    alpha
        The level: how likely something wrong is certified, at most. See `nb_inputs`.
    nb_choosing
        Further noisy maps, which no test looks at: they choose the answer that is tested, "in"
        where more than half of them have the pixel in their top set.
    correction
        How the pixels of an image share the level: "holm" (default) or "bonferroni", by which
        *all* certified pixels are right with confidence 1 - alpha; "benjamini-yekutieli", by which
        the expected share of wrong ones among the certified is at most alpha.
    nb_inputs
        How many images share the level. 1 (default): each image has the level `alpha`. A number:
        each has ``alpha / nb_inputs``, so that with confidence 1 - alpha nothing is wrong in any of
        them, whatever calls they are in. None: those of the call.
    attack
        Whether `certify` also attacks the smoothed map within the radius, by `SmoothedMapAttack`
        with as many samples for a test, which takes some ten times as long: the other end of
        `interval`, an estimate. It climbs the maps themselves of explainers of gradients,
        `GradCAM`, `Rise` (its first 128 masks) and `Occlusion` (of at most 128 patches), else the
        model's gradient in their place, which finds less.
    clip
        What noisy points are cut to before they are explained, (low, high). The cut is part of the
        function that is smoothed: the certificate holds for all perturbations, clipped or not.
        None: noisy points leave the range of images.
    outside
        What becomes of inputs outside `clip`: "error" (default), a ValueError; or "clip": they are
        cut to it first.
    model
        That the explainer is of; None: its attribute `model`. Of a function it must be given.
    batch_size
        Most noisy points that are explained at once, and maps that are held. With 1 each is
        explained alone, for explainers whose maps depend on the batch.
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
        By `certify`, where no pixel of an input is certified; with what to try.

    Guarantee
    ---------
    Of `certify`, that of `SmoothedCertificate`: with confidence 1 - alpha over the noise, all
    certified pixels of an image are in (out of) the *majority* top set at every point within the
    Euclidean `radius`. Fixed before any noise is drawn: inputs, targets (without targets the class
    that is predicted at the input itself, for all points), model, explainer, settings. To try
    several settings and report the best one is not covered; share `alpha` among them.

    No guarantee
    ------------
    Of `explain`: a share from samples. Nothing is said of the map without noise.

    References
    ----------
    Anani et al.: Pixel-level Certified Explanations via Randomized Smoothing, ICML 2025. There all
    pixels share the level equally; here by Holm's procedure, which certifies no fewer. Radii of
    single pixels and the certified overlap are additions.

    Examples
    --------
    >>> explainer = SmoothedAttribution(Saliency(model), sigma=0.25, top=0.2, clip=(0.0, 1.0))
    >>> certificate = explainer.certify(images, labels)
    >>> certificate.radius, certificate.certified_in.mean(), certificate.overlap
    """

    def __init__(
        self,
        explainer: Any,
        sigma: float = 0.15,
        *,
        nb_samples: int = 100,
        top: float = 0.2,
        tau: float = 0.75,
        alpha: float = 0.001,
        nb_choosing: int = 10,
        correction: str = "holm",
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
        for name, value, least in (("top", top, 0.0), ("tau", tau, 0.5), ("alpha", alpha, 0.0)):
            if not least < positive(name, value) < 1:
                raise ValueError(f"{name} must be between {least:g} and 1. Received: {value!r}")
        if correction not in CORRECTIONS:
            raise ValueError(
                f"correction must be one of {', '.join(map(repr, CORRECTIONS))}. "
                f"Received: {correction!r}"
            )
        self.sigma = float(positive("sigma", sigma))  # not float32, that rounds what follows
        self.top, self.tau, self.alpha = float(top), float(tau), float(alpha)
        self.nb_samples = whole_number("nb_samples", nb_samples)
        self.nb_choosing = whole_number("nb_choosing", nb_choosing)
        self.nb_inputs = None if nb_inputs is None else whole_number("nb_inputs", nb_inputs)
        self.correction, self.attack = correction, attack

    @property
    def radius(self) -> float:
        """``sigma * Phi^-1(tau)``, rounded down: the Euclidean radius of certificates."""
        return float(self.sigma * _DOWN * normal_quantile(self.tau))

    def votes(
        self,
        points: Any,
        targets: Any = None,
        *,
        nb_samples: int | None = None,
        purpose: str = "votes",
    ) -> np.ndarray:
        """In how many noisy maps of each point each entry is in the top set.

        Parameters
        ----------
        points
            (N, *shape), channels last, as regions of certificates and points of attacks are. They
            may be outside of `clip`: noisy points are cut to it, these are not.
        targets
            As for `explain`; of points near inputs those of the certificate, since without targets
            it is the class that is predicted at the *point*.
        nb_samples
            Number of maps; None: that of the settings.
        purpose
            In words, what for: the noise of a point depends on `seed`, on these words and on the
            point itself. The same words give the same noise again; other ones give noise that is
            independent of it, as whoever has chosen a point by its votes needs to judge it.
            "choose" and "test" are what `certify` looks at, "attack" and "judge" its attack.

        Returns
        -------
        votes
            (N, *map) int64, from 0 to `nb_samples`.

        Raises
        ------
        ValueError
            As `explain`, but for points outside of `clip`.

        No guarantee
        ------------
        Counts of samples, of one point each: of the noise in general they tell by a test alone
        (`xcertify.statistics.binomial_lower`), and of points nearby nothing. `certify` makes a
        certificate of them.

        Examples
        --------
        >>> counts = explainer.votes(found.points, certificate.targets, purpose="judge anew")
        """
        count = self.nb_samples if nb_samples is None else whole_number("nb_samples", nb_samples)
        self._follow_explainer()
        shape = input_shape_of(self.model) if self._start is None else None
        points, targets = as_arrays(points, targets, shape)
        with self._progress(len(points) * count) as progress:
            found = self._votes(points, self._resolve(points, targets), purpose, count, progress)
        return found.astype(np.int64)

    def _region(self, inputs: np.ndarray) -> Ball:
        return Ball(inputs, self.radius, 2)

    def _explain(self, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        with self._progress(len(inputs) * self.nb_samples) as progress:
            return self._votes(inputs, targets, "test", self.nb_samples, progress) / self.nb_samples

    def _certify(self, region: Ball, targets: np.ndarray) -> SmoothedCertificate:
        inputs = region.center
        nb_images = self._nb_sharing(len(inputs))
        with self._progress(len(inputs) * (self.nb_choosing + self.nb_samples)) as progress:
            first = self._votes(inputs, targets, "choose", self.nb_choosing, progress)
            chosen = first > self.nb_choosing / 2
            votes = self._votes(inputs, targets, "test", self.nb_samples, progress)
        counts = np.where(chosen, votes, self.nb_samples - votes).astype(np.int64)
        rows = counts.reshape(len(counts), -1)
        common: dict[str, Any] = {"nb_samples": self.nb_samples, "alpha": self.alpha / nb_images}
        certified = decide_pixels(rows, tau=self.tau, correction=self.correction, **common).reshape(
            chosen.shape
        )
        sets = chosen.reshape(rows.shape)
        radii = pixel_radii(rows, sigma=self.sigma, **common).reshape(chosen.shape)
        flipped = attacked = None
        if self.attack:
            flipped = self._flipped(region, targets, chosen, counts, certified, common["alpha"])
            attacked = flipped.reshape(rows.shape).mean(axis=1)
        return SmoothedCertificate(
            region=region,
            method="sampling",
            arithmetic="sampled",
            interval=Interval(1.0 - certified.reshape(rows.shape).mean(axis=1), attacked),
            certified_in=certified & chosen,
            certified_out=certified & ~chosen,
            chosen=chosen,
            counts=counts,
            radii=radii,
            expected_overlap=expected_overlaps(sets, rows, tau=self.tau, **common),
            targets=targets,
            sigma=float(self.sigma),
            tau=float(self.tau),
            alpha=float(self.alpha),
            top=float(self.top),
            nb_samples=self.nb_samples,
            nb_choosing=self.nb_choosing,
            correction=self.correction,
            nb_inputs=nb_images,
            seed=int(self.seed),
            clip=self._clip_sides,
            flipped=flipped,
        )

    def _flipped(
        self,
        region: Ball,
        targets: np.ndarray,
        chosen: np.ndarray,
        counts: np.ndarray,
        certified: np.ndarray,
        alpha: float,
    ) -> np.ndarray:
        """Which pixels have another majority answer at a point that an attack found, (N, *map)."""
        nb_samples = self.nb_samples

        def votes(which: np.ndarray, points: np.ndarray) -> np.ndarray:
            return self._votes(points, targets[which], "attack", nb_samples)

        k = top_size(chosen[0].size, self.top)
        attack = self._derive(
            ("attack", k, alpha, region.shape),
            lambda: SmoothedMapAttack(
                self.model,
                self._climbed_maps(region.shape),
                sigma=self.sigma,
                k=k,
                clip=self.clip,
                alpha=alpha,
                batch_size=self._nb_climbed(region.shape),
                seed=self.seed,
            ),
        )
        found = attack(
            region,
            targets,
            chosen,
            votes,
            nb_samples=nb_samples,
            shares=counts / nb_samples,
        )
        judged = self._votes(found.points, targets, "judge", nb_samples)
        others = np.where(chosen, nb_samples - judged, judged).astype(np.int64)
        is_shown = binomial_tail(np.arange(nb_samples + 1), nb_samples, 0.5) <= _LEVEL_OF_A_FLIP
        return np.where(certified, found.flipped, is_shown[counts] & is_shown[others])

    def _votes(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        purpose: str,
        nb_samples: int,
        progress: tqdm | None = None,
    ) -> np.ndarray:
        """In how many of the noisy maps of each input each pixel is in the top set, (N, *map)."""
        maps = self._noisy_maps(
            inputs,
            targets,
            self._streams(inputs, purpose),
            nb_samples,
            normal_noise(inputs.shape[1:], self.sigma),
            progress,
        )
        return added_up(((which, top_sets(some, self.top)) for which, some in maps), len(inputs))

    def _progress(self, total: int) -> Any:
        return progress_bar(total, "map", verbose=self.verbose)

    def _warn_of(self, certificate: Certificate) -> None:
        what = certificate.describe_vacuous()
        if what:
            warn_vacuous(
                f"{type(self).__name__}: {what}. Try more samples, a smaller tau, a larger top "
                f"share, a smaller sigma, or an explainer whose maps change less under noise"
            )
