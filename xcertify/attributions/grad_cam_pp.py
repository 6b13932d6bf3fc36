"""Grad-CAM++: Grad-CAM with weights that also see what a class owes to small regions."""

from __future__ import annotations

import tensorflow as tf

from xcertify.attributions.grad_cam import GradCAM


class GradCAMPP(GradCAM):
    """Grad-CAM++: channels of a convolution, weighted by their positive gradients cell by cell.

    With channels A^k and the gradient g^k of the score by them, the map is the positive part of
    ``sum_k w_k A^k``, enlarged to the size of the input, with

    ``w_k = sum_ij relu(g_ij^k) / (2 + g_ij^k sum_ab A_ab^k)``.

    In the paper the second factor is ``g^2 / (2 g^2 + g^3 sum_ab A_ab)``, which is the same. The
    paper derives the exponential of the score, which multiplies the whole map by one number: here
    it is left out. A cell whose denominator is 0 counts as 0; that needs a channel of negative sum.
    (Xplique's `GradCAMPP` has the mean of the channel in the place of its sum.)

    Parameters
    ----------
    model, output_layer, batch_size, operator, conv_layer, seed, verbose
        As for `GradCAM`.

    Raises
    ------
    ValueError
        As `GradCAM`.

    No guarantee
    ------------
    The gradient is taken at one point, and the map is enlarged from the size of the layer. Channels
    are meant to be at least 0, as behind a ReLU.

    References
    ----------
    Chattopadhyay, Sarkar, Howlader, Balasubramanian: Grad-CAM++: Generalized Gradient-based Visual
    Explanations for Deep Convolutional Networks, WACV 2018.

    Examples
    --------
    >>> GradCAMPP(model).explain(images, labels)
    """

    def _importance(self, gradient: tf.Tensor, channels: tf.Tensor) -> tf.Tensor:
        cells = range(1, channels.shape.rank - 1)
        sums = tf.reduce_sum(channels, axis=cells, keepdims=True)
        shares = tf.math.divide_no_nan(tf.nn.relu(gradient), 2 + gradient * sums)
        return tf.reduce_sum(shares, axis=cells, keepdims=True)
