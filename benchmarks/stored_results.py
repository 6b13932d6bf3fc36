"""Results of the whole package on small networks, stored, so that a change shows what it changes.

    python benchmarks/stored_results.py --write tests/data/results.npz   # of the state at hand
    python benchmarks/stored_results.py --compare tests/data/results.npz # with a stored one
    python benchmarks/stored_results.py --compare tests/data/results.npz --shake 1

Weights, inputs and everything else that is random come from generators of NumPy. `--shake SEED`
moves every weight by one unit of its last place, more than a machine with other roundings does: the
tolerances of what is computed in float32 are above the differences that it prints.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers as L

from xcertify import bounds as engine
from xcertify import criteria
from xcertify.attacks import (
    PGD,
    CriterionAttack,
    MinimalPerturbation,
    WeightCriterionAttack,
    input_gradient,
    targeted_map_attack,
    top_k_attack,
    weight_attack,
)
from xcertify.attributions import (
    CORGI,
    EVA,
    AttributionBound,
    CertifiedGradient,
    EVAHybrid,
    GradCAM,
    GradientInput,
    GreedyAS,
    IntegratedGradients,
    MarginGradientRange,
    Occlusion,
    RandomMap,
    RelEx,
    Rise,
    Saliency,
    SampledEVA,
    SmoothGrad,
)
from xcertify.bounds import Verifier
from xcertify.metrics import (
    ClassRetrieval,
    Deletion,
    FeatureRelevance,
    Insertion,
    MuFidelity,
    RobustnessSr,
    as_masks,
    rank_correlation,
    top_k_overlap,
)
from xcertify.regions import Ball, Box
from xcertify.targets import margin_rows
from xcertify.training import (
    CertifiedWidth,
    GradientDifference,
    GradientNorm,
    HessianNorm,
    RegularizedModel,
)

Results = dict[str, Any]

# How far a result may be from the stored one, as a share of its largest entry. Behind each what was
# measured: with one thread and without oneDNN; with shaken weights.
FLOAT64 = 1e-6  # computed in float64, beyond this it is another result: 0; 5e-7
FLOAT32 = 2e-5  # a chain of float32 operations, whose order is the machine's: 2e-6; 8e-6
CANCELLED = 1e-4  # what is left of float32 numbers that nearly cancel: 3e-5; 3e-5
SEARCH = 1e-2  # every step depends on the roundings of the one before: 3e-7; 1e-3

SHAKE: list[int] = []  # seed of what weights are moved by; empty: they are not


@dataclass(frozen=True)
class Case:
    """A part of the results.

    `compute` gives arrays by name, `tolerance` is for those of floats. Where `compiled` is False
    nothing is traced: the results are the same, and bounds that are computed once come ten times
    sooner. Attacks are loops, which are faster as graphs.
    """

    compute: Callable[[], Results]
    tolerance: float
    compiled: bool


class Untraced:
    """In the place of `tf.function`: the function itself, given tensors, operation by operation."""

    def __init__(self, function: Callable, input_signature: Any = None, **settings: Any) -> None:
        self.function, self.specs = function, input_signature
        self._graph = partial(_TRACE, function, input_signature=input_signature, **settings)

    def __call__(self, *arguments: Any) -> Any:
        """Arrays become tensors of the types that the graph would have."""
        types = [getattr(spec, "dtype", None) for spec in self.specs or [None] * len(arguments)]
        return self.function(
            *(
                tf.convert_to_tensor(value, dtype) if isinstance(value, np.ndarray) else value
                for value, dtype in zip(arguments, types)
            )
        )

    def get_concrete_function(self) -> Untraced:
        """Itself in the place of the graph of the one signature."""
        return self

    @property
    def output_shapes(self) -> Any:
        """As of the graph, which is traced for that."""
        return self._graph().get_concrete_function().output_shapes


_TRACE = tf.function


def untraced(function: Callable | None = None, **settings: Any) -> Any:
    """`Untraced`, but for decorators with arguments, which Keras has and this package has not."""
    return _TRACE(**settings) if function is None else Untraced(function, **settings)


CASES: dict[str, Case] = {}


def case(name: str, tolerance: float, *arguments: Any, compiled: bool = False) -> Callable:
    """Register a function, called with the given arguments, under a name."""

    def register(function: Callable[..., Results]) -> Callable[..., Results]:
        CASES[name] = Case(lambda: function(*arguments), tolerance, compiled)
        return function

    return register


# --- networks -------------------------------------------------------------------------------------


def with_weights(model: keras.Model) -> keras.Model:
    """The model with weights of NumPy, about as large as those of a trained one."""
    generator = np.random.default_rng(7)
    weights = []
    for variable in model.weights:
        shape = tuple(variable.shape)
        if "variance" in variable.path or "gamma" in variable.path:
            values = generator.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            values = generator.normal(0.0, 0.2, shape)
        else:
            values = generator.normal(0.0, 1.4, shape) / np.sqrt(np.prod(shape[:-1]))
        weights.append(shaken(values.astype(np.float32)))
    model.set_weights(weights)
    return model


def shaken(values: np.ndarray) -> np.ndarray:
    """The values, or with `SHAKE` those one unit of their last place above or below them."""
    if not SHAKE:
        return values
    up = np.random.default_rng([*SHAKE, values.size]).random(values.shape) < 0.5
    return np.nextafter(values, np.where(up, np.inf, -np.inf).astype(np.float32))


def sequential(shape: tuple[int, ...], *layers: keras.layers.Layer) -> keras.Model:
    """Of given weights."""
    return with_weights(keras.Sequential([keras.Input(shape), *layers]))


def dense() -> keras.Model:
    """ReLU on tabular data, logits."""
    return sequential((6,), L.Dense(12, "relu"), L.Dense(10, "relu"), L.Dense(3))


def pooled() -> keras.Model:
    """A convolutional network with pooling, whose head is the mean of its maps, and softmax."""
    return sequential(
        (8, 8, 1),
        L.Conv2D(4, 3, padding="same", activation="relu", name="first"),
        L.MaxPooling2D(2),
        L.Conv2D(6, 3, padding="same", activation="relu", name="last"),
        L.GlobalAveragePooling2D(),
        L.Dense(3, "softmax"),
    )


def smooth() -> keras.Model:
    """Tanh and sigmoid, logits."""
    return sequential((5,), L.Dense(8, "tanh"), L.Dense(7, "sigmoid"), L.Dense(3))


def single() -> keras.Model:
    """One output, a sigmoid."""
    return sequential((6,), L.Dense(10, "relu"), L.Dense(6, "relu"), L.Dense(1, "sigmoid"))


def residual() -> keras.Model:
    """Batch normalization and a sum of two branches, logits."""
    inputs = keras.Input((6, 6, 2))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(inputs)))
    y = L.BatchNormalization()(L.Conv2D(4, 3, padding="same", use_bias=False)(x))
    x = L.ReLU()(L.Add()([x, y]))
    x = L.AveragePooling2D(2)(x)
    return with_weights(keras.Model(inputs, L.Dense(3)(L.Flatten()(x))))


def series() -> keras.Model:
    """Convolutions of a time series, logits."""
    return sequential(
        (12, 2),
        L.Conv1D(4, 3, activation="relu"),
        L.Conv1D(4, 3, strides=2, activation="relu"),
        L.GlobalAveragePooling1D(),
        L.Dense(3),
    )


NETWORKS = {f.__name__: f for f in (dense, pooled, smooth, single, residual, series)}
EXPLAINED = [name for name in NETWORKS if name not in ("smooth", "residual")]

_MODELS: dict[str, keras.Model] = {}


def model_of(name: str) -> keras.Model:
    """The network of a name, built once."""
    if name not in _MODELS:
        _MODELS[name] = NETWORKS[name]()
    return _MODELS[name]


def inputs_of(name: str, nb_samples: int = 3) -> np.ndarray:
    """Inputs in [0.1, 0.9], float32."""
    shape = model_of(name).input_shape[1:]
    return np.random.default_rng(3).uniform(0.1, 0.9, (nb_samples, *shape)).astype(np.float32)


def classes_of(name: str, nb_samples: int = 3) -> np.ndarray:
    """Classes that the network predicts."""
    outputs = model_of(name)(inputs_of(name, nb_samples)).numpy()
    return (outputs[:, 0] > 0.5).astype(int) if outputs.shape[1] == 1 else outputs.argmax(axis=1)


def fields(result: Any, *names: str) -> Results:
    """Attributes of a certificate or another result, by their names."""
    return {name: getattr(result, name) for name in names}


# --- bounds ---------------------------------------------------------------------------------------


def bounds(name: str, dtype: str, methods: tuple[str, ...]) -> Results:
    """Both sides of logits, margins and an inner layer, over cubes and balls."""
    model, inputs = model_of(name), inputs_of(name)
    rows = margin_rows(classes_of(name), 3)
    layer = model.layers[-2].name
    found = {}
    for method in methods:
        verifier = Verifier(model, method, dtype=dtype, nb_steps=5)
        for norm, epsilon in ((np.inf, 0.05), (2, 0.2)):
            region = Ball(inputs, epsilon, norm, clip=(0.0, 1.0) if norm == 2 else None)
            key = f"{method}/l{norm}"
            found |= both(f"{key}/outputs", verifier.bound_outputs(region))
            found |= both(f"{key}/rows", verifier.bound_rows(region, np.asarray(rows)))
            if method in ("ibp", "crown"):
                found |= both(f"{key}/layer", verifier.bound_layer(region, layer))
    return found


NATIVE = ("ibp", "crown-ibp", "crown")
for name, methods in (
    ("dense", (*NATIVE, "alpha-crown")),
    ("pooled", (*NATIVE, "alpha-crown")),
    ("smooth", (*NATIVE, "alpha-crown")),
    ("residual", NATIVE),
    ("series", NATIVE),
):
    case(f"bounds/{name}/float64", FLOAT64, name, "float64", methods)(bounds)
for name in ("dense", "pooled", "smooth"):
    case(f"bounds/{name}/float32", FLOAT32, name, "float32", ("ibp", "crown"))(bounds)


def linear_bounds(name: str) -> Results:
    """Slopes and intercepts of the logits."""
    region = Ball(inputs_of(name), 0.05)
    lines = Verifier(model_of(name), "crown", dtype="float64").linear_bounds(region)
    return fields(lines, "lower_coefficients", "lower_bias", "upper_coefficients", "upper_bias")


def gradients(name: str) -> Results:
    """Both sides of input gradients, over regions of inputs and of weights, and of the loss."""
    model, region, labels = model_of(name), Ball(inputs_of(name), 0.02), classes_of(name)
    verifier = Verifier(model, "crown", dtype="float64")
    found = {}
    for method in ("interval", "crown-interval", "crown-ibp", "crown"):
        name_now = getattr(engine, "FORMER_GRADIENT_METHODS", {}).get(method, method)
        found |= both(method, verifier.bound_gradient(region, method=name_now))
    if name != "pooled":  # whose maxima have no bounded weights
        found |= both("weights", verifier.bound_gradient(region, method="crown", gamma=0.01))
    found |= both("loss", verifier.bound_gradient(region, labels=labels, method="crown-ibp"))
    return found


for name in ("dense", "pooled", "smooth", "residual", "series"):
    case(f"linear_bounds/{name}", FLOAT64, name)(linear_bounds)
for name in ("dense", "pooled", "smooth", "series"):
    case(f"gradients/{name}", FLOAT64, name)(gradients)


@case("bounds/decomon", FLOAT32)
def by_decomon() -> Results:
    """Decomon's CROWN of the dense network."""
    verifier = Verifier(model_of("dense"), "decomon:crown")
    region = Ball(inputs_of("dense"), 0.05)
    rows = np.asarray(margin_rows(classes_of("dense"), 3))
    return both("outputs", verifier.bound_outputs(region)) | both(
        "rows", verifier.bound_rows(region, rows)
    )


def both(name: str, sides: tuple[np.ndarray, np.ndarray]) -> Results:
    """Lower and upper under their names."""
    return {f"{name}/lower": sides[0], f"{name}/upper": sides[1]}


# --- explainers with certificates -----------------------------------------------------------------


def eva(name: str) -> Results:
    """Maps and certificates in one pass and cell by cell."""
    model, inputs = model_of(name), inputs_of(name)
    settings = {"epsilon": 0.05, "clip": (0.0, 1.0), "grid_size": 4}
    found = {}
    for mode, method in (("one-pass", "crown"), ("exact", "crown-ibp")):
        explainer = EVA(model, **settings, mode=mode, method=method)
        found[f"{mode}/map"] = explainer.explain(inputs)
        certificate = explainer.certify(inputs)
        for field, value in fields(certificate, "overlap", "cell_overlaps", "robust").items():
            found[f"{mode}/{field}"] = value
    return found


for name in EXPLAINED:
    case(f"eva/{name}", FLOAT32, name)(eva)


@case("eva/variants", CANCELLED)
def eva_variants() -> Results:
    """The paper's form, balls, explanations towards a class, sampled regions."""
    model, inputs = model_of("pooled"), inputs_of("pooled")
    settings = {"epsilon": 0.05, "clip": (0.0, 1.0), "grid_size": 4}
    paper = EVA(model, **settings, overlap="separate", temperature=0.0)
    towards = (classes_of("pooled") + 1) % 3
    targeted = EVA(model, 0.3, 2, grid_size=4).explain_targeted(inputs, towards)
    settings |= {"nb_samples": 10, "seed": 1}
    return {
        "separate/map": paper.explain(inputs),
        "separate/overlap": paper.certify(inputs).overlap,
        "targeted/positive": targeted.positive,
        "targeted/negative": targeted.negative,
        "hybrid/map": EVAHybrid(model, "last", **settings).explain(inputs),
        "sampled/map": SampledEVA(model, **settings).explain(inputs),
    }


def certified_gradient(name: str, attribution: str) -> Results:
    """Maps, proved boxes and radii."""
    inputs = inputs_of(name)
    explainer = CertifiedGradient(
        model_of(name), 0.01, attribution=attribution, steps=3, nb_samples=3, clip=(0.0, 1.0)
    )
    certificate = explainer.certify(inputs)
    radii = explainer.radius(inputs, criteria.Within(0.5), nb_halvings=5, attack=False)
    return {
        "map": explainer.explain(inputs),
        "radius/certified": radii.certified,
        "signs": certificate.signs,
        "farthest": certificate.farthest(),
        **fields(certificate, "lower", "upper", "explanation"),
    }


for name, attribution in (
    ("smooth", "gradient"),
    ("dense", "integrated_gradients"),
    ("single", "gradient_input"),
    ("series", "smoothgrad"),
):
    case(f"certified_gradient/{name}/{attribution}", FLOAT32, name, attribution)(certified_gradient)


@case("certified_gradient/radius", SEARCH, compiled=True)
def gradient_radii() -> Results:
    """Radii of inputs and weights beside those that were attacked."""
    inputs = inputs_of("smooth", 2)
    explainer = CertifiedGradient(model_of("smooth"), 0.0)
    kinds = {
        "within": criteria.Within(0.2),
        "signs": criteria.KeepsSigns(np.arange(5) < 2),
    }
    found = {}
    for kind, criterion in kinds.items():
        radii = explainer.radius(inputs, criterion, nb_halvings=6, attack_steps=5)
        found |= {f"{kind}/certified": radii.certified, f"{kind}/attacked": radii.attacked}
    radii = explainer.radius(inputs, kinds["within"], varied="gamma", nb_halvings=4, attack_steps=5)
    return found | {"gamma/certified": radii.certified, "gamma/attacked": radii.attacked}


def corgi(form: str) -> Results:
    """Maps, certified radii and the class by one form."""
    inputs = inputs_of("pooled")
    explainer = CORGI(model_of("pooled"), 4, form=form, attack=None, prediction=True, tolerance=0.1)
    certificate = explainer.certify(inputs)
    names = ("radius", "prediction_radius", "gap", "cells")
    return {"map": explainer.explain(inputs)} | fields(certificate, *names)


for form in ("per-channel", "map", "pairwise", "lipschitz"):
    case(f"corgi/{form}", FLOAT32, form)(corgi)


def corgi_attacked(explanation: str, norm: float, conv_layer: str | None) -> Results:
    """Maps, certified and attacked radii."""
    inputs = inputs_of("pooled")
    explainer = CORGI(
        model_of("pooled"),
        4,
        6,
        norm=norm,
        conv_layer=conv_layer,
        explanation=explanation,
        clip=(0.0, 1.0),
        tolerance=0.1,
    )
    found = fields(explainer.certify(inputs), "radius", "attacked", "gap", "cells")
    return {"map": explainer.explain(inputs)} | found


for explanation, norm, conv_layer in (("cam", np.inf, None), ("grad-cam", 2, "last")):
    settings = (explanation, norm, conv_layer)
    case(f"corgi/attacked/{explanation}", SEARCH, *settings, compiled=True)(corgi_attacked)


def attribution_bound(norm: float) -> Results:
    """Estimates and proofs, for a smooth network and for a smooth copy."""
    found = {}
    for name, settings in (
        ("smooth", {"attribution": "integrated_gradients", "steps": 3}),
        ("dense", {"beta": 5.0}),
    ):
        inputs = inputs_of(name)
        explainer = AttributionBound(
            model_of(name), 0.02, norm, clip=(0.0, 1.0), proved=True, **settings
        )
        names = ("euclidean_estimate", "singular_value_lower", "singular_value_upper", "reached")
        names += ("proved_euclidean", "proved_cosine", "explanation")
        for field, value in fields(explainer.certify(inputs), *names).items():
            found[f"{name}/{field}"] = value
        found[f"{name}/epsilon"] = explainer.epsilon_for(0.1, inputs)
    return found


for norm in (2, np.inf):
    case(f"attribution_bound/l{norm}", CANCELLED, norm)(attribution_bound)


@case("relex/masks", SEARCH)
def relex_masks() -> Results:
    """Masks and what pulls at them."""
    found = {}
    for name in ("dense", "pooled", "single"):
        for form in ("mask", "pull"):
            settings = {"nb_samples": 3, "steps": 8, "tolerance": 0.0, "start": "paper"}
            explainer = RelEx(model_of(name), **settings, form=form)
            found[f"{name}/{form}"] = explainer.explain(inputs_of(name))
    return found


@case("relex/certificates", SEARCH, compiled=True)
def relex_certificates() -> Results:
    """Radii of given masks."""
    found = {}
    for name, norm in (("dense", np.inf), ("pooled", 2)):
        inputs = inputs_of(name)
        masks = np.random.default_rng(5).random(inputs.shape).astype(np.float32)
        explainer = RelEx(model_of(name), norm=norm, neutral_value=0.2)
        certificate = explainer.certify(inputs, masks=masks)
        found[f"{name}/kept"] = explainer.keep(inputs, masks)
        for field, value in fields(certificate, "certified", "attacked", "targets").items():
            found[f"{name}/{field}"] = value
    return found


# --- explainers without ---------------------------------------------------------------------------


def other_maps(name: str) -> Results:
    """Maps of the explainers to compare with."""
    model = model_of(name)
    explainers = [
        Saliency(model),
        GradientInput(model),
        IntegratedGradients(model, steps=5, baseline_value=0.5),
        SmoothGrad(model, nb_samples=5),
        Occlusion(model, patch_size=2, patch_stride=2),
        Rise(model, nb_samples=20, grid_size=3),
        MarginGradientRange(model, 0.05, (0.0, 1.0)),
        RandomMap(model),
    ]
    if name == "pooled":
        explainers.append(GradCAM(model))
    return {type(e).__name__: e.explain(inputs_of(name)) for e in explainers}


for name in EXPLAINED:
    case(f"maps/{name}", FLOAT32, name)(other_maps)


@case("maps/greedy_as", SEARCH)
def greedy_maps() -> Results:
    """Maps by attacks on sets of features."""
    settings = {"steps": 5, "share": 0.34, "nb_subsets": 20}
    explainer = GreedyAS(model_of("dense"), **settings)
    return {"map": explainer.explain(inputs_of("dense"))}


# --- metrics --------------------------------------------------------------------------------------


@case("metrics/fidelity", CANCELLED)
def fidelity() -> Results:
    """Curves and scores of what the model gives where important features are taken away."""
    model, inputs, maps = scored()
    found = {}
    for metric in (
        Deletion(model, inputs, steps=4),
        Insertion(model, inputs, steps=4, baseline_mode=0.5, activation="softmax"),
        MuFidelity(model, inputs, grid_size=4, nb_samples=20),
    ):
        result = metric.detailed_evaluate(maps)
        found[f"{result.metric}/curves"], found[f"{result.metric}/scores"] = (
            result.curves,
            result.scores,
        )
    return found


@case("metrics/reliability", FLOAT32)
def reliability() -> Results:
    """Whether masks retrieve their class and name what matters; how alike maps are."""
    model, inputs, maps = scored()
    others = np.random.default_rng(9).normal(size=maps.shape)
    relevance = FeatureRelevance(model, inputs, steps=4).detailed_evaluate(maps)
    retrieval = ClassRetrieval(model, inputs).detailed_evaluate(as_masks(maps, inputs))
    return {
        "masks": as_masks(maps, inputs, 80),
        "retrieval/curves": retrieval.curves,
        "retrieval/scores": retrieval.scores,
        "relevance/preservation": relevance.preservation,
        "relevance/deletion": relevance.deletion,
        "relevance/overall": relevance.overall,
        "rank_correlation": rank_correlation(maps, others),
        "top_k_overlap": top_k_overlap(maps, others, 10),
    }


@case("metrics/robustness", SEARCH, compiled=True)
def robustness() -> Results:
    """Both sides of both curves."""
    inputs = inputs_of("dense")
    maps = np.random.default_rng(8).normal(size=inputs.shape)
    found = {}
    for norm in (np.inf, 2):
        metric = RobustnessSr(
            model_of("dense"),
            inputs,
            norm=norm,
            fractions=(0.3, 0.6),
            steps=15,
            restarts=2,
            certified=True,
        )
        for side, result in zip(("named", "others"), metric.evaluate_both(maps)):
            names = ("curves", "scores", "certified_curves", "certified_scores")
            for field, value in fields(result, *names).items():
                found[f"l{norm}/{side}/{field}"] = value
    return found


def scored() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """A model, its inputs, and maps to score."""
    inputs = inputs_of("pooled")
    return model_of("pooled"), inputs, np.random.default_rng(8).normal(size=inputs.shape[:3])


# --- attacks --------------------------------------------------------------------------------------


@case("attacks/classes", SEARCH, compiled=True)
def class_attacks() -> Results:
    """Largest margins in regions, and distances of the nearest point of another class."""
    found = {}
    for name, norm, epsilon in (
        ("dense", np.inf, 0.1),
        ("pooled", 2, 0.3),
        ("single", 1, 0.5),
    ):
        model, inputs = model_of(name), inputs_of(name)
        result = PGD(model, steps=10, restarts=2)(Ball(inputs, epsilon, norm, clip=(0.0, 1.0)))
        found[f"{name}/l{norm}/values"] = result.values
        found[f"{name}/l{norm}/changed"] = result.changed
        nearest = MinimalPerturbation(model, norm=norm, steps=15, restarts=2)
        box = Box(np.zeros_like(inputs), np.ones_like(inputs), inputs)
        found[f"{name}/l{norm}/distances"] = nearest(box).distances
    return found


@case("attacks/maps", SEARCH, compiled=True)
def map_attacks() -> Results:
    """How far maps move in regions of inputs, and of weights."""
    model, inputs, classes = model_of("smooth"), inputs_of("smooth"), classes_of("smooth")
    region, settings = Ball(inputs, 0.1), {"steps": 8}
    goal = np.random.default_rng(6).normal(size=inputs.shape).astype(np.float32)
    moved = top_k_attack(model, input_gradient, region, k=2, **settings)
    aimed = targeted_map_attack(model, input_gradient, region, goal, **settings)
    of_weights = weight_attack(model, input_gradient, inputs, gamma=0.05, **settings)
    units = np.eye(3, dtype=np.float32)[classes]
    criterion = criteria.Within(0.1)
    arguments = (model, input_gradient, criterion)
    attack = CriterionAttack(*arguments, moved.original_maps, units, steps=5)
    broken = attack(region)
    by_weights = WeightCriterionAttack(
        *arguments, inputs, moved.original_maps, units, steps=5, restarts=2
    )
    return {
        "original": moved.original_maps,
        "top_k": moved.values,
        "targeted": aimed.values,
        "weights": of_weights.values,
        "criterion/values": broken.values,
        "criterion/breaks": attack.breaks(broken),
        "weight_criterion/values": by_weights(np.full(3, 0.02)).values,
    }


# --- criteria and training ------------------------------------------------------------------------


@case("criteria", FLOAT64)
def properties() -> Results:
    """What is proved, and refuted, of boxes of explanations."""
    generator = np.random.default_rng(4)
    original = generator.normal(size=(40, 5))
    width = generator.uniform(0, 1, (40, 1)) * generator.uniform(0, 1, (40, 5))
    lower, upper = original - width, original + width
    far = original + 3 * width + 0.1
    found = {
        f"{criterion!r}/{side}": values
        for criterion in (
            criteria.Within(0.3),
            criteria.Within(0.1, "mse"),
            criteria.Within(0.9, "cosine"),
            criteria.Excludes(np.ones(5), 1.0),
            criteria.KeepsTop(2),
            criteria.KeepsOut(np.arange(5) == 0, 2),
            criteria.KeepsSigns(np.arange(5) < 3),
        )
        for side, values in (
            ("holds", criterion.holds(lower, upper, original)),
            ("broken", criterion.broken(far, far, original)),
        )
    }
    for measure in ("mse", "l2_ratio", "cosine"):
        found[f"farthest/{measure}"] = criteria.farthest(lower, upper, original, measure)
        found[f"nearest/{measure}"] = criteria.nearest(lower, upper, far, measure)
    return found | {
        "in_top": criteria.in_top(lower, upper, 2),
        "out_of_top": criteria.out_of_top(lower, upper, 2),
    }


@case("training", FLOAT32)
def training() -> Results:
    """Penalties, and losses of some steps of training."""
    found = {}
    for name in ("smooth", "single"):
        model, inputs, labels = model_of(name), inputs_of(name), classes_of(name)
        nb_outputs = model.output_shape[-1]
        rows = labels[:, None] if nb_outputs == 1 else np.eye(nb_outputs)[labels]
        arguments = tf.constant(inputs), tf.constant(rows.astype(np.float32))
        for regularizer in (
            CertifiedWidth(0.05, 0.01),
            CertifiedWidth(0.05, loss="cross-entropy"),
            GradientNorm(),
            HessianNorm(seed=1),
            GradientDifference(0.05, seed=1),
        ):
            regularizer.prepare(model)
            key = f"{name}/{regularizer.name}/{regularizer.loss}"
            found[key] = regularizer(*arguments).numpy()
    model = keras.models.clone_model(model_of("smooth"))
    trained = RegularizedModel(model, CertifiedWidth(0.05), alpha=0.5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    model.set_weights(model_of("smooth").get_weights())
    inputs, labels = inputs_of("smooth"), classes_of("smooth")
    losses = [trained.train_on_batch(inputs, labels) for _ in range(3)]
    return found | {"losses": np.array(losses), "trained": model.get_weights()[0]}


# --- storing and comparing ------------------------------------------------------------------------


def computed(name: str) -> dict[str, np.ndarray]:
    """The results of one case, as arrays by their full names."""
    with nullcontext() if CASES[name].compiled else mock.patch.object(tf, "function", untraced):
        results = CASES[name].compute()
    return {f"{name}/{key}": np.asarray(value) for key, value in results.items()}


def difference(found: np.ndarray, stored: np.ndarray) -> float:
    """The largest difference as a share of the largest entry; inf for another shape or pattern.

    Numbers, and not which entries are infinite or NaN, have a size; booleans and integers are the
    same or not.
    """
    if found.shape != stored.shape or found.dtype.kind != stored.dtype.kind:
        return np.inf
    if stored.dtype.kind != "f":
        return 0.0 if np.array_equal(found, stored) else np.inf
    finite = np.isfinite(stored)
    if not np.array_equal(found[~finite], stored[~finite], equal_nan=True):
        return np.inf
    if not np.isfinite(found[finite]).all():
        return np.inf
    change = np.abs(found[finite].astype(np.float64) - stored[finite]).max(initial=0.0)
    return float(change / max(np.abs(stored[finite]).max(initial=0.0), 1e-30))


def differences(name: str, stored: dict[str, np.ndarray]) -> dict[str, float]:
    """The same for all results of one case; stored ones that are not computed any more are inf."""
    found = computed(name)
    names = {key for key in stored if key.startswith(f"{name}/")} | set(found)
    return {
        key: difference(found[key], stored[key]) if key in found and key in stored else np.inf
        for key in sorted(names)
    }


def rows_of(stored: dict[str, np.ndarray]) -> Iterator[str]:
    """One line for each case: its CPU time, and what differs most."""
    for name, case in CASES.items():
        start = time.process_time()
        found = differences(name, stored)
        seconds = time.process_time() - start
        worst = max(found, key=found.__getitem__)
        over = "over" if found[worst] > case.tolerance else ""
        yield f"| {worst} | {found[worst]:.1e} | {case.tolerance:.0e} | {over} | {seconds:.1f} |"


def main() -> None:
    """Write results, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", type=Path, help="file to write")
    parser.add_argument("--compare", type=Path, help="file to compare with")
    parser.add_argument("--shake", type=int, help="move weights by roundings, drawn by this seed")
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of names of cases")
    parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow")
    arguments = parser.parse_args()
    if arguments.threads:
        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
        tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    SHAKE.extend([] if arguments.shake is None else [arguments.shake])
    for name in [name for name in CASES if not name.startswith(tuple(arguments.only))]:
        del CASES[name]
    if arguments.write:
        results = {}
        for name in CASES:
            start = time.process_time()
            results |= computed(name)
            print(f"{name}: {time.process_time() - start:.1f} s", flush=True)
        arguments.write.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(arguments.write, **results)
        print(f"{len(results)} arrays, {arguments.write.stat().st_size} bytes")
    if arguments.compare:
        print("| differs most | by | tolerance | | seconds |\n| --- | --- | --- | --- | --- |")
        with np.load(arguments.compare) as stored:
            for row in rows_of(dict(stored)):
                print(row, flush=True)


if __name__ == "__main__":
    main()
