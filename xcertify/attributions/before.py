"""Whether bounds of a large network say anything, found out before an explainer works with them.

Of a large network (`Verifier.is_large`) bounds take minutes, and are mostly far wider than anything
that is attained. One margin of one input takes seconds and shows it: what an explainer is about to
bound depends on the same intervals.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from xcertify.attributions.attained import ShortAttack
from xcertify.attributions.overlaps import Overlap
from xcertify.attributions.useful_overlaps import times_as_far
from xcertify.bounds import Verifier
from xcertify.models import as_rows
from xcertify.radii import second_classes
from xcertify.regions import Ball, Region
from xcertify.usefulness import VACUOUS

_METHODS = ("ibp", "crown-ibp")
_USEFUL = VACUOUS / 10  # times as far as attained
_HOPELESS = 1e4 * VACUOUS  # of intervals: beyond, lines between them are not tried
_WIDER = 10.0  # times the radius, at which bounds are to be at least twice as far


def says_nothing(
    verifier_of: Callable[[str], Verifier],
    logits_at: Callable[[tf.Tensor], tf.Tensor],
    region: Region,
) -> str:
    """Why bounds over regions say nothing, in words; "" where they may say something.

    Of the first region the margin of the largest output at its center against the next one is
    bounded, and attacked. Bounds say nothing where they are more than 100 times as far from the
    value at the center as the attack gets; and from 10 times on where they hardly depend on the
    radius, as of functions such as ReLU6 that are known to stay between their ends and no more.

    Parameters
    ----------
    verifier_of
        Gives a verifier of the logits by the name of a method.
    logits_at
        The same logits, (B, *shape) -> (B, K).
    region
        N regions, of which the first one is looked at.

    No guarantee
    ------------
    Bounds of other inputs, or of other outputs, may say more.
    """
    if not isinstance(region, Ball):
        return ""
    region = region[:1]
    logits = as_rows(verifier_of("ibp").evaluate(region.center))
    classes = logits.argmax(axis=1) if logits.shape[1] > 1 else (logits[:, 0] > 0).astype(int)
    alternatives = second_classes(logits, classes) if logits.shape[1] > 1 else 1 - classes
    overlap = Overlap("margin", classes, alternatives)
    rows = overlap.rows(logits.shape[1])
    reached = ShortAttack(lambda points: _rows(logits_at(points)), 0.0, 1)(region, overlap)
    nominal, _ = reached

    def bound(method: str, within: Region) -> np.ndarray:
        return overlap.of_sides(rows, *verifier_of(method).bound_rows(within, rows))

    radius = float(np.max(np.asarray(region.epsilon)))
    for method in _METHODS:
        full = bound(method, region)
        times = float(times_as_far(full, *reached)[0])
        if np.isinf(full[0]):
            return f"within radius {radius:.2g} of the first input, numbers overflow on the way"
        if times <= _USEFUL:
            return ""
        how = f"{times:.2g} times as far from its value as an attack gets"
        if times > _HOPELESS:
            break
        if times <= VACUOUS:
            radii = _WIDER * np.asarray(region.epsilon)
            wider = bound("ibp", Ball(region.center, radii, region.norm))
            if (wider - nominal > 2 * (full - nominal))[0]:
                return ""
            how += f", hardly nearer than within {_WIDER:g} times the radius"
    return (
        f"within radius {radius:.2g} of the first input, {method!r} bounds the margin of its two "
        f"largest outputs {how}"
    )


def _rows(outputs: tf.Tensor) -> tf.Tensor:
    """Outputs (B, ...) as (B, K)."""
    return tf.reshape(outputs, (tf.shape(outputs)[0], np.prod(outputs.shape[1:], dtype=int)))
