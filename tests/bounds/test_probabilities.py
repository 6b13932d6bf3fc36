"""Bounds of probabilities: the exact image of bounds of log-odds, in floating point as well."""

import decimal
import itertools
import math

import keras
import numpy as np
import pytest
from conformance import adversarial_points, in_float64
from networks import functional, sequential

from xcertify.bounds import Verifier
from xcertify.bounds.probabilities import (
    outward,
    pair_rows,
    probability_of,
    sigmoid_bounds,
    softmax_bounds,
)
from xcertify.regions import Ball

L = keras.layers
HUGE = (-np.inf, -1e300, -800.0, -745.2, -708.3, -40.0, 0.0, 1e-300, 36.7, 300.0, 709.7, 745.0)


def exact(exponents):
    """1 / (1 + sum of exp) of finite numbers, with 60 digits."""
    with decimal.localcontext() as context:
        context.prec, context.Emin, context.Emax = 60, -(10**15), 10**15
        total = sum((decimal.Decimal(float(d)).exp() for d in exponents), decimal.Decimal(1))
        return 1 / total


def test_the_image_is_exact_but_for_roundings():
    generator = np.random.default_rng(0)
    scales = 10.0 ** generator.uniform(-6, 2.5, (60, 1))
    low = generator.normal(size=(60, 3)) * scales
    high = low + generator.random((60, 3)) * scales
    low[:5] = high[:5]
    below, above = probability_of(low, high)
    for found, side, sign in ((below, high, -1), (above, low, 1)):
        for number, exponents in zip(found, side):
            true = exact(exponents)
            assert sign * (decimal.Decimal(float(number)) - true) >= 0
            assert abs(float(number) - float(true)) <= 1e-14 * float(true)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_is_lost_where_numbers_end(dtype):
    for low, high in itertools.combinations_with_replacement((*HUGE, 1e300, np.inf), 2):
        below, above = outward(*probability_of(np.array([low]), np.array([high])), dtype)
        assert below.dtype == above.dtype == dtype
        assert 0 <= below <= above <= 1
        # of exponents up to 1e5 the number itself is known
        least = decimal.Decimal(0) if high > 1e5 else exact([max(high, -1e5)])
        most = decimal.Decimal(1) if low < -1e5 else exact([min(low, 1e5)])
        assert decimal.Decimal(float(below)) <= least or low == high == -np.inf
        assert decimal.Decimal(float(above)) >= most
    assert (sigmoid_bounds(np.array([-np.inf]), np.array([np.inf])) == np.array([[0], [1]])).all()


def test_by_hand():
    below, above = sigmoid_bounds(np.array([0.0, math.log(3)]), np.array([math.log(3), 800.0]))
    np.testing.assert_allclose(below, [0.5, 0.75], rtol=1e-14)
    np.testing.assert_allclose(above, [0.75, 1.0], rtol=1e-14)
    # f_1 - f_0, f_2 - f_0, f_2 - f_1 of logits log 1, log 2, log 5
    logs = np.log([1.0, 2.0, 5.0])
    differences = np.concatenate([rows.astype("f8") @ logs for rows in pair_rows(3)])[None]
    sides = softmax_bounds(differences, differences, 3)
    np.testing.assert_allclose(sides, np.array([[[1, 2, 5]]] * 2) / 8, rtol=1e-13)


def test_pairs_are_made_some_at_a_time():
    parts = list(pair_rows(100))
    assert max(map(len, parts)) <= 4096 and sum(map(len, parts)) == 4950
    rows = np.concatenate(parts)
    assert len(np.unique(rows, axis=0)) == 4950
    assert (rows.sum(axis=1) == 0).all() and (np.abs(rows).sum(axis=1) == 2).all()


def ending(*head):
    return sequential((5,), L.Dense(9, "relu"), *head, seed=2)


MODELS = {
    "softmax": lambda: ending(L.Dense(4, "softmax")),
    "softmax layer": lambda: ending(L.Dense(4), L.Softmax()),
    "sigmoid": lambda: ending(L.Dense(1, "sigmoid")),
    "sigmoids": lambda: ending(L.Dense(3), L.Activation("sigmoid")),
    "steep": lambda: ending(L.Dense(4, kernel_initializer="ones"), L.Rescaling(60.0), L.Softmax()),
}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", MODELS)
def test_no_point_leaves_them(name):
    model = MODELS[name]()
    inputs = np.random.default_rng(1).uniform(0, 1, (3, 5)).astype("f4")
    region = Ball(inputs, [0.5, 0.05, 0.0], clip=(0, 1))
    true = in_float64(model)
    points = adversarial_points(true, region, 40, 0)
    values = true(points.reshape(-1, 5)).numpy().reshape(*points.shape[:2], -1)
    widths = {}
    for method in ("ibp", "crown"):
        lower, upper = Verifier(model, method).bound_probabilities(region)
        assert lower.shape == upper.shape == (3, values.shape[-1]) and lower.dtype == "float32"
        # the softmax of the twin in float64 has roundings, too
        assert (lower <= values + 1e-14).all() and (values <= upper + 1e-14).all()
        assert (lower >= 0).all() and (upper <= 1).all()
        assert (upper[2] - lower[2] <= 4e-5).all()
        widths[method] = (upper - lower).mean()
    assert widths["crown"] <= widths["ibp"] + 1e-6
    outputs = Verifier(model, "crown", strip_head=False).bound_outputs(region)
    assert widths["crown"] <= (outputs[1] - outputs[0]).mean() + 1e-5


@pytest.mark.usefixtures("eager")
def test_the_type_and_a_shape_of_more_axes():
    inputs = keras.Input((4,))
    model = functional(inputs, L.Reshape((1, 3))(L.Dense(3, "softmax")(inputs)))
    region = Ball(np.full((2, 4), 0.5), 0.1)
    lower, upper = Verifier(model, dtype="float64").bound_probabilities(region)
    assert lower.shape == upper.shape == (2, 1, 3) and lower.dtype == "float64"
    values = model(region.center).numpy()
    assert (lower <= values + 1e-7).all() and (values - 1e-7 <= upper).all()


@pytest.mark.usefixtures("eager")
def test_what_is_said_of_models_without_a_head():
    model = ending(L.Dense(3))
    region = Ball(np.full((2, 5), 0.5), 0.1)
    verifier = Verifier(model, "ibp")
    with pytest.raises(
        ValueError, match="head must be 'softmax' or 'sigmoid' .* ends with neither"
    ):
        verifier.bound_probabilities(region)
    for head, function in [("softmax", keras.ops.softmax), ("sigmoid", keras.ops.sigmoid)]:
        lower, upper = verifier.bound_probabilities(region, head=head)
        values = function(model(region.center)).numpy()
        assert (lower <= values).all() and (values <= upper).all()
    one = Verifier(ending(L.Dense(1)), "ibp").bound_probabilities(region, head="softmax")
    np.testing.assert_allclose(one, 1, rtol=1e-6)
    model = ending(L.Dense(3, "softmax"))
    with pytest.raises(ValueError, match="head must be 'softmax' or None .* ends with softmax"):
        Verifier(model, "ibp").bound_probabilities(region, head="sigmoid")
    with pytest.raises(ValueError, match="use strip_head=True. .* Received: strip_head=False"):
        Verifier(model, "ibp", strip_head=False).bound_probabilities(region)
    inputs = keras.Input((4,))
    many = functional(inputs, L.Softmax()(L.Reshape((2, 3))(L.Dense(6)(inputs))))
    with pytest.raises(ValueError, match="needs one row of outputs"):
        Verifier(many, "ibp").bound_probabilities(Ball(np.full((2, 4), 0.5), 0.1))
    with pytest.raises(ValueError, match="inputs of shape"):
        verifier.bound_probabilities(Ball(np.zeros((2, 4)), 0.1), head="softmax")
