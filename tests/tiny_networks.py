"""Networks of two or three inputs and about eight neurons, whose worst values brute force finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as L
from networks import functional

# With as many inputs as asked for.
ARCHITECTURES: dict[str, Callable[[Any], Any]] = {}


def architecture(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Register a function of the input that returns three outputs."""
    ARCHITECTURES[build.__name__] = build
    return build


def chain(*activations: str, units: int = 4) -> Callable[[Any], Any]:
    """A dense layer for each activation, and one for the outputs."""

    def build(x: Any) -> Any:
        for name in activations:
            x = L.Dense(units, name)(x)
        return L.Dense(3)(x)

    return build


def tiny(build: Callable[[Any], Any] | str, nb_inputs: int = 2, seed: int = 0) -> keras.Model:
    """A model with random weights."""
    inputs = keras.Input((nb_inputs,))
    build = ARCHITECTURES[build] if isinstance(build, str) else build
    return draw_weights(functional(inputs, build(inputs)), seed)


def draw_weights(model: keras.Model, seed: int) -> keras.Model:
    """Other weights, large enough that activations turn within regions of radius 0.3."""
    generator = np.random.default_rng(seed)
    weights = []
    for variable in model.weights:
        shape = tuple(variable.shape)
        spread = 1.5 / np.sqrt(max(1, int(np.prod(shape[:-1])))) if len(shape) > 1 else 0.5
        values = generator.normal(0, spread, shape)
        if "variance" in variable.path or "gamma" in variable.path:
            values = generator.uniform(0.5, 2.0, shape)
        weights.append(values.astype("float32"))
    model.set_weights(weights)
    return model


@architecture
def relu(x: Any) -> Any:
    return chain("relu", "relu", units=6)(x)


@architecture
def one_layer(x: Any) -> Any:
    return chain("relu", units=8)(x)


@architecture
def two_kinks(x: Any) -> Any:
    return chain("hard_tanh", "relu6")(x)


@architecture
def convolution(x: Any) -> Any:
    x = L.Reshape((3, 3, 1))(L.Dense(9)(x))
    return L.Dense(3)(L.Flatten()(L.Conv2D(2, 2, activation="relu")(x)))


@architecture
def max_pooling(x: Any) -> Any:
    x = L.Reshape((3, 3, 1))(L.Dense(9)(x))
    x = L.ReLU()(L.MaxPooling2D(2)(L.Conv2D(3, 2)(x)))
    return L.Dense(3)(L.Dense(3, "relu")(L.Flatten()(x)))


@architecture
def average_pooling(x: Any) -> Any:
    x = L.Reshape((3, 3, 1))(L.Dense(9, "leaky_relu")(x))
    return L.Dense(3, "relu")(L.GlobalAveragePooling2D()(L.Conv2D(3, 2)(x)))


@architecture
def residual(x: Any) -> Any:
    x = L.Dense(4, "relu")(x)
    return L.Dense(3)(L.ReLU()(L.Add()([L.Dense(4)(x), x])))


@architecture
def concatenation(x: Any) -> Any:
    left = L.Dense(3, "relu")(x)
    right = L.Dense(3, "hard_tanh")(left)
    return L.Dense(3)(L.Concatenate()([right, left, x]))


@architecture
def batch_normalization(x: Any) -> Any:
    x = L.ReLU()(L.BatchNormalization()(L.Dense(4, use_bias=False)(x)))
    return L.Dense(3)(L.LeakyReLU(negative_slope=0.3)(L.BatchNormalization()(L.Dense(3)(x))))


@architecture
def slopes_of_each_neuron(x: Any) -> Any:
    return L.Dense(3)(L.PReLU()(L.Dense(4)(L.PReLU()(L.Dense(4)(x)))))


@architecture
def maxima(x: Any) -> Any:
    x = L.Maximum()([L.Dense(3)(x), L.Dense(3)(x), L.Dense(3)(x)])
    return L.Dense(3)(L.Subtract()([keras.ops.abs(x), L.Dense(3, "relu")(x)]))


@architecture
def smooth_residual(x: Any) -> Any:
    x = L.Dense(4, "tanh")(x)
    return L.Dense(3)(L.Activation("sigmoid")(L.Add()([L.Dense(4)(x), x])))


@architecture
def smooth_convolution(x: Any) -> Any:
    x = L.Reshape((3, 3, 1))(L.Dense(9)(x))
    x = L.MaxPooling2D(2)(L.Conv2D(2, 2, activation="gelu")(x))
    return L.Dense(3)(L.Dense(3, "silu")(L.Flatten()(x)))


@architecture
def functions(x: Any) -> Any:
    x = keras.ops.gelu(L.Dense(3)(x), approximate=True)
    return L.Dense(3)(L.Concatenate()([keras.ops.square(L.Dense(2)(x)), L.ELU(0.7)(x)]))


@architecture
def softmax_inside(x: Any) -> Any:
    return L.Dense(3)(L.Dense(3, "relu")(L.Softmax()(L.Dense(3)(x))))
