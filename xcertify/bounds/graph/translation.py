"""From a Keras model to a graph: every call of a layer becomes operations, by the layer's rule.

The walk knows no rule: what a layer becomes is registered in `rules/`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from xcertify.bounds.graph.arguments import (
    Arguments,
    constant_values,
    is_float,
    is_tensor,
    refuse_masks,
    takes_masks,
)
from xcertify.bounds.graph.graph import Emitter, Graph, Node, Rule, unknown_mask
from xcertify.bounds.graph.operations import Input
from xcertify.keras_graph import (
    UnsupportedLayerError,
    calls_between,
    ends_of,
    in_order_of_calls,
    layer_output,
    makes_mask,
    output_number,
    passes_mask,
    removes_masks,
    starts_masks,
)


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
        Name of a layer whose output takes the place of the model's input. Inputs of the model that
        other parts need stand behind it, as inputs that do not vary, see `Graph.fixed`.
    perturbed, output
        Number or name of the input that varies and of the output that is bounded.

    Raises
    ------
    UnsupportedLayerError
        For a model that is not a built graph of layers, or a layer without a rule.
    ValueError
        For names or numbers that the model does not have.
    """
    inputs, outputs = ends_of(model)
    wanted = outputs[output_number(model, output)]
    if start_layer is not None:
        start = layer_output(model, start_layer)
        find_tensor([start], perturbed, "perturbed")
        return _graph_from(model, find_rule, start, wanted)
    first = find_tensor(inputs, perturbed, "perturbed")
    inputs = [inputs[first], *inputs[:first], *inputs[first + 1 :]]
    graph, nodes = _begun(model, inputs)
    calls = in_order_of_calls(model, calls_between(inputs, [wanted]))
    (graph.result,) = _walk(graph, calls, nodes, [wanted], find_rule, prefix="")
    graph.output = graph.result
    return graph


def _begun(model: keras.Model, inputs: Sequence[Any]) -> tuple[Graph, dict[int, int]]:
    """A graph of nothing but inputs, of which the first varies, and their nodes."""
    graph = Graph(nb_inputs=len(inputs))
    for tensor in inputs:
        shape = tuple(tensor.shape[1:])
        if None in shape:
            raise UnsupportedLayerError(
                f"The input shape {shape} of the model '{model.name}' is not fully known. Make a "
                f"copy with a fixed one: fixed = keras.models.clone_model(model, input_tensors="
                f"keras.Input(shape)), with the shape of one input, then "
                f"fixed.set_weights(model.get_weights())."
            )
        given = Input(is_point=bool(graph.nodes), dtype=str(tensor.dtype))
        graph.nodes.append(Node(given, (), shape, tensor.name))
    return graph, {id(tensor): number for number, tensor in enumerate(inputs)}


def _graph_from(model: keras.Model, find_rule: Callable, start: Any, wanted: Any) -> Graph:
    """The graph from a tensor of a model on.

    Where other parts need inputs of the model (a second branch, the mask of the tensor), these are
    inputs that do not vary.
    """
    inputs = model.inputs
    behind = calls_between([start, *inputs], [wanted])
    needed = {id(tensor) for call in behind for tensor in call.input_tensors}
    if not starts_masks(model) and needed.isdisjoint(map(id, inputs)):
        graph, nodes = _begun(model, [start])
        calls = in_order_of_calls(model, behind)
        (graph.result,) = _walk(graph, calls, nodes, [wanted], find_rule, prefix="")
        graph.output = graph.result
        return graph
    calls = in_order_of_calls(model, calls_between(inputs, [wanted]))
    fixed: tuple[int, ...] = tuple(range(len(inputs)))
    while True:
        graph, nodes = _begun(model, [start, *(inputs[number] for number in fixed)])
        walk = _Start(start, {id(call) for call in behind})
        (graph.result,) = _walk(graph, calls, nodes, [wanted], find_rule, "", walk)
        graph.output, graph.fixed = graph.result, fixed
        used = {p for i in graph.ancestors([graph.result]) for p in graph.nodes[i].parents}
        left = tuple(number for place, number in enumerate(fixed, 1) if place in used)
        if left == fixed:
            return graph
        fixed = left


def graph_of_call(call: Any, find_rule: Callable[[Any], Rule]) -> Graph:
    """Translate a single call of a layer, whose tensors of the network are the inputs.

    Parameters
    ----------
    call
        Keras' node of the call.
    find_rule
        As for `build_graph`.

    Raises
    ------
    UnsupportedLayerError
        For a layer that cannot be bounded as it is called.
    """
    inputs = list({id(tensor): tensor for tensor in call.input_tensors}.values())
    graph = Graph(nb_inputs=len(inputs))
    for tensor in inputs:
        given = Input(is_point=tensor.dtype == "bool", dtype=str(tensor.dtype))  # a mask
        graph.nodes.append(Node(given, (), tuple(tensor.shape[1:]), tensor.name))
    nodes = {id(tensor): number for number, tensor in enumerate(inputs)}
    found = _walk(graph, [call], nodes, call.output_tensors, find_rule, prefix="")
    graph.output = graph.result = found[0]
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


@dataclass(frozen=True)
class _Start:
    """Where in a walk through the whole model bounds start.

    Attributes
    ----------
    tensor
        The Keras tensor that varies.
    behind
        The `id` of the calls that are needed; others only say which masks tensors carry, if they
        can be bounded.
    """

    tensor: Any
    behind: set[int]


def _walk(
    graph: Graph,
    calls: Sequence[Any],
    nodes: dict[int, int],
    outputs: Sequence[Any],
    find_rule: Callable,
    prefix: str,
    start: _Start | None = None,
) -> list[int]:
    """Emit all operations of some calls, in order; the nodes of the outputs.

    `nodes` gives those of Keras tensors by their `id`; those of the calls are added.
    """
    for call in calls:
        name, is_behind = prefix + call.operation.name, start is None or id(call) in start.behind
        try:
            results = _called(graph, name, call, find_rule, nodes)
        except UnsupportedLayerError:
            if is_behind:
                raise
            results = []
        if start is not None and any(tensor is start.tensor for tensor in call.output_tensors):
            unknown = unknown_mask(call.operation)
            mask = graph.masks.get(results[0]) if results else unknown
            if mask is not None:
                graph.masks[0] = mask
            results = [0]
        for tensor, result in zip(call.output_tensors, results):
            nodes[id(tensor)] = result
        if not is_behind:
            continue
        if name in graph.layers:
            graph.ambiguous[name] = "is called more than once"
        elif len(results) > 1:
            graph.ambiguous[name] = f"has {len(results)} outputs"
        graph.layers[name] = results[0]
    return [nodes[id(tensor)] for tensor in outputs]


def _called(
    graph: Graph, name: str, call: Any, find_rule: Callable, nodes: dict[int, int]
) -> Sequence[int]:
    """Emit one call, of a layer or of a nested model; the nodes of its outputs."""
    layer = call.operation
    if not isinstance(layer, keras.Model):
        return _emit(graph, name, call, find_rule(layer), nodes)
    arguments = Arguments(call)
    given = _nested_inputs(graph, arguments, nodes)
    _give_masks(graph, name, arguments, nodes, given)
    return emit_model(graph, layer, given, find_rule, name)


def emit_model(
    graph: Graph, model: keras.Model, given: Sequence[int], find_rule: Callable, name: str
) -> list[int]:
    """Emit a nested model on the nodes of its inputs; the nodes of its outputs."""
    inputs, outputs = ends_of(model)
    calls = in_order_of_calls(model, calls_between(inputs, outputs))
    nodes = {id(tensor): node for tensor, node in zip(inputs, given)}
    return _walk(graph, calls, nodes, outputs, find_rule, name + "/")


def _give_masks(
    graph: Graph, name: str, arguments: Arguments, nodes: dict[int, int], given: Sequence[int]
) -> None:
    """Let the inputs of a nested model carry the masks that it is called with."""
    emit = Emitter(graph, name, arguments, nodes, list(given))
    for number, node in enumerate(given):
        mask = emit.mask(number) if arguments.masks else None
        if mask is not None:
            graph.masks[node] = mask


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
    emit = Emitter(graph, name, arguments, nodes)
    rank = max(len(tensor.shape) for tensor in arguments.tensors if is_tensor(tensor))
    parents = [
        _node(nodes, tensor, layer)
        if is_tensor(tensor)
        else emit.constant(*constant_values(tensor, layer, rank))
        for tensor in arguments.tensors
    ]
    emit.tensors = parents
    carried = any(parent in graph.masks for parent in parents)
    try:
        inspect.signature(rule.function).bind(layer, emit, *parents)
    except TypeError as error:
        raise UnsupportedLayerError(
            f"{at} with the number of tensors that it is called with. Received: {len(parents)}"
        ) from error
    try:
        found = rule(layer, emit, *parents)
    except UnsupportedLayerError:
        raise
    except Exception as error:
        raise UnsupportedLayerError(
            f"{at}: its rule failed. Received: {type(error).__name__}: {error}"
        ) from error
    results = list(found) if isinstance(found, (list, tuple)) else [found]
    if len(results) != len(call.output_tensors):
        raise UnsupportedLayerError(
            f"{at}: it has {len(call.output_tensors)} outputs, its rule gives {len(results)}."
        )
    if not emit.asked and (arguments.masks or (carried and takes_masks(layer))):
        refuse_masks(call, arguments.masks)
    if isinstance(layer, keras.layers.Layer):
        _carry(emit, layer, rule, results, carried)
    return results


def _carry(emit: Emitter, layer: Any, rule: Rule, results: Sequence[int], carried: bool) -> None:
    """Note which masks the outputs of a layer carry, and take those away that Keras takes away."""
    masks = emit.graph.masks
    mask: int | str | None = None
    if rule.masks is not None:
        try:
            mask = rule.masks(layer, emit, *emit.tensors)
        except UnsupportedLayerError as error:  # of which only those hear that need the mask
            mask = str(error)
    elif passes_mask(layer):
        mask = emit.mask() if "mask" in emit.arguments.masks else masks.get(emit.tensors[0])
    elif makes_mask(layer) and carried:
        mask = unknown_mask(layer)
    if removes_masks(layer):
        for node in emit.tensors:
            masks.pop(node, None)
    if mask is not None:
        masks.setdefault(results[0], mask)


def _nested_inputs(graph: Graph, arguments: Arguments, nodes: dict[int, int]) -> list[int]:
    """Nodes for the inputs of a nested model, associated as Keras does it: by name or structure."""
    model, given = arguments.layer, arguments.first
    inputs, _ = ends_of(model)
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
