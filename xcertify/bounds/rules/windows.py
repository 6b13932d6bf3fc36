"""What a location of a convolution or pooling sees: axes, borders, windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from xcertify.bounds.graph.operations import Window
from xcertify.keras_graph import UnsupportedLayerError


def spatial_axes(layer: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes that a layer on images or sequences runs over, batch axis counted."""
    first = 2 if getattr(layer, "data_format", None) == "channels_first" else 1
    return tuple(range(first, first + len(shape) - 1))


def channel_axis(layer: Any, shape: tuple[int, ...]) -> int:
    """Axis of the channels, batch axis counted."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else len(shape)


def axes_of(layer: Any, axes: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes that a layer names, batch axis counted, as numbers from 1 on in ascending order.

    Raises
    ------
    UnsupportedLayerError
        If one of them is the batch axis.
    """
    named = axes if isinstance(axes, (list, tuple)) else [axes]
    found = tuple(sorted({axis % (len(shape) + 1) for axis in named}))
    if 0 in found:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class {type(layer).__name__} cannot be bounded: it mixes "
            f"samples, since it works along the batch axis. Name axes from 1 on. "
            f"Received: axis={axes}"
        )
    return found


def window_of(
    layer: Any,
    shape: tuple[int, ...],
    size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int] | None = None,
) -> Window:
    """What a location of the output of a convolution or pooling sees."""
    axes = tuple(axis - 1 for axis in spatial_axes(layer, shape))
    size = tuple((k - 1) * d + 1 for k, d in zip(size, dilation or (1,) * len(axes)))
    pads = [border(shape[a], k, s, layer.padding) for a, k, s in zip(axes, size, stride)]
    return Window(axes, size, tuple(stride), tuple(before for before, _ in pads))


def border(length: int, width: int, stride: int, padding: str) -> tuple[int, int]:
    """Entries that padding adds before and after an axis."""
    if padding == "causal":
        return width - 1, 0
    if padding == "valid":
        return 0, 0
    missing = max((math.ceil(length / stride) - 1) * stride + width - length, 0)
    return missing // 2, missing - missing // 2


def windows_of(
    axes: tuple[int, ...], size: Sequence[int], strides: Sequence[int], padding: str
) -> Callable[[Any], Any]:
    """A function that lays the entries of every pooling window along a new last axis.

    Entries beyond the border are 0.
    """

    def windows(inputs: Any) -> Any:
        rank = len(inputs.shape)
        pads, counts = [(0, 0)] * rank, []
        for axis, width, stride in zip(axes, size, strides):
            length = inputs.shape[axis]
            pads[axis] = border(length, width, stride, padding)
            counts.append((length + sum(pads[axis]) - width) // stride + 1)
        padded = ops.pad(inputs, pads) if any(pad != (0, 0) for pad in pads) else inputs
        if tuple(size) == tuple(strides):
            return _tiles(padded, axes, size, counts)
        parts = []
        for offsets in itertools.product(*map(range, size)):
            index = [slice(None)] * rank
            for axis, offset, stride, count in zip(axes, offsets, strides, counts):
                index[axis] = slice(offset, offset + (count - 1) * stride + 1, stride)
            parts.append(padded[tuple(index)])
        return ops.stack(parts, axis=-1)

    return windows


def _tiles(inputs: Any, axes: Sequence[int], size: Sequence[int], counts: Sequence[int]) -> Any:
    """The same for windows side by side: nothing but a change of shape."""
    rank = len(inputs.shape)
    index, shape = [slice(None)] * rank, [[length] for length in inputs.shape]
    for axis, width, count in zip(axes, size, counts):
        index[axis] = slice(0, width * count)
        shape[axis] = [count, width]
    flat = [-1, *(length for lengths in shape[1:] for length in lengths)]
    tiles = ops.reshape(inputs[tuple(index)], flat)
    inner = [axis + sum(a < axis for a in axes) + 1 for axis in axes]
    outer = [axis for axis in range(len(flat)) if axis not in inner]
    tiles = ops.transpose(tiles, (*outer, *inner))
    return ops.reshape(tiles, (-1, *(lengths[0] for lengths in shape[1:]), math.prod(size)))
