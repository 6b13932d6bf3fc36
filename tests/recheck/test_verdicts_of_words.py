"""What certificates say beside bounds: arithmetic, method, explainer, and what is attained."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from xcertify.attributions import EVA, CertifiedGradient, RelEx, SufficientReason
from xcertify.regions import Ball
from xcertify.verdicts import recheck


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    hidden = [layers.Dense(8, activation="relu"), layers.Dense(8, activation="relu")]
    return keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(3)])


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(0).random((2, 6)).astype(np.float32)


def without_attack(certificate, model):
    return recheck(certificate, model, attack=False)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (EVA, {"epsilon": 0.02}),
        (RelEx, {"steps": 2}),
        (CertifiedGradient, {"epsilon": 0.01}),
        (SufficientReason, {"epsilon": 0.02}),
    ],
)
def test_words_that_were_changed(model, inputs, kind, settings):
    certificate = kind(model, clip=(0, 1), **settings).certify(inputs)
    assert without_attack(certificate, model).confirmed.all()
    other = dataclasses.replace(certificate.origin, explainer="Other")
    for changes, reason in (
        ({"arithmetic": "float32"}, "its arithmetic is 'float32'"),
        ({"method": "none"}, "its method"),
        ({"origin": other}, "its origin is not said to be"),
    ):
        verdict = without_attack(dataclasses.replace(certificate, **changes), model)
        assert not verdict.confirmed.any()
        assert all(reason in found for found in verdict.reason)


@pytest.mark.filterwarnings("ignore::xcertify.usefulness.VacuousWarning")
def test_bounds_of_decisions(model, inputs):
    certificate = EVA(model, epsilon=0.3, clip=(0, 1)).certify(inputs, complete=True)
    assert recheck(certificate, model).confirmed.all()
    decision = certificate.decision
    for name, change in (("lower", 0.05), ("upper", 0.5), ("upper", -0.5), ("lower", np.nan)):
        values = np.nan_to_num(getattr(decision, name), neginf=0.0) + change
        changed = dataclasses.replace(decision, **{name: values})
        found = without_attack(dataclasses.replace(certificate, decision=changed), model)
        assert not found.confirmed.any(), (name, change)


def test_what_was_attained_has_an_origin(model, inputs):
    certificate = EVA(model, epsilon=0.02, clip=(0, 1)).certify(inputs)
    nowhere = dataclasses.replace(certificate, origin=None)
    assert without_attack(nowhere, model).confirmed.all()
    assert "no origin says" in recheck(nowhere, model).reason[0]


def test_masks_say_one_neutral_value_and_which_attack(model, inputs):
    certificate = RelEx(model, clip=(0, 1), steps=2).certify(inputs)
    other = dataclasses.replace(certificate, neutral_value=certificate.neutral_value + 1e-3)
    assert all("neutral_value is not that" in reason for reason in recheck(other, model).reason)
    nowhere = dataclasses.replace(certificate, origin=None)
    assert without_attack(nowhere, model).confirmed.all()
    found = recheck(nowhere, model).confirmed
    assert not (found & np.isfinite(certificate.attacked) & (certificate.attacked > 0)).any()


def test_settings_that_make_no_explainer(model, inputs):
    for kind, settings, name in (
        (EVA, {"epsilon": 0.02}, "temperature"),
        (RelEx, {"steps": 2}, "nb_halvings"),
    ):
        certificate = kind(model, **settings).certify(inputs)
        origin = certificate.origin
        origin = dataclasses.replace(origin, settings=origin.settings | {name: None})
        verdict = recheck(dataclasses.replace(certificate, origin=origin), model)
        assert "its settings make no" in verdict.reason[0]


def test_overlaps_that_overflow_are_not_confirmed(inputs):
    keras.utils.set_random_seed(1)
    hidden = [layers.Dense(4, activation="relu") for _ in range(10)]
    model = keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(2)])
    certificate = EVA(model, epsilon=0.1).certify(inputs)
    model.set_weights([weights * np.float32(3e37) for weights in model.get_weights()])
    certificate = dataclasses.replace(certificate, origin=None)
    verdict = recheck(certificate, model, attack=False)
    assert not verdict.confirmed.any()


def test_inputs_of_another_type_are_not_confirmed(model, inputs):
    certificate = EVA(model, epsilon=0.02, clip=(0, 1)).certify(inputs)
    center = certificate.region.center.astype(np.float64)
    region = Ball(center, certificate.region.epsilon, np.inf, certificate.region.clip)
    verdict = without_attack(dataclasses.replace(certificate, region=region), model)
    assert not verdict.confirmed.any()
