"""`Verifier.radius`: how far inputs may move, between what is decided and what is attacked."""

import keras
import numpy as np
import pytest
from networks import functional, sequential
from tiny_networks import tiny

from xcertify.bounds import Verifier
from xcertify.regions import Ball, as_column
from xcertify.targets import stays_in_class

L = keras.layers
INPUTS = np.random.default_rng(0).uniform(0.2, 0.8, (4, 2)).astype("float32")


@pytest.fixture(scope="module")
def verifier():
    return Verifier(tiny("relu"), strip_head=True)


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_both_ends_meet_and_hold(verifier, norm):
    interval = verifier.radius(INPUTS, norm=norm, largest=2.0, nb_halvings=6, timeout=None)
    known = np.isfinite(interval.attacked)
    assert known.any()
    assert (interval.certified < interval.attacked).all()
    assert (interval.certified[~known] == 2.0).all()
    assert (interval.gap[known] <= interval.attacked[known] / 2**6 * 1.01).all()
    classes = verifier.evaluate(INPUTS).argmax(axis=1)
    rows, limits = stays_in_class(classes, 3)
    at_ends = [interval.certified, np.minimum(interval.attacked * 1.001, 2.0)]
    inner, outer = (
        verifier.decide(Ball(INPUTS, as_column(radii, INPUTS), norm), rows, limits, timeout=None)
        for radii in at_ends
    )
    assert inner.holds.all()
    np.testing.assert_array_equal(outer.violated, known)


def test_closer_than_bounds_alone_and_than_points(verifier):
    interval = verifier.radius(INPUTS, largest=1.0, timeout=None)
    classes = verifier.evaluate(INPUTS).argmax(axis=1)
    rows = np.eye(3, dtype="float32") - np.eye(3, dtype="float32")[classes][:, None]
    _, upper = verifier.bound_rows(Ball(INPUTS, as_column(interval.certified, INPUTS)), rows)
    own = np.eye(3, dtype=bool)[classes]
    assert (np.where(own, -1, upper) >= 0).any(axis=1).any(), "crown alone proves all of it"
    steps = np.random.default_rng(1).uniform(-1, 1, (2000, 1, 2))
    points = (INPUTS + steps * interval.certified[:, None]).reshape(-1, 2)
    found = verifier.evaluate(points.astype("float32")).argmax(axis=1).reshape(2000, -1)
    assert (found == classes).all()


def test_inputs_of_another_class_have_no_radius(verifier):
    classes = verifier.evaluate(INPUTS).argmax(axis=1)
    targets = classes.copy()
    targets[2] = (targets[2] + 1) % 3
    interval = verifier.radius(INPUTS, targets, largest=0.5, nb_halvings=4)
    assert interval.certified[2] == interval.attacked[2] == 0
    assert (np.delete(interval.certified, 2) > 0).all()
    one_hot = np.eye(3, dtype="float32")[targets]
    again = verifier.radius(INPUTS, one_hot, largest=0.5, nb_halvings=4)
    np.testing.assert_array_equal(again.certified, interval.certified)
    np.testing.assert_array_equal(again.attacked, interval.attacked)


def test_linear_networks_are_exact():
    model = sequential((3,), L.Dense(1))
    kernel, bias = model.get_weights()
    inputs = np.random.default_rng(2).normal(size=(4, 3)).astype("float32")
    interval = Verifier(model, strip_head=True).radius(inputs, norm=2, largest=5.0, timeout=None)
    distances = np.abs(inputs @ kernel + bias)[:, 0] / np.linalg.norm(kernel)
    assert (interval.certified <= distances).all()
    assert (interval.attacked >= distances * (1 - 1e-6)).all()
    assert interval.gap.max() < 0.02 * 5


def test_clip_limits_what_is_attacked(verifier):
    wide = verifier.radius(INPUTS, largest=2.0, nb_halvings=4)
    narrow = verifier.radius(INPUTS, clip=(0.0, 1.0), largest=2.0, nb_halvings=4)
    assert (narrow.attacked >= wide.certified).all()
    assert (narrow.certified == 2.0).sum() >= (wide.certified == 2.0).sum()


def test_constants_stay(verifier):
    x, y = keras.Input((2,)), keras.Input((3,))
    model = functional([x, y], L.Dense(3)(L.ReLU()(L.Dense(4)(L.Concatenate()([x, y])))))
    held = np.random.default_rng(3).normal(size=(4, 3)).astype("float32")
    found = Verifier(model).radius(INPUTS, constants=[held], largest=4.0, nb_halvings=4)
    for n in (0, 3):
        one = slice(n, n + 1)
        alone = Verifier(model).radius(
            INPUTS[one], constants=[held[one]], largest=4.0, nb_halvings=4
        )
        assert alone.certified[0] <= found.attacked[n]
        assert found.certified[n] <= alone.attacked[0]


def test_no_time_is_nothing_proved(verifier):
    interval = verifier.radius(INPUTS, largest=1.0, timeout=0.0)
    np.testing.assert_array_equal(interval.certified, 0)
    assert (interval.attacked > 0).all()


@pytest.mark.parametrize("stage", ["bound_rows", "decide"])
def test_interrupted_calls_return_what_is_known(verifier, monkeypatch, stage):
    calls, own = [], getattr(Verifier, stage)

    def interrupt(*arguments, **settings):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return own(*arguments, **settings)

    whole = verifier.radius(INPUTS, largest=1.0, timeout=None)
    monkeypatch.setattr(Verifier, stage, interrupt)
    interval = verifier.radius(INPUTS, largest=1.0, timeout=None)
    assert (interval.certified <= whole.attacked).all()
    assert (interval.certified > 0).any()
    assert (interval.certified < whole.certified).any()


def test_undecided_radii_are_not_broken(verifier, monkeypatch):
    whole = verifier.radius(INPUTS, largest=1.0, timeout=None)
    own = Verifier.decide

    def undecided(*arguments, **settings):
        return own(*arguments, **settings | {"timeout": 0.0})

    monkeypatch.setattr(Verifier, "decide", undecided)
    interval = verifier.radius(INPUTS, largest=1.0, timeout=None)
    assert (interval.certified <= whole.attacked).all()
    assert (interval.attacked >= whole.certified).all()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"timeout": -1.0}, "timeout must be seconds"),
        ({"strategy": "magic"}, "strategy must be one of"),
        ({"nb_halvings": 0}, "nb_halvings"),
        ({"largest": 0.0}, "largest"),
        ({"norm": 3}, "norm must be"),
        ({"targets": [0, 1]}, "targets"),
        ({"clip": (0.5, 1.0)}, "leaves the valid range"),
    ],
)
def test_wrong_settings(verifier, settings, problem):
    with pytest.raises(ValueError, match=problem):
        verifier.radius(INPUTS, **settings)


def test_a_sigmoid_that_stays_is_refused():
    model = sequential((2,), L.Dense(1, activation="sigmoid"))
    with pytest.raises(ValueError, match="strip_head=True"):
        Verifier(model, strip_head=False).radius(INPUTS)
    found = Verifier(model, strip_head=True).radius(INPUTS, largest=5.0, nb_halvings=3)
    assert (found.certified > 0).all()
