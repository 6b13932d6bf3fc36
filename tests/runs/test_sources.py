"""Inputs of every kind come numbered, the same whatever is read at once and in which process."""

import json
import pickle

import numpy as np
import pytest

from xcertify.runs.sources import open_source, reopened


def read(source, first=0, last=None):
    return source.read(first, len(source) if last is None else last)


def stacked(source):
    return np.stack(read(source).inputs)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def array(folder):
    values = np.arange(24, dtype=np.float64).reshape(6, 4) / 7
    np.save("a.npy", values)
    np.savez("a.npz", x=values, y=np.arange(6))
    return values


@pytest.mark.parametrize("text", ["a.npy", "a.npz:x"])
def test_rows_of_an_array(array, text):
    source = open_source(text, shape=(4,))
    assert len(source) == 6 and source.shape == (4,)
    batch = source.read(2, 5)
    assert all(row.dtype == np.float32 for row in batch.inputs)
    np.testing.assert_array_equal(np.stack(batch.inputs), array[2:5].astype(np.float32))
    assert batch.errors == batch.names == [None] * 3 and batch.targets is None
    assert source.read(3, 3).inputs == []


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("a.npy", {"scale": 0.5, "offset": 1, "first": 3, "targets": "a.npz:y"}),
        ("a.npz:x", {"targets": ["2"]}),
        ("t.csv", {"one_hot": ["b"], "targets": "column:c", "first": 2}),
    ],
)
def test_what_run_json_says_opens_the_same_inputs_in_another_folder(
    array, folder, monkeypatch, text, options
):
    (folder / "t.csv").write_text("a,b,c\n1,x,0\n2,y,1\n3,x,2\n")
    source = open_source(text, **options)
    read(source)  # opens files
    copy = pickle.loads(pickle.dumps(source))
    description = json.loads(json.dumps(source.describe()))
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    for other in (copy, reopened(description)):
        assert other.describe() == source.describe()
        assert read(other).targets == read(source).targets
        np.testing.assert_array_equal(stacked(other), stacked(source))
        assert other.groups == source.groups and other.feature_names == source.feature_names


def test_a_source_takes_no_inputs_with_it(folder):
    np.save("a.npy", np.zeros((1000, 100)))
    source = open_source("a.npy")
    read(source)
    assert len(pickle.dumps(source)) < 2000


def test_a_changed_file_has_another_fingerprint(array):
    before = open_source("a.npy").describe()
    np.save("a.npy", np.zeros((6, 5)))
    after = open_source("a.npy").describe()
    assert before["fingerprint"] != after["fingerprint"]


def test_inputs_that_cannot_be_used_have_their_error_and_no_target(folder):
    values = np.ones((4, 2, 2))
    values[1, 1, 0], values[2, 0, 1] = np.nan, 1e300
    np.save("a.npy", values)
    batch = read(open_source("a.npy", targets=["0", "1", "2", "3"]))
    assert [row is None for row in batch.inputs] == [False, True, True, False]
    assert batch.errors[1] == "has the value nan at index (1, 0): inputs must be finite numbers"
    assert "inf at index (0, 1)" in batch.errors[2]
    assert batch.targets == [0, None, None, 3]


def test_values_are_scaled_and_rounded_once(folder):
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 256)
    np.save("a.npy", pixels)
    np.testing.assert_array_equal(stacked(open_source("a.npy")), pixels)
    scaled = stacked(open_source("a.npy", scale=1 / 255))
    np.testing.assert_array_equal(scaled, pixels.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(
        stacked(open_source("a.npy", scale=2, offset=-1)), pixels * 2.0 - 1
    )


def test_targets_of_every_form(array):
    assert read(open_source("a.npy", targets="3")).targets == [3] * 6
    assert read(open_source("a.npy", targets=["0", "1"], first=2)).targets == [0, 1]
    assert open_source("a.npy", targets="a.npz:y", first=4).read(1, 3).targets == [1, 2]
    np.save("weights.npy", np.eye(6, 3))
    weights = open_source("a.npy", targets="weights.npy").read(1, 3).targets
    np.testing.assert_array_equal(weights, np.eye(6, 3)[1:3])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("nothing.npy", {}, "no such file or folder: nothing.npy"),
        ("a.txt", {}, r"must be a .npy, .npz, .csv.*Received: a.txt"),
        ("a.npz", {}, "holds several arrays: say which, as .*a.npz:NAME. It has x, y"),
        ("a.npz:z", {}, "has no array 'z'"),
        ("a.npz:y", {}, r"must be a batch, \(N, \*shape\)"),
        ("cut.npy", {}, "cut.npy is not a readable .npy or .npz file"),
        ("objects.npy", {}, "objects.npy is not a readable .npy or .npz file"),
        ("words.npy", {}, "inputs must be numbers. Received: <U1"),
        ("empty.npy", {}, "inputs are empty"),
        ("a.npy", {"shape": (5,)}, r"must have the shape \(N, 5\) that the model takes"),
        ("a.npy", {"shape": (4, 1)}, r"add the axis of channels"),
        ("a.npy", {"size": (2, 2)}, r"size is not for arrays. Received: size=\(2, 2\) for a.npy"),
        ("a.npy", {"one_hot": ["job"]}, "one_hot is not for arrays"),
        ("a.npy", {"scale": 0}, "scale must be finite and not 0. Received: 0"),
        ("a.npy", {"offset": float("nan")}, "offset must be finite. Received: nan"),
        ("a.npy", {"scale": "2"}, "scale must be a number. Received: '2'"),
        ("a.npy", {"first": 0}, "first must be a whole number above 0. Received: 0"),
        ("a.npy", {"targets": ["1", "2"]}, "targets must be one per input, 6 of them.*Received: 2"),
        ("a.npy", {"targets": ["1", "x"]}, "integers, one file, labels or column:NAME. .*: 1 x"),
        ("a.npy", {"targets": "labels"}, "as a.npy has no labels. Received: labels"),
        ("a.npy", {"targets": "column:x"}, "target_column is not for arrays"),
        ("a.npy", {"targets": "a.npz:z"}, "has no array 'z'"),
        ("a.npy", {"targets": "none.npy"}, "no such file: .*none.npy"),
        ("a.npy", {"targets": "half.npy"}, r"must be integers \(N,\) or finite weights \(N, K\)"),
    ],
)
def test_wrong_words_are_answered_with_the_argument_and_the_cure(
    array, folder, text, options, message
):
    (folder / "a.txt").write_text("1 2 3")
    (folder / "cut.npy").write_bytes((folder / "a.npy").read_bytes()[:-8])
    np.save("objects.npy", np.array([[1, None]], dtype=object))
    np.save("words.npy", np.array([["a", "b"]]))
    np.save("empty.npy", np.zeros((0, 4)))
    np.save("half.npy", np.full(6, 0.5))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_source(text, **options)


def test_numbers_that_there_are_not(array):
    with pytest.raises(ValueError, match="have the numbers 0 to 5. Received: 4 to 6"):
        open_source("a.npy").read(4, 7)
