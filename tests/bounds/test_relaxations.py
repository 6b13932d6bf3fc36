"""Relaxations of every activation against dense sampling, and known cases by hand."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from xcertify.bounds import Verifier
from xcertify.bounds.graph import activations, functions, relaxations
from xcertify.bounds.rules import registry
from xcertify.regions import Box

ACTIVATIONS = {f.__name__: a for f, a in registry.ACTIVATIONS.items() if a is not None}
ACTIVATIONS |= {
    "gelu tanh": activations.GELU_TANH,
    "soft_shrink 0.2": activations.soft_shrink(0.2),
    "celu 2": activations.elu(2.0, stretch=2.0),
    "steep prelu": activations.leaky_relu(1.7),
    "falling prelu": activations.leaky_relu(-0.5),
    "rectifier": activations.rectifier(0.2, 3.0, 0.0),
    "rectifier with a jump": activations.rectifier(0.0, None, 1.0),
    "rectifier with everything": activations.rectifier(0.3, 2.0, -1.0),
    "square": functions.SQUARE,
    "absolute": functions.ABSOLUTE,
    "maximum": functions.limit(0.5, below=True),
    "minimum": functions.limit(0.5, below=False),
    "clip": functions.limits(-0.5, 1.0),
    "clip to one number": functions.limits(0.5, -1.0),
    "sign": functions.SIGN,
    "expm1": functions.EXPM1,
    "erf": functions.ERF,
    "sin": functions.SIN,
    "cos": functions.COS,
    "sqrt": functions.SQRT,
    "rsqrt": functions.RSQRT,
    "reciprocal": functions.RECIPROCAL,
    "log": functions.LOG,
    "log1p": functions.LOG1P,
    "log10": functions.LOG10,
    **{f"power {exponent:.2g}": functions.power(exponent) for exponent in (3, 4, 1.5, -2, 1 / 3)},
}


def intervals(seed=0, count=400):
    generator = np.random.default_rng(seed)
    middle = generator.normal(0, 1, count) * generator.choice([0.5, 3, 20], count)
    width = 10 ** generator.uniform(-6, 1.5, count)
    lower, upper = middle - width / 2, middle + width / 2
    lower[:40], upper[40:80] = 0.0, 0.0
    upper[:40], lower[40:80] = width[:40], -width[40:80]
    lower[80:90] = upper[80:90]
    return lower, upper


def defined(activation, lower, upper):
    """Which intervals hold no point where the function has no value."""
    if activation.undefined is None:
        return np.full(lower.shape, True)
    first, last = activation.undefined
    return (upper < first) | (lower > last)


def samples(lower, upper, count=2001):
    return lower + (upper - lower) * np.linspace(0, 1, count)[:, None]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_image_lines_and_derivative_contain_the_function(name):
    activation = ACTIVATIONS[name]
    lower, upper = intervals()
    some = defined(activation, lower, upper)
    for side in relaxations.image(activation, lower, upper):
        np.testing.assert_array_equal(np.isfinite(side), some)
    lower, upper = lower[some], upper[some]
    points = samples(lower, upper)
    values = np.asarray(activation.value(points))
    # Rounding of the sampled values themselves.
    noise = 4e-16 * (np.abs(values) + np.abs(points) + 1)

    low, high = (np.asarray(side) for side in relaxations.image(activation, lower, upper))
    assert (low <= values + noise).all() and (values <= high + noise).all()
    span = values.max(axis=0) - values.min(axis=0)
    size = np.abs(values).max(axis=0)
    assert (high - low <= span * (1 + 1e-3) + 1e-6 * (1 + size)).all()

    lines = [
        np.asarray(part).astype("f8")
        for part in relaxations.relaxation(activation, lower, upper, "float32")
    ]
    below, above = lines[0] * points + lines[1], lines[2] * points + lines[3]
    noise = noise + 4e-16 * (np.abs(below) + np.abs(above))
    assert (below <= values + noise).all()
    assert (values <= above + noise).all()
    # Each line touches the function, or nearly.
    size = 1e-6 * (1 + np.abs(values).max(axis=0) + np.abs(points).max(axis=0))
    slack = 2e-3 * (upper - lower + span) + size
    assert ((values - below).min(axis=0) <= slack).all()
    assert ((above - values).min(axis=0) <= slack).all()

    if not activation.continuous:
        with pytest.raises(ValueError, match="jumps"):
            relaxations.derivative_range(activation, lower, upper)
        return
    smallest, largest = (
        np.asarray(side) for side in relaxations.derivative_range(activation, lower, upper)
    )
    slopes = np.asarray(activation.derivative(points))
    assert (smallest <= slopes + 1e-15).all() and (slopes <= largest + 1e-15).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_stated_facts_are_true(name):
    activation = ACTIVATIONS[name]
    points = np.linspace(-12, 12, 48_001)
    if activation.undefined is not None:
        points = points[defined(activation, points - 1e-3, points + 1e-3)]
    if activation.period:
        inside = (points > -activation.period / 2) & (points < 1.5 * activation.period)
        points = points[inside]
    turns = [*activation.kinks, *(activation.slope.kinks if activation.slope else ()), 99.0]
    points = points[np.min(np.abs(points[:, None] - np.array(turns)), 1) > 1e-3]
    step = 1e-5
    value = lambda z: np.asarray(activation.value(z))  # noqa: E731
    slopes = np.asarray(activation.derivative(points))
    np.testing.assert_allclose(
        (value(points + step) - value(points - step)) / (2 * step), slopes, rtol=1e-4, atol=1e-6
    )
    bends = np.asarray(activation.derivative(points + step)) - np.asarray(
        activation.derivative(points - step)
    )
    curvature = activation.curvature
    limit = np.asarray(curvature(points + step)) if callable(curvature) else curvature
    assert (np.abs(bends) / (2 * step) <= limit * (1 + 1e-4) + 1e-9).all()
    turns = sorted({*activation.kinks, *activation.inflections, *(activation.undefined or ())})
    edges = [-np.inf, *turns, np.inf]
    for left, right in zip(edges[:-1], edges[1:]):
        piece = slopes[(points > left) & (points < right)]
        changes = np.diff(piece)
        assert (changes >= -1e-12).all() or (changes <= 1e-12).all()


EVALUATED = {f: a for f, a in registry.ACTIVATIONS.items() if a is not None}


def roundings(facts):
    """What is stated of the evaluation in float32: relative error, absolute error."""
    relative = facts.ulps * 2.0**-24 + facts.constant_error
    return relative * (1 + 1e-6), facts.absolute_ulps * 2.0**-24 + facts.constant_noise + 1e-30


@pytest.mark.parametrize("function", EVALUATED, ids=[f.__name__ for f in EVALUATED])
def test_the_stated_roundings_of_float32_are_true(function):
    activation = EVALUATED[function]
    points = np.linspace(-30, 30, 120_001)
    points = np.concatenate([points, *(sign * np.geomspace(1e-20, 80, 40_000) for sign in (-1, 1))])
    inputs = tf.constant(points[points != 0], "float32")  # where TensorFlow's celu has slope 2
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        values = function(inputs)
    exact = np.asarray(activation.value(tf.cast(inputs, "float64")))
    relative, absolute = roundings(activation)
    assert (np.abs(values - exact) <= relative * np.abs(exact) + absolute).all()
    if activation.slope is not None:
        slopes = np.asarray(activation.slope.value(tf.cast(inputs, "float64")))
        relative, absolute = roundings(activation.slope)
        found = tape.gradient(values, inputs)
        assert (np.abs(found - slopes) <= relative * np.abs(slopes) + absolute).all()


def test_relu_lines_are_those_of_crown():
    lines = relaxations.relaxation(
        activations.RELU,
        np.array([-1.0, -3.0, 1.0, -2.0]),
        np.array([3.0, 1.0, 2.0, -1.0]),
        "float32",
    )
    np.testing.assert_allclose(np.asarray(lines.lower_slope), [1, 0, 1, 0])
    np.testing.assert_allclose(np.asarray(lines.lower_intercept), 0, atol=1e-13)
    np.testing.assert_allclose(np.asarray(lines.upper_slope), [0.75, 0.25, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(
        np.asarray(lines.upper_intercept), [0.75, 0.75, 0, 0], rtol=1e-6, atol=1e-13
    )


def test_sigmoid_lines_are_tangents_where_it_bends_one_way():
    lines = relaxations.relaxation(activations.SIGMOID, np.array([1.0]), np.array([3.0]), "float64")
    value = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(np.asarray(lines.upper_slope), value * (1 - value), rtol=1e-9)
    ends = 1 / (1 + np.exp([-1.0, -3.0]))
    np.testing.assert_allclose(np.asarray(lines.lower_slope), (ends[1] - ends[0]) / 2, rtol=1e-9)


@pytest.mark.parametrize("method", ["crown", "crown-ibp"])
def test_the_largest_of_entries_that_are_nearly_equal(method):
    """Lower sides that differ by roundings: no corner and no point between leaves the bounds."""
    layers = keras.layers
    rows = keras.initializers.Constant([[1.0, -1.0]])
    model = keras.Sequential(
        [
            keras.Input((4, 1)),
            layers.MaxPooling1D(4),
            layers.Flatten(),
            layers.Dense(2, kernel_initializer=rows),
        ]
    )
    generator = np.random.default_rng(0)
    lower = generator.choice([0, 1e-9, -1e-9, 3e-7, -3e-7, 1e-6], (40, 4))
    lower = (lower + generator.choice([0.0, 1.0, 100.0], (40, 1))).astype("float32")
    upper = (lower + generator.choice([0, 1e-9, 1e-6, 0.1, 1.0], (40, 4))).astype("float32")
    shares = [*itertools.product([0, 1], repeat=4), *generator.random((50, 4))]
    points = lower[:, None] + np.array(shares) * (upper - lower).astype(float)[:, None]
    largest = points.max(axis=2)
    values = np.stack([largest, -largest], axis=-1)
    low, high = Verifier(model, method).bound_outputs(Box(lower[..., None], upper[..., None]))
    assert (low[:, None] <= values).all() and (values <= high[:, None]).all()
