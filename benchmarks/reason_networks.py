"""Networks whose sufficient reasons `sufficient_reason.py` asks for; some are trained here."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from decide import NETS as TABLES
from decide import trained

from xcertify.commands.networks import accuracy, fit
from xcertify.datasets import Images, load, load_digits
from xcertify.training import CertifiedWidth, LinearRamp, RegularizedModel

layers = keras.layers
CIFAR = "CIFAR residual"


class Network(NamedTuple):
    """A network with the inputs (N, *input) that are explained; `groups` as `SufficientReason`."""

    model: keras.Model
    inputs: np.ndarray
    groups: np.ndarray | None = None


class Missing(Exception):
    """What a network needs is not there; the message says what to give."""


def given(arguments: argparse.Namespace, name: str) -> Path:
    """A folder that the command line may give."""
    folder = getattr(arguments, name.replace("-", "_"))
    if folder is None:
        raise Missing(f"give --{name} FOLDER")
    return folder


def reference(arguments: argparse.Namespace, name: str) -> Network:
    """A saved network and inputs from the folder of reference networks."""
    folder = given(arguments, "reference")
    model = keras.models.load_model(folder / f"{name}.keras", compile=False)
    with np.load(folder / "inputs.npz") as file:
        inputs = file["x"].astype(np.float32)
    return Network(model, inputs.reshape(-1, *model.input_shape[1:]))


def certified_digits(arguments: argparse.Namespace) -> Network:
    """Two layers of 128, trained so that their gradient is proved to vary little within .05."""
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[:1000], order[1000:]

    def make() -> keras.Model:
        hidden = [layers.Dense(128, "relu") for _ in range(2)]
        flat = [keras.Input(images.shape[1:]), layers.Flatten()]
        model = keras.Sequential([*flat, *hidden, layers.Dense(10)])
        regularized = RegularizedModel(model, CertifiedWidth(0.05), alpha=0.5)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        regularized.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
        ramp = LinearRamp(10)
        regularized.fit(images[train], labels[train], 100, 20, verbose=0, callbacks=[ramp])
        return model

    held_out = images[test], labels[test]
    return Network(kept_or_made(arguments, "certified_digits", make, held_out), images[test])


def residual_cifar(arguments: argparse.Namespace) -> Network:
    """Two residual blocks with batch normalization; CIFAR-10 with mirror images and noise."""
    folder = given(arguments, "data-dir")
    test = load("cifar10", "test", data_dir=folder)

    def make() -> keras.Model:
        model = residual_net()
        images, labels = load("cifar10", "train", data_dir=folder)
        images = np.concatenate([images, images[:, :, ::-1]])
        fit(model, images, np.concatenate([labels, labels]), nb_epochs=12, noise=0.1)
        return model

    return Network(kept_or_made(arguments, "residual_cifar", make, test), test[0])


def residual_net() -> keras.Model:
    """A convolution, a block of 16 filters and one of 32, each halving the image."""

    def unit(x: Any, filters: int, size: int = 3, strides: int = 1) -> Any:
        settings = {"strides": strides, "padding": "same", "use_bias": False}
        return layers.BatchNormalization()(layers.Conv2D(filters, size, **settings)(x))

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(unit(inputs, 16, strides=2))
    for filters in (16, 32):
        y = unit(layers.ReLU()(unit(x, filters, strides=2)), filters)
        x = layers.ReLU()(layers.Add()([unit(x, filters, 1, 2), y]))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


def table(arguments: argparse.Namespace, name: str) -> Network:
    """A network of `decide.py tables`; the columns of one question belong to one group."""
    try:
        data = TABLES[name].load()
    except ImportError as error:
        raise Missing(f"give --packages FOLDER ({error})") from None

    def make() -> keras.Model:
        return trained(TABLES[name], data)

    file = name.replace(", ", "_").replace(" ", "_")
    model = kept_or_made(arguments, file, make, data.test)
    return Network(model, data.test[0], one_hot_groups(data.names))


def one_hot_groups(names: list[str]) -> np.ndarray:
    """A label for each column, (W,): one for the columns "question: answer" of a question."""
    questions = [name.partition(": ")[0] for name in names]
    return np.array([list(dict.fromkeys(questions)).index(question) for question in questions])


def kept_or_made(
    arguments: argparse.Namespace, name: str, make: Callable[[], keras.Model], test: Images
) -> keras.Model:
    """A network from the folder of the output, or a new one, which is put there."""
    path = arguments.output.parent / f"{name}.keras"
    if path.exists():
        return keras.models.load_model(path, compile=False)
    keras.utils.set_random_seed(0)
    model = make()
    model.save(path)
    print(f"trained {path.name}: {accuracy(model, *test):.1%} right", flush=True)
    return model


# How each network is made, and the radii at which it is asked, in units of its inputs.
NETWORKS: dict[str, tuple[Callable[[argparse.Namespace], Network], tuple[float, ...]]] = {
    "fc_2x128": (lambda arguments: reference(arguments, "fc_2x128"), (0.02, 0.05)),
    "cnn_small": (lambda arguments: reference(arguments, "cnn_small"), (0.02, 0.05)),
    "certified digits": (certified_digits, (0.02, 0.05)),
    **{
        name: (lambda arguments, name=name: table(arguments, name), (0.1, 1.0))
        for name in ("German Credit, 2x128", "Adult, 2x128")
    },
    CIFAR: (residual_cifar, (1 / 255,)),
}
