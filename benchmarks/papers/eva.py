"""EVA beside other explainers, by all metrics: Tables 1 and 2 of its paper, on fresh images.

Source: Fel et al., Don't Lie to Me! Robust and Efficient Explainability with Verified Perturbation
Analysis, CVPR 2023.

Of each method the setting is taken whose rank among all settings of that method is best on
validation images, on average over the columns of a table: Deletion, Insertion, MuFidelity with a
random image as baseline and both sides of Robustness-Sr; or the first three with a black image.
Slow methods explain fewer images: the first ones.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from protocol.data import split
from protocol.networks import SEEDS, VALIDATION_SEED, colour_network, digits_network
from protocol.pieces import Context, Piece, Records
from protocol.records import Row
from robustness import seconds_of_ways

from papers.eva_figures import draw_scores
from papers.eva_ideas import ideas
from papers.eva_methods import CLIP, COLOUR_RADII, DEFAULT, GROUPS, Settings, methods
from papers.eva_tables import BLACK, RANDOM, blocks_of_results, chosen
from xcertify.attacks import PGD
from xcertify.attributions import EVA
from xcertify.bounds import UnsupportedLayerError
from xcertify.commands.benchmark.bench import NAMED, OTHERS, Bench, Results
from xcertify.commands.networks import accuracy, predict
from xcertify.commands.timing import timed
from xcertify.datasets import Images
from xcertify.regions import Ball

NETS = ("dense", "cnn", "colour")
NB_CHOOSING = {"dense": 100, "cnn": 100, "colour": 20}
NB_FRESH = {"dense": 500, "cnn": 500, "colour": 200}
# images of Robustness-Sr, whose attack is the slowest part
NB_ROBUST = {"dense": 200, "cnn": 200, "colour": 50}
# The first fresh images that slow methods explain; on validation images a setting has a fifth
NB_SLOW = {
    DEFAULT: {"colour": 50},
    "EVA, crown": {"colour": 50},
    "EVA, crown, 8x8": {"colour": 50},
    "EVA exact": {"dense": 100, "cnn": 10},
    "EVA exact, as in the paper": {"dense": 100, "cnn": 10},
    "EVA hybrid": {"dense": 200, "cnn": 100},
    "EVA sampled": {"dense": 200, "cnn": 100},
    "Xplique SobolAttributionMethod": {"dense": 200, "cnn": 100, "colour": 50},
    "Xplique HsicAttributionMethod": {"dense": 50, "cnn": 50, "colour": 20},
    "cells attacked, one by one": {"dense": 30, "cnn": 10},
    "cells bounded, one by one": {"dense": 30, "cnn": 10},
    "the same by alpha-crown": {"dense": 10, "cnn": 3},
    "sufficient reason": {"dense": 30, "cnn": 10},
    "Greedy-AS": {"dense": 8, "cnn": 5},
    "Greedy-AS of the complement": {"dense": 8, "cnn": 5},
}
QUICK = ("EVA, crown-ibp", "EVA, default", "EVA, in rounds", "Control", "Saliency", "Random")
RADII = (0.01, 0.02, 0.03, 0.05, 0.1)
METHODS = ("ibp", "crown-ibp", "crown", "decomon:forward-ibp", "decomon:crown")


def pieces(quick: bool) -> list[Piece]:
    """Settings are chosen, then each network is measured, then what bounds cost."""
    found = []
    for net in NETS[:1] if quick else NETS:
        groups = GROUPS[:2] if quick or net == "colour" else GROUPS
        for group in groups:
            found.append(Piece(f"validation-{net}-{group}", partial(choose, net, group), 12))
        for seed in SEEDS[:1] if quick or net == "colour" else SEEDS:
            for group in groups:
                run = partial(report, net, seed, group)
                found.append(Piece(f"fresh-{net}-{seed}-{group}", run, 10))
        if net != "colour":
            found.append(Piece(f"ideas-{net}", partial(try_ideas, net), 6))
            found.append(Piece(f"radii-{net}", partial(radii, net), 2))
            found.append(Piece(f"cost-{net}", partial(cost, net), 3))
        else:
            found.append(Piece("looseness-colour", looseness, 3))
    if not quick:
        found.append(Piece("robustness", robustness, 3))
    return found


def blocks(records: Records) -> dict[str, str]:
    """What the pages show."""
    return blocks_of_results(records)


def figures(records: Records, folder: Path) -> None:
    """Pictures of the scores."""
    draw_scores(records, folder)


# --- networks and images -------------------------------------------------------------------------


def images_of(net: str, context: Context) -> tuple[Images, Images, Images]:
    """To train on, to choose on, and to report."""
    return split("cifar10" if net == "colour" else "mnist", context)


def network_of(net: str, seed: int, context: Context) -> keras.Model:
    """The network of a seed, trained unless it is kept."""
    train = images_of(net, context)[0]
    if net == "colour":
        return colour_network(context, seed, train)
    return digits_network(context, net, seed, train)


# --- explainers ----------------------------------------------------------------------------------


def choose(net: str, group: str, context: Context) -> list[Row]:
    """Mean scores of all settings on validation images; those of Greedy-AS on a few."""
    images, _ = images_of(net, context)[1]
    images = images[: 8 if context.quick else NB_CHOOSING[net]]
    bench = Bench(network_of(net, VALIDATION_SEED, context), images, VALIDATION_SEED, 0)
    rows = []
    for method, settings in methods_of(net, group, context).items():
        nb_images = -(-NB_SLOW.get(method, {}).get(net, 10**6) // 5)
        for setting in context.progress(settings, method):
            row = measured(bench, net, method, setting, settings[setting], nb_images)
            if "scores" in row:
                row["scores"] = {n: round(float(np.mean(s)), 5) for n, s in row["scores"].items()}
            rows.append(row)
    return rows


def try_ideas(net: str, context: Context) -> list[Row]:
    """Other maps that bounds can make, on validation images, with scores of each image."""
    images, _ = images_of(net, context)[1]
    model = network_of(net, VALIDATION_SEED, context)
    bench = Bench(model, images[: 4 if context.quick else NB_CHOOSING[net]], VALIDATION_SEED, 0)
    tried = ideas(context.quick)
    return [
        measured(bench, net, name, "-", tried[name], NB_SLOW.get(name, {}).get(net, 10**6))
        for name in context.progress(tried, f"ideas, {net}")
    ]


def report(net: str, seed: int, group: str, context: Context) -> list[Row]:
    """A row for each method, as chosen, with its scores of each fresh image."""
    images, labels = images_of(net, context)[2]
    model = network_of(net, seed, context)
    bench = Bench(model, images[: 10 if context.quick else NB_FRESH[net]], seed, 0)
    of_all: Row = {"network": net, "seed": seed, "accuracy": accuracy(model, images, labels)}
    picks = [chosen(context.records, net, columns) for columns in (RANDOM, BLACK)]
    rows = []
    taken = methods_of(net, group, context)
    for method in context.progress(taken, f"{net}, network {seed}, {group}"):
        settings = dict.fromkeys(of_table[method] for of_table in picks if method in of_table)
        if not settings:
            rows.append(of_all | {"method": method, "failed": "on validation images"})
        nb_images = NB_SLOW.get(method, {}).get(net, 10**6)
        for setting in settings:
            make = taken[method][setting]
            rows.append(of_all | measured(bench, net, method, setting, make, nb_images))
    return rows


def methods_of(net: str, group: str, context: Context) -> dict[str, Settings]:
    """The methods of a group, or some with two settings in a small run."""
    found = methods(group, of_digits=net != "colour")
    if context.quick:
        some = {method: s for method, s in found.items() if method.startswith(QUICK)}
        found = {method: dict(list(s.items())[1:3] or s) for method, s in some.items()}
    return found


def measured(
    bench: Bench,
    net: str,
    method: str,
    setting: str,
    make: Callable[[keras.Model, int], Any],
    nb_images: int,
) -> Row:
    """Scores (images,) of the first images by all metrics, or why there are none."""
    about: Row = {"method": method, "setting": setting}
    images, classes = bench.images[:nb_images], bench.classes[:nb_images]
    try:
        explainer = make(bench.model, bench.seed)
        explainer.explain(images[:1], classes[:1])  # compiles
        maps, seconds = timed(explainer.explain, images, classes)
    except UnsupportedLayerError as error:
        return about | {"failed": f"refused: {str(error).splitlines()[0]}"}
    except Exception as error:
        traceback.print_exc()
        return about | {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    maps = np.asarray(maps)
    results = evaluated(bench, maps, NB_ROBUST[net])
    found = {name: result.scores for name, result in results.items()}
    return about | {
        "images": len(images),
        "ms": round(seconds / len(images) * 1e3, 3),
        "scores": {name: np.round(np.float64(found[name]), 4) for name in (*RANDOM, *BLACK)},
    }


def evaluated(bench: Bench, maps: np.ndarray, nb_robust: int) -> Results:
    """Results of all metrics; those of Robustness-Sr of the first images."""
    of_all = bench.metrics(len(maps))
    found = {name: m.detailed_evaluate(maps) for name, m in of_all.items() if name != NAMED}
    first = maps[:nb_robust]
    robustness: Any = bench.metrics(len(first))[NAMED]
    return found | dict(zip((NAMED, OTHERS), robustness.evaluate_both(first)))


# --- bounds --------------------------------------------------------------------------------------


def radii(net: str, context: Context) -> list[Row]:
    """How many classes are proved to be constant, and how many an attack changes."""
    images, _ = images_of(net, context)[2]
    images = images[: 10 if context.quick else 100]
    model = network_of(net, SEEDS[0], context)
    classes = predict(model, images)
    attack = PGD(model, steps=40, restarts=2)
    rows = []
    for epsilon in context.progress(RADII, f"radii, {net}"):
        certificate = EVA(model, epsilon=epsilon, clip=CLIP, batch_size=64).certify(images)
        points = attack(Ball(images, epsilon, clip=CLIP), classes).points
        rows.append(
            {
                "network": net,
                "epsilon": epsilon,
                "images": len(images),
                "proved": int(np.sum(certificate.robust)),
                "changed": int(np.sum(predict(model, points) != classes)),
            }
        )
    return rows


def looseness(context: Context) -> list[Row]:
    """Overlaps that are proved of colour images, and that an attack attains."""
    images, _ = images_of("colour", context)[1]
    model = network_of("colour", VALIDATION_SEED, context)
    rows = []
    for method, nb_images in (("crown-ibp", 50), ("crown", 5)):
        for epsilon in context.progress(COLOUR_RADII, f"looseness, {method}"):
            explainer = EVA(model, epsilon=epsilon, clip=CLIP, method=method, attack=True)
            found = explainer.certify(images[:nb_images])
            about: Row = {"method": method, "epsilon": epsilon, "images": nb_images}
            means = {
                "proved": float(np.mean(found.robust)),
                "overlap": float(np.mean(found.overlap)),
                "attained": float(np.mean(found.attained)),
            }
            rows.append(about | means)
    return rows


def cost(net: str, context: Context) -> list[Row]:
    """Proved overlap, and time of a map with 12x12 cells, of each method of bounds and mode."""
    images, _ = images_of(net, context)[2]
    images = images[: 2 if context.quick else 20]
    model = network_of(net, SEEDS[0], context)
    forward = best_time(partial(model.predict_on_batch, images)) / len(images)
    rows = []
    for method in context.progress(METHODS[:2] if context.quick else METHODS, f"cost, {net}"):
        for mode in ("one-pass", "exact"):
            about: Row = {"network": net, "method": method, "mode": mode, "forward": forward}
            if mode == "one-pass" and method not in ("crown", "crown-ibp"):
                rows.append(about | {"failed": "no linear bounds"})
            else:
                rows.append(about | cost_of(model, images, method, mode))
    return rows


def cost_of(model: keras.Model, images: np.ndarray, method: str, mode: str) -> Row:
    """Of as many images as a call of eight seconds has; the best of three calls."""
    explainer = EVA(model, epsilon=0.01, clip=CLIP, grid_size=12, method=method, mode=mode)
    try:
        explainer.certify(images[:1])
    except UnsupportedLayerError:
        return {"failed": "refused"}
    seconds = best_time(partial(explainer.explain, images[:1]), repeats=1)
    part = images[: max(1, min(len(images), int(8 / seconds)))]
    if len(part) > 1:
        seconds = best_time(partial(explainer.explain, part)) / len(part)
    overlap = float(np.mean(explainer.certify(part).overlap))
    return {"images": len(part), "ms": seconds * 1e3, "overlap": overlap}


def robustness(context: Context) -> list[Row]:
    """What Robustness-Sr of 20 digits costs on a CNN, at once and by loops."""
    images, _ = images_of("cnn", context)[2]
    model = network_of("cnn", SEEDS[0], context)
    return [
        {"restarts": restarts, "seconds": seconds_of_ways(model, images[:20], restarts)}
        for restarts in context.progress((1, 4), "robustness")
    ]


def best_time(function: Callable[[], object], repeats: int = 3) -> float:
    """Seconds of the fastest of some calls, after one that compiles."""
    function()
    return min(timed(function)[1] for _ in range(repeats))
