"""What is found of the inputs of a certificate, to become a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.certificates.origins import as_json
from xcertify.regions import Ball

STATUS = ("confirmed", "refuted", "not checked")

CHECKER = "linear bounds in float64, rounded outward, without the engine"
ENGINE = "bounds of the engine in float64"
DECIDED = "branch and bound of the engine in float64"
METHODS = ("crown", "crown-ibp", "ibp")  # of the checker
# What float32 rounds, in units of 2**-24 of the sizes of all terms: by how much the bounds of the
# engine are above those of the checker (up to 70 seen), and below, where lines differ by roundings.
ABOVE, BELOW, EVALUATED = 300, 2, 16
SECONDS = 60.0  # for each input, on average, of decisions


@dataclass(frozen=True, repr=False)
class Verdict:
    """What was found of the certificates of N inputs.

    Attributes
    ----------
    status
        (N,) of "confirmed": proved again, and all else that is stated is what it should be;
        "refuted": something that is stated is shown to be false; "not checked": neither.
    means
        (N,) words: by what.
    reason
        (N,) words: why not confirmed; "" where it is.
    proved
        (N,) float64: the certificate's headline as it was proved again; NaN where it was not.
    attained
        (N,) float64: what was attained again of it; NaN without an attack.

    Guarantee
    ---------
    Of "confirmed": that of the means. Of a certificate from samples: that its seed gives these
    samples, but for 1 in 100 that roundings may change, that all it says follows from them, and
    that as many independent ones do not contradict it at the level 1e-6. What float32 rounds, at
    most a hundred units in the last place of the terms of a bound, may be between both bounds; a
    prediction that is said to stay is proved to stay. Of "refuted": a point in the region,
    evaluated in float64 with all roundings; of a certificate from samples, other samples at that
    level, or a point of an attack that flips what is certified, at the level of the certificate.
    **No guarantee** that other statements, such as `seconds` or contributions, are as they were.
    """

    status: np.ndarray
    means: np.ndarray
    reason: np.ndarray
    proved: np.ndarray
    attained: np.ndarray

    @property
    def confirmed(self) -> np.ndarray:
        """(N,) bool."""
        return self.status == "confirmed"

    @property
    def refuted(self) -> np.ndarray:
        """(N,) bool."""
        return self.status == "refuted"

    def __len__(self) -> int:
        return len(self.status)

    def __repr__(self) -> str:
        words = ", ".join(f"{int((self.status == word).sum())} {word}" for word in STATUS)
        return f"<Verdict of {len(self)}: {words}>"


class Findings:
    """What is found of N inputs, to become a verdict."""

    def __init__(self, certificate: Any) -> None:
        self.certificate, self.nb = certificate, len(certificate)
        self.means = np.full(self.nb, "", object)
        self.proved, self.attained = np.full(self.nb, np.nan), np.full(self.nb, np.nan)
        self._doubts: list[list[str]] = [[] for _ in range(self.nb)]
        self._refuted: list[list[str]] = [[] for _ in range(self.nb)]

    @property
    def settings(self) -> dict[str, Any]:
        """Of the explainer; with pairs, which JSON has as lists, as it takes them."""
        origin = self.certificate.origin
        found = {} if origin is None else dict(origin.settings)
        if isinstance(found.get("grid_size"), list):
            found["grid_size"] = tuple(found["grid_size"])
        return found

    def explainer(self, kind: type, model: Any) -> Any:
        """The explainer that its origin names, made again; None, with the reason, without one."""
        origin, region = self.certificate.origin, self.certificate.region
        if origin is None or origin.explainer != kind.__name__:
            self.doubt(True, f"its origin is not said to be {kind.__name__}")
        elif origin.in_words:
            self.doubt(True, f"settings are told in words only: {', '.join(origin.in_words)}")
        else:
            try:
                made = kind(model, **self.settings)
            except (TypeError, ValueError) as error:
                self.doubt(True, f"its settings make no {kind.__name__}: {error}")
                return None
            is_same = made.norm == region.norm and as_json(made.clip) == as_json(region.clip)
            self.doubt(not is_same, "its regions are not those of its settings")
            return made
        return None

    def classes(self, nb_outputs: int) -> np.ndarray:
        """The targets (N,), 0 in the place of what is no class of a model of so many outputs."""
        targets = self.certificate.targets
        others = targets >= max(nb_outputs, 2)
        self.doubt(others, "its targets are no classes of the model")
        return np.where(others, 0, targets)

    @property
    def ball(self) -> Ball:
        """The regions as an explainer makes them."""
        region = self.certificate.region
        return Ball(region.center, region.epsilon, region.norm, region.clip)

    def doubt(self, where: Any, reason: str) -> None:
        """Note what is not confirmed, (N,) bool."""
        for sample in map(int, np.flatnonzero(np.broadcast_to(where, self.nb))):
            self._doubts[sample].append(reason)

    def refute(self, where: Any, reason: str) -> None:
        """Note what is shown to be false, (N,) bool."""
        for sample in map(int, np.flatnonzero(np.broadcast_to(where, self.nb))):
            self._refuted[sample].append(reason)

    @property
    def open(self) -> np.ndarray:
        """(N,) bool: where nothing was noted."""
        return np.array([not (a or b) for a, b in zip(self._doubts, self._refuted)], bool)

    def has_its_region(self) -> bool:
        """Whether the regions have the sides that their centers and radii make."""
        region = self.certificate.region
        if region.epsilon is None:
            return True
        again = self.ball
        same = [a == b for a, b in zip((again.lower, again.upper), (region.lower, region.upper))]
        other = ~np.all(same, axis=(0, *range(2, np.ndim(same))))
        self.doubt(other, "the sides of its region are not those of its radius and valid range")
        return bool(not other.all())

    def compare(self, name: str, stated: Any, again: Any, tolerance: Any) -> np.ndarray:
        """Doubt what was evaluated otherwise; where it is the same, (N,) bool."""
        with np.errstate(invalid="ignore"):
            same = (np.abs(np.asarray(stated, float) - again) <= tolerance) | (stated == again)
            same |= np.isnan(np.asarray(stated, float)) & np.isnan(again)
        same = same.reshape(self.nb, -1).all(axis=1)
        self.doubt(~same, f"{name} is not what is found again")
        return same

    def verdict(self) -> Verdict:
        """What was noted."""
        status = np.full(self.nb, "confirmed", object)
        status[[bool(doubts) for doubts in self._doubts]] = "not checked"
        status[[bool(shown) for shown in self._refuted]] = "refuted"
        reasons = ["; ".join(dict.fromkeys(a + b)) for a, b in zip(self._refuted, self._doubts)]
        kinds, means = np.array(status.tolist(), str), np.array(self.means.tolist(), str)
        return Verdict(kinds, means, np.array(reasons, str), self.proved, self.attained)


def by_answers(confirmed: np.ndarray, means: str) -> Verdict:
    """Of certificates that are proved again or not."""
    unknown = np.full(len(confirmed), np.nan)
    status = np.where(confirmed, "confirmed", "not checked")
    reason = np.where(confirmed, "", "it is not proved again")
    return Verdict(status, np.full(len(confirmed), means), reason, unknown, unknown.copy())
