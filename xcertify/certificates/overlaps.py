"""Certificates of the adversarial overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xcertify.answers import Answers
from xcertify.bounds import Decision
from xcertify.certificates.base import Certificate
from xcertify.certificates.forms import FLOATS, INTEGERS, Form, refuse_inputs
from xcertify.regions import as_column

STATUSES = ("holds", "violated", "unknown")  # of a `Decision`


@dataclass(frozen=True, repr=False)
class OverlapCertificate(Certificate):
    """Proved upper bounds of the adversarial overlap (EVA, Eq. 1), one entry per input.

    The overlap of a region is the largest value of ``f_c' - f_c`` over its points and over all
    other classes c'. Where it is negative the model gives class c on the whole region. Of a
    regression (`answers`) it is the largest value of ``|f - f(x0)| - delta``, negative where the
    output stays less than delta away from its value at the input.

    Attributes
    ----------
    interval
        The overlap: `certified` (N,), that no point of the region exceeds; `attacked` (N,), that of
        a point that was found, if there was an attack.
    cell_overlaps
        (N, cells): the same with the features of one cell held at their nominal value.
    cells
        (H, W), (T, W) or (W,): the cell that each feature belongs to.
    targets
        (N,) int: class c; of a regression the number of the output.
    nominal
        (N,) float64: the overlap at the input itself, ``max f_c' - f_c``, or ``-delta``.
    attained
        (N,) float64: the largest overlap that a short attack found in the region (of a few steps,
        and the attack behind `attacked`, if there was one), which `looseness` compares with.
    decision
        Whether the predictions stay, for all N inputs, with counterexamples where they do not; its
        `reason` says by what: the bounds of the method, or what `Verifier.decide` names. None
        where the bounds alone were asked.
    answers
        Of a regression the outputs at the inputs, in float64, and the deltas. None: classes.

    Guarantee
    ---------
    That of the `Verifier` method, on every point of the region; of `robust` that of `Decision`,
    where it is what proves it.
    """

    _rows: ClassVar[dict[str, Form]] = {
        "cell_overlaps": Form(FLOATS, ("cells",), "infinite"),
        "targets": Form(INTEGERS),
        "nominal": Form(FLOATS),
        "attained": Form(FLOATS, values="infinite"),
    }
    _shared: ClassVar[dict[str, Form]] = {"cells": Form(INTEGERS, ("features",))}

    cell_overlaps: np.ndarray
    cells: np.ndarray
    targets: np.ndarray
    nominal: np.ndarray
    attained: np.ndarray
    decision: Decision | None = None
    answers: Answers | None = None

    def check(self) -> None:
        """Refuse parts that contradict each other, see `Certificate`."""
        super().check()
        nb_cells = self.cell_overlaps.shape[1]
        if self.cells.size and not 0 <= self.cells.min() <= self.cells.max() < nb_cells:
            raise ValueError(
                f"cells must be from 0 to {nb_cells - 1}. "
                f"Received: {self.cells.min()} to {self.cells.max()}"
            )
        if self.answers is not None:
            if self.answers.delta is None:
                raise ValueError("answers of overlaps must have delta. Received: classes")
            if self.answers.nb_outputs > 1:
                differ = self.targets != self.answers.classes
                refuse_inputs(differ, "the targets are not those of answers")
        if self.decision is not None:
            known = np.isin(self.decision.status, STATUSES)
            refuse_inputs(~known, f"the status is none of {', '.join(STATUSES)}")
            given = np.isfinite(self.decision.counterexamples)
            differ = given != as_column(self.decision.violated, given)
            refuse_inputs(differ, "there is a counterexample, or none, against the status")

    @property
    def overlap(self) -> np.ndarray:
        """(N,): ``interval.certified``, no point of the region has a larger overlap."""
        return self.interval.certified

    @property
    def robust(self) -> np.ndarray:
        """(N,) bool: proved for the whole region: class c, or an output within delta."""
        by_bounds = self.overlap < 0
        return by_bounds if self.decision is None else by_bounds | self.decision.holds

    @property
    def vacuous(self) -> np.ndarray:
        """(N,) bool: see `Certificate`; not where the prediction is proved to stay."""
        return super().vacuous & ~self.robust

    @property
    def _changes(self) -> tuple[np.ndarray, ...]:
        changes = self.overlap - self.nominal, self.attained - self.nominal
        return *changes, 1e-5 * (1 + np.abs(self.nominal))

    @property
    def _what(self) -> str:
        if self.answers is None:
            return "predictions proved constant"
        return f"outputs proved, that the {self.answers.describe()}"

    def __repr__(self) -> str:
        attacked = changed = ""
        if self.decision is not None:
            changed = f" and {int(self.decision.violated.sum())} to change"
        if self.attacked is not None:
            attacked = f", attacked {np.median(self.attacked):.4g}"
        return (
            f"<OverlapCertificate: {int(self.robust.sum())} of {len(self.robust)} "
            f"{self._what}{changed} on {self.region}; overlap at most {self.overlap.max():.4g}, "
            f"median {np.median(self.overlap):.4g}{attacked}{self._wider}; "
            f"{self.cell_overlaps.shape[1]} cells; {self._how}>"
        )
