"""Likeness: how much two explanations of one input have in common."""

from __future__ import annotations

from typing import Any

import numpy as np

from xcertify.checks import whole_number
from xcertify.metrics.correlations import average_ranks, row_correlations


def rank_correlation(explanations: Any, others: Any) -> np.ndarray:
    """Spearman's rank correlation of two explanations of each input.

    Parameters
    ----------
    explanations, others
        (N, *map), such as those of clean and of attacked inputs. Equal values share the mean of
        their ranks.

    Returns
    -------
    correlations
        (N,) from -1 to 1; 0 where one of the two is constant.

    Raises
    ------
    ValueError
        For shapes that differ, and values that are NaN or infinite.

    Notes
    -----
    That two maps are alike does not say that they are right (Lim et al., section 4.2).

    Examples
    --------
    >>> rank_correlation([[1.0, 2.0, 3.0]], [[10.0, 20.0, 15.0]])
    array([0.5])
    """
    first, second = _pair(explanations, others)
    return row_correlations(average_ranks(first), average_ranks(second))[0]


def top_k_overlap(explanations: Any, others: Any, k: int) -> np.ndarray:
    """Share of the k most important features that two explanations of each input have in common.

    Parameters
    ----------
    explanations, others
        (N, *map). The sign counts; of equal values the first ones count as more important.
    k
        Number of features (the paper: 1000 of 224x224).

    Returns
    -------
    overlaps
        (N,) from 0 to 1.

    Raises
    ------
    ValueError
        For shapes that differ, NaN or infinite values, and a k that is not a number of features.

    Examples
    --------
    >>> top_k_overlap([[1.0, 2.0, 3.0, 0.0]], [[10.0, 20.0, 15.0, 0.0]], k=1)
    array([0.])
    """
    first, second = _pair(explanations, others)
    k = whole_number("k", k, most=first.shape[1])
    top = []
    for maps in (first, second):
        order = np.argsort(-maps, axis=1, kind="stable")[:, :k]
        mask = np.zeros(maps.shape, bool)
        np.put_along_axis(mask, order, True, axis=1)
        top.append(mask)
    return (top[0] & top[1]).sum(axis=1) / k


def _pair(explanations: Any, others: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as (N, features) float64."""
    first, second = np.asarray(explanations), np.asarray(others)
    if first.shape != second.shape or first.ndim < 2:
        raise ValueError(
            f"both explanations must have one shape, (N, *map). "
            f"Received: {first.shape} and {second.shape}"
        )
    first, second = (x.reshape(len(x), -1).astype(np.float64) for x in (first, second))
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError(
            "explanations have NaN or infinite values: see why the explainer gave them"
        )
    return first, second
