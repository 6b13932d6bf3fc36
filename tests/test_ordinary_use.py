"""What ordinary users do: the right value, or an error that names the argument and the cure."""

# ruff: noqa: PLW0108 (layers have to be made anew for each model)

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

from xcertify.attributions import (
    EVA,
    CertifiedGradient,
    GradientInput,
    IntegratedGradients,
    Occlusion,
    Saliency,
)
from xcertify.bounds import Verifier
from xcertify.logits import head_of, logits_of
from xcertify.metrics import Deletion


def normal(*size, seed=0):
    return np.random.default_rng(seed).normal(size=size).astype("float32")


def set_weights(model):
    """Random weights of which no two are the same."""
    weights = model.get_weights()
    model.set_weights([normal(*w.shape, seed=number) for number, w in enumerate(weights, 1)])


def gradient(function, x, labels):
    """Gradient of function(x)[n, labels[n]] by x, computed here."""
    x = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = tf.cast(function(x), tf.float32)
        score = tf.reduce_sum(outputs * tf.one_hot(labels, outputs.shape[-1]))
    return tape.gradient(score, x).numpy()


# --- heads: a final softmax or sigmoid means the same everywhere --------------------------------


def convolutional(head):
    """A head on maps of one cell."""
    return lambda h: head(L.Reshape((1, 1, 8))(h))


HEADS = {
    "softmax of a dense layer": lambda h: L.Dense(3, "softmax")(h),
    "tf.nn.softmax as activation": lambda h: L.Dense(3, activation=tf.nn.softmax)(h),
    "keras.ops.softmax as activation": lambda h: L.Dense(3, activation=ops.softmax)(h),
    "a layer as activation": lambda h: L.Dense(3, activation=L.Softmax())(h),
    "an activation layer as activation": lambda h: L.Dense(3, activation=L.Activation("softmax"))(
        h
    ),
    "Softmax": lambda h: L.Softmax()(L.Dense(3)(h)),
    "Softmax of axis 1": lambda h: L.Softmax(axis=1)(L.Dense(3)(h)),
    "Activation": lambda h: L.Activation("softmax")(L.Dense(3)(h)),
    "Activation of tf.nn.softmax": lambda h: L.Activation(tf.nn.softmax)(L.Dense(3)(h)),
    "keras.ops.softmax": lambda h: ops.softmax(L.Dense(3)(h)),
    "keras.activations.softmax": lambda h: keras.activations.softmax(L.Dense(3)(h)),
    "keras.ops.softmax of axis 1": lambda h: ops.softmax(L.Dense(3)(h), axis=1),
    "linear behind": lambda h: L.Activation("linear", dtype="float32")(L.Dense(3, "softmax")(h)),
    "dropout and identity behind": lambda h: L.Identity()(L.Dropout(0.5)(L.Dense(3, "softmax")(h))),
    "flatten behind": lambda h: L.Flatten()(L.Dense(3, "softmax")(h)),
    "reshape behind": lambda h: L.Reshape((3,))(L.Dense(3, "softmax")(h)),
    "keras.ops.reshape behind": lambda h: ops.reshape(L.Dense(3, "softmax")(h), (-1, 3)),
    "cast behind": lambda h: ops.cast(L.Dense(3, "softmax")(h), "float32"),
    "convolution, flatten": convolutional(lambda h: L.Flatten()(L.Conv2D(3, 1, activation="softmax")(h))),
    "convolution, softmax, reshape": convolutional(
        lambda h: L.Reshape((3,))(L.Softmax()(L.Conv2D(3, 1)(h)))
    ),
    "convolution, softmax, squeeze": convolutional(
        lambda h: ops.squeeze(ops.softmax(L.Conv2D(3, 1)(h)), (1, 2))
    ),
    "nested": lambda h: keras.Sequential([keras.Input((8,)), L.Dense(3), L.Softmax()])(h),
    "nested twice": lambda h: keras.Sequential(
        [keras.Input((8,)), keras.Sequential([keras.Input((8,)), L.Dense(3, "softmax")])]
    )(h),
    "nested, linear behind": lambda h: L.Activation("linear")(
        keras.Sequential([keras.Input((8,)), L.Dense(3, "softmax")])(h)
    ),
    "softmax alone in a nested model": lambda h: keras.Sequential([keras.Input((3,)), L.Softmax()])(
        L.Dense(3)(h)
    ),
    "sigmoid": lambda h: L.Dense(1, "sigmoid")(h),
    "sigmoids": lambda h: L.Dense(3, "sigmoid")(h),
    "tf.nn.sigmoid as activation": lambda h: L.Dense(1, activation=tf.nn.sigmoid)(h),
    "tf.sigmoid as activation": lambda h: L.Dense(1, activation=tf.sigmoid)(h),
    "Activation of sigmoid": lambda h: L.Activation("sigmoid")(L.Dense(1)(h)),
    "keras.ops.sigmoid": lambda h: ops.sigmoid(L.Dense(1)(h)),
    "keras.activations.sigmoid": lambda h: keras.activations.sigmoid(L.Dense(1)(h)),
}  # fmt: skip


def classifier(head):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, head(L.Dense(8, "tanh")(inputs)))
    set_weights(model)
    first, second = (w.numpy() for w in model.weights[:2]), (w.numpy() for w in model.weights[2:])
    (kernel, bias), (last, shift) = first, second
    last = last.reshape(8, -1)
    return model, lambda x: tf.tanh(x @ kernel + bias) @ last + shift


@pytest.mark.parametrize("name", HEADS)
def test_logits_before_every_form_of_head(name):
    model, logits = classifier(HEADS[name])
    x = normal(4, 5)
    expected = logits(x)
    assert head_of(model) == ("sigmoid" if "sigmoid" in name else "softmax")
    np.testing.assert_allclose(logits_of(model)(x), expected, rtol=1e-4, atol=1e-5)
    seen = Verifier(model, logits=True).evaluate(x)
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-5)
    labels = np.arange(4) % 3 if expected.shape[1] > 1 else np.ones(4, int)
    wanted = np.abs(gradient(logits, x, labels if expected.shape[1] > 1 else 0 * labels))
    np.testing.assert_allclose(Saliency(model)(x, labels), wanted, rtol=1e-4, atol=1e-5)


NO_HEADS = {
    "none": lambda h: L.Dense(3)(h),
    "softmax inside": lambda h: L.Dense(3)(L.Dense(4, "softmax")(h)),
    "the activation of a recurrent layer": lambda h: L.SimpleRNN(3, activation="sigmoid")(
        L.Reshape((2, 4))(h)
    ),
    "softmax of each step": lambda h: L.Flatten()(L.Dense(3, "softmax")(L.Reshape((2, 4))(h))),
    "softmax, scaled": lambda h: L.Rescaling(2.0)(L.Dense(3, "softmax")(h)),
}


@pytest.mark.parametrize("name", NO_HEADS)
def test_what_is_no_head_stays(name):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, NO_HEADS[name](L.Dense(8, "tanh")(inputs)))
    x = normal(4, 5)
    assert head_of(model) is None
    np.testing.assert_allclose(logits_of(model)(x), model(x), rtol=1e-5, atol=1e-6)


# --- one output: classes by labels, weights by a column, the output itself without targets ------


def one_output(activation=None):
    model = keras.Sequential([keras.Input((4,)), L.Dense(6, "tanh"), L.Dense(1, activation)])
    set_weights(model)
    model.layers[-1].bias.assign([0.1])
    return model


def test_a_regression_is_explained_with_its_sign():
    model = one_output()
    x = normal(8, 4)
    f = model(x).numpy()[:, 0]
    assert f.min() < 0 < f.max()
    slope = gradient(model, x, np.zeros(8, int))
    for targets in (None, np.ones((8, 1)), np.ones((8, 1), int), np.ones(8, int)):
        np.testing.assert_allclose(
            GradientInput(model)(x, targets), slope * x, rtol=1e-4, atol=1e-6
        )
    np.testing.assert_allclose(
        GradientInput(model)(x, np.full((8, 1), -2.5)), -2.5 * slope * x, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        GradientInput(model)(x, np.zeros(8, int)), -slope * x, rtol=1e-4, atol=1e-6
    )
    change = f - model(np.zeros((1, 4), "float32")).numpy()[0, 0]
    added = IntegratedGradients(model, steps=200)(x).sum(axis=1)
    np.testing.assert_allclose(added, change, rtol=1e-2, atol=1e-3)
    covered = [f - model(np.where(np.arange(4) == i, 0, x)).numpy()[:, 0] for i in range(4)]
    np.testing.assert_allclose(Occlusion(model)(x), np.stack(covered, 1), rtol=1e-4, atol=1e-5)
    certificate = CertifiedGradient(model, 0.01).certify(x)
    assert ((certificate.lower <= slope) & (slope <= certificate.upper)).all()


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_metrics_of_one_output(activation):
    model = one_output(activation)
    x = normal(8, 4)
    f = model(x).numpy()[:, 0]

    def start(targets, **settings):
        metric = Deletion(model, x, targets, steps=2, **settings)
        return metric.detailed_evaluate(np.abs(x)).curves[:, 0]

    labels = np.array([0, 1, 0, 1, 0, 1, 1, 0])
    other = 1 - f if activation else -f
    np.testing.assert_allclose(start(labels), np.where(labels == 1, f, other), atol=1e-6)
    np.testing.assert_allclose(start(labels[:, None]), start(labels), atol=1e-6)
    np.testing.assert_allclose(start(labels[:, None].astype(float)), start(labels), atol=1e-6)
    without = np.maximum(f, 1 - f) if activation else f
    np.testing.assert_allclose(start(None), without, atol=1e-6)
    np.testing.assert_allclose(start(np.full((8, 1), -2.5)), -2.5 * f, atol=1e-5)
    if not activation:
        p = 1 / (1 + np.exp(-f))
        expected = np.where(labels == 1, p, 1 - p)
        np.testing.assert_allclose(start(labels, activation="sigmoid"), expected, atol=1e-6)
        with pytest.raises(ValueError, match="activation='softmax'.*take 'sigmoid'"):
            start(labels, activation="softmax")


def test_sigmoid_units_without_targets_mean_the_predicted_class():
    model = one_output("sigmoid")
    x = normal(8, 4)
    classes = (model(x).numpy()[:, 0] > 0.5).astype(int)
    assert classes.any() and not classes.all()
    for explainer in (GradientInput(model), Occlusion(model), CertifiedGradient(model)):
        np.testing.assert_allclose(explainer(x), explainer(x, classes), rtol=1e-5, atol=1e-7)
    assert EVA(model, 0.01).certify(x).targets.tolist() == classes.tolist()
