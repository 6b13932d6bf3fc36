"""Certificates of smoothed maps: what they are made of, by hand and by scipy."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from some_certificates import CENTER, N, smoothed

from xcertify.certificates import SmoothedCertificate, load
from xcertify.certificates.smoothed import (
    decide_pixels,
    expected_overlaps,
    least_samples,
    pixel_radii,
    top_sets,
    top_size,
)
from xcertify.regions import Ball


def of_level(**changes):
    return {"nb_samples": 100, "alpha": 0.01} | changes


@pytest.mark.parametrize("top", [0.1, 0.25, 0.5, 0.9])
def test_top_sets_by_counting(top):
    maps = np.random.default_rng(0).integers(-2, 3, (7, 4, 5, 1)).astype(float)  # many ties
    maps[0] = 3.0
    maps[1] = np.arange(20).reshape(4, 5, 1)
    found, k = top_sets(maps, top), top_size(20, top)
    assert k == round(20 * top) and found.shape == maps.shape and found.dtype == bool
    for one, own in zip(found, maps):
        for place in np.ndindex(own.shape):
            assert one[place] == ((own >= own[place]).sum() <= k)
    assert not found[0].any() and found[1].sum() == k == found[1].reshape(-1)[-k:].sum()
    assert found.reshape(7, -1).sum(axis=1).max() <= k


def test_a_top_set_has_an_entry_and_may_be_everything():
    maps = np.array([[1.0, 3.0, 2.0]])
    np.testing.assert_array_equal(top_sets(maps, 0.01), [[False, True, False]])
    np.testing.assert_array_equal(top_sets(maps, 0.9), [[True, True, True]])


@pytest.mark.parametrize("tau", [0.6, 0.75])
def test_decisions_are_those_of_binomial_tests(tau):
    counts = np.random.default_rng(0).integers(60, 101, (5, 12))
    p_values = stats.binom.sf(counts - 1, 100, tau)
    settings = {"nb_samples": 100, "tau": tau, "alpha": 0.01}
    plain = decide_pixels(counts, correction="bonferroni", **settings)
    np.testing.assert_array_equal(plain, p_values <= 0.01 / 12)
    holm = decide_pixels(counts, correction="holm", **settings)
    for own, found in zip(p_values, holm):
        order, expected = np.argsort(own), np.zeros(12, bool)
        for rank, place in enumerate(order):
            if own[place] > 0.01 / (12 - rank):
                break
            expected[place] = True
        np.testing.assert_array_equal(found, expected)
    assert (holm >= plain).all() and holm.sum() > plain.sum() > 0
    shares = decide_pixels(counts, correction="benjamini-yekutieli", **settings)
    expected = [stats.false_discovery_control(own, method="by") <= 0.01 for own in p_values]
    np.testing.assert_array_equal(shares, expected)


def test_radii_are_those_of_one_sided_limits_that_share_the_level():
    counts = np.array([[100, 99, 80, 61, 50, 0]])
    found = pixel_radii(counts, sigma=0.5, **of_level())
    with np.errstate(invalid="ignore"):
        lower = np.nan_to_num(stats.beta.ppf(0.01 / 6, counts, 101 - counts))
    expected = 0.5 * np.maximum(stats.norm.ppf(lower), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert (found <= expected).all() and (found[0, :3] > 0).all() and (found[0, 3:] == 0).all()


def test_the_expected_overlap_is_that_of_the_mean_share():
    chosen = np.array([[True, True, False, False], [False] * 4, [True] + [False] * 3])
    counts = np.array([[90, 70, 3, 5], [100] * 4, [0, 9, 9, 9]])
    found = expected_overlaps(chosen, counts, tau=0.75, **of_level())
    lower = 0.8  # of the mean share 0.8: where its divergence is log(100) / 100
    for _ in range(200):
        value = 0.8 * np.log(0.8 / lower) + 0.2 * np.log(0.2 / (1 - lower))
        lower -= 1e-3 * (value < np.log(100) / 100)
    np.testing.assert_allclose(stats.norm.ppf(found[0]), stats.norm.ppf(lower) - 0.6745, atol=4e-3)
    assert found[1] == 1 and found[2] == 0  # nothing was chosen; nothing was ever in


@pytest.mark.parametrize("correction", ["holm", "bonferroni", "benjamini-yekutieli"])
@pytest.mark.parametrize(("tau", "alpha", "size"), [(0.75, 0.001, 50), (0.6, 0.05, 3)])
def test_least_samples_are_those_with_which_something_can_be_certified(
    correction, tau, alpha, size
):
    least = least_samples(size, tau=tau, alpha=alpha, correction=correction)
    for nb_samples, expected in [(least, True), (least - 1, False)]:
        counts = np.full((1, size), nb_samples)
        settings = {"nb_samples": nb_samples, "tau": tau, "alpha": alpha}
        assert decide_pixels(counts, correction=correction, **settings).all() == expected
        assert decide_pixels(counts, correction=correction, **settings).any() == expected


def test_properties_by_hand():
    certificate = smoothed()
    # 8 pixels, of which 2 are chosen; the second input has counts of half of the samples
    known = certificate.certified_in | certificate.certified_out
    np.testing.assert_array_equal(certificate.abstained, ~known)
    assert known[0].all() and not known[1].any()
    assert certificate.overlap[0] == 1.0 and certificate.overlap[1] == 0.0
    inside, outside = (
        flags[2].sum() for flags in (certificate.certified_in, certificate.certified_out)
    )
    assert 0 < inside + outside < 8
    assert certificate.overlap[2] == inside / (8 - outside)
    np.testing.assert_allclose(certificate.radius, 0.25 * stats.norm.ppf(0.75), rtol=1e-11)
    assert certificate.radius < 0.25 * stats.norm.ppf(0.75)
    assert certificate.level == 0.05 / 3 and certificate.confidence == 0.95
    np.testing.assert_array_equal(certificate.votes[0, :, :, 0], [[1, 1], [0, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(certificate.vacuous, [False, True, False])
    assert certificate.describe_vacuous() == ""
    alone = certificate[1:2].describe_vacuous()
    assert alone == "no pixel of 1 inputs is certified within the radius 0.169"
    assert "of 3 maps" in repr(certificate) and "confidence 0.95 of 3 inputs together" in repr(
        certificate
    )
    nothing = dataclasses.replace(
        certificate, certified_in=0 * known > 0, certified_out=certificate.abstained[:] & False
    )
    np.testing.assert_array_equal(nothing.overlap, 0)


def test_the_overlap_of_two_empty_sets_is_one():
    certificate = smoothed()
    none = np.zeros_like(certificate.chosen)
    empty = dataclasses.replace(certificate, certified_in=none, certified_out=~none)
    np.testing.assert_array_equal(empty.overlap, 1.0)


def test_where_some_pixels_may_be_wrong_no_overlap_is_certified():
    certificate = dataclasses.replace(smoothed(), correction="benjamini-yekutieli")
    np.testing.assert_array_equal(certificate.overlap, 0.0)
    assert "false discovery rate 0.0166667" in repr(certificate)


CHANGES = {
    "more was certified than the counts say": (
        lambda c: {"certified_in": c.chosen.copy(), "certified_out": ~c.chosen},
        "certified pixels are not those of the counts, for input 1",
    ),
    "an answer that was not chosen": (
        lambda c: {"certified_in": ~c.abstained, "certified_out": c.certified_out & False},
        "certified_in has what was not chosen",
    ),
    "the other answer that was not chosen": (
        lambda c: {"certified_out": c.certified_in},
        "certified_out has what was chosen",
    ),
    "more samples than there are": (
        lambda c: {"counts": c.counts + 1},
        "counts are not of the samples",
    ),
    "larger radii": (lambda c: {"radii": c.radii * 1.01}, "radii are not those of the counts"),
    "a larger share": (
        lambda c: {"expected_overlap": c.expected_overlap * 1.01},
        "expected_overlap is not that of the counts",
    ),
    "a larger region": (
        lambda c: {"region": Ball(CENTER, c.radius * 1.001, 2)},
        "the radius of the regions is larger",
    ),
    "boxes": (lambda c: {"region": Ball(CENTER, c.radius)}, "must be Euclidean balls"),
    "another headline": (
        lambda c: {"interval": dataclasses.replace(c.interval, certified=np.zeros(N))},
        "certified is not the share",
    ),
    "another level": (lambda c: {"alpha": 0.5}, "radii are not those"),
    "a level of everything": (lambda c: {"alpha": 5.0}, "alpha must be"),
    "fewer samples": (lambda c: {"nb_samples": 39}, "counts are not of the samples"),
    "another shape": (lambda c: {"radii": c.radii[:, :2]}, "radii must have the shape of chosen"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_parts_that_contradict_each_other_are_refused(change, tmp_path):
    make, message = CHANGES[change]
    certificate = smoothed()
    certificate.check()
    changed = dataclasses.replace(certificate, origin=None, **make(certificate))
    with pytest.raises(ValueError, match=message):
        changed.check()
    path = tmp_path / "certificate.npz"
    changed.save(path)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_without_an_attack_and_a_range(tmp_path):
    certificate = dataclasses.replace(smoothed(), clip=None, flipped=None, origin=None)
    certificate.save(tmp_path / "certificate.npz")
    found = SmoothedCertificate.load(tmp_path / "certificate.npz")
    assert found.clip is None and found.flipped is None
    assert found.to_dict() == certificate.to_dict()


def test_a_range_of_noisy_points_is_not_one_of_the_regions(tmp_path):
    certificate = smoothed()
    assert certificate.origin.settings["clip"] == [-np.inf, 1.0] and certificate.region.clip is None
    certificate.save(tmp_path / "certificate.npz")
    assert load(tmp_path / "certificate.npz").origin == certificate.origin


def test_none_of_its_inputs():
    none = smoothed()[np.zeros(N, bool)]
    assert len(none) == 0 and none.overlap.shape == (0,)
    assert repr(none).startswith("<SmoothedCertificate: of 0 maps 0.0% of the pixels certified")
