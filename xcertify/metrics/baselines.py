"""Baselines: what a feature is replaced with when it is taken away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xcertify.inputs import spread_value

Baseline = float | str | np.ndarray | Callable[[np.ndarray], Any]

# of RISE (Petsiuk et al., BMVC 2018), which starts its insertion curve from a blurred image
_BLUR_SIZE, _BLUR_SIGMA = 11, 5.0


def baseline_values(baseline: Baseline, inputs: np.ndarray, seed: int = 0) -> np.ndarray:
    """The values that replace the features of every input.

    A score with a black baseline cannot see that a black pixel matters, and every other baseline
    has a blind spot of its own: report more than one.

    Parameters
    ----------
    baseline
        - a number: every feature takes it;
        - an array: one value per channel or variable, (C,), one baseline for all inputs, (*shape),
          or one for each, (N, *shape);
        - a callable: inputs (N, *shape) -> one of the above;
        - "random": one random baseline for all inputs, uniform between the smallest and the
          largest value that `inputs` hold: per channel for images, per variable for time series
          and tabular data;
        - "blur": each image blurred (Gaussian, 11 pixels, sigma 5, as RISE), each time series
          along its time, the border continued;
        - "mean": the mean of each image per channel, of each time series per variable, and of
          each variable of tabular data over all inputs.
    inputs
        (N, H, W, C), (N, T, W) or (N, W).
    seed
        Of "random".

    Returns
    -------
    values
        (N, *shape) float32.

    Raises
    ------
    ValueError
        For anything else, values that are NaN or infinite, and "random" or "blur" where the
        inputs do not allow it.
    """
    if isinstance(baseline, str):
        if baseline not in _NAMED:
            raise ValueError(
                f"baseline_mode must be a number, an array, a callable or one of "
                f"{sorted(_NAMED)}. Received: {baseline!r}"
            )
        return spread_value("baseline_mode", _NAMED[baseline](inputs, seed), inputs.shape)
    values = baseline(inputs) if callable(baseline) else baseline
    return spread_value("baseline_mode", values, inputs.shape)


def _random(inputs: np.ndarray, seed: int) -> np.ndarray:
    axes = tuple(range(inputs.ndim - 1))
    low, high = inputs.min(axis=axes), inputs.max(axis=axes)
    if np.array_equal(low, high):
        raise ValueError(
            "baseline_mode='random' draws from the range of the inputs, and here it is a single "
            "value: give more inputs, or an array of random values"
        )
    share = np.random.default_rng(seed).random(inputs.shape[1:])
    return low + share * (high - low)


def _blur(inputs: np.ndarray, seed: int) -> np.ndarray:
    if inputs.ndim == 2:
        raise ValueError(
            "baseline_mode='blur' needs images or time series: tabular data has no neighbours. "
            "Use 'mean'"
        )
    offsets = np.arange(_BLUR_SIZE) - _BLUR_SIZE // 2
    weights = np.exp(-0.5 * (offsets / _BLUR_SIGMA) ** 2)
    weights /= weights.sum()
    for axis in range(1, inputs.ndim - 1):
        size = inputs.shape[axis]
        inputs = sum(
            weight * np.take(inputs, np.clip(np.arange(size) + offset, 0, size - 1), axis)
            for weight, offset in zip(weights, offsets)
        )
    return inputs


def _mean(inputs: np.ndarray, seed: int) -> np.ndarray:
    axes = tuple(range(1, inputs.ndim - 1)) or 0
    return np.broadcast_to(inputs.mean(axis=axes, keepdims=True), inputs.shape)


_NAMED = {"random": _random, "blur": _blur, "mean": _mean}
