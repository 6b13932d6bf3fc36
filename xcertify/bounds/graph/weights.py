"""Regions of weights: a graph whose learned operations may have any weights near their own.

Every weight w of an affine layer may be anything in [w - gamma |w|, w + gamma |w|], independently
of all others and, at each of its uses, of itself. Biases vary by the same rule or by an absolute
radius.

Each product of such a weight and an input between l and u lies between those of w itself and an
input between ``l - gamma |l|`` and ``u + gamma |u|``, and both ends are attained. The interval
image is therefore that of the layer itself on a larger box: as tight as intervals can be, and
tighter than Lemma 1 of Wicker et al., Robust Explanation Constraints for Neural Networks, 2023,
which has one radius around the middle of the box. In linear bounds, what the weights add is a
constant, ``gamma |W| max |x|``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from keras import ops

from xcertify.bounds.graph.graph import Graph
from xcertify.bounds.graph.operations import Affine, Enclosure, Operation, Options, Relaxed
from xcertify.bounds.rounding import relative_error, round_down, round_up
from xcertify.keras_graph import UnsupportedLayerError

# Variables that learned operations are made of.
_LEARNED = ("kernel", "bias", "depthwise_kernel", "pointwise_kernel", "gamma", "beta")


class Varied(Operation):
    """An affine operation whose weights vary.

    Parameters
    ----------
    operation
        The operation with its own weights.
    gamma
        Relative radius of every weight, (N,) float64.
    bias_radius
        Absolute radius of every bias, (N,) float64; None: that of the weights.
    """

    exact_affine = True
    refinable = True

    def __init__(self, operation: Affine, gamma: Any, bias_radius: Any) -> None:
        self.operation, self.gamma, self.bias_radius = operation, gamma, bias_radius
        self.window = operation.window

    @property
    def only_moves(self) -> bool:
        """See `Operation`."""
        return self.operation.only_moves

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`: with its own weights."""
        return self.operation.evaluate(*inputs)

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`."""
        enclosure = self.operation.interval(
            [self._enlarged(e, options) for e in inputs], reference, options
        )
        radius = self._bias_radius(reference)
        return Enclosure(reference, *_moved(enclosure, radius, radius, options))

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`."""
        relaxed = self.operation.relax(inputs, output, options)
        sizes = [ops.maximum(*map(ops.abs, e.absolute())) for e in inputs]
        radii = [round_up(_along(self.gamma, s) * s * (1 + 1e-12), options.dtype) for s in sizes]
        error = self.operation.absolute(*radii)
        error *= 1.0 + 2.0 * relative_error(self.operation.nb_terms + 8, options.dtype)
        nothing = ops.zeros_like(error)
        own = nothing if relaxed.upper is None else relaxed.upper
        error = ops.cast(error, "float64") + self._bias_radius(output.reference)
        lower, upper = _moved(Enclosure(None, -own, own), error, error, options)
        return Relaxed(lower, upper, relaxed.slopes)

    def pull_back(
        self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]
    ) -> list[Any | None]:
        """See `Operation`."""
        return self.operation.pull_back(coefficients, relaxed, shapes)

    def on_patches(self) -> Operation | None:
        """See `Operation`."""
        return self.operation.on_patches()

    def _enlarged(self, enclosure: Enclosure, options: Options) -> Enclosure:
        below, above = (_along(self.gamma, s) * ops.abs(s) for s in enclosure.absolute())
        return Enclosure(enclosure.reference, *_moved(enclosure, below, above, options))

    def _bias_radius(self, like: Any) -> Any:
        """What the bias adds on each side, broadcastable to (N, *shape), float64."""
        bias, bias_size = self.operation.bias, self.operation.bias_size
        if bias_size is None:
            return 0.0
        size = ops.abs(ops.cast(bias_size(), "float64"))
        if self.bias_radius is None:
            return _along(self.gamma, like) * size
        radius = _along(self.bias_radius, like)
        if bias_size is not bias:  # it is computed from weights, too
            radius = radius + _along(self.gamma, like) * size
        return radius


def varied(graph: Graph, gamma: Any = None, bias_radius: Any = None) -> Graph:
    """A graph with every learned operation `Varied`; the same graph without `gamma`."""
    if gamma is None:
        return graph

    def with_varied(operation: Operation) -> Operation:
        if isinstance(operation, Affine) and operation.learned:
            return Varied(operation, gamma, bias_radius)
        return operation

    nodes = [replace(node, operation=with_varied(node.operation)) for node in graph.nodes]
    return replace(graph, nodes=nodes)


def check_weights(graph: Graph, layers: Iterable[Any]) -> None:
    """Refuse a network with weights that regions of weights do not cover.

    Raises
    ------
    UnsupportedLayerError
        Naming the layer.
    """
    used = {node.layer.split("/")[-1] for node in graph.nodes}
    for layer in layers:
        if layer.name not in used:
            continue
        known = {id(getattr(layer, name, None)) for name in _LEARNED}
        others = [v.name for v in layer.trainable_variables if id(v) not in known]
        if others:
            raise UnsupportedLayerError(
                f"The weights {', '.join(others)} of the layer '{layer.name}' of class "
                f"{type(layer).__name__} cannot be varied. Give gamma=0, or a model without them."
            )


def _moved(enclosure: Enclosure, below: Any, above: Any, options: Options) -> tuple[Any, Any]:
    """Sides moved outward by float64 amounts."""
    slack = 1 + 1e-12
    lower = ops.cast(enclosure.lower, "float64") - slack * below
    upper = ops.cast(enclosure.upper, "float64") + slack * above
    return round_down(lower, options.dtype), round_up(upper, options.dtype)


def _along(values: Any, like: Any) -> Any:
    """Values (N,) with the axes of (N, *shape)."""
    return ops.reshape(values, (-1, *[1] * (len(like.shape) - 1)))
