"""Writes statistical-results.md from what the benchmark of certificates from samples has stored.

python docs/generate_statistical.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from statistical import FOLDER, PARTS, module_of, shown

PAGE = Path(__file__).with_name("statistical-results.md")
HEAD = """# Certificates from samples, measured

What [certificates from samples](statistical.md) are worth and what they cost. Each part is stored
in `benchmarks/results/statistical` by the command below its tables, and this page is written from
there by `python docs/generate_statistical.py`.
"""


def page() -> str:
    """The page, of all parts that are stored."""
    parts = [HEAD]
    for part in PARTS:
        path = FOLDER / f"{part}.json"
        if path.exists():
            tables = shown(part, json.loads(path.read_text())).partition("\n\n")[2]
            title = (module_of(part).__doc__ or part).split("\n\n")[0].rstrip(".")
            heading = " ".join(title.split())
            parts.append(f"## {heading}\n\n{tables}")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
