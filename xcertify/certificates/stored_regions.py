"""The regions of a certificate as rows and words, made anew when they are read."""

from __future__ import annotations

from typing import Any

import numpy as np

from xcertify.certificates.forms import Form, Rows, check_arrays
from xcertify.certificates.origins import as_json
from xcertify.regions import Ball, Box, Region
from xcertify.words import Words

_NOT_WRITTEN = (
    "only the regions of a Ball or a Box can be written, not parts of them, nor words. Received: {}"
)
_CENTER, _EPSILON, _SIDES = "region.center", "region.epsilon", ("region.lower", "region.upper")


def region_parts(region: Region) -> tuple[Rows, dict[str, Any]]:
    """Rows and words that `region_of` makes the same regions of.

    Raises
    ------
    ValueError
        For parts of a `Ball` or a `Box`, and for words.
    """
    if region.nb_changed is not None or isinstance(region, Words):
        raise ValueError(_NOT_WRITTEN.format(region))
    rows: Rows = {_CENTER: region.center}
    if region.epsilon is None:
        rows |= dict(zip(_SIDES, (region.lower, region.upper)))
        return rows, {"kind": "box", "norm": region.norm, "clip": None}
    rows[_EPSILON] = _squeezed(np.broadcast_to(region.epsilon, region.center.shape))
    words = {"kind": "ball", "norm": region.norm, "clip": as_json(region.clip)}
    again = region_of(rows, words)
    same = zip((again.lower, again.upper), (region.lower, region.upper))
    if not all(np.array_equal(*sides) for sides in same):
        raise ValueError(_NOT_WRITTEN.format(region))
    return rows, words


def check_settings(what: str, settings: dict[str, Any], region: Region, *, is_radius: bool) -> None:
    """Refuse settings of an explainer that works on other regions, with a ValueError.

    Parameters
    ----------
    what
        Begins the message.
    settings
        Arguments of an explainer, by name.
    region
        Of the certificate.
    is_radius
        Whether the radii of the regions were found, and not given.
    """
    told = {"norm": region.norm, "clip": as_json(region.clip)}
    told = {} if region.epsilon is None else told
    for name, own in told.items():
        if name in settings and settings[name] != own:
            raise ValueError(
                f"{what} must say what the region says, {name}={own!r}. "
                f"Received: {settings[name]!r}"[:300]
            )
    if "epsilon" in settings and told and not is_radius:
        _check_radii(what, settings["epsilon"], region)


def _check_radii(what: str, epsilon: Any, region: Region) -> None:
    """Refuse regions of which any has a radius that was not among those of the settings."""
    own = np.broadcast_to(np.asarray(region.epsilon), region.center.shape) + 0.0
    try:
        given = np.asarray(epsilon, np.float64) + 0.0
    except (TypeError, ValueError):
        given = np.zeros((0, 0))
    if given.ndim < 2:  # one for each input
        given = given.reshape(-1, *[1] * (own.ndim - 1))
    rows = given if given.ndim == own.ndim else given[None]
    fits = [size in (1, whole) for size, whole in zip(rows.shape[1:], own.shape[1:])]
    if rows.ndim != own.ndim or not all(fits):
        raise ValueError(
            f"epsilon ({what}) must be radii of inputs of shape {region.shape}. "
            f"Received: {str(epsilon)[:80]}"
        )
    differ = np.zeros(len(own), bool)
    for axis in range(1, own.ndim):
        if rows.shape[axis] == 1 and own.size:
            first = own.take([0], axis)
            differ |= (own != first).reshape(len(own), -1).any(axis=1)
            own = first
    allowed = {row.tobytes() for row in rows}
    for number, one in enumerate(own):
        if differ[number] or one.tobytes() not in allowed:
            raise ValueError(
                f"epsilon ({what}) must be what the regions have. Received: "
                f"{str(epsilon)[:80]}, and input {number} with {one.max(initial=0.0):.9g}"
            )


def region_of(rows: Rows, words: dict[str, Any]) -> Region:
    """Made anew, so that no file says one region and has another.

    Raises
    ------
    ValueError
        As `Ball` and `Box`, and for rows that are missing or do not fit.
    """
    names = {"ball": (_CENTER, _EPSILON), "box": (_CENTER, *_SIDES)}.get(words["kind"])
    if names is None:
        raise ValueError(f"region (header) must be a ball or a box. Received: {words['kind']!r}")
    own = {name: value for name, value in rows.items() if name.startswith("region.")}
    first = np.shape(own.get(_CENTER, []))[:1] or (0,)
    sizes: dict[str, Any] = {"inputs": first}
    check_arrays("rows of the region", own, {n: Form("f", ("...",)) for n in names}, sizes)
    norm, clip, center = words["norm"], words["clip"], own[_CENTER]
    if words["kind"] == "box":
        return Box(own[_SIDES[0]], own[_SIDES[1]], center)
    epsilon = own[_EPSILON]
    if epsilon.ndim != center.ndim:
        raise ValueError(
            f"region.epsilon must have the axes of region.center, {center.ndim}. "
            f"Received: {epsilon.ndim}"
        )
    if norm in (1, 2, np.inf):
        return Ball(center, epsilon, norm, clip)
    if not 2 < norm < np.inf:
        raise ValueError(f"norm (header) must be 1 or at least 2. Received: {norm!r}")
    box = Ball(center, epsilon, np.inf, clip)
    return Region(box.center, box.lower, box.upper, epsilon, norm, box.clip)


def _squeezed(epsilon: np.ndarray) -> np.ndarray:
    """Radii (N, *shape) with 1 for each axis along which they do not vary."""
    for axis in range(1, epsilon.ndim):
        first = epsilon.take([0], axis) if epsilon.shape[axis] else epsilon
        if (epsilon == first).all():
            epsilon = first
    return np.ascontiguousarray(epsilon)
