"""Robustness-Sr against closed forms, a brute-force grid, and its own two sides."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_networks import tiny

from xcertify.metrics import RobustnessSr, robustness_sr
from xcertify.radii import ContradictionError

NORMS = [np.inf, 2, 1]


def make_net(shape, widths, seed=0, head=None):
    layers = [keras.Input(shape), keras.layers.Flatten()]
    layers += [keras.layers.Dense(width, activation="relu") for width in widths[:-1]]
    model = keras.Sequential([*layers, keras.layers.Dense(widths[-1], activation=head)])
    generator = np.random.default_rng(seed)
    model.set_weights([generator.normal(0, 0.7, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, 4, 5, 2)).astype(np.float32)


@pytest.fixture
def maps():
    return np.random.default_rng(1).normal(size=(3, 4, 5))


def dual_norm(weights, norm):
    if norm == 2:
        return np.sqrt((weights**2).sum(axis=-1))
    return np.abs(weights).sum(axis=-1) if norm == np.inf else np.abs(weights).max(axis=-1)


@pytest.mark.parametrize("norm", NORMS)
def test_linear_models_have_a_closed_form_on_both_ends(images, maps, norm):
    model = make_net((4, 5, 2), [2])
    weights, bias = (w.astype(np.float64) for w in model.get_weights())
    logits = images.reshape(3, -1) @ weights + bias
    gap = np.abs(logits[:, 0] - logits[:, 1])
    slope = (weights[:, 0] - weights[:, 1]).reshape(4, 5, 2)
    fractions = (0.1, 0.3, 0.5)
    named, others = robustness_sr(
        model,
        images,
        None,
        maps,
        fractions=fractions,
        norm=norm,
        clip=(-1000, 1000),
        certified=True,
        nb_halvings=10,
    )
    np.testing.assert_allclose(named.axis, fractions)
    for sample, (place, fraction) in itertools.product(range(3), enumerate(fractions)):
        least = np.sort(maps[sample].ravel())[-round(fraction * 20)]
        for side, free in [(named, maps[sample] >= least), (others, maps[sample] < least)]:
            expected = gap[sample] / dual_norm(slope[free].ravel(), norm)
            assert side.curves[sample, place] == pytest.approx(expected, rel=0.03)
            assert side.certified_curves[sample, place] == pytest.approx(expected, rel=0.02)
    np.testing.assert_array_equal(named.interval.certified, named.certified_curves)
    np.testing.assert_array_equal(named.interval.attacked, named.curves)
    assert np.all(named.interval.gap >= 0)
    assert named.found.all()
    area = (named.curves[:, 0] / 2 + named.curves[:, 1] + named.curves[:, 2] / 2) / 2
    np.testing.assert_allclose(named.scores, area)
    assert named.score == pytest.approx(area.mean())
    assert not named.higher_is_better
    assert others.higher_is_better
    interval = f"[{named.certified_score:.4f}, {named.score:.4f}]"
    assert repr(named).startswith(f"<RobustnessSr {interval} (lower is better) over 3 samples")


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_agrees_with_a_search_of_the_whole_grid(norm):
    model = make_net((4,), [8, 8, 3], seed=3)
    x = np.random.default_rng(0).random((4, 4)).astype(np.float32)
    maps = np.random.default_rng(2).normal(size=(4, 4))
    sides = robustness_sr(model, x, None, maps, fractions=(0.25, 0.5), norm=norm, certified=True)
    classes = np.argmax(model(x), axis=1)
    ticks = np.linspace(0, 1, 41)
    some_found = 0
    for sample in range(4):
        order = np.argsort(-maps[sample])
        for result, (place, count) in itertools.product(sides, enumerate((1, 2))):
            free = order[:count] if result is sides[0] else order[count:]
            grid = np.stack(np.meshgrid(*[ticks] * len(free)), axis=-1).reshape(-1, len(free))
            points = np.tile(x[sample], (len(grid), 1))
            points[:, free] = grid
            changed = np.argmax(model(points), axis=1) != classes[sample]
            distances = np.linalg.norm(points - x[sample], norm, axis=1)
            assert result.found[sample, place] == changed.any()
            if not changed.any():
                continue
            some_found += 1
            nearest = distances[changed].min()
            # a grid point may be half a tick off in every free feature
            assert result.curves[sample, place] <= nearest + 1e-6
            slack = np.linalg.norm(np.full(len(free), 1 / 40), norm)
            assert result.curves[sample, place] >= nearest - slack
            assert result.certified_curves[sample, place] <= nearest
    assert some_found > 4


def test_both_sides_at_once_are_the_two_sides(images, maps):
    model = make_net((4, 5, 2), [6, 3])
    labels = np.argmax(model(images), axis=1)
    settings = {"fractions": (0.2, 0.6), "certified": True, "nb_halvings": 4}
    metric = RobustnessSr(model, images, labels, complement=True, batch_size=8, **settings)
    assert metric.higher_is_better
    named, others = metric.evaluate_both(maps)
    alone = metric.detailed_evaluate(maps)
    np.testing.assert_allclose(alone.curves, others.curves, rtol=1e-3)
    np.testing.assert_allclose(alone.certified_curves, others.certified_curves, rtol=1e-2)

    data = tf.data.Dataset.from_tensor_slices((images, np.eye(3)[labels])).batch(2)
    metric = RobustnessSr(model, data, batch_size=None, fractions=(0.2, 0.6))
    result = metric.detailed_evaluate(maps[..., None])
    np.testing.assert_allclose(result.curves, named.curves, rtol=1e-3)
    assert result.certified_score is None
    assert not result.interval.certified.any()
    # a new model is used from the next evaluation on
    metric.model = make_net((4, 5, 2), [6, 3], seed=5)
    assert metric(maps) != pytest.approx(named.score, rel=1e-3)
    one = RobustnessSr(model, images[1:2], labels[1:2], fractions=(0.2, 0.6))
    np.testing.assert_allclose(one.evaluate_samples(maps[1:2]), named.scores[1:2], rtol=1e-3)


@pytest.mark.usefixtures("eager")
def test_classes_that_are_changed_already_or_never(images, maps):
    model = make_net((4, 5, 2), [4, 3], head="softmax")
    labels = np.argmax(model(images), axis=1)
    wrong = RobustnessSr(model, images, (labels + 1) % 3, certified=True, fractions=(0.5,))
    result = wrong.detailed_evaluate(maps)
    assert not result.curves.any()
    assert not result.certified_curves.any()

    kernel = model.get_weights()
    first = kernel[0].reshape(4, 5, 2, -1).copy()
    first[:2] = 0  # the upper half of the image does not count
    model.set_weights([first.reshape(40, -1), *kernel[1:]])
    upper = np.zeros((3, 4, 5))
    upper[:, :2] = 1
    metric = RobustnessSr(model, images, certified=True, fractions=(0.5,))
    result = metric.detailed_evaluate(upper)
    assert not result.found.any()
    assert result.nb_tied == 0
    reach = np.maximum(images, 1 - images)[:, :2].reshape(3, -1)
    farthest = np.linalg.norm(reach.astype(np.float64), axis=1)
    np.testing.assert_allclose(result.curves[:, 0], farthest, rtol=1e-6)
    np.testing.assert_allclose(result.certified_curves[:, 0], farthest, rtol=1e-6)


@pytest.mark.usefixtures("eager")
def test_an_attack_below_a_certificate_fails_loudly(images, maps, monkeypatch):
    model = make_net((4, 5, 2), [6, 3])
    metric = RobustnessSr(model, images, certified=True, fractions=(0.5,), clip=(-10, 10))

    def wrong_bounds(region, rows, constants=()):
        second = (region.center == images[1]).all(axis=(1, 2, 3))
        upper = np.where(second[:, None], -1.0, 1.0)
        return upper, np.broadcast_to(upper, rows.shape[:2])

    monkeypatch.setattr(metric._verifier, "bound_rows", wrong_bounds)
    with pytest.raises(ContradictionError, match=r"input 1, which method='crown' certifies.*bug"):
        metric.evaluate(maps)


def test_ties_are_reported_and_bad_explanations_refused(images, maps):
    metric = RobustnessSr(make_net((4, 5, 2), [6, 3]), images, fractions=(0.1, 0.5))
    assert metric.detailed_evaluate(np.zeros((3, 4, 5))).nb_tied == 3
    assert metric.detailed_evaluate(maps).nb_tied == 0
    few = RobustnessSr(make_net((4,), [6, 3]), images.reshape(3, -1)[:, :4], steps=2, restarts=1)
    assert few.detailed_evaluate(np.ones((3, 4))).axis.tolist() == [0.25, 0.5]
    maps[2, 0, 0] = np.nan
    with pytest.raises(ValueError, match="sample 2"):
        metric.evaluate(maps)
    with pytest.raises(ValueError, match=r"\(3, 4, 5\)"):
        metric.evaluate(maps[:2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fractions": (0.5, 0.2)}, "rising"),
        ({"fractions": ()}, "rising"),
        ({"fractions": (0.0, 0.5)}, "inside"),
        ({"fractions": (0.01, 0.5)}, "at least one feature"),
        ({"fractions": (0.5, 0.51)}, "at least one feature"),
        ({"norm": 3}, "norm"),
        ({"batch_size": 0}, "batch_size"),
        ({"restarts": 0}, "restarts"),
        ({"clip": None}, "clip"),
        ({"clip": (0, 0.5)}, "clip=.*sample 0"),
        ({"clip": (0, np.inf)}, "infinite"),
        ({"targets": np.array([[1.0, 1.0, 0.0]] * 3)}, "one class"),
        ({"certified": True, "method": "magic"}, "method"),
    ],
)
def test_bad_settings(images, maps, settings, message):
    arguments = {"targets": None, **settings}
    with pytest.raises(ValueError, match=message):
        robustness_sr(make_net((4, 5, 2), [3]), images, explanations=maps, **arguments)


@pytest.mark.slow
def test_one_run_for_all_is_ten_times_faster_than_a_loop_of_bisected_attacks(shared):
    """20 digits, 9 shares and both sides; the loop is timed on a few values of them."""
    import time

    from xcertify.attacks import PGD
    from xcertify.regions import Ball

    data = np.load(shared / "reference" / "inputs.npz")
    images, labels = data["x"].reshape(-1, 28, 28, 1), data["y"]
    model = keras.models.load_model(shared / "reference" / "cnn_small.keras")
    maps = np.random.default_rng(0).random((20, 28, 28))
    metric = RobustnessSr(model, images, labels)
    metric.evaluate_both(maps)  # compiles
    start = time.perf_counter()
    metric.evaluate_both(maps)
    together = time.perf_counter() - start
    attack = PGD(model, steps=100)
    attack(Ball(images[:1], 1.0, 2), labels[:1])
    start = time.perf_counter()
    for sample in range(4):
        low, high = 0.0, 16.0
        held = maps[sample] < np.quantile(maps[sample], 0.8)
        for _ in range(14):
            middle = (low + high) / 2
            region = Ball(images[sample : sample + 1], middle, 2, clip=(0, 1))
            found = attack(region, labels[sample : sample + 1], held[..., None], stop_above=0)
            low, high = (low, middle) if found.values[0] > 0 else (middle, high)
    alone = (time.perf_counter() - start) / 4 * 360
    assert together < alone / 10


def test_complete_intervals_are_narrower_and_agree():
    model = tiny("relu", nb_inputs=4)
    x = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    maps = np.random.default_rng(2).normal(size=(3, 4))
    settings = {"fractions": (0.25, 0.5), "certified": True, "clip": (-2, 2), "nb_halvings": 5}
    alone = robustness_sr(model, x, None, maps, **settings)
    settings |= {"complete": True, "timeout": None}
    for bounds, decided in zip(alone, robustness_sr(model, x, None, maps, **settings)):
        assert (decided.interval.certified >= bounds.interval.certified).all()
        assert (decided.interval.attacked <= bounds.interval.attacked).all()
        known = decided.found
        assert (decided.interval.gap[known] <= decided.interval.attacked[known] / 2**5).all()
        assert (decided.interval.gap[~known] == 0).all()
    assert (decided.interval.gap < 0.9 * bounds.interval.gap).any(), "bounds are as narrow"


def test_complete_needs_time(images):
    model = make_net((4, 5, 2), [2])
    with pytest.raises(ValueError, match="timeout must be seconds"):
        RobustnessSr(model, images, certified=True, complete=True, timeout=-1.0)
