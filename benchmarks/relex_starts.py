"""RelEx from several starts of its masks: kept classes, sizes and relevance, under attack.

    python benchmarks/relex_starts.py validation --data-dir tfds --save  # choose the start
    python benchmarks/relex_starts.py test --data-dir tfds --save        # report, on other images
    python benchmarks/relex_starts.py --tables                           # of what is stored

Networks: convolutions with global average pooling on digits (MNIST), and the CNN of the benchmark
on CIFAR-10; trained on the first images of the training part. *validation* takes the images that
follow there and the last network of each kind, *test* the first images of the test part and all
networks. They are attacked (untargeted, PGD, l_inf),
and all methods explain the class that the network gives the clean image. Relevance R of other
methods is of the signed map or of its magnitude, whichever is higher on average.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from protocol.records import VERSIONS, commit, processor, write
from relex import OTHERS, STEPS

from xcertify import attributions
from xcertify.attacks import PGD
from xcertify.attributions import RelEx
from xcertify.commands.networks import accuracy, convolutional_net, fit, predict
from xcertify.datasets import load
from xcertify.metrics import ClassRetrieval, FeatureRelevance
from xcertify.regions import Ball
from xcertify.statistics import binomial_interval

FOLDER = Path(__file__).parent / "results" / "relex"
PARTS = ("validation", "test")
# data -> images that are trained on, epochs, seeds, radii
DATA: dict[str, tuple[int, int, tuple[int, ...], dict[str, float]]] = {
    "mnist": (8000, 20, (1, 2, 3), {".05": 0.05, ".1": 0.1}),
    "cifar10": (9000, 8, (0,), {"2/255": 2 / 255, "4/255": 4 / 255, "8/255": 8 / 255}),
}
PLAIN = {"optimizer": "adam", "background": 0.0, "sparsity": 0.0, "nb_samples": 1}
STARTS: dict[str, dict[str, dict[str, Any]]] = {
    "validation": {
        **{
            f"start={start!r}": {"start": start, "nb_samples": 10}
            for start in ("paper", 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
        },
        "start=0.5, Adam": {"start": 0.5, "nb_samples": 10, "optimizer": "adam"},
        "plain cross-entropy, Adam, start=0.5": {**PLAIN, "start": 0.5},
    },
    "test": {
        'RelEx, start="paper"': {"start": "paper"},
        "RelEx, start=0.1": {"start": 0.1},
        **{
            f"plain cross-entropy, Adam, start={start}": {**PLAIN, "start": start}
            for start in (0.005, 0.5, 1.0)
        },
    },
}

Row = dict[str, Any]


def main() -> None:
    """Measure a part, or take what is stored, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--data-dir", help="folder with prepared data sets")
    parser.add_argument("--nb-images", type=int, default=30)
    parser.add_argument("--models", type=Path, help="folder of networks: kept, not trained again")
    parser.add_argument("--save", action="store_true", help="store what is measured")
    parser.add_argument("--tables", action="store_true", help="print what is stored")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        parser.error(f"parts must be of {PARTS}. Received: {unknown}")
    for part in arguments.parts or PARTS:
        path = FOLDER / f"{part}.json"
        if arguments.tables:
            stored = json.loads(path.read_text())
        else:
            for stored in measured(part, arguments):  # more with each network
                if arguments.save:
                    write(path, stored)
        print(shown(part, stored), flush=True)


def measured(part: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of a part so far, and on what they were measured, after each network."""
    about = {
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {n: version(n) for n in VERSIONS},
        "processor": processor(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "nb_images": arguments.nb_images,
    }
    clock, rows = time.perf_counter(), []
    for name, (nb_train, nb_epochs, seeds, radii) in DATA.items():
        images, labels = load(name, "train", data_dir=arguments.data_dir)
        chosen = images[nb_train:]
        if part == "test":
            chosen = load(name, "test", data_dir=arguments.data_dir)[0]
        for seed in seeds if part == "test" else seeds[-1:]:
            model = trained(name, images[:nb_train], labels[:nb_train], seed, nb_epochs, arguments)
            right = accuracy(model, images[nb_train:], labels[nb_train:])
            others = OTHERS if part == "test" else {}
            chosen = chosen[: arguments.nb_images]
            for row in study(model, chosen, radii, STARTS[part], others):
                rows.append({"data": name, "seed": seed, "accuracy": right} | row)
                print(rows[-1], flush=True)
            yield about | {"seconds": round(time.perf_counter() - clock, 1), "rows": rows}


def trained(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    seed: int,
    nb_epochs: int,
    arguments: argparse.Namespace,
) -> keras.Model:
    """A network on images, from `--models` if it is there."""
    model = pooled_net(seed) if name == "mnist" else convolutional_net(images.shape[1:], 10, seed)
    path = arguments.models and arguments.models / f"{name}_{seed}.weights.h5"
    if path and path.exists():
        model.load_weights(path)
        return model
    fit(model, images, labels, seed, nb_epochs)
    if path:
        path.parent.mkdir(exist_ok=True)
        model.save_weights(path)
    return model


def pooled_net(seed: int) -> keras.Model:
    """Four 3x3 convolutions on digits, then the mean over all places."""
    keras.utils.set_random_seed(seed)
    convolution = partial(keras.layers.Conv2D, kernel_size=3, padding="same", activation="relu")
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *[convolution(8), convolution(8), keras.layers.MaxPooling2D()],
            *[convolution(16), convolution(16), keras.layers.GlobalAveragePooling2D()],
            keras.layers.Dense(10),
        ]
    )


def study(
    model: keras.Model,
    images: np.ndarray,
    radii: dict[str, float],
    starts: dict[str, dict[str, Any]],
    others: dict[str, dict[str, Any]],
) -> list[Row]:
    """A row for each method and radius: `kept` of `images` classes, mean size of masks, and R."""
    classes = predict(model, images)
    attack = PGD(model, steps=40, restarts=2)
    rows = []
    for radius, epsilon in {"clean": 0.0, **radii}.items():
        points = images
        if epsilon:
            points = attack(Ball(images, epsilon, clip=(0, 1)), classes).points
        retrieval = ClassRetrieval(model, points, classes)
        relevance = FeatureRelevance(model, points, classes, steps=STEPS, activation="softmax")

        def scores(maps: np.ndarray, relevance: FeatureRelevance = relevance) -> float:
            return float(np.mean(relevance.evaluate_samples(maps)))

        about = {"radius": radius, "images": len(images)}
        about["attacked_kept"] = int(np.sum(predict(model, points) == classes))
        for name, settings in starts.items():
            masks = RelEx(model, **settings).masks(points, classes)
            rows.append(
                about
                | {
                    "method": name,
                    "kept": int(retrieval.evaluate_samples(masks).sum()),
                    "size": float(masks.reshape(len(masks), -1).sum(1).mean()),
                    "relevance": scores(masks),
                }
            )
        for name, settings in others.items():
            maps = getattr(attributions, name)(model, **settings)(points, classes)
            best = max(scores(maps), scores(np.abs(maps)))
            rows.append(about | {"method": name, "kept": None, "size": None, "relevance": best})
    return rows


def shown(part: str, stored: dict[str, Any]) -> str:
    """The tables of a part, and below them on what they were measured."""
    blocks = []
    for name, (*_, radii) in DATA.items():
        rows = [row for row in stored["rows"] if row["data"] == name]
        if not rows:
            continue
        there = {row["radius"] for row in rows}
        columns = [radius for radius in ("clean", *radii) if radius in there]
        nets = ", ".join(f"{a:.1%}" for a in dict.fromkeys(row["accuracy"] for row in rows))
        left = []
        for radius in columns:
            some = {row["seed"]: row for row in rows if row["radius"] == radius}.values()
            share = sum(r["attacked_kept"] for r in some) / sum(r["images"] for r in some)
            left.append(f"{share:.0%}")
        blocks.append(
            f"**{name}** (networks right on held-out images: {nets}; the attacked images "
            f"themselves keep their class at {', '.join(columns)}: {', '.join(left)})\n"
        )
        blocks.append(
            f"| method; at {', '.join(columns)} | class kept | 95 % interval, last | "
            f"mean size | R |\n| --- | --- | --- | --- | --- |"
        )
        for method in dict.fromkeys(row["method"] for row in rows):
            own = [[r for r in rows if (r["method"], r["radius"]) == (method, c)] for c in columns]
            relevance = " ".join(f"{np.mean([r['relevance'] for r in some]):.3f}" for some in own)
            kept, interval, size = "", "", ""
            if own[0][0]["kept"] is not None:
                counts = [sum(r["kept"] for r in some) for some in own]
                total = sum(r["images"] for r in own[0])
                kept = " ".join(f"{count / total:.3f}" for count in counts)
                low, high = binomial_interval(counts[-1], total, 0.05)
                interval = f"{float(low):.3f} to {float(high):.3f}"
                size = " ".join(f"{np.mean([r['size'] for r in some]):.0f}" for some in own)
            blocks.append(f"| {method} | {kept} | {interval} | {size} | {relevance} |")
        blocks.append("")
    versions = ", ".join(f"{name} {number}" for name, number in stored["versions"].items())
    return (
        "\n".join(blocks)
        + f"\n*`python benchmarks/relex_starts.py {part}`, {stored['nb_images']} images for each "
        f"network, commit {stored['commit']}; {versions}; {stored['processor']}, load "
        f"{stored['load']} at its beginning; {stored['seconds']:g} s.*\n"
    )


if __name__ == "__main__":
    main()
