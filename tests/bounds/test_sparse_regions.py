"""Regions in which few groups of features leave the center: bounds by subsets, corners, by hand."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance import in_float64
from networks import NETWORKS, functional, sequential
from tiny_networks import tiny

from xcertify.attacks import PGD, MinimalPerturbation
from xcertify.bounds import Verifier, backend, stays_in_class
from xcertify.bounds.branching.confirmation import contains, move_inside
from xcertify.bounds.propagation import refinement
from xcertify.bounds.propagation.sparsity import Sparsity
from xcertify.regions import Ball, Box

L = keras.layers
BACKWARD = ("crown-ibp", "crown", "alpha-crown")
METHODS = ("ibp", *BACKWARD)

# Of images (8, 8, 2): every entry, in any order; pixels; columns; superpixels of any form.
GROUPS = {
    "entries": None,
    "shuffled": np.random.default_rng(1).permutation(128).reshape(8, 8, 2),
    "pixels": np.broadcast_to(np.arange(64).reshape(8, 8, 1), (8, 8, 2)),
    "channels": np.broadcast_to(np.arange(2), (8, 8, 2)),
    "columns": np.broadcast_to(np.arange(8).reshape(1, 8, 1), (8, 8, 2)),
    "superpixels": np.random.default_rng(2).integers(-1, 20, (8, 8, 2)),
}


def uniform(shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, shape).astype("float32")


def convolutions(seed=0):
    return sequential(
        (8, 8, 2),
        L.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
        L.Conv2D(4, 3, padding="same", activation="relu"),
        L.Flatten(),
        L.Dense(3),
        seed=seed,
    )


def verifier_of(model, method, **settings):
    return Verifier(model, method, nb_steps=4, **settings)


def corners(region, nb_changed, groups):
    """All points (P, *shape) of a region of one sample at which `nb_changed` groups are at ends."""
    nb_groups = groups.max() + 1
    found = []
    for chosen in itertools.combinations(range(nb_groups), min(nb_changed, nb_groups)):
        moved = np.isin(groups, (*chosen, -1))
        for ends in itertools.product((0, 1), repeat=int(moved.sum())):
            point = region.center[0].astype("f8")
            sides = np.stack([region.lower[0], region.upper[0]])
            point[moved] = np.where(np.array(ends), *sides[::-1, moved])
            found.append(point)
    return np.stack(found)


# --- largest sums -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["entries", "pixels", "columns", "superpixels"])
def test_largest_sums_are_no_less_than_the_true_ones_and_hardly_more(name, dtype):
    generator = np.random.default_rng(0)
    nb_changed = np.array([0, 1, 2, 3, 5, 8, 20, 64, 128, 1000])
    region = Ball(uniform((10, 8, 8, 2)), 0.1).at_most(nb_changed, GROUPS[name])
    sparsity = Sparsity.of(region, dtype)
    assert (sparsity.axes is None) == (name == "superpixels")
    sparsity = sparsity.map(tf.constant)
    terms = generator.exponential(size=(10, 2, 7, 8, 8, 2))
    terms[:, :, 1] = 1.0  # ties
    terms[:, :, 2] *= generator.random((8, 8, 2)) < 0.1
    terms[:, :, 3] = 0.0
    terms[:, :, 4] **= 20
    terms[:, :, 5] = 1e-3
    terms[:, :, 5, 0] = 1e3
    terms[:, :, 6] *= 1e-25
    terms = terms.astype(dtype)
    found = np.asarray(sparsity.largest_sum(tf.constant(terms), sparsity.numbers[:, None, None]))
    groups = region.groups[0]
    exact = np.where(groups == -1, terms, 0).sum(axis=(3, 4, 5), dtype="f8")
    sums = np.stack(
        [np.where(groups == g, terms, 0).sum((3, 4, 5), "f8") for g in range(groups.max() + 1)]
    )
    sums = -np.sort(-sums, axis=0)  # (G, N, T, S)
    exact = exact + np.stack([sums[:m, n].sum(axis=0) for n, m in enumerate(nb_changed)])
    assert (found >= exact * (1 - 1e-14)).all()
    close = 2e-4 if dtype == "float32" else 1e-4
    assert (found <= exact * (1 + close) + 1e-30).all()
    allowed = 4e-5 if dtype == "float32" else 2e-5
    assert (found[:, :, :2] <= exact[:, :, :2] * (1 + allowed)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_large_groups_are_rounded_upward(dtype):
    """More than are summed in the working type."""
    generator = np.random.default_rng(0)
    rows = np.repeat(np.arange(3)[:, None], 1000, axis=1)
    for groups, terms in (
        (rows, generator.random((1, 2, 5, 3, 1000)) ** 8),
        (rows % 1, np.full((1, 2, 5, 3, 1000), 0.1)),
        (generator.integers(-1, 3, rows.shape), generator.random((1, 2, 5, 3, 1000)) ** 8),
    ):
        sparsity = Sparsity.of(Ball(uniform((1, 3, 1000)), 0.1).at_most(1, groups), dtype)
        sparsity, terms = sparsity.map(tf.constant), terms.astype(dtype)
        found = np.asarray(sparsity.largest_sum(terms, sparsity.numbers[:, None, None]))
        wide = terms.astype(np.longdouble)
        free = np.where(groups < 0, wide, 0).sum(axis=(3, 4))
        exact = free + np.max([np.where(groups == g, wide, 0).sum((3, 4)) for g in range(3)], 0)
        assert (found >= exact).all() and (found <= exact * (1 + 3e-5)).all()


# --- by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_affine_models_by_hand(method):
    model = sequential((4,), L.Dense(1))
    model.set_weights([np.array([[3.0], [-2.0], [1.0], [0.5]]), np.array([10.0])])
    box = Box([[-1.0, -2, -4, 0]] * 5, [[1.0, 0, 4, 8]] * 5, [[0.0] * 4] * 5)
    # gains upward 3, 4, 4, 4 and downward 3, 0, 4, 0
    verifier = verifier_of(model, method, dtype="float64")
    nb_changed = np.array([0, 1, 2, 3, 4])
    lower, upper = verifier.bound_outputs(box.at_most(nb_changed))
    np.testing.assert_allclose(upper[:, 0], [10, 14, 18, 22, 25], rtol=1e-5)
    np.testing.assert_allclose(lower[:, 0], [10, 6, 3, 3, 3], rtol=1e-5)
    lower, upper = verifier.bound_outputs(box.at_most(nb_changed, [0, 0, 1, 1]))
    np.testing.assert_allclose(upper[:, 0], [10, 18, 25, 25, 25], rtol=1e-5)
    np.testing.assert_allclose(lower[:, 0], [10, 6, 3, 3, 3], rtol=1e-5)
    free = np.zeros((5, 4), bool)
    free[:, 0] = True
    lower, upper = verifier.bound_outputs(box.at_most(nb_changed, free=free))
    np.testing.assert_allclose(upper[:, 0], [13, 17, 21, 25, 25], rtol=1e-5)
    np.testing.assert_allclose(lower[:, 0], [7, 3, 3, 3, 3], rtol=1e-5)
    ball = Ball(np.zeros((5, 4)), 1.0, 2).at_most(nb_changed)
    lower, upper = verifier.bound_outputs(ball)
    expected = np.sqrt([0, 9, 13, 14, 14.25])
    np.testing.assert_allclose(upper[:, 0], 10 + expected, rtol=1e-5)
    np.testing.assert_allclose(lower[:, 0], 10 - expected, rtol=1e-5)
    free = np.tile([False, False, False, True], (5, 1))
    ball = Ball(np.zeros((5, 4)), 1.0, 1).at_most(nb_changed, free=free)
    lower, upper = verifier.bound_outputs(ball)
    np.testing.assert_allclose(upper[:, 0], [10.5, 13, 13, 13, 13], rtol=1e-5)


def test_affine_models_by_lines():
    model = sequential((4,), L.Dense(1))
    model.set_weights([np.array([[3.0], [-2.0], [1.0], [0.5]]), np.array([10.0])])
    box = Box([[-1.0, -2, -4, 0]] * 5, [[1.0, 0, 4, 8]] * 5, [[0.0] * 4] * 5)
    lines = Verifier(model, "crown", dtype="float64").linear_bounds(box.at_most(np.arange(5)))
    lower, upper = lines.bounds()
    np.testing.assert_allclose(upper[:, 0], [10, 14, 18, 22, 25], rtol=1e-9)
    np.testing.assert_allclose(lower[:, 0], [10, 6, 3, 3, 3], rtol=1e-9)
    lower, upper = lines.bounds_with_fixed(np.array([0, 1, 1, 2]))
    expected = [[10, 10, 10], [14, 14, 14], [18, 17, 18], [22, 17, 21], [22, 17, 21]]
    np.testing.assert_allclose(upper[:, 0], expected, rtol=1e-9)
    ball = Ball(np.zeros((5, 4)), 1.0, 2).at_most(np.arange(5))
    lines = Verifier(model, "crown", dtype="float64").linear_bounds(ball)
    _, upper = lines.bounds_with_fixed(np.array([0, 1, 1, 2]))
    squares = [[0, 0, 0], [4, 9, 9], [5, 9.25, 13], [5.25, 9.25, 14], [5.25, 9.25, 14]]
    np.testing.assert_allclose(upper[:, 0], 10 + np.sqrt(squares), rtol=1e-6)


# --- by subsets and corners ---------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", ["relu", "residual", "smooth_residual", "max_pooling"])
@pytest.mark.parametrize("method", METHODS)
def test_bounds_contain_all_corners(name, method):
    model = tiny(name, nb_inputs=5)
    exact = in_float64(model)
    center = uniform((1, 5), seed=3)
    for groups in (np.arange(5), np.array([0, 1, 1, 2, -1])):
        nb_changed = np.arange(7)
        base = Ball(np.repeat(center, 7, axis=0), 0.3, clip=(0, 1))
        region = base.at_most(nb_changed, groups)
        lower, upper = verifier_of(model, method).bound_outputs(region)
        for n in nb_changed:
            outputs = exact(corners(base[n : n + 1], n, groups), training=False).numpy()
            assert (lower[n] <= outputs.min(axis=0)).all()
            assert (upper[n] >= outputs.max(axis=0)).all()
        samples = region.sample(300)
        outputs = exact(samples.reshape(-1, 5).astype("f8"), training=False).numpy()
        outputs = outputs.reshape(300, 7, -1)
        assert (lower <= outputs).all() and (upper >= outputs).all()
        width = upper - lower
        assert (np.diff(width, axis=0) >= -1e-5).all()  # the more may change, the wider


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("norm", [np.inf, 2, 1])
@pytest.mark.parametrize("method", METHODS)
def test_none_is_all_fixed_and_all_is_the_whole_region(method, norm):
    model = NETWORKS["dense_relu"]()
    base = Ball(uniform((3, *model.input_shape[1:])), 0.2, norm)
    verifier = verifier_of(model, method)
    held = base.fix(np.ones(base.shape, bool))
    nothing = verifier.bound_outputs(base.at_most(0))
    np.testing.assert_array_equal(nothing, verifier.bound_outputs(held))
    free = np.zeros((3, base.center[0].size), bool)
    free[:, ::2] = True
    some = verifier.bound_outputs(base.at_most(0, free=free))
    fixed = verifier.bound_outputs(base.fix(~free[0].reshape(base.shape)))
    for side, other in zip(some, fixed):
        np.testing.assert_allclose(side, other, rtol=1e-6, atol=1e-6)
    size = base.center[0].size
    everything = verifier.bound_outputs(base.at_most(size))
    whole = verifier.bound_outputs(base)
    if method != "crown":  # at every layer rows go back, which tightens those of boxes too
        np.testing.assert_allclose(everything, whole, rtol=1e-5, atol=1e-5)
    assert (everything[0] >= whole[0] - 1e-5).all() and (everything[1] <= whole[1] + 1e-5).all()


@pytest.mark.usefixtures("eager")
def test_bounds_are_tighter_than_those_of_the_box():
    model = sequential((40,), L.Dense(30, "relu"), L.Dense(30, "relu"), L.Dense(4))
    base = Ball(uniform((6, 40)), 0.1, clip=(0, 1))
    region = base.at_most(np.array([1, 2, 4, 8, 16, 32]))
    for method, least in (("crown-ibp", 1.0), ("crown", 10.0), ("alpha-crown", 10.0)):
        verifier = verifier_of(model, method)
        (lower, upper), (low, high) = map(verifier.bound_outputs, (region, base))
        assert (lower >= low - 1e-5).all() and (upper <= high + 1e-5).all()
        ratio = (high - low).mean(axis=1) / (upper - lower).mean(axis=1)
        assert ratio[0] > least and (ratio > 1).all(), ratio


# --- convolutions, groups, batches ----------------------------------------------------------------


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("norm", [np.inf, 2])
@pytest.mark.parametrize("name", GROUPS)
def test_patches_of_convolutions_know_the_groups(name, norm, monkeypatch):
    model = convolutions()
    region = Ball(uniform((4, 8, 8, 2)), 0.1, norm, clip=(0, 1))
    region = region.at_most(np.array([0, 1, 3, 20]), GROUPS[name])
    lower, upper = Verifier(model, "crown").bound_outputs(region)
    wide = Verifier(model, "crown", dtype="float64").bound_outputs(region)
    np.testing.assert_allclose((lower, upper), wide, atol=1e-3 * (upper - lower).max())
    assert (lower <= wide[0] + 1e-6).all() and (upper >= wide[1] - 1e-6).all()
    outputs = in_float64(model)(region.sample(50).reshape(-1, 8, 8, 2)).numpy().reshape(50, 4, 3)
    assert (lower <= outputs).all() and (upper >= outputs).all()
    monkeypatch.setattr(refinement, "patch_routes", lambda route: None)
    whole = Verifier(model, "crown", memory_budget=2**30 - 1).bound_outputs(region)
    np.testing.assert_allclose((lower, upper), whole, atol=1e-5)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["entries", "pixels", "superpixels"])
def test_a_batch_of_regions_is_each_of_them(name, method):
    model = convolutions(seed=1)
    base = Ball(np.repeat(uniform((1, 8, 8, 2)), 5, axis=0), 0.1, clip=(0, 1))
    region = base.at_most(np.array([0, 2, 9, 40, 128]), GROUPS[name])
    verifier = verifier_of(model, method)
    lower, upper = verifier.bound_outputs(region)
    for n in range(5):
        alone = verifier.bound_outputs(region[n : n + 1])
        width = (upper[n] - lower[n]).max() + 1e-3
        np.testing.assert_allclose((lower[n], upper[n]), np.stack(alone)[:, 0], atol=1e-5 * width)


@pytest.mark.usefixtures("compiled")
def test_other_numbers_and_groups_are_not_compiled_anew(monkeypatch):
    traced = []
    original = backend._traced
    monkeypatch.setattr(backend, "_traced", lambda *a: traced.append(original(*a)) or traced[-1])
    model = sequential((6,), L.Dense(5, "relu"), L.Dense(2))
    verifier, base = Verifier(model, "crown"), Ball(uniform((3, 6)), 0.1)
    found = []
    for nb_changed in (0, 1, 3, np.array([1, 2, 6])):
        found.append(verifier.bound_outputs(base.at_most(nb_changed))[1])
    assert len(traced) == 1
    assert (np.diff([one.sum() for one in found[:3]]) > 0).all()
    whole = verifier.bound_outputs(base)[1]
    assert len(traced) == 2 and (whole >= found[1]).all()
    for groups in ([0, 0, 1, 1, 2, 2], [0, 1, 1, 0, -1, 3]):
        verifier.bound_outputs(base.at_most(1, groups))
    assert len(traced) == 3


# --- lines, layers, gradients ---------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_lines_hold_in_the_region_and_say_what_the_bounds_say(norm):
    model = NETWORKS["dense_tanh"]()
    shape = model.input_shape[1:]
    groups = np.arange(np.prod(shape)).reshape(shape) // 2
    region = Ball(uniform((4, *shape)), 0.2, norm).at_most(np.array([0, 1, 2, 9]), groups)
    verifier = Verifier(model, "crown", dtype="float64")
    lines = verifier.linear_bounds(region)
    points = region.sample(100)  # (P, N, *shape)
    outputs = in_float64(model)(points.reshape(-1, *shape).astype("f8")).numpy()
    samples = np.tile(np.arange(4), 100)
    below, above = lines.at(samples, points.reshape(-1, *shape))
    assert (below <= outputs).all() and (outputs <= above).all()
    lower, upper = lines.bounds()
    bounds = verifier.bound_outputs(region)
    np.testing.assert_allclose(lower, np.minimum(lower, bounds[0]), atol=1e-6)
    assert (lower <= bounds[0] + 1e-6).all() and (upper >= bounds[1] - 1e-6).all()
    values = (below.reshape(100, 4, -1), above.reshape(100, 4, -1))
    assert (lower <= values[0]).all() and (values[1] <= upper).all()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("norm", [np.inf, 2])
def test_layers_and_gradients_are_bounded_in_the_region(norm):
    model = NETWORKS["dense_tanh"]()
    shape = model.input_shape[1:]
    base = Ball(uniform((3, *shape)), 0.3, norm)
    region = base.at_most(np.array([0, 1, 2]))
    points = region.sample(50)
    exact = in_float64(model)
    inputs = tf.constant(points.reshape(-1, *shape), tf.float64)
    name = model.layers[0].name
    inner = keras.Model(exact.inputs, exact.layers[0].output)(inputs).numpy()
    lower, upper = Verifier(model, "crown").bound_layer(region, name)
    inner = inner.reshape(50, 3, *inner.shape[1:])
    assert (lower <= inner).all() and (inner <= upper).all()
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = exact(inputs)[:, 0]
    gradients = tape.gradient(outputs, inputs).numpy().reshape(50, 3, *shape)
    rows = np.eye(exact.output_shape[-1])[:1]
    for method in ("ibp", "ibp-crown", "crown-ibp", "crown"):
        lower, upper = Verifier(model).bound_gradient(region, rows, method=method)
        assert (lower[:, 0] <= gradients).all() and (gradients <= upper[:, 0]).all()
        wide = Verifier(model).bound_gradient(base, rows, method=method)
        assert (lower >= wide[0] - 1e-5).all() and (upper <= wide[1] + 1e-5).all()
        if method == "crown":
            assert (upper - lower)[1].mean() < 0.7 * (wide[1] - wide[0])[1].mean()


# --- what is refused, and what is inside --------------------------------------------------------


def test_what_would_leave_the_region_is_refused():
    model = sequential((4,), L.Dense(5, "relu"), L.Dense(3))
    region = Ball(uniform((2, 4)), 0.1).at_most(1)
    verifier = Verifier(model)
    rows, limits = stays_in_class(np.zeros(2, int), nb_outputs=3)
    with pytest.raises(ValueError, match="decide is not available where at most some groups"):
        verifier.decide(region, rows, limits)
    proof = verifier.decide(Ball(uniform((2, 4)), 0.1), rows, limits, proof=True).proof
    with pytest.raises(ValueError, match="recheck is not available where at most some groups"):
        verifier.recheck(proof, region)
    for attack in (PGD(model), MinimalPerturbation(model)):
        with pytest.raises(ValueError, match=r"not available .* Received: linf balls .* at most 1"):
            attack(region)


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_counterexamples_change_few_groups(norm):
    region = Ball(uniform((4, 6)), 0.2, norm).at_most(np.array([0, 1, 2, 6]), [0, 0, 1, 2, 3, -1])
    points = region.center + np.random.default_rng(0).normal(size=(4, 6)).astype("f4")
    moved = move_inside(region, points, "float32")
    assert contains(region, moved).all()
    assert region.count_changed(moved).tolist() == [0, 1, 2, 4]
    assert (moved[:, 5] != region.center[:, 5]).all()
    others = region.center + np.float32(1e-3)
    assert contains(region, others).tolist() == [False, False, False, True]


def test_centers_that_the_model_cannot_get_are_not_called_inside():
    center = np.full((1, 3), 0.1)  # float64, and no float32 number
    region, step = Ball(center, 0.1).at_most(1), np.array([0.05, 0, 0])
    assert not contains(region, move_inside(region, center + step, "float32")).any()
    assert contains(region, move_inside(region, center + step, "float64")).all()


def test_two_inputs():
    first, second = L.Input((4,)), L.Input((3,))
    joined = L.Dense(6, "relu")(L.Concatenate()([first, second]))
    model = functional([first, second], L.Dense(2)(joined))
    constants = uniform((3, 3), seed=5)
    region = Ball(uniform((3, 4)), 0.2).at_most(np.array([1, 2, 4]))
    lower, upper = Verifier(model, "crown").bound_outputs(region, [constants])
    points = region.sample(50)
    outputs = np.stack([model([one, constants]).numpy() for one in points])
    assert (lower <= outputs + 1e-6).all() and (outputs <= upper + 1e-6).all()
