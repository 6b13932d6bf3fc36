"""Rules of recurrent layers: every step is written out as operations of its own.

A cell is translated by its own rule, ``step(cell, emit, inputs, states)``, which emits one step and
gives the nodes of its output and of its new states. Dropout does nothing at inference, whatever its
rate. The weights of a cell are read once for each step, and are the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from xcertify.bounds.graph.gated import Gated
from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.operations import Affine
from xcertify.bounds.rules.kernels import conv
from xcertify.bounds.rules.merging import mixture_of, product_of, sum_of
from xcertify.bounds.rules.registry import activate, register
from xcertify.keras_graph import ConvLSTMCell, UnsupportedLayerError

Step = Callable[[Any, Emitter, int, Sequence[int]], tuple[int, list[int]]]

_CELLS: dict[type, Step] = {}
_LAYERS = (
    layers.RNN,
    layers.SimpleRNN,
    layers.LSTM,
    layers.GRU,
    layers.ConvLSTM1D,
    layers.ConvLSTM2D,
    layers.ConvLSTM3D,
)


class Stacked(Affine):
    """The tensors of all steps beside each other, along an axis of their own before the others."""

    def __init__(self, nb_steps: int) -> None:
        super().__init__(
            lambda *steps: ops.stack(steps, axis=1),
            nb_inputs=nb_steps,
            transposed=lambda output: list(ops.unstack(output, axis=1)),
        )


def steps_of(emit: Emitter, node: int) -> list[int]:
    """The steps of a sequence, nodes of shape `shape` of one of shape (T, *shape)."""
    made = emit.graph.nodes[node]
    if isinstance(made.operation, Stacked):
        return list(made.parents)
    return [_entry(emit, node, time) for time in range(emit.shape(node)[0])]


def sequence_of(emit: Emitter, steps: Sequence[int]) -> int:
    """The sequence (T, *shape) of steps."""
    return emit(Stacked(len(steps)), *steps)


def _mask_of_steps(layer: Any, emit: Emitter, *nodes: int) -> int | None:
    return emit.mask() if layer.return_sequences else None


@register(*_LAYERS, inputs=("initial_state",), masks=_mask_of_steps)
def _recurrence(layer: Any, emit: Emitter, node: int, *initial: int) -> list[int]:
    return recurrence(layer, emit, node, initial)


def recurrence(layer: Any, emit: Emitter, node: int, initial: Sequence[int]) -> list[int]:
    """The output of a recurrent layer and, if it returns them, its last states.

    Where the mask of a step is 0, all states stay as they are, and so does the output: it is 0
    before the first step, and always with `zero_output_for_mask`.
    """
    if type(layer) not in _LAYERS:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class {type(layer).__name__} cannot be bounded inside of "
            f"another one. Supported: {', '.join(kind.__name__ for kind in _LAYERS)}."
        )
    if layer.stateful:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class {type(layer).__name__} cannot be bounded with "
            f"stateful=True: what it gives depends on the batches before. Build the model with "
            f"stateful=False, and give it the state as an input (initial_state)."
        )
    zeros = cache(lambda shape: emit.constant(np.zeros(shape), shape))
    states = list(initial) or [zeros(shape) for shape in _state_shapes(layer.cell)]
    # Given a state as well, Keras does not look at the mask that the sequence carries.
    mask, steps = emit.mask(-1 if initial else 0), steps_of(emit, node)
    shares = [None] * len(steps) if mask is None else steps_of(emit, mask)
    pairs = list(zip(steps, shares))
    outputs: list[int] = []
    for step, share in reversed(pairs) if layer.go_backwards else pairs:
        output, new = _advance(layer, layer.cell, emit, step, states)
        if share is not None:
            last = zeros(emit.shape(output))
            if outputs and not layer.zero_output_for_mask:
                last = outputs[-1]
            mixed = cache(partial(mixture_of, emit, share))  # most outputs are states, too
            output, *new = map(mixed, [output, *new], [last, *states])
        states = new
        outputs.append(output)
    output = sequence_of(emit, outputs) if layer.return_sequences else outputs[-1]
    return [output, *states] if layer.return_state else [output]


def _advance(
    layer: Any, cell: Any, emit: Emitter, inputs: int, states: Sequence[int]
) -> tuple[int, list[int]]:
    """One step of a cell by its own rule, or of several, one behind the other."""
    if type(cell) is layers.StackedRNNCells:
        new: list[int] = []
        for part in cell.cells:
            nb_states = len(_state_shapes(part))
            own, states = states[:nb_states], states[nb_states:]
            inputs, changed = _advance(layer, part, emit, inputs, own)
            new += changed
        return inputs, new
    if type(cell) not in _CELLS:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class {type(layer).__name__} cannot be bounded: there is "
            f"no rule for its cell of class {type(cell).__name__}. Supported cells: "
            f"{', '.join(kind.__name__ for kind in (*_CELLS, layers.StackedRNNCells))}."
        )
    return _CELLS[type(cell)](cell, emit, inputs, states)


def _state_shapes(cell: Any) -> list[tuple[int, ...]]:
    """Shapes of the states of a cell, without batch axis."""
    states = keras.tree.flatten(cell.get_initial_state(batch_size=1))
    return [tuple(state.shape[1:]) for state in states]


def _cell(kind: type) -> Callable[[Step], Step]:
    """Make a function the rule of one step of a cell."""

    def add(function: Step) -> Step:
        _CELLS[kind] = function
        return function

    return add


@_cell(layers.SimpleRNNCell)
def _simple(cell: Any, emit: Emitter, inputs: int, states: Sequence[int]) -> tuple[int, list[int]]:
    kernels = lambda: (cell.kernel, cell.recurrent_kernel)  # noqa: E731
    bias = (lambda: cell.bias) if cell.use_bias else None
    total = _projected(emit, [inputs, *states], kernels, bias)
    output = activate(cell, cell.activation, emit, total)
    return output, [output]


@_cell(layers.LSTMCell)
def _long_short_term_memory(
    cell: Any, emit: Emitter, inputs: int, states: Sequence[int]
) -> tuple[int, list[int]]:
    hidden, carry = states
    kernels = lambda: (cell.kernel, cell.recurrent_kernel)  # noqa: E731
    bias = (lambda: cell.bias) if cell.use_bias else None
    total = _projected(emit, [inputs, hidden], kernels, bias, nb_parts=4)
    return _gated(cell, emit, total, carry)


def _gated(cell: Any, emit: Emitter, total: int, carry: int) -> tuple[int, list[int]]:
    """What an LSTM makes of the inputs (4, ...) of its gates i, f, c, o.

    ``c = f * c + i * activation(.)`` and ``h = o * activation(c)``.
    """
    # The gate c has no use for the recurrent activation, but so they stay one tensor.
    gates = activate(cell, cell.recurrent_activation, emit, total)
    write, keep, show = (_entry(emit, gates, number) for number in (0, 1, 3))
    new = activate(cell, cell.activation, emit, _entry(emit, total, 2))
    carry = sum_of(emit, [_gate(emit, keep, carry), _gate(emit, write, new)])
    output = _gate(emit, show, activate(cell, cell.activation, emit, carry))
    return output, [output, carry]


@_cell(ConvLSTMCell)
def _convolutional(
    cell: Any, emit: Emitter, inputs: int, states: Sequence[int]
) -> tuple[int, list[int]]:
    hidden, carry = states
    is_first = cell.data_format == "channels_first"
    settings = (cell.strides, cell.padding, cell.dilation_rate)

    def convolved(values: Any, kernel: Any, *settings: Any) -> Any:
        """(N, 4, *shape of the state)."""
        values = conv(ops.moveaxis(values, 1, -1) if is_first else values, kernel, *settings)
        gates = ops.reshape(values, (-1, *values.shape[1:-1], 4, cell.filters))
        gates = ops.moveaxis(gates, -2, 1)
        return ops.moveaxis(gates, -1, 2) if is_first else gates

    def bias() -> Any:
        shape = (cell.filters, *[1] * cell.rank) if is_first else (*[1] * cell.rank, cell.filters)
        return ops.reshape(cell.bias, (4, *shape))

    size = math.prod(cell.kernel_size)
    operation = Affine(
        lambda x, h, kernel, own: (
            convolved(x, kernel, *settings) + convolved(h, own, (1,) * cell.rank, "same")
        ),
        nb_inputs=2,
        weights=lambda: (cell.kernel, cell.recurrent_kernel),
        bias=bias if cell.use_bias else None,
        nb_terms=size * (cell.input_dim + cell.filters) + 2,
        nb_terms_back=size * 4 * cell.filters,
    )
    return _gated(cell, emit, emit(operation, inputs, hidden), carry)


@_cell(layers.GRUCell)
def _gated_recurrent_unit(
    cell: Any, emit: Emitter, inputs: int, states: Sequence[int]
) -> tuple[int, list[int]]:
    (hidden,), size = states, cell.units
    nb_biases = 1 + cell.reset_after

    def kernels(first: int, last: int) -> Callable[[], Sequence[Any]]:
        columns = slice(first * size, last * size)
        return lambda: (cell.kernel[:, columns], cell.recurrent_kernel[:, columns])

    def biases(first: int, last: int) -> list[Any]:
        given = ops.reshape(ops.cast(cell.bias, "float64"), (nb_biases, 3 * size))
        return [given[number, first * size : last * size] for number in range(nb_biases)]

    def bias(number: int) -> Callable[[], Any] | None:
        return (lambda: biases(2, 3)[number]) if cell.use_bias else None

    gates = _projected(
        emit,
        [inputs, hidden],
        kernels(0, 2),
        (lambda: sum(biases(0, 2))) if cell.use_bias else None,
        (lambda: sum(map(ops.abs, biases(0, 2)))) if cell.use_bias else None,
        nb_parts=2,
    )
    gates = activate(cell, cell.recurrent_activation, emit, gates)
    keep, reset = (_entry(emit, gates, number) for number in range(2))
    if cell.reset_after:
        seen = _projected(emit, [inputs], lambda: kernels(2, 3)()[:1], bias(0))
        kept = _projected(emit, [hidden], lambda: kernels(2, 3)()[1:], bias(1))
        total = sum_of(emit, [seen, _gate(emit, reset, kept)])
    else:
        kept = _gate(emit, reset, hidden)
        total = _projected(emit, [inputs, kept], kernels(2, 3), bias(0))
    new = activate(cell, cell.activation, emit, total)
    output = mixture_of(emit, keep, hidden, new)
    return output, [output]


def _projected(
    emit: Emitter,
    nodes: Sequence[int],
    kernels: Callable[[], Sequence[Any]],
    bias: Callable[[], Any] | None,
    bias_size: Callable[[], Any] | None = None,
    nb_parts: int | None = None,
) -> int:
    """The sum of nodes times kernels, and a bias: (units,), or (parts, units) of so many parts."""
    nb_terms = sum(emit.shape(node)[0] for node in nodes)
    width = int(kernels()[0].shape[1])
    shape = (width,) if nb_parts is None else (nb_parts, width // nb_parts)

    def apply(*given: Any) -> Any:
        products = [ops.matmul(*pair) for pair in zip(given, given[len(nodes) :])]
        return ops.reshape(sum(products[1:], products[0]), (-1, *shape))

    def transposed(output: Any, *weights: Any) -> list[Any]:
        output = ops.reshape(output, (-1, width))
        return [ops.matmul(output, ops.transpose(kernel)) for kernel in weights]

    def in_parts(values: Callable[[], Any] | None) -> Callable[[], Any] | None:
        return values and (lambda: ops.reshape(values(), shape))

    operation = Affine(
        apply,
        nb_inputs=len(nodes),
        weights=kernels,
        bias=in_parts(bias),
        bias_size=in_parts(bias_size),
        nb_terms=nb_terms + 2,
        nb_terms_back=width,
        transposed=transposed,
    )
    return emit(operation, *nodes)


def _gate(emit: Emitter, gate: int, node: int) -> int:
    """What a gate lets through of a node."""
    return product_of(emit, [gate, node], Gated)


def _entry(emit: Emitter, node: int, number: int) -> int:
    """What a node of shape (entries, *shape) holds at one of its entries."""
    size, *others = emit.shape(node)
    pads = [(number, size - number - 1), *[(0, 0)] * len(others)]

    def transposed(output: Any) -> Any:
        output = ops.expand_dims(output, -1 - len(others))
        return ops.pad(output, [(0, 0)] * (len(output.shape) - len(pads)) + pads)

    picked = Affine(lambda values: values[:, number], transposed=transposed, by_rows=True)
    return emit(picked, node)
