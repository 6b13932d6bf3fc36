"""Parts of a run: a file of rows and one of maps each, which are there as a whole or not at all.

Both are written beside their places and renamed when they are whole, maps first: where there are
rows, the part is done.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS, MAPS = "rows", "maps"
NOTES = "xcertify.run"  # key of what a file of rows says of its part
_NAME = re.compile(r"part-(\d{9,})-(\d{9,})\.parquet")
_UNFINISHED = ".unfinished-"


class Part(NamedTuple):
    """Some consecutive inputs of a run.

    Attributes
    ----------
    first, last
        The inputs from `first` up to, and without, `last`.
    """

    first: int
    last: int

    @property
    def stem(self) -> str:
        """Of the names of its files."""
        return f"part-{self.first:09d}-{self.last:09d}"

    def rows(self, folder: Path) -> Path:
        """Its rows."""
        return folder / ROWS / f"{self.stem}.parquet"

    def maps(self, folder: Path) -> Path:
        """Its maps; there is no such file where none of its inputs has one."""
        return folder / MAPS / f"{self.stem}.npy"


def parts_in(folder: Path, key: str) -> list[Part]:
    """Parts of a run that are done, in order.

    Parameters
    ----------
    folder
        Of the run.
    key
        What a run has in common with its parts.

    Raises
    ------
    ValueError
        For parts of another run, and for such that have inputs in common.
    """
    found = sorted(
        Part(int(match[1]), int(match[2]))
        for path in (folder / ROWS).glob("part-*")
        if (match := _NAME.fullmatch(path.name))
    )
    found = [part for part in found if _is_whole(folder, part, key)]
    for one, other in pairwise(found):
        if other.first < one.last:
            raise ValueError(
                f"{one.rows(folder).name} and {other.rows(folder).name} have inputs in common: "
                f"remove one of them from {folder / ROWS}"
            )
    return found


def notes_of(path: Path) -> dict[str, Any]:
    """What a file of rows says of its part: key of the run, errors, warnings."""
    return _notes_in(pq.read_metadata(path))


def _notes_in(metadata: pq.FileMetaData) -> dict[str, Any]:
    return json.loads((metadata.metadata or {}).get(NOTES.encode(), b"{}"))


def _is_whole(folder: Path, part: Part, key: str) -> bool:
    """Whether both files can be read to their ends; one that was cut off cannot."""
    path, maps = part.rows(folder), part.maps(folder)
    try:
        metadata = pq.read_metadata(path)
        nb_rows, notes = metadata.num_rows, _notes_in(metadata)
    except (pa.ArrowInvalid, OSError, ValueError):
        return False
    if notes.get("run") != key:
        raise ValueError(f"{path} is not of this run: its settings are others than run.json says")
    if nb_rows != len(range(*part)):
        return False
    if not notes.get("maps"):
        return True
    try:
        return len(np.load(maps, mmap_mode="r", allow_pickle=False)) == nb_rows
    except (OSError, ValueError, EOFError):
        return False


def missing_from(parts: Iterable[Part], nb_inputs: int) -> list[Part]:
    """The inputs between parts; a ValueError for parts of inputs that there are not."""
    gaps, begin, parts = [], 0, [*parts]
    if parts and parts[-1].last > nb_inputs:
        name = f"{parts[-1].stem}.parquet"
        raise ValueError(f"the run has {nb_inputs} inputs: remove {name} from its {ROWS}")
    for part in [*parts, Part(nb_inputs, nb_inputs)]:
        if part.first > begin:
            gaps.append(Part(begin, part.first))
        begin = part.last
    return gaps


def split(gaps: Iterable[Part], size: int) -> list[Part]:
    """Gaps as parts of at most `size` inputs."""
    return [
        Part(first, min(first + size, last))
        for begin, last in gaps
        for first in range(begin, last, size)
    ]


def remove_unfinished(folder: Path) -> None:
    """What writers left that came to no end."""
    for name in (ROWS, MAPS):
        for path in (folder / name).iterdir():
            if _UNFINISHED in path.name:
                path.unlink(missing_ok=True)


@contextmanager
def attempting(folder: Path, part: Part, most: int) -> Iterator[None]:
    """Note that a part is being computed, so that it is known at which one processes die.

    Raises
    ------
    RuntimeError
        If so many have died at it already.
    """
    beside = part.rows(folder).parent
    if len([*beside.glob(f".{part.stem}{_UNFINISHED}*")]) >= most:
        raise RuntimeError(
            f"{most} workers have died, each at the inputs {part.first} to {part.last - 1}, for "
            f"want of memory, perhaps. What is done stays; look at these inputs, or go on with "
            f"resume (--resume) and fewer workers"
        )
    note = beside / f".{part.stem}{_UNFINISHED}{uuid.uuid4().hex}"
    with writing_to(folder):
        note.touch()
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


class PartWriter:
    """Writes a part batch by batch; nothing of it is held but what has no columns yet.

    The columns of a part are those of its first batch with a result. Batches before it, of errors
    alone, wait for it.
    """

    def __init__(self, folder: Path, part: Part) -> None:
        self._folder, unfinished = folder, f"{_UNFINISHED}{uuid.uuid4().hex}"
        self._paths = [part.maps(folder), part.rows(folder)]
        self._drafts = [path.with_name(path.name + unfinished) for path in self._paths]
        self._nb_rows = len(range(*part))
        self._waiting: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None
        self._maps: IO[bytes] | None = None
        self._map_shape: tuple[int, ...] = ()
        self._nb_without_maps = 0

    def add(self, table: pa.Table, maps: np.ndarray | None, has_results: bool) -> None:
        """The rows of a batch, and its maps."""
        with writing_to(self._folder):
            self._add_maps(len(table), maps)
            self._waiting.append(table)
            if has_results or self._writer is not None:
                self._write_rows(table.schema, has_results)

    def _write_rows(self, schema: pa.Schema, has_results: bool = False) -> None:
        if has_results and self._writer and self._writer.schema.metadata != schema.metadata:
            raise RuntimeError("the certificates of two batches have different headers: a bug")
        if self._writer is None:
            draft = self._drafts[1]
            self._writer = pq.ParquetWriter(
                draft, schema, compression="zstd", write_page_checksum=True
            )
        for table in self._waiting:
            self._writer.write_table(_with_columns(table, self._writer.schema))
        self._waiting.clear()

    def _add_maps(self, nb_rows: int, maps: np.ndarray | None) -> None:
        if maps is None:
            self._nb_without_maps += nb_rows
            return
        if self._maps is None:
            self._maps = open(self._drafts[0], "wb")  # noqa: SIM115  # closed by `part_writer`
            self._map_shape = maps.shape[1:]
            header = {"descr": "<f4", "fortran_order": False}
            shape = (self._nb_rows, *self._map_shape)
            np.lib.format.write_array_header_1_0(self._maps, header | {"shape": shape})
        self._write_missing_maps()
        self._maps.write(np.ascontiguousarray(maps, "<f4").tobytes())

    def _write_missing_maps(self) -> None:
        """NaN, for inputs without one."""
        if self._maps is not None:
            nothing = np.full(self._map_shape, np.nan, "<f4").tobytes()
            for _ in range(self._nb_without_maps):
                self._maps.write(nothing)
            self._nb_without_maps = 0

    def finish(self, notes: dict[str, Any]) -> None:
        """Put both files into their places, with what there is to say of them."""
        with writing_to(self._folder):
            self._write_missing_maps()
            if self._waiting:
                self._write_rows(self._waiting[0].schema)
            notes = {**notes, "maps": self._maps is not None}
            if self._writer is not None:
                self._writer.add_key_value_metadata({NOTES: json.dumps(notes)})
            self._close()
            for draft, path in zip(self._drafts, self._paths):
                if draft.exists():
                    put(draft, path)

    def _close(self) -> None:
        for file in (self._writer, self._maps):
            if file is not None:
                file.close()

    def discard(self) -> None:
        """Remove what was written."""
        with suppress(OSError):  # a full disk, once more
            self._close()
        for draft in self._drafts:
            draft.unlink(missing_ok=True)


@contextmanager
def part_writer(folder: Path, part: Part) -> Iterator[PartWriter]:
    """A writer whose files are removed if it comes to no end."""
    writer = PartWriter(folder, part)
    try:
        yield writer
    finally:
        writer.discard()


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Say of an error of the system which folder it is about, and what to do.

    Raises
    ------
    OSError
        In the place of the one that is raised within.
    """
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise type(error)(
            error.errno,
            f"cannot write to {folder} ({why}): free the disk or choose another folder. What is "
            f"done stays; go on with resume (--resume)",
        ) from error


def _with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with null where it has none of the columns."""
    if table.schema.equals(schema):
        return table
    whole = pa.concat_tables([schema.empty_table(), table], promote_options="default")
    return whole.select(schema.names).cast(schema)


def put(draft: Path, path: Path) -> None:
    """Put a file into its place, whole, also if the machine goes down."""
    _to_disk(draft)
    os.replace(draft, path)
    if os.name != "nt":  # where folders are no files
        _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
