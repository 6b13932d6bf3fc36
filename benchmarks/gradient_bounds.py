"""Tightness and time of the bounds of the input gradient, in one run.

    python benchmarks/gradient_bounds.py
    python benchmarks/gradient_bounds.py --models a.keras b.keras --inputs digits.npz

Models and inputs as for bounds.py. The gradient is that of the predicted class's logit; l_inf balls
that are not clipped. Cells: mean width of the bounds / share of the features whose sign is proved.
`sampled` is what random corners attain: no sound bound is narrower. Times are of `bound_gradient`
for the whole batch at radius 0.01, the best of several calls after the first, and the same divided
by the time of the method `interval`. Rows of auto_LiRPA are added where it and torch are installed;
it has no interval for the backward pass of a CROWN forward pass.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from bounds import best_time, in_torch, networks

from xcertify.bounds import Verifier
from xcertify.regions import Ball

EPSILONS = (0.001, 0.005, 0.01, 0.025)
METHODS = ("interval", "crown-interval", "crown-ibp", "crown")
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
    verifier = Verifier(model)
    classes = verifier.evaluate(inputs).argmax(axis=1)
    rows = np.eye(verifier.nb_outputs, dtype="float32")[classes][:, None]
    print(f"\n**{name}**, {len(inputs)} images\n")
    print("| method |", " | ".join(f"eps {e}" for e in EPSILONS), "| ms | by `interval` |")
    print("| --- " * (len(EPSILONS) + 3) + "|")
    print(f"| sampled (inner estimate) | {cells(sampled(model, inputs, classes))} | | |")
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
        bound = peer(model, inputs, classes, method)
        # A batch for one class, which costs what one for several would.
        timed = peer(model, inputs, np.full_like(classes, classes[0]), method)
        fastest = row(f"auto_LiRPA {method}", bound, fastest, timed)


def row(label: str, bound: Bound, fastest: float | None, timed: Bound | None = None) -> float:
    """Print the row of a method; the time of the first one."""
    columns = cells(bound)
    seconds = best_time(lambda: (timed or bound)(0.01))
    fastest = fastest or seconds
    print(f"| {label} | {columns} | {seconds * 1e3:.1f} | {seconds / fastest:.0f} |", flush=True)
    return fastest


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

    groups = [np.flatnonzero(classes == number) for number in set(classes.tolist())]
    # Traced with the batch that is bounded: with another one the bounds are wider.
    modules = [
        BoundedModule(
            Gradient(classes[own[0]]),
            images[own].clone(),
            bound_opts={"conv_mode": "matrix"},
            verbose=0,
        )
        for own in groups
    ]

    def bound(epsilon: float) -> tuple[np.ndarray, np.ndarray]:
        ball = PerturbationLpNorm(norm=np.inf, eps=epsilon)
        sides = np.empty((2, *inputs.reshape(len(inputs), -1).shape), np.float32)
        for own, module in zip(groups, modules):
            with torch.no_grad():
                found = module.compute_bounds(x=(BoundedTensor(images[own], ball),), method=method)
            sides[:, own] = [side.numpy().reshape(len(own), -1) for side in found]
        return tuple(sides)

    return bound


if __name__ == "__main__":
    main()
