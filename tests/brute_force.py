"""The worst value of a property of a tiny network over a region, found without the engine.

A network is read from Keras layer by layer: each is a matrix, a formula of NumPy, or the largest of
some entries, in float64. `by_pieces` cuts a region where a piecewise linear network bends and looks
at the corners of what is left, which is exact; `by_grid` halves boxes until a Lipschitz constant
says that nothing is hidden between their centers, which any network allows.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import keras
import numpy as np

from xcertify.regions import Region

L = keras.layers
_CLOSE = 1e-9
_MOST_CORNERS = 200_000  # subsets of constraints, a guard against networks that are not tiny


# --- scalar functions ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A scalar function with a bound of its slopes, or with the kinks between its straight pieces.

    `steepest` is a number, or a function of an interval's ends.
    """

    value: Callable[[np.ndarray], np.ndarray]
    steepest: Any = 1.0
    kinks: tuple[float, ...] | None = None

    def slope_within(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        steepest = self.steepest(low, high) if callable(self.steepest) else self.steepest
        return np.broadcast_to(steepest, low.shape)

    def piece(self, number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Slope and intercept of one straight piece, for each of `size` entries."""
        ends = [self.kinks[0] - 1, *self.kinks, self.kinks[-1] + 1]
        low, high = (np.full(size, end) for end in ends[number : number + 2])
        slope = (self.value(high) - self.value(low)) / (high - low)
        return slope, self.value(low) - slope * low


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -z))


def _normal_distribution(z: np.ndarray) -> np.ndarray:
    return (1 + np.frompyfunc(math.erf, 1, 1)(z / math.sqrt(2)).astype("f8")) / 2


def _tanh_gelu(z: np.ndarray) -> np.ndarray:
    return z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2


def elu(alpha: float, scale: float = 1.0) -> Curve:
    steepest = scale * max(1.0, alpha)
    return Curve(lambda z: scale * np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0))), steepest)


def leaky_relu(slope: Any) -> Curve:
    steepest = np.maximum(np.abs(slope), 1.0)
    return Curve(lambda z: np.where(z > 0, z, slope * z), steepest, (0.0,))


CURVES = {
    "relu": leaky_relu(0.0),
    "leaky_relu": leaky_relu(0.2),
    "relu6": Curve(lambda z: np.clip(z, 0, 6), 1.0, (0.0, 6.0)),
    "hard_tanh": Curve(lambda z: np.clip(z, -1, 1), 1.0, (-1.0, 1.0)),
    "hard_sigmoid": Curve(lambda z: np.clip(z + 3, 0, 6) / 6, 1 / 6, (-3.0, 3.0)),
    "soft_shrink": Curve(lambda z: z - np.clip(z, -0.5, 0.5), 1.0, (-0.5, 0.5)),
    "sparse_sigmoid": Curve(lambda z: np.clip((z + 1) / 2, 0, 1), 0.5, (-1.0, 1.0)),
    "absolute": Curve(np.abs, 1.0, (0.0,)),
    "elu": elu(1.0),
    "celu": elu(1.0),
    "selu": elu(1.6732632423543772, 1.0507009873554805),
    "gelu": Curve(lambda z: z * _normal_distribution(z), 1.13),
    "approximate gelu": Curve(_tanh_gelu, 1.13),
    "silu": Curve(lambda z: z * _sigmoid(z), 1.1),
    "mish": Curve(lambda z: z * np.tanh(np.logaddexp(0, z)), 1.09),
    "sigmoid": Curve(_sigmoid, 0.25),
    "hard_silu": Curve(lambda z: z * np.clip(z + 3, 0, 6) / 6, 1.5),
    "log_sigmoid": Curve(lambda z: -np.logaddexp(0, -z)),
    "softplus": Curve(lambda z: np.logaddexp(0, z)),
    "softsign": Curve(lambda z: z / (1 + np.abs(z))),
    "sparse_plus": Curve(lambda z: np.where(z < 1, np.maximum(z + 1, 0) ** 2 / 4, z)),
    "tanh": Curve(np.tanh),
    "tanh_shrink": Curve(lambda z: z - np.tanh(z)),
    "exponential": Curve(np.exp, lambda low, high: np.exp(high)),
    "square": Curve(np.square, lambda low, high: 2 * np.maximum(np.abs(low), np.abs(high))),
}


# --- nodes of a network -------------------------------------------------------------------------

Forms = list[tuple[np.ndarray, np.ndarray]]  # of each node on a cell: x -> matrix @ x + offset


@dataclass(frozen=True)
class Affine:
    """sum_i x_i @ matrices[i] + bias, matrices (entries of parent i, entries)."""

    parents: tuple[int, ...]
    matrices: tuple[np.ndarray, ...]
    bias: np.ndarray

    def value(self, *arrays: np.ndarray) -> np.ndarray:
        return sum((a @ m for a, m in zip(arrays, self.matrices)), self.bias)

    def slopes(self, low: Any, high: Any, *slopes: np.ndarray) -> np.ndarray:
        return sum(np.abs(m).T @ s for m, s in zip(self.matrices, slopes))

    def cut(self, cell: Cell, *forms: tuple[np.ndarray, np.ndarray]) -> list:
        matrix = sum(m.T @ a for m, (a, _) in zip(self.matrices, forms))
        offset = sum((b @ m for m, (_, b) in zip(self.matrices, forms)), self.bias)
        return [(cell, (matrix, offset))]


@dataclass(frozen=True)
class Elementwise:
    """A curve of every entry."""

    parents: tuple[int]
    curve: Curve

    def value(self, array: np.ndarray) -> np.ndarray:
        return self.curve.value(array)

    def slopes(self, low: np.ndarray, high: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        return self.curve.slope_within(low, high)[:, None] * slopes

    def cut(self, cell: Cell, form: tuple[np.ndarray, np.ndarray]) -> list:
        matrix, offset = form
        kinks, size = self.curve.kinks, len(offset)
        assert kinks is not None, "cut only where all is piecewise linear"
        parts = [cell]
        for entry, kink in itertools.product(range(size), kinks):
            parts = [p for part in parts for p in part.split(matrix[entry], kink - offset[entry])]
        pieces = [self.curve.piece(number, size) for number in range(len(kinks) + 1)]
        found = []
        for part in parts:
            numbers = np.searchsorted(kinks, matrix @ part.corners.mean(0) + offset)
            slope, start = (np.choose(numbers, [piece[i] for piece in pieces]) for i in (0, 1))
            found.append((part, (slope[:, None] * matrix, slope * offset + start)))
        return found


@dataclass(frozen=True)
class Largest:
    """The largest of the members of each group."""

    parents: tuple[int]
    groups: list[np.ndarray]

    def value(self, array: np.ndarray) -> np.ndarray:
        return np.stack([array[:, group].max(1) for group in self.groups], 1)

    def slopes(self, low: Any, high: Any, slopes: np.ndarray) -> np.ndarray:
        return np.stack([slopes[group].max(0) for group in self.groups])

    def cut(self, cell: Cell, form: tuple[np.ndarray, np.ndarray]) -> list:
        matrix, offset = form
        parts: list[tuple[Cell, list[int]]] = [(cell, [])]
        for group in self.groups:
            parts = [(part, [*found, group[0]]) for part, found in parts]
            for rival in group[1:]:
                parts = [p for part in parts for p in _contest(*part, rival, matrix, offset)]
        return [(part, (matrix[found], offset[found])) for part, found in parts]


def _contest(part: Cell, found: list[int], rival: int, matrix: Any, offset: Any) -> list:
    """Where the rival is larger than the last one found, and where it is not."""
    step, start = matrix[rival] - matrix[found[-1]], offset[rival] - offset[found[-1]]
    parts = part.split(step, -start)
    larger = [step @ p.corners.mean(0) + start > 0 for p in parts]
    return [(p, [*found[:-1], rival] if more else found) for p, more in zip(parts, larger)]


@dataclass(frozen=True)
class Softmax:
    """Of all entries; a derivative is at most 1/4."""

    parents: tuple[int]

    def value(self, array: np.ndarray) -> np.ndarray:
        powers = np.exp(array - array.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def slopes(self, low: Any, high: Any, slopes: np.ndarray) -> np.ndarray:
        return np.broadcast_to(slopes.sum(0) / 4, slopes.shape)


Node = Affine | Elementwise | Largest | Softmax


@dataclass
class Net:
    """Nodes in an order in which each follows its parents; number 0 is the input (d entries)."""

    nodes: list[Node] = field(default_factory=list)

    def add(self, node: Node) -> int:
        """Its number. An affine function of affine ones is one of what these are made of."""
        if isinstance(node, Affine):
            node = self._joined(node)
        self.nodes.append(node)
        return len(self.nodes)

    def _joined(self, node: Affine) -> Affine:
        parents, matrices, bias = [], [], node.bias
        for parent, matrix in zip(node.parents, node.matrices):
            inner = self.nodes[parent - 1] if parent else None
            if isinstance(inner, Affine):
                parents += inner.parents
                matrices += [m @ matrix for m in inner.matrices]
                bias = bias + inner.bias @ matrix
            else:
                parents.append(parent)
                matrices.append(matrix)
        return Affine(tuple(parents), tuple(matrices), bias)

    @property
    def straight(self) -> bool:
        """Whether it is piecewise linear, and exact answers can be had."""
        curves = [node.curve for node in self.nodes if isinstance(node, Elementwise)]
        smooth = any(isinstance(node, Softmax) for node in self.nodes)
        return not smooth and all(curve.kinks is not None for curve in curves)

    def values(self, points: np.ndarray) -> np.ndarray:
        """Of the last node at points (B, d)."""
        found = [points]
        for node in self.nodes:
            found.append(node.value(*(found[parent] for parent in node.parents)))
        return found[-1]

    def slopes(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """At most the derivatives of the last node by each input, over the box from low to high.

        What an activation takes is within that of the center by as much as its slopes allow.
        """
        slopes, values = [np.eye(len(low))], [(low + high)[None] / 2]
        for node in self.nodes:
            steep = [slopes[parent] for parent in node.parents]
            at = [values[parent] for parent in node.parents]
            reach = steep[0] @ (high - low) / 2
            slopes.append(node.slopes(at[0][0] - reach, at[0][0] + reach, *steep))
            values.append(node.value(*at))
        return slopes[-1]


# --- networks of Keras --------------------------------------------------------------------------

_AFFINE = (L.Dense, L.Conv1D, L.Conv2D, L.BatchNormalization, L.Flatten, L.Reshape, L.Rescaling)
_AFFINE += (L.AveragePooling2D, L.GlobalAveragePooling2D, L.Add, L.Subtract, L.Concatenate)
_AFFINE += (L.Average, L.Permute, L.ZeroPadding2D, L.Dropout)
_LARGEST = (L.MaxPooling1D, L.MaxPooling2D, L.GlobalMaxPooling2D, L.Maximum)


def read(model: keras.Model) -> Net:
    """A functional model of one input, whose layers are each called once."""
    net, numbers = Net(), {id(model.inputs[0]): 0}
    for layer in model.operations:
        if isinstance(layer, L.InputLayer):
            continue
        tensors = layer.input if isinstance(layer.input, list) else [layer.input]
        parents = tuple(numbers[id(tensor)] for tensor in tensors)
        numbers[id(layer.output)] = _read_layer(net, layer, parents, [t.shape for t in tensors])
    assert numbers[id(model.outputs[0])] == len(net.nodes)
    return net


def _read_layer(net: Net, layer: Any, parents: tuple[int, ...], shapes: list) -> int:
    sizes = [math.prod(shape[1:]) for shape in shapes]
    if isinstance(layer, _LARGEST):
        ends = np.cumsum([0, *sizes])
        beside = tuple(np.eye(ends[-1])[a:b] for a, b in zip(ends, ends[1:]))
        joined = net.add(Affine(parents, beside, np.zeros(ends[-1])))
        passed = [_responses(layer, shapes, place, 1.0) > 0 for place in range(len(shapes))]
        return net.add(Largest((joined,), [np.flatnonzero(c) for c in np.concatenate(passed).T]))
    if type(layer) is L.Dense and len(shapes[0]) == 2:  # as below, but at once
        kernel, *bias = (np.asarray(weights, "f8") for weights in layer.get_weights())
        zeros = np.zeros(kernel.shape[1])
        parents = (net.add(Affine(parents, (kernel,), bias[0] if bias else zeros)),)
    elif isinstance(layer, _AFFINE):
        plain = _plain(layer, shapes)
        bias = _responses(plain, shapes, 0, 0.0)[0]
        matrices = [_responses(plain, shapes, place, 1.0) - bias for place in range(len(shapes))]
        parents = (net.add(Affine(parents, tuple(matrices), bias)),)
    name = _function(layer)
    if name == "linear":
        return parents[0]
    if name == "softmax":
        return net.add(Softmax(parents))
    return net.add(Elementwise(parents, CURVES[name] if isinstance(name, str) else name))


def _function(layer: Any) -> str | Curve:
    """What a layer does to each entry, at its end or in all."""
    if isinstance(layer, L.LeakyReLU):
        return leaky_relu(layer.negative_slope)
    if isinstance(layer, L.PReLU):
        return leaky_relu(np.asarray(layer.alpha, "f8").ravel())
    if isinstance(layer, L.ELU):
        return elu(layer.alpha)
    kind = type(layer).__name__
    if isinstance(layer, _AFFINE) or kind == "Activation":
        return keras.activations.serialize(getattr(layer, "activation", keras.activations.linear))
    own = {"Gelu": "approximate gelu", "Exp": "exponential"}
    return "softmax" if isinstance(layer, L.Softmax) else own.get(kind, kind.lower())


def _plain(layer: Any, shapes: list) -> Any:
    """A copy of a layer in float64 and without its activation."""
    config = json.loads(json.dumps(layer.get_config()).replace('"float32"', '"float64"'))
    config |= {"activation": None} if "activation" in config else {}
    copy = type(layer).from_config(config)
    copy.build(shapes[0] if len(shapes) == 1 else shapes)
    copy.set_weights(layer.get_weights())
    return copy


def _responses(layer: Any, shapes: list, place: int, size: float) -> np.ndarray:
    """What a layer returns for each unit vector at one of its tensors, (entries, outputs)."""
    nb_entries = math.prod(shapes[place][1:])
    arrays = [np.zeros((nb_entries, *shape[1:])) for shape in shapes]
    arrays[place] = size * np.eye(nb_entries).reshape(arrays[place].shape)
    outputs = layer(arrays if len(arrays) > 1 else arrays[0])
    return np.asarray(outputs, "f8").reshape(nb_entries, -1)


def with_property(net: Net, rows: np.ndarray, limits: np.ndarray) -> Net:
    """max_j (rows[p, j] @ f(x) - limits[p, j]) for each p: rows (P, J, K), limits (P, J)."""
    (nb_properties, nb_rows, size), last = rows.shape, len(net.nodes)
    found = Net(list(net.nodes))
    matrix = np.asarray(rows, "f8").reshape(-1, size).T
    found.add(Affine((last,), (matrix,), -np.asarray(limits, "f8").ravel()))
    groups = np.arange(nb_properties * nb_rows).reshape(nb_properties, nb_rows)
    found.add(Largest((last + 1,), list(groups)))
    return found


# --- regions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Area:
    """One region in float64: a box (d,), cut by a ball of radii (d,) around its center."""

    low: np.ndarray
    high: np.ndarray
    center: np.ndarray
    radii: np.ndarray | None
    norm: float

    @classmethod
    def of(cls, region: Region, sample: int) -> Area:
        arrays = (region.lower, region.upper, region.center)
        flat = [array[sample].astype("f8").ravel() for array in arrays]
        radii = None
        if region.epsilon is not None and np.isfinite(region.norm):
            epsilon = np.broadcast_to(np.asarray(region.epsilon, "f8"), region.center.shape)
            radii = epsilon[sample].ravel()
        return cls(*flat, radii, region.norm)

    def lengths(self, points: np.ndarray) -> np.ndarray:
        """1 on the surface of the ball, at points (B, d); 0 for a box."""
        if self.radii is None:
            return np.zeros(len(points))
        steps = np.abs(points - self.center)
        scaled = np.divide(steps, self.radii, out=np.zeros(steps.shape), where=self.radii > 0)
        return (scaled**self.norm).sum(1) ** (1 / self.norm)

    def contains(self, points: np.ndarray, slack: float = 0.0) -> np.ndarray:
        """Which of the points (B, d) are inside: the box exactly, the ball but for `slack`."""
        boxed = ((points >= self.low) & (points <= self.high)).all(1)
        return boxed & (self.lengths(points) <= 1 + slack)

    def pulled(self, points: np.ndarray) -> np.ndarray:
        """Points of the box, moved towards the center until they are in the ball."""
        return self.center + (points - self.center) / np.maximum(self.lengths(points), 1)[:, None]

    def sample(self, generator: np.random.Generator, nb_points: int) -> np.ndarray:
        """Random points and corners of the region, (B, d)."""
        share = generator.random((nb_points, len(self.low)))
        share[::2] = np.round(share[::2])
        return self.pulled(self.low + share * (self.high - self.low))

    def halfspaces(self) -> tuple[np.ndarray, np.ndarray]:
        """Constraints matrix @ x <= ends of a box, or of an l1 ball; an l2 ball is in its box."""
        unit = np.eye(len(self.low))
        matrix, ends = np.concatenate([unit, -unit]), np.concatenate([self.high, -self.low])
        if self.norm != 1:
            return matrix, ends
        assert self.radii is not None and (self.radii > 0).all()
        signs = np.array(list(itertools.product([-1.0, 1.0], repeat=len(unit)))) / self.radii
        return np.concatenate([matrix, signs]), np.concatenate([ends, 1 + signs @ self.center])


# --- exact: cells on which a network is affine --------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A polytope {x: matrix @ x <= ends} with its corners (V, d)."""

    matrix: np.ndarray
    ends: np.ndarray
    corners: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray, ends: np.ndarray) -> Cell:
        """Rows of the matrix have length 1; those that touch no corner are left out."""
        corners = _corners(matrix, ends)
        if not len(corners):
            return cls(matrix, ends, corners)
        touch = (np.abs(corners @ matrix.T - ends) < 2 * _CLOSE).any(0)
        return cls(matrix[touch], ends[touch], corners)

    def split(self, direction: np.ndarray, end: float) -> list[Cell]:
        """The parts below and above direction @ x = end; one where that does not cut."""
        beyond = self.corners @ direction - end
        length = float(np.linalg.norm(direction))
        if beyond.max() <= _CLOSE * length or beyond.min() >= -_CLOSE * length:
            return [self]
        if length < 1e-12:  # rounding of a constant
            return [self]
        parts = []
        for sign in (1.0, -1.0):
            matrix = np.concatenate([self.matrix, sign * direction[None] / length])
            parts.append(Cell.of(matrix, np.append(self.ends, sign * end / length)))
        return [part for part in parts if len(part.corners)]


@cache
def _subsets(nb_constraints: int, dimension: int) -> np.ndarray:
    return np.array(list(itertools.combinations(range(nb_constraints), dimension)))


def _corners(matrix: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """All points where d of the constraints meet and none is broken, each at least once."""
    dimension = matrix.shape[1]
    assert math.comb(len(matrix), dimension) < _MOST_CORNERS
    chosen = _subsets(len(matrix), dimension)
    systems = matrix[chosen]
    regular = np.abs(np.linalg.det(systems)) > 1e-10
    points = np.linalg.solve(systems[regular], ends[chosen[regular]][..., None])[..., 0]
    points = points[(points @ matrix.T <= ends + _CLOSE).all(1)]
    return points[np.unique(np.round(points, 11), axis=0, return_index=True)[1]]


def _on_sphere(cell: Cell, area: Area, matrix: np.ndarray) -> np.ndarray:
    """Points of a cell and of an l2 ball, (B, 2), where linear functions may be smallest.

    Corners inside; where sides of the cell cross the circle; and the lowest point of the circle
    for each function x -> matrix[i] @ x.
    """
    (radius,) = set(area.radii)
    lengths = np.linalg.norm(matrix, axis=1)[:, None]
    lowest = area.center - radius * matrix / np.where(lengths > 0, lengths, 1)
    found = [cell.corners, lowest, area.center[None]]
    beyond = cell.ends - cell.matrix @ area.center  # how far the sides are from the center
    meets = np.abs(beyond) < radius
    normal, beyond = cell.matrix[meets], beyond[meets, None]
    along = np.sqrt(radius**2 - beyond**2) * normal[:, ::-1] * [-1, 1]
    found += [area.center + beyond * normal + along, area.center + beyond * normal - along]
    points = np.concatenate(found)
    inside = (points @ cell.matrix.T <= cell.ends + _CLOSE).all(1)
    return points[inside & (area.lengths(points) <= 1 + _CLOSE)]


def by_pieces(net: Net, area: Area) -> tuple[float, np.ndarray]:
    """The smallest value of any output over a box, an l1 ball or a disk, and where it is.

    The network has to be piecewise linear. Right but for roundings of about 1e-8.
    """
    matrix, ends = area.halfspaces()
    lengths = np.linalg.norm(matrix, axis=1)
    dimension = len(area.low)
    start: Forms = [(np.eye(dimension), np.zeros(dimension))]
    cells = [(Cell.of(matrix / lengths[:, None], ends / lengths), start)]
    for node in net.nodes:
        parts = [(node.cut(c, *(forms[i] for i in node.parents)), forms) for c, forms in cells]
        cells = [(cell, [*forms, form]) for some, forms in parts for cell, form in some]
    smallest, place = np.inf, area.center
    for cell, forms in cells:
        gradients, offsets = forms[-1]
        points = _on_sphere(cell, area, gradients) if area.norm == 2 else cell.corners
        values = (points @ gradients.T + offsets).min(1)
        if values.min(initial=np.inf) < smallest:
            smallest, place = float(values.min()), points[values.argmin()]
    return smallest, place


# --- any network: boxes that are halved ---------------------------------------------------------


def by_grid(
    net: Net, area: Area, tolerance: float = 3e-4, nb_boxes: int = 100_000
) -> tuple[float, float]:
    """An interval that holds the smallest value of any output over the region.

    Boxes are halved until it is narrower than the tolerance, or there are too many of them. The
    upper end is the value at a point.
    """
    slopes = net.slopes(area.low, area.high)  # (P, d)
    centers, halves = (area.low + area.high)[None] / 2, (area.high - area.low) / 2
    upper, closed = np.inf, np.inf
    while True:
        near = np.clip(area.center, centers - halves, centers + halves)
        centers = centers[area.lengths(near) <= 1 + 1e-12]
        upper = min(upper, float(net.values(area.pulled(centers)).min(initial=np.inf)))
        below = (net.values(centers) - slopes @ halves).min(1)
        lower = min(closed, upper, float(below.min(initial=np.inf)))
        if upper - lower <= tolerance or not 0 < 2 * len(centers) <= nb_boxes:
            return lower, upper
        # What cannot be smaller than what is known stays out, a little above what is asked for.
        done = below >= upper - tolerance
        closed = min(closed, float(below[done].min(initial=np.inf)))
        axis = int(np.argmax(slopes.max(0) * halves))
        halves = np.where(np.arange(len(halves)) == axis, halves / 2, halves)
        step = np.where(np.arange(len(halves)) == axis, halves, 0.0)
        centers = np.concatenate([centers[~done] - step, centers[~done] + step])


def worst(
    net: Net, area: Area, rows: np.ndarray, limits: np.ndarray, tolerance: float = 3e-4
) -> tuple[float, float]:
    """An interval that holds min_p min_x max_j (rows[p, j] @ f(x) - limits[p, j])."""
    asked = with_property(net, rows, limits)
    flat = area.norm == 1 or len(area.low) == 2
    if net.straight and (area.radii is None or (flat and (area.radii > 0).all())):
        value, _ = by_pieces(asked, area)
        return value - 1e-7, value + 1e-7
    return by_grid(asked, area, tolerance)


def property_values(rows: Any, limits: Any, outputs: np.ndarray) -> np.ndarray:
    """min_p max_j (rows[p, j] @ outputs - limits[p, j]) for outputs (B, K), in float64."""
    found = np.einsum("pjk,bk->bpj", np.asarray(rows, "f8"), outputs.astype("f8"))
    return (found - limits).max(2).min(1)


def shifted(limits: np.ndarray, value: float, wanted: Sequence[float]) -> np.ndarray:
    """Limits (len(wanted), P, J) that turn the worst value `value` into the wanted ones."""
    return limits + value - np.reshape(wanted, (-1, 1, 1))
