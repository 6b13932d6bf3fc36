"""The valid range of inputs, where only they themselves say it: the rule of ``clip="auto"``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np


def data_range(inputs: Any) -> tuple[Any, Any]:
    """The valid range that data seem to have, for `clip`.

    - (0, 1), if all values are inside;
    - else (-1, 1), if all are inside;
    - else (0, 255), for images (N, H, W, C) with all values inside;
    - else from the smallest to the largest value of each channel, variable or column.

    Parameters
    ----------
    inputs
        (N, *shape), of as many samples as there are: the more, the better the last rule does.

    Returns
    -------
    low, high
        Numbers, or arrays (C,) of the last axis of the inputs.

    Raises
    ------
    ValueError
        If inputs are empty, not finite, or all the same, so that they say nothing of a range.

    Examples
    --------
    >>> data_range(np.array([[-0.5, 0.2], [0.1, 0.9]]))
    (-1.0, 1.0)
    >>> EVA(model, clip=data_range(training_inputs))
    """
    inputs = np.asarray(inputs)
    if inputs.ndim < 2 or not inputs.size or not np.isfinite(inputs).all():
        raise ValueError(
            f"inputs must be finite numbers (N, *shape) to say what range they have. "
            f"Received: shape {inputs.shape}"
        )
    least, most = float(inputs.min()), float(inputs.max())
    known = [(0.0, 1.0), (-1.0, 1.0)] + [(0.0, 255.0)] * (inputs.ndim == 4)
    for low, high in known:
        if low <= least and most <= high:
            return low, high
    axes = tuple(range(inputs.ndim - 1))
    lows, highs = inputs.min(axis=axes), inputs.max(axis=axes)
    if (lows == highs).all():
        raise ValueError(
            f"inputs have one value only in each channel or column, which says nothing of the "
            f"range that is valid: give clip=(low, high). Received: {len(inputs)} of shape "
            f"{inputs.shape[1:]}"
        )
    return lows, highs


def range_for(clip: Any, inputs: np.ndarray, *, warns: int | None = 3) -> Any:
    """`clip` as it was given; for "auto" that of `data_range`, with a warning unless it is (0, 1).

    `warns` is the `stacklevel` of the warning, 3 for whoever called what calls this; None: none.
    """
    if not isinstance(clip, str) or clip != "auto":
        return clip
    found = data_range(inputs)
    if warns is not None and (np.ndim(found[0]) or found != (0.0, 1.0)):
        low, high = (
            np.array2string(side, precision=4, threshold=6) if np.ndim(side) else f"{side:g}"
            for side in found
        )
        warnings.warn(
            f"clip='auto' took the valid range ({low}, {high}) from the inputs: features move "
            f"within it. If that is not the range that they may have, give clip=(low, high)",
            UserWarning,
            stacklevel=warns,
        )
    return found
