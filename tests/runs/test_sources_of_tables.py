"""Tables: columns by name, words as one-hot columns, and errors of single rows."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import xcertify.runs.sources.csv_records as csv_records
from xcertify.runs.sources import open_source, reopened

TABLE = """\
age,job,rent,default
25,skilled,1,0
40,other,0,1
31,skilled,1,0
"""


@pytest.fixture
def write(tmp_path):
    def written(text, name="t.csv"):
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return str(tmp_path / name)

    return written


def rows(source):
    return [None if row is None else row.tolist() for row in source.read(0, len(source)).inputs]


def errors(source):
    return source.read(0, len(source)).errors


def test_columns_in_their_order_and_words_as_one_feature(write):
    source = open_source(write(TABLE), one_hot=["job"], targets="column:default", shape=(4,))
    assert rows(source) == [[25, 0, 1, 1], [40, 1, 0, 0], [31, 0, 1, 1]]
    assert source.feature_names == ["age", "job=other", "job=skilled", "rent"]
    assert source.groups == [0, 1, 1, 2]
    assert source.read(1, 3).targets == [1, 0]


def test_chosen_columns_in_the_order_given(write):
    source = open_source(write(TABLE), columns=["rent", "age"])
    assert rows(source) == [[1, 25], [0, 40], [1, 31]]
    assert source.groups is None


def test_the_target_is_no_input_and_labels_come_only_when_asked(write):
    path = write(TABLE)
    source = open_source(path, columns=["age"], target_column="default")
    assert source.read(0, 1).targets is None
    asked = open_source(path, columns=["age"], target_column="default", targets="labels")
    assert asked.read(0, 3).targets == [0, 1, 0]
    assert (
        "default" not in open_source(path, one_hot=["job"], target_column="default").feature_names
    )


def test_categories_of_training_in_their_order(write):
    source = open_source(write(TABLE), columns=["job"], one_hot=["job=skilled,none"])
    assert rows(source) == [[1, 0], None, [1, 0]]
    assert errors(source)[1] == (
        "column 'job' has the value 'other', and the categories are skilled, none"
    )
    same = open_source(write(TABLE), columns=["job"], one_hot={"job": ["skilled", "none"]})
    assert rows(same) == rows(source)


def test_categories_are_those_of_the_whole_table_and_numbers_sort_as_numbers(write):
    source = open_source(write("k\n10\n9\n\n9\n"), one_hot=["k"], first=1)
    assert source.feature_names == ["k=9", "k=10"]
    assert rows(source) == [[0, 1]]


@pytest.mark.parametrize("prefix", ["job=", "job_"])
def test_columns_that_are_one_hot_already(write, prefix):
    text = f"age,{prefix}skilled,rent,{prefix}other\n25,True,0,False\n40,0,1,1\n"
    source = open_source(write(text), one_hot=["job"])
    assert rows(source) == [[25, 1, 0, 0], [40, 0, 1, 1]]
    assert source.groups == [0, 1, 2, 1]
    chosen = open_source(write(text), one_hot=["job"], columns=["job", "age"])
    assert chosen.groups == [0, 0, 1] and rows(chosen) == [[1, 0, 25], [0, 1, 40]]
    assert rows(reopened(chosen.describe())) == rows(chosen)
    assert reopened(chosen.describe()).groups == chosen.groups


def test_a_bad_row_is_an_error_with_its_column_and_leaves_the_others_alone(write):
    text = "a,b,y\n1,2,0\n,2,0\n1,old,0\n1,2\n1,nan,1\n1,1e39,1\n1,2,yes\n1,2,\n3,4,1.0\n"
    source = open_source(write(text), targets="column:y")
    assert rows(source) == [[1, 2], *[None] * 7, [3, 4]]
    batch = source.read(0, 9)
    assert batch.targets == [0, *[None] * 7, 1]
    assert batch.errors[1] == "column 'a' has no value: fill it or leave the row out"
    assert batch.errors[2].startswith("column 'b' has the value 'old', and a number is taken: one-")
    assert batch.errors[3] == "has 2 values, and the table 3 columns"
    assert batch.errors[4] == "column 'b' has the value nan: inputs must be finite float32"
    assert "1e39" in batch.errors[5]
    assert batch.errors[6] == "column 'y' has the value 'yes', and targets are class numbers from 0"
    assert batch.errors[7] == "column 'y' has no value, and is the target"


def test_csv_as_others_write_it(write):
    text = '\ufeff"a b";c\r\n"1"; 2\r\n\r\n3;"4"\r\n'
    source = open_source(write(text))
    assert source.feature_names == ["a b", "c"] and rows(source) == [[1, 2], [3, 4]]
    text = 'a,b,c\n1,"two\nlines, ""quoted""",3\n4,5" pipe,6\n'
    source = open_source(write(text), columns=["a", "c"])
    assert rows(source) == [[1, 3], [4, 6]]


def test_any_part_is_read_without_what_lies_before(write, monkeypatch):
    monkeypatch.setattr(csv_records, "_EVERY", 8)
    text = "a,b\n" + "".join(f'{n},"x\ny"\n' if n % 3 else f"\n{n},z\n" for n in range(50))
    source = open_source(write(text), columns=["a"])
    parsed = []
    whole = csv_records._Lines.__iter__
    monkeypatch.setattr(
        csv_records._Lines, "__iter__", lambda self: (parsed.append(1) or x for x in whole(self))
    )
    for first in range(0, 50, 5):
        parsed.clear()
        got = [int(row[0]) for row in source.read(first, first + 5).inputs]
        assert got == list(range(first, first + 5))
        assert len(parsed) < 8 * 4


def test_parquet_file_and_folder(tmp_path):
    table = pa.table(
        {"a": [1, 2, None, 4, 5], "b": [True, False, True, None, False], "y": range(5)}
    )
    pq.write_table(table, tmp_path / "one.parquet", row_group_size=2)
    source = open_source(str(tmp_path / "one.parquet"), targets="column:y")
    assert rows(source) == [[1, 1], [2, 0], None, None, [5, 0]]
    assert "column 'a' has no value" in errors(source)[2]
    assert source.read(3, 5).targets == [None, 4]
    many = tmp_path / "many"
    many.mkdir()
    pq.write_table(table.slice(3), many / "b.parquet")
    pq.write_table(table.slice(0, 3), many / "a.parquet", row_group_size=2)
    assert rows(open_source(str(many), targets="column:y")) == rows(source)
    pq.write_table(table.select(["a"]), many / "c.parquet")
    with pytest.raises(ValueError, match="c.parquet must have the columns of a.parquet, a, b, y"):
        open_source(str(many))


def test_categories_of_parquet(tmp_path):
    words = pa.array(["x", "y", None]).dictionary_encode()
    pq.write_table(pa.table({"job": words, "n": [np.nan, 1.0, 2.0]}), tmp_path / "t.parquet")
    source = open_source(str(tmp_path / "t.parquet"), one_hot=["job"])
    assert rows(source) == [None, [0, 1, 1], None]
    assert np.array_equal(source.groups, [0, 0, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["agee"]}, r"columns must name columns of .*\(is 'age' meant\?\).*: 'agee'"),
        ({"columns": ["age", "age"]}, "must be different inputs. Received: 'age' twice"),
        ({"columns": ["age"], "target_column": "age"}, "Received: 'age', which is the target"),
        ({"one_hot": ["work"]}, "one_hot must name columns.*Received: 'work'"),
        ({"one_hot": ["job=a,a"]}, "must name different categories, NAME=A,B. Received: job=a,a"),
        ({"target_column": "y"}, "target_column must name columns"),
        ({"targets": "labels"}, "for a table, say column:NAME"),
        ({"targets": "column:age", "target_column": "rent"}, "must be of the target column"),
        ({"scale": 2}, "scale is not for tables"),
        (
            {"shape": (7,)},
            r"\(N, 7\) .*features are age, job, rent, default: choose with --columns",
        ),
    ],
)
def test_wrong_options(write, options, message):
    with pytest.raises(ValueError, match=message):
        open_source(write(TABLE), **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: a table begins with the names of its columns"),
        ("a,b\n", "inputs are empty"),
        ("a,a\n1,2\n", "must name each column. Received: 'a' twice"),
        ("a,\n1,2\n", "Received: a column without one"),
        (b"a\n\xff\n", "is no CSV file in UTF-8: .*before byte 4"),
        ("a\n" + "x" * 200_000 + "\n", "is no CSV file in UTF-8: field larger than"),
    ],
)
def test_files_that_are_no_tables(write, text, message):
    with pytest.raises(ValueError, match=message):
        open_source(write(text))


def test_no_parquet_and_too_many_categories(write):
    with pytest.raises(ValueError, match="is no Parquet file"):
        open_source(write("no", "t.parquet"))
    text = "a\n" + "".join(f"{n}\n" for n in range(1001))
    with pytest.raises(ValueError, match="more than 1000 different values. Received: 'a'"):
        open_source(write(text), one_hot=["a"])
