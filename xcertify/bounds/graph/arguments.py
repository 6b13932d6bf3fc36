"""What a layer was called with: tensors of the network, constants among them, and settings.

A rule says which arguments of a call it understands. All others have to be absent, so that nothing
that changes the result is dropped.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from xcertify.keras_graph import UnsupportedLayerError, merges_by_masks


class Arguments:
    """The arguments of a call of a layer or of a `keras.ops` function.

    Parameters
    ----------
    call
        Keras' node of the call.
    inputs
        Names of the arguments, beside the first, that hold tensors of the network.
    settings
        Names of the arguments that the rule reads by itself, from `settings`. One that is named in
        both is a setting where it holds no tensor of the network.

    Attributes
    ----------
    tensors
        Tensors of the network and constants among them, in the order of the arguments.
    first
        The first argument as it was given.
    settings
        The values of what the rule reads by itself; what was not given is left out.
    masks
        What was given as `mask`, `value_mask` and the like, as it was given; what is None is left
        out.
    output_shapes
        Shapes of what the call gives, without batch axis.

    Raises
    ------
    UnsupportedLayerError
        Naming the layer and the argument that is not understood.
    """

    def __init__(self, call: Any, inputs: Sequence[str] = (), settings: Sequence[str] = ()) -> None:
        self.layer = call.operation
        args, kwargs = call.arguments.args, call.arguments.kwargs
        parameters = inspect.signature(self.layer.call).parameters
        order = list(parameters)
        self._kwargs = dict(
            sorted(kwargs.items(), key=lambda item: (*order, item[0]).index(item[0]))
        )
        names = [name for name, p in parameters.items() if p.kind in _POSITIONAL]
        names += [f"argument {number}" for number in range(len(names), len(args))]
        self._args = dict(zip(names, args))
        given = {**self._args, **self._kwargs}
        self._inputs = (names[0] if names else next(iter(given)), *inputs)
        self.first = given[self._inputs[0]]
        self.output_shapes = [tuple(tensor.shape[1:]) for tensor in call.output_tensors]
        self.tensors: list[Any] = []
        self.settings: dict[str, Any] = {}
        self.masks: dict[str, Any] = {}
        for name, value in given.items():
            if name in settings and not _holds_tensor(value):
                self.settings[name] = value
            elif name in self._inputs:
                if value is None and name != self._inputs[0]:
                    continue
                keras.tree.traverse(lambda part: _leaf(part, self.tensors), value, top_down=True)
            elif _is_mask(name):
                if any(part is not None for part in keras.tree.flatten(value)):
                    self.masks[name] = value
            elif not _is_default(name, value, parameters):
                raise UnsupportedLayerError(
                    f"The layer '{self.layer.name}' of class {type(self.layer).__name__} is called "
                    f"with {name}={_shown(value)} and cannot be bounded with it: {_cure(name)}"
                )

    def evaluate(self, *tensors: Any) -> Any:
        """The layer's own `call` with other values in place of `tensors`."""
        values = iter(tensors)

        def fill(part: Any) -> Any:
            return next(values) if _leaf(part, []) else None

        filling = set(self._inputs).difference(self.settings)

        def filled(given: dict[str, Any]) -> dict[str, Any]:
            return {
                name: keras.tree.traverse(fill, value, True) if name in filling else value
                for name, value in given.items()
            }

        args = filled(self._args)
        return self.layer.call(*args.values(), **filled(self._kwargs))


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def takes_masks(layer: Any) -> bool:
    """Whether the values of a layer may depend on the masks that its tensors carry."""
    names = inspect.signature(layer.call).parameters
    return any(map(_is_mask, names)) or merges_by_masks(layer)


def refuse_masks(call: Any, given: dict[str, Any]) -> None:
    """Refuse the call of a layer whose rule has not looked at its masks, but which has some."""
    layer = call.operation
    at = f"The layer '{layer.name}' of class {type(layer).__name__}"
    for name, value in given.items():
        raise UnsupportedLayerError(
            f"{at} is called with {name}={_shown(value)} and cannot be bounded with it: "
            f"{_cure(name)}"
        )
    raise UnsupportedLayerError(
        f"{at} is given a tensor with a mask (of a layer such as Masking, or of "
        f"Embedding(mask_zero=True)) and cannot be bounded with it. Start behind it "
        f"(start_layer), or build the model without the mask."
    )


def mask_values(value: Any, layer: Any, rank: int) -> np.ndarray:
    """A mask that is a constant, 0 or 1 in float64, without batch axis.

    Parameters
    ----------
    value
        What was given in its place.
    layer
        The layer that is called.
    rank
        Of a mask with all axes, batch axis counted.

    Raises
    ------
    UnsupportedLayerError
        For what is no array, and for values along the batch axis.
    """
    try:
        array = (np.asarray(value) != 0).astype("float64")
    except (TypeError, ValueError):
        array = np.ones((2,) * rank)
    of_samples = array.ndim > rank or (array.ndim == rank and len(array) != 1)
    if hasattr(value, "assign") or of_samples:
        raise UnsupportedLayerError(
            f"The mask in the call of '{layer.name}' of class {type(layer).__name__} cannot be "
            f"bounded: a mask that is no tensor of the network has to be the same for all samples, "
            f"an array with a batch axis of 1. Received: {_shown(value)}"
        )
    if array.ndim == rank:
        return array[0]
    return array.reshape((1,) * (rank - 1 - array.ndim) + array.shape)


def _is_mask(name: str) -> bool:
    return name == "mask" or name.endswith("_mask")


def is_tensor(value: Any) -> bool:
    """Whether it is a tensor of a network that is being described, with no values of its own."""
    return isinstance(value, keras.KerasTensor)


def is_float(dtype: Any) -> bool:
    """Whether a type given by name has fractions."""
    return str(dtype).startswith(("float", "bfloat"))


def _holds_tensor(value: Any) -> bool:
    return any(map(is_tensor, keras.tree.flatten(value)))


def _leaf(part: Any, found: list[Any]) -> bool | None:
    """Collect a part of an argument that holds no tensor of the network further inside.

    None for a structure to be looked into: what `keras.tree.traverse` asks for.
    """
    if keras.tree.is_nested(part) and _holds_tensor(part):
        return None
    found.append(part)
    return True


def _is_default(name: str, value: Any, parameters: Any) -> bool:
    """Whether the call says by this argument what it says without it."""
    if name == "training":  # Keras writes a default of its own into the call
        return value is None or value is False
    if all(part is None for part in keras.tree.flatten(value)):
        value = None  # a nested model is called with one mask for each input
    default = parameters[name].default if name in parameters else None
    if value is None or default is None:
        return value is default
    simple = isinstance(value, (bool, int, float, str)) and type(value) is type(default)
    return simple and value == default


def _cure(name: str) -> str:
    if name == "training":
        return (
            "model(x) then is not what model.predict(x) gives. Build the model with a call "
            "without training=True."
        )
    return (
        "build the model with a call without it, or for a layer of your own name it in "
        "xcertify.bounds.register."
    )


def _shown(value: Any) -> str:
    if is_tensor(value):
        return f"the tensor '{value.name}'"
    if hasattr(value, "shape"):
        return f"an array of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def constant_values(value: Any, layer: Any, rank: int) -> tuple[Any, tuple[int, ...]]:
    """A constant among tensors of the network: its values, and their shape without batch axis.

    Parameters
    ----------
    value
        A number, an array, a tensor or a variable.
    layer
        The layer or operation that is called.
    rank
        Of the tensors of the network, batch axis counted.

    Raises
    ------
    UnsupportedLayerError
        For what has no finite values, and for values along the batch axis.
    """
    at = f"The constant in the call of '{layer.name}' of class {type(layer).__name__}"
    try:
        array = np.asarray(value, dtype="float64")
    except (TypeError, ValueError) as error:
        raise UnsupportedLayerError(
            f"{at} cannot be bounded: numbers are needed. Received: {_shown(value)}"
        ) from error
    if not np.isfinite(array).all():
        raise UnsupportedLayerError(
            f"{at} cannot be bounded: it holds values that are not finite. Use large numbers in "
            f"place of infinity. Received: an array of shape {array.shape}"
        )
    shape = array.shape
    # Layers lay the first axis of all that they merge along the batch; functions align the last.
    if isinstance(layer, keras.layers.Layer) or len(shape) >= rank:
        if (len(shape) != rank and not 0 < len(shape) < rank) or shape[0] != 1:
            raise UnsupportedLayerError(
                f"{at} cannot be bounded: it has values along the batch axis, or none for it, and "
                f"so mixes samples or ties them to their place in the batch. Give it the shape "
                f"(1, ...). Received: an array of shape {shape}"
            )
        shape = shape[1:]
    else:
        shape = (1,) * (rank - 1 - len(shape)) + shape
    return (value if hasattr(value, "assign") else array.reshape(shape)), shape


def refuse_mixing(layer: Any, function: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse an operation of which a sample's output depends on what else is in the batch.

    Parameters
    ----------
    layer
        The layer or operation, for the message.
    function
        Of tensors (N, *shape), evaluated for some samples together and each alone.
    shapes
        Without the batch axis.

    Raises
    ------
    UnsupportedLayerError
        Also for a function that fails, or that works for one size of batches only.
    """
    generator = np.random.default_rng(0)
    sizes = {size for shape in shapes for size in shape}
    nb_samples = min({*range(3, 4 + len(sizes))} - sizes)  # no axis is taken for the batch
    draws = [
        ops.convert_to_tensor(generator.normal(size=(nb_samples, *shape)), "float32")
        for shape in shapes
    ]
    mixes = (
        f"The layer '{layer.name}' of class {type(layer).__name__} cannot be bounded: it mixes "
        f"samples, or is tied to one size of the batch. Let it work along the other axes only, "
        f"with -1 for the batch axis in shapes."
    )
    try:
        together = ops.convert_to_numpy(function(*draws))
        alone = [
            ops.convert_to_numpy(function(*(draw[i : i + 1] for draw in draws)))
            for i in range(nb_samples)
        ]
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnsupportedLayerError(
            f"{mixes} Received, for batches of {nb_samples} and of 1: "
            f"{type(error).__name__}: {reason}"
        ) from error
    if any(part.shape[:1] != (1,) for part in alone):
        raise UnsupportedLayerError(mixes)
    joined = np.concatenate(alone)
    if together.shape != joined.shape or not np.allclose(together, joined, 1e-4, 1e-4, True):
        raise UnsupportedLayerError(mixes)
