"""Folders of runs, opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xcertify.runs import Run


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
