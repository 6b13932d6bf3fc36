"""Tables of AttributionBound, from what is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
from protocol.intervals import Mean, mean_interval
from protocol.pieces import Records
from protocol.records import Row
from protocol.tables import table

TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
MISSING = "not measured yet"

# The paper's own figures: (data set, training) -> cells. Table 3, with l2 radii 0.05, 0.05, 0.1.
TABLE_3 = {
    ("mnist", "AT"): ("0.0685", "0.1537 [2.25 %]", "0.1596", "3.69", "7.10"),
    ("mnist", "TRADES"): ("0.1620", "0.5060 [1.68 %]", "0.5271", "2.84", "7.00"),
    ("fashion_mnist", "AT"): ("0.0659", "0.0700 [2.19 %]", "0.0869", "10.14", "12.96"),
    ("fashion_mnist", "TRADES"): ("0.0626", "0.0963 [4.16 %]", "0.1184", "8.35", "12.10"),
    ("cifar10", "AT"): ("0.0392", "0.2532 [0.09 %]", "0.2533", "2.73", "4.77"),
    ("cifar10", "TRADES"): ("0.0264", "0.1734 [0.16 %]", "0.1734", "1.91", "3.87"),
}
# Table 4, with l_inf radii 0.05, 0.05, 0.1.
TABLE_4 = {
    ("mnist", "AT"): ("0.185", "0.346", "0.775", "15.4", "38.7"),
    ("mnist", "TRADES"): ("0.213", "1.178", "2.222", "16.0", "33.5"),
    ("fashion_mnist", "AT"): ("0.152", "0.099", "0.280", "19.0", "55.2"),
    ("fashion_mnist", "TRADES"): ("0.258", "0.104", "0.454", "13.7", "51.6"),
    ("cifar10", "AT"): ("0.558", "0.406", "0.765", "26.6", "45.3"),
    ("cifar10", "TRADES"): ("0.690", "0.232", "0.500", "23.0", "36.4"),
}
# Table 2, l2 radius 0.1, TRADES + IGR on CIFAR-10.
TABLE_2 = {
    "saliency": ("0.09", "0.31", "0.34", "6.88", "7.41"),
    "gradient_input": ("0.07", "0.46", "0.46", "0.51", "2.60"),
    "integrated_gradients": ("0.02", "0.17", "0.17", "1.80", "3.84"),
}
# Table 5: least gaps by radius.
TABLE_5 = {
    ("mnist", "2"): {0.05: (0.0260, 0.0014), 0.1: (0.0320, 0.0032), 0.2: (0.0140, 0.0104)},
    ("fashion_mnist", "2"): {0.05: (0.0078, 0.0037), 0.1: (0.0130, 0.0082), 0.2: (0.1207, 0.0723)},
    ("cifar10", "2"): {0.1: (0.0004, 0.0028), 0.2: (0.0045, 0.0048), 0.3: (0.0134, 0.0147)},
    ("mnist", "inf"): {0.05: (0.0117, 0.0026)},
    ("fashion_mnist", "inf"): {0.05: (0.0708, 0.0634)},
    ("cifar10", "inf"): {4 / 255: (0.0025, 0.0068), 0.1: (0.1381, 0.0530)},
}


def blocks(records: Records) -> dict[str, str]:
    """What the documentation shows."""
    deviations = {
        name: {kind: records.rows(f"{name}-{kind}-") for kind in ("l2", "linf", "attributions")}
        for name in TITLES
    }
    found = {"accuracy": accuracies(deviations)}
    for name, of_kind in deviations.items():
        for kind, rows in of_kind.items():
            found[f"{kind}-{name}"] = distances(rows)
            rows[:] = [row for row in rows if "failed" not in row]
            found[f"{kind}-{name}-angles"] = turned(rows)
    return found | {
        "totals": totals(deviations),
        "in-short": in_short(deviations),
        "steps": linf_steps(deviations),
        "unproved": unproved(deviations),
        "proofs": proofs(records.rows("proofs-")),
        "copies": copies(records.rows("copies-")),
        "cost": cost(records.rows("cost")),
        "memory": memory(records.rows("cost")),
        "paper-2": paper_2(deviations),
        "paper-3": beside(deviations, "l2", TABLE_3),
        "paper-4": beside(deviations, "linf", TABLE_4),
        "paper-5": paper_5(deviations),
    }


# --- deviations ---------------------------------------------------------------------------------


def shown(found: Mean) -> str:
    """A mean with three digits, and its interval."""
    if found.low != found.low:
        return f"{found.mean:.3g}"
    return f"{found.mean:.3g} ({found.low:.3g} to {found.high:.3g})"


def mean(rows: Sequence[Row], name: str) -> str:
    """Of a list of each network: over networks and images, with the interval."""
    return shown(mean_interval(np.array([row[name] for row in rows], float)))


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of the same question, one for each network, in the order of the first network."""
    first = {}
    for row in rows:
        key = row["data"], row["training"], row["attribution"], row["epsilon"]
        first.setdefault(key, []).append(row)
    return list(first.values())


def titled(row: Row) -> list[str]:
    """The network, or for Table 2 the attribution, and the radius."""
    epsilon = "4/255" if abs(row["epsilon"] - 4 / 255) < 1e-9 else f"{row['epsilon']:g}"
    return [row["training"], epsilon]


def share(rows: Sequence[Row], name: str) -> str:
    """How many attacked samples are so, of how many."""
    nb, nb_all = count(rows, name), attacked(rows)
    return f"{nb:,} of {nb_all:,} ({nb / nb_all:.2%})".replace("%", " %")


def count(rows: Sequence[Row], name: str) -> int:
    """The sum of a count of each image."""
    return int(sum(np.sum(row[name]) for row in rows))


def attacked(rows: Sequence[Row]) -> int:
    """The number of attacked samples."""
    return sum(row["attacks"] * len(row["mean"]) for row in rows)


def least_gap(rows: Sequence[Row]) -> float:
    """The least of c T_e minus the deviation."""
    return min(min(row["gap"]) for row in rows)


def median_angle(rows: Sequence[Row]) -> str:
    """The median of T_c, and how often any direction is possible."""
    angles = np.concatenate([row["angle_estimate"] for row in rows])
    vacuous, median = (angles > 90).mean(), np.median(angles)
    share_of_any = f" (any: {100 * vacuous:.0f} %)" if vacuous else ""
    return ("-" if median > 90 else f"{median:.3g}") + share_of_any


def name_of(rows: Sequence[Row]) -> str:
    """How the table is read: by network, or by attribution."""
    return "attribution" if len({row["attribution"] for row in rows}) > 1 else "training"


def distances(rows: Sequence[Row]) -> str:
    """Euclidean distances beside the estimates."""
    if not rows:
        return MISSING
    header = (
        name_of(rows),
        "radius",
        "mean",
        "worst",
        "T_e",
        "beyond T_e",
        "c T_e",
        "beyond c T_e",
        "least gap",
    )
    lines = []
    for some in grouped(rows):
        title = [some[0][name_of(rows)], titled(some[0])[1]]
        failures = {f"failed: {row['failed']}": None for row in some if "failed" in row}
        if failures:
            lines.append([*title, "; ".join(failures), *[""] * (len(header) - 3)])
        some = [row for row in some if "failed" not in row]
        if not some:
            continue
        lines.append(
            [
                *title,
                mean(some, "mean"),
                mean(some, "worst"),
                mean(some, "estimate"),
                share(some, "beyond"),
                mean(some, "adapted"),
                f"**{share(some, 'beyond_adapted')}**"
                if count(some, "beyond_adapted")
                else share(some, "beyond_adapted"),
                f"{least_gap(some):.2g}",
            ]
        )
    return f"{sizes(rows)}\n\n{table(header, lines)}"


def sizes(rows: Sequence[Row]) -> str:
    """How many networks, images and attacks a table is of."""
    rows = [row for row in rows if "failed" not in row]
    if not rows:
        return "None was measured."
    nb_networks, nb_images = len({row["seed"] for row in rows}), len(rows[0]["mean"])
    networks = f"{nb_networks} network{'s' * (nb_networks > 1)} of each training"
    images = f"{nb_images} image{'s' * (nb_images > 1)}"
    return f"{networks}, {images}, {rows[0]['attacks']} attacks of each image."


def turned(rows: Sequence[Row]) -> str:
    """Angles, and how many attacked samples kept the class."""
    if not rows:
        return MISSING
    header = (
        name_of(rows),
        "radius",
        "mean angle",
        "T_c, median",
        "class kept",
        "of these beyond T_e",
        "and beyond c T_e",
        "a worst step keeps the class",
    )
    lines = []
    for some in grouped(rows):
        attained = np.mean([row["attained"] for row in some])
        lines.append(
            [
                some[0][name_of(rows)],
                titled(some[0])[1],
                mean(some, "angle"),
                median_angle(some),
                f"{count(some, 'kept') / attacked(some):.1%}".replace("%", " %"),
                f"{count(some, 'beyond_kept'):,}",
                f"{count(some, 'beyond_adapted_kept'):,}",
                f"{attained:.0%}".replace("%", " %"),
            ]
        )
    return table(header, lines)


def linf_steps(deviations: dict[str, dict[str, list[Row]]]) -> str:
    """Kendall's correlation, and T_e beside Corollary 1, Theorem 2 and what is reached."""
    header = (
        "data",
        "training",
        "radius",
        "Kendall's correlation",
        "T_e / Cor. 1",
        "T_e / Thm. 2",
        "beyond both",
        "reached / T_e",
        "P",
    )
    lines = []
    for name, of_kind in deviations.items():
        for some in grouped(of_kind["linf"]):
            ratios = {
                other: np.array(
                    [np.divide(row["estimate"][: len(row[other])], row[other]) for row in some]
                )
                for other in ("corollary", "theorem", "reached")
            }
            lines.append(
                [
                    TITLES[name],
                    *titled(some[0]),
                    mean(some, "kendall"),
                    shown(mean_interval(ratios["corollary"])),
                    shown(mean_interval(ratios["theorem"]))
                    if ratios["theorem"].size > 2
                    else f"{ratios['theorem'].mean():.3g}",
                    beyond_both(some),
                    shown(mean_interval(1 / ratios["reached"])),
                    "whole" if some[0]["whole"] else "products",
                ]
            )
    return table(header, lines) if lines else MISSING


def beyond_both(rows: Sequence[Row]) -> str:
    """Images whose worst attack is beyond the lesser of Corollary 1 and Theorem 2."""
    nb, nb_all = 0, 0
    for row in rows:
        known = slice(0, len(row["theorem"]))
        limits = np.minimum(row["corollary"][known], row["theorem"])
        nb += int((np.asarray(row["worst"][known]) > limits).sum())
        nb_all += len(limits)
    return f"{nb} of {nb_all}"


def accuracies(deviations: dict[str, dict[str, list[Row]]]) -> str:
    """How many fresh images each network has right."""
    lines = []
    for name, of_kind in deviations.items():
        rows = sorted(of_kind["l2"] + of_kind["linf"], key=lambda row: row["seed"])
        trainings = list(dict.fromkeys(row["training"] for row in rows))
        cells = []
        for training in trainings:
            right = {r["seed"]: r["right"] / r["images"] for r in rows if r["training"] == training}
            cells.append(", ".join(f"{value:.1%}".replace("%", " %") for value in right.values()))
        if cells:
            lines.append([TITLES[name], *cells])
    return table(("data", "standard", "AT", "TRADES"), lines) if lines else MISSING


def totals(deviations: dict[str, dict[str, list[Row]]]) -> str:
    """How many samples were attacked, and how many are beyond, in all."""
    header = (
        "norm, data",
        "attacked samples",
        "beyond T_e",
        "beyond c T_e",
        "the paper's attacks",
        "of these beyond T_e",
        "and beyond c T_e",
    )
    lines = []
    for name, of_kind in deviations.items():
        for kind, title in (("l2", "l2"), ("linf", "l_inf"), ("attributions", "l2, Table 2")):
            rows = of_kind[kind]
            if rows:
                lines.append([f"{title}, {TITLES[name]}", *counts(rows)])
    every = [row for of_kind in deviations.values() for rows in of_kind.values() for row in rows]
    if not every:
        return MISSING
    return table(header, [*lines, ["all", *counts(every)]])


def in_short(deviations: dict[str, dict[str, list[Row]]]) -> str:
    """How often attacks go beyond, those of the paper and those that climb the deviation."""
    every = [row for of_kind in deviations.values() for rows in of_kind.values() for row in rows]
    if not every:
        return MISSING
    nb_all = attacked(every)
    nb_paper = sum(row["attacks_paper"] * len(row["mean"]) for row in every)
    beyond, adapted = (count(every, key) for key in ("beyond", "beyond_adapted"))
    paper, adapted_paper = (count(every, f"{key}_paper") for key in ("beyond", "beyond_adapted"))
    return (
        f"Of {nb_paper:,} samples of the attacks that the paper runs, {paper:,} are beyond $T_e$ "
        f"and {adapted_paper:,} beyond $c \\, T_e$. Of {nb_all - nb_paper:,} samples of attacks "
        f"that climb the deviation, {beyond - paper:,} are beyond $T_e$ and "
        f"{adapted - adapted_paper:,} beyond $c \\, T_e$."
    )


def counts(rows: Sequence[Row]) -> list[str]:
    """How many samples are beyond the estimates, and how many of attacks that the paper runs."""
    cells = []
    for kind in ("", "_paper"):
        nb_all = sum(row[f"attacks{kind}"] * len(row["mean"]) for row in rows)
        cells.append(f"{nb_all:,}")
        for key in ("beyond", "beyond_adapted"):
            nb = count(rows, key + kind)
            cells.append(f"{nb:,} ({nb / nb_all:.3%})".replace("%", " %"))
    return cells


def unproved(deviations: dict[str, dict[str, list[Row]]]) -> str:
    """What is proved of a few images of deep networks."""
    header = ("data", "training", "l2 radius", "worst attack", "T_e", "proved")
    lines = []
    for name, of_kind in deviations.items():
        for row in of_kind["l2"]:
            if "proved" in row:
                some = slice(0, len(row["proved"]))
                means = [np.mean(row[key][some]) for key in ("worst", "estimate", "proved")]
                lines.append([TITLES[name], *titled(row), *(f"{value:.3g}" for value in means)])
    return table(header, lines) if lines else MISSING


# --- proofs, copies, cost -----------------------------------------------------------------------


def proofs(rows: Sequence[Row]) -> str:
    """Attacked, estimated and proved deviations of dense networks."""
    if not rows:
        return MISSING
    keys = "attacked", "estimated", "proved", "proved_cosine"
    header = ("training", "radius", *keys[:3], "proved, cosine distance")
    lines = []
    for (training, epsilon), some in by(rows, lambda row: (row["training"], row["epsilon"])):
        lines.append([training, f"{epsilon:g}", *(mean(some, key) for key in keys)])
    return table(header, lines)


def by(rows: Sequence[Row], key: Callable) -> list[tuple]:
    """Rows in groups, in the order of their first ones."""
    order = list(dict.fromkeys(map(key, rows)))
    rows = sorted(rows, key=lambda row: order.index(key(row)))
    return [(found, list(some)) for found, some in groupby(rows, key)]


def copies(rows: Sequence[Row]) -> str:
    """Copies of ReLU networks by beta."""
    if not rows:
        return MISSING
    header = (
        "network",
        "beta",
        "same class",
        "logits",
        "gradients",
        "estimate",
        "c",
        "taken by auto",
    )
    lines = []
    for (kind, beta), some in by(rows, lambda row: (row["network"], row["beta"])):
        values = {
            key: np.concatenate([row[key] for row in some])
            for key in ("off", "cosine", "share", "factor")
        }
        nb = len(values["off"])
        estimate = np.median(values["share"])
        factor = f"{np.median(values['factor']):.3g}" if estimate > 0 else "-"
        lines.append(
            [
                kind,
                f"{beta:g}",
                f"{sum(row['same'] for row in some) / nb:.0%}".replace("%", " %"),
                f"{np.median(values['off']):.3f}, {values['off'].max():.3f}",
                f"{np.median(values['cosine']):.3f}, {values['cosine'].min():.3f}",
                f"{estimate:.3g}",
                factor,
                f"{sum(row['chosen'] for row in some)} of {nb}",
            ]
        )
    return table(header, lines)


def cost(rows: Sequence[Row]) -> str:
    """Processor times."""
    if not rows:
        return MISSING
    lines = [
        [
            row["what"],
            f"{row['seconds']:.2g} s" if row["seconds"] >= 1 else f"{1e3 * row['seconds']:.0f} ms",
            f"{row['gradients']:.0f}" if "gradients" in row else "",
        ]
        for row in rows
    ]
    return table(("`certify` of", "processor time", "in gradients"), lines)


def memory(rows: Sequence[Row]) -> str:
    """What the large images took, and how the looser estimate differs."""
    found = {key: value for row in rows for key, value in row.items()}
    if "ratio" not in found or "memory" not in found:
        return MISSING
    return (
        f"With products only, the l_inf estimate is {found['ratio']:.2f} times as large. The "
        f"images of 224x224x3 were those of a small convolutional net; there the two sides of the "
        f"singular value were {100 * found['apart']:.1f} % apart, and the peak memory grew by "
        f"{found['memory']:.0f} MiB over {found['memory_before']:.0f}."
    )


# --- beside the paper ---------------------------------------------------------------------------


def beside(
    deviations: dict[str, dict[str, list[Row]]], kind: str, theirs: dict[tuple, tuple]
) -> str:
    """Table 3 or 4 of the paper, each line before ours of the same radius."""
    first = "mean T_e^" if kind == "l2" else "Kendall"
    header = {
        "l2": ("data, training", "", "mean", "T_e [beyond]", "c T_e", "mean angle", "T_c"),
        "linf": ("data, training", "", first, "mean", "T_e", "mean angle", "T_c"),
    }[kind]
    lines = []
    for (name, training), cells in theirs.items():
        lines.append([f"{TITLES[name]}, {training}", "paper", *cells])
        radius = 0.1 if name == "cifar10" else 0.05
        some = [
            row
            for row in deviations[name][kind]
            if row["training"] == training and row["epsilon"] == radius
        ]
        if not some:
            lines.append(["", "here", MISSING, *[""] * 4])
            continue
        value = {key: plain(some, key) for key in ("mean", "estimate", "adapted", "angle")}
        if kind == "l2":
            beyond = f"{100 * count(some, 'beyond') / attacked(some):.2f} %"
            middle = [value["mean"], f"{value['estimate']} [{beyond}]", value["adapted"]]
        else:
            middle = [plain(some, "kendall"), value["mean"], value["estimate"]]
        lines.append(["", "here", *middle, value["angle"], median_angle(some)])
    return table(header, lines)


def plain(rows: Sequence[Row], name: str) -> str:
    """A mean over networks and images."""
    return f"{np.mean([row[name] for row in rows]):.3g}"


def paper_2(deviations: dict[str, dict[str, list[Row]]]) -> str:
    """Table 2 of the paper, l2, beside ours."""
    header = ("attribution", "", "mean", "T_e", "c T_e", "mean angle", "T_c")
    lines = []
    for attribution, cells in TABLE_2.items():
        lines.append([attribution, "paper, CIFAR-10, TRADES+IGR", *cells])
        for name, of_kind in deviations.items():
            some = [row for row in of_kind["attributions"] if row["attribution"] == attribution]
            if some:
                values = [plain(some, key) for key in ("mean", "estimate", "adapted", "angle")]
                title = f"here, {TITLES[name]}, TRADES"
                lines.append(["", title, *values, median_angle(some)])
    return table(header, lines)


def paper_5(deviations: dict[str, dict[str, list[Row]]]) -> str:
    """Table 5 of the paper, least gaps, beside ours."""
    header = ("data", "norm", "radius", "AT, paper", "AT, here", "TRADES, paper", "TRADES, here")
    lines = []
    for (name, norm), by_radius in TABLE_5.items():
        rows = deviations[name]["l2" if norm == "2" else "linf"]
        for radius, gaps in by_radius.items():
            cells = []
            for training, gap in zip(("AT", "TRADES"), gaps):
                some = [
                    row
                    for row in rows
                    if row["training"] == training and abs(row["epsilon"] - radius) < 1e-9
                ]
                cells += [f"{gap:.4f}", f"{least_gap(some):.4f}" if some else MISSING]
            epsilon = titled({"training": "", "epsilon": radius})[1]
            lines.append([TITLES[name], "l2" if norm == "2" else "l_inf", epsilon, *cells])
    return table(header, lines)
