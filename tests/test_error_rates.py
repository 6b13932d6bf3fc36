"""Claims from samples are wrong no more often than they say, where the truth is known.

The simulations are those of the benchmark, with fewer runs; and each of them is shown to fail for a
level that is wrong on purpose.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import statistical_errors as errors

from xcertify.attributions import SmoothedAttribution
from xcertify.certificates import cosines, smoothed
from xcertify.certificates.smoothed import pixel_radii
from xcertify.metrics import ProbableSize, stability
from xcertify.sampling import Streams
from xcertify.statistics import binomial_interval

NB_RUNS = 2000


def checked(row):
    """A row that keeps its level; and whose exact value, if there is one, is not excluded."""
    assert row["kept"], row
    if row["exact"] is not None:
        assert row["exact"] <= row["level"]
        assert row["low"] <= row["exact"] <= row["high"], row
    return row


@pytest.mark.parametrize("alpha", errors.LEVELS)
@pytest.mark.parametrize("dependence", errors.DEPENDENCES)
def test_certified_pixels_of_an_image(dependence, alpha):
    row = checked(errors.of_explainer(dependence, NB_RUNS, alpha))
    if dependence == "independent":
        assert row["exact"] > 0.95 * alpha  # a level that is used up


@pytest.mark.parametrize("alpha", errors.LEVELS)
@pytest.mark.parametrize("dependence", errors.DEPENDENCES)
def test_decisions_by_all_corrections(dependence, alpha):
    rows = [checked(row) for row in errors.of_decisions(dependence, 5000, alpha)]
    of_holm, of_bonferroni = (
        [row["wrong"] for row in rows if correction in row["claim"]]
        for correction in ("holm", "bonferroni")
    )
    assert all(map(np.greater_equal, of_holm, of_bonferroni))  # which rejects no more


@pytest.mark.parametrize("alpha", errors.LEVELS)
@pytest.mark.parametrize("dependence", ["independent", "identical"])
def test_certified_pixels_of_many_images_together(dependence, alpha):
    checked(errors.of_images(dependence, 1000, alpha))


@pytest.mark.parametrize("alpha", errors.LEVELS)
@pytest.mark.parametrize("dependence", errors.DEPENDENCES)
def test_radii_of_all_pixels(dependence, alpha):
    checked(errors.of_radii(dependence, 5000, alpha))


@pytest.mark.parametrize("alpha", errors.LEVELS)
def test_limits_of_means(alpha):
    checked(errors.of_expected_overlap(10_000, alpha))
    checked(errors.of_vectors(10_000, alpha))


@pytest.mark.parametrize("alpha", errors.LEVELS)
def test_lengths_of_smoothed_maps(alpha):
    for row in errors.of_lengths(NB_RUNS, alpha):
        checked(row)


@pytest.mark.parametrize("alpha", errors.LEVELS)
def test_bars_of_stability_and_probable_sizes(alpha):
    for row in (*errors.of_stability(NB_RUNS, alpha), *errors.of_probable_sizes(NB_RUNS, alpha)):
        checked(row)


def refused(row):
    """A row whose level is broken, with hardly any doubt."""
    assert not row["kept"], row
    assert row["low"] > row["level"]


def test_fails_without_a_correction(monkeypatch):
    monkeypatch.setattr(smoothed, "rejected", lambda p_values, alpha, correction: p_values <= alpha)
    refused(errors.of_explainer("independent", NB_RUNS, 0.05))
    for row in [*errors.of_decisions("independent", NB_RUNS, 0.05)][:3]:
        refused(row)


def test_fails_where_the_samples_that_choose_are_tested(monkeypatch):
    """Near one half, where either answer may be chosen: the error is twice as large."""
    settings = {"tau": 0.501, "nb_samples": 99, "nb_choosing": 99}
    honest = checked(errors.of_explainer("independent", NB_RUNS, 0.05, **settings))
    monkeypatch.setattr(
        SmoothedAttribution,
        "_streams",
        lambda self, inputs, purpose: Streams(self.seed, inputs, "both"),
    )
    row = errors.of_explainer("independent", NB_RUNS, 0.05, **settings)
    refused(row)
    assert row["share"] > 1.5 * honest["exact"]


def test_fails_where_images_do_not_share_the_level():
    refused(errors.of_images("independent", NB_RUNS, 0.05, nb_inputs=1))


def test_fails_where_pixels_do_not_share_the_level_of_radii():
    refused(errors.of_radii("independent", NB_RUNS, 0.05, _radii_at_the_level_of_one))


def _radii_at_the_level_of_one(counts, *, alpha, **settings):
    return pixel_radii(counts, alpha=alpha * counts.shape[1], **settings)


def test_fails_where_a_share_is_taken_for_its_limit(monkeypatch):
    monkeypatch.setattr(smoothed, "mean_lower", lambda mean, n, alpha: mean)
    refused(errors.of_expected_overlap(NB_RUNS, 0.05))


def test_fails_where_a_mean_projection_is_taken_for_its_limit(monkeypatch):
    monkeypatch.setattr(cosines, "length_limit", lambda projections, alpha: projections.mean(-1))
    for row in errors.of_lengths(500, 0.05):
        refused(row)


def test_fails_where_only_the_expected_distance_of_a_mean_is_counted():
    refused(errors.of_vectors(NB_RUNS, 0.05, lambda n, bound, alpha: bound / np.sqrt(n)))


def test_fails_where_both_limits_are_at_the_whole_level(monkeypatch):
    monkeypatch.setattr(
        stability, "binomial_interval", lambda k, n, alpha: binomial_interval(k, n, 2 * alpha)
    )
    row, _ = errors.of_stability(NB_RUNS, 0.05)
    refused(row)


def test_fails_where_tests_of_sizes_do_not_share_the_level(monkeypatch):
    monkeypatch.setattr(
        ProbableSize, "_levels", lambda self, nb_features: np.full(len(nb_features), self.delta)
    )
    _, row = errors.of_probable_sizes(NB_RUNS, 0.05)
    refused(row)
