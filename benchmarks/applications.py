"""The networks of keras.applications at 224 x 224: seconds and memory of everything, one by one.

    python benchmarks/applications.py
    python benchmarks/applications.py --save FOLDER
    python benchmarks/applications.py --networks ResNet50 --weights resnet50.weights.h5

Without a file of weights they are random: normalizations scale and shift by random numbers, and
their statistics are those of random images, so that no tensor vanishes or explodes. Inputs are one
random smooth image, as `preprocess_input` of the network gives it; the radius is a thousandth of
its range. Each network has a process of its own (`application_calls.py`), and another one behind a
call that did not end. With `--save` results are stored as they come, and what is stored is not
measured again. Calls:

- *image*, *gradient*: of the network itself; *load*: until a `Verifier` of it is there; *info*:
  what `xcertify info` prints;
- `GradCAM`, `CORGI().explain`, an attack (`PGD`, 10 steps), a metric (`Deletion`, 10 steps),
  `EVAHybrid` (behind the layer that is pooled; 4 x 4 cells, 8 samples) and `RelEx` (4 noisy copies,
  10 steps from the paper's start; of more they take as many times as long), each of one image;
- *ibp*: bounds of all logits; *crown-ibp*: of the margins of the five largest logits. Their mean
  width, in brackets that of what corners and an attack attained; *outside*: how many of these
  values, in float64, lie outside of the bounds;
- *before*: until an explainer with bounds says that they say nothing, and how many times too far
  they are.

A cell has seconds of a processor (of the first call and the next one), and behind a slash by how
many GiB the resident memory grew at most (Linux only).
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import application_calls

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
TABLES = {
    "Without bounds of the whole network": (
        *("image", "gradient", "GradCAM", "CORGI", "EVAHybrid", "RelEx", "PGD", "Deletion"),
    ),
    "Bounds": ("load", "ibp", "crown-ibp", "info"),
    "Said before": tuple(call for call in application_calls.CALLS if call.startswith("before")),
}
CALLS = tuple(application_calls.CALLS)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--calls", nargs="+", choices=CALLS, default=CALLS)
    parser.add_argument("--weights", type=Path, help="a file of weights, for a single network")
    parser.add_argument("--limit", type=float, default=60, help="CPU seconds for a call")
    parser.add_argument("--save", type=Path, help="a folder of results, one file a network")
    parser.add_argument(
        "--stored", action="store_true", help="measure nothing, print what is there"
    )
    arguments = parser.parse_args()
    results = {name: measured(name, arguments) for name in arguments.networks}
    for title, calls in TABLES.items():
        shown = [call for call in calls if call in arguments.calls]
        if shown:
            print(f"\n### {title}\n\n{table(results, shown)}")


def measured(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What came of each call to a network; what is stored is taken from there."""
    path = arguments.save / f"{name}.json" if arguments.save else None
    found = json.loads(path.read_text()) if path and path.exists() else {}
    while not arguments.stored:
        left = [call for call in arguments.calls if call not in found]
        if not left:
            break
        ended = run(name, left, arguments)
        for call, cell in ended:
            found[call] = cell
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(found, indent=1))
            print(f"{name}: {call}: {shown(cell)}", file=sys.stderr, flush=True)
    return found


def run(name: str, calls: list[str], arguments: argparse.Namespace) -> Any:
    """Calls and their cells as they come, from one process; the last one may say why it ended."""
    script = str(Path(__file__).with_name("application_calls.py"))
    command = [sys.executable, script, name, "--calls", *calls, "--limit", str(arguments.limit)]
    command += ["--weights", str(arguments.weights)] if arguments.weights else []
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        left = list(calls)
        for line in process.stdout:
            yield from json.loads(line).items()
            left.pop(0)
        why = process.stderr.read().strip().splitlines()
    if left and process.returncode == -signal.SIGXCPU:
        yield left[0], {"said": f"not within {arguments.limit:.0f} s"}
    elif left:
        yield left[0], {"said": f"failed: {why[-1] if why else process.returncode}"}


def table(results: dict[str, dict[str, Any]], calls: list[str]) -> str:
    """A row for each network."""
    heads = [call.removeprefix("before ") for call in calls]
    heads = [f"{head}, outside" if head.endswith("ibp") else head for head in heads]
    lines = [f"| network | {' | '.join(heads)} |", "| --- " * (1 + len(calls)) + "|"]
    for name, found in results.items():
        cells = [shown(found[call]) if call in found else "" for call in calls]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(cell: dict[str, Any]) -> str:
    """A cell in words."""
    parts = []
    if "seconds" in cell:
        seconds = ", ".join(f"{value:g}" for value in cell["seconds"])
        parts.append(f"{seconds} / {cell['GiB']:g}")
    parts += [cell[name] for name in ("said", "outside") if name in cell]
    return "; ".join(parts)


if __name__ == "__main__":
    main()
