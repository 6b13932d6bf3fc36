"""CORGI (Gu et al., 2020): radii of the top k cells of class activation maps of traffic signs.

The paper's network (8, 8, pool, 16, 16 filters, global average pooling) on the data set `gtsrb`
(32x32 pixels), maps of the predicted class, k = 15, images of classes 12 and 17 of the test part.
Nothing is chosen: k, classes, steps of the attacks and epochs are those of the paper, or were fixed
before. Small runs take digits and a tiny network.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from protocol.data import Split, digits, split
from protocol.networks import SEEDS, network
from protocol.pieces import Context, Piece
from protocol.records import Row

from papers.corgi_figures import figures
from papers.corgi_linear import linear_radii, shares
from papers.corgi_tables import blocks
from xcertify.attacks import PGD
from xcertify.attributions import CORGI
from xcertify.bounds import Verifier
from xcertify.datasets import Images
from xcertify.regions import Ball, as_column

__all__ = ["blocks", "figures", "pieces"]

K = 15
CLASSES = (12, 17)
QUICK_CLASSES = (3,)
EPOCHS = 80
# form, method, images of each class; the first ones are the same, so that forms are paired
FORMS = (
    ("per-channel", "ibp", 24),
    ("per-channel", "crown-ibp", 4),
    ("map", "crown-ibp", 24),
    ("pairwise", "crown-ibp", 24),
    ("per-channel", "crown", 8),
    ("map", "crown", 8),
    ("pairwise", "crown", 12),
)
LARGEST = 0.1  # of the radii that are tested; the smallest is its millionth
TIGHTEST = ("pairwise", "crown")
NB_COUNTED = 4  # images of each class whose unstable neurons are counted
NB_SHARES = 24  # images of each class whose channels are looked at
KS = range(1, 51, 2)
K2S = (15, 16, 17, 18, 20, 23, 27, 33, 40)
VISIBLE = 0.07  # the paper's largest radius


def pieces(quick: bool) -> list[Piece]:
    """Both classes and the channels of every network, and one sign of the first."""
    found = []
    for seed in seeds_of(quick):
        for class_ in classes_of(quick):
            run = partial(radii, seed=seed, class_=class_)
            found.append(Piece(f"signs-{seed}-{class_}", run, 4))
        if seed == SEEDS[0]:
            found.append(Piece("one-sign", one_sign, 3))
        found.append(Piece(f"channels-{seed}", partial(channels, seed=seed), 1))
    return found


def radii(context: Context, seed: int, class_: int) -> list[Row]:
    """Radii of the images of a class, of one network, by all forms and methods, and by attacks."""
    data = images_of(context)
    model = trained(context, seed, data.train)
    images = data.fresh[0][data.fresh[1] == class_]
    said = {"seed": seed, "class": class_}
    return [about(model, data, seed), *radii_of_class(context, model, images, said)]


def about(model: keras.Model, data: Split, seed: int) -> Row:
    """How much a network learned."""
    predicted = np.argmax(model.predict(data.fresh[0], batch_size=512, verbose=0), axis=1)
    right = predicted == data.fresh[1]
    return {"seed": seed, "trained": len(data.train[0]), "fresh": len(right), "right": right.mean()}


def radii_of_class(
    context: Context, model: keras.Model, images: np.ndarray, said: Row
) -> Iterator[Row]:
    """A row for every form and method, then what else is known of the same images."""
    found = {}
    for form, method, count in context.progress(FORMS, f"class {said['class']}"):
        inputs = images[: 2 if context.quick else count]
        explainer = explainer_of(model, form, method, None)
        start = time.process_time()
        radius = explainer.certify(inputs).radius
        seconds = (time.process_time() - start) / len(inputs)
        found[form, method] = radius
        yield said | {"form": form, "method": method, "radius": radius, "seconds": seconds}
    nb_images = max(map(len, found.values()))
    padded = [np.pad(radius, (0, nb_images - len(radius))) for radius in found.values()]
    proved = np.max(padded, axis=0)  # by any form: attacks are tried within it first
    inputs = images[:nb_images]
    targets = np.argmax(model.predict(inputs, verbose=0), axis=1)
    few = len(found["per-channel", "crown"])
    for attack, count in (("gap", nb_images), ("sum", few)):
        explainer = explainer_of(model, *TIGHTEST, attack)
        start = time.process_time()
        distances = attacked(explainer, inputs[:count], targets[:count], proved[:count])
        seconds = (time.process_time() - start) / count
        yield said | {"attack": attack, "attacked": distances, "seconds": seconds}
    yield said | {"linear": linear_radii(explainer, inputs[:few], targets[:few])}
    for form in ("per-channel", "map"):
        counts = nb_unstable(model, inputs[:NB_COUNTED], found[form, "crown"][:NB_COUNTED])
        yield said | {"unstable within": form, "counts": counts}


def explainer_of(model: keras.Model, form: str, method: str, attack: str | None) -> CORGI:
    """CORGI with the settings that are fixed."""
    settings = {"attack": attack, "largest_radius": LARGEST, "batch_size": 24}
    return CORGI(model, K, form=form, method=method, **settings)


def attacked(
    explainer: CORGI, inputs: np.ndarray, targets: np.ndarray, proved: np.ndarray
) -> np.ndarray:
    """Distances (N,) at which its attack moves a cell out; it is first tried within `proved`."""
    maps = explainer._ranked_maps(inputs, targets)
    region = Ball(inputs, as_column(proved, inputs))
    return explainer._attacked(explainer.attack, maps, region)


def nb_unstable(model: keras.Model, inputs: np.ndarray, radius: np.ndarray) -> dict[str, list]:
    """Number of ReLUs of each convolution whose input may change its sign within radii, (N,) each.

    By crown's bounds.
    """
    shown = keras.Sequential([keras.Input(model.input_shape[1:])])
    convolutions = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            settings = layer.get_config() | {"activation": "linear"}
            shown.add(keras.layers.Conv2D.from_config(settings))
            shown.layers[-1].set_weights(layer.get_weights())
            convolutions.append(layer.name)
            shown.add(keras.layers.ReLU())
        else:
            shown.add(layer)
    verifier = Verifier(shown, "crown")
    region = Ball(inputs, as_column(radius, inputs))
    counts = {}
    for number, name in enumerate(convolutions):
        lower, upper = verifier.bound_layer(region, name)
        unstable = ((lower < 0) & (upper > 0)).reshape(len(inputs), -1)
        counts[f"convolution {number + 1} of {unstable.shape[1]:,}"] = unstable.sum(axis=1)
    return counts


def one_sign(context: Context) -> list[Row]:
    """Other k and k2, and the paper's attack, for the first network's image of middle radius."""
    data = images_of(context)
    model = trained(context, SEEDS[0], data.train)
    class_ = classes_of(context.quick)[-1]
    stored = context.records[f"signs-{SEEDS[0]}-{class_}"]["rows"]
    [radius] = [row["radius"] for row in stored if (row.get("form"), row.get("method")) == TIGHTEST]
    one = int(np.argsort(radius)[len(radius) // 2])
    image = data.fresh[0][data.fresh[1] == class_][one : one + 1]
    explainer = explainer_of(model, *TIGHTEST, "gap")
    ks, k2s = (KS[:2], K2S[:2]) if context.quick else (KS, K2S)
    settings = [("k", k, None) for k in ks] + [("k2", K, k2) for k2 in k2s]
    rows: list[Row] = []
    for sweep, explainer.k, explainer.k2 in context.progress(settings, "k and k2"):
        found = explainer.certify(image)
        numbers = {"k": found.k, "k2": found.k2, "gap": found.gap[0]}
        sides = {"radius": found.radius[0], "attacked": found.attacked[0]}
        rows.append({"sweep": sweep, "image": one, "class": class_} | numbers | sides)
    return rows + under_attack(model, image)


def under_attack(model: keras.Model, image: np.ndarray) -> list[Row]:
    """The image and its map at three radii of the paper's attack, with the fewest cells kept."""
    explainer = CORGI(model, K, form=TIGHTEST[0], method=TIGHTEST[1], clip=(0.0, 1.0))
    found = explainer.certify(image)
    radii = {
        "certified": float(found.radius[0]),
        "3 x attacked": 3 * float(found.attacked[0]),
        "visible": VISIBLE,
    }
    rows = [picture("nothing", 0.0, explainer, image, found.targets, found.cells[0])]
    for name, radius in radii.items():
        moved = worst(explainer, image, found.targets, found.cells[0], radius)
        rows.append(picture(name, radius, explainer, moved, found.targets, found.cells[0]))
    return rows


def picture(
    name: str,
    radius: float,
    explainer: CORGI,
    image: np.ndarray,
    targets: np.ndarray,
    top: np.ndarray,
) -> Row:
    """An image, its map and its top cells, for a picture."""
    activation = explainer._activation
    maps = activation.exact_maps(image, activation.target_rows(targets))
    cells = np.argsort(-maps[0], kind="stable")[:K]
    return {
        "attack within": name,
        "radius": radius,
        "image": image[0].round(3),
        "map": explainer.explain(image, targets)[0].round(3),
        "cells": cells,
        "kept": len(set(cells) & set(top)),
        "map shape": activation.shape[:2],
    }


def worst(
    explainer: CORGI, image: np.ndarray, targets: np.ndarray, cells: np.ndarray, radius: float
) -> np.ndarray:
    """The image after the paper's attack within a radius, (1, H, W, C)."""
    rows = tf.constant(explainer._activation.target_rows(targets))
    top = tf.constant(cells)

    def objective(points: tf.Tensor, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        maps = explainer._maps(points, tf.gather(rows, samples))
        best = tf.math.top_k(maps, K).indices
        same = tf.equal(best[:, :, None], tf.cast(top, tf.int32))
        lost = -tf.reduce_sum(tf.cast(same, tf.float32), axis=(1, 2))
        return lost, -tf.reduce_sum(tf.gather(maps, top, axis=1), axis=1)

    attack = PGD(objective=objective, steps=300, step_size=0.1)
    return attack(Ball(image, radius, clip=(0.0, 1.0))).points


def channels(context: Context, seed: int) -> list[Row]:
    """By which channels the cells of a network move that are the first to change places."""
    data = images_of(context)
    model = trained(context, seed, data.train)
    explainer = explainer_of(model, *TIGHTEST, None)
    rows: list[Row] = []
    for class_ in context.progress(classes_of(context.quick), "channels"):
        images = data.fresh[0][data.fresh[1] == class_][: 2 if context.quick else NB_SHARES]
        targets = np.argmax(model.predict(images, verbose=0), axis=1)
        found = shares(explainer, images, targets) | linear_radii(explainer, images, targets)
        rows.append({"seed": seed, "class": class_} | found)
    return rows


def images_of(context: Context) -> Split:
    """Signs; digits of 14x14 pixels in small runs."""
    if not context.quick:
        return split("gtsrb", context)
    return Split(*((images[:, ::2, ::2], labels) for images, labels in digits()))


def classes_of(quick: bool) -> tuple[int, ...]:
    """Which classes are explained."""
    return QUICK_CLASSES if quick else CLASSES


def seeds_of(quick: bool) -> tuple[int, ...]:
    """Of which networks."""
    return SEEDS[:1] if quick else SEEDS


def trained(context: Context, seed: int, train: Images) -> keras.Model:
    """The paper's network; in small runs one with a quarter of the filters."""
    nb_epochs, nb_filters = (1, 2) if context.quick else (EPOCHS, 8)
    shape, nb_classes = train[0].shape[1:], int(train[1].max()) + 1

    def build() -> keras.Model:
        keras.utils.set_random_seed(seed)
        layers = keras.layers
        settings = {"padding": "same", "activation": "relu", "kernel_initializer": "he_normal"}
        return keras.Sequential(
            [
                keras.Input(shape),
                layers.Conv2D(nb_filters, 3, **settings),
                layers.Conv2D(nb_filters, 3, **settings),
                layers.MaxPooling2D(2),
                layers.Dropout(0.2),
                layers.Conv2D(2 * nb_filters, 3, **settings),
                layers.Conv2D(2 * nb_filters, 3, **settings),
                layers.GlobalAveragePooling2D(),
                layers.Dense(nb_classes),
            ]
        )

    def fit(model: keras.Model) -> None:
        nb_steps = nb_epochs * -(-len(train[0]) // 32)
        rate = keras.optimizers.schedules.CosineDecay(5e-3, nb_steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss)
        model.fit(*train, batch_size=32, epochs=nb_epochs, verbose=0)

    return network(context, f"gtsrb-gap_{seed}", build, fit)
