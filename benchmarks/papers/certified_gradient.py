"""Robust explanations by gradient-certified training: accuracy, attacks and certificates.

After Wicker et al., Robust Explanation Constraints for Neural Networks (2023), with the sound
bounds of this package. Seven trainings, from standard training to the paper's regulariser, with
the heuristics that the paper compares with, adversarial training and certified training of
predictions beside it. Three settings of each are tried on validation inputs with networks of seed
0; the one with most explanations proved is taken (`chosen`). Reported of the fresh inputs:

- accuracy; certified accuracy: the share of inputs whose prediction is right and proved to stay so
  within l_inf 0.025, by `ibp` and by `crown`;
- the explanation (gradient of the predicted logit) against every input within l_inf 0.025, and
  against all weights within 2.5 % of their size, other ones for each input: where an attack failed,
  and where none can succeed, by `ibp` (the paper's bounds) and by `crown`;
- targeted, on images: no explanation looks like a mask of 5x5 ones near a corner (20 masks, one for
  each input in turn). Explanation and mask are brought to one length, that of the mask; their mean
  squared distance is above 0.04. On tables: the gender is not among the five features of largest
  magnitude;
- untargeted: no explanation changes by more than its length, which implies that the paper's ratio
  |v'| / |v| is at most 2.

`moons` draws the decision surfaces of the paper's figure 1; `bias` is the study of its figure 2:
labels are made to depend on the gender more and more, and the share of the explanation that falls
on the gender is measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import keras
import numpy as np
from protocol.data import NotAtHand
from protocol.networks import SEEDS, VALIDATION_SEED
from protocol.pieces import Context, Piece
from protocol.records import Row

from papers.certified_gradient_data import (
    CLIP,
    EXPERIMENTS,
    GRID,
    GROUPS,
    RADII,
    RADIUS,
    TRAININGS,
    Experiment,
    as_bits,
    chosen,
    tabular_net,
    trained_network,
    trainer,
    two_moons,
)
from papers.certified_gradient_tables import blocks, figures
from xcertify.attacks import CriterionAttack, WeightCriterionAttack
from xcertify.attributions import CertifiedGradient
from xcertify.bounds import Verifier
from xcertify.criteria import Criterion, Excludes, KeepsOut, Within
from xcertify.datasets import Images
from xcertify.radii import compare_radii
from xcertify.regions import Ball
from xcertify.targets import margin_rows
from xcertify.training import CertifiedWidth
from xcertify.usefulness import VacuousWarning

__all__ = ["blocks", "figures", "pieces"]

warnings.simplefilter("ignore", VacuousWarning)  # that much cannot be proved is what is shown

TAU = 0.04
METHODS = ("ibp", "crown")
NB_PREDICTED = 1000  # fresh inputs whose predictions are counted
QUICK = ("standard", "certified predictions", "certified explanations")

MINUTES = {"german": 2, "adult": 3, "mnist-dense": 3, "mnist-cnn": 8, "pneumonia": 8}
BIASED = ("standard", "gradient difference", "Hessian norm", *QUICK[1:])
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of labels that are made to depend on the gender
NB_BIASED, BIAS_EPOCHS = 6000, 20  # training rows of that study, and epochs
MOONS = ((0, 0), (0.05, 0), (0.1, 0), (0.2, 0), (0, 0), (0, 0.02), (0, 0.05), (0, 0.1))


def pieces(quick: bool) -> list[Piece]:
    """Settings of a data set, then each of its networks; half moons and induced bias at the end."""
    names = ("mnist-dense",) if quick else tuple(EXPERIMENTS)
    found = []
    for name in names:
        found.append(Piece(f"validation-{name}", partial(tried, name=name), MINUTES[name]))
        found += [
            Piece(f"{name}-{group}{seed}", partial(reported, name=name, seed=seed, group=group), m)
            for group, m in zip(GROUPS, (MINUTES[name], MINUTES[name] / 2))
            for seed in SEEDS[: 1 if quick else None]
        ]
    found.append(Piece("moons", moons, 2))
    if not quick:
        found += [
            Piece(f"bias-{name}", partial(bias, name=name), 5) for name in ("german", "adult")
        ]
    return found


# --- settings -----------------------------------------------------------------------------------


def tried(context: Context, name: str) -> list[Row]:
    """Every setting of every training on validation inputs."""
    experiment = EXPERIMENTS[name]
    parts, _ = experiment.load(context)
    explainer = CertifiedGradient(experiment.build(), RADIUS, clip=CLIP)
    inputs, labels = parts.validation
    some = inputs[: 8 if context.quick else experiment.nb_chosen]
    rows = []
    for training in context.progress(QUICK if context.quick else list(TRAININGS), "training"):
        for setting in TRAININGS[training][1][: 1 if context.quick else None]:
            model = trained_network(context, name, training, setting, VALIDATION_SEED, parts.train)
            explainer.model.set_weights(model.get_weights())
            certificate = explainer.certify(some, predicted(explainer.model, some))
            change = certificate.farthest("l2_ratio")
            rows.append(
                {
                    "training": training,
                    "setting": setting,
                    "accuracy": float(np.mean(classes(model, inputs) == labels)),
                    "certified": float(np.mean(change <= 1)),
                    "change": float(np.median(change)),
                }
            )
    return rows


# --- what is reported ---------------------------------------------------------------------------


def reported(context: Context, name: str, seed: int, group: str) -> list[Row]:
    """Trainings from the same initial weights, on fresh inputs."""
    experiment = EXPERIMENTS[name]
    parts, sensitive = experiment.load(context)
    # One model takes the weights of all, so that its bounds are compiled once.
    explainer = CertifiedGradient(experiment.build(), clip=CLIP)
    verifiers = [Verifier(explainer.model, method) for method in METHODS]
    nb_inputs, nb_drawn = (4, 2) if context.quick else (experiment.nb_inputs, experiment.nb_drawn)
    inputs, labels = parts.fresh
    rows = []
    trainings = [one for one in GROUPS[group] if one in QUICK or not context.quick]
    for training in context.progress(trainings, "training"):
        setting = chosen(context.records, name, training)
        model = trained_network(context, name, training, setting, seed, parts.train)
        explainer.model.set_weights(model.get_weights())
        right = classes(model, inputs[:NB_PREDICTED]) == labels[:NB_PREDICTED]
        some = inputs[:nb_inputs], labels[:nb_inputs]
        row = {"training": training, "seed": seed, "setting": setting, "right": as_bits(right)}
        row |= evaluated(explainer, verifiers, some, sensitive)
        if seed == SEEDS[0]:
            few = [part[:nb_drawn] for part in some]
            row["curves"] = [drawn(explainer, verifiers[1], few, sensitive, e) for e in RADII]
        rows.append(row)
    return rows


def evaluated(
    explainer: CertifiedGradient,
    verifiers: list[Verifier],
    examples: Images,
    sensitive: np.ndarray | None,
) -> dict[str, str]:
    """What holds of each input: bits by name, such as "inputs targeted crown"."""
    model, (inputs, labels) = explainer.model, examples
    region = Ball(inputs, RADIUS, clip=CLIP)
    found = {
        f"stays right {verifier.method}": stays_right(verifier, region, labels)
        for verifier in verifiers
    }
    one_hot, original, targeted = asked(explainer, inputs, sensitive)
    attack = CriterionAttack(model, explainer.explanation, targeted, original, one_hot)
    weight_attack = WeightCriterionAttack(
        model, explainer.explanation, targeted, inputs, original, one_hot, restarts=1
    )
    for moved, epsilon, gamma in (("inputs", RADIUS, 0.0), ("weights", 0.0, RADIUS)):
        if moved == "inputs":
            broken = attack.breaks(attack(region))
        else:
            broken = weight_attack.breaks(weight_attack(gamma))
        found[f"{moved} attack fails"] = ~broken
        for method in METHODS:
            explainer.epsilon, explainer.gamma, explainer.method = epsilon, gamma, method
            certificate = explainer.certify(inputs, one_hot)
            proved = certificate.proves(targeted)
            found[f"{moved} targeted {method}"] = proved
            found[f"{moved} untargeted {method}"] = certificate.within(1.0)
            compare_radii(
                np.where(proved, RADIUS, 0.0),
                np.where(broken, RADIUS, np.inf),
                what="an explanation near the target",
                method=method,
                region=certificate.region,
            )
    return {what: as_bits(bits) for what, bits in found.items()}


def drawn(
    explainer: CertifiedGradient,
    verifier: Verifier,
    examples: list[np.ndarray],
    sensitive: np.ndarray | None,
    epsilon: float,
) -> list[float]:
    """Shares of inputs for which `crown` proves what the panels of the figure say."""
    inputs, labels = examples
    one_hot, _, targeted = asked(explainer, inputs, sensitive)
    explainer.epsilon, explainer.gamma, explainer.method = epsilon, 0.0, "crown"
    certificate = explainer.certify(inputs, one_hot)
    right = stays_right(verifier, Ball(inputs, epsilon, clip=CLIP), labels)
    found = certificate.proves(targeted), certificate.proves(Within(1.0)), right
    return [float(part.mean()) for part in found]


def asked(
    explainer: CertifiedGradient, inputs: np.ndarray, sensitive: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, Criterion]:
    """Predicted classes (one-hot), explanations, and what they must not become."""
    one_hot = predicted(explainer.model, inputs)
    original = explainer.explain(inputs, one_hot)
    return one_hot, original, goal(original, sensitive)


def predicted(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """Predicted classes, one-hot."""
    return np.eye(model.output_shape[-1], dtype="f4")[classes(model, inputs)]


def classes(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """Predicted classes, (N,)."""
    return model.predict(inputs, batch_size=1000, verbose=0).argmax(axis=1)


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


# --- half moons and induced bias ----------------------------------------------------------------


def moons(context: Context) -> list[Row]:
    """Decision surfaces for growing epsilon and gamma, accuracies and proved widths."""
    points, labels = two_moons()
    grid = np.stack(np.meshgrid(*GRID), -1).reshape(-1, 2).astype("f4")
    experiment = Experiment("half moons", _nothing, partial(tabular_net, 2), 35, 32)
    rows = []
    for epsilon, gamma in context.progress(MOONS[:2] if context.quick else MOONS, "moons"):
        keras.utils.set_random_seed(SEEDS[0])
        model = experiment.build()
        alpha = 0.5 if epsilon or gamma else 0.0
        nb_epochs = 1 if context.quick else experiment.nb_epochs
        examples = points[:800], labels[:800]
        trainer(model, experiment, CertifiedWidth(epsilon, gamma), alpha)(examples, nb_epochs)
        certificate = CertifiedGradient(model, 0.05).certify(points[800:850])
        logits = model.predict(grid, 5000, verbose=0)
        shares = 255 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
        rows.append(
            {
                "epsilon": epsilon,
                "gamma": gamma,
                "accuracy": float(np.mean(classes(model, points[800:]) == labels[800:])),
                "width": float(certificate.delta.mean()),
                "surface": np.round(shares).astype(np.uint8).tobytes().hex(),
            }
        )
    return rows


def bias(context: Context, name: str) -> list[Row]:
    """Share of the explanation on the gender for labels that depend on it."""
    experiment = EXPERIMENTS[name]
    parts, sensitive = experiment.load(context)
    inputs, labels = (part[:NB_BIASED] for part in parts.train)
    gender = inputs[:, sensitive][:, 0] > 0.5
    explainer = CertifiedGradient(experiment.build())
    rows = []
    for training in context.progress(BIASED, "training"):
        make: Callable = TRAININGS[training][0]
        setting, model = chosen(context.records, name, training), experiment.build()
        train = trainer(model, experiment, make(setting), setting["alpha"])
        for seed in SEEDS:
            for share in SHARES:
                flipped = np.random.default_rng(seed).random(len(gender)) < share
                given = np.where(flipped, gender, labels).astype(int)
                keras.utils.set_random_seed(seed)
                model.set_weights(experiment.build().get_weights())
                train((inputs, given), BIAS_EPOCHS)
                explainer.model.set_weights(model.get_weights())
                maps = np.abs(explainer.explain(parts.fresh[0][:200]))
                of_gender = maps[:, sensitive].sum(axis=1) / maps.sum(axis=1)
                rows.append(
                    {
                        "training": training,
                        "seed": seed,
                        "induced": share,
                        "share": float(of_gender.mean()),
                    }
                )
    return rows


def _nothing(context: Context) -> tuple:
    raise NotAtHand("half moons are made, not loaded")
