"""Masks in [0, 1]: what they keep of inputs, and of whole regions of inputs.

With the features that a mask m leaves out drawn to a neutral value n, it keeps
``keep(m, x) = n + m (x - n)`` of an input x.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xcertify.regions import Region, as_column


def keep(points: Any, masks: Any, neutral: Any) -> Any:
    """``n + m (x - n)``, of arrays of NumPy or tensors of TensorFlow that fit each other."""
    return neutral + masks * (points - neutral)


def check_masks(masks: Any, inputs: np.ndarray) -> np.ndarray:
    """Masks of the inputs (N, *shape) as float32.

    Raises
    ------
    ValueError
        For another shape than that of the inputs, and values outside [0, 1].
    """
    masks = np.asarray(masks)
    if masks.shape != inputs.shape or masks.dtype.kind not in "fiub":
        raise ValueError(
            f"masks must have one value per feature, the shape {inputs.shape} of the inputs. "
            f"Received: shape {masks.shape} of {masks.dtype}"
        )
    masks = masks.astype(np.float32)
    if not ((masks >= 0) & (masks <= 1)).all():
        raise ValueError(
            f"masks must be within [0, 1]. Received: {masks.min():.4g} to {masks.max():.4g}"
        )
    return masks


def with_order(masks: np.ndarray, pulls: np.ndarray) -> np.ndarray:
    """Masks (N, *shape) whose zeros are told apart by the pulls at them: numbers below 1e-6."""
    axes = tuple(range(1, masks.ndim))
    low, high = (end(pulls, axis=axes, keepdims=True) for end in (np.min, np.max))
    shares = (pulls - low) / np.where(high > low, high - low, 1)
    return np.maximum(masks, np.float32(1e-6) * shares).astype(np.float32)


def kept_region(region: Region, masks: np.ndarray, neutral: np.ndarray) -> Region:
    """What masks keep of every point of a region: its image under ``x -> n + m (x - n)``.

    A box becomes a box, and a ball a ball with the radius ``m epsilon`` along each feature.

    Parameters
    ----------
    region
        N regions in float64.
    masks
        m, (N, *shape) float32 in [0, 1], held.
    neutral
        n, (*shape) float32.

    Guarantee
    ---------
    The image of every point lies in the result: its sides, and the radii of a ball, are widened by
    what float64 rounds on the way.
    """
    masks, neutral = masks.astype(np.float64), neutral.astype(np.float64)
    unit = np.finfo(np.float64).eps
    center, lower, upper = (
        keep(points, masks, neutral) for points in (region.center, region.lower, region.upper)
    )
    # twice as much as needed, for the differences to the center that bounds are made of
    lower = lower - 4 * unit * _size_of_terms(region.lower, masks, neutral)
    upper = upper + 4 * unit * _size_of_terms(region.upper, masks, neutral)
    if region.epsilon is None or np.isinf(region.norm):
        return Region(center, lower, upper)
    # a float32 number times a float32 mask is exact in float64: centers move where n is not 0
    error = 2 * unit * _size_of_terms(region.center, masks, neutral)
    error = np.where(neutral == 0, 0, error)
    epsilon = masks * np.broadcast_to(region.epsilon, center.shape)
    # of a moved center the ball is larger by ``|| error / epsilon ||`` of its radius
    shift = np.divide(error, epsilon, out=np.zeros_like(error), where=epsilon > 0)
    shift = np.linalg.norm(shift.reshape(len(shift), -1), region.norm, axis=1)
    grown = epsilon * (1 + 2 * as_column(shift, epsilon) + 4 * unit)
    return Region(center, lower, upper, grown, region.norm)


def _size_of_terms(points: np.ndarray, masks: np.ndarray, neutral: np.ndarray) -> np.ndarray:
    """``|n| + m (|x| + |n|)``, which roundings of `keep` are proportional to; 0 where m is."""
    size = np.abs(neutral) + masks * (np.abs(points) + np.abs(neutral))
    return np.where(masks > 0, size, 0)
