"""Verifier: verified bounds of a Keras model, the one class that the rest of the package uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from xcertify.bounds import backend, interval, linear
from xcertify.bounds.activations import SIGMOID
from xcertify.bounds.gradient import (
    GRADIENT_METHODS,
    GradientGraph,
    enclose_gradient,
    gradient_graph,
)
from xcertify.bounds.graph import Graph, UnsupportedLayerError, build_graph
from xcertify.bounds.lines import LinearBounds
from xcertify.bounds.multivariate import Softmax
from xcertify.bounds.operations import Elementwise, Enclosure, Options
from xcertify.bounds.registry import find_rule, registered_rules
from xcertify.bounds.relaxations import LOWER_SLOPES
from xcertify.bounds.rows import Sums
from xcertify.bounds.weights import check_weights
from xcertify.regions import Region
from xcertify.settings import Settings

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")
_UNDERFLOW = 1e-30  # what numbers too small for the working type can add up to


class Verifier(Settings):
    """Verified bounds of a Keras model over regions of inputs.

    Parameters
    ----------
    model
        A built Sequential or functional model. A final softmax is left out: bounds are of the
        logits. The model is never modified, and its current weights are used at every call.
    method
        "ibp" (intervals; cheapest, loosest), "crown-ibp" (one backward pass with interval bounds
        inside), "crown" (backward passes inside too), "alpha-crown" (crown with the lines under
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
        self.logits = logits
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
        self._read()
        _ = self._decomon

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
        self._read()
        if layer not in self._graph.layers:
            raise ValueError(
                f"layer must be one of {', '.join(self._graph.layers)}. Received: {layer!r}"
            )
        self._check(region, None, constants)
        node = self._graph.layers[layer]
        shape = self._graph.nodes[node].shape
        no_rows = np.zeros((0, math.prod(shape)))  # the engine chooses them
        results = self._run(region, node, no_rows, self._bound_entries, constants)
        lower, upper = (np.concatenate(part).reshape((-1, *shape)) for part in zip(*results))
        return _outward(lower, upper, self.dtype)

    def bound_gradient(
        self,
        region: Region,
        rows: np.ndarray | None = None,
        *,
        labels: np.ndarray | None = None,
        method: str | None = None,
        gamma: Any = 0.0,
        bias_radius: Any = None,
        constants: Sequence[Any] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of every input gradient over each region, and over a region of weights.

        Parameters
        ----------
        region
            N regions of the model's input; with ``epsilon=0`` the inputs themselves.
        rows
            (S, K) or (N, S, K): the gradients of these linear functions of the logits are bounded.
            None: those of all K logits, or with `labels` that of the loss.
        labels
            (N,) integers: the gradient of the cross-entropy of these labels (of the softmax; of the
            sigmoid for a single logit) is bounded, and S is 1.
        method
            "interval" (forward and backward by intervals, as in the paper), "crown-interval"
            (activations' inputs by CROWN, backward by intervals), "crown-ibp" (one backward pass
            through linear bounds of the backpropagation, placed by intervals), "crown" (the same
            with backward passes inside). All are intersected with intervals. Default: that of the
            verifier.
        gamma
            Every weight w may be anything in [w - gamma |w|, w + gamma |w|]: a number or (N,). The
            weights of normalization layers' moving statistics are fixed.
        bias_radius
            Biases may be off by this much, a number or (N,); 0 fixes them. None: as `gamma` says.
        constants
            As for `bound_rows`.

        Returns
        -------
        lower, upper
            (N, S, *input), in the verifier's dtype.

        Raises
        ------
        ValueError
            If region, rows, labels or radii do not fit, or for an unknown method.
        UnsupportedLayerError
            For a derivative, or weights, that cannot be bounded; the message names the layer.

        Guarantee
        ---------
        That of the `Verifier`, for the gradient at every point of the region and with all weights
        of theirs. Where an activation has a kink or two entries are both the largest, the slopes of
        both sides and all between are covered: whatever a library returns there is.
        With ``arithmetic="float32"`` it is backpropagation in float32 that is covered, derivatives
        of activations right to 16 units of 2**-24.

        Sources: Wicker et al., Robust Explanation Constraints for Neural Networks, 2023; Shi et
        al., Efficiently Computing Local Lipschitz Constants, 2022.

        Examples
        --------
        >>> lower, upper = verifier.bound_gradient(Ball(images, 0.01), rows=[[0.0, 1.0, 0.0]])
        """
        self._refuse_decomon("bound_gradient")
        if method is None:
            method = {"ibp": "interval", "alpha-crown": "crown"}.get(self.method, self.method)
        if method not in GRADIENT_METHODS:
            raise ValueError(
                f"method must be one of {', '.join(GRADIENT_METHODS)}. Received: {method!r}"
            )
        if labels is not None:
            if rows is not None:
                raise ValueError("give rows of the logits, or labels of the loss, not both")
            rows = self._label_rows(labels, len(region))
        rows = self._check(region, rows, constants)
        rows = np.broadcast_to(rows, (len(region), *rows.shape[-2:]))
        radii = self._weight_radii(gamma, bias_radius, len(region))
        loss = "logits" if labels is None else "cross-entropy"
        graph = self._derive(("gradient", loss), lambda: gradient_graph(self._graph, loss))
        bound = partial(self._gradient, graph, method, len(radii))
        at_once = self._nb_samples_at_once(graph.graph)
        parts = []
        for first in range(0, rows.shape[1], at_once):
            some = rows[:, first : first + at_once]
            results = self._run(
                region,
                self._graph.output,
                some,
                bound,
                constants,
                key=("gradient", loss, method, len(radii)),
                radii=radii,
                nb_samples=max(1, at_once // some.shape[1]),
            )
            parts.append([np.concatenate(part) for part in zip(*results)])
        lower, upper = (np.concatenate(part, axis=1) for part in zip(*parts))
        return _outward(lower, upper, self.dtype)

    def evaluate(self, inputs: np.ndarray, constants: Sequence[Any] = ()) -> np.ndarray:
        """The bounded function itself (logits), (N, *outputs), in the verifier's dtype."""
        self._read()
        function = self._compile(
            "evaluate",
            lambda *inputs: _evaluate(self._graph, inputs),
            [((None, *shape), self.dtype) for shape in self._input_shapes],
        )
        with backend.full_precision():
            values = [ops.cast(values, self.dtype) for values in (inputs, *constants)]
            return np.asarray(function(*values))

    @property
    def nonlinear_layers(self) -> list[str]:
        """Names of the layers, up to the outputs, that are not affine.

        Without any, bounds are exact on boxes but for roundings.
        """
        graph = self._read()
        nodes = [graph.nodes[index] for index in interval.ancestors(graph, [graph.output])]
        return list(dict.fromkeys(n.layer for n in nodes if not n.operation.exact_affine))

    @property
    def nb_outputs(self) -> int:
        """Number K of outputs, flattened."""
        self._read()
        return math.prod(self._output_shape)

    @property
    def _input_shapes(self) -> list[tuple[int, ...]]:
        return [node.shape for node in self._graph.nodes[: self._graph.nb_inputs]]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, or of what `start_layer` gives, without the batch axis."""
        return self._read().nodes[0].shape

    @property
    def _output_shape(self) -> tuple[int, ...]:
        return self._graph.nodes[self._graph.output].shape

    def _read(self) -> Graph:
        """The graph of the model as it is now: read anew if anything but weights has changed."""
        return self._derive("graph", self._translate)

    def _translate(self) -> Graph:
        graph = build_graph(self.model, find_rule, self.start_layer, self.perturbed, self.output)
        graph.output = _before_head(graph, self.logits)
        return graph

    @property
    def _graph(self) -> Graph:
        """The graph that the call in progress is about."""
        _, derived = vars(self)["_derived"]
        return derived["graph"] if "graph" in derived else self._read()

    @property
    def _decomon(self) -> Any:
        """decomon's bounds of the model, None for a native method."""
        if not self.method.startswith("decomon:"):
            return None
        method = self.method.removeprefix("decomon:")
        return self._derive("decomon", lambda: _decomon_backend(self.model, method, self.logits))

    def _watched(self) -> Any:
        return super()._watched(), registered_rules()

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
        if region.shape != self.input_shape:
            raise ValueError(
                f"region must be around inputs of shape {self.input_shape}. "
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
        key: tuple = (),
        radii: Sequence[np.ndarray] = (),
        nb_samples: int | None = None,
    ) -> list[tuple]:
        """Call a compiled bound on as many samples at a time as the memory budget allows.

        `key` tells bounds of one name apart, `radii` are further arguments (N,), `nb_samples` is
        the number at a time.
        """
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
        arrays += radii
        function = self._compile(
            (key or bound.__name__, node, shared, region.norm),
            lambda rows, *tensors: bound(node, rows, region.norm, tensors, shared),
            [
                ((None, *shape) if shared else (None, None, *shape), self.dtype),
                ((None, *self.input_shape), "float64"),
                *[((None, *self.input_shape), self.dtype)] * 2,
                *[((None, *shape), "float64") for shape in self._input_shapes[1:]],
                *[((None, *self.input_shape), self.dtype)] * is_ball,
                *[((None,), "float64")] * len(radii),
            ],
        )
        results = []
        step = nb_samples or self._nb_samples_at_once(self._graph)
        with backend.full_precision():
            for first in range(0, len(region), step):
                part = slice(first, first + step)
                part_rows = rows if shared else rows[part]
                outputs = function(part_rows, *(array[part] for array in arrays))
                results.append(tuple(np.asarray(output) for output in outputs))
        return results

    def _nb_samples_at_once(self, graph: Graph) -> int:
        """Samples whose intervals and relaxations take at most half of the memory budget."""
        per_sample = sum(math.prod(node.shape) for node in graph.nodes) * 64
        return max(1, self.memory_budget // 2 // per_sample)

    def _compile(self, key: Any, function: Callable, signature: list) -> Callable:
        return self._derive(("compiled", key), lambda: backend.compile(function, signature))

    def _inputs(self, tensors: Sequence[Any]) -> tuple[list[Enclosure], Any]:
        """Enclosures of all inputs, and the radius of the ball part of the region if it has one."""
        center, lower, upper, *others = tensors
        nb_fixed = self._graph.nb_inputs - 1
        zeros = [ops.zeros_like(c, dtype=self.dtype) for c in others[:nb_fixed]]
        fixed = [Enclosure(*sides) for sides in zip(others[:nb_fixed], zeros, zeros)]
        radius = others[nb_fixed] if len(others) > nb_fixed else None
        return [Enclosure(center, lower, upper), *fixed], radius

    def _bounds(
        self, node: int, norm: float, tensors: tuple, optimize: bool = False
    ) -> linear.BackwardBounds:
        inputs, radius = self._inputs(tensors)
        return linear.BackwardBounds(
            self._graph,
            inputs,
            radius,
            norm,
            self._options,
            targets=[node],
            refine=self.method in ("crown", "alpha-crown"),
            relax=self.method != "ibp",
            budget=self.memory_budget // 2,
            optimizer=(self.nb_steps, self.learning_rate) if optimize else None,
        )

    def _bound(
        self, node: int, rows: Any, norm: float, tensors: tuple, shared: bool
    ) -> tuple[Any, Any]:
        bounds = self._bounds(node, norm, tensors)
        rows = _per_sample(rows, tensors[0], shared)
        upper, below = linear.halves(bounds.interval_upper_bounds(node, rows))
        lower = -below
        nb_samples, nb_rows = ops.shape(rows)[:2]
        places = ops.broadcast_to(ops.arange(nb_rows), (nb_samples, nb_rows))

        def some(first: Any, last: Any) -> tuple[Any, Any, Sums]:
            return rows[:, first:last], places[:, first:last], Sums()

        if self.method != "ibp":
            lower, upper = bounds.tighten(node, nb_rows, some, (lower, upper))
        if self.method == "alpha-crown":
            # Tighter intervals inside can choose worse lines: intersected, not trusted to be best.
            optimized = self._bounds(node, norm, tensors, optimize=True)
            lower, upper = optimized.tighten(node, nb_rows, some, (lower, upper))
        nominal, slack = self._nominal(bounds, node, rows)
        lower, upper = nominal + lower - slack, nominal + upper + slack
        # An overflow on the way leaves nothing proved.
        return (
            ops.where(ops.isnan(lower), -np.inf, lower),
            ops.where(ops.isnan(upper), np.inf, upper),
        )

    def _bound_entries(
        self, node: int, rows: Any, norm: float, tensors: tuple, shared: bool
    ) -> tuple[Any, Any]:
        """Bounds of all entries of a tensor, by as few rows as its windows allow; (N, *shape)."""
        bounds = self._bounds(node, norm, tensors, optimize=self.method == "alpha-crown")
        if self.method != "ibp":
            bounds.refine(node, ops.ones(ops.shape(bounds.enclosures[node].lower), "bool"))
        enclosure = bounds.enclosures[node]
        lower, upper = enclosure.absolute()
        slack = ops.abs(enclosure.reference) * 1e-12 + _UNDERFLOW
        lower, upper = lower - slack, upper + slack
        # An overflow on the way leaves nothing proved.
        return (
            ops.where(ops.isnan(lower), -np.inf, lower),
            ops.where(ops.isnan(upper), np.inf, upper),
        )

    def _gradient(
        self,
        graph: GradientGraph,
        method: str,
        nb_radii: int,
        node: int,
        rows: Any,
        norm: float,
        tensors: tuple,
        shared: bool,
    ) -> tuple[Any, Any]:
        nb_others = len(tensors) - nb_radii
        inputs, radius = self._inputs(tensors[:nb_others])
        options = replace(self._options, alternatives=False)
        enclosure = enclose_gradient(
            graph,
            inputs,
            rows,
            radius,
            norm,
            options,
            method,
            self.memory_budget // 2,
            tensors[nb_others:],
        )
        lower, upper = enclosure.absolute()
        slack = ops.abs(enclosure.reference) * 1e-12 + _UNDERFLOW
        lower, upper = lower - slack, upper + slack
        shape = (*ops.shape(rows)[:2], *self.input_shape)
        # An overflow on the way leaves nothing proved.
        return (
            ops.reshape(ops.where(ops.isnan(lower), -np.inf, lower), shape),
            ops.reshape(ops.where(ops.isnan(upper), np.inf, upper), shape),
        )

    def _label_rows(self, labels: Any, nb_samples: int) -> np.ndarray:
        """What is subtracted from the probabilities in the gradient of the cross-entropy."""
        labels = np.asarray(labels)
        if len(self._output_shape) != 1:
            raise ValueError(
                f"labels need a model with one row of logits. Received: outputs of shape "
                f"{self._output_shape}"
            )
        nb_classes = max(self.nb_outputs, 2)
        fits = labels.shape == (nb_samples,) and labels.dtype.kind in "iu"
        if not fits or (labels < 0).any() or (labels >= nb_classes).any():
            raise ValueError(
                f"labels must be {nb_samples} integers from 0 to {nb_classes - 1}. "
                f"Received: {labels.dtype} of shape {labels.shape}"
            )
        if self.nb_outputs == 1:
            return labels.astype(self.dtype)[:, None, None]
        return np.eye(nb_classes, dtype=self.dtype)[labels][:, None]

    def _weight_radii(self, gamma: Any, bias_radius: Any, nb_samples: int) -> list[np.ndarray]:
        """Radii of weights and of biases, (N,) each; none where nothing varies."""
        radii = []
        for name, value in (("gamma", gamma), ("bias_radius", bias_radius)):
            if value is None:
                continue
            value = np.asarray(value, dtype="float64")
            if value.shape not in ((), (nb_samples,)) or not (value >= 0).all():
                raise ValueError(
                    f"{name} must be a number or {nb_samples} of them, at least 0. "
                    f"Received: {value.tolist()}"
                )
            radii.append(np.broadcast_to(value, (nb_samples,)))
        if not any(radius.any() for radius in radii):
            return []
        check_weights(self._graph, self.model._flatten_layers())
        return radii

    def _linear(
        self, node: int, rows: Any, norm: float, tensors: tuple, shared: bool
    ) -> tuple[Any, ...]:
        bounds = self._bounds(node, norm, tensors)
        rows = _per_sample(rows, tensors[0], shared)
        nominal, slack = self._nominal(bounds, node, rows)
        ends, bound = bounds.pull_back(node, rows)
        nb_samples, nb_rows = ops.shape(rows)[:2]
        nothing = ops.zeros((nb_samples, 2 * nb_rows, *self.input_shape), rows.dtype)
        coefficients = ends.get(0, nothing)
        upper, lower = linear.halves(coefficients)
        above, below = linear.halves(bound + bounds.input_error(coefficients))
        return -lower, nominal - below - slack, upper, nominal + above + slack

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


def logits_graph(model: keras.Model) -> Graph:
    """A model as operations, up to the logits before a softmax or sigmoid at its end.

    Raises
    ------
    UnsupportedLayerError
        For a model or layer that cannot be bounded.
    """
    graph = build_graph(model, find_rule)
    graph.output = _before_head(graph, without_sigmoid=True)
    return graph


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
