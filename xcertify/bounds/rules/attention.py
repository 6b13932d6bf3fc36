"""Rules of attention: shares, by a softmax of scores, of values that may vary as well.

Keras computes a share of what is masked in two ways. Without dropout, and without returning them,
`MultiHeadAttention` and `GroupQueryAttention` call a function in which the places of a row that is
masked as a whole have equal shares. Else a `Softmax` layer gives them the share 0. Dropout does
nothing at inference but for that choice.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers, ops

from xcertify.bounds.graph import activations
from xcertify.bounds.graph.arguments import refuse_mixing
from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.masks import HIDDEN, Masked
from xcertify.bounds.graph.operations import Affine, Elementwise, Reshaped, Scaled
from xcertify.bounds.graph.softmax import Softmax
from xcertify.bounds.rules.contraction import contraction_of
from xcertify.bounds.rules.masks import along
from xcertify.bounds.rules.merging import at_least, broadcast, broadcast_to, product_of
from xcertify.bounds.rules.registry import find_rule, register
from xcertify.keras_graph import UnsupportedLayerError, projections

_SETTINGS = ("return_attention_scores", "use_causal_mask")


@register(
    layers.MultiHeadAttention,
    layers.GroupQueryAttention,
    inputs=("value", "key"),
    settings=_SETTINGS,
)
def _attention_of_heads(layer: Any, emit: Emitter, *nodes: int) -> int | list[int]:
    parts, settings = projections(layer), emit.arguments.settings
    nodes = (*nodes, nodes[1]) if len(nodes) == 2 else nodes
    query, value, key = (
        find_rule(dense)(dense, emit, node)
        for dense, node in zip((parts.query, parts.value, parts.key), nodes)
    )
    if parts.nb_repeats > 1:
        repeated = Affine(
            lambda x: ops.repeat(x, parts.nb_repeats, axis=2), nb_terms_back=parts.nb_repeats
        )
        key, value = emit(repeated, key), emit(repeated, value)
    scale = np.float32(1.0 / np.sqrt(float(parts.size)))  # as Keras holds it in any type
    query = emit(Scaled(lambda: scale), query)
    to_scores, to_values, nb_axes = _equations(layer, len(emit.shape(query)))
    scores = contraction_of(emit, to_scores, query, key)
    returned = settings.get("return_attention_scores", False)
    as_layer = layer.dropout > 0 or returned or len(emit.shape(query)) != 3
    mask = _mask_of_scores(layer, emit, parts.window, emit.shape(scores))
    zeros = as_layer and mask is not None and _hides_rows(emit, mask)
    shares = _shares(emit, scores, mask, zeros, nb_axes)
    output = contraction_of(emit, to_values, shares, value, means=not zeros)
    if parts.gate is not None:
        output = product_of(emit, [output, find_rule(parts.gate)(parts.gate, emit, nodes[0])])
    output = find_rule(parts.output)(parts.output, emit, output)
    return [output, _no_head(emit, shares)] if returned else output


def _equations(layer: Any, rank: int) -> tuple[str, str, int]:
    """Scores of queries and keys, outputs of shares and values, and the number of axes of places.

    `rank` is that of queries, without batch axis: axes, heads, entries.
    """
    axes = [*string.ascii_lowercase[: rank - 2]]
    chosen = getattr(layer, "attention_axes", (1,))
    places = [axes[axis - 1] for axis in chosen]
    seen = [letter.upper() if letter in places else letter for letter in axes]
    rest = [letter for letter in axes if letter not in places]
    query, key = "".join(["n", *axes, "yz"]), "".join(["n", *seen, "yz"])
    scores = "".join(["n", *rest, "y", *places, *(letter.upper() for letter in places)])
    return f"{query},{key}->{scores}", f"{scores},{key}->{query}", len(places)


def _mask_of_scores(
    layer: Any, emit: Emitter, window: int | None, shape: tuple[int, ...]
) -> int | None:
    """The mask of scores (heads, T, S), of all masks that a call gives and its tensors carry."""
    if "query_mask" in emit.arguments.masks:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class {type(layer).__name__} cannot be bounded with "
            f"query_mask=..., in whose place some versions of Keras take the mask that the query "
            f"carries. Give it as a part of attention_mask."
        )
    has_key = len(emit.tensors) > 2
    found = [
        _laid(emit, emit.mask(0, "query_mask"), -1),
        _laid(emit, emit.mask(1, "value_mask"), -2),
        _laid(emit, emit.mask(2 if has_key else -1, "key_mask"), -2),
        emit.mask(-1, "attention_mask", rank=len(shape)),
        _fixed_mask(emit, window, shape[-2:]),
    ]
    if len(shape) != 3 and any(mask is not None for mask in found):
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class {type(layer).__name__} can be bounded with masks "
            f"where its query has the shape (samples, places, entries)."
        )
    return _all_of(emit, found, shape)


def _all_of(emit: Emitter, masks: Sequence[int | None], shape: tuple[int, ...]) -> int | None:
    """The mask of scores, of some shape, that is 1 where all masks are."""
    found = [mask for mask in masks if mask is not None]
    if not found:
        return None
    mask = found[0] if len(found) == 1 else at_least(emit, found, len(found))
    return broadcast_to(emit, mask, shape)


def _laid(emit: Emitter, mask: int | None, axis: int) -> int | None:
    """A mask of places with a new axis beside that of the places."""
    if mask is None:
        return None
    return emit(Reshaped(lambda x: ops.expand_dims(x, axis)), mask)


def _fixed_mask(emit: Emitter, window: int | None, shape: Sequence[int]) -> int | None:
    """The mask (T, S) that is the same for all inputs: causal, and of a window; None for none."""
    ahead = np.arange(shape[1]) - np.arange(shape[0])[:, None]
    mask = np.ones(shape, bool)
    if emit.arguments.settings.get("use_causal_mask", False):
        mask &= ahead <= 0
    if window is not None:
        mask &= np.abs(ahead) < window
    return None if mask.all() else emit.constant(mask.astype("float64"), tuple(shape))


def _shares(emit: Emitter, scores: int, mask: int | None, zeros: bool, nb_axes: int) -> int:
    """Softmax of scores along their last axes; `zeros`: without shares where all is masked."""
    softmax = Softmax(-1 if nb_axes == 1 else tuple(range(-nb_axes, 0)))
    if mask is None:
        return emit(softmax, scores)
    shares = emit(softmax, emit(Masked(HIDDEN), scores, mask))
    return emit(Masked(), shares, mask) if zeros else shares


def _hides_rows(emit: Emitter, mask: int) -> bool:
    """Whether a mask may hide all that a row has."""
    constant = emit.value(mask)
    return constant is None or not np.any(constant.values, axis=-1).all()


def _no_head(emit: Emitter, shares: int) -> int:
    """Shares that are returned: with what `Verifier` takes for the network's softmax no longer."""
    return emit(Affine(lambda x: x), shares)


# --- without heads ------------------------------------------------------------------------------


def _mask_of_query(layer: Any, emit: Emitter, *nodes: int) -> int | None:
    return emit.mask(0)


@register(layers.Attention, layers.AdditiveAttention, settings=_SETTINGS, masks=_mask_of_query)
def _attention(layer: Any, emit: Emitter, *nodes: int) -> int | list[int]:
    query, value, key = nodes if len(nodes) == 3 else (*nodes, nodes[1])
    batch = "n" + string.ascii_lowercase[: len(emit.shape(query)) - 2]
    if len(batch) > 1:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class {type(layer).__name__} can be bounded where its "
            f"query has the shape (samples, places, entries). Received: {emit.shape(query)}, "
            f"without samples"
        )
    if isinstance(layer, layers.AdditiveAttention):
        scale = (lambda: layer.scale) if layer.use_scale else None
        scores = _summed_scores(emit, query, key, None, scale)
    elif layer.score_mode == "concat":
        scale = (lambda: layer.scale) if layer.use_scale else None
        scores = _summed_scores(emit, query, key, scale, lambda: layer.concat_score_weight)
    else:
        scores = contraction_of(emit, "nqd,nkd->nqk", query, key)
        if layer.use_scale:
            scores = emit(Scaled(lambda: layer.scale, learned=True), scores)
    returned = emit.arguments.settings.get("return_attention_scores", False)
    shape, of_values = emit.shape(scores), emit.mask(1)
    if of_values is not None:
        _refuse_versions_that_mix(layer, emit, nodes)
    mask = _all_of(emit, [_laid(emit, of_values, -2), _fixed_mask(emit, None, shape)], shape)
    if mask is not None:
        # A number is added to what is masked: where all is, it is as if nothing were.
        scores = emit(Masked(HIDDEN, shifts=True), scores, mask)
    shares = emit(Softmax(-1), scores)
    output = contraction_of(emit, "nqk,nkd->nqd", shares, value, means=True)
    of_query = emit.mask(0)
    if of_query is not None:
        output = emit(Masked(), output, along(emit, of_query, emit.shape(output)))
    return [output, _no_head(emit, shares)] if returned else output


def _summed_scores(emit: Emitter, query: int, key: int, inner: Any, outer: Any) -> int:
    """``outer * sum(tanh(inner * (query + key)))`` for each query and key; None for 1."""
    query = emit(Reshaped(lambda x: ops.expand_dims(x, -2)), query)
    key = emit(Reshaped(lambda x: ops.expand_dims(x, -3)), key)
    pairs = broadcast(emit, [query, key])
    node = emit(Affine(lambda x, y: x + y, nb_inputs=2, nb_terms=2, nb_terms_back=1), *pairs)
    if inner is not None:
        node = emit(Scaled(inner, learned=True), node)
    node = emit(Elementwise(activations.TANH), node)
    if outer is not None:
        node = emit(Scaled(outer, learned=True), node)
    size = emit.shape(node)[-1]
    return emit(Affine(lambda x: ops.sum(x, axis=-1), nb_terms=size, nb_terms_back=1), node)


def _refuse_versions_that_mix(layer: Any, emit: Emitter, nodes: Sequence[int]) -> None:
    """Refuse Keras where it takes the mask of the values for one of the queries of all samples."""

    def called(*tensors: Any) -> Any:
        *parts, mask = tensors
        causal = emit.arguments.settings.get("use_causal_mask", False)
        return layer.call(list(parts), mask=[None, mask > 0], use_causal_mask=causal)

    shapes = [emit.shape(node) for node in nodes]
    refuse_mixing(layer, called, [*shapes, shapes[1][:1]])
