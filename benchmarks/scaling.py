"""How the cost of bounds grows: width, seconds and peak memory, along one axis at a time.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --axes depth unstable --methods ibp crown --plot scaling.png
    python benchmarks/scaling.py --quick

Networks have random weights (those of He, by seed), so that widths are no statement about trained
ones; they show what each method loses. Axes:

- *depth*: hidden dense layers of 64, and *neurons*: the width of three of them, of 16x16 images;
- *side*: of images, for three convolutions of 3x3 (8, 16, 16 filters, the second with stride 2),
  a global average and a dense layer, and *batch*: so many images of 16x16 at once;
- *unstable*: the radius, which decides how many activations are not proved to be on or off.

Columns: the mean width of the logits' bounds; CPU seconds of `bound_outputs`, the first call with
the compilation, and the least of some more; by how much the peak of the resident memory grows in a
call (Linux only), without what it returns; and unstable activations per image, by the method itself
(on the axis of that name). Each value of an axis has a process of its own. `gradient` is
`bound_gradient` of the predicted logit by "ibp-crown", its width that of bounds of the gradient.

Behind the table: how cost grows from value to value, as the exponent p of value^p.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from matplotlib.figure import Figure

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown", "gradient")


class Axis(NamedTuple):
    """What varies, and the values that it takes."""

    label: str
    values: tuple
    few: tuple  # for a quick run


AXES = {
    "depth": Axis("hidden layers of 64", (1, 2, 4, 8), (1, 2)),
    "neurons": Axis("neurons of 3 layers", (32, 64, 128, 256), (4, 8)),
    "side": Axis("side of the images", (8, 12, 16, 24, 32), (6, 8)),
    "batch": Axis("images at once", (1, 4, 16, 64), (1, 2)),
    "unstable": Axis("radius", (0.0005, 0.002, 0.008, 0.032), (0.001, 0.01)),
}
MEASURES = {"width": "mean width", "seconds": "CPU s", "memory": "peak MiB"}


class Point(NamedTuple):
    """What one method takes for one value of an axis; None: not measured."""

    axis: str
    value: float
    method: str
    width: float | None = None
    first: float | None = None
    seconds: float | None = None
    memory: float | None = None
    unstable: float | None = None


def main() -> None:
    """Print the table, and draw it where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--axes", nargs="+", choices=tuple(AXES), default=list(AXES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--limit", type=float, default=240, help="seconds for a value of an axis")
    parser.add_argument("--plot", type=Path, help="picture to write, such as scaling.png")
    parser.add_argument("--quick", action="store_true", help="two small values of each axis")
    parser.add_argument("--point", nargs=2, metavar=("AXIS", "VALUE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        axis, value = arguments.point
        for point in measured(axis, json.loads(value), arguments.methods, arguments.quick):
            print(json.dumps(point), flush=True)
        return
    print("| axis | value | method | mean width | first CPU s | CPU s | peak MiB | unstable |")
    print("| --- " * 8 + "|")
    points = []
    for axis in arguments.axes:
        for value in AXES[axis].few if arguments.quick else AXES[axis].values:
            for point in in_a_process(axis, value, arguments):
                points.append(point)
                print(f"| {' | '.join(map(shown, point))} |", flush=True)
    print(f"\n{growth(points)}")
    if arguments.plot:
        drawn(points).savefig(arguments.plot, dpi=110)


def in_a_process(axis: str, value: float, arguments: argparse.Namespace) -> Iterator[Point]:
    """Points of one value, from a process that has as long as the limit says."""
    command = [sys.executable, __file__, "--point", axis, json.dumps(value)]
    command += ["--methods", *arguments.methods, *["--quick"] * arguments.quick]
    try:
        process = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=arguments.limit,
            check=False,
        )
        printed = process.stdout
    except subprocess.TimeoutExpired as expired:
        printed = expired.stdout or b""
    found = [Point(*json.loads(line)) for line in printed.decode().splitlines()]
    missing = [method for method in arguments.methods if method not in [p.method for p in found]]
    yield from [*found, *(Point(axis, value, method) for method in missing)]


# --- one value of an axis -------------------------------------------------------------------------


def measured(axis: str, value: Any, methods: list[str], quick: bool) -> Iterator[Point]:
    """Points of this process, method by method."""
    from xcertify.bounds import Verifier
    from xcertify.regions import Ball

    model = network(axis, value, quick)
    nb_images = value if axis == "batch" else 4
    shape = (nb_images, *model.input_shape[1:])
    images = np.random.default_rng(0).random(shape, "float32")
    region = Ball(images, value if axis == "unstable" else 0.002)
    labels = model.predict_on_batch(images).argmax(axis=1)
    rows = np.eye(10, dtype="float32")[labels][:, None]
    for method in methods:
        verifier = Verifier(model, "ibp" if method == "gradient" else method, compile=True)
        call = {
            True: lambda: verifier.bound_gradient(region, rows, method="ibp-crown"),  # noqa: B023
            False: lambda: verifier.bound_outputs(region),  # noqa: B023
        }[method == "gradient"]
        first, (lower, upper) = timed(call)
        times = [timed(call)[0]]
        while len(times) < 10 and sum(times) < (0.0 if quick else 0.5):
            times.append(timed(call)[0])
        unstable = None
        if axis == "unstable" and method != "gradient":
            unstable = nb_unstable(Verifier(model, method, compile=False), region)
        width = float(np.mean(upper - lower))
        yield Point(axis, value, method, width, first, min(times), grown(call), unstable)


def network(axis: str, value: Any, quick: bool) -> Any:
    """The network that is bounded there."""
    import keras

    layers, activation = keras.layers, "relu"
    seeds = iter(range(100))

    def weighted(kind: type, *sizes: int, **settings: Any) -> Any:
        initializer = keras.initializers.HeNormal(seed=next(seeds))
        return kind(*sizes, kernel_initializer=initializer, **settings)

    side = value if axis == "side" else 6 if quick else 16
    if axis in ("depth", "neurons"):
        neurons, depth = (64, value) if axis == "depth" else (value, 3)
        hidden = [weighted(layers.Dense, neurons, activation=activation) for _ in range(depth)]
        parts = [layers.Flatten(), *hidden]
    else:
        parts = [
            weighted(layers.Conv2D, 8, 3, activation=activation),
            weighted(layers.Conv2D, 16, 3, strides=2, activation=activation),
            weighted(layers.Conv2D, 16, 3, padding="same", activation=activation),
            layers.GlobalAveragePooling2D(),
        ]
    return keras.Sequential([keras.Input((side, side, 1)), *parts, weighted(layers.Dense, 10)])


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and its result."""
    start = time.process_time()
    found = call()
    return time.process_time() - start, found


def nb_unstable(verifier: Any, region: Any) -> float:
    """Activations of the hidden layers that may be on or off, per image."""
    names = [layer.name for layer in verifier.model.layers[:-1] if hasattr(layer, "activation")]
    sides = [verifier.bound_layer(region, name) for name in names]
    return sum(int(((lower <= 0) & (upper > 0)).sum()) for lower, upper in sides) / len(region)


def grown(call: Callable[[], Any]) -> float | None:
    """MiB by which the peak of the resident memory grows in a call; None where that is not said."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    from bounds import peak_growth

    # The first measurement of a process also counts what is loaded for it.
    return max(min(peak_growth(call) for _ in range(2)), 0) / 2**20


# --- shown ----------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A cell of the table."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def growth(points: list[Point]) -> str:
    """The table of exponents, between the last two values of each axis."""
    lines = ["| axis | method | width | CPU s | peak MiB |", "| --- " * 5 + "|"]
    for axis, method in dict.fromkeys((point.axis, point.method) for point in points):
        some = [p for p in points if (p.axis, p.method) == (axis, method) and p.seconds]
        if len(some) > 1:
            cells = [exponent(some[-2], some[-1], measure) for measure in MEASURES]
            lines.append(f"| {axis} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def exponent(first: Point, second: Point, measure: str) -> str:
    """p, if a measure grows like value^p from one point to the other."""
    before, after = getattr(first, measure), getattr(second, measure)
    if not before or not after:
        return "-"
    return f"{math.log(after / before) / math.log(second.value / first.value):.1f}"


def drawn(points: list[Point]) -> Figure:
    """A picture for each measure and axis, a line for each method; both sides logarithmic."""
    axes = list(dict.fromkeys(point.axis for point in points))
    methods = list(dict.fromkeys(point.method for point in points))
    figure = Figure(figsize=(3.2 * len(axes) + 0.6, 7.6), layout="constrained")
    pictures = figure.subplots(len(MEASURES), len(axes), squeeze=False)
    for row, (measure, name) in enumerate(MEASURES.items()):
        for column, axis in enumerate(axes):
            picture = pictures[row, column]
            for number, method in enumerate(methods):
                some = [p for p in points if (p.axis, p.method) == (axis, method)]
                some = [p for p in some if getattr(p, measure)]
                where = [p.value for p in some]
                heights = [getattr(p, measure) for p in some]
                line = "o--" if method == "alpha-crown" else "o-"  # often on that of crown
                picture.plot(where, heights, line, ms=4, color=f"C{number}", label=method)
            picture.set_xscale("log", base=2)
            if any(len(line.get_xdata()) for line in picture.lines):
                picture.set_yscale("log")
            values = sorted({point.value for point in points if point.axis == axis})
            picture.set_xticks(values, [f"{value:g}" for value in values])
            picture.minorticks_off()
            picture.grid(alpha=0.3)
            if row == len(MEASURES) - 1:
                picture.set_xlabel(AXES[axis].label)
            if row == 0:
                picture.set_title(axis)
            if column == 0:
                picture.set_ylabel(name)
    handles, labels = pictures[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(methods), frameon=False)
    return figure


if __name__ == "__main__":
    main()
