"""RelEx beside other explainers, on attacked images: Figures 3 to 6 and Table 1 of its paper.

Source: Lim, Lee, Kim, Building Reliable Explanations of Unreliable Neural Networks: Locally
Smoothing Perspective of Model Interpretation, CVPR 2021.

Images are attacked (untargeted, PGD, l_inf, within [0, 1]); all methods explain the class that the
network gives the *clean* image, and what is masked out is black. The start of RelEx's masks is one
for all data: of those that keep at least `LEAST_KEPT` of the classes, for all data and radii, the
one with the smallest masks beside those of the paper's start, by the geometric mean over both.
Of other methods the setting with the highest R counts for R, and the one that retrieves most
classes for retrieval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from protocol.intervals import compare, holm, mean_interval
from protocol.networks import VALIDATION_SEED
from protocol.pieces import Context, Piece, Records
from protocol.records import Row
from protocol.tables import number, table

from papers import relex_studies
from papers.relex_methods import (
    BUDGET,
    DEFAULT,
    OTHERS,
    PAPER,
    PLAIN,
    PULL,
    STARTS,
    VARIANTS,
    Method,
    other,
    others,
    relex,
    settings_of,
)
from papers.relex_networks import CASES, Case, Measured, measured
from xcertify.metrics import ClassRetrieval, FeatureRelevance, MetricResult
from xcertify.plots import plot_curves
from xcertify.statistics import binomial_interval

STEPS = 32  # of the curves of relevance
LEAST_KEPT = 0.98
# Of many starts and of large networks fewer noisy copies are drawn than the 50 of the default.
FEW_COPIES = 10
PICTURE = """\
![Attacked digits, and their masks from both starts](images/relex-masks.png)

*Digits attacked at .1, with the class of the clean image and the one that the network sees now;
below them the masks from both starts, and the class of what they keep.*"""
TABLE_1 = {  # of the paper: R at .07, .1, .3 and 1 in its normalised units
    "RelEx": ((0.94, 0.95, 0.96, 0.97), (0.78, 0.66, 0.60, 0.56)),
    "Saliency": ((0.03, 0.03, 0.04, 0.03), (0.40, 0.37, 0.22, 0.14)),
    "SmoothGrad": ((0.18, 0.17, 0.12, 0.04), (0.38, 0.33, 0.15, 0.10)),
    "IntegratedGradients": ((0.07, 0.07, 0.06, 0.03), (0.35, 0.30, 0.13, 0.07)),
    "GradCAM": ((0.14, 0.11, 0.08, 0.03), (0.58, 0.45, 0.39, 0.16)),
}


def pieces(quick: bool) -> list[Piece]:
    """What is measured, in order: later pieces take what earlier ones chose."""
    names = ["mnist"] if quick else list(CASES)
    studied = "mnist" if quick else "gtsrb"
    found = [Piece(f"validation-{name}", partial(validation, name), 4) for name in names]
    for name in names:
        seeds = CASES[name].seeds[:1] if quick else CASES[name].seeds
        found += [Piece(f"fresh-{name}-{seed}", partial(fresh, name, seed), 5) for seed in seeds]
    studies = {
        "attacks-on-maps": (relex_studies.attacks_on_maps, 4),
        "any-class": (relex_studies.any_class, 3),
        "radii": (relex_studies.radii, 3),
    }
    for name, (study, minutes) in studies.items():
        found.append(Piece(name, partial(study, CASES[studied], best_settings), minutes))
    found.append(Piece("pictures", partial(relex_studies.pictures, CASES["mnist"]), 1))
    found.append(Piece("cost", relex_studies.cost, 4))
    return found if quick else [*found, Piece("memory", relex_studies.memory, 2)]


# --- measured ------------------------------------------------------------------------------------


def validation(name: str, context: Context) -> list[Row]:
    """Starts of RelEx, and as many settings of each other method, on validation images."""
    case = CASES[name]
    there = measured(context, case, VALIDATION_SEED)
    starts = {PAPER: {"start": "paper"}, **STARTS}
    if context.quick:
        starts = {key: starts[key] for key in (PAPER, "start=0.3")}
    methods: dict[tuple[str, str], Method] = {}
    for setting, settings in starts.items():
        few = {"nb_samples": FEW_COPIES, **settings}
        methods["RelEx", setting] = relex(there.model, "RelEx", few)
    for method in others(context.quick):
        tried = list(settings_of(method, there.model))
        for setting in tried[:2] if context.quick else tried:
            methods[method, setting] = other(there.model, method, setting)
    return study(context, case, there, methods, VALIDATION_SEED)


def fresh(name: str, seed: int, context: Context) -> list[Row]:
    """RelEx from both starts and as other methods at their best settings, on fresh images."""
    case = CASES[name]
    there = measured(context, case, seed)
    methods: dict[tuple[str, str], Method] = {}
    for method, settings in VARIANTS.items():
        if name == "cifar10":
            settings = {"nb_samples": FEW_COPIES, **settings}
        told = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        methods[method, told] = relex(there.model, method, settings, with_pull=method == DEFAULT)
    for method in others(context.quick):
        for setting in dict.fromkeys(best_settings(context.records, name, method).values()):
            methods[method, setting] = other(there.model, method, setting)
    return study(context, case, there, methods, seed)


def study(
    context: Context,
    case: Case,
    there: Measured,
    methods: dict[tuple[str, str], Method],
    seed: int,
) -> list[Row]:
    """A row for each method, setting and radius, with a value for each image."""
    of_clean: dict[tuple[str, str], np.ndarray] = {}
    rows = []
    for radius, epsilon in case.all_radii.items():
        points = there.attacked(epsilon)
        retrieval = ClassRetrieval(there.model, points, there.classes)
        relevance = FeatureRelevance(
            there.model, points, there.classes, steps=STEPS, activation="softmax"
        )
        about = {
            "seed": seed,
            "accuracy": there.accuracy,
            "radius": radius,
            "images": len(points),
            "attacked": whole(retrieval.evaluate_samples(np.ones_like(points))),
        }
        for (method, setting), explain in context.progress(methods.items(), f"radius {radius}"):
            masks, maps = explain(points, there.classes)
            clean = of_clean.setdefault((method, setting), masks)
            kept = {
                "kept": whole(retrieval.evaluate_samples(masks)),
                "kept_by_clean": whole(retrieval.evaluate_samples(clean)),
                "size": np.round(masks.reshape(len(masks), -1).sum(axis=1), 2),
            }
            for title, found in maps.items():
                row = {"method": title, "setting": setting, **about}
                row["relevance"] = np.round(relevance.evaluate_samples(found), 4)
                rows.append(row | (kept if title == method else {}))
    return rows


def whole(scores: np.ndarray) -> list[int]:
    """Scores that are 0 or 1."""
    return [int(score) for score in scores]


# --- chosen --------------------------------------------------------------------------------------


def best_settings(records: Records, name: str, method: str) -> dict[str, str]:
    """Of another method, on validation images: "relevance" and "kept" -> the best setting."""
    rows = [row for row in records.rows(f"validation-{name}") if row["method"] == method]
    rows = [row for row in rows if row["piece"] == f"validation-{name}"]
    settings = dict.fromkeys(row["setting"] for row in rows)

    def mean(setting: str, field: str) -> float:
        return float(np.mean([row[field] for row in rows if row["setting"] == setting]))

    return {field: max(settings, key=partial(mean, field=field)) for field in ("relevance", "kept")}


def of_starts(records: Records) -> dict[str, dict[str, float]]:
    """Of each start, over all data and radii: the least share of classes kept, sizes and mean R.

    "size" and "largest" are the geometric mean and the largest ratio to the paper's start.
    """
    rows = [row for row in records.rows("validation-") if row["method"] == "RelEx"]
    means: dict[str, dict[tuple[str, str], Row]] = {}
    for row in rows:
        key = row["piece"], row["radius"]
        found = {field: float(np.mean(row[field])) for field in ("kept", "size", "relevance")}
        means.setdefault(row["setting"], {})[key] = found
    result = {}
    for start, places in means.items():
        ratios = [found["size"] / means[PAPER][key]["size"] for key, found in places.items()]
        result[start] = {
            "kept": min(found["kept"] for found in places.values()),
            "size": float(np.exp(np.mean(np.log(ratios)))),
            "largest": max(ratios),
            "relevance": float(np.mean([found["relevance"] for found in places.values()])),
        }
    return result


def chosen_start(records: Records) -> str:
    """By the rule of the module; "none" if no start keeps the classes."""
    found = of_starts(records)
    allowed = [s for s, values in found.items() if s != PAPER and values["kept"] >= LEAST_KEPT]
    return min(allowed, key=lambda start: found[start]["size"], default="none")


# --- shown ---------------------------------------------------------------------------------------


def blocks(records: Records) -> dict[str, str]:
    """What the page of RelEx shows; of pieces that were not run, that they were not."""
    found = relex_studies.blocks(records)
    shown = [name for name in CASES if rows_of(records, name)]
    if records.names("validation-"):
        found["choice"] = table_of_choice(records)
    for name in CASES:
        if f"validation-{name}" in records:
            found[f"validation-{name}"] = table_of_starts(records, name, CASES[name])
    for name in shown:
        rows = rows_of(records, name)
        found[f"fresh-{name}"] = table_of_methods(rows, CASES[name], records, name)
        found[f"tests-{name}"] = table_of_tests(rows, CASES[name]) + (
            f"\n\n![Retrieval, relevance and size of masks, {CASES[name].title}]"
            f"(images/relex-{name}.png)"
        )
    if "mnist" in shown:
        found["kept-from-paper"] = kept_from_paper(records)
    if shown:
        found["goals"] = table_of_goals(records, shown)
    if "pictures" in records:
        found["pictures"] = PICTURE
    if {"gtsrb", "gtsrb-attacked"} <= set(shown):
        found["paper"] = table_of_paper(records)
    expected = [f"{part}-{name}" for part in ("validation", "fresh", "tests") for name in CASES]
    expected += [*relex_studies.TABLES, "choice", "goals", "kept-from-paper", "paper", "pictures"]
    for name in expected:
        found.setdefault(name, f"*Not measured yet: {name}.*")
    return found


def rows_of(records: Records, name: str) -> list[Row]:
    """The rows of fresh images of a case; those of other methods say what they are best for."""
    rows = []
    for row in records.rows(f"fresh-{name}-"):
        if row["piece"].removeprefix(f"fresh-{name}-").isdigit():
            best = {}
            if row["method"] in OTHERS:
                best = best_settings(records, name, row["method"])
            rows.append(row | {"best_for": [f for f, s in best.items() if s == row["setting"]]})
    return rows


def others_of(rows: Iterable[Row]) -> list[str]:
    """The other methods in the rows."""
    return [name for name in dict.fromkeys(row["method"] for row in rows) if name in OTHERS]


def values(rows: Iterable[Row], method: str, radius: str, field: str) -> np.ndarray:
    """(networks, images) of a method at a radius, of the setting that is best for the field."""
    best_for = "relevance" if field == "relevance" else "kept"
    found = [
        row[field]
        for row in rows
        if (row["method"], row["radius"]) == (method, radius)
        and (method not in OTHERS or best_for in row["best_for"])
        and field in row
    ]
    return np.array(found, float)


def cells(rows: Sequence[Row], method: str, case: Case, field: str, digits: int = 2) -> str:
    """The means at all radii."""
    found = [values(rows, method, radius, field) for radius in case.all_radii]
    return " ".join(number(some.mean(), digits) for some in found if some.size)


def about(rows: Sequence[Row], case: Case, what: str) -> str:
    """On what the rows were measured."""
    nets = {row["seed"]: row for row in rows}.values()
    right = ", ".join(f"{net['accuracy']:.1%}" for net in nets)
    kept = " ".join(
        number(np.mean([row["attacked"] for row in rows if row["radius"] == radius]), 2)
        for radius in case.all_radii
    )
    networks = "1 network" if len(nets) == 1 else f"{len(nets)} networks"
    return (
        f"**{relex_studies.capital(case.title)}**: {rows[0]['images']} {what} images, "
        f"{networks} ({right} right); radii {', '.join(case.all_radii)}; the attacked images "
        f"themselves keep their class: {kept}."
    )


def table_of_starts(records: Records, name: str, case: Case) -> str:
    """Starts on validation images."""
    rows = [row for row in records.rows(f"validation-{name}") if row["method"] == "RelEx"]
    rows = [row for row in rows if row["piece"] == f"validation-{name}"]
    lines = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        own = [row | {"method": setting} for row in rows if row["setting"] == setting]
        told, _, optimizer = setting.removeprefix("RelEx, ").partition(", ")
        shown = f"`{told}`, {optimizer}" if optimizer else f"`{told}`"
        lines.append(
            [
                shown,
                cells(own, setting, case, "kept"),
                cells(own, setting, case, "size", 0),
                cells(own, setting, case, "relevance", 3),
            ]
        )
    head = ["RelEx from", "class kept", "mean size of masks", "R"]
    return f"{about(rows, case, 'validation')}\n\n{table(head, lines)}"


def table_of_choice(records: Records) -> str:
    """All starts by the rule."""
    chosen = chosen_start(records)
    lines = []
    for start, found in of_starts(records).items():
        name = start.removeprefix("RelEx, ")
        lines.append(
            [
                f"**{name}**" if start == chosen else name,
                number(found["kept"], 2),
                number(found["size"], 2),
                number(found["largest"], 2),
                number(found["relevance"], 3),
            ]
        )
    head = ["RelEx from", "class kept, least", "size / the paper's", "largest", "mean R"]
    return f"{table(head, lines)}\n\nChosen: {chosen}."


def table_of_methods(rows: Sequence[Row], case: Case, records: Records, name: str) -> str:
    """All methods on fresh images, and the settings of others below."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        shown = f"`{method}`" if method in OTHERS else method
        line = [
            shown,
            cells(rows, method, case, "kept"),
            cells(rows, method, case, "kept_by_clean"),
            cells(rows, method, case, "size", 0),
            cells(rows, method, case, "relevance", 3),
        ]
        lines.append(line)
    head = ["method", "class kept", "by the clean image's mask", "mean size of masks", "R"]
    settings = "; ".join(
        f"{method} {best_settings(records, name, method)['relevance'].replace('; ', ', ')}"
        for method in others_of(rows)
    )
    return (
        f"{about(rows, case, 'fresh')}\n\n{table(head, lines)}\n\n"
        f"*Chosen for R, of {BUDGET} settings at most: {settings}.*"
    )


def table_of_tests(rows: Sequence[Row], case: Case) -> str:
    """RelEx's R less that of each other method: the strongest one, and whether all are beaten."""
    tests = {
        (radius, method): compare(
            values(rows, DEFAULT, radius, "relevance"), values(rows, method, radius, "relevance")
        )
        for radius in case.all_radii
        for method in others_of(rows)
    }
    better = dict(zip(tests, holm([test.p_value for test in tests.values()])))
    lines = []
    for radius in case.all_radii:
        method = min(others_of(rows), key=lambda name: tests[radius, name].mean)
        test = tests[radius, method]
        below = [
            name
            for name in others_of(rows)
            if better[radius, name] and tests[radius, name].mean > 0
        ]
        own = mean_interval(values(rows, DEFAULT, radius, "relevance"))
        its = mean_interval(values(rows, method, radius, "relevance"))
        lines.append(
            [
                radius,
                number(own.mean),
                f"`{method}` {number(its.mean)}",
                f"{test.mean:+.3f} ({test.low:+.3f} to {test.high:+.3f})",
                f"{len(below)} of {len(others_of(rows))}",
            ]
        )
    head = [
        "radius",
        "R of RelEx's mask",
        "strongest other",
        "difference, 95 % interval",
        "others below, by Holm",
    ]
    return table(head, lines)


def table_of_goals(records: Records, names: Sequence[str]) -> str:
    """Retrieval with its interval, and sizes beside those of the paper's start."""
    lines = []
    for name in names:
        case, rows = CASES[name], rows_of(records, name)
        kept = {r: values(rows, DEFAULT, r, "kept") for r in case.all_radii}
        worst = min(kept, key=lambda r: kept[r].mean())
        low, high = binomial_interval(int(kept[worst].sum()), kept[worst].size, 0.05)
        paper = {r: values(rows, PAPER, r, "kept") for r in case.all_radii}
        sizes = {
            r: [values(rows, method, r, "size") for method in (DEFAULT, PAPER)]
            for r in case.all_radii
        }
        ratio = max(own.mean() / of_paper.mean() for own, of_paper in sizes.values())
        both = [kept[r].astype(bool) & paper[r].astype(bool) for r in case.all_radii]
        where_both = max(
            own[some].mean() / of_paper[some].mean()
            for some, (own, of_paper) in zip(both, sizes.values())
            if some.any()
        )
        lines.append(
            [
                case.title,
                f"{number(kept[worst].mean())} ({float(low):.3f} to {float(high):.3f})",
                number(min(some.mean() for some in paper.values())),
                number(ratio, 2),
                number(where_both, 2),
            ]
        )
    head = [
        "images",
        "class kept at the worst radius, 95 % interval",
        "from the paper's start",
        "largest ratio of sizes",
        "where both keep the class",
    ]
    return table(head, lines)


def kept_from_paper(records: Records) -> str:
    """The least and the largest share of digits whose class masks from the paper's start keep."""
    rows = rows_of(records, "mnist")
    found = [values(rows, PAPER, radius, "kept").mean() for radius in CASES["mnist"].all_radii]
    return f"{min(found):.0%} to {max(found):.0%}"


def table_of_paper(records: Records) -> str:
    """Table 1 of the paper, with ours."""
    lines = []
    for method, printed in TABLE_1.items():
        line = [method]
        for of_paper, name in zip(printed, ("gtsrb", "gtsrb-attacked")):
            line.append(" ".join(f"{value:.2f}" for value in of_paper))
            rows = rows_of(records, name)
            line.append(cells(rows, method, CASES[name], "relevance", 2))
        lines.append(line)
    head = [
        "R",
        "paper, natural, .07 .1 .3 1",
        f"ours, standard, {' '.join(CASES['gtsrb'].all_radii)}",
        "paper, robust, .07 .1 .3 1",
        f"ours, adversarial, {' '.join(CASES['gtsrb'].all_radii)}",
    ]
    return table(head, lines)


# --- drawn ---------------------------------------------------------------------------------------


def figures(records: Records, folder: Path) -> None:
    """A picture for each case, and masks from both starts."""
    for name, case in CASES.items():
        rows = rows_of(records, name)
        if rows:
            plot_curves(curves(rows, case)).savefig(folder / f"relex-{name}.png")
    if "pictures" in records:
        relex_studies.draw(records["pictures"]["rows"], folder / "relex-masks.png")


def curves(rows: Sequence[Row], case: Case) -> dict[str, dict[str, MetricResult]]:
    """Panels of methods over the radius of the attack."""
    panels: dict[str, dict[str, MetricResult]] = {}
    fields: dict[str, Any] = {
        "class kept": "kept",
        "class kept by the clean image's mask": "kept_by_clean",
        "relevance R": "relevance",
        "mean size of masks": "size",
    }
    for title, field in fields.items():
        for method in (*VARIANTS, PULL, *OTHERS):
            if field == "size" and method in (*OTHERS, PLAIN, PULL):
                continue  # of other methods it is of a scale of its own
            found = [values(rows, method, radius, field) for radius in case.all_radii]
            if not all(some.size for some in found):
                continue
            points = np.stack([some.ravel() for some in found], axis=1)
            panels.setdefault(title, {})[method] = MetricResult(
                metric=title,
                axis=np.array([*case.all_radii.values()]),
                axis_label="radius of the attack",
                curves=points,
                scores=points.mean(axis=1),
                tied=np.zeros(len(points), bool),
                higher_is_better=field != "size",
            )
    return panels
