"""Models from files, with classes of one's own; no code that lies in a file of a model is run."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import keras

from xcertify.outputs import one_output
from xcertify.runs.saved_model import is_saved_model, model_from, of_one_tensor, structure_of

# What stands as a class in configurations and is none.
_OF_KERAS_2 = ("Functional", "Model", "TensorShape", "Sequential")


def load_model(path: str, custom: Sequence[str] = ()) -> keras.Model:
    """The Keras model of a file or folder, not compiled.

    Parameters
    ----------
    path
        ``.keras`` or ``.h5`` (``.hdf5``), or the folder of a SavedModel that Keras 2 wrote and
        whose layers are known; see `xcertify.runs.saved_model.model_from`. Of a model of several
        outputs ``FILE:NAME``, with the name or the number of the one that is meant.
    custom
        Classes and functions that the model is made of and Keras does not have, each as
        ``module:Name`` or ``file.py:Name``. They are known while the model is loaded; nothing is
        registered.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If it is no such model; if it needs classes that are not in `custom`, which are named; and
        for a `keras.layers.Lambda`, as its code would be run from the file.

    Notes
    -----
    Keras' safe mode stays on. A module or file that `custom` names is imported: its code is run.
    """
    file, _, output = path.rpartition(":")
    if not Path(path).exists() and Path(file).exists() and file and output:
        return _one_output(load_model(file, custom), file, output)
    if not Path(path).exists():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        structure = _structure_of(path)
    except Exception as error:  # whatever the bytes make go wrong
        if str(error).startswith(path):
            raise
        raise ValueError(
            f"{path} cannot be read as a model, a .keras or .h5 file. {_in_short(error)}"
        ) from error
    code = next((part for part in _parts(structure) if _is_code(part)), None)
    if code is not None:
        raise ValueError(
            f"{path} has a Lambda layer with Python code, which is not run from a file: write the "
            f"layer as a class, save the model with it and name it, --custom file.py:Class; or "
            f"load the model in Python and explain it there"
        )
    objects = custom_objects(custom)
    needed = list(_names_of_others(structure))
    for name in needed:  # saved as "package>Class"
        if name.split(">")[-1] in objects:
            objects.setdefault(name, objects[name.split(">")[-1]])
    try:
        if is_saved_model(path):
            model = model_from(path, objects)
        else:
            model = keras.models.load_model(path, custom_objects=objects, compile=False)
    except Exception as error:  # Keras raises whatever went wrong inside
        missing = [name.split(">")[-1] for name in needed if name not in objects]
        if missing:
            flags = " ".join(f"--custom file.py:{name}" for name in missing)
            raise ValueError(
                f"{path} has classes or functions that Keras does not have, "
                f"{', '.join(missing)}: say where they are, {flags} (or module:{missing[0]})"
            ) from error
        if str(error).startswith(path):
            raise
        raise ValueError(f"{path} cannot be loaded as a Keras model. {_in_short(error)}") from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"{path} must be a model. Received: a {type(model).__name__}")
    return of_one_tensor(model)


def _one_output(model: keras.Model, path: str, output: str) -> keras.Model:
    """The output that is named behind the path of a model, with its name or its number."""
    try:
        is_number = output.lstrip("-").isdigit()
        return one_output(model, int(output) if is_number else output)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def custom_objects(names: Sequence[str]) -> dict[str, Any]:
    """Classes and functions by their names, each given as ``module:Name`` or ``file.py:Name``.

    Raises
    ------
    FileNotFoundError, ValueError
        For what is not there, or cannot be imported.
    """
    found = {}
    for text in names:
        where, _, name = text.rpartition(":")
        if not where or not name:
            raise ValueError(
                f"custom must be module:Class or file.py:Class, such as layers.py:Scale. "
                f"Received: {text}"
            )
        module = _module_of_file(where) if where.endswith(".py") else _module_named(where)
        if not callable(getattr(module, name, None)):
            names_there = [n for n, v in vars(module).items() if isinstance(v, type)]
            raise ValueError(
                f"custom must name a class or function of {where}; its classes are "
                f"{', '.join(names_there) or 'none'}. Received: {text}"
            )
        found[name] = getattr(module, name)
    return found


def _module_named(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # the module is the user's
        file = Path(f"{name.replace('.', '/')}.py")
        cure = f"give its file, {file}:Class" if file.is_file() else "give its file, file.py:Class"
        raise ValueError(
            f"custom must name a module that Python finds; else {cure}. "
            f"Received: {name}, {type(error).__name__}: {error}"
        ) from error


def _module_of_file(path: str) -> ModuleType:
    """The module of a file, imported once in a process, under a name that none else has."""
    file = Path(path).absolute()
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # the file is the user's
            del sys.modules[name]
            raise ValueError(
                f"custom must be a file that can be imported. "
                f"Received: {path}, {type(error).__name__}: {error}"
            ) from error
    return sys.modules[name]


def _structure_of(path: str) -> Any:
    """The configuration of a model as it lies in the file."""
    if is_saved_model(path):
        return structure_of(path)
    if Path(path).is_dir():
        file = Path(path) / "config.json"
        if not file.is_file():
            raise ValueError(
                f"{path} is a folder, and no SavedModel: give a model as .keras or .h5 file"
            )
        return json.loads(file.read_bytes())
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    import h5py

    with h5py.File(path, "r") as file:
        stored = file.attrs.get("model_config")
    if stored is None:
        raise ValueError(
            f"{path} has weights and no model: save it whole, model.save('model.keras')"
        )
    return json.loads(stored)


def _parts(structure: Any) -> Iterator[dict[str, Any]]:
    """All dictionaries inside."""
    if isinstance(structure, dict):
        yield structure
    for part in structure.values() if isinstance(structure, dict) else structure:
        if isinstance(part, (dict, list, tuple)):
            yield from _parts(part)


def _is_code(part: dict[str, Any]) -> bool:
    return part.get("class_name") == "__lambda__" or "lambda" in (
        part.get("function_type"),
        part.get("output_shape_type"),
    )


def _names_of_others(structure: Any) -> Iterator[str]:
    """Names of the classes and functions that Keras does not have, as they are saved."""
    seen = set()
    for part in _parts(structure):
        name, module = part.get("class_name"), part.get("module")
        if not isinstance(name, str) or "config" not in part or name.startswith("__"):
            continue
        if name == "function":
            name, module = str(part["config"]), None
        elif str(module).split(".")[0] in ("builtins", "keras"):
            continue
        if (
            module is None
            and _is_of_keras(name)
            and part.get("registered_name") in (*(None, name, "function"),)
        ):
            continue
        if name != part["config"]:
            name = part.get("registered_name") or name
        if name not in seen:
            seen.add(name)
            yield name


def _is_of_keras(name: str) -> bool:
    """Whether Keras has a class or function of this name, which stands there without a module."""
    rooms = (
        *(keras.layers, keras.initializers, keras.regularizers, keras.constraints),
        *(keras.activations, keras.losses, keras.ops),
    )
    return name in _OF_KERAS_2 or any(hasattr(room, name) for room in rooms)


def _in_short(error: Exception) -> str:
    """The first paragraph of a message."""
    text = " ".join(str(error).split("\n\n")[0].split())
    return text if len(text) <= 300 else f"{text[:300]}..."
