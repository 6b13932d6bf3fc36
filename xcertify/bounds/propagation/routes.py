"""The ways back that rows take, and what they see of every tensor on them: all of it, or a patch.

To refine the bounds of a tensor every neuron gets a row of its own, a backward pass from the unit
vector. A neuron of a convolution, though, sees a small patch of every earlier tensor, its receptive
field. Its row then is a row of patches: of coefficients, and of the lines and errors cut out at the
place of the neuron. What lies beyond the border of a tensor is 0 in all of them.

Source of the idea: the patches mode of auto_LiRPA (Xu et al., 2020, see `crown`), and compressed
Jacobians (Curtis, Powell and Reid, 1974).
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import Constant, Relaxed, Window
from xcertify.bounds.rounding import block_size

BLOCK = 256  # products summed in the working type; longer sums go on in float64


def total(terms: Any) -> Any:
    """Sums (N, T, S) float64 of terms (N, T, S, *shape)."""
    shape = terms.shape[3:]
    # As many of the last axes as one block has room for, where that is a good part of it.
    first = next(i for i in range(len(shape) + 1) if math.prod(shape[i:]) <= BLOCK)
    block = block_size(math.prod(shape), BLOCK)
    if 4 * math.prod(shape[first:]) < block:
        terms = ops.reshape(terms, (*ops.shape(terms)[:3], math.prod(shape) // block, block))
        first = 1
    terms = ops.sum(terms, axis=tuple(range(3 + first, len(terms.shape))))
    terms = ops.cast(terms, "float64")
    return ops.sum(terms, axis=tuple(range(3, 3 + first))) if first else terms


def largest(terms: Any) -> Any:
    """Their largest terms, (N, T, S) float64."""
    return ops.cast(ops.max(terms, axis=tuple(range(3, len(terms.shape)))), "float64")


def unit_rows(chosen: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Coefficients (N, S, *shape) of rows with a 1 at one entry of the flat tensor, (N, S)."""
    rows = ops.one_hot(chosen, math.prod(shape), dtype=dtype)
    return ops.reshape(rows, (*ops.shape(chosen), *shape))


def spread(met: Any) -> Any:
    """What is met at a node, `Relaxed` or `Closing`, with axes for the rows."""
    return met.map(lambda values: values[:, None, None])


class Route:
    """The way back of rows that see all of every tensor.

    Parameters
    ----------
    graph
        The network.
    start
        The node that rows start from.
    ends
        Nodes at which they stop, inputs aside.
    met
        By node: what rows are pulled back through, and for the nodes at which they stop what their
        coefficients are multiplied with there.
    """

    def __init__(
        self,
        graph: Graph,
        start: int,
        ends: Container[int] = (),
        met: Mapping[int, Any] | None = None,
    ) -> None:
        self.graph, self.start, self.ends = graph, start, ends
        self.met: dict[int, Any] = dict(met or {})  # of `Relaxed`, and `Closing` at the ends
        self.spread: dict[int, Any] = {}  # what `at` gives, where that is known already

    def ends_at(self, index: int) -> bool:
        """Whether rows stop at a node."""
        return self.graph.nodes[index].is_input or index in self.ends

    @cached_property
    def passed(self) -> list[int]:
        """Nodes that rows go through, parents first."""
        return [i for i in self.graph.ancestors([self.start], self.ends) if i not in self.ends]

    @cached_property
    def reached_ends(self) -> list[int]:
        """Nodes that they end at."""
        parents = {parent for index in self.passed for parent in self.graph.nodes[index].parents}
        return sorted(index for index in {self.start, *parents} if self.ends_at(index))

    def shape(self, index: int) -> tuple[int, ...]:
        """Of what rows see of a node."""
        return self.graph.nodes[index].shape

    @property
    def seen(self) -> list[int]:
        """Nodes that they see something of."""
        return [*self.passed, *self.reached_ends]

    @property
    def largest_size(self) -> int:
        """Most entries that they see of a node."""
        return max(math.prod(self.shape(index)) for index in self.seen)

    def at(self, index: int) -> Any:
        """What is met at a node, with axes for the rows: (N, 1, 1, *shape) each."""
        return self.spread[index] if index in self.spread else spread(self.met[index])

    def pull_back(self, index: int, coefficients: Any, relaxed: Relaxed) -> list[Any | None]:
        """Coefficients (N, T, S, *shape) of a node as those of its parents."""
        node = self.graph.nodes[index]
        shapes = [self.shape(parent) for parent in node.parents]
        return node.operation.pull_back(coefficients, relaxed, shapes)


@dataclass(frozen=True)
class Reach:
    """What one location of a tensor sees of an earlier one, per spatial axis.

    Location i sees the entries from ``i * stride - offset`` on, `size` of them.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: tuple[int, ...]

    def through(self, window: Window) -> Reach:
        """What is seen one operation further back."""
        return Reach(
            tuple((k - 1) * s + w for k, s, w in zip(self.size, window.stride, window.size)),
            tuple(a * s for a, s in zip(self.stride, window.stride)),
            tuple(o * s + p for o, s, p in zip(self.offset, window.stride, window.offset)),
        )

    def joined(self, other: Reach) -> Reach | None:
        """Both together, for two ways back to the same tensor."""
        if self.stride != other.stride:
            return None
        offset = tuple(map(max, self.offset, other.offset))
        ends = [
            max(a - b, c - d)
            for a, b, c, d in zip(self.size, self.offset, other.size, other.offset)
        ]
        return Reach(tuple(map(sum, zip(ends, offset))), self.stride, offset)


def receptive_fields(
    graph: Graph, start: int, ends: Container[int]
) -> tuple[tuple[int, ...], dict[int, Reach]] | None:
    """Spatial axes and what a location sees of each earlier tensor, None if it sees everything."""
    windows: dict[int, Window] = {}
    for index in graph.ancestors([start], ends):
        operation = graph.nodes[index].operation
        if index in ends or isinstance(operation, Constant):
            continue
        if operation.window is None or operation.on_patches() is None:
            return None
        windows[index] = operation.window
    (axes, *others) = {window.axes for window in windows.values() if window.axes} or {()}
    if not axes or others or any(window.mixed in axes for window in windows.values()):
        return None
    ones = (1,) * len(axes)
    found = {start: Reach(ones, ones, (0,) * len(axes))}
    for index in sorted(windows, reverse=True):
        window = windows[index]
        reach = found[index].through(window) if window.axes else found[index]
        for parent in graph.nodes[index].parents:
            joined = reach.joined(found[parent]) if parent in found else reach
            if joined is None:
                return None
            found[parent] = joined
    return axes, found


class PatchRoutes:
    """The ways back of rows that see a patch of every tensor.

    Parameters
    ----------
    route
        The same for rows that see everything.
    axes
        Spatial axes, batch axis not counted.
    fields
        By node what a location of the first tensor sees of it.
    """

    def __init__(self, route: Route, axes: tuple[int, ...], fields: dict[int, Reach]) -> None:
        self.route, self.axes, self.fields = route, axes, fields
        # Once for all rows.
        self.laid = {i: route.met[i].map(self._laid_out) for i in fields if i in route.met}

    def of(self, chosen: Any) -> Patches:
        """The route of rows of single entries of the flat tensor, (N, S)."""
        locations = []
        for axis in self.axes:
            sizes = self.route.shape(self.route.start)[axis:]
            locations.append(chosen // math.prod(sizes[1:]) % sizes[0])
        return Patches(self, locations)

    def _laid_out(self, values: Any) -> Any:
        """(N, *shape) as (N, locations + 1, *others), zeros at the last location."""
        first = [axis + 1 for axis in self.axes]
        others = [axis for axis in range(1, len(values.shape)) if axis not in first]
        moved = ops.transpose(values, (0, *first, *others))
        moved = ops.reshape(
            moved, (-1, math.prod(moved.shape[1 : len(first) + 1]), *moved.shape[len(first) + 1 :])
        )
        return ops.pad(moved, [(0, 0), (0, 1), *[(0, 0)] * len(others)])


class Patches(Route):
    """The way back of some rows that see patches, at their places.

    Parameters
    ----------
    routes
        Those of all rows.
    locations
        Of the rows, (N, S) along each spatial axis.
    """

    def __init__(self, routes: PatchRoutes, locations: list[Any]) -> None:
        route = routes.route
        super().__init__(route.graph, route.start, route.ends, route.met)
        self.routes, self.locations = routes, locations
        self._seen: dict[int, Any] = {}

    @property
    def seen(self) -> list[int]:
        """See `Route`."""
        return list(self.routes.fields)

    def unit_rows(self, chosen: Any, dtype: str) -> Any:
        """Coefficients (N, S, *shape) of the rows, of entries (N, S) of the flat tensor."""
        shape = super().shape(self.start)
        (channels,) = (axis for axis in range(len(shape)) if axis not in self.routes.axes)
        channel = chosen // math.prod(shape[channels + 1 :]) % shape[channels]
        rows = ops.one_hot(channel, shape[channels], dtype=dtype)
        return ops.reshape(rows, (*ops.shape(chosen), *self.shape(self.start)))

    def shape(self, index: int) -> tuple[int, ...]:
        """See `Route`."""
        shape, sizes = list(super().shape(index)), self.routes.fields[index].size
        for axis, size in zip(self.routes.axes, sizes):
            shape[axis] = size
        return tuple(shape)

    def at(self, index: int) -> Any:
        """See `Route`: (N, 1, S, *patch) each."""
        axes, field = self.routes.axes, self.routes.fields[index]
        places = self._places(index)

        def cut(laid: Any) -> Any:
            """(N, S, *sizes, *others), and the axes where they belong."""
            patches = backend.gather(laid, places)
            rank, sizes = len(patches.shape) - 2, len(field.size)
            order: list[int] = list(range(2 + sizes, 2 + rank))
            for number, axis in enumerate(axes):
                order.insert(axis, 2 + number)
            return ops.transpose(patches, (0, 1, *order))[:, None]

        return self.routes.laid[index].map(cut)

    def pull_back(self, index: int, coefficients: Any, relaxed: Relaxed) -> list[Any | None]:
        """See `Route`."""
        node = self.graph.nodes[index]
        own = self.routes.fields[index]
        window = node.operation.window
        if window is not None and window.axes:
            own = own.through(window)
        shapes = []
        for parent in node.parents:
            shape = list(super().shape(parent))
            for axis, size in zip(self.routes.axes, own.size):
                shape[axis] = size
            shapes.append(tuple(shape))
        operation = node.operation.on_patches()
        assert operation is not None  # else there would be no patches
        pulled = operation.pull_back(coefficients, relaxed, shapes)
        return [
            part if part is None else self._fitted(parent, part, own, bool(relaxed.slopes))
            for parent, part in zip(node.parents, pulled)
        ]

    def _fitted(self, index: int, coefficients: Any, own: Reach, inside: bool) -> Any:
        """Coefficients of what one way sees of a node, as those of all that is seen of it.

        `inside` says that they are 0 beyond the border of the tensor, as all have to be.
        """
        field, pads = self.routes.fields[index], [(0, 0)] * len(coefficients.shape)
        for number, axis in enumerate(self.routes.axes):
            before = field.offset[number] - own.offset[number]
            pads[axis + 3] = (before, field.size[number] - own.size[number] - before)
        if any(pad != (0, 0) for pad in pads):
            coefficients = ops.pad(coefficients, pads)
        if inside or self.ends_at(index) or (index in self.met and self.met[index].slopes):
            return coefficients
        if not any(self._sticks_out(index, i) for i in range(len(self.routes.axes))):
            return coefficients
        within = self._places(index) < self._nb_locations(index)
        within = ops.cast(within, coefficients.dtype)
        shape = [1] * len(super().shape(index))
        for number, axis in enumerate(self.routes.axes):
            shape[axis] = field.size[number]
        return coefficients * ops.reshape(within, (*ops.shape(within)[:2], *shape))[:, None]

    def _nb_locations(self, index: int) -> int:
        return math.prod(self.graph.nodes[index].shape[axis] for axis in self.routes.axes)

    def _sticks_out(self, index: int, number: int) -> bool:
        """Whether some row sees what is beyond the border of a tensor, along one axis."""
        field, axis = self.routes.fields[index], self.routes.axes[number]
        last = self.graph.nodes[self.start].shape[axis] - 1
        end = last * field.stride[number] - field.offset[number] + field.size[number]
        return field.offset[number] > 0 or end > self.graph.nodes[index].shape[axis]

    def _places(self, index: int) -> Any:
        """Locations (N, S, *sizes) that rows see of a node, behind the last one for no place."""
        if index in self._seen:
            return self._seen[index]
        field, rank = self.routes.fields[index], len(self.routes.axes)
        found, beyond = None, []
        behind = (..., *[None] * rank)
        for number, (axis, location) in enumerate(zip(self.routes.axes, self.locations)):
            length = self.graph.nodes[index].shape[axis]
            along = [1] * rank
            along[number] = field.size[number]
            steps = np.arange(field.size[number], dtype="int32") - field.offset[number]
            first = location * field.stride[number] if field.stride[number] > 1 else location
            place = first[behind] + steps.reshape(along)
            if self._sticks_out(index, number):
                beyond.append(ops.not_equal(ops.clip(place, 0, length - 1), place))
            found = place if found is None else found * length + place
        if beyond:
            found = ops.where(reduce(ops.logical_or, beyond), self._nb_locations(index), found)
        self._seen[index] = found
        return found


def patch_routes(route: Route) -> PatchRoutes | None:
    """Routes of patches, where rows see less of tensors so; None where they do not."""
    found = receptive_fields(route.graph, route.start, route.ends)
    if found is None or len(route.shape(route.start)) != len(found[0]) + 1:
        return None
    routes = PatchRoutes(route, *found)
    return routes if are_smaller(Patches(routes, []), route) else None


def are_smaller(patches: Patches, route: Route) -> bool:
    """Whether patches have fewer entries than the tensors that they are of."""
    seen, whole = (sum(math.prod(way.shape(i)) for i in patches.seen) for way in (patches, route))
    return seen < whole
