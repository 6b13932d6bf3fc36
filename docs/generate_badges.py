"""Draws the badges of the README and of the home page, from what `setup.py` says.

    python docs/generate_badges.py

They are files, so that no page asks a server for them.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
HEIGHT, LETTER, SPACE = 20, 6.1, 7  # pixels; a letter on average, and beside a text
SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img">
<title>{name}: {value}</title>
<rect width="{width}" height="{height}" rx="3" fill="#3f51b5"/>
<path d="M3 0h{left}v{height}H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z" fill="#444"/>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{space}" y="14" textLength="{name_length}">{name}</text>
<text x="{middle}" y="14" textLength="{value_length}">{value}</text>
</g>
</svg>
"""


def badges() -> dict[str, str]:
    """What stands on each badge, by its name."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    package = (ROOT / "xcertify" / "__init__.py").read_text(encoding="utf-8")

    def found(pattern: str, text: str = setup) -> str:
        return re.search(pattern, text)[1]

    return {
        "version": found('__version__ = "(.+)"', package),
        "licence": found('license="(.+)"'),
        "python": _versions(found('python_requires="(.+)"')),
        "tensorflow": _versions(found('"tensorflow(>=.+)"')),
        "keras": _versions(found('"keras(>=.+)"')),
    }


def _versions(limits: str) -> str:
    """Of ">=3.10,<3.14": "3.10 to 3.13"; of ">=3.10,<4", which has no last minor: "3.10+"."""
    first, last = re.fullmatch(r">=([\d.]+),<([\d.]+)", limits).groups()
    major, _, minor = last.partition(".")
    return f"{first} to {major}.{int(minor) - 1}" if minor else f"{first}+"


def draw(name: str, value: str) -> str:
    """A badge as SVG."""
    lengths = round(LETTER * len(name)), round(LETTER * len(value))
    left = lengths[0] + 2 * SPACE
    return SVG.format(
        name=name,
        value=value,
        height=HEIGHT,
        width=left + lengths[1] + 2 * SPACE,
        left=left - 3,
        middle=left + SPACE,
        space=SPACE,
        name_length=lengths[0],
        value_length=lengths[1],
    )


if __name__ == "__main__":
    for each, text in badges().items():
        (IMAGES / f"badge-{each}.svg").write_text(draw(each, text), encoding="utf-8")
