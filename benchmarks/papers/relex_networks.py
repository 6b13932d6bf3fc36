"""The data that RelEx is measured on: images, networks, radii, and attacked images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from protocol.data import split
from protocol.networks import VALIDATION_SEED, colour_network, network
from protocol.pieces import Context

from xcertify.attacks import PGD
from xcertify.commands.networks import accuracy, convolutional_net, fit, predict
from xcertify.datasets import Images
from xcertify.regions import Ball

CLEAN = "clean"
TRAINED_EPSILON = 4 / 255  # of adversarial training
NB_EPOCHS = {"mnist": 20, "gtsrb": 10}
NB_CLASSES = {"mnist": 10, "gtsrb": 43}
_COLOUR = {f"{of_255}/255": of_255 / 255 for of_255 in (2, 4, 8)}


@dataclass(frozen=True)
class Case:
    """Images of a data set, and the networks that see them.

    Attributes
    ----------
    data
        The name of the data set.
    title
        In the documentation.
    radii
        Of the attacks, l_inf: how they are written, and what they are.
    nb_images, nb_validation
        Fresh images, and those that settings are chosen on.
    seeds
        Of the networks that are reported.
    attacked
        Whether the networks are trained with attacked images, too.
    nb_seen
        Of the first fresh images: how many older runs of RelEx have looked at.
    """

    data: str
    title: str
    radii: dict[str, float]
    nb_images: int
    nb_validation: int
    seeds: tuple[int, ...]
    attacked: bool = False
    nb_seen: int = 0

    @property
    def all_radii(self) -> dict[str, float]:
        """With that of clean images, 0."""
        return {CLEAN: 0.0, **self.radii}


CASES = {
    "mnist": Case("mnist", "digits", {".05": 0.05, ".1": 0.1}, 40, 20, (1, 2, 3)),
    "cifar10": Case("cifar10", "CIFAR-10", _COLOUR, 16, 6, (1,)),
    "gtsrb": Case("gtsrb", "signs", _COLOUR, 20, 12, (1,), nb_seen=20),
    "gtsrb-attacked": Case("gtsrb", "signs, adversarial training", _COLOUR, 20, 12, (1,), True, 20),
}


@dataclass(frozen=True)
class Measured:
    """Images in front of a network.

    Attributes
    ----------
    images, classes
        (N, H, W, C), and the classes that the network gives them.
    accuracy
        Share of such images, 2,000 at most, whose label the network finds.
    """

    model: keras.Model
    images: np.ndarray
    classes: np.ndarray
    accuracy: float

    def attacked(self, epsilon: float) -> np.ndarray:
        """The images, moved by an untargeted attack."""
        if not epsilon:
            return self.images
        attack = PGD(self.model, steps=40, restarts=2)
        return attack(Ball(self.images, epsilon, clip=(0, 1)), self.classes).points


def measured(context: Context, case: Case, seed: int) -> Measured:
    """The images of a case for a network: fresh, or of validation for that of validation."""
    parts = split(case.data, context)
    if seed == VALIDATION_SEED:
        (images, labels), nb_images = parts.validation, case.nb_validation
    else:
        (images, labels), nb_images = parts.fresh, case.nb_images
    model = network_of(context, case, seed, parts.train)
    right = accuracy(model, images[:2000], labels[:2000])
    if seed != VALIDATION_SEED:
        images = images[case.nb_seen :]
    chosen = images[: 4 if context.quick else nb_images]
    return Measured(model, chosen, predict(model, chosen), right)


def network_of(context: Context, case: Case, seed: int, train: Images) -> keras.Model:
    """The network of a case."""
    if case.data == "cifar10":
        return colour_network(context, seed, train)
    nb_epochs = 1 if context.quick else NB_EPOCHS[case.data]
    build: Callable[[], keras.Model] = partial(
        convolutional_net, train[0].shape[1:], NB_CLASSES[case.data], seed
    )
    if case.data == "mnist":
        build = partial(pooled_net, seed)
    standard = network(
        context,
        f"relex-{case.data}_{seed}",
        build,
        lambda model: fit(model, *train, seed, nb_epochs),
    )
    if not case.attacked:
        return standard

    def train_on(model: keras.Model) -> None:
        model.set_weights(standard.get_weights())
        fit_attacked(model, *train, seed, nb_epochs)

    return network(context, f"relex-{case.data}-attacked_{seed}", build, train_on)


def pooled_net(seed: int) -> keras.Model:
    """Four 3x3 convolutions on digits, then the mean over all places."""
    convolution = partial(keras.layers.Conv2D, kernel_size=3, padding="same", activation="relu")
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *[convolution(8), convolution(8), keras.layers.MaxPooling2D()],
            *[convolution(16), convolution(16), keras.layers.GlobalAveragePooling2D()],
            keras.layers.Dense(10),
        ]
    )


def fit_attacked(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, seed: int, nb_epochs: int
) -> None:
    """Adversarial training (Madry et al.) with three steps of PGD."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    batch = tf.TensorSpec((None, *images.shape[1:]), tf.float32)

    @tf.function(input_signature=[batch, tf.TensorSpec((None,), tf.int64), batch])
    def step(images: tf.Tensor, labels: tf.Tensor, points: tf.Tensor) -> None:
        low = tf.maximum(images - TRAINED_EPSILON, 0)
        high = tf.minimum(images + TRAINED_EPSILON, 1)
        points = tf.clip_by_value(points, low, high)
        for _ in range(3):
            with tf.GradientTape() as tape:
                tape.watch(points)
                value = loss(labels, model(points, training=True))
            points += TRAINED_EPSILON / 2 * tf.sign(tape.gradient(value, points))
            points = tf.clip_by_value(points, low, high)
        with tf.GradientTape() as tape:
            value = loss(labels, model(points, training=True))
        optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)

    generator = np.random.default_rng(seed)
    for _ in range(nb_epochs):
        order = generator.permutation(len(images))
        for first in range(0, len(order), 64):
            some = order[first : first + 64]
            noise = generator.uniform(-1, 1, images[some].shape) * TRAINED_EPSILON
            step(images[some], labels[some], (images[some] + noise).astype(np.float32))
