"""Certificates of all kinds in files: what is written is what is read, and nothing else is."""

import dataclasses
import io
import json
import pickle
import warnings
import zipfile

import numpy as np
import pytest
from some_certificates import CENTER, KINDS, N, gradient, overlap, reason

from xcertify.certificates import (
    Certificate,
    GradientCertificate,
    OverlapCertificate,
    archives,
    load,
)
from xcertify.certificates.stored import header_from, header_text, restored, stored
from xcertify.regions import Ball, Box


def same(first, second):
    assert type(first) is type(second)
    assert repr(first.to_dict()) == repr(second.to_dict()) and repr(first) == repr(second)
    for ours, theirs in zip(first._parts()[0].values(), second._parts()[0].values()):
        for one, other in zip(ours, theirs):
            assert np.asarray(one).dtype.kind == np.asarray(other).dtype.kind
            np.testing.assert_array_equal(one, other)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "certificate.npz"


def rewritten(path, changes, header=None):
    """The file with other members, and a changed header; None leaves a member out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, array in changes.items():
        members.pop(f"{name}.npy", None)
        if array is not None:
            file = io.BytesIO()
            np.save(file, array)
            members[f"{name}.npy"] = file.getvalue()
    if header is not None:
        found = json.loads(members["header.json"])
        header(found)
        members["header.json"] = json.dumps(found).encode()
    write(path, members)


def write(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, content)


def refused(path, match):
    with pytest.raises(ValueError, match=match) as found:
        load(path)
    assert len(str(found.value)) < 700


# --- what is written is what is read ------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_it_was_written(path, kind):
    certificate = KINDS[kind]()
    certificate.save(path)
    for found in (load(path), Certificate.load(path), type(certificate).load(str(path))):
        same(certificate, found)
        assert found.origin == certificate.origin
    other = GradientCertificate if kind != "gradient" else OverlapCertificate
    with pytest.raises(ValueError, match=f"must be a {other.__name__}. Received: .*all kinds"):
        other.load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_some_inputs_and_several_certificates(kind):
    certificate = KINDS[kind]()
    assert len(certificate) == N
    last = certificate[np.array([False, False, True])]
    assert len(last) == len(last.region) == len(last.interval) == 1
    np.testing.assert_array_equal(last.region.center, CENTER[2:])
    same(certificate[np.array([2, 0])][::-1], certificate[::2])
    same(type(certificate).concatenate([certificate[:1], certificate[1:]]), certificate)
    same(restored(stored(last)), last)
    with pytest.raises(TypeError, match="slice or an array"):
        certificate[1]


def test_what_cannot_be_put_together():
    certificate = gradient()
    other = dataclasses.replace(certificate, method="ibp")
    without = dataclasses.replace(certificate, attained=None)
    for part, words in [(other, "another method"), (without, "another rows"), (overlap(), "kind")]:
        with pytest.raises(ValueError, match=f"Received: part 1 with .*{words}"):
            Certificate.concatenate([certificate, part])
    wide = dataclasses.replace(certificate, region=Ball(CENTER, 0.1, 2, [0, 1]))
    with pytest.raises(ValueError, match="regions must be of one shape, norm"):
        Certificate.concatenate([certificate, wide])
    with pytest.raises(ValueError, match="at least one"):
        Certificate.concatenate([])


def test_parts_that_may_be_missing(path):
    for certificate in (
        dataclasses.replace(overlap(), decision=None, origin=None),
        dataclasses.replace(gradient(), attained=None),
        dataclasses.replace(KINDS["top_k"](), prediction_radius=None),
        dataclasses.replace(KINDS["deviation"](), proved_cosine=None, kinks=()),
    ):
        certificate.save(path)
        same(certificate, load(path))


def test_regions(path):
    certificate = dataclasses.replace(reason(), origin=None)
    side = np.float32(0.1)
    for region in (
        Box(CENTER - side, CENTER + side, CENTER),
        Ball(CENTER, np.full((4, 1, 1), 0.1), 2, (np.zeros((4, 2, 1)), np.inf)),
        Ball(CENTER.astype(np.float64), [0.1, 0.2, 0.3], 1),
    ):
        own = dataclasses.replace(certificate, region=region)
        own.save(path)
        found = load(path)
        same(own, found)
        assert found.region.center.dtype == region.center.dtype
    for part in (region.positive(), region.at_most(2)):
        with pytest.raises(ValueError, match="only the regions of a Ball or a Box can be written"):
            dataclasses.replace(certificate, region=part).save(path)


def test_the_header_is_plain_json(path):
    overlap().save(path)
    with zipfile.ZipFile(path) as archive:
        header = json.loads(archive.read("header.json"), parse_constant=pytest.fail)
    assert header["settings"]["norm"] == header["region"]["norm"] == "inf"
    assert header["model"] == {"architecture": "a" * 64, "weights": "b" * 64}
    with np.load(path, allow_pickle=False) as file:  # NumPy alone reads it, too
        np.testing.assert_array_equal(file["rows.region.center"], CENTER)
        assert json.loads(file["header.json"]) == header


# --- hostile files: the archive -----------------------------------------------------------------


def test_files_that_are_no_archives(path, tmp_path):
    path.write_bytes(b"")
    refused(path, "whole .npz archive")
    path.write_bytes(pickle.dumps(print))
    refused(path, "whole .npz archive")
    np.save(path.with_suffix(".npy"), np.zeros(3))
    refused(path.with_suffix(".npy"), "whole .npz archive")
    np.savez(path, a=np.zeros(3))
    refused(path, "must be a certificate. Received: no header, and the arrays a")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.npz")


def test_files_that_were_cut_off(path):
    gradient().save(path)
    whole = path.read_bytes()
    for length in np.linspace(1, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:length])
        refused(path, "archive|member|header")


def test_bytes_that_were_changed(path):
    """Every changed byte is found, or changes nothing that is read."""
    certificate = overlap()
    certificate.save(path)
    whole = path.read_bytes()
    found = 0
    for place in np.random.default_rng(0).choice(len(whole), 300, replace=False):
        changed = bytearray(whole)
        changed[place] ^= 0x55
        path.write_bytes(changed)
        try:
            same(load(path), certificate)
        except ValueError:
            found += 1
    assert found > 200


class Evil:
    def __reduce__(self):
        return pytest.fail, ("code of the file was executed",)


def test_python_objects_are_not_loaded(path):
    certificate = gradient()
    certificate.save(path)
    rewritten(path, {"rows.attained": np.array([Evil()] * 3)})
    refused(path, "rows.attained.npy must have numbers.*no Python objects")
    certificate.save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    write(path, members | {"rows.attained.npy": pickle.dumps([1.0, 2.0, 3.0])})
    refused(path, "rows.attained.npy must be an array as NumPy writes it")


@pytest.mark.parametrize(
    "name",
    ["../rows.a.npy", "/rows.a.npy", "a/rows.a.npy", "a\\rows.a.npy", "rows.a.pkl", "a:b.npy"],
)
def test_members_of_other_names(path, name):
    gradient().save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    write(path, members | {name: b""})
    refused(path, "members of the archive must be arrays")


def test_members_that_are_there_twice_or_too_often(path):
    gradient().save(path)
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    write(path, [*members, members[-1]])
    refused(path, "each member once")
    write(path, [(f"rows.a{n}.npy", b"") for n in range(300)])
    refused(path, "at most 200 members")
    write(path, dict(members) | {"a.npy": dict(members)["rows.lower.npy"]})
    refused(path, r"must be named rows.\*")


def npy(header, content=b""):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def test_sizes_are_looked_at_before_anything_is_read(path, monkeypatch):
    gradient().save(path)
    size = sum(info.file_size for info in zipfile.ZipFile(path).infolist())
    assert load(path, largest_bytes=size)
    with pytest.raises(ValueError, match=f"more than {size - 1} bytes unpacked.*Received: {size}"):
        load(path, largest_bytes=size - 1)
    huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s,)}"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for shape in (10**15, 10**30):
        write(path, members | {"rows.attained.npy": npy(huge % shape, bytes(24))})
        refused(path, f"rows.attained.npy must have {shape * 8} bytes of numbers")
    write(path, members | {"rows.attained.npy": bytes(2**22)})  # 4 KiB packed
    monkeypatch.setattr(archives, "_array", lambda *_: pytest.fail("was read"))
    with pytest.raises(ValueError, match="unpacked"):
        load(path, largest_bytes=2**20)


def test_sizes_that_are_not_true(path):
    """A member that unpacks to more than the archive declares is read no further than that."""
    write(path, {"header.json": b"{}", "rows.a.npy": bytes(2**20)})
    content = path.read_bytes()
    for size in (2**20).to_bytes(4, "little"), b"":
        if size:
            assert content.count(size) == 2  # both declarations
            content = content.replace(size, (100).to_bytes(4, "little"))
    path.write_bytes(content)
    refused(path, "archive|NumPy writes")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-3,)}"), "sizes from 0 on|bytes"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}", bytes(23)), "24 bytes"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}", bytes(25)), "24 bytes"),
        (npy("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (3,)}", bytes(24)), "numbers"),
        (npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (3,)}"), "numbers"),
        (npy("__import__('os').abort()"), "as NumPy writes it"),
        (npy("(" * 3000), "as NumPy writes it"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}" + " " * 9000), "as NumPy"),
        (npy("{'descr': '<U1', 'fortran_order': False, 'shape': (3,)}", b"\xff" * 12), "charact"),
        (npy("{'descr': '<U1', 'fortran_order': False, 'shape': (1,)}", b"\0\xd8\0\0"), "charact"),
        (b"\x93NUMPY\x09\x00", "as NumPy writes it"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_arrays_that_are_none(path, content, match):
    write(path, {"header.json": b"{}", "rows.a.npy": content})
    refused(path, match)


# --- hostile files: the header ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "must be JSON"),
        (b"\xff\xfe", "must be JSON"),
        (b"[1]", "must be a JSON object"),
        (b"[" * 10**6, "must be JSON"),
        (b'{"settings": ' + b"[" * 300 + b"]" * 300 + b"}", "in each other more than 40 times"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "must be JSON"),
        (b" " * (16 * 2**20 + 1), "not have more than 16777216 bytes"),
    ],
    ids=["empty", "no text", "list", "deep", "rather deep", "long number", "huge"],
)
def test_headers_that_are_none(path, text, match):
    write(path, {"header.json": text})
    refused(path, match)
    with pytest.raises(ValueError, match=match):
        header_from(text)


def test_headers_that_cannot_be_written():
    header = stored(overlap()).header
    with pytest.raises(ValueError, match="more than 16777216 bytes"):
        header_text(header | {"method": "x" * 2**24})


def change(*keys, to):
    """A function that changes one entry of a header; `...` deletes it."""

    def apply(header):
        place = header
        for key in keys[:-1]:
            place = place[key]
        if to is ...:
            del place[keys[-1]]
        else:
            place[keys[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("apply", "match"),
    [
        (change("schema", to=2), "schema .* must be 1.*newer xcertify.*Received: 2"),
        (change("schema", to=True), "must be of type int|schema"),
        (change("schema", to=...), "schema .* Received: None"),
        (change("kind", to="Certificate"), "kind .* must be one of CosineCertificate"),
        (change("kind", to="os.system"), "kind .* must be one of"),
        (change("kind", to=["EVA"]), "kind .* must be of type str"),
        (change("kind", to="MaskCertificate"), "rows of the certificate must be those of its kind"),
        (change("more", to=1), "the header must have schema, .* and no more"),
        (change("method", to=...), "the header must have"),
        (change("method", to=1), "method .* must be of type str"),
        (change("fields", to={"k": 1}), "fields of the header must have  ?and no more|must have"),
        (change("versions", to={"keras": 3}), "versions .* must be words"),
        (change("model", to=None), "must all be given, or none of them. Received: no model"),
        (change("model", "weights", to="ab"), "weights .* must be a SHA-256"),
        (change("model", "weights", to="Z" * 64), "weights .* must be a SHA-256"),
        (change("model", "more", to="ab"), "model of the header must have"),
        (change("region", "kind", to="sphere"), "must be a ball or a box"),
        (change("region", "norm", to=0.5), "norm"),
        (change("region", "norm", to="two"), "norm .* must be of type"),
        (change("region", "norm", to="nan"), "norm"),
        (change("region", "clip", to=[0.6, 1.0]), "valid range"),
        (change("region", "clip", to=[1, 2, 3]), "clip must be a pair"),
        (change("region", "norm", to=2), "must say what the region says, norm=2"),
        (change("region", "clip", to=None), "must say what the region says, clip=None"),
        (change("settings", "norm", to=2), "must say what the region says, norm=inf"),
        (change("settings", "clip", to=[0, 2]), "must say what the region says, clip="),
        (change("settings", "epsilon", to=0.2), "epsilon .* must be what the regions have"),
        (change("settings", "epsilon", to=[0.1] * 7 + [[]]), "epsilon .* must be radii"),
        (change("settings", "epsilon", to=[[[0.2]]] * 4), "epsilon .* must be what the regions"),
        (change("settings", "epsilon", to=[[[0.1]]] * 3), "epsilon .* must be radii"),
        (change("settings", "epsilon", to=[]), "epsilon .* must be what the regions have"),
        (change("settings", "epsilon", to=[0.2] * 10**6), "epsilon .* must be what the regions"),
        (change("settings", "epsilon", to={"in words": "x"}), "epsilon .* must be radii"),
        (change("settings", to=[]), "settings .* must be of type"),
    ],
)
def test_headers_that_were_changed(path, apply, match):
    overlap().save(path)
    rewritten(path, {}, apply)
    refused(path, match)


def test_what_is_said_twice(path):
    certificate = gradient()
    for keys, to, words in [
        (("fields", "settings", "epsilon"), 0.2, "epsilon"),
        (("fields", "settings", "norm"), 2, "norm=inf"),
        (("fields", "fingerprint"), "c" * 64, "another fingerprint"),
    ]:
        certificate.save(path)
        rewritten(path, {}, change(*keys, to=to))
        refused(path, words)
    certificate.save(path)
    rewritten(path, {}, lambda header: header["settings"].update({"gamma": 0.5}))
    refused(path, "must say the same as settings and model. Received: another gamma")


# --- hostile files: the arrays ------------------------------------------------------------------

_ONES = np.ones(N)


@pytest.mark.parametrize(
    ("kind", "name", "array", "match"),
    [
        ("overlap", "rows.nominal", None, "Received: no nominal"),
        ("overlap", "rows.more", _ONES, "Received: more, which it has not"),
        ("overlap", "shared.more", _ONES, "shared arrays .* more, which it has not"),
        ("overlap", "shared.cells", np.full((4, 2), 2), "cells must be from 0 to 1"),
        ("overlap", "shared.cells", np.zeros((4, 3), int), r"cells .* the shape \(4, 2\)"),
        ("overlap", "shared.cells", np.zeros((4, 2)), "cells .* must be integers"),
        ("overlap", "rows.nominal", np.ones(2), r"nominal .* must have the shape \(3,\)"),
        ("overlap", "rows.nominal", np.ones((3, 1)), r"nominal .* must have the shape \(3,\)"),
        ("overlap", "rows.nominal", _ONES.astype(int), "nominal .* must be real numbers"),
        ("overlap", "rows.nominal", _ONES * np.inf, "nominal .* must not be NaN or infinite"),
        ("overlap", "rows.certified", _ONES * np.nan, r"must not be NaN. .* at \(0,\)"),
        ("overlap", "rows.certified", _ONES * 1j, "numbers"),
        ("overlap", "rows.cell_overlaps", np.ones((4, 2)), "cell_overlaps .* the shape"),
        ("overlap", "rows.targets", np.array([0, -1, 0]), "targets are below 0, for input 1"),
        ("overlap", "rows.targets", np.array(["a"] * 3), "targets .* must be integers"),
        ("overlap", "rows.decision.status", np.array(["holds", "violated", "?"]), "status is none"),
        ("overlap", "rows.decision.status", np.array(["holds"] * 3), "counterexample.* input 1"),
        ("overlap", "rows.decision.lower", None, "no decision.lower"),
        ("overlap", "rows.region.center", CENTER * np.nan, "region.center .* must not be NaN"),
        ("overlap", "rows.region.center", CENTER + 1, "center leaves the valid range"),
        ("overlap", "rows.region.center", CENTER[:2], "region.epsilon .* must have the shape"),
        ("overlap", "rows.region.center", CENTER[0, 0, 0, 0], "region"),
        ("overlap", "rows.region.center", None, "no region.center"),
        ("overlap", "rows.region.epsilon", np.full((3, 1, 1, 1), 0.2), "input 0 with 0.2"),
        ("overlap", "rows.region.epsilon", np.full((3, 1, 1, 1), -0.1), "epsilon is negative"),
        ("overlap", "rows.region.epsilon", np.full(3, 0.1), "must have the axes"),
        ("overlap", "rows.region.epsilon", np.full((3, 9, 1, 1), 0.1), "epsilon must be"),
        ("overlap", "rows.region.lower", CENTER, "region.lower, which it has not"),
        ("gradient", "rows.lower", np.full_like(CENTER, 9), "lower is above upper, for input 0"),
        ("gradient", "rows.upper", np.full_like(CENTER, 9), "certified is not the largest"),
        ("gradient", "rows.certified", _ONES, "certified is not the largest distance"),
        ("gradient", "rows.explanation", CENTER[:, :2], r"the shape \(3, 4, 2, 1\)"),
        ("radius", "rows.certified", _ONES, "not the balls of the certified radii, for input 0"),
        ("radius", "rows.certified", -_ONES, "certified is below 0"),
        ("deviation", "rows.epsilon", _ONES, "epsilon is not that of the regions"),
        ("deviation", "rows.attained", _ONES, "attained .* must be booleans"),
        ("top_k", "rows.cells", np.full((3, 2), 4), "cells are not from 0 to 3"),
        ("top_k", "rows.cells", np.zeros((3, 3), int), "k must be the number of cells, 3"),
        ("mask", "rows.masks", CENTER + 1, "masks are not from 0 to 1"),
        ("mask", "shared.neutral_value", None, "no neutral_value"),
        ("reason", "rows.needed", np.zeros((3, 4, 2), bool), "not exactly one of the three words"),
        ("reason", "rows.sizes", np.array([2, 2, 3]), "certified is not sizes, for input 2"),
        ("reason", "rows.attacked", None, "attacked .* must be given"),
        ("reason", "rows.witness_groups", np.array([7]), "witnesses are not one input for each"),
        ("reason", "rows.witness_groups", np.array([], int), "must be integers .* that sum"),
        ("reason", "lengths.witness_groups", np.array([1, -1, 1]), "must be integers .* that sum"),
        ("reason", "lengths.witness_groups", np.array([1, 0]), "one array for each of the"),
        ("reason", "lengths.witness_groups", np.ones(3), "must be integers .* that sum"),
        ("reason", "lengths.witness_groups", None, "one array for each of the"),
        ("reason", "lengths.none", np.array([1]), "must be of an array rows.none"),
        ("reason", "rows.witness_inputs", CENTER[:1, :2], "the shape"),
        ("reason", "rows.answers.classes", np.array([0, 1, 5]), "targets must be from 0 to 2"),
        ("reason", "shared.answers.class_groups", np.array([0, 0, 0]), "more than one group"),
    ],
)
def test_arrays_that_were_changed(path, kind, name, array, match):
    KINDS[kind]().save(path)
    rewritten(path, {name: array})
    refused(path, match)


def test_fields_that_were_changed(path):
    for kind, name, value, match in [
        ("top_k", "k", 3, "k must be the number of cells"),
        ("top_k", "k", True, "k .* must be of type int"),
        ("top_k", "k2", 9, "k2 from k to 4"),
        ("top_k", "map_shape", [2], "map_shape must be two whole numbers"),
        ("top_k", "map_shape", "22", "map_shape .* must be of type"),
        ("radius", "varied", "delta", "varied must be"),
        ("top_k", "map_shape", ..., "fields of the header must have"),
        ("deviation", "kinks", [1], "kinks must be names"),
        ("reason", "answers.nb_outputs", 2, "targets|class_groups"),
        ("reason", "settings", [], "settings .* must be of type dict"),
    ]:
        KINDS[kind]().save(path)
        rewritten(path, {}, change("fields", name, to=value))
        refused(path, match)


def test_radii_that_differ_among_inputs(path):
    """Settings may name one radius for each input of the call that the certificate is part of."""
    certificate = KINDS["deviation"]()
    same(restored(stored(certificate[1:])), certificate[1:])
    other = dataclasses.replace(
        certificate.origin, settings=certificate.origin.settings | {"epsilon": [0.1, 0.2, 0.4]}
    )
    with pytest.raises(ValueError, match="input 2 with 0.3"):
        restored(stored(dataclasses.replace(certificate, origin=other)))
