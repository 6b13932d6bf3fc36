"""Certificates of the direction of a smoothed map, and the bounds that they rest on.

Let g give maps of a length |g| of at most 1, and let h(x) = E g(x + noise). The noise around x'
differs from that around x in the share q of its mass, the distance of both in total variation. What
both share gives (1 - q) a, what they do not gives q b and q b', with a, b and b' means of maps and
so no longer than 1:

    h(x) = (1 - q) a + q b,    h(x') = (1 - q) a + q b'.

**Uniform noise** in a ball: q is the part of the ball that a ball around x' does not hold, and
a, b, b' can be any three vectors no longer than 1. So the bound here is the largest angle between
the two sums, given the length t of h(x): of maps with two entries or more no better one exists that
knows q and t alone. With u = (1 - q) a, so that |u| <= 1 - q and |u - h(x)| <= q, h(x') is anywhere
in the ball of radius q around u. An angle alpha is reached if and only if w.u >= -q for one such u,
w being the unit vector at the angle alpha + 90 degrees from h(x) in the plane of both:

- for t <= 2 q every angle is: nothing follows, h(x') may be 0 or point the other way;
- the largest w.u in the ball around h(x) is q - t sin(alpha), so that the sine is at most 2 q / t,
  with equality if |u|^2 = t^2 - 3 q^2 is allowed, that is for t^2 <= 1 - 2 q + 4 q^2;
- else the largest w.u is at a u with |u| = 1 - q and |u - h(x)| = q, at the angle theta from h(x),
  and alpha is at most theta + arcsin(q / (1 - q)).

**Normal noise** of the standard deviation sigma: the sine is at most s / t for each of two s.
With D = |x' - x| / sigma and the likelihood ratio L of the two noises:

- s = 2 Phi(D) - 1: of a function with values in [-1, 1] whose mean is -s at x, the mean at x' is at
  most 0 (Neyman and Pearson, as of smoothed classifiers). Take w.g for each unit vector w that is
  seen from h(x) under an angle whose cosine is -s / t: h(x') is in all of these half-spaces;
- s = sqrt((exp(D^2) - 1) (1 - t^2)): h(x') - h(x) = E (L - 1) (g - h(x)), by Cauchy and Schwarz,
  with E (L - 1)^2 = exp(D^2) - 1 and E |g - h(x)|^2 <= 1 - t^2.

All of these fall with the length t, so that a lower limit of it may take its place, and grow with
the distance, so that they hold for all x' that are nearer.

Sources: Wang and Kong, Certified l2 Attribution Robustness via Uniformly Smoothed Attributions,
2024 (the idea; see `cosine_of_paper` for its formula); Cohen, Rosenfeld and Kolter, Certified
Adversarial Robustness via Randomized Smoothing, 2019; Levine, Singla and Feizi, Certifiably Robust
Interpretation in Deep Learning, 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xcertify.certificates.base import Certificate
from xcertify.certificates.forms import FLOATS, Form, refuse_inputs
from xcertify.regions import describe_span
from xcertify.statistics import lower_by_bets, normal_cdf, shared_volume

__all__ = [
    "NOISES",
    "CosineCertificate",
    "Noise",
    "cosine_of_paper",
    "cosine_within",
    "largest_epsilon",
    "length_limit",
]

NOISES = ("uniform", "gaussian")

_OUTWARD = 1e-9  # what shares are rounded up by: far more than their error
_FARTHEST = 8.0  # standard deviations, beyond which nothing is certified of normal noise
_NB_HALVINGS = 60


@dataclass(frozen=True)
class Noise:
    """Noise that is added to inputs.

    Attributes
    ----------
    radius
        Of the ball that uniform noise fills. Normal noise has the same variance in each feature.
    dimension
        Number of features d.
    kind
        A name of `NOISES`.
    """

    radius: float
    dimension: int
    kind: str = "uniform"

    @property
    def deviation(self) -> float:
        """Standard deviation of each feature: radius / sqrt(d + 2), of either kind."""
        return float(self.radius / np.sqrt(self.dimension + 2))

    @property
    def farthest(self) -> float:
        """The distance from which on nothing is certified, whatever the map."""
        is_uniform = self.kind == "uniform"
        return 2 * self.radius if is_uniform else _FARTHEST * self.deviation

    def unshared(self, epsilon: Any) -> np.ndarray:
        """q: the mass that the noises of two points do not share, rounded up.

        Their distance in total variation, `epsilon` being that of the points, at least 0.
        """
        epsilon = np.asarray(epsilon, np.float64)
        if self.kind == "uniform":
            share = 1 - shared_volume(epsilon, self.radius, self.dimension)
        else:
            share = 2 * normal_cdf(epsilon / (2 * self.deviation)) - 1
        return np.minimum(share * (1 + _OUTWARD) + _OUTWARD, 1.0)


def cosine_within(length: Any, epsilon: Any, noise: Noise) -> np.ndarray:
    """Lower bound of the cosine between h(x) and h(x') for all x' within `epsilon`.

    Parameters
    ----------
    length
        Of h(x), or a lower limit of it, from 0 to 1; of maps that are no longer than 1.
    epsilon
        Largest l2 distance of x' and x, at least 0.
    noise
        That smooths the maps.

    Returns
    -------
    numpy.ndarray
        float64, rounded down: above 0 where anything follows, else -1. Where it is above 0, h(x')
        is not zero. See the file for the derivation.
    """
    length, epsilon = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (length, epsilon)))
    some = np.where(length > 0, length, 1.0)
    if noise.kind == "uniform":
        angle = _angle_of_uniform(some, noise.unshared(epsilon))
    else:
        angle = _angle_of_normal(some, epsilon / noise.deviation)
    cosine = np.cos(angle) - _OUTWARD
    return np.where((length > 0) & (cosine > 0), cosine, -1.0)


def largest_epsilon(length: Any, threshold: Any, noise: Noise) -> np.ndarray:
    """The largest distance for which `cosine_within` is at least a threshold, rounded down.

    Parameters
    ----------
    length, noise
        As for `cosine_within`.
    threshold
        Of the cosine, above 0 and below 1.

    Raises
    ------
    ValueError
        For another threshold.
    """
    threshold = np.asarray(threshold, np.float64)
    if not np.all((threshold > 0) & (threshold < 1)):
        raise ValueError(
            f"threshold must be a cosine above 0 and below 1. Received: {threshold.tolist()!r}"
        )
    length, threshold = np.broadcast_arrays(np.asarray(length, np.float64), threshold)
    low, high = np.zeros(length.shape), np.full(length.shape, noise.farthest)
    for _ in range(_NB_HALVINGS):
        middle = (low + high) / 2
        holds = cosine_within(length, middle, noise) >= threshold
        low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    return low


def cosine_of_paper(length: Any, epsilon: Any, noise: Noise) -> np.ndarray:
    """T of Wang and Kong, 2024: t / sqrt(t^2 + (V_U / V_S)^2), an estimate.

    V_S is the volume of the ball of the noise and V_U, as it is read here, that of the points that
    are in one of the balls around x and x' only, so that V_U / V_S = 2 q.

    Parameters
    ----------
    length, epsilon, noise
        As for `cosine_within`.

    No guarantee
    ------------
    It is the cosine of a change of h(x) by 2 q *at a right angle to h(x)*. The worst change of that
    size is at a right angle to h(x'), and the cosine is then sqrt(1 - (2 q / t)^2), which is
    smaller. There are maps and points that fall below the paper's number, whether V_U is read as
    above, as the volume of one of both parts or as that of the union of the balls.
    """
    length = np.asarray(length, np.float64)
    return length / np.hypot(length, 2 * noise.unshared(epsilon))


def length_limit(projections: Any, alpha: float) -> np.ndarray:
    """Lower limit of the length of E g, from n independent draws of w.g.

    For a vector w of length 1 (at most) that was fixed before, |E g| >= E w.g, and for maps no
    longer than 1, (1 + w.g) / 2 is from 0 to 1: its expectation is bounded by bets, see
    `xcertify.statistics.lower_by_bets`.

    Parameters
    ----------
    projections
        (..., n), each from -1 to 1.
    alpha
        Probability that a limit is too large, one-sided.

    Returns
    -------
    numpy.ndarray
        (...): from 0 to 1, rounded down.
    """
    draws = np.clip((np.asarray(projections, np.float64) + 1) / 2, 0.0, 1.0)
    return 2 * lower_by_bets(draws, alpha, least=0.5) - 1  # no length is below 0


def _angle_of_uniform(length: np.ndarray, unshared: np.ndarray) -> np.ndarray:
    """Largest angle for lengths t in (0, 1] and shares q; pi where there is no bound."""
    t, q = np.minimum(length, 1.0), unshared
    bounded = 2 * q < t  # and so q < 1/2
    q = np.where(bounded, q, 0.25)
    sine = np.minimum(2 * q / t, 1.0)
    # cos(theta) = (t^2 + 1 - 2 q) / (2 t (1 - q)), as the sine of theta / 2
    half = np.sqrt(np.clip((1 - t) * (2 * q - 1 + t) / (4 * t * (1 - q)), 0.0, 1.0))
    beyond = 2 * np.arcsin(half) + np.arcsin(q / (1 - q))
    angle = np.where(t**2 <= 1 - 2 * q + 4 * q**2, np.arcsin(sine), beyond)
    return np.where(bounded, angle, np.pi)


def _angle_of_normal(length: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Largest angle for lengths t in (0, 1] and distances in standard deviations; or pi."""
    t, d = np.minimum(length, 1.0), np.minimum(distance, _FARTHEST)
    change = np.minimum(2 * normal_cdf(d) - 1, np.sqrt(np.expm1(d**2)) * np.sqrt((1 - t) * (1 + t)))
    sine = (change * (1 + _OUTWARD) + _OUTWARD) / t
    bounded = (sine < 1) & (distance < _FARTHEST)
    return np.where(bounded, np.arcsin(np.minimum(sine, 1.0)), np.pi)


@dataclass(frozen=True, repr=False)
class CosineCertificate(Certificate):
    """How far perturbations can turn a smoothed map (UniformlySmoothedAttribution).

    The smoothed map h(x) is the expectation of g(x + noise), g being the map of the explainer
    scaled to length 1 (a map of zeros stays as it is).

    Attributes
    ----------
    interval
        The largest cosine distance, 1 - cosine, between h(x) and h(x') for x' within epsilon:
        `certified` (N,), that it is no larger, 2 where nothing is certified; `attacked` (N,), the
        largest that an attack found, estimated from samples of its own, so that it is off by what
        these vary and in no way certified.
    explanation
        (N, *map) float32: the mean of g over the `nb_samples` samples, an estimate of h(x).
    projections
        (N, nb_samples): w.g of each sample, w being the direction of the mean of g over
        `nb_choosing` other samples.
    targets
        (N, K): weights of the logits that are explained.
    noise
        A name of `NOISES`.
    noise_radius
        See `Noise`, in units of the inputs as the model takes them.
    threshold
        Of the cosine, for `radii`.
    alpha, nb_inputs
        The level, and the number of inputs that share it; 1: each has it for itself.
    nb_samples, nb_choosing
        Numbers of samples, see `projections`.
    seed
        Of the samples.
    clip
        (2,) or (2, *input): what noisy points are cut to before they are explained; None: nothing.

    Guarantee
    ---------
    *What is random* is the noise alone, drawn anew for each input, and of an explainer that draws
    at random itself its draws, too: g is then what it gives on average. The inputs, the targets,
    all settings, the model and the explainer are fixed before any noise is looked at. Pseudo-random
    numbers stand for random ones. Level: a = `alpha` / `nb_inputs`, of each input.

    With a probability of at least 1 - a, `length` is at most |h(x)|. It is the only thing that is
    estimated, so that all of this is then true at once:

    - for every x' with ``|| x' - x ||_2 <= epsilon``, inside or outside of the valid range, the
      cosine between h(x') and h(x) is at least `cosine`, where that is above 0;
    - `cosine_within` for every epsilon, and `radius_for` (with `radii`) for every threshold.

    Over inputs: at a = `alpha` (``nb_inputs=1``) at most the share `alpha` of many inputs is
    expected to have anything wrong; with ``nb_inputs`` inputs, all of it is true of all of them
    with a probability of at least 1 - `alpha`, whatever they have to do with each other.

    A cosine of -1 and a radius of 0 say nothing: neither that the map turns, nor that it may.

    *Units*: `epsilon`, `radii` and noise are in those of the inputs as the model takes them, before
    any layer of it that scales them.

    No guarantee
    ------------
    Nothing is said of the explainer's own map, of the mean over finitely many samples, or of the
    size of h: only of the direction of the expectation. `cosine_estimate`, `explanation` and
    `interval.attacked` are estimates. Proofs are of real arithmetic and of uniform or normal noise:
    what float32 rounds of points and noise is not covered.

    Sources: see `xcertify.certificates.cosines`, where the bounds are derived.
    """

    _rows: ClassVar[dict[str, Form]] = {
        "explanation": Form(FLOATS, ("...",)),
        "projections": Form(FLOATS, ("samples",)),
        "targets": Form(FLOATS, ("...",)),
    }
    _shared: ClassVar[dict[str, Form]] = {
        "clip": Form(FLOATS, ("...",), "infinite", optional=True),
    }
    _words: ClassVar[dict[str, Any]] = {
        **{"noise": str, "noise_radius": (int, float), "threshold": (int, float)},
        **{"alpha": (int, float), "nb_inputs": int, "nb_samples": int, "nb_choosing": int},
        **{"seed": int},
    }
    _other_settings: ClassVar[frozenset[str]] = frozenset({"clip"})

    explanation: np.ndarray
    projections: np.ndarray
    targets: np.ndarray
    noise: str
    noise_radius: float
    threshold: float
    alpha: float
    nb_inputs: int
    nb_samples: int
    nb_choosing: int
    seed: int
    clip: np.ndarray | None = None

    @property
    def epsilon(self) -> np.ndarray:
        """(N,): the l2 radii of the regions."""
        epsilon = np.broadcast_to(np.asarray(self.region.epsilon), self.region.center.shape)
        return epsilon.reshape(len(self), -1)[:, 0].astype(np.float64)

    @property
    def level(self) -> float:
        """alpha / nb_inputs: the level of each input."""
        return self.alpha / self.nb_inputs

    @property
    def confidence(self) -> float:
        """1 - alpha: of each input with ``nb_inputs=1``, else of `nb_inputs` inputs together."""
        return 1.0 - self.alpha

    def describe_level(self) -> str:
        """How surely all that is certified holds, in words."""
        inputs = "each input" if self.nb_inputs == 1 else f"{self.nb_inputs:,} inputs together"
        return f"confidence {self.confidence:g} of {inputs}"

    @property
    def projection(self) -> np.ndarray:
        """(N,): the mean of `projections`, an estimate of |h(x)| that is too small on average."""
        return self.projections.mean(axis=1)

    @property
    def length(self) -> np.ndarray:
        """(N,): the lower limit of |h(x)| that everything rests on, from 0 to 1."""
        return length_limit(self.projections, self.level)

    @property
    def cosine(self) -> np.ndarray:
        """(N,): lower bound of the cosine within epsilon; -1 where nothing is certified."""
        return 1 - self.certified

    @property
    def radii(self) -> np.ndarray:
        """(N,): the l2 radius within which the cosine is at least `threshold`; 0 for none."""
        return self.radius_for(self.threshold)

    @property
    def cosine_estimate(self) -> np.ndarray:
        """(N,): the number of the paper within epsilon, which is no bound: `cosine_of_paper`."""
        return cosine_of_paper(self.length, self.epsilon, self._noise)

    def cosine_within(self, epsilon: Any) -> np.ndarray:
        """Lower bound of the cosine within another l2 distance; -1 where nothing is certified.

        Parameters
        ----------
        epsilon
            A number, or one for each input (N,).
        """
        return cosine_within(self.length, epsilon, self._noise)

    def radius_for(self, threshold: Any) -> np.ndarray:
        """(N,): the l2 radius within which the cosine is at least a threshold; 0 for none.

        Parameters
        ----------
        threshold
            Above 0 and below 1, a number or one for each input (N,).
        """
        return largest_epsilon(self.length, threshold, self._noise)

    @property
    def vacuous(self) -> np.ndarray:
        """(N,) bool: where nothing is certified."""
        return self.certified >= 2

    def describe_vacuous(self) -> str:
        """Where nothing is certified of any input, why, in words; else ""."""
        if not len(self) or not self.vacuous.all():
            return ""
        return (
            f"nothing is certified of the direction of {len(self)} smoothed maps: within "
            f"{describe_span(self.epsilon)} the noise of two points shares too little of its "
            f"mass for lengths of at most {self.length.max():.3g} (the radius grows with "
            f"noise_radius / sqrt(d), of d = {self._noise.dimension} features, and the length with "
            f"nb_samples)"
        )

    def check(self) -> None:
        """Refuse parts that contradict each other, see `Certificate`."""
        super().check()
        if self.noise not in NOISES:
            raise ValueError(f"noise must be one of {NOISES}. Received: {self.noise!r}")
        limits = {"alpha": 1.0, "threshold": 1.0, "noise_radius": np.inf}
        for name, most in limits.items():
            if not 0 < getattr(self, name) < most:
                raise ValueError(
                    f"{name} must be above 0 and below {most:g}. Received: {getattr(self, name)!r}"
                )
        for name in ("nb_inputs", "nb_samples", "nb_choosing"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1. Received: {getattr(self, name)!r}")
        region = self.region
        if region.epsilon is None or region.norm != 2 or region.clip is not None:
            raise ValueError(f"region must be Euclidean balls, uncut. Received: {region}")
        if self.projections.shape[1] != self.nb_samples:
            raise ValueError(
                f"projections must be of {self.nb_samples} samples. "
                f"Received: {self.projections.shape[1]}"
            )
        refuse_inputs(~(np.abs(self.projections) <= 1), "projections are not from -1 to 1")
        too_small = self.certified < 1 - self.cosine_within(self.epsilon) - _OUTWARD
        refuse_inputs(too_small, "more is certified than follows from projections")

    @property
    def _noise(self) -> Noise:
        return Noise(self.noise_radius, int(np.prod(self.region.shape)), self.noise)

    def __repr__(self) -> str:
        attacked = "not attacked"
        if self.attacked is not None:
            attacked = f"attacked {1 - np.median(self.attacked):.4g}"
        return (
            f"<CosineCertificate: {len(self)} smoothed maps keep a cosine of "
            f"{np.median(self.cosine):.4g} on {self.region}, {attacked}; of {self.threshold:g} up "
            f"to {np.median(self.radii):.4g} (medians); {self.noise} noise of radius "
            f"{self.noise_radius:g}; {self.describe_level()}, "
            f"{self.nb_samples} samples>"
        )
