"""Tightness and time of the bounds of the input gradient, in one run.

    python benchmarks/gradient_bounds.py
    python benchmarks/gradient_bounds.py --models a.keras b.keras --inputs digits.npz

Models and inputs as for bounds.py. The gradient is that of the predicted class's logit; l_inf balls
that are not clipped. Cells: mean width of the bounds / share of the features whose sign is proved.
`sampled` is what random corners attain: no sound bound is narrower. Times are of `bound_gradient`
for the whole batch at radius 0.01: the best of several calls, the mean CPU time of all cores, and
that divided by the CPU time of `ibp`. Rows of auto_LiRPA, which takes one image at a time, are
added where it and torch are installed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from bounds import in_torch, networks

from xcertify.bounds import Verifier
from xcertify.regions import Ball

EPSILONS = (0.001, 0.005, 0.01, 0.025)
METHODS = ("ibp", "ibp-crown", "crown-ibp", "crown")
Bound = Callable[[float], tuple[np.ndarray, np.ndarray]]


def main() -> None:
    """Print one table per model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", help="saved Keras models; default: train two")
    parser.add_argument("--inputs", help=".npz file with the inputs as x, for --models")
    parser.add_argument("--nb-images", type=int, default=8)
    for name, model, inputs in networks(parser.parse_args()):
        table(name, model, inputs)


def table(name: str, model: keras.Model, inputs: np.ndarray) -> None:
    """Print the table of a model."""
    verifier = Verifier(model, compile=True)
    classes = verifier.evaluate(inputs).argmax(axis=1)
    rows = np.eye(verifier.nb_outputs, dtype="float32")[classes][:, None]
    print(f"\n**{name}**, {len(inputs)} images\n")
    print("| method |", " | ".join(f"eps {e}" for e in EPSILONS), "| ms | CPU ms | by `ibp` |")
    print("| --- " * (len(EPSILONS) + 4) + "|")
    print(f"| sampled (inner estimate) | {cells(sampled(model, inputs, classes))} | | | |")
    fastest = None
    for method in METHODS:

        def bound(epsilon: float, method: str = method) -> tuple[np.ndarray, np.ndarray]:
            return verifier.bound_gradient(Ball(inputs, epsilon), rows, method=method)

        fastest = row(f"`{method}`", bound, fastest)
    if find_spec("auto_LiRPA") is None or find_spec("torch") is None:
        print("\nauto_LiRPA is not installed: no rows of it.")
        return
    fastest = None
    for method in ("IBP", "CROWN"):
        fastest = row(f"auto_LiRPA {method}", peer(model, inputs, classes, method), fastest)


def row(label: str, bound: Bound, fastest: float | None) -> float:
    """Print the row of a method; the CPU time of the first one."""
    columns = cells(bound)
    best, used = times(lambda: bound(0.01))
    fastest = fastest or used
    print(
        f"| {label} | {columns} | {best * 1e3:.1f} | {used * 1e3:.1f} | {used / fastest:.0f} |",
        flush=True,
    )
    return fastest


def times(function: Callable[[], Any], budget: float = 2.0) -> tuple[float, float]:
    """Seconds of the fastest of some calls, and mean CPU seconds of a call."""
    walls: list[float] = []
    start = time.process_time()
    while len(walls) < 2 or sum(walls) < budget:
        before = time.perf_counter()
        function()
        walls.append(time.perf_counter() - before)
    return min(walls), (time.process_time() - start) / len(walls)


def cells(bound: Bound) -> str:
    """Mean width and share of proved signs at every epsilon."""
    columns = []
    for epsilon in EPSILONS:
        lower, upper = bound(epsilon)
        signs = ((lower > 0) | (upper < 0)).mean()
        columns.append(f"{(upper - lower).mean():.3f} / {signs:.0%}")
    return " | ".join(columns)


def sampled(model: keras.Model, inputs: np.ndarray, classes: np.ndarray) -> Bound:
    """Extremes of the gradient over random corners."""

    @tf.function
    def gradient(points: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(points)
            score = tf.reduce_sum(tf.gather(model(points), classes, batch_dims=1))
        return tape.gradient(score, points)

    def bound(epsilon: float) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(0)
        corners = generator.choice(np.float32([-epsilon, epsilon]), (200, *inputs.shape))
        maps = np.stack([gradient(tf.constant(inputs + corner)) for corner in corners])
        return maps.min(axis=0), maps.max(axis=0)

    return bound


def peer(model: keras.Model, inputs: np.ndarray, classes: np.ndarray, method: str) -> Bound:
    """auto_LiRPA's bounds of the Jacobian of the same network in torch."""
    import logging

    import torch
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
    from auto_LiRPA.bound_ops import JacobianOP
    from torch import nn

    logging.disable(logging.INFO)
    network, images = in_torch(model, inputs)

    class Gradient(nn.Module):
        """The gradient of the logit of one class by the input."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.network = network
            self.logit = nn.Linear(model.output_shape[-1], 1, bias=False)
            self.logit.weight.data = torch.eye(model.output_shape[-1])[number : number + 1]

        def forward(self, x: Any) -> Any:
            """The gradient, (B, 1, *input)."""
            return JacobianOP.apply(self.logit(self.network(x)), x)

    # One image at a time: of a batch the bounds are wider than of its images, or it fails.
    modules = {
        number: BoundedModule(
            Gradient(number), images[:1].clone(), bound_opts={"conv_mode": "matrix"}, verbose=0
        )
        for number in set(classes.tolist())
    }

    def bound(epsilon: float) -> tuple[np.ndarray, np.ndarray]:
        ball = PerturbationLpNorm(norm=np.inf, eps=epsilon)
        sides = []
        for image, number in zip(images, classes.tolist()):
            x = BoundedTensor(image[None], ball)
            with torch.no_grad():
                found = modules[number].compute_bounds(x=(x,), method=method)
            sides.append([side.numpy().ravel() for side in found])
        return tuple(np.stack(side) for side in zip(*sides))

    return bound


if __name__ == "__main__":
    main()
