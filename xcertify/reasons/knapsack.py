"""Knapsack: as many groups of features as linear bounds allow to be free at the same time.

A line under an output row, ``bias + coefficients . (x - center)``, holds on all parts of the region
that it was made for. Freeing group g lowers it by at most its cost. So a set of groups is proved to
be irrelevant where for every row the costs add up to less than the room, ``bias - limit``. As many
groups as possible is a knapsack problem with one constraint a row (FAME, Boumazouza et al., 2026).
Its Lagrangian has a price for each row, and frees the groups that are cheap at these prices.
"""

from __future__ import annotations

import math

import numpy as np

from xcertify.bounds import LinearBounds
from xcertify.reasons.features import Features
from xcertify.regions import Region
from xcertify.words import Words

_NB_TURNS, _RATE = 12, 3.0  # of the prices
_SLACK = 1e-9  # relative, for sums in float64


def costs_and_room(
    lines: LinearBounds, region: Region, features: Features, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What each group costs if it is freed, and how much may be spent, for each row.

    Parameters
    ----------
    lines
        Of S rows, on parts of the regions.
    region
        M whole regions, in which groups are freed.
    features
        The groups.
    limits
        (M, S): rows have to stay above them.

    Returns
    -------
    costs, room
        (M, S, G) and (M, S) float64. For l2 balls they are squares; of l1 balls, where only the
        largest counts, costs are 0 or inf.
    """
    coefficients = lines.lower_coefficients.astype(np.float64)
    center = region.center.astype(np.float64)
    above, below = (region.upper - center)[:, None], (region.lower - center)[:, None]
    room = lines.lower_bias - limits
    if isinstance(region, Words):  # whole positions are freed: the first entry stands for all
        costs = np.zeros(coefficients.shape)
        costs[..., 0] = region.gains(-coefficients)
        return _sums(features, costs), room
    if math.isinf(region.norm):
        costs = np.maximum(-coefficients * above, -coefficients * below)
        return _sums(features, costs), room
    moves = np.where(coefficients > 0, -below, above) > 0
    radius = np.broadcast_to(np.asarray(region.epsilon, np.float64), center.shape)
    scaled = np.where(moves, np.abs(coefficients) * radius[:, None], 0.0)
    if region.norm == 2:
        return _sums(features, scaled**2), np.sign(room) * room**2
    too_large = scaled >= room.reshape(*room.shape, *[1] * len(region.shape))
    return np.where(_sums(features, too_large) > 0, np.inf, 0.0), room


def _sums(features: Features, values: np.ndarray) -> np.ndarray:
    """Sums (M, S, G) of values (M, S, *input) over groups."""
    nb_rows = values.shape[1]
    each = features[np.repeat(np.arange(len(values)), nb_rows)]
    return each.sums(values.reshape(-1, *values.shape[2:])).reshape(len(values), nb_rows, -1)


def largest_sets(
    costs: np.ndarray,
    room: np.ndarray,
    allowed: np.ndarray,
    prices: np.ndarray,
    order: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Large sets of groups whose costs fit the room of every row.

    Parameters
    ----------
    costs, room
        (M, S, G) and (M, S).
    allowed
        (M, G) bool: which groups may be chosen.
    prices
        (M, S) of the rows to begin with, their sum is 1.
    order
        (M, G): groups are chosen in this order. None: by their costs at the best prices.

    Returns
    -------
    chosen
        (M, G) bool; none where some row has no room.
    prices
        (M, S): those that it was chosen with.
    """
    has_room = np.all(room > 0, axis=1, keepdims=True)
    shares = costs / np.where(room > 0, room * (1 - _SLACK), 1.0)[..., None]
    chosen, best, best_prices = np.zeros(allowed.shape, bool), np.full(len(room), -1), prices
    for turn in range(1 if order is not None else _NB_TURNS):
        tried, spent = _prefix(shares, allowed, order if order is not None else _by(shares, prices))
        size = tried.sum(axis=1)
        better = size > best
        chosen, best = np.where(better[:, None], tried, chosen), np.maximum(size, best)
        best_prices = np.where(better[:, None], prices, best_prices)
        prices = prices * np.exp(_RATE / math.sqrt(1 + turn) * np.minimum(spent, 1.0))
        prices /= prices.sum(axis=1, keepdims=True)
    return chosen & has_room, best_prices


def at_prices(costs: np.ndarray, room: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Costs (M, G) of groups at prices of the rows, in units of the room."""
    shares = costs / np.where(room > 0, room, np.inf)[..., None]
    return np.einsum("msg,ms->mg", np.nan_to_num(shares, posinf=1e300), prices)


def _by(shares: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Groups (M, G) by their costs at prices, the cheapest first."""
    total = np.einsum("msg,ms->mg", np.minimum(shares, 1e300), prices)
    return np.argsort(total, axis=1, kind="stable")


def _prefix(
    shares: np.ndarray, allowed: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The groups (M, G) that fit, one after the other until one does not.

    Also what is spent of each row with that one, (M, S).
    """
    nb_groups = order.shape[1]
    order = np.take_along_axis(order, np.argsort(~_at(allowed, order), axis=1, kind="stable"), 1)
    spent = np.cumsum(np.take_along_axis(shares, order[:, None], axis=2), axis=2)  # (M, S, G)
    fits = (spent < 1).all(axis=1) & _at(allowed, order)
    count = np.where(fits.all(axis=1), nb_groups, np.argmin(fits, axis=1))
    chosen = np.zeros(order.shape, bool)
    np.put_along_axis(chosen, order, np.arange(nb_groups) < count[:, None], axis=1)
    last = np.minimum(count, nb_groups - 1)
    return chosen, np.take_along_axis(spent, last[:, None, None], axis=2)[..., 0]


def _at(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, order, axis=1)
