"""Rows of a run: one for each input, with its result or its error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from xcertify.certificates import Certificate
from xcertify.certificates.stored import stored
from xcertify.certificates.tables import DIGEST, to_table

_FIRST = (
    ("input", pa.int64()),
    ("name", pa.string()),
    ("error", pa.string()),
    ("target", pa.int64()),
    ("seconds", pa.float64()),
)
_PROVED = (
    ("certified", pa.float64()),
    ("attacked", pa.float64()),
    ("looseness", pa.float64()),
    ("vacuous", pa.bool_()),
    ("robust", pa.bool_()),
)


def rows_of(
    numbers: np.ndarray,
    names: list[str | None],
    errors: list[str | None],
    targets: list[int | None],
    seconds: float,
    certificate: Certificate | None,
) -> pa.Table:
    """The rows of a batch.

    Parameters
    ----------
    numbers, names, errors, targets
        One for each input: its number, the name of its file, what is wrong with it, its class.
    seconds
        That an input took.
    certificate
        Of the inputs without an error; None for `explain`.
    """
    columns = dict(
        zip(
            [name for name, _ in _FIRST],
            (numbers, names, errors, targets, [seconds] * len(numbers)),
        )
    )
    table = pa.table(columns, schema=pa.schema(_FIRST))
    if certificate is None:
        return table
    good = np.flatnonzero([error is None for error in errors])
    some = table.take(good)
    extra: dict[str, Any] = {name: some[name] for name, _ in _FIRST[1:]}
    for name, kind in _PROVED:
        values = getattr(certificate, name, None)
        if values is not None or name == "attacked":
            extra[name] = pa.array(_values(values, len(good)), kind)
    proved = to_table(stored(certificate), numbers[good], extra)
    order = [name for name, _ in (*_FIRST, *_PROVED) if name in proved.column_names]
    rest = [name for name in proved.column_names if name not in (*order, DIGEST)]
    proved = proved.select([*order, *rest, DIGEST])
    if len(good) == len(table):
        return proved
    failed = table.filter(table["error"].is_valid())
    whole = pa.concat_tables([proved, failed], promote_options="default").sort_by("input")
    return whole.replace_schema_metadata(proved.schema.metadata)


def check_proved(table: pa.Table, numbers: np.ndarray, certificate: Certificate) -> None:
    """Refuse rows whose columns about the certificate are not what the certificate says.

    Parameters
    ----------
    table
        Rows without an error.
    numbers
        Of the inputs that the certificate is about.

    Raises
    ------
    ValueError
        Naming the first such input.
    """
    inputs = table["input"].to_numpy()
    for one, other, both in (
        (inputs, numbers, "neither an error nor a certificate"),
        (numbers, inputs, "both an error and a certificate"),
    ):
        without = np.setdiff1d(one, other)
        if len(without):
            raise ValueError(f"the row of input {without[0]} has {both}")
    proved = {name: getattr(certificate, name, None) for name, _ in _PROVED}
    targets = getattr(certificate, "targets", None)
    if targets is not None and np.ndim(targets) == 1:  # classes
        proved["target"] = targets
    for name, values in proved.items():
        if name not in table.column_names:
            continue
        stated = _as_floats(table[name].to_pylist())
        found = _as_floats(_values(values, len(table)))
        same = np.isclose(stated, found, rtol=1e-6, atol=0, equal_nan=True)
        if not same.all():
            place = int(np.argmin(same))
            raise ValueError(
                f"the row of input {table['input'][place]} was changed: {name} is {stated[place]}, "
                f"and {found[place]} by its certificate"
            )


def _as_floats(values: list[Any]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _values(values: Any, nb_rows: int) -> list[Any]:
    return [None] * nb_rows if values is None else np.asarray(values).tolist()
