"""Rates against all sets one by one, bars against scipy, proved radii against brute force."""

import inspect
import itertools
import math

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from networks import sequential

from xcertify.metrics import Stability, stability
from xcertify.metrics.revealed import hard_radii, kept_levels, set_draws, shares_of_sizes
from xcertify.perturbation import Perturbation
from xcertify.radii import ContradictionError
from xcertify.statistics import nb_samples_for

L = keras.layers


def table(nb_features=6, seed=0):
    return sequential((nb_features,), L.Dense(9, "tanh"), L.Dense(3), seed=seed)


def rows(number=8, nb_features=6, seed=0):
    return np.random.default_rng(seed).normal(size=(number, nb_features)).astype(np.float32)


def supersets(selected, radius):
    """All sets (S, G) bool that add at most `radius` features to one (G,), row by row."""
    (hidden,) = np.nonzero(~selected)
    for size in range(min(radius, len(hidden)) + 1):
        for added in itertools.combinations(hidden, size):
            found = selected.copy()
            found[list(added)] = True
            yield found


def masks_of(nb_features, nb_kept, nb_levels, seed=0):
    """The masks of the smoothing, by their definition."""
    numbers = np.random.default_rng(seed).integers(nb_levels, size=nb_features)
    return np.array([[(v + s) % nb_levels < nb_kept for v in numbers] for s in range(nb_levels)])


def smoothed_class(model, x, shown, masks):
    labels = np.argmax(model(x * (shown & masks)), axis=1)
    return np.bincount(labels, minlength=3).argmax()


def exact_rate(model, x, selected, radius, masks):
    sets = [*supersets(selected, radius)]
    of_sets = [smoothed_class(model, x, one, masks) for one in sets]
    return np.mean(np.equal(of_sets, of_sets[0]))


# --- the sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("nb_hidden", "radius"), [(5, 3), (5, 5), (4, 9), (1, 1), (60, 30)])
def test_sizes_are_as_likely_as_there_are_sets(nb_hidden, radius):
    numbers = [math.comb(nb_hidden, size) for size in range(min(radius, nb_hidden) + 1)]
    shares = shares_of_sizes(nb_hidden, radius)
    np.testing.assert_allclose(shares, [n / sum(numbers) for n in numbers], rtol=1e-12)


def test_sizes_of_what_would_overflow():
    shares = shares_of_sizes(50176, 1000)  # of an image of 224 x 224
    assert shares.sum() == pytest.approx(1)
    assert shares[-2] / shares[-1] == pytest.approx(1000 / 49177)


def test_sets_are_uniform():
    hidden = np.array([[0, 0, 1, 1, 0, 1, 1, 1]], bool)
    generator = np.random.default_rng(0)
    sets = set_draws(hidden, 3)(generator, 0, 26_000)
    assert not sets[:, ~hidden[0]].any()
    _, counts = np.unique(sets, axis=0, return_counts=True)
    assert len(counts) == 1 + 5 + 10 + 10
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_sets_of_everything_and_of_nothing():
    hidden = np.zeros((2, 4), bool)
    hidden[1, 1:] = True
    sets = set_draws(hidden, 9)(np.random.default_rng(0), 1, 8000)
    _, counts = np.unique(sets, axis=0, return_counts=True)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3  # all 8 subsets of 3
    assert len(counts) == 8
    assert not set_draws(hidden, 9)(np.random.default_rng(0), 0, 3).any()


def test_draws_do_not_depend_on_how_they_are_cut(monkeypatch):
    draw = set_draws(np.ones((1, 7), bool), 3)
    whole = draw(np.random.default_rng(1), 0, 9)
    generator = np.random.default_rng(1)
    parts = np.concatenate([draw(generator, 0, 4), draw(generator, 0, 5)])
    np.testing.assert_array_equal(whole, parts)
    monkeypatch.setattr("xcertify.metrics.revealed._NB_ENTRIES", 14)
    np.testing.assert_array_equal(whole, draw(np.random.default_rng(1), 0, 9))


# --- rates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [{}, {"keep": 0.5, "levels": 4}])
def test_bars_hold_the_exact_rates(smoothing):
    model, x = table(), rows()
    selected = rows(seed=3) > 0.6
    metric = Stability(
        model, x, radius=4, steps=-1, error=0.05, delta=0.01, together="all", **smoothing
    )
    found = metric.detailed_evaluate(selected)
    masks = masks_of(6, *kept_levels(smoothing.get("keep", 1.0), smoothing.get("levels", 1)))
    pairs = [*zip(x, selected)]
    exact = np.array([[exact_rate(model, *pair, r, masks) for r in range(1, 5)] for pair in pairs])
    assert (exact < 0.9).any()  # some classes change
    assert (found.lower <= exact).all() and (exact <= found.upper).all()
    assert (np.abs(found.curves - exact) <= 0.05).all()
    np.testing.assert_array_equal(found.axis, [1, 2, 3, 4])
    np.testing.assert_array_equal(found.selected, selected)
    np.testing.assert_array_equal(found.scores, found.curves[:, -1])
    classes = [smoothed_class(model, *pair, masks) for pair in pairs]
    np.testing.assert_array_equal(found.classes, classes)


def bounded_by_any_hidden(nb_features=8):
    """Class 1 as long as no feature from the second on is shown, else 0; inputs are ones."""

    def model(x):
        shown = tf.reduce_sum(x[:, 1:], axis=1)
        return tf.stack([shown, 0.5 * tf.ones_like(shown)], axis=1)

    return model


def test_a_rate_by_hand():
    """One set of 1 + 7 keeps the class; of 1 + 7 + 21, one."""
    metric = Stability(
        bounded_by_any_hidden(), np.ones((1, 8)), radius=2, steps=2, error=0.01, delta=0.001
    )
    selected = np.arange(8)[None] == 0
    found = metric.detailed_evaluate(selected)
    np.testing.assert_allclose(found.curves, [[1 / 8, 1 / 29]], atol=0.01)
    assert found.classes == 1 and found.interval.attacked == 1 and found.interval.certified == 0


def test_the_level_is_kept_and_a_wrong_one_is_not():
    """Of 1000 bars at .9, a tenth at most are wrong; of bars a third as wide, more."""
    model, x = bounded_by_any_hidden(), np.random.default_rng(0).uniform(1, 2, (1000, 8))
    selected = np.broadcast_to(np.arange(8) == 0, x.shape)
    metric = Stability(model, x, radius=1, steps=1)
    found = metric.detailed_evaluate(selected)
    wrong = np.sum((found.lower > 1 / 8) | (found.upper < 1 / 8))
    assert scipy.stats.binom.sf(wrong - 1, 1000, 0.1) > 1e-3
    narrow = np.abs(found.curves - 1 / 8) > 0.5 * (found.upper - found.lower) / 3
    assert scipy.stats.binom.sf(narrow.sum() - 1, 1000, 0.1) < 1e-9
    assert abs(found.score - 1 / 8) <= found.mean_error


def test_bars_are_those_of_clopper_and_pearson_and_within_the_error():
    found = Stability(table(), rows(), radius=3, steps=3).detailed_evaluate(rows(seed=3))
    assert found.nb_samples == 150 and found.confidence == 0.9
    for rate, lower, upper in zip(found.curves.flat, found.lower.flat, found.upper.flat):
        exact = scipy.stats.binomtest(round(150 * rate), 150).proportion_ci(0.9)
        assert (lower, upper) == pytest.approx((exact.low, exact.high), abs=1e-7)
        assert lower <= exact.low and exact.high <= upper
        assert rate - 0.1 <= lower <= rate <= upper <= rate + 0.1


@pytest.mark.parametrize(("together", "shared_by"), [("each", 1), ("curve", 3), ("all", 24)])
def test_shared_levels(together, shared_by):
    metric = Stability(table(), rows(), radius=3, steps=3, together=together)
    found = metric.detailed_evaluate(rows(seed=3))
    level = 0.1 / shared_by
    assert found.nb_samples == nb_samples_for(0.1, level)
    kept = found.curves * found.nb_samples
    upper = scipy.stats.beta.ppf(1 - level / 2, kept + 1, found.nb_samples - kept)
    np.testing.assert_allclose(found.upper, np.where(found.curves == 1, 1, upper), rtol=1e-7)


def test_the_mean_counts_equal_inputs_once():
    x = rows(4)
    several = np.concatenate([x[:1], x[:1], x[:1], x[1:2]])
    alone = Stability(table(), x, steps=1)._mean_error(150)
    assert alone == pytest.approx(math.sqrt(math.log(20) / (2 * 4 * 150)))
    with_equal = Stability(table(), several, steps=1)._mean_error(150)
    assert with_equal == pytest.approx(alone * math.sqrt((9 + 1) / 4))


def test_rates_do_not_depend_on_batches_and_inputs_beside():
    model, x, maps = table(), rows(), rows(seed=3)
    settings = {"radius": 4, "steps": 2, "keep": 0.5, "levels": 2}
    found = Stability(model, x, **settings).detailed_evaluate(maps)
    for size, some in ((7, slice(None)), (1000, [5, 2])):
        part = Stability(model, x[some], batch_size=size, **settings).detailed_evaluate(maps[some])
        np.testing.assert_array_equal(part.curves, found.curves[some])
        np.testing.assert_array_equal(part.interval.attacked, found.interval.attacked[some])
    other = Stability(model, x, seed=1, **settings).detailed_evaluate(maps)
    assert (other.curves != found.curves).any()


# --- proofs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "levels"), [(1 / 8, 8), (1 / 4, 8), (1 / 2, 2), (1 / 16, 16)])
def test_proved_radii_against_all_sets(keep, levels):
    """No set within the proved radius has another class; some radii are above 0."""
    model, x = table(seed=2), rows(12)
    selected = rows(12, seed=4) > 0.3
    metric = Stability(model, x, radius=6, steps=1, error=0.3, keep=keep, levels=levels)
    found = metric.detailed_evaluate(selected)
    masks = masks_of(6, *kept_levels(keep, levels))
    exact = []
    for one, chosen, radius in zip(x, selected, found.interval.certified):
        own = smoothed_class(model, one, chosen, masks)
        sizes = [
            shown.sum() - chosen.sum()
            for shown in supersets(chosen, 6)
            if smoothed_class(model, one, shown, masks) != own
        ]
        exact.append(min(sizes, default=np.inf))
        assert radius <= np.sum(~chosen)
    assert (found.interval.certified < exact).all()
    assert (found.interval.attacked >= exact).all()  # of some of the sets
    if levels > 2:
        assert found.interval.certified.max() > 0


@pytest.mark.parametrize(("nb_kept", "radius"), [(1, 3), (2, 1), (4, 0)])
def test_proved_radii_that_cannot_be_larger(nb_kept, radius):
    """Where each further feature takes k votes and gives them to the runner-up, 8 - 2 k r > 0."""
    x, selected = np.ones((1, 8)), np.arange(8)[None] == 0
    for seed in range(3):
        metric = Stability(
            *(bounded_by_any_hidden(), x),
            **{"radius": 7, "steps": -1, "keep": nb_kept / 8, "levels": 8, "seed": seed},
        )
        found = metric.detailed_evaluate(selected)
        masks = masks_of(8, nb_kept, 8, seed)
        most = {  # votes that r further features take at most
            r: max(
                masks[:, list(one)].any(axis=1).sum()
                for one in itertools.combinations(range(1, 8), r)
            )
            for r in range(8)
        }
        assert found.interval.certified == radius
        assert found.interval.attacked == min(r for r in most if 8 - 2 * most[r] <= 0)
        if most[radius + 1] == nb_kept * (radius + 1):
            assert found.interval.attacked == radius + 1


def test_radii_of_votes():
    votes = np.array([[7, 1, 0], [4, 4, 0], [0, 3, 5], [0, 0, 8], [3, 5, 0]])
    classes = np.array([0, 0, 2, 2, 0])
    np.testing.assert_array_equal(hard_radii(votes, classes, 1), [2, 0, 0, 3, -1])
    np.testing.assert_array_equal(hard_radii(votes, classes, 3), [0, 0, 0, 1, -1])
    assert hard_radii(np.array([[0, 1]]), np.array([1]), 1) == 0  # without smoothing


def test_every_feature_is_in_as_many_masks():
    metric = Stability(table(), rows(1), keep=3 / 8, levels=8)
    votes = stability.Votes(
        *(metric._logits, metric._points, metric._baselines, metric._features),
        **{"keep": 3 / 8, "levels": 8, "seed": 5, "batch_size": 4},
    )
    np.testing.assert_array_equal(votes._masks, masks_of(6, 3, 8, seed=5))
    np.testing.assert_array_equal(votes._masks.sum(axis=0), 3)
    assert votes(np.array([0, 0]), np.ones((2, 6), bool)).sum(axis=1).tolist() == [8, 8]


def test_a_set_of_another_class_within_the_proof_is_a_contradiction(monkeypatch):
    wrong = lambda *args: hard_radii(*args) + 3  # noqa: E731
    monkeypatch.setattr(stability, "hard_radii", wrong)
    metric = Stability(bounded_by_any_hidden(), np.ones((1, 8)), radius=3)
    with pytest.raises(ContradictionError, match="another class"):
        metric.evaluate(np.arange(8)[None] == 0)


# --- what is selected, and what stays -----------------------------------------------------------


def test_the_top_share_is_selected_and_ties_are_told():
    images = np.random.default_rng(0).random((3, 4, 5, 2)).astype(np.float32)
    model = sequential((4, 5, 2), L.Flatten(), L.Dense(3))
    maps = np.random.default_rng(1).normal(size=(3, 4, 5, 1))
    maps[2].flat[np.argsort(maps[2].ravel())[-6:]] = 9.0  # six equal ones for five places
    found = Stability(model, images, top=0.25, steps=1, error=0.3).detailed_evaluate(maps)
    assert found.selected.shape == (3, 4, 5)
    for one, selected in zip(maps[:2], found.selected):
        np.testing.assert_array_equal(selected, one[..., 0] >= np.sort(one.ravel())[-5])
    np.testing.assert_array_equal(found.selected.sum(axis=(1, 2)), 5)
    np.testing.assert_array_equal(found.tied, [False, False, True])
    few = Stability(model, images, top=0.001, steps=1, error=0.3).detailed_evaluate(maps)
    np.testing.assert_array_equal(few.selected.sum(axis=(1, 2)), 1)


def test_groups_are_revealed_whole():
    """Of four cells of an image of ones, of which one is selected, a cell adds four pixels."""
    seen = []

    def model(x):
        tf.py_function(lambda values: seen.extend(values.numpy().sum(axis=(1, 2, 3))), [x], [])
        return tf.stack([x[:, 0, 0, 0], x[:, 0, 0, 0]], axis=1)

    maps = np.zeros((1, 4, 4))
    maps[0, 0, 3] = 1  # of the second cell
    images = np.ones((1, 4, 4, 2))
    settings = {"grid_size": 2, "radius": 3, "error": 0.3}
    found = Stability(model, images, **settings).detailed_evaluate(maps)
    assert set(seen) == {8.0, 16.0, 24.0, 32.0}  # two channels
    assert found.selected[0, :2, 2:].all() and found.selected.sum() == 4
    np.testing.assert_array_equal(found.axis, [1, 2, 3])
    groups = np.repeat(np.repeat([[7, 3], [9, 4]], 2, axis=0), 2, axis=1)
    named = Stability(model, images, groups=groups, radius=3, error=0.3)
    np.testing.assert_array_equal(named.detailed_evaluate(maps).selected, found.selected)
    np.testing.assert_array_equal(named.detailed_evaluate(found.selected).curves, found.curves)
    part = found.selected.copy()
    part[0, 0, 3] = False
    with pytest.raises(ValueError, match="masks must select each group.*sample 0"):
        named.evaluate(part)


def test_all_and_nothing_may_be_selected():
    model, x = table(), rows()
    everything = Stability(model, x).detailed_evaluate(np.ones(x.shape, bool))
    np.testing.assert_array_equal(everything.curves, 1)
    np.testing.assert_array_equal(everything.classes, np.argmax(model(x), axis=1))
    nothing = Stability(model, x).detailed_evaluate(np.zeros(x.shape, bool))
    np.testing.assert_array_equal(nothing.classes, np.argmax(model(0 * x), axis=1))


def test_hidden_features_have_the_baseline():
    model, x = table(), rows()
    selected = rows(seed=3) > 0
    found = Stability(model, x, baseline_mode="mean", steps=1).detailed_evaluate(selected)
    points = np.where(selected, x, x.mean(axis=0))
    np.testing.assert_array_equal(found.classes, np.argmax(model(points), axis=1))


def test_the_class_of_the_input_stays():
    model, x = table(), rows()
    selected = rows(seed=3) > 0.6
    metric = Stability(model, x, radius=6, steps=1, error=0.05, keeps="input")
    found = metric.detailed_evaluate(selected)
    own = np.argmax(model(x), axis=1)
    np.testing.assert_array_equal(found.classes, own)
    fails = np.argmax(model(np.where(selected, x, 0)), axis=1) != own
    assert fails.any() and not fails.all()
    np.testing.assert_array_equal(found.interval.certified, np.where(fails, -1, 0))
    np.testing.assert_array_equal(found.interval.attacked[fails], 0)
    metric.targets = other = (own + 1) % 3
    np.testing.assert_array_equal(metric.detailed_evaluate(selected).classes, other)
    metric.keeps = "selected"
    assert (metric.detailed_evaluate(selected).classes != other).any()


@pytest.mark.parametrize(
    ("shape", "layers"),
    [((6, 2), [L.Conv1D(3, 2), L.Flatten()]), ((2, 4, 4), [L.Permute((2, 3, 1)), L.Flatten()])],
)
def test_series_and_channels_first(shape, layers):
    model = sequential(shape, *layers, L.Dense(1, "sigmoid"))
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    maps = np.random.default_rng(1).normal(size=(3, 6, 2) if len(shape) == 2 else (3, 4, 4))
    found = Stability(model, x, steps=1).detailed_evaluate(maps)
    assert found.selected.shape == maps.shape
    shown = found.selected if len(shape) == 2 else found.selected[:, None]
    classes = model(np.where(shown, x, 0)).numpy()[:, 0] > 0.5
    np.testing.assert_array_equal(found.classes, classes)


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radius": 0}, "radius must be a whole number above 0.*Received: 0"),
        ({"error": 0}, "error"),
        ({"delta": 1}, "delta"),
        ({"together": "none"}, "together must be one of"),
        ({"keeps": 1}, "keeps must be one of"),
        ({"top": 0.0}, "top must be a share"),
        ({"steps": 0}, "steps"),
        ({"keep": 0.3, "levels": 8}, "keep must be a multiple of 1 / levels.*such as 2 / 8"),
        ({"keep": 1.25, "levels": 8}, "keep must be a multiple"),
        ({"keep": 0.0}, "keep must be"),
        ({"levels": 0}, "levels must be"),
        ({"baseline_mode": "nothing"}, "baseline_mode"),
        ({"groups": np.zeros(5, int)}, "groups must be"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        Stability(table(), rows(), **settings)


def test_a_radius_of_features_is_no_perturbation():
    with pytest.raises(ValueError, match="Stability has no argument epsilon"):
        Stability(table(), rows(), perturbation=Perturbation(3))
    assert "perturbation" not in inspect.signature(Stability).parameters


def test_a_model_without_a_value_is_refused():
    def model(x):
        return tf.math.log(tf.concat([x, x], axis=1)[:, :2])

    with pytest.raises(ValueError, match="NaN.*baseline_mode.*for sample 1"):
        Stability(model, np.array([[1.0, 1], [-1, 1]])).evaluate(np.ones((2, 2), bool))


def test_repr_has_the_error_of_the_mean():
    found = Stability(table(), rows(), steps=1).detailed_evaluate(rows(seed=3))
    assert f"{found.score:.4f} +- {found.mean_error:.4f} (higher is better)" in repr(found)
