"""Verifier: verified bounds of a Keras model, the one class that the rest of the package uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.comparison import Comparison, Network, compare, refuse_excluding
from xcertify.bounds.graph.activations import SIGMOID
from xcertify.bounds.graph.backpropagation import gradient_graph
from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.multivariate import Softmax
from xcertify.bounds.graph.operations import Elementwise, Options, Reshaped
from xcertify.bounds.graph.relaxations import LOWER_SLOPES
from xcertify.bounds.graph.translation import build_graph, find_tensor
from xcertify.bounds.graph.weights import check_weights
from xcertify.bounds.linear_bounds import LinearBounds
from xcertify.bounds.propagation.budget import Budget, batches
from xcertify.bounds.propagation.gradient import GRADIENT_METHODS
from xcertify.bounds.propagation.shared_rows import RowForm, TargetRows
from xcertify.bounds.queries import Queries
from xcertify.bounds.rules.registry import find_rule, registered_rules
from xcertify.keras_graph import UnsupportedLayerError, layers_of
from xcertify.regions import Region
from xcertify.settings import Settings

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")


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
        they hold also for the network evaluated in float32 with sums in any order; a little wider,
        and refused for a model with layers that compute in float16 or bfloat16.
    memory_budget
        Bytes that a call may take at once (default 1 GiB), beside what it is given and what it
        returns. Work that does not fit is done in parts, down to one sample and one row.
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
            largest_matrix=self._budget.largest_matrix,
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
        half = _half_precision(model)
        if arithmetic == "float32" and half is not None:
            raise UnsupportedLayerError(
                f"The layer '{half[0]}' of the model '{model.name}' computes in {half[1]}, whose "
                f"roundings are not covered by arithmetic='float32'. Use arithmetic='real', for "
                f"bounds of the network in real arithmetic, or a copy of the model in float32."
            )
        self._read()
        _ = self._decomon

    @property
    def guarantee(self) -> str:
        """Of which arithmetic the bounds are proved, in words; the `arithmetic` of certificates.

        "real", "float32", or "decomon": as decomon computes it. Behind it in brackets, where the
        model computes in half precision, that this is not covered.
        """
        name = "decomon" if self.method.startswith("decomon:") else self.arithmetic
        half = _half_precision(self.model)
        if half is None:
            return name
        return f"{name} (the model computes in {half[1]}, which is not covered)"

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
            flattened. Arrays, or margins that are made as they are needed (`margin_rows`). None:
            the outputs themselves.
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
        compared = self._compare(region, constants)
        if self._decomon is not None:
            return self._decomon.bound_rows(region, rows)
        lower, upper = self._run(region, self._graph.output, rows, self._queries.bounds, constants)
        if compared is not None:
            sides = lower[compared.samples], upper[compared.samples]
            self._confirm(compared, *sides, rows)
        return lower, upper

    def linear_bounds(
        self, region: Region, rows: np.ndarray | None = None, constants: Sequence[Any] = ()
    ) -> LinearBounds:
        """Linear functions of the input under and over ``rows @ f(x)``; see `LinearBounds`.

        Parameters and errors as in `bound_rows`; needs "crown-ibp", "crown"
        or "alpha-crown" (which gives the lines of "crown"). The lines of many samples and rows may
        be larger than the memory budget: `linear_bounds_in_parts` gives them in parts.
        """
        found = None
        for samples, some, lines in self.linear_bounds_in_parts(region, rows, constants):
            if found is None:
                nb_rows = self.nb_outputs if rows is None else np.shape(rows)[-2]
                found = lines.room_for(region, nb_rows)
            found.put(samples, some, lines)
        return found

    def linear_bounds_in_parts(
        self,
        region: Region,
        rows: Any = None,
        constants: Sequence[Any] = (),
        *,
        nb_bytes: int = 0,
    ) -> Iterator[tuple[slice, slice, LinearBounds]]:
        """`linear_bounds` of some samples and rows at a time, as many as fit the memory budget.

        Parameters
        ----------
        region, rows, constants
            As in `linear_bounds`.
        nb_bytes
            What the caller computes from the lines of one sample and row, and holds with them.

        Yields
        ------
        samples, rows, lines
            Which ones, as slices, and their lines.
        """
        self._refuse_decomon("linear_bounds")
        if self.method == "ibp":
            raise ValueError(
                "linear_bounds needs method='crown-ibp' or 'crown'. Received: method='ibp'"
            )
        rows = self._check(region, rows, constants)
        compared = self._compare(region, constants)
        # Two sides, of which TensorFlow makes a copy while it puts them together.
        per_pair = 4 * math.prod(self._input_shapes[0]) * self._budget.item_size + nb_bytes
        for samples, some, sides in self._parts(
            region, self._graph.output, rows, self._queries.lines, constants, per_pair=per_pair
        ):
            slopes_below, slopes_above, below, above = sides
            lines = LinearBounds(region[samples], slopes_below, below, slopes_above, above)
            near = None if compared is None else compared.among(samples)
            if near is not None:
                units = np.eye(self.nb_outputs, dtype=self.dtype) if rows is None else rows
                asked = units[samples, some] if units.ndim == 3 else units[some]
                self._confirm(near, *lines.at(near.samples, near.points), asked)
            yield samples, some, lines

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
        if layer in self._graph.ambiguous:
            raise ValueError(
                f"layer must name one tensor: a layer of one output that is called once. "
                f"Received: {layer!r}, which {self._graph.ambiguous[layer]}"
            )
        self._check(region, None, constants)
        self._compare(region, constants)
        node = self._graph.layers[layer]
        shape = self._graph.nodes[node].shape
        # Bounds of all entries, by rows that the engine chooses, come in one row.
        one_row = np.zeros((1, math.prod(shape)), dtype=self.dtype)
        lower, upper = self._run(region, node, one_row, self._queries.entries, constants)
        return lower[:, 0], upper[:, 0]

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
        self._compare(region, constants)
        radii = self._weight_radii(gamma, bias_radius, len(region))
        loss = "logits" if labels is None else "cross-entropy"
        graph = self._derive(("gradient", loss), lambda: gradient_graph(self._graph, loss))
        lower, upper = self._run(
            region,
            self._graph.output,
            rows,
            partial(self._queries.gradients, graph, method, len(radii)),
            constants,
            key=("gradient", loss, method, len(radii)),
            radii=radii,
            pairs_at_once=self._budget.nb_samples(graph.graph),
        )
        return lower, upper

    def evaluate(self, inputs: np.ndarray, constants: Sequence[Any] = ()) -> np.ndarray:
        """The bounded function itself (logits), (N, *outputs), in the verifier's dtype.

        Raises
        ------
        ValueError
            If an output is NaN or infinite; the message names a layer whose weights are.
        """
        self._read()
        self._compare(None, constants, inputs)
        arrays = [np.asarray(values) for values in (inputs, *constants)]
        function = self._compile(
            "evaluate",
            lambda *inputs: self._graph.evaluate(inputs),
            [((None, *shape), self.dtype) for shape in self._input_shapes],
        )
        step = self._budget.nb_samples(self._graph)
        found = np.empty((len(arrays[0]), *self._output_shape), self.dtype)
        with backend.full_precision():
            for samples, _ in batches(len(found), 1, step, step):
                values = [array[samples].astype(self.dtype, copy=False) for array in arrays]
                found[samples] = function(*values)
        if not np.isfinite(found).all():
            self._refuse_weights_that_are_not_finite()
            sample = int(np.argmin(np.isfinite(found).reshape(len(found), -1).all(axis=1)))
            raise ValueError(
                f"the outputs of the model '{self.model.name}' are NaN or overflow {self.dtype} in "
                f"sample {sample}. Scale the inputs, or use dtype='float64' where there is that "
                f"choice. Received: {found[sample].reshape(-1)[:5].tolist()}"
            )
        return found

    @property
    def nonlinear_layers(self) -> list[str]:
        """Names of the layers, up to the outputs, that are not affine.

        Without any, bounds are exact on boxes but for roundings.
        """
        graph = self._read()
        nodes = [graph.nodes[index] for index in graph.ancestors([graph.output])]
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

    def _compare(
        self, region: Region | None, constants: Sequence[Any], inputs: Any = None
    ) -> Comparison | None:
        """The graph beside the model, at the first use and after every change of the model.

        None where that has been done before.
        """
        made = []

        def make() -> bool:
            varied = region.center if region is not None else np.asarray(inputs)
            arrays = [varied, *(np.asarray(values) for values in constants)]
            model, perturbed = self.model, 0
            if self.start_layer is None:
                perturbed = find_tensor(model.inputs, self.perturbed, "perturbed")
            output = find_tensor(model.outputs, self.output, "output")
            network = Network(model, self.start_layer, perturbed, output)
            made.append(compare(network, self._graph, region, arrays, self._watched()))
            return True

        self._derive("compared", make)
        return made[0] if made else None

    def _confirm(
        self, compared: Comparison, lower: np.ndarray, upper: np.ndarray, rows: np.ndarray | None
    ) -> None:
        """Refuse bounds (P, S) that exclude points of the region, at which the model is known."""
        excluded = compared.excluded(lower, upper, rows)
        if excluded.any():
            refuse_excluding(self._graph, compared, excluded)

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
    ) -> np.ndarray | None:
        """The rows as they are, once they and the others are known to fit."""
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
        for number, constant in enumerate(constants):
            if not np.isfinite(constant).all():
                raise ValueError(
                    f"constants must be finite. Received: NaN or infinite values in number {number}"
                )
        if rows is None:
            return None
        size = math.prod(self._output_shape)
        if not _is_made_when_needed(rows):
            rows = np.asarray(rows)
        fits = rows.ndim == 2 or (rows.ndim == 3 and len(rows) == len(region))
        if not fits or rows.shape[-1] != size:
            raise ValueError(
                f"rows must have the shape (S, {size}) or ({len(region)}, S, {size}). "
                f"Received: {rows.shape}"
            )
        for part in () if _is_made_when_needed(rows) else _blocks(rows):
            if not np.isfinite(part).all():
                raise ValueError("rows must be finite. Received: NaN or infinite coefficients")
            if (part.astype(self.dtype) != part).any():
                raise ValueError(
                    f"rows must be exact in {self.dtype}, since the bounds hold for the numbers "
                    f"used. Round them first, rows.astype('{self.dtype}'), or use dtype='float64'"
                )
        return rows

    def _run(
        self,
        region: Region,
        node: int,
        rows: np.ndarray | None,
        bound: Callable,
        constants: Sequence[Any],
        *,
        key: tuple = (),
        radii: Sequence[np.ndarray] = (),
        pairs_at_once: int | None = None,
    ) -> list[np.ndarray]:
        """What a compiled bound gives for all samples and rows, rounded outward; (N, S, ...) each.

        Parameters as for `_parts`.
        """
        nb_rows = self._nb_rows(node, rows)
        settings = {"key": key, "radii": radii, "pairs_at_once": pairs_at_once}
        found: list[np.ndarray] = []
        for samples, some, sides in self._parts(region, node, rows, bound, constants, **settings):
            found = found or [
                np.empty((len(region), nb_rows, *side.shape[2:]), self.dtype) for side in sides
            ]
            for number, side in enumerate(sides):
                _round_outward(side, found[number][samples, some], up=number % 2 == 1)
        return found

    def _nb_rows(self, node: int, rows: np.ndarray | None) -> int:
        return math.prod(self._graph.nodes[node].shape) if rows is None else rows.shape[-2]

    def _parts(
        self,
        region: Region,
        node: int,
        rows: np.ndarray | None,
        bound: Callable,
        constants: Sequence[Any],
        *,
        key: tuple = (),
        radii: Sequence[np.ndarray] = (),
        per_pair: int = 16,
        pairs_at_once: int | None = None,
    ) -> Iterator[tuple[slice, slice, list[np.ndarray]]]:
        """What a compiled bound gives for some samples and rows at a time, as the budget allows.

        Parameters
        ----------
        region, constants
            Of N samples.
        node
            Where rows start from.
        rows
            (S, size of the node) or (N, S, size of the node), or None for its entries.
        bound
            ``bound(node, rows, norm, tensors)`` of the `TargetRows` of some samples and rows; gives
            lower and upper sides, in turn.
        key
            Tells bounds of one name apart.
        radii
            Further arguments, (N,) each.
        per_pair
            Bytes that come back for each pair of a sample and a row.
        pairs_at_once
            How many pairs are worked on at a time, where each takes as much as a sample.
        """
        shape = self._graph.nodes[node].shape
        name = "entries" if rows is None else "shared" if rows.ndim == 2 else "own"
        form = RowForm(name, shape, self.dtype)
        nb_rows = self._nb_rows(node, rows)
        is_ball = not math.isinf(region.norm)
        function = self._compile(
            (key or bound.__name__, node, name, region.norm),
            lambda handed, center, *tensors: bound(
                node,
                TargetRows(form, handed, ops.shape(center)[0]),
                region.norm,
                (center, *tensors),
            ),
            [
                form.signature,
                ((None, *self._input_shapes[0]), "float64"),
                *[((None, *self._input_shapes[0]), self.dtype)] * 2,
                *[((None, *shape), "float64") for shape in self._input_shapes[1:]],
                *[((None, *self._input_shapes[0]), self.dtype)] * is_ball,
                *[((None,), "float64")] * len(radii),
            ],
        )
        # What is handed over is held as an array and as a tensor.
        nb_pairs = pairs_at_once or self._budget.nb_pairs(per_pair + 2 * form.per_pair)
        step = self._budget.nb_samples(self._graph)
        finite = True
        for samples, some in batches(len(region), nb_rows, step, nb_pairs):
            arrays = self._arrays(region[samples], [c[samples] for c in constants])
            arrays += [radius[samples] for radius in radii]
            with backend.full_precision():
                sides = function(form.handed(rows, samples, some), *arrays)
            sides = [np.asarray(side) for side in sides]
            if finite and not all(np.isfinite(side).all() for side in sides):
                self._refuse_weights_that_are_not_finite()
                finite = False
            yield samples, some, sides

    def _arrays(self, region: Region, constants: Sequence[Any]) -> list[np.ndarray]:
        """Regions as a compiled bound takes them: center, deviations, constants, radius."""
        center = region.center.astype("float64")
        arrays = [center]
        for side, up in zip(region.sides("float64"), (False, True)):
            arrays.append(np.empty(center.shape, self.dtype))
            _round_outward(side - center, arrays[-1], up)
        arrays += [np.asarray(constant, dtype="float64") for constant in constants]
        if not math.isinf(region.norm):
            arrays.append(np.empty(center.shape, self.dtype))
            _round_outward(np.broadcast_to(region.epsilon, center.shape), arrays[-1], up=True)
        return arrays

    @property
    def _queries(self) -> Queries:
        """What is traced of the graph that the call in progress is about."""
        optimizer = self.nb_steps, self.learning_rate
        return Queries(self._graph, self.method, self._options, self._budget, optimizer)

    @property
    def _budget(self) -> Budget:
        return Budget(
            self.memory_budget, self.dtype, nb_versions=1 + (self.method == "alpha-crown")
        )

    def _refuse_weights_that_are_not_finite(self) -> None:
        """Name the layer, where it is the weights that leave nothing finite."""
        for index in self._graph.ancestors([self._graph.output]):
            node = self._graph.nodes[index]
            for value in _constants_of(node.operation):
                if not np.isfinite(ops.convert_to_numpy(value)).all():
                    raise ValueError(
                        f"the weights of the layer '{node.layer}' of the model "
                        f"'{self.model.name}' are NaN or infinite, so that nothing can be said "
                        f"of its outputs. Train it again, or load other weights"
                    )

    def _compile(self, key: Any, function: Callable, signature: list) -> Callable:
        return self._derive(("compiled", key), lambda: backend.compile(function, signature))

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
        check_weights(self._graph, layers_of(self.model))
        return radii


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


def _half_precision(model: keras.Model) -> tuple[str, str] | None:
    """Name and type of the first layer that computes in half precision, if there is one."""
    layers = layers_of(model) if isinstance(model, keras.Model) else ()
    for layer in layers:
        holds_others = isinstance(layer, (keras.Model, keras.layers.InputLayer))
        if not holds_others and layer.compute_dtype in ("float16", "bfloat16"):
            return layer.name, layer.compute_dtype
    return None


def _is_sigmoid(operation: Any) -> bool:
    return isinstance(operation, Elementwise) and operation.activation is SIGMOID


def _before_head(graph: Graph, without_sigmoid: bool) -> int:
    """The node of the logits, before a softmax (and a sigmoid, if asked for) at the end.

    A change of shape behind it that keeps the row of outputs is made of the logits instead; see
    `xcertify.logits`.
    """
    index, behind = graph.output, []
    while isinstance(graph.nodes[index].operation, Reshaped) and _keeps_row(graph, index):
        behind.append(index)
        (index,) = graph.nodes[index].parents
    head = graph.nodes[index].operation
    if not isinstance(head, Softmax) and not (without_sigmoid and _is_sigmoid(head)):
        return graph.output
    (node,) = graph.nodes[index].parents
    for later in reversed(behind):
        graph.nodes.append(replace(graph.nodes[later], parents=(node,)))
        node = len(graph.nodes) - 1
    return node


def _keeps_row(graph: Graph, index: int) -> bool:
    """Whether a node has the shape (1, ..., 1, K), as what it is made of."""
    shapes = [graph.nodes[i].shape for i in (index, *graph.nodes[index].parents)]
    sizes = {shape[-1:] for shape in shapes}
    return len(sizes) == 1 and all(size == 1 for shape in shapes for size in shape[:-1])


def _constants_of(operation: Any) -> list[Any]:
    """Weights and bias of an operation."""
    weights = getattr(operation, "weights", None)
    bias = getattr(operation, "bias", None)
    return [*(weights() if weights else ()), *([bias()] if bias else [])]


def _is_made_when_needed(rows: Any) -> bool:
    """Whether rows are not an array but something that makes parts of one."""
    return getattr(rows, "made_when_needed", False)


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows some at a time, so that what is computed of them takes little memory."""
    step = max(1, 2**18 // max(1, rows[:1].size))
    return (rows[first : first + step] for first in range(0, len(rows), step))


def _round_outward(values: np.ndarray, out: np.ndarray, up: bool) -> None:
    """float64 bounds written to an array of another type, never inside the given ones."""
    with np.errstate(over="ignore"):  # to infinity, which is a bound
        out[...] = values
    outward = out.dtype.type(np.inf if up else -np.inf)
    inside = out < values if up else out > values
    np.nextafter(out, outward, out=out, where=inside)
