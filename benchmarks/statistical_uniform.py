"""Certified cosines of uniformly smoothed maps, and the number of the paper beside them.

Four tables:

- *paper*: the formula of Wang and Kong (2024) beside the smallest cosine that maps of a smoothed
  length t can have if the noises of two points do not share the part q, which is reached by a map
  that is built for it, and beside the bound that is certified;
- *noise*: the radius within which a cosine of .8 is certified, in standard deviations of the noise
  of a feature, for uniform noise and for normal noise of the same deviation; and for t = .9 in
  radii of the ball of the uniform noise, of which it is next to nothing in many dimensions;
- *limits*: the lower limit of the length t from n samples: as it is certified (along a direction
  that other samples chose), of maps that all lie at the angle arccos t to their mean, and of maps
  that point along it or against it; by the mean alone, whatever the maps do (Chernoff and
  Hoeffding); and by the distance of a mean of vectors to its expectation (McDiarmid), which needs
  no direction;
- *networks*: images of real networks. Noise is told as its deviation in a feature, in widths of the
  valid range, as are radii; *length* is that of the mean of the maps, before the limit; the cosine
  is certified within half of the deviation of the noise, and *attacked* is the smallest
  one that an attack found there, an estimate. Means over images, of radii medians, of cosines over
  images for which any is certified ("nothing": for how many none is). Defaults but for
  the images: 1000 samples that test, 100 that choose, alpha .001 for each image.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from statistical_networks import NETS, Net

from xcertify import VacuousWarning
from xcertify.attributions import (
    GradCAM,
    GradientInput,
    Saliency,
    UniformlySmoothedAttribution,
)
from xcertify.certificates.cosines import (
    NOISES,
    Noise,
    cosine_within,
    largest_epsilon,
    length_limit,
)
from xcertify.statistics import mean_lower, vector_mean_error

THRESHOLD = 0.8
LENGTHS = (0.3, 0.5, 0.7, 0.9, 0.99)
DIMENSIONS = (1, 10, 100, 784, 3072, 150_528)
DEVIATIONS = (0.05, 0.25)
EXPLAINERS: dict[str, Callable[[Net], Any]] = {
    "Saliency": lambda net: Saliency(net.model),
    "GradientInput": lambda net: GradientInput(net.model),
    "GradCAM": lambda net: GradCAM(net.model),
}
NETWORKS = {
    "digits": ("Saliency", "GradientInput", "GradCAM"),
    "cifar": ("Saliency", "GradientInput", "GradCAM"),
    "emotions": ("Saliency", "GradCAM"),
}
ATTACKED = ("digits", "cifar")  # second derivatives of the other one take minutes for an image
NB_IMAGES = 2
LIMITS = {
    "same": "as certified, all at one angle",
    "opposite": "as certified, along or against",
    "mean": "by the mean alone",
    "mcdiarmid": "McDiarmid",
}

Row = dict[str, Any]


def run(quick: bool) -> Iterator[Row]:
    """The rows of all tables; each says of which it is."""
    yield from of_paper()
    yield from of_noise()
    yield from of_limits()
    for network in ("digits",) if quick else NETWORKS:
        try:
            net = NETS[network](1 if quick else NB_IMAGES)
        except (ImportError, FileNotFoundError) as missing:
            print(f"{network} is left out: {missing}", file=sys.stderr)
            continue
        for name in NETWORKS[network]:
            for deviation in DEVIATIONS[1:] if quick else DEVIATIONS:
                for noise in NOISES:
                    yield of_network(net, name, deviation, noise, 50 if quick else 1000)


def of_paper() -> Iterator[Row]:
    """Of one feature, where q is half of the distance in radii."""
    for length, unshared in ((0.8, 0.1), (0.8, 0.2), (0.8, 0.35), (0.5, 0.2), (0.3, 0.2)):
        noise = Noise(1.0, 1)
        about = length, 2 * unshared, noise
        readings = {"by 2q": 2 * unshared, "by q": unshared, "by 1 + q": 1 + unshared}
        yield {
            "table": "paper",
            "length": length,
            "q": unshared,
            "reached": reached(length, unshared),
            "certified": float(cosine_within(*about)),
            **{name: length / np.hypot(length, ratio) for name, ratio in readings.items()},
        }


def reached(length: float, unshared: float) -> float:
    """The cosine of a map that is built to have the smallest one, for t^2 <= 1 - 2 q + 4 q^2."""
    h = np.array([length, 0.0])
    sine = min(2 * unshared / length, 1.0)
    normal = np.array([-sine, np.sqrt(1 - sine**2)])
    moved = h + 2 * unshared * normal
    if 2 * unshared >= length:  # all of it turns round
        moved = h - 2 * unshared * np.array([1.0, 0.0])
    shared = (h + unshared * normal) / (1 - unshared)
    if np.linalg.norm(shared) > 1:
        raise ValueError(f"no map of length 1 is like that. Received: t={length}, q={unshared}")
    return float(h @ moved / (length * np.linalg.norm(moved)))


def of_noise() -> Iterator[Row]:
    """Radii in deviations."""
    for dimension in DIMENSIONS:
        for kind in NOISES:
            noise = Noise(1.0, dimension, kind)
            radii = largest_epsilon(np.array(LENGTHS), THRESHOLD, noise) / noise.deviation
            of_ball = float(largest_epsilon(0.9, THRESHOLD, noise) / noise.radius)
            row = {"table": "noise", "d": dimension, "kind": kind}
            yield row | {"radii": radii.tolist(), "of_ball": of_ball}


def of_limits() -> Iterator[Row]:
    """Lower limits of lengths."""
    for count in (100, 1000, 10_000):
        lengths = np.array(LENGTHS)
        by_mean = lengths - vector_mean_error(count, 1.0, 0.001)
        same = np.tile(lengths[:, None], (1, count))
        opposite = np.where(np.arange(count) < count * (1 + same) / 2, 1.0, -1.0)
        yield {
            "table": "limits",
            "n": count,
            "same": length_limit(same, 0.001).tolist(),
            "opposite": length_limit(opposite, 0.001).tolist(),
            "mean": np.maximum(2 * mean_lower((1 + lengths) / 2, count, 0.001) - 1, 0).tolist(),
            "mcdiarmid": np.maximum(by_mean, 0).tolist(),
        }


def of_network(net: Net, name: str, deviation: float, noise: str, nb_samples: int) -> Row:
    """What is certified, and what an attack finds."""
    size = net.inputs[0].size
    smoothed = UniformlySmoothedAttribution(
        EXPLAINERS[name](net),
        deviation * net.span * np.sqrt(size + 2),
        epsilon=0.5 * deviation * net.span,
        noise=noise,
        threshold=THRESHOLD,
        nb_samples=nb_samples,
        attack=net.name in ATTACKED,
    )
    clock, processed = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VacuousWarning)  # the shares stand in the table
        found = smoothed.certify(net.inputs, net.classes)
    means = found.explanation.reshape(len(found), -1).astype(np.float64)
    return {
        "table": "networks",
        "network": net.name,
        "explainer": name,
        "images": len(found),
        "deviation": deviation,
        "noise": noise,
        "noise_radius": smoothed.noise_radius / net.span,
        "mean_length": float(np.linalg.norm(means, axis=1).mean()),
        "length": float(found.length.mean()),
        "radius": float(np.median(found.radii) / net.span),
        "cosine": None if found.vacuous.all() else float(found.cosine[~found.vacuous].mean()),
        "nothing": int(found.vacuous.sum()),
        "estimate": float(found.cosine_estimate.mean()),
        "attacked": None if found.attacked is None else float(1 - np.max(found.attacked)),
        "broken": 0 if found.attacked is None else int((found.attacked > found.certified).sum()),
        "clock": (time.perf_counter() - clock) / len(found),
        "cpu": (time.process_time() - processed) / len(found),
    }


def tables(rows: list[Row]) -> str:
    """All four tables."""
    by_table: dict[str, list[Row]] = {}
    for row in rows:
        by_table.setdefault(row["table"], []).append(row)
    lines = ["### The number of the paper is no lower bound\n", *_of_paper(by_table["paper"])]
    lines += ["", f"### Radii of a cosine of {THRESHOLD}, in deviations of the noise\n"]
    lines += [*_of_noise(by_table["noise"]), "", "### Limits of lengths, alpha .001\n"]
    lines += [*_of_limits(by_table["limits"])]
    for network in dict.fromkeys(row["network"] for row in by_table.get("networks", [])):
        some = [row for row in by_table["networks"] if row["network"] == network]
        lines += ["", f"### {network}, {some[0]['images']} images\n", *_of_network(some)]
    return "\n".join(lines)


def _of_paper(rows: list[Row]) -> Iterator[str]:
    yield (
        "| t | q | certified | reached by a map | paper, V_U = 2 q V_S | with V_U = q V_S | "
        "with V_U = (1 + q) V_S |"
    )
    yield "| --- " * 7 + "|"
    for row in rows:
        certified = "nothing" if row["certified"] < 0 else f"{row['certified']:.4f}"
        readings = " | ".join(f"{row[name]:.4f}" for name in ("by 2q", "by q", "by 1 + q"))
        yield f"| {row['length']} | {row['q']} | {certified} | {row['reached']:.4f} | {readings} |"


def _of_noise(rows: list[Row]) -> Iterator[str]:
    heads = " | ".join(f"t = {length}" for length in LENGTHS)
    yield f"| d | noise | {heads} | t = 0.9, in radii of the ball |"
    yield "| --- " * (3 + len(LENGTHS)) + "|"
    for row in rows:
        radii = " | ".join(f"{radius:.3f}" for radius in row["radii"])
        yield f"| {row['d']} | {row['kind']} | {radii} | {row['of_ball']:.4f} |"


def _of_limits(rows: list[Row]) -> Iterator[str]:
    yield f"| n | limit | {' | '.join(f't = {length}' for length in LENGTHS)} |"
    yield "| --- " * (2 + len(LENGTHS)) + "|"
    for row in rows:
        for name, words in LIMITS.items():
            limits = " | ".join(f"{limit:.3f}" for limit in row[name])
            yield f"| {row['n']} | {words} | {limits} |"


def _of_network(rows: list[Row]) -> Iterator[str]:
    yield (
        "| explainer | deviation (ball) | noise | length | its limit | radius of .8 | certified | "
        "attacked | the paper's number | processor, s |"
    )
    yield "| --- " * 10 + "|"
    for row in rows:
        certified = "nothing" if row["cosine"] is None else f"{row['cosine']:.3f}"
        if row["nothing"] and row["cosine"] is not None:
            certified += f" (nothing: {row['nothing']})"
        attacked = "" if row["attacked"] is None else f"{row['attacked']:.4f}"
        yield (
            f"| `{row['explainer']}` | {row['deviation']} ({row['noise_radius']:.1f}) | "
            f"{row['noise']} | {row['mean_length']:.3f} | {row['length']:.3f} | "
            f"{row['radius']:.4f} | {certified} | {attacked} | "
            f"{row['estimate']:.3f} | {row['cpu']:.2g} |"
        )
    broken = sum(row["broken"] for row in rows)
    total = sum(row["images"] for row in rows if row["attacked"] is not None)
    if total:
        yield f"\nAttacked beyond what is certified: {broken} of {total}."
