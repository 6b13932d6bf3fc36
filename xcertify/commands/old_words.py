"""Options under the names that they had: taken for a release, with the word to write instead."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def advise(old: str, new: str) -> None:
    """Say on stderr what to write instead of an old word."""
    print(
        f"xcertify: deprecated: {old}. Write {new}, all that later releases know", file=sys.stderr
    )


class OldOption(argparse.Action):
    """The action of an option that is now called `new`; both have one `dest`."""

    def __init__(self, option_strings: list[str], dest: str, new: str, **settings: Any) -> None:
        settings = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS, **settings}
        super().__init__(option_strings, dest, **settings)
        self.new = new

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store, and say so."""
        advise(self.option_strings[0], self.new)
        setattr(namespace, self.dest, values)
