"""CertifiedGradient and its certificates: against samples and attacks."""

import dataclasses
import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance import in_float64
from networks import NETWORKS, sequential

from xcertify import VacuousWarning
from xcertify.attributions import (
    AttributionBound,
    CertifiedGradient,
    GradientInput,
    IntegratedGradients,
    SmoothGrad,
    gradient_means,
    gradient_radii,
)
from xcertify.bounds import UnsupportedLayerError
from xcertify.certificates import GradientCertificate, fingerprint
from xcertify.criteria import Excludes, KeepsTop, Within
from xcertify.radii import ContradictionError, Interval
from xcertify.recheck import recheck
from xcertify.regions import Ball, Region

L = keras.layers
VARIANTS = {
    "gradient": {},
    "gradient_input": {"attribution": "gradient_input"},
    "integrated_gradients": {
        "attribution": "integrated_gradients", "steps": 4, "baseline_value": 0.2
    },
    "smoothgrad": {"attribution": "smoothgrad", "nb_samples": 3, "noise": 0.2},
    "cross-entropy": {"loss": "cross-entropy"},
    "ibp": {"method": "ibp"},
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
    assert explainer.recheck(certificate).all()


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
    assert "of radius 0.01, weights within 0.02 of their size; mean width" in repr(certificate)


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
        if isinstance(old, (Region, Interval)):
            old, new = old.to_dict(), new.to_dict()
        assert np.array_equal(old, new) if isinstance(old, np.ndarray) else old == new
    assert str(loaded.region) == "linf balls of radius 0.01 to 0.02 within (0.0, 1.0)"
    assert recheck(loaded, model).all()
    too_narrow = dataclasses.replace(loaded, upper=(loaded.lower + loaded.upper) / 2)
    assert not recheck(too_narrow, model).any()
    too_wide = dataclasses.replace(loaded, region=loaded.region.resized([0.02, 0.04]))
    assert not recheck(too_wide, model).all()
    with pytest.warns(DeprecationWarning, match=r"Write xcertify.recheck.recheck\(certificate"):
        assert loaded.recheck(model).all()
    assert json.loads(json.dumps(certificate.to_dict()))["fingerprint"] == fingerprint(model)
    assert "gradient of 2 inputs" in repr(certificate)
    with pytest.raises(dataclasses.FrozenInstanceError):
        certificate.lower = None
    model.set_weights([w * 1.01 for w in model.get_weights()])
    with pytest.raises(ValueError, match="are not those that the certificate is for"):
        recheck(loaded, model)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="must be a certificate"):
        GradientCertificate.load(tmp_path / "other.npz")


@pytest.mark.filterwarnings("ignore::xcertify.usefulness.VacuousWarning")  # wide, by intervals
@pytest.mark.usefixtures("eager")
def test_files_of_channels_first_and_of_earlier_versions(tmp_path):
    layers = L.Permute((2, 3, 1)), L.Conv2D(2, 2, activation="relu"), L.Flatten(), L.Dense(3)
    model, x = sequential((2, 4, 3), *layers), inputs(2, (2, 4, 3))
    settings = {"gamma": 0.01, "bias_radius": 0.005, "method": "ibp"}
    explainer = CertifiedGradient(model, np.reshape([0.01, 0.02], (2, 1, 1, 1)), **settings)
    certificate = explainer.certify(x)
    path, earlier = tmp_path / "now.npz", tmp_path / "earlier.npz"
    certificate.save(path)
    names = ("lower", "upper", "explanation", "inputs", "targets", "attained")
    text = {"region": "linf balls of radius 0.01", "method": "interval", "arithmetic": "real"}
    text |= {"settings": certificate.settings | {"method": "interval"}}
    text |= {"fingerprint": certificate.fingerprint}
    arrays = {name: getattr(certificate, name) for name in names}
    np.savez(earlier, text=np.array(json.dumps(text)), **arrays)
    for file in (path, earlier):
        loaded = GradientCertificate.load(file)
        assert loaded.region.to_dict() == certificate.region.to_dict()
        assert loaded.method == loaded.settings["method"] == "ibp"
        assert recheck(loaded, model).all()
        words = "of radius 0.01 to 0.02, weights within 0.01 of their size, biases within 0.005; "
        assert words in repr(loaded)


def test_former_names_of_methods():
    for former, name in [("interval", "ibp"), ("crown-interval", "ibp-crown")]:
        with pytest.warns(DeprecationWarning, match=f"Write method='{name}'") as found:
            explainer = CertifiedGradient(small(), method=former)
        assert explainer.method == name and found[0].filename == __file__
        with pytest.warns(DeprecationWarning, match=f"Write method='{name}'"):
            assert AttributionBound(small(), method=former).method == name


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


@pytest.mark.filterwarnings("ignore::xcertify.usefulness.VacuousWarning")  # of one criterion
@pytest.mark.usefixtures("eager")
def test_radii_are_certified_and_attacked():
    model, x = small(), inputs(4)
    explainer = CertifiedGradient(model, method="crown")
    original = explainer(x)
    nb_gaps = 0
    for criterion in (Excludes(original * 1.3, 0.01), KeepsTop(2)):
        found = explainer.radius(x, criterion, nb_halvings=5, attack_steps=4)
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
    x = np.array([[0.5], [1.0], [0.0]])
    found = explainer.radius(x, Within(0.5), [1, 1, 1], attack_steps=5)
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

    def wrong_bounds(verifier, mean, region, weights, **settings):
        if verifier.dtype == "float64":  # of the points that an attack finds
            return gradient_means.bound_explanations(verifier, mean, region, weights, **settings)
        maps = explainer._of_features(region.center, weights)
        return maps, maps

    monkeypatch.setattr(gradient_radii, "bound_explanations", wrong_bounds)
    with pytest.raises(ContradictionError, match="breaks Within.*method='crown' certifies up to 1"):
        explainer.radius(x, Within(0.2), **settings)


def test_radius_of_weights():
    model, x = sequential((5,), L.Dense(6, "tanh"), L.Dense(3)), inputs(2)
    explainer = CertifiedGradient(model, epsilon=0.0)
    found = explainer.radius(x, Within(0.2), varied="gamma", nb_halvings=4, attack_steps=5)
    assert (found.certified > 0).all() and (found.certified < found.attacked).all()
    assert np.isfinite(found.attacked).all()
    assert f"weights within {found.certified[0]:g} of their size; crown" in repr(found)
    bounds = CertifiedGradient(model, 0.0, gamma=found.certified).certify(x)
    assert bounds.within(0.2).all()


@pytest.mark.usefixtures("eager")
def test_limits_of_radii():
    model = sequential((2,), L.Dense(2))
    explainer = CertifiedGradient(model)
    found = explainer.radius(inputs(2, (2,)), Within(0.1), largest=3.0, attack=False)
    assert (found.certified == 3.0).all() and found.attacked is None
    with pytest.warns(VacuousWarning, match="no radius is proved"):
        found = explainer.radius(inputs(2, (2,)), Within(-1.0), attack=False)
    assert (found.certified == 0).all()


def test_settings_may_change_between_calls():
    model, x = small(), inputs(2)
    explainer, bound = CertifiedGradient(model), AttributionBound(rectified(), beta=5.0)
    explainer(x), bound(x)
    explainer.attribution, bound.attribution, bound.beta = "gradient_input", "gradient_input", 20.0
    changed = CertifiedGradient(model, attribution="gradient_input")
    np.testing.assert_allclose(explainer(x), changed(x))
    assert (explainer.certify(x).lower <= explainer.certify(x).explanation).all()
    other = AttributionBound(rectified(), attribution="gradient_input", beta=20.0)
    one, two = bound.certify(x), other.certify(x)
    np.testing.assert_allclose(one.explanation, two.explanation, rtol=1e-6)
    np.testing.assert_allclose(one.euclidean_estimate, two.euclidean_estimate, rtol=1e-5)
