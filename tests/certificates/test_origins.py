"""Where certificates come from: settings that make the explainer anew, and the model's hashes."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers as L
from networks import sequential
from some_certificates import reason

from xcertify import attributions
from xcertify.attributions import EVA, SufficientReason
from xcertify.certificates import GradientCertificate, ReasonCertificate, fingerprint
from xcertify.certificates.origins import Origin, as_json, canonical, dumps, numbers_of
from xcertify.certificates.stored import header_from, header_text, restored, stored
from xcertify.fingerprints import hash_of_architecture


def inputs(nb_samples, shape):
    return np.random.default_rng(0).normal(size=(nb_samples, *shape)).astype(np.float32)


def small(seed=0, units=4):
    keras.utils.set_random_seed(seed)
    return sequential((4,), L.Dense(units, activation="relu"), L.Dense(3))


# --- origins ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
def test_settings_make_the_explainer_anew():
    model, x = small(), inputs(2, (4,))
    order = np.array([3.0, 1.0, 2.0, 0.0])
    for explainer in (
        EVA(model, np.array([[0.1], [0.2]]), grid_size=2, clip=(-np.inf, np.full(4, 9.0))),
        SufficientReason(model, 0.01, norm="inf", order=order, groups=np.array([0, 0, 1, 2])),
    ):
        certificate = explainer.certify(x)
        found = restored(stored(certificate))
        origin = dataclasses.replace(
            found.origin, settings=header_from(header_text(stored(found).header))["settings"]
        )
        assert origin == found.origin == certificate.origin and origin.in_words == ()
        assert origin.weights == fingerprint(model)
        assert origin.architecture == hash_of_architecture(model)
        assert set(origin.versions) == {"xcertify", "keras", "tensorflow", "numpy"}
        again = getattr(attributions, origin.explainer)(model, **origin.settings).certify(x)
        np.testing.assert_array_equal(again.certified, certificate.certified)
        np.testing.assert_array_equal(again.region.lower, certificate.region.lower)
        assert again.origin == origin


@pytest.mark.filterwarnings("ignore::xcertify.usefulness.VacuousWarning")
@pytest.mark.usefixtures("eager")
def test_what_no_file_can_hold_is_told_in_words():
    model, x = small(), inputs(1, (4,))
    order = attributions.Saliency(model)
    certificate = SufficientReason(model, 0.01, order=[None, order]).certify(x)
    origin = restored(stored(certificate)).origin
    assert origin.in_words == ("order",)
    words = {"in words": "a xcertify.attributions.gradients.Saliency"}
    assert origin.settings["order"] == [None, words]


def test_settings_as_json():
    values = {
        "array": np.array([[1.5, np.inf]]),
        "float32": np.float32(0.1),
        "tuple": (0, np.int64(2), None, True),
        "tensor": keras.ops.convert_to_tensor([1.0, 2.0]),
        "function": len,
    }
    found = as_json(values)
    assert found == {
        "array": [[1.5, np.inf]],
        "float32": float(np.float32(0.1)),
        "tuple": [0, 2, None, True],
        "tensor": [1.0, 2.0],
        "function": {"in words": "builtins.len"},
    }
    text = dumps([np.inf, -np.inf, np.nan, 1e300])
    assert text == '["inf", "-inf", "nan", 1e+300]'
    assert str(numbers_of(json.loads(text))) == "[inf, -inf, nan, 1e+300]"
    assert Origin("A", found, "", "", {}).in_words == ("function",)


# --- architectures ------------------------------------------------------------------------------


def branches(name=None):
    first = keras.Input((6, 6, 2), name=name)
    shared = L.Conv2D(2, 3, padding="same", kernel_regularizer="l2")
    inner = sequential((6, 6, 2), L.BatchNormalization(), L.Dropout(0.2, seed=1))
    x = L.Add()([shared(first), inner(shared(inner(first)))])
    x = L.Concatenate()([L.GlobalAveragePooling2D()(x), L.Flatten()(x)])
    return keras.Model(first, L.Dense(3, activation="softmax")(x))


def operations():
    first = keras.Input((4,))
    x = keras.ops.relu(first) * 2.0
    x = keras.ops.maximum(x, keras.ops.concatenate([x[:, :2], x[:, 2:]], axis=-1))
    return keras.Model(first, L.Dense(3)(x))


def plain():
    normalization = L.Normalization(mean=[0.5, 0.1], variance=[1.0, 2.0])
    layers = [L.Rescaling(1 / 255), normalization, L.LeakyReLU(), L.MaxPooling2D()]
    return sequential((6, 6, 2), *layers, L.Flatten(), L.Dense(2, dtype="float32"))


@keras.saving.register_keras_serializable("of_the_tests")
class Scaled(L.Layer):
    def __init__(self, factor, **settings):
        super().__init__(**settings)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return super().get_config() | {"factor": self.factor}


def custom(factor=2.0):
    return sequential((4,), Scaled(factor), L.Dense(2))


MODELS = [branches, operations, plain, custom, small]


@pytest.mark.parametrize(
    ("build", "ending"),
    [(build, ".keras") for build in MODELS]
    + [(build, ".h5") for build in MODELS if build is not operations],  # Keras loads no such .h5
)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_architectures_are_the_same_from_files(build, ending, tmp_path):
    model = build()
    expected = hash_of_architecture(model)
    assert hash_of_architecture(build()) == expected  # whose layers have other names
    model.compile("sgd", "mse")
    model.save(tmp_path / f"model{ending}")
    loaded = keras.models.load_model(tmp_path / f"model{ending}", compile=False)
    assert hash_of_architecture(loaded) == expected
    loaded.trainable = False
    loaded.set_weights([w + 1 for w in loaded.get_weights()])
    assert hash_of_architecture(loaded) == expected
    assert hash_of_architecture(keras.models.clone_model(model)) == expected


def test_other_architectures_have_other_hashes():
    def chain(*layers):
        return sequential((4,), *layers)

    def wired(swapped):
        x = keras.Input((4,))
        parts = [L.Dense(3)(x), L.Dense(3, use_bias=False)(x)]
        return keras.Model(x, L.Subtract()(parts[::-1] if swapped else parts))

    def shared(is_shared):
        x = keras.Input((4,))
        one = L.Dense(4)
        return keras.Model(x, (one if is_shared else L.Dense(4))(one(x)))

    found = [
        hash_of_architecture(model)
        for model in (
            *(build() for build in MODELS),
            custom(3.0),
            small(units=5),
            chain(L.Dense(3)),
            chain(L.Dense(3, use_bias=False)),
            chain(L.Dense(3, activation="relu")),
            chain(L.Dense(3, activation="elu")),
            chain(L.Dense(3, dtype="float16")),
            chain(L.LeakyReLU(0.1)),
            chain(L.LeakyReLU(0.2)),
            sequential((4, 1), L.Flatten(), L.Dense(3)),
            wired(False),
            wired(True),
            shared(False),
            shared(True),
        )
    ]
    assert len(set(found)) == len(found)


# --- files of earlier versions ------------------------------------------------------------------


def test_files_of_gradient_certificates_before_headers(tmp_path):
    """As they were written before there was a header."""
    x = inputs(2, (4,))
    settings = {"epsilon": 0.1, "norm": np.inf, "clip": None, "method": "interval", "gamma": 0.0}
    settings |= {"bias_radius": None, "attribution": "gradient"}
    text = {"method": "interval", "arithmetic": "real", "settings": settings, "fingerprint": "a"}
    arrays = {"lower": x - 1, "upper": x + 2, "explanation": x, "inputs": x}
    path = tmp_path / "earlier.npz"
    np.savez(path, text=np.array(json.dumps(text)), targets=np.ones((2, 3)), **arrays)
    found = GradientCertificate.load(path)
    assert found.method == found.settings["method"] == "ibp" and found.origin is None
    assert str(found.region) == "linf balls of radius 0.1" and found.attained is None
    np.testing.assert_array_equal(found.upper, x + 2)
    found.save(path)
    assert repr(GradientCertificate.load(path).to_dict()) == repr(found.to_dict())
    for name in ("targets", "explanation", "text"):
        kept = {n: a for n, a in arrays.items() if n != name}
        kept |= {} if name == "targets" else {"targets": np.ones((2, 3))}
        np.savez(path, text=np.array("{}" if name == "text" else json.dumps(text)), **kept)
        with pytest.raises(ValueError, match="must be"):
            GradientCertificate.load(path)


@pytest.mark.parametrize("kind", ["ball", "box"])
def test_files_of_sufficient_reasons_before_headers(tmp_path, kind):
    certificate, path = reason(), tmp_path / "earlier.npz"
    names = ("irrelevant", "needed", "unknown", "features", "sizes", "smallest", "targets")
    arrays = {name: getattr(certificate, name) for name in names}
    arrays |= {name: getattr(certificate, name) for name in ("contributions", "seconds", "reason")}
    arrays |= {"witness_samples": np.array([0]), "witness_groups": np.array([0])}
    arrays["witness_inputs"] = certificate.witnesses[0][0][None]
    text = {"method": "crown", "arithmetic": "real", "settings": {}, "fingerprint": "a"}
    text |= {"answers": certificate.answers.to_dict(), "region": {}}
    region = certificate.region
    arrays["center"] = region.center
    if kind == "ball":
        text["region"] = {"norm": np.inf, "clip": [0.0, 1.0]}
        arrays["epsilon"] = np.array(0.1)
    else:
        arrays |= {"lower": region.lower, "upper": region.upper}
    np.savez_compressed(path, text=np.array(json.dumps(text)), **arrays)
    found = ReasonCertificate.load(path)
    assert found.settings == {} and found.origin is None and repr(found.answers)
    np.testing.assert_array_equal(found.region.lower, region.lower)
    np.testing.assert_array_equal(found.witnesses[0][0], certificate.witnesses[0][0])
    np.testing.assert_array_equal(found.certified, certificate.certified)
    found.save(path)
    assert repr(ReasonCertificate.load(path).to_dict()) == repr(found.to_dict())
    for name, value in [("needed", arrays["irrelevant"]), ("witness_groups", None)]:
        other = {n: a for n, a in (arrays | {name: value}).items() if a is not None}
        np.savez(path, text=np.array(json.dumps(text)), **other)
        with pytest.raises(ValueError, match="must be of sufficient reasons|contradicts itself"):
            ReasonCertificate.load(path)


def test_whole_numbers_are_one_setting_however_they_are_written():
    written = canonical({"epsilon": 1.0, "clip": (0.0, 1.0), "norm": np.inf})
    assert written == b'{"clip": [0, 1], "epsilon": 1, "norm": "inf"}'
    assert canonical([1e300, 0.5, True]) == b"[1e+300, 0.5, true]"
