"""Certificates from samples: what they are worth and what they cost, part by part.

    python benchmarks/statistical.py errors              # measure and print
    python benchmarks/statistical.py maps --save         # and store, in results/statistical
    python benchmarks/statistical.py --tables            # print the tables of what is stored
    python benchmarks/statistical.py --quick             # every part, small: does it run?

Parts, each a module `statistical_PART.py` beside this one, whose first lines say what it measures:

- *errors*: how often certificates are wrong, by simulations whose truth is known;
- *maps*: certified shares of pixels, seconds and memory, for several explainers and networks;
- *noise*: the same of networks that were trained with noise, or have a blur in front;
- *attacks*: attacks on smoothed maps, inside and outside of what is certified;
- *stability*: soft stability of the masks of several explainers;
- *sets*: probably sufficient sets, beside proved ones and attacks;
- *uniform*: certified cosines of uniformly smoothed maps.

Each has `run(quick)`, which gives the rows (dictionaries of what JSON holds), and `tables(rows)`,
which writes them as Markdown. What is stored names the commit, the versions, the processor, its
load when the part began, and the seconds that it took. What `--quick` stores says so in its tables.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

PARTS = ("errors", "maps", "noise", "attacks", "stability", "sets", "uniform")
FOLDER = Path(__file__).parent / "results" / "statistical"
VERSIONS = ("numpy", "tensorflow", "keras", "xcertify")
CODE = ("xcertify", "benchmarks")  # what has changed there since the commit is told

Stored = dict[str, Any]


def main() -> None:
    """Measure parts, or take what is stored, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; or all")
    parser.add_argument("--quick", action="store_true", help="small: does it run?")
    parser.add_argument("--save", action="store_true", help="store what is measured")
    parser.add_argument(
        "--tables", action="store_true", help="measure nothing, print what is there"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of what is stored")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        parser.error(f"parts must be of {PARTS}. Received: {unknown}")
    for part in arguments.parts or PARTS:
        path = arguments.folder / f"{part}.json"
        if not arguments.tables:
            stored = measured(part, arguments.quick)
            if arguments.save:
                write(path, stored)
        elif path.exists():
            stored = json.loads(path.read_text())
        else:
            print(f"{part}: nothing is stored in {arguments.folder}\n", flush=True)
            continue
        print(shown(part, stored), flush=True)


def module_of(part: str) -> Any:
    """The module that measures a part."""
    return importlib.import_module(f"statistical_{part}")


def measured(part: str, quick: bool) -> Stored:
    """The rows of a part, and on what they were measured."""
    module = module_of(part)
    about: Stored = {
        "quick": quick,
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {n: version(n) for n in VERSIONS},
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }
    clock, processed = time.perf_counter(), time.process_time()
    rows = list(module.run(quick))
    seconds = {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - processed}
    return about | {name: round(value, 1) for name, value in seconds.items()} | {"rows": rows}


def write(path: Path, stored: Stored) -> None:
    """Store what was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored, indent=1, default=_of_numpy) + "\n")


def _of_numpy(value: Any) -> Any:
    """A number or an array of NumPy as JSON has it."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(
        f"rows must hold what JSON holds; turn it into numbers, words or lists. Received: {value!r}"
    )


def shown(part: str, stored: Stored) -> str:
    """The tables of a part, and below them on what they were measured."""
    versions = ", ".join(f"{name} {number}" for name, number in stored["versions"].items())
    quick = " --quick" if stored["quick"] else ""
    return (
        f"## {part}\n\n{module_of(part).tables(stored['rows']).strip()}\n\n"
        f"*`python benchmarks/statistical.py {part}{quick}`, commit {stored['commit']}; "
        f"{versions}; "
        f"{stored['processor']}, {stored['cores']} cores, load {stored['load']} at its beginning; "
        f"{stored['seconds']:g} s on the clock, {stored['cpu']:g} s of the processor.*\n"
    )


def commit() -> str:
    """The commit at hand, and whether the code has changed since; "unknown" without git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[1]), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", *CODE)
        return git("rev-parse", "--short=10", "HEAD") + (" and changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """The name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
