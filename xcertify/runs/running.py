"""A run: all parts of a job that are missing in its folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from xcertify.progress import progress_bar
from xcertify.runs.folder import SETTINGS, Run, locked, write_settings
from xcertify.runs.job import Job
from xcertify.runs.parts import (
    MAPS,
    ROWS,
    missing_from,
    parts_in,
    remove_unfinished,
    split,
    writing_to,
)
from xcertify.runs.worker import Worker

Parts = list[dict[str, int]]
# At least so many parts, so that little is lost and workers end together; at most so many batches
# in one, and slow explainers have small ones; not more parts than folders and Ray bear easily.
_NB_PARTS, _NB_BATCHES, _MOST_PARTS = 64, 16, 10_000


def run(
    job: Job,
    *,
    part: int | None = None,
    resume: bool = False,
    verbose: bool = True,
    by: Callable[[Job, Parts], Generator[dict[str, int]]] | None = None,
) -> Run:
    """Do all that is missing of a job.

    Parameters
    ----------
    job
        What is to be done.
    part
        Inputs in a file, about: a whole number of batches. None: by the number of inputs.
    resume
        Whether to go on with what lies in the folder; else there must be no run in it.
    verbose
        Whether to show a progress bar.
    by
        Who computes: a function of a job and of parts that gives what `Worker` gives of each, in
        any order. None: this process.

    Returns
    -------
    run
        The folder with its results.

    Raises
    ------
    FileExistsError
        If a run lies in the folder, and `resume` is not asked for.
    BlockingIOError
        If another process works in it.
    OSError
        If the folder cannot be written.
    ValueError
        For settings that no input could be computed with, and if the run in the folder is another
        one than that of the job.

    Warns
    -----
    VacuousWarning
        And whatever else explainers warn of: once each, with the number of batches.
    """
    if part is not None and not (isinstance(part, int) and part >= 1):
        raise ValueError(f"part must be a whole number above 0. Received: {part!r}")
    folder = Path(os.path.abspath(job.folder))
    earlier = _earlier(folder, resume)
    job = dataclasses.replace(
        job,
        folder=folder,
        batch=job.batch or earlier.get("batch"),
        threads=job.threads or earlier.get("threads"),
    )
    worker = Worker(job, computes=by is None)
    with writing_to(folder):
        for name in (ROWS, MAPS):
            (folder / name).mkdir(parents=True, exist_ok=True)
    with locked(folder):
        settings = _begin(folder, worker, resume)
        done = parts_in(folder, worker.key)
        size = _size_of_parts(part, worker.nb_at_once, len(job.source))
        todo = [p._asdict() for p in split(missing_from(done, len(job.source)), size)]
        if by is None:
            results: Generator[dict[str, int]] = (worker(one) for one in todo)
        else:
            job = dataclasses.replace(job, batch=worker.nb_at_once, threads=worker.threads)
            del worker
            results = by(job, todo)
        nb_done = sum(last - first for first, last in done)
        _follow(results, nb_done, len(job.source), verbose)
        finished = Run.open(folder)
        warned = finished.warned
        end = {"errors": finished.nb_errors, "warnings": warned.as_list()}
        with writing_to(folder):
            write_settings(folder, settings | end)
    warned.show()
    return Run.open(folder)


def _earlier(folder: Path, resume: bool) -> dict[str, Any]:
    """What the run says that lies in a folder; nothing where there is none."""
    if not (folder / SETTINGS).exists():
        return {}
    if not Run.open(folder).parts:  # it stopped before its first part, at wrong settings perhaps
        return {}
    if not resume:
        raise FileExistsError(
            f"there is a run in {folder}: go on with it by resume=True (--resume), or choose "
            f"another folder"
        )
    return Run.open(folder).settings


def _begin(folder: Path, worker: Worker, resume: bool) -> dict[str, Any]:
    """What ``run.json`` says, which is written, or compared with the one that is there."""
    earlier, settings = _earlier(folder, resume), worker.settings
    if earlier and earlier["run"] != worker.key:
        names = [name for name, value in settings.items() if earlier.get(name) != value]
        raise ValueError(
            f"the run in {folder} is another one: it differs in "
            f"{'; '.join(_difference(name, earlier.get(name), settings[name]) for name in names)}. "
            f"Go on with the same, or choose another folder"
        )
    remove_unfinished(folder)
    job = worker.job
    model = str(job.model) if isinstance(job.model, (str, os.PathLike)) else "given in Python"
    custom = sorted(job.custom) if isinstance(job.custom, Mapping) else list(job.custom)
    settings = settings | {"run": worker.key, "model": model, "custom": custom}
    with writing_to(folder):
        write_settings(folder, settings)
    return settings


def _difference(name: str, earlier: Any, value: Any) -> str:
    """Both sides of it, of a dictionary only what differs."""
    if isinstance(earlier, dict) and isinstance(value, dict):
        names = [n for n in {**earlier, **value} if earlier.get(n) != value.get(n)]
        return ", ".join(_difference(f"{name}.{n}", earlier.get(n), value.get(n)) for n in names)
    return f"{name} (there {earlier!r}, here {value!r})"


def _size_of_parts(part: int | None, nb_at_once: int, nb_inputs: int) -> int:
    """Inputs in a part, a whole number of batches."""
    if part is None:
        part = min(nb_inputs // _NB_PARTS, max(_NB_BATCHES * nb_at_once, nb_inputs // _MOST_PARTS))
    return nb_at_once * max(1, part // nb_at_once)


def _follow(
    results: Generator[dict[str, int]], nb_done: int, nb_inputs: int, verbose: bool
) -> None:
    """Show what has been done, with the number of errors and the time that is left."""
    nb_errors = 0
    with closing(results), progress_bar(nb_inputs, verbose=verbose) as progress:
        progress.initial = progress.n = nb_done  # the speed is that of what is done now
        for found in results:
            nb_errors += found["errors"]
            if nb_errors:
                progress.set_postfix_str(f"{nb_errors} with an error", refresh=False)
            progress.update(found["last"] - found["first"])
