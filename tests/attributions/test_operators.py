"""Operators and output layers, against formulas and models that are cut by hand."""

import enum

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import sequential

from xcertify.attributions import (
    GradCAM,
    GradientInput,
    IntegratedGradients,
    Occlusion,
    Rise,
    Saliency,
    SmoothGrad,
)
from xcertify.metrics import Deletion, MuFidelity
from xcertify.operators import as_operator

L = keras.layers
LABELS = np.array([2, 0, 1, 1])
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]


@pytest.fixture(scope="module")
def model():
    return sequential(
        (6, 6, 2),
        L.Conv2D(4, 3, activation="relu", name="conv"),
        L.Flatten(),
        L.Dense(3, name="logits"),
        L.Softmax(),
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((4, 6, 6, 2), dtype=np.float32)


def squared(model, inputs, targets):
    return tf.reduce_sum(model(inputs, training=False) * targets, axis=1) ** 2


def of_first_class(model, inputs, targets):
    """With a branch on values, which AutoGraph makes part of the graph."""
    scores = model(inputs)[:, 0]
    if tf.reduce_min(scores) < 2:
        scores = 3 * scores
    return scores


@pytest.mark.parametrize(
    "make",
    [
        Saliency,
        GradientInput,
        lambda m, **s: IntegratedGradients(m, steps=3, **s),
        lambda m, **s: SmoothGrad(m, nb_samples=3, **s),
        GradCAM,
    ],
)
@pytest.mark.parametrize("operator", [None, "classification", squared])
def test_explained_is_the_score_of_what_is_cut(make, operator, model, images):
    """As of a model that ends there, without a head."""
    hand = keras.Model(model.inputs, model.get_layer("logits").output)
    expected = make(hand, operator=operator)(images, LABELS)
    for layer in ("logits", -2, 2):
        found = make(model, output_layer=layer, operator=operator, batch_size=3)(images, LABELS)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make", [Occlusion, lambda m, **s: Rise(m, nb_samples=9, **s), Saliency])
def test_scores_are_those_of_a_function(make, model, images):
    """A score is explained as the single output of a model is that computes it."""
    scores = keras.Sequential([model, L.Lambda(lambda p: 3 * p[:, :1])])
    expected = make(scores)(images, np.ones((4, 1)))
    for batch_size in (1, 5, None):
        explainer = make(model, operator=of_first_class, batch_size=batch_size)
        for targets in (None, LABELS, ONE_HOT, np.zeros((4, 7))):
            np.testing.assert_allclose(explainer(images, targets), expected, 1e-4, 1e-6)


def test_targets_that_are_no_weights(images):
    """Distance of the outputs of a convolution to a picture, for each input its own."""
    network = sequential((6, 6, 2), L.Conv2D(1, 3, padding="same"))
    pictures = np.random.default_rng(1).random((4, 6, 6, 1))

    def distance(model, inputs, targets):
        return tf.reduce_sum((model(inputs) - targets) ** 2, axis=(1, 2, 3))

    found = Saliency(network, operator=distance, reducer=None, batch_size=2)(images, pictures)
    points = tf.Variable(images)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum((network(points) - pictures.astype(np.float32)) ** 2)
    np.testing.assert_allclose(found, np.abs(tape.gradient(value, points)), rtol=1e-4)
    covered = Occlusion(network, 3, distance, 6, 6)(images, pictures)
    before, after = (np.sum((network(x) - pictures) ** 2, (1, 2, 3)) for x in (images, 0 * images))
    drop = before - after
    np.testing.assert_allclose(covered[:, 0, 0, 0], drop, rtol=1e-3)


def test_single_probability(images):
    """Of class 0 it is minus the probability, whose gradient is that of one minus it."""
    network = sequential((6, 6, 2), L.Flatten(), L.Dense(1, activation="sigmoid"))
    by_input = (gradient_of(network, images) * images).mean(axis=-1, keepdims=True)
    signs = np.array([-1, 1, 1, -1])[:, None, None, None]
    predicted = np.where(np.asarray(network(images)) > 0.5, 1, -1)[:, :, None, None]
    for settings in ({"output_layer": -1}, {"operator": "classification"}):
        explainer = GradientInput(network, **settings)
        found = explainer(images, [0, 1, 1, 0])
        np.testing.assert_allclose(found, signs * by_input, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(explainer(images), predicted * by_input, rtol=1e-4, atol=1e-7)


def gradient_of(network, images):
    points = tf.Variable(images)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(network(points))
    return tape.gradient(value, points).numpy()


def test_models_that_take_channels_first(model, images):
    first = keras.Sequential([keras.Input((2, 6, 6)), L.Permute((2, 3, 1)), *model.layers])
    moved = np.moveaxis(images, -1, 1)
    for settings in ({"output_layer": 3}, {"operator": squared}, {"operator": "regression"}):
        own = settings | ({"output_layer": 2} if "output_layer" in settings else {})
        expected = Saliency(model, **own)(images, LABELS)
        np.testing.assert_allclose(Saliency(first, **settings)(moved, LABELS), expected, rtol=1e-5)


def test_functions_of_arrays(images):
    def model(x):
        return np.stack([np.asarray(x).sum(axis=(1, 2, 3)), np.asarray(x).max(axis=(1, 2, 3))], 1)

    def total(model, inputs, targets):
        return np.asarray(model(inputs))[:, 0]

    expected = Occlusion(model, patch_size=2, patch_stride=2)(images, np.zeros(4, int))
    found = Occlusion(model, None, total, 2, 2)(images)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_settings_may_change(model, images):
    explainer = Saliency(model)
    logits = explainer(images, LABELS)
    explainer.output_layer = -1
    probabilities = explainer(images, LABELS)
    np.testing.assert_allclose(
        probabilities, Saliency(model, operator="regression")(images, LABELS), rtol=1e-5
    )
    assert not np.allclose(logits, probabilities)
    explainer.output_layer, explainer.operator = None, squared
    p = np.sum(np.asarray(model(images)) * ONE_HOT, axis=1)[:, None, None, None]
    np.testing.assert_allclose(explainer(images, LABELS), 2 * p * probabilities, rtol=1e-4)
    explainer.operator = None
    np.testing.assert_array_equal(explainer(images, LABELS), logits)
    with pytest.raises(ValueError, match="operator must be"):
        explainer.operator = 3


def test_metrics_take_the_same(model, images):
    maps = np.random.default_rng(2).random((4, 6, 6))
    for kind, settings in ((Deletion, {"steps": 3}), (MuFidelity, {"nb_samples": 20})):
        plain = kind(model, images, LABELS, **settings).evaluate_samples(maps)
        for operator in ("classification", "regression"):
            named = kind(model, images, LABELS, operator=operator, **settings)
            np.testing.assert_array_equal(named.evaluate_samples(maps), plain)
        for targets in (LABELS, ONE_HOT):
            own = kind(model, images, targets, operator=squared, **settings)
            again = kind(model, images, ONE_HOT, operator=tf.function(squared), **settings)
            np.testing.assert_allclose(own(maps), again(maps), rtol=1e-5)


class Tasks(enum.Enum):
    """Of which the names count."""

    CLASSIFICATION = 1
    SEMANTIC_SEGMENTATION = 2


@pytest.mark.parametrize(
    ("operator", "same"),
    [
        (None, None),
        ("Classification", "classification"),
        ("semantic_segmentation", "semantic segmentation"),
        ("REGRESSION", "classification"),
        (Tasks.CLASSIFICATION, "classification"),
        (Tasks.SEMANTIC_SEGMENTATION, "semantic segmentation"),
    ],
)
def test_names(operator, same):
    assert as_operator(operator) is as_operator(same)


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (7, "Received: 7"),
        ("detection", "'classification', 'regression', 'semantic segmentation'.*'detection'"),
        ("object detection box proba", "xplique.*Tasks.OBJECT_DETECTION.*'object detection box"),
        (lambda model: model, "a function .model, inputs, targets."),
    ],
)
def test_what_is_no_operator(operator, message):
    for make in (Saliency, Occlusion):
        with pytest.raises(ValueError, match=message):
            make(abs, operator=operator)
    with pytest.raises(ValueError, match=message):
        Deletion(abs, np.zeros((2, 3)), operator=operator)


def test_what_is_no_score(model, images):
    for function in (
        lambda m, x, y: tf.reduce_sum(m(x) * y),
        lambda m, x, y: m(x) * y,
        lambda m, x, y: m(x)[:, :1],
    ):
        with pytest.raises(ValueError, match="one score for each input"):
            Saliency(model, operator=function)(images, LABELS)
        with pytest.raises(ValueError, match="one score for each input"):
            Deletion(model, images, LABELS, operator=function)(images)
    with pytest.raises(ValueError, match="one row of outputs"):
        Saliency(model, "conv", operator="classification")(images, LABELS)
    with pytest.raises(ValueError, match="write operator='classification' for rows"):
        Saliency(model, operator="semantic segmentation")(images, np.eye(3)[LABELS])
