"""What the first answer takes, and what a graph costs and saves; networks with random weights.

    python benchmarks/first_call.py                          # first answers
    python benchmarks/first_call.py --graphs [dense cnn residual]

The first table: CPU seconds for one image, from the constructor on, each in a process of its own,
and of the same with a new object, which finds what was read and compiled for the first.

The second: CPU seconds of `Verifier.bound_outputs`, compiled, operation by operation, and as it is
chosen. "share": what a call takes without a graph beyond what it takes with one, as a share of what
it takes to make the graph. With `compile="auto"` it is made once the shares of all calls, as they
are reckoned, add up to 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from xcertify import attributions
from xcertify.bounds import Verifier
from xcertify.regions import Ball

L = keras.layers


def dense() -> keras.Model:
    """Three dense layers, of digits."""
    hidden = [L.Dense(128, "relu"), L.Dense(128, "relu")]
    return keras.Sequential([keras.Input((784,)), *hidden, L.Dense(10)])


def cnn() -> keras.Model:
    """8-8-pool-16-16, 3x3 each, and a global average, of digits."""
    first = [L.Conv2D(8, 3, activation="relu"), L.Conv2D(8, 3, activation="relu")]
    second = [L.Conv2D(16, 3, activation="relu"), L.Conv2D(16, 3, activation="relu")]
    end = [L.GlobalAveragePooling2D(), L.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *first, L.MaxPooling2D(), *second, *end])


def residual() -> keras.Model:
    """The small residual net of VNN-COMP, resnet_2b, of 32x32x3."""

    def conv(x: object, nb_filters: int, strides: int = 1) -> object:
        return L.Conv2D(nb_filters, 3, strides=strides)(L.ZeroPadding2D(1)(x))

    inputs = keras.Input((32, 32, 3))
    x = L.ReLU()(conv(inputs, 8, 2))
    y = conv(L.ReLU()(conv(x, 16, 2)), 16)
    x = L.ReLU()(L.Add()([y, L.Conv2D(16, 1, strides=2)(x)]))
    y = conv(L.ReLU()(conv(x, 16)), 16)
    x = L.Flatten()(L.ReLU()(L.Add()([y, x])))
    return keras.Model(inputs, L.Dense(10)(L.Dense(100, "relu")(x)))


NETS = {"dense": (dense, 0.01), "cnn": (cnn, 0.01), "residual": (residual, 1 / 255)}


# What is asked, of which net, and in how many CPU seconds the answer should be there.
ANSWERS = (
    ("Verifier.ibp", "residual", None),
    ("Verifier.crown-ibp", "residual", 1.0),
    ("Verifier.crown", "residual", 2.5),
    ("EVA.explain", "dense", 0.6),
    ("EVA.certify", "dense", None),
    ("CORGI.explain", "cnn", None),
    ("CORGI.certify", "cnn", None),
    ("CertifiedGradient.explain", "dense", None),
    ("CertifiedGradient.certify", "dense", None),
    ("AttributionBound.explain", "dense", None),
    ("RelEx.explain", "dense", None),
    ("RelEx.certify", "dense", None),
)


def main() -> None:
    """Print a table."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--answer"]:
        print(answer(*arguments[1:]))
    elif arguments[:1] == ["--graphs"]:
        print_graphs(arguments[1:] or [*NETS])
    else:
        print_answers()


def print_answers() -> None:
    """The table of first answers."""
    print("| what | net | first | with a new object | at most |")
    print("| --- " * 5 + "|")
    for what, net, target in ANSWERS:
        command = [sys.executable, __file__, "--answer", what, net]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        print(f"| {what} | {net} | {printed.strip()} | {target or ''} |", flush=True)


def answer(what: str, net: str) -> str:
    """CPU seconds of the first answer in this process, and of the next."""
    build, epsilon = NETS[net]
    keras.utils.set_random_seed(0)
    model = build()
    image = np.random.default_rng(0).random((1, *model.input_shape[1:]), "float32")
    model(image)  # TensorFlow starts, and loads its kernels
    kind, way = what.split(".")

    def ask() -> None:
        if kind == "Verifier":
            Verifier(model, way).bound_outputs(Ball(image, epsilon, clip=(0, 1)))
        else:
            settings = {"epsilon": epsilon} if kind in ("EVA", "CertifiedGradient") else {}
            getattr(getattr(attributions, kind)(model, **settings), way)(image)

    return f"{seconds(ask):.2f} | {seconds(ask):.2f}"


def print_graphs(names: list[str]) -> None:
    """The table of what graphs cost and save."""
    print(
        "| net | method | images | graph: first, next | none: first, next | auto: first | share |"
    )
    print("| --- " * 7 + "|")
    for name in names:
        build, epsilon = NETS[name]
        for nb_images in (1, 8):
            for method in ("ibp", "crown-ibp", "crown"):
                print(row(name, build, method, nb_images, epsilon), flush=True)


def row(name: str, build: Callable, method: str, nb_images: int, epsilon: float) -> str:
    """One line of the table."""
    keras.utils.set_random_seed(0)
    model = build()
    shape = (nb_images, *model.input_shape[1:])
    region = Ball(np.random.default_rng(0).random(shape, "float32"), epsilon, clip=(0, 1))
    found = {}
    for compile in (True, False, "auto"):
        verifier = Verifier(model, method, compile=compile)
        found[compile] = [seconds(lambda: verifier.bound_outputs(region)) for _ in range(2)]  # noqa: B023
    (first, following), (alone, again), (chosen, _) = found.values()
    measured = (again - following) / max(first - following, 1e-3)
    return (
        f"| {name} | `{method}` | {nb_images} | {first:.2f}, {following:.3f} "
        f"| {alone:.2f}, {again:.3f} | {chosen:.2f} | {measured:.2f} |"
    )


def seconds(call: Callable) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
