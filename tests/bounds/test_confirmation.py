"""Counterexamples are what the model itself returns, whatever kind of model it is."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from networks import functional, sequential

from xcertify.bounds import Verifier, register_affine, register_elementwise
from xcertify.bounds.branching import confirmation
from xcertify.bounds.branching.confirmation import confirm
from xcertify.bounds.graph.activations import RELU
from xcertify.regions import Ball, Box


def engine_of(model, **settings):
    return Verifier(model, **settings)._engine


def values_of(model, *inputs, output=0):
    """Outputs of the model, called with one input at a time, (N, K) float64."""
    found = []
    for number in range(len(inputs[0])):
        given = [array[number : number + 1] for array in inputs]
        sequential = isinstance(model, keras.Sequential)
        given = given[0] if sequential else keras.tree.pack_sequence_as(model.input, given)
        found.append(np.asarray(keras.tree.flatten(model(given, training=False))[output], "f8"))
    return np.concatenate(found).reshape(len(found), -1)


def questions(values, gap):
    """Of each point whether its first output is at most its value and a gap."""
    rows = np.zeros((len(values), 1, 1, values.shape[1]))
    rows[..., 0] = 1
    return rows, (values[:, 0] + gap)[:, None, None]


def points_of(shape, nb_points=5, seed=0):
    return np.random.default_rng(seed).normal(size=(nb_points, *shape)).astype("float32")


@pytest.fixture
def singles(monkeypatch):
    """How many points the model is called with one by one."""
    found, original = [], confirmation.evaluate_model

    def counted(model, inputs, *args, **how):
        found.append(len(inputs[0]))
        return original(model, inputs, *args, **how)

    monkeypatch.setattr(confirmation, "evaluate_model", counted)
    return found


def check(model, points, constants=(), output=0, outputs=None, alone=None, **settings):
    """Clear violations are confirmed and clear others are not, eagerly and compiled."""
    order = outputs or (lambda: values_of(model, points, *constants, output=output))
    values = order()
    for compiled in (False, True):
        engine = engine_of(model, compile=compiled, output=output, **settings)
        region = Box(points, points)
        for gap, expected in ((0.1, True), (-0.1, False)):
            rows, limits = questions(values, gap)
            _, found, violated = confirm(engine, region, points, rows, limits, constants)
            assert (violated == expected).all()
            np.testing.assert_allclose(found, -gap, rtol=1e-2)
    return engine


class Numpy(L.Layer):
    """A layer that no graph can hold."""

    def call(self, inputs):
        return ops.convert_to_tensor(np.maximum(np.asarray(inputs), 0))

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


class Single(Numpy):
    """A layer that takes one input at a time."""

    def call(self, inputs):
        if len(np.asarray(inputs)) > 1:
            raise ValueError("one at a time")
        return super().call(inputs)


register_elementwise(Numpy, RELU)
register_elementwise(Single, RELU)


def test_models_of_several_kinds(singles):
    plain = sequential((4,), L.Dense(6, "relu"), L.Dropout(0.5), L.Dense(3))
    check(plain, points_of((4,)))
    image = sequential(
        (4, 4, 2), L.RandomFlip(), L.Conv2D(3, 2, activation="tanh"), L.Flatten(), L.Dense(3)
    )
    check(image, points_of((4, 4, 2)))
    first, second = keras.Input((4,), name="b"), keras.Input((3,), name="a")
    joined = L.Dense(5, "relu")(L.Concatenate()([first, second]))
    outputs = [L.Dense(3)(joined), L.Dense(2)(joined)]
    points, constants = points_of((4,)), [points_of((3,), seed=1)]
    for given, settings in (([second, first], {}), ({"b": first, "a": second}, {"output": 1})):
        model = functional(given, outputs)  # the second input varies: "a" stands before "b"
        own = partial(values_of, model, *constants, points, **settings)
        check(model, points, constants, outputs=own, perturbed=1, **settings)
    assert singles == []


def test_fixed_batches(singles):
    inputs = keras.Input(batch_shape=(3, 4))
    model = functional(inputs, L.Dense(2)(L.Dense(5, "relu")(inputs)))
    points = points_of((4,), 7)
    repeated = [np.asarray(model(np.repeat(point[None], 3, axis=0)))[:1] for point in points]
    check(model, points, outputs=lambda: np.concatenate(repeated).astype("f8"))
    assert singles == []


def test_constants_that_are_whole_numbers(singles):
    tokens, varied = keras.Input((3,), dtype="int32"), keras.Input((4,))
    joined = L.Concatenate()([L.Rescaling(0.5)(tokens), varied])
    model = functional([varied, tokens], L.Dense(2)(L.Dense(5, "relu")(joined)))
    constants = [np.random.default_rng(0).integers(0, 5, (5, 3)).astype("float32")]
    check(model, points_of((4,)), constants)
    assert singles == []


def test_a_layer_that_no_graph_can_hold(singles):
    for head in (None, "softmax"):
        model = sequential((4,), L.Dense(6), Numpy(), L.Dense(3, head))
        logits = keras.Model(model.inputs, model.layers[-2].output)
        weights = [w.numpy() for w in model.layers[-1].weights]

        def outputs(logits=logits, weights=weights):
            return values_of(logits, points_of((4,))) @ weights[0] + weights[1]

        engine = check(model, points_of((4,)), outputs=outputs, strip_head=True)
        assert singles == []
        # and it is not tried to make a graph of it again
        model_alone = engine.compiled(("model",), None, ())
        assert model_alone._is_impossible and model_alone._graph is None


@pytest.mark.parametrize("head", [None, "softmax"])
def test_models_that_cannot_be_called_with_several(singles, head):
    model = sequential((4,), L.Dense(6), Single(), L.Dense(3, head))
    logits = sequential((4,), L.Dense(6, "relu"), L.Dense(3))
    logits.set_weights(model.get_weights())
    outputs = lambda: values_of(logits, points_of((4,)))  # noqa: E731
    check(model, points_of((4,)), outputs=outputs, strip_head=True)
    assert singles


def test_half_precision_is_called_with_one(singles):
    """Its roundings are no proved ones: what several inputs together give says nothing of one."""
    policy = keras.mixed_precision.Policy("mixed_float16")
    model = sequential((4,), L.Dense(6, "relu", dtype=policy), L.Dense(3, dtype="float32"))
    points = points_of((4,))
    values = values_of(model, points)
    rows, limits = questions(values, 0.1)
    _, _, violated = confirm(engine_of(model), Box(points, points), points, rows, limits)
    assert violated.all() and singles == [len(points)]


def test_near_ties_are_called_with_one(singles):
    model = sequential((30,), L.Dense(40, "relu"), L.Dense(3))
    points = points_of((30,), 20)
    values = values_of(model, points)
    engine, region = engine_of(model), Box(points, points)
    rows, limits = questions(values, 0.0)
    _, found, violated = confirm(engine, region, points, rows, limits)
    assert sum(singles) == (found <= 0).sum()
    assert (violated == (found <= 0)).all()  # the limits are what the model returns
    singles.clear()
    _, _, violated = confirm(engine, region, points, *questions(values, -1e-9))
    assert not violated.any()
    _, _, violated = confirm(engine, region, points, *questions(values, 1e-2))
    assert violated.all() and len(singles) <= 1


def test_several_points_are_called_once(monkeypatch):
    model = sequential((4,), L.Dense(6, "relu"), L.Dense(3))
    points = points_of((4,), 50)
    rows, limits = questions(values_of(model, points), 0.1)
    engine, calls, original = engine_of(model, compile=False), [], type(model).__call__

    def counted(self, inputs, **how):
        calls.append(len(inputs))
        return original(self, inputs, **how)

    monkeypatch.setattr(type(model), "__call__", counted)
    assert confirm(engine, Box(points, points), points, rows, limits)[2].all()
    assert calls == [50]


@pytest.mark.parametrize("compile", [False, True])
def test_models_that_change_between_calls(compile):
    model = sequential((4,), L.Dense(6, "relu"), L.Dense(3))
    points = points_of((4,))
    verifier, region = Verifier(model, compile=compile), Box(points, points)
    for seed in range(3):
        generator = np.random.default_rng(seed)
        model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
        values = values_of(model, points)
        for gap, expected in ((0.1, True), (-0.1, False)):
            rows, limits = questions(values, gap)
            violated = confirm(verifier._engine, region, points, rows, limits)[2]
            assert (violated == expected).all()
    model.layers[0].activation = keras.activations.tanh
    values = values_of(model, points)
    rows, limits = questions(values, 0.1)
    assert confirm(verifier._engine, region, points, rows, limits)[2].all()
    assert not confirm(verifier._engine, region, points, *questions(values, -0.1))[2].any()


def test_what_the_model_returns_and_not_what_its_graph_says():
    """A declaration that is not true outside of what was compared proves no counterexample."""

    class Limited(L.Layer):
        def call(self, inputs):
            return ops.where(inputs > 1e4, 0 * inputs, inputs)

    register_affine(Limited)
    for head in (None, "softmax"):
        model = sequential((1,), L.Dense(1, use_bias=False), Limited(), L.Dense(2, head))
        model.set_weights([np.ones((1, 1)), np.float32([[1, -1]]), np.zeros(2)])
        points = np.float32([[2.0], [2e4]])
        rows, limits = questions(np.zeros((2, 2)), -1.0)
        rows = -rows  # -f <= -1: the first output is at least 1
        region = Box(points, points)
        for compiled in (False, True):
            engine = engine_of(model, compile=compiled, strip_head=True)
            violated = confirm(engine, region, points, rows, limits)[2]
            assert violated.tolist() == [True, False]


@pytest.mark.parametrize("head", [None, "softmax"])
def test_decisions_call_no_model_with_one(singles, head):
    model = sequential((4,), L.Dense(6, "relu"), L.Dense(6, "relu"), L.Dense(3, head))
    region = Ball(points_of((4,), 8), 0.5)
    rows = np.tile(np.float32([[1, -1, 0]]), (8, 1, 1))
    verifier = Verifier(model, strip_head=True)
    decision = verifier.decide(region, rows, np.zeros((8, 1)), timeout=None)
    assert decision.violated.any()
    assert singles == []
    shown = decision.counterexamples[decision.violated]
    values = values_of(model, shown)
    assert (values[:, 0] <= values[:, 1]).all()
