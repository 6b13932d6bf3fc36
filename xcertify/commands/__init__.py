"""The command ``xcertify``: see ``xcertify --help``.

Each command is a module of this package (what it does, where that is more than a file, in modules
below it) with a `SUMMARY`, a `DESCRIPTION`, a `USAGE`, an `EXAMPLE`, ``add_arguments(line)`` and
``run(arguments)``, which returns an exit code or None. TensorFlow is imported where it is needed
and not before, so that ``--help`` and wrong words are answered at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import xcertify
from xcertify.commands import benchmark, certify, demo, explain, info, recheck, score
from xcertify.commands.old_words import refuse_old_words
from xcertify.commands.parsing import CommandLine

# In the order of --help.
COMMANDS: dict[str, Any] = {
    "demo": demo,
    "explain": explain,
    "certify": certify,
    "score": score,
    "recheck": recheck,
    "info": info,
    "benchmark": benchmark,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    code
        0; 2 for wrong arguments, files or values; of ``recheck`` 1 if something was refuted and 2
        if something could not be checked; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    nb_first = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
    first = _parser().parse_args(words[: nb_first + 1])
    try:
        return _run(first.command, words[nb_first + 1 :])
    except (ValueError, OSError, ImportError) as error:
        if first.traceback:
            raise
        print(f"xcertify: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(command: str, words: Sequence[str]) -> int:
    """Read what a command is told, and do it."""
    module = COMMANDS[command]
    refuse_old_words(command, words)
    line = CommandLine(command, words, module.USAGE, module.DESCRIPTION, module.EXAMPLE)
    module.add_arguments(line)
    return module.run(line.read()) or 0


def _parser() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:<11}{module.SUMMARY}" for name, module in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="xcertify",
        usage="xcertify [-h] [--version] [--traceback] COMMAND ...",
        description=(xcertify.__doc__ or "").partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog=f"commands:\n{commands}\n\nxcertify COMMAND --help says more of each.\n\n"
        f"example:\n  {demo.EXAMPLE}",
    )
    parser.add_argument("--version", action="version", version=f"xcertify {xcertify.__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    parser.add_argument(
        "command", metavar="COMMAND", choices=COMMANDS, help="what to do: one of those below"
    )
    return parser


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
