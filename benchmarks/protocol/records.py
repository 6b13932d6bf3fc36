"""What was measured, and on what: rows in JSON files that name commit, versions and machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

VERSIONS = ("numpy", "tensorflow", "keras", "xcertify")
CODE = ("xcertify", "benchmarks")  # what has changed there since the commit is told
RESULTS = ("benchmarks/results",)  # but for what runs write

Row = dict[str, Any]
Record = dict[str, Any]  # `about`, and "rows"


def recorded(run: Callable[[], Sequence[Row]], **said: Any) -> Record:
    """The rows that a function gives, and on what they were measured."""
    about: Record = {
        **said,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "versions": {"python": platform.python_version()} | {n: version(n) for n in VERSIONS},
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load": load(),
    }
    clock, processed = time.perf_counter(), time.process_time()
    rows = list(run())
    about["seconds"] = round(time.perf_counter() - clock, 1)
    about["cpu"] = round(time.process_time() - processed, 1)
    return about | {"load_at_end": load(), "rows": rows}


def write(path: Path, record: Record) -> None:
    """Store what was measured, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps(row, default=_of_numpy) for row in record["rows"]]
    listed = ",\n  ".join(rows)  # each in a line
    about = json.dumps(record | {"rows": []}, indent=1)
    part = path.with_suffix(".part")
    part.write_text(about.replace('"rows": []', f'"rows": [\n  {listed}\n ]') + "\n")
    part.replace(path)


def read(path: Path) -> Record:
    """What was stored."""
    return json.loads(path.read_text())


def where(record: Record) -> str:
    """On what a record was measured, in a line."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return (
        f"commit {record['commit']}; {versions}; {record['processor']}, {record['cores']} cores, "
        f"load {record['load']} at its beginning; {record['seconds']:g} s on the clock, "
        f"{record['cpu']:g} s of the processor"
    )


def load() -> float | None:
    """How many processes want a core, on average over the last minute."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def commit() -> str:
    """The commit at hand, and whether the code has changed since; "unknown" without git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[2]), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        ignored = [f":!{path}" for path in RESULTS]
        changed = git("status", "--porcelain", "--", *CODE, *ignored)
        return git("rev-parse", "--short=10", "HEAD") + (" and changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """The name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _of_numpy(value: Any) -> Any:
    """A number or an array of NumPy as JSON has it."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(
        f"rows must hold what JSON holds; turn it into numbers, words or lists. Received: {value!r}"
    )
