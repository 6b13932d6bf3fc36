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
HEADS = {NAMED: "Sr ↓", OTHERS: "complement ↑"}  # of columns in tables; others: the metric
DIGITS = 3  # of the scores in a table


def explainer_tables(results: dict[str, Results], times: dict[str, Times], nb_images: int) -> str:
    """Mean scores of the first images, a line for each explainer; a table for each baseline.

    Robustness-Sr, which has no baseline, stands in the first table, the times in the second.

    Parameters
    ----------
    results, times
        By name of the explainer; one that refused the network has no results.
    """
    random, black = ([f"{m}, {baseline}" for m in WITH_BASELINES] for baseline in BASELINES)
    first = _scores(results, times, nb_images, [*random, NAMED, OTHERS])
    second = _scores(results, times, nb_images, black)
    for cells, (name, taken) in zip(second[1:], times.items()):
        cells.append(_milliseconds(taken.per_image) if name in results else "")
    second[0].append("ms per image")
    return (
        f"A random image as baseline; *Sr* and *complement*: Robustness-Sr.\n\n"
        f"{markdown(first[0], first[1:])}\n"
        f"A black image as baseline, and times.\n\n"
        f"{markdown(second[0], second[1:])}"
    )


def _scores(
    results: dict[str, Results], times: dict[str, Times], nb_images: int, columns: Sequence[str]
) -> list[list[str]]:
    """Cells of a table: the heads, then a line for each explainer."""
    means = {
        name: [float(found[column].scores[:nb_images].mean()) for column in columns]
        for name, found in results.items()
    }
    complete = [name for name in means if times[name].nb_images >= nb_images]
    best = _best_two(columns, [means[name] for name in complete])
    lines = [["method", "images", *(_head(column) for column in columns)]]
    for name, (nb_explained, _, note) in times.items():
        if name not in means:
            lines.append([name, note, *[""] * len(columns)])
            continue
        cells = []
        for value, marks in zip(means[name], best):
            mark = marks.get(round(value, DIGITS), "") if name in complete else ""
            cells.append(f"{mark}{value:.{DIGITS}f}{mark}")
        lines.append([name, str(min(nb_explained, nb_images)), *cells])
    return lines


def _head(column: str) -> str:
    metric = column.partition(", ")[0]
    return HEADS.get(column) or f"{metric} {'↑' if HIGHER_IS_BETTER[metric] else '↓'}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}" if seconds < 0.1 else f"{seconds * 1e3:,.0f}"


def _best_two(columns: Sequence[str], means: Sequence[Sequence[float]]) -> list[dict[float, str]]:
    """For each column, the marks of the best and the second best value, as shown."""
    best = []
    for place, column in enumerate(columns):
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
