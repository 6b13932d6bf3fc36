"""The nearest input of which a mask keeps another class, as a search of `MinimalPerturbation`.

A mask goes beside its input, (B, ..., C) and (B, ..., C) as (B, ..., 2C), in features that are
held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.attacks.minimal import MinimalPerturbation
from xcertify.bounds import Verifier
from xcertify.masks import keep, kept_region
from xcertify.regions import Ball, Box, Region

Logits = Callable[[tf.Tensor], tf.Tensor]


def beside_masks(region: Region, masks: np.ndarray) -> Box:
    """The boxes of N regions with masks (N, *shape) beside them, held: (N, ..., 2C)."""
    sides = region.lower, region.upper, region.center
    return Box(*(np.concatenate([side, masks], axis=-1) for side in sides))


def attack_on_kept(
    logits: Logits, verifier: Verifier, neutral: np.ndarray, **settings: Any
) -> MinimalPerturbation:
    """The search for the nearest inputs of which masks keep another class.

    It is called with regions `beside_masks`, and classes.

    Parameters
    ----------
    logits, verifier, neutral
        As for `KeptLogits`.
    settings
        Of `MinimalPerturbation`.

    Guarantee
    ---------
    Of what is found, a mask keeps another class in real arithmetic, too.
    """
    kept = KeptLogits(logits, verifier, neutral)
    return MinimalPerturbation(kept, exact=kept.exact, **settings)


class KeptLogits:
    """Logits of what masks keep, of inputs that have their masks beside them.

    Parameters
    ----------
    logits
        Of the model, (B, ..., C) -> (B, K), of TensorFlow.
    verifier
        Of the same logits, in float64.
    neutral
        n, (..., C) float32: what masked-out features become.
    """

    def __init__(self, logits: Logits, verifier: Verifier, neutral: np.ndarray) -> None:
        self._logits, self._verifier, self._neutral = logits, verifier, neutral

    def __call__(self, stacked: tf.Tensor) -> tf.Tensor:
        """Logits (B, K) of points with masks beside them, (B, ..., 2C)."""
        points, masks = tf.split(stacked, 2, axis=-1)
        return self._logits(keep(points, masks, self._neutral))

    def exact(self, stacked: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sides (B, S) of rows (B, S, K) of these logits in real arithmetic."""
        points, masks = np.split(stacked, 2, axis=-1)
        point_regions = Ball(points.astype(np.float64), 0.0)
        return self._verifier.bound_rows(kept_region(point_regions, masks, self._neutral), rows)
