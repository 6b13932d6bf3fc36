"""Calls as Xplique's documentation and tutorials make them, in both libraries.

Equal where docs/coming-from-xplique.md says so; else the sentence that says what to write instead.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import sequential

from xcertify import attributions, metrics

xplique = pytest.importorskip("xplique", reason="Xplique is not installed")
theirs = pytest.importorskip("xplique.attributions", reason="Xplique is not installed")
their_metrics = pytest.importorskip("xplique.metrics", reason="Xplique is not installed")

L = keras.layers
LABELS = np.array([2, 0, 1])
TARGETS = tf.one_hot(LABELS, depth=3)


def network(*head):
    return sequential(
        (8, 8, 2),
        L.Conv2D(3, 3, padding="same", activation="tanh"),
        L.Conv2D(3, 3, padding="same", activation="relu", name="last"),
        L.Flatten(),
        L.Dense(3, name="logits"),
        *head,
    )


@pytest.fixture(scope="module")
def model():
    """Logits."""
    return network()


@pytest.fixture(scope="module")
def with_softmax(model):
    """The same with probabilities."""
    other = network(L.Softmax())
    other.set_weights(model.get_weights())
    return other


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((3, 8, 8, 2), dtype=np.float32)


def squared(model, inputs, targets):
    return tf.reduce_sum(model(inputs) * targets, axis=-1) ** 2


def difference(name, model, images, *arguments, targets=TARGETS, other=None, **settings):
    """Largest difference between the maps of both libraries, in units of the largest entry."""
    ours = getattr(attributions, name)(model, *arguments, **settings).explain(images, targets)
    explainer = getattr(theirs, name)(model, *arguments, **settings | (other or {}))
    expected = np.asarray(explainer.explain(images, targets))
    assert ours.shape == expected.shape
    return np.abs(ours - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "arguments", "settings"),
    [
        ("Saliency", (), {}),
        ("Saliency", (None, 64), {}),
        ("Saliency", (None, None, None, None), {}),
        ("Saliency", (), {"reducer": "sum", "batch_size": 2}),
        ("GradientInput", (None, 16), {"reducer": "min"}),
        ("GradientInput", (), {"reducer": None}),
        ("Occlusion", (), {"patch_size": (4, 4), "patch_stride": (2, 2), "occlusion_value": 0.5}),
        ("Occlusion", (32, None, 2, 2, 0.5), {}),
        ("Occlusion", (None,), {"patch_size": 4, "patch_stride": 4}),
        ("GradCAM", (), {}),
        ("GradCAM", (None, 8, None, "last"), {}),
        ("GradCAM", (), {"conv_layer": 1, "batch_size": None}),
        ("GradCAM", (), {"conv_layer": 0}),
    ],
)
def test_same_calls_give_the_same_maps(name, arguments, settings, model, images):
    assert difference(name, model, images, *arguments, **settings) < 1e-5


@pytest.mark.parametrize("arguments", [(), (None, 32, None, "mean", 100, 0.2)])
def test_integrated_gradients_by_middles_of_pieces(arguments, model, images):
    """Of steps points ours are in the middle of as many pieces, theirs at the ends of one less."""
    assert difference("IntegratedGradients", model, images, *arguments) < 0.01
    steps = {"steps": 1000, "baseline_value": 0.2}
    assert difference("IntegratedGradients", model, images, **steps) < 1e-3


def test_random_draws(model, images):
    smooth = difference("SmoothGrad", model, images, None, 500, None, "mean", 1000, 0.1)
    assert smooth < 0.1
    settings = (500, None, 2000, 3, 0.5, 0.0)
    ours = attributions.Rise(model, *settings)(images, TARGETS)
    expected = np.asarray(theirs.Rise(model, *settings)(images, TARGETS))
    assert np.corrcoef(ours.ravel(), expected.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    "operator",
    [
        "classification",
        "regression",
        xplique.Tasks.CLASSIFICATION,
        xplique.Tasks.REGRESSION,
        squared,
        tf.function(squared),
    ],
)
@pytest.mark.parametrize("name", ["Saliency", "Occlusion"])
def test_operators_are_of_the_outputs_as_they_are(name, operator, with_softmax, images):
    patches = {"patch_size": 4, "patch_stride": 2} if name == "Occlusion" else {}
    assert difference(name, with_softmax, images, operator=operator, **patches) < 1e-4


def test_operator_of_grad_cam(with_softmax, images):
    """Which 2.0.2 forgets: there it is always the output of the class."""
    settings = {"operator": "classification"}
    assert difference("GradCAM", with_softmax, images, **settings) < 1e-4
    ours = attributions.GradCAM(with_softmax, operator=squared)(images, TARGETS)
    scores = np.sum(np.asarray(with_softmax(images)) * TARGETS, axis=1)
    expected = np.asarray(theirs.GradCAM(with_softmax, operator=squared)(images, TARGETS))
    np.testing.assert_allclose(ours, 2 * scores[:, None, None, None] * expected, rtol=1e-4)


@pytest.mark.parametrize("output_layer", [-2, 3, "logits"])
@pytest.mark.parametrize("name", ["Saliency", "IntegratedGradients", "GradCAM"])
def test_output_layer_is_what_xplique_documents(name, output_layer, with_softmax, images):
    """Which 2.0.2 forgets: it is compared with the model that is cut by hand."""
    settings = {"steps": 500} if name == "IntegratedGradients" else {}
    ours = getattr(attributions, name)(with_softmax, output_layer, 64, **settings)
    cut = keras.Model(with_softmax.inputs, with_softmax.get_layer("logits").output)
    expected = np.asarray(getattr(theirs, name)(cut, **settings)(images, TARGETS))
    np.testing.assert_allclose(ours(images, TARGETS), expected, atol=1e-3 * expected.max())


def test_output_layer_is_forgotten_by_xplique(with_softmax, images):
    """If this fails, docs/coming-from-xplique.md has to say so."""
    forgotten = theirs.Saliency(with_softmax, -2)(images, TARGETS)
    as_it_is = theirs.Saliency(with_softmax)(images, TARGETS)
    np.testing.assert_allclose(forgotten, as_it_is, rtol=1e-4)


def test_segmentation_and_its_metric(images):
    model = sequential(
        (8, 8, 2), L.Conv2D(4, 3, padding="same", activation="relu"), L.Conv2D(3, 1), L.Softmax()
    )
    targets = np.array(model(images))
    targets[:, 4:], targets[..., 1:] = 0, 0
    for task in ("semantic segmentation", xplique.Tasks.SEMANTIC_SEGMENTATION):
        settings = {"operator": task, "targets": targets}
        assert difference("Saliency", model, images, **settings) < 1e-5
    maps = attributions.Saliency(model, operator=task)(images, targets)
    arguments = (model, images, targets, 16, 0.0, 4)
    expected = float(their_metrics.Deletion(*arguments, operator=task)(maps))
    assert metrics.Deletion(*arguments, operator=task)(maps) == pytest.approx(expected, rel=1e-4)


def test_boxes_by_their_operator(images):
    """One box of each image: corners, probability that it is one, and three classes."""
    model = sequential((8, 8, 2), L.Flatten(), L.Dense(8, "sigmoid"), L.Reshape((1, 8)))
    weights, bias = model.get_weights()
    bias[:4] = [-2, -2, 2, 2]  # the first corner is before the second
    model.set_weights([0.5 * weights, bias])
    targets = np.array(model(images))[:, 0]
    operator = xplique.Tasks.OBJECT_DETECTION
    settings = {"operator": operator, "patch_size": 4, "patch_stride": 4, "targets": targets}
    assert difference("Occlusion", model, images, **settings) < 1e-4


def test_the_pages_on_classification(model, images):
    """Maps of logits, and fidelity of probabilities, as Xplique recommends."""
    found = []
    for library, measured in ((attributions, metrics), (theirs, their_metrics)):
        explainer = library.Saliency(model, operator=xplique.Tasks.CLASSIFICATION)
        explanations = explainer(images, TARGETS)
        for name in ("Deletion", "Insertion"):
            task = {"operator": xplique.Tasks.CLASSIFICATION, "activation": "softmax"}
            metric = getattr(measured, name)(model, images, TARGETS, **task)
            found.append(float(metric(explanations)))
            assert metric.evaluate(explanations) == pytest.approx(found[-1])
    np.testing.assert_allclose(found[:2], found[2:], rtol=1e-4)


def test_tables_and_regression():
    model = sequential((7,), L.Dense(6, "tanh"), L.Dense(2))
    inputs = np.random.default_rng(1).random((3, 7), dtype=np.float32)
    targets = tf.one_hot([1, 1, 1], depth=2)
    for task in ("regression", xplique.Tasks.REGRESSION):
        settings = {"operator": task, "targets": targets}
        assert difference("GradientInput", model, inputs, **settings) < 1e-5
        one = {"patch_size": 1, "patch_stride": 1}
        assert difference("Occlusion", model, inputs, **settings, **one) < 1e-5
    series = sequential((6, 4), L.Flatten(), L.Dense(2))
    inputs = np.random.default_rng(2).random((3, 6, 4), dtype=np.float32)
    blocks = {"patch_size": (3, 2), "patch_stride": (3, 2), "targets": targets}
    assert difference("Occlusion", series, inputs, **blocks) < 1e-5


def test_data_sets_and_tensors(model, images):
    expected = np.asarray(theirs.Saliency(model)(images, TARGETS))
    pairs = tf.data.Dataset.from_tensor_slices((images, TARGETS))
    for inputs, targets in ((pairs.batch(2), None), (tf.constant(images), TARGETS)):
        np.testing.assert_allclose(attributions.Saliency(model)(inputs, targets), expected, 1e-4)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda a, m: a.Saliency(m, operator="object detection"),
            "operator=xplique",
        ),
        (lambda a, m: a.Saliency(m, operator="colouring"), "'classification', 'regression'"),
        (lambda a, m: a.Saliency(m, operator=lambda model, x: x), "model, inputs, targets"),
        (lambda a, m: a.Saliency(m, reducer="median"), "or None"),
        (lambda a, m: a.Saliency(m, output_layer=True), "number in model.layers"),
        (lambda a, m: a.Saliency(m, output_layer="head"), "of conv.*logits"),
        (lambda a, m: a.Saliency(lambda x: x, output_layer=0), "Sequential and functional"),
        # what was meant in the order of earlier versions
        (lambda a, m: a.IntegratedGradients(m, 500), "given by name: steps=500"),
        (lambda a, m: a.SmoothGrad(m, 50), "given by name: nb_samples=50"),
        (lambda a, m: a.GradCAM(m, "last"), "given by name: conv_layer='last'"),
        (lambda a, m: a.IntegratedGradients(m, 1), "given by name: steps=1"),
        (lambda a, m: a.Occlusion(m, 4, 2), "given by name, such as patch_stride=2"),
        (lambda a, m: a.Rise(m, 4000, 7), "given by name, such as .*grid_size=7"),
        (lambda a, m: a.Occlusion(m, patch_size=2, patch_stride=3), "never covered"),
    ],
)
def test_sentences_in_the_place_of_other_meanings(call, sentence, model):
    with pytest.raises(ValueError, match=sentence):
        call(attributions, model)


@pytest.mark.parametrize("name", ["EVA", "CORGI", "RelEx", "CertifiedGradient", "SufficientReason"])
@pytest.mark.parametrize("argument", ["operator", "output_layer"])
def test_what_proves_explains_logits_and_says_so(name, argument, model):
    with pytest.raises(TypeError, match=rf"no argument {argument}.*keras.Model\("):
        getattr(attributions, name)(model, **{argument: None})
