"""How far attacks move attributions, beside what AttributionBound estimates and proves.

Source: Wang & Kong, A Practical Upper Bound for the Worst-Case Attribution Deviations, CVPR 2023,
Tables 2 to 5 in form.

- *l2*: PGD-20 on the cross-entropy, random starts, as in the paper; and, which the paper does not
  do, PGD-20 that climbs the deviation itself, from a random start and from the worst direction of
  the estimate.
- *linf*: the same, and the top-k attack in 200 steps, judged by Kendall's correlation.

Any sample may have changed its label: estimates without the label constraint are meant for those as
well, and those that kept it are counted, too. Angles are in degrees.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from protocol.data import LEFT, split
from protocol.networks import SEEDS, VALIDATION_SEED, digits_network
from protocol.pieces import Context, Piece
from protocol.records import Row
from scipy.stats import kendalltau  # scipy comes with mlxtend

from papers.attribution_bound_networks import (
    BETA,
    convolutional,
    residual,
    softplus_networks,
)
from papers.attribution_bound_tables import blocks
from xcertify.attacks import PGD, softplus_copy, top_k_attack
from xcertify.attributions import AttributionBound
from xcertify.attributions.jacobian import largest_deviation
from xcertify.certificates import DeviationCertificate
from xcertify.datasets import Images
from xcertify.regions import Ball
from xcertify.training import CertifiedWidth, LinearRamp, RegularizedModel

__all__ = ["blocks", "pieces"]

DATA = ("mnist", "fashion_mnist", "cifar10")
ATTRIBUTIONS = ("saliency", "gradient_input", "integrated_gradients")
STEPS = 5  # of integrated gradients
L2 = {
    "mnist": (0.05, 0.1, 0.2),
    "fashion_mnist": (0.05, 0.1, 0.2),
    "cifar10": (0.1, 0.2, 0.3),
}
LINF = {"mnist": (0.05,), "fashion_mnist": (0.05,), "cifar10": (4 / 255, 0.1)}
K = {"mnist": 100, "fashion_mnist": 100, "cifar10": 1000}
NB_L2 = {"mnist": 60, "fashion_mnist": 60, "cifar10": 40}
NB_LINF = {"mnist": 8, "fashion_mnist": 8, "cifar10": 20}
NB_WHOLE = {"mnist": 4, "fashion_mnist": 4, "cifar10": 2}  # of these Theorem 2 is computed
NB_RUNS = 20  # attacks on the cross-entropy, of each image
NB_RIGHT = 500  # images of which accuracies are
NB_PROVED = 2  # at the least radius of l2
PROOF_RADII = (0.001, 0.003, 0.01, 0.03)
BETAS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 10000.0)
EARLIER = 250  # test images, of a random order, that earlier runs have attacked


def pieces(quick: bool) -> list[Piece]:
    """Tables 2 to 5 for each data set and network; proofs; copies of ReLU networks; cost."""
    seeds = SEEDS[:1] if quick else SEEDS
    found = []
    for name in DATA[:1] if quick else DATA:
        for seed in (VALIDATION_SEED,) if name == "cifar10" else seeds:  # one that is shared
            about, more = {"name": name, "seed": seed}, 2 if name == "cifar10" else 0
            found.append(Piece(f"{name}-l2-{seed}", partial(l2, **about), 2 + 3 * more))
            found.append(Piece(f"{name}-linf-{seed}", partial(linf, **about), 2 + more))
            found.append(Piece(f"{name}-attributions-{seed}", partial(attributions, **about), 2))
    for seed in seeds:
        found.append(Piece(f"proofs-{seed}", partial(proofs, seed), 2))
        found.append(Piece(f"copies-{seed}", partial(copies, seed), 2))
    return [*found, Piece("cost", cost, 1)]


def fresh(context: Context, name: str, nb_images: int) -> Images:
    """Test images that no earlier run has used, and their labels."""
    images, labels = split(name, context).fresh
    first = LEFT[name][1]
    earlier = np.random.default_rng(0).permutation(first + len(images))[:EARLIER] - first
    some = np.setdiff1d(np.arange(len(images)), earlier)[:nb_images]
    return images[some], labels[some]


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
    """Attacks on what an explainer explains, compiled once for all radii and weights."""

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
        self, certificate: DeviationCertificate, epsilon: float, norm: float
    ) -> np.ndarray:
        """Attacked points (R, N, *shape)."""
        inputs = certificate.region.center
        region = Ball(inputs, epsilon, norm, (0, 1))
        steepest = inputs + 0.9 * epsilon * certificate.direction
        climbing = np.concatenate([region.sample(1, seed=2), steepest[None]])
        found = []
        for attack, starts in (
            (self.label, region.sample(self.nb_runs, seed=1)),
            (self.deviation, climbing),
        ):
            centers, maps, targets = (
                np.concatenate([array] * len(starts))
                for array in (inputs, certificate.explanation, certificate.targets)
            )
            self.data[0].assign(maps)
            self.data[1].assign(targets)
            regions = Ball(centers, epsilon, norm, (0, 1))
            points = attack(regions, starts=starts.reshape(centers.shape)).points
            found.append(points.reshape(starts.shape))
        return np.concatenate(found)

    def _loss(self, points: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        rows = tf.gather(self.data[1], samples)
        return tf.nn.softmax_cross_entropy_with_logits(rows, self.explainer.network(points))

    def _deviation(self, points: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        rows = tf.gather(self.data[1], samples)
        maps = self.explainer.explanation(self.explainer.network, points, rows)
        return tf.reduce_sum((maps - tf.gather(self.data[0], samples)) ** 2, axis=(1, 2, 3))


def moved(
    attacks: Attacks,
    certificate: DeviationCertificate,
    points: np.ndarray,
    epsilon: float,
    factor: np.ndarray,
) -> Row:
    """How far R attacks moved the map of each image, and how many are beyond the estimates."""
    explainer = attacks.explainer
    estimate = certificate.euclidean_estimate * epsilon / certificate.epsilon
    original, targets = certificate.explanation, certificate.targets
    maps = [explainer._of_features(p, targets) for p in points]
    distances = np.stack([lengths(m - original) for m in maps])
    turned = np.stack([angles(m, original) for m in maps])
    network = explainer.network
    kept = np.stack([np.asarray(network(p)).argmax(1) == targets.argmax(1) for p in points])
    allowance = 2e-6 * lengths(original)  # roundings of float32
    beyond, beyond_adapted = (distances > t + allowance for t in (estimate, factor * estimate))
    papers = np.arange(len(points)) - attacks.nb_runs
    papers = (papers < 0) | (papers >= 2)  # those that do not climb the deviation
    return {
        "epsilon": epsilon,
        "attacks": len(points),
        "attacks_paper": int(papers.sum()),
        "beyond_paper": beyond[papers].sum(axis=0),
        "beyond_adapted_paper": beyond_adapted[papers].sum(axis=0),
        "mean": rounded(distances.mean(axis=0)),
        "worst": rounded(distances.max(axis=0)),
        "estimate": rounded(estimate),
        "adapted": rounded(factor * estimate),
        "gap": rounded(factor * estimate - distances.max(axis=0)),
        "angle": rounded(turned.mean(axis=0)),
        "angle_estimate": rounded(in_degrees(certificate._cosine(factor * estimate))),
        "kept": kept.sum(axis=0),
        "beyond": beyond.sum(axis=0),
        "beyond_kept": (beyond & kept).sum(axis=0),
        "beyond_adapted": beyond_adapted.sum(axis=0),
        "beyond_adapted_kept": (beyond_adapted & kept).sum(axis=0),
        "attained": certificate.attained,
    }


def rounded(values: np.ndarray) -> list[float]:
    """Six digits of each."""
    return [float(f"{value:.6g}") for value in values]


def factor_at(
    explainer: AttributionBound, certificate: DeviationCertificate, epsilon: float
) -> np.ndarray:
    """Equation 11 anew for another radius: the estimate grows with it, the deviation need not."""
    c = certificate
    inputs, steps = c.region.center, (epsilon * c.direction).astype(np.float32)
    about = explainer._jacobian, inputs, c.targets, c.explanation
    radii = np.full(len(inputs), epsilon)
    observed = largest_deviation(*about, steps, radii, explainer.norm)
    return np.maximum(1, observed / (c.euclidean_estimate * epsilon / c.epsilon))


# --- tables 2 to 5 ------------------------------------------------------------------------------


def trained_explainer(
    context: Context, name: str, seed: int, **settings: Any
) -> tuple[AttributionBound, Iterator[Row]]:
    """An explainer, and what is known of the network of each training.

    The explainer's model takes the weights of the network as the iterator comes to it, so that
    graphs are compiled once. In small runs only the last one comes.
    """
    models = softplus_networks(context, name, seed, split(name, context).train)
    images, labels = fresh(context, name, NB_RIGHT)
    weights = {training: model.get_weights() for training, model in models.items()}
    explainer = AttributionBound(models["standard"], clip=(0, 1), steps=STEPS, **settings)

    def in_turn() -> Iterator[Row]:
        for training, values in list(weights.items())[-1 if context.quick else 0 :]:
            explainer.model.set_weights(values)
            right = explainer.model.predict(images, 500, verbose=0).argmax(axis=1) == labels
            about = {"data": name, "seed": seed, "training": training, "images": len(images)}
            yield about | {"right": int(right.sum())}

    return explainer, in_turn()


def l2(context: Context, name: str, seed: int) -> list[Row]:
    """Tables 3 and 5: integrated gradients, l2; and proofs for a few images of one network."""
    inputs, _ = fresh(context, name, 2 if context.quick else NB_L2[name])
    attribution = "saliency" if name == "cifar10" else "integrated_gradients"
    settings = {"attribution": attribution, "norm": 2, "method": "crown-ibp"}
    explainer, networks = trained_explainer(context, name, seed, **settings)
    attacks = Attacks(explainer, 2 if context.quick else NB_RUNS)
    radii = L2[name][: 1 if context.quick else None]

    def measured(about: Row) -> Iterator[Row]:
        explainer.epsilon = radii[0]
        certificate = explainer.certify(inputs)
        for epsilon in context.progress(radii, f"{name} {seed} {about['training']}"):
            factor = factor_at(explainer, certificate, epsilon)
            points = attacks(certificate, epsilon, 2)
            row = about | moved(attacks, certificate, points, epsilon, factor)
            if (seed, epsilon, row["training"]) == (SEEDS[0], radii[0], "standard"):
                row |= proved(explainer, certificate, row) if name != "cifar10" else {}
            yield row

    about = {"attribution": attribution, "norm": "2"}
    return [row for net in networks for row in attempted(measured, net | about, radii)]


def attempted(
    measure: Callable[[Row], Iterator[Row]], about: Row, radii: Sequence[float]
) -> list[Row]:
    """The rows of a network, or why there are none."""
    try:
        return list(measure(about))
    except (ValueError, MemoryError, tf.errors.OpError) as error:
        failed = f"{type(error).__name__}: {error}"[:200]
        return [about | {"epsilon": epsilon, "failed": failed} for epsilon in radii]


def proved(explainer: AttributionBound, certificate: DeviationCertificate, row: Row) -> Row:
    """What is proved of the first images, at the radius of the certificate."""
    some = slice(0, NB_PROVED)
    bound, _ = explainer._proofs(
        certificate.region[some], certificate.targets[some], certificate.explanation[some]
    )
    if (np.asarray(row["worst"][some]) > bound).any():
        raise RuntimeError("an attack has beaten a proof")
    return {"proved": rounded(bound)}


def linf(context: Context, name: str, seed: int) -> list[Row]:
    """Tables 4 and 5: l_inf with the top-k attack in 200 steps."""
    inputs, _ = fresh(context, name, 1 if context.quick else NB_LINF[name])
    colour = name == "cifar10"
    attribution = "saliency" if colour or context.quick else "integrated_gradients"
    settings = {"attribution": attribution, "norm": np.inf, "method": "crown-ibp"}
    if colour:
        settings["largest_matrix"] = 0  # products only: 3,072 features
    explainer, networks = trained_explainer(context, name, seed, **settings)
    attacks = Attacks(explainer, 2 if context.quick else NB_RUNS)
    radii = LINF[name]

    def measured(about: Row) -> Iterator[Row]:
        explainer.epsilon = radii[0]
        certificate = explainer.certify(inputs)
        theorem = theorem_2(explainer, certificate, NB_WHOLE[name])
        for epsilon in context.progress(radii, f"{name} {seed} {about['training']}"):
            region = Ball(inputs, epsilon, clip=(0, 1))
            found = top_k_attack(
                explainer.network,
                explainer.explanation,
                region,
                certificate.targets,
                k=K[name],
                betas=None,
                steps=10 if context.quick else 200,
                step_size=0.1,
            )
            factor = factor_at(explainer, certificate, epsilon)
            points = np.concatenate([attacks(certificate, epsilon, np.inf), found.points[None]])
            pairs = zip(found.maps, certificate.explanation)
            corollary = epsilon * certificate.singular_value_lower * np.sqrt(inputs[0].size)
            row = about | moved(attacks, certificate, points, epsilon, factor)
            yield row | {
                "kendall": rounded([kendalltau(*pair).statistic for pair in pairs]),
                "corollary": rounded(corollary),
                "theorem": rounded(epsilon * theorem),
                "reached": rounded(certificate.reached * epsilon / certificate.epsilon),
            }

    about = {"attribution": attribution, "norm": "inf", "whole": not colour}
    return [row for net in networks for row in attempted(measured, net | about, radii)]


def theorem_2(
    explainer: AttributionBound, certificate: DeviationCertificate, nb_inputs: int
) -> np.ndarray:
    """The root of the sum of |J^T J| of the first inputs."""
    found = []
    for number in range(min(nb_inputs, len(certificate))):
        one = slice(number, number + 1)
        about = certificate.region.center[one], certificate.targets[one]
        matrix = explainer._jacobian.matrix(*about, certificate.explanation.shape[1:])
        found.append(np.sqrt(np.abs(matrix).sum()))
    return np.array(found)


def attributions(context: Context, name: str, seed: int) -> list[Row]:
    """Table 2: three attributions without the label constraint, l2, of the TRADES network."""
    inputs, _ = fresh(context, name, 4 if context.quick else NB_L2[name])
    nb_runs, epsilon = 2 if context.quick else NB_RUNS, 0.1
    rows = []
    for attribution in ATTRIBUTIONS[:1] if context.quick else ATTRIBUTIONS:
        settings = {"attribution": attribution, "norm": 2, "epsilon": epsilon}
        explainer, networks = trained_explainer(context, name, seed, **settings)
        *_, net = networks  # TRADES, whose weights the explainer's model then has

        def measured(about: Row, explainer: AttributionBound = explainer) -> Iterator[Row]:
            certificate = explainer.certify(inputs)
            attacks = Attacks(explainer, nb_runs)
            points = attacks(certificate, epsilon, 2)
            yield about | moved(attacks, certificate, points, epsilon, certificate.factor)

        rows += attempted(measured, net | {"attribution": attribution, "norm": "2"}, (epsilon,))
    return rows


# --- estimates beside proofs --------------------------------------------------------------------


def proofs(seed: int, context: Context) -> list[Row]:
    """Attacked, estimated and proved deviation of the gradient of small dense networks."""
    images, labels = split("mnist", context).train
    inputs, _ = fresh(context, "mnist", 2 if context.quick else 20)
    nb_epochs = 1 if context.quick else 8
    rows = []
    for training, alpha in (("standard", 0.0), ("certified", 0.5))[: 1 if context.quick else 2]:
        keras.utils.set_random_seed(seed)
        dense = [keras.layers.Dense(64, "relu") for _ in range(2)]
        net = [keras.Input((28, 28, 1)), keras.layers.Flatten(), *dense, keras.layers.Dense(10)]
        model, beta = softplus_copy(keras.Sequential(net))
        beta.assign(BETA)
        network = RegularizedModel(model, CertifiedWidth(0.025), alpha)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
        network.fit(images, labels, 100, nb_epochs, verbose=0, callbacks=[LinearRamp(4)])
        explainer = AttributionBound(model, 0.01, np.inf, clip=(0, 1), proved=True)
        attacks = Attacks(explainer, 1)
        for epsilon in PROOF_RADII[2 if context.quick else 0 :]:
            explainer.epsilon = epsilon
            certificate = explainer.certify(inputs)
            points = attacks(certificate, epsilon, np.inf)
            maps = [explainer._of_features(p, certificate.targets) for p in points]
            worst = np.max([lengths(m - certificate.explanation) for m in maps], axis=0)
            if (worst > certificate.proved_euclidean).any():
                raise RuntimeError("an attack has beaten a proof")
            size = lengths(certificate.explanation)
            rows.append(
                {
                    "seed": seed,
                    "training": training,
                    "epsilon": epsilon,
                    "attacked": rounded(worst / size),
                    "estimated": rounded(certificate.euclidean_estimate / size),
                    "proved": rounded(certificate.proved_euclidean / size),
                    "proved_cosine": rounded(certificate.proved_cosine),
                }
            )
    return rows


# --- softplus copies ----------------------------------------------------------------------------


def copies(seed: int, context: Context) -> list[Row]:
    """How near copies with softplus are to ReLU networks, and what `beta="auto"` takes."""
    train = split("mnist", context).train
    inputs, _ = fresh(context, "mnist", 2 if context.quick else 20)
    rows = []
    for kind in ("dense", "cnn")[: 1 if context.quick else 2]:
        model = digits_network(context, kind, seed, train)
        logits = model(inputs).numpy()
        second, first = np.sort(logits, axis=1)[:, -2:].T
        classes = logits.argmax(axis=1)
        gradients = AttributionBound(model, beta=None)(inputs, classes)
        chosen = AttributionBound(model).betas(inputs)
        for beta in context.progress(BETAS[: 2 if context.quick else None], f"{kind} {seed}"):
            explainer = AttributionBound(model, 0.05, beta=beta)
            found = explainer.certify(inputs, classes)
            copied = explainer.network(inputs).numpy()
            off = np.abs(copied - logits).max(axis=1) / (first - second)
            cosines = np.cos(np.deg2rad(angles(found.explanation, gradients)))
            size = lengths(found.explanation)
            rows.append(
                {
                    "network": kind,
                    "seed": seed,
                    "beta": beta,
                    "same": int((copied.argmax(axis=1) == classes).sum()),
                    "off": rounded(off),
                    "cosine": rounded(cosines),
                    "share": rounded(found.euclidean_estimate / size),
                    "factor": rounded(found.factor),
                    "chosen": int((chosen == beta).sum()),
                }
            )
    return rows


# --- cost ---------------------------------------------------------------------------------------


def cost(context: Context) -> list[Row]:
    """Processor times on an untrained ResNet of CIFAR-10's size; ratios are within this run."""
    keras.utils.set_random_seed(0)
    model, beta = softplus_copy(convolutional(0) if context.quick else residual())
    beta.assign(BETA)
    inputs = np.random.default_rng(0).random((8, *model.input_shape[1:]), dtype="f4")
    explainer = AttributionBound(model, 0.1, 2, clip=(0, 1))
    rows: list[Row] = []
    for some in (inputs[:1], inputs):
        labels = [0] * len(some)
        gradient = seconds(partial(explainer.explain, some, labels), 20) / len(some)
        used = seconds(partial(explainer.certify, some, labels), 3) / len(some)
        about = {"what": f"l2, {len(some)} image{'s, each' * (len(some) > 1)}", "seconds": used}
        rows.append(about | {"gradients": used / gradient})
    if context.quick:
        return rows
    whole = AttributionBound(model, 0.1, np.inf, clip=(0, 1))
    free = AttributionBound(model, 0.1, np.inf, clip=(0, 1), largest_matrix=0)
    words = {"P whole (3,072 x 3,072)": whole, "products only": free}
    estimates = []
    for word, explainer in words.items():
        used = seconds(partial(explainer.certify, inputs[:1], [0]), 1)
        estimates.append(explainer.certify(inputs[:1], [0]).euclidean_estimate[0])
        rows.append({"what": f"l_inf, {word}, 1 image", "seconds": used})
    rows[-1]["ratio"] = estimates[1] / estimates[0]
    # a fresh process, whose memory is that of this alone
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return [*rows, pool.submit(large).result()]


def seconds(function: Callable, repeats: int) -> float:
    """Processor time of a call, after one that compiles."""
    function()
    begin = time.process_time()
    for _ in range(repeats):
        function()
    return (time.process_time() - begin) / repeats


def large() -> Row:
    """Memory and time of l2 for four images of 224x224x3 on a small network, before all else."""
    keras.utils.set_random_seed(0)
    some = {"strides": 2, "activation": "softplus"}
    convolutions = [keras.layers.Conv2D(filters, 3, **some) for filters in (8, 16, 16)]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((224, 224, 3)), *convolutions, *head])
    inputs = np.random.default_rng(0).random((4, 224, 224, 3), dtype="f4")
    explainer = AttributionBound(model, 0.1, 2, batch_size=4)
    explainer.explain(inputs)
    before, begin = peak(), time.process_time()
    explainer.explain(inputs)
    gradient, begin = time.process_time() - begin, time.process_time()
    found = explainer.certify(inputs)
    used = time.process_time() - begin
    return {
        "what": "l2, 4 images of 224x224x3, each",
        "seconds": used / 4,
        "gradients": used / gradient,
        "apart": float((found.singular_value_upper / found.singular_value_lower - 1).max()),
        "memory": peak() - before,
        "memory_before": before,
    }


def peak() -> float:
    """Largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
