"""In which order groups of features are freed, by what an explainer or a map says of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from xcertify.reasons.features import Features


def order_of(maps: Any, features: Features) -> np.ndarray:
    """Groups in the order in which they are freed, the least important first, (N, G) int.

    Parameters
    ----------
    maps
        Importance of the features: (*features) for all inputs or (N, *features), for images with a
        last axis of length 1 or without. A group is as important as its largest feature.
    features
        The groups of N inputs; numbers of groups that an input does not have come last.

    Raises
    ------
    ValueError
        For maps of another shape, and values that are NaN or no numbers.
    """
    shape = features.labels.shape
    maps = np.asarray(maps)
    if maps.dtype.kind not in "fiub":
        raise ValueError(f"order must be an explainer or a map of numbers. Received: {maps.dtype}")
    is_image = len(features.shape) == 3 and maps.shape in ((*shape, 1), (*shape[1:], 1))
    maps = maps[..., 0] if is_image else maps
    if maps.shape not in (shape, shape[1:]):
        raise ValueError(
            f"order must be an explainer, or a map of the features, {shape[1:]}, or one for each "
            f"input, {shape}. Received: shape {maps.shape}"
        )
    if np.isnan(maps).any():
        raise ValueError("order must be a map without NaN. Received: NaN")
    maps = np.broadcast_to(maps, shape).astype(np.float64)
    largest = np.full(features.keys.shape, -np.inf)
    samples = np.arange(len(features)).reshape(-1, *[1] * (len(shape) - 1))
    np.maximum.at(largest, (samples, features.places), maps)
    order = np.argsort(largest, axis=1, kind="stable")
    missing = np.take_along_axis(~features.valid, order, axis=1)
    return np.take_along_axis(order, np.argsort(missing, axis=1, kind="stable"), axis=1)
