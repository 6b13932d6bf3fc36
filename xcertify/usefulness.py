"""How useful bounds are: many times wider than anything attains, they say nothing."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

__all__ = ["VacuousWarning", "times_wider"]

VACUOUS = 100.0  # times as wide as what is attained; the page on limits shows what maps are worth


class VacuousWarning(UserWarning):
    """Bounds are true and say nothing: they are far wider than what samples and attacks attain.

    A map that is made of such bounds tells more of how the bounds lose than of the model. The
    message says how much wider they are and what to try. ``warnings.simplefilter("error",
    VacuousWarning)`` makes an error of it, ``"ignore"`` silences it.
    """


def times_wider(proved: Any, attained: Any, rounding: Any = 0.0) -> np.ndarray:
    """How many times larger proved changes are than attained ones, (N,) float64.

    Parameters
    ----------
    proved, attained
        (N,) each, of at least 0; what is proved holds what is attained.
    rounding
        A number, or (N,): how far from each other both may be and count as equal.

    Returns
    -------
    ratio
        1 where both are equal, but for roundings; inf where nothing is proved, or no change
        is attained; NaN where one of both is not known (NaN).
    """
    proved, attained = np.asarray(proved, np.float64), np.asarray(attained, np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.where(np.isinf(proved), np.inf, proved / attained)
    unknown = np.isnan(proved) | np.isnan(attained)
    return np.where(unknown, np.nan, np.where(proved <= attained + rounding, 1.0, ratio))


_SEEKS: ContextVar[bool] = ContextVar("whether a cure is sought", default=True)


@contextmanager
def without_seeking() -> Iterator[None]:
    """Warnings within name no epsilon that would help: to find one takes a while."""
    token = _SEEKS.set(False)
    try:
        yield
    finally:
        _SEEKS.reset(token)


def seeks_cures() -> bool:
    """Whether a warning should look for an epsilon that would help."""
    return _SEEKS.get()


def warn_vacuous(message: str) -> None:
    """Warn of vacuous bounds at the line that called this package."""
    depth, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("xcertify."):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, VacuousWarning, stacklevel=depth)
