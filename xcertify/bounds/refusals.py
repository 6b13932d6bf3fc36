"""What a question to a network is refused for: regions, inputs, rows and radii that do not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from xcertify.regions import refuse_other_regions


def check_region(region: Any, shape: tuple[int, ...]) -> None:
    """Refuse what is no region of inputs of a shape."""
    refuse_other_regions(region)
    if region.shape != shape:
        raise ValueError(
            f"region must be around inputs of shape {shape}. "
            f"Received: inputs of shape {region.shape}"
        )
    if not len(region):
        raise ValueError("region must hold one input at least. Received: none")


def check_constants(
    constants: Sequence[Any], shapes: Sequence[tuple[int, ...]], types: Sequence[str]
) -> None:
    """Refuse values of the inputs that do not vary unless they fit these shapes and types.

    They have to be finite; of integer types whole numbers, and 0 or 1 of type bool.
    """
    given = [np.shape(constant) for constant in constants]
    if given != [*shapes]:
        raise ValueError(
            f"constants must hold the other inputs, of shapes {[*shapes]}. Received: {given}"
        )
    for number, constant in enumerate(constants):
        if not np.isfinite(constant).all():
            raise ValueError(
                f"constants must be finite. Received: NaN or infinite values in number {number}"
            )
        dtype, values = types[number], np.asarray(constant)
        fits = "float" in dtype or (values == np.floor(values)).all()
        if not fits or (dtype == "bool" and not np.isin(values, (0, 1)).all()):
            raise ValueError(
                f"constants of the type {dtype} must be {'0 or 1' * (dtype == 'bool')}"
                f"{'whole numbers' * (dtype != 'bool')}. Received: others in number {number}"
            )


def check_rows(rows: Any, nb_samples: int, size: int, dtype: str) -> Any:
    """Rows (S, size) or (N, S, size) that a type can hold, as arrays; or made as they are needed.

    Raises
    ------
    ValueError
        If they do not fit, are not finite, or are not exact in the type.
    """
    is_array = not getattr(rows, "made_when_needed", False)
    if is_array:
        rows = np.asarray(rows)
    fits = rows.ndim == 2 or (rows.ndim == 3 and len(rows) == nb_samples)
    if not fits or rows.shape[-1] != size:
        raise ValueError(
            f"rows must have the shape (S, {size}) or ({nb_samples}, S, {size}). "
            f"Received: {rows.shape}"
        )
    for block in _blocks(rows) if is_array else ():
        if not np.isfinite(block).all():
            raise ValueError("rows must be finite. Received: NaN or infinite coefficients")
        if (block.astype(dtype) != block).any():
            raise ValueError(
                f"rows must be exact in {dtype}, since the bounds hold for the numbers "
                f"used. Round them first, rows.astype('{dtype}'), or use dtype='float64'"
            )
    return rows


def check_property(
    rows: Any, limits: Any, nb_samples: int, size: int, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, P, J, size) and limits (N, P, J) of a property, each given for all N or for each.

    Raises
    ------
    ValueError
        If they do not fit each other or the outputs, or rows are not exact in the type.
    """
    rows, limits = np.asarray(rows), np.asarray(limits, np.float64)
    if rows.ndim not in (3, 4) or rows.shape[-1] != size or 0 in rows.shape[-3:]:
        raise ValueError(
            f"rows must have the shape (P, J, {size}) or ({nb_samples}, P, J, {size}). "
            f"Received: {rows.shape}"
        )
    shape = (nb_samples, *rows.shape[-3:-1])
    if limits.shape not in (shape, shape[1:]):
        raise ValueError(
            f"limits must have the shape {shape[1:]} or {shape}, for rows of shape {rows.shape}. "
            f"Received: {limits.shape}"
        )
    if np.isnan(limits).any():
        raise ValueError("limits must be numbers, or inf or -inf. Received: NaN")
    check_rows(
        rows.reshape(-1, rows.shape[-2], size), rows.size // size // rows.shape[-2], size, dtype
    )
    if rows.ndim == 4 and len(rows) != nb_samples:
        raise ValueError(
            f"rows must hold one property for each of the {nb_samples} regions, or one for all. "
            f"Received: {rows.shape}"
        )
    return np.broadcast_to(rows, (*shape, size)), np.broadcast_to(limits, shape)


def label_rows(
    labels: Any, nb_samples: int, output_shape: tuple[int, ...], dtype: str
) -> np.ndarray:
    """Rows (N, 1, K) that are subtracted from the probabilities in the gradient of the loss.

    One-hot rows of the labels (N,), or for a single logit the labels 0 and 1 themselves.
    """
    labels = np.asarray(labels)
    if len(output_shape) != 1:
        raise ValueError(
            f"labels need a model with one row of logits. Received: outputs of shape {output_shape}"
        )
    (nb_outputs,) = output_shape
    nb_classes = max(nb_outputs, 2)
    fits = labels.shape == (nb_samples,) and labels.dtype.kind in "iu"
    if not fits or (labels < 0).any() or (labels >= nb_classes).any():
        raise ValueError(
            f"labels must be {nb_samples} integers from 0 to {nb_classes - 1}. "
            f"Received: {labels.dtype} of shape {labels.shape}"
        )
    if nb_outputs == 1:
        return labels.astype(dtype)[:, None, None]
    return np.eye(nb_classes, dtype=dtype)[labels][:, None]


def weight_radii(gamma: Any, bias_radius: Any, nb_samples: int) -> list[np.ndarray]:
    """Radii of weights and, if they have their own, of biases, (N,) each; none if nothing varies.

    Raises
    ------
    ValueError
        If they are negative, or not one for all or one for each sample.
    """
    radii = []
    for name, value in (("gamma", gamma), ("bias_radius", bias_radius)):
        if value is None:
            continue
        value = np.asarray(value, dtype="float64")
        if value.shape not in ((), (nb_samples,)) or not (value >= 0).all():
            raise ValueError(
                f"{name} must be a number or {nb_samples} of them, at least 0. "
                f"Received: {value.tolist()}"
            )
        radii.append(np.broadcast_to(value, (nb_samples,)))
    return radii if any(radius.any() for radius in radii) else []


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows some at a time, so that what is computed of them takes little memory."""
    step = max(1, 2**18 // max(1, rows[:1].size))
    return (rows[first : first + step] for first in range(0, len(rows), step))
