"""What TensorFlow says without being asked is kept off the screen."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without_start_messages() -> Iterator[None]:
    """Hide the messages of TensorFlow's start, which its own log level does not reach."""
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
def without_tracing_advice() -> Iterator[None]:
    """Many explainers mean many graphs, which TensorFlow takes for one traced too often."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def start_tensorflow() -> None:
    """Import TensorFlow without what it says when it starts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with without_start_messages():
        import tensorflow  # noqa: F401
