"""Small networks, at least one for every supported layer and activation."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import layers as L

NETWORKS: dict[str, Callable[[], keras.Model]] = {}


def network(build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    """Register a builder under its name."""
    NETWORKS[build.__name__] = build
    return build


def randomize(model: keras.Model, seed: int) -> keras.Model:
    """Weights that are neither small nor symmetric, from a seed of their own."""
    generator = np.random.default_rng(seed)
    weights = []
    for variable in model.weights:
        shape = tuple(variable.shape)
        fan_in = max(1, int(np.prod(shape[:-1])))
        values = generator.normal(0.1, 1.0, shape) / np.sqrt(fan_in)
        if "variance" in variable.path:
            values = generator.uniform(0.2, 2.0, shape)
        weights.append(values.astype("float32"))
    model.set_weights(weights)
    return model


def sequential(shape: tuple[int, ...], *layers: L.Layer, seed: int = 0) -> keras.Model:
    """A Sequential model with random weights."""
    return randomize(keras.Sequential([keras.Input(shape), *layers]), seed)


def functional(inputs: object, outputs: object, seed: int = 0) -> keras.Model:
    """A functional model with random weights."""
    return randomize(keras.Model(inputs, outputs), seed)


@network
def dense_relu() -> keras.Model:
    return sequential((5,), L.Dense(9, "relu"), L.Dense(8, "relu"), L.Dense(3))


@network
def dense_relu_as_layers() -> keras.Model:
    return sequential(
        (5,), L.Dense(9), L.Activation("relu"), L.Dense(8, use_bias=False), L.ReLU(), L.Dense(3)
    )


@network
def dense_leaky_relu() -> keras.Model:
    return sequential(
        (5,),
        L.Dense(9, "leaky_relu"),
        L.Dense(8),
        L.LeakyReLU(negative_slope=0.3),
        L.Dense(8),
        L.ReLU(negative_slope=0.1),
        L.Dense(3),
    )


@network
def dense_sigmoid() -> keras.Model:
    return sequential((5,), L.Dense(9, "sigmoid"), L.Dense(8, "sigmoid"), L.Dense(3))


@network
def dense_tanh() -> keras.Model:
    return sequential((5,), L.Dense(9), L.Activation("tanh"), L.Dense(8, "tanh"), L.Dense(3))


@network
def sigmoid_output() -> keras.Model:
    return sequential((5,), L.Dense(9, "relu"), L.Dense(1, "sigmoid"))


@network
def softmax_output() -> keras.Model:
    return sequential((5,), L.Dense(9, "relu"), L.Dense(3, "softmax"))


@network
def softmax_layer_output() -> keras.Model:
    return sequential((5,), L.Dense(9, "relu"), L.Dense(3), L.Softmax())


@network
def dense_on_time_series() -> keras.Model:
    return sequential((4, 3), L.Dense(5, "relu"), L.Flatten(), L.Dense(6, "tanh"), L.Dense(3))


@network
def convolutions() -> keras.Model:
    return sequential(
        (6, 7, 2),
        L.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
        L.Conv2D(3, (2, 3), activation="relu"),
        L.Flatten(),
        L.Dense(3),
    )


@network
def batch_normalization() -> keras.Model:
    return sequential(
        (6, 6, 2),
        L.BatchNormalization(),
        L.Conv2D(3, 3, use_bias=False),
        L.BatchNormalization(),
        L.ReLU(),
        L.Flatten(),
        L.Dense(6),
        L.BatchNormalization(scale=False),
        L.Activation("sigmoid"),
        L.Dropout(0.5),
        L.Dense(3),
    )


@network
def max_pooling() -> keras.Model:
    return sequential(
        (7, 6, 1),
        L.Conv2D(3, 3, padding="same", activation="relu"),
        L.MaxPooling2D(2),
        L.Conv2D(4, 2, activation="tanh"),
        L.MaxPooling2D(2, strides=1, padding="same"),
        L.Flatten(),
        L.Dense(3),
    )


@network
def max_pooling_before_activation() -> keras.Model:
    return sequential(
        (7, 7, 1),
        L.Conv2D(3, 2),
        L.MaxPooling2D(3, strides=2, padding="same"),
        L.ReLU(),
        L.Conv2D(3, 2),
        L.GlobalMaxPooling2D(),
        L.Dense(3),
    )


@network
def average_pooling() -> keras.Model:
    return sequential(
        (7, 6, 2),
        L.Conv2D(4, 2, activation="relu"),
        L.AveragePooling2D(2, padding="same"),
        L.Conv2D(4, 2, activation="relu"),
        L.GlobalAveragePooling2D(),
        L.Dense(3),
    )


@network
def reshape() -> keras.Model:
    return sequential(
        (12,),
        L.Dense(12, "relu"),
        L.Reshape((2, 3, 2)),
        L.Conv2D(3, 2, activation="relu"),
        L.GlobalAveragePooling2D(keepdims=True),
        L.Flatten(),
        L.Dense(2),
    )


@network
def residual() -> keras.Model:
    inputs = keras.Input((5, 5, 2))
    x = L.Conv2D(3, 3, padding="same", activation="relu")(inputs)
    y = L.Conv2D(3, 3, padding="same")(x)
    x = L.ReLU()(L.Add()([x, y]))
    y = L.Conv2D(3, 1)(x)
    x = L.Add()([x, y, x])
    return functional(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(L.Activation("tanh")(x))))


@network
def branches() -> keras.Model:
    inputs = keras.Input((6,))
    left = L.Dense(5, "relu")(inputs)
    right = L.Dense(4, "sigmoid")(L.Dense(5, "relu")(left))
    x = L.Concatenate()([left, right, inputs])
    return functional(inputs, L.Dense(3)(L.Dense(6, "relu")(x)))


@network
def nested_and_shared() -> keras.Model:
    inner_inputs = keras.Input((4,))
    inner = keras.Model(inner_inputs, L.Dense(4, "relu")(L.Dense(5, "tanh")(inner_inputs)))
    block = keras.Sequential([keras.Input((4,)), L.Dense(4, "relu"), inner])
    shared = L.Dense(4, "relu")
    inputs = keras.Input((4,))
    x = shared(inputs)
    x = L.Add()([block(x), shared(x)])
    return functional(inputs, L.Dense(2)(block(x)))
