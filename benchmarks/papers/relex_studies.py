"""What else is asked of RelEx: attacks on maps, any class, radii, pictures, and cost."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from protocol.networks import SEEDS
from protocol.pieces import Context, Records
from protocol.records import Row
from protocol.tables import number, table

from papers.relex_methods import DEFAULT, OTHERS, PAPER, VARIANTS, other, others, relex
from papers.relex_networks import CASES, Case, Measured, measured
from xcertify.attacks import input_gradient, targeted_map_attack, top_k_attack
from xcertify.attributions import RelEx
from xcertify.commands.networks import convolutional_net, predict
from xcertify.metrics import ClassRetrieval, rank_correlation, top_k_overlap
from xcertify.plots import draw_attribution, draw_image
from xcertify.regions import Ball

Best = Callable[[Records, str, str], dict[str, str]]
TOP = 0.1  # share of the pixels that are compared
NB_CLASSES = 10  # most classes that masks are learned for in the study of any class
EPSILON = 8 / 255  # of attacks on maps
NB_PICTURES = 8


# --- attacks on maps -----------------------------------------------------------------------------


def attacks_on_maps(case: Case, best: Best, context: Context) -> list[Row]:
    """Retrieval and likeness of maps under attacks on the gradient as an explanation."""
    there = measured(context, case, SEEDS[0])
    model, images, classes = there.model, there.images, there.classes
    region = Ball(images, EPSILON, clip=(0, 1))
    nb_top = int(TOP * images[0, ..., 0].size)
    weights = np.eye(model.output_shape[1])[classes]
    maps = input_gradient(model, tf.constant(images), weights).numpy()
    attacks = {
        "untargeted": there.attacked(EPSILON),
        "structured": targeted_map_attack(
            model, input_gradient, region, maps[::-1], classes
        ).points,
        "unstructured": top_k_attack(model, input_gradient, region, classes, k=nb_top).points,
    }
    methods = {name: relex(model, name, VARIANTS[name]) for name in (DEFAULT, PAPER)}
    for name in others(context.quick):
        methods[name] = other(model, name, best(context.records, case_name(case), name)["kept"])
    rows = []
    for name, explain in context.progress(methods.items(), "attacks on maps"):
        clean = explain(images, classes).maps[name].mean(-1)
        for attack, points in attacks.items():
            masks, found = explain(points, classes)
            moved = found[name].mean(-1)
            kept = ClassRetrieval(model, points, classes).evaluate_samples(masks)
            rows.append(
                {
                    "method": name,
                    "attack": attack,
                    "case": case_name(case),
                    "images": len(images),
                    "top": nb_top,
                    "kept": [int(score) for score in kept],
                    "correlation": np.round(rank_correlation(clean, moved), 4),
                    "overlap": np.round(top_k_overlap(clean, moved, nb_top), 4),
                }
            )
    return rows


def capital(title: str) -> str:
    """With a capital at its beginning."""
    return title[0].upper() + title[1:]


def case_name(case: Case) -> str:
    """Under which a case is in `CASES`."""
    return next(name for name, other_case in CASES.items() if other_case is case)


def table_of_attacks(rows: Sequence[Row]) -> str:
    """Retrieval, correlation and overlap under each attack."""
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        line = [f"`{method}`" if method in OTHERS else method]
        for attack in attacks:
            (row,) = [r for r in rows if (r["method"], r["attack"]) == (method, attack)]
            fields = ("kept", "correlation", "overlap")
            line.append(" ".join(number(float(np.mean(row[field])), 2) for field in fields))
        lines.append(line)
    return (
        f"{capital(CASES[rows[0]['case']].title)}, {rows[0]['images']} fresh images, the "
        f"first network; the top {rows[0]['top']} pixels.\n\n{table(['method', *attacks], lines)}"
    )


# --- any class -----------------------------------------------------------------------------------


def any_class(case: Case, best: Best, context: Context) -> list[Row]:
    """Probability of class c in what a mask for c keeps, for classes that are not there too."""
    there = measured(context, case, SEEDS[0])
    nb_images = 1 if context.quick else 6
    some = np.linspace(0, there.model.output_shape[1] - 1, 3 if context.quick else NB_CLASSES)
    labels = np.tile(some.astype(int), nb_images)
    points = {"clean": there.images, "attacked": there.attacked(max(case.radii.values()))}
    methods = {name: relex(there.model, name, VARIANTS[name]) for name in (DEFAULT, PAPER)}
    for name in others(context.quick):
        setting = best(context.records, case_name(case), name)["kept"]
        methods[name] = other(there.model, name, setting)
    rows = []
    for name, explain in context.progress(methods.items(), "any class"):
        for what, images in points.items():
            repeated = np.repeat(images[:nb_images], len(some), axis=0)
            masks = explain(repeated, labels).masks
            curves = ClassRetrieval(there.model, repeated, labels).detailed_evaluate(masks).curves
            own = curves[np.arange(len(labels)), labels]
            shown = np.repeat(there.classes[:nb_images], len(some)) == labels
            rows.append(
                {
                    "method": name,
                    "points": what,
                    "case": case_name(case),
                    "images": nb_images,
                    "classes": len(some),
                    "absent": np.round(own[~shown], 4),
                    "predicted": np.round(own[shown], 4),
                }
            )
    return rows


def table_of_classes(rows: Sequence[Row]) -> str:
    """Mean probabilities of classes that the network does not see."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        line = [f"`{method}`" if method in OTHERS else method]
        for points in ("clean", "attacked"):
            (row,) = [r for r in rows if (r["method"], r["points"]) == (method, points)]
            line.append(number(float(np.mean(row["absent"]))))
        lines.append(line)
    head = ["mask of", "clean images", "attacked images"]
    return (
        f"{capital(CASES[rows[0]['case']].title)}, {rows[0]['images']} fresh images, "
        f"{rows[0]['classes']} classes each.\n\n{table(head, lines)}"
    )


# --- radii ---------------------------------------------------------------------------------------


def radii(case: Case, best: Best, context: Context) -> list[Row]:
    """Certified and attacked radii of what masks keep, and of whole images."""
    rows = []
    for name in (case_name(case),) if context.quick else ("mnist", "gtsrb", "gtsrb-attacked"):
        there = measured(context, CASES[name], SEEDS[0])
        nb_images = 2 if context.quick else 20
        images, classes = there.images[:nb_images], there.classes[:nb_images]
        explainer = RelEx(there.model, clip=(0, 1))
        masks = {
            DEFAULT: explainer.masks(images, classes),
            PAPER: RelEx(there.model, start="paper").masks(images, classes),
            "no mask": np.ones_like(images),
        }
        if context.quick:
            del masks[PAPER]
        for title, mask in context.progress(masks.items(), f"radii, {name}"):
            found = explainer.certify(images, classes, mask)
            rows.append(
                {
                    "case": name,
                    "method": title,
                    "images": len(images),
                    "certified": np.round(found.certified, 6),
                    "attacked": [  # infinite: none was found
                        round(float(radius), 6) if np.isfinite(radius) else None
                        for radius in found.attacked
                    ],
                }
            )
    return rows


def table_of_radii(rows: Sequence[Row]) -> str:
    """Medians of radii, in pixels from 0 to 1."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        line = [{"no mask": "whole images"}.get(method, method)]
        for name in cases:
            (row,) = [r for r in rows if (r["method"], r["case"]) == (method, name)]
            attacked = [np.inf if radius is None else radius for radius in row["attacked"]]
            line.append(f"{np.median(row['certified']):.3f}, {np.median(attacked):.3f}")
        lines.append(line)
    return (
        f"Medians of certified, attacked radii of {rows[0]['images']} fresh images.\n\n"
        f"{table(['kept by', *(CASES[name].title for name in cases)], lines)}"
    )


# --- pictures ------------------------------------------------------------------------------------


def pictures(case: Case, context: Context) -> list[Row]:
    """Attacked images and their masks from both starts, as bytes in hexadecimal."""
    there = measured(context, case, SEEDS[0])
    nb_images = 2 if context.quick else NB_PICTURES
    points = there.attacked(max(case.radii.values()))[:nb_images]
    there = Measured(there.model, points, there.classes[:nb_images], there.accuracy)
    rows = []
    masks = {
        name: RelEx(there.model, **VARIANTS[name]).masks(points, there.classes)
        for name in (PAPER, DEFAULT)
    }
    for number_, point in enumerate(points):
        row: Row = {"shape": point.shape, "image": _as_text(point)}
        row["class"] = int(there.classes[number_])
        row["seen"] = int(predict(there.model, point[None])[0])
        for name, found in masks.items():
            kept = int(predict(there.model, (found[number_] * point)[None])[0])
            row[name] = {"mask": _as_text(found[number_]), "seen": kept}
        rows.append(row)
    return rows


def _as_text(values: np.ndarray) -> str:
    return np.round(255 * values).astype(np.uint8).tobytes().hex()


def _as_image(row: Row, text: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(row["shape"]) / 255


def draw(rows: Sequence[Row], path: Path) -> None:
    """Attacked images above, their masks from both starts below, and what the network sees."""
    figure = Figure(figsize=(1.1 * len(rows) + 1.2, 4.2), layout="constrained", dpi=120)
    axes = figure.subplots(3, len(rows), squeeze=False)
    for column, row in enumerate(rows):
        draw_image(axes[0, column], _as_image(row, row["image"]))
        axes[0, column].set_title(f"{row['class']}, seen: {row['seen']}", fontsize=9)
        for line, name in enumerate((PAPER, DEFAULT), start=1):
            mask = _as_image(row, row[name]["mask"])
            draw_attribution(axes[line, column], mask, _as_image(row, row["image"]))
            lost = row[name]["seen"] != row["class"]
            colour = "firebrick" if lost else "black"
            title = f"seen: {row[name]['seen']}"
            axes[line, column].set_title(title, fontsize=9, color=colour)
    for line, title in enumerate(("attacked", 'start="paper"', "start=0.3")):
        axes[line, 0].set_ylabel(title, fontsize=9)
    for one in axes.flat:
        one.set_xticks([])
        one.set_yticks([])
        one.set_axis_on()
    figure.savefig(path)


# --- cost ----------------------------------------------------------------------------------------


def cost(context: Context) -> list[Row]:
    """Seconds of masks and certificates, beside plain passes and a plain loop, and memory."""
    there = measured(context, CASES["mnist"], SEEDS[0])
    nb_images, steps = (2, 5) if context.quick else (20, 50)  # 20: 500 copies divide evenly
    images, labels = there.images[:nb_images], there.classes[:nb_images]
    explainer = RelEx(there.model, steps=steps, tolerance=0, clip=(0, 1))
    stopping = RelEx(there.model, steps=steps, clip=(0, 1))
    masks = stopping.masks(images, labels)
    floor = plain_passes(there.model, images, labels, 2 * 50 * steps)
    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "all at once, `tolerance=0`": (lambda: explainer.masks(images, labels), 1),
        "all at once (default: settled masks are left alone)": (
            lambda: stopping.masks(images, labels),
            1,
        ),
        "as many passes of the plain network, and back": (floor, 1),
        "one call for each image, `tolerance=0`": (
            lambda: [explainer.masks(image[None], [label]) for image, label in zip(images, labels)],
            1,
        ),
        "one eager loop for each image (every tenth, times ten)": (
            lambda: [
                eager(there.model, images[n], labels[n], steps) for n in range(0, len(images), 10)
            ],
            10 if nb_images > 10 else nb_images,
        ),
    }
    if not context.quick:
        ways["`certify` of given masks"] = (lambda: stopping.certify(images, labels, masks), 1)
    rows: list[Row] = []
    for name, (way, times) in context.progress(ways.items(), "cost"):
        if "eager" not in name:
            way()  # compiles
        seconds = times * timed(way)
        about = {"way": name, "images": nb_images, "steps": steps}
        rows.append(about | {"wall": seconds[0], "processor": seconds[1]})
    return rows


def timed(way: Callable[[], object]) -> np.ndarray:
    """Wall time and processor time of a call, (2,), in seconds."""
    start = np.array([time.perf_counter(), time.process_time()])
    way()
    return np.array([time.perf_counter(), time.process_time()]) - start


def plain_passes(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, nb_each: int
) -> Callable[[], object]:
    """Passes of a network and gradients by its inputs, as often for each image, of 500 at once."""
    points = np.repeat(images, 500 // len(images), axis=0)
    classes = np.repeat(labels, 500 // len(images))
    nb_calls = nb_each * len(images) // len(points)

    @tf.function
    def passes(points: tf.Tensor, classes: tf.Tensor, nb_calls: tf.Tensor) -> tf.Tensor:
        total = tf.zeros_like(points)
        for _ in tf.range(nb_calls):
            moved = points + 1e-9 * total  # other inputs each time
            with tf.GradientTape() as tape:
                tape.watch(moved)
                value = tf.reduce_sum(tf.gather(model(moved), classes, batch_dims=1))
            total += tape.gradient(value, moved)
        return total

    passes(tf.constant(points), tf.constant(classes), tf.constant(1))
    return lambda: passes(tf.constant(points), tf.constant(classes), tf.constant(nb_calls)).numpy()


def eager(model: keras.Model, image: np.ndarray, label: int, steps: int = 50) -> np.ndarray:
    """The descent as it is usually written: one image, one step after the other, uncompiled."""
    generator = np.random.default_rng(0)
    mask = tf.constant(generator.uniform(0, 0.01, image.shape), tf.float32)
    velocity = tf.zeros_like(mask)
    for _ in range(steps):
        noise = generator.standard_normal((50, *image.shape), np.float32)
        copies = image + 0.1 * np.ptp(image) * noise
        with tf.GradientTape() as tape:
            tape.watch(mask)
            kept = tf.nn.softmax(model(mask * copies))[:, label]
            lost = tf.nn.softmax(model((1 - mask) * copies))[:, label]
            loss = tf.reduce_mean(-tf.math.log(kept) - tf.math.log(1 - lost + 1e-7))
            loss += 1e-4 * tf.reduce_sum(mask)
        gradient = tape.gradient(loss, mask)
        velocity = 0.99 * velocity + gradient / tf.norm(gradient)
        mask = tf.clip_by_value(mask - 0.1 * velocity, 0, 1)
    return mask.numpy()


def memory(context: Context) -> list[Row]:
    """Growth of the peak of memory with `batch_size`, each in a process of its own (Linux only)."""
    processes = multiprocessing.get_context("spawn")
    rows = []
    for batch_size in (8, 32, 100, 200):
        with processes.Pool(1) as pool:
            before, after = pool.apply(peaks, (batch_size,))
        rows.append({"batch_size": batch_size, "before": before, "after": after})
    return rows


def peaks(batch_size: int) -> tuple[float, float]:
    """The peak of memory, in MiB, of one step without copies, and of two with 50 of them."""
    model = convolutional_net((224, 224, 3), 10)
    images = np.random.default_rng(0).uniform(0, 1, (2, 224, 224, 3)).astype(np.float32)
    RelEx(model, nb_samples=1, steps=1, batch_size=2).masks(images, [0, 1])  # what any call takes
    before = peak()
    RelEx(model, steps=2, batch_size=batch_size).masks(images, [0, 1])
    return before, peak()


def peak() -> float:
    """The largest resident memory so far, in MiB; that of `resource` counts the parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (size,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(size) / 2**10


def table_of_cost(rows: Sequence[Row]) -> str:
    """Seconds of each way."""
    lines = [[row["way"], f"{row['processor']:.1f}", f"{row['wall']:.1f}"] for row in rows]
    return table([f"{rows[0]['images']} digits", "seconds of the processor", "on the clock"], lines)


def table_of_memory(rows: Sequence[Row]) -> str:
    """Growth of the peak."""
    lines = [[row["batch_size"], f"{row['after'] - row['before']:.0f}"] for row in rows]
    head = ["`batch_size`, of two images of 224x224x3 with 50 copies", "growth of the peak, MiB"]
    return table(head, lines)


# --- shown ---------------------------------------------------------------------------------------


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "attacks-on-maps": table_of_attacks,
    "any-class": table_of_classes,
    "radii": table_of_radii,
    "cost": table_of_cost,
    "memory": table_of_memory,
}


def blocks(records: Records) -> dict[str, str]:
    """The tables of what was measured."""
    return {name: shown(records[name]["rows"]) for name, shown in TABLES.items() if name in records}
