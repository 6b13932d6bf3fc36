"""Rules of convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from keras import layers, ops

from xcertify.bounds import backend
from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.operations import Window
from xcertify.bounds.rules import kernels
from xcertify.bounds.rules.registry import register
from xcertify.bounds.rules.weighted import weighted
from xcertify.bounds.rules.windows import channel_axis, window_of


@register(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _convolution(layer: Any, emit: Emitter, node: int) -> int:
    *size, nb_channels, nb_filters = layer.kernel.shape
    if layer.groups > 1 and _is_depthwise(layer):
        by_channel = (*size, layer.groups, -1)
        return _depthwise(
            layer, emit, node, lambda: ops.reshape(layer.kernel, by_channel), last=True
        )

    def convolution(padding: str) -> Callable[[Any, Any], Any]:
        def apply(inputs: Any, kernel: Any) -> Any:
            if padding == "causal":
                before = layer.dilation_rate[0] * (size[0] - 1)
                inputs = ops.pad(inputs, [(0, 0), (before, 0), (0, 0)])
            parts = zip(_split(inputs, layer.groups), _split(kernel, layer.groups))
            outputs = [
                kernels.conv(
                    part,
                    part_kernel,
                    layer.strides,
                    "valid" if padding == "causal" else padding,
                    layer.dilation_rate,
                )
                for part, part_kernel in parts
            ]
            return outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=-1)

        return apply

    window = window_of(layer, emit.shape(node), size, layer.strides, layer.dilation_rate)
    # The gradient of what `kernels` does on a GPU takes several times the memory.
    gradient = max(layer.strides) == 1 and not backend.accelerators()
    explicit = max(layer.dilation_rate) == 1 and not gradient
    lengths = [emit.shape(node)[axis] for axis in window.axes]

    def transposition(whole: bool) -> Callable[[Any, Any], Any] | None:
        def transposed(outputs: Any, kernel: Any) -> Any:
            places = [(n - 1) * s + k for n, s, k in zip(outputs.shape[1:], layer.strides, size)]
            seen = (window.offset, lengths) if whole else ([0] * len(size), places)
            parts = zip(_split(outputs, layer.groups), _split(kernel, layer.groups))
            inputs = [_transposed(*part, layer.strides, *seen) for part in parts]
            return inputs[0] if len(inputs) == 1 else ops.concatenate(inputs, axis=-1)

        return transposed if explicit else None

    return weighted(
        layer,
        emit,
        node,
        convolution(layer.padding),
        lambda: layer.kernel,
        math.prod(size) * nb_channels,
        math.prod(size) * nb_filters,
        window,
        transposed=transposition(whole=True),
        patchwise=(convolution("valid"), transposition(whole=False)),
    )


def _is_depthwise(layer: Any) -> bool:
    """Whether each channel is a group, and the operation for such groups has its settings."""
    is_planar = layer.rank <= 2 and layer.padding != "causal" and len({*layer.strides}) == 1
    return is_planar and layer.kernel.shape[-2] == 1


def _transposed(
    outputs: Any,
    kernel: Any,
    strides: Sequence[int],
    offsets: Sequence[int],
    lengths: Sequence[int],
) -> Any:
    """The transpose of a convolution, as a convolution of stride 1.

    What lies within one stride of the input becomes channels, which are laid out in the end. For
    few channels, as at the input, this is three times as fast as the convolution's own gradient.
    """
    rank, (nb_channels, nb_filters) = len(strides), kernel.shape[-2:]
    blocks = [-(-k // s) for k, s in zip(kernel.shape, strides)]
    places = [n + block - 1 for n, block in zip(outputs.shape[1:], blocks)]
    outer, inner = range(0, 2 * rank, 2), range(1, 2 * rank, 2)

    def interleaved(sizes: Sequence[int]) -> list[int]:
        return [size for pair in zip(sizes, strides) for size in pair]

    missing = [(0, b * s - k) for b, s, k in zip(blocks, strides, kernel.shape)]
    kernel = ops.pad(kernel, [*missing, (0, 0), (0, 0)])
    kernel = ops.reshape(kernel, (*interleaved(blocks), nb_channels, nb_filters))
    for axis in outer:  # one at a time: some versions of Keras take no more
        kernel = ops.flip(kernel, axis=axis)
    kernel = ops.transpose(kernel, (*outer, 2 * rank + 1, *inner, 2 * rank))
    kernel = ops.reshape(kernel, (*blocks, nb_filters, math.prod(strides) * nb_channels))
    outputs = ops.pad(outputs, [(0, 0), *((block - 1,) * 2 for block in blocks), (0, 0)])
    inputs = kernels.conv(outputs, kernel, (1,) * rank)
    inputs = ops.reshape(inputs, (-1, *places, *strides, nb_channels))
    pairs = [axis for i in range(1, rank + 1) for axis in (i, i + rank)]
    inputs = ops.transpose(inputs, (0, *pairs, 2 * rank + 1))
    extents = [place * stride for place, stride in zip(places, strides)]
    inputs = ops.reshape(inputs, (-1, *extents, nb_channels))
    beyond = [max(o + n - e, 0) for o, n, e in zip(offsets, lengths, extents)]
    if any(beyond):
        inputs = ops.pad(inputs, [(0, 0), *((0, more) for more in beyond), (0, 0)])
    seen = [slice(offset, offset + length) for offset, length in zip(offsets, lengths)]
    return inputs[tuple([slice(None), *seen])]


def _split(values: Any, count: int) -> list[Any]:
    """Equal parts along the last axis; grouped convolutions have no gradient on a CPU."""
    return [values] if count == 1 else ops.split(values, count, axis=-1)


@register(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def _depthwise_convolution(layer: Any, emit: Emitter, node: int) -> int:
    return _depthwise(layer, emit, node, lambda: layer.kernel, last=True)


@register(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable_convolution(layer: Any, emit: Emitter, node: int) -> int:
    node = _depthwise(layer, emit, node, lambda: layer.depthwise_kernel, last=False)
    *_, nb_channels, nb_filters = layer.pointwise_kernel.shape
    strides = (1,) * layer.rank
    pointwise = lambda inputs, kernel: kernels.conv(inputs, kernel, strides)  # noqa: E731
    return weighted(
        layer,
        emit,
        node,
        pointwise,
        lambda: layer.pointwise_kernel,
        nb_channels,
        nb_filters,
        Window(mixed=channel_axis(layer, emit.shape(node)) - 1),
    )


def _depthwise(layer: Any, emit: Emitter, node: int, kernel: Callable[[], Any], last: bool) -> int:
    *size, _, multiplier = kernel().shape

    def convolution(padding: str) -> Callable[[Any, Any], Any]:
        return lambda inputs, kernel: kernels.depthwise_conv(
            inputs, kernel, layer.strides, padding, layer.dilation_rate
        )

    window = window_of(layer, emit.shape(node), size, layer.strides, layer.dilation_rate)
    nb_terms = math.prod(size)
    return weighted(
        layer,
        emit,
        node,
        convolution(layer.padding),
        kernel,
        nb_terms,
        nb_terms * multiplier,
        window,
        last,
        patchwise=(convolution("valid"), None),
    )


@register(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def _transposed_convolution(layer: Any, emit: Emitter, node: int) -> int:
    *size, nb_filters, nb_channels = layer.kernel.shape

    def apply(inputs: Any, kernel: Any) -> Any:
        return kernels.conv_transpose(
            inputs,
            kernel,
            layer.strides,
            layer.padding,
            layer.output_padding,
            layer.dilation_rate,
        )

    nb_places = math.prod(size)
    return weighted(
        layer,
        emit,
        node,
        apply,
        lambda: layer.kernel,
        nb_places * nb_channels,
        nb_places * nb_filters,
    )
