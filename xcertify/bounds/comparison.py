"""The net under all rules: the graph that is bounded, evaluated beside the model that is called.

A rule that reads a layer wrongly would make proofs about another network. At the first use, and
after every change of the model, the graph and the model are therefore evaluated on the same points,
the model as the user calls it and one input at a time, the graph on all of them at once. What the
model's own arithmetic may add is bounded by the engine itself; any other difference is a refusal.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.graph import activations, relaxations
from xcertify.bounds.graph.arguments import is_float
from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import Elementwise, Enclosure, Options
from xcertify.bounds.graph.relaxations import LOWER_SLOPES, Activation
from xcertify.bounds.network import Network
from xcertify.bounds.propagation import interval
from xcertify.keras_graph import UnsupportedLayerError, calls_between, layer_output
from xcertify.regions import Region
from xcertify.sharing import shared
from xcertify.tracing import graph_of

_SCALES = (0.1, 1.0, 10.0)  # of the noise, beside the size of the inputs themselves
_NB_REGIONS = 2  # of a batch, of which points are taken
_NB_CORNERS = 2
_LARGE = 2**22  # entries of all tensors of a network that is evaluated at one point only
_LARGEST = {"float64": 1.7e308, "float32": 3.4e38, "float16": 6.5e4, "bfloat16": 3.3e38}
_SLACK = 1e-9  # relative; errors of float64 are far below, wrong facts far above


@dataclass(frozen=True)
class Comparison:
    """Points of a region at which graph and model were found to agree.

    Attributes
    ----------
    region
        None where inputs were evaluated.
    samples
        (P,) int: the region that each of the points lies in.
    points
        (P, *shape) float64.
    values
        (P, outputs) float64: the bounded outputs there, in real arithmetic but for 1e-12.
    """

    region: Region | None
    samples: np.ndarray
    points: np.ndarray
    values: np.ndarray

    def among(self, samples: slice) -> Comparison | None:
        """The points of some of the regions, which count from 0 then; None if there is none."""
        some = np.flatnonzero((self.samples >= samples.start) & (self.samples < samples.stop))
        if self.region is None or not some.size:
            return None
        return Comparison(
            self.region[samples],
            self.samples[some] - samples.start,
            self.points[some],
            self.values[some],
        )

    def excluded(self, lower: np.ndarray, upper: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        """Which of the points leave bounds (P, S) there of rows (S, K) or (N, S, K), (P,) bool."""
        if not len(self.samples):
            return np.zeros(0, bool)
        values, size = self.values, np.abs(self.values)
        if rows is not None:
            if rows.ndim == 3:
                rows = np.asarray(rows[self.samples])
            rows = np.broadcast_to(rows, (len(values), *rows.shape[-2:])).astype(np.float64)
            values = np.einsum("psk,pk->ps", rows, values)
            size = np.einsum("psk,pk->ps", np.abs(rows), size)
        slack = _SLACK * size + 1e-30
        return ((values < lower - slack) | (values > upper + slack)).any(axis=1)


def compare(
    network: Network,
    graph: Graph,
    region: Region | None,
    inputs: Sequence[np.ndarray],
    state: Any,
) -> Comparison:
    """Evaluate graph and model on the same points, and refuse a graph that is another function.

    Parameters
    ----------
    network
        What the graph stands for.
    graph
        The network as operations.
    region
        Regions of the input that varies; its points are among those compared. None: only the
        inputs themselves are.
    inputs
        The input that varies and, behind it, the others, (N, *shape) each.
    state
        All that the graph was made of but weights. Where graph and model of this state have been
        compared before, only the graph is evaluated, inside of the region.

    Raises
    ------
    UnsupportedLayerError
        Naming the first layer that gives another value than the graph, by more than the roundings
        of the model's own arithmetic; or a layer whose declared facts are not true.
    """
    precision = network.precision
    samples, points = _points(network, graph, region, inputs, precision)
    of_model = network.start_layer, network.input_number, network.output_number
    # Several verifiers of one model need it once.
    agreed = shared(network.model, ("agreed", *of_model), state, threading.Event)
    if agreed.is_set():
        return _evaluated(graph, region, samples, points)
    if network.start_layer is None:
        starts, called = points, points
    else:
        latent = _part(network.model, layer_output(network.model, network.start_layer))
        called = points
        starts = [evaluate_model(latent, points, training=False)]
        starts += [points[number] for number in graph.fixed]
        samples = np.full(len(starts[0]), -1)
    with backend.full_precision():
        enclosures = enclose_points(graph, starts, precision, [graph.result, graph.output])
    lower, upper = _sides(enclosures[graph.result])
    beyond = _beyond(enclosures, precision) & (samples < 0)
    beyond = beyond.reshape(-1, *[1] * (lower.ndim - 1))
    lower, upper = np.where(beyond, -np.inf, lower), np.where(beyond, np.inf, upper)
    given = network.in_order(called)
    inference: dict[str, Any] = {"training": False}
    ways = [inference] if network.augments else [{}, inference]
    for way in ways:
        some = slice(None) if way is ways[0] else slice(0, 1)
        values = evaluate_model(
            network.model, [array[some] for array in given], network.output_number, **way
        )
        differs = _differs(values, lower[some], upper[some], samples[some] >= 0)
        if differs.any():
            _refuse(network, graph, given, enclosures, way, samples >= 0)
    if _may_be_rewritten(graph):
        values = evaluate_model(
            network.model, given, network.output_number, call=graph_of(call_model), training=False
        )
        if _differs(values, lower, upper, samples >= 0).any():
            raise UnsupportedLayerError(
                f"The model '{network.model.name}' cannot be bounded: TensorFlow computes "
                f"something else for model.predict and in a tf.function than for model(x), since "
                f"it rewrites LeakyReLU behind a sum of convolutions with another slope (a fault "
                f"of TensorFlow with oneDNN). Set the environment variable TF_ENABLE_ONEDNN_OPTS=0 "
                f"before TensorFlow is imported"
            )
    for index in graph.ancestors([graph.result]):
        operation = graph.nodes[index].operation
        if isinstance(operation, Elementwise) and _is_declared(operation.activation):
            (parent,) = graph.nodes[index].parents
            reach = np.abs(np.asarray(enclosures[parent].reference))
            _check_facts(operation.activation, graph.nodes[index].layer, reach)
    agreed.set()
    return _evaluated(graph, region, samples, points)


def _may_be_rewritten(graph: Graph) -> bool:
    """Whether a graph of the model may be another function than the model.

    TensorFlow with oneDNN makes one kernel of Conv2D, Add and LeakyReLU, and forgets its slope.
    """
    for index in graph.ancestors([graph.result]):
        operation = graph.nodes[index].operation
        if not isinstance(operation, Elementwise) or not operation.activation.uniform:
            continue
        known = operation.activation
        if known.name in ("relu", "leaky_relu") and _on(known.derivative, np.array(-1.0)) != 0:
            return True
    return False


def _evaluated(
    graph: Graph, region: Region | None, samples: np.ndarray, points: Sequence[np.ndarray]
) -> Comparison:
    """The points inside of the region, and the outputs that are bounded there."""
    inside = np.flatnonzero(samples >= 0)
    points = [array[inside] for array in points]
    if not len(inside):
        return Comparison(region, samples[inside], points[0], np.zeros((0, 0)))
    with backend.full_precision():
        bounded = np.asarray(graph.evaluate([*map(_tensor, points)]))
    return Comparison(region, samples[inside], points[0], bounded.reshape(len(inside), -1))


def refuse_excluding(
    graph: Graph, region: Region, comparison: Comparison, excluded: np.ndarray
) -> None:
    """Refuse a graph whose bounds exclude what it computes at a point of the region.

    Raises
    ------
    UnsupportedLayerError
        Naming the first layer whose interval excludes its own value, if there is one.
    """
    which = int(np.argmax(excluded))
    region = region[comparison.samples[which : which + 1]]
    center = region.center.astype(np.float64)
    sides = (side.astype(np.float64) - center for side in (region.lower, region.upper))
    boxes = {0: Enclosure(ops.convert_to_tensor(center), *map(ops.convert_to_tensor, sides))}
    found = {0: comparison.points[which : which + 1]}
    at = "by backward passes alone"
    if graph.nb_inputs == 1:
        for index in graph.ancestors([graph.output]):
            node = graph.nodes[index]
            interval.step(graph, index, boxes, Options("float64"))
            values = node.operation.evaluate(
                *(ops.convert_to_tensor(found[p]) for p in node.parents)
            )
            found[index] = np.asarray(values)
            lower, upper = (np.asarray(side) for side in boxes[index].absolute())
            slack = _SLACK * np.abs(found[index]) + 1e-30
            if ((found[index] < lower - slack) | (found[index] > upper + slack)).any():
                at = f"first in the layer '{node.layer}'"
                break
    raise UnsupportedLayerError(
        f"The bounds exclude what the network computes at a point of the region, {at}: what was "
        f"declared of a layer (register, register_affine, register_elementwise) is not true. If "
        f"nothing was, please report this as a bug."
    )


# --- points -------------------------------------------------------------------------------------


def _points(
    network: Network,
    graph: Graph,
    region: Region | None,
    inputs: Sequence[np.ndarray],
    precision: str,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Points of all inputs, (P, *shape) float64, and the region that each lies in, -1 for none."""
    generator = np.random.default_rng(0)
    large = sum(math.prod(node.shape) for node in graph.nodes) > _LARGE
    tensors = network.model.inputs
    first = tensors[network.input_number]
    others = [t for number, t in enumerate(tensors) if number != network.input_number]
    if network.start_layer is not None:  # values of inner tensors are those that inputs lead to
        shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
        drawn = [
            np.stack([s * generator.normal(size=shape) for s in (0.0, *_SCALES)])
            for shape in shapes
        ]
        # Of whole numbers, such as tokens, most models know only those from 0 on.
        drawn = [
            _as_given(array if is_float(t.dtype) else np.abs(array), t, precision)
            for array, t in zip(drawn, tensors)
        ]
        return np.full(len(drawn[0]), -1), drawn
    varied, *fixed = inputs
    chosen = [0] if large else sorted({0, len(varied) - 1})[:_NB_REGIONS]
    regions_of, points = [], []
    for sample in chosen:
        some = [varied[sample].astype(np.float64)]
        if region is not None:
            one = region[sample : sample + 1]
            lower, upper = one.lower[0].astype(np.float64), one.upper[0].astype(np.float64)
            for _ in range(_NB_CORNERS if sample == 0 and not large else 1):
                corner = np.where(generator.random(lower.shape) < 0.5, lower, upper)
                some.append(one.project(corner[None])[0])
        some = some[-1:] if large else some
        regions_of += [sample] * len(some)
        points += some
    behind = [[array[sample].astype(np.float64) for sample in regions_of] for array in fixed]
    if not large:
        size = max(1.0, float(np.abs(varied[0]).max()))
        for scale in sorted({*_SCALES, size}):
            points.append(scale * generator.normal(size=varied.shape[1:]))
            for array, values in zip(fixed, behind):
                values.append(scale * generator.normal(size=array.shape[1:]))
    samples = np.array(regions_of + [-1] * (len(points) - len(regions_of)))
    stacked = _as_given(np.stack(points), first, precision)
    known = samples >= 0
    if region is None:
        samples[:] = -1
    else:  # rounding to the type of the input may have led out of the region
        at = region[samples[known]]
        moved = at.project(stacked[known]) != stacked[known]
        samples[np.flatnonzero(known)[moved.reshape(known.sum(), -1).any(axis=1)]] = -1
    return samples, [
        stacked,
        *(_as_given(np.stack(v), t, precision) for v, t in zip(behind, others)),
    ]


def _as_given(points: np.ndarray, tensor: Any, precision: str) -> np.ndarray:
    """Points that the type of an input, and that of the model, can hold; float64."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if dtype == "bool":
        return (points > 0.5).astype(np.float64)
    if "int" in dtype:
        limits = np.iinfo(dtype)
        return np.clip(np.round(points), float(limits.min), float(limits.max))
    for name in (dtype, precision):
        points = np.asarray(ops.cast(ops.cast(points, name), "float64"))
    return points


# --- both sides ---------------------------------------------------------------------------------


def enclose_points(
    graph: Graph, inputs: Sequence[np.ndarray], precision: str | None, targets: Sequence[int]
) -> dict[int, Enclosure]:
    """Every tensor at the points, with what the model's own roundings can make of it.

    Without a precision: in real arithmetic.
    """
    enclosures = {}
    for number, values in enumerate(inputs):
        values = ops.convert_to_tensor(values)
        zeros = ops.zeros_like(values, "float64")
        enclosures[number] = Enclosure(values, zeros, zeros)
    interval.propagate(graph, enclosures, Options("float64", precision), targets)
    return enclosures


def _beyond(enclosures: dict[int, Enclosure], precision: str) -> np.ndarray:
    """Points at which some value inside may overflow the model's own type, (P,) bool."""
    largest = 0.1 * _LARGEST[precision]
    sizes = [
        np.abs(side).reshape(len(side), -1).max(axis=1, initial=0.0)
        for enclosure in enclosures.values()
        for side in _sides(enclosure)
    ]
    return ~(np.max(sizes, axis=0) < largest)


def _sides(enclosure: Enclosure) -> tuple[np.ndarray, np.ndarray]:
    lower, upper = enclosure.absolute()
    return np.asarray(lower), np.asarray(upper)


def _part(model: keras.Model, tensor: keras.KerasTensor) -> keras.Model:
    """The part of a model that gives a tensor; with a name, since Keras counts those it chooses."""
    return keras.Model(model.inputs, tensor, name=f"{model.name}_part")


def evaluate_model(
    model: keras.Model,
    inputs: Sequence[np.ndarray],
    output: int = 0,
    call: Callable[..., Any] | None = None,
    **how: Any,
) -> np.ndarray:
    """One output of a model, called with one input at a time, (P, *shape) float64.

    By `call_model`, or what takes its place.

    NaN where the model cannot be called, as for numbers of tokens that it does not know.
    """
    found: list[Any] = []
    for number in range(len(inputs[0])):
        given = []
        for values, tensor in zip(inputs, model.inputs):
            one = values[number : number + 1]
            if tensor.shape[0] is not None:  # a fixed batch of equal inputs
                one = np.repeat(one, tensor.shape[0], axis=0)
            given.append(ops.convert_to_tensor(one.astype(np.float64), tensor.dtype))
        try:
            one_call = partial(call or call_model, model, output, *given, **how)
            values = np.asarray(backend.by_cpu(one_call))
        except Exception as error:
            failure = error
            found.append(None)
            continue
        # Kernels treat the last rows of a batch in another way than the first, up to roundings.
        dtype = keras.backend.standardize_dtype(model.outputs[output].dtype)
        finite = np.isfinite(values)
        size = np.abs(values[finite]).max(initial=0)
        slack = {"float64": 1e-7, "float32": 1e-3}.get(dtype, 0.1) * size
        with np.errstate(invalid="ignore"):  # an overflow is no number to compare with
            near = np.abs(values - values[:1]) <= slack
        same = (near | ~(finite | finite[:1])).all()
        found.append(values[:1] if same else values[:1] + np.nan)
    known = [values for values in found if values is not None]
    if not known:
        raise UnsupportedLayerError(
            f"The model '{model.name}' cannot be bounded, since it cannot be called with one input "
            f"of the shapes {[tuple(array.shape[1:]) for array in inputs]}."
        ) from failure
    missing = np.full(known[0].shape, np.nan)
    return np.concatenate([missing if values is None else values for values in found])


def call_model(model: keras.Model, output: int, *inputs: Any, **how: Any) -> Any:
    """One output of a model, called with tensors (P, *shape) in its types, (P, *shape) float64."""
    given = list(inputs)
    if not isinstance(model, keras.Sequential):
        given = [keras.tree.pack_sequence_as(model.input, given)]
    return ops.cast(keras.tree.flatten(model(*given, **how))[output], "float64")


def _differs(
    values: np.ndarray, lower: np.ndarray, upper: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """Which of the points tell model and graph apart, (P,) bool.

    Where the model overflows, only points of the region count; where its roundings may be anything,
    nothing can be said.
    """
    if values.shape != lower.shape:
        return np.ones(len(lower), bool)
    known = np.isfinite(lower) & np.isfinite(upper)
    finite = np.isfinite(values)
    room = 1e-30
    apart = known & finite & ((values < lower - room) | (values > upper + room))
    lost = known & ~finite & inside.reshape(-1, *[1] * (values.ndim - 1))
    return (apart | lost).reshape(len(values), -1).any(axis=1)


def _refuse(
    network: Network,
    graph: Graph,
    given: Sequence[np.ndarray],
    enclosures: dict[int, Enclosure],
    way: dict[str, Any],
    inside: np.ndarray,
) -> None:
    """Raise the refusal, naming the first layer whose value differs."""
    start = (
        None if network.start_layer is None else layer_output(network.model, network.start_layer)
    )
    name, layer = _first_difference(network.model, graph, given, enclosures, way, inside, "", start)
    where = "the model" if layer is None else f"the layer '{name}' of class {type(layer).__name__}"
    how = "model(x)" if not way else "model(x, training=False)"
    cure = "Replace it, or declare it rightly."
    if getattr(layer, "use_cudnn", False) and backend.accelerators():
        cure = (
            "On a GPU Keras has cuDNN compute such a layer, in arithmetic of its own: build it "
            "with use_cudnn=False and the same weights."
        )
    raise UnsupportedLayerError(
        f"The model '{network.model.name}' cannot be bounded: at {where}, what {how} computes "
        f"differs from what is bounded, by more than the roundings of {network.precision}. The "
        f"layer may be random, be called in a way that is not understood, overflow, mix the "
        f"samples of a batch, or what was declared of it (register, register_affine, "
        f"register_elementwise) may not be true. {cure}"
    )


def _first_difference(
    model: keras.Model,
    graph: Graph,
    given: Sequence[np.ndarray],
    enclosures: dict[int, Enclosure],
    way: dict[str, Any],
    inside: np.ndarray,
    prefix: str,
    start: Any = None,
) -> tuple[str | None, Any]:
    """Name and layer of the first call whose output differs; a nested model is looked into."""
    begin = model.inputs if start is None else [start]
    for call in calls_between(begin, model.outputs):
        layer, name = call.operation, prefix + call.operation.name
        if name not in graph.layers or name in graph.ambiguous:
            continue
        node = graph.layers[name]
        if node not in enclosures:
            continue
        try:
            values = evaluate_model(_part(model, call.output_tensors[0]), given, **way)
        except Exception:  # of any kind; the model as a whole could be called
            continue
        if not _differs(values, *_sides(enclosures[node]), inside).any():
            continue
        if isinstance(layer, keras.Model):
            try:
                inner = [
                    evaluate_model(_part(model, tensor), given, **way)
                    for tensor in call.input_tensors
                ]
                found = _first_difference(layer, graph, inner, enclosures, way, inside, name + "/")
            except Exception:
                found = None, None
            if found[1] is not None:
                return found
        return name, layer
    return None, None


# --- declared facts -----------------------------------------------------------------------------


def _is_declared(activation: Activation) -> bool:
    """Whether somebody else has stated the facts."""
    functions = activation.value, activation.derivative
    ours = all(str(function.__module__).startswith("xcertify.") for function in functions)
    ours = ours or any(activation is known for known in vars(activations).values())
    return activation.uniform and not ours


def _check_facts(activation: Activation, layer: str, reach: np.ndarray) -> None:
    """Refuse an activation whose stated facts do not enclose its own values.

    Intervals of many widths, over twice the range of inputs that were met.
    """
    farthest = 1.0 + 2.0 * float(np.max(reach[np.isfinite(reach)], initial=0.0))
    middles = np.linspace(-farthest, farthest, 65)[:, None]
    widths = np.array([1e-3, 0.03, 0.2, 1.0, 3.0, farthest])
    lower, upper = (middles - widths).ravel()[None], (middles + widths).ravel()[None]
    share = np.linspace(0, 1, 41)[:, None, None]
    points = lower + share * (upper - lower)
    values = _on(activation.value, points)
    size = np.abs(values) + 1e-12
    usable = np.isfinite(values).all(axis=0)

    def refuse_if(wrong: np.ndarray, fact: str) -> None:
        wrong = (wrong & usable).reshape(len(wrong), -1)
        if wrong.any():
            _, place = np.unravel_index(np.argmax(wrong), wrong.shape)
            raise UnsupportedLayerError(
                f"The layer '{layer}' cannot be bounded: the facts that were declared of its "
                f"function '{activation.name}' are not true. {fact} on "
                f"[{lower[0, place]:.4g}, {upper[0, place]:.4g}]; look at kinks, inflections, "
                f"extrema, curvature and derivative."
            )

    low, high = (
        np.asarray(x) for x in relaxations.image(activation, *map(_tensor, (lower, upper)))
    )
    slack = _SLACK * size
    refuse_if((values < low - slack) | (values > high + slack), "It leaves its interval")
    for slope in LOWER_SLOPES:
        found = relaxations.relaxation(activation, _tensor(lower), _tensor(upper), "float64", slope)
        below_slope, below, above_slope, above = (np.asarray(x, np.float64) for x in found)
        slack = _SLACK * (size + np.abs(below_slope * points) + np.abs(above_slope * points))
        crosses = (values < below_slope * points + below - slack) | (
            values > above_slope * points + above + slack
        )
        refuse_if(crosses, "It crosses a line under or over it")
    if activation.continuous:
        sides = relaxations.derivative_range(activation, *map(_tensor, (lower, upper)))
        low, high = (np.asarray(side) for side in sides)
        quotient = np.diff(values, axis=0) / np.diff(points, axis=0)
        slack = 1e-6 * (np.abs(quotient) + 1) + 1e-12 * size[1:] / np.diff(points, axis=0)
        refuse_if(
            (quotient < low - slack) | (quotient > high + slack),
            "It is steeper than its derivative",
        )


def _on(function: Callable[[Any], Any], points: np.ndarray) -> np.ndarray:
    return np.asarray(function(_tensor(points)))


def _tensor(values: np.ndarray) -> Any:
    return ops.convert_to_tensor(values, "float64")
