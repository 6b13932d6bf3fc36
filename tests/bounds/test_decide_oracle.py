"""Brute force, which `Verifier.decide` is held against, is right by itself."""

import itertools

import keras
import numpy as np
import pytest
from brute_force import CURVES, Area, Net, by_grid, by_pieces, read, with_property, worst
from conformance import in_float64
from rotation import rotating
from tiny_networks import ARCHITECTURES, chain, draw_weights, tiny

from xcertify.bounds import supported_activations
from xcertify.regions import Ball, Box

OWN = {"absolute": keras.ops.abs, "square": keras.ops.square}
OWN["approximate gelu"] = lambda z: keras.ops.gelu(z, approximate=True)
STRAIGHT = sorted(name for name, curve in CURVES.items() if curve.kinks and name not in OWN)
SMOOTH = sorted(name for name, curve in CURVES.items() if not curve.kinks and name not in OWN)


def random_property(generator, nb_properties=2, nb_rows=2):
    rows = generator.normal(size=(nb_properties, nb_rows, 3))
    return rows, generator.normal(0, 0.3, (nb_properties, nb_rows))


def random_area(generator, nb_inputs=2, norm=np.inf):
    center = generator.uniform(-1, 1, (1, nb_inputs)).astype("f4")
    return Area.of(Ball(center, generator.uniform(0.1, 0.6), norm), 0)


def test_every_activation_is_known():
    assert set(supported_activations()) <= {*CURVES, "softmax", "linear"}


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_is_what_keras_computes(name):
    curve = CURVES[name]
    z = np.concatenate([np.linspace(-8, 8, 20_001), np.linspace(-2, 2, 20_001)])
    function = OWN[name] if name in OWN else keras.activations.get(name)
    np.testing.assert_allclose(
        curve.value(z), np.asarray(function(keras.ops.convert_to_tensor(z))), atol=3e-7, rtol=1e-6
    )
    ends = np.stack([z[:-1], z[1:]])[:, z[:-1] < z[1:]]
    steepest = curve.slope_within(*ends)
    rises = np.abs(np.diff(curve.value(ends), axis=0)[0]) / (ends[1] - ends[0])
    assert (rises <= steepest * (1 + 1e-9) + 1e-9).all()
    if curve.kinks:
        pieces = [curve.piece(number, 1) for number in range(len(curve.kinks) + 1)]
        slope, start = np.squeeze(pieces)[np.searchsorted(curve.kinks, z)].T
        np.testing.assert_allclose(slope * z + start, curve.value(z), atol=1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_is_read_as_keras_computes_it(name):
    model = tiny(name)
    points = np.random.default_rng(0).normal(size=(50, 2))
    expected = in_float64(model)(points, training=False).numpy()
    net = read(model)
    np.testing.assert_allclose(net.values(points), expected, rtol=1e-6, atol=1e-6)
    low, high = points.min(0), points.max(0)
    slopes = net.slopes(low, high)
    steps = np.random.default_rng(1).normal(0, 1e-4, points.shape)
    inside = ((points + steps >= low) & (points + steps <= high)).all(1)
    rises = np.abs(net.values(points + steps) - net.values(points))
    assert (rises <= np.abs(steps) @ slopes.T + 1e-12)[inside].all()


def by_hand():
    """|x| + |y| - 1 and x - y, of two inputs."""
    model = tiny(chain("relu"))
    model.set_weights(
        [
            np.float32([[1, -1, 0, 0], [0, 0, 1, -1]]),
            np.zeros(4, "f4"),
            np.float32([[1, 1, 0], [1, -1, 0], [1, -1, 0], [1, 1, 0]]),
            np.float32([-1, 0, 0]),
        ]
    )
    return read(model)


@pytest.mark.parametrize(
    ("region", "lowest", "highest", "both"),
    [
        (Box([[-1.0, -2.0]], [[1.0, 1.0]]), -1.0, 2.0, -0.5),
        (Box([[0.5, 0.25]], [[1.0, 1.0]]), -0.25, 1.0, 0.0),
        (Box([[1.0, -2.0]], [[2.0, -1.0]]), 1.0, 3.0, 2.0),
        (Ball([[0.5, 0.5]], 0.5, 1), -0.5, 0.5, -0.5),
        (Ball([[1.0, -1.0]], 0.5, 1), 0.5, 1.5, 1.5),
        (Ball([[3.0, 0.0]], 1.0, 2), 1.0, np.sqrt(2) + 2, 2.5 - np.sqrt(0.75)),
    ],
)
def test_values_by_hand(region, lowest, highest, both):
    """The least and the most of |x| + |y| - 1; the least of the largest of it and x - y."""
    area, net = Area.of(region, 0), by_hand()
    first, second = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
    for rows, expected in (
        ([[first]], lowest),
        ([[[-1.0, 0.0, 0.0]]], -highest),
        ([[first, second]], both),
        ([[first, second], [[-1.0, 0.0, 0.0]] * 2], min(both, -highest)),
    ):
        rows = np.array(rows)
        asked = with_property(net, rows, np.zeros(rows.shape[:2]))
        lower, upper = by_grid(asked, area, 1e-3)
        assert lower <= expected + 1e-9 and expected - 1e-9 <= upper and upper - lower <= 1e-3
        value, place = by_pieces(asked, area)
        np.testing.assert_allclose(value, expected, atol=1e-8)
        np.testing.assert_allclose(asked.values(place[None]).min(), value, atol=1e-8)


def check_pieces(build, seed, nb_inputs=2):
    """Cells and boxes say the same, and no point is worse."""
    generator = np.random.default_rng(seed)
    net = read(tiny(build, nb_inputs, seed))
    for norm in (np.inf, 1) if nb_inputs > 2 else (np.inf, 1, 2):
        area = random_area(generator, nb_inputs, norm)
        asked = with_property(net, *random_property(generator))
        value, place = by_pieces(asked, area)
        lower, upper = by_grid(asked, area, 1e-3, nb_boxes=50_000)
        assert lower - 1e-8 <= value <= upper + 1e-8
        outside = np.clip(place, area.low, area.high) - place
        assert np.abs(outside).max() < 1e-7 and area.lengths(place[None]) < 1 + 1e-7
        np.testing.assert_allclose(asked.values(place[None]).min(), value, atol=1e-7)
        assert asked.values(area.sample(generator, 1000)).min() >= value - 1e-8


STRAIGHT_NETWORKS = [name for name in ARCHITECTURES if read(tiny(name)).straight]


@pytest.mark.parametrize("name", STRAIGHT_NETWORKS)
def test_pieces_agree_with_boxes_on_architectures(name):
    for seed in rotating(1000, 2):
        check_pieces(name, seed)


@pytest.mark.parametrize("name", STRAIGHT)
def test_pieces_agree_with_boxes_on_activations(name):
    for seed in rotating(1000, 1):
        check_pieces(chain(name, name), seed)
        check_pieces(chain(name, units=5), seed, nb_inputs=3)


@pytest.mark.parametrize("nb_inputs", [2, 3])
def test_pieces_agree_with_linear_programs(nb_inputs):
    """One program for each pattern of active neurons, and each property of one row."""
    linprog = pytest.importorskip("scipy.optimize").linprog
    generator = np.random.default_rng(0)
    model = tiny(chain("relu", units=5), nb_inputs)
    for seed in range(3):
        first, bias, last, end = (w.astype("f8") for w in draw_weights(model, seed).get_weights())
        area, row = random_area(generator, nb_inputs), generator.normal(size=3)
        found = []
        for signs in itertools.product([0.0, 1.0], repeat=5):
            sides = np.where(signs, -1.0, 1.0)  # active: z >= 0, that is -z <= 0
            weights = last @ row * signs
            program = linprog(
                first @ weights,
                A_ub=(first * sides).T,
                b_ub=-sides * bias,
                bounds=list(zip(area.low, area.high)),
            )
            if program.status == 0:
                found.append(program.fun + bias @ weights + end @ row)
        asked = with_property(read(model), row[None, None], np.zeros((1, 1)))
        np.testing.assert_allclose(by_pieces(asked, area)[0], min(found), atol=1e-7)


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_boxes_hold_the_values_of_a_linear_network(norm):
    generator = np.random.default_rng(0)
    model = tiny(keras.layers.Dense(3), 3)
    kernel, bias = (w.astype("f8") for w in model.get_weights())
    area, row = random_area(generator, 3, norm), generator.normal(size=3)
    dual = {np.inf: 1, 2: 2, 1: np.inf}[norm]
    radius = (area.high - area.center)[0]
    slope = kernel @ row
    expected = slope @ area.center + bias @ row - radius * np.linalg.norm(slope, dual)
    lower, upper = worst(read(model), area, row[None, None], np.zeros((1, 1)), 1e-3)
    assert lower <= expected + 1e-6 and expected - 1e-6 <= upper and upper - lower <= 1e-3


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("norm", [np.inf, 2])
def test_boxes_hold_the_values_of_smooth_networks(name, norm):
    generator = np.random.default_rng(1)
    area = random_area(generator, norm=norm)
    asked = with_property(read(tiny(chain(name, name))), *random_property(generator))
    lower, upper = by_grid(asked, area, 1e-4)
    points = area.sample(generator, 20_000)
    assert area.contains(points, 1e-12).all()
    values = asked.values(points)
    assert lower <= values.min() and upper <= values.min() + 1e-2 and upper - lower < 2e-4


def test_a_region_of_one_point():
    net = read(tiny("relu"))
    rows, limits = random_property(np.random.default_rng(0))
    asked = with_property(net, rows, limits)
    for norm in (np.inf, 2, 1):
        area = Area.of(Ball([[0.3, 0.2]], 0.0, norm), 0)
        value = asked.values(area.center[None]).min()
        np.testing.assert_allclose(by_grid(asked, area), value, atol=1e-12)
    np.testing.assert_allclose(by_pieces(asked, Area.of(Ball([[0.3, 0.2]], 0.0), 0))[0], value)


def test_what_is_not_piecewise_linear_is_not_cut():
    assert not read(tiny("softmax_inside")).straight
    with pytest.raises(AssertionError, match="piecewise linear"):
        by_pieces(read(tiny("smooth_residual")), Area.of(Ball([[0.3, 0.2]], 0.5), 0))
    assert Net().straight
