"""``xcertify score``: metrics of the maps of a run."""

from __future__ import annotations

import inspect
from argparse import SUPPRESS, Namespace
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from xcertify.commands.files import open_run
from xcertify.commands.parsing import CommandLine
from xcertify.commands.quiet import start_tensorflow, without_tracing_advice
from xcertify.commands.signatures import Setting, chosen, settings_of

if TYPE_CHECKING:
    from xcertify.metrics import Metric
    from xcertify.runs import Run

SUMMARY = "measure the maps of a run by metrics"
USAGE = "FOLDER --model MODEL [--metrics NAME ...] [options]"
DESCRIPTION = """\
Measures the maps of a run by metrics of xcertify.metrics, and writes one row for each input into
FOLDER/scores.parquet. The settings of metrics: xcertify score --metrics NAME ... --help."""
EXAMPLE = "xcertify score run --model model.keras --metrics Deletion Insertion --steps 20"

METRICS = ("Deletion", "Insertion", "MuFidelity")  # where none is named
FILE = "scores.parquet"


def add_arguments(line: CommandLine) -> None:
    """Folder, model, the metrics and their settings."""
    line.add("folder", type=str, needed=True, metavar="FOLDER", help="of a run with maps")
    line.add("--model", type=str, needed=True, metavar="MODEL", help="the model that it explains")
    line.add(
        "--metrics",
        type=list[str],
        metavar="NAME",
        default=list(METRICS),
        help="classes of xcertify.metrics that score maps",
    )
    line.add(
        "--custom", type=list[str], metavar="MODULE:CLASS", default=[], help="layers of your own"
    )
    line.add(
        "--batch", type=int, metavar="INT", default=256, help="inputs that are scored together"
    )
    line.add("--verbose", type=bool, default=True, help="show a progress bar")
    names = line.said_words("metrics")
    if names or not line.asks_for_help:
        kinds = [metric_named(name) for name in names or METRICS]
        line.subject = " and ".join(kind.__name__ for kind in kinds)
        line.add_settings(f"settings of {line.subject}", _settings(kinds).values())


def metrics() -> dict[str, type[Metric]]:
    """All metrics of `xcertify.metrics` that score maps, by name."""
    start_tensorflow()
    from xcertify import metrics

    found = {name: getattr(metrics, name) for name in metrics.__all__}
    return {
        name: kind
        for name, kind in found.items()
        if isinstance(kind, type)
        and issubclass(kind, metrics.Metric)
        and kind is not metrics.Metric
        and "explanations" in inspect.signature(kind.detailed_evaluate).parameters
    }


def metric_named(name: str) -> type[Metric]:
    """The class that is meant, in capitals or not.

    Raises
    ------
    ValueError
        With all names, for another one.
    """
    known = metrics()
    meant = {word.lower(): kind for word, kind in known.items()}
    kind = meant.get(str(name).replace("-", "").replace("_", "").lower())
    if kind is None:
        names = ", ".join(sorted(known))
        raise ValueError(f"metrics must be of {names}. Received: {name}")
    return kind


def _settings(kinds: list[type[Metric]]) -> dict[str, Setting]:
    """Settings that one of the metrics has; what is not said is left to the defaults of each."""
    found: dict[str, Setting] = {}
    for kind in kinds:
        for name, setting in settings_of(kind).items():
            found.setdefault(name, replace(setting, default=SUPPRESS))
    return found


def run(arguments: Namespace) -> None:
    """Score the maps and print the means."""
    start_tensorflow()
    import pyarrow
    from pyarrow import parquet

    from xcertify.runs.loading import load_model

    opened = open_run(arguments.folder)
    model = load_model(arguments.model, arguments.custom)
    kinds = [metric_named(name) for name in arguments.metrics]
    given = [s for s in _settings(kinds).values() if s.name in vars(arguments)]
    settings = chosen(given, vars(arguments))
    _check_batches(kinds, settings, len(opened), arguments.batch)
    columns: dict[str, list[np.ndarray]] = {"input": []}
    with without_tracing_advice():
        for numbers, inputs, targets, maps in _explained(opened, arguments):
            columns["input"].append(numbers)
            for kind in kinds:
                own = {name: settings[name] for name in settings_of(kind) if name in settings}
                metric = kind(model, inputs, targets, **own)
                scores = metric.evaluate_samples(_as_taken(kind, maps, inputs))
                columns.setdefault(kind.__name__, []).append(scores)
    if not columns["input"]:
        raise ValueError(f"{arguments.folder} has no maps: run xcertify explain, or with --maps")
    table = pyarrow.table({name: np.concatenate(parts) for name, parts in columns.items()})
    path = opened.folder / FILE
    parquet.write_table(table, path)
    print(f"\n{len(table):,} inputs, means:")
    for kind in kinds:
        better = "higher is better" if kind.higher_is_better else "lower is better"
        mean = np.mean(table[kind.__name__].to_numpy())
        print(f"  {kind.__name__:<18}{mean:>10.4f}   {better}")
    print(f"folder: {path}")


def _check_batches(
    kinds: list[type[Metric]], settings: dict[str, Any], nb_inputs: int, batch: int
) -> None:
    """Refuse metrics that would take another valid range, or level, from each batch of inputs."""
    for kind in kinds:
        if nb_inputs > batch and (
            _shares(kind, settings, "nb_inputs", None) or _shares(kind, settings, "together", "all")
        ):
            raise ValueError(
                f"{kind.__name__} would share its level among the inputs of each batch: give the "
                f"number of inputs that share it, --nb-inputs {nb_inputs}, where there is that, or "
                f"all of them at once, --batch {nb_inputs}"
            )
        clip = settings_of(kind).get("clip")
        if clip and settings.get("clip", clip.default) == "auto" and nb_inputs > batch:
            raise ValueError(
                f"{kind.__name__} needs the valid range of the inputs, such as --clip 0 1: that of "
                f"a batch would not be that of all"
            )


def _shares(kind: type[Metric], settings: dict[str, Any], name: str, value: Any) -> bool:
    """Whether a setting of a metric has the value by which inputs of one call share a level."""
    setting = settings_of(kind).get(name)
    return setting is not None and settings.get(name, setting.default) == value


def _explained(
    run: Run, arguments: Namespace
) -> Iterator[tuple[np.ndarray, np.ndarray, Any, np.ndarray]]:
    """Numbers, inputs, targets and maps of `batch` inputs at a time, those with an error left out.

    Batches are fixed by the numbers of inputs, so that scores repeat.
    """
    from xcertify.progress import progress_bar

    source = run.source()
    table = run.table(["input", "error", "target"])
    numbers = table["input"].to_numpy()[table["error"].is_null().to_numpy()]
    classes = dict(zip(table["input"].to_pylist(), table["target"].to_pylist()))
    with progress_bar(len(numbers), verbose=arguments.verbose) as bar:
        for first in range(0, len(source), arguments.batch):
            last = min(first + arguments.batch, len(source))
            own = numbers[(numbers >= first) & (numbers < last)]
            maps = run.maps(first, last)
            if maps is None or not len(own):
                continue
            read = source.read(first, last).inputs
            inputs = np.stack([_still_there(read[number - first], number) for number in own])
            targets = [classes[number] for number in own]
            known = None if any(target is None for target in targets) else np.array(targets)
            yield own, inputs, known, maps[own - first]
            bar.update(len(own))


def _still_there(array: np.ndarray | None, number: int) -> np.ndarray:
    """An input that the run could read.

    Raises
    ------
    ValueError
        If it can no longer be read.
    """
    if array is None:
        raise ValueError(f"input {number} can no longer be read: the inputs of the run changed")
    return array


def _as_taken(kind: type[Metric], maps: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Maps as a metric takes them: of ClassRetrieval they are masks."""
    from xcertify.metrics import ClassRetrieval, as_masks

    return as_masks(maps, inputs) if issubclass(kind, ClassRetrieval) else maps
