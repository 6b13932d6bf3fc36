"""An independent checker of linear bounds: plain NumPy, float64, rounded outward.

It shares nothing with the engine of this package: it reads a Keras model by the names of its
layers' classes and their weights, and imports neither TensorFlow nor Keras nor another module of
xcertify. What it computes is CROWN (Zhang et al., Efficient Neural Network Robustness Certification
with General Activation Functions, 2018), intersected with intervals: the same method, so that its
numbers agree with those of the engine, by other arithmetic and other code.

Error analysis. Let u = 2**-53. A sum of n products in float64, in any order and with or without
fused operations, is off by at most ``gamma(n) sum |a| |b| + n eta``, gamma(n) = n u / (1 - n u);
eta = 2**-1021 also covers subnormal numbers that count as 0. Every entry of every tensor has a
`noise`: what all roundings that a coefficient 1 of the entry takes part in cost at most, when it is
pulled back through the operation that made it (by terms as large as ``|W| max |x| + |b|``), when
constants are added up, and when it is closed by an interval. Of a row of coefficients c the errors
of a backward pass are at most ``sum |c| noise``, added up over all tensors that it passes, and go
on top of its bound. Slopes are any numbers of float64: intercepts are proved for just these. What
overflows proves nothing: the bound is inf.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np

from xcertify.recheck_layers import (
    ETA,
    UNIT,
    Array,
    Linear,
    Network,
    Sides,
    gamma,
    is_in_place,
)

_ENTRIES_AT_ONCE = 2**20  # of rows of coefficients, 8 MiB


def recheck(certificate: Any, model: Any) -> Array:
    """Where all that a certificate says is confirmed, (N,) bool.

    Parameters
    ----------
    certificate
        Of any explainer, or `Decision.proof`; loaded from a file for instance.
    model
        The model that it is for.

    Returns
    -------
    confirmed
        By `xcertify.verdicts.recheck`, which also gives reasons. False does not refute.

    Raises
    ------
    ValueError
        If the model is another one, or parts of the certificate contradict each other.

    Examples
    --------
    >>> recheck(GradientCertificate.load("certificate.npz"), model).all()
    True
    """
    # by name: the verdicts use this checker, and what it shares nothing with
    return importlib.import_module("xcertify.verdicts").recheck(certificate, model).confirmed


class Domain(NamedTuple):
    """What one input may become: the points of a box, and of a ball if there is a radius.

    Attributes
    ----------
    center, lower, upper, radius, norm
        (*shape) float64; the ball is ``|| (x - center) / radius ||_norm <= 1``, norm 1 or 2.
    """

    center: Array
    lower: Array
    upper: Array
    radius: Array | None = None
    norm: float = np.inf


def domains(region: Any) -> list[Domain]:
    """The domains of N regions.

    Parameters
    ----------
    region
        Anything with center, lower, upper, norm and epsilon.
    """
    sides = [np.asarray(a, np.float64) for a in (region.center, region.lower, region.upper)]
    if region.epsilon is None or region.norm not in (1, 2):  # larger: balls lie in their boxes
        return [Domain(center, low, high) for center, low, high in zip(*sides)]
    radii = np.broadcast_to(np.asarray(region.epsilon, np.float64), sides[0].shape)
    return [Domain(c, low, high, r, region.norm) for c, low, high, r in zip(*sides, radii)]


class Passes:
    """All tensors of a network enclosed for one input, and backward passes through them.

    Parameters
    ----------
    network
        The network.
    domain
        What the input may become.
    method
        "crown": what activations and maxima are made of is bounded by backward passes, where that
        gives other lines; "crown-ibp": by intervals; "ibp": bounds of rows are intervals, too.
    lean
        0: the line under a ReLU has the slope of the side that is larger. Another number, as a
        share of the interval: that of the other side where both are as large but for so much, as
        other arithmetic may see it.

    Attributes
    ----------
    amount
        (R,): of the rows that were bounded last, the sizes of all terms added up, which any other
        arithmetic rounds.
    """

    amount: Array

    def __init__(
        self, network: Network, domain: Domain, method: str = "crown", lean: float = 0.0
    ) -> None:
        self.network, self.domain, self.lean = network, domain, lean
        self.sides: dict[int, Sides] = {0: (domain.lower, domain.upper)}
        self.lines: dict[int, Any] = {}
        size = np.maximum(np.abs(domain.lower), np.abs(domain.upper)) + 2 * np.abs(domain.center)
        # the noise of a tensor is its size, entry by entry, times an error
        self.size, self.error = {0: size}, {0: 4 * gamma(size.size + 32)}
        self.tiny = {0: 8 * size.size * ETA * (1 + size.sum())}
        ways = [(domain.lower, -np.inf), (domain.upper, np.inf)]
        self.fall, self.rise = (
            np.where(side == domain.center, 0.0, np.nextafter(side - domain.center, outward))
            for side, outward in ways
        )
        self._done: dict[int, Array] = {}
        for index in network.order:
            if method == "crown" and not isinstance(network.nodes[index].operation, Linear):
                self._refine(index)
            self._enclose(index)

    def _enclose(self, index: int) -> None:
        """Sides, noise and lines of a tensor from those of the tensors that it is made of."""
        operation, parents = self.network.nodes[index][:2]
        inputs, nb_terms = [self.sides[parent] for parent in parents], 16
        if isinstance(operation, Linear):
            nb_terms = operation.nb_terms
            lower, upper, size = operation.enclose(*inputs)
        else:
            lower, upper, size, self.lines[index] = operation.enclose(inputs[0], self.lean)
        if index in self.sides:
            known = self.sides[index]
            lower, upper = np.maximum(lower, known[0]), np.minimum(upper, known[1])
        self.sides[index] = lower, upper
        self.size[index], self.error[index] = size, 4 * gamma(nb_terms + size.size + 32)
        sums = size.sum() + sum(np.abs(side).sum() for pair in inputs for side in pair)
        self.tiny[index] = 8 * (nb_terms + size.size) * ETA * (1 + sums)

    def _refine(self, index: int) -> None:
        """Bound by backward passes what an operation that is not linear is made of."""
        nodes = self.network.nodes
        between: list[int] = []
        (source,) = nodes[index].parents
        helped = nodes[index].operation.helped(*self.sides[source])
        while is_in_place(nodes[source]):  # entries come from elsewhere, one each
            if isinstance(nodes[source].operation, Linear):
                helped = nodes[source].operation.pull(1.0 * helped[None])[0][0] > 0
            between.insert(0, source)
            (source,) = nodes[source].parents
        is_exact = self.domain.radius is None and self.network.mixes[source] < 2
        if is_exact or not isinstance(nodes[source].operation, Linear):
            return
        done = self._done.get(source, np.zeros(helped.size, bool))
        entries = np.flatnonzero(helped.ravel() & ~done)
        self._done[source] = done | helped.ravel()
        lower, upper = (side.ravel().copy() for side in self.sides[source])
        nb_at_once = self._nb_at_once()
        for first in range(0, len(entries), nb_at_once):
            some = entries[first : first + nb_at_once]
            units = np.zeros((len(some), lower.size))
            units[np.arange(len(some)), some] = 1.0
            above, below = np.split(self.upper_bounds(source, np.concatenate([units, -units])), 2)
            upper[some], lower[some] = np.fmin(upper[some], above), np.fmax(lower[some], -below)
        shape = nodes[source].shape
        self.sides[source] = lower.reshape(shape), upper.reshape(shape)
        for later in between:
            self._enclose(later)

    def _nb_at_once(self) -> int:
        widest = max(np.prod(self.network.nodes[i].shape) for i in (0, *self.network.order))
        return max(1, int(_ENTRIES_AT_ONCE // (2 * widest)))

    def upper_bounds(self, start: int, rows: Array, cells: Array | None = None) -> Array:
        """Upper bounds (R,) of rows (R, size) of a tensor; with `cells`, (R, 1 + cells).

        The latter with the features of one of the cells (*input) at a time held at the center.
        """
        coefficients, constant, room = self._back(start, rows, to_input=True)
        return self._close(coefficients, constant, room, cells)

    def interval_bounds(self, start: int, rows: Array) -> Array:
        """Upper bounds (R,) by the sides of what linear operations made the tensor of."""
        coefficients, constant, room = self._back(start, rows, to_input=False)
        return self._close(coefficients, constant, room, None)

    def _back(self, start: int, rows: Array, to_input: bool) -> tuple[Array, Array, Array]:
        """Upper bounds of rows as coefficients of the input, constants, and rounding errors."""
        nodes, nb_rows = self.network.nodes, len(rows)
        pending = {start: rows.reshape(nb_rows, *nodes[start].shape)}
        constant, room, self.amount = np.zeros(nb_rows), np.zeros(nb_rows), np.zeros(nb_rows)
        for index in range(start, 0, -1):
            if index not in pending:
                continue
            own, operation = pending.pop(index), nodes[index].operation
            flat = own.reshape(nb_rows, -1)
            amount = np.abs(flat) @ self.size[index].ravel()
            room += amount * self.error[index] + self.tiny[index]
            self.amount = self.amount + amount
            if isinstance(operation, Linear):
                parts = operation.pull(own)
                bias = np.broadcast_to(operation.bias, nodes[index].shape)
                added = flat @ bias.ravel()
            elif to_input:
                part, added = operation.pull(own, self.lines[index])
                parts = [part]
            else:
                lower, upper = (side.ravel() for side in self.sides[index])
                parts, added = [], np.maximum(flat, 0) @ upper + np.minimum(flat, 0) @ lower
            constant = constant + added
            room += 2 * UNIT * (np.abs(constant) + np.abs(added))
            for parent, part in zip(nodes[index].parents, parts):
                if parent in pending:
                    part = pending[parent] + part
                    sides = self.sides[parent]
                    size = np.maximum(np.abs(sides[0]), np.abs(sides[1])).ravel()
                    room += 2 * UNIT * (np.abs(part).reshape(nb_rows, -1) @ size)
                pending[parent] = part
        nothing = np.zeros((nb_rows, *self.domain.center.shape))
        return pending.get(0, nothing), constant, room

    def _close(
        self, coefficients: Array, constant: Array, room: Array, cells: Array | None
    ) -> Array:
        """The largest values of linear functions of the input."""
        flat, domain = coefficients.reshape(len(coefficients), -1), self.domain
        center, fall, rise = (x.ravel() for x in (domain.center, self.fall, self.rise))
        base = constant + flat @ center
        terms = np.maximum(flat * fall, flat * rise)
        amount = np.abs(flat) @ self.size[0].ravel()
        room = room + amount * self.error[0] + self.tiny[0]
        self.amount = self.amount + amount
        free = np.ones((flat.shape[1], 1))
        if cells is not None:
            cells = cells.ravel()
            free = np.concatenate([free, cells[:, None] != np.arange(cells.max() + 1)], axis=1)
        far = terms @ free
        if domain.radius is not None:
            movable = np.where(flat > 0, rise > 0, fall < 0)
            scaled = np.abs(flat) * np.where(movable, domain.radius.ravel(), 0.0)
            if domain.norm == 2:
                ball = np.sqrt((scaled**2) @ free) * (1 + gamma(flat.shape[1] + 16)) + 1e-150
            else:
                ball = np.stack([np.max(scaled * own, axis=1) for own in free.T], axis=1)
                ball = ball * (1 + 4 * UNIT) + ETA
            far = np.minimum(far, ball)
        total = base[:, None] + far
        error = room * (1 + 1e-6) + 8 * UNIT * (np.abs(constant) + np.abs(base))
        total += error[:, None] + 8 * UNIT * (far + np.abs(total))
        found = np.where(np.isnan(total), np.inf, total)
        return found[:, 0] if cells is None else found


def upper_bounds(
    network: Network,
    domain: Domain,
    rows: Array,
    cells: Array | None = None,
    method: str = "crown",
    lean: float = 0.0,
) -> tuple[Array, Array]:
    """Proved upper bounds of rows of the outputs over what one input may become.

    Parameters
    ----------
    network, domain, method, lean
        See `Passes`.
    rows
        (R, K): ``rows @ f(x)`` is bounded.
    cells
        Integers (*input), from 0 on: also with one cell at a time held at the center, by the lines
        of the whole domain.

    Returns
    -------
    bounds, amount
        (R,); with `cells` (R, 1 + cells), the first one for the whole domain, the others by lines
        alone. And (R,): see `Passes`.
    """
    with np.errstate(all="ignore"):  # what overflows proves nothing
        passes, start = Passes(network, domain, method, lean), network.output
        whole = passes.interval_bounds(start, rows)
        if method == "ibp":
            return whole, passes.amount
        found = passes.upper_bounds(start, rows, cells)
        found.reshape(len(rows), -1)[:, 0] = np.fmin(whole, found.reshape(len(rows), -1)[:, 0])
        return found, passes.amount


def values(network: Network, point: Array) -> Sides:
    """The outputs at a point, (K,) each: not less and not more, with all that is rounded.

    Parameters
    ----------
    network, point
        The network, and an input (*shape).
    """
    point = np.asarray(point, np.float64)
    with np.errstate(all="ignore"):
        lower, upper = Passes(network, Domain(point, point, point), "ibp").sides[network.output]
    return lower.ravel(), upper.ravel()
