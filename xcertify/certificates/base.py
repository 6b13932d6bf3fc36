"""What every certificate says beside its numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xcertify.answers import Answers
from xcertify.bounds import Decision
from xcertify.fingerprints import hash_of_weights
from xcertify.radii import Interval
from xcertify.regions import Region, describe_span
from xcertify.usefulness import VACUOUS, times_wider


@dataclass(frozen=True, repr=False)
class Certificate:
    """What every certificate says beside its numbers.

    Attributes
    ----------
    region
        The N regions that it is about, around the inputs: of a radius, the balls of the certified
        radii. ``str(region)`` says it in words.
    method
        How the bounds were computed, a name of `Verifier`.
    arithmetic
        "real": proved for the network in real arithmetic; "float32": for its evaluation in float32
        as well; "decomon": as decomon computes it; "none": nothing is proved. Behind it in
        brackets, where the model computes in half precision: that this is not covered.
    interval
        The headline: of one number of each input, named below, what is proved and what an attack
        found.
    """

    region: Region
    method: str
    arithmetic: str
    interval: Interval

    _is_radius: ClassVar[bool] = False  # the headline, else a largest value

    @property
    def certified(self) -> np.ndarray:
        """(N,): ``interval.certified``."""
        return self.interval.certified

    @property
    def attacked(self) -> np.ndarray | None:
        """(N,): ``interval.attacked``; None without an attack."""
        return self.interval.attacked

    @property
    def looseness(self) -> np.ndarray:
        """(N,) float64: how many times wider what is proved is than what was attained.

        Of a largest value it is the proved change from the value at the input, divided by the
        largest change that samples and an attack attained. Of a radius it is the attacked one
        divided by the proved one. 1: the proof is exact. inf: nothing is proved, or no change at
        all was attained. NaN: nothing was looked for or found that could be compared with.
        """
        return times_wider(*self._changes)

    @property
    def vacuous(self) -> np.ndarray:
        """(N,) bool: where what is proved says nothing, more than 100 times as wide as attained.

        Not where it decides something all the same, such as that a prediction stays. Of a radius:
        where it is 0.
        """
        return self.certified == 0 if self._is_radius else self.looseness > VACUOUS

    def describe_vacuous(self) -> str:
        """Of which inputs nothing useful is proved, in words; "" where that is not worth a word.

        Radii of 0 are, where no input has a larger one.
        """
        nothing = self.vacuous
        if not nothing.any() or (self._is_radius and not nothing.all()):
            return ""
        how = "no radius is proved"
        if not self._is_radius:
            times = float(np.median(self.looseness[nothing]))
            how = f"it is {times:.2g} times (median) as wide as what was attained"
            if np.isinf(times):
                how = "it is wide, and nothing changed in what was looked at"
        return (
            f"what the certificate proves says nothing for {int(nothing.sum())} of "
            f"{len(nothing)} inputs: {how}, by method={self.method!r}"
        )

    @property
    def _changes(self) -> tuple[np.ndarray, ...]:
        """The arguments of `times_wider`: what is proved, what is attained, and roundings."""
        attacked = np.full(len(self.certified), np.nan) if self.attacked is None else self.attacked
        if not self._is_radius:
            return self.certified, attacked
        return np.where(np.isinf(attacked), np.nan, attacked), self.certified

    def to_dict(self) -> dict[str, Any]:
        """All fields and `looseness`, arrays as nested lists, ready for JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: plain(value) for name, value in fields.items()} | {
            "looseness": self.looseness.tolist()
        }

    @property
    def _wider(self) -> str:
        """`looseness` for `repr`, "; 2.1 times what is attained (median)"."""
        known = self.looseness[~np.isnan(self.looseness)]
        if not len(known):
            return ""
        if np.isinf(np.median(known)):
            unproved = not np.isfinite(np.median(self._changes[0]))
            return "; nothing proved" if unproved else "; no change attained"
        return f"; {np.median(known):.3g} times what is attained (median)"

    @property
    def _how(self) -> str:
        """Method and arithmetic, for `repr`."""
        name, *note = self.arithmetic.split(" ", 1)
        return " ".join([f"{self.method}, {name} arithmetic", *note])


def plain(value: Any) -> Any:
    """A field of a certificate as JSON has it."""
    if isinstance(value, (Region, Interval, Decision, Answers)):
        return value.to_dict()
    return value.tolist() if isinstance(value, np.ndarray) else value


def describe_weights(gamma: Any, bias_radius: float | None) -> str:
    """How far weights may move, in words that follow those of a region; "" if they may not.

    Parameters
    ----------
    gamma, bias_radius
        As for `Verifier.bound_gradient`.
    """
    if not (np.any(gamma) or bias_radius):
        return ""
    biases = "" if bias_radius is None else f", biases within {bias_radius:g}"
    return f", weights within {describe_span(gamma)} of their size{biases}"


def fingerprint(model: Any) -> str:
    """SHA-256 of a Keras model's weights: their shapes, types and values, in order.

    Parameters
    ----------
    model
        A built Keras model.
    """
    return hash_of_weights(model)
