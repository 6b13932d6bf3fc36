"""The part of a model behind one of its layers, as a model of its own."""

from __future__ import annotations

import keras

from xcertify.keras_graph import carries_mask, layer_output

__all__ = ["behind"]


def behind(model: keras.Model, layer: str) -> keras.Model:
    """The model from the output of a layer on: texts as vectors, behind an embedding.

    Explainers, attacks and metrics, which move their inputs, take it in the place of a model of
    words, categories or other whole numbers: maps then are of the vectors, (N, T, E), and their
    sums over E are of the words, (N, T). Its layers are those of the model, with the same weights.

    Parameters
    ----------
    model
        A functional or sequential model of one input.
    layer
        Name of the layer.

    Raises
    ------
    ValueError
        If there is no such layer, if the outputs depend on the input on another way, too, or if the
        output of the layer carries a mask, which is made of the input.

    Examples
    --------
    >>> vectors = model.get_layer("embedding")(tokens)                        # (N, T, E)
    >>> maps = SmoothGrad(behind(model, "embedding")).explain(vectors).sum(axis=-1)    # (N, T)
    """
    output = layer_output(model, layer)
    if carries_mask(output):
        raise ValueError(
            f"layer must give no mask: the part behind it does not know which inputs are masked. "
            f"Build the embedding with mask_zero=False, or bound the whole model with "
            f"Verifier(model, start_layer={layer!r}). Received: {layer!r}"
        )
    try:
        return keras.Model(output, model.output, name=f"behind_{layer}".replace("/", "_"))
    except ValueError as error:
        raise ValueError(
            f"layer must be one that all ways from the inputs to the outputs lead through. "
            f"Received: {layer!r} ({error})"
        ) from None
