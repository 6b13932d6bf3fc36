"""Tables in Markdown, and where they stand in the documentation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from protocol.intervals import Mean

DOCS = Path(__file__).parents[2] / "docs"
_MARKED = re.compile(r"<!-- reproduced: (\S+) -->(.*?)<!-- end of reproduced -->", re.DOTALL)


def table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def number(value: float, digits: int = 3) -> str:
    """A number with so many decimals, without the 0 before the point, or a dash for none."""
    if value is None or value != value:
        return "-"
    return f"{value:.{digits}f}"


def with_interval(found: Mean, digits: int = 3) -> str:
    """A mean, and in brackets the interval."""
    low, high = number(found.low, digits), number(found.high, digits)
    return f"{number(found.mean, digits)} ({low} to {high})"


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """A page whose marked places hold the blocks: whole lines if the mark stands on its own line.

    Raises
    ------
    KeyError
        For a place whose block nobody writes.
    """

    def fill(found: re.Match[str]) -> str:
        name = found[1]
        if name not in blocks:
            raise KeyError(f"no block {name!r}; there are: {', '.join(sorted(blocks))}")
        inside = f"\n\n{blocks[name].strip()}\n\n" if "\n" in found[2] else blocks[name].strip()
        return f"<!-- reproduced: {name} -->{inside}<!-- end of reproduced -->"

    return _MARKED.sub(fill, text)


def marked(text: str) -> list[str]:
    """The names of the blocks that a page asks for."""
    return [found[1] for found in _MARKED.finditer(text)]
