"""Recurrent layers and wrappers against Keras: arguments, masks, states and what is refused.

In the manner of `test_rules`. Read in Keras 3.15 and 3.10: `unroll`, `use_cudnn` and
`implementation` change how a step is computed and not what, `dropout`, `recurrent_dropout` and
`seed` nothing at inference. A mask that the sequence carries is not looked at where a state is
given, too. A masked first step has the output 0, whatever the first state.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conformance import in_float64
from keras import layers as L
from keras import ops
from networks import randomize
from rotation import in_turn
from test_rules import assert_agrees, assert_refused, graph_values

from xcertify.bounds import Verifier
from xcertify.bounds.graph.gated import Gated
from xcertify.bounds.graph.mixture import Mixture
from xcertify.bounds.graph.operations import Enclosure, Options
from xcertify.bounds.graph.translation import build_graph
from xcertify.bounds.rules.registry import find_rule
from xcertify.regions import Ball

pytestmark = pytest.mark.usefixtures("eager")

SHAPE = (3, 2)
SEQUENCES = {"return_sequences": True}


def of_steps(layer, *others):
    """A layer on a sequence, and layers behind it."""

    def build(sequence):
        for part in (layer, *others):
            sequence = part()(sequence)
        return sequence

    return build


def with_states(layer, nb_states):
    """A layer that is given its first states, made of the sequence."""
    return lambda x: layer()(
        x, initial_state=[L.Dense(2)(x[:, number % 3]) for number in range(nb_states)]
    )


def flat(layer):
    """All outputs of a layer in one row."""

    def build(sequence):
        parts = [
            part if len(part.shape) == 2 else part[:, 1]
            for part in keras.tree.flatten(layer()(sequence))
        ]
        return L.Concatenate()(parts)

    return build


LAYERS = {
    "simple": of_steps(lambda: L.SimpleRNN(2)),
    "simple_no_bias": of_steps(lambda: L.SimpleRNN(2, "relu", use_bias=False)),
    "simple_softmax": of_steps(lambda: L.SimpleRNN(2, "softmax")),
    "lstm": of_steps(lambda: L.LSTM(2)),
    "lstm_no_bias": of_steps(lambda: L.LSTM(2, use_bias=False, unit_forget_bias=False)),
    "lstm_activations": of_steps(lambda: L.LSTM(2, "softsign", "hard_sigmoid")),
    "lstm_linear": of_steps(lambda: L.LSTM(2, None, None)),
    "lstm_softmax_gates": of_steps(lambda: L.LSTM(2, recurrent_activation="softmax")),
    "lstm_one_unit": of_steps(lambda: L.LSTM(1)),
    "lstm_dropout": of_steps(lambda: L.LSTM(2, dropout=0.5, recurrent_dropout=0.5, seed=1)),
    "lstm_unrolled": of_steps(lambda: L.LSTM(2, unroll=True, use_cudnn=False)),
    "gru": of_steps(lambda: L.GRU(2)),
    "gru_before": of_steps(lambda: L.GRU(2, reset_after=False)),
    "gru_no_bias": of_steps(lambda: L.GRU(2, use_bias=False)),
    "gru_before_no_bias": of_steps(lambda: L.GRU(2, reset_after=False, use_bias=False)),
    "gru_activations": of_steps(lambda: L.GRU(2, "relu", "hard_sigmoid")),
    "cell_of_one_kernel": of_steps(lambda: L.RNN(L.LSTMCell(2, implementation=1))),
    "cells": of_steps(lambda: L.RNN([L.LSTMCell(2), L.GRUCell(2), L.SimpleRNNCell(2)])),
    "cell_in_a_stack": of_steps(lambda: L.RNN(L.StackedRNNCells([L.GRUCell(2)]))),
    "sequences": of_steps(lambda: L.LSTM(2, **SEQUENCES)),
    "backwards": of_steps(lambda: L.LSTM(2, go_backwards=True)),
    "sequences_backwards": of_steps(lambda: L.GRU(2, go_backwards=True, **SEQUENCES)),
    "two_layers": of_steps(lambda: L.GRU(2, **SEQUENCES), lambda: L.SimpleRNN(2)),
    "states": flat(lambda: L.LSTM(2, return_state=True)),
    "states_of_cells": flat(
        lambda: L.RNN([L.LSTMCell(2), L.GRUCell(2)], return_state=True, **SEQUENCES)
    ),
    "first_state": with_states(lambda: L.GRU(2), 1),
    "first_states": with_states(lambda: L.LSTM(2, **SEQUENCES), 2),
    "first_state_constant": lambda x: L.GRU(2)(x, initial_state=np.full((1, 2), 0.3, "float32")),
    "first_states_of_cells": lambda x: L.RNN([L.LSTMCell(2), L.GRUCell(2)])(
        x, initial_state=[[L.Dense(2)(x[:, 0])] * 2, [L.Dense(2)(x[:, 1])]]
    ),
    "both_ways": of_steps(lambda: L.Bidirectional(L.LSTM(2))),
    "both_ways_sequences": of_steps(lambda: L.Bidirectional(L.GRU(2, **SEQUENCES))),
    "both_ways_sum": of_steps(lambda: L.Bidirectional(L.SimpleRNN(2), merge_mode="sum")),
    "both_ways_product": of_steps(lambda: L.Bidirectional(L.SimpleRNN(2), merge_mode="mul")),
    "both_ways_mean": of_steps(
        lambda: L.Bidirectional(L.SimpleRNN(2, **SEQUENCES), merge_mode="ave")
    ),
    "both_ways_apart": flat(lambda: L.Bidirectional(L.SimpleRNN(2, **SEQUENCES), merge_mode=None)),
    "both_ways_states": flat(
        lambda: L.Bidirectional(L.LSTM(2, return_state=True, **SEQUENCES), merge_mode=None)
    ),
    "both_ways_first_states": with_states(lambda: L.Bidirectional(L.LSTM(2)), 4),
    "both_ways_of_two_kinds": of_steps(
        lambda: L.Bidirectional(
            L.LSTM(2, **SEQUENCES), backward_layer=L.GRU(2, go_backwards=True, **SEQUENCES)
        )
    ),
    "each_step_dense": of_steps(lambda: L.TimeDistributed(L.Dense(2, "softmax"))),
    "each_step_layer": of_steps(lambda: L.TimeDistributed(L.BatchNormalization())),
    "each_step_model": of_steps(
        lambda: L.TimeDistributed(keras.Sequential([keras.Input((2,)), L.Dense(2, "relu")])),
        lambda: L.SimpleRNN(2),
    ),
}
FIRST = {"data_format": "channels_first"}
CONVOLUTIONAL = {
    "one_axis": ((2, 4, 2), lambda: L.ConvLSTM1D(2, 2)),
    "sequences": ((2, 3, 3, 2), lambda: L.ConvLSTM2D(2, 2, **SEQUENCES)),
    "same": ((2, 4, 3, 2), lambda: L.ConvLSTM2D(1, (3, 2), padding="same", use_bias=False)),
    "strides": ((2, 5, 4, 1), lambda: L.ConvLSTM2D(2, 2, strides=(2, 1), go_backwards=True)),
    "dilation": ((2, 5, 3, 1), lambda: L.ConvLSTM2D(2, 2, dilation_rate=(2, 1))),
    "channels_first": ((2, 2, 4, 3), lambda: L.ConvLSTM2D(3, 2, strides=(2, 1), **FIRST)),
    "softmax": ((2, 2, 4), lambda: L.ConvLSTM1D(3, 2, activation="softmax", **FIRST)),
    "three_axes": ((2, 2, 3, 2, 1), lambda: L.ConvLSTM3D(1, 2, padding="same")),
}
_SHARED = "simple lstm gru sequences sequences_backwards cells states two_layers first_states"
_SHARED += " both_ways_sequences both_ways_apart lstm_unrolled"
MASKED = {name: LAYERS[name] for name in _SHARED.split()} | {
    "zeros": of_steps(lambda: L.RNN(L.GRUCell(2), zero_output_for_mask=True, **SEQUENCES)),
    "zeros_last": of_steps(lambda: L.RNN(L.GRUCell(2), zero_output_for_mask=True)),
    "given": lambda x: L.LSTM(2, **SEQUENCES)(x, mask=ops.not_equal(x[:, :, 0], 0.0)),
    "given_with_states": lambda x: L.LSTM(2, **SEQUENCES)(
        x, initial_state=[L.Dense(2)(x[:, 1])] * 2, mask=ops.not_equal(x[:, :, 0], 0.0)
    ),
    "each_step": of_steps(lambda: L.TimeDistributed(L.Dense(2)), lambda: L.GRU(2)),
}


def network(build, masked=False):
    """A layer of sequences, between a mask or none and curved activations."""
    inputs = keras.Input(SHAPE)
    outputs = build(L.Masking()(inputs) if masked else ops.tanh(inputs))
    return randomize(keras.Model(inputs, ops.softplus(outputs)), 0)


@pytest.mark.parametrize("name", in_turn(sorted(LAYERS), 12))
def test_values(name):
    """The graph gives what the layer gives."""
    model = network(LAYERS[name])
    inputs = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    expected = model(inputs).numpy()
    np.testing.assert_allclose(graph_values(model, inputs), expected, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize("name", in_turn(sorted(MASKED), 5))
def test_values_with_masks(name):
    """The first, the last, an inner step or all of them are hidden, of samples of one batch."""
    model = network(MASKED[name], masked=True)
    inputs = np.random.default_rng(0).normal(size=(5, *SHAPE)).astype("float32")
    inputs[0, 0] = inputs[1, 2] = inputs[2, 1] = inputs[3] = 0
    expected = model(inputs).numpy()
    np.testing.assert_allclose(graph_values(model, inputs), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", in_turn(sorted(CONVOLUTIONAL), 2))
def test_values_of_convolutions(name):
    """The same with convolutions in place of products."""
    shape, layer = CONVOLUTIONAL[name]
    inputs = keras.Input(shape)
    model = randomize(keras.Model(inputs, layer()(ops.tanh(inputs))), 0)
    assert_agrees(model, method="crown-ibp")


@pytest.mark.parametrize("name", in_turn(sorted(LAYERS), 1))
def test_bounds(name):
    """Bounds hold at corners."""
    assert_agrees(network(LAYERS[name]))


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize("name", in_turn(sorted(MASKED), 1))
def test_bounds_with_masks(name):
    """Also where it is not known which steps are hidden."""
    assert_agrees(network(MASKED[name], masked=True), method="crown-ibp")


@pytest.mark.parametrize("hidden", [0, 2])
def test_masks_that_vary(hidden):
    """Over a region in which a step may be hidden or not, both outputs are covered."""
    model = network(LAYERS["gru"], masked=True)
    inputs = np.random.default_rng(1).normal(size=(1, *SHAPE)).astype("float32")
    inputs[0, hidden] = 0
    lower, upper = Verifier(model, "crown-ibp").bound_outputs(Ball(inputs, 0.01))
    for shift in (0.0, 0.01, -0.01):
        moved = inputs.copy()
        moved[0, hidden] += shift
        found = model(moved).numpy()
        assert (lower - 1e-6 <= found).all() and (found <= upper + 1e-6).all()


@pytest.mark.parametrize("name", ["lstm", "gru", "gru_before"])
def test_values_are_those_of_the_stored_weights(name):
    model = network(LAYERS[name])
    inputs = np.random.default_rng(0).normal(size=(2, *SHAPE))
    values = in_float64(model)(inputs).numpy()
    np.testing.assert_allclose(graph_values(model, inputs), values, rtol=1e-12, atol=1e-12)


def test_mixture_interval():
    """A mean with weights in [0, 1] stays between what it is the mean of, and attains its sides."""
    generator = np.random.default_rng(0)
    lower = generator.uniform(-1, 1, (3, 50))
    lower[0] = abs(lower[0]) / 2
    upper = lower + generator.uniform(0, 1, (3, 50)) * [[0.5], [1], [1]]
    middle = (lower + upper) / 2
    share, first, second = (
        Enclosure(m[None], (low - m)[None], (high - m)[None])
        for m, low, high in zip(middle, lower, upper)
    )
    reference = middle[0] * (middle[1] - middle[2]) + middle[2]
    mixture = Mixture().interval((share, second, share, first), reference[None], Options("float64"))
    found = [side.numpy()[0] for side in mixture.absolute()]
    corners = [
        w * x + (1 - w) * y
        for w in (lower[0], upper[0])
        for x in (lower[1], upper[1])
        for y in (lower[2], upper[2])
    ]
    np.testing.assert_allclose(found[0], np.min(corners, axis=0), atol=1e-12)
    np.testing.assert_allclose(found[1], np.max(corners, axis=0), atol=1e-12)
    assert (found[0] <= np.min(corners, axis=0)).all()
    assert (found[1] >= np.max(corners, axis=0)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lines_of_gates(dtype):
    """Both pairs of planes hold at corners, edges and inside, for gates and for any factors."""
    generator = np.random.default_rng(0)
    shape = (2, 1, 300)
    references = generator.normal(size=shape)
    references[0, :, :200] = generator.random(200)
    scales = 10.0 ** generator.integers(-6, 1, shape)
    lower = (-generator.random(shape) * scales).astype(dtype)
    upper = (generator.random(shape) * scales).astype(dtype)
    inputs = [
        Enclosure(*map(ops.convert_to_tensor, sides)) for sides in zip(references, lower, upper)
    ]
    product, options = Gated(), Options(dtype, alternatives=True)
    output = product.interval(inputs, product.evaluate(*(e.reference for e in inputs)), options)
    relaxed = product.relax(inputs, output, options)
    for share in (*np.ndindex(3, 3), *generator.random((20, 2))):
        part = np.reshape(share, (2, 1, 1)) / (2 if isinstance(share, tuple) else 1)
        first, second = lower * (1 - part) + upper * part.astype("float64")
        exact = references[0] * second + references[1] * first + first * second
        for lines in (relaxed, relaxed.alternative):
            below, above, slope = (s.numpy().astype("float64") for s in lines.slopes)
            assert (below * first + slope * second + lines.lower.numpy() <= exact).all()
            assert (above * first + slope * second + lines.upper.numpy() >= exact).all()


def test_refused():
    """What a step before it, or a cell of one's own, decides is refused by name."""

    class Cell(L.SimpleRNNCell):
        pass

    stateful = keras.Sequential([keras.Input((3, 2), batch_size=1), L.LSTM(2, stateful=True)])
    assert_refused(stateful, "stateful=False")
    assert_refused(network(of_steps(lambda: L.RNN(Cell(2)))), "no rule for its cell of class Cell")
    unknown = keras.Sequential([keras.Input((None, 2)), L.GRU(2)])
    assert_refused(unknown, "clone_model")


def test_mask_for_the_layer_of_each_step():
    """A layer that is given the masks of its steps is refused."""

    def build(x):
        return L.TimeDistributed(L.Softmax())(x)

    assert_refused(network(build, masked=True), "cannot be bounded with a mask")


def test_steps_of_a_stack_are_not_taken_apart():
    """A layer behind another one reads its steps: there is no sequence between them."""
    one, two = (
        len(build_graph(network(build), find_rule).nodes)
        for build in (
            of_steps(lambda: L.SimpleRNN(2)),
            of_steps(lambda: L.SimpleRNN(2, **SEQUENCES), lambda: L.SimpleRNN(2)),
        )
    )
    assert two - one < one
