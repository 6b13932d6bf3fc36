"""Certificates say whose arithmetic they are about; half precision is not covered, or refused."""

from importlib.util import find_spec

import keras
import numpy as np
import pytest
from networks import sequential

from xcertify.attributions import CORGI, EVA, AttributionBound, CertifiedGradient, RelEx
from xcertify.bounds import UnsupportedLayerError, Verifier

L = keras.layers
INPUTS = np.random.default_rng(0).random((2, 4), dtype="float32")


def network(dtype="float32"):
    return sequential((4,), L.Dense(5, "relu", dtype=dtype, name="first"), L.Dense(2))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    model = network(f"mixed_{dtype}")
    said = f"real (the model computes in {dtype}, which is not covered)"
    assert Verifier(model).guarantee == said
    certificates = [
        EVA(model, 0.01).certify(INPUTS),
        CertifiedGradient(model, 0.01).certify(INPUTS),
    ]
    for certificate in certificates:
        assert certificate.arithmetic == certificate.to_dict()["arithmetic"] == said
        note = f"real arithmetic (the model computes in {dtype}, which is not covered)"
        assert note in repr(certificate)
    with pytest.raises(UnsupportedLayerError, match=f"'first' of the model .* in {dtype}"):
        Verifier(model, arithmetic="float32")


def test_a_model_of_models_in_half_precision():
    inner = network("mixed_float16")
    model = sequential((4,), inner, L.Dense(2))
    with pytest.raises(UnsupportedLayerError, match="'first' of the model"):
        Verifier(model, arithmetic="float32")
    assert "float16" in Verifier(model).guarantee


def test_single_precision():
    model = network()
    assert Verifier(model).guarantee == "real"
    assert Verifier(model, arithmetic="float32").guarantee == "float32"
    certificate = EVA(model, 0.01).certify(INPUTS)
    assert certificate.arithmetic == "real"
    assert "crown, real arithmetic>" in repr(certificate)
    assert CertifiedGradient(model, 0.01).certify(INPUTS).arithmetic == "real"
    masked = RelEx(model, nb_samples=2, steps=2).certify(INPUTS)
    assert masked.arithmetic == "real"
    smooth = sequential((4,), L.Dense(5, "tanh"), L.Dense(2))
    assert AttributionBound(smooth, epsilon=0.01).certify(INPUTS).arithmetic == "none"
    proved = AttributionBound(smooth, epsilon=0.01, norm=np.inf, proved=True)
    assert proved.certify(INPUTS).arithmetic == "real"


def test_double_precision():
    model = network("float64")
    assert Verifier(model).guarantee == "real"


def test_class_activation_maps():
    images = np.random.default_rng(0).random((2, 6, 6, 1), dtype="float32")
    head = [L.GlobalAveragePooling2D(), L.Dense(2)]
    for policy in ("float32", "mixed_float16"):
        model = sequential((6, 6, 1), L.Conv2D(3, 3, activation="relu", dtype=policy), *head)
        found = CORGI(model, k=2, method="ibp", attack=None).certify(images)
        assert found.arithmetic.startswith("real")
        assert ("float16" in repr(found)) == (policy != "float32")


def test_decomon():
    if find_spec("decomon") is None:
        pytest.skip("decomon is not installed")
    certificate = EVA(network(), 0.01, mode="exact", method="decomon:crown").certify(INPUTS)
    assert certificate.arithmetic == "decomon"
    assert "decomon:crown, decomon arithmetic>" in repr(certificate)
