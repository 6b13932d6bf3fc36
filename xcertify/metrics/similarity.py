"""Similarity of the maps that an explainer gives before and after something was randomised."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from xcertify.metrics.correlations import average_ranks, row_correlations

_WINDOW = 11  # of SSIM, in pixels


def spearman(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank correlations (N,) of maps (N, *map), 0 where one is constant, and where that is so."""
    rows = (average_ranks(_one_channel(maps).reshape(len(maps), -1)) for maps in (first, second))
    return row_correlations(*rows)


def absolute_spearman(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of the magnitudes of the maps."""
    return spearman(np.abs(_one_channel(first)), np.abs(_one_channel(second)))


def ssim(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Structural similarities (N,) of maps (N, H, W) or (N, H, W, C), and where both are constant.

    Wang et al., 2004: a Gaussian window of 11 pixels, or of the largest odd number that fits, and
    as range of the values that of both maps, as in Xplique. 1 where both are one constant.

    Raises
    ------
    ValueError
        For maps that are no images.
    """
    if first.ndim not in (3, 4):
        raise ValueError(
            f"similarity='ssim' is of maps of images, (N, H, W) or (N, H, W, C). "
            f"Received: maps of shape {first.shape}"
        )
    pair = np.stack([first, second])
    pair = pair[..., None] if first.ndim == 3 else pair
    axes = (0, 2, 3, 4)
    span = pair.max(axis=axes) - pair.min(axis=axes)  # (N,)
    scale = np.where(span > 0, span, 1.0)[:, None, None, None]
    size = min(_WINDOW, *pair.shape[2:4])
    images = [tf.constant(maps / scale, tf.float32) for maps in pair]
    found = tf.image.ssim(*images, max_val=1.0, filter_size=size - 1 + size % 2)
    return np.where(span > 0, found.numpy().astype(np.float64), 1.0), span == 0


SIMILARITIES: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "spearman": spearman,
    "absolute spearman": absolute_spearman,
    "ssim": ssim,
}


def check_similarity(similarity: str) -> None:
    """A ValueError for an unknown one."""
    if similarity not in SIMILARITIES:
        raise ValueError(
            f"similarity must be one of {', '.join(map(repr, SIMILARITIES))}. "
            f"Received: {similarity!r}"
        )


def _one_channel(maps: np.ndarray) -> np.ndarray:
    """Maps of images with the mean of their channels."""
    return maps.mean(axis=-1) if maps.ndim == 4 else maps
