"""Verdicts on certificates: what they say, found again by other means than made it.

By which, is said of every input in `Verdict.means`. What linear bounds closed is bounded anew by
the checker of `xcertify.recheck`, which shares no code with the engine; the rest by the engine in
float64.
"""

from xcertify.verdicts.findings import STATUS, Verdict
from xcertify.verdicts.rechecking import recheck

__all__ = ["STATUS", "Verdict", "recheck"]
