"""Prepared data sets of tensorflow_datasets: in the order of `xcertify.datasets.load`, in parts."""

import pickle

import numpy as np
import pytest

from xcertify import datasets
from xcertify.runs.sources import open_source, reopened


@pytest.fixture
def folder(shared):
    return str(shared / "data/tfds")


def test_any_part_of_any_split(folder):
    split = "test[:30]+train[50:60]"
    images, labels = datasets.load("mnist", split, data_dir=folder)
    source = open_source(
        f"tfds:mnist/{split}", data_dir=folder, targets="labels", shape=(28, 28, 1)
    )
    assert len(source) == 40
    for other in (source, pickle.loads(pickle.dumps(source)), reopened(source.describe())):
        assert other.describe() == source.describe()
        batch = other.read(25, 35)
        np.testing.assert_array_equal(np.stack(batch.inputs), images[25:35])
        assert batch.targets == labels[25:35].tolist()


def test_labels_only_when_asked_and_the_test_split_by_default(folder):
    source = open_source("tfds:gtsrb", data_dir=folder, scale=1)
    assert len(source) == 1430
    batch = source.read(1429, 1430)
    assert batch.targets is None and batch.inputs[0].shape == (32, 32, 3)
    assert batch.inputs[0].max() > 1


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("tfds:mnist/tst", {}, r"must be one of train, test, or a part .*Received: 'tst'"),
        ("tfds:mnist/test[:x]", {}, "or a part of it such as"),
        ("tfds:", {}, "must name a data set"),
        ("tfds:../mnist", {}, "must name a data set"),
        ("tfds:nothing/test", {}, r"'nothing' is not prepared in .*\(--data-dir\)"),
        ("tfds:mnist/test", {"shape": (32, 32, 3)}, r"must have the shape \(N, 32, 32, 3\)"),
        ("tfds:mnist/test", {"size": (14, 14)}, "size is not for tfds"),
        ("tfds:mnist/test[:0]", {}, "inputs are empty"),
    ],
)
def test_wrong_words(folder, text, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_source(text, data_dir=folder, **options)
