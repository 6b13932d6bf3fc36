"""Verdicts on certificates from samples: drawn again, and others, that must not contradict them."""

import dataclasses
import re

import keras
import numpy as np
import pytest
from keras import layers
from planted_faults import check_found, other_target, swapped

from xcertify.attributions import GradientInput, SmoothedAttribution, UniformlySmoothedAttribution
from xcertify.certificates import Certificate
from xcertify.certificates.smoothed import decide_pixels, expected_overlaps, pixel_radii
from xcertify.radii import Interval
from xcertify.regions import Ball
from xcertify.verdicts import recheck
from xcertify.verdicts.sampled import SAMPLES

SETTINGS = {"sigma": 0.3, "nb_samples": 100, "top": 0.3, "tau": 0.7, "alpha": 0.05}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    parts = [layers.Dense(12, "relu"), layers.Dense(3)]
    return keras.Sequential([keras.Input((10,)), *parts])


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(2).random((4, 10)).astype(np.float32)


@pytest.fixture(scope="module")
def certificate(model, inputs):
    found = SmoothedAttribution(GradientInput(model), **SETTINGS).certify(inputs)
    assert 0.2 < found.abstained.mean() < 0.8  # of both there are some
    return found


def with_counts(certificate, counts, chosen=None):
    """The certificate that says of other counts what follows from them."""
    chosen = certificate.chosen if chosen is None else chosen
    common = {"nb_samples": certificate.nb_samples, "alpha": certificate.level}
    tau = certificate.tau
    certified = decide_pixels(counts, tau=tau, correction=certificate.correction, **common)
    return dataclasses.replace(
        certificate,
        counts=counts,
        chosen=chosen,
        certified_in=certified & chosen,
        certified_out=certified & ~chosen,
        radii=pixel_radii(counts, sigma=certificate.sigma, **common),
        expected_overlap=expected_overlaps(chosen, counts, tau=tau, **common),
        interval=Interval(1.0 - certified.mean(axis=1), certificate.attacked),
    )


def test_clean_certificates_are_confirmed(certificate, model):
    verdict = recheck(certificate, model)
    assert verdict.confirmed.all(), verdict.reason
    assert set(verdict.means) == {SAMPLES}
    np.testing.assert_allclose(verdict.proved, certificate.certified)
    assert np.isnan(verdict.attained).all()


def test_levels_of_all_inputs_of_a_call(model, inputs):
    together = SmoothedAttribution(GradientInput(model), nb_inputs=None, **SETTINGS)
    certificate = together.certify(inputs)
    assert recheck(certificate, model).confirmed.all()
    fewer = dataclasses.replace(certificate, nb_inputs=1)
    verdict = recheck(with_counts(fewer, fewer.counts), model)
    assert not verdict.confirmed.any()
    assert "its nb_inputs is not that of its settings" in verdict.reason[0]


def more_agreeing(certificate):
    """Input 1 is said to be certified everywhere, with all that follows from such counts."""
    counts = certificate.counts.copy()
    counts[1] = certificate.nb_samples
    return with_counts(certificate, counts)


def a_few_more(certificate):
    """Three more samples than there were agree at one pixel of input 1."""
    counts = certificate.counts.copy()
    place = counts[1].argmin()
    counts[1, place] += 3
    return with_counts(certificate, counts)


def with_flag(name):
    def change(certificate):
        flags = getattr(certificate, name).copy()
        place = np.flatnonzero(~flags[1])[0]
        flags[1, place] = True
        return dataclasses.replace(certificate, **{name: flags})

    return change


def scaled(name, factor):
    def change(certificate):
        values = np.array(getattr(certificate, name))
        values[1] = values[1] * factor
        return dataclasses.replace(certificate, **{name: values})

    return change


def moved_center(certificate):
    center = certificate.region.center.copy()
    center[1] += np.float32(0.05)
    return dataclasses.replace(certificate, region=Ball(center, certificate.radius, 2))


def with_radius(factor):
    def change(certificate):
        return dataclasses.replace(
            certificate, region=Ball(certificate.region.center, factor * certificate.radius, 2)
        )

    return change


def less_abstained(certificate):
    values = certificate.certified.copy()
    values[1] /= 2
    return dataclasses.replace(certificate, interval=Interval(values, certificate.attacked))


def test_faults_are_found(certificate, model):
    faults = {
        "more agreeing": more_agreeing,
        "a few more": a_few_more,
        "target": other_target,
        "targets of another": swapped("targets"),
        "center": moved_center,
        "half the radius": with_radius(0.5),
    }
    check_found(certificate, faults, model)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_flag("certified_in"), "certified_in has what was not chosen|not those of the counts"),
        (with_flag("certified_out"), "certified_out has what was chosen|not those of the counts"),
        (with_flag("chosen"), "certified_out has what was chosen|not those of the counts|overlap"),
        (scaled("radii", 1.2), "radii are not those of the counts"),
        (scaled("expected_overlap", 1.05), "expected_overlap is not that of the counts"),
        (less_abstained, "certified is not the share that is abstained from"),
        (with_radius(2.0), "larger than sigma and tau give"),
    ],
)
def test_contradictions_are_found_without_samples(certificate, model, change, reason):
    verdict = recheck(change(certificate), model)
    assert not verdict.confirmed.any()
    assert re.search(reason, verdict.reason[1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": 1}, "seed"),
        ({"correction": "bonferroni"}, "correction"),
        ({"nb_choosing": 11}, "nb_choosing"),
        ({"top": 0.4}, "top"),
        ({"clip": np.array([0.0, 1.0])}, "clip"),
        ({"arithmetic": "real"}, "other arithmetic than sampled"),
        ({"origin": None}, "no origin says"),
        ({"targets": np.eye(4, 2, dtype=np.float32)}, "its samples cannot be drawn again"),
    ],
)
def test_other_settings_than_its_own_are_found(certificate, model, changes, reason):
    changed = dataclasses.replace(certificate, **changes)
    if "correction" in changes:
        changed = with_counts(changed, changed.counts)
    verdict = recheck(changed, model)
    assert not verdict.confirmed.any()
    assert all(reason in words for words in verdict.reason)


def test_samples_of_another_seed_are_found(certificate, model, inputs):
    """As one who tries seeds until more is certified, and says it was the first one."""
    explainer = SmoothedAttribution(GradientInput(model), seed=5, **SETTINGS)
    other = dataclasses.replace(explainer.certify(inputs), origin=certificate.origin, seed=0)
    verdict = recheck(other, model)
    assert not verdict.confirmed.any() and not verdict.refuted.any()  # what it says may be true
    assert all("its counts is not what is found again" in words for words in verdict.reason)


def test_answers_that_are_not_the_majoritys_are_refuted(certificate, model):
    counts = np.full(certificate.counts.shape, certificate.nb_samples)
    verdict = recheck(with_counts(certificate, counts, ~certificate.chosen), model)
    assert verdict.refuted.all()
    assert "other samples show that a certified answer is not the majority's" in verdict.reason[0]


def test_attacks_are_made_again_and_must_not_flip_certified_pixels(model, inputs, tmp_path):
    settings = SETTINGS | {"attack": True, "clip": (0, 1)}
    attacked = SmoothedAttribution(GradientInput(model), **settings).certify(inputs)
    attacked.save(tmp_path / "certificate.npz")
    verdict = recheck(Certificate.load(tmp_path / "certificate.npz"), model)
    assert verdict.confirmed.all(), verdict.reason
    np.testing.assert_allclose(verdict.attained, attacked.attacked, atol=0.1)
    flipped = attacked.flipped.copy()
    flipped[1] = ~attacked.abstained[1]
    interval = Interval(attacked.certified, flipped.mean(axis=1))
    changed = dataclasses.replace(attacked, flipped=flipped, interval=interval)
    verdict = recheck(changed, model, attack=False)
    assert verdict.refuted.tolist() == [False, True, False, False]
    assert "its attack flips certified pixels" in verdict.reason[1]
    assert np.isnan(verdict.attained).all()  # nothing was attacked again
    hidden = dataclasses.replace(attacked, interval=interval)
    assert not recheck(hidden, model, attack=False).confirmed[1]


def test_functions_are_told_in_words_only(model, inputs):
    def explain(points, targets):
        return points * points

    explainer = SmoothedAttribution(explain, model=model, **SETTINGS)
    verdict = recheck(explainer.certify(inputs), model)
    assert set(verdict.reason) == {"settings are told in words only: of"}


@pytest.fixture(scope="module")
def cosines(model, inputs):
    settings = {"noise_radius": 2.0, "epsilon": 0.02, "nb_samples": 300}
    return UniformlySmoothedAttribution(GradientInput(model), **settings).certify(inputs)


def with_projections(certificate, projections):
    """The certificate that says of other projections what follows from them."""
    changed = dataclasses.replace(certificate, projections=projections)
    certified = 1 - changed.cosine_within(0.02)
    return dataclasses.replace(changed, interval=Interval(certified, None))


def further(certificate):
    return with_projections(certificate, np.minimum(certificate.projections + 0.01, 1))


def test_cosines_of_smoothed_maps(cosines, model):
    verdict = recheck(cosines, model)
    assert verdict.confirmed.all(), verdict.reason
    assert set(verdict.means) == {SAMPLES}
    np.testing.assert_allclose(verdict.proved, cosines.certified, atol=1e-3)
    faults = {
        "further": further,
        "explanation": scaled("explanation", 1.1),
        "target": other_target,
        "center": lambda c: dataclasses.replace(
            c, region=Ball(c.region.center + np.float32(0.05), 0.02, 2)
        ),
        "radius": lambda c: dataclasses.replace(c, region=Ball(c.region.center, 0.01, 2)),
    }
    check_found(cosines, faults, model)


def test_lengths_that_no_samples_can_have_are_refuted(cosines, model):
    verdict = recheck(with_projections(cosines, np.ones((4, 300))), model)
    assert verdict.refuted.sum() >= 3 and not verdict.confirmed.any()
    assert "other samples show a shorter map than it rests on" in verdict.reason[0]
