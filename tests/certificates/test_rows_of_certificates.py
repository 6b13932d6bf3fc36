"""Certificates as tables and Parquet files, and digests of their rows."""

import json

import numpy as np
import pytest
from some_certificates import KINDS, overlap, reason

from xcertify.certificates import Certificate, tables
from xcertify.certificates.stored import Stored, digests, restored, stored
from xcertify.certificates.tables import ARRAYS, HEADER, from_table, to_table

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NUMBERS = np.array([7, 8, 12])


def read(table, tmp_path):
    pq.write_table(table, tmp_path / "rows.parquet")
    return pq.read_table(tmp_path / "rows.parquet")


def with_column(table, name, values):
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(place), pa.chunked_array([values]))


def with_metadata(table, key, change):
    found = json.loads(table.schema.metadata[key])
    change(found)
    return table.replace_schema_metadata(table.schema.metadata | {key: json.dumps(found)})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_parquet(kind, tmp_path):
    certificate = KINDS[kind]()
    extra = {"name": ["a", "b", None], "certified": [0.0, 0.0, 0.0]}
    table = read(to_table(stored(certificate), NUMBERS, extra), tmp_path)
    assert table.column_names[:2] == ["input", "name"] and table.column_names[-1] == "digest"
    np.testing.assert_array_equal(table["certified"], certificate.certified)
    numbers, found = from_table(table)
    np.testing.assert_array_equal(numbers, NUMBERS)
    assert repr(restored(found).to_dict()) == repr(certificate.to_dict())
    for name, values in stored(certificate).rows.items():
        if isinstance(values, np.ndarray) and values.dtype.kind != "U":
            assert found.rows[name].dtype == values.dtype
    assert digests(found, NUMBERS, extra["name"]) == table["digest"].to_pylist()
    _, some = from_table(table.slice(1, 1))
    assert repr(restored(some).to_dict()) == repr(certificate[1:2].to_dict())
    numbers, none = from_table(table.slice(0, 0))
    assert len(numbers) == len(none) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_digests_do_not_depend_on_what_lies_beside(kind):
    certificate = KINDS[kind]()
    expected = digests(stored(certificate), NUMBERS)
    parts = [certificate[2:], certificate[np.array([0])], certificate[1:2]]
    assert [digests(stored(p), [n])[0] for p, n in zip(parts, [12, 7, 8])] == [
        expected[n] for n in (2, 0, 1)
    ]
    assert digests(stored(Certificate.concatenate(parts)), [12, 7, 8]) == [
        expected[n] for n in (2, 0, 1)
    ]
    assert len(set(expected)) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_changed_number_has_another_digest(kind):
    found = stored(KINDS[kind]())
    expected = digests(found, NUMBERS)
    for name, values in found.rows.items():
        volatile = name.split(".")[-1] == "seconds"
        for row in range(3):
            changed = [np.array(own) for own in values]
            if not changed[row].size:
                continue
            flat = changed[row].reshape(-1)
            if flat.dtype.kind == "U":
                changed[row] = np.array("another")
            elif flat.dtype.kind == "f":
                flat[-1] = np.nextafter(flat[-1], flat.dtype.type(0.5)) if flat[-1] < 9 else 8
            else:
                flat[-1] = flat[-1] == 0
            if np.array_equal(changed[row], values[row], equal_nan=flat.dtype.kind == "f"):
                continue  # NaN
            own = changed if isinstance(values, list) else np.stack(changed)
            again = digests(Stored(found.header, found.rows | {name: own}, found.shared), NUMBERS)
            assert [a != b for a, b in zip(again, expected)] == [
                n == row and not volatile for n in range(3)
            ], name
    for name, array in found.shared.items():
        own = found.shared | {name: array + 1}
        again = digests(Stored(found.header, found.rows, own), NUMBERS)
        assert not set(again) & set(expected)
    assert not set(digests(found, NUMBERS + 1)) & set(expected)


def test_digests_and_the_header():
    found = stored(overlap())
    expected = digests(found, NUMBERS)
    for name, value in found.header.items():
        own = found.header | {name: {"other": 1} if isinstance(value, dict) else "other"}
        again = digests(Stored(own, found.rows, found.shared), NUMBERS)
        assert (again == expected) == (name == "versions")
    with pytest.raises(ValueError, match="numbers must be one for each of the 3 inputs"):
        digests(found, [1, 2])


def test_rows_that_were_changed_swapped_or_moved():
    certificate = overlap()
    table = to_table(stored(certificate), NUMBERS, {"name": ["a", "b", None]})
    bounds = certificate.certified.copy()
    bounds[1] *= 1.01
    order = [1, 0, 2]
    swapped = with_column(table, "certified", pa.array(certificate.certified[order]))
    header = table.schema.metadata[HEADER].replace(b'"crown"', b'"ibp"')
    for wrong, which in [
        (with_column(table, "certified", pa.array(bounds)), "1 of 3 .* first one input 8"),
        (swapped, "2 of 3 .* input 7"),
        (with_column(table, "input", pa.array([8, 7, 12])), "2 of 3 .* input 8"),
        (with_column(table, "name", pa.array(["b", "a", None])), "2 of 3 .* input 7"),
        (with_column(table, "digest", table["digest"].take(order).chunk(0)), "2 of 3"),
        (table.replace_schema_metadata(table.schema.metadata | {HEADER: header}), "3 of 3"),
    ]:
        with pytest.raises(ValueError, match=f"those of their digests. Received: {which}"):
            from_table(wrong)
        numbers, found = from_table(wrong, check=False)
        own = digests(found, numbers) == np.array(wrong["digest"].to_pylist())
        assert not own.all()


def test_inputs_without_a_certificate():
    table = to_table(stored(reason()), NUMBERS, {"error": [None] * 3})
    failed = pa.table({"input": [9, 10], "error": ["has NaN", "has NaN"]})
    whole = pa.concat_tables([table, failed], promote_options="default").sort_by("input")
    numbers, found = from_table(whole.replace_schema_metadata(table.schema.metadata))
    np.testing.assert_array_equal(numbers, NUMBERS)
    assert repr(restored(found).to_dict()) == repr(reason().to_dict())


def shape(name, to):
    return lambda found: found["rows"][name].update(shape=to)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.replace_schema_metadata(None), "must be of certificates"),
        (lambda t: t.drop_columns(["input"]), "must be of certificates"),
        (lambda t: t.drop_columns(["digest"]), "must be of certificates"),
        (lambda t: t.drop_columns(["nominal"]), "none or several of nominal"),
        (lambda t: t.append_column("nominal", t["nominal"]), "none or several of nominal"),
        (
            lambda t: t.drop_columns(["nominal"]).append_column("nominal", pa.array([1, 2, 3])),
            "column nominal must be of type double.*int64",
        ),
        (
            lambda t: with_column(t, "nominal", pa.array([1.0, None, 2.0])),
            "without missing values.*1 missing",
        ),
        (
            lambda t: with_column(t, "cell_overlaps", pa.array([[1.0, 2.0], [1.0], [1.0, 2.0]])),
            "lists of 2 numbers.*Received: 1",
        ),
        (
            lambda t: with_column(t, "cell_overlaps", pa.array([[1.0, None]] * 3)),
            "without missing values",
        ),
        (lambda t: with_metadata(t, ARRAYS, shape("cell_overlaps", [3])), "lists of 3 numbers"),
        (lambda t: with_metadata(t, ARRAYS, shape("cell_overlaps", [-2])), "types and shapes"),
        (lambda t: with_metadata(t, ARRAYS, shape("cell_overlaps", [2**62])), "types and shapes"),
        (lambda t: with_metadata(t, ARRAYS, shape("cell_overlaps", 2)), "types and shapes"),
        (lambda t: with_metadata(t, ARRAYS, lambda f: f.pop("rows")), "types and shapes"),
        (
            lambda t: with_metadata(t, ARRAYS, lambda f: f["rows"]["nominal"].update(type="O")),
            "types and shapes",
        ),
        (
            lambda t: with_metadata(t, ARRAYS, lambda f: f["shared"]["cells"].update(shape=[3])),
            "types and shapes",
        ),
        (
            lambda t: with_metadata(
                t, ARRAYS, lambda f: f["shared"]["cells"].update(values=[1, "a"])
            ),
            "types and shapes",
        ),
        (
            lambda t: t.replace_schema_metadata(t.schema.metadata | {ARRAYS: b"[" * 10**5}),
            "types and shapes",
        ),
        (
            lambda t: t.replace_schema_metadata(t.schema.metadata | {ARRAYS: b" " * (2**26 + 1)}),
            "must not have more than",
        ),
        (
            lambda t: t.replace_schema_metadata(t.schema.metadata | {HEADER: b" " * 2**25}),
            "the header must not have more than",
        ),
    ],
)
def test_tables_that_were_changed(change, match):
    with pytest.raises(ValueError, match=match) as found:
        from_table(change(to_table(stored(overlap()), NUMBERS)))
    assert len(str(found.value)) < 700


def test_what_is_too_long_for_a_table(monkeypatch):
    found = stored(overlap())
    monkeypatch.setattr(tables, "LARGEST_ARRAYS", 100)
    with pytest.raises(ValueError, match=r"certificate.save\(path\), has no such limit"):
        to_table(found, NUMBERS)
