"""The largest value of a quadratic form ``v^T P v`` over a unit ball, bounded from both sides.

P is positive semidefinite, one for each sample, and given by its products with vectors. For the l2
ball the value is the largest eigenvalue, which Lanczos' method approaches from below; from above it
is bounded with a stated probability of failure. For lp balls with p > 2 the value is NP-hard, and
it is bounded by weights D > 0 of the features::

    v^T P v <= lambda_max(D^-1/2 P D^-1/2) sum_i D_i v_i^2
            <= lambda_max(D^-1/2 P D^-1/2) ||D||_q ||v||_p^2       with q = p / (p - 2)

for every D: with D = 1 that is Corollary 1 of Wang & Kong; with D the sums of the rows of |P|, for
which the eigenvalue is at most 1, their Theorem 2. What `least_dual` finds is at most either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Product = Callable[[np.ndarray], np.ndarray]

NAMES = ("corollary 1", "theorem 2", "diagonal dual")

_POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the sums of rows, from corollary 1 to theorem 2
NB_CANDIDATES = len(_POWERS)

_LEAST_WEIGHT = 1e-6  # of a feature, as a share of the largest
_SHARPNESS = 40.0  # how fast Ritz vectors below the largest stop counting in a descent
_NB_POWER_STEPS = 12
_DELAY = 8  # of a descent: its first step goes an eighth of the way
_SLACK = 1e-5  # more than what rounding in float32 products was found to move eigenvalues by


class Eigenvalue(NamedTuple):
    """The largest eigenvalue of each of some matrices.

    Attributes
    ----------
    lower, upper
        (...): it lies between them; `upper` fails with the stated probability.
    vector
        (..., d): unit vector that attains `lower`.
    spread
        (..., d): squares of the vectors of all values near the largest, mixed; they sum to 1.
    """

    lower: np.ndarray
    upper: np.ndarray
    vector: np.ndarray
    spread: np.ndarray


class Rates(NamedTuple):
    """The largest ``|J v|`` over the unit ball of a norm, of each of N matrices P = J^T J.

    Attributes
    ----------
    upper, lower
        (N,): it lies between them.
    direction
        (N, d), of norm 1: attains `lower`.
    singular_lower, singular_upper
        (N,): the largest singular value of J lies between them.
    decided
        (N,): which theorem gave `upper`, "theorem 1" or one of `NAMES`.
    """

    upper: np.ndarray
    lower: np.ndarray
    direction: np.ndarray
    singular_lower: np.ndarray
    singular_upper: np.ndarray
    decided: np.ndarray


def rates_of_l2(multiply: Product, shape: tuple[int, int], **settings: Any) -> Rates:
    """The largest singular value of J (Theorem 1); settings of `largest_eigenvalue`."""
    found = largest_eigenvalue(multiply, shape, **settings)
    lower, upper = np.sqrt(found.lower), np.sqrt(found.upper)
    decided = np.full(shape[0], "theorem 1")
    return Rates(upper, lower, found.vector, lower, upper, decided)


def rates_of_lp(
    multiply: Product, shape: tuple[int, int], norm: float, sums: np.ndarray, **settings: Any
) -> Rates:
    """The least of Corollary 1, Theorem 2 and the dual, for p > 2; settings of `least_dual`."""
    bound, decided, plain = least_dual(multiply, shape, norm, sums, **settings)
    value, direction = ascent(multiply, plain.vector, norm)
    singular = np.sqrt(plain.lower), np.sqrt(plain.upper)
    return Rates(np.sqrt(bound), np.sqrt(value), direction, *singular, np.array(NAMES)[decided])


def largest_eigenvalue(
    multiply: Product,
    shape: tuple[int, ...],
    *,
    nb_products: int = 40,
    tolerance: float = 1e-3,
    failure: float = 1e-6,
    seed: int = 0,
) -> Eigenvalue:
    """The largest eigenvalue of positive semidefinite matrices, by Lanczos' method.

    Parameters
    ----------
    multiply
        (..., d) -> (..., d), the product of each matrix with its vector, in float32 or better.
    shape
        (..., d).
    nb_products
        Most products.
    tolerance
        Stop once all upper sides are within this share of the lower ones.
    failure
        Probability that `upper` of one matrix is too small, over the random start.
    seed
        Of the start, which is the same for all matrices.

    Returns
    -------
    eigenvalue
        See `Eigenvalue`.

    Guarantee
    ---------
    Of `upper`, in exact arithmetic and with probability 1 - failure over a start q uniform on the
    sphere. The basis that Lanczos' method builds is orthonormal and consists of p_j(P) q for known
    polynomials p_j, so that for the top eigenvector u, by Bessel's inequality, the sum of all
    ``p_j(lambda_max)^2`` is at most ``1 / <u, q>^2``; and ``|<u, q>| < g`` has probability at most
    ``g sqrt(2 d / pi)``. The sum grows beyond the largest root, which gives a bound. (Kuczynski &
    Wozniakowski, 1992, and Van Dorsselaer et al., 2000, use the last polynomial.) Rounding in the
    products is met by an allowance of 1e-5, not by a proof.
    """
    nb_features = shape[-1]
    nb_products = min(nb_products, nb_features)
    start = np.random.default_rng(seed).standard_normal(nb_features)
    basis = np.zeros((nb_products + 1, *shape))
    basis[0] = start / np.linalg.norm(start)
    diagonal = np.zeros((*shape[:-1], nb_products))
    beside = np.zeros((*shape[:-1], nb_products))
    most = 1 / (failure * math.sqrt(math.pi / (2 * nb_features))) ** 2
    for step in range(nb_products):
        image = np.asarray(multiply(basis[step]), np.float64)
        if not np.isfinite(image).all():
            raise ValueError(
                f"the products of the matrices must be finite. Received: NaN or infinite numbers "
                f"from product {step}"
            )
        diagonal[..., step] = (basis[step] * image).sum(-1)
        known = basis[: step + 1]
        for _ in range(2):  # once is not enough in floating point
            image = image - np.einsum("k...,k...d->...d", (known * image).sum(-1), known)
        beside[..., step] = np.linalg.norm(image, axis=-1)
        basis[step + 1] = np.divide(
            image, beside[..., step, None], out=np.zeros(shape), where=beside[..., step, None] > 0
        )
        nb_done = step + 1
        if nb_done % 5 and nb_done < nb_products:
            continue
        values, vectors = np.linalg.eigh(_tridiagonal(diagonal, beside, nb_done))
        lower = np.maximum(values[..., -1], 0.0)
        upper = _upper(diagonal[..., :nb_done], beside[..., :nb_done], lower, most)
        if nb_done == nb_features:
            upper = lower
        if np.all(upper <= (1 + tolerance) * lower):
            break
    share = values / np.where(lower > 0, lower, 1.0)[..., None]
    weight = np.exp(_SHARPNESS * (share - share[..., -1:]))
    weight /= weight.sum(-1, keepdims=True)
    nb_near = min(8, nb_done)
    spread = np.zeros(shape)
    for number in range(1, nb_near + 1):
        vector = np.einsum("...k,k...d->...d", vectors[..., -number], basis[:nb_done])
        spread += weight[..., -number, None] * vector**2
        if number == 1:
            top = vector
    spread /= spread.sum(-1, keepdims=True)
    return Eigenvalue(lower, upper * (1 + _SLACK), top, spread)


def least_dual(
    multiply: Product,
    shape: tuple[int, int],
    norm: float,
    sums: np.ndarray,
    *,
    matrix: np.ndarray | None = None,
    nb_descents: int = 8,
    **settings: Any,
) -> tuple[np.ndarray, np.ndarray, Eigenvalue]:
    """An upper bound of ``v^T P v`` over the unit ball of an lp norm, p > 2.

    Parameters
    ----------
    multiply
        (B, C, d) -> (B, C, d), products of each P with C vectors.
    shape
        (B, d).
    norm
        p above 2, or inf.
    sums
        (B, d): sums of the rows of |P|, or what stands in for them if P is not known.
    matrix
        P itself, (B, d, d) float64. With it eigenvalues are proved by a Cholesky factorisation of
        ``lambda D - P`` instead of with a probability, and `sums` give Theorem 2.
    nb_descents
        Number of improvements of D.
    **settings
        Of `largest_eigenvalue`.

    Returns
    -------
    bound, decided, plain
        (B,) bounds; (B,) which of `NAMES` gave each; and the largest eigenvalue of P itself.

    Guarantee
    ---------
    `bound` is an upper bound for every D that was tried, if the eigenvalue is: see
    `largest_eigenvalue` without the matrix; with it, in real arithmetic for the given matrix up to
    rounding in float64.
    """
    power = 1.0 if math.isinf(norm) else norm / (norm - 2)
    powers = np.asarray(_POWERS)[:, None]
    relative = np.maximum(sums / _largest(sums), _LEAST_WEIGHT)[:, None] ** powers

    def evaluate(weights: np.ndarray, **chosen: Any) -> tuple[np.ndarray, Eigenvalue]:
        root = np.sqrt(weights)
        found = largest_eigenvalue(
            lambda v: multiply(v / root) / root, weights.shape, **{**settings, **chosen}
        )
        return found.upper * _norm(weights, power), found

    value, found = evaluate(relative)
    plain = Eigenvalue(*(part[:, 0] for part in found))
    first = value.argmin(axis=1)
    rows = np.arange(len(sums))
    best, decided = value[rows, first], np.where(first == 0, 0, 2)
    weights, near = relative[rows, first], found.spread[rows, first]
    best_weights = weights
    share = weights**power / (weights**power).sum(-1, keepdims=True)
    for number in range(nb_descents):
        # where the share of a feature in ||D||_q equals its share in the eigenvector, D is best
        share = share + (near - share) / (number + _DELAY)
        weights = share ** (1 / power)
        weights = np.maximum(weights / _largest(weights), _LEAST_WEIGHT)
        value, found = evaluate(weights[:, None], tolerance=1e-2)
        near = found.spread[:, 0]
        better = value[:, 0] < best
        best, decided = np.where(better, value[:, 0], best), np.where(better, 2, decided)
        best_weights = np.where(better[:, None], weights, best_weights)
    if matrix is not None:
        sharp = {"nb_products": 2 * settings.get("nb_products", 40), "tolerance": 1e-5}
        lower = evaluate(best_weights[:, None], **sharp)[1].lower[:, 0]
        best = _proved(matrix, best_weights, lower) * _norm(best_weights, power)
        by_sums = _norm(sums, power)
        best, decided = np.minimum(best, by_sums), np.where(by_sums < best, 1, decided)
    return best, decided, plain


def ascent(multiply: Product, start: np.ndarray, norm: float) -> tuple[np.ndarray, np.ndarray]:
    """A large value of ``v^T P v`` over the unit ball of an lp norm, found by power iterations.

    Parameters
    ----------
    multiply
        (B, d) -> (B, d).
    start
        (B, d).
    norm
        p at least 2, or inf.

    Returns
    -------
    value, points
        (B,), never above the largest one, and (B, d) of norm 1.
    """
    points = steepest(start, norm)
    image = multiply(points)
    for _ in range(0 if norm == 2 else _NB_POWER_STEPS):
        # P is convex: the value where its slope leads is never lower
        points = steepest(image, norm)
        image = multiply(points)
    return np.maximum((points * image).sum(-1), 0.0), points


def steepest(slopes: np.ndarray, norm: float) -> np.ndarray:
    """The point of norm 1 at which a linear function is largest, (B, d)."""
    signs = np.where(slopes >= 0, 1.0, -1.0)
    if math.isinf(norm):
        return signs
    sizes = np.abs(slopes) / _largest(np.abs(slopes))
    sizes = np.where(sizes.any(axis=-1, keepdims=True), sizes, 1.0) ** (1 / (norm - 1))
    return signs * sizes / np.linalg.norm(sizes, norm, axis=-1, keepdims=True)


def _tridiagonal(diagonal: np.ndarray, beside: np.ndarray, size: int) -> np.ndarray:
    matrix = np.zeros((*diagonal.shape[:-1], size, size))
    places = np.arange(size)
    matrix[..., places, places] = diagonal[..., :size]
    matrix[..., places[1:], places[:-1]] = beside[..., : size - 1]
    matrix[..., places[:-1], places[1:]] = beside[..., : size - 1]
    return matrix


def _upper(diagonal: np.ndarray, beside: np.ndarray, lower: np.ndarray, most: float) -> np.ndarray:
    """Where the sum of the squares of the Lanczos polynomials reaches `most`, beyond `lower`."""
    scale = np.where(lower > 0, lower, 1.0)
    # a basis that ends has no next polynomial: its limit, an immense one, is taken
    beside = np.maximum(beside, 1e-14 * scale[..., None])

    def exceeds(point: np.ndarray) -> np.ndarray:
        before, current = np.zeros_like(point), np.ones_like(point)
        total = np.ones_like(point)
        for step in range(diagonal.shape[-1]):
            rest = before * beside[..., step - 1] if step else 0.0
            following = ((point - diagonal[..., step]) * current - rest) / beside[..., step]
            before, current = current, np.minimum(following, 1e100)
            total = total + np.minimum(current, 1e100) ** 2
        return total >= most

    # bisection of the excess over `lower`, on a logarithmic scale
    low, high = np.full_like(lower, -40.0), np.full_like(lower, 4.0)
    while not (enough := exceeds(scale * (1 + 2.0**high))).all():
        high = np.where(enough, high, high + 8)
    for _ in range(18):
        middle = (low + high) / 2
        enough = exceeds(scale * (1 + 2.0**middle))
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(lower > 0, scale * (1 + 2.0**high), 0.0)


def _proved(matrix: np.ndarray, weights: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Largest eigenvalue of D^-1/2 P D^-1/2, proved: ``value D - P`` has a Cholesky factor."""
    parts = (matrix.reshape(len(matrix), -1), weights, lower[:, None])
    finite = np.all([np.isfinite(part).all(axis=1) for part in parts], axis=0)
    if not finite.all():  # of which nothing is proved
        value = np.full(len(matrix), np.inf)
        if finite.any():
            value[finite] = _proved(matrix[finite], weights[finite], lower[finite])
        return value
    margin = 1e-6
    places = np.arange(matrix.shape[-1])
    while True:
        value = np.maximum(lower * (1 + margin), 1e-30)
        shifted = -matrix
        shifted[:, places, places] += value[:, None] * weights
        if not np.isfinite(value).all():
            return np.full(len(matrix), np.inf)
        try:
            if np.isfinite(np.linalg.cholesky(shifted)).all():
                return value
        except np.linalg.LinAlgError:
            pass
        margin *= 8


def _norm(weights: np.ndarray, power: float) -> np.ndarray:
    return (weights**power).sum(-1) ** (1 / power)


def _largest(values: np.ndarray) -> np.ndarray:
    """Largest value of each row, at least something above 0, with its axis kept."""
    return np.maximum(values.max(axis=-1, keepdims=True), 1e-300)
