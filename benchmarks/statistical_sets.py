"""Probably sufficient sets: how many of the top pixels keep the class, beside proofs and attacks.

*Sizes.* For each network of `statistical_networks.py`, explainer and region: the mean share of the
pixels that an input keeps for `ProbableSize` to certify that the class stays, for at least 95 % of
the points, with confidence 99 % for each image (its defaults; halving to a single pixel). Radii are
shares of the width of the valid range, 1 being all of it. What is not kept is uniform there, at
corners, or from *other images* of the same data. *Always* is the least that counterexamples leave
for all points (the mean of ``interval.attacked``), *proved* what `SufficientSize` proves by bounds
alone, of the digits.

*Searches.* The same sizes by halving and by a sequence of 49 steps downward, and of a share of
99 %, with the number of points that the network was asked about and the seconds for an image, after
a first call, without the attack. MobileNetV2 has random weights and is there for its costs, with
14 x 14 cells in the place of pixels.

*Levels.* Inputs of which no size below all is enough, by a little, with `delta` allowed: how often
one is claimed, with the interval of Clopper and Pearson (99.9 %) of that rate, and the rate that is
*expected* of binomial numbers. At the number of draws for which the level of a single test is
closest to what is allowed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from statistical_networks import NETS, Net

from xcertify.attributions import EVA, GradCAM, GradientInput, RandomMap, Rise, Saliency
from xcertify.metrics import ProbableSize, SufficientSize
from xcertify.statistics import binomial_interval, binomial_tail

EXPLAINERS: dict[str, Callable[[Net], Any]] = {
    "EVA": lambda net: EVA(net.model, 0.01 * net.span, grid_size=7, method="crown-ibp"),
    "Saliency": lambda net: Saliency(net.model),
    "GradientInput": lambda net: GradientInput(net.model),
    "Rise": lambda net: Rise(net.model, nb_samples=500, grid_size=4),
    "GradCAM": lambda net: GradCAM(net.model),
    "RandomMap": lambda net: RandomMap(net.model),
}
REGIONS = ((0.08, "uniform"), (0.08, "corners"), (1.0, "uniform"), (1.0, "other images"))
NB_IMAGES = {"digits": 20, "cifar": 20, "emotions": 4, "mobilenet": 1}
SLOW = {("emotions", "EVA")}
COSTS_ONLY = ("mobilenet",)
NB_OTHERS = 100  # images that features are drawn from
NB_RUNS = 10_000
NB_FEATURES, SHARE = 8, 0.9  # of the inputs in these runs, and what is asked for
LESS = 1e-4  # by which what they have is less
NB_TESTS = {"sequence": 1, "bisection": NB_FEATURES.bit_length()}  # that share what is allowed
NB_FAILED = {"sequence": 1, "bisection": 3}  # tests of an input of which none passes: 4, 6, 7 kept

Row = dict[str, Any]


def run(quick: bool) -> Iterator[Row]:
    """Rows of all three tables; `table` says which they are of."""
    for network, nb_images in NB_IMAGES.items():
        nb_images = 2 if quick else nb_images
        others = 0 if network in COSTS_ONLY else NB_OTHERS
        try:
            net = NETS[network](nb_images + others)
        except (ImportError, FileNotFoundError) as missing:
            print(f"{network} is left out: {missing}", file=sys.stderr)
            continue
        if network in COSTS_ONLY:
            yield cost(net, nb_images, "Saliency", 0.08, "uniform", grid_size=14)
            continue
        nb_images = min(nb_images, len(net.inputs) // 2)
        for name in list(EXPLAINERS)[1:2] if quick else EXPLAINERS:
            if (network, name) not in SLOW:
                yield from sizes(net, nb_images, name, proves=network == "digits")
        for settings in (
            {},
            {"search": "sequence", "steps": 49},
            {"share": 0.99, "nb_samples": 1000},
        ):
            yield cost(net, nb_images, "Saliency", 1.0, "other images", **settings)
    yield from levels(500 if quick else NB_RUNS)


def metric_of(
    net: Net, nb_images: int, epsilon: float, distribution: str, **settings: Any
) -> ProbableSize:
    """The metric for the first images; the others are what "other images" are drawn from."""
    others = net.inputs[nb_images:]

    def of_others(generator: np.random.Generator, region: Any, count: int) -> np.ndarray:
        return others[generator.integers(len(others), size=count)]

    return ProbableSize(
        net.model,
        net.inputs[:nb_images],
        epsilon=epsilon * net.span,
        clip=net.clip,
        distribution=of_others if distribution == "other images" else distribution,
        **settings,
    )


def sizes(net: Net, nb_images: int, name: str, *, proves: bool) -> Iterator[Row]:
    """Of one explainer: a row for each region and distribution."""
    inputs = net.inputs[:nb_images]
    maps = EXPLAINERS[name](net).explain(inputs, net.classes[:nb_images])
    needed: dict[float, np.ndarray] = {}  # by radius: what is a counterexample in one row is in all
    proved: dict[float, float] = {}
    for epsilon, distribution in REGIONS:
        is_first = epsilon not in needed
        metric = metric_of(net, nb_images, epsilon, distribution, attack=is_first)
        found = metric.detailed_evaluate(maps)
        assert found.interval.attacked is not None
        needed[epsilon] = np.maximum(found.interval.attacked, needed.get(epsilon, 0.0))
        if proves and is_first:
            settings = {"epsilon": epsilon, "clip": net.clip, "complete": False}
            proved[epsilon] = SufficientSize(net.model, inputs, **settings).evaluate(maps)
        yield {
            "table": "sizes",
            "network": net.name,
            "explainer": name,
            "images": nb_images,
            "epsilon": epsilon,
            "distribution": distribution,
            "always": float((needed[epsilon] / found.nb_features).mean()),
            "size": found.score,
            "proved": proved.get(epsilon),
        }


def cost(
    net: Net, nb_images: int, name: str, epsilon: float, distribution: str, **settings: Any
) -> Row:
    """What a search asks of the network, and how long it takes."""
    maps = EXPLAINERS[name](net).explain(net.inputs[:nb_images], net.classes[:nb_images])
    metric = metric_of(net, nb_images, epsilon, distribution, attack=False, **settings)
    metric.of_sets(np.ones(metric.inputs.shape[:3], bool))  # compiles
    begin, processed = time.perf_counter(), time.process_time()
    found = metric.detailed_evaluate(maps)
    seconds = time.perf_counter() - begin, time.process_time() - processed
    return {
        "table": "searches",
        "network": net.name,
        "explainer": name,
        "images": nb_images,
        "epsilon": epsilon,
        "distribution": distribution,
        "search": metric.search,
        "share": metric.share,
        "features": int(found.nb_features.max()),
        "size": found.score,
        "points": float(found.nb_drawn.mean()),
        "clock": seconds[0] / nb_images,
        "cpu": seconds[1] / nb_images,
    }


def levels(nb_runs: int) -> Iterator[Row]:
    """How often sizes are claimed that are not enough, in the worst case."""
    inputs = np.zeros((nb_runs, NB_FEATURES), np.float32)
    inputs[:, -1] = np.linspace(0, 1, nb_runs)  # so that each has draws of its own
    # the first feature decides, and is ranked last
    maps = np.tile(np.r_[-1.0, np.arange(NB_FEATURES - 1)], (nb_runs, 1))
    model = keras.Sequential([keras.Input((NB_FEATURES,)), keras.layers.Dense(1)])
    weights = np.eye(NB_FEATURES, 1, dtype=np.float32)
    model.set_weights([weights, np.array([2 * (SHARE - LESS) - 1], np.float32)])
    for delta in (0.05, 0.001):
        for search, nb_tests in NB_TESTS.items():
            nb_samples = closest(delta / nb_tests)
            metric = ProbableSize(
                model,
                inputs,
                batch_size=None,
                epsilon=1.0,
                share=SHARE,
                delta=delta,
                nb_samples=nb_samples,
                search=search,
                steps=-1,
                attack=False,
            )
            wrong = int((metric.detailed_evaluate(maps).scores < 1).sum())
            low, high = binomial_interval(wrong, nb_runs, 0.001)
            row = {"table": "levels", "search": search, "delta": delta, "runs": nb_runs}
            row |= {"samples": nb_samples, "wrong": wrong / nb_runs}
            yield row | {"lower": float(low), "upper": float(high)}


def closest(level: float) -> int:
    """The number of draws, up to 400, of which a test comes closest to a level from below."""
    return max(range(1, 401), key=lambda nb_samples: passing(nb_samples, level, SHARE))


def passing(nb_samples: int, level: float, share: float) -> float:
    """How likely a test at a level passes where the class stays for a share of the points."""
    kept = np.arange(nb_samples, 0, -1)
    fits = binomial_tail(kept, nb_samples, SHARE) <= level
    return float(binomial_tail(kept[fits].min(), nb_samples, share)) if fits.any() else 0.0


def tables(rows: list[Row]) -> str:
    """Three tables in Markdown."""
    writers = {"sizes": _sizes, "searches": _searches, "levels": _levels}
    return "\n\n".join(
        write([row for row in rows if row["table"] == table]) for table, write in writers.items()
    )


def _sizes(rows: list[Row]) -> str:
    lines = ["| network | explainer | radius | points | always, at least | probably | proved |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        proved = "" if row["proved"] is None else f"{row['proved']:.3f}"
        lines.append(
            f"| {row['network']} | `{row['explainer']}` | {row['epsilon']:g} | "
            f"{row['distribution']} | {row['always']:.3f} | {row['size']:.3f} | {proved} |"
        )
    return "\n".join(lines)


def _searches(rows: list[Row]) -> str:
    lines = [
        "| network | features | search | share | size | points | s on the clock | s of cores |"
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    lines += [
        f"| {row['network']} | {row['features']} | {row['search']} | {row['share']:g} | "
        f"{row['size']:.3f} | {row['points']:.0f} | {row['clock']:.2f} | {row['cpu']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _levels(rows: list[Row]) -> str:
    lines = ["| search | allowed | draws of a test | runs | wrong claims | between | expected |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        level = row["delta"] / NB_TESTS[row["search"]]
        one = passing(row["samples"], level, SHARE - LESS)
        expected = 1 - (1 - one) ** NB_FAILED[row["search"]]
        lines.append(
            f"| {row['search']} | {row['delta']:g} | {row['samples']} | {row['runs']:,} | "
            f"{row['wrong']:.4f} | {row['lower']:.4f} to {row['upper']:.4f} | {expected:.4f} |"
        )
    return "\n".join(lines)
