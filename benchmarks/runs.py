"""Runs over many inputs: by one process and by workers, killed and gone on with, and their memory.

    python benchmarks/runs.py --data-dir DIR [--model FILE] [--inputs 10000] [--workers 1 2]

Digits of MNIST, prepared by tensorflow_datasets in DIR, are certified by EVA one-pass with a dense
network (trained first, unless it is given): in one call, by a run of one process, by workers of
Ray, and by a run that is killed with SIGKILL at a third and goes on. Each has a process of its own.
Seconds are of wall time and hold the start: TensorFlow, Ray, the model, graphs. "same": whether all
rows, but for their seconds, and all maps are those of the first run, bit by bit. Peak memory is
that of the process, and behind a + that of the largest worker of Ray.

Then folders of 200 and of 2,000 pictures, 224 x 224 in colour, are explained by Saliency.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import psutil
import pyarrow as pa
from PIL import Image

from xcertify.attributions import EVA
from xcertify.commands.networks import dense_net, fit
from xcertify.datasets import load
from xcertify.distributed import by_ray
from xcertify.runs import Job, Run, run, use_threads
from xcertify.runs.sources import open_source

L = keras.layers
SETTINGS = {"epsilon": 0.02, "clip": (0.0, 1.0)}
PICTURES = (200, 2000)


def content(done: Run) -> str:
    """SHA-256 of all rows but their seconds, and of the maps, a batch at a time."""
    digest = hashlib.sha256()
    for table in done.tables():
        table = table.drop_columns(["seconds"]).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        digest.update(sink.getvalue())
        first = table["input"][0].as_py()
        maps = done.maps(first, first + len(table))
        digest.update(b"" if maps is None else maps.tobytes())
    return digest.hexdigest()


def mebibytes(size: float) -> str:
    """Bytes in words."""
    return f"{size / 2**20:,.0f} MiB"


class Peak:
    """Peak memory of this process, and of the largest of those that it started, now and then."""

    def __enter__(self) -> Peak:
        self._of_others, self._end = 0, threading.Event()
        threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()

    def _look(self) -> None:
        own = psutil.Process()
        while not self._end.wait(0.5):
            for process in own.children(recursive=True):
                try:
                    if process.name().startswith("ray::"):
                        self._of_others = max(self._of_others, process.memory_info().rss)
                except psutil.Error:
                    continue

    def __str__(self) -> str:
        own = mebibytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10)
        return f"{own} + {mebibytes(self._of_others)}" if self._of_others else own


def job_of(arguments: argparse.Namespace, folder: str, **changes: object) -> Job:
    """EVA on the digits."""
    said = {
        "command": "certify",
        "explainer": "EVA",
        "settings": SETTINGS,
        "model": arguments.model,
        "source": open_source(
            "tfds:mnist/test", data_dir=arguments.data_dir, first=arguments.inputs
        ),
        "folder": folder,
        "threads": 2,
    }
    return Job(**said | changes)


def in_one_call(arguments: argparse.Namespace) -> None:
    """All inputs at once, as arrays, by the explainer alone."""
    images = load("mnist", "test", data_dir=arguments.data_dir)[0][: arguments.inputs]
    explainer = EVA(keras.models.load_model(arguments.model, compile=False), **SETTINGS)
    explainer.certify(images)
    explainer.explain(images)


def by_workers(arguments: argparse.Namespace) -> None:
    """A run, by this process where there are no workers."""
    job = job_of(arguments, arguments.folder)
    by = partial(by_ray, workers=arguments.workers[0], gpus=0) if arguments.workers[0] else None
    run(job, by=by, resume=True, verbose=False)


def of_pictures(arguments: argparse.Namespace) -> None:
    """Saliency of a folder of pictures."""
    pictures = open_source(arguments.pictures, size=(224, 224))
    changes = {"command": "explain", "explainer": "Saliency", "settings": {}, "source": pictures}
    run(job_of(arguments, arguments.folder, **changes), verbose=False)


CASES = {"call": in_one_call, "run": by_workers, "pictures": of_pictures}


def start(arguments: argparse.Namespace, case: str, **said: object) -> subprocess.Popen:
    """A case in a process of its own, which prints its peak memory at its end."""
    said = {"inputs": arguments.inputs, "model": arguments.model, **said}
    words = [f"--{name}={value}" for name, value in said.items()]
    command = [sys.executable, __file__, f"--data-dir={arguments.data_dir}", f"--case={case}"]
    return subprocess.Popen(command + words, stdout=subprocess.PIPE, text=True)


def measure(arguments: argparse.Namespace, case: str, **said: object) -> tuple[float, str]:
    """Seconds and peak memory."""
    begin = time.perf_counter()
    process = start(arguments, case, **said)
    printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{case} has failed")
    return time.perf_counter() - begin, printed.splitlines()[-1]


def kill_at_a_third(arguments: argparse.Namespace, folder: str, workers: int) -> float:
    """Start a run and kill it; seconds that it had."""
    begin = time.perf_counter()
    process = start(arguments, "run", folder=folder, workers=workers)
    while len(os.listdir(folder)) == 0 or _nb_rows(folder) < arguments.inputs / 3:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return time.perf_counter() - begin


def _nb_rows(folder: str) -> int:
    done = Path(folder, "rows").glob("part-*.parquet")
    places = [path.stem.split("-") for path in done]
    return sum(int(last) - int(first) for _, first, last in places)


def show(what: str, seconds: float, nb_inputs: int, memory: str, same: str = "") -> None:
    print(f"{what:<34}{seconds:>9.1f}{nb_inputs / seconds:>12.0f}   {memory:<24}{same}", flush=True)


def digits(arguments: argparse.Namespace, folder: Path) -> None:
    """The table of digits."""
    title = f"EVA one-pass, {arguments.inputs:,} digits"
    print(f"{title:<34}{'seconds':>9}{'inputs / s':>12}   {'peak memory':<24}same")
    show("in one call", *_with(measure(arguments, "call"), arguments.inputs))
    first = None
    for workers in (0, *arguments.workers):
        own = folder / f"workers-{workers}"
        measured = measure(arguments, "run", folder=own, workers=workers)
        found = content(Run.open(own))
        first = first or found
        what = f"workers of Ray: {workers}" if workers else "run of one process"
        show(what, *_with(measured, arguments.inputs), "yes" if found == first else "NO")
    for workers in (0, max(arguments.workers)):
        own = folder / f"killed-{workers}"
        own.mkdir()
        seconds = kill_at_a_third(arguments, str(own), workers)
        before = {p: p.stat().st_mtime_ns for p in (own / "rows").glob("part-*.parquet")}
        rest, memory = measure(arguments, "run", folder=own, workers=workers)
        done = Run.open(own)
        kept = all(path.stat().st_mtime_ns == moment for path, moment in before.items())
        same = "yes" if content(done) == first and kept and not done.missing else "NO"
        what = f"killed with {len(before)} parts, {workers or 'no'} workers"
        show(what, seconds + rest, arguments.inputs, memory, same)


def _with(measured: tuple[float, str], nb_inputs: int) -> tuple[float, int, str]:
    return measured[0], nb_inputs, measured[1]


def pictures(arguments: argparse.Namespace, folder: Path) -> None:
    """The table of pictures."""
    layers = [L.Conv2D(8, 5, 4, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(10)]
    model = keras.Sequential([keras.Input((224, 224, 3)), *layers])
    path = folder / "pictures.keras"
    model.save(path)
    title = "Saliency, pictures 224 x 224 x 3"
    print(f"\n{title:<34}{'seconds':>9}{'inputs / s':>12}   {'peak memory':<24}all at once")
    generator = np.random.default_rng(0)
    for number in PICTURES:
        own = folder / f"pictures-{number}"
        own.mkdir()
        for index in range(number):
            small = generator.integers(0, 256, (7, 7, 3), np.uint8)
            Image.fromarray(small).resize((224, 224), 0).save(own / f"{index:05d}.png")
        said = {"pictures": own, "model": path, "folder": folder / f"maps-{number}"}
        measured = measure(arguments, "pictures", **said)
        held = mebibytes(4 * number * 224 * 224 * (3 + 1))
        show(f"{number:,}", *_with(measured, number), f"{held} of inputs and maps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="of tensorflow_datasets")
    parser.add_argument("--model", help="a network of digits, .keras; default: one is trained")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    for name in ("--case", "--folder", "--pictures"):  # of the processes that are started
        parser.add_argument(name, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        use_threads(2)
        with Peak() as peak:
            CASES[arguments.case](arguments)
            print(peak)
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.model is None:
            train = load("mnist", "train", data_dir=arguments.data_dir)
            model = dense_net((28, 28, 1), 10)
            fit(model, *train, seed=0, nb_epochs=2)
            arguments.model = str(Path(folder) / "digits.keras")
            model.save(arguments.model)
        digits(arguments, Path(folder))
        pictures(arguments, Path(folder))


if __name__ == "__main__":
    main()
