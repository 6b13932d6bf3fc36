"""The network: which function of a model is bounded, as a graph, and in which types it computes."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import ops

from xcertify.bounds.graph.activations import SIGMOID
from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import Elementwise, Reshaped
from xcertify.bounds.graph.softmax import Softmax
from xcertify.bounds.graph.translation import build_graph, find_tensor
from xcertify.bounds.rules.identities import AUGMENTATIONS
from xcertify.bounds.rules.registry import find_rule
from xcertify.keras_graph import layer_output, layers_of, output_number

HEADS = ("softmax", "sigmoid")
_PRECISIONS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Network:
    """A function that a model computes.

    Attributes
    ----------
    model
        The Keras model.
    start_layer
        The layer whose output takes the place of the input, or None.
    perturbed, output
        Numbers or names of the input that varies and of the output that is bounded.
    left_out
        Which of `HEADS` are left out where they stand at the end.
    """

    model: keras.Model
    start_layer: str | None = None
    perturbed: int | str = 0
    output: int | str = 0
    left_out: Container[str] = HEADS

    def graph(self) -> Graph:
        """The network as operations.

        Raises
        ------
        UnsupportedLayerError
            For a model or layer that cannot be bounded.
        """
        graph = build_graph(self.model, find_rule, self.start_layer, self.perturbed, self.output)
        if head_of(graph) in self.left_out:
            graph.output = before_head(graph)
        return graph

    @property
    def input_number(self) -> int:
        """Number of the input that varies."""
        if self.start_layer is not None:
            return 0
        return find_tensor(self.model.inputs, self.perturbed, "perturbed")

    @property
    def varied(self) -> Any:
        """The Keras tensor that varies: an input, or what the start layer gives."""
        if self.start_layer is not None:
            return layer_output(self.model, self.start_layer)
        return self.model.inputs[self.input_number]

    @property
    def output_number(self) -> int:
        """Number of the output that is bounded."""
        return output_number(self.model, self.output)

    @property
    def precision(self) -> str:
        """The coarsest type that the model computes in."""
        types = {layer.compute_dtype for layer in layers_of(self.model)}
        types |= {tensor.dtype for tensor in self.model.inputs}
        return max(("float64", *types & {*_PRECISIONS}), key=_PRECISIONS.index)

    @property
    def augments(self) -> bool:
        """Whether the model changes its inputs at random unless it is called for inference."""
        return any(isinstance(layer, AUGMENTATIONS) for layer in layers_of(self.model))

    def in_order(self, arrays: Sequence[Any]) -> list[Any]:
        """The input that varies and the others behind it, in the model's own order."""
        first, *others = arrays
        number = self.input_number
        return [*others[:number], first, *others[number:]]


def half_precision(model: Any) -> tuple[str, str] | None:
    """Name and type of the first layer that computes in half precision, if there is one."""
    for layer in layers_of(model) if isinstance(model, keras.Model) else ():
        holds_others = isinstance(layer, (keras.Model, keras.layers.InputLayer))
        if not holds_others and layer.compute_dtype in ("float16", "bfloat16"):
            return layer.name, layer.compute_dtype
    return None


def refuse_weights_that_are_not_finite(graph: Graph, model: keras.Model) -> None:
    """Name the layer, where it is the weights that leave nothing finite.

    Raises
    ------
    ValueError
        If some weight is NaN or infinite.
    """
    for index in graph.ancestors([graph.output]):
        node = graph.nodes[index]
        weights = getattr(node.operation, "weights", None)
        bias = getattr(node.operation, "bias", None)
        for value in (*(weights() if weights else ()), *([bias()] if bias else [])):
            if not np.isfinite(ops.convert_to_numpy(value)).all():
                raise ValueError(
                    f"the weights of the layer '{node.layer}' of the model '{model.name}' are NaN "
                    f"or infinite, so that nothing can be said of its outputs. Train it again, or "
                    f"load other weights"
                )


# --- the head -----------------------------------------------------------------------------------


def head_of(graph: Graph) -> str | None:
    """What a model ends with, "softmax" or "sigmoid"; None for anything else."""
    index, _ = _end(graph)
    operation = graph.nodes[index].operation
    if isinstance(operation, Softmax):
        return "softmax"
    is_sigmoid = isinstance(operation, Elementwise) and operation.activation is SIGMOID
    return "sigmoid" if is_sigmoid else None


def before_head(graph: Graph) -> int:
    """The node of the logits.

    A change of shape behind the head that keeps the row of outputs is made of the logits instead;
    see `xcertify.logits`.
    """
    index, behind = _end(graph)
    (node,) = graph.nodes[index].parents
    for later in reversed(behind):
        graph.nodes.append(replace(graph.nodes[later], parents=(node,)))
        node = len(graph.nodes) - 1
    return node


def _end(graph: Graph) -> tuple[int, list[int]]:
    """The last node that does something, and those behind it that only change the shape."""
    index, behind = graph.result, []
    while isinstance(graph.nodes[index].operation, Reshaped) and _keeps_row(graph, index):
        behind.append(index)
        (index,) = graph.nodes[index].parents
    return index, behind


def _keeps_row(graph: Graph, index: int) -> bool:
    """Whether a node has the shape (1, ..., 1, K), as what it is made of."""
    shapes = [graph.nodes[i].shape for i in (index, *graph.nodes[index].parents)]
    sizes = {shape[-1:] for shape in shapes}
    return len(sizes) == 1 and all(size == 1 for shape in shapes for size in shape[:-1])
