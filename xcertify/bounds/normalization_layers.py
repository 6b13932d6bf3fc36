"""Rules of layers that scale and shift."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import layers, ops

from xcertify.bounds.graph import Emitter
from xcertify.bounds.multivariate import Standardization
from xcertify.bounds.operations import IN_FLOAT32, Affine, Window
from xcertify.bounds.registry import register


def _scale_and_shift(
    emit: Emitter,
    node: int,
    scale: Callable[[], Any],
    shift: Callable[[], Any] | None,
    shift_size: Callable[[], Any] | None = None,
    weight_error: int = 8,
    learned: bool = True,
) -> int:
    """``scale * x + shift`` with computed, broadcast factors."""
    operation = Affine(
        ops.multiply,
        weights=lambda: (scale(),),
        bias=shift,
        bias_size=shift_size,
        nb_terms=1,
        nb_terms_back=1,
        weight_error=weight_error,
        window=Window(),
        learned=learned,
    )
    return emit(operation, node)


@register(layers.BatchNormalization)
def _batch_normalization(layer: Any, emit: Emitter, node: int) -> int:
    shape = _along(layer.axis, len(emit.shape(node)))

    def scale() -> Any:
        scale = ops.rsqrt(ops.cast(layer.moving_variance, "float64") + layer.epsilon)
        scale = scale * ops.cast(layer.gamma, "float64") if layer.scale else scale
        return ops.reshape(scale, shape)

    def mean() -> Any:
        return ops.reshape(ops.cast(layer.moving_mean, "float64"), shape) * scale()

    def beta() -> Any:
        return ops.reshape(ops.cast(layer.beta, "float64"), shape) if layer.center else 0.0

    return _scale_and_shift(
        emit, node, scale, lambda: beta() - mean(), lambda: ops.abs(mean()) + ops.abs(beta())
    )


@register(layers.Normalization)
def _normalization(layer: Any, emit: Emitter, node: int) -> int:
    def deviation() -> Any:
        return ops.maximum(ops.sqrt(ops.cast(layer.variance, "float64")), 1e-7)

    def mean() -> Any:
        return ops.cast(layer.mean, "float64")

    if layer.invert:
        parts = (deviation, mean)
    else:
        parts = (lambda: 1 / deviation(), lambda: -mean() / deviation())
    scale, shift = (lambda part=part: part()[0] for part in parts)  # they carry a batch axis
    return _scale_and_shift(emit, node, scale, shift, weight_error=IN_FLOAT32, learned=False)


@register(layers.Rescaling)
def _rescaling(layer: Any, emit: Emitter, node: int) -> int:
    scale, offset = (np.asarray(v, "float64") for v in (layer.scale, layer.offset))
    return _scale_and_shift(
        emit, node, lambda: scale, lambda: offset, weight_error=IN_FLOAT32, learned=False
    )


@register(layers.LayerNormalization)
def _layer_normalization(layer: Any, emit: Emitter, node: int) -> int:
    rank = len(emit.shape(node))
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    axes = tuple(sorted(axis % (rank + 1) for axis in axes))
    shape = tuple(emit.shape(node)[a - 1] if a in axes else 1 for a in range(1, rank + 1))
    nb_entries = math.prod(shape)
    if not getattr(layer, "rms_scaling", False):
        centering = Affine(
            lambda inputs, own, mean: own * inputs + mean * ops.sum(inputs, axes, keepdims=True),
            weights=lambda: (np.float64(1), np.float64(-1 / nb_entries)),
            nb_terms=nb_entries + 2,
            nb_terms_back=nb_entries + 2,
            weight_error=2,
        )
        node = emit(centering, node)
    node = emit(Standardization(axes, layer.epsilon, nb_entries), node)
    if layer.gamma is None and layer.beta is None:
        return node
    scale = np.ones(shape) if layer.gamma is None else None
    return _scale_and_shift(
        emit,
        node,
        lambda: scale if scale is not None else ops.reshape(layer.gamma, shape),
        None if layer.beta is None else lambda: ops.reshape(layer.beta, shape),
    )


def _along(axis: int, rank: int) -> list[int]:
    """Shape that lays a vector along an axis (batch axis counted) of an unbatched tensor."""
    shape = [1] * rank
    shape[axis - 1 if axis > 0 else axis] = -1
    return shape
