"""Where the entries that branches may be split at lie in one flat row, and their variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras import ops

from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import Elementwise
from xcertify.bounds.graph.relaxations import Activation


class Layout:
    """The tensors of a network whose entries are split, and the activations behind them.

    Parameters
    ----------
    graph
        The network.
    node
        What is bounded.
    is_empty
        Whether nothing of it is split: it then has no tensors and no activations.

    Attributes
    ----------
    activations
        Nodes of the scalar nonlinearities, parents first. Their lines have shares.
    tensors
        Nodes of their inputs, parents first, as far as the network computes them. Their entries are
        split, and have multipliers.
    """

    def __init__(self, graph: Graph, node: int, is_empty: bool = False) -> None:
        self.graph = graph
        nodes = graph.nodes
        inner = () if is_empty else graph.ancestors([node])
        self.activations = [i for i in inner if isinstance(nodes[i].operation, Elementwise)]
        parents = {nodes[i].parents[0] for i in self.activations}
        self.tensors = sorted(i for i in parents if not nodes[i].is_input)

    @property
    def nb_entries(self) -> int:
        """Number D of entries that can be split."""
        return sum(self.size(i) for i in self.tensors)

    @property
    def nb_shares(self) -> int:
        """Number C of entries whose lines have shares."""
        return sum(self.size(i) for i in self.activations)

    @property
    def described(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Of each of the tensors the layer that it belongs to, and its number of entries."""
        layers = tuple(self.graph.nodes[index].layer for index in self.tensors)
        return layers, tuple(map(self.size, self.tensors))

    def activation(self, index: int) -> Activation:
        """The function of one of the activations."""
        operation = self.graph.nodes[index].operation
        assert isinstance(operation, Elementwise)
        return operation.activation

    def size(self, index: int) -> int:
        """Number of entries of a node."""
        return math.prod(self.graph.nodes[index].shape)

    def parted(self, flat: Any, nodes: Sequence[int]) -> dict[int, Any]:
        """Of (..., D) the part of each node, (..., *shape)."""
        found, first = {}, 0
        leading = ops.shape(flat)[:-1]
        for index in nodes:
            part = flat[..., first : first + self.size(index)]
            found[index] = ops.reshape(part, (*leading, *self.graph.nodes[index].shape))
            first += self.size(index)
        return found

    def joined(self, parts: Sequence[Any], nb_leading: int) -> Any:
        """Parts (..., *shape) as one row (..., D)."""
        flat = [ops.reshape(p, (*ops.shape(p)[:nb_leading], -1)) for p in parts]
        return ops.concatenate(flat, axis=-1)
