"""Settings of Verifier beyond the common case: methods, inputs and outputs, layers of one's own."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance import adversarial_points, assert_sound, in_float64
from networks import NETWORKS, functional, sequential
from rotation import rotating

from xcertify.bounds import (
    Activation,
    UnsupportedLayerError,
    Verifier,
    register_affine,
    register_elementwise,
)
from xcertify.bounds.graph import operations
from xcertify.bounds.graph.operations import Relaxed
from xcertify.bounds.propagation.refinement import BackwardBounds
from xcertify.bounds.rules import weighted
from xcertify.regions import Ball

L = keras.layers


def inputs_of(model, nb_samples=3, seed=1):
    generator = np.random.default_rng(seed)
    return generator.uniform(0, 1, (nb_samples, *model.input_shape[1:])).astype("float32")


def width(bounds):
    return bounds[1] - bounds[0]


OPTIMIZED = ["dense_relu", "max_pooling", "dense_tanh", "residual"]


def check_alpha_crown(name):
    model = NETWORKS[name]()
    region = Ball(inputs_of(model), [0.3, 0.05, 1e-4])
    lower, upper = assert_sound(model, region, "alpha-crown")
    crown = Verifier(model, "crown").bound_outputs(region)
    size = 1e-5 * np.abs(upper - lower)
    assert (lower >= crown[0] - size).all()
    assert (upper <= crown[1] + size).all()
    assert width((lower, upper)).sum() < 0.999 * width(crown).sum()


@pytest.mark.parametrize("name", [OPTIMIZED[i] for i in rotating(4, 2)])
def test_alpha_crown_is_sound_and_never_looser_than_crown(name):
    check_alpha_crown(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZED)
def test_alpha_crown_on_every_network(name):
    check_alpha_crown(name)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("lower_slope", ["parallel", "left", "right"])
@pytest.mark.parametrize("name", ["dense_relu", "dense_gelu"])
def test_lower_slopes_are_sound_and_differ(name, lower_slope):
    model = NETWORKS[name]()
    region = Ball(inputs_of(model), [0.3, 0.05, 1e-4])
    bounds = assert_sound(model, region, "crown-ibp", lower_slope=lower_slope)
    adaptive = Verifier(model, "crown-ibp").bound_outputs(region)
    assert np.abs(width(bounds) - width(adaptive)).max() > 1e-3


def test_lower_slopes_of_relu_by_hand():
    model = sequential((1,), L.Dense(1, "relu"), L.Dense(1))
    model.set_weights([np.ones((1, 1)), np.zeros(1), np.ones((1, 1)), np.zeros(1)])
    region = Ball([[0.5]], 1.0)  # pre-activation in [-.5, 1.5]
    expected = {"left": (0.0, 0.0), "right": (1.0, 0.0), "parallel": (0.75, 0.0)}
    for rule, (slope, intercept) in expected.items():
        lines = Verifier(model, "crown", lower_slope=rule).linear_bounds(region)
        np.testing.assert_allclose(lines.lower_coefficients.item(), slope, atol=1e-6)
        np.testing.assert_allclose(lines.lower_bias.item(), intercept + slope * 0.5, atol=1e-5)


def two_inputs():
    first, second = keras.Input((4,), name="first"), keras.Input((3,), name="second")
    x = L.Dense(5, "relu")(first)
    y = L.Multiply()([x, L.Dense(5, "tanh")(second)])
    z = L.Dot(axes=1)([y, x])
    outputs = {"a": L.Dense(2, name="a")(L.Concatenate()([y, z])), "b": L.Dense(3, name="b")(x)}
    return functional([first, second], [outputs["a"], outputs["b"]])


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("perturbed", [0, "second"])
def test_one_of_several_inputs_varies(perturbed):
    model = two_inputs()
    generator = np.random.default_rng(0)
    values = [generator.uniform(0, 1, (3, size)).astype("f4") for size in (4, 3)]
    number = 0 if perturbed == 0 else 1
    region = Ball(values[number], np.reshape([0.3, 0.1, 0.0], (3, 1)))
    exact = in_float64(model)
    for output in (0, 1):
        corners = np.where(generator.random((300, *region.center.shape)) < 0.5, -1.0, 1.0)
        points = np.where(corners < 0, region.lower, region.upper).astype("f8")
        found = []
        for point in points:
            inputs = list(values)
            inputs[number] = point
            found.append(exact([v.astype("f8") for v in inputs])[output].numpy())
        for method in ("ibp", "crown-ibp", "crown"):
            verifier = Verifier(model, method, perturbed=perturbed, output=output)
            lower, upper = verifier.bound_outputs(region, [values[1 - number]])
            assert (lower <= np.min(found, axis=0)).all()
            assert (np.max(found, axis=0) <= upper).all()
    if number == 1:  # output b does not depend on the second input
        np.testing.assert_allclose(lower, upper, atol=1e-5)


def test_outputs_by_name_and_bad_names():
    model = two_inputs()
    with pytest.raises(ValueError, match="perturbed must be a number below 2 or one of first"):
        Verifier(model, perturbed="third")
    with pytest.raises(ValueError, match="output must be a number below 2"):
        Verifier(model, output=2)
    with pytest.raises(ValueError, match=r"constants must hold the other inputs.*\(2, 3\)"):
        Verifier(model).bound_outputs(Ball(np.zeros((2, 4)), 0.1))


def test_stable_neurons_need_no_row(monkeypatch, tmp_path):
    model = sequential((4,), L.Dense(6, "relu"), L.Dense(6, "relu"), L.Dense(2))
    original, record = BackwardBounds.upper_bounds, tmp_path / "rows"

    def counted(self, route, rows, *args):
        tf.print(tf.shape(rows)[1], output_stream=f"file://{record}")
        return original(self, route, rows, *args)

    monkeypatch.setattr(BackwardBounds, "upper_bounds", counted)
    Verifier(model, "crown").bound_outputs(Ball(inputs_of(model, 1), 0.0))
    # Two outputs, by intervals and by lines, and no hidden neuron.
    assert record.read_text().split() == ["2", "2"]


@register_affine
class Difference(L.Layer):
    """An affine layer of one's own, with weights."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1] - 1,), initializer="ones")

    def call(self, inputs):
        return (inputs[:, 1:] - inputs[:, :-1]) * self.scale + 0.25

    def compute_output_shape(self, shape):
        return (shape[0], shape[1] - 1)


class Square(L.Layer):
    """An elementwise layer of one's own."""

    def call(self, inputs):
        return inputs * inputs


class Scaled(L.Layer):
    """An elementwise layer with a parameter."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        return keras.ops.relu(inputs) * self.factor

    def get_config(self):
        return super().get_config() | {"factor": self.factor}


def test_layers_of_ones_own():
    facts = Activation("square", lambda z: z * z, lambda z: 2 * z, extrema=(0.0,), curvature=2.0)
    register_elementwise(Square, facts)
    register_elementwise(
        Scaled,
        lambda layer: Activation(
            "scaled",
            lambda z: keras.ops.relu(z) * layer.factor,
            lambda z: keras.ops.cast(z > 0, z.dtype) * layer.factor,
            kinks=(0.0,),
        ),
    )
    model = sequential(
        (5,), L.Dense(6), Difference(), Square(), L.Dense(4), Scaled(factor=-2.0), L.Dense(3)
    )
    region = Ball(inputs_of(model), [0.2, 0.01, 0.0])
    points = adversarial_points(model, region, 100, 0).astype("f4")
    values = np.stack([model(point).numpy() for point in points])
    for method in ("ibp", "crown-ibp", "crown"):
        lower, upper = Verifier(model, method).bound_outputs(region)
        assert (lower <= values + 2e-6).all()
        assert (values <= upper + 2e-6).all()
        np.testing.assert_allclose(upper[2], lower[2], atol=1e-4)


def test_an_affine_layer_of_ones_own_is_exact():
    model = sequential((5,), Difference(), L.Dense(2))
    region = Ball(inputs_of(model), 0.1)
    kernel, bias = model.layers[1].get_weights()
    matrix = (np.eye(5)[:, 1:] - np.eye(5)[:, :-1]) * model.layers[0].get_weights()[0] @ kernel
    center = region.center @ matrix + 0.25 * kernel.sum(axis=0) + bias
    reach = 0.1 * np.abs(matrix).sum(axis=0)
    lower, upper = Verifier(model, "crown").bound_outputs(region)
    np.testing.assert_allclose(lower, center - reach, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(upper, center + reach, rtol=1e-4, atol=1e-5)


def test_subclasses_of_known_layers_are_refused():
    class MyDense(L.Dense):
        def call(self, inputs):
            return super().call(inputs) ** 2

    with pytest.raises(UnsupportedLayerError, match="MyDense"):
        Verifier(sequential((3,), MyDense(2)))


def test_nothing_global_changes():
    model = NETWORKS["convolutions"]()
    model.compile("adam", "mse")
    model.train_on_batch(inputs_of(model), np.zeros((3, 3)))
    before = [v.numpy().copy() for v in (*model.variables, *model.optimizer.variables)]
    names = [v.path for v in model.variables]
    state = (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        keras.config.floatx(),
        keras.config.backend(),
        tf.executing_eagerly(),
        tf.config.experimental.tensor_float_32_execution_enabled(),
        keras.mixed_precision.dtype_policy().name,
    )
    for method in ("ibp", "crown-ibp", "crown", "alpha-crown"):
        Verifier(model, method, dtype="float64").bound_outputs(Ball(inputs_of(model), 0.1))
    after = (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        keras.config.floatx(),
        keras.config.backend(),
        tf.executing_eagerly(),
        tf.config.experimental.tensor_float_32_execution_enabled(),
        keras.mixed_precision.dtype_policy().name,
    )
    assert state == after
    assert names == [v.path for v in model.variables]
    for value, variable in zip(before, (*model.variables, *model.optimizer.variables)):
        assert (value == variable.numpy()).all()


def test_settings_that_decomon_does_not_have():
    model = sequential((3,), L.Dense(4, "relu"), L.Dense(2))
    with pytest.raises(ValueError, match="arithmetic can be chosen with the methods"):
        Verifier(model, "decomon:crown", arithmetic="float32")
    with pytest.raises(ValueError, match="linear_bounds is not available"):
        Verifier(model, "decomon:crown").linear_bounds(Ball(np.zeros((1, 3)), 0.1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lower_slope": "steep"}, "lower_slope must be one of adaptive"),
        ({"nb_steps": 0}, "nb_steps must be a whole number above 0"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"arithmetic": "exact"}, "arithmetic must be 'real' or 'float32'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Verifier(NETWORKS["dense_relu"](), **settings)


def test_large_tensors_and_kernels_are_bounded_in_parts(monkeypatch):
    model = sequential(
        (8, 8, 2),
        L.Conv2D(3, 3, activation="tanh"),
        L.MaxPooling2D(2),
        L.Conv2D(4, 2, activation="relu"),
        L.Flatten(),
        L.Dense(6, "relu"),
        L.Dense(2),
    )
    region = Ball(inputs_of(model), 0.1)
    whole = Verifier(model, "crown").bound_outputs(region)
    monkeypatch.setattr(operations, "_LARGEST_PART", 10)
    monkeypatch.setattr(weighted, "_LARGE_KERNEL", 12)
    again = keras.models.clone_model(model)  # of which nothing has been read yet
    again.set_weights(model.get_weights())
    parted = Verifier(again, "crown").bound_outputs(region)
    np.testing.assert_allclose(parted, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((9,), lambda: L.Conv1D(3, 4, 3, "same")),
        ((11,), lambda: L.Conv1D(3, 3, 2, "causal")),
        ((8, 7), lambda: L.Conv2D(4, (4, 3), 2, "same", groups=2)),
        ((9, 8), lambda: L.Conv2D(3, 2, (3, 2), "valid")),
        ((5, 6, 7), lambda: L.Conv3D(2, 3, (1, 2, 3), "same")),
    ],
)
def test_strided_convolutions_are_transposed_rightly(shape, layer):
    model = sequential((*shape, 2), layer())
    graph = Verifier(model)._engine.graph
    operation = graph.nodes[1].operation
    shapes = [graph.nodes[0].shape]
    rows = np.random.default_rng(0).normal(size=(2, 1, 3, *graph.nodes[1].shape)).astype("float32")
    (fast,) = operation.pull_back(keras.ops.convert_to_tensor(rows), Relaxed(), shapes)
    operation.transposed = None
    (slow,) = operation.pull_back(keras.ops.convert_to_tensor(rows), Relaxed(), shapes)
    np.testing.assert_allclose(fast, slow, rtol=1e-5, atol=1e-5)
