"""Graphs of TensorFlow, traced once for each object and signature."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from xcertify.progress import compiling


class NeedsValues(Exception):
    """A function that needs values was given the tensors of a graph, which have none yet."""


def graph_of(function: Callable, **settings: Any) -> tf.types.experimental.PolymorphicFunction:
    """`tf.function` of a method, or of a function that is made anew for each object.

    TensorFlow counts tracings by the code of a function. Several objects of one class that each
    trace their own graph look to it like one graph that is traced again and again, and it warns the
    user, who can do nothing about it. A `partial` has no code of its own and is counted by itself.
    """
    return tf.function(partial(function), **settings)


def repeat(
    body: Callable[..., tuple], nb_steps: Any, state: tuple, stop: Callable[..., Any] | None = None
) -> tuple:
    """State behind the loop ``for step in range(nb_steps): state = body(step, *state)``.

    In a graph it is a loop of the graph. AutoGraph makes one of such lines as well; to rewrite them
    and all that they call takes it some seconds, more than all the rest of a small network's graph.

    Parameters
    ----------
    body, state
        Tensors (or tuples of such) go in and come out, of the same shapes.
    nb_steps
        A number or a tensor.
    stop
        Of a state: whether no further step is needed, a scalar tensor of bool.
    """

    def goes_on(step: tf.Tensor, state: tuple) -> tf.Tensor:
        more = step < nb_steps
        return more if stop is None else tf.logical_and(more, tf.logical_not(stop(*state)))

    _, found = tf.while_loop(
        goes_on, lambda step, state: (step + 1, body(step, *state)), (tf.constant(0), state)
    )
    return found


def traced(function: Callable, **settings: Any) -> Callable:
    """`graph_of` a function that a user's model is part of.

    Parameters
    ----------
    function
        Of tensors.
    settings
        Of `tf.function`.

    Returns
    -------
    compiled
        The same function as a graph. Where a user's function is part of it that no graph can hold
        (`NeedsValues`), such as one of NumPy arrays, it is run step by step instead; and where
        TensorFlow is told to, by ``tf.config.run_functions_eagerly``.
    """
    graph = graph_of(function, **settings)
    specs = settings.get("input_signature")
    is_first, without_graph = True, False

    def compiled(*arguments: Any) -> Any:
        nonlocal is_first, without_graph
        if not (without_graph or tf.config.functions_run_eagerly()):
            try:
                with compiling(is_first):
                    return graph(*arguments)
            except NeedsValues:
                without_graph = True
            finally:
                is_first = False
        types = [None] * len(arguments) if specs is None else [spec.dtype for spec in specs]
        return function(*map(tf.convert_to_tensor, arguments, types))

    return compiled
