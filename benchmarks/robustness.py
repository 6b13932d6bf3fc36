"""RobustnessSr of all values at once, against loops of single attacks, in one run.

20 digits, 9 shares of the features, both sides: 360 values. All ways use the same number of steps
and restarts. "The same attack" looks for the smallest perturbation of one value at a time, with its
starts side by side or one after the other; "bisections" is the loop of the metric's paper, PGD
within a radius that is halved until it is known to 1/1000 of the largest. Loops are timed on the
first 18 values and scaled to 360.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import keras
import numpy as np

from xcertify.attacks import PGD, MinimalPerturbation
from xcertify.metrics import RobustnessSr
from xcertify.metrics.robustness import FRACTIONS
from xcertify.regions import Ball, Box

NB_HALVINGS = 10
WAYS = ("all at once", "loop of the same attack", "one start at a time", "loop of bisected PGD")


def seconds_of_ways(model: keras.Model, images: np.ndarray, restarts: int) -> dict[str, list]:
    """Way -> seconds on the clock and of the processor."""
    maps = np.random.default_rng(0).random(images.shape[:3])
    metric = RobustnessSr(model, images, restarts=restarts)
    metric.evaluate_both(maps)  # compiles
    settings = {"steps": metric.steps, "restarts": restarts}
    singles = (
        same_attack(model, settings),
        same_attack(model, settings | {"batch_size": 1}),
        bisection(model, settings),
    )
    found = {WAYS[0]: timed(metric.evaluate_both, maps).tolist()}
    for way, single in zip(WAYS[1:], singles):
        single(images[:1], np.zeros(images[:1].shape, bool))
        found[way] = (timed(loop, single, images[0], maps[0]) * len(images)).tolist()
    return found


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
