"""Every explainer and metric on every kind of network with its defaults: it runs, or says the cure.

Only what is mere work (samples, steps, seconds) is made less. A run draws some pairs of a network
and an explainer or metric; ``-m slow`` has all of them.
"""

import inspect
import itertools
import warnings

import keras
import numpy as np
import pytest
from networks import sequential
from rotation import rotating

from xcertify import attributions, metrics
from xcertify.attributions.base import Explainer
from xcertify.certificates import Certificate
from xcertify.metrics.of_explainers import ExplainerMetric
from xcertify.usefulness import VacuousWarning

L = keras.layers


TABLES = ("standardised table", "single sigmoid", "regression")
WITHOUT_PLACES = "needs a convolution of images .*conv_layer; .*take Saliency or EVA"
# What has no meaning, and what the error says to do.
REFUSED = {
    ("CORGI", "time series"): "class activation map needs channels of an image",
    **{
        (name, kind): WITHOUT_PLACES
        for name in ("CORGI", "GradCAM", "GradCAMPP")
        for kind in TABLES
    },
    **{
        ("FeatureRelevance", kind): "returns logits give activation='softmax'"
        for kind in ("standardised table", "regression", "pixels to 255")
    },
}


def normal(shape):
    return np.random.default_rng(1).normal(size=shape)


def uniform(low, high, shape):
    return np.random.default_rng(1).uniform(low, high, shape)


def convolutions(*end, first=()):
    return sequential(
        (8, 8, 2),
        *first,
        L.Conv2D(3, 3, activation="relu", name="conv"),
        L.MaxPooling2D(2),
        L.Conv2D(4, 2, activation="relu"),
        *end,
    )


# Networks, inputs, and a layer at which EVAHybrid may cut.
KINDS = {
    "standardised table": (
        lambda: sequential((6,), L.Dense(8, "relu", name="cut"), L.Dense(3)),
        lambda: normal((4, 6)),
    ),
    "single sigmoid": (
        lambda: sequential((6,), L.Dense(8, "relu", name="cut"), L.Dense(1, "sigmoid")),
        lambda: normal((4, 6)),
    ),
    "regression": (
        lambda: sequential((6,), L.Dense(8, "tanh", name="cut"), L.Dense(1)),
        lambda: 20 * normal((4, 6)),
    ),
    "flattened images": (
        lambda: convolutions(L.Flatten(name="cut"), L.Dense(6, "relu"), L.Dense(3, "softmax")),
        lambda: uniform(-1, 1, (4, 8, 8, 2)),
    ),
    "global pooling": (
        lambda: convolutions(L.GlobalAveragePooling2D(name="cut"), L.Dense(3), L.Softmax()),
        lambda: uniform(0, 1, (4, 8, 8, 2)),
    ),
    "pixels to 255": (
        lambda: convolutions(
            L.GlobalAveragePooling2D(name="cut"), L.Dense(3), first=[L.Rescaling(1 / 255)]
        ),
        lambda: uniform(0, 256, (4, 8, 8, 2)).astype("uint8"),
    ),
    "time series": (
        lambda: sequential(
            (8, 2),
            L.Conv1D(4, 3, activation="relu"),
            L.GlobalAveragePooling1D(name="cut"),
            L.Dense(3, "softmax"),
        ),
        lambda: normal((4, 8, 2)),
    ),
}
# Less work, in what its defaults are: a number of samples, of steps, of seconds.
WORK = {
    "EVAHybrid": {"nb_samples": 5},
    "SampledEVA": {"nb_samples": 5},
    "GreedyAS": {"nb_subsets": 8, "steps": 3},
    "IntegratedGradients": {"steps": 3},
    "RelEx": {"nb_samples": 2, "steps": 3, "nb_halvings": 2},
    "Rise": {"nb_samples": 11},
    "SmoothGrad": {"nb_samples": 3},
    "SmoothedAttribution": {"nb_samples": 20},
    "UniformlySmoothedAttribution": {"nb_samples": 20, "nb_choosing": 5},
    "CORGI": {"tolerance": 1.0, "attack": None, "method": "crown-ibp"},
    "SufficientReason": {"time_limit": 0.5},
    "RobustnessSr": {"steps": 3, "restarts": 1},
    "AverageStability": {"nb_samples": 3},
    "CertifiedStability": {"steps": 3},
    "MuFidelity": {"nb_samples": 20},
    "SufficientSize": {"timeout": 0.5},
}
EXPLAINERS = [n for n in attributions.__all__ if issubclass(getattr(attributions, n), Explainer)]
METRICS = [
    name
    for name in metrics.__all__
    if inspect.isclass(getattr(metrics, name))
    and issubclass(getattr(metrics, name), (metrics.Metric, ExplainerMetric))
    and not inspect.isabstract(getattr(metrics, name))
]


def run(name, kind):
    """What it gives, or the error that says what to do instead."""
    model, inputs = (make() for make in KINDS[kind])
    given = {"latent_layer": "cut"} if name == "EVAHybrid" else {}
    settings = WORK.get(name, {}) | given
    if name in EXPLAINERS:
        explainer = getattr(attributions, name).of_model(model, **settings)
        maps = explainer.explain(inputs)
        shape = (4, 8, 8, 1) if inputs.ndim == 4 else inputs.shape
        assert maps.shape == shape and maps.dtype == "float32" and np.isfinite(maps).all()
        if hasattr(explainer, "certify"):
            assert isinstance(explainer.certify(inputs), Certificate)
        return
    metric = getattr(metrics, name)(model, inputs, **settings)
    saliency = attributions.Saliency(model)
    of_maps = isinstance(metric, metrics.Metric)
    assert np.isfinite(metric(saliency.explain(inputs) if of_maps else saliency))


PAIRS = [*itertools.product([*EXPLAINERS, *METRICS], KINDS)]


def check(name, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VacuousWarning)
        warnings.filterwarnings("ignore", "clip='auto' took the valid range")
        if (name, kind) not in REFUSED:
            run(name, kind)
            return
        with pytest.raises(ValueError, match=REFUSED[name, kind] + ".*Received: "):
            run(name, kind)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("number", rotating(len(PAIRS), 8))
def test_a_pair_of_a_network_and_what_is_done_with_it(number):
    check(*PAIRS[number])


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_all_pairs(name, kind):
    check(name, kind)
