"""Inputs of a ``.npy`` or ``.npz`` file."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xcertify.inputs import check_input_shape
from xcertify.runs.sources.base import Batch, Source, nameless
from xcertify.runs.sources.scale import Scale


class ArrayFile(Source):
    """The rows of an array (N, *shape) in a file; numbers become float32 and are not rescaled.

    A ``.npy`` file is mapped into memory: only the rows that are asked for are read. An array of a
    ``.npz`` file is read whole by NumPy, once in every process.

    Parameters
    ----------
    text
        ``FILE.npy``, ``FILE.npz`` or ``FILE.npz:NAME``.
    shape
        Of one input as the model takes it, None where it is free; None: not checked.
    scale, offset
        Each value becomes ``value * scale + offset``.

    Raises
    ------
    FileNotFoundError, ValueError
        For no such file or array, and another shape or kind.
    """

    kind = "array"

    def __init__(
        self,
        text: str,
        *,
        shape: tuple[int | None, ...] | None = None,
        scale: float | None = None,
        offset: float | None = None,
    ):
        self.path = absolute(text)
        self._scale = Scale.of(scale, offset, default=1.0)
        array = self._array
        if array.ndim < 2:
            raise ValueError(
                f"inputs must be a batch, (N, *shape). Received: shape {array.shape} in {text}"
            )
        check_input_shape(array.shape, shape)
        self._nb_inputs, self.shape = len(array), array.shape[1:]

    @cached_property
    def _array(self) -> np.ndarray:
        array = load_array(self.path, mapped=True)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"inputs must be numbers. Received: {array.dtype} in {self.path}")
        return array

    def __len__(self) -> int:
        return self._nb_inputs

    def _files(self) -> list[Path]:
        return [Path(split_name(self.path)[0])]

    def _options(self) -> dict[str, Any]:
        return self._scale.options()

    def _read(self, first: int, last: int) -> Batch:
        return nameless([self._scale(row) for row in self._array[first:last]])


def split_name(text: str) -> tuple[str, str | None]:
    """File and name of ``FILE.npz:NAME``, None for the name in ``FILE``."""
    if ".npz:" in text:
        file, _, name = text.rpartition(":")
        return file, name
    return text, None


def absolute(text: str) -> str:
    """The same with an absolute path."""
    file, name = split_name(text)
    return f"{Path(file).absolute()}:{name}" if name else str(Path(file).absolute())


def load_array(text: str, *, mapped: bool = False) -> np.ndarray:
    """The array of a ``.npy`` file, or of a ``.npz`` file given as FILE or FILE:NAME.

    Parameters
    ----------
    text
        The file.
    mapped
        Whether a ``.npy`` file is mapped into memory instead of read.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not of that kind, holds Python objects, or holds several arrays and none
        was named.
    """
    path, name = split_name(text)
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.endswith((".npy", ".npz")):
        raise ValueError(f"arrays come from .npy or .npz files. Received: {path}")
    try:
        content = np.load(path, allow_pickle=False, mmap_mode="r" if mapped else None)
        if isinstance(content, np.ndarray):
            return content
        with content:
            names = content.files
            if name is None and len(names) == 1:
                (name,) = names
            if name in names:
                return content[name]
    except Exception as error:  # NumPy raises whatever the bytes make go wrong
        raise ValueError(f"{path} is not a readable .npy or .npz file: {error}") from error
    wanted = f"has no array {name!r}" if name else "holds several arrays"
    raise ValueError(f"{path} {wanted}: say which, as {path}:NAME. It has {', '.join(names)}")
