"""RobustnessSr of all values at once, against loops of single attacks, in one run.

    python benchmarks/robustness.py
    python benchmarks/robustness.py --model cnn.keras --inputs digits.npz

20 digits, 9 shares of the features, both sides: 360 values. All ways use the same number of steps
and restarts. "The same attack" looks for the smallest perturbation of one value at a time, with its
starts side by side or one after the other; "bisections" is the loop of the metric's paper, PGD
within a radius that is halved until it is known to 1/1000 of the largest. Loops are timed on the
first 18 values and scaled to 360. Wall times, and in brackets processor times.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from xcertify.attacks import PGD, MinimalPerturbation
from xcertify.commands.networks import convolutional_net, fit, on_images
from xcertify.datasets import load_digits
from xcertify.metrics import RobustnessSr
from xcertify.metrics.robustness import FRACTIONS
from xcertify.regions import Ball, Box

NB_HALVINGS = 10


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", help="a saved Keras model; default: train a CNN")
    parser.add_argument("--inputs", help=".npz file with the inputs as x, for --model")
    arguments = parser.parse_args()
    if arguments.model:
        model = on_images(keras.models.load_model(arguments.model), (28, 28, 1))
        images = np.load(arguments.inputs)["x"].reshape(-1, 28, 28, 1)[:20]
    else:
        images, labels = load_digits()
        model = convolutional_net(images.shape[1:], 10)
        fit(model, images, labels)
        images = images[::250]
    maps = np.random.default_rng(0).random(images.shape[:3])
    print("| restarts | all at once | loop of the same attack | one start at a time | bisections |")
    print("| --- | --- | --- | --- | --- |")
    for restarts in (1, 4):
        metric = RobustnessSr(model, images, restarts=restarts)
        metric.evaluate_both(maps)  # compiles
        together = timed(metric.evaluate_both, maps)
        settings = {"steps": metric.steps, "restarts": restarts}
        cells = ["{:.2f} s ({:.2f} s)".format(*together)]
        for single in (
            same_attack(model, settings),
            same_attack(model, settings | {"batch_size": 1}),
            bisection(model, settings),
        ):
            single(images[:1], np.zeros(images[:1].shape, bool))
            alone = timed(loop, single, images[0], maps[0]) * len(images)
            cell = "{:.1f} s, {:.0f} times ({:.1f} s, {:.0f} times)"
            cells.append(cell.format(*np.stack([alone, alone / together], axis=1).ravel()))
        print(f"| {restarts} | {' | '.join(cells)} |", flush=True)


def same_attack(model: keras.Model, settings: dict[str, int]) -> Callable:
    """The smallest perturbation of one image that leaves some features alone."""
    attack = MinimalPerturbation(model, **settings)

    def search(image: np.ndarray, held: np.ndarray) -> float:
        valid = Box(np.zeros_like(image), np.ones_like(image), image)
        return attack(valid, mask=held).distances[0]

    return search


def bisection(model: keras.Model, settings: dict[str, int]) -> Callable:
    """The same by one PGD after the other."""
    attack = PGD(model, **settings)

    def search(image: np.ndarray, held: np.ndarray) -> float:
        low, high = 0.0, float(np.linalg.norm(np.maximum(image, 1 - image)))
        for _ in range(NB_HALVINGS):
            middle = (low + high) / 2
            found = attack(Ball(image, middle, 2, clip=(0, 1)), mask=held, stop_above=0)
            low, high = (low, middle) if found.values[0] > 0 else (middle, high)
        return high

    return search


def loop(search: Callable, image: np.ndarray, explanation: np.ndarray) -> None:
    """All shares and both sides of one image, one after the other."""
    for fraction in FRACTIONS:
        named = explanation > np.quantile(explanation, 1 - fraction)
        for held in (~named, named):
            search(image[None], held[None, ..., None])


def timed(function: Callable, *arguments: object) -> np.ndarray:
    """Wall time and processor time of a call, (2,), in seconds."""
    start = np.array([time.perf_counter(), time.process_time()])
    function(*arguments)
    return np.array([time.perf_counter(), time.process_time()]) - start


if __name__ == "__main__":
    main()
