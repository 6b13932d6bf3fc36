"""Writes layers.md from the registry; run by hand after a rule was added.

python docs/generate_layers.py
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import keras

from xcertify.bounds import supported_activations, supported_layers, supported_operations
from xcertify.bounds.registry import ACTIVATIONS

PAGE = Path(__file__).with_name("layers.md")
HEAD = """# Layers

What the methods `ibp`, `crown-ibp`, `crown` and `alpha-crown` bound. Everything else is refused
with its name. This page is generated from the registry by `docs/generate_layers.py`; the test suite
bounds a network with every layer and activation named here and attacks the bounds.

[The engine](engine.md) says what the methods do, what the bounds hold for, and how to add a layer
of your own.

## Layers

Any stride, dilation, groups, padding (valid, same, causal) and data format that Keras takes.
`Sequential` and functional models are opened, nested and shared ones too. Refused: quantized
layers, `UpSampling2D` other than nearest and bilinear, and `Dot` with `normalize=True`.

| kind | layers |
| --- | --- |
"""
ACTIVATIONS_HEAD = """
`Softmax` and the division in `LayerNormalization` get intervals inside the network and no lines.
A softmax at the end is left out: bounds are of the logits.

## Activations

By name, as a function, or in an `Activation` layer. `exact pieces`: the lines of a piece cost
nothing, as for ReLU on one side of 0; `curve`: lines above and below are proved on each interval.

| activation | shape |
| --- | --- |
"""
OPERATIONS_HEAD = """
## Functions of `keras.ops`

As nodes of a functional model, Python operators included (`x * 2 + y`). One factor of `Matmul`,
`Dot` and `Divide` and the bounds of `Maximum` and `Minimum` may be constants, `Multiply`, `Add`,
`Subtract`, `Maximum` and `Minimum` also take two tensors of the network; `Pad` pads with 0;
`Sum` and `Mean` need their axes.

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
        return "intervals"
    if facts[name] is None:
        return "nothing to bound"
    return "exact pieces" if facts[name].piecewise_linear else "curve"


if __name__ == "__main__":
    PAGE.write_text(page())
