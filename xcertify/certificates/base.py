"""What every certificate says beside its numbers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from xcertify.answers import Answers
from xcertify.bounds import Decision
from xcertify.certificates import archives
from xcertify.certificates.archives import LARGEST_FILE
from xcertify.certificates.forms import (
    NESTED,
    Form,
    Rows,
    as_rows,
    check_arrays,
    check_words,
    refuse_inputs,
)
from xcertify.certificates.origins import Origin, as_json, dumps
from xcertify.certificates.stored import KINDS, Stored, restored, stored
from xcertify.radii import Interval
from xcertify.regions import Region, as_column, describe_span
from xcertify.usefulness import VACUOUS, times_wider

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, repr=False)
class Certificate:
    """What every certificate says beside its numbers.

    Attributes
    ----------
    region
        The N regions that it is about, around the inputs: of a radius, the balls of the certified
        radii. ``str(region)`` says it in words.
    method
        How the bounds were computed, a name of `Verifier`.
    arithmetic
        "real": proved for the network in real arithmetic; "float32": for its evaluation in float32
        as well; "decomon": as decomon computes it; "none": nothing is proved; "sampled": what is
        said holds with the stated confidence, from samples. Behind it in brackets, where the model
        computes in half precision: that this is not covered.
    interval
        The headline: of one number of each input, named below, what is proved and what an attack
        found.
    origin
        The explainer with its settings, the model's fingerprints and the versions that it was made
        by; None where no explainer made it, for a function in the place of a Keras model, and in
        files of earlier versions.
    """

    region: Region
    method: str
    arithmetic: str
    interval: Interval
    origin: Origin | None = field(default=None, kw_only=True)

    _is_radius: ClassVar[bool] = False  # the headline, else a largest value
    # Settings of its explainer with the name of a part of regions that mean something else.
    _other_settings: ClassVar[frozenset[str]] = frozenset()
    # What files hold of it beside the fields above: see `xcertify.certificates.forms`.
    _rows: ClassVar[dict[str, Form]] = {}
    _shared: ClassVar[dict[str, Form]] = {}
    _words: ClassVar[dict[str, Any]] = {}
    _earlier: ClassVar[frozenset[str]] = frozenset()  # arrays of its files before `Stored`

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        KINDS[cls.__name__] = cls

    @property
    def certified(self) -> np.ndarray:
        """(N,): ``interval.certified``."""
        return self.interval.certified

    @property
    def attacked(self) -> np.ndarray | None:
        """(N,): ``interval.attacked``; None without an attack."""
        return self.interval.attacked

    @property
    def looseness(self) -> np.ndarray:
        """(N,) float64: how many times wider what is proved is than what was attained.

        Of a largest value it is the proved change from the value at the input, divided by the
        largest change that samples and an attack attained. Of a radius it is the attacked one
        divided by the proved one. 1: the proof is exact. inf: nothing is proved, or no change at
        all was attained. NaN: nothing was looked for or found that could be compared with.
        """
        return times_wider(*self._changes)

    @property
    def vacuous(self) -> np.ndarray:
        """(N,) bool: where what is proved says nothing, more than 100 times as wide as attained.

        Not where it decides something all the same, such as that a prediction stays. Of a radius:
        where it is 0.
        """
        return self.certified == 0 if self._is_radius else self.looseness > VACUOUS

    def describe_vacuous(self) -> str:
        """Of which inputs nothing useful is proved, in words; "" where that is not worth a word.

        Radii of 0 are, where no input has a larger one.
        """
        nothing = self.vacuous
        if not nothing.any() or (self._is_radius and not nothing.all()):
            return ""
        how = "no radius is proved"
        if not self._is_radius:
            times = float(np.median(self.looseness[nothing]))
            how = f"it is {times:.2g} times (median) as wide as what was attained"
            if np.isinf(times):
                how = "it is wide, and nothing changed in what was looked at"
        return (
            f"what the certificate proves says nothing for {int(nothing.sum())} of "
            f"{len(nothing)} inputs: {how}, by method={self.method!r}"
        )

    def describe_level(self) -> str:
        """How surely it holds, in words, where it is from samples; "" where it is proved."""
        return ""

    @property
    def _changes(self) -> tuple[np.ndarray, ...]:
        """The arguments of `times_wider`: what is proved, what is attained, and roundings."""
        attacked = np.full(len(self.certified), np.nan) if self.attacked is None else self.attacked
        if not self._is_radius:
            return self.certified, attacked
        return np.where(np.isinf(attacked), np.nan, attacked), self.certified

    def to_dict(self) -> dict[str, Any]:
        """All fields and `looseness`, arrays as nested lists, ready for JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: plain(value) for name, value in fields.items()} | {
            "looseness": self.looseness.tolist()
        }

    def __len__(self) -> int:
        return len(self.interval)

    def __getitem__(self, index: slice | np.ndarray) -> Self:
        """What is said of some inputs, by a slice or an array of indices."""
        region = self.region[index]  # which refuses a single number
        rows, shared, words = self._parts()
        places = np.arange(len(self))[index]
        some = {
            name: [values[n] for n in places] if isinstance(values, list) else values[index]
            for name, values in rows.items()
        }
        return self._with_parts(some, shared, words, region)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """One certificate of several of one kind, which are about other inputs.

        Parameters
        ----------
        parts
            Made alike: of one model, by one explainer with the same settings.

        Raises
        ------
        ValueError
            For no parts, and parts that differ in what is the same for all inputs.
        """
        if not parts:
            raise ValueError("parts must be at least one certificate. Received: none")
        first, taken = parts[0], [part._parts() for part in parts]
        for number, (part, (rows, shared, words)) in enumerate(zip(parts, taken)):
            same = {
                "kind": type(part) is type(first),
                "method": part.method == first.method,
                "arithmetic": part.arithmetic == first.arithmetic,
                "origin": part.origin == first.origin,
                "rows": set(rows) == set(taken[0][0]),
                "shared arrays": _same(shared, taken[0][1]),
                "settings": _same(words, taken[0][2]),
            }
            differing = [name for name, is_same in same.items() if not is_same]
            if differing:
                raise ValueError(
                    f"parts must be made alike, by one explainer of one model. Received: part "
                    f"{number} with another {', another '.join(differing)} than part 0"
                )
        rows = {name: _joined([own[name] for own, _, _ in taken]) for name in taken[0][0]}
        region = Region.concatenate([part.region for part in parts])
        return first._with_parts(rows, *taken[0][1:], region)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one .npz file, which `load` reads without executing anything.

        Raises
        ------
        ValueError
            For regions that are neither a `Ball` nor a `Box`, but a part of one.
        """
        archives.write(path, stored(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, largest_bytes: int = LARGEST_FILE) -> Self:
        """Read what `save` wrote, in this version or an earlier one.

        Parameters
        ----------
        path
            Of the file. `Certificate.load` reads any kind, a class of certificates its own.
        largest_bytes
            That the file may have unpacked; it says how many before anything is read.

        Raises
        ------
        ValueError
            If the file is no certificate, or was changed so that its parts contradict each other.
        """
        found = archives.read(path, largest_bytes)
        certificate = restored(found) if isinstance(found, Stored) else _earlier(found)
        if not isinstance(certificate, cls):
            raise ValueError(
                f"the file must be a {cls.__name__}. Received: {os.fspath(path)!r}, "
                f"a {type(certificate).__name__}; Certificate.load reads all kinds"
            )
        return certificate

    @classmethod
    def _of_earlier(cls, arrays: dict[str, np.ndarray]) -> Self:
        """The certificate of a file of an earlier version, which has the arrays of `_earlier`."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuse fields that contradict each other, before anything is proved of them.

        Raises
        ------
        ValueError
            Naming what is wrong, and the first input of which it is.
        """
        if self._is_radius:
            refuse_inputs(~(self.certified >= 0), "certified is below 0")
            self._check_radii()
        targets = getattr(self, "targets", np.zeros(0))
        if targets.dtype.kind in "iu":
            refuse_inputs(targets < 0, "targets are below 0")

    def _check_radii(self) -> None:
        """Refuse regions that are not the balls of the certified radii."""
        epsilon = self.region.epsilon
        if epsilon is None:
            raise ValueError("the regions of the certificate must be balls. Received: boxes")
        differ = epsilon != as_column(self.certified, self.region.center)
        refuse_inputs(differ, "the regions are not the balls of the certified radii")

    def _parts(self) -> tuple[Rows, dict[str, np.ndarray], dict[str, Any]]:
        """Rows, shared arrays and words by name, all but what every certificate has."""
        found: tuple[dict[str, Any], ...] = ({}, {}, {})
        for owner, prefix, (rows, shared, words) in self._owners():
            for forms, into in zip((rows, shared, words), found):
                for name, form in forms.items():
                    value = getattr(owner, name)
                    if value is not None or forms is words:
                        as_array = into is not found[2]
                        into[prefix + name] = as_rows(value, form) if as_array else value
        rows, shared, words = found
        return rows, shared, words

    def _owners(self) -> list[tuple[Any, str, tuple[dict[str, Any], ...]]]:
        """Itself, and its parts that have arrays of their own: the prefix of names, and forms."""
        found: list[Any] = [(self, "", (self._rows, self._shared, self._words))]
        for name, (_, prefix, *forms) in NESTED.items():
            if getattr(self, name, None) is not None:
                found.append((getattr(self, name), prefix, tuple(forms)))
        return found

    def _with_parts(
        self, rows: Rows, shared: dict[str, Any], words: dict[str, Any], region: Region
    ) -> Self:
        """The same with other rows and regions."""
        return type(self)(
            region=region,
            method=self.method,
            arithmetic=self.arithmetic,
            origin=self.origin,
            **self._fields(rows, shared, words),
        )

    @classmethod
    def _of_parts(
        cls, rows: Rows, shared: dict[str, Any], words: dict[str, Any], **common: Any
    ) -> Self:
        """Made of what a file says, with `common` for what every certificate has.

        Raises
        ------
        ValueError
            If something is missing, unknown, or not of its form.
        """
        forms: tuple[dict[str, Any], ...] = (dict(cls._rows), dict(cls._shared), dict(cls._words))
        for name in cls._nested(rows):
            _, prefix, *own = NESTED[name]
            for into, some in zip(forms, own):
                into.update({prefix + n: form for n, form in some.items()})
        center = common["region"].center
        shape = center.shape[1:]
        sizes = {"inputs": center.shape[:1], "input": shape}
        sizes["features"] = shape[:-1] if len(shape) == 3 else shape
        check_arrays("rows of the certificate", rows, forms[0], sizes)
        check_arrays("shared arrays of the certificate", shared, forms[1], sizes | {"inputs": ()})
        lists = {n: v for n, v in words.items() if isinstance(v, list)}  # as JSON has tuples
        words = words | {n: tuple(v) for n, v in lists.items() if forms[2].get(n) is tuple}
        check_words("fields of the header", words, forms[2])
        return cls(**common, **cls._fields(rows, shared, words))

    @classmethod
    def _nested(cls, rows: Rows) -> list[str]:
        """Names of the fields that have arrays of their own; without one that may be missing."""
        optional = {f.name for f in dataclasses.fields(cls) if f.default is None}
        own = [f.name for f in dataclasses.fields(cls) if f.name in NESTED]
        return [
            name
            for name in own
            if name not in optional or any(row.startswith(NESTED[name][1]) for row in rows)
        ]

    @classmethod
    def _fields(cls, rows: Rows, shared: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the constructor, of checked parts."""
        parts = rows | shared | words
        found = {name: parts.get(name) for name in (*cls._rows, *cls._shared, *cls._words)}
        for name in cls._nested(rows):
            kind, prefix, *own = NESTED[name]
            names = [n for forms in own for n in forms]
            found[name] = kind(**{n: parts.get(prefix + n) for n in names})
        return found

    @property
    def _wider(self) -> str:
        """`looseness` for `repr`, "; 2.1 times what is attained (median)"."""
        known = self.looseness[~np.isnan(self.looseness)]
        if not len(known):
            return ""
        if np.isinf(np.median(known)):
            unproved = not np.isfinite(np.median(self._changes[0]))
            return "; nothing proved" if unproved else "; no change attained"
        return f"; {np.median(known):.3g} times what is attained (median)"

    @property
    def _how(self) -> str:
        """Method and arithmetic, for `repr`."""
        name, *note = self.arithmetic.split(" ", 1)
        return " ".join([f"{self.method}, {name} arithmetic", *note])


def plain(value: Any) -> Any:
    """A field of a certificate as JSON has it."""
    if isinstance(value, (Region, Interval, Decision, Answers)):
        return value.to_dict()
    if isinstance(value, Origin):
        return dataclasses.asdict(value)
    return value.tolist() if isinstance(value, np.ndarray) else value


def _joined(values: list[Any]) -> Any:
    """Rows of several certificates as one."""
    return [*chain(*values)] if isinstance(values[0], list) else np.concatenate(values)


def _same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two dictionaries of arrays, numbers and words are equal; NaN is equal to itself."""
    return dumps(as_json(first)) == dumps(as_json(second))


def _earlier(arrays: dict[str, np.ndarray]) -> Certificate:
    """The certificate of a file of an earlier version, which has no header."""
    for kind in KINDS.values():
        if kind._earlier and kind._earlier <= set(arrays):
            certificate: Certificate = kind._of_earlier(arrays)
            certificate.check()
            return certificate
    raise ValueError(
        f"the file must be a certificate. Received: no header, and the arrays "
        f"{', '.join(arrays)[:200] or 'of none'}"
    )


def load(path: str | os.PathLike[str], *, largest_bytes: int = LARGEST_FILE) -> Certificate:
    """A certificate of any kind from a file.

    Parameters
    ----------
    path, largest_bytes
        As for `Certificate.load`.
    """
    return Certificate.load(path, largest_bytes=largest_bytes)


def describe_weights(gamma: Any, bias_radius: float | None) -> str:
    """How far weights may move, in words that follow those of a region; "" if they may not.

    Parameters
    ----------
    gamma, bias_radius
        As for `Verifier.bound_gradient`.
    """
    if not (np.any(gamma) or bias_radius):
        return ""
    biases = "" if bias_radius is None else f", biases within {bias_radius:g}"
    return f", weights within {describe_span(gamma)} of their size{biases}"
