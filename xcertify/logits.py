"""Logits: what a classifier computes before the softmax or sigmoid at its end.

What counts as the end is the same here and for `Verifier`: whatever does nothing behind a softmax
(dropout, a linear activation, another float type, a change of shape that keeps the row) is passed
by, in nested models too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from xcertify.bounds import IDENTITIES
from xcertify.keras_graph import (
    call_of,
    has_keras_call,
    is_keras_function,
    model_of,
    with_attributes,
)
from xcertify.models import (
    Run,
    as_rows,
    check_model,
    flat_rows,
    is_graph,
    is_legacy,
    map_shape_of,
    outputs_of,
    single,
)
from xcertify.targets import (
    entry_weights,
    logit_weights,
    refuse_other_than_classes,
    target_classes,
)

_SOFTMAX = (keras.activations.softmax, keras.ops.softmax, tf.nn.softmax)
_SIGMOID = (keras.activations.sigmoid, keras.ops.sigmoid, tf.nn.sigmoid)

# Layers whose activation comes last.
_ACTIVATED = (
    layers.Dense,
    layers.EinsumDense,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)


def logits_of(model: Callable, start_layer: str | None = None) -> Callable:
    """A differentiable function that gives the logits of a classifier.

    A softmax or sigmoid at the end of a built Sequential or functional Keras model, be it a layer
    or function of its own or the activation of the last layer, is left out; the model itself is not
    touched, and its current weights are used at every call. Of any other model or callable the
    logits are what it returns.

    Parameters
    ----------
    model
        Keras model or callable, (B, *shape) -> (B, K), as for `xcertify.models.outputs_of`.
    start_layer
        Name of a layer whose output takes the place of the inputs.

    Returns
    -------
    logits
        Callable, (B, *shape) -> (B, K); outputs (B,) become (B, 1), and maps of outputs of a Keras
        model, (B, h, w, C), rows of K = h w C.

    Raises
    ------
    ValueError
        When it is called: for a model of several outputs, or of outputs that are no rows where its
        layers are not known.

    Examples
    --------
    >>> logits = logits_of(model)
    >>> logits(images[:2])
    """
    plain = outputs_of(model, start_layer)

    @tf.autograph.experimental.do_not_convert
    def logits(x: Any) -> tf.Tensor:
        if _has_one_output(model):
            return flat_rows(single(_logits(Run(start_layer=start_layer), model, x)))
        _refuse_legacy_head(model)
        return as_rows(plain(x))

    return logits


def logits_beside(
    model: keras.Model,
    tensor: keras.KerasTensor,
    inside: Sequence[keras.Model] = (),
    start_layer: str | None = None,
    strip_head: bool = True,
) -> Callable:
    """A function that gives a tensor inside a model, and the logits that were made of it.

    For derivatives of the logits by the tensor, from one evaluation.

    Parameters
    ----------
    model
        Built Sequential or functional model; as for `logits_of`, it is not touched, and its current
        weights are used.
    tensor
        A Keras tensor of it, (B, *shape), or of a nested model.
    inside
        The nested models that it is in, from the outermost on.
    start_layer
        As for `logits_of`.
    strip_head
        Whether a softmax or sigmoid at the end is left out; without, the outputs are given as they
        are.

    Returns
    -------
    evaluate
        Callable, inputs to values (B, *shape) and logits (B, K), or outputs (B, ...).
    """

    @tf.autograph.experimental.do_not_convert
    def evaluate(x: Any) -> tuple[Any, Any]:
        check_model(model)
        run = Run([tensor], inside, start_layer)
        others = () if inside else (tensor,)
        if strip_head:
            outputs = flat_rows(single(_logits(run, model, x, others)))
        else:
            outputs = single(run(model, x, model.outputs[0], others))
        return run.found[id(tensor)], outputs

    return evaluate


def head_of(model: Any) -> str | None:
    """What `logits_of` leaves out at the end of a model: "softmax", "sigmoid" or None."""
    head = _find_head(model) if _has_one_output(model) else None
    return None if head is None else head.kind


def classes_of(model: Any, logits: Any, targets: Any) -> np.ndarray:
    """The one class that the targets of each sample name, of a model whose outputs are classes.

    Parameters
    ----------
    model
        As for `logits_of`.
    logits, targets
        As for `xcertify.targets.target_classes`.

    Returns
    -------
    classes
        (N,) int.

    Raises
    ------
    ValueError
        As `target_classes`; for a map of outputs, and for labels with a yes or no each (a sigmoid
        at the end of several outputs), of which none is the class.
    """
    refuse_other_than_classes(map_shape_of(model) or np.shape(logits)[1:], head_of(model))
    return target_classes(logits, targets)


def weights_of(model: Any, logits: Any, targets: Any) -> np.ndarray:
    """Weights (N, K) float32 of the logits of a model, from any accepted form of targets.

    Parameters
    ----------
    model
        As for `logits_of`.
    logits, targets
        As for `xcertify.targets.logit_weights`; for a map of outputs, (h, w, C), weights
        (N, h, w, C).

    Raises
    ------
    ValueError
        As `logit_weights` and `entry_weights`.
    """
    shape = map_shape_of(model)
    if shape is not None:
        return entry_weights(targets, len(logits), shape)
    return logit_weights(logits, targets, head_of(model) == "sigmoid")


def logits_model(model: keras.Model) -> keras.Model:
    """A model of the logits, that has the layers of a model and shares their weights.

    Parameters
    ----------
    model
        Built Sequential or functional model of one output; returned itself where it ends with
        neither softmax nor sigmoid.
    """
    head = _find_head(model)
    if head is None:
        return model
    tensor, shape = head.symbolic(), tuple(model.outputs[0].shape[1:])
    if tuple(tensor.shape[1:]) != shape:
        tensor = layers.Reshape(shape)(tensor)
    return model_of(model, tensor, f"{model.name}_logits")


@dataclass(frozen=True)
class _Head:
    """The end of a model: what it is, the tensor before it, and what makes logits of that.

    `layer` is, or ends with, the softmax or sigmoid; `behind` are calls that only change the shape.
    """

    kind: str
    before: keras.KerasTensor
    layer: Any
    behind: Sequence[Any]

    def finish(self, run: Run, x: Any) -> Any:
        """Logits of values of the tensor before it."""
        if is_graph(self.layer):
            x = _logits(run, self.layer, x)
        elif not _stands_alone(self.layer):
            x = _without_activation(self.layer)(x, training=False)
        for later in self.behind:
            args, kwargs = later.arguments.fill_in({id(later.input_tensors[0]): x})
            x = later.operation(*args, **kwargs)
        return x

    def symbolic(self) -> keras.KerasTensor:
        """The tensor of the logits, of layers that share all weights, in another shape maybe."""
        if is_graph(self.layer):
            return logits_model(self.layer)(self.before)
        if _stands_alone(self.layer):
            return self.before
        return _without_activation(self.layer, _inbound_nodes=[], _outbound_nodes=[])(self.before)


def _has_one_output(model: Any) -> bool:
    return is_graph(model) and len(model.inputs) == len(model.outputs) == 1


def _logits(run: Run, model: keras.Model, x: Any, others: Sequence[Any] = ()) -> Any:
    head = _find_head(model)
    if head is None:
        return run(model, x, model.outputs[0], others)
    return head.finish(run, run(model, x, head.before, others))


def _find_head(model: keras.Model) -> _Head | None:
    tensor, behind = model.outputs[0], []
    while True:
        if tensor is model.inputs[0]:
            return None
        call = call_of(tensor)
        layer = call.operation
        if len(call.input_tensors) != 1:
            return None
        (before,) = call.input_tensors
        if _keeps_rows(layer, before.shape, tensor.shape):
            behind.append(call)
        elif not _does_nothing(layer):
            break
        tensor = before

    if is_graph(layer) and _has_one_output(layer):  # its head is that of the whole
        inner = _find_head(layer)
        if inner is None:
            return None
        return _Head(inner.kind, before, layer, behind[::-1])
    kind, axis = _kind_of(layer)
    if kind is None or (kind == "softmax" and not _is_last(axis, len(tensor.shape))):
        return None
    _refuse_mask(call)
    return _Head(kind, before, layer, behind[::-1])


def _is_row(shape: Sequence[int | None]) -> bool:
    """Whether it is (B, 1, ..., 1, K)."""
    return all(size == 1 for size in shape[1:-1])


def _is_last(axis: Any, rank: int) -> bool:
    axes = axis if isinstance(axis, (list, tuple)) else (axis,)
    return {a % rank for a in axes} == {rank - 1}


def _does_nothing(layer: Any) -> bool:
    """Whether a layer or operation gives what it is given, at inference."""
    if isinstance(layer, layers.Activation):
        return layer.activation is keras.activations.linear
    if type(layer).__name__ == "Cast" and not isinstance(layer, layers.Layer):
        return tf.as_dtype(layer.dtype).is_floating
    return type(layer) in IDENTITIES


def _keeps_rows(layer: Any, before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Whether a layer or operation only takes away or adds axes of one entry."""
    rearranges = isinstance(layer, (layers.Flatten, layers.Reshape)) or (
        is_keras_function(layer) and type(layer).__name__ in ("Reshape", "Squeeze", "ExpandDims")
    )
    return rearranges and _is_row(before) and _is_row(after) and before[-1] == after[-1]


def _kind_of(layer: Any) -> tuple[str | None, Any]:
    """Whether a layer, operation or function ends with softmax or sigmoid, and along which axis."""
    if isinstance(layer, layers.Softmax):
        return "softmax", layer.axis
    if isinstance(layer, (layers.Activation, *_ACTIVATED)):
        return _kind_of(layer.activation) if has_keras_call(layer) else (None, None)
    if isinstance(layer, layers.Lambda):
        return _kind_of(layer.function)
    if isinstance(layer, layers.Layer):
        return None, None
    if is_keras_function(layer):
        kind = {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(type(layer).__name__)
        return kind, getattr(layer, "axis", -1)
    if layer in _SOFTMAX:
        return "softmax", -1
    return ("sigmoid" if layer in _SIGMOID else _tried(layer)), -1


def _tried(function: Any) -> str | None:
    """What a user's function is, by its values: one that is written as ``lambda z: softmax(z)``."""
    if not callable(function) or (getattr(function, "__module__", None) or "").startswith("keras."):
        return None
    with tf.init_scope():
        rows = tf.constant([[0.3, -1.1, 2.0], [-0.7, 0.4, 0.1]])
        try:
            values = np.asarray(function(rows))
        except Exception:
            return None
        for kind, known in (("softmax", tf.nn.softmax), ("sigmoid", tf.nn.sigmoid)):
            if values.shape == rows.shape and np.allclose(values, known(rows), 1e-5, 1e-6):
                return kind
    return None


def _stands_alone(layer: Any) -> bool:
    """Whether softmax or sigmoid is all that a layer or operation does."""
    return not isinstance(layer, _ACTIVATED)


def _without_activation(layer: layers.Layer, **attributes: Any) -> layers.Layer:
    """The layer without its activation: the same variables, whatever has become of them."""
    linear = {"activation": keras.activations.linear, "activity_regularizer": None}
    return with_attributes(layer, **linear, **attributes)


def _refuse_mask(call: Any) -> None:
    args, kwargs = call.arguments.args, call.arguments.kwargs
    if len(args) > 1 or kwargs.get("mask") is not None:
        raise ValueError(
            f"the softmax '{call.operation.name}' at the end of the model has a mask, so that its "
            f"logits are not what it is given; build a model that ends before it. "
            f"Received: mask={kwargs.get('mask', args[-1])!r}"
        )


def _refuse_legacy_head(model: Any) -> None:
    """A model of tf_keras is a callable like others, whose softmax is not seen."""
    last: Any = getattr(model, "layers", [None])[-1] if is_legacy(model) else None
    function = getattr(last, "activation", None)
    names = (getattr(function, "__name__", None), type(last).__name__.lower())
    if any(name in ("softmax", "sigmoid") for name in names):
        raise ValueError(
            f"the model is one of tf_keras (Keras 2) that ends with {names[0] or names[1]}, which "
            f"can only be left out of models of Keras 3, or given as logits: save it as .h5 and "
            f"load it with keras.models.load_model, or build a model that ends before it. "
            f"Received: the layer '{last.name}'"
        )


@tf.autograph.experimental.do_not_convert
def two_classes(logits: tf.Tensor) -> tf.Tensor:
    """Logits (B, K) in float32; a single one, (B, 1), becomes two, of the classes 0 and 1."""
    logits = tf.cast(logits, tf.float32)
    if logits.shape[-1] == 1:
        logits = tf.concat([tf.zeros_like(logits), logits], axis=-1)
    return logits
