"""A user's model: what it has to be, and how it is called.

This is the one place that calls it. A Keras model is called at inference (dropout and random
augmentation do nothing), a Sequential or functional one layer by layer, so that values inside it,
and the logits before its softmax, come from the same evaluation as its outputs. Whatever it returns
becomes one tensor, in float32 or float64.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import keras
import numpy as np
import tensorflow as tf

from xcertify.keras_graph import (
    calls_between,
    is_model_of_layers,
    layer_of,
    layer_output,
    output_names,
)
from xcertify.tracing import NeedsValues

_PIXELS = ("uint8", "uint16")


def check_model(model: Any) -> None:
    """Refuse what is no model, and a Keras model that is not built or has several outputs.

    Raises
    ------
    ValueError
        Saying what to give instead.
    """
    if not callable(model):
        raise ValueError(
            f"model must be a Keras model, or a TensorFlow callable (B, *shape) -> (B, K); load "
            f"the file of one first, keras.models.load_model(path). Received: {model!r}"
        )
    if is_model_of_layers(model) and not is_graph(model):
        raise ValueError(
            f"the model must be built: let it begin with a keras.Input, or call it once. "
            f"Received: {model.name!r} of class {type(model).__name__}"
        )
    outputs = model.outputs if is_graph(model) else []
    if len(outputs) > 1:
        raise ValueError(
            f"the model has several outputs; give the one that is meant, "
            f"xcertify.one_output(model, {output_names(model)[0]!r}) or another of them. "
            f"Received: outputs of the layers "
            f"{', '.join(f'{layer_of(o).name} {tuple(o.shape)}' for o in outputs)}"
        )


def is_graph(model: Any) -> TypeGuard[keras.Model]:
    """Whether it is a built Sequential or functional Keras model, of which the layers are known."""
    return is_model_of_layers(model) and bool(getattr(model, "inputs", None))


def channels_last_layer(model: Any) -> str | None:
    """Name of the layer in which a model that takes channels first moves them to the end, or None.

    That is a ``Permute((2, 3, 1))`` that all of the input, (N, C, H, W), goes into and nothing else
    is given: the one thing that tells such a model from one of (N, H, W, C). Explainers and metrics
    look at it from that layer on, so that a map has one value per pixel.
    """
    if not is_graph(model) or len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        return None
    calls = calls_between(model.inputs, model.outputs)
    users = [call for call in calls if any(t is model.inputs[0] for t in call.input_tensors)]
    layer = users[0].operation if len(users) == 1 else None
    if isinstance(layer, keras.layers.Permute) and tuple(layer.dims) == (2, 3, 1):
        return layer.name
    return None


def layer_name(model: Any, layer: str | int | None, argument: str, advice: str = "") -> str:
    """Name of a layer that is given by its name, or by its number in `model.layers`.

    Parameters
    ----------
    model
        Built Sequential or functional Keras model.
    layer
        A name is returned as it is. 0 is the first layer, -1 the last.
    argument, advice
        What it was given as, and what else may help, for the message.

    Raises
    ------
    ValueError
        For a model whose layers are not known, a number that it does not have, and what is neither.
    """
    if not is_graph(model):
        raise ValueError(
            f"layers are known of built Sequential and functional Keras models, not of subclassed "
            f"ones and functions: rebuild the model as one of them, or take one that needs no "
            f"{argument}, such as Saliency or Occlusion. "
            f"Received: {argument}={layer!r} for {getattr(model, 'name', model)!r} of class "
            f"{type(model).__module__.split('.')[0]}.{type(model).__name__}"
        )
    if isinstance(layer, str):
        return layer
    names = [one.name for one in model.layers]
    whole = isinstance(layer, (int, np.integer)) and not isinstance(layer, bool)
    number = int(layer) if whole and layer is not None else len(names)
    if not -len(names) <= number < len(names):
        raise ValueError(
            f"{argument} must be the name of a layer, or its number in model.layers, from 0 to "
            f"{len(names) - 1} (-1 is the last); the layers are {', '.join(names)}{advice}. "
            f"Received: {layer!r}"
        )
    return names[number]


def output_of_layer(
    model: keras.Model, layer: str | int | None, argument: str, advice: str = ""
) -> keras.KerasTensor:
    """The Keras tensor that a layer gives, in the model's own graph; parameters as `layer_name`.

    Raises
    ------
    ValueError
        As `layer_name`; for a layer that is not called exactly once, or has several outputs.
    """
    name = layer_name(model, layer, argument, advice)
    try:
        return layer_output(model, name)
    except ValueError as error:
        raise ValueError(f"{argument}={layer!r} cannot be explained: {error}") from None


def refuse_channels_first(model: Any, what: str) -> None:
    """A ValueError for a model of `channels_last_layer`, where it cannot be looked at behind it."""
    name = channels_last_layer(model)
    if name is not None:
        raise ValueError(
            f"{what} takes models of images with channels last, (N, H, W, C): give the model of "
            f"what comes behind the layer {name!r}, and np.moveaxis(inputs, 1, -1). "
            f"Received: the model {model.name!r}, which moves them itself"
        )


def outputs_of(model: Callable, start_layer: str | None = None) -> Callable:
    """A function that gives the outputs of a model at inference, as one tensor.

    Parameters
    ----------
    model
        Keras model or layer, TensorFlow callable, or a function of NumPy arrays, such as
        `model.predict`, which has no gradient then. A dictionary or list of one output is that
        output.
    start_layer
        Name of a layer whose output takes the place of the inputs.

    Returns
    -------
    outputs
        Callable, (B, *shape) -> (B, *outputs) float32, or float64 where the model computes in it.

    Raises
    ------
    ValueError
        When it is called: for several outputs, and as `check_model`.
    """

    @tf.autograph.experimental.do_not_convert
    def outputs(x: Any) -> tf.Tensor:
        check_model(model)
        if is_graph(model) and len(model.inputs) == 1:
            return single(Run(start_layer=start_layer)(model, x, model.outputs[0]))
        if isinstance(model, keras.layers.Layer) or is_legacy(model):
            return single(model(x, **_inference(model)))
        return _on_tensors(model, x)

    return outputs


def single(outputs: Any) -> tf.Tensor:
    """What a model returns as one tensor of float32 or float64."""
    several = isinstance(outputs, (dict, list, tuple)) and all(map(_is_output, _entries(outputs)))
    if several:
        parts = _entries(outputs)
        if len(parts) != 1:
            raise ValueError(
                f"the model returns several outputs; give a callable, or build a model, of the one "
                f"that is meant, such as lambda x: model(x)[0]. "
                f"Received: a {type(outputs).__name__} of {len(parts)} outputs"
            )
        return single(parts[0])
    outputs = tf.convert_to_tensor(outputs if tf.is_tensor(outputs) else np.asarray(outputs))
    return outputs if outputs.dtype in (tf.float32, tf.float64) else tf.cast(outputs, tf.float32)


def as_rows(outputs: Any) -> Any:
    """Outputs (N, K) of outputs (N, K), (N,) or (N, 1, ..., 1, K), arrays or tensors.

    Raises
    ------
    ValueError
        For any other shape.
    """
    shape = outputs.shape
    if len(shape) < 1 or any(size != 1 for size in shape[1:-1]):
        raise ValueError(
            f"the model must give one row of outputs per input, (N, K) or (N,). Of a map of "
            f"outputs (a U-Net) choose the row of one place, xcertify.one_output(model, at=(row, "
            f"column)), or the mean of several, mask=(h, w); what explains a score, not a class, "
            f"takes weights of all outputs as targets, {('N', *shape[1:])}. "
            f"Received: outputs of shape {tuple(shape)}"
        )
    return flat_rows(outputs)


def flat_rows(outputs: Any) -> Any:
    """Outputs of any shape as rows, (N, K), arrays or tensors."""
    shape = outputs.shape
    if len(shape) == 2:
        return outputs
    width = int(np.prod(shape[1:])) if None not in shape[1:] else -1
    if isinstance(outputs, np.ndarray):
        return outputs.reshape(len(outputs), width)
    return tf.reshape(outputs, (tf.shape(outputs)[0], width))


def map_shape_of(model: Any) -> tuple[int, ...] | None:
    """Shape (h, w, K) of one output of a Keras model that gives maps, and no rows; None of others.

    Parameters
    ----------
    model
        As for `outputs_of`; of what is not built from layers nothing is known.
    """
    shapes = [tuple(output.shape[1:]) for output in (model.outputs if is_graph(model) else ())]
    if len(shapes) != 1 or all(size == 1 for size in shapes[0][:-1]):
        return None
    return shapes[0]


def gradient_by(tape: tf.GradientTape, value: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
    """The gradient of a value of a model by its inputs, or by what its inputs are made of.

    Raises
    ------
    ValueError
        Where there is none: it would be taken for zero otherwise.
    """
    gradient = tape.gradient(value, points)
    if gradient is None:
        raise ValueError(
            "the model has no gradient by its inputs: they are integers, or what they go through "
            "is not differentiable (an Embedding, an argmax, a function of arrays). Explain it by "
            "masks, with Occlusion or Rise; or build a model that begins behind that and explain "
            "what it is given, keras.Model(model.layers[1].output, model.output) for instance"
        )
    return tf.convert_to_tensor(gradient)


def has_gradient(model: Callable, shape: tuple[int, ...]) -> bool:
    """Whether the outputs of a function have a gradient by its inputs, as `gradient_by` needs it.

    Parameters
    ----------
    model
        Of TensorFlow operations, (B, *shape) -> outputs; evaluated at 0.
    shape
        Of one input.
    """
    points = tf.zeros((1, *shape))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(points)
        score = tf.reduce_sum(model(points))
    return tape.gradient(score, points) is not None


class Run:
    """One evaluation of a Sequential or functional model at inference, on tensors.

    Parameters
    ----------
    wanted
        Keras tensors inside the model whose values are to be noted, in `found`.
    inside
        Nested models of it that some of them are in.
    start_layer
        Name of a layer of the model whose output takes the place of its inputs.

    Attributes
    ----------
    found
        Values by the `id` of the Keras tensor.
    """

    def __init__(
        self,
        wanted: Sequence[Any] = (),
        inside: Sequence[Any] = (),
        start_layer: str | None = None,
    ) -> None:
        self._wanted, self._inside = {id(t) for t in wanted}, {id(m) for m in inside}
        self._start_layer = start_layer
        self.found: dict[int, Any] = {}

    def __call__(
        self, model: keras.Model, x: Any, output: keras.KerasTensor, others: Sequence[Any] = ()
    ) -> Any:
        """The value of a Keras tensor of a model of one input; `others` are evaluated as well."""
        start, self._start_layer = self._start_layer, None  # of the outermost model
        first = model.inputs[0] if start is None else layer_output(model, start)
        values = {id(first): as_input(x, first)}
        for call in calls_between([first], [output, *others]):
            results = keras.tree.flatten(self._called(call, values))
            values |= {id(t): value for t, value in zip(call.output_tensors, results)}
        self.found |= {key: values[key] for key in self._wanted.intersection(values)}
        return values[id(output)]

    def _called(self, call: Any, values: dict[int, Any]) -> Any:
        operation = call.operation
        args, kwargs = call.arguments.fill_in(values)
        if id(operation) in self._inside:
            (x,) = (values[id(tensor)] for tensor in call.input_tensors)
            return self(operation, x, operation.outputs[0])
        if isinstance(operation, keras.layers.Layer):
            kwargs = kwargs | {"training": False}
        return operation(*args, **kwargs)


def takes_words(model: Any) -> bool:
    """Whether a Keras model takes whole numbers that are no pixels: words, or categories."""
    kinds = [tf.as_dtype(tensor.dtype) for tensor in getattr(model, "inputs", None) or ()]
    return any(kind.is_integer and kind.name not in _PIXELS for kind in kinds)


def as_input(x: Any, tensor: keras.KerasTensor) -> tf.Tensor:
    """Inputs in the type that a Keras input asks for.

    An input of type uint8 or uint16 says how pixels are stored: the network behind it is a function
    of real numbers, and is left one, so that it has a gradient and no value is cut to a whole one.
    For other integers (tokens, categories) values are rounded.
    """
    dtype = tf.as_dtype(tensor.dtype)
    x = tf.convert_to_tensor(x)
    if dtype.name in _PIXELS:
        return x if x.dtype.is_floating else tf.cast(x, tf.float32)
    if dtype.is_integer and x.dtype.is_floating:
        x = tf.round(x)
    return tf.cast(x, dtype)


def _inference(model: Any) -> dict[str, bool]:
    """Arguments that say so to a Keras layer or model, where it can be said."""
    takes = isinstance(model, keras.layers.Layer) or (
        "training" in inspect.signature(model.call).parameters
    )
    return {"training": False} if takes else {}


def is_legacy(model: Any) -> bool:
    """Whether it is a model of tf_keras, Keras 2."""
    return any(
        kind.__module__.startswith("tf_keras.") and kind.__name__ == "Layer"
        for kind in type(model).__mro__
    )


def _entries(outputs: Any) -> list[Any]:
    return list(outputs.values()) if isinstance(outputs, dict) else list(outputs)


def _is_output(part: Any) -> bool:
    """Whether an entry of what a model returns is an output, and not a row or a number of one."""
    return tf.is_tensor(part) or len(getattr(part, "shape", ())) > 1


def _on_tensors(function: Callable, x: Any) -> tf.Tensor:
    """A callable on a tensor; one of arrays, or of Python's own control flow, outside of graphs."""
    x = tf.convert_to_tensor(x)
    if tf.executing_eagerly():
        return single(_on_values(function, x))
    failure = None
    try:
        outputs = function(x)
        entries = _entries(outputs) if isinstance(outputs, (dict, list, tuple)) else [outputs]
        if any(map(tf.is_tensor, entries)):
            return single(outputs)
    except NeedsValues:
        raise
    except Exception as error:
        failure = error
    with tf.init_scope():
        try:
            shape = [1 if size is None else size for size in x.shape]
            _on_values(function, tf.zeros(shape, x.dtype))
        except Exception as error:
            raise (failure or error) from None
    raise NeedsValues(
        "a function of arrays cannot be part of a graph, whose tensors have no values"
    )


def _on_values(function: Callable, x: tf.Tensor) -> Any:
    try:
        return function(x)
    except Exception as error:
        try:
            return function(x.numpy())
        except Exception:
            raise error from None
