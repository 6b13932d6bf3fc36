"""Certificates taken apart into plain arrays and one JSON header, and put together again.

What a file holds, whatever its format: `Stored`. Nothing in it is code, and `restored` believes
nothing of it: each array is checked against the form that its kind has, the regions are made anew,
and what the parts say of each other must agree.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.certificates.forms import Rows, check_words
from xcertify.certificates.origins import Origin, as_json, canonical, dumps, numbers_of
from xcertify.certificates.stored_regions import check_settings, region_of, region_parts

__all__ = [
    "KINDS",
    "SCHEMA",
    "Stored",
    "digests",
    "header_from",
    "header_text",
    "restored",
    "stored",
]

SCHEMA = 1
LARGEST_HEADER = 16 * 2**20  # bytes
_DEEPEST = 40
KINDS: dict[str, Any] = {}  # classes of certificates by name; each notes itself

_HEADER = {
    **{"schema": int, "kind": str, "versions": dict, "model": (dict, type(None))},
    **{"explainer": (str, type(None)), "settings": (dict, type(None)), "region": dict},
    **{"method": str, "arithmetic": str, "fields": dict},
}
_VOLATILE = ("versions",)


@dataclass(frozen=True, eq=False)
class Stored:
    """A certificate as plain data.

    Attributes
    ----------
    header
        What is the same for all inputs: numbers, words, lists and dictionaries.
    rows
        By name, arrays (N, ...), or lists of N arrays of different lengths.
    shared
        By name, arrays that all inputs have in common.
    """

    header: dict[str, Any]
    rows: Rows
    shared: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.rows.values()), ()))


def stored(certificate: Any) -> Stored:
    """A certificate as plain data; see `restored`.

    Parameters
    ----------
    certificate
        Of any kind.

    Raises
    ------
    ValueError
        For regions that are neither a `Ball` nor a `Box`, but a part of one.
    """
    rows, shared, words = certificate._parts()
    region_rows, region = region_parts(certificate.region)
    origin: Origin | None = certificate.origin
    header = {
        "schema": SCHEMA,
        "kind": type(certificate).__name__,
        "versions": {} if origin is None else origin.versions,
        "model": origin and {"architecture": origin.architecture, "weights": origin.weights},
        "explainer": origin and origin.explainer,
        "settings": origin and origin.settings,
        "region": region,
        "method": certificate.method,
        "arithmetic": certificate.arithmetic,
        "fields": as_json(words),
    }
    return Stored(header, region_rows | rows, shared)


def restored(found: Stored) -> Any:
    """The certificate that `stored` took apart.

    Parameters
    ----------
    found
        What a file holds, or `stored` gave.

    Raises
    ------
    ValueError
        In one sentence, if anything in it is missing, unknown, of another type or shape, NaN where
        none may be, or contradicts another part.
    """
    header = found.header
    _check_header(header)
    kind = KINDS.get(header["kind"])
    if kind is None:
        raise ValueError(
            f"kind (header) must be one of {', '.join(sorted(KINDS))}. Received: {header['kind']!r}"
        )
    region = region_of(found.rows, header["region"])
    origin = _origin_of(header)
    if origin is not None:
        told = {n: v for n, v in origin.settings.items() if n not in kind._other_settings}
        check_settings("settings (header)", told, region, is_radius=kind._is_radius)
    rows = {n: v for n, v in found.rows.items() if not n.startswith("region.")}
    certificate = kind._of_parts(
        rows,
        found.shared,
        header["fields"],
        region=region,
        method=header["method"],
        arithmetic=header["arithmetic"],
        origin=origin,
    )
    certificate.check()
    own = getattr(certificate, "settings", {})
    check_settings("settings (fields)", own, region, is_radius=kind._is_radius)
    if origin is not None:
        _check_again(certificate, own, origin)
    return certificate


def header_text(header: dict[str, Any]) -> str:
    """The header as JSON.

    Parameters
    ----------
    header
        Of a `Stored`.

    Raises
    ------
    ValueError
        If it is longer than files may have it.
    """
    text = dumps(header)
    _refuse_long(len(text.encode()))
    return text


def header_from(text: bytes | str) -> dict[str, Any]:
    """The header that `header_text` wrote; its length is looked at before anything else.

    Parameters
    ----------
    text
        JSON, in UTF-8 where it is bytes.

    Raises
    ------
    ValueError
        If it is too long, or no JSON object.
    """
    _refuse_long(len(text))
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header must be JSON. Received: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"the header must be a JSON object. Received: {type(header).__name__}")
    _refuse_deep(header)
    for name in ("settings", "region"):
        if name in header:
            header[name] = numbers_of(header[name])
    fields = header.get("fields")
    if isinstance(fields, dict) and "settings" in fields:
        fields["settings"] = numbers_of(fields["settings"])
    return header


def digests(
    found: Stored,
    numbers: Sequence[int] | np.ndarray,
    names: Sequence[str | None] | None = None,
) -> list[str]:
    """SHA-256 of each row: of its values, number and name, and of all that rows have in common.

    Not of the versions, nor of seconds, in which the same run on another day differs. A digest
    shows that a row was changed, moved to another input or put below another header by accident;
    who changes a row on purpose can compute it anew.

    Parameters
    ----------
    found
        Of N inputs.
    numbers
        (N,): the numbers of the inputs in their data set.
    names
        (N,): the names of their files; None where they have none.
    """
    if len(numbers) != len(found):
        raise ValueError(
            f"numbers must be one for each of the {len(found)} inputs. Received: {len(numbers)}"
        )
    common = {name: value for name, value in found.header.items() if name not in _VOLATILE}
    start = hashlib.sha256(canonical(common))
    for name in sorted(found.shared):
        _add(start, name, found.shared[name])
    columns = sorted(name for name in found.rows if name.split(".")[-1] != "seconds")
    digest_of = []
    for row, number in enumerate(numbers):
        digest = start.copy()
        digest.update(f"input {int(number)}".encode())
        if names is not None and names[row] is not None:
            digest.update(f" named {names[row]}".encode(errors="surrogatepass"))
        for name in columns:
            _add(digest, name, found.rows[name][row])
        digest_of.append(digest.hexdigest())
    return digest_of


def _add(digest: Any, name: str, values: Any) -> None:
    """An array, with its name, type and shape; words whatever the longest one is."""
    array = np.asarray(values)
    kind = array.dtype.newbyteorder("<")
    content = np.ascontiguousarray(array.astype(kind, copy=False)).tobytes()
    if array.dtype.kind == "U":
        kind, content = np.dtype("U"), dumps(array.tolist()).encode()
    digest.update(f"{name} {kind.str} {array.shape} ".encode())
    digest.update(content)


# --- the header ---------------------------------------------------------------------------------


def _refuse_long(length: int) -> None:
    if length > LARGEST_HEADER:
        raise ValueError(
            f"the header must not have more than {LARGEST_HEADER} bytes. Received: {length}"
        )


def _refuse_deep(value: Any) -> None:
    """Lists in lists in lists are no settings, and more than Python can follow."""
    inner = [value]
    for _ in range(_DEEPEST):
        parts = [part.values() if isinstance(part, dict) else part for part in inner]
        inner = [one for part in parts for one in part if isinstance(one, (dict, list))]
    if inner:
        raise ValueError(
            f"the header must not have lists and dictionaries in each other more than {_DEEPEST} "
            f"times. Received: more"
        )


def _check_header(header: Any) -> None:
    if isinstance(header, dict) and header.get("schema") != SCHEMA:
        raise ValueError(
            f"schema (header) must be {SCHEMA}, the one that this version of xcertify knows; a "
            f"newer xcertify may read the file. Received: {header.get('schema')!r}"
        )
    check_words("the header", header, _HEADER)
    region = header["region"]
    kinds = {"kind": str, "norm": (int, float), "clip": (list, type(None))}
    check_words("region of the header", region, kinds)
    told = [name for name in ("model", "explainer", "settings") if header[name] is None]
    if told and len(told) < 3:
        raise ValueError(
            f"model, explainer and settings (header) must all be given, or none of them. "
            f"Received: no {', no '.join(told)}"
        )


def _origin_of(header: dict[str, Any]) -> Origin | None:
    model, versions = header["model"], header["versions"]
    if model is None:
        return None
    check_words("model of the header", model, {"architecture": str, "weights": str})
    for name, value in model.items():
        if len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise ValueError(f"{name} (header) must be a SHA-256 in hex. Received: {value[:80]!r}")
    if not all(isinstance(value, str) for value in versions.values()):
        raise ValueError(f"versions (header) must be words. Received: {versions!r}")
    return Origin(
        header["explainer"], header["settings"], model["architecture"], model["weights"], versions
    )


def _check_again(certificate: Any, settings: dict[str, Any], origin: Origin) -> None:
    """Refuse what a certificate says twice, in two ways."""
    own = {n: v for n, v in as_json(settings).items() if n in origin.settings}
    differing = [name for name, value in own.items() if origin.settings[name] != value]
    if getattr(certificate, "fingerprint", origin.weights) != origin.weights:
        differing.append("fingerprint")
    if differing:
        raise ValueError(
            f"fields (header) must say the same as settings and model. "
            f"Received: another {', another '.join(differing)}"
        )
