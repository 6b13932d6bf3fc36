"""Settings of metrics, attacks and `Verifier`: assigned after use, they count as if given at first.

The same of explainers is a rule of `check_explainer`, see `test_testing.py`.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import functional, sequential
from rotation import in_turn

from xcertify import attacks, metrics
from xcertify.attacks import (
    PGD,
    CriterionAttack,
    MinimalPerturbation,
    MinimalTopK,
    SmoothedCosineAttack,
    SmoothedMapAttack,
    WeightCriterionAttack,
    input_gradient,
)
from xcertify.attributions import EVA, Saliency
from xcertify.attributions.noisy_maps import normal_noise
from xcertify.bounds import Verifier
from xcertify.criteria import Within
from xcertify.metrics import (
    AverageStability,
    CertifiedStability,
    ClassRetrieval,
    Deletion,
    FeatureRelevance,
    Insertion,
    ModelRandomization,
    MuFidelity,
    ProbableSize,
    RandomLogit,
    RobustnessSr,
    Score,
    Stability,
    SufficientSize,
)
from xcertify.regions import Ball, Box
from xcertify.settings import Settings, _same_settings, setting_names

L = keras.layers
SHAPE = (4, 4, 1)
LABELS = np.array([0, 1, 2])


def network(seed=0):
    return sequential(SHAPE, L.Flatten(), L.Dense(5, "tanh"), L.Dense(3), seed=seed)


def two_of_each():
    """Two inputs, two outputs, and a layer that all goes through, of the size of an input."""
    first, second = keras.Input((5,)), keras.Input((5,))
    both = L.Dense(5, "tanh", name="hidden")(L.Subtract()([first, second]))
    outputs = [L.Dense(3, "sigmoid")(L.Dense(4, "relu")(both)), L.Dense(3)(both)]
    return functional([first, second], outputs)


def images(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).random((3, *shape), dtype="float32")


def maps(seed=5):
    return np.random.default_rng(seed).random((3, 4, 4, 1))


def sum_of_squares(model, inputs, targets):
    return tf.reduce_sum(model(inputs) ** 2, axis=1)


def first_pixel(points, samples):
    return points[:, 0, 0, 0] * (1.0 + tf.cast(samples, tf.float32))


def products(points, data):
    return points * tf.cast(data, points.dtype)


def never(points, rows):
    sides = np.zeros(rows.shape[:2])
    return sides - 1, sides + 1


def arrays_of(result):
    """All numbers of a result."""
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in arrays_of(part)]
    if hasattr(result, "__dataclass_fields__"):
        return arrays_of([getattr(result, name) for name in result.__dataclass_fields__])
    is_number = isinstance(result, (np.ndarray, tf.Tensor, float))
    return [np.asarray(result)] if is_number and np.asarray(result).dtype.kind in "fib" else []


METRIC = {
    "model": network(1),
    "inputs": images(1),
    "targets": np.array([2, 0, 1]),
    "batch_size": 2,
    "seed": 3,
    "verbose": True,
}
OPERATOR = {"operator": sum_of_squares, "activation": "softmax"}
CURVE = METRIC | OPERATOR | {"steps": 3, "baseline_mode": "mean", "max_percentage_perturbed": 0.5}


def of_maps(metric):
    return metric.detailed_evaluate(maps())


def of_explainer(metric):
    return metric.detailed_evaluate(Saliency(metric.model, reducer=None))


def of_smoothed(attack):
    def votes(numbers, points):  # which nothing has to do with maps, so that it costs nothing
        return np.rint(20 * np.clip(points, 0, 1)).astype(int)

    chosen = images(2) > 0.5
    return attack(Ball(images(), 0.2, 2), np.eye(3)[LABELS], chosen, votes, nb_samples=20)


def of_verifier(verifier):
    others = [] if verifier.start_layer else [images(1, (5,))]
    return verifier.bound_outputs(Ball(images(0, (5,)), 0.3), others)


def of_score(score):
    return score(tf.constant(images()), tf.one_hot(LABELS, 3))


def of_top_k(attack):
    inputs = images(0, (6,))
    top = np.zeros((3, 6), bool)
    top[:, :2] = True
    return attack(inputs, np.ones((3, 6), "f4"), top, 2, np.full(3, 1e-3), 2.0)


def region():
    return Ball(images(), 0.2, clip=(0, 1))


def whole():
    return Box(np.zeros((3, *SHAPE)), np.ones((3, *SHAPE)), images())


def for_masks(kind, targets=LABELS, **settings):
    return kind(network(), images(), targets, **settings)


def criterion_attack():
    one_hot = np.eye(3, dtype="f4")
    return CriterionAttack(
        network(), input_gradient, Within(0.1), maps(), one_hot, steps=2, restarts=1
    )


def weight_attack():
    one_hot = np.eye(3, dtype="f4")
    arguments = network(), input_gradient, Within(0.1), images(), maps(), one_hot
    return WeightCriterionAttack(*arguments, steps=2, restarts=1)


def scaled_gradient(model, inputs, targets):
    return 3 * input_gradient(model, inputs, targets)


def largest_share(first, second):
    return np.max(np.abs(first - second)) / np.max(np.abs(second))


# For each class: how it is made and used, other values of its settings, and wrong ones.
CASES = {
    "Deletion": (lambda: for_masks(Deletion), of_maps, CURVE, {"activation": "relu"}),
    "Insertion": (lambda: for_masks(Insertion), of_maps, CURVE, {"batch_size": 0}),
    "MuFidelity": (
        lambda: for_masks(MuFidelity, nb_samples=12, grid_size=2),
        of_maps,
        METRIC
        | OPERATOR
        | {"nb_samples": 9, "grid_size": 3, "subset_percent": 0.4, "baseline_mode": "mean"}
        | {"correlation": "pearson"},
        {"nb_samples": 0},
    ),
    "ClassRetrieval": (
        lambda: for_masks(ClassRetrieval),
        of_maps,
        METRIC | {"neutral_value": "random"},
        {"batch_size": 0},
    ),
    "FeatureRelevance": (
        lambda: for_masks(FeatureRelevance, activation="softmax"),
        of_maps,
        METRIC | {"steps": 3, "baseline_mode": "mean", "activation": "sigmoid"},
        {"activation": "relu"},
    ),
    "RobustnessSr": (
        lambda: for_masks(RobustnessSr, steps=2, restarts=1, fractions=(0.5,), nb_halvings=2),
        of_maps,
        METRIC
        | {"fractions": (0.25, 0.75), "norm": np.inf, "clip": (-0.5, 1.5), "steps": 3}
        | {"restarts": 2, "certified": True, "method": "ibp", "nb_halvings": 3}
        | {"complement": True, "complete": True, "timeout": 5.0},
        {"norm": 3, "timeout": -1.0},
    ),
    "Stability": (
        lambda: for_masks(Stability, keeps="input", error=0.2, steps=2, levels=2),
        of_maps,
        METRIC
        | {"radius": 4, "error": 0.3, "delta": 0.3, "together": "all", "steps": 3, "top": 0.4}
        | {"baseline_mode": "mean", "keeps": "selected", "grid_size": 2, "keep": 0.5, "levels": 4}
        | {"groups": np.arange(16).reshape(4, 4) // 2},
        {"radius": 0, "error": 0.0, "keep": 0.3, "keeps": "class"},
    ),
    "ProbableSize": (
        lambda: for_masks(ProbableSize, targets=None, nb_steps=2, restarts=1, nb_samples=160),
        of_maps,
        METRIC
        | {"targets": np.argmax(network()(images()), axis=1), "epsilon": 0.3, "norm": 2}
        | {"clip": (-0.5, 1.5), "groups": np.arange(16).reshape(4, 4) // 2, "grid_size": 2}
        | {"steps": 4, "nb_steps": 3, "restarts": 2, "attack": False, "search": "sequence"}
        | {"distribution": "corners", "share": 0.9, "delta": 0.1, "nb_samples": 200}
        | {"nb_inputs": None},
        {"norm": 3, "share": 1.0, "delta": 0.0, "search": "best", "distribution": "normal"},
    ),
    "SufficientSize": (
        lambda: for_masks(SufficientSize, targets=None, nb_steps=2, restarts=1),
        of_maps,
        METRIC
        | {"targets": np.argmax(network()(images()), axis=1), "epsilon": 0.3, "norm": 2}
        | {"clip": (-0.5, 1.5), "groups": np.arange(16).reshape(4, 4) // 2, "grid_size": 2}
        | {"steps": 4, "method": "ibp", "complete": False, "timeout": 5.0, "nb_steps": 3}
        | {"restarts": 2},
        {"norm": 3, "timeout": -1.0, "steps": 0},
    ),
    "AverageStability": (
        lambda: for_masks(AverageStability, nb_samples=3),
        of_explainer,
        METRIC
        | {"radius": 0.3, "distance": largest_share, "nb_samples": 4, "clip": (-0.1, 1.05)}
        | {"outside": "clip", "two_sided": True},
        {"radius": -0.1, "distance": "l3", "nb_samples": 0, "clip": (0.4, 0.6), "outside": "cut"},
    ),
    "CertifiedStability": (
        lambda: for_masks(CertifiedStability, steps=2, restarts=1, nb_samples=2),
        of_explainer,
        METRIC
        | {"radius": 0.02, "distance": "linf", "norm": 2, "clip": (-0.1, 1.001), "outside": "clip"}
        | {"method": "ibp", "steps": 3, "restarts": 2, "nb_samples": 4},
        {"radius": -0.1, "distance": "mse", "norm": 3, "clip": (0.4, 0.6), "outside": "cut"}
        | {"method": "alpha-crown", "steps": -1, "restarts": 0, "nb_samples": -1},
    ),
    "ModelRandomization": (
        lambda: for_masks(ModelRandomization),
        of_explainer,
        METRIC
        | {"cascading": False, "top_down": False, "stop_layer": 1, "weights": "permuted"}
        | {"similarity": "absolute spearman"},
        {"batch_size": 0, "weights": "random", "similarity": "pearson"},
    ),
    "RandomLogit": (
        lambda: for_masks(RandomLogit),
        of_explainer,
        METRIC | {"similarity": "ssim"},
        {"batch_size": 0, "similarity": "pearson"},
    ),
    "Score": (
        lambda: Score(network()),
        of_score,
        {"model": network(1)} | OPERATOR,
        {"activation": "relu"},
    ),
    "PGD": (
        lambda: PGD(network(), steps=3),
        lambda attack: attack(region(), LABELS),
        {"model": network(1), "objective": first_pixel, "targeted": True, "steps": 5}
        | {"step_size": 0.2, "restarts": 3, "batch_size": 2, "seed": 4},
        {"steps": -1, "step_size": 0.0},
    ),
    "MinimalPerturbation": (
        lambda: MinimalPerturbation(network(), steps=4, restarts=1),
        lambda attack: attack(whole(), LABELS),
        {"model": network(1), "norm": np.inf, "steps": 6, "restarts": 2, "batch_size": 2}
        | {"seed": 4, "exact": never},
        {"norm": 3, "steps": 0},
    ),
    "MinimalTopK": (
        lambda: MinimalTopK(products, lambda points, data: points * data, steps=4, nb_halvings=2),
        of_top_k,
        {"maps": lambda points, data: -products(points, data), "smooth": products}
        | {"exact": lambda points, data: -points * data, "climb": "sum", "norm": 2}
        | {"clip": (-1.0, 2.0), "steps": 6, "step_size": 0.3, "nb_halvings": 3, "batch_size": 2},
        {"climb": "both", "norm": 3},
    ),
    "CriterionAttack": (
        criterion_attack,
        lambda attack: attack(region()),
        {"model": network(1), "explanation": scaled_gradient, "criterion": Within(0.3, "cosine")}
        | {"original": maps(6), "targets": np.eye(3, dtype="f4")[[1, 2, 0]], "steps": 3}
        | {"restarts": 2, "batch_size": 2, "seed": 4, "exact": None},
        {},
    ),
    "WeightCriterionAttack": (
        weight_attack,
        lambda attack: attack(0.1),
        {"model": network(1), "explanation": scaled_gradient, "criterion": Within(0.5, "mse")}
        | {"inputs": images(1), "original": maps(6), "bias_radius": 0.0, "steps": 3}
        | {"targets": np.eye(3, dtype="f4")[[1, 2, 0]], "step_size": 0.2, "restarts": 2, "seed": 4},
        {},
    ),
    "SmoothedMapAttack": (
        lambda: SmoothedMapAttack(network(), scaled_gradient, sigma=0.3, k=3, steps=1, nb_draws=2),
        of_smoothed,
        {"model": network(1), "explanation": None, "sigma": 0.2, "k": 5, "clip": (0.2, 0.8)}
        | {"steps": 2, "step_size": 0.2, "nb_draws": 3, "nb_weakest": 0, "nb_directions": 1}
        | {"alpha": 0.3, "batch_size": 4, "seed": 4},
        {"sigma": 0, "k": 0, "steps": -1, "step_size": 0.0, "nb_draws": 0, "alpha": 1.0},
    ),
    "SmoothedCosineAttack": (
        lambda: SmoothedCosineAttack(
            network(), scaled_gradient, normal_noise(SHAPE, 0.3), steps=1, nb_draws=2
        ),
        lambda attack: attack(Ball(images(), 0.2, 2), np.eye(3)[LABELS], maps()),
        {"model": network(1), "explanation": input_gradient, "noise": normal_noise(SHAPE, 0.1)}
        | {"clip": (0.2, 0.8), "steps": 2, "step_size": 0.2, "nb_draws": 3, "batch_size": 4}
        | {"seed": 4},
        {"steps": -1, "nb_draws": 0, "batch_size": 0},
    ),
    "Verifier": (
        lambda: Verifier(two_of_each(), "crown", nb_steps=2, strip_head=False),
        of_verifier,
        {
            "model": two_of_each(),
            "method": "alpha-crown",
            "dtype": "float64",
            "arithmetic": "float32",
        }
        | {"memory_budget": 40_000, "start_layer": "hidden", "strip_head": True, "perturbed": 1}
        | {"output": 1, "lower_slope": "left", "nb_steps": 1, "learning_rate": 0.5, "logits": None}
        | {"compile": True, "backward_depth": 1},
        {"method": "bounds", "dtype": "float16", "nb_steps": 0, "output": 2, "learning_rate": -1},
    ),
    "Verifier, optimised": (
        lambda: Verifier(two_of_each(), "alpha-crown", nb_steps=2, strip_head=False),
        of_verifier,
        {"model": two_of_each(), "method": "crown", "lower_slope": "left", "nb_steps": 1}
        | {"learning_rate": 0.5, "backward_depth": 1},
        {},
    ),
}
IN_PART = {"Verifier, optimised"}  # the other settings stand above it
# What changes how something is computed, and not what comes out.
WITHOUT_EFFECT = {"batch_size", "verbose", "memory_budget"}


def test_every_public_class_is_checked():
    public = {
        name
        for module in (attacks, metrics)
        for name in module.__all__
        if isinstance(getattr(module, name), type) and issubclass(getattr(module, name), Settings)
    }
    assert set(CASES) - IN_PART == (public - {"Metric"}) | {"Verifier"}


LONG = ["CertifiedStability", "SufficientSize", "Verifier, optimised"]  # one of them a day


def assert_same(found, expected, what):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6, err_msg=what)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", [*[name for name in CASES if name not in LONG], *in_turn(LONG, 1)])
def test_settings_count_as_if_they_were_given_at_first(name):
    make, use, others, wrong = CASES[name]
    used = make()
    names = setting_names(type(used))
    assert set(others) == set(names) or name in IN_PART
    before = arrays_of(use(used))
    assert before
    for setting, value in others.items():
        own = {other: getattr(used, other) for other in names}
        expected = arrays_of(use(type(used)(**(own | {setting: value}))))
        setattr(used, setting, value)
        assert_same(arrays_of(use(used)), expected, f"{setting} = {value}")
        setattr(used, setting, own[setting])
        assert_same(arrays_of(use(used)), before, f"{setting} = {value} and back")
    for setting, value in wrong.items():
        with pytest.raises(ValueError, match=setting):
            setattr(used, setting, value)
    assert_same(arrays_of(use(used)), before, "after what was refused")


def test_what_would_be_made_alike_is_kept():
    """Another radius needs no other verifier; another method, or model, does."""
    model, other = (sequential((4,), L.Dense(5, "relu"), L.Dense(3), seed=seed) for seed in (0, 1))
    inputs = np.random.default_rng(0).random((3, 4), dtype="float32")
    explainer = EVA(model, 0.1)
    explainer.explain(inputs)
    verifier = explainer._verifier
    explainer.epsilon = 0.2
    np.testing.assert_array_equal(explainer.explain(inputs), EVA(model, 0.2).explain(inputs))
    assert explainer._verifier is verifier
    explainer.method = "crown-ibp"
    assert explainer._verifier is not verifier
    explainer.model = other
    assert explainer._verifier.model is other
    assert not explainer._earlier


def test_settings_of_many_numbers_are_compared_whole():
    sides = np.zeros((40, 40, 1))  # numpy does not print all of them
    others = sides.copy()
    others[20, 20] = -1
    attacks = [MinimalTopK(abs, abs, clip=(side, 1.0)) for side in (sides, sides.copy(), others)]
    assert _same_settings(attacks[0], attacks[1])
    assert not _same_settings(attacks[0], attacks[2])
