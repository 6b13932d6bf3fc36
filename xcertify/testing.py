"""A check that an explainer keeps the rules that all explainers of the package keep.

For explainers of one's own: in a test, ``check_explainer(MyExplainer)``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import json
import os
import random
import re
import sys
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, NoReturn

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from keras import layers
from tensorflow.python.eager import context

from xcertify.inputs import as_arrays, input_shape_of
from xcertify.keras_graph import global_seed_generator, nb_calls, numbers_in_names
from xcertify.logits import head_of, logits_of
from xcertify.settings import setting_names
from xcertify.targets import target_classes

_SHAPES = {"images": (6, 5, 2), "time series": (6, 3), "tabular": (7,)}
_NB_INPUTS = 3  # as many as classes, so that one cannot be taken for the other unnoticed

# What has names that users meet: not symbolic tensors and operations, which Keras counts as well.
_NAMED = {"functional", "sequential", "model", *(name.lower() for name in dir(layers))}


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
    case = _Case(build, model, inputs, targets, kind, tolerance, "globals" not in leave_out)
    case.changes = dict(changes or {})
    rules = {name: rule for name, rule in RULES.items() if name not in leave_out}
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # new explainers trace anew, of which TensorFlow warns
    try:
        return tuple(name for name, rule in rules.items() if case.keeps(name, rule))
    finally:
        logger.setLevel(level)


class _Case:
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
        if kind not in _SHAPES:
            raise ValueError(f"kind must be one of {', '.join(_SHAPES)}. Received: {kind!r}")
        if model is None:
            model = _small_model(_SHAPES[kind])
        try:
            _copy(model)
        except Exception as error:
            raise ValueError(
                f"model must be a built Sequential or functional Keras model, to be copied. "
                f"Received: {model!r}"
            ) from error
        if inputs is None:
            inputs = _some_inputs(input_shape_of(model))
        self.build, self.model, self.tolerance, self.watches = build, model, tolerance, watches
        self.rule, self.changes = "", {}
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

    def keeps(self, name: str, rule: Callable[[_Case], bool | None]) -> bool:
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
        raise AssertionError(f"{rule or self.rule}: {message}")

    def call(self, function: Callable, *arguments: Any, **named: Any) -> Any:
        """Call the explainer, and watch that nothing else changes."""
        if not self.watches:
            return function(*arguments, **named)
        arrays = [a for a in (*arguments, *named.values()) if isinstance(a, np.ndarray)]
        before = _surroundings(self.model, arrays)
        try:
            return function(*arguments, **named)
        finally:
            after = _surroundings(self.model, arrays)
            for name, expected in before.items():
                if after[name] != expected:
                    values = f"{expected!r}. Received: {after[name]!r}"
                    values = f" {values}" if len(values) < 200 else " as before"
                    used = getattr(function, "__name__", "the explainer")
                    self.fail(f"{used} must leave {name}{values}", "globals")

    def make(self, model: keras.Model) -> Any:
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
        return self.call(self.explainer.explain, inputs, targets)

    def differs(self, found: Any, expected: np.ndarray) -> float:
        """Largest difference, where it is more than rounding, else 0."""
        difference = float(np.abs(np.asarray(found) - expected).max())
        return difference if not difference <= self.tolerance * np.abs(expected).max() else 0.0

    def agree(self, what: str, found: Any, expected: np.ndarray | None = None) -> None:
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

    def refuses(self, argument: str, wrong: dict[str, tuple[Any, Any]]) -> None:
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
        return [{"maps": np.array(found[0])}, *map(_arrays_of, found[1:])]

    def same_findings(self, what: str, found: list, expected: list) -> None:
        self.agree(what, found[0]["maps"], expected[0]["maps"])
        for some, others in zip(found[1:], expected[1:]):
            _same_arrays(self, what, some, others)

    @cached_property
    def weights_of_another(self) -> list[np.ndarray]:
        """Other weights of the same signs, so that variances stay positive."""
        generator = np.random.default_rng(0)
        weights = self.model.get_weights()
        return [(w * generator.uniform(0.2, 1.8, w.shape)).astype(w.dtype) for w in weights]


# --- the rules ------------------------------------------------------------------------------------


def _globals(case: _Case) -> None:
    for method in case.methods(case.explainer):
        case.call(method, case.inputs, case.labels)  # as all other calls, which are watched, too


def _result(case: _Case) -> None:
    maps = case.explain(case.inputs, case.labels)
    shape = case.inputs.shape
    shape = (*shape[:-1], 1) if len(shape) == 4 else shape
    if not isinstance(maps, np.ndarray):
        case.fail(f"explain must give a NumPy array. Received: {type(maps).__name__}")
    if maps.shape != shape:
        case.fail(f"explain must give the shape {shape}. Received: {maps.shape}")
    if maps.dtype != np.float32:
        case.fail(f"explain must give float32. Received: {maps.dtype}")
    if not np.isfinite(maps).all():
        case.fail(f"explain must give finite values. Received: {maps[~np.isfinite(maps)][:3]}")
    if np.shares_memory(maps, case.inputs):
        case.fail("explain must give an array of its own. Received: memory of the inputs")


def _call(case: _Case) -> None:
    pair = case.inputs, case.labels
    case.agree("explainer(inputs, targets)", case.call(case.explainer, *pair))
    by_name = case.call(case.explainer.explain, targets=pair[1], inputs=pair[0])
    case.agree("explain(inputs=..., targets=...)", by_name)


def _inputs(case: _Case) -> None:
    for what, arguments in _forms_of_inputs(case):
        case.agree(what, case.explain(*arguments))


def _forms_of_inputs(case: _Case) -> Iterator[tuple[str, tuple[Any, Any]]]:
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


def _targets(case: _Case) -> None:
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


def _wrong_inputs(case: _Case) -> None:
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


def _wrong_targets(case: _Case) -> None:
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


def _batches(case: _Case) -> None:
    pairs = zip(np.split(case.inputs, len(case.inputs)), case.labels[:, None])
    alone = [case.explain(*pair) for pair in pairs]
    case.agree("inputs one at a time", np.concatenate(alone))
    usual = getattr(case.explainer, "batch_size", None)
    if usual is not None:
        case.explainer.batch_size = 2
        maps = case.explain(case.inputs, case.labels)
        case.explainer.batch_size = usual
        case.agree(f"batch_size=2 instead of {usual}", maps)


def _repeats(case: _Case) -> None:
    first = case.explain(case.inputs, case.labels)
    before = np.array(first)
    case.explain(case.inputs[::-1], case.labels[::-1])
    if not np.array_equal(first, before):
        case.fail("a result must stay what it is. Received: one that the next call changed")
    case.agree("a later call", case.explain(case.inputs, case.labels))
    again = case.make(case.model)
    case.agree("a new explainer", case.call(again.explain, case.inputs, case.labels))


def _model(case: _Case) -> None:
    pair = case.inputs, case.labels
    other = _copy(case.model, case.weights_of_another)
    explainer = case.make(other)
    expected = np.array(case.call(explainer.explain, *pair))
    if not case.differs(expected, case.maps):
        case.fail("a model with other weights must have other maps. Received: the same")
    explainer.model = replaced = _copy(case.model)
    case.agree("after explainer.model = other, explain", case.call(explainer.explain, *pair))
    if explainer.model is not replaced:
        case.fail(f"explainer.model must be the one that was set. Received: {explainer.model}")
    replaced.set_weights(case.weights_of_another)
    changed = case.call(explainer.explain, *pair)
    case.agree("a model whose weights were changed", changed, expected)


def _settings(case: _Case) -> bool:
    names = [name for name in setting_names(type(case.explainer)) if name != "model"]
    unknown = sorted(set(case.changes) - set(names))
    if unknown:
        case.fail(f"changes must be of {', '.join(names)}. Received: {', '.join(unknown)}")
    explainer = case.make(_copy(case.model))
    missing = [name for name in names if not hasattr(explainer, name)]
    if missing:
        case.fail(f"every argument must be an attribute. Received: none for {', '.join(missing)}")
    before = case.findings(explainer)
    for name in names:
        value = getattr(explainer, name)
        other, expected = _another_value(case, explainer, name)
        setattr(explainer, name, other)
        what = f"after {name} = {other!r}, instead of {value!r},"
        case.same_findings(what, case.findings(explainer), expected)
        _refuses_as_the_constructor(case, explainer, name)
        setattr(explainer, name, value)
        case.same_findings(f"{what} and back,", case.findings(explainer), before)
    return bool(names)


def _another_value(case: _Case, explainer: Any, name: str) -> tuple[Any, list]:
    """A value of a setting that a new explainer takes, and what that explainer finds."""
    refusal = None
    for other in _other_values(case, explainer, name):
        try:
            return other, case.findings(_with(explainer, name, other))
        except (TypeError, ValueError) as error:  # of the kind that is refused at the first use
            refusal = error
    return case.fail(
        f"another value of {name} must be known: give one in `changes`. Received: "
        f"{getattr(explainer, name)!r}, and of the last one that was tried: {refusal}"
    )


def _other_values(case: _Case, explainer: Any, name: str) -> Iterator[Any]:
    """Values to be tried in place of that of a setting."""
    value = getattr(explainer, name)
    if name in case.changes:
        yield case.changes[name]
        return
    if isinstance(value, (bool, np.bool_)):
        yield not value
    elif isinstance(value, (int, float)) and np.isfinite(value):
        whole = isinstance(value, int)
        yield from (value + 1, value - 1) if whole else (value * 0.7, value + 0.3, value - 0.3)
    elif isinstance(value, (int, float)):
        yield 2
    elif isinstance(value, np.ndarray):
        yield value * 0.7
    elif isinstance(value, tuple) and all(isinstance(part, (int, float)) for part in value):
        yield (*value[:-1], value[-1] + 0.5)  # of a range: wider, so that the inputs fit in
    elif isinstance(value, str):
        yield from (word for word in _words_of_refusal(case, explainer, name) if word != value)
    elif value is None:
        yield from (2, 0.5, (-1.0, 2.0))
    yield from (layer.name for layer in case.model.layers[:-1])


def _words_of_refusal(case: _Case, explainer: Any, name: str) -> list[str]:
    """What an error message offers in place of a word that means nothing."""
    try:
        case.findings(_with(explainer, name, "?"))
    except (TypeError, ValueError) as error:
        return re.findall(r"[\w:-]+", str(error))
    return []


def _with(explainer: Any, name: str, value: Any) -> Any:
    """A new explainer like another one, but for one setting."""
    settings = {own: getattr(explainer, own) for own in setting_names(type(explainer))}
    return type(explainer)(**(settings | {name: value}))


def _refuses_as_the_constructor(case: _Case, explainer: Any, name: str) -> None:
    before = repr(getattr(explainer, name))
    for wrong in ("?", -1, np.nan, object()):
        try:
            _with(explainer, name, wrong)
        except (TypeError, ValueError):
            with contextlib.suppress(TypeError, ValueError):
                setattr(explainer, name, wrong)
            if repr(getattr(explainer, name)) != before:
                case.fail(
                    f"{name} = {wrong!r} must be refused, as by the constructor. Received: an "
                    f"explainer with it"
                )


def _logits(case: _Case) -> bool:
    if head_of(case.model) is not None:
        return False
    model = _copy(case.model)
    head = "softmax" if model.output_shape[-1] > 1 else "sigmoid"
    model = keras.Model(model.inputs[0], layers.Activation(head)(model.outputs[0]))
    explainer = case.make(model)
    maps = case.call(explainer.explain, case.inputs, case.labels)
    case.agree(f"a model with a {head} at its end", maps)
    return True


def _quiet(case: _Case) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        for method in case.methods(case.explainer):
            case.call(method, case.inputs, case.labels)
    if printed.getvalue():
        case.fail(f"nothing must be printed. Received: {printed.getvalue()[:200]!r}")


def _memory(case: _Case) -> None:
    first, second = _copy(case.model), _copy(case.model)
    explainer = case.make(first)
    methods = case.methods(explainer)
    results = [case.call(method, case.inputs, case.labels) for method in methods]
    del methods
    earlier, later = weakref.ref(first), weakref.ref(second)
    explainer.model = second
    del first, second
    expected = "a model must be released when it is replaced. Received: one that"
    if not _is_released(earlier):
        results.clear()
        if _is_released(earlier):
            case.fail(f"{expected} a result keeps alive")
        del explainer
        if _is_released(earlier):
            case.fail(f"{expected} the explainer keeps alive")
        case.fail(f"{expected} outlives its explainer, as in a cache of a class or a module")
    del explainer
    if not _is_released(later):
        case.fail(
            "a model must be released with its explainer. Received: one that outlives it, as in a "
            "cache of a class or a module"
        )


def _certificate(case: _Case) -> bool:
    if len(case.methods(case.explainer)) == 1:
        return False
    certify = case.explainer.certify
    certificate = case.call(certify, case.inputs, case.labels)
    _check_certificate(case, certificate)
    whole = _arrays_of(certificate)
    pairs = tf.data.Dataset.from_tensor_slices((case.inputs, case.labels)).batch(2)
    for what, arguments in {
        "a second call": (case.inputs, case.labels),
        "tensors and one-hot rows": (tf.constant(case.inputs), tf.constant(case.one_hot)),
        "a data set": (pairs, None),
    }.items():
        _same_arrays(case, what, _arrays_of(case.call(certify, *arguments)), whole)
    expected = _arrays_of(case.call(certify, case.inputs, case.predicted))
    _same_arrays(case, "targets=None", _arrays_of(case.call(certify, case.inputs)), expected)
    single = _arrays_of(case.call(certify, case.inputs[:1], case.labels[:1]))
    of_inputs = [name for name, array in whole.items() if len(array) == len(case.inputs)]
    if not of_inputs:
        case.fail(f"a certificate must have arrays with N first. Received: {certificate!r}")
    for name, array in whole.items():
        shape = (1, *array.shape[1:])
        if single[name].shape != shape and not np.array_equal(single[name], array):
            case.fail(
                f"the array {name!r} of a certificate must have N first, {shape} for one input, or "
                f"be the same for all inputs. Received: {single[name].shape} for one, "
                f"{array.shape} for {len(case.inputs)}"
            )
    return True


RULES: dict[str, Callable[[_Case], bool | None]] = {
    "globals": _globals,  # first, so that the first call is watched even if nothing else is asked
    "result": _result,
    "call": _call,
    "inputs": _inputs,
    "targets": _targets,
    "wrong inputs": _wrong_inputs,
    "wrong targets": _wrong_targets,
    "batches": _batches,
    "repeats": _repeats,
    "model": _model,
    "settings": _settings,
    "logits": _logits,
    "quiet": _quiet,
    "memory": _memory,
    "certificate": _certificate,
}
"""The rules by name, in the order in which they are checked; see `check_explainer`."""


def _check_certificate(case: _Case, certificate: Any) -> None:
    kind = type(certificate).__name__
    if not dataclasses.is_dataclass(certificate):
        case.fail(f"a certificate must be a frozen dataclass. Received: {kind}")
    name = dataclasses.fields(certificate)[0].name
    try:
        setattr(certificate, name, getattr(certificate, name))
    except AttributeError:
        pass
    else:
        case.fail(
            f"a certificate must be a frozen dataclass. Received: {kind}, whose {name!r} can be set"
        )
    text = repr(certificate)
    if " at 0x" in text or "array(" in text:
        case.fail(f"a certificate must have a repr that sums it up. Received: {text[:200]}")
    try:
        json.dumps(certificate.to_dict())
    except (AttributeError, TypeError) as error:
        case.fail(f"a certificate must have to_dict(), ready for JSON. Received: {error}")


def _arrays_of(certificate: Any) -> dict[str, np.ndarray]:
    fields = {f.name: getattr(certificate, f.name) for f in dataclasses.fields(certificate)}
    return {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}


def _same_arrays(
    case: _Case, what: str, found: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> None:
    if found.keys() != expected.keys():
        case.fail(f"{what} must certify {[*expected]}. Received: {[*found]}")
    for name, array in expected.items():
        close = found[name].shape == array.shape and np.allclose(
            found[name],
            array,
            rtol=case.tolerance,
            atol=case.tolerance * _largest(array),
            equal_nan=True,
        )
        if not close:
            case.fail(
                f"{what} must certify the same {name!r}, {np.ravel(array)[:5]}.... "
                f"Received: {np.ravel(found[name])[:5]}..."
            )


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0))


# --- models and what is around them ---------------------------------------------------------------


def _small_model(shape: tuple[int, ...]) -> keras.Model:
    # Zeros at first, since random initializers would draw from the global generator.
    settings = {"kernel_initializer": "zeros"}
    if len(shape) == 3:
        body = [
            layers.Conv2D(4, 2, activation="relu", name="convolution", **settings),
            layers.GlobalAveragePooling2D(name="pooling"),
        ]
    else:
        body = [layers.Flatten(name="flatten"), layers.Dense(6, "relu", name="dense", **settings)]
    head = layers.Dense(_NB_INPUTS, name="logits", **settings)
    model = keras.Sequential([keras.Input(shape, name="inputs"), *body, head], name="small_model")
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


def _some_inputs(shape: tuple[int | None, ...] | None) -> np.ndarray:
    if shape is None or None in shape:
        raise ValueError(
            f"inputs must be given for a model without a fixed input shape. Received: {shape}"
        )
    return np.random.default_rng(1).random((_NB_INPUTS, *shape), np.float32)


def _copy(model: keras.Model, weights: list[np.ndarray] | None = None) -> keras.Model:
    state = random.getstate()  # layers take seeds from it, if only to have their weights replaced
    copy = keras.models.clone_model(model)
    random.setstate(state)
    copy.set_weights(model.get_weights() if weights is None else weights)
    return copy


def _is_released(model: weakref.ref) -> bool:
    for _ in range(2):  # what a finalizer lets go of is found in the second
        gc.collect()
        if model() is None:
            return True
    return False


def _surroundings(model: keras.Model, arrays: list[np.ndarray]) -> dict[str, Any]:
    """Everything that an explainer has to leave as it is, by name."""
    legacy = np.random.get_state()  # noqa: NPY002
    seeds, names = global_seed_generator(), numbers_in_names()
    pyplot = sys.modules.get("matplotlib.pyplot")
    eager = context.context()
    return {
        "Python's random state": random.getstate(),
        "NumPy's random state": (legacy[1].tobytes(), *legacy[2:]),
        "TensorFlow's global seed": context.global_seed(),
        "TensorFlow's random state": getattr(eager, "_rng", random).getstate(),
        "TensorFlow's global generator": tf.random.get_global_generator().state.numpy().tobytes(),
        "Keras's random state": None if seeds is None else np.asarray(seeds.state).tobytes(),
        "the numbers in the names that Keras gives": {
            name: number for name, number in names.items() if name.replace("_", "") in _NAMED
        },
        "eager execution": (tf.executing_eagerly(), tf.config.functions_run_eagerly()),
        "TensorFloat-32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "Keras's floatx": keras.config.floatx(),
        "Keras's epsilon": keras.config.epsilon(),
        "Keras's dtype policy": keras.config.dtype_policy().name,
        "Keras's image data format": keras.config.image_data_format(),
        "NumPy's error handling": np.geterr(),
        "NumPy's print options": np.get_printoptions(),
        "the filters of warnings": list(warnings.filters),
        "environment variables": dict(os.environ),
        "matplotlib's rcParams": {**matplotlib.rcParams.copy(), "backend": None},  # found when used
        "pyplot's figures": [] if pyplot is None else pyplot.get_fignums(),
        "the model's configuration": json.dumps(model.get_config(), default=str),
        "the model's weights": [weight.tobytes() for weight in model.get_weights()],
        "the calls that the model's layers know of": [*map(nb_calls, model.layers)],
        "inputs and targets": [array.tobytes() for array in arrays],
    }
