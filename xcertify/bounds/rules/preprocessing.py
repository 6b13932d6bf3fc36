"""Rules of layers that cut images out and resize them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from keras import layers, ops

from xcertify.bounds import backend
from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.operations import Affine, Window
from xcertify.bounds.rules.registry import register
from xcertify.bounds.rules.windows import spatial_axes

_LARGEST_DRAW = 2**22  # entries of the images that are resized at once


@register(layers.CenterCrop, settings=("training",))
def _center_crop(layer: Any, emit: Emitter, node: int) -> int:
    axes = spatial_axes(layer, emit.shape(node))
    sizes = [emit.shape(node)[axis - 1] for axis in axes]
    offsets = [size - kept for size, kept in zip(sizes, (layer.height, layer.width))]
    if min(offsets) < 0:  # then Keras resizes
        return _resizing(layer, emit, node)
    before = [offset // 2 for offset in offsets]
    seen: list[slice] = [slice(None)] * (len(emit.shape(node)) + 1)
    for axis, first, kept in zip(axes, before, (layer.height, layer.width)):
        seen[axis] = slice(first, first + kept)
    shift = Window(tuple(a - 1 for a in axes), (1, 1), (1, 1), tuple(-first for first in before))
    patchwise = Affine(lambda inputs: inputs)
    return emit(Affine(lambda x: x[tuple(seen)], window=shift, patchwise=patchwise), node)


@register(layers.Resizing, settings=("training",))
def _resizing(layer: Any, emit: Emitter, node: int) -> int:
    return resized(partial(layer.call, training=False), layer, emit, node)


def resized(call: Callable[[Any], Any], layer: Any, emit: Emitter, node: int) -> int:
    """What a layer does to each channel, ``A x B + c``: any cut, border and interpolation.

    The matrices are those that `call` itself applies to images that vary along one axis.
    """
    shape, axes = emit.shape(node), spatial_axes(layer, emit.shape(node))
    height, width = (shape[axis - 1] for axis in axes)
    first = axes[0] == 2

    def applied(images: np.ndarray) -> np.ndarray:
        """The layer on images (B, height, width) of one channel."""
        channel = 1 if first else 3
        given = np.expand_dims(images, channel).astype("float32")
        found = backend.by_cpu(lambda: call(ops.convert_to_tensor(given)))
        return np.asarray(ops.convert_to_numpy(found), "float64").squeeze(channel)

    border = applied(np.zeros((1, height, width)))[0]
    middle = [size // 2 for size in border.shape]
    rows = _along(
        lambda units: applied(units[:, :, None] + np.zeros(width)), height, height * width
    )
    columns = _along(
        lambda units: applied(units[:, None] + np.zeros((height, 1))), width, height * width
    )
    matrices = [
        (rows - border)[:, :, middle[1]],
        (columns - border)[:, middle[0]],
    ]

    def resize(inputs: Any, *weights: Any) -> Any:
        for axis, weight in zip(axes, weights):
            inputs = ops.moveaxis(ops.tensordot(inputs, weight, [[axis], [0]]), -1, axis)
        return inputs

    constant = border[None] if first else border[..., None]
    moves = all(np.isin(matrix, (0, 1)).all() for matrix in matrices)
    error = 2**30 if layer.compute_dtype == "float64" else 8  # TensorFlow resizes in float32
    operation = Affine(
        resize,
        weights=lambda: matrices,
        bias=(lambda: constant) if constant.any() else None,
        nb_terms=_most([(matrix != 0).sum(axis=0) for matrix in matrices]),
        nb_terms_back=_most([(matrix != 0).sum(axis=1) for matrix in matrices]),
        weight_error=0 if moves else error,
    )
    return emit(operation, node)


def _along(apply: Callable[[np.ndarray], np.ndarray], length: int, size: int) -> np.ndarray:
    """A function of images on each unit vector, some at a time."""
    at_once = max(1, _LARGEST_DRAW // size)
    units = np.eye(length)
    parts = [apply(units[place : place + at_once]) for place in range(0, length, at_once)]
    return np.concatenate(parts)


def _most(counts: list[np.ndarray]) -> int:
    """Products in a sum of two steps."""
    return int(sum(count.max() for count in counts)) * 2
