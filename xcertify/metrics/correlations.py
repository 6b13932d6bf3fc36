"""Correlations of the rows of two arrays."""

from __future__ import annotations

import numpy as np


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value in its row; equal values share the mean of their ranks."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    position = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    differs = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((len(values), 1), bool)
    first = np.maximum.accumulate(np.where(np.hstack([edge, differs]), position, 0), axis=1)
    last = np.minimum.accumulate(
        np.where(np.hstack([differs, edge]), position, values.shape[1])[:, ::-1], axis=1
    )[:, ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2, axis=1)
    return ranks


def row_correlations(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of the rows, (N,), 0 where a row is constant, and where that is so."""
    constant = (np.ptp(first, axis=1) == 0) | (np.ptp(second, axis=1) == 0)
    first, second = (x - x.mean(axis=1, keepdims=True) for x in (first, second))
    product = (first * second).sum(axis=1)
    length = np.sqrt((first**2).sum(axis=1)) * np.sqrt((second**2).sum(axis=1))
    return np.divide(product, length, out=np.zeros(len(first)), where=~constant), constant
