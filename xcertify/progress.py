"""Progress bars, which also say when what they wait for is the compilation of a graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

_INNERMOST: ContextVar[tqdm | None] = ContextVar("innermost progress bar", default=None)


@contextmanager
def progress_bar(
    total: int | None = None, unit: str = "input", name: str | None = None, *, verbose: bool = True
) -> Iterator[tqdm]:
    """A bar of tqdm that is shown if `verbose`, and taken by `compiling` to say what it does.

    Parameters
    ----------
    total, unit, name
        As `total`, `unit` and `desc` of tqdm.
    verbose
        Whether it is shown.
    """
    outer = _INNERMOST.get()
    with tqdm(total=total, unit=unit, desc=name, disable=not verbose) as bar:
        _INNERMOST.set(bar if verbose else outer)
        try:
            yield bar
        finally:
            _INNERMOST.set(outer)


@contextmanager
def compiling(is_first: bool = True) -> Iterator[None]:
    """Say behind the bar that is shown, if there is one, that a graph is being compiled."""
    bar = _INNERMOST.get() if is_first else None
    if bar is None:
        yield
        return
    before: Any = bar.postfix
    bar.set_postfix_str("compiling a graph")
    try:
        yield
    finally:
        bar.set_postfix_str(before or "")
