"""Draws the map of the house, and writes the table of its parts, from the imports themselves.

    python docs/generate_house.py

Floors are those of the contracts in `pyproject.toml`, which `lint-imports` checks.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import grimp
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "house.md"
PICTURE = ROOT / "docs" / "images" / "house.png"
START, END = "<!-- parts: generated -->", "<!-- /parts -->"
INK, PAPER, LINE = "#1f2a44", "#eef1f8", "#8a94b0"


def main() -> None:
    """Draw the picture and write the table."""
    graph = grimp.build_graph("xcertify")
    figure = Figure(figsize=(9, 9.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=[13, 7])
    draw(top, graph, "xcertify", "xcertify")
    draw(bottom, graph, "xcertify.bounds", "xcertify.bounds, the engine")
    figure.savefig(PICTURE, dpi=110)
    PAGE.write_text(page(graph))


def page(graph: grimp.ImportGraph) -> str:
    """The text of house.md."""
    before, rest = PAGE.read_text().split(START)
    return f"{before}{START}\n{table(graph)}\n{END}{rest.split(END)[1]}"


def floors(container: str) -> list[list[str]]:
    """Parts of a package from the top down, those of one floor beside each other."""
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (
        contract["layers"]
        for contract in stated["contracts"]
        if contract.get("containers") == [container]
    )
    place = ROOT / container.replace(".", "/")
    known = {path.stem for path in place.iterdir()}
    return [[part for part in re.findall(r"\w+", row) if part in known] for row in layers]


def imports(graph: grimp.ImportGraph, container: str) -> dict[str, list[str]]:
    """Which other parts of a package each of its parts imports, by name."""
    parts = [name for floor in floors(container) for name in floor]
    found: dict[str, list[str]] = {}
    for part in parts:
        inside = {f"{container}.{part}", *graph.find_descendants(f"{container}.{part}")}
        targets = {t for m in inside for t in graph.find_modules_directly_imported_by(m)}
        near = {t.removeprefix(f"{container}.").split(".")[0] for t in targets}
        found[part] = [other for other in parts if other in near and other != part]
    return found


def nearest(imported: dict[str, list[str]]) -> dict[str, list[str]]:
    """Imports that do not follow from others: a part that is imported over another is left out."""

    def reach(part: str) -> set[str]:
        return {part}.union(*(reach(other) for other in imported[part]))

    return {
        part: [one for one in others if not any(one in reach(o) for o in others if o != one)]
        for part, others in imported.items()
    }


def purpose(container: str, part: str) -> str:
    """The first sentence of a part's docstring."""
    place = ROOT / container.replace(".", "/") / part
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].split())
    return text.removeprefix(f"{part.capitalize()}: ").split("::")[0].rstrip(".")


def table(graph: grimp.ImportGraph) -> str:
    """What each part is for, and what it imports of the others."""
    lines = ["| part | what it is | imports |", "| --- | --- | --- |"]
    for container in ("xcertify", "xcertify.bounds"):
        prefix = "bounds/" if container.endswith("bounds") else ""
        below = imports(graph, container)
        for part in (name for floor in floors(container) for name in floor):
            near = ", ".join(f"`{other}`" for other in below[part]) or "nothing of the package"
            lines.append(f"| `{prefix}{part}` | {purpose(container, part)} | {near} |")
    return "\n".join(lines)


def draw(axes: Axes, graph: grimp.ImportGraph, container: str, title: str) -> None:
    """Floors as rows of boxes, and an arrow for every import that does not follow from others."""
    rows = floors(container)
    places = {part: place for y, row in enumerate(rows) for part, place in spread(row, y)}
    for part, others in nearest(imports(graph, container)).items():
        x, y = places[part]
        for other in others:
            end = places[other]
            bend = 0.12 if end[0] >= x else -0.12
            straight = abs(end[0] - x) < 0.01 and end[1] - y < 1.5
            axes.annotate(
                "",
                (end[0], end[1] - 0.28),
                (x, y + 0.28),
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": LINE,
                    "linewidth": 0.9,
                    "connectionstyle": f"arc3,rad={0 if straight else bend}",
                    "shrinkA": 0,
                    "shrinkB": 0,
                },
                zorder=1,
            )
    for part, (x, y) in places.items():
        axes.text(
            x,
            y,
            part,
            ha="center",
            va="center",
            fontsize=9,
            color=INK,
            bbox={"boxstyle": "round,pad=0.35", "facecolor": PAPER, "edgecolor": INK, "lw": 0.8},
            zorder=2,
        )
    axes.set(xlim=(-0.05, 1.05), ylim=(len(rows) - 0.4, -0.6))
    axes.set_title(title, color=INK, loc="left", fontsize=11)
    axes.set_axis_off()


def spread(row: Sequence[str], y: float) -> list[tuple[str, tuple[float, float]]]:
    """The parts of one floor at equal distances."""
    return [(part, ((i + 0.5) / len(row), y)) for i, part in enumerate(row)]


if __name__ == "__main__":
    main()
