"""Explainers and their settings as words of the command line; all commands take them from here."""

from __future__ import annotations

import argparse
import inspect
from typing import TYPE_CHECKING, Any

from xcertify.commands.old_words import OldOption, advise

if TYPE_CHECKING:
    from xcertify.attributions.base import Explainer

EXPLAINERS = ("EVA", "EVAHybrid", "SufficientReason")  # classes of `xcertify.attributions`
_NAMES = f"{', '.join(EXPLAINERS[:-1])} or {EXPLAINERS[-1]}"


def _explainer_name(text: str) -> str:
    """The class that is meant: eva, eva-hybrid and evahybrid are understood as well."""
    for name in EXPLAINERS:
        if text.replace("-", "").lower() == name.lower():
            return name
    raise argparse.ArgumentTypeError(f"must be {_NAMES}. Received: {text}")


class _Method(argparse.Action):
    """A bound method; the name of an explainer, which this option once took, is understood."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            namespace.explainer = _explainer_name(values)
        except argparse.ArgumentTypeError:
            namespace.method = values
        else:
            advise(f"--method {values}", f"--explainer {values}")


# Argument of an explainer, with hyphens -> how the command describes it. What is not given on the
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
    "method": {"action": _Method, "metavar": "NAME", "help": "bound method, such as crown"},
    "latent-layer": {"metavar": "NAME", "help": "EVAHybrid: the layer bounded by samples"},
    "nb-samples": {"type": int, "metavar": "INT", "help": "EVAHybrid: samples per region"},
    "towards": {
        "type": int,
        "metavar": "CLASS",
        "help": "SufficientReason: the class has to stay above this one only",
    },
    "delta": {
        "type": float,
        "metavar": "D",
        "help": "SufficientReason: of a regression, how far its output may move",
    },
    "time-limit": {
        "type": lambda text: None if text == "none" else float(text),
        "metavar": "SECONDS|none",
        "help": "SufficientReason: for each input, about",
    },
    "complete": {
        "action": argparse.BooleanOptionalAction,
        "help": "SufficientReason: whether branch and bound decides what is left",
    },
    "batch-size": {"type": int, "metavar": "INT", "help": "regions bounded at once"},
    "seed": {"type": int, "metavar": "INT", "help": "seed of whatever is random"},
}


def add_explainer_arguments(parser: argparse.ArgumentParser) -> None:
    """``--explainer`` and an option for each setting."""
    parser.add_argument(
        "--explainer",
        type=_explainer_name,
        metavar="NAME",
        default=EXPLAINERS[0],
        help=f"{_NAMES}, in capitals or not, with hyphens or without",
    )
    group = parser.add_argument_group("settings of the explainer (default: its own)")
    for name, setting in SETTINGS.items():
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, **setting)
    group.add_argument("--verifier", action=OldOption, dest="method", new="--method")


def make_explainer(arguments: argparse.Namespace, model: Any) -> Explainer:
    """The explainer that the arguments of `add_explainer_arguments` say.

    Raises
    ------
    ValueError
        For settings that it does not have or that are missing, and whatever its constructor
        refuses.
    """
    from xcertify import attributions
    from xcertify.settings import setting_names

    kind = getattr(attributions, arguments.explainer)
    known = [name.replace("-", "_") for name in SETTINGS]
    settings = {name: value for name, value in vars(arguments).items() if name in known}
    for name in settings:
        if name not in setting_names(kind):
            raise ValueError(f"{arguments.explainer} has no setting {_option(name)}")
    for name, parameter in inspect.signature(kind).parameters.items():
        needed = (
            parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        )
        if needed and name not in ("model", *settings):
            raise ValueError(f"{arguments.explainer} needs {_option(name)}")
    return kind(model, verbose=True, **settings)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
