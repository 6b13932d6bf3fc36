"""The graph that is bounded is the model that is called, at first and after every change of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import sequential

from xcertify.attributions import EVA, Saliency
from xcertify.bounds import (
    Activation,
    UnsupportedLayerError,
    Verifier,
    backend,
    register,
    register_affine,
    register_elementwise,
)
from xcertify.bounds.graph.graph import Rule
from xcertify.bounds.graph.operations import Affine, Window
from xcertify.bounds.rules import registry
from xcertify.fingerprints import fingerprint
from xcertify.regions import Ball

L = keras.layers


def points(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype="float32")


def refused(model, inputs, match, **settings):
    with pytest.raises(UnsupportedLayerError, match=match):
        Verifier(model, **settings).bound_outputs(Ball(inputs, 0.1))


# --- wrong declarations ---------------------------------------------------------------------------


@register_affine
class NotAffine(L.Layer):
    def call(self, inputs):
        return keras.ops.where(inputs > 0.7, 2 * inputs - 0.7, inputs)


@register_affine
class MixesSamples(L.Layer):
    def call(self, inputs):
        return inputs - keras.ops.mean(inputs, axis=0, keepdims=True)


@register_affine
class Noisy(L.Layer):
    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.draws)

    def __init__(self, **settings):
        super().__init__(**settings)
        self.draws = keras.random.SeedGenerator(0)


@register_affine
class OnlyInTraining(L.Layer):
    def call(self, inputs, training=True):
        return 2 * inputs if training else inputs


class Scaled(L.Layer):
    def call(self, inputs):
        return 3 * inputs + 1


@register(Scaled)
def _without_its_shift(layer, emit, node):
    return emit(Affine(lambda x, w: x * w, weights=lambda: (np.float64(3),), nb_terms=1), node)


@pytest.mark.parametrize("kind", [NotAffine, MixesSamples, Noisy, OnlyInTraining, Scaled])
def test_a_layer_that_is_not_what_was_declared_is_named(kind):
    model = sequential((4,), L.Dense(5), kind(name="odd"), L.Dense(3))
    refused(model, points(3, 4), f"'odd' of class {kind.__name__}")
    with pytest.raises(UnsupportedLayerError, match="'odd'"):
        EVA(model, 0.1).explain(points(3, 4))


def test_a_layer_behind_words_is_named():
    inputs = keras.Input((3,), dtype="int32")
    words = L.Embedding(9, 2, name="words")
    model = keras.Model(inputs, NotAffine(name="odd")(words(inputs)))
    vectors = np.ones((9, 2), "float32")
    vectors[0] = 0  # tokens of which nothing can be told
    words.set_weights([vectors])
    refused(model, vectors[None, 1:4], "'odd' of class NotAffine", start_layer="words")


def test_a_layer_of_a_nested_model_is_named():
    inner = sequential((5,), L.Dense(4), Scaled(name="odd"), seed=1)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.Dense(2)(inner(L.Dense(5)(inputs))))
    refused(model, points(3, 4), f"{inner.name}/odd' of class Scaled")


WRONG_FACTS = {
    "no extremum": Activation("bump", lambda z: z * z, lambda z: 2 * z, curvature=2.0),
    "no kink": Activation("bend", keras.ops.abs, keras.ops.sign, extrema=(0.0,)),
    "too little curvature": Activation("wave", keras.ops.sin, keras.ops.cos, curvature=0.01),
    "another derivative": Activation("steep", lambda z: 3 * z, lambda z: 1 + 0 * z),
}


class Declared(L.Layer):
    def __init__(self, function, **settings):
        super().__init__(**settings)
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


@pytest.mark.parametrize("name", WRONG_FACTS)
def test_facts_that_are_not_true_are_refused(name):
    facts = WRONG_FACTS[name]
    register_elementwise(Declared, facts)
    model = sequential((4,), L.Dense(5), Declared(facts.value, name="odd"), L.Dense(3))
    refused(model, points(3, 4), f"'odd'.*'{facts.name}' are not true")


def test_true_facts_are_taken():
    facts = Activation("square", lambda z: z * z, lambda z: 2 * z, extrema=(0.0,), curvature=2.0)
    register_elementwise(Declared, facts)
    model = sequential((4,), L.Dense(5), Declared(facts.value), L.Dense(3))
    lower, upper = Verifier(model).bound_outputs(Ball(points(3, 4), 0.1))
    outputs = model.predict_on_batch(points(3, 4))
    assert (lower <= outputs).all()
    assert (outputs <= upper).all()


class Mirrored(L.Layer):
    def call(self, inputs):
        return keras.ops.flip(inputs, axis=1)


@register(Mirrored)
def _with_a_wrong_window(layer, emit, node):
    window, same = Window((0,), (1,), (1,), (0,)), Affine(lambda inputs: inputs)
    return emit(Affine(layer.call, window=window, patchwise=same), node)


def test_bounds_that_exclude_a_value_of_the_network_are_refused():
    layers = [L.Conv1D(3, 1), Mirrored(name="odd"), L.ReLU(), L.Conv1D(3, 1), L.ReLU(), L.Flatten()]
    model = sequential((12, 2), *layers, seed=3)
    half = np.zeros((12, 2), "float32")
    half[:6] = 0.3
    region = Ball(4 * points(2, 12, 2) - 2, half)
    with pytest.raises(UnsupportedLayerError, match="exclude what the network computes"):
        Verifier(model).bound_outputs(region)


# --- types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["float64", "mixed_float16", "mixed_bfloat16"])
def test_other_precisions_are_no_false_alarm(policy):
    layers = [L.Conv2D(4, 3, activation="relu", dtype=policy), L.Flatten(dtype=policy)]
    model = sequential((6, 6, 2), *layers, L.Dense(30, "tanh", dtype=policy), L.Dense(3))
    lower, upper = Verifier(model).bound_outputs(Ball(points(3, 6, 6, 2), 0.01))
    assert (lower < upper).all()


def test_an_overflow_of_half_precision_is_refused():
    model = sequential((2,), L.Dense(4, "relu", dtype="mixed_float16"), L.Dense(2))
    model.set_weights([np.full((2, 4), 300.0), np.zeros(4), np.ones((4, 2)), np.zeros(2)])
    refused(model, np.full((1, 2), 150.0, "float32"), "differs from what is bounded")


def test_an_overflow_outside_of_the_region_is_none():
    model = sequential((2,), L.Dense(4, "relu"), L.Dense(4, "relu"), L.Dense(4, "tanh"), L.Dense(2))
    weights = [np.full((2, 4), 1e37), np.zeros(4), np.array([[1.0, -1.0] * 2] * 4), np.zeros(4)]
    model.set_weights([*weights, *model.get_weights()[4:]])
    inputs = np.full((1, 2), 0.01, "float32")
    lower, upper = Verifier(model).bound_outputs(Ball(inputs, 1e-4))
    assert (lower <= model(inputs)).numpy().all()
    assert (upper >= model(inputs)).numpy().all()


def test_a_window_whose_values_are_all_low():
    """What stands for entries beyond the border is below them, however low they are."""
    layers = [L.Rescaling(1e32), L.MaxPooling2D(2, padding="same"), L.Flatten()]
    model = sequential((3, 3, 1), *layers)
    region = Ball(-1 - points(2, 3, 3, 1), 0.1)
    for method in ("ibp", "crown"):
        lower, upper = Verifier(model, method).bound_outputs(region)
        for point in (region.center, region.lower, region.upper):
            outputs = model.predict_on_batch(point)
            assert ((lower <= 0.999999 * outputs) & (1.000001 * outputs <= upper)).all()


def test_integer_inputs_are_compared_at_integers():
    inputs = keras.Input((3, 3, 1), dtype="uint8")
    outputs = L.Dense(3)(L.Flatten()(L.Rescaling(1 / 255)(inputs)))
    model = keras.Model(inputs, outputs)
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 1))
    lower, upper = Verifier(model).bound_outputs(Ball(images, 2.0, clip=(0, 255)))
    assert (lower <= model(images)).numpy().all()
    assert (upper >= model(images)).numpy().all()


# --- changes of the model -------------------------------------------------------------------------


def changed_activation(model, data):
    model.layers[1].activation = keras.activations.tanh


def changed_statistics(model, data):
    model.layers[0].adapt(3 * data + 1)


def changed_file(model, data, tmp_path):
    other = build(data + 40)
    other.save_weights(tmp_path / "other.weights.h5")
    model.load_weights(tmp_path / "other.weights.h5")


def changed_head(model, data):
    model.pop()
    model.add(L.Dense(4))


def changed_rank(model, data):
    layer = model.layers[1]
    layer.enable_lora(2)
    for variable in layer.trainable_variables:
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))


def changed_weights(model, data):
    model.set_weights([1.5 * weight for weight in model.get_weights()])


def frozen(model, data):
    model.trainable = False


CHANGES = [
    *(changed_activation, changed_statistics, changed_file, changed_head),
    *(changed_rank, changed_weights, frozen),
]


def build(data):
    normalization = L.Normalization()
    normalization.adapt(data)
    return sequential((4,), normalization, L.Dense(6, "relu"), L.Dense(3), seed=1)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_read_anew(change, tmp_path):
    data = np.random.default_rng(0).normal(50, 20, (200, 4)).astype("float32")
    model, inputs = build(data), data[:5]
    region = Ball(inputs, 0.5)
    used = Verifier(model, "ibp"), EVA(model, 0.5, method="crown-ibp"), Saliency(model)
    used[0].bound_outputs(region)
    used[0].bound_gradient(region)
    for explainer in used[1:]:
        explainer.explain(inputs)
    change(model, data, *[tmp_path] * (change is changed_file))
    for name in ("bound_outputs", "bound_gradient"):
        found = getattr(used[0], name)(region)
        np.testing.assert_array_equal(found, getattr(Verifier(model, "ibp"), name)(region))
    lower, upper = used[0].bound_outputs(region)
    for point in (region.center, region.lower, region.upper):
        outputs = model.predict_on_batch(point)
        room = 1e-5 * np.abs(outputs).max()
        assert ((lower - room <= outputs) & (outputs <= upper + room)).all()
    fresh = EVA(model, 0.5, method="crown-ibp").explain(inputs)
    np.testing.assert_allclose(used[1].explain(inputs), fresh, atol=1e-6)
    np.testing.assert_allclose(used[2].explain(inputs), Saliency(model).explain(inputs), atol=1e-6)


def test_a_layer_that_is_declared_anew_is_read_anew():
    model = sequential((4,), Declared(keras.ops.sin), L.Dense(3))
    register_elementwise(Declared, WRONG_FACTS["too little curvature"])
    verifier, region = Verifier(model), Ball(points(3, 4), 0.1)
    with pytest.raises(UnsupportedLayerError, match="not true"):
        verifier.bound_outputs(region)
    kinds = np.pi * (np.arange(-40, 40) + 0.5)
    facts = {"extrema": tuple(kinds), "inflections": tuple(kinds - np.pi / 2), "curvature": 1.0}
    register_elementwise(Declared, Activation("sine", keras.ops.sin, keras.ops.cos, **facts))
    lower, upper = verifier.bound_outputs(region)
    assert (lower <= model(region.center)).numpy().all()
    assert (upper >= model(region.center)).numpy().all()


def test_what_does_not_change_a_model_keeps_its_fingerprint():
    data = points(20, 4)
    model = build(data)
    before = fingerprint(model)
    model(data)
    model.predict(data, verbose=0)
    tf.function(lambda x: model(x, training=False))(data)
    model.compile("sgd", "mse")
    model.fit(data, np.zeros((20, 3)), verbose=0)
    keras.Model(model.inputs, model.layers[1].output)
    assert fingerprint(model) == before
    keras.config.set_image_data_format("channels_first")
    try:
        assert fingerprint(model) != before
    finally:
        keras.config.set_image_data_format("channels_last")


def changed_call(model, data):
    model.layers[1].call = lambda inputs: 2 * inputs


def changed_attribute(model, data):
    model.layers[1].factor = 2.0


@pytest.mark.parametrize("change", [*CHANGES, changed_call, changed_attribute])
def test_a_look_at_a_model_finds_what_a_new_fingerprint_shows(change, tmp_path):
    data = points(20, 4)
    model = build(data)
    before = fingerprint(model)
    assert fingerprint(model, before) is before
    change(model, data, *([tmp_path] if change is changed_file else []))
    again = fingerprint(model, before)
    assert again == fingerprint(model)
    assert (again == before) == (fingerprint(model) == before) == (change is changed_weights)


def test_comparing_leaves_the_model_alone():
    model = build(points(20, 4))
    config, weights = model.get_config(), model.get_weights()
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    Verifier(model).bound_outputs(Ball(points(2, 4), 0.1))
    assert model.get_config() == config
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    for before, after in zip(weights, model.get_weights()):
        np.testing.assert_array_equal(before, after)


# --- what TensorFlow makes of a model in a graph --------------------------------------------------


@pytest.mark.parametrize(
    "activation", [L.LeakyReLU(0.3), L.ReLU(negative_slope=0.3), L.LeakyReLU(0.2), L.ReLU()]
)
def test_a_model_that_predict_computes_as_another_function_is_refused(activation):
    inputs = keras.Input((8, 8, 1))
    convolutions = [L.Conv2D(3, 3, kernel_initializer="ones", name=name) for name in "ab"]
    model = keras.Model(inputs, activation(L.Add()([c(inputs) for c in convolutions])))
    images = points(2, 8, 8, 1) - 1
    called, predicted = np.asarray(model(images)), model.predict(images, verbose=0)
    if np.allclose(called, predicted, rtol=1e-4, atol=1e-4):
        Verifier(model, "ibp").bound_outputs(Ball(images, 0.1))
    else:  # TensorFlow with oneDNN forgets slopes other than .2
        refused(model, images, "TF_ENABLE_ONEDNN_OPTS=0", method="ibp")


@pytest.mark.parametrize("devices", [["GPU:0"], []])
def test_recurrent_layers_that_a_gpu_computes_otherwise_are_told_how(monkeypatch, devices):
    """Seen on a GPU, where Keras has cuDNN compute them."""

    def other(layer, emit, node):
        return emit(Affine(lambda x: x[:, 0, :2]), node)

    monkeypatch.setitem(registry._RULES, keras.layers.LSTM, Rule(other))
    monkeypatch.setattr(backend, "accelerators", lambda: devices)
    model = keras.Sequential([keras.Input((3, 4)), keras.layers.LSTM(2)])
    cure = "use_cudnn=False" if devices else "Replace it"
    with pytest.raises(UnsupportedLayerError, match=f"of class LSTM.*{cure}"):
        Verifier(model, "ibp").bound_outputs(Ball(np.ones((1, 3, 4), "float32"), 0.1))
