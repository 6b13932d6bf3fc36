"""`SufficientReason` on many random tiny networks: no set is wrong, few features unknown."""

import numpy as np
import pytest
from reasons_asked import Asked, check
from rotation import rotating
from subsets import beats, label_stays, stays_within
from tiny_networks import ARCHITECTURES, chain, draw_weights, tiny

from xcertify.attributions import SufficientReason
from xcertify.regions import Ball

NB_INPUTS = 5  # features of each network
NB_SAMPLES = 6
GROUPS = {"each": None, "pairs": [0, 1, 1, 0, 2], "one": [3, 3, 3, 3, 3]}
NETWORKS = {
    "relu": "relu",
    "two kinks": "two_kinks",
    "max pooling": "max_pooling",
    "residual": "residual",
    "batch normalization": "batch_normalization",
    "maxima": "maxima",
    "tanh": chain("tanh", "tanh"),
    "sigmoid": chain("sigmoid", units=6),
}
_EXPLAINERS = {}


def explainer_of(name):
    """One for all weights of a network, which change between calls."""
    if name not in _EXPLAINERS:
        model = tiny(ARCHITECTURES.get(NETWORKS[name], NETWORKS[name]), NB_INPUTS)
        _EXPLAINERS[name] = SufficientReason(model, 0.1, time_limit=None)
    return _EXPLAINERS[name]


def questions(kind, generator, logits):
    """Arguments of the explainer, and the property of a class and its outputs."""
    if kind == "towards":
        each = np.argsort(logits)[:, -2 - generator.integers(0, 2)]
        return {"towards": each}, None
    if kind == "class_groups":
        groups = [0, 1, 1] if generator.random() < 0.5 else [4, 0, 4]
        return {"class_groups": groups}, lambda own, f: label_stays(own, groups)
    if kind == "delta":
        delta = float(generator.uniform(0.05, 1.0))
        return {"delta": delta}, lambda own, f: stays_within(own, delta, f[own], 3)
    return {}, None


def sweep(name, seed):
    generator = np.random.default_rng([seed, sum(map(ord, name))])
    explainer = explainer_of(name)
    model = draw_weights(explainer.model, seed)
    inputs = generator.uniform(-1, 1, (NB_SAMPLES, NB_INPUTS)).astype("f4")
    logits = model.predict_on_batch(inputs)
    kind = ["class", "class", "towards", "delta", "class_groups"][generator.integers(5)]
    settings, ours = questions(kind, generator, logits)
    groups = GROUPS[generator.choice([*GROUPS])]
    norm = np.inf if generator.random() < 0.7 else 2
    clip = None if generator.random() < 0.5 else (-1.0, 1.0)
    epsilon = generator.uniform(0.02, 0.5, (NB_SAMPLES, 1))
    if generator.random() < 0.3:
        epsilon = epsilon * (generator.random((NB_SAMPLES, NB_INPUTS)) < 0.8)
    settings |= {"norm": norm, "clip": clip, "groups": groups, "epsilon": epsilon}
    for argument in ("towards", "delta", "class_groups"):
        setattr(explainer, argument, None)
    for argument, value in settings.items():
        setattr(explainer, argument, value)
    asked = Asked.of(model, Ball(inputs, epsilon, norm, clip), groups, ours)
    if kind == "towards":
        own = [beats(int(c), [int(o)], 3) for c, o in zip(asked.predicted, settings["towards"])]
        asked = Asked(model, asked.net, asked.region, asked.labels, own)
    targets = asked.predicted if kind == "delta" else None
    certificate = explainer.certify(inputs, targets)
    check(certificate, asked)
    return certificate


def unknown_share(certificates):
    return np.mean([certificate.unknown.mean() for certificate in certificates])


@pytest.mark.parametrize("name", [[*NETWORKS][number] for number in rotating(len(NETWORKS), 2)])
def test_random_networks(name):
    found = [sweep(name, seed) for seed in rotating(10_000, 3)]
    assert unknown_share(found) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_many_random_networks(name):
    found = [sweep(name, seed) for seed in rotating(10_000, 40)]
    assert unknown_share(found) < 0.02
    assert any(certificate.sizes.any() for certificate in found)
