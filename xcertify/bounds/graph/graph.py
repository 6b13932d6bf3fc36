"""The graph that is bounded: a topologically sorted list of primitive operations."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from xcertify.bounds import backend
from xcertify.bounds.graph.arguments import Arguments, is_tensor, mask_values
from xcertify.bounds.graph.masks import Indicator
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
    stand for several tensors why they do. `masks` gives the mask that a tensor carries, as a node
    of entries 0 or 1, or says why it is not known. Where bounds start at a layer, `fixed` gives the
    numbers of the model's inputs that are needed beside it.
    """

    nodes: list[Node] = field(default_factory=list)
    layers: dict[str, int] = field(default_factory=dict)
    ambiguous: dict[str, str] = field(default_factory=dict)
    masks: dict[int, int | str] = field(default_factory=dict)
    fixed: tuple[int, ...] = ()
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
    masks
        ``masks(layer, emit, *nodes)`` gives the node of the mask that the output carries, None for
        no mask, or says why it is not known (`unknown_mask`). By default the first tensor's mask is
        passed on where Keras passes it on.
    """

    function: Callable[..., int | Sequence[int]]
    inputs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    masks: Callable[..., int | str | None] | None = None

    def __call__(self, layer: Any, emit: Emitter, *nodes: int) -> Any:
        """Emit the layer on nodes of its tensors."""
        return self.function(layer, emit, *nodes)


def no_mask(layer: Any, emit: Emitter, *nodes: int) -> None:
    """The mask, see `Rule`, of a layer whose output carries none."""


def unknown_mask(layer: Any) -> str:
    """What is said where a mask is needed that the output of a layer carries."""
    return (
        f"The mask that the output of the layer '{layer.name}' of class {type(layer).__name__} "
        f"carries is not known, so that no layer behind it that looks at masks can be bounded."
    )


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
    nodes
        The node of each tensor so far, by the `id` of the Keras tensor.
    tensors
        The nodes of the tensors of this call.
    asked
        Whether the rule has asked for masks.
    given
        The nodes of masks that are arguments and that were asked for, by argument and number.
    """

    graph: Graph
    layer: str
    arguments: Arguments
    nodes: dict[int, int] = field(default_factory=dict)
    tensors: list[int] = field(default_factory=list)
    asked: bool = False
    given: dict[tuple[str, int], int] = field(default_factory=dict)

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

    def varies(self, node: int) -> bool:
        """Whether a node depends on an input that varies."""
        nodes = self.graph.nodes
        constants = {i for i, made in enumerate(nodes) if isinstance(made.operation, Constant)}
        needed = {*self.graph.ancestors([node], constants)} - constants
        ends = {node, *(parent for index in needed for parent in nodes[index].parents)}
        inputs = [op for op in (nodes[i].operation for i in ends) if isinstance(op, Input)]
        return any(not made.is_point for made in inputs)

    def mask(
        self, number: int = 0, name: str = "mask", rank: int = 2, casts: bool = True
    ) -> int | None:
        """The mask of a tensor of the call, a node of entries 0 or 1; None for no mask.

        Parameters
        ----------
        number
            Which tensor, in the order of the arguments.
        name
            The argument by which the call may say it. If it does not, the mask is that which the
            tensor carries; a negative number has none.
        rank
            Number of axes of such a mask, batch axis counted, for constants that leave some out.
        casts
            Whether the layer takes all numbers but 0 for 1. If not, other types than bool are
            refused.

        Raises
        ------
        UnsupportedLayerError
            For a mask that is not known.
        """
        self.asked = True
        if name in self.arguments.masks:
            given = self.arguments.masks[name]
            if isinstance(given, (list, tuple)):
                given = given[number]
            if given is not None and (name, number) not in self.given:
                self.given[name, number] = self._given_mask(name, given, rank, casts)
            return self.given.get((name, number))
        mask = self.graph.masks.get(self.tensors[number]) if number >= 0 else None
        if isinstance(mask, str):
            raise UnsupportedLayerError(mask)
        return mask

    def _given_mask(self, name: str, mask: Any, rank: int, casts: bool) -> int:
        """The node of a mask that is given by an argument."""
        dtype = str(getattr(mask, "dtype", "bool"))
        if dtype != "bool" and not casts:
            raise UnsupportedLayerError(
                f"The layer '{self.layer}' is called with {name} of type {dtype}, and cannot be "
                f"bounded with it: the numbers that it takes for 1 depend on the version of Keras. "
                f"Give it {name}=keras.ops.cast(mask, 'bool')."
            )
        if not is_tensor(mask):
            layer = self.arguments.layer
            values = mask_values(mask, layer, rank)
            return self.constant(values, values.shape)
        if id(mask) not in self.nodes:
            raise UnsupportedLayerError(
                f"The layer '{self.layer}' needs the mask '{mask.name}', which does not come from "
                f"where the bounds start."
            )
        node = self.nodes[id(mask)]
        is_mask = dtype == "bool" and not (self.graph.nodes[node].is_input and self.varies(node))
        return node if is_mask else self(Indicator("!="), node)

    def constant(
        self, values: Any, own: tuple[int, ...], shape: tuple[int, ...] | None = None
    ) -> int:
        """Append a constant, see `Constant`."""
        return self(Constant(values, own, shape), 0)

    def value(self, node: int) -> Constant | None:
        """The constant that a node is, None for what depends on the input."""
        operation = self.graph.nodes[node].operation
        return operation if isinstance(operation, Constant) else None
