"""The attack stage of `decide`: what it finds, and that nothing else counts as a counterexample."""

from __future__ import annotations

import time
from fractions import Fraction

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from networks import randomize, sequential

from xcertify.bounds import Verifier
from xcertify.bounds.branching.attack import attack
from xcertify.bounds.branching.confirmation import confirm, contains, inner_box, move_inside
from xcertify.bounds.rules import kernels
from xcertify.regions import Ball, Box
from xcertify.targets import margin_rows, stays_in_class


def engine_of(model, **settings):
    return Verifier(model, strip_head=True, **settings)._engine


def identity(size, dtype="float32"):
    layer = L.Dense(size, use_bias=False, dtype=dtype)
    model = keras.Sequential([keras.Input((size,), dtype=dtype), layer])
    layer.set_weights([np.eye(size)])
    return model


def property_of(*conjunctions):
    """rows (1, P, J, K) and limits (1, P, J) of conjunctions that are lists of (row, limit)."""
    rows = np.array([[[row for row, _ in some] for some in conjunctions]], np.float64)
    limits = np.array([[[limit for _, limit in some] for some in conjunctions]], np.float64)
    return rows, limits


def all_of(rows, limits, count):
    return np.repeat(rows, count, axis=0), np.repeat(limits, count, axis=0)


def assert_counterexamples(model, region, rows, limits, found, constants=()):
    """Points inside, where the model itself violates the property; exact arithmetic for points."""
    assert found.violated.any()
    for sample in np.flatnonzero(found.violated):
        assert is_inside(region[sample : sample + 1], found.points[sample])
        inputs = [array[sample : sample + 1] for array in (found.points, *constants)]
        outputs = np.asarray(model(inputs if constants else inputs[0])).reshape(-1)
        values = rows[sample] @ outputs.astype(np.float64) - limits[sample]
        assert values.max(axis=1).min() <= 0
        assert found.values[sample] <= 0


def is_inside(region, point):
    """By fractions: in the box, and in the ball as it is stated."""
    sides = zip(point.ravel(), region.lower.ravel(), region.upper.ravel(), region.center.ravel())
    points, lower, upper, center = ([Fraction(float(one)) for one in some] for some in zip(*sides))
    if not all(low <= one <= high for low, one, high in zip(lower, points, upper)):
        return False
    if region.epsilon is None:
        return True
    radius = np.broadcast_to(np.asarray(region.epsilon, np.float64), region.center.shape).ravel()
    steps = [abs(one - middle) for one, middle in zip(points, center)]
    radius = [Fraction(float(one)) for one in radius]
    if any(step > 0 and not one for step, one in zip(steps, radius)):
        return False
    shares = [step / one for step, one in zip(steps, radius) if one]
    if region.norm == np.inf:
        return max(shares, default=0) <= 1
    return sum(share ** int(region.norm) for share in shares) <= 1


@pytest.mark.parametrize("norm", [1, 2, np.inf])
@pytest.mark.parametrize("kind", ["float32", "float64", "stretched", "clipped", "far"])
def test_points_are_moved_inside_exactly(norm, kind):
    generator = np.random.default_rng(3)
    center = generator.random((40, 7)).astype("float64" if kind == "float64" else "float32")
    center = center + 1e4 if kind == "far" else center
    epsilon = 0.1 if kind != "stretched" else generator.random((40, 7)) * (np.arange(7) % 3 > 0)
    region = Ball(center, epsilon, norm, clip=(0, 1) if kind == "clipped" else None)
    points = region.center + generator.choice([-1, 1], center.shape) * generator.random((40, 1))
    for dtype in ("float32", "float64"):
        moved = move_inside(region, points, dtype)
        inside = contains(region, moved)
        assert moved.dtype == dtype
        assert [is_inside(region[i : i + 1], moved[i]) for i in range(40)] == inside.tolist()
        assert inside.all()
        as_they_are = contains(region, points.astype(dtype))
        for i in np.flatnonzero(as_they_are):
            assert is_inside(region[i : i + 1], points[i].astype(dtype))


def test_boxes_in_float64_are_rounded_inward():
    lower, upper = np.array([[0.1, 0.3, 0.25]]), np.array([[0.7, 0.9, 0.25]])
    low, high = inner_box(Box(lower, upper), "float32")
    assert (low.astype(np.float64) >= lower).all() and (high.astype(np.float64) <= upper).all()
    assert (np.nextafter(low, np.float32(-1)).astype(np.float64) < lower).all()
    assert (np.nextafter(high, np.float32(2)).astype(np.float64) > upper).all()


def test_where_the_model_can_be_given_nothing_inside_there_is_no_counterexample():
    region = Box(np.array([[0.1], [0.1]]), np.array([[0.1 + 1e-12], [0.2]]))
    always = all_of(*property_of([([1.0], 5.0)]), 2)
    found = attack(engine_of(identity(1)), region, *always, restarts=1)
    assert found.violated.tolist() == [False, True]
    assert found.values[0] == np.inf
    in_float64 = engine_of(identity(1, "float64"), dtype="float64")
    assert attack(in_float64, region, *always, restarts=1).violated.all()


@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_finds_what_is_known_to_be_violated(norm):
    model = sequential((6,), L.Dense(30, "relu"), L.Dense(20, "tanh"), L.Dense(4))
    inputs = np.random.default_rng(0).normal(size=(12, 6)).astype("float32")
    classes = np.asarray(model(inputs)).argmax(axis=1)
    region = Ball(inputs, {1: 6.0, 2: 4.0, np.inf: 2.0}[norm], norm)
    rows = np.asarray(margin_rows(classes, 4))[:, :, None]
    rows, limits = -rows, np.zeros(rows.shape[:3])
    found = attack(engine_of(model), region, rows, limits)
    assert found.violated.mean() > 0.8
    assert_counterexamples(model, region, rows, limits, found)


def test_conjunctions_and_unions():
    model, region = identity(2), Box(np.float32([[0, 0]]), np.float32([[1, 1]]))
    engine = engine_of(model)

    def band(output, low, high):
        row = np.eye(2)[output]
        return [(row, high), (-row, -low)]

    narrow = property_of(band(0, 0.4, 0.401) + band(1, 0.7, 0.701))
    found = attack(engine, region, *narrow)
    assert_counterexamples(model, region, *narrow, found)
    empty = band(0, 0.6, 0.4) + band(1, 0.7, 0.8)  # which nothing is in
    found = attack(engine, region, *property_of(empty))
    assert not found.violated[0]
    np.testing.assert_allclose(found.values, 0.1, rtol=1e-3)
    union = property_of(empty, band(0, 2.0, 3.0) + band(1, 0.0, 1.0), band(0, 0.2, 0.3) * 2)
    assert_counterexamples(model, region, *union, attack(engine, region, *union))


def test_limits_that_are_infinite():
    region = Box(np.float32([[0.0]]), np.float32([[1.0]]))
    engine = engine_of(identity(1))
    never = property_of([([1.0], 0.5), ([1.0], -np.inf)])
    found = attack(engine, region, *never)
    assert not found.violated[0] and found.values[0] == np.inf
    no_condition = property_of([([1.0], 0.5), ([1.0], np.inf)], [([1.0], -np.inf)] * 2)
    assert attack(engine, region, *no_condition).violated[0]


def test_roundings_are_on_the_other_side():
    """Outputs that only roundings bring to the limit violate nothing."""
    model = keras.Sequential([keras.Input((2,)), L.Dense(1, use_bias=False)])
    model.layers[0].set_weights([np.float32([[1.0], [1e-9]])])
    region = Box(np.float32([[1, 1]]), np.float32([[1, 1]]))  # 1 + 1e-9, in float32 1
    engine = engine_of(model)
    assert np.asarray(model(region.center))[0, 0] == 1
    at_most = property_of([([1.0], 1.0)])
    assert not attack(engine, region, *at_most, restarts=1).violated[0]
    at_least = property_of([([-1.0], -1.0 - 5e-10)])  # so in real arithmetic, not in float32
    found = attack(engine, region, *at_least, restarts=1)
    assert found.values[0] < 0 and not found.violated[0]
    assert attack(engine, region, *property_of([([-1.0], -1.0)]), restarts=1).violated[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_are_upper_bounds_in_fractions(dtype):
    """At limits that are the outputs themselves, as float64 computes them: only roundings count."""
    layers = [L.Dense(6, "relu", dtype=dtype), L.Dense(1, dtype=dtype)]
    model = keras.Sequential([keras.Input((3,), dtype=dtype), *layers])
    generator = np.random.default_rng(5)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    points = generator.random((30, 3)).astype(dtype)

    def outputs_of(point):
        values = [Fraction(float(one)) for one in point]
        for layer in layers:
            kernel, bias = (np.asarray(w).astype(float) for w in layer.get_weights())
            values = [
                sum(Fraction(w) * v for w, v in zip(column, values)) + Fraction(b)
                for column, b in zip(kernel.T, bias)
            ]
            if layer is layers[0]:
                values = [max(value, Fraction(0)) for value in values]
        return values[0]

    exact = [outputs_of(point) for point in points]
    limits = np.array([float(value) for value in exact])
    limits += generator.integers(-4, 5, 30) * 1e-16
    rows = np.ones((30, 1, 1, 1))
    region, given = Box(points, points), limits.reshape(30, 1, 1)
    _, values, violated = confirm(engine_of(model), region, points, rows, given)
    for value, limit, bound, is_violated in zip(exact, limits, values, violated):
        assert value - Fraction(float(limit)) <= Fraction(float(bound))
        assert not is_violated or value <= Fraction(float(limit))
    _, values, violated = confirm(engine_of(model), region, points, rows, given + 1e-5)
    assert violated.all() and (values > -1.1e-5).all()


def test_nan_is_never_a_counterexample():
    inputs = keras.Input((1,))
    large = L.Dense(2, use_bias=False, name="large")(L.Dense(1, use_bias=False)(inputs))
    model = keras.Model(inputs, L.Dense(1, name="difference")(large))
    first, second, third = (layer for layer in model.layers if layer.weights)
    first.set_weights([np.float32([[1e30]])])
    second.set_weights([np.float32([[1e30, 1e30]])])
    third.set_weights([np.float32([[1.0], [-1.0]]), np.float32([-1.0])])
    region = Box(np.float32([[0.5]]), np.float32([[1.0]]))
    assert np.isnan(np.asarray(model(region.center))).all()
    rows, limits = property_of([([1.0], 0.0)])
    found = attack(engine_of(model), region, rows, limits, restarts=2)
    assert not found.violated.any()
    _, values, violated = confirm(engine_of(model), region, region.center, rows, limits)
    assert not violated.any() and not np.isnan(values).any()


def test_weights_that_change_are_seen():
    model = identity(1)
    engine, region = engine_of(model, compile=True), Box(np.float32([[1]]), np.float32([[2]]))
    negative = property_of([([1.0], -0.5)])
    assert not attack(engine, region, *negative).violated[0]
    model.set_weights([-model.get_weights()[0]])
    found = attack(engine, region, *negative)
    assert_counterexamples(model, region, *negative, found)
    model.set_weights([-model.get_weights()[0]])
    assert not attack(engine, region, *negative).violated[0]


def test_the_seed_repeats_and_the_deadline_stops():
    model = sequential((30,), L.Dense(40, "relu"), L.Dense(3))
    region = Ball(np.random.default_rng(0).random((3, 30)).astype("float32"), 0.05)
    rows, limits = all_of(*property_of([([1.0, -1.0, 0.0], -100.0)]), 3)  # never
    engine = engine_of(model)
    first, again, other = (
        attack(engine, region, rows, limits, restarts=6, seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.points, again.points)
    assert (first.points != other.points).any()
    assert contains(region, first.points).all()
    late = attack(engine, region, rows, limits, deadline=time.monotonic() - 1)
    np.testing.assert_array_equal(late.points, region.center)
    outputs = np.asarray(model(region.center)).astype(np.float64)
    np.testing.assert_allclose(late.values, outputs[:, 0] - outputs[:, 1] + 100, rtol=1e-5)
    assert (first.values < late.values).all()


def test_regions_with_and_without_counterexamples_side_by_side():
    model, engine = identity(2), engine_of(identity(2))
    centers = np.float32([[0.1, 0.5], [0.5, 0.5], [0.9, 0.5]] * 5)
    region = Ball(centers, 0.2)
    rows, limits = all_of(*property_of([([1.0, 0.0], 0.0)]), 15)
    found = attack(engine, region, rows, limits)
    assert found.violated.tolist() == [True, False, False] * 5
    assert_counterexamples(model, region, rows, limits, found)
    np.testing.assert_allclose(found.values[1:3], [0.3, 0.7], rtol=1e-5)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_heads_that_are_left_out(head):
    size = 3 if head == "softmax" else 1
    model = sequential((5,), L.Dense(20, "relu"), L.Dense(size, head))
    inputs = np.random.default_rng(1).normal(size=(8, 5)).astype("float32")
    logits = engine_of(model).evaluate([inputs])
    classes = logits.argmax(axis=1) if size > 1 else (logits[:, 0] > 0).astype(int)
    rows = -np.asarray(margin_rows(classes, size))[:, :, None]
    region = Ball(inputs, 4.0)
    found = attack(engine_of(model), region, rows, np.zeros(rows.shape[:3]))
    assert found.violated.any()
    outputs = np.asarray(model(found.points[found.violated]))
    others = outputs.argmax(axis=1) if size > 1 else (outputs[:, 0] > 0.5).astype(int)
    assert (others != classes[found.violated]).all()


def test_other_inputs_and_layers_to_start_from():
    first, second = keras.Input((3,)), keras.Input((2,), name="beside")
    joined = L.Concatenate()([second, first])
    model = randomize(keras.Model([second, first], L.Dense(2)(L.Dense(9, "relu")(joined))), 2)
    verifier = Verifier(model, perturbed=1)
    region = Ball(np.zeros((4, 3), np.float32), 1.0)
    beside = np.float32([[0, 0], [1, 0], [0, 1], [1, 1]])
    outputs = np.asarray(model([beside, region.center])).astype(np.float64)
    rows, _ = all_of(*property_of([([1.0, 0.0], 0.0)]), 4)
    limits = outputs[:, :1, None] - 0.1
    found = attack(verifier._engine, region, rows, limits, [beside])
    assert found.violated.all()
    own = np.asarray(model([beside, found.points]))
    assert (own[:, 0] <= limits[:, 0, 0]).all()

    model = sequential((3,), L.Dense(6, "relu", name="latent"), L.Dense(2))
    verifier = Verifier(model, start_layer="latent")
    region = Ball(np.ones((1, 6), np.float32), 0.5)
    values = np.asarray(model.layers[-1](region.center)).astype(np.float64)
    rows, limits = property_of([([1.0, 0.0], values[0, 0] - 0.1)])
    found = attack(verifier._engine, region, rows, limits)
    assert_counterexamples(model.layers[-1], region, rows, limits, found)


def test_images_with_constant_parts():
    model = sequential((8, 8, 1), L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(3))
    images = np.random.default_rng(0).random((2, 8, 8, 1)).astype("float32")
    held = np.zeros((8, 8, 1), bool)
    held[:4] = True
    region = Ball(images, 0.3, clip=(0, 1)).fix(held)
    outputs = np.asarray(ops.convert_to_numpy(model(images))).astype(np.float64)
    rows, _ = all_of(*property_of([([1.0, 0.0, -1.0], 0.0)]), 2)
    limits = (outputs[:, 0] - outputs[:, 2] - 0.05).reshape(2, 1, 1)
    found = attack(engine_of(model), region, rows, limits)
    assert_counterexamples(model, region, rows, limits, found)
    np.testing.assert_array_equal(found.points[:, held], images[:, held])


def test_little_memory_gives_the_same_kind_of_answer():
    model = sequential((6,), L.Dense(30, "relu"), L.Dense(3))
    region = Ball(np.random.default_rng(0).random((5, 6)).astype("float32"), 1.0)
    outputs = np.asarray(model(region.center)).astype(np.float64)
    rows, _ = all_of(*property_of([([1.0, 0.0, 0.0], 0.0)], [([0.0, 1.0, 0.0], 0.0)]), 5)
    limits = outputs[:, :2, None] - 0.1
    found = attack(engine_of(model, memory_budget=20_000), region, rows, limits, restarts=3)
    assert found.violated.all()
    assert_counterexamples(model, region, rows, limits, found)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("rank", "size"), [(1, 60), (2, 60), (2, 7)])
def test_windows_of_one_place_with_strides(rank, size, padding):
    """TensorFlow's own gradient of such a convolution, without a graph, ends the process."""
    generator = np.random.default_rng(0)
    inputs = generator.random((2, *[size] * rank, 8), np.float32)
    kernel = generator.standard_normal((*[1] * rank, 8, 3)).astype(np.float32)
    found = kernels.conv(inputs, kernel, (2,) * rank, padding)
    expected = keras.ops.conv(inputs, kernel, (2,) * rank, padding, "channels_last")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    layer = (L.Conv1D, L.Conv2D)[rank - 1](2, 1, 2, padding=padding, activation="relu")
    model = sequential(inputs.shape[1:], layer, L.Flatten(), L.Dense(2))
    classes = model(inputs).numpy().argmax(axis=1)
    verifier = Verifier(model, "crown-ibp", compile=False)
    worst = verifier.attack(Ball(inputs, 0.5), *stays_in_class(classes, 2), restarts=2)
    nominal = verifier.attack(Ball(inputs, 0.0), *stays_in_class(classes, 2), restarts=1)
    assert (worst.values < nominal.values).all()
