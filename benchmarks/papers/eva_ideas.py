"""What else verified bounds can make a map of, beside EVA as it is: tried on validation images."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import keras
import numpy as np

from papers.eva_methods import CLIP, CONTROL, GRID, _without_seed
from xcertify.attributions import EVA, MarginGradientRange, SufficientReason
from xcertify.attributions.overlaps import Overlap
from xcertify.bounds import Verifier
from xcertify.regions import Ball, Region
from xcertify.targets import margin_rows

EPSILON, TEMPERATURE = 0.02, 2.0  # what validation images chose for `EVA, crown` on dense nets
SAME: dict[str, Any] = {"epsilon": EPSILON, "temperature": TEMPERATURE, "clip": CLIP}
BOUNDED, ATTACKED = "cells bounded, one by one", "cells attacked, one by one"


def ideas(quick: bool) -> dict[str, Any]:
    """Name -> what makes the explainer of a model, for a seed."""

    def eva(**settings: Any) -> Any:
        return partial(_without_seed, EVA, **{**SAME, "batch_size": 64, **settings})

    found = {
        "EVA, crown": eva(),
        CONTROL: partial(_without_seed, MarginGradientRange, **SAME),
        "lower lines": partial(_of_lines, 0.0),
        "mean of upper and lower lines": partial(_of_lines, 0.5),
        "cells of 2x2": eva(grid_size=14),
        "cells of 4x4": eva(grid_size=7),
        BOUNDED: eva(mode="exact", grid_size=GRID),
        "the same by alpha-crown": eva(mode="exact", grid_size=GRID, method="alpha-crown"),
        ATTACKED: partial(
            *(_without_seed, _AttackedCells),
            **SAME | {"mode": "exact", "grid_size": GRID, "batch_size": 2048},
        ),
        "sufficient reason": _reason,
    }
    if quick:
        found = {name: found[name] for name in ("EVA, crown", "lower lines", "cells of 4x4")}
    return found


class _AttackedCells(EVA):
    """Overlaps with each cell held that an attack attains, in the place of bounds.

    The true ones, which `Verifier.decide` closes in on, are between these and those of EVA.
    """

    def _bound(self, region: Region, overlap: Overlap) -> np.ndarray:
        return self._short_attack(self.temperature)(region, overlap)[1]


@dataclasses.dataclass(frozen=True)
class _OfLines:
    """First-order scores as those of the control, by lines over a region instead of a gradient.

    Parameters
    ----------
    verifier
        Whose lines.
    share
        Of the upper lines; the rest is of the lower ones.
    """

    verifier: Verifier
    share: float

    def explain(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """(N, H, W, 1)."""
        region = Ball(images, EPSILON, clip=CLIP)
        rows = np.asarray(margin_rows(classes, self.verifier.nb_outputs), np.float32)
        lines = self.verifier.linear_bounds(region, rows)
        upper, lower = lines.upper_coefficients, lines.lower_coefficients
        coefficients = self.share * upper + (1 - self.share) * lower
        margins = rows @ self.verifier.evaluate(images)[..., None]
        weights = np.exp((margins - margins.max(1, keepdims=True)) / TEMPERATURE)
        weights = (weights / weights.sum(1, keepdims=True)).reshape(*margins.shape[:2], 1, 1, 1)
        slopes = (weights * coefficients).sum(1)
        steps = (slopes * (region.upper - images), slopes * (region.lower - images))
        return np.maximum(*steps).sum(-1, keepdims=True)


def _of_lines(share: float, model: keras.Model, seed: int) -> _OfLines:
    return _OfLines(Verifier(model, "crown", strip_head=True), share)


def _reason(model: keras.Model, seed: int) -> Any:
    """Needed, unknown, irrelevant, and within each by what features contribute to the bound."""
    return SufficientReason(
        model, epsilon=0.05, clip=CLIP, grid_size=GRID, ranked=True, time_limit=2.0, seed=seed
    )
