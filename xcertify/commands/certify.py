"""``xcertify certify``: what is proved of any number of inputs, by an explainer that proves."""

from __future__ import annotations

from argparse import Namespace

from xcertify.commands import running
from xcertify.commands.parsing import CommandLine

SUMMARY = "prove what can be proved about your own model on your own inputs"
USAGE = running.USAGE
DESCRIPTION = """\
Certifies every input with an explainer of xcertify.attributions, and writes the certificates, one
row for each input, into a folder; xcertify recheck verifies them by other means. What was stopped
goes on with --resume.

The settings of an explainer, and how inputs are read (size and scale of images, columns of tables):
xcertify certify --explainer NAME --help."""
EXAMPLE = (
    "xcertify certify model.keras images/ --explainer EVA --epsilon 0.02 --clip 0 1 --output run"
)


def add_arguments(line: CommandLine) -> None:
    """Files in and out, the explainer and its settings."""
    running.add_arguments(line)


def run(arguments: Namespace) -> None:
    """Write certificates."""
    running.run(arguments, "certify")
