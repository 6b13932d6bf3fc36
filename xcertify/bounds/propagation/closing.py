"""Where backward passes end: the largest values of linear functions over regions of the input.

Of a box they are ``sum(max(a * lower, a * upper))``, of a ball ``|a * radius|`` by its dual norm,
and of texts ``sum over positions of max over words w of a_t . (w - center_t)``. Where few groups of
features may leave the center, only so many of the terms, see `sparsity`.

Source for sets of words: Xu et al., Automatic Perturbation Analysis for Scalable Certified
Robustness and Beyond, 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from keras import backend, ops

from xcertify.bounds.graph.operations import Enclosure, largest_terms
from xcertify.bounds.propagation.interval import Enclosures
from xcertify.bounds.propagation.routes import BLOCK, largest, total
from xcertify.bounds.propagation.sparsity import Sparsity
from xcertify.bounds.rounding import as_upper, relative_error


class Closing(NamedTuple):
    """What coefficients are multiplied with where rows end, (N, *shape) each or None.

    Attributes
    ----------
    lower, upper
        Sides of an interval, moved outward by the roundings of the sums that they go into.
    falls, rises
        Of a ball: how far each feature can fall and can rise in it.
    numbers
        Of few groups that leave the center: the numbers of the features, see `Sparsity`.
    words
        Of texts: the words of each position, (N, *shape, W), as deviations from the center.
    error
        Of texts: what is rounded where coefficients are multiplied with words.
    """

    lower: Any
    upper: Any
    falls: Any = None
    rises: Any = None
    numbers: Any = None
    words: Any = None
    error: Any = None

    def map(self, function: Callable[[Any], Any]) -> Closing:
        """The same with every tensor changed."""
        return Closing(*(part if part is None else function(part) for part in self))


class Domain(NamedTuple):
    """Where bounds hold: N regions of the inputs of a network; its first one is perturbed.

    Attributes
    ----------
    known
        Enclosures by node: of the inputs, and of what else is known.
    radius
        For an l1 or l2 ball the radius per feature, (N, *shape), rounded up; None for a box.
    norm
        Norm of the ball part of the region.
    sparsity
        How many groups of features leave the center at the same time; None: all may.
    words
        Of texts: the words that may stand at each position, (N, T, E, W), as deviations from the
        center, rounded to nearest. Those outside the intervals of the inputs are none.
    """

    known: Enclosures
    radius: Any = None
    norm: float = math.inf
    sparsity: Sparsity | None = None
    words: Any = None

    @property
    def is_box(self) -> bool:
        """Whether the intervals of the input say everything."""
        return math.isinf(self.norm) and self.sparsity is None and self.words is None

    def each(self, function: Callable[[Any], Any], known: Enclosures) -> Domain:
        """The same with every tensor changed, and other enclosures."""
        radius, words = (
            part if part is None else function(part) for part in (self.radius, self.words)
        )
        sparsity = None if self.sparsity is None else self.sparsity.map(function)
        return Domain(known, radius, self.norm, sparsity, words)

    def nb_held(self, shape: tuple[int, ...]) -> int:
        """Numbers that closing one row takes, beside those of coefficients (*shape)."""
        found = 0
        if self.sparsity is not None and self.sparsity.axes is None:
            found += math.prod(self.known[0].lower.shape[1:])  # sums of groups, whatever is seen
        if self.words is not None:
            found += math.prod(shape[:-1]) * self.words.shape[-1]
        return found

    def closing(self, enclosure: Enclosure, sides: tuple[Any, Any], nb_uses: int) -> Closing:
        """What rows that end at the input are multiplied with.

        Parameters
        ----------
        enclosure
            Of the input.
        sides
            The same, moved outward by roundings.
        nb_uses
            Of how many terms a coefficient is the sum.
        """
        found = Closing(*sides)
        if self.radius is not None:
            falls = ops.where(enclosure.lower < 0, self.radius, 0.0)
            rises = ops.where(enclosure.upper > 0, self.radius, 0.0)
            found = found._replace(falls=-falls, rises=rises)
        if self.sparsity is not None:
            found = found._replace(numbers=self.sparsity.numbers)
        if self.words is None:
            return found
        nb_positions, size = self.words.shape[1:3]
        nb_terms = size + min(nb_positions, BLOCK) + 16 + nb_uses
        error = relative_error(nb_terms, _type_of(self.words)) * enclosure.deviation
        return found._replace(words=_within(self.words, enclosure), error=error)

    def largest_values(self, coefficients: Any, closing: Closing, nb_uses: int) -> Any:
        """Largest values of linear functions of the input's deviation, (N, T, S) float64.

        The least of all bounds that are known, since the region lies in all of these sets.

        Parameters
        ----------
        coefficients
            (N, T, S, *shape).
        closing
            (N, 1, 1 or S, *shape) each.
        nb_uses
            As in `closing`.
        """
        terms = largest_terms(coefficients, closing.lower, closing.upper)
        bound = self._sum(terms, closing.numbers)
        if closing.words is not None:
            bound = ops.minimum(as_upper(bound), self._largest_of_words(coefficients, closing))
        if closing.falls is None:
            return bound
        scaled = largest_terms(coefficients, closing.falls, closing.rises)
        nb_terms = min(math.prod(scaled.shape[3:]), BLOCK) + 16 + nb_uses
        slack = 1.0 + relative_error(nb_terms, _type_of(scaled))
        if self.norm == 2:
            length = ops.sqrt(self._sum(scaled * scaled, closing.numbers))
            return ops.minimum(as_upper(bound), length * slack)
        return ops.minimum(as_upper(bound), largest(scaled) * slack)

    def _largest_of_words(self, coefficients: Any, closing: Closing) -> Any:
        """The same over texts. Where coefficients are not finite, neither is the error."""
        gains = _gains(coefficients, closing.words)[..., None]  # an axis in the place of E
        error = total(ops.abs(coefficients) * closing.error)
        bound = total(gains) + error
        if self.sparsity is None:
            return bound
        # Words that a branch leaves may all lower a function: unchanged ones do not.
        few = self.sparsity.largest_sum(ops.relu(gains), closing.numbers[..., :1])
        return ops.minimum(as_upper(bound), few + error)

    def _sum(self, terms: Any, numbers: Any) -> Any:
        """Largest sums of terms at least 0 over an input's region; those of groups have numbers."""
        whole = total(terms)
        if numbers is None:
            return whole
        assert self.sparsity is not None
        return ops.minimum(as_upper(whole), self.sparsity.largest_sum(terms, numbers))


def _type_of(values: Any) -> str:
    return str(backend.standardize_dtype(values.dtype))


def _gains(coefficients: Any, words: Any) -> Any:
    """The most that each position adds, (N, T, S, *positions): its largest value over its words."""
    if words.shape[2] == 1:
        values = ops.einsum("nkste,ntew->nkstw", coefficients, words[:, 0, 0])
    else:  # patches, of other positions in every row
        values = ops.matmul(coefficients[..., None, :], words)[..., 0, :]
    return ops.max(values, axis=-1)


def _within(words: Any, enclosure: Enclosure) -> Any:
    """Words (N, T, E, W) without those outside of an interval, which another takes the place of.

    Rounding is monotone: a word inside is between the rounded sides, too. Where all are outside
    nothing is said.
    """
    inside = ops.logical_and(
        words >= enclosure.lower[..., None], words <= enclosure.upper[..., None]
    )
    inside = ops.all(inside, axis=2, keepdims=True)  # (N, T, 1, W)
    first = ops.argmax(ops.cast(inside, words.dtype), axis=-1)  # of each position one inside
    first = ops.one_hot(first, words.shape[-1], dtype=words.dtype)
    return ops.where(inside, words, ops.sum(words * first, axis=-1, keepdims=True))
