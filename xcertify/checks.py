"""Checks of arguments that many objects share; their errors name the argument."""

from __future__ import annotations

import math
from typing import Any


def whole_number(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """`value` as an int from `least` to `most`, or a ValueError that names it."""
    if not _is_whole(value, least) or (most is not None and value > most):
        span = "above 0" if least == 1 else f"of at least {least}"
        span = span if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {span}. Received: {value!r}")
    return int(value)


def positive(name: str, value: Any, *, or_zero: bool = False) -> Any:
    """`value`, a finite number above 0 (or 0), or a ValueError that names it."""
    try:
        fits = 0 < value < math.inf or (or_zero and value == 0)
    except (TypeError, ValueError):
        fits = False
    if not fits or isinstance(value, bool):
        span = "of at least 0" if or_zero else "above 0"
        raise ValueError(f"{name} must be a number {span}. Received: {value!r}")
    return value


def whole_numbers(name: str, value: Any) -> tuple[int, int]:
    """Rows and columns from one number for both, or a pair of them.

    Raises
    ------
    ValueError
        Naming the argument, for anything else.
    """
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or not all(map(_is_whole, both)):
        raise ValueError(
            f"{name} must be a whole number above 0, or a pair of them, (rows, columns). "
            f"Received: {value!r}"
        )
    return int(both[0]), int(both[1])


def one_number(name: str, value: Any, what: str) -> int:
    """`value` where two sides make no sense: a number, or a pair of the same one twice."""
    first, second = whole_numbers(name, value)
    if first != second:
        raise ValueError(
            f"{name} must be one number for {what}, which have a single axis to be cut. "
            f"Received: {value!r}"
        )
    return first


def nb_at_once(batch_size: int | None) -> int:
    """The batch size as a number, None being as large as can be.

    Raises
    ------
    ValueError
        For anything but None and whole numbers of at least 1.
    """
    if batch_size is None:
        return 2**31 - 1
    if not _is_whole(batch_size):
        raise ValueError(
            f"batch_size must be a whole number of at least 1, or None for everything at once. "
            f"Received: {batch_size!r}"
        )
    return int(batch_size)


def _is_whole(value: Any, least: int = 1) -> bool:
    try:
        return not isinstance(value, (bool, str)) and int(value) == value and value >= least
    except (TypeError, ValueError, OverflowError):
        return False
