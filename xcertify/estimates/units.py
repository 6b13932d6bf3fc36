"""The units in which costs are counted: a few things that are measured, and what they say of more.

Bounds for which there is no time are estimated from those that were measured, by the products that
both take.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.attributions import Rise, Saliency
from xcertify.batches import most_at_once
from xcertify.bounds import GRADIENT_METHODS, METHODS, Verifier, Work
from xcertify.logits import logits_of
from xcertify.regions import Ball

_NB_INPUTS = 8  # of a measurement: a run has more of them in a batch, which costs no more for each
_EPSILON = 0.05  # of the range of the input; where fewer neurons are undecided bounds cost less
_NB_POINTS, _ITEM = 512, 8  # of `batch_size`; bytes of a number and its gradient
_BUDGET = 2**30  # bytes that bounds take at most, see `Verifier`
_ENOUGH, _MOST_CALLS = 0.3, 5  # seconds and calls of a measurement
# Of what is not measured, for want of time. How many times as long as a small gradient intervals
# take, how many times as long as them ten lines take at most; the share of neurons that are
# undecided; steps of alpha-crown; gradients in units of bounds of the outputs by "ibp" and "crown".
_INTERVALS, _MOST_TIMES, _UNDECIDED, _STEPS = 10.0, 4.0, 0.2, 50.0
_GRADIENTS = {"ibp": 8.0, "ibp-crown": 2.0, "crown-ibp": 4.0, "crown": 4.0}


class NoBounds(ValueError):
    """There are no such bounds; the message says why."""


@dataclass
class Units:
    """Seconds of a processor for each input: of an evaluation, of gradients, and of bounds.

    Attributes
    ----------
    model, one
        The model, and an input (1, *shape).
    work
        The products of bounds; None where there are none.
    nb_entries
        Numbers in all tensors of an evaluation.
    end
        When no more is measured.
    point, hidden, slope, call
        Seconds: of an evaluation at one of many points, with a random part of an input hidden, and
        of a gradient; and of a single gradient of a small batch, for each of its inputs.
    bounds
        By "outputs" or "gradient" and method, seconds of bounds.
    measured
        Which of them were measured.
    longest
        What the longest measurement took, compilation and all.
    """

    model: Any
    one: np.ndarray
    work: Work | None
    nb_entries: int
    end: float
    bounds: dict[tuple[str, str], float] = field(default_factory=dict)
    measured: set[tuple[str, str]] = field(default_factory=set)
    longest: float = 0.0

    def __post_init__(self) -> None:
        self.inputs = np.repeat(self.one, _NB_INPUTS, axis=0)
        size = self.one.size
        many, some = (
            most_at_once(self.model, int(np.clip(2**22 // size, 8, most)))
            for most in (4096, _NB_POINTS)
        )
        function = logits_of(self.model)

        @tf.function(autograph=False)
        def slopes(at: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(at)
                total = tf.reduce_sum(function(at)[:, 0])
            return tape.gradient(total, at)

        points = tf.constant(np.repeat(self.one, many, axis=0))
        self.point = _seconds(lambda: function(points)) / many
        self.slope = _seconds(lambda: slopes(points[:some])) / some
        rise = Rise(self.model, nb_samples=some)
        self.hidden = max(self.point, _seconds(lambda: rise.explain(self.one)) / some)
        saliency = Saliency(self.model)
        self.call = _seconds(lambda: saliency.explain(self.inputs)) / _NB_INPUTS
        if self.work is not None:
            self._measure_bounds(self.work)

    def bound(self, method: str, what: str = "outputs") -> float:
        """Seconds of bounds by a method; a `NoBounds` where there are none."""
        if (what, method) not in self.bounds:
            raise NoBounds("" if self.work is None else self.work.gradient_reason)
        return self.bounds[what, method]

    def nb_bytes(self, method: str) -> int:
        """What bounds of some inputs hold, about; without a method, a batch of evaluations."""
        if not method:
            return most_at_once(self.model, _NB_POINTS) * self.nb_entries * _ITEM
        if self.work is None:
            return 0
        rows = self.work.rows.get(method, self.work.rows["crown"])
        return min(_BUDGET, _NB_INPUTS * (self.work.sample_bytes + rows * self.work.row_bytes))

    def _measure_bounds(self, work: Work) -> None:
        """Bounds by each method while there is time; the others by those that were measured."""
        scale = float(np.ptp(self.one)) or 1.0
        region = Ball(self.inputs, _EPSILON * scale)
        verifiers = {method: Verifier(self.model, method) for method in METHODS}
        rows = np.eye(1, verifiers["crown"].nb_outputs, dtype=np.float32)

        def gradients(method: str) -> Callable[[], Any]:
            return lambda: verifiers["crown"].bound_gradient(region, rows, method=method)

        for method in ("ibp", "crown-ibp", "crown"):
            self._measure(("outputs", method), partial(verifiers[method].bound_outputs, region))
        for method in reversed(GRADIENT_METHODS if work.gradient else ()):
            self._measure(("gradient", method), gradients(method))
        method = "alpha-crown"
        self._measure(("outputs", method), partial(verifiers[method].bound_outputs, region))

    def _measure(self, what: tuple[str, str], bound: Callable[[], Any]) -> None:
        expected = self._expected(*what)
        self.bounds[what] = expected
        if time.monotonic() + 3 * _NB_INPUTS * expected + self.longest < self.end:
            begin = time.monotonic()
            self.bounds[what] = _seconds(bound) / _NB_INPUTS
            self.measured.add(what)
            self.longest = max(self.longest, time.monotonic() - begin)

    def _expected(self, what: str, method: str) -> float:
        """Seconds of bounds by what is known of others."""
        assert self.work is not None
        known, work = self.bounds, self.work.outputs
        if what == "gradient":
            return _GRADIENTS[method] * known["outputs", "ibp" if method == "ibp" else "crown"]
        if method == "ibp":
            return _INTERVALS * self.call
        if method == "crown-ibp":
            most = _MOST_TIMES * max(1.0, self.work.rows[method] / 10)
            return known["outputs", "ibp"] * min(most, work[method] / max(work["ibp"], 1.0))
        lines = known["outputs", "crown-ibp"]
        crown = lines * (1 + _UNDECIDED * (work["crown"] / max(work["crown-ibp"], 1.0) - 1))
        return crown if method == "crown" else _STEPS * known["outputs", "crown"]


def _seconds(function: Callable[[], Any]) -> float:
    """Of a processor, by a call after the first one, which may have compiled something."""
    begin = time.process_time()
    function()
    first = time.process_time() - begin
    found: list[float] = []
    while not found or (sum(found) < _ENOUGH and len(found) < _MOST_CALLS):
        begin = time.process_time()
        function()
        found.append(time.process_time() - begin)
    return min([first, *found])
