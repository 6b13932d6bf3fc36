"""Randomisation checks: by hand, of explainers that pass and fail, with nothing touched."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import sequential

from xcertify.attributions import (
    EVA,
    GradCAM,
    GradientInput,
    Occlusion,
    RandomMap,
    Saliency,
)
from xcertify.metrics import ModelRandomization, RandomLogit, rank_correlation
from xcertify.metrics.random_models import RandomModel
from xcertify.metrics.similarity import ssim

L = keras.layers
LABELS = np.array([2, 0, 1])
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]


@pytest.fixture(scope="module")
def model():
    return sequential(
        (8, 8, 2),
        L.Conv2D(4, 3, activation="relu", name="first"),
        L.BatchNormalization(name="norm"),
        L.Conv2D(4, 3, activation="relu", name="second"),
        L.Flatten(name="flatten"),
        L.Dense(3, name="head"),
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((3, 8, 8, 2), dtype=np.float32)


def changed(random, model):
    pairs = zip(random.model.get_weights(), model.get_weights())
    return [not np.array_equal(*pair) for pair in pairs]


@pytest.mark.parametrize("weights", ["initial", "permuted"])
def test_random_weights(weights, model):
    random = RandomModel(model, weights, seed=3)
    assert random.names == ("first", "norm", "second", "head")
    assert isinstance(random.model, keras.Sequential)
    assert not any(changed(random, model))
    random.randomize("second")
    drawn = random.model.get_weights()
    places = [i for i, differs in enumerate(changed(random, model)) if differs]
    assert places == [6, 7]  # kernel and bias; before them 2, and 4 of the normalization
    if weights == "permuted":
        np.testing.assert_array_equal(
            *(np.sort(w[6].ravel()) for w in (drawn, model.get_weights()))
        )
    else:
        assert np.abs(drawn[6]).max() <= np.sqrt(6 / (9 * 4 + 9 * 4))  # Glorot's range
        assert not drawn[7].any()
    random.restore("second")
    assert not any(changed(random, model))
    again = RandomModel(model, weights, seed=3)
    again.randomize("first")
    again.randomize("second")  # the same whatever was randomised before
    np.testing.assert_array_equal(again.model.get_weights()[6], drawn[6])


def test_layers_of_nested_frozen_and_custom_models():
    class Scale(L.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), name="factor")

        def call(self, x):
            return x * self.factor

    body = sequential((6, 6, 1), L.Conv2D(2, 3, name="conv"), Scale(name="scale"))
    body.trainable = False
    heads = [L.MultiHeadAttention(2, 2, name="attention"), L.Dense(3, name="head")]
    start = keras.Input((6, 6, 1))
    tokens = L.Reshape((16, 2))(body(start))
    model = keras.Model(start, heads[1](L.Flatten()(heads[0](tokens, tokens))))
    random = RandomModel(model)
    assert random.names == (f"{body.name}/conv", f"{body.name}/scale", "attention", "head")
    nb_changed = []
    for name in random.names:
        random.randomize(name)
        nb_changed.append(sum(changed(random, model)))
    # the two factors of `Scale` are permuted, here to what they were; zeros of biases stay
    assert nb_changed == [2, 2, 6, 7]
    with pytest.raises(ValueError, match="Sequential or functional Keras model.*class function"):
        RandomModel(lambda x: x)
    with pytest.raises(ValueError, match="no layers with weights"):
        RandomModel(keras.Sequential([keras.Input((3,)), L.Activation("relu")]))


@pytest.mark.parametrize("cascading", [True, False])
def test_curves_by_hand(cascading, model, images):
    metric = ModelRandomization(
        model, images, LABELS, 2, cascading=cascading, weights="permuted", seed=1
    )
    result = metric.detailed_evaluate(Saliency(model))
    assert result.layers == ("head", "second", "norm", "first")
    original = Saliency(model)(images, LABELS)
    other = RandomModel(model, "permuted", 1)
    for number, name in enumerate(result.layers):
        if number and not cascading:
            other.restore(result.layers[number - 1])
        other.randomize(name)
        maps = Saliency(other.model)(images, LABELS)
        expected = rank_correlation(original, maps)
        np.testing.assert_allclose(result.curves[:, number], expected, atol=1e-3)
        expected = ssim(original, maps)[0]
        np.testing.assert_allclose(result.similarities["ssim"][:, number], expected, atol=1e-3)
    np.testing.assert_allclose(result.scores, result.curves.mean(axis=1))
    same = result.similarities["absolute spearman"]  # of maps that are magnitudes already
    np.testing.assert_allclose(same, result.curves)
    metric.similarity = "ssim"
    np.testing.assert_allclose(metric(Saliency(model)), result.similarities["ssim"].mean())
    metric.stop_layer, metric.top_down = 0.5, False
    assert metric.detailed_evaluate(Saliency(model)).layers == ("first", "norm")
    metric.stop_layer = "second"
    assert metric.detailed_evaluate(Saliency(model)).layers == ("first", "norm")
    for wrong in ("first", "flatten", 0, 5, True, 0.1, 1.5):
        metric.stop_layer = wrong
        with pytest.raises(ValueError, match=f"stop_layer must be .* Received: {wrong!r}"):
            metric(Saliency(model))


def test_what_passes_and_what_fails(model, images):
    metric = ModelRandomization(model, images, LABELS)
    assert metric(RandomMap(model)) == pytest.approx(1)  # does not look at the model
    assert metric(lambda m: lambda inputs, targets: np.abs(inputs)) == pytest.approx(1)
    assert metric(Saliency(model)) < 0.6
    by_class = metric(Saliency)
    assert by_class == pytest.approx(metric(Saliency(model)), abs=1e-3)
    for explainer in (
        EVA(model, 0.01, grid_size=4),
        Occlusion(model, patch_size=4, patch_stride=4),
        GradCAM(model, conv_layer=0),
    ):
        assert metric(explainer) < 0.95
    flat = metric.detailed_evaluate(lambda m: lambda x, targets: np.ones(len(x))[:, None])
    assert flat.nb_tied == 3 and flat.score == 0


def test_nothing_is_touched(model, images):
    before, explainer = model.get_weights(), Saliency(model)
    explainer(images, LABELS)
    state, seed = dict(vars(explainer)), np.random.get_state()[1].copy()
    ModelRandomization(model, images, LABELS)(explainer)

    class Breaks(Saliency):
        def explain(self, inputs, targets=None):
            if self.model is not model:
                raise ZeroDivisionError
            return super().explain(inputs, targets)

    broken = Breaks(model)
    with pytest.raises(ZeroDivisionError):
        ModelRandomization(model, images, LABELS)(broken)
    for one in (explainer, broken):
        assert one.model is model
    assert {k: id(v) for k, v in vars(explainer).items()} == {k: id(v) for k, v in state.items()}
    for own, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(own, now)
    np.testing.assert_array_equal(seed, np.random.get_state()[1])


def test_refusals(model, images):
    metric = ModelRandomization(model, images, LABELS)
    for wrong in (lambda inputs, targets: inputs, images):
        with pytest.raises(ValueError, match="attribute `model`.*model -> explainer"):
            metric(wrong)
    with pytest.raises(ValueError, match="similarity must be one of 'spearman'"):
        ModelRandomization(model, images, similarity="l2")
    with pytest.raises(ValueError, match="weights must be one of 'initial', 'permuted'"):
        ModelRandomization(model, images, weights="normal")
    table = sequential((5,), L.Dense(3))
    inputs = np.random.default_rng(0).random((3, 5))
    assert -1 <= ModelRandomization(table, inputs)(GradientInput(table)) <= 1
    with pytest.raises(ValueError, match="similarity='ssim' is of maps of images"):
        ModelRandomization(table, inputs, similarity="ssim")(GradientInput(table))


def test_random_logit(model, images):
    two = sequential((8, 8, 2), L.Conv2D(2, 3, activation="relu"), L.Flatten(), L.Dense(2))
    labels = np.array([0, 1, 1])
    for similarity, compare in [("spearman", rank_correlation), ("ssim", lambda *m: ssim(*m)[0])]:
        metric = RandomLogit(two, images, labels, similarity=similarity)
        maps = [Saliency(two)(images, own) for own in (labels, 1 - labels)]
        np.testing.assert_allclose(
            metric.evaluate_samples(Saliency(two)), compare(*maps), atol=1e-4
        )
    asked = []

    def explainer(inputs, targets):
        asked.append(targets.argmax(axis=1))
        return inputs

    assert RandomLogit(model, images, LABELS)(explainer) == pytest.approx(1)
    assert (asked[0] == LABELS).all() and (asked[1] != LABELS).all()
    single = sequential((4,), L.Dense(1, "sigmoid"))
    inputs = np.random.default_rng(0).random((3, 4))
    assert RandomLogit(single, inputs)(GradientInput(single)) == pytest.approx(-1)


def test_beside_xplique(model, images):
    theirs = pytest.importorskip("xplique.metrics.randomization", reason="Xplique is missing")
    explainers = pytest.importorskip("xplique.attributions")
    first, second = (Saliency(model)(images, labels) for labels in (LABELS, (LABELS + 1) % 3))
    expected = theirs.ssim(tf.constant(first), tf.constant(second), batched=True)
    np.testing.assert_allclose(ssim(first, second)[0], expected, atol=1e-5)

    class Permuted:
        """Their strategy with our weights."""

        def randomize(self, other):
            random = RandomModel(model)
            for name in ("head", "second"):
                random.randomize(name)
            other.set_weights(random.model.get_weights())

    metric = ModelRandomization(model, images, LABELS, stop_layer=2)
    for explainer in (
        explainers.Saliency(model),
        explainers.GuidedBackprop(model),
        explainers.GradCAM(model, conv_layer="second"),
        explainers.Occlusion(model, patch_size=4, patch_stride=4),
    ):
        found = metric.detailed_evaluate(explainer).curves[:, -1].mean()
        if isinstance(explainer, (explainers.Saliency, explainers.Occlusion)):
            # it cannot clone the model of one, and of the other keeps the layer of the first model
            other = theirs.ModelRandomizationMetric(model, images, ONE_HOT, Permuted())
            assert found == pytest.approx(other.evaluate(explainer), abs=2e-3)
        built = metric.detailed_evaluate(type(explainer))
        assert built.curves.shape == (3, 2)
    saliency, guided = (
        metric(kind(model)) for kind in (explainers.Saliency, explainers.GuidedBackprop)
    )
    assert saliency < guided
    with pytest.raises(ValueError, match="written stop_layer=..., top_down=..."):
        ModelRandomization(model, images, LABELS, theirs.ProgressiveLayerRandomization(0.5))
