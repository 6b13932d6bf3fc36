"""Targets: which output of the model is looked at, for every sample.

A model of one output is a classifier of two classes, or a regression. Which of them it is shows in
its targets, and without targets in its end:

- Labels 0 and 1, (N,) or as a column (N, 1) as for `fit`, name classes. Class 1 is the output,
  class 0 its negative; of a probability p (a sigmoid at the end) it is 1 - p.
- A column (N, 1) of other numbers holds weights of the output.
- Without targets it is the output itself that is looked at, with its sign. With a sigmoid at the
  end it is a classifier, and the predicted class is looked at.

What is about classes by nature (`EVA`, `RelEx`, `CORGI`, attacks) takes the class by the sign of
the output where none is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["MarginRows", "margin_rows", "one_hot_targets"]


def one_hot_targets(
    outputs: Any | Callable[[], Any] | None, targets: Any, nb_samples: int, nb_classes: int
) -> np.ndarray:
    """Weights of the model's outputs, one row per sample, from any accepted form of targets.

    Parameters
    ----------
    outputs
        Outputs of the model on the samples, (N, K), or a callable that returns them; looked at
        only where `targets` is None.
    targets
        Integer labels (N,), whatever N and K are; or one-hot rows or any weights (N, K), of which
        the sum of weight times output is looked at (-1 for the output to be lowered); or None for
        the predicted class of every sample, the largest output (the first one in a tie). A model
        with a single output is looked at through that output.
    nb_samples, nb_classes
        N and K.

    Returns
    -------
    targets
        (N, K) float32.

    Raises
    ------
    ValueError
        For labels out of range (the first such sample is named), labels that are not integers, a
        column of labels (N, 1), weights that are NaN, infinite or all zero, and any other shape.

    Examples
    --------
    >>> one_hot_targets(None, [1, 0], nb_samples=2, nb_classes=2)
    array([[0., 1.],
           [1., 0.]], dtype=float32)
    """
    if targets is None:
        outputs = np.asarray(outputs() if callable(outputs) else outputs)
        if outputs.shape != (nb_samples, nb_classes):
            raise ValueError(
                f"the model must give one row of outputs per sample, {(nb_samples, nb_classes)}. "
                f"Received: {outputs.shape}"
            )
        targets = np.argmax(outputs, axis=1)
    targets = np.asarray(targets)
    whole = targets.dtype.kind in "iu"
    if whole and targets.shape == (nb_samples, 1):
        raise ValueError(
            f"targets must be labels (N,) or weights (N, {nb_classes}), and a column of integers "
            f"may be either: give labels as targets[:, 0], weights as targets.astype('float32'). "
            f"Received: shape {targets.shape}"
        )
    if targets.shape == (nb_samples,):
        if not whole:
            raise ValueError(
                f"targets of shape (N,) are labels and must be integers: targets.astype(int). "
                f"Received: {targets.dtype}"
            )
        return _one_hot(targets, nb_classes)
    if targets.shape != (nb_samples, nb_classes) or targets.dtype.kind not in "fiub":
        raise ValueError(
            f"targets must be integer labels {(nb_samples,)}, one-hot rows or weights "
            f"{(nb_samples, nb_classes)}, or None for the predicted class. "
            f"Received: shape {targets.shape} of {targets.dtype}"
        )
    targets = targets.astype(np.float32)
    _refuse(~np.isfinite(targets).all(axis=1), "targets are NaN or infinite", targets)
    _refuse(~targets.any(axis=1), "targets are all zero, so no output is looked at", targets)
    return targets


def entry_weights(targets: Any, nb_samples: int, shape: tuple[int | None, ...]) -> np.ndarray:
    """Weights of all outputs of a model that gives a map of them, one row per sample.

    Parameters
    ----------
    targets
        Weights (N, *shape), of which the sum of weight times output is looked at: 1 at a single
        entry, or a mask over the places of one class. Without the last axis where it is 1.
    nb_samples, shape
        N, and the shape of one output, such as (h, w, K).

    Returns
    -------
    weights
        (N, K) float32, K the number of outputs, flattened.

    Raises
    ------
    ValueError
        For anything else: labels and None do not say which of the places are meant.
    """
    given = None if targets is None else np.asarray(targets)
    wanted = [(nb_samples, *shape)] + [(nb_samples, *shape[:-1])] * (shape[-1] == 1)
    fits = given is not None and any(_fits(given.shape, one) for one in wanted)
    if given is None or not fits or given.dtype.kind not in "fiub":
        raise ValueError(
            f"the model gives a map of outputs, {shape}, of which targets must be weights, "
            f"{wanted[0]}: 1 at what is explained, 0 elsewhere. Or choose the row of one place, "
            f"xcertify.one_output(model, at=...), whose targets are labels. "
            f"Received: {'None' if given is None else f'shape {given.shape} of {given.dtype}'}"
        )
    rows = given.reshape(nb_samples, -1)
    return one_hot_targets(None, rows.astype(np.float32), nb_samples, rows.shape[1])


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(b in (a, None) for a, b in zip(shape, wanted))


def refuse_other_than_classes(shape: tuple[int | None, ...], head: str | None) -> None:
    """A ValueError for outputs of which none is the class: a map of them, and several labels.

    Parameters
    ----------
    shape
        Of one output, such as (K,) or (h, w, K).
    head
        "softmax", "sigmoid" or None: what the model ends with.
    """
    if any(size != 1 for size in shape[:-1]):
        raise ValueError(
            f"the model gives a map of outputs, each place of which has a class: choose one place, "
            f"xcertify.one_output(model, at=...), or the mean of several, mask=.... "
            f"Received: outputs of shape {shape}"
        )
    if head == "sigmoid" and shape and shape[-1] != 1:
        raise ValueError(
            f"the model ends with a sigmoid of several outputs, labels that have a yes or no each, "
            f"so that there is no one class: choose a label, xcertify.one_output(model, label=0); "
            f"or, if the largest output is the class, xcertify.one_output(model, head='softmax'). "
            f"Received: outputs of shape {shape}"
        )


def target_classes(logits: Any, targets: Any) -> np.ndarray:
    """The one class that the targets of each sample name.

    Parameters
    ----------
    logits
        Logits of the model on the samples, (N, K). A model with a single logit has two classes, 1
        where it is positive and 0 elsewhere.
    targets
        Integer labels (N,), one-hot rows (N, K), or None for the predicted classes.

    Returns
    -------
    classes
        (N,) int.

    Raises
    ------
    ValueError
        As `one_hot_targets`, and for weights that do not name exactly one class.
    """
    logits = np.asarray(logits)
    _refuse_nan(logits)
    nb_samples, nb_classes = logits.shape
    if nb_classes == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        if targets is not None and np.shape(targets) == (nb_samples, 1):
            targets = np.asarray(targets)[:, 0]
            whole = targets == np.round(targets)
            targets = targets.astype(int) if whole.all() else targets
    weights = one_hot_targets(logits, targets, nb_samples, logits.shape[1])
    single = ((weights > 0).sum(axis=1) == 1) & ((weights != 0).sum(axis=1) == 1)
    _refuse(~single, "targets must name one class per sample, as labels or one-hot rows", weights)
    return weights.argmax(axis=1)


def logit_weights(logits: Any, targets: Any, is_binary: bool) -> np.ndarray:
    """Weights of the logits whose sum is looked at, from any accepted form of targets.

    Parameters
    ----------
    logits
        Logits of the model on the samples, (N, K).
    targets
        As for `one_hot_targets`; for a single logit see the top of this file.
    is_binary
        Whether a single logit is known to be that of a classifier.

    Returns
    -------
    weights
        (N, K) float32; for a single logit -1 stands for class 0.

    Raises
    ------
    ValueError
        As `one_hot_targets` and `target_classes`.
    """
    logits = np.asarray(logits)
    _refuse_nan(logits)
    nb_samples, nb_classes = logits.shape
    if nb_classes > 1:
        return one_hot_targets(logits, targets, nb_samples, nb_classes)
    if targets is None and not is_binary:
        return np.ones((nb_samples, 1), np.float32)
    if _are_weights(targets, nb_samples):
        return one_hot_targets(None, np.asarray(targets, np.float32), nb_samples, 1)
    return np.where(target_classes(logits, targets) == 1, 1, -1).astype(np.float32)[:, None]


def output_weights(outputs: Any, targets: Any, is_probability: bool) -> np.ndarray:
    """Weights of the two outputs of `two_outputs`, for models of a single output, (N, 2)."""
    logits = np.asarray(outputs) - 0.5 * is_probability
    weights = logit_weights(logits, targets, is_probability)
    if _are_weights(targets, len(weights)):
        return np.concatenate([0 * weights, weights], axis=1)
    return np.concatenate([weights < 0, weights > 0], axis=1).astype(np.float32)


def two_outputs(outputs: Any, is_probability: bool) -> Any:
    """Outputs (N, 2) of both classes from the single one, (N, 1), of arrays or tensors."""
    return np.array([[-1.0, 1.0]], np.float32) * outputs + np.array(
        [[float(is_probability), 0.0]], np.float32
    )


def _are_weights(targets: Any, nb_samples: int) -> bool:
    """Whether the targets of a single output are weights and not classes."""
    if targets is None or np.shape(targets) != (nb_samples, 1):
        return False
    return not np.isin(np.asarray(targets), (0, 1)).all()


def margin_rows(classes: np.ndarray, nb_outputs: int) -> MarginRows:
    """Rows that make the margins f_c' - f_c of all other classes c' out of the logits.

    Parameters
    ----------
    classes
        Class c of each sample, (N,).
    nb_outputs
        Number K of logits; with a single one the margin is to the other of two classes.

    Returns
    -------
    rows
        (N, S, K) float32, S = K - 1 (1 for a single logit), for `Verifier.bound_rows`; made as they
        are needed.
    """
    return MarginRows(np.asarray(classes), nb_outputs)


class MarginRows:
    """The rows of `margin_rows`, of which an array is made where one is asked for.

    For a thousand classes the rows of one sample are a million numbers.

    ``rows[samples]`` are the rows of some samples, ``rows[samples, some]`` (by slices) an array of
    some of theirs, and ``np.asarray(rows)`` an array of all.

    Parameters
    ----------
    classes, nb_outputs
        As for `margin_rows`.
    """

    dtype = np.dtype("float32")
    ndim = 3
    made_when_needed = True

    def __init__(self, classes: np.ndarray, nb_outputs: int) -> None:
        self.classes, self.nb_outputs = classes, nb_outputs

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, S, K)."""
        return len(self.classes), max(self.nb_outputs - 1, 1), self.nb_outputs

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: Any) -> MarginRows | np.ndarray:
        if isinstance(index, tuple):
            samples, rows = index
            return self._some(self.classes[samples], rows)
        if isinstance(index, (int, np.integer)):
            return self._some(self.classes[index : index + 1], slice(None))[0]
        return MarginRows(self.classes[index], self.nb_outputs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._some(self.classes, slice(None)).astype(dtype or self.dtype, copy=False)

    def _some(self, classes: np.ndarray, rows: slice) -> np.ndarray:
        if self.nb_outputs == 1:
            return np.where(classes == 1, -1, 1).astype(self.dtype)[:, None, None][:, rows]
        # Row s is of class s, or of the next one from class c on.
        others = np.arange(self.nb_outputs - 1)[rows]
        others = others + (others >= classes[:, None])
        found = np.zeros((*others.shape, self.nb_outputs), self.dtype)
        np.put_along_axis(found, others[..., None], 1, axis=-1)
        np.put_along_axis(found, classes[:, None, None], -1, axis=-1)
        return found


def stays_in_class(classes: Any, nb_outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """The property that each of N inputs stays in its class, for `Verifier.decide`.

    It is violated where another logit is as large as that of the class, or larger; of a single
    logit z, where class 1 has z <= 0, or class 0 has z >= 0.

    Parameters
    ----------
    classes
        Class of each input, (N,) int.
    nb_outputs
        Number K of logits.

    Returns
    -------
    rows, limits
        (N, P, 1, K) float32 and (N, P, 1), P = K - 1 (1 for a single logit).

    Raises
    ------
    ValueError
        For classes that are not integers from 0 to K - 1 (0 and 1 for a single logit).
    """
    classes = np.asarray(classes)
    if classes.ndim != 1 or classes.dtype.kind not in "iu":
        raise ValueError(
            f"classes must be integers (N,). Received: {classes.dtype} of shape {classes.shape}"
        )
    _refuse(
        (classes < 0) | (classes >= max(nb_outputs, 2)),
        f"classes must be from 0 to {max(nb_outputs, 2) - 1}",
        classes,
    )
    rows = -np.asarray(margin_rows(classes, nb_outputs))[:, :, None]
    return rows, np.zeros(rows.shape[:3])


def _one_hot(labels: np.ndarray, nb_classes: int) -> np.ndarray:
    _refuse(
        (labels < 0) | (labels >= nb_classes),
        f"targets must be labels from 0 to {nb_classes - 1}"
        + (" (a model with one output has no other class: give weights)" * (nb_classes == 1)),
        labels,
    )
    return np.eye(nb_classes, dtype=np.float32)[labels]


def _refuse_nan(logits: np.ndarray) -> None:
    problem = "the model's outputs are NaN for inputs as they are: look at model(inputs)"
    _refuse(np.isnan(logits).any(axis=1), problem, logits)


def _refuse(bad: np.ndarray, problem: str, targets: np.ndarray) -> None:
    """Raise a ValueError that names the first bad sample."""
    if bad.any():
        sample = int(np.argmax(bad))
        raise ValueError(f"{problem}. Received: {targets[sample]} for sample {sample}")
