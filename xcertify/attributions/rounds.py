"""Scores found in rounds: through which features the class is changed soonest, if others are held.

A map of one pass says of each feature what it adds while all others are free. Here the features
that add least are held, and those that are left are looked at again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from xcertify.grid import cells_of_entries
from xcertify.inputs import in_batches
from xcertify.regions import Box, Region, valid_range

_MOST_ROWS = 16  # other classes that are looked at: the strongest ones at the input
_BLOCK = 2**22  # coefficients that are looked at together, 32 MiB with each of some arrays

Lines = Callable[[Region, np.ndarray, np.ndarray], np.ndarray]


class Steps(NamedTuple):
    """Steps (N, S, D), and where they gain all that was needed, (N, S) bool."""

    steps: np.ndarray
    suffices: np.ndarray


def scores_in_rounds(
    lines: Lines,
    region: Region,
    rows: np.ndarray,
    margins: np.ndarray,
    cells: np.ndarray,
    *,
    clip: tuple[object, object] | None,
    temperature: float,
    nb_rounds: int,
) -> np.ndarray:
    """Scores of the cells, of N inputs.

    Each round has linear functions of the margins and takes, for each of them, the shortest step
    (l2) inside the valid range that changes the class if the function is right, by the cells that
    are left. The part of a cell is its share of what such a step gains. The half of the cells with
    the smallest parts is held from then on, in the last round none; the next linear functions are
    those of the box between the input and the end of the step that is shortest of all.

    Parameters
    ----------
    lines
        Gives coefficients (n, S, *shape) of linear functions, one for each row, from regions
        around n inputs, points (n, *shape) at their far ends and rows (n, S, K).
    region
        Where the first round looks, N regions around the inputs.
    rows
        (N, S, K): the margins ``rows @ logits`` that change the class where they reach 0.
    margins
        (N, S): their values at the inputs.
    cells
        Integers, (H, W), (T, W) or (W,): cell of each feature.
    clip
        Valid range of the inputs, or None.
    temperature
        How the rows count, in logits: as in ``T log sum exp(margin / T)`` at the length of the
        shortest step, with half of T in each further round. 0: the nearest one alone.
    nb_rounds
        At least 1.

    Returns
    -------
    scores
        (N, cells) float64, at least 0. Cells that are held earlier never have a larger score.

    No guarantee
    ------------
    Whatever is proved of the lines, the ranking is a greedy one.
    """
    nb_at_once = max(1, _BLOCK // (min(rows.shape[1], _MOST_ROWS) * region.center[0].size))
    found = [
        _of_some(
            lines,
            region[some],
            *_strongest(rows[some], margins[some]),
            cells,
            clip,
            temperature,
            nb_rounds,
        )
        for some in in_batches(np.arange(len(region)), nb_at_once)
    ]
    return np.concatenate(found)


def _of_some(
    lines: Lines,
    region: Region,
    rows: np.ndarray,
    margins: np.ndarray,
    cells: np.ndarray,
    clip: tuple[object, object] | None,
    temperature: float,
    nb_rounds: int,
) -> np.ndarray:
    """`scores_in_rounds` of inputs for which there is memory."""
    center = region.center
    nb_inputs, nb_cells = len(center), int(cells.max()) + 1
    entries = cells_of_entries(cells, region.shape).reshape(-1)  # (D,)
    low, high = valid_range((-np.inf, np.inf) if clip is None else clip, region.shape, "float64")
    flat = center.reshape(nb_inputs, -1).astype(np.float64)
    below, above = np.minimum(low.reshape(-1) - flat, 0), np.maximum(high.reshape(-1) - flat, 0)

    samples = np.arange(nb_inputs)
    is_left = np.ones((nb_inputs, nb_cells), bool)
    scores, level = np.zeros((nb_inputs, nb_cells)), np.zeros((nb_inputs, 1))
    far = center
    for number in range(nb_rounds):
        free = is_left[:, entries]
        found = lines(region.fix(~free.reshape(center.shape)), far, rows)
        coefficients = found.reshape(*margins.shape, -1).astype(np.float64)
        steps, suffices = shortest_steps(
            coefficients, -margins, np.where(free, below, 0.0), np.where(free, above, 0.0)
        )
        gains = coefficients * steps
        values = _values_at_shortest(steps, suffices, gains, margins)
        weights = _shares(values, temperature / 2**number)
        parts = (weights[..., None] * _normed(gains)).sum(axis=1)
        parts = _sums_by_cell(parts, entries)
        order = np.lexsort((scores, np.where(is_left, parts, -1.0)))
        scores = np.where(is_left, level + parts, scores)

        nb_held = nb_cells - -(-nb_cells // 2 ** (number + 1))
        last = order[:, nb_held - 1 : nb_held]  # the largest of those that are held
        level = np.take_along_axis(scores, last, axis=1)
        is_left[samples[:, None], order[:, :nb_held]] = False
        nearest = steps[samples, values.argmax(axis=1)].reshape(center.shape)
        far = (center + nearest).astype(center.dtype)
        region = Box(np.minimum(center, far), np.maximum(center, far), center)
    return scores


def shortest_steps(
    coefficients: np.ndarray, needed: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Steps:
    """The shortest steps in a box along which linear functions gain what is needed.

    ``min ||d||_2`` with ``a . d >= needed`` and ``low <= d <= high``. It is ``clip(t a)`` for the
    least t that is enough; where none is, the corner of the box with the largest gain.

    Parameters
    ----------
    coefficients
        a, (N, S, D).
    needed
        (N, S); at most 0 is taken for very little.
    low, high
        (N, D), at most and at least 0; may be infinite.
    """
    least = 1e-3 * (1 + np.abs(needed))
    needed = np.maximum(needed, least)[..., None]
    ends = np.where(coefficients > 0, high[:, None], low[:, None])
    ends = np.where(coefficients == 0, 0.0, ends)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        met = np.where(ends == 0, 0.0, ends / coefficients)  # t at which a side is met
        order = met.argsort(axis=-1, kind="stable")
        met = np.take_along_axis(met, order, axis=-1)
        squares = np.where(ends == 0, 0.0, coefficients**2)
        squares = np.take_along_axis(squares, order, axis=-1)
        gained = np.take_along_axis(coefficients * ends, order, axis=-1)
        before = np.zeros_like(gained)  # by those whose sides are met by then
        before[..., 1:] = np.cumsum(gained, axis=-1)[..., :-1]
        rest = np.cumsum(squares[..., ::-1], axis=-1)[..., ::-1]
        enough: np.ndarray = before + np.where(rest > 0, met * rest, 0.0) >= needed
        first = enough.argmax(axis=-1)[..., None]
        before, rest = (np.take_along_axis(a, first, axis=-1) for a in (before, rest))
        suffices = np.any(enough, axis=-1)
        times = np.where(suffices[..., None] & (rest > 0), (needed - before) / rest, np.inf)
        steps = np.where(ends == 0, 0.0, times * coefficients)
    steps = np.where(np.abs(steps) < np.abs(ends), steps, ends)
    return Steps(np.where(np.isfinite(steps), steps, 0.0), suffices)


def _strongest(rows: np.ndarray, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, S, K) and margins (N, S), of many those with the largest margins."""
    if margins.shape[1] <= _MOST_ROWS:
        return rows, margins
    order = np.argsort(-margins, axis=1, kind="stable")[:, :_MOST_ROWS]
    strongest = np.take_along_axis(rows, order[..., None], axis=1)
    return strongest, np.take_along_axis(margins, order, axis=1)


def _values_at_shortest(
    steps: np.ndarray, suffices: np.ndarray, gains: np.ndarray, margins: np.ndarray
) -> np.ndarray:
    """What each margin becomes by as much of its own step as the shortest one is long, (N, S)."""
    lengths = np.sqrt((steps**2).sum(axis=-1))
    shortest = np.where(suffices, lengths, np.inf).min(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        reached = np.where(shortest < lengths, shortest / lengths, 1.0)
    return margins + reached * gains.sum(axis=-1)


def _shares(values: np.ndarray, temperature: float) -> np.ndarray:
    """How much each of values (N, S) counts in ``T log sum exp(values / T)``."""
    behind = values - values.max(axis=1, keepdims=True)
    shares = np.exp(behind / temperature) if temperature else (behind == 0).astype(float)
    return shares / shares.sum(axis=1, keepdims=True)


def _normed(gains: np.ndarray) -> np.ndarray:
    """Gains (N, S, D) as shares of their sums; zeros where there are none."""
    total = gains.sum(axis=-1, keepdims=True)
    return np.divide(gains, total, out=np.zeros_like(gains), where=total > 0)


def _sums_by_cell(values: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Values (N, D) summed over each cell, (N, cells); `cells` (D,) from 0 on without a gap."""
    order = cells.argsort(kind="stable")
    starts = np.searchsorted(cells[order], np.arange(cells.max() + 1))
    return np.add.reduceat(values[:, order], starts, axis=1)
