"""Certificates of smoothed maps: which pixels stay in, or out of, the top set, from samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xcertify.certificates.base import Certificate
from xcertify.certificates.forms import BOOLEANS, FLOATS, INTEGERS, Form, refuse_inputs
from xcertify.statistics import (
    binomial_lower,
    binomial_tail,
    mean_lower,
    normal_cdf,
    normal_quantile,
    rejected,
)

_DOWN = 1 - 1e-12  # what radii are rounded down by, above the error of quantiles


def top_size(nb_pixels: int, top: float) -> int:
    """k, the most entries that a top set has: ``max(1, round(top * nb_pixels))``."""
    return max(1, round(top * nb_pixels))


def top_sets(maps: np.ndarray, top: float) -> np.ndarray:
    """Which entries of maps are in their top sets.

    Parameters
    ----------
    maps
        (B, *map), of d entries each.
    top
        Share of the entries, between 0 and 1; k is that of `top_size`.

    Returns
    -------
    numpy.ndarray
        (B, *map) bool. An entry is in iff at most k entries, itself included, are at least as
        large. Equal entries at the border are all out: a set never has more than k entries, and
        that of a constant map has none.
    """
    rows = maps.reshape(len(maps), -1)
    size = rows.shape[1]
    k = top_size(size, top)
    if k >= size:
        return np.ones(maps.shape, bool)
    border = np.partition(rows, size - k - 1, axis=1)[:, size - k - 1, None]
    return (rows > border).reshape(maps.shape)


def decide_pixels(
    counts: np.ndarray, *, nb_samples: int, tau: float, alpha: float, correction: str
) -> np.ndarray:
    """For which pixels the answer is shown to have a share above `tau` of the noisy maps.

    Parameters
    ----------
    counts
        (N, d) int: how many of `nb_samples` independent noisy maps gave the answer of each pixel,
        which was chosen without looking at them.
    nb_samples, tau
        The p-value of "the share is at most tau" is P(Bin(nb_samples, tau) >= count).
    alpha, correction
        Level of each of the N rows, and how it is shared by the d pixels; see
        `xcertify.statistics.rejected`.

    Returns
    -------
    numpy.ndarray
        (N, d) bool.
    """
    tails = binomial_tail(np.arange(nb_samples + 1), nb_samples, tau)
    return rejected(tails[counts], alpha, correction)


def pixel_radii(counts: np.ndarray, *, nb_samples: int, sigma: float, alpha: float) -> np.ndarray:
    """Radii within which the majority answer of each pixel stays, together at the level `alpha`.

    Parameters
    ----------
    counts
        (N, d) int, as for `decide_pixels`.
    nb_samples, sigma
        Number of noisy maps, and the standard deviation of their noise.
    alpha
        Level of each of the N rows, shared equally by its d pixels (Bonferroni).

    Returns
    -------
    numpy.ndarray
        (N, d) float64, rounded down: sigma Phi^-1(p) of the lower limit p of the share of the
        answer; 0 where that is at most 1/2.
    """
    level = alpha / counts.shape[1]
    lower = binomial_lower(np.arange(nb_samples + 1), nb_samples, level)
    return (sigma * _DOWN * np.maximum(normal_quantile(np.maximum(lower, 0.5)), 0.0))[counts]


def expected_overlaps(
    chosen: np.ndarray, counts: np.ndarray, *, nb_samples: int, tau: float, alpha: float
) -> np.ndarray:
    """Lower limits of the expected share of the chosen set that is in a noisy top set nearby.

    Parameters
    ----------
    chosen
        (N, d) bool: the set, chosen without looking at the samples that were counted.
    counts
        (N, d) int: samples that gave the answer of each pixel; those with the pixel in the top set
        where it was chosen.
    nb_samples, tau
        Number of samples; the radius is sigma Phi^-1(tau).
    alpha
        Level of each of the N limits.

    Returns
    -------
    numpy.ndarray
        (N,) float64: Phi(Phi^-1(m) - Phi^-1(tau)), m the lower limit of the mean share at the
        input. 1 where nothing was chosen.

    Notes
    -----
    The share s(z) of the set in the top set at z is a number in [0, 1]. For the normal density of
    deviation sigma, Phi^-1 of E s(x + noise) changes by at most the distance over sigma (Levine et
    al. 2019; Salman et al. 2019, Lemma 2).
    """
    sizes = chosen.sum(axis=1)
    hits = np.where(chosen, counts, 0).sum(axis=1)
    mean = np.minimum(hits / np.maximum(sizes * nb_samples, 1), 1.0)
    lower = mean_lower(mean * _DOWN, nb_samples, alpha)
    shares = normal_cdf(normal_quantile(lower) - normal_quantile(tau) / _DOWN) * _DOWN
    return np.where(sizes > 0, shares, 1.0)


def least_samples(nb_pixels: int, *, tau: float, alpha: float, correction: str) -> int:
    """With how many samples a map of `nb_pixels` pixels may be certified at all."""
    shared = float(nb_pixels)
    if correction == "benjamini-yekutieli":
        shared = math.fsum(1 / rank for rank in range(1, nb_pixels + 1))
    return math.ceil(math.log(alpha / shared) / math.log(tau))


@dataclass(frozen=True, repr=False)
class SmoothedCertificate(Certificate):
    """Pixels that stay in, or out of, the top set of a smoothed map (SmoothedAttribution).

    The *share* of a pixel at a point z is the probability that the pixel is in the top set of the
    map of z + noise, the noise being normal, independent for all features, with deviation `sigma`.
    Its *majority answer* at z is "in" where the share is above 1/2, and else "out". The *majority
    top set* of z has all pixels whose answer is "in".

    Attributes
    ----------
    region
        N balls of the Euclidean radius `radius` around the inputs; no valid range cuts them.
    method, arithmetic
        "sampling" and "sampled".
    interval
        The share of pixels whose majority answer may change within the radius: `certified` (N,) is
        the share that is abstained from, an upper limit; `attacked` (N,) the share of pixels that
        an attack flipped, None without one.
    certified_in, certified_out
        (N, *map) bool: the majority answer is "in" ("out") at every point of the ball. All others
        are abstained from.
    chosen
        (N, *map) bool: the answer that was put to the test, from samples of its own.
    counts
        (N, *map) int: how many of `nb_samples` noisy maps gave that answer.
    radii
        (N, *map) float64: the answer of each pixel is the majority's at every point closer to the
        input than this; 0 where nothing is known.
    expected_overlap
        (N,) float64: at every point of the ball, the expected share of the chosen set (the pixels
        that are chosen as "in") that is in the top set of a noisy map is at least this. 1 where
        nothing was chosen.
    targets
        (N, K): weights of the outputs that are explained, the same for all points and samples.
    clip
        (2,) or (2, *input): what noisy points are cut to before they are explained; None: nothing.
    flipped
        (N, *map) bool: pixels whose majority answer is another one at a point of the ball that an
        attack found; None without an attack. An abstained pixel is among them by tests of its own
        at the level 0.05, at the input and, with fresh samples, at the point: an estimate, since of
        many pixels some pass by chance. A certified one is by a test of all pixels at the level of
        the image, and then one of the errors that the level allows for.
    sigma, tau, alpha, top, nb_samples, nb_choosing, correction, nb_inputs, seed
        As for `SmoothedAttribution`; `nb_inputs` is a number.

    Guarantee
    ---------
    *What is random* is the noise alone, drawn anew for each input, and independent of everything
    else; the inputs, the model, the explainer, the targets and all settings are fixed before any
    noise is looked at. Pseudo-random numbers stand for random ones. Level: a = `alpha` /
    `nb_inputs`, of each image. Each of these holds on its own:

    - Decisions: with a probability of at least 1 - a, *all* that is in `certified_in` and
      `certified_out` of an image is true, for every point x' with ``|| x' - x ||_2 <= radius`` at
      once. So does `overlap`, which follows from it. With ``correction="benjamini-yekutieli"`` less
      is said: the expected share of wrong ones among the certified pixels is at most a, and
      `overlap` is 0, which says nothing.
    - Radii: with a probability of at least 1 - a, all `radii` of an image are true at once.
    - Expected overlap: with a probability of at least 1 - a, that of an image is true.

    Over images: at a = `alpha` (``nb_inputs=1``) at most the share `alpha` of many images is
    expected to have a wrong decision; with ``nb_inputs`` images, all their decisions are true with
    a probability of at least 1 - `alpha`.

    *Abstention* says nothing: neither that the answer changes, nor that it is close.

    *Units*: noise and radius are those of the inputs as the model takes them, before any layer of
    it that scales them.

    No guarantee
    ------------
    Nothing is said of the map of the input itself, without noise, nor of the top set of a single
    noisy map, nor of the prediction. Proofs are of real arithmetic and of normal noise: what
    float32 rounds of points and noise is not covered.

    Sources: Anani et al., Pixel-level Certified Explanations via Randomized Smoothing, ICML 2025;
    Cohen, Rosenfeld, Kolter, Certified Adversarial Robustness via Randomized Smoothing, ICML 2019;
    of the expected overlap: Levine, Singla, Feizi, Certifiably Robust Interpretation in Deep
    Learning, 2019; Salman et al., Provably Robust Deep Learning via Adversarially Trained Smoothed
    Classifiers, NeurIPS 2019.
    """

    _rows: ClassVar[dict[str, Form]] = {
        "certified_in": Form(BOOLEANS, ("...",)),
        "certified_out": Form(BOOLEANS, ("...",)),
        "chosen": Form(BOOLEANS, ("...",)),
        "counts": Form(INTEGERS, ("...",)),
        "radii": Form(FLOATS, ("...",)),
        "expected_overlap": Form(FLOATS),
        "targets": Form(FLOATS, ("...",)),
        "flipped": Form(BOOLEANS, ("...",), optional=True),
    }
    _shared: ClassVar[dict[str, Form]] = {
        "clip": Form(FLOATS, ("...",), "infinite", optional=True),
    }
    _words: ClassVar[dict[str, Any]] = {
        **{"sigma": (int, float), "tau": (int, float), "alpha": (int, float), "top": (int, float)},
        **{"nb_samples": int, "nb_choosing": int, "correction": str, "nb_inputs": int},
        "seed": int,
    }
    _other_settings: ClassVar[frozenset[str]] = frozenset({"clip"})

    certified_in: np.ndarray
    certified_out: np.ndarray
    chosen: np.ndarray
    counts: np.ndarray
    radii: np.ndarray
    expected_overlap: np.ndarray
    targets: np.ndarray
    sigma: float
    tau: float
    alpha: float
    top: float
    nb_samples: int
    nb_choosing: int
    correction: str
    nb_inputs: int
    seed: int
    clip: np.ndarray | None = None
    flipped: np.ndarray | None = None

    @property
    def abstained(self) -> np.ndarray:
        """(N, *map) bool: pixels of which nothing is said."""
        return ~(self.certified_in | self.certified_out)

    @property
    def radius(self) -> float:
        """sigma Phi^-1(tau), rounded down: Euclidean, in units of the inputs."""
        return float(self.sigma * _DOWN * normal_quantile(self.tau))

    @property
    def level(self) -> float:
        """alpha / nb_inputs: the level of each image."""
        return self.alpha / self.nb_inputs

    @property
    def confidence(self) -> float:
        """1 - alpha: of each image with ``nb_inputs=1``, else of `nb_inputs` images together.

        Of decisions not with ``correction="benjamini-yekutieli"``, whose level is a false discovery
        rate.
        """
        return 1.0 - self.alpha

    def describe_level(self) -> str:
        """How surely the decisions hold, in words."""
        if self.correction == "benjamini-yekutieli":
            return f"false discovery rate {self.level:g} of each input"
        inputs = "each input" if self.nb_inputs == 1 else f"{self.nb_inputs:,} inputs together"
        return f"confidence {self.confidence:g} of {inputs}"

    @property
    def overlap(self) -> np.ndarray:
        """(N,): least intersection over union of the majority top sets of the input and of a point.

        For every point of the ball: certified_in pixels are in both, certified_out ones in none. 0,
        which says nothing, with ``correction="benjamini-yekutieli"``.
        """
        pixels = tuple(range(1, self.chosen.ndim))
        certified_in, certified_out = (
            flags.sum(axis=pixels) for flags in (self.certified_in, self.certified_out)
        )
        most = math.prod(self.chosen.shape[1:]) - certified_out
        least = np.where(most > 0, certified_in / np.maximum(most, 1), 1.0)
        return least * (self.correction != "benjamini-yekutieli")

    @property
    def votes(self) -> np.ndarray:
        """(N, *map) float64: the share of the noisy maps with the pixel in the top set."""
        return np.where(self.chosen, self.counts, self.nb_samples - self.counts) / self.nb_samples

    @property
    def vacuous(self) -> np.ndarray:
        """(N,) bool: where no pixel is certified."""
        return self.certified == 1

    def describe_vacuous(self) -> str:
        """That nothing is certified of any input, in words, with why where that is known."""
        if not self.vacuous.all() or not len(self):
            return ""
        least = least_samples(
            self.chosen[0].size, tau=self.tau, alpha=self.level, correction=self.correction
        )
        why = ""
        if self.nb_samples < least:
            why = (
                f", since samples that all agree would not be enough: nb_samples must be at least "
                f"{least} (received: {self.nb_samples})"
            )
        return (
            f"no pixel of {len(self)} inputs is certified within the radius {self.radius:.3g}{why}"
        )

    def check(self) -> None:
        """Refuse parts that contradict each other, see `Certificate`."""
        super().check()
        shape = self.chosen.shape
        for name in ("certified_in", "certified_out", "counts", "radii", "flipped"):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(
                    f"{name} must have the shape of chosen, {shape}. Received: {array.shape}"
                )
        refuse_inputs(self.certified_in & ~self.chosen, "certified_in has what was not chosen")
        refuse_inputs(self.certified_out & self.chosen, "certified_out has what was chosen")
        refuse_inputs(
            (self.counts < 0) | (self.counts > self.nb_samples), "counts are not of the samples"
        )
        chosen, counts = (a.reshape(len(a), -1) for a in (self.chosen, self.counts))
        settings: dict[str, Any] = {"nb_samples": self.nb_samples, "alpha": self.level}
        certified = decide_pixels(counts, tau=self.tau, correction=self.correction, **settings)
        differ = certified.reshape(shape) == self.abstained
        refuse_inputs(differ, "certified pixels are not those of the counts")
        radii = pixel_radii(counts, sigma=self.sigma, **settings).reshape(shape)
        refuse_inputs(~np.isclose(self.radii, radii), "radii are not those of the counts")
        shares = expected_overlaps(chosen, counts, tau=self.tau, **settings)
        differ = ~np.isclose(self.expected_overlap, shares)
        refuse_inputs(differ, "expected_overlap is not that of the counts")
        differ = ~np.isclose(self.certified, self.abstained.reshape(len(self), -1).mean(axis=1))
        refuse_inputs(differ, "certified is not the share that is abstained from")
        epsilon = self.region.epsilon
        if epsilon is None or self.region.norm != 2 or self.region.clip is not None:
            raise ValueError(f"region must be Euclidean balls, uncut. Received: {self.region}")
        refuse_inputs(
            np.broadcast_to(epsilon > self.radius, self.region.center.shape),
            "the radius of the regions is larger than sigma and tau give",
        )

    def __repr__(self) -> str:
        known = (self.certified_in, self.certified_out)
        inside, outside = (flags.sum() / max(flags.size, 1) for flags in known)
        attacked = ""
        if self.attacked is not None:
            attacked = f", an attack flipped {self.attacked.sum() / max(len(self), 1):.1%}"
        return (
            f"<SmoothedCertificate: of {len(self)} maps {inside + outside:.1%} of the pixels "
            f"certified ({inside:.1%} in the top {self.top:.0%}, {outside:.1%} out of it)"
            f"{attacked}, on {self.region}; noise {self.sigma:g}, overlap at least "
            f"{np.median(self.overlap) if len(self) else 1:.3g} (median); {self.describe_level()}, "
            f"{self.nb_samples} samples>"
        )
