"""Models of jobs: loaded in each process, or sent to it as the bytes of a file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import keras

from xcertify.keras_graph import layers_of
from xcertify.runs.loading import load_model


def model_of(model: Any, custom: Any) -> keras.Model:
    """The model of a job.

    Parameters
    ----------
    model, custom
        As for `Job`.
    """
    if isinstance(model, keras.Model):
        return model
    if isinstance(model, bytes):
        objects = dict(custom) if isinstance(custom, Mapping) else {}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            path.write_bytes(model)
            return keras.models.load_model(path, custom_objects=objects, compile=False)
    return load_model(model, custom)


def as_bytes(model: keras.Model) -> bytes:
    """The ``.keras`` file of a model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def custom_objects_of(model: keras.Model) -> dict[str, Any]:
    """Classes and functions of a model that Keras does not have, by name."""
    found: dict[str, Any] = {}
    for layer in layers_of(model):
        functions = [value for value in vars(layer).values() if isinstance(value, FunctionType)]
        for one in (type(layer), *functions):
            if not one.__module__.startswith("keras."):
                found[keras.saving.get_registered_name(one)] = one
    return found
