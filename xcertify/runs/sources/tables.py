"""Inputs of a table: columns of numbers, and of words that become one-hot columns."""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xcertify.inputs import check_input_shape
from xcertify.runs.sources.base import Batch, Source

_MOST_CATEGORIES = 1000


class Records(ABC):
    """The records of a file, numbered, in columns with names."""

    #: Names of the columns, each once.
    columns: list[str]
    #: All that is read.
    files: list[Path]

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def read(self, first: int, last: int, columns: Sequence[str]) -> list[list[Any] | str]:
        """For each of the records `first` to `last` - 1: its values, or what is wrong with it."""

    @abstractmethod
    def values(self, column: str) -> Iterator[Any]:
        """The values that a column has, each at least once."""


@dataclass(frozen=True)
class Column:
    """A column of the file and the features it becomes.

    Parameters
    ----------
    name
        Of the column.
    categories
        Its words, each of which becomes a feature that is 1 for it and else 0; None: a number.
    """

    name: str
    categories: tuple[str, ...] | None = None

    @property
    def features(self) -> list[str]:
        """Names of its features."""
        if self.categories is None:
            return [self.name]
        return [f"{self.name}={category}" for category in self.categories]

    def values(self, stored: Any) -> list[float]:
        """Of its features.

        Raises
        ------
        ValueError
            Naming the column.
        """
        if _is_missing(stored):
            raise ValueError(f"column {self.name!r} has no value: fill it or leave the row out")
        if self.categories is None:
            return [_number(self.name, stored)]
        word = str(stored)
        if word not in self.categories:
            raise ValueError(
                f"column {self.name!r} has the value {word!r}, and the categories are "
                f"{', '.join(self.categories)}"
            )
        return [float(word == category) for category in self.categories]


class Table(Source):
    """The records of a table as inputs (W,).

    Parameters
    ----------
    path
        Of the file or folder.
    records
        What is in it.
    shape
        Of one input as the model takes it, None where it is free; None: not checked.
    columns
        Names, in the order in which the model takes them. Default: all but the target, in the order
        of the table.
    one_hot
        Columns that are one feature together. ``job`` for a column of words, which becomes a
        feature ``job=WORD`` for each of the words that the whole table has in it, sorted (as
        numbers, if all are); ``job=skilled,other`` to say words and order, which is safer: those of
        training. ``job`` for columns that are one-hot already, named ``job=WORD`` or ``job_WORD``.
        Or a dictionary, ``{"job": ["skilled", "other"]}``, with None instead of words.
    target_column
        Column that is no input.
    labels
        Whether the targets are the class numbers in the target column.

    Raises
    ------
    ValueError
        For columns that there are not, and a number of features that the model does not take.
    """

    kind = "table"

    def __init__(
        self,
        path: str,
        records: Records,
        *,
        shape: tuple[int | None, ...] | None = None,
        columns: Sequence[str] | None = None,
        one_hot: Sequence[str] | Mapping[str, Sequence[str] | None] | None = None,
        target_column: str | None = None,
        labels: bool = False,
    ):
        self.path = str(Path(path).absolute())
        self._records = records
        self._target = target_column
        self._labels = labels
        if target_column is not None:
            self._check_column(target_column, "target_column")
        asked = _asked_categories(one_hot)
        names, together = self._names(columns, asked)
        self._columns = [self._column(name, asked) for name in names]
        self._one_hot = {name: None for name in asked} | {
            column.name: list(column.categories) for column in self._columns if column.categories
        }
        self.feature_names = [name for column in self._columns for name in column.features]
        self.shape = (len(self.feature_names),)
        if asked:
            self.groups = _groups(self._columns, together)
        try:
            check_input_shape((len(records), *self.shape), shape)
        except ValueError as error:
            raise ValueError(
                f"{error}. The table's features are {', '.join(self.feature_names)}: choose with "
                f"--columns and --target-column (in Python, columns= and target_column=)"
            ) from None

    def __len__(self) -> int:
        return len(self._records)

    def _files(self) -> list[Path]:
        return self._records.files

    def _options(self) -> dict[str, Any]:
        return {
            "columns": [column.name for column in self._columns],
            "one_hot": self._one_hot,
            "target_column": self._target,
            "targets": "labels" if self._labels else None,
        }

    def _read(self, first: int, last: int) -> Batch:
        wanted = [column.name for column in self._columns]
        beside = [self._target] if self._labels and self._target is not None else []
        rows = self._records.read(first, last, wanted + beside)
        inputs: list[np.ndarray | None] = []
        errors: list[str | None] = []
        targets: list[Any] = []
        for row in rows:
            try:
                if isinstance(row, str):
                    raise ValueError(row)
                values = [v for column, it in zip(self._columns, row) for v in column.values(it)]
                target = _class_number(str(self._target), row[-1]) if self._labels else None
            except ValueError as error:
                inputs.append(None)
                errors.append(str(error))
                targets.append(None)
            else:
                inputs.append(np.array(values, dtype=np.float32))
                errors.append(None)
                targets.append(target)
        return Batch(inputs, errors, [None] * len(rows), targets if self._labels else None)

    def _names(
        self, columns: Sequence[str] | None, asked: dict[str, tuple[str, ...] | None]
    ) -> tuple[list[str], dict[str, str]]:
        """Columns in their order, and for those that are one-hot already what they are together."""
        there = self._records.columns
        together: dict[str, str] = {}
        for name in asked:
            if name in there:
                continue
            for prefix in (f"{name}=", f"{name}_"):
                members = [column for column in there if column.startswith(prefix)]
                if members:
                    together |= dict.fromkeys(members, name)
                    break
            else:
                raise ValueError(self._no_column("one_hot", name))
        if columns is None:
            return [name for name in there if name != self._target], together
        names: list[str] = []
        for name in columns:
            if name not in there and name in asked:
                names += [member for member, whole in together.items() if whole == name]
            else:
                self._check_column(name, "columns")
                names.append(name)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or self._target in names:
            fault = f"{twice[0]!r} twice" if twice else f"{self._target!r}, which is the target"
            raise ValueError(f"columns must be different inputs. Received: {fault}")
        return names, together

    def _column(self, name: str, asked: dict[str, tuple[str, ...] | None]) -> Column:
        if name not in asked:
            return Column(name)
        return Column(name, asked[name] or _categories(name, self._records.values(name)))

    def _check_column(self, name: str, argument: str) -> None:
        if name not in self._records.columns:
            raise ValueError(self._no_column(argument, name))

    def _no_column(self, argument: str, name: str) -> str:
        like = difflib.get_close_matches(name, self._records.columns, n=1)
        return (
            f"{argument} must name columns of {self.path}"
            f"{f' (is {like[0]!r} meant?)' if like else ''}: "
            f"{', '.join(self._records.columns)}. Received: {name!r}"
        )


def _is_missing(stored: Any) -> bool:
    return stored is None or stored == "" or stored != stored  # the last one is NaN


def _asked_categories(
    one_hot: Sequence[str] | Mapping[str, Sequence[str] | None] | None,
) -> dict[str, tuple[str, ...] | None]:
    """``["job=a,b", "sex"]`` as {"job": ("a", "b"), "sex": None}."""
    asked: dict[str, tuple[str, ...] | None] = {}
    if isinstance(one_hot, Mapping):
        asked = {name: None if words is None else tuple(words) for name, words in one_hot.items()}
    else:
        for text in one_hot or ():
            name, given, words = text.partition("=")
            asked[name] = tuple(word.strip() for word in words.split(",")) if given else None
    for name, categories in asked.items():
        if categories is not None and (
            len(set(categories)) < len(categories) or "" in categories or not categories
        ):
            raise ValueError(
                f"one_hot must name different categories, NAME=A,B. "
                f"Received: {name}={','.join(categories)}"
            )
    return asked


def _categories(name: str, values: Iterator[Any]) -> tuple[str, ...]:
    found: set[str] = set()
    for value in values:
        if not _is_missing(value):
            found.add(str(value))
        if len(found) > _MOST_CATEGORIES:
            raise ValueError(
                f"one_hot must name columns of categories; this one has more than "
                f"{_MOST_CATEGORIES} different values. Received: {name!r}"
            )
    if not found:
        raise ValueError(
            f"one_hot must name columns with values. Received: {name!r}, which is empty"
        )
    try:
        return tuple(sorted(found, key=float))
    except ValueError:
        return tuple(sorted(found))


def _groups(columns: Sequence[Column], together: dict[str, str]) -> list[int]:
    """A label for each feature: the number of the column, or of the one-hot columns, it is of."""
    labels: dict[str, int] = {}
    groups = []
    for column in columns:
        whole = together.get(column.name, column.name)
        groups += [labels.setdefault(whole, len(labels))] * len(column.features)
    return groups


def _number(name: str, stored: Any) -> float:
    word = str(stored).strip()
    try:
        number = float({"true": "1", "false": "0"}.get(word.lower(), word))
    except ValueError:
        raise ValueError(
            f"column {name!r} has the value {word!r}, and a number is taken: one-hot columns of "
            f"words are made by --one-hot {name} (in Python, one_hot=[{name!r}])"
        ) from None
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise ValueError(f"column {name!r} has the value {word}: inputs must be finite float32")
    return number


def _class_number(name: str, stored: Any) -> int:
    if _is_missing(stored):
        raise ValueError(f"column {name!r} has no value, and is the target")
    try:
        number = float(stored)
        if math.isfinite(number) and number == int(number) and number >= 0:
            return int(number)
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"column {name!r} has the value {str(stored)!r}, and targets are class numbers from 0"
    )
