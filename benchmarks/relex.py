"""RelEx on attacked images: retrieval, relevance, certified radii and time, in one run.

    python benchmarks/relex.py --data-dir tfds
    python benchmarks/relex.py --data-dir tfds --nb-images 20 --epsilons 2 8
    python benchmarks/relex.py --only digits

For each data set a standard and an adversarially trained CNN are trained. The first test images are
attacked (untargeted, PGD, l_inf, within [0, 1]); all methods explain the class that the network
gives the *clean* image. Maps of other methods become masks by `as_masks`, of their magnitude or of
their positive part, whichever retrieves more; their relevance R is of the signed map or of its
magnitude, whichever is higher. Colours are in [0, 1], and masked-out pixels black.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from xcertify import attributions
from xcertify.attacks import PGD, input_gradient, targeted_map_attack, top_k_attack
from xcertify.attributions import RelEx
from xcertify.commands.networks import accuracy, convolutional_net, fit, predict
from xcertify.datasets import load, load_digits
from xcertify.metrics import (
    ClassRetrieval,
    FeatureRelevance,
    MetricResult,
    as_masks,
    rank_correlation,
    top_k_overlap,
)
from xcertify.plots import plot_curves
from xcertify.regions import Ball

# (images, classes) -> candidates for masks, and for maps
Method = Callable[[np.ndarray, np.ndarray], tuple[list[np.ndarray], list[np.ndarray]]]

TRAINED_EPSILON = 4 / 255
STEPS = 32  # of the curves of relevance
TOP = 100  # pixels of 1024 that are compared
NB_CLASSES = 10  # most classes that masks are learned for in the study of any class
OWN, CLEAN = "retrieval, own masks", "retrieval, masks of the clean images"
RELEVANCE, NORM = "relevance R", "mean l1 norm of the masks"
TABLES = {OWN: 2, CLEAN: 2, RELEVANCE: 3, NORM: 0}  # title -> decimals
RELEX = {
    "RelEx": {},
    "RelEx, start=0.1": {"start": 0.1},
    "RelEx, 100 steps": {"steps": 100, "tolerance": 0},
    "RelEx, without the batch": {"nb_samples": 1},
}
PULLS = {
    'RelEx, form="pull"': {"form": "pull"},
    'RelEx, 100 steps, form="pull"': {"steps": 100, "tolerance": 0, "form": "pull"},
}
OTHERS = {
    "Saliency": {},
    "SmoothGrad": {"noise": 0.1},
    "IntegratedGradients": {"steps": 100},
    "GradientInput": {},
    "Occlusion": {"patch_size": 4, "patch_stride": 2},
    "GradCAM": {},
}


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-dir", help="folder with prepared data sets")
    parser.add_argument("--data", nargs="+", default=["cifar10", "gtsrb"])
    parser.add_argument("--nb-images", type=int, default=20)
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1, 2, 4, 8], help="of 255")
    parser.add_argument("--nb-epochs", type=int, default=10)
    parser.add_argument("--models", type=Path, help="folder of networks: kept, not trained again")
    parser.add_argument(
        "--only", choices=["quality", "cost", "digits"], help="default: quality and cost"
    )
    parser.add_argument("--output", type=Path, help="folder for pictures; default: none are drawn")
    arguments = parser.parse_args()
    tf.get_logger().setLevel("ERROR")  # many networks are traced in one process
    if arguments.only == "digits":
        cost_of_digits()
        return
    start = time.perf_counter()
    if arguments.only != "quality":
        memory()  # first: a peak shows nothing below an earlier one
    for name in arguments.data if arguments.only != "cost" else ():
        train, test = (
            load(name, split, data_dir=arguments.data_dir) for split in ("train", "test")
        )
        for title, model in networks(name, train, arguments.nb_epochs, arguments.models):
            title = f"{name}, {title}, {accuracy(model, *test):.1%} right"
            print(f"\n## {title}", flush=True)
            images = test[0][: arguments.nb_images]
            results = study(model, images, np.array(arguments.epsilons))
            if arguments.output:
                arguments.output.mkdir(exist_ok=True)
                picture = f"relex-{name}-{title.split(', ')[1].split()[0]}.png"
                plot_curves(results).savefig(arguments.output / picture)
    if arguments.only != "quality":
        load_part = partial(load, arguments.data[0], data_dir=arguments.data_dir)
        cost(load_part("train"), load_part("test[:100]")[0])
    print(f"\nAll in {time.perf_counter() - start:.0f} s")


def networks(
    name: str, train: tuple, nb_epochs: int, folder: Path | None
) -> list[tuple[str, keras.Model]]:
    """A standard network, and one that was trained on from there with attacked images."""
    shape, nb_classes = train[0].shape[1:], int(train[1].max()) + 1
    standard, robust = (convolutional_net(shape, nb_classes) for _ in range(2))
    found = [("standard", standard), ("adversarial training", robust)]
    paths = [folder and folder / f"{name}_{title.split()[0]}.weights.h5" for title, _ in found]
    if folder and all(path.exists() for path in paths):
        for path, (_, model) in zip(paths, found):
            model.load_weights(path)
        return found
    fit(standard, *train, nb_epochs=nb_epochs)
    robust.set_weights(standard.get_weights())
    fit_attacked(robust, *train, nb_epochs=nb_epochs)
    if folder:
        folder.mkdir(exist_ok=True)
        for path, (_, model) in zip(paths, found):
            model.save_weights(path)
    return found


def fit_attacked(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, nb_epochs: int
) -> None:
    """Adversarial training (Madry et al.) with three steps of PGD."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    batch = tf.TensorSpec((None, *images.shape[1:]), tf.float32)

    @tf.function(input_signature=[batch, tf.TensorSpec((None,), tf.int64), batch])
    def step(images: tf.Tensor, labels: tf.Tensor, points: tf.Tensor) -> None:
        low = tf.maximum(images - TRAINED_EPSILON, 0)
        high = tf.minimum(images + TRAINED_EPSILON, 1)
        points = tf.clip_by_value(points, low, high)
        for _ in range(3):
            with tf.GradientTape() as tape:
                tape.watch(points)
                value = loss(labels, model(points, training=True))
            points += TRAINED_EPSILON / 2 * tf.sign(tape.gradient(value, points))
            points = tf.clip_by_value(points, low, high)
        with tf.GradientTape() as tape:
            value = loss(labels, model(points, training=True))
        optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)

    generator = np.random.default_rng(0)
    for _ in range(nb_epochs):
        order = generator.permutation(len(images))
        for first in range(0, len(order), 64):
            some = order[first : first + 64]
            noise = generator.uniform(-1, 1, images[some].shape) * TRAINED_EPSILON
            step(images[some], labels[some], (images[some] + noise).astype(np.float32))


class Remembered(RelEx):
    """RelEx that learns the masks of the same images and classes once, for all tables and forms."""

    learned: ClassVar[dict[tuple, tuple[np.ndarray, np.ndarray]]] = {}

    def _learn(self, inputs: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        settings = id(self.model), self.steps, self.nb_samples, self.tolerance, self.start
        key = *settings, inputs.tobytes(), classes.tobytes()
        if key not in self.learned:
            self.learned[key] = super()._learn(inputs, classes)
        return self.learned[key]


def methods(model: keras.Model) -> dict[str, Method]:
    """Name -> what gives the masks and maps of a method; of several candidates the best counts."""

    def others(kind: type, settings: dict) -> Method:
        explainer = kind(model, **settings)

        def explain(images: np.ndarray, classes: np.ndarray) -> tuple[list, list]:
            maps = explainer(images, classes)
            masks = [as_masks(maps, images), as_masks(np.maximum(maps, 0), images)]
            return masks, [maps, np.abs(maps)]

        return explain

    def relex(settings: dict) -> Method:
        explainer = Remembered(model, **settings)

        def explain(images: np.ndarray, classes: np.ndarray) -> tuple[list, list]:
            if explainer.form == "pull":  # the masks are those of the line above
                return [], [explainer(images, classes)]
            masks = explainer.masks(images, classes)
            return [masks], [masks]

        return explain

    found = {name: relex(settings) for name, settings in RELEX.items()}
    found |= {name: others(getattr(attributions, name), s) for name, s in OTHERS.items()}
    return found | {name: relex(settings) for name, settings in PULLS.items()}


def study(
    model: keras.Model, images: np.ndarray, epsilons: np.ndarray
) -> dict[str, dict[str, MetricResult]]:
    """All tables of one network; the first four for a picture."""
    classes = predict(model, images)
    attack = PGD(model, steps=40, restarts=2)
    attacked = [attack(Ball(images, e / 255, clip=(0, 1)), classes).points for e in epsilons]
    kept = [np.mean(predict(model, points) == classes) for points in attacked]
    print("Class kept by the attacked images themselves: ", end="")
    print(", ".join(f"{k:.0%} at {e:g}/255" for e, k in zip(epsilons, kept)), flush=True)
    everything = (images, *attacked)
    retrieval = [ClassRetrieval(model, points, classes) for points in everything]
    relevance = [
        FeatureRelevance(model, points, classes, steps=STEPS, activation="softmax")
        for points in everything
    ]
    tables: dict[str, dict[str, MetricResult]] = {title: {} for title in TABLES}

    def note(title: str, name: str, values: list[np.ndarray]) -> None:
        tables[title][name] = MetricResult(
            metric=title,
            axis=np.array([0, *epsilons]),
            axis_label="epsilon, of 255",
            curves=np.stack(values, axis=1),
            scores=np.mean(values, axis=0),
            tied=np.zeros(len(values[0]), bool),
            higher_is_better=True,
        )

    for name, explain in methods(model).items():
        found = [explain(points, classes) for points in everything]
        scores = [
            [max(metric.detailed_evaluate(m).overall for m in maps)]
            for metric, (_, maps) in zip(relevance, found)
        ]
        note(RELEVANCE, name, np.array(scores))
        if found[0][0]:
            note(OWN, name, [best(metric, masks) for metric, (masks, _) in zip(retrieval, found)])
            note(CLEAN, name, [best(metric, found[0][0]) for metric in retrieval])
            note(NORM, name, [masks[0].reshape(len(images), -1).sum(1) for masks, _ in found])
    for title, curves in tables.items():
        header = " | ".join(f"{e:g}/255" for e in epsilons)
        print(f"\n| {title} | clean | {header} |\n| --- | --- |{' --- |' * len(epsilons)}")
        for name, result in curves.items():
            cells = " | ".join(f"{v:.{TABLES[title]}f}" for v in result.mean_curve)
            print(f"| {name} | {cells} |", flush=True)
    attacked_maps(model, images, classes, attacked[-1], epsilons[-1])
    any_class(model, images[:4], attacked[-1][:4])
    radii(model, images, classes)
    return tables


def best(metric: ClassRetrieval, candidates: list[np.ndarray]) -> np.ndarray:
    """Scores (N,) of the candidate that retrieves most."""
    return max((metric.evaluate_samples(masks) for masks in candidates), key=np.mean)


def attacked_maps(
    model: keras.Model,
    images: np.ndarray,
    classes: np.ndarray,
    untargeted: np.ndarray,
    epsilon: float,
) -> None:
    """Retrieval and similarity of maps under attacks on the gradient as an explanation."""
    region = Ball(images, epsilon / 255, clip=(0, 1))
    weights = np.eye(model.output_shape[1])[classes]
    maps = input_gradient(model, tf.constant(images), weights).numpy()
    attacks = {
        "untargeted": untargeted,
        "structured": targeted_map_attack(
            model, input_gradient, region, maps[::-1], classes
        ).points,
        "unstructured": top_k_attack(model, input_gradient, region, classes, k=TOP).points,
    }
    print(f"\nAttacks of radius {epsilon:g}/255, two of them on the map of the gradient: ", end="")
    print(f"retrieval, Spearman's correlation and overlap of the top {TOP} with the clean map\n")
    print(f"| method | {' | '.join(attacks)} |\n| --- |{' --- |' * len(attacks)}")
    for name, explain in methods(model).items():
        if "RelEx," in name:
            continue
        clean, cells = explain(images, classes)[1][0].mean(-1), []
        for points in attacks.values():
            masks, maps = explain(points, classes)
            retrieved = best(ClassRetrieval(model, points, classes), masks).mean()
            alike = rank_correlation(clean, maps[0].mean(-1)).mean()
            overlap = top_k_overlap(clean, maps[0].mean(-1), TOP).mean()
            cells.append(f"{retrieved:.2f}, {alike:.2f}, {overlap:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def any_class(model: keras.Model, images: np.ndarray, attacked: np.ndarray) -> None:
    """Mean probability of class c in ``m_c * x``, for masks of every class c (at most ten)."""
    some = np.unique(np.linspace(0, model.output_shape[1] - 1, NB_CLASSES).astype(int))
    labels = np.tile(some, len(images))
    print("\nMean probability of class c in what a mask for c keeps, over all c: ", end="")
    for title, points in (("clean", images), ("attacked", attacked)):
        points = np.repeat(points, len(some), axis=0)
        metric = ClassRetrieval(model, points, labels)
        cells = []
        for name, explain in methods(model).items():
            if name in ("RelEx", "Saliency", "IntegratedGradients"):
                curves = metric.detailed_evaluate(explain(points, labels)[0][0]).curves
                cells.append(f"{name} {curves[np.arange(len(labels)), labels].mean():.3f}")
        print(f"{title}: {', '.join(cells)}", end="; ", flush=True)
    print()


def radii(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> None:
    """Certified and attacked radii of what masks keep, and of whole images."""
    explainer = Remembered(model, clip=(0, 1))
    masks = {"RelEx's masks": None, "no mask": np.ones_like(images)}
    print("\nRadii within which the class is kept, medians, of 255:", end=" ")
    for name, mask in masks.items():
        found = explainer.certify(images, classes, mask)
        certified, attacked = (255 * np.median(r) for r in (found.certified, found.attacked))
        print(f"{name} [{certified:.2f}, {attacked:.2f}]", end="; ", flush=True)
    print()


def cost(train: tuple[np.ndarray, np.ndarray], images: np.ndarray) -> None:
    """Time of all images at once and one after the other."""
    model = convolutional_net(images.shape[1:], int(train[1].max()) + 1)
    fit(model, *train, nb_epochs=3)
    labels = predict(model, images)
    print(f"\n## Cost: {len(images)} images of {images.shape[1:]}, 50 steps, 50 copies\n")
    explainer, stopping = RelEx(model, tolerance=0), RelEx(model)
    for compiled in (explainer, stopping):
        compiled.masks(images[:2], labels[:2])
    ways = {
        "all at once": lambda: explainer.masks(images, labels),
        "all at once, settled masks left alone (default)": lambda: stopping.masks(images, labels),
        "one call per image": lambda: [
            explainer.masks(images[n : n + 1], labels[n : n + 1]) for n in range(len(images))
        ],
        "one eager loop per image": lambda: [
            eager(model, images[n], labels[n]) for n in range(0, len(images), 10)
        ],
    }
    for name, way in ways.items():
        seconds = timed(way)
        if "eager" in name:
            seconds, name = 10 * seconds, f"{name} (every tenth, times ten)"
        note(name, seconds)


def cost_of_digits() -> None:
    """Time of 20 digits on a CNN with global pooling, beside that of its plain passes."""
    convolution = partial(keras.layers.Conv2D, padding="same", activation="relu")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *[convolution(8, 3), convolution(8, 3), keras.layers.MaxPooling2D()],
            *[convolution(16, 3), convolution(16, 3), keras.layers.GlobalAveragePooling2D()],
            keras.layers.Dense(10),
        ]
    )
    images, labels = load_digits()
    fit(model, images, labels)
    images = images[::250]
    labels = predict(model, images)
    explainer = RelEx(model, tolerance=0, clip=(0.0, 1.0))
    print(f"## {len(images)} digits, 50 steps, 50 copies\n")
    note("first call, two images", timed(lambda: explainer.masks(images[:2], labels[:2])))
    floor = plain_passes(model, images, labels, 2 * 50 * 50)
    floor()
    for _ in range(2):
        note("masks, tolerance=0", timed(lambda: explainer.masks(images, labels)))
        note("as many passes of the plain network, and back", timed(floor))
    masks = RelEx(model).masks(images, labels)
    for name in ("certify, first call", "certify"):
        note(name, timed(lambda: explainer.certify(images, labels, masks)))


def plain_passes(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, nb_each: int
) -> Callable[[], object]:
    """Passes of a network and gradients by its inputs, as often for each image, of 500 at once."""
    points = np.repeat(images, 500 // len(images), axis=0)
    classes = np.repeat(labels, 500 // len(images))
    nb_calls = nb_each * len(images) // len(points)

    @tf.function
    def passes(points: tf.Tensor, classes: tf.Tensor, nb_calls: tf.Tensor) -> tf.Tensor:
        total = tf.zeros_like(points)
        for _ in tf.range(nb_calls):
            moved = points + 1e-9 * total  # other inputs each time
            with tf.GradientTape() as tape:
                tape.watch(moved)
                value = tf.reduce_sum(tf.gather(model(moved), classes, batch_dims=1))
            total += tape.gradient(value, moved)
        return total

    passes(tf.constant(points), tf.constant(classes), tf.constant(1))
    return lambda: passes(tf.constant(points), tf.constant(classes), tf.constant(nb_calls)).numpy()


def timed(way: Callable[[], object]) -> np.ndarray:
    """Wall time and processor time of a call, (2,), in seconds."""
    start = np.array([time.perf_counter(), time.process_time()])
    way()
    return np.array([time.perf_counter(), time.process_time()]) - start


def note(name: str, seconds: np.ndarray) -> None:
    """Print a line of what a way costs."""
    print(f"{name}: {seconds[0]:.1f} s, {seconds[1]:.1f} s of processor time", flush=True)


def memory() -> None:
    """Growth of the peak of memory on two large images, for growing `batch_size`."""
    print("\n## Memory: 2 images of 224x224x3, 2 steps, 50 copies\n")
    model = convolutional_net((224, 224, 3), 10)
    images = np.random.default_rng(0).uniform(0, 1, (2, 224, 224, 3)).astype(np.float32)
    RelEx(model, nb_samples=1, steps=1).masks(images, [0, 1])  # what any call takes
    for batch_size in (8, 32, 100, 200):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        RelEx(model, steps=2, batch_size=batch_size).masks(images, [0, 1])
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        copies = batch_size * images[0].nbytes / 2**20
        print(
            f"batch_size={batch_size} ({copies:.0f} MiB of copies): peak grows by "
            f"{(after - before) / 2**10:.0f} MiB to {after / 2**10:.0f} MiB",
            flush=True,
        )


def eager(model: keras.Model, image: np.ndarray, label: int, steps: int = 50) -> np.ndarray:
    """The descent as it is usually written: one image, one step after the other, uncompiled."""
    generator = np.random.default_rng(0)
    mask = tf.constant(generator.uniform(0, 0.01, image.shape), tf.float32)
    velocity = tf.zeros_like(mask)
    for _ in range(steps):
        noise = generator.standard_normal((50, *image.shape), np.float32)
        copies = image + 0.1 * np.ptp(image) * noise
        with tf.GradientTape() as tape:
            tape.watch(mask)
            kept = tf.nn.softmax(model(mask * copies))[:, label]
            lost = tf.nn.softmax(model((1 - mask) * copies))[:, label]
            loss = tf.reduce_mean(-tf.math.log(kept) - tf.math.log(1 - lost + 1e-7))
            loss += 1e-4 * tf.reduce_sum(mask)
        gradient = tape.gradient(loss, mask)
        velocity = 0.99 * velocity + gradient / tf.norm(gradient)
        mask = tf.clip_by_value(mask - 0.1 * velocity, 0, 1)
    return mask.numpy()


if __name__ == "__main__":
    main()
