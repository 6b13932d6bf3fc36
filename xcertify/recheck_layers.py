"""Layers of Keras as operations on arrays, for the checker of `xcertify.recheck`.

A model is read by the names of its layers' classes and by their weights: nothing of TensorFlow,
Keras or another module of xcertify is imported. Each operation knows intervals, lines, and the way
back of coefficients; see `xcertify.recheck` for what roundings cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
Shape = tuple[int, ...]
Sides = tuple[Array, Array]

UNIT, ETA = 2.0**-53, 2.0**-1021
_ALL = (slice(None),)


class UnknownLayerError(ValueError):
    """A model with layers that the checker does not know; the message names them."""


def gamma(nb_terms: int) -> float:
    """Relative error of a sum of so many products in float64, at most."""
    return nb_terms * UNIT / (1 - nb_terms * UNIT) * (1 + 4 * UNIT)


@dataclass(frozen=True)
class Linear:
    """A linear function of tensors and a constant; `nb_terms`: most products in one of its sums.

    ``apply(inputs)`` is without the constant, ``apply(inputs, True)`` by the absolute values of the
    weights; ``pull(rows)`` makes of coefficients (R, *shape) of the output those of the inputs.
    """

    apply: Callable[..., Array]
    pull: Callable[[Array], list[Array]]
    nb_terms: int
    bias: Any = 0.0
    bias_size: Any = 0.0
    mixes: bool = False  # entries of an input
    moves: bool = False  # nothing is computed: entries go elsewhere, zeros may join them

    def enclose(self, *inputs: Sides) -> tuple[Array, Array, Array]:
        """Lower and upper side of the output, and the size of its terms."""
        if self.moves:
            lower, upper = (self.apply(side) for side in zip(*inputs))
            return lower, upper, _size(lower, upper)
        middles = [lower / 2 + upper / 2 for lower, upper in inputs]
        reaches = [
            np.maximum(upper - middle, middle - lower) * (1 + 4 * UNIT)
            for (lower, upper), middle in zip(inputs, middles)
        ]
        sizes = [np.abs(middle) + reach for middle, reach in zip(middles, reaches)]
        size = self.apply(sizes, True) + self.bias_size
        error = 4 * gamma(self.nb_terms + 16) * size + 4 * (self.nb_terms + 16) * ETA
        middle, reach = self.apply(middles) + self.bias, self.apply(reaches, True) + error
        return middle - reach, middle + reach, size


def _size(lower: Array, upper: Array) -> Array:
    return np.maximum(np.abs(lower), np.abs(upper))


def _places(
    shape: Shape, size: Shape, strides: Shape, padding: str, steps: Shape
) -> tuple[list[tuple[int, int]], dict[Shape, tuple[slice, ...]]]:
    """Padding of windows along their axes, and by offset the entries that windows see there."""
    pads, slices = [], []
    for length, width, stride, step in zip(shape, size, strides, steps):
        span = (width - 1) * step + 1
        missing = max((-(-length // stride) - 1) * stride + span - length, 0)
        before = {"same": missing // 2, "causal": span - 1}.get(padding, 0)
        pads.append((before, missing - before if padding == "same" else 0))
        last = length + sum(pads[-1]) - span + 1
        slices.append([slice(o * step, o * step + last, stride) for o in range(width)])
    places = {o: tuple(own[i] for own, i in zip(slices, o)) for o in np.ndindex(*size)}
    return pads + [(0, 0)] * (len(shape) - len(size)), places


def _window(
    shape: Shape,
    weights: Array,
    bias: Any = 0.0,
    strides: Shape = (),
    padding: str = "valid",
    steps: Shape = (),
) -> Linear:
    """Dense layers, convolutions, average pooling: the sum over offsets o of x[place + o] @ W[o].

    W is (*size, channels in, channels out); of a dense layer there is one offset, ().
    """
    pads, places = _places(shape, weights.shape[:-2], strides, padding, steps)
    inner = tuple(slice(a, a + length) for (a, _), length in zip(pads, shape))

    def apply(inputs: Sequence[Array], by_size: bool = False) -> Array:
        padded, own = np.pad(inputs[0], pads), np.abs(weights) if by_size else weights
        return np.add.reduce([padded[place] @ own[offset] for offset, place in places.items()])

    def pull(rows: Array) -> list[Array]:
        if () in places:
            return [rows @ weights.T]
        found = np.zeros((len(rows), *(n + sum(pad) for n, pad in zip(shape, pads))))
        for offset, place in places.items():
            index = _ALL + place
            found[index] += rows @ weights[offset].T
        return [found[_ALL + inner]]

    nb_terms = len(places) * max(weights.shape[-2:])
    return Linear(apply, pull, nb_terms, bias, np.abs(bias), mixes=True)


def _scaled(scale: Any, bias: Any = 0.0, bias_size: Any = None) -> Linear:
    """``scale * x + bias``, entry by entry; with up to 8 roundings in both numbers."""
    scale, bias = np.asarray(scale, np.float64), np.asarray(bias, np.float64)
    bias_size = np.abs(bias) if bias_size is None else bias_size

    def apply(inputs: Sequence[Array], by_size: bool = False) -> Array:
        return inputs[0] * (np.abs(scale) if by_size else scale)

    return Linear(apply, lambda rows: [rows * scale], 8, bias, bias_size)


def _summed(factors: Sequence[float]) -> Linear:
    """A sum of tensors, each with a factor."""

    def apply(inputs: Sequence[Array], by_size: bool = False) -> Array:
        own = np.abs(factors) if by_size else factors
        return np.add.reduce([factor * x for factor, x in zip(own, inputs)])

    return Linear(apply, lambda rows: [f * rows for f in factors], 2 * len(factors) + 2)


def _moved(shapes: Sequence[Shape], function: Callable[[Sequence[Array]], Array]) -> Linear:
    """Entries in other places, each in one at most: `function` of all inputs."""
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
    numbers = [np.arange(a, b).reshape(s) + 1 for a, b, s in zip(ends, ends[1:], shapes)]
    index = function(numbers).ravel()
    kept = np.flatnonzero(index)
    assert len(np.unique(index[kept])) == len(kept)

    def pull(rows: Array) -> list[Array]:
        found = np.zeros((len(rows), ends[-1]))
        found[:, index[kept] - 1] = rows.reshape(len(rows), -1)[:, kept]
        return [p.reshape(-1, *s) for p, s in zip(np.split(found, ends[1:-1], axis=1), shapes)]

    return Linear(lambda inputs, by_size=False: function(inputs), pull, 1, moves=True)


class _Lines(NamedTuple):
    """Lines under and over a nonlinear function: slopes, and constants above."""

    below: Array
    above: Array
    constant: Array

    def pull(self, rows: Array) -> tuple[Array, Array]:
        """Upper bounds of rows: coefficients of the input, and constants (R,)."""
        up, down = np.maximum(rows, 0.0), np.minimum(rows, 0.0)
        constant = up.reshape(len(rows), -1) @ self.constant.ravel()
        if self.above.ndim == rows.ndim:  # a slope for each of several inputs
            up, down = up[..., None], down[..., None]
        return up * self.above + down * self.below, constant


@dataclass(frozen=True)
class _Bent:
    """``max(x, slope x)``, 0 <= slope <= 1: ReLU and leaky ReLU."""

    slope: float

    def helped(self, lower: Array, upper: Array) -> Array:
        """Entries of which tighter sides give other lines."""
        return (lower < 0) & (upper > 0)

    def enclose(self, sides: Sides, lean: float) -> tuple[Array, Array, Array, _Lines]:
        """Sides of the output, the size of its terms, and lines."""
        lower, upper = sides
        low, high = (np.where(x > 0, x, self.slope * x) for x in (lower, upper))
        chord = (high - low) / np.where(upper > lower, upper - lower, 1.0)
        more = lower + upper + lean * (upper - lower)
        side = np.where(more > 0, 1.0, np.where(more < 0, self.slope, chord))
        bent, piece = self.helped(lower, upper), np.where(lower >= 0, 1.0, self.slope)
        above, below = np.where(bent, chord, piece), np.where(bent, side, piece)
        # convex: it is farthest above the line of a slope at an end; below, lines go through 0
        gap = np.maximum(low - above * lower, high - above * upper)
        size = 2 * _size(lower, upper)
        gap = np.where(bent, gap + 8 * UNIT * size + ETA, 0.0)
        if self.slope not in (0.0, 1.0):
            low, high = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
        return low, high, size + gap, _Lines(below, above, gap)

    def pull(self, rows: Array, lines: _Lines) -> tuple[Array, Array]:
        """See `_Lines`."""
        return lines.pull(rows)


@dataclass(frozen=True)
class _Largest:
    """The largest of the entries `index` (places, k) of the flat input; -1 stands for none."""

    shape: Shape
    index: Array
    out: Shape

    def _laid(self, values: Array, other: float) -> Array:
        return np.where(self.index < 0, other, values.ravel()[self.index])

    def helped(self, lower: Array, upper: Array) -> Array:
        """Entries of windows that none dominates, and that could be the largest."""
        contends = self._laid(upper, -np.inf) > self._laid(lower, -np.inf).max(axis=1)[:, None]
        contends &= contends.sum(axis=1, keepdims=True) > 1
        found = np.zeros(lower.size, bool)
        found[self.index[contends]] = True
        return found.reshape(self.shape)

    def enclose(self, sides: Sides, lean: float) -> tuple[Array, Array, Array, _Lines]:
        """Sides of the output, the size of its terms, and lines."""
        lower, upper = sides
        low, high, counts = self._laid(lower, -np.inf), self._laid(upper, -np.inf), self.index >= 0
        floor, top = low.max(axis=1), high.max(axis=1)
        sizes = np.where(counts, _size(low, high), 0.0)
        # below: of those with the largest lower side, but for roundings, that of the largest upper
        near = low >= (floor - 2.0**-20 * sizes.max(axis=1))[:, None]
        best = np.where(near, high, -np.inf).argmax(axis=1)
        first = np.arange(low.shape[1]) == best[:, None]
        loss = floor - low[first]
        low, high = np.where(counts, low, 0.0), np.where(counts, high, 0.0)
        # above: floor + the sum of the chords of max(x - floor, 0), or the largest upper side
        chords = np.where(counts, np.maximum(high - floor[:, None], 0.0), 0.0)
        chords /= np.where(high > low, high - low, 1.0)
        by_chords = floor + (chords * (high - low) / 2).sum(axis=1) < top
        slopes = np.where(by_chords[:, None], chords, 0.0)
        rest = np.where(by_chords, floor - (chords * low).sum(axis=1), top)
        alone = np.where(first | ~counts, -np.inf, high).max(axis=1) <= floor
        slopes, rest = np.where(alone[:, None], first, slopes), np.where(alone, loss, rest)
        size = 2 * sizes.max(axis=1) + 2 * (slopes * sizes).sum(axis=1)
        rest = rest + (8 * len(first[0]) + 16) * UNIT * size + ETA
        shaped = (x.reshape(self.out) for x in (floor, top, size + np.abs(rest)))
        return *shaped, _Lines(first * 1.0, slopes, rest)

    def pull(self, rows: Array, lines: _Lines) -> tuple[Array, Array]:
        """See `_Lines`."""
        parts, constant = lines.pull(rows.reshape(len(rows), -1))
        found = np.zeros((len(rows), int(np.prod(self.shape))))
        for number, places in enumerate(self.index.T):  # of one number, windows share no entry
            there = places >= 0
            found[:, places[there]] += parts[:, there, number]
        return found.reshape(-1, *self.shape), constant


class _Node(NamedTuple):
    """An operation on earlier tensors; a word where it is not known."""

    operation: Any
    parents: tuple[int, ...]
    shape: Shape
    layer: str


class Network:
    """A Keras model of one input as operations, without a softmax or sigmoid at its end.

    `layer` is the name of the layer whose output is looked at, None for the logits. Raises an
    `UnknownLayerError` that names what is not known.
    """

    def __init__(self, model: Any, layer: str | None = None) -> None:
        inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
        if not (inputs and outputs and len(inputs) == len(outputs) == 1):
            raise UnknownLayerError("models of one input and one output alone are known")
        if not _is_called_as_built(model):
            raise UnknownLayerError(f"it does not know {type(model).__name__} '{model.name}'")
        self.nodes = [_Node("input", (), _shape(inputs[0]), "input")]
        self._numbers: dict[str | None, int] = {}
        self.output = self._read(outputs[0], {id(inputs[0]): 0})
        if layer is not None:
            self.output = self._numbers[layer]
        elif self.nodes[self.output].operation in ("softmax", "sigmoid"):
            (self.output,) = self.nodes[self.output].parents
        needed = {self.output}
        for index in range(self.output, 0, -1):
            needed |= {*self.nodes[index].parents} if index in needed else set()
        self.order = sorted(needed - {0})
        unknown = {self.nodes[i].layer: 0 for i in self.order if _is_word(self.nodes[i].operation)}
        if unknown:
            raise UnknownLayerError(f"it does not know {', '.join(unknown)}")
        # behind a box, intervals are exact as long as entries go one way, and are mixed once
        self.mixes = {0: 0}
        for index in self.order:
            operation, parents = self.nodes[index][:2]
            simple = len(parents) == 1 and isinstance(operation, Linear)
            self.mixes[index] = self.mixes[parents[0]] + operation.mixes if simple else 2

    @property
    def nb_outputs(self) -> int:
        """Number of the outputs, flattened."""
        return int(np.prod(self.nodes[self.output].shape))

    def behind(self, scale: Array, bias: Array, bias_size: Array) -> Network:
        """The same of ``scale * x + bias`` for x."""
        other, (start, *nodes) = copy(self), self.nodes
        nodes = [n._replace(parents=tuple(parent + 1 for parent in n.parents)) for n in nodes]
        scaled = _Node(_scaled(scale, bias, bias_size), (0,), start.shape, "input")
        other.nodes, other.output = [start, scaled, *nodes], self.output + 1
        other.order = [1, *(index + 1 for index in self.order)]
        other.mixes = {0: 0} | {index + 1: number for index, number in self.mixes.items()}
        return other

    def _read(self, tensor: Any, known: dict[int, int]) -> int:
        """The number of the node of a tensor of Keras."""
        if id(tensor) not in known:
            layer, number, place = tensor._keras_history
            call, kind, module = layer._inbound_nodes[number], type(layer), type(layer).__module__
            parents = tuple(self._read(parent, known) for parent in call.input_tensors)
            is_model = kind.__name__ in ("Sequential", "Functional")
            if is_model and module.startswith("keras.src.") and _is_usual(layer, call):
                within = {id(inner): parent for inner, parent in zip(layer.inputs, parents)}
                known[id(tensor)] = self._read(layer.outputs[place], within)
            else:
                found: list[Any] = ["unknown"]
                if _is_plain(layer, call) and module.startswith("keras.src.layers."):
                    shapes = [self.nodes[parent].shape for parent in parents]
                    found = _operations(layer, kind.__name__, shapes, _shape(tensor))
                for operation in found:
                    name = f"{kind.__name__} '{layer.name}'"
                    name += f" ({operation})" if _is_word(operation) else ""
                    self.nodes.append(_Node(operation, parents, _shape(tensor), name))
                    parents = (len(self.nodes) - 1,)
                known[id(tensor)] = parents[0]
            self._numbers[layer.name] = known[id(tensor)]
        return known[id(tensor)]


def is_in_place(node: _Node) -> bool:
    """Whether each entry is made of one entry of one tensor: moved, or an activation of it."""
    is_move = isinstance(node.operation, Linear) and node.operation.moves
    return len(node.parents) == 1 and (is_move or isinstance(node.operation, _Bent))


def _is_word(operation: Any) -> bool:
    return isinstance(operation, str)


def _is_called_as_built(model: Any) -> bool:
    """Whether a model, or a layer, computes what its class of Keras says."""
    own = (getattr(type(model), name).__module__ for name in ("call", "__call__"))
    return "call" not in vars(model) and all(module.startswith("keras.src.") for module in own)


def _is_usual(layer: Any, call: Any) -> bool:
    """Whether a layer is called as usual: by tensors of Keras alone, no mask, not in training."""
    arguments = dict(call.arguments.kwargs)
    inputs = _flat([*call.arguments.args, arguments.pop("inputs", None)])
    masked = any(getattr(tensor, "_keras_mask", None) is not None for tensor in call.input_tensors)
    plain = all(value is None or value is False for value in _flat(arguments))
    tensors = {id(value) for value in call.input_tensors}
    alone = {id(value) for value in inputs if value is not None} == tensors
    return _is_called_as_built(layer) and plain and not masked and alone


def _flat(value: Any) -> list[Any]:
    """What is in lists and dictionaries, however deep."""
    inner = list(value.values()) if isinstance(value, dict) else value
    return [y for x in inner for y in _flat(x)] if isinstance(inner, (list, tuple)) else [value]


def _is_plain(layer: Any, call: Any) -> bool:
    """Whether a layer is called as usual, and one tensor comes out, of channels last."""
    first = getattr(layer, "data_format", None) == "channels_first"
    quantized = getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False)
    return _is_usual(layer, call) and not (first or quantized) and len(call.output_tensors) == 1


def _shape(tensor: Any) -> Shape:
    if None in tuple(tensor.shape)[1:]:
        raise UnknownLayerError("it knows models with fixed sizes alone")
    return tuple(tensor.shape)[1:]


def _operations(layer: Any, kind: str, shapes: list[Shape], out: Shape) -> list[Any]:
    """What a layer does to inputs of some shapes, in order; a word stands for what is not known."""
    arrays = [np.asarray(array, np.float64) for array in layer.get_weights()]
    weights = dict(zip([variable.name for variable in layer.weights], arrays))
    shape = shapes[0] if shapes else ()
    if kind == "Dense":
        kernel, bias = weights["kernel"], weights.get("bias", 0.0)
        return [_window(shape, kernel, bias), *_activation(layer.activation)]
    if kind in ("Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D"):
        kernel, groups = weights["kernel"], shape[-1]
        if kind.startswith("Depthwise"):  # (*size, channels, multiplier)
            kernel = kernel.reshape(*kernel.shape[:-2], 1, -1)
        else:
            groups = layer.groups
        own = np.arange(shape[-1])[:, None] // (shape[-1] // groups)
        own = own == np.arange(out[-1]) // (out[-1] // groups)  # channels of one group
        kernel = np.tile(kernel, (*[1] * (kernel.ndim - 2), groups, 1)) * own
        sizes = layer.strides, layer.padding, layer.dilation_rate
        window = _window(shape, kernel, weights.get("bias", 0.0), *sizes)
        return [window, *_activation(layer.activation)]
    if "Pooling" in kind and len(shape) < 4 and "Adaptive" not in kind:
        return _pooling(layer, kind, shape, out)
    if kind == "BatchNormalization" and layer.axis % (len(shape) + 1):
        places = [1] * len(shape)
        places[layer.axis % (len(shape) + 1) - 1] = -1
        scale = weights.get("gamma", 1.0) / np.sqrt(weights["moving_variance"] + layer.epsilon)
        beta, mean = weights.get("beta", 0.0), weights["moving_mean"] * scale
        parts = scale, beta - mean, np.abs(beta) + np.abs(mean)
        return [_scaled(*(part.reshape(places) for part in parts))]
    if kind == "Normalization" and not layer.invert:
        mean, variance = (np.asarray(x, np.float64)[0] for x in (layer.mean, layer.variance))
        deviation = np.maximum(np.sqrt(variance), 1e-7)  # the epsilon of Keras
        return [_scaled(1 / deviation, -mean / deviation)]
    if kind == "Rescaling" and np.ndim(layer.scale) == np.ndim(layer.offset) == 0:
        given = layer.scale, layer.offset  # numbers of Python Keras casts to float32
        return [_scaled(*(x if hasattr(x, "dtype") else np.float32(x) for x in given))]
    if kind == "Activation":
        return _activation(layer.activation)
    if kind == "Softmax" and layer.axis in (-1, len(shape)):
        return ["softmax"]
    if kind in ("ReLU", "LeakyReLU"):
        bare = not getattr(layer, "threshold", 0) and getattr(layer, "max_value", None) is None
        known = bare and 0 <= layer.negative_slope <= 1
        # TensorFlow takes the slope in float32
        return [_Bent(float(np.float32(layer.negative_slope))) if known else "its settings"]
    if kind in ("Add", "Subtract", "Average") and set(shapes) == {out}:
        factors = {"Add": [1.0] * len(shapes), "Subtract": [1.0, -1.0]}
        return [_summed(factors.get(kind, [1.0 / len(shapes)] * len(shapes)))]
    moves = _moves(layer, shape, out).get(kind)
    return [_moved(shapes, moves) if moves else "unknown"]


def _moves(layer: Any, shape: Shape, out: Shape) -> dict[str, Callable]:
    """By kind of layer, what those do that only move entries."""
    idle = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "GaussianDropout")
    same = ("Flatten", "Reshape", "Identity", "ActivityRegularization", "AlphaDropout", *idle)

    def padded(inputs: Sequence[Array]) -> Array:
        pads = np.reshape(layer.padding, (-1, 2)).tolist()
        return np.pad(inputs[0], [*map(tuple, pads), (0, 0)])

    def cropped(inputs: Sequence[Array]) -> Array:
        cuts = zip(np.reshape(layer.cropping, (-1, 2)), shape)
        return inputs[0][tuple(slice(a, length - b) for (a, b), length in cuts)]

    def joined(inputs: Sequence[Array]) -> Array:
        return np.concatenate(inputs, axis=layer.axis % (len(out) + 1) - 1)

    def permuted(inputs: Sequence[Array]) -> Array:
        return np.transpose(inputs[0], [axis - 1 for axis in layer.dims])

    found: dict[str, Callable] = dict.fromkeys(same, lambda inputs: inputs[0].reshape(out))
    found |= {"ZeroPadding1D": padded, "ZeroPadding2D": padded, "Permute": permuted}
    return found | {"Cropping1D": cropped, "Cropping2D": cropped, "Concatenate": joined}


def _activation(function: Any) -> list[Any]:
    """What an activation argument adds to a layer."""
    name = getattr(function, "__name__", type(function).__name__)
    if not str(getattr(function, "__module__", "")).startswith("keras.src.activations"):
        return [f"activation {name}"]
    known: dict[str, list[Any]] = {
        "linear": [],
        "relu": [_Bent(0.0)],
        "leaky_relu": [_Bent(float(np.float32(0.2)))],
    }
    return known.get(name, [name])


def _pooling(layer: Any, kind: str, shape: Shape, out: Shape) -> list[Any]:
    """Average and largest values of windows, or of all places."""
    size, strides, padding, steps = shape[:-1], shape[:-1], "valid", (1,) * (len(shape) - 1)
    if not kind.startswith("Global"):
        size, strides, padding = layer.pool_size, layer.strides, layer.padding
    if "Average" in kind:
        ones = np.broadcast_to(np.eye(shape[-1]), (*size, shape[-1], shape[-1]))
        total = _window(shape, ones, 0.0, strides, padding, steps)
        share = 1 / total.apply([np.ones(shape)])
        shaped = _moved([share.shape], lambda inputs: inputs[0].reshape(out))
        return [total, _scaled(share), shaped]
    pads, places = _places(shape, size, strides, padding, steps)
    padded = np.pad(np.arange(int(np.prod(shape))).reshape(shape) + 1, pads) - 1
    index = np.stack([padded[place].ravel() for place in places.values()], axis=1)
    return [_Largest(shape, index, out)]
