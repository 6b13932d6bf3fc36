"""A small model, inputs, and a run of them that other runs are compared with."""

import os
import signal
from pathlib import Path

import keras
import numpy as np
from networks import sequential

from xcertify.runs import Job, use_threads
from xcertify.runs.sources import Batch, Source

NB_INPUTS, BATCH = 24, 4
SETTINGS = {"epsilon": 0.05, "clip": (0.0, 1.0)}
SECONDS = ("seconds", "answers.seconds")


class Inputs(Source):
    """Random inputs with their errors; `dies_at` ends the process that reads that input first.

    It leaves a note, with which the next one goes on; where it can leave none, all of them end.
    """

    kind, path = "random inputs", "nowhere"
    shape = (5,)

    def __init__(self, nb_inputs=NB_INPUTS, bad=(), dies_at=None, note=None, targets=None):
        self.nb_inputs, self.bad = nb_inputs, dict(bad)
        self.dies_at, self.note, self.targets = dies_at, note, targets
        self.largest = 0  # of what is read at once

    def __len__(self):
        return self.nb_inputs

    def _files(self):
        return []

    def _read(self, first, last):
        self.largest = max(self.largest, last - first)
        if self.dies_at is not None and first <= self.dies_at < last and last - first > 1:
            note = Path(self.note)
            if not note.exists():
                if note.parent.is_dir():
                    note.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        generator = np.random.default_rng(7)
        inputs = [*generator.uniform(0, 1, (self.nb_inputs, 5)).astype(np.float32)]
        for number, value in self.bad.items():
            inputs[number] = value
        targets = None if self.targets is None else [*self.targets[first:last]]
        nothing = [None] * (last - first)
        return Batch(inputs[first:last], nothing, nothing, targets)


def small_model():
    layers = keras.layers
    return sequential((5,), layers.Dense(8, "relu"), layers.Dense(3))


def small_job(folder, model, **changes):
    """A job of EVA, unless said otherwise."""
    said = {
        "command": "certify",
        "explainer": "EVA",
        "settings": SETTINGS,
        "model": model,
        "source": Inputs(),
        "folder": folder,
        "batch": BATCH,
        "threads": use_threads(),
    }
    return Job(**said | changes)


def content(run):
    """All rows but their seconds, and the maps."""
    tables = [table.to_pylist() for table in run.tables()]
    rows = [{n: v for n, v in row.items() if n not in SECONDS} for table in tables for row in table]
    return repr(rows), run.maps().tobytes()  # of NaN, too, and in full
