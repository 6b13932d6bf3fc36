"""What one thing costs on a model: bounds by a method, or an explainer."""

from __future__ import annotations

import math
from dataclasses import dataclass

_QUICK, _SLOW = 1.0, 60.0  # seconds an input: beyond, practical for a few inputs, and for none


@dataclass(frozen=True)
class Cost:
    """What one thing costs on a model.

    Attributes
    ----------
    name
        Of an explainer; "outputs" or "gradient" for bounds of these.
    method
        Of the bounds; "" without any.
    proves
        Whether something is proved.
    seconds
        Of a processor, for each input, in batches; NaN where it is refused or not known.
    nb_bytes
        Held at once, about; 0 where it is not known.
    is_measured
        Whether this very thing was measured; else it is counted in what was.
    refused
        Whether it does not work with the model.
    reason
        Why it is refused, or what is to be known of it; "" for nothing.
    """

    name: str
    method: str
    proves: bool
    seconds: float
    nb_bytes: int = 0
    is_measured: bool = False
    refused: bool = False
    reason: str = ""

    @property
    def practical(self) -> str:
        """Up to a second an input "yes", up to a minute "few inputs", else "no"; or "refused"."""
        if self.refused or math.isnan(self.seconds):
            return "refused" if self.refused else "unknown"
        if self.seconds <= _QUICK:
            return "yes"
        return "few inputs" if self.seconds <= _SLOW else "no"


def first_sentence(reason: str) -> str:
    """What is refused, without the list of what is not."""
    return reason.partition(". ")[0].rstrip(".") + "."
