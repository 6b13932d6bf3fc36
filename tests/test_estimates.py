"""Estimates: which layers, bounds and explainers there are, and what they cost beside what is
measured."""

import math
import sys
import time

import keras
import numpy as np
import pytest
from networks import sequential

from xcertify import attributions
from xcertify.attributions.base import WITHOUT_BOUNDS, Explainer
from xcertify.bounds import GRADIENT_METHODS, METHODS, UnsupportedLayerError, Verifier, coverage_of
from xcertify.estimates import Cost, estimate
from xcertify.estimates.explainers import _COSTS

L = keras.layers
EXPLAINERS = {
    name for name in attributions.__all__ if issubclass(getattr(attributions, name), Explainer)
}


def small():
    return sequential((5,), L.Dense(4, "relu"), L.Dense(3), L.Softmax())


def rows_of(found):
    return {(cost.name, cost.method): cost for cost in found.explainers}


def test_layers_methods_and_explainers_of_a_small_network():
    found = estimate(small(), seconds=0)
    assert [(layer.kind, layer.shape, layer.bounded) for layer in found.layers] == [
        ("Dense", (4,), "lines"),
        ("Dense", (3,), "lines"),
        ("Softmax", (3,), "left out"),
    ]
    assert [layer.nb_parameters for layer in found.layers] == [24, 15, 0]
    assert {(cost.name, cost.method) for cost in found.methods} == {
        *(("outputs", method) for method in METHODS),
        *(("gradient", method) for method in GRADIENT_METHODS),
    }
    assert not any(cost.is_measured for cost in found.methods)  # no time
    assert all(0 < cost.seconds < 100 for cost in found.methods)
    assert {cost.name for cost in found.explainers} == EXPLAINERS
    rows = rows_of(found)
    assert rows["EVA", "crown"].proves and rows["EVA", "crown"].practical == "yes"
    assert ("EVA", "ibp") not in rows  # one-pass needs lines
    assert ("CertifiedGradient", "ibp-crown") in rows
    assert rows["CORGI", ""].practical == rows["GradCAM", ""].practical == "refused"
    assert "conv_layer" in rows["CORGI", ""].reason
    assert "latent_layer" in rows["EVAHybrid", ""].reason
    text = str(found)
    for name in (*EXPLAINERS, "left out (logits)", "factor of 4"):
        assert name in text


def test_a_network_without_work():
    inputs = keras.Input((3,))
    text = str(estimate(keras.Model(inputs, keras.layers.Identity()(inputs))))
    assert "EVA" in text


def test_bounds_are_measured_where_there_is_time():
    found = estimate(sequential((3,), L.Dense(2)), input=np.zeros(3), seconds=60)
    assert all(cost.is_measured for cost in found.methods)
    assert all(cost.seconds > 0 for cost in found.methods)


def test_layers_that_are_refused():
    own = L.Lambda(lambda x: x + 1, output_shape=(6,), name="own")
    model = keras.Sequential([keras.Input((6,)), own, L.LayerNormalization(), L.Dense(2)])
    found = estimate(model, seconds=0)
    assert [layer.bounded for layer in found.layers] == ["refused", "lines", "lines"]
    assert "'own'" in found.layers[0].reason and found.refused == found.layers[0].reason
    assert found.methods == []
    rows = rows_of(found)
    for name in ("EVA", "RelEx", "SufficientReason", "CertifiedGradient"):
        assert rows[name, ""].practical == "refused"
        assert "class Lambda" in rows[name, ""].reason and WITHOUT_BOUNDS in rows[name, ""].reason
    assert rows["SmoothGrad", ""].practical == "yes"
    assert "REFUSED" in str(found)


def test_gradients_that_are_refused():
    model = sequential((3,), L.Dense(3), L.ReLU(threshold=0.5), L.Dense(2))
    found = estimate(model, seconds=0)
    assert [layer.gradient for layer in found.layers] == [True, False, True]
    (gradient,) = [cost for cost in found.methods if cost.name == "gradient"]
    assert gradient.practical == "refused" and "jumps" in gradient.reason
    row = rows_of(found)["CertifiedGradient", ""]
    assert row.practical == "refused" and "jumps" in row.reason
    assert rows_of(found)["EVA", "crown"].practical == "yes"


def test_models_whose_layers_are_not_known():
    kernel = keras.ops.ones((3, 2))
    found = estimate(lambda points: points @ kernel, input=np.ones((1, 3)), seconds=0)
    assert found.layers == [] and "Sequential and functional" in found.refused
    rows = rows_of(found)
    assert rows["EVA", ""].practical == "refused" and rows["Saliency", ""].practical == "yes"


@pytest.mark.parametrize("given", [np.zeros(4), np.zeros((2, 5)), np.zeros((1, 1, 5))])
def test_inputs_that_do_not_fit(given):
    with pytest.raises(ValueError, match="input"):
        estimate(small(), input=given, seconds=0)


def test_coverage_agrees_with_the_verifier():
    nested = sequential((4,), L.Dense(3, "tanh"))
    model = sequential((4,), nested, L.Dense(2))
    names = [layer.name for layer in coverage_of(model)]
    assert names[0].startswith(f"{nested.name}/")
    refused = sequential((4,), L.Dense(3), L.Lambda(lambda x: x * 2, output_shape=(3,)))
    assert [layer.bounded for layer in coverage_of(refused)] == ["lines", "refused"]
    with pytest.raises(UnsupportedLayerError, match=refused.layers[1].name):
        Verifier(refused).bound_outputs(None)


@pytest.mark.parametrize(
    ("seconds", "practical"), [(0.5, "yes"), (5.0, "few inputs"), (500.0, "no")]
)
def test_what_is_practical(seconds, practical):
    assert Cost("EVA", "crown", True, seconds).practical == practical


def test_every_explainer_has_a_cost():
    assert set(_COSTS) | {"EVAHybrid"} == EXPLAINERS


# --- beside what is measured ----------------------------------------------------------------------

NETWORKS = {
    "table": lambda: sequential((14,), L.Dense(20, "relu"), L.Dense(2)),
    "dense": lambda: sequential((12, 12, 1), L.Flatten(), L.Dense(64, "relu"), L.Dense(10)),
    "convolutions": lambda: sequential(
        (16, 16, 1),
        L.Conv2D(8, 4, 2, activation="relu"),
        L.Conv2D(16, 4, 2, activation="relu"),
        L.Flatten(),
        L.Dense(32, "relu"),
        L.Dense(10),
    ),
}
# Its subsets are 5,000, whatever the network: once is enough.
ONLY = {"GreedyAS": "table"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::xcertify.VacuousWarning")
@pytest.mark.parametrize("network", NETWORKS)
def test_estimates_are_within_a_factor_of_4(network, capsys):
    model = NETWORKS[network]()
    inputs = np.random.default_rng(0).random((8, *model.input_shape[1:])).astype(np.float32)
    factors = {}
    for (name, method), cost in rows_of(estimate(model, input=inputs[0], seconds=60)).items():
        if ONLY.get(name, network) != network or math.isnan(cost.seconds) or cost.seconds > 10:
            continue
        if method not in ("", "crown"):
            continue
        settings = {"method": method} if method else {}
        explainer = getattr(attributions, name)(model, **settings)
        ask = getattr(explainer, "certify", explainer.explain)
        some = inputs[:1] if cost.seconds > 1 else inputs
        ask(some)
        begin = time.process_time()
        ask(some)
        factors[name] = cost.seconds / ((time.process_time() - begin) / len(some))
    with capsys.disabled():
        sys.stdout.write(
            f"\n{network}: {', '.join(f'{name} {f:.2g}' for name, f in factors.items())}\n"
        )
    wrong = {name: factor for name, factor in factors.items() if not 1 / 4 <= factor <= 4}
    assert not wrong


def test_models_of_words_are_refused_with_what_to_do():
    words = keras.Input((4,), dtype="int32")
    vectors = keras.layers.Embedding(5, 2, mask_zero=True)(words)
    model = keras.Model(words, keras.layers.GlobalAveragePooling1D()(vectors))
    with pytest.raises(ValueError, match=r"whole numbers \(int32\).*behind"):
        estimate(model)
