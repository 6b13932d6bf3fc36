"""Certificates of a largest radius."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xcertify.certificates.base import Certificate, describe_weights


@dataclass(frozen=True, repr=False)
class RadiusCertificate(Certificate):
    """The largest radius up to which a criterion is proved, and where an attack breaks it.

    Attributes
    ----------
    interval
        The radius: for `certified` (N,) and every smaller one the criterion is proved, 0 where for
        none; for `attacked` (N,) an explanation was found that breaks it, inf where none was.
    varied
        "epsilon", the radius of inputs, or "gamma", that of weights.
    criterion
        In words.
    settings
        Arguments of the explainer, by name.

    Guarantee
    ---------
    Of `certified`: that of `GradientCertificate` at this radius; smaller regions lie inside.
    """

    _is_radius: ClassVar[bool] = True

    _words: ClassVar[dict[str, Any]] = {"varied": str, "criterion": str, "settings": dict}

    varied: str
    criterion: str
    settings: dict[str, Any]

    def check(self) -> None:
        """Refuse parts that contradict each other, see `Certificate`."""
        if self.varied not in ("epsilon", "gamma"):
            raise ValueError(f"varied must be 'epsilon' or 'gamma'. Received: {self.varied!r}")
        super().check()

    def _check_radii(self) -> None:
        if self.varied == "epsilon":
            super()._check_radii()

    def __repr__(self) -> str:
        attacked = "not attacked"
        if self.attacked is not None:
            attacked = f"attacked from {np.median(self.attacked):.4g}"
        gamma = self.certified if self.varied == "gamma" else self.settings["gamma"]
        weights = describe_weights(gamma, self.settings["bias_radius"])
        return (
            f"<RadiusCertificate: {self.criterion} for {self.varied} up to "
            f"{np.median(self.certified):.4g}, {attacked} (medians of {len(self.certified)})"
            f"{self._wider}, on {self.region}{weights}; {self._how}>"
        )
