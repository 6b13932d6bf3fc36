"""The registry: which rule translates which Keras layer, and how users add their own.

A rule is a function ``rule(layer, emit, *inputs)``: it emits primitive operations on the nodes
`inputs` and returns the node of the layer's output. Weights are read when a bound is computed, so a
model that is trained further is bounded with its new weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import keras
from keras import layers, ops

from xcertify.bounds import backend
from xcertify.bounds.graph import activations
from xcertify.bounds.graph.arguments import refuse_mixing
from xcertify.bounds.graph.graph import Emitter, Rule
from xcertify.bounds.graph.operations import Affine, Elementwise
from xcertify.bounds.graph.relaxations import Activation
from xcertify.bounds.graph.softmax import Softmax
from xcertify.keras_graph import UnsupportedLayerError, is_keras_function

_RULES: dict[type, Rule] = {}
_OPERATION_RULES: dict[str, Rule] = {}
_MATRIX_ENTRIES = 2**27  # largest matrix that a user's affine layer is written out as

_CATEGORIES = (
    "it turns words or numbers into categories, which jump. Bound what comes behind it, with "
    "start_layer={name!r}"
)
_CURES = {
    **dict.fromkeys(
        (
            "CategoryEncoding",
            "Discretization",
            "HashedCrossing",
            "Hashing",
            "IntegerLookup",
            "StringLookup",
            "TextVectorization",
        ),
        _CATEGORIES,
    ),
    "Lambda": (
        "it holds any function. Write it with keras.ops on the tensors themselves, or as a layer "
        "of your own that you declare with register_affine or register_elementwise"
    ),
    "RandomCrop": "put CenterCrop or Resizing in its place, which do what it does at inference",
}

# Functions of `keras.activations`, and the same ones in `keras.ops` and TensorFlow.
ACTIVATIONS: dict[Callable, Activation | None] = {
    keras.activations.linear: None,
    **{getattr(keras.activations, name): facts for name, facts in activations.FUNCTIONS.items()},
}
_SAME: dict[Callable, Callable] = {
    getattr(ops, name): getattr(keras.activations, name)
    for name in ("softmax", *activations.FUNCTIONS)
    if hasattr(ops, name) and name not in activations.OPS
} | {function: getattr(keras.activations, name) for function, name in backend.ACTIVATIONS.items()}
_OTHERS = {getattr(ops, name): facts for name, facts in activations.OPS.items()}


def keras_activation(function: Any) -> Any:
    """The function of `keras.activations` that a function of `keras.ops` or TensorFlow is.

    Any other object is returned as it is.
    """
    return _SAME.get(function, function) if callable(function) else function


def activation_facts(function: Any) -> Activation | None:
    """What is known of an activation; None for a linear one.

    Parameters
    ----------
    function
        The activation: a function, or a node of `keras.ops`.
    """
    if is_keras_function(function) and type(function).__name__ in activations.NODES:
        return activations.of_node(function)
    return ACTIVATIONS.get(keras_activation(function)) if callable(function) else None


def register(
    *layer_classes: type,
    inputs: Sequence[str] = (),
    settings: Sequence[str] = (),
    masks: Callable[..., int | str | None] | None = None,
) -> Callable[[Callable], Callable]:
    """Make a function the rule of some layer classes (subclasses are not included).

    A call of such a layer with anything else than its first argument and those named here is
    refused, unless it is None, False or the argument's default.

    Parameters
    ----------
    *layer_classes
        What the function is the rule of.
    inputs, settings
        Names of the arguments of the layer's `call` that the function takes as further nodes, and
        of those that it reads from ``emit.arguments.settings``, see `Rule`.
    masks
        Gives the mask that the output carries, see `Rule`.
    """

    def add(function: Callable) -> Callable:
        rule = Rule(function, tuple(inputs), tuple(settings), masks)
        _RULES.update(dict.fromkeys(layer_classes, rule))
        return function

    return add


def register_operation(
    *names: str, inputs: Sequence[str] = (), settings: Sequence[str] = ()
) -> Callable[[Callable], Callable]:
    """Make a function the rule of the `keras.ops` functions whose nodes have these class names.

    See `register` for `inputs` and `settings`.
    """

    def add(function: Callable) -> Callable:
        @wraps(function)
        def checked(operation: Any, emit: Emitter, *nodes: int) -> int:
            refuse_mixing(operation, emit.arguments.evaluate, [emit.shape(node) for node in nodes])
            return function(operation, emit, *nodes)

        rule = Rule(checked, tuple(inputs), tuple(settings))
        _OPERATION_RULES.update(dict.fromkeys(names, rule))
        return function

    return add


def find_rule(layer: Any) -> Rule:
    """The rule of a layer or of a `keras.ops` node.

    Parameters
    ----------
    layer
        The layer, or the node.

    Raises
    ------
    UnsupportedLayerError
        Naming the layer, its class and what is supported.
    """
    kind = type(layer)
    if kind in _RULES:
        return _RULES[kind]
    if is_keras_function(layer) and kind.__name__ in _OPERATION_RULES:
        return _OPERATION_RULES[kind.__name__]
    name = kind.__name__
    if kind.__module__.startswith("keras.") and name in _CURES:
        cure = _CURES[name].format(name=layer.name)
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class {name} cannot be bounded: {cure}."
        )
    if name in supported_layers():  # a subclass may compute something else
        name = f"{kind.__module__}.{name}"
    raise UnsupportedLayerError(
        f"The layer '{layer.name}' of class {name} cannot be bounded. Supported layers of Keras: "
        f"{', '.join(supported_layers())}; supported activations: "
        f"{', '.join(supported_activations())}. A layer of your own can be declared with "
        f"register_affine or register_elementwise."
    )


def registered_rules() -> tuple[Rule, ...]:
    """The rules of all layers, by which one sees whether a layer has got another one."""
    return tuple(_RULES.values())


def supported_layers() -> list[str]:
    """Names of the Keras layers that can be bounded, in alphabetical order."""
    return sorted({_public_name(layer_class) for layer_class in _RULES})


def _public_name(layer_class: type) -> str:
    """The name of a layer's class in `keras.layers`, which may be another one than its own."""
    if hasattr(layers, layer_class.__name__):
        return layer_class.__name__
    names = (name for name, known in vars(layers).items() if known is layer_class)
    return next(names, layer_class.__name__)


def supported_operations() -> list[str]:
    """Class names of the `keras.ops` nodes that can be bounded, in alphabetical order."""
    return sorted(_OPERATION_RULES)


def supported_activations() -> list[str]:
    """Names of the activation functions that can be bounded, in alphabetical order."""
    return sorted([*(function.__name__ for function in ACTIVATIONS), "softmax"])


def register_affine(layer_class: type[layers.Layer]) -> type[layers.Layer]:
    """Declare that a layer of your own is affine in its input, so that it can be bounded.

    The layer is written out as a matrix, by its gradient at zero; it must work in float32 and may
    have any weights. For a layer with more than 2**27 products of inputs and outputs register a
    rule instead (see `xcertify.bounds.rules.registry.register`).

    Parameters
    ----------
    layer_class
        A subclass of `keras.layers.Layer` whose `call(inputs)` is affine and treats samples
        independently. May be used as a decorator.

    Guarantee
    ---------
    Bounds are proved if the layer is affine, which is not checked.

    Examples
    --------
    >>> @register_affine
    ... class Difference(keras.layers.Layer):
    ...     def call(self, inputs):
    ...         return inputs[:, 1:] - inputs[:, :-1]
    """

    def rule(layer: Any, emit: Emitter, node: int) -> int:
        shape = emit.shape(node)
        refuse_mixing(layer, layer.call, [shape])
        out_shape = backend.output_shape(layer.call, [shape], "float32")
        size, out_size = math.prod(shape), math.prod(out_shape)
        if size * out_size > _MATRIX_ENTRIES:
            raise UnsupportedLayerError(
                f"The layer '{layer.name}' of class {layer_class.__name__} is too large to be "
                f"written out as a matrix, {size} x {out_size}. Register a rule for it."
            )

        def matrix() -> tuple[Any]:
            return (backend.by_cpu(written_out),)

        def written_out() -> Any:
            units = ops.reshape(ops.eye(out_size, dtype="float32"), (out_size, *out_shape))
            (rows,) = backend.transpose(layer.call, [shape], units)
            return ops.transpose(ops.reshape(rows, (out_size, size)))

        def bias() -> Any:
            return backend.by_cpu(lambda: layer.call(ops.zeros((1, *shape), dtype="float32"))[0])

        affine = Affine(
            lambda x, m: ops.reshape(ops.matmul(ops.reshape(x, (-1, size)), m), (-1, *out_shape)),
            weights=matrix,
            bias=bias,
            nb_terms=size,
            nb_terms_back=out_size,
            weight_error=8,
        )
        return emit(affine, node)

    register(layer_class)(rule)
    return layer_class


def register_elementwise(
    layer_class: type[layers.Layer], activation: Activation | Callable[[Any], Activation]
) -> None:
    """Declare that a layer of your own applies a scalar function to every entry.

    Parameters
    ----------
    layer_class
        The layer's class.
    activation
        Facts about the function, see `Activation`; or a callable that gives them for a layer, for
        functions with parameters.

    Guarantee
    ---------
    Bounds are proved if the facts are true, which is not checked.

    Examples
    --------
    >>> square = Activation("square", lambda z: z * z, lambda z: 2 * z, extrema=(0.0,), curvature=2)
    >>> register_elementwise(Square, square)
    """

    def rule(layer: Any, emit: Emitter, node: int) -> int:
        facts = activation if isinstance(activation, Activation) else activation(layer)
        return emit(Elementwise(facts), node)

    register(layer_class)(rule)


def activate(layer: Any, function: Any, emit: Emitter, node: int) -> int:
    """Emit an activation given as a function or as a layer."""
    if isinstance(function, layers.Layer):
        return find_rule(function)(function, emit, node)
    function = keras_activation(function)
    if function is keras.activations.softmax:
        return emit(Softmax(), node)
    known: dict[Callable, Activation | None] = {**_OTHERS, **ACTIVATIONS}
    if function not in known:
        own = getattr(function, "__module__", None)
        raise UnsupportedLayerError(
            f"The activation '{getattr(function, '__name__', function)}' of {own} in the layer "
            f"'{layer.name}' of class {type(layer).__name__} cannot be bounded. Supported, from "
            f"keras.activations, and the same functions of keras.ops and tf.nn: "
            f"{', '.join(supported_activations())}."
        )
    activation = known[function]
    return node if activation is None else emit(Elementwise(activation), node)
