"""The command ``xcertify``: see ``xcertify --help``.

Each command is a module of this package (what it does, where that is more than a file, in modules
below it) with a `SUMMARY`, a `DESCRIPTION`, an `EXAMPLE`, ``add_arguments(parser)`` and
``run(arguments)``. TensorFlow is imported where it is needed and not before, so that ``--help`` and
a wrong argument are answered at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import xcertify
from xcertify.commands import benchmark, demo, explain
from xcertify.commands.quiet import without_start_messages

COMMANDS = (demo, benchmark, explain)  # in the order of --help


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, or 2 for wrong arguments, files or values."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with without_start_messages():
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
        description=(xcertify.__doc__ or "").partition("\n")[0],
        formatter_class=_Format,
        epilog=f"example:\n  {demo.EXAMPLE}",
    )
    parser.add_argument("--version", action="version", version=f"xcertify {xcertify.__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = commands.add_parser(
            command.__name__.rpartition(".")[2],
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            formatter_class=_Format,
            epilog=f"example:\n  {command.EXAMPLE}",
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Format(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Examples as they are written, and every default that is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action.default, bool) or action.default in (None, argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)
