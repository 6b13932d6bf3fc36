"""Every rule against what its layer computes: arguments, calls and global settings.

Each docstring lists what was read in the source of Keras, in the newest release and in 3.10, the
oldest that is supported: what changes the layer's values, and so has a case here or is refused. A
case is a layer between two curved activations: the graph has to give what the model gives as a
function and compiled, for a batch and for each sample alone, and bounds have to hold at corners.

Not listed at each rule: `name`, `trainable`, initializers, regularizers and constraints change
nothing once a layer is built; `dtype` is `test_types`; `activation` is `test_activations`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops
from networks import randomize

from xcertify.bounds import UnsupportedLayerError, Verifier, register_affine
from xcertify.bounds.graph.operations import Affine
from xcertify.bounds.graph.translation import build_graph
from xcertify.bounds.rules.identities import AUGMENTATIONS
from xcertify.bounds.rules.registry import find_rule
from xcertify.regions import Box

pytestmark = pytest.mark.usefixtures("eager")

IMAGE, SERIES, VECTOR = (5, 4, 3), (6, 3), (4,)
FIRST = {"data_format": "channels_first"}
Build = Callable[[Any], Any]


@pytest.fixture
def channels_first():
    """Keras' global data format, for the time of a test."""
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format("channels_last")


@pytest.fixture
def large_epsilon():
    """Keras' global epsilon, for the time of a test."""
    before = keras.config.epsilon()
    keras.config.set_epsilon(0.5)
    yield
    keras.config.set_epsilon(before)


def network(shape: tuple[int, ...], build: Build, batch_size: int | None = None) -> keras.Model:
    """A layer, or a function of layers, between two curved activations, with random weights."""
    inputs = keras.Input(shape, batch_size=batch_size)
    return randomize(keras.Model(inputs, ops.softplus(build(ops.tanh(inputs)))), 0)


def made(kind: type, *args: Any, **kwargs: Any) -> Build:
    """A layer that is made when it is called, under the global settings of then."""
    return lambda h: kind(*args, **kwargs)(h)  # noqa: PLW0108


def graph_values(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """What the graph of a model gives, in float64."""
    graph = build_graph(model, find_rule)
    values = {0: tf.constant(inputs, "float64")}
    for index in graph.ancestors([graph.output]):
        node = graph.nodes[index]
        values[index] = node.operation.evaluate(*(values[parent] for parent in node.parents))
    return values[graph.output].numpy()


def assert_agrees(model: keras.Model, tolerance: float = 2e-5, method: str = "crown") -> None:
    """Graph and model give the same values, and bounds hold at corners of boxes."""
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(3, *model.inputs[0].shape[1:])).astype("float32")
    found = graph_values(model, inputs)
    alone = np.concatenate([model(one[None], training=False).numpy() for one in inputs])
    batch = model.predict_on_batch(inputs)
    tolerance = tolerance * (1 + np.abs(alone).max())
    np.testing.assert_allclose(found, alone, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found, batch, rtol=0, atol=tolerance)

    width = np.array([0.3, 0.01, 0.0]).reshape(-1, *[1] * (inputs.ndim - 1))
    region = Box(inputs - width, inputs + width)
    lower, upper = Verifier(model, method).bound_outputs(region)
    for _ in range(6):
        side = generator.random(inputs.shape) < 0.5
        at = np.where(side, region.lower, region.upper).astype("float32")
        outputs = model.predict_on_batch(at)
        assert (lower - tolerance <= outputs).all(), (lower - outputs).max()
        assert (outputs <= upper + tolerance).all(), (outputs - upper).max()


def assert_refused(model: keras.Model, words: str) -> None:
    """The model is refused with these words and the name of a layer."""
    with pytest.raises(UnsupportedLayerError, match=words):
        build_graph(model, find_rule)


def cases(**layers: tuple[tuple[int, ...], Build]) -> Any:
    """Parametrised over shape and builder."""
    return pytest.mark.parametrize(("shape", "build"), layers.values(), ids=layers)


# --- layers with weights -------------------------------------------------------------------------


@cases(
    plain=(VECTOR, L.Dense(5)),
    no_bias=(VECTOR, L.Dense(5, use_bias=False)),
    of_series=(SERIES, L.Dense(5, "tanh")),
    of_images=(IMAGE, L.Dense(2, "relu")),
    of_no_axis=((1,), L.Dense(1)),
)
def test_dense(shape, build):
    """`units`, `use_bias`, ranks of the input; `kernel` is read with LoRA; quantized: refused."""
    assert_agrees(network(shape, build))


@cases(
    dense=(VECTOR, L.Dense(5)),
    convolution=(IMAGE, L.Conv2D(3, 2)),
    einsum=(SERIES, L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d")),
)
def test_low_rank_updates(shape, build):
    model = network(shape, build)
    for layer in model.layers:
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(2)
    assert_agrees(randomize(model, 1))


@cases(
    matrix=(SERIES, L.EinsumDense("abc,cd->abd", (6, 5), bias_axes="d")),
    all_axes=(SERIES, L.EinsumDense("abc,bcd->ad", 5)),
    new_axes=(SERIES, L.EinsumDense("abc,cde->abde", (6, 2, 4), bias_axes="de")),
    bias_in_front=(SERIES, L.EinsumDense("abc,cd->abd", (6, 5), bias_axes="b")),
)
def test_einsum_dense(shape, build):
    """`equation`, `output_shape`, `bias_axes`; an equation or a bias along the batch is refused."""
    assert_agrees(network(shape, build))


def test_einsum_dense_with_an_ellipsis():
    """What Keras before 3.13 makes of it, which mixes samples, is refused."""
    layer = L.EinsumDense("...x,xy->...y", 5, bias_axes="y", activation="tanh")
    model = network(IMAGE, layer)
    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 13):
        assert_refused(model, "it mixes samples")
    else:
        assert_agrees(model)


def test_biases_of_einsum_dense_that_keras_adds_along_another_axis_are_refused():
    layer = L.EinsumDense("abc,cd->abd", (6, 6), bias_axes="b")
    assert_refused(network((6, 3), layer), "bias along another axis")


@cases(
    plain=(IMAGE, L.Conv2D(2, 2)),
    strides=(IMAGE, L.Conv2D(2, (2, 3), strides=(2, 1), padding="same")),
    dilation=((7, 7, 2), L.Conv2D(2, (2, 3), dilation_rate=(2, 3))),
    dilation_same=((6, 7, 2), L.Conv2D(2, 3, dilation_rate=(1, 2), padding="same")),
    groups=((5, 5, 4), L.Conv2D(4, 2, groups=2, use_bias=False)),
    groups_of_one=((5, 5, 3), L.Conv2D(6, 2, 2, "same", groups=3, activation="relu")),
    groups_of_one_strided=((5, 6, 2), L.Conv2D(2, 2, (1, 2), groups=2)),
    groups_of_one_dilated=((7, 3), L.Conv1D(6, 2, dilation_rate=2, groups=3)),
    groups_of_one_causal=((5, 2), L.Conv1D(2, 2, padding="causal", groups=2)),
    first=((3, 6, 5), L.Conv2D(2, (2, 3), strides=2, padding="same", **FIRST)),
    first_groups=((4, 5, 5), L.Conv2D(6, 2, groups=2, **FIRST)),
    first_groups_of_one=((2, 5, 5), L.Conv2D(6, 2, groups=2, **FIRST)),
    one=(SERIES, L.Conv1D(2, 3, strides=2, padding="same")),
    causal=(SERIES, L.Conv1D(2, 3, padding="causal", dilation_rate=2)),
    causal_strides=(SERIES, L.Conv1D(2, 3, padding="causal", strides=2)),
    one_first=((2, 7), L.Conv1D(3, 3, padding="causal", **FIRST)),
    three=((4, 3, 4, 2), L.Conv3D(2, 2, strides=(1, 1, 2), padding="same")),
    stride_beyond_kernel=((7, 7, 2), L.Conv2D(2, 2, strides=3, padding="same")),
)
def test_convolution(shape, build):
    """`filters`, `kernel_size`, `strides`, `padding` (valid, same, causal), `data_format`,
    `dilation_rate`, `groups`, `use_bias`. 3.15 computes the kernel of LoRA in another type.
    """
    assert_agrees(network(shape, build))


@cases(
    plain=(IMAGE, L.DepthwiseConv2D(2)),
    strides=((6, 6, 2), L.DepthwiseConv2D(3, 2, "same", depth_multiplier=2)),
    dilation=((7, 7, 2), L.DepthwiseConv2D(2, dilation_rate=2, use_bias=False)),
    dilation_same=((7, 6, 2), L.DepthwiseConv2D(3, dilation_rate=2, padding="same")),
    first=((2, 6, 7), L.DepthwiseConv2D(2, depth_multiplier=2, **FIRST)),
    one=(SERIES, L.DepthwiseConv1D(3, strides=2, padding="same", depth_multiplier=2)),
    one_dilation=(SERIES, L.DepthwiseConv1D(2, dilation_rate=2)),
    one_first=((2, 7), L.DepthwiseConv1D(3, **FIRST)),
)
def test_depthwise_convolution(shape, build):
    """`kernel_size`, `strides`, `padding`, `depth_multiplier`, `data_format`, `dilation_rate`,
    `use_bias`. Strides together with dilation: refused by 3.10, from 3.15 a case of its own.
    """
    assert_agrees(network(shape, build))


@cases(
    depthwise=((9, 8, 2), made(L.DepthwiseConv2D, 2, strides=2, dilation_rate=2)),
    depthwise_same=(
        (9, 8, 2),
        made(L.DepthwiseConv2D, 3, strides=2, dilation_rate=2, padding="same"),
    ),
    separable=((9, 9, 2), made(L.SeparableConv2D, 3, 2, strides=2, dilation_rate=2)),
    one=((9, 2), made(L.DepthwiseConv1D, 3, strides=2, dilation_rate=2, padding="same")),
)
def test_strides_with_dilation(shape, build):
    """In 3.10 refused by Keras; later two convolutions, of which "same" has no known shape."""
    try:
        model = network(shape, build)
    except ValueError:
        pytest.skip("this Keras refuses strides together with dilation")
    try:
        build_graph(model, find_rule)
    except UnsupportedLayerError as error:
        assert "not known beforehand" in str(error)  # noqa: PT017
    else:
        assert_agrees(model)


@cases(
    plain=(IMAGE, L.SeparableConv2D(2, 2)),
    multiplier=((6, 6, 2), L.SeparableConv2D(3, 3, 2, "same", depth_multiplier=2)),
    dilation=((7, 7, 2), L.SeparableConv2D(3, 2, dilation_rate=2, use_bias=False)),
    first=((2, 6, 5), L.SeparableConv2D(3, 2, depth_multiplier=2, **FIRST)),
    one=(SERIES, L.SeparableConv1D(2, 3, strides=2, padding="same", activation="relu")),
    one_dilation=(SERIES, L.SeparableConv1D(2, 3, dilation_rate=2)),
)
def test_separable_convolution(shape, build):
    """As the depthwise convolution, and `filters`; the pointwise part has no strides."""
    assert_agrees(network(shape, build))


@cases(
    plain=((3, 3, 2), L.Conv2DTranspose(2, 2)),
    strides=((3, 4, 2), L.Conv2DTranspose(2, 3, strides=2, padding="same")),
    more=((3, 3, 2), L.Conv2DTranspose(2, 3, strides=2, output_padding=1)),
    no_bias=((3, 3, 2), L.Conv2DTranspose(2, 2, use_bias=False)),
    one=(SERIES, L.Conv1DTranspose(2, 3, strides=2, padding="same", activation="relu")),
    three=((2, 2, 2, 1), L.Conv3DTranspose(2, 2, strides=2)),
    first=((2, 3, 4), L.Conv2DTranspose(3, 2, **FIRST)),
)
def test_transposed_convolution(shape, build):
    """`filters`, `kernel_size`, `strides`, `padding`, `output_padding`, `data_format`,
    `use_bias`; TensorFlow has no `dilation_rate` above 1 on CPUs.
    """
    assert_agrees(network(shape, build))


@cases(
    convolution=((2, 4, 4), L.Conv2D(3, 2, **FIRST)),
    one=((2, 6), L.Conv1D(5, 2, **FIRST)),
    depthwise=((3, 4, 4), L.DepthwiseConv2D(2, **FIRST)),
    transposed=((2, 2, 2), L.Conv2DTranspose(3, 2, **FIRST)),
)
def test_biases_that_keras_adds_along_the_last_axis_are_refused(shape, build):
    """`keras.ops.add` takes a bias (1, filters, 1, 1) for one of the last axis if sizes agree."""
    assert_refused(network(shape, build), "bias along another axis")


# --- rearrangement -------------------------------------------------------------------------------


@cases(
    last=(IMAGE, L.Flatten()),
    first=(IMAGE, L.Flatten(data_format="channels_first")),
    vector=(VECTOR, L.Flatten()),
    inferred=(IMAGE, L.Reshape((-1, 2))),
    reshape=(IMAGE, L.Reshape((3, 20))),
    permute=(IMAGE, L.Permute((3, 1, 2))),
    repeated=(VECTOR, L.RepeatVector(3)),
)
def test_rearrangement(shape, build):
    """`data_format` of Flatten, which moves the channels; `target_shape` with -1; `dims`; `n`."""
    assert_agrees(network(shape, build))


@cases(
    zeros_1d=(SERIES, L.ZeroPadding1D((1, 2))),
    zeros_2d=(IMAGE, L.ZeroPadding2D(((1, 0), (0, 2)))),
    zeros_pair=(IMAGE, L.ZeroPadding2D((1, 2))),
    zeros_first=((3, 4, 5), L.ZeroPadding2D(1, **FIRST)),
    zeros_3d=((2, 3, 2, 1), L.ZeroPadding3D((1, 0, 2))),
    cropped_1d=(SERIES, L.Cropping1D((0, 2))),
    cropped_2d=(IMAGE, L.Cropping2D(((1, 0), (0, 2)))),
    cropped_first=((3, 4, 5), L.Cropping2D(1, **FIRST)),
    cropped_3d=((3, 3, 3, 1), L.Cropping3D((1, 0, 1))),
    up_1d=(SERIES, L.UpSampling1D(3)),
    up_2d=((2, 3, 2), L.UpSampling2D((2, 3))),
    up_first=((2, 3, 2), L.UpSampling2D((1, 3), **FIRST)),
    up_3d=((2, 2, 2, 1), L.UpSampling3D((1, 2, 2))),
    bilinear=((3, 4, 2), L.UpSampling2D((2, 3), interpolation="bilinear")),
    bilinear_first=((2, 3, 4), L.UpSampling2D(2, interpolation="bilinear", **FIRST)),
)
def test_padding_cropping_and_upsampling(shape, build):
    """`padding`, `cropping`, `size` as number, pair and pairs; `data_format`; `interpolation`:
    nearest and bilinear, others are refused.
    """
    assert_agrees(network(shape, build))


def test_other_interpolations_are_refused():
    assert_refused(network((3, 4, 2), L.UpSampling2D(2, interpolation="bicubic")), "bicubic")


def test_bilinear_with_another_global_format_is_refused(channels_first):
    """3.10 then resizes the last two axes, whatever they are."""
    layer = L.UpSampling2D(2, data_format="channels_last", interpolation="bilinear")
    assert_refused(network((3, 4, 2), layer), "image_data_format")


# --- pooling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Average", "Max"])
@pytest.mark.parametrize(
    ("rank", "shape", "settings"),
    [
        (1, (7, 2), {"pool_size": 3, "strides": 2, "padding": "same"}),
        (1, (2, 7), {"pool_size": 2, **FIRST}),
        (2, (6, 5, 2), {"pool_size": (2, 3), "strides": (1, 2)}),
        (2, (5, 5, 2), {"pool_size": 3, "strides": 1, "padding": "same"}),
        (2, (2, 5, 6), {"pool_size": 2, "padding": "same", **FIRST}),
        (3, (4, 4, 3, 1), {"pool_size": (2, 1, 2), "padding": "same"}),
    ],
)
def test_pooling(kind, rank, shape, settings):
    """`pool_size`, `strides` (none: the size), `padding` (entries beyond the border do not count),
    `data_format`.
    """
    assert_agrees(network(shape, getattr(L, f"{kind}Pooling{rank}D")(**settings)))


@pytest.mark.parametrize("kind", ["Average", "Max"])
@pytest.mark.parametrize("settings", [{}, {"keepdims": True}, FIRST, {"keepdims": True, **FIRST}])
@pytest.mark.parametrize(("rank", "shape"), [(1, (4, 3)), (2, (3, 4, 2)), (3, (2, 3, 2, 2))])
def test_global_pooling(kind, rank, shape, settings):
    """`keepdims`, `data_format`; for the `mask` of the average in 1D see `test_attention`."""
    assert_agrees(network(shape, getattr(L, f"Global{kind}Pooling{rank}D")(**settings)))


# --- normalization -------------------------------------------------------------------------------


@cases(
    last=(IMAGE, L.BatchNormalization()),
    second=(IMAGE, L.BatchNormalization(axis=2, epsilon=0.1)),
    negative=(IMAGE, L.BatchNormalization(axis=-3)),
    no_scale=(VECTOR, L.BatchNormalization(scale=False)),
    no_center=(VECTOR, L.BatchNormalization(center=False, momentum=0.5)),
    not_training=(VECTOR, lambda h: L.BatchNormalization()(h, training=False)),
)
def test_batch_normalization(shape, build):
    """`axis`, `epsilon`, `center`, `scale`; `momentum`, `renorm` (3.15), `synchronized` matter in
    training only, as does `mask`; `training=True` and an axis of samples are refused.
    """
    assert_agrees(network(shape, build))


def test_renormalization_is_the_same_at_inference():
    try:
        layer = L.BatchNormalization(renorm=True)
    except (TypeError, ValueError):
        pytest.skip("this Keras has no renorm")
    assert_agrees(network(VECTOR, layer))


@cases(
    last=(SERIES, L.LayerNormalization()),
    both=(SERIES, L.LayerNormalization(axis=[2, 1], epsilon=0.1)),
    second=(IMAGE, L.LayerNormalization(axis=2)),
    no_scale=(SERIES, L.LayerNormalization(scale=False)),
    nothing=(SERIES, L.LayerNormalization(scale=False, center=False)),
)
def test_layer_normalization(shape, build):
    """`axis` in any order, `epsilon`, `center`, `scale`; for `rms_scaling` see test_functions."""
    assert_agrees(network(shape, build))


MEAN, VARIANCE = [0.1, -0.2, 0.3], [0.5, 2.0, 0.01]


@cases(
    last=(SERIES, L.Normalization(mean=MEAN, variance=VARIANCE)),
    invert=(SERIES, L.Normalization(mean=MEAN, variance=VARIANCE, invert=True)),
    one=(SERIES, L.Normalization(axis=None, mean=0.3, variance=2.0)),
    all_axes=(SERIES, L.Normalization(axis=(1, 2), mean=np.ones((6, 3)), variance=np.ones((6, 3)))),
    learned=(SERIES, L.Normalization(axis=1)),
)
def test_normalization(shape, build):
    """`axis`, `mean`, `variance`, `invert`; a deviation is at least `keras.config.epsilon()`; an
    axis of samples is refused.
    """
    assert_agrees(network(shape, build))


def test_normalization_with_another_epsilon(large_epsilon):
    assert_agrees(network(SERIES, L.Normalization(mean=MEAN, variance=VARIANCE)))


@cases(
    numbers=(IMAGE, L.Rescaling(2.0, offset=-0.3)),
    of_channels=(IMAGE, L.Rescaling([1.0, -2.0, 0.5], offset=[0.1, 0.2, 0.3])),
    of_places=(IMAGE, L.Rescaling(np.linspace(1, 2, 12).reshape(4, 3))),
    with_batch_axis=(VECTOR, L.Rescaling(np.array([[1.0, 2.0, 3.0, 4.0]]))),
)
def test_rescaling(shape, build):
    """`scale` and `offset`, numbers or arrays; with the global format channels_first an array that
    is the scale, but not one that is the offset, is laid along the channels.
    """
    assert_agrees(network(shape, build))


def test_rescaling_with_another_global_format(channels_first):
    offset = np.arange(3.0).reshape(3, 1, 1)
    assert_agrees(network((3, 4, 5), L.Rescaling([1.0, -2.0, 0.5], offset=offset)))


def test_rescaling_that_enlarges_is_refused():
    assert_refused(network((4, 1), L.Rescaling([1.0, 2.0])), "enlarges")


# --- activations ---------------------------------------------------------------------------------


@cases(
    relu=(VECTOR, L.ReLU()),
    relu_of_all=(VECTOR, L.ReLU(max_value=0.5, negative_slope=0.2, threshold=0.1)),
    relu_six=(VECTOR, L.ReLU(max_value=6, negative_slope=0.1)),
    relu_of_nothing=(VECTOR, L.ReLU(max_value=0.0)),
    relu_threshold=(VECTOR, L.ReLU(threshold=0.3)),
    leaky=(VECTOR, L.LeakyReLU()),
    leaky_steep=(VECTOR, L.LeakyReLU(negative_slope=1.5)),
    elu=(VECTOR, L.ELU(alpha=0.3)),
    elu_steep=(VECTOR, L.ELU(alpha=2.5)),
    elu_negative=(VECTOR, L.ELU(alpha=-0.7)),
    prelu=(IMAGE, L.PReLU()),
    prelu_shared=(IMAGE, L.PReLU(shared_axes=[1, 2])),
    softmax=(SERIES, L.Softmax()),
    softmax_second=(SERIES, L.Softmax(axis=1)),
    softmax_both=(SERIES, L.Softmax(axis=(-1, 1))),
    softmax_list=(SERIES, L.Softmax(axis=[2])),
)
def test_activation_layers(shape, build):
    """ReLU `max_value`, `negative_slope`, `threshold`; LeakyReLU `negative_slope`; ELU `alpha`;
    PReLU `shared_axes` and weights of either sign; Softmax `axis`, of which one of samples is
    refused; for its `mask` see `test_attention`.
    """
    assert_agrees(network(shape, build))


TENSORFLOW = {
    "relu": [tf.nn.relu],
    "relu6": [tf.nn.relu6],
    "leaky_relu": [tf.nn.leaky_relu],
    "elu": [tf.nn.elu],
    "selu": [tf.nn.selu],
    "sigmoid": [tf.nn.sigmoid, tf.sigmoid, tf.math.sigmoid],
    "tanh": [tf.nn.tanh, tf.tanh, tf.math.tanh],
    "softplus": [tf.nn.softplus, tf.math.softplus],
    "softsign": [tf.nn.softsign],
    "silu": [tf.nn.silu, tf.nn.swish],
    "gelu": [tf.nn.gelu],
    "softmax": [tf.nn.softmax],
    "identity": [tf.identity],
    "exp": [tf.exp, tf.math.exp],
    "log_sigmoid": [tf.math.log_sigmoid],
}
FUNCTIONS = {
    **{f"tf.{name}-{i}": f for name, forms in TENSORFLOW.items() for i, f in enumerate(forms)},
    **{
        f"ops.{name}": getattr(ops, name)
        for name in (
            *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "sigmoid"),
            *("hard_sigmoid", "hard_silu", "hard_tanh", "log_sigmoid", "tanh", "softplus"),
            *("softsign", "softmax", "exp", "square", "abs", "absolute"),
        )
    },
    "a layer": L.LeakyReLU(0.4),
    "a softmax layer": L.Softmax(),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_activations(function):
    """Functions of TensorFlow and `keras.ops` with their own defaults (`tf.nn.gelu` is exact,
    `ops.gelu` approximate, slopes of 0.2), layers as activations; those of `keras.activations` are
    bounded in the test of all networks.
    """
    assert_agrees(network(VECTOR, L.Dense(5, activation=function)), 1e-4)


@pytest.mark.parametrize("function", [tf.nn.log_softmax, tf.nn.crelu, np.tanh, "squareplus"])
def test_other_activations_are_refused(function):
    layer = L.Dense(5)
    model = network(VECTOR, layer)
    layer.activation = keras.activations.get(function)
    with pytest.raises(UnsupportedLayerError) as error:
        build_graph(model, find_rule)
    refused, supported = str(error.value).split("Supported")
    name = refused.split(chr(39))[1]
    assert f" {name}," not in supported or function is np.tanh  # not that of Keras


@cases(
    relu=(VECTOR, keras.activations.relu),
    relu_of_all=(VECTOR, lambda h: keras.activations.relu(h, 0.2, 0.6, 0.1)),
    below=(VECTOR, lambda h: keras.activations.relu(h, threshold=-0.5)),
    softmax=(SERIES, lambda h: keras.activations.softmax(h, axis=1)),
    sigmoid=(VECTOR, keras.activations.sigmoid),
    gelu=(VECTOR, lambda h: keras.activations.gelu(h, approximate=True)),
)
def test_activations_of_tensors(shape, build):
    """`keras.activations` called on a tensor: `negative_slope`, `max_value`, `threshold` of either
    sign; a largest value below 0 is refused.
    """
    assert_agrees(network(shape, build))


def test_a_rectifier_with_a_negative_largest_value_is_refused():
    model = network(VECTOR, lambda h: keras.activations.relu(h, max_value=-1.0))
    assert_refused(model, "max_value")


# --- identities ----------------------------------------------------------------------------------


@cases(
    dropout=(VECTOR, L.Dropout(0.5)),
    without_training=(VECTOR, lambda h: L.Dropout(0.5)(h, training=False)),
    alpha=(VECTOR, L.AlphaDropout(0.5)),
    gaussian=(VECTOR, L.GaussianDropout(0.5)),
    noise=(VECTOR, L.GaussianNoise(1.0)),
    spatial=(IMAGE, L.SpatialDropout2D(0.5)),
    regularized=(VECTOR, L.ActivityRegularization(1.0)),
    regularized_dense=(VECTOR, L.Dense(3, activity_regularizer="l2")),
    identity=(VECTOR, L.Identity()),
)
def test_identities(shape, build):
    """`rate`, `stddev`, `noise_shape`, `seed` matter in training only; `training=True`: refused."""
    assert_agrees(network(shape, build))


AUGMENTED = {
    "RandomBrightness": {"factor": 0.5},
    "RandomContrast": {"factor": 0.5},
    "RandomFlip": {},
    "RandomRotation": {"factor": 0.3},
    "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
    "RandomZoom": {"height_factor": 0.2},
    "MixUp": {},
    "CutMix": {},
    "AugMix": {},
    "RandAugment": {},
}


@pytest.mark.parametrize("name", AUGMENTED)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_augmentations_are_identities_at_inference(name, data_format):
    """Each gives its images as they are with ``training=False``, in float and of any range."""
    if not hasattr(L, name):
        pytest.skip("this Keras lacks the layer")
    layer = getattr(L, name)(data_format=data_format, **AUGMENTED[name])
    assert type(layer) in AUGMENTATIONS
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 3), scale=30).astype("float32")
    images = images if data_format == "channels_last" else images.transpose(0, 3, 1, 2)
    inputs = keras.Input(images.shape[1:])
    model = keras.Model(inputs, layer(inputs))
    np.testing.assert_array_equal(model.predict_on_batch(images), images)
    graph = build_graph(model, find_rule)
    assert graph.output == 0


def test_random_crops_are_no_identity():
    assert L.RandomCrop not in AUGMENTATIONS
    assert_refused(network((6, 6, 3), L.RandomCrop(3, 3)), "RandomCrop")


# --- merges --------------------------------------------------------------------------------------

C = np.array([[1.0, 0.1, 3.0, -2.0]], "float32")
MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")


@pytest.mark.parametrize("name", MERGES)
@cases(
    two=(VECTOR, lambda h: [h, ops.exp(h)]),
    constant=(VECTOR, lambda h: [h, C]),
    inexact=(VECTOR, lambda h: [h, C.astype("float64") / 3]),
    variable=(VECTOR, lambda h: [h, keras.Variable(C)]),
    enlarged=((1,), lambda h: [h, C]),
    one_for_all=(VECTOR, lambda h: [h, np.array([[0.3]], "float32")]),
    of_lower_rank=((3, 4), lambda h: [h, C]),
    tensor_of_lower_rank=((3, 4), lambda h: [h, ops.mean(h, axis=1)]),
)
def test_merges(name, shape, build):
    """Tensors and constants with a batch axis of 1, also of lower ranks, which Keras lays behind
    the batch axis; constants without or along a batch axis are refused.
    """
    assert_agrees(network(shape, lambda h: getattr(L, name)()(build(h))))


@pytest.mark.parametrize("name", ["Add", "Multiply", "Average", "Maximum", "Minimum"])
def test_merges_of_three(name):
    assert_agrees(network(VECTOR, lambda h: getattr(L, name)()([h, C, ops.exp(h)])))


def test_constants_are_those_of_the_model():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, L.Add()([inputs, np.array([[0.0, 5.0]], "float32")]))
    x = np.array([[1.0, 0.25]], "float32")
    np.testing.assert_array_equal(Verifier(model).evaluate(x), [[1.0, 5.25]])
    lower, upper = Verifier(model).bound_outputs(Box(x - 0.5, x + 0.5))
    np.testing.assert_allclose(lower, [[0.5, 4.75]], atol=1e-6)
    np.testing.assert_allclose(upper, [[1.5, 5.75]], atol=1e-6)


def test_variables_are_read_at_each_call():
    variable = keras.Variable(C)
    inputs = keras.Input(VECTOR)
    verifier = Verifier(keras.Model(inputs, inputs * variable))
    ones = np.ones((1, 4), "float32")
    np.testing.assert_array_equal(verifier.evaluate(ones), C)
    variable.assign(2 * C)
    np.testing.assert_array_equal(verifier.evaluate(ones), 2 * C)


def test_constants_that_are_changed_in_place_are_read_anew():
    constant = C.copy()
    inputs = keras.Input(VECTOR)
    verifier = Verifier(keras.Model(inputs, L.Add()([inputs, constant])))
    zeros = np.zeros((1, 4), "float32")
    np.testing.assert_array_equal(verifier.evaluate(zeros), C)
    constant[:] = 5
    np.testing.assert_array_equal(verifier.evaluate(zeros), constant)


def test_other_constants_are_refused():
    rows = network(VECTOR, lambda h: L.Multiply()([h, np.ones((3, 4), "float32")]), batch_size=3)
    assert_refused(rows, "batch axis")
    infinite = network(VECTOR, lambda h: L.Add()([h, np.full((1, 4), -np.inf, "float32")]))
    assert_refused(infinite, "not finite")


@cases(
    swapped=((3, 3), lambda h: L.Add()([h, ops.mean(h, axis=2, keepdims=True)])),
    a_number_each=(VECTOR, lambda h: L.Add()([h, L.Dense(1)(h)])),
    of_functions=((3, 3), lambda h: h + ops.mean(h, axis=2, keepdims=True)),
    average=((3, 3), lambda h: L.Average()([h, ops.mean(h, axis=2, keepdims=True)])),
)
def test_sums_that_keras_takes_for_biases_are_refused(shape, build):
    """What `keras.ops.add` gives depends on the size of the batch."""
    assert_refused(network(shape, build), "bias along another axis|mixes samples")


def test_the_fault_that_these_refusals_are_for():
    """Refusals go when this fails: x + y for y (4, 1) is the sum in NumPy."""
    x, y = np.zeros((4, 4), "float32"), np.arange(4, dtype="float32")[:, None]
    assert not np.array_equal(ops.add(x, y), x + y)


@cases(
    vectors=(VECTOR, lambda h: L.Dot(axes=1)([h, ops.exp(h)])),
    matrices=((3, 4), lambda h: L.Dot(axes=(2, 1))([h, ops.transpose(ops.exp(h), (0, 2, 1))])),
    negative=((3, 4), lambda h: L.Dot(axes=-1)([h, ops.exp(h)])),
    mixed=((3, 4), lambda h: L.Dot(axes=(2, 1))([h, ops.exp(h[:, 0])])),
    mixed_negative=((3, 4), lambda h: L.Dot(axes=(-2, -1))([h, ops.exp(h[:, :3, 0])])),
    normalized=((3, 4), lambda h: L.Dot(axes=(2, 1), normalize=True)([h, ops.exp(h[:, 0])])),
    joined=((3, 4), lambda h: L.Concatenate(axis=1)([h, ops.exp(h)])),
    joined_negative=((3, 4), lambda h: L.Concatenate(axis=-2)([h, ops.exp(h)])),
    joined_twice=((3, 4), lambda h: L.Concatenate()([h, h, ops.exp(h)])),
)
def test_dot_and_concatenate(shape, build):
    """`axes` of one number, of two, negative ones, for ranks that differ; `normalize`; `axis`; axes
    of samples are refused.
    """
    assert_agrees(network(shape, build))


# --- keras.ops -----------------------------------------------------------------------------------


@cases(
    reshape=(IMAGE, lambda h: ops.reshape(h, (-1, 4, 15))),
    transpose=(IMAGE, lambda h: ops.transpose(h, (0, 3, 1, 2))),
    squeeze=((3, 1, 2), lambda h: ops.squeeze(h, axis=2)),
    expand=(SERIES, lambda h: ops.expand_dims(h, axis=(1, -1))),
    flip=(IMAGE, lambda h: ops.flip(ops.flip(h, axis=1), axis=-1)),
    moveaxis=(IMAGE, lambda h: ops.moveaxis(h, (1, 2), (2, 3))),
    swapaxes=(IMAGE, lambda h: ops.swapaxes(h, 1, -1)),
    concatenate=(SERIES, lambda h: ops.concatenate([h, ops.exp(h)], axis=-2)),
    stack=(SERIES, lambda h: ops.stack([h, ops.exp(h)], axis=2)),
    repeat=(SERIES, lambda h: ops.repeat(h, 2, axis=1)),
    tile=(SERIES, lambda h: ops.tile(h, (1, 2, 3))),
    slices=(IMAGE, lambda h: h[:, 1:4:2, -2:, 0]),
    backwards=(IMAGE, lambda h: h[:, ::-1]),
    ellipsis=(IMAGE, lambda h: h[..., 1]),
    new_axis=(SERIES, lambda h: h[:, None, :, -1]),
)
def test_function_moves(shape, build):
    """All arguments are those of the call; whatever moves samples is refused, see below."""
    assert_agrees(network(shape, build))


@cases(
    zeros=(SERIES, lambda h: ops.pad(h, [(0, 0), (1, 2), (0, 1)])),
    nines=(SERIES, lambda h: ops.pad(h, [(0, 0), (1, 2), (0, 1)], constant_values=9.0)),
    thirds=(SERIES, lambda h: ops.pad(h, [(0, 0), (1, 0), (0, 0)], constant_values=1 / 3)),
    reflect=(SERIES, lambda h: ops.pad(h, [(0, 0), (2, 1), (0, 1)], mode="reflect")),
    symmetric=(SERIES, lambda h: ops.pad(h, [(0, 0), (2, 1), (1, 0)], mode="symmetric")),
)
def test_pad(shape, build):
    """`pad_width`, `mode`, `constant_values`, which is an argument of the call."""
    assert_agrees(network(shape, build))


@cases(
    total=(SERIES, lambda h: ops.sum(h, axis=1)),
    totals=(IMAGE, lambda h: ops.sum(h, axis=(1, -1), keepdims=True)),
    mean=(IMAGE, lambda h: ops.mean(h, axis=(1, 2))),
    mean_kept=(SERIES, lambda h: ops.mean(h, axis=-1, keepdims=True)),
    negative=(SERIES, lambda h: -h),
    matrix=(SERIES, lambda h: ops.matmul(h, np.linspace(-1, 1, 6).reshape(3, 2))),
    operator=(SERIES, lambda h: h @ np.linspace(-1, 1, 6).reshape(3, 2).astype("float32")),
    variable=(SERIES, lambda h: ops.matmul(h, keras.Variable(np.ones((3, 2))))),
    softmax=(SERIES, lambda h: ops.softmax(h, axis=1)),
)
def test_sums(shape, build):
    """`axis`, `keepdims`."""
    assert_agrees(network(shape, build))


MATRIX, VALUES = np.linspace(-1, 1, 18).reshape(3, 6), np.linspace(-1, 1, 3)
TURNED = (0, 2, 1)


@cases(
    constant=(SERIES, lambda h: ops.matmul(h, MATRIX)),
    constant_first=(SERIES, lambda h: ops.matmul(MATRIX.astype("float32"), h)),
    operator=(SERIES, lambda h: h @ MATRIX.astype("float32")),
    variable=(SERIES, lambda h: ops.matmul(h, keras.Variable(MATRIX))),
    vector=(SERIES, lambda h: ops.matmul(h, VALUES)),
    vector_first=((3, 2), lambda h: ops.matmul(VALUES, h)),
    of_vectors=((3,), lambda h: ops.matmul(h, MATRIX)),
    matrices=(IMAGE, lambda h: ops.matmul(h, MATRIX[:, :3].reshape(1, 1, 3, 3))),
    different=(IMAGE, lambda h: ops.matmul(h, np.linspace(-1, 1, 60).reshape(1, 5, 3, 4))),
    moving=(SERIES, lambda h: ops.matmul(h, ops.transpose(ops.exp(h), TURNED))),
    moving_by_operator=((3, 3), lambda h: h @ h),
    moving_groups=((2, 3, 3), lambda h: ops.matmul(h[:, :1], ops.exp(h))),
    dot=(VECTOR, lambda h: ops.dot(h, np.linspace(-1, 1, 8).reshape(4, 2))),
    dot_vector=(SERIES, lambda h: ops.dot(h, VALUES)),
    dot_vector_first=((3, 2), lambda h: ops.dot(VALUES, h)),
    dot_matrices=(SERIES, lambda h: ops.dot(h, np.linspace(-1, 1, 30).reshape(2, 3, 5))),
)
def test_products_of_matrices(shape, build):
    """Either factor a constant of any rank and type, or both moving, with axes that broadcast."""
    assert_agrees(network(shape, build))


@cases(
    moving=(SERIES, lambda h: ops.einsum("nij,nkj->nik", h, ops.exp(h))),
    heads=(IMAGE, lambda h: ops.einsum("nqhd,nkhd->nhqk", h, ops.exp(h))),
    groups=(SERIES, lambda h: ops.einsum("nij,nij->nj", h, ops.exp(h))),
    outer=((2, 3), lambda h: ops.einsum("nij,nkl->nlkji", h, ops.exp(h))),
    summed_alone=(SERIES, lambda h: ops.einsum("nij,nkj->nj", h, ops.exp(h))),
    constant=(SERIES, lambda h: ops.einsum("nij,jk->nki", h, MATRIX)),
    constant_first=(SERIES, lambda h: ops.einsum("jk,nij->nki", MATRIX, h)),
    constant_groups=(SERIES, lambda h: ops.einsum("nij,ji->ni", h, MATRIX)),
    three=(SERIES, lambda h: ops.einsum("nij,jk,nkl->nil", h, MATRIX, ops.exp(h))),
    one=(SERIES, lambda h: ops.einsum("nij->nji", h)),
    one_summed=(SERIES, lambda h: ops.einsum("nij->nj", h)),
    dots=(IMAGE, lambda h: ops.einsum("...ij,...kj->...ik", h, ops.exp(h))),
    dots_constant=(IMAGE, lambda h: ops.einsum("...j,jk->...k", h, MATRIX)),
)
def test_einsum(shape, build):
    """`subscripts`, of one to three operands, with "...", constants anywhere."""
    assert_agrees(network(shape, build))


@cases(
    diagonal=((3, 3), lambda h: ops.einsum("nii->ni", h)),
    along_the_batch=((3, 3), lambda h: ops.einsum("nij,nij->ij", h, h)),
    batches=((3, 3), lambda h: ops.matmul(h, np.ones((2, 3, 3)))),
)
def test_other_products_are_refused(shape, build):
    assert_refused(network(shape, build), "cannot be bounded")


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "maximum", "minimum"])
@cases(
    number=(VECTOR, lambda f, h: f(h, 0.3)),
    number_first=(VECTOR, lambda f, h: f(2, h)),
    number_for_three=((4, 3), lambda f, h: f(h, 0.3)),
    vector=(SERIES, lambda f, h: f(h, np.array([1.0, -2.0, 0.1]))),
    vector_first=(SERIES, lambda f, h: f(np.array([1.0, -2.0, 0.1], "float32"), h)),
    with_batch_axis=(VECTOR, lambda f, h: f(h, C)),
    column=((3, 2), lambda f, h: f(h, np.array([[1.0], [2.0], [3.0]]))),
    enlarged=((1,), lambda f, h: f(h, np.array([[0.1, 0.2, 0.3]]))),
    two=(VECTOR, lambda f, h: f(h, ops.exp(h))),
    itself=(VECTOR, lambda f, h: f(h, h)),
)
def test_arithmetic(name, shape, build):
    """Either argument a number, an array that is aligned at the last axis, or a tensor; arrays
    along the batch axis are refused.
    """
    model = network(shape, lambda h: build(getattr(ops, name), h))
    assert_agrees(model)


@cases(
    number=(VECTOR, lambda h: h / 3),
    whole=(VECTOR, lambda h: ops.divide(h, 7)),
    vector=(VECTOR, lambda h: h / np.array([1.0, 3.0, -0.1, 10.0])),
    enlarged=((1,), lambda h: ops.true_divide(h, np.array([[1.0, 3.0]]))),
    by_tensor=(SERIES, lambda h: h / ops.sum(ops.exp(h), axis=-1, keepdims=True)),
    by_negative=(VECTOR, lambda h: h / (-1.0 - ops.exp(h))),
    of_constant=(VECTOR, lambda h: 2 / (2.0 + h)),
)
def test_division(shape, build):
    """By constants other than 0, and by tensors."""
    assert_agrees(network(shape, build))


@cases(
    by_zero=(VECTOR, lambda h: h / np.array([1.0, 0.0, 1.0, 1.0])),
    along_the_batch=((3, 3), lambda h: h * np.ones((3, 1, 1), "float32")),
    higher_rank=(VECTOR, lambda h: h * np.ones((2, 3, 4), "float32")),
)
def test_other_arithmetic_is_refused(shape, build):
    assert_refused(network(shape, build), "cannot be bounded|can be bounded")


FACTS = {
    "LeakyRelu": lambda h: ops.leaky_relu(h, negative_slope=0.7),
    "Elu": lambda h: ops.elu(h, alpha=2.0),
    "Celu": lambda h: ops.celu(h, alpha=0.4),
    "Gelu": lambda h: ops.gelu(h, approximate=False),
    "Gelu, by default approximate": ops.gelu,
    **{
        name: getattr(ops, name)
        for name in (
            *("relu", "relu6", "selu", "silu", "sigmoid", "hard_sigmoid", "hard_silu", "hard_tanh"),
            *("log_sigmoid", "tanh", "softplus", "softsign", "exp", "square", "abs", "absolute"),
        )
    },
}


@pytest.mark.parametrize("function", FACTS.values(), ids=FACTS)
def test_elementwise_functions(function):
    """`negative_slope`, `alpha`, `approximate`; the same formulas in both releases of Keras."""
    assert_agrees(network(VECTOR, lambda h: function(3.0 * h)))


def test_cast():
    """`dtype`: float32 and float64, others round and are refused."""
    assert_agrees(network(VECTOR, lambda h: ops.cast(ops.cast(h, "float64"), "float32")))
    for dtype in ("float16", "int32"):
        assert_refused(network(VECTOR, lambda h, to=dtype: ops.cast(h, to)), "Cast")


# --- what mixes samples --------------------------------------------------------------------------


@cases(
    flip=(VECTOR, ops.flip),
    flip_batch=(VECTOR, lambda h: ops.flip(h, axis=0)),
    flip_negative=(SERIES, lambda h: ops.flip(h, axis=-3)),
    concatenate=(VECTOR, lambda h: ops.concatenate([h, h], axis=0)),
    stack=(VECTOR, lambda h: ops.stack([h, h], axis=0)),
    total=(VECTOR, ops.sum),
    total_batch=(VECTOR, lambda h: ops.sum(h, axis=0)),
    mean=(VECTOR, lambda h: ops.mean(h, axis=0, keepdims=True)),
    transpose=(VECTOR, ops.transpose),
    moveaxis=(SERIES, lambda h: ops.moveaxis(h, 0, 1)),
    swapaxes=(SERIES, lambda h: ops.swapaxes(h, 0, 1)),
    expand=(VECTOR, lambda h: ops.expand_dims(h, 0)),
    repeat=(VECTOR, lambda h: ops.repeat(h, 2, axis=0)),
    tile=(VECTOR, lambda h: ops.tile(h, (2, 1))),
    rows=(VECTOR, lambda h: h[1:, :]),
    first_rows=(VECTOR, lambda h: h[:100, :]),
    backwards=(VECTOR, lambda h: h[::-1, :]),
    first=(SERIES, lambda h: h[0, :]),
    reshape=(SERIES, lambda h: ops.reshape(h, (-1, 3))),
    softmax=(VECTOR, lambda h: ops.softmax(h, axis=0)),
    softmax_all=(VECTOR, lambda h: ops.softmax(h, axis=None)),
    softmax_layer=(VECTOR, L.Softmax(axis=0)),
    softmax_axes=(VECTOR, L.Softmax(axis=(0, 1))),
    concatenate_layer=(VECTOR, lambda h: L.Concatenate(axis=0)([h, h])),
    layer_normalization=((2,), made(L.LayerNormalization, axis=[-2])),
    batch_normalization=((2,), made(L.BatchNormalization, axis=0)),
    normalization=((2,), made(L.Normalization, axis=0)),
    fixed=((2,), lambda h: ops.reshape(h, (4, 1, 2))),
    fixed_more=((2,), lambda h: ops.reshape(h, (2, 4))),
    pad=(VECTOR, lambda h: ops.pad(h, [(1, 0), (0, 0)])),
)
def test_what_mixes_samples_is_refused(shape, build):
    try:
        model = network(shape, build, batch_size=4)
    except ValueError:
        model = network(shape, build)
    assert_refused(model, "mixes samples")


@cases(
    dense=(VECTOR, L.Dense(3)),
    flatten=(SERIES, L.Flatten()),
    reshape=(SERIES, L.Reshape((9, 2))),
    reshape_function=(SERIES, lambda h: ops.reshape(h, (-1, 18))),
    constant=(VECTOR, lambda h: L.Add()([h, ops.exp(h)])),
)
def test_fixed_batches(shape, build):
    model = network(shape, build, batch_size=3)
    inputs = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")
    lower, upper = Verifier(model).bound_outputs(Box(inputs, inputs))
    outputs = model(inputs).numpy()
    np.testing.assert_allclose(lower, outputs, atol=1e-5)
    np.testing.assert_allclose(upper, outputs, atol=1e-5)


# --- arguments of calls --------------------------------------------------------------------------

BOOLS = np.array([[True, True, False, True]])


class Masks(L.Layer):
    supports_masking = True

    def call(self, inputs, mask=None):
        return inputs if mask is None else inputs * ops.cast(mask, inputs.dtype)


def nested(h, **arguments):
    return keras.Sequential([keras.Input(VECTOR), L.Dropout(0.5)], name="inner")(h, **arguments)


@cases(
    dropout=(VECTOR, lambda h: L.Dropout(0.5)(h, training=True)),
    noise=(VECTOR, lambda h: L.GaussianNoise(1.0)(h, training=True)),
    statistics=(VECTOR, lambda h: L.BatchNormalization()(h, training=True)),
    nested_dropout=(VECTOR, lambda h: nested(h, training=True)),
    masked_by_numbers=(VECTOR, lambda h: L.Softmax()(h, mask=ops.relu(h))),
    masked_of_an_own_layer=(VECTOR, lambda h: Masks()(h, mask=BOOLS)),
)
def test_arguments_that_change_the_result_are_refused(shape, build):
    register_affine(Masks)
    words = r"called with (training|mask)(=| of type).* cannot be\s+bounded"
    assert_refused(network(shape, build), words)


def test_masks_that_tensors_carry_are_refused():
    """Where layers select by them."""
    inputs = keras.Input((4, 2))
    masked = L.Masking(name="masked")(inputs)
    model = keras.Model(inputs, L.Maximum()([masked, masked]))
    with pytest.raises(UnsupportedLayerError, match="mask"):
        build_graph(model, find_rule)
    model = keras.Model(inputs, L.Dense(2)(masked))
    build_graph(model, find_rule)


def test_arguments_of_own_layers():
    from xcertify.bounds import register, register_affine

    @register_affine
    class Scaled(L.Layer):
        def call(self, inputs, factor=2.0):
            return factor * inputs

    @register_affine
    class Mirrored(L.Layer):
        def call(self, inputs):
            return inputs[::-1]

    class Sum(L.Layer):
        def call(self, first, second=None, factor=1.0):
            return first if second is None else first + factor * second

    assert_agrees(network(VECTOR, Scaled()))
    assert_agrees(network(VECTOR, lambda h: Scaled()(h, factor=2.0)))
    assert_refused(network(VECTOR, lambda h: Scaled()(h, factor=3.0)), "factor=3.0")
    assert_refused(network(VECTOR, Mirrored()), "mixes samples")

    def rule(layer, emit, first, second):
        factor = emit.arguments.settings.get("factor", 1.0)
        second = find_rule(L.Rescaling(1.0))(L.Rescaling(factor), emit, second)
        return find_rule(L.Add())(L.Add(), emit, first, second)

    register(Sum)(rule)
    model = network(VECTOR, lambda h: Sum()(h, second=ops.exp(h), factor=0.5))
    assert_refused(model, "second=")
    register(Sum, inputs=["second"], settings=["factor"])(rule)
    assert_agrees(model)
    assert_refused(network(VECTOR, Sum()), "number of tensors")


def test_own_layers_of_several_outputs():
    from xcertify.bounds import register

    class Halves(L.Layer):
        def call(self, inputs):
            return inputs[:, :2], inputs[:, 2:]

    def model(consumer):
        inputs = keras.Input(VECTOR)
        return keras.Model(inputs, consumer(Halves()(ops.tanh(inputs))))

    def halves(layer, emit, node):
        return [
            emit(Affine(lambda x: x[:, :2]), node),
            emit(Affine(lambda x: x[:, 2:]), node),
        ]

    register(Halves)(lambda layer, emit, node: node)
    assert_refused(model(lambda parts: parts[1]), "has 2 outputs, its rule gives 1")
    register(Halves)(halves)
    assert_agrees(model(L.Subtract()))


def test_subclasses_of_known_layers_are_refused_with_their_module():
    class Dense(L.Dense):
        def call(self, inputs):
            return -super().call(inputs)

    assert_refused(network(VECTOR, Dense(2)), r"of class test_rules\.Dense cannot be bounded")


def test_failing_rules_are_refusals():
    from xcertify.bounds import register

    class Broken(L.Layer):
        def call(self, inputs):
            return inputs

    @register(Broken)
    def rule(layer, emit, node):
        return emit.missing

    assert_refused(network(VECTOR, Broken()), "Broken.*rule failed.*missing")


# --- graphs --------------------------------------------------------------------------------------


def two_inputs(names=("b", "a")):
    first, second = (keras.Input((2,), name=name) for name in names)
    return first, second, L.Subtract()([L.Dense(2)(first), ops.exp(second)])


@pytest.mark.parametrize("form", ["list", "tuple", "dict", "dict for a list", "other order"])
def test_inputs_of_nested_models_are_associated_as_keras_does(form):
    b, a, outputs = two_inputs()
    as_dict = form in ("dict", "other order")
    inner = keras.Model({"b": b, "a": a} if as_dict else [b, a], outputs, name="inner")
    inputs = keras.Input((4,))
    x, y = ops.tanh(inputs[:, :2]), ops.tanh(inputs[:, 2:])
    given = {
        "list": [x, y],
        "tuple": (x, y),
        "dict": {"b": x, "a": y},
        "dict for a list": {"a": y, "b": x},
        "other order": {"a": y, "b": x},
    }[form]
    assert_agrees(randomize(keras.Model(inputs, inner(given)), 0))
    assert_agrees(randomize(keras.Model(inputs, inner(inputs=given)), 0))


def test_nested_models_that_are_called_otherwise_are_refused():
    inputs = keras.Input((2,))
    expanding = keras.Sequential([keras.Input((2, 1)), L.Flatten()], name="inner")
    assert_refused(keras.Model(inputs, expanding(inputs)), "nested model 'inner'")
    rounding = keras.Sequential([keras.Input((2,), dtype="int32"), L.Flatten()], name="inner")
    assert_refused(keras.Model(inputs, rounding(inputs)), "rounds")
    assert_refused(keras.Model(inputs, L.Dense(2, dtype="int32")(inputs)), "rounds")


def test_nested_models_of_several_outputs():
    inner_inputs = keras.Input((2,))
    inner = keras.Model(inner_inputs, [L.Dense(2)(inner_inputs), ops.exp(inner_inputs)], name="two")
    inputs = keras.Input((2,))
    first, second = inner(ops.tanh(inputs))
    model = randomize(keras.Model(inputs, L.Subtract()([second, first])), 0)
    assert_agrees(model)
    region = Box(np.zeros((1, 2)), np.ones((1, 2)))
    with pytest.raises(ValueError, match="'two', which has 2 outputs"):
        Verifier(model).bound_layer(region, "two")


def test_layers_called_twice_are_ambiguous():
    shared, inputs = L.Dense(2, name="shared"), keras.Input((2,))
    block = keras.Sequential([keras.Input((2,)), L.Dense(2, name="inside")], name="block")
    model = keras.Model(inputs, block(shared(block(shared(inputs)))))
    verifier = Verifier(model)
    region = Box(np.zeros((1, 2)), np.ones((1, 2)))
    for name in ("shared", "block", "block/inside"):
        with pytest.raises(ValueError, match=f"'{name}', which is called more than once"):
            verifier.bound_layer(region, name)


def test_equal_names_at_other_depths_are_kept_apart():
    inner = keras.Sequential([keras.Input((2,)), L.Dense(2, name="same")], name="inner")
    inputs = keras.Input((2,))
    model = randomize(keras.Model(inputs, inner(L.Dense(2, name="same")(inputs))), 0)
    verifier, x = Verifier(model), np.array([[0.5, -1.0]], "float32")
    outer = model.get_layer("same")(x).numpy()
    np.testing.assert_allclose(verifier.bound_layer(Box(x, x), "same")[0], outer, atol=1e-6)
    np.testing.assert_allclose(
        verifier.bound_layer(Box(x, x), "inner/same")[0], model(x), atol=1e-6
    )


def test_models_of_keras_2_are_refused():
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))])
    with pytest.raises(UnsupportedLayerError, match=r"Keras 2.*load_model"):
        Verifier(model)


# --- global settings and types -------------------------------------------------------------------


@cases(
    convolution=((3, 6, 5), made(L.Conv2D, 2, 2)),
    depthwise=((2, 6, 5), made(L.DepthwiseConv2D, 2)),
    separable=((2, 6, 5), made(L.SeparableConv2D, 2, 2)),
    transposed=((2, 3, 4), made(L.Conv2DTranspose, 3, 2)),
    pooling=((3, 6, 5), made(L.MaxPooling2D)),
    average=((3, 6, 5), made(L.AveragePooling2D, 2)),
    global_average=((3, 6, 5), made(L.GlobalAveragePooling2D)),
    global_largest=((3, 6, 5), made(L.GlobalMaxPooling2D)),
    flatten=((3, 2, 4), made(L.Flatten)),
    padding=((3, 2, 4), made(L.ZeroPadding2D, 1)),
    cropping=((3, 3, 4), made(L.Cropping2D, 1)),
    nearest=((2, 3, 2), made(L.UpSampling2D, 2)),
    series=((2, 7), made(L.Conv1D, 3, 2)),
    spatial_dropout=((2, 3, 4), made(L.SpatialDropout2D, 0.5)),
    normalization=((2, 3, 4), made(L.BatchNormalization)),
    own_format=((6, 5, 3), made(L.Conv2D, 2, 2, data_format="channels_last")),
)
def test_global_data_format(shape, build, channels_first):
    """Layers keep the format that was set when they were made; `Rescaling` reads it when called."""
    assert_agrees(network(shape, build))


@pytest.mark.parametrize("dtype", ["float64", "float16", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["Dense", "LayerNormalization", "BatchNormalization", "Rescaling"])
def test_types(name, dtype):
    """Values are those of the network in real arithmetic, whatever it computes in."""
    arguments = {"Dense": (3,), "Rescaling": (0.5, 0.25)}.get(name, ())
    inputs = keras.Input(VECTOR)
    model = keras.Model(inputs, getattr(L, name)(*arguments, dtype=dtype)(inputs))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    found = graph_values(randomize(model, 0), x)
    tolerance = 1e-6 if dtype == "float64" else 5e-2
    np.testing.assert_allclose(found, ops.cast(model(x), "float64"), atol=tolerance, rtol=tolerance)


def test_float64_as_global_type():
    before = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        model = network(SERIES, lambda h: L.Dense(2)(L.LayerNormalization()(L.Conv1D(3, 2)(h))))
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy(before)
    assert model.outputs[0].dtype == "float64"
    assert_agrees(model, 1e-6)
