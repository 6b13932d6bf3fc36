"""What ``explain`` and ``certify`` share: their arguments, and the run that they start."""

from __future__ import annotations

import os
import shlex
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from xcertify.commands.explainers import explainer_named
from xcertify.commands.files import check_new_file, check_new_folder
from xcertify.commands.parsing import CommandLine
from xcertify.commands.quiet import start_tensorflow
from xcertify.commands.signatures import Number, Setting, chosen, settings_of
from xcertify.commands.summaries import summary

if TYPE_CHECKING:
    from xcertify.runs import Job

USAGE = "MODEL INPUTS --explainer NAME --output FOLDER [options]"
EXPLAINER = "EVA"  # where none is named
CONFIG = "config.yaml"  # in the folder of a run: by --config, what was said
_OF_ONE_RUN = ("config", "output", "resume", "report")  # not in that file


def add_arguments(line: CommandLine) -> None:
    """Files in and out, how much at once, and the settings of the explainer that is named."""
    line.add(
        "model",
        type=str,
        needed=True,
        metavar="MODEL",
        help="a Keras model: .keras or .h5; of several outputs one, FILE:NAME",
    )
    line.add(
        "inputs",
        needed=True,
        type=str,
        metavar="INPUTS",
        help=".npy; .npz, as FILE or FILE:NAME; a folder of images; a table, .csv or .parquet; or "
        "tfds:NAME/SPLIT",
    )
    line.add(
        "--explainer",
        type=str,
        metavar="NAME",
        default=EXPLAINER,
        help="a class of xcertify.attributions, in capitals or not, with hyphens or without",
    )
    line.add(
        "--output",
        type=str,
        needed=True,
        metavar="FOLDER",
        help="folder to fill; it must not exist yet",
    )
    line.add("--resume", type=bool, default=False, help="go on with the run in the folder")
    line.add(
        "--targets",
        type=list[str] | None,
        metavar="T",
        help="classes to explain: an integer for each input or one for all, a .npy or .npz file, "
        "labels (those of the inputs), or column:NAME of a table (default: those predicted)",
    )
    line.add(
        "--custom",
        type=list[str],
        metavar="MODULE:CLASS",
        default=[],
        help="layers of your own: module:Class or file.py:Class",
    )
    line.add("--report", type=str, metavar="HTML", help="a page about the run, in one file")
    line.add(
        "--maps", type=bool, default=True, help="keep the maps beside the rows (default: --maps)"
    )
    scale = line.group("how much at once")
    line.add(
        "--workers",
        type=int,
        metavar="INT",
        default=1,
        group=scale,
        help="processes; more than one need the extra: pip install xcertify[ray]",
    )
    line.add(
        "--gpus", type=Number, metavar="NUMBER", default=0.0, group=scale, help="of each worker"
    )
    line.add(
        "--batch",
        type=int | None,
        metavar="INT",
        group=scale,
        help="inputs that are worked on together (default: as many as memory and explainer allow)",
    )
    line.add("--part", type=int | None, metavar="INT", group=scale, help="inputs in one file")
    line.add(
        "--threads",
        type=int | None,
        metavar="INT",
        group=scale,
        help="of each worker, on which the last digits of results depend (default: 2)",
    )
    line.add("--verbose", type=bool, default=True, group=scale, help="show a progress bar")
    name = line.said("explainer")
    if name is not None or not line.asks_for_help:  # which is answered at once, without these
        kind = explainer_named(name or EXPLAINER, certifies=line.command == "certify")
        line.subject = kind.__name__
        line.add_settings(f"settings of {kind.__name__}", settings_of(kind).values())
        line.add_settings("how inputs are read", _input_settings().values())


def _input_settings() -> dict[str, Setting]:
    from xcertify.runs.sources import open_source

    return settings_of(open_source)


def run(arguments: Namespace, command: str) -> None:
    """Do a run, or go on with one, and say what it found."""
    start_tensorflow()
    from xcertify.distributed import run as run_job
    from xcertify.runs.sheet import draw_sheet

    job = make_job(arguments, command)
    folder = Path(arguments.output)
    before = _written(folder)
    try:
        done = run_job(
            job,
            workers=arguments.workers,
            gpus=arguments.gpus,
            part=arguments.part,
            resume=arguments.resume,
            verbose=arguments.verbose,
        )
    finally:  # also of a run that was stopped, but not beside that of another one
        config = folder / CONFIG
        if _written(folder) != before and not (arguments.resume and config.exists()):
            config.write_text(as_configuration(arguments), encoding="utf-8")
    if arguments.maps or command == "explain":
        draw_sheet(done, folder / "maps.png")
    if arguments.report is not None:
        from xcertify.runs.report import write_report

        Path(arguments.report).parent.mkdir(parents=True, exist_ok=True)
        write_report(done, arguments.report)
    print(summary(done, folder))
    print(f"again:   xcertify {command} --config {shlex.quote(str(config))} --output ...")
    if command == "certify":
        words = shlex.join([str(folder), "--model", arguments.model])
        print(f"check:   xcertify recheck {words}")
    if arguments.report is not None:
        print(f"report:  {arguments.report}")


def make_job(arguments: Namespace, command: str) -> Job:
    """What the arguments ask for.

    Raises
    ------
    ValueError, OSError
        For files that are not there or are something else, and what the explainer refuses.
    """
    from xcertify.inputs import input_shape_of
    from xcertify.runs import Job, use_threads
    from xcertify.runs.loading import load_model
    from xcertify.runs.sources import open_source

    check_new_folder(arguments.output)
    if arguments.report is not None:
        check_new_file(arguments.report)
    use_threads(arguments.threads)  # before the model is loaded
    said = vars(arguments)
    kind = explainer_named(arguments.explainer, certifies=command == "certify")
    settings = chosen(settings_of(kind).values(), said)
    model = load_model(arguments.model, arguments.custom)
    source = open_source(
        arguments.inputs,
        shape=input_shape_of(model),
        targets=arguments.targets,
        **chosen(_input_settings().values(), said),
    )
    if source.groups is not None and settings.get("groups", ()) is None:
        settings["groups"] = source.groups  # one-hot columns are one feature together
    return Job(
        command=command,
        explainer=kind.__name__,
        settings=settings,
        model=str(Path(arguments.model).absolute()),
        custom=tuple(arguments.custom),
        source=source,
        folder=arguments.output,
        batch=arguments.batch,
        threads=arguments.threads,
        maps=arguments.maps,
    )


def _written(folder: Path) -> int | None:
    """When the run in a folder last wrote of itself; None without a run."""
    path = folder / "run.json"
    return path.stat().st_mtime_ns if path.exists() else None


def as_configuration(arguments: Namespace) -> str:
    """What was said, as a file for ``--config``; without the folder, which is another one then."""
    said = {name: value for name, value in vars(arguments).items() if name not in _OF_ONE_RUN}
    for name in ("model", "inputs"):
        if Path(said[name].partition(":")[0]).exists() or Path(said[name]).exists():
            said[name] = os.path.abspath(said[name])
    return yaml.safe_dump(_plain(said), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
