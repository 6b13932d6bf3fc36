"""Grad-CAM: where the features are that speak for a class."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

import keras
import numpy as np
import tensorflow as tf

from xcertify.attacks.maps import Explanation, flat
from xcertify.attributions.base import OperatorExplainer
from xcertify.inputs import in_batches
from xcertify.keras_graph import layer_output
from xcertify.logits import logits_beside
from xcertify.models import is_graph, layer_name
from xcertify.operators import Operator


class GradCAM(OperatorExplainer):
    """Grad-CAM: the channels of a convolution, weighted by their mean gradient, where positive.

    Parameters
    ----------
    model
        As for `Saliency`, but a Sequential or functional Keras model of images or time series.
    output_layer, batch_size, seed, verbose
        As for `Saliency`.
    operator
        As for `Saliency`. The channels are those of its first call of the model.
    conv_layer
        The layer whose output is weighted, (h, w, channels) for images and (t, channels) for time
        series: its name, its number in `model.layers` (0 is the first, -1 the last), or for a layer
        of a nested model "nested/layer". What reaches the logits on paths beside it does not count.
        None: the last convolution, of images or series as the inputs are, whose output has more
        than one cell, in nested models too.

    Raises
    ------
    ValueError
        For a model without a convolution, a subclassed model, and a layer that has another shape or
        that is not called exactly once.

    No guarantee
    ------------
    The gradient is taken at one point, and the map is enlarged from the size of the layer.

    References
    ----------
    Selvaraju et al.: Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization, ICCV 2017.

    Examples
    --------
    >>> GradCAM(model).explain(images, labels)
    """

    _meant = "conv_layer"

    def __init__(
        self,
        model: keras.Model,
        output_layer: str | int | None = None,
        batch_size: int | None = 512,
        operator: Operator | str | None = None,
        conv_layer: str | int | None = None,
        *,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            model,
            output_layer=output_layer,
            batch_size=batch_size,
            operator=operator,
            seed=seed,
            verbose=verbose,
        )
        self.conv_layer = conv_layer

    def _explain(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        maps_of = self._compile(
            self._maps,
            ((None, *inputs.shape[1:]), tf.float32),
            ((None, *weights.shape[1:]), tf.float32),
        )
        pieces = zip(in_batches(inputs, self._nb_at_once), in_batches(weights, self._nb_at_once))
        return np.concatenate([maps_of(*piece) for piece in pieces])

    def _as_operations(self, shape: tuple[int, ...]) -> Explanation | None:
        """See `Explainer`: of the model itself, its kinks included."""
        if type(self)._explain is not GradCAM._explain or not self._strips_head:
            return None
        return lambda model, inputs, targets: self._maps(inputs, flat(targets))

    def _maps(self, inputs: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        evaluate = self._derive("channels and outputs", self._channels_and_outputs)
        found = []

        def outputs_at(points: tf.Tensor) -> tf.Tensor:
            channels, outputs = evaluate(points)
            found.append(channels)
            return tf.cast(outputs, tf.float32)

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            score = tf.reduce_sum(self._scores_by(outputs_at, inputs, weights))
        channels, name, rank = found[0], self._layer, inputs.shape.rank
        if channels.shape.rank != rank or rank not in (3, 4):
            raise ValueError(
                f"conv_layer must be a layer with channels at places of the input, of shape "
                f"(N, h, w, channels) for images and (N, t, channels) for time series. "
                f"Received: conv_layer={name!r} of shape {tuple(channels.shape)}, for inputs of "
                f"shape {tuple(inputs.shape)}"
            )
        gradient = tape.gradient(score, channels)
        if gradient is None:
            raise ValueError(
                f"conv_layer must be a layer that what is explained depends on, with a gradient. "
                f"Received: conv_layer={name!r}"
            )
        gradient, channels = tf.cast(gradient, tf.float32), tf.cast(channels, tf.float32)
        importance = self._importance(gradient, channels)
        maps = tf.nn.relu(tf.reduce_sum(importance * channels, axis=-1, keepdims=True))
        if rank == 4:
            return tf.image.resize(maps, inputs.shape[1:3], "bilinear")
        along = tf.image.resize(maps[:, :, None], (inputs.shape[1], 1), "bilinear")[:, :, 0]
        return tf.broadcast_to(along, tf.shape(inputs))

    def _importance(self, gradient: tf.Tensor, channels: tf.Tensor) -> tf.Tensor:
        """Weight of each channel, (B, 1, ..., 1, channels), from gradient and channels."""
        return tf.reduce_mean(gradient, axis=range(1, channels.shape.rank - 1), keepdims=True)

    @property
    def _layer(self) -> str:
        """Name of `conv_layer`; its number is that in the whole model."""
        return conv_layer_name(
            self._explained if self.conv_layer is None else self.model, self.conv_layer
        )

    def _channels_and_outputs(self) -> Callable:
        inside, name = [], self._layer
        model = self._explained
        while "/" in name:
            outer, name = name.split("/", 1)
            model = _nested(model, outer)
            inside.append(model)
        try:
            channels = layer_output(model, name)
        except ValueError as error:
            raise ValueError(
                f"conv_layer={self.conv_layer!r} cannot be explained: {error}"
            ) from None
        return logits_beside(self._explained, channels, inside, self._start, self._strips_head)


def conv_layer_name(model: keras.Model, conv_layer: str | int | None) -> str:
    """Name of the layer that `conv_layer` means; see `GradCAM`.

    Raises
    ------
    ValueError
        As `layer_name`, and for None where no convolution is found.
    """
    if conv_layer is None and is_graph(model):
        return last_convolution(model)
    return layer_name(model, conv_layer, "conv_layer")


def last_convolution(model: keras.Model) -> str:
    """Name of the last convolution with more than one cell, not the output, in nested models too.

    Of a model of images one of images, of a model of time series one of these.
    """
    outputs = {id(output) for output in model.outputs}  # of a map they are what is explained
    names = list(_convolutions(model, len(model.inputs[0].shape), outputs))
    if not names:
        raise ValueError(
            f"Grad-CAM needs a convolution of images or time series, or the name of a layer as "
            f"conv_layer; of a model without places, such as one of tables, take Saliency or EVA. "
            f"Received: a model of {', '.join(layer.name for layer in model.layers)}"
        )
    return names[-1]


def _convolutions(model: keras.Model, rank: int, left_out: Container[int]) -> Iterator[str]:
    for layer in model.layers:
        if is_graph(layer) and len(layer.inputs) == len(layer.outputs) == 1:
            yield from (f"{layer.name}/{name}" for name in _convolutions(layer, rank, ()))
        elif hasattr(layer, "kernel_size") and id(layer.output) not in left_out:
            shape = layer.output.shape
            if len(shape) == rank > 2 and any(size != 1 for size in shape[1:-1]):
                yield layer.name


def _nested(model: keras.Model, name: str) -> keras.Model:
    layers = {layer.name: layer for layer in model.layers}
    layer = layers.get(name)
    if not is_graph(layer) or len(layer.inputs) > 1 or len(layer.outputs) > 1:
        raise ValueError(
            f"'{name}/...' as conv_layer needs a nested Sequential or functional model of one "
            f"input and output, called '{name}'. Received: a model of {', '.join(layers)}"
        )
    return layer
