"""Primitive operations of a bounded graph: one class, one rule.

Every Keras layer is translated (in `layers.py`) to a few of these. An operation knows how to bound
itself over intervals of its inputs and how to pull a linear function of its output back to its
inputs; it knows nothing of the graph around it.

Tensors are described by `Enclosure`: a float64 reference value and an interval of deviations from
it. Operations map deviations to deviations, see `rounding.py` for why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from keras import ops

from xcertify.bounds import backend, relaxations
from xcertify.bounds.relaxations import Activation
from xcertify.bounds.rounding import gamma, round_down, round_up

_NEVER = -1e30  # stands for entries that cannot be the largest


class Enclosure(NamedTuple):
    """All values a tensor can take: reference + [lower, upper], elementwise, (N, *shape)."""

    reference: Any  # float64
    lower: Any  # working type
    upper: Any  # working type

    @property
    def deviation(self) -> Any:
        """Largest distance from the reference."""
        return ops.maximum(ops.abs(self.lower), ops.abs(self.upper))

    def absolute(self) -> tuple[Any, Any]:
        """The interval itself, in float64."""
        return (
            self.reference + ops.cast(self.lower, "float64"),
            self.reference + ops.cast(self.upper, "float64"),
        )


@dataclass(frozen=True)
class Precision:
    """In which arithmetic a bound is computed, and of which network it holds.

    Attributes
    ----------
    dtype
        Working type of everything that grows with the number of rows.
    network_dtype
        None: bounds hold for the network in real arithmetic. "float32": they hold as well for the
        network evaluated in float32, sums in any order.
    """

    dtype: str = "float32"
    network_dtype: str | None = None

    def network_error(self, nb_terms: int) -> float:
        """Relative rounding error that the network itself makes in a sum of `nb_terms`."""
        return gamma(nb_terms, self.network_dtype) if self.network_dtype and nb_terms else 0.0


class Relaxed(NamedTuple):
    """An operation over given intervals, ready to be pulled back through.

    ``lower <= output - linear part of the inputs <= upper`` in deviations, (N, *shape),
    or None where it is exactly zero; `slopes` is what `Operation.pull_back` needs beside.
    """

    lower: Any = None
    upper: Any = None
    slopes: tuple = ()


class Operation:
    """A function of tensors that can be bounded.

    `exact_affine` says that the linear bounds are the operation itself: intervals lose nothing on a
    box, and `bend` is never asked.
    """

    exact_affine = False

    def evaluate(self, *inputs: Any) -> Any:
        """The function itself, in the type of its inputs."""
        raise NotImplementedError

    def interval(
        self, inputs: Sequence[Enclosure], reference: Any, precision: Precision
    ) -> Enclosure:
        """Interval image of a box, around the given reference value of the output."""
        raise NotImplementedError

    def relax(
        self, inputs: Sequence[Enclosure], output: Enclosure, precision: Precision
    ) -> Relaxed:
        """Linear bounds over a box."""
        raise NotImplementedError

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """Coefficients (N, S, *out) of an upper bound as coefficients (N, S, *in) of each input."""
        raise NotImplementedError

    def bend(self, inputs: Sequence[Enclosure]) -> list[Any]:
        """For each input a mask (N, *shape): entries whose bounds decide the relaxation."""
        raise NotImplementedError


class Affine(Operation):
    """``apply(*inputs, *weights) + bias``, linear in the inputs for fixed weights.

    Parameters
    ----------
    apply
        A function of the inputs and the weights, multilinear, made of sums of products only, so
        that with absolute weights it bounds absolute values.
    nb_inputs
        How many of its arguments are inputs.
    weights
        Called for the current weights: numpy arrays, tensors or variables of any floating type.
    bias
        Called for the current bias, broadcastable to the output.
    bias_size
        Called for the sum of the absolute values that the bias is computed from, where that is
        more than its own absolute value.
    nb_terms
        Most products summed for one entry of the output; 0 where entries are only moved.
    nb_terms_back
        Most products summed for one entry of an input in the transposed map.
    weight_error
        Relative error of the weights in units of the unit roundoff (0: stored as they are).
    """

    exact_affine = True

    def __init__(
        self,
        apply: Callable[..., Any],
        *,
        nb_inputs: int = 1,
        weights: Callable[[], Sequence[Any]] = tuple,
        bias: Callable[[], Any] | None = None,
        bias_size: Callable[[], Any] | None = None,
        nb_terms: int = 0,
        nb_terms_back: int = 0,
        weight_error: int = 0,
    ) -> None:
        self.apply, self.nb_inputs = apply, nb_inputs
        self.weights, self.bias, self.bias_size = weights, bias, bias_size or bias
        self.nb_terms, self.nb_terms_back = nb_terms, nb_terms_back
        self.weight_error = weight_error

    def linear(self, *inputs: Any) -> Any:
        """The linear part."""
        dtype = inputs[0].dtype
        return self.apply(*inputs, *(ops.cast(w, dtype) for w in self.weights()))

    def absolute(self, *inputs: Any) -> Any:
        """The linear part with absolute weights: bounds of absolute values."""
        dtype = inputs[0].dtype
        weights = [ops.abs(ops.cast(w, dtype)) for w in self.weights()]
        return self.apply(*inputs, *weights)

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        outputs = self.linear(*inputs)
        return outputs if self.bias is None else outputs + ops.cast(self.bias(), outputs.dtype)

    def interval(
        self, inputs: Sequence[Enclosure], reference: Any, precision: Precision
    ) -> Enclosure:
        """See `Operation`: image of the middle, plus and minus the absolute map of the radius."""
        if self.nb_terms == 0:
            return Enclosure(
                reference,
                self.linear(*(e.lower for e in inputs)),
                self.linear(*(e.upper for e in inputs)),
            )
        dtype = precision.dtype
        rounding = gamma(self.nb_terms + 8, dtype)
        middles = [(e.lower + e.upper) / 2 for e in inputs]
        radii = [
            ops.maximum(e.upper - m, m - e.lower) + rounding * ops.abs(m)
            for e, m in zip(inputs, middles)
        ]
        noise, bias_noise = self._noise(inputs, precision)
        radius = self.absolute(*(r + n for r, n in zip(radii, noise)))
        radius = (radius + bias_noise) * (1.0 + 2.0 * rounding)
        middle = self.linear(*middles)
        return Enclosure(reference, middle - radius, middle + radius)

    def relax(
        self, inputs: Sequence[Enclosure], output: Enclosure, precision: Precision
    ) -> Relaxed:
        """See `Operation`: nothing is lost but roundings."""
        if self.nb_terms == 0:
            return Relaxed()
        rounding = gamma(self.nb_terms_back + 8, precision.dtype)
        noise, bias_noise = self._noise(inputs, precision)
        error = self.absolute(*(n + rounding * e.deviation for n, e in zip(noise, inputs)))
        error = (error + bias_noise) * (1.0 + 2.0 * gamma(self.nb_terms + 8, precision.dtype))
        return Relaxed(-error, error)

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`: the transposed linear map."""
        nb_samples, nb_rows = ops.shape(coefficients)[:2]
        flat = ops.reshape(coefficients, (-1, *coefficients.shape[2:]))
        pulled = backend.transpose(self.linear, shapes, flat)
        return [ops.reshape(p, (nb_samples, nb_rows, *shape)) for p, shape in zip(pulled, shapes)]

    def _noise(self, inputs: Sequence[Enclosure], precision: Precision) -> tuple[list[Any], Any]:
        """Errors that do not shrink with the region, as input noise and bias noise.

        The float64 reference pass, the weights' own error and, if asked for, the network's float32
        arithmetic are all relative to absolute values, |W| |x| + |b|.
        """
        dtype = precision.dtype
        nominal = gamma(self.nb_terms + self.weight_error + 4, "float64")
        network = precision.network_error(self.nb_terms + self.weight_error + 1)
        noise = [
            (nominal + network) * ops.cast(ops.abs(e.reference), dtype)
            + (network + self.weight_error * gamma(1, "float64")) * e.deviation
            for e in inputs
        ]
        if self.bias is None:
            return noise, 0.0
        return noise, (nominal + network) * ops.abs(ops.cast(self.bias_size(), dtype))


class Elementwise(Operation):
    """A scalar nonlinearity applied to every entry."""

    def __init__(self, activation: Activation) -> None:
        self.activation = activation

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        return self.activation.value(inputs[0])

    def interval(
        self, inputs: Sequence[Enclosure], reference: Any, precision: Precision
    ) -> Enclosure:
        """See `Operation`."""
        lower, upper = relaxations.image(self.activation, *inputs[0].absolute())
        noise = self._noise(lower, upper, precision)
        return Enclosure(
            reference,
            round_down(lower - noise - reference, precision.dtype),
            round_up(upper + noise - reference, precision.dtype),
        )

    def relax(
        self, inputs: Sequence[Enclosure], output: Enclosure, precision: Precision
    ) -> Relaxed:
        """See `Operation`: the lines of `relaxations.lines`, moved to deviations."""
        (enclosure,) = inputs
        lower, upper = enclosure.absolute()
        lines = relaxations.lines(self.activation, lower, upper, precision.dtype)
        noise = self._noise(*output.absolute(), precision)
        steepest = ops.maximum(ops.abs(lines.lower_slope), ops.abs(lines.upper_slope))
        # One rounding of coefficient * slope, one of a sum of coefficients.
        noise += ops.cast(gamma(4, precision.dtype) * steepest * enclosure.deviation, "float64")
        at_lower = ops.cast(lines.lower_slope, "float64") * enclosure.reference
        at_upper = ops.cast(lines.upper_slope, "float64") * enclosure.reference
        unit = gamma(4, "float64")
        size = ops.maximum(ops.abs(at_lower), ops.abs(at_upper)) + ops.abs(output.reference)
        noise += unit * (
            size + ops.maximum(ops.abs(lines.lower_intercept), ops.abs(lines.upper_intercept))
        )
        below = at_lower + lines.lower_intercept - output.reference - noise
        above = at_upper + lines.upper_intercept - output.reference + noise
        return Relaxed(
            round_down(below, precision.dtype),
            round_up(above, precision.dtype),
            (lines.lower_slope, lines.upper_slope),
        )

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`: the upper line where the coefficient is positive, else the lower."""
        below, above = (slope[:, None] for slope in relaxed.slopes)
        return [coefficients * ops.where(coefficients > 0, above, below)]

    def bend(self, inputs: Sequence[Enclosure]) -> list[Any]:
        """See `Operation`."""
        return [relaxations.is_bent(self.activation, *inputs[0].absolute())]

    def _noise(self, lower: Any, upper: Any, precision: Precision) -> Any:
        """The network's own rounding of constants and, if asked for, of the value; float64."""
        error = precision.network_error(int(self.activation.ulps))
        error += self.activation.constant_error
        return error * ops.maximum(ops.abs(lower), ops.abs(upper))


class Largest(Operation):
    """Maximum over the last axis; `valid` (*shape of the input) marks the entries that count."""

    def __init__(self, valid: Any = None) -> None:
        self.valid = valid

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        return ops.max(self._hide(inputs[0]), axis=-1)

    def interval(
        self, inputs: Sequence[Enclosure], reference: Any, precision: Precision
    ) -> Enclosure:
        """See `Operation`."""
        lower, upper = inputs[0].absolute()
        slack = gamma(4, "float64") * ops.max(ops.abs(self._hide(lower, 0.0)), axis=-1)
        return Enclosure(
            reference,
            round_down(self.evaluate(lower) - reference - slack, precision.dtype),
            round_up(self.evaluate(upper) - reference + slack, precision.dtype),
        )

    def relax(
        self, inputs: Sequence[Enclosure], output: Enclosure, precision: Precision
    ) -> Relaxed:
        """See `Operation`.

        Below: the entry with the largest lower bound, floor. Above: that entry where it dominates
        all others; else, whichever is lower in the middle of the box, the constant max(upper) or
        ``floor + sum_i chord_i (x_i - lower_i)``, the chords of max(x_i - floor, 0) summed.
        """
        (enclosure,) = inputs
        dtype = precision.dtype
        lower, upper = (self._hide(side) for side in enclosure.absolute())
        nb_entries = lower.shape[-1]
        floor = ops.max(lower, axis=-1, keepdims=True)
        first = ops.one_hot(ops.argmax(lower, axis=-1), nb_entries, dtype="float64")
        reach = ops.maximum(upper - floor, 0.0)
        chords = reach / ops.where(reach > 0, upper - lower, 1.0)
        height = floor[..., 0] + ops.sum(chords * (upper - lower) / 2, axis=-1)
        dominated = ops.max(ops.where(first > 0, floor, upper), axis=-1) <= floor[..., 0]
        slopes = ops.where((height < ops.max(upper, axis=-1))[..., None], chords, 0.0)
        slopes = ops.where(dominated[..., None], first, slopes)
        slopes = ops.cast(ops.cast(slopes, dtype), "float64")
        # Proved for the rounded slopes s >= 0: where entry j is the largest, the gap to
        # sum_i s_i x_i is at most (1 - s_j) x_j - sum_(i != j) s_i lower_i, and x_j >= floor.
        own = slopes * lower
        others = ops.sum(own, axis=-1, keepdims=True) - own
        gaps = ops.maximum((1.0 - slopes) * upper, (1.0 - slopes) * lower) - others
        intercept = ops.max(ops.where(upper >= floor, gaps, _NEVER), axis=-1)
        reference = self._hide(enclosure.reference, 0.0)
        size = ops.max(ops.abs(self._hide(lower, 0.0)) + ops.abs(self._hide(upper, 0.0)), axis=-1)
        slack = gamma(4 * nb_entries + 8, "float64") * (
            size * (1.0 + ops.sum(slopes, axis=-1)) + ops.abs(output.reference)
        )
        deviation = ops.cast(self._hide(enclosure.deviation, 0.0), "float64")
        slack += gamma(4, dtype) * ops.sum((slopes + first) * deviation, axis=-1)
        above = intercept + ops.sum(slopes * reference, axis=-1) - output.reference + slack
        below = ops.sum(first * reference, axis=-1) - output.reference - slack
        return Relaxed(
            round_down(below, dtype),
            round_up(above, dtype),
            (ops.cast(first, dtype), ops.cast(slopes, dtype)),
        )

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`."""
        below, above = (slope[:, None] for slope in relaxed.slopes)
        spread = coefficients[..., None]
        return [spread * ops.where(spread > 0, above, below)]

    def bend(self, inputs: Sequence[Enclosure]) -> list[Any]:
        """See `Operation`: entries of windows that no entry dominates, and that could win."""
        lower, upper = (self._hide(side) for side in inputs[0].absolute())
        floor = ops.max(lower, axis=-1, keepdims=True)
        contenders = upper > floor
        several = ops.sum(ops.cast(contenders, "int32"), axis=-1, keepdims=True) > 1
        return [ops.logical_and(contenders, several)]

    def _hide(self, values: Any, filler: float = _NEVER) -> Any:
        if self.valid is None:
            return values
        return ops.where(self.valid, values, ops.cast(filler, values.dtype))
