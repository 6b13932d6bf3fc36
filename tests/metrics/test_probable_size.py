"""Sizes and sets against shares that are known, proofs, and the level that is claimed."""

import itertools
import math

import keras
import numpy as np
import pytest
from scipy import stats
from tiny_networks import draw_weights, tiny

from xcertify.answers import Answers
from xcertify.attributions import SufficientReason
from xcertify.metrics import ProbableSize, SufficientSize, probable_size, probably_sufficient
from xcertify.metrics.drawn_points import Changes, as_distribution
from xcertify.metrics.probable_size import SEARCHES, _SizeSearch
from xcertify.reasons import Features
from xcertify.regions import Ball, Box

L = keras.layers


def linear(weights, bias=0.0):
    """A single logit: class 1 where ``weights @ x + bias > 0``."""
    model = keras.Sequential([keras.Input((len(weights),)), L.Dense(1)])
    model.set_weights([np.array(weights, np.float32)[:, None], np.array([bias], np.float32)])
    return model


def distinct(nb_inputs, nb_features):
    """Inputs that only their last feature tells apart, so that each has draws of its own."""
    inputs = np.zeros((nb_inputs, nb_features), np.float32)
    inputs[:, -1] = np.linspace(0.1, 0.2, nb_inputs)
    return inputs


def drawn(region, count, distribution="uniform", seed=0):
    draw = as_distribution(distribution, region.norm)
    return draw(np.random.default_rng(seed), region, count)


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_uniform_points_have_the_distribution_that_is_stated(norm):
    center = np.array([[1.0, -2.0, 0.5, 3.0]], np.float32)
    held = np.array([False, False, True, False])
    region = Ball(center, 0.5, norm).fix(held)
    points = drawn(region, 20000)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points[:, 2], 0.5)
    steps = (points - center)[:, ~held].astype(np.float64) / 0.5
    lengths = np.linalg.norm(steps, norm, axis=1)
    assert lengths.max() < 1 + 1e-5
    # the share of a ball of 3 dimensions that lies within a length r is r^3; no side is preferred
    assert stats.kstest(lengths**3, "uniform").pvalue > 1e-3
    assert (np.abs((steps > 0).mean(axis=0) - 0.5) < 0.02).all()
    sizes = np.abs(steps)
    for first, second in ((0, 1), (1, 2)):
        assert stats.ks_2samp(sizes[:, first], sizes[:, second]).pvalue > 1e-3
    signs = (steps > 0) @ [1, 2, 4]
    assert stats.chisquare(np.bincount(signs, minlength=8)).pvalue > 1e-3


@pytest.mark.parametrize(("norm", "distribution"), [(np.inf, "corners"), (1, "uniform")])
def test_draws_go_on_where_they_ended(norm, distribution):
    region = Ball(np.ones((1, 5), np.float32), 0.5, norm)
    draw = as_distribution(distribution, norm)
    generator = np.random.default_rng(3)
    parts = [draw(generator, region, count) for count in (3, 4)]
    np.testing.assert_array_equal(np.concatenate(parts), drawn(region, 7, distribution, seed=3))


def test_the_valid_range_cuts_what_is_drawn():
    center = np.array([[0.0, 0.9]], np.float32)
    box = drawn(Ball(center, 0.5, clip=(0, 1)), 20000)
    assert stats.kstest(box[:, 0], stats.uniform(0, 0.5).cdf).pvalue > 1e-3
    assert stats.kstest(box[:, 1], stats.uniform(0.4, 0.6).cdf).pvalue > 1e-3
    ball = drawn(Ball(center, 0.5, 2, clip=(0, 1)), 20000)
    assert (ball >= 0).all()
    assert (ball <= 1).all()
    assert abs((ball[:, 0] == 0).mean() - 0.5) < 0.02  # moved to the side of the range
    corners = drawn(Box(center - 0.5, center + 0.25, center), 4000, "corners")
    np.testing.assert_allclose(np.unique(corners[:, 0]), [-0.5, 0.25])
    assert abs((corners[:, 1] == np.float32(1.15)).mean() - 0.5) < 0.03


def test_points_of_a_user_are_held_and_checked():
    inputs = np.array([[0.5, 0.5, 0.5]], np.float32)
    data = np.array([[0.0, 0.25, 1.0], [1.0, 0.75, 0.0]])
    region = Ball(inputs, 1.0, clip=(0, 1)).fix(np.array([True, False, False]))

    def rows(generator, region, count):
        return data[generator.integers(len(data), size=count)]

    points = drawn(region, 100, rows)
    np.testing.assert_array_equal(np.unique(points, axis=0), [[0.5, 0.25, 1], [0.5, 0.75, 0]])
    # class 1 while the second feature is above a half: for one of two rows, unless it is held
    metric = ProbableSize(
        *(linear([0.0, 1.0, 0.0], -0.4), inputs),
        **{"epsilon": 1.0, "clip": (0, 1), "distribution": rows, "attack": False},
    )
    sets = np.eye(3, dtype=bool)
    halves = [metric.of_sets(one[None]).counts[0] / 300 for one in sets]
    assert abs(halves[0] - 0.5) < 0.1
    assert halves[1] == 1
    for wrong, message in (
        (lambda g, r, n: data[:1], "one for each"),
        (lambda g, r, n: np.full((n, 3), 2.0), "points of the region"),
        (lambda g, r, n: np.full((n, 3), np.nan), "points of the region"),
    ):
        metric.distribution = wrong
        with pytest.raises(ValueError, match=message):
            metric.of_sets(sets[:1])


def test_limits_are_those_of_clopper_and_pearson_around_known_shares():
    weights, epsilon = np.array([1.0, 0.4, 0.0]), 1.0
    inputs = distinct(40, 3)
    # with the second feature held, the logit keeps its sign for 85 % of the first one's interval
    model = linear(weights, 0.7)
    sets = np.broadcast_to([False, True, False], (40, 3))
    found = probably_sufficient(model, inputs, None, sets, epsilon=epsilon, delta=0.05)
    low, high = (
        stats.beta.ppf(0.05, found.counts, 301 - found.counts),
        stats.beta.ppf(0.95, found.counts + 1, 300 - found.counts),
    )
    np.testing.assert_allclose(found.lower, low, rtol=1e-6)
    np.testing.assert_allclose(found.upper, high, rtol=1e-6)
    assert len(set(found.counts)) > 5
    assert stats.binomtest(int(found.counts.sum()), 40 * 300, 0.85).pvalue > 1e-3
    assert (found.lower > 0.85).sum() <= stats.binom.ppf(1 - 1e-6, 40, 0.05)
    assert not found.certified.any()
    assert found.refuted.all()
    assert (found.sizes == 1).all()
    assert repr(found) == (
        "<ProbableSets: 0 of 40 are enough for a share of 0.95 with confidence 0.95, "
        "40 have a counterexample>"
    )
    together = probably_sufficient(
        model, inputs, None, sets, epsilon=epsilon, delta=0.05, nb_inputs=None
    )
    np.testing.assert_array_equal(together.counts, found.counts)
    lower = stats.beta.ppf(0.05 / 40, found.counts, 301 - found.counts)
    np.testing.assert_allclose(together.lower, lower, rtol=1e-6)
    less = probably_sufficient(model, inputs, None, sets, epsilon=epsilon, share=0.7)
    assert less.certified.all()
    assert less.refuted.all()  # a counterexample does not speak against a share


def test_sizes_have_the_known_shares():
    """At corners, the shares are counts of sign patterns."""
    generator = np.random.default_rng(0)
    inputs, maps = generator.normal(size=(2, 30, 8))
    inputs = inputs.astype(np.float32)
    weights = generator.normal(size=8)
    model = linear(weights, 0.3)
    scores = inputs @ weights + 0.3
    order = np.argsort(-maps, axis=1)
    patterns = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1).T
    truth = np.empty((30, 9))
    for n, k in np.ndindex(truth.shape):
        free = order[n, k:]
        reached = scores[n] + 0.6 * patterns[:, free] @ weights[free]
        truth[n, k] = (np.sign(reached) == np.sign(scores[n])).mean()
    settings = {"epsilon": 0.6, "distribution": "corners", "steps": -1, "nb_samples": 2000}
    settings |= {"share": 0.8, "delta": 1e-4}
    rows = np.arange(30)
    sizes = {}
    for search in SEARCHES:
        found = probable_size(model, inputs, None, maps, search=search, **settings)
        sizes[search] = found.interval.certified.astype(int)
        assert (truth[rows, sizes[search]] >= 0.8).all()
        needed = found.interval.attacked.astype(int)
        assert (truth[rows, np.minimum(needed, 8)] == 1).all()  # shares of 1 are kept by k and more
        assert (truth[rows, np.maximum(needed - 1, 0)] < 1)[needed > 0].all()
        np.testing.assert_array_equal(found.unrefuted_curves, np.arange(9) >= needed[:, None])
        np.testing.assert_array_equal(found.curves, np.arange(9) >= sizes[search][:, None])
        np.testing.assert_allclose(found.refuted, (np.arange(9) < needed[:, None]).mean(axis=0))
    clear = np.abs(truth - 0.8) > 0.05
    assert clear.all(axis=1).sum() > 5
    for n in np.flatnonzero(clear.all(axis=1)):  # then the sequence stops where it should
        below = np.flatnonzero(truth[n] < 0.8)
        assert sizes["sequence"][n] == (below.max() + 1 if len(below) else 0)
    assert len(set(sizes["bisection"])) > 3


def test_a_test_that_stops_early_has_the_verdict_of_the_whole_one():
    inputs, nb_samples = distinct(200, 3), 150
    region = Ball(inputs, 1.0)
    model = linear([1.0, 0.0, 0.0], 0.9)  # 5 % of the points have another class
    allowed = np.arange(200) % 14

    def changes():
        answers = Answers(np.ones(200, int), 1)
        outputs, uniform = lambda points: model(points).numpy(), as_distribution("uniform", np.inf)
        return Changes(inputs, answers, outputs, uniform, seed=0, batch_size=1000)

    numbers, whole, early = np.arange(200), changes(), changes()
    lost = whole.count(numbers, region, nb_samples)
    seen = early.count_up_to(numbers, region, nb_samples, allowed)
    passes = lost <= allowed
    assert 50 < passes.sum() < 150
    np.testing.assert_array_equal(seen <= allowed, passes)
    np.testing.assert_array_equal(seen[passes], lost[passes])
    assert (early.nb_drawn[passes] == nb_samples).all()
    assert early.nb_drawn[~passes].mean() < 0.8 * nb_samples


def wrong_claims(search, nb_samples, **changes):
    """How often a size is claimed of 1500 inputs, of which none is enough for the share asked."""
    inputs = distinct(1500, 8)
    share = 0.9 - 1e-4
    model = linear([1.0, *[0.0] * 7], 2 * share - 1)
    maps = np.tile(np.r_[-1.0, np.arange(7)], (1500, 1))  # the one that decides comes last
    settings = {"epsilon": 1.0, "share": 0.9, "delta": 0.05, "steps": -1, "attack": False}
    metric = ProbableSize(model, inputs, search=search, nb_samples=nb_samples, **settings)
    vars(metric).update(changes)
    return int((metric.detailed_evaluate(maps).interval.certified < 8).sum())


# Tests whose own level, a step function of it, is just what is allowed: .0497 and .0122.
@pytest.mark.parametrize(("search", "nb_samples"), [("sequence", 89), ("bisection", 124)])
def test_the_level_is_kept_in_the_worst_case(search, nb_samples):
    wrong = wrong_claims(search, nb_samples)
    assert wrong > 0
    assert stats.binomtest(wrong, 1500, 0.05, alternative="greater").pvalue > 1e-3


def test_levels_that_are_too_large_do_not_pass_the_same_simulation():
    undivided = wrong_claims("bisection", 124, _levels=lambda nb: np.full(len(nb), 0.05))
    twice = wrong_claims("sequence", 89, _levels=lambda nb: np.full(len(nb), 0.12))
    for wrong in (undivided, twice):
        assert stats.binomtest(wrong, 1500, 0.05, alternative="greater").pvalue < 1e-6


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)


@pytest.fixture
def ranked():
    return np.random.default_rng(3).normal(size=(8, 6))


def test_what_is_proved_is_probably_enough(rows, ranked):
    model = tiny("relu", nb_inputs=6)
    proved = SufficientSize(model, rows, epsilon=0.6, timeout=None).detailed_evaluate(ranked)
    metric = ProbableSize(model, rows, epsilon=0.6, steps=-1)
    for distribution, search in itertools.product(("uniform", "corners"), SEARCHES):
        metric.distribution, metric.search = distribution, search
        metric.share, metric.nb_samples = 0.7, 300
        found = metric.detailed_evaluate(ranked).interval
        assert (found.certified <= proved.interval.certified).all()
        assert (found.certified < proved.interval.certified).any()
        assert (found.attacked <= proved.interval.attacked).all()
        metric.nb_samples, metric.share = 12000, 0.999
        found = metric.detailed_evaluate(ranked).interval
        assert (found.certified <= proved.interval.certified).all()
        assert (found.certified > 0).any()


def test_proved_reasons_pass_and_what_is_refuted_on_much_of_a_region_fails(rows):
    model, rows = tiny("relu", nb_inputs=6), rows[:4]
    reasons = SufficientReason(model, epsilon=0.6).certify(rows)
    settings = {"epsilon": 0.6, "share": 0.999, "nb_samples": 10000}
    found = probably_sufficient(model, rows, None, ~reasons.irrelevant, **settings)
    assert reasons.irrelevant.any()
    assert found.certified.all()
    assert (found.counts == 10000).all()
    assert not found.refuted.any()
    np.testing.assert_array_equal(found.sizes, reasons.sizes)
    nothing = probably_sufficient(model, rows, None, np.zeros((4, 6), bool), epsilon=3.0)
    assert nothing.refuted.all()
    assert (nothing.counts < 285).any()
    np.testing.assert_array_equal(nothing.certified, nothing.lower >= 0.95)


def test_sizes_need_not_be_monotone():
    """Class 1 while x0 + x1 is within a limit; the middle size is worse than the smaller one."""
    inputs = np.zeros((1, 2), np.float32)
    x = keras.Input((2,))
    total = L.Dense(1, use_bias=False)(x)
    outputs = 0.95 - keras.ops.abs(total)
    model = keras.Model(x, outputs)
    model.set_weights([np.array([[1.0], [1.0]])])

    def opposite(generator, region, count):  # both move against each other, unless one is held
        step = generator.choice([-1.0, 1.0], size=(count, 1))
        return np.concatenate([step, -step], axis=1)

    settings = {"epsilon": 1.0, "distribution": opposite, "steps": -1, "attack": False}
    maps = np.array([[2.0, 1.0]])
    found = {
        search: probable_size(model, inputs, None, maps, search=search, **settings)
        for search in SEARCHES
    }
    assert found["sequence"].interval.certified == 2  # none of the points keep it with 1 of 2 held
    assert found["bisection"].interval.certified == 2
    only = probably_sufficient(
        model, inputs, None, np.zeros((1, 2), bool), epsilon=1.0, distribution=opposite
    )
    assert only.certified.all()
    assert only.refuted.all()


def test_batches_and_neighbours_change_nothing(rows, ranked):
    model = tiny("relu", nb_inputs=6)
    settings = {"epsilon": 0.8, "share": 0.8, "norm": 2, "restarts": 1}
    expected = ProbableSize(model, rows, **settings).detailed_evaluate(ranked)
    assert len(set(expected.interval.certified)) > 2
    for batch_size in (3, 50, None):
        found = ProbableSize(model, rows, batch_size=batch_size, **settings)
        found = found.detailed_evaluate(ranked)
        np.testing.assert_array_equal(found.interval.certified, expected.interval.certified)
        np.testing.assert_array_equal(found.nb_drawn, expected.nb_drawn)
    turned = ProbableSize(model, rows[::-2], **settings).detailed_evaluate(ranked[::-2])
    np.testing.assert_array_equal(turned.interval.certified, expected.interval.certified[::-2])
    other = ProbableSize(model, rows, seed=1, **settings).detailed_evaluate(ranked)
    assert (other.nb_drawn != expected.nb_drawn).any()
    for low, high in zip(expected.curves, expected.interval.certified / 6):
        np.testing.assert_array_equal(low, expected.axis >= high)
    assert "(for 0.8, confidence 0.99)" in repr(expected)


def test_halving_takes_no_more_tests_than_share_the_level():
    """Whatever passes: the size that is claimed was tested, and the tests are as many as said."""
    generator = np.random.default_rng(0)
    metric = ProbableSize(linear([1.0, 0.0]), distinct(1, 2))
    for nb_features in range(1, 20):
        features = Features.of((nb_features,), 1)
        region = Ball(np.zeros((1, nb_features), np.float32), 1.0)
        most = 0
        for _ in range(200):
            search = _SizeSearch(region, features, np.arange(nb_features)[None])
            tested = Verdicts(generator)
            size = search.certify(tested, 100, np.zeros(1, int), None)[0]
            assert size == min([nb_features, *tested.passed])
            most = max(most, tested.nb_tests)
        assert 0.01 / metric._levels(np.array([nb_features]))[0] == most


class Verdicts:
    """In the place of `Changes`: tests that pass or not by chance, noting which did."""

    def __init__(self, generator):
        self.generator, self.passed, self.nb_tests = generator, [], 0

    def count_up_to(self, some, region, nb_samples, most):
        self.nb_tests += 1
        lost = self.generator.integers(2, size=1)
        if not lost:
            self.passed.append(int((region.lower == region.upper).sum()))
        return lost


def test_tests_pass_from_the_limit_of_clopper_and_pearson_on():
    levels = np.array([0.5, 0.05, 0.01, 1e-3, 1e-4])
    for nb_samples, share in ((300, 0.95), (1000, 0.5), (200, 0.9), (2000, 0.99)):
        settings = {"nb_samples": nb_samples, "share": share, "delta": 0.01}
        metric = ProbableSize(linear([1.0, 0.0]), distinct(1, 2), search="sequence", **settings)
        most = metric._most_changes(levels)
        kept = nb_samples - np.stack([most, most + 1])
        limits = stats.beta.ppf(levels, kept, nb_samples - kept + 1)
        assert (limits[0] >= share).all()
        assert (limits[1] < share).all()


def test_the_number_of_draws_is_the_least_that_can_pass():
    inputs = distinct(3, 4)
    model = linear([1.0, 0, 0, 0], 5.0)
    settings = {"share": 0.95, "delta": 0.01, "epsilon": 1.0}
    least = math.ceil(math.log(0.01) / math.log(0.95))
    assert least == 90
    maps = np.random.default_rng(0).normal(size=(3, 4))
    found = probable_size(
        model, inputs, None, maps, search="sequence", nb_samples=90, steps=-1, **settings
    )
    assert (found.interval.certified == 0).all()
    assert (found.nb_drawn == 4 * 90).all()
    halved = probable_size(model, inputs, None, maps, nb_samples=300, **settings)
    assert (halved.interval.certified == 0).all()
    assert (halved.nb_drawn == 3 * 300).all()  # of 0 to 4 free features: 2, 3, 4
    for changes, needed in (({"search": "sequence"}, 90), ({}, 112), ({"nb_inputs": None}, 133)):
        with pytest.raises(ValueError, match=f"at least {needed} for"):
            ProbableSize(model, inputs, nb_samples=89, **(settings | changes))
        ProbableSize(model, inputs, nb_samples=needed, **(settings | changes))
    nothing = np.zeros((3, 4), bool)
    fewest = probably_sufficient(model, inputs, None, nothing, nb_samples=90, **settings)
    assert fewest.certified.all()


def test_groups_and_grids_of_images():
    generator = np.random.default_rng(0)
    images = generator.random((4, 4, 4, 2)).astype(np.float32)
    model = keras.Sequential([keras.Input((4, 4, 2)), L.Flatten(), L.Dense(3)])
    draw_weights(model, seed=0)
    maps = generator.normal(size=(4, 4, 4))
    cells = np.arange(4).repeat(2).reshape(2, 4)[[0, 0, 1, 1]]
    settings = {"epsilon": 0.4, "search": "sequence", "steps": -1}
    by_grid = probable_size(model, images, None, maps, grid_size=2, **settings)
    by_hand = probable_size(model, images, None, maps, groups=cells, **settings)
    np.testing.assert_array_equal(by_grid.interval.certified, by_hand.interval.certified)
    np.testing.assert_array_equal(by_grid.nb_drawn, by_hand.nb_drawn)
    assert (by_grid.nb_features == 4).all()
    mixed = np.stack([cells, *[np.arange(16).reshape(4, 4)] * 3])
    found = probable_size(model, images, None, maps, groups=mixed, **settings)
    assert found.nb_features.tolist() == [4, 16, 16, 16]
    assert found.interval.certified[0] == by_grid.interval.certified[0]
    best = np.stack([maps[:, cells == cell].max(axis=1) for cell in range(4)], axis=1)
    ranks = np.argsort(np.argsort(-best, axis=1), axis=1)
    sizes = by_grid.interval.certified.astype(int)
    kept = (ranks < sizes[:, None])[:, cells]
    chosen = probably_sufficient(model, images, None, kept[..., None], epsilon=0.4, seed=5)
    assert (chosen.lower > 0.9).all()
    np.testing.assert_array_equal(chosen.sizes, 4 * sizes)


def test_functions_of_arrays_have_samples_alone(rows, ranked):
    model = tiny("relu", nb_inputs=6)

    def predict(points):
        return model(np.asarray(points)).numpy()

    settings = {"epsilon": 0.6, "attack": False}
    found = probable_size(predict, rows, None, ranked, **settings)
    expected = probable_size(model, rows, None, ranked, **settings)
    np.testing.assert_array_equal(found.interval.certified, expected.interval.certified)
    np.testing.assert_array_equal(found.interval.attacked, expected.interval.attacked)
    attacked = probable_size(model, rows, None, ranked, epsilon=0.6).interval.attacked
    assert (attacked >= found.interval.attacked).all()
    assert (attacked > found.interval.attacked).any()
    assert found.interval.attacked.any()
    with pytest.raises(ValueError, match="gradient"):
        probable_size(predict, rows, None, ranked, epsilon=0.6)


def test_ties_are_reported(rows, ranked):
    metric = ProbableSize(tiny("relu", nb_inputs=6), rows, epsilon=0.6)
    assert metric.detailed_evaluate(ranked).nb_tied == 0
    constant = metric.detailed_evaluate(np.zeros((8, 6)))
    inside = constant.interval.certified > 0
    np.testing.assert_array_equal(constant.tied, inside)
    assert inside.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 1.0}, "share must be .* Received: 1.0"),
        ({"delta": 0}, "delta must be"),
        ({"nb_samples": 50}, "nb_samples must be at least"),
        ({"nb_inputs": 0}, "nb_inputs"),
        ({"nb_inputs": 2}, "nb_inputs must be at least the number of inputs"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"search": "best"}, "bisection, sequence. Received: 'best'"),
        ({"distribution": "normal"}, "uniform, corners"),
        ({"distribution": "corners", "norm": 2}, "norm=np.inf"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"groups": np.zeros(6, int), "grid_size": 2}, "one of them"),
        ({"steps": 0}, "steps"),
    ],
)
def test_bad_settings(rows, settings, message):
    with pytest.raises(ValueError, match=message):
        ProbableSize(tiny("relu", nb_inputs=6), rows, **settings)


def test_bad_sets_and_classes_are_refused(rows, ranked):
    model = tiny("relu", nb_inputs=6)
    metric = ProbableSize(model, rows)
    for wrong in (ranked, np.zeros((8, 5), bool), np.zeros((8, 6, 1), bool)):
        with pytest.raises(ValueError, match="sets must be bool"):
            metric.of_sets(wrong)
    labels = np.argmax(model(rows), axis=1)
    labels[2] = (labels[2] + 1) % 3
    with pytest.raises(ValueError, match="sample 2"):
        ProbableSize(model, rows, labels).evaluate(ranked)


def test_words_are_drawn_by_a_function():
    words = keras.Input((3,), dtype="int32")
    values = keras.layers.Flatten()(keras.layers.Embedding(4, 1, name="values")(words))
    model = keras.Model(words, keras.layers.Dense(2, name="logits")(values))
    model.get_layer("values").set_weights([np.arange(4.0)[:, None]])
    kernel = [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]  # class 0 unless the first word is 0
    model.get_layer("logits").set_weights([np.array(kernel), np.array([0.0, 0.5])])
    inputs, settings = np.array([[2, 1, 3]] * 2), {"epsilon": 3, "clip": (0, 3), "attack": False}
    with pytest.raises(ValueError, match="function that draws words.* 'uniform'"):
        ProbableSize(model, inputs, **settings)

    def any_word(generator, region, count):
        return generator.integers(0, 4, (count, 3))

    metric = ProbableSize(model, inputs, distribution=any_word, share=0.9, **settings)
    found = metric.detailed_evaluate(np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]))
    np.testing.assert_array_equal(found.interval.certified, [1, 3])
