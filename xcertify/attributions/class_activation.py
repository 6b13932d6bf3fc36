"""Maps of a class over the cells of a convolution, ready to be bounded: CAM and Grad-CAM."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from xcertify.attributions.grad_cam import conv_layer_name
from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.keras_graph import layer_input, layer_output
from xcertify.logits import logits_beside
from xcertify.models import gradient_by, layer_name
from xcertify.regions import Ball, Box, Region
from xcertify.settings import Settings
from xcertify.smoothing import BETAS, softplus_copy

Maps = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclass(frozen=True, eq=False)
class WeightDeviation:
    """How far weights of channels that vary can be from fixed ones, over N regions.

    With channels a_k(x) and weights w_k(x) at every point x of a region, and fixed weights w_k, the
    map ``sum_k w_k(x) a_k(x)[s]`` of the cell s differs from ``sum_k w_k a_k(x)[s]`` by at most
    ``sum_k weights[k] max(|lower[s, k]|, |upper[s, k]|)``.

    Attributes
    ----------
    lower, upper
        (N, S, K) float32: bounds of the channels in each cell; 0 where there are none.
    weights
        (N, K) float64: bounds of ``|w_k(x) - w_k|``; NaN, with which nothing is proved, where the
        channels have no bounds.
    """

    lower: np.ndarray
    upper: np.ndarray
    weights: np.ndarray

    def __getitem__(self, samples: np.ndarray) -> WeightDeviation:
        """Of some of the regions."""
        return WeightDeviation(*(array[samples] for array in vars(self).values()))

    def of_cells(self) -> np.ndarray:
        """How far each cell of the map can be from that of fixed weights, (N, S)."""
        size = np.maximum(np.abs(self.lower), np.abs(self.upper))
        return (size * self.weights[:, None]).sum(axis=-1) * (1 + 1e-9)

    def of_differences(
        self, samples: np.ndarray, first: np.ndarray, second: np.ndarray
    ) -> np.ndarray:
        """How far ``map[first] - map[second]`` can be from that of fixed weights, (M,).

        `samples`, `first` and `second` (M,) are numbers of a region and of two cells.
        """
        lower, upper = self.lower.astype(np.float64), self.upper.astype(np.float64)
        rise = upper[samples, first] - lower[samples, second]  # (M, K)
        fall = upper[samples, second] - lower[samples, first]
        size = np.maximum(rise, fall)
        return (size * self.weights[samples]).sum(axis=-1) * (1 + 1e-9)


@dataclass(frozen=True, eq=False)
class MapModels:
    """Models of channels and of maps, which share their layers with a given model.

    Attributes
    ----------
    body
        Gives the channels of images, (N, h, w, K).
    maps
        Of images (N, H, W, C) and weights (N, h, w, K), one set for each cell: gives maps
        (N, h, w, 1). `body` is a layer of it.
    output_layer
        Name of the layer of `maps` that gives the maps.
    """

    body: keras.Model
    maps: keras.Model
    output_layer: str

    @classmethod
    def of(cls, model: keras.Model, channels: keras.KerasTensor) -> MapModels:
        """Those of a Keras tensor (N, h, w, K) in a model.

        Raises
        ------
        ValueError
            For a tensor of another shape.
        """
        if len(channels.shape) != 4 or None in channels.shape[1:]:
            raise ValueError(
                f"a class activation map needs channels of an image, (N, h, w, K) of a known size, "
                f"before the pooling, or as output of conv_layer. Where the input of the model is "
                f"of any size, make a copy of a fixed one, keras.models.clone_model(model, "
                f"input_tensors=keras.Input(shape)), and set its weights. "
                f"Received: {channels.shape}"
            )
        # Under names of their own, since Keras counts what it names; and as a model that is
        # called on new inputs, so that the layers do not learn of their new use.
        name = f"{model.name}_class_activation"
        body = keras.Model(model.inputs[0], channels, name=f"{name}_channels")
        images = keras.Input(model.inputs[0].shape[1:], name=f"{name}_images")
        weights = keras.Input(channels.shape[1:], name=f"{name}_weights")
        # In a type of their own, whatever the global one and that of the model are.
        dtype = "float64" if channels.dtype == "float64" else "float32"
        weighted = layers.Multiply(name=f"{name}_weighted", dtype=dtype)([body(images), weights])
        total = layers.Dense(
            1, use_bias=False, kernel_initializer="ones", name=f"{name}_maps", dtype=dtype
        )
        return cls(body, keras.Model([images, weights], total(weighted), name=name), total.name)


class WeightedChannels(Settings):
    """Maps ``sum_k weights[k] * channels[x, y, k]``, one set of weights for each sample.

    What tells the map of one class from that of another are its *target rows*, (N, D): of class
    activation maps the weights themselves, of Grad-CAM the rows of the logits that are derived.

    Parameters
    ----------
    model
        Built Keras model of images with channels last.
    conv_layer
        Name of the layer that gives the channels, or its number in `model.layers`. None: see the
        class.
    """

    def __init__(self, model: keras.Model, conv_layer: str | int | None = None) -> None:
        self.model, self.conv_layer = model, conv_layer

    @abstractmethod
    def _channels(self) -> keras.KerasTensor:
        """The tensor (N, h, w, K) in the model."""

    @property
    def models(self) -> MapModels:
        """Of the channels and the maps."""
        key = (type(self).__name__, self.conv_layer)
        return self._derive_shared(key, lambda: MapModels.of(self.model, self._channels()))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, K)."""
        return tuple(self.models.body.output_shape[1:])

    @property
    def nb_cells(self) -> int:
        """Number S of cells."""
        height, width, _ = self.shape
        return height * width

    def verifier(self, method: str, dtype: str = "float32") -> Verifier:
        """Of the maps, as functions of images, and of weights as constants."""
        return self._derive(
            ("maps", method, dtype),
            lambda: Verifier(self.models.maps, method, dtype=dtype, strip_head=False),
        )

    def per_cell(self, weights: np.ndarray) -> np.ndarray:
        """Weights (N, K) for every cell, (N, h, w, K)."""
        return np.broadcast_to(weights[:, None, None], (len(weights), *self.shape))

    @abstractmethod
    def target_rows(self, classes: np.ndarray) -> np.ndarray:
        """Rows (N, D) float32 of the classes (N,)."""

    @abstractmethod
    def weights(self, inputs: np.ndarray, target_rows: np.ndarray) -> np.ndarray:
        """Weights of the channels at inputs (N, H, W, C), (N, K)."""

    def weight_deviation(
        self,
        region: Region,
        target_rows: np.ndarray,
        weights: np.ndarray,
        method: str,
        dtype: str = "float32",
    ) -> WeightDeviation | None:
        """How far weights over N regions can be from given ones (N, K); None where they are fixed.

        `method` and `dtype` are those of the bounds, as `Verifier` has them.
        """
        return None

    @abstractmethod
    def maps(self, inputs: tf.Tensor, target_rows: tf.Tensor) -> tf.Tensor:
        """Maps (N, S), S = h w, in operations of TensorFlow, before a last ReLU."""

    def smooth_maps(self) -> Maps | None:
        """`maps` of a copy of the model with softplus for ReLU; None where there is no such map."""
        return None

    def exact_maps(self, inputs: np.ndarray, target_rows: np.ndarray) -> np.ndarray:
        """Maps (N, S) in float64."""
        weights = self.per_cell(self.weights(inputs, target_rows))
        maps = self.verifier("ibp", "float64").evaluate(inputs, [weights])
        return maps.reshape(len(inputs), -1)


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

    def target_rows(self, classes: np.ndarray) -> np.ndarray:
        """Weights of the channels for the classes, (N, K) float32.

        Read from the layers at every call. What stands between pooling and logits (batch
        normalization, several dense layers) is multiplied together in float64.
        """
        nb_channels = self.shape[2]
        means = np.concatenate([np.zeros((1, nb_channels)), np.eye(nb_channels)])
        nothing, *units = self._logits(self._derive("head", self._make_head), means)
        weights = (np.stack(units) - nothing).T
        if len(weights) == 1:  # a single logit: its negative stands for class 0
            weights = np.concatenate([-weights, weights])
        return weights[classes].astype(np.float32)

    @property
    def is_one(self) -> bool:
        """Whether the model has such maps, and so raises none of these errors."""
        try:
            _ = self.models, self._derive("head", self._make_head)
        except ValueError:
            return False
        return True

    def weights(self, inputs: np.ndarray, target_rows: np.ndarray) -> np.ndarray:
        """See `WeightedChannels`."""
        return target_rows

    def maps(self, inputs: tf.Tensor, target_rows: tf.Tensor) -> tf.Tensor:
        """See `WeightedChannels`."""
        return self._maps_by(self.models.maps, inputs, target_rows)

    def smooth_maps(self) -> Maps:
        """See `WeightedChannels`; of the largest beta."""
        copy, beta = softplus_copy(self.models.maps)
        beta.assign(BETAS[-1])
        return lambda inputs, weights: self._maps_by(copy, inputs, weights)

    def _maps_by(self, model: keras.Model, inputs: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        per_cell = tf.broadcast_to(weights[:, None, None], [tf.shape(inputs)[0], *self.shape])
        maps = tf.cast(model([inputs, per_cell], training=False), tf.float32)
        return tf.reshape(maps, [-1, self.nb_cells])

    def _channels(self) -> keras.KerasTensor:
        if self.conv_layer is None:
            return layer_input(self.model, _last_pooling(self.model))
        return layer_output(self.model, _own_layer(self.model, self.conv_layer))

    def _make_head(self) -> Verifier:
        """The logits as affine functions of what is pooled, or of the channels of `conv_layer`."""
        if self.conv_layer is None:
            return _affine_head(self.model, _last_pooling(self.model))
        head = _affine_head(self.model, _own_layer(self.model, self.conv_layer))
        # Refused are logits that count the cells of a map differently.
        maps = np.random.default_rng(0).normal(size=(8, *self.shape))
        logits, expected = head.evaluate(maps), self._logits(head, maps.mean(axis=(1, 2)))
        size = np.abs(logits).max() + np.abs(expected).max()
        if np.abs(logits - expected).max() > 1e-9 * size:
            raise ValueError(
                f"a class activation map needs logits that depend on the mean of the map over its "
                f"cells alone, by global average pooling. Received: conv_layer="
                f"{self.conv_layer!r}, whose cells count differently"
            )
        return head

    def _logits(self, head: Verifier, means: np.ndarray) -> np.ndarray:
        """Logits of channels that have the same value in all cells, (M, K), in float64."""
        if self.conv_layer is None:
            return head.evaluate(means.reshape(len(means), *head.input_shape))
        return head.evaluate(self.per_cell(means))


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

    def target_rows(self, classes: np.ndarray) -> np.ndarray:
        """Rows (N, K) of the logits whose gradients are the weights."""
        _ = self.models  # refuses layers that give no channels of an image
        nb_logits = self.model.outputs[0].shape[-1]
        if nb_logits == 1:  # a single logit: its negative stands for class 0
            return np.where(classes == 1, 1, -1)[:, None].astype(np.float32)
        return np.eye(nb_logits, dtype=np.float32)[classes]

    def weights(self, inputs: np.ndarray, target_rows: np.ndarray) -> np.ndarray:
        """See `WeightedChannels`: where an activation has a kink, the middle of its slopes."""
        channels = Ball(self._body("ibp", "float64").evaluate(inputs), 0.0)
        head = self._head("ibp", "float64")
        lower, upper = head.bound_gradient(channels, target_rows[:, None])  # (N, 1, h, w, K)
        return ((lower + upper) / 2)[:, 0].mean(axis=(1, 2))

    def weight_deviation(
        self,
        region: Region,
        target_rows: np.ndarray,
        weights: np.ndarray,
        method: str,
        dtype: str = "float32",
    ) -> WeightDeviation:
        """See `WeightedChannels`: by gradients over the box of the channels."""
        lower, upper = self._body(method, dtype).bound_layer(region, self._layer)
        known = np.isfinite(lower) & np.isfinite(upper)
        channels = Box(np.where(known, lower, 0), np.where(known, upper, 0))
        sides = self._head(method, dtype).bound_gradient(channels, target_rows[:, None])
        below, above = (side[:, 0].astype(np.float64).mean(axis=(1, 2)) for side in sides)
        size = np.maximum(*(np.abs(side[:, 0]).max(axis=(1, 2)) for side in sides))
        # Means of float32 numbers in float64 are off by 1e-12 at the most.
        distance = np.maximum(weights - below, above - weights) + 1e-12 * size
        known = known.all(axis=(1, 2, 3))[:, None]
        per_cell = (len(region), self.nb_cells, -1)
        return WeightDeviation(
            channels.lower.reshape(per_cell),
            channels.upper.reshape(per_cell),
            np.where(known, distance, np.nan),
        )

    def maps(self, inputs: tf.Tensor, target_rows: tf.Tensor) -> tf.Tensor:
        """See `WeightedChannels`."""
        evaluate = self._derive("beside", lambda: logits_beside(self.model, self._channels()))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            channels, logits = evaluate(inputs)
            score = tf.reduce_sum(tf.cast(logits, tf.float32) * target_rows)
        gradient = tf.cast(gradient_by(tape, score, channels), tf.float32)
        channels = tf.cast(channels, tf.float32)
        weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
        return tf.reshape(tf.reduce_sum(weights * channels, axis=-1), [-1, self.nb_cells])

    @property
    def _layer(self) -> str:
        return _own_layer(self.model, self.conv_layer)

    def _channels(self) -> keras.KerasTensor:
        return layer_output(self.model, self._layer)

    def _body(self, method: str, dtype: str) -> Verifier:
        """Of the channels."""
        return self._derive(
            ("body", method, dtype),
            lambda: Verifier(self.models.body, method, dtype=dtype, strip_head=False),
        )

    def _head(self, method: str, dtype: str) -> Verifier:
        """Of the logits as functions of the channels."""
        start = self._layer
        return self._derive(
            ("head", method, dtype),
            lambda: Verifier(self.model, method, dtype=dtype, start_layer=start, strip_head=True),
        )


def _own_layer(model: keras.Model, conv_layer: str | int | None) -> str:
    """Name of a layer as `conv_layer_name` gives it, not of a nested model's."""
    name = conv_layer_name(model, conv_layer)
    if "/" in name:
        raise ValueError(
            f"conv_layer must be a layer of the model itself, not of a nested one: build a model "
            f"of the layers of both. Received: {name!r}"
        )
    return name


def _last_pooling(model: keras.Model) -> str:
    layer_name(model, -1, "conv_layer")  # refuses models whose layers are not known
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
    if head.nb_constants:
        raise ValueError(
            f"a class activation map needs affine layers from {start!r} to the logits, a layer "
            f"that all paths go through. Received: the model '{model.name}', in which others lead "
            f"there, too. Take explanation='grad-cam'"
        )
    if head.nonlinear_layers:
        raise ValueError(
            f"a class activation map needs affine layers from {start!r} to the logits, with a "
            f"global average pooling. Received: the model '{model.name}' with nonlinear layers "
            f"there: {', '.join(head.nonlinear_layers)}. Take explanation='grad-cam'"
        )
    return head
