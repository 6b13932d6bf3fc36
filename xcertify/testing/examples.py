"""The small models and inputs that explainers are tried on, and copies of models."""

from __future__ import annotations

import gc
import random
import weakref

import keras
import numpy as np
from keras import layers

SHAPES: dict[str, tuple[int, ...]] = {"images": (6, 5, 2), "time series": (6, 3), "tabular": (7,)}
_NB_INPUTS = 3  # as many as classes, so that one cannot be taken for the other unnoticed


def small_model(shape: tuple[int, ...]) -> keras.Model:
    """Three classes and ReLU; for images a convolution, else a dense layer."""
    # Zeros at first, since random initializers would draw from the global generator.
    settings = {"kernel_initializer": "zeros"}
    if len(shape) == 3:
        body = [
            layers.Conv2D(4, 2, activation="relu", name="convolution", **settings),
            layers.GlobalAveragePooling2D(name="pooling"),
        ]
    else:
        body = [layers.Flatten(name="flatten"), layers.Dense(6, "relu", name="dense", **settings)]
    head = layers.Dense(_NB_INPUTS, name="logits", **settings)
    model = keras.Sequential([keras.Input(shape, name="inputs"), *body, head], name="small_model")
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


def some_inputs(shape: tuple[int | None, ...] | None) -> np.ndarray:
    """Three inputs at random between 0 and 1."""
    known = [size for size in shape or () if size is not None]
    if shape is None or len(known) < len(shape):
        raise ValueError(
            f"inputs must be given for a model without a fixed input shape. Received: {shape}"
        )
    return np.random.default_rng(1).random((_NB_INPUTS, *known), np.float32)


def copy_of(model: keras.Model, weights: list[np.ndarray] | None = None) -> keras.Model:
    """A model of the same layers, with the same weights or given ones."""
    state = random.getstate()  # layers take seeds from it, if only to have their weights replaced
    copy = keras.models.clone_model(model)
    random.setstate(state)
    copy.set_weights(model.get_weights() if weights is None else weights)
    return copy


def is_released(model: weakref.ref) -> bool:
    """Whether nothing keeps a model alive."""
    for _ in range(2):  # what a finalizer lets go of is found in the second
        gc.collect()
        if model() is None:
            return True
    return False
