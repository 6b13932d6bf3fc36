"""Verdicts on cells that stay, radii of criteria and deviations; and on faults in them."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers
from planted_faults import check_found, not_a_number, scaled, swapped, with_its_radius
from rotation import rotating

from xcertify.attributions import CORGI, AttributionBound, CertifiedGradient
from xcertify.certificates import Certificate
from xcertify.criteria import Criterion, Excludes, KeepsOut, KeepsSigns, KeepsTop, Within
from xcertify.radii import Interval
from xcertify.verdicts import recheck

ENGINE = "bounds of the engine in float64"


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 1, (3, 6, 6, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def channels():
    keras.utils.set_random_seed(3)
    first = layers.Conv2D(3, 3, padding="same", activation="relu")
    last = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")
    parts = [keras.Input((6, 6, 2)), first, last, layers.GlobalAveragePooling2D()]
    return keras.Sequential([*parts, layers.Dense(3)])


@pytest.fixture(scope="module")
def smooth():
    keras.utils.set_random_seed(3)
    parts = [layers.Dense(8, activation="softplus"), layers.Dense(6, activation="softplus")]
    return keras.Sequential([keras.Input((6,)), *parts, layers.Dense(3)])


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(2).random((3, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def cells(channels, images):
    return CORGI(channels, clip=(0, 1), k=3, method="crown-ibp", prediction=True).certify(images)


@pytest.fixture(scope="module")
def deviations(smooth, rows):
    return AttributionBound(smooth, 0.02, clip=(0, 1), proved=True).certify(rows)


@pytest.fixture(scope="module")
def radii(smooth, rows):
    return CertifiedGradient(smooth, clip=(0, 1)).radius(rows, Within(0.3), attack_steps=5)


def changed(name, change, sample=1):
    """A change of one input's values by a function."""

    def planted(certificate):
        values = getattr(certificate, name)
        found = list(values) if isinstance(values, tuple) else values.copy()
        found[sample] = change(found[sample])
        found = tuple(found) if isinstance(values, tuple) else found
        return dataclasses.replace(certificate, **{name: found})

    return planted


def with_its_own_radius(change):
    return lambda certificate: with_its_radius(change(certificate))


RADIUS_FAULTS = {
    **{f"radius by {f}": scaled("certified", f) for f in (0.99, 1.01, 0.5, 1.5)},
    **{f"attacked by {f}": scaled("attacked", f) for f in (0.99, 1.01)},
    "radii swapped": swapped("certified", 1, 0),
}
CELL_FAULTS = {
    **{name: with_its_own_radius(change) for name, change in RADIUS_FAULTS.items()},
    **{f"gap by {f}": scaled("gap", f) for f in (0.99, 1.01, -1.0)},
    **{f"class by {f}": scaled("prediction_radius", f) for f in (0.99, 1.01, 0.5, 1.5)},
    **{f"{name} swapped": swapped(name) for name in ("gap", "cells", "prediction_radius")},
    "cells in another order": changed("cells", lambda cells: cells[::-1]),
    "another cell": changed("cells", lambda cells: np.append(cells[:-1], (cells[-1] + 1) % 9)),
    "another target": changed("targets", lambda target: (target + 1) % 3),
    "no class": changed("targets", lambda target: 7),
}
DEVIATION_FAULTS = {
    **{f"bound by {f}": scaled("certified", f) for f in (0.99, 1.01)},
    **{f"observed by {f}": scaled("attacked", f) for f in (0.99, 1.01, 2.0)},
    **{
        f"{name} by {f}": scaled(name, f)
        for name in ("proved_cosine", "euclidean_estimate", "reached", "singular_value_upper")
        for f in (0.99, 1.01)
    },
    "explanation by 1.01": scaled("explanation", 1.01),
    "direction in another order": changed("direction", lambda direction: direction[::-1]),
    "factor by 1.01": scaled("factor", 1.01),
    "direction by 1.01": scaled("direction", 1.01),
    **{f"{name} swapped": swapped(name) for name in ("certified", "explanation", "proved_cosine")},
    "another beta": changed("beta", lambda beta: 30.0),
    "attained": changed("attained", lambda attained: not attained),
    "decided": changed("decided", lambda word: "corollary 1"),
    "other targets": changed("targets", lambda row: row[::-1] + 0.5),
    "no bound": not_a_number("certified"),
}
CRITERION_FAULTS = {
    **{name: with_its_own_radius(change) for name, change in RADIUS_FAULTS.items()},
    "other targets": changed("targets", lambda row: row[::-1] + 0.5),
}


def test_cells_are_confirmed_without_the_engine(channels, cells):
    assert (cells.certified > 0).all()
    verdict = recheck(cells, channels)
    assert verdict.confirmed.all(), verdict.reason
    assert all("without the engine" in means for means in verdict.means)
    np.testing.assert_array_equal(verdict.proved, cells.certified)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"prediction": True},
        {"form": "map", "norm": 2},
        {"k2": 4},
        {"explanation": "grad-cam", "conv_layer": 1},
    ],
    ids=str,
)
def test_other_cells_are_confirmed(channels, images, settings):
    certificate = CORGI(channels, clip=(0, 1), k=3, **settings).certify(images)
    verdict = recheck(certificate, channels)
    assert verdict.confirmed.all(), verdict.reason
    if "explanation" in settings:
        assert set(verdict.means) == {ENGINE}


@pytest.mark.parametrize("number", rotating(len(CELL_FAULTS), 2))
def test_faults_of_cells_are_found(channels, cells, number):
    name = [*CELL_FAULTS][number]
    verdict = recheck(CELL_FAULTS[name](cells)[1:2], channels, attack="attacked" in name)
    assert not verdict.confirmed.any() and all(verdict.reason)


@pytest.mark.slow
def test_all_faults_of_cells_are_found(channels, cells):
    check_found(cells, CELL_FAULTS, channels)


def test_settings_of_other_cells(channels, cells):
    for name, value in (("form", "map"), ("k2", 4), ("explanation", "grad-cam")):
        verdict = recheck(dataclasses.replace(cells, **{name: value}), channels, attack=False)
        assert not verdict.confirmed.any()


def test_deviations_are_confirmed(smooth, deviations):
    verdict = recheck(deviations, smooth)
    assert verdict.confirmed.all(), verdict.reason
    assert set(verdict.means) == {f"{ENGINE}; estimates by evaluation"}
    np.testing.assert_allclose(verdict.proved, deviations.certified, rtol=1e-4)
    none = Interval(deviations.certified, None)
    for changes in ({"method": "none"}, {"method": "first order"}, {"interval": none}):
        changed = dataclasses.replace(deviations, **changes)
        assert not recheck(changed, smooth, attack=False).confirmed.any()


@pytest.mark.slow
def test_deviations_of_copies_are_confirmed(rows):
    keras.utils.set_random_seed(0)
    parts = [layers.Dense(8, activation="relu"), layers.Dense(3)]
    model = keras.Sequential([keras.Input((6,)), *parts])
    settings = {"norm": np.inf, "attribution": "integrated_gradients", "steps": 3}
    certificate = AttributionBound(model, 0.02, clip=(0, 1), proved=True, **settings).certify(rows)
    verdict = recheck(certificate, model)
    assert verdict.confirmed.all(), verdict.reason


def test_faults_of_deviations_are_found(smooth, deviations):
    check_found(deviations, DEVIATION_FAULTS, smooth)


def test_estimates_alone_prove_nothing(smooth, rows):
    verdict = recheck(AttributionBound(smooth, 0.02).certify(rows[:1]), smooth)
    assert set(verdict.status) == {"not checked"} and "nothing is proved" in verdict.reason[0]


def test_radii_are_confirmed(smooth, radii):
    assert ((radii.certified > 0) & (radii.certified < 1)).all()
    verdict = recheck(radii, smooth)
    assert verdict.confirmed.all(), verdict.reason
    assert set(verdict.means) == {ENGINE}


def test_faults_of_radii_are_found(smooth, radii):
    check_found(radii, CRITERION_FAULTS, smooth)
    for tau in (0.25, 0.36):
        asked = type(radii).asking(Within(tau), radii.region.center.shape)
        verdict = recheck(dataclasses.replace(radii, **asked), smooth, attack=False)
        assert not verdict.confirmed.any()
    for name, value in (("criterion", "Within(tau=9.0)"), ("tau", radii.tau * 1.01)):
        verdict = recheck(dataclasses.replace(radii, **{name: value}), smooth, attack=False)
        assert not verdict.confirmed.any() and "criterion must be" in verdict.reason[0]


CRITERIA = [
    (Within(np.array([0.3, 0.4, 0.5]), "linf"), {}),
    (KeepsTop(2), {}),
    (Excludes(np.ones(6, np.float32), 0.2, "cosine"), {}),
    (KeepsOut(np.arange(6) == 4, 1), {}),
    (KeepsSigns(np.arange(18).reshape(3, 6) % 2 > 0), {"varied": "gamma"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("criterion", "settings"), CRITERIA)
def test_criteria_are_made_again(smooth, rows, criterion, settings, tmp_path):
    explainer = CertifiedGradient(smooth, 0.001, clip=(0, 1))
    explainer.radius(rows, criterion, attack=False, **settings).save(tmp_path / "radii.npz")
    certificate = Certificate.load(tmp_path / "radii.npz")
    assert type(certificate.question) is type(criterion)
    assert recheck(certificate, smooth).confirmed.all()
    assert recheck(certificate[1:], smooth).confirmed.all()


def test_criteria_of_ones_own_are_not_checked(smooth, rows):
    class Anything(Criterion):
        def holds(self, lower, upper, original):
            return np.ones(len(lower), bool)

        def broken(self, lower, upper, original):
            return np.zeros(len(lower), bool)

    found = CertifiedGradient(smooth).radius(rows[:1], Anything(), attack=False, nb_halvings=1)
    verdict = recheck(found, smooth)
    assert set(verdict.status) == {"not checked"} and "in words only" in verdict.reason[0]
