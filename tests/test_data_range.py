"""The valid range that is taken from inputs: ``clip="auto"``."""

import warnings

import keras
import numpy as np
import pytest
from networks import sequential

from xcertify.attributions import EVA, GreedyAS
from xcertify.data_range import data_range, range_for
from xcertify.metrics import RobustnessSr

L = keras.layers


def uniform(low, high, shape):
    return np.random.default_rng(0).uniform(low, high, shape).astype("float32")


@pytest.mark.parametrize(
    ("low", "high", "shape", "expected"),
    [
        (0.2, 0.9, (4, 3), (0.0, 1.0)),
        (0.0, 1.0, (4, 5, 5, 1), (0.0, 1.0)),
        (-0.9, 0.9, (4, 5, 3), (-1.0, 1.0)),
        (-0.9, -0.5, (4, 3), (-1.0, 1.0)),
        (0.0, 250.0, (4, 5, 5, 3), (0.0, 255.0)),
    ],
)
def test_ranges_that_are_known(low, high, shape, expected):
    assert data_range(uniform(low, high, shape)) == expected


@pytest.mark.parametrize(
    ("low", "high", "shape"),
    [(0.0, 250.0, (4, 3)), (-3.0, 3.0, (4, 6, 2)), (-20.0, 250.0, (4, 5, 5, 3))],
)
def test_other_ranges_are_those_of_each_column(low, high, shape):
    inputs = uniform(low, high, shape)
    inputs[..., 0] = 7.0
    lows, highs = data_range(inputs)
    columns = inputs.reshape(-1, shape[-1])
    np.testing.assert_array_equal(lows, columns.min(axis=0))
    np.testing.assert_array_equal(highs, columns.max(axis=0))


def test_what_says_nothing_of_a_range():
    with pytest.raises(ValueError, match="one value only in each .*give clip=.low, high."):
        data_range(np.full((3, 4), 7.0))
    for wrong in (np.zeros((0, 3)), np.zeros(3), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="inputs must be finite numbers"):
            data_range(wrong)


def test_a_range_that_was_given_stays():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for clip in ((0, 9), None, (np.zeros(3), np.ones(3))):
            assert range_for(clip, uniform(-5, 5, (4, 3))) is clip
        assert range_for("auto", uniform(0, 1, (4, 3))) == (0.0, 1.0)
        range_for("auto", uniform(-5, 5, (4, 3)), warns=None)


def net(shape):
    return sequential(shape, L.Flatten(), L.Dense(5, "relu"), L.Dense(3), seed=1)


@pytest.mark.usefixtures("eager")
def test_robustness_of_inputs_in_any_range():
    settings = {"fractions": (0.5,), "certified": True, "steps": 5, "restarts": 1, "nb_halvings": 2}
    model, inputs = net((6,)), uniform(-1, 1, (3, 6))
    with pytest.warns(UserWarning, match=r"took the valid range \(-1, 1\) .*give clip=") as told:
        metric = RobustnessSr(model, inputs, **settings)
    assert told[0].filename == __file__ and metric.clip == "auto"
    assert metric.valid_range == (-1.0, 1.0)
    found = metric.detailed_evaluate(np.abs(inputs))
    given = RobustnessSr(model, inputs, clip=(-1, 1), **settings).detailed_evaluate(np.abs(inputs))
    np.testing.assert_array_equal(found.curves, given.curves)
    np.testing.assert_array_equal(found.certified_curves, given.certified_curves)
    table = uniform(-1, 1, (3, 6)) * [1, 10, 100, 1, 5, 50]
    with pytest.warns(UserWarning, match=r"took the valid range \(\["):
        metric = RobustnessSr(model, table, **settings)
    assert (metric.detailed_evaluate(np.abs(table)).curves > 0).all()
    with pytest.raises(ValueError, match="or clip='auto'"):
        RobustnessSr(model, table, clip=(0, 1))


@pytest.mark.usefixtures("eager")
def test_greedy_sets_look_at_all_inputs_of_a_call():
    model, inputs = net((6,)), uniform(-3, 3, (3, 6))
    settings = {"nb_subsets": 5, "steps": 3, "share": 0.4}
    with pytest.warns(UserWarning, match="clip='auto' took") as told:
        maps = GreedyAS(model, batch_size=5, **settings).explain(inputs)
    assert told[0].filename == __file__
    given = GreedyAS(model, clip=data_range(inputs), **settings)(inputs)
    np.testing.assert_array_equal(maps, given)
    words = GreedyAS(model).perturbation.describe()
    assert words.endswith("within the range of the inputs")


def test_others_say_how_to_take_it():
    model, inputs = net((6,)), uniform(-1, 1, (3, 6))
    with pytest.raises(ValueError, match="data_range.inputs. of xcertify.data_range"):
        EVA(model, clip="auto").certify(inputs)
    assert EVA(model, clip=data_range(inputs)).certify(inputs).region.clip == (-1.0, 1.0)
