"""Training with regularisers of the gradient: their values, the ramp, and what they are for."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import NETWORKS, sequential

from xcertify.attributions import CertifiedGradient
from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.regions import Ball
from xcertify.targets import margin_rows
from xcertify.training import (
    AdversarialLoss,
    CertifiedWidth,
    GradientDifference,
    GradientNorm,
    HessianNorm,
    LinearRamp,
    RegularizedModel,
    Regularizer,
    WorstCaseLoss,
)

L = keras.layers


def batch(shape, nb_samples=4, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (nb_samples, *shape)).astype("float32")


def penalties(regularizer, model, x, targets):
    regularizer.prepare(model)
    return np.asarray(regularizer(tf.constant(x), tf.constant(targets, tf.float32)))


def test_what_says_no_penalty_cannot_be_made():
    with pytest.raises(TypeError, match="abstract class Regularizer"):
        Regularizer()

    class Zero(Regularizer):
        def __call__(self, inputs, targets):
            return self._reduce(0 * inputs)

    x = batch((3,))
    assert not penalties(Zero(reduction="sum"), NETWORKS["dense_gelu"](), x, np.ones((4, 3))).any()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", ["max_pooling", "batch_normalization", "dense_gelu", "residual"])
def test_the_width_is_that_of_the_intervals(name):
    model = NETWORKS[name]()
    x, one_hot = batch(model.input_shape[1:]), np.eye(3, dtype="f4")[[0, 2, 1, 0]]
    lower, upper = Verifier(model).bound_gradient(
        Ball(x, 0.05), one_hot[:, None], method="ibp", gamma=0.01
    )
    width = (upper - lower).reshape(4, -1)
    mean = penalties(CertifiedWidth(0.05, 0.01), model, x, one_hot)
    np.testing.assert_allclose(mean, width.mean(axis=1), rtol=1e-4)
    total = penalties(CertifiedWidth(0.05, 0.01, reduction="sum"), model, x, one_hot)
    np.testing.assert_allclose(total, width.sum(axis=1), rtol=1e-4)
    lower, upper = Verifier(model).bound_gradient(
        Ball(x, 0.05), labels=one_hot.argmax(axis=1), method="ibp"
    )
    width = (upper - lower).reshape(4, -1).mean(axis=1)
    loss = penalties(CertifiedWidth(0.05, loss="cross-entropy"), model, x, one_hot)
    np.testing.assert_allclose(loss, width, rtol=1e-4)


@pytest.mark.usefixtures("eager")
def test_a_single_output():
    model = sequential((4,), L.Dense(5, "relu"), L.Dense(1, "sigmoid"))
    x, targets = batch((4,)), np.array([[0.0], [1.0], [1.0], [0.0]])
    verifier = Verifier(model, strip_head=True)
    lower, upper = verifier.bound_gradient(Ball(x, 0.1), method="ibp")
    width = penalties(CertifiedWidth(0.1), model, x, targets)
    np.testing.assert_allclose(width, (upper - lower)[:, 0].mean(axis=1), rtol=1e-4, atol=1e-6)


def test_heuristics_by_hand():
    linear = sequential((3,), L.Dense(2))
    x, one_hot = batch((3,)), np.eye(2)[[0, 1, 1, 0]]
    kernel = linear.get_weights()[0]
    norm = penalties(GradientNorm(loss="logit", reduction="sum"), linear, x, one_hot)
    np.testing.assert_allclose(norm, (kernel**2).sum(axis=0)[[0, 1, 1, 0]], rtol=1e-5)
    assert not penalties(GradientDifference(0.1), linear, x, one_hot).any()
    assert not penalties(HessianNorm(loss="logit"), linear, x, one_hot).any()

    inputs = keras.Input((3,))
    square = keras.Model(inputs, L.Dense(1, use_bias=False)(keras.ops.square(inputs)))
    square.set_weights([np.array([[1.0], [2.0], [3.0]])])
    x = batch((3,), 4000)
    hessian = penalties(HessianNorm(loss="logit", reduction="sum"), square, x, np.ones((4000, 1)))
    np.testing.assert_allclose(hessian.mean(), 4 + 16 + 36, rtol=0.1)
    change = penalties(
        GradientDifference(0.3, reduction="sum"), square, x, np.ones((4000, 1))
    )  # the mean square of a uniform step is a third of its largest
    np.testing.assert_allclose(change.mean(), (4 + 16 + 36) * 0.09 / 3, rtol=0.1)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", ["max_pooling", "batch_normalization", "dense_gelu", "residual"])
def test_the_worst_loss_is_that_of_the_intervals(name):
    model, labels = NETWORKS[name](), np.array([0, 2, 1, 0])
    x, one_hot = batch(model.input_shape[1:]), np.eye(3, dtype="f4")[labels]
    worst = Verifier(model, "ibp").bound_rows(Ball(x, 0.05), margin_rows(labels, 3))[1]
    expected = np.log1p(np.exp(worst).sum(axis=1))
    np.testing.assert_allclose(
        penalties(WorstCaseLoss(0.05), model, x, one_hot), expected, rtol=1e-4
    )


@pytest.mark.usefixtures("eager")
def test_the_worst_loss_of_a_single_output_and_of_one_without_a_last_layer():
    model = sequential((4,), L.Dense(5, "relu"), L.Dense(1, "sigmoid"))
    x, targets = batch((4,)), np.array([[0.0], [1.0], [1.0], [0.0]])
    lower, upper = Verifier(model, "ibp", strip_head=True).bound_outputs(Ball(x, 0.1))
    worst = np.where(targets > 0, -lower, upper)[:, 0]
    found = penalties(WorstCaseLoss(0.1), model, x, targets)
    np.testing.assert_allclose(found, np.log1p(np.exp(worst)), rtol=1e-4)

    model = sequential((4,), L.Dense(3, "relu"))  # nothing to merge the margins with
    lower, upper = Verifier(model, "ibp").bound_outputs(Ball(x, 0.1))
    worst = upper - lower[:, :1]
    worst[:, 0] = 0
    found = penalties(WorstCaseLoss(0.1), model, x, np.eye(3)[[0, 0, 0, 0]])
    np.testing.assert_allclose(found, np.log(np.exp(worst).sum(axis=1)), rtol=1e-4)


@pytest.mark.usefixtures("eager")
def test_the_adversarial_loss_is_above_that_of_the_input_and_below_the_worst():
    model, labels = NETWORKS["max_pooling"](), np.array([0, 2, 1, 0])
    x, one_hot = batch(model.input_shape[1:]), np.eye(3, dtype="f4")[labels]
    plain = keras.losses.categorical_crossentropy(one_hot, model(x), from_logits=True).numpy()
    at_input = penalties(AdversarialLoss(0.0), model, x, one_hot)
    np.testing.assert_allclose(at_input, plain, rtol=1e-4)
    attacked = penalties(AdversarialLoss(0.1), model, x, one_hot)
    assert (attacked > plain).all()
    assert (attacked <= penalties(WorstCaseLoss(0.1), model, x, one_hot)).all()
    held = penalties(AdversarialLoss(0.1, clip=(x[0], x[0])), model, x[:1], one_hot[:1])
    np.testing.assert_allclose(held, plain[:1], rtol=1e-4)


def test_a_linear_model_attacked_by_hand():
    model = sequential((3,), L.Dense(1))
    x, targets = batch((3,)), np.array([[0.0], [1.0], [1.0], [0.0]])
    kernel, bias = model.get_weights()
    worst = (1 - 2 * targets) * (x @ kernel + bias) + 0.2 * np.abs(kernel).sum()
    expected = np.log1p(np.exp(worst))[:, 0]
    for regularizer in (AdversarialLoss(0.2), WorstCaseLoss(0.2)):
        found = penalties(regularizer, model, x, targets)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("regularizer", [WorstCaseLoss(0.3), AdversarialLoss(0.3, clip=(-1, 1))])
def test_training_makes_predictions_robust(regularizer):
    generator = np.random.default_rng(0)
    x = generator.uniform(-1, 1, (400, 2)).astype("f4")
    labels = (x.sum(axis=1) > 0).astype(int)

    def logs(alpha):
        keras.utils.set_random_seed(1)
        model = sequential((2,), L.Dense(16, "relu"), L.Dense(2))
        trained = RegularizedModel(model, regularizer, alpha)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trained.compile(keras.optimizers.Adam(0.01), loss)
        trained.fit(x, labels, epochs=10, verbose=0, callbacks=[LinearRamp(5)])
        return trained.evaluate(x, labels, verbose=0, return_dict=True)[regularizer.name]

    assert logs(1.0) < 0.9 * logs(0.0)


def test_the_loss_is_that_of_the_model_and_the_penalty():
    model = sequential((3,), L.Dense(4, "relu"), L.Dense(2, "softmax"))
    x, labels = batch((3,)), np.array([0, 1, 1, 0])
    trained = RegularizedModel(model, CertifiedWidth(0.1), alpha=0.7)
    trained.compile(loss="sparse_categorical_crossentropy")
    logs = trained.evaluate(x, labels, verbose=0, return_dict=True)
    assert sorted(logs) == ["certified_width", "loss"]
    width = penalties(CertifiedWidth(0.1), model, x, np.eye(2)[labels]).mean()
    np.testing.assert_allclose(logs["certified_width"], width, rtol=1e-5)
    plain = keras.losses.sparse_categorical_crossentropy(labels, model(x)).numpy().mean()
    np.testing.assert_allclose(logs["loss"], plain + 0.7 * width, rtol=1e-5)
    trained.compile(loss="categorical_crossentropy")
    again = trained.evaluate(x, np.eye(2)[labels], verbose=0, return_dict=True)
    np.testing.assert_allclose(again["loss"], logs["loss"], rtol=1e-5)


def test_the_ramp():
    regularizer = CertifiedWidth(0.4, 0.2)
    ramp = LinearRamp(4, warm_up=1)
    ramp.set_model(RegularizedModel(sequential((3,), L.Dense(2)), regularizer))
    ramp.on_train_begin()
    seen = []
    for epoch in range(7):
        ramp.on_epoch_begin(epoch)
        seen.append((float(regularizer.epsilon), float(regularizer.gamma)))
    shares = np.array([0, 0.25, 0.5, 0.75, 1, 1, 1])
    np.testing.assert_allclose(seen, np.stack([0.4 * shares, 0.2 * shares], 1), rtol=1e-6)
    ramp.on_epoch_begin(0)
    ramp.on_train_end()
    np.testing.assert_allclose(float(regularizer.epsilon), 0.4)


def test_trained_models_can_be_certified():
    generator = np.random.default_rng(0)
    x = generator.uniform(-1, 1, (600, 2)).astype("f4")
    labels = (x[:, 0] + 0.3 * x[:, 1] > 0.1 * np.sin(9 * x[:, 1])).astype(int)

    def train(regularizer, alpha):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((2,)), L.Dense(32, "relu"), L.Dense(32, "relu")])
        model.add(L.Dense(2))
        trained = RegularizedModel(model, regularizer, alpha)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trained.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
        logs = trained.fit(
            x, labels, epochs=15, batch_size=100, verbose=0, callbacks=[LinearRamp(8)]
        ).history
        certificate = CertifiedGradient(model, 0.05, method="ibp").certify(x[:100])
        return np.median(certificate.farthest()), logs["accuracy"][-1]

    proved, accuracy = train(CertifiedWidth(0.05), 1.0)
    standard, reached = train(CertifiedWidth(0.05), 0.0)
    assert proved < 0.5 * standard and accuracy > reached - 0.05


def test_settings_are_checked():
    model = sequential((3,), L.Dense(2))
    with pytest.raises(ValueError, match="loss must be one of logit, cross-entropy"):
        CertifiedWidth(0.1, loss="hinge")
    with pytest.raises(ValueError, match="reduction must be"):
        GradientNorm(reduction="max")
    with pytest.raises(ValueError, match="epsilon must be at least 0. Received: -1"):
        GradientDifference(-1)
    with pytest.raises(ValueError, match="alpha must be at least 0"):
        RegularizedModel(model, GradientNorm(), alpha=-1)
    with pytest.raises(ValueError, match="nb_epochs must be at least 1"):
        LinearRamp(0)
    with pytest.raises(ValueError, match="steps must be a whole number"):
        AdversarialLoss(0.1, steps=0)
    with pytest.raises(ValueError, match="clip must be"):
        AdversarialLoss(0.1, clip=(1, 0)).prepare(model)
    with pytest.raises(UnsupportedLayerError, match="jumps"):
        RegularizedModel(NETWORKS["parametric_activations"](), CertifiedWidth(0.1))
    with pytest.raises(UnsupportedLayerError, match="alpha of the layer"):
        RegularizedModel(NETWORKS["shared_prelu_on_images"](), CertifiedWidth(0.1, 0.1))
