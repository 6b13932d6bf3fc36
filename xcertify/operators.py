"""Operators: the number of each input that is explained or watched, g(model, inputs, targets).

As in Xplique an operator is a function of one's own or the name of a task. Explainers and metrics
take the same ones. Without an operator, explainers look at a weighted sum of logits, and metrics at
one of the outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.models import as_rows
from xcertify.targets import one_hot_targets

Operator = Callable[[Callable, Any, Any], Any]


def weighted_outputs(model: Callable, inputs: Any, targets: Any) -> Any:
    """Scores (B,): the sum of targets (B, K) times outputs (B, K)."""
    return tf.reduce_sum(as_rows(model(inputs)) * targets, axis=1)


def zone_mean(model: Callable, inputs: Any, targets: Any) -> Any:
    """Scores (B,): the mean of targets times outputs, (B, h, w, K), where targets are not 0."""
    axes = (1, 2, 3)
    if targets.shape.rank != 4:
        raise ValueError(
            f"operator='semantic segmentation' is of outputs and targets (B, h, w, K): write "
            f"operator='classification' for rows. Received: targets of shape {targets.shape}"
        )
    nb_entries = tf.reduce_sum(tf.cast(tf.not_equal(targets, 0), tf.float32), axes)
    return tf.reduce_sum(model(inputs) * targets, axes) / nb_entries


TASKS: dict[str, Operator] = {
    "classification": weighted_outputs,
    "regression": weighted_outputs,
    "semantic segmentation": zone_mean,
}
_OF_XPLIQUE = {"predictions_operator": "classification"}  # which its tasks are names of


def as_operator(operator: Any) -> Operator | None:
    """An operator as a function; None stays None.

    Parameters
    ----------
    operator
        None; a function (model, inputs, targets) -> (B,), compiled by `tf.function` or not; a name
        among "classification", "regression" (which are the same, as in Xplique) and "semantic
        segmentation"; or a member of Xplique's `Tasks`.

    Raises
    ------
    ValueError
        For anything else. The names of object detection are refused, with what to write instead.
    """
    if isinstance(operator, Enum):
        operator = operator.value if callable(operator.value) else operator.name
    # of a tf.function what it was made of: it becomes part of a graph in any case
    operator = getattr(operator, "python_function", operator)
    if getattr(operator, "__module__", None) == "xplique.commons.operators":
        operator = _OF_XPLIQUE.get(operator.__name__, operator)
    if operator is None:
        return None
    if isinstance(operator, str):
        return _task(operator)
    if not callable(operator) or not _takes_three(operator):
        raise ValueError(
            f"operator must be None, a function (model, inputs, targets) -> (B,), or one of "
            f"{', '.join(map(repr, TASKS))}; settings behind it are given by name, such as "
            f"patch_stride=2 or grid_size=7. Received: {operator!r}"
        )
    return operator


def takes_weights(operator: Operator | None) -> bool:
    """Whether its targets are weights of the model's outputs, which labels are a form of."""
    return operator in (None, weighted_outputs)


def targets_of_operator(
    outputs: Callable[[], np.ndarray], targets: Any, nb_samples: int
) -> np.ndarray:
    """Targets as a function of one's own is given them: rows (N, ...) float32.

    Parameters
    ----------
    outputs
        Gives the outputs of the model on all inputs, (N, K); called where targets need them.
    targets
        Labels (N,) become one-hot rows (N, K), None those of the largest outputs; all else stays as
        it is.
    nb_samples
        N.
    """
    targets = None if targets is None else np.asarray(targets)
    if targets is None or (targets.ndim == 1 and targets.dtype.kind in "iu"):
        rows = np.asarray(as_rows(outputs()))
        return one_hot_targets(rows, targets, nb_samples, rows.shape[1])
    return targets.astype(np.float32)


def scores_of(operator: Operator, model: Callable, inputs: tf.Tensor, targets: Any) -> tf.Tensor:
    """Scores (B,) float32 of inputs (B, *shape).

    Parameters
    ----------
    operator
        As `as_operator` returns it.
    model
        (B, *shape) -> outputs; the operator may call it with `training`, which changes nothing.
    inputs, targets
        (B, *shape), and rows (B, ...) for them.

    Raises
    ------
    ValueError
        If it returns something else than one number for each input.
    """
    called = tf.autograph.experimental.do_not_convert(lambda x, training=False: model(x))
    scores = _for_graphs(operator)(called, inputs, targets)
    scores = tf.cast(tf.convert_to_tensor(scores), tf.float32)
    if scores.shape.rank != 1 or not scores.shape.is_compatible_with(inputs.shape[:1]):
        raise ValueError(
            f"operator must return one score for each input, of shape (B,): for instance "
            f"tf.reduce_sum(model(inputs) * targets, axis=1). "
            f"Received: scores of shape {scores.shape} from {operator!r}"
        )
    return scores


def _for_graphs(operator: Operator) -> Operator:
    """A function of one's own whose control flow may be part of a graph, where it can be read."""
    if operator in TASKS.values():
        return operator
    try:
        return tf.autograph.to_graph(operator)
    except Exception:  # without a source, or not one that AutoGraph understands: as it is
        return operator


def _task(name: str) -> Operator:
    """The operator of a task by its name, in any case, also with underscores."""
    plain = name.lower().replace("_", " ")
    if plain.startswith("object detection"):
        raise ValueError(
            f"object detection compares boxes, which is left to Xplique's operator: write "
            f"operator=xplique.commons.Tasks.OBJECT_DETECTION, or a function (model, inputs, "
            f"targets) -> (B,) that scores the boxes of the model against those of targets. "
            f"Received: {name!r}"
        )
    if plain not in TASKS:
        raise ValueError(
            f"operator must be a function (model, inputs, targets) -> (B,), or one of "
            f"{', '.join(map(repr, TASKS))}. Received: {name!r}"
        )
    return TASKS[plain]


def _takes_three(function: Callable) -> bool:
    """Whether a function can be called with model, inputs and targets."""
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError:
        return False
    except ValueError:  # of built-in code, whose arguments are not known
        return True
    return True
