"""What ordinary users do: the right value, or an error that names the argument and the cure."""

# ruff: noqa: PLW0108 (layers have to be made anew for each model)

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import xcertify
from xcertify import commands
from xcertify.attacks import PGD
from xcertify.attributions import (
    CORGI,
    EVA,
    AttributionBound,
    CertifiedGradient,
    GradCAM,
    GradientInput,
    GreedyAS,
    IntegratedGradients,
    MarginGradientRange,
    Occlusion,
    RelEx,
    Rise,
    Saliency,
    SampledEVA,
    SmoothGrad,
)
from xcertify.bounds import Verifier
from xcertify.logits import head_of, logits_of
from xcertify.metrics import ClassRetrieval, Deletion, MuFidelity, RobustnessSr
from xcertify.regions import Ball


def normal(*size, seed=0):
    return np.random.default_rng(seed).normal(size=size).astype("float32")


def set_weights(model):
    """Random weights of which no two are the same."""
    weights = model.get_weights()
    model.set_weights([normal(*w.shape, seed=number) for number, w in enumerate(weights, 1)])


def gradient(function, x, labels):
    """Gradient of function(x)[n, labels[n]] by x, computed here."""
    x = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = tf.cast(function(x), tf.float32)
        score = tf.reduce_sum(outputs * tf.one_hot(labels, outputs.shape[-1]))
    return tape.gradient(score, x).numpy()


# --- heads: a final softmax or sigmoid means the same everywhere --------------------------------


def convolutional(head):
    """A head on maps of one cell."""
    return lambda h: head(L.Reshape((1, 1, 8))(h))


HEADS = {
    "softmax of a dense layer": lambda h: L.Dense(3, "softmax")(h),
    "tf.nn.softmax as activation": lambda h: L.Dense(3, activation=tf.nn.softmax)(h),
    "keras.ops.softmax as activation": lambda h: L.Dense(3, activation=ops.softmax)(h),
    "a layer as activation": lambda h: L.Dense(3, activation=L.Softmax())(h),
    "an activation layer as activation": lambda h: L.Dense(3, activation=L.Activation("softmax"))(
        h
    ),
    "Softmax": lambda h: L.Softmax()(L.Dense(3)(h)),
    "Softmax of axis 1": lambda h: L.Softmax(axis=1)(L.Dense(3)(h)),
    "Activation": lambda h: L.Activation("softmax")(L.Dense(3)(h)),
    "Activation of tf.nn.softmax": lambda h: L.Activation(tf.nn.softmax)(L.Dense(3)(h)),
    "keras.ops.softmax": lambda h: ops.softmax(L.Dense(3)(h)),
    "keras.activations.softmax": lambda h: keras.activations.softmax(L.Dense(3)(h)),
    "keras.ops.softmax of axis 1": lambda h: ops.softmax(L.Dense(3)(h), axis=1),
    "linear behind": lambda h: L.Activation("linear", dtype="float32")(L.Dense(3, "softmax")(h)),
    "dropout and identity behind": lambda h: L.Identity()(L.Dropout(0.5)(L.Dense(3, "softmax")(h))),
    "flatten behind": lambda h: L.Flatten()(L.Dense(3, "softmax")(h)),
    "reshape behind": lambda h: L.Reshape((3,))(L.Dense(3, "softmax")(h)),
    "keras.ops.reshape behind": lambda h: ops.reshape(L.Dense(3, "softmax")(h), (-1, 3)),
    "cast behind": lambda h: ops.cast(L.Dense(3, "softmax")(h), "float32"),
    "convolution, flatten": convolutional(
        lambda h: L.Flatten()(L.Conv2D(3, 1, activation="softmax")(h))
    ),
    "convolution, softmax, reshape": convolutional(
        lambda h: L.Reshape((3,))(L.Softmax()(L.Conv2D(3, 1)(h)))
    ),
    "convolution, softmax, squeeze": convolutional(
        lambda h: ops.squeeze(ops.softmax(L.Conv2D(3, 1)(h)), (1, 2))
    ),
    "nested": lambda h: keras.Sequential([keras.Input((8,)), L.Dense(3), L.Softmax()])(h),
    "nested twice": lambda h: keras.Sequential(
        [keras.Input((8,)), keras.Sequential([keras.Input((8,)), L.Dense(3, "softmax")])]
    )(h),
    "nested, linear behind": lambda h: L.Activation("linear")(
        keras.Sequential([keras.Input((8,)), L.Dense(3, "softmax")])(h)
    ),
    "softmax alone in a nested model": lambda h: keras.Sequential([keras.Input((3,)), L.Softmax()])(
        L.Dense(3)(h)
    ),
    "sigmoid": lambda h: L.Dense(1, "sigmoid")(h),
    "sigmoids": lambda h: L.Dense(3, "sigmoid")(h),
    "tf.nn.sigmoid as activation": lambda h: L.Dense(1, activation=tf.nn.sigmoid)(h),
    "tf.sigmoid as activation": lambda h: L.Dense(1, activation=tf.sigmoid)(h),
    "Activation of sigmoid": lambda h: L.Activation("sigmoid")(L.Dense(1)(h)),
    "keras.ops.sigmoid": lambda h: ops.sigmoid(L.Dense(1)(h)),
    "keras.activations.sigmoid": lambda h: keras.activations.sigmoid(L.Dense(1)(h)),
}  # fmt: skip


def classifier(head):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, head(L.Dense(8, "tanh")(inputs)))
    set_weights(model)
    first, second = (w.numpy() for w in model.weights[:2]), (w.numpy() for w in model.weights[2:])
    (kernel, bias), (last, shift) = first, second
    last = last.reshape(8, -1)
    return model, lambda x: tf.tanh(x @ kernel + bias) @ last + shift


@pytest.mark.parametrize("name", HEADS)
def test_logits_before_every_form_of_head(name):
    model, logits = classifier(HEADS[name])
    x = normal(4, 5)
    expected = logits(x)
    assert head_of(model) == ("sigmoid" if "sigmoid" in name else "softmax")
    np.testing.assert_allclose(logits_of(model)(x), expected, rtol=1e-4, atol=1e-5)
    seen = Verifier(model, strip_head=True).evaluate(x)
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-5)
    labels = np.arange(4) % 3 if expected.shape[1] > 1 else np.ones(4, int)
    wanted = np.abs(gradient(logits, x, labels if expected.shape[1] > 1 else 0 * labels))
    np.testing.assert_allclose(Saliency(model)(x, labels), wanted, rtol=1e-4, atol=1e-5)


NO_HEADS = {
    "none": lambda h: L.Dense(3)(h),
    "softmax inside": lambda h: L.Dense(3)(L.Dense(4, "softmax")(h)),
    "the activation of a recurrent layer": lambda h: L.SimpleRNN(3, activation="sigmoid")(
        L.Reshape((2, 4))(h)
    ),
    "softmax of each step": lambda h: L.Flatten()(L.Dense(3, "softmax")(L.Reshape((2, 4))(h))),
    "softmax, scaled": lambda h: L.Rescaling(2.0)(L.Dense(3, "softmax")(h)),
}


@pytest.mark.parametrize("name", NO_HEADS)
def test_what_is_no_head_stays(name):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, NO_HEADS[name](L.Dense(8, "tanh")(inputs)))
    x = normal(4, 5)
    assert head_of(model) is None
    np.testing.assert_allclose(logits_of(model)(x), model(x), rtol=1e-5, atol=1e-6)


# --- one output: classes by labels, weights by a column, the output itself without targets ------


def one_output(activation=None):
    model = keras.Sequential([keras.Input((4,)), L.Dense(6, "tanh"), L.Dense(1, activation)])
    set_weights(model)
    model.layers[-1].bias.assign([0.1])
    return model


def test_a_regression_is_explained_with_its_sign():
    model = one_output()
    x = normal(8, 4)
    f = model(x).numpy()[:, 0]
    assert f.min() < 0 < f.max()
    slope = gradient(model, x, np.zeros(8, int))
    for targets in (None, np.ones((8, 1)), np.ones((8, 1), int), np.ones(8, int)):
        np.testing.assert_allclose(
            GradientInput(model)(x, targets), slope * x, rtol=1e-4, atol=1e-6
        )
    np.testing.assert_allclose(
        GradientInput(model)(x, np.full((8, 1), -2.5)), -2.5 * slope * x, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        GradientInput(model)(x, np.zeros(8, int)), -slope * x, rtol=1e-4, atol=1e-6
    )
    change = f - model(np.zeros((1, 4), "float32")).numpy()[0, 0]
    added = IntegratedGradients(model, steps=200)(x).sum(axis=1)
    np.testing.assert_allclose(added, change, rtol=1e-2, atol=1e-3)
    covered = [f - model(np.where(np.arange(4) == i, 0, x)).numpy()[:, 0] for i in range(4)]
    np.testing.assert_allclose(Occlusion(model)(x), np.stack(covered, 1), rtol=1e-4, atol=1e-5)
    certificate = CertifiedGradient(model, 0.01).certify(x)
    assert ((certificate.lower <= slope) & (slope <= certificate.upper)).all()


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_metrics_of_one_output(activation):
    model = one_output(activation)
    x = normal(8, 4)
    f = model(x).numpy()[:, 0]

    def start(targets, **settings):
        metric = Deletion(model, x, targets, steps=2, **settings)
        return metric.detailed_evaluate(np.abs(x)).curves[:, 0]

    labels = np.array([0, 1, 0, 1, 0, 1, 1, 0])
    other = 1 - f if activation else -f
    np.testing.assert_allclose(start(labels), np.where(labels == 1, f, other), atol=1e-6)
    np.testing.assert_allclose(start(labels[:, None]), start(labels), atol=1e-6)
    np.testing.assert_allclose(start(labels[:, None].astype(float)), start(labels), atol=1e-6)
    without = np.maximum(f, 1 - f) if activation else f
    np.testing.assert_allclose(start(None), without, atol=1e-6)
    np.testing.assert_allclose(start(np.full((8, 1), -2.5)), -2.5 * f, atol=1e-5)
    if not activation:
        p = 1 / (1 + np.exp(-f))
        expected = np.where(labels == 1, p, 1 - p)
        np.testing.assert_allclose(start(labels, activation="sigmoid"), expected, atol=1e-6)
        with pytest.raises(ValueError, match="activation='softmax'.*take 'sigmoid'"):
            start(labels, activation="softmax")


def test_sigmoid_units_without_targets_mean_the_predicted_class():
    model = one_output("sigmoid")
    x = normal(8, 4)
    classes = (model(x).numpy()[:, 0] > 0.5).astype(int)
    assert classes.any() and not classes.all()
    for explainer in (GradientInput(model), Occlusion(model), CertifiedGradient(model)):
        np.testing.assert_allclose(explainer(x), explainer(x, classes), rtol=1e-5, atol=1e-7)
    assert EVA(model, 0.01).certify(x).targets.tolist() == classes.tolist()


# --- a model is called at inference, whatever it returns ----------------------------------------

IMAGES, LABELS = normal(3, 8, 8, 1), np.array([0, 2, 1])


def network(*layers, shape=(8, 8, 1)):
    return keras.Sequential([keras.Input(shape), *layers])


@pytest.fixture(scope="module")
def convolutional_model():
    return network(L.Conv2D(4, 3, activation="tanh", name="conv"), L.Flatten(), L.Dense(3))


def test_layers_that_act_in_training_do_nothing():
    body = [L.Conv2D(4, 3, activation="tanh"), L.BatchNormalization(), L.Flatten(), L.Dense(3)]
    plain = network(*body)
    set_weights(plain)
    plain.layers[1].moving_variance.assign([1.0, 2.0, 3.0, 4.0])
    random = [L.RandomFlip(seed=1), L.RandomRotation(0.3, seed=2), L.GaussianNoise(0.5)]
    model = network(*random, *body, L.Dropout(0.5))
    for explainer in (Saliency, GradCAM, Occlusion, lambda m: EVA(m, 0.01)):
        maps = [explainer(model)(IMAGES, LABELS) for _ in range(2)]
        np.testing.assert_array_equal(*maps)
        np.testing.assert_allclose(maps[0], explainer(plain)(IMAGES, LABELS), atol=1e-5)
    for metric in (Deletion, MuFidelity, ClassRetrieval):
        weights = np.abs(normal(*IMAGES.shape)) % 1
        expected = metric(plain, IMAGES, LABELS).evaluate(weights)
        np.testing.assert_allclose(metric(model, IMAGES, LABELS).evaluate(weights), expected)


@pytest.fixture(scope="module")
def two_outputs_model():
    inputs = keras.Input((6,))
    h = L.Dense(8, "relu")(inputs)
    return keras.Model(inputs, [L.Dense(2, name="side")(h), L.Dense(4, name="kind")(h)])


@pytest.mark.parametrize(
    "use",
    [
        Saliency,
        Occlusion,
        EVA,
        lambda m: RelEx(m, nb_samples=2, steps=2),
        CertifiedGradient,
        AttributionBound,
        GreedyAS,
        lambda m: Deletion(m, normal(3, 6)),
        lambda m: ClassRetrieval(m, normal(3, 6)),
        lambda m: PGD(m)(Ball(normal(3, 6), 0.1)),
    ],
)
def test_several_outputs_are_refused(two_outputs_model, use):
    with pytest.raises(ValueError, match="several outputs.*one_output.*'side'.*side.*kind"):
        use(two_outputs_model)
    one = xcertify.one_output(two_outputs_model, "kind")
    assert Saliency(one)(normal(3, 6)).shape == (3, 6)


def test_several_outputs_of_a_callable():
    pair = lambda x: (x, 2 * x)  # noqa: E731
    with pytest.raises(ValueError, match=r"several outputs.*lambda x: model\(x\)\[0\].*tuple of 2"):
        Saliency(pair)(normal(3, 6))
    with pytest.raises(ValueError, match="several outputs"):
        Deletion(pair, normal(3, 6)).evaluate(normal(3, 6))


def test_one_output_in_a_dictionary_or_list(convolutional_model):
    inputs = keras.Input((8, 8, 1), name="image")
    logits = convolutional_model(inputs)
    models = [
        keras.Model(inputs, {"logits": logits}),
        keras.Model(inputs, [logits]),
        keras.Model({"image": inputs}, logits),
        keras.Model([inputs], logits),
        lambda x: {"logits": convolutional_model(x)},
    ]
    for model in models:
        given = [IMAGES]
        if isinstance(model, keras.Model):
            given += [{"image": IMAGES}, [IMAGES]]
        for x in given:
            for use in (Saliency, Occlusion):
                expected = use(convolutional_model)(IMAGES, LABELS)
                np.testing.assert_allclose(use(model)(x, LABELS), expected, atol=1e-6)
        expected = Deletion(convolutional_model, IMAGES, LABELS).evaluate(IMAGES)
        np.testing.assert_allclose(Deletion(model, IMAGES, LABELS).evaluate(IMAGES), expected)
    expected = EVA(convolutional_model, 0.01)(IMAGES, LABELS)
    for model in models[:4]:
        np.testing.assert_allclose(EVA(model, 0.01)(IMAGES, LABELS), expected, atol=1e-6)
    with pytest.raises(ValueError, match="inputs must be .*single input.*image, other"):
        Saliency(models[2])({"image": IMAGES, "other": IMAGES})
    dataset = tf.data.Dataset.from_tensor_slices(({"image": IMAGES}, LABELS)).batch(2)
    np.testing.assert_allclose(Saliency(models[2])(dataset), Saliency(models[2])(IMAGES, LABELS))


def test_outputs_that_are_no_row():
    per_pixel = network(L.Conv2D(2, 3, padding="same"))
    for use in (
        lambda: Saliency(per_pixel)(IMAGES),
        lambda: Occlusion(per_pixel)(IMAGES),
        lambda: EVA(per_pixel, 0.01)(IMAGES),
        lambda: GradCAM(per_pixel)(IMAGES),
        lambda: RelEx(per_pixel, nb_samples=2, steps=2)(IMAGES),
        lambda: Deletion(per_pixel, IMAGES).evaluate(IMAGES),
        lambda: PGD(per_pixel)(Ball(IMAGES, 0.1)),
    ):
        with pytest.raises(ValueError, match=r"map of outputs.*one_output\(model, at="):
            use()
    mean = keras.Model(per_pixel.inputs, L.GlobalAveragePooling2D()(per_pixel.outputs[0]))
    assert Saliency(mean)(IMAGES).shape == IMAGES.shape


def test_outputs_without_an_axis_of_classes():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, inputs[:, 0] * inputs[:, 1])
    x = np.array([[1.0, 2.0], [-1.0, 0.5]], np.float32)
    np.testing.assert_allclose(Saliency(model)(x), np.abs(x[:, ::-1]))
    np.testing.assert_allclose(GradientInput(lambda t: t[:, 0] * t[:, 1])(x), x * x[:, ::-1])
    certificate = EVA(model, 0.1).certify(x)
    np.testing.assert_allclose(certificate.overlap, [-0.9 * 1.9, -0.9 * 0.4], rtol=0.1)
    curves = Deletion(model, x, steps=2).detailed_evaluate(x).curves
    np.testing.assert_allclose(curves[:, 0], x[:, 0] * x[:, 1])


# --- what else is given as a model ----------------------------------------------------------------


def test_functions_of_arrays(convolutional_model):
    kernel = normal(5, 3)
    inputs, labels = normal(3, 5), LABELS
    linear = network(L.Dense(3, use_bias=False), shape=(5,))
    linear.set_weights([kernel])
    functions = [
        lambda x: np.asarray(x) @ kernel,
        lambda x: x.astype("float64") @ kernel,  # of arrays alone
        lambda x: (np.asarray(x) @ kernel).tolist(),
        lambda x: [row @ kernel for row in np.asarray(x)],
        lambda x: linear.predict(x, verbose=0),
    ]
    for function in functions:
        for use in (Occlusion, lambda m: Rise(m, nb_samples=10)):
            expected = use(linear)(inputs, labels)
            np.testing.assert_allclose(use(function)(inputs, labels), expected, atol=1e-5)
        for metric in (Deletion, ClassRetrieval, MuFidelity):
            masks = np.abs(inputs) % 1
            expected = metric(linear, inputs, labels).evaluate(masks)
            found = metric(function, inputs, labels).evaluate(masks)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    for use in (Saliency, IntegratedGradients, lambda m: RelEx(m, nb_samples=2, steps=2)):
        with pytest.raises(ValueError, match="no gradient by its inputs.*Occlusion or Rise"):
            use(functions[0])(inputs, labels)
    with pytest.raises(ValueError, match="Keras model"):
        EVA(functions[0], 0.01)(inputs, labels)
    with pytest.raises(ValueError, match="layers are known of"):
        GradCAM(functions[0])(inputs, labels)

    def with_a_branch(x):  # no graph can hold it, and it has a gradient
        return linear(x) if tf.reduce_sum(x) > -1e9 else x

    expected = Saliency(linear)(inputs, labels)
    np.testing.assert_allclose(Saliency(with_a_branch)(inputs, labels), expected, rtol=1e-5)
    with pytest.raises(AttributeError, match="nothing"):  # its own fault
        Occlusion(lambda x: x.nothing)(inputs, labels)


@pytest.mark.parametrize("use", [Saliency, EVA, CORGI, lambda m: Deletion(m, normal(3, 5))])
def test_the_path_of_a_file_is_no_model(use):
    with pytest.raises(ValueError, match="model must be .*load_model.*Received: 'net.keras'"):
        use("net.keras")


def test_a_saved_model(tmp_path, capsys):
    model = network(L.Dense(8, "relu"), L.Dense(3), shape=(6,))
    inputs = normal(3, 6)
    model.export(str(tmp_path / "saved"), verbose=False)
    np.save(tmp_path / "inputs.npy", inputs)
    layer = L.TFSMLayer(str(tmp_path / "saved"), call_endpoint="serving_default")
    expected = Saliency(model)(inputs, LABELS)
    wrapped = network(layer, shape=(6,))
    for given in (wrapped, lambda x: layer(x)["output_0"], layer):
        np.testing.assert_allclose(Saliency(given)(inputs, LABELS), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="TFSMLayer cannot be bounded"):
        EVA(wrapped, 0.01)(inputs, LABELS)
    files = [str(tmp_path / name) for name in ("saved", "inputs.npy")]
    assert commands.main(["explain", *files, "--output", str(tmp_path / "run")]) == 2
    assert "is a SavedModel that does not say what its layers are" in capsys.readouterr().err


def test_models_of_keras_2():
    legacy = pytest.importorskip("tf_keras")
    layers = legacy.layers
    x = normal(3, 5)
    body = [layers.Dense(4, "tanh"), layers.Dropout(0.5), layers.Dense(3)]
    model = legacy.Sequential([layers.Input((5,)), *body])
    expected = np.abs(gradient(lambda t: model(t, training=False), x, LABELS))
    np.testing.assert_allclose(Saliency(model)(x, LABELS), expected, rtol=1e-4)
    assert np.isfinite(Deletion(model, x, LABELS).evaluate(x))
    with pytest.raises(ValueError, match="tf_keras is Keras 2: save.*tf_keras.Sequential"):
        EVA(model, 0.01)(x)
    headed = legacy.Sequential([layers.Input((5,)), *body, layers.Softmax()])
    with pytest.raises(ValueError, match="tf_keras .* ends with softmax"):
        Saliency(headed)(x)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = L.Conv2D(4, 3, activation="relu", name="conv")
        self.pool, self.head = L.GlobalAveragePooling2D(), L.Dense(3, "softmax")

    def call(self, inputs):
        return self.head(self.pool(self.conv(inputs)))


def test_subclassed_models():
    model = Subclassed()
    model(IMAGES)
    expected = np.abs(gradient(model, IMAGES, LABELS))
    np.testing.assert_allclose(Saliency(model)(IMAGES, LABELS), expected, rtol=1e-3, atol=1e-7)
    assert Occlusion(model)(IMAGES, LABELS).shape == IMAGES.shape
    for use in (
        GradCAM,
        EVA,
        lambda m: GradCAM(m, conv_layer="conv"),
        lambda m: GradCAM(m, conv_layer=0),
        lambda m: CORGI(m, k=3),
        lambda m: CORGI(m, k=3, explanation="grad-cam"),
    ):
        with pytest.raises(
            ValueError, match="Sequential (and|or) functional Keras model.*subclassed"
        ):
            use(model)(IMAGES, LABELS)


# --- inputs and their types ---------------------------------------------------------------------


def test_pixels_of_uint8():
    layers = [L.Rescaling(1 / 255.0), L.Conv2D(3, 3, activation="relu"), L.Flatten(), L.Dense(3)]
    plain = network(*layers)
    set_weights(plain)
    model = keras.Sequential([keras.Input((8, 8, 1), dtype="uint8"), *layers])
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype("uint8")
    for use in (
        Saliency,
        IntegratedGradients,
        GradCAM,
        Occlusion,
        lambda m: Rise(m, nb_samples=20),  # whose masks have values between 0 and 1
        lambda m: EVA(m, 2.0, clip=(0, 255)),
        lambda m: SmoothGrad(m, nb_samples=3),
    ):
        expected = use(plain)(x, LABELS)
        np.testing.assert_allclose(use(model)(x, LABELS), expected, rtol=1e-4, atol=1e-6)
    expected = Deletion(plain, x, LABELS, baseline_mode="mean").evaluate(x)
    found = Deletion(model, x, LABELS, baseline_mode="mean").evaluate(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_tokens():
    layers = [L.Embedding(40, 8), L.GlobalAveragePooling1D(), L.Dense(2)]
    model = keras.Sequential([keras.Input((7,), dtype="int32"), *layers])
    x, y = np.random.default_rng(0).integers(1, 40, (3, 7)), np.array([0, 1, 1])
    start = model(x).numpy()[range(3), y]
    covered = [
        start - model(np.where(np.arange(7) == i, 0, x)).numpy()[range(3), y] for i in range(7)
    ]
    np.testing.assert_allclose(Occlusion(model)(x, y), np.stack(covered, 1), atol=1e-6)
    assert np.isfinite(Rise(model, nb_samples=50)(x, y)).all()
    assert np.isfinite(Deletion(model, x, y).evaluate(x))
    for use in (
        Saliency,
        GradientInput,
        IntegratedGradients,
        SmoothGrad,
        MarginGradientRange,
        CertifiedGradient,
        lambda m: RelEx(m, nb_samples=2, steps=2),
        lambda m: AttributionBound(m).certify,
        lambda m: lambda x, y: PGD(m)(Ball(x, 1.0), y),
    ):
        with pytest.raises(ValueError, match="gradient"):
            use(model)(x, y)
    with pytest.raises(ValueError, match="Embedding cannot be bounded"):
        EVA(model, 0.5)(x, y)


def test_recurrent_layers():
    x = normal(3, 6, 2)
    loop = network(L.LSTM(4), L.Dense(3, "softmax"), shape=(6, 2))
    unrolled = network(L.LSTM(4, unroll=True), L.Dense(3, "softmax"), shape=(6, 2))
    unrolled.set_weights(loop.get_weights())
    maps = IntegratedGradients(loop, steps=100)(x, LABELS)
    logits = logits_of(loop)
    change = (logits(x) - logits(0 * x)).numpy()[range(3), LABELS]
    np.testing.assert_allclose(maps.sum((1, 2)), change, rtol=1e-2, atol=1e-3)
    with pytest.raises(ValueError, match="a loop.*unroll=True"):
        AttributionBound(loop).certify(x, LABELS)
    estimate = AttributionBound(unrolled).certify(x, LABELS).euclidean_estimate
    assert (estimate > 0).all()
    assert EVA(loop, 0.01).certify(x).overlap.max() < np.inf


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    model = one_output()
    table = pandas.DataFrame(
        {"age": [31, 42], "paid": [True, False], "rate": [0.5, 1.5], "new": [False, False]}
    )
    expected = Saliency(model)(table.astype("float32").to_numpy())
    np.testing.assert_array_equal(Saliency(model)(table), expected)
    np.testing.assert_array_equal(Saliency(model)(table.astype({"paid": "boolean"})), expected)
    with pytest.raises(ValueError, match="inputs must be numbers.*the column 'age'"):
        Saliency(model)(table.assign(age=["old", "young"]))


def test_cures_fit_the_inputs(convolutional_model):
    colour = network(L.Conv2D(2, 3), L.Flatten(), L.Dense(2), shape=(8, 8, 3))
    for model, x, cure in [
        (colour, normal(4, 3, 8, 8), r"move the channels last, np.moveaxis\(x, 1, -1\)"),
        (convolutional_model, normal(4, 8, 8), r"axis of channels, x\[..., None\]"),
        (convolutional_model, normal(8, 8, 1), r"axis, x\[None\]"),
        (network(L.Permute((2, 3, 1)), L.Flatten(), shape=(3, 8, 8)), normal(4, 8, 8, 3),
         r"move the channels first, np.moveaxis\(x, -1, 1\)"),
        (convolutional_model, normal(4, 7, 8, 1), r"takes\. Received"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"inputs must have the shape.*{cure}"):
            Saliency(model)(x)


def test_models_that_take_channels_first():
    last = network(L.Conv2D(4, 3, activation="tanh"), L.Flatten(), L.Dense(3), shape=(6, 8, 3))
    first = network(L.Permute((2, 3, 1)), last, shape=(3, 6, 8))
    x = normal(3, 3, 6, 8)
    moved = np.moveaxis(x, 1, -1)
    for use in (
        Saliency,
        Occlusion,
        GradCAM,
        lambda m: Rise(m, nb_samples=10),
        lambda m: EVA(m, 0.01),
        lambda m: EVA(m, 0.01, mode="exact", method="ibp", grid_size=2),
        lambda m: RelEx(m, nb_samples=2, steps=2),
    ):
        maps = use(first)(x, LABELS)
        assert maps.shape == (3, 6, 8, 1)
        np.testing.assert_allclose(maps, use(last)(moved, LABELS), rtol=1e-4, atol=1e-6)
    maps = Saliency(first)(x, LABELS)
    for metric in (Deletion, MuFidelity, ClassRetrieval):
        given = np.minimum(maps, 1)
        found = metric(first, x, LABELS).evaluate(given)
        np.testing.assert_allclose(found, metric(last, moved, LABELS).evaluate(given), rtol=1e-5)
    certificate = EVA(first, 0.01).certify(x, LABELS)
    assert certificate.cells.shape == (6, 8)
    for use in (
        lambda: CORGI(first)(x),
        lambda: GreedyAS(first)(x),
        lambda: RobustnessSr(first, x),
    ):
        with pytest.raises(ValueError, match=r"channels last.*np.moveaxis\(inputs, 1, -1\)"):
            use()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_precisions(policy):
    def build(dtype):
        layers = [L.Conv2D(4, 3, activation="relu", dtype=dtype), L.GlobalAveragePooling2D()]
        model = network(*layers, L.Dense(3, dtype=dtype), L.Activation("softmax", dtype="float32"))
        set_weights(model)
        return model

    model, twin = build(policy), build("float32")
    for use in (Saliency, IntegratedGradients, Occlusion, GradCAM, lambda m: CORGI(m, k=3)):
        expected = use(twin)(IMAGES, LABELS)
        size = np.abs(expected).max()
        np.testing.assert_allclose(use(model)(IMAGES, LABELS), expected, atol=0.1 * size)


# --- Grad-CAM -----------------------------------------------------------------------------------


def test_grad_cam_of_series_and_tokens():
    series = normal(3, 16, 3)
    model = network(
        L.Conv1D(4, 3, strides=2, activation="relu", name="conv"),
        L.GlobalAveragePooling1D(),
        L.Dense(3),
        shape=(16, 3),
    )
    maps = GradCAM(model, conv_layer="conv")(series, LABELS)
    channels = model.layers[0](series).numpy()
    weights = model.layers[-1].kernel.numpy()[:, LABELS].T / channels.shape[1]
    small = np.maximum((channels * weights[:, None]).sum(-1), 0)
    at = np.clip((np.arange(16) + 0.5) * channels.shape[1] / 16 - 0.5, 0, channels.shape[1] - 1)
    expected = [np.interp(at, np.arange(channels.shape[1]), row) for row in small]
    np.testing.assert_allclose(maps[..., 0], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(maps, np.repeat(maps[..., :1], 3, axis=-1))
    np.testing.assert_array_equal(GradCAM(model)(series, LABELS), maps)
    tokens = network(
        L.Conv2D(6, 4, strides=4, name="patches"),
        L.Reshape((4, 6), name="tokens"),
        L.GlobalAveragePooling1D(name="mean"),
        L.Dense(3),
    )
    for name, shape in (("tokens", "4, 6"), ("mean", "6")):
        with pytest.raises(ValueError, match=rf"conv_layer='{name}' of shape \(None, {shape}"):
            GradCAM(tokens, conv_layer=name)(IMAGES)
    assert GradCAM(tokens, conv_layer="patches")(IMAGES).shape == IMAGES.shape


def test_layers_by_number():
    model = network(
        L.Conv2D(4, 3, activation="relu", name="first"),
        L.Conv2D(4, 3, activation="relu", name="second"),
        L.GlobalAveragePooling2D(),
        L.Dense(3),
    )
    for use in (
        lambda name: GradCAM(model, conv_layer=name),
        lambda name: CORGI(model, k=3, explanation="grad-cam", conv_layer=name),
    ):
        first, second = (use(name)(IMAGES, LABELS) for name in ("first", "second"))
        assert np.abs(first - second).max() > 1e-4
        np.testing.assert_array_equal(use(0)(IMAGES, LABELS), first)
        np.testing.assert_array_equal(use(-3)(IMAGES, LABELS), second)
        np.testing.assert_array_equal(use(None)(IMAGES, LABELS), second)
        for wrong in (4, True, 1.0):
            with pytest.raises(ValueError, match="conv_layer must be the name of a layer"):
                use(wrong)(IMAGES, LABELS)


def test_grad_cam_of_nested_networks_and_convolutional_heads():
    body = network(L.Conv2D(4, 3, activation="relu", name="conv"), L.Conv2D(2, 3, name="last"))
    nested = network(L.Rescaling(1.0), body, L.GlobalAveragePooling2D(), L.Dense(3, "softmax"))
    flat = network(L.Rescaling(1.0), *body.layers, *nested.layers[2:])
    for name in ("conv", "last"):
        expected = GradCAM(flat, conv_layer=name)(IMAGES, LABELS)
        found = GradCAM(nested, conv_layer=f"{body.name}/{name}")(IMAGES, LABELS)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(GradCAM(nested)(IMAGES, LABELS), expected, atol=1e-6)
    whole = network(*body.layers, L.GlobalAveragePooling2D(), L.Dense(3, "softmax"))
    outer = network(whole)  # the convolution and the head in one nested network
    np.testing.assert_allclose(GradCAM(outer)(IMAGES, LABELS), GradCAM(whole)(IMAGES, LABELS))
    with pytest.raises(ValueError, match="'nothing/...' as conv_layer needs a nested"):
        GradCAM(nested, conv_layer="nothing/conv")(IMAGES)
    with pytest.raises(ValueError, match="conv_layer='nothing' cannot be explained"):
        GradCAM(nested, conv_layer="nothing")(IMAGES)
    with pytest.raises(ValueError, match="conv_layer must be a layer of the model itself"):
        CORGI(nested, k=3, explanation="grad-cam")(IMAGES)
    head = [L.Conv2D(3, 6, name="head"), L.Flatten()]
    model = network(L.Conv2D(4, 3, activation="relu", name="conv"), *head)
    expected = GradCAM(model, conv_layer="conv")(IMAGES, LABELS)
    np.testing.assert_array_equal(GradCAM(model)(IMAGES, LABELS), expected)
    assert np.ptp(expected, axis=(1, 2)).max() > 0


# --- arguments in the forms that other tools take -----------------------------------------------


def test_values_in_place_of_features():
    model = network(L.Conv2D(4, 3, activation="tanh"), L.Flatten(), L.Dense(3), shape=(8, 8, 3))
    x = normal(3, 8, 8, 3)
    colour, each = np.array([0.2, 0.5, 0.9], np.float32), normal(3, 8, 8, 3, seed=9)

    def score(points):
        return model(points).numpy()[range(3), LABELS]

    for value in (0.0, colour, np.broadcast_to(colour, (8, 8, 3)), each[:1], each):
        explainer = IntegratedGradients(model, steps=100, baseline_value=value, reducer="sum")
        change = score(x) - score(x * 0 + value)
        np.testing.assert_allclose(
            explainer(x, LABELS).sum((1, 2, 3)), change, rtol=0.01, atol=1e-3
        )
        covered = x.copy()
        covered[:, :4, :4] = np.broadcast_to(value, x.shape)[:, :4, :4]
        maps = Occlusion(model, patch_size=4, patch_stride=4, occlusion_value=value)(x, LABELS)
        np.testing.assert_allclose(maps[:, 0, 0, 0], score(x) - score(covered), atol=1e-5)
        assert np.isfinite(Rise(model, nb_samples=9, mask_value=value)(x, LABELS)).all()
        curves = Deletion(model, x, LABELS, baseline_mode=value).detailed_evaluate(maps).curves
        np.testing.assert_allclose(curves[:, -1], score(x * 0 + value), atol=1e-5)
    for name, use in [
        ("baseline_value", lambda v: IntegratedGradients(model, baseline_value=v)),
        ("occlusion_value", lambda v: Occlusion(model, occlusion_value=v)),
        ("mask_value", lambda v: Rise(model, mask_value=v)),
        ("neutral_value", lambda v: RelEx(model, neutral_value=v)),
        ("baseline_value", lambda v: AttributionBound(
            model, attribution="integrated_gradients", baseline_value=v)),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=rf"{name} must be a number, or an array.*\(3,\)"):
            use(np.zeros(4))(x, LABELS)
        with pytest.raises(ValueError, match=f"{name} has NaN"):
            use(np.nan)(x, LABELS)
    with pytest.raises(ValueError, match="baseline_value must be"):
        CertifiedGradient(model, attribution="integrated_gradients", baseline_value=each)(x)


def test_pairs_of_sizes():
    model = network(L.Conv2D(4, 3, activation="tanh"), L.Flatten(), L.Dense(3))
    for use in (
        lambda size: Occlusion(model, patch_size=size, patch_stride=size),
        lambda size: Rise(model, nb_samples=9, grid_size=size),
        lambda size: EVA(model, 0.01, grid_size=size),
        lambda size: SampledEVA(model, 3, 0.01, grid_size=size),
    ):
        np.testing.assert_array_equal(use((4, 4))(IMAGES, LABELS), use(4)(IMAGES, LABELS))
        wide = use((2, 4))(IMAGES, LABELS)
        assert wide.shape == IMAGES.shape
        assert np.abs(wide - use(4)(IMAGES, LABELS)).max() > 0
    patch = IMAGES.copy()
    patch[:, :2, :4] = 0
    drop = (model(IMAGES) - model(patch)).numpy()[range(3), LABELS]
    wide = Occlusion(model, patch_size=(2, 4), patch_stride=(2, 4))(IMAGES, LABELS)
    np.testing.assert_allclose(wide[:, 1, 3, 0], drop, atol=1e-5)
    series = network(L.Flatten(), L.Dense(3), shape=(6, 2))
    for name, use in [
        ("grid_size", lambda size: Rise(series, nb_samples=9, grid_size=size)),
        ("grid_size", lambda size: EVA(series, 0.01, grid_size=size)),
    ]:
        use((3, 3))(normal(3, 6, 2))
        with pytest.raises(ValueError, match=f"{name} must be one number for time series"):
            use((2, 3))(normal(3, 6, 2))
        for wrong in ((1, 2, 3), 1.5, "2", 0):
            with pytest.raises(ValueError, match=f"{name} must be a whole number"):
                use(wrong)(normal(3, 6, 2))


def test_everything_at_once(convolutional_model):
    model = convolutional_model
    for use in (
        Saliency,
        Occlusion,
        GradCAM,
        EVA,
        SampledEVA,
        CertifiedGradient,
        AttributionBound,
        lambda m, **s: Rise(m, nb_samples=9, **s),
        lambda m, **s: RelEx(m, 2, 2, **s),
        lambda m, **s: EVA(m, mode="exact", grid_size=2, **s),
    ):
        expected = use(model, batch_size=2)(IMAGES, LABELS)
        found = use(model, batch_size=None)(IMAGES, LABELS)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        for wrong in (0, 1.5, True, "all"):
            with pytest.raises(ValueError, match="batch_size must be a whole number"):
                use(model, batch_size=wrong)


def test_one_class_for_all(convolutional_model):
    explainer = EVA(convolutional_model, 0.01)
    targets = np.array([0, 0, 1])
    found, expected = (
        explainer.explain_targeted(IMAGES, towards, targets) for towards in (2, [2, 2, 2])
    )
    np.testing.assert_array_equal(found.positive, expected.positive)
    with pytest.raises(ValueError, match="towards must be labels from 0 to 2"):
        explainer.explain_targeted(IMAGES, 3, targets)
    with pytest.raises(ValueError, match=r"targets must be one per input.*np.full\(3, class\)"):
        Saliency(convolutional_model)(IMAGES, 1)


# --- models that change between two calls -------------------------------------------------------


def test_freezing_changes_nothing():
    inputs = keras.Input((None, None, 1))
    h = L.GlobalAveragePooling2D()(L.Conv2D(4, 3, activation="relu", name="conv")(inputs))
    model = keras.Model(inputs, L.Dense(3, "softmax", name="head")(h))
    logits, explainers = logits_of(model), [Saliency(model), GradCAM(model)]
    before, large = logits(IMAGES), normal(3, 12, 12, 1)
    maps = [explainer(IMAGES, LABELS) for explainer in explainers]
    model.trainable = False
    np.testing.assert_array_equal(logits(IMAGES), before)
    for explainer, expected in zip(explainers, maps):
        np.testing.assert_array_equal(explainer(IMAGES, LABELS), expected)
        fresh = type(explainer)(model)(large, LABELS)
        np.testing.assert_allclose(explainer(large, LABELS), fresh, rtol=1e-5, atol=1e-7)
    head = model.get_layer("head")
    head.trainable = True
    head.set_weights([w + normal(*w.shape) for w in head.get_weights()])
    for explainer, old in zip(explainers, maps):
        found = explainer(IMAGES, LABELS)
        np.testing.assert_allclose(found, type(explainer)(model)(IMAGES, LABELS), atol=1e-6)
        assert np.abs(found - old).max() > 1e-3
    head.enable_lora(2)
    head.lora_kernel_a.assign(normal(4, 2))
    head.lora_kernel_b.assign(normal(2, 3, seed=1))
    np.testing.assert_allclose(keras.ops.softmax(logits(IMAGES)), model(IMAGES), rtol=1e-4)


# --- what else happens --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        lambda h: L.Dense(3, activation=lambda z: tf.nn.softmax(z))(h),
        lambda h: L.Dense(3, activation=functools.partial(ops.softmax, axis=-1))(h),
        lambda h: L.Activation(lambda z: tf.exp(z) / tf.reduce_sum(tf.exp(z), -1, True))(
            L.Dense(3)(h)
        ),
        lambda h: L.Lambda(lambda z: tf.nn.softmax(z))(L.Dense(3)(h)),
    ],
)
def test_a_softmax_in_a_function_of_ones_own(head):
    model, logits = classifier(head)
    x = normal(4, 5)
    np.testing.assert_allclose(logits_of(model)(x), logits(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="cannot be bounded"):
        Verifier(model, strip_head=True)
    other, _ = classifier(lambda h: L.Dense(3, activation=lambda z: 2 * tf.nn.softmax(z))(h))
    assert head_of(other) is None
    np.testing.assert_allclose(logits_of(other)(x), other(x), rtol=1e-5)


def test_a_softmax_with_a_mask_is_refused():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, L.Softmax()(L.Dense(3)(inputs), mask=np.array([[1, 1, 0]]) > 0))
    with pytest.raises(ValueError, match="softmax .* has a mask"):
        Saliency(model)(normal(4, 5))


def test_models_that_are_not_built():
    model = keras.Sequential([L.Dense(3, "softmax")])
    for use in (Saliency, EVA, GradCAM, lambda m: Deletion(m, normal(3, 5))):
        with pytest.raises(ValueError, match=r"must be built: .* keras.Input"):
            use(model)
    model(normal(1, 5))
    assert Saliency(model)(normal(3, 5)).shape == (3, 5)


def test_nan_is_never_given_out():
    model = network(L.Lambda(lambda t: tf.sqrt(t - 0.5)), L.Dense(3), shape=(5,))
    x = np.full((3, 5), 0.7, np.float32)
    x[1] = 0.5  # where the gradient is infinite
    for use in (
        Saliency,
        IntegratedGradients,
        Occlusion,
        lambda m: Rise(m, nb_samples=9),
        lambda m: RelEx(m, nb_samples=2, steps=2),
    ):
        with pytest.raises(ValueError, match="NaN or infinite values in sample [01].*not finite"):
            use(model)(x, LABELS)
    x[1] = 0.3
    for use in (Saliency, SampledEVA, CertifiedGradient, lambda m: PGD(m)(Ball(x, 0.1))):
        with pytest.raises(ValueError, match="outputs are NaN.*for sample 1"):
            use(model)(x, LABELS)
    with pytest.raises(ValueError, match="score of sample 0 is NaN.*another baseline_mode"):
        Deletion(model, x, LABELS).evaluate(np.abs(x))


def test_axes_of_the_inputs():
    model = network(L.Conv3D(2, 2), L.Flatten(), L.Dense(3), shape=(4, 4, 4, 1))
    volumes = normal(3, 4, 4, 4, 1)
    assert Saliency(model)(volumes).shape == volumes.shape
    for use in (Occlusion, Rise, lambda m: lambda x: Deletion(m, x)):
        with pytest.raises(ValueError, match=r"inputs must be images \(N, H, W, C\)"):
            use(model)(volumes)


def test_sparse_matrices():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(ValueError, match=r"make the sparse matrix dense, x.toarray\(\)"):
        Saliency(one_output())(sparse.csr_matrix(normal(3, 4)))


@pytest.fixture
def in_float64():
    """Keras' global types as some set them, for numbers and so for integers, too."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


def test_global_float64(in_float64):
    model = network(L.Conv2D(2, 3, activation="softplus"), L.GlobalAveragePooling2D(), L.Dense(3))
    assert model(IMAGES).dtype == "float64"
    expected = np.abs(gradient(lambda x: model(tf.cast(x, tf.float64)), IMAGES, LABELS))
    np.testing.assert_allclose(Saliency(model)(IMAGES, LABELS), expected, rtol=1e-4)
    lower, upper = Verifier(model, arithmetic="float32").bound_outputs(Ball(IMAGES, 0.01))
    outputs = model(IMAGES).numpy()
    assert ((lower <= outputs) & (outputs <= upper)).all()
    certificate = CORGI(model, k=3, method="ibp").certify(IMAGES, LABELS)
    assert (certificate.radius <= certificate.attacked).all()


def test_functions_that_are_run_eagerly():
    model, x = network(L.Dense(3), shape=(4,)), normal(2, 4)
    tf.config.run_functions_eagerly(True)
    try:
        maps = Saliency(model)(x)
    finally:
        tf.config.run_functions_eagerly(False)
    np.testing.assert_allclose(maps, Saliency(model)(x), rtol=1e-6)
