"""Criteria: what it means that an explanation is robust, proved for every explanation of a box.

A certificate says that all explanations lie between `lower` and `upper`. A criterion turns that
into a statement: none is far from the original one, or close to a given one, and so on. Arrays are
(N, *shape); explanations are compared over all of their features. The same criteria, asked of
single explanations, say whether an attack has succeeded.

Source: Wicker et al., Robust Explanation Constraints for Neural Networks, ICLR 2023, section 4.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DISTANCES = {"l1": 1, "l2": 2, "linf": np.inf}  # and which norm of the difference they are
__all__ = [
    "Criterion",
    "Excludes",
    "KeepsOut",
    "KeepsSigns",
    "KeepsTop",
    "Within",
    "farthest",
    "in_top",
    "magnitudes",
    "nearest",
    "out_of_top",
    "top_mask",
]

MEASURES = ("mse", *DISTANCES, "l2_ratio", "cosine")

_SLACK = 1e-12  # covers sums in float64
_NB_HALVINGS = 60


class Criterion(ABC):
    """A property of explanations that can be proved for boxes of them."""

    @abstractmethod
    def holds(self, lower: np.ndarray, upper: np.ndarray, original: np.ndarray) -> np.ndarray:
        """Where it is proved for every explanation of the box, (N,) bool.

        Parameters
        ----------
        lower, upper
            (N, *shape): the box.
        original
            (N, *shape): the explanations that are defended.
        """

    @abstractmethod
    def broken(self, lower: np.ndarray, upper: np.ndarray, original: np.ndarray) -> np.ndarray:
        """Where it is proved that every explanation of the box breaks it, (N,) bool.

        The opposite of `holds`, of which neither may be true; for single explanations `lower` and
        `upper` enclose their roundings.

        Parameters
        ----------
        lower, upper, original
            As for `holds`.
        """

    @property
    def goal(self) -> Any:
        """What the criterion compares with, broadcastable to (N, *shape)."""
        return 0.0


@dataclass(frozen=True)
class Within(Criterion):
    """No explanation v' is farther than `tau` from the original v: no untargeted attack succeeds.

    Parameters
    ----------
    tau
        Threshold: a number, or one for each explanation, (N,).
    measure
        "mse": mean of ``(v' - v) ** 2`` at most `tau`. "l1", "l2", "linf": that norm of ``v' - v``
        at most `tau`. "l2_ratio": ``|v' - v| / |v|`` at most `tau`, Euclidean. "cosine": cosine of
        the angle between v' and v at least `tau`.

    Guarantee
    ---------
    Where `holds`, it is true of every v' between `lower` and `upper`. All but the cosine are exact;
    the cosine may be proved less often than it is true.
    """

    tau: Any
    measure: str = "l2_ratio"

    def __post_init__(self) -> None:
        _check_measure(self.measure)

    def holds(self, lower: np.ndarray, upper: np.ndarray, original: np.ndarray) -> np.ndarray:
        """See `Criterion`."""
        value = farthest(lower, upper, original, self.measure)
        return value >= self.tau if self.measure == "cosine" else value <= self.tau

    def broken(self, lower: np.ndarray, upper: np.ndarray, original: np.ndarray) -> np.ndarray:
        """See `Criterion`."""
        flat = _flat(original)
        length = np.linalg.norm(flat, axis=1)
        if self.measure == "cosine":  # -1 where the original is zero, as in `farthest`
            zero = (length == 0).reshape(-1, *[1] * (np.ndim(original) - 1))
            value = nearest(lower, upper, np.where(zero, 1.0, original), "cosine")
            return np.where(length == 0, -1.0, value) < self.tau
        if self.measure != "l2_ratio":
            return nearest(lower, upper, original, self.measure) > self.tau
        value = nearest(lower, upper, original, "mse")
        return np.sqrt(value * flat.shape[1]) > self.tau * length * (1 + _SLACK)


@dataclass(frozen=True, eq=False)
class Excludes(Criterion):
    """No explanation comes within `tau` of a given map: no targeted attack succeeds.

    Parameters
    ----------
    target_map
        (*shape) or (N, *shape), in the scale of the explanations.
    tau
        Threshold: a number, or one for each explanation, (N,).
    measure
        "mse": mean squared distance to the map above `tau`. "l1", "l2", "linf": distance above
        `tau`. "l2_ratio": Euclidean distance above `tau` times the length of the map. "cosine":
        cosine of the angle to the map below `tau`.

    Guarantee
    ---------
    Where `holds`, it is true of every explanation between `lower` and `upper`, and it holds
    wherever it is true, up to rounding.
    """

    target_map: Any = field(repr=False)
    tau: Any
    measure: str = "mse"

    def __post_init__(self) -> None:
        _check_measure(self.measure)

    def holds(self, lower: np.ndarray, upper: np.ndarray, original: np.ndarray) -> np.ndarray:
        """See `Criterion`."""
        value = nearest(lower, upper, self.target_map, self.measure)
        return value < self.tau if self.measure == "cosine" else value > self.tau

    def broken(self, lower: np.ndarray, upper: np.ndarray, original: np.ndarray) -> np.ndarray:
        """See `Criterion`."""
        target = np.broadcast_to(np.asarray(self.target_map, np.float64), np.shape(lower))
        value = farthest(lower, upper, target, self.measure)
        return value >= self.tau if self.measure == "cosine" else value <= self.tau

    @property
    def goal(self) -> Any:
        """See `Criterion`."""
        return self.target_map


@dataclass(frozen=True)
class KeepsTop(Criterion):
    """The k features of largest magnitude stay the k features of largest magnitude.

    Parameters
    ----------
    k
        How many features count as important.
    """

    k: int

    def holds(self, lower: np.ndarray, upper: np.ndarray, original: np.ndarray) -> np.ndarray:
        """See `Criterion`."""
        first = top_mask(original, self.k)
        return _all(in_top(lower, upper, self.k) | ~first)

    def broken(self, lower: np.ndarray, upper: np.ndarray, original: np.ndarray) -> np.ndarray:
        """See `Criterion`."""
        first = top_mask(original, self.k)
        return _any(out_of_top(lower, upper, self.k) & first)


@dataclass(frozen=True, eq=False)
class KeepsOut(Criterion):
    """Given features stay out of the k features of largest magnitude.

    The question of the paper's tabular study: can an explanation be made to show a sensitive
    feature among the most important ones?

    Parameters
    ----------
    features
        Boolean, (*shape) or (N, *shape): True for the features in question.
    k
        How many features count as important.
    """

    features: Any = field(repr=False)
    k: int

    def holds(self, lower: np.ndarray, upper: np.ndarray, original: np.ndarray) -> np.ndarray:
        """See `Criterion`."""
        return _all(out_of_top(lower, upper, self.k) | ~np.asarray(self.features, bool))

    def broken(self, lower: np.ndarray, upper: np.ndarray, original: np.ndarray) -> np.ndarray:
        """See `Criterion`."""
        return _any(in_top(lower, upper, self.k) & np.asarray(self.features, bool))

    @property
    def goal(self) -> Any:
        """See `Criterion`."""
        return self.features


@dataclass(frozen=True, eq=False)
class KeepsSigns(Criterion):
    """Given features keep their sign.

    Parameters
    ----------
    features
        Boolean, (*shape) or (N, *shape): True for the features in question.
    """

    features: Any = field(repr=False)

    def holds(self, lower: np.ndarray, upper: np.ndarray, original: np.ndarray) -> np.ndarray:
        """See `Criterion`."""
        kept = np.where(np.asarray(original) > 0, np.asarray(lower) > 0, np.asarray(upper) < 0)
        return _all(kept | ~np.asarray(self.features, bool))

    def broken(self, lower: np.ndarray, upper: np.ndarray, original: np.ndarray) -> np.ndarray:
        """See `Criterion`."""
        lost = np.where(np.asarray(original) > 0, np.asarray(upper) <= 0, np.asarray(lower) >= 0)
        return _any(lost & np.asarray(self.features, bool))

    @property
    def goal(self) -> Any:
        """See `Criterion`."""
        return self.features


# --- extremes over boxes ------------------------------------------------------------------------


def farthest(lower: Any, upper: Any, original: Any, measure: str) -> np.ndarray:
    """Largest distance, or least cosine, between the original and any explanation of the box.

    Parameters
    ----------
    lower, upper, original
        (N, *shape).
    measure
        "mse", "l1", "l2", "linf", "l2_ratio" (infinite where the original is zero) or "cosine" (a
        lower bound of the least value; -1 where the original is zero).

    Returns
    -------
    value
        (N,) float64, never on the optimistic side: inf, or -1, where a side is not finite.
    """
    _check_measure(measure)
    lower, upper, original = (_flat(values) for values in (lower, upper, original))
    bounded = _all(np.isfinite(lower) & np.isfinite(upper))
    if not bounded.all():
        value = np.full(len(bounded), -1.0 if measure == "cosine" else np.inf)
        if bounded.any():
            sides = lower[bounded], upper[bounded], original[bounded]
            value[bounded] = farthest(*sides, measure)
        return value
    sizes = np.maximum(np.abs(upper - original), np.abs(lower - original))
    if measure in DISTANCES:
        return np.linalg.norm(sizes, DISTANCES[measure], axis=1) * (1 + _SLACK)
    squares = sizes**2
    if measure == "mse":
        return squares.mean(axis=1) * (1 + _SLACK)
    length = np.linalg.norm(original, axis=1)
    reach = np.sqrt(squares.sum(axis=1))
    ratio = np.divide(reach, length, out=np.full(len(reach), np.inf), where=length > 0)
    if measure == "l2_ratio":
        return np.where(reach > 0, ratio, 0.0) * (1 + _SLACK)
    by_distance = np.where(ratio < 1, np.sqrt(np.maximum(1 - ratio**2, 0.0)), -1.0)
    product = np.minimum(original * lower, original * upper).sum(axis=1)
    longest = np.linalg.norm(np.maximum(np.abs(lower), np.abs(upper)), axis=1)
    size = length * longest
    by_product = np.divide(product, size, out=np.full(len(size), -1.0), where=size > 0)
    by_product = np.where(product > 0, by_product, -1.0)
    opposite = -_largest_cosine(lower, upper, -original)
    return np.max([by_distance, by_product, opposite], axis=0) - 1e-9


def nearest(lower: Any, upper: Any, target: Any, measure: str) -> np.ndarray:
    """Least distance, or largest cosine, between a map and any explanation of the box.

    Parameters
    ----------
    lower, upper
        (N, *shape).
    target
        (*shape) or (N, *shape).
    measure
        "mse", "l1", "l2", "linf", "l2_ratio" (in units of the length of the map) or "cosine".

    Returns
    -------
    value
        (N,) float64, never on the optimistic side: 0, or 1, where a side is not finite.

    Raises
    ------
    ValueError
        For a map of another shape, NaN or infinite, or zero where its length counts.
    """
    _check_measure(measure)
    shape = np.shape(lower)
    target = np.asarray(target, np.float64)
    if target.shape not in (shape, shape[1:]) or not np.isfinite(target).all():
        raise ValueError(
            f"target_map must be finite and of the shape of the explanations, {shape}, or of one "
            f"of them. Received: shape {target.shape}"
        )
    target = _flat(np.broadcast_to(target, shape))
    lower, upper = _flat(lower), _flat(upper)
    length = np.linalg.norm(target, axis=1)
    if measure in ("l2_ratio", "cosine") and not length.all():
        raise ValueError(f"target_map must not be zero with measure={measure!r}")
    bounded = _all(np.isfinite(lower) & np.isfinite(upper))
    if not bounded.all():
        value = np.full(len(bounded), 1.0 if measure == "cosine" else 0.0)
        if bounded.any():
            value[bounded] = nearest(lower[bounded], upper[bounded], target[bounded], measure)
        return value
    if measure == "cosine":
        return _largest_cosine(lower, upper, target)
    sizes = np.abs(np.clip(target, lower, upper) - target)
    if measure in DISTANCES:
        return np.linalg.norm(sizes, DISTANCES[measure], axis=1) * (1 - _SLACK)
    squares = sizes**2
    if measure == "mse":
        return squares.mean(axis=1) * (1 - _SLACK)
    return np.sqrt(squares.sum(axis=1)) / length * (1 - _SLACK)


def _largest_cosine(lower: np.ndarray, upper: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Largest cosine between a vector and any of a box, (N,).

    Where all angles are obtuse, it is bounded by the largest product over the largest length. Else
    the sine is the distance of the vector to the cone of the box: the least value over s >= 0 of
    ``|t - clip(t, s lower, s upper)|``, whose square is convex in s. The bracket of its minimum is
    halved, and a tangent bounds it from below.
    """
    length = np.linalg.norm(target, axis=1)
    shortest = np.linalg.norm(np.clip(0.0, lower, upper), axis=1)
    product = np.maximum(target * lower, target * upper).sum(axis=1)
    size = length * np.linalg.norm(np.maximum(np.abs(lower), np.abs(upper)), axis=1)
    obtuse = np.divide(product, size, out=np.zeros(len(size)), where=size > 0) * (1 - _SLACK)

    def square(scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = scale[:, None]
        below, above = np.minimum(target - scale * lower, 0), np.maximum(target - scale * upper, 0)
        slope = -2 * (below * lower + above * upper).sum(axis=1)
        return (below**2 + above**2).sum(axis=1), slope

    left = np.zeros(len(length))
    right = np.divide(length, shortest, out=np.zeros(len(length)), where=shortest > 0)
    for _ in range(_NB_HALVINGS):
        middle = (left + right) / 2
        falling = square(middle)[1] < 0
        left, right = np.where(falling, middle, left), np.where(falling, right, middle)
    value, slope = square(left)
    least = value + np.minimum(slope, 0) * (right - left)
    share = np.divide(least, length**2, out=np.zeros(len(length)), where=length > 0)
    largest = np.sqrt(np.clip(1 - share + _SLACK, 0.0, 1.0))
    return np.where(shortest > 0, np.where(product > 0, largest, obtuse), 1.0)


def magnitudes(lower: Any, upper: Any) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest absolute value of every feature of the box; of NaN, 0 and inf.

    Parameters
    ----------
    lower, upper
        (N, *shape): the box.
    """
    lower, upper = np.asarray(lower), np.asarray(upper)
    lower, upper = (
        np.where(np.isnan(lower), -np.inf, lower),
        np.where(np.isnan(upper), np.inf, upper),
    )
    return np.maximum(np.maximum(lower, -upper), 0), np.maximum(np.abs(lower), np.abs(upper))


def in_top(lower: Any, upper: Any, k: int) -> np.ndarray:
    """Features among the k of largest magnitude for every explanation of the box.

    Fewer than k others can be as large, (N, *shape) bool.

    Parameters
    ----------
    lower, upper
        (N, *shape): the box.
    k
        How many features count as important.
    """
    _check_k(k, lower)
    _, nb_rivals = _counts(lower, upper)
    return nb_rivals < k


def out_of_top(lower: Any, upper: Any, k: int) -> np.ndarray:
    """Features not among the k of largest magnitude for any explanation of the box.

    At least k others are larger, (N, *shape) bool.

    Parameters
    ----------
    lower, upper, k
        As for `in_top`.
    """
    _check_k(k, lower)
    nb_larger, _ = _counts(lower, upper)
    return nb_larger >= k


def top_mask(maps: Any, k: int) -> np.ndarray:
    """The k features of largest magnitude, (N, *shape) bool; the first ones of a tie.

    Parameters
    ----------
    maps
        (N, *shape).
    k
        How many features count as important.
    """
    _check_k(k, maps)
    sizes = np.abs(_flat(maps))
    order = np.argsort(-sizes, axis=1, kind="stable")
    mask = np.zeros(sizes.shape, bool)
    np.put_along_axis(mask, order[:, :k], True, axis=1)
    return mask.reshape(np.shape(maps))


def _counts(lower: Any, upper: Any) -> tuple[np.ndarray, np.ndarray]:
    """For every feature, how many others are surely larger, and how many may be as large."""
    least, most = (_flat(sizes) for sizes in magnitudes(lower, upper))
    nb_features = least.shape[1]
    # Among equal numbers the least magnitudes come first: what follows `most` is strictly larger.
    order = np.argsort(np.concatenate([least, most], axis=1), axis=1, kind="stable")
    is_least = order < nb_features
    nb_least_behind = np.cumsum(is_least[:, ::-1], axis=1)[:, ::-1] - is_least
    nb_most_behind = np.cumsum(~is_least[:, ::-1], axis=1)[:, ::-1] - ~is_least
    larger, rivals = np.empty(order.shape, int), np.empty(order.shape, int)
    np.put_along_axis(larger, order, nb_least_behind, axis=1)
    np.put_along_axis(rivals, order, nb_most_behind, axis=1)
    shape = np.shape(lower)
    # A feature's own largest magnitude always stands behind its least one.
    return larger[:, nb_features:].reshape(shape), rivals[:, :nb_features].reshape(shape) - 1


def _all(mask: np.ndarray) -> np.ndarray:
    return np.all(mask.reshape(len(mask), -1), axis=1)


def _any(mask: np.ndarray) -> np.ndarray:
    return np.any(mask.reshape(len(mask), -1), axis=1)


def _flat(values: Any) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return values.reshape(len(values), -1)


def _check_measure(measure: str) -> None:
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}. Received: {measure!r}")


def _check_k(k: int, maps: Any) -> None:
    nb_features = int(np.prod(np.shape(maps)[1:]))
    if isinstance(k, bool) or int(k) != k or not 0 < k < nb_features:
        raise ValueError(f"k must be a whole number from 1 to {nb_features - 1}. Received: {k!r}")
