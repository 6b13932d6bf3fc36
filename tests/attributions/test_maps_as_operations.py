"""Maps as operations with a derivative, for attacks: equal to `explain`, and derived right."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import sequential

from xcertify.attributions import (
    GradCAM,
    GradCAMPP,
    GradientInput,
    IntegratedGradients,
    Occlusion,
    Rise,
    Saliency,
    SmoothedAttribution,
    UniformlySmoothedAttribution,
)
from xcertify.logits import logits_of

L = keras.layers
SHAPE = (6, 5, 2)
EXPLAINERS = {
    "Saliency": Saliency,
    "GradientInput": GradientInput,
    "IntegratedGradients": lambda model: IntegratedGradients(model, steps=3),
    "Rise": lambda model: Rise(model, nb_samples=30, grid_size=3, mask_value=0.2),
    "Occlusion": lambda model: Occlusion(model, patch_size=3, patch_stride=2, occlusion_value=0.3),
    "GradCAM": GradCAM,
    "GradCAMPP": GradCAMPP,
}


def net(shape=SHAPE, last="softmax", seed=0):
    first = L.Conv2D(3, 2, activation="tanh") if len(shape) == 3 else L.Dense(4, "tanh")
    return sequential(shape, first, L.Flatten(), L.Dense(3, last), seed=seed)


@pytest.fixture(scope="module")
def model():
    return net()


def given(shape=SHAPE):
    """Inputs, and rows of weights of the logits that are no single class."""
    generator = np.random.default_rng(0)
    inputs = generator.uniform(0, 1, (4, *shape)).astype("float32")
    return inputs, generator.normal(size=(4, 3)).astype("float32")


def operations(explainer, shape=SHAPE):
    """The same as a function of (inputs, targets), in a graph."""
    maps_by = explainer._as_operations(shape)
    return tf.function(lambda x, t: maps_by(logits_of(explainer.model), x, t), autograph=False)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_operations_give_the_maps_of_explain(model, name):
    explainer = EXPLAINERS[name](model)
    inputs, targets = given()
    found = operations(explainer)(inputs, targets).numpy()
    expected = explainer.explain(inputs, targets)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["Rise", "Occlusion"])
@pytest.mark.parametrize("shape", [(7,), (6, 2)])
def test_of_series_and_tables(name, shape):
    explainer = EXPLAINERS[name](net(shape))
    inputs, targets = given(shape)
    found = operations(explainer, shape)(inputs, targets).numpy()
    np.testing.assert_allclose(found, explainer.explain(inputs, targets), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["Rise", "Occlusion", "GradCAM", "GradCAMPP"])
def test_derivatives_are_those_of_differences(model, name):
    """Along a direction, of a weighted sum of the map: central differences of `explain`."""
    explainer = EXPLAINERS[name](model)
    inputs, targets = given()
    generator = np.random.default_rng(1)
    shares = generator.normal(size=(4, 6, 5, 1)).astype("float32")
    way, maps_of = generator.normal(size=inputs.shape).astype("float32"), operations(explainer)

    @tf.function(autograph=False)
    def slope(points):
        with tf.GradientTape() as tape:
            tape.watch(points)
            score = tf.reduce_sum(maps_of(points, targets) * shares)
        return tf.reduce_sum(tape.gradient(score, points) * way, axis=[1, 2, 3])

    found = slope(tf.constant(inputs)).numpy()
    ahead, back = (explainer.explain(inputs + s * way, targets) for s in (5e-3, -5e-3))
    expected = ((ahead - back) * shares).sum(axis=(1, 2, 3)) / 1e-2
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=5e-3)


def test_of_very_many_masks_the_first_are_climbed_and_of_patches_none(model):
    inputs, targets = given()
    explainer = Rise(model, nb_samples=2000, grid_size=3)
    found = operations(explainer)(inputs, targets).numpy()
    masks = explainer._random_masks(SHAPE)(slice(128))[..., None]
    logits = logits_of(model)
    scores = np.stack([(logits(inputs * mask).numpy() * targets).sum(axis=1) for mask in masks])
    expected = np.tensordot(scores.T, masks / masks.sum(axis=0), 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert Occlusion(model, patch_size=1, patch_stride=1)._as_operations((12, 12, 1)) is None


class Halved(Rise):
    def _explain(self, inputs, weights):
        return super()._explain(inputs, weights) / 2


class Bent(Occlusion):
    def _explain(self, inputs, weights):
        return super()._explain(inputs, weights) ** 2


class Cut(GradCAM):
    def _explain(self, inputs, weights):
        return super()._explain(inputs, weights)[:, ::-1]


@pytest.mark.parametrize("kind", [Rise, Occlusion, GradCAM, Saliency, GradientInput])
def test_none_of_other_scores(model, kind):
    assert kind(model)._as_operations(SHAPE) is not None
    assert kind(model, operator="regression")._as_operations(SHAPE) is None


def test_none_of_a_layer(model):
    assert GradCAM(model, output_layer=-1)._as_operations(SHAPE) is None
    assert Saliency(model, output_layer=-1)._as_operations(SHAPE) is None


@pytest.mark.parametrize("kind", [Halved, Bent, Cut])
def test_none_of_subclasses_with_other_maps(model, kind):
    assert kind(model)._as_operations(SHAPE) is None


def test_a_smoothed_explainer_is_no_operation_though_its_explainer_is_one(model):
    inner = SmoothedAttribution(Saliency(model))
    assert inner._climbed_maps(SHAPE) is not None
    assert inner._as_operations(SHAPE) is None
    assert SmoothedAttribution(inner)._climbed_maps(SHAPE) is None
    of_function = UniformlySmoothedAttribution(lambda inputs, targets: inputs, model=model)
    assert of_function._climbed_maps(SHAPE) is None


@pytest.mark.parametrize("name", ["Rise", "Occlusion", "GradCAM"])
def test_attacks_of_the_smoothed_map_climb_them(name):
    """With its own derivative an attack flips more than without."""
    images, _ = given()
    explainer = EXPLAINERS[name](net(last=None, seed=3))
    settings = {"sigma": 0.2, "nb_samples": 300, "top": 0.3, "tau": 0.9, "attack": True}
    climbed = SmoothedAttribution(explainer, **settings)
    transferred = SmoothedAttribution(explainer, **settings)
    transferred._climbed_maps = lambda shape: None
    found, other = climbed.certify(images), transferred.certify(images)
    np.testing.assert_array_equal(found.counts, other.counts)
    certified = found.certified_in | found.certified_out
    assert not (found.flipped & certified).any()
    assert found.flipped.sum() > other.flipped.sum()


def steps(points):
    """Logits of a model without a gradient."""
    positive = tf.cast(points > 0.5, tf.float32)
    return tf.stack([tf.reduce_sum(positive, axis=1), positive[:, 0]], axis=1)


@pytest.mark.parametrize("kind", [SmoothedAttribution, UniformlySmoothedAttribution])
@pytest.mark.filterwarnings("ignore::xcertify.VacuousWarning")
def test_models_without_a_gradient_are_attacked_by_chance(kind):
    explainer = Rise(steps, nb_samples=10)
    assert explainer._as_operations((4,)) is None
    assert Occlusion(steps)._as_operations((4,)) is None
    inputs = np.random.default_rng(0).random((3, 4), np.float32)
    certificate = kind(explainer, nb_samples=60, attack=True).certify(inputs, [0, 1, 0])
    assert certificate.attacked.shape == (3,)
    assert (certificate.attacked <= certificate.certified).all()


@pytest.mark.filterwarnings("ignore::xcertify.VacuousWarning")
def test_directions_of_smoothed_maps_of_masks_are_climbed():
    """They are turned much farther than by way of the model's gradient."""
    explainer = EXPLAINERS["Rise"](net(last=None, seed=3))
    settings = {"noise_radius": 2.0, "epsilon": 1.0, "nb_samples": 400, "attack": True}
    climbed = UniformlySmoothedAttribution(explainer, **settings)
    transferred = UniformlySmoothedAttribution(explainer, **settings)
    transferred._climbed_maps = lambda shape: None
    images, _ = given()
    found, other = (one.certify(images).attacked.mean() for one in (climbed, transferred))
    assert found > 4 * other
