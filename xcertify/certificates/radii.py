"""Certificates of a largest radius."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from xcertify.certificates.base import Certificate, describe_weights
from xcertify.certificates.forms import FLOATS, Form, check_words
from xcertify.certificates.origins import as_json
from xcertify.criteria import Criterion, Excludes, KeepsOut, KeepsSigns, KeepsTop, Within

CRITERIA: dict[str, type[Criterion]] = {
    kind.__name__: kind for kind in (Within, Excludes, KeepsTop, KeepsOut, KeepsSigns)
}
_ROWS = {"tau": "tau", "target_map": "compared", "features": "compared"}
_SEARCH = {"largest": (int, float), "nb_halvings": int, "attack_steps": int}


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
    targets
        (N, K): weights of the logits whose explanations are defended.
    asked
        The criterion but for its arrays: ``{"kind": "Within", "measure": "l2_ratio"}``; {} for one
        that is none of `xcertify.criteria`.
    tau, compared
        Its arrays, None where it has none: thresholds (N,), and target maps or features (N,
        *input).
    search
        Arguments of `CertifiedGradient.radius`: `largest`, `nb_halvings` and `attack_steps`.

    Guarantee
    ---------
    Of `certified`: that of `GradientCertificate` at this radius; smaller regions lie inside.
    """

    _is_radius: ClassVar[bool] = True

    _rows: ClassVar[dict[str, Form]] = {
        "targets": Form(FLOATS, ("outputs",)),
        "tau": Form(FLOATS, values="infinite", optional=True),
        "compared": Form(FLOATS, ("input",), optional=True),
    }
    _words: ClassVar[dict[str, Any]] = {
        **{"varied": str, "criterion": str, "settings": dict, "asked": dict, "search": dict},
    }

    varied: str
    criterion: str
    settings: dict[str, Any]
    targets: np.ndarray
    asked: dict[str, Any]
    tau: np.ndarray | None
    compared: np.ndarray | None
    search: dict[str, Any]

    def check(self) -> None:
        """Refuse parts that contradict each other, see `Certificate`."""
        if self.varied not in ("epsilon", "gamma"):
            raise ValueError(f"varied must be 'epsilon' or 'gamma'. Received: {self.varied!r}")
        super().check()
        check_words("search", self.search, _SEARCH)
        if self.asked and self.question is None:
            raise ValueError(f"asked must name a criterion and its parts. Received: {self.asked!r}")
        if self.asked and self.criterion not in _in_words(self.asked, self.tau):
            raise ValueError(f"criterion must be what is asked. Received: {self.criterion!r}"[:300])

    @property
    def question(self) -> Criterion | None:
        """The criterion, made again; None if it is none of `xcertify.criteria`."""
        kind = CRITERIA.get(str(self.asked.get("kind")))
        if kind is None:
            return None
        words = {name: value for name, value in self.asked.items() if name != "kind"}
        arrays = {
            field.name: getattr(self, _ROWS[field.name])
            for field in fields(kind)  # type: ignore[arg-type]
            if field.name in _ROWS
        }
        if any(array is None for array in arrays.values()):
            return None
        try:
            return kind(**words, **arrays)
        except (TypeError, ValueError):
            return None

    @staticmethod
    def asking(criterion: Criterion, shape: tuple[int, ...]) -> dict[str, Any]:
        """The fields that say what was asked, for the constructor.

        Parameters
        ----------
        criterion
            Any criterion.
        shape
            (N, *input), of the explanations.
        """
        found: dict[str, Any] = {
            "criterion": repr(criterion),
            "asked": {},
            "tau": None,
            "compared": None,
        }
        if CRITERIA.get(type(criterion).__name__) is not type(criterion):
            return found
        asked = {"kind": type(criterion).__name__}
        for name, value in vars(criterion).items():
            if name in _ROWS:
                size = shape[:1] if name == "tau" else shape
                found[_ROWS[name]] = np.broadcast_to(np.asarray(value, np.float64), size).copy()
            else:
                asked[name] = as_json(value)
        return found | {"asked": asked, "criterion": _in_words(asked, found["tau"])[0]}

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


def _in_words(asked: dict[str, Any], tau: np.ndarray | None) -> list[str]:
    """A criterion in words: with its threshold if it is one for all, and without."""
    words = [f"{name}={value!r}" for name, value in asked.items() if name != "kind"]
    found = [f"{asked['kind']}({', '.join(['tau=one for each input', *words])})"]
    if tau is None:
        return [f"{asked['kind']}({', '.join(words)})"]
    if len(tau) and (tau == tau[0]).all():
        found.insert(0, f"{asked['kind']}({', '.join([f'tau={float(tau[0])!r}', *words])})")
    return found
