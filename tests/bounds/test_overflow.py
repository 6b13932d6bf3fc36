"""What overflows, and what is NaN: infinite bounds, or an error that says why, and no proof."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import sequential

from xcertify import criteria
from xcertify.attributions import EVA, AttributionBound, CertifiedGradient, EVAHybrid
from xcertify.attributions.quadratic_forms import _proved, largest_eigenvalue
from xcertify.bounds import Verifier
from xcertify.bounds.linear_bounds import LinearBounds
from xcertify.metrics import RobustnessSr
from xcertify.regions import Ball

L = keras.layers


def deep(activation="relu"):
    """Layers whose outputs cancel, in values and not in intervals: these grow beyond float32."""
    settings = {"activation": activation, "use_bias": False}
    model = sequential((2,), *(L.Dense(2, **settings) for _ in range(9)), L.Dense(2))
    cancels = np.float32([[1e5, 1e5], [-1e5, -1e5]])
    model.set_weights([cancels] * 9 + [np.float32([[1, -1], [-1, 1]]), np.float32([2, 1])])
    return model


def wide(activation="relu"):
    """Sums of a thousand large terms of both signs, whose sizes add up to more than float32 has."""
    model = sequential((1000,), L.Dense(2), L.Activation(activation), L.Dense(2, use_bias=False))
    first = np.full((1000, 2), 1e-3)
    first[:, 0] = 3e35 * SIGNS
    model.set_weights([first, np.zeros(2), np.array([[1e-35, -1], [1, 1e-3]])])
    return model


SIGNS = np.sign(np.random.default_rng(0).normal(size=1000))
INPUTS = np.array([[1.0, 1.0], [0.5, 0.25]], "float32")
MANY = np.random.default_rng(1).random((2, 1000), dtype="float32")
ACTIVATIONS = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "leaky_relu": lambda z: np.where(z > 0, z, 0.2 * z),
}


@pytest.mark.parametrize(
    ("method", "activation"),
    [("ibp", "relu"), ("crown", "relu"), ("crown-ibp", "tanh"), ("crown-ibp", "leaky_relu")],
)
def test_bounds_hold_the_outputs_or_are_infinite(method, activation):
    model = wide(activation)
    region = Ball(MANY, 2.0)
    verifier = Verifier(model, method)
    points = np.concatenate([region.sample(20), region.lower[None], region.upper[None]])
    # the corner where the first unit is largest
    points = np.concatenate([points, (MANY + 2 * SIGNS)[None]]).astype("float64")
    first, bias, last = (w.astype("float64") for w in model.get_weights())
    hidden = points @ first + bias
    values = ACTIVATIONS[activation](hidden) @ last
    assert np.abs(hidden).max() > np.finfo("float32").max
    found = [(verifier.bound_outputs(region), values)]
    found.append((verifier.bound_layer(region, model.layers[0].name), hidden))
    if method != "ibp":
        lines = verifier.linear_bounds(region)
        for array in (lines.lower_coefficients, lines.upper_coefficients):
            assert np.isfinite(array).all()
        found.append((lines.bounds(), values))
        assert not np.isnan(lines.bounds_with_fixed(np.arange(1000) // 500)).any()
    for (lower, upper), attained in found:
        assert not np.isnan([lower, upper]).any()
        assert (lower <= attained).all() and (attained <= upper).all()


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_bounds_of_gradients(method):
    verifier = Verifier(wide())
    lower, upper = verifier.bound_gradient(Ball(MANY, 2.0), method=method)
    assert not np.isnan([lower, upper]).any()
    # by hand: both units may be on or off
    first = 3 * SIGNS * np.ones((2, 1))
    for ends in (first, first + 1e-3, 0 * first + 1e-3):
        assert (lower[:, 0] <= ends + 1e-5).all() and (upper[:, 0] >= ends - 1e-5).all()
    assert (lower[:, 1] <= np.minimum(-2.999e35 * SIGNS, 0)).all()
    assert (upper[:, 1] >= np.maximum(-2.999e35 * SIGNS, 0)).all()


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_deep_networks(method):
    model = deep()
    for norm in (np.inf, 2):
        verifier = Verifier(model, method)
        lower, upper = verifier.bound_outputs(Ball(INPUTS, 1.0, norm))
        assert not np.isnan([lower, upper]).any()
        assert (lower <= [2, 1]).all() and (upper >= [2, 1]).all()
        assert (lower == -np.inf).all() and (upper == np.inf).all()
    np.testing.assert_array_equal(verifier.evaluate(INPUTS), [[2, 1]] * 2)


def test_lines_that_are_not_proved_are_infinite_constants():
    region = Ball(INPUTS, 0.5, 2, clip=(0, 2))
    zeros, bias = np.zeros((2, 1, 2), "float32"), np.array([[1.0], [np.inf]])
    lines = LinearBounds(region, zeros, -bias, zeros, bias)
    lower, upper = lines.bounds()
    np.testing.assert_allclose(upper, bias, rtol=1e-9)
    np.testing.assert_allclose(lower, -bias, rtol=1e-9)
    lower, upper = lines.bounds_with_fixed(np.arange(2))
    np.testing.assert_allclose(upper, np.repeat(bias[..., None], 2, -1), rtol=1e-9)
    np.testing.assert_allclose(lower, -np.repeat(bias[..., None], 2, -1), rtol=1e-9)


@pytest.mark.filterwarnings("ignore::xcertify.usefulness.VacuousWarning")
@pytest.mark.parametrize("mode", ["one-pass", "exact"])
def test_eva_proves_nothing_and_draws_nothing(mode):
    model = deep()
    explainer = EVA(model, 3.0, mode=mode, method="crown-ibp")
    certificate = explainer.certify(INPUTS)
    assert (certificate.overlap == np.inf).all() and not certificate.robust.any()
    assert not np.isnan(certificate.cell_overlaps).any()
    with pytest.raises(ValueError, match=r"overlap of sample 0 has no finite bound.*epsilon=3.0"):
        explainer.explain(INPUTS)
    with pytest.raises(ValueError, match="has no finite bound"):
        explainer.explain_targeted(INPUTS, np.argmin(model(INPUTS), axis=1))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("head", ["sigmoid", None])
def test_weights_that_are_not_finite_are_named(value, head):
    """Even where an activation squashes what follows from them into a finite interval."""
    nb_outputs = 1 if head == "sigmoid" else 2
    model = sequential((4,), L.Dense(5, "sigmoid", name="broken"), L.Dense(nb_outputs, head))
    inputs = np.random.default_rng(0).random((3, 4), dtype="float32")
    verifiers = [Verifier(model, method, strip_head=False) for method in ("ibp", "crown")]
    verifiers[0].bound_outputs(Ball(inputs, 0.1))
    weights = model.get_weights()
    weights[0][1, 2] = value
    model.set_weights(weights)
    region = Ball(inputs, 0.1)
    named = pytest.raises(ValueError, match="weights of the layer 'broken'.* are NaN or infinite")
    for verifier in verifiers:
        for ask in (
            lambda: verifier.bound_outputs(region),  # noqa: B023
            lambda: verifier.bound_layer(region, model.layers[-1].name),  # noqa: B023
            lambda: verifier.bound_gradient(region),  # noqa: B023
        ):
            with named:
                ask()
    with named:
        verifiers[1].linear_bounds(region)
    for explain in (EVA(model, 0.1).explain, EVA(model, 0.1).certify):
        with pytest.raises(ValueError, match="NaN|finite"):
            explain(inputs)
    if np.isinf(value):
        return  # a sigmoid of infinity is a number, and the estimate is one of it
    with pytest.raises(ValueError, match="NaN or overflow float32"):
        EVAHybrid(model, "broken", nb_samples=3, epsilon=0.1, grid_size=None).explain(inputs)


def test_outputs_that_overflow_are_an_error_in_evaluate():
    model = sequential((2,), L.Dense(2), L.Dense(2))
    model.set_weights([np.full((2, 2), 1e30), np.zeros(2), np.full((2, 2), 1e30), np.zeros(2)])
    with pytest.raises(ValueError, match="NaN or overflow float32 in sample 1"):
        Verifier(model).evaluate(np.float32([[0, 0], [1, 1]]))
    found = Verifier(model, dtype="float64").evaluate(np.float32([[1, 1]]))
    np.testing.assert_allclose(found, 4 * float(np.float32(1e30)) ** 2)


def test_constants_are_checked():
    first, second = keras.Input((2,)), keras.Input((2,))
    model = keras.Model([first, second], L.Dense(2)(L.Add()([first, second])))
    with pytest.raises(ValueError, match="constants must be finite"):
        Verifier(model).bound_outputs(Ball(INPUTS, 0.1), constants=[INPUTS * np.nan])


def test_infinite_and_missing_sides_prove_no_criterion():
    original = np.array([[3.0, 1.0, -2.0]] * 3)
    lower, upper = original - 0.1, original + 0.1
    lower[1, 0], upper[1, 1] = -np.inf, np.inf
    lower[2, 0], upper[2, 1] = np.nan, np.nan
    target = np.array([-3.0, 5.0, 2.0])
    asked = [criteria.Within(0.5, measure) for measure in ("mse", "l2_ratio")]
    asked += [criteria.Within(0.9, "cosine"), criteria.KeepsTop(1), criteria.KeepsTop(2)]
    asked += [criteria.Excludes(target, 0.5, measure) for measure in ("mse", "l2_ratio")]
    asked += [criteria.Excludes(target, 0.9, "cosine")]
    asked += [criteria.KeepsOut(np.array([False, True, False]), 1)]
    asked += [criteria.KeepsSigns(np.array([True, False, False]))]
    for criterion in asked:
        assert criterion.holds(lower, upper, original).tolist() == [True, False, False], criterion
    for measure in criteria.MEASURES:
        assert not np.isnan(criteria.farthest(lower, upper, original, measure)).any()
        assert not np.isnan(criteria.nearest(lower, upper, target, measure)).any()
    assert not criteria.in_top(lower, upper, 1)[1:, 0].any()
    assert not criteria.out_of_top(lower, upper, 2)[1:, 1].any()


@pytest.mark.filterwarnings("ignore::xcertify.usefulness.VacuousWarning")
@pytest.mark.parametrize("attribution", ["gradient", "gradient_input"])
def test_certified_gradients(attribution):
    inputs = np.float32([[1.0, 0.0], [0.5, 0.5]])
    explainer = CertifiedGradient(deep("tanh"), 3.0, attribution=attribution, method="ibp")
    certificate = explainer.certify(inputs, np.array([1, 1]))
    assert not np.isnan([certificate.lower, certificate.upper]).any()
    assert not certificate.within(1e30).any()
    repr(certificate)


def test_gradients_that_are_not_finite_are_an_error():
    root = L.Lambda(lambda x: tf.sqrt(tf.abs(x)))
    model = sequential((3,), root, L.Dense(4, "tanh"), L.Dense(2))
    inputs = np.float32([[0.5, 0.2, 0.1], [0.0, 0.5, 1.0]])
    explainer = AttributionBound(model, epsilon=0.1)
    assert np.isfinite(explainer.certify(inputs[:1]).euclidean_estimate).all()
    with pytest.raises(ValueError, match="the attribution, or its derivative, is NaN or infinite"):
        explainer.certify(inputs)


def test_eigenvalues_of_matrices_that_are_not_finite():
    with pytest.raises(ValueError, match="products of the matrices must be finite"):
        largest_eigenvalue(lambda v: v * np.nan, (1, 3))
    matrices = np.stack([np.diag([1.0, 2.0]), np.diag([1.0, np.nan]), np.diag([np.inf, 2.0])])
    value = _proved(matrices, np.ones((3, 2)), np.array([2.0, 2.0, 2.0]))
    assert 2 <= value[0] <= 2.001 and (value[1:] == np.inf).all()
    assert _proved(matrices[:1], np.ones((1, 2)), np.array([np.nan])).tolist() == [np.inf]


def test_metrics_prove_nothing():
    model = deep()
    settings = {"norm": np.inf, "fractions": (0.5,), "clip": (-5.0, 5.0)}
    metric = RobustnessSr(model, INPUTS, None, certified=True, **settings)
    result = metric.detailed_evaluate(np.ones_like(INPUTS))
    assert not np.isnan(result.certified_curves).any()


def test_tensorflow_does_not_lose_nan():
    """What `as_lower` and `as_upper` rely upon: sums, products, maxima and minima keep NaN."""
    for dtype in ("float32", "float64"):
        for size in (1, 3, 64, 1001):
            numbers = np.ones(size, dtype)
            missing = np.full(size, np.nan, dtype)
            for pair in ((numbers, missing), (missing, numbers)):
                for function in (tf.maximum, tf.minimum, tf.add, tf.multiply):
                    assert np.isnan(function(*pair)).all()
            numbers[size // 2] = np.nan
            for function in (tf.reduce_max, tf.reduce_min, tf.reduce_sum):
                assert np.isnan(function(numbers))
            assert np.isnan(tf.nn.relu(missing)).all()
