"""Average stability against loops and Xplique, and its certified counterpart."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import sequential

from xcertify.attributions import EVA, GradCAM, GradientInput, Occlusion, Saliency
from xcertify.metrics import AverageStability
from xcertify.perturbation import Perturbation

L = keras.layers
LABELS = np.array([2, 0, 1])
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]


@pytest.fixture(scope="module")
def model():
    return sequential(
        (6, 6, 2),
        L.Conv2D(3, 3, activation="relu", name="conv"),
        L.Flatten(),
        L.Dense(5, activation="relu"),
        L.Dense(3),
    )


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, 6, 6, 2), dtype=np.float32)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("distance", ["l1", "l2", "linf", "own"])
def test_by_a_loop(distance, two_sided, model, images):
    explainer = GradientInput(model)
    order = {"l1": 1, "l2": 2, "linf": np.inf, "own": 2}[distance]
    own = (lambda a, b: np.linalg.norm(a - b)) if distance == "own" else distance
    metric = AverageStability(
        model, images, LABELS, 4, 0.2, own, 3, clip=(0, 1), two_sided=two_sided, seed=5
    )
    draws = np.random.default_rng(5).random((3, 6, 6, 2), dtype=np.float32)
    draws = 2 * draws - 1 if two_sided else draws
    result = metric.detailed_evaluate(explainer)
    for number, (image, label) in enumerate(zip(images, LABELS)):
        at_image = explainer(image[None], [label])
        for place, draw in enumerate(draws):
            moved = explainer(np.clip(image + 0.2 * draw, 0, 1)[None], [label])
            expected = np.linalg.norm((moved - at_image).ravel(), order)
            np.testing.assert_allclose(result.curves[number, place], expected, rtol=1e-4)
    np.testing.assert_allclose(result.scores, result.curves.mean(axis=1))
    assert metric(explainer) == metric.evaluate(explainer) == result.score
    np.testing.assert_array_equal(metric.evaluate_samples(explainer), result.scores)
    assert not result.higher_is_better
    metric.batch_size = None
    np.testing.assert_allclose(metric.evaluate_samples(explainer), result.scores, rtol=1e-5)
    maps = explainer(images, LABELS)
    np.testing.assert_allclose(metric.evaluate(explainer, maps), result.score, rtol=1e-6)


def test_neighbours_stay_in_the_valid_range(model, images):
    seen = []

    def explainer(inputs, targets):
        seen.append(inputs)
        return inputs

    AverageStability(model, images, radius=0.5).evaluate(explainer)
    assert np.concatenate(seen).max() > 1
    seen.clear()
    AverageStability(model, images, radius=0.5, clip=(0, 1), two_sided=True).evaluate(explainer)
    found = np.concatenate(seen)
    assert found.min() >= 0
    assert found.max() <= 1
    # explainers with a valid range of their own are content
    metric = AverageStability(model, images, LABELS, radius=0.5, clip=(0, 1), nb_samples=2)
    assert metric(EVA(model, 0.01, clip=(0, 1), grid_size=2)) >= 0
    with pytest.raises(ValueError, match="leave the valid range clip.*sample 0"):
        AverageStability(model, images + 1, clip=(0, 1))
    seen.clear()
    AverageStability(model, images + 1, clip=(0, 1), outside="clip").evaluate(explainer)
    np.testing.assert_array_equal(np.concatenate(seen), 1)
    perturbation = Perturbation(0.5, clip=(0, 1))
    other = AverageStability(model, images, LABELS, nb_samples=2, perturbation=perturbation)
    assert other(Saliency(model)) == metric(Saliency(model))


def test_what_is_taken_and_refused(model, images):
    dataset = tf.data.Dataset.from_tensor_slices((images, ONE_HOT)).batch(2)
    expected = AverageStability(model, images, LABELS)(Saliency(model))
    assert AverageStability(model, dataset)(Saliency(model)) == pytest.approx(expected, rel=1e-5)
    assert AverageStability(model, images, ONE_HOT)(Saliency(model)) == expected
    predicted = model(images).numpy().argmax(axis=1)
    by_model = AverageStability(model, images)(Saliency(model))
    assert by_model == AverageStability(model, images, predicted)(Saliency(model))
    assert AverageStability(model, images, LABELS)(Occlusion(model, patch_size=3)) > 0
    with pytest.raises(ValueError, match="distance must be one of l1, l2, linf.*Received: 'l3'"):
        AverageStability(model, images, distance="l3")
    with pytest.raises(ValueError, match="nb_samples must be a whole number"):
        AverageStability(model, images, nb_samples=0)
    with pytest.raises(ValueError, match="epsilon"):
        AverageStability(model, images, radius=-1)
    metric = AverageStability(model, images)
    with pytest.raises(ValueError, match="give it the explainer.*Received: ndarray"):
        metric(images)
    with pytest.raises(ValueError, match="one map per input"):
        metric(lambda inputs, targets: inputs[:1].sum(axis=0))
    with pytest.raises(ValueError, match="NaN"):
        metric(lambda inputs, targets: inputs * np.nan)


def test_same_numbers_as_xplique(model, images):
    theirs = pytest.importorskip("xplique.metrics", reason="Xplique is not installed")
    explainers = pytest.importorskip("xplique.attributions")
    for distance in ("l1", "l2"):
        arguments = (model, images, ONE_HOT, 64, 0.3, distance, 7)
        other, ours = theirs.AverageStability(*arguments), AverageStability(*arguments, seed=3)
        draws = np.random.default_rng(3).random((7, 6, 6, 2), dtype=np.float32)
        other.noisy_masks = tf.constant(np.float32(0.3) * draws)
        for explainer in (Saliency(model), GradCAM(model), explainers.Saliency(model)):
            assert ours(explainer) == pytest.approx(float(other(explainer)), rel=1e-4)
    many = AverageStability(model, images, ONE_HOT, nb_samples=400)(GradientInput(model))
    tf.random.set_seed(0)
    drawn = theirs.AverageStability(model, images, ONE_HOT, nb_samples=400)(GradientInput(model))
    assert many == pytest.approx(drawn, rel=0.02)
