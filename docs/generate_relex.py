"""Fills the tables of relex.md about the start of masks from what the benchmark has stored.

python docs/generate_relex.py
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from relex_starts import FOLDER, PARTS, shown

PAGE = Path(__file__).with_name("relex.md")


def page() -> str:
    """The page, with what is stored between its marks."""
    text = PAGE.read_text()
    for part in PARTS:
        tables = shown(part, json.loads((FOLDER / f"{part}.json").read_text()))
        marked = re.compile(f"(<!-- {part} -->\n).*(<!-- end of {part} -->)", re.DOTALL)
        text = marked.sub(lambda found, new=tables: f"{found[1]}\n{new}\n{found[2]}", text)
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
