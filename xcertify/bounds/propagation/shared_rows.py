"""Which rows bound a whole tensor, and how many neurons can share one.

To refine the bounds of a tensor every neuron gets a row of its own, a backward pass from the unit
vector: `SingleRows`. A neuron of a convolution, though, sees a small window of every earlier
tensor. Neurons whose windows do not overlap anywhere can be bounded together and walk back as one
row, since no entry on the way belongs to two of them; sums are then taken window by window:
`SharedRows`, the idea of compressed Jacobians (Curtis, Powell and Reid, 1974).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from keras import ops

from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import Constant, Input, Window
from xcertify.bounds.rounding import block_size

BLOCK = 256  # products summed in the working type; longer sums go on in float64


def total(terms: Any) -> Any:
    """Sums (N, S) float64 of terms (N, S, *shape)."""
    size = math.prod(terms.shape[2:])
    block = block_size(size, BLOCK)
    terms = ops.reshape(terms, (*ops.shape(terms)[:2], size // block, block))
    return ops.sum(ops.cast(ops.sum(terms, axis=-1), "float64"), axis=-1)


class SingleRows:
    """One row for each entry of a tensor of the given shape."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, dtype

    def needed(self, mask: Any) -> Any:
        """Which rows, (N, R), bound the entries of a mask (N, *shape)."""
        return ops.reshape(mask, (-1, math.prod(self.shape)))

    def unit_rows(self, chosen: Any) -> Any:
        """Coefficients (N, S, *shape) of rows given by number, (N, S)."""
        rows = ops.one_hot(chosen, math.prod(self.shape), dtype=self.dtype)
        return ops.reshape(rows, (*ops.shape(chosen), *self.shape))

    def places(self, chosen: Any) -> Any:
        """Entries of the flat tensor that rows bound, (N, S)."""
        return chosen

    def sums(self, chosen: Any) -> Sums:
        """How terms are summed during the backward pass of these rows."""
        return Sums()


class Sums:
    """Sums of the terms of a bound, ``sum_i a_i u_i``: over a whole tensor, one for each row."""

    def __call__(self, index: int, terms: Any) -> Any:
        """Sums (N, S) float64 of terms (N, S, *shape of the node `index`)."""
        return total(terms)

    def largest(self, index: int, terms: Any) -> Any:
        """Their largest terms, (N, S) float64."""
        return ops.cast(ops.max(terms, axis=tuple(range(2, len(terms.shape)))), "float64")


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


def reaches(graph: Graph, start: int) -> tuple[tuple[int, ...], dict[int, Reach]] | None:
    """Spatial axes and the reach of a tensor into each earlier one, None if it sees everything."""
    windows: dict[int, Window] = {}
    pending = [start]
    while pending:
        index = pending.pop()
        operation = graph.nodes[index].operation
        if index in windows or isinstance(operation, (Input, Constant)):
            continue
        if operation.window is None:
            return None
        windows[index] = operation.window
        pending.extend(graph.nodes[index].parents)
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


class SharedRows:
    """Rows that each stand for a lattice of neurons of one channel, their windows disjoint.

    Row (start, channel) has a 1 at each location ``start + pitch * block`` of the channel, for
    ``0 <= start < pitch`` along each spatial axis.

    Parameters
    ----------
    graph, start
        The tensor to bound: an image or a sequence with one axis of channels.
    axes
        Its spatial axes, batch axis not counted.
    found
        Its reach into every earlier tensor.
    dtype
        Working type.
    """

    def __init__(
        self,
        graph: Graph,
        start: int,
        axes: tuple[int, ...],
        found: dict[int, Reach],
        dtype: str,
    ) -> None:
        self.graph, self.axes, self.found, self.dtype = graph, axes, found, dtype
        self.shape = graph.nodes[start].shape
        self.channels = next(axis for axis in range(len(self.shape)) if axis not in axes)
        self.pitch = tuple(
            max(math.ceil(reach.size[i] / reach.stride[i]) for reach in found.values())
            for i in range(len(axes))
        )
        self.nb_blocks = tuple(
            math.ceil(self.shape[axis] / pitch) for axis, pitch in zip(axes, self.pitch)
        )

    @property
    def nb_rows(self) -> int:
        """How many rows bound the whole tensor."""
        return math.prod(self.pitch) * self.shape[self.channels]

    def needed(self, mask: Any) -> Any:
        """See `SingleRows`."""
        order = [*self.axes, self.channels]
        mask = ops.transpose(mask, (0, *(axis + 1 for axis in order)))
        pads = [(0, b * p - mask.shape[i + 1]) for i, (b, p) in enumerate(self._lattice())]
        mask = ops.pad(ops.cast(mask, "int32"), [(0, 0), *pads, (0, 0)])
        split = [size for lattice in self._lattice() for size in lattice]
        mask = ops.reshape(mask, (-1, *split, self.shape[self.channels]))
        block_axes = tuple(range(1, 2 * len(self.axes), 2))
        return ops.reshape(ops.max(mask, axis=block_axes), (-1, self.nb_rows)) > 0

    def unit_rows(self, chosen: Any) -> Any:
        """See `SingleRows`."""
        *starts, channel = self._split(chosen)
        rows = self._along(
            ops.one_hot(channel, self.shape[self.channels], dtype=self.dtype), self.channels
        )
        for axis, pitch, start in zip(self.axes, self.pitch, starts):
            on = ops.equal(ops.arange(self.shape[axis], dtype="int32") % pitch, start[..., None])
            rows = rows * self._along(ops.cast(on, self.dtype), axis)
        return rows

    def places(self, chosen: Any) -> Any:
        """See `SingleRows`: (N, S * blocks); one past the last entry where a block has none."""
        *starts, place = self._split(chosen)
        rank = len(self.axes)
        steps = [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        place = ops.reshape(place * steps[self.channels], (*ops.shape(chosen), *[1] * rank))
        inside = True
        for i, (axis, start) in enumerate(zip(self.axes, starts)):
            blocks, pitch = self.nb_blocks[i], self.pitch[i]
            location = start[..., None] + pitch * ops.arange(blocks, dtype="int32")
            shape = [blocks if j == i else 1 for j in range(rank)]
            location = ops.reshape(location, (*ops.shape(chosen), *shape))
            inside = ops.logical_and(inside, location < self.shape[axis])
            place = place + location * steps[axis]
        place = ops.where(inside, place, math.prod(self.shape))
        return ops.reshape(place, (ops.shape(chosen)[0], -1))

    def sums(self, chosen: Any) -> Sums:
        """See `SingleRows`."""
        return WindowSums(self, self._split(chosen)[:-1])

    def _lattice(self) -> list[tuple[int, int]]:
        """Number of blocks and their pitch along each spatial axis."""
        return list(zip(self.nb_blocks, self.pitch))

    def _split(self, chosen: Any) -> list[Any]:
        """Row numbers (N, S) as starts (N, S) along each spatial axis, and channels (N, S)."""
        parts: list[Any] = []
        for size in reversed((*self.pitch, self.shape[self.channels])):
            parts.insert(0, chosen % size)
            chosen = chosen // size
        return parts

    def _along(self, values: Any, axis: int) -> Any:
        """(N, S, size) values laid along one axis of the tensor."""
        ones = [1] * len(self.shape)
        ones[axis] = values.shape[-1]
        return ops.reshape(values, (*ops.shape(values)[:2], *ones))


class WindowSums(Sums):
    """Sums window by window: one for each row and block of its lattice.

    Terms are of S rows r, (N, S, *shape), or of r and -r behind them, (N, 2 S, *shape).

    Parameters
    ----------
    rows
        All rows that there are.
    starts
        Those of the S rows, (N, S) along each spatial axis.
    """

    def __init__(self, rows: SharedRows, starts: list[Any]) -> None:
        self.rows, self.starts = rows, starts

    def __call__(self, index: int, terms: Any) -> Any:
        """Sums (N, S * blocks) or (N, 2 S * blocks) float64 of the terms in each window."""
        rows = self.rows
        others = [axis + 2 for axis in range(len(terms.shape) - 2) if axis not in rows.axes]
        if math.prod(terms.shape[axis] for axis in others) <= BLOCK:
            terms = ops.cast(ops.sum(terms, axis=others), "float64")
        else:
            terms = ops.sum(ops.cast(terms, "float64"), axis=others)
        reach = rows.found[index]
        nb_samples, nb_rows = ops.shape(self.starts[0])
        terms = ops.reshape(terms, (nb_samples, -1, nb_rows, *terms.shape[2:]))
        for i, start in enumerate(self.starts):
            places = ops.arange(terms.shape[3], dtype="int32")
            first = start * reach.stride[i] - reach.offset[i]
            block = (places - first[..., None]) // (rows.pitch[i] * reach.stride[i])
            member = ops.one_hot(block, rows.nb_blocks[i], dtype="float64")
            terms = ops.einsum("ntsx...,nsxb->nts...b", terms, member)
        return ops.reshape(terms, (nb_samples, -1))

    def largest(self, index: int, terms: Any) -> Any:
        """Not defined for rows that are shared."""
        raise NotImplementedError


def choose_rows(graph: Graph, start: int, dtype: str, norm: float) -> SingleRows | SharedRows:
    """The fewest rows that bound a tensor."""
    single = SingleRows(graph.nodes[start].shape, dtype)
    found = None if norm == 1 else reaches(graph, start)
    if found is None or len(single.shape) != len(found[0]) + 1:
        return single
    shared = SharedRows(graph, start, *found, dtype)
    return shared if shared.nb_rows < math.prod(single.shape) else single
