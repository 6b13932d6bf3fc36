"""Runs by several processes or machines, on Ray Data.

Explainers of one's own models on any number of inputs, from Python; `run` is what the command line
uses. Ray is an extra: ``pip install xcertify[ray]``. Without it one process does the same.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import pickle
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from xcertify.attributions.base import Explainer
from xcertify.inputs import input_shape_of
from xcertify.runs import Job, Part, Run, Worker
from xcertify.runs import run as run_here
from xcertify.runs.models import as_bytes, custom_objects_of
from xcertify.runs.parts import attempting
from xcertify.runs.written import source_of

__all__ = ["certify", "explain", "run"]

_MOST_DEATHS = 3  # of workers at one part, before the run ends


def certify(
    explainer: Explainer,
    dataset: Any,
    output: str | os.PathLike[str],
    *,
    targets: Any = None,
    workers: int = 1,
    gpus: float = 0,
    batch: int | None = None,
    part: int | None = None,
    threads: int | None = None,
    maps: bool = True,
    resume: bool = False,
    verbose: bool = True,
) -> Run:
    """Certify any number of inputs, into a folder.

    Parameters
    ----------
    explainer
        One that certifies.
    dataset
        An array (N, *shape); a path or name, as the command line takes it; a `Source`; a
        `tf.data.Dataset` or a Ray Dataset, of inputs or of pairs with targets, which are written to
        the folder first: a run goes on by the numbers of its inputs.
    output
        The folder. Of several machines all must see it.
    targets
        As for `Explainer.explain`.
    workers
        Processes. 1: this one; more are actors of Ray, in the cluster that is there
        (``RAY_ADDRESS`` or `ray.init`), else on this machine.
    gpus
        GPUs for each worker, such as 1 or .5; 0: the processor computes.
    batch, part, threads, maps
        As for `Job` and `run`.
    resume
        Whether to go on with the run in the folder.
    verbose
        Whether to show a progress bar.

    Returns
    -------
    run
        Its `Run.table` has the numbers, `Run.certificates` the certificates, batch by batch.

    Raises
    ------
    ImportError
        For several workers without Ray.
    FileExistsError, OSError, ValueError
        As `xcertify.runs.run`.

    Guarantee
    ---------
    Of each row that of the explainer's `certify`. Rows do not depend on the number of workers, on
    their order, nor on the size of parts, but for the columns of seconds; see `Worker`.

    Examples
    --------
    >>> explainer = EVA(model, epsilon=0.02, clip=(0.0, 1.0))
    >>> run = certify(explainer, images, "runs/a", workers=8)
    >>> run.table(["input", "certified", "robust"])
    >>> for numbers, certificate in run.certificates():
    ...     print(numbers, certificate)
    """
    job = _job("certify", explainer, dataset, output, targets, batch, threads, maps)
    return run(job, workers=workers, gpus=gpus, part=part, resume=resume, verbose=verbose)


def explain(
    explainer: Explainer,
    dataset: Any,
    output: str | os.PathLike[str],
    *,
    targets: Any = None,
    workers: int = 1,
    gpus: float = 0,
    batch: int | None = None,
    part: int | None = None,
    threads: int | None = None,
    resume: bool = False,
    verbose: bool = True,
) -> Run:
    """Explain any number of inputs, into a folder.

    Parameters
    ----------
    explainer, dataset, output, targets, workers, gpus, batch, part, threads, resume, verbose
        As for `certify`; any explainer.

    Returns
    -------
    run
        Its `Run.maps` has the maps.

    Raises
    ------
    ImportError, FileExistsError, OSError, ValueError
        As `certify`.

    No guarantee
    ------------
    Maps are those of the explainer's `explain`. They do not depend on the number of workers, on
    their order, nor on the size of parts.
    """
    job = _job("explain", explainer, dataset, output, targets, batch, threads, True)
    return run(job, workers=workers, gpus=gpus, part=part, resume=resume, verbose=verbose)


def run(
    job: Job,
    *,
    workers: int = 1,
    gpus: float = 0,
    part: int | None = None,
    resume: bool = False,
    verbose: bool = True,
) -> Run:
    """Do all that is missing of a job, with one process or several.

    Parameters
    ----------
    job
        What is to be done.
    workers, gpus
        As for `certify`.
    part, resume, verbose
        As for `xcertify.runs.run`.

    Returns
    -------
    run
        The folder with its results.

    Raises
    ------
    ImportError
        For several workers without Ray.
    RuntimeError
        If workers die again and again at the same part.
    FileExistsError, OSError, ValueError
        As `xcertify.runs.run`.
    """
    if not (isinstance(workers, int) and workers >= 1):
        raise ValueError(f"workers must be a whole number above 0. Received: {workers!r}")
    if not (isinstance(gpus, (int, float)) and gpus >= 0):
        raise ValueError(f"gpus must be a number of at least 0. Received: {gpus!r}")
    job = dataclasses.replace(job, device="gpu" if gpus else "cpu")
    by = None
    if workers > 1:
        _ray()
        by = partial(by_ray, workers=workers, gpus=gpus)
    return run_here(job, part=part, resume=resume, verbose=verbose, by=by)


def _job(
    command: str,
    explainer: Explainer,
    dataset: Any,
    output: str | os.PathLike[str],
    targets: Any,
    batch: int | None,
    threads: int | None,
    maps: bool,
) -> Job:
    """The job of an explainer that is there."""
    return Job(
        command=command,
        explainer=type(explainer),
        settings=explainer._stated(),
        model=explainer.model,
        source=source_of(dataset, input_shape_of(explainer.model) or (), Path(output)),
        folder=Path(output),
        targets=targets,
        batch=batch,
        threads=threads,
        maps=maps,
    )


class _Actor:
    """A `Worker` in a process of Ray; what it raises is sent as it is."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._worker: Worker | None = None

    def __call__(self, part: dict[str, int]) -> dict[str, Any]:
        try:
            with attempting(Path(self._job.folder), Part(**part), _MOST_DEATHS):
                if self._worker is None:
                    self._worker = Worker(self._job)
                return {"found": json.dumps(self._worker(part)), "error": b""}
        except Exception as error:
            return {"found": "", "error": _as_bytes(error)}


def _as_bytes(error: Exception) -> bytes:
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
        return content
    except Exception:  # of arguments that cannot be sent
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))


def by_ray(
    job: Job, parts: list[dict[str, int]], *, workers: int, gpus: float
) -> Generator[dict[str, int]]:
    """What workers of Ray give of the parts of a job, as soon as they are done.

    Parameters
    ----------
    job, parts
        As `xcertify.runs.run` hands them to its `by`.
    workers, gpus
        As for `certify`.

    Raises
    ------
    RuntimeError
        If workers die again and again at the same part, or Ray ends.
    """
    if not parts:
        return
    ray = _ray()
    job = _to_send(job)
    threads = job.threads or 1
    variables = {
        "OMP_NUM_THREADS": str(threads),  # which Ray sets to 1 otherwise
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
    }
    if 0 < gpus < 1:  # each worker would take all memory of the GPU
        variables["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    with _quiet("ray"), _quiet("ray.data"), _connected(ray, workers, threads, gpus):
        quiet = copy.copy(ray.data.DataContext.get_current())
        quiet.enable_progress_bars = quiet.print_on_execution_start = False
        quiet.execution_no_progress_timeout_s = -1  # a part may take hours
        with ray.data.DataContext.current(quiet):
            done = ray.data.from_items(parts, override_num_blocks=len(parts)).map(
                _Actor,
                fn_constructor_args=(job,),
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=threads,
                num_gpus=gpus or None,
                runtime_env={"env_vars": variables},
            )
            try:
                for one in done.iter_rows():
                    if one["error"]:
                        raise pickle.loads(one["error"])
                    yield json.loads(one["found"])
            except ray.exceptions.RayError as error:
                raise RuntimeError(
                    f"Ray has ended: {str(error).splitlines()[0]}. What is done stays; go on with "
                    f"resume (--resume)"
                ) from error


def _to_send(job: Job) -> Job:
    """A job without a model in it, which other processes could not have."""
    if isinstance(job.model, (str, bytes)):
        return job
    model = job.model
    return dataclasses.replace(job, model=as_bytes(model), custom=custom_objects_of(model))


def _ray() -> Any:
    """Ray with its part for data.

    Raises
    ------
    ImportError
        With what to install.
    """
    try:
        with _without_notes():
            import ray
            import ray.data
    except ImportError as error:
        raise ImportError(
            "workers above 1 are processes of Ray, which is not installed: "
            "pip install xcertify[ray]; or give workers=1"
        ) from error
    return ray


@contextmanager
def _connected(ray: Any, workers: int, threads: int, gpus: float) -> Iterator[None]:
    """A connection to Ray: the one that is there, or one of its own, which ends with it."""
    if ray.is_initialized():
        _check_room(ray, threads, gpus)
        yield
        return
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if "RAY_ADDRESS" not in os.environ:
        nb_cpus = max(os.cpu_count() or 1, workers * threads)
        settings |= {"address": "local", "num_cpus": nb_cpus, "include_dashboard": False}
    with _environment("RAY_BACKEND_LOG_LEVEL", "fatal"), _without_screen():
        ray.init(**settings)
    try:
        _check_room(ray, threads, gpus, is_alone=settings.get("address") == "local")
        yield
    finally:
        ray.shutdown()


def _check_room(ray: Any, threads: int, gpus: float, is_alone: bool = False) -> None:
    """Say where no worker can start, for which Ray would wait without a word.

    Raises
    ------
    ValueError
        If this is the one machine: nothing would come of it.

    Warns
    -----
    UserWarning
        In a cluster, which may grow.
    """
    needed = {"CPU": threads, "GPU": gpus}
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(have.get(n, 0) >= need for n, need in needed.items()) for have in found):
        what = f"no machine has what a worker needs, {threads} CPUs (threads) and {gpus:g} GPUs"
        if is_alone:
            raise ValueError(f"{what}: give less")
        warnings.warn(f"{what}: the run waits until Ray has one", UserWarning, stacklevel=2)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """A variable of the environment, where it is not set already."""
    before = os.environ.get(name)
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


@contextmanager
def _without_notes() -> Iterator[None]:
    """Nothing of widgets that a notebook has not, of which Ray speaks at its import."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _without_screen() -> Iterator[None]:
    """Hide what other languages than Python write to the screen."""
    screen = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Only errors of a logger, since what Ray warns of here is about its own parts."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
