"""What the parts of a certificate must be: one table for each kind, one check for all.

A certificate has *rows*, arrays with one entry for each of N inputs; *shared* arrays, which are the
same for all of them; and *words*: numbers, names and settings that JSON holds. `Certificate` says
in `_rows`, `_shared` and `_words` which ones; everything about files follows from that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.answers import Answers
from xcertify.bounds import Decision
from xcertify.radii import Interval

Rows = dict[str, Any]  # of arrays (N, ...), or lists of N arrays

FLOATS, INTEGERS, BOOLEANS, WORDS = "f", "iu", "b", "U"


@dataclass(frozen=True)
class Form:
    """What an array must be.

    Attributes
    ----------
    kinds
        Letters of NumPy's types of numbers.
    shape
        Behind the axis of inputs: "input" is the shape of an input, "features" that shape without
        the channels of an image, "..." any; a number is itself, and any other word a size that is
        the same wherever the word stands.
    values
        "finite", "infinite" where that may be, too, or "any", also NaN.
    optional
        Whether it may be missing (None).
    ragged
        Whether each input has an array of its own length, with `shape` behind it.
    """

    kinds: str
    shape: tuple[str | int, ...] = ()
    values: str = "finite"
    optional: bool = False
    ragged: bool = False


# Parts that are objects with arrays of their own: class, prefix of the names, rows, shared, words.
Nested = tuple[type, str, dict[str, Form], dict[str, Form], dict[str, Any]]
NESTED: dict[str, Nested] = {
    "interval": (
        Interval,
        "",
        {
            "certified": Form(FLOATS, values="infinite"),
            "attacked": Form(FLOATS, values="infinite", optional=True),
        },
        {},
        {},
    ),
    "decision": (
        Decision,
        "decision.",
        {
            "status": Form(WORDS),
            "counterexamples": Form(FLOATS, ("input",), "any"),
            "lower": Form(FLOATS, values="infinite"),
            "upper": Form(FLOATS, values="infinite"),
            "nb_branches": Form(INTEGERS),
            "seconds": Form(FLOATS),
            "reason": Form(WORDS),
        },
        {},
        {},
    ),
    "answers": (
        Answers,
        "answers.",
        {
            "classes": Form(INTEGERS),
            "towards": Form(INTEGERS, optional=True),
            "delta": Form(FLOATS, optional=True),
            "values": Form(FLOATS, optional=True),
        },
        {"class_groups": Form(INTEGERS, ("classes",), optional=True)},
        {"nb_outputs": int},
    ),
}


def check_arrays(
    what: str, arrays: Mapping[str, Any], forms: Mapping[str, Form], sizes: dict[str, Any]
) -> None:
    """Refuse arrays that are not what their forms say, missing ones and unknown ones.

    Parameters
    ----------
    what
        Begins the messages, "rows of the certificate".
    arrays, forms
        By name.
    sizes
        What words of shapes stand for, as tuples; those that are met for the first time are added.
        "inputs" is the first axis, () for shared arrays.

    Raises
    ------
    ValueError
        Naming the array.
    """
    unknown = [name for name in arrays if name not in forms]
    missing = [name for name, form in forms.items() if not form.optional and name not in arrays]
    if unknown or missing:
        found = [f"{', '.join(unknown)}, which it has not"] * bool(unknown)
        found += [f"no {', no '.join(missing)}"] * bool(missing)
        raise ValueError(f"{what} must be those of its kind. Received: {' and '.join(found)}")
    for name, values in arrays.items():
        form = forms[name]
        if form.ragged:
            _check_ragged(f"{name} ({what})", values, form, sizes)
        else:
            _check_array(f"{name} ({what})", values, form, sizes["inputs"], sizes)


def _check_ragged(name: str, values: Any, form: Form, sizes: dict[str, Any]) -> None:
    if not isinstance(values, list) or (len(values),) != sizes["inputs"]:
        raise ValueError(f"{name} must be one array for each of the {sizes['inputs']} inputs")
    for one in values:
        _check_array(name, one, form, np.shape(one)[:1], sizes)


def _check_array(
    name: str, array: Any, form: Form, first: tuple[int, ...], sizes: dict[str, Any]
) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in form.kinds:
        kinds = {"f": "real numbers", "iu": "integers", "b": "booleans", "U": "words"}
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name} must be {kinds[form.kinds]}. Received: {found}")
    shape = array.shape[len(first) :]
    wanted = _expanded(form.shape, shape, sizes)
    if array.shape[: len(first)] != first or shape != wanted:
        raise ValueError(f"{name} must have the shape {(*first, *wanted)}. Received: {array.shape}")
    if form.kinds != FLOATS or form.values == "any":
        return
    wrong = np.isnan(array) if form.values == "infinite" else ~np.isfinite(array)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        allowed = "NaN" if form.values == "infinite" else "NaN or infinite"
        raise ValueError(f"{name} must not be {allowed}. Received: {array[place]} at {place}")


def _expanded(
    words: Sequence[str | int], shape: tuple[int, ...], sizes: dict[str, Any]
) -> tuple[int, ...]:
    """The shape that words stand for; a size that is not known yet is that of `shape`."""
    wanted: list[int] = []
    for word in words:
        if word == "...":
            return shape
        if isinstance(word, str) and word not in sizes and len(wanted) < len(shape):
            sizes[word] = (shape[len(wanted)],)
        wanted += (word,) if isinstance(word, int) else sizes.get(word, (0,))
    return tuple(wanted)


def check_words(what: str, found: Any, kinds: Mapping[str, Any]) -> None:
    """Refuse words that are not of their types, missing ones and unknown ones.

    Raises
    ------
    ValueError
        Naming the word.
    """
    if not isinstance(found, dict) or set(found) != set(kinds):
        received = sorted(found) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{what} must have {', '.join(kinds)} and no more. Received: {received}")
    for name, kind in kinds.items():
        value = found[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            names = getattr(kind, "__name__", str(kind))
            raise ValueError(
                f"{name} ({what}) must be of type {names}. Received: {type(value).__name__}"
            )


def as_rows(values: Any, form: Form) -> Any:
    """An attribute as files have it: an array, or a list of them."""
    if form.ragged:
        return [np.asarray(one) for one in values]
    array = np.asarray(values)
    return array.astype(str) if array.dtype.kind == "O" else array


def refuse_inputs(wrong: np.ndarray, problem: str) -> None:
    """A ValueError that names the first input with anything wrong, (N, ...) bool."""
    samples = wrong.reshape(len(wrong), math.prod(wrong.shape[1:])).any(axis=1)
    if samples.any():
        raise ValueError(
            f"the certificate contradicts itself: {problem}, for input {int(np.argmax(samples))}. "
            f"It was changed since it was made"
        )
