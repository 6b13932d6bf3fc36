"""Grad-CAM++ by hand, by the formula as the paper has it, and beside Xplique's."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import functional, sequential

from xcertify.attributions import GradCAM, GradCAMPP

L = keras.layers
LABELS = np.array([2, 0, 1])


@pytest.fixture(scope="module")
def model():
    return sequential(
        (8, 6, 2),
        L.Conv2D(3, 3, padding="same", activation="relu", name="first"),
        L.Conv2D(4, 3, padding="same", activation="relu", name="last"),
        L.Flatten(),
        L.Dense(5, activation="relu"),
        L.Dense(3),
    )


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 1, (3, 8, 6, 2)).astype("float32")


def parts_of(model, images, layer="last"):
    """Channels of a layer, and the gradient of the logits of LABELS by them."""
    body = keras.Model(model.inputs[0], model.get_layer(layer).output)
    head = keras.Model(model.get_layer(layer).output, model.outputs[0])
    channels = body(images)
    with tf.GradientTape() as tape:
        tape.watch(channels)
        logits = tf.gather(head(channels), LABELS, batch_dims=1)
    gradient = tape.gradient(logits, channels)
    return (np.asarray(values, np.float64) for values in (channels, gradient, logits))


def test_by_hand():
    start = keras.Input((4, 4, 1))
    channels = L.Conv2D(2, 1, use_bias=False, name="last")(start)
    model = functional(start, L.Dense(2)(L.GlobalAveragePooling2D()(channels)))
    model.set_weights([np.array([[[[1.0, 2.0]]]]), np.array([[16.0, 0], [-16.0, 8]]), np.zeros(2)])
    image = np.full((1, 4, 4, 1), 0.25, np.float32)
    # channels .25 and .5 with sums 4 and 8; gradients of class 0 are 1 and -1, of class 1 0 and .5
    for label, expected in [(0, 16 / (2 + 1 * 4) * 0.25), (1, 16 * 0.5 / (2 + 0.5 * 8) * 0.5)]:
        np.testing.assert_allclose(GradCAMPP(model)(image, [label]), expected, rtol=1e-6)


def test_as_the_paper_writes_it(model, images):
    channels, gradient, logits = parts_of(model, images)
    first, second, third = (
        np.exp(logits)[:, None, None, None] * gradient**power for power in (1, 2, 3)
    )
    denominator = 2 * second + channels.sum(axis=(1, 2), keepdims=True) * third
    shares = np.divide(second, denominator, out=np.zeros_like(second), where=denominator != 0)
    weights = (shares * np.maximum(first, 0)).sum(axis=(1, 2), keepdims=True)
    expected = np.maximum((weights * channels).sum(axis=-1), 0)
    expected /= np.exp(logits)[:, None, None]
    np.testing.assert_allclose(GradCAMPP(model)(images, LABELS)[..., 0], expected, rtol=1e-4)


def test_it_takes_what_grad_cam_takes(model, images):
    maps = GradCAMPP(model)(images, LABELS)
    assert np.abs(maps / maps.max() - GradCAM(model)(images, LABELS)).max() > 0.01
    np.testing.assert_array_equal(GradCAMPP(model, conv_layer="last")(images, LABELS), maps)
    np.testing.assert_array_equal(GradCAMPP(model, conv_layer=1)(images, LABELS), maps)
    first = GradCAMPP(model, conv_layer="first")(images, LABELS)
    np.testing.assert_array_equal(GradCAMPP(model, conv_layer=0)(images, LABELS), first)
    series = sequential((9, 2), L.Conv1D(3, 3, name="conv"), L.Flatten(), L.Dense(3))
    inputs = np.random.default_rng(1).random((3, 9, 2), dtype=np.float32)
    assert GradCAMPP(series, conv_layer="conv")(inputs, LABELS).shape == inputs.shape
    with pytest.raises(ValueError, match="needs a convolution"):
        GradCAMPP(sequential((5,), L.Dense(3)))(np.zeros((1, 5)))


@pytest.mark.parametrize("kind", [GradCAM, GradCAMPP])
def test_arguments_in_the_order_of_xplique(kind, model, images):
    softmax = keras.Sequential(
        [keras.Input((8, 6, 2)), *model.layers, L.Softmax(name="probabilities")]
    )
    expected = kind(model, conv_layer="first")(images, LABELS)
    found = kind(softmax, -2, 2, None, "first")(images, LABELS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(kind(softmax, None, None, None, 0)(images, LABELS), expected, 1e-5)

    def halved(model, inputs, targets):
        return tf.reduce_sum(model(inputs) * targets, axis=1) / 2

    np.testing.assert_allclose(
        kind(model, operator=halved)(images, LABELS) > 0, kind(model)(images, LABELS) > 0
    )
    probabilities = kind(softmax, "probabilities")(images, LABELS)
    np.testing.assert_allclose(
        probabilities, kind(softmax, operator="classification")(images, LABELS)
    )
    assert np.abs(probabilities - kind(model)(images, LABELS)).max() > 1e-3
    for wrong in (True, 5, -6, 1.0):
        with pytest.raises(
            ValueError, match=f"conv_layer must be .* from 0 to 4.*Received: {wrong}"
        ):
            kind(model, conv_layer=wrong)(images)
    with pytest.raises(ValueError, match="given by name: conv_layer='last'"):
        kind(model, "last")


def test_channels_of_negative_sum_do_not_divide_by_zero():
    start = keras.Input((2, 2, 1))
    channels = L.Conv2D(1, 1, use_bias=False, name="last")(start)
    model = functional(start, L.Dense(1)(L.GlobalAveragePooling2D()(channels)))
    model.set_weights([np.full((1, 1, 1, 1), -1.0), np.full((1, 1), 4.0), np.zeros(1)])
    image = np.full((1, 2, 2, 1), 0.5, np.float32)  # a sum of -2, a gradient of 1
    np.testing.assert_array_equal(GradCAMPP(model)(image), np.zeros(image.shape))


def test_beside_xplique(model, images):
    theirs = pytest.importorskip("xplique.attributions", reason="Xplique is not installed")
    found = theirs.GradCAMPP(model, conv_layer="last").explain(images, np.eye(3)[LABELS])
    channels, gradient, _ = parts_of(model, images)
    rows = np.maximum(gradient, 0)

    def maps(total):
        size = total(channels, axis=(1, 2), keepdims=True)
        weights = (rows / (2 + gradient * size)).mean(axis=(1, 2), keepdims=True)
        return np.maximum((weights * channels).sum(axis=-1), 0)

    # the mean over the cells for their sum, and the mean of the weights
    np.testing.assert_allclose(np.squeeze(found), maps(np.mean), rtol=1e-3, atol=1e-6)
    ours = GradCAMPP(model, conv_layer="last")(images, LABELS)[..., 0] / 48
    np.testing.assert_allclose(ours, maps(np.sum), rtol=1e-4)
