"""Certificates: what was proved, frozen."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, repr=False)
class Certificate:
    """What every certificate says beside its numbers.

    Attributes
    ----------
    region
        The region of each input, in words.
    method
        How the bounds were computed, a name of `Verifier`.
    arithmetic
        "real": proved for the network in real arithmetic; "float32": for its evaluation in float32
        as well; "decomon": as decomon computes it.
    """

    region: str
    method: str
    arithmetic: str

    def to_dict(self) -> dict[str, Any]:
        """All fields with arrays as nested lists, ready for JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in fields.items()}


@dataclass(frozen=True, repr=False)
class OverlapCertificate(Certificate):
    """Proved upper bounds of the adversarial overlap (EVA, Eq. 1), one entry per input.

    The overlap of a region is the largest value of ``f_c' - f_c`` over its points and over all
    other classes c'. Where it is negative the model gives class c on the whole region.

    Attributes
    ----------
    overlap
        (N,): no point of the region has a larger overlap.
    cell_overlaps
        (N, cells): the same with the features of one cell held at their nominal value.
    cells
        (H, W), (T, W) or (W,): the cell that each feature belongs to.
    targets
        (N,) int: class c.
    robust
        (N,) bool: the prediction is proved to be c on the whole region.

    Guarantee
    ---------
    That of the `Verifier` method, on every point of the region.
    """

    overlap: np.ndarray
    cell_overlaps: np.ndarray
    cells: np.ndarray
    targets: np.ndarray
    robust: np.ndarray

    def __repr__(self) -> str:
        return (
            f"<OverlapCertificate: {int(self.robust.sum())} of {len(self.robust)} predictions "
            f"proved constant on {self.region}; overlap at most {self.overlap.max():.4g}, "
            f"median {np.median(self.overlap):.4g}; {self.cell_overlaps.shape[1]} cells; "
            f"{self.method}, {self.arithmetic} arithmetic>"
        )
