"""How many points of a model are worked on at once: no more than memory allows."""

from __future__ import annotations

import math
from typing import Any

from xcertify.bounds import default_bytes
from xcertify.checks import nb_at_once
from xcertify.keras_graph import UnsupportedLayerError, calls_between, ends_of, is_model_of_layers

__all__ = ["most_at_once"]

_BYTES = 8  # of each entry of each tensor of a point: its value and its gradient, in float32


def most_at_once(model: Any, batch_size: int | None) -> int:
    """At most `batch_size` points, and no more than whose tensors and gradients fit memory.

    That is 1 GiB, on a GPU a quarter of its memory; of one image in a network such as ResNet50, all
    tensors and their gradients take 0.2 GiB.

    Parameters
    ----------
    model
        Keras model; of any other callable, and of a model of inputs of any size, it is not known
        what a point takes.
    batch_size
        None: all points, whatever they take.

    Raises
    ------
    ValueError
        For anything but None and whole numbers of at least 1.
    """
    most = nb_at_once(batch_size)
    if batch_size is None:
        return most
    return max(1, min(most, default_bytes() // (_BYTES * nb_entries(model))))


def nb_entries(model: Any) -> int:
    """Entries of all tensors that a model computes of one input, at least 1, as far as known."""
    try:
        calls = calls_between(*ends_of(model))
    except UnsupportedLayerError:
        return 1
    sizes = [math.prod(n or 0 for n in t.shape[1:]) for c in calls for t in c.output_tensors]
    models = [call.operation for call in calls if is_model_of_layers(call.operation)]
    return max(1, sum(sizes) + sum(map(nb_entries, models)))
