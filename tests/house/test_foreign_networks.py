"""The benchmark on networks of others, on small networks of the same kinds."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from foreign import Foreign, load
from foreign_networks import EXPLAINERS, METRICS, Found, rows, summary
from radii_by_network import Network, radii

from xcertify import VacuousWarning
from xcertify.attributions import EVA
from xcertify.bounds import UnsupportedLayerError, Verifier

L = keras.layers


def faces():
    """Residual, with separable convolutions and BatchNorm; softmax behind a global average."""
    x = inputs = keras.Input((8, 8, 1))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, use_bias=False)(x)))
    y = L.ReLU()(L.BatchNormalization()(L.SeparableConv2D(4, 3, padding="same")(x)))
    y = L.MaxPooling2D(3, strides=2, padding="same")(L.SeparableConv2D(4, 3, padding="same")(y))
    x = L.Add(name="sum")([y, L.BatchNormalization()(L.Conv2D(4, 1, strides=2)(x))])
    x = L.GlobalAveragePooling2D()(L.Conv2D(3, 3, padding="same")(x))
    return keras.Model(inputs, L.Softmax()(x)), "sum", (-1.0, 1.0)


def sounds():
    """Frames of bands as one image, convolutions with BatchNorm, dense layers."""
    layers = [L.Reshape((9, 7, 1)), L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU()]
    layers += [L.MaxPooling2D(2), L.Flatten(name="flat"), L.Dense(6), L.BatchNormalization()]
    layers += [L.ReLU(), L.Dropout(0.5), L.Dense(3, "softmax")]
    return keras.Sequential([keras.Input((9, 7)), *layers]), "flat", (-1.0, 1.0)


def incomes():
    """29 columns, one hidden layer, one sigmoid."""
    layers = [L.Dense(20, "relu", name="hidden"), L.Dense(1, "sigmoid")]
    return keras.Sequential([keras.Input((29,)), *layers]), "hidden", (0.0, 1.0)


def stand_in(build):
    keras.utils.set_random_seed(0)
    model, latent, clip = build()
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):  # as after training
            layer.moving_mean.assign(rng.normal(0, 0.1, layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))
    inputs = rng.uniform(*clip, (4, *model.input_shape[1:])).astype(np.float32)
    return Foreign(build.__name__, model, inputs, clip, latent)


pytestmark = pytest.mark.usefixtures("eager")

ASKED = {
    faces: ["EVAHybrid", "GradCAM", "CertifiedGradient", "Insertion"],
    sounds: ["EVA", "Saliency", "MuFidelity"],
    incomes: ["EVA", "GradCAM", "SufficientReason", "Deletion", "ClassRetrieval", "RandomLogit"],
}


@pytest.mark.parametrize("build", ASKED)
def test_everything_is_useful_or_says_why_not(build):
    lines = list(rows(stand_in(build), ASKED[build]))
    found = [(name, found) for _, name, found in lines if found is not None]
    assert {name for name, _ in found} == set(ASKED[build])
    assert all(f.word not in ("SILENT", "slow") for _, f in found), lines
    refused = {name for name, f in found if f.word == "refuses"}
    assert refused == ({"GradCAM"} if build is incomes else set()), lines


def test_the_summary_has_a_word_for_each():
    first, second = Found("warns", "", (1.0,)), Found("useful", "", (1.0,))
    results = {
        "EVA": {"a": [first, second], "b": [Found("SILENT", "", ())]},
        "Rise": {"a": [second]},
    }
    assert list(summary(results)) == [
        "\n| what | a | b |",
        "| --- | --- | --- |",
        "| `EVA` | warns, then useful | SILENT |",
        "| `Rise` | useful |  |",
        "\n1 silent",
    ]


def test_what_is_asked_exists():
    assert {name for names in ASKED.values() for name in names} <= {*EXPLAINERS, *METRICS}


def test_radii_are_shares_of_the_range_and_proofs_below_attacks():
    network = stand_in(incomes)
    proved, attacked, overlaps, gradient = radii(
        Network("", network.model, network.inputs, network.clip)
    )
    assert 0 < proved <= attacked
    assert overlaps >= proved and gradient > 0


def one_unit(bias):
    """Score ``1 - 4 relu(x_0 + ... + x_28 + bias)``, of which class 0 has the negative."""
    layers = [L.Dense(1, "relu"), L.Dense(1, "sigmoid")]
    model = keras.Sequential([keras.Input((29,)), *layers])
    weights = np.ones((29, 1)), [bias], [[-4.0]], [-0.5]
    model.set_weights([np.array(values) for values in weights])
    return model


def test_a_map_of_zeros_is_avoided_where_another_line_says_something():
    """Class 0 is nearest to its end where the unit is off: no cell alone changes the bound.

    Columns are 1 and can only fall, the unit from 0.1 to below 0, so that it is bounded by 0.
    """
    explainer = EVA(one_unit(bias=-28.9), epsilon=0.01, clip=(0.0, 1.0))
    assert explainer.explain(np.ones((1, 29), np.float32)).any()


def test_a_map_of_zeros_is_not_silent():
    """The unit is off in the whole region, and nothing changes the score."""
    explainer = EVA(one_unit(bias=-1.0), epsilon=0.01, clip=(0.0, 1.0))
    with pytest.warns(VacuousWarning, match="zero everywhere"):
        assert not explainer.explain(np.zeros((1, 29), np.float32)).any()


def test_an_open_input_shape_is_refused_with_the_lines_that_close_it():
    layers = [L.Reshape((9, 7, 1)), L.Conv2D(2, 3), L.Flatten(), L.Dense(2)]
    model = keras.Sequential([keras.Input((None, 9, 7)), *layers])
    with pytest.raises(UnsupportedLayerError, match="is not fully known") as refusal:
        Verifier(model)
    assert "clone_model(model, input_tensors=keras.Input(shape))" in str(refusal.value)
    assert "fixed.set_weights(model.get_weights())" in str(refusal.value)
    fixed = keras.models.clone_model(model, input_tensors=keras.Input((9, 7)))
    fixed.set_weights(model.get_weights())
    inputs = np.random.default_rng(0).random((2, 9, 7), np.float32)
    given = np.asarray(model(inputs[:, None]))
    np.testing.assert_allclose(Verifier(fixed).evaluate(inputs), given, atol=1e-6)


def test_a_missing_package_is_named():
    with pytest.raises(ImportError, match="no_such_package, which is not installed"):
        load("no_such_package", "model.hdf5")
