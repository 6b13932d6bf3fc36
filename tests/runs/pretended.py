"""Runs that lie in memory: what reports and sheets ask of a run, without folders and workers."""

import collections
import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa

import xcertify


@dataclasses.dataclass
class Batch:
    inputs: list
    names: list


@dataclasses.dataclass
class Inputs:
    arrays: np.ndarray
    names: list | None = None
    feature_names: list | None = None

    def read(self, first, last):
        names = [None] * (last - first) if self.names is None else self.names[first:last]
        return Batch([*self.arrays[first:last]], names)


class Moved:
    """A source whose files are gone."""

    def read(self, first, last):
        raise FileNotFoundError("no such folder")


def settings_of(command, explainer, settings, nb_inputs):
    """What ``run.json`` says."""
    return {
        "command": command,
        "explainer": explainer,
        "settings": settings,
        "model": "model.keras",
        "custom": [],
        "architecture": "a" * 64,
        "weights": "b" * 64,
        "source": {"kind": "array", "path": "images.npy", "nb_inputs": nb_inputs},
        "targets": "those of the source, else the predicted class",
        "batch": 64,
        "threads": 2,
        "device": "cpu",
        "versions": {"xcertify": xcertify.__version__, "keras": "3"},
        "warnings": [],
    }


class PretendedRun:
    """A run of an explainer on inputs (N, *shape), some of them with errors {number: message}."""

    folder = Path("runs/a")
    missing = ()

    def __init__(self, explainer, source, errors=None, command="certify", targets=None, **settings):
        nb_inputs = len(source.arrays)
        self._source, self._errors = source, errors or {}
        good = np.array([n for n in range(nb_inputs) if n not in self._errors], int)
        self._certificate, self._maps = None, [None] * nb_inputs
        columns = {
            "input": pa.array(range(nb_inputs), pa.int64()),
            "name": pa.array(source.names or [None] * nb_inputs, pa.string()),
            "error": pa.array(map(self._errors.get, range(nb_inputs)), pa.string()),
            "seconds": pa.array([0.25] * nb_inputs, pa.float64()),
        }
        found = {}
        if len(good):
            inputs = source.arrays[good]
            for number, one in zip(good, explainer.explain(inputs, targets)):
                self._maps[number] = one
            if command == "certify":
                self._certificate = certificate = explainer.certify(inputs, targets)
                names = ("certified", "attacked", "attained", "looseness", "vacuous", "robust")
                found = {name: getattr(certificate, name, None) for name in names}
                found = {name: values for name, values in found.items() if values is not None}
                classes = np.asarray(getattr(certificate, "targets", np.zeros(len(good), int)))
                found["target"] = classes.argmax(1) if classes.ndim == 2 else classes
        places = {int(number): place for place, number in enumerate(good)}
        for name, values in found.items():
            values = np.asarray(values).tolist()
            columns[name] = pa.array(
                [values[places[n]] if n in places else None for n in range(nb_inputs)]
            )
        self._table = pa.table(columns)
        self.settings = settings_of(command, type(explainer).__name__, settings, nb_inputs)

    @classmethod
    def of_numbers(cls, source, explainer="EVA", **columns):
        """A run whose rows are given; its maps are zeros, and it has no certificate to show."""
        run = cls.__new__(cls)
        nb_inputs = len(columns["certified"])
        given = {"error": [None] * nb_inputs, "name": [None] * nb_inputs} | columns
        types = {"error": pa.string(), "name": pa.string()}
        run._table = pa.table(
            {"input": np.arange(nb_inputs)}
            | {name: pa.array(values, types.get(name)) for name, values in given.items()}
        )
        run._source, run._certificate = source, None
        run._maps = collections.defaultdict(lambda: np.zeros((2, 2, 1), np.float32))
        run.settings = settings_of("certify", explainer, {"epsilon": 0.1}, nb_inputs)
        return run

    @property
    def columns(self):
        return self._table.column_names

    def table(self, columns=None):
        return self._table if columns is None else self._table.select(columns)

    def tables(self, columns=None):
        whole = self.table(columns)
        for first in range(0, len(whole), 4):
            yield whole.slice(first, 4)

    def map_of(self, number):
        return self._maps[number]

    def certificates(self):
        if self._certificate is not None:
            yield np.flatnonzero([one is not None for one in self._maps]), self._certificate

    def source(self):
        return self._source
