"""Settings: objects whose constructor arguments are attributes that may change at any time.

What such an object derives from its settings, or from a model (compiled functions, verifiers,
attacks), is kept by `Settings._derive` alone, and dropped as soon as a setting is assigned or the
model is no longer the one it was derived from.
"""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import numpy as np

from xcertify.fingerprints import fingerprint
from xcertify.perturbation import OF_REGIONS, PARTS, RADII, Perturbation
from xcertify.sharing import shared

_LEFT_BEHIND = ("_derived", "_earlier", "_fingerprint")


class _Constructed(ABCMeta):
    """Constructs, from a `perturbation` in the place of epsilon, norm and clip as well.

    Refuses arguments that other classes have with what to do instead, which `_instead` says, and
    notes when a constructor has come to its end; until then an assignment is only that.
    """

    _instead: dict[str, str]

    def __call__(cls, *args: Any, perturbation: Perturbation | None = None, **kwargs: Any) -> Any:
        if perturbation is not None:
            kwargs |= _in_place_of(perturbation, cls, args, kwargs)
        for name in kwargs:
            if name in cls._instead and name not in setting_names(cls):
                raise TypeError(
                    f"{cls.__name__} has no argument {name}: {cls._instead[name]}. "
                    f"Received: {name}={kwargs[name]!r}"
                )
        instance = super().__call__(*args, **kwargs)
        object.__setattr__(instance, "_constructed", True)
        return instance

    @property
    def __signature__(cls) -> inspect.Signature:
        """That of the constructor, for `help` and editors, which would show this `__call__`."""
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        parameters = [*signature.parameters.values()][1:]
        if OF_REGIONS & set(signature.parameters):
            keyword = inspect.Parameter.KEYWORD_ONLY
            annotation = "Perturbation | None"
            last = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
            first = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
            added = inspect.Parameter("perturbation", keyword, default=None, annotation=annotation)
            parameters = [*first, added, *last]
        return signature.replace(parameters=parameters)


class Settings(metaclass=_Constructed):
    """Base of everything that has settings and derives something from them.

    A subclass keeps the arguments of its constructor as attributes of the same names and does no
    heavy work there. To assign such an attribute afterwards is to construct the object anew with
    the other value: it is checked in the same way, and nothing derived from the old one is left but
    objects, such as a `Verifier` with all that it has compiled, that would be made anew with the
    very same settings.

    Examples
    --------
    >>> explainer = EVA(model, epsilon=0.1)
    >>> explainer.epsilon = 0.2   # as EVA(model, epsilon=0.2)
    """

    _instead: ClassVar[dict[str, str]] = {}  # of arguments that only some classes have

    def __setattr__(self, name: str, value: Any) -> None:
        own = vars(self)
        if name.startswith("_") or "_constructed" not in own:
            object.__setattr__(self, name, value)
            return
        names = setting_names(type(self))
        if name in names and all(other in own for other in names):
            self._construct_with({name: value})
        elif name == "perturbation" and OF_REGIONS & set(names):
            self._construct_with(value.as_arguments(names, type(self).__name__))
        else:  # an attribute beside the constructor's
            object.__setattr__(self, name, value)
            own.pop("_derived", None)

    def _construct_with(self, changes: dict[str, Any]) -> None:
        """Become the object that the constructor makes of these settings and the present others."""
        own = vars(self)
        settings = {name: own[name] for name in setting_names(type(self))}
        fresh = type(self)(**(settings | changes))
        _, derived = own.get("_derived") or (None, {})
        earlier = own.get("_earlier", {}) | derived
        object.__setattr__(fresh, "_earlier", _about(vars(fresh).get("model"), earlier))
        object.__setattr__(self, "__dict__", vars(fresh))

    @property
    def perturbation(self) -> Perturbation:
        """The settings `norm` and `clip`, and the radius if there is one, as a `Perturbation`.

        Raises
        ------
        AttributeError
            Of an object without these settings.
        """
        own = vars(self)
        if not OF_REGIONS & set(own):
            raise AttributeError(f"{type(self).__name__} has no perturbation among its settings")
        stated = {name: own[name] for name in ("norm", "clip", "outside") if name in own}
        radius = next((name for name in RADII if name in own), None)
        return Perturbation(**stated) if radius is None else Perturbation(own[radius], **stated)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: what is derived stays behind."""
        return {k: v for k, v in vars(self).items() if k not in _LEFT_BEHIND}

    def _derive(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, kept under `key` until a setting or the model changes.

        Two threads may both make it; one of the results is kept, for both.
        """
        derived = self._current()
        if key not in derived:
            made = make()
            earlier = vars(self).get("_earlier", {}).get(key)
            if earlier is not None and _same_settings(made, earlier):
                made = earlier
            return derived.setdefault(key, made)
        return derived[key]

    def _derive_shared(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives of the model and the key alone, for all objects that ask for it.

        See `xcertify.sharing.shared`. Two classes that use one key mean the same by it.
        """

        def of_model() -> Any:
            state, _ = vars(self)["_derived"]
            return shared(vars(self).get("model"), key, state, make)

        return self._derive(key, of_model)

    def _current(self) -> dict[Any, Any]:
        """What has been derived and still holds."""
        found = self._watched()
        kept = vars(self).get("_derived")
        if kept is None or kept[0] != found:
            kept = (found, {})
            object.__setattr__(self, "_derived", kept)
        return kept[1]

    def _watched(self) -> Any:
        """What all that is derived depends on, beside the settings."""
        found = fingerprint(vars(self).get("model"), vars(self).get("_fingerprint"))
        object.__setattr__(self, "_fingerprint", found)
        return found


def _in_place_of(
    perturbation: Any, cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments of a constructor from a perturbation, those that it stands for not being given."""
    if not isinstance(perturbation, Perturbation):
        raise ValueError(
            f"perturbation must be a Perturbation(epsilon, norm, clip). Received: {perturbation!r}"
        )
    found = perturbation.as_arguments(setting_names(cls), cls.__name__)
    constructor = cls.__init__  # type: ignore[misc]
    given = inspect.signature(constructor).bind_partial(None, *args, **kwargs).arguments
    given |= given.get("settings", {}) if isinstance(given.get("settings"), dict) else {}
    twice = [name for name in PARTS if name in given]
    if twice:
        raise ValueError(
            f"perturbation takes the place of {', '.join(twice)}: give one or the other. "
            f"Received: {perturbation!r} and {', '.join(f'{n}={given[n]!r}' for n in twice)}"
        )
    return found


def _about(model: Any, derived: dict[Any, Any]) -> dict[Any, Any]:
    """Objects with settings that are about a model; those of another one are let go."""
    return {
        key: made
        for key, made in derived.items()
        if isinstance(made, Settings) and model is not None and vars(made).get("model") is model
    }


def _same_settings(first: Any, second: Any) -> bool:
    """Whether two objects are of one class and were constructed alike."""
    if type(first) is not type(second) or not isinstance(first, Settings):
        return False
    names, own, other = setting_names(type(first)), vars(first), vars(second)
    return all(name in own and name in other for name in names) and all(
        _same(own[name], other[name]) for name in names
    )


def _same(first: Any, second: Any) -> bool:
    if first is second:
        return True
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    plain = (bool, int, float, str)
    return type(first) is type(second) and isinstance(first, plain) and repr(first) == repr(second)


@cache
def setting_names(kind: type) -> tuple[str, ...]:
    """Names of the constructor arguments of a class, those that it hands on (`**`) included."""
    names: dict[str, None] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = [*inspect.signature(vars(base)["__init__"]).parameters.values()][1:]
        names.update(
            dict.fromkeys(
                p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
            )
        )
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return tuple(names)
