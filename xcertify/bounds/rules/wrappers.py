"""Rules of layers that apply other layers: to every step, or forward and backward in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
from keras import layers, ops

from xcertify.bounds.graph.arguments import takes_masks
from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.operations import Affine, Window
from xcertify.bounds.graph.translation import emit_model
from xcertify.bounds.rules.merging import mean_of, product_of, sum_of
from xcertify.bounds.rules.recurrent import recurrence, sequence_of, steps_of
from xcertify.bounds.rules.registry import find_rule, register
from xcertify.keras_graph import UnsupportedLayerError


@register(layers.TimeDistributed)
def _time_distributed(layer: layers.TimeDistributed, emit: Emitter, node: int) -> int:
    inner = layer.layer
    if emit.mask() is not None and takes_masks(inner):
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class TimeDistributed cannot be bounded with a mask, "
            f"which it gives to its layer '{inner.name}'. Start behind it (start_layer), or build "
            f"the model without the mask."
        )
    if type(inner) is layers.Dense:  # it treats all steps alike by itself
        return _applied(inner, emit, node)
    return sequence_of(emit, [_applied(inner, emit, step) for step in steps_of(emit, node)])


def _applied(layer: Any, emit: Emitter, node: int) -> int:
    """A layer, or a model of one input and one output, applied to a node without a mask."""
    within = replace(emit, tensors=[node])
    if isinstance(layer, keras.Model):
        found: Any = emit_model(emit.graph, layer, [node], find_rule, f"{emit.layer}/{layer.name}")
    else:
        found = find_rule(layer)(layer, within, node)
    (result,) = found if isinstance(found, (list, tuple)) else [found]
    return result


def _mask_of_steps(layer: layers.Bidirectional, emit: Emitter, *nodes: int) -> int | None:
    return emit.mask() if layer.return_sequences else None


@register(layers.Bidirectional, inputs=("initial_state",), masks=_mask_of_steps)
def _bidirectional(
    layer: layers.Bidirectional, emit: Emitter, node: int, *initial: int
) -> list[int]:
    half = len(initial) // 2
    (forward, *states), (backward, *others) = (
        recurrence(part, emit, node, given)
        for part, given in (
            (layer.forward_layer, initial[:half]),
            (layer.backward_layer, initial[half:]),
        )
    )
    if layer.return_sequences:
        backward = sequence_of(emit, steps_of(emit, backward)[::-1])
    if layer.merge_mode is None:
        mask = _mask_of_steps(layer, emit)
        if mask is not None:
            emit.graph.masks[backward] = mask
        return [forward, backward, *states, *others]
    merge = {"concat": _concatenated, "sum": sum_of, "ave": mean_of, "mul": product_of}
    return [merge[layer.merge_mode](emit, [forward, backward]), *states, *others]


def _concatenated(emit: Emitter, nodes: Sequence[int]) -> int:
    """Nodes side by side along the last axis."""
    joined = Affine(
        lambda *inputs: ops.concatenate(inputs, axis=-1),
        nb_inputs=len(nodes),
        window=Window(mixed=len(emit.shape(nodes[0])) - 1),
    )
    return emit(joined, *nodes)
