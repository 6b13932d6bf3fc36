"""Criteria of explanations in boxes, against brute force."""

import itertools

import numpy as np
import pytest

from xcertify import criteria
from xcertify.criteria import Excludes, KeepsOut, KeepsSigns, KeepsTop, Within


def boxes(nb_samples=40, nb_features=3, seed=0):
    generator = np.random.default_rng(seed)
    original = generator.normal(0, 1, (nb_samples, nb_features))
    radius = generator.uniform(0, 1, (nb_samples, 1)) ** 2 * generator.uniform(0, 1, (1, 3))
    return original - radius, original + 0.7 * radius, original


def filled(lower, upper, nb_steps=7):
    """A grid of points of each box, (P, N, D)."""
    shares = itertools.product(np.linspace(0, 1, nb_steps), repeat=lower.shape[1])
    return np.stack([lower + np.array(share) * (upper - lower) for share in shares])


def cosines(points, other):
    return (
        (points * other).sum(-1) / np.linalg.norm(points, axis=-1) / np.linalg.norm(other, axis=-1)
    )


@pytest.mark.parametrize("measure", criteria.MEASURES)
def test_extremes_over_boxes(measure):
    lower, upper, original = boxes()
    target = np.random.default_rng(1).normal(0, 1, original.shape)
    points = filled(lower, upper)
    far = criteria.farthest(lower, upper, original, measure)
    near = criteria.nearest(lower, upper, target, measure)
    distances = {
        "mse": lambda other: ((points - other) ** 2).mean(-1),
        "l1": lambda other: np.linalg.norm(points - other, 1, axis=-1),
        "l2": lambda other: np.linalg.norm(points - other, axis=-1),
        "linf": lambda other: np.linalg.norm(points - other, np.inf, axis=-1),
        "l2_ratio": lambda other: (
            np.linalg.norm(points - other, axis=-1) / np.linalg.norm(other, axis=-1)
        ),
        "cosine": lambda other: -cosines(points, other),
    }[measure]
    sign = -1 if measure == "cosine" else 1
    assert (sign * far >= distances(original).max(axis=0) - 1e-12).all()
    assert (sign * near <= distances(target).min(axis=0) + 1e-12).all()
    if measure != "cosine":
        np.testing.assert_allclose(far, distances(original).max(axis=0), rtol=1e-9)
    else:
        gap = distances(original).max(axis=0) + far
        assert np.median(-gap) < 0.02
    # The nearest point need not be on the grid; a finer one around the best comes close to it.
    excess = distances(target).min(axis=0) - sign * near
    assert np.median(excess) < 0.02 and excess.max() < 0.3


def test_largest_cosine_by_hand():
    lower, upper = np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([[2.0, 3.0], [1.0, 1.0]])
    near = criteria.nearest(lower, upper, np.array([1.0, 0.0]), "cosine")
    np.testing.assert_allclose(near, [2 / np.sqrt(5), 1.0], atol=1e-6)  # the second holds 0
    near = criteria.nearest(lower[:1], upper[:1], np.array([-1.0, 0.0]), "cosine")
    np.testing.assert_allclose(near, [-1 / np.sqrt(13)], rtol=1e-9)  # true: -1 / sqrt(10)


def test_top_features_by_brute_force():
    lower, upper, original = boxes(60, 3)
    lower[0], upper[0] = [1, 1, -2], [1, 2, -1]  # ties
    points = filled(lower, upper, 6)
    for k in (1, 2):
        order = np.argsort(-np.abs(points), axis=-1, kind="stable")[..., :k]
        ever = np.zeros(lower.shape, bool)
        always = np.ones(lower.shape, bool)
        for feature in range(3):
            is_in = (order == feature).any(-1)
            ever[:, feature], always[:, feature] = is_in.any(0), is_in.all(0)
        proved_in, proved_out = (f(lower, upper, k) for f in (criteria.in_top, criteria.out_of_top))
        assert (always | ~proved_in).all() and (~ever | ~proved_out).all()
        assert proved_in.sum() > 20 and proved_out.sum() > 20
        assert (proved_in.sum(axis=1) <= k).all() and (proved_out.sum(axis=1) <= 3 - k).all()
        first = criteria.top_mask(original, k)
        kept = KeepsTop(k).holds(lower, upper, original)
        assert (kept == (proved_in | ~first).all(axis=1)).all()
    assert not criteria.in_top(lower[:1], upper[:1], 1).any()


def test_signs_and_given_features():
    lower, upper = np.array([[0.1, -2.0, -1.0]]), np.array([[0.2, -1.0, 1.0]])
    original = (lower + upper) / 2
    assert KeepsSigns(np.array([True, True, False])).holds(lower, upper, original).all()
    assert not KeepsSigns(np.array([False, False, True])).holds(lower, upper, original).any()
    assert KeepsOut(np.array([True, False, False]), 1).holds(lower, upper, original).all()
    assert not KeepsOut(np.array([False, False, True]), 1).holds(lower, upper, original).any()


def every_criterion(original):
    generator = np.random.default_rng(5)
    features, other = np.arange(3) < 2, original + generator.normal(0, 0.5, original.shape)
    measures = [("mse", 0.02), ("l2_ratio", 0.4), ("cosine", 0.9)]
    yield from (Within(tau, measure) for measure, tau in measures)
    yield from (Within(tau, measure) for measure, tau in [("l1", 0.4), ("l2", 0.3), ("linf", 0.2)])
    yield Excludes(other, 0.4, "mse")
    yield Excludes(other, 0.9, "l2")
    yield from (Excludes(other, tau, measure) for measure, tau in measures[1:])
    yield from (KeepsTop(1), KeepsTop(2), KeepsOut(~features, 1), KeepsSigns(features))


@pytest.mark.parametrize("number", range(14))
def test_broken_is_the_opposite_of_holds(number):
    lower, upper, original = boxes(200)
    lower, upper = lower + 0.3, upper + 0.3
    lower[:100] = upper[:100]  # single explanations
    criterion = [*every_criterion(original)][number]
    holds, broken = (f(lower, upper, original) for f in (criterion.holds, criterion.broken))
    assert not (holds & broken).any()
    assert (holds | broken)[:100].all()  # no tie among them
    assert broken[:100].any() and broken[100:].any() and not (holds | broken).all()
    for points in filled(lower, upper, 4):  # all explanations of a box break it
        assert criterion.broken(points, points, original)[broken].all()
        assert not criterion.holds(points, points, original)[broken].any()
        assert not criterion.broken(points, points, original)[holds].any()


def test_an_explanation_of_zeros_is_left_by_any_other():
    zero, one = np.zeros((1, 3)), np.ones((1, 3))
    for measure, tau in [("l2_ratio", 5.0), ("cosine", 0.5)]:
        assert Within(tau, measure).broken(one, one, zero).all()
    assert not Within(5.0).broken(-one, one, zero).any()
    assert not Within(5.0).broken(zero, zero, zero).any()


def test_criteria_are_checked():
    lower, upper, original = boxes()
    with pytest.raises(
        ValueError, match="measure must be one of mse, l1, l2, linf, l2_ratio, cosine"
    ):
        Within(0.1, "l3")
    with pytest.raises(ValueError, match="measure must be one of"):
        Excludes(original, 0.1, "l3")
    with pytest.raises(ValueError, match="target_map must be finite and of the shape"):
        Excludes(np.zeros(4), 0.1).holds(lower, upper, original)
    with pytest.raises(ValueError, match="must not be zero"):
        Excludes(np.zeros(3), 0.1, "cosine").holds(lower, upper, original)
    with pytest.raises(ValueError, match="k must be a whole number from 1 to 2"):
        KeepsTop(3).holds(lower, upper, original)
