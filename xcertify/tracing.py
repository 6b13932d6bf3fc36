"""Graphs of TensorFlow, traced once for each object and signature."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf


def traced(function: Callable, **settings: Any) -> Callable:
    """`tf.function` of a method, or of a function that is made anew for each object.

    TensorFlow counts tracings by the code of a function. Several objects of one class that each
    trace their own graph look to it like one graph that is traced again and again, and it warns the
    user, who can do nothing about it. A `partial` has no code of its own and is counted by itself.

    Parameters
    ----------
    function
        Of tensors.
    settings
        Of `tf.function`.
    """
    return tf.function(partial(function), **settings)
