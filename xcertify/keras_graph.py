"""How a Keras model is put together: its layers, its tensors, and the calls between them.

This is the one place that knows what Keras keeps under private names. A *call* is what Keras notes
when a layer, or a function of `keras.ops`, is called on tensors of a network: it has `operation`,
`arguments`, `input_tensors` and `output_tensors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras.src.applications.convnext import LayerScale as LayerScale
from keras.src.applications.convnext import StochasticDepth as StochasticDepth
from keras.src.backend.common import global_state
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell as ConvLSTMCell

KEPT = "_kept_by_xcertify"  # the attribute of a model that holds what was made of it

# What Keras notes in layers and models when they are called, trained or saved; none of it changes
# what they compute.
# fmt: off
NOTES = frozenset({
    "build", "built", "compiled", "history", "loss", "optimizer", "quantize", "predict_function",
    "test_function", "train_function", "stop_evaluating", "stop_predicting", "stop_training",
    "steps_per_execution", "unrolled_steps_per_execution", "_auto_config", "_called",
    "_compile_config", "_compile_loss", "_compile_metrics", "_compiled_trainable_state",
    "_distribute_strategy", "_dropout_mask", "_eval_epoch_iterator", "_inbound_nodes",
    "_initial_epoch",
    "_is_compiling", "_jit_compile",
    "_lock", "_loss_ids", "_loss_tracker", "_losses", "_losses_override", "_metrics",
    "_optimizer", "_outbound_nodes", "_parent_path", "_path", "_recurrent_dropout_mask",
    "_run_eagerly",
    "_saved_model_arg_spec", "_saved_model_inputs_spec", "_tracked", "_tracker", KEPT,
})
# fmt: on


# Flags of quantized layers that Keras gives all dense layers, as False, when weights are loaded.
UNSET_FLAGS = frozenset({"is_awq_calibrated", "is_gptq_calibrated"})


class Projections(NamedTuple):
    """The dense layers inside of an attention with heads, and what else it is made of."""

    query: Any
    key: Any
    value: Any
    output: Any
    gate: Any  # None for none
    size: int  # of a head's queries
    nb_repeats: int  # of each head's keys and values
    window: int | None


class UnsupportedLayerError(ValueError):
    """A layer, or a model, that this engine cannot bound. It is refused, never bounded wrongly."""


def is_model_of_layers(layer: Any) -> bool:
    """Whether it is a Sequential or functional model whose `call` is Keras' own."""
    return isinstance(layer, keras.Model) and has_keras_call(layer)


def has_keras_call(layer: Any) -> bool:
    """Whether what a layer computes is Keras' own, and not that of a subclass."""
    return type(layer).call.__module__.startswith("keras.")


def is_keras_function(operation: Any) -> bool:
    """Whether the operation of a call is a function of `keras.ops` or `keras.activations`."""
    return type(operation).__module__.startswith(("keras.src.ops.", "keras.src.activations."))


def ends_of(model: Any) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs of a built Sequential or functional model, as Keras tensors.

    Raises
    ------
    UnsupportedLayerError
        For anything else.
    """
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


def output_number(model: keras.Model, output: int | str) -> int:
    """Number of an output that is given by its number or its name.

    Parameters
    ----------
    model
        Built Sequential or functional model.
    output
        0 is the first, -1 the last. A name is that of the layer that gives it, or its key, where
        the model returns a dictionary.

    Raises
    ------
    ValueError
        For an output that there is not, and a name of several; with the names that there are.
    """
    outputs = ends_of(model)[1]
    number = output if isinstance(output, int) and not isinstance(output, bool) else len(outputs)
    if -len(outputs) <= number < len(outputs):
        return number % len(outputs)
    numbers: dict[str, set[int]] = {}
    for number, tensor in enumerate(outputs):
        for name in (layer_of(tensor).name, tensor.name, *_keys_of(model, tensor)):
            numbers.setdefault(name, set()).add(number)
    found = numbers.get(output, set()) if isinstance(output, str) else set()
    if len(found) == 1:
        return found.pop()
    raise ValueError(
        f"output must be a number below {len(outputs)}{''.join(_or_names(model))}. "
        f"Received: {output!r}"
    )


def output_names(model: keras.Model) -> list[str]:
    """What each output is called: its key in a dictionary, else the layer that gives it."""
    return [
        next(iter(_keys_of(model, tensor)), layer_of(tensor).name) for tensor in ends_of(model)[1]
    ]


def model_of(model: keras.Model, tensor: Any, name: str) -> keras.Model:
    """A model of the same inputs that gives another tensor of theirs; the layers are shared."""
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.input
    return keras.Model(inputs, tensor, name=name)


def _keys_of(model: keras.Model, tensor: Any) -> list[str]:
    structure = None if isinstance(model, keras.Sequential) else model.output
    if not isinstance(structure, dict):
        return []
    return [str(key) for key, value in structure.items() if value is tensor]


def _or_names(model: keras.Model) -> list[str]:
    names = output_names(model)
    single = [name for name in dict.fromkeys(names) if names.count(name) == 1]
    return [f" or one of {', '.join(single)}"] if single else []


def layers_of(model: keras.Model) -> list[keras.layers.Layer]:
    """The model itself and all layers inside it, nested models and what is inside them too."""
    return list(model._flatten_layers())


def own_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Weights and statistics of a layer, without those of layers inside it and random seeds."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def trained_weights(layer: keras.layers.Layer) -> list[tuple[keras.layers.Layer, keras.Variable]]:
    """Weights that training changes, frozen or not, of a layer and all in it, with their layers."""
    return [
        (part, variable)
        for part in layer._flatten_layers()
        for variable in part._trainable_variables
    ]


def trained_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Layers with weights that training changes, by name, in the order of the model's calls.

    Those of nested models are named "nested/layer", and stand in the place of these.
    """
    found: dict[str, keras.layers.Layer] = {}
    for call in calls_between(*ends_of(model)):
        layer = call.operation
        if is_model_of_layers(layer) and getattr(layer, "inputs", None):
            inside = trained_layers(layer)
            found |= {f"{layer.name}/{name}": part for name, part in inside.items()}
        elif isinstance(layer, keras.layers.Layer) and trained_weights(layer):
            found[layer.name] = layer
    return found


def with_attributes(layer: keras.layers.Layer, **attributes: Any) -> keras.layers.Layer:
    """The same layer, with the same variables, but for some of its attributes."""
    changed = object.__new__(type(layer))
    object.__setattr__(changed, "__dict__", vars(layer) | {"_losses": []} | attributes)
    return changed


def call_of(tensor: keras.KerasTensor) -> Any:
    """The call that gives a tensor of a network; that of an `InputLayer` for an input."""
    layer, number, _ = tensor._keras_history
    return layer._inbound_nodes[number]


def layer_of(tensor: keras.KerasTensor) -> Any:
    """The layer or function of `keras.ops` that gives a tensor of a network."""
    return tensor._keras_history[0]


def nb_calls(layer: keras.layers.Layer) -> tuple[int, int]:
    """How many calls of a layer Keras has noted, and how many calls of others on its outputs."""
    return len(layer._inbound_nodes), len(layer._outbound_nodes)


def calls_between(inputs: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
    """Calls between inputs and outputs, every one after those it needs."""
    done, order = {id(tensor) for tensor in inputs}, []
    stack = [(tensor, False) for tensor in reversed(outputs)]
    while stack:
        tensor, ready = stack.pop()
        if id(tensor) in done:
            continue
        call = call_of(tensor)
        if isinstance(call.operation, keras.layers.InputLayer):
            continue
        if ready:
            order.append(call)
            done.update(id(output) for output in call.output_tensors)
        else:
            stack.append((tensor, True))
            stack.extend((needed, False) for needed in call.input_tensors)
    return order


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
    calls = calls_between(*ends_of(model))
    found = [call for call in calls if call.operation.name == name]
    if len(found) != 1:
        names = ", ".join(dict.fromkeys(call.operation.name for call in calls))
        raise ValueError(
            f"the layer must be one that the model calls once, of {names}. "
            f"Received: {name!r}, called {len(found)} times"
        )
    return found[0]


def merges_by_masks(layer: Any) -> bool:
    """Whether it is a layer that selects among its tensors by the masks that these carry."""
    return isinstance(layer, (keras.layers.Maximum, keras.layers.Minimum))


def passes_mask(layer: Any) -> bool:
    """Whether the output of a layer carries the mask of what it is given, as Keras' own rule is."""
    own = type(layer).compute_mask is not keras.layers.Layer.compute_mask
    return layer.supports_masking and not own


def makes_mask(layer: Any) -> bool:
    """Whether a layer has a rule of its own for the mask that its output carries."""
    return layer.supports_masking and not passes_mask(layer)


def projections(layer: Any) -> Projections:
    """What a `MultiHeadAttention` or `GroupedQueryAttention` is made of."""
    grouped = isinstance(layer, keras.layers.GroupQueryAttention)
    own = "" if grouped else "_"
    return Projections(
        query=layer._query_dense,
        key=layer._key_dense,
        value=layer._value_dense,
        output=layer._output_dense,
        gate=layer._gate_dense if getattr(layer, f"{own}use_gate", False) else None,
        size=layer.head_dim if grouped else layer.key_dim,
        nb_repeats=layer.num_repeats if grouped else 1,
        window=getattr(layer, f"{own}sliding_window", None),
    )


def starts_masks(model: keras.Model) -> bool:
    """Whether a layer of a model may make a mask of what it is given."""
    known = (keras.layers.Masking,)
    return any(
        getattr(layer, "mask_zero", False)
        or isinstance(layer, known)
        or not type(layer).compute_mask.__module__.startswith("keras.")
        for layer in layers_of(model)
    )


def carries_mask(tensor: Any) -> bool:
    """Whether a Keras tensor has a mask, which the layers behind it may use."""
    return getattr(tensor, "_keras_mask", None) is not None


def removes_masks(layer: Any) -> bool:
    """Whether Keras takes the masks away from the tensors that a layer is given, for all others."""
    return isinstance(layer, keras.layers.MultiHeadAttention)


def in_order_of_calls(model: keras.Model, calls: Sequence[Any]) -> list[Any]:
    """Calls of a model in the order in which the model makes them."""
    by_depth = getattr(model, "_functional", model)._nodes_by_depth
    nodes = (node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth])
    place = {id(node): number for number, node in enumerate(nodes)}
    return sorted(calls, key=lambda call: place.get(id(call), -1))


def global_seed_generator() -> Any:
    """Keras' generator of seeds for the whole process, None as long as none was needed."""
    return global_state.get_global_attribute("global_seed_generator")


def numbers_in_names() -> dict[str, int]:
    """How many layers of each class Keras has given a name with a number to."""
    return dict(global_state.get_global_attribute("object_name_uids") or {})
