"""From what a user writes to the source that is meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xcertify.runs.sources.arrays import ArrayFile, split_name
from xcertify.runs.sources.base import Source
from xcertify.runs.sources.chosen import Chosen
from xcertify.runs.sources.csv_records import CsvRecords
from xcertify.runs.sources.images import SUFFIXES, ImageFolder
from xcertify.runs.sources.parquet_records import ParquetRecords
from xcertify.runs.sources.prepared import PreparedImages
from xcertify.runs.sources.tables import Table


def open_source(
    text: str,
    *,
    shape: tuple[int | None, ...] | None = None,
    size: Sequence[int] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    columns: Sequence[str] | None = None,
    one_hot: Sequence[str] | Mapping[str, Sequence[str] | None] | None = None,
    target_column: str | None = None,
    data_dir: str | None = None,
    first: int | None = None,
    targets: str | Sequence[str | int] | None = None,
) -> Source:
    """The inputs that are meant by a path or name; only what is needed to number them is read.

    Parameters
    ----------
    text
        * ``FILE.npy``, ``FILE.npz`` or ``FILE.npz:NAME``: an array (N, *shape);
        * a folder of pictures, or one picture;
        * ``FILE.csv`` (``.tsv``), ``FILE.parquet`` or a folder of Parquet files: a table;
        * ``tfds:NAME/SPLIT``: labelled images of tensorflow_datasets, prepared on this machine.
    shape
        Of one input as the model takes it, None where a dimension is free; see
        `xcertify.inputs.input_shape_of`. None: not checked.
    size
        (H, W) to which pictures of a folder are resized.
    scale, offset
        A value becomes ``value * scale + offset``. Default: 1/255 and 0 for pictures and
        tensorflow_datasets, 1 and 0 for arrays; not for tables.
    columns
        Of a table: names of its inputs, in the order in which the model takes them. Default: all
        but the target, in the order of the table.
    one_hot
        Of a table: columns of words, each of which becomes a feature. ``job``: words and order are
        those of the table, sorted; ``job=skilled,other``: those of training, which is safer.
        ``job``, too, where the columns ``job=WORD`` or ``job_WORD`` are there already.
    target_column
        Of a table: the column that is no input.
    data_dir
        Of tensorflow_datasets; see `xcertify.datasets.load`.
    first
        Only the first inputs. Default: all.
    targets
        Integers, one per input or one for all; a ``.npy`` or ``.npz`` file of them, or of weights
        (N, K); ``"column:NAME"`` of a table; ``"labels"``: the target column of a table, the
        labels of tensorflow_datasets, the numbers of the sub-folders of pictures. Default: none.

    Raises
    ------
    FileNotFoundError
        For no such file, folder or data set.
    ValueError
        For options that this kind of source does not have, and as the sources themselves.

    Examples
    --------
    >>> import numpy as np
    >>> np.save("inputs.npy", np.eye(3))
    >>> source = open_source("inputs.npy", shape=(3,), first=2)
    >>> len(source), source.read(1, 2).inputs
    (2, [array([0., 1., 0.], dtype=float32)])
    """
    options = {
        "size": size,
        "scale": scale,
        "offset": offset,
        "columns": columns,
        "one_hot": one_hot,
        "target_column": target_column,
        "data_dir": data_dir,
    }
    beside, labels, column = _targets(targets)
    if column is not None:
        if target_column not in (None, column):
            raise ValueError(
                f"targets must be of the target column. "
                f"Received: column:{column} and target_column={target_column!r}"
            )
        options["target_column"] = column
    kind, taken, opened = _kind_of(text)
    for name, value in options.items():
        if value is not None and name not in taken:
            raise ValueError(f"{name} is not for {kind}. Received: {name}={value!r} for {text}")
    given: dict[str, Any] = {name: options[name] for name in taken}
    if labels:
        if kind == "arrays" or (kind == "tables" and given["target_column"] is None):
            cure = "; for a table, say column:NAME" if kind == "tables" else ""
            raise ValueError(
                f"targets must be integers or a file, as {text} has no labels{cure}. "
                f"Received: labels"
            )
        given["labels"] = True
    source = opened(text, shape=shape, **given)
    if not len(source):
        raise ValueError(f"inputs are empty: give at least one. Received: {text}")
    return (
        source if first is None and beside is None else Chosen(source, first=first, targets=beside)
    )


def reopened(description: Mapping[str, Any]) -> Source:
    """The source that `Source.describe` described.

    Parameters
    ----------
    description
        What `describe` gave, as ``run.json`` has it.

    Raises
    ------
    FileNotFoundError, ValueError
        As `open_source`; whether the files are still the same is told by `describe`.
    """
    names = ("size", "scale", "offset", "columns", "one_hot", "target_column", "data_dir", "first")
    known = {name: description[name] for name in (*names, "targets") if name in description}
    shape = tuple(description["shape"])
    return open_source(str(description["path"]), shape=shape, **known)


Opener = Callable[..., Source]


def _kind_of(text: str) -> tuple[str, tuple[str, ...], Opener]:
    """What it is, in the plural; which options it has; how it is opened."""
    path = Path(split_name(text)[0])
    suffix = path.suffix.lower()
    scaled = ("scale", "offset")
    if text.startswith("tfds:"):
        return "tfds", (*scaled, "data_dir"), PreparedImages
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if suffix in (".npy", ".npz"):
        return "arrays", scaled, ArrayFile
    if suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet"))):
        return "tables", ("columns", "one_hot", "target_column"), _open_parquet
    if suffix in (".csv", ".tsv"):
        return "tables", ("columns", "one_hot", "target_column"), _open_csv
    if path.is_dir() or suffix in SUFFIXES:
        return "pictures", ("size", *scaled), ImageFolder
    raise ValueError(
        f"inputs must be a .npy, .npz, .csv, .tsv or .parquet file, a picture, a folder of "
        f"pictures or of Parquet files, or tfds:NAME/SPLIT. Received: {text}"
    )


def _open_csv(text: str, **options: Any) -> Source:
    return Table(text, CsvRecords(text), **options)


def _open_parquet(text: str, **options: Any) -> Source:
    return Table(text, ParquetRecords(text), **options)


def _targets(
    targets: str | Sequence[str | int] | None,
) -> tuple[list[int] | str | None, bool, str | None]:
    """Targets beside the inputs, whether those of the inputs are meant, and their column."""
    if targets is None:
        return None, False, None
    words = [targets] if isinstance(targets, (str, int)) else list(targets)
    try:
        return [int(word) for word in words], False, None
    except ValueError:
        pass
    if len(words) != 1:
        raise ValueError(
            f"targets must be integers, one file, labels or column:NAME. "
            f"Received: {' '.join(map(str, words))}"
        )
    word = str(words[0])
    if word == "labels":
        return None, True, None
    if word.startswith("column:"):
        return None, True, word.removeprefix("column:")
    return word, False, None
