"""The demonstration: what it trains, proves and prints."""

import keras
import numpy as np
import pytest

from xcertify import datasets
from xcertify.commands import main
from xcertify.commands.demo import demonstration
from xcertify.commands.images import one_of_each, split_digits
from xcertify.commands.networks import accuracy, predict


@pytest.fixture(scope="module", autouse=True)
def digits_are_read_once():
    digits = datasets.load_digits()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_digits", lambda: digits)
        yield


@pytest.fixture(scope="module")
def trained():
    """A small dense network instead of the demonstration's own, and its digits."""
    (images, labels), test = split_digits(seed=0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(10, kernel_initializer=keras.initializers.HeUniform(seed=0)),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images, labels, epochs=2, shuffle=False, verbose=0)
    return model, *test


def test_split_has_every_digit_once():
    (train, train_labels), (test, test_labels) = split_digits(seed=3)
    assert (len(train), len(test)) == (4000, 1000)
    np.testing.assert_array_equal(np.bincount(np.append(train_labels, test_labels)), 500)
    again = split_digits(seed=3)[1][0]
    np.testing.assert_array_equal(test, again)
    assert (split_digits(seed=4)[1][0] != test).any()


def test_one_of_each_takes_classes_in_turn():
    labels = np.array([1, 1, 0, 2, 0, 2, 1])
    np.testing.assert_array_equal(one_of_each(labels, 5), [2, 0, 3, 4, 1])


def test_training_repeats_with_its_seed_and_leaves_others_alone():
    images, labels = split_digits(seed=0)[0]
    state = np.random.get_state()[1].copy()
    models = [
        demonstration.train(images[:128], labels[:128], seed, nb_epochs=1) for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    first, second, other = (model.get_weights()[0] for model in models)
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_proofs_of_a_linear_network_are_exact_and_never_beaten(trained):
    model, images, _ = trained
    images = images[:20]
    classes = predict(model, images)
    decided = demonstration.decided_epsilons(model, images, classes)
    assert (decided.certified < decided.attacked).all()
    kernel, bias = model.get_weights()
    margins = []  # smallest margin over the ball, by its corner, for every tried epsilon
    for epsilon in np.arange(128) * 0.002:
        rows = (kernel.T[classes][:, None] - kernel.T).reshape(20, 10, 28, 28, 1)
        corner = np.clip(images[:, None] - epsilon * np.sign(rows), 0, 1)
        margin = (rows * corner).sum(axis=(2, 3, 4)) + bias[classes][:, None] - bias
        margin[np.arange(20), classes] = np.inf
        margins.append(margin.min(axis=1))
    held = np.array(margins) > 1e-4
    steps = (held.sum(axis=0) - 1) * 0.002
    assert (decided.certified <= steps + 0.002).all()
    assert (decided.attacked >= steps).all()
    assert (decided.gap <= 0.04 * decided.attacked).all()


def test_command_prints_tables_and_writes_the_picture(trained, tmp_path, monkeypatch, capsys):
    model, images, labels = trained
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setattr(demonstration, "train", lambda *_: model)
    output = tmp_path / "demo.png"
    assert main(["demo", "--nb-images", "2", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    for name in ("EVA one-pass", "EVA exact", "margin gradient x range", "saliency"):
        (line,) = (line for line in shown.splitlines() if line.startswith(name))
        deletion, insertion, seconds = map(float, line[len(name) :].split())
        assert 0 <= deletion <= 1
        assert 0 <= insertion <= 1
        assert seconds > 0
    assert f"{accuracy(model, images, labels):.1%} of the test digits" in shown
    assert output.read_bytes().startswith(b"\x89PNG")


def test_wrong_number_of_digits(capsys, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    assert main(["demo", "--nb-images", "0"]) == 2
    assert "nb_images must be 1 to 1000. Received: 0" in capsys.readouterr().err


def test_mnist_of_a_folder(shared):
    (train, _), (test, _) = split_digits(0, shared / "data/tfds")
    assert train.shape[1:] == test.shape[1:] == (28, 28, 1)
