"""Regions: what they contain, and what they refuse."""

import numpy as np
import pytest

from xcertify.regions import Ball, Box

CENTER = np.array([[0.1, 0.5, 0.9], [0.0, 1.0, 0.3]], dtype="float32")


def test_ball_sides_are_those_of_the_stated_set():
    ball = Ball(CENTER, 0.25)
    exact = CENTER.astype("f8")
    assert (ball.lower <= exact - 0.25).all() and (ball.upper >= exact + 0.25).all()
    np.testing.assert_allclose(ball.lower, exact - 0.25, rtol=1e-6)
    # 0.5 - 0.25 is a float32 number: nothing is added to it.
    assert ball.lower[0, 1] == 0.25


@pytest.mark.parametrize("seed", range(5))
def test_sides_are_rounded_outward(seed):
    generator = np.random.default_rng(seed)
    center = generator.normal(size=(50, 20)).astype("f4")
    for epsilon in (0.1, 1e-7, 1e-12, 3.3):
        ball = Ball(center, epsilon)
        exact = center.astype(np.longdouble)
        assert (ball.lower.astype(np.longdouble) <= exact - np.longdouble(epsilon)).all()
        assert (ball.upper.astype(np.longdouble) >= exact + np.longdouble(epsilon)).all()


def test_epsilon_zero_is_a_point():
    ball = Ball(CENTER, 0.0)
    assert (ball.lower == CENTER).all() and (ball.upper == CENTER).all()


def test_epsilon_per_sample_and_per_feature():
    np.testing.assert_allclose(
        Ball(CENTER, [0.1, 0.2]).upper - CENTER, [[0.1] * 3, [0.2] * 3], 1e-5
    )
    np.testing.assert_allclose(
        Ball(CENTER, [0.1, 0.2, 0.3]).upper[0] - CENTER[0], [0.1, 0.2, 0.3], 1e-5
    )
    with pytest.raises(ValueError, match="may mean one value per sample or one per feature"):
        Ball(CENTER[:, :2], [0.1, 0.2])


def test_clip():
    ball = Ball(CENTER, 0.2, clip=(0, 1))
    np.testing.assert_allclose(ball.lower, [[0, 0.3, 0.7], [0, 0.8, 0.1]], atol=1e-6)
    np.testing.assert_allclose(ball.upper, [[0.3, 0.7, 1.0], [0.2, 1.0, 0.5]], atol=1e-6)


@pytest.mark.parametrize("norm", [np.inf, 2, 1, "inf"])
def test_fix_positive_negative(norm):
    ball = Ball(CENTER, 0.2, norm)
    fixed = ball.fix(np.array([True, False, False]))
    assert (fixed.lower[:, 0] == CENTER[:, 0]).all() and (fixed.upper[:, 0] == CENTER[:, 0]).all()
    assert (fixed.upper[:, 1:] == ball.upper[:, 1:]).all()
    assert (ball.positive().lower == CENTER).all() and (ball.positive().upper == ball.upper).all()
    assert (ball.negative().upper == CENTER).all() and (ball.negative().lower == ball.lower).all()
    each = ball.fix(np.array([[True, False, False], [False, False, True]]))
    assert each.lower[0, 0] == CENTER[0, 0] and each.lower[1, 2] == CENTER[1, 2]
    assert each.lower[1, 0] == ball.lower[1, 0]


@pytest.mark.parametrize(("norm", "order"), [(2, 2), (1, 1), (np.inf, np.inf)])
def test_samples_are_inside(norm, order):
    ball = Ball(CENTER, [0.3, 0.05], norm, clip=(0, 1)).fix(np.array([False, True, False]))
    points = ball.sample(200)
    steps = points.astype("f8") - CENTER
    assert (points >= 0).all() and (points <= 1).all()
    lengths = np.linalg.norm(steps, ord=order, axis=-1)
    assert (lengths <= np.array([0.3, 0.05]) + 1e-6).all()
    assert lengths.max(axis=0)[0] > 0.2
    assert (steps[..., 1] == 0).all()
    assert (points == ball.sample(200)).all() and (points != ball.sample(200, seed=1)).any()


def test_box():
    box = Box([[0.0, 1.0]], [[1.0, 3.0]])
    np.testing.assert_allclose(box.center, [[0.5, 2.0]])
    assert Box([[0.0]], [[1.0]], center=[[0.25]]).positive().lower.item() == 0.25


def test_parts_of_a_batch():
    ball = Ball(CENTER, [0.1, 0.2])
    assert len(ball[1:]) == 1 and (ball[1:].upper == ball.upper[1:]).all()
    assert (ball[np.array([1, 1, 0])].lower == ball.lower[[1, 1, 0]]).all()
    with pytest.raises(TypeError, match=r"region\[1:2\]"):
        ball[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ball(CENTER, -0.1), "epsilon is negative"),
        (lambda: Ball(CENTER, [0.1, np.nan]), "NaN or infinite in sample 1"),
        (lambda: Ball(CENTER, np.ones(7)), r"one per feature \(3,\). Received: shape \(7,\)"),
        (lambda: Ball(CENTER, 0.1, norm=3), "norm must be 1, 2 or np.inf. Received: 3"),
        (lambda: Ball(CENTER[0], 0.1), r"add an axis, x\[None\]"),
        (lambda: Ball(CENTER, 0.1, clip=(0.05, 1)), "leaves the valid range.* in sample 1"),
        (lambda: Ball(CENTER, 0.1, clip=(1, 0)), "low <= high"),
        (lambda: Ball(CENTER, 0.1, clip=3), "clip must be a pair"),
        (lambda: Ball(CENTER * np.nan, 0.1), "NaN or infinite values in sample 0"),
        (lambda: Box(CENTER, CENTER[:1]), "one shape"),
        (lambda: Box(CENTER, CENTER - [[0], [1]]), "lower is above upper in sample 1"),
        (lambda: Box(CENTER, CENTER, CENTER + 1), "center is outside the box in sample 0"),
        (lambda: Ball(CENTER, 0.1).fix(np.ones(3)), "boolean"),
        (lambda: Ball(CENTER, 0.1).fix(np.ones(2, bool)), r"\(3,\).*Received: \(2,\)"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
