"""Networks with softplus in place of ReLU: trained as usual, on attacked images, and by TRADES.

Of the kinds of Wang & Kong, section 5, but narrower, so that two cores train them: for grey images
four convolutions and three dense layers, and for CIFAR-10 the colour network of the protocol, whose
weights are trained with ReLU and then go on with softplus.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from protocol.colour_networks import augmented
from protocol.networks import colour_network, network
from protocol.pieces import Context

from xcertify.attacks import softplus_copy
from xcertify.datasets import Images

BETA = 10.0
TRAININGS = ("standard", "AT", "TRADES")
TRADES_WEIGHT = 6.0  # of the divergence
BATCH_SIZE = 100

layers = keras.layers


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the networks of a data set are trained.

    Parameters
    ----------
    radius
        In l_inf, of attacked images.
    nb_epochs
        Of the network that is trained as usual, and of each of the others, which begin with it.
    rate
        Adam's; it falls to 0 as a cosine.
    nb_ascents
        Steps of an attack in training.
    shift
        Most pixels by which images are moved, which are mirrored, too; 0: as they are.
    """

    radius: float
    nb_epochs: tuple[int, int]
    rate: float
    nb_ascents: int = 4
    shift: int = 0


RECIPES = {
    "mnist": Recipe(0.1, (8, 4), 3e-3),
    "fashion_mnist": Recipe(0.05, (8, 4), 3e-3),
    "cifar10": Recipe(4 / 255, (2, 4), 5e-4, nb_ascents=2, shift=4),
}


def softplus_networks(
    context: Context, name: str, seed: int, train: Images
) -> dict[str, keras.Model]:
    """The three networks of a data set, by training; trained unless their weights are kept.

    Parameters
    ----------
    context
        Where weights are kept.
    name
        Of the data set, one of `RECIPES`.
    seed
        Of initial weights, of the order of images and of attacks.
    train
        Images and labels.
    """
    models: dict[str, keras.Model] = {}
    for training in TRAININGS:
        start = models["standard"].get_weights() if models else None

        def build(start: list | None = start) -> keras.Model:
            colour = name == "cifar10"
            plain = colour_network(context, seed, train) if colour else convolutional(seed)
            copy, beta = softplus_copy(plain)
            beta.assign(BETA)
            if start is not None:
                copy.set_weights(start)
            return copy

        def fit(model: keras.Model, training: str = training) -> None:
            train_softplus(context, model, RECIPES[name], training, seed, train)

        title = f"{name}-softplus-{training.lower()}_{seed}"
        models[training] = network(context, title, build, fit)
    return models


def convolutional(seed: int) -> keras.Model:
    """Four convolutions and three dense layers with ReLU, for grey images of 28 x 28 pixels."""
    keras.utils.set_random_seed(seed)
    settings = {"kernel_size": 3, "padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, **settings),
            layers.Conv2D(8, strides=2, **settings),
            layers.Conv2D(16, **settings),
            layers.Conv2D(16, strides=2, **settings),
            layers.Flatten(),
            layers.Dense(64, "relu"),
            layers.Dense(64, "relu"),
            layers.Dense(10),
        ]
    )


def residual() -> keras.Model:
    """An untrained ResNet-18 for 32x32 with an eighth of the filters."""

    def unit(x: keras.KerasTensor, filters: int, size: int = 3, strides: int = 1) -> object:
        settings = {"strides": strides, "padding": "same", "use_bias": False}
        return layers.BatchNormalization()(layers.Conv2D(filters, size, **settings)(x))

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(unit(inputs, 8))
    for filters in (8, 16, 32, 64):
        for block in range(2):
            strides = 2 if filters > 8 and block == 0 else 1
            y = unit(layers.ReLU()(unit(x, filters, strides=strides)), filters)
            if strides > 1:
                x = unit(x, filters, 1, strides)
            x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def train_softplus(
    context: Context,
    model: keras.Model,
    recipe: Recipe,
    training: str,
    seed: int,
    train: Images,
) -> None:
    """Train a network in place; in small runs for an epoch of 600 images.

    Statistics of batch normalization are measured at first, for softplus puts out other numbers
    than the ReLU of which they were, and stay as they are.

    Parameters
    ----------
    context
        Whether this is a small run.
    model
        Of images in [0, 1]; it puts out logits.
    recipe
        How it is trained.
    training
        One of `TRAININGS`: on images, on attacked images (AT), or on images with a penalty of what
        an attack changes (TRADES).
    seed
        Of the order of images and of what is drawn.
    train
        Images and labels.
    """
    images, labels = (array[: 600 if context.quick else None] for array in train)
    nb_epochs = 1 if context.quick else recipe.nb_epochs[training != "standard"]
    nb_batches = len(images) // BATCH_SIZE
    rate = keras.optimizers.schedules.CosineDecay(recipe.rate, nb_epochs * nb_batches)
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(model.trainable_variables)
    _measure_statistics(model, images[: 20 * BATCH_SIZE])
    step = _step(model, recipe, training, optimizer)
    generator = np.random.default_rng(seed)
    for _ in context.progress(range(nb_epochs), f"{training}, epochs"):
        order = generator.permutation(len(images))
        for part in order[: nb_batches * BATCH_SIZE].reshape(nb_batches, -1):
            some = images[part]
            if recipe.shift:
                some = augmented(some, generator, recipe.shift, hole=0)
            noise = generator.uniform(-1, 1, some.shape)
            step(*(tf.constant(array, tf.float32) for array in (some, noise)), labels[part])


def _measure_statistics(model: keras.Model, images: np.ndarray) -> None:
    """Set the statistics of batch normalization to those of some images."""
    found = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    momenta = [layer.momentum for layer in found]
    for number, first in enumerate(range(0, len(images) if found else 0, BATCH_SIZE)):
        for layer in found:
            layer.momentum = number / (number + 1)  # the mean over batches so far
        model(images[first : first + BATCH_SIZE], training=True)
    for layer, momentum in zip(found, momenta):
        layer.momentum = momentum


def _step(
    model: keras.Model, recipe: Recipe, training: str, optimizer: keras.optimizers.Optimizer
) -> Callable:
    """What changes the weights by a batch of images, noise between -1 and 1, and labels."""
    radius = recipe.radius
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits

    def attacked(images: tf.Tensor, noise: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        clean = tf.nn.softmax(model(images))
        points = tf.clip_by_value(images + radius * noise, 0, 1)
        for _ in range(recipe.nb_ascents):
            with tf.GradientTape() as tape:
                tape.watch(points)
                logits = model(points)
                loss = cross_entropy(labels, logits)
                if training == "TRADES":
                    loss = tf.nn.softmax_cross_entropy_with_logits(clean, logits)
            ascent = 2 * radius / recipe.nb_ascents * tf.sign(tape.gradient(loss, points))
            points = tf.clip_by_value(points + ascent, images - radius, images + radius)
            points = tf.clip_by_value(points, 0, 1)
        return points

    @tf.function(reduce_retracing=True)
    def step(images: tf.Tensor, noise: tf.Tensor, labels: tf.Tensor) -> None:
        points = images if training == "standard" else attacked(images, noise, labels)
        with tf.GradientTape() as tape:
            logits = model(images if training == "TRADES" else points)
            loss = cross_entropy(labels, logits)
            if training == "TRADES":
                clean, other = tf.nn.log_softmax(logits), tf.nn.log_softmax(model(points))
                loss += TRADES_WEIGHT * tf.reduce_sum(tf.exp(clean) * (clean - other), axis=1)
            loss = tf.reduce_mean(loss)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    return step
