"""What the documentation shows of CORGI, from what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from protocol.intervals import mean_interval
from protocol.networks import SEEDS
from protocol.pieces import Records
from protocol.records import Row
from protocol.tables import table, with_interval
from scipy.stats import spearmanr

SMALLEST = 1e-7  # the smallest radius that is tested; counts where nothing is proved
ASKED = 1.8  # of map / per-channel, by "crown"
OUTLIER = 20.0  # ratios above it are left out by the paper
FORMS = (
    ("per-channel", "ibp"),
    ("per-channel", "crown-ibp"),
    ("map", "crown-ibp"),
    ("pairwise", "crown-ibp"),
    ("per-channel", "crown"),
    ("map", "crown"),
    ("pairwise", "crown"),
)
PAPER = {12: 4.7, 17: 5.0}  # median of attacked / certified


def blocks(records: Records) -> dict[str, str]:
    """Tables and sentences by name; nothing where nothing is stored."""
    rows = records.rows("signs-")
    if not rows:
        return {}
    signs = records["one-sign"]["rows"] if "one-sign" in records else []
    of_channels = records.rows("channels-")
    return (
        {
            "networks": networks(rows),
            "radii": radii(rows),
            "forms": forms(rows),
            "linear": linear(rows),
            "unstable": unstable(rows),
        }
        | ({"channels": channels(of_channels)} if of_channels else {})
        | paper(rows, signs)
        | sweeps(signs)
    )


def classes_of(rows: Sequence[Row]) -> list[int]:
    """The classes that are explained."""
    return sorted({row["class"] for row in rows if "class" in row})


def stacked(rows: Iterable[Row], key: str, **asked: object) -> np.ndarray:
    """A list of the rows with certain entries, one of each network, (networks, images)."""
    kept = [row for row in rows if all(row.get(name) == value for name, value in asked.items())]
    return np.array([row[key] for row in sorted(kept, key=lambda row: row["seed"]) if key in row])


def radius_of(rows: Iterable[Row], class_: int, form: str, method: str) -> np.ndarray:
    """Certified radii, (networks, images)."""
    return stacked(rows, "radius", **{"class": class_, "form": form, "method": method})


def attacked_of(rows: Iterable[Row], class_: int, attack: str = "gap") -> np.ndarray:
    """Attacked radii, (networks, images)."""
    return stacked(rows, "attacked", **{"class": class_, "attack": attack})


def over(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Ratios of paired values, on the images that both have."""
    count = min(values.shape[1], others.shape[1])
    return np.maximum(values, SMALLEST)[:, :count] / np.maximum(others, SMALLEST)[:, :count]


def geometric(values: np.ndarray, form: str = ".2f") -> str:
    """The geometric mean, and the interval of the mean of the logarithms."""
    found = np.exp(mean_interval(np.log(np.maximum(values, SMALLEST)))[:3])
    mean, low, high = (f"{number:{form}}" for number in found)
    return f"{mean} ({low} to {high})"


def median(values: np.ndarray, form: str = ".2f") -> str:
    """The median of all images and networks."""
    return f"{np.median(values):{form}}"


def networks(rows: Sequence[Row]) -> str:
    """How much the networks learned."""
    about = {row["seed"]: row for row in rows if "right" in row}
    first = next(iter(about.values()))
    right = ", ".join(f"{row['right']:.1%}" for row in about.values())
    missing = ", ".join(str(seed) for seed in SEEDS if seed not in about)
    return (
        f"networks of seed {', '.join(map(str, about))}, trained on {first['trained']:,} images, "
        f"which classify {right} of {first['fresh']:,} test images correctly"
        + (f" (not measured yet: seed {missing})" if missing else "")
    )


def radii(rows: Sequence[Row]) -> str:
    """Certified and attacked radii by form and method."""
    lines = []
    for class_ in classes_of(rows):
        found = attacked_of(rows, class_)
        common = radius_of(rows, class_, "per-channel", "crown").shape[1]
        for form, method in FORMS:
            radius = radius_of(rows, class_, form, method)
            proved = radius > 0
            count = min(radius.shape[1], found.shape[1])
            ratios = found[:, :count][proved[:, :count]] / radius[:, :count][proved[:, :count]]
            seconds = stacked(rows, "seconds", **{"class": class_, "form": form, "method": method})
            low, high = np.quantile(ratios, [0.25, 0.75])
            lines.append(
                [
                    class_,
                    form,
                    f"`{method}`",
                    f"{proved.sum()} of {radius.size}",
                    median(radius[:, :common], ".2e"),
                    geometric(radius[:, :common], ".2e"),
                    f"{np.median(ratios):.2f} ({low:.2f}, {high:.2f}; {ratios.max():.2f})",
                    nb_beaten(rows, class_, form, method),
                    f"{seconds.mean():.2f}",
                ]
            )
    header = [
        "class",
        "form",
        "method",
        "proved",
        f"median radius of the first {common}",
        "geometric mean (95 %)",
        "attacked / certified",
        "beaten",
        "s",
    ]
    return table(header, lines)


def nb_beaten(rows: Sequence[Row], class_: int, form: str, method: str) -> int:
    """Number of images for which an attack, of either kind, succeeded within what is certified."""
    radius, nb_beaten = radius_of(rows, class_, form, method), 0
    for attack in ("gap", "sum"):
        found = attacked_of(rows, class_, attack)
        count = min(radius.shape[1], found.shape[1])
        nb_beaten += int((found[:, :count] <= radius[:, :count]).sum())
    return nb_beaten


def forms(rows: Sequence[Row]) -> str:
    """Ratios of the radii of the forms to that of the form per channel, and what caps them."""
    lines = []
    for class_ in classes_of(rows):
        for method in ("crown-ibp", "crown"):
            base = radius_of(rows, class_, "per-channel", method)
            cap = over(attacked_of(rows, class_), base)
            ratio, pairs = (
                over(radius_of(rows, class_, form, method), base) for form in ("map", "pairwise")
            )
            lines.append(
                [
                    class_,
                    f"`{method}`",
                    ratio.size,
                    f"{median(ratio)}; {geometric(ratio)}",
                    f"{median(pairs)}; {geometric(pairs)}",
                    f"{median(cap)}; {geometric(cap)}",
                    f"{(cap < ASKED).mean():.0%}",
                    f"{(ratio >= ASKED).mean():.0%}",
                    f"{(ratio[cap >= ASKED] >= ASKED).mean():.0%}" if (cap >= ASKED).any() else "-",
                ]
            )
    header = [
        "class",
        "method",
        "images",
        "map / per-channel",
        "pairwise / per-channel",
        "cap: attacked / per-channel",
        f"cap below {ASKED}",
        f"map at least {ASKED}",
        f"of those with a cap of {ASKED}",
    ]
    return table(header, lines)


def linear(rows: Sequence[Row]) -> str:
    """What the forms differ by where nothing bends, and what the activations cost each of them."""
    lines = []
    for class_ in classes_of(rows):
        kept = [row for row in rows if row.get("class") == class_ and "linear" in row]
        straight = {
            form: np.array([row["linear"][form] for row in kept])
            for form in ("per-channel", "map", "pairwise")
        }
        base = radius_of(rows, class_, "per-channel", "crown")
        ratio = over(radius_of(rows, class_, "map", "crown"), base)
        linear_ratio = straight["map"] / straight["per-channel"]
        logs = np.log(np.stack([ratio, linear_ratio])).reshape(2, -1)
        lines.append(
            [
                class_,
                ratio.size,
                geometric(ratio),
                geometric(linear_ratio),
                geometric(straight["pairwise"] / straight["per-channel"]),
                *(
                    geometric(over(radius_of(rows, class_, form, "crown"), straight[form]))
                    for form in straight
                ),
                f"{np.corrcoef(logs)[0, 1]:.2f}",
            ]
        )
    header = [
        "class",
        "images",
        "map / per-channel, certified",
        "the same, linear",
        "pairwise / per-channel, linear",
        "certified / linear: per-channel",
        "map",
        "pairwise",
        "correlation",
    ]
    return table(header, lines)


def channels(rows: Sequence[Row]) -> str:
    """How channels take part, and the linear ratio on more images."""
    lines = []
    for class_ in classes_of(rows):
        found = {
            key: stacked(rows, key, **{"class": class_})
            for key in ("per-channel", "map", "pairwise", "channels", "cosine", "negative")
        }
        lines.append(
            [
                class_,
                found["map"].size,
                geometric(found["map"] / found["per-channel"]),
                geometric(found["pairwise"] / found["per-channel"]),
                geometric(found["channels"], ".1f"),
                with_interval(mean_interval(found["cosine"]), 2),
                with_interval(mean_interval(found["negative"]), 2),
            ]
        )
    header = [
        "class",
        "images",
        "map / per-channel, linear",
        "pairwise / per-channel, linear",
        "channels that take part",
        "cosine",
        "of negative weight",
    ]
    return table(header, lines)


def unstable(rows: Sequence[Row]) -> str:
    """How many neurons may bend within the certified radii."""
    lines = []
    for class_ in classes_of(rows):
        for form in ("per-channel", "map"):
            kept = [
                row["counts"]
                for row in rows
                if row.get("class") == class_ and row.get("unstable within") == form
            ]
            numbers = [np.array([counts[name] for counts in kept]) for name in kept[0]]
            lines.append([class_, form, *(f"{np.median(number):.0f}" for number in numbers)])
    return table(["class", "radius of", *kept[0]], lines)


def paper(rows: Sequence[Row], signs: Sequence[Row]) -> dict[str, str]:
    """The paper's numbers beside ours."""
    lines = []
    for class_ in classes_of(rows):
        for what, form, attack in (
            ("the paper's bounds and attack", "per-channel", "sum"),
            ("the paper's bounds, the package's attack", "per-channel", "gap"),
            ("the package's bounds and attack", "pairwise", "gap"),
        ):
            radius = radius_of(rows, class_, form, "crown")
            ratio = over(attacked_of(rows, class_, attack), radius)
            kept = ratio[ratio <= OUTLIER]
            theirs = f"{PAPER[class_]}" if attack == "sum" and class_ in PAPER else "-"
            found = f"{np.median(kept):.2f} ({kept.size} of {ratio.size})"
            lines.append([class_, what, theirs, found, median(ratio)])
    header = ["class", "attacked / certified by", "paper", "here, without those above 20", "all"]
    found = {"paper": table(header, lines)}
    attacked = [row for row in signs if row.get("attack within", "nothing") != "nothing"]
    if attacked:
        theirs = {"certified": "15 of 15 at 9e-4", "visible": "3 of 15 at 0.07"}
        names = {"certified": "the certified radius", "visible": "a visible radius"}
        lines = [
            [
                names.get(row["attack within"], "three times the attacked radius"),
                theirs.get(row["attack within"], "14 of 15 at 2e-3"),
                f"{row['kept']} of {len(row['cells'])} at {row['radius']:.2g}",
            ]
            for row in attacked
        ]
        found["paper-sign"] = table(["cells kept within", "paper (figure 1)", "here"], lines)
    return found


def sweeps(signs: Sequence[Row]) -> dict[str, str]:
    """How certified radii go with gap and k2, in words."""
    of_k = [row for row in signs if row.get("sweep") == "k"]
    of_k2 = [row for row in signs if row.get("sweep") == "k2"]
    if not of_k or not of_k2:
        return {}
    gap, radius, attacked = (
        np.array([row[key] for row in of_k]) for key in ("gap", "radius", "attacked")
    )
    rank = [spearmanr(gap, sides).statistic for sides in (radius, attacked)]
    first, last = of_k2[0], of_k2[-1]
    return {
        "gap": f"the rank correlation of the gap is {rank[0]:.2f} with the certified radius and "
        f"{rank[1]:.2f} with the attacked one, over {len(of_k)} values of k",
        "k2": f"{first['radius']:.2g} for k2 = {first['k2']} and {last['radius']:.2g} for k2 = "
        f"{last['k2']}",
    }
