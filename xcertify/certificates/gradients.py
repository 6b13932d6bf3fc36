"""Certificates of explanations by gradients."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xcertify import criteria
from xcertify.bounds import FORMER_GRADIENT_METHODS
from xcertify.certificates.base import Certificate, describe_weights
from xcertify.certificates.forms import FLOATS, Form, refuse_inputs
from xcertify.certificates.origins import numbers_of
from xcertify.certificates.stored import header_from
from xcertify.regions import Ball


@dataclass(frozen=True, repr=False)
class GradientCertificate(Certificate):
    """Proved bounds of every explanation by gradients over a region (CertifiedGradient).

    Attributes
    ----------
    interval
        The largest distance of an explanation to that of the input, in units of its length
        (``farthest()``): `certified` (N,).
    lower, upper
        (N, *input): no explanation of a point of the region, and of any of the weights, leaves
        these bounds (the set E of the paper).
    explanation
        (N, *input): the explanation of the inputs themselves, that is defended.
    targets
        (N, K): weights of the logits whose sum is explained; one-hot rows for the cross-entropy.
    settings
        Arguments of the explainer, by name.
    fingerprint
        Hash of the model's weights, see `fingerprint`.
    attained
        (N,) float64: the largest distance to `explanation`, in units of its length, of the
        explanations at some random corners of the region, which `looseness` compares with. NaN
        where weights may move, too; None in files of earlier versions.

    Guarantee
    ---------
    That of `Verifier.bound_gradient`, for the points of the region, the weights near the model's,
    and every choice of a subgradient at kinks. What the methods and properties say is true of all
    explanations between `lower` and `upper`, which may be more than there are.

    Source: Wicker et al., Robust Explanation Constraints for Neural Networks, 2023, Definitions 1
    and 2, section 4.1.
    """

    _rows: ClassVar[dict[str, Form]] = {
        "lower": Form(FLOATS, ("input",), "infinite"),
        "upper": Form(FLOATS, ("input",), "infinite"),
        "explanation": Form(FLOATS, ("input",)),
        "targets": Form(FLOATS, ("outputs",)),
        "attained": Form(FLOATS, (), "any", optional=True),
    }
    _earlier: ClassVar[frozenset[str]] = frozenset({"text", "lower", "explanation", "inputs"})
    _words: ClassVar[dict[str, Any]] = {"settings": dict, "fingerprint": str}

    lower: np.ndarray
    upper: np.ndarray
    explanation: np.ndarray
    targets: np.ndarray
    settings: dict[str, Any]
    fingerprint: str
    attained: np.ndarray | None = None

    @property
    def vacuous(self) -> np.ndarray:
        """(N,) bool: see `Certificate`; only where an explanation may move by its length."""
        return super().vacuous & (self.certified > 1)

    @property
    def _changes(self) -> tuple[np.ndarray, ...]:
        unknown = np.full(len(self.certified), np.nan)
        attained = unknown if self.attained is None else self.attained
        return self.certified, attained, np.array(1e-5)  # of the length of the explanation

    @property
    def _of_weights(self) -> str:
        """How far weights move, for `repr`."""
        return describe_weights(self.settings["gamma"], self.settings["bias_radius"])

    @property
    def inputs(self) -> np.ndarray:
        """(N, *input): the centers of the regions, with channels last."""
        return self.region.center

    @property
    def delta(self) -> np.ndarray:
        """(N, *input): no two explanations of the region differ by more (Definitions 1 and 2)."""
        return np.nextafter(self.upper - self.lower, np.inf, dtype=self.upper.dtype)

    @property
    def signs(self) -> np.ndarray:
        """(N, *input) int8: 1 or -1 where the sign is proved, else 0."""
        return (self.lower > 0).astype(np.int8) - (self.upper < 0).astype(np.int8)

    @property
    def lipschitz(self) -> np.ndarray | None:
        """(N,): the explained score changes by at most this times the distance of two points.

        Both in the region, distances in its norm; for every one of the weights. None for
        explanations that are not the gradient itself.
        """
        if self.settings["attribution"] != "gradient":
            return None
        sizes = np.maximum(np.abs(self.lower), np.abs(self.upper)).reshape(len(self.lower), -1)
        order = {np.inf: 1, 2: 2, 1: np.inf}[self.region.norm]
        return np.linalg.norm(sizes.astype(np.float64), order, axis=1) * (1 + 1e-12)

    def within(self, tau: float, measure: str = "l2_ratio") -> np.ndarray:
        """Where no explanation is farther than `tau` from `explanation`, (N,) bool.

        No untargeted attack can succeed there.

        Parameters
        ----------
        tau, measure
            As for `Within`.
        """
        return self.proves(criteria.Within(tau, measure))

    def excludes(self, target_map: Any, tau: float, measure: str = "mse") -> np.ndarray:
        """Where no explanation comes within `tau` of a map, (N,) bool.

        No targeted attack can succeed there.

        Parameters
        ----------
        target_map, tau, measure
            As for `Excludes`.
        """
        return self.proves(criteria.Excludes(target_map, tau, measure))

    def proves(self, criterion: criteria.Criterion) -> np.ndarray:
        """Where any criterion is proved, (N,) bool."""
        return criterion.holds(self.lower, self.upper, self.explanation)

    def farthest(self, measure: str = "l2_ratio") -> np.ndarray:
        """Proved largest distance (least cosine) to `explanation`, (N,).

        Parameters
        ----------
        measure
            As for `Within`.
        """
        return criteria.farthest(self.lower, self.upper, self.explanation, measure)

    def in_top(self, k: int) -> np.ndarray:
        """Features proved to be among the k of largest magnitude, (N, *input) bool."""
        return criteria.in_top(self.lower, self.upper, k)

    def out_of_top(self, k: int) -> np.ndarray:
        """Features proved not to be among the k of largest magnitude, (N, *input) bool."""
        return criteria.out_of_top(self.lower, self.upper, k)

    @classmethod
    def _of_earlier(cls, arrays: dict[str, np.ndarray]) -> GradientCertificate:
        text = header_from(str(arrays["text"]))
        try:
            settings = numbers_of(text["settings"])
            for named in (text, settings):
                named["method"] = FORMER_GRADIENT_METHODS.get(named["method"], named["method"])
            epsilon = arrays.get("epsilon", settings["epsilon"])
            region = Ball(arrays["inputs"], epsilon, settings["norm"], settings["clip"])
            words = {"settings": settings, "fingerprint": text["fingerprint"]}
            common = {"method": text["method"], "arithmetic": text["arithmetic"], "origin": None}
            rows = {name: arrays[name] for name in cls._rows if name in arrays}
            sides = rows["lower"], rows["upper"], rows["explanation"]
            rows["certified"] = criteria.farthest(*sides, "l2_ratio")
        except (KeyError, TypeError) as error:
            raise ValueError(f"the file must be a gradient certificate: {error!r}") from error
        return cls._of_parts(rows, {}, words, region=region, **common)

    def check(self) -> None:
        """Refuse bounds that contradict each other, see `Certificate`."""
        super().check()
        refuse_inputs(self.lower > self.upper, "lower is above upper")
        proved = criteria.farthest(self.lower, self.upper, self.explanation, "l2_ratio")
        same = np.isclose(self.certified, proved, rtol=1e-6, atol=0, equal_nan=True)
        refuse_inputs(~same, "certified is not the largest distance of the bounds")

    def recheck(self, model: Any) -> np.ndarray:
        """Deprecated: write ``xcertify.recheck.recheck(certificate, model)``."""
        warnings.warn(
            "GradientCertificate.recheck is deprecated. Write "
            "xcertify.recheck.recheck(certificate, model)",
            DeprecationWarning,
            stacklevel=2,
        )
        # by name: explainers make certificates, so that a certificate can import none
        return importlib.import_module("xcertify.recheck").recheck(self, model)

    def __repr__(self) -> str:
        return (
            f"<GradientCertificate: {self.settings['attribution']} of {len(self.lower)} inputs on "
            f"{self.region}{self._of_weights}; mean width {self.delta.mean():.4g}, signs proved "
            f"for {(self.signs != 0).mean():.1%} of the features, distance to the explanation at "
            f"most {np.median(self.farthest()):.3g} times its length (median){self._wider}; "
            f"{self._how}>"
        )
