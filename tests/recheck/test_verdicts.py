"""Verdicts: clean certificates are confirmed, planted faults are found and never confirmed."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers
from planted_faults import (
    check_found,
    in_region,
    moved_center,
    not_a_number,
    of_box,
    other_cells,
    other_target,
    scaled,
    swapped,
    with_its_radius,
    without_sign,
)
from rotation import rotating

from xcertify.attributions import EVA, CertifiedGradient, RelEx, SufficientReason
from xcertify.radii import Interval
from xcertify.recheck import recheck as confirmed
from xcertify.verdicts import recheck


def make_model(seed=3):
    keras.utils.set_random_seed(seed)
    parts = [layers.Dense(12, activation="relu"), layers.Dense(9, activation="relu")]
    return keras.Sequential([keras.Input((10,)), *parts, layers.Dense(3)])


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(2).random((6, 10)).astype(np.float32)


@pytest.fixture(scope="module")
def overlaps(model, inputs):
    return EVA(model, epsilon=0.05, clip=(0, 1), grid_size=None, attack=True).certify(inputs)


@pytest.fixture(scope="module")
def masks(model, inputs):
    kept = np.full(inputs.shape, 0.8, np.float32)
    return RelEx(model, clip=(0, 1), neutral_value=0.1).certify(inputs, masks=kept)


OVERLAPS = [
    {},
    {"mode": "exact"},
    {"overlap": "separate"},
    {"norm": 2, "epsilon": 0.2, "method": "crown-ibp"},
    {"norm": 1, "epsilon": 0.3, "clip": None},
    {"mode": "exact", "method": "ibp"},
]


@pytest.mark.filterwarnings("ignore::xcertify.usefulness.VacuousWarning")
@pytest.mark.parametrize("number", rotating(len(OVERLAPS), 2))
def test_overlaps_are_confirmed(model, inputs, number):
    settings = OVERLAPS[number]
    certificate = EVA(model, **{"epsilon": 0.05, "clip": (0, 1)} | settings).certify(inputs[:3])
    verdict = recheck(certificate, model)
    assert verdict.confirmed.all(), verdict.reason
    assert set(verdict.reason) == {""} and "without the engine" in verdict.means[0]
    np.testing.assert_allclose(verdict.proved, certificate.overlap, rtol=1e-4, atol=1e-4)
    assert confirmed(certificate, model).all()
    assert recheck(certificate, model, attack=False).confirmed.all()


@pytest.mark.slow
def test_decisions_are_confirmed(model, inputs):
    certificate = EVA(model, epsilon=0.12, clip=(0, 1)).certify(inputs, complete=True)
    assert certificate.decision.violated.any() and certificate.decision.holds.any()
    assert recheck(certificate, model, attack=False).confirmed.all()
    counterexamples = certificate.decision.counterexamples.copy()
    sample = int(np.flatnonzero(certificate.decision.violated)[0])
    counterexamples[sample] = inputs[sample]
    other = dataclasses.replace(certificate.decision, counterexamples=counterexamples)
    verdict = recheck(dataclasses.replace(certificate, decision=other), model, attack=False)
    assert verdict.refuted.tolist() == [n == sample for n in range(6)]
    nowhere = np.full_like(counterexamples, np.nan)
    holds = {"status": np.full(6, "holds"), "counterexamples": nowhere}
    other = dataclasses.replace(certificate.decision, **holds)
    verdict = recheck(dataclasses.replace(certificate, decision=other), model, attack=False)
    assert (verdict.refuted == certificate.decision.violated).all()


def test_masks_are_confirmed(model, masks):
    assert (masks.certified > 0).any()
    verdict = recheck(masks, model)
    assert verdict.confirmed.all(), verdict.reason


@pytest.mark.slow
def test_reasons_are_confirmed_without_the_engine(model, inputs):
    certificate = SufficientReason(model, 0.05, clip=(0, 1)).certify(inputs[:2])
    verdict = recheck(certificate, model)
    assert verdict.confirmed.all()
    assert any("without the engine" in means for means in verdict.means)


def test_gradients_are_confirmed_by_the_engine(model, inputs):
    certificate = CertifiedGradient(model, 0.01, clip=(0, 1)).certify(inputs[:3])
    verdict = recheck(certificate, model)
    assert verdict.confirmed.all(), verdict.reason
    assert set(verdict.means) == {"bounds of the engine in float64"}
    for factor in (0.99, 1.01):
        upper = certificate.upper * factor
        other = dataclasses.replace(certificate, upper=upper)
        assert not recheck(other, model).confirmed.any()


def test_what_nothing_is_proved_of(model, overlaps):
    verdict = recheck(dataclasses.replace(overlaps, arithmetic="none"), model)
    assert set(verdict.status) == {"not checked"}


@pytest.mark.parametrize(
    ("activation", "settings"),
    [
        ("tanh", {}),
        pytest.param("relu", {"method": "alpha-crown"}, marks=pytest.mark.slow),
    ],
    ids=["tanh", "alpha-crown"],
)
def test_what_the_checker_does_not_know_is_bounded_by_the_engine(inputs, activation, settings):
    keras.utils.set_random_seed(0)
    parts = [layers.Dense(6, activation=activation), layers.Dense(3)]
    model = keras.Sequential([keras.Input((10,)), *parts])
    certificate = EVA(model, epsilon=0.02, clip=(0, 1), **settings).certify(inputs[:2])
    verdict = recheck(certificate, model)
    assert verdict.confirmed.all(), verdict.reason
    assert set(verdict.means) == {"bounds of the engine in float64"}
    for factor in (0.99, 1.01):
        other = dataclasses.replace(certificate, cell_overlaps=certificate.cell_overlaps * factor)
        assert not recheck(other, model, attack=False).confirmed.any()


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "method"), [("tanh", "crown"), ("relu", "alpha-crown")])
def test_masks_that_the_engine_bounds(inputs, activation, method):
    keras.utils.set_random_seed(0)
    parts = [layers.Dense(6, activation=activation), layers.Dense(3)]
    model = keras.Sequential([keras.Input((10,)), *parts])
    kept = np.full((2, 10), 0.8, np.float32)
    certificate = RelEx(model, clip=(0, 1), method=method).certify(inputs[:2], masks=kept)
    verdict = recheck(certificate, model)
    assert verdict.confirmed.all(), verdict.reason
    assert set(verdict.means) == {"bounds of the engine in float64"}


@pytest.mark.slow
def test_radii_of_masks_that_are_decided(model, inputs):
    kept = np.full((3, 10), 0.8, np.float32)
    explainer = RelEx(model, clip=(0, 1), neutral_value=0.1)
    certificate = explainer.certify(inputs[:3], masks=kept, complete=True)
    verdict = recheck(certificate, model)
    assert verdict.confirmed.all(), verdict.reason
    region = certificate.region.resized(certificate.certified * 0.99)
    interval = Interval(certificate.certified * 0.99, certificate.attacked)
    other = dataclasses.replace(certificate, interval=interval, region=region)
    assert not recheck(other, model, attack=False).confirmed.any()


# --- faults ---------------------------------------------------------------------------------------


FACTORS = (0.99, 1.01, 0.9, 1.1, -1.0)
OVERLAP_FAULTS = {
    **{f"overlap by {f}": scaled("certified", f) for f in FACTORS},
    **{f"cell {c} by {f}": scaled("cell_overlaps", f, c) for c in (0, 4, 9) for f in FACTORS[:4]},
    **{f"nominal by {f}": scaled("nominal", f) for f in FACTORS},
    **{f"attacked by {f}": scaled("attacked", f) for f in FACTORS},
    **{f"attained by {f}": scaled("attained", f) for f in FACTORS},
    **{f"region by {f}": in_region(f) for f in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0)},
    **{f"{name} swapped": swapped(name) for name in ("certified", "cell_overlaps", "nominal")},
    **{f"{name} swapped": swapped(name) for name in ("targets", "attained", "region")},
    **{f"{name} is NaN": not_a_number(name) for name in ("certified", "cell_overlaps", "nominal")},
    "center moved": moved_center,
    "sides moved": of_box,
    "another target": other_target,
    "other cells": other_cells,
    "a robust one": without_sign,
}
MASK_FAULTS = {
    **{f"radius by {f}": scaled("certified", f) for f in (0.99, 1.01, 0.5, 1.5)},
    **{f"attacked by {f}": scaled("attacked", f) for f in (0.99, 1.01)},
    **{f"mask by {f}": scaled("masks", f) for f in (0.5, 1.2)},
    "targets": other_target,
    "masks are NaN": not_a_number("masks"),
}


def test_faults_of_overlaps_are_found(model, overlaps):
    alone = ("sides moved", "other cells")
    check_found(overlaps, {n: f for n, f in OVERLAP_FAULTS.items() if n not in alone}, model)
    for name in alone:
        verdict = recheck(OVERLAP_FAULTS[name](overlaps), model, attack=False)
        assert not verdict.confirmed[1], name


def of_their_radii(faults):
    def made(change):
        return lambda certificate: with_its_radius(change(certificate))

    return {name: made(change) for name, change in faults.items()}


def test_faults_of_masks_are_found(model, masks):
    faults = of_their_radii(MASK_FAULTS)
    names = [name for name in faults if " by 0.99" not in name and "attacked" not in name]
    some = [names[number] for number in rotating(len(names), 2)]
    check_found(masks, {name: faults[name] for name in some}, model)


@pytest.mark.slow
def test_all_faults_of_masks_are_found(model, masks):
    check_found(masks, of_their_radii(MASK_FAULTS), model)


def test_fifty_faults():
    assert len(OVERLAP_FAULTS) + len(MASK_FAULTS) >= 50


def test_bounds_that_points_exceed_are_refuted(model, overlaps):
    values = (overlaps.attacked + overlaps.nominal) / 2
    wrong = dataclasses.replace(overlaps, interval=Interval(values, overlaps.attacked))
    assert recheck(wrong, model).refuted.all()


def test_another_model(overlaps):
    other = make_model(seed=4)
    with pytest.raises(ValueError, match="the weights of the model"):
        recheck(overlaps, other)
    verdict = recheck(overlaps, other, check_model=False)
    assert not verdict.confirmed.any()
    wider = keras.Sequential([keras.Input((10,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="the architecture of the model"):
        recheck(overlaps, wider)


def test_no_certificate(model):
    with pytest.raises(ValueError, match="must be one of xcertify.certificates"):
        recheck({}, model)
