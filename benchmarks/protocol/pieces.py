"""Pieces of a run: each is measured and stored by itself, so that a run can be gone on with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from protocol.records import Record, Row, read, recorded, write

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Piece:
    """What is measured in one go.

    Parameters
    ----------
    name
        Of the file of its results.
    run
        What measures: rows of what JSON holds.
    minutes
        About how long it takes on two idle cores.
    """

    name: str
    run: Callable[[Context], Sequence[Row]]
    minutes: float


@dataclasses.dataclass(frozen=True)
class Records:
    """What is stored of a paper.

    Parameters
    ----------
    folder
        Of its files.
    """

    folder: Path

    def __getitem__(self, name: str) -> Record:
        """The record of a piece.

        Raises
        ------
        KeyError
            If the piece was not run.
        """
        path = self.path(name)
        if not path.exists():
            raise KeyError(f"piece {name!r} was not run: nothing is at {path}")
        return read(path)

    def __contains__(self, name: str) -> bool:
        return self.path(name).exists()

    def path(self, name: str) -> Path:
        """The file of a piece."""
        return self.folder / f"{name}.json"

    def names(self, start: str = "") -> list[str]:
        """Pieces that are stored and begin so, in order."""
        return sorted(path.stem for path in self.folder.glob(f"{start}*.json"))

    def rows(self, start: str) -> list[Row]:
        """The rows of all stored pieces whose names begin so; each has its piece's name, too."""
        return [{"piece": name} | row for name in self.names(start) for row in self[name]["rows"]]


@dataclasses.dataclass(frozen=True)
class Context:
    """What a piece has at hand.

    Parameters
    ----------
    paper
        Whose piece it is.
    records
        What is stored of the paper so far, such as what was chosen on validation images.
    models
        Folder of trained networks.
    data_dir
        Folder of prepared data sets. None: that of the environment variable TFDS_DATA_DIR.
    quick
        Whether this is a small run.
    """

    paper: str
    records: Records
    models: Path
    data_dir: str | None = None
    quick: bool = False

    def progress(self, things: Iterable[T], what: str) -> Iterator[T]:
        """The things, with a bar on a terminal that is gone at the end."""
        return iter(tqdm(things, what, leave=False, dynamic_ncols=True, disable=None))


def run_piece(piece: Piece, context: Context) -> Record:
    """Measure a piece and store what is found."""
    about = {"paper": context.paper, "piece": piece.name, "quick": context.quick}
    record = recorded(lambda: piece.run(context), **about)
    write(context.records.path(piece.name), record)
    return record
