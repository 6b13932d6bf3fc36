"""Fingerprints: whether a Keras model is still the one that something was derived from.

Weights are read at each use and do not count. All else does: layers and how they are connected,
their attributes, the identity of their variables, tensors that a layer keeps beside them (the
statistics of `Normalization`), activations, type policies, and Keras' global settings.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable
from operator import is_
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


def fingerprint(model: Any, earlier: Any = None) -> Any:
    """What a model is apart from the values of its weights; compare two of them with ``==``.

    Parameters
    ----------
    model
        A Keras model or layer. Any other callable is known by its identity alone.
    earlier
        An earlier fingerprint of the model. It is given back if all that it was taken from is
        still in its place, which takes much less time than to take another one.

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
    if isinstance(earlier, _Fingerprint) and earlier.still_holds(model):
        return earlier
    return _Fingerprint(model)


def hash_of_weights(model: Any) -> str:
    """SHA-256 of a Keras model's weights: their shapes, types and values, in order."""
    return hash_of(model.get_weights())


def hash_of(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 of arrays: their shapes, types and values, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def hash_of_architecture(model: Any) -> str:
    """SHA-256 of a Keras model's structure: classes, configurations, and how they are connected.

    The same for a model that was saved and loaded, as .keras or .h5, and for one that is built once
    more. Names of layers do not count, nor what matters in training alone: initializers,
    regularizers, constraints, seeds, and whether a layer is trained. Nor do weights.

    A model that cannot say its configuration is known by its class and the shapes of its weights.
    """
    try:
        found = _structure(_described(model))
    except NotImplementedError:  # as subclassed models are
        shapes = [[list(w.shape), str(w.dtype)] for w in model.weights]
        found = [type(model).__name__, shapes]
    text = json.dumps(found, sort_keys=True, default=_as_text)
    return hashlib.sha256(text.encode()).hexdigest()


def _described(part: Any) -> dict[str, Any]:
    """A model or a layer in the form that Keras' configurations have inside."""
    module, name = type(part).__module__, type(part).__name__
    return {"class_name": name, "module": module, "config": part.get_config()}


def _structure(part: Any, places: dict[str, int] | None = None) -> Any:
    """A configuration without what does not count; layers by their places, not by names."""
    if isinstance(part, (list, tuple)):
        return [_structure(entry, places) for entry in part]
    if not isinstance(part, dict):
        return part
    if "class_name" in part and "config" in part:
        return _structure_of_object(part, places)
    layers = part.get("layers")
    if isinstance(layers, list):  # of a model, which knows the names of its layers
        names = [layer.get("name") or layer["config"].get("name") for layer in layers]
        places = {name: place for place, name in enumerate(names)}
    found: dict[str, Any] = {}
    for name, value in part.items():
        if name in _OF_TRAINING or name.endswith(("_initializer", "_regularizer", "_constraint")):
            continue
        if name in ("input_layers", "output_layers", "keras_history") and places is not None:
            value = _by_places(value, places)
        found[name] = _structure(value, places)
    return found


def _structure_of_object(part: dict[str, Any], places: dict[str, int] | None) -> Any:
    kind, config = part["class_name"], part["config"]
    if kind == "DTypePolicy":
        return config["name"]
    is_keras = str(part.get("module") or "").split(".")[0] == "keras"
    found = ["keras" if is_keras else "custom", kind.split(">")[-1], _structure(config, places)]
    calls = part.get("inbound_nodes")
    return [*found, _structure(calls, places)] if calls else found


def _by_places(value: Any, places: dict[str, int]) -> Any:
    """Tensors [layer, call, output], also in lists and dictionaries, with the places of layers."""
    if isinstance(value, dict):
        return {name: _by_places(one, places) for name, one in value.items()}
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
        return [places.get(value[0], value[0]), *value[1:]]
    if isinstance(value, (list, tuple)):
        return [_by_places(one, places) for one in value]
    return value


def _as_text(value: Any) -> Any:
    """What JSON does not know: arrays and numbers of NumPy, and anything else by its class."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return getattr(value, "__qualname__", type(value).__qualname__)


# Of configurations: what has no part in what a trained model computes, and names.
_OF_TRAINING = frozenset(
    {
        *("name", "trainable", "seed", "build_config", "compile_config", "build_input_shape"),
        *("registered_name", "shared_object_id", "autocast"),
    }
)


class _Fingerprint:
    """Facts about a model, and the places where they were found."""

    __slots__ = ("facts", "model", "places")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, model: Any) -> None:
        self.model, self.places = model, _Places()
        self.facts = _global_facts(), _Walk(self.places).facts(model)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Fingerprint) and self.facts == other.facts)

    def still_holds(self, model: Any) -> bool:
        """Whether the places are as they were; False may be said of equal models, too."""
        return (
            model is self.model
            and self.facts[0] == _global_facts()
            and self.places.are_as_they_were()
        )


class _Places:
    """Where the parts of a model are kept, and what was there."""

    def __init__(self) -> None:
        self._objects: list[tuple[Callable[[], Iterable[Any]], list[Any]]] = []
        self._contents: list[tuple[Any, Any]] = []

    def hold(self, place: Callable[[], Iterable[Any]]) -> None:
        """Note which objects a place has now."""
        self._objects.append((place, [*place()]))

    def contain(self, value: Any, facts: Any) -> None:
        """Note an object that may change within."""
        self._contents.append((value, facts))

    def are_as_they_were(self) -> bool:
        """Whether the very same objects are there, and have not changed within."""
        for place, before in self._objects:
            now = [*place()]
            if len(now) != len(before) or not all(map(is_, now, before)):
                return False
        return all(_facts_within(value) == facts for value, facts in self._contents)


def _global_facts() -> tuple[Any, ...]:
    """The settings of Keras for all models."""
    config = keras.config
    policy = config.dtype_policy()
    policy = type(policy), policy.compute_dtype, policy.variable_dtype
    return config.image_data_format(), config.floatx(), config.epsilon(), policy


class _Walk:
    """A walk through a model, from each part to the parts that it has.

    `places` gets all that another walk would have to look at.
    """

    def __init__(self, places: _Places) -> None:
        self.places = places
        self._seen: dict[int, int] = {}

    def facts(self, value: Any) -> Any:
        """A value as nested tuples of plain ones."""
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, float):
            return repr(value)  # NaN is equal to itself
        if isinstance(value, keras.Variable):
            return _Same(value)
        if not isinstance(value, (keras.Operation, dict, *_CHAINS)):
            found = _facts_within(value)
            if not isinstance(found, _Same):
                self.places.contain(value, found)
            return found
        if id(value) in self._seen:
            return "seen", self._seen[id(value)]
        self._seen[id(value)] = len(self._seen)
        if isinstance(value, keras.Operation):
            return self._of_operation(value)
        if isinstance(value, dict):
            self.places.hold(value.keys)
            self.places.hold(value.values)
            return tuple((self.facts(k), self.facts(v)) for k, v in dict(value).items())
        if isinstance(value, (set, frozenset)):  # in no order; of numbers, names, nodes
            self.places.hold(lambda: value)
            return type(value), len(value), tuple(sorted(hash(entry) for entry in value))
        if not isinstance(value, tuple):
            self.places.hold(lambda: value)
        return type(value), tuple(self.facts(entry) for entry in [*value])

    def _of_operation(self, value: Any) -> Any:
        attributes = vars(value)
        names = [
            name
            for name in [*attributes]  # as they are now, whatever another thread notes
            if name not in NOTES
            and not name.startswith("_self_")
            and not (name in UNSET_FLAGS and attributes[name] is False)
        ]
        self.places.hold(attributes.keys)
        self.places.hold(lambda: map(attributes.get, names))
        self.places.hold(lambda: (vars(value), type(value), type(value).call))
        own = [(name, self.facts(attributes[name])) for name in names]
        return type(value), _Same(type(value).call), tuple(own)


def _facts_within(value: Any) -> Any:
    """Facts about an object that may change within; the identity of others."""
    if isinstance(value, tf.Variable) and value.shape.rank == 0:  # a parameter, not a weight
        with tf.init_scope():
            return _Same(value), repr(value.numpy())
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype, zlib.crc32(np.ascontiguousarray(value).tobytes())
    if isinstance(value, keras.DTypePolicy):
        return type(value), value.compute_dtype, value.variable_dtype
    if hasattr(value, "arguments") and hasattr(value, "output_tensors"):  # a call, with constants
        given = keras.tree.flatten((value.arguments.args, value.arguments.kwargs))
        arrays = [_facts_within(part) for part in given if isinstance(part, np.ndarray)]
        return _Same(value), tuple(arrays)
    return _Same(value)
