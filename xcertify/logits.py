"""Logits: what a classifier computes before the softmax or sigmoid at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

_HEADS = (keras.activations.softmax, keras.activations.sigmoid)


def logits_of(model: Callable) -> Callable:
    """A differentiable function that gives the logits of a classifier.

    A softmax or sigmoid at the end of a built Keras model, be it a layer of its own or the
    activation of the last layer, is left out; the model itself is not touched, and its current
    weights are used at every call. Any other model or callable is returned as it is.

    Parameters
    ----------
    model
        Keras model or TensorFlow callable, (B, *shape) -> (B, K).

    Returns
    -------
    logits
        Callable, (B, *shape) -> (B, K).

    Examples
    --------
    >>> logits = logits_of(model)
    >>> logits(images[:2])
    """
    split = _split(model)
    if split is None:
        return model
    before, head = split
    if before is model.inputs[0]:
        return head
    # With a name of its own, since Keras counts the models that it names.
    body = keras.Model(model.inputs[0], before, name=f"{model.name}_body")
    return lambda x: head(body(x, training=False))


def logits_beside(model: keras.Model, tensor: keras.KerasTensor) -> Callable:
    """A function that gives a tensor inside a model, and the logits that were made of it.

    For derivatives of the logits by the tensor, from one evaluation. A model from the tensor to the
    logits would not do: Keras notes it in the layers of the given one, for good.

    Parameters
    ----------
    model
        Built Keras model; as for `logits_of`, it is not touched, and its current weights are used.
    tensor
        A Keras tensor of it, (B, *shape).

    Returns
    -------
    evaluate
        Callable, inputs to values (B, *shape) and logits (B, K).
    """
    before, head = _split(model) or (model.outputs[0], _identity)
    both = keras.Model(model.inputs[0], [tensor, before], name=f"{model.name}_beside")

    def evaluate(x: Any) -> tuple[Any, Any]:
        values, rest = both(x, training=False)
        return values, head(rest)

    return evaluate


def _split(model: Any) -> tuple[keras.KerasTensor, Callable] | None:
    """The tensor that softmax or sigmoid is applied to, or its layer, and what to do instead."""
    output = getattr(model, "outputs", None)
    if not isinstance(model, keras.Model) or not output or len(output) > 1:
        return None
    layer, node_index, _ = output[0]._keras_history
    if isinstance(layer, keras.layers.InputLayer):
        return None
    before = layer._inbound_nodes[node_index].input_tensors[0]
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.Model):  # a nested model: its head is the head of the whole
        logits = logits_of(layer)
        return None if logits is layer else (before, logits)
    if isinstance(layer, keras.layers.Softmax) or (
        isinstance(layer, keras.layers.Activation) and activation in _HEADS
    ):
        return before, _identity
    if activation in _HEADS:
        return before, _without_activation(layer, before.shape)
    return None


def _without_activation(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> Callable:
    config = layer.get_config() | {"activation": "linear", "name": f"{layer.name}_logits"}
    # Random initializers would draw from the global generator.
    config |= {key: "zeros" for key in config if key.endswith("_initializer")}
    linear = type(layer).from_config(config)
    linear.build(shape)

    def logits(x: Any) -> Any:
        # the weights of the model's own layer, so that later changes of them count
        weights = layer.trainable_variables, layer.non_trainable_variables
        return linear.stateless_call(*weights, x)[0]

    return logits


def _identity(x: Any) -> Any:
    return x
