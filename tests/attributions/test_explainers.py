"""Explainers that prove nothing: by hand and against naive loops."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import functional, sequential

from xcertify.attacks import minimal_perturbation
from xcertify.attributions import (
    EVA,
    GradCAM,
    GradientInput,
    GreedyAS,
    IntegratedGradients,
    MarginGradientRange,
    Occlusion,
    RandomMap,
    Rise,
    Saliency,
    SampledEVA,
    SmoothGrad,
)
from xcertify.regions import Box

L = keras.layers
SHAPE = (6, 5, 2)


@pytest.fixture(scope="module")
def model():
    layers = [L.Conv2D(3, 2, activation="tanh"), L.Flatten(), L.Dense(6, "tanh"), L.Dense(3)]
    return sequential(SHAPE, *layers)


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 1, (4, *SHAPE)).astype("float32")


LABELS = np.array([2, 0, 1, 1])


def naive_gradient(model, point, label):
    point = tf.constant(point[None])
    with tf.GradientTape() as tape:
        tape.watch(point)
        logit = model(point)[0, label]
    return tape.gradient(logit, point)[0].numpy()


def affine(nb_features, nb_classes, seed=0):
    model = sequential((nb_features,), L.Dense(nb_classes), seed=seed)
    return model, model.get_weights()[0].astype(float)


def test_linear_models_have_a_closed_form():
    model, weights = affine(5, 3)
    inputs = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    own = weights[:, LABELS].T
    baseline = np.arange(5.0)
    for explainer, expected in [
        (Saliency(model), abs(own)),
        (GradientInput(model), own * inputs),
        (IntegratedGradients(model, steps=3, baseline_value=baseline), own * (inputs - baseline)),
        (SmoothGrad(model, nb_samples=3), own),
        (Occlusion(model, occlusion_value=0.5), own * (inputs - 0.5)),
    ]:
        maps = explainer(inputs, LABELS)
        np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6, err_msg=str(explainer))
    # weights of all logits at once
    mixed = np.array([[1.0, -2.0, 0.0]] * 4)
    np.testing.assert_allclose(
        GradientInput(model)(inputs, mixed), inputs * (mixed @ weights.T), rtol=1e-4
    )


def test_a_single_logit_counts_as_two_classes():
    model, weights = affine(5, 1)
    inputs = np.random.default_rng(0).normal(size=(2, 5)).astype("float32")
    expected = inputs * [[-1], [1]] * weights[:, 0]
    np.testing.assert_allclose(GradientInput(model)(inputs, [0, 1]), expected, rtol=1e-5)


def test_control_is_eva_where_nothing_bends():
    model, _ = affine(6, 2)
    inputs = np.random.default_rng(0).uniform(0, 1, (3, 6)).astype("float32")
    maps = MarginGradientRange(model, 0.3, (0, 1))(inputs)
    np.testing.assert_allclose(maps, EVA(model, 0.3, clip=(0, 1))(inputs), atol=1e-5)
    assert maps.min() >= 0


@pytest.mark.parametrize("temperature", [0, 2.0])
def test_control_by_a_loop(model, images, temperature):
    maps = MarginGradientRange(model, 0.4, (0, 1), temperature)(images, LABELS)
    for image, label, found in zip(images, LABELS, maps):
        logits = model(image[None]).numpy()[0]
        margins = np.delete(logits - logits[label], label)
        shares = np.exp(margins / temperature) if temperature else margins == margins.max()
        others = np.delete(np.arange(3), label)
        own = naive_gradient(model, image, label)
        gradient = sum(
            share * (naive_gradient(model, image, other) - own)
            for share, other in zip(shares / shares.sum(), others)
        )
        up, down = np.minimum(image + 0.4, 1) - image, np.maximum(image - 0.4, 0) - image
        expected = np.maximum(gradient * up, gradient * down).sum(-1)
        np.testing.assert_allclose(found[..., 0], expected, atol=1e-5)


def test_gradients_by_a_loop(model, images):
    baseline = np.full(SHAPE, 0.3, np.float32)
    noise = np.random.default_rng(1).standard_normal((4, *SHAPE), np.float32) * 0.5
    integrated = IntegratedGradients(model, steps=6, baseline_value=baseline, reducer="sum")(
        images, LABELS
    )
    smooth = SmoothGrad(model, nb_samples=4, noise=0.5, reducer="min", seed=1)(images, LABELS)
    for place, (image, label) in enumerate(zip(images, LABELS)):
        points = [baseline + (i + 0.5) / 6 * (image - baseline) for i in range(6)]
        mean = np.mean([naive_gradient(model, point, label) for point in points], axis=0)
        expected = (mean * (image - baseline)).sum(-1)
        np.testing.assert_allclose(integrated[place, ..., 0], expected, atol=1e-5)
        mean = np.mean([naive_gradient(model, image + step, label) for step in noise], axis=0)
        np.testing.assert_allclose(smooth[place, ..., 0], mean.min(-1), atol=1e-5)


def test_integrated_gradients_are_complete(model, images):
    maps = IntegratedGradients(model, steps=200, baseline_value=0.1, reducer="sum")(images, LABELS)
    samples = np.arange(len(images))
    change = (model(images) - model(np.full_like(images, 0.1))).numpy()[samples, LABELS]
    np.testing.assert_allclose(maps.sum(axis=(1, 2, 3)), change, atol=1e-4)


def test_occlusion_by_a_loop(model, images):
    maps = Occlusion(model, patch_size=3, patch_stride=2, occlusion_value=0.2)(images, LABELS)
    for image, label, found in zip(images, LABELS, maps):
        expected = np.zeros(SHAPE[:2])
        for top in (0, 2, 4):
            for left in (0, 2):
                covered = image.copy()
                covered[top : top + 3, left : left + 3] = 0.2
                fall = (model(image[None]) - model(covered[None])).numpy()[0, label]
                expected[top : top + 3, left : left + 3] += fall
        np.testing.assert_allclose(found[..., 0], expected, atol=1e-5)


def test_masks_of_rise():
    masks = Rise(
        tf.identity, nb_samples=3000, grid_size=4, preservation_probability=0.3
    )._random_masks
    drawn = masks((12, 10, 3))(slice(0, 3000))
    assert drawn.shape == (3000, 12, 10)
    assert drawn.min() == 0
    assert drawn.max() == 1
    np.testing.assert_allclose(drawn.mean(axis=0), 0.3, atol=0.04)
    np.testing.assert_array_equal(masks((12, 10, 3))(slice(7, 9)), drawn[7:9])
    # linear along a row, and constant beyond the middle of the outer cells
    assert np.abs(np.diff(drawn, 2, axis=1)).max() < 1
    columns = masks((12, 2))(slice(0, 3000))  # time series: the variables on their own
    assert abs(np.corrcoef(columns[:, 0].T)[0, 1]) < 0.1
    assert set(np.unique(masks((9,))(slice(0, 3000)))) == {0, 1}


def test_rise_by_a_loop(model, images):
    explainer = Rise(model, nb_samples=23, grid_size=3, mask_value=0.4, seed=5)
    masks = explainer._random_masks(SHAPE)(slice(0, 23))
    for image, label, found in zip(images, LABELS, explainer(images, LABELS)):
        points = [image * mask[..., None] + 0.4 * (1 - mask[..., None]) for mask in masks]
        scores = [model(point[None]).numpy()[0, label] for point in points]
        expected = sum(s * mask for s, mask in zip(scores, masks)) / masks.sum(axis=0)
        np.testing.assert_allclose(found[..., 0], expected, rtol=1e-4, atol=1e-5)


def test_grad_cam_by_hand():
    start = keras.Input((4, 4, 1))
    channels = L.Conv2D(2, 1, use_bias=False, name="last")(start)
    model = functional(start, L.Dense(2, "softmax")(L.GlobalAveragePooling2D()(channels)))
    model.set_weights(
        [np.array([[[[1.0, -2.0]]]]), np.array([[3.0, 0.0], [1.0, 0.0]]), np.zeros(2)]
    )
    image = np.random.default_rng(0).normal(size=(1, 4, 4, 1)).astype("float32")
    # channels x and -2x, mean gradients 3 / 16 and 1 / 16
    expected = np.maximum((3 * image - 2 * image) / 16, 0)
    np.testing.assert_allclose(GradCAM(model)(image, [0]), expected, atol=1e-6)
    np.testing.assert_allclose(
        GradCAM(model, conv_layer="last")(image, [1]), 0 * expected, atol=1e-6
    )
    with pytest.raises(ValueError, match="'nothing'"):
        GradCAM(model, conv_layer="nothing")(image)
    with pytest.raises(ValueError, match="needs a convolution"):
        GradCAM(affine(5, 3)[0])(np.zeros((1, 5)))


@pytest.mark.parametrize("complement", [False, True])
def test_greedy_as_finds_the_steepest_features(complement):
    model, weights = affine(20, 2)
    importance = abs(weights[:, 1] - weights[:, 0])
    inputs = np.full((2, 20), 0.5, np.float32)
    settings = {"clip": (-50, 50), "share": 0.1, "nb_subsets": 200}
    explainer = GreedyAS(model, complement=complement, **settings)
    maps = explainer(inputs)
    # for a linear margin the distance is margin / |weights of what may move|
    assert set(np.argsort(-maps[0])[:4]) == set(np.argsort(-importance)[:4])
    np.testing.assert_array_equal(maps, explainer(inputs))
    rounds = np.sort(maps[0].astype(int))[::-1]  # two join in each of five rounds, the rest never
    np.testing.assert_array_equal(rounds[:10], np.repeat([4, 3, 2, 1, 0], 2))
    held = np.ones((1, 20), bool)
    held[0, np.argsort(-maps[0])[:4]] = False
    region = Box(0 * inputs[:1] - 50, 0 * inputs[:1] + 50, inputs[:1])
    near, far = (minimal_perturbation(model, region, mask=m).distances for m in (held, ~held))
    assert near < far


def test_random_maps_are_random():
    inputs = np.zeros((3, 4, 4, 2), np.float32)
    model = sequential((4, 4, 2), L.Flatten(), L.Dense(2))
    maps = RandomMap(model, seed=1)(inputs)
    np.testing.assert_array_equal(maps, RandomMap(model, seed=1)(inputs))
    assert len(np.unique(maps)) == 48
    assert np.abs(maps - RandomMap(model, seed=2)(inputs)).max() > 0.1


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Saliency, {"reducer": "median"}, "reducer must be one of .* Received: 'median'"),
        (IntegratedGradients, {"steps": 0}, "steps must be a whole number"),
        (SmoothGrad, {"noise": -1}, "noise must be"),
        (Occlusion, {"patch_size": 2.5}, "patch_size must be a whole number"),
        (Occlusion, {"patch_size": 2}, "patch_stride must not be larger than patch_size, .2, 2."),
        (Rise, {"preservation_probability": 1}, "must be inside"),
        (GreedyAS, {"share": 0}, "share must be inside"),
        (SampledEVA, {"nb_samples": 0}, "nb_samples must be a whole number"),
        (RandomMap, {"batch_size": 0}, "batch_size must be a whole number"),
    ],
)
def test_bad_settings(model, kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(model, **settings)


def test_the_layer_of_grad_cam_may_change_between_calls():
    layers = keras.layers
    convolutions = [layers.Conv2D(2, 3, activation="tanh", name=name) for name in ("one", "two")]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(3)]
    model = keras.Sequential([keras.Input((6, 6, 1)), *convolutions, *head])
    images = np.random.default_rng(0).random((2, 6, 6, 1), dtype="float32")
    explainer = GradCAM(model)
    explainer(images)
    explainer.conv_layer = "one"
    np.testing.assert_allclose(explainer(images), GradCAM(model, conv_layer="one")(images))
