"""Maps found in several rounds: against naive loops, and by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import NETWORKS, sequential

from xcertify.attributions import EVA, MarginGradientRange, rounds
from xcertify.attributions.rounds import shortest_steps
from xcertify.metrics import RobustnessSr

L = keras.layers


def affine(nb_features, nb_classes, seed=0):
    model = sequential((nb_features,), L.Dense(nb_classes))
    generator = np.random.default_rng(seed)
    weights = [generator.normal(size=(nb_features, nb_classes)), generator.normal(size=nb_classes)]
    model.set_weights(weights)
    return model


def bisected(coefficients, needed, low, high):
    """The shortest step of one function, by halving the multiplier of ``clip(t a)``."""
    ends = np.where(coefficients > 0, high, low) * (coefficients != 0)
    if coefficients @ ends < needed:
        return ends
    least, most = 0.0, 1e6
    for _ in range(200):
        middle = (least + most) / 2
        step = np.clip(middle * coefficients, low, high)
        least, most = (least, middle) if coefficients @ step >= needed else (middle, most)
    return np.clip(most * coefficients, low, high)


def ranked_by_a_loop(tangents, center, margins, clip, temperature, nb_rounds):
    """`scores_in_rounds` of one input of features that are cells, from gradients at points."""
    left, point, level = list(range(len(center))), center, 0.0
    scores = np.zeros(len(center))
    for number in range(nb_rounds):
        steps = []
        for gradient, margin in zip(tangents(point), margins):
            free = np.isin(np.arange(len(center)), left)
            low, high = (clip[0] - center) * free, (clip[1] - center) * free
            steps.append(bisected(gradient, -margin, low, high))
        gains = [gradient * step for gradient, step in zip(tangents(point), steps)]
        suffices = [gain.sum() >= -m - 1e-9 for gain, m in zip(gains, margins)]
        lengths = [np.linalg.norm(step) for step in steps]
        shortest = min([n for n, enough in zip(lengths, suffices) if enough], default=np.inf)
        values = [
            m + gain.sum() * min(1.0, shortest / n) for m, gain, n in zip(margins, gains, lengths)
        ]
        at = temperature / 2**number
        weights = np.exp((np.array(values) - max(values)) / at)
        weights /= weights.sum()
        parts = sum(w * gain / gain.sum() for w, gain in zip(weights, gains))
        for feature in left:
            scores[feature] = level + parts[feature]
        nb_left = -(-len(center) // 2 ** (number + 1))
        left.sort(key=lambda feature: scores[feature])
        held, left = left[: len(left) - nb_left], left[len(left) - nb_left :]
        level = scores[held[-1]] if held else level
        point = center + steps[int(np.argmax(values))]
    return scores


@pytest.mark.parametrize("needed", [0.1, 1.0, 4.0, 100.0])
def test_shortest_steps_by_bisection(needed):
    generator = np.random.default_rng(int(needed))
    coefficients = generator.normal(size=(2, 3, 8))
    coefficients[0, 0, :3] = 0
    low, high = -generator.uniform(0, 1, (2, 8)), generator.uniform(0, 1, (2, 8))
    high[:, 4] = 0
    steps, suffices = shortest_steps(coefficients, np.full((2, 3), needed), low, high)
    for sample in range(2):
        for row in range(3):
            a, step = coefficients[sample, row], steps[sample, row]
            expected = bisected(a, needed, low[sample], high[sample])
            np.testing.assert_allclose(step, expected, atol=1e-7)
            assert suffices[sample, row] == (a @ expected >= needed - 1e-7)
            # no random step that gains as much is shorter
            others = generator.uniform(low[sample], high[sample], (2000, 8))
            enough = others[others @ a >= needed]
            assert (np.linalg.norm(enough, axis=1) >= np.linalg.norm(step) - 1e-7).all()


def test_shortest_steps_without_a_valid_range_go_along_the_gradient():
    coefficients = np.array([[[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]]])
    endless = np.full((1, 3), np.inf)
    steps, suffices = shortest_steps(coefficients, np.full((1, 2), 5.0), -endless, endless)
    np.testing.assert_allclose(steps, [[[0.6, 0.8, 0.0], [0.0, 0.0, 0.0]]])
    np.testing.assert_array_equal(suffices, [[True, False]])


@pytest.mark.parametrize("nb_rounds", [2, 4])
@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_control_in_rounds_by_a_loop(nb_rounds, temperature):
    model = sequential((9,), L.Dense(12, "tanh"), L.Dense(4))
    inputs = np.random.default_rng(1).uniform(0, 1, (3, 9)).astype(np.float32)
    logits = model(inputs).numpy().astype(np.float64)
    explainer = MarginGradientRange(model, 0.1, (0, 1), temperature, nb_rounds=nb_rounds)
    maps = explainer(inputs)
    for sample, (point, values) in enumerate(zip(inputs, logits)):
        own = values.argmax()
        others = [other for other in range(4) if other != own]

        def tangents(at, own=own, others=others):
            x = tf.constant(at[None], tf.float32)
            with tf.GradientTape() as tape:
                tape.watch(x)
                logits = model(x)[0]
                margins = tf.stack([logits[other] - logits[own] for other in others])
            return tape.jacobian(margins, x).numpy()[:, 0].astype(np.float64)

        margins = [values[other] - values[own] for other in others]
        expected = ranked_by_a_loop(
            tangents, point.astype(np.float64), margins, (0, 1), temperature, nb_rounds
        )
        np.testing.assert_allclose(maps[sample], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("clip", [None, (0, 1)])
def test_eva_is_its_control_where_nothing_bends(clip):
    model = affine(7, 4)
    inputs = np.random.default_rng(0).uniform(0, 1, (3, 7)).astype(np.float32)
    settings = {"epsilon": 0.3, "clip": clip, "nb_rounds": 3}
    maps = EVA(model, **settings)(inputs)
    np.testing.assert_allclose(maps, MarginGradientRange(model, **settings)(inputs), atol=1e-5)


def test_the_nearest_class_counts_whatever_the_radius():
    # class 1 is 1 away along the first feature, class 2 is 2.5 away along the second one
    model = sequential((2,), L.Dense(3))
    model.set_weights([np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 4.0]]), np.array([0.0, -1.0, -10.0])])
    one, several = (
        EVA(model, epsilon=10.0, temperature=0, nb_rounds=n)(np.zeros((1, 2)))[0] for n in (1, 2)
    )
    assert one[1] > one[0]
    assert several[0] > several[1]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", ["convolutions", "sigmoid", "time series"])
def test_maps_do_not_depend_on_what_else_is_explained(name):
    model = NETWORKS[name]() if name in NETWORKS else None
    if name == "time series":
        model = sequential((6, 2), L.Conv1D(3, 2, activation="relu"), L.Flatten(), L.Dense(3))
    if name == "sigmoid":
        model = sequential((5,), L.Dense(4, "relu"), L.Dense(1, "sigmoid"))
    shape = model.input_shape[1:]
    inputs = np.random.default_rng(0).uniform(0, 1, (4, *shape)).astype(np.float32)
    for explainer in (
        EVA(model, 0.05, clip=(0, 1), nb_rounds=3),
        MarginGradientRange(model, 0.05, (0, 1), nb_rounds=3),
    ):
        maps = explainer(inputs)
        assert maps.shape == ((4, *shape[:2], 1) if len(shape) == 3 else (4, *shape))
        assert (maps >= 0).all()
        assert (maps > 0).any(axis=tuple(range(1, maps.ndim))).all()
        each = np.concatenate([explainer(inputs[i : i + 1]) for i in range(4)])
        np.testing.assert_allclose(maps, each, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("eager")
def test_cells_are_held_as_a_whole():
    model = NETWORKS["convolutions"]()
    inputs = np.random.default_rng(0).uniform(0, 1, (2, *model.input_shape[1:]))
    maps = EVA(model, 0.05, clip=(0, 1), grid_size=2, nb_rounds=2)(inputs)[..., 0]
    for found in maps:
        assert len(np.unique(found[:3, :3])) == len(np.unique(found[3:, 4:])) == 1
        assert len(np.unique(found)) == 4


@pytest.mark.usefixtures("eager")
def test_of_very_many_classes_the_strongest_are_looked_at(monkeypatch):
    model = affine(6, 5)
    inputs = np.random.default_rng(0).uniform(0, 1, (2, 6)).astype(np.float32)
    all_classes, nearest = (EVA(model, temperature=t, nb_rounds=2)(inputs) for t in (100.0, 1e-6))
    monkeypatch.setattr(rounds, "_MOST_ROWS", 1)
    strongest = EVA(model, temperature=100.0, nb_rounds=2)(inputs)
    assert np.abs(all_classes - strongest).max() > 1e-3
    assert nearest.shape == strongest.shape


@pytest.mark.usefixtures("eager")
def test_of_a_regression_the_features_that_move_the_output():
    model = sequential((3,), L.Dense(1))
    model.set_weights([np.array([[1.0], [0.1], [-2.0]]), np.array([0.5])])
    maps = EVA(model, 0.1, delta=0.2, nb_rounds=2)(np.zeros((1, 3)))
    assert list(np.argsort(-maps[0])) == [2, 0, 1]


def test_a_class_that_is_not_predicted_is_explained_as_well():
    model = affine(6, 3)
    inputs = np.random.default_rng(0).uniform(0, 1, (3, 6)).astype(np.float32)
    for label in range(3):
        maps = EVA(model, 0.1, clip=(0, 1), nb_rounds=3)(inputs, np.full(3, label))
        assert np.isfinite(maps).all()


def test_one_pass_and_certificates_are_as_before():
    model = NETWORKS["convolutions"]()
    inputs = np.random.default_rng(0).uniform(0, 1, (2, *model.input_shape[1:]))
    one, several = (EVA(model, 0.05, clip=(0, 1), nb_rounds=n) for n in (1, 4))
    np.testing.assert_array_equal(one(inputs), EVA(model, 0.05, clip=(0, 1))(inputs))
    found, expected = several.certify(inputs), one.certify(inputs)
    np.testing.assert_allclose(found.overlap, expected.overlap)
    np.testing.assert_allclose(found.cell_overlaps, expected.cell_overlaps)


def test_settings_that_do_not_fit_are_refused():
    model = affine(3, 2)
    for kind in (EVA, MarginGradientRange):
        with pytest.raises(ValueError, match="nb_rounds must be a whole number above 0"):
            kind(model, nb_rounds=0)
    with pytest.raises(ValueError, match="nb_rounds above 1 need .* mode='one-pass'"):
        EVA(model, mode="exact", nb_rounds=2)


def test_settings_that_do_not_fit_cannot_be_assigned():
    for kind in (EVA, MarginGradientRange):
        explainer = kind(affine(3, 2))
        with pytest.raises(ValueError, match="nb_rounds must be a whole number above 0"):
            explainer.nb_rounds = 0
    explainer = EVA(affine(3, 2), nb_rounds=2)
    with pytest.raises(ValueError, match="nb_rounds above 1 need .* mode='one-pass'"):
        explainer.mode = "exact"


def test_features_through_which_the_class_changes_sooner_come_first():
    """On a network that bends, several rounds are ahead of one on both sides of Robustness-Sr."""
    keras.utils.set_random_seed(3)
    model = sequential((30,), L.Dense(40, "relu"), L.Dense(40, "relu"), L.Dense(6))
    inputs = np.random.default_rng(0).uniform(0, 1, (12, 30)).astype(np.float32)
    metric = RobustnessSr(model, inputs, clip=(0.0, 1.0))
    scores = {}
    for nb_rounds in (1, 4):
        maps = EVA(model, 0.05, clip=(0, 1), nb_rounds=nb_rounds)(inputs)
        scores[nb_rounds] = [side.score for side in metric.evaluate_both(maps)]
    assert scores[4][0] < scores[1][0]
    assert scores[4][1] > 0.9 * scores[1][1]
