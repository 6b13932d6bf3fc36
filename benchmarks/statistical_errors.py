"""How often certificates from samples are wrong, by simulations whose truth is known.

Each row repeats one kind of claim many times, with new noise each time, on something of which all
probabilities are known, and counts the runs in which anything claimed is wrong. The share of wrong
runs must not be above the stated level. It is printed with the limits of Clopper and Pearson (at
99.99 % together), and with its exact value where there is a formula. Truth is where it is hardest:
shares just below the one that is tested, and numbers of samples for which the steps of binomial
tests cost least.

What is explained are `Votes`: maps of which an entry is in the top set where a linear function of
the noisy input is above 0. So its share is a normal probability, no certified radius can be larger
than the true one, and the entries depend on each other as much as is wanted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import comb, sqrt
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attributions import SmoothedAttribution, UniformlySmoothedAttribution
from xcertify.certificates.cosines import Noise, length_limit
from xcertify.certificates.smoothed import decide_pixels, expected_overlaps, pixel_radii
from xcertify.metrics import ProbableSize, Stability
from xcertify.statistics import (
    CORRECTIONS,
    binomial_interval,
    binomial_tail,
    mean_lower,
    normal_cdf,
    normal_quantile,
    vector_mean_error,
)
from xcertify.usefulness import VacuousWarning

TAU, SIGMA, NB_PIXELS, NB_CHOOSING, NB_IMAGES = 0.75, 0.25, 20, 25, 20
LEVELS = (0.05, 0.001)
DEPENDENCES = {"independent": 0.0, "correlated .5": 0.5, "identical": 1.0}
SURE = 1e-4  # level of the limits of a share of wrong runs

Decide = Callable[..., np.ndarray]
Row = dict[str, Any]


def run(quick: bool) -> Iterator[Row]:
    """All rows; 10 000 runs of the explainer and the metrics, 100 000 of decisions of counts."""
    nb_runs, nb_decided = (500, 2000) if quick else (10_000, 100_000)
    for alpha in LEVELS:
        for name in DEPENDENCES:
            yield of_explainer(name, nb_runs, alpha)
        for name in DEPENDENCES:
            yield from of_decisions(name, nb_decided, alpha)
            yield of_radii(name, nb_decided, alpha)
        for name in ("independent", "identical"):
            yield of_images(name, nb_decided // 10, alpha)
        yield of_expected_overlap(nb_decided, alpha)
        yield of_vectors(nb_decided // 10, alpha)
        yield from of_lengths(nb_runs, alpha)
        yield from of_stability(nb_runs, alpha)
        yield from of_probable_sizes(nb_runs, alpha)


def tables(rows: list[Row]) -> str:
    """Markdown: a row for each kind of claim, and whether its level is kept."""
    head = "| claim | truth | level | runs | wrong | share, and its limits | exact | kept |"
    lines = [head, "| --- | --- | ---: | ---: | ---: | --- | ---: | --- |"]
    for row in rows:
        exact = "" if row["exact"] is None else f"{row['exact']:.3g}"
        wrong = row["wrong"] if isinstance(row["wrong"], int) else f"{row['wrong']:.4g}"
        lines.append(
            f"| {row['claim']} | {row['truth']} | {row['level']:g} | {row['runs']} | {wrong} | "
            f"{row['share']:.3g} ({row['low']:.3g} to {row['high']:.3g}) | {exact} | "
            f"{'yes' if row['kept'] else '**no**'} |"
        )
    return "\n".join(lines)


def row_of(
    claim: str, truth: str, level: float, wrong: np.ndarray, exact: float | None = None
) -> Row:
    """A row of runs (R,) that are wrong, or wrong by a share."""
    total, runs = float(wrong.sum()), len(wrong)
    if wrong.dtype == bool:
        low, high = (float(limit) for limit in binomial_interval(total, runs, SURE))
    else:
        low, high = (
            float(mean_lower(total / runs, runs, SURE / 2)),
            1 - float(mean_lower(1 - total / runs, runs, SURE / 2)),
        )
    return {
        "claim": claim,
        "truth": truth,
        "level": level,
        "runs": runs,
        "wrong": int(total) if wrong.dtype == bool else total,
        "share": total / runs,
        "low": low,
        "high": high,
        "exact": exact,
        "kept": low <= level,
    }


@dataclass(frozen=True)
class Votes:
    """Maps of m entries with known shares, and one that is never in the top set.

    Entry i is in the top set of the map of x + sigma z where
    ``quantiles[i] + sqrt(rho) z_m + sqrt(1 - rho) z_i > 0``, at x = 0: a half space.
    """

    shares: np.ndarray
    rho: float

    @property
    def quantiles(self) -> np.ndarray:
        """By how many sigma the half spaces are away, (m,)."""
        return normal_quantile(self.shares)

    @property
    def all_shares(self) -> np.ndarray:
        """How likely each entry is in the top set, (m + 1,)."""
        return np.append(self.shares, 0.0)

    def inputs(self, nb_runs: int) -> np.ndarray:
        """(R, m + 2): zeros, and a last feature that nothing depends on but the noise drawn."""
        inputs = np.zeros((nb_runs, len(self.shares) + 2), np.float32)
        inputs[:, -1] = np.arange(nb_runs)
        return inputs

    def explain(self, points: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """1 for what is in the top set and else 0, (B, m + 1), of points (B, m + 2)."""
        return self.members(np.asarray(points, np.float64)[:, :-1] / SIGMA)

    def members(self, noise: np.ndarray) -> np.ndarray:
        """(..., m + 1) float64, of standard normal numbers (..., m + 1)."""
        own, common = noise[..., :-1], noise[..., -1:]
        above = self.quantiles + sqrt(self.rho) * common + sqrt(1 - self.rho) * own > 0
        return np.concatenate([above, np.zeros_like(common)], axis=-1)

    def counts(self, nb_runs: int, nb_samples: int, generator: np.random.Generator) -> np.ndarray:
        """In how many samples each entry is in the top set, (R, m + 1) int."""
        if self.rho == 0:
            return generator.binomial(nb_samples, self.all_shares, (nb_runs, len(self.all_shares)))
        if self.rho == 1:
            common = generator.standard_normal((nb_runs, nb_samples), np.float32)
            above = [(common > -q).sum(axis=1) for q in self.quantiles]
            return np.stack([*above, np.zeros(nb_runs, int)], axis=1)
        parts = []
        for start in range(0, nb_runs, 1000):
            shape = (min(1000, nb_runs - start), nb_samples, len(self.all_shares))
            parts.append(self.members(generator.standard_normal(shape, np.float32)).sum(axis=1))
        return np.concatenate(parts).astype(int)

    def voted(
        self, nb_runs: int, nb_samples: int, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Chosen answers, and samples that gave them, (R, m + 1) both."""
        chosen = self.counts(nb_runs, NB_CHOOSING, generator) > NB_CHOOSING / 2
        votes = self.counts(nb_runs, nb_samples, generator)
        return chosen, np.where(chosen, votes, nb_samples - votes)

    def wrong(self, certified_in: np.ndarray, certified_out: np.ndarray, tau: float) -> np.ndarray:
        """Claims of which the opposite is true at some point within the radius, (R, m + 1)."""
        shares = self.all_shares
        return (certified_in & (shares <= tau)) | (certified_out & (1 - shares <= tau))


def just_below(tau: float, nb_sure: int = 0) -> np.ndarray:
    """Shares (m,): of `nb_sure` entries far above `tau`, of all others less than it by 1e-6."""
    return np.where(np.arange(NB_PIXELS) < nb_sure, 0.98, tau - 1e-6)


def sharp_samples(level: float, tau: float = TAU) -> int:
    """The number of samples for which a test at `level` is wrong most often."""
    numbers = np.arange(100, 201)
    tails = binomial_tail(np.arange(201)[:, None], numbers, tau)
    return int(numbers[np.where(tails <= level, tails, 0).max(axis=0).argmax()])


def needed(level: float, nb_samples: int, tau: float = TAU) -> int:
    """The least count with which a test at `level` passes."""
    tails = binomial_tail(np.arange(nb_samples + 2), nb_samples, tau)
    return int(np.argmax(tails <= level))


def exactly(
    level: float,
    nb_samples: int,
    rho: float,
    *,
    tau: float = TAU,
    nb_choosing: int = NB_CHOOSING,
    nb_entries: int = NB_PIXELS,
) -> float | None:
    """How likely any of some entries of the share `tau` passes its test at `level`."""
    first, least = nb_choosing // 2 + 1, needed(level, nb_samples, tau)
    of_one = sum(
        float(binomial_tail(first, nb_choosing, share) * binomial_tail(least, nb_samples, share))
        for share in (tau, 1 - tau)  # chosen as "in" and as "out": of odd numbers
    )
    return {0.0: 1 - (1 - of_one) ** nb_entries, 1.0: of_one}.get(rho)


def of_explainer(
    name: str,
    nb_runs: int,
    alpha: float,
    *,
    tau: float = TAU,
    nb_samples: int | None = None,
    nb_choosing: int = NB_CHOOSING,
    correction: str = "holm",
) -> Row:
    """Decisions of `SmoothedAttribution` itself: each run is an input of its own."""
    votes = Votes(just_below(tau), DEPENDENCES[name])
    level = alpha / NB_PIXELS  # of Holm's first step after the sure entry
    nb_samples = sharp_samples(level, tau) if nb_samples is None else nb_samples
    nb_pixels = len(votes.all_shares)
    explainer = SmoothedAttribution(
        votes.explain,
        SIGMA,
        model=_model(nb_pixels + 1),
        nb_samples=nb_samples,
        nb_choosing=nb_choosing,
        top=NB_PIXELS / nb_pixels,  # all but the one that never is
        tau=tau,
        alpha=alpha,
        correction=correction,
        batch_size=2**15,
    )
    certificate = explainer.certify(votes.inputs(nb_runs), np.zeros(nb_runs, int))
    wrong = votes.wrong(certificate.certified_in, certificate.certified_out, tau).any(axis=1)
    exact = exactly(level, nb_samples, votes.rho, tau=tau, nb_choosing=nb_choosing)
    return row_of(
        f"pixels of an image, SmoothedAttribution, {correction}", name, alpha, wrong, exact
    )


def of_decisions(
    name: str, nb_runs: int, alpha: float, decide: Decide = decide_pixels
) -> Iterator[Row]:
    """Decisions of counts, by all corrections: nothing wrong in an image, or a share of errors."""
    for nb_sure in (0, NB_PIXELS // 2):
        votes = Votes(just_below(TAU, nb_sure), DEPENDENCES[name])
        nb_samples = sharp_samples(alpha / (NB_PIXELS - nb_sure))
        generator = np.random.default_rng(0)
        chosen, counts = votes.voted(nb_runs, nb_samples, generator)
        truth = f"{name}, {nb_sure} of {NB_PIXELS} clear"
        for correction in CORRECTIONS:
            certified = decide(
                counts, nb_samples=nb_samples, tau=TAU, alpha=alpha, correction=correction
            )
            wrong = votes.wrong(certified & chosen, certified & ~chosen, TAU)
            if correction == "benjamini-yekutieli":
                shares = wrong.sum(axis=1) / np.maximum(certified.sum(axis=1), 1)
                yield row_of(f"share of errors, {correction}", truth, alpha, shares)
                continue
            exact = None
            if correction == "bonferroni" or nb_sure == 0:
                shared_by = NB_PIXELS + (correction == "bonferroni")
                nb_entries = NB_PIXELS - nb_sure
                exact = exactly(alpha / shared_by, nb_samples, votes.rho, nb_entries=nb_entries)
            claim = f"pixels of an image, {correction}"
            yield row_of(claim, truth, alpha, wrong.any(axis=1), exact)


def of_images(name: str, nb_runs: int, alpha: float, nb_inputs: int = NB_IMAGES) -> Row:
    """All pixels of `NB_IMAGES` images together, which share the level."""
    votes, level = Votes(just_below(TAU), DEPENDENCES[name]), alpha / nb_inputs
    nb_samples = sharp_samples(level / NB_PIXELS)
    wrong = []
    generator = np.random.default_rng(1)
    for start in range(0, nb_runs, 500):
        runs = min(500, nb_runs - start)
        chosen, counts = votes.voted(runs * NB_IMAGES, nb_samples, generator)
        certified = decide_pixels(
            counts, nb_samples=nb_samples, tau=TAU, alpha=level, correction="holm"
        )
        found = votes.wrong(certified & chosen, certified & ~chosen, TAU)
        wrong.append(found.reshape(runs, -1).any(axis=1))
    of_one = exactly(level / NB_PIXELS, nb_samples, votes.rho)
    assert of_one is not None
    return row_of(
        f"pixels of {NB_IMAGES} images together, holm",
        name,
        alpha,
        np.concatenate(wrong),
        1 - (1 - of_one) ** NB_IMAGES,
    )


def of_radii(name: str, nb_runs: int, alpha: float, radii_of: Decide = pixel_radii) -> Row:
    """Radii of all pixels of an image, which are larger than the true ones."""
    votes = Votes(np.linspace(0.6, 0.9, NB_PIXELS), DEPENDENCES[name])
    nb_samples = 150
    chosen, counts = votes.voted(nb_runs, nb_samples, np.random.default_rng(2))
    radii = radii_of(counts, nb_samples=nb_samples, sigma=SIGMA, alpha=alpha)
    true = SIGMA * normal_quantile(votes.all_shares) * np.where(chosen, 1, -1)
    wrong = (radii > np.maximum(true, 0)).any(axis=1)
    return row_of("radii of all pixels of an image", name, alpha, wrong)


def of_expected_overlap(nb_runs: int, alpha: float, overlaps: Decide = expected_overlaps) -> Row:
    """The expected share of the chosen set nearby: of entries that all move together."""
    votes = Votes(np.full(NB_PIXELS, 0.9), 1.0)
    nb_samples = 150
    chosen, counts = votes.voted(nb_runs, nb_samples, np.random.default_rng(3))
    found = overlaps(chosen, counts, nb_samples=nb_samples, tau=TAU, alpha=alpha)
    true = float(normal_cdf(votes.quantiles[0] - normal_quantile(TAU)))
    wrong = (found > true) & chosen.any(axis=1)
    return row_of("expected overlap of an image", "identical", alpha, wrong)


def of_vectors(nb_runs: int, alpha: float, bound: Callable[..., Any] = vector_mean_error) -> Row:
    """The distance of a mean of unit vectors from its expectation, 0: signs along a line."""
    nb_samples = 50
    heads = np.random.default_rng(4).binomial(nb_samples, 0.5, nb_runs)
    far = np.abs(2 * heads / nb_samples - 1)
    return row_of("mean of vectors", "signs on a line", alpha, far > bound(nb_samples, 1.0, alpha))


def of_lengths(nb_runs: int, alpha: float) -> Iterator[Row]:
    """Limits of `UniformlySmoothedAttribution`, of maps that are -1 for a known share of points."""
    nb_samples, nb_features = 100, 3
    noise = Noise(1.0, nb_features, "gaussian")
    inputs = np.zeros((nb_runs, nb_features), np.float32)
    inputs[:, -1] = np.arange(nb_runs)
    for share in (0.75, 0.9):
        explainer = UniformlySmoothedAttribution(
            partial(_signs, far=normal_quantile(share) * noise.deviation),
            noise.radius,
            noise=noise.kind,
            model=_model(nb_features),
            nb_samples=nb_samples,
            nb_choosing=NB_CHOOSING,
            alpha=alpha,
            batch_size=2**15,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VacuousWarning)
            certificate = explainer.certify(inputs, np.zeros(nb_runs, int))
        true = 2 * share - 1
        k = np.arange(nb_samples + 1)
        limits = length_limit(np.where(k < k[:, None], 1.0, -1.0)[:, :-1], alpha)
        chosen = float(binomial_tail(NB_CHOOSING // 2 + 1, NB_CHOOSING, share))
        exact = chosen * float(binomial_tail(np.argmax(limits > true), nb_samples, share))
        exact *= bool((limits > true).any())
        truth = f"a share of {1 - share:.2g} opposite"
        wrong = certificate.length > true
        yield row_of("length, UniformlySmoothedAttribution", truth, alpha, wrong, exact)


def _signs(points: np.ndarray, targets: np.ndarray, far: float) -> np.ndarray:
    """Maps (B, 1) of 1 where a feature is above -far, else -1."""
    return np.where(np.asarray(points, np.float64)[:, :1] > -far, 1.0, -1.0)


def _model(nb_features: int) -> keras.Model:
    """Some model, at which functions that explain do not look."""
    inputs = keras.Input((nb_features,))
    return keras.Model(inputs, keras.layers.Dense(2)(inputs))


def of_stability(nb_runs: int, delta: float) -> Iterator[Row]:
    """Bars of `Stability`, of a model that counts which of the features are shown.

    The first 2 of 12 features are selected; the class stays unless 2 of the last 4 are shown.
    """
    nb_features, nb_selected, nb_bad, nb_allowed = 12, 2, 4, 1
    error, radii = 0.2, (4, 8)
    hidden = nb_features - nb_selected

    def logits(inputs: tf.Tensor) -> tf.Tensor:
        shown = tf.cast(inputs[:, -nb_bad:] > 0.5, tf.float32)
        lead = nb_allowed + 0.5 - tf.reduce_sum(shown, axis=1)
        return tf.stack([lead, tf.zeros_like(lead)], axis=1)

    def rate(radius: int) -> float:
        """Sets of at most `radius` of the hidden features with at most one bad one, over all."""
        kept = sum(
            comb(nb_bad, bad) * comb(hidden - nb_bad, size - bad)
            for size in range(radius + 1)
            for bad in range(min(nb_allowed, size) + 1)
        )
        return kept / sum(comb(hidden, size) for size in range(radius + 1))

    inputs = np.random.default_rng(5).uniform(0.6, 1.0, (nb_runs, nb_features)).astype(np.float32)
    masks = np.broadcast_to(np.arange(nb_features) < nb_selected, inputs.shape)
    true = np.array([rate(radius) for radius in radii])
    for together in ("each", "curve"):
        metric = Stability(
            logits,
            inputs,
            batch_size=2**15,
            radius=radii[-1],
            steps=2,
            error=error,
            delta=delta,
            together=together,
        )
        found = metric.detailed_evaluate(masks)
        assert tuple(found.axis) == radii
        outside = (true < found.lower) | (true > found.upper)
        wrong = outside[:, -1] if together == "each" else outside.any(axis=1)
        exact = None
        if together == "each":
            exact = missed(true[-1], found.nb_samples, delta)
        yield row_of(f"Stability, together={together!r}", "known rate", delta, wrong, exact)


def missed(share: float, nb_samples: int, delta: float) -> float:
    """How likely the two-sided limits of a binomial share do not contain it."""
    k = np.arange(nb_samples + 1)
    lower, upper = binomial_interval(k, nb_samples, delta)
    tails = binomial_tail(np.arange(nb_samples + 2), nb_samples, share)
    return float(-np.diff(tails)[(share < lower) | (share > upper)].sum())


def of_probable_sizes(nb_runs: int, delta: float) -> Iterator[Row]:
    """Claims of `ProbableSize`, of a model whose class stays where all features are low enough.

    Feature i is low enough with probability ``likely[i]``, so that the class stays for the product
    over the features that are free. In a sequence the fourth size is just not enough; of those that
    are halved every one but the first. The model does not look at the first feature, which only
    tells the inputs apart.
    """
    share = 0.9
    below = share - 1e-6
    for search, likely in (
        ("sequence", np.array([1.0, 0.6, 0.7, below / 0.998**2, 0.998, 0.998])),
        ("bisection", np.append(np.ones(14), below)),
    ):
        yield _of_probable_sizes(nb_runs, delta, share, search, likely)


def _of_probable_sizes(
    nb_runs: int, delta: float, share: float, search: str, likely: np.ndarray
) -> Row:
    limits = tf.constant(np.where(likely < 1, 2 * likely - 1, 2.0), tf.float32)

    def logits(inputs: tf.Tensor) -> tf.Tensor:
        lead = tf.reduce_min((limits - inputs)[:, 1:], axis=1)
        return tf.stack([lead, tf.zeros_like(lead)], axis=1)

    inputs = np.zeros((nb_runs, len(likely)), np.float32)
    inputs[:, 0] = np.arange(nb_runs)
    maps = np.broadcast_to(np.arange(len(likely), 0, -1.0), inputs.shape)
    shares = np.append(np.cumprod(likely[::-1])[::-1], 1.0)  # of each size
    nb_tests = 1 if search == "sequence" else len(likely).bit_length()
    nb_samples = sharp_samples(delta / nb_tests, share)
    metric = ProbableSize(
        logits,
        inputs,
        batch_size=2**15,
        epsilon=1.0,
        share=share,
        delta=delta,
        nb_samples=nb_samples,
        search=search,
        steps=-1,
        attack=False,
    )
    wrong = metric.detailed_evaluate(maps).interval.certified < np.argmax(shares >= share)
    least = needed(delta / nb_tests, nb_samples, share)
    if search == "sequence":  # passes at 5 and at 4, and then at 3
        exact = float(np.prod(binomial_tail(least, nb_samples, shares[3:6])))
    else:
        exact = 1 - (1 - float(binomial_tail(least, nb_samples, shares[0]))) ** nb_tests
    return row_of(f"ProbableSize, search={search!r}", "known shares", delta, wrong, exact)
