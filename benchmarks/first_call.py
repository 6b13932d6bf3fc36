"""What a first call takes, and the second: compiled, operation by operation, and as it is chosen.

    python benchmarks/first_call.py [dense cnn residual]

CPU seconds of `Verifier.bound_outputs`, of networks with random weights. "share": what a call takes
without a graph beyond what it takes with one, as a share of what it takes to make the graph. With
`compile="auto"` it is made once the shares of all calls, as they are reckoned, add up to 1.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

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


def main() -> None:
    """Print the table."""
    print(
        "| net | method | images | graph: first, next | none: first, next | auto: first | share |"
    )
    print("| --- " * 7 + "|")
    for name in sys.argv[1:] or NETS:
        build, epsilon = NETS[name]
        keras.utils.set_random_seed(0)
        model = build()
        for nb_images in (1, 8):
            for method in ("ibp", "crown-ibp", "crown"):
                print(row(name, model, method, nb_images, epsilon), flush=True)


def row(name: str, model: keras.Model, method: str, nb_images: int, epsilon: float) -> str:
    """One line of the table."""
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
