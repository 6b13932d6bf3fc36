"""How far attacks move attributions, beside what AttributionBound estimates and proves.

    python benchmarks/attribution_bound.py --data-dir DIR --fashion-dir DIR
    python benchmarks/attribution_bound.py --data-dir DIR --pair
    python benchmarks/attribution_bound.py --cost
    python benchmarks/attribution_bound.py --betas --reference FOLDER

After Wang & Kong, A Practical Upper Bound for the Worst-Case Attribution Deviations (2023), tables
2 to 5 in form. Networks are the paper's, narrowed to what two cores train in minutes: four
convolutions (8, 8, 16, 16 filters) and three dense layers (64, 64, 10); a ResNet-18 with 8, 16, 32
and 64 filters instead of 64 to 512. They are trained with softplus, beta 10, in place of ReLU, so
that what is explained is what was trained: as usual, and from there on PGD examples (AT) or by
TRADES.

- *l2*: PGD-20 on the cross-entropy, random starts, as in the paper; and, which the paper does not
  do, PGD-20 that climbs the deviation itself, from a random start and from the worst direction of
  the estimate.
- *l_inf*: the top-k attack in 200 steps, judged by Kendall's correlation; and both PGD-20.

`mean` is the mean deviation of all attacked samples, `worst` the mean over inputs of the largest;
`outside` is the share of attacked samples beyond the estimate T, and beyond c T; `gap` the least
c T - deviation. `outside both`: beyond the lesser of the paper's Corollary 1 and Theorem 2, of up
to 4 images (CIFAR-10: 1). Angles are in degrees. Any sample may have changed its label: estimates
without the label constraint are meant for those as well.
"""

from __future__ import annotations

import argparse
import gzip
import os
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import kendalltau  # scipy comes with mlxtend

from xcertify.attacks import PGD, softplus_copy, top_k_attack
from xcertify.attributions import AttributionBound
from xcertify.attributions.jacobian import largest_deviation
from xcertify.datasets import load
from xcertify.regions import Ball
from xcertify.training import CertifiedWidth, LinearRamp, RegularizedModel

layers = keras.layers
BETA = 10.0
STEPS = 5  # of integrated gradients
TABLES = ("l2", "linf", "attributions")
TRAININGS = ("standard", "AT", "TRADES")
L2 = {"mnist": (0.05, 0.1, 0.2), "fashion": (0.05, 0.1, 0.2), "cifar10": (0.1, 0.2, 0.3)}
LINF = {"mnist": 0.05, "fashion": 0.05, "cifar10": 0.1}
TRAINING_RADIUS = {"mnist": 0.1, "fashion": 0.05, "cifar10": 4 / 255}
K = {"mnist": 100, "fashion": 100, "cifar10": 1000}
Labelled = tuple[np.ndarray, np.ndarray]


def main() -> None:
    """Train, attack, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-dir", help="folder of tensorflow_datasets")
    parser.add_argument(
        "--fashion-dir", type=Path, default=Path("/usr/share/datasets/fashion-mnist")
    )
    parser.add_argument("--data", nargs="+", choices=tuple(L2), default=list(L2))
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--nb-train", type=int, default=6000, help="training images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--nb-l2", type=int, default=200, help="images for l2 (a tenth: CIFAR-10)")
    parser.add_argument("--nb-linf", type=int, default=12, help="images for l_inf (a third: CIFAR)")
    parser.add_argument("--nb-runs", type=int, default=20, help="PGD attacks of each image")
    parser.add_argument("--nb-proved", type=int, default=4, help="images whose deviation is proved")
    parser.add_argument("--cost", action="store_true", help="only processor times on CIFAR sizes")
    parser.add_argument("--pair", action="store_true", help="only estimates beside proofs")
    parser.add_argument(
        "--betas", action="store_true", help="only softplus copies of ReLU networks"
    )
    parser.add_argument("--reference", type=Path, help="folder of reference networks, for --betas")
    arguments = parser.parse_args()
    if arguments.betas:
        betas(arguments.reference)
        return
    if arguments.cost or arguments.pair:
        cost() if arguments.cost else pair(arguments.data_dir)
        return
    nb_attacked = 0
    for name in arguments.data:
        try:
            train, test = data(name, arguments)
        except FileNotFoundError as error:
            print(f"\n**{name}** skipped: {error}")
            continue
        begin = time.process_time()
        models, weights = {}, None
        for training in TRAININGS:  # the robust ones begin with the standard one
            models[training] = trained(name, training, train, arguments.epochs, weights)
            weights = models["standard"].get_weights()
        scores = ", ".join(f"{t} {accuracy(m, test):.1%}" for t, m in models.items())
        print(f"\n**{name}**: accuracy {scores}; trained in {time.process_time() - begin:.0f} s")
        # one model takes the weights of all, so that its graphs are compiled once
        weights = {training: model.get_weights() for training, model in models.items()}
        attribution = "saliency" if name == "cifar10" else "integrated_gradients"
        explainer = AttributionBound(
            models["standard"],
            attribution=attribution,
            clip=(0, 1),
            steps=STEPS,
            method="crown-ibp",
        )
        if "l2" in arguments.tables:
            nb_attacked += l2_table(name, explainer, weights, test, arguments)
        if "linf" in arguments.tables:
            nb_attacked += linf_table(name, explainer, weights, test, arguments)
        if "attributions" in arguments.tables:
            nb_attacked += attribution_table(name, models["TRADES"], test, arguments)
    print(f"\n{nb_attacked} attacked samples in all")


# --- data and models ----------------------------------------------------------------------------


def data(name: str, arguments: Any) -> tuple[Labelled, Labelled]:
    """Training and test images, shuffled."""
    if name == "fashion":
        parts = [fashion(arguments.fashion_dir, part) for part in ("train", "t10k")]
    else:
        parts = [load(name, split, data_dir=arguments.data_dir) for split in ("train", "test")]
    shuffled = []
    for images, labels in parts:
        order = np.random.default_rng(0).permutation(len(images))
        shuffled.append((images[order], labels[order]))
    (images, labels), test = shuffled
    return (images[: arguments.nb_train], labels[: arguments.nb_train]), test


def fashion(folder: Path, part: str) -> Labelled:
    """Fashion-MNIST from the four files that its authors publish."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return pixels.astype(np.float32) / 255, labels.astype(np.int64)


def convolutional() -> keras.Model:
    """Four convolutions and three dense layers."""
    settings = {"kernel_size": 3, "padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, **settings),
            layers.Conv2D(8, strides=2, **settings),
            layers.Conv2D(16, **settings),
            layers.Conv2D(16, strides=2, **settings),
            layers.Flatten(),
            layers.Dense(64, "relu"),
            layers.Dense(64, "relu"),
            layers.Dense(10),
        ]
    )


def residual() -> keras.Model:
    """ResNet-18 for 32x32 with an eighth of the filters."""

    def unit(x: Any, filters: int, size: int = 3, strides: int = 1) -> Any:
        settings = {"strides": strides, "padding": "same", "use_bias": False}
        return layers.BatchNormalization()(layers.Conv2D(filters, size, **settings)(x))

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(unit(inputs, 8))
    for filters in (8, 16, 32, 64):
        for block in range(2):
            strides = 2 if filters > 8 and block == 0 else 1
            y = unit(layers.ReLU()(unit(x, filters, strides=strides)), filters)
            if strides > 1:
                x = unit(x, filters, 1, strides)
            x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def trained(
    name: str, training: str, train: Labelled, nb_epochs: int, weights: Any = None
) -> keras.Model:
    """A network with softplus, trained by one of three methods; from `weights` if there are any."""
    keras.utils.set_random_seed(0)
    copy, beta = softplus_copy(residual() if name == "cifar10" else convolutional())
    beta.assign(BETA)
    if weights is not None:
        copy.set_weights(weights)
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(copy.trainable_variables)
    radius = TRAINING_RADIUS[name]

    def divergence(points: tf.Tensor, labels: tf.Tensor, clean: tf.Tensor) -> tf.Tensor:
        logits = copy(points, training=False)
        if training == "TRADES":
            return tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(clean), logits)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    @tf.function(reduce_retracing=True)
    def step(images: tf.Tensor, labels: tf.Tensor, noise: tf.Tensor) -> None:
        points = images
        if training != "standard":
            clean = copy(images, training=False)
            points = tf.clip_by_value(images + radius * noise, 0, 1)
            for _ in range(4):
                with tf.GradientTape() as tape:
                    tape.watch(points)
                    loss = divergence(points, labels, clean)
                points = points + radius / 2 * tf.sign(tape.gradient(loss, points))
                points = tf.clip_by_value(points, images - radius, images + radius)
                points = tf.clip_by_value(points, 0, 1)
        with tf.GradientTape() as tape:
            logits = copy(images if training == "TRADES" else points, training=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            if training == "TRADES":
                moved = copy(points, training=True)
                clean, attacked = (tf.nn.log_softmax(values) for values in (logits, moved))
                loss += 6 * tf.reduce_sum(tf.exp(clean) * (clean - attacked), axis=1)
            loss = tf.reduce_mean(loss)
        gradients = tape.gradient(loss, copy.trainable_variables)
        optimizer.apply_gradients(zip(gradients, copy.trainable_variables))

    generator = np.random.default_rng(0)
    images, labels = train
    for _ in range(nb_epochs):
        order = generator.permutation(len(images))
        for first in range(0, len(images) - 99, 100):
            part = order[first : first + 100]
            noise = generator.uniform(-1, 1, images[part].shape).astype("f4")
            step(tf.constant(images[part]), tf.constant(labels[part]), tf.constant(noise))
    return copy


# --- attacks ------------------------------------------------------------------------------------


def angles(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Between maps and others of the same inputs, in degrees."""
    first, second = (m.reshape(len(m), -1).astype(float) for m in (maps, others))
    sizes = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = (first * second).sum(axis=1) / np.maximum(sizes, 1e-300)
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


def in_degrees(distances: np.ndarray) -> np.ndarray:
    """Cosine distances as angles."""
    return np.degrees(np.arccos(np.clip(1 - distances, -1, 1)))


def lengths(values: np.ndarray) -> np.ndarray:
    """Euclidean length of each."""
    return np.linalg.norm(values.reshape(len(values), -1).astype(float), axis=1)


class Attacks:
    """Attacks on one model, compiled once for all radii."""

    def __init__(self, explainer: AttributionBound, nb_runs: int) -> None:
        self.explainer, self.nb_runs = explainer, nb_runs
        self.data = [
            tf.Variable(tf.zeros([1] * 4), shape=[None] * 4, trainable=False),
            tf.Variable(tf.zeros([1] * 2), shape=[None] * 2, trainable=False),
        ]
        settings = {"steps": 20, "step_size": 0.25, "batch_size": 250}
        self.label = PGD(objective=self._loss, **settings)
        self.deviation = PGD(objective=self._deviation, **settings)

    def __call__(
        self, inputs: np.ndarray, certificate: Any, epsilon: float, norm: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Attacked points (R, N, *shape) and their maps."""
        points = []
        region = Ball(inputs, epsilon, norm, (0, 1))
        self.data[0].assign(certificate.explanation)
        self.data[1].assign(certificate.targets)
        for start in region.sample(self.nb_runs, seed=1):
            points.append(self.label(region, starts=start).points)
        starts = [*region.sample(1, seed=2), inputs + 0.9 * epsilon * certificate.direction]
        for start in starts:
            points.append(self.deviation(region, starts=start).points)
        maps = [self.explainer._of_features(p, certificate.targets) for p in points]
        return np.stack(points), np.stack(maps)

    def _loss(self, points: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        rows = tf.gather(self.data[1], samples)
        return tf.nn.softmax_cross_entropy_with_logits(rows, self.explainer.network(points))

    def _deviation(self, points: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        rows = tf.gather(self.data[1], samples)
        maps = self.explainer.explanation(self.explainer.network, points, rows)
        return tf.reduce_sum((maps - tf.gather(self.data[0], samples)) ** 2, axis=(1, 2, 3))


def row(title: str, certificate: Any, epsilon: float, maps: np.ndarray, factor: Any) -> int:
    """Print one row of a table; the number of attacked samples."""
    estimate = certificate.euclidean_estimate * epsilon / certificate.epsilon
    original = certificate.explanation
    moved = np.stack([lengths(m - original) for m in maps])
    turned = np.stack([angles(m, original) for m in maps])
    adapted = factor * estimate
    allowance = 2e-6 * lengths(original)  # roundings of float32
    beyond, beyond_adapted = (moved > t + allowance for t in (estimate, adapted))
    at_epsilon = in_degrees(certificate._cosine(adapted))
    vacuous = f" ({(at_epsilon > 90).mean():.0%} none)" if (at_epsilon > 90).any() else ""
    angle = np.median(at_epsilon)
    print(
        f"| {title} | {moved.mean():.3g} | {moved.max(axis=0).mean():.3g} | {estimate.mean():.3g} "
        f"[{beyond.mean():.2%}] | {adapted.mean():.3g} [{beyond_adapted.mean():.3%}] | "
        f"{(adapted - moved).min():.1e} | {turned.mean():.2f} | {angle:.2f}{vacuous} |",
        end="",
        flush=True,
    )
    return moved.size


HEAD = (
    "model",
    "mean",
    "worst",
    "T_e [outside]",
    "c T_e [outside]",
    "gap",
    "mean angle",
    "T_c, median",
)


def head(*more: str) -> None:
    """The head of a table."""
    print("|", " | ".join((*HEAD, *more)), "|\n" + "| --- " * (len(HEAD) + len(more)) + "|")


def factor_at(explainer: AttributionBound, inputs: np.ndarray, c: Any, epsilon: float) -> Any:
    """Equation 11 anew for another radius: the estimate grows with it, the deviation need not."""
    explainer.epsilon, steps = epsilon, (epsilon * c.direction).astype("f4")
    radii = np.full(len(inputs), epsilon)
    about = explainer._jacobian, inputs, c.targets, c.explanation
    observed = largest_deviation(*about, steps, radii, explainer.norm)
    return np.maximum(1, observed / (c.euclidean_estimate * epsilon / c.epsilon))


def accuracy(model: keras.Model, test: Labelled) -> float:
    """On at most 2,000 test images."""
    images, labels = (array[:2000] for array in test)
    return (model.predict(images, 500, verbose=0).argmax(axis=1) == labels).mean()


def l2_table(
    name: str, explainer: AttributionBound, weights: dict, test: Labelled, arguments: Any
) -> int:
    """Tables 3 and 5: integrated gradients, l2."""
    nb_inputs = arguments.nb_l2 // (10 if name == "cifar10" else 1)
    inputs, nb_attacked = test[0][:nb_inputs], 0
    print(f"\n**{name}, l2, {explainer.attribution}**, {nb_inputs} images\n")
    head("proved / T_e / worst, same images", "label attained", "seconds")
    attacks = Attacks(explainer, arguments.nb_runs)
    for training, values in weights.items():
        begin = time.process_time()
        explainer.model.set_weights(values)
        explainer.epsilon, explainer.norm = L2[name][0], 2
        certificate = explainer.certify(inputs)
        for epsilon in L2[name]:
            _, maps = attacks(inputs, certificate, epsilon, 2)
            factor = factor_at(explainer, inputs, certificate, epsilon)
            nb_attacked += row(f"{training}, {epsilon}", certificate, epsilon, maps, factor)
            proof = proved(explainer, inputs, certificate, epsilon, maps, arguments.nb_proved)
            used = time.process_time() - begin
            print(f" {proof} | {certificate.attained.mean():.0%} | {used:.0f} |", flush=True)
    return nb_attacked


def proved(
    explainer: AttributionBound,
    inputs: np.ndarray,
    certificate: Any,
    epsilon: float,
    maps: np.ndarray,
    nb_inputs: int,
) -> str:
    """What is proved for some inputs, beside the estimate and the worst attack of the same."""
    if not nb_inputs:
        return ""
    explainer.epsilon = epsilon
    some, norm = slice(0, nb_inputs), explainer.norm
    bound, _ = explainer._proofs(
        Ball(inputs[some], epsilon, norm, explainer.clip),
        certificate.targets[some],
        certificate.explanation[some],
    )
    moved = np.stack([lengths(m - certificate.explanation) for m in maps]).max(axis=0)[:nb_inputs]
    if (moved > bound).any():
        raise RuntimeError("an attack has beaten a proof")
    estimate = (certificate.euclidean_estimate * epsilon / certificate.epsilon)[:nb_inputs]
    return f"{bound.mean():.3g} / {estimate.mean():.3g} / {moved.mean():.3g}"


def linf_table(
    name: str, explainer: AttributionBound, weights: dict, test: Labelled, arguments: Any
) -> int:
    """Tables 4 and 5: l_inf with the top-k attack in 200 steps."""
    nb_inputs = arguments.nb_linf // (3 if name == "cifar10" else 1)
    inputs, nb_attacked, epsilon = test[0][:nb_inputs], 0, LINF[name]
    print(f"\n**{name}, l_inf {epsilon}, {explainer.attribution}**, {nb_inputs} images\n")
    head(
        "Kendall's correlation",
        "T_e / corollary 1",
        "T_e / theorem 2",
        "outside both",
        "reached / T_e",
        "seconds",
    )
    attacks = Attacks(explainer, arguments.nb_runs)
    for training, values in weights.items():
        begin = time.process_time()
        explainer.model.set_weights(values)
        explainer.epsilon, explainer.norm = epsilon, np.inf
        certificate = explainer.certify(inputs)
        _, maps = attacks(inputs, certificate, epsilon, np.inf)
        region = Ball(inputs, epsilon, clip=(0, 1))
        found = top_k_attack(
            explainer.network,
            explainer.explanation,
            region,
            certificate.targets,
            k=K[name],
            betas=None,
            steps=200,
            step_size=0.1,
        )
        maps = np.concatenate([maps, found.maps[None]])
        nb_attacked += row(training, certificate, epsilon, maps, certificate.factor)
        pairs = zip(found.maps, certificate.explanation)
        correlation = np.mean([kendalltau(*pair).statistic for pair in pairs])
        estimate = certificate.euclidean_estimate
        corollary = epsilon * certificate.singular_value_lower * np.sqrt(inputs[0].size)
        theorem = epsilon * theorem_2(explainer, inputs, certificate)
        known = slice(0, np.isfinite(theorem).sum())
        moved = np.stack([lengths(m - certificate.explanation) for m in maps])[:, known]
        beyond = (moved > np.minimum(corollary, theorem)[known]).mean()
        used = time.process_time() - begin
        print(
            f" {correlation:.3f} | {(estimate / corollary).mean():.3f} | "
            f"{np.nanmean(estimate / theorem):.3f} | {beyond:.2%} | "
            f"{(certificate.reached / estimate).mean():.3f} | {used:.0f} |",
            flush=True,
        )
    return nb_attacked


def theorem_2(explainer: AttributionBound, inputs: np.ndarray, certificate: Any) -> np.ndarray:
    """The root of the sum of |J^T J| of the first inputs; nan for others, for it takes long."""
    values = np.full(len(inputs), np.nan)
    some = slice(0, 1 if inputs[0].size > 1000 else 4)
    matrix = explainer._jacobian.matrix(
        inputs[some], certificate.targets[some], certificate.explanation.shape[1:]
    )
    values[some] = np.sqrt(np.abs(matrix).sum(axis=(1, 2)))
    return values


def attribution_table(name: str, model: keras.Model, test: Labelled, arguments: Any) -> int:
    """Table 2: three attributions without the label constraint, l2."""
    nb_inputs, nb_attacked, epsilon = arguments.nb_l2, 0, L2[name][1]
    inputs = test[0][:nb_inputs]
    print(f"\n**{name}, TRADES, l2 {epsilon}, three attributions**, {nb_inputs} images\n")
    head()
    for attribution in ("saliency", "gradient_input", "integrated_gradients"):
        explainer = AttributionBound(model, epsilon, 2, attribution, clip=(0, 1), steps=STEPS)
        certificate = explainer.certify(inputs)
        _, maps = Attacks(explainer, arguments.nb_runs)(inputs, certificate, epsilon, 2)
        nb_attacked += row(attribution, certificate, epsilon, maps, certificate.factor)
        print(flush=True)
    return nb_attacked


# --- estimates beside proofs --------------------------------------------------------------------


def pair(data_dir: str) -> None:
    """Attacked, estimated and proved deviation of the gradient of small dense networks."""
    images, labels = load("mnist", "train", data_dir=data_dir)
    inputs = load("mnist", "test[:20]", data_dir=data_dir)[0]
    print("\n| training | epsilon | attacked | estimated | proved | proved, cosine distance |")
    print("| --- " * 6 + "|")
    for training, alpha in (("standard", 0.0), ("certified", 0.5)):
        keras.utils.set_random_seed(0)
        dense = [layers.Dense(64, "relu"), layers.Dense(64, "relu"), layers.Dense(10)]
        shape = (28, 28, 1)
        model, beta = softplus_copy(
            keras.Sequential([keras.Input(shape), layers.Flatten(), *dense])
        )
        beta.assign(BETA)
        network = RegularizedModel(model, CertifiedWidth(0.025), alpha)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
        network.fit(images, labels, 100, 8, verbose=0, callbacks=[LinearRamp(4)])
        explainer = AttributionBound(model, 0.01, np.inf, clip=(0, 1), proved=True)
        attacks = Attacks(explainer, 1)
        for explainer.epsilon in (0.001, 0.003, 0.01, 0.03):
            certificate = explainer.certify(inputs)
            _, maps = attacks(inputs, certificate, explainer.epsilon, np.inf)
            moved = np.max([lengths(m - certificate.explanation) for m in maps], axis=0)
            if (moved > certificate.proved_euclidean).any():
                raise RuntimeError("an attack has beaten a proof")
            size = lengths(certificate.explanation)
            shares = moved, certificate.euclidean_estimate, certificate.proved_euclidean
            print(
                f"| {training} | {explainer.epsilon} |",
                " | ".join(f"{np.median(part / size):.3g}" for part in shares),
                f"| {np.median(certificate.proved_cosine):.3g} |",
                flush=True,
            )


# --- softplus copies ----------------------------------------------------------------------------


def betas(folder: Path) -> None:
    """How near copies with softplus are to ReLU networks, and what `beta="auto"` takes."""
    with np.load(folder / "inputs.npz") as file:
        digits = file["x"].astype(np.float32)
    print("| network | beta | same class | logits | gradients | estimate | c | inputs |")
    print("| --- " * 8 + "|")
    for name in ("fc_2x128", "cnn_small"):
        model = keras.models.load_model(folder / f"{name}.keras", compile=False)
        inputs = digits.reshape(-1, *model.input_shape[1:])
        logits = model(inputs).numpy()
        second, first = np.sort(logits, axis=1)[:, -2:].T
        classes = logits.argmax(axis=1)
        gradients = AttributionBound(model, beta=None)(inputs, classes)
        chosen = AttributionBound(model).betas(inputs)
        for beta in (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 10000.0):
            explainer = AttributionBound(model, 0.05, beta=beta)
            found = explainer.certify(inputs, classes)
            copied = explainer.network(inputs).numpy()
            off = np.abs(copied - logits).max(axis=1) / (first - second)
            maps = found.explanation
            cosine = np.cos(np.deg2rad(angles(maps, gradients)))
            share = np.median(found.euclidean_estimate / lengths(maps))
            factor = f"{np.median(found.factor):.2f}" if share > 0 else "-"
            print(
                f"| {name} | {beta:g} | {(copied.argmax(axis=1) == classes).mean():.0%} | "
                f"{np.median(off):.3f}, {off.max():.3f} | {np.median(cosine):.3f}, "
                f"{cosine.min():.3f} | {share:.3g} | {factor} | {(chosen == beta).sum()} |",
                flush=True,
            )


# --- cost ---------------------------------------------------------------------------------------


def cost() -> None:
    """Processor times on an untrained ResNet of CIFAR-10's size; ratios are within this run."""
    large()
    keras.utils.set_random_seed(0)
    model, beta = softplus_copy(residual())
    beta.assign(BETA)
    inputs = np.random.default_rng(0).random((8, 32, 32, 3), dtype="f4")
    explainer = AttributionBound(model, 0.1, 2, clip=(0, 1))

    def seconds(function: Callable, repeats: int) -> float:
        function()
        begin = time.process_time()
        for _ in range(repeats):
            function()
        return (time.process_time() - begin) / repeats

    for some in (inputs[:1], inputs):
        labels = [0] * len(some)
        gradient = seconds(partial(explainer.explain, some, labels), 20) / len(some)
        bound = seconds(partial(explainer.certify, some, labels), 3) / len(some)
        print(
            f"l2, {len(some)} images: a gradient {1e3 * gradient:.1f} ms, certify "
            f"{1e3 * bound:.0f} ms per image, {bound / gradient:.0f} gradients"
        )
    whole = AttributionBound(model, 0.1, np.inf, clip=(0, 1))
    clock = time.time()
    used = seconds(lambda: whole.certify(inputs[:1], [0]), 1)
    print(
        f"l_inf with the whole 3072x3072 matrix: {used:.1f} s of processor time per image, "
        f"{(time.time() - clock) / 2:.1f} s on the clock"
    )
    free = AttributionBound(model, 0.1, np.inf, clip=(0, 1), largest_matrix=0)
    used = seconds(lambda: free.certify(inputs[:1], [0]), 1)
    both = [e.certify(inputs[:1], [0]).euclidean_estimate[0] for e in (whole, free)]
    print(f"l_inf without it: {used:.1f} s, an estimate {both[1] / both[0]:.3f} times as large")


def large() -> None:
    """Memory and time of l2 for four images of 224x224x3 on a small network, before all else."""
    keras.utils.set_random_seed(0)
    some = {"strides": 2, "activation": "softplus"}
    convolutions = [layers.Conv2D(filters, 3, **some) for filters in (8, 16, 16)]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(10)]
    model = keras.Sequential([keras.Input((224, 224, 3)), *convolutions, *head])
    inputs = np.random.default_rng(0).random((4, 224, 224, 3), dtype="f4")
    explainer = AttributionBound(model, 0.1, 2, batch_size=4)
    explainer.explain(inputs)
    before, begin = peak(), time.process_time()
    explainer.explain(inputs)
    gradient, begin = time.process_time() - begin, time.process_time()
    found = explainer.certify(inputs)
    used = time.process_time() - begin
    apart = (found.singular_value_upper / found.singular_value_lower - 1).max()
    print(
        f"l2, 4 images of 224x224x3: {used / 4:.1f} s per image with tracing, "
        f"{used / gradient:.0f} gradients; sides of the singular value {apart:.1%} apart; peak "
        f"grows by {peak() - before:.0f} MiB over {before:.0f}"
    )


def peak() -> float:
    """Largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
