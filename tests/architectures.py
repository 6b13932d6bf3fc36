"""Random networks drawn from the registry: chains and branches of layers with random settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers as L
from keras import ops
from networks import functional

from xcertify.bounds import supported_activations
from xcertify.regions import Ball, Region

_LARGEST = 160  # entries of a tensor that may still grow


@dataclass
class Architecture:
    """A network with a question about it.

    `twin` has the same weights and values and can be evaluated in float64 where TensorFlow lacks
    grouped or channels-first convolutions; None where the model itself can.
    """

    model: keras.Model
    twin: keras.Model | None
    region: Region
    method: str
    options: dict[str, Any]
    layers: list[str]


def draw(seed: int) -> Architecture:
    """The architecture of a seed."""
    generator = np.random.default_rng(seed)
    rank = int(generator.choice([0, 0, 1, 1, 2, 2, 2, 3]))
    sizes = [int(generator.integers(*[(3, 7), (5, 10), (4, 8), (3, 5)][rank])) for _ in range(rank)]
    channels = int(generator.integers(1, 4)) if rank else int(generator.integers(3, 7))
    first = rank in (1, 2) and generator.random() < 0.15
    depth = int(generator.integers(2, 5))
    settings = {"seed": int(generator.integers(2**31)), "depth": depth}
    shape = (channels, *sizes) if first else (*sizes, channels)
    model, drawn = _build(shape, first=first, plain=False, **settings)
    twin = None
    if drawn.needs_twin:
        twin, _ = _build(shape, first=first, plain=True, **settings)
        twin.set_weights(model.get_weights())

    inputs = generator.normal(0.0, 1.0, (6, *shape)).clip(-1, 1).astype("float32")
    epsilon = np.array([0.0, 1e-6, 1e-4, 0.01, 0.1, 0.4]).reshape(6, *[1] * len(shape))
    norm = [np.inf, np.inf, np.inf, 2, 1][generator.integers(5)]
    clip = [None, (-1, 1)][generator.integers(2)]
    options = [{}, {}, {}, {"arithmetic": "float32"}, {"dtype": "float64"}][generator.integers(5)]
    if generator.random() < 0.3:
        options = options | {"memory_budget": 300_000}
    if any(getattr(layer, "interpolation", None) == "bilinear" for layer in model.layers):
        options = options | {"arithmetic": "float32"}  # in which TensorFlow resizes, in any type
    slope = ["adaptive", "adaptive", "parallel", "left", "right"][generator.integers(5)]
    method = ("crown", "ibp", "crown-ibp", "crown", "alpha-crown")[seed % 5]
    if method == "alpha-crown":
        options = options | {"nb_steps": 3}
    if method != "ibp":
        options = options | {"lower_slope": slope}
    region = Ball(inputs, epsilon, norm, clip)
    return Architecture(model, twin, region, method, options, drawn.layers)


def _build(shape: tuple, *, first: bool, plain: bool, seed: int, depth: int) -> tuple:
    """A model and how it was drawn; `plain` builds the twin from the same draws."""
    drawing = _Drawing(np.random.default_rng(seed), first=first, plain=plain)
    x = inputs = keras.Input(shape)
    if plain and first:
        x = L.Permute((*range(2, len(shape) + 1), 1))(inputs)
    for _ in range(depth):
        x = drawing.step(x)
    if len(x.shape) > 2:
        x = drawing.to_vector(x)
    activation = drawing.choice(None, None, None, "softmax", "sigmoid")
    x = L.Softmax()(L.Dense(3)(x)) if activation == "softmax" else L.Dense(3, activation)(x)
    model = functional(inputs, x, seed)
    if plain:
        return model, drawing
    # Steeper at some places than what `randomize` gives.
    scale = float(np.random.default_rng(seed).choice([0.5, 1.0, 1.0, 2.0]))
    weights = zip(model.weights, model.get_weights())
    model.set_weights([w * scale if "kernel" in v.path else w for v, w in weights])
    return model, drawing


@dataclass
class _Drawing:
    """Draws one layer after the other; twins draw the same with their channels last."""

    generator: np.random.Generator
    first: bool
    plain: bool
    layers: list[str] = field(default_factory=list)
    grown: bool = False
    grouped: bool = False

    @property
    def needs_twin(self) -> bool:
        return self.first or self.grouped

    @property
    def channels_first(self) -> bool:
        """The format of the layers of this model."""
        return self.first and not self.plain

    @property
    def format(self) -> str:
        return "channels_first" if self.channels_first else "channels_last"

    def choice(self, *values: Any) -> Any:
        return values[self.generator.integers(len(values))]

    def integer(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        return int(self.generator.integers(low, high + 1))

    def number(self, low: float, high: float) -> float:
        """A number between two, with digits that float32 does not have."""
        return float(self.generator.uniform(low, high))

    def sizes(self, x: Any) -> tuple[int, ...]:
        return tuple(x.shape[2:] if self.channels_first else x.shape[1:-1])

    def channels(self, x: Any) -> int:
        return x.shape[1] if self.channels_first and len(x.shape) > 2 else x.shape[-1]

    def step(self, x: Any) -> Any:
        """One layer or a branching, by what fits the shape; draws again where nothing does."""
        kinds: list[Callable] = [self.activation, self.normalization, self.merge, self.function]
        kinds += [self.residual, self.identity]
        if len(x.shape) == 2:
            kinds += [self.dense] * 8 + [self.to_sequence, self.dot]
        else:
            kinds += [self.convolution] * 6 + [self.pooling] * 3
            kinds += [self.depthwise, self.transposed, self.padding, self.up_sampling]
            if not self.first:
                kinds += [self.dense, self.rearrangement, self.einsum]
            if self.integer(0, 3) == 0:
                kinds = [self.to_vector]
        while True:
            kind = self.choice(*kinds)
            result = kind(x)
            if result is not None:
                self.layers.append(kind.__name__)
                return result

    # --- layers with weights --------------------------------------------------------------------

    def act(self) -> str:
        """Name of an activation for a layer with weights."""
        if self.integer(0, 1):
            return "relu"
        name = self.choice(*supported_activations())
        if name == "softmax" and self.first:
            return "linear"  # it runs over the last axis, which is another one in the twin
        return "linear" if name == "exponential" and self.grow() else name

    def grow(self) -> bool:
        """Whether something grew before; from now on something has.

        What grows fast, a product or an exponential, overflows float32 when it is nested.
        """
        before, self.grown = self.grown, True
        return before

    def dense(self, x: Any) -> Any:
        return L.Dense(self.integer(2, 7), self.act(), use_bias=self.integer(0, 3) > 0)(x)

    def einsum(self, x: Any) -> Any:
        letters = "bcde"[: len(x.shape) - 2]
        equation, units = f"a{letters}x,xy->a{letters}y", self.integer(2, 4)
        shape = (*x.shape[1:-1], units)
        return L.EinsumDense(equation, shape, bias_axes="y", activation=self.act())(x)

    def convolution(self, x: Any) -> Any:
        sizes, channels = self.sizes(x), self.channels(x)
        rank = len(sizes)
        padding = self.choice("valid", "same", "same", *["causal"] * (rank == 1 and not self.first))
        kernel = [self.integer(1, min(3, size)) for size in sizes]
        strides, dilation = self.strides_or_dilation(sizes, kernel, padding)
        groups = 2 if rank < 3 and channels % 2 == 0 and self.integer(0, 3) == 0 else 1
        filters = groups * self.integer(1, 4 // groups)
        activation, use_bias = self.act(), self.integer(0, 3) > 0
        if rank < 3 and groups == 1 and self.integer(0, 4) == 0:
            layer = (L.SeparableConv1D, L.SeparableConv2D)[rank - 1]
            if rank == 2:  # TensorFlow's depthwise convolution has one stride
                strides = [strides[0]] * 2
            layer = layer(
                filters,
                kernel,
                strides if rank == 2 else strides[0],
                "same" if padding == "causal" else padding,
                depth_multiplier=self.integer(1, 2),
                activation=activation,
                use_bias=use_bias,
                data_format=self.format,
            )
            return self.applied(layer, x)
        self.grouped |= groups > 1
        layer = (L.Conv1D, L.Conv2D, L.Conv3D)[rank - 1]
        if self.plain and groups > 1:
            layer = (SplitConvolution1D, SplitConvolution2D)[rank - 1]
        layer = layer(
            filters,
            kernel,
            strides,
            padding,
            dilation_rate=dilation,
            groups=groups,
            activation=activation,
            use_bias=use_bias,
            data_format=self.format,
        )
        return self.applied(layer, x)

    def applied(self, layer: Any, x: Any) -> Any:
        """A layer's output; without a bias where Keras would add that along another axis.

        That is, with the channels first, where there are as many of them as entries of the last
        axis; a twin with the channels last has no bias there either.
        """
        shape = layer.compute_output_shape(x.shape)
        if self.first and shape[1 if self.channels_first else -2] == shape[-1]:
            layer.use_bias = False
        return layer(x)

    def strides_or_dilation(self, sizes: tuple, kernel: list[int], padding: str) -> tuple:
        """Strides and dilation rates; TensorFlow takes one of them above 1."""
        ones = [1] * len(sizes)
        kind = self.integer(0, 3)
        if kind == 1:
            return [self.integer(1, 3) for _ in sizes], ones
        if kind == 2:
            rates = [self.integer(1, 2) for _ in sizes]
            fits = all((k - 1) * r < size for k, r, size in zip(kernel, rates, sizes))
            if padding != "valid" or fits:
                return ones, rates
        return ones, ones

    def depthwise(self, x: Any) -> Any:
        sizes = self.sizes(x)
        if len(sizes) == 3:
            return None
        layer = (L.DepthwiseConv1D, L.DepthwiseConv2D)[len(sizes) - 1]
        stride = self.integer(1, 2)
        layer = layer(
            [self.integer(1, min(3, size)) for size in sizes],
            stride if len(sizes) == 1 else (stride, stride),
            self.choice("valid", "same"),
            depth_multiplier=self.integer(1, 2),
            activation=self.act(),
            data_format=self.format,
        )
        return self.applied(layer, x)

    def transposed(self, x: Any) -> Any:
        sizes = self.sizes(x)
        if math.prod(sizes) * 4 * 2 ** len(sizes) > 2 * _LARGEST:
            return None
        layer = (L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose)[len(sizes) - 1]
        layer = layer(
            self.integer(1, 3),
            [self.integer(1, 3) for _ in sizes],
            [self.integer(1, 2) for _ in sizes],
            self.choice("valid", "same"),
            activation=self.act(),
            data_format=self.format,
        )
        return self.applied(layer, x)

    # --- the rest -------------------------------------------------------------------------------

    def activation(self, x: Any) -> Any:
        kind = self.integer(0, 6)
        if kind == 0:
            return L.LeakyReLU(negative_slope=self.number(0, 0.9))(x)
        if kind == 1:
            return None if self.first else L.PReLU()(x)
        if kind == 2:
            return L.ELU(alpha=self.number(0.1, 1.5))(x)
        if kind == 3:
            largest = self.choice(None, self.number(0.5, 3))
            return L.ReLU(largest, self.number(0, 0.5), self.choice(0.0, self.number(0, 0.4)))(x)
        if kind == 4 and not self.first:
            axes = tuple(range(1, len(x.shape)))
            return L.Softmax(axis=self.choice(-1, *[axes] * (len(axes) > 1)))(x)
        return L.Activation(self.act())(x)

    def normalization(self, x: Any) -> Any:
        kind = self.integer(0, 3)
        axis = 1 if self.channels_first and len(x.shape) > 2 else -1
        if kind == 0:
            return L.LayerNormalization(axis=axis)(x)
        if kind == 1:
            return L.Rescaling(self.number(-2, 2), offset=0.3)(x)
        if kind == 2:
            mean, variance = self.number(-1, 1), self.number(0.2, 2)
            invert = bool(self.integer(0, 1))
            return L.Normalization(axis=None, mean=mean, variance=variance, invert=invert)(x)
        return L.BatchNormalization(axis=axis, scale=self.integer(0, 1) > 0)(x)

    def identity(self, x: Any) -> Any:
        return self.choice(L.Dropout(0.5), L.GaussianNoise(0.1), L.Identity())(x)

    def pooling(self, x: Any) -> Any:
        sizes = self.sizes(x)
        rank = len(sizes)
        maximum = self.integer(0, 1)
        if rank == 3:
            return None  # TensorFlow pools volumes in float32 alone
        window = [self.integer(1, min(3, size)) for size in sizes]
        strides = self.choice(None, [self.integer(1, 3) for _ in sizes])
        layers = [(L.AveragePooling1D, L.AveragePooling2D), (L.MaxPooling1D, L.MaxPooling2D)]
        layer = layers[maximum][rank - 1]
        padding = self.choice("valid", "same")
        if rank == 1:
            window, strides = window[0], None if strides is None else strides[0]
        return layer(window, strides, padding, data_format=self.format)(x)

    def padding(self, x: Any) -> Any:
        sizes = self.sizes(x)
        rank = len(sizes)
        amounts = [(self.integer(0, 2), self.integer(0, 2)) for _ in sizes]
        crop = self.integer(0, 1)
        if crop:
            amounts = [(min(a, 1), min(b, 1)) for a, b in amounts]
            if any(size <= a + b for size, (a, b) in zip(sizes, amounts)):
                return None
        elif math.prod(s + a + b for s, (a, b) in zip(sizes, amounts)) > _LARGEST:
            return None
        layers = [
            (L.ZeroPadding1D, L.ZeroPadding2D, L.ZeroPadding3D),
            (L.Cropping1D, L.Cropping2D, L.Cropping3D),
        ]
        if rank == 1 and (crop or self.first):
            return None if self.first else L.Cropping1D(amounts[0])(x)
        layer = layers[crop][rank - 1]
        keywords = {"data_format": self.format} if rank > 1 else {}
        return layer(amounts[0] if rank == 1 else amounts, **keywords)(x)

    def up_sampling(self, x: Any) -> Any:
        sizes = self.sizes(x)
        rank = len(sizes)
        if math.prod(x.shape[1:]) * 2**rank > 2 * _LARGEST or (rank == 1 and self.first):
            return None
        if rank == 1:
            return L.UpSampling1D(2)(x)
        if rank == 3:
            return L.UpSampling3D((1, 2, 1))(x)
        interpolation = self.choice("nearest", "bilinear") if not self.first else "nearest"
        size = (self.integer(1, 2), self.integer(1, 3))
        return L.UpSampling2D(size, data_format=self.format, interpolation=interpolation)(x)

    def rearrangement(self, x: Any) -> Any:
        rank = len(x.shape) - 1
        order = tuple(int(axis) + 1 for axis in self.generator.permutation(rank))
        return L.Permute(order)(x)

    def to_vector(self, x: Any) -> Any:
        kind = self.integer(0, 3)
        rank = len(x.shape) - 2
        if kind == 0 and not (rank == 1 and self.first):
            average = (
                L.GlobalAveragePooling1D,
                L.GlobalAveragePooling2D,
                L.GlobalAveragePooling3D,
            )
            maximum = (L.GlobalMaxPooling1D, L.GlobalMaxPooling2D, L.GlobalMaxPooling3D)
            layer = self.choice(average, maximum)[rank - 1]
            return layer(data_format=self.format)(x)
        return L.Flatten(data_format=self.format)(x)

    def to_sequence(self, x: Any) -> Any:
        if self.first:
            return None
        size = x.shape[1]
        divisors = [d for d in range(2, size) if size % d == 0]
        if divisors and self.integer(0, 1):
            width = self.choice(*divisors)
            return L.Reshape((size // width, width))(x)
        return L.RepeatVector(self.integer(2, 3))(x)

    def dot(self, x: Any) -> Any:
        if self.grow():
            return None
        units = self.integer(2, 4)
        a, b = L.Dense(units, "tanh")(x), L.Dense(units, self.act())(x)
        joined = L.Dot(axes=1)([a, b])
        return L.Concatenate()([joined, a])

    def same(self, x: Any) -> Any:
        """A branch of the shape of x."""
        sizes = self.sizes(x)
        if len(x.shape) == 2 or (not self.first and self.integer(0, 2) == 0):
            return L.Dense(x.shape[-1], self.act())(x)
        layer = (L.Conv1D, L.Conv2D, L.Conv3D)[len(sizes) - 1]
        settings = {"padding": "same", "activation": self.act(), "data_format": self.format}
        return layer(self.channels(x), [self.integer(1, min(3, s)) for s in sizes], **settings)(x)

    def residual(self, x: Any) -> Any:
        y = self.same(x)
        if self.integer(0, 1):
            y = self.same(y)
        y = self.choice(L.Add(), L.Average())([y, x])
        return self.choice(L.ReLU(), L.Activation("tanh"), L.Identity())(y)

    def merge(self, x: Any) -> Any:
        a, b = self.same(x), self.choice(self.same, self.identity)(x)
        kind = self.integer(0, 6)
        if kind in (0, 6):
            if kind == 6 and len(x.shape) > 2:
                b = self.scale(x)  # broadcast, as in squeeze and excitation
            return None if self.grow() else L.Multiply()([a, b])
        if kind == 1:
            axis = 1 if self.channels_first and len(x.shape) > 2 else -1
            return L.Concatenate(axis=axis)([a, b])
        if kind in (2, 3):
            return self.choice(L.Maximum(), L.Minimum())([a, b, x])
        if kind == 4:
            layer = L.Average() if self.first else L.Dense(a.shape[-1], "relu")
            if self.first:
                return layer([a, b, x])
            return L.Subtract()([layer(a), layer(b)])  # a shared layer
        return L.Subtract()([a, b])

    def scale(self, x: Any) -> Any:
        rank = len(x.shape) - 2
        layer = (L.GlobalAveragePooling1D, L.GlobalAveragePooling2D, L.GlobalAveragePooling3D)
        return layer[rank - 1](keepdims=True, data_format=self.format)(x)

    def function(self, x: Any) -> Any:
        """A node of `keras.ops`."""
        if self.first:
            return None  # many name an axis
        rank = len(x.shape)
        number = self.number(0.1, 2)
        kinds = {
            "scaled": lambda: x * number + 0.25,
            "divided": lambda: (1.0 - x) / number,
            "negated": lambda: -x,
            "absolute": lambda: ops.abs(x),
            "square": lambda: None if self.grow() else ops.square(x),
            "limits": lambda: ops.minimum(ops.maximum(x, -number), 0.5),
            "largest": lambda: ops.maximum(x, L.Dense(x.shape[-1])(x)),
            "product": lambda: None if self.grow() else x * L.Dense(x.shape[-1], "tanh")(x),
            "total": lambda: x - ops.sum(x, axis=-1, keepdims=True),
            "mean": lambda: ops.mean(x, axis=1, keepdims=True) + x,
            "joined": lambda: ops.concatenate([x, -x], axis=-1)[..., 1:],
            "stacked": lambda: ops.stack([x, 2 * x], axis=1) if rank < 4 else None,
            "flipped": lambda: ops.flip(x, axis=1) - x,
            "moved": lambda: ops.swapaxes(x, 1, rank - 1),
            "padded": lambda: ops.pad(x, [[0, 0], *[[0, 0]] * (rank - 2), [1, 0]]),
            "repeated": lambda: ops.repeat(x, 2, axis=-1) if x.shape[-1] < 6 else None,
            "product with a matrix": lambda: ops.matmul(x, self.matrix(x.shape[-1])),
            "gelu": lambda: ops.gelu(x, approximate=bool(self.integer(0, 1))),
            "celu": lambda: ops.celu(x, alpha=number),
            "leaky relu": lambda: ops.leaky_relu(x, negative_slope=number / 2),
            "silu": lambda: ops.silu(x),
            "softmax": lambda: ops.softmax(x, axis=-1),
            "relu6": lambda: ops.relu6(3.0 * x),
        }
        return kinds[self.choice(*kinds)]()

    def matrix(self, size: int) -> np.ndarray:
        return self.generator.normal(size=(size, 3)).astype("float32")


class _Split:
    """A grouped convolution as several, which TensorFlow can compute in float64 on a CPU."""

    def call(self, inputs: Any) -> Any:
        if self.padding == "causal":
            before = self.dilation_rate[0] * (self.kernel_size[0] - 1)
            inputs = ops.pad(inputs, [(0, 0), (before, 0), (0, 0)])
        parts = zip(
            ops.split(inputs, self.groups, axis=-1), ops.split(self.kernel, self.groups, axis=-1)
        )
        padding = "valid" if self.padding == "causal" else self.padding
        outputs = ops.concatenate(
            [
                ops.conv(part, kernel, self.strides, padding, "channels_last", self.dilation_rate)
                for part, kernel in parts
            ],
            axis=-1,
        )
        return self.activation(outputs + self.bias if self.use_bias else outputs)


@keras.saving.register_keras_serializable("architectures")
class SplitConvolution1D(_Split, L.Conv1D):
    """See `_Split`."""


@keras.saving.register_keras_serializable("architectures")
class SplitConvolution2D(_Split, L.Conv2D):
    """See `_Split`."""
