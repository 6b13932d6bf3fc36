"""Questions to tiny networks whose answers are known, and what every `Decision` has to pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import keras
import numpy as np
from brute_force import Area, Net, property_values, read, worst
from tiny_networks import tiny

from xcertify.bounds import Verifier
from xcertify.regions import Ball, Region

# Worst values of the property that are asked for.
WANTED = (0.5, -0.5, 0.1, -0.1, 0.03, -0.03, 0.01, -0.01, 3e-3, -3e-3)
CLEAR = 1e-3  # worst values beyond this have to be decided, given enough branches


@dataclass(frozen=True)
class Questions:
    """N regions, a property of each, and an interval (N, 2) that holds its worst value."""

    net: Net
    region: Region
    rows: np.ndarray
    limits: np.ndarray
    truth: np.ndarray

    def __getitem__(self, some: slice) -> Questions:
        arrays = (self.rows[some], self.limits[some], self.truth[some])
        return Questions(self.net, self.region[some], *arrays)

    def area(self, sample: int) -> Area:
        return Area.of(self.region, sample)


@cache
def verifier_of(build: Callable[[Any], Any] | str, nb_inputs: int = 2, **options: Any) -> Verifier:
    """One verifier for all tests of an architecture, whose weights they change."""
    return Verifier(tiny(build, nb_inputs), **{"strip_head": False} | options)


def ask(
    model: keras.Model,
    seed: int,
    *,
    norm: float = np.inf,
    clip: tuple[float, float] | None = None,
    nb_properties: int = 2,
    nb_rows: int = 2,
    wanted: Sequence[float] = WANTED,
    radii: tuple[float, float] = (0.05, 0.5),
) -> Questions:
    """Random regions and properties, with limits that give the wanted worst values."""
    generator = np.random.default_rng(seed)
    net, size, nb = read(model), model.output_shape[-1], len(wanted)
    center = generator.uniform(-1, 1, (nb, *model.input_shape[1:])).astype("f4")
    region = Ball(center, generator.uniform(*radii, nb).reshape(-1, 1), norm, clip)
    rows = generator.normal(size=(nb, nb_properties, nb_rows, size)).astype("f4")
    limits = generator.normal(0, 0.3, (nb, nb_properties, nb_rows))
    found = [worst(net, Area.of(region, i), rows[i], limits[i]) for i in range(nb)]
    middle = np.mean(found, axis=1)
    limits += (middle - wanted)[:, None, None]
    truth = np.array(found) + (wanted - middle)[:, None]
    return Questions(net, region, rows, limits, truth)


def check(
    decision: Any, asked: Questions, model: keras.Model | None = None, least: float = np.inf
) -> None:
    """Nothing in a decision is wrong; worst values beyond `least` are decided.

    `model` is what the user calls; it has to return outputs that violate the property, too.
    """
    lowest, highest = asked.truth.T
    nb = len(asked.region)
    status, lower, upper = np.asarray(decision.status), decision.lower, decision.upper
    assert status.shape == lower.shape == upper.shape == (nb,)
    assert set(status) <= {"holds", "violated", "unknown"}
    assert lower.dtype == upper.dtype == np.float64 and not np.isnan([lower, upper]).any()
    assert (lower <= highest + 1e-9).all(), f"not below: {(lower - highest).max()}"
    assert (upper >= lowest - 1e-9).all(), f"not above: {(upper - lowest).min()}"
    holds, violated = status == "holds", status == "violated"
    assert (highest[holds] > 0).all() and (lowest[violated] <= 0).all()
    assert (lower[holds] > 0).all() and (upper[violated] <= 0).all()
    assert (lower[~holds] <= 0).all() and (upper[holds] > 0).all()
    assert (decision.holds == holds).all() and (decision.violated == violated).all()
    assert (decision.unknown == (status == "unknown")).all()
    undecided = (status == "unknown") & ((lowest > least) | (highest < -least))
    assert not undecided.any(), [(asked.truth[i], lower[i], upper[i]) for i in undecided.nonzero()]
    points = decision.counterexamples
    assert points.shape == asked.region.center.shape
    assert np.isnan(points[~violated]).all()
    for sample in np.flatnonzero(violated):
        _check_counterexample(points[sample : sample + 1], asked, sample, upper[sample], model)


def _check_counterexample(
    point: np.ndarray, asked: Questions, sample: int, upper: float, model: Any
) -> None:
    """It is inside, and violates in float64 and as the model computes."""
    assert asked.area(sample).contains(point.reshape(1, -1).astype("f8"), 1e-12).all()
    question = asked.rows[sample], asked.limits[sample]
    outputs = asked.net.values(point.reshape(1, -1).astype("f8"))
    (value,) = property_values(*question, outputs)
    # It is an upper bound of the value, by what is known of exponentials in float32 at most.
    slack = 1e-5 * (1 + (np.abs(question[0]) @ np.abs(outputs[0])).max())
    assert value <= 1e-12 and value - 1e-9 <= upper <= value + slack
    if model is not None:
        assert property_values(*question, model.predict_on_batch(point))[0] <= 0
