"""Arrays, targets and models from files; paths are checked before the work, not after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras


def load_array(source: str) -> np.ndarray:
    """The array of a ``.npy`` file, or of a ``.npz`` file given as FILE or FILE:NAME.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not of that kind, holds Python objects, or holds several arrays and none
        was named.
    """
    path, name = source, None
    if ".npz:" in source:
        path, name = source.rsplit(":", 1)
    check_file(path)
    if not path.endswith((".npy", ".npz")):
        raise ValueError(f"inputs and targets come from .npy or .npz files. Received: {path}")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            names = content.files
            if name is None and len(names) == 1:
                (name,) = names
            if name in names:
                return content[name]
    except Exception as error:
        raise ValueError(f"{path} is not a readable .npy or .npz file: {error}") from error
    wanted = f"has no array {name!r}" if name else "holds several arrays"
    raise ValueError(f"{path} {wanted}: say which, as {path}:NAME. It has {', '.join(names)}")


def load_targets(targets: list[str] | None) -> np.ndarray | None:
    """Targets as the command line has them: integers, or one file for `load_array`.

    Raises
    ------
    ValueError
        For anything else.
    """
    if targets is None:
        return None
    try:
        return np.array([int(target) for target in targets])
    except ValueError:
        if len(targets) > 1:
            raise ValueError(
                f"targets must be integers or one file. Received: {' '.join(targets)}"
            ) from None
    return load_array(targets[0])


def load_model(path: str) -> keras.Model:
    """The Keras model of a ``.keras`` or ``.h5`` file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no such model.
    """
    import keras

    check_file(path)
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever went wrong inside
        raise ValueError(
            f"{path} cannot be loaded as a Keras model; one with layers of your own has to be "
            f"loaded and explained in Python. {error}"
        ) from error


def check_file(path: str) -> None:
    """Refuse what is no file.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        With what is taken instead of a folder.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(
            f"{path} is a folder, and a file is taken: a model as .keras or .h5, arrays as .npy or "
            f".npz. A SavedModel is explained in Python, as a callable made of "
            f"keras.layers.TFSMLayer"
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")


def check_folder_of(path: str) -> None:
    """Refuse an output that could not be written.

    Raises
    ------
    FileNotFoundError
        If its folder does not exist.
    """
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"no such folder: {Path(path).parent}")
