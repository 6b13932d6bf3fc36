"""Ways back of rows: patches against whole tensors, and how far rows of inner tensors go."""

import keras
import numpy as np
import pytest
from conformance import assert_sound
from networks import NETWORKS, functional, sequential
from rotation import rotating

from xcertify.bounds import Verifier
from xcertify.bounds.propagation import refinement, routes
from xcertify.bounds.propagation.depth import depth_of, ends_of, work
from xcertify.regions import Ball

L = keras.layers


def inputs_of(model, nb_samples=2, seed=1):
    generator = np.random.default_rng(seed)
    return generator.uniform(0, 1, (nb_samples, *model.input_shape[1:])).astype("float32")


def residual_images():
    """Two ways of different reach to one tensor, borders on all sides, strides."""
    x = inputs = L.Input((11, 9, 2))
    y = L.Conv2D(3, 3, strides=2, padding="same", activation="relu")(x)
    y = L.Conv2D(3, 3, padding="same")(y)
    x = L.ReLU()(L.Add()([y, L.Conv2D(3, 1, strides=2, padding="same")(x)]))
    y = L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(x))
    x = L.Concatenate()([L.ReLU()(y), L.MaxPooling2D(3, strides=1, padding="same")(x)])
    x = L.AveragePooling2D(2, padding="same")(x)
    x = L.ZeroPadding2D(((1, 0), (0, 2)))(x)
    x = L.Conv2D(2, 2, dilation_rate=2, activation="relu")(x)
    return functional(inputs, L.Dense(3)(L.Flatten()(x)))


def convolutions_in_a_row():
    """No nonlinearity between: what lies beyond the border of the first must not come back."""
    layers = [L.Conv2D(2, 3, padding="same", use_bias=False) for _ in range(3)]
    smooth = L.Activation("softplus")
    return sequential((7, 8, 1), *layers[:2], L.ReLU(), layers[2], smooth, L.Flatten(), L.Dense(2))


SPATIAL = {
    name: NETWORKS[name]
    for name in (
        "convolutions",
        "batch_normalization",
        "max_pooling",
        "max_pooling_before_activation",
        "average_pooling",
        "parametric_activations",
        "shared_prelu_on_images",
        "convolution_1d",
        "convolution_3d",
        "dilated_and_grouped",
        "depthwise_and_separable",
        "average_pooling_3d",
        "channels_first",
        "channels_first_mixed_axes",
        "padding_cropping_upsampling",
        "padding_cropping_upsampling_1d_3d",
        "normalization_layer",
        "square_map_with_two_paths",
        "function_constants",
    )
} | {"residual_images": residual_images, "convolutions_in_a_row": convolutions_in_a_row}


def check_patches(name, monkeypatch):
    model = SPATIAL[name]()
    inputs = inputs_of(model)
    used, original = [], refinement.patch_routes

    def recorded(route):
        used.append(original(route))
        return used[-1]

    for norm in (np.inf, 2, 1):
        region, found = Ball(inputs, 0.05, norm=norm), {}
        for patches in (True, False):
            with monkeypatch.context() as patch:
                patch.setattr(routes, "are_smaller", lambda *_, answer=patches: answer)
                patch.setattr(refinement, "patch_routes", recorded)
                verifier = Verifier(model, "crown", compile=False, memory_budget=2**29 + patches)
                found[patches] = verifier.bound_outputs(region)
        size = np.abs(found[False][1] - found[False][0]).max()
        np.testing.assert_allclose(found[True], found[False], rtol=0, atol=2e-5 * (1 + size))
    return [route for route in used if route is not None]


@pytest.mark.parametrize("name", [sorted(SPATIAL)[i] for i in rotating(len(SPATIAL), 6)])
def test_patches_give_the_bounds_of_whole_tensors(name, monkeypatch):
    check_patches(name, monkeypatch)


@pytest.mark.parametrize("name", ["residual_images", "convolutions_in_a_row"])
def test_patches_at_borders_and_on_two_ways(name, monkeypatch):
    assert check_patches(name, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SPATIAL))
def test_patches_of_every_network(name, monkeypatch):
    check_patches(name, monkeypatch)


def test_patches_are_taken_where_they_are_smaller():
    model = sequential(
        (12, 12, 1),
        L.Conv2D(4, 3, activation="relu"),
        L.Conv2D(4, 3, activation="relu"),
        L.Flatten(),
        L.Dense(3, "relu"),
        L.Dense(2),
    )
    graph = Verifier(model)._engine.graph
    dense = next(i for i, node in enumerate(graph.nodes) if node.shape == (3,))
    second = next(i for i, node in enumerate(graph.nodes) if node.shape == (8, 8, 4))
    assert routes.patch_routes(routes.Route(graph, dense)) is None
    patches = routes.Patches(routes.patch_routes(routes.Route(graph, second)), [])
    assert [patches.shape(i) for i in (0, 1, second)] == [(5, 5, 1), (3, 3, 4), (1, 1, 4)]


DEEP = ["dense_tanh", "max_pooling", "residual", "merges"]


@pytest.mark.parametrize("name", [DEEP[i] for i in rotating(len(DEEP), 2)])
def test_every_depth_is_sound_and_lies_between_crown_ibp_and_crown(name):
    model = NETWORKS[name]()
    region = Ball(inputs_of(model), 0.03)
    widths = []
    for depth in (0, 1, 2, None):
        lower, upper = assert_sound(model, region, "crown", backward_depth=depth)
        widths.append((upper - lower).mean())
    crown_ibp = Verifier(model, "crown-ibp").bound_outputs(region)
    # behind two linear layers in a row rows of depth 0 are tighter than intervals
    assert widths[0] <= (crown_ibp[1] - crown_ibp[0]).mean() * (1 + 1e-5)
    assert widths[-1] <= widths[1] * (1 + 1e-5) <= widths[0] * (1 + 1e-4)


def deep_net():
    layers = [L.Conv2D(2, 3, padding="same", activation="relu") for _ in range(4)]
    return sequential((6, 6, 1), *layers, L.Flatten(), L.Dense(2))


def test_rows_stop_after_so_many_layers():
    graph = Verifier(deep_net())._engine.graph
    relus = [i for i, node in enumerate(graph.nodes) if not node.operation.exact_affine]
    relus = [i for i in relus if not graph.nodes[i].is_input]
    last = relus[-1] - 1  # what the last one is of
    assert ends_of(graph, last, None) == set()
    assert ends_of(graph, last, 3) == set()
    assert ends_of(graph, last, 1) == set(relus[:2])
    assert routes.Route(graph, last, ends_of(graph, last, 1)).reached_ends == [relus[1]]


def test_auto_is_the_deepest_that_the_work_allows(monkeypatch):
    verifier = Verifier(deep_net(), backward_depth="auto")
    graph = verifier._engine.graph
    targets = [graph.output]
    assert verifier.depth is None
    efforts = [work(graph, targets, depth) for depth in (0, 1, 2, 3, None)]
    assert efforts == sorted(efforts)
    assert efforts[3] == efforts[4]
    monkeypatch.setattr("xcertify.bounds.propagation.depth.LARGEST_WORK", efforts[1])
    assert depth_of("auto", graph, targets) == 1
    monkeypatch.setattr("xcertify.bounds.propagation.depth.LARGEST_WORK", efforts[1] * 0.9)
    assert depth_of("auto", graph, targets) == 0
    monkeypatch.setattr("xcertify.bounds.propagation.depth.LARGEST_WORK", efforts[3])
    assert depth_of("auto", graph, targets) is None


def test_depth_of_methods_and_bad_depths():
    model = NETWORKS["dense_relu"]()
    assert Verifier(model, "ibp").depth == Verifier(model, "crown-ibp").depth == 0
    assert Verifier(model, "crown", backward_depth=1).depth == 1
    for depth in (-1, 1.5, True, "deep"):
        with pytest.raises(ValueError, match="backward_depth must be a whole number from 0 on"):
            Verifier(model, "crown", backward_depth=depth)
    with pytest.raises(ValueError, match="backward_depth can be chosen with the methods"):
        Verifier(model, "decomon:crown", backward_depth=1)


def test_auto_gives_the_bounds_of_crown_ibp_where_nothing_else_is_affordable(monkeypatch):
    model = deep_net()
    region = Ball(np.random.default_rng(0).random((2, *model.input_shape[1:]), np.float32), 0.1)
    expected = Verifier(model, "crown-ibp").bound_outputs(region)
    monkeypatch.setattr("xcertify.bounds.propagation.depth.LARGEST_WORK", 0.0)
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    np.testing.assert_array_equal(Verifier(other, "crown").bound_outputs(region), expected)
    monkeypatch.undo()
    tighter = Verifier(model, "crown").bound_outputs(region)
    assert (tighter[1] < expected[1]).any()


def test_the_default_depth_is_all_layers_where_that_is_affordable(monkeypatch):
    model = deep_net()
    assert Verifier(model).backward_depth == "auto" and Verifier(model).depth is None
    monkeypatch.setattr("xcertify.bounds.propagation.depth.LARGEST_WORK", 0.0)
    other = keras.models.clone_model(model)  # the depth of a model is found once
    assert Verifier(other).depth == 0 and Verifier(other, backward_depth=None).depth is None
