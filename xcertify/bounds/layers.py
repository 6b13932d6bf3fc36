"""Rules of Keras' own layers: what each is made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import layers, ops

from xcertify.bounds import activations, backend
from xcertify.bounds.graph import Emitter, UnsupportedLayerError
from xcertify.bounds.multivariate import Largest, Product, Softmax, Standardization
from xcertify.bounds.operations import Affine, Elementwise, Window
from xcertify.bounds.registry import activate, register

_LARGE_KERNEL = 2**21  # entries of a kernel that are copied at once
IN_FLOAT32 = 2**30  # error of numbers that Keras rounds to float32, in units of 2**-53

# Layers that do nothing when a trained model is used.
_IDENTITIES = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)


@register(*_IDENTITIES)
def _identity(layer: Any, emit: Emitter, node: int) -> int:
    return node


# --- layers with weights ------------------------------------------------------------------------


def _weighted(
    layer: Any,
    emit: Emitter,
    node: int,
    apply: Callable[..., Any],
    kernel: Callable[[], Any],
    nb_terms: int,
    nb_terms_back: int,
    window: Window | None = None,
    last: bool = True,
    transposed: Callable[..., Any] | None = None,
    kind: type[Affine] = Affine,
) -> int:
    """An affine operation with a kernel and, if it is the `last` of the layer, bias and activation.

    `apply` and `transposed` take tensors with the channels last; the layer's own format is kept
    outside.
    """
    if getattr(layer, "quantization_mode", None) is not None:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class {type(layer).__name__} is quantized "
            f"({layer.quantization_mode}); bound the model before its quantization."
        )
    use_bias = last and layer.use_bias
    operation = kind(
        _in_format(layer, apply),
        weights=lambda: (kernel(),),
        bias=_bias(layer) if use_bias else None,
        nb_terms=nb_terms,
        nb_terms_back=nb_terms_back,
        window=window,
        transposed=transposed and _in_format(layer, transposed),
        learned=True,
    )
    node = emit(operation, node)
    return activate(layer, layer.activation, emit, node) if last else node


def _in_format(layer: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of channels-last inputs as one of inputs in the layer's own format."""
    if getattr(layer, "data_format", None) != "channels_first":
        return function

    def converted(inputs: Any, *weights: Any) -> Any:
        outputs = function(ops.moveaxis(inputs, 1, -1), *weights)
        return ops.moveaxis(outputs, -1, 1) if len(outputs.shape) > 2 else outputs

    return converted


def _bias(layer: Any) -> Callable[[], Any]:
    """The bias as it broadcasts to the output."""
    if getattr(layer, "data_format", None) == "channels_first":
        return lambda: ops.reshape(layer.bias, (-1, *[1] * layer.rank))
    return lambda: layer.bias


@register(layers.Dense)
def _dense(layer: Any, emit: Emitter, node: int) -> int:
    nb_inputs, nb_units = layer.kernel.shape
    window = Window(mixed=len(emit.shape(node)) - 1)
    return _weighted(
        layer,
        emit,
        node,
        ops.matmul,
        lambda: layer.kernel,
        nb_inputs,
        nb_units,
        window,
        kind=_LargeMatmul if nb_inputs * nb_units > _LARGE_KERNEL else Affine,
    )


class _LargeMatmul(Affine):
    """A product with a kernel that is too large to be copied whole to another type."""

    def linear(self, *inputs: Any) -> Any:
        """See `Affine`."""
        (kernel,) = self.weights()
        if inputs[0].dtype == kernel.dtype:
            return ops.matmul(inputs[0], kernel)
        return self._in_parts(inputs[0], lambda part: part)

    def absolute(self, *inputs: Any) -> Any:
        """See `Affine`."""
        return self._in_parts(inputs[0], ops.abs)

    def _in_parts(self, inputs: Any, change: Callable[[Any], Any]) -> Any:
        """Product with a changed kernel, of which some rows are held at a time."""
        kernel = ops.convert_to_tensor(self.weights()[0])
        nb_inputs, nb_units = kernel.shape

        def body(first: Any, last: Any, outputs: Any) -> list[Any]:
            part = ops.cast(change(kernel[first:last]), inputs.dtype)
            return [outputs + ops.matmul(inputs[..., first:last], part)]

        zeros = ops.zeros((*ops.shape(inputs)[:-1], nb_units), inputs.dtype)
        nb_rows = max(1, _LARGE_KERNEL // nb_units)
        (outputs,) = backend.loop_over_chunks(body, nb_inputs, nb_rows, [zeros])
        return outputs


@register(layers.EinsumDense)
def _einsum_dense(layer: Any, emit: Emitter, node: int) -> int:
    if getattr(layer, "quantization_mode", None) is not None:
        raise UnsupportedLayerError(f"The layer '{layer.name}' of class EinsumDense is quantized.")
    size, kernel_size = math.prod(emit.shape(node)), math.prod(layer.kernel.shape)
    operation = Affine(
        lambda inputs, kernel: ops.einsum(layer.equation, inputs, kernel),
        weights=lambda: (layer.kernel,),
        bias=None if layer.bias is None else lambda: layer.bias,
        nb_terms=min(size, kernel_size),
        nb_terms_back=kernel_size,
        learned=True,
    )
    return activate(layer, layer.activation, emit, emit(operation, node))


@register(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _convolution(layer: Any, emit: Emitter, node: int) -> int:
    *size, nb_channels, nb_filters = layer.kernel.shape
    causal = layer.padding == "causal"

    def apply(inputs: Any, kernel: Any) -> Any:
        if causal:
            before = layer.dilation_rate[0] * (size[0] - 1)
            inputs = ops.pad(inputs, [(0, 0), (before, 0), (0, 0)])
        parts = zip(_split(inputs, layer.groups), _split(kernel, layer.groups))
        outputs = [
            ops.conv(
                part,
                part_kernel,
                strides=layer.strides,
                padding="valid" if causal else layer.padding,
                data_format="channels_last",
                dilation_rate=layer.dilation_rate,
            )
            for part, part_kernel in parts
        ]
        return outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=-1)

    window = _window(layer, emit.shape(node), size, layer.strides, layer.dilation_rate)
    strided = max(layer.strides) > 1 and max(layer.dilation_rate) == 1
    lengths = [emit.shape(node)[axis] for axis in window.axes]

    def transposed(outputs: Any, kernel: Any) -> Any:
        parts = zip(_split(outputs, layer.groups), _split(kernel, layer.groups))
        inputs = [_transposed(*part, layer.strides, window.offset, lengths) for part in parts]
        return inputs[0] if len(inputs) == 1 else ops.concatenate(inputs, axis=-1)

    return _weighted(
        layer,
        emit,
        node,
        apply,
        lambda: layer.kernel,
        math.prod(size) * nb_channels,
        math.prod(size) * nb_filters,
        window,
        transposed=transposed if strided else None,
    )


def _transposed(
    outputs: Any,
    kernel: Any,
    strides: Sequence[int],
    offsets: Sequence[int],
    lengths: Sequence[int],
) -> Any:
    """The transpose of a strided convolution, as a convolution of stride 1.

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
    kernel = ops.flip(kernel, axis=tuple(outer))
    kernel = ops.transpose(kernel, (*outer, 2 * rank + 1, *inner, 2 * rank))
    kernel = ops.reshape(kernel, (*blocks, nb_filters, math.prod(strides) * nb_channels))
    outputs = ops.pad(outputs, [(0, 0), *((block - 1,) * 2 for block in blocks), (0, 0)])
    inputs = ops.conv(outputs, kernel, padding="valid", data_format="channels_last")
    inputs = ops.reshape(inputs, (-1, *places, *strides, nb_channels))
    pairs = [axis for i in range(1, rank + 1) for axis in (i, i + rank)]
    inputs = ops.transpose(inputs, (0, *pairs, 2 * rank + 1))
    extents = [place * stride for place, stride in zip(places, strides)]
    inputs = ops.reshape(inputs, (-1, *extents, nb_channels))
    beyond = [max(o + n - e, 0) for o, n, e in zip(offsets, lengths, extents)]
    if any(beyond):
        inputs = ops.pad(inputs, [(0, 0), *((0, more) for more in beyond), (0, 0)])
    seen = (slice(offset, offset + length) for offset, length in zip(offsets, lengths))
    return inputs[(slice(None), *seen)]


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
    pointwise = lambda inputs, kernel: ops.conv(  # noqa: E731
        inputs, kernel, 1, "valid", "channels_last"
    )
    return _weighted(
        layer,
        emit,
        node,
        pointwise,
        lambda: layer.pointwise_kernel,
        nb_channels,
        nb_filters,
        Window(mixed=_channel_axis(layer, emit.shape(node)) - 1),
    )


def _depthwise(layer: Any, emit: Emitter, node: int, kernel: Callable[[], Any], last: bool) -> int:
    *size, _, multiplier = kernel().shape
    causal = layer.padding == "causal"

    def apply(inputs: Any, kernel: Any) -> Any:
        if causal:
            before = layer.dilation_rate[0] * (size[0] - 1)
            inputs = ops.pad(inputs, [(0, 0), (before, 0), (0, 0)])
        return ops.depthwise_conv(
            inputs,
            kernel,
            strides=layer.strides,
            padding="valid" if causal else layer.padding,
            data_format="channels_last",
            dilation_rate=layer.dilation_rate,
        )

    window = _window(layer, emit.shape(node), size, layer.strides, layer.dilation_rate)
    nb_terms = math.prod(size)
    return _weighted(
        layer, emit, node, apply, kernel, nb_terms, nb_terms * multiplier, window, last
    )


@register(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def _transposed_convolution(layer: Any, emit: Emitter, node: int) -> int:
    *size, nb_filters, nb_channels = layer.kernel.shape

    def apply(inputs: Any, kernel: Any) -> Any:
        return ops.conv_transpose(
            inputs,
            kernel,
            strides=layer.strides,
            padding=layer.padding,
            output_padding=layer.output_padding,
            data_format="channels_last",
            dilation_rate=layer.dilation_rate,
        )

    nb_places = math.prod(size)
    return _weighted(
        layer,
        emit,
        node,
        apply,
        lambda: layer.kernel,
        nb_places * nb_channels,
        nb_places * nb_filters,
    )


# --- normalization ------------------------------------------------------------------------------


def _scale_and_shift(
    emit: Emitter,
    node: int,
    scale: Callable[[], Any],
    shift: Callable[[], Any] | None,
    shift_size: Callable[[], Any] | None = None,
    weight_error: int = 8,
    learned: bool = True,
) -> int:
    """``scale * x + shift`` with computed, broadcast factors."""
    operation = Affine(
        ops.multiply,
        weights=lambda: (scale(),),
        bias=shift,
        bias_size=shift_size,
        nb_terms=1,
        nb_terms_back=1,
        weight_error=weight_error,
        window=Window(),
        learned=learned,
    )
    return emit(operation, node)


@register(layers.BatchNormalization)
def _batch_normalization(layer: Any, emit: Emitter, node: int) -> int:
    shape = _along(layer.axis, len(emit.shape(node)))

    def scale() -> Any:
        scale = ops.rsqrt(ops.cast(layer.moving_variance, "float64") + layer.epsilon)
        scale = scale * ops.cast(layer.gamma, "float64") if layer.scale else scale
        return ops.reshape(scale, shape)

    def mean() -> Any:
        return ops.reshape(ops.cast(layer.moving_mean, "float64"), shape) * scale()

    def beta() -> Any:
        return ops.reshape(ops.cast(layer.beta, "float64"), shape) if layer.center else 0.0

    return _scale_and_shift(
        emit, node, scale, lambda: beta() - mean(), lambda: ops.abs(mean()) + ops.abs(beta())
    )


@register(layers.Normalization)
def _normalization(layer: Any, emit: Emitter, node: int) -> int:
    def deviation() -> Any:
        return ops.maximum(ops.sqrt(ops.cast(layer.variance, "float64")), 1e-7)

    def mean() -> Any:
        return ops.cast(layer.mean, "float64")

    if layer.invert:
        parts = (deviation, mean)
    else:
        parts = (lambda: 1 / deviation(), lambda: -mean() / deviation())
    scale, shift = (lambda part=part: part()[0] for part in parts)  # they carry a batch axis
    return _scale_and_shift(emit, node, scale, shift, weight_error=IN_FLOAT32, learned=False)


@register(layers.Rescaling)
def _rescaling(layer: Any, emit: Emitter, node: int) -> int:
    scale, offset = (np.asarray(v, "float64") for v in (layer.scale, layer.offset))
    return _scale_and_shift(
        emit, node, lambda: scale, lambda: offset, weight_error=IN_FLOAT32, learned=False
    )


@register(layers.LayerNormalization)
def _layer_normalization(layer: Any, emit: Emitter, node: int) -> int:
    rank = len(emit.shape(node))
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    axes = tuple(sorted(axis % (rank + 1) for axis in axes))
    shape = tuple(emit.shape(node)[a - 1] if a in axes else 1 for a in range(1, rank + 1))
    nb_entries = math.prod(shape)
    if not getattr(layer, "rms_scaling", False):
        centering = Affine(
            lambda inputs, own, mean: own * inputs + mean * ops.sum(inputs, axes, keepdims=True),
            weights=lambda: (np.float64(1), np.float64(-1 / nb_entries)),
            nb_terms=nb_entries + 2,
            nb_terms_back=nb_entries + 2,
            weight_error=2,
        )
        node = emit(centering, node)
    node = emit(Standardization(axes, layer.epsilon, nb_entries), node)
    if layer.gamma is None and layer.beta is None:
        return node
    scale = np.ones(shape) if layer.gamma is None else None
    return _scale_and_shift(
        emit,
        node,
        lambda: scale if scale is not None else ops.reshape(layer.gamma, shape),
        None if layer.beta is None else lambda: ops.reshape(layer.beta, shape),
    )


def _along(axis: int, rank: int) -> list[int]:
    """Shape that lays a vector along an axis (batch axis counted) of an unbatched tensor."""
    shape = [1] * rank
    shape[axis - 1 if axis > 0 else axis] = -1
    return shape


# --- rearrangement ------------------------------------------------------------------------------


@register(layers.Flatten, layers.Reshape, layers.Permute)
def _rearrangement(layer: Any, emit: Emitter, node: int) -> int:
    return emit(Affine(layer.call), node)  # not layer(...), which would cast


@register(layers.RepeatVector)
def _repetition(layer: Any, emit: Emitter, node: int) -> int:
    return emit(Affine(layer.call, nb_terms_back=layer.n), node)


@register(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
def _zero_padding(layer: Any, emit: Emitter, node: int) -> int:
    axes = _spatial_axes(layer, emit.shape(node))
    amounts = _amounts(layer.padding, len(axes))
    pads = [(0, 0)] * (len(emit.shape(node)) + 1)
    for axis, amount in zip(axes, amounts):
        pads[axis] = amount
    shift = Window(
        tuple(axis - 1 for axis in axes),
        (1,) * len(axes),
        (1,) * len(axes),
        tuple(before for before, _ in amounts),
    )
    return emit(Affine(lambda inputs: ops.pad(inputs, pads), window=shift), node)


@register(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D)
def _cropping(layer: Any, emit: Emitter, node: int) -> int:
    axes = _spatial_axes(layer, emit.shape(node))
    amounts = _amounts(layer.cropping, len(axes))
    shift = Window(
        tuple(axis - 1 for axis in axes),
        (1,) * len(axes),
        (1,) * len(axes),
        tuple(-before for before, _ in amounts),
    )
    return emit(Affine(layer.call, window=shift), node)


def _amounts(amounts: Any, rank: int) -> list[tuple[int, int]]:
    return [tuple(amounts)] if rank == 1 and len(np.shape(amounts)) == 1 else list(amounts)


@register(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D)
def _up_sampling(layer: Any, emit: Emitter, node: int) -> int:
    shape = emit.shape(node)
    axes = _spatial_axes(layer, shape)
    sizes = layer.size if isinstance(layer.size, (list, tuple)) else (layer.size,)
    interpolation = getattr(layer, "interpolation", "nearest")
    if interpolation == "nearest":

        def repeat(inputs: Any) -> Any:
            for axis, size in zip(axes, sizes):
                inputs = ops.repeat(inputs, size, axis=axis)
            return inputs

        return emit(Affine(repeat, nb_terms_back=math.prod(sizes)), node)
    if interpolation != "bilinear":
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class {type(layer).__name__} can be bounded with the "
            f"interpolations nearest and bilinear. Received: {interpolation}"
        )
    matrices = [_interpolation(shape[a - 1], size) for a, size in zip(axes, sizes)]

    def interpolate(inputs: Any, *weights: Any) -> Any:
        for axis, weight in zip(axes, weights):
            inputs = ops.moveaxis(ops.tensordot(inputs, weight, [[axis], [0]]), -1, axis)
        return inputs

    operation = Affine(
        interpolate,
        weights=lambda: matrices,
        nb_terms=4,
        nb_terms_back=math.prod(4 * size for size in sizes),
        weight_error=IN_FLOAT32,
    )
    return emit(operation, node)


def _interpolation(length: int, size: int) -> np.ndarray:
    """Weights (length, length * size) of linear interpolation between the centers of entries."""
    places = np.clip((np.arange(length * size) + 0.5) / size - 0.5, 0, length - 1)
    return np.maximum(0, 1 - np.abs(places - np.arange(length)[:, None]))


# --- merging ------------------------------------------------------------------------------------


def _affine_merge(
    emit: Emitter,
    nodes: Sequence[int],
    apply: Callable,
    nb_terms: int,
    weights: Callable[[], Sequence[Any]] = tuple,
) -> int:
    nodes = _broadcast(emit, nodes)
    merged = Affine(
        apply,
        nb_inputs=len(nodes),
        weights=weights,
        nb_terms=nb_terms,
        nb_terms_back=2,
        weight_error=2,
        window=Window(),
    )
    return emit(merged, *nodes)


def _broadcast(emit: Emitter, nodes: Sequence[int]) -> list[int]:
    """The nodes, all in the shape that they broadcast to."""
    shapes = [emit.shape(node) for node in nodes]
    shape = np.broadcast_shapes(*shapes)

    def spread(node: int) -> int:
        own = (1,) * (len(shape) - len(emit.shape(node))) + emit.shape(node)

        def apply(inputs: Any) -> Any:
            inputs = ops.reshape(inputs, (-1, *own))
            for axis, (size, target) in enumerate(zip(own, shape)):
                if size != target:
                    inputs = ops.repeat(inputs, target, axis=axis + 1)
            return inputs

        return emit(Affine(apply, nb_terms_back=math.prod(shape) // math.prod(own)), node)

    return [node if emit.shape(node) == shape else spread(node) for node in nodes]


def sum_of(emit: Emitter, nodes: Sequence[int]) -> int:
    """Sum of nodes."""
    return _affine_merge(emit, nodes, lambda *x: sum(x[1:], x[0]), len(nodes))


def difference_of(emit: Emitter, nodes: Sequence[int]) -> int:
    """First node minus second."""
    return _affine_merge(
        emit, nodes, lambda a, b, minus: a + minus * b, 2, lambda: (np.float64(-1),)
    )


def product_of(emit: Emitter, nodes: Sequence[int]) -> int:
    """Product of nodes."""
    first, *others = _broadcast(emit, nodes)
    for other in others:
        first = emit(Product(), first, other)
    return first


def largest_of(emit: Emitter, nodes: Sequence[int]) -> int:
    """Largest of nodes, entry by entry."""
    nodes = _broadcast(emit, nodes)
    stacked = Affine(
        lambda *inputs: ops.stack(inputs, axis=-1), nb_inputs=len(nodes), window=Window()
    )
    return emit(Largest(), emit(stacked, *nodes))


def smallest_of(emit: Emitter, nodes: Sequence[int]) -> int:
    """Smallest of nodes, entry by entry."""
    return negative_of(emit, largest_of(emit, [negative_of(emit, node) for node in nodes]))


def negative_of(emit: Emitter, node: int) -> int:
    """The negated node."""
    operation = Affine(
        lambda inputs, minus: minus * inputs,
        weights=lambda: (np.float64(-1),),
        nb_terms=1,
        nb_terms_back=1,
        window=Window(),
    )
    return emit(operation, node)


@register(layers.Add)
def _add(layer: Any, emit: Emitter, *nodes: int) -> int:
    return sum_of(emit, nodes)


@register(layers.Subtract)
def _subtract(layer: Any, emit: Emitter, *nodes: int) -> int:
    return difference_of(emit, nodes)


@register(layers.Average)
def _average(layer: Any, emit: Emitter, *nodes: int) -> int:
    count = len(nodes)
    return _affine_merge(
        emit,
        nodes,
        lambda *x: sum(x[1:-1], x[0]) * x[-1],
        count + 1,
        lambda: (np.float64(1 / count),),
    )


@register(layers.Multiply)
def _multiply(layer: Any, emit: Emitter, *nodes: int) -> int:
    return product_of(emit, nodes)


@register(layers.Maximum)
def _maximum(layer: Any, emit: Emitter, *nodes: int) -> int:
    return largest_of(emit, nodes)


@register(layers.Minimum)
def _minimum(layer: Any, emit: Emitter, *nodes: int) -> int:
    return smallest_of(emit, nodes)


@register(layers.Dot)
def _dot(layer: Any, emit: Emitter, first: int, second: int) -> int:
    if layer.normalize:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class Dot cannot be bounded with normalize=True."
        )
    axes = layer.axes if isinstance(layer.axes, (list, tuple)) else (layer.axes, layer.axes)
    ranks = [len(emit.shape(node)) + 1 for node in (first, second)]
    axes = [axis % rank for axis, rank in zip(axes, ranks)]
    # Lay the contracted axis last, the free axes of the two beside each other, then sum products.
    free = [rank - 2 for rank in ranks]

    def laid(node: int, axis: int, before: int, after: int) -> int:
        size = emit.shape(node)[axis - 1]
        rest = [s for a, s in enumerate(emit.shape(node), 1) if a != axis]
        shape = (-1, *[1] * before, *rest, *[1] * after, size)
        return emit(Affine(lambda x: ops.reshape(ops.moveaxis(x, axis, -1), shape)), node)

    nodes = [laid(first, axes[0], 0, free[1]), laid(second, axes[1], free[0], 0)]
    product = product_of(emit, nodes)
    nb_terms = emit.shape(product)[-1]
    scalar = sum(free) == 0
    total = Affine(
        lambda x: ops.sum(x, axis=-1, keepdims=scalar), nb_terms=nb_terms, nb_terms_back=1
    )
    return emit(total, product)


@register(layers.Concatenate)
def _concatenation(layer: Any, emit: Emitter, *nodes: int) -> int:
    axis = layer.axis - 1 if layer.axis > 0 else layer.axis + len(emit.shape(nodes[0]))
    joined = Affine(
        lambda *inputs: ops.concatenate(inputs, layer.axis),
        nb_inputs=len(nodes),
        window=Window(mixed=axis),
    )
    return emit(joined, *nodes)


# --- pooling ------------------------------------------------------------------------------------


@register(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D)
def _average_pooling(layer: Any, emit: Emitter, node: int) -> int:
    shape = emit.shape(node)
    axes = _spatial_axes(layer, shape)
    parts = [
        _windows(shape, (axis,), (size,), (stride,), layer.padding)
        for axis, size, stride in zip(axes, layer.pool_size, layer.strides)
    ]

    def totals(inputs: Any) -> Any:
        for part in parts:  # one axis after the other; TensorFlow pools in float32 alone
            inputs = ops.sum(part(inputs), axis=-1)
        return inputs

    # Entries beyond the border do not count.
    share = 1 / np.asarray(totals(np.ones((1, *shape))), dtype="float64")[0]
    nb_terms = math.prod(layer.pool_size)
    average = Affine(
        lambda inputs, share: totals(inputs) * share,
        weights=lambda: (share,),
        nb_terms=nb_terms + 1,
        nb_terms_back=nb_terms + 1,
        weight_error=2,
        window=_window(layer, shape, layer.pool_size, layer.strides),
    )
    return emit(average, node)


@register(
    layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D
)
def _global_average(layer: Any, emit: Emitter, node: int) -> int:
    axes = _spatial_axes(layer, emit.shape(node))
    nb_terms = math.prod(emit.shape(node)[axis - 1] for axis in axes)
    average = Affine(
        lambda inputs: ops.mean(inputs, axis=axes, keepdims=layer.keepdims),
        nb_terms=nb_terms + 1,
        nb_terms_back=2,
    )
    return emit(average, node)


@register(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)
def _max_pooling(layer: Any, emit: Emitter, node: int) -> int:
    shape = emit.shape(node)
    axes = _spatial_axes(layer, shape)
    windows = _windows(shape, axes, layer.pool_size, layer.strides, layer.padding)
    valid = np.asarray(windows(np.ones((1, *shape), "float32")))[0] > 0
    uses = math.prod(math.ceil(k / s) for k, s in zip(layer.pool_size, layer.strides))
    window = _window(layer, shape, layer.pool_size, layer.strides)
    spread = emit(Affine(windows, nb_terms_back=uses, window=window), node)
    return emit(Largest(None if valid.all() else valid), spread)


@register(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D)
def _global_maximum(layer: Any, emit: Emitter, node: int) -> int:
    axes = _spatial_axes(layer, emit.shape(node))
    channel = _channel_axis(layer, emit.shape(node))
    size = math.prod(emit.shape(node)[axis - 1] for axis in axes)
    nb_channels = emit.shape(node)[channel - 1]
    ones = [1] * len(axes) if layer.keepdims else []
    keep = (-1, nb_channels, *ones) if channel == 1 else (-1, *ones, nb_channels)

    def spread(inputs: Any) -> Any:
        moved = ops.transpose(inputs, (0, channel, *axes))
        return ops.reshape(moved, (*keep, size))

    return emit(Largest(), emit(Affine(spread), node))


def _spatial_axes(layer: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes that a layer on images or sequences runs over, batch axis counted."""
    first = 2 if getattr(layer, "data_format", None) == "channels_first" else 1
    return tuple(range(first, first + len(shape) - 1))


def _channel_axis(layer: Any, shape: tuple[int, ...]) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else len(shape)


def _window(
    layer: Any,
    shape: tuple[int, ...],
    size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int] | None = None,
) -> Window:
    """What a location of the output of a convolution or pooling sees."""
    axes = tuple(axis - 1 for axis in _spatial_axes(layer, shape))
    size = tuple((k - 1) * d + 1 for k, d in zip(size, dilation or (1,) * len(axes)))
    pads = [_border(shape[a], k, s, layer.padding) for a, k, s in zip(axes, size, stride)]
    return Window(axes, size, tuple(stride), tuple(before for before, _ in pads))


def _border(length: int, width: int, stride: int, padding: str) -> tuple[int, int]:
    """Entries that padding adds before and after an axis."""
    if padding == "causal":
        return width - 1, 0
    if padding == "valid":
        return 0, 0
    missing = max((math.ceil(length / stride) - 1) * stride + width - length, 0)
    return missing // 2, missing - missing // 2


def _windows(
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    size: Sequence[int],
    strides: Sequence[int],
    padding: str,
) -> Callable[[Any], Any]:
    """A function that lays the entries of every pooling window along a new last axis.

    Entries beyond the border are 0.
    """
    pads = [(0, 0)] * (len(shape) + 1)
    counts = []
    for axis, width, stride in zip(axes, size, strides):
        length = shape[axis - 1]
        pads[axis] = _border(length, width, stride, padding)
        counts.append((length + sum(pads[axis]) - width) // stride + 1)

    def windows(inputs: Any) -> Any:
        padded = ops.pad(inputs, pads) if any(pad != (0, 0) for pad in pads) else inputs
        parts = []
        for offsets in itertools.product(*map(range, size)):
            index = [slice(None)] * len(pads)
            for axis, offset, stride, count in zip(axes, offsets, strides, counts):
                index[axis] = slice(offset, offset + (count - 1) * stride + 1, stride)
            parts.append(padded[tuple(index)])
        return ops.stack(parts, axis=-1)

    return windows


# --- activations --------------------------------------------------------------------------------


@register(layers.Activation)
def _activation(layer: Any, emit: Emitter, node: int) -> int:
    return activate(layer, layer.activation, emit, node)


@register(layers.ReLU)
def _relu(layer: Any, emit: Emitter, node: int) -> int:
    settings = (float(layer.negative_slope or 0), layer.max_value, float(layer.threshold or 0))
    if settings == (0.0, None, 0.0):
        return emit(Elementwise(activations.RELU), node)
    return emit(Elementwise(activations.rectifier(*settings)), node)


@register(layers.LeakyReLU)
def _leaky_relu(layer: Any, emit: Emitter, node: int) -> int:
    return emit(Elementwise(activations.leaky_relu(float(layer.negative_slope))), node)


@register(layers.PReLU)
def _parametric_relu(layer: Any, emit: Emitter, node: int) -> int:
    return emit(Elementwise(activations.leaky_relu(lambda: layer.alpha)), node)


@register(layers.ELU)
def _elu(layer: Any, emit: Emitter, node: int) -> int:
    return emit(Elementwise(activations.elu(float(layer.alpha))), node)


@register(layers.Softmax)
def _softmax(layer: Any, emit: Emitter, node: int) -> int:
    axis = layer.axis
    return emit(Softmax(tuple(axis) if isinstance(axis, (list, tuple)) else axis), node)
