"""Query: regions of inputs, and of weights, as a compiled question takes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from xcertify.bounds.graph.operations import Enclosure
from xcertify.bounds.propagation.closing import Domain
from xcertify.bounds.propagation.sparsity import Sparsity
from xcertify.regions import Region
from xcertify.words import Words


@dataclass(frozen=True)
class Query:
    """N regions: as arrays, as tensors inside a compiled function, or as the form of either.

    Attributes
    ----------
    norm
        Of the ball part; infinite where the regions are boxes.
    center
        (N, *input) float64.
    lower, upper
        (N, *input) in the working type: how far the sides are from the center, rounded outward.
    constants
        The inputs that do not vary, (N, *shape) float64 each.
    radius
        Of the ball part along each feature, (N, *input) in the working type, rounded up; None for
        boxes.
    weight_radii
        (N,) float64 each: none, the relative radius of all weights, or this and the radius of
        biases.
    sparsity
        How many groups of features leave the center at the same time; None where all may.
    words
        Of texts the words of each position, (N, T, E, W) in the working type: how far they are from
        the center, rounded to nearest; else None.
    """

    norm: float
    center: Any
    lower: Any
    upper: Any
    constants: tuple[Any, ...] = ()
    radius: Any = None
    weight_radii: tuple[Any, ...] = ()
    sparsity: Sparsity | None = None
    words: Any = None

    @classmethod
    def over(
        cls,
        region: Region,
        constants: Sequence[Any],
        weight_radii: Sequence[np.ndarray],
        dtype: str,
    ) -> Query:
        """Regions in arrays, in the working type `dtype`."""
        center = region.center.astype("float64")
        lower, upper = (np.empty(center.shape, dtype) for _ in range(2))
        for side, out, up in zip(region.sides("float64"), (lower, upper), (False, True)):
            round_outward(side - center, out, up)
        radius = None
        if not math.isinf(region.norm):
            radius = np.empty(center.shape, dtype)
            round_outward(
                np.broadcast_to(np.asarray(region.epsilon), center.shape), radius, up=True
            )
        fixed = tuple(np.asarray(constant, dtype="float64") for constant in constants)
        words = None
        if isinstance(region, Words):
            words = region.choices.astype("float64") - center[:, :, None]
            words = np.swapaxes(words, 2, 3).astype(dtype)
        sparsity = Sparsity.of(region, dtype)
        radii = tuple(weight_radii)
        return cls(region.norm, center, lower, upper, fixed, radius, radii, sparsity, words)

    def map(self, function: Callable[[Any], Any]) -> Query:
        """The same with each value changed by a function: the one place that knows their order."""
        return Query(
            self.norm,
            function(self.center),
            function(self.lower),
            function(self.upper),
            tuple(map(function, self.constants)),
            None if self.radius is None else function(self.radius),
            tuple(map(function, self.weight_radii)),
            None if self.sparsity is None else self.sparsity.map(function),
            None if self.words is None else function(self.words),
        )

    @property
    def values(self) -> list[Any]:
        """All values, in order."""
        values: list[Any] = []
        self.map(values.append)
        return values

    @property
    def form(self) -> Query:
        """Shape (None for the N samples) and type in place of each array."""
        return self.map(lambda array: ((None, *array.shape[1:]), str(array.dtype)))

    def filled(self, values: Sequence[Any]) -> Query:
        """A form with values, in order."""
        rest = iter(values)
        return self.map(lambda _: next(rest))

    @property
    def nb_samples(self) -> Any:
        """N, a tensor."""
        return ops.shape(self.center)[0]

    @property
    def domain(self) -> Domain:
        """The same as propagation takes it."""
        dtype = self.lower.dtype
        zeros = [ops.zeros_like(constant, dtype=dtype) for constant in self.constants]
        fixed = [Enclosure(*sides) for sides in zip(self.constants, zeros, zeros)]
        inputs = [Enclosure(self.center, self.lower, self.upper), *fixed]
        known = dict(enumerate(inputs))
        return Domain(known, self.radius, self.norm, self.sparsity, self.words)


def round_outward(values: np.ndarray, out: np.ndarray, up: bool) -> None:
    """float64 bounds written to an array of another type, never inside the given ones."""
    with np.errstate(over="ignore"):  # to infinity, which is a bound
        out[...] = values
    outward = out.dtype.type(np.inf if up else -np.inf)
    inside = out < values if up else out > values
    np.nextafter(out, outward, out=out, where=inside)
