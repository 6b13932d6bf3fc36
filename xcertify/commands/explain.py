"""``xcertify explain``: maps of any number of inputs, by any explainer."""

from __future__ import annotations

from argparse import Namespace

from xcertify.commands import running
from xcertify.commands.parsing import CommandLine

SUMMARY = "explain your own model on your own inputs"
USAGE = running.USAGE
DESCRIPTION = """\
Explains every input with an explainer of xcertify.attributions, and writes the maps, one row for
each input and a picture of the first maps into a folder. What was stopped goes on with --resume.

The settings of an explainer, and how inputs are read (size and scale of images, columns of tables):
xcertify explain --explainer NAME --help."""
EXAMPLE = "xcertify explain model.keras images.npy --explainer Saliency --output maps"


def add_arguments(line: CommandLine) -> None:
    """Files in and out, the explainer and its settings."""
    running.add_arguments(line)


def run(arguments: Namespace) -> None:
    """Write maps."""
    running.run(arguments, "explain")
