"""What layers with a kernel share, and the rules of dense layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import layers, ops

from xcertify.bounds import backend
from xcertify.bounds.graph.arguments import refuse_mixing
from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.operations import Affine, Window
from xcertify.bounds.rules.merging import check_addition
from xcertify.bounds.rules.registry import activate, register
from xcertify.keras_graph import UnsupportedLayerError

_LARGE_KERNEL = 2**21  # entries of a kernel that are copied at once


def refuse_quantized(layer: Any) -> None:
    """Refuse a layer that rounds what it is given, or its weights, to few numbers."""
    if getattr(layer, "quantization_mode", None) is not None:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class {type(layer).__name__} is quantized "
            f"({layer.quantization_mode}) and cannot be bounded: it rounds. Bound the model before "
            f"its quantization."
        )


def weighted(
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
    patchwise: tuple[Callable[..., Any], Callable[..., Any] | None] | None = None,
    kind: type[Affine] = Affine,
) -> int:
    """An affine operation with a kernel and, if it is the `last` of the layer, bias and activation.

    Functions take tensors with the channels last; the layer's own format is kept outside.
    `patchwise` is what `apply` and `transposed` are without a border, see `Operation.on_patches`.
    """
    refuse_quantized(layer)
    use_bias = last and layer.use_bias
    weights = lambda: (kernel(),)  # noqa: E731
    given = (apply, transposed, *(patchwise or (None, None)))
    apply, transposed, *inside = (f and _in_format(layer, f) for f in given)
    operation = kind(
        apply,
        weights=weights,
        bias=_bias(layer) if use_bias else None,
        nb_terms=nb_terms,
        nb_terms_back=nb_terms_back,
        window=window,
        patchwise=patchwise and Affine(inside[0], weights=weights, transposed=inside[1]),
        transposed=transposed,
        learned=True,
    )
    node = emit(operation, node)
    if use_bias:
        check_addition(emit.layer, emit.shape(node), _bias(layer)().shape, fixed=True)
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
    return weighted(
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
        return self._by_kernel_rows(inputs[0], lambda part: part)

    def absolute(self, *inputs: Any) -> Any:
        """See `Affine`."""
        return self._by_kernel_rows(inputs[0], ops.abs)

    def _by_kernel_rows(self, inputs: Any, change: Callable[[Any], Any]) -> Any:
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
    refuse_quantized(layer)
    refuse_mixing(layer, lambda x: ops.einsum(layer.equation, x, layer.kernel), [emit.shape(node)])
    size, kernel_size = math.prod(emit.shape(node)), math.prod(layer.kernel.shape)
    operation = Affine(
        lambda inputs, kernel: ops.einsum(layer.equation, inputs, kernel),
        weights=lambda: (layer.kernel,),
        bias=None if layer.bias is None else lambda: layer.bias,
        nb_terms=min(size, kernel_size),
        nb_terms_back=kernel_size,
        learned=True,
    )
    node = emit(operation, node)
    if layer.bias is not None:
        check_addition(emit.layer, emit.shape(node), layer.bias.shape, fixed=True)
    return activate(layer, layer.activation, emit, node)
