"""Perturbation: how far inputs may move, whatever the inputs; a `Ball` without its centre."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.regions import Ball, Norm, as_norm, describe_ball, valid_range

__all__ = ["Perturbation"]

RADII = (
    "epsilon",
    "radius",
    "largest_radius",
)  # arguments that a perturbation's epsilon can stand for
PARTS = (*RADII, "norm", "clip", "outside")
OF_REGIONS = {"norm", "clip"}  # without any of them a radius is of something else
OUTSIDE = ("error", "clip")


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
    outside
        What becomes of inputs outside `clip`: "error" (default), a ValueError; or "clip": they are
        cut to it first, so that all that follows (maps, regions, certificates) is about the cut
        inputs, which stand in ``certificate.region.center``.

    Raises
    ------
    ValueError
        For an unknown norm or `outside` here; for anything else where inputs are known.

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
    outside: str = "error"

    def __post_init__(self) -> None:
        if not _is_p_norm(self.norm):
            as_norm(self.norm)
        as_outside(self.outside)

    def inside(self, inputs: Any) -> Any:
        """Inputs (N, *shape) within the valid range: as they are, or cut to it (see `outside`).

        Raises
        ------
        ValueError
            With ``outside="error"`` for inputs outside of it; the first such sample is named.
        """
        if self.clip is None or isinstance(self.clip, str):  # which is the range of the inputs
            return inputs
        inputs = np.asarray(inputs)
        inputs = inputs if inputs.dtype == np.float64 else inputs.astype(np.float32, copy=False)
        low, high = valid_range(self.clip, inputs.shape, inputs.dtype)
        if self.outside == "clip":
            return np.clip(inputs, low, high)
        leaves = (inputs < low) | (inputs > high)
        if leaves.any():
            sample = int(np.argwhere(leaves)[0, 0])
            raise ValueError(
                f"inputs leave the valid range clip={self.clip!r} in sample {sample} "
                f"({int(leaves[sample].sum())} features): scale them, give the range that they "
                f"really have, or outside='clip' to cut them to it first. "
                f"Received: {inputs[leaves][0]}"
            )
        return inputs

    def around(self, inputs: Any) -> Ball:
        """The regions around inputs (N, *shape).

        Raises
        ------
        ValueError
            As `inside` and `Ball`.
        """
        return Ball(self.inside(inputs), self.epsilon, self.norm, self.clip)

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
        of_regions = not OF_REGIONS.isdisjoint(names)
        radius = next((name for name in RADII if of_regions and name in names), "epsilon")
        values: dict[str, Any] = {"norm": self.norm, "clip": self.clip}
        if "norm" not in names and as_norm(self.norm) == math.inf:
            del values["norm"]  # that of what takes no other
        if self.outside != "error" or "outside" in names:
            values["outside"] = self.outside
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
        words = [(one.clip is None, one.outside) for one in (self, other)]
        return words[0] == words[1] and all(np.array_equal(*pair) for pair in pairs)

    def __hash__(self) -> int:
        return hash(float(as_norm(self.norm)) if self.norm == "inf" else float(self.norm))

    @property
    def _numbers(self) -> list[np.ndarray]:
        """All that two of them may differ in."""
        norm = math.inf if self.norm == "inf" else self.norm
        return [
            np.asarray(value)
            for value in (self.epsilon, norm, *(() if self.clip is None else self.clip))
        ]

    def __repr__(self) -> str:
        outside = "" if self.outside == "error" else f", outside={self.outside!r}"
        return f"Perturbation({self.epsilon!r}, norm={self.norm!r}, clip={self.clip!r}{outside})"


def as_outside(outside: str) -> str:
    """What becomes of inputs outside of the valid range, if it is one of `OUTSIDE`.

    Raises
    ------
    ValueError
        For anything else.
    """
    if outside not in OUTSIDE:
        raise ValueError(
            f"outside must be 'error', a ValueError for inputs outside of clip, or 'clip', to cut "
            f"them to it first. Received: {outside!r}"
        )
    return outside


def _is_p_norm(norm: Any) -> bool:
    """Whether it is a number p of at least 1, which some estimates know."""
    is_number = isinstance(norm, (int, float, np.number)) and not isinstance(norm, bool)
    return is_number and norm >= 1
