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
    output = getattr(model, "outputs", None)
    if not isinstance(model, keras.Model) or not output or len(output) > 1:
        return model
    layer, node_index, _ = output[0]._keras_history
    if isinstance(layer, keras.layers.InputLayer):
        return model
    before = layer._inbound_nodes[node_index].input_tensors[0]
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.Model):  # a nested model: its head is the head of the whole
        logits = logits_of(layer)
        if logits is layer:
            return model
    elif isinstance(layer, keras.layers.Softmax) or (
        isinstance(layer, keras.layers.Activation) and activation in _HEADS
    ):
        logits = _identity
    elif activation in _HEADS:
        logits = _without_activation(layer, before.shape)
    else:
        return model
    if before is model.inputs[0]:
        return logits
    # With a name of its own, since Keras counts the models that it names.
    body = keras.Model(model.inputs[0], before, name=f"{model.name}_body")
    return lambda x: logits(body(x, training=False))


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
