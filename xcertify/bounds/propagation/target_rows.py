"""The rows that a caller asks about, as they go into a compiled function and as it sees them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from xcertify.bounds.propagation.routes import unit_rows
from xcertify.bounds.rounding import UNDERFLOW, relative_error


@dataclass(frozen=True)
class RowForm:
    """The form in which the rows of a call are handed to a compiled function.

    Attributes
    ----------
    name
        "entries": row s is entry s of the flat tensor, and the numbers s are handed over; "shared":
        coefficients (S, *shape), for all samples; "own": coefficients (N, S, *shape).
    shape
        Of the tensor.
    dtype
        Working type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def signature(self) -> tuple[tuple, str]:
        """Shape and type of what is handed over."""
        if self.name == "entries":
            return (None,), "int32"
        return (*[None] * (1 + (self.name == "own")), *self.shape), self.dtype

    @property
    def per_pair(self) -> int:
        """Bytes that are handed over for each pair of a sample and a row."""
        return math.prod(self.shape) * (4 if self.dtype == "float32" else 8) * (self.name == "own")

    def handed(self, given: Any, samples: slice, rows: slice) -> np.ndarray:
        """What is handed over for some samples and rows of what was given."""
        if self.name == "entries":
            return np.arange(rows.start, rows.stop, dtype="int32")
        part = given[samples, rows] if self.name == "own" else given[rows]
        return part.astype(self.dtype, copy=False).reshape((*part.shape[:-1], *self.shape))


class TargetRows:
    """The rows of a call inside a compiled function.

    Parameters
    ----------
    form
        How they were handed over.
    handed
        The tensor.
    nb_samples
        Of the call.
    """

    def __init__(self, form: RowForm, handed: Any, nb_samples: Any) -> None:
        self.form, self.nb_samples, self._handed = form, nb_samples, handed
        self._axis = int(form.name == "own")

    @property
    def nb_rows(self) -> Any:
        """How many there are."""
        return ops.shape(self._handed)[self._axis]

    def between(self, first: Any, last: Any) -> Any:
        """Coefficients of some rows, (N, last - first, *shape)."""
        if self.form.name == "own":
            return self._handed[:, first:last]
        rows = self._handed[None, first:last]
        if self.form.name == "entries":
            rows = unit_rows(rows, self.form.shape, self.form.dtype)
        return ops.broadcast_to(rows, (self.nb_samples, last - first, *self.form.shape))


def nominal_rows(reference: Any, rows: Any) -> tuple[Any, Any]:
    """Rows of the nominal value, and what float64 and underflow can have cost; (N, S) float64 each.

    Parameters
    ----------
    reference
        (N, *shape) float64.
    rows
        (N, S, *shape).
    """
    nb_terms = math.prod(reference.shape[1:])
    reference = ops.reshape(reference, (-1, nb_terms, 1))
    rows = ops.cast(ops.reshape(rows, (*ops.shape(rows)[:2], nb_terms)), "float64")
    nominal = ops.matmul(rows, reference)[..., 0]
    size = ops.matmul(ops.abs(rows), ops.abs(reference))[..., 0]
    return nominal, size * max(1e-12, relative_error(nb_terms + 8, "float64")) + UNDERFLOW
