"""Inner intervals behind linear layers: exact, by rows that go back only where it takes them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from networks import functional, sequential
from rotation import rotating

from xcertify.bounds import Verifier
from xcertify.bounds.propagation.depth import work
from xcertify.bounds.propagation.exactness import exact_tensors
from xcertify.bounds.propagation.refinement import BackwardBounds
from xcertify.bounds.query import Query
from xcertify.regions import Ball

SHAPE = (4, 4, 2)


def two_branches(x):
    return L.Add()([L.Conv2D(3, 2)(x), L.Conv2D(3, 2)(x)])


def added_to_itself(x):
    x = L.Conv2D(3, 3)(x)
    return L.Dense(4)(L.Add()([x, x]))


def overlapping(x):
    x = L.Conv2D(2, 2)(x)
    left, right = L.Cropping2D(((0, 1), (0, 0)))(x), L.Cropping2D(((1, 0), (0, 0)))(x)
    return L.Conv2D(2, 2)(L.Concatenate()([left, right]))


# Linear layers on an input of SHAPE whose chained intervals lose something.
LOSSY = {
    "conv_conv": lambda x: L.Conv2D(3, 2)(L.Conv2D(2, 3, padding="same")(x)),
    "dense_dense": lambda x: L.Dense(5)(L.Dense(4)(L.Flatten()(x))),
    "conv_pooled": lambda x: L.AveragePooling2D(2)(L.Conv2D(3, 3, padding="same")(x)),
    "conv_mean": lambda x: L.GlobalAveragePooling2D()(L.Conv2D(3, 2)(x)),
    "overlapping_pools": lambda x: L.Conv2D(2, 2)(L.AveragePooling2D(2, 1)(x)),
    "branches": two_branches,
    "itself": added_to_itself,
    "overlapping": overlapping,
    "skip": lambda x: L.Add()([x, L.Conv2D(2, 3, padding="same")(x)]),
    "repeated": lambda x: L.Dense(4)(L.Flatten()(L.RepeatVector(2)(L.Flatten()(x)))),
    "up": lambda x: L.Conv2D(3, 2)(L.UpSampling2D(2)(x)),
    "bilinear": lambda x: L.Conv2D(3, 2)(L.UpSampling2D(2, interpolation="bilinear")(x)),
    "prepared": lambda x: L.Conv2D(2, 2)(
        L.Conv2D(2, 2)(
            L.BatchNormalization()(
                L.ZeroPadding2D(1)(L.Permute((2, 1, 3))(L.Rescaling(0.5, 0.1)(x)))
            )
        )
    ),
    "normalized_between": lambda x: L.Dense(3)(L.BatchNormalization()(L.Dense(4)(L.Flatten()(x)))),
    "depthwise": lambda x: L.DepthwiseConv2D(2)(L.DepthwiseConv2D(2, depth_multiplier=2)(x)),
}
# Those whose chained intervals are exact: one layer that mixes entries, and what goes by entries.
EXACT = {
    "conv": lambda x: L.BatchNormalization()(L.Conv2D(3, 2)(x)),
    "dense": lambda x: L.Rescaling(2.0, 1.0)(L.Dense(4)(L.Flatten()(x))),
    "prepared": lambda x: L.Conv2D(2, 2)(
        L.BatchNormalization()(L.ZeroPadding2D(1)(L.Permute((2, 1, 3))(L.Rescaling(0.5, 0.1)(x))))
    ),
    "reshaped": lambda x: L.Dense(3)(L.Reshape((8, 4))(x)),
    "repeated": lambda x: L.RepeatVector(2)(L.Dense(3)(L.Flatten()(x))),
    "up": lambda x: L.UpSampling2D(2)(L.Conv2D(3, 2)(x)),
    "joined": lambda x: L.Concatenate()([L.Conv2D(3, 2)(x), L.Conv2D(2, 2)(x)]),
    "shifted": lambda x: L.Conv2D(3, 2)(x) + np.full(3, 0.1, "float32"),
    "activated": lambda x: L.Conv2D(3, 2)(L.ReLU()(x)),
    "apart": lambda x: L.Conv2D(3, 2)(L.AveragePooling2D(2)(x)),
}


def built(pre, seed=0):
    """A network, and the linear part of it, which is 0 at the center of a region."""
    inputs = keras.Input(SHAPE)
    linear = functional(inputs, pre(inputs), seed)
    values = np.asarray(linear(regions(seed).center[:1]))[0]
    tensor = L.Identity(name="pre")(linear.output - values)
    last = L.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(seed))
    outputs = last(L.Flatten()(L.ReLU()(tensor)))
    return keras.Model(inputs, outputs), keras.Model(inputs, tensor)


def regions(seed=0):
    centers = np.random.default_rng(seed).random((2, *SHAPE)) - 0.5
    return Ball(centers.astype("float32"), 0.2)


def folded(linear, region):
    """Exact bounds of an affine model over a box, by its matrix, (N, *shape) each."""
    size = int(np.prod(region.shape))
    units = np.concatenate([np.eye(size), np.zeros((1, size))]).reshape(-1, *region.shape)
    values = np.asarray(linear(units.astype("float32")), np.float64).reshape(size + 1, -1)
    matrix = values[:-1] - values[-1]
    lower, upper = (
        side.reshape(len(region), -1).astype("f8") for side in (region.lower, region.upper)
    )
    middle = (lower + upper) / 2 @ matrix + values[-1]
    radius = (upper - lower) / 2 @ np.abs(matrix)
    shape = (-1, *linear.output_shape[1:])
    return (middle - radius).reshape(shape), (middle + radius).reshape(shape)


def passes_of(verifier, region, constants=()):
    engine = verifier._engine
    query = Query.over(region, constants, (), verifier.dtype)
    optimize = verifier.method == "alpha-crown"
    return engine.queries._backward(engine.graph.output, query, optimize)


def inner(verifier, region, layer="pre", constants=()):
    """Intervals of a tensor inside, as the bounds of the outputs know them."""
    passes = passes_of(verifier, region, constants)
    sides = passes.enclosures[passes.graph.layers[layer]].absolute()
    return tuple(np.asarray(side) for side in sides)


def assert_equal(found, expected, rtol=2e-5):
    size = max(np.abs(side).max() for side in expected)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one.reshape(other.shape), other, atol=rtol * size)


@pytest.fixture
def refined(monkeypatch):
    """The nodes that get rows of their own."""
    found, original = [], BackwardBounds.refine

    def counted(self, index, mask):
        found.append(index)
        original(self, index, mask)

    monkeypatch.setattr(BackwardBounds, "refine", counted)
    return found


@pytest.mark.parametrize("method", ["crown", "alpha-crown"])
@pytest.mark.parametrize("name", [[*LOSSY][i] for i in rotating(len(LOSSY), 5)])
def test_linear_layers_in_a_row_are_one(name, method):
    model, linear = built(LOSSY[name])
    region = regions()
    expected = folded(linear, region)
    verifier = Verifier(model, method)
    found = inner(verifier, region)
    unstable = (expected[0] < 0) & (expected[1] > 0)
    assert unstable.any()
    # Those that are stable by chained intervals are not refined: no relaxation depends on them.
    chained = inner(Verifier(model, "crown-ibp"), region)
    asked = (chained[0] < 0) & (chained[1] > 0)
    assert_equal([side[asked] for side in found], [side[asked] for side in expected])
    assert (chained[1] - chained[0]).sum() > (expected[1] - expected[0]).sum() * (1 + 1e-4)
    assert_equal(verifier.bound_layer(region, "pre"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSY)
def test_all_linear_layers_in_a_row_are_one(name):
    for method in ("crown", "alpha-crown"):
        test_linear_layers_in_a_row_are_one(name, method)


@pytest.mark.parametrize("name", LOSSY)
def test_what_is_lossy_is_refined_and_counted(name, refined):
    model, _ = built(LOSSY[name])
    verifier = Verifier(model)
    graph = verifier._engine.graph
    inner(verifier, regions())
    assert len(refined) == 1
    exact = exact_tensors(graph, graph.ancestors([graph.output]))
    assert graph.layers["pre"] not in exact
    assert work(graph, [graph.output], None) > 0


@pytest.mark.parametrize("name", EXACT)
def test_no_rows_go_back_where_intervals_are_exact(name, refined):
    model, linear = built(EXACT[name])
    region, verifier = regions(), Verifier(model)
    graph = verifier._engine.graph
    found = inner(verifier, region)
    assert refined == []
    assert work(graph, [graph.output], None) == 0
    if name != "activated":  # which is no affine model
        assert_equal(found, folded(linear, region))
    # Neither over a ball, where intervals are those of the box around it, nor is it the same there.
    inner(verifier, Ball(region.center, 0.1, 2))
    assert len(refined) == 1


@pytest.mark.parametrize("name", [[*LOSSY][i] for i in rotating(len(LOSSY), 3)])
def test_bounds_contain_corners_and_samples(name):
    model, linear = built(LOSSY[name], seed=1)
    region, generator = regions(1), np.random.default_rng(2)
    lower, upper = Verifier(model).bound_outputs(region)
    pre_lower, pre_upper = inner(Verifier(model), region)
    for _ in range(50):
        share = generator.random((2, *SHAPE))
        share = np.round(share) if generator.random() < 0.5 else share
        points = region.lower + share * (region.upper - region.lower)
        points = np.clip(points.astype("float32"), region.lower, region.upper)
        outputs, values = np.asarray(model(points)), np.asarray(linear(points))
        assert ((lower - 1e-5 <= outputs) & (outputs <= upper + 1e-5)).all()
        assert ((pre_lower - 1e-5 <= values) & (values <= pre_upper + 1e-5)).all()


def test_outputs_are_those_of_the_folded_network():
    inputs = keras.Input((6,))
    first, second, last = L.Dense(5), L.Dense(4), L.Dense(3)
    model = functional(inputs, last(L.ReLU()(second(first(inputs)))))
    one = L.Dense(4)
    single = keras.Model(inputs, last(L.ReLU()(one(inputs))))
    kernel = first.kernel.numpy().astype("f8") @ second.kernel.numpy()
    one.set_weights([kernel, first.bias.numpy() @ second.kernel.numpy() + second.bias.numpy()])
    region = Ball(np.random.default_rng(0).random((3, 6)).astype("float32"), 0.3)
    for method in ("crown", "alpha-crown"):
        found, expected = (Verifier(net, method).bound_outputs(region) for net in (model, single))
        assert_equal(found, expected, 1e-4)


def test_channels_first(refined):
    inputs = keras.Input((2, 4, 4))
    convolved = L.Conv2D(5, 2, data_format="channels_first")(inputs)
    pre = L.Conv2D(3, 2, data_format="channels_first", name="pre")(convolved)
    model = functional(inputs, L.Dense(2)(L.Flatten()(L.ReLU()(pre))))
    region = Ball(np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype("float32"), 0.2)
    last = keras.Input(SHAPE)
    layers = [L.Conv2D(5, 2), L.Conv2D(3, 2)]
    twin = keras.Model(last, L.Permute((3, 1, 2))(layers[1](layers[0](last))))
    for layer, of in zip(layers, (layer for layer in model.layers if layer.weights)):
        layer.set_weights(of.get_weights())
    moved = Ball(np.moveaxis(region.center, 1, -1), 0.2)
    passes = passes_of(Verifier(model), region)  # the model itself may need another device
    found = passes.enclosures[passes.graph.layers["pre"]].absolute()
    expected = folded(twin, moved)
    asked = (expected[0] < 0) & (expected[1] > 0)
    assert_equal([np.asarray(side)[asked] for side in found], [side[asked] for side in expected])
    assert len(refined) == 1


def test_points_among_the_inputs_are_points(refined):
    """What depends on nothing that varies, through any layers, mixes with what is exact."""
    varied, fixed = keras.Input((4,)), keras.Input((3,))
    of_points = L.Dense(5)(L.Dense(6, "tanh")(L.Dense(4)(fixed)))
    pre = L.Add(name="pre")([L.Dense(5)(varied), of_points])
    model = functional([varied, fixed], L.Dense(2)(L.ReLU()(pre)))
    generator = np.random.default_rng(0)
    region = Ball(generator.random((2, 4)).astype("float32"), 0.2)
    constants = [generator.random((2, 3)).astype("float32")]
    lower, upper = inner(Verifier(model), region, "pre", constants)
    assert refined == []
    kernel = next(layer for layer in model.layers if layer.name == "pre")
    net = keras.Model([varied, fixed], kernel.output)
    middle = np.asarray(net([region.center, constants[0]]), np.float64)
    first = next(w for w in model.weights if tuple(w.shape) == (4, 5)).numpy()
    radius = np.abs(first).astype("f8").sum(axis=0) * 0.2
    assert_equal((lower, upper), (middle - radius, middle + radius))


def test_regions_of_weights_behind_two_linear_layers(refined):
    """Of networks whose weights vary intervals are exact behind one layer, too, and no further."""
    once = sequential((4,), L.Dense(5), L.BatchNormalization(), L.ReLU(), L.Dense(2))
    twice = sequential((4,), L.Dense(5), L.Dense(6), L.ReLU(), L.Dense(2))
    region = Ball(np.random.default_rng(0).random((2, 4)).astype("float32"), 0.1)
    nodes = []
    for model in (once, twice):
        verifier = Verifier(model)
        refined.clear()
        lower, upper = verifier.bound_gradient(region, np.eye(2), gamma=1e-3)
        nodes.append(len(refined))
        ibp = verifier.bound_gradient(region, np.eye(2), gamma=1e-3, method="ibp")
        assert (lower >= ibp[0] - 1e-6).all() and (upper <= ibp[1] + 1e-6).all()
    assert nodes[1] == nodes[0] + 1


def test_gradients_of_linear_ends_need_no_more_rows(refined):
    """From the outputs on gradients are points until the first activation."""
    single = sequential((4,), L.Dense(5, "relu"), L.Dense(2))
    double = sequential((4,), L.Dense(5, "relu"), L.Dense(3), L.Dense(2))
    region = Ball(np.random.default_rng(0).random((2, 4)).astype("float32"), 0.1)
    counts = []
    for model in (single, double):
        refined.clear()
        Verifier(model).bound_gradient(region, np.eye(2))
        counts.append(len(refined))
    assert counts[0] == counts[1]
