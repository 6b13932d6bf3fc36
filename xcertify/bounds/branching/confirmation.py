"""What counts as a counterexample: a point that is inside and violates, roundings or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.comparison import call_model, enclose_points, evaluate_model
from xcertify.bounds.engine import Engine
from xcertify.bounds.propagation import interval
from xcertify.bounds.rounding import relative_error
from xcertify.regions import Region
from xcertify.words import Words

_NB_NUMBERS = 2**22  # of rows, which are looked at together
_SHARE = 0.05  # of the time to compile what is asked of points, which a call takes uncompiled
_UNDERFLOW = 1e-290  # what numbers too small for float64 can add up to
_FLUSHED = 1e-30  # what numbers too small for the model's own type can add up to


def given_type(engine: Engine) -> str:
    """The floating type in which the model gets the input that varies."""
    dtype = keras.backend.standardize_dtype(engine.network.varied.dtype)
    return "float64" if dtype == "float64" else "float32"


def outputs_at(engine: Engine, inputs: Sequence[np.ndarray], share: float = math.inf) -> np.ndarray:
    """Outputs (B, K) float64 of the network at points, computed in the model's type.

    `inputs` are (B, *shape) each, in the order of the graph; `share` as for `Compiled`.
    """
    graph, dtype = engine.graph, given_type(engine)
    shapes = [node.shape for node in graph.nodes[: graph.nb_inputs]]
    compiled = engine.compiled(
        ("outputs", dtype),
        lambda *inputs: graph.evaluate(inputs),
        [((None, *shape), dtype) for shape in shapes],
    )
    with backend.full_precision():
        found = np.asarray(compiled(*inputs, share=share))
    return found.astype(np.float64).reshape(len(found), -1)


def _is_given(engine: Engine, points: np.ndarray) -> np.ndarray:
    """Which of N points the type of what varies holds as they are, (N,) bool."""
    dtype = engine.network.varied.dtype
    same = np.asarray(ops.cast(ops.cast(points, dtype), points.dtype)) == points
    return same.reshape(len(points), -1).all(axis=1)


def confirm(
    engine: Engine,
    region: Region,
    points: np.ndarray,
    rows: np.ndarray,
    limits: np.ndarray,
    constants: Sequence[np.ndarray] = (),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points as counterexamples, one for each of N regions.

    Parameters
    ----------
    engine
        The network.
    region
        N regions.
    points
        (N, *input), in or near the regions.
    rows, limits
        (N, P, J, K) and (N, P, J): a property, see `Verifier.decide`.
    constants
        The inputs that do not vary, (N, *shape) each.

    Returns
    -------
    points
        (N, *input) in the type that the model gets, the given ones moved into the regions.
    values
        (N,) float64: upper bounds of ``min_p max_j (rows[p, j] @ f(x) - limits[p, j])`` at these
        points, for the network in real arithmetic; inf where no such point is inside.
    violated
        (N,) bool: where the point is a counterexample.

    Guarantee
    ---------
    Where `violated`, the point lies in the stated region (the sides of a ball are not rounded, but
    for those of its valid range), its value is at most 0 in real arithmetic, and the property is
    violated by the outputs that the model itself returns for it; where a softmax or sigmoid is left
    out, by the logits as the model computes them, and the model's outputs are those of such logits.
    NaN violates nothing. Called with several points together a model may round in another way than
    with one: what it returns so counts where no roundings, sums in any order, could undo it.
    """
    points = move_inside(region, points, given_type(engine))
    inside = contains(region, points) & _is_given(engine, points)
    values = np.full(len(points), np.inf)
    violated = np.zeros(len(points), bool)
    at_once = engine.budget.nb_samples(engine.graph)
    places = np.flatnonzero(inside)
    for first in range(0, len(places), at_once):
        some = places[first : first + at_once]
        inputs = [points[some], *(constant[some] for constant in constants)]
        inputs = [array.astype(np.float64) for array in inputs]
        values[some] = _least(*_real_outputs(engine, inputs), rows[some], limits[some])
        wrong = values[some] <= 0
        if wrong.any():
            some, inputs = some[wrong], [array[wrong] for array in inputs]
            violated[some] = _violates(engine, inputs, rows[some], limits[some])
    return points, values, violated


def _least(
    lower: np.ndarray,
    upper: np.ndarray,
    rows: np.ndarray,
    limits: np.ndarray,
    slack: float | None = None,
) -> np.ndarray:
    """Upper bounds (N,) of min_p max_j (rows @ f - limits).

    The outputs f are from `lower` to `upper`, (N, K). `slack` is relative; by default it
    covers the roundings of these sums.
    """
    if slack is None:
        slack = relative_error(rows.shape[-1] + 8, "float64")
    found = np.empty(len(rows))
    at_once = max(1, _NB_NUMBERS // max(1, rows[:1].size))
    for first in range(0, len(rows), at_once):
        some = slice(first, first + at_once)
        own = np.asarray(rows[some], np.float64)
        largest = np.where(own > 0, upper[some, None, None], lower[some, None, None])
        with np.errstate(invalid="ignore", over="ignore"):
            terms = np.where(own == 0, 0.0, own * largest)
            values = terms.sum(axis=-1) - limits[some]
            room = np.abs(terms).sum(axis=-1) + np.abs(limits[some])
            values = np.where(np.isfinite(limits[some]), values + slack * room, values)
        found[some] = np.where(np.isnan(values), np.inf, values).max(axis=-1).min(axis=-1)
    return found


def _real_outputs(engine: Engine, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Proved bounds (N, K) of the outputs in real arithmetic, at points and constants."""
    lower, upper, reference, finite = _enclosed(engine, inputs, None, engine.graph.output)
    slack = relative_error(4, "float64") * np.abs(reference) + _UNDERFLOW
    lower, upper = lower - slack, upper + slack
    return np.where(finite[:, None], lower, -np.inf), np.where(finite[:, None], upper, np.inf)


def _enclosed(
    engine: Engine, inputs: Sequence[np.ndarray], precision: str | None, node: int
) -> list[np.ndarray]:
    """Sides and reference (N, D) of a node at points, and where all is finite, (N,).

    With what roundings in a precision can make of it, in any order of sums; None: real arithmetic.
    """
    graph = engine.graph

    def enclosed(*inputs: Any) -> list[Any]:
        enclosures = enclose_points(graph, inputs, precision, [node])
        found = [*enclosures[node].absolute(), enclosures[node].reference]
        size = math.prod(graph.nodes[node].shape)
        return [*(ops.reshape(a, (-1, size)) for a in found), interval.finite(enclosures)]

    shapes = [node.shape for node in graph.nodes[: graph.nb_inputs]]
    signature = [((None, *shape), "float64") for shape in shapes]
    ask = engine.compiled(("enclosed", precision, node), enclosed, signature)
    with backend.full_precision():
        found = ask(*inputs, share=_share(engine))
    return [np.asarray(array) for array in found]


def _violates(
    engine: Engine, inputs: Sequence[np.ndarray], rows: np.ndarray, limits: np.ndarray
) -> np.ndarray:
    """Which of N points violate a property as the model itself computes it, (N,) bool.

    Where a head is left out, never where the model returns something else than its graph says,
    beyond its roundings. From a layer on (`start_layer`), or before a head, a model cannot be
    called: its graph is in its place, in the type that it gets.
    """
    network, graph = engine.network, engine.graph
    has_head = graph.output != graph.result

    def violate(lower: np.ndarray, upper: np.ndarray, some: Any = slice(None)) -> np.ndarray:
        return _least(lower, upper, rows[some], limits[some], 0.0) <= 0

    if has_head or network.start_layer is not None:
        with backend.full_precision():
            given = [ops.convert_to_tensor(array, given_type(engine)) for array in inputs]
            outputs = np.asarray(graph.evaluate(given)).astype(np.float64)
        outputs = outputs.reshape(len(outputs), -1)
        found = violate(outputs, outputs)
        if network.start_layer is not None:
            return found
    lower, upper, _, finite = _enclosed(engine, inputs, network.precision, graph.result)
    lower, upper = lower - _FLUSHED, upper + _FLUSHED

    def is_own(outputs: np.ndarray, some: Any = slice(None)) -> np.ndarray:
        return ((outputs >= lower[some]) & (outputs <= upper[some])).all(axis=1)

    together = _own_outputs(engine, inputs)
    own = is_own(together)
    if has_head:
        left = np.flatnonzero(found & ~own)
    else:
        # Called with one input, the model may round in another way than with all of them together.
        found = own & finite & violate(together, together) & violate(lower, upper)
        found &= "16" not in network.precision  # of which sides prove nothing
        left = np.flatnonzero(~found)
    if len(left):
        ones = network.in_order([array[left] for array in inputs])
        alone = evaluate_model(network.model, ones, network.output_number, training=False)
        alone = alone.reshape(len(left), -1)
        found[left] = is_own(alone, left) if has_head else violate(alone, alone, left)
    return found


def _own_outputs(engine: Engine, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """What the model returns for N points together, (N, K) float64; NaN where it cannot be called.

    A model of a fixed batch is called with so many at a time.
    """
    network = engine.network
    tensors = network.model.inputs
    ask = engine.compiled(
        ("model",),
        partial(call_model, network.model, network.output_number, training=False),
        [(tuple(tensor.shape), tensor.dtype) for tensor in tensors],
        only_if_possible=True,
    )
    given = [
        ops.cast(values, tensor.dtype) for values, tensor in zip(network.in_order(inputs), tensors)
    ]
    nb_points, sizes = len(inputs[0]), {tensor.shape[0] for tensor in tensors} - {None}
    step, found = min(sizes, default=nb_points), []
    for first in range(0, nb_points, step):
        places = np.minimum(np.arange(first, first + step), nb_points - 1)
        try:
            with backend.full_precision():
                some = (ops.take(values, places, axis=0) for values in given)
                outputs = np.asarray(ask(*some, share=_share(engine)))
            found.append(outputs.reshape(step, -1)[: nb_points - first])
        except Exception:  # whatever a user's model raises: it is called with one point then
            return np.full((nb_points, 1), np.nan)
    return np.concatenate(found)


def _share(engine: Engine) -> float:
    """Of the time to compile a function, what it takes uncompiled."""
    if engine.compile == "auto":
        return _SHARE
    return math.inf if engine.compile else 0.0


# --- inside -------------------------------------------------------------------------------------


def move_inside(region: Region, points: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers of a floating type inside N regions near points (N, *shape), where there are any."""
    if isinstance(region, Words):
        return region.project(points).astype(dtype)
    center = region.center.astype(np.float64)
    lower, upper = inner_box(region, dtype)
    points = np.clip(points.astype(np.float64), lower, upper)  # upper, where nothing is between
    points = region.with_few(points)
    if region.epsilon is None or math.isinf(region.norm):
        return points.astype(dtype)
    radius = np.broadcast_to(np.asarray(region.epsilon, np.float64), center.shape)
    step = np.where(radius > 0, points - center, 0.0)
    length = _lengths(step, radius, region.norm)
    room = 1.0 + 4.0 * relative_error(math.prod(region.shape) + 8, "float64")
    step /= np.maximum(length * room, 1.0).reshape(-1, *[1] * (step.ndim - 1))
    inside = (center + step).astype(dtype)
    outward = np.abs(inside.astype(np.float64) - center) > np.abs(step)
    inside = np.where(outward, np.nextafter(inside, center.astype(dtype)), inside)
    return np.clip(inside.astype(np.float64), lower, upper).astype(dtype)


def contains(region: Region, points: np.ndarray) -> np.ndarray:
    """Which of N points lie in N regions for certain, (N,) bool.

    Parameters
    ----------
    region
        N regions.
    points
        (N, *shape), one for each region.
    """
    if isinstance(region, Words):
        return region.holds(points)
    lower, upper = inner_box(region, str(points.dtype))
    between = (points >= lower) & (points <= upper)
    inside = np.all(between.reshape(len(points), -1), axis=1)
    if region.nb_changed is not None:
        inside &= region.count_changed(points) <= region.nb_changed
    if region.epsilon is None or math.isinf(region.norm):
        return inside
    center = region.center.astype(np.float64)
    radius = np.broadcast_to(np.asarray(region.epsilon, np.float64), center.shape)
    step = points.astype(np.float64) - center
    held = ((radius > 0) | (step == 0)).reshape(len(points), -1).all(axis=1)
    room = 1.0 + 4.0 * relative_error(math.prod(region.shape) + 8, "float64")
    return inside & held & (_lengths(step, radius, region.norm) * room <= 1.0)


def inner_box(region: Region, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Sides (N, *shape) of the largest boxes of numbers of a type in the box around N regions.

    That of a ball is not widened by the roundings of its sides. Where no number is between, lower
    is above upper.
    """
    lower = _rounded_inward(region.lower.astype(np.float64), 0.0, dtype, up=True)
    upper = _rounded_inward(region.upper.astype(np.float64), 0.0, dtype, up=False)
    if region.epsilon is None:
        return lower, upper
    center = region.center.astype(np.float64)
    radius = np.broadcast_to(np.asarray(region.epsilon, np.float64), center.shape)
    low, high = (
        _rounded_inward(*_exact_sum(center, sign * radius), dtype, up=sign < 0) for sign in (-1, 1)
    )
    return np.maximum(lower, low), np.minimum(upper, high)


def _exact_sum(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounded sum and what it lacks (Knuth's two-sum)."""
    total = first + second
    part = total - first
    return total, (first - (total - part)) + (second - part)


def _rounded_inward(values: np.ndarray, rest: Any, dtype: str, up: bool) -> np.ndarray:
    """``values + rest`` as `_exact_sum` gives them, in a type: the next number on one side."""
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    beyond = rounded.astype(np.float64) - values
    sign = 1 if up else -1
    wrong = (sign * beyond < 0) | ((beyond == 0) & (sign * rest > 0))
    return np.where(
        wrong, np.nextafter(rounded, np.asarray(np.inf if up else -np.inf, dtype)), rounded
    )


def _lengths(step: np.ndarray, radius: np.ndarray, norm: float) -> np.ndarray:
    """Norms (N,) of steps (N, *shape) in units of radii, of features whose radius is not 0."""
    scaled = np.abs(np.divide(step, radius, out=np.zeros(step.shape), where=radius > 0))
    return np.sum(scaled.reshape(len(step), -1) ** norm, axis=1) ** (1 / norm)
