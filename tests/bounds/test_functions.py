"""Functions of `keras.ops`, normalizations and images against what Keras computes.

As in `test_rules.py`: each docstring lists what was read in the source of Keras 3.10 and 3.15.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from networks import functional
from rotation import in_turn
from test_rules import FIRST, IMAGE, SERIES, VECTOR, assert_agrees, assert_refused, made, network

from xcertify.bounds import Verifier
from xcertify.regions import Box

pytestmark = pytest.mark.usefixtures("eager")


def positive(h):
    return ops.softplus(h) + 0.1


SCALARS = {
    "sqrt": lambda h: ops.sqrt(positive(h)),
    "sqrt of a square": lambda h: ops.sqrt(ops.square(h)),
    "rsqrt": lambda h: ops.rsqrt(positive(h)),
    "reciprocal": lambda h: ops.reciprocal(h - 5),
    "log": lambda h: ops.log(positive(h)),
    "log of clip": lambda h: ops.log(ops.clip(ops.softmax(9 * h), 1e-7, 1.0)),
    "log of a sum": lambda h: ops.log(ops.relu(30 * h) + 1e-6),
    "log1p of what may be below 0": lambda h: ops.log1p(ops.maximum(h, -0.5)),
    "log1p": lambda h: ops.log1p(ops.square(h)),
    "log2": lambda h: ops.log2(positive(h)),
    "log10": lambda h: ops.log10(positive(h)),
    "expm1": ops.expm1,
    "sin": lambda h: ops.sin(9 * h),
    "cos": lambda h: ops.cos(9 * h),
    "erf": ops.erf,
    "sign": ops.sign,
    "clip": lambda h: ops.clip(h, -0.3, 0.4),
    "clip to one number": lambda h: ops.clip(h, 0.4, -0.3),
    "power 0": lambda h: h**0,
    "power 1": lambda h: h**1,
    "power 3": lambda h: h**3,
    "power 4": lambda h: h**4.0,
    "power 1/3": lambda h: positive(h) ** (1 / 3),
    "power -2": lambda h: (h - 5) ** -2,
    "power -1.5": lambda h: positive(h) ** -1.5,
    "where": lambda h: ops.where(np.array([True, False, True]), h, -1.0),
    "where both move": lambda h: ops.where(np.arange(18).reshape(1, 6, 3) % 2, h, 2 * h),
    "where the condition moves": lambda h: ops.where(h > 0.1, h, 0.2 * h),
}
REDUCTIONS = {
    "max": lambda h: ops.max(h, axis=1),
    "max of all": lambda h: ops.max(h, axis=[1, 2], keepdims=True),
    "max with initial": lambda h: ops.max(h, axis=-1, initial=0.2),
    "min": lambda h: ops.min(h, axis=2, keepdims=True),
    "min with initial": lambda h: ops.min(h, axis=1, initial=0.2),
    "amax": lambda h: ops.amax(h, axis=1),
    "amin": lambda h: ops.amin(h, axis=(1, 2)),
    "cumsum": lambda h: ops.cumsum(h, axis=-2),
    "prod": lambda h: ops.prod(h + 1, axis=-1),
    "prod of all": lambda h: ops.prod(h + 1, axis=[1, 2], keepdims=True),
    "var": lambda h: ops.var(h, axis=1),
    "var of all": lambda h: ops.var(h, axis=[1, 2], keepdims=True),
    "std": lambda h: ops.std(h, axis=-1),
    "logsumexp": lambda h: ops.logsumexp(5 * h, axis=(-1,)),
    "logsumexp of all": lambda h: ops.logsumexp(h, axis=(1, 2), keepdims=True),
    "log_softmax": lambda h: ops.log_softmax(h, axis=1),
    "norm": lambda h: ops.norm(h, axis=1),
    "norm of matrices": lambda h: ops.norm(h, ord="fro", axis=(1, 2), keepdims=True),
    "norm 1": lambda h: ops.norm(h, ord=1, axis=-1, keepdims=True),
    "norm inf": lambda h: ops.norm(h, ord=float("inf"), axis=1),
    "normalize": lambda h: ops.normalize(h, axis=1),
    "normalize with epsilon": lambda h: ops.normalize(h, axis=-1, epsilon=0.5),
    "rms": lambda h: ops.rms_normalization(h, scale=np.array([1, 2, 0.3], "float32"), axis=-1),
}


@pytest.mark.parametrize("name", in_turn([*SCALARS], 5))
def test_scalars(name):
    """`clip`: `x_min`, `x_max` as numbers, arrays are refused; `power`: constant exponents, also
    where these are 0 and 1; `where`: a condition that is constant or moves.
    """
    assert_agrees(network(SERIES, SCALARS[name]))


@pytest.mark.parametrize("name", in_turn([*REDUCTIONS], 5))
def test_reductions(name):
    """`axis`, `keepdims`, `initial` of max and min, `ord` of norm, `epsilon` of normalize."""
    assert_agrees(network(SERIES, REDUCTIONS[name]))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda h: ops.clip(h, np.zeros(3), 1.0), "between two numbers"),
        (lambda h: ops.power(2.0, h), "one number as exponent"),
        (lambda h: ops.power(h, np.array([1.0, 2.0, 3.0])), "one number as exponent"),
        (lambda h: ops.norm(h, ord=3, axis=1), "ord=3"),
        (lambda h: ops.norm(h, ord=2, axis=(1, 2)), "ord=2"),
        (lambda h: ops.normalize(h, order=1), "order=1"),
        (lambda h: ops.cumsum(h, axis=1, dtype="int32"), "dtype='int32'"),
        (ops.max, "mixes samples"),
        (lambda h: ops.std(h, axis=0), "mixes samples"),
    ],
)
def test_arguments_that_are_refused(build, words):
    assert_refused(network(SERIES, build), words)


@pytest.mark.parametrize("function", [ops.log, ops.sqrt, ops.rsqrt, ops.reciprocal])
def test_nothing_is_proved_where_a_function_has_no_value(function):
    inputs = keras.Input((3,))
    model = functional(inputs, L.Dense(2)(function(L.Dense(4)(inputs) + 0.5)))
    center, width = np.zeros((2, 3), "float32"), np.array([[1e-3], [9.0]])
    model.layers[1].set_weights([np.eye(3, 4, dtype="float32"), np.ones(4, "float32")])
    region = Box(center - width, center + width)
    for method in ("ibp", "crown"):
        lower, upper = Verifier(model, method).bound_outputs(region)
        assert np.isfinite(lower[0]).all() and np.isfinite(upper[0]).all()
        assert (lower[1] == -np.inf).all() and (upper[1] == np.inf).all()


def test_a_root_of_squares_is_defined_at_zero():
    """Though intervals of large numbers, rounded to float32, end below 0."""
    inputs = keras.Input((8,))
    size = ops.sqrt(ops.mean(ops.square(1000 * inputs), axis=1, keepdims=True) + 1e-6)
    model = keras.Model(inputs, L.Dense(2)(size))
    region = Box(np.full((1, 8), -0.1), np.full((1, 8), 1.0))
    for method in ("ibp", "crown"):
        assert np.isfinite(Verifier(model, method).bound_outputs(region)).all()


NORMALIZATIONS = {
    "rms": (SERIES, L.RMSNormalization()),
    "rms of an axis": ((3, 3), L.RMSNormalization(axis=1, epsilon=0.1)),
    "rms of axes": (IMAGE, L.RMSNormalization(axis=[-2, -1])),
    "unit": (SERIES, L.UnitNormalization()),
    "unit of axes": (IMAGE, L.UnitNormalization(axis=(1, 3))),
    "groups": ((4, 3, 6), L.GroupNormalization(3)),
    "instances": ((4, 3, 6), L.GroupNormalization(-1, epsilon=0.1, scale=False)),
    "groups of an axis": ((4, 3, 2), L.GroupNormalization(2, axis=1, center=False)),
    "groups of a negative axis": ((3, 4, 2), L.GroupNormalization(2, axis=-2)),
    "groups of vectors": ((6,), L.GroupNormalization(2, scale=False, center=False)),
    "spectral": (IMAGE, made(L.SpectralNormalization, L.Conv2D(3, 2))),
}


@pytest.mark.parametrize("name", in_turn([*NORMALIZATIONS], 3))
def test_normalizations(name):
    """RMS: `axis`, `epsilon`, a scale along the last axes whichever are named. Unit: `axis`.
    Group: `groups`, `axis`, `epsilon`, `center`, `scale`. Spectral: nothing at inference.
    """
    shape, build = NORMALIZATIONS[name]
    assert_agrees(network(shape, build))


@pytest.mark.filterwarnings("ignore:You passed `rms_scaling")
def test_layer_normalization_of_the_scale_alone():
    """`rms_scaling` divides by the deviation and keeps the mean."""
    assert_agrees(network((4,), L.LayerNormalization(rms_scaling=True)))


@pytest.mark.parametrize(
    "layer", in_turn([L.LayerNormalization, L.RMSNormalization, L.UnitNormalization], 1)
)
def test_lines_of_normalizations_are_tighter_than_intervals(layer):
    inputs = keras.Input((6,))
    h = L.Activation("relu")(layer()(L.Dense(6)(inputs)))
    model = functional(inputs, L.Dense(2)(h))
    center = np.random.default_rng(0).normal(size=(3, 6))
    region = Box(center - 0.02, center + 0.02)
    widths = []
    for method in ("ibp", "crown-ibp", "crown"):
        lower, upper = Verifier(model, method).bound_outputs(region)
        widths.append(float(np.mean(upper - lower)))
    assert widths[1] < 0.6 * widths[0]
    assert widths[2] <= widths[1] * (1 + 1e-5)


IMAGES = {
    "bilinear": L.Resizing(5, 6),
    "nearest": L.Resizing(11, 4, "nearest"),
    "bicubic": L.Resizing(9, 5, "bicubic"),
    "lanczos3": L.Resizing(9, 5, "lanczos3"),
    "lanczos5": L.Resizing(4, 11, "lanczos5"),
    "antialias": L.Resizing(4, 4, antialias=True),
    "crop": L.Resizing(5, 5, crop_to_aspect_ratio=True),
    "pad": L.Resizing(5, 5, pad_to_aspect_ratio=True, fill_value=0.5),
    "center": L.CenterCrop(4, 5),
    "center of small ones": L.CenterCrop(8, 5),
    "channels first": L.Resizing(3, 6, **FIRST),
    "center, channels first": L.CenterCrop(4, 5, **FIRST),
}


@pytest.mark.parametrize("name", in_turn([*IMAGES], 3))
def test_images(name):
    """Resizing: `height`, `width`, `interpolation`, `crop_to_aspect_ratio`, `pad_to_aspect_ratio`,
    `fill_value`, `antialias`, `data_format`. CenterCrop: sizes, larger than the image too.
    """
    shape = (2, 6, 7) if "first" in name else (6, 7, 2)
    assert_agrees(network(shape, IMAGES[name]))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (L.Discretization(bin_boundaries=[0.0, 1.0]), "start_layer='discretization"),
        (L.CategoryEncoding(4), "start_layer='category_encoding"),
        (L.Hashing(4), "start_layer='hashing"),
        (L.IntegerLookup(vocabulary=[1, 2]), "start_layer='integer_lookup"),
        (L.Lambda(lambda x: 2 * x), "register_affine"),
    ],
)
def test_layers_that_are_refused_with_a_cure(layer, words):
    dtype = "int64" if isinstance(layer, (L.Hashing, L.IntegerLookup)) else "float32"
    inputs = keras.Input(VECTOR, dtype=dtype)
    assert_refused(keras.Model(inputs, layer(inputs)), words)


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("kind", ["Dense", "EinsumDense"])
def test_quantized_layers_are_refused(kind, mode):
    layer = L.Dense(4) if kind == "Dense" else L.EinsumDense("ab,bc->ac", 4)
    model = network(VECTOR, layer)
    try:
        layer.quantize(mode)
    except ValueError:
        pytest.skip("this Keras has no such mode")
    assert_refused(model, rf"quantized \({mode}\)")
