"""Data sets and networks of the study of `certified_gradient`, and how they are trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from protocol.data import NotAtHand, Split, split
from protocol.networks import network
from protocol.pieces import Context, Records
from tabular import Table, load_adult, load_german

from xcertify.datasets import Images, load
from xcertify.training import (
    AdversarialLoss,
    CertifiedWidth,
    GradientDifference,
    GradientNorm,
    HessianNorm,
    LinearRamp,
    RegularizedModel,
    Regularizer,
    WorstCaseLoss,
)

layers = keras.layers
RADIUS = 0.025
TOLERANCE = 0.01  # accuracy on validation that a setting may cost
CLIP = (0, 1)
RADII = (0.003, 0.01, 0.025, 0.05, 0.1)  # of the figures
GRID = (np.linspace(-1.6, 2.6, 60), np.linspace(-1.1, 1.6, 60))  # of half moons
Setting = dict[str, float]


@dataclass(frozen=True)
class Experiment:
    """A data set, its network, and how long it is trained and looked at.

    Attributes
    ----------
    title
        In words.
    load
        Gives the images or rows in three parts, and the columns that tell the gender, or None.
    build
        A network with new weights.
    nb_epochs, batch_size
        Of the training; the radii grow during the first half of the epochs.
    nb_inputs
        Fresh inputs that are attacked and certified.
    nb_drawn
        How many of them the figure shows, of the first network.
    nb_chosen
        Validation inputs that settings are chosen on.
    class_weight
        Of the loss.
    """

    title: str
    load: Callable[[Context], tuple[Split, np.ndarray | None]]
    build: Callable[[], keras.Model]
    nb_epochs: int
    batch_size: int = 100
    nb_inputs: int = 100
    nb_drawn: int = 25
    nb_chosen: int = 50
    class_weight: dict[int, float] | None = None


# --- data ---------------------------------------------------------------------------------------


def digits_parts(context: Context) -> tuple[Split, None]:
    """MNIST; few digits in small runs."""
    found = split("mnist", context)
    return (Split(*(_first(part, 500) for part in found)) if context.quick else found), None


def pneumonia_parts(context: Context) -> tuple[Split, None]:
    """Chest x-rays, as the data set divides them."""
    try:
        parts = [
            load("pneumonia_mnist", part, data_dir=context.data_dir)
            for part in ("train", "validation", "test")
        ]
    except (FileNotFoundError, ValueError) as error:
        raise NotAtHand(
            f"pneumonia_mnist is not prepared in --data-dir {context.data_dir}: {error}"
        ) from error
    return Split(*parts), None


def table_parts(
    load_table: Callable[[], Table], nb_left: int
) -> Callable[[Context], tuple[Split, np.ndarray]]:
    """What loads a table, of which the last training rows are left for validation."""

    def loaded(context: Context) -> tuple[Split, np.ndarray]:
        try:
            table = load_table()
        except ImportError as error:
            raise NotAtHand(str(error)) from error
        inputs, labels = table.train
        parts = slice(None, -nb_left), slice(-nb_left, None)
        train, validation = ((inputs[part], labels[part]) for part in parts)
        return Split(train, validation, table.test), table.sensitive

    return loaded


def two_moons(nb_samples: int = 1000, noise: float = 0.15, seed: int = 42) -> Images:
    """Two interleaved half circles."""
    generator = np.random.default_rng(seed)
    angles = generator.uniform(0, np.pi, nb_samples)
    labels = np.arange(nb_samples) % 2
    upper = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = np.where(labels[:, None] == 0, upper, [1.0, 0.5] - upper)
    return (points + generator.normal(0, noise, points.shape)).astype("float32"), labels


def _first(images: Images, number: int) -> Images:
    return images[0][:number], images[1][:number]


# --- networks -----------------------------------------------------------------------------------


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
    """Two convolutions of 4x4 and two dense layers: the small network of Gowal et al."""
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


def tabular_net(width: int) -> keras.Model:
    """Two layers of 256."""
    return keras.Sequential(
        [
            keras.Input((width,)),
            layers.Dense(256, "relu"),
            layers.Dense(256, "relu"),
            layers.Dense(2),
        ]
    )


EXPERIMENTS = {
    "german": Experiment(
        "German Credit",
        table_parts(load_german, 200),
        lambda: tabular_net(60),
        nb_epochs=20,
        batch_size=32,
        class_weight={0: 2.319, 1: 1.0},
    ),
    "adult": Experiment(
        "Adult",
        table_parts(load_adult, 2000),
        lambda: tabular_net(64),
        nb_epochs=6,
        batch_size=256,
    ),
    "mnist-dense": Experiment("MNIST, dense net", digits_parts, dense_images, nb_epochs=6),
    "mnist-cnn": Experiment(
        "MNIST, CNN",
        digits_parts,
        lambda: convolutional(10),
        nb_epochs=5,
        nb_inputs=50,
        nb_drawn=20,
        nb_chosen=30,
    ),
    "pneumonia": Experiment(
        "PneumoniaMNIST",
        pneumonia_parts,
        lambda: convolutional(2),
        nb_epochs=10,
        nb_inputs=50,
        nb_drawn=20,
        nb_chosen=30,
        class_weight={0: 3.0, 1: 1.0},
    ),
}


# --- trainings ----------------------------------------------------------------------------------

# name -> what makes the regulariser of a setting, and the three settings that are tried
TRAININGS: dict[str, tuple[Callable[[Setting], Regularizer], list[Setting]]] = {
    "standard": (lambda setting: GradientNorm(), [{"alpha": 0.0}]),
    "double backpropagation": (
        lambda setting: GradientNorm(reduction="sum"),
        [{"alpha": alpha} for alpha in (0.02, 0.1, 0.5)],
    ),
    "gradient difference": (
        lambda setting: GradientDifference(RADIUS, reduction="sum"),
        [{"alpha": alpha} for alpha in (0.02, 0.1, 0.5)],
    ),
    "Hessian norm": (
        lambda setting: HessianNorm(reduction="sum"),
        [{"alpha": alpha} for alpha in (0.02, 0.1, 0.5)],
    ),
    "adversarial": (
        lambda setting: AdversarialLoss(setting["epsilon"], clip=CLIP),
        [{"epsilon": epsilon, "alpha": 1.0} for epsilon in (0.0125, 0.025, 0.05)],
    ),
    "certified predictions": (
        lambda setting: WorstCaseLoss(RADIUS),
        [{"alpha": alpha} for alpha in (0.02, 0.1, 0.5)],
    ),
    "certified explanations": (
        lambda setting: CertifiedWidth(setting["epsilon"], setting["gamma"]),
        [
            {"epsilon": 0.0125, "gamma": 0.01, "alpha": 0.5},
            {"epsilon": 0.025, "gamma": 0.02, "alpha": 0.5},
            {"epsilon": 0.025, "gamma": 0.02, "alpha": 2.0},
        ],
    ),
}


# what is reported together: what stands beside the paper's trainings, and these
_BESIDE = ("adversarial", "certified predictions")
GROUPS = {"": tuple(one for one in TRAININGS if one not in _BESIDE), "robust-": _BESIDE}

Trainer = Callable[[Images, int], None]


def trainer(
    model: keras.Model, experiment: Experiment, regularizer: Regularizer, alpha: float
) -> Trainer:
    """What trains a model in place, on (examples, nb_epochs); compiled once for several calls."""
    trained = RegularizedModel(model, regularizer, alpha)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(1e-3)
    trained.compile(optimizer, loss, jit_compile=False)
    optimizer.build(trained.trainable_variables)
    start = [np.array(variable) for variable in optimizer.variables]

    def train(examples: Images, nb_epochs: int) -> None:
        for variable, value in zip(optimizer.variables, start):
            variable.assign(value)
        trained.fit(
            *examples,
            batch_size=experiment.batch_size,
            epochs=nb_epochs,
            class_weight=experiment.class_weight,
            callbacks=[LinearRamp(max(1, nb_epochs // 2))],
            verbose=0,
        )

    return train


def trained_network(
    context: Context, name: str, training: str, setting: Setting, seed: int, examples: Images
) -> keras.Model:
    """The network of a data set, trained in one way, or its kept weights."""
    experiment = EXPERIMENTS[name]
    make, _ = TRAININGS[training]

    def build() -> keras.Model:
        keras.utils.set_random_seed(seed)
        return experiment.build()

    def fit(model: keras.Model) -> None:
        keras.utils.set_random_seed(seed)
        nb_epochs = 1 if context.quick else experiment.nb_epochs
        trainer(model, experiment, make(setting), setting["alpha"])(examples, nb_epochs)

    words = [f"{key}{value:g}" for key, value in setting.items()]
    title = "-".join([f"certified-gradient-{name}", training.replace(" ", "-"), *words])
    return network(context, f"{title}_{seed}", build, fit)


def chosen(records: Records, name: str, training: str) -> Setting:
    """The setting with most explanations proved among those that cost little accuracy.

    At most a point against standard training; the most accurate one if all cost more. Where
    settings prove equally many, that with the smallest median of the largest changes proved.
    """
    settings = TRAININGS[training][1]
    if f"validation-{name}" not in records:
        raise NotAtHand(f"settings are not chosen: the piece validation-{name} was not run")
    rows = records[f"validation-{name}"]["rows"]
    rows, standard = (
        [row for row in rows if row["training"] == which] for which in (training, "standard")
    )
    if not rows:  # in small runs
        return settings[0]
    good = [row for row in rows if row["accuracy"] >= standard[0]["accuracy"] - TOLERANCE]
    if not good:
        return max(rows, key=lambda row: row["accuracy"])["setting"]
    return max(good, key=lambda row: (row["certified"], -row["change"]))["setting"]


def in_words(setting: Setting) -> str:
    """A setting as the documentation shows it."""
    return ", ".join(f"{key} {value:g}" for key, value in setting.items())


def as_bits(found: Any) -> str:
    """Yes or no for each input, in little room: "1011"."""
    return "".join("1" if one else "0" for one in found)
