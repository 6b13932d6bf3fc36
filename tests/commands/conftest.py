"""Files that commands are tried on: digits, a table, and small networks of random weights."""

import keras
import numpy as np
import pytest

from xcertify import datasets
from xcertify.commands import main

TABLE = """\
age,income,job,good
0.3,0.2,clerk,1
0.5,0.9,driver,0
0.1,0.4,nurse,1
"""


@pytest.fixture(scope="session")
def _digits():
    """Three digits in 7x7 pixels, (3, 7, 7, 1)."""
    images = datasets.load_digits()[0][[0, 1700, 3400]]
    return images.reshape(-1, 7, 4, 7, 4, 1).mean(axis=(2, 4)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch, _digits):
    """A folder with models and inputs, which is the current one."""
    monkeypatch.chdir(tmp_path)
    start = [keras.initializers.GlorotUniform(seed=seed) for seed in range(4)]
    layers = keras.layers
    keras.Sequential(
        [
            keras.Input((7, 7, 1)),
            layers.Conv2D(2, 3, activation="relu", kernel_initializer=start[0]),
            layers.Flatten(name="flatten"),
            layers.Dense(10, kernel_initializer=start[1]),
        ]
    ).save("digits.keras")
    keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, "relu", kernel_initializer=start[2], name="hidden"),
            layers.Dense(2, kernel_initializer=start[3]),
        ]
    ).save("table.keras")
    np.save("digits.npy", _digits)
    np.savez("both.npz", x=_digits, y=np.array([0, 4, 7]))
    (tmp_path / "table.csv").write_text(TABLE)
    for name in ("text.npy", "text.txt"):
        (tmp_path / name).write_text("1 2 3")
    return tmp_path


@pytest.fixture
def error_of(capsys):
    """A function of words: the message of a call that must fail with code 2 and one line."""

    def call(*words):
        assert main(list(words)) == 2
        *_, message = capsys.readouterr().err.strip().splitlines()
        assert message.startswith("xcertify: error: ")
        return message

    return call
