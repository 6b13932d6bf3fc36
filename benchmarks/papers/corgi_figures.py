"""The pictures of CORGI in the documentation, from what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from protocol.pieces import Records
from protocol.records import Row

from papers.corgi_tables import ASKED, attacked_of, classes_of, over, radius_of
from xcertify.plots import draw_attribution, draw_cells, draw_image

CERTIFIED, ATTACKED = "#2a5fb0", "#b0482a"
COLOURS = ("#d4722a", "#2a5fb0")


def figures(records: Records, folder: Path) -> None:
    """Write all pictures of which the results are stored."""
    rows = records.rows("signs-")
    drawn = {}
    if rows:
        drawn |= {"corgi-radii": draw_radii(rows), "corgi-cap": draw_cap(rows)}
    if "one-sign" in records:
        signs = records["one-sign"]["rows"]
        drawn |= {"corgi-sweeps": draw_sweeps(signs), "corgi-sign": draw_sign(signs)}
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png")


def draw_radii(rows: Sequence[Row]) -> Figure:
    """Certified and attacked radii in order, and the histogram of their ratio."""
    classes = classes_of(rows)
    figure = Figure(figsize=(9, 3), layout="constrained", dpi=150)
    axes = figure.subplots(1, len(classes) + 1)
    ratios = {}
    for one, class_ in zip(axes, classes):
        radius = radius_of(rows, class_, "pairwise", "crown")
        attacked = attacked_of(rows, class_)[:, : radius.shape[1]]
        order = np.argsort(radius, axis=None)
        one.semilogy(attacked.ravel()[order], ".", color=ATTACKED, label="attacked")
        one.semilogy(radius.ravel()[order], ".", color=CERTIFIED, label="certified")
        one.set(title=f"class {class_}", xlabel="images, in order of their radius")
        one.yaxis.set_minor_formatter(NullFormatter())
        one.legend(frameon=False, fontsize=8)
        ratios[class_] = over(attacked, radius).ravel()
    axes[0].set_ylabel("radius (l_inf)")
    edges = np.linspace(1, max(1.5, *(np.quantile(ratio, 0.98) for ratio in ratios.values())), 25)
    for colour, (class_, ratio) in zip(COLOURS, ratios.items()):
        label = f"class {class_}, median {np.median(ratio):.2f}"
        axes[-1].hist(np.minimum(ratio, edges[-1]), edges, alpha=0.6, color=colour, label=label)
    axes[-1].set(title="attacked / certified", xlabel="ratio (largest in the last bar)")
    axes[-1].legend(frameon=False, fontsize=8)
    tidy(axes)
    return figure


def draw_cap(rows: Sequence[Row]) -> Figure:
    """Map / per-channel of every image against what caps it, and against the linear ratio."""
    figure = Figure(figsize=(8, 3.4), layout="constrained", dpi=150)
    axes = figure.subplots(1, 2, sharey=True)
    for colour, class_ in zip(COLOURS, classes_of(rows)):
        base = radius_of(rows, class_, "per-channel", "crown")
        ratio = over(radius_of(rows, class_, "map", "crown"), base).ravel()
        cap = over(attacked_of(rows, class_), base).ravel()
        kept = [row["linear"] for row in rows if row.get("class") == class_ and "linear" in row]
        linear = np.array([np.divide(row["map"], row["per-channel"]) for row in kept]).ravel()
        for one, along in zip(axes, (cap, linear)):
            one.loglog(along, ratio, ".", color=colour, label=f"class {class_}")
    low, high = 0.9, max(one.get_xlim()[1] for one in axes)
    ticks = [1, 1.5, ASKED, 2, 2.5, 3, 4, 6, 8]
    for one in axes:
        one.plot([low, high], [low, high], color="#999999", linewidth=0.8)
        one.axhline(ASKED, color="#999999", linewidth=0.8, linestyle=":")
        one.set_xlim(low, high)
        one.set_xticks([tick for tick in ticks if tick < high], minor=False)
        one.set_yticks(ticks[:6], minor=False)
        one.minorticks_off()
        one.xaxis.set_major_formatter("{x:g}")
        one.yaxis.set_major_formatter("{x:g}")
    axes[0].set(xlabel="attacked / per-channel: no ratio can be larger", ylabel="map / per-channel")
    axes[1].set_xlabel("the same ratio if nothing in the network bent")
    axes[0].legend(frameon=False, fontsize=8)
    tidy(axes)
    return figure


def draw_sweeps(signs: Sequence[Row]) -> Figure:
    """Radius against the gap for several k, and against k2."""
    figure = Figure(figsize=(9, 3.2), layout="constrained", dpi=150)
    axes = figure.subplots(1, 2)
    for one, sweep, along, mark in zip(axes, ("k", "k2"), ("gap", "k2"), (".", ".-")):
        rows = [row for row in signs if row.get("sweep") == sweep]
        for label, key, colour in (
            ("attacked", "attacked", ATTACKED),
            ("certified", "radius", CERTIFIED),
        ):
            found = [row[key] for row in rows]
            one.plot([row[along] for row in rows], found, mark, color=colour, label=label)
        one.legend(frameon=False, fontsize=8)
        numbers = [row[sweep] for row in rows]
        one.set_title(
            f"k = {numbers[0]}..{numbers[-1]}"
            if sweep == "k"
            else f"the top {rows[0]['k']} within the top k2"
        )
    axes[0].set(xscale="log", yscale="log", ylabel="radius")
    axes[0].set_xlabel("CAM gap: value k minus value k + 1")
    axes[1].set_xlabel("k2")
    tidy(axes)
    return figure


def draw_sign(signs: Sequence[Row]) -> Figure:
    """Original and attacked image, map and top k at three radii, by the paper's attack."""
    first, *attacked = (row for row in signs if "attack within" in row)
    figure = Figure(figsize=(8, 1.75 * len(attacked) + 0.3), layout="constrained", dpi=150)
    axes = figure.subplots(len(attacked), 4)
    for row, found in zip(axes, attacked):
        draw_image(row[0], np.array(first["image"]))
        draw_image(row[1], np.array(found["image"]))
        for one, shown in ((row[2], first), (row[3], found)):
            image = np.array(shown["image"])
            draw_attribution(one, np.array(shown["map"]), image)
            draw_cells(one, shown["cells"], tuple(shown["map shape"]), image.shape)
        row[0].set_ylabel(f"radius {found['radius']:.2g}\n{found['attack within']}", fontsize=8)
        row[3].set_xlabel(f"{found['kept']} of {len(found['cells'])} cells the same", fontsize=8)
    titles = ("image", "attacked image", "map and top k", "map and top k, attacked")
    for one, title in zip(axes[0], titles):
        one.set_title(title, fontsize=9)
    return figure


def tidy(axes: np.ndarray) -> None:
    """Without frame."""
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
