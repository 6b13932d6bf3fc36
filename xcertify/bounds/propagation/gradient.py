"""Bounds of the input gradient: backpropagation as operations of the same kind as the network.

For every tensor between input and output there is a node with the gradient by that tensor, put
together from gradients further back: the transposed map of an affine operation, the slope of an
activation times a gradient, a selection where a maximum was taken. The nodes stand behind those of
the network in one graph, so that intervals and backward passes, relaxations, roundings and memory
are those of the engine.

Where only the range of a factor is known (a ReLU that may be on or off), its product with a
gradient is bounded by chords in the gradient, which is the hull of what is possible; where the
factor is a smooth function of the network, by McCormick's planes and the lines of that function.

Sources: Wicker et al., Robust Explanation Constraints for Neural Networks, 2023 (intervals); Shi et
al., Efficiently Computing Local Lipschitz Constants of Neural Networks via Bound Propagation, 2022
(linear bounds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.graph import relaxations
from xcertify.bounds.graph.activations import SIGMOID
from xcertify.bounds.graph.graph import Graph, Node, UnsupportedLayerError
from xcertify.bounds.graph.multivariate import (
    InverseRoot,
    Largest,
    Product,
    Softmax,
    Standardization,
)
from xcertify.bounds.graph.operations import (
    Affine,
    Elementwise,
    Enclosure,
    Operation,
    Options,
    Relaxed,
    per_row,
)
from xcertify.bounds.graph.relaxations import Activation
from xcertify.bounds.graph.weights import varied
from xcertify.bounds.propagation import crown, interval
from xcertify.bounds.propagation.budget import Budget
from xcertify.bounds.rounding import relative_error, round_down, round_up

GRADIENT_METHODS = ("interval", "crown-interval", "crown-ibp", "crown")
LOSSES = ("logits", "cross-entropy")


# --- operations ---------------------------------------------------------------------------------


class Transposed(Affine):
    """The transposed linear map of an affine operation, back to one of its inputs.

    Parameters
    ----------
    operation
        The affine operation.
    number
        Which of its inputs.
    shapes
        Shapes of all of them.
    """

    def __init__(self, operation: Affine, number: int, shapes: Sequence[tuple]) -> None:
        self.operation, self.number, self.shapes = operation, number, shapes
        only_moves = operation.nb_terms == 0 and operation.nb_terms_back <= 1
        super().__init__(
            self._transposed,
            weights=operation.weights,
            nb_terms=0 if only_moves else operation.nb_terms_back,
            nb_terms_back=max(operation.nb_terms, 1),
            weight_error=operation.weight_error,
            learned=operation.learned,
        )

    def _transposed(self, gradient: Any, *weights: Any) -> Any:
        if self.operation.transposed is not None:
            return self.operation.transposed(gradient, *weights)

        def forward(*inputs: Any) -> Any:
            return self.operation.apply(*inputs, *weights)

        return backend.transpose(forward, self.shapes, gradient)[self.number]

    def pull_back(
        self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]
    ) -> list[Any | None]:
        """See `Operation`: the operation itself."""
        nb_samples, nb_rows = ops.shape(coefficients)[:2]
        flat = ops.reshape(coefficients, (-1, *coefficients.shape[2:]))
        inputs = [ops.zeros((nb_samples * nb_rows, *shape), flat.dtype) for shape in self.shapes]
        inputs[self.number] = flat
        return [ops.reshape(self.operation.linear(*inputs), (nb_samples, nb_rows, *shapes[0]))]


class Gate(Operation):
    """A gradient times a factor of which only a range is known: inputs gradient and selector.

    Linear bounds are those of ``factor * gradient`` over all factors of the range, chords in the
    gradient; they do not depend on the selector.
    """

    def factor(self, selector: Any) -> Any:
        """The factor itself."""
        raise NotImplementedError

    def factors(self, lower: Any, upper: Any) -> tuple[Any, Any]:
        """Its range for selectors between float64 sides."""
        raise NotImplementedError

    def spread(self, gradient: Any) -> Any:
        """A gradient (N, *shape) laid beside the factors."""
        return gradient

    def gather(self, values: Any) -> Any:
        """Sum over the entries that one entry of the gradient was laid to."""
        return values

    nb_spread = 1

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        gradient, selector = inputs
        return self.spread(gradient) * ops.cast(self.factor(selector), gradient.dtype)

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`: the corners of the product."""
        smallest, largest = self._products(*self._ranges(inputs))
        lower, upper = ops.min(smallest, axis=0), ops.max(largest, axis=0)
        slack = self._noise(ops.maximum(ops.abs(lower), ops.abs(upper)), reference, options)
        return Enclosure(
            reference,
            round_down(lower - reference - slack, options.dtype),
            round_up(upper - reference + slack, options.dtype),
        )

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`: any slope is valid with its own intercept, the chord is the tightest."""
        sides, factors = self._ranges(inputs)
        smallest, largest = self._products(sides, factors)
        width = sides[1] - sides[0]
        middle = (factors[0] + factors[1]) / 2
        reference = self.spread(inputs[0].reference)
        deviation = ops.cast(self.spread(inputs[0].deviation), "float64")
        size = ops.max(ops.abs(ops.concatenate([smallest, largest])), axis=0)
        slopes, limits = [], []
        for sign, values in ((-1.0, smallest), (1.0, largest)):
            chord = (values[1] - values[0]) / ops.where(width > 0, width, 1.0)
            slope = ops.cast(ops.where(width > 0, chord, middle), options.dtype)
            exact = ops.cast(slope, "float64")
            gap = ops.max(sign * (values - exact * sides), axis=0)
            error = self._noise(size + ops.abs(exact * reference), output.reference, options)
            # Roundings of coefficient * slope and of the sum over what was laid side by side.
            error += relative_error(self.nb_spread + 4, options.dtype) * ops.abs(exact) * deviation
            slopes.append(slope)
            limits.append(exact * reference - output.reference + sign * (gap + error))
        below, above = limits
        return Relaxed(
            round_down(below, options.dtype), round_up(above, options.dtype), tuple(slopes)
        )

    def pull_back(
        self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]
    ) -> list[Any | None]:
        """See `Operation`."""
        below, above = (per_row(slope, coefficients) for slope in relaxed.slopes)
        return [self.gather(coefficients * ops.where(coefficients > 0, above, below)), None]

    def has_lines_in(self, number: int) -> bool:
        """See `Operation`."""
        return number == 0

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any | None]:
        """See `Operation`: gradients of either sign with a factor that is not fixed.

        The selector is bounded as well as it can be by the time its network has been bounded.
        """
        sides, factors = self._ranges(inputs)
        either = ops.logical_and(sides[0] < 0, sides[1] > 0)
        bent = ops.logical_and(either, factors[1] > factors[0])
        return [self.gather(ops.cast(bent, "int32")) > 0, None]

    def _ranges(self, inputs: Sequence[Enclosure]) -> tuple[Any, tuple[Any, Any]]:
        """Sides of the gradient, (2, N, *shape), and of the factor."""
        gradient, selector = inputs
        return ops.stack([*map(self.spread, gradient.absolute())]), self.factors(
            *selector.absolute()
        )

    def _products(self, sides: Any, factors: tuple[Any, Any]) -> tuple[Any, Any]:
        """Smallest and largest product at each side of the gradient."""
        low, high = sides * factors[0], sides * factors[1]
        return ops.minimum(low, high), ops.maximum(low, high)

    def _noise(self, size: Any, reference: Any, options: Options) -> Any:
        error = relative_error(8, "float64") + options.network_error(2)
        return error * (size + ops.abs(reference))


class SlopeGate(Gate):
    """Gradient times the slope of an activation."""

    def __init__(self, activation: Activation) -> None:
        self.activation, self.placewise = activation, activation.uniform

    def factor(self, selector: Any) -> Any:
        """See `Gate`: at a kink, the slope of either side."""
        return self.activation.derivative(selector)

    def factors(self, lower: Any, upper: Any) -> tuple[Any, Any]:
        """See `Gate`; constants that the network holds in float32 are covered."""
        facts = self.activation
        shift = facts.constant_error * max((abs(kink) for kink in facts.kinks), default=0.0)
        low, high = relaxations.derivative_range(facts, lower - shift, upper + shift)
        error = facts.constant_error * ops.maximum(ops.abs(low), ops.abs(high))
        return low - error - facts.constant_noise, high + error + facts.constant_noise


class LargestGate(Gate):
    """The gradient of a maximum laid to the entry that is the largest.

    Where several are, any share between them is covered.
    """

    def __init__(self, operation: Largest, nb_entries: int) -> None:
        self.operation, self.nb_spread = operation, nb_entries

    def spread(self, gradient: Any) -> Any:
        """See `Gate`."""
        return ops.repeat(gradient[..., None], self.nb_spread, axis=-1)

    def gather(self, values: Any) -> Any:
        """See `Gate`."""
        return ops.sum(values, axis=-1)

    def factor(self, selector: Any) -> Any:
        """See `Gate`: the first of the largest."""
        first = ops.argmax(self.operation.hide(selector), axis=-1)
        return ops.one_hot(first, self.nb_spread, dtype=selector.dtype)

    def factors(self, lower: Any, upper: Any) -> tuple[Any, Any]:
        """See `Gate`: 1 where no other entry can be larger, 0 where another one must be."""
        lower, upper = self.operation.hide(lower), self.operation.hide(upper)
        surely, possibly = lower > _largest_other(upper), upper >= _largest_other(lower)
        return ops.cast(surely, "float64"), ops.cast(possibly, "float64")


def _largest_other(values: Any) -> Any:
    """For every entry the largest of the others along the last axis."""
    largest = ops.max(values, axis=-1, keepdims=True)
    first = ops.one_hot(ops.argmax(values, axis=-1), values.shape[-1], dtype="int32") > 0
    second = ops.max(ops.where(first, -float("inf"), values), axis=-1, keepdims=True)
    return ops.where(first, second, largest)


# --- the graph ----------------------------------------------------------------------------------


@dataclass
class GradientGraph:
    """A network and its backpropagation.

    Attributes
    ----------
    network
        The network; for the cross-entropy with the probabilities behind it.
    graph
        The same nodes, and behind them the seed and the gradients. Tensors of the network of which
        linear bounds need nothing but the interval are inputs.
    intervals
        The same where all tensors of the network are inputs.
    targets
        Tensors of the network to enclose, and nonlinear operations whose inputs are to be.
    seed
        Node of the gradient by the logits, or of the label's probabilities.
    output
        Node of the gradient by the input.
    """

    network: Graph
    graph: Graph
    intervals: Graph
    targets: list[int]
    seed: int
    output: int


def gradient_graph(network: Graph, loss: str) -> GradientGraph:
    """Backpropagation of rows of the logits, or of the cross-entropy, through a network.

    Raises
    ------
    UnsupportedLayerError
        For an operation whose derivative is not bounded, naming its layer.
    """
    forward = Graph(list(network.nodes), output=network.output, nb_inputs=network.nb_inputs)
    shape = forward.nodes[network.output].shape
    if loss == "cross-entropy":
        head = Elementwise(SIGMOID) if shape == (1,) else Softmax(-1)
        forward.nodes.append(Node(head, (network.output,), shape, "probabilities"))
    nodes = [*forward.nodes, Node(None, (), shape, "seed")]
    seed = first = len(forward.nodes)
    if loss == "cross-entropy":
        nodes.append(Node(_difference(), (seed - 1, seed), shape, "seed"))
        first += 1
    varying = _varying(forward)
    gradients: dict[int, list[int]] = {network.output: [first]}
    for index in reversed(interval.ancestors(forward, [network.output])):
        if index not in gradients:
            continue
        emit = GradientEmitter(nodes, index)
        parts = derivatives(forward.nodes[index].operation, emit, emit.total(gradients.pop(index)))
        for parent, part in zip(emit.parents, parts):
            if parent in varying:
                gradients.setdefault(parent, []).append(part)
    if 0 not in gradients:
        raise UnsupportedLayerError("The outputs do not depend on the input that varies.")
    emit = GradientEmitter(nodes, 0)
    output = emit.total(gradients[0])
    if output == seed:  # the network does nothing
        output = emit(Affine(lambda gradient: gradient), seed)
    return _assembled(forward, nodes, seed, output)


class GradientEmitter:
    """Appends gradients that belong to one node of the network.

    Attributes
    ----------
    index
        The node.
    parents, shapes
        The nodes it is computed from and their shapes.
    layer
        The layer that it belongs to.
    """

    def __init__(self, nodes: list[Node], index: int) -> None:
        node = nodes[index]
        self.nodes, self.index, self.layer, self.shape = nodes, index, node.layer, node.shape
        self.parents = node.parents
        self.shapes = [nodes[parent].shape for parent in node.parents]

    def __call__(
        self, operation: Operation, *parents: int, shape: tuple[int, ...] | None = None
    ) -> int:
        """Append an operation; of the shape of its first parent if no other is given."""
        shape = self.nodes[parents[0]].shape if shape is None else shape
        self.nodes.append(Node(operation, parents, shape, self.layer))
        return len(self.nodes) - 1

    def total(self, parts: list[int]) -> int:
        """Sum of the gradients that arrive from several users of the node."""
        if len(parts) == 1:
            return parts[0]
        plus = Affine(
            lambda *x: sum(x[1:], x[0]),
            nb_inputs=len(parts),
            nb_terms=len(parts),
            nb_terms_back=1,
        )
        return self(plus, *parts)


def _difference() -> Affine:
    return Affine(
        lambda a, b, minus: a + minus * b,
        nb_inputs=2,
        weights=lambda: (-1.0,),
        nb_terms=2,
        nb_terms_back=1,
    )


@singledispatch
def derivatives(operation: Operation, emit: GradientEmitter, gradient: int) -> list[int]:
    """Emit the gradient by each parent of a node from the gradient by the node: the chain rule."""
    raise UnsupportedLayerError(
        f"The gradient of the layer '{emit.layer}' cannot be bounded: there is no rule for "
        f"{type(operation).__name__}."
    )


@derivatives.register
def _affine(operation: Affine, emit: GradientEmitter, gradient: int) -> list[int]:
    return [
        emit(Transposed(operation, number, emit.shapes), gradient, shape=shape)
        for number, shape in enumerate(emit.shapes)
    ]


@derivatives.register
def _elementwise(operation: Elementwise, emit: GradientEmitter, gradient: int) -> list[int]:
    activation = operation.activation
    if not activation.continuous:
        raise UnsupportedLayerError(
            f"The gradient of the layer '{emit.layer}' cannot be bounded: its activation "
            f"'{activation.name}' jumps, so that its derivative has no bound."
        )
    (parent,) = emit.parents
    if activation.slope is None:
        return [emit(SlopeGate(activation), gradient, parent)]
    return [emit(Product(), gradient, emit(Elementwise(activation.slope), parent))]


@derivatives.register
def _largest(operation: Largest, emit: GradientEmitter, gradient: int) -> list[int]:
    (parent,), (shape,) = emit.parents, emit.shapes
    return [emit(LargestGate(operation, shape[-1]), gradient, parent, shape=shape)]


@derivatives.register
def _product(operation: Product, emit: GradientEmitter, gradient: int) -> list[int]:
    first, second = emit.parents
    return [emit(Product(), gradient, other) for other in (second, first)]


@derivatives.register
def _softmax(operation: Softmax, emit: GradientEmitter, gradient: int) -> list[int]:
    # p * (g - sum(p * g))
    size = _size(emit.shape, operation.axis)
    centering = Affine(
        lambda g, h, minus: g + minus * ops.sum(h, axis=operation.axis, keepdims=True),
        nb_inputs=2,
        weights=lambda: (-1.0,),
        nb_terms=size + 2,
        nb_terms_back=size + 2,
    )
    centered = emit(centering, gradient, emit(Product(), gradient, emit.index))
    return [emit(Product(), centered, emit.index)]


@derivatives.register
def _standardization(operation: Standardization, emit: GradientEmitter, gradient: int) -> list[int]:
    # r * (g - y * mean(y * g)) for y = r * x
    average = Affine(
        lambda h: ops.mean(h, axis=operation.axes, keepdims=True) + ops.zeros_like(h),
        nb_terms=operation.nb_entries + 1,
        nb_terms_back=operation.nb_entries + 1,
    )
    mean = emit(average, emit(Product(), gradient, emit.index))
    rest = emit(_difference(), gradient, emit(Product(), mean, emit.index))
    return [emit(Product(), rest, emit(InverseRoot(operation), *emit.parents))]


def _size(shape: tuple[int, ...], axis: int | tuple[int, ...]) -> int:
    axes = axis if isinstance(axis, tuple) else (axis,)
    size = 1
    for one in axes:
        size *= shape[one - 1 if one > 0 else one]
    return size


def _varying(graph: Graph) -> set[int]:
    """Nodes that depend on the input that varies."""
    varying = {0}
    for index, node in enumerate(graph.nodes):
        if varying.intersection(node.parents):
            varying.add(index)
    return varying


def _assembled(forward: Graph, nodes: list[Node], seed: int, output: int) -> GradientGraph:
    """Both graphs, in which tensors of the network are inputs where that is enough."""

    def graph(needed: set[int]) -> Graph:
        parts = [
            node if index >= seed or index in needed else Node(None, (), node.shape, node.layer)
            for index, node in enumerate(nodes)
        ]
        return Graph(parts, output=output, nb_inputs=forward.nb_inputs)

    needed, pending = set(), [output]
    while pending:
        index = pending.pop()
        if index not in needed:
            needed.add(index)
            operation = nodes[index].operation
            parents = enumerate(nodes[index].parents)
            pending += [parent for number, parent in parents if operation.has_lines_in(number)]
    used = {parent for node in nodes[seed:] for parent in node.parents if parent < seed}
    ends = [forward.output, *used]
    nonlinear = [i for i in interval.ancestors(forward, ends) if not _is_affine(forward.nodes[i])]
    targets = sorted(used.union(nonlinear))
    return GradientGraph(forward, graph(needed), graph(set()), targets, seed, output)


def _is_affine(node: Node) -> bool:
    return node.operation.exact_affine


# --- bounds -------------------------------------------------------------------------------------


def enclose_gradient(
    graph: GradientGraph,
    inputs: Sequence[Enclosure],
    rows: Any,
    radius: Any,
    norm: float,
    options: Options,
    method: str,
    budget: Budget,
    weight_radii: Sequence[Any] = (),
) -> tuple[Enclosure, Any]:
    """All gradients by the input over regions, (N * S, *input), and which are known, (N * S,) bool.

    Of a gradient that is not finite at the center itself nothing is known.

    Parameters
    ----------
    graph
        The network and its backpropagation.
    inputs
        Enclosures of the perturbed input and, behind it, of the fixed ones.
    rows
        (N, S, *outputs): rows of the logits, or what is subtracted from the probabilities.
    radius, norm
        Ball part of the regions, as for `crown.BackwardBounds`.
    options
        Arithmetic.
    method
        One of `GRADIENT_METHODS`.
    budget
        Says how many rows go back at once.
    weight_radii
        Of weights and, if they have their own, of biases, (N,) each; see `weights.varied`.
    """
    network = varied(graph.network, *weight_radii)
    if method == "interval":
        enclosures = dict(enumerate(inputs))
        interval.propagate(network, enclosures, options, graph.targets)
    else:
        enclosures = crown.BackwardBounds(
            network,
            inputs,
            radius,
            norm,
            options,
            graph.targets,
            refine=method != "crown-ibp",
            relax=True,
            budget=budget,
        ).enclosures
    nb_rows = ops.shape(rows)[1]

    def each(tensor: Any) -> Any:
        return ops.repeat(tensor, nb_rows, axis=0)

    known = {index: Enclosure(*map(each, e)) for index, e in enclosures.items()}
    rows = ops.cast(ops.reshape(rows, (-1, *rows.shape[2:])), "float64")
    zeros = ops.zeros_like(rows, dtype=options.dtype)
    known[graph.seed] = Enclosure(rows, zeros, zeros)
    weight_radii = [each(radii) for radii in weight_radii]
    if method.endswith("interval"):
        backward = varied(graph.intervals, *weight_radii)
        interval.propagate(backward, known, options, [graph.output])
        return known[graph.output], interval.finite(known)
    backward = varied(graph.graph, *weight_radii)
    bounds = crown.BackwardBounds(
        backward,
        [known.get(index) for index in range(graph.seed + 1)],
        None if radius is None else each(radius),
        norm,
        options,
        [graph.output],
        refine=False if method == "crown-ibp" else range(graph.seed + 1, len(backward.nodes)),
        relax=True,
        budget=budget,
    )
    if bounds.is_nonlinear[graph.output]:
        widths = bounds.enclosures[graph.output]
        bounds.refine(graph.output, widths.upper > widths.lower)
    return bounds.enclosures[graph.output], interval.finite(bounds.enclosures)
