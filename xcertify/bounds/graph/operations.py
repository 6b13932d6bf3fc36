"""Primitive operations of a bounded graph: one class, one rule.

Every Keras layer is translated (in `rules/`) to a few of these. An operation knows how to bound
itself over intervals of its inputs and how to pull a linear function of its output back to its
inputs; it knows nothing of the graph around it.

Tensors are described by `Enclosure`: a float64 reference value and an interval of deviations from
it. Operations map deviations to deviations, see `rounding.py` for why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.graph import relaxations
from xcertify.bounds.graph.relaxations import Activation
from xcertify.bounds.rounding import relative_error, round_down, round_up

_LARGEST_PART = 2**17  # places that are bounded at once


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
class Options:
    """How bounds are computed, and of which network they hold.

    Attributes
    ----------
    dtype
        Working type of everything that grows with the number of rows.
    network_dtype
        None: bounds hold for the network in real arithmetic. "float32" (or "float64"): they hold as
        well for the network evaluated in it, sums in any order. "float16" and "bfloat16" are for
        comparisons, and prove nothing.
    lower_slope
        Slope of the line under an activation, see `relaxations.relaxation`.
    alternatives
        Whether a relaxation comes with a second pair of lines, to be mixed with the first.
    backward_depth
        See `propagation.depth`: a number of nonlinear layers, None for all, or "auto".
    """

    dtype: str = "float32"
    network_dtype: str | None = None
    lower_slope: str = "adaptive"
    alternatives: bool = False
    backward_depth: int | str | None = None

    def network_error(self, nb_terms: int) -> float:
        """Relative rounding error that the network itself makes in a sum of `nb_terms`."""
        if not self.network_dtype or not nb_terms:
            return 0.0
        # Libraries sum half precision in float32; weights and inputs are rounded to it before.
        nb_terms = min(nb_terms, 8) + 2 if "16" in self.network_dtype else nb_terms
        return relative_error(nb_terms, self.network_dtype)


class Relaxed(NamedTuple):
    """An operation over given intervals, ready to be pulled back through.

    ``lower <= output - linear part of the inputs <= upper`` in deviations, (N, *shape),
    or None where it is exactly zero; `slopes` is what `Operation.pull_back` needs beside.
    `alternative` is a second valid relaxation: any mixture of the two is valid, too. `common` is
    what both have in common, of any shapes (N, ...). Shares of the alternative in a mixture are at
    least `least`, (N, *shape), where that is given; else they are not negative.
    """

    lower: Any = None
    upper: Any = None
    slopes: tuple = ()
    alternative: Relaxed | None = None
    common: tuple = ()
    least: Any = None

    def map(self, function: Callable[[Any], Any]) -> Relaxed:
        """The same with every tensor changed."""
        lower, upper = (s if s is None else function(s) for s in (self.lower, self.upper))
        other = self.alternative and self.alternative.map(function)
        slopes, common = (tuple(map(function, values)) for values in (self.slopes, self.common))
        least = None if self.least is None else function(self.least)
        return Relaxed(lower, upper, slopes, other, common, least)


class Window(NamedTuple):
    """What one location of the output sees of the input, per spatial axis.

    Location i sees the entries from ``i * stride - offset`` on, `size` of them. No axes: each entry
    sees only its own location, whatever the axes are, as long as `mixed` (an axis along which
    entries are mixed or joined, batch axis not counted) is not one of them.
    """

    axes: tuple[int, ...] = ()
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    offset: tuple[int, ...] = ()
    mixed: int | None = None


class Operation:
    """A function of tensors that can be bounded.

    `exact_affine` says that the linear bounds are the operation itself: intervals lose nothing on a
    box, and `unstable` is never asked. `window` says what a location sees, None where everything.
    `placewise` says that each entry of the output comes from its own place of the inputs, by the
    same function everywhere; axes that inputs have behind those of the output belong to a place.
    `refinable` says that lines may tell more of its entries than its interval does.
    """

    exact_affine = False
    window: Window | None = None
    placewise = False
    refinable = False

    @property
    def only_moves(self) -> bool:
        """Whether each entry of the output is one of a single input, or 0."""
        return False

    def evaluate(self, *inputs: Any) -> Any:
        """The function itself, in the type of its inputs."""
        raise NotImplementedError

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """Interval image of a box, around the given reference value of the output, (N, *shape)."""
        raise NotImplementedError

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """Linear bounds over a box, ready for `pull_back`."""
        raise NotImplementedError

    def by_places(
        self, function: Callable[[Any, Any], Any], inputs: Sequence[Enclosure], output: Any
    ) -> Any:
        """``function(inputs, output)``, `interval` or `relax`, on parts of a large tensor in turn.

        Their float64 steps need many times the memory of the tensor itself.
        """
        if not self.placewise:
            return function(inputs, output)
        return backend.by_places(function, inputs, output, _LARGEST_PART)

    def pull_back(
        self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]
    ) -> list[Any | None]:
        """Coefficients (N, T, S, *out) of an upper bound as those (N, T, S, *in) of each input.

        `relaxed` has axes for T and S as well, of length 1 where it is the same for all. None for
        an input that the linear bounds do not depend on.
        """
        raise NotImplementedError

    def on_patches(self) -> Operation | None:
        """What pulls back coefficients of a patch to the patch that it sees, None if nothing can.

        All windows lie inside of the patch that is seen: nothing is padded.
        """
        return self if self.window is not None and not self.window.axes else None

    def has_lines_in(self, number: int) -> bool:
        """Whether the linear bounds depend on an input."""
        return True

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any | None]:
        """For each input a mask (N, *shape): entries whose bounds decide the relaxation.

        None for an input that needs no tighter bounds.
        """
        raise NotImplementedError


class Input(Operation):
    """What is given, and not computed from other tensors.

    `is_point` says that it does not vary, `dtype` which numbers it can hold.
    """

    def __init__(self, is_point: bool = False, dtype: str = "float32") -> None:
        self.is_point, self.dtype = is_point, dtype


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
        Most products summed for one entry of an input in the transposed map; where entries are
        only moved, how often one is used.
    weight_error
        Relative error of the weights in units of 2**-53; 0: stored as they are.
    window
        What a location of the output sees of every input; None: everything.
    patchwise
        The same operation without a border, see `Operation.on_patches`, where windows have axes.
    transposed
        ``transposed(output, *weights)``, the transposed map, where that is known in a faster form
        than as the gradient of `apply`: a tensor for one input, a list for several.
    learned
        Whether weights and bias are variables of the model, which regions of weights vary.
    increasing
        Whether outputs grow with the inputs, whatever the weights are; where entries are only
        moved they do.
    """

    exact_affine = True
    refinable = True

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
        window: Window | None = None,
        patchwise: Affine | None = None,
        transposed: Callable[..., Any] | None = None,
        by_rows: bool = False,
        learned: bool = False,
        increasing: bool = False,
    ) -> None:
        self.apply, self.nb_inputs = apply, nb_inputs
        self.increasing = increasing or (nb_terms == 0 and bias is None)
        self.weights = lambda: [in_full(weight) for weight in weights()]
        self.bias, self.bias_size = bias, bias_size or bias
        self.nb_terms, self.nb_terms_back = nb_terms, nb_terms_back
        self.weight_error, self.window, self.patchwise = weight_error, window, patchwise
        self.transposed, self.by_rows, self.learned = transposed, by_rows, learned

    @property
    def only_moves(self) -> bool:
        """See `Operation`."""
        return self.nb_terms == 0 and self.bias is None and self.nb_inputs == 1

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
        return (
            outputs
            if self.bias is None
            else outputs + ops.cast(in_full(self.bias()), outputs.dtype)
        )

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`: image of the middle, plus and minus the absolute map of the radius."""
        if self.nb_terms == 0:
            return Enclosure(
                reference,
                self.linear(*(e.lower for e in inputs)),
                self.linear(*(e.upper for e in inputs)),
            )
        dtype = options.dtype
        rounding = relative_error(self.nb_terms + 8, dtype)
        middles = [(e.lower + e.upper) / 2 for e in inputs]
        radii = [
            (e.upper - e.lower) * (0.5 + relative_error(4, dtype)) + rounding * ops.abs(m)
            for e, m in zip(inputs, middles)
        ]
        noise, bias_noise = self._noise(inputs, options)
        radius = self.absolute(*(r + n for r, n in zip(radii, noise)))
        radius = (radius + bias_noise) * (1.0 + 2.0 * rounding)
        middle = self.linear(*middles)
        return Enclosure(reference, middle - radius, middle + radius)

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`: nothing is lost but roundings."""
        if self.nb_terms == 0 and self.nb_terms_back <= 1:
            return Relaxed()
        rounding = relative_error(self.nb_terms_back + 8, options.dtype)
        noise, bias_noise = self._noise(inputs, options)
        error = self.absolute(*(n + rounding * e.deviation for n, e in zip(noise, inputs)))
        error = (error + bias_noise) * (
            1.0 + 2.0 * relative_error(self.nb_terms + 8, options.dtype)
        )
        return Relaxed(-error, error)

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`: the transposed linear map."""
        if self.by_rows and self.transposed is not None:
            weights = [ops.cast(w, coefficients.dtype) for w in self.weights()]
            pulled = self.transposed(coefficients, *weights)
            return pulled if isinstance(pulled, list) else [pulled]
        rows = ops.shape(coefficients)[:3]
        flat = ops.reshape(coefficients, (-1, *coefficients.shape[3:]))
        if self.transposed is None:
            pulled = backend.transpose(self.linear, shapes, flat)
        else:
            weights = [ops.cast(w, flat.dtype) for w in self.weights()]
            pulled = self.transposed(flat, *weights)
            pulled = pulled if isinstance(pulled, list) else [pulled]
        return [ops.reshape(p, (*rows, *shape)) for p, shape in zip(pulled, shapes)]

    def on_patches(self) -> Operation | None:
        """See `Operation`."""
        return self.patchwise or super().on_patches()

    def _noise(self, inputs: Sequence[Enclosure], options: Options) -> tuple[list[Any], Any]:
        """Errors that do not shrink with the region, as input noise and bias noise.

        The float64 reference pass, the weights' own error and, if asked for, the network's float32
        arithmetic are all relative to absolute values, |W| |x| + |b|.
        """
        dtype = options.dtype
        nominal = relative_error(self.nb_terms + self.weight_error + 4, "float64")
        network = options.network_error(self.nb_terms + min(self.weight_error, 8) + 1)
        noise = [(nominal + network) * ops.abs(ops.cast(e.reference, dtype)) for e in inputs]
        relative = network + self.weight_error * relative_error(1, "float64")
        if relative > 0:
            noise = [n + relative * e.deviation for n, e in zip(noise, inputs)]
        if self.bias_size is None:
            return noise, 0.0
        return noise, (nominal + network) * ops.abs(ops.cast(self.bias_size(), dtype))


class Reshaped(Affine):
    """The same entries, in the same order, in another shape: ``apply`` of one input."""


class Scaled(Affine):
    """``factor() * x + bias``, entry by entry; `factor` broadcasts to the input."""

    def __init__(self, factor: Callable[[], Any], **facts: Any) -> None:
        super().__init__(
            ops.multiply,
            weights=lambda: (factor(),),
            nb_terms=1,
            nb_terms_back=1,
            window=Window(),
            **facts,
        )

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`: the factor is the slope."""
        relaxed = super().relax(inputs, output, options)
        (factor,) = self.weights()
        ones = ops.ones_like(output.reference, dtype=options.dtype)
        return relaxed._replace(slopes=(ones * ops.cast(factor, options.dtype),))

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`."""
        return [coefficients * relaxed.slopes[0]]


class Constant(Affine):
    """A constant of the network, the same for all samples, whatever its one input is.

    Parameters
    ----------
    values
        An array, or a variable, which is read at every call.
    own
        Shape of the values, without batch axis.
    shape
        That they are broadcast to; as they are by default.
    """

    def __init__(
        self, values: Any, own: tuple[int, ...], shape: tuple[int, ...] | None = None
    ) -> None:
        shape = own if shape is None else shape
        self.values, self.own = values, own
        self.fixed = isinstance(values, np.ndarray)
        super().__init__(
            lambda inputs: ops.zeros((ops.shape(inputs)[0], *shape), inputs.dtype),
            bias=self.read,
            nb_terms=1,  # so that roundings of the values count
            window=Window(),
        )

    def read(self) -> Any:
        """The current values, in their own shape."""
        return ops.reshape(self.values, self.own)

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`: nothing of the input is left."""
        return [None]

    def has_lines_in(self, number: int) -> bool:
        """See `Operation`."""
        return False


def in_full(value: Any) -> Any:
    """A number of Python as one of NumPy: of the former Keras would keep float32."""
    return np.float64(value) if isinstance(value, float) else value


class Elementwise(Operation):
    """A scalar nonlinearity applied to every entry.

    Parameters
    ----------
    activation
        The function.
    least
        What inputs are known to be at least, whatever their intervals are; see `least.py`.
    """

    window = Window()

    def __init__(self, activation: Activation, least: float = -math.inf) -> None:
        self.activation, self.least = activation, least
        self.placewise = activation.uniform

    def evaluate(self, *inputs: Any) -> Any:
        """See `Operation`."""
        return self.activation.value(inputs[0])

    def interval(self, inputs: Sequence[Enclosure], reference: Any, options: Options) -> Enclosure:
        """See `Operation`."""
        lower, upper = relaxations.image(self.activation, *self._sides(inputs[0]))
        noise = self._noise(lower, upper, options)
        return Enclosure(
            reference,
            round_down(lower - noise - reference, options.dtype),
            round_up(upper + noise - reference, options.dtype),
        )

    def relax(self, inputs: Sequence[Enclosure], output: Enclosure, options: Options) -> Relaxed:
        """See `Operation`: the lines of `relaxations.relaxation`, moved to deviations."""
        lower, upper = self._sides(inputs[0])
        settings = (self.activation, lower, upper, options.dtype, options.lower_slope)
        lines = relaxations.relaxation(*settings)
        relaxed = self._to_deviations(lines, inputs[0], output, options)
        if not options.alternatives:
            return relaxed
        alternative = relaxations.opposite_relaxation(lines, *settings[:-1])
        return relaxed._replace(
            alternative=self._to_deviations(alternative, inputs[0], output, options)
        )

    def _to_deviations(
        self,
        lines: relaxations.Relaxation,
        enclosure: Enclosure,
        output: Enclosure,
        options: Options,
    ) -> Relaxed:
        """Lines for values as lines for deviations, all roundings covered."""
        noise = self._noise(*output.absolute(), options)
        steepest = ops.maximum(ops.abs(lines.lower_slope), ops.abs(lines.upper_slope))
        # Roundings of coefficient * slope, of a mixture of slopes, of a sum of coefficients.
        nb_roundings = 12 if options.alternatives else 4
        error = relative_error(nb_roundings, options.dtype) * steepest * enclosure.deviation
        noise += ops.cast(error, "float64")
        at_lower = ops.cast(lines.lower_slope, "float64") * enclosure.reference
        at_upper = ops.cast(lines.upper_slope, "float64") * enclosure.reference
        size = ops.maximum(ops.abs(at_lower), ops.abs(at_upper)) + ops.abs(output.reference)
        size += ops.maximum(ops.abs(lines.lower_intercept), ops.abs(lines.upper_intercept))
        noise += relative_error(4, "float64") * size
        below = at_lower + lines.lower_intercept - output.reference - noise
        above = at_upper + lines.upper_intercept - output.reference + noise
        return Relaxed(
            round_down(below, options.dtype),
            round_up(above, options.dtype),
            (lines.lower_slope, lines.upper_slope),
        )

    def pull_back(self, coefficients: Any, relaxed: Relaxed, shapes: Sequence[tuple]) -> list[Any]:
        """See `Operation`: the upper line where the coefficient is positive, else the lower."""
        below, above = relaxed.slopes
        return [largest_terms(coefficients, below, above)]

    def unstable(self, inputs: Sequence[Enclosure]) -> list[Any]:
        """See `Operation`."""
        return [relaxations.is_unstable(self.activation, *self._sides(inputs[0]))]

    def _sides(self, enclosure: Enclosure) -> tuple[Any, Any]:
        """The interval of the inputs."""
        lower, upper = enclosure.absolute()
        if self.least == -math.inf:
            return lower, upper
        return ops.maximum(lower, self.least), ops.maximum(upper, self.least)

    def _noise(self, lower: Any, upper: Any, options: Options) -> Any:
        """The network's own rounding of constants and, if asked for, of the value; float64."""
        facts = self.activation
        error = options.network_error(math.ceil(facts.ulps)) + facts.constant_error
        noise = options.network_error(math.ceil(facts.absolute_ulps)) + facts.constant_noise
        return error * ops.maximum(ops.abs(lower), ops.abs(upper)) + noise


def largest_terms(coefficients: Any, lower: Any, upper: Any) -> Any:
    """Coefficient times `upper` where it is positive, else times `lower`, entry by entry.

    With a selection instead of two products TensorFlow takes several times as long. The sums are
    exact, since one of the two products is 0.
    """
    positive = ops.relu(coefficients)
    return positive * upper + (coefficients - positive) * lower


def or_constant(relaxed: Relaxed, output: Enclosure) -> Relaxed:
    """Lines, or constants where the interval of the output is narrower than they are apart."""
    apart = relaxed.upper - relaxed.lower < output.upper - output.lower
    behind = len(relaxed.slopes[0].shape) - len(apart.shape)
    for_slopes = ops.reshape(apart, (*ops.shape(apart), *[1] * behind)) if behind else apart
    return relaxed._replace(
        lower=ops.where(apart, relaxed.lower, output.lower),
        upper=ops.where(apart, relaxed.upper, output.upper),
        slopes=tuple(ops.where(for_slopes, slope, 0.0) for slope in relaxed.slopes),
    )
