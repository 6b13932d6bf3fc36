"""What depends on the device: kernels of convolutions, the memory budget, where graphs run.

There is no GPU here. What would be done on one is done on the CPU.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from networks import sequential

from xcertify.bounds import Verifier, backend
from xcertify.bounds.rules import kernels
from xcertify.regions import Ball

L = keras.layers
LENGTHS = (9, 8, 7)


@pytest.fixture
def as_on_gpu(monkeypatch):
    """Everything is done as if there were a GPU and it computed."""
    monkeypatch.setattr(backend, "accelerators", lambda: ["GPU:0"])
    monkeypatch.setattr(backend, "on_cpu", lambda: False)


def with_gradient(function, inputs):
    """Values, and the gradient of a sum of them with weights 0, 1, 2, ..."""
    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        values = function(inputs)
        weights = tf.reshape(tf.range(tf.size(values)), values.shape)
        total = tf.reduce_sum(values * tf.cast(weights, values.dtype))
    return values.numpy(), tape.gradient(total, inputs).numpy()


def settings():
    """Number of axes, window, strides, padding, dilation."""
    for padding in ("valid", "same"):
        for rank, size, stride, dilation in (
            *((1, 3, 1, 1), (1, 2, 3, 1), (1, 3, 1, 2), (2, 1, 1, 1), (2, 3, 1, 1), (2, 3, 2, 1)),
            *((2, 2, 3, 1), (2, 3, 1, 2), (3, 2, 1, 1), (3, 3, 2, 1)),
        ):
            yield rank, (size,) * rank, (stride,) * rank, padding, (dilation,) * rank


@pytest.mark.parametrize("kind", ["conv", "depthwise_conv", "conv_transpose"])
def test_products_of_matrices_are_convolutions(kind, monkeypatch):
    generator = np.random.default_rng(0)
    compared = 0
    for rank, size, strides, padding, dilation in settings():
        if (kind == "depthwise_conv" and rank == 3) or (kind != "conv" and max(dilation) > 1):
            continue
        inputs = generator.normal(size=(2, *LENGTHS[:rank], 3))
        shape = {"conv": (3, 5), "depthwise_conv": (3, 2), "conv_transpose": (5, 3)}[kind]
        kernel = tf.constant(generator.normal(size=(*size, *shape)))
        more = (None, dilation) if kind == "conv_transpose" else (dilation,)

        def convolved(values):
            return getattr(kernels, kind)(values, kernel, strides, padding, *more)  # noqa: B023

        expected = with_gradient(convolved, inputs)
        monkeypatch.setattr(backend, "on_cpu", lambda: False)
        found = with_gradient(convolved, inputs)
        monkeypatch.undo()
        for one, other in zip(found, expected):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-9)
        compared += 1
    assert compared > 8


def network():
    """Convolutions of all kinds."""
    keras.utils.set_random_seed(0)
    return sequential(
        (9, 9, 2),
        *(L.Conv2D(3, 3, padding="same", activation="relu"), L.Conv2D(4, 3, strides=2)),
        *(L.ReLU(), L.DepthwiseConv2D(2, padding="same", activation="tanh")),
        *(L.Conv2DTranspose(3, 3, activation="relu"), L.SeparableConv2D(4, 2, dilation_rate=2)),
        *(L.MaxPooling2D(2), L.Flatten(), L.Dense(3)),
    )


def bounds_of(model, method):
    region = Ball(np.random.default_rng(0).random((2, 9, 9, 2), dtype="float32"), 0.01)
    return Verifier(model, method).bound_outputs(region)


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_a_proof_on_a_gpu_convolves_by_no_library(method, monkeypatch, request):
    model = network()
    expected = bounds_of(model, method)
    request.getfixturevalue("as_on_gpu")

    def refused(*_, **__):
        raise AssertionError("which algorithm that is, the library decides")

    symbolic = lambda x: isinstance(x, keras.KerasTensor)  # noqa: E731
    for name in ("conv", "depthwise_conv", "conv_transpose"):
        original = getattr(ops, name)
        monkeypatch.setattr(
            kernels.ops,
            name,
            lambda x, *args, f=original, **kwargs: (
                f(x, *args, **kwargs) if symbolic(x) else refused()
            ),
        )
    for one, other in zip(bounds_of(model, method), expected):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_on_a_cpu_nothing_changes(monkeypatch):
    assert backend.accelerators() == []
    assert backend.on_cpu()
    monkeypatch.setattr(backend, "accelerators", lambda: ["GPU:0"])
    with tf.device("CPU"):
        assert backend.on_cpu()
        in_a_graph = tf.function(lambda: tf.constant(backend.on_cpu()))
        assert in_a_graph()


def test_a_graph_made_for_the_cpu_stays_there(monkeypatch):
    function = lambda x: ops.matmul(x, x) + 1.0  # noqa: E731
    signature = [((3, 3), "float32")]
    free = backend._traced(function, signature).graph.get_operations()
    assert {operation.device for operation in free} == {""}
    monkeypatch.setattr(backend, "accelerators", lambda: ["GPU:0"])
    pinned = backend._traced(function, signature).graph.get_operations()
    devices = {operation.type: operation.device for operation in pinned}
    assert "CPU" in devices["MatMul"]


def test_a_model_is_called_on_the_cpu_where_that_can_be(as_on_gpu):
    assert "CPU" in backend.by_cpu(lambda: tf.zeros(2)).device
    calls = []

    def once_refused():
        calls.append(len(calls))
        if len(calls) == 1:
            raise tf.errors.UnimplementedError(None, None, "no such kernel")
        return "here"

    assert backend.by_cpu(once_refused) == "here"


def test_the_budget_follows_the_memory_of_the_device(monkeypatch):
    model = sequential((3,), L.Dense(4, "relu"), L.Dense(2))
    region = Ball(np.zeros((1, 3), "float32"), 0.1)
    assert backend.device_memory() is None
    assert Verifier(model).memory_budget == 2**30
    monkeypatch.setattr(backend, "device_memory", lambda: 80 * 2**30)
    large = Verifier(model)
    assert large.memory_budget == 20 * 2**30
    assert Verifier(model, memory_budget=1000).memory_budget == 1000
    monkeypatch.undo()
    for one, other in zip(large.bound_outputs(region), Verifier(model).bound_outputs(region)):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_tensorflow_tells_the_memory_of_a_device(monkeypatch):
    monkeypatch.setattr(backend, "on_cpu", lambda: False)
    assert backend.device_memory() > 2**20  # of the CPU, for which it is a fixed number
