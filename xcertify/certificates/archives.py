"""Certificates in one .npz file: arrays, and a header as JSON. Nothing in it is code.

The file is a zip archive of ``header.json``, and one .npy for each array: ``rows.NAME``,
``shared.NAME``, and where inputs have arrays of different lengths all of them, one behind the
other, as ``rows.NAME`` with their lengths as ``lengths.NAME``. What the archive declares is looked
at before anything of it is unpacked: names, the size of the header, types, shapes and sizes.
"""

from __future__ import annotations

import math
import os
import re
import tokenize
import zipfile
from typing import IO, Any

import numpy as np

from xcertify.certificates.stored import (
    LARGEST_HEADER,
    Stored,
    header_from,
    header_text,
)

LARGEST_FILE = 2 * 2**30  # bytes that a file may have unpacked

_HEADER = "header.json"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\.npy")
_NO_HEADER = (KeyError, TypeError, RecursionError, MemoryError, tokenize.TokenError)
_MOST_MEMBERS = 200
_LARGEST_ARRAY_HEADER = 4096


def write(path: str | os.PathLike[str], found: Stored) -> None:
    """Write a certificate to a file, whatever its name ends in.

    Raises
    ------
    ValueError
        If the header is longer than files may have it.
    """
    text = header_text(found.header)
    arrays = {f"shared.{name}": array for name, array in found.shared.items()}
    for name, values in found.rows.items():
        arrays[f"rows.{name}"] = values
        if isinstance(values, list):
            arrays[f"rows.{name}"] = np.concatenate(values)
            arrays[f"lengths.{name}"] = np.array([len(own) for own in values], np.int64)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_HEADER, text)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def read(path: str | os.PathLike[str], largest: int = LARGEST_FILE) -> Stored | dict[str, Any]:
    """What `write` wrote; of a file of earlier versions, which has no header, its arrays by name.

    Parameters
    ----------
    path
        Of the file.
    largest
        Bytes that it may have unpacked.

    Raises
    ------
    ValueError
        If it is no such file: no archive, cut off, changed by accident, with members of other
        names, with Python objects, or larger than allowed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, largest)
            text = members.pop(_HEADER, None)
            header = None if text is None else header_from(_read(archive, text))
            arrays = {name[:-4]: _array(archive, info) for name, info in members.items()}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as error:
        raise ValueError(f"the file must be a whole .npz archive. Received: {error}") from None
    except RuntimeError as error:  # encrypted
        raise ValueError(f"the archive must not be encrypted. Received: {error}") from None
    except zipfile.zlib.error as error:  # type: ignore[attr-defined]
        raise ValueError(f"the archive is damaged. Received: {error}") from None
    return arrays if header is None else _stored(header, arrays)


def _members(archive: zipfile.ZipFile, largest: int) -> dict[str, zipfile.ZipInfo]:
    """The members by name, if all that they declare is allowed."""
    found = archive.infolist()
    if len(found) > _MOST_MEMBERS:
        raise ValueError(
            f"the archive must have at most {_MOST_MEMBERS} members. Received: {len(found)}"
        )
    for info in found:
        if info.filename != _HEADER and not _NAME.fullmatch(info.filename):
            raise ValueError(
                f"members of the archive must be arrays, NAME.npy, and {_HEADER}. "
                f"Received: {info.filename[:80]!r}"
            )
    members = {info.filename: info for info in found}
    if len(members) < len(found):
        raise ValueError("the archive must have each member once. Received: one of them twice")
    if _HEADER in members and members[_HEADER].file_size > LARGEST_HEADER:
        raise ValueError(
            f"{_HEADER} must not have more than {LARGEST_HEADER} bytes. "
            f"Received: {members[_HEADER].file_size}"
        )
    total = sum(info.file_size for info in found)
    if total > largest:
        raise ValueError(
            f"the archive must not have more than {largest} bytes unpacked; give a larger "
            f"largest_bytes if you trust it. Received: {total}"
        )
    return members


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member as a whole; zipfile reads no more than it declares, and compares the check sum."""
    with archive.open(info) as member:
        content = member.read()
    if len(content) != info.file_size:
        raise ValueError(
            f"{info.filename} must have {info.file_size} bytes. Received: {len(content)}"
        )
    return content


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """A member as an array, of which first the header, then the numbers are read."""
    name = info.filename
    with archive.open(info) as member:
        shape, is_fortran, dtype, start = _array_header(member, name)
        size = math.prod(shape) * dtype.itemsize
        if size != info.file_size - start:
            raise ValueError(
                f"{name} must have {size} bytes of numbers for {dtype} of shape {shape}. "
                f"Received: {info.file_size - start}"
            )
        content = member.read()  # to the end, where the check sum is compared
    if len(content) != size:
        raise ValueError(f"{name} must have {size} bytes of numbers. Received: {len(content)}")
    if dtype.kind == "U":
        _refuse_no_characters(content, dtype, name)
    flat = np.frombuffer(content, dtype) if size else np.zeros(math.prod(shape), dtype)
    array = flat.reshape(shape, order="F" if is_fortran else "C")
    return array.astype(dtype.newbyteorder("="))


def _array_header(member: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, order, type and the number of bytes of an array's own header."""
    try:
        major, _ = np.lib.format.read_magic(member)
        readers = {
            1: np.lib.format.read_array_header_1_0,
            2: np.lib.format.read_array_header_2_0,
        }
        shape, is_fortran, dtype = readers[major](member, max_header_size=_LARGEST_ARRAY_HEADER)
    except (*_NO_HEADER, ValueError, SyntaxError) as error:
        raise ValueError(
            f"{name} must be an array as NumPy writes it. Received: {str(error)[:200]}"
        ) from None
    if dtype.hasobject or dtype.kind not in "biufU":
        raise ValueError(
            f"{name} must have numbers, booleans or words, and no Python objects, which may hold "
            f"code. Received: {dtype}"
        )
    if min(shape, default=0) < 0:
        raise ValueError(f"{name} must have a shape of sizes from 0 on. Received: {shape}")
    return shape, is_fortran, dtype, member.tell()


def _refuse_no_characters(content: bytes, dtype: np.dtype, name: str) -> None:
    """NumPy makes words of any number, and fails later."""
    if dtype.itemsize % 4 or not content:
        return
    codes = np.frombuffer(content, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
    if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
        raise ValueError(f"{name} must have words. Received: numbers that are no characters")


def _stored(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Stored:
    """Arrays of an archive by what they are."""
    groups: dict[str, dict[str, Any]] = {"rows": {}, "shared": {}, "lengths": {}}
    for name, array in arrays.items():
        group, _, own = name.partition(".")
        if group not in groups or not own:
            raise ValueError(
                f"arrays of the archive must be named rows.*, shared.* or lengths.*. "
                f"Received: {name!r}"
            )
        groups[group][own] = array
    rows = groups["rows"]
    for name, lengths in groups["lengths"].items():
        if name not in rows:
            raise ValueError(f"lengths.{name} must be of an array rows.{name}. Received: none")
        rows[name] = _cut(name, rows[name], lengths)
    return Stored(header, rows, groups["shared"])


def _cut(name: str, array: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """An array as one for each input."""
    fits = lengths.ndim == 1 and lengths.dtype.kind in "iu" and array.ndim > 0
    fits = fits and not (lengths < 0).any() and sum(lengths.tolist()) == len(array)
    if not fits:
        raise ValueError(
            f"lengths.{name} must be integers (N,) that sum to the length of rows.{name}. "
            f"Received: {lengths.dtype} of shape {lengths.shape} and an array {array.shape}"
        )
    return np.split(array, np.cumsum(lengths)[:-1]) if len(lengths) else []
