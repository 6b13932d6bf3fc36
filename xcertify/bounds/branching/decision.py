"""Decision: what branch and bound found out about properties of N regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.bounds.branching.proof import ProofTree

STATUSES = ("holds", "violated", "unknown")


@dataclass(frozen=True, eq=False, repr=False)
class Decision:
    """For N regions whether a property holds, with a counterexample where it does not.

    The worst value of a property is ``min_p min_x max_j (rows[p, j] @ f(x) - limits[p, j])``: above
    0 where it holds, at most 0 where it is violated.

    Attributes
    ----------
    status
        (N,) of "holds", "violated" and "unknown".
    counterexamples
        (N, *input), in the type that the model gets; NaN where there is none.
    lower, upper
        (N,) float64: the worst value is proved to be at least `lower`, and `upper` is attained at
        some point. Where the property holds, `lower` is that of the parts that it was proved with.
    nb_branches
        (N,) int: parts that were bounded, 0 where none was needed.
    seconds
        (N,): from the start of the call until the region was decided.
    reason
        (N,) words: by what it was decided ("attack", "bounds", "branch and bound"), or why not
        ("timeout", "nb_branches", "interrupted").
    proof
        How regions were cut and what was proved of each part, see `ProofTree`; None if that was not
        asked for.

    Guarantee
    ---------
    "holds": no point of the region violates the property, for the network in the arithmetic of the
    `Verifier`. "violated": the counterexample lies in the region, and violates the property both in
    real arithmetic and as the model itself computes it. `lower` is proved for "unknown", too.
    """

    status: np.ndarray
    counterexamples: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    nb_branches: np.ndarray
    seconds: np.ndarray
    reason: np.ndarray
    proof: ProofTree | None = None

    def __len__(self) -> int:
        return len(self.status)

    @property
    def holds(self) -> np.ndarray:
        """(N,) bool: proved."""
        return self.status == "holds"

    @property
    def violated(self) -> np.ndarray:
        """(N,) bool: refuted by a counterexample."""
        return self.status == "violated"

    @property
    def unknown(self) -> np.ndarray:
        """(N,) bool: neither."""
        return self.status == "unknown"

    @property
    def gap(self) -> np.ndarray:
        """(N,): how far `upper` is from `lower`."""
        return self.upper - self.lower

    def to_dict(self) -> dict[str, Any]:
        """All fields but `proof` as lists, ready for JSON; None for a missing counterexample."""
        found = {
            name: getattr(self, name).tolist()
            for name in ("status", "lower", "upper", "nb_branches", "seconds", "reason")
        }
        points = zip(self.counterexamples, self.violated)
        return found | {"counterexamples": [x.tolist() if is_one else None for x, is_one in points]}

    def __repr__(self) -> str:
        words = ", ".join(
            f"{int((self.status == word).sum())} {word}"
            for word in ("holds", "violated", "unknown")
        )
        return f"<Decision of {len(self)}: {words}; {int(self.nb_branches.sum())} branches>"
