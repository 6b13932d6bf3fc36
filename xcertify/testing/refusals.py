"""Rules about inputs and targets that are to be refused."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from xcertify.testing.case import Case


def check_wrong_inputs(case: Case) -> None:
    """A ValueError names the inputs, and the explainer still works after it."""
    inputs, labels = case.inputs, case.labels
    last = (-1, *[0] * (inputs.ndim - 1))
    with_nan, infinite = inputs.copy(), inputs.copy()
    with_nan[last], infinite[last] = np.nan, np.inf
    wrong = {
        "a single input without a batch axis": inputs[0],
        "inputs with an axis too many": inputs[..., None],
        "no inputs at all": inputs[:0],
        "inputs with NaN": with_nan,
        "infinite inputs": infinite,
        "inputs that are text": inputs.astype(str),
    }
    if case.model.input_shape[-1] is not None:
        wrong["inputs of another shape"] = np.concatenate([inputs, inputs], axis=-1)
    some = {what: (value, labels[: len(value)]) for what, value in wrong.items()}
    case.refuses("inputs", some)


def check_wrong_targets(case: Case) -> None:
    """A ValueError names the targets, and the explainer still works after it."""
    inputs, labels, nb_classes = case.inputs, case.labels, case.nb_classes
    beyond = np.where(np.arange(len(labels)) == 1, nb_classes, labels)
    wrong = {
        "too few targets": labels[:-1],
        f"the label {nb_classes} of {nb_classes} classes": beyond,
        "the label -1": np.where(beyond == nb_classes, -1, labels),
        "labels that are fractions": labels + 0.5,
        "one-hot rows of a class too many": np.eye(nb_classes + 1)[labels],
        "targets that are NaN": np.full_like(case.one_hot, np.nan),
        "one-hot rows of zeros": np.zeros_like(case.one_hot),
    }
    if case.model.output_shape[-1] > 1:
        wrong["labels in a column"] = labels[:, None]
    pairs = tf.data.Dataset.from_tensor_slices((inputs, labels))
    some = {what: (inputs, value) for what, value in wrong.items()}
    case.refuses("targets", some | {"targets beside a data set with targets": (pairs, labels)})
