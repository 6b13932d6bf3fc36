"""Small networks, at least one for every supported layer and activation."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import layers as L

from xcertify.bounds.rules.identities import AUGMENTATIONS
from xcertify.keras_graph import LayerScale, StochasticDepth

NETWORKS: dict[str, Callable[[], keras.Model]] = {}


def network(build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    """Register a builder under its name."""
    NETWORKS[build.__name__] = build
    return build


def randomize(model: keras.Model, seed: int) -> keras.Model:
    """Weights that are neither small nor symmetric, from a seed of their own."""
    generator = np.random.default_rng(seed)
    weights = []
    for variable in model.weights:
        shape = tuple(variable.shape)
        fan_in = max(1, int(np.prod(shape[:-1])))
        values = generator.normal(0.1, 1.0, shape) / np.sqrt(fan_in)
        if "variance" in variable.path:
            values = generator.uniform(0.2, 2.0, shape)
        weights.append(values.astype("float32"))
    model.set_weights(weights)
    return model


def sequential(shape: tuple[int, ...], *layers: L.Layer, seed: int = 0) -> keras.Model:
    """A Sequential model with random weights."""
    return randomize(keras.Sequential([keras.Input(shape), *layers]), seed)


def functional(inputs: object, outputs: object, seed: int = 0) -> keras.Model:
    """A functional model with random weights."""
    return randomize(keras.Model(inputs, outputs), seed)


@network
def dense_relu() -> keras.Model:
    return sequential((5,), L.Dense(9, "relu"), L.Dense(8, "relu"), L.Dense(3))


@network
def dense_relu_as_layers() -> keras.Model:
    return sequential(
        (5,), L.Dense(9), L.Activation("relu"), L.Dense(8, use_bias=False), L.ReLU(), L.Dense(3)
    )


@network
def dense_leaky_relu() -> keras.Model:
    return sequential(
        (5,),
        L.Dense(9, "leaky_relu"),
        L.Dense(8),
        L.LeakyReLU(negative_slope=0.3),
        L.Dense(8),
        L.ReLU(negative_slope=0.1),
        L.Dense(3),
    )


@network
def dense_sigmoid() -> keras.Model:
    return sequential((5,), L.Dense(9, "sigmoid"), L.Dense(8, "sigmoid"), L.Dense(3))


@network
def dense_tanh() -> keras.Model:
    return sequential((5,), L.Dense(9), L.Activation("tanh"), L.Dense(8, "tanh"), L.Dense(3))


@network
def sigmoid_output() -> keras.Model:
    return sequential((5,), L.Dense(9, "relu"), L.Dense(1, "sigmoid"))


@network
def softmax_output() -> keras.Model:
    return sequential((5,), L.Dense(9, "relu"), L.Dense(3, "softmax"))


@network
def softmax_layer_output() -> keras.Model:
    return sequential((5,), L.Dense(9, "relu"), L.Dense(3), L.Softmax())


@network
def dense_on_time_series() -> keras.Model:
    return sequential((4, 3), L.Dense(5, "relu"), L.Flatten(), L.Dense(6, "tanh"), L.Dense(3))


@network
def convolutions() -> keras.Model:
    return sequential(
        (6, 7, 2),
        L.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
        L.Conv2D(3, (2, 3), activation="relu"),
        L.Flatten(),
        L.Dense(3),
    )


@network
def convnext_block() -> keras.Model:
    inputs = keras.Input((4, 4, 2))
    x = L.LayerNormalization(epsilon=1e-6)(L.DepthwiseConv2D(3, padding="same")(inputs))
    x = L.Dense(2)(L.Dense(4, "gelu")(x))
    x = StochasticDepth(0.5)(LayerScale(1e-6, 2)(x))
    return functional(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x + inputs)))


@network
def batch_normalization() -> keras.Model:
    return sequential(
        (6, 6, 2),
        L.BatchNormalization(),
        L.Conv2D(3, 3, use_bias=False),
        L.BatchNormalization(),
        L.ReLU(),
        L.Flatten(),
        L.Dense(6),
        L.BatchNormalization(scale=False),
        L.Activation("sigmoid"),
        L.Dropout(0.5),
        L.Dense(3),
    )


@network
def max_pooling() -> keras.Model:
    return sequential(
        (7, 6, 1),
        L.Conv2D(3, 3, padding="same", activation="relu"),
        L.MaxPooling2D(2),
        L.Conv2D(4, 2, activation="tanh"),
        L.MaxPooling2D(2, strides=1, padding="same"),
        L.Flatten(),
        L.Dense(3),
    )


@network
def max_pooling_before_activation() -> keras.Model:
    return sequential(
        (7, 7, 1),
        L.Conv2D(3, 2),
        L.MaxPooling2D(3, strides=2, padding="same"),
        L.ReLU(),
        L.Conv2D(3, 2),
        L.GlobalMaxPooling2D(),
        L.Dense(3),
    )


@network
def average_pooling() -> keras.Model:
    return sequential(
        (7, 6, 2),
        L.Conv2D(4, 2, activation="relu"),
        L.AveragePooling2D(2, padding="same"),
        L.Conv2D(4, 2, activation="relu"),
        L.GlobalAveragePooling2D(),
        L.Dense(3),
    )


@network
def reshape() -> keras.Model:
    return sequential(
        (12,),
        L.Dense(12, "relu"),
        L.Reshape((2, 3, 2)),
        L.Conv2D(3, 2, activation="relu"),
        L.GlobalAveragePooling2D(keepdims=True),
        L.Flatten(),
        L.Dense(2),
    )


@network
def residual() -> keras.Model:
    inputs = keras.Input((5, 5, 2))
    x = L.Conv2D(3, 3, padding="same", activation="relu")(inputs)
    y = L.Conv2D(3, 3, padding="same")(x)
    x = L.ReLU()(L.Add()([x, y]))
    y = L.Conv2D(3, 1)(x)
    x = L.Add()([x, y, x])
    return functional(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(L.Activation("tanh")(x))))


@network
def branches() -> keras.Model:
    inputs = keras.Input((6,))
    left = L.Dense(5, "relu")(inputs)
    right = L.Dense(4, "sigmoid")(L.Dense(5, "relu")(left))
    x = L.Concatenate()([left, right, inputs])
    return functional(inputs, L.Dense(3)(L.Dense(6, "relu")(x)))


@network
def nested_and_shared() -> keras.Model:
    inner_inputs = keras.Input((4,))
    inner = keras.Model(inner_inputs, L.Dense(4, "relu")(L.Dense(5, "tanh")(inner_inputs)))
    block = keras.Sequential([keras.Input((4,)), L.Dense(4, "relu"), inner])
    shared = L.Dense(4, "relu")
    inputs = keras.Input((4,))
    x = shared(inputs)
    x = L.Add()([block(x), shared(x)])
    return functional(inputs, L.Dense(2)(block(x)))


def _activation_network(name: str) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        return sequential((4,), L.Dense(6, name), L.Dense(5, name), L.Dense(3))

    return build


for _name in (
    *("relu6", "elu", "selu", "celu", "gelu", "silu", "hard_sigmoid", "hard_silu", "hard_tanh"),
    *("log_sigmoid", "softplus", "softsign", "mish", "exponential", "soft_shrink"),
    *("sparse_plus", "sparse_sigmoid", "tanh_shrink"),
):
    NETWORKS[f"dense_{_name}"] = _activation_network(_name)


@network
def parametric_activations() -> keras.Model:
    return sequential(
        (5,),
        L.Dense(6),
        L.PReLU(),
        L.Dense(6),
        L.ELU(alpha=0.7),
        L.Dense(6),
        L.ReLU(max_value=0.5, negative_slope=0.1, threshold=0.2),
        L.Dense(6),
        L.ReLU(max_value=1.0),
        L.Dense(3),
    )


@network
def shared_prelu_on_images() -> keras.Model:
    return sequential(
        (5, 5, 2), L.Conv2D(3, 2), L.PReLU(shared_axes=[1, 2]), L.Flatten(), L.Dense(3)
    )


@network
def softmax_inside() -> keras.Model:
    return sequential(
        (4,), L.Dense(5, "softmax"), L.Dense(4), L.Softmax(), L.Dense(4, "relu"), L.Dense(2)
    )


@network
def softmax_over_two_axes() -> keras.Model:
    return sequential(
        (3, 4),
        L.Dense(3),
        L.Softmax(axis=(-1, 1)),
        L.BatchNormalization(center=False),
        L.Flatten(),
        L.Dense(4, "relu"),
        L.Dense(2),
    )


@network
def einsum_dense() -> keras.Model:
    return sequential(
        (4, 3),
        L.EinsumDense("abc,cd->abd", (4, 5), bias_axes="d", activation="relu"),
        L.EinsumDense("abc,cde->abde", (4, 2, 2), activation="tanh"),
        L.Flatten(),
        L.Dense(3),
    )


@network
def convolution_1d() -> keras.Model:
    return sequential(
        (9, 2),
        L.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu"),
        L.Conv1D(4, 3, strides=2, padding="same", activation="tanh"),
        L.MaxPooling1D(2),
        L.Conv1D(3, 2, activation="relu"),
        L.GlobalMaxPooling1D(),
        L.Dense(3),
    )


@network
def convolution_3d() -> keras.Model:
    return sequential(
        (4, 5, 4, 1),
        L.Conv3D(3, 2, activation="relu"),
        L.MaxPooling3D((1, 2, 1)),
        L.Conv3D(2, 2, padding="same", activation="relu"),
        L.MaxPooling3D((2, 1, 2)),
        L.GlobalAveragePooling3D(),
        L.Dense(3),
    )


@network
def dilated_and_grouped() -> keras.Model:
    return sequential(
        (7, 7, 2),
        L.Conv2D(4, 3, dilation_rate=2, activation="relu"),
        L.Conv2D(4, 2, groups=2, activation="relu"),
        L.Flatten(),
        L.Dense(3),
    )


@network
def transposed_convolutions() -> keras.Model:
    return sequential(
        (3, 3, 2),
        L.Conv2DTranspose(3, 3, strides=2, padding="same", activation="relu"),
        L.Conv2DTranspose(2, 2, activation="relu"),
        L.Reshape((49, 2)),
        L.Conv1DTranspose(2, 3, strides=2, activation="relu"),
        L.Flatten(),
        L.Dense(3),
    )


@network
def transposed_convolution_3d() -> keras.Model:
    return sequential(
        (2, 2, 2, 1), L.Conv3DTranspose(2, 2, strides=2, activation="relu"), L.Flatten(), L.Dense(2)
    )


@network
def depthwise_and_separable() -> keras.Model:
    return sequential(
        (7, 7, 2),
        L.DepthwiseConv2D(3, depth_multiplier=2, strides=2, padding="same", activation="relu"),
        L.SeparableConv2D(3, 2, depth_multiplier=2, activation="relu"),
        L.Reshape((9, 3)),
        L.DepthwiseConv1D(3, padding="same", activation="relu"),
        L.SeparableConv1D(4, 3, padding="same", activation="tanh"),
        L.Flatten(),
        L.Dense(3),
    )


# TensorFlow computes these in float32 (average pooling in 3D) or not at all (channels first) on a
# CPU in float64: their twins below are built of other layers and compared with.
TWINS: dict[str, Callable[[keras.Model], keras.Model]] = {}
RESIZED = ("padding_cropping_upsampling", "resizings")  # in float32 as well, in any type


def twin(build: Callable[[keras.Model], keras.Model]) -> Callable[[keras.Model], keras.Model]:
    """Register a function that builds a model of the same weights and values."""
    TWINS[build.__name__.removesuffix("_twin")] = build
    return build


@network
def average_pooling_3d() -> keras.Model:
    return sequential(
        (4, 5, 4, 1),
        L.Conv3D(3, 2, activation="relu"),
        L.AveragePooling3D((1, 2, 1)),
        L.Flatten(),
        L.Dense(3),
    )


@twin
def average_pooling_3d_twin(model: keras.Model) -> keras.Model:
    inputs = keras.Input((4, 5, 4, 1))
    x = L.Conv3D(3, 2, activation="relu")(inputs)
    x = (x[:, :, 0:4:2] + x[:, :, 1:4:2]) / 2
    copy = keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))
    copy.set_weights(model.get_weights())
    return copy


@twin
def convolution_3d_twin(model: keras.Model) -> keras.Model:
    ops = keras.ops
    inputs = keras.Input((4, 5, 4, 1))
    x = L.Conv3D(3, 2, activation="relu")(inputs)
    x = ops.maximum(x[:, :, 0::2], x[:, :, 1::2])
    x = L.Conv3D(2, 2, padding="same", activation="relu")(x)
    x = ops.maximum(x[:, 0:2:2], x[:, 1:2])
    x = ops.maximum(x[:, :, :, 0:2:2], x[:, :, :, 1:2])
    copy = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling3D()(x)))
    copy.set_weights(model.get_weights())
    return copy


@twin
def dilated_and_grouped_twin(model: keras.Model) -> keras.Model:
    weights = model.get_weights()
    kernel = np.zeros((2, 2, 4, 4), "float32")
    kernel[:, :, :2, :2], kernel[:, :, 2:, 2:] = np.split(weights[2], 2, axis=-1)
    copy = keras.Sequential(
        [
            keras.Input((7, 7, 2)),
            L.Conv2D(4, 3, dilation_rate=2, activation="relu"),
            L.Conv2D(4, 2, activation="relu"),
            L.Flatten(),
            L.Dense(3),
        ]
    )
    copy.set_weights([*weights[:2], kernel, *weights[3:]])
    return copy


@twin
def channels_first_twin(model: keras.Model) -> keras.Model:
    inputs = keras.Input((2, 6, 7))
    x = L.Permute((2, 3, 1))(inputs)
    for layer in model.layers:
        config = layer.get_config()
        if isinstance(layer, L.BatchNormalization):
            config["axis"] = -1
        elif "data_format" in config:
            config["data_format"] = "channels_last"
        x = type(layer).from_config(config)(x)
    copy = keras.Model(inputs, x)
    copy.set_weights(model.get_weights())
    return copy


@twin
def channels_first_mixed_axes_twin(model: keras.Model) -> keras.Model:
    inputs = keras.Input((2, 6, 6))
    x = L.Conv2D(3, 3, activation="relu")(L.Permute((2, 3, 1))(inputs))
    y = L.Permute((1, 3, 2))(L.Dense(4, "relu")(L.Permute((1, 3, 2))(x)))
    x = L.Conv2D(4, 2, activation="relu")(L.Concatenate()([x, y]))
    copy = keras.Model(inputs, L.Dense(2)(L.GlobalMaxPooling2D()(x)))
    copy.set_weights(model.get_weights())
    return copy


@network
def channels_first() -> keras.Model:
    return sequential(
        (2, 6, 7),
        L.Conv2D(4, 3, data_format="channels_first", activation="relu"),
        L.BatchNormalization(axis=1),
        L.MaxPooling2D(2, data_format="channels_first"),
        L.SeparableConv2D(3, 2, padding="same", data_format="channels_first", activation="relu"),
        L.AveragePooling2D((2, 1), data_format="channels_first"),
        L.Conv2DTranspose(2, 2, data_format="channels_first", activation="relu"),
        L.GlobalAveragePooling2D(data_format="channels_first"),
        L.Dense(3),
    )


@network
def channels_first_mixed_axes() -> keras.Model:
    inputs = keras.Input((2, 6, 6))
    x = L.Conv2D(3, 3, data_format="channels_first", activation="relu")(inputs)
    y = L.Dense(4, "relu")(x)  # mixes locations, not channels
    x = L.Concatenate(axis=1)([x, y])
    x = L.Conv2D(4, 2, data_format="channels_first", activation="relu")(x)
    x = L.GlobalMaxPooling2D(data_format="channels_first", keepdims=True)(x)
    return functional(inputs, L.Dense(2)(L.Flatten(data_format="channels_first")(x)))


@network
def padding_cropping_upsampling() -> keras.Model:
    return sequential(
        (4, 5, 2),
        L.ZeroPadding2D(((1, 0), (2, 1))),
        L.Conv2D(3, 3, activation="relu"),
        L.UpSampling2D((2, 1)),
        L.Conv2D(3, 2, activation="relu"),
        L.UpSampling2D(2, interpolation="bilinear"),
        L.Cropping2D(((1, 2), (0, 3))),
        L.Conv2D(2, 2, activation="relu"),
        L.Flatten(),
        L.Dense(3),
    )


@network
def padding_cropping_upsampling_1d_3d() -> keras.Model:
    return sequential(
        (6, 2),
        L.ZeroPadding1D(2),
        L.Conv1D(3, 3, activation="relu"),
        L.UpSampling1D(2),
        L.Cropping1D((2, 2)),
        L.AveragePooling1D(2),
        L.Flatten(),
        L.Dense(8, "relu"),
        L.Reshape((2, 2, 2, 1)),
        L.ZeroPadding3D(1),
        L.UpSampling3D((1, 2, 1)),
        L.Cropping3D(1),
        L.GlobalMaxPooling3D(),
        L.Dense(3),
    )


@network
def normalizations() -> keras.Model:
    return sequential(
        (4, 3),
        L.Rescaling(2.0, offset=-0.5),
        L.Dense(4),
        L.LayerNormalization(),
        L.Activation("relu"),
        L.Dense(3),
        L.LayerNormalization(axis=[1, 2]),
        L.Permute((2, 1)),
        L.Flatten(),
        L.RepeatVector(2),
        L.Flatten(),
        L.Dense(3),
    )


@network
def normalization_layer() -> keras.Model:
    return sequential(
        (4,), L.Normalization(mean=[0.1, 0.2, -0.3, 1.0], variance=[1.0, 0.5, 2.0, 0.1]),
        L.Dense(5, "relu"),
        L.Normalization(axis=None, mean=0.5, variance=2.0, invert=True),
        L.Dense(2),
    )  # fmt: skip


@network
def merges() -> keras.Model:
    inputs = keras.Input((4,))
    a, b = L.Dense(5, "relu")(inputs), L.Dense(5, "tanh")(inputs)
    c = L.Multiply()([a, b])
    d = L.Maximum()([a, b, c])
    e = L.Minimum()([b, c])
    f = L.Subtract()([d, e])
    g = L.Average()([f, a, b])
    h = L.Multiply()([g, L.Dense(1)(inputs)])
    i = L.Dot(axes=1)([h, f])
    return functional(inputs, L.Dense(3)(L.Concatenate()([h, i])))


@network
def identities() -> keras.Model:
    return sequential(
        (4, 3),
        L.GaussianNoise(0.5),
        L.SpatialDropout1D(0.5),
        L.Identity(),
        L.Conv1D(3, 2, activation="relu"),
        L.ActivityRegularization(0.1),
        L.GaussianDropout(0.3),
        L.AlphaDropout(0.2),
        L.Reshape((3, 3, 1)),
        L.SpatialDropout2D(0.3),
        L.Reshape((3, 3, 1, 1)),
        L.SpatialDropout3D(0.3),
        L.Flatten(),
        L.Dense(3),
    )


@network
def functions() -> keras.Model:
    ops = keras.ops
    inputs = keras.Input((4, 3))
    x = ops.relu(L.Dense(4)(inputs)) * 2.0 + 0.5
    x = ops.transpose(x, (0, 2, 1)) / 3.0 - ops.sum(x, axis=1, keepdims=True)[:, :, :1]
    x = ops.concatenate([x, -x], axis=2)[:, 1:]
    x = ops.matmul(x, np.linspace(-1, 1, 24).reshape(8, 3).astype("float32"))
    x = ops.gelu(ops.mean(x, axis=2)) + x[:, :, 0]
    return functional(inputs, L.Dense(2)(ops.pad(x, [[0, 0], [1, 0]])))


@network
def function_products() -> keras.Model:
    ops = keras.ops
    inputs = keras.Input((4,))
    x = L.Dense(3)(inputs)
    y = ops.maximum(ops.tanh(x), ops.minimum(1.0 - x, 0.7)) * ops.sigmoid(x)
    return functional(inputs, L.Dense(2)(ops.square(y) + ops.abs(x) + ops.silu(x)))


@network
def products_of_matrices() -> keras.Model:
    ops = keras.ops
    inputs = keras.Input((4, 3))
    query, key, value = (L.Dense(4)(inputs) for _ in range(3))
    shares = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 2, 1))) / 2.0)
    x = ops.einsum("nqk,nkd->nqd", shares, value)
    x = x / (1.0 + ops.exp(ops.dot(x, np.linspace(-1, 1, 4).astype("float32")))[..., None])
    return functional(inputs, L.Dense(2)(L.Flatten()(x)))


@network
def square_map_with_two_paths() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(3, 3, padding="same", activation="relu")(inputs)
    y = L.Conv2D(3, 3, padding="same", activation="relu")(x)
    y = L.Concatenate()([L.Conv2D(2, 3, padding="same")(y), x])
    x = L.Conv2D(3, 2, strides=2, activation="relu")(y)
    return functional(inputs, L.Dense(3)(L.Flatten()(L.Conv2D(2, 2, activation="relu")(x))))


@network
def function_activations() -> keras.Model:
    ops = keras.ops
    inputs = keras.Input((4,))
    x = L.Dense(4)(inputs)
    curves = [
        ops.exp(0.5 * x),
        ops.hard_tanh(x),
        ops.hard_silu(x),
        ops.hard_sigmoid(x),
        ops.log_sigmoid(x),
        ops.softsign(x),
        ops.leaky_relu(x, negative_slope=0.1),
        ops.elu(x, alpha=0.8),
        ops.selu(x),
        ops.celu(x, alpha=1.5),
        ops.relu6(x),
        ops.softplus(x),
        ops.softmax(x),
        ops.gelu(x, approximate=True),
        ops.soft_shrink(x, threshold=0.2),
        ops.sparse_plus(x),
        ops.sparse_sigmoid(x),
        ops.tanh_shrink(x),
    ]
    return functional(inputs, L.Dense(3)(ops.concatenate(curves, axis=1)))


@network
def function_moves() -> keras.Model:
    ops = keras.ops
    inputs = keras.Input((4, 3))
    x = L.GlobalAveragePooling1D()(L.Conv1D(4, 2, activation="relu")(inputs))
    x = ops.stack([ops.flip(x, axis=1), ops.divide(x, 3.0), ops.repeat(x, 2, axis=1)[:, ::2]], 1)
    x = ops.swapaxes(ops.moveaxis(ops.expand_dims(x, 1), 1, 3), 1, 2)
    x = ops.tile(ops.squeeze(x, 3), (1, 1, 2))
    x = ops.dot(ops.reshape(x, (-1, 24)), np.linspace(-1, 1, 72).reshape(24, 3).astype("float32"))
    return functional(inputs, L.Dense(2)(ops.relu(x)))


@network
def attention() -> keras.Model:
    ops = keras.ops
    inputs = keras.Input((3, 4))
    places = ops.ones_like(inputs[:, :, 0]) * np.arange(3.0, dtype="float32")
    x = ops.tanh(inputs) + L.Embedding(3, 4)(places)
    x = L.MultiHeadAttention(2, 2)(x, x, use_causal_mask=True) + x
    x = L.GroupQueryAttention(2, 2, 1)(x, x)
    return functional(inputs, L.Dense(2)(L.Flatten()(x)))


@network
def attention_without_heads() -> keras.Model:
    inputs = keras.Input((3, 2))
    x = L.Attention()([inputs, L.Dense(2)(inputs)])
    return functional(inputs, L.Dense(2)(L.Flatten()(L.AdditiveAttention()([x, inputs]))))


@network
def masks() -> keras.Model:
    ops = keras.ops
    inputs = keras.Input((3, 2))
    first, second = inputs[:, :, :1], inputs[:, :, 1:]
    far = ops.logical_or(ops.greater(first, 0.4), ops.less(first, -0.4))
    near = ops.logical_and(ops.less_equal(first, second), ops.greater_equal(1.0, second))
    same = ops.logical_not(ops.equal(first, ops.zeros_like(second)))
    mask = ops.any(ops.stack([far, near, ops.logical_and(far, same)], axis=3), axis=3)
    mask = ops.convert_to_tensor(ops.all(ops.concatenate([mask, mask], 2), axis=2), "bool")
    x = L.MultiHeadAttention(1, 2)(inputs, inputs, attention_mask=ops.expand_dims(mask, 1))
    x = L.Softmax()(x, mask=ops.not_equal(inputs, 0.3))
    x = L.Add()([L.Masking(0.2)(inputs), L.Masking()(x)])
    return functional(inputs, L.Dense(2)(ops.reshape(x, (-1, 6))))


@network
def normalizations_by_squares() -> keras.Model:
    return sequential(
        (4, 4, 4),
        L.Conv2D(6, 2),
        L.GroupNormalization(3),
        L.Conv2D(4, 2, activation="relu"),
        L.RMSNormalization(),
        L.Flatten(),
        L.Dense(6),
        L.UnitNormalization(),
        L.Dense(3),
    )


@network
def function_scalars() -> keras.Model:
    ops = keras.ops
    inputs = keras.Input((4,))
    x = L.Dense(3)(inputs)
    positive = ops.softplus(x) + 0.3
    curves = [
        ops.sqrt(positive),
        ops.rsqrt(positive),
        ops.reciprocal(positive),
        ops.log(positive),
        ops.log1p(positive),
        ops.log2(positive),
        ops.log10(positive),
        ops.expm1(x),
        ops.sin(x),
        ops.cos(x),
        ops.erf(x),
        ops.clip(x, -0.5, 0.7),
        x**3,
        positive**-1.5,
        ops.where(np.array([True, False, True]), x, 0.5),
    ]
    return functional(inputs, L.Dense(3)(ops.concatenate(curves, axis=1)))


@network
def function_jumps() -> keras.Model:
    ops = keras.ops
    inputs = keras.Input((4,))
    x = L.Dense(3)(inputs)
    parts = [ops.sign(x), ops.where(x > 0.1, x, 0.2 * x)]
    return functional(inputs, L.Dense(2)(ops.concatenate(parts, axis=1)))


@network
def function_reductions() -> keras.Model:
    ops = keras.ops
    inputs = keras.Input((4, 3))
    x = L.Dense(3)(inputs)
    parts = [
        ops.max(x, axis=1),
        ops.min(x, axis=1),
        ops.amax(x, axis=1),
        ops.amin(x, axis=1),
        ops.prod(x, axis=1),
        ops.var(x, axis=1),
        ops.std(x + np.array([[0.0], [2.0], [4.0], [6.0]], "float32"), axis=1),
        ops.logsumexp(x, axis=(1,)),
        ops.norm(ops.softplus(x), axis=1),
        ops.reshape(ops.cumsum(x, axis=1), (-1, 12)),
        ops.reshape(ops.log_softmax(x, axis=1), (-1, 12)),
        ops.reshape(ops.normalize(x, axis=1), (-1, 12)),
        ops.reshape(ops.rms_normalization(x, axis=-1), (-1, 12)),
    ]
    return functional(inputs, L.Dense(3)(ops.concatenate(parts, axis=1)))


@network
def resizings() -> keras.Model:
    return sequential(
        (6, 5, 2),
        L.Resizing(5, 7),
        L.Conv2D(3, 2, activation="relu"),
        L.CenterCrop(2, 4),
        L.SpectralNormalization(L.Conv2D(2, 2)),
        L.Activation("tanh"),
        L.Flatten(),
        L.Dense(2),
    )


# What the augmenting layers need to be made.
_AUGMENTED = {
    "RandomBrightness": {"factor": 0.5},
    "RandomColorDegeneration": {"factor": 0.5},
    "RandomContrast": {"factor": 0.5},
    "RandomHue": {"factor": 0.2},
    "RandomPosterization": {"factor": 4},
    "RandomRotation": {"factor": 0.3},
    "RandomSaturation": {"factor": 0.5},
    "RandomSharpness": {"factor": 0.5},
    "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
    "RandomZoom": {"height_factor": 0.2},
}


# No network can hold it there: Keras 3.10 says that its output is its input, a circle.
NO_NETWORK = {"RandomGrayscale"} if keras.__version__.startswith("3.10.") else set()


@network
def augmentations() -> keras.Model:
    kinds = [kind for kind in AUGMENTATIONS if kind.__name__ not in NO_NETWORK]
    layers = [kind(**_AUGMENTED.get(kind.__name__, {})) for kind in kinds]
    return sequential(
        (4, 4, 3), *layers, L.Conv2D(2, 3, activation="relu"), L.Flatten(), L.Dense(2)
    )


@network
def function_constants() -> keras.Model:
    ops = keras.ops
    inputs = keras.Input((4,))
    x = keras.activations.relu(L.Dense(4)(inputs), negative_slope=0.1, threshold=0.2)
    x = L.Add()([x, np.array([[0.0, 1.0, -1.0, 0.3]], "float32")])
    x = L.Multiply()([x, np.array([[1.0, -2.0, 0.5, 3.0]], "float32")])
    x = L.Maximum()([x, np.array([[0.0, -1.0, 0.3, 0.1]], "float32")])
    x = ops.true_divide(ops.cast(x, "float32"), np.array([[1.0, 2.0, 3.0, 4.0]], "float32"))
    return functional(inputs, L.Dense(2)(ops.pad(x, [[0, 0], [1, 0]], constant_values=0.7)))


@network
def recurrent_gates() -> keras.Model:
    return sequential((2, 2), L.LSTM(2, return_sequences=True), L.GRU(2), L.Dense(2))


@network
def recurrent_cells() -> keras.Model:
    return sequential(
        (2, 2), L.RNN(L.GRUCell(2), return_sequences=True), L.SimpleRNN(2), L.Dense(2)
    )


@network
def recurrent_convolutions() -> keras.Model:
    return sequential(
        (2, 2, 2, 1, 1),
        L.ConvLSTM3D(1, (2, 1, 1), padding="same"),
        L.ConvLSTM2D(1, (2, 1), padding="same"),
        L.ConvLSTM1D(2, 1),
        L.Flatten(),
        L.Dense(2),
    )


@network
def recurrent_both_ways() -> keras.Model:
    return sequential(
        (2, 2),
        L.TimeDistributed(L.Dense(2, "relu")),
        L.Bidirectional(L.SimpleRNN(2)),
        L.Dense(2),
    )
