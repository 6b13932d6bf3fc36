"""Sizes against closed forms, exact decisions of every size, and their own two ends."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_networks import draw_weights, tiny

from xcertify.bounds import Verifier, stays_in_class
from xcertify.metrics import SufficientSize, sufficient_size
from xcertify.plots import plot_curves
from xcertify.radii import ContradictionError
from xcertify.regions import Ball

L = keras.layers


def linear(shape=(3, 4, 2), seed=0):
    model = keras.Sequential([keras.Input(shape), L.Flatten(), L.Dense(2)])
    generator = np.random.default_rng(seed)
    model.set_weights([generator.normal(0, 0.7, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture
def images():
    return np.random.default_rng(0).random((6, 3, 4, 2)).astype(np.float32)


@pytest.fixture
def maps():
    return np.random.default_rng(1).normal(size=(6, 3, 4))


def reach(model, image, free, epsilon, norm):
    """How much of the margin of a linear model can go while features (3, 4) bool are free."""
    kernel = model.get_weights()[0].astype(np.float64)
    slope = (kernel[:, 0] - kernel[:, 1]).reshape(3, 4, 2)[free]
    return epsilon * np.linalg.norm(slope.ravel(), 1 if norm == np.inf else 2)


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_linear_models_have_a_closed_form(images, maps, norm):
    model, epsilon = linear(), 0.3 if norm == np.inf else 1.2
    found = sufficient_size(model, images, None, maps, epsilon=epsilon, norm=norm, complete=False)
    gaps = np.abs(np.diff(model(images).numpy(), axis=1))[:, 0]
    for image, gap, values, size in zip(images, gaps, maps, found.interval.certified):
        order = np.sort(values.ravel())[::-1]
        sizes = [
            k
            for k in range(13)
            if k == 12 or reach(model, image, values <= order[k], epsilon, norm) < gap
        ]
        assert size == min(sizes)
    np.testing.assert_array_equal(found.interval.certified, found.interval.attacked)
    assert len(set(found.interval.certified)) > 2
    np.testing.assert_allclose(found.scores, found.interval.certified / 12)
    assert found.score == pytest.approx(found.scores.mean())
    assert not found.higher_is_better
    assert not found.undecided.any()


def exact_sizes(model, x, maps, epsilon):
    """By a decision, without a limit of time, for every number of features."""
    verifier, classes = Verifier(model), np.argmax(model(x), axis=1)
    ranks = np.argsort(np.argsort(-maps, axis=1), axis=1)
    sizes = np.full(len(x), maps.shape[1])
    for k in reversed(range(maps.shape[1])):
        region = Ball(x, epsilon).fix(ranks < k)
        decision = verifier.decide(region, *stays_in_class(classes, 3), timeout=None)
        assert not decision.unknown.any()
        sizes = np.where(decision.holds & (sizes == k + 1), k, sizes)
    return sizes


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)


@pytest.fixture
def ranked():
    return np.random.default_rng(3).normal(size=(8, 6))


def test_complete_sizes_are_exact_and_others_contain_them(rows, ranked):
    model = tiny("relu", nb_inputs=6)
    expected = exact_sizes(model, rows, ranked, 0.6)
    assert len(set(expected)) > 2
    found = sufficient_size(model, rows, None, ranked, epsilon=0.6, timeout=None)
    np.testing.assert_array_equal(found.interval.certified, expected)
    np.testing.assert_array_equal(found.interval.attacked, expected)
    for settings in ({"complete": False}, {"timeout": 0.0}, {"complete": False, "method": "ibp"}):
        bounds = sufficient_size(model, rows, None, ranked, epsilon=0.6, **settings).interval
        assert (bounds.certified >= expected).all()
        assert (bounds.attacked <= expected).all()
    assert (bounds.certified > expected).any()


def test_curves_follow_from_the_sizes(rows, ranked):
    model = tiny("relu", nb_inputs=6)
    settings = {"epsilon": 0.6, "complete": False, "method": "ibp"}
    found = sufficient_size(model, rows, None, ranked, steps=-1, **settings)
    np.testing.assert_allclose(found.axis, np.arange(7) / 6)
    kept = np.arange(7)
    proved = kept >= found.interval.certified[:, None]
    refuted = kept < found.interval.attacked[:, None]
    np.testing.assert_array_equal(found.curves, proved)
    np.testing.assert_array_equal(found.attacked_curves, ~refuted)
    np.testing.assert_allclose(found.refuted, refuted.mean(axis=0))
    np.testing.assert_allclose(found.undecided, 1 - (proved | refuted).mean(axis=0))
    assert found.undecided.any()
    assert found.mean_curve[-1] == 1
    coarse = sufficient_size(model, rows, None, ranked, steps=2, **settings)
    np.testing.assert_allclose(coarse.axis, [0, 0.5, 1])
    np.testing.assert_array_equal(coarse.interval.certified, found.interval.certified)
    attacked = (found.interval.attacked / 6).mean()
    interval = f"[{attacked:.4f}, {found.score:.4f}]"
    assert repr(found).startswith(f"<SufficientSize {interval} (lower is better) over 8 samples")
    (axes,) = plot_curves({"SufficientSize": {"a": found}}).axes
    (band,) = axes.collections
    assert band.get_paths()[0].vertices[:, 1].max() == found.attacked_curves.mean(axis=0).max()


def test_groups_are_kept_together_in_the_rank_of_their_best_feature(images, maps):
    model = linear()
    groups = np.array([[0, 0, 7, 7], [0, 3, 7, 7], [3, 3, 5, 5]])
    found = sufficient_size(model, images, None, maps, epsilon=0.3, groups=groups)
    best = np.stack([maps[:, groups == g].max(axis=1) for g in (0, 3, 5, 7)], axis=1)
    gaps = np.abs(np.diff(model(images).numpy(), axis=1))[:, 0]
    for n, k in itertools.product(range(6), range(4)):
        kept = np.array([0, 3, 5, 7])[np.argsort(-best[n])[:k]]
        lost = reach(model, images[n], ~np.isin(groups, kept), 0.3, np.inf)
        assert (lost < gaps[n]) == (found.interval.certified[n] <= k)
    assert (found.nb_features == 4).all()
    # one input has fewer groups than the others, and the same as alone
    labels = np.stack([groups, *[np.arange(12).reshape(3, 4)] * 5])
    mixed = sufficient_size(model, images, None, maps, epsilon=0.3, groups=labels)
    assert mixed.nb_features.tolist() == [4, 12, 12, 12, 12, 12]
    assert mixed.interval.certified[0] == found.interval.certified[0]
    plain = sufficient_size(model, images, None, maps, epsilon=0.3)
    np.testing.assert_array_equal(mixed.interval.certified[1:], plain.interval.certified[1:])
    cells = np.array([[0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    by_grid = sufficient_size(model, images, None, maps, epsilon=0.3, grid_size=2)
    by_hand = sufficient_size(model, images, None, maps, epsilon=0.3, groups=cells)
    np.testing.assert_array_equal(by_grid.scores, by_hand.scores)


def test_all_at_once_or_in_parts_by_every_way(images, maps):
    model, settings = linear(), {"epsilon": 0.3, "complete": False}
    labels = np.argmax(model(images), axis=1)
    expected = SufficientSize(model, images, labels, **settings).detailed_evaluate(maps)
    data = tf.data.Dataset.from_tensor_slices((images, np.eye(2)[labels])).batch(4)
    for metric in (
        SufficientSize(model, images, batch_size=2, **settings),
        SufficientSize(model, data, batch_size=None, **settings),
    ):
        found = metric.detailed_evaluate(maps[..., None])
        np.testing.assert_array_equal(found.interval.certified, expected.interval.certified)
        assert metric(maps) == pytest.approx(expected.score)
    metric.model = linear(seed=5)
    metric.targets = None
    assert metric(maps) != pytest.approx(expected.score)
    with pytest.raises(ValueError, match="at least 1"):
        metric.batch_size = 0


def test_nothing_or_all_may_be_needed(images, maps):
    model = linear()
    still = sufficient_size(model, images, None, maps, epsilon=0.0)
    assert not still.interval.certified.any()
    assert not still.scores.any()
    assert (still.curves == 1).all()
    last = np.zeros((6, 3, 4))
    last[:, 0, 0] = -1.0
    wide = sufficient_size(model, images, None, last, epsilon=50.0)
    np.testing.assert_array_equal(wide.interval.certified, 12)
    np.testing.assert_array_equal(wide.interval.attacked, 12)


def test_a_single_logit_is_of_two_classes(rows, ranked):
    inputs = keras.Input((6,))
    hidden = L.Dense(5, "relu")(inputs)
    model = draw_weights(keras.Model(inputs, L.Dense(1, "sigmoid")(hidden)), seed=0)
    found = sufficient_size(model, rows, None, ranked, epsilon=0.3)
    labels = (model(rows).numpy()[:, 0] > 0.5).astype(int)
    again = sufficient_size(model, rows, labels, ranked, epsilon=0.3)
    np.testing.assert_array_equal(found.interval.certified, again.interval.certified)
    with pytest.raises(ValueError, match="sample 0"):
        sufficient_size(model, rows, 1 - labels, ranked, epsilon=0.3)


def test_ties_are_reported(images, maps):
    metric = SufficientSize(linear(), images, epsilon=0.3, complete=False)
    found = metric.detailed_evaluate(maps)
    assert found.nb_tied == 0
    constant = metric.detailed_evaluate(np.zeros((6, 3, 4)))
    np.testing.assert_array_equal(constant.tied, constant.interval.certified > 0)
    assert constant.nb_tied
    sizes = found.interval.certified.astype(int)
    ranks = np.argsort(np.argsort(-maps.reshape(6, -1), axis=1), axis=1).reshape(maps.shape)
    apart = np.where(ranks < sizes[:, None, None], maps + 9, -9)
    assert metric.detailed_evaluate(apart).nb_tied == 0  # among what is free alone


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": -1.0}, "epsilon"),
        ({"norm": 3}, "norm"),
        ({"clip": (0, 0.5)}, "clip"),
        ({"groups": np.zeros((3, 4), int), "grid_size": 2}, "one of them"),
        ({"groups": np.zeros((2, 4), int)}, "groups"),
        ({"steps": 0}, "steps"),
        ({"timeout": -1.0}, "timeout"),
        ({"method": "magic"}, "method"),
        ({"method": "decomon:crown"}, "complete=False"),
        ({"restarts": 0}, "restarts"),
        ({"targets": np.array([[1.0, 1.0]] * 6)}, "one class"),
    ],
)
def test_bad_settings(images, maps, settings, message):
    arguments = {"targets": None, **settings}
    with pytest.raises(ValueError, match=message):
        sufficient_size(linear(), images, explanations=maps, **arguments)


def test_other_classes_and_ties_of_the_model_are_refused(images, maps):
    model = linear()
    labels = np.argmax(model(images), axis=1)
    labels[3] = 1 - labels[3]
    with pytest.raises(ValueError, match="sample 3"):
        sufficient_size(model, images, labels, maps)
    model.set_weights([0 * w for w in model.get_weights()])
    with pytest.raises(ValueError, match="sample 0"):
        sufficient_size(model, images, None, maps)
    maps[2, 0, 0] = np.nan
    with pytest.raises(ValueError, match="sample 2"):
        sufficient_size(linear(), images, None, maps)


def test_an_attack_within_what_is_proved_fails_loudly(images, maps, monkeypatch):
    metric = SufficientSize(linear(), images, epsilon=0.3, complete=False)

    def wrong_bounds(region, rows, constants=()):
        return np.full(rows.shape[:2], -2.0), np.full(rows.shape[:2], -1.0)

    monkeypatch.setattr(metric._verifier, "bound_rows", wrong_bounds)
    with pytest.raises(ContradictionError, match="numbers of free features, in linf balls"):
        metric.evaluate(maps)
