"""Attacks on explanations, where the best attack is known by hand, and on small ReLU networks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from xcertify.attacks import (
    input_gradient,
    softplus_copy,
    targeted_map_attack,
    top_k_attack,
    weight_attack,
)
from xcertify.logits import logits_of
from xcertify.regions import Ball


def the_input(model, inputs, targets):
    """An explanation whose reaction is known: the map is the input."""
    return inputs


def always_first(inputs):
    return tf.stack([tf.ones_like(inputs[:, 0]), inputs[:, 0] * 0], axis=1)


@pytest.fixture(scope="module")
def net():
    layers = [keras.Input((6, 6, 1)), keras.layers.Conv2D(4, 3), keras.layers.ReLU()]
    layers += [keras.layers.Flatten(), keras.layers.Dense(16, activation="relu")]
    model = keras.Sequential([*layers, keras.layers.Dense(3, activation="softmax")])
    generator = np.random.default_rng(1)
    model.set_weights([generator.normal(0, 0.4, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((5, 6, 6, 1)).astype(np.float32)


def test_input_gradient_is_the_gradient(net, images):
    logits = logits_of(net)
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]]
    maps = input_gradient(logits, tf.constant(images), tf.constant(targets)).numpy()
    step = np.zeros_like(images[:1])
    step[0, 2, 3] = 1e-3
    for sample, label in enumerate([0, 1, 2, 0, 1]):
        x = images[sample : sample + 1].astype(np.float64)
        slope = (logits(x + step) - logits(x - step)).numpy()[0, label] / 2e-3
        assert maps[sample, 2, 3, 0] == pytest.approx(slope, abs=2e-3)


def test_top_k_attack_by_hand():
    x = np.array([[1.0, 0.9, 0.85, 0.1], [0.4, 0.3, 0.29, 0.28]], np.float32)
    # the two largest fall by the radius, and what then stands above them has taken their place
    for epsilon, expected in [(0.01, [0, 0]), (0.06, [0.5, 0.5]), (0.13, [0.5, 1.0])]:
        result = top_k_attack(always_first, the_input, Ball(x, epsilon), k=2)
        np.testing.assert_allclose(result.values, expected)
        np.testing.assert_array_equal(result.maps, result.points)
        np.testing.assert_array_equal(result.original_maps, x)
    held = np.array([True, True, False, False])
    result = top_k_attack(always_first, the_input, Ball(x, 0.13), k=2, mask=held)
    np.testing.assert_allclose(result.values, 0)


def test_points_of_another_class_are_not_taken():
    def sign(inputs):  # class 1 below a mean of 0.6
        return tf.stack([tf.reduce_mean(inputs, axis=1), 0.6 + 0 * inputs[:, 0]], axis=1)

    x = np.array([[0.7, 0.65, 0.0, 0.0], [0.9, 0.88, 0.86, 0.0]], np.float32)
    x[:, 3] = 4 * 0.6 + 0.02 - x[:, :3].sum(axis=1)  # a little above
    result = targeted_map_attack(sign, the_input, Ball(x, 0.5), np.zeros(4), steps=60)
    assert np.all(result.points.mean(axis=1) >= 0.6)
    free = targeted_map_attack(always_first, the_input, Ball(x, 0.5), np.zeros(4), steps=60)
    assert np.all(free.values > result.values)


def test_targeted_map_attack_by_hand():
    x = np.array([[0.5, 0.5], [0.2, 0.8]], np.float32)
    wanted = np.array([[0.55, 0.4], [1.2, 0.8]], np.float32)
    result = targeted_map_attack(always_first, the_input, Ball(x, 0.2), wanted, steps=200)
    np.testing.assert_allclose(result.points, [[0.55, 0.4], [0.4, 0.8]], atol=2e-3)
    np.testing.assert_allclose(result.values, [0, -0.32], atol=2e-3)
    one = targeted_map_attack(always_first, the_input, Ball(x, 0.2), wanted[0], steps=200)
    np.testing.assert_allclose(one.points[0], [0.55, 0.4], atol=2e-3)


def test_softplus_copy_nears_the_model_and_leaves_it_alone(images):
    inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, activation="relu")])
    inputs = keras.Input((6, 6, 1))
    hidden = keras.layers.LeakyReLU(0.2)(keras.layers.Dense(8)(keras.layers.Flatten()(inputs)))
    hidden = keras.layers.Activation("relu")(keras.layers.Dense(8)(inner(hidden)))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="tanh")(hidden))
    before = [w.copy() for w in model.get_weights()]
    copy, beta = softplus_copy(model)
    errors = []
    for value in (10.0, 100.0, 1e4):
        beta.assign(value)
        errors.append(float(np.abs(copy(images) - model(images)).max()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)
    # a softplus has a second derivative, a ReLU has none
    beta.assign(10.0)
    for function, bends in [(copy, True), (lambda x: tf.atanh(model(x)), False)]:
        with tf.GradientTape() as tape:
            points = tf.constant(images)
            tape.watch(points)
            maps = input_gradient(function, points, tf.constant([[1.0, 0.0]] * 5))
        assert bool(tf.reduce_any(abs(tape.gradient(maps, points)) > 1e-4)) is bends


def test_maps_of_relu_networks_are_moved_with_the_class_kept(net, images):
    region = Ball(images, 0.08, clip=(0, 1))
    classes = np.argmax(net(images), axis=1)
    result = top_k_attack(net, input_gradient, region, k=5, steps=15)
    assert np.all(result.points >= region.lower)
    assert np.all(result.points <= region.upper)
    np.testing.assert_array_equal(np.argmax(net(result.points), axis=1), classes)
    one_hot = tf.one_hot(classes, 3)
    maps = input_gradient(logits_of(net), tf.constant(result.points), one_hot).numpy()
    np.testing.assert_allclose(result.maps, maps, atol=1e-6)
    for sample in range(5):
        before = set(np.argsort(-result.original_maps[sample].ravel())[:5])
        after = set(np.argsort(-maps[sample].ravel())[:5])
        assert result.values[sample] == pytest.approx(1 - len(before & after) / 5)
    assert result.values.max() > 0
    again = top_k_attack(net, input_gradient, region, classes, k=5, steps=15, batch_size=2)
    np.testing.assert_allclose(again.values, result.values, atol=0.21)
    assert repr(result).startswith("<MapAttackResult: 5 samples, values from ")

    goal = np.roll(result.original_maps, 1, axis=0)
    closer = targeted_map_attack(net, input_gradient, region, goal, steps=15)
    start = -np.mean((result.original_maps - goal) ** 2, axis=(1, 2, 3))
    assert np.all(closer.values >= start - 1e-6)
    assert closer.values.sum() > start.sum()


def test_weight_attack_of_a_linear_model_reaches_the_corner_of_the_set():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    kernel = np.array([[1.0, -1.0], [2.0, 0.5], [-3.0, 1.0], [0.0, 1.0]], np.float32)
    model.set_weights([kernel, np.array([10.0, 0.0], np.float32)])
    x = np.ones((2, 4), np.float32)
    result = weight_attack(model, input_gradient, x, gamma=0.1)
    np.testing.assert_allclose(result.original_maps, [kernel[:, 0]] * 2, rtol=1e-6)
    np.testing.assert_allclose(result.values, (0.1**2 * (1 + 4 + 9)) / 4, rtol=1e-4)
    for old, new in zip(model.get_weights(), result.model.get_weights()):
        assert np.all(np.abs(new - old) <= 0.1 * np.abs(old) * (1 + 1e-6))
    np.testing.assert_array_equal(model.get_weights()[0], kernel)
    np.testing.assert_array_equal(result.points, x)

    goal = kernel[:, 0] * [1.05, 0.9, 2.0, 1.0]
    result = weight_attack(model, input_gradient, x, gamma=0.1, target_maps=goal, batch_size=1)
    np.testing.assert_allclose(result.maps[0], [1.05, 1.8, -3.3, 0], atol=0.01)
    nothing = weight_attack(model, input_gradient, x, gamma=0.0)
    assert not nothing.values.any()


def test_weight_attack_of_a_relu_network_keeps_the_classes(net, images):
    classes = np.argmax(net(images), axis=1)
    values = []
    for gamma in (0.01, 0.05):
        result = weight_attack(net, input_gradient, images, gamma=gamma, steps=15)
        np.testing.assert_array_equal(np.argmax(result.model(images), axis=1), classes)
        error = np.mean((result.maps - result.original_maps) ** 2, axis=(1, 2, 3))
        np.testing.assert_allclose(result.values, error, rtol=1e-4)
        values.append(result.values.mean())
        again = weight_attack(net, input_gradient, images, gamma=gamma, steps=15)
        np.testing.assert_allclose(again.values, result.values, rtol=1e-4)
    assert 0 < values[0] < values[1]


def test_bad_calls(net, images):
    region = Ball(images, 0.1)
    for k in (0, 36, 2.5):
        with pytest.raises(ValueError, match="from 1 to 35"):
            top_k_attack(net, input_gradient, region, k=k)
    with pytest.raises(ValueError, match=r"target_maps.*\(5, 6, 6, 1\).*Received: \(2, 6\)"):
        targeted_map_attack(net, input_gradient, region, np.zeros((2, 6)))
    with pytest.raises(ValueError, match="NaN"):
        targeted_map_attack(net, input_gradient, region, np.full((6, 6, 1), np.nan))
    with pytest.raises(ValueError, match="gamma"):
        weight_attack(net, input_gradient, images, gamma=-1)
    with pytest.raises(ValueError, match=r"\(N, 6, 6, 1\)"):
        weight_attack(net, input_gradient, images[..., 0], gamma=0.1)
