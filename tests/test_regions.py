"""Regions: what they contain, and what they refuse."""

import inspect

import keras
import numpy as np
import pytest

from xcertify import attacks, attributions, metrics
from xcertify.regions import Ball, Box, as_column, as_norm

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


def test_epsilon_as_column_and_per_feature():
    np.testing.assert_allclose(
        Ball(CENTER, [0.1, 0.2]).upper - CENTER, [[0.1] * 3, [0.2] * 3], 1e-5
    )
    np.testing.assert_allclose(
        Ball(CENTER, [[0.1, 0.2, 0.3]]).upper[0] - CENTER[0], [0.1, 0.2, 0.3], 1e-5
    )
    square = Ball(CENTER[:, :2], as_column([0.1, 0.2], CENTER))
    np.testing.assert_allclose(square.upper - square.center, [[0.1, 0.1], [0.2, 0.2]], 1e-5)
    with pytest.raises(ValueError, match=r"epsilon.reshape\(-1, 1\) for one per sample"):
        Ball(CENTER[:, :2], [0.1, 0.2])


@pytest.mark.parametrize("nb_samples", [1, 2, 3, 4])
def test_what_an_array_of_radii_means_does_not_depend_on_the_batch(nb_samples):
    images = np.full((nb_samples, 3, 5, 3), 0.5, "float32")
    channels = np.array([0.25, 0.125, 0.0625])
    for epsilon in (channels.reshape(1, 1, 3), channels.reshape(1, 1, 1, 3)):
        ball = Ball(images, epsilon)
        np.testing.assert_array_equal(ball.upper - 0.5, np.broadcast_to(channels, images.shape))
    with pytest.raises(ValueError, match=r"epsilon.*epsilon.reshape\(1, 1, -1\) for"):
        Ball(images, channels)
    each = 2.0 ** -np.arange(1, nb_samples + 1)
    np.testing.assert_array_equal(
        Ball(images, as_column(each, images)).upper - 0.5,
        np.broadcast_to(each.reshape(-1, 1, 1, 1), images.shape),
    )
    if nb_samples != 3:
        whole = Ball(images, as_column(each, images))
        np.testing.assert_array_equal(Ball(images, each).upper, whole.upper)
    rows = np.array([0.25, 0.125, 0.0625]).reshape(3, 1, 1)  # of the image, whatever N is
    expected = np.broadcast_to(rows, images.shape)
    np.testing.assert_array_equal(Ball(images, rows).upper - 0.5, expected)
    table = np.full((nb_samples, 3), 0.5, "float32")
    np.testing.assert_array_equal(
        Ball(table, channels.reshape(1, 3)).upper - 0.5, np.broadcast_to(channels, table.shape)
    )
    with pytest.raises(ValueError, match=r"epsilon.*epsilon.reshape\(1, -1\) for"):
        Ball(table, channels)
    for shape in [(3, 3), (5, 3), (1, 1, 1, 1, 1), (nb_samples + 1, 1, 1, 1)]:
        with pytest.raises(ValueError, match="epsilon must be a number, one per sample"):
            Ball(images, np.full(shape, 0.1))


def test_clip():
    ball = Ball(CENTER, 0.2, clip=(0, 1))
    np.testing.assert_allclose(ball.lower, [[0, 0.3, 0.7], [0, 0.8, 0.1]], atol=1e-6)
    np.testing.assert_allclose(ball.upper, [[0.3, 0.7, 1.0], [0.2, 1.0, 0.5]], atol=1e-6)


def test_clip_is_rounded_outward():
    """float32(0.1) is above 0.1, and float32(0.9) below 0.9: the stated range must be inside."""
    assert float(np.float32(0.1)) > 0.1 and float(np.float32(0.9)) < 0.9
    center = np.array([[0.1, 0.9, 0.5]], "float32")
    ball = Ball(center, 10.0, clip=(0.1, 0.9))
    assert (ball.lower.astype("f8") <= 0.1).all() and (ball.upper.astype("f8") >= 0.9).all()
    np.testing.assert_array_equal(ball.lower, np.nextafter(np.float32(0.1), np.float32(0)))
    np.testing.assert_array_equal(ball.upper, np.nextafter(np.float32(0.9), np.float32(1)))
    # whatever float32 holds stays as it is, in arrays too, and float64 is not rounded
    exact = Ball(center, 10.0, clip=(np.float32(0.1), [1.0, 0.9375, np.inf]))
    np.testing.assert_array_equal(exact.lower, np.full((1, 3), 0.1, "float32"))
    np.testing.assert_array_equal(exact.upper[0, :2], [1.0, 0.9375])
    wide = Ball(center.astype("f8").clip(0.1, 0.9), 10.0, clip=(0.1, 0.9))
    assert (wide.lower == 0.1).all() and (wide.upper == 0.9).all()
    assert np.isinf(Ball(center, 1e38, clip=(-1e300, 1e300)).upper).sum() == 0
    # one float32 number is let in on each side, and no more
    below = np.nextafter(ball.lower, np.float32(0))
    with pytest.raises(ValueError, match="center leaves the valid range"):
        Ball(below, 0.1, clip=(0.1, 0.9))


def test_norms():
    for given, norm in [(1, 1), (2.0, 2), (np.float32(2), 2), (np.inf, np.inf), ("inf", np.inf)]:
        assert as_norm(given) == norm
    for given in (3, 0.5, "l2", "linf", "2", None, True, np.nan, [2], -np.inf):
        with pytest.raises(ValueError, match="norm must be 1, 2 or np.inf. Received: "):
            as_norm(given)


WITH_NORM = [
    kind
    for module in (attacks, attributions, metrics)
    for kind in (getattr(module, name) for name in module.__all__)
    if inspect.isclass(kind)
    and "norm" in inspect.signature(kind).parameters
    and kind is not attributions.UniformlySmoothedAttribution  # of the norm 2 alone
]


def made(kind, norm):
    """An object of a class with a norm; what has no default is given in its cheapest form."""
    images = np.full((2, 4, 4, 1), 0.5, "float32")
    layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 2, name="conv")]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    given = {"model": keras.Sequential(layers), "inputs": images, "latent_layer": "conv"}
    given |= {"epsilon": 0.1, "maps": lambda x, data: x, "exact": lambda x, data: x, "k": 1}
    parameters = inspect.signature(kind).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return kind(**{name: given[name] for name in needed}, norm=norm)


def test_classes_with_a_norm_are_found():
    names = {kind.__name__ for kind in WITH_NORM}
    assert names >= {"MinimalPerturbation", "MinimalTopK", "EVA", "EVAHybrid", "SampledEVA"}
    assert names >= {"CORGI", "CertifiedGradient", "AttributionBound", "RelEx", "GreedyAS"}
    assert "RobustnessSr" in names


@pytest.mark.parametrize("kind", WITH_NORM, ids=lambda kind: kind.__name__)
def test_every_constructor_takes_the_same_norms(kind):
    assert made(kind, "inf").norm == made(kind, np.inf).norm == np.inf
    assert made(kind, 2).norm == 2
    if kind is not attributions.AttributionBound:  # which takes every norm from 2 on
        assert made(kind, 1).norm == 1
    for norm in ("l2", "2", 0.5, None, True, np.nan):
        with pytest.raises(ValueError, match="norm must be .*2.* np.inf. Received: "):
            made(kind, norm)


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


@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_one_way(norm):
    ball = Ball(CENTER, 0.2, norm)
    up, down = np.array([True, False, True]), np.array([[False, True, True], [False, False, True]])
    part = ball.one_way(up, down)
    np.testing.assert_array_equal(part.lower, np.where(up, CENTER, ball.lower))
    np.testing.assert_array_equal(part.upper, np.where(down, CENTER, ball.upper))
    assert (part.lower[:, 2] == part.upper[:, 2]).all()  # in both: held
    everything = np.ones(3, bool)
    for one, other in [
        (ball.one_way(up=everything), ball.positive()),
        (ball.one_way(down=everything), ball.negative()),
        (ball.one_way(), ball),
    ]:
        assert (one.lower == other.lower).all() and (one.upper == other.upper).all()
    for points in (part.sample(50), part.corners(50)):
        assert (points[:, :, 0] >= CENTER[:, 0]).all() and (points[:, 0, 1] <= CENTER[0, 1]).all()
        lengths = np.linalg.norm(points.astype("f8") - CENTER, norm, axis=-1)
        assert (lengths <= 0.2 * (1 + 1e-6)).all()
    with pytest.raises(ValueError, match="up must be boolean, True where a feature only moves up"):
        ball.one_way(up=[0, 1, 0])
    with pytest.raises(ValueError, match=r"down must have the shape of one input, \(3,\)"):
        ball.one_way(down=np.ones(2, bool))


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
        (lambda: Ball(CENTER, np.ones(7)), r"one per sample, \(2,\), .*Received: shape \(7,\)"),
        (lambda: Ball(CENTER, "a"), "epsilon must be numbers. Received: 'a'"),
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


# --- few features that change -------------------------------------------------------------------

IMAGES = np.full((3, 2, 3, 2), 0.5, "float32")
PIXELS = np.arange(6).reshape(2, 3, 1).repeat(2, axis=2)


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
@pytest.mark.parametrize("groups", [None, PIXELS, np.array([[[0, -1]] * 3, [[1, 2]] * 3])])
def test_at_most_some_groups_leave_the_center(groups, norm):
    nb_changed = np.array([0, 1, 4])
    whole = Ball(IMAGES, 0.25, norm, clip=(0.3, 1))
    region = whole.at_most(nb_changed, groups)
    assert (region.nb_changed == nb_changed).all()
    assert region.groups.shape == IMAGES.shape and region.groups.dtype == np.int32
    nb_groups = min(4, region.groups.max() + 1)
    for points in (region.sample(200), region.project(whole.sample(200) * 2 - 0.5)):
        counts = region.count_changed(points)
        assert (counts <= nb_changed).all() and counts.max(axis=0).tolist() == [0, 1, nb_groups]
        steps = (points.astype("f8") - IMAGES).reshape(200, 3, -1)
        assert (np.linalg.norm(steps, norm, axis=2) <= 0.25 + 1e-6).all()
        assert (points >= region.lower).all() and (points <= region.upper).all()
        np.testing.assert_array_equal(region.project(points), points)
        assert (points != IMAGES)[..., region.groups[0] == -1].all()
    drawn = (region.sample(200) != IMAGES).any(axis=0)
    assert drawn[1:].all() and (drawn[0] == (region.groups[0] == -1)).all()


def test_what_deviates_most_stays():
    box = Box([[-1.0] * 4], [[1.0] * 4]).at_most(1, [0, 0, 1, 2])
    points = np.array([[[0.3, -0.3, 0.5, 0.1]], [[0.1, 0.1, -0.5, 0.4]], [[0, 0, 0, 3.0]]])
    expected = [[[0.3, -0.3, 0, 0]], [[0, 0, -0.5, 0]], [[0, 0, 0, 1]]]
    np.testing.assert_array_equal(box.project(points), expected)
    assert box.count_changed(points).tolist() == [[3], [3], [1]]
    assert Box([[-1.0]], [[1.0]]).count_changed(np.ones((5, 1, 1))).tolist() == [[0]] * 5


def test_free_groups_always_move():
    free = np.zeros((3, 6), bool)
    free[0, [0, 5]] = free[1, :] = True
    region = Ball(IMAGES, 0.2).at_most(1, PIXELS, free)
    assert (region.groups[0, ..., 0] == [[-1, 1, 2], [3, 4, -1]]).all()
    assert (region.groups[1] == -1).all() and (region.groups[2] == PIXELS).all()
    points = region.sample(50)
    assert (points[:, 1] != 0.5).all() and (region.count_changed(points) <= 1).all()
    assert (points[:, 0, 0, 0] != 0.5).all()


def test_parts_of_regions_in_which_few_features_change():
    whole = Ball(IMAGES, 0.2, 2, clip=(0.4, 1))
    region = whole.at_most(np.array([1, 2, 3]), PIXELS)
    for part in (region.positive(), region.negative(), region.fix(PIXELS == 2), region[:]):
        assert part.nb_changed.tolist() == [1, 2, 3] and (part.groups == PIXELS).all()
        assert (region.count_changed(part.sample(20)) <= [1, 2, 3]).all()
    some = region[np.array([2, 0])]
    assert some.nb_changed.tolist() == [3, 1] and some.groups.shape == (2, 2, 3, 2)
    other = region.resized([0.1, 0.2, 0.3])
    assert other.nb_changed.tolist() == [1, 2, 3] and isinstance(other, Ball)
    assert "at most 1 to 3 groups of features changed" in str(region) and "1 to 3" in repr(region)
    assert "changed" not in str(whole) + repr(whole)
    assert region.to_dict()["nb_changed"] == [1, 2, 3] and "groups" not in whole.to_dict()
    assert whole.nb_changed is None and whole.groups is None
    # where none may change, the others are held
    held = whole.at_most(np.array([0, 1, 0]), np.where(PIXELS == 1, -1, PIXELS))
    assert ((held.upper > held.lower)[0] == (PIXELS == 1)).all() and held.clip == (0.4, 1)
    assert (held.upper[1] == whole.upper[1]).all()
    wide = held.resized(np.full(3, 0.3))
    assert ((wide.upper > wide.center)[2] == (PIXELS == 1)).all() and (wide.upper[1] > 0.7).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nb_changed": 1.5}, r"nb_changed must be an integer, or 3 of them.*Received: float64"),
        ({"nb_changed": [1, 2]}, r"or 3 of them, one per sample. Received: int64 of shape \(2,\)"),
        ({"nb_changed": True}, "nb_changed must be an integer.*Received: bool"),
        ({"nb_changed": [1, 2, -1]}, "nb_changed must be at least 0. Received: -1"),
        ({"groups": np.zeros((2, 3), int)}, r"groups must be .*\(2, 3, 2\).*Received: int64 of sh"),
        ({"groups": PIXELS * 1.0}, "groups must be integers.*Received: float64"),
        ({"groups": PIXELS * 3}, r"below the number of features, 12: np.unique.*: 0 to 15"),
        ({"groups": PIXELS - 2}, "from 0 on, -1 for what may always change.*Received: -2 to 3"),
        ({"free": np.ones((3, 12))}, r"free must be boolean .*\(3, 12\). Received: float64"),
        ({"free": np.ones((3, 5), bool), "groups": PIXELS}, r"\(3, 6\). Received: bool .*\(3, 5\)"),
    ],
)
def test_refusals_of_at_most(settings, message):
    with pytest.raises(ValueError, match=message):
        Ball(IMAGES, 0.1).at_most(**{"nb_changed": 1} | settings)
    with pytest.raises(ValueError, match="at_most holds for this region already"):
        Ball(IMAGES, 0.1).at_most(1).at_most(2)
