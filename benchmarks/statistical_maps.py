"""Certified shares of pixels, seconds and memory, for explainers and networks.

For each network (`statistical_networks.py`), explainer, deviation of the noise and share K of
pixels at the top: `SmoothedAttribution.certify` at its defaults (100 samples that test, 10 that
choose, tau .75, alpha .001 for all pixels of an image, Holm). Means over images: percents of pixels
that are certified in the top set, certified out of it, and neither ("open"); *overlap*, certified
for the whole top set; and *expected*, the share of the chosen set that noisy top sets are shown to
hold on average, of images with a chosen set; both within the radius. Before the table: how many of
the noisy inputs have the class of the input itself.

Deviations and radii are shares of the width of the valid range, as of images in [0, 1]. Seconds are
those of the processor for an image, all cores together, and of the clock, after a first call, which
compiles; memory is by how much the process grew at most in both calls (Linux only). A network whose
data or package is not there is left out, which is said; MobileNetV2 has random weights, so that
only its costs are shown.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import application_calls
import numpy as np
from statistical_networks import NETS, Net

from xcertify import VacuousWarning
from xcertify.attributions import (
    EVA,
    GradCAM,
    GradientInput,
    IntegratedGradients,
    Rise,
    Saliency,
    SmoothedAttribution,
    SmoothGrad,
)

SIGMAS = (0.15, 0.25, 0.33)
TOPS = (0.05, 0.2, 0.5)
USUAL_TOP = 0.2  # at which costs are measured
EXPLAINERS: dict[str, Callable[[Net], Any]] = {
    "Saliency": lambda net: Saliency(net.model),
    "GradientInput": lambda net: GradientInput(net.model),
    "IntegratedGradients": lambda net: IntegratedGradients(net.model, steps=10),
    "SmoothGrad": lambda net: SmoothGrad(net.model, nb_samples=10),
    "GradCAM": lambda net: GradCAM(net.model),
    "Rise": lambda net: Rise(net.model, nb_samples=100, grid_size=4),
    "EVA": lambda net: EVA(net.model, 0.01 * net.span, grid_size=7, method="crown-ibp"),
}
# Images of each network, and of those of a pair that take long.
NB_IMAGES = {"digits": 20, "cifar": 20, "emotions": 10, "mobilenet": 2}
SLOW = {("emotions", "Rise"): 4, ("emotions", "EVA"): 1}
ONLY = {"mobilenet": ("Saliency", "GradientInput", "GradCAM")}

Row = dict[str, Any]


def run(quick: bool) -> Iterator[Row]:
    """A row for each network, explainer, deviation and share."""
    for network, make in NETS.items():
        try:
            net = make(2 if quick else NB_IMAGES[network])
        except (ImportError, FileNotFoundError) as missing:
            print(f"{network} is left out: {missing}", file=sys.stderr)
            continue
        for name in ONLY.get(network, EXPLAINERS):
            nb_images = 1 if quick else SLOW.get((network, name), len(net.inputs))
            if not (quick and (network, name) in SLOW):
                yield from rows(net, name, nb_images, costs_only=network in ONLY)


def rows(net: Net, name: str, nb_images: int, *, costs_only: bool = False) -> Iterator[Row]:
    """Of one explainer: its costs, then what is certified."""
    inputs, classes = net.inputs[:nb_images], net.classes[:nb_images]
    explainer = EXPLAINERS[name](net)
    asked: Row = {"network": net.name, "explainer": name, "images": nb_images}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VacuousWarning)  # the shares stand in the table
        smoothed = SmoothedAttribution(explainer, top=USUAL_TOP, sigma=SIGMAS[0] * net.span)
        yield asked | costs(smoothed, inputs, classes)
        remembered = Remembered(explainer)
        for sigma in () if costs_only else SIGMAS:
            kept = share_kept(net, sigma * net.span)
            for top in TOPS:
                smoothed = SmoothedAttribution(
                    remembered, model=net.model, top=top, sigma=sigma * net.span
                )
                found = shares(smoothed.certify(inputs, classes), net)
                yield asked | {"sigma": sigma, "kept": kept, "top": top} | found
            remembered.maps.clear()


def costs(smoothed: SmoothedAttribution, inputs: np.ndarray, classes: np.ndarray) -> Row:
    """Of an image, after a call that compiles."""
    hand_back_memory()

    def both() -> tuple[float, float]:
        smoothed.certify(inputs[:1], classes[:1])
        clock, processed = time.perf_counter(), time.process_time()
        smoothed.certify(inputs, classes)
        return time.perf_counter() - clock, time.process_time() - processed

    cell, (clock, processed) = application_calls.timed(both, 1)
    each = {"clock": clock / len(inputs), "cpu": processed / len(inputs)}
    return {"shape": list(inputs.shape[1:]), "GiB": cell["GiB"]} | each


def hand_back_memory() -> None:
    """To the system, so that what is taken again counts."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # of glibc
        trim(0)


def share_kept(net: Net, sigma: float, nb_samples: int = 20) -> float:
    """Share of noisy inputs that have the class of the input."""
    noise = np.random.default_rng(0).standard_normal((nb_samples, *net.inputs.shape), np.float32)
    found = [np.asarray(net.model(net.inputs + sigma * one)).argmax(axis=1) for one in noise]
    return float((np.stack(found) == net.classes).mean())


class Remembered:
    """An explainer that keeps the maps of the points that it was asked for: each K asks anew."""

    def __init__(self, explainer: Any) -> None:
        self.explainer, self.maps = explainer, {}

    def __call__(self, inputs: Any, targets: Any) -> np.ndarray:
        """Maps, those of new points by the explainer."""
        keys = [point.tobytes() for point in np.asarray(inputs)]
        new = np.array([key not in self.maps for key in keys])
        if new.any():
            found = self.explainer(inputs[new], targets[new])
            self.maps.update(zip((key for key, is_new in zip(keys, new) if is_new), found))
        return np.stack([self.maps[key] for key in keys])


def shares(found: Any, net: Net) -> Row:
    """What is certified of the pixels, means over images."""
    has_set = found.chosen.reshape(len(found.chosen), -1).any(axis=1)
    return {
        "radius": found.radius / net.span,
        "in": found.certified_in.mean(),
        "out": found.certified_out.mean(),
        "open": found.abstained.mean(),
        "overlap": found.overlap.mean(),
        "expected": found.expected_overlap[has_set].mean() if has_set.any() else None,
    }


def tables(rows: list[Row]) -> str:
    """A table of all networks at the usual K, one of each with everything, and one of costs."""
    lines = [*_summary([row for row in rows if row.get("top") == USUAL_TOP]), ""]
    for network in dict.fromkeys(row["network"] for row in rows if "sigma" in row):
        of_network = [row for row in rows if row["network"] == network and "sigma" in row]
        kept = {row["sigma"]: f"{row['kept']:.0%} at {row['sigma']}" for row in of_network}
        lines += [
            f"### {network}, {of_network[0]['images']} images\n",
            f"Noisy inputs that keep the class: {', '.join(kept.values())}.\n",
            *_shares(of_network),
            "",
        ]
    lines += [
        "### Costs of an image\n",
        "| network | explainer | images | processor, s | clock, s | memory, MiB |",
        "| --- " * 6 + "|",
    ]
    for row in rows:
        if "cpu" in row:
            shape = " x ".join(map(str, row["shape"]))
            lines.append(
                f"| {row['network']}, {shape} | `{row['explainer']}` | {row['images']} | "
                f"{row['cpu']:.2g} | {row['clock']:.2g} | {1024 * row['GiB']:.0f} |"
            )
    lines += ["", "Open: abstained from; overlap: `overlap`; kept: `expected_overlap`."]
    return "\n".join(lines)


def _summary(rows: list[Row]) -> Iterator[str]:
    """Lines of a table: a row for each explainer, at the deviation in the middle."""
    sigma = SIGMAS[len(SIGMAS) // 2]
    cells: dict[str, dict[str, str]] = {}
    networks = dict.fromkeys(row["network"] for row in rows)
    nb_images = {name: max(r["images"] for r in rows if r["network"] == name) for name in networks}
    for row in rows:
        if row["sigma"] == sigma:
            fewer = row["images"] != nb_images[row["network"]]
            images = f" (of {row['images']})" if fewer else ""
            cells.setdefault(row["explainer"], {})[row["network"]] = (
                f"{percents(row)}{images} | {row['overlap']:.2f}"
            )
    yield f"### K {USUAL_TOP:.0%}, sigma {sigma}\n"
    heads = (f"{name}: in / out / open | {name}: overlap" for name in networks)
    yield f"| explainer | {' | '.join(heads)} |"
    yield "| --- " * (1 + 2 * len(networks)) + "|"
    for name, of_networks in cells.items():
        line = " | ".join(of_networks.get(network, " | ") for network in networks)
        yield f"| `{name}` | {line} |"


def percents(row: Row) -> str:
    """Of the pixels: certified in, certified out, neither."""
    return " / ".join(f"{100 * row[word]:.1f}" for word in ("in", "out", "open"))


def _shares(rows: list[Row]) -> Iterator[str]:
    """Lines of a table: percents of pixels and both overlaps, for each K."""
    names = ("in / out / open", "overlap", "kept")
    heads = (f"K {top:.0%}: {name}" for top in TOPS for name in names)
    yield f"| explainer | sigma, radius | {' | '.join(heads)} |"
    yield "| --- " * (2 + 3 * len(TOPS)) + "|"
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["explainer"], row["sigma"]), []).append(row)
    for (name, sigma), group in groups.items():
        cells = []
        for row in group:
            expected = "" if row["expected"] is None else f"{row['expected']:.2f}"
            cells.append(f"{percents(row)} | {row['overlap']:.2f} | {expected}")
        fewer = group[0]["images"] != rows[0]["images"]
        images = f" (of {group[0]['images']})" if fewer else ""
        yield f"| `{name}`{images} | {sigma}, {group[0]['radius']:.3f} | {' | '.join(cells)} |"
