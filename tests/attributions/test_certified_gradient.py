"""CertifiedGradient, its certificates and criteria: against samples, attacks and brute force."""

import dataclasses
import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance import in_float64
from networks import NETWORKS, sequential

from xcertify import criteria
from xcertify.attacks import (
    CriterionAttack,
    MapAttackResult,
    WeightCriterionAttack,
    input_gradient,
    weight_attack,
)
from xcertify.attributions import (
    AttributionBound,
    CertifiedGradient,
    GradientInput,
    IntegratedGradients,
    SmoothGrad,
)
from xcertify.bounds import UnsupportedLayerError
from xcertify.certificates import GradientCertificate, fingerprint
from xcertify.criteria import Excludes, KeepsOut, KeepsSigns, KeepsTop, Within
from xcertify.radii import ContradictionError
from xcertify.regions import Ball

L = keras.layers
VARIANTS = {
    "gradient": {},
    "gradient_input": {"attribution": "gradient_input"},
    "integrated_gradients": {
        "attribution": "integrated_gradients", "steps": 4, "baseline_value": 0.2
    },
    "smoothgrad": {"attribution": "smoothgrad", "nb_samples": 3, "noise": 0.2},
    "cross-entropy": {"loss": "cross-entropy"},
    "intervals": {"method": "interval"},
    "l2": {"norm": 2, "attribution": "integrated_gradients", "steps": 2},
}  # fmt: skip


def inputs(nb_samples=3, shape=(5,), seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (nb_samples, *shape)).astype("float32")


def small(seed=0):
    return sequential((5,), L.Dense(8, "relu"), L.Dense(6, "tanh"), L.Dense(3), seed=seed)


def rectified():
    return sequential((5,), L.Dense(8, "relu"), L.Dense(3), seed=1)


# --- the certificate ----------------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", VARIANTS)
def test_no_explanation_of_the_region_leaves_the_bounds(name):
    model, x, labels = small(), inputs(), np.array([0, 2, 1])
    explainer = CertifiedGradient(model, 0.05, clip=(0, 1), **VARIANTS[name])
    certificate = explainer.certify(x, labels)
    exact, one_hot = in_float64(model), tf.one_hot(labels, 3, dtype=tf.float64)
    region = Ball(x, 0.05, VARIANTS[name].get("norm", np.inf), clip=(0, 1))
    generator = np.random.default_rng(1)
    for number in range(30):
        share = generator.random(x.shape)
        share = share if number % 2 else share < 0.5
        point = region.project(region.lower + share * (region.upper - region.lower.astype("f8")))
        maps = explainer.explanation(exact, tf.constant(point, tf.float64), one_hot).numpy()
        assert (certificate.lower <= maps).all() and (maps <= certificate.upper).all()
    np.testing.assert_allclose(certificate.explanation, explainer(x, labels), rtol=1e-6)
    assert (certificate.delta >= certificate.upper.astype("f8") - certificate.lower).all()
    assert certificate.recheck(model).all()


@pytest.mark.usefixtures("eager")
def test_the_whole_path_is_enclosed():
    model, x = small(), inputs()
    settings = {"attribution": "integrated_gradients", "baseline_value": 0.1}
    whole = CertifiedGradient(model, 0.01, steps=5, path="integral", **settings)
    certificate = whole.certify(x)
    exact = in_float64(model)
    weights = tf.constant(certificate.targets, tf.float64)
    region = Ball(x, 0.01)
    for steps, point in itertools.product((5, 7, 200), (region.lower, region.center, region.upper)):
        other = CertifiedGradient(model, 0.01, steps=steps, **settings)
        maps = other.explanation(exact, tf.constant(point, tf.float64), weights).numpy()
        assert (certificate.lower <= maps).all() and (maps <= certificate.upper).all()
    fine = CertifiedGradient(model, 0.01, steps=50, path="integral", **settings).certify(x)
    assert fine.delta.mean() < certificate.delta.mean()


@pytest.mark.usefixtures("eager")
def test_weights_in_their_region():
    model, x = small(), inputs()
    explainer = CertifiedGradient(model, epsilon=0.01, gamma=0.02)
    certificate = explainer.certify(x)
    generator = np.random.default_rng(2)
    for number in range(10):
        copy = in_float64(model)
        for weight in copy.trainable_variables:
            share = generator.uniform(-1, 1, weight.shape)
            share = np.sign(share) if number % 2 else share
            weight.assign(weight * (1 + 0.02 * share))
        point = tf.constant(x + 0.01 * np.sign(generator.normal(size=x.shape)), tf.float64)
        weights = tf.constant(certificate.targets, tf.float64)
        maps = explainer.explanation(copy, point, weights).numpy()
        assert (certificate.lower <= maps).all() and (maps <= certificate.upper).all()
    assert "weights within 0.02 of their size" in certificate.region


@pytest.mark.usefixtures("eager")
def test_a_linear_model_by_hand():
    model = sequential((2,), L.Dense(2))
    model.set_weights([np.array([[3.0, 1.0], [-4.0, 0.0]]), np.zeros(2)])
    x = np.array([[1.0, 0.5]])
    certificate = CertifiedGradient(model, 0.1).certify(x, [0])
    np.testing.assert_allclose(certificate.lower, [[3, -4]], rtol=1e-6)
    np.testing.assert_allclose(certificate.lipschitz, [7], rtol=1e-6)
    assert certificate.signs.tolist() == [[1, -1]]
    assert certificate.in_top(1).tolist() == [[False, True]]
    assert certificate.out_of_top(1).tolist() == [[True, False]]
    for norm, constant in [(2, 5.0), (1, 4.0)]:
        certificate = CertifiedGradient(model, 0.1, norm=norm).certify(x, [0])
        np.testing.assert_allclose(certificate.lipschitz, [constant], rtol=1e-6)
    certificate = CertifiedGradient(model, 0.1, attribution="gradient_input").certify(x, [0])
    np.testing.assert_allclose(certificate.lower, [[2.7, -2.4]], rtol=1e-5)
    np.testing.assert_allclose(certificate.upper, [[3.3, -1.6]], rtol=1e-5)
    assert certificate.lipschitz is None
    certificate = CertifiedGradient(model, 0.1).certify(x, np.array([[2.0, -1.0]]))
    np.testing.assert_allclose(certificate.explanation, [[5, -8]], rtol=1e-6)


@pytest.mark.usefixtures("eager")
def test_lipschitz_constants_hold():
    model, x = small(), inputs()
    certificate = CertifiedGradient(model, 0.2, norm=2).certify(x, [0, 1, 2])
    region, exact = Ball(x, 0.2, 2), in_float64(model)
    generator = np.random.default_rng(3)

    def draw():
        return region.project(x + generator.normal(0, 0.1, x.shape))

    for _ in range(30):
        first, second = draw(), draw()
        scores = [exact(points).numpy()[np.arange(3), [0, 1, 2]] for points in (first, second)]
        distance = np.linalg.norm(first - second, axis=1)
        assert (np.abs(scores[0] - scores[1]) <= certificate.lipschitz * distance).all()


@pytest.mark.usefixtures("eager")
def test_saving_loading_and_checking(tmp_path):
    model, x = NETWORKS["convolutions"](), inputs(2, (6, 7, 2))
    epsilon = np.reshape([0.01, 0.02], (2, 1, 1, 1))
    explainer = CertifiedGradient(model, epsilon, clip=(0, np.float32(1)))
    certificate = explainer.certify(x)
    path = tmp_path / "certificate.npz"
    certificate.save(path)
    loaded = GradientCertificate.load(path)
    for field in dataclasses.fields(certificate):
        old, new = getattr(certificate, field.name), getattr(loaded, field.name)
        assert np.array_equal(old, new) if isinstance(old, np.ndarray) else old == new
    assert loaded.recheck(model).all()
    too_narrow = dataclasses.replace(loaded, upper=(loaded.lower + loaded.upper) / 2)
    assert not too_narrow.recheck(model).any()
    assert json.loads(json.dumps(certificate.to_dict()))["fingerprint"] == fingerprint(model)
    assert "gradient of 2 inputs" in repr(certificate)
    with pytest.raises(dataclasses.FrozenInstanceError):
        certificate.lower = None
    model.set_weights([w * 1.01 for w in model.get_weights()])
    with pytest.raises(ValueError, match="are not those that the certificate is for"):
        loaded.recheck(model)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="must be a gradient certificate"):
        GradientCertificate.load(tmp_path / "other.npz")


# --- the explanation ----------------------------------------------------------------------------


def test_explanations_are_those_of_the_plain_explainers():
    model, x = small(), inputs()
    exact = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(exact)
        score = tf.reduce_sum(model(exact)[:, 1])
    gradient = tape.gradient(score, exact)
    labels = [1, 1, 1]
    np.testing.assert_allclose(CertifiedGradient(model)(x, labels), gradient, rtol=1e-5)
    pairs = [
        ({"attribution": "gradient_input"}, GradientInput(model)),
        (
            {"attribution": "integrated_gradients", "steps": 6},
            IntegratedGradients(model, steps=6, baseline_value=0.0),
        ),
        (
            {"attribution": "smoothgrad", "nb_samples": 4, "noise": 0.3, "seed": 5},
            SmoothGrad(model, nb_samples=4, noise=0.3, seed=5),
        ),
    ]
    for settings, plain in pairs:
        maps = CertifiedGradient(model, **settings)(x, labels)
        np.testing.assert_allclose(maps, plain(x, labels), rtol=1e-4, atol=1e-6)


def test_loss_single_logit_and_images():
    model = sequential((5,), L.Dense(4, "relu"), L.Dense(1, "sigmoid"))
    x = inputs()
    maps = CertifiedGradient(model, loss="cross-entropy")(x, [1, 0, 1])
    points = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(points)
        labels = tf.constant([[1.0], [0.0], [1.0]])
        loss = tf.reduce_sum(keras.losses.binary_crossentropy(labels, model(points)))
    np.testing.assert_allclose(maps, tape.gradient(loss, points), rtol=1e-4, atol=1e-6)
    ups = CertifiedGradient(model)(x, [1, 1, 1])
    np.testing.assert_allclose(CertifiedGradient(model)(x, [0, 0, 0]), -ups)
    images = inputs(2, (6, 7, 2))
    model = NETWORKS["convolutions"]()
    assert CertifiedGradient(model, reducer="max").explain(images).shape == (2, 6, 7, 1)


def test_settings_are_checked():
    model = small()
    for name in ("loss", "attribution", "method", "path"):
        with pytest.raises(ValueError, match=f"{name} must be one of .*Received: 'other'"):
            CertifiedGradient(model, **{name: "other"})
    with pytest.raises(ValueError, match="noise must be"):
        CertifiedGradient(model, noise=-1)
    explainer = CertifiedGradient(model)
    with pytest.raises(ValueError, match="varied must be"):
        explainer.radius(inputs(), Within(0.1), varied="delta")
    with pytest.raises(ValueError, match="largest must be above 0"):
        explainer.radius(inputs(), Within(0.1), largest=0)
    with pytest.raises(ValueError, match="must name one class"):
        CertifiedGradient(model, loss="cross-entropy").certify(inputs(1), [[0.5, 0.5, 0.0]])
    jumps = NETWORKS["parametric_activations"]()
    with pytest.raises(UnsupportedLayerError, match="jumps"):
        CertifiedGradient(jumps).certify(inputs())


# --- radii --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
def test_radii_are_certified_and_attacked():
    model, x = small(), inputs(4)
    explainer = CertifiedGradient(model, method="crown")
    original = explainer(x)
    nb_gaps = 0
    for criterion in (Excludes(original * 1.3, 0.01), KeepsTop(2)):
        found = explainer.radius(x, criterion, nb_halvings=5, attack_steps=8)
        assert (found.certified <= found.attacked).all()
        nb_gaps += (np.isfinite(found.attacked) & (found.certified > 0)).sum()
        for sample in np.flatnonzero(found.certified > 0):
            one = x[sample : sample + 1]
            proved = CertifiedGradient(model, found.certified[sample]).certify(one)
            own = criterion
            if isinstance(criterion, Excludes):
                own = Excludes(criterion.target_map[sample], 0.01)
            assert own.holds(proved.lower, proved.upper, original[sample : sample + 1]).all()
    assert nb_gaps >= 4
    assert "epsilon up to" in repr(found) and found.criterion == "KeepsTop(k=2)"


@pytest.mark.usefixtures("eager")
def test_radius_of_a_kink_by_hand():
    model = sequential((1,), L.Dense(1, "relu"), L.Dense(1))
    model.set_weights([np.ones((1, 1)), np.array([-0.2]), np.full((1, 1), 3.0), np.zeros(1)])
    explainer = CertifiedGradient(model)
    found = explainer.radius(np.array([[0.5], [1.0], [0.0]]), Within(0.5), [1, 1, 1])
    # The gradient changes from 3 to 0 where the neuron does, at 0.2. An explanation that is zero
    # has no length to compare with.
    assert (found.certified <= [0.3, 0.8, 0.0]).all()
    np.testing.assert_allclose(found.certified, [0.3, 0.8, 0.0], rtol=0.02)
    np.testing.assert_allclose(found.attacked[:2], [0.3, 0.8], rtol=0.3)
    assert (found.attacked > found.certified).all()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("varied", ["epsilon", "gamma"])
def test_an_attack_inside_a_certified_radius_is_reported(varied, monkeypatch):
    model, x = small(), inputs(2)
    explainer = CertifiedGradient(model, epsilon=0.0)
    settings = {"varied": varied, "nb_halvings": 2, "attack_steps": 5}

    def wrong_bounds(inputs, weights, epsilon, gamma, dtype="float32"):
        maps = explainer._of_features(inputs, weights)
        return maps, maps

    monkeypatch.setattr(explainer, "_bounds", wrong_bounds)
    with pytest.raises(ContradictionError, match="breaks Within.*method='crown' certifies up to 1"):
        explainer.radius(x, Within(0.2), **settings)


def test_a_criterion_is_broken_in_real_arithmetic():
    """Float32 alone does not decide: 3 and 0 are the slopes on both sides of a kink at 0.2."""
    model = sequential((1,), L.Dense(1, "relu"), L.Dense(1))
    model.set_weights([np.ones((1, 1)), np.array([-0.2]), np.full((1, 1), 3.0), np.zeros(1)])
    x = np.array([[0.5], [1.0]], "f4")
    original, targets = np.full((2, 1), 3.0), np.ones((2, 1), "f4")
    sides = lambda points, samples: (np.full((len(points), 1), 3.0),) * 2  # noqa: E731
    for exact, broken in [(None, True), (sides, False)]:
        attack = CriterionAttack(
            model, input_gradient, Within(0.5), original, targets, exact=exact, steps=5
        )
        result = attack(Ball(x, 0.9))
        assert (result.maps == 0).all()
        assert (attack.breaks(result) == broken).all()
    # by less than what float32 can be expected to round, it is not broken
    attack = CriterionAttack(model, input_gradient, Within(0.0), original, targets)
    near = MapAttackResult(x, original * (1 + 1e-6), original, np.zeros(2))
    assert not attack.breaks(near).any()


@pytest.mark.usefixtures("eager")
def test_radius_of_weights():
    model, x = small(), inputs(2)
    explainer = CertifiedGradient(model, epsilon=0.0)
    found = explainer.radius(x, Within(0.2), varied="gamma", nb_halvings=4, attack_steps=5)
    assert (found.certified > 0).all() and (found.certified < found.attacked).all()
    assert np.isfinite(found.attacked).all()
    bounds = CertifiedGradient(model, 0.0, gamma=found.certified).certify(x)
    assert bounds.within(0.2).all()


@pytest.mark.usefixtures("eager")
def test_limits_of_radii():
    model = sequential((2,), L.Dense(2))
    explainer = CertifiedGradient(model)
    found = explainer.radius(inputs(2, (2,)), Within(0.1), largest=3.0, attack=False)
    assert (found.certified == 3.0).all() and found.attacked is None
    found = explainer.radius(inputs(2, (2,)), Within(-1.0), attack=False)
    assert (found.certified == 0).all()


def test_settings_may_change_between_calls():
    model, x = small(), inputs(2)
    explainer, bound = CertifiedGradient(model), AttributionBound(rectified(), beta=5.0)
    explainer(x), bound.certify(x)
    explainer.attribution, bound.attribution, bound.beta = "gradient_input", "gradient_input", 20.0
    changed = CertifiedGradient(model, attribution="gradient_input")
    np.testing.assert_allclose(explainer(x), changed(x))
    assert (explainer.certify(x).lower <= explainer.certify(x).explanation).all()
    other = AttributionBound(rectified(), attribution="gradient_input", beta=20.0)
    one, two = bound.certify(x), other.certify(x)
    np.testing.assert_allclose(one.explanation, two.explanation, rtol=1e-6)
    np.testing.assert_allclose(one.euclidean_estimate, two.euclidean_estimate, rtol=1e-5)


def test_attack_of_a_plain_gradient():
    model, x = small(), inputs(3)
    targets = np.eye(3, dtype="f4")
    original = CertifiedGradient(model)(x, [0, 1, 2])
    attack = CriterionAttack(model, input_gradient, Within(0.05), original, targets, steps=10)
    result = attack(Ball(x, 0.3))
    assert attack.breaks(result).all()
    maps = CertifiedGradient(model)(result.points, [0, 1, 2])
    np.testing.assert_allclose(result.maps, maps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_attack_of_the_weights_of_each_input(activation):
    model, x = sequential((4,), L.Dense(3, activation)), inputs(3, (4,))
    targets, kernel = np.eye(3, dtype="f4"), model.layers[-1].get_weights()[0].T
    criterion, gammas = Within(0.05, "mse"), np.array([0.0, 0.1, 0.5])
    attack = WeightCriterionAttack(model, input_gradient, criterion, x, kernel, targets)
    result = attack(gammas)
    worst = (gammas[:, None] * kernel) ** 2  # every weight at an end of its interval
    np.testing.assert_allclose(((result.maps - kernel) ** 2).mean(1), worst.mean(1), rtol=1e-4)
    np.testing.assert_allclose(result.values, worst.mean(1), rtol=1e-4, atol=1e-12)
    np.testing.assert_array_equal(attack.breaks(result), worst.mean(1) > 0.05)
    np.testing.assert_array_equal(model.layers[-1].get_weights()[0].T, kernel)


def test_attack_of_weights_finds_more_than_one_change_for_all_inputs():
    model, x = small(), inputs(3)
    targets, original = np.eye(3, dtype="f4"), CertifiedGradient(model)(inputs(3), [0, 1, 2])
    criterion = Within(0.1, "mse")
    attack = WeightCriterionAttack(model, input_gradient, criterion, x, original, targets)
    common = weight_attack(model, input_gradient, x, targets, gamma=0.2)
    result = attack(0.2)
    assert result.values.mean() > common.values.mean()
    fixed = WeightCriterionAttack(
        model, input_gradient, criterion, x, original, targets, bias_radius=0.0
    )
    for bias_radius, maps in ((None, result.maps), (0.0, fixed(0.2).maps)):
        explainer = CertifiedGradient(model, 0.0, gamma=0.2, bias_radius=bias_radius)
        bounds = explainer.certify(x, [0, 1, 2])
        assert (bounds.lower <= maps).all() and (maps <= bounds.upper).all()


# --- criteria against brute force ---------------------------------------------------------------


def boxes(nb_samples=40, nb_features=3, seed=0):
    generator = np.random.default_rng(seed)
    original = generator.normal(0, 1, (nb_samples, nb_features))
    radius = generator.uniform(0, 1, (nb_samples, 1)) ** 2 * generator.uniform(0, 1, (1, 3))
    return original - radius, original + 0.7 * radius, original


def filled(lower, upper, nb_steps=7):
    """A grid of points of each box, (P, N, D)."""
    shares = itertools.product(np.linspace(0, 1, nb_steps), repeat=lower.shape[1])
    return np.stack([lower + np.array(share) * (upper - lower) for share in shares])


def cosines(points, other):
    return (
        (points * other).sum(-1) / np.linalg.norm(points, axis=-1) / np.linalg.norm(other, axis=-1)
    )


@pytest.mark.parametrize("measure", criteria.MEASURES)
def test_extremes_over_boxes(measure):
    lower, upper, original = boxes()
    target = np.random.default_rng(1).normal(0, 1, original.shape)
    points = filled(lower, upper)
    far = criteria.farthest(lower, upper, original, measure)
    near = criteria.nearest(lower, upper, target, measure)
    distances = {
        "mse": lambda other: ((points - other) ** 2).mean(-1),
        "l2_ratio": lambda other: (
            np.linalg.norm(points - other, axis=-1) / np.linalg.norm(other, axis=-1)
        ),
        "cosine": lambda other: -cosines(points, other),
    }[measure]
    sign = -1 if measure == "cosine" else 1
    assert (sign * far >= distances(original).max(axis=0) - 1e-12).all()
    assert (sign * near <= distances(target).min(axis=0) + 1e-12).all()
    if measure != "cosine":
        np.testing.assert_allclose(far, distances(original).max(axis=0), rtol=1e-9)
    else:
        gap = distances(original).max(axis=0) + far
        assert np.median(-gap) < 0.02
    # The nearest point need not be on the grid; a finer one around the best comes close to it.
    excess = distances(target).min(axis=0) - sign * near
    assert np.median(excess) < 0.02 and excess.max() < 0.3


def test_largest_cosine_by_hand():
    lower, upper = np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([[2.0, 3.0], [1.0, 1.0]])
    near = criteria.nearest(lower, upper, np.array([1.0, 0.0]), "cosine")
    np.testing.assert_allclose(near, [2 / np.sqrt(5), 1.0], atol=1e-6)  # the second holds 0
    near = criteria.nearest(lower[:1], upper[:1], np.array([-1.0, 0.0]), "cosine")
    np.testing.assert_allclose(near, [-1 / np.sqrt(13)], rtol=1e-9)  # true: -1 / sqrt(10)


def test_top_features_by_brute_force():
    lower, upper, original = boxes(60, 3)
    lower[0], upper[0] = [1, 1, -2], [1, 2, -1]  # ties
    points = filled(lower, upper, 6)
    for k in (1, 2):
        order = np.argsort(-np.abs(points), axis=-1, kind="stable")[..., :k]
        ever = np.zeros(lower.shape, bool)
        always = np.ones(lower.shape, bool)
        for feature in range(3):
            is_in = (order == feature).any(-1)
            ever[:, feature], always[:, feature] = is_in.any(0), is_in.all(0)
        proved_in, proved_out = (f(lower, upper, k) for f in (criteria.in_top, criteria.out_of_top))
        assert (always | ~proved_in).all() and (~ever | ~proved_out).all()
        assert proved_in.sum() > 20 and proved_out.sum() > 20
        assert (proved_in.sum(axis=1) <= k).all() and (proved_out.sum(axis=1) <= 3 - k).all()
        first = criteria.top_mask(original, k)
        kept = KeepsTop(k).holds(lower, upper, original)
        assert (kept == (proved_in | ~first).all(axis=1)).all()
    assert not criteria.in_top(lower[:1], upper[:1], 1).any()


def test_signs_and_given_features():
    lower, upper = np.array([[0.1, -2.0, -1.0]]), np.array([[0.2, -1.0, 1.0]])
    original = (lower + upper) / 2
    assert KeepsSigns(np.array([True, True, False])).holds(lower, upper, original).all()
    assert not KeepsSigns(np.array([False, False, True])).holds(lower, upper, original).any()
    assert KeepsOut(np.array([True, False, False]), 1).holds(lower, upper, original).all()
    assert not KeepsOut(np.array([False, False, True]), 1).holds(lower, upper, original).any()


def every_criterion(original):
    generator = np.random.default_rng(5)
    features, other = np.arange(3) < 2, original + generator.normal(0, 0.5, original.shape)
    measures = [("mse", 0.02), ("l2_ratio", 0.4), ("cosine", 0.9)]
    yield from (Within(tau, measure) for measure, tau in measures)
    yield Excludes(other, 0.4, "mse")
    yield from (Excludes(other, tau, measure) for measure, tau in measures[1:])
    yield from (KeepsTop(1), KeepsTop(2), KeepsOut(~features, 1), KeepsSigns(features))


@pytest.mark.parametrize("number", range(10))
def test_broken_is_the_opposite_of_holds(number):
    lower, upper, original = boxes(200)
    lower, upper = lower + 0.3, upper + 0.3
    lower[:100] = upper[:100]  # single explanations
    criterion = [*every_criterion(original)][number]
    holds, broken = (f(lower, upper, original) for f in (criterion.holds, criterion.broken))
    assert not (holds & broken).any()
    assert (holds | broken)[:100].all()  # no tie among them
    assert broken[:100].any() and broken[100:].any() and not (holds | broken).all()
    for points in filled(lower, upper, 4):  # all explanations of a box break it
        assert criterion.broken(points, points, original)[broken].all()
        assert not criterion.holds(points, points, original)[broken].any()
        assert not criterion.broken(points, points, original)[holds].any()


def test_an_explanation_of_zeros_is_left_by_any_other():
    zero, one = np.zeros((1, 3)), np.ones((1, 3))
    for measure, tau in [("l2_ratio", 5.0), ("cosine", 0.5)]:
        assert Within(tau, measure).broken(one, one, zero).all()
    assert not Within(5.0).broken(-one, one, zero).any()
    assert not Within(5.0).broken(zero, zero, zero).any()


def test_attacks_climb_what_breaks_criteria():
    generator = np.random.default_rng(4)
    original, maps = generator.normal(size=(2, 50, 4))
    maps = original + 0.7 * maps
    features, goal = np.arange(4) < 2, original + 0.5
    for criterion, limit in [
        (KeepsTop(2), 0.0),
        (KeepsOut(features, 2), 0.0),
        (KeepsSigns(features), 0.0),
        (Within(0.2, "mse"), 0.2),
        (Within(0.8, "cosine"), -0.8),
        (Excludes(goal, 0.6), -0.6),
        (Excludes(goal, 0.5, "cosine"), 0.5),
    ]:
        wanted = tf.constant(np.broadcast_to(criterion.goal, maps.shape).astype("f8"))
        badness, climbed = criterion.badness(tf.constant(maps), tf.constant(original), wanted)
        broken = ~criterion.holds(maps, maps, original)
        assert (broken == (badness.numpy() > limit)).all(), criterion
        assert broken.any() and not broken.all() and np.isfinite(climbed).all()


def test_criteria_are_checked():
    lower, upper, original = boxes()
    with pytest.raises(ValueError, match="measure must be one of mse, l2_ratio, cosine"):
        Within(0.1, "l1")
    with pytest.raises(ValueError, match="measure must be one of"):
        Excludes(original, 0.1, "l1")
    with pytest.raises(ValueError, match="target_map must be finite and of the shape"):
        Excludes(np.zeros(4), 0.1).holds(lower, upper, original)
    with pytest.raises(ValueError, match="must not be zero"):
        Excludes(np.zeros(3), 0.1, "cosine").holds(lower, upper, original)
    with pytest.raises(ValueError, match="k must be a whole number from 1 to 2"):
        KeepsTop(3).holds(lower, upper, original)
