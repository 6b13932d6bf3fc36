"""How far inputs may move without another class of what their masks keep: radii that are proved."""

from __future__ import annotations

from typing import Any

import numpy as np

from xcertify.bounds import Verifier, decided_radii
from xcertify.masks import kept_region
from xcertify.radii import class_radii_so_far
from xcertify.regions import Ball, Region, valid_range


def proved_radii(
    verifier: Verifier,
    region: Region,
    masks: np.ndarray,
    neutral: np.ndarray,
    classes: np.ndarray,
    ends: np.ndarray,
    nb_halvings: int,
    decisions: dict[str, Any] | None = None,
) -> np.ndarray:
    """Largest radii, of those tested, within which the class of what a mask keeps is proved.

    Parameters
    ----------
    verifier
        Of the logits.
    region
        Balls around N inputs, of the norm and valid range that are looked at.
    masks
        m, (N, *shape) float32, held.
    neutral
        n, (*shape) float32.
    classes
        (N,) int.
    ends
        (N,): the largest radius that is tested.
    nb_halvings
        Radii are exact to the end divided by two to this power.
    decisions
        Settings of `decided_radii`, by which decisions go on where bounds end; None: without.

    Returns
    -------
    radii
        (N,) float64, 0 where none was proved.

    Guarantee
    ---------
    That of the verifier, for all ``n + m (x' - n)`` with x' in the ball of the radius.
    """
    clip = region.clip
    if clip is not None:  # up to where attacks go, in float32
        clip = valid_range(clip, region.shape, np.float32)
    inputs = Ball(region.center.astype(np.float64), 0.0, region.norm, clip)

    def region_at(some: np.ndarray, radii: np.ndarray) -> Region:
        return kept_region(inputs[some].resized(radii), masks[some], neutral)

    if decisions is not None:
        return decided_radii(verifier, region_at, classes, ends, nb_halvings, **decisions).certified
    *_, held = class_radii_so_far(verifier, region_at, classes, ends, nb_halvings)
    return held
