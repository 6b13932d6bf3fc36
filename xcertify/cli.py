"""The former place of `xcertify.commands`, the command line; gone with the next release."""

import warnings

from xcertify.commands import main

__all__ = ["main"]

warnings.warn(
    "xcertify.cli is deprecated. Write from xcertify.commands import main",
    DeprecationWarning,
    stacklevel=2,
)
