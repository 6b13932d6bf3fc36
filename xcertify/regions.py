"""Regions: the sets of inputs over which a bound or a certificate must hold.

Every region is the intersection of a box and a (possibly stretched) ball::

    { x : lower <= x <= upper  and  || (x - center) / epsilon ||_p <= 1 },

which is closed under all operations of this file: clipping to a valid range, holding features
fixed, and keeping only the positive or the negative half. Of such a set `Region.at_most` keeps the
points at which only few features, whichever, have another value than in the center.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Ball", "Box", "Region", "valid_range"]

Norm = float | int | str

_BLOCK = 2**18  # entries that are rounded together, so that float64 steps take little memory
_NORMS = {1: 1, 2: 2, math.inf: math.inf, "inf": math.inf}


def as_norm(norm: Norm) -> float:
    """1, 2 or `math.inf` for a norm as users give it; "inf" is inf.

    Everything of this package that takes a `norm` takes these, and refuses others in its
    constructor.

    Raises
    ------
    ValueError
        For any other norm.
    """
    known = isinstance(norm, (int, float, str, np.number)) and not isinstance(norm, bool)
    if not known or norm not in _NORMS:
        raise ValueError(f"norm must be 1, 2 or np.inf. Received: {norm!r}")
    return _NORMS[norm]


def valid_range(clip: tuple[Any, Any], shape: tuple[int, ...], dtype: Any) -> tuple[Any, Any]:
    """The sides (low, high) of a valid range in the type of the inputs, rounded outward.

    Parameters
    ----------
    clip
        (low, high), each a scalar or an array of the shape of one input; infinite where there is no
        limit.
    shape, dtype
        Of the inputs.

    Returns
    -------
    low, high
        Of that shape. 0.1 is no float32 number: `low` is the one below it, and `high` the one above
        its own, so that the stated range is inside.

    Raises
    ------
    ValueError
        For anything else than such a pair, NaN, and low above high.
    """
    try:
        low, high = (np.asarray(side, np.float64) for side in clip)
        for side in (low, high):
            np.broadcast_to(side, shape)
    except (TypeError, ValueError):
        raise ValueError(
            f"clip must be a pair (low, high) of scalars or arrays of the shape of one input, for "
            f"inputs {tuple(shape)}; data_range(inputs) of xcertify.data_range makes one of data. "
            f"Received: {clip!r}"
        ) from None
    if np.isnan(low).any() or np.isnan(high).any() or (low > high).any():
        raise ValueError(f"clip must be (low, high) with low <= high. Received: {clip!r}")
    low, high = _sides(low, high, dtype)
    return np.broadcast_to(low, shape), np.broadcast_to(high, shape)


class Region:
    """A batch of N regions around N nominal inputs; build one with `Ball` or `Box`.

    Attributes
    ----------
    center
        Nominal inputs, (N, *shape).
    lower, upper
        Sides of the box part, (N, *shape), rounded outward: they are never inside the stated set.
    norm
        1, 2 or inf: the norm of the ball part. With inf the box says everything.
    epsilon
        Radius of the ball part per feature, broadcastable to (N, *shape); None for a `Box`.
    clip
        Valid range (low, high) that a `Ball` was cut to, as it was given; else None.
    nb_changed, groups
        (N,) int, and (N, *shape) int32 with the number of each feature's group, -1 for those that
        are in none: at most so many groups leave the center at the same time, see `at_most`. None
        where all features may.
    choices
        Of texts the words that may stand at each position, see `xcertify.words`; None for others.
    """

    choices: np.ndarray | None = None

    def __init__(
        self,
        center: np.ndarray,
        lower: np.ndarray,
        upper: np.ndarray,
        epsilon: np.ndarray | None = None,
        norm: float = math.inf,
        clip: tuple[Any, Any] | None = None,
        nb_changed: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        self.center, self.lower, self.upper = center, lower, upper
        self.epsilon, self.norm, self.clip = epsilon, norm, clip
        self.nb_changed, self.groups = nb_changed, groups

    def __len__(self) -> int:
        return len(self.center)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch axis."""
        return self.center.shape[1:]

    def __getitem__(self, index: slice | np.ndarray) -> Region:
        """The regions of some samples, by a slice or an array of indices."""
        if isinstance(index, (int, np.integer)):
            raise TypeError(
                f"a region is indexed by a slice or an array of samples, so that it stays a batch; "
                f"use region[{index}:{index + 1}]. Received: {index!r}"
            )
        epsilon = None if self.epsilon is None else self._full_epsilon()[index]
        few = [None if a is None else a[index] for a in (self.nb_changed, self.groups)]
        sides = self.lower[index], self.upper[index]
        return Region(self.center[index], *sides, epsilon, self.norm, self.clip, *few)

    @classmethod
    def concatenate(cls, parts: Sequence[Region]) -> Region:
        """The regions of several batches, one behind the other.

        Raises
        ------
        ValueError
            For parts of other norms, valid ranges or shapes, boxes and balls, and where few
            features may change in some of them only.
        """
        return parts[0]._joined(parts)

    def _joined(self, parts: Sequence[Region]) -> Region:
        """`concatenate`, of which this is the first part."""
        first = parts[0]
        for part in parts:
            same = part.norm == first.norm and part.shape == first.shape
            same &= (part.epsilon is None) == (first.epsilon is None)
            same &= (part.nb_changed is None) == (first.nb_changed is None)
            same &= part.choices is None
            if not same or not _same_range(part.clip, first.clip):
                raise ValueError(
                    f"regions must be of one shape, norm and valid range. "
                    f"Received: {first!r}, {first}, and {part!r}, {part}"
                )
        names = ("center", "lower", "upper")
        center, lower, upper = (np.concatenate([getattr(p, n) for p in parts]) for n in names)
        epsilon = nb_changed = groups = None
        if first.epsilon is not None:
            epsilon = np.concatenate([part._full_epsilon() for part in parts])
        if first.nb_changed is not None:
            nb_changed, groups = (
                np.concatenate([getattr(p, n) for p in parts]) for n in ("nb_changed", "groups")
            )
        clip = first.clip
        return Region(center, lower, upper, epsilon, first.norm, clip, nb_changed, groups)

    def describe(self) -> str:
        """In words: a ball's norm, radius (from the least to the largest) and valid range."""
        if self.epsilon is None:
            widest = float(np.max(self.upper - self.lower)) if self.center.size else 0.0
            found = f"boxes of sides up to {widest:.3g}"
        else:
            found = describe_ball(self.epsilon, self.norm, self.clip)
        if self.nb_changed is None:
            return found
        return f"{found} with at most {describe_span(self.nb_changed)} groups of features changed"

    def __str__(self) -> str:
        return self.describe()

    def to_dict(self) -> dict[str, Any]:
        """The regions in words and numbers, with arrays as nested lists, ready for JSON."""
        radius = None if self.epsilon is None else self._full_epsilon().tolist()
        arrays = {"center": self.center, "lower": self.lower, "upper": self.upper}
        if self.nb_changed is not None and self.groups is not None:
            arrays |= {"nb_changed": self.nb_changed, "groups": self.groups}
        lists = {name: array.tolist() for name, array in arrays.items()}
        return {"description": self.describe(), "norm": self.norm, "epsilon": radius} | lists

    def resized(self, radii: Any) -> Ball:
        """Balls around the same inputs, of the same norm and valid range, with other radii (N,).

        Of them as many groups leave the center at the same time as before.

        Raises
        ------
        ValueError
            For a box, which has no norm; and as `Ball`.
        """
        if self.epsilon is None:
            raise ValueError("resized is of balls: a box has no radius. Make a Ball around inputs")
        balls = Ball(self.center, as_column(radii, self.center), self.norm, self.clip)
        if self.nb_changed is not None and self.groups is not None:
            balls._change_few(self.nb_changed, self.groups)
        return balls

    def __repr__(self) -> str:
        kind = "Box" if self.epsilon is None else f"Ball(norm={self.norm})"
        widest = float(np.max(self.upper - self.lower)) if self.center.size else 0.0
        changed = "" if self.nb_changed is None else f", {describe_span(self.nb_changed)} changed"
        return (
            f"<{kind} regions: {len(self)} of shape {self.shape}, widest side {widest:.3g}"
            f"{changed}>"
        )

    def fix(self, mask: Any) -> Region:
        """The part of the region where some features keep their nominal value (EVA's B_u).

        Parameters
        ----------
        mask
            Boolean, (*shape) or (N, *shape); True where the feature is held at `center`.

        Raises
        ------
        ValueError
            If the mask is not boolean or does not fit the inputs.
        """
        mask = self._mask(mask, "mask", "a feature is held fixed")
        epsilon = None if self.epsilon is None else np.where(mask, 0.0, self.epsilon)
        lower, upper = (np.where(mask, self.center, side) for side in (self.lower, self.upper))
        return self._part(lower, upper, epsilon)

    def positive(self) -> Region:
        """The part of the region where no feature is below its nominal value (EVA's B(+))."""
        return self._part(self.center, self.upper, self.epsilon)

    def negative(self) -> Region:
        """The part of the region where no feature is above its nominal value (EVA's B(-))."""
        return self._part(self.lower, self.center, self.epsilon)

    def one_way(self, up: Any = None, down: Any = None) -> Region:
        """The part of the region where some features move in one direction only.

        Parameters
        ----------
        up, down
            Boolean, (*shape) or (N, *shape): True where a feature is never below, or never above,
            its nominal value; None: no feature. One that is in both is held, as by `fix`.

        Raises
        ------
        ValueError
            If a mask is not boolean or does not fit the inputs.

        Examples
        --------
        A table whose first column only grows and whose last one cannot change:

        >>> region = Ball(rows, 0.2, clip=(0, 1)).one_way(up=[True, False, False])
        >>> region = region.fix(np.array([False, False, True]))
        """
        masks = {"up": up, "down": down}
        up, down = (
            np.zeros(self.shape, bool)
            if mask is None
            else self._mask(mask, name, f"a feature only moves {name}")
            for name, mask in masks.items()
        )
        lower, upper = (
            np.where(up, self.center, self.lower),
            np.where(down, self.center, self.upper),
        )
        return self._part(lower, upper, self.epsilon)

    def _mask(self, mask: Any, name: str, meaning: str) -> np.ndarray:
        """A mask of features as it was given, if it is one."""
        mask = np.asarray(mask)
        if mask.dtype != bool:
            raise ValueError(
                f"{name} must be boolean, True where {meaning}. Received: dtype {mask.dtype}"
            )
        if mask.shape not in (self.shape, self.center.shape):
            raise ValueError(
                f"{name} must have the shape of one input, {self.shape}, or of the batch, "
                f"{self.center.shape}. Received: {mask.shape}"
            )
        return mask

    def _part(self, lower: np.ndarray, upper: np.ndarray, epsilon: np.ndarray | None) -> Region:
        """What is between other sides, and within other radii."""
        few = self.nb_changed, self.groups
        return Region(self.center, lower, upper, epsilon, self.norm, None, *few)

    def at_most(self, nb_changed: Any, groups: Any = None, free: Any = None) -> Region:
        """The part of the region where few groups of features leave their nominal values (l0).

        ``{ x : at most nb_changed groups g, free ones aside, have x_g != center_g }``, whichever
        groups these are.

        Parameters
        ----------
        nb_changed
            Integer from 0 on, for all regions or (N,).
        groups
            Integers, (*shape) or (N, *shape): number of the group of each feature, from 0 on and
            below the number of features. Features of -1 are in no group: they may always leave
            their nominal values. None: every feature is a group of its own, in row-major order.
        free
            Boolean, (N, G) for G groups: True for groups that may always leave their nominal
            values, too.

        Raises
        ------
        ValueError
            If an argument does not fit, and where few features may change already.

        Examples
        --------
        >>> Ball(images, 0.1).at_most(10)                     # any 10 entries
        >>> pixels = np.arange(28 * 28).reshape(28, 28, 1)
        >>> Ball(images, 0.1).at_most(10, groups=np.broadcast_to(pixels, (28, 28, 3)))
        """
        if self.nb_changed is not None:
            raise ValueError(
                "at_most holds for this region already: ask the region that it was made of. "
                f"Received: {self!r}"
            )
        nb_changed = _counts(nb_changed, len(self))
        groups = _groups(groups, self.center.shape)
        if free is not None:
            groups = np.where(_free(free, groups), np.int32(-1), groups)
        region = self[:]
        region._change_few(nb_changed, groups)
        return region

    def _change_few(self, nb_changed: np.ndarray, groups: np.ndarray) -> None:
        self.nb_changed, self.groups = nb_changed, groups
        held = (groups >= 0) & (as_column(nb_changed, groups) == 0)
        if held.any():
            self.lower, self.upper = (
                np.where(held, self.center, side) for side in (self.lower, self.upper)
            )
            if self.epsilon is not None:
                self.epsilon = np.where(held, 0.0, self.epsilon)

    def count_changed(self, points: np.ndarray) -> np.ndarray:
        """How many groups of features, free ones aside, leave the center at points.

        Parameters
        ----------
        points
            (..., N, *shape).

        Returns
        -------
        counts
            (..., N) int; zeros where `at_most` was not asked for.
        """
        if self.groups is None:
            return np.zeros(points.shape[: points.ndim - len(self.shape)], int)
        return (sums_by_group(points != self.center, self.groups) > 0).sum(axis=-1)

    def sides(self, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """`lower` and `upper` in another floating type, rounded outward."""
        return _sides(self.lower, self.upper, dtype)

    def sample(self, nb_samples: int, seed: int | None = 0) -> np.ndarray:
        """Random points of the region, (nb_samples, N, *shape), for tests and empirical bounds.

        Uniform in a box; in a ball, uniform in the box around it and then drawn towards the
        nominal input until the point is inside. Where few groups of features may leave the nominal
        input, a random choice of them does. All N regions share the same draws.

        Parameters
        ----------
        nb_samples
            Points drawn from each region.
        seed
            Of the draws; None: others in every call.
        """
        generator = np.random.default_rng(seed)
        share = generator.random((nb_samples, 1, *self.shape), dtype=np.float32)
        points = self.lower + share * (self.upper - self.lower)
        if self.groups is not None:
            can_change = sums_by_group(self.upper > self.lower, self.groups) > 0  # (N, G)
            order = generator.random((nb_samples, 1, can_change.shape[1]))
            points = self.with_few(points, order * can_change)
        return self.project(points.astype(self.center.dtype))

    def corners(self, nb_corners: int, seed: int | None = 0) -> np.ndarray:
        """Random corners of the boxes, (nb_corners, N, *shape), drawn into the region.

        All N regions share the same draws.

        Parameters
        ----------
        nb_corners
            Corners drawn of each box.
        seed
            As for `sample`.
        """
        generator = np.random.default_rng(seed)
        is_upper = generator.random((nb_corners, 1, *self.shape), dtype=np.float32) < 0.5
        return self.project(np.where(is_upper, self.upper, self.lower).astype(self.center.dtype))

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (..., N, *shape) of the region near the given ones.

        Inside the box by clipping; where few groups of features may leave the `center`, all others
        than those that are farthest from it go back there; then inside the ball by shrinking
        towards `center`; shrinking keeps a point in the box, so the result is in both, after its
        rounding too.
        """
        points = np.clip(points, self.lower, self.upper)
        points = self.with_few(points)
        if self.epsilon is None or math.isinf(self.norm):
            return points
        epsilon = self._full_epsilon()
        step = points.astype(np.float64) - self.center
        scaled = np.divide(step, epsilon, out=np.zeros(step.shape), where=epsilon > 0)
        axes = tuple(range(step.ndim - len(self.shape), step.ndim))
        length = np.sum(np.abs(scaled) ** self.norm, axes, keepdims=True) ** (1 / self.norm)
        # 1e-12 for the sums in float64; what is rounded away from the center then goes one back
        step /= np.maximum(length * (1 + 1e-12), 1.0)
        inside = (self.center + step).astype(points.dtype)
        outward = np.abs(inside.astype(np.float64) - self.center) > np.abs(step)
        center = np.broadcast_to(self.center, inside.shape).astype(points.dtype)
        return np.where(outward, np.nextafter(inside, center), inside)

    def with_few(self, points: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Points (..., N, *shape) at which as many groups leave the center as may, for `at_most`.

        Those of the largest weights (..., N, G) stay where they are; by default, those that are
        farthest from the center. All others go back to it.
        """
        if self.groups is None or self.nb_changed is None:
            return points
        if weights is None:
            weights = sums_by_group(np.abs(points.astype(np.float64) - self.center), self.groups)
        ranks = np.argsort(np.argsort(-weights, axis=-1, kind="stable"), axis=-1)
        stays = ranks < self.nb_changed[:, None]  # (..., N, G)
        places = np.maximum(self.groups, 0).reshape(len(self), -1)
        stays = stays.reshape(-1, *stays.shape[-2:])
        stays = np.take_along_axis(stays, places[None], axis=2).reshape(points.shape)
        return np.where(stays | (self.groups < 0), points, self.center)

    def _full_epsilon(self) -> np.ndarray:
        return np.broadcast_to(np.asarray(self.epsilon), self.center.shape)


class Ball(Region):
    """All inputs within a distance of the nominal ones: ``|| x - center ||_p <= epsilon``.

    Parameters
    ----------
    center
        Nominal inputs, (N, *shape): an array or an eager tensor. float64 stays float64, everything
        else becomes float32.
    epsilon
        Radius, at least 0: a scalar, or an array that says what it varies along, whatever the
        number of samples. One per feature has all axes of an input, or those of the batch, with 1
        where it does not vary: (1, 1, C) per channel of images, (1, W) per column of tables,
        (T, 1) per time step. A radius per feature stretches the ball:
        ``|| (x - center) / epsilon ||_p <= 1``. One per sample is (N, 1, ..., 1), or (N,) unless
        the inputs have N channels or columns: then it is refused, so that (C,) always is.
    norm
        inf (default, also as "inf"), 2 or 1.
    clip
        Valid range of the inputs, (low, high), each a scalar or an array of shape (*shape); the
        region is cut to it, rounded outward as all sides: with float32 inputs and clip=(0.1, 0.9)
        the range of the region, and of attacks in it, ends at the float32 numbers next to 0.1 and
        0.9 that are outside. None: no cut.

    Raises
    ------
    ValueError
        For a wrong shape, NaN or infinite values, a negative epsilon, an unknown norm, or a
        center outside `clip`; the message names the first offending sample.

    Examples
    --------
    >>> region = Ball(images, epsilon=0.1, clip=(0.0, 1.0))
    """

    def __init__(
        self,
        center: Any,
        epsilon: Any,
        norm: Norm = math.inf,
        clip: tuple[Any, Any] | None = None,
    ) -> None:
        center = as_batch(center, "center")
        norm = as_norm(norm)
        epsilon = _epsilon(epsilon, center)
        lower = _round_outward(center, -epsilon)
        upper = _round_outward(center, epsilon)
        if clip is not None:
            low, high = _clip(clip, center)
            lower, upper = np.maximum(lower, low), np.minimum(upper, high)
        super().__init__(center, lower, upper, epsilon, norm, clip)


class Box(Region):
    """All inputs between two arrays: ``lower <= x <= upper``.

    Parameters
    ----------
    lower, upper
        Sides, (N, *shape).
    center
        Nominal inputs, (N, *shape); `fix`, `positive` and `negative` refer to them. Default: the
        middle of the box.

    Raises
    ------
    ValueError
        For shapes that differ, NaN or infinite values, lower > upper, or a center outside.
    """

    def __init__(self, lower: Any, upper: Any, center: Any = None) -> None:
        lower, upper = as_batch(lower, "lower"), as_batch(upper, "upper")
        if lower.shape != upper.shape:
            raise ValueError(
                f"lower and upper must have one shape. Received: {lower.shape} and {upper.shape}"
            )
        _refuse(lower > upper, "lower is above upper", "swap them, or check the data")
        if center is None:
            center = np.clip(lower + (upper - lower) / 2, lower, upper)
        else:
            center = as_batch(center, "center")
            if center.shape != lower.shape:
                raise ValueError(
                    f"center must have the shape of lower, {lower.shape}. Received: {center.shape}"
                )
            outside = (center < lower) | (center > upper)
            _refuse(outside, "center is outside the box", "clip it into [lower, upper] first")
        super().__init__(center, lower, upper)


def refuse_other_regions(region: Any) -> None:
    """A ValueError for what is no region, or a ball of a norm that only estimates know."""
    if not isinstance(region, Region):
        raise ValueError(
            f"region must be a Ball or a Box. Received: {type(region).__name__}; for inputs "
            f"and a radius write Ball(inputs, epsilon)"
        )
    if region.norm not in _NORMS:
        raise ValueError(
            f"region must be a box, or a ball of norm 1, 2 or inf. Received: norm {region.norm!r}"
        )


def refuse_few_changed(region: Region, what: str) -> None:
    """A ValueError where few features may change at a time, which `what` would not keep to."""
    if region.nb_changed is not None:
        raise ValueError(
            f"{what} is not available where at most some groups of features may change. Give the "
            f"region without at_most, which holds more points. Received: {region}"
        )


def describe_ball(epsilon: Any, norm: Norm, clip: tuple[Any, Any] | None) -> str:
    """A ball in words: "l2 balls of radius 0.1 within (0.0, 1.0)"."""
    if isinstance(clip, str):
        limits = " within the range of the inputs"
    else:
        limits = "" if clip is None else f" within ({_side(clip[0])}, {_side(clip[1])})"
    return f"l{norm} balls of radius {describe_span(epsilon)}{limits}"


def describe_span(values: Any) -> str:
    """Numbers in words: "0.1 to 0.2", or "0.1" where all are."""
    known = np.unique(np.asarray(values, np.float64))
    return " to ".join(f"{value:g}" for value in known[[0, -1][: len(known)]])


def _side(values: Any) -> str:
    """One side of a valid range in words: a number, or its span."""
    low, high = float(np.min(values)), float(np.max(values))
    return f"{low}" if low == high else f"{low} to {high}"


def _same_range(first: Any, second: Any) -> bool:
    """Whether two valid ranges are the same."""
    if first is None or second is None:
        return first is second
    return all(np.array_equal(*sides) for sides in zip(first, second))


def as_column(values: Any, inputs: np.ndarray) -> np.ndarray:
    """One value per sample, (N,), with as many axes as the inputs: radii for a `Ball` of any N."""
    return np.reshape(values, (-1, *[1] * (np.ndim(inputs) - 1)))


def as_batch(values: Any, name: str) -> np.ndarray:
    """Finite numbers (N, *shape): float64 stays, everything else becomes float32."""
    values = np.asarray(values)
    if values.dtype != np.float64:
        values = values.astype(np.float32)
    if values.ndim < 2:
        raise ValueError(
            f"{name} must be a batch of inputs, (N, *shape); for a single input add an axis, "
            f"x[None]. Received: shape {values.shape}"
        )
    _refuse(~np.isfinite(values), f"{name} has NaN or infinite values", "clean the data first")
    return values


def _refuse(bad: np.ndarray, problem: str, cure: str) -> None:
    """Raise a ValueError that names the first sample with a True entry."""
    if bad.any():
        sample = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
        count = int(bad[sample].sum())
        raise ValueError(f"{problem} in sample {sample} ({count} features): {cure}")


def _epsilon(epsilon: Any, center: np.ndarray) -> np.ndarray:
    nb_samples, shape = len(center), center.shape[1:]
    try:
        epsilon = np.asarray(epsilon, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"epsilon must be numbers. Received: {epsilon!r}") from None
    if epsilon.shape == (nb_samples,) == shape[-1:] and nb_samples > 1:
        raise ValueError(
            f"epsilon with one axis may be one per sample or one per channel or column, of which "
            f"there are {nb_samples} each: give epsilon.reshape{(-1, *[1] * len(shape))} for one "
            f"per sample, epsilon.reshape{(*[1] * max(len(shape) - 1, 1), -1)} for the other. "
            f"Received: shape {epsilon.shape}"
        )
    fits = epsilon.shape in ((), (nb_samples,))
    if epsilon.ndim > 1 and epsilon.ndim in (len(shape), center.ndim):
        sizes = center.shape[-epsilon.ndim :]
        fits = all(size in (1, axis) for size, axis in zip(epsilon.shape, sizes))
    if not fits:
        ones = (1,) * max(len(shape) - 1, 1)
        raise ValueError(
            f"epsilon must be a number, one per sample, ({nb_samples},), or one per feature, with "
            f"all axes of an input, or of the batch, {center.shape}, and 1 where it does not vary: "
            f"epsilon.reshape{(*ones, -1)} for one per "
            f"{'channel' if len(shape) > 1 else 'column'}. Received: shape {epsilon.shape}"
        )
    if epsilon.ndim == 1:
        epsilon = epsilon.reshape(nb_samples, *[1] * len(shape))
    epsilon = epsilon.reshape([1] * (center.ndim - epsilon.ndim) + list(epsilon.shape))
    _refuse(~np.isfinite(epsilon), "epsilon is NaN or infinite", "give a finite radius")
    _refuse(epsilon < 0, "epsilon is negative", "a radius is at least 0")
    return epsilon


def _counts(nb_changed: Any, nb_samples: int) -> np.ndarray:
    """How many groups may change, (N,) int."""
    counts = np.asarray(nb_changed)
    if counts.dtype.kind not in "iu" or counts.shape not in ((), (nb_samples,)):
        raise ValueError(
            f"nb_changed must be an integer, or {nb_samples} of them, one per sample. "
            f"Received: {counts.dtype} of shape {counts.shape}"
        )
    if (counts < 0).any():
        raise ValueError(f"nb_changed must be at least 0. Received: {counts.min()}")
    return np.broadcast_to(counts.astype(np.int64), (nb_samples,))


def _groups(groups: Any, size: tuple[int, ...]) -> np.ndarray:
    """Numbers of groups, (N, *shape) int32."""
    nb_features = math.prod(size[1:])
    if groups is None:
        groups = np.arange(nb_features).reshape(size[1:])
    groups = np.asarray(groups)
    if groups.dtype.kind not in "iu" or groups.shape not in (size[1:], size):
        raise ValueError(
            f"groups must be integers of the shape of one input, {size[1:]}, or of the batch, "
            f"{size}: one group for each feature. Received: {groups.dtype} of shape {groups.shape}"
        )
    if groups.size and (groups.min() < -1 or groups.max() >= nb_features):
        raise ValueError(
            f"groups must be numbered from 0 on, -1 for what may always change, and below the "
            f"number of features, {nb_features}: np.unique(groups, return_inverse=True)[1] numbers "
            f"them so. Received: {groups.min()} to {groups.max()}"
        )
    return np.broadcast_to(groups.astype(np.int32), size)


def _free(free: Any, groups: np.ndarray) -> np.ndarray:
    """Which features belong to free groups, (N, *shape) bool, of free groups (N, G)."""
    free, nb_groups = np.asarray(free), int(groups.max(initial=-1)) + 1
    fits = free.ndim == 2 and len(free) == len(groups) and free.shape[1] >= nb_groups
    if free.dtype != bool or not fits:
        raise ValueError(
            f"free must be boolean with one entry for each sample and group, "
            f"{(len(groups), nb_groups)}. Received: {free.dtype} of shape {free.shape}"
        )
    if not free.shape[1]:
        return np.zeros(groups.shape, bool)
    samples = np.arange(len(groups)).reshape(-1, *[1] * (groups.ndim - 1))
    return free[samples, np.maximum(groups, 0)]


def sums_by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums (..., N, G) of values (..., N, *shape) at least 0 over groups (N, *shape)."""
    nb_groups = int(groups.max(initial=0)) + 1
    outer = values.shape[: values.ndim - groups.ndim + 1]
    nb_rows = math.prod(outer)
    places = (np.broadcast_to(groups, values.shape).reshape(nb_rows, -1) + 1).astype(np.int64)
    places += np.arange(nb_rows)[:, None] * (nb_groups + 1)
    sums = np.bincount(places.ravel(), values.ravel(), nb_rows * (nb_groups + 1))
    return sums.reshape(*outer, nb_groups + 1)[..., 1:]


def _clip(clip: tuple[Any, Any], center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = valid_range(clip, center.shape, center.dtype)
    # a nominal input that was rounded as the range was is inside
    _refuse(
        (center < low) | (center > high),
        f"center leaves the valid range clip={clip!r}",
        "scale the inputs, clip them, or give the range that they really have",
    )
    return low, high


def _sides(lower: np.ndarray, upper: np.ndarray, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sides in another floating type, never inside the given ones."""
    lower, upper = np.asarray(lower), np.asarray(upper)
    with np.errstate(over="ignore"):  # infinite is outside, too
        low, high = lower.astype(dtype), upper.astype(dtype)
    sides = lower, upper
    if all(side.dtype.kind == "f" and np.can_cast(side.dtype, dtype) for side in sides):
        return low, high  # nothing was rounded
    low = np.where(low > lower, np.nextafter(low, low.dtype.type(-np.inf)), low)
    high = np.where(high < upper, np.nextafter(high, high.dtype.type(np.inf)), high)
    return low, high


def _round_outward(center: np.ndarray, step: np.ndarray) -> np.ndarray:
    """center + step in the type of `center`, rounded away from the center, exact where it can be.

    The sum is formed in float64 together with its rounding error (Knuth's two-sum), so that a side
    is moved by one unit in the last place only where it would otherwise cut the stated set.
    """
    step = np.broadcast_to(step, center.shape)
    sides = np.empty_like(center)
    nb_at_once = max(1, _BLOCK // max(1, center[:1].size))
    for first in range(0, len(center), nb_at_once):
        some = slice(first, first + nb_at_once)
        sides[some] = _rounded_outward(center[some], step[some])
    return sides


def _rounded_outward(center: np.ndarray, step: np.ndarray) -> np.ndarray:
    wide = center.astype(np.float64)
    total = wide + step
    shifted = total - wide
    error = (wide - (total - shifted)) + (step - shifted)
    side = total.astype(center.dtype)
    excess = (side.astype(np.float64) - total) - error  # rounded minus exact
    outward = np.where(step > 0, np.inf, -np.inf).astype(center.dtype)
    inside = np.where(step > 0, excess < 0, excess > 0) & (step != 0)
    return np.where(inside, np.nextafter(side, outward), side)
