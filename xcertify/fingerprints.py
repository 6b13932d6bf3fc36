"""Fingerprints: whether a Keras model is still the one that something was derived from.

Weights are read at each use and do not count. All else does: layers and how they are connected,
their attributes, the identity of their variables, tensors that a layer keeps beside them (the
statistics of `Normalization`), activations, type policies, and Keras' global settings.
"""

from __future__ import annotations

import zlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.keras_graph import NOTES, UNSET_FLAGS

_PLAIN = (bool, int, str, bytes, type(None), type, np.dtype)
_CHAINS = (list, tuple, set, frozenset)


class _Same:
    """An object that is compared by its identity, and kept so that no other takes its place."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]  # as Python says of what has only an equality


def fingerprint(model: Any) -> Any:
    """What a model is apart from the values of its weights; compare two of them with ``==``.

    Parameters
    ----------
    model
        A Keras model or layer. Any other callable is known by its identity alone.

    Returns
    -------
    fingerprint
        Equal to an earlier one as long as nothing but weights has changed. It keeps references to
        the model's variables and activations.

    Examples
    --------
    >>> before = fingerprint(model)
    >>> model.set_weights(weights)
    >>> fingerprint(model) == before
    True
    >>> model.layers[0].activation = keras.activations.tanh
    >>> fingerprint(model) == before
    False
    """
    if not isinstance(model, keras.Layer):
        return _Same(model)
    config = keras.config
    return (
        (config.image_data_format(), config.floatx(), config.epsilon()),
        _facts(config.dtype_policy(), {}),
        _facts(model, {}),
    )


def _facts(value: Any, seen: dict[int, int]) -> Any:
    """A value as nested tuples of plain ones."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, float):
        return repr(value)  # NaN is equal to itself
    if isinstance(value, keras.Variable):
        return _Same(value)
    if isinstance(value, tf.Variable) and value.shape.rank == 0:  # a parameter, not a weight
        with tf.init_scope():
            return _Same(value), repr(value.numpy())
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype, zlib.crc32(np.ascontiguousarray(value).tobytes())
    if isinstance(value, keras.DTypePolicy):
        return type(value), value.compute_dtype, value.variable_dtype
    if hasattr(value, "arguments") and hasattr(value, "output_tensors"):  # a call, with constants
        given = keras.tree.flatten((value.arguments.args, value.arguments.kwargs))
        arrays = [_facts(part, seen) for part in given if isinstance(part, np.ndarray)]
        return _Same(value), tuple(arrays)
    if not isinstance(value, (keras.Operation, dict, *_CHAINS)):
        return _Same(value)
    if id(value) in seen:
        return "seen", seen[id(value)]
    seen[id(value)] = len(seen)
    if isinstance(value, keras.Operation):
        attributes = vars(value)
        own = [
            (name, _facts(attributes[name], seen))
            for name in attributes
            if name not in NOTES
            and not name.startswith("_self_")
            and not (name in UNSET_FLAGS and attributes[name] is False)
        ]
        return type(value), _Same(type(value).call), tuple(own)
    if isinstance(value, dict):
        return tuple((_facts(k, seen), _facts(v, seen)) for k, v in dict(value).items())
    if isinstance(value, (set, frozenset)):  # in no order; their entries are numbers, names, nodes
        return type(value), len(value), tuple(sorted(hash(entry) for entry in value))
    return type(value), tuple(_facts(entry, seen) for entry in list(value))
