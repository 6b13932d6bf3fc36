"""Einstein sums of two nodes, of which any may vary or be a constant, and products of matrices."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

from keras import ops

from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.operations import Affine, Constant
from xcertify.bounds.graph.products import Contraction
from xcertify.keras_graph import UnsupportedLayerError


def contraction_of(emit: Emitter, equation: str, first: int, second: int) -> int:
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
            shape = [sizes[letter] for letter in terms[number]]
            operands = terms[1 - number], terms[number]
            return _by_constant(emit, operands, result, sizes, nodes[1 - number], constant, shape)
    return _of_two(emit, terms, result, sizes, nodes)


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
    contracted = Affine(
        lambda x, w: ops.einsum(equation, ops.reshape(x, (-1, *lengths)), w),
        weights=lambda: (ops.reshape(constant.read(), shape),),
        nb_terms=math.prod(size for letter, size in sizes.items() if letter not in result),
        nb_terms_back=math.prod(size for letter, size in sizes.items() if letter not in terms[0]),
        weight_error=constant.weight_error,
    )
    return emit(contracted, node)


def _of_two(
    emit: Emitter, terms: list[str], result: str, sizes: dict[str, int], nodes: list[int]
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

    product = emit(Contraction(), matrices(0, rows), matrices(1, columns))
    letters = [*groups, *rows, *columns]
    order = [letters.index(letter) for letter in result]
    lengths = [sizes[letter] for letter in letters]
    return _laid(emit, product, lengths, order, [sizes[letter] for letter in result])


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
