"""Answers: what of a model's outputs must not change, for each of N inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.targets import stays_in_class


@dataclass(frozen=True, eq=False, repr=False)
class Answers:
    """The answer that a model gives for each of N inputs, and what counts as another one.

    Without any of `towards`, `class_groups` and `delta`, the class stays: its logit is larger than
    all others. A model of a single logit has two classes, 1 where it is above 0 and 0 where it is
    below. Make one with `Answers.of`, which knows what the options may be.

    Attributes
    ----------
    classes
        (N,) int: the class c that is to stay; with `delta` the number of an output.
    nb_outputs
        Number K of outputs.
    towards
        (N,) int: it stays larger than this class c'. None: than all others.
    class_groups
        (max(K, 2),) int: labels of classes, the label of the predicted class stays: some class of
        its group is larger than all classes outside. None: no groups.
    delta, values
        (N,) float64: the output stays less than `delta` away from `values`. None: classes.

    Raises
    ------
    ValueError
        If they do not fit each other; the message names the first such sample.
    """

    classes: np.ndarray
    nb_outputs: int
    towards: np.ndarray | None = None
    class_groups: np.ndarray | None = None
    delta: np.ndarray | None = None
    values: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        outputs: np.ndarray,
        classes: np.ndarray,
        *,
        towards: Any = None,
        class_groups: Any = None,
        delta: Any = None,
    ) -> Answers:
        """The answers of a model for N inputs.

        Parameters
        ----------
        outputs
            (N, K): the logits of the inputs, or other outputs; in float64 for `delta`.
        classes
            (N,) int: classes, or with `delta` numbers of outputs (of a single output that one,
            whatever they say).
        towards, class_groups, delta
            At most one of them: integer(s), a single one or (N,); integers (max(K, 2),); number(s)
            above 0, a single one or (N,).

        Raises
        ------
        ValueError
            If they do not fit.
        """
        outputs, nb = np.asarray(outputs, np.float64), len(outputs)
        size = outputs.shape[1]
        if delta is None:
            towards = None if towards is None else _for_all("towards", towards, nb)
            groups = None if class_groups is None else np.asarray(class_groups)
            return cls(np.asarray(classes), size, towards, groups)
        if towards is not None or class_groups is not None:
            raise ValueError(_ONE_QUESTION)
        classes = np.zeros(nb, int) if size == 1 else np.asarray(classes)
        _check_classes("targets", classes, size)
        values = np.take_along_axis(outputs, classes[:, None], axis=1)[:, 0]
        delta = _for_all("delta", delta, nb)
        _refuse(~(delta > 0) | ~np.isfinite(delta), "delta must be a number above 0", delta)
        return cls(classes, size, delta=delta.astype(np.float64), values=values)

    def __post_init__(self) -> None:
        given = (self.towards, self.class_groups, self.delta)
        if sum(option is not None for option in given) > 1:
            raise ValueError(_ONE_QUESTION)
        if (self.delta is None) != (self.values is None):
            raise ValueError("delta and values belong together: give both of them, or neither")
        for name, array in (("delta", self.delta), ("values", self.values)):
            if array is not None and (array.shape, array.dtype.kind) != (
                np.shape(self.classes),
                "f",
            ):
                raise ValueError(f"{name} must be numbers (N,). Received: shape {array.shape}")
        _check_classes("targets", self.classes, self._nb_classes)
        if self.towards is not None:
            self._check_towards(self.towards)
        if self.class_groups is not None:
            self._check_groups(self.class_groups)

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: slice | np.ndarray) -> Answers:
        """The answers of some samples, by a slice or an array of indices."""
        towards, delta, values = (
            None if array is None else array[index]
            for array in (self.towards, self.delta, self.values)
        )
        groups = self.class_groups
        return Answers(self.classes[index], self.nb_outputs, towards, groups, delta, values)

    @property  # above the method of that name
    def _nb_classes(self) -> int:
        return self.nb_outputs if self.delta is not None else max(self.nb_outputs, 2)

    def property(self) -> tuple[np.ndarray, np.ndarray]:
        """What `Verifier.decide` is asked: it is violated where the answer is another one.

        Returns
        -------
        rows, limits
            (N, P, J, K) float32 and (N, P, J) float64. Another answer is that of a point x' with
            ``rows[n, p, j] @ f(x') <= limits[n, p, j]`` for all j of some p: a tie is another one.
        """
        if self.delta is not None:
            return self._property_of_values(self.delta, self.values)
        if self.class_groups is not None:
            return self._property_of_groups(self.class_groups)
        rows, limits = stays_in_class(self.classes, self.nb_outputs)
        if self.towards is None or self.nb_outputs == 1:
            return rows, limits
        place = self.towards - (self.towards > self.classes)  # rows leave out the class itself
        rows = np.take_along_axis(rows, place[:, None, None, None], axis=1)
        return rows, limits[:, :1]

    def stay(self, outputs: np.ndarray) -> np.ndarray:
        """Where outputs (N, K) of other points give the same answers, (N,) bool; NaN: no."""
        outputs = np.asarray(outputs, np.float64)
        own = np.take_along_axis(outputs, self.classes[:, None] % self.nb_outputs, axis=1)[:, 0]
        finite = np.isfinite(outputs).all(axis=1)
        if self.delta is not None:
            _, limits = self._property_of_values(self.delta, self.values)
            return finite & (own < -limits[:, 0, 0]) & (own > limits[:, 1, 0])
        if self.nb_outputs == 1:
            return finite & np.where(self.classes == 1, own > 0, own < 0)
        numbers = np.arange(self.nb_outputs)
        inside, others = numbers == self.classes[:, None], numbers != self.classes[:, None]
        if self.towards is not None:
            others = numbers == self.towards[:, None]
        if self.class_groups is not None:
            inside = self.class_groups == self.class_groups[self.classes][:, None]
            others = ~inside
        best, best_other = (
            np.where(some, outputs, -np.inf).max(axis=1) for some in (inside, others)
        )
        return finite & (best > best_other)

    def check(self, outputs: np.ndarray) -> None:
        """Refuse answers that the model does not give at the inputs themselves.

        Parameters
        ----------
        outputs
            (N, K), of the inputs.

        Raises
        ------
        ValueError
            For outputs that are not finite, a class that is not the predicted one, and ties; the
            message names the first such sample.
        """
        outputs = np.asarray(outputs)
        finite = np.isfinite(outputs).all(axis=1)
        _refuse(~finite, "the model's outputs are NaN or infinite: look at model(inputs)", outputs)
        kept = self.stay(outputs)
        if kept.all():
            return
        sample = int(np.argmin(kept))
        raise ValueError(
            f"the model must give the answer at the input itself, without a tie: {self.describe()}."
            f" Received: target {self.classes[sample]} for sample {sample}, whose outputs are "
            f"{np.array2string(outputs[sample], precision=6, threshold=12)}"
        )

    def describe(self) -> str:
        """In words, what stays."""
        if self.delta is not None:
            return f"output stays within {_span(self.delta)} of its value"
        if self.class_groups is not None:
            return f"class stays in its group, of the groups {self.class_groups.tolist()}"
        if self.towards is not None:
            return f"class stays above class {_span(self.towards)}"
        return "class stays"

    def to_dict(self) -> dict[str, Any]:
        """All fields with arrays as lists, ready for JSON; see `from_dict`."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Answers:
        """What `to_dict` gave.

        Raises
        ------
        ValueError
            If the fields do not fit each other.
        """
        arrays: dict[str, Any] = {
            n: np.asarray(v) if isinstance(v, list) else v for n, v in fields.items()
        }
        return cls(**arrays)

    def __repr__(self) -> str:
        return f"<Answers of {len(self)} inputs: {self.describe()}>"

    def _property_of_values(self, delta: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
        """Two conjunctions: the output is at least values + delta, or at most values - delta."""
        own = np.eye(self.nb_outputs, dtype=np.float32)[self.classes]  # (N, K)
        # rounded so that no output is missed that is delta away
        limits = np.nextafter(np.stack([-(values + delta), values - delta], axis=1), np.inf)
        return np.stack([-own, own], axis=1)[:, :, None], limits[:, :, None]

    def _property_of_groups(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each class outside, one conjunction: no class of the group is larger than it."""
        if self.nb_outputs == 1:
            return stays_in_class(self.classes, 1)
        labels, place = np.unique(groups[self.classes], return_inverse=True)
        inside = groups == labels[:, None]  # (L, K), of the L groups that are asked for
        nb_inside = inside.sum(axis=1)
        most, others = nb_inside.max(), (~inside).sum(axis=1).max()
        order = np.argsort(~inside, axis=1, kind="stable")  # those of the group first
        ours, theirs = order[:, :most], order[:, ::-1][:, :others]
        eye = np.eye(self.nb_outputs, dtype=np.float32)
        rows = eye[ours][:, None] - eye[theirs][:, :, None]  # (L, P, J, K)
        limits = np.zeros(rows.shape[:3])
        beyond = np.arange(most) >= nb_inside[:, None]  # (L, J)
        limits = np.where(beyond[:, None], np.inf, limits)
        never = np.arange(others) >= self.nb_outputs - nb_inside[:, None]  # (L, P)
        limits = np.where(never[..., None], -np.inf, limits)
        return rows[place], limits[place]

    def _check_towards(self, towards: np.ndarray) -> None:
        if towards.shape != self.classes.shape:
            raise ValueError(
                f"towards must be one class for all or one for each input, "
                f"{self.classes.shape}. Received: shape {towards.shape}"
            )
        _check_classes("towards", towards, self._nb_classes)
        same = towards == self.classes
        _refuse(same, "towards must be another class than the target", towards)

    def _check_groups(self, groups: np.ndarray) -> None:
        if groups.shape != (self._nb_classes,) or groups.dtype.kind not in "iu":
            raise ValueError(
                f"class_groups must be one integer label for each of the {self._nb_classes} "
                f"classes. Received: {groups.dtype} of shape {groups.shape}"
            )
        if len(np.unique(groups)) == 1:
            raise ValueError(
                f"class_groups must have more than one group: else no answer is another one. "
                f"Received: {groups.tolist()}"
            )


_ONE_QUESTION = "towards, class_groups and delta are three questions: give at most one of them"


def _check_classes(name: str, classes: np.ndarray, nb_classes: int) -> None:
    if classes.ndim != 1 or classes.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be integers (N,). Received: {classes.dtype} of shape {classes.shape}"
        )
    outside = (classes < 0) | (classes >= nb_classes)
    _refuse(outside, f"{name} must be from 0 to {nb_classes - 1}", classes)


def _for_all(name: str, values: Any, nb_inputs: int) -> np.ndarray:
    """One value for each input, of a single one or of (N,)."""
    values = np.asarray(values)
    if values.dtype.kind not in "iuf" or values.shape not in ((), (nb_inputs,)):
        raise ValueError(
            f"{name} must be one number for all inputs or one for each, {(nb_inputs,)}. "
            f"Received: {values.dtype} of shape {values.shape}"
        )
    return np.broadcast_to(values, (nb_inputs,))


def _span(values: np.ndarray) -> str:
    known = np.unique(values)
    return " to ".join(f"{value:g}" for value in known[[0, -1][: len(known)]])


def _refuse(bad: np.ndarray, problem: str, values: np.ndarray) -> None:
    if bad.any():
        sample = int(np.argmax(bad))
        raise ValueError(f"{problem}. Received: {values[sample]} for sample {sample}")
