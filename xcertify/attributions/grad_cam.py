"""Grad-CAM: where the features are that speak for a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attributions.scores import ScoreExplainer, parts
from xcertify.bounds.graph import layer_output
from xcertify.logits import logits_beside


class GradCAM(ScoreExplainer):
    """Grad-CAM: the channels of a convolution, weighted by their mean gradient, where positive.

    Parameters
    ----------
    model, batch_size, seed, verbose
        As for `Saliency`. A Sequential or functional model of images.
    conv_layer
        Name of the layer whose output (h, w, channels) is weighted; what reaches the logits on
        paths beside it does not count. None: the last convolution.

    Raises
    ------
    ValueError
        For a model without a convolution, and a layer that it does not call exactly once.

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

    def __init__(self, model: keras.Model, conv_layer: str | None = None, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.conv_layer = conv_layer

    def _attributions(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        maps_of = self._compile(
            self._maps,
            ((None, *inputs.shape[1:]), tf.float32),
            ((None, weights.shape[1]), tf.float32),
        )
        pieces = zip(parts(inputs, self._nb_at_once), parts(weights, self._nb_at_once))
        return np.concatenate([maps_of(*piece) for piece in pieces])

    def _maps(self, inputs: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        evaluate = self._derive("channels and logits", self._channels_and_logits)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            channels, logits = evaluate(inputs)
            score = tf.reduce_sum(tf.cast(logits, tf.float32) * weights)
        importance = tf.reduce_mean(tape.gradient(score, channels), axis=(1, 2), keepdims=True)
        maps = tf.nn.relu(tf.reduce_sum(importance * channels, axis=-1, keepdims=True))
        return tf.image.resize(maps, inputs.shape[1:3], "bilinear")

    def _channels_and_logits(self) -> Callable:
        name = last_convolution(self.model) if self.conv_layer is None else self.conv_layer
        return logits_beside(self.model, layer_output(self.model, name))


def last_convolution(model: keras.Model) -> str:
    """Name of the last convolution of images, of those that the model calls itself."""
    names = [
        layer.name
        for layer in model.layers
        if hasattr(layer, "kernel_size") and len(layer.output.shape) == 4
    ]
    if not names:
        raise ValueError(
            f"Grad-CAM needs a convolution, or the name of a layer as conv_layer. "
            f"Received: a model of {', '.join(layer.name for layer in model.layers)}"
        )
    return names[-1]
