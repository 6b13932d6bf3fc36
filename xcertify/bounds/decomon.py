"""decomon's bound methods behind the interface of the native engine.

decomon 0.2.1 converts a Keras model into one that computes bounds. It is handed a copy that holds
only what it bounds correctly, and everything else is refused:

- Of a chain of layers only affine maps and activations count: Flatten, Reshape and Dropout leave
  the numbers in order, a BatchNormalization is folded into the layer before it, and the rows of
  interest into the last Dense layer.
- The copy and decomon work in float64, on weights that are arguments of one compiled function: a
  model that is trained further is bounded with its new weights, and new rows convert nothing.
- decomon is imported, patched and run in Python only while that function is compiled, in a thread
  of its own, where Keras keeps separate layer names and a separate default type. Afterwards numpy,
  keras and decomon are as they were.

Refused because decomon 0.2.1 was found to bound it wrongly: softplus, softmax, Permute, and the
linear relaxations of sigmoid, tanh and softsign, whose lines cut the curve (for sigmoid and tanh by
up to 3e-3 on intervals within 20 of zero, more for softsign and on wider ones); forward-ibp needs
no lines and is right.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import keras
import numpy as np
from keras import activations, layers, ops

from xcertify.bounds import backend
from xcertify.bounds.graph.graph import Node, Rule
from xcertify.bounds.graph.operations import Operation
from xcertify.bounds.graph.translation import build_graph
from xcertify.bounds.rounding import relative_error, round_down, round_up
from xcertify.bounds.rules.registry import find_rule
from xcertify.keras_graph import UnsupportedLayerError
from xcertify.regions import Region

METHODS = (
    "forward-ibp",
    "forward-affine",
    "forward-hybrid",
    "crown",
    "crown-forward-ibp",
    "crown-forward-affine",
    "crown-forward-hybrid",
)
_ALIASES = {"ibp": "forward-ibp"}
_ACTIVATIONS = {
    activations.linear: "linear",
    activations.relu: "relu",
    activations.sigmoid: "sigmoid",
    activations.tanh: "tanh",
    activations.softsign: "softsign",
    activations.softmax: "softmax",
}
_LAYERS = (
    layers.Activation,
    layers.BatchNormalization,
    layers.Conv2D,
    layers.Dense,
    layers.Dropout,
    layers.Flatten,
    layers.ReLU,
    layers.Reshape,
    layers.Softmax,
)
_BY_INTERVALS_ONLY = ("sigmoid", "tanh", "softsign")
_SUPPORTED = (
    "chains of Dense, Flatten, Reshape, Dropout, Activation, ReLU without parameters and "
    "BatchNormalization directly after Dense, with the activations linear and relu, and a softmax "
    "or sigmoid at the output, which is left out; with method='decomon:forward-ibp' also Conv2D "
    "and the activations sigmoid, tanh and softsign"
)
_TENSOR_SIZE = 2**23  # entries of the largest tensor of one call: 64 MiB in float64
_LARGEST_BATCH = 256
_NB_COMPILED = 8
_UNDERFLOW = 1e-30  # what numbers too small for float32 can add up to
_PATCHING = threading.Lock()


class DecomonBackend:
    """Bounds by one of decomon's methods.

    Parameters
    ----------
    model
        A built Sequential or functional model, a chain from one input to one output, of the layers
        Dense, Flatten, Reshape, Dropout, ReLU (without parameters), Activation, and
        BatchNormalization directly after Dense, with the activations linear and relu; with
        "forward-ibp" also Conv2D, sigmoid, tanh and softsign. The model is never modified, and its
        current weights are used at every call.
    method
        "forward-ibp" (alias "ibp"), "forward-affine", "forward-hybrid", "crown",
        "crown-forward-ibp", "crown-forward-affine" or "crown-forward-hybrid".
    strip_head
        Whether a final softmax or sigmoid is left out: bounds are of the logits then.

    Raises
    ------
    ValueError
        For an unknown method.
    UnsupportedLayerError
        For a model that is not such a chain; the message names the layer.
    ImportError
        If decomon is not installed.

    Guarantee
    ---------
    No point of the box leaves the bounds, for the network in real arithmetic with its stored
    weights. Everything is computed in float64, and the bounds are then widened by
    ``relative_error(n) * m`` and rounded outward: m is the output of the network with absolute
    weights at the largest absolute input, which bounds what the terms of every sum add up to, and
    n is four times the number of terms of the sums along the chain.

    **No guarantee in floating point** beyond that: n is an estimate, with a reserve, of how often
    decomon rounds, not a proof of its code; without the widening, corners leave the bounds by a
    few units of float64. Nor do the bounds cover the rounding of the network's own evaluation in
    float32.

    Memory: some twenty matrices of the size (widest layer or input)^2 for each box at a time;
    only "forward-ibp" needs no more than the layers themselves.

    References
    ----------
    decomon: https://github.com/airbus/decomon

    Examples
    --------
    >>> backend = DecomonBackend(model, "crown")
    >>> lower, upper = backend.bound_rows(Ball(images, epsilon=0.01, clip=(0, 1)), None)
    """

    def __init__(self, model: keras.Model, method: str, strip_head: bool = True) -> None:
        self.method = _ALIASES.get(method, method)
        if self.method not in METHODS:
            raise ValueError(
                f"decomon's methods are {', '.join(METHODS)}, and ibp for forward-ibp. "
                f"Received: {method!r}"
            )
        _import_decomon()
        self._chain = _Chain(model, self.method, strip_head)
        self._compiled: dict[int, Callable] = {}
        self._lock = threading.Lock()
        widest = max(math.prod(shape) for shape in self._chain.shapes)
        per_box = widest if self.method == "forward-ibp" else widest**2
        self._batch_size = min(max(_TENSOR_SIZE // per_box, 1), _LARGEST_BATCH)

    def bound_rows(
        self, region: Region, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of ``rows @ f(x)`` over each box.

        Parameters
        ----------
        region
            N boxes: a `Box`, or a `Ball` of norm inf.
        rows
            (S, K) for all boxes or (N, S, K), one set each; K is the number of outputs, flattened.
            Boxes with equal sets are bounded together, so that few distinct sets are fast. None:
            the outputs themselves.

        Returns
        -------
        lower, upper
            (N, S) float32.

        Raises
        ------
        ValueError
            For a region of norm 1 or 2, or shapes that do not fit the model.
        """
        boxes = self._boxes(region)
        nb_outputs = self._chain.nb_outputs
        rows = np.eye(nb_outputs) if rows is None else np.asarray(rows, dtype=np.float64)
        fits = rows.ndim == 2 or (rows.ndim == 3 and len(rows) == len(boxes))
        if not fits or rows.shape[-1] != nb_outputs:
            raise ValueError(
                f"rows must have the shape (S, {nb_outputs}) or ({len(boxes)}, S, {nb_outputs}). "
                f"Received: {rows.shape}"
            )
        lower, upper = np.empty((2, len(boxes), rows.shape[-2]), np.float32)
        if not lower.size:
            return lower, upper
        function = self._function(rows.shape[-2])
        for members, matrix in _groups(rows, len(boxes)):
            weights = [ops.convert_to_tensor(array) for array in self._chain.weights(matrix)]
            for first in range(0, len(members), self._batch_size):
                part = members[first : first + self._batch_size]
                padded = boxes[np.resize(part, self._batch_size)]
                low, high = function(padded, *weights)
                lower[part], upper[part] = (
                    np.asarray(low)[: len(part)],
                    np.asarray(high)[: len(part)],
                )
        return lower, upper

    def _boxes(self, region: Region) -> np.ndarray:
        """Lower and upper sides, (N, 2, features) float64."""
        if not math.isinf(region.norm):
            raise ValueError(
                f"decomon bounds boxes only, a Box or a Ball with norm=inf: its l1 and l2 balls "
                f"can be neither clipped nor held at single features. Use method='crown' or "
                f"'crown-ibp' for this norm. Received: norm={region.norm}"
            )
        shape = self._chain.shapes[0]
        if region.shape != shape:
            raise ValueError(
                f"region must be around inputs of shape {shape}. "
                f"Received: inputs of shape {region.shape}"
            )
        sides = [side.reshape(len(region), math.prod(shape)) for side in region.sides("float64")]
        return np.stack(sides, axis=1)

    def _function(self, nb_rows: int) -> Callable:
        """The compiled bounds of a number of rows; those used last are kept."""
        with self._lock:
            function = self._compiled.pop(nb_rows, None) or _aside(self._compile, nb_rows)
            self._compiled[nb_rows] = function
            if len(self._compiled) > _NB_COMPILED:
                del self._compiled[next(iter(self._compiled))]
            return function

    def _compile(self, nb_rows: int) -> Callable:
        copy, variables = self._chain.copy(nb_rows)
        # Terms of the sums forward and backward through every layer.
        nb_terms = sum(math.prod(v.shape[:-1]) + v.shape[-1] for v in variables)

        def bound(boxes: Any, *weights: Any) -> tuple[Any, Any]:
            values, sizes = weights[: len(variables)], weights[len(variables) :]
            with keras.StatelessScope(zip(variables, values)):
                upper, lower = converted([boxes])
            with keras.StatelessScope(zip(variables, sizes)):
                slack = relative_error(4 * nb_terms, "float64") * copy(
                    ops.max(ops.abs(boxes), axis=1)
                )
            slack += _UNDERFLOW
            return round_down(lower - slack, "float32"), round_up(upper + slack, "float32")

        boxes = (self._batch_size, 2, *copy.input_shape[1:])
        signature = [(shape, "float64") for shape in (boxes, *[v.shape for v in variables] * 2)]
        with _patched_decomon() as clone:
            converted = clone(copy, method=self.method, final_ibp=True, final_affine=False)
            function = backend.Compiled(bound, signature)
            function.trace()  # while decomon is patched
            return function


@dataclass
class _Affine:
    """A Dense or Conv2D layer of the user's model and the BatchNormalization after it, if any."""

    layer: Any
    input_shape: tuple[int, ...]
    normalization: Any = None

    @property
    def output_shape(self) -> tuple[int, ...]:
        return tuple(self.layer.compute_output_shape((None, *self.input_shape))[1:])

    def copy(self) -> Any:
        """A float64 layer of the same geometry, linear and with a bias."""
        layer, options = self.layer, {"kernel_initializer": "zeros", "dtype": "float64"}
        if isinstance(layer, layers.Dense):
            return layers.Dense(layer.units, **options)
        return layers.Conv2D(
            layer.filters,
            layer.kernel_size,
            layer.strides,
            layer.padding,
            layer.data_format,
            layer.dilation_rate,
            layer.groups,
            **options,
        )

    def weights(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Kernel and bias in float64, and what the terms of the bias add up to in size."""
        layer, norm = self.layer, self.normalization
        kernel = _value(layer.kernel)
        bias = _value(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1])
        size = np.abs(bias)
        if norm is not None:
            mean = _value(norm.moving_mean)
            scale = 1.0 / np.sqrt(_value(norm.moving_variance) + norm.epsilon)
            scale *= _value(norm.gamma) if norm.scale else 1.0
            shift = _value(norm.beta) if norm.center else 0.0
            kernel, bias = kernel * scale, (bias - mean) * scale + shift
            size = (size + np.abs(mean)) * np.abs(scale) + np.abs(shift)
        return kernel, bias, size


class _Chain:
    """A model as a chain of affine maps and activations, checked against decomon's abilities.

    Attributes
    ----------
    steps
        `_Affine` and names of activations, without the last Dense layer and what is left out.
    last
        The `_Affine` of a Dense layer at the end, or None.
    shapes
        Of the input and of every layer's output, without the batch axis.
    """

    def __init__(self, model: keras.Model, method: str, strip_head: bool) -> None:
        self.method = method
        self.steps: list[_Affine | str] = []
        self._activated: list[tuple[Any, str]] = []
        chain = _layers(model)
        self.shapes = [tuple(model.input_shape[1:])]
        for layer in chain:
            self._append(layer)
            self.shapes.append(tuple(layer.compute_output_shape((None, *self.shapes[-1]))[1:]))
        if strip_head and self.steps[-1:] in (["softmax"], ["sigmoid"]):
            self.steps.pop()
            self._activated.pop()
        for layer, name in self._activated:
            self._check_activation(layer, name)
        self.nb_outputs = math.prod(self.shapes[-1])
        end = self.steps[-1] if self.steps else None
        self.last = None
        if isinstance(end, _Affine) and isinstance(end.layer, layers.Dense):
            self.last = end
            self.steps.pop()

    def copy(self, nb_rows: int) -> tuple[keras.Model, list[keras.Variable]]:
        """A float64 model from flat inputs to `nb_rows` rows of the outputs, and its weights."""
        x = inputs = keras.Input((math.prod(self.shapes[0]),), dtype="float64")
        affine = []
        for step in self.steps:
            if isinstance(step, str):
                x = layers.Activation(step, dtype="float64")(x)
                continue
            x = _reshape(x, step.input_shape)
            affine.append(step.copy())
            x = affine[-1](x)
        x = _reshape(x, (math.prod(x.shape[1:]),))
        affine.append(layers.Dense(nb_rows, kernel_initializer="zeros", dtype="float64"))
        model = keras.Model(inputs, affine[-1](x))
        return model, [weight for layer in affine for weight in (layer.kernel, layer.bias)]

    def weights(self, rows: np.ndarray) -> list[np.ndarray]:
        """Values for the weights of a copy, then the sizes of the terms that they come from."""
        values, sizes = [], []
        for step in self.steps:
            if isinstance(step, _Affine):
                kernel, bias, size = step.weights()
                values += [kernel, bias]
                sizes += [np.abs(kernel), size]
        if self.last is None:
            kernel, bias, size = np.eye(self.nb_outputs), *np.zeros((2, self.nb_outputs))
        else:
            kernel, bias, size = self.last.weights()
        values += [kernel @ rows.T, bias @ rows.T]
        sizes += [np.abs(kernel) @ np.abs(rows.T), size @ np.abs(rows.T)]
        return values + sizes

    def _append(self, layer: Any) -> None:
        """Add what a layer does to the steps, or refuse it."""
        kind, shape = type(layer), self.shapes[-1]
        if kind not in _LAYERS:
            self._refuse(layer, "decomon lacks it or bounds it wrongly")
        if self.steps[-1:] == ["softmax"]:
            self._refuse(layer, "it follows a softmax, which decomon bounds wrongly")
        if not {layer.compute_dtype, layer.variable_dtype} <= {"float32", "float64"}:
            self._refuse(layer, f"it computes in {layer.compute_dtype}, not float32 or float64")
        if getattr(layer, "quantization_mode", None) is not None:
            self._refuse(layer, "it is quantized")
        if kind in (layers.Dense, layers.Conv2D):
            self._check_affine(layer)
            self.steps.append(_Affine(layer, shape))
            self._activate(layer, layer.activation)
        elif kind is layers.BatchNormalization:
            self._normalize(layer)
        elif kind is layers.Activation:
            self._activate(layer, layer.activation)
        elif kind is layers.ReLU:
            if layer.max_value is not None or layer.negative_slope or layer.threshold:
                self._refuse(layer, "it has parameters")
            self._activate(layer, activations.relu)
        elif kind is layers.Softmax:
            if layer.axis not in (-1, len(shape)):
                self._refuse(layer, "it is not over the last axis")
            self._activate(layer, activations.softmax)
        elif kind is layers.Flatten and layer.data_format == "channels_first" and len(shape) > 1:
            self._refuse(layer, "with channels first it changes the order of the numbers")

    def _check_affine(self, layer: Any) -> None:
        shape = self.shapes[-1]
        if isinstance(layer, layers.Dense):
            if len(shape) > 1:
                self._refuse(layer, f"its inputs have the shape {shape}; put a Flatten before it")
        elif self.method != "forward-ibp":
            self._refuse(layer, "beyond forward-ibp decomon needs gigabytes for a convolution")
        elif layer.data_format != "channels_last" or layer.groups != 1:
            self._refuse(layer, "it has its channels first, or groups")

    def _normalize(self, layer: Any) -> None:
        shape = self.shapes[-1]
        last = self.steps[-1] if self.steps else None
        if (
            not isinstance(last, _Affine)
            or last.normalization is not None
            or last.output_shape != shape
            or layer.axis not in (-1, len(shape))
        ):
            self._refuse(layer, "it is not directly after a Dense or Conv2D without activation")
        last.normalization = layer

    def _activate(self, layer: Any, function: Any) -> None:
        name = _ACTIVATIONS.get(function)
        if name is None:
            name = getattr(function, "__name__", function)
            self._refuse(layer, f"decomon lacks the activation {name} or bounds it wrongly")
        if name != "linear":
            self.steps.append(name)
            self._activated.append((layer, name))

    def _check_activation(self, layer: Any, name: str) -> None:
        """Refuse an activation inside of the chain, or at its end, that is bounded wrongly."""
        if name == "softmax":
            self._refuse(layer, "decomon bounds softmax wrongly, and it is not to be left out")
        if name in _BY_INTERVALS_ONLY and self.method != "forward-ibp":
            self._refuse(layer, f"decomon's lines around {name} cut it")

    def _refuse(self, layer: Any, reason: str) -> NoReturn:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class {type(layer).__name__} cannot be bounded with "
            f"method='decomon:{self.method}': {reason}. Supported: {_SUPPORTED}. "
            f"Use method='crown', which bounds more models."
        )


def _layers(model: keras.Model) -> list[Any]:
    """Layers of a chain, nested models opened, from input to output."""
    chain = []
    end = 0  # node of the last layer's output

    def follow(layer: Any, emit: Any, *nodes: int) -> int:
        nonlocal end
        if [node for node in nodes if emit.value(node) is None] != [end]:
            raise UnsupportedLayerError(
                f"The layer '{layer.name}' of class {type(layer).__name__} makes the model "
                f"'{model.name}' branch. decomon's methods take chains of layers. "
                f"Use method='crown'."
            )
        chain.append(layer)
        emit.graph.nodes.append(
            Node(Operation(), nodes, emit.arguments.output_shapes[0], emit.layer)
        )
        end = len(emit.graph.nodes) - 1
        return end

    def rule(layer: Any) -> Rule:
        try:
            return replace(find_rule(layer), function=follow)
        except UnsupportedLayerError:  # what is refused is said later, for decomon
            return Rule(follow)

    build_graph(model, rule)
    if len(model.inputs) > 1 or len(model.outputs) > 1:
        raise UnsupportedLayerError(
            f"The model '{model.name}' has {len(model.inputs)} inputs and {len(model.outputs)} "
            f"outputs; decomon's methods take one of each. Build a keras.Model with the input and "
            f"the output of interest, or use method='crown'."
        )
    return chain


def _reshape(x: Any, shape: tuple[int, ...]) -> Any:
    return x if tuple(x.shape[1:]) == shape else layers.Reshape(shape, dtype="float64")(x)


def _value(variable: Any) -> np.ndarray:
    return ops.convert_to_numpy(variable).astype("float64")


def _groups(rows: np.ndarray, nb_samples: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices of the samples with equal rows, and those rows, (S, K)."""
    if rows.ndim == 2:
        yield np.arange(nb_samples), rows
        return
    matrices, group = np.unique(rows, axis=0, return_inverse=True)
    for index, matrix in enumerate(matrices):
        yield np.flatnonzero(group.reshape(-1) == index), matrix


def _aside(function: Callable, *args: Any) -> Any:
    """Run in a thread of its own, since Keras keeps names and the default type per thread."""

    def run() -> Any:
        keras.config.set_dtype_policy("float64")
        return function(*args)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an attribute another value for a while."""
    absent = object()
    before = vars(owner).get(name, absent)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is absent:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def _import_decomon() -> None:
    """Import decomon, whose annotations use a name that NumPy 2 dropped."""
    with _PATCHING, _replaced(np, "float_", np.float64):
        try:
            import decomon  # noqa: F401
        except ModuleNotFoundError as error:
            if error.name != "decomon":
                raise
            raise ImportError(
                "the methods 'decomon:...' need decomon: pip install decomon"
            ) from error


@contextlib.contextmanager
def _patched_decomon() -> Iterator[Callable]:
    """decomon's `clone`, with what keeps it from running, being right and being fast put right."""
    from decomon import utils
    from decomon.backward_layers.backward_layers import BackwardInputLayer
    from decomon.keras_utils import BatchedDiagLike
    from decomon.layers.decomon_layers import DecomonConv2D
    from decomon.models import backward_cloning, clone, crown

    def share_weights(self: Any, layer: Any) -> None:
        # `kernel` has been read-only since Keras 3.1.
        self._kernel, self.bias = layer._kernel, layer.bias

    def diagonal(self: Any, x: Any) -> Any:
        # Without a loop over the batch, which a graph does not know.
        return ops.expand_dims(x, -1) * ops.eye(x.shape[-1], dtype=x.dtype)

    # Going back through the input layer is left out: products with an identity of the size of the
    # input take most of crown's time.
    merge = crown.merge_with_previous

    def identity(self: Any, inputs: Any, **kwargs: Any) -> list[Any]:
        return [ops.zeros_like(inputs[-1])] * 4

    def merge_unless_identity(tensors: list[Any]) -> list[Any]:
        return tensors[4:] if len(tensors[0].shape) == 2 else merge(tensors)

    replacements = [
        (DecomonConv2D, "share_weights", share_weights),
        (BatchedDiagLike, "call", diagonal),
        (BackwardInputLayer, "call", identity),
        (backward_cloning, "MergeWithPrevious", lambda *shapes: crown.MergeWithPrevious()),
        (crown, "merge_with_previous", merge_unless_identity),
        # Slopes are divided by max(width, epsilon): too flat on intervals of less than 1e-7.
        (utils, "epsilon", lambda: np.float64(1e-300)),
    ]
    with _PATCHING, contextlib.ExitStack() as stack:
        for replacement in replacements:
            stack.enter_context(_replaced(*replacement))
        yield clone
