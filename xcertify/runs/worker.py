"""A worker: has loaded model and explainer once, and computes parts."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import tensorflow as tf
from threadpoolctl import ThreadpoolController

from xcertify.attributions import SufficientReason
from xcertify.certificates import Certificate, CosineCertificate, SmoothedCertificate
from xcertify.certificates.origins import Origin, canonical, dumps
from xcertify.runs.failures import message_of, without_failing
from xcertify.runs.job import Job
from xcertify.runs.models import model_of
from xcertify.runs.parts import Part, part_writer
from xcertify.runs.rows import rows_of
from xcertify.runs.threads import NB_THREADS, use_threads
from xcertify.runs.warned import Warned
from xcertify.usefulness import without_seeking

SCHEMA = 1  # of run.json
_NB_SAMPLES = 8  # inputs, spread over all, that stand for the others
# Certificates that say what `explain` gives, of the samples that both look at, which are many.
_OF_ITS_SAMPLES: dict[type, str] = {SmoothedCertificate: "votes", CosineCertificate: "explanation"}
_SAMPLE = re.compile(r"\bsample \d+")


class _Results(NamedTuple):
    """Of a batch."""

    targets: np.ndarray | None
    certificate: Certificate | None
    maps: np.ndarray | None


class _Given(NamedTuple):
    """Inputs and targets of a batch, in their places."""

    inputs: list[Any]
    targets: Any

    def at(self, places: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """A batch with inputs at these places, one of them in the places of all others."""
        taken, first = set(places), places[0]
        rows = [place if place in taken else first for place in range(len(self.inputs))]
        return self.only(rows)

    def only(self, rows: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Some inputs and their targets."""
        inputs = np.stack([self.inputs[row] for row in rows])
        if self.targets is None:
            return inputs, None
        return inputs, np.asarray([self.targets[row] for row in rows])


class Worker:
    """Computes parts of a job, whoever computes the others.

    Parameters
    ----------
    job
        What is to be done.
    computes
        Whether it computes parts; else it only says what the job is, and checks it.

    Raises
    ------
    ValueError
        For settings that no input could be computed with.

    Guarantee
    ---------
    The rows of a part depend on the job and on the numbers of the inputs alone: neither on other
    parts nor on the process that computes them. An input that cannot be computed leaves its place
    in the batch to another one. Time limits of explainers are not foreseen by this, nor are
    processors of different kinds, whose roundings differ.
    """

    def __init__(self, job: Job, *, computes: bool = True) -> None:
        job.explainer_class()
        self.job, self.threads = job, job.threads or NB_THREADS
        if computes:
            self.threads = use_threads(job.threads)
        self.folder, self.nb_at_once = Path(job.folder), job.nb_at_once()
        self._device = job.device if computes else "cpu"
        self._blas, self._some_work = ThreadpoolController(), False
        with self._computing():
            self.explainer = job.make_explainer(model_of(job.model, job.custom))
            self._check_inputs()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What ``run.json`` says of the job, as JSON has it; parts have it in common."""
        job, explainer = self.job, self.explainer
        origin = Origin.of(type(explainer).__name__, explainer._stated(), explainer.model)
        said = {
            "schema": SCHEMA,
            "command": job.command,
            "explainer": origin.explainer,
            "settings": origin.settings,
            "architecture": origin.architecture,
            "weights": origin.weights,
            "source": job.source.describe(),
            "targets": job.describe_targets(),
            "batch": self.nb_at_once,
            "threads": self.threads,
            "device": job.device,
            "maps": job.maps,
            "versions": origin.versions,
        }
        return json.loads(dumps(said))

    @cached_property
    def key(self) -> str:
        """SHA-256 of `settings`."""
        return sha256(canonical(self.settings)).hexdigest()

    def __call__(self, part: Mapping[str, int]) -> dict[str, int]:
        """Compute a part and write its files.

        Parameters
        ----------
        part
            ``{"first": int, "last": int}``; `first` is a multiple of the size of batches.

        Returns
        -------
        done
            ``first``, ``last`` and the number of ``errors``.
        """
        own, warned, nb_errors = Part(part["first"], part["last"]), Warned(), 0
        with self._computing(), part_writer(self.folder, own) as writer:
            for first in range(*own, self.nb_at_once):
                once = without_seeking() if first else nullcontext()  # what would help
                with warned.of_a_batch(), once:
                    table, maps = self._batch(first, min(first + self.nb_at_once, own.last))
                nb_failed = len(table) - table["error"].null_count
                nb_errors += nb_failed
                writer.add(table, maps, nb_failed < len(table))
            notes = {"run": self.key, "errors": nb_errors, "warnings": warned.as_list()}
            writer.finish(notes)
        return {**own._asdict(), "errors": nb_errors}

    def _batch(self, first: int, last: int) -> tuple[pa.Table, np.ndarray | None]:
        """Rows and maps of the inputs from `first` to `last` - 1."""
        begin = time.perf_counter()
        given, names, errors = self._read(first, last)
        good = [place for place, error in enumerate(errors) if error is None]
        results, failures = without_failing(
            lambda some: self._results(*given.at(some)),
            lambda place: self.explainer.prepare(*given.only([place])),
            good,
            self._others_work,
        )
        for place, message in failures.items():
            errors[place] = _SAMPLE.sub(f"input {first + place}", message)
        self._some_work |= results is not None
        targets: list[int | None] = [None] * len(errors)
        certificate = maps = None
        if results is not None:
            some = np.array([place for place in good if place not in failures])
            certificate, maps = results.certificate, results.maps
            if len(some) < len(errors):
                certificate = certificate and certificate[some]
                maps = None if maps is None else _without_others(maps, some)
            if results.targets is not None:  # as of a map that explains no class
                for place in some:
                    targets[place] = _class_of(results.targets[place])
        seconds = (time.perf_counter() - begin) / len(errors)
        numbers = np.arange(first, last)
        return rows_of(numbers, names, errors, targets, seconds, certificate), maps

    def _read(self, first: int, last: int) -> tuple[_Given, list[str | None], list[str | None]]:
        """Inputs and targets, names and errors."""
        batch = self.job.source.read(first, last)
        targets = batch.targets if self.job.targets is None else self.job.targets[first:last]
        return _Given(batch.inputs, targets), batch.names, list(batch.errors)

    def _results(self, inputs: np.ndarray, targets: np.ndarray | None) -> _Results:
        if isinstance(self.explainer, SufficientReason):
            return self._reasons(inputs, targets)
        explainer: Any = self.explainer
        _, explained = explainer.prepare(inputs, targets)
        if not self.job.certifies:
            return _Results(explained, None, explainer.explain(inputs, targets))
        certificate = explainer.certify(inputs, targets)
        if not self.job.maps:
            return _Results(explained, certificate, None)
        name = _OF_ITS_SAMPLES.get(type(certificate))
        if name is None:
            return _Results(explained, certificate, explainer.explain(inputs, targets))
        maps = np.asarray(getattr(certificate, name), np.float32)
        return _Results(explained, certificate, maps)

    def _reasons(self, inputs: np.ndarray, targets: np.ndarray | None) -> _Results:
        """The same of sufficient reasons, of one search.

        Raises
        ------
        KeyboardInterrupt
            If it was interrupted, which it would keep to itself: such results are not kept.
        """
        explainer: Any = self.explainer
        _, explained = explainer.prepare(inputs, targets)
        certificate = explainer.certify(inputs, targets)
        if (np.char.find(certificate.reason, "interrupted") >= 0).any():
            raise KeyboardInterrupt
        maps = certificate.maps(ranked=explainer.ranked) if self.job.maps else None
        return _Results(explained, certificate if self.job.certifies else None, maps)

    def _samples(self) -> Iterator[tuple[int, _Given, str | None]]:
        """Inputs, one at a time, with their numbers and what the source says is wrong with them."""
        nb_inputs = len(self.job.source)
        for number in np.unique(np.linspace(0, nb_inputs - 1, _NB_SAMPLES).astype(int)).tolist():
            given, _, (error,) = self._read(number, number + 1)
            yield number, given, error

    def _check_inputs(self) -> None:
        """A ValueError if each of the samples is refused: it is not one input that is wrong."""
        messages = []
        for number, given, error in self._samples():
            if error is None:
                error = message_of(lambda: self.explainer.prepare(*given.only([0])))  # noqa: B023
            if error is None:
                return
            messages.append(_SAMPLE.sub(f"input {number}", f"input {number}: {error}"))
        raise ValueError(
            f"none of {len(messages)} inputs that were looked at can be taken, {messages[0]}"
        )

    def _others_work(self) -> bool:
        """Whether anything has been computed, or one of the samples can be."""
        if not self._some_work:
            self._some_work = any(
                error is None and message_of(lambda: self._results(*given.only([0]))) is None  # noqa: B023
                for _, given, error in self._samples()
            )
        return self._some_work

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """On the device, and with the threads, of the job."""
        with (
            tf.device(_device(self._device)),
            self._blas.limit(limits=self.threads, user_api="blas"),
        ):
            yield


def _device(name: str) -> str:
    if name == "gpu" and not tf.config.list_physical_devices("GPU"):
        raise ValueError(
            "TensorFlow finds no GPU: give gpus=0 (--gpus 0), or install what it needs, "
            "pip install xcertify[gpu]"
        )
    return f"/{name.upper()}:0"


def _class_of(target: Any) -> int | None:
    """A class, or the one of a row of weights that are 0 for all others."""
    target = np.asarray(target)
    if not target.ndim:
        return int(target)
    places = np.flatnonzero(target)
    return int(places[0]) if len(places) == 1 and target[places[0]] == 1 else None


def _without_others(maps: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Maps with NaN in all other places."""
    found = np.full(maps.shape, np.nan, np.float32)
    found[places] = maps[places]
    return found
