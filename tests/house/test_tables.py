"""Tables of the documentation: they fit into a page, and their columns can be told apart."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
PAGE, LETTER, BORDER = 938, 7, 32  # pixels at a window of 1,280, in the style of the site


def without_code(path):
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def tables(text):
    """Rows of cells, the heads first; the line below the heads is left out."""
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        heads, _, *others = block.splitlines()
        yield [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]
            for line in (heads, *others)
        ]


def longest_word(cell):
    """Letters of what is not broken: a word, or code. A link counts as its text."""
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"\$[^$]*\$", "formula", cell))
    return max(map(len, re.findall(r"`[^`]*`|\S+", shown)), default=0)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_tables_fit(path):
    for heads, *rows in tables(without_code(path)):
        assert all(len(row) == len(heads) for row in rows), heads
        assert len(set(heads)) == len(heads), f"heads that are alike: {heads}"
        words = [max(map(longest_word, column)) for column in zip(heads, *rows)]
        width = sum(LETTER * letters + BORDER for letters in words)
        assert width <= PAGE, f"{width} pixels, split it: {heads}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_formulas_are_no_code(path):
    """Indented lines are code on the page; formulas stand between dollars."""
    lines = without_code(path).splitlines()
    for before, line in zip(lines, lines[1:]):
        indented = line.startswith("    ") and not re.match(r"\s+([-*]|\d+\.) ", line)
        assert not (indented and not before.strip()), f"a block of code without a fence: {line}"
