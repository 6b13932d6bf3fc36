import functools
import os
import random
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conformance import adversarial_points, in_float64, logits_of
from keras import layers as L
from networks import NETWORKS, functional, randomize, sequential

import xcertify
from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.bounds import decomon as adapter
from xcertify.bounds.decomon import METHODS, DecomonBackend
from xcertify.regions import Ball, Box

IMAGE = (3, 4, 1)


def mixed():
    """Everything that all methods take, in one network."""
    inner = keras.Sequential([keras.Input((4, 2)), L.Activation("relu"), L.Flatten(), L.Dense(5)])
    return sequential(
        IMAGE,
        L.Flatten(),
        L.Dense(8, use_bias=False),
        L.BatchNormalization(scale=False),
        L.ReLU(),
        L.Dropout(0.5),
        L.Reshape((4, 2)),
        inner,
        L.BatchNormalization(),
        L.Activation("linear"),
        L.Activation("relu"),
        L.Dense(3, "softmax"),
    )


def relu_at_the_end():
    return sequential((4,), L.Dense(6, "relu"), L.Dense(3), L.BatchNormalization(), L.ReLU())


def convolutions():
    return sequential(
        (6, 7, 2),
        L.Conv2D(4, 3, strides=2, padding="same"),
        L.BatchNormalization(),
        L.Activation("tanh"),
        L.Conv2D(3, (2, 1), dilation_rate=(2, 1), use_bias=False, activation="sigmoid"),
        L.Flatten(),
        L.Dense(4, "softsign"),
        L.Dense(3),
    )


def convolution_at_the_end():
    return sequential((12,), L.Reshape((2, 3, 2)), L.Conv2D(2, 2, activation="relu"))


def centers(model, nb_samples=6, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(nb_samples, *model.input_shape[1:])).astype(np.float32)


def reachable_values(model, region):
    """Outputs of the float64 network at the most telling points of a region, (P, N, K)."""
    exact = in_float64(logits_of(model))
    points = adversarial_points(exact, region, nb_random=30, seed=1)
    values = exact(points.reshape(-1, *region.shape), training=False).numpy()
    return values.reshape(*points.shape[:2], -1)


def assert_contains(bounds, values):
    """No value leaves the bounds; there is no tolerance."""
    lower, upper = bounds
    assert lower.dtype == upper.dtype == np.float32
    assert lower.shape == upper.shape == values.shape[1:]
    assert (lower <= values).all(), f"below by {(lower - values).max()}"
    assert (values <= upper).all(), f"above by {(values - upper).max()}"


@functools.cache
def one_of_every_size(build):
    """A model, boxes around a point each from nothing to 3, and values inside."""
    model = build()
    inputs = centers(model)
    radius = np.array([0.0, 1e-8, 1e-5, 0.01, 0.3, 3.0]).reshape(-1, *[1] * (inputs.ndim - 1))
    region = Ball(inputs, np.broadcast_to(radius, inputs.shape))
    return model, region, reachable_values(model, region)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("build", [mixed, relu_at_the_end])
def test_no_point_leaves_the_bounds(build, method):
    model, region, values = one_of_every_size(build)
    lower, upper = DecomonBackend(model, method).bound_rows(region)
    assert_contains((lower, upper), values)
    # a point and a tiny box: nothing is lost but the rounding to float32
    np.testing.assert_allclose(lower[0], values[0, 0], rtol=1e-6, atol=1e-6)
    assert (upper - lower)[:2].max() < 1e-5


@pytest.mark.parametrize("build", [convolutions, convolution_at_the_end, NETWORKS["dense_sigmoid"]])
def test_interval_bounds_of_layers_that_the_lines_do_not_take(build):
    model = build()
    backend = DecomonBackend(model, "ibp")
    for epsilon in (1e-3, 1.0, 30.0):
        region = Ball(centers(model), epsilon)
        assert_contains(backend.bound_rows(region), reachable_values(model, region))


def two_relus(*head, bias=0.0):
    """``a relu(x) + b relu(-x) + bias`` for a head (a, b)."""
    model = keras.Sequential([keras.Input((1,)), L.Dense(2, "relu"), L.Dense(1)])
    set_weights(model, [[1, -1]], [0, 0], [[weight] for weight in head], [bias])
    return model


def set_weights(model, *weights):
    model.set_weights([np.array(weight, np.float32) for weight in weights])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("ibp", (-1, 2)),  # [0, 2] - [0, 1]
        ("forward-affine", (-2, 2)),  # x - (2 - x) / 3 and (2 x + 2) / 3
        ("forward-hybrid", (-1, 2)),  # the better of both
        ("crown", (-2, 2)),
        ("crown-forward-ibp", (-2, 2)),
        ("crown-forward-affine", (-2, 2)),
        ("crown-forward-hybrid", (-2, 2)),
    ],
)
def test_bounds_by_hand(method, expected):
    # x = relu(x) - relu(-x)
    lower, upper = DecomonBackend(two_relus(1, -1), method).bound_rows(Box([[-1.0]], [[2.0]]))
    np.testing.assert_allclose([lower.item(), upper.item()], expected, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_model_is_bounded_exactly(method):
    model = sequential((2, 3), L.Flatten(), L.Dense(4))
    kernel, bias = (weight.astype(float) for weight in model.get_weights())
    center = centers(model)
    lower, upper = DecomonBackend(model, method).bound_rows(Ball(center, 0.5))
    nominal = center.reshape(6, 6) @ kernel + bias
    radius = 0.5 * np.abs(kernel).sum(axis=0)
    np.testing.assert_allclose(lower, nominal - radius, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(upper, nominal + radius, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["ibp", "forward-affine", "crown"])
def test_rows_are_folded_into_the_last_layer(method):
    model = NETWORKS["dense_relu"]()
    rows = np.array([[1, -1, 0], [0, 2, 3]], np.float32)
    explicit = keras.Sequential([keras.Input((5,)), *model.layers[:-1], L.Dense(2)])
    kernel, bias = model.layers[-1].get_weights()
    explicit.layers[-1].set_weights([kernel @ rows.T, rows @ bias])
    region = Ball(centers(model), 0.2)
    bounds = DecomonBackend(model, method).bound_rows(region, rows)
    np.testing.assert_allclose(
        bounds, DecomonBackend(explicit, method).bound_rows(region), rtol=1e-5, atol=1e-5
    )
    # tighter than combining bounds of the outputs
    lower, upper = DecomonBackend(model, method).bound_rows(region)
    assert (bounds[1][:, 0] <= upper[:, 0] - lower[:, 1] + 1e-5).all()
    assert (bounds[1][:, 0] < upper[:, 0] - lower[:, 1] - 0.01).any()


@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize("build", [mixed, relu_at_the_end])
def test_rows_of_every_sample(method, build, monkeypatch):
    monkeypatch.setattr(adapter, "_LARGEST_BATCH", 4)
    model = build()
    region = Ball(centers(model, 11), 0.1)
    predicted = np.random.default_rng(0).integers(0, 3, 11)
    margins = np.eye(3)[None] - np.eye(3)[predicted][:, None]
    backend = DecomonBackend(model, method)
    lower, upper = backend.bound_rows(region, margins)
    values = np.einsum("nsk,pnk->pns", margins, reachable_values(model, region))
    assert_contains((lower, upper), values)
    assert np.abs([lower, upper])[:, np.arange(11), predicted].max() < 1e-29  # f_c - f_c
    for sample in (0, 7):
        alone = backend.bound_rows(region[sample : sample + 1], margins[sample])
        np.testing.assert_allclose(alone[0][0], lower[sample], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(alone[1][0], upper[sample], rtol=1e-6, atol=1e-6)


def test_one_conversion_serves_all_rows_of_a_number_and_few_are_kept():
    backend = DecomonBackend(two_relus(1, -1), "ibp")
    region = Box([[-1.0]], [[2.0]])
    first = backend._function(1)
    np.testing.assert_allclose(backend.bound_rows(region, [[-2.0]]), [[[-4]], [[2]]], rtol=1e-6)
    assert backend._function(1) is first
    for nb_rows in range(2, 12):
        lower, upper = backend.bound_rows(region, np.ones((nb_rows, 1)))
        np.testing.assert_allclose((lower[0, -1], upper[0, -1]), (-1, 2), rtol=1e-6)
    assert len(backend._compiled) == adapter._NB_COMPILED
    assert backend.bound_rows(region[:0])[0].shape == (0, 1)


def test_current_weights_are_used():
    model = two_relus(1, -1)
    backend = DecomonBackend(model, "crown")
    region = Box([[-1.0]], [[2.0]])
    backend.bound_rows(region)
    set_weights(model, [[1, -1]], [0, 0], [[2], [0]], [1])
    np.testing.assert_allclose(backend.bound_rows(region), [[[-1]], [[5]]], rtol=1e-6)


def test_slopes_on_tiny_intervals():
    # decomon divides by max(upper - lower, 1e-7), which would give 0.032 here.
    model = two_relus(1e6, 0)
    for method in METHODS:
        _, upper = DecomonBackend(model, method).bound_rows(Box([[-4e-8]], [[4e-8]]))
        np.testing.assert_allclose(upper, 0.04, rtol=1e-6)


@pytest.mark.parametrize(
    ("eps", "width"), [(0.001, (4.80, 0.2365, 0.2240)), (0.05, (176.2, 44.54, 23.36))]
)
def test_widths_of_the_reference_network(shared, eps, width):
    model = keras.Sequential(
        [keras.Input((784,)), L.Dense(128, "relu"), L.Dense(128, "relu"), L.Dense(10)]
    )
    model.load_weights(shared / "reference/fc_2x128.keras")
    images = np.load(shared / "reference/inputs.npz")["x"][:8]
    for method, expected in zip(("forward-ibp", "forward-affine", "crown"), width):
        verifier = Verifier(model, "decomon:" + method)
        lower, upper = verifier.bound_outputs(Ball(images, eps, clip=(0, 1)))
        assert (upper - lower).mean() == pytest.approx(expected, rel=2e-3)


def everything_global():
    """State that a conversion could leave behind, as comparable values."""
    from decomon import utils
    from decomon.backward_layers import backward_layers
    from decomon.keras_utils import BatchedDiagLike
    from decomon.layers.decomon_layers import DecomonConv2D
    from decomon.models import backward_cloning, crown

    owners = [
        *(utils, backward_layers, backward_cloning, crown),
        *(BatchedDiagLike, DecomonConv2D, backward_layers.BackwardInputLayer),
    ]
    return {
        "numpy": "float_" in vars(np),
        "decomon": [dict(vars(owner)) for owner in owners],
        "random": (random.getstate(), np.random.get_state()[1].tolist()),
        "keras": (
            keras.config.floatx(),
            keras.config.epsilon(),
            keras.config.dtype_policy().name,
            keras.config.image_data_format(),
        ),
    }


def test_nothing_of_the_users_is_changed():
    model = NETWORKS["softmax_output"]()
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(centers(model), np.zeros((6, 3)), verbose=0)

    def state():
        return {
            "config": model.get_config(),
            "compiled": model.get_compile_config(),
            "nodes": [len(layer._inbound_nodes) for layer in model.layers],
            "flags": [(layer.trainable, layer.dtype, len(layer.losses)) for layer in model.layers],
            "weights": [w.tolist() for w in model.get_weights()],
            "optimizer": [np.asarray(v).tolist() for v in model.optimizer.variables],
            "activation": model.layers[-1].activation is keras.activations.softmax,
        }

    adapter._import_decomon()
    before, name = state(), L.Dense(1).name
    everything = everything_global()
    for method in ("crown", "forward-hybrid"):
        DecomonBackend(model, method).bound_rows(Ball(centers(model), 0.1))
    assert state() == before
    after = everything_global()
    assert after.keys() == everything.keys()
    for key, value in everything.items():
        assert after[key] == value, key
    stem, number = name.rsplit("_", 1) if "_" in name else (name, 0)
    assert L.Dense(1).name == f"{stem}_{int(number) + 1}"  # the counter has not moved meanwhile


def test_import_is_late_and_leaves_numpy_alone():
    code = (
        "import sys, numpy; before = 'float_' in vars(numpy); "
        "from xcertify.bounds import Verifier, decomon; "
        "assert not [name for name in sys.modules if name.split('.')[0] == 'decomon']; "
        "decomon._import_decomon(); assert 'decomon.models' in sys.modules; "
        "assert ('float_' in vars(numpy)) == before"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(xcertify.__file__).parents[1])}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )


def test_without_decomon(monkeypatch):
    monkeypatch.setitem(sys.modules, "decomon", None)
    before = "float_" in vars(np)
    with pytest.raises(ImportError, match="pip install decomon"):
        DecomonBackend(two_relus(1, 1), "crown")
    assert ("float_" in vars(np)) == before


def test_lines_around_s_shapes_are_still_wrong():
    """The reason for a refusal; should decomon be put right, it can go."""
    adapter._import_decomon()
    from decomon.utils import get_linear_hull_tanh

    generator = np.random.default_rng(0)
    for scale, expected in ((5.0, 1e-5), (100.0, 0.5)):
        lower, upper = generator.random((2, 1, 500)) * [[[-scale]], [[scale]]]
        tensors = keras.ops.convert_to_tensor(upper), keras.ops.convert_to_tensor(lower)
        slope, intercept, *_ = (np.asarray(x) for x in get_linear_hull_tanh(*tensors, "same-slope"))
        points = np.linspace(lower, upper, 2001)
        assert (np.tanh(points) - (slope * points + intercept)).max() > expected


def branching():
    inputs = keras.Input((3,))
    hidden = L.Dense(3, "relu")(inputs)
    return functional(inputs, L.Dense(2)(L.Add()([hidden, inputs])))


def half_used():
    inner_inputs = keras.Input((3,))
    outputs = [L.Dense(3, name="used")(inner_inputs), L.Dense(3, name="unused")(inner_inputs)]
    inner = keras.Model(inner_inputs, outputs)
    inputs = keras.Input((3,))
    return functional(inputs, L.Dense(2)(inner(inputs)[0]))


def functions_of_tensors():
    inputs = keras.Input((3,))
    return functional(inputs, L.Dense(2)(keras.ops.multiply(inputs, 2.0)))


def two_outputs():
    inputs = keras.Input((3,))
    return functional(inputs, [L.Dense(2)(inputs), L.Dense(2)(inputs)])


class Doubled(L.Dense):
    def call(self, inputs, training=None):
        return 2 * super().call(inputs, training)


@pytest.mark.parametrize(
    ("method", "shape", "layers", "message"),
    [
        ("crown", (3,), [L.Dense(2, "softplus", name="bad")], "'bad' of class Dense .*softplus"),
        ("ibp", (3,), [L.Dense(2, "softmax"), L.Dense(2, name="bad")], "'bad' .*follows a softmax"),
        ("crown", (3,), [L.Dense(2, "tanh", name="bad")], "'bad' .*tanh.*forward-ibp"),
        (
            "forward-affine",
            (3,),
            [L.Activation("sigmoid", name="bad"), L.Dense(2)],
            "'bad' .*sigmoid",
        ),
        ("crown-forward-ibp", (3,), [L.Dense(2, "softsign", name="bad")], "'bad' .*softsign"),
        ("ibp", (3,), [L.Dense(2, lambda x: x, name="bad")], "'bad' of class Dense .*lambda"),
        ("ibp", (2, 3), [L.Permute((2, 1), name="bad")], "'bad' of class Permute"),
        ("ibp", (3,), [L.ReLU(max_value=6.0, name="bad")], "'bad' of class ReLU .*parameters"),
        ("ibp", (3,), [L.LeakyReLU(name="bad")], "'bad' of class LeakyReLU"),
        ("ibp", (4, 4, 1), [L.MaxPooling2D(name="bad")], "'bad' of class MaxPooling2D"),
        ("crown", (4, 4, 1), [L.Conv2D(1, 2, name="bad")], "'bad' of class Conv2D .*forward-ibp"),
        ("ibp", (4, 4, 2), [L.Conv2D(2, 2, groups=2, name="bad")], "'bad' .*groups"),
        ("crown", (3,), [L.BatchNormalization(name="bad")], "'bad' .*directly after"),
        ("ibp", (3,), [L.Dense(2, "relu"), L.BatchNormalization(name="bad")], "'bad' .*directly"),
        ("crown", (2, 3), [L.Dense(2, name="bad")], r"'bad' .*shape \(2, 3\).*Flatten"),
        ("crown", (2, 3), [L.Flatten("channels_first", name="bad")], "'bad' .*channels first"),
        ("ibp", (3,), [L.Dense(2, dtype="mixed_float16", name="bad")], "'bad' .*float16"),
        ("ibp", (3,), [Doubled(2, name="bad")], "'bad' of class Doubled"),
    ],
)
def test_refusals_name_the_layer(method, shape, layers, message):
    model = randomize(keras.Sequential([keras.Input(shape), *layers]), 0)
    with pytest.raises(UnsupportedLayerError, match=message) as refusal:
        DecomonBackend(model, method)
    assert "Use method='crown'" in str(refusal.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (branching, "class Add makes the model .*branch"),
        (half_used, "makes the model .*branch"),
        (functions_of_tensors, "class Multiply cannot be bounded with method='decomon:"),
        (two_outputs, "2 outputs"),
    ],
)
def test_refusals_of_models(build, message):
    with pytest.raises(UnsupportedLayerError, match=message):
        DecomonBackend(build(), "forward-ibp")


def test_refusals_of_arguments():
    model = NETWORKS["dense_relu"]()
    with pytest.raises(ValueError, match=r"decomon's methods are .*Received: 'alpha-crown'"):
        DecomonBackend(model, "alpha-crown")
    backend = DecomonBackend(model, "ibp")
    inputs = centers(model)
    for norm in (1, 2):
        with pytest.raises(ValueError, match=rf"norm=inf.*method='crown'.*norm={norm}"):
            backend.bound_rows(Ball(inputs, 0.1, norm))
    with pytest.raises(ValueError, match=r"shape \(5,\).*Received: inputs of shape \(4,\)"):
        backend.bound_rows(Ball(inputs[:, :4], 0.1))
    with pytest.raises(ValueError, match=r"\(S, 3\) or \(6, S, 3\).*Received: \(2, 4\)"):
        backend.bound_rows(Ball(inputs, 0.1), np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"Received: \(5, 2, 3\)"):
        backend.bound_rows(Ball(inputs, 0.1), np.ones((5, 2, 3)))
