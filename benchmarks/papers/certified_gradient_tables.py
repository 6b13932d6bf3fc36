"""What the documentation shows of `certified_gradient`: tables and pictures of stored rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from protocol.intervals import Mean, compare, holm, mean_interval
from protocol.networks import SEEDS
from protocol.pieces import Records
from protocol.records import Row, where
from protocol.tables import number, table

from papers.certified_gradient_data import (
    EXPERIMENTS,
    GRID,
    GROUPS,
    RADII,
    TRAININGS,
    chosen,
    in_words,
    two_moons,
)

KINDS = ("inputs targeted", "inputs untargeted", "weights targeted", "weights untargeted")
PANELS = ("no targeted attack possible", "no untargeted attack possible", "certified accuracy")
MARKS = "os^vPXD"
OURS = "certified explanations"
OTHERS = ("certified predictions", "adversarial")
NOT_RUN = "(not measured yet)"


def blocks(records: Records) -> dict[str, str]:
    """Tables by name; those whose pieces were not run say so."""
    found = {
        "settings": settings(records),
        "predictions": predictions(records),
        "differences": differences(records),
        "moons": moons(records),
        "paper": paper(records),
        "measured": measured(records),
    }
    for name in EXPERIMENTS:
        found[f"explanations-{name}"] = explanations(records, name)
    for name in ("german", "adult"):
        found[f"bias-{name}"] = bias(records, name)
    return found


# --- what is stored -----------------------------------------------------------------------------


def seeds_of(records: Records, name: str) -> list[int]:
    """Of which networks all trainings are stored."""
    return [seed for seed in SEEDS if all(f"{name}-{group}{seed}" in records for group in GROUPS)]


def rows_of(records: Records, name: str, training: str) -> list[Row]:
    """The rows of a training with the setting that was chosen, one of each network."""
    rows: dict[int, Row] = {}
    for seed in seeds_of(records, name):
        for group in GROUPS:
            for row in records[f"{name}-{group}{seed}"]["rows"]:
                if row["training"] == training and _is_chosen(records, name, row):
                    rows[seed] = row
    return list(rows.values())


def _is_chosen(records: Records, name: str, row: Row) -> bool:
    """Whether a row is of the setting that is taken, not of one of an earlier choice."""
    if f"validation-{name}" not in records:
        return False
    return row["setting"] == chosen(records, name, row["training"])


def values(rows: Sequence[Row], what: str) -> np.ndarray:
    """Of each network and input, (networks, inputs)."""
    return np.array([[float(bit) for bit in row[what]] for row in rows])


def cell(found: Mean) -> str:
    """A share in per cent, and in brackets its interval, as far as shares go, unless all agree."""
    if found.low == found.high:
        return f"{100 * found.mean:.0f}"
    low, high = (f"{100 * min(max(side, 0.0), 1.0):.0f}" for side in (found.low, found.high))
    return f"{100 * found.mean:.0f} ({low} to {high})"


def shown(rows: Sequence[Row], what: str) -> str:
    """The share of what holds, of one kind."""
    return cell(mean_interval(values(rows, what)))


# --- tables -------------------------------------------------------------------------------------


def settings(records: Records) -> str:
    """What was tried on validation inputs, with what was taken in bold."""
    lines = []
    for name, experiment in EXPERIMENTS.items():
        if f"validation-{name}" not in records:
            continue
        title = experiment.title
        rows = records[f"validation-{name}"]["rows"]
        for training in TRAININGS:
            best, cells = chosen(records, name, training), []
            for row in rows:
                if row["training"] == training:
                    text = (
                        f"{in_words(row['setting'])}: {100 * row['accuracy']:.1f} %, "
                        f"{100 * row['certified']:.0f} %, {row['change']:.2g}"
                    )
                    cells.append(f"**{text}**" if row["setting"] == best else text)
            if cells:
                lines.append((title, training, "; ".join(cells)))
                title = ""
    if not lines:
        return NOT_RUN
    header = ("data", "training", "settings: accuracy, explanations proved, median change")
    return table(header, lines)


def predictions(records: Records) -> str:
    """Accuracy, certified accuracy and attacks, of all data sets."""
    lines = []
    for name, experiment in EXPERIMENTS.items():
        title = experiment.title
        for training in TRAININGS:
            rows = rows_of(records, name, training)
            if rows:
                whats = ("right", "stays right ibp", "stays right crown")
                attacks = ("inputs attack fails", "weights attack fails")
                lines.append((title, training, *(shown(rows, w) for w in (*whats, *attacks))))
                title = ""
    if not lines:
        return NOT_RUN
    header = ("data", "training", "accuracy", "certified, ibp", "certified, crown")
    return table((*header, "attacks of inputs fail", "attacks of weights fail"), lines)


def explanations(records: Records, name: str) -> str:
    """Certified shares of explanations of a data set."""
    lines = []
    for training in TRAININGS:
        rows = rows_of(records, name, training)
        if rows:
            cells = [" / ".join(shown(rows, f"{k} {m}") for m in ("ibp", "crown")) for k in KINDS]
            lines.append((training, *cells))
    if not lines:
        return NOT_RUN
    picture = _picture(name, "Shares of inputs that crown proves, against the radius")
    nb_seeds = len(seeds_of(records, name))
    fewer = f"\n\n(so far {nb_seeds} of {len(SEEDS)} networks)" if nb_seeds < len(SEEDS) else ""
    return f"{table(('training', *KINDS), lines)}{fewer}\n\n{picture}"


def differences(records: Records) -> str:
    """What the regulariser proves more than other robust trainings, in points; paired."""
    found: list[tuple[str, str, str, Mean]] = []
    for name, experiment in EXPERIMENTS.items():
        mine = rows_of(records, name, OURS)
        for other in OTHERS:
            rows = rows_of(records, name, other)
            for what in ("right", *(f"{kind} crown" for kind in KINDS)):
                if mine and len(mine) == len(rows):
                    difference = compare(values(mine, what), values(rows, what))
                    found.append((experiment.title, other, what, difference))
    if not found:
        return NOT_RUN
    sure = holm([difference.p_value for *_, difference in found])
    lines: dict[tuple[str, str], list[str]] = {}
    for (title, other, _, difference), is_sure in zip(found, sure):
        low, high = 100 * max(difference.low, -1.0), 100 * min(difference.high, 1.0)
        text = f"{100 * difference.mean:+.0f} ({low:+.0f} to {high:+.0f})"
        lines.setdefault((title, other), []).append(f"**{text}**" if is_sure else text)
    header = ("data", "against", "accuracy", *KINDS)
    return table(header, [(*names, *cells) for names, cells in lines.items()])


def moons(records: Records) -> str:
    """Half moons: accuracies and proved widths."""
    if "moons" not in records:
        return NOT_RUN
    lines = [
        (
            number(row["epsilon"], 2),
            number(row["gamma"], 2),
            f"{100 * row['accuracy']:.1f} %",
            f"{row['width']:.2g}",
        )
        for row in records["moons"]["rows"]
    ]
    found = table(("epsilon", "gamma", "accuracy", "mean proved width at 0.05"), lines)
    return f"{found}\n\n{_picture('moons', 'Decision surfaces on half moons')}"


def bias(records: Records, name: str) -> str:
    """Shares of the explanation on the gender, by the share of changed labels."""
    found = _by_training(records, name)
    if not found:
        return NOT_RUN
    induced = [row["induced"] for row in records[f"bias-{name}"]["rows"]]
    header = ("training", *(f"{100 * share:.0f} %" for share in sorted(set(induced))))
    lines = [
        (training, *(cell(mean_interval(column[:, None])) for column in shares.T))
        for training, shares in found.items()
    ]
    picture = _picture("bias", "Share of the explanation on the gender")
    return table(header, lines) + (f"\n\n{picture}" if name == "adult" else "")


def paper(records: Records) -> str:
    """What the paper says beside what was measured; the reasons are in the documentation."""

    def of(name: str, training: str, what: str) -> float:
        rows = rows_of(records, name, training)
        return 100 * values(rows, what).mean() if rows else float("nan")

    def each(text: Callable[[str], str]) -> str:
        titles = {name: experiment.title for name, experiment in EXPERIMENTS.items()}
        run = [name for name in titles if rows_of(records, name, OURS)]
        return "; ".join(f"{titles[name]}: {text(name)}" for name in run) or NOT_RUN

    def most(name: str, what: str) -> float:
        return np.nanmax([of(name, training, what) for training in TRAININGS if training != OURS])

    proved = "inputs untargeted {}"
    lines = [
        (
            "only gradient certified training has certified explanations (figures 2 to 4)",
            "proved by `ibp`, untargeted, and the most of any other training: "
            + each(
                lambda n: (
                    f"{of(n, OURS, proved.format('ibp')):.0f} %, "
                    f"{most(n, proved.format('ibp')):.0f} %"
                )
            ),
        ),
        (
            "(the paper has no linear bounds)",
            "the same by `crown`: "
            + each(
                lambda n: (
                    f"{of(n, OURS, proved.format('crown')):.0f} %, "
                    f"{most(n, proved.format('crown')):.0f} %"
                )
            ),
        ),
        (
            "no loss of accuracy on the tables (figure 2), 2 points for every 0.01 of epsilon on "
            "MNIST, 3 points on PneumoniaMNIST",
            "points against standard training: "
            + each(lambda n: f"{of(n, OURS, 'right') - of(n, 'standard', 'right'):+.1f}"),
        ),
        (
            "attacks of the standard network and of gradient difference succeed on Adult, fewer "
            "on German Credit",
            "attacks of inputs that fail, standard and gradient difference: "
            + each(
                lambda n: (
                    f"{of(n, 'standard', 'inputs attack fails'):.0f} %, "
                    f"{of(n, 'gradient difference', 'inputs attack fails'):.0f} %"
                )
            ),
        ),
        (
            "predictions become provable, too (figure 3)",
            "right and proved by `ibp`, and with certified predictions: "
            + each(
                lambda n: (
                    f"{of(n, OURS, 'stays right ibp'):.0f} %, "
                    f"{of(n, 'certified predictions', 'stays right ibp'):.0f} %"
                )
            ),
        ),
        (
            "dense net on MNIST: no input at all (epsilon 1) shows a mask in a corner",
            f"epsilon {RADII[-1]:g}, targeted, first network, by `crown`: {_at_largest(records)}",
        ),
        (
            "bias is shown most clearly by gradient certified training (figure 2)",
            "share of the explanation on the gender at 50 % changed labels, certified "
            "explanations and the most of any other: " + _shown_bias(records),
        ),
    ]
    return table(("the paper", "here"), lines)


def _at_largest(records: Records) -> str:
    rows = [row for row in rows_of(records, "mnist-dense", OURS) if "curves" in row]
    return f"{100 * rows[0]['curves'][-1][0]:.0f} %" if rows else NOT_RUN


def _shown_bias(records: Records) -> str:
    words = []
    for name in ("german", "adult"):
        found = {training: s.mean(axis=0) for training, s in _by_training(records, name).items()}
        if OURS in found:
            middle = len(found[OURS]) // 2
            most = max(shares[middle] for training, shares in found.items() if training != OURS)
            title, ours = EXPERIMENTS[name].title, found[OURS][middle]
            words.append(f"{title}: {100 * ours:.1f} %, {100 * most:.1f} %")
    return "; ".join(words) or NOT_RUN


def _by_training(records: Records, name: str) -> dict[str, np.ndarray]:
    """Shares of the explanation on the gender, (networks, induced shares)."""
    if f"bias-{name}" not in records:
        return {}
    shares: dict[str, dict[int, list[float]]] = {}
    for row in records[f"bias-{name}"]["rows"]:
        shares.setdefault(row["training"], {}).setdefault(row["seed"], []).append(row["share"])
    return {training: np.array(list(found.values())) for training, found in shares.items()}


def measured(records: Records) -> str:
    """When, where and how long, of all pieces together and of each."""
    names = records.names()
    if not names:
        return NOT_RUN
    stored = [records[name] for name in names]
    seconds, cpu = (sum(record[what] for record in stored) for what in ("seconds", "cpu"))
    total = f"{seconds / 60:.0f} minutes on the clock and {cpu / 60:.0f} of the processor in all"
    return f"{len(names)} pieces, {total}; the first of them: {where(stored[0])}."


# --- pictures -----------------------------------------------------------------------------------


def _picture(name: str, what: str) -> str:
    return f"![{what}](images/certified-gradient-{name}.png)"


def figures(records: Records, folder: Path) -> None:
    """Draw what is stored."""
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    for name in EXPERIMENTS:
        if rows_of(records, name, "standard"):
            _save(curves(records, name), folder / f"certified-gradient-{name}.png")
    drawings: list[tuple[str, Callable[[Records], Figure]]] = []
    if "moons" in records:
        drawings.append(("moons", surfaces))
    if "bias-adult" in records:
        drawings.append(("bias", biases))
    for name, draw in drawings:
        _save(draw(records), folder / f"certified-gradient-{name}.png")


def curves(records: Records, name: str) -> Figure:
    """Shares of inputs that `crown` proves of the first network, for growing radii."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for training, mark in zip(TRAININGS, MARKS):
        rows = [row for row in rows_of(records, name, training) if "curves" in row]
        if not rows:
            continue
        for axis, line in zip(axes, np.transpose(rows[0]["curves"])):
            axis.semilogx(RADII, line, marker=mark, label=training, markersize=5)
    for axis, title in zip(axes, PANELS):
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="radius (l_inf)", ylim=(-0.04, 1.04))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of inputs")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside right", fontsize=8, frameon=False
    )
    return figure


def surfaces(records: Records) -> Figure:
    """Decision surfaces on half moons."""
    points, labels = two_moons()
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots(2, 4, sharex=True, sharey=True)
    for row, axis in zip(records["moons"]["rows"], axes.flat):
        surface = np.frombuffer(bytes.fromhex(row["surface"]), np.uint8).reshape(len(GRID[1]), -1)
        axis.contourf(*GRID, surface / 255, 20, cmap="coolwarm")
        axis.scatter(*points[:200].T, c=labels[:200], s=6, cmap="coolwarm", edgecolors="k", lw=0.3)
        axis.set_title(f"epsilon {row['epsilon']:g}, gamma {row['gamma']:g}", fontsize=9)
    return figure


def biases(records: Records) -> Figure:
    """Share of the explanation on the gender for labels that depend on it."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for name, axis in zip(("german", "adult"), axes):
        for (training, shares), mark in zip(_by_training(records, name).items(), "os^PD"):
            induced = sorted({row["induced"] for row in records[f"bias-{name}"]["rows"]})
            axis.plot(induced, shares.mean(axis=0), marker=mark, label=training)
        axis.set(title=EXPERIMENTS[name].title, xlabel="induced bias")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of the explanation")
    axes[0].legend(fontsize=8, frameon=False)
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)
