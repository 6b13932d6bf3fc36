"""Perturbation: how far inputs may move, whatever the inputs; a `Ball` without its centre."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.regions import Ball, Norm, as_norm, describe_ball

RADII = ("epsilon", "largest_radius")  # arguments that a perturbation's epsilon can stand for
PARTS = (*RADII, "norm", "clip")


@dataclass(frozen=True, eq=False, repr=False)
class Perturbation:
    """All inputs within a distance of the given ones: ``|| x' - x ||_p <= epsilon``, in a range.

    Everything of this package that has the settings `norm` and `clip`, and perhaps a radius, takes
    a perturbation in their place, by keyword: ``EVA(model, perturbation=perturbation)`` is
    ``EVA(model, epsilon=..., norm=..., clip=...)``, and has it as its attribute `perturbation`.

    Parameters
    ----------
    epsilon
        Radius, as for `Ball`. Of what searches for a radius itself (`CORGI`, `RelEx`), the largest
        one that it looks at; inf (the default) where none is meant, as for `RobustnessSr`.
    norm
        inf (default, also as "inf"), 2 or 1; `AttributionBound` takes all p from 2 on.
    clip
        Valid range of the inputs, (low, high), as for `Ball`; None: anything.

    Raises
    ------
    ValueError
        For an unknown norm here; for anything else where inputs are known.

    Examples
    --------
    >>> perturbation = Perturbation(0.1, clip=(0.0, 1.0))
    >>> EVA(model, perturbation=perturbation).certify(images)
    >>> Verifier(model).bound_outputs(perturbation.around(images))
    >>> perturbation.describe()
    'linf balls of radius 0.1 within (0.0, 1.0)'
    """

    epsilon: Any = math.inf
    norm: Norm = math.inf
    clip: tuple[Any, Any] | None = None

    def __post_init__(self) -> None:
        if not _is_p_norm(self.norm):
            as_norm(self.norm)

    def around(self, inputs: Any) -> Ball:
        """The regions around inputs (N, *shape).

        Raises
        ------
        ValueError
            As `Ball`.
        """
        return Ball(inputs, self.epsilon, self.norm, self.clip)

    def describe(self) -> str:
        """In words: the norm, the radius and the valid range."""
        return describe_ball(self.epsilon, self.norm, self.clip)

    def as_arguments(self, names: Collection[str], what: str) -> dict[str, Any]:
        """What a constructor with arguments of such names is given in its place.

        Parameters
        ----------
        names
            Of all arguments of the constructor.
        what
            Is constructed, for the message.

        Raises
        ------
        ValueError
            If something of this perturbation has no place among the arguments.
        """
        radius = next((name for name in RADII if name in names), "epsilon")
        values: dict[str, Any] = {"norm": self.norm, "clip": self.clip}
        if "norm" not in names and as_norm(self.norm) == math.inf:
            del values["norm"]  # that of what takes no other
        if not (isinstance(self.epsilon, (int, float)) and math.isinf(self.epsilon)):
            values[radius] = self.epsilon
        missing = [name for name in values if name not in names and values[name] is not None]
        if missing:
            raise ValueError(
                f"{what} has no argument {' and no '.join(missing)}, so that this perturbation "
                f"cannot take its place. Received: {self!r}"
            )
        return {name: value for name, value in values.items() if name in names}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Perturbation):
            return NotImplemented
        pairs = zip(self._numbers, other._numbers)
        return (self.clip is None) == (other.clip is None) and all(
            np.array_equal(first, second) for first, second in pairs
        )

    def __hash__(self) -> int:
        return hash(float(as_norm(self.norm)) if self.norm == "inf" else float(self.norm))

    @property
    def _numbers(self) -> list[np.ndarray]:
        """All that two of them may differ in."""
        norm = math.inf if self.norm == "inf" else self.norm
        return [np.asarray(value) for value in (self.epsilon, norm, *(self.clip or ()))]

    def __repr__(self) -> str:
        return f"Perturbation({self.epsilon!r}, norm={self.norm!r}, clip={self.clip!r})"


def _is_p_norm(norm: Any) -> bool:
    """Whether it is a number p of at least 1, which some estimates know."""
    is_number = isinstance(norm, (int, float, np.number)) and not isinstance(norm, bool)
    return is_number and norm >= 1
