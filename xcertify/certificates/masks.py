"""Certificates of learned masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xcertify.certificates.base import Certificate
from xcertify.certificates.forms import FLOATS, INTEGERS, Form, refuse_inputs


@dataclass(frozen=True, repr=False)
class MaskCertificate(Certificate):
    """Radii within which what a mask keeps keeps its class (RelEx), one entry per input.

    For an input x, its mask m and the neutral value n, ``f(n + m (x' - n))`` is looked at for all
    x' near x, with the same m. The true radius is in `interval`.

    Attributes
    ----------
    interval
        The radius: no x' within `certified` (N,) of x gives another class, 0 where none was proved;
        `attacked` (N,) is the distance of the nearest x' found that does, 0 where x itself does,
        inf where none was found.
    masks
        (N, *input) float32 in [0, 1].
    neutral_value
        (*input) float32: n.
    targets
        (N,) int: the class that is kept.

    Guarantee
    ---------
    Of `certified`: that of the `Verifier` method, for the network at ``n + m (x' - n)`` in real
    arithmetic. Each radius was tested itself. It says nothing of the mask that would be learned
    for x'.
    """

    _is_radius: ClassVar[bool] = True

    _rows: ClassVar[dict[str, Form]] = {
        "masks": Form(FLOATS, ("input",)),
        "targets": Form(INTEGERS),
    }
    _shared: ClassVar[dict[str, Form]] = {"neutral_value": Form(FLOATS, ("input",))}

    masks: np.ndarray
    neutral_value: np.ndarray
    targets: np.ndarray

    def check(self) -> None:
        """Refuse parts that contradict each other, see `Certificate`."""
        super().check()
        refuse_inputs((self.masks < 0) | (self.masks > 1), "masks are not from 0 to 1")

    def __repr__(self) -> str:
        attacked = ""
        if self.attacked is not None:
            attacked = f", attacked at {np.median(self.attacked):.4g}"
        return (
            f"<MaskCertificate: {int((self.certified > 0).sum())} of {len(self.certified)} masked "
            f"inputs proved to keep their class, on {self.region}; median radius "
            f"{np.median(self.certified):.4g}{attacked}{self._wider}; {self._how}>"
        )
