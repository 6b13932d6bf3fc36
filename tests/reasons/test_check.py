"""check: sets of features of any tool, proved, refuted or undecided."""

import functools
import json

import keras
import numpy as np
import pytest
from keras import layers as L
from networks import functional, sequential

from xcertify.perturbation import Perturbation
from xcertify.reasons import check
from xcertify.regions import Ball, Box


@functools.cache  # nobody changes it
def weighed_sum(weights=(1.0, 2.0, 3.0, 0.0), bias=-3.5, activation=None):
    """Class 1 where the weighed sum of columns is above -bias."""
    model = keras.Sequential([keras.Input((len(weights),)), L.Dense(2, activation=activation)])
    kernel = np.stack([np.zeros(len(weights)), weights], axis=1)
    model.set_weights([kernel.astype("f4"), np.array([0, bias], "f4")])
    return model


ONES = np.ones((1, 4), "f4")  # the sum is 6; below 3.5 with a loss of 2.5 or more
AROUND = Perturbation(1.0)


@pytest.mark.parametrize(
    ("kept", "status"),
    [
        ([], "refuted"),
        ([2], "refuted"),  # 1 + 2 lost
        ([0, 2], "proved"),
        ([1, 2], "proved"),
        ([0, 1], "refuted"),
        ([0, 1, 2, 3], "proved"),
        ([3], "refuted"),
    ],
)
def test_sums_by_hand(kept, status):
    model = weighed_sum()
    mask = np.isin(np.arange(4), kept)
    for one in (kept, np.array(kept, int), mask, set(kept), tuple(kept), mask.tolist()):
        found = check(model, ONES, [one], AROUND)
        assert found.status.tolist() == [status] and found.sizes.tolist() == [len(kept)]
    point = found.counterexamples[0]
    if status == "refuted":
        assert found.refuted[0] and not found.proved[0]
        assert (point[mask] == 1).all() and (abs(point - 1) <= 1).all()
        assert model(point[None].astype("f4")).numpy().argmax() == 0
    else:
        assert found.proved[0] and np.isnan(point).all()
    json.dumps(found.to_dict())


def test_regions_of_every_kind():
    inputs = np.concatenate([ONES, ONES * 1.25])
    sets = [[2], [2]]  # the second one has a sum of 7.5: 4 left, and 1.5 lost
    radii = np.array([[1.0], [0.5]])
    for region in (
        Perturbation(radii),
        Ball(inputs, radii[:, 0]),
        Box(inputs - radii, inputs + radii),
    ):
        assert check(weighed_sum(), inputs, sets, region).status.tolist() == ["refuted", "proved"]


def test_clip_is_part_of_the_region():
    found = check(weighed_sum(), ONES, [[2]], Perturbation(1.0, clip=(0.2, 2.0)))
    assert found.proved.all()  # 1 + 2 of 3 is less than 2.5
    assert check(weighed_sum(), ONES, [[2]], Perturbation(1.0, norm=2)).proved.all()


def test_both_sides_of_the_box_count():
    """Upwards nothing happens: a proof of [x, x + epsilon] alone would call any set enough."""
    found = check(weighed_sum(), ONES, [[]], AROUND)
    assert found.refuted.all() and (found.counterexamples < 1).any()


def test_softmax_and_other_targets():
    model = weighed_sum(activation="softmax")
    assert check(model, ONES, [[0, 2]], AROUND, targets=[1]).proved.all()
    assert check(model, ONES, [[0, 2]], AROUND, targets=np.array([[0, 1]])).proved.all()
    with pytest.raises(ValueError, match="Received: target 0 for sample 0"):
        check(model, ONES, [[0, 2]], AROUND, targets=[0])


def test_questions():
    model = sequential((4,), L.Dense(3))
    kernel = np.array([[3, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 1]], "f4")
    model.set_weights([kernel, np.zeros(3, "f4")])
    inputs = np.array([[1, 1, 1, 1]], "f4")  # outputs 5, 2, 1
    for options, kept, status in (
        ({}, [0], "refuted"),  # 5 - 2 <= 2 + 2
        ({"towards": 2}, [0], "proved"),  # 5 - 2 > 1 + 1
        ({"class_groups": [0, 0, 1]}, [0], "proved"),
        ({"class_groups": [0, 1, 0]}, [0], "refuted"),
        ({"class_groups": [0, 1, 0]}, [0, 1], "proved"),  # 5 > 4
        ({"delta": 2.5}, [0], "proved"),
        ({"delta": 2.5}, [1], "refuted"),
    ):
        targets = [0] if "delta" in options else None
        found = check(model, inputs, [kept], AROUND, targets, **options)
        assert found.status.tolist() == [status], (options, kept)
    with pytest.raises(ValueError, match="targets must name the output"):
        check(model, inputs, [[0]], AROUND, delta=1.0)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_single_output(activation):
    model = sequential((2,), L.Dense(1, activation=activation))
    model.set_weights([np.array([[1], [-2]], "f4"), np.array([0.5], "f4")])
    inputs = np.array([[1, 0], [0, 1]], "f4")  # 1.5 and -1.5
    found = check(model, inputs, [[0], [1]], AROUND)
    assert found.status.tolist() == ["refuted", "proved"]
    if activation is None:
        found = check(model, inputs, [[0], [1]], AROUND, delta=1.5)
        assert found.status.tolist() == ["refuted", "proved"]


def test_channels_of_a_pixel_stay_together():
    model = sequential((2, 2, 3), L.Flatten(), L.Dense(2))
    kernel = np.zeros((12, 2), "f4")
    kernel[:3, 1] = 1  # the three channels of the first pixel
    model.set_weights([kernel, np.array([0, -0.5], "f4")])
    images = np.ones((1, 2, 2, 3), "f4")
    assert check(model, images, [[0]], AROUND).proved.all()
    assert check(model, images, [[1, 2, 3]], AROUND).refuted.all()
    entries = np.zeros((1, 2, 2, 3), bool)
    entries[0, 0, 0, 0] = True  # one channel is as good as all here: 1 > 0.5
    found = check(model, images, entries, AROUND)
    assert found.proved.all() and found.sizes.tolist() == [1]


@pytest.mark.parametrize("as_region", [False, True])
def test_channels_first(as_region):
    inputs = keras.Input((3, 4, 5))
    x = L.Conv2D(2, 2, activation="relu")(L.Permute((2, 3, 1))(inputs))
    model = functional(inputs, L.Dense(3)(L.Flatten()(x)))
    images = np.random.default_rng(0).random((3, 3, 4, 5)).astype("f4")
    masks = np.zeros((3, 4, 5), bool)
    masks[0], masks[1, :2] = True, True
    region = Ball(images, 2.0) if as_region else Perturbation(2.0)
    found = check(model, images, masks, region, timeout=20)
    assert found.status.tolist() == ["proved", "refuted", "refuted"]
    points = found.counterexamples
    assert points.shape == images.shape
    np.testing.assert_array_equal(points[1, :, :2], images[1, :, :2])
    classes = [model(x[:2]).numpy().argmax(axis=1) for x in (images[1:], points[1:].astype("f4"))]
    assert (classes[0] != classes[1]).all()


def test_fixed_batch_of_one():
    model = keras.Sequential([keras.Input(batch_shape=(1, 4)), L.Dense(2)])
    model.set_weights(weighed_sum().get_weights())
    found = check(model, np.repeat(ONES, 3, axis=0), [[2], [0, 2], [1, 2]], AROUND)
    assert found.status.tolist() == ["refuted", "proved", "proved"]


def test_no_time():
    model = sequential((6,), L.Dense(20, activation="relu"), L.Dense(20, "relu"), L.Dense(3))
    inputs = np.random.default_rng(0).normal(size=(4, 6)).astype("f4")
    found = check(model, inputs, [[]] * 4, Perturbation(0.3), timeout=0.0)
    assert (found.proved | found.refuted | found.undecided).all()
    assert found.reason[found.undecided].tolist() == ["timeout"] * found.undecided.sum()
    words = repr(check(weighed_sum(), ONES, [[2]], AROUND))
    assert "1 sets of 1 features (mean), 0 proved, 1 refuted, 0 undecided" in words


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([[0, 4]], "indices of features must be from 0 to 3. Received: 4 for input 0"),
        ([[-1]], "Received: -1 for input 0"),
        ([[0.5]], "list of integer indices. Received: float64 of shape .* for input 0"),
        ([[[0, 1]]], "list of integer indices"),
        ([[True, False]], r"must have the shape \(4,\)"),
        ([[0], [1]], "for each of the 1 inputs. Received: 2 of them"),
        ("0", "Received: str"),
        (3, "Received: int"),
    ],
)
def test_refused_sets(sets, message):
    with pytest.raises(ValueError, match=message):
        check(weighed_sum(), ONES, sets, AROUND)


def test_refused_regions():
    with pytest.raises(ValueError, match="another center for input 0"):
        check(weighed_sum(), ONES, [[0]], Ball(ONES + 1, 1.0))
    with pytest.raises(ValueError, match="region must be around the inputs"):
        check(weighed_sum(), ONES, [[0]], Ball(np.ones((2, 4), "f4"), 1.0))
    with pytest.raises(ValueError, match="region must be a Ball or a Box"):
        check(weighed_sum(), ONES, [[0]], 0.1)
