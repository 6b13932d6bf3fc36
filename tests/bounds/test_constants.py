"""Numbers that layers compute with: exact in real arithmetic, rounded in that of the model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance import in_float64
from networks import randomize

from xcertify.bounds import Verifier
from xcertify.bounds.graph.functions import error_of
from xcertify.regions import Ball

L, ops = keras.layers, keras.ops
SHAPE = (6, 7, 3)
STATISTICS = {"mean": [0.1, 1 / 3, 1000.1], "variance": [0.06, 1e-9, 1e-20]}


def attention(x):
    x = L.Reshape((42, 3))(x)
    return L.Reshape(SHAPE)(L.MultiHeadAttention(2, 3)(x, x))


FIRST = {
    "normalization": L.Normalization(mean=[0.1, 1 / 3, 0.7], variance=[0.06, 0.3, 0.02]),
    "nasty_normalization": L.Normalization(**STATISTICS),
    "inverted": L.Normalization(**STATISTICS, invert=True),
    "rescaling": L.Rescaling(1 / 255, -0.1),
    "rescaling_of_channels": L.Rescaling([0.1, 1 / 3, 1e4 / 3], [0.1, -1e3 / 3, 0.7]),
    "rescaling_by_arrays": L.Rescaling(np.array([0.1, 1 / 3, -3.3]), np.array([0.1, 0.2, 0.7])),
    "product": lambda x: 0.1 * x,
    "quotient": lambda x: x / 0.3,
    "sum": lambda x: x + 1 / 3,
    "difference": lambda x: 0.1 - x,
    "product_of_layer": lambda x: L.Multiply()([x, np.full((1, 1, 1, 3), 0.1)]),
    "sum_of_layer": lambda x: L.Add()([x, np.full((1, 1, 1, 3), 0.1)]),
    "einsum": lambda x: ops.einsum("nijc,cd->nijd", x, np.linspace(0.1, 1, 9).reshape(3, 3)),
    "padding": lambda x: ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=0.1),
    "scaled_norm": lambda x: ops.rms_normalization(x, scale=np.array([0.1, 0.2, 0.3])),
    "attention": attention,
    "resizing": L.Resizing(5, 9),
    "up_sampling": L.UpSampling2D(3, interpolation="bilinear"),
    "leaky_relu": L.LeakyReLU(0.3),
    "relu6": L.ReLU(6.0),
    "elu": L.ELU(),
    "power": lambda x: (1e25 * ops.abs(x) + 1.0) ** 1.1,
}
IN_FLOAT32 = ("resizing", "up_sampling")  # by TensorFlow, whatever the type is


def network(first, nb_layers=3):
    inputs = keras.Input(SHAPE)
    x = first(inputs) if first else inputs
    for _ in range(nb_layers):
        x = L.Conv2D(16, 3, padding="same", activation="relu")(x)
    model = keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x)))
    return randomize(model, 3)


def copy_of(model):
    try:
        return in_float64(model)
    except NotImplementedError:  # of RMSNorm in Keras 3.10
        pytest.skip("this version of Keras cannot copy the model")


def points(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 2, (*shape, *SHAPE)).astype("float32")


def sides(model, region, **settings):
    return Verifier(model, "ibp", dtype="float64", **settings).bound_outputs(region)


@pytest.mark.parametrize("name", FIRST)
def test_nothing_is_lost_at_a_point(name):
    """Behind three convolutions sides are about as near to each other as without the layer."""
    region = Ball(points(2).astype("float64"), 0.0)
    shares = []
    for first in (None, FIRST[name]):
        model = network(first)
        lower, upper = sides(model, region)
        values = copy_of(model)(region.center, training=False).numpy()
        assert name in IN_FLOAT32 or ((lower <= values) & (values <= upper)).all()
        shares.append((upper - lower).max() / np.abs(values).max())
    allowed = 1000 if name == "attention" else 10  # intervals lose at a softmax
    assert shares[1] <= allowed * shares[0] < 1e-8


@pytest.mark.parametrize("name", FIRST)
def test_float32_is_covered(name):
    """What Keras computes in float32, compiled or not, lies within bounds of float32."""
    inputs = keras.Input(SHAPE)
    model = randomize(keras.Model(inputs, FIRST[name](inputs)), 3)
    compiled = tf.function(model, jit_compile=name not in IN_FLOAT32)
    for scale, epsilon in ((1.0, 0.0), (1.0, 0.1), (300.0, 0.0), (1e-4, 1e-5)):
        region = Ball(scale * points(2), epsilon)
        lower, upper = sides(model, region, arithmetic="float32")
        signs = np.random.default_rng(1).random((8, *region.shape)) < 0.5
        for share in (*signs, True, False):
            point = np.where(share, region.lower, region.upper)
            point = region.project(point.astype("float32")) if epsilon else region.center
            for call in (model, compiled):
                values = np.asarray(call(point, training=False), "float64")
                values = values.reshape(lower.shape)
                assert ((lower <= values) & (values <= upper)).all()


@pytest.mark.parametrize("name", FIRST)
def test_models_of_float64(name):
    """Graph and model agree, which is checked at first use; sides of a point hold its values."""
    model = copy_of(network(FIRST[name], nb_layers=1))
    region = Ball(points(2).astype("float64"), 0.0)
    lower, upper = sides(model, region)
    values = model(region.center, training=False).numpy()
    slack = (1e-6 if name in IN_FLOAT32 else 0.0) * np.abs(values).max()
    assert ((lower - slack <= values) & (values <= upper + slack)).all()


def test_numbers_that_float32_does_not_hold():
    assert error_of(0.5, 6.0, 2.0**-100, np.float64(3.0)) == 0
    for number in (0.1, 1 / 3, np.float64(0.1), 1e300, 1 + 2.0**-30):
        assert error_of(0.5, number) == 2.0**-23
