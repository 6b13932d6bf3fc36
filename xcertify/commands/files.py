"""Files and folders, checked before the work and not after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xcertify.runs import Run


def check_file(path: str) -> None:
    """Refuse what is no file.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        Saying which.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder, and a file is taken")
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


def check_new_file(path: str) -> None:
    """Refuse an output that is a folder; those above it are made when it is written.

    Raises
    ------
    ValueError, IsADirectoryError
        Saying which.
    """
    if not path:
        raise ValueError("a file must have a name. Received: ''")
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder, and a file is taken")


def check_new_folder(path: str) -> None:
    """Refuse an output that is a file; folders above it are made when it is written.

    Raises
    ------
    ValueError, NotADirectoryError
        Saying which.
    """
    if not path:
        raise ValueError("a folder must have a name. Received: ''")
    if Path(path).exists() and not Path(path).is_dir():
        raise NotADirectoryError(f"{path} is a file, and a folder is taken")


def open_run(folder: str) -> Run:
    """The run in a folder.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no folder, or no run in it.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    from xcertify.runs import Run

    return Run.open(folder)
