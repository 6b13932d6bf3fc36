"""The activation functions of Keras as facts for `relaxations.py`.

A new one needs its value, its derivative, and where it kinks, bends and turns; see `Activation`.
The tables at the end say which functions of Keras they are: nothing else has to be told.

Numbers with many digits are roots of the second (inflections) or first derivative (extrema). The
same facts about the derivative, where it is continuous, give linear bounds of gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from xcertify.bounds.graph.functions import (
    ABSOLUTE,
    COS,
    ERF,
    EXPM1,
    EXPONENTIAL,
    LOG,
    LOG1P,
    LOG2,
    LOG10,
    RECIPROCAL,
    RSQRT,
    SIGN,
    SIN,
    SQRT,
    SQUARE,
    error_of,
)
from xcertify.bounds.graph.relaxations import Activation


def _step(z: Any) -> Any:
    return ops.cast(z > 0, z.dtype)


def _normal_density(z: Any) -> Any:
    return ops.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _normal_distribution(z: Any) -> Any:
    return (1 + ops.erf(z / math.sqrt(2))) / 2


RELU = Activation("relu", ops.relu, _step, kinks=(0.0,), ulps=0, least=0.0)

RELU6 = Activation(
    "relu6",
    lambda z: ops.minimum(ops.relu(z), 6.0),
    lambda z: ops.cast(ops.logical_and(z > 0, z < 6), z.dtype),
    kinks=(0.0, 6.0),
    ulps=0,
    least=0.0,
)


def _sigmoid_slope(z: Any) -> Any:
    return ops.sigmoid(z) * ops.sigmoid(-z)


SIGMOID = Activation(
    "sigmoid",
    ops.sigmoid,
    _sigmoid_slope,
    inflections=(0.0,),
    curvature=0.0963,  # 1 / (6 sqrt 3)
    least=0.0,
    slope=Activation(
        "slope of sigmoid",
        _sigmoid_slope,
        lambda z: -_sigmoid_slope(z) * ops.tanh(z / 2),
        inflections=(-1.3169578969248166, 1.3169578969248166),
        extrema=(0.0,),
        curvature=0.1251,
        absolute_ulps=4,
    ),
)


def _tanh_slope(z: Any) -> Any:
    return 4 * ops.sigmoid(2 * z) * ops.sigmoid(-2 * z)


TANH = Activation(
    "tanh",
    ops.tanh,
    _tanh_slope,
    inflections=(0.0,),
    curvature=0.7699,  # 4 / (3 sqrt 3)
    slope=Activation(
        "slope of tanh",
        _tanh_slope,
        lambda z: -2 * ops.tanh(z) * _tanh_slope(z),
        inflections=(-0.6584789484624083, 0.6584789484624083),
        extrema=(0.0,),
        curvature=2.0001,
        absolute_ulps=32,
    ),
)

SOFTPLUS = Activation(
    "softplus", ops.softplus, ops.sigmoid, curvature=0.25, least=0.0, slope=SIGMOID
)

LOG_SIGMOID = Activation(
    "log_sigmoid",
    lambda z: -ops.softplus(-z),
    lambda z: ops.sigmoid(-z),
    curvature=0.25,
    slope=Activation(
        "slope of log_sigmoid",
        lambda z: ops.sigmoid(-z),
        lambda z: -_sigmoid_slope(z),
        inflections=(0.0,),
        curvature=0.0963,
    ),
)


def _softsign_slope(z: Any) -> Any:
    return 1 / (1 + ops.abs(z)) ** 2


SOFTSIGN = Activation(
    "softsign",
    lambda z: z / (1 + ops.abs(z)),
    _softsign_slope,
    inflections=(0.0,),
    curvature=2.0,
    slope=Activation(
        "slope of softsign",
        _softsign_slope,
        lambda z: -2 * ops.sign(z) / (1 + ops.abs(z)) ** 3,
        kinks=(0.0,),
        curvature=6.0001,
    ),
)

HARD_SIGMOID = Activation(
    "hard_sigmoid",
    lambda z: ops.minimum(ops.relu(z + 3), 6.0) / 6,
    lambda z: ops.cast(ops.logical_and(z > -3, z < 3), z.dtype) / 6,
    kinks=(-3.0, 3.0),
    ulps=6,
    least=0.0,
)

HARD_TANH = Activation(
    "hard_tanh",
    lambda z: ops.minimum(ops.maximum(z, -1.0), 1.0),
    lambda z: ops.cast(ops.logical_and(z > -1, z < 1), z.dtype),
    kinks=(-1.0, 1.0),
    ulps=0,
)

HARD_SILU = Activation(
    "hard_silu",
    lambda z: z * ops.minimum(ops.relu(z + 3), 6.0) / 6,
    lambda z: ops.where(z > 3, 1.0, ops.where(z < -3, 0.0, (2 * z + 3) / 6)),
    kinks=(-3.0, 3.0),
    extrema=(-1.5,),
    curvature=0.3334,
    constant_error=2.0**-23,
)


def _silu_slope(z: Any) -> Any:
    return ops.sigmoid(z) * (1 + z * ops.sigmoid(-z))


SILU = Activation(
    "silu",
    lambda z: z * ops.sigmoid(z),
    _silu_slope,
    inflections=(-2.399357280515468, 2.399357280515468),
    extrema=(-1.278464542761074,),
    curvature=0.5001,
    slope=Activation(
        "slope of silu",
        _silu_slope,
        lambda z: _sigmoid_slope(z) * (2 - z * ops.tanh(z / 2)),
        inflections=(-3.4358409935351113, 0.0, 3.4358409935351113),
        extrema=(-2.399357280515468, 2.399357280515468),
        curvature=0.3083,
        absolute_ulps=16,
    ),
)


def _gelu_slope(z: Any) -> Any:
    return _normal_distribution(z) + z * _normal_density(z)


GELU = Activation(
    "gelu",
    lambda z: z * _normal_distribution(z),
    _gelu_slope,
    inflections=(-math.sqrt(2), math.sqrt(2)),
    extrema=(-0.7517915246935645,),
    curvature=0.7979,  # 2 / sqrt(2 pi)
    constant_noise=2e-8,  # TensorFlow holds sqrt(2) in float32
    slope=Activation(
        "slope of gelu",
        _gelu_slope,
        lambda z: _normal_density(z) * (2 - z * z),
        inflections=(-2.0, 0.0, 2.0),
        extrema=(-math.sqrt(2), math.sqrt(2)),
        curvature=0.7789,
        constant_noise=5e-8,
        absolute_ulps=16,
    ),
)


def _tanh_argument(z: Any) -> Any:
    return math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)


def _gelu_tanh_slope(z: Any) -> Any:
    tanh = ops.tanh(_tanh_argument(z))
    inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)
    return (1 + tanh) / 2 + z * _tanh_slope(_tanh_argument(z)) * inner / 2


def _gelu_tanh_bend(z: Any) -> Any:
    argument = _tanh_argument(z)
    inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)
    turn = math.sqrt(2 / math.pi) * 6 * 0.044715 * z - 2 * ops.tanh(argument) * inner**2
    return _tanh_slope(argument) * (inner + z * turn / 2)


GELU_TANH = Activation(
    "gelu (approximate)",
    lambda z: z * (1 + ops.tanh(_tanh_argument(z))) / 2,
    _gelu_tanh_slope,
    inflections=(-1.418504008790828, 1.418504008790828),
    extrema=(-0.7524614220710163,),
    curvature=0.7979,
    constant_error=2.0**-20,
    constant_noise=1e-8,
    slope=Activation(
        "slope of gelu (approximate)",
        _gelu_tanh_slope,
        _gelu_tanh_bend,
        inflections=(-2.0134807246242583, 0.0, 2.0134807246242583),
        extrema=(-1.418504008790828, 1.418504008790828),
        curvature=0.7768,
        constant_error=2.0**-20,
        constant_noise=5e-8,
        absolute_ulps=64,
    ),
)


def _mish_slope(z: Any) -> Any:
    tanh = ops.tanh(ops.softplus(z))
    return tanh + z * ops.sigmoid(z) * (1 - tanh) * (1 + tanh)


def _mish_bend(z: Any) -> Any:
    tanh, sigmoid = ops.tanh(ops.softplus(z)), ops.sigmoid(z)
    rise = sigmoid * (1 - tanh) * (1 + tanh)
    return rise * (2 + z * (1 - sigmoid - 2 * tanh * sigmoid))


MISH = Activation(
    "mish",
    lambda z: z * ops.tanh(ops.softplus(z)),
    _mish_slope,
    inflections=(-2.256376396360793, 1.490571179485428),
    extrema=(-1.192431214515495,),
    curvature=0.6443,
    slope=Activation(
        "slope of mish",
        _mish_slope,
        _mish_bend,
        inflections=(-3.2673378465204053, -0.0879344313149142, 2.114842563020877),
        extrema=(-2.256376396360793, 1.490571179485428),
        curvature=0.5885,
        absolute_ulps=256,
    ),
)


def elu(alpha: float = 1.0, scale: float = 1.0, stretch: float = 1.0) -> Activation:
    """scale * (z for z > 0, alpha * (exp(z / stretch) - 1) below): ELU, SELU and CELU."""

    def below(z: Any) -> Any:
        return alpha / stretch * ops.exp(ops.minimum(z, 0.0) / stretch)

    def derivative(z: Any) -> Any:
        return scale * ops.where(z > 0, 1.0, below(z))

    # Without slopes of its own a gradient has the room of constants alone.
    is_exact = alpha == stretch and not error_of(alpha, scale)
    constant_error = 0.0 if is_exact else 2.0**-20

    slope = Activation(
        "slope of elu",
        derivative,
        lambda z: ops.where(z > 0, 0.0, scale / stretch * below(z)),
        kinks=(0.0,),
        curvature=1.0001 * abs(scale * alpha) / stretch**3,
        ulps=32,
        constant_error=constant_error,
        absolute_ulps=4 * abs(scale * alpha) / stretch,
    )
    return Activation(
        "elu",
        lambda z: scale * ops.where(z > 0, z, alpha * ops.expm1(ops.minimum(z, 0.0) / stretch)),
        derivative,
        kinks=(0.0,),
        extrema=(0.0,),
        curvature=1.0001 * abs(scale * alpha) / stretch**2,
        ulps=32,
        constant_error=constant_error,
        absolute_ulps=4 * abs(scale * alpha),  # TensorFlow takes exp(z) - 1
        slope=slope if alpha == stretch else None,
    )


TANH_SHRINK = Activation(
    "tanh_shrink",
    lambda z: z - ops.tanh(z),
    lambda z: ops.tanh(z) ** 2,
    inflections=(0.0,),
    curvature=0.7699,  # 4 / (3 sqrt 3)
    absolute_ulps=16,
    slope=Activation(
        "slope of tanh_shrink",
        lambda z: ops.tanh(z) ** 2,
        lambda z: 2 * ops.tanh(z) * _tanh_slope(z),
        inflections=(-0.6584789484624083, 0.6584789484624083),
        extrema=(0.0,),
        curvature=2.0001,
        absolute_ulps=32,
    ),
)

SPARSE_PLUS = Activation(
    "sparse_plus",
    lambda z: ops.where(z < 1, ops.square(ops.relu(z + 1)) / 4, z),
    lambda z: ops.clip((z + 1) / 2, 0.0, 1.0),
    curvature=0.5001,
    slope=Activation(
        "slope of sparse_plus",
        lambda z: ops.clip((z + 1) / 2, 0.0, 1.0),
        lambda z: ops.cast(ops.logical_and(z > -1, z < 1), z.dtype) / 2,
        kinks=(-1.0, 1.0),
        ulps=4,
    ),
)

SPARSE_SIGMOID = Activation(
    "sparse_sigmoid",
    lambda z: ops.clip((z + 1) / 2, 0.0, 1.0),
    lambda z: ops.cast(ops.logical_and(z > -1, z < 1), z.dtype) / 2,
    kinks=(-1.0, 1.0),
    ulps=4,
)


def soft_shrink(threshold: float = 0.5) -> Activation:
    """z - threshold above the threshold, z + threshold below its negative, 0 between."""
    if threshold < 0:
        raise ValueError(f"threshold must be at least 0. Received: {threshold}")
    return Activation(
        "soft_shrink",
        lambda z: z - ops.clip(z, -threshold, threshold),
        lambda z: ops.cast(ops.abs(z) > threshold, z.dtype),
        kinks=(-threshold, threshold),
        ulps=2,
        constant_error=error_of(threshold),
        constant_noise=error_of(threshold) * threshold,
    )


SELU = elu(alpha=1.6732632423543772, scale=1.0507009873554805)


def leaky_relu(negative_slope: float | Callable[[], Any]) -> Activation:
    """max(z, 0) + negative_slope * min(z, 0); a callable gives the current slopes (PReLU).

    A number is rounded to float32, in which TensorFlow takes it whatever it computes in.
    """

    def slope(z: Any) -> Any:
        own = negative_slope() if callable(negative_slope) else np.float32(negative_slope)
        return ops.cast(own, z.dtype)

    return Activation(
        "leaky_relu",
        lambda z: ops.where(z > 0, z, slope(z) * z),
        lambda z: ops.where(z > 0, ops.ones_like(z), slope(z) * ops.ones_like(z)),
        kinks=(0.0,),
        ulps=3,
        uniform=not callable(negative_slope),
    )


def smooth_rectifier(beta: float, negative_slope: float = 0.0) -> Activation:
    """negative_slope * z + (1 - negative_slope) * softplus(beta z) / beta.

    Parameters
    ----------
    beta
        Sharpness, above 0: the larger, the nearer to a ReLU.
    negative_slope
        Slope far below 0, that of a leaky ReLU.
    """
    rest = 1 - negative_slope

    def derivative(z: Any) -> Any:
        return negative_slope + rest * ops.sigmoid(beta * z)

    return Activation(
        "softplus with beta",
        lambda z: negative_slope * z + rest * ops.softplus(beta * z) / beta,
        derivative,
        extrema=(math.log(-negative_slope) / beta,) if negative_slope < 0 else (),
        curvature=0.2501 * beta * abs(rest),
        ulps=64,
        constant_error=2.0**-24,
        slope=Activation(
            "slope of softplus with beta",
            derivative,
            lambda z: beta * rest * _sigmoid_slope(beta * z),
            inflections=(0.0,),
            curvature=0.0963 * beta**2 * abs(rest),
            constant_error=2.0**-24,
        ),
    )


def rectifier(negative_slope: float, max_value: float | None, threshold: float) -> Activation:
    """The general `keras.layers.ReLU`.

    z above the threshold (cut to [0, max_value] if there is a largest value), and
    negative_slope * (z - threshold) below. With a threshold other than 0 it jumps there.
    """
    if max_value is not None and max_value < 0:
        raise ValueError(f"max_value must be at least 0. Received: {max_value}")

    def value(z: Any) -> Any:
        passed = ops.where(z > threshold, z, 0.0)
        if max_value is not None:
            passed = ops.minimum(ops.relu(passed), max_value)
        return passed - negative_slope * ops.relu(threshold - z)

    def derivative(z: Any) -> Any:
        inside = z > threshold
        if max_value is not None:
            inside = ops.logical_and(inside, ops.logical_and(z > 0, z < max_value))
        slope = ops.cast(inside, z.dtype)
        return slope + negative_slope * ops.cast(z < threshold, z.dtype)

    kinks = {float(threshold)}
    if threshold:
        kinks.add(float(np.nextafter(threshold, np.inf)))
    if max_value is not None:
        kinks |= {0.0, float(max_value)}
    return Activation(
        "relu",
        value,
        derivative,
        kinks=tuple(sorted(kinks)),
        ulps=6,
        constant_error=error_of(negative_slope, threshold, max_value or 0.0),
        continuous=not threshold,
    )


# --- which functions of Keras they are ----------------------------------------------------------

# By name in `keras.activations`, and in `keras.ops` where it is not in the next table.
FUNCTIONS: dict[str, Activation] = {
    "relu": RELU,
    "relu6": RELU6,
    "leaky_relu": leaky_relu(0.2),
    "elu": elu(),
    "selu": SELU,
    "celu": elu(),
    "gelu": GELU,
    "silu": SILU,
    "sigmoid": SIGMOID,
    "hard_sigmoid": HARD_SIGMOID,
    "hard_silu": HARD_SILU,
    "hard_tanh": HARD_TANH,
    "log_sigmoid": LOG_SIGMOID,
    "tanh": TANH,
    "tanh_shrink": TANH_SHRINK,
    "soft_shrink": soft_shrink(),
    "softplus": SOFTPLUS,
    "softsign": SOFTSIGN,
    "sparse_plus": SPARSE_PLUS,
    "sparse_sigmoid": SPARSE_SIGMOID,
    "exponential": EXPONENTIAL,
    "mish": MISH,
}

# By name in `keras.ops`: those that `keras.activations` does not have, or has with other defaults.
OPS: dict[str, Activation] = {
    "abs": ABSOLUTE,
    "absolute": ABSOLUTE,
    "erf": ERF,
    "exp": EXPONENTIAL,
    "sin": SIN,
    "cos": COS,
    "gelu": GELU_TANH,
    "square": SQUARE,
}

# By the class of the node that they are in a functional model, called on a tensor of it; a function
# where the node has settings.
NODES: dict[str, Activation | Callable[[Any], Activation]] = {
    "Relu": RELU,
    "ReLU": lambda node: rectifier(node.negative_slope, node.max_value, node.threshold),
    "Relu6": RELU6,
    "LeakyRelu": lambda node: leaky_relu(float(node.negative_slope)),
    "Elu": lambda node: elu(float(node.alpha)),
    "Selu": SELU,
    "Celu": lambda node: elu(float(node.alpha), stretch=float(node.alpha)),
    "Gelu": lambda node: GELU_TANH if node.approximate else GELU,
    "Silu": SILU,
    "Sigmoid": SIGMOID,
    "HardSigmoid": HARD_SIGMOID,
    "HardSilu": HARD_SILU,
    "HardTanh": HARD_TANH,
    "LogSigmoid": LOG_SIGMOID,
    "Tanh": TANH,
    "TanhShrink": TANH_SHRINK,
    "SoftShrink": lambda node: soft_shrink(float(node.threshold)),
    "Softplus": SOFTPLUS,
    "Softsign": SOFTSIGN,
    "SparsePlus": SPARSE_PLUS,
    "SparseSigmoid": SPARSE_SIGMOID,
    "Exp": EXPONENTIAL,
    "Square": SQUARE,
    "Absolute": ABSOLUTE,
    "Sqrt": SQRT,
    "Rsqrt": RSQRT,
    "Reciprocal": RECIPROCAL,
    "Log": LOG,
    "Log1p": LOG1P,
    "Log2": LOG2,
    "Log10": LOG10,
    "Expm1": EXPM1,
    "Sin": SIN,
    "Cos": COS,
    "Erf": ERF,
    "Sign": SIGN,
}


def of_node(node: Any) -> Activation:
    """What is known of a node whose class is in `NODES`."""
    facts = NODES[type(node).__name__]
    return facts if isinstance(facts, Activation) else facts(node)
