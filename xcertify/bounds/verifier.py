"""Verifier: verified bounds of a Keras model, the one class that the rest of the package uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from xcertify.bounds import backend, interval, linear
from xcertify.bounds.activations import SIGMOID
from xcertify.bounds.graph import Graph, UnsupportedLayerError, build_graph
from xcertify.bounds.lines import LinearBounds
from xcertify.bounds.multivariate import Softmax
from xcertify.bounds.operations import Elementwise, Enclosure, Options
from xcertify.bounds.registry import find_rule
from xcertify.bounds.relaxations import LOWER_SLOPES
from xcertify.bounds.rows import Sums
from xcertify.regions import Region

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")
_UNDERFLOW = 1e-30  # what numbers too small for the working type can add up to


class Verifier:
    """Verified bounds of a Keras model over regions of inputs.

    Parameters
    ----------
    model
        A built Sequential or functional model. A final softmax is left out: bounds are of the
        logits. The model is never modified, and its current weights are used at every call.
    method
        "ibp" (intervals; cheapest, loosest), "crown-ibp" (one backward pass with interval bounds
        inside), "crown" (backward passes inside too), "alpha-crown" (crown, then the lines under
        and over each activation optimised for every row; tightest and slowest), or
        "decomon:<method>", which runs decomon ("decomon:crown", "decomon:forward-ibp", ...). All
        but "ibp" are intersected with intervals.
    dtype
        "float32" or "float64": the type that bounds are computed in.
    arithmetic
        "real": bounds hold for the network in real arithmetic with its stored weights. "float32":
        they hold also for the network evaluated in float32 with sums in any order; a little wider.
    memory_budget
        Bytes that the engine's tensors may take at once (default 1 GiB). Work that does not fit is
        done in parts.
    start_layer
        Name of a layer: its output takes the place of the input, and regions are regions of it.
    logits
        Whether a sigmoid at the end is left out too.
    perturbed, output
        Name or number of the input that varies and of the output that is bounded, for models with
        several. The others of the inputs are given as `constants` with each call.
    lower_slope
        Slope of the line under an activation where it bends: "adaptive" (the line closest to the
        activation in the middle; for ReLU 1 where upper > -lower, else 0), "parallel" (that of the
        line above), "left" or "right" (that of the activation at the end; for ReLU 0 or 1).
    nb_steps, learning_rate
        Of "alpha-crown".

    Raises
    ------
    ValueError
        For an unknown method, dtype or arithmetic.
    UnsupportedLayerError
        For a model or layer that cannot be bounded; the message names it and what can be.

    Guarantee
    ---------
    No point of the region leaves the bounds, for the network in the stated arithmetic. Rounding of
    the bounds' own computation is covered by the error terms described in
    `xcertify.bounds.rounding`, under the standard model of floating-point arithmetic, with
    TensorFloat-32 switched off during the call; transcendental functions are trusted to 16 ulp in
    float64. With a "decomon:" method the guarantee is that of decomon.

    Examples
    --------
    >>> verifier = Verifier(model, method="crown")
    >>> lower, upper = verifier.bound_outputs(Ball(images, epsilon=0.01, clip=(0, 1)))
    """

    def __init__(
        self,
        model: keras.Model,
        method: str = "crown",
        *,
        dtype: str = "float32",
        arithmetic: str = "real",
        memory_budget: int = 2**30,
        start_layer: str | None = None,
        logits: bool = False,
        perturbed: int | str = 0,
        output: int | str = 0,
        lower_slope: str = "adaptive",
        nb_steps: int = 20,
        learning_rate: float = 0.1,
    ) -> None:
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64'. Received: {dtype!r}")
        if arithmetic not in ("real", "float32"):
            raise ValueError(f"arithmetic must be 'real' or 'float32'. Received: {arithmetic!r}")
        if lower_slope not in LOWER_SLOPES:
            raise ValueError(
                f"lower_slope must be one of {', '.join(LOWER_SLOPES)}. Received: {lower_slope!r}"
            )
        if isinstance(nb_steps, bool) or int(nb_steps) != nb_steps or nb_steps < 1:
            raise ValueError(f"nb_steps must be a whole number above 0. Received: {nb_steps!r}")
        if not learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0. Received: {learning_rate!r}")
        self.model, self.method, self.dtype = model, method, dtype
        self.arithmetic, self.memory_budget = arithmetic, int(memory_budget)
        self.start_layer, self.perturbed, self.output = start_layer, perturbed, output
        self.lower_slope, self.nb_steps, self.learning_rate = lower_slope, nb_steps, learning_rate
        self._decomon = None
        self._compiled: dict[Any, Callable] = {}
        self._options = Options(
            dtype,
            "float32" if arithmetic == "float32" else None,
            lower_slope,
            alternatives=method == "alpha-crown",
        )
        by_decomon = str(method).startswith("decomon:")
        if not by_decomon and method not in METHODS:
            raise ValueError(
                f"method must be one of {', '.join(METHODS)} or 'decomon:<method>'. "
                f"Received: {method!r}"
            )
        native = {"start_layer": None, "dtype": "float32", "arithmetic": "real", "perturbed": 0}
        native |= {"output": 0, "lower_slope": "adaptive"}
        for name, default in native.items():
            if by_decomon and getattr(self, name) != default:
                raise ValueError(
                    f"{name} can be chosen with the methods {', '.join(METHODS)} only. "
                    f"Received: {name}={getattr(self, name)!r} with method={method!r}"
                )
        self._graph = build_graph(model, find_rule, start_layer, perturbed, output)
        self._graph.output = _before_head(self._graph, logits)
        if by_decomon:
            self._decomon = _decomon_backend(model, method.removeprefix("decomon:"), logits)

    def bound_outputs(
        self, region: Region, constants: Sequence[Any] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the outputs (logits) over each region: lower and upper, (N, *outputs).

        See `Verifier` for the guarantee and `bound_rows` for parameters and errors.
        """
        lower, upper = self.bound_rows(region, None, constants)
        shape = (-1, *self._output_shape)
        return lower.reshape(shape), upper.reshape(shape)

    def bound_rows(
        self, region: Region, rows: np.ndarray | None = None, constants: Sequence[Any] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of linear functions ``rows @ f(x)`` of the outputs: margins, differences, sums.

        Parameters
        ----------
        region
            N regions of the model's input.
        rows
            (S, K) for all regions or (N, S, K), one set each; K is the number of outputs,
            flattened. None: the outputs themselves.
        constants
            Values (N, *shape) of the inputs that do not vary, in the model's order.

        Returns
        -------
        lower, upper
            (N, S) float32 (float64 with ``dtype="float64"``).

        Raises
        ------
        ValueError
            If the region does not fit the model's input or the rows do not fit its outputs.
        """
        rows = self._check(region, rows, constants)
        if self._decomon is not None:
            return self._decomon.bound_rows(region, rows)
        results = self._run(region, self._graph.output, rows, self._bound, constants)
        lower, upper = (np.concatenate(part) for part in zip(*results))
        return _outward(lower, upper, self.dtype)

    def linear_bounds(
        self, region: Region, rows: np.ndarray | None = None, constants: Sequence[Any] = ()
    ) -> LinearBounds:
        """Linear functions of the input under and over ``rows @ f(x)``; see `LinearBounds`.

        Parameters and errors as in `bound_rows`; needs "crown-ibp", "crown"
        or "alpha-crown" (which gives the lines of "crown").
        """
        self._refuse_decomon("linear_bounds")
        if self.method == "ibp":
            raise ValueError(
                "linear_bounds needs method='crown-ibp' or 'crown'. Received: method='ibp'"
            )
        rows = self._check(region, rows, constants)
        results = self._run(region, self._graph.output, rows, self._linear, constants)
        parts = [np.concatenate(part) for part in zip(*results)]
        return LinearBounds(region, *parts)

    def bound_layer(
        self, region: Region, layer: str, constants: Sequence[Any] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of a layer's output (after its activation) over each region, (N, *shape) each.

        `layer` is the layer's name; for a layer of a nested model "nested/layer".
        """
        self._refuse_decomon("bound_layer")
        if layer not in self._graph.layers:
            raise ValueError(
                f"layer must be one of {', '.join(self._graph.layers)}. Received: {layer!r}"
            )
        self._check(region, None, constants)
        node = self._graph.layers[layer]
        shape = self._graph.nodes[node].shape
        results = self._run(region, node, np.eye(math.prod(shape)), self._bound, constants)
        lower, upper = (np.concatenate(part).reshape((-1, *shape)) for part in zip(*results))
        return _outward(lower, upper, self.dtype)

    def evaluate(self, inputs: np.ndarray, constants: Sequence[Any] = ()) -> np.ndarray:
        """The bounded function itself (logits), (N, *outputs), in the verifier's dtype."""
        function = self._compile(
            "evaluate",
            lambda *inputs: _evaluate(self._graph, inputs),
            [((None, *shape), self.dtype) for shape in self._input_shapes],
        )
        with backend.full_precision():
            values = [ops.cast(values, self.dtype) for values in (inputs, *constants)]
            return np.asarray(function(*values))

    @property
    def nb_outputs(self) -> int:
        """Number K of outputs, flattened."""
        return math.prod(self._output_shape)

    @property
    def _input_shapes(self) -> list[tuple[int, ...]]:
        return [node.shape for node in self._graph.nodes[: self._graph.nb_inputs]]

    @property
    def _input_shape(self) -> tuple[int, ...]:
        return self._graph.nodes[0].shape

    @property
    def _output_shape(self) -> tuple[int, ...]:
        return self._graph.nodes[self._graph.output].shape

    def _refuse_decomon(self, what: str) -> None:
        if self._decomon is not None:
            raise ValueError(
                f"{what} is not available through decomon. Use method='crown' or 'crown-ibp'. "
                f"Received: method={self.method!r}"
            )

    def _check(
        self, region: Region, rows: np.ndarray | None, constants: Sequence[Any]
    ) -> np.ndarray:
        if not isinstance(region, Region):
            raise ValueError(
                f"region must be a Ball or a Box. Received: {type(region).__name__}; for inputs "
                f"and a radius write Ball(inputs, epsilon)"
            )
        if region.shape != self._input_shape:
            raise ValueError(
                f"region must be around inputs of shape {self._input_shape}. "
                f"Received: inputs of shape {region.shape}"
            )
        shapes = [(len(region), *shape) for shape in self._input_shapes[1:]]
        given = [np.shape(constant) for constant in constants]
        if given != shapes:
            raise ValueError(
                f"constants must hold the other inputs, of shapes {shapes}. Received: {given}"
            )
        size = self.nb_outputs
        if rows is None:
            return np.eye(size, dtype=self.dtype)
        rows = np.asarray(rows)
        fits = rows.ndim == 2 or (rows.ndim == 3 and len(rows) == len(region))
        if not fits or rows.shape[-1] != size:
            raise ValueError(
                f"rows must have the shape (S, {size}) or ({len(region)}, S, {size}). "
                f"Received: {rows.shape}"
            )
        if not np.isfinite(rows).all():
            raise ValueError("rows must be finite. Received: NaN or infinite coefficients")
        if (rows.astype(self.dtype) != rows).any():
            raise ValueError(
                f"rows must be exact in {self.dtype}, since the bounds hold for the numbers used. "
                f"Round them first, rows.astype('{self.dtype}'), or use dtype='float64'"
            )
        return rows.astype(self.dtype)

    def _run(
        self,
        region: Region,
        node: int,
        rows: np.ndarray,
        bound: Callable,
        constants: Sequence[Any],
    ) -> list[tuple]:
        """Call a compiled bound on as many samples at a time as the memory budget allows."""
        shared = rows.ndim == 2
        shape = self._graph.nodes[node].shape
        rows = rows.astype(self.dtype).reshape((*rows.shape[:-1], *shape))
        lower, upper = region.sides("float64")
        arrays = [
            region.center.astype("float64"),
            *_outward(lower - region.center, upper - region.center, self.dtype),
        ]
        arrays += [np.asarray(constant, dtype="float64") for constant in constants]
        is_ball = not math.isinf(region.norm)
        if is_ball:
            radius = np.broadcast_to(region.epsilon, region.center.shape)
            arrays.append(_outward(radius, radius, self.dtype)[1])
        function = self._compile(
            (bound.__name__, node, shared, region.norm),
            lambda rows, *tensors: bound(node, rows, region.norm, tensors, shared),
            [
                ((None, *shape) if shared else (None, None, *shape), self.dtype),
                ((None, *self._input_shape), "float64"),
                *[((None, *self._input_shape), self.dtype)] * 2,
                *[((None, *shape), "float64") for shape in self._input_shapes[1:]],
                *[((None, *self._input_shape), self.dtype)] * is_ball,
            ],
        )
        results = []
        step = self._nb_samples_at_once()
        with backend.full_precision():
            for first in range(0, len(region), step):
                part = slice(first, first + step)
                part_rows = rows if shared else rows[part]
                outputs = function(part_rows, *(array[part] for array in arrays))
                results.append(tuple(np.asarray(output) for output in outputs))
        return results

    def _nb_samples_at_once(self) -> int:
        """Samples whose intervals and relaxations take at most half of the memory budget."""
        per_sample = sum(math.prod(node.shape) for node in self._graph.nodes) * 64
        return max(1, self.memory_budget // 2 // per_sample)

    def _compile(self, key: Any, function: Callable, signature: list) -> Callable:
        if key not in self._compiled:
            self._compiled[key] = backend.compile(function, signature)
        return self._compiled[key]

    def _bounds(self, node: int, norm: float, tensors: tuple) -> linear.BackwardBounds:
        center, lower, upper, *others = tensors
        nb_fixed = self._graph.nb_inputs - 1
        zeros = [ops.zeros_like(c, dtype=self.dtype) for c in others[:nb_fixed]]
        fixed = [Enclosure(*sides) for sides in zip(others[:nb_fixed], zeros, zeros)]
        return linear.BackwardBounds(
            self._graph,
            [Enclosure(center, lower, upper), *fixed],
            others[nb_fixed] if len(others) > nb_fixed else None,
            norm,
            self._options,
            targets=[node],
            refine=self.method in ("crown", "alpha-crown"),
            relax=self.method != "ibp",
            budget=self.memory_budget // 2,
        )

    def _bound(
        self, node: int, rows: Any, norm: float, tensors: tuple, shared: bool
    ) -> tuple[Any, Any]:
        bounds = self._bounds(node, norm, tensors)
        rows = _per_sample(rows, tensors[0], shared)
        upper = bounds.interval_upper_bounds(node, rows)
        lower = -bounds.interval_upper_bounds(node, -rows)
        if self.method != "ibp":
            nb_samples, nb_rows = ops.shape(rows)[:2]
            places = ops.broadcast_to(ops.arange(nb_rows), (nb_samples, nb_rows))
            lower, upper = bounds.tighten(
                node,
                nb_rows,
                lambda first, last: (rows[:, first:last], places[:, first:last], Sums()),
                (lower, upper),
                self._optimized(bounds) if self.method == "alpha-crown" else None,
            )
        nominal, slack = self._nominal(bounds, node, rows)
        lower, upper = nominal + lower - slack, nominal + upper + slack
        # An overflow on the way leaves nothing proved.
        return (
            ops.where(ops.isnan(lower), -np.inf, lower),
            ops.where(ops.isnan(upper), np.inf, upper),
        )

    def _optimized(self, bounds: linear.BackwardBounds) -> Callable:
        return partial(
            bounds.optimized_upper_bounds,
            nb_steps=self.nb_steps,
            learning_rate=self.learning_rate,
        )

    def _linear(
        self, node: int, rows: Any, norm: float, tensors: tuple, shared: bool
    ) -> tuple[Any, ...]:
        bounds = self._bounds(node, norm, tensors)
        rows = _per_sample(rows, tensors[0], shared)
        nominal, slack = self._nominal(bounds, node, rows)
        upper, above = bounds.pull_back(node, rows)
        lower, below = bounds.pull_back(node, -rows)
        lower, upper = (
            ends.get(0, ops.zeros((*ops.shape(rows)[:2], *self._input_shape), rows.dtype))
            for ends in (lower, upper)
        )
        below += slack + bounds.input_error(lower)
        above += slack + bounds.input_error(upper)
        return -lower, nominal - below, upper, nominal + above

    def _nominal(self, bounds: linear.BackwardBounds, node: int, rows: Any) -> tuple[Any, Any]:
        """Rows of the nominal value, and what float64 and underflow can have cost; (N, S)."""
        reference = bounds.enclosures[node].reference[:, None]
        terms = ops.cast(rows, "float64") * reference
        axes = tuple(range(2, len(terms.shape)))
        size = ops.sum(ops.abs(terms), axis=axes)
        return ops.sum(terms, axis=axes), size * 1e-12 + _UNDERFLOW


def _decomon_backend(model: Any, method: str, logits: bool) -> Any:
    from xcertify.bounds.decomon import DecomonBackend

    graph = build_graph(model, find_rule)
    if logits and _is_sigmoid(graph.nodes[graph.output].operation):
        raise UnsupportedLayerError(
            f"The sigmoid at the end of the model '{model.name}' is not left out by decomon. Use "
            f"method='crown', or a model that ends before it."
        )
    return DecomonBackend(model, method)


def _is_sigmoid(operation: Any) -> bool:
    return isinstance(operation, Elementwise) and operation.activation is SIGMOID


def _before_head(graph: Graph, without_sigmoid: bool) -> int:
    """The node of the logits, before a softmax (and a sigmoid, if asked for) at the end."""
    head = graph.nodes[graph.output]
    if isinstance(head.operation, Softmax) or (without_sigmoid and _is_sigmoid(head.operation)):
        return head.parents[0]
    return graph.output


def _evaluate(graph: Graph, inputs: Sequence[Any]) -> Any:
    values = dict(enumerate(inputs))
    for index in interval.ancestors(graph, [graph.output]):
        node = graph.nodes[index]
        values[index] = node.operation.evaluate(*(values[parent] for parent in node.parents))
    return values[graph.output]


def _per_sample(rows: Any, samples: Any, shared: bool) -> Any:
    if not shared:
        return rows
    return ops.broadcast_to(rows[None], (ops.shape(samples)[0], *ops.shape(rows)))


def _outward(lower: np.ndarray, upper: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """float64 sides in another type, never inside the given ones."""
    low, high = lower.astype(dtype), upper.astype(dtype)
    low = np.where(low > lower, np.nextafter(low, low.dtype.type(-np.inf)), low)
    high = np.where(high < upper, np.nextafter(high, high.dtype.type(np.inf)), high)
    return low, high
