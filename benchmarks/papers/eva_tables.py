"""Tables of EVA and of the methods that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from protocol.intervals import Mean, compare, holm, mean_interval
from protocol.networks import SEEDS
from protocol.pieces import Records
from protocol.records import Row, where
from protocol.tables import number, table, with_interval
from scipy.stats import rankdata

from papers.eva_methods import CONTROL, DEFAULT, GREEDY
from xcertify.commands.benchmark.bench import HIGHER_IS_BETTER, NAMED, OTHERS

RANDOM = ("Deletion, random", "Insertion, random", "MuFidelity, random", NAMED, OTHERS)
BLACK = ("Deletion, black", "Insertion, black", "MuFidelity, black")
HEADS = {NAMED: "Sr ↓", OTHERS: "complement ↑"}
TITLES = {"dense": "dense nets", "cnn": "CNNs", "colour": "CIFAR-10, CNN"}
# Table 1 of the paper: Deletion, Insertion, MuFidelity, Robustness-Sr; MNIST and CIFAR-10
PAPER = {
    "Saliency": ((0.193, 0.633, 0.378, 0.071), (0.171, 0.172, -0.021, 0.026)),
    "Gradient x input": ((0.222, 0.611, 0.107, 0.074), (0.200, 0.143, -0.018, 0.095)),
    "SmoothGrad": ((0.185, 0.621, 0.331, 0.070), (0.174, 0.181, 0.092, 0.048)),
    "Xplique VarGrad": ((0.207, 0.555, 0.216, 0.077), (0.183, 0.211, -0.012, 0.193)),
    "Integrated gradients": ((0.209, 0.615, 0.108, 0.074), (0.194, 0.171, -0.016, 0.154)),
    "Occlusion": ((0.247, 0.545, 0.137, 0.082), (0.217, 0.290, 0.105, 0.232)),
    "Grad-CAM": (None, (0.297, 0.282, 0.056, 0.195)),
    "Grad-CAM++": (None, (0.270, 0.326, 0.102, 0.094)),
    "RISE": ((0.248, 0.558, 0.133, 0.093), (0.196, 0.273, 0.157, 0.385)),
    "Greedy-AS": ((0.260, 0.497, 0.110, 0.061), (0.205, 0.264, -0.003, 0.013)),
    "EVA exact, as in the paper": ((0.089, 0.736, 0.428, 0.069), None),
    "EVA, crown": ((0.089, 0.736, 0.428, 0.069), (0.164, 0.290, 0.352, 0.025)),
}


class Scores(NamedTuple):
    """Scores (networks, images) of a method, the same first images of all networks."""

    setting: str
    ms: float
    seeds: tuple[int, ...]  # of the networks
    values: dict[str, np.ndarray]

    @property
    def nb_images(self) -> int:
        """Most images of a column, of each network."""
        return max(values.shape[1] for values in self.values.values())

    def beside(self, other: Scores, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Scores of both, of the networks and first images that both have."""
        seeds = sorted(set(self.seeds) & set(other.seeds))
        own, others = (
            scores.values[column][[scores.seeds.index(seed) for seed in seeds]]
            for scores in (self, other)
        )
        nb_images = min(own.shape[1], others.shape[1])
        return own[:, :nb_images], others[:, :nb_images]


def blocks_of_results(records: Records) -> dict[str, str]:
    """All blocks, of what is stored; a piece that was not run is said to be missing."""
    found = {
        "settings": settings_table(records),
        "tried-colour": tried_table(records, "colour"),
        "looseness-colour": looseness_table(records.rows("looseness-colour")),
        "paper": paper_table(records),
        "robustness": robustness_table(records.rows("robustness")),
    }
    for net in TITLES:
        found[f"fresh-{net}"] = fresh_tables(records, net)
        found[f"leaders-{net}"] = leaders(records, net)
        found[f"control-{net}"] = control_table(records, net)
        found[f"greedy-{net}"] = greedy_table(records, net)
        found[f"in-short-{net}"] = in_short(records, net)
        found[f"ideas-{net}"] = ideas_table(records.rows(f"ideas-{net}"))
        found[f"radii-{net}"] = radii_table(records.rows(f"radii-{net}"))
        found[f"cost-{net}"] = cost_table(records.rows(f"cost-{net}"))
    return found


# --- what is stored ------------------------------------------------------------------------------


def chosen(records: Records, net: str, columns: Sequence[str]) -> dict[str, str]:
    """Method -> the setting whose mean rank over columns is best on validation images."""
    best = {}
    rows = [row for row in records.rows(f"validation-{net}") if "scores" in row]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        ranks = np.zeros(len(own))
        for column in columns:
            values = np.array([row["scores"][column] for row in own])
            ranks += rankdata(-values if _higher(column) else values)
        best[method] = own[int(np.argmin(ranks))]["setting"]
    return best


def scores_of(records: Records, net: str, columns: Sequence[str]) -> dict[str, Scores]:
    """Method -> scores on fresh images of the setting that was chosen by these columns."""
    settings = chosen(records, net, columns)
    rows = [row for row in records.rows(f"fresh-{net}") if "scores" in row]
    found = {}
    for method, setting in settings.items():
        own = [row for row in rows if (row["method"], row["setting"]) == (method, setting)]
        if not own:
            continue
        values = {column: np.array([row["scores"][column] for row in own]) for column in columns}
        ms = float(np.mean([row["ms"] for row in own]))
        found[method] = Scores(setting, ms, tuple(row["seed"] for row in own), values)
    return found


def _higher(column: str) -> bool:
    return HIGHER_IS_BETTER[column.partition(", ")[0]]


def head(column: str) -> str:
    """Of a column of a table."""
    metric = column.partition(", ")[0]
    return HEADS.get(column) or f"{metric} {'↑' if _higher(column) else '↓'}"


# --- tables --------------------------------------------------------------------------------------


def by_baseline(random: str, black: str) -> str:
    """Two tables, as one of all columns is wider than a page."""
    return (
        f"A random image as baseline; *Sr* and *complement*: Robustness-Sr.\n\n{random}\n\n"
        f"A black image as baseline.\n\n{black}"
    )


def settings_table(records: Records) -> str:
    """What was chosen on validation images for the tables of both baselines, of how many."""
    picks = {
        f"{title}, {name}": chosen(records, net, columns)
        for net, title in TITLES.items()
        for name, columns in (("random", RANDOM), ("black", BLACK))
    }
    rows = [row for net in TITLES for row in records.rows(f"validation-{net}-")]
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        tried = {row["setting"] for row in rows if row["method"] == method}
        if tried != {"-"}:
            lines.append([method, *(of_net.get(method, "") for of_net in picks.values())])
    return table(["method", *picks], lines)


def tried_table(records: Records, net: str) -> str:
    """Scores of all settings of EVA and of its control on validation images."""
    rows = [row for row in records.rows(f"validation-{net}-eva") if "scores" in row]
    if not rows:
        return "*Not run yet.*"
    random, black = [], []
    for row in rows:
        about, scores = [row["method"], row["setting"], row["images"]], row["scores"]
        random.append([*about, *(number(scores[column]) for column in RANDOM)])
        black.append([*about, *(number(scores[column]) for column in BLACK), f"{row['ms']:,.0f}"])
    header = ["method", "setting", "images"]
    return by_baseline(
        table([*header, *map(head, RANDOM)], random),
        table([*header, *map(head, BLACK), "ms per image"], black),
    )


def looseness_table(rows: list[Row]) -> str:
    """Proved overlaps beside those that an attack attains."""
    if not rows:
        return "*Not run yet.*"
    lines = [
        [
            f"`{row['method']}`",
            f"{row['epsilon']:g}",
            row["images"],
            f"{row['proved']:.0%}",
            f"{row['overlap']:,.2f}",
            f"{row['attained']:,.2f}",
        ]
        for row in rows
    ]
    return table(["bounds", "ε", "images", "proved", "proved overlap", "attacked overlap"], lines)


def fresh_tables(records: Records, net: str) -> str:
    """All methods, with a table for each baseline."""
    names = records.names(f"fresh-{net}")
    if not names:
        return f"*{TITLES[net]}: not run yet.*"
    rows = records.rows(f"fresh-{net}")
    failed = {row["method"]: row["failed"] for row in rows if "failed" in row}
    accuracies = dict.fromkeys((row["seed"], row["accuracy"]) for row in rows)
    right = ", ".join(f"{accuracy:.1%}" for _, accuracy in accuracies)
    nb_wanted = 1 if net == "colour" else len(SEEDS)
    first, second = (scores_of(records, net, columns) for columns in (RANDOM, BLACK))
    black = _marked(second, BLACK)
    for line, found in zip(black, second.values()):
        line.append(_milliseconds(found.ms))
    lines = [[method, reason, *[""] * len(RANDOM)] for method, reason in failed.items()]
    both = by_baseline(
        table(["method", "images", *map(head, RANDOM)], [*_marked(first, RANDOM), *lines]),
        table(["method", "images", *map(head, BLACK), "ms per image"], black),
    )
    return (
        f"{both}\n\n*Networks measured: {len(accuracies)} of {nb_wanted}, {right} right. "
        f"The first piece: {where(records[names[0]])}.*"
    )


def _marks(scores: dict[str, Scores], columns: Sequence[str]) -> dict[tuple[str, str], str]:
    """(method, column) -> mark of the best, and of what a paired test does not tell from it."""
    most = max((len(s.seeds), s.nb_images) for s in scores.values())
    complete = [m for m, found in scores.items() if (len(found.seeds), found.nb_images) == most]
    marks: dict[tuple[str, str], str] = {}
    for column in columns:
        sign = -1 if _higher(column) else 1
        best = min(complete, key=lambda m, c=column, s=sign: s * scores[m].values[c].mean())
        others = [method for method in complete if method != best]
        tests = [compare(*scores[m].beside(scores[best], column)) for m in others]
        told = holm([test.p_value for test in tests])
        marks[best, column] = "**"
        marks |= {(m, column): "_" for m, different in zip(others, told) if not different}
    return marks


def leaders(records: Records, net: str) -> str:
    """The best method of each column, and those that are not told apart from it."""
    lines = []
    for columns in (RANDOM, BLACK):
        scores = scores_of(records, net, columns)
        if not scores:
            return "*Not run yet.*"
        marks = _marks(scores, columns)
        for column in columns:
            best = next(m for (m, c), mark in marks.items() if c == column and mark == "**")
            close = [m for (m, c), mark in marks.items() if c == column and mark == "_"]
            metric = f"{head(column)}{', black' if column in BLACK else ''}"
            lines.append([metric, best, "; ".join(close) or "-"])
    return table(["metric", "best", "not told apart from it"], lines)


def _marked(scores: dict[str, Scores], columns: Sequence[str]) -> list[list[str]]:
    """Lines of means with half of their intervals."""
    marks = _marks(scores, columns)
    lines = []
    for method, found in scores.items():
        line = [method, str(found.nb_images)]
        for column in columns:
            mean = mean_interval(found.values[column])
            mark = marks.get((method, column), "")
            half = number((mean.high - mean.low) / 2)
            line.append(f"{mark}{number(mean.mean)}{mark} ± {half}")
        lines.append(line)
    return lines


def control_table(records: Records, net: str) -> str:
    """EVA beside the control, which proves nothing: paired differences."""
    lines = []
    for columns in (RANDOM, BLACK):
        scores = scores_of(records, net, columns)
        for method in scores:
            if not method.startswith("EVA, ") or CONTROL not in scores:
                continue
            for column, test, verdict in differences(scores[method], scores[CONTROL]):
                pair = [v.mean() for v in scores[method].beside(scores[CONTROL], column)]
                metric = f"{head(column)}{', black' if column in BLACK else ''}"
                cells = [*map(number, pair), with_interval(test), verdict]
                lines.append([method, metric, *cells])
    header = ["method", "metric", "score", "control", "difference (95 % interval)", "EVA is"]
    return table(header, sorted(lines, key=lambda line: line[0])) if lines else "*Not run yet.*"


def differences(own: Scores, others: Scores) -> list[tuple[str, Mean, str]]:
    """Column, paired difference, and whether the first is better, worse, or not told apart.

    Holm's correction is over the columns.
    """
    columns = tuple(own.values)
    tests = [compare(*own.beside(others, column)) for column in columns]
    told = holm([test.p_value for test in tests])
    found = []
    for column, test, different in zip(columns, tests, told):
        better = (test.mean > 0) == _higher(column)
        verdict = ("better" if better else "worse") if different else "not told apart"
        found.append((column, test, verdict))
    return found


def in_short(records: Records, net: str) -> str:
    """Where EVA as it comes is better than the control at its best, and where not."""
    parts: dict[str, list[str]] = {"better": [], "not told apart": [], "worse": []}
    for columns in (RANDOM, BLACK):
        scores = scores_of(records, net, columns)
        if DEFAULT not in scores or CONTROL not in scores:
            return f"{TITLES[net]}: not run yet"
        for column, _, verdict in differences(scores[DEFAULT], scores[CONTROL]):
            name = HEADS.get(column, column.replace(", random", "")).rstrip(" ↑↓")
            parts[verdict].append(name.replace(", ", " "))
    said = [f"{verdict} in {', '.join(names)}" for verdict, names in parts.items() if names]
    return f"{TITLES[net]}: {'; '.join(said)}"


def greedy_table(records: Records, net: str) -> str:
    """All fast methods on the images that Greedy-AS explained."""
    scores = scores_of(records, net, RANDOM)
    there = [method for method in GREEDY if method in scores]
    if not there:
        return "*Not run yet.*"
    rivals = (scores[there[0]], scores[there[-1]])
    lines = []
    for method, found in scores.items():
        if not method.startswith(("EVA, ", "Control", "Greedy")):
            continue
        line = [method]
        for column, rival in zip((NAMED, OTHERS), rivals):
            values, theirs = found.beside(rival, column)
            line.append(with_interval(mean_interval(values)))
            line.append("" if method in GREEDY else with_interval(compare(values, theirs)))
        lines.append([*line, _milliseconds(found.ms)])
    nb_images = ", ".join(str(scores[method].nb_images) for method in there)
    header = ["method", "Sr ↓", "minus Greedy-AS", "complement ↑"]
    header += ["minus Greedy-AS of the complement", "ms per image"]
    said = f"{nb_images} images for each of {len(rivals[0].seeds)} networks."
    return f"{said}\n\n{table(header, lines)}"


def ideas_table(rows: list[Row]) -> str:
    """Other maps that bounds can make, with what each is more or less than EVA's, paired."""
    if not rows:
        return "*Not run yet.*"
    reference, *others = [row for row in rows if "scores" in row]
    columns = (*RANDOM, *BLACK)
    scores = {c: np.array(reference["scores"][c]) for c in columns}
    lines = [
        [reference["method"], reference["images"], *(number(v.mean()) for v in scores.values())]
    ]
    for row in others:
        tests = []
        for column in columns:
            own = np.array(row["scores"][column])
            tests.append(compare(own, scores[column][: len(own)]))
        told = holm([test.p_value for test in tests])
        cells = [f"**{t.mean:+.3f}**" if sure else f"{t.mean:+.3f}" for t, sure in zip(tests, told)]
        lines.append([row["method"], row["images"], *cells])
    lines += [
        [row["method"], row["failed"], *[""] * len(columns)] for row in rows if "failed" in row
    ]
    header, last = ["map", "images"], 2 + len(RANDOM)
    return by_baseline(
        table([*header, *map(head, RANDOM)], [line[:last] for line in lines]),
        table([*header, *map(head, BLACK)], [line[:2] + line[last:] for line in lines]),
    )


def radii_table(rows: list[Row]) -> str:
    """Shares of classes that are proved to be constant, and that an attack changes."""
    if not rows:
        return "*Not run yet.*"
    cells = [f"{row['proved']} / {row['changed']}" for row in rows]
    header = [f"of {rows[0]['images']}", *(f"ε {row['epsilon']:g}" for row in rows)]
    return table(header, [["proved / changed", *cells]])


def cost_table(rows: list[Row]) -> str:
    """What a map costs, and how tight its bounds are."""
    lines = []
    most = max((row.get("images", 0) for row in rows), default=0)
    for row in rows:
        line = [f"`{row['method']}`", row["mode"]]
        if "failed" in row:
            lines.append([*line, row["failed"], "", ""])
            continue
        few = "" if row["images"] == most else f" (of {row['images']})"
        passes = row["ms"] / row["forward"] / 1e3
        lines.append([*line, f"{row['overlap']:.2f}{few}", f"{row['ms']:.2f}", f"{passes:,.0f}"])
    header = ["bounds", "mode", "overlap", "ms per image", "forward passes"]
    return table(header, lines) if rows else "*Not run yet.*"


def robustness_table(rows: list[Row]) -> str:
    """Processor time of Robustness-Sr, at once and by loops."""
    lines = []
    for row in rows:
        first = next(iter(row["seconds"].values()))[1]
        cells = [f"{cpu:.1f} s, {cpu / first:.0f} times" for _, cpu in row["seconds"].values()]
        lines.append([row["restarts"], *cells])
    return table(["restarts", *rows[0]["seconds"]], lines) if rows else "*Not run yet.*"


def paper_table(records: Records) -> str:
    """Table 1 of the paper beside ours."""
    lines = []
    for place, net in ((0, "dense"), (1, "colour")):
        scores = scores_of(records, net, RANDOM)
        for method, told in PAPER.items():
            if told[place] is None:
                continue
            theirs = " / ".join(number(value) for value in told[place][:3])
            ours = "not measured"
            if method in scores:
                values = scores[method].values
                ours = " / ".join(number(values[column].mean()) for column in RANDOM[:3])
            lines.append(["MNIST" if place == 0 else "CIFAR-10", method, theirs, ours])
    return table(["data", "method", "paper", "here"], lines)


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"
