"""The rule that settings may be assigned at any time."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from xcertify.settings import setting_names
from xcertify.testing.case import Case
from xcertify.testing.examples import copy_of


def check_settings(case: Case) -> bool:
    """An assigned setting gives what a new explainer with it gives; False without settings."""
    names = [name for name in _names(case.explainer) if name != "model"]
    unknown = sorted(set(case.changes) - set(names))
    if unknown:
        case.fail(f"changes must be of {', '.join(names)}. Received: {', '.join(unknown)}")
    explainer = case.make(copy_of(case.model))
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


def _names(explainer: Any) -> tuple[str, ...]:
    kind: Any = type(explainer)
    return setting_names(kind)


def _another_value(case: Case, explainer: Any, name: str) -> tuple[Any, list]:
    """A value of a setting that a new explainer takes, and what that explainer finds."""
    refusal = None
    for other in _other_values(case, explainer, name):
        try:
            return other, case.findings(_with(explainer, name, other))
        except (TypeError, ValueError) as error:  # of the kind that is refused at the first use
            refusal = refusal or error
    return case.fail(
        f"another value of {name} must be known: give one in `changes`. Received: "
        f"{getattr(explainer, name)!r}, and of the first one that was tried: {refusal}"
    )


def _other_values(case: Case, explainer: Any, name: str) -> Iterator[Any]:
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
        yield from _words_of_refusal(case, explainer, name)
    yield from (layer.name for layer in case.model.layers[:-1])


def _words_of_refusal(case: Case, explainer: Any, name: str) -> list[str]:
    """What an error message offers in place of a word that means nothing."""
    try:
        case.findings(_with(explainer, name, "?"))
    except (TypeError, ValueError) as error:
        return re.findall(r"[\w:-]+", str(error))
    return []


def _with(explainer: Any, name: str, value: Any) -> Any:
    """A new explainer like another one, but for one setting."""
    settings = {own: getattr(explainer, own) for own in _names(explainer)}
    return type(explainer)(**(settings | {name: value}))


def _refuses_as_the_constructor(case: Case, explainer: Any, name: str) -> None:
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
