"""The checker of linear bounds: against points, and against the engine."""

import keras
import numpy as np
import pytest
from keras import layers
from rotation import rotating

from xcertify.bounds import Verifier
from xcertify.recheck import domains, upper_bounds, values
from xcertify.recheck_layers import Network, UnknownLayerError
from xcertify.regions import Ball, Region
from xcertify.targets import margin_rows


def dense():
    return [(10,), layers.Dense(12, activation="relu"), layers.Dense(9, activation="relu")]


def one_logit():
    return [
        (10,),
        layers.Normalization(mean=[0.3] * 10, variance=[2.0] * 10),
        layers.Dense(12),
        layers.BatchNormalization(),
        layers.LeakyReLU(0.1),
        layers.Dropout(0.5),
        layers.Dense(9, activation="leaky_relu"),
        layers.Dense(1, activation="sigmoid"),
    ]


def convolutions():
    return [
        (7, 6, 2),
        layers.Rescaling(2.0, -0.5),
        layers.Conv2D(4, 3, strides=2, padding="same", groups=2),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.ZeroPadding2D(((1, 0), (2, 1))),
        layers.DepthwiseConv2D((2, 3), depth_multiplier=2, activation="relu"),
        layers.GlobalAveragePooling2D(),
    ]


def maxima():
    return [
        (8, 7, 2),
        layers.Conv2D(3, 3, dilation_rate=2, activation="relu"),
        layers.MaxPooling2D(2, strides=1, padding="same"),
        layers.Conv2D(4, 2, activation="relu"),
        layers.AveragePooling2D(2, padding="same"),
        layers.GlobalMaxPooling2D(),
        layers.Dense(6, activation="relu"),
    ]


def sequences():
    return [
        (12, 2),
        layers.Conv1D(3, 3, padding="causal", activation="relu"),
        layers.Permute((2, 1)),
        layers.Dense(5, activation="relu"),
        layers.Cropping1D((0, 1)),
        layers.Reshape((5, 2)),
        layers.MaxPooling1D(2),
        layers.Flatten(),
    ]


def branches():
    inputs = keras.Input((6, 5, 2))
    first = layers.Conv2D(3, 3, padding="same", activation="relu")(inputs)
    second = layers.Conv2D(3, 3, padding="same")(first)
    joined = layers.ReLU()(layers.Subtract()([first, second]))
    inside = keras.Sequential([keras.Input((6, 5, 3)), layers.MaxPooling2D(2), layers.Flatten()])
    parts = [inside(joined), layers.Flatten()(layers.AveragePooling2D(3)(joined))]
    outputs = layers.Dense(3, activation="softmax")(layers.Concatenate()(parts))
    return keras.Model(inputs, outputs)


NETS = (dense, one_logit, convolutions, maxima, sequences, branches)


def network(make, seed):
    """A model with random weights, statistics and biases, too."""
    keras.utils.set_random_seed(seed)
    model = make()
    if isinstance(model, list):
        shape, *parts = model
        last = [] if make is one_logit else [layers.Dense(3)]
        model = keras.Sequential([keras.Input(shape), *parts, *last])
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.name == "moving_variance":
            variable.assign(generator.uniform(0.5, 2, variable.shape))
        elif len(variable.shape) == 1 and variable.name != "count":
            variable.assign(generator.normal(size=variable.shape) * 0.3)
    return model


def question(model, norm, seed, nb_inputs=2):
    """Regions of some inputs, and rows of their margins."""
    generator = np.random.default_rng(seed)
    points = generator.random((nb_inputs, *model.input_shape[1:])).astype(np.float32)
    radius = {np.inf: 0.05, 2: 0.3, 1: 0.6}[norm] * generator.uniform(0.2, 2)
    nb_outputs = model.output_shape[-1]
    classes = generator.integers(0, max(nb_outputs, 2), nb_inputs)
    return Ball(points, radius, norm, (0, 1)), np.asarray(margin_rows(classes, nb_outputs))


CASES = [(make, norm, seed) for seed in range(10) for make in NETS for norm in (np.inf, 2, 1)]


@pytest.mark.parametrize("number", rotating(len(CASES), 6))
def test_like_the_engine_and_above_all_points(number):
    make, norm, seed = CASES[number]
    model = network(make, seed)
    read, (region, rows) = Network(model), question(model, norm, seed)
    exact = Verifier(model, dtype="float64")
    outputs = exact.evaluate(region.center.astype(np.float64)).reshape(2, -1)
    for point, found in zip(region.center, outputs):
        lower, upper = values(read, point)
        assert (lower <= upper).all()
        np.testing.assert_allclose(found, lower, rtol=1e-9, atol=1e-9)
    points = np.concatenate([region.corners(100, seed), region.sample(20, seed)])
    flat = points.reshape(-1, *region.shape).astype(np.float64)
    attained = exact.evaluate(flat).reshape(len(points), 2, -1)
    attained = np.einsum("nsk,pnk->pns", rows, attained).max(axis=0)
    for method in ("crown", "crown-ibp", "ibp"):
        pairs = [upper_bounds(read, *pair, method=method) for pair in zip(domains(region), rows)]
        bounds, amounts = (np.array(side) for side in zip(*pairs))
        assert (attained <= bounds + 1e-9).all()
        _, precise = Verifier(model, method, dtype="float64").bound_rows(region, rows)
        np.testing.assert_allclose(bounds, precise, rtol=1e-6, atol=2e-6)
        _, coarse = Verifier(model, method).bound_rows(region, rows)
        assert (coarse >= bounds - 2.0**-24 * amounts).all()
        assert (coarse <= bounds + 64 * 2.0**-24 * amounts).all()


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_cells_that_are_held(norm):
    model = network(dense, 5)
    (region, rows), read = question(model, norm, 5), Network(model)
    cells = np.arange(10) // 3
    for sample, domain in enumerate(domains(region)):
        bounds, _ = upper_bounds(read, domain, rows[sample], cells)
        lines = Verifier(model).linear_bounds(region[sample : sample + 1], rows[sample])
        np.testing.assert_allclose(bounds[:, 1:], lines.largest(cells)[1][0], rtol=1e-4, atol=1e-4)
        assert (bounds[:, 1:] <= lines.largest(cells)[0][0][:, None] + 1e-4).all()


def test_roundings_are_covered():
    # f(x) = (2**60 + x) - (2**60 + x), whose terms cancel: 0 for every x, in real arithmetic
    inputs = keras.Input((2,))
    hidden = layers.Dense(2, activation="relu")(inputs)
    model = keras.Model(inputs, layers.Dense(1)(hidden))
    last = np.array([[1.0], [-1.0]])
    model.set_weights([np.ones((2, 2)), np.full(2, 2.0**60), last, np.zeros(1)])
    region = Ball(np.array([[0.3, 0.7]], np.float32), 0.1)
    bounds, amount = upper_bounds(Network(model), *domains(region), np.ones((1, 1)))
    assert 0 <= bounds[0] <= 1e-13 * amount[0]


def test_numbers_that_overflow_prove_nothing():
    model = network(dense, 0)
    model.set_weights([w * 1e38 for w in model.get_weights()])
    region = Ball(np.full((1, 10), 1e38, np.float32), 1e37)
    read = Network(model)
    for method in ("crown", "ibp"):
        bounds, _ = upper_bounds(read, *domains(region), np.full((1, 3), 1e300), method=method)
        assert np.isinf(bounds).all() and (bounds > 0).all()


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (lambda: layers.Dense(3, activation="tanh"), r"Dense 'own' \(tanh\)"),
        (lambda: layers.ReLU(max_value=1.0), r"ReLU 'own' \(its settings\)"),
        (layers.LayerNormalization, "LayerNormalization 'own'"),
        (lambda: layers.Dense(3, activation=lambda x: x), "activation"),
    ],
)
def test_layers_that_are_not_known_are_named(layer, name):
    own = layer()
    own.name = "own"
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), own, layers.Dense(2)])
    with pytest.raises(UnknownLayerError, match=name):
        Network(model)


def test_subclasses_are_not_known():
    class Dense(layers.Dense):
        def call(self, inputs, training=None):
            return -super().call(inputs)

    model = keras.Sequential([keras.Input((4,)), Dense(4), layers.Dense(2)])
    with pytest.raises(UnknownLayerError, match="Dense"):
        Network(model)


class Turned(keras.Model):
    """Calls itself otherwise than it was built."""

    def call(self, inputs, training=None, mask=None):
        return -super().call(inputs)


def plus_ones(x):
    return layers.Add()([x, keras.ops.ones((1, 4))])


def in_training(x):
    parts = [keras.Input((4,)), layers.Dense(4), layers.BatchNormalization()]
    return keras.Sequential(parts)(x, training=True)


def with_another_call(x):
    layer = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    layer.call = lambda inputs, training=None, mask=None: -inputs
    return layer(x)


@pytest.mark.parametrize("function", [plus_ones, in_training, with_another_call])
def test_what_is_called_unusually_is_not_known(function):
    inputs = keras.Input((4,))
    with pytest.raises(UnknownLayerError, match="it does not know"):
        Network(keras.Model(inputs, layers.Dense(2)(function(inputs))))


def test_models_that_call_themselves_otherwise_are_not_known():
    inputs = keras.Input((4,))
    with pytest.raises(UnknownLayerError, match="Turned"):
        Network(Turned(inputs, layers.Dense(2)(inputs)))


def test_models_in_models_of_several_inputs_and_outputs():
    keras.utils.set_random_seed(1)
    first, second = keras.Input((4,)), keras.Input((4,))
    sums = layers.Add()([layers.Dense(4)(first), second])
    inner = keras.Model([first, second], [layers.Dense(3)(second), layers.Dense(3)(sums)])
    inputs = keras.Input((4,))
    one, other = inner([inputs, layers.Dense(4)(inputs)])
    model = keras.Model(inputs, layers.Subtract()([other, one]))
    points = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    for point, outputs in zip(points, np.asarray(model(points))):
        np.testing.assert_allclose(values(Network(model), point), [outputs] * 2, rtol=1e-4)


def test_balls_of_other_norms_are_their_boxes():
    ball = Ball(np.full((1, 4), 0.5), 0.1)
    other = Region(ball.center, ball.lower, ball.upper, ball.epsilon, 3.0)
    assert domains(other)[0].radius is None
