"""Rules of `keras.ops` functions that stand as nodes of their own in a functional model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from xcertify.bounds import activations, merging_layers
from xcertify.bounds.graph import Emitter, UnsupportedLayerError
from xcertify.bounds.multivariate import Softmax
from xcertify.bounds.operations import IN_FLOAT32, Affine, Elementwise, Window
from xcertify.bounds.registry import register_operation
from xcertify.bounds.relaxations import Activation

_ELEMENTWISE: dict[str, Activation | Callable[[Any], Activation]] = {
    "Relu": activations.RELU,
    "Relu6": activations.RELU6,
    "LeakyRelu": lambda op: activations.leaky_relu(float(op.negative_slope)),
    "Elu": lambda op: activations.elu(float(op.alpha)),
    "Selu": activations.SELU,
    "Celu": lambda op: activations.elu(float(op.alpha), stretch=float(op.alpha)),
    "Gelu": lambda op: activations.GELU_TANH if op.approximate else activations.GELU,
    "Silu": activations.SILU,
    "Sigmoid": activations.SIGMOID,
    "HardSigmoid": activations.HARD_SIGMOID,
    "HardSilu": activations.HARD_SILU,
    "HardTanh": activations.HARD_TANH,
    "LogSigmoid": activations.LOG_SIGMOID,
    "Tanh": activations.TANH,
    "Softplus": activations.SOFTPLUS,
    "Softsign": activations.SOFTSIGN,
    "Exp": activations.EXPONENTIAL,
    "Square": activations.SQUARE,
    "Absolute": activations.ABSOLUTE,
}


@register_operation(*_ELEMENTWISE)
def _elementwise(operation: Any, emit: Emitter, node: int) -> int:
    facts = _ELEMENTWISE[type(operation).__name__]
    facts = facts if isinstance(facts, Activation) else facts(operation)
    return emit(Elementwise(facts), node)


@register_operation("Softmax")
def _softmax(operation: Any, emit: Emitter, node: int) -> int:
    return emit(Softmax(operation.axis), node)


@register_operation(
    "Reshape",
    "Transpose",
    "Squeeze",
    "ExpandDims",
    "Flip",
    "GetItem",
    "Moveaxis",
    "Swapaxes",
    "Concatenate",
    "Stack",
)
def _rearrangement(operation: Any, emit: Emitter, *nodes: int) -> int:
    arguments = _Arguments(operation, emit)
    return emit(Affine(arguments.call, nb_inputs=len(nodes)), *nodes)


@register_operation("Repeat", "Tile")
def _repetition(operation: Any, emit: Emitter, node: int) -> int:
    call = _Arguments(operation, emit).call
    out_size = math.prod(emit.call.output_tensors[0].shape[1:])
    uses = math.ceil(out_size / math.prod(emit.shape(node)))
    return emit(Affine(call, nb_terms_back=uses), node)


@register_operation("Pad")
def _padding(operation: Any, emit: Emitter, node: int) -> int:
    value = getattr(operation, "constant_values", None)
    if operation.mode != "constant" or value not in (None, 0, 0.0):
        raise UnsupportedLayerError(
            f"The operation '{operation.name}' of class Pad can be bounded when it pads with 0. "
            f"Received: mode={operation.mode!r}, constant_values={value!r}"
        )
    pads = [tuple(np.broadcast_to(pair, 2)) for pair in operation.pad_width]
    return emit(Affine(lambda inputs: ops.pad(inputs, pads)), node)


@register_operation("Sum", "Mean")
def _total(operation: Any, emit: Emitter, node: int) -> int:
    call = _Arguments(operation, emit).call
    shape = emit.call.output_tensors[0].shape
    if shape[:1] != (None,):
        raise UnsupportedLayerError(
            f"The operation '{operation.name}' of class {type(operation).__name__} mixes samples: "
            f"name the axes to reduce, without the batch axis."
        )
    nb_terms = math.prod(emit.shape(node)) // math.prod(shape[1:])
    return emit(Affine(call, nb_terms=nb_terms + 1, nb_terms_back=2), node)


@register_operation("Negative")
def _negative(operation: Any, emit: Emitter, node: int) -> int:
    return merging_layers.negative_of(emit, node)


@register_operation("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum")
def _binary(operation: Any, emit: Emitter, *nodes: int) -> int:
    kind = type(operation).__name__
    if len(nodes) == 2:
        merge = {
            "Add": merging_layers.sum_of,
            "Subtract": merging_layers.difference_of,
            "Multiply": merging_layers.product_of,
            "Maximum": merging_layers.largest_of,
            "Minimum": merging_layers.smallest_of,
        }
        if kind not in merge:
            raise UnsupportedLayerError(
                f"The operation '{operation.name}' of class {kind} cannot be bounded between two "
                f"tensors of the network."
            )
        return merge[kind](emit, nodes)
    (node,) = nodes
    constant, is_first = _Arguments(operation, emit).constant()
    if constant.ndim == len(emit.shape(node)) + 1 and len(constant) == 1:
        constant = constant[0]
    one, zero = np.float64(1), np.float64(0)
    if kind == "Add":
        return _scaled(emit, node, one, constant)
    if kind == "Subtract":
        return _scaled(emit, node, -one if is_first else one, constant if is_first else -constant)
    if kind == "Multiply":
        return _scaled(emit, node, constant, zero)
    if kind in ("Divide", "TrueDivide") and not is_first:
        return _scaled(emit, node, 1 / constant, zero)
    if kind in ("Maximum", "Minimum") and constant.ndim == 0:
        return emit(Elementwise(activations.limit(float(constant), kind == "Maximum")), node)
    raise UnsupportedLayerError(
        f"The operation '{operation.name}' of class {kind} cannot be bounded with the constant "
        f"in this place, or of shape {constant.shape}."
    )


def _scaled(emit: Emitter, node: int, scale: np.ndarray, shift: np.ndarray) -> int:
    pointwise = scale.ndim == 0
    operation = Affine(
        lambda inputs, scale: inputs * scale,
        weights=lambda: (scale,),
        bias=lambda: shift,
        nb_terms=1,
        nb_terms_back=1,
        weight_error=IN_FLOAT32,
        window=Window() if pointwise else None,
    )
    if np.broadcast_shapes(emit.shape(node), scale.shape, shift.shape) != emit.shape(node):
        raise UnsupportedLayerError(
            f"The constant of shape {np.broadcast_shapes(scale.shape, shift.shape)} in the "
            f"operation '{emit.layer}' enlarges its input of shape {emit.shape(node)}."
        )
    return emit(operation, node)


@register_operation("Matmul", "Dot")
def _matrix_product(operation: Any, emit: Emitter, *nodes: int) -> int:
    if len(nodes) != 1:
        raise UnsupportedLayerError(
            f"The operation '{operation.name}' of class {type(operation).__name__} can be bounded "
            f"with a constant second factor."
        )
    constant, is_first = _Arguments(operation, emit).constant()
    if is_first or constant.ndim != 2:
        raise UnsupportedLayerError(
            f"The operation '{operation.name}' of class {type(operation).__name__} can be bounded "
            f"with a constant matrix as second factor. Received: a constant of {constant.shape}"
        )
    product = Affine(
        ops.matmul,
        weights=lambda: (constant,),
        nb_terms=constant.shape[0],
        nb_terms_back=constant.shape[1],
        window=Window(mixed=len(emit.shape(nodes[0])) - 1),
    )
    return emit(product, nodes[0])


class _Arguments:
    """The arguments that an operation was called with: tensors of the network and constants."""

    def __init__(self, operation: Any, emit: Emitter) -> None:
        self.operation = operation
        self.args, self.kwargs = emit.call.arguments.args, emit.call.arguments.kwargs

    def call(self, *tensors: Any) -> Any:
        """The operation with the tensors of the network replaced by others."""
        values = iter(tensors)

        def fill(argument: Any) -> Any:
            return next(values) if isinstance(argument, keras.KerasTensor) else argument

        args, kwargs = keras.tree.map_structure(fill, (self.args, self.kwargs))
        return self.operation.call(*args, **kwargs)

    def constant(self) -> tuple[np.ndarray, bool]:
        """The one argument that is not a tensor of the network, and whether it stands first."""
        operands = [*self.args, *self.kwargs.values()][:2]
        is_first = not isinstance(operands[0], keras.KerasTensor)
        return np.asarray(operands[0 if is_first else 1], dtype="float64"), is_first
