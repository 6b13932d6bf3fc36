"""The graph that is bounded: a topologically sorted list of primitive operations."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from xcertify.bounds import backend
from xcertify.bounds.graph.arguments import Arguments
from xcertify.bounds.graph.operations import Constant, Input, Operation
from xcertify.keras_graph import UnsupportedLayerError


@dataclass
class Node:
    """One tensor of the network and the operation that makes it.

    Attributes
    ----------
    operation
        An `Input`, or what makes it of its parents.
    parents
        Indices of the nodes it is computed from.
    shape
        Without the batch axis.
    layer
        Name of the Keras layer it belongs to.
    """

    operation: Operation
    parents: tuple[int, ...]
    shape: tuple[int, ...]
    layer: str

    @property
    def is_input(self) -> bool:
        """Whether it is given."""
        return isinstance(self.operation, Input)


@dataclass
class Graph:
    """A network as primitive operations; every parent stands before its children.

    `nodes[0]` is the input that is perturbed, behind it stand `nb_inputs - 1` that are fixed.
    `layers` gives the node of each layer's output by the layer's name (with a nested model's name
    and a slash before it), `result` the node of what the model returns and `output` that of what is
    bounded of it (the logits, before a softmax). `ambiguous` says of the names in `layers` that
    stand for several tensors why they do.
    """

    nodes: list[Node] = field(default_factory=list)
    layers: dict[str, int] = field(default_factory=dict)
    ambiguous: dict[str, str] = field(default_factory=dict)
    output: int = 0
    result: int = 0
    nb_inputs: int = 1

    def consumers(self) -> list[list[int]]:
        """For every node the nodes that use it, once per use."""
        users: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for parent in node.parents:
                users[parent].append(index)
        return users

    def ancestors(self, targets: Iterable[int], ends: Container[int] = ()) -> list[int]:
        """The targets and all nodes they depend on but inputs, parents first.

        What lies behind `ends` is left out.
        """
        needed: set[int] = set()
        stack = list(targets)
        while stack:
            index = stack.pop()
            if index not in needed:
                needed.add(index)
                stack.extend(() if index in ends else self.nodes[index].parents)
        return sorted(index for index in needed if not self.nodes[index].is_input)

    def evaluate(self, inputs: Sequence[Any]) -> Any:
        """The network itself: the values of its output, in the type of the inputs."""
        values = dict(enumerate(inputs))
        for index in self.ancestors([self.output]):
            node = self.nodes[index]
            values[index] = node.operation.evaluate(*(values[parent] for parent in node.parents))
        return values[self.output]


@dataclass(frozen=True)
class Rule:
    """How a layer is translated, and which arguments of its call the translation understands.

    Attributes
    ----------
    function
        ``function(layer, emit, *nodes)`` emits operations on the nodes of the call's tensors and
        gives the node of the output, or several if the layer has several outputs.
    inputs
        Names of arguments, beside the first, that hold tensors: their nodes stand behind those of
        the first.
    settings
        Names of arguments that the function reads by itself, from ``emit.arguments.settings``.
    """

    function: Callable[..., int | Sequence[int]]
    inputs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    def __call__(self, layer: Any, emit: Emitter, *nodes: int) -> Any:
        """Emit the layer on nodes of its tensors."""
        return self.function(layer, emit, *nodes)


@dataclass
class Emitter:
    """Appends the operations of one layer to a graph; what a rule writes to.

    Attributes
    ----------
    graph
        The network so far.
    layer
        Name of the layer, nested models' before it.
    arguments
        What the layer was called with.
    """

    graph: Graph
    layer: str
    arguments: Arguments

    def __call__(self, operation: Operation, *inputs: int) -> int:
        """Append an operation on some nodes; returns its own node."""
        shape = backend.output_shape(
            operation.evaluate, [self.shape(node) for node in inputs], "float32"
        )
        if None in shape:
            raise UnsupportedLayerError(
                f"The layer '{self.layer}' cannot be bounded: the shape of its output, {shape}, is "
                f"not known beforehand."
            )
        self.graph.nodes.append(Node(operation, inputs, shape, self.layer))
        return len(self.graph.nodes) - 1

    def shape(self, node: int) -> tuple[int, ...]:
        """Shape of a node without the batch axis."""
        return self.graph.nodes[node].shape

    def constant(
        self, values: Any, own: tuple[int, ...], shape: tuple[int, ...] | None = None
    ) -> int:
        """Append a constant, see `Constant`."""
        return self(Constant(values, own, shape), 0)

    def value(self, node: int) -> Constant | None:
        """The constant that a node is, None for what depends on the input."""
        operation = self.graph.nodes[node].operation
        return operation if isinstance(operation, Constant) else None
