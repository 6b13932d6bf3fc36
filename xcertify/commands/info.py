"""``xcertify info``: what can be bounded of a model, and which explainers are practical."""

from __future__ import annotations

from argparse import Namespace

import numpy as np

from xcertify.commands.parsing import CommandLine
from xcertify.commands.quiet import start_tensorflow
from xcertify.commands.signatures import Number

SUMMARY = "say what can be bounded of a model, and what explainers would cost"
USAGE = "MODEL [options]"
DESCRIPTION = """\
Says, layer by layer, what of a model can be bounded, and about how long each explainer would take:
an estimate before work starts."""
EXAMPLE = "xcertify info model.keras"


def add_arguments(line: CommandLine) -> None:
    """The model."""
    line.add(
        "model",
        type=str,
        needed=True,
        metavar="MODEL",
        help="a Keras model: .keras or .h5; of several outputs one, FILE:NAME",
    )
    line.add(
        "--custom", type=list[str], metavar="MODULE:CLASS", default=[], help="layers of your own"
    )
    line.add(
        "--input",
        type=str,
        metavar="FILE",
        help=".npy or .npz (FILE:NAME): inputs like those to explain, of which the first is taken",
    )
    line.add("--seconds", type=Number, metavar="S", default=20.0, help="that measuring may take")


def run(arguments: Namespace) -> None:
    """Print the estimate."""
    start_tensorflow()
    from xcertify.runs.loading import load_model

    model = load_model(arguments.model, arguments.custom)
    from xcertify.estimates import estimate

    print(estimate(model, input=_first(arguments.input), seconds=arguments.seconds))


def _first(path: str | None) -> np.ndarray | None:
    """The first input of a file."""
    if path is None:
        return None
    from xcertify.runs.sources.arrays import load_array

    return load_array(path)[0]
