"""Rules of embeddings: whole numbers, given as constants or fixed inputs, as rows of a matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras import layers, ops

from xcertify.bounds.graph.graph import Emitter
from xcertify.bounds.graph.masks import Indicator
from xcertify.bounds.graph.operations import Enclosure, Options
from xcertify.bounds.graph.standardization import IntervalOnly
from xcertify.bounds.rounding import relative_error, round_down, round_up
from xcertify.bounds.rules.registry import register
from xcertify.keras_graph import UnsupportedLayerError


class Lookup(IntervalOnly):
    """Rows of a matrix (V, E), by whole numbers that do not vary.

    Parameters
    ----------
    matrix
        Called for the current matrix.
    weight_error
        Relative error of its entries in units of 2**-53, see `Affine`.
    """

    def __init__(self, matrix: Callable[[], Any], weight_error: int = 0) -> None:
        self.matrix, self.weight_error = matrix, weight_error

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        matrix, index = self.matrix(), ops.cast(inputs[0], "int32")
        size = matrix.shape[0]
        rows = ops.cast(ops.take(matrix, ops.clip(index, -size, size - 1), axis=0), inputs[0].dtype)
        known = ops.logical_and(index >= -size, index < size)
        nothing = ops.convert_to_tensor(float("nan"), rows.dtype)  # as for values that overflow
        return ops.where(known[..., None], rows, nothing)

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`: nothing varies."""
        error = relative_error(self.weight_error, "float64") + options.network_error(1)
        noise = error * ops.abs(reference)
        return Enclosure(
            reference, round_down(-noise, options.dtype), round_up(noise, options.dtype)
        )


def _mask_of_words(layer: layers.Embedding, emit: Emitter, node: int) -> int | None:
    return emit(Indicator("!="), node) if layer.mask_zero else None


@register(layers.Embedding, masks=_mask_of_words)
def _embedding(layer: layers.Embedding, emit: Emitter, node: int) -> int:
    if emit.varies(node):
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class Embedding cannot be bounded over a region of the "
            f"whole numbers that it is given. Vary what it gives instead: start_layer="
            f"'{emit.layer}'."
        )
    if getattr(layer, "quantization_mode", None) is not None:
        raise UnsupportedLayerError(
            f"The layer '{layer.name}' of class Embedding is quantized "
            f"({layer.quantization_mode}); bound the model before its quantization."
        )
    # With LoRA the matrix is a sum that Keras rounds to float32.
    return emit(Lookup(lambda: layer.embeddings, 2**30 if layer.lora_enabled else 0), node)
