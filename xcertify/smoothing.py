"""Kinks of a model, and its copies: with the same weights, and with softplus for ReLU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import keras
import tensorflow as tf

from xcertify.bounds import Activation, activation_facts, register_elementwise, smooth_rectifier
from xcertify.keras_graph import layers_of, own_variables, with_attributes

BETAS = (10.0, 30.0, 100.0)

_RECTIFIERS = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.PReLU)
_SELECTIONS = ("MaxPooling", "GlobalMaxPooling", "Maximum", "Minimum", "Absolute")


class SmoothReLU(keras.layers.Layer):
    """Layer of `softplus_copy`: ``slope z + (1 - slope) softplus(beta z) / beta``.

    `Verifier` bounds it with the value that beta has at the time.
    """

    def __init__(self, beta: tf.Variable, slope: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.beta, self.slope = beta, slope

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The function, elementwise."""
        beta = tf.cast(self.beta, inputs.dtype)
        return self.slope * inputs + (1 - self.slope) * tf.nn.softplus(beta * inputs) / beta


register_elementwise(
    SmoothReLU, lambda layer: smooth_rectifier(float(layer.beta.numpy()), layer.slope)
)


class SmoothCopy:
    """A copy of a model with ``softplus(beta z) / beta`` for every ReLU; see `softplus_copy`.

    Attributes
    ----------
    model
        The copy.
    beta
        Scalar variable, 10 at first.
    differs
        Whether anything was replaced.
    """

    def __init__(self, model: keras.Model) -> None:
        self._source = model
        self.model, self.beta = softplus_copy(model)
        functions = (function for _, function in _functions(self.model))
        self.differs = any(isinstance(function, SmoothReLU) for function in functions)

    def update(self) -> None:
        """Take over the weights and statistics that the source has now."""
        _copy_state(self._source, self.model)


def softplus_copy(model: keras.Model) -> tuple[keras.Model, tf.Variable]:
    """A copy of a model with softplus(beta z) / beta for every ReLU, and the variable beta.

    Parameters
    ----------
    model
        Built Keras model; it is not touched. Layers `ReLU` (without limits), `LeakyReLU`, and
        relu as `Activation` or fused activation are replaced; everything else stays.

    Returns
    -------
    copy, beta
        The copy with the same weights and statistics, and a scalar variable, 10 at first.
    """
    beta = tf.Variable(BETAS[0], trainable=False, dtype=tf.float32)

    def smooth(layer: keras.layers.Layer, slope: float, **settings: Any) -> SmoothReLU:
        return SmoothReLU(beta, slope, dtype=layer.dtype_policy, **settings)

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        plain = isinstance(layer, keras.layers.ReLU) and layer.max_value is None
        if (plain and not layer.threshold) or isinstance(layer, keras.layers.LeakyReLU):
            return smooth(layer, float(layer.negative_slope), name=layer.name)
        rectified = getattr(layer, "activation", None) in (keras.activations.relu, tf.nn.relu)
        if rectified and isinstance(layer, keras.layers.Activation):
            return smooth(layer, 0.0, name=layer.name)
        if rectified:
            copy = _copy_layer(layer)
            copy.activation = smooth(layer, 0.0)
            return copy
        return None

    return copy_model(model, replace), beta


def copy_model(
    model: keras.Model,
    replace: Callable[[keras.layers.Layer], keras.layers.Layer | None] = lambda layer: None,
    *,
    stays_sequential: bool = False,
) -> keras.Model:
    """A model of copied layers, with the weights and statistics of the given one.

    Parameters
    ----------
    model
        Built Sequential or functional model; it is not touched.
    replace
        Gives for a layer what stands in its place in the copy; None: its copy.
    stays_sequential
        Whether a Sequential model stays one, whose layers have the same numbers; Keras then counts
        it in the names that it gives. Else it becomes a functional one.
    """

    @cache  # a shared layer stays shared
    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.Model):
            return copied(layer)
        replaced = replace(layer)
        return _copy_layer(layer) if replaced is None else replaced

    def copied(model: keras.Model) -> keras.Model:
        if isinstance(model, keras.Sequential) and not stays_sequential:
            model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
        return keras.models.clone_model(model, clone_function=clone)

    copy = copied(model)
    _copy_state(model, copy)
    return copy


def kinks(model: Any) -> Iterator[tuple[str, Activation | None]]:
    """Names of layers whose derivative jumps, with the facts of their activation if it does.

    Parameters
    ----------
    model
        A Keras model; of any other callable nothing is known.
    """
    for layer, function in _functions(model):
        if isinstance(layer, _RECTIFIERS):
            function = keras.activations.relu
        facts = activation_facts(function)
        if type(layer).__name__.startswith(_SELECTIONS):
            yield layer.name, None
        elif facts is not None and facts.kinks and facts.slope is None:
            yield layer.name, facts


def _functions(model: Any) -> Iterator[tuple[keras.Layer, Any]]:
    """Layers and nodes of a Keras model, nested ones too, each with its activation or None."""
    for layer in getattr(model, "operations", getattr(model, "layers", ())):
        if isinstance(layer, keras.Model):
            yield from _functions(layer)
        elif isinstance(layer, SmoothReLU) or not isinstance(layer, keras.layers.Layer):
            yield layer, layer
        else:
            yield layer, getattr(layer, "activation", None)


def _copy_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    if isinstance(layer, SmoothReLU):
        return SmoothReLU(layer.beta, layer.slope, name=layer.name, dtype=layer.dtype_policy)
    activation = getattr(layer, "activation", None)
    plain = layer
    if not (getattr(activation, "__module__", None) or "keras").startswith("keras"):
        # a function of one's own has no configuration
        plain = with_attributes(layer, activation=keras.activations.linear)
    copy = type(layer).from_config(plain.get_config())
    if activation is not None:  # which a configuration knows by its name only
        copy.activation = activation
    return copy


def _copy_state(model: keras.Model, copy: keras.Model) -> None:
    """Weights, and what layers make of them when they are loaded, as `Normalization` does."""
    copy.set_weights(model.get_weights())
    for layer, other in zip(_layers_with_state(model), _layers_with_state(copy), strict=True):
        state: dict[str, Any] = {}
        layer.save_own_variables(state)
        other.load_own_variables({name: keras.ops.convert_to_numpy(v) for name, v in state.items()})


def _layers_with_state(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in layers_of(model) if own_variables(layer)]
