"""xcertify beside auto_LiRPA: attention, recurrence and normalization, in one run.

    python benchmarks/peers_of_sequences.py --peer-python PATH
    python benchmarks/peers_of_sequences.py --nets lstm --quick

Networks of 12 x 12 images of digits, as sequences of 12 rows: one attention block (2 heads of 8,
with a dense layer before and behind), an LSTM of 12 steps (16 units), and dense layers (64, 64)
with a LayerNormalization behind each. Columns as in `peers.py`, from which both sides come: *found*
is the mean width of the logits' bounds over l_inf balls that are not clipped. The last lines have
the best of each side. Our first calls and, of the LSTM, all by linear bounds are not compiled, as
``compile="auto"`` decides: its graph takes longer to make than some calls.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from peers import PEER, Measured, Side, measure, row

from xcertify.commands.networks import accuracy, fit
from xcertify.datasets import load_digits

METHODS = ("IBP", "CROWN-IBP", "CROWN", "alpha-CROWN")
L = keras.layers
SIZE = 12


class Net(NamedTuple):
    """How a network is made, the radius that it is asked about, and what is not compiled."""

    build: Callable[[], keras.Model]
    epsilon: float
    uncompiled: tuple[str, ...] = ()


def attention() -> keras.Model:
    """A dense layer, attention beside its input, a dense layer, the mean of all rows."""
    inputs = keras.Input((SIZE, SIZE))
    x = L.Dense(16)(inputs)
    x = L.Add()([x, L.MultiHeadAttention(num_heads=2, key_dim=8)(x, x)])
    x = L.Dense(32, "relu")(x)
    return keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling1D()(x)))


def lstm() -> keras.Model:
    """An LSTM of 12 steps."""
    return keras.Sequential([keras.Input((SIZE, SIZE)), L.LSTM(16), L.Dense(10)])


def normalized() -> keras.Model:
    """Dense layers with their normalizations."""
    hidden = [[L.Dense(64), L.LayerNormalization(), L.ReLU()] for _ in range(2)]
    layers = [layer for part in hidden for layer in part]
    return keras.Sequential([keras.Input((SIZE, SIZE)), L.Flatten(), *layers, L.Dense(10)])


NETS = {
    "attention": Net(attention, 0.01),
    "lstm": Net(lstm, 0.01, uncompiled=("CROWN", "alpha-CROWN")),
    "LayerNorm MLP": Net(normalized, 0.01),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--peer-python", default=sys.executable, help="that has auto_LiRPA")
    parser.add_argument("--nets", nargs="+", choices=tuple(NETS), default=list(NETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--epsilons", nargs="+", type=float, help="radii (default: the net's own)")
    parser.add_argument("--nb-images", type=int, default=8)
    parser.add_argument("--nb-threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--limit", type=float, default=900, help="most seconds that one call takes")
    parser.add_argument("--quick", action="store_true", help="one short turn, untrained networks")
    arguments = parser.parse_args()
    sides = [
        Side("xcertify", sys.executable, arguments),
        Side(PEER, arguments.peer_python, arguments),
    ]
    for side in [side for side in sides if side.missing]:
        print(f"{side.name} cannot be imported ({side.missing}): no figures of it.\n")
        sides.remove(side)
    names = ", ".join(side.name for side in sides)
    print(f"Cells: {names}; {arguments.nb_threads} thread(s), {arguments.nb_images} images.\n")
    ratios = ["ratio"] * (len(sides) > 1)
    columns = ["net, radius", "method", "found", *ratios, "CPU s", *ratios, "first", "passes"]
    print(f"| {' | '.join(columns)} |\n" + "| --- " * len(columns) + "|", flush=True)
    turns, seconds = (1, 0.0) if arguments.quick else (arguments.turns, 0.3)
    images, labels, tests = digits()
    best, right = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.nets:
            keras.utils.set_random_seed(0)
            model = NETS[name].build()
            fit(model, images, labels, nb_epochs=0 if arguments.quick else 12)
            right.append(f"{name} {accuracy(model, *tests):.0%}")
            path = Path(folder) / name
            hand_over(model, tests[0][: arguments.nb_images], path)
            for epsilon in arguments.epsilons or [NETS[name].epsilon]:
                found = []
                for method in arguments.methods:
                    task = (str(path), "outputs", method, epsilon)
                    again = method in NETS[name].uncompiled
                    found.append(measure(sides, task, turns, seconds, again))
                    print(row(f"{name}, {epsilon:g}", method, found[-1]), flush=True)
                best.append(best_of(f"{name}, {epsilon:g}", sides, found, arguments.methods))
    for side in sides:
        side.end()
    print("\nBest: " + "; ".join(best) + f".\nRight of other images: {', '.join(right)}.")


def digits() -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Images (N, 12, 12) and labels to train on, and ten other images of each class."""
    images, labels = load_digits()
    images = images[:, 2:-2, 2:-2, 0].reshape(-1, SIZE, 2, SIZE, 2).mean(axis=(2, 4))
    order = np.arange(len(images)).reshape(10, -1).T.reshape(-1)  # one of each class in turn
    tests, trains = order[:100], order[100:]
    return images[trains], labels[trains], (images[tests], labels[tests])


def hand_over(model: keras.Model, inputs: np.ndarray, path: Path) -> None:
    """Write a network for both sides: as a model of Keras, and as layers and arrays."""
    layers: list[dict[str, Any]] = []
    arrays = {"inputs": inputs, "logits": model.predict_on_batch(inputs)}
    kinds = {
        L.LSTM: "lstm",
        L.MultiHeadAttention: "attention",
        L.LayerNormalization: "normalization",
        L.GlobalAveragePooling1D: "mean",
        L.Flatten: "flatten",
        L.ReLU: "relu",
        L.Dense: "dense",
    }
    for layer in model.layers:
        if type(layer) not in kinds:  # inputs, and the sum of attention and its input
            continue
        step: dict[str, Any] = {"kind": kinds[type(layer)], "weights": [], "image": None}
        if isinstance(layer, L.LayerNormalization):
            step["epsilon"] = layer.epsilon
        for number, values in enumerate(layer.get_weights()):
            name = f"weight{number}of"
            arrays[f"{name}{len(layers)}"] = values
            step["weights"].append(name)
        layers.append(step)
        if isinstance(layer, L.Dense) and layer.activation is keras.activations.relu:
            layers.append({"kind": "relu"})
    np.savez(path.with_suffix(".npz"), layers=json.dumps(layers), **arrays)
    model.save(path.with_suffix(".keras"))


def best_of(
    name: str, sides: list[Side], found: list[list[Measured | str]], methods: list[str]
) -> str:
    """The tightest method of each side."""
    parts = []
    for number, side in enumerate(sides):
        known = [(r[number], m) for r, m in zip(found, methods) if isinstance(r[number], Measured)]
        if known:
            least, method = min(known, key=lambda pair: pair[0].found)
            parts.append(f"{side.name} {least.found:.4g} by {method} in {least.seconds:.2g} s")
    return f"{name}: {', '.join(parts)}"


if __name__ == "__main__":
    main()
