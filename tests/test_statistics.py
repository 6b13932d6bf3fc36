"""Exact statistics, against values worked out by hand and those of scipy."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.special
import scipy.stats

from xcertify.statistics import (
    CORRECTIONS,
    binomial_interval,
    binomial_lower,
    binomial_tail,
    binomial_upper,
    incomplete_beta,
    lower_by_bets,
    mean_lower,
    nb_samples_for,
    normal_cdf,
    normal_quantile,
    rejected,
    shared_volume,
    vector_mean_error,
)

LEVELS = [0.5, 0.05, 0.001, 1e-6, 1e-12]


def of_all(n, some=200):
    """Numbers of successes from 0 to n, all of few and some of many."""
    return np.unique(np.linspace(0, n, some).round())


def exact_tail(k, n, p):
    """P(Bin(n, p) >= k) in rational numbers, of the float p itself."""
    p = Fraction(p)
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def test_normal_probabilities_and_quantiles():
    z = np.linspace(-37, 8, 500)
    np.testing.assert_allclose(normal_cdf(z), scipy.stats.norm.cdf(z), rtol=1e-12)
    p = np.array([1e-300, 1e-12, 0.001, 0.3, 0.5, 0.75, 0.999, 1 - 1e-12])
    np.testing.assert_allclose(normal_quantile(p), scipy.stats.norm.ppf(p), rtol=1e-13)
    np.testing.assert_allclose(normal_cdf(normal_quantile(p)), p, rtol=1e-12)
    assert normal_quantile([0, 1]).tolist() == [-np.inf, np.inf]
    assert normal_quantile(0.975).shape == ()


def test_tails_are_those_of_rational_numbers():
    for n, p in itertools.product((1, 7, 40), (1e-12, 0.001, 0.25, 0.75, 0.999)):
        found = binomial_tail(np.arange(n + 1), n, p)
        exact = [float(exact_tail(k, n, p)) for k in range(n + 1)]
        np.testing.assert_allclose(found, exact, rtol=1e-12)
    assert binomial_tail([-1, 0, 3, 4], 3, 0.5) == pytest.approx([1.0, 1.0, 0.125, 0.0])
    assert binomial_tail(2, 3, [0.0, 1.0]).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("n", [1000, 10**6])
def test_tails_of_many_draws(n):
    k = of_all(n)[1:]
    for p in (1e-9, 0.01, 0.5, 0.75, 0.9999):
        found, exact = binomial_tail(k, n, p), scipy.special.betainc(k, n - k + 1, p)
        normal = exact > 1e-290
        np.testing.assert_allclose(found[normal], exact[normal], rtol=1e-11)
    # near the mean, where nothing is far away
    k = np.round(0.75 * n + np.arange(-5, 6) * math.sqrt(n))
    exact = scipy.stats.binom.sf(k - 1, n, 0.75)
    np.testing.assert_allclose(binomial_tail(k, n, 0.75), exact, rtol=1e-11)


@pytest.mark.parametrize("alpha", [*LEVELS, 0.95])
@pytest.mark.parametrize("n", [1, 2, 100, 10**6])
def test_limits_contain_the_exact_ones_and_hardly_more(n, alpha):
    k = of_all(n)
    lower, upper = binomial_lower(k, n, alpha), binomial_upper(k, n, alpha)
    exact_lower = np.where(k > 0, scipy.stats.beta.ppf(alpha, k, n - k + 1), 0.0)
    exact_upper = np.where(k < n, scipy.stats.beta.isf(alpha, k + 1, n - k), 1.0)
    assert np.all((lower < exact_lower) | ((lower == 0) & (k == 0)))
    assert np.all((upper > exact_upper) | ((upper == 1) & (k == n)))
    np.testing.assert_allclose(lower, exact_lower, rtol=1e-8)
    np.testing.assert_allclose(upper, exact_upper, rtol=1e-8)


def test_limits_are_outward_in_rational_numbers():
    # P(X >= k) at the lower limit is at most alpha, P(X <= k) at the upper one too: without scipy
    n, alpha = 30, 0.001
    for k in (1, 9, 29, 30):
        assert exact_tail(k, n, float(binomial_lower(k, n, alpha))) < Fraction(alpha)
        failures = n - k + 1
        upper = Fraction(float(binomial_upper(k - 1, n, alpha)))
        below = sum(
            math.comb(n, i) * (1 - upper) ** i * upper ** (n - i) for i in range(failures, n + 1)
        )
        assert below < Fraction(alpha)


def test_limits_by_hand():
    # all of n: p^n = alpha; none of n: (1 - p)^n = alpha
    assert binomial_lower(100, 100, 0.001) == pytest.approx(0.001**0.01, rel=1e-9)
    assert binomial_upper(0, 10, 0.05) == pytest.approx(1 - 0.05**0.1, rel=1e-9)
    low, high = binomial_interval(np.array([[5], [0]]), 10, 0.05)
    np.testing.assert_allclose(low[:, 0], [0.1870860284, 0.0], atol=1e-9)
    np.testing.assert_allclose(high[:, 0], [0.8129139716, 0.3084971078], atol=1e-9)
    assert low.shape == (2, 1)


def test_limits_and_tails_answer_alike():
    """A limit is at least p where, and only where, the test of "at most p" rejects."""
    k, n = np.arange(101), 100
    for p, alpha in itertools.product((0.5, 0.75, 0.9), (0.05, 0.001)):
        tails = binomial_tail(k, n, p)
        assert np.array_equal(tails <= alpha, binomial_lower(k, n, alpha) >= p)


def test_limits_cover_a_probability_as_often_as_they_say():
    n = 50
    for p, alpha in itertools.product((0.02, 0.5, 0.9), (0.05, 0.2)):
        shares = scipy.stats.binom.pmf(np.arange(n + 1), n, p)
        assert shares[binomial_lower(np.arange(n + 1), n, alpha) > p].sum() <= alpha
        assert shares[binomial_upper(np.arange(n + 1), n, alpha) < p].sum() <= alpha


def test_arrays_broadcast_and_equal_counts_are_computed_alike():
    counts = np.random.default_rng(0).integers(0, 21, (3, 400))
    at_once = binomial_lower(counts, 20, np.array([[0.1], [0.01], [0.001]]))
    for row, alpha in enumerate((0.1, 0.01, 0.001)):
        one_by_one = [binomial_lower(k, 20, alpha) for k in counts[row, :30]]
        np.testing.assert_allclose(at_once[row, :30], one_by_one, rtol=1e-9)
    assert binomial_tail(np.zeros((0, 4)), 5, 0.5).shape == (0, 4)


def test_the_incomplete_beta_function():
    generator = np.random.default_rng(1)
    a, b = np.exp(generator.uniform(-5, 12, (2, 3000)))
    x = generator.random(3000)
    found, exact = incomplete_beta(x, a, b), scipy.special.betainc(a, b, x)
    normal = exact > 1e-200  # where scipy is right
    np.testing.assert_allclose(found[normal], exact[normal], rtol=1e-11)
    # which it is not here; the value is one of 60 digits
    assert incomplete_beta(0.7414752480972082, 2486.19123296689, 26.301576438307578) == (
        pytest.approx(3.45435230586940043e-278, rel=1e-11)
    )
    assert incomplete_beta([0, 1], 2, 3).tolist() == [0.0, 1.0]
    assert incomplete_beta(0.5, 2, 2) == pytest.approx(0.5, rel=1e-14)  # 3 x^2 - 2 x^3
    assert incomplete_beta(0.25, 0.5, 0.5) == pytest.approx(1 / 3, rel=1e-14)  # asin(1/2) 2 / pi


def test_which_hypotheses_are_rejected_by_hand():
    p = [0.01, 0.04, 0.03, 0.005]
    # holm: .005 <= .05/4, .01 <= .05/3, .03 > .05/2; bonferroni: <= .0125
    assert rejected(p, 0.05, "holm").tolist() == [True, False, False, True]
    assert rejected(p, 0.05, "bonferroni").tolist() == [True, False, False, True]
    # holm passes where bonferroni does not: .015 <= .05/3
    assert rejected([0.015, 0.9, 0.9, 0.005], 0.05, "holm").tolist() == [True, False, False, True]
    assert rejected([0.015, 0.9, 0.9, 0.005], 0.05, "bonferroni").sum() == 1
    # benjamini-yekutieli of 4: i 0.05 / (4 (1 + 1/2 + 1/3 + 1/4)) = i 0.006: .024 is the fourth's
    q = [0.024, 0.0125, 0.02, 0.007]
    assert rejected(q, 0.05, "benjamini-yekutieli").tolist() == [True] * 4
    assert rejected(q[1:], 0.05, "benjamini-yekutieli").tolist() == [True, True, True]
    assert rejected([0.0241, *q[1:]], 0.05, "benjamini-yekutieli").tolist() == [False] * 4


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_rows_are_decided_on_their_own(correction):
    p = np.random.default_rng(2).random((5, 40)) ** 6
    levels = np.array([0.05, 0.001, 0.2, 0.05, 0.5])
    together = rejected(p, levels, correction)
    for row in range(5):
        assert np.array_equal(together[row], rejected(p[row], levels[row], correction))
        order = np.random.default_rng(row).permutation(40)
        assert np.array_equal(
            together[row][order], rejected(p[row][order], levels[row], correction)
        )
    assert together.any() and not together.all()


def test_rejections_are_those_of_adjusted_p_values():
    """Benjamini and Yekutieli against scipy; Holm against all its intersections (closed test)."""
    p = np.random.default_rng(3).random((20, 6)) ** 4
    adjusted = scipy.stats.false_discovery_control(p, axis=1, method="by")
    assert np.array_equal(rejected(p, 0.05, "benjamini-yekutieli"), adjusted <= 0.05)
    subsets = [np.array(s) for r in range(1, 7) for s in itertools.combinations(range(6), r)]
    closed = np.ones(p.shape, bool)
    for subset in subsets:
        closed[:, subset] &= (p[:, subset].min(axis=1) <= 0.05 / len(subset))[:, None]
    assert np.array_equal(rejected(p, 0.05, "holm"), closed)


def test_of_no_hypotheses_none_is_rejected():
    for correction in CORRECTIONS:
        assert rejected(np.zeros((2, 0)), 0.05, correction).shape == (2, 0)


def test_how_many_samples_a_mean_takes():
    assert nb_samples_for(0.1, 0.1) == 150  # log(20) / 0.02 = 149.79
    assert nb_samples_for(0.01, 0.001) == 38005


def test_limits_of_means_are_where_the_divergence_says():
    def divergence(p, q):
        return float(scipy.special.rel_entr(p, q) + scipy.special.rel_entr(1 - p, 1 - q))

    for mean, n, alpha in itertools.product((0.01, 0.5, 0.9, 0.999), (100, 10**6), (0.05, 1e-9)):
        lower = float(mean_lower(mean, n, alpha))
        assert 0 < lower < mean
        assert divergence(mean, lower) * n == pytest.approx(-math.log(alpha), rel=1e-6)
        assert divergence(mean, lower) * n >= -math.log(alpha) * (1 - 1e-9)
    assert mean_lower([0, 0.01], 10, 1e-9).tolist() == [0, 0]  # of 1e-92, rounded down
    assert mean_lower(1, 100, 0.001) == pytest.approx(0.001**0.01, rel=1e-9)
    k = np.arange(101)
    assert np.all(mean_lower(k / 100, 100, 0.05) <= binomial_lower(k, 100, 0.05) + 1e-9)
    # and better than Hoeffding's
    assert np.all(mean_lower(k / 100, 100, 0.05) >= k / 100 - math.sqrt(math.log(20) / 200))


def test_how_far_the_mean_of_vectors_is():
    # 2 / 10 (1 + sqrt(2 log 20))
    assert vector_mean_error(100, 2.0, 0.05) == pytest.approx(0.2 * (1 + 2.4477468), rel=1e-7)
    assert vector_mean_error(100, 0.0, 0.05) == 0
    # the worst there is: signs on a line, and directions at random
    generator = np.random.default_rng(4)
    for dimension in (1, 50):
        vectors = generator.standard_normal((2000, 20, dimension))
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        far = np.linalg.norm(vectors.mean(axis=1), axis=1)
        assert np.mean(far > vector_mean_error(20, 1.0, 0.05)) <= 0.05


def test_volumes_that_balls_share_by_hand():
    z = np.array([0.0, 0.3, 1.0, 1.7, 2.0, 5.0])
    half = np.minimum(z / 2, 1)
    np.testing.assert_allclose(shared_volume(z, 1.0, 1), 1 - half, atol=1e-15)
    lens = 2 / np.pi * (np.arccos(half) - half * np.sqrt(1 - half**2))
    np.testing.assert_allclose(shared_volume(z, 1.0, 2), lens, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        shared_volume(z, 1.0, 3), 1 - half * (3 - half**2) / 2, rtol=1e-12, atol=1e-15
    )
    assert shared_volume(0.6, 2.0, 3) == pytest.approx(float(shared_volume(0.3, 1.0, 3)), rel=1e-14)


def test_volumes_that_balls_share_in_many_dimensions():
    z = np.array([0.0, 1e-6, 1e-3, 0.01, 0.1, 0.5, 1.9])
    for dimension in (100, 3072, 200_000):
        found = shared_volume(z, 1.0, dimension)
        exact = scipy.special.betaincc(0.5, (dimension + 1) / 2, (z / 2) ** 2)
        normal = exact > 1e-290
        np.testing.assert_allclose(found[normal], exact[normal], rtol=1e-11)
    # in many dimensions balls of radius sqrt(d) are normal: 2 Phi(-distance / 2)
    assert shared_volume(1.0, math.sqrt(200_000), 200_000) == pytest.approx(
        2 * float(normal_cdf(-0.5)), rel=1e-4
    )


def test_a_sampled_volume():
    generator = np.random.default_rng(5)
    points = generator.standard_normal((40_000, 6))
    points *= generator.random((40_000, 1)) ** (1 / 6) / np.linalg.norm(points, axis=1)[:, None]
    points[:, 0] += 0.7
    inside = int((np.linalg.norm(points, axis=1) <= 1).sum())
    low, high = binomial_interval(inside, len(points), 1e-6)
    assert low <= shared_volume(0.7, 1.0, 6) <= high


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: normal_quantile(1.1), "p must be from 0 to 1"),
        (lambda: incomplete_beta(0.5, 0, 1), "a must be finite and above 0"),
        (lambda: binomial_tail(1, -1, 0.5), "n must be whole numbers of at least 0"),
        (lambda: binomial_tail(1.5, 2, 0.5), "k must be whole numbers"),
        (lambda: binomial_lower(3, 2, 0.1), "k must be at most n"),
        (lambda: binomial_upper(np.nan, 2, 0.1), "k must be whole numbers"),
        (lambda: binomial_lower(1, 2, 0), "alpha must be above 0 and below 1"),
        (lambda: binomial_interval(1, 2, 1), "alpha must be above 0 and below 1"),
        (lambda: rejected([0.1], 0.05, "sidak"), "correction must be one of"),
        (lambda: rejected([np.nan], 0.05), "p_values must be from 0 to 1"),
        (lambda: nb_samples_for(0, 0.1), "error must be above 0 and below 1"),
        (lambda: mean_lower(1.01, 2, 0.1), "mean must be from 0 to 1"),
        (lambda: vector_mean_error(2, -1, 0.1), "bound must be a finite length"),
        (lambda: shared_volume(-1, 1, 3), "distance must be at least 0"),
        (lambda: shared_volume(1, 0, 3), "radius must be finite and above 0"),
        (lambda: shared_volume(1, 1, 2.5), "dimension must be whole numbers"),
    ],
)
def test_what_makes_no_sense_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_limits_by_bets():
    """One draw of 1 against m: the mean of 1 - s + s / m over the bets reaches 1 / alpha."""
    shares = np.array([0.15, 0.35, 0.7, 0.97])
    mean = float(shares.mean())  # 1 - mean + mean / m = 1 / alpha
    for alpha in (0.05, 0.5):
        found = float(lower_by_bets([1.0], alpha))
        exact = mean / (1 / alpha - 1 + mean)
        assert exact * (1 - 1e-9) <= found <= exact
    assert lower_by_bets([[0.0, 0.0], [1.0, 0.0]], 0.05, least=0.5).tolist() == [0.5] * 2
    generator = np.random.default_rng(0)
    draws = generator.beta(8.0, 2.0, (4000, 60))  # of the mean 0.8
    limits = lower_by_bets(draws, 0.05)
    assert (limits > 0.8).mean() <= 0.05
    assert (limits > mean_lower(draws.mean(axis=1), 60, 0.05)).mean() > 0.9
    with pytest.raises(ValueError, match="draws must be from 0 to 1"):
        lower_by_bets([1.5], 0.05)
