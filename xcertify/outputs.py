"""One output of a model as a model of its own, which everything else of the package takes.

Explainers, metrics and attacks are about one row of outputs for each input, and about one class of
it. Models have other outputs, too: several by name, a row for each pixel (a U-Net), or a yes or no
for each of many labels. The one that is meant becomes a model here, in one place; it shares all
layers and weights with the whole.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from xcertify.keras_graph import model_of, output_names, output_number
from xcertify.logits import head_of, logits_model
from xcertify.models import is_graph

_HEADS = ("softmax", "sigmoid")


def one_output(
    model: keras.Model,
    output: int | str | None = None,
    *,
    at: tuple[int, ...] | None = None,
    mask: Any = None,
    label: int | None = None,
    head: str | None = None,
) -> keras.Model:
    """A model of one output of another one, or of a part of that output.

    Parameters
    ----------
    model
        A built Sequential or functional Keras model.
    output
        Number or name of the output, where there are several: the name of the layer that gives it,
        or its key in the dictionary that the model returns. None: the only one.
    at
        Of an output (B, h, w, K), or of any rank, the row at one place, (row, column): (B, K). Of
        one without K the place is a single number, (B, 1).
    mask
        Of an output (B, h, w, K), or of any rank, the mean of the rows at several places: weights
        (h, w) of at least 0, or True and False. Logits are averaged: a softmax or sigmoid comes
        behind. Not with `at`.
    label
        Of K labels with a yes or no each (a sigmoid at the end) this one: (B, 1), and class 1 is
        yes, class 0 is no.
    head
        "softmax" or "sigmoid": the outputs end with this in the place of what they end with. So K
        outputs of a sigmoid are classes, the largest of which is the answer, with "softmax".

    Returns
    -------
    model
        With the same inputs, layers and weights. A softmax or sigmoid at the end stays.

    Raises
    ------
    ValueError
        For a model whose layers are not known, an output that it does not have, and arguments that
        do not fit the output; the message says what would.

    Guarantee
    ---------
    None of its own: what is proved of the model that is returned holds for this output of the
    whole, whose values are the same but for roundings.

    Examples
    --------
    >>> EVA(one_output(model, "species"), epsilon=0.01).certify(images)
    >>> EVA(one_output(unet, at=(12, 30)), epsilon=0.01).certify(images)     # the class of a pixel
    >>> EVA(one_output(tagger, label=3), epsilon=0.01).certify(images)       # has it label 3?
    """
    if not is_graph(model):
        raise ValueError(
            f"one_output is of built Sequential and functional Keras models; of another one give a "
            f"function, such as lambda x: model(x)[0]. "
            f"Received: {getattr(model, 'name', model)!r} of class {type(model).__name__}"
        )
    if head not in (None, *_HEADS):
        raise ValueError(f"head must be one of {_HEADS}, or None. Received: {head!r}")
    if at is not None and mask is not None:
        raise ValueError("give a place, at=, or several of them, mask=, not both")
    names = output_names(model)
    if output is None and len(names) > 1:
        raise ValueError(f"output must be one of {', '.join(names)}, or its number. Received: None")
    number = output_number(model, 0 if output is None else output)
    name = f"{model.name}_{names[number]}" if len(names) > 1 else model.name
    if len(names) > 1:
        model = model_of(model, model.outputs[number], name)
    if all(part is None for part in (at, mask, label, head)):
        return model
    own = head_of(model)
    if label is not None and own == "softmax" and head is None:
        raise ValueError(
            f"label is of outputs with a yes or no each; those of a softmax are classes, which "
            f"targets name: targets=[{label}]. Received: label={label!r}"
        )
    tensor = logits_model(model).outputs[0]
    if at is not None:
        tensor = _at(tensor, at)
    if mask is not None:
        tensor = _mean(tensor, np.asarray(mask))
    if label is not None:
        first = _number("label", label, tensor.shape[-1])
        tensor = tensor[..., first : first + 1]
    head = own if head is None else head
    if head is not None:
        tensor = layers.Activation(head, dtype=model.outputs[0].dtype)(tensor)
    return model_of(model, tensor, f"{name}_part")


def _at(tensor: keras.KerasTensor, at: Any) -> keras.KerasTensor:
    """The row at a place of outputs, (B, K)."""
    sizes = tensor.shape[1:]
    place = at if isinstance(at, (tuple, list)) else (at,)
    if len(sizes) < 2 or len(place) not in (len(sizes) - 1, len(sizes)):
        raise ValueError(
            f"at must be a place of the output, one number for each of its axes but the last: the "
            f"output has shape {tuple(sizes)}. Received: at={at!r}"
        )
    numbers = [_number("at", number, size) for number, size in zip(place, sizes)]
    row = tensor[tuple([slice(None), *numbers])]
    return row if len(numbers) < len(sizes) else row[:, None]


def _mean(tensor: keras.KerasTensor, mask: np.ndarray) -> keras.KerasTensor:
    """The mean of the rows at several places, weighted by the mask, (B, K)."""
    sizes = tuple(tensor.shape[1:])
    if mask.ndim == len(sizes) and mask.shape[-1] == 1:
        mask = mask[..., 0]
    weights = mask.astype(np.float32) if mask.dtype.kind in "biuf" else np.zeros(0)
    if len(sizes) < 2 or weights.shape != sizes[:-1]:
        raise ValueError(
            f"mask must be numbers of the shape of the output without its last axis, of the output "
            f"{sizes}. Received: shape {mask.shape} of {mask.dtype}"
        )
    if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.any()):
        raise ValueError("mask must be finite numbers of at least 0, and not all 0")
    weights = weights / weights.sum()
    return ops.sum(tensor * weights[None, ..., None], axis=tuple(range(1, len(sizes))))


def _number(name: str, number: Any, size: int | None) -> int:
    """A number from 0 on, of a given one that may count from the end."""
    whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
    if not whole or size is None or not -size <= number < size:
        raise ValueError(
            f"{name} must be whole numbers from 0 to {None if size is None else size - 1} (-1 is "
            f"the last), of an output whose shape is known. Received: {number!r}"
        )
    return int(number) % size
