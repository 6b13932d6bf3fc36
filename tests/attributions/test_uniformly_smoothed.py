"""UniformlySmoothedAttribution: bounds against worst cases, the level, the paper's number."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import sequential
from scipy import optimize, stats

from xcertify import VacuousWarning
from xcertify.attributions import Saliency, UniformlySmoothedAttribution
from xcertify.attributions.uniformly_smoothed import cosine_distances
from xcertify.certificates import Certificate
from xcertify.certificates.cosines import (
    Noise,
    cosine_of_paper,
    cosine_within,
    largest_epsilon,
    length_limit,
)
from xcertify.perturbation import Perturbation
from xcertify.statistics import mean_lower

L = keras.layers
SHAPE = (6, 5, 2)
ALONG = Noise(1.0, 1)  # of one feature: two points at a distance e share all but q = e / 2


@pytest.fixture(scope="module")
def model():
    layers = [L.Conv2D(3, 2, activation="tanh"), L.Flatten(), L.Dense(3)]
    return sequential(SHAPE, *layers, seed=0)


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 1, (3, *SHAPE)).astype("float32")


def smoothed(function, *settings, **named):
    return UniformlySmoothedAttribution(function, *settings, model=tf.identity, **named)


def cosine(first, second):
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return (first * second).sum(axis=-1) / lengths


def worst_of_uniform(t, q):
    """h, a, b and b' of the largest angle that lengths of at most 1 allow, in the plane."""
    h = np.array([t, 0.0])
    if t**2 <= 1 - 2 * q + 4 * q**2:
        sine = 2 * q / t
        normal = np.array([-sine, np.sqrt(1 - sine**2)])
        u = h + q * normal
        return h, u / (1 - q), -normal, normal
    along = (t**2 + 1 - 2 * q) / (2 * t)
    u = np.array([along, np.sqrt((1 - q) ** 2 - along**2)])
    turn = np.arctan2(u[1], u[0]) + np.arcsin(q / (1 - q)) + np.pi / 2
    return h, u / (1 - q), (h - u) / q, np.array([np.cos(turn), np.sin(turn)])


# --- the bounds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.3, 0.7, 0.9, 0.97, 0.999])
@pytest.mark.parametrize("q", [0.01, 0.1, 0.13, 0.3])
def test_the_bound_of_uniform_noise_is_attained(t, q):
    bound = cosine_within(t, 2 * q, ALONG)
    if t <= 2 * q:
        assert bound == -1
        return
    h, a, b, other = worst_of_uniform(t, q)
    assert max(np.linalg.norm(v) for v in (a, b, other)) <= 1 + 1e-12
    np.testing.assert_allclose((1 - q) * a + q * b, h, atol=1e-12)
    reached = cosine(h, (1 - q) * a + q * other)
    assert bound <= reached
    np.testing.assert_allclose(bound, reached, atol=1e-6)


@pytest.mark.parametrize("dimension", [2, 3])
def test_no_three_vectors_exceed_the_bound_of_uniform_noise(dimension):
    generator = np.random.default_rng(dimension)
    vectors = generator.standard_normal((3, 200_000, dimension))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors *= np.minimum(generator.uniform(0.5, 1.5, vectors.shape[:2]), 1)[..., None]
    vectors[0, :, 0] = np.abs(vectors[0, :, 0])  # more that agree
    q = generator.uniform(0.001, 0.4, (200_000, 1))
    a, b, other = vectors
    h, moved = (1 - q) * a + q * b, (1 - q) * a + q * other
    bound = cosine_within(np.linalg.norm(h, axis=1), 2 * q[:, 0], ALONG)
    assert (bound > 0).mean() > 0.5
    assert (cosine(h, moved) >= bound - 1e-9).all()


@pytest.mark.parametrize("distance", [0.05, 0.3, 0.8])
def test_the_bound_of_normal_noise_holds_for_functions_chosen_to_break_it(distance):
    # g turns with the likelihood ratio, as the worst ones do: along L w - v of any two vectors
    z = np.linspace(-9, 9, 4001)
    mass = stats.norm.pdf(z) / stats.norm.pdf(z).sum()
    ratio = np.exp(distance * z - distance**2 / 2)
    moved_mass = mass * ratio / (mass * ratio).sum()
    generator = np.random.default_rng(0)
    slack = []
    for _ in range(600):
        w, v = generator.standard_normal((2, 2))
        w /= np.linalg.norm(w)
        g = ratio[:, None] * w - (v * generator.uniform(0.2, 3) + w * generator.integers(2))
        g /= np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-12)
        h, moved = mass @ g, moved_mass @ g
        bound = cosine_within(np.linalg.norm(h), distance, Noise(np.sqrt(3.0), 1, "gaussian"))
        if bound > 0:
            slack.append(cosine(h, moved) - bound)
    assert len(slack) > 100
    assert min(slack) >= -1e-6
    assert min(slack) < 0.03 * distance  # and it is not far from the worst one


def test_hand_values():
    assert cosine_within(0.8, 0.4, ALONG) == pytest.approx(np.sqrt(0.75), abs=1e-8)  # q = 0.2
    assert cosine_within(1.0, 0.4, ALONG) == pytest.approx(np.sqrt(1 - 0.25**2), abs=1e-7)
    assert cosine_within([0.8, 0.2, 0.0], 0.5, ALONG)[1:].tolist() == [-1, -1]
    np.testing.assert_allclose(cosine_within([0.1, 0.5, 1.0], 0.0, ALONG), 1.0, atol=1e-8)
    normal = Noise(np.sqrt(12.0), 10, "gaussian")  # of the deviation 1
    assert normal.deviation == pytest.approx(1)
    sine = (2 * stats.norm.cdf(0.3) - 1) / 0.5
    assert cosine_within(0.5, 0.3, normal) == pytest.approx(np.sqrt(1 - sine**2), abs=1e-8)
    sine = np.sqrt(np.expm1(0.09)) * np.sqrt(1 - 0.81) / 0.9
    assert cosine_within(0.9, 0.3, normal) == pytest.approx(np.sqrt(1 - sine**2), abs=1e-8)
    assert cosine_within(1.0, 5.0, normal) == pytest.approx(1, abs=1e-8)  # all maps are equal


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
@pytest.mark.parametrize("dimension", [1, 30, 150_528])
def test_bounds_fall_with_the_distance_and_the_shortness(kind, dimension):
    noise = Noise(2.0, dimension, kind)
    lengths, epsilon = np.linspace(0, 1, 101)[:, None], np.linspace(0, noise.farthest, 400)
    bounds = cosine_within(lengths, epsilon, noise)
    assert (np.diff(bounds, axis=1) <= 1e-12).all()
    assert (np.diff(bounds, axis=0) >= -1e-12).all()
    for threshold in (0.1, 0.8, 0.999):
        radii = largest_epsilon(lengths[:, 0], threshold, noise)
        some = radii > 0
        assert some.any()
        assert (cosine_within(lengths[some, 0], radii[some], noise) >= threshold).all()
        beyond = cosine_within(lengths[some, 0], radii[some] * (1 + 1e-6) + 1e-9, noise)
        assert (beyond < threshold).all()


def test_at_equal_variance_normal_noise_certifies_more_in_many_dimensions_but_not_in_one():
    lengths = np.array([0.3, 0.5, 0.7, 0.9, 0.99])
    radii = {
        (kind, dimension): largest_epsilon(lengths, 0.8, Noise(1.0, dimension, kind))
        for kind in ("uniform", "gaussian")
        for dimension in (1, 3072)
    }
    assert (radii["gaussian", 3072] > radii["uniform", 3072]).all()
    assert (radii["uniform", 1][:2] > radii["gaussian", 1][:2]).all()


def test_thresholds_that_no_cosine_can_have_are_refused():
    for threshold in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="threshold"):
            largest_epsilon(0.5, threshold, ALONG)


# --- the number of the paper --------------------------------------------------------------------

T, Q = 0.8, 0.35
EPSILON = optimize.brentq(lambda e: Noise(1.0, 2).unshared(e) - Q, 0.1, 1)  # 0.557


def turned(inputs, targets):
    """Unit maps around 0 and (EPSILON, 0) in the plane whose means are those of the worst case."""
    _, a, b, other = worst_of_uniform(T, Q)
    here = np.linalg.norm(inputs, axis=1) <= 1
    there = np.linalg.norm(inputs - np.float32([EPSILON, 0]), axis=1) <= 1
    half = np.arccos(np.linalg.norm(a)) * np.where(inputs[:, 1] > 0, 1, -1)
    middle = np.arctan2(a[1], a[0])
    shared = np.stack([np.cos(middle + half), np.sin(middle + half)], axis=1)
    alone = np.where(here[:, None], b, other)
    return np.where((here & there)[:, None], shared, alone)


def test_the_number_of_the_paper_is_no_lower_bound():
    noise = Noise(1.0, 2)
    assert noise.unshared(EPSILON) == pytest.approx(Q, abs=1e-8)
    explainer = smoothed(turned, 1.0, epsilon=EPSILON, nb_samples=40_000, batch_size=10_000)
    points = np.array([[0, 0], [EPSILON, 0]], "float32")
    certificate = explainer.certify(points[:1])
    means = explainer.explain(points)
    found = cosine(means[0], means[1])
    assert np.linalg.norm(means[0]) == pytest.approx(T, abs=0.01)
    assert found == pytest.approx(np.sqrt(1 - (2 * Q / T) ** 2), abs=0.02)  # 0.484
    assert certificate.cosine[0] <= found + 0.01
    assert certificate.cosine[0] > 0.4  # and says something all the same
    assert certificate.cosine_estimate[0] > found + 0.2  # 0.75
    # whatever V_U is: twice the part that is not shared, once that part, or the union of the balls
    assert cosine_of_paper(T, EPSILON, noise) == pytest.approx(0.7526, abs=1e-3)
    for ratio in (2 * Q, Q, 1 + Q):
        assert T / np.sqrt(T**2 + ratio**2) > np.sqrt(1 - (2 * Q / T) ** 2)


# --- lengths, and the level ---------------------------------------------------------------------


def mostly_up(inputs, targets):
    """(0, 1) for three noisy points of four, by chance alone, and else (1, 0)."""
    is_up = np.asarray(inputs)[:, :1] % 1 < 0.75
    return np.where(is_up, [0.0, 1.0], [1.0, 0.0])


def test_the_length_is_too_large_no_more_often_than_the_level_says():
    # noise over hundreds of units: x + noise mod 1 is uniform, so that h = (1/4, 3/4) everywhere
    inputs = np.random.default_rng(0).uniform(0, 1, (3000, 2)).astype("float32")
    settings = {"nb_samples": 40, "nb_choosing": 20, "alpha": 0.2, "batch_size": None}
    explainer = smoothed(mostly_up, 300.0, **settings)
    certificate = explainer.certify(inputs)
    length = np.sqrt(0.25**2 + 0.75**2)
    wrong = int((certificate.length > length).sum())
    assert stats.binomtest(wrong, len(inputs), 0.2, "greater").pvalue > 1e-3
    # the same with faults: a direction chosen by the samples that test it, and no limit at all
    same = np.linalg.norm(certificate.explanation.astype(float), axis=1)
    for fault in (same, certificate.projection):
        wrong = int((fault > length).sum())
        assert stats.binomtest(wrong, len(inputs), 0.2, "greater").pvalue < 1e-9


def test_limits_of_lengths():
    # the product over n equal draws x is (1 - s + s x / m)^n; the mean of all four is 1 / alpha
    for projection, count in ((1.0, 100), (0.6, 1000)):
        limit = length_limit(np.full(count, projection), 0.001)
        odds = (1 + projection) / (1 + limit) - 1
        products = (1 + np.array([0.15, 0.35, 0.7, 0.97]) * odds) ** count
        assert products.mean() == pytest.approx(1000)
    assert length_limit([[-1.0, -1.0], [-0.2, 0.1], [0.0, 0.0]], 0.001).tolist() == [0, 0, 0]
    limits = [float(length_limit(np.full(n, 0.6), 0.001)) for n in (10, 100, 10_000)]
    assert limits == sorted(limits)
    assert 0.598 < limits[-1] < 0.6


@pytest.mark.parametrize("ends", [(-1.0, 1.0), (0.5, 0.9)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_limits_of_lengths_are_too_large_no_more_often_than_the_level_says(ends, share):
    low, high = ends
    mean = low + share * (high - low)
    is_high = np.random.default_rng(0).random((10_000, 50)) < share
    limits = length_limit(np.where(is_high, high, low), 0.05)
    wrong = int((limits > max(mean, 0)).sum())
    assert stats.binomtest(wrong, 10_000, 0.05, "greater").pvalue > 1e-3
    ordinary = mean_lower((1 + np.where(is_high, high, low).mean(axis=1)) / 2, 50, 0.05) * 2 - 1
    if low > 0:  # of draws that vary little more is said than from their mean alone
        assert (limits > ordinary).all()


def test_inputs_that_share_the_level_have_shorter_lengths(images, model):
    settings = {"nb_samples": 20, "nb_choosing": 5}
    alone, shared, of_call = (
        UniformlySmoothedAttribution(Saliency(model), nb_inputs=nb, **settings).certify(images)
        for nb in (1, 30, None)
    )
    assert (shared.length < of_call.length).all()
    assert (of_call.length < alone.length).all()
    assert of_call.nb_inputs == len(images)
    assert shared.level == pytest.approx(0.001 / 30)
    with pytest.raises(ValueError, match="nb_inputs must be at least"):
        UniformlySmoothedAttribution(Saliency(model), nb_inputs=2, **settings).certify(images)


# --- samples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["uniform", "gaussian"])
def test_nothing_depends_on_batches_or_on_the_inputs_beside_it(images, model, noise):
    settings = {"noise": noise, "nb_samples": 30, "nb_choosing": 10}
    whole = UniformlySmoothedAttribution(Saliency(model), **settings).certify(images)
    other = UniformlySmoothedAttribution(Saliency(model), batch_size=7, **settings)
    np.testing.assert_allclose(
        other.certify(images[::-1]).projections[::-1], whole.projections, rtol=1e-5
    )
    again = UniformlySmoothedAttribution(Saliency(model), seed=1, **settings).certify(images)
    assert (again.projections != whole.projections).all()
    maps = UniformlySmoothedAttribution(Saliency(model), **settings).explain(images)
    np.testing.assert_allclose(maps, whole.explanation, rtol=1e-6)
    assert maps.shape == (3, 6, 5, 1)


@pytest.mark.parametrize("noise", ["uniform", "gaussian"])
def test_noise_is_as_large_as_it_is_said_to_be(noise):
    seen = []

    def kept(inputs, targets):
        seen.append(np.array(inputs))
        return inputs

    explainer = smoothed(kept, 3.0, noise=noise, nb_samples=5000, batch_size=None)
    explainer.explain(np.zeros((1, 7), "float32"))
    points = np.concatenate(seen[1:])
    deviation = Noise(3.0, 7, noise).deviation
    assert deviation == pytest.approx(1)  # 3 / sqrt(9)
    np.testing.assert_allclose(points.std(axis=0), deviation, rtol=0.05)
    farthest = np.linalg.norm(points, axis=1).max()
    assert (farthest <= 3.0 + 1e-6) == (noise == "uniform")


def test_maps_are_scaled_to_length_one_and_zeros_stay():
    def sizes(inputs, targets):
        return np.where(inputs[:, :1] > 0, [1e-200, 0.0], [0.0, 0.0])

    explainer = smoothed(sizes, 1.0, nb_samples=4000, clip=(-0.5, 0.5))
    maps = explainer.explain(np.zeros((1, 2), "float32"))
    np.testing.assert_allclose(maps[0], [0.5, 0.0], atol=0.03)


def test_maps_of_zeros_certify_nothing_and_say_so():
    explainer = smoothed(lambda inputs, targets: 0 * inputs, nb_samples=20)
    with pytest.warns(VacuousWarning, match="nothing is certified"):
        certificate = explainer.certify(np.ones((2, 3), "float32"))
    assert certificate.cosine.tolist() == [-1, -1]
    assert certificate.radii.tolist() == [0, 0]
    assert certificate.vacuous.all()


# --- the attack ---------------------------------------------------------------------------------


def test_cosine_distances_are_not_biased_by_the_noise_of_the_samples():
    generator = np.random.default_rng(0)
    draws = generator.standard_normal((2, 400, 60, 9)) + 0.5  # two means of 60 draws, 400 times
    draws /= np.linalg.norm(draws, axis=-1, keepdims=True)
    means, ones = draws.mean(axis=2), np.ones(400)
    distances = cosine_distances(means[0], ones, 60, means[1], ones, 60)
    assert np.mean(distances == 0) > 0.4  # of the same expectation: half of them would be below 0
    assert np.median(distances) < 0.01
    assert np.median(1 - cosine(means[0], means[1])) > 0.04
    opposite = cosine_distances(means[0], ones, 60, -means[1], ones, 60)
    np.testing.assert_allclose(opposite, 2, atol=0.2)
    nothing = np.zeros_like(means[0])
    assert not cosine_distances(nothing, 0 * ones, 60, means[1], ones, 60).any()


def test_attacks_turn_maps_farther_than_random_points_and_less_than_is_certified(images):
    layers = [L.Flatten(), L.Dense(16, "relu"), L.Dense(3)]
    network = sequential(SHAPE, *layers, seed=1)
    explainer = UniformlySmoothedAttribution(
        Saliency(network), 3.0, epsilon=0.3, nb_samples=400, attack=True
    )
    certificate = explainer.certify(images)
    assert (certificate.attacked <= certificate.certified).all()
    assert (certificate.cosine > 0.2).all()
    region, (_, weights) = explainer._region(images), explainer._prepare(images, None)
    means, ones = explainer._means(images, weights, "reference", 2000)
    points = explainer._candidates(region, weights, means)
    assert np.linalg.norm((points - images).reshape(-1, 60), axis=1).max() <= 0.3 * (1 + 1e-5)
    distances = np.array(
        [
            cosine_distances(
                means, ones, 2000, *explainer._means(some, weights, "other", 2000), 2000
            )
            for some in points
        ]
    )
    assert (distances[0] > 2 * distances[1:].max(axis=0)).all()
    assert (distances[0] > 0.003).all()


# --- the certificate ----------------------------------------------------------------------------


def test_one_length_serves_every_distance_and_threshold(images, model):
    certificate = UniformlySmoothedAttribution(
        Saliency(model), 6.0, epsilon=0.1, threshold=0.7, nb_samples=200
    ).certify(images)
    np.testing.assert_allclose(certificate.radii, certificate.radius_for(0.7))
    radii = certificate.radius_for([0.5, 0.7, 0.9])
    assert (certificate.cosine_within(radii) >= [0.5, 0.7, 0.9]).all()
    assert (certificate.radius_for(0.9) < certificate.radii).all()
    np.testing.assert_allclose(certificate.cosine, certificate.cosine_within(certificate.epsilon))
    assert "keep a cosine of" in repr(certificate)


def test_files_and_parts_say_the_same(images, model, tmp_path):
    explainer = UniformlySmoothedAttribution(
        Saliency(model), 6.0, epsilon=0.1, nb_samples=50, clip=(-np.inf, 1.0)
    )
    certificate = explainer.certify(images)
    certificate.save(tmp_path / "c.npz")
    read = Certificate.load(tmp_path / "c.npz")
    assert repr(read.to_dict()) == repr(certificate.to_dict())
    settings = dict(read.origin.settings)
    again = UniformlySmoothedAttribution.of_model(model, **settings).certify(images[1:])
    np.testing.assert_array_equal(again.projections, certificate[1:].projections)
    together = type(read).concatenate([certificate[:1], certificate[1:]])
    np.testing.assert_array_equal(together.certified, certificate.certified)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projections": np.full((3, 200), 1.5)}, "projections are not"),
        ({"projections": np.full((3, 200), 0.05)}, "more is certified"),
        ({"alpha": 1e-12}, "more is certified"),
        ({"nb_samples": 10}, "projections must be of 10 samples"),
        ({"noise_radius": 0.5}, "more is certified"),
        ({"noise": "other"}, "noise must be one of"),
        ({"threshold": 1.0}, "threshold must be above 0"),
        ({"nb_choosing": 0}, "nb_choosing must be at least 1"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(images, model, change, message):
    explainer = UniformlySmoothedAttribution(Saliency(model), 6.0, nb_samples=200)
    certificate = explainer.certify(images)
    certificate.check()
    with pytest.raises(ValueError, match=message):
        replace(certificate, **change).check()


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": "normal"}, "noise must be one of"),
        ({"norm": np.inf}, "norm must be 2"),
        ({"noise_radius": 0.0}, "noise_radius must be"),
        ({"epsilon": -0.1}, "epsilon must be"),
        ({"threshold": 1.0}, "threshold must be"),
        ({"alpha": 0.0}, "alpha must be"),
        ({"nb_samples": 0}, "nb_samples must be"),
        ({"nb_choosing": 0}, "nb_choosing must be"),
        ({"nb_inputs": 0}, "nb_inputs must be"),
    ],
)
def test_settings_out_of_their_range_are_refused(model, settings, message):
    with pytest.raises(ValueError, match=message):
        UniformlySmoothedAttribution(Saliency(model), **settings)


def test_perturbations_of_the_euclidean_norm_take_the_place_of_epsilon(model):
    perturbation = Perturbation(0.2, norm=2, clip=(0.0, 1.0))
    explainer = UniformlySmoothedAttribution(Saliency(model), perturbation=perturbation)
    assert (explainer.epsilon, explainer.clip) == (0.2, (0.0, 1.0))
    assert explainer.perturbation.norm == 2
    with pytest.raises(ValueError, match="norm must be 2"):
        UniformlySmoothedAttribution(Saliency(model), perturbation=Perturbation(0.2))
