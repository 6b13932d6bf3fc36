"""How tight the bound methods are: proved overlaps beside those that an attack attains."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import keras
import numpy as np

from xcertify.attacks import PGD
from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.commands.benchmark.bench import nb_in_time
from xcertify.commands.benchmark.tables import markdown
from xcertify.commands.images import CLIP
from xcertify.commands.timing import timed
from xcertify.radii import compare_bounds
from xcertify.regions import Ball
from xcertify.targets import margin_rows

METHODS = (
    "ibp",
    "crown-ibp",
    "crown",
    "alpha-crown",
    "decomon:forward-ibp",
    "decomon:forward-affine",
    "decomon:forward-hybrid",
    "decomon:crown",
    "decomon:crown-forward-hybrid",
)


class Proved(NamedTuple):
    """Overlaps proved for the first images, (N,), and the seconds of an image in one form."""

    separate: np.ndarray  # upper(f_other) - lower(f_class)
    margin: np.ndarray  # upper(f_other - f_class)
    per_image: float


def tightness_table(
    model: keras.Model,
    images: np.ndarray,
    classes: np.ndarray,
    epsilons: Sequence[float],
    seconds: float,
) -> str:
    """Mean overlaps that each method proves in the time, beside what an attack attains.

    Raises
    ------
    ContradictionError
        If an attack attains more than is proved.
    """
    proved: dict[str, list[Proved]] = {}  # method -> one for each radius
    for method in METHODS:
        try:
            proved[method] = prove_overlaps(method, model, images, classes, epsilons, seconds)
        except UnsupportedLayerError:
            continue
    nb_common = min(len(found[0].margin) for found in proved.values())
    attained = attain_overlaps(model, images[:nb_common], classes[:nb_common], epsilons)
    for method, found in proved.items():
        _compare(method, found, attained, epsilons)

    header = ["verifier"]
    last = ["attained by an attack"]
    for epsilon, values in zip(epsilons, attained):
        header += [f"ε {epsilon:g}: {what}" for what in ("separate", "margin", "ms per image")]
        last += ["", f"{values.mean():.2f}", ""]
    lines = []
    for method in METHODS:
        cells = []
        for overlaps in proved.get(method, []):
            cells += [f"{side[:nb_common].mean():.2f}" for side in overlaps[:2]]
            cells.append(f"{overlaps.per_image * 1e3:.2f}")
        cells = cells or ["refused", *[""] * (len(header) - 2)]
        lines.append([f"`{method}`", *cells])
    introduction = (
        f"Tightness: mean proved adversarial overlap of the whole region over {nb_common} "
        f"images (lower is tighter), with the two classes bounded separately as in the paper, "
        f"and their margin as one.\n"
    )
    return f"{introduction}\n{markdown(header, [*lines, last])}"


def prove_overlaps(
    method: str,
    model: keras.Model,
    images: np.ndarray,
    classes: np.ndarray,
    epsilons: Sequence[float],
    seconds: float,
) -> list[Proved]:
    """Overlaps of as many images as there is time for, for each radius.

    Raises
    ------
    UnsupportedLayerError
        If the method does not know a layer.
    """
    verifier = Verifier(model, method, strip_head=True)

    def prove(nb_images: int, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
        region = Ball(images[:nb_images], epsilon, clip=CLIP)
        return overlaps_of(verifier, region, classes[:nb_images])

    prove(1, max(epsilons))  # compiles
    taken = timed(prove, 1, max(epsilons))[1]
    nb_images = nb_in_time(taken, seconds / len(epsilons), len(images))
    found = []
    for epsilon in epsilons:
        (separate, margin), taken = timed(prove, nb_images, epsilon)
        found.append(Proved(separate, margin, taken / nb_images / 2))  # half of it for each form
    return found


def overlaps_of(
    verifier: Verifier, region: Ball, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Overlaps in the separate form and by margins, (N,) each."""
    lower, upper = verifier.bound_outputs(region)
    own = np.take_along_axis(lower, classes[:, None], axis=1)[:, 0]
    np.put_along_axis(upper, classes[:, None], -np.inf, axis=1)
    margins = verifier.bound_rows(region, margin_rows(classes, verifier.nb_outputs))[1]
    return upper.max(axis=1) - own, margins.max(axis=1)


def attain_overlaps(
    model: keras.Model, images: np.ndarray, classes: np.ndarray, epsilons: Sequence[float]
) -> list[np.ndarray]:
    """Overlaps at points that an attack found, (N,) for each radius, less what roundings can feign.

    They are sides that the overlaps in real arithmetic do not fall below: bounds of single points.
    """
    attack = PGD(model, restarts=2)
    exact = Verifier(model, "ibp", dtype="float64", strip_head=True)
    rows = margin_rows(classes, exact.nb_outputs)
    found = []
    for epsilon in epsilons:
        points = attack(Ball(images, epsilon, clip=CLIP), classes).points.astype(np.float64)
        found.append(exact.bound_rows(Ball(points, 0.0), rows)[0].max(axis=1))
    return found


def _compare(
    method: str, proved: list[Proved], attained: list[np.ndarray], epsilons: Sequence[float]
) -> None:
    for epsilon, overlaps, values in zip(epsilons, proved, attained):
        check = partial(
            compare_bounds,
            what="an overlap",
            method=method,
            region=f"linf balls of radius {epsilon:g} within {CLIP}",
        )
        check(overlaps.separate[: len(values)], values)
        check(overlaps.margin[: len(values)], values)
