"""Random networks whose layers are called in unusual ways: what a call can say beside its input.

Masks, constants, flags, keywords, dictionaries, nested and shared models, fixed batches, type
policies, data formats, operations along the batch, functions for layers. Features are drawn into a
small random network; `Drawn.must_be_bounded` says whether the engine may refuse the result.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as L
from keras import ops
from networks import randomize

from xcertify.bounds import supported_activations
from xcertify.regions import Ball, Region

NB_SAMPLES = 4
SHAPES = {"dense": (6,), "image": (5, 4, 2), "sequence": (5, 3)}


@dataclass
class Drawn:
    """A network with a question about it.

    Attributes
    ----------
    model, call
        The network, and a user's call of it: the output in question for a batch of the input that
        varies, or for one sample with its number, and keywords of the call (`training`).
    region, method, options, constants
        Of the verifier and its call.
    features
        What was drawn, by name.
    must_be_bounded
        False where the engine may refuse the network.
    half
        Whether a layer computes in half precision; `call` is then that of the network in float32.
    varies
        Whether the network is random unless ``training=False`` is said.
    fixed_batch, plain
        Whether it takes one batch size only; whether one array goes in and one comes out.
    tensors
        Gives all inner tensors for an input: how large the numbers are that are rounded.
    """

    model: keras.Model
    call: Callable[..., Any]
    region: Region
    method: str
    options: dict[str, Any]
    constants: list[np.ndarray]
    features: list[str]
    must_be_bounded: bool
    half: bool
    varies: bool
    fixed_batch: bool
    plain: bool
    tensors: Callable[[np.ndarray], list[Any]]
    format_at_use: str

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        """Keras' global settings while the network is used."""
        with _global(self.format_at_use):
            yield


def draw(seed: int) -> Drawn:
    """The network of a seed; what Keras itself cannot build or run is drawn again."""
    for attempt in range(50):
        try:
            return _draw(seed, attempt)
        except _DOES_NOT_RUN:
            keras.config.set_dtype_policy("float32")
    raise AssertionError(f"nothing that runs was drawn for {seed}")


# What Keras and TensorFlow raise for calls that make no sense, or have no kernel on a CPU.
_DOES_NOT_RUN = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    TypeError,
    ValueError,
    tf.errors.OpError,
)


@contextlib.contextmanager
def _global(data_format: str, policy: str = "float32") -> Iterator[None]:
    before = keras.config.image_data_format(), keras.config.dtype_policy()
    keras.config.set_image_data_format(data_format)
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_image_data_format(before[0])
        keras.config.set_dtype_policy(before[1])


def _draw(seed: int, attempt: int) -> Drawn:
    drawing = _built(seed, attempt, in_float32=False)
    generator = np.random.default_rng([seed, attempt, 1])
    values = [
        generator.uniform(-1, 1, (NB_SAMPLES, *shape)).astype("float32") for shape in drawing.shapes
    ]
    source = _built(seed, attempt, in_float32=True) if drawing.half else drawing
    if drawing.half:
        source.model.set_weights(drawing.model.get_weights())

    def call(points: Any, sample: int | None = None, **keywords: Any) -> Any:
        arrays = [v if sample is None else v[sample : sample + 1] for v in values]
        arrays[drawing.perturbed] = points
        arrays = [tf.convert_to_tensor(array) for array in arrays]
        return source.output_of(source.model(source.inputs_of(arrays), **keywords))

    inner = keras.Model(source.model.inputs, source.tensors)
    first = values[drawing.perturbed]

    def tensors(points: np.ndarray) -> list[Any]:
        arrays = list(values)
        arrays[drawing.perturbed] = points
        by_name = dict(zip(("zebra", "ant"), arrays))
        return inner([by_name[tensor.name] for tensor in source.model.inputs], training=False)

    with _global(drawing.format_at_use):
        outputs = np.asarray(call(first))
        rows = [outputs.shape[0] / NB_SAMPLES]
        if not drawing.fixed_batch:
            rows.append(np.shape(call(first[:1], 0))[0])
        if not np.isfinite(outputs).all() or outputs.ndim < 2 or set(rows) != {1}:
            raise ValueError("not a network that gives a finite row for each input")
        if max(np.abs(t).max() for t in tensors(first)) > 1e3:
            raise ValueError("numbers that grow too fast")
    epsilon = generator.permutation([0.0, 1e-4, 0.03, 0.3])
    epsilon = epsilon.reshape(NB_SAMPLES, *[1] * (first.ndim - 1))
    norm = (np.inf, np.inf, 2)[generator.integers(3)]
    region = Ball(first, epsilon, norm, (None, (-1, 1))[generator.integers(2)])
    method = ("ibp", "crown-ibp", "crown")[generator.integers(3)]
    options = ({}, {"arithmetic": "float32"}, {"dtype": "float64"})[generator.integers(3)]
    options = dict(options) | drawing.which
    constants = [v for number, v in enumerate(values) if number != drawing.perturbed]
    return Drawn(
        drawing.model,
        call,
        region,
        method,
        options,
        constants,
        drawing.features,
        not drawing.may_be_refused,
        drawing.half,
        drawing.varies,
        drawing.fixed_batch,
        drawing.plain,
        tensors,
        drawing.format_at_use,
    )


def _built(seed: int, attempt: int, *, in_float32: bool) -> _Drawing:
    names = np.random.default_rng([seed, attempt // 10, 2])  # other features only after some trials
    generator = np.random.default_rng([seed, attempt])
    drawing = _Drawing(generator, names, in_float32)
    with _global(drawing.format_at_construction, drawing.policy(drawing.model_policy)):
        drawing.build()
    randomize(drawing.model, seed)
    return drawing


class _TwiceDense(L.Dense):
    def call(self, inputs: Any) -> Any:
        return 2 * super().call(inputs)


class _Twice(keras.Model):
    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return 2 * super().call(inputs)


FEATURES: dict[str, Callable] = {}


def feature(method: Callable) -> Callable:
    """Register a method of `_Drawing`: from a tensor to a tensor."""
    FEATURES[method.__name__] = method
    return method


class _Drawing:
    """Draws one network. `in_float32` draws the same with float32 for half precision."""

    def __init__(
        self, generator: np.random.Generator, names: np.random.Generator, in_float32: bool
    ) -> None:
        self.generator, self.names, self.in_float32 = generator, names, in_float32
        self.features: list[str] = []
        self.tensors: list[Any] = []
        self.may_be_refused = self.half = self.varies = False
        self.kind = self.choice("dense", "dense", "image", "sequence")
        self.fixed_batch = self.one_in(8)
        self.format_at_construction = self.choice(*["channels_last"] * 5, "channels_first")
        other = self.one_in(4)
        self.format_at_use = "channels_last" if other else self.format_at_construction
        self.model_policy = self.choice(
            *["float32"] * 12, "float64", "mixed_float16", "mixed_bfloat16"
        )
        if self.format_at_construction == "channels_first":
            self.features.append("channels_first")
        if self.fixed_batch:
            self.features.append("fixed_batch")
        if self.model_policy != "float32":
            self.features.append(self.model_policy)
        self.perturbed = 0
        self.which: dict[str, Any] = {}

    # --- drawing --------------------------------------------------------------------------------

    def choice(self, *values: Any) -> Any:
        return values[self.generator.integers(len(values))]

    def integer(self, low: int, high: int) -> int:
        return int(self.generator.integers(low, high + 1))

    def number(self, low: float, high: float) -> float:
        """A number that half precision has, too."""
        return float(np.round(32 * self.generator.uniform(low, high)) / 32)

    def one_in(self, count: int) -> bool:
        return self.integer(1, count) == 1

    def policy(self, name: str) -> str:
        """A type policy, or float32 in its place."""
        if "16" not in name:
            return name
        self.half = True
        return "float32" if self.in_float32 else name

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """Numbers that half precision has, too."""
        return np.round(32 * self.generator.uniform(-2, 2, shape)) / 32

    def constant(self, shape: tuple[int, ...]) -> Any:
        """An array of some type, as an array or a tensor."""
        values = self.values(shape).astype(self.choice("f4", "f4", "f4", "f8", "i4", "f2"))
        form = self.choice(np.asarray, np.asarray, ops.convert_to_tensor, tf.constant)
        return form(values)

    def batch_of_constants(self) -> int:
        return NB_SAMPLES if self.fixed_batch and self.one_in(2) else 1

    # --- the network ----------------------------------------------------------------------------

    def build(self) -> None:
        self.shapes = [SHAPES[self.kind]]
        if self.one_in(6):
            self.features.append("two_inputs")
            self.shapes.append((3,))
        inputs = [self.input(shape, name) for shape, name in zip(self.shapes, ("zebra", "ant"))]
        x = inputs[0]
        if self.one_in(2):
            x = self.keep(self.ordinary(x))
        order = self.names.permutation(len(FEATURES))[: self.names.integers(1, 3)]
        for name in (list(FEATURES)[number] for number in order):
            x = FEATURES[name](self, x)
            self.features.append(name)
            x = self.keep(x)
            if self.one_in(2) and len(x.shape) > 1:
                x = self.keep(self.ordinary(x))
        if len(x.shape) > 2:
            x = L.Flatten()(x)
        if len(inputs) == 2:
            other = L.Dense(3, "tanh")(inputs[1])
            x = self.keep(self.choice(L.Concatenate, L.Concatenate)()([x, other]))
        head = L.Dense(3)
        outputs = self.keep(head(x))
        self.wrap(inputs, outputs, x)

    def input(self, shape: tuple[int, ...], name: str) -> Any:
        if self.fixed_batch:
            return keras.Input(batch_shape=(NB_SAMPLES, *shape), name=name)
        return keras.Input(shape, name=name)

    def keep(self, x: Any) -> Any:
        self.tensors.append(x)
        return x

    def ordinary(self, x: Any) -> Any:
        """A layer without anything special."""
        activation = self.choice("relu", "tanh", "linear", "sigmoid")
        if len(x.shape) == 4 and keras.config.image_data_format() == "channels_last":
            return L.Conv2D(3, 2, activation=activation)(x)
        if len(x.shape) == 3 and self.one_in(2):
            return L.Conv1D(4, 2, activation=activation, data_format="channels_last")(x)
        return L.Dense(self.integer(3, 5), activation)(x)

    def wrap(self, inputs: list[Any], outputs: Any, before: Any) -> None:
        """The model, with inputs and outputs in some structure."""
        form = self.choice("plain", "plain", "plain", "list", "dictionary", "tuple")
        names = [tensor.name for tensor in inputs]
        packed = inputs[0] if len(inputs) == 1 else inputs
        self.inputs_of = lambda arrays: arrays[0] if len(arrays) == 1 else arrays
        if form == "list":
            packed, self.inputs_of = list(inputs), list
        elif form == "tuple":
            packed, self.inputs_of = tuple(inputs), tuple
        elif form == "dictionary":
            packed = dict(zip(names, inputs))
            self.inputs_of = lambda arrays: dict(zip(names, arrays))
        if form != "plain":
            self.features.append(f"{form} of inputs")
        if len(inputs) == 2:
            self.perturbed = self.integer(0, 1)
            self.which["perturbed"] = names[self.perturbed]
        self.output_of = lambda found: found
        kind = self.choice(
            "plain", "plain", "plain", "list", "dictionary", "two", "two in dictionary"
        )
        out = outputs
        if kind == "list":
            out, self.output_of = [outputs], lambda found: found[0]
        elif kind == "dictionary":
            out, self.output_of = {"logits": outputs}, lambda found: found["logits"]
        elif kind == "two":
            out = [L.Dense(2, name="side")(before), outputs]
            self.output_of = lambda found: found[1]
            self.which["output"] = self.choice(1, -1, outputs.name)
        elif kind == "two in dictionary":
            out = {"zoo": outputs, "aside": L.Dense(2, name="side")(before)}
            self.output_of = lambda found: found["zoo"]
            self.which["output"] = outputs.name
        if kind != "plain":
            self.features.append(f"{kind} of outputs")
        self.plain = form == kind == "plain" and len(inputs) == 1
        self.model = keras.Model(packed, out)

    def inner(self, x: Any, units: int | None = None) -> keras.Model:
        """A small model that takes a tensor like `x`, of its shape but for the last axis."""
        shape = tuple(x.shape[1:])
        layers = [L.Dense(units or shape[-1], self.choice("relu", "tanh"))]
        if self.one_in(2):
            layers.append(L.Dropout(0.5))
        return keras.Sequential([keras.Input(shape), *layers])

    # --- constants ------------------------------------------------------------------------------

    @feature
    def constant_in_a_merge(self, x: Any) -> Any:
        layer = self.choice(
            *(L.Add, L.Subtract, L.Multiply, L.Maximum, L.Minimum, L.Average, L.Concatenate)
        )()
        self.may_be_refused = True
        constant = self.constant((self.batch_of_constants(), *x.shape[1:]))
        tensors = [x, constant] if self.one_in(2) else [constant, x]
        if not isinstance(layer, L.Subtract) and self.one_in(3):
            tensors.append(x)
        return layer(inputs=tensors) if self.one_in(4) else layer(tensors)

    @feature
    def constant_in_an_operation(self, x: Any) -> Any:
        name = self.choice("add", "subtract", "multiply", "divide", "maximum", "minimum")
        scalar = self.one_in(3)
        shape = self.choice(x.shape[-1:], tuple(x.shape[1:]), (1, *x.shape[1:]))
        constant = self.number(0.5, 2) if scalar else self.constant(shape)
        first = self.one_in(3)
        limits = name in ("maximum", "minimum") and not scalar
        self.may_be_refused |= limits or (name == "divide") or self.fixed_batch
        operands = (constant, x) if first else (x, constant)
        form = self.choice("call", "keywords", "swapped keywords", "python")
        operation = getattr(ops, name)
        if form == "keywords":
            return operation(x1=operands[0], x2=operands[1])
        if form == "swapped keywords":
            return operation(x2=operands[1], x1=operands[0])
        python = {"add": "__add__", "subtract": "__sub__", "multiply": "__mul__"}
        if form == "python" and name in python:
            if first:
                return getattr(x, python[name].replace("__", "__r", 1))(constant)
            return getattr(x, python[name])(constant)
        return operation(*operands)

    @feature
    def constant_that_enlarges(self, x: Any) -> Any:
        self.may_be_refused = True
        shape = self.choice((NB_SAMPLES, *x.shape[1:]), (2, 1, *x.shape[1:]), (1, 1, *x.shape[1:]))
        return self.choice(ops.add, ops.multiply, ops.subtract)(x, self.constant(shape))

    @feature
    def padding(self, x: Any) -> Any:
        width = [[0, 0]] * (len(x.shape) - 1) + [[self.integer(0, 2), self.integer(0, 2)]]
        kind = self.choice("zeros", "value", "tensor", "mode", "batch")
        self.may_be_refused |= kind != "zeros"
        if kind == "zeros":
            return self.choice(ops.pad(x, width), ops.pad(x, width, constant_values=0))
        if kind == "value":
            return ops.pad(x, width, constant_values=self.number(-3, 3))
        if kind == "tensor":
            return ops.pad(x, width, mode="constant", constant_values=np.float32(9))
        if kind == "mode":
            return ops.pad(x, width, mode=self.choice("reflect", "symmetric"))
        return ops.pad(x, self.choice(1, [[1, 0]] + [[0, 0]] * (len(x.shape) - 1)))[:NB_SAMPLES]

    # --- masks ----------------------------------------------------------------------------------

    @feature
    def mask_as_argument(self, x: Any) -> Any:
        self.may_be_refused = True
        mask = self.generator.random((self.batch_of_constants(), *x.shape[1:])) < 0.6
        if len(x.shape) == 3 and self.one_in(2):
            return L.GlobalAveragePooling1D(data_format="channels_last")(x, mask=mask[..., 0])
        layer = self.choice(L.Softmax(), L.BatchNormalization())
        if isinstance(layer, L.BatchNormalization):
            return layer(x, mask=mask[..., 0])
        return layer(x, mask) if self.one_in(2) else layer(x, mask=mask)

    @feature
    def mask_from_the_network(self, x: Any) -> Any:
        self.may_be_refused = True
        mask = ops.greater(x, self.number(-0.5, 0.5))
        if len(x.shape) == 3 and self.one_in(2):
            return L.GlobalAveragePooling1D(data_format="channels_last")(x, mask=mask[..., 0])
        return L.Softmax()(x, mask=mask)

    @feature
    def implicit_mask(self, x: Any) -> Any:
        if len(x.shape) != 3:
            x = L.Reshape((-1, 2))(L.Dense(4)(L.Flatten()(x)))
        self.may_be_refused = True
        x = L.Masking(self.choice(0.0, 0.5))(ops.relu(x) if self.one_in(2) else x)
        x = self.choice(L.Dropout(0.5), L.Activation("tanh"), L.Dense(3))(x)
        return self.choice(L.GlobalAveragePooling1D(data_format="channels_last"), L.Softmax())(x)

    # --- flags ----------------------------------------------------------------------------------

    @feature
    def training_flag(self, x: Any) -> Any:
        flag = self.choice(True, True, False, None)
        self.may_be_refused |= flag is True
        layer = self.choice(
            *(L.Dropout(0.5), L.GaussianNoise(0.3), L.GaussianDropout(0.3), L.AlphaDropout(0.4)),
            *(L.BatchNormalization(), L.BatchNormalization(trainable=False)),
        )
        if len(x.shape) == 3 and self.one_in(3):
            layer = L.SpatialDropout1D(0.5)
        by_place = self.one_in(3) and not isinstance(layer, L.BatchNormalization)
        return layer(x, flag) if by_place else layer(x, training=flag)

    @feature
    def training_flag_of_a_nested_model(self, x: Any) -> Any:
        flag = self.choice(True, False)
        self.may_be_refused |= flag
        return self.inner(x)(x, training=flag)

    @feature
    def frozen_normalization(self, x: Any) -> Any:
        layer = L.BatchNormalization(axis=-1)
        layer.trainable = self.one_in(2)
        return layer(x)

    # --- nested and shared ----------------------------------------------------------------------

    @feature
    def nested_twice(self, x: Any) -> Any:
        inner = self.inner(x)
        again = inner(inner(x))
        return L.Add()([again, x]) if self.one_in(2) else again

    @feature
    def nested_by_keyword(self, x: Any) -> Any:
        inner = self.inner(x)
        return inner(inputs=x) if self.one_in(2) else L.Add()(inputs=[inner(x), x])

    @feature
    def nested_with_dictionary(self, x: Any) -> Any:
        shape = tuple(x.shape[1:])
        inputs = {name: keras.Input(shape, name=name) for name in ("second", "first")}
        difference = L.Subtract()([inputs["second"], L.Dense(shape[-1])(inputs["first"])])
        inner = keras.Model(inputs, L.Dense(4, "relu")(difference))
        other = L.Activation("tanh")(x)
        if self.one_in(2):
            return inner({"first": x, "second": other})
        return inner({"second": x, "first": other})

    @feature
    def nested_with_list(self, x: Any) -> Any:
        shape = tuple(x.shape[1:])
        first, second = keras.Input(shape), keras.Input(shape)
        outputs = [L.Subtract()([first, second]), L.Dense(shape[-1], "relu")(first)]
        inner = keras.Model([first, second], outputs)
        a, b = inner([x, L.Activation("tanh")(x)])
        return self.choice(a, b, L.Add()([b, a]))

    @feature
    def nested_with_outputs_in_dictionary(self, x: Any) -> Any:
        inputs = keras.Input(tuple(x.shape[1:]))
        outputs = {"two": L.Dense(3, "relu")(inputs), "one": L.Dense(4, "tanh")(inputs)}
        return keras.Model(inputs, outputs)(x)[self.choice("one", "two")]

    @feature
    def nested_with_constant(self, x: Any) -> Any:
        self.may_be_refused = True
        shape = tuple(x.shape[1:])
        first, second = keras.Input(shape), keras.Input(shape)
        inner = keras.Model([first, second], L.Multiply()([first, second]))
        constant = self.constant((self.batch_of_constants(), *shape))
        return inner([x, constant] if self.one_in(2) else [constant, x])

    @feature
    def nested_in_nested(self, x: Any) -> Any:
        inputs = keras.Input(tuple(x.shape[1:]))
        inner = self.inner(x)
        middle = keras.Model(inputs, L.Add()([inner(inputs), inputs]))
        return middle(middle(x))

    @feature
    def part_of_another_model(self, x: Any) -> Any:
        inner = self.inner(x)
        longer = keras.Sequential([*inner.layers, L.Dense(3, "relu"), L.Dense(2)])
        longer.build(inner.input_shape)
        longer.pop()
        return longer(x)

    @feature
    def shared_layer(self, x: Any) -> Any:
        layer = L.Dense(x.shape[-1], "relu")
        return L.Subtract()([layer(x), layer(L.Activation("tanh")(x))])

    # --- type policies and data formats ---------------------------------------------------------

    @feature
    def policy_of_a_layer(self, x: Any) -> Any:
        name = self.choice("float64", "mixed_float16", "mixed_bfloat16", "float32")
        policy = self.policy(name)
        policy = keras.DTypePolicy(policy) if self.one_in(2) else policy
        layer = self.choice(
            L.Dense(4, "relu", dtype=policy),
            L.Activation("tanh", dtype=policy),
            L.Rescaling(0.3, offset=0.7, dtype=policy),
            L.LayerNormalization(dtype=policy),
        )
        x = layer(x)
        return L.Activation("linear", dtype="float32")(x) if self.one_in(2) else x

    @feature
    def data_format_of_a_layer(self, x: Any) -> Any:
        data_format = self.choice("channels_first", "channels_last", None)
        if len(x.shape) == 2:
            x = L.Reshape((2, 3))(L.Dense(6)(x))
        if len(x.shape) == 3:
            return self.choice(
                L.Flatten(data_format=data_format),
                L.GlobalAveragePooling1D(data_format=data_format),
                L.GlobalMaxPooling1D(data_format=data_format, keepdims=True),
                L.MaxPooling1D(2, data_format=data_format),
                L.AveragePooling1D(2, data_format=data_format),
                L.Conv1D(3, 2, data_format=data_format),
            )(x)
        return self.choice(
            L.Flatten(data_format=data_format),
            L.GlobalAveragePooling2D(data_format=data_format),
            L.GlobalMaxPooling2D(data_format=data_format, keepdims=True),
            L.MaxPooling2D(2, data_format=data_format),
            L.AveragePooling2D(2, data_format=data_format),
            L.Conv2D(3, 2, data_format=data_format),
            L.ZeroPadding2D(1, data_format=data_format),
            L.Cropping2D(((1, 0), (0, 1)), data_format=data_format),
            L.UpSampling2D(2, data_format=data_format),
            L.SpatialDropout2D(0.5, data_format=data_format),
        )(x)

    # --- functions ------------------------------------------------------------------------------

    @feature
    def activation_as_function(self, x: Any) -> Any:
        name = self.choice(*(n for n in supported_activations() if n != "exponential"))
        return getattr(keras.activations, name)(x)

    @feature
    def activation_with_arguments(self, x: Any) -> Any:
        number = self.number(0.1, 0.6)
        functions = {
            "relu": lambda: keras.activations.relu(x, negative_slope=number, max_value=1.5),
            "jump": lambda: keras.activations.relu(x, threshold=number),
            "leaky": lambda: keras.activations.leaky_relu(x, negative_slope=number),
            "leaky by place": lambda: ops.leaky_relu(x, number),
            "elu": lambda: keras.activations.elu(x, alpha=number),
            "elu by place": lambda: ops.elu(x, number),
            "celu": lambda: keras.activations.celu(x, alpha=number),
            "gelu": lambda: keras.activations.gelu(x, approximate=self.one_in(2)),
            "gelu by place": lambda: ops.gelu(x, self.one_in(2)),
            "softmax": lambda: keras.activations.softmax(x, axis=1),
            "softmax by keyword": lambda: ops.softmax(x=x, axis=self.choice(1, -1)),
            "softmax by place": lambda: ops.softmax(x, 1),
            "clip": lambda: ops.clip(x, -number, number),
        }
        name = self.choice(*functions)
        self.may_be_refused |= name in ("clip", "jump")
        return functions[name]()

    @feature
    def activation_of_a_layer(self, x: Any) -> Any:
        functions = {
            "tf relu": tf.nn.relu,
            "tf relu6": tf.nn.relu6,
            "tf tanh": tf.tanh,
            "tf sigmoid": tf.sigmoid,
            "tf elu": tf.nn.elu,
            "tf softplus": tf.nn.softplus,
            "tf silu": tf.nn.silu,
            "tf gelu": tf.nn.gelu,
            "tf leaky": tf.nn.leaky_relu,
            "tf softmax": tf.nn.softmax,
            "ops": ops.relu,
            "layer": L.LeakyReLU(self.number(0.1, 0.6)),
            "layer of relu": L.ReLU(max_value=1.0),
            "layer of softmax": L.Softmax(),
            "partial": functools.partial(keras.activations.leaky_relu, negative_slope=0.4),
            "lambda": lambda z: tf.nn.relu(z) + 1,
        }
        name = self.choice(*functions)
        self.may_be_refused |= not name.startswith(("tf relu", "layer"))
        activation = functions[name]
        layer = self.choice(
            L.Dense(3, activation), L.Dense(3, activation=activation), L.Activation(activation)
        )
        return layer(x)

    @feature
    def axis_beside_the_batch(self, x: Any) -> Any:
        last = len(x.shape) - 1
        functions = {
            "flip": lambda: ops.flip(x, axis=self.choice(1, -1, last)),
            "flip axes": lambda: ops.flip(x, axis=(1, last) if last > 1 else (1,)),
            "sum": lambda: ops.sum(x, axis=1, keepdims=True),
            "mean": lambda: ops.mean(x, axis=-1, keepdims=True),
            "softmax": lambda: ops.softmax(x, axis=last),
            "concatenate": lambda: ops.concatenate([x, -x], axis=self.choice(1, -1)),
            "concatenate by keyword": lambda: ops.concatenate(xs=[x, 2 * x], axis=-1),
            "stack": lambda: ops.stack([x, 0.5 * x], axis=self.choice(1, -1)),
            "repeat": lambda: ops.repeat(x, 2, axis=-1),
            "tile": lambda: ops.tile(x, [1] * last + [2]),
            "expand": lambda: ops.expand_dims(x, axis=self.choice(1, -1)),
            "squeeze": lambda: ops.squeeze(ops.expand_dims(x, axis=1), axis=1),
            "moveaxis": lambda: ops.moveaxis(x, 1, -1),
            "swap": lambda: ops.swapaxes(x, axis1=-1, axis2=1),
            "reshape": lambda: ops.reshape(x, (-1, int(np.prod(x.shape[1:])))),
            "transpose": lambda: ops.transpose(x, axes=[0, *range(last, 0, -1)]),
            "matmul": lambda: ops.matmul(x, self.values((x.shape[-1], 3)).astype("f4")),
            "matmul operator": lambda: x @ self.values((x.shape[-1], 3)).astype("f4"),
            "subtract": lambda: ops.subtract(x2=x, x1=ops.tanh(x)),
        }
        name = self.choice(*functions)
        self.may_be_refused |= self.fixed_batch and name == "reshape"
        return functions[name]()

    @feature
    def axis_of_the_batch(self, x: Any) -> Any:
        self.may_be_refused = True
        last = len(x.shape) - 1
        functions = {
            "flip all": lambda: ops.flip(x),
            "flip": lambda: ops.flip(x, axis=self.choice(0, -last - 1)),
            "flip axes": lambda: ops.flip(x, axis=(0, 1)),
            "roll": lambda: ops.roll(x, 1, axis=self.choice(0, None)),
            "softmax": lambda: ops.softmax(x, axis=self.choice(0, -last - 1)),
            "softmax layer": lambda: L.Softmax(axis=0)(x),
            "sum": lambda: x + ops.sum(x, axis=0, keepdims=True),
            "sum of all": lambda: x + ops.sum(x, axis=self.choice(None, (0, 1))),
            "mean": lambda: x - ops.mean(x, axis=0),
            "max": lambda: x - ops.max(x, axis=self.choice(0, None)),
            "concatenate": lambda: ops.concatenate([x, -x], axis=0)[:NB_SAMPLES],
            "stack": lambda: ops.sum(ops.stack([x, -2 * x], axis=0), axis=0),
            "expand": lambda: ops.squeeze(ops.expand_dims(x, 0), 0),
            "expand and add": lambda: ops.expand_dims(x, 0) + x,
            "repeat": lambda: ops.repeat(x, 2, axis=0),
            "repeat of all": lambda: ops.repeat(x, 2),
            "tile": lambda: ops.tile(x, [2] + [1] * last),
            "moveaxis": lambda: ops.moveaxis(ops.moveaxis(x, 0, -1), -1, 0),
            "swap": lambda: ops.swapaxes(ops.swapaxes(x, 0, 1), 0, 1),
            "transpose": lambda: ops.transpose(ops.transpose(x)),
            "reshape": lambda: ops.reshape(x, (NB_SAMPLES, -1)),
            "reshape to one": lambda: ops.reshape(x, (1, -1)),
            "layer normalization": lambda: L.LayerNormalization(axis=0)(x),
            "unit normalization": lambda: L.UnitNormalization(axis=self.choice(0, -1))(x),
            "normalize": lambda: ops.normalize(x, axis=self.choice(0, -1)),
            "concatenation layer": lambda: L.Concatenate(axis=0)([x, x])[:NB_SAMPLES],
            "cumsum": lambda: ops.cumsum(x, axis=self.choice(0, 1)),
            "take": lambda: ops.take(x, [0, 0, 0, 0], axis=self.choice(0, 1)),
            "sort": lambda: ops.sort(x, axis=self.choice(0, -1)),
            "matmul": lambda: ops.matmul(x, ops.transpose(x)),
            "samples": lambda: x + x[:1],
            "reversed": lambda: x[::-1],
            "one sample": lambda: x - x[0],
        }
        return functions[self.choice(*functions)]()

    @feature
    def slices(self, x: Any) -> Any:
        kind = self.integer(0, 7)
        if kind == 0:
            return x[:, ::-1]
        if kind == 1:
            return x[..., :2]
        if kind == 2:
            return x[:, 1:]
        if kind == 3:
            return x[:, None]
        if kind == 4:
            return x[..., -1:]
        if kind == 5:
            return x[:, ::2]
        if kind == 6:
            return x[..., None]
        return x[:, 0] if len(x.shape) > 2 else x[:, :1]

    @feature
    def python_operators(self, x: Any) -> Any:
        number = self.number(0.5, 2)
        functions = {
            "negative": lambda: -x,
            "absolute": lambda: abs(x),
            "minus": lambda: number - x,
            "twice": lambda: x * x,
            "divided": lambda: x / number,
            "divides": lambda: number / (x + 10),
            "integers": lambda: 2 * x - 1,
            "power": lambda: x**2,
            "root": lambda: ops.abs(x) ** 0.5,
            "modulo": lambda: x % 1.0,
            "floor": lambda: x // 0.5,
            "compared": lambda: ops.cast(x > number, "float32") + x,
            "where": lambda: ops.where(x > 0, x, 0.5 * x),
            "cast": lambda: ops.cast(x, "float64"),
            "sign": lambda: ops.sign(x) + x,
            "stopped": lambda: ops.stop_gradient(x) * 2,
        }
        name = self.choice(*functions)
        certain = ("negative", "absolute", "minus", "twice", "divided", "integers")
        self.may_be_refused |= name not in certain
        return functions[name]()

    # --- layers with a life of their own --------------------------------------------------------

    @feature
    def augmentation(self, x: Any) -> Any:
        layer = self.choice(L.GaussianNoise(0.2), L.Dropout(0.3))
        if len(x.shape) == 4:
            self.varies = True
            self.may_be_refused = True
            settings = {"data_format": self.choice("channels_last", None)}
            layer = self.choice(
                L.RandomFlip("horizontal", seed=1, **settings),
                L.RandomRotation(0.3, seed=1, **settings),
                L.RandomTranslation(0.2, 0.2, seed=1, **settings),
                L.RandomZoom(0.3, seed=1, **settings),
                L.RandomContrast(0.4, seed=1, value_range=(-1, 1)),
                L.RandomBrightness(0.4, value_range=(-1, 1), seed=1),
                L.RandomCrop(4, 4, seed=1, **settings),
                L.Resizing(4, 4, **settings),
                L.CenterCrop(4, 4, **settings),
            )
        return layer(x)

    @feature
    def adapted_normalization(self, x: Any) -> Any:
        policy = "float32" if self.half else None  # statistics are kept in the type of the layer
        layer = L.Normalization(axis=self.choice(-1, None), dtype=policy)
        layer.adapt(self.values((20, *x.shape[1:])).astype("f4"))
        return layer(x)

    @feature
    def changed_after_the_call(self, x: Any) -> Any:
        layer = L.Dense(4, "relu")
        x = layer(x)
        kind = self.choice("activation", "low rank", "integers", "name")
        if kind == "activation":
            layer.activation = keras.activations.get(self.choice("tanh", "linear", "softplus"))
        elif kind == "low rank":
            layer.enable_lora(2)
        elif kind == "integers":
            self.may_be_refused = True
            layer.quantize("int8")
        return x

    @feature
    def subclass(self, x: Any) -> Any:
        self.may_be_refused = True
        inputs = keras.Input(tuple(x.shape[1:]))
        return self.choice(_TwiceDense(3), _Twice(inputs, L.Dense(3)(inputs)))(x)

    @feature
    def wrapped_layer(self, x: Any) -> Any:
        self.may_be_refused = True
        layers = [L.Lambda(lambda z: 2 * z + 1), L.SpectralNormalization(L.Dense(3))]
        layers.append(L.GroupNormalization(1))
        if len(x.shape) == 3:
            layers += [L.TimeDistributed(L.Dense(3, "relu")), L.Bidirectional(L.LSTM(2))]
            layers += [L.SimpleRNN(3), L.MultiHeadAttention(1, 2)]
        layer = self.choice(*layers)
        return layer(x, x) if isinstance(layer, L.MultiHeadAttention) else layer(x)
