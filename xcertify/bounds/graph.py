"""From a Keras model to a topologically sorted list of primitive operations.

The walk knows no rule: what a layer becomes is registered in `layers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from xcertify.bounds import backend
from xcertify.bounds.operations import Operation


class UnsupportedLayerError(ValueError):
    """A layer, or a model, that this engine cannot bound. It is refused, never bounded wrongly."""


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
    `layers` gives the node of each layer's output by the layer's name
    (with a nested model's
    name and a slash before it), `output` the node of the model's output.
    """

    nodes: list[Node] = field(default_factory=list)
    layers: dict[str, int] = field(default_factory=dict)
    output: int = 0
    nb_inputs: int = 1

    def consumers(self) -> list[list[int]]:
        """For every node the nodes that use it, once per use."""
        users: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for parent in node.parents:
                users[parent].append(index)
        return users


Rule = Callable[..., int]


@dataclass
class Emitter:
    """Appends the operations of one layer to a graph; what a rule writes to."""

    graph: Graph
    layer: str
    call: Any = None  # of the layer, with its arguments

    def __call__(self, operation: Operation, *inputs: int) -> int:
        """Append an operation on some nodes; returns its own node."""
        shape = backend.output_shape(
            operation.evaluate, [self.shape(node) for node in inputs], "float32"
        )
        self.graph.nodes.append(Node(operation, inputs, shape, self.layer))
        return len(self.graph.nodes) - 1

    def shape(self, node: int) -> tuple[int, ...]:
        """Shape of a node without the batch axis."""
        return self.graph.nodes[node].shape


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
    first = _find(inputs, [tensor.name for tensor in inputs], perturbed, "perturbed")
    inputs = [inputs[first], *inputs[:first], *inputs[first + 1 :]]
    wanted = outputs[_find(outputs, [tensor.name for tensor in outputs], output, "output")]
    graph = Graph(nb_inputs=len(inputs))
    for tensor in inputs:
        shape = tuple(tensor.shape[1:])
        if None in shape:
            raise UnsupportedLayerError(
                f"The input shape {shape} of the model '{model.name}' is not fully known. Rebuild "
                f"the model with a fixed input shape."
            )
        graph.nodes.append(Node(None, (), shape, tensor.name))
    (graph.output,) = _walk(graph, inputs, [wanted], range(len(inputs)), find_rule, prefix="")
    return graph


def _find(tensors: Sequence[Any], names: Sequence[str], wanted: int | str, argument: str) -> int:
    """Position of a tensor given by number or name."""
    if isinstance(wanted, str) and wanted in names:
        return list(names).index(wanted)
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
    return _only_call(model, name).output_tensors[0]


def layer_input(model: keras.Model, name: str) -> Any:
    """The Keras tensor that a layer of a model is given, in this model's own graph.

    Errors as for `layer_output`.
    """
    return _only_call(model, name).input_tensors[0]


def _only_call(model: keras.Model, name: str) -> Any:
    calls = _calls(*_ends(model))
    found = [call for call in calls if call.operation.name == name]
    if len(found) != 1:
        names = ", ".join(dict.fromkeys(call.operation.name for call in calls))
        raise ValueError(
            f"the layer must be one that the model calls once, of {names}. "
            f"Received: {name!r}, called {len(found)} times"
        )
    return found[0]


def _is_model_of_layers(layer: Any) -> bool:
    """Whether it is a Sequential or functional model whose `call` is Keras' own."""
    return isinstance(layer, keras.Model) and type(layer).call.__module__.startswith("keras.")


def _ends(model: Any) -> tuple[list[Any], list[Any]]:
    if not _is_model_of_layers(model):
        raise UnsupportedLayerError(
            f"Only Sequential and functional Keras models can be bounded, since only they say how "
            f"their layers are connected. Received: '{getattr(model, 'name', model)}' of class "
            f"{type(model).__name__}"
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
    for call in _calls(inputs, outputs):
        layer = call.operation
        parents = [_node(nodes, tensor, layer) for tensor in call.input_tensors]
        name = prefix + layer.name
        if isinstance(layer, keras.Model):
            results = _walk(graph, *_ends(layer), parents, find_rule, name + "/")
        else:
            results = [find_rule(layer)(layer, Emitter(graph, name, call), *parents)]
        for tensor, result in zip(call.output_tensors, results):
            nodes[id(tensor)] = result
        graph.layers[name] = results[0]
    return [nodes[id(tensor)] for tensor in outputs]


def _node(nodes: dict[int, int], tensor: Any, layer: Any) -> int:
    if id(tensor) not in nodes:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' needs '{tensor.name}', which does not come from where the "
            f"bounds start. Start at a layer that all paths go through."
        )
    return nodes[id(tensor)]


def _calls(inputs: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
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
