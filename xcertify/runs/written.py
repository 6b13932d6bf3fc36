"""Data sets that are in no file, written to the folder of a run: it goes on by their numbers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import tensorflow as tf

from xcertify.runs.parts import writing_to
from xcertify.runs.sources import Source, open_source

_INPUTS, _TARGETS = "inputs.npy", "targets.npy"
_AT_ONCE = 256

Pair = tuple[Any, Any]  # an input, and its target or None


def source_of(dataset: Any, shape: tuple[int | None, ...], folder: Path) -> Source:
    """The source of a data set in any form.

    Parameters
    ----------
    dataset
        A `Source`; a path or name, as `open_source` takes it; an array (N, *shape); or a
        `tf.data.Dataset` or a Ray Dataset. The last three are written to the folder, in pieces;
        where a data set lies there already, it is not read again.
    shape
        Of one input, None where a dimension is free.
    folder
        Of the run.

    Raises
    ------
    ValueError
        For an array other than the one that lies in the folder, and a data set with other columns
        than inputs and targets.
    """
    if isinstance(dataset, Source):
        return dataset
    if isinstance(dataset, (str, os.PathLike)):
        return open_source(str(dataset), shape=shape)
    path, beside = folder / _INPUTS, folder / _TARGETS
    if isinstance(dataset, tf.data.Dataset):
        pairs: Callable[[], Iterable[Pair]] = lambda: _of_tensorflow(dataset, shape)  # noqa: E731
    elif hasattr(dataset, "iter_rows"):
        pairs = lambda: _of_ray(dataset)  # noqa: E731
    else:
        array = np.asarray(dataset)
        if path.exists() and not _is_in(path, array):
            raise ValueError(
                f"{path} holds other inputs than those that are given: give the same to go on with "
                f"that run, or choose another folder"
            )
        pairs = lambda: ((one, None) for one in array)  # noqa: E731
    if not path.exists():
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
        _write(pairs(), path, beside)
    return open_source(str(path), shape=shape, targets=str(beside) if beside.exists() else None)


def _is_in(path: Path, array: np.ndarray) -> bool:
    """Whether a file holds this array, as float32; compared in pieces."""
    kept = np.load(path, mmap_mode="r", allow_pickle=False)
    return kept.shape == array.shape and all(
        np.array_equal(kept[i : i + _AT_ONCE], array[i : i + _AT_ONCE].astype("<f4"), True)
        for i in range(0, len(kept), _AT_ONCE)
    )


def _of_tensorflow(dataset: tf.data.Dataset, shape: tuple[int | None, ...]) -> Iterator[Pair]:
    spec = dataset.element_spec
    has_targets = isinstance(spec, tuple) and len(spec) == 2
    first = spec[0] if has_targets else spec
    if not isinstance(first, tf.TensorSpec):
        raise ValueError(
            f"a data set must hold inputs or (inputs, targets) pairs; map it to one of them. "
            f"Received: elements {spec}"
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("the data set never ends: cut it with dataset.take(n)")
    if first.shape.rank == len(shape) + 1:
        dataset = dataset.unbatch()
    for element in dataset.as_numpy_iterator():
        yield element if has_targets else (element, None)


def _of_ray(dataset: Any) -> Iterator[Pair]:
    names = list(dataset.columns() or [])
    if len(names) > 1 and sorted(names) != ["inputs", "targets"]:
        raise ValueError(
            f"a Ray Dataset must have one column of inputs, or the columns inputs and targets "
            f"(dataset.select_columns, dataset.rename_columns). Received: {', '.join(names)}"
        )
    name = "inputs" if "inputs" in names else names[0]
    for row in dataset.iter_rows():
        yield row[name], row.get("targets")


def _write(pairs: Iterable[Pair], path: Path, beside: Path) -> None:
    """Inputs and targets as ``.npy`` files, which are in their places when they are whole."""
    drafts = [file.with_name(f".{file.name}.unfinished") for file in (path, beside)]
    targets, nb_others, shape = [], 0, None
    with writing_to(path.parent), open(drafts[0], "wb") as file:
        nb_inputs = 0
        for one, target in pairs:
            values = np.asarray(one, "<f4")
            if shape is None:
                shape = values.shape
                _write_header(file, (0, *shape))
            if values.shape != shape:
                values, nb_others = np.full(shape, np.nan, "<f4"), nb_others + 1
            file.write(values.tobytes())
            targets.append(target)
            nb_inputs += 1
        if shape is None:
            raise ValueError("the data set is empty")
        file.seek(0)
        _write_header(file, (nb_inputs, *shape))  # as long as before: NumPy leaves it room
    if nb_others:
        warnings.warn(
            f"{nb_others} inputs have another shape than the first, {shape}: they are kept as NaN, "
            f"and their rows have an error",
            UserWarning,
            stacklevel=4,
        )
    with writing_to(path.parent):
        if targets[0] is not None:
            np.save(drafts[1].with_suffix(".npy"), np.stack(targets))
            os.replace(drafts[1].with_suffix(".npy"), beside)
        os.replace(drafts[0], path)


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
