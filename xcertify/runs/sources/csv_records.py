"""Records of a CSV file, found by their place in it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from xcertify.runs.sources.tables import Records

_EVERY = 1024  # records from one known place in the file to the next


class CsvRecords(Records):
    """The records of a CSV file in UTF-8, with the names of the columns in its first line.

    The file is parsed once, to count its records and to note where every 1024th begins; afterwards
    at most 1,023 records are parsed beside those that are asked for. Commas, semicolons or tabs
    between the values, whichever the first line has most of; empty lines are passed over.

    Raises
    ------
    ValueError
        For a file that is no such table.
    """

    def __init__(self, path: str):
        self.files = [Path(path).absolute()]
        with self._open() as file:
            header = file.readline()
            self._delimiter = max((b",", b";", b"\t"), key=header.count).decode()
            file.seek(0)
            lines = _Lines(file)
            rows = self._rows(lines)
            self.columns = next(rows, [])
            if not self.columns:
                raise ValueError(f"{path} is empty: a table begins with the names of its columns")
            twice = {name for name in self.columns if self.columns.count(name) > 1}
            if twice or "" in self.columns:
                fault = f"{sorted(twice)[0]!r} twice" if twice else "a column without one"
                raise ValueError(
                    f"the first line of {path} must name each column. Received: {fault}"
                )
            self._starts = [lines.place]
            self._length = 0
            for _ in rows:
                self._length += 1
                if self._length % _EVERY == 0:
                    self._starts.append(lines.place)

    def __len__(self) -> int:
        return self._length

    def read(self, first: int, last: int, columns: Sequence[str]) -> list[list[Any] | str]:
        """Their values as text, or how many values there are if not one a column."""
        places = [self.columns.index(name) for name in columns]
        found: list[list[Any] | str] = []
        for row in self._from(first, last):
            if len(row) != len(self.columns):
                found.append(f"has {len(row)} values, and the table {len(self.columns)} columns")
            else:
                found.append([row[place] for place in places])
        return found

    def values(self, column: str) -> Iterator[Any]:
        """All of a column, where a record has one."""
        place = self.columns.index(column)
        return (row[place] for row in self._from(0, len(self)) if len(row) == len(self.columns))

    def _from(self, first: int, last: int) -> Iterator[list[str]]:
        block = first // _EVERY
        with self._open() as file:
            file.seek(self._starts[block])
            for number, row in enumerate(self._rows(_Lines(file)), start=block * _EVERY):
                if number >= last:
                    return
                if number >= first:
                    yield row

    def _rows(self, lines: _Lines) -> Iterator[list[str]]:
        try:
            for row in csv.reader(lines, delimiter=self._delimiter, skipinitialspace=True):
                if row:
                    yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(
                f"{self.files[0]} is no CSV file in UTF-8: {error}, before byte {lines.place}"
            ) from error

    def _open(self) -> BinaryIO:
        return self.files[0].open("rb")


class _Lines:
    """Lines of a file as text, and the place behind the last one that was taken."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.place = file.tell()

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            begins = self.place == 0
            self.place += len(line)
            yield line.decode("utf-8-sig" if begins else "utf-8")
