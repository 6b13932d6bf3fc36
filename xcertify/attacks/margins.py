"""Margins between logits: what attacks on a class climb."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf


@tf.autograph.experimental.do_not_convert
def margins(logits: tf.Tensor, classes: tf.Tensor, aims: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """max_{c' != c} f_c' - f_c, (B,), and the margin to climb.

    Parameters
    ----------
    logits
        (B, K), K at least 2; see `xcertify.logits.two_classes`.
    classes
        Class c of each, (B,) int.
    aims
        The one class c' whose margin f_c' - f_c is to be climbed, (B,) int, -1 for the largest.
    """
    own = tf.gather(logits, classes, batch_dims=1)
    mine = tf.one_hot(classes, tf.shape(logits)[1], on_value=True, off_value=False)
    largest = tf.reduce_max(tf.where(mine, -math.inf, logits), axis=1) - own
    aimed = tf.gather(logits, tf.maximum(aims, 0), batch_dims=1) - own
    return largest, tf.where(aims < 0, largest, aimed)


def runners_up(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The class that each restart aims at, (N, at most 4); then it begins again.

    -1 (any) first, since the largest margin usually pulls towards the first other class; then the
    second, third and fourth other class at the nominal input. The fifth never gained anything.
    """
    others = np.where(np.eye(logits.shape[1], dtype=bool)[classes], -np.inf, logits)
    order = np.argsort(-others, axis=1, kind="stable")[:, :-1][:, :4].astype(np.int32)
    order[:, 0] = -1
    return order
