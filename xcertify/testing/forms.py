"""Rules about the forms that inputs and targets may have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.logits import head_of
from xcertify.testing.case import Case


def check_inputs(case: Case) -> None:
    """Other types, nested lists, tensors and data sets give the same maps."""
    for what, arguments in _forms_of_inputs(case):
        case.agree(what, case.explain(*arguments))


def _forms_of_inputs(case: Case) -> Iterator[tuple[str, tuple[Any, Any]]]:
    inputs, labels = case.inputs, case.labels
    read_only = inputs.copy()
    read_only.flags.writeable = False
    dataset = tf.data.Dataset.from_tensor_slices
    yield "inputs of float64", (inputs.astype(np.float64), labels)
    yield "nested lists", (inputs.tolist(), labels)
    yield "a read-only array", (read_only, labels)
    yield "a tensor", (tf.constant(inputs), labels)
    yield "a data set in batches", (dataset(inputs).batch(2), labels)
    yield "a data set of single inputs", (dataset(inputs), labels)
    yield "a data set of (inputs, labels) in batches", (dataset((inputs, labels)).batch(2), None)
    yield "a data set of (input, one-hot row)", (dataset((inputs, case.one_hot)), None)


def check_targets(case: Case) -> None:
    """Labels and one-hot rows of every type do; None is the predicted class; others differ."""
    for what, targets in {
        "a list of labels": case.labels.tolist(),
        "labels of int32": case.labels.astype(np.int32),
        "a tensor of labels": tf.constant(case.labels),
        "one-hot rows": case.one_hot,
        "one-hot rows of integers": case.one_hot.astype(int),
        "a tensor of one-hot rows": tf.constant(case.one_hot),
    }.items():
        case.agree(what, case.explain(case.inputs, targets))
    found = np.array(case.explain(case.inputs))
    output = None
    if case.model.output_shape[-1] == 1 and head_of(case.model) is None:
        output = np.array(case.explain(case.inputs, np.ones_like(case.labels)))
    if output is None or case.differs(found, output):
        expected = np.array(case.explain(case.inputs, case.predicted))
        case.agree("targets=None, for the predicted classes,", found, expected)
    # Of two classes, what speaks for one speaks as much against the other.
    others = (case.labels + 1) % case.nb_classes
    if case.nb_classes > 2 and not case.differs(case.explain(case.inputs, others), case.maps):
        case.fail("other classes must have other maps. Received: the same")
