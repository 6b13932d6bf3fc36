"""Logits of a model that ends with a softmax, without a trace in anything global."""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest
from keras import layers as L
from networks import NETWORKS

from xcertify.logits import logits_of
from xcertify.models import outputs_of


def classifier(head):
    inputs = keras.Input((4,))
    return keras.Model(inputs, head(L.Dense(5, "relu")(inputs)))


def name_of_a_new_model():
    inputs = keras.Input((1,), name="input")
    return keras.Model(inputs, inputs).name


@pytest.mark.parametrize(
    "head",
    [
        L.Dense(3, "softmax"),
        keras.Sequential([L.Dense(3), L.Softmax()]),
        keras.Sequential([L.Dense(3), L.Activation("softmax")]),
    ],
    ids=["activation", "layer", "nested"],
)
def test_softmax_is_left_out(head):
    model = classifier(head)
    points = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    logits = np.asarray(logits_of(model)(points))
    assert logits.shape == (6, 3)
    np.testing.assert_allclose(keras.ops.softmax(logits), model(points), rtol=1e-5)
    assert np.abs(logits.sum(axis=1) - 1).min() > 1e-3


def test_nothing_global_changes():
    model = classifier(L.Dense(3, "softmax"))
    state, number = random.getstate(), int(name_of_a_new_model().split("_")[-1])
    logits_of(model)(np.zeros((1, 4), "float32"))
    assert random.getstate() == state
    assert int(name_of_a_new_model().split("_")[-1]) == number + 1


@pytest.mark.parametrize("name", NETWORKS)
def test_layer_by_layer_a_model_gives_what_it_gives(name):
    model = NETWORKS[name]()
    generator = np.random.default_rng(0)
    shapes = [tuple(2 if size is None else size for size in t.shape) for t in model.inputs]
    x = [generator.normal(size=shape).astype("float32") for shape in shapes]
    x = x[0] if len(x) == 1 else x
    expected = model(x, training=False)
    if isinstance(expected, (dict, list, tuple)) or isinstance(x, list):
        return  # of several inputs or outputs
    found = outputs_of(model)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
