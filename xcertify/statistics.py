"""Exact statistics of samples: binomial tails and limits, corrections, bounds of means.

What certificates from samples rest on, in NumPy alone. Functions take numbers or arrays that
broadcast and give float64. Probabilities are accurate to a relative error below 1e-11 far into
their tails (for up to a million draws, and balls of up to 200 000 dimensions), and *limits* are
moved outward by more than that: the exact one-sided limit is never on the wrong side of them.

Sources: Clopper and Pearson, The Use of Confidence or Fiducial Limits Illustrated in the Case of
the Binomial, Biometrika 1934; Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979;
Benjamini and Yekutieli, The Control of the False Discovery Rate in Multiple Testing under
Dependency, 2001; Hoeffding, Probability Inequalities for Sums of Bounded Random Variables, 1963;
McDiarmid, On the Method of Bounded Differences, 1989; Loader, Fast and Accurate Computation of
Binomial Probabilities, 2000; Didonato and Morris, Algorithm 708: Significant Digit Computation of
the Incomplete Beta Function Ratios, 1992 (both: how cancellations are avoided).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

CORRECTIONS = ("holm", "bonferroni", "benjamini-yekutieli")

_OUTWARD = 1e-10  # of a level: what limits are moved outward by, above the error of the tails
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188)
_SERIES_FROM = 16.0  # where that series is exact to the last digit
_NB_HALVINGS = 64
_BETS = (0.15, 0.35, 0.7, 0.97)  # shares below 1: no draw loses everything


def normal_cdf(z: Any) -> np.ndarray:
    """Phi(z): how likely a standard normal variable is at most `z`.

    Parameters
    ----------
    z
        Any numbers.
    """
    return _each(lambda value: math.erfc(-value / math.sqrt(2.0)) / 2, np.asarray(z, float))


def normal_quantile(p: Any) -> np.ndarray:
    """The z of which Phi(z) = `p`, in [0, 1]; minus and plus infinity at its ends.

    Parameters
    ----------
    p
        From 0 to 1.
    """
    p = _within("p", p)
    inside = (p > 0) & (p < 1)
    z = _each(NormalDist().inv_cdf, np.where(inside, p, 0.5))
    return np.where(inside, z, np.where(p > 0, np.inf, -np.inf))


def incomplete_beta(x: Any, a: Any, b: Any) -> np.ndarray:
    """I_x(a, b): how likely a Beta(`a`, `b`) variable is at most `x`, in [0, 1].

    Parameters
    ----------
    x
        From 0 to 1.
    a, b
        Above 0.
    """
    x, a, b = _within("x", x), _above_zero("a", a), _above_zero("b", b)
    return np.exp(_log_beta_cdf(*np.broadcast_arrays(x, 1.0 - x, a, b))[0])


def binomial_tail(k: Any, n: Any, p: Any) -> np.ndarray:
    """P(X >= `k`) of X ~ Bin(`n`, `p`): the p-value of `k` successes if `p` is at most that.

    Exact, not an approximation by a normal variable. It grows with `p`, so that it is the p-value
    of every hypothesis "the probability is q" of q <= p as well: what is tested is "at most `p`".

    Parameters
    ----------
    k
        Successes, whole numbers.
    n
        Draws, whole numbers of at least 0.
    p
        Probability of a success, from 0 to 1.
    """
    n, k = _whole("n", n, 0), _whole("k", k, None)
    return _of_distinct(_binomial_tail, k, n, _within("p", p))


def binomial_lower(k: Any, n: Any, alpha: Any) -> np.ndarray:
    """Lower limit of a probability of which `n` independent draws had `k` successes.

    One-sided: whatever the probability is, it is below its limit for at most the share `alpha` of
    all samples. The exact limit of Clopper and Pearson, rounded down; 0 for `k` = 0.

    Parameters
    ----------
    k
        Successes, whole numbers from 0 to `n`.
    n
        Draws, whole numbers of at least 1.
    alpha
        How likely the limit is wrong, at most; above 0 and below 1.

    Raises
    ------
    ValueError
        If `k` is not from 0 to `n`, or `alpha` not between 0 and 1.
    """
    return _of_distinct(_binomial_lower, *_limits_of(k, n, alpha))


def binomial_upper(k: Any, n: Any, alpha: Any) -> np.ndarray:
    """Upper limit of a probability of which `n` independent draws had `k` successes.

    One-sided at 1 - `alpha`, as `binomial_lower`; rounded up; 1 for `k` = `n`.

    Parameters
    ----------
    k, n, alpha
        As for `binomial_lower`.
    """
    k, n, alpha = _limits_of(k, n, alpha)
    failures = binomial_lower(n - k, n, alpha)
    return np.where(k == n, 1.0, np.minimum(np.nextafter(1.0 - failures, 2.0), 1.0))


def binomial_interval(k: Any, n: Any, alpha: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both limits at `alpha` / 2: together they hold with confidence 1 - `alpha`.

    Parameters
    ----------
    k, n
        As for `binomial_lower`.
    alpha
        How likely one of the limits is wrong, at most; above 0 and below 1.
    """
    half = _between("alpha", alpha) / 2
    return binomial_lower(k, n, half), binomial_upper(k, n, half)


def rejected(p_values: Any, alpha: Any, correction: str = "holm") -> np.ndarray:
    """Which hypotheses are rejected together at the level `alpha`, along the last axis.

    Parameters
    ----------
    p_values
        (..., M): a p-value for each of M hypotheses, which may depend on each other in any way.
    alpha
        The level of each row, a number or (...).
    correction
        "holm" and "bonferroni" hold the probability of *any* wrong rejection in a row to `alpha`
        (family-wise error), whatever the dependence; "holm" rejects all that "bonferroni" does, and
        more. "benjamini-yekutieli" holds the expected *share* of wrong ones among the rejections to
        `alpha` (false discovery rate), whatever the dependence: a weaker statement.

    Returns
    -------
    numpy.ndarray
        (..., M) bool.

    Raises
    ------
    ValueError
        For a name that is not in `CORRECTIONS`, p-values outside of [0, 1] or an `alpha` that is
        not between 0 and 1.
    """
    if correction not in CORRECTIONS:
        raise ValueError(f"correction must be one of {CORRECTIONS}. Received: {correction!r}")
    p_values = _within("p_values", p_values)
    alpha = _between("alpha", alpha)[..., None]
    size = p_values.shape[-1]
    if correction == "bonferroni" or size == 0:
        return p_values <= alpha / max(size, 1)
    order = np.argsort(p_values, axis=-1)
    ascending = np.take_along_axis(p_values, order, axis=-1)
    ranks = np.arange(1, size + 1)
    if correction == "holm":  # up to the first that is not small enough
        passed = np.logical_and.accumulate(ascending <= alpha / (size - ranks + 1), axis=-1)
    else:  # up to the last that is small enough
        small = ascending <= alpha * ranks / (size * np.sum(1.0 / ranks))
        passed = np.logical_or.accumulate(small[..., ::-1], axis=-1)[..., ::-1]
    found = np.empty_like(passed)
    np.put_along_axis(found, order, passed, axis=-1)
    return found


def nb_samples_for(error: float, delta: float) -> int:
    """How many draws bring a mean of [0, 1] variables within `error` of its expectation.

    By Hoeffding's inequality, on both sides, with confidence 1 - `delta`:
    ceil(log(2 / delta) / (2 error^2)).

    Parameters
    ----------
    error
        Above 0 and below 1.
    delta
        How likely the mean is farther, at most; above 0 and below 1.
    """
    error, delta = float(_between("error", error)), float(_between("delta", delta))
    return math.ceil(math.log(2 / delta) / (2 * error**2))


def mean_lower(mean: Any, n: Any, alpha: Any) -> np.ndarray:
    """Lower limit of the expectation of [0, 1] variables, of which `n` had the mean `mean`.

    One-sided at confidence 1 - `alpha`, for independent variables of any distribution on [0, 1]:
    the smallest m of which n kl(mean, m) <= log(1 / alpha), the inequality of Chernoff and
    Hoeffding turned around, rounded down. Never above `binomial_lower` for variables that are 0 or
    1, and much better than Hoeffding's for means close to 1.

    Parameters
    ----------
    mean
        Of the draws, from 0 to 1.
    n
        Draws, whole numbers of at least 1.
    alpha
        How likely the limit is wrong, at most; above 0 and below 1.
    """
    mean, n = _within("mean", mean), _whole("n", n, 1)
    needed = -np.log(_between("alpha", alpha)) / n * (1 + _OUTWARD)
    mean, needed = np.broadcast_arrays(mean, needed)
    low, high = np.zeros_like(mean), mean
    for _ in range(_NB_HALVINGS):
        middle = (low + high) / 2
        far = _divergence(mean, middle) >= needed
        low, high = np.where(far, middle, low), np.where(far, high, middle)
    return low


def lower_by_bets(draws: Any, alpha: float, *, least: float = 0.0) -> np.ndarray:
    """Lower limit of the expectation of [0, 1] variables, from their independent draws themselves.

    If x has the expectation m, then for every share s below 1

        E of the product of (1 - s + s x_i / m) over i = 1, ..., n is 1:

    what a player may expect who begins with 1 and bets the share s of all he has on each draw. The
    mean of these products over some fixed shares has the same expectation, so that it reaches
    1 / alpha with a probability of at most alpha (Markov). It falls with m. The limit is the m for
    which it is 1 / alpha: larger than the expectation with that probability at most. For draws that
    vary little it is close to their mean, which the limit of `mean_lower` is not.

    Source: Waudby-Smith and Ramdas, Estimating Means of Bounded Random Variables by Betting, 2024,
    of whose bets these are the simplest.

    Parameters
    ----------
    draws
        (..., n), each from 0 to 1.
    alpha
        How likely the limit is wrong, at most; above 0 and below 1.
    least
        What the expectation cannot be below: the limit is not either. From 0 to 1.

    Returns
    -------
    numpy.ndarray
        (...): from `least` to 1, rounded down.
    """
    draws = _within("draws", draws)
    wanted = math.log(len(_BETS) / float(_between("alpha", alpha))) * (1 + _OUTWARD)
    low, high = np.full(draws.shape[:-1], float(least)), np.ones(draws.shape[:-1])
    for _ in range(_NB_HALVINGS):
        middle = (low + high) / 2
        odds = draws / middle[..., None] - 1
        won = np.logaddexp.reduce([np.log1p(share * odds).sum(axis=-1) for share in _BETS])
        low, high = np.where(won >= wanted, middle, low), np.where(won >= wanted, high, middle)
    return low


def vector_mean_error(n: Any, bound: Any, alpha: Any) -> np.ndarray:
    """How far the mean of `n` independent vectors is from its expectation, in the l2 norm.

    At most this with confidence 1 - `alpha`, in any dimension, for vectors of a length of at most
    `bound`: bound (1 / sqrt(n) + sqrt(2 log(1 / alpha) / n)). The first summand covers the expected
    distance, the second what it varies by (McDiarmid: one vector moves it by 2 bound / n at most).

    Parameters
    ----------
    n
        Vectors, whole numbers of at least 1.
    bound
        Their largest length, at least 0.
    alpha
        How likely it is farther, at most; above 0 and below 1.
    """
    n, bound = _whole("n", n, 1), np.asarray(bound, float)
    if not np.all((bound >= 0) & (bound < np.inf)):
        raise ValueError(f"bound must be a finite length of at least 0. Received: {bound}")
    return bound * (1 + np.sqrt(-2 * np.log(_between("alpha", alpha)))) / np.sqrt(n)


def shared_volume(distance: Any, radius: Any, dimension: Any) -> np.ndarray:
    """Volume that two balls share, over the volume of one of them.

    Parameters
    ----------
    distance
        Of the centers, at least 0; nothing is shared from 2 `radius` on.
    radius
        Of both balls, above 0.
    dimension
        Of the space, a whole number of at least 1.
    """
    distance, radius = np.asarray(distance, float), _above_zero("radius", radius)
    dimension = _whole("dimension", dimension, 1)
    if not np.all(distance >= 0):
        raise ValueError(f"distance must be at least 0. Received: {distance}")
    outside = np.minimum(distance / radius / 2, 1.0)
    # Two caps, from the middle on: each is half of I_{1 - z^2}((d + 1) / 2, 1 / 2) of a ball.
    x, y = (1 - outside) * (1 + outside), outside**2
    return np.exp(_log_beta_cdf(*np.broadcast_arrays(x, y, (dimension + 1) / 2, 0.5))[0])


def _binomial_tail(k: np.ndarray, n: np.ndarray, p: np.ndarray) -> np.ndarray:
    inside = (k > 0) & (k <= n)
    a, b = np.where(inside, k, 1.0), np.where(inside, n - k + 1, 1.0)
    return np.where(inside, np.exp(_log_beta_cdf(p, 1 - p, a, b)[0]), k <= 0)


def _binomial_lower(k: np.ndarray, n: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Where the tail is `alpha` (less what rounding may have done), by Newton's method.

    The logarithm of the tail is a concave function of t = log p, so that each step from below stays
    below. It starts where k t + log(n choose k), which is no smaller than it, has that value.
    """
    some = k > 0
    a, b = np.where(some, k, 1.0), np.where(some, n - k + 1, 1.0)
    wanted = np.log(alpha) + math.log1p(-_OUTWARD)
    t = np.minimum((wanted + np.log(a) + _log_beta(a, b)) / a, -1e-300)
    for _ in range(_NB_HALVINGS):
        y = -np.expm1(t)
        log_tail, log_factor = _log_beta_cdf(np.exp(t), y, a, b)
        if np.all(np.abs(wanted - log_tail) < _OUTWARD / 10):
            break
        slope = np.exp(log_factor - np.log(y) - log_tail)
        t = np.minimum(t + (wanted - log_tail) / slope, -1e-300)
    return np.where(some, np.nextafter(np.exp(t), 0.0), 0.0)


def _log_beta_cdf(
    x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """log I_x(a, b) and log(x^a y^b / B(a, b)), of y = 1 - x and four arrays of one shape.

    On the side of the mean where the fraction converges fast; the other one is its complement.
    """
    inside, ends = (x > 0) & (y > 0), np.where(x > 0, 0.0, -np.inf)
    x, y = np.where(inside, x, 0.5), np.where(inside, y, 0.5)
    log_factor = _log_factor(x, y, a, b)
    turned = x > (a + 1) / (a + b + 2)
    first, second = np.where(turned, b, a), np.where(turned, a, b)
    low, high = np.where(turned, y, x), np.where(turned, x, y)
    log_share = log_factor + np.log(_continued_fraction(low, high, first, second))
    log_share = np.minimum(log_share, 0.0)
    with np.errstate(divide="ignore"):
        log_share = np.where(turned, np.log1p(-np.exp(log_share)), log_share)
    return np.where(inside, log_share, ends), log_factor


def _log_factor(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """log(x^a y^b / B(a, b)), of deviations from the mean: large terms never cancel."""
    both = a + b
    above = np.where(x < y, x * both - a, b - y * both)  # from the smaller one, which is exact
    deviance = a * _log_less_linear(above / a, x * both / a)
    deviance = deviance + b * _log_less_linear(-above / b, y * both / b)
    stirling = _stirling(both) - _stirling(a) - _stirling(b)
    return deviance + stirling + np.log(a / both * b / (2 * np.pi)) / 2


def _log_less_linear(above: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """log(`ratio`) - `above` of a ratio = 1 + above: from the more accurate one of the two."""
    near = np.abs(above) < 0.5
    return np.where(near, np.log1p(np.where(near, above, 0.0)), np.log(ratio)) - above


def _log_beta(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    both = a + b
    powers = a * np.log(a / both) + b * np.log(b / both) + np.log(both / a / b * 2 * np.pi) / 2
    return powers + _stirling(a) + _stirling(b) - _stirling(both)


def _stirling(a: np.ndarray) -> np.ndarray:
    """What Stirling's formula leaves of log Gamma: (a - 1/2) log a - a + log(2 pi) / 2 is added."""
    rest, far = np.zeros_like(a), a
    while np.any(far < _SERIES_FROM):  # by log Gamma(a) = log Gamma(a + 1) - log a
        small = far < _SERIES_FROM
        rest = np.where(small, rest + (far + 0.5) * np.log1p(1 / far) - 1, rest)
        far = np.where(small, far + 1, far)
    return rest + sum(c / far ** (2 * i + 1) for i, c in enumerate(_STIRLING))


def _continued_fraction(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """I_x(a, b) over x^a y^b / B(a, b), for x up to the mean: the fraction of Didonato and Morris.

    The even part of the usual one, in which the distance of x from the mean is taken from `y` where
    that is smaller.
    """
    start = 1 + np.where(x < y, a - (a + b) * x, (a + b) * y - b)
    numerators = np.zeros_like(x), np.ones_like(x)
    denominators = np.ones_like(x), start / (1 + 1 / a)
    value = 1 / denominators[1]
    for i in range(1, 1000 + 20 * math.isqrt(int(np.max(a + b, initial=1.0)))):
        width = a + 2 * i
        turn = i * (b - i) * x
        first = (a + i - 1) * (a + b + i - 1) / (width - 1) ** 2 * turn * x
        second = i + turn / (width - 1) + (a + i) / (width + 1) * (start + i * (1 + y))
        numerators = numerators[1], first * numerators[0] + second * numerators[1]
        denominators = denominators[1], first * denominators[0] + second * denominators[1]
        last, scale = value, denominators[1]
        value = numerators[1] / scale
        if np.all(np.abs(value - last) <= 1e-15 * value):
            return value
        numerators = numerators[0] / scale, value
        denominators = denominators[0] / scale, np.ones_like(x)
    raise ArithmeticError("the continued fraction of the incomplete beta function did not converge")


def _divergence(mean: np.ndarray, other: np.ndarray) -> np.ndarray:
    """kl(mean, other) of two Bernoulli variables, of which the second is not above the first."""
    gap, rest = mean - other, 1 - mean
    found = np.zeros(np.shape(gap))
    for share, above, ratio in ((mean, -gap, other), (rest, gap, 1 - other)):
        some = share > 0
        share = np.where(some, share, 1.0)
        with np.errstate(divide="ignore"):
            term = share * _log_less_linear(above / share, ratio / share)
        found = found - np.where(some, term, -above)
    return found


def _of_distinct(function: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """`function` of arrays that broadcast, called with what is distinct of them alone.

    Maps have many pixels and few counts.
    """
    values, codes = zip(*(np.unique(a, return_inverse=True) for a in arrays))
    sizes = [max(v.size, 1) for v in values]
    shaped = np.broadcast_arrays(*(c.reshape(a.shape) for c, a in zip(codes, arrays)))
    distinct, code = np.unique(np.ravel_multi_index(shaped, sizes), return_inverse=True)
    found = function(*(v[i] for v, i in zip(values, np.unravel_index(distinct, sizes))))
    return found[code].reshape(shaped[0].shape)


def _each(function: Callable[[float], float], values: np.ndarray) -> np.ndarray:
    """A function of single numbers, of the distinct ones of an array."""
    distinct, code = np.unique(values, return_inverse=True)
    return np.array([function(value) for value in distinct.tolist()])[code].reshape(values.shape)


def _limits_of(k: Any, n: Any, alpha: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, k = _whole("n", n, 1), _whole("k", k, 0)
    if not np.all(k <= n):
        raise ValueError(f"k must be at most n, the number of draws. Received: {k} of {n}")
    return k, n, _between("alpha", alpha)


def _whole(name: str, value: Any, least: int | None) -> np.ndarray:
    value = np.asarray(value, float)
    if not np.all(np.floor(value) == value) or (least is not None and not np.all(value >= least)):
        span = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be whole numbers{span}. Received: {value}")
    return value


def _within(name: str, value: Any) -> np.ndarray:
    value = np.asarray(value, float)
    if not np.all((value >= 0) & (value <= 1)):
        raise ValueError(f"{name} must be from 0 to 1. Received: {value}")
    return value


def _between(name: str, value: Any) -> np.ndarray:
    value = np.asarray(value, float)
    if not np.all((value > 0) & (value < 1)):
        raise ValueError(f"{name} must be above 0 and below 1. Received: {value}")
    return value


def _above_zero(name: str, value: Any) -> np.ndarray:
    value = np.asarray(value, float)
    if not np.all((value > 0) & (value < np.inf)):
        raise ValueError(f"{name} must be finite and above 0. Received: {value}")
    return value
