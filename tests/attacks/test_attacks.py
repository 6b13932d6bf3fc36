"""Attacks against closed forms of linear models and naive loops."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from xcertify.attacks import PGD, MinimalPerturbation, minimal_perturbation, pgd
from xcertify.attacks.roundings import allowance, unit_roundoff
from xcertify.bounds import Verifier
from xcertify.logits import logits_of
from xcertify.regions import Ball, Box

NORMS = [np.inf, 2, 1]


def make_linear(weights):
    weights = tf.constant(weights, tf.float32)
    return lambda x: tf.reshape(x, [tf.shape(x)[0], weights.shape[0]]) @ weights


@pytest.fixture
def net():
    layers = [keras.Input((5, 4, 1)), keras.layers.Conv2D(3, 2, activation="relu")]
    layers += [keras.layers.Flatten(), keras.layers.Dense(8, activation="tanh")]
    model = keras.Sequential([*layers, keras.layers.Dense(4)])
    generator = np.random.default_rng(1)
    model.set_weights([generator.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture
def images():
    return np.random.default_rng(0).random((6, 5, 4, 1)).astype(np.float32)


def dual_norm(weights, norm):
    """Largest <weights, step> over a unit ball."""
    if norm == 2:
        return np.sqrt((weights**2).sum(axis=-1))
    return np.abs(weights).sum(axis=-1) if norm == np.inf else np.abs(weights).max(axis=-1)


@pytest.mark.parametrize("norm", NORMS)
def test_linear_margins_reach_the_closed_form(norm):
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(12, 2))
    x = generator.random((3, 4, 3)).astype(np.float32)
    labels = np.array([0, 1, 0])
    signs = np.where(labels == 0, 1, -1)[:, None]
    slope = signs * (weights[:, 1] - weights[:, 0])
    clean = (x.reshape(3, -1) * slope).sum(axis=1)
    model = make_linear(weights)
    epsilon = np.array([0.1, 0.5, 0.0])
    attack = PGD(model, steps=200)
    found = attack(Ball(x, epsilon.reshape(3, 1, 1), norm), labels)
    expected = clean + epsilon * dual_norm(slope, norm)
    np.testing.assert_allclose(found.values, expected, atol=2e-3)
    assert np.all(found.values <= expected + 1e-5)
    np.testing.assert_array_equal(found.points[2], x[2])

    # held features do not waste a part of the step, and a stretched ball is attacked as such
    mask = generator.random((4, 3)) < 0.5
    stretch = generator.uniform(0.2, 2, (1, 4, 3))
    found = attack(Ball(x, stretch, norm), labels, mask)
    free = slope * np.where(mask, 0, stretch).reshape(-1)
    np.testing.assert_allclose(found.values, clean + dual_norm(free, norm), atol=5e-3)
    np.testing.assert_array_equal(found.points[:, mask], x[:, mask])


def test_half_and_clipped_boxes_reach_the_closed_form():
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(9, 2))
    x = generator.random((4, 9)).astype(np.float32)
    slope = weights[:, 1] - weights[:, 0]
    ball = Ball(x, 0.4, clip=(0, 1))
    labels = np.zeros(4, int)
    attack = PGD(make_linear(weights), steps=20)
    for region in (ball, ball.positive(), ball.negative(), Box(ball.lower, ball.upper, x)):
        best = np.where(slope > 0, region.upper, region.lower) @ slope
        found = attack(region, labels)
        np.testing.assert_allclose(found.values, best, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_points_stay_in_the_region(net, images, norm):
    epsilon = np.random.default_rng(2).uniform(0, 0.8, (5, 4, 1))
    attack = PGD(net, restarts=3, steps=15)
    for region in [
        Ball(images, epsilon[None], norm, clip=(0, 1)).positive(),
        Ball(images, 0.7, norm, clip=(0, 1)).fix(epsilon > 0.5),
        Ball(images.astype(np.float64), 0.3, norm),
    ]:
        result = attack(region)
        assert np.all(result.points >= region.lower)
        assert np.all(result.points <= region.upper)
        step = (result.points - region.center).astype(np.float64)
        radius = np.broadcast_to(region.epsilon, step.shape)
        scaled = step[radius > 0] / radius[radius > 0]
        lengths = np.linalg.norm(
            np.where(radius > 0, step / np.where(radius > 0, radius, 1), 0).reshape(6, -1),
            norm,
            axis=1,
        )
        assert np.all(lengths <= 1 + (norm == np.inf) * 1e-6)  # whose sides are rounded outward
        assert scaled.any()
        assert not step[radius == 0].any()


@pytest.mark.parametrize("norm", [1, 2])
def test_points_are_in_small_balls_after_rounding(norm):
    """A float32 number near 100 is off by up to 4e-6: of the radius, a large share."""
    x = np.random.default_rng(5).uniform(-100, 100, (4, 300)).astype(np.float32)
    weights = np.random.default_rng(6).normal(size=(300, 2))
    attack = PGD(make_linear(weights), steps=5)
    for epsilon in (1e-4, 0.01, 1.0):
        ball = Ball(x, epsilon, norm)
        points = np.stack([attack(ball).points, *ball.sample(5)])
        far = np.linalg.norm(points.astype(np.float64) - x, norm, axis=-1)
        # what is rounded towards the center is at most 2**-17 in each of the 300 features
        assert np.all(far <= epsilon) and far.max() > 0.5 * epsilon - 300 * 2.0**-17
        again = ball.project(points)
        assert np.all(np.linalg.norm(again.astype(np.float64) - x, norm, axis=-1) <= epsilon)


@pytest.mark.usefixtures("eager")
def test_values_are_the_margins_of_the_points(net, images):
    labels = np.array([0, 1, 2, 3, 0, 1])
    result = pgd(net, Ball(images, 0.2), labels, restarts=2)
    outputs = net(result.points).numpy()
    for sample, label in enumerate(labels):
        others = np.delete(outputs[sample], label)
        expected = others.max() - outputs[sample, label]
        assert result.values[sample] == pytest.approx(expected, abs=1e-5)
    reached = pgd(net, Ball(images, 0.2), labels, targeted=True)
    outputs = net(reached.points).numpy()
    for sample, label in enumerate(labels):
        others = np.delete(outputs[sample], label)
        expected = outputs[sample, label] - others.max()
        assert reached.values[sample] == pytest.approx(expected, abs=1e-5)
    clean = pgd(net, Ball(images, 0.2), labels, targeted=True, steps=0)
    assert np.all(reached.values > clean.values)


def naive_pgd(model, x, label, epsilon, steps, step_size):
    """One sample, l_inf, the step sizes written out."""
    point, best = tf.constant(x[None]), -np.inf
    for step in range(steps + 1):
        with tf.GradientTape() as tape:
            tape.watch(point)
            outputs = model(point)[0]
            others = tf.stack([outputs[k] for k in range(4) if k != label])
            margin = tf.reduce_max(others) - outputs[label]
        best = max(best, float(margin))
        length = step_size * (1 - step / steps) * epsilon
        point = point + length * tf.sign(tape.gradient(margin, point))
        point = tf.clip_by_value(point, x - epsilon, x + epsilon)
    return best


def test_agrees_with_a_naive_loop(net, images):
    labels = np.argmax(net(images), axis=1)
    result = pgd(net, Ball(images, 0.3), steps=7, step_size=0.6)
    for sample, label in enumerate(labels):
        expected = naive_pgd(net, images[sample], label, 0.3, 7, 0.6)
        assert result.values[sample] == pytest.approx(expected, abs=1e-4)


def test_batches_do_not_matter_results_repeat_and_nothing_is_traced_twice(net, images):
    region = Ball(images, 0.3, 2, clip=(0, 1))
    calls = []

    def traced(x):
        calls.append(x.shape)
        return net(x)

    together = PGD(net, restarts=4, steps=10)
    whole = together(region)
    for batch_size in (1, 9):
        attack = PGD(traced, restarts=4, steps=10, batch_size=batch_size)
        calls.clear()
        for _ in range(2):
            result = attack(region)
            np.testing.assert_allclose(result.values, whole.values, atol=1e-5)
            np.testing.assert_allclose(result.points, whole.points, atol=1e-3)
        # the ascent, and whether the class has changed; all else are predictions of the inputs
        assert [shape[0] for shape in calls].count(None) == 2
    alone = together(region[2:3])
    np.testing.assert_allclose(alone.values, whole.values[2:3], atol=1e-5)


@pytest.mark.usefixtures("eager")
def test_more_restarts_are_never_worse_and_leave_a_local_top():
    waves = lambda points, samples: tf.reduce_sum(tf.cos(6 * points) + points**2, axis=1)  # noqa: E731
    region = Ball(np.zeros((3, 2)), 1.0)
    values = [pgd(None, region, objective=waves, restarts=n).values for n in (1, 4, 20)]
    np.testing.assert_allclose(values[0], 2)  # the nominal input is a top itself
    # kernels take batches of other sizes by other code, which rounds values of up to 3 otherwise
    assert np.all(np.diff(values, axis=0) >= -8 * 2.0**-23)
    np.testing.assert_allclose(values[2], 2 * (np.cos(6) + 1), rtol=1e-3)
    other = pgd(None, region, objective=waves, restarts=4, seed=1, steps=0).values
    assert not np.array_equal(other, pgd(None, region, objective=waves, restarts=4, steps=0).values)


def test_objective_of_points_and_samples():
    rows = tf.constant([[1.0, -1.0], [0.0, 2.0], [-3.0, 1.0]])
    x = np.zeros((3, 2), np.float32)

    def objective(points, samples):
        return tf.reduce_sum(points * tf.gather(rows, samples), axis=1)

    for batch_size in (1, 512):
        found = pgd(None, Ball(x, 1.0), objective=objective, batch_size=batch_size, restarts=2)
        np.testing.assert_allclose(found.values, [2, 2, 4], rtol=1e-5)
        np.testing.assert_allclose(found.points[0], [1, -1], rtol=1e-5)


def test_best_point_of_a_wave_is_kept():
    """The objective falls again behind its top: the last point is not the best one."""
    top = lambda points, samples: -tf.abs(points[:, 0] - 0.31)  # noqa: E731
    found = pgd(None, Ball(np.zeros((1, 1)), 1.0), objective=top, steps=4, step_size=0.3)
    assert found.values[0] == pytest.approx(-0.01, abs=1e-6)
    start = np.array([[0.31], [2.0]])
    again = PGD(objective=top, steps=0)(Ball(np.zeros((2, 1)), 1.0), starts=start)
    np.testing.assert_allclose(again.values, [0, -0.69], atol=1e-6)
    assert repr(again).startswith("<AttackResult: 2 samples, values from -0.69 to")


def test_stop_above_stops_when_all_samples_have_passed():
    count = tf.Variable(0, dtype=tf.int32)

    def objective(points, samples):
        count.assign_add(1)
        return points[:, 0]

    attack = PGD(objective=objective, steps=100, step_size=0.01)
    result = attack(Ball(np.zeros((3, 1)), 1.0), stop_above=0.1)
    assert np.all(result.values > 0.1)
    assert int(count) < 20


def test_a_single_logit_counts_as_two_classes():
    weights = np.array([[1.0], [-2.0]])
    x = np.array([[0.5, 0.0], [0.0, 0.5]], np.float32)  # logits .5 and -1: classes 1 and 0
    region = Ball(x, 0.1)
    np.testing.assert_allclose(pgd(make_linear(weights), region).values, [-0.2, -0.7], rtol=1e-5)
    swapped = pgd(make_linear(weights), region, [0, 1]).values
    np.testing.assert_allclose(swapped, [0.8, 1.3], rtol=1e-5)
    column = pgd(make_linear(weights), region, np.array([[1.0], [0.0]])).values
    np.testing.assert_allclose(column, [-0.2, -0.7], rtol=1e-5)


def make_headed(net, kind):
    """The same network with another head; its logits must stay those of `net`."""
    *body, last = net.layers
    dense = keras.layers.Dense(4, activation="softmax")
    layers = {
        "fused": [dense],
        "layer": [keras.layers.Dense(4), keras.layers.Softmax()],
        "activation": [keras.layers.Dense(4), keras.layers.Activation("softmax")],
        "nested": [keras.Sequential([dense])],
    }[kind]
    model = keras.Sequential([keras.Input((5, 4, 1)), *body, *layers])
    (model.layers[-1] if kind in ("fused", "nested") else layers[0]).set_weights(last.get_weights())
    return model


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", ["fused", "layer", "activation", "nested"])
def test_heads_are_left_out(net, images, kind):
    model = make_headed(net, kind)
    np.testing.assert_array_equal(logits_of(net)(images), net(images))  # without a head
    before = [w.copy() for w in model.get_weights()]
    np.testing.assert_allclose(logits_of(model)(images), net(images), rtol=1e-5)
    found = pgd(model, Ball(images, 0.1), restarts=2, steps=5).values
    np.testing.assert_allclose(
        found, pgd(net, Ball(images, 0.1), restarts=2, steps=5).values, rtol=1e-4
    )
    logits = logits_of(model)
    model.set_weights([0 * w for w in before])  # current weights count
    assert not np.any(logits(images))


def test_logits_of_a_head_without_a_body():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    x = np.ones((1, 3), np.float32)
    expected = x @ model.layers[0].kernel.numpy()
    np.testing.assert_allclose(logits_of(model)(x), expected, rtol=1e-5)
    np.testing.assert_array_equal(logits_of(lambda points: 2 * points)(x), 2 * x)


@pytest.mark.parametrize("norm", NORMS)
def test_smallest_perturbations_of_linear_models_have_a_closed_form(norm):
    """With weights that float32 holds, so that float64 gives the class in real arithmetic."""
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(12, 2)).astype(np.float32).astype(np.float64)
    x = generator.random((5, 4, 3)).astype(np.float32)
    classes = np.argmax(x.reshape(5, -1) @ weights, axis=1)
    slope = weights[:, 0] - weights[:, 1]
    gap = np.abs(x.reshape(5, -1) @ slope)
    everywhere = Box(x - 100, x + 100, x)
    attack = MinimalPerturbation(make_linear(weights), norm=norm)
    found = attack(everywhere)
    np.testing.assert_allclose(found.distances, gap / dual_norm(slope, norm), rtol=0.02)
    # no point nearer than the closed form is of another class; sums in float64 are off by 1e-12
    assert np.all(found.distances >= gap / dual_norm(slope, norm) * (1 - 1e-12))
    assert np.all(np.argmax(found.points.reshape(5, -1) @ weights, axis=1) != classes)

    mask = generator.random((5, 4, 3)) < 0.5
    found = attack(everywhere, mask=mask)
    free = np.where(mask.reshape(5, -1), 0, slope)
    np.testing.assert_allclose(found.distances, gap / dual_norm(free, norm), rtol=0.02)
    np.testing.assert_array_equal(found.points[mask], x[mask])
    # another class from the start, and nothing that may move
    assert not attack(everywhere, 1 - classes).distances.any()
    nothing = attack(everywhere, mask=np.ones((4, 3), bool))
    assert not nothing.found.any()
    assert np.all(np.isinf(nothing.distances))
    np.testing.assert_array_equal(nothing.points, x)
    assert repr(nothing) == "<MinimalResult: 0 of 5 found>"


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_smallest_perturbations_are_as_good_as_a_long_bisection_around_pgd(net, images, norm):
    valid = Box(0 * images, 0 * images + 1, images)
    mask = np.random.default_rng(3).random(images.shape) < 0.3
    found = minimal_perturbation(net, valid, norm=norm, mask=mask)
    assert found.found.any()
    assert np.all((found.points >= 0) & (found.points <= 1))
    changed = np.argmax(net(found.points), axis=1) != np.argmax(net(images), axis=1)
    np.testing.assert_array_equal(changed, found.found)
    steps = (found.points - images).reshape(6, -1).astype(np.float64)
    np.testing.assert_allclose(
        found.distances[changed], np.linalg.norm(steps, norm, axis=1)[changed], rtol=1e-6
    )
    attack = PGD(net, steps=40, restarts=4)
    low, high = np.zeros(6), np.full(6, 5.0)
    for _ in range(12):
        middle = (low + high) / 2
        region = Ball(images, middle, norm, clip=(0, 1))
        success = attack(region, mask=mask).values > 0
        low, high = np.where(success, low, middle), np.where(success, middle, high)
    assert np.all(found.distances[changed] <= 1.03 * high[changed])
    np.testing.assert_array_equal(changed, high < 5)


def test_smallest_perturbations_do_not_depend_on_the_batch(net, images):
    valid = Box(0 * images, 0 * images + 1, images)
    calls = []

    def traced(x):
        calls.append(x.shape)
        return net(x)

    together = MinimalPerturbation(net, restarts=5)
    whole = together(valid)
    for batch_size in (3, 7):
        attack = MinimalPerturbation(traced, restarts=5, batch_size=batch_size)
        calls.clear()
        for _ in range(2):
            found = attack(valid)
            # a last bit can turn a step of the search, of which the last is a hundredth
            np.testing.assert_allclose(found.distances, whole.distances, rtol=0.01)
        # in the search, around its best points and between them and the inputs; and their check
        assert [shape[0] for shape in calls].count(None) == 4
    labels = np.argmax(net(images), axis=1)
    alone = together(valid[4:5], labels[4:5])
    np.testing.assert_allclose(alone.distances, whole.distances[4:5], rtol=0.01)


def make_rounding(weights, scale):
    """Linear logits that are rounded as badly as a sum of as many terms may be, for the attack."""
    weights = tf.constant(weights, tf.float32)
    worst = scale * int(weights.shape[0]) * 2.0**-24

    def logits(x):
        flat = tf.reshape(x, [tf.shape(x)[0], weights.shape[0]])
        return flat @ weights + worst * tf.stop_gradient(abs(flat) @ abs(weights)) * [-1.0, 1.0]

    return logits


@pytest.mark.parametrize("scale", [1, -1])
@pytest.mark.parametrize("norm", NORMS)
def test_points_change_the_class_beyond_what_roundings_feign(norm, scale):
    """Whatever a kernel makes of sums: the class is another one in exact arithmetic, too."""
    generator = np.random.default_rng(4)
    weights = generator.normal(size=(40, 2)).astype(np.float32).astype(np.float64)
    x = generator.random((8, 40)).astype(np.float32)
    # the logits of the last two are equal but for what is rounded
    weights[-1] = 1, -1
    x[-2:, -1] = (x[-2:, :-1] @ (weights[:-1, 1] - weights[:-1, 0])) / 2
    labels = np.argmax(x @ weights, axis=1)
    labels[-2:] = 0, 1
    everywhere = Box(x - 100, x + 100, x)
    attack = MinimalPerturbation(make_rounding(weights, scale), norm=norm)
    found = attack(everywhere, labels)
    assert found.found.all()
    exact = found.points.astype(np.float64) @ weights
    assert np.all(exact[np.arange(8), 1 - labels] > exact[np.arange(8), labels])
    far = np.linalg.norm(found.points.astype(np.float64) - x, norm, axis=1)
    np.testing.assert_allclose(found.distances, far, rtol=1e-12)
    slope = weights[:, 0] - weights[:, 1]
    gap = np.maximum(np.where(labels == 0, 1, -1) * (x @ slope), 0)
    # at most what the allowance, (64 + 8 sqrt(40)) 2**-24 of all sizes, costs
    sizes = 2 * (abs(found.points) @ abs(slope) + abs(exact).max(axis=1))
    allowed = gap + (64 + 8 * np.sqrt(40)) * 2.0**-24 * sizes
    assert np.all(found.distances <= 1.02 * allowed / dual_norm(slope, norm) + 1e-6)


def test_a_margin_that_roundings_may_have_made_is_no_change_of_class():
    weights = np.array([[1.0, -1.0], [-1.0, 1.0]])
    x = np.array([[1, 1], [1, 1.5], [1, 0.5]], np.float32)
    x[0, 1] += 2.0**-22  # a margin of 2**-21 for class 1 is less than the allowance
    found = pgd(make_linear(weights), Ball(x, 0.0), np.zeros(3, int))
    np.testing.assert_allclose(found.values, [2.0**-21, 1, -1])
    np.testing.assert_array_equal(found.changed, [False, True, False])
    reached = pgd(make_linear(weights), Ball(x, 0.0), np.ones(3, int), targeted=True)
    np.testing.assert_array_equal(reached.changed, [False, True, False])
    assert pgd(None, Ball(x, 0.1), objective=lambda p, s: p[:, 0]).changed is None


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("readable", [True, False])
def test_points_of_networks_are_of_another_class_in_float64(net, images, readable):
    model = net
    if not readable:  # no graph to read: what float32 may round decides alone

        class Wrapped(keras.Model):
            def call(self, inputs):
                return net(inputs)

        model = Wrapped()
    exact = Verifier(net, "ibp", dtype="float64")
    images = np.clip(images, np.float32(0.1), np.float32(0.9))
    region = Ball(images, 1.0, clip=(0.1, 0.9))
    classes = exact.evaluate(images).argmax(axis=1)
    found = minimal_perturbation(model, region)
    assert found.found.any()
    changed = exact.evaluate(found.points).argmax(axis=1) != classes
    np.testing.assert_array_equal(changed, found.found)
    assert np.all((found.points >= region.lower) & (found.points <= region.upper))
    best = pgd(model, region, steps=20)
    np.testing.assert_array_equal(
        best.changed, exact.evaluate(best.points).argmax(axis=1) != classes
    )


@pytest.mark.usefixtures("eager")
def test_what_is_exact_decides_and_points_are_moved_on_until_it_agrees():
    """In real arithmetic, so it is said, class 1 begins a little later than the model says."""
    weights, x = np.array([[1.0, -1.0]]), np.array([[0.5], [0.25]], np.float32)
    asked = []

    def exact(points, rows):
        asked.append(points)
        logits = points.astype(np.float64) @ weights - [[0, 2e-4]]
        return (np.einsum("nsk,nk->ns", rows, logits),) * 2

    everywhere = Box(x - 10, x + 10, x)
    found = MinimalPerturbation(make_linear(weights), norm=np.inf, exact=exact)(everywhere)
    assert len(asked) > 1 and np.all(found.points < -1e-4)
    np.testing.assert_allclose(found.distances, [0.5001, 0.2501], rtol=2e-3)
    np.testing.assert_array_equal(found.distances, np.abs(found.points.astype("f8") - x)[:, 0])
    never = lambda points, rows: (np.full(rows.shape[:2], -1.0),) * 2  # noqa: E731
    found = MinimalPerturbation(make_linear(weights), norm=np.inf, exact=never)(everywhere)
    assert not found.found.any()
    np.testing.assert_array_equal(found.points, x)


def test_the_allowance_is_that_of_the_coarsest_type():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, dtype="mixed_float16")])
    model.add(keras.layers.Dense(2))
    logits = tf.zeros((1, 2))
    assert unit_roundoff(model, logits) == 2.0**-11
    assert unit_roundoff(lambda x: x, tf.cast(logits, tf.bfloat16)) == 2.0**-8
    assert unit_roundoff(lambda x: x, tf.cast(logits, tf.float64)) == 2.0**-24
    points = tf.constant([[3.0, -4.0]])
    slack = allowance(tf.constant([[2.0, -5.0]]), tf.constant([[1.0, 2.0]]), points, 2.0**-24)
    expected = (64 + 8 * np.sqrt(2)) * 2.0**-24 * (5 + 3 + 8)
    np.testing.assert_allclose(slack, [expected], rtol=1e-6)


def test_bad_calls_of_the_smallest_perturbation(net, images):
    for settings, message in [
        ({"norm": 3}, "norm"),
        ({"steps": 0}, "steps"),
        ({"restarts": 0.5}, "restarts"),
        ({"model": 3}, "model"),
    ]:
        with pytest.raises(ValueError, match=message):
            MinimalPerturbation(**{"model": net, **settings})
    for region in (images, Ball(images, 1.0, norm=2)):
        with pytest.raises(ValueError, match="Box"):
            minimal_perturbation(net, region)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": None}, "model=None"),
        ({"steps": -1}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"restarts": 0}, "restarts"),
        ({"batch_size": 0}, "batch_size"),
        ({"step_size": 0.0}, "step_size"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        PGD(**{"model": make_linear(np.eye(2)), **settings})


def test_bad_calls():
    x = np.zeros((2, 2), np.float32)
    region, linear = Ball(x, 1.0), make_linear(np.eye(2))
    with pytest.raises(ValueError, match="Received: ndarray"):
        pgd(linear, x)
    with pytest.raises(ValueError, match="classes to reach"):
        pgd(linear, region, targeted=True)
    with pytest.raises(ValueError, match="one class per sample.*sample 0"):
        pgd(linear, region, np.array([[1.0, -1.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match=r"0 to 1\. Received: 2 for sample 1"):
        pgd(linear, region, [0, 2])
    with pytest.raises(ValueError, match="boolean"):
        pgd(linear, region, mask=np.zeros(2))
    with pytest.raises(ValueError, match="no gradient"):
        pgd(None, region, objective=lambda points, samples: tf.cast(samples, tf.float32))
    nan = lambda points, samples: tf.where(samples == 1, np.nan, points[:, 0])  # noqa: E731
    with pytest.raises(ValueError, match="sample 1"):
        pgd(None, region, objective=nan)


def test_rounded_constants_of_deep_networks_do_not_hide_what_is_found():
    """A value of GELU is an interval, which intervals alone widen beyond the margins."""
    layers = keras.layers
    hidden = [
        layers.Dense(32, "gelu", kernel_initializer=keras.initializers.HeNormal(seed=number))
        for number in range(10)
    ]
    last = layers.Dense(3, kernel_initializer=keras.initializers.HeNormal(seed=99))
    model = keras.Sequential([keras.Input((6,)), layers.Rescaling(1 / 255), *hidden, last])
    inputs = np.random.default_rng(0).uniform(0, 255, (5, 6)).astype(np.float32)
    lower, upper = Verifier(model, "ibp", dtype="float64").bound_outputs(
        Ball(inputs.astype(np.float64), 0.0)
    )
    assert np.max(upper - lower) > 0.01  # the margins of nearest points are smaller

    found = MinimalPerturbation(model, restarts=2)(Box(0 * inputs, 0 * inputs + 255, inputs))
    assert np.all(np.isfinite(found.distances))
    before, after = (
        np.argmax(model.predict(points, verbose=0), axis=1) for points in (inputs, found.points)
    )
    assert np.all(before != after)
