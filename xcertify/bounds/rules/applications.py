"""Rules of the layers that models of `keras.applications` bring along."""

from __future__ import annotations

from typing import Any

from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.operations import Scaled
from xcertify.bounds.rules.registry import register
from xcertify.keras_graph import LayerScale, StochasticDepth


@register(LayerScale)
def _layer_scale(layer: Any, emit: Emitter, node: int) -> int:
    return emit(Scaled(lambda: layer.gamma, learned=True), node)


@register(StochasticDepth)
def _stochastic_depth(layer: Any, emit: Emitter, node: int) -> int:
    return node
