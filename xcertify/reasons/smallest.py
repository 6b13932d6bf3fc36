"""How small a sufficient set can be: what the witnesses leave at least.

A witness is an input of the region with another answer. A sufficient set holds some group in which
the witness differs from the input, since otherwise the witness would be free to come true. So it
hits what every witness changes, and has at least as many groups as the smallest set that does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_MOST_ROWS = 4096  # the smallest ones are looked at; fewer rows ask for no more members
_NB_STEPS = (50, 100, 200, 400, 800)  # of the linear program, when both of its sides are compared
_ONE = 2**30  # weights are whole multiples of 1 / _ONE: sums of millions of them are exact


def least_size(changed: np.ndarray) -> int:
    """A lower bound of the size of any set that hits all of M sets.

    Parameters
    ----------
    changed
        (M, G) bool: the groups in which each witness differs from the input.

    Returns
    -------
    size
        0 without witnesses.

    Raises
    ------
    ValueError
        For a witness that changes nothing, which no set hits, and another shape or type.

    Guarantee
    ---------
    No set of groups with fewer members has one in common with every row. Sets that have no group in
    common need a member each; and weights of rows need as many members as their sum, if no group
    has rows of more than 1 in all. Both are counted in whole numbers: nothing is rounded.
    **No guarantee** that so few members are enough.
    """
    changed = np.asarray(changed)
    if changed.dtype != bool or changed.ndim != 2:
        raise ValueError(
            f"changed must be boolean, (M, G). Received: {changed.dtype} of shape {changed.shape}"
        )
    if not changed.any(axis=1).all():
        raise ValueError(
            f"a witness must change something. Received: nothing in row "
            f"{int(np.argmin(changed.any(axis=1)))}"
        )
    smallest = np.argsort(changed.sum(axis=1), kind="stable")[:_MOST_ROWS]
    nb_forced, rest = _reduced(changed[smallest])
    return nb_forced + sum(max(_disjoint(part), _weighed(part)) for part in _parts(rest))


def _reduced(rows: np.ndarray) -> tuple[int, np.ndarray]:
    """How many groups are needed for certain, and the rows that are left to be hit.

    A row that holds another one is hit with it. A group whose rows are all in another group, too,
    can be exchanged for that one. A row of a single group needs it.
    """
    nb_forced, size = 0, -1
    while rows.size != size:
        size = rows.size
        rows = _not_within(_least_rows(rows).T).T
        is_single = rows.sum(axis=1) == 1
        nb_forced += len(np.unique(rows[is_single], axis=0))
        hit = rows[is_single].any(axis=0)
        rows = rows[~rows[:, hit].any(axis=1)]
    return nb_forced, rows


def _least_rows(rows: np.ndarray) -> np.ndarray:
    """Rows that hold no other row."""
    rows = np.unique(rows, axis=0)
    common = _common(rows)
    sizes = rows.sum(axis=1)
    holds = common == sizes  # [i, j]: row i holds row j
    np.fill_diagonal(holds, False)
    return rows[~holds.any(axis=1)]


def _not_within(rows: np.ndarray) -> np.ndarray:
    """Rows that are not part of another row."""
    rows = np.unique(rows, axis=0)
    within = _common(rows) == rows.sum(axis=1)[:, None]  # [i, j]: row i is within row j
    np.fill_diagonal(within, False)
    return rows[~within.any(axis=1) & rows.any(axis=1)]


def _common(rows: np.ndarray) -> np.ndarray:
    """(M, M): how many members two rows have in common; exact below 2^24."""
    floats = rows.astype(np.float32)
    return floats @ floats.T


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows that have to do with each other, be it over others."""
    touch = _common(rows) > 0
    labels, before = np.arange(len(rows)), np.full(len(rows), -1)
    while (labels != before).any():
        before = labels
        labels = np.where(touch, labels, len(rows)).min(axis=1, initial=len(rows))
    for label in np.unique(labels):
        part = rows[labels == label]
        yield part[:, part.any(axis=0)]


def _disjoint(rows: np.ndarray) -> int:
    """How many rows without a common member were found: always one that meets the fewest."""
    touch = _common(rows) > 0
    left, nb_found = np.ones(len(rows), bool), 0
    while left.any():
        nb_met = np.where(left, touch[:, left].sum(axis=1), len(rows) + 1)
        left &= ~touch[np.argmin(nb_met)]
        nb_found += 1
    return nb_found


def _weighed(rows: np.ndarray) -> int:
    """The largest sum of weights of rows that was found, no group having more than 1; rounded up.

    A linear program, and its dual: weights of groups, every row having at least 1. Both are sought
    by the primal-dual hybrid gradient method, with Pock and Chambolle's steps (2011), until they
    meet or the steps are used up.
    """
    matrix = rows.astype(np.float32)
    row_step, group_step = 1 / matrix.sum(axis=1), 1 / matrix.sum(axis=0)
    weights, prices = row_step.copy(), group_step.copy()
    best, total_weights, total_prices = 1, np.zeros_like(weights), np.zeros_like(prices)
    for step in range(1, _NB_STEPS[-1] + 1):
        before = weights
        weights = np.maximum(weights + row_step * (1 - matrix @ prices), 0)
        ahead = 2 * weights - before
        prices = np.maximum(prices + group_step * (ahead @ matrix - 1), 0)
        total_weights, total_prices = total_weights + weights, total_prices + prices
        if step in _NB_STEPS:
            best = max(best, _whole(weights, rows), _whole(total_weights, rows))
            least = min(_spent(prices, matrix), _spent(total_prices, matrix))
            if best >= np.ceil(least * (1 - 1e-5)):
                break
    return best


def _whole(weights: np.ndarray, rows: np.ndarray) -> int:
    """The sum of weights (M,), made such that no group has more than 1, rounded up.

    Each weight is divided by the largest load of the groups in its row. All numbers are whole, and
    far below 2^53, so that float64 adds them exactly.
    """
    matrix = rows.astype(np.float64)
    whole = np.floor(weights / max(weights.max(), 1e-30) * 2**20)
    largest = np.where(rows, whole @ matrix, 0).max(axis=1)
    whole = (whole.astype(np.int64) * _ONE) // np.maximum(largest.astype(np.int64), 1)
    room = _ONE - (whole.astype(np.float64) @ matrix).astype(np.int64)
    for number in np.argsort(rows.sum(axis=1)):  # what is left in all groups of a row
        left = room[rows[number]].min()
        whole[number] += left
        room[rows[number]] -= left
    if room.min() < 0:
        raise AssertionError("weights of rows add up to more than 1 in a group")
    return -(-int(whole.sum()) // _ONE)


def _spent(prices: np.ndarray, matrix: np.ndarray) -> float:
    """The sum of prices (G,), made such that every row has at least 1; not rounded safely."""
    cover = matrix @ prices
    least = np.where(matrix > 0, cover[:, None], np.inf).min(axis=0)
    return float((prices / np.maximum(least, 1e-30)).sum())
