"""Models of every kind of file; what cannot be loaded is refused with what to do instead."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from xcertify.runs.loading import load_model

OWN = """\
import keras

class Double(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs

@keras.saving.register_keras_serializable("mine")
class Half(keras.layers.Layer):
    def call(self, inputs):
        return inputs / 2

def bend(x):
    return keras.ops.maximum(x, 0.1 * x)

number = 3
"""
INPUTS = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


def small(*more):
    dense = [layers.Dense(3, activation="relu"), layers.BatchNormalization()]
    return keras.Sequential(
        [keras.Input((4,)), *dense, *more, layers.Dense(2, activation="softmax")]
    )


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return "own.py"


def class_of(own, name):
    space = {"__name__": "own_of_the_training"}
    exec(OWN.replace('@keras.saving.register_keras_serializable("mine")', ""), space)
    return space[name]


@pytest.mark.parametrize("file", ["m.keras", "m.h5"])
def test_files_of_keras(tmp_path, file):
    model = small()
    model.save(tmp_path / file)
    loaded = load_model(str(tmp_path / file))
    np.testing.assert_array_equal(loaded(INPUTS), model(INPUTS))


@pytest.mark.parametrize("file", ["m.keras", "m.h5"])
@pytest.mark.parametrize("form", ["{own}:Double", "{module}:Double"])
def test_a_layer_of_ones_own(own, tmp_path, monkeypatch, file, form):
    module = f"own_{file[2:]}"
    (tmp_path / f"{module}.py").write_text(OWN.split("@")[0])
    monkeypatch.syspath_prepend(tmp_path)
    model = small(class_of(own, "Double")())
    model.save(file)
    custom = form.format(own=own, module=module)
    before = dict(keras.saving.get_custom_objects())
    np.testing.assert_array_equal(load_model(file, [custom])(INPUTS), model(INPUTS))
    assert "Double" not in set(keras.saving.get_custom_objects()) - set(before)
    with pytest.raises(ValueError, match=r"does not have, Double: .*--custom file.py:Double"):
        load_model(file)


def test_a_function_of_ones_own_and_a_class_under_the_name_of_its_package(own):
    half = keras.saving.register_keras_serializable("another")(class_of(own, "Half"))
    try:
        model = small(half(), layers.Activation(class_of(own, "bend")))
        model.save("m.keras")
    finally:
        keras.saving.get_custom_objects().pop("another>Half")
    loaded = load_model("m.keras", [f"{own}:Half", f"{own}:bend"])
    np.testing.assert_array_equal(loaded(INPUTS), model(INPUTS))
    with pytest.raises(ValueError, match=r"Half, bend: say .* --custom file.py:Half --custom file"):
        load_model("m.keras")
    keras.saving.get_custom_objects().pop("mine>Half")  # what the file itself registers


@pytest.mark.parametrize("file", ["m.keras", "m.h5"])
def test_code_in_a_file_is_never_run(tmp_path, file):
    small(layers.Lambda(lambda x: x * 2)).save(tmp_path / file)
    with pytest.raises(ValueError, match="Lambda layer with Python code, which is not run"):
        load_model(str(tmp_path / file))


@pytest.mark.parametrize(
    ("custom", "message"),
    [
        ("Double", "custom must be module:Class or file.py:Class.*Received: Double"),
        ("nothing.py:Double", "no such file: nothing.py"),
        ("broken.py:Double", "can be imported. Received: broken.py, ZeroDivisionError"),
        ("no_such_module:Double", "Python finds; else give its file, file.py:Class.*ModuleNot"),
        ("own.py:Dubble", "its classes are Double, Half. Received: own.py:Dubble"),
        ("own.py:number", "must name a class or function of own.py"),
    ],
)
def test_custom_objects_that_are_not_there(own, tmp_path, custom, message):
    small().save("m.keras")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_model("m.keras", [custom])
    keras.saving.get_custom_objects().pop("mine>Half", None)


def test_files_that_are_no_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = small()
    model.save("m.keras")
    model.save_weights("m.weights.h5")
    (tmp_path / "words.keras").write_text("no model")
    (tmp_path / "cut.keras").write_bytes((tmp_path / "m.keras").read_bytes()[:-100])
    (tmp_path / "folder").mkdir()
    for path, message in [
        ("nothing.keras", "no such file: nothing.keras"),
        ("words.keras", "words.keras cannot be read as a model, a .keras or .h5 file"),
        ("cut.keras", "cut.keras cannot be read as a model"),
        ("m.weights.h5", "has weights and no model: save it whole"),
        ("folder", "is a folder, and no SavedModel"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_model(path)


def test_what_keras_3_exports_is_refused_with_the_cure(tmp_path):
    small().export(tmp_path / "exported", verbose=False)
    with pytest.raises(ValueError, match=r"as Keras 3 exports it: load it .*model.save\('model.k"):
        load_model(str(tmp_path / "exported"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    keras_2 = pytest.importorskip("tf_keras")
    entry = keras_2.layers.Input((6, 6, 1))
    left = keras_2.layers.Conv2D(2, 3, activation="relu")(entry)
    right = keras_2.layers.Conv2D(2, 3, bias_initializer="ones")(entry)
    added = keras_2.layers.BatchNormalization()(keras_2.layers.Add()([left, right]))
    logits = keras_2.layers.Dense(3)(keras_2.layers.Flatten()(added))
    model = keras_2.Model(entry, keras_2.layers.Softmax()(logits))
    path = tmp_path_factory.mktemp("saved") / "model"
    model.save(path)
    return path, model


def test_a_saved_model_of_keras_2_is_built_anew_with_the_same_outputs(saved):
    path, model = saved
    loaded = load_model(str(path))
    inputs = np.random.default_rng(1).uniform(0, 1, (5, 6, 6, 1)).astype(np.float32)
    np.testing.assert_allclose(loaded(inputs), model(inputs), atol=1e-6)
    assert [type(layer).__module__.split(".")[0] for layer in loaded.layers] == ["keras"] * 8


def test_a_saved_model_of_keras_2_is_refused_where_its_program_is_another(saved, tmp_path):
    path = shutil.copytree(saved[0], tmp_path / "other")
    written = (path / "keras_metadata.pb").read_bytes()
    assert b'"relu"' in written
    (path / "keras_metadata.pb").write_bytes(written.replace(b'"relu"', b'"tanh"'))
    with pytest.raises(ValueError, match="gives other outputs than its layers do in Keras 3"):
        load_model(str(path))


def test_a_saved_model_of_keras_2_is_refused_where_its_program_does_more(saved, tmp_path):
    path = shutil.copytree(saved[0], tmp_path / "writes")

    class Writes(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 6, 6, 1))])
        def serve(self, x):
            tf.io.write_file(str(tmp_path / "written"), "by a model")
            return {"y": tf.reduce_sum(x, axis=(1, 2))}

    module = Writes()
    tf.saved_model.save(module, tmp_path / "bad", {"serving_default": module.serve})
    shutil.copytree(tmp_path / "bad", path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="a program with WriteFile, which is more than arith"):
        load_model(str(path))
    assert not (tmp_path / "written").exists()


def test_a_saved_model_of_keras_2_is_refused_with_garbage_for_layers(saved, tmp_path):
    path = shutil.copytree(saved[0], tmp_path / "garbage")
    (path / "keras_metadata.pb").write_bytes(json.dumps({}).encode() * 3)
    with pytest.raises(ValueError, match="garbage cannot be read as a model"):
        load_model(str(path))
