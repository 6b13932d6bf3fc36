"""Einstein sums of two nodes, of which any may vary or be a constant, and products of matrices."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from xcertify.bounds.graph.arguments import constant_values
from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.operations import Affine, Constant, Reshaped, Window
from xcertify.bounds.graph.products import Average, Contraction
from xcertify.bounds.rules.normalization import standardized
from xcertify.bounds.rules.registry import register, register_operation
from xcertify.bounds.rules.windows import axes_of
from xcertify.keras_graph import UnsupportedLayerError


def contraction_of(
    emit: Emitter, equation: str, first: int, second: int, means: bool = False
) -> int:
    """Emit the sums of products of two nodes that `keras.ops.einsum` computes of them.

    Parameters
    ----------
    emit
        Where to.
    equation
        As for `keras.ops.einsum`, with one letter for each axis and the result named; the batch
        axis is counted, and comes first: "nqhd,nkhd->nhqk". A constant may lack its batch axis.
        An axis of length 1 goes with the same letter of any other length.
    first, second
        The nodes; of constants, those of `emit.constant`.
    means
        Whether the first is a softmax along all axes that are summed: not below 0, with sums of 1.

    Raises
    ------
    UnsupportedLayerError
        Where samples are mixed, and for an operand that has the same letter twice.
    """
    left, result = equation.replace(" ", "").split("->")
    nodes, terms = [first, second], left.split(",")
    constants = [emit.value(node) for node in nodes]
    for number, (node, constant) in enumerate(zip(nodes, constants)):
        term, shape = terms[number], emit.shape(node)
        if constant is None and (term[0] != result[0] or result[0] in term[1:] + result[1:]):
            raise UnsupportedLayerError(
                f"The layer '{emit.layer}' cannot be bounded: it mixes samples. The batch axis has "
                f"to be the first of every tensor and of the result. Received: '{equation}'"
            )
        if len(set(term)) < len(term):
            raise UnsupportedLayerError(
                f"The layer '{emit.layer}' cannot be bounded: it takes a diagonal. Take the "
                f"entries by an index before it. Received: '{equation}'"
            )
        terms[number] = term[len(term) - len(shape) :]
        whole = constant is not None and len(term) == len(shape)
        if whole and term[:1] == result[0] and shape[0] > 1:
            raise UnsupportedLayerError(
                f"The layer '{emit.layer}' cannot be bounded: it has a constant with values along "
                f"the batch axis. Give it the shape (1, ...). Received: '{equation}'"
            )
    result, sizes = result[1:], dict[str, int]()
    for node, term in zip(nodes, terms):
        for letter, size in zip(term, emit.shape(node)):
            sizes[letter] = max(size, sizes.get(letter, 1))
    # An axis of length 1 that goes with a longer one is left out.
    for number, (node, term) in enumerate(zip(nodes, terms)):
        fitting = zip(term, emit.shape(node))
        terms[number] = "".join(letter for letter, size in fitting if size == sizes[letter])
    for number, constant in enumerate(constants):
        if constant is not None and constants[1 - number] is None:
            lengths = [sizes[letter] for letter in terms[number]]
            operands = terms[1 - number], terms[number]
            return _by_constant(emit, operands, result, sizes, nodes[1 - number], constant, lengths)
    return _of_two(emit, terms, result, sizes, nodes, Average() if means else Contraction())


def _by_constant(
    emit: Emitter,
    terms: Sequence[str],
    result: str,
    sizes: dict[str, int],
    node: int,
    constant: Constant,
    shape: Sequence[int],
) -> int:
    """Of a node and a constant, of some shape."""
    batch = next(letter for letter in string.ascii_letters if letter not in sizes)
    equation = f"{batch}{terms[0]},{terms[1]}->{batch}{result}"
    lengths = [sizes[letter] for letter in terms[0]]
    # A matrix along a single axis leaves all others apart.
    pairs = list(zip(terms[0], result))
    mixed = [axis for axis, (before, behind) in enumerate(pairs) if before != behind]
    along = len(mixed) == 1 and len(terms[0]) == len(result) and set(terms[1]) == {*pairs[mixed[0]]}
    contracted = Affine(
        lambda x, w: ops.einsum(equation, ops.reshape(x, (-1, *lengths)), w),
        weights=lambda: (ops.reshape(constant.read(), shape),),
        nb_terms=math.prod(size for letter, size in sizes.items() if letter not in result),
        nb_terms_back=math.prod(size for letter, size in sizes.items() if letter not in terms[0]),
        window=Window(mixed=mixed[0]) if along else None,
    )
    return emit(contracted, node)


def _of_two(
    emit: Emitter,
    terms: list[str],
    result: str,
    sizes: dict[str, int],
    nodes: list[int],
    product: Contraction,
) -> int:
    """Of two nodes that may vary: laid out as groups of matrices, contracted, and laid back."""
    for number, term in enumerate(terms):
        used = terms[1 - number] + result
        alone = [axis for axis, letter in enumerate(term, 1) if letter not in used]
        if alone:  # summed by itself
            laid = _laid(emit, nodes[number], [sizes[letter] for letter in term])
            nodes[number] = _summed(emit, laid, alone)
            terms[number] = "".join(letter for letter in term if letter in used)
    first, second = terms
    groups = [letter for letter in result if letter in first and letter in second]
    rows = [letter for letter in result if letter in first and letter not in second]
    columns = [letter for letter in result if letter in second and letter not in first]
    inner = [letter for letter in first if letter in second and letter not in result]

    def size(letters: Sequence[str]) -> int:
        return math.prod(sizes[letter] for letter in letters)

    def matrices(number: int, free: list[str]) -> int:
        term = terms[number]
        order = [term.index(letter) for letter in (*groups, *free, *inner)]
        shape = (size(groups), size(free), size(inner))
        return _laid(emit, nodes[number], [sizes[letter] for letter in term], order, shape)

    node = emit(product, matrices(0, rows), matrices(1, columns))
    letters = [*groups, *rows, *columns]
    order = [letters.index(letter) for letter in result]
    lengths = [sizes[letter] for letter in letters]
    return _laid(emit, node, lengths, order, [sizes[letter] for letter in result])


def _summed(emit: Emitter, node: int, axes: list[int]) -> int:
    nb_terms = math.prod(emit.shape(node)[axis - 1] for axis in axes)
    total = Affine(lambda x: ops.sum(x, axis=axes), nb_terms=nb_terms, nb_terms_back=1)
    return emit(total, node)


def _laid(
    emit: Emitter,
    node: int,
    lengths: Sequence[int],
    order: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
) -> int:
    """A node in the shape `lengths`, its axes in another order, and then in another shape."""
    order = range(len(lengths)) if order is None else order
    shape = lengths if shape is None else shape
    axes = [0, *(axis + 1 for axis in order)]
    in_order = axes == sorted(axes)
    if in_order and tuple(shape) == emit.shape(node):
        return node

    def laid(inputs: Any) -> Any:
        if not in_order:
            inputs = ops.transpose(ops.reshape(inputs, (-1, *lengths)), axes)
        return ops.reshape(inputs, (-1, *shape))

    return emit(Affine(laid), node)


# --- operations and layers ------------------------------------------------------------------------


def _operands(operation: Any, emit: Emitter, names: Sequence[str], nodes: Sequence[int]) -> list:
    """Nodes of the operands: of those of the call, and of constants in the place of some.

    A constant is laid without its batch axis, where that has the length 1.
    """
    moving, found = iter(nodes), []
    for name in names:
        if name not in emit.arguments.settings:
            found.append(next(moving))
            continue
        value = emit.arguments.settings[name]
        values, shape = constant_values(value, operation, len(ops.shape(value)) + 1)
        found.append(emit.constant(values, shape))
    return found


def _pair(function: Any) -> Any:
    """The rule of an operation of x1 and x2, of which ``function`` gives the equation by ranks."""

    def rule(operation: Any, emit: Emitter, *nodes: int) -> int:
        first, second = _operands(operation, emit, ("x1", "x2"), nodes)
        ranks = [len(emit.shape(n)) + (emit.value(n) is None) for n in (first, second)]
        return contraction_of(emit, function(*ranks), first, second)

    return rule


def _of_matmul(first: int, second: int) -> str:
    """The equation of `keras.ops.matmul` of tensors of these ranks."""
    count = max(first, second, 2) - 2
    groups = string.ascii_uppercase[:count]
    one = groups[count - first + 2 :] + "ik" if first > 1 else "k"
    two = groups[count - second + 2 :] + "kj" if second > 1 else "k"
    return f"{one},{two}->{groups}{'i' * (first > 1)}{'j' * (second > 1)}"


def _of_dot(first: int, second: int) -> str:
    """The equation of `keras.ops.dot` of tensors of these ranks."""
    free, others = string.ascii_uppercase[: first - 1], string.ascii_lowercase[12 : second + 10]
    last = "j" if second > 1 else ""
    return f"{free}k,{others}k{last}->{free}{others}{last}"


_PAIR: dict[str, Sequence[str]] = {"inputs": ("x2",), "settings": ("x1", "x2")}
register_operation("Matmul", **_PAIR)(_pair(_of_matmul))
register_operation("Dot", **_PAIR)(_pair(_of_dot))

_OPERANDS = [f"argument {number}" for number in range(8)]


@register_operation("Einsum", inputs=_OPERANDS[1:], settings=_OPERANDS)
def _einsum(operation: Any, emit: Emitter, *nodes: int) -> int:
    count = operation.subscripts.count(",") + 1
    operands = _operands(operation, emit, _OPERANDS[:count], nodes)
    ranks = [len(emit.shape(n)) + (emit.value(n) is None) for n in operands]
    terms, result = _terms(operation.subscripts, ranks)
    if count == 1:
        terms, operands = [*terms, ""], [*operands, emit.constant(np.ones(()), ())]
    while len(operands) > 1:
        first, second, *others = terms
        # Of letters that nobody asks for any more nothing is left.
        kept = [x for x in dict.fromkeys(first + second) if x in "".join([*others, result])]
        whole = result if not others else "".join(sorted(kept, key=lambda x: x not in result[0]))
        node = contraction_of(emit, f"{first},{second}->{whole}", operands[0], operands[1])
        terms, operands = [whole, *others], [node, *operands[2:]]
    return operands[0]


def _terms(subscripts: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The letters of each operand, of these ranks, and of the result, written out."""
    left, arrow, result = subscripts.replace(" ", "").partition("->")
    free = [letter for letter in string.ascii_letters if letter not in subscripts]
    terms, longest = [], ""
    for term, rank in zip(left.split(","), ranks):
        before, dots, behind = term.partition("...")
        count = rank - len(before + behind)
        rest = "".join(free[len(free) - count :]) if dots and count else ""
        longest = max(longest, rest, key=len)
        terms.append(before + rest + behind)
    if arrow:
        return terms, result.replace("...", longest)
    letters = left.replace(",", "").replace(".", "")
    once = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
    return terms, longest + "".join(once)


def _no_mask(layer: Any, emit: Emitter, *nodes: int) -> None:
    """No mask."""


@register(layers.Dot, masks=_no_mask)
def _dot(layer: Any, emit: Emitter, first: int, second: int) -> int:
    nodes = [first, second]
    axes = layer.axes if isinstance(layer.axes, (list, tuple)) else (layer.axes, layer.axes)
    axes = [axes_of(layer, axis, emit.shape(node))[0] for axis, node in zip(axes, nodes)]
    if layer.normalize:
        least = keras.config.epsilon() ** 2
        nodes = [
            standardized(emit, node, (axis,), 0.0, share=1.0, least=least)
            for node, axis in zip(nodes, axes)
        ]
    letters = iter(string.ascii_lowercase[2:])
    terms = [
        "".join("b" if number == axis else next(letters) for number in range(1, len(shape) + 1))
        for axis, shape in zip(axes, map(emit.shape, nodes))
    ]
    free = "".join(terms).replace("b", "")
    node = contraction_of(emit, f"a{terms[0]},a{terms[1]}->a{free}", nodes[0], nodes[1])
    return node if free else emit(Reshaped(lambda x: ops.reshape(x, (-1, 1))), node)
