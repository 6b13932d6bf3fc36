"""Which versions the tests were run with, as nox has stored it."""

from __future__ import annotations

from pathlib import Path

from protocol.records import read
from protocol.tables import table

OF = ["Python", "TensorFlow", "Keras", "NumPy"]
FOUND = ["passed", "failed", "skipped", "tests", "commit"]


def versions_table(folder: Path) -> str:
    """A line for each environment: what passed, of which tests; below, what these are."""
    records = [read(path) for path in folder.glob("*.json")]
    if not records:
        return "*Not run yet.*"
    sets = sorted({found["of"] for found in records}, key=len)
    letters = dict(zip(sets, "ABCDEFGH"))
    lines = []
    for found in sorted(records, key=_order):
        wrong = found["failures"] + found["errors"]
        passed = found["tests"] - wrong - found["skipped"]
        cells = [found[name] for name in map(str.lower, OF)]
        cells += [passed, wrong, found["skipped"], letters[found["of"]], found["commit"]]
        lines.append(cells)
    what = [f"- {letter}: {_in_words(of)}" for of, letter in letters.items()]
    return "\n".join([table([*OF, *FOUND], lines), "", *what])


def _order(found: dict) -> list[tuple[int, ...]]:
    """By the versions, as numbers."""
    return [tuple(map(int, found[name.lower()].split("."))) for name in OF]


def _in_words(of: str) -> str:
    return "the whole suite" if of == "all" else ", ".join(f"`{word}`" for word in of.split())
