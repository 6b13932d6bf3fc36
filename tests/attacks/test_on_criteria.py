"""Attacks on criteria of explanations, by inputs and by weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import sequential

from xcertify.attacks import (
    CriterionAttack,
    MapAttackResult,
    WeightCriterionAttack,
    input_gradient,
    weight_attack,
)
from xcertify.attacks.on_criteria import violation
from xcertify.attributions import CertifiedGradient
from xcertify.criteria import Criterion, Excludes, KeepsOut, KeepsSigns, KeepsTop, Within
from xcertify.regions import Ball

L = keras.layers


def inputs(nb_samples=3, shape=(5,)):
    return np.random.default_rng(0).uniform(0, 1, (nb_samples, *shape)).astype("float32")


def small():
    return sequential((5,), L.Dense(8, "relu"), L.Dense(6, "tanh"), L.Dense(3))


@pytest.mark.usefixtures("eager")
def test_a_criterion_is_broken_in_real_arithmetic():
    """Float32 alone does not decide: 3 and 0 are the slopes on both sides of a kink at 0.2."""
    model = sequential((1,), L.Dense(1, "relu"), L.Dense(1))
    model.set_weights([np.ones((1, 1)), np.array([-0.2]), np.full((1, 1), 3.0), np.zeros(1)])
    x = np.array([[0.5], [1.0]], "f4")
    original, targets = np.full((2, 1), 3.0), np.ones((2, 1), "f4")
    sides = lambda points, samples: (np.full((len(points), 1), 3.0),) * 2  # noqa: E731
    for exact, broken in [(None, True), (sides, False)]:
        attack = CriterionAttack(
            model, input_gradient, Within(0.5), original, targets, exact=exact, steps=5
        )
        result = attack(Ball(x, 0.9))
        assert (result.maps == 0).all()
        assert (attack.breaks(result) == broken).all()
    # by less than what float32 can be expected to round, it is not broken
    attack = CriterionAttack(model, input_gradient, Within(0.0), original, targets)
    near = MapAttackResult(x, original * (1 + 1e-6), original, np.zeros(2))
    assert not attack.breaks(near).any()


def test_attack_of_a_plain_gradient():
    model, x = small(), inputs(3)
    targets = np.eye(3, dtype="f4")
    original = CertifiedGradient(model)(x, [0, 1, 2])
    attack = CriterionAttack(model, input_gradient, Within(0.05), original, targets, steps=10)
    result = attack(Ball(x, 0.3))
    assert attack.breaks(result).all()
    maps = CertifiedGradient(model)(result.points, [0, 1, 2])
    np.testing.assert_allclose(result.maps, maps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_attack_of_the_weights_of_each_input(activation):
    model, x = sequential((4,), L.Dense(3, activation)), inputs(3, (4,))
    targets, kernel = np.eye(3, dtype="f4"), model.layers[-1].get_weights()[0].T
    criterion, gammas = Within(0.05, "mse"), np.array([0.0, 0.1, 0.5])
    attack = WeightCriterionAttack(model, input_gradient, criterion, x, kernel, targets)
    result = attack(gammas)
    worst = (gammas[:, None] * kernel) ** 2  # every weight at an end of its interval
    np.testing.assert_allclose(((result.maps - kernel) ** 2).mean(1), worst.mean(1), rtol=1e-4)
    np.testing.assert_allclose(result.values, worst.mean(1), rtol=1e-4, atol=1e-12)
    np.testing.assert_array_equal(attack.breaks(result), worst.mean(1) > 0.05)
    np.testing.assert_array_equal(model.layers[-1].get_weights()[0].T, kernel)


def test_attack_of_weights_finds_more_than_one_change_for_all_inputs():
    model, x = sequential((5,), L.Dense(6, "tanh"), L.Dense(3)), inputs(3)
    targets, original = np.eye(3, dtype="f4"), CertifiedGradient(model)(x, [0, 1, 2])
    criterion = Within(0.1, "mse")
    attack = WeightCriterionAttack(model, input_gradient, criterion, x, original, targets)
    common = weight_attack(model, input_gradient, x, targets, gamma=0.2)
    result = attack(0.2)
    assert result.values.mean() > common.values.mean()
    fixed = WeightCriterionAttack(
        model, input_gradient, criterion, x, original, targets, bias_radius=0.0
    )
    for bias_radius, maps in ((None, result.maps), (0.0, fixed(0.2).maps)):
        explainer = CertifiedGradient(model, 0.0, gamma=0.2, bias_radius=bias_radius)
        bounds = explainer.certify(x, [0, 1, 2])
        assert (bounds.lower <= maps).all() and (maps <= bounds.upper).all()


def test_attacks_climb_what_breaks_criteria():
    generator = np.random.default_rng(4)
    original, maps = generator.normal(size=(2, 50, 4))
    maps = original + 0.7 * maps
    features, goal = np.arange(4) < 2, original + 0.5
    for criterion, limit in [
        (KeepsTop(2), 0.0),
        (KeepsOut(features, 2), 0.0),
        (KeepsSigns(features), 0.0),
        (Within(0.2, "mse"), 0.2),
        (Within(0.8, "cosine"), -0.8),
        (Excludes(goal, 0.6), -0.6),
        (Excludes(goal, 0.5, "cosine"), 0.5),
    ]:
        wanted = tf.constant(np.broadcast_to(criterion.goal, maps.shape).astype("f8"))
        violated, climbed = violation(criterion, tf.constant(maps), tf.constant(original), wanted)
        broken = ~criterion.holds(maps, maps, original)
        assert (broken == (violated.numpy() > limit)).all(), criterion
        assert broken.any() and not broken.all() and np.isfinite(climbed).all()


class Small(Criterion):
    """A criterion of one's own: every entry stays below one."""

    def holds(self, lower, upper, original):
        return (upper < 1).all(axis=1)

    def broken(self, lower, upper, original):
        return (lower >= 1).any(axis=1)


class Former(Small):
    def badness(self, maps, original, goal):
        return (tf.reduce_max(maps, axis=1),) * 2


def test_criteria_of_ones_own():
    maps = tf.constant([[0.5, 2.0]])
    with pytest.raises(TypeError, match="how badly Small is violated.*register"):
        violation(Small(), maps, maps, maps)
    with pytest.warns(DeprecationWarning, match="badness is deprecated. Write .*register"):
        assert violation(Former(), maps, maps, maps)[0].numpy().tolist() == [2.0]
    violation.register(Small, lambda criterion, maps, original, goal: (maps[:, 0], maps[:, 1]))
    assert [float(value[0]) for value in violation(Small(), maps, maps, maps)] == [0.5, 2.0]
