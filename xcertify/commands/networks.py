"""Small networks that the commands train, and what they predict; all put out logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from xcertify.commands.images import CLIP
from xcertify.datasets import Images

layers = keras.layers


def demo_net(shape: tuple[int, ...], nb_classes: int, seed: int = 0) -> keras.Model:
    """Two small convolutions with strides and a dense layer of 50."""
    settings = {"strides": 2, "activation": "relu"}
    return _seeded(
        shape,
        [
            layers.Conv2D(8, 4, **settings),
            layers.Conv2D(16, 4, **settings),
            layers.Flatten(),
            layers.Dense(50, "relu"),
            layers.Dense(nb_classes),
        ],
        keras.initializers.HeUniform,
        seed,
    )


def dense_net(shape: tuple[int, ...], nb_classes: int, seed: int = 0) -> keras.Model:
    """Two layers of 128."""
    return _seeded(
        shape,
        [
            layers.Flatten(),
            layers.Dense(128, "relu"),
            layers.Dense(128, "relu"),
            layers.Dense(nb_classes),
        ],
        keras.initializers.GlorotUniform,
        seed,
    )


def convolutional_net(shape: tuple[int, ...], nb_classes: int, seed: int = 0) -> keras.Model:
    """Two convolutions with strides and a dense layer of 100."""
    settings = {"strides": 2, "padding": "same", "activation": "relu"}
    return _seeded(
        shape,
        [
            layers.Conv2D(16, 4, **settings),
            layers.Conv2D(32, 4, **settings),
            layers.Flatten(),
            layers.Dense(100, "relu"),
            layers.Dense(nb_classes),
        ],
        keras.initializers.GlorotUniform,
        seed,
    )


NETS = {"dense": dense_net, "cnn": convolutional_net}


def _seeded(
    shape: tuple[int, ...],
    made: Sequence[keras.layers.Layer],
    initializer: Callable[..., keras.initializers.Initializer],
    seed: int,
) -> keras.Model:
    """A network of layers, each with a seed of its own that comes from `seed`."""
    weighted = [layer for layer in made if hasattr(layer, "kernel_initializer")]
    for number, layer in enumerate(weighted):
        layer.kernel_initializer = initializer(seed=1000 * seed + number)
    return keras.Sequential([keras.Input(shape), *made])


def fit(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    seed: int = 0,
    nb_epochs: int = 6,
    *,
    learning_rate: float = 1e-3,
    noise: float = 0.0,
    verbose: bool = False,
) -> None:
    """Train by Adam; the order of the images, and the noise on them, come from `seed`.

    Parameters
    ----------
    noise
        Standard deviation of what is added to the pixels, which are kept within their range.
    verbose
        Whether to show a progress bar.
    """
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(learning_rate), loss)
    generator = np.random.default_rng(seed)
    epochs = range(nb_epochs)
    for _ in tqdm(epochs, "training", unit="epoch", leave=False, disable=not verbose):
        order = generator.permutation(len(images))  # Keras would shuffle by its global generator
        seen = images[order]
        if noise:
            seen = seen + noise * generator.standard_normal(images.shape, np.float32)
            seen = np.clip(seen, *CLIP)
        model.fit(seen, labels[order], batch_size=64, shuffle=False, verbose=0)


def predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Predicted classes, (N,)."""
    return np.argmax(model.predict(images, batch_size=512, verbose=0), axis=1)


def accuracy(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images whose class is predicted."""
    return float(np.mean(predict(model, images) == labels))


def on_images(model: keras.Model, shape: tuple[int, ...]) -> keras.Model:
    """A model that takes images of a shape, whatever shape its first layer wants."""
    if model.input_shape[1:] == shape:
        return model
    reshape = layers.Reshape(model.input_shape[1:])
    return keras.Sequential([keras.Input(shape), reshape, *model.layers])


def load_or_train(
    paths: Sequence[str], nets: Sequence[str], train: Images, test: Images, seed: int
) -> Iterator[tuple[str, keras.Model]]:
    """Title and model of each network, loaded or trained; the title says how good it is.

    Parameters
    ----------
    paths
        Files of Keras models. Empty: networks are trained.
    nets
        Which, of `NETS`. Empty: all, for colour images "cnn" only.

    Raises
    ------
    ValueError
        For a name that is not in `NETS`.
    """
    shape, labels = train[0].shape[1:], train[1]
    for path in paths:
        model = on_images(keras.models.load_model(path, compile=False), shape)
        yield f"{Path(path).stem}, {accuracy(model, *test):.1%} right", model
    if paths:
        return
    for net in nets or (list(NETS) if shape[-1] == 1 else ["cnn"]):
        if net not in NETS:
            raise ValueError(f"nets must be of {', '.join(NETS)}. Received: {net!r}")
        model = NETS[net](shape, int(labels.max()) + 1, seed)
        fit(model, *train, seed)
        yield f"{net}, {accuracy(model, *test):.1%} right", model
