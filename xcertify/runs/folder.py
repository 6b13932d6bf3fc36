"""The folder of a run: what it says of itself, and its results, read a part at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xcertify.certificates import Certificate
from xcertify.certificates.stored import restored
from xcertify.certificates.tables import from_table
from xcertify.runs.parts import Part, missing_from, notes_of, parts_in, put
from xcertify.runs.rows import check_proved
from xcertify.runs.sources import Source, reopened
from xcertify.runs.warned import Warned

SETTINGS = "run.json"
INPUT = "input"  # column of numbers
_LOCK = ".lock"


class Run:
    """A run in its folder, finished or not; open one with `Run.open`.

    Attributes
    ----------
    folder
        Where it lies.
    settings
        What ``run.json`` says: command, explainer and its settings, model, source, versions.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Run:
        """The run in a folder.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If its ``run.json`` cannot be read.
        """
        folder = Path(folder)
        path = folder / SETTINGS
        if not path.is_file():
            raise FileNotFoundError(f"no run in {folder}: it has no {SETTINGS}")
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            known = {"run", "command", "explainer", "settings"} <= settings.keys()
            known = known and settings["source"]["nb_inputs"] >= 0
        except (ValueError, AttributeError, KeyError, TypeError):
            known = False
        if not known:
            raise ValueError(f"{path} is not the {SETTINGS} of a run, or it was cut off")
        return cls(folder, settings)

    def __len__(self) -> int:
        """How many inputs it has."""
        return int(self.settings["source"]["nb_inputs"])

    def __repr__(self) -> str:
        what = f"{self.settings['command']} by {self.settings['explainer']}"
        nb_missing = sum(last - first for first, last in self.missing)
        done = "all" if not nb_missing else f"{len(self) - nb_missing:,}"
        return f"<Run: {what}, {done} of {len(self):,} inputs in {self.folder}>"

    @cached_property
    def parts(self) -> list[Part]:
        """(first, last) of the parts that are done, in order."""
        return parts_in(self.folder, self.settings["run"])

    @property
    def missing(self) -> list[Part]:
        """(first, last) of the inputs that are not done yet; empty once the run is finished."""
        return missing_from(self.parts, len(self))

    @property
    def columns(self) -> list[str]:
        """Names of the columns of rows; of a run without a part none."""
        return [] if self._schema is None else self._schema.names

    @cached_property
    def _schema(self) -> pa.Schema | None:
        """Of the part with most columns: one of errors alone has few."""
        schemas = [pq.read_schema(part.rows(self.folder)) for part in self.parts]
        return max(schemas, key=lambda schema: len(schema.names), default=None)

    @property
    def nb_errors(self) -> int:
        """How many of the inputs that are done have an error in the place of a result."""
        return sum(notes["errors"] for notes in self._notes)

    @property
    def warned(self) -> Warned:
        """What was warned of."""
        warned = Warned()
        for notes in self._notes:
            warned.add(notes["warnings"])
        return warned

    @property
    def _notes(self) -> Iterator[dict[str, Any]]:
        return (notes_of(part.rows(self.folder)) for part in self.parts)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Rows, a batch at a time, in the order of the inputs.

        Parameters
        ----------
        columns
            Names; None: all.

        Raises
        ------
        ValueError
            For a part that cannot be read, or has other rows than those of its inputs, each once
            and in order.
        """
        for part in self.parts:
            path, first = part.rows(self.folder), part.first
            again = "remove it, and make it again by resume (--resume)"
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                have = file.schema_arrow.names
                names = [name for name in have if columns is None or name in columns]
                for group in range(file.num_row_groups):
                    try:
                        table = file.read_row_group(group, columns=[*{*names, INPUT}])
                    except (pa.ArrowException, OSError) as error:
                        raise ValueError(f"{path} was changed: {again}. {error}") from error
                    numbers = np.arange(first, first + len(table))
                    if INPUT not in have or not np.array_equal(table[INPUT].to_numpy(), numbers):
                        raise ValueError(
                            f"{path} must have the rows of the inputs {part.first} to "
                            f"{part.last - 1}, each once and in order: {again}"
                        )
                    first += len(table)
                    yield table.select(names)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Columns of all inputs that are done, in memory.

        Parameters
        ----------
        columns
            Names, of `columns`; None: those with one value an input, so that what is held of a
            million inputs is a few hundred megabytes. `tables` holds one batch at a time.
        """
        schema = pa.schema([]) if self._schema is None else self._schema
        if columns is None:
            columns = [field.name for field in schema if not pa.types.is_nested(field.type)]
        unknown = [name for name in columns if name not in schema.names]
        if unknown and self._schema is not None:
            raise ValueError(
                f"columns must be some of {', '.join(schema.names)}. Received: {', '.join(unknown)}"
            )
        fields = pa.schema([schema.field(name) for name in columns if name in schema.names])
        found = [fields.empty_table(), *self.tables(columns)]
        whole = pa.concat_tables(
            [table.replace_schema_metadata() for table in found], promote_options="default"
        )
        return whole.select(fields.names)

    def maps(self, first: int = 0, last: int | None = None) -> np.ndarray | None:
        """Maps of the inputs from `first` to `last` - 1, (n, *map) float32.

        Returns
        -------
        maps
            NaN for inputs that have an error or are not done; None where none of them has a map.
        """
        last = len(self) if last is None else min(last, len(self))
        found: np.ndarray | None = None
        for part in self.parts:
            begin, end = max(first, part.first), min(last, part.last)
            path = part.maps(self.folder)
            if begin < end and path.is_file():
                maps = np.load(path, mmap_mode="r", allow_pickle=False)
                if found is None:
                    found = np.full((last - first, *maps.shape[1:]), np.nan, np.float32)
                found[begin - first : end - first] = maps[begin - part.first : end - part.first]
        return found

    def map_of(self, number: int) -> np.ndarray | None:
        """The map of one input; None where it has none."""
        maps = self.maps(number, number + 1)
        return None if maps is None or np.isnan(maps).any() else maps[0]

    def certificates(self) -> Iterator[tuple[np.ndarray, Certificate]]:
        """Numbers of inputs, and their certificate, a batch at a time, in order.

        Raises
        ------
        ValueError
            For rows that were changed, or are those of no certificate.
        """
        if self.settings["command"] != "certify":
            return
        for table in self.tables():
            if table["error"].null_count:
                numbers, found = from_table(table)
                certificate = restored(found)
                check_proved(table.filter(table["error"].is_null()), numbers, certificate)
                yield numbers, certificate

    def source(self) -> Source:
        """The inputs, where they still lie.

        Raises
        ------
        OSError, ValueError
            Where they do not, or are others.
        """
        source = reopened(self.settings["source"])
        if source.describe()["fingerprint"] != self.settings["source"]["fingerprint"]:
            raise ValueError(f"the inputs of this run have changed since, in {source.path}")
        return source


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write ``run.json``, whole or not at all."""
    draft = folder / f".{SETTINGS}.unfinished"
    draft.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    put(draft, folder / SETTINGS)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from working in a folder; the system lets it go if this one is killed.

    Where the system has no such locks (Windows), nothing is kept: two processes then do the same
    parts, with the same results.

    Raises
    ------
    BlockingIOError
        If another process works there.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(folder / _LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another process is working in {folder}: wait for it, or choose another folder"
            ) from None
        yield
