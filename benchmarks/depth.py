"""How far the rows of inner tensors go back (`backward_depth`): width against time.

    python benchmarks/depth.py --weights FOLDER --data-dir FOLDER
    python benchmarks/depth.py --nets separable --depths 0 1 auto

For each network and depth the mean width of the logits' bounds over l_inf balls that are not
clipped, seconds of the first and of the third call in a new process, and the peak of the
resident memory above what it was before the first call. Networks are those of `peers.py`, and
`separable`, a residual network of 58,000 weights on 64x64 with random weights, whose normalizations
are adapted to its inputs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

L = keras.layers
NETS = {"gap": (8, 0.01), "cifar": (8, 0.002), "separable": (2, 1e-4)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--nets", nargs="+", choices=tuple(NETS), default=list(NETS))
    parser.add_argument("--depths", nargs="+", default=["0", "1", "2", "auto", "None"])
    parser.add_argument("--weights", type=Path, help="folder that trained networks are kept in")
    parser.add_argument("--data-dir", help="folder of tensorflow_datasets, for CIFAR-10")
    parser.add_argument("--limit", type=float, default=600, help="most seconds of a process")
    parser.add_argument("--case", nargs=2, metavar=("NET", "DEPTH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(measured(*arguments.case, arguments))
        return
    arguments.weights = arguments.weights or Path(tempfile.mkdtemp())
    print("| network, images, radius | depth | comes to | width | first s | third s | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.nets:
        for depth in arguments.depths:
            options = ["--weights", str(arguments.weights), "--case", name, depth]
            if arguments.data_dir:
                options += ["--data-dir", arguments.data_dir]
            print(in_a_process(options, arguments.limit, f"| {name} | {depth} |"), flush=True)


def in_a_process(options: list[str], limit: float, name: str) -> str:
    """The row of one case, or that it took too long."""
    command = [sys.executable, __file__, *options]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return f"{name} not finished in {limit:.0f} s | | | | |"
    return ran.stdout.strip() or f"{name} failed: {ran.stderr.strip().splitlines()[-1]} | | | | |"


def measured(name: str, depth: str, arguments: argparse.Namespace) -> str:
    """One row of the table."""
    from xcertify.bounds import Verifier
    from xcertify.regions import Ball

    nb_images, epsilon = NETS[name]
    model, images = separable() if name == "separable" else trained(name, arguments)
    region = Ball(images[:nb_images], epsilon)
    given = {"None": None, "auto": "auto"}.get(depth) if not depth.isdigit() else int(depth)
    before, seconds = resident("VmRSS"), []
    verifier = Verifier(model, "crown", backward_depth=given, strip_head=True)
    for _ in range(3):  # the second one may compile
        start = time.perf_counter()
        lower, upper = verifier.bound_outputs(region)
        seconds.append(time.perf_counter() - start)
    cells = [
        f"{name}, {nb_images}, {epsilon:g}",
        depth,
        "all layers" if verifier.depth is None else str(verifier.depth),
        f"{(upper - lower).mean():.3g}",
        *(f"{value:.1f}" for value in (seconds[0], seconds[-1])),
        f"{(resident('VmHWM') - before) / 2**10:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def trained(name: str, arguments: argparse.Namespace) -> tuple[keras.Model, np.ndarray]:
    """A network of `peers.py` and images that it has not seen."""
    from peers import NETS as PEERS
    from peers import images_for, network

    train, test = images_for(PEERS[name].colour, arguments.data_dir)
    model = network(name, [arguments.weights], train, nb_epochs=6)
    return model, test[0].reshape(-1, *model.input_shape[1:])


def separable() -> tuple[keras.Model, np.ndarray]:
    """Residual blocks of separable convolutions, and smooth images, in [-1, 1]."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((64, 64, 1))
    for _ in range(3):  # the second one may compile
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, use_bias=False)(x)))
    settings = {"padding": "same", "use_bias": False}
    for nb_filters in (16, 32, 64, 128):
        short = L.BatchNormalization()(L.Conv2D(nb_filters, 1, strides=2, **settings)(x))
        x = L.ReLU()(L.BatchNormalization()(L.SeparableConv2D(nb_filters, 3, **settings)(x)))
        x = L.BatchNormalization()(L.SeparableConv2D(nb_filters, 3, **settings)(x))
        x = L.Add()([L.MaxPooling2D(3, strides=2, padding="same")(x), short])
    x = L.GlobalAveragePooling2D()(L.Conv2D(7, 3, padding="same")(x))
    model = keras.Model(inputs, L.Softmax()(x))
    coarse = np.random.default_rng(0).random((64, 8, 8, 1), dtype="float32") * 2 - 1
    images = np.asarray(keras.ops.image.resize(coarse, (64, 64)))
    for _ in range(60):
        model(images, training=True)
    return model, images


def resident(field: str) -> int:
    """Resident memory of this process in KiB, now (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
