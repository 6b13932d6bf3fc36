"""A GPU: whether bounds are right on it, then what they cost there, beside the CPU in one process.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --quick
    python benchmarks/gpu.py --networks sequences
    python benchmarks/gpu.py --save gpu.md

Networks have random weights and inputs are random, so that nothing is trained and nothing loaded.
Without a GPU the same is run on the CPU alone.

**Soundness**: bounds of every method over l_inf balls, of a radius at which they are of use and of
one of 1e-6, at which the network is all but linear and bounds by lines are attained but for what
they allow for roundings; against random corners and those that the gradient of each logit points
to, evaluated in float64 on the CPU. A bound that holds for float32 too is also held against the
model itself on the device, without TensorFloat-32; there the library may choose kernels for the
model's convolutions that are no sums of products, of which nothing is proved.

**Times**: seconds of wall time from arrays to arrays, the first call (with reading, tracing and
compiling) and the best of the next ones, and the most memory that TensorFlow held on the device.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # so that memory can be told

import keras
import numpy as np
import tensorflow as tf

from xcertify.attributions import CORGI, EVA, RelEx
from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.regions import Ball

L = keras.layers
DIGIT, COLOUR = (28, 28, 1), (32, 32, 3)
METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")
DECOMON = ("decomon:crown", "decomon:forward-ibp", "decomon:forward-affine")
SMALL_RADIUS = 1e-6
ULPS = 16  # to which functions in float64 are trusted
ROOTS = {"log": np.log, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x)}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="small networks and few images")
    parser.add_argument("--seconds", type=float, default=225, help="after which rows are left out")
    parser.add_argument("--cpu-limit", type=float, default=20, help="seconds of a row on the CPU")
    parts = ("soundness", "times")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--networks", choices=("images", "sequences"), default="images")
    parser.add_argument("--only", nargs="+", help="names of networks")
    parser.add_argument("--save", type=Path, help="file to write the tables to")
    arguments = parser.parse_args()
    deadline = time.perf_counter() + arguments.seconds
    lines = []
    for line in report(arguments, deadline):
        lines.append(line)
        print(line, flush=True)
        if arguments.save:
            arguments.save.write_text("\n".join(lines) + "\n")


def report(arguments: argparse.Namespace, deadline: float) -> Iterator[str]:
    """All lines."""
    gpus = tf.config.list_physical_devices("GPU")
    device = "GPU" if gpus else "CPU"
    name = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "no GPU"
    yield f"{name}, TensorFlow {tf.__version__}, Keras {keras.__version__}, {os.cpu_count()} cores"
    yield ""
    yield from functions(device)
    yield from precision()
    yield ""
    if "soundness" in arguments.parts:
        yield from soundness_table(arguments)
        yield ""
    if "times" in arguments.parts:
        yield from times_table(arguments, device, deadline)


def soundness_table(arguments: argparse.Namespace) -> Iterator[str]:
    """Lines of the first table; networks that come too late are left out."""
    share = 0.5 if "times" in arguments.parts else 1.0
    limit = time.perf_counter() + share * arguments.seconds
    yield "| network | radius | method | width | float64 outside | model outside | nearest |"
    yield "| --- " * 7 + "|"
    outside, by_model, compared = 0, 0, 0
    images = QUICK if arguments.quick else NETS
    for net in SEQUENCES if arguments.networks == "sequences" else images:
        if arguments.only and net.name not in arguments.only:
            continue
        if time.perf_counter() > limit:
            yield f"| {net.name} | left out: out of time | | | | | |"
            continue
        for line, *counts in soundness(net, arguments.quick):
            outside, by_model = outside + counts[0], by_model + counts[1]
            compared += counts[2]
            yield line
    yield ""
    yield f"**{outside} of {compared} values outside**, by the model on the device {by_model}."


def times_table(arguments: argparse.Namespace, device: str, deadline: float) -> Iterator[str]:
    """Lines of the second table."""
    yield f"| what | first, {device} | next, {device} | memory, MB | first, CPU | next, CPU |"
    yield "| --- " * 6 + "|"
    sequences = arguments.networks == "sequences"
    for job in jobs_of_sequences() if sequences else jobs(arguments.quick):
        if time.perf_counter() > deadline:
            yield f"| {job.name}, {job.net.name} | left out: out of time | | | | |"
        else:
            yield timed(job, device, arguments.cpu_limit)


# --- networks and inputs --------------------------------------------------------------------------


class Net(NamedTuple):
    """A network, and the radius at which it is bounded."""

    name: str
    build: Callable[[], keras.Model]
    epsilon: float

    def made(self) -> keras.Model:
        """The network, with the same weights to the last bit every time and on every device."""
        keras.utils.set_random_seed(0)
        with tf.device("CPU"):  # initializers on a GPU round otherwise
            drawn = self.build()
        model = self.build()
        model.set_weights(drawn.get_weights())
        return model


def net(shape: tuple[int, ...], *layers: Any) -> keras.Model:
    """Layers in a row."""
    return keras.Sequential([keras.Input(shape), *layers])


def conv(nb_filters: int, **settings: Any) -> L.Conv2D:
    """A convolution of 3x3 with ReLU, weights of He's scale and some bias."""
    bias = keras.initializers.RandomNormal(stddev=0.1, seed=nb_filters)
    scale = {"kernel_initializer": "he_normal", "bias_initializer": bias}
    return L.Conv2D(nb_filters, 3, **{"activation": "relu", **scale, **settings})


def dense(*widths: int) -> keras.Model:
    """Dense layers of digits."""
    hidden = [L.Dense(width, "relu", kernel_initializer="he_normal") for width in widths]
    return net(DIGIT, L.Flatten(), *hidden, L.Dense(10))


def gap() -> keras.Model:
    """8-8-pool-16-16, 3x3 each, and a global average, of digits."""
    return net(
        DIGIT,
        *(conv(8), conv(8), L.MaxPooling2D(), conv(16), conv(16)),
        *(L.GlobalAveragePooling2D(), L.Dense(10)),
    )


def cifar() -> keras.Model:
    """32-32-pool-64-64-pool, 3x3 each, and a dense layer of 128, of 32x32x3."""
    parts = []
    for nb_filters in (32, 64):
        same = [conv(nb_filters, padding="same") for _ in range(2)]
        parts += [*same, L.MaxPooling2D()]
    end = [L.Flatten(), L.Dense(128, "relu", kernel_initializer="he_normal"), L.Dense(10)]
    return net(COLOUR, *parts, *end)


def strided() -> keras.Model:
    """Two strided convolutions and a dense layer, of digits: a chain that decomon takes too."""
    return net(DIGIT, conv(8, strides=2), conv(8, strides=2), L.Flatten(), L.Dense(10))


def separable() -> keras.Model:
    """Depthwise and separable convolutions, with batch normalization."""
    return net(
        COLOUR,
        *(conv(8, strides=2, padding="same", use_bias=False), normalization()),
        *(L.DepthwiseConv2D(3, padding="same"), normalization(), L.ReLU()),
        L.SeparableConv2D(16, 3, strides=2, padding="same", activation="relu"),
        *(conv(16), L.GlobalAveragePooling2D(), L.Dense(10)),
    )


def unusual() -> keras.Model:
    """Large, dilated and transposed convolutions, and average pooling."""
    return net(
        DIGIT,
        *(L.Conv2D(6, 7, strides=2, padding="same", activation="relu"), L.AveragePooling2D(2)),
        *(L.Conv2D(6, 5, padding="same", activation="relu"), conv(6, dilation_rate=2)),
        L.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu"),
        *(L.Flatten(), L.Dense(10)),
    )


def smooth() -> keras.Model:
    """Sigmoid, tanh, GELU and softplus between convolutions and dense layers."""
    return net(
        DIGIT,
        *(L.Conv2D(6, 3, strides=2, activation="tanh"), L.Conv2D(6, 3, activation="gelu")),
        *(L.Flatten(), L.Dense(32, "sigmoid"), L.Dense(32, "softplus"), L.Dense(10)),
    )


def transformer() -> keras.Model:
    """Two blocks of attention with 4 heads, 16 tokens, width 32."""
    inputs = keras.Input((16, 8))
    tokens = L.Dense(32)(inputs)
    for _ in range(2):
        normal = L.LayerNormalization()(tokens)
        tokens = L.Add()([tokens, L.MultiHeadAttention(4, 8)(normal, normal)])
        hidden = L.Dense(64, "gelu")(L.LayerNormalization()(tokens))
        tokens = L.Add()([tokens, L.Dense(32)(hidden)])
    return keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling1D()(tokens)))


def recurrent(layer: Callable[..., L.Layer]) -> keras.Model:
    """A recurrent layer of 32 units over 12 steps."""
    return net((12, 4), layer(32), L.Dense(10))


def normalizations() -> keras.Model:
    """Each kind of normalization by values of the input, with lines of roots and quotients."""
    return net(
        (16, 8),
        *(L.Dense(16), L.RMSNormalization(), L.Dense(16, "gelu"), L.GroupNormalization(4)),
        *(L.Dense(16, "tanh"), L.UnitNormalization(), L.Flatten(), L.Dense(10)),
    )


def normalization() -> L.BatchNormalization:
    """A batch normalization with statistics that are not 0 and 1."""
    near = keras.initializers.RandomUniform(0.5, 1.5, seed=0)
    return L.BatchNormalization(moving_variance_initializer=near, beta_initializer=near)


DENSE = Net("dense, 128-128", lambda: dense(128, 128), 0.01)
GAP, CIFAR = Net("GAP CNN", gap, 0.005), Net("CIFAR CNN", cifar, 0.002)
STRIDED = Net("strided CNN", strided, 0.01)
SEPARABLE, UNUSUAL = Net("separable", separable, 0.005), Net("unusual", unusual, 0.005)
SMOOTH = Net("smooth", smooth, 0.01)
NETS = [DENSE, CIFAR, GAP, UNUSUAL, SEPARABLE, STRIDED, SMOOTH]
QUICK = [DENSE, STRIDED, UNUSUAL]
TRANSFORMER = Net("transformer", transformer, 0.01)
LSTM = Net("LSTM", lambda: recurrent(L.LSTM), 0.05)
GRU = Net("GRU", lambda: recurrent(L.GRU), 0.05)
NORMALIZATIONS = Net("normalizations", normalizations, 0.01)
SEQUENCES = [TRANSFORMER, LSTM, NORMALIZATIONS, GRU]


def images(shape: tuple[int, ...], count: int, seed: int = 0) -> np.ndarray:
    """Random images (N, *shape) in [0, 1], every other one with a black border, as digits have.

    Series (N, T, W) have no border.
    """
    found = np.random.default_rng(seed).random((count, *shape), "float32")
    if len(shape) < 3:
        return found
    for border in (np.s_[1::2, :4], np.s_[1::2, -4:], np.s_[1::2, :, :4], np.s_[1::2, :, -4:]):
        found[border] = 0
    return found


# --- soundness ------------------------------------------------------------------------------------


def soundness(net: Net, quick: bool) -> Iterator[tuple[str, int, int, int]]:
    """Lines, how many values were outside, how many by the model itself, how many compared."""
    model = net.made()
    inputs = images(model.input_shape[1:], 2 if quick else 4)
    exact, forward = in_float64(net), tf.function(model)
    regions = [Ball(inputs, epsilon) for epsilon in (net.epsilon, SMALL_RADIUS)]
    points = [corners(exact, region) for region in regions]
    values = [apply(exact, some, "CPU") for some in points]  # (N, P, K), float64
    with full_precision():
        shown = [apply(forward, in_float32(*pair)) for pair in zip(points, regions)]
    ways = [(method, "real") for method in METHODS[:3]] + [("crown", "float32")]
    if net in (TRANSFORMER, LSTM, NORMALIZATIONS):
        ways += [("alpha-crown", "real")]
    if net in (DENSE, STRIDED) and not quick:
        ways += [(method, "real") for method in ("alpha-crown", *DECOMON)]
    for method, arithmetic in ways:
        try:
            verifier = Verifier(model, method, arithmetic=arithmetic)
        except UnsupportedLayerError:
            continue
        for number, region in enumerate(regions):
            lower, upper = verifier.bound_outputs(region)
            room = np.minimum(values[number] - lower[:, None], upper[:, None] - values[number])
            outside, by_itself = count_outside(values[number], lower, upper), 0
            if arithmetic == "float32":  # else bounds are of the network in real arithmetic
                by_itself = count_outside(shown[number], lower, upper)
            name = method + (", float32" if arithmetic == "float32" else "")
            cells = [net.name, f"{np.max(region.epsilon):g}", f"`{name}`"]
            cells += [f"{np.mean(upper - lower):.3g}", f"{outside} of {room.size}"]
            cells += [f"{by_itself}" if arithmetic == "float32" else "", f"{room.min():.1e}"]
            yield f"| {' | '.join(cells)} |", outside, by_itself, room.size
    if net in (DENSE, GAP, SMOOTH, TRANSFORMER, LSTM):
        yield from gradient_soundness(net, model, exact, regions, points)


def gradient_soundness(
    net: Net,
    model: keras.Model,
    exact: keras.Model,
    regions: list[Ball],
    points: list[np.ndarray],
) -> Iterator[tuple[str, int, int, int]]:
    """The same of the gradients of two logits with respect to the input."""
    rows = np.eye(10, dtype="float32")[:2]
    for method in ("ibp", "crown"):
        verifier = Verifier(model, method)
        for region, corner in zip(regions, points):
            lower, upper = verifier.bound_gradient(region, rows)  # (N, 2, *input)
            outside = compared = 0
            for some in corner[:, ::8].swapaxes(0, 1):
                found = gradients(exact, some, rows)
                outside += count_outside(found[:, None], lower, upper)
                compared += found.size
            cells = [net.name, f"{np.max(region.epsilon):g}", f"gradients, `{method}`"]
            cells += [f"{np.mean(upper - lower):.3g}", f"{outside} of {compared}", "", ""]
            yield f"| {' | '.join(cells)} |", outside, 0, compared


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """No TensorFloat-32, which no bound of a network in float32 covers."""
    switch = tf.config.experimental.enable_tensor_float_32_execution
    found = tf.config.experimental.tensor_float_32_execution_enabled()
    switch(False)
    try:
        yield
    finally:
        switch(found)


def count_outside(values: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> int:
    """Values (N, P, ...) that leave their bounds (N, ...), or are no numbers."""
    return int(np.sum(~((values >= lower[:, None]) & (values <= upper[:, None]))))


def in_float64(net: Net) -> keras.Model:
    """The same network in float64, on the CPU."""

    def copy(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

    with tf.device("CPU"):
        model = net.made()
        exact = keras.models.clone_model(model, clone_function=copy)
        exact.set_weights(model.get_weights())
    return exact


def corners(exact: keras.Model, region: Ball) -> np.ndarray:
    """Corners (N, P, *shape) of each region in float64: random ones, and those of gradients."""
    generator = np.random.default_rng(1)
    found = []
    lower, upper = region.sides("float64")
    for _ in range(12):
        found.append(np.where(generator.random(region.center.shape) < 0.5, lower, upper))
    rows = np.eye(10)
    for slopes in np.moveaxis(gradients(exact, region.center.astype("float64"), rows), 1, 0):
        found += [np.where(slopes > 0, lower, upper), np.where(slopes > 0, upper, lower)]
    return np.stack(found, axis=1)


def in_float32(points: np.ndarray, region: Ball) -> np.ndarray:
    """Points (N, P, *shape) as a model in float32 takes them, still inside of their regions."""
    lower, upper = (side[:, None] for side in region.sides("float64"))
    points = points.astype("float32")
    points = np.where(points < lower, np.nextafter(points, np.float32(np.inf)), points)
    return np.where(points > upper, np.nextafter(points, np.float32(-np.inf)), points)


def gradients(exact: keras.Model, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Gradients (N, S, *shape) of some sums of logits, in float64 on the CPU."""
    with tf.device("CPU"):
        given = tf.constant(inputs, tf.float64)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(given)
            sums = [tf.reduce_sum(exact(given) * row, -1) for row in rows.astype("float64")]
        return np.stack([tape.gradient(total, given) for total in sums], axis=1)


def apply(model: keras.Model, points: np.ndarray, device: str | None = None) -> np.ndarray:
    """Outputs (N, P, K) of points (N, P, *shape)."""
    flat = points.reshape(-1, *points.shape[2:])
    with tf.device(device):
        parts = [np.asarray(model(part)) for part in np.array_split(flat, -(-len(flat) // 64))]
    return np.concatenate(parts).reshape(*points.shape[:2], -1)


def functions(device: str) -> Iterator[str]:
    """How far the device's functions in float64 are from the true ones."""
    places = np.linspace(-30, 30, 200_001)
    wide = places.astype(np.longdouble)
    true = {
        "exp": np.exp(wide),
        "tanh": np.tanh(wide),
        "sigmoid": 1 / (1 + np.exp(-wide)),
        "softplus": np.log1p(np.exp(wide)),
        "erf": np.array([math.erf(place) for place in places]),
        "sin": np.sin(wide),
        "cos": np.cos(wide),
    }
    positive = np.abs(places) + 1e-3
    true |= {name: function(positive.astype(np.longdouble)) for name, function in ROOTS.items()}
    found = []
    for name, values in true.items():
        function = getattr(tf.math, name)
        ours = function(tf.constant(positive if name in ROOTS else places)).numpy()
        ulps = np.max(np.abs(ours - values) / np.spacing(np.abs(values.astype("float64"))))
        found.append(f"{name} {float(ulps):.1f}")
    yield f"Units in the last place, float64, {device} (trusted to {ULPS}): {', '.join(found)}"


def precision() -> Iterator[str]:
    """That TensorFloat-32 is used by a model, not by what certifies it, and by a model again."""
    model, inputs = dense(128, 128), images(DIGIT, 1024)
    exact = in_float64(Net("", lambda: dense(128, 128), 0))
    exact.set_weights(model.get_weights())
    true = apply(exact, inputs[None].astype("float64"), "CPU")[0]
    verifier = Verifier(model, "ibp")
    errors = []
    for call in (model, verifier.evaluate, model):
        found = np.asarray(call(inputs))
        errors.append(f"{np.max(np.abs(found - true)) / np.max(np.abs(true)):.1e}")
    enabled = tf.config.experimental.tensor_float_32_execution_enabled()
    yield (
        f"Relative error of the logits: model {errors[0]}, Verifier.evaluate {errors[1]}, "
        f"model again {errors[2]}; TensorFloat-32 {'on' if enabled else 'off'} before and after"
    )


# --- times ----------------------------------------------------------------------------------------


class Job(NamedTuple):
    """What is timed: `make` gives a call for some images of a model that lies where it is made."""

    name: str
    net: Net
    make: Callable[[keras.Model, np.ndarray], Callable[[], Any]]
    count: int
    cpu_count: int


def jobs(quick: bool) -> Iterator[Job]:
    """All of them, the most important first."""
    small = 2 if quick else 8

    def bounds(method: str, compile: bool = True) -> Callable:
        def make(model: keras.Model, inputs: np.ndarray, epsilon: float) -> Callable[[], Any]:
            verifier = Verifier(model, method, compile=compile)
            return lambda: verifier.bound_outputs(Ball(inputs, epsilon))

        return make

    def of_net(net: Net, make: Callable) -> Callable:
        return lambda model, inputs: make(model, inputs, net.epsilon)

    def eva(mode: str) -> Callable:
        def make(model: keras.Model, inputs: np.ndarray, epsilon: float) -> Callable[[], Any]:
            explainer = EVA(model, epsilon, clip=(0, 1), mode=mode, grid_size=12)
            return lambda: explainer.explain(inputs)

        return make

    def gradient(model: keras.Model, inputs: np.ndarray, epsilon: float) -> Callable[[], Any]:
        verifier = Verifier(model, "crown", compile=True)
        rows = np.eye(10, dtype="float32")[:1]
        return lambda: verifier.bound_gradient(Ball(inputs, epsilon), rows)

    def corgi(model: keras.Model, inputs: np.ndarray) -> Callable[[], Any]:
        explainer = CORGI(model, k=3, method="crown-ibp", attack=None)
        return lambda: explainer.certify(inputs)

    def relex(model: keras.Model, inputs: np.ndarray) -> Callable[[], Any]:
        explainer = RelEx(model, nb_samples=50, steps=50, start="paper")
        return lambda: explainer.explain(inputs)

    net = GAP if quick else CIFAR
    yield Job("EVA, one pass", DENSE, of_net(DENSE, eva("one-pass")), small if quick else 1000, 100)
    yield Job("`crown`", net, of_net(net, bounds("crown")), small, 1)
    yield Job("`crown-ibp`", net, of_net(net, bounds("crown-ibp")), small, small)
    uncompiled = of_net(net, bounds("crown-ibp", compile=False))
    yield Job("`crown-ibp`, not compiled", net, uncompiled, small, 0)
    yield Job("`ibp`", net, of_net(net, bounds("ibp")), small, small)
    yield Job("EVA, exact", DENSE, of_net(DENSE, eva("exact")), small, 2)
    yield Job("`decomon:crown`", DENSE, of_net(DENSE, bounds("decomon:crown")), small, small)
    yield Job("`crown`", DENSE, of_net(DENSE, bounds("crown")), small, small)
    yield Job('`RelEx(start="paper")`, 50 steps, 50 copies', GAP, relex, 2 if quick else 20, 2)
    yield Job("CORGI, k=3, `crown-ibp`", GAP, corgi, 2, 1)
    if not quick:
        yield Job("`crown`", GAP, of_net(GAP, bounds("crown")), small, 1)
    yield Job("EVA, one pass", GAP, of_net(GAP, eva("one-pass")), small, 0)
    for net in (STRIDED, DENSE):
        for method in DECOMON[1:]:
            yield Job(f"`{method}`", net, of_net(net, bounds(method)), small, small)
    yield Job("`alpha-crown`", DENSE, of_net(DENSE, bounds("alpha-crown")), small, 0)
    yield Job("gradients, `crown`", DENSE, of_net(DENSE, gradient), small, small)
    if not quick:
        yield Job("`crown-ibp`", GAP, of_net(GAP, bounds("crown-ibp")), small, small)
        yield Job("`crown-ibp`", DENSE, of_net(DENSE, bounds("crown-ibp")), small, small)
        yield Job("`ibp`", DENSE, of_net(DENSE, bounds("ibp")), small, small)


def jobs_of_sequences() -> Iterator[Job]:
    """Bounds of networks with attention and recurrence."""

    def bounds(net: Net, method: str) -> Callable:
        def make(model: keras.Model, inputs: np.ndarray) -> Callable[[], Any]:
            verifier = Verifier(model, method, compile=True)
            return lambda: verifier.bound_outputs(Ball(inputs, net.epsilon))

        return make

    for net, method, count, on_cpu in (
        (TRANSFORMER, "ibp", 64, 64),
        (TRANSFORMER, "crown-ibp", 64, 8),
        (TRANSFORMER, "crown", 16, 2),
        (LSTM, "ibp", 64, 64),
        (LSTM, "crown-ibp", 64, 8),
        (LSTM, "crown", 16, 2),
    ):
        yield Job(f"`{method}`", net, bounds(net, method), count, on_cpu)


def timed(job: Job, device: str, cpu_limit: float) -> str:
    """One line: on the device, and on the CPU, on as many images as the limit allows for."""
    inputs = images(job.net.made().input_shape[1:], job.count)
    name = f"{job.name}, {job.net.name}, {job.count} images"
    if device == "GPU":
        tf.config.experimental.reset_memory_stats("GPU:0")
    try:
        first, following = seconds(job, inputs)
    except UnsupportedLayerError:
        return f"| {name} | refused | | | | |"
    except tf.errors.OpError as error:
        return f"| {name} | {type(error).__name__}: {error.message[:80]!r} | | | | |"
    cells = [name, f"{first:.2f}", f"{following:.4f}"]
    if device == "CPU":
        return f"| {' | '.join([*cells, '', '', ''])} |"
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    cells.append(f"{peak / 1e6:.0f}")
    count = min(job.cpu_count, job.count)
    if not count:
        return f"| {' | '.join([*cells, '', ''])} |"
    with tf.device("CPU"):
        first, following = seconds(job, inputs[:count], cpu_limit)
    note = "" if count == job.count else f" (of {count})"
    return f"| {' | '.join([*cells, f'{first:.2f}{note}', f'{following:.4f}{note}'])} |"


def seconds(job: Job, inputs: np.ndarray, limit: float = math.inf) -> tuple[float, float]:
    """Seconds of the first call, and of the best of the next ones."""
    model = job.net.made()
    start = time.perf_counter()
    call = job.make(model, inputs)
    call()
    first = time.perf_counter() - start
    following = []
    # What is run operation by operation at first may be compiled at one of the next calls.
    while len(following) < 2 or (sum(following) < 0.3 and len(following) < 5):
        if following and sum(following) + first > limit:
            break
        start = time.perf_counter()
        call()
        following.append(time.perf_counter() - start)
    return first, min(following)


if __name__ == "__main__":
    main()
