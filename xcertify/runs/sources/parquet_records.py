"""Records of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xcertify.runs.sources.tables import Records


class ParquetRecords(Records):
    """The records of a Parquet file, or of the Parquet files of a folder in the order of names.

    Row groups are read whole, the last one is kept: records are best asked for in their order.

    Raises
    ------
    ValueError
        For a file that is none, and files whose columns have other names.
    """

    def __init__(self, path: str):
        here = Path(path).absolute()
        self.files = sorted(here.glob("*.parquet")) if here.is_dir() else [here]
        self._groups: list[tuple[int, int]] = []  # file, row group
        ends = [0]
        for number, file in enumerate(self.files):
            facts = self._open(number).metadata
            names = _plain_columns(self._open(number).schema_arrow)
            if number == 0:
                self.columns = names
            elif names != self.columns:
                raise ValueError(
                    f"{file} must have the columns of {self.files[0].name}, "
                    f"{', '.join(self.columns)}. Received: {', '.join(names)}"
                )
            for group in range(facts.num_row_groups):
                self._groups.append((number, group))
                ends.append(ends[-1] + facts.row_group(group).num_rows)
        self._ends = np.array(ends)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, first: int, last: int, columns: Sequence[str]) -> list[list[Any] | str]:
        """Their values as Python has them."""
        rows: list[list[Any] | str] = []
        while first < last:
            group = int(np.searchsorted(self._ends, first, side="right")) - 1
            begin, end = int(self._ends[group]), int(self._ends[group + 1])
            table = self._group(group, tuple(columns))
            some = table.slice(first - begin, min(last, end) - first)
            lists = [some.column(name).to_pylist() for name in columns]
            rows += [list(row) for row in zip(*lists)]
            first = min(last, end)
        return rows

    def values(self, column: str) -> Iterator[Any]:
        """Those that a column has, each at least once."""
        for number in range(len(self.files)):
            for batch in self._open(number).iter_batches(columns=[column]):
                yield from batch.column(0).unique().to_pylist()

    @cached_property
    def _kept(self) -> dict[tuple[int, tuple[str, ...]], pa.Table]:
        return {}

    def _group(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        if (group, columns) not in self._kept:
            self._kept.clear()
            file, place = self._groups[group]
            self._kept[group, columns] = self._open(file).read_row_group(
                place, columns=list(columns)
            )
        return self._kept[group, columns]

    def _open(self, number: int) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.files[number])
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.files[number]} is no Parquet file: {error}") from error


def _plain_columns(schema: pa.Schema) -> list[str]:
    """Names of columns with one value a record, without the index that pandas writes."""
    return [
        field.name
        for field in schema
        if not pa.types.is_nested(field.type) and not field.name.startswith("__index_level_")
    ]
