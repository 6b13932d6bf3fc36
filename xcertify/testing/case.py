"""What explainers are tried on, and what the rules ask of it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable
from functools import cached_property
from typing import Any, NoReturn

import keras
import numpy as np

from xcertify.inputs import as_arrays, input_shape_of
from xcertify.logits import logits_of
from xcertify.targets import target_classes
from xcertify.testing.examples import SHAPES, copy_of, small_model, some_inputs
from xcertify.testing.surroundings import surroundings


class Case:
    """What explainers are tried on. All that they do, they do in `call`."""

    def __init__(
        self,
        build: Callable[[keras.Model], Any],
        model: keras.Model | None,
        inputs: Any,
        targets: Any,
        kind: str,
        tolerance: float,
        watches: bool,
    ) -> None:
        if kind not in SHAPES:
            raise ValueError(f"kind must be one of {', '.join(SHAPES)}. Received: {kind!r}")
        if model is None:
            model = small_model(SHAPES[kind])
        try:
            copy_of(model)
        except Exception as error:
            raise ValueError(
                f"model must be a built Sequential or functional Keras model, to be copied. "
                f"Received: {model!r}"
            ) from error
        if inputs is None:
            inputs = some_inputs(input_shape_of(model))
        self.build, self.model, self.tolerance, self.watches = build, model, tolerance, watches
        self.rule = ""
        self.changes: dict[str, Any] = {}  # for the rule "settings"
        self.inputs, targets = as_arrays(inputs, targets, input_shape_of(model))
        if len(self.inputs) < 2:
            raise ValueError(f"inputs must be two or more. Received: {len(self.inputs)}")
        logits = np.asarray(logits_of(model)(self.inputs))
        self.predicted = target_classes(logits, None)
        self.nb_classes = max(2, logits.shape[1])
        if targets is None:
            targets = np.arange(len(self.inputs)) % self.nb_classes
        self.labels = target_classes(logits, targets)
        self.one_hot = np.eye(self.nb_classes, dtype=np.float32)[self.labels]

    def keeps(self, name: str, rule: Callable[[Case], bool | None]) -> bool:
        """Whether there was something to check; AssertionError for a rule that is broken."""
        self.rule = name
        try:
            return rule(self) is not False
        except AssertionError:
            raise
        except Exception as error:
            received = f"{type(error).__name__}: {error}"
            raise AssertionError(f"{name}: a result must be given. Received: {received}") from error

    def fail(self, message: str, rule: str | None = None) -> NoReturn:
        """The error of the rule that is checked, or of a given one."""
        raise AssertionError(f"{self.rule if rule is None else rule}: {message}")

    def call(self, function: Callable, *arguments: Any, **named: Any) -> Any:
        """Call the explainer, and watch that nothing else changes."""
        if not self.watches:
            return function(*arguments, **named)
        arrays = [a for a in (*arguments, *named.values()) if isinstance(a, np.ndarray)]
        before = surroundings(self.model, arrays)
        try:
            return function(*arguments, **named)
        finally:
            after = surroundings(self.model, arrays)
            for name, expected in before.items():
                if after[name] != expected:
                    values = f"{expected!r}. Received: {after[name]!r}"
                    values = f" {values}" if len(values) < 200 else " as before"
                    used = getattr(function, "__name__", "the explainer")
                    self.fail(f"{used} must leave {name}{values}", "globals")

    def make(self, model: keras.Model) -> Any:
        """An explainer of a model."""
        return self.call(self.build, model)

    def methods(self, explainer: Any) -> list[Callable]:
        """`explain`, and `certify` where there is one."""
        return [explainer.explain, *([explainer.certify] if hasattr(explainer, "certify") else [])]

    @cached_property
    def explainer(self) -> Any:
        """The one that most rules share."""
        return self.make(self.model)

    @cached_property
    def maps(self) -> np.ndarray:
        """What all other calls are compared with."""
        return np.array(self.explain(self.inputs, self.labels))

    def explain(self, inputs: Any, targets: Any = None) -> Any:
        """What the shared explainer gives."""
        return self.call(self.explainer.explain, inputs, targets)

    def differs(self, found: Any, expected: np.ndarray) -> float:
        """Largest difference, where it is more than rounding, else 0."""
        difference = float(np.abs(np.asarray(found) - expected).max())
        return difference if not difference <= self.tolerance * np.abs(expected).max() else 0.0

    def agree(self, what: str, found: Any, expected: np.ndarray | None = None) -> None:
        """Refuse other maps than are expected; None: than `maps`."""
        expected = self.maps if expected is None else expected
        if np.shape(found) != expected.shape:
            self.fail(f"{what} must give the shape {expected.shape}. Received: {np.shape(found)}")
        difference = self.differs(found, expected)
        if difference:
            self.fail(
                f"{what} must give the same maps, within {self.tolerance:g} of their largest "
                f"magnitude, {np.abs(expected).max():.4g}. Received: a difference of "
                f"{difference:.4g}"
            )

    def agree_in(
        self, what: str, found: dict[str, np.ndarray], expected: dict[str, np.ndarray]
    ) -> None:
        """Refuse other arrays of a certificate than are expected."""
        if found.keys() != expected.keys():
            self.fail(f"{what} must certify {[*expected]}. Received: {[*found]}")
        for name, array in expected.items():
            close = found[name].shape == array.shape and np.allclose(
                found[name],
                array,
                rtol=self.tolerance,
                atol=self.tolerance * _largest(array),
                equal_nan=True,
            )
            if not close:
                self.fail(
                    f"{what} must certify the same {name!r}, {np.ravel(array)[:5]}.... "
                    f"Received: {np.ravel(found[name])[:5]}..."
                )

    def refuses(self, argument: str, wrong: dict[str, tuple[Any, Any]]) -> None:
        """Refuse an explainer that takes wrong arguments, or that no longer works after them."""
        before = self.maps
        for what, arguments in wrong.items():
            for method in self.methods(self.explainer):
                expected = f"{method.__name__} must raise a ValueError about {argument} for {what}"
                try:
                    self.call(method, *arguments)
                except AssertionError:
                    raise
                except ValueError as error:
                    if argument not in str(error):
                        self.fail(f"{expected}. Received: a ValueError that says {str(error)!r}")
                except Exception as error:
                    self.fail(f"{expected}. Received: {type(error).__name__}: {error}")
                else:
                    self.fail(f"{expected}. Received: a result")
        self.agree("after an error, the explainer", self.explain(self.inputs, self.labels), before)

    def findings(self, explainer: Any) -> list[dict[str, np.ndarray]]:
        """The maps of an explainer and, where there is one, the arrays of its certificate."""
        with contextlib.redirect_stderr(io.StringIO()):  # progress, where it is asked for
            found = [
                self.call(method, self.inputs, self.labels) for method in self.methods(explainer)
            ]
        return [{"maps": np.array(found[0])}, *map(arrays_of, found[1:])]

    def same_findings(self, what: str, found: list, expected: list) -> None:
        """Refuse other findings than are expected."""
        self.agree(what, found[0]["maps"], expected[0]["maps"])
        for some, others in zip(found[1:], expected[1:]):
            self.agree_in(what, some, others)

    @cached_property
    def weights_of_another(self) -> list[np.ndarray]:
        """Other weights of the same signs, so that variances stay positive."""
        generator = np.random.default_rng(0)
        weights = self.model.get_weights()
        return [(w * generator.uniform(0.2, 1.8, w.shape)).astype(w.dtype) for w in weights]


def arrays_of(certificate: Any) -> dict[str, np.ndarray]:
    """The fields of a certificate that are arrays of numbers, by name, but for times."""
    fields = {f.name: getattr(certificate, f.name) for f in dataclasses.fields(certificate)}
    return {
        name: value
        for name, value in fields.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and name != "seconds"
    }


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0))
