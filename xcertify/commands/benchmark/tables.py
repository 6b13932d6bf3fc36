"""What is written: tables in Markdown, raw values as CSV, and the curves that are drawn."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from xcertify.commands.benchmark.bench import (
    BASELINES,
    HIGHER_IS_BETTER,
    NAMED,
    OTHERS,
    Results,
    Times,
)

RAW_COLUMNS = ("data", "model", "method", "image", "metric", "baseline", "value")
WITH_BASELINES = ("Deletion", "Insertion", "MuFidelity")
COLUMNS = (*(f"{metric}, {b}" for metric in WITH_BASELINES for b in BASELINES), NAMED, OTHERS)
DIGITS = 3  # of the scores in a table


def explainer_table(results: dict[str, Results], times: dict[str, Times], nb_images: int) -> str:
    """Mean scores of the first images, a line for each explainer.

    Parameters
    ----------
    results, times
        By name of the explainer; one that refused the network has no results.
    """
    header = ["method", "images"]
    for metric in WITH_BASELINES:
        header += [f"{metric} {'↑' if HIGHER_IS_BETTER[metric] else '↓'} random", "black"]
    header += ["Rob. Sr ↓", "complement ↑", "ms per image", "s per 500"]
    means = {
        name: [float(found[column].scores[:nb_images].mean()) for column in COLUMNS]
        for name, found in results.items()
    }
    complete = [name for name in means if times[name].nb_images >= nb_images]
    best = _best_two([means[name] for name in complete])
    lines = []
    for name, (nb_explained, per_image, note) in times.items():
        if name not in means:
            lines.append([name, note, *[""] * (len(header) - 2)])
            continue
        cells = []
        for value, marks in zip(means[name], best):
            mark = marks.get(round(value, DIGITS), "") if name in complete else ""
            cells.append(f"{mark}{value:.{DIGITS}f}{mark}")
        seconds = [f"{per_image * 1e3:.2f}", f"{per_image * 500:.2f}"]
        lines.append([name, str(min(nb_explained, nb_images)), *cells, *seconds])
    return markdown(header, lines)


def _best_two(means: Sequence[Sequence[float]]) -> list[dict[float, str]]:
    """For each of `COLUMNS`, the marks of the best and the second best value, as shown."""
    best = []
    for place, column in enumerate(COLUMNS):
        shown = {round(of_explainer[place], DIGITS) for of_explainer in means}
        order = sorted(shown, reverse=HIGHER_IS_BETTER[column.partition(", ")[0]])
        best.append(dict(zip(order, ("**", "_"))))
    return best


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def raw_rows(results: Results, times: Times) -> Iterator[tuple[int, str, str, str]]:
    """Image, metric, baseline and value of everything that was measured of an explainer."""
    for name, result in results.items():
        metric, _, baseline = name.partition(", ")
        for image, value in enumerate(result.scores):
            yield image, metric, baseline, f"{value:.6g}"
    for image in range(times.nb_images):
        yield image, "seconds", "", f"{times.per_image:.6g}"


def write_csv(path: Path, rows: Sequence[tuple]) -> None:
    """All rows under `RAW_COLUMNS`."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(RAW_COLUMNS)
        writer.writerows(rows)


def curves_of(results: dict[str, Results], nb_images: int) -> dict[str, Results]:
    """Panel -> explainer -> result, of the first of each family that explained all images."""
    families: dict[str, str] = {}
    for name, found in results.items():
        if len(found[NAMED].scores) == nb_images and not name.startswith("Xplique"):
            families.setdefault(name.split(",")[0], name)
    panels = [f"{metric}, {b}" for b in BASELINES for metric in ("Deletion", "Insertion")]
    panels += [NAMED, OTHERS]
    return {panel: {name: results[name][panel] for name in families.values()} for panel in panels}
