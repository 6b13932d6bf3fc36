"""The colour network of the protocol: four convolutions, for images of 32 x 32 pixels.

Small enough to be trained on two cores and to be verified: few layers, two of them with strides,
and none but convolutions with batch normalization (which the engine folds into them), ReLU, the
mean over places and a dense layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import keras
import numpy as np

SHAPE, NB_CLASSES = (32, 32, 3), 10
CONVOLUTIONS = ((32, 1), (64, 2), (128, 2), (128, 1))  # filters and stride
BATCH_SIZE, WEIGHT_DECAY = 128, 5e-4
MEANS, DEVIATIONS = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)  # of CIFAR-10's channels


def build(seed: int) -> keras.Model:
    """An untrained network whose initial weights come from `seed`; it puts out logits.

    Parameters
    ----------
    seed
        A whole number; each layer has its own that is derived from it.

    Returns
    -------
    model
        From images (N, 32, 32, 3), values in [0, 1], to logits (N, 10).
    """
    layers = keras.layers
    inputs = keras.Input(SHAPE)
    hidden = _standardized(inputs)
    for number, (filters, strides) in enumerate(CONVOLUTIONS):
        hidden = layers.Conv2D(
            filters,
            3,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer=keras.initializers.HeNormal(seed=1000 * seed + number),
        )(hidden)
        hidden = layers.BatchNormalization()(hidden)
        hidden = layers.ReLU()(hidden)
    hidden = layers.GlobalAveragePooling2D()(hidden)
    initializer = keras.initializers.GlorotUniform(seed=1000 * seed + len(CONVOLUTIONS))
    return keras.Model(inputs, layers.Dense(NB_CLASSES, kernel_initializer=initializer)(hidden))


def _standardized(images: keras.KerasTensor) -> keras.KerasTensor:
    """Channels of mean 0 and deviation 1, by numbers that are stored and do not learn.

    A `Normalization` does the same with constants that Keras rounds to float32 at every call. The
    bounds allow for that, and four layers make of it more than the margin of two classes at the
    boundary: no point of an attack could be proved to be of another class.
    """
    constant = keras.initializers.Constant
    return keras.layers.BatchNormalization(
        epsilon=1e-7,
        center=False,
        scale=False,
        moving_mean_initializer=constant(np.array(MEANS)),
        moving_variance_initializer=constant(np.square(DEVIATIONS)),
        trainable=False,
    )(images)


def train(
    model: keras.Model,
    train: tuple[np.ndarray, np.ndarray],
    seed: int,
    nb_epochs: int = 60,
    progress: Callable[[Iterable[int], str], Iterable[int]] | None = None,
) -> None:
    """Train by stochastic gradient descent on images that are shifted, mirrored and cut.

    Nesterov's momentum, a step that rises for a twentieth of the time and then falls as a cosine,
    weight decay, and labels smoothed by a tenth.

    Parameters
    ----------
    model
        Of `build`; its weights change.
    train
        Images (N, 32, 32, 3) in [0, 1] and labels (N,).
    seed
        Of the order of the images and of what is done to them.
    nb_epochs
        How often each image is seen.
    progress
        Takes the epochs and what they are, and hands them on.
    """
    images, labels = train
    nb_steps = nb_epochs * -(-len(images) // BATCH_SIZE)
    nb_rising = max(1, nb_steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-3, max(1, nb_steps - nb_rising), warmup_target=0.1, warmup_steps=nb_rising
    )
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        jit_compile=False,
    )
    generator = np.random.default_rng(seed)
    answers = np.eye(NB_CLASSES, dtype=np.float32)[labels]
    epochs: Iterable[int] = range(nb_epochs)
    for _ in progress(epochs, "epochs") if progress else epochs:
        order = generator.permutation(len(images))
        seen = augmented(images[order], generator)
        model.fit(seen, answers[order], batch_size=BATCH_SIZE, shuffle=False, verbose=0)


def augmented(
    images: np.ndarray, generator: np.random.Generator, shift: int = 4, hole: int = 8
) -> np.ndarray:
    """Each image mirrored with probability a half, shifted, and with a square of it made grey.

    Parameters
    ----------
    images
        (N, H, W, C).
    generator
        Of what is drawn.
    shift
        Most pixels that an image moves up, down, left or right; behind it comes grey.
    hole
        Side of the square, in pixels; its middle may be anywhere in the image. 0: none.

    Returns
    -------
    augmented
        (N, H, W, C), a copy.
    """
    nb_images, height, width, _ = images.shape
    grey = np.asarray(MEANS, images.dtype)
    mirrored = generator.random((nb_images, 1, 1, 1)) < 0.5
    images = np.where(mirrored, images[:, :, ::-1], images)
    margin = [(0, 0), (shift, shift), (shift, shift), (0, 0)]
    padded = np.pad(images - grey, margin)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    rows, columns = generator.integers(2 * shift + 1, size=(2, nb_images))
    shifted = windows[np.arange(nb_images), rows, columns].transpose(0, 2, 3, 1)
    top = generator.integers(height, size=(nb_images, 1)) - hole // 2
    left = generator.integers(width, size=(nb_images, 1)) - hole // 2
    in_rows = (np.arange(height) >= top) & (np.arange(height) < top + hole)
    in_columns = (np.arange(width) >= left) & (np.arange(width) < left + hole)
    kept = ~(in_rows[:, :, None] & in_columns[:, None, :])
    return shifted * kept[..., None] + grey
