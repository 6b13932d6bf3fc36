"""Certificates as tables of Arrow, for Parquet files: one row for each input.

Arrays are lists of numbers, row-major; their types and shapes, what all inputs have in common and
the header stand in the metadata of the schema. Nothing in it is code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xcertify.certificates.origins import dumps, numbers_of
from xcertify.certificates.stored import Stored, digests, header_from, header_text

if TYPE_CHECKING:
    import pyarrow

INPUT, NAME, DIGEST = "input", "name", "digest"
HEADER, ARRAYS = b"xcertify.header", b"xcertify.arrays"  # keys of the metadata
LARGEST_ARRAYS = 64 * 2**20  # bytes

_TYPES = {np.dtype(kind).str[1:]: np.dtype(kind) for kind in "?bhilqBHILQefd"} | {
    "U": np.dtype("U")
}


def to_table(
    found: Stored,
    numbers: Sequence[int] | np.ndarray,
    extra: Mapping[str, Any] | None = None,
) -> pyarrow.Table:
    """A certificate as a table, one row for each of N inputs.

    Parameters
    ----------
    found
        What `stored` gives.
    numbers
        (N,): the numbers of the inputs in their data set; column `input`.
    extra
        Further columns of N entries, which stand behind it; one that is named as a row of the
        certificate is left out. Of them, digests cover `name` alone.

    Returns
    -------
    table
        Columns `input`, those of `extra`, the rows of the certificate, and `digest`.

    Raises
    ------
    ValueError
        If what all inputs have in common is longer than files may have it.
    """
    import pyarrow as pa

    columns: dict[str, Any] = {INPUT: pa.array(np.asarray(numbers, np.int64))}
    columns |= {n: values for n, values in (extra or {}).items() if n not in found.rows}
    columns |= {name: _as_column(values) for name, values in found.rows.items()}
    table = pa.table(columns)
    table = table.append_column(DIGEST, pa.array(_digests(found, numbers, table), pa.string()))
    text = dumps(
        {
            "rows": {name: _form_of(values) for name, values in found.rows.items()},
            "shared": {
                name: _form_of(array[None]) | {"values": array.ravel().tolist()}
                for name, array in found.shared.items()
            },
        }
    )
    _refuse_long(text)
    metadata = {HEADER: header_text(found.header), ARRAYS: text}
    return table.replace_schema_metadata(metadata)


def from_table(table: pyarrow.Table, *, check: bool = True) -> tuple[np.ndarray, Stored]:
    """What `to_table` was given, of a table that was perhaps written to a file and read again.

    Parameters
    ----------
    table
        Rows without a digest, of inputs that have no certificate, are left out; so are columns
        that the certificate does not have.
    check
        Whether to refuse rows that are not those of their digests.

    Returns
    -------
    numbers, found
        The numbers of the N inputs, (N,) int64, and what `restored` makes a certificate of.

    Raises
    ------
    ValueError
        If the table is not of certificates, a column is missing, of another type or of other
        lengths than the schema says; and with `check`, naming the first input whose row was
        changed or moved.
    """
    import pyarrow as pa

    metadata = table.schema.metadata or {}
    missing = [name for name in (INPUT, DIGEST) if name not in table.column_names]
    if missing or HEADER not in metadata or ARRAYS not in metadata:
        raise ValueError(
            f"the table must be of certificates, with {INPUT}, {DIGEST} and a header in the "
            f"metadata of its schema. Received: the columns {', '.join(table.column_names)[:200]}"
        )
    header = header_from(metadata[HEADER])
    forms = _forms_from(metadata[ARRAYS])
    table = table.filter(table[DIGEST].is_valid())
    missing = [name for name in forms["rows"] if table.column_names.count(name) != 1]
    if missing:
        raise ValueError(
            f"the table must have each column of the certificate once. "
            f"Received: none or several of {', '.join(missing)}"
        )
    numbers = _numbers_of(_flat(INPUT, table[INPUT], pa.int64()), _TYPES["i8"])
    rows = {name: _values(name, table[name], *form) for name, form in forms["rows"].items()}
    found = Stored(header, rows, forms["shared"])
    if check:
        expected = _digests(found, numbers, table) if rows else []
        wrong = [n for n, own in enumerate(table[DIGEST].to_pylist()) if own != expected[n]]
        if wrong:
            raise ValueError(
                f"rows must be those of their digests. Received: {len(wrong)} of {len(numbers)} "
                f"that were changed or moved, the first one input {numbers[wrong[0]]}"
            )
    return numbers, found


def _digests(found: Stored, numbers: Any, table: pyarrow.Table) -> list[str]:
    """Of rows, with the names in the table."""
    names = table[NAME].to_pylist() if NAME in table.column_names else None
    return digests(found, numbers, names)


def _as_column(values: Any) -> Any:
    """Arrays (N, ...), or a list of N arrays, as a column of numbers or of lists of them."""
    import pyarrow as pa

    if isinstance(values, list):
        sizes = [own.size for own in values]
        flat = np.concatenate([own.ravel() for own in values]) if values else np.zeros(0)
    else:
        sizes = [math.prod(values.shape[1:])] * len(values)
        flat = values.ravel()
    is_words = flat.dtype.kind == "U"
    numbers = pa.array(flat.tolist(), pa.string()) if is_words else pa.array(flat)
    if not isinstance(values, list) and values.ndim == 1:
        return numbers
    ends = np.cumsum([0, *sizes])
    is_large = ends[-1] > np.iinfo(np.int32).max
    kind = pa.LargeListArray if is_large else pa.ListArray
    return kind.from_arrays(pa.array(ends, pa.int64() if is_large else pa.int32()), numbers)


def _form_of(values: Any) -> dict[str, Any]:
    """Type and shape of an entry; with None first where each input has its own length."""
    is_ragged = isinstance(values, list)
    one = values[0] if is_ragged and values else np.asarray(values)
    shape = [None, *one.shape[1:]] if is_ragged else [*one.shape[1:]]
    kind = one.dtype.str[1:] if one.dtype.kind != "U" else "U"
    return {"type": kind, "shape": shape}


def _forms_from(text: bytes) -> dict[str, dict[str, Any]]:
    """Types and shapes of rows, and the shared arrays."""
    _refuse_long(text)
    try:
        found = json.loads(text)
        rows = {name: _form_from(form) for name, form in found["rows"].items()}
        shared = {}
        for name, form in found["shared"].items():
            kind, shape = _form_from(form)
            shared[name] = np.array(numbers_of(form["values"]), kind).reshape(shape)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as e:
        raise ValueError(
            f"the metadata of the schema must say types and shapes. Received: {e!r}"[:300]
        ) from None
    return {"rows": rows, "shared": shared}


def _form_from(form: dict[str, Any]) -> tuple[np.dtype, tuple[int | None, ...]]:
    shape = form["shape"]
    whole = [size for place, size in enumerate(shape) if place or size is not None]
    if not all(type(size) is int and 0 <= size < 2**40 for size in whole) or len(shape) > 32:
        raise ValueError(f"shape {shape!r}"[:100])
    return _TYPES[form["type"]], tuple(shape)


def _values(name: str, column: Any, dtype: np.dtype, shape: tuple[int | None, ...]) -> Any:
    """A column as `_as_column` was given it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.string() if dtype.kind == "U" else pa.from_numpy_dtype(dtype)
    if not shape:
        return _numbers_of(_flat(name, column, kind), dtype)
    lists = _flat(name, column, pa.list_(kind), pa.large_list(kind))
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    flat = _numbers_of(_flat(name, lists.flatten(), kind), dtype)
    sizes = tuple(int(size) for size in shape if size is not None)
    size = math.prod(sizes)
    if shape[0] is not None:
        if (lengths != size).any():
            raise ValueError(
                f"column {name} must have lists of {size} numbers, {sizes}. "
                f"Received: {int(lengths[lengths != size][0])}"
            )
        return flat.reshape(len(lengths), *sizes)
    if size == 0 or (lengths % size).any():
        raise ValueError(
            f"column {name} must have lists of a multiple of {size} numbers. "
            f"Received: {int(lengths.max(initial=0))}"
        )
    return [own.reshape(-1, *sizes) for own in np.split(flat, np.cumsum(lengths)[:-1])]


def _flat(name: str, column: Any, *kinds: Any) -> Any:
    """A column in one piece, of one of some types, without missing values."""
    import pyarrow as pa

    if column.type not in kinds or column.null_count:
        raise ValueError(
            f"column {name} must be of type {kinds[0]}, without missing values. "
            f"Received: {column.type}, {column.null_count} missing"
        )
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _numbers_of(array: Any, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "U":
        return np.array(array.to_pylist(), dtype=str)
    return array.to_numpy(zero_copy_only=False)


def _refuse_long(text: str | bytes) -> None:
    if len(text) > LARGEST_ARRAYS:
        raise ValueError(
            f"what all inputs have in common must not have more than {LARGEST_ARRAYS} bytes; a "
            f".npz file, certificate.save(path), has no such limit. Received: {len(text)}"
        )
