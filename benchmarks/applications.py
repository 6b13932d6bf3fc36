"""The networks of keras.applications at 224 x 224: seconds and memory of everything, one by one.

    python benchmarks/applications.py
    python benchmarks/applications.py --networks MobileNet ResNet50 --calls ibp crown-ibp
    python benchmarks/applications.py --networks ResNet50 --weights resnet50.weights.h5

Without a file of weights they are random: batch normalizations scale and shift by random numbers,
and their statistics are those of random images, so that no tensor vanishes or explodes. Inputs are
one random smooth image of the range [0, 255]. Each network has a process of its own. Columns of the
tables are calls:

- *image*, *gradient*: of the network itself, by Keras;
- *load*: until a `Verifier` of it is there; *info*: what `xcertify info` prints;
- *ibp*: bounds of all logits; *crown-ibp*: of the margins of the five largest logits, which for all
  of them takes so many times as long; the first call compares and compiles. *outside*: values of
  corners, and of the points that an attack ends at, that lie outside of the bounds, in float64;
- explainers, an attack (`PGD`, 10 steps) and a metric (`Deletion`, 10 steps), each of one image.
  `EVAHybrid` has 4 x 4 cells and 8 samples, and `RelEx` 4 noisy copies and 10 steps; of more they
  take as many times as long. *EVA says so*: until `EVA` warns that its bounds say nothing.

A cell has seconds of wall time, and behind a slash by how many GiB the resident memory grew at most
in the call (Linux only).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

NETWORKS = (
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "MobileNetV3Large",
    "ResNet50",
    "ResNet50V2",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "DenseNet121",
    "InceptionV3",
    "Xception",
    "VGG16",
    "ConvNeXtTiny",
    "NASNetMobile",
)
SIDE, RANGE = 224, (0.0, 255.0)
SHARE = 1e-3  # of the range: the radius
NB_MARGINS, NB_CORNERS = 5, 4


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--calls", nargs="+", choices=tuple(CALLS), default=tuple(CALLS))
    parser.add_argument("--weights", type=Path, help="a file of weights, for a single network")
    parser.add_argument("--limit", type=float, default=900, help="seconds for a network")
    parser.add_argument("--one", choices=NETWORKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        for cell in measured(arguments.one, arguments.weights, arguments.calls):
            print(json.dumps(cell), flush=True)
        return
    print(f"| network | {' | '.join(arguments.calls)} |")
    print("| --- " * (1 + len(arguments.calls)) + "|")
    for name in arguments.networks:
        cells = in_a_process(name, arguments)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def in_a_process(name: str, arguments: argparse.Namespace) -> list[str]:
    """The cells of a network, from a process that has as long as the limit says."""
    command = [sys.executable, __file__, "--one", name, "--calls", *arguments.calls]
    command += ["--weights", str(arguments.weights)] if arguments.weights else []
    try:
        ran = subprocess.run(command, capture_output=True, timeout=arguments.limit, check=False)
        printed, why = ran.stdout, (ran.stderr.decode().strip().splitlines() or [""])[-1]
    except subprocess.TimeoutExpired as expired:
        printed, why = expired.stdout or b"", f"not finished in {arguments.limit:.0f} s"
    cells = [json.loads(line) for line in printed.decode().splitlines()]
    missing = [why, *[""] * len(arguments.calls)]
    return [*cells, *missing[: len(arguments.calls) - len(cells)]]


def measured(name: str, weights: Path | None, calls: list[str]) -> Iterator[str]:
    """One cell for each call."""
    case = Case(name, weights)
    for call in calls:
        yield CALLS[call](case)


class Case:
    """A network and an image."""

    def __init__(self, name: str, weights: Path | None) -> None:
        import keras

        keras.utils.set_random_seed(0)
        build = getattr(keras.applications, name)
        self.model = build(weights=None, input_shape=(SIDE, SIDE, 3))
        images = smooth_images(9)
        if weights is None:
            randomize(self.model, images[1:])
        else:
            self.model.load_weights(weights)
        self.image = images[:1]
        self.epsilon = SHARE * RANGE[1]

    @cached_property
    def region(self) -> Any:
        """The ball around the image."""
        from xcertify.regions import Ball

        return Ball(self.image, self.epsilon, clip=RANGE)

    @cached_property
    def latent(self) -> str:
        """The layer that is pooled, or made flat, before the logits."""
        from keras import layers

        ends = (layers.GlobalAveragePooling2D, layers.Flatten)
        last = [layer for layer in self.model.layers if isinstance(layer, ends)][-1]
        return last.input._keras_history.operation.name

    @cached_property
    def rows(self) -> Any:
        """Margins of the largest logit against the next ones, (S, K)."""
        import numpy as np

        from xcertify.bounds import Verifier

        logits = Verifier(self.model, "ibp").evaluate(self.image)[0]
        first, *others = np.argsort(-logits)[: NB_MARGINS + 1]
        units = np.eye(len(logits), dtype=np.float32)
        return units[others] - units[first]


def smooth_images(count: int) -> Any:
    """Random images (N, H, W, 3) without edges."""
    import numpy as np
    import tensorflow as tf

    coarse = np.random.default_rng(0).uniform(*RANGE, (count, 8, 8, 3))
    return tf.image.resize(coarse, (SIDE, SIDE)).numpy().astype(np.float32)


def randomize(model: Any, images: Any) -> None:
    """Random scales and shifts of normalizations, and statistics of images."""
    import numpy as np
    from keras import layers

    rng = np.random.default_rng(0)
    normalizations = []
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            normalizations.append((layer, layer.momentum))
            layer.momentum = 0.0
        for variable in layer.weights if not layer._layers else ():
            if variable.path.endswith("/gamma") or type(layer).__name__ == "LayerScale":
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
            elif variable.path.endswith("/beta"):
                variable.assign(rng.normal(0, 0.1, variable.shape))
    if normalizations:
        model(images, training=True)
    for layer, momentum in normalizations:
        layer.momentum = momentum


# --- calls --------------------------------------------------------------------------------------


def timed(function: Callable[[], Any], nb_calls: int = 2) -> tuple[str, Any]:
    """Seconds of the first call and the last, by how much memory grew, and what it gave."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # the peak starts from here
    before, seconds = resident("VmRSS"), []
    for _ in range(nb_calls):
        begin = time.perf_counter()
        found = function()
        seconds.append(time.perf_counter() - begin)
    shown = ", ".join(f"{value:.2g}" for value in seconds)
    return f"{shown} / {max(resident('VmHWM') - before, 0) / 2**20:.2g}", found


def resident(field: str) -> int:
    """Resident memory of this process in KiB, now (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def image(case: Case) -> str:
    """The network itself."""
    return timed(lambda: case.model.predict(case.image, verbose=0))[0]


def gradient(case: Case) -> str:
    """The gradient of a logit."""
    from xcertify.attributions import Saliency

    saliency = Saliency(case.model)
    return timed(lambda: saliency.explain(case.image))[0]


def load(case: Case) -> str:
    """The network read as a graph."""
    from xcertify.bounds import Verifier

    return timed(lambda: Verifier(case.model, "ibp"), 1)[0]


def info(case: Case) -> str:
    """What is practical."""
    from xcertify.estimates import estimate

    cell, found = timed(lambda: estimate(case.model, case.image, seconds=20), 1)
    kinds = [cost.practical for cost in found.explainers]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"{cell} ({counts})"


def bounds(method: str) -> Callable[[Case], str]:
    """Bounds by a method, and values outside of them."""

    def call(case: Case) -> str:
        from xcertify.bounds import Verifier

        rows = None if method == "ibp" else case.rows
        verifier = Verifier(case.model, method)
        cell, sides = timed(lambda: verifier.bound_rows(case.region, rows))
        return f"{cell}, {outside(case, rows, *sides)}"

    return call


def outside(case: Case, rows: Any, lower: Any, upper: Any) -> str:
    """How wide bounds are, and values of corners and of attacked points outside, in float64."""
    import numpy as np

    from xcertify.attacks import PGD
    from xcertify.bounds import Verifier

    exact = Verifier(case.model, "ibp", dtype="float64")
    corners = case.region.corners(NB_CORNERS, 0).reshape(-1, *case.region.shape)
    attacked = PGD(case.model, steps=10)(case.region).points
    values = exact.evaluate(np.concatenate([corners, attacked]).astype(np.float64))
    values = values if rows is None else values @ rows.T
    slack = 1e-9 * np.abs(values)
    count = int(((values < lower - slack) | (values > upper + slack)).sum())
    return f"width {np.mean(upper - lower):.2g}, {count} of {values.size} outside"


def eva_says_so(case: Case) -> str:
    """EVA until its warning."""
    from xcertify.attributions import EVA
    from xcertify.usefulness import VacuousWarning

    explainer = EVA(case.model, epsilon=case.epsilon, clip=RANGE, grid_size=4)

    def warned() -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("error", VacuousWarning)
            try:
                explainer.explain(case.image)
            except VacuousWarning:
                return "warned"
        return "made a map"

    cell, word = timed(warned, 1)
    return f"{cell} ({word})"


def explainer(name: str, settings: Callable[[Case], dict[str, Any]]) -> Callable[[Case], str]:
    """An explainer, once to compile and once more."""

    def call(case: Case) -> str:
        from xcertify import attributions
        from xcertify.usefulness import VacuousWarning

        made = getattr(attributions, name)(case.model, **settings(case))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VacuousWarning)
            try:
                return timed(lambda: made.explain(case.image))[0]
            except ValueError as error:
                return f"refused: {str(error).partition('. ')[0]}"

    return call


def attack(case: Case) -> str:
    """PGD."""
    from xcertify.attacks import PGD

    pgd = PGD(case.model, steps=10)
    return timed(lambda: pgd(case.region))[0]


def metric(case: Case) -> str:
    """Deletion of a random map."""
    import numpy as np

    from xcertify.metrics import Deletion

    deletion = Deletion(case.model, case.image)
    maps = np.random.default_rng(0).random((1, SIDE, SIDE, 1))
    return timed(lambda: deletion.evaluate(maps))[0]


def around(case: Case) -> dict[str, Any]:
    """Radius and range."""
    return {"epsilon": case.epsilon, "clip": RANGE}


CALLS: dict[str, Callable[[Case], str]] = {
    "image": image,
    "gradient": gradient,
    "load": load,
    "ibp": bounds("ibp"),
    "crown-ibp": bounds("crown-ibp"),
    "GradCAM": explainer("GradCAM", lambda case: {}),
    "CORGI": explainer("CORGI", lambda case: {"clip": RANGE}),
    "EVAHybrid": explainer(
        "EVAHybrid",
        lambda case: {"latent_layer": case.latent, "grid_size": 4, "nb_samples": 8} | around(case),
    ),
    "RelEx": explainer("RelEx", lambda case: {"nb_samples": 4, "steps": 10, "clip": RANGE}),
    "EVA says so": eva_says_so,
    "PGD": attack,
    "Deletion": metric,
    "info": info,
}


if __name__ == "__main__":
    main()
