"""Inputs in every form that users have them, as one float32 array."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np
import tensorflow as tf


def as_arrays(
    inputs: Any, targets: Any = None, input_shape: tuple[int | None, ...] | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Inputs and targets as arrays, whatever they came in.

    Parameters
    ----------
    inputs
        (N, *shape): an array, an eager tensor, a nested list, a data frame, a dictionary or list
        of one of these (for models with one named input), or a `tf.data.Dataset` of inputs or of
        (inputs, targets) pairs, batched or not. Numbers of any type, booleans among them; they
        become float32 and are not rescaled.
    targets
        Left as they are apart from becoming an array; see `xcertify.targets.one_hot_targets`.
        None: those of the data set, if it has any.
    input_shape
        Shape of one input, None where a dimension is free; see `input_shape_of`. With it, inputs
        of another shape are refused here rather than inside the model, and it decides whether a
        data set is batched. Without it a data set counts as batched if its elements have a free
        first dimension or if `batch` was its last step; `unbatch()` it where that is not enough.

    Returns
    -------
    inputs, targets
        (N, *shape) float32, and an array with N first, or None.

    Raises
    ------
    ValueError
        For inputs without a batch axis, of a shape that the model does not take, empty, not
        numeric, NaN or infinite; for an infinite data set, one of dictionaries, or one that has
        targets of its own beside `targets`; for targets that are not one per input.

    Examples
    --------
    >>> inputs, targets = as_arrays([[0, 1], [2, 3]], [0, 1])
    >>> inputs.dtype, targets.shape
    (dtype('float32'), (2,))
    """
    if isinstance(inputs, tf.data.Dataset):
        inputs, targets = _from_dataset(inputs, targets, input_shape)
    inputs = _as_numbers(_only_entry(inputs, input_shape))
    check_input_shape(inputs.shape, input_shape)
    if inputs.ndim < 2:
        raise ValueError(
            f"inputs must be a batch, (N, *shape); for a single input add an axis, x[None]. "
            f"Received: shape {inputs.shape}"
        )
    if not inputs.size:
        raise ValueError(f"inputs are empty: give at least one. Received: shape {inputs.shape}")
    finite = np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"inputs have NaN or infinite values in sample {int(np.argmin(finite))}: "
            f"clean the data first"
        )
    if targets is not None:
        targets = np.asarray(targets)
        if targets.shape[:1] != (len(inputs),):
            raise ValueError(
                f"targets must be one per input, {len(inputs)} of them; for one class for all "
                f"give np.full({len(inputs)}, class). Received: shape {targets.shape}"
            )
    return inputs, targets


def check_input_shape(shape: tuple[int, ...], input_shape: tuple[int | None, ...] | None) -> None:
    """Refuse inputs (N, *shape) that a model does not take.

    Parameters
    ----------
    shape
        Of all inputs, N first.
    input_shape
        Of one input, None where a dimension is free; None: anything is taken.

    Raises
    ------
    ValueError
        With what to do about it, where that can be told.
    """
    if input_shape is not None and not _fits(shape[1:], input_shape):
        wanted = ", ".join("any" if size is None else str(size) for size in input_shape)
        raise ValueError(
            f"inputs must have the shape (N, {wanted}) that the model takes"
            f"{_cure(shape, input_shape)}. Received: {shape}"
        )


def in_batches(array: Any, size: int | None) -> Iterator[Any]:
    """Pieces of at most `size` of the first axis, None being all of it."""
    step = max(1, len(array) if size is None else size)
    return (array[first : first + step] for first in range(0, len(array), step))


def evaluate_in_batches(function: Callable, size: int | None, *arrays: Any) -> np.ndarray:
    """What a function of tensors gives for arrays (N, ...), for at most `size` rows at a time."""
    pieces = zip(*(in_batches(array, size) for array in arrays))
    return np.concatenate([np.asarray(function(*map(tf.constant, some))) for some in pieces])


def spread_value(
    name: str, value: Any, shape: tuple[int, ...], *, per_sample: bool = True
) -> np.ndarray:
    """A value that takes the place of features, for each of them.

    Parameters
    ----------
    name
        Of the argument that it came as.
    value
        A number, or an array that broadcasts to the inputs: one value per channel or variable
        (C,), one input (*shape) or (1, *shape), or one for each input (N, *shape).
    shape
        Of the inputs, (N, *shape).
    per_sample
        Whether there may be one for each input.

    Returns
    -------
    values
        (N, *shape) float32, or (*shape) without `per_sample`.

    Raises
    ------
    ValueError
        For another shape, and values that are no finite numbers.
    """
    values = np.asarray(value)
    wanted = shape if per_sample else (1, *shape[1:])
    try:
        fits = np.broadcast_shapes(values.shape, wanted) == wanted
    except ValueError:
        fits = False
    if not fits or values.dtype.kind not in "fiub":
        each = f", or of all of them, {shape}" if per_sample else ""
        raise ValueError(
            f"{name} must be a number, or an array that fits the last axes of the inputs, such as "
            f"{shape[-1:]}, or the shape of one of them, {shape[1:]}{each}. "
            f"Received: shape {values.shape} of {values.dtype}"
        )
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has NaN or infinite values: give finite ones")
    values = np.broadcast_to(values, wanted)
    return values if per_sample else values[0]


def input_shape_of(model: Any) -> tuple[int | None, ...] | None:
    """Shape of one input of a Keras model, None where it is not known.

    Raises
    ------
    ValueError
        For a model of several inputs.
    """
    shape = getattr(model, "input_shape", None)
    if shape is None:
        return None
    several = isinstance(shape, dict) or not all(n is None or isinstance(n, int) for n in shape)
    if several:
        shapes = list(shape.values() if isinstance(shape, dict) else shape)
        if len(shapes) != 1:
            raise ValueError(
                f"the model must have a single input; build one that does, with the other inputs "
                f"as constants. Received: inputs of shapes {shape}"
            )
        (shape,) = shapes
    return tuple(shape[1:])


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        free is None or size == free for size, free in zip(shape, wanted)
    )


def _cure(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> str:
    """What to do about inputs of another shape, where that can be told."""
    if _fits(shape, wanted):
        return "; for a single input add an axis, x[None]"
    if _fits((*shape[1:], 1), wanted):
        return "; add the axis of channels, x[..., None]"
    if len(shape) == len(wanted) + 1 and len(shape) > 2:
        if _fits((*shape[2:], shape[1]), wanted):
            return "; move the channels last, np.moveaxis(x, 1, -1)"
        if _fits((shape[-1], *shape[1:-1]), wanted):
            return "; move the channels first, np.moveaxis(x, -1, 1)"
    return ""


def _only_entry(inputs: Any, input_shape: tuple[int | None, ...] | None) -> Any:
    """The inputs out of a dictionary or list that holds nothing else."""
    if isinstance(inputs, Mapping):
        if len(inputs) != 1:
            raise ValueError(
                f"inputs must be those of a single input of the model. "
                f"Received: a dictionary of {', '.join(map(str, inputs))}"
            )
        return next(iter(inputs.values()))
    if isinstance(inputs, (list, tuple)) and len(inputs) == 1 and input_shape is not None:
        shape = np.shape(inputs[0])
        if len(shape) == len(input_shape) + 1 and _fits(shape[1:], input_shape):
            return inputs[0]
    return inputs


def _as_numbers(inputs: Any) -> np.ndarray:
    """An array of float32 of anything that holds numbers and booleans."""
    array = np.asarray(inputs)
    if array.dtype == object:  # such as columns of several types
        try:
            kinds = {type(value) for value in array.ravel()}
            if kinds and all(issubclass(kind, (Real, np.bool_)) for kind in kinds):
                return array.astype(np.float32)
        except (TypeError, ValueError):
            pass
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise ValueError(
            f"inputs must be numbers{_other_columns(inputs)}. Received: an array of {array.dtype}"
        )
    return array.astype(np.float32, copy=False)


def _other_columns(inputs: Any) -> str:
    """Which columns of a data frame hold something else, and what to do about a sparse matrix."""
    if hasattr(inputs, "toarray"):
        return "; make the sparse matrix dense, x.toarray()"
    if not hasattr(inputs, "columns") or not hasattr(inputs, "items"):
        return ""
    names = []
    for name, column in inputs.items():
        kinds = {type(value) for value in np.asarray(column, dtype=object)}
        if not all(issubclass(kind, (Real, np.bool_)) for kind in kinds):
            names.append(repr(name))
    return f"; encode, fill or leave out the column {', '.join(names)}" if names else ""


def _from_dataset(
    dataset: tf.data.Dataset, targets: Any, input_shape: tuple[int | None, ...] | None
) -> tuple[np.ndarray, Any]:
    spec = dataset.element_spec
    pairs = isinstance(spec, tuple) and len(spec) == 2
    names = spec[0] if pairs else spec
    if isinstance(names, Mapping) and len(names) == 1:  # for models with one named input
        (name,) = names
        dataset = dataset.map(lambda x, *y: (x[name], *y) if pairs else x[name])
        spec = dataset.element_spec
    if not pairs and not isinstance(spec, tf.TensorSpec):
        raise ValueError(
            f"a data set must hold inputs or (inputs, targets) pairs; map it to one of them "
            f"(tensorflow_datasets: as_supervised=True). Received: elements {spec}"
        )
    if pairs and targets is not None:
        raise ValueError("the data set has targets of its own: leave out `targets`")
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("the data set never ends: cut it with dataset.take(n)")
    if _is_batched(dataset, spec[0] if pairs else spec, input_shape):
        dataset = dataset.unbatch()
    elements = list(dataset.as_numpy_iterator())
    if not elements:
        raise ValueError("the data set is empty")
    if not pairs:
        return _stack(elements), targets
    return _stack([element[0] for element in elements]), np.stack([e[1] for e in elements])


def _is_batched(
    dataset: tf.data.Dataset, spec: tf.TensorSpec, input_shape: tuple[int | None, ...] | None
) -> bool:
    if spec.shape.rank is None:
        raise ValueError(
            "the elements of the data set must have a known number of axes; set it with "
            "dataset.map and tf.ensure_shape"
        )
    if input_shape is not None:
        return spec.shape.rank == len(input_shape) + 1
    return hasattr(dataset, "_batch_size") or (spec.shape.rank > 1 and spec.shape[0] is None)


def _stack(elements: list[np.ndarray]) -> np.ndarray:
    shapes = sorted({np.shape(element) for element in elements})
    if len(shapes) > 1:
        raise ValueError(
            f"the inputs of the data set must have one shape. Received: {shapes[0]}, {shapes[1]}"
        )
    return np.stack(elements)
