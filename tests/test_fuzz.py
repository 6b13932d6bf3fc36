"""Random architectures stay sound, and the engine agrees with decomon where both apply."""

import gc

import keras
import numpy as np
import pytest
from architectures import draw
from conformance import assert_sound
from networks import sequential

from xcertify.bounds import Verifier
from xcertify.regions import Ball

L = keras.layers
QUICK = (2, 7, 10, 16, 21, 26, 31, 36)  # of all kinds, and fast to trace
NB_ARCHITECTURES = 520


def check(seed):
    """No corner, random point or gradient attack leaves the bounds of a random architecture."""
    drawn = draw(seed)
    assert_sound(drawn.model, drawn.region, drawn.method, twin=drawn.twin, **drawn.options)


@pytest.mark.parametrize("seed", QUICK)
def test_random_architecture(seed):
    check(seed)


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


def test_twins_are_equal():
    twins = [draw(seed) for seed in range(60)]
    twins = [drawn for drawn in twins if drawn.twin and not _is_channels_first(drawn.model)]
    assert twins
    for drawn in twins[:2]:
        expected = drawn.model.predict_on_batch(drawn.region.center)
        values = drawn.twin.predict_on_batch(drawn.region.center)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)


def _is_channels_first(model):
    return any(getattr(la, "data_format", None) == "channels_first" for la in model.layers)


def dense_relu_net(seed):
    """A dense relu net of random depth and widths, and clipped boxes around random inputs."""
    generator = np.random.default_rng(seed)
    widths = generator.integers(4, 20, generator.integers(2, 5))
    layers = [L.Dense(int(width), "relu") for width in widths]
    model = sequential((6,), *layers, L.Dense(3), seed=seed)
    inputs = generator.uniform(0, 1, (5, 6)).astype("float32")
    epsilon = np.reshape([1e-3, 0.01, 0.05, 0.1, 0.3], (5, 1))
    return model, Ball(inputs, epsilon, clip=(0, 1))


def agree(seed):
    """decomon's intervals are the engine's; its crown is never tighter, and equal without them."""
    model, region = dense_relu_net(seed)
    for native, other in (("ibp", "forward-ibp"), ("crown", "crown")):
        lower, upper = Verifier(model, native, dtype="float64").bound_outputs(region)
        their_lower, their_upper = Verifier(model, f"decomon:{other}").bound_outputs(region)
        width, their_width = upper - lower, their_upper - their_lower
        assert (width <= their_width * (1 + 1e-3)).all()
        print(seed, native, (width / their_width).min(1))


@pytest.mark.parametrize("seed", [0])
def test_agrees_with_decomon(seed):
    agree(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 25))
def test_agrees_with_decomon_everywhere(seed):
    agree(seed)
