"""Soft stability of what explainers select, and what is proved of a smoothed model.

For each network of `statistical_networks.py` that was trained, and each explainer: the cells of
4 x 4 pixels in which its map is largest, a quarter of all, are shown, the others hidden (black
digits; the mean colour of each image of CIFAR-10, as others lie in the middle of what the network
knows). `Stability` at its defaults but for bars that hold for the whole curve of an image
(``together="curve"``): rates at 4, 8, 12 and 16 further cells, means over images, with how far they
may be from the true means of these images; the share of images whose rate at 16 is at least .9 by
its bar; and that of selections that have the class of the whole image by themselves, without which
a rate is about another class. Seconds are for an image, on the clock, with all radii.

Beside it hard stability by multiplicative smoothing: of each number of masks a share `keep` of the
cells is seen. Proved is how many cells may be revealed, whichever, without another class of the
smoothed model; that the smoothed model finds the class of the whole image for the selection is
what it costs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from statistical_networks import NETS, Net

from xcertify.attributions import (
    EVA,
    GradCAM,
    IntegratedGradients,
    RandomMap,
    RelEx,
    Rise,
    Saliency,
)
from xcertify.metrics import Stability

CELL = 4  # pixels on each side
TOP, RADIUS, STEPS = 0.25, 16, 4
NB_IMAGES = {"digits": 100, "cifar": 100}
NB_PROOFS = 30  # images of which a smoothed model is asked
BASELINES = {"digits": 0.0, "cifar": "mean"}
NB_MASKS = 32
KEEPS = (1 / 8, 1 / 4, 1 / 2)
EXPLAINERS: dict[str, Callable[[Net], Any]] = {
    "EVA": lambda net: EVA(net.model, 0.01 * net.span, grid_size=7, method="crown-ibp"),
    "RelEx": lambda net: RelEx(net.model),
    "Saliency": lambda net: Saliency(net.model),
    "IntegratedGradients": lambda net: IntegratedGradients(net.model, steps=20),
    "Rise": lambda net: Rise(net.model, nb_samples=500, grid_size=4),
    "GradCAM": lambda net: GradCAM(net.model),
    "RandomMap": lambda net: RandomMap(net.model),
}

Row = dict[str, Any]


def run(quick: bool) -> Iterator[Row]:
    """A row for each network and explainer, and for each share of cells that is kept."""
    for network, nb_images in NB_IMAGES.items():
        try:
            net = NETS[network](2 if quick else nb_images)
        except FileNotFoundError as missing:
            print(f"{network} is left out: {missing}", file=sys.stderr)
            continue
        for name, make in EXPLAINERS.items():
            maps = make(net).explain(net.inputs, net.classes)
            yield of_samples(net, network, name, maps)
            for keep in KEEPS[:1] if quick else KEEPS:
                yield of_proofs(net, network, name, maps, keep)
    yield of_costs(quick)


def settings_of(net: Net, network: str) -> dict[str, Any]:
    """What all metrics share."""
    cells = net.inputs.shape[1] // CELL
    return {"grid_size": cells, "top": TOP, "baseline_mode": BASELINES[network]}


def of_samples(net: Net, network: str, name: str, maps: np.ndarray) -> Row:
    """Rates of the network itself."""
    metric = Stability(
        net.model,
        net.inputs,
        radius=RADIUS,
        steps=STEPS,
        together="curve",
        **settings_of(net, network),
    )
    metric.evaluate(maps[: len(net.inputs)])  # compiles
    begin = time.perf_counter()
    found = metric.detailed_evaluate(maps)
    seconds = time.perf_counter() - begin
    return {
        "network": net.name,
        "explainer": name,
        "images": len(maps),
        "cells": int((net.inputs.shape[1] // CELL) ** 2),
        "radii": found.axis,
        "rates": found.mean_curve,
        "mean_error": found.mean_error,
        "nb_samples": found.nb_samples,
        "confidence": found.confidence,
        "stable": float((found.lower[:, -1] >= 0.9).mean()),
        "own": float((found.classes == net.classes).mean()),
        "clock": seconds / len(maps),
    }


def of_proofs(net: Net, network: str, name: str, maps: np.ndarray, keep: float) -> Row:
    """Proved radii of the smoothed network, beside a few samples that could refute them."""
    metric = Stability(
        net.model,
        net.inputs[:NB_PROOFS],
        radius=4,
        steps=-1,
        error=0.3,
        keep=keep,
        levels=NB_MASKS,
        **settings_of(net, network),
    )
    found = metric.detailed_evaluate(maps[:NB_PROOFS])
    assert found.interval.attacked is not None
    return {
        "network": net.name,
        "explainer": name,
        "keep": keep,
        "masks": NB_MASKS,
        "radius": float(found.interval.certified.mean()),
        "any": float((found.interval.certified > 0).mean()),
        "attacked": float(np.mean(np.minimum(found.interval.attacked, 5) - 1)),
        "images": len(found.classes),
        "own": float((found.classes == net.classes[:NB_PROOFS]).mean()),
    }


def of_costs(quick: bool) -> Row:
    """Of a large network, one radius at the usual error: it has random weights."""
    net = NETS["mobilenet"](1 if quick else 2)
    maps = Saliency(net.model).explain(net.inputs, net.classes)
    error = 0.3 if quick else 0.1
    metric = Stability(net.model, net.inputs, radius=RADIUS, steps=1, error=error, grid_size=14)
    metric.evaluate(maps)  # compiles
    begin = time.perf_counter()
    found = metric.detailed_evaluate(maps)
    seconds = (time.perf_counter() - begin) / len(maps)
    return {"cost of": net.name, "nb_samples": found.nb_samples, "clock": seconds}


def tables(rows: list[Row]) -> str:
    """Rates, then proofs, as Markdown."""
    costs = [
        f"{row['cost of']} of 224 x 224: {row['nb_samples']} sets for one radius take "
        f"{row['clock']:.1f} s an image, on the clock."
        for row in rows
        if "cost of" in row
    ]
    return "\n\n".join([rates_table(rows), *costs, proofs_table(rows)])


def rates_table(rows: list[Row]) -> str:
    """A line for each network and explainer."""
    rows = [row for row in rows if "rates" in row]
    first = rows[0]
    radii = " | ".join(f"+{radius}" for radius in first["radii"])
    lines = [
        f"| network | explainer | {radii} | +- | rate >= .9 by its bar | has the class alone "
        f"| s per image |",
        f"| --- | --- | {'--- | ' * len(first['radii'])}--- | --- | --- | --- |",
    ]
    for row in rows:
        rates = " | ".join(f"{rate:.3f}" for rate in row["rates"])
        lines.append(
            f"| {row['network']} | `{row['explainer']}` | {rates} | {row['mean_error']:.3f} "
            f"| {row['stable']:.0%} | {row['own']:.0%} | {row['clock']:.2f} |"
        )
    about = {
        row["network"]: f"{row['images']} images of {row['network']}, {row['cells']} cells"
        for row in rows
    }
    return (
        "\n".join(lines) + f"\n\nStability rates, a quarter of the cells selected; "
        f"{'; '.join(about.values())}; {first['nb_samples']} sets for each radius and image, "
        f"confidence {first['confidence']:g} for the whole curve."
    )


def proofs_table(rows: list[Row]) -> str:
    """A line for each network and explainer, columns for the shares that are kept."""
    rows = [row for row in rows if "keep" in row]
    keeps = list(dict.fromkeys(row["keep"] for row in rows))
    cells = {(row["network"], row["explainer"], row["keep"]): row for row in rows}
    lines = [
        "| network | explainer | " + " | ".join(f"keep {keep:g}" for keep in keeps) + " |",
        "| --- | --- |" + " --- |" * len(keeps),
    ]
    for network, name in dict.fromkeys((row["network"], row["explainer"]) for row in rows):
        texts = []
        for keep in keeps:
            row = cells[network, name, keep]
            texts.append(
                f"{row['radius']:.2f} ({row['any']:.0%}), refuted beyond {row['attacked']:.2f}, "
                f"{row['own']:.0%}"
            )
        lines.append(f"| {network} | `{name}` | {' | '.join(texts)} |")
    return (
        "\n".join(lines)
        + f"\n\nSmoothed by {rows[0]['masks']} masks, {rows[0]['images']} images of each: mean "
        "number of cells that may be revealed, whichever, proved (share of images with at least "
        "one); mean number beyond which a sampled set has another class, 4 where none has; share "
        "of selections for which the smoothed model has the class that the network gives to "
        "the image."
    )
