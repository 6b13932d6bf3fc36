"""Attacks on smoothed maps: where the nearest flip is known by hand, and on small networks."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import sequential

from xcertify.attacks import SmoothedMapAttack, input_gradient
from xcertify.attacks.smoothed_maps import soft_top
from xcertify.regions import Ball
from xcertify.statistics import binomial_tail, normal_cdf, normal_quantile

L = keras.layers
SIGMA = 0.5


def the_input(model, inputs, targets):
    """An explanation whose smoothed map is known: the map is the input."""
    return inputs


def two_logits(inputs):
    return tf.stack([tf.ones_like(inputs[:, 0]), inputs[:, 0] * 0], axis=1)


def votes_of(maps_of, k, nb_samples, seed=1, clip=None):
    """Votes by samples of their own, of maps (B, *map) -> in the top set as it is defined."""
    generator = np.random.default_rng(seed)

    def votes(numbers, points):
        noise = SIGMA * generator.standard_normal((nb_samples, *points.shape), np.float32)
        noisy = points + noise if clip is None else np.clip(points + noise, *clip)
        maps = np.asarray(
            maps_of(noisy.reshape(-1, *points.shape[1:]), np.tile(numbers, nb_samples))
        )
        rows = maps.reshape(len(maps), -1)
        border = np.sort(rows, axis=1)[:, -k - 1, None]
        counts = (rows > border).reshape(nb_samples, *points.shape[:1], *maps.shape[1:])
        return counts.sum(axis=0)

    return votes


def test_soft_top_by_hand():
    maps = tf.constant([[4.0, 0.0, 2.0, -2.0], [1.0, 1.0, 1.0, 1.0]])
    # border 1 in the first row: distances 3, -1, 1, -3, their mean size 2
    expected = 1 / (1 + np.exp(-np.array([3, -1, 1, -3]) / 0.6))
    np.testing.assert_allclose(soft_top(maps, 2)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(soft_top(maps, 2)[1], 0.5)
    np.testing.assert_allclose(soft_top(maps[:, :1], 1), 0.5)


def test_the_nearest_flip_is_found_where_the_certificate_is_tight():
    """Of two entries the first is larger with probability Phi(gap / (sigma sqrt 2)).

    So the certified radius, sigma times the quantile of that, is gap / sqrt 2, and at the point
    that is so far along (-1, 1) both are equal: no certificate could be better, no attack nearer.
    """
    x = np.array([[0.9, 0.4], [0.1, 0.4]], np.float32)
    chosen, targets = x > x[:, ::-1], np.eye(2, dtype=np.float32)
    gap = np.abs(x[:, 0] - x[:, 1])
    certified = SIGMA * normal_quantile(normal_cdf(gap / (SIGMA * np.sqrt(2))))
    np.testing.assert_allclose(certified, gap / np.sqrt(2), rtol=1e-6)
    attack = SmoothedMapAttack(two_logits, the_input, sigma=SIGMA, k=1, steps=30, nb_directions=0)
    n = 20000
    votes = votes_of(lambda points, _: points, 1, n)
    inside = attack(
        Ball(x, 0.95 * gap[:, None] / np.sqrt(2), 2), targets, chosen, votes, nb_samples=n
    )
    assert not inside.flipped.any()
    radii = attack.radii(
        x, targets, chosen, votes, nb_samples=n, low=certified, high=1.0, nb_halvings=8
    )
    # beyond it by what 20,000 samples need to see it: a share of 1/2 +- 0.012
    assert np.all(radii.distances > certified)
    assert np.all(radii.distances < certified + 0.025)
    way = (radii.points - x) / radii.distances[:, None]
    np.testing.assert_allclose(way, [[-0.7071, 0.7071], [0.7071, -0.7071]], atol=0.05)


def test_what_is_flipped_is_what_samples_show():
    """Counts decide, by the exact test with Holm over entries and points, nothing else."""
    x = np.zeros((1, 3), np.float32)
    attack = SmoothedMapAttack(
        two_logits, the_input, sigma=SIGMA, k=1, steps=0, nb_weakest=0, nb_directions=1, alpha=0.05
    )
    targets, chosen = np.ones((1, 2), np.float32), np.array([[True, False, False]])
    given = np.array([[1, 90, 50], [30, 100, 40]])  # in the top set, of 100, at two points

    def votes(numbers, points):
        assert (numbers == 0).all()
        assert points.shape == (2, 3)
        return given

    result = attack(Ball(x, 0.1, 2), targets, chosen, votes, nb_samples=100)
    # others: 99, 90, 50; 70, 100, 40. The six p-values are 1e-28, 2e-17, .54; 4e-5, 1e-30, .98
    np.testing.assert_array_equal(result.flipped, [[True, True, False]])
    assert binomial_tail(70, 100, 0.5) < 0.05 / 6
    # both points have two flips; the least old answer is 0 at the second, 1 at the first
    np.testing.assert_array_equal(result.counts, [[30, 0, 60]])
    np.testing.assert_array_equal(result.seems_flipped, [[True, True, False]])
    assert np.linalg.norm(result.points) == pytest.approx(0.1, rel=1e-5)
    # 58 of 100 for another answer: more than half, and no more than chance
    given = np.array([[42, 58, 50], [42, 58, 40]])
    result = attack(Ball(x, 0.1, 2), targets, chosen, votes, nb_samples=100)
    assert not result.flipped.any()
    np.testing.assert_array_equal(result.seems_flipped, [[True, True, False]])
    assert repr(result).startswith("<SmoothedMapResult: 1 samples, 0 with a flipped entry")


@pytest.mark.parametrize("mutual", [True, False])
def test_the_test_of_flips_keeps_its_level(mutual):
    """At points where every share is 1/2, the worst case, one of N inputs is flipped at alpha."""
    nb_inputs, n = 4000, 60
    generator = np.random.default_rng(3)

    def votes(numbers, points):
        if mutual:  # all entries alike
            return np.repeat(generator.binomial(n, 0.5, (len(points), 1)), 4, axis=1)
        return generator.binomial(n, 0.5, (len(points), 4))

    attack = SmoothedMapAttack(
        two_logits, sigma=SIGMA, k=1, steps=0, nb_weakest=0, nb_directions=1, alpha=0.05
    )
    chosen = np.tile([True, False, False, False], (nb_inputs, 1))
    zeros = np.zeros((nb_inputs, 4), np.float32)
    result = attack(Ball(zeros, 0.1, 2), np.ones((nb_inputs, 2)), chosen, votes, nb_samples=n)
    wrong = result.flipped.any(axis=1).sum()
    assert binomial_tail(wrong, nb_inputs, 0.05) > 1e-3
    assert wrong > 0 or mutual


@pytest.fixture(scope="module")
def net():
    return sequential((6, 6, 2), L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(3))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((3, 6, 6, 2)).astype(np.float32)


def saliency(model, inputs, targets):
    return tf.reduce_max(tf.abs(input_gradient(model, inputs, targets)), axis=-1, keepdims=True)


def setting(net, images, k=9, nb_samples=400, clip=None):
    """Weights of classes, votes, and what samples say at the images."""
    targets = np.eye(3, dtype=np.float32)[np.argmax(net(images), axis=1)]
    maps_of = tf.function(saliency)

    def maps_at(points, numbers):
        return maps_of(net, tf.constant(points), tf.constant(targets[numbers]))

    votes = votes_of(maps_at, k, nb_samples, clip=clip)
    counts = votes(np.arange(len(images)), images)
    chosen = 2 * counts > nb_samples
    return targets, votes, chosen, np.where(chosen, counts, nb_samples - counts) / nb_samples


@pytest.mark.parametrize("explanation", [saliency, None])
def test_entries_of_a_network_are_flipped_inside_the_region(net, images, explanation):
    """The ascent flips more than random directions do, and keeps out of certified radii."""
    targets, votes, chosen, shares = setting(net, images)
    settings = {"sigma": SIGMA, "k": 9, "steps": 24, "nb_weakest": 1}
    asked = {"nb_samples": 400, "shares": shares}
    region = Ball(images, 0.6, 2)
    attack = SmoothedMapAttack(net, explanation, **settings)
    result = attack(region, targets, chosen, votes, **asked)
    distances = np.linalg.norm((result.points.astype(float) - images).reshape(3, -1), axis=1)
    assert np.all(distances <= 0.6)
    plain = SmoothedMapAttack(net, explanation, **settings | {"steps": 0, "nb_directions": 6})
    by_chance = plain(region, targets, chosen, votes, **asked)
    assert result.flipped.sum() > by_chance.flipped.sum()
    # a share of p cannot be 1/2 or less nearer than sigma times its quantile
    least = SIGMA * normal_quantile(np.clip(shares - 0.1, 1e-6, 1 - 1e-6))
    assert not (result.flipped & (least > 0.6)).any()


def test_aimed_entries_alone_are_sought(net, images):
    targets, votes, chosen, shares = setting(net, images)
    weakest = np.argsort(shares.reshape(3, -1), axis=1)[:, 3]
    aimed = np.zeros((3, 36), bool)
    aimed[np.arange(3), weakest] = True
    aimed = aimed.reshape(chosen.shape)
    attack = SmoothedMapAttack(net, saliency, sigma=SIGMA, k=9, steps=24, nb_weakest=0)
    region, asked = Ball(images, 0.5, 2), {"nb_samples": 400, "shares": shares}
    at_one = attack(region, targets, chosen, votes, aimed=aimed, **asked)
    at_all = attack(region, targets, chosen, votes, **asked)
    assert at_one.counts[aimed].mean() < at_all.counts[aimed].mean()


def test_results_do_not_depend_on_batches(net, images):
    targets, _, chosen, shares = setting(net, images)
    clip, found = (0.0, 1.0), []
    for size, some in ((512, slice(None)), (24, slice(None)), (512, slice(1, 2))):
        votes = lambda numbers, points: np.zeros((len(points), 6, 6, 1), int)  # noqa: E731
        attack = SmoothedMapAttack(
            net, saliency, sigma=SIGMA, k=9, clip=clip, steps=9, batch_size=size
        )
        given = Ball(images[some], 0.3, 2), targets[some], chosen[some], votes
        found.append(attack(*given, nb_samples=10, shares=shares[some]).points)
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)
    np.testing.assert_allclose(found[0][1:2], found[2], atol=2e-3)


def test_maps_of_another_size_are_attacked_by_random_directions(net, images):
    chosen = np.zeros((3, 2, 2), bool)
    attack = SmoothedMapAttack(net, sigma=SIGMA, k=1, nb_directions=3)
    seen = []

    def votes(numbers, points):
        seen.append(np.linalg.norm((points - images[numbers]).reshape(len(points), -1), axis=1))
        return np.zeros((len(points), 2, 2), int)

    result = attack(Ball(images, 0.2, 2), np.ones((3, 3)), chosen, votes, nb_samples=50)
    np.testing.assert_allclose(seen[0], np.repeat([0, 0.2, 0.2, 0.2], 3), rtol=1e-5)
    assert not result.flipped.any()
    assert (result.counts == 50).all()


def steps_of(inputs):
    """Logits of a function that has no gradient."""
    return tf.stack([tf.cast(inputs[:, 0] > 0.5, tf.float32), tf.zeros_like(inputs[:, 0])], axis=1)


def of_arrays(inputs):
    classes = np.asarray(inputs)[:, 0] > 0.5
    return np.stack([classes, ~classes], axis=1).astype(np.float32)


@pytest.mark.parametrize("model", [steps_of, of_arrays])
def test_models_without_a_gradient_are_attacked_by_random_directions(model):
    inputs = np.full((2, 3), 0.4, np.float32)
    attack = SmoothedMapAttack(model, sigma=SIGMA, k=1, nb_directions=4)
    seen = []

    def votes(numbers, points):
        seen.append(np.linalg.norm(points - inputs[numbers], axis=1))
        return np.zeros((len(points), 3), int)

    attack(Ball(inputs, 0.2, 2), np.ones((2, 2)), np.zeros((2, 3), bool), votes, nb_samples=9)
    np.testing.assert_allclose(seen[0], [0] * 2 + [0.2] * 8, rtol=1e-5)
    given = SmoothedMapAttack(model, input_gradient, sigma=SIGMA, k=1)  # which cannot be climbed
    with pytest.raises(ValueError, match="no gradient by its inputs"):
        given(Ball(inputs, 0.2, 2), np.ones((2, 2)), np.ones((2, 3), bool), votes, nb_samples=9)


def test_arguments_are_checked(net, images):
    for settings, message in (
        ({"sigma": 0}, "sigma must be a number above 0"),
        ({"k": 0}, "k must be a whole number"),
        ({"alpha": 1}, "alpha must be a level between 0 and 1"),
        ({"nb_draws": 0}, "nb_draws must be"),
        ({"model": None}, "model must be a model or a callable"),
    ):
        with pytest.raises(ValueError, match=message):
            SmoothedMapAttack(**{"model": net, "sigma": 1.0, "k": 3} | settings)
    attack = SmoothedMapAttack(net, saliency, sigma=1.0, k=3)
    chosen, targets = np.zeros((3, 6, 6, 1), bool), np.ones((3, 3))
    for region, chosen in (
        (Ball(images, 0.1), np.zeros((3, 6, 6, 1), bool)),
        (Ball(images, 0.1, 2), np.zeros((2, 6, 6, 1), bool)),
    ):
        with pytest.raises(ValueError, match="region must be balls of the norm 2"):
            attack(region, targets, chosen, lambda *_: None, nb_samples=5)
