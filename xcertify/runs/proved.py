"""What a run proves, as numbers of all its inputs and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow

NUMBERS = (
    *("target", "seconds", "certified", "attacked", "attained", "looseness"),
    *("vacuous", "robust"),
)  # columns of rows that `Rows` is made of, where a run has them


@dataclass(frozen=True)
class Headline:
    """What the numbers `certified` and `attacked` of a kind of certificate mean.

    Attributes
    ----------
    quantity
        What both are.
    proved
        What is proved of the inputs that `Rows.proved` names.
    each
        What is proved of one input, with a place for its `certified`.
    grows
        Whether a larger number says more, as of a radius; else a smaller one does, as of a bound.
    below
        The number that `certified` is below, where that is what counts; of radii above.
    sampled
        Whether it holds with the confidence of the certificate, from samples, and is not proved.
    """

    quantity: str
    proved: str
    each: str
    grows: bool = False
    below: float | None = None
    sampled: bool = False

    @property
    def word(self) -> str:
        """What is said of a claim that holds: it is proved, or certified from samples."""
        return "certified" if self.sampled else "proved"


# By the name of the certificate's class.
HEADLINES = {
    "OverlapCertificate": Headline(
        "overlap (largest margin of another class)",
        "the prediction stays the same in the whole region",
        "overlap at most {}",
        below=0.0,
    ),
    "GradientCertificate": Headline(
        "largest move of the explanation, in units of its length",
        "the explanation moves by less than its own length",
        "moves by at most {} of its length",
        below=1.0,
    ),
    "RadiusCertificate": Headline(
        "radius", "the criterion holds within a radius above 0", "radius {}", grows=True
    ),
    "TopKCertificate": Headline(
        "radius, in units of the inputs",
        "the top cells of the map stay on top within a radius above 0",
        "radius {}",
        grows=True,
    ),
    "MaskCertificate": Headline(
        "radius, in units of the inputs",
        "what the mask keeps has its class within a radius above 0",
        "radius {}",
        grows=True,
    ),
    "DeviationCertificate": Headline(
        "largest move of the attribution (Euclidean distance)",
        "the attribution moves by no more than a finite distance",
        "moves by at most {}",
        below=np.inf,
    ),
    "ReasonCertificate": Headline(
        "features in the smallest sufficient set",
        "some features are proved to be needed or irrelevant",
        "{} features are enough",
    ),
    "SmoothedCertificate": Headline(
        "share of pixels whose answer may change",
        "the answer of some pixels of the smoothed map cannot change within the radius",
        "≤ {} may change",
        below=1.0,
        sampled=True,
    ),
    "CosineCertificate": Headline(
        "largest cosine distance of smoothed maps",
        "the direction of the smoothed map changes by less than a right angle",
        "distance ≤ {}",
        below=1.0,
        sampled=True,
    ),
}
_OTHER = Headline("certified quantity", "something useful is proved", "certified {}")


def headline_of(certificate: Any) -> Headline:
    """The headline of a certificate, by its class."""
    return HEADLINES.get(type(certificate).__name__, _OTHER)


@dataclass(frozen=True)
class Rows:
    """The numbers of all inputs of a run, or of some; N of them.

    Attributes
    ----------
    numbers
        (N,) int: of the inputs.
    failed
        (N,) bool: whether there is an error in the place of a result.
    targets, seconds, certified, attacked, looseness
        (N,) float64, NaN where there is none.
    vacuous, robust
        (N,) bool.
    has_robust
        Whether the certificate says which predictions stay.
    how
        "attacked", or "attained" where a run has no attack and `attacked` is what the certificate
        compares itself with.
    """

    numbers: np.ndarray
    failed: np.ndarray
    targets: np.ndarray
    seconds: np.ndarray
    certified: np.ndarray
    attacked: np.ndarray
    looseness: np.ndarray
    vacuous: np.ndarray
    robust: np.ndarray
    has_robust: bool
    how: str

    @classmethod
    def of(cls, table: pyarrow.Table) -> Rows:
        """The numbers of a table with the columns `input`, `error` and those of `NUMBERS`."""
        numbers, failed = table["input"].to_numpy(), table["error"].is_valid().to_numpy()
        found = {name: _floats(table, name) for name in NUMBERS}
        how = "attained" if np.isnan(found["attacked"]).all() else "attacked"
        return cls(
            numbers=numbers,
            failed=failed,
            targets=found["target"],
            vacuous=found["vacuous"] == 1,
            robust=found["robust"] == 1,
            has_robust="robust" in table.column_names,
            attacked=found[how],
            how=how,
            **{name: found[name] for name in ("seconds", "certified", "looseness")},
        )

    def proved(self, headline: Headline) -> np.ndarray:
        """(N,) bool: of which inputs the headline's claim is proved."""
        if self.has_robust:
            return self.robust
        if headline.grows:
            return self.certified > 0
        known = ~self.failed & ~np.isnan(self.certified)
        if headline.below is None:
            return known & ~self.vacuous
        return self.certified < headline.below

    def better(self, headline: Headline) -> np.ndarray:
        """Places of the inputs that have a number, where most is proved first."""
        known = np.flatnonzero(~np.isnan(self.certified))
        values = -self.certified[known] if headline.grows else self.certified[known]
        return known[np.lexsort((values, ~self.proved(headline)[known]))]


def _floats(table: pyarrow.Table, name: str) -> np.ndarray:
    """A column as float64, NaN where it is null or is not there."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return table[name].cast("float64").to_numpy().astype(np.float64)
