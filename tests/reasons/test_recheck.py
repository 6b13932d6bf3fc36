"""ReasonCertificate: certificates by hand, their files, and that changed ones are found out."""

import dataclasses
import functools
import json

import keras
import numpy as np
import pytest
from keras import layers as L
from networks import functional

from xcertify.certificates import ReasonCertificate, fingerprint
from xcertify.radii import Interval
from xcertify.reasons import Answers, Features
from xcertify.recheck import recheck
from xcertify.regions import Ball, Box


@functools.cache  # nobody changes it
def weighed_sum(weights=(1.0, 2.0, 3.0, 0.0), bias=-3.5, activation=None):
    """Class 1 where the weighed sum of columns is above -bias."""
    model = keras.Sequential([keras.Input((len(weights),)), L.Dense(2, activation=activation)])
    kernel = np.stack([np.zeros(len(weights)), weights], axis=1)
    model.set_weights([kernel.astype("f4"), np.array([0, bias], "f4")])
    return model


def by_hand(model, region, needed, unknown, witnesses, answers, smallest, groups=None):
    features = Features.of(region.shape, len(region), groups)
    needed, unknown = features.expand(needed), features.expand(unknown)
    kept = [np.unique(own[mask]) for own, mask in zip(features.labels, needed | unknown)]
    sizes = np.array([len(some) for some in kept])
    smallest = np.asarray(smallest)
    return ReasonCertificate(
        region=region,
        method="crown",
        arithmetic="real",
        interval=Interval(sizes.astype(float), smallest.astype(float)),
        irrelevant=~needed & ~unknown,
        needed=needed,
        unknown=unknown,
        features=features.labels,
        sizes=sizes,
        smallest=smallest,
        witnesses=witnesses,
        targets=answers.classes,
        answers=answers,
        contributions=np.zeros(features.labels.shape, "f4"),
        seconds=np.full(len(sizes), 0.25),
        reason=np.where([own.any() for own in unknown], "time limit", ""),
        settings={"grid_size": None, "complete": True},
        fingerprint=fingerprint(model),
    )


def sums(model=None, region=None):
    """Two inputs whose sums are 6: a loss of 2.5 changes the class; the second one is left open."""
    model = weighed_sum() if model is None else model
    region = Ball(np.ones((2, 4), "f4"), 1.0) if region is None else region
    needed = np.array([[True, False, True, False], [False] * 4])
    unknown = np.array([[False] * 4, [True, False, True, True]])
    witnesses = [{0: np.float32([0, 0, 1, 1]), 2: np.float32([1, 1, 0, 1])}, {}]
    answers = Answers.of(np.array([[0, 2.5]] * 2), np.array([1, 1]))
    return model, by_hand(model, region, needed, unknown, witnesses, answers, [2, 0])


def changed(certificate, **fields):
    """With some fields of the first input replaced."""
    arrays = {}
    for name, value in fields.items():
        array = np.array(getattr(certificate, name))
        array[0] = value
        arrays[name] = array
    return dataclasses.replace(certificate, **arrays)


def test_rechecked():
    model, certificate = sums()
    assert recheck(certificate, model).tolist() == [True, True]
    assert certificate.minimal.tolist() == [True, False]
    assert certificate.nb_groups.tolist() == [4, 4]
    np.testing.assert_array_equal(certificate.kept[0], [True, False, True, False])
    np.testing.assert_array_equal(certificate.certified, [2, 3])
    np.testing.assert_array_equal(certificate.attacked, [2, 0])
    assert "2.5 of 4 features are proved to be enough, fewer than 1 are not" in repr(certificate)
    assert "so that the class stays on linf balls of radius 1; 1 sets" in repr(certificate)


def test_certificates_of_some_inputs():
    model, certificate = sums()
    some = certificate[np.array([1])]
    assert len(certificate) == 2 and len(some) == 1 and len(some.interval) == 1
    np.testing.assert_array_equal(some.needed, certificate.needed[1:])
    assert some.witnesses == certificate.witnesses[1:]
    some.check()
    assert recheck(certificate[:1], model).tolist() == recheck(certificate, model)[:1].tolist()


@pytest.mark.parametrize("kind", ["ball", "clip", "radii", "box"])
def test_files(tmp_path, kind):
    inputs = np.ones((2, 4), "f4")
    region = {
        "ball": Ball(inputs, 1.0),
        "clip": Ball(inputs, 1.0, clip=(np.float32([0, 0, 0, -3]), 2.0)),
        "radii": Ball(inputs, np.array([[1.0], [0.9]])),
        "box": Box(inputs - 1, inputs + 1),
    }[kind]
    model, certificate = sums(region=region)
    certificate.save(tmp_path / "certificate.npz")
    loaded = ReasonCertificate.load(tmp_path / "certificate.npz")
    assert json.dumps(loaded.to_dict()) == json.dumps(certificate.to_dict())
    assert repr(loaded) == repr(certificate)
    np.testing.assert_array_equal(loaded.region.lower, region.lower)
    assert loaded.witnesses[0][2].dtype == np.float32 and loaded.witnesses[1] == {}
    assert recheck(loaded, model).all()


def test_files_of_other_questions(tmp_path):
    _, certificate = sums()
    for answers in (
        Answers.of(np.array([[0, 2.5]] * 2), np.array([1, 1]), towards=0),
        Answers.of(np.array([[0, 2.5]] * 2), np.array([1, 1]), class_groups=[4, 2]),
        Answers.of(np.array([[0, 0.1]] * 2), np.array([1, 1]), delta=1 / 3),
    ):
        own = dataclasses.replace(certificate, answers=answers)
        own.save(tmp_path / "certificate.npz")
        loaded = ReasonCertificate.load(tmp_path / "certificate.npz")
        assert loaded.answers.to_dict() == answers.to_dict()


def test_only_files_that_say_all(tmp_path):
    _, certificate = sums()
    for region in (certificate.region.positive(), certificate.region.at_most(2)):
        part = dataclasses.replace(certificate, region=region)
        with pytest.raises(ValueError, match="only the regions of a Ball or a Box"):
            part.save(tmp_path / "certificate.npz")
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(ValueError, match="must be a certificate.*the arrays a"):
        ReasonCertificate.load(tmp_path / "other.npz")


def test_other_weights():
    _, certificate = sums()
    with pytest.raises(ValueError, match="not those that the certificate is for"):
        recheck(certificate, weighed_sum(bias=-3.4))


def test_features_that_are_not_irrelevant():
    model, certificate = sums()
    wrong = changed(certificate, needed=[False, False, True, False], sizes=1, smallest=1)
    wrong = changed(wrong, irrelevant=[True, True, False, True])
    witnesses = [{2: certificate.witnesses[0][2]}, {}]
    wrong = dataclasses.replace(wrong, witnesses=witnesses)
    assert recheck(wrong, model).tolist() == [False, True]


@pytest.mark.parametrize(
    "point",
    [
        [0, 0, 0, 1],  # changes another needed one, too
        [0, -0.01, 1, 1],  # outside the region
        [0, 1, 1, 1],  # does not change the class
        [1, 1, 1, 1],  # nothing
        [np.nan, 0, 1, 1],
    ],
)
def test_witnesses_that_are_none(point):
    model, certificate = sums()
    witnesses = [certificate.witnesses[0] | {0: np.float32(point)}, {}]
    wrong = dataclasses.replace(certificate, witnesses=witnesses)
    assert recheck(wrong, model).tolist() == [False, True]


def test_a_smallest_size_that_witnesses_do_not_show():
    model, certificate = sums()
    wide = [{0: np.float32([0, 0, 1, 1]), 2: np.float32([1, 0, 0, 1])}, {}]  # both change column 1
    wide = dataclasses.replace(certificate, witnesses=wide)
    assert recheck(wide, model).tolist() == [False, True]
    assert recheck(changed(wide, smallest=1), model).all()
    assert recheck(changed(certificate, smallest=1), model).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": 1}, "smallest is not up to sizes, for input 0"),
        ({"sizes": 3}, "sizes are not the numbers of groups"),
        ({"smallest": 3}, "smallest is not up to sizes"),
        ({"smallest": -1}, "smallest is not up to sizes"),
        ({"unknown": True}, "not exactly one of the three words"),
        ({"irrelevant": False}, "not exactly one of the three words"),
        ({"targets": 0}, "the targets are not those of answers"),
        ({"features": [0, 1, 1, 2]}, "sizes are not|more than one word"),
        ({"features": [0, 1, 2, 7]}, None),
    ],
)
def test_contradictions(fields, message):
    model, certificate = sums()
    wrong = changed(certificate, **fields)
    if message is None:
        assert recheck(wrong, model).all()
        return
    with pytest.raises(ValueError, match=message):
        recheck(wrong, model)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("needed", np.zeros((2, 3), bool), r"needed .* shape \(2, 4\). Received: bool of shape"),
        ("unknown", np.zeros((2, 4), int), "unknown .* Received: int64"),
        ("features", np.zeros((2, 4)), "features .* Received: float64"),
        ("sizes", np.array([2]), "sizes"),
        ("smallest", np.array([2.0, 0.0]), "smallest"),
        ("answers", Answers(np.array([1]), 2), "an answer for each of the 2 inputs.* 2 and 1"),
        ("answers", Answers(np.array([1, 1]), 3), "is for 3 outputs. Received: a model of 2"),
    ],
)
def test_other_shapes(name, value, message):
    model, certificate = sums()
    with pytest.raises(ValueError, match=message):
        recheck(dataclasses.replace(certificate, **{name: value}), model)


def test_witnesses_that_are_missing():
    model, certificate = sums()
    for witnesses in ([{}, {}], [{0: np.ones(4)}, {}], certificate.witnesses[:1]):
        with pytest.raises(ValueError, match="witnesses"):
            recheck(dataclasses.replace(certificate, witnesses=witnesses), model)
    witnesses = [{0: np.ones(3, "f4"), 2: np.ones(4, "f4")}, {}]
    with pytest.raises(ValueError, match="witnesses are not one input"):
        recheck(dataclasses.replace(certificate, witnesses=witnesses), model)


def test_answers_that_the_model_does_not_give():
    model, certificate = sums()
    answers = Answers(np.array([0, 1]), 2)
    wrong = dataclasses.replace(certificate, answers=answers, targets=answers.classes)
    assert recheck(wrong, model).tolist() == [False, True]


def test_values_within_delta():
    model, certificate = sums()
    outputs = np.array([[0, 2.5]] * 2)
    answers = Answers.of(outputs, np.array([1, 1]), delta=2.5)
    right = dataclasses.replace(certificate, answers=answers)
    assert recheck(right, model).tolist() == [True, True]
    answers = Answers.of(outputs + 0.1 * np.eye(2)[::-1], np.array([1, 1]), delta=2.5)
    wrong = dataclasses.replace(certificate, answers=answers)
    assert recheck(wrong, model).tolist() == [False, True]


def test_softmax():
    model, certificate = sums(weighed_sum(activation="softmax"))
    assert recheck(certificate, model).all()


def test_channels_first_and_groups():
    """Of images of two channels and two pixels, where the sum of a pixel decides."""
    inputs = keras.Input((2, 1, 4))
    flat = L.Flatten()(L.Permute((2, 3, 1))(inputs))
    model = functional(inputs, L.Dense(2)(flat))
    kernel = np.repeat(np.stack([np.zeros(4), [1, 2, 3, 0]], axis=1), 2, axis=0) / 2
    model.set_weights([kernel.astype("f4"), np.array([0, -3.5], "f4")])
    region = Ball(np.ones((1, 1, 4, 2), "f4"), 1.0)
    groups = np.array([[5, 30, 7, 30]])
    point = np.ones((1, 4, 2), "f4")
    witnesses = [{5: point.copy(), 7: point.copy()}]
    witnesses[0][5][0, :2] = 0
    witnesses[0][7][0, 2] = 0
    answers = Answers.of(np.array([[0, 2.5]]), np.array([1]))
    needed = np.array([[True, True, False]])  # 5, 7, 30
    certificate = by_hand(model, region, needed, needed & False, witnesses, answers, [2], groups)
    assert certificate.kept.shape == (1, 1, 4) and certificate.sizes[0] == 2
    assert recheck(certificate, model).all()
    witnesses[0][5][0, 0, 1] = 1  # half of a pixel: 1/2 + 2 is a loss of 2.5, a tie
    assert recheck(certificate, model).all()
    witnesses[0][5][0, 1, 1] = 0.5
    assert not recheck(certificate, model).any()
