"""Where a certificate comes from: the explainer with its settings, the model, the versions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import keras
import numpy as np

from xcertify.fingerprints import hash_of_architecture, hash_of_weights

IN_WORDS = "in words"  # the one key of what stands for a setting that no file can hold
PACKAGES = ("xcertify", "keras", "tensorflow", "numpy")

_NUMBERS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


@dataclass(frozen=True)
class Origin:
    """What a certificate was made by, and of which model.

    Attributes
    ----------
    explainer
        Name of the class, in `xcertify.attributions` if it is one of this package.
    settings
        Arguments of its constructor, by name, all but the model and `verbose`: numbers, words,
        None, and lists of them; arrays are nested lists. ``{"in words": "..."}`` stands for a
        function or another object.
    architecture, weights
        SHA-256 of the model's structure and of its weights, see `xcertify.fingerprints`.
    versions
        Of xcertify, keras, tensorflow and numpy, by name.

    Examples
    --------
    >>> origin = certificate.origin
    >>> explainer = getattr(xcertify.attributions, origin.explainer)(model, **origin.settings)
    """

    explainer: str
    settings: dict[str, Any]
    architecture: str
    weights: str
    versions: dict[str, str]

    @classmethod
    def of(cls, explainer: str, settings: Mapping[str, Any], model: keras.Model) -> Origin:
        """That of a certificate which is being made.

        Parameters
        ----------
        explainer
            Name of the class.
        settings
            Arguments of its constructor but the model, as they are.
        model
            The model that they explain.
        """
        written = {name: as_json(value) for name, value in settings.items()}
        versions = {package: version(package) for package in PACKAGES}
        hashes = hash_of_architecture(model), hash_of_weights(model)
        return cls(explainer, written, *hashes, versions)

    @property
    def in_words(self) -> tuple[str, ...]:
        """Settings that are told in words only: with any, no explainer can be made of the rest."""
        return tuple(name for name, value in self.settings.items() if _is_in_words(value))


def fingerprint(model: Any) -> str:
    """SHA-256 of a Keras model's weights: their shapes, types and values, in order.

    Parameters
    ----------
    model
        A built Keras model.
    """
    return hash_of_weights(model)


def as_json(value: Any) -> Any:
    """A setting as JSON has it: arrays as nested lists, functions and objects in words."""
    if isinstance(value, dict):
        return {str(name): as_json(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return as_json(value.tolist())
    if isinstance(value, keras.Variable) or hasattr(value, "__array__"):
        return as_json(np.asarray(value))
    known = isinstance(value, (bool, int, float, str, type(None)))
    return value if known else {IN_WORDS: _named(value)}


def dumps(value: Any) -> str:
    """JSON by its standard, which has no infinite numbers: they become "inf", "-inf" and "nan"."""
    return json.dumps(_finite(value), allow_nan=False, ensure_ascii=False)


def canonical(value: Any) -> bytes:
    """The same for hashes: names in order, and 1.0 as 1, since both are one setting."""
    return json.dumps(_whole(json.loads(dumps(value))), sort_keys=True).encode()


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value


def numbers_of(value: Any) -> Any:
    """The same with the words "inf", "-inf" and "nan" as the numbers that `dumps` made them of."""
    if isinstance(value, dict):
        return {name: numbers_of(one) for name, one in value.items()}
    if isinstance(value, list):
        return [numbers_of(one) for one in value]
    return _NUMBERS.get(value, value) if isinstance(value, str) else value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _is_in_words(value: Any) -> bool:
    """Whether a setting, or a part of it, is told in words only."""
    if isinstance(value, dict):
        return IN_WORDS in value or any(map(_is_in_words, value.values()))
    return isinstance(value, list) and any(map(_is_in_words, value))


def _named(value: Any) -> str:
    """An object in words without its address, which is another one in each process."""
    name = getattr(value, "__qualname__", None)
    if name is not None:
        return f"{getattr(value, '__module__', '')}.{name}"
    return f"a {type(value).__module__}.{type(value).__qualname__}"
