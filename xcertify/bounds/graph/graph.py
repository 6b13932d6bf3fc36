"""From a Keras model to a topologically sorted list of primitive operations.

The walk knows no rule: what a layer becomes is registered in `rules/`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from xcertify.bounds import backend
from xcertify.bounds.graph.arguments import (
    Arguments,
    UnsupportedLayerError,
    constant_values,
    is_float,
    is_tensor,
    refuse_masks,
)
from xcertify.bounds.graph.operations import Constant, Operation

__all__ = [
    "Emitter",
    "Graph",
    "Node",
    "Rule",
    "UnsupportedLayerError",
    "build_graph",
    "calls_between",
    "is_model_of_layers",
    "layer_input",
    "layer_output",
]


@dataclass
class Node:
    """One tensor of the network and the operation that makes it.

    Attributes
    ----------
    operation
        None for an input.
    parents
        Indices of the nodes it is computed from.
    shape
        Without the batch axis.
    layer
        Name of the Keras layer it belongs to.
    """

    operation: Operation | None
    parents: tuple[int, ...]
    shape: tuple[int, ...]
    layer: str


@dataclass
class Graph:
    """A network as primitive operations; every parent stands before its children.

    `nodes[0]` is the input that is perturbed, behind it stand `nb_inputs - 1` that are fixed.
    `layers` gives the node of each layer's output by the layer's name (with a nested model's name
    and a slash before it), `result` the node of what the model returns and `output` that of what is
    bounded of it (the logits, before a softmax). `ambiguous` says of the names in `layers` that
    stand for several tensors why they do.
    """

    nodes: list[Node] = field(default_factory=list)
    layers: dict[str, int] = field(default_factory=dict)
    ambiguous: dict[str, str] = field(default_factory=dict)
    output: int = 0
    result: int = 0
    nb_inputs: int = 1

    def consumers(self) -> list[list[int]]:
        """For every node the nodes that use it, once per use."""
        users: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for parent in node.parents:
                users[parent].append(index)
        return users


@dataclass(frozen=True)
class Rule:
    """How a layer is translated, and which arguments of its call the translation understands.

    Attributes
    ----------
    function
        ``function(layer, emit, *nodes)`` emits operations on the nodes of the call's tensors and
        gives the node of the output, or several if the layer has several outputs.
    inputs
        Names of arguments, beside the first, that hold tensors: their nodes stand behind those of
        the first.
    settings
        Names of arguments that the function reads by itself, from ``emit.arguments.settings``.
    """

    function: Callable[..., int | Sequence[int]]
    inputs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    def __call__(self, layer: Any, emit: Emitter, *nodes: int) -> int | Sequence[int]:
        """Emit the layer on nodes of its tensors."""
        return self.function(layer, emit, *nodes)


@dataclass
class Emitter:
    """Appends the operations of one layer to a graph; what a rule writes to.

    Attributes
    ----------
    graph
        The network so far.
    layer
        Name of the layer, nested models' before it.
    arguments
        What the layer was called with.
    """

    graph: Graph
    layer: str
    arguments: Arguments | None = None

    def __call__(self, operation: Operation, *inputs: int) -> int:
        """Append an operation on some nodes; returns its own node."""
        shape = backend.output_shape(
            operation.evaluate, [self.shape(node) for node in inputs], "float32"
        )
        if None in shape:
            raise UnsupportedLayerError(
                f"The layer '{self.layer}' cannot be bounded: the shape of its output, {shape}, is "
                f"not known beforehand."
            )
        self.graph.nodes.append(Node(operation, inputs, shape, self.layer))
        return len(self.graph.nodes) - 1

    def shape(self, node: int) -> tuple[int, ...]:
        """Shape of a node without the batch axis."""
        return self.graph.nodes[node].shape

    def constant(
        self, values: Any, own: tuple[int, ...], shape: tuple[int, ...] | None = None
    ) -> int:
        """Append a constant, see `Constant`."""
        return self(Constant(values, own, shape), 0)

    def value(self, node: int) -> Constant | None:
        """The constant that a node is, None for what depends on the input."""
        operation = self.graph.nodes[node].operation
        return operation if isinstance(operation, Constant) else None


def build_graph(
    model: keras.Model,
    find_rule: Callable[[Any], Rule],
    start_layer: str | None = None,
    perturbed: int | str = 0,
    output: int | str = 0,
) -> Graph:
    """Translate a Sequential or functional Keras model.

    Parameters
    ----------
    model
        A built model.
    find_rule
        Gives for a layer the function ``rule(layer, emit, *inputs)`` that emits its operations and
        returns the output's node; raises `UnsupportedLayerError` where there is none.
    start_layer
        Name of a layer whose output takes the place of the model's input.
    perturbed, output
        Number or name of the input that varies and of the output that is bounded.

    Raises
    ------
    UnsupportedLayerError
        For a model that is not a built graph of layers, or a layer without a rule.
    ValueError
        For names or numbers that the model does not have.
    """
    inputs, outputs = _ends(model)
    if start_layer is not None:
        inputs = [layer_output(model, start_layer)]
    first = find_tensor(inputs, perturbed, "perturbed")
    inputs = [inputs[first], *inputs[:first], *inputs[first + 1 :]]
    wanted = outputs[find_tensor(outputs, output, "output")]
    graph = Graph(nb_inputs=len(inputs))
    for tensor in inputs:
        shape = tuple(tensor.shape[1:])
        if None in shape:
            raise UnsupportedLayerError(
                f"The input shape {shape} of the model '{model.name}' is not fully known. Rebuild "
                f"the model with a fixed input shape."
            )
        graph.nodes.append(Node(None, (), shape, tensor.name))
    (graph.result,) = _walk(graph, inputs, [wanted], range(len(inputs)), find_rule, prefix="")
    graph.output = graph.result
    return graph


def find_tensor(tensors: Sequence[Any], wanted: int | str, argument: str) -> int:
    """Position of a tensor given by number or name."""
    names = [tensor.name for tensor in tensors]
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    if isinstance(wanted, int) and -len(tensors) <= wanted < len(tensors):
        return wanted % len(tensors)
    raise ValueError(
        f"{argument} must be a number below {len(tensors)} or one of {', '.join(names)}. "
        f"Received: {wanted!r}"
    )


def layer_output(model: keras.Model, name: str) -> Any:
    """The Keras tensor that a layer of a model gives, in this model's own graph.

    Raises
    ------
    ValueError
        If there is no such layer, or if it is called more than once.
    """
    outputs = _only_call(model, name).output_tensors
    if len(outputs) != 1:
        raise ValueError(
            f"the layer must have one output. Received: {name!r}, which has {len(outputs)}"
        )
    return outputs[0]


def layer_input(model: keras.Model, name: str) -> Any:
    """The Keras tensor that a layer of a model is given, in this model's own graph.

    Errors as for `layer_output`.
    """
    return _only_call(model, name).input_tensors[0]


def _only_call(model: keras.Model, name: str) -> Any:
    calls = calls_between(*_ends(model))
    found = [call for call in calls if call.operation.name == name]
    if len(found) != 1:
        names = ", ".join(dict.fromkeys(call.operation.name for call in calls))
        raise ValueError(
            f"the layer must be one that the model calls once, of {names}. "
            f"Received: {name!r}, called {len(found)} times"
        )
    return found[0]


def is_model_of_layers(layer: Any) -> bool:
    """Whether it is a Sequential or functional model whose `call` is Keras' own."""
    return isinstance(layer, keras.Model) and type(layer).call.__module__.startswith("keras.")


def _ends(model: Any) -> tuple[list[Any], list[Any]]:
    if not is_model_of_layers(model):
        module = type(model).__module__.split(".")[0]
        kind = f"{module}." * (module == "tf_keras") + type(model).__name__
        cure = ""
        if isinstance(model, str):
            cure = ". Load the file first, keras.models.load_model(path)"
        elif module == "tf_keras":
            cure = (
                ". tf_keras is Keras 2: save the model as .h5 and load it with "
                "keras.models.load_model of Keras 3"
            )
        raise UnsupportedLayerError(
            f"Only Sequential and functional Keras models can be bounded, since only they say how "
            f"their layers are connected; a subclassed model does not, nor does a function{cure}. "
            f"Received: '{getattr(model, 'name', model)}' of class {kind}"
        )
    if not getattr(model, "inputs", None):
        raise UnsupportedLayerError(
            f"The model '{model.name}' has not been built. Add a keras.Input, or call it once."
        )
    return model.inputs, model.outputs


def _walk(
    graph: Graph,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    starts: Sequence[int],
    find_rule: Callable,
    prefix: str,
) -> list[int]:
    """Emit all operations between two sets of Keras tensors; the nodes of the outputs."""
    nodes = {id(tensor): index for tensor, index in zip(inputs, starts)}
    calls = calls_between(inputs, outputs)
    for call in calls:
        refuse_masks(call)
    for call in calls:
        layer, name = call.operation, prefix + call.operation.name
        if isinstance(layer, keras.Model):
            given = _nested_inputs(graph, Arguments(call), nodes)
            results = _walk(graph, *_ends(layer), given, find_rule, name + "/")
        else:
            results = _emit(graph, name, call, find_rule(layer), nodes)
        for tensor, result in zip(call.output_tensors, results):
            nodes[id(tensor)] = result
        if name in graph.layers:
            graph.ambiguous[name] = "is called more than once"
        elif len(results) > 1:
            graph.ambiguous[name] = f"has {len(results)} outputs"
        graph.layers[name] = results[0]
    return [nodes[id(tensor)] for tensor in outputs]


def _emit(graph: Graph, name: str, call: Any, rule: Rule, nodes: dict[int, int]) -> list[int]:
    """Emit one call by its rule; the nodes of its outputs."""
    layer = call.operation
    at = f"The layer '{layer.name}' of class {type(layer).__name__} cannot be bounded"
    if not is_float(getattr(layer, "compute_dtype", "float32")):
        raise UnsupportedLayerError(
            f"{at}: it rounds what it is given to {layer.compute_dtype}. Build it with a "
            f"floating dtype."
        )
    arguments = Arguments(call, rule.inputs, rule.settings)
    emit = Emitter(graph, name, arguments)
    rank = max(len(tensor.shape) for tensor in arguments.tensors if is_tensor(tensor))
    parents = [
        _node(nodes, tensor, layer)
        if is_tensor(tensor)
        else emit.constant(*constant_values(tensor, layer, rank))
        for tensor in arguments.tensors
    ]
    try:
        inspect.signature(rule.function).bind(layer, emit, *parents)
    except TypeError as error:
        raise UnsupportedLayerError(
            f"{at} with the number of tensors that it is called with. Received: {len(parents)}"
        ) from error
    try:
        results = rule(layer, emit, *parents)
    except UnsupportedLayerError:
        raise
    except Exception as error:
        raise UnsupportedLayerError(
            f"{at}: its rule failed. Received: {type(error).__name__}: {error}"
        ) from error
    results = list(results) if isinstance(results, (list, tuple)) else [results]
    if len(results) != len(call.output_tensors):
        raise UnsupportedLayerError(
            f"{at}: it has {len(call.output_tensors)} outputs, its rule gives {len(results)}."
        )
    return results


def _nested_inputs(graph: Graph, arguments: Arguments, nodes: dict[int, int]) -> list[int]:
    """Nodes for the inputs of a nested model, associated as Keras does it: by name or structure."""
    model, given = arguments.layer, arguments.first
    inputs, _ = _ends(model)
    expected = inputs[0] if isinstance(model, keras.Sequential) else model.input
    if isinstance(given, dict) and not isinstance(expected, dict):
        given = [given.get(tensor.name) for tensor in keras.tree.flatten(expected)]
    try:
        if isinstance(given, dict) or isinstance(expected, dict):
            keras.tree.assert_same_structure(given, expected)
        given = keras.tree.flatten(given)
    except (TypeError, ValueError):
        given = []
    fits = len(given) == len(inputs) and all(map(is_tensor, given))
    found = [_node(nodes, tensor, model) for tensor in given] if fits else []
    shapes = [tuple(tensor.shape[1:]) for tensor in inputs]
    if not fits or shapes != [graph.nodes[node].shape for node in found]:
        raise UnsupportedLayerError(
            f"The nested model '{model.name}' of class {type(model).__name__} cannot be bounded as "
            f"it is called: it needs tensors of the network of shapes {shapes}, in the structure "
            f"of its own inputs. Received: {given}"
        )
    for tensor, outer in zip(inputs, given):
        if is_float(outer.dtype) and not is_float(tensor.dtype):
            raise UnsupportedLayerError(
                f"The nested model '{model.name}' of class {type(model).__name__} cannot be "
                f"bounded: it rounds its input '{tensor.name}' to {tensor.dtype}. Declare its "
                f"keras.Input as float32."
            )
    return found


def _node(nodes: dict[int, int], tensor: Any, layer: Any) -> int:
    if id(tensor) not in nodes:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' needs '{tensor.name}', which does not come from where the "
            f"bounds start. Start at a layer that all paths go through."
        )
    return nodes[id(tensor)]


def calls_between(inputs: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
    """Layer calls between inputs and outputs, every one after those it needs."""
    done, order = {id(tensor) for tensor in inputs}, []
    stack = [(tensor, False) for tensor in reversed(outputs)]
    while stack:
        tensor, ready = stack.pop()
        if id(tensor) in done:
            continue
        layer, call_index, _ = tensor._keras_history
        if isinstance(layer, keras.layers.InputLayer):
            continue
        call = layer._inbound_nodes[call_index]
        if ready:
            order.append(call)
            done.update(id(output) for output in call.output_tensors)
        else:
            stack.append((tensor, True))
            stack.extend((needed, False) for needed in call.input_tensors)
    return order
