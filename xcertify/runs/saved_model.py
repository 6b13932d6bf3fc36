"""Models of SavedModel folders, built anew from what Keras 2 wrote beside the program.

A SavedModel is a TensorFlow program. That of Keras 2 has the configuration of the layers beside it,
in ``keras_metadata.pb``; what Keras 3 exports has not, and cannot be had back as a Keras model.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

_CURE = (
    "load it where it was made, with the TensorFlow and Keras that made it, and save it there as "
    "a file, model.save('model.keras') or model.save('model.h5')"
)
# What a program may do beside arithmetic: read its weights, and call its parts.
_HARMLESS = {
    "PartitionedCall",
    "Placeholder",
    "ReadVariableOp",
    "StatefulPartitionedCall",
    "VarHandleOp",
}
_TUPLES = ("__tuple__", "TensorShape")  # as Keras 2 writes them
_NB_CHECKED = 16  # inputs on which both must agree
# Size of inputs: tolerance, as a share of the largest output. Behind a softmax the roundings of
# large logits show.
_TOLERANCES = {1.0: 1e-4, 255.0: 1e-2}


def is_saved_model(path: str) -> bool:
    """Whether it is a folder with a SavedModel."""
    return (Path(path) / "saved_model.pb").is_file()


def structure_of(path: str) -> dict[str, Any]:
    """The configuration of the model, class and layers, as Keras 2 wrote it.

    Raises
    ------
    ValueError
        If there is none, or not one of layers (a subclass of `keras.Model`).
    """
    file = Path(path) / "keras_metadata.pb"
    if not file.is_file():
        raise ValueError(
            f"{path} is a SavedModel that does not say what its layers are, as Keras 3 exports "
            f"it: {_CURE}"
        )
    for number, node in _fields(file.read_bytes()):
        facts = dict(_fields(node)) if number == 1 else {}
        if facts.get(3) == b"root":
            content = json.loads(facts[5], object_hook=_with_tuples)
            structure = content.get("model_config") or {}
            if structure.get("class_name") in ("Sequential", "Functional", "Model"):
                return structure
    raise ValueError(
        f"{path} is a SavedModel of a class of its own, not of a Sequential or functional model: "
        f"{_CURE}"
    )


def model_from(path: str, objects: Mapping[str, Any]) -> keras.Model:
    """A Keras model of the same layers and weights, with the outputs of the SavedModel.

    Parameters
    ----------
    path
        The folder.
    objects
        Classes and functions that Keras does not have, by name.

    Raises
    ------
    ValueError
        If the model cannot be built, its weights are others, or its outputs differ from those of
        the SavedModel's signature "serving_default" on 16 random inputs; and if that program does
        more than arithmetic with its weights, in which case it is not run.

    Notes
    -----
    **No guarantee** that the two are the same function: they are compared on random inputs in
    [-1, 1], up to 1e-4 of the largest output, and in [-255, 255], up to 1e-2. What is explained and
    certified is the model that is built here.
    """
    structure = structure_of(path)
    kind = keras.Sequential if structure["class_name"] == "Sequential" else keras.Model
    with warnings.catch_warnings():  # of the names that arguments had in Keras 2
        warnings.simplefilter("ignore")
        try:
            built = kind.from_config(structure["config"], custom_objects=dict(objects))
        except Exception as error:  # Keras 3 raises whatever it makes of them
            raise ValueError(f"{path} has layers that Keras 3 cannot build: {_CURE}") from error
    model = of_one_tensor(built)
    _check_objects(path)
    loaded = tf.saved_model.load(path)
    if "serving_default" not in loaded.signatures:
        raise ValueError(f"{path} has no signature 'serving_default' to compare with: {_CURE}")
    signature = loaded.signatures["serving_default"]
    _check_operations(path, signature.graph.as_graph_def())
    model.set_weights(_in_order_of(path, model, loaded.variables))
    _check_outputs(path, model, signature)
    return model


def of_one_tensor(model: keras.Model) -> keras.Model:
    """The model that takes its only input as it is, where Keras 2 wrote a list of one."""
    if type(model).__name__ != "Functional" or not isinstance(model.input, list):
        return model
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return model
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def _with_tuples(part: dict[str, Any]) -> Any:
    return tuple(part["items"]) if part.get("class_name") in _TUPLES else part


def _in_order_of(path: str, model: keras.Model, variables: Sequence[Any]) -> list[np.ndarray]:
    """Values of a program's variables, as many and of the shapes of the model's weights.

    By the names of layer and weight if these are different for all; else as they come.
    """
    stored = [(_last_names(variable.name), variable.numpy()) for variable in variables]
    names = [_last_names(weight.path) for weight in model.weights]
    if set(names) == {name for name, _ in stored} and len(set(names)) == len(stored):
        stored = sorted(stored, key=lambda pair: names.index(pair[0]))
    if [value.shape for _, value in stored] != [tuple(weight.shape) for weight in model.weights]:
        raise ValueError(f"{path} has other weights than its layers: {_CURE}")
    return [value for _, value in stored]


def _last_names(path: str) -> str:
    """``layer/weight`` of a longer path."""
    return "/".join(path.split(":")[0].split("/")[-2:])


def _check_objects(path: str) -> None:
    """Refuse what would be run by loading alone: tables and files that are set up then."""
    content = saved_model_pb2.SavedModel.FromString((Path(path) / "saved_model.pb").read_bytes())
    kinds = {
        node.WhichOneof("kind")
        for graph in content.meta_graphs
        for node in graph.object_graph_def.nodes
    }
    if not kinds or kinds & {"asset", "resource"}:
        raise ValueError(f"{path} has tables or files beside its weights: {_CURE}")


def _check_operations(path: str, program: Any) -> None:
    """Refuse a program that does more than arithmetic with its weights, such as writing a file."""
    bodies = [program.node, *(function.node_def for function in program.library.function)]
    for name in sorted({node.op for nodes in bodies for node in nodes} - _HARMLESS):
        known = op_def_registry.get(name)
        if known is None or known.is_stateful:
            raise ValueError(
                f"{path} has a program with {name}, which is more than arithmetic, and is not "
                f"run: {_CURE}"
            )


def _check_outputs(path: str, model: keras.Model, signature: Any) -> None:
    specs = list(signature.structured_input_signature[1].items())
    results = list(signature.structured_outputs)
    if len(specs) != 1 or len(results) != 1:
        raise ValueError(f"{path} must have one input and one output: {_CURE}")
    (name, spec), generator = specs[0], np.random.default_rng(0)
    shape = (_NB_CHECKED, *(n or 32 for n in model.input_shape[1:]))
    for size, share in _TOLERANCES.items():
        inputs = generator.uniform(-size, size, shape)
        wanted = np.asarray(signature(**{name: tf.constant(inputs, spec.dtype)})[results[0]])
        got = np.asarray(model(tf.constant(inputs, spec.dtype), training=False))
        if wanted.shape != got.shape or not np.allclose(
            got, wanted, rtol=0, atol=share * max(1e-30, float(np.abs(wanted).max()))
        ):
            raise ValueError(f"{path} gives other outputs than its layers do in Keras 3: {_CURE}")


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and content of each field of a protocol buffer: integers, or bytes."""
    place = 0

    def whole_number() -> int:
        nonlocal place
        number = shift = 0
        while True:
            byte = message[place]
            place += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    while place < len(message):
        key = whole_number()
        if key & 7 not in (0, 2):
            raise ValueError(f"unknown kind of field, {key & 7}")
        content: Any = whole_number()
        if key & 7 == 2:
            place += content
            content = message[place - content : place]
        yield key >> 3, content
