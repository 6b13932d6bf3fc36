"""Time and memory of bound methods on large networks and with many classes.

    python benchmarks/bounds.py --large
    python benchmarks/bounds.py --memory --memory-budget 52428800

How tight the methods are, on networks of digits: `python benchmarks/reproduce.py engine`.

--large prints time and peak memory (of a fresh process each, above imports and model) on networks
with random weights.

--memory prints how far the peak of the resident memory grows in single calls with many classes and
images, above imports, model and a small first call, beside the budget. What a call returns is not
counted. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from xcertify.attributions import EVA
from xcertify.bounds import Verifier
from xcertify.commands.networks import convolutional_net, dense_net, fit
from xcertify.datasets import load_digits
from xcertify.regions import Ball
from xcertify.targets import margin_rows

Bound = Callable[[float, np.ndarray | None], tuple[np.ndarray, np.ndarray]]


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--large", action="store_true", help="time and memory of large models")
    parser.add_argument("--memory", action="store_true", help="memory of calls with many classes")
    parser.add_argument(
        "--memory-budget", type=int, default=2**29, help="bytes, for --large and --memory"
    )
    parser.add_argument("--case", nargs=2, metavar=("NET", "METHOD"), help=argparse.SUPPRESS)
    parser.add_argument("--memory-case", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--uncompiled", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_case:
        net, method, nb_classes, nb_images, *calls = arguments.memory_case
        sizes = int(nb_classes), int(nb_images), arguments.memory_budget
        memory_rows(net, method, *sizes, calls, not arguments.uncompiled)
    elif arguments.memory:
        memory(arguments.memory_budget)
    elif arguments.case:
        print(large_row(*arguments.case, arguments.memory_budget), flush=True)
    elif arguments.large:
        large(arguments.memory_budget)
    else:
        parser.error("one of --large and --memory is needed")


# --- bounds as functions of the radius and the rows ----------------------------------------------


def networks(arguments: argparse.Namespace) -> list[tuple[str, keras.Model, np.ndarray]]:
    """Models by name and the images that they are bounded on."""
    if arguments.models:
        images = np.load(arguments.inputs)["x"]
        models = {Path(path).stem: keras.models.load_model(path) for path in arguments.models}
    else:
        images, labels = load_digits()
        shape = images.shape[1:]
        models = {"dense net": dense_net(shape, 10), "CNN": convolutional_net(shape, 10)}
        for model in models.values():
            fit(model, images[1000:], labels[1000:])
    images = images[: arguments.nb_images].astype("float32")
    return [(name, m, images.reshape(-1, *m.input_shape[1:])) for name, m in models.items()]


def keras_bound(verifier: Verifier, inputs: np.ndarray) -> Bound:
    """The verifier as a function of the radius and the rows."""

    def bound(epsilon: float, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        return verifier.bound_rows(Ball(inputs, epsilon), rows)

    return bound


class Attack:
    """Extremes of rows of logits found by projected gradient ascent from the center."""

    def __init__(self, model: keras.Model, inputs: np.ndarray, nb_steps: int = 20) -> None:
        self.model, self.inputs, self.nb_steps = model, inputs, nb_steps
        self.step = tf.function(self._step)

    def __call__(self, epsilon: float, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper values that are attained, (N, S)."""
        nb_samples, nb_classes = len(self.inputs), self.model.output_shape[-1]
        rows = np.eye(nb_classes, dtype="float32")[None] if rows is None else rows
        rows = np.broadcast_to(rows, (nb_samples, *rows.shape[1:]))
        return -self._largest(epsilon, -rows), self._largest(epsilon, rows)

    def _largest(self, epsilon: float, rows: np.ndarray) -> np.ndarray:
        center = tf.constant(np.repeat(self.inputs, rows.shape[1], axis=0))
        flat = tf.constant(rows.reshape(-1, rows.shape[-1]))
        points, best = center, -np.inf
        for number in range(self.nb_steps + 1):
            length = 2 * epsilon * (1 - number / self.nb_steps)
            values, points = self.step(
                points, flat, center, tf.constant(epsilon, tf.float32), length
            )
            best = np.maximum(best, values.numpy())
        return best.reshape(rows.shape[:2])

    def _step(self, points: Any, rows: Any, center: Any, epsilon: Any, length: Any) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(points)
            values = tf.reduce_sum(self.model(points, training=False) * rows, axis=1)
        moved = points + length * tf.sign(tape.gradient(values, points))
        return values, tf.clip_by_value(moved, center - epsilon, center + epsilon)


def lirpa_bound(model: keras.Model, inputs: np.ndarray, method: str) -> Bound:
    """auto_LiRPA on the same network in torch."""
    import torch
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    network, images = in_torch(model, inputs)
    settings = {"optimize_bound_args": {"iteration": 20, "early_stop_patience": 20}}
    bounded = BoundedModule(network, torch.empty_like(images[:1]), bound_opts=settings, verbose=0)

    def bound(epsilon: float, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        ball = PerturbationLpNorm(norm=np.inf, eps=epsilon)
        matrix = None if rows is None else torch.from_numpy(np.ascontiguousarray(rows))
        optimized = torch.enable_grad() if method == "CROWN-Optimized" else torch.no_grad()
        with optimized:
            sides = bounded.compute_bounds(
                x=(BoundedTensor(images, ball),), C=matrix, method=method
            )
        lower, upper = (side.detach().numpy() for side in sides)
        return lower, upper

    return bound


def in_torch(model: keras.Model, inputs: np.ndarray) -> tuple[Any, Any]:
    """A chain of Dense, Conv2D (same) and Flatten layers, and its inputs, channels first."""
    import torch
    from torch import nn

    steps, shape = [], model.input_shape[1:]
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel, bias = (torch.from_numpy(w) for w in layer.get_weights())
            (size, _), (stride, _) = layer.kernel_size, layer.strides
            missing = max((-(-shape[0] // stride) - 1) * stride + size - shape[0], 0)
            if layer.padding != "same" or missing % 2:
                raise ValueError(f"{layer.name}: padding that is not symmetric")
            step = nn.Conv2d(kernel.shape[2], kernel.shape[3], size, stride, missing // 2)
            step.weight.data, step.bias.data = kernel.permute(3, 2, 0, 1).contiguous(), bias
            steps.append(step)
        elif isinstance(layer, keras.layers.Dense):
            kernel, bias = (torch.from_numpy(w) for w in layer.get_weights())
            if len(shape) == 3:  # behind a Flatten of channels last
                kernel = kernel.reshape(*shape, -1).permute(2, 0, 1, 3).reshape(kernel.shape)
                steps.append(nn.Flatten())
            step = nn.Linear(*kernel.shape)
            step.weight.data, step.bias.data = kernel.T.contiguous(), bias
            steps.append(step)
        elif not isinstance(layer, keras.layers.Flatten):
            raise ValueError(f"{layer.name}: no counterpart in torch")
        if getattr(layer, "activation", None) is keras.activations.relu:
            steps.append(nn.ReLU())
        if not isinstance(layer, keras.layers.Flatten):
            shape = layer.output.shape[1:]
    images = torch.from_numpy(inputs)
    images = images.permute(0, 3, 1, 2).contiguous() if inputs.ndim == 4 else images
    network = nn.Sequential(*steps).eval()
    expected = model.predict_on_batch(inputs)
    np.testing.assert_allclose(network(images).detach().numpy(), expected, rtol=1e-3, atol=1e-3)
    return network, images


# --- time and memory of large networks ------------------------------------------------------------


def cifar_net() -> keras.Model:
    """A CNN for images of 32x32x3."""
    layers = keras.layers
    settings = {"padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(32, 3, **settings),
            layers.Conv2D(32, 3, **settings),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, **settings),
            layers.Conv2D(64, 3, **settings),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, "relu"),
            layers.Dense(10),
        ]
    )


def narrow_resnet() -> keras.Model:
    """ResNet-18's blocks with 16 channels first, for images of 32x32x3."""
    layers = keras.layers

    def convolution(x: Any, nb_filters: int, size: int, stride: int) -> Any:
        x = layers.Conv2D(nb_filters, size, stride, "same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(convolution(inputs, 16, 3, 1))
    for nb_filters in (16, 32, 64, 128):
        for block in range(2):
            stride = 2 if nb_filters > 16 and block == 0 else 1
            y = layers.ReLU()(convolution(x, nb_filters, 3, stride))
            y = convolution(y, nb_filters, 3, 1)
            if stride > 1:
                x = convolution(x, nb_filters, 1, stride)
            x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def vgg_16() -> keras.Model:
    """VGG-16 for images of 224x224x3 and ten classes."""
    return keras.applications.VGG16(weights=None, classes=10, classifier_activation=None)


LARGE = {
    "CNN 32x32x3": (cifar_net, 8, ("crown-ibp", "crown")),
    "ResNet-18, narrow": (narrow_resnet, 8, ("ibp", "crown-ibp")),
    "VGG-16": (vgg_16, 1, ("ibp", "crown-ibp")),
}


def large(memory_budget: int) -> None:
    """Print the table of the large models, each row from a process of its own."""
    print(
        f"\n`memory_budget` {memory_budget / 2**20:.0f} MiB, l_inf radius 0.001, random weights\n"
    )
    print(
        "| net | method | images | parameters | mean width | first call s | next call s "
        "| forward passes | peak MiB |"
    )
    print("| --- " * 9 + "|", flush=True)
    for name, (_, _, methods) in LARGE.items():
        for method in methods:
            command = [sys.executable, __file__, "--case", name, method]
            command += ["--memory-budget", str(memory_budget)]
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            failed = f"| {name} | {method} | failed with code {process.returncode} |" + " |" * 6
            print(process.stdout.strip() or failed, flush=True)


def large_row(name: str, method: str, memory_budget: int) -> str:
    """Time and peak memory of this process for one model and method."""
    build, nb_images, _ = LARGE[name]
    keras.utils.set_random_seed(0)
    model = build()
    shape = (nb_images, *model.input_shape[1:])
    images = np.random.default_rng(0).uniform(0, 1, shape).astype("float32")
    compiled = tf.function(model)
    forward = best_time(lambda: compiled(tf.constant(images)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    verifier = Verifier(model, method, memory_budget=memory_budget, compile=True)
    region = Ball(images, 0.001)
    start = time.perf_counter()
    lower, upper = verifier.bound_outputs(region)
    first = time.perf_counter() - start
    seconds = (
        first if first > 300 else best_time(lambda: verifier.bound_outputs(region), 0.0, False)
    )
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return (
        f"| {name} | `{method}` | {nb_images} | {model.count_params() / 1e6:.2f} M "
        f"| {np.mean(upper - lower):.3g} | {first:.1f} | {seconds:.2f} | {seconds / forward:.0f} "
        f"| {peak:.0f} |"
    )


# --- memory of single calls -----------------------------------------------------------------------


def classifier(net: str, nb_classes: int) -> keras.Model:
    """A net with random weights."""
    layers = keras.layers
    hidden = {
        "dense": [keras.Input((256,)), layers.Dense(64, "relu"), layers.Dense(64, "relu")],
        "CNN": [
            keras.Input((32, 32, 3)),
            layers.Conv2D(8, 4, 2, activation="relu"),
            layers.Conv2D(16, 4, 2, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, "relu"),
        ],
    }
    keras.utils.set_random_seed(0)
    return keras.Sequential([*hidden[net], layers.Dense(nb_classes)])


def memory_calls(verifier: Verifier, images: np.ndarray) -> dict[str, Callable]:
    """Calls by name, each of a number of images."""
    region = Ball(images, 0.01)
    labels = np.zeros(len(images), int)
    rows = margin_rows(labels, verifier.nb_outputs)
    layer = verifier.model.layers[-2].name
    return {
        "bound_outputs": lambda n: verifier.bound_outputs(region[:n]),
        "bound_rows": lambda n: verifier.bound_rows(region[:n], rows[:n]),
        "linear_bounds": lambda n: vars(verifier.linear_bounds(region[:n])).values(),
        "evaluate": lambda n: [verifier.evaluate(images[:n])],
        "bound_layer": lambda n: verifier.bound_layer(region[:n], layer),
        "bound_gradient": lambda n: verifier.bound_gradient(region[:n], labels=labels[:n]),
        "EVA.certify": lambda n: [eva(verifier).certify(images[:n])],
    }


def eva(verifier: Verifier) -> EVA:
    """An explainer that bounds with this verifier."""
    kind = type("EVA", (EVA,), {"_verifier": verifier})
    return kind(verifier.model, 0.01, method=verifier.method)


MEMORY = (
    ("dense", "crown", 100, 300),
    ("dense", "crown", 1000, 300),
    ("CNN", "crown-ibp", 100, 300),
    ("CNN", "crown-ibp", 1000, 100),
)


def memory(memory_budget: int) -> None:
    """Print how much memory calls take, each from a process of its own."""
    print(f"\n`memory_budget` {memory_budget / 2**20:.0f} MiB\n")
    print("| net | method | classes | images | call | peak MiB | of the budget | seconds |")
    print("| --- " * 8 + "|", flush=True)
    calls = list(memory_calls(Verifier(classifier("dense", 2)), np.zeros((1, 256), "float32")))
    for case in MEMORY:
        for call in calls:
            command = [sys.executable, __file__, "--memory-budget", str(memory_budget)]
            command += ["--memory-case", *map(str, case), call]
            subprocess.run(command, check=False)


def memory_rows(
    net: str,
    method: str,
    nb_classes: int,
    nb_images: int,
    memory_budget: int,
    calls: list[str],
    compile: bool,
) -> None:
    """Print a row for each call, beside what it takes to compile it.

    A call may have its own number of images, as in "bound_gradient:120".
    """
    model = classifier(net, nb_classes)
    shape = (nb_images, *model.input_shape[1:])
    images = np.random.default_rng(0).random(shape, dtype="float32")
    verifier = Verifier(model, method, memory_budget=memory_budget, compile=compile)
    found = memory_calls(verifier, images)
    for call in calls:
        name, _, own = call.partition(":")
        number = int(own or nb_images)
        found[name](2)
        start = time.perf_counter()
        growth = peak_growth(lambda: found[name](number))  # noqa: B023
        seconds = time.perf_counter() - start
        print(
            f"| {net} | `{method}` | {nb_classes} | {number} | {name} | {growth / 2**20:.0f} "
            f"| {growth / memory_budget:.2f} | {seconds:.1f} |",
            flush=True,
        )


def peak_growth(call: Callable) -> int:
    """Bytes by which the peak of the resident memory grows in a call, beside what it returns."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # or memory that was freed before would be taken again
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = resident("VmRSS")
    results = call()
    grown = resident("VmHWM") - before
    return grown - sum(array.nbytes for array in results if isinstance(array, np.ndarray))


def resident(field: str) -> int:
    """Bytes of resident memory: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


# --- small parts ----------------------------------------------------------------------------------


def best_time(function: Callable, budget: float = 2.0, warm_up: bool = True) -> float:
    """Seconds of the fastest of some calls, after one that compiles; at least one is timed."""
    if warm_up:
        function()
    times: list[float] = []
    while len(times) < 2 or (sum(times) < budget and len(times) < 20):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
        if times[0] > 20:
            break
    return min(times)


def reason(error: Exception) -> str:
    """The part of a refusal that says why."""
    message = str(error).split(" Supported: ")[0]
    return message.split(": ", 1)[-1].rstrip(".")


if __name__ == "__main__":
    main()
