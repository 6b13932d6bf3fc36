"""Random architectures stay sound, and the engine agrees with decomon where both apply."""

import gc

import keras
import numpy as np
import pytest
from architectures import SplitConvolution2D, draw
from conformance import assert_sound
from networks import sequential
from rotation import rotating

from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.regions import Ball

# Keras finds a softmax over one entry odd; it is one, and has to be bounded all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis")

L = keras.layers
NB_ARCHITECTURES = 520


def check(seed):
    """No corner, random point or gradient attack leaves the bounds of a random architecture."""
    drawn = draw(seed)
    try:
        assert_sound(drawn.model, drawn.region, drawn.method, twin=drawn.twin, **drawn.options)
    except UnsupportedLayerError as error:
        if "TF_ENABLE_ONEDNN_OPTS" not in str(error):
            raise
        pytest.skip("TensorFlow makes another function of it in a graph")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("seed", rotating(NB_ARCHITECTURES, 5))  # one for each method
def test_random_architecture(seed):
    check(seed)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("seed", rotating(NB_ARCHITECTURES, 30))
def test_random_architecture_without_tracing(seed):
    check(seed)


@pytest.mark.usefixtures("compiled")
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NB_ARCHITECTURES))
def test_every_random_architecture(seed):
    check(seed)
    gc.collect()  # graphs refer to themselves, and hundreds of them take gigabytes


def test_draws_repeat():
    first, second = draw(3), draw(3)
    assert first.layers == second.layers
    assert first.method == second.method
    for a, b in zip(first.model.get_weights(), second.model.get_weights()):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(first.region.lower, second.region.lower)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_the_twin_of_a_grouped_convolution(padding):
    settings = {"groups": 2, "padding": padding, "activation": "tanh"}
    grouped = sequential((6, 5, 4), L.Conv2D(6, (3, 2), **settings))
    twin = sequential((6, 5, 4), SplitConvolution2D(6, (3, 2), **settings))
    inputs = np.random.default_rng(0).normal(size=(2, 6, 5, 4)).astype("float32")
    expected = grouped.predict_on_batch(inputs)
    np.testing.assert_allclose(twin.predict_on_batch(inputs), expected, rtol=1e-4, atol=1e-5)


def dense_relu_net(seed):
    """A dense relu net of random depth and widths, and clipped boxes around random inputs."""
    generator = np.random.default_rng(seed)
    widths = generator.integers(4, 20, generator.integers(2, 5))
    layers = [L.Dense(int(width), "relu") for width in widths]
    model = sequential((6,), *layers, L.Dense(3), seed=seed)
    inputs = generator.uniform(0, 1, (5, 6)).astype("float32")
    epsilon = np.reshape([1e-3, 0.01, 0.05, 0.1, 0.3], (5, 1))
    return model, Ball(inputs, epsilon, clip=(0, 1))


def agree(seed, native="crown", other="crown"):
    """Never looser than decomon, and equal but for the few rows that intervals tighten."""
    model, region = dense_relu_net(seed)
    width, their_width = (
        np.subtract(*Verifier(model, method, **options).bound_outputs(region)[::-1])
        for method, options in ((native, {"dtype": "float64"}), (f"decomon:{other}", {}))
    )
    assert (width <= their_width * (1 + 1e-3)).all()
    # decomon's bounds are float32 numbers of size 10.
    assert np.isclose(width, their_width, rtol=1e-3, atol=2e-6).mean() > 0.8


def test_crown_agrees_with_decomon():
    agree(0)


@pytest.mark.slow
@pytest.mark.parametrize("method", [("ibp", "forward-ibp"), ("crown", "crown")])
@pytest.mark.parametrize("seed", range(1, 25))
def test_agrees_with_decomon(seed, method):
    agree(seed, *method)
