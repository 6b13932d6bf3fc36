"""Writes layers.md from the registry; run by hand after a rule was added.

python docs/generate_layers.py
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import keras

from xcertify.bounds import supported_activations, supported_layers, supported_operations
from xcertify.bounds.rules.registry import ACTIVATIONS

PAGE = Path(__file__).with_name("layers.md")
HEAD = """# Layers

The layers, activations and functions that the methods `ibp`, `crown-ibp`, `crown` and
`alpha-crown` bound. Everything else is refused by its name. [The engine](engine.md) says what the
methods do, what the bounds hold for, and [how to add a layer of your
own](engine.md#a-layer-of-your-own).

This page is generated from the registry by `docs/generate_layers.py`. The test suite bounds a
network with every layer and activation named here, and attacks the bounds.

## Layers

**Accepted**: any stride, dilation, groups, padding (valid, same, causal) and data format that
Keras accepts. `Sequential` and functional models, also nested and shared ones, and ones with
several inputs and outputs, in lists and dictionaries. Constants among the inputs of merging
layers, with a batch axis of 1, are bounded as constants.

**Refused**, by name:

- quantized layers (int8, int4, float8), and layers that round to integers;
- layers that make categories of numbers or words (`Discretization`, `CategoryEncoding`, `Hashing`,
  the lookups, `TextVectorization`): bound what comes behind them, with `start_layer`; `Lambda`;
- `UpSampling2D` other than nearest and bilinear;
- masks of `Maximum` and `Minimum`, which select by them, and `query_mask` as an argument;
- calls with `training=True`, and with any other argument that a rule does not know;
- operations along the batch axis, and whatever else mixes samples;
- sums that Keras takes for biases of another axis: `keras.ops.add(x, y)` with TensorFlow, where y
  has a single axis longer than 1, and x has another axis of that length. There the result is not
  x + y, or is not for batches of one size.

**Masks** are the masks of Keras: given to a call, or made by `Masking` and
`Embedding(mask_zero=True)` and carried by tensors. Where an input may move so far that its mask
changes, bounds hold for both values of the mask.

**Recurrent layers** (`SimpleRNN`, `LSTM`, `GRU`, `RNN` of these cells or stacks of them,
`Bidirectional`) are written out, step by step, with first and last states, masks, and in either
direction; so is `TimeDistributed`. The time that a bound takes grows with the number of steps, and
by `crown` with its square. Refused are `stateful=True`, sequences of unknown length, cells of one's
own, and in regions of weights (`gamma`) all of them.

**Words.** The whole numbers that an `Embedding` is given do not vary. Bounds start at what it gives
(`start_layer`); where a mask or another branch needs the words as well, they are given as
`constants`.

Layers that augment images at random (`RandomFlip` and similar) do nothing at inference and are
bounded as identities: the network that is bounded is `model(x, training=False)`, as
`model.predict` calls it. (In Keras 3 they are active in `model(x)`.)

`LayerScale` and `StochasticDepth`, which the ConvNeXt models of `keras.applications` bring along,
are bounded, too.

| kind | layers |
| --- | --- |
"""
ACTIVATIONS_HEAD = """
Normalizations that divide by what they are given are bounded by the lines of their squares, of
their root and of the product, or by the interval of the whole, where that is tighter. A softmax at
the end is left out: bounds are of the logits.

## Activations

They may be given by name, as a function, or in an `Activation` layer; as functions of `tf.nn` or
`keras.ops`, with their own defaults; or called on a tensor.

- *exact pieces*: the function is made of straight pieces. On an interval within one piece the
  bounds are exact, as for ReLU on one side of 0.
- *curve*: a line above and a line below are proved on each interval.

| activation | shape |
| --- | --- |
"""
OPERATIONS_HEAD = """
## Functions of `keras.ops`

As nodes of a functional model, Python operators included (`x * 2 + y`).

- `Matmul`, `Dot` and `Einsum` take two tensors of the network, or one and a constant; so does
  `Divide`, whose divisor has to stay away from 0.
- `Multiply`, `Add`, `Subtract`, `Maximum` and `Minimum` take two tensors of the network, or a
  tensor and a constant on either side.
- `Power` takes one number as exponent, `Clip` two numbers, `Norm` the orders 1, 2 and infinity of
  vectors and `fro` of matrices, `Normalize` the order 2. The condition of `Where` may move.
- **Domains**: where an interval leaves the domain of `Log`, `Sqrt`, `Rsqrt`, `Reciprocal` or
  `Power`, or an interval of a divisor holds 0, nothing is proved: all bounds of the sample are
  infinite, and a property of it stays open. Smaller regions help, or what keeps away from the
  border:
  `keras.ops.log(keras.ops.maximum(x, 1e-6))`, `keras.ops.sqrt(keras.ops.square(x) + 1e-6)`.
- Whatever moves, mixes or selects along the batch axis is refused.
- `ReLU` is `keras.activations.relu` called on a tensor.

"""


def page() -> str:
    """The text of layers.md; layers that users registered are left out."""
    text = HEAD
    classes = [name for name in supported_layers() if hasattr(keras.layers, name)]
    classes.sort(key=lambda name: (kind_of(name), name))
    for kind, names in groupby(classes, key=kind_of):
        text += f"| {kind} | {', '.join(f'`{name}`' for name in names)} |\n"
    text += ACTIVATIONS_HEAD
    facts = {function.__name__: facts for function, facts in ACTIVATIONS.items()}
    for name in supported_activations():
        text += f"| `{name}` | {shape_of(name, facts)} |\n"
    names = ", ".join(f"`{name}`" for name in supported_operations())
    return text + OPERATIONS_HEAD + names + "\n"


def kind_of(name: str) -> str:
    """The part of Keras that a layer belongs to: convolutional, pooling, merging ..."""
    return getattr(keras.layers, name).__module__.split(".")[3]


def shape_of(name: str, facts: dict) -> str:
    """What the lines of an activation are."""
    if name == "softmax":
        return "curve"
    if facts[name] is None:
        return "nothing to bound"
    return "exact pieces" if facts[name].piecewise_linear else "curve"


if __name__ == "__main__":
    PAGE.write_text(page())
