"""Settings of a class as options of the command line: from its signature and its docstring."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from operator import or_
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import docstring_parser
import numpy as np
from jsonargparse.typing import register_type

# Given by the commands, or not at all.
NOT_SAID = (
    *("model", "inputs", "targets", "verbose", "perturbation", "text", "shape"),
    "explainer",  # of an explainer of noisy maps: its name is said, `of`
)
SETTINGS = dict[str, Any]  # type of an option that takes settings of something else


class Number(float):
    """A float of the command line, which may be inf, and written as a whole number or 1e-3."""


def _number(value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"Got value: {value}") from None


register_type(Number, float, _number, type_check=lambda value, _: type(value) is float)


@dataclass(frozen=True)
class Setting:
    """One argument of a constructor.

    Parameters
    ----------
    name
        As in Python.
    type
        As jsonargparse checks it.
    default
        `inspect.Parameter.empty`: there is none.
    help
        What the docstring says of it.
    takes_arrays
        Whether arrays are taken, which the command line gives as files.
    """

    name: str
    type: Any
    default: Any
    help: str
    takes_arrays: bool

    @property
    def option(self) -> str:
        """As the command line has it."""
        return option_of(self.name)

    @property
    def is_required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty


def option_of(name: str) -> str:
    """``grid_size`` -> ``--grid-size``."""
    return f"--{name.replace('_', '-')}"


@cache
def settings_of(subject: type | Callable) -> dict[str, Setting]:
    """What a class or a function takes beside `NOT_SAID`, by name, in its order.

    Arguments that a constructor hands on (``**settings``) are those of its ancestors.
    """
    found: dict[str, Setting] = {}
    for function in _functions(subject):
        parameters = inspect.signature(function).parameters.values()
        hints = _hints(function)
        for parameter in parameters:
            name = parameter.name
            if name == "self" or name in found or name in NOT_SAID or parameter.kind in _STARRED:
                continue
            annotation = hints.get(name, Any)
            found[name] = Setting(
                name,
                typed(annotation),
                parameter.default,
                _described(subject, name),
                _takes_arrays(annotation),
            )
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _functions(subject: type | Callable) -> list[Callable]:
    """A function, or what makes a class of a model by name, and constructors of its ancestors."""
    if not isinstance(subject, type):
        return [subject]
    own = (vars(ancestor).get("__init__") for ancestor in subject.__mro__)
    by_name = getattr(subject, "of_model", None)
    return [made for made in (by_name, *own) if made is not None]


_STARRED = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def _hints(function: Any) -> dict[str, Any]:
    """Annotations of the arguments; none where one of them is for type checkers only."""
    annotations = dict(getattr(function, "__annotations__", {}))
    annotations.pop("return", None)
    names = getattr(function, "__globals__", {})
    try:
        return get_type_hints(SimpleNamespace(__annotations__=annotations), names)
    except NameError:
        return {}


def typed(annotation: Any) -> Any:
    """An annotation as words can say it: without functions and objects; anything can be a word.

    Words are the last alternative, since every number is one, too.
    """
    return Any if (kept := _sayable(annotation)) is None else kept


def _sayable(annotation: Any) -> Any:
    """The same; None for what no word can say."""
    if annotation is float:
        return Number
    if annotation in (bool, int, str, NoneType, Any):
        return annotation
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        kept = [part for part in map(_sayable, parts) if part is not None]
        if set(kept) - {SETTINGS, NoneType}:  # words are enough
            kept = [part for part in kept if part != SETTINGS]
        kept.sort(key=lambda part: part is str)
        return reduce(or_, kept) if kept else None
    if origin is tuple:
        return tuple[tuple(map(typed, parts))]  # type: ignore[misc]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return SETTINGS
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return list[typed(parts[0])]  # type: ignore[misc]
    return None


def _takes_arrays(annotation: Any) -> bool:
    return annotation in (Any, np.ndarray) or (
        get_origin(annotation) in (Union, UnionType)
        and any(map(_takes_arrays, get_args(annotation)))
    )


def meaning(kind: Any) -> str:
    """A type of `typed` in words."""
    plain = {bool: "true or false", int: "a whole number", Number: "a number", str: "a word"}
    plain |= {NoneType: "none", Any: "any value", SETTINGS: "settings, {name: value}"}
    if kind in plain:
        return plain[kind]
    parts = [meaning(part) for part in get_args(kind)]
    if get_origin(kind) is tuple:
        return f"{len(parts)} values"
    if get_origin(kind) is list:
        return "several values"
    return f"{', '.join(parts[:-1])} or {parts[-1]}"


def placeholder(kind: Any) -> str:
    """What stands for a value of a type in the help."""
    plain = {int: "INT", Number: "NUMBER", str: "WORD", NoneType: "none", Any: "VALUE"}
    plain[SETTINGS] = "{NAME: VALUE}"
    if kind in plain:
        return plain[kind]
    parts = [placeholder(part) for part in get_args(kind)]
    return {tuple: " ", list: " "}.get(get_origin(kind), "|").join(parts)


def _described(subject: type | Callable, name: str) -> str:
    """What the docstring of a class, or else that of its ancestors, says of an argument."""
    classes = subject.__mro__ if isinstance(subject, type) else ()
    for documented in (*classes, *_functions(subject)):
        text = _docstrings(documented).get(name)
        if text:
            return text
    return ""


@cache
def _docstrings(subject: type | Callable) -> dict[str, str]:
    """What its own docstring says of each argument, also of those that are described together."""
    parsed = docstring_parser.parse(inspect.cleandoc(_own_docstring(subject)))
    return {
        name.strip(): " ".join((parameter.description or "").split())
        for parameter in parsed.params
        for name in parameter.arg_name.split(",")
    }


def _own_docstring(subject: type | Callable) -> str:
    own = vars(subject).get("__doc__") if isinstance(subject, type) else subject.__doc__
    return own or ""


def chosen(settings: Iterable[Setting], said: dict[str, Any]) -> dict[str, Any]:
    """Values of settings, those that are names of ``.npy`` or ``.npz`` files as nested lists.

    Raises
    ------
    ValueError, OSError
        For a file that holds no array.
    """
    from xcertify.runs.sources.arrays import load_array

    values = {}
    for setting in settings:
        value = said[setting.name]
        if setting.takes_arrays and isinstance(value, str) and ".np" in value:
            value = load_array(value).tolist()
        values[setting.name] = value
    return values
