"""How long a search may go on."""

from __future__ import annotations

import math
import time


class TimeLimit(Exception):
    """The time is over."""


class Deadline:
    """A time, as `time.monotonic` tells it, that may be set anew."""

    def __init__(self, at: float) -> None:
        self.at = at

    @property
    def left(self) -> float | None:
        """Seconds; None without a limit."""
        return self.at - time.monotonic() if math.isfinite(self.at) else None

    def check(self) -> None:
        """Raise `TimeLimit` if it is over."""
        if time.monotonic() > self.at:
            raise TimeLimit
