"""Maps of a class over the cells of a convolution, ready to be bounded: CAM and Grad-CAM."""

from __future__ import annotations

from functools import cached_property

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from xcertify.attributions.grad_cam import layer_name
from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.keras_graph import layer_input, layer_output
from xcertify.logits import logits_beside
from xcertify.models import gradient_by
from xcertify.regions import Ball, Box, Region


class WeightedChannels:
    """Maps ``sum_k weights[k] * channels[x, y, k]``, one set of weights for each sample.

    Parameters
    ----------
    model
        Built Keras model of images with channels last.
    channels
        The Keras tensor (N, h, w, K) in it.

    Attributes
    ----------
    model
        A model of two inputs, images (N, H, W, C) and weights (N, h, w, K), one set for each cell,
        that gives maps (N, h, w, 1). It shares the layers of the given model.
    body
        The part of the given model that gives the channels, (N, h, w, K).
    output_layer
        Name of the layer of `model` that gives the maps; `body` is a layer of it, too.
    shape
        (h, w, K).
    constant
        Whether the weights are the same for all inputs.
    """

    constant = True

    def __init__(self, model: keras.Model, channels: keras.KerasTensor) -> None:
        if len(channels.shape) != 4 or None in channels.shape[1:]:
            raise ValueError(
                f"a class activation map needs channels of an image, (N, h, w, K) of a known size, "
                f"before the pooling, or as output of conv_layer. Received: {channels.shape}"
            )
        self.shape = tuple(channels.shape[1:])
        # Under names of their own, since Keras counts what it names; and as a model that is
        # called on new inputs, so that the layers do not learn of their new use.
        name = f"{model.name}_class_activation"
        self.body = keras.Model(model.inputs[0], channels, name=f"{name}_channels")
        images = keras.Input(model.inputs[0].shape[1:], name=f"{name}_images")
        weights = keras.Input(self.shape, name=f"{name}_weights")
        # In a type of their own, whatever the global one and that of the model are.
        dtype = "float64" if channels.dtype == "float64" else "float32"
        weighted = layers.Multiply(name=f"{name}_weighted", dtype=dtype)
        weighted = weighted([self.body(images), weights])
        total = layers.Dense(
            1, use_bias=False, kernel_initializer="ones", name=f"{name}_maps", dtype=dtype
        )
        self.output_layer = total.name
        self.model = keras.Model([images, weights], total(weighted), name=name)

    @cached_property
    def _exact(self) -> Verifier:
        return Verifier(self.model, "ibp", dtype="float64")

    @property
    def nb_cells(self) -> int:
        """Number S of cells."""
        return self.shape[0] * self.shape[1]

    def per_cell(self, weights: np.ndarray) -> np.ndarray:
        """Weights (N, K) for every cell, (N, h, w, K)."""
        return np.broadcast_to(weights[:, None, None], (len(weights), *self.shape))

    def asked(self, classes: np.ndarray) -> np.ndarray:
        """What tells the maps of one class from those of another, (N, D) float32."""
        raise NotImplementedError

    def weights(self, inputs: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Weights at the inputs, (N, K), numbers that float32 can hold."""
        raise NotImplementedError

    def spread(self, region: Region, asked: np.ndarray, weights: np.ndarray, method: str) -> tuple:
        """Bounds of the channels over the region, and how far weights can be from the given ones.

        Channels (N, h, w, K), lower and upper, and (N, K), NaN where nothing is known.
        """
        raise NotImplementedError

    def maps(self, inputs: tf.Tensor, asked: tf.Tensor) -> tf.Tensor:
        """Maps (N, S) of tensors, S = h w, before a last ReLU."""
        raise NotImplementedError

    def exact_maps(self, inputs: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Maps (N, S) in float64."""
        weights = self.per_cell(self._exact_weights(inputs, asked))
        return self._exact.evaluate(inputs, [weights]).reshape(len(inputs), -1)

    def _exact_weights(self, inputs: np.ndarray, asked: np.ndarray) -> np.ndarray:
        return self.weights(inputs, asked)


class ClassActivation(WeightedChannels):
    """The class activation maps of a model ``logits = weights . mean of the channels + bias``.

    The mean of a map is the logit without the bias.

    Parameters
    ----------
    model
        Built Keras model of images with channels last.
    conv_layer
        Name of the layer whose output is averaged, or its number in `model.layers`. None: what the
        last `GlobalAveragePooling2D` is given.

    Raises
    ------
    ValueError
        If the model has no such channels, or its logits are no affine function of their mean.
    """

    def __init__(self, model: keras.Model, conv_layer: str | int | None = None) -> None:
        start = _last_pooling(model) if conv_layer is None else _own_layer(model, conv_layer)
        pooled = conv_layer is None
        channels = layer_input(model, start) if pooled else layer_output(model, start)
        super().__init__(model, channels)
        self._pooled = pooled
        self._head = _affine_head(model, start)
        if not self._pooled:
            self._check_mean(start)

    def asked(self, classes: np.ndarray) -> np.ndarray:
        """Weights of the channels for the class of each sample, (N, K) float32.

        Read from the layers at every call. What stands between pooling and logits (batch
        normalization, several dense layers) is multiplied together in float64.
        """
        nothing, *units = self._logits(np.concatenate([np.zeros((1, self.shape[2])), self._units]))
        weights = (np.stack(units) - nothing).T
        if len(weights) == 1:  # a single logit: its negative stands for class 0
            weights = np.concatenate([-weights, weights])
        return weights[classes].astype(np.float32)

    def weights(self, inputs: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """See `WeightedChannels`."""
        return asked

    def maps(self, inputs: tf.Tensor, asked: tf.Tensor) -> tf.Tensor:
        """See `WeightedChannels`."""
        return self.maps_of(self.model, inputs, asked)

    def maps_of(self, model: keras.Model, inputs: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """The same of a copy of `self.model`."""
        per_cell = tf.broadcast_to(weights[:, None, None], [tf.shape(inputs)[0], *self.shape])
        maps = tf.cast(model([inputs, per_cell], training=False), tf.float32)
        return tf.reshape(maps, [-1, self.nb_cells])

    @property
    def _units(self) -> np.ndarray:
        return np.eye(self.shape[2])

    def _logits(self, means: np.ndarray) -> np.ndarray:
        """Logits of maps that have everywhere the given values, (M, K), in float64."""
        if self._pooled:
            return self._head.evaluate(means.reshape(len(means), *self._head.input_shape))
        return self._head.evaluate(self.per_cell(means))

    def _check_mean(self, conv_layer: str) -> None:
        """Refuse logits that count the cells of a map differently."""
        maps = np.random.default_rng(0).normal(size=(8, *self.shape))
        logits, expected = self._head.evaluate(maps), self._logits(maps.mean(axis=(1, 2)))
        size = np.abs(logits).max() + np.abs(expected).max()
        if np.abs(logits - expected).max() > 1e-9 * size:
            raise ValueError(
                f"a class activation map needs logits that depend on the mean of the map over its "
                f"cells alone, by global average pooling. Received: conv_layer={conv_layer!r}, "
                f"whose cells count differently"
            )


class GradientActivation(WeightedChannels):
    """The maps of Grad-CAM before their ReLU: weights are mean gradients of the class's logit.

    Parameters
    ----------
    model
        Built Keras model of images with channels last.
    conv_layer
        Name of the layer that gives the channels, or its number in `model.layers`; all paths to the
        logits must go through it. None: the last convolution.

    Raises
    ------
    ValueError
        If there is no such layer.
    UnsupportedLayerError
        For layers behind it that cannot be bounded.
    """

    constant = False

    def __init__(self, model: keras.Model, conv_layer: str | int | None = None) -> None:
        self._start = _own_layer(model, conv_layer)
        self._source = model
        channels = layer_output(model, self._start)
        super().__init__(model, channels)
        self._evaluate = logits_beside(model, channels)
        self._nb_logits = model.outputs[0].shape[-1]
        self._heads: dict[tuple[str, str], Verifier] = {}
        self._bodies: dict[tuple[str, str], Verifier] = {}

    def asked(self, classes: np.ndarray) -> np.ndarray:
        """Rows of the logits whose gradients are the weights."""
        if self._nb_logits == 1:  # a single logit: its negative stands for class 0
            return np.where(classes == 1, 1, -1)[:, None].astype(np.float32)
        return np.eye(self._nb_logits, dtype=np.float32)[classes]

    def weights(self, inputs: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """See `WeightedChannels`."""
        return self._exact_weights(inputs, asked).astype(np.float32)

    def spread(self, region: Region, asked: np.ndarray, weights: np.ndarray, method: str) -> tuple:
        """See `WeightedChannels`: gradients over the box of the channels."""
        lower, upper = self._body(method, "float32").bound_layer(region, self._start)
        known = np.isfinite(lower) & np.isfinite(upper)
        channels = Box(np.where(known, lower, 0), np.where(known, upper, 0))
        sides = self._head(method, "float32").bound_gradient(channels, asked[:, None])
        below, above = (side[:, 0].astype(np.float64).mean(axis=(1, 2)) for side in sides)
        size = np.maximum(*(np.abs(side[:, 0]).max(axis=(1, 2)) for side in sides))
        # Means of float32 numbers in float64 are off by 1e-12 at the most.
        distance = np.maximum(weights - below, above - weights) + 1e-12 * size
        known = known.all(axis=(1, 2, 3))[:, None]
        return channels.lower, channels.upper, np.where(known, distance, np.nan)

    def maps(self, inputs: tf.Tensor, asked: tf.Tensor) -> tf.Tensor:
        """See `WeightedChannels`."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            channels, logits = self._evaluate(inputs)
            score = tf.reduce_sum(tf.cast(logits, tf.float32) * asked)
        gradient = tf.cast(gradient_by(tape, score, channels), tf.float32)
        channels = tf.cast(channels, tf.float32)
        weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
        return tf.reshape(tf.reduce_sum(weights * channels, axis=-1), [-1, self.nb_cells])

    def _exact_weights(self, inputs: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Middles of gradients at the inputs: exact but where an activation has a kink."""
        channels = Ball(self._body("ibp", "float64").evaluate(inputs), 0.0)
        lower, upper = self._head("ibp", "float64").bound_gradient(channels, asked[:, None])
        return ((lower + upper) / 2)[:, 0].mean(axis=(1, 2))

    def _head(self, method: str, dtype: str) -> Verifier:
        key = method, dtype
        if key not in self._heads:
            self._heads[key] = Verifier(
                self._source, method, dtype=dtype, start_layer=self._start, strip_head=True
            )
        return self._heads[key]

    def _body(self, method: str, dtype: str) -> Verifier:
        key = method, dtype
        if key not in self._bodies:
            self._bodies[key] = Verifier(self.body, method, dtype=dtype)
        return self._bodies[key]


def _own_layer(model: keras.Model, conv_layer: str | int | None) -> str:
    """Name of a layer as `layer_name` gives it, not of a nested model's."""
    name = layer_name(model, conv_layer)
    if "/" in name:
        raise ValueError(
            f"conv_layer must be a layer of the model itself, not of a nested one: build a model "
            f"of the layers of both. Received: {name!r}"
        )
    return name


def _last_pooling(model: keras.Model) -> str:
    layer_name(model, 0)  # refuses models whose layers are not known
    names = [x.name for x in model.layers if isinstance(x, layers.GlobalAveragePooling2D)]
    if not names:
        raise ValueError(
            f"a class activation map needs a model that ends with GlobalAveragePooling2D and "
            f"affine layers; name the layer before another global pooling as conv_layer, or take "
            f"explanation='grad-cam'. "
            f"Received: the model '{model.name}' of the layers "
            f"{', '.join(layer.name for layer in model.layers)}"
        )
    if model.get_layer(names[-1]).data_format != "channels_last":
        raise ValueError(
            f"a class activation map needs channels last. Received: data_format="
            f"{model.get_layer(names[-1]).data_format!r} in the layer {names[-1]!r}"
        )
    return names[-1]


def _affine_head(model: keras.Model, start: str) -> Verifier:
    """The function from a layer's output to the logits, in float64."""
    try:
        head = Verifier(model, "ibp", dtype="float64", start_layer=start, strip_head=True)
    except UnsupportedLayerError as error:
        raise ValueError(
            f"a class activation map needs affine layers from {start!r} to the logits. {error}"
        ) from error
    if head.nonlinear_layers:
        raise ValueError(
            f"a class activation map needs affine layers from {start!r} to the logits, with a "
            f"global average pooling. Received: the model '{model.name}' with nonlinear layers "
            f"there: {', '.join(head.nonlinear_layers)}. Take explanation='grad-cam'"
        )
    return head
