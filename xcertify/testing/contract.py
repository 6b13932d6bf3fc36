"""The contract of all explainers, rule by rule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras
import tensorflow as tf

from xcertify.testing.case import Case
from xcertify.testing.certificates import check_certificate
from xcertify.testing.forms import check_inputs, check_targets
from xcertify.testing.models import check_logits, check_memory, check_model
from xcertify.testing.refusals import check_wrong_inputs, check_wrong_targets
from xcertify.testing.results import (
    check_batches,
    check_call,
    check_globals,
    check_quiet,
    check_repeats,
    check_result,
)
from xcertify.testing.settings import check_settings

RULES: dict[str, Callable[[Case], bool | None]] = {
    "globals": check_globals,  # first: the first call is watched even if nothing else is asked
    "result": check_result,
    "call": check_call,
    "inputs": check_inputs,
    "targets": check_targets,
    "wrong inputs": check_wrong_inputs,
    "wrong targets": check_wrong_targets,
    "batches": check_batches,
    "repeats": check_repeats,
    "model": check_model,
    "settings": check_settings,
    "logits": check_logits,
    "quiet": check_quiet,
    "memory": check_memory,
    "certificate": check_certificate,
}
"""The rules by name, in the order in which they are checked; see `check_explainer`."""


def check_explainer(
    build: Callable[[keras.Model], Any],
    model: keras.Model | None = None,
    inputs: Any = None,
    targets: Any = None,
    *,
    kind: str = "images",
    leave_out: Collection[str] = (),
    changes: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
) -> tuple[str, ...]:
    """Check that an explainer keeps the contract of all explainers, rule by rule.

    - **globals**: seeds, random states, switches, settings, environment variables, figures, the
      names that Keras gives, the model, the inputs and the targets stay as they were, after errors
      too.
    - **result**: `explain` gives a NumPy array of its own, float32 and finite, (N, H, W, 1) for
      images, else of the shape of the inputs.
    - **call**: ``explainer(inputs, targets)`` and arguments by name give the same maps.
    - **inputs**: so do other types, nested lists, read-only arrays, tensors, and data sets, in
      batches or not, with targets or without.
    - **targets**: so do labels as a list, an array or a tensor, and one-hot rows. None stands for
      the predicted class; of a single output, which may be that of a regression, it may stand for
      the output. Another class, of three or more, has another map.
    - **wrong inputs**, **wrong targets**: `explain` and `certify` raise a ValueError that names the
      argument, and the explainer still works after it.
    - **batches**: inputs one at a time, or with another `batch_size`, have the same maps.
    - **repeats**: a later call and a new explainer give the same maps; results do not change later.
    - **model**: another model has other maps; ``explainer.model = other`` gives those of a new
      explainer of it, and new weights of the same model count.
    - **settings**: each argument of the constructor is an attribute; another value, assigned to an
      explainer that has been used, gives the maps and the certificate of a new explainer with it,
      and so does the value of before. What the constructor refuses is refused there, too.
    - **logits**: a softmax at the end changes nothing (for models that have none).
    - **quiet**: nothing is printed.
    - **memory**: a model is released when it is replaced, and with its explainer, while the results
      are kept.
    - **certificate**: `certify`, where there is one, takes the same forms, and gives a frozen
      dataclass with a repr that sums it up, `to_dict` ready for JSON, and arrays that have N first
      or are the same for all inputs.

    Parameters
    ----------
    build
        Makes an explainer of a model: its class, or a function where it needs settings. Choose them
        so that a call is fast; there will be about fifty, and a few for each setting.
    model
        Sequential or functional Keras classifier, to be copied. None: a small one for `kind`, with
        three classes and ReLU; for images its layers are "convolution", "pooling" (global,
        average) and "logits".
    inputs
        Two or more, as for `Explainer.explain`; None: three at random between 0 and 1.
    targets
        Class of each input, as for `Explainer.explain`; None: 0, 1, 2, ...
    kind
        "images", "time series" or "tabular": of what the small model is.
    leave_out
        Rules that the explainer is not meant to keep, by name: a random map cannot keep "model".
    changes
        Other values of constructor arguments by name, for the rule "settings", where none can be
        found by trying numbers, ranges, the names of layers, and what an error message offers.
    tolerance
        By how much two maps that should be the same may differ, as a share of their largest
        magnitude.

    Returns
    -------
    rules
        Names of those that were checked: all but those left out and those that are about what the
        explainer or model does not have.

    Raises
    ------
    AssertionError
        For the first rule that is broken; the message begins with its name, and says what was
        expected and what was received.
    ValueError
        For an unknown kind or rule, and for models, inputs and targets that no explainer takes.

    No guarantee
    ------------
    It looks at a few inputs of one model, and not at whether maps or certificates are right.

    Examples
    --------
    >>> check_explainer(Saliency)
    >>> check_explainer(lambda model: EVA(model, epsilon=0.1), kind="tabular")
    """
    unknown = sorted(set(leave_out) - set(RULES))
    if unknown or isinstance(leave_out, str):
        raise ValueError(
            f"leave_out must be a list of rules, of {', '.join(RULES)}. Received: {leave_out!r}"
        )
    case = Case(build, model, inputs, targets, kind, tolerance, "globals" not in leave_out)
    case.changes = dict(changes or {})
    rules = {name: rule for name, rule in RULES.items() if name not in leave_out}
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # new explainers trace anew, of which TensorFlow warns
    try:
        return tuple(name for name, rule in rules.items() if case.keeps(name, rule))
    finally:
        logger.setLevel(level)
