"""Convolutions whose roundings are those of sums of products, on any device.

The rounding proof takes a sum of n products to be off by at most n u / (1 - n u) times the sum of
their absolute values (`rounding`). TensorFlow's kernels on a CPU are such sums. On a GPU its
library may choose Winograd's or Fourier's algorithm for float32, whose error at one place is
relative to the largest entries of a whole tile around it: where the products of a place are all 0,
as at the black border of a digit, the proof allows for no error, and such a kernel makes one.
TensorFlow can be told to avoid the first by an environment variable, before it starts, and the
second not at all.

So on anything but a CPU convolutions are computed here as products of matrices, with shifted copies
of the input side by side. TensorFloat-32 is kept out of those by `backend.full_precision`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import reduce
from typing import Any

import keras
from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.rules.windows import border


def conv(
    inputs: Any,
    kernel: Any,
    strides: Sequence[int],
    padding: str = "valid",
    dilation_rate: Sequence[int] | None = None,
) -> Any:
    """`keras.ops.conv` of inputs (N, *places, C), channels last, by a kernel (*size, C, F).

    Where a window sees one place only, the places between strides are left out before: while no
    graph is made, TensorFlow's gradient of such a convolution (by the kernel, which is computed
    even if nobody asks for it) reads beyond its memory and takes the process down.
    """
    if max(kernel.shape[:-2]) == 1 and max(strides) > 1:
        places = [slice(None, None, stride) for stride in strides]
        inputs = inputs[tuple([slice(None), *places])]
        strides = (1,) * len(strides)
    if backend.on_cpu():
        return ops.conv(
            inputs,
            kernel,
            tuple(strides),
            padding,
            "channels_last",
            tuple(dilation_rate or (1,) * len(strides)),
        )
    *size, _, nb_filters = kernel.shape
    inputs, taken = _windows(inputs, size, strides, padding, dilation_rate)
    # What a window sees along all axes but the first becomes channels. The rest is added up, so
    # that the input is held as often as a window has entries along the other axes.
    for axis in range(len(size), 1, -1):
        seen = [taken(inputs, axis, offset) for offset in range(size[axis - 1])]
        inputs = seen[0] if len(seen) == 1 else ops.concatenate(seen, axis=-1)
    width = inputs.shape[-1]
    kernel = ops.reshape(kernel, (size[0], width, nb_filters))
    parts = []
    for offset in range(size[0]):
        part = taken(inputs, 1, offset)
        product = ops.matmul(ops.reshape(part, (-1, width)), kernel[offset])
        parts.append(ops.reshape(product, (-1, *part.shape[1:-1], nb_filters)))
    return reduce(ops.add, parts)


def depthwise_conv(
    inputs: Any,
    kernel: Any,
    strides: Sequence[int],
    padding: str = "valid",
    dilation_rate: Sequence[int] | None = None,
) -> Any:
    """`keras.ops.depthwise_conv` of inputs (N, *places, C) by a kernel (*size, C, multiplier)."""
    if backend.on_cpu():
        return ops.depthwise_conv(
            inputs,
            kernel,
            tuple(strides),
            padding,
            "channels_last",
            tuple(dilation_rate or (1,) * len(strides)),
        )
    *size, nb_channels, multiplier = kernel.shape
    inputs, taken = _windows(inputs, size, strides, padding, dilation_rate)
    parts = []
    for offsets in itertools.product(*map(range, size)):
        part = inputs
        for axis, offset in enumerate(offsets, start=1):
            part = taken(part, axis, offset)
        parts.append(ops.expand_dims(part, -1) * kernel[offsets])
    total = reduce(ops.add, parts)
    return ops.reshape(total, (-1, *total.shape[1:-2], nb_channels * multiplier))


def conv_transpose(
    inputs: Any,
    kernel: Any,
    strides: Sequence[int],
    padding: str,
    output_padding: Any,
    dilation_rate: Sequence[int],
) -> Any:
    """`keras.ops.conv_transpose` of inputs (N, *places, C) by a kernel (*size, F, C)."""
    settings = (tuple(strides), padding, output_padding, "channels_last", tuple(dilation_rate))
    if backend.on_cpu():
        return ops.conv_transpose(inputs, kernel, *settings)
    symbols = (keras.KerasTensor((1, *inputs.shape[1:])), keras.KerasTensor(kernel.shape))
    shape = tuple(ops.conv_transpose(*symbols, *settings).shape[1:])
    forward = lambda outputs: conv(  # noqa: E731
        outputs, kernel, strides, padding, dilation_rate
    )
    return backend.transpose(forward, [shape], inputs)[0]


def _windows(
    inputs: Any,
    size: Sequence[int],
    strides: Sequence[int],
    padding: str,
    dilation_rate: Sequence[int] | None,
) -> tuple[Any, Any]:
    """The inputs with their border, and ``taken(inputs, axis, offset)`` of them.

    That is what the entry `offset` of a window sees along an axis, for all windows.
    """
    dilation_rate = dilation_rate or (1,) * len(size)
    widths = [(k - 1) * d + 1 for k, d in zip(size, dilation_rate)]
    lengths = inputs.shape[1:-1]
    pads = [border(n, w, s, padding) for n, w, s in zip(lengths, widths, strides)]
    counts = [(n + sum(pad) - w) // s + 1 for n, pad, w, s in zip(lengths, pads, widths, strides)]
    if any(map(any, pads)):
        inputs = ops.pad(inputs, [(0, 0), *pads, (0, 0)])

    def taken(inputs: Any, axis: int, offset: int) -> Any:
        first, stride = offset * dilation_rate[axis - 1], strides[axis - 1]
        seen = slice(first, first + (counts[axis - 1] - 1) * stride + 1, stride)
        return inputs[tuple([slice(None)] * axis + [seen])]

    return inputs, taken
