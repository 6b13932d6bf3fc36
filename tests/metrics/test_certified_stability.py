"""Certified stability: at corners, beside its average, by hand, and refused."""

import itertools

import keras
import numpy as np
import pytest
from networks import sequential

from xcertify.attributions import (
    AttributionBound,
    CertifiedGradient,
    GradCAM,
    GradientInput,
    IntegratedGradients,
    MarginGradientRange,
    Saliency,
    SmoothGrad,
)
from xcertify.metrics import AverageStability, CertifiedStability
from xcertify.radii import ContradictionError
from xcertify.regions import Ball
from xcertify.usefulness import VacuousWarning

L = keras.layers
LABELS = np.array([2, 0, 1])
EXPLAINERS = {
    "Saliency": Saliency,
    "Saliency, all channels": lambda model: Saliency(model, reducer=None),
    "GradientInput": lambda model: GradientInput(model, reducer="min"),
    "IntegratedGradients": lambda model: IntegratedGradients(model, steps=3, baseline_value=0.2),
    "SmoothGrad": lambda model: SmoothGrad(model, nb_samples=3, reducer="sum"),
    "CertifiedGradient": lambda model: CertifiedGradient(model, loss="cross-entropy"),
    "AttributionBound": lambda model: AttributionBound(model, beta=10.0),
}
ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}


@pytest.fixture(scope="module")
def model():
    return sequential(
        (2, 2, 2),
        L.Conv2D(3, 2, padding="same", activation="relu", name="conv"),
        L.Flatten(),
        L.Dense(6, activation="relu"),
        L.Dense(3),
        seed=2,
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0.2, 0.8, (3, 2, 2, 2)).astype("float32")


def distances(maps, others, distance):
    return np.linalg.norm((maps - others).reshape(len(maps), -1), ORDERS[distance], axis=1)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", EXPLAINERS)
def test_no_corner_goes_beyond(name, model, images):
    explainer, radius = EXPLAINERS[name](model), 0.2
    region = Ball(images, radius, clip=(0.0, 0.8))
    lower, upper = explainer.bound_maps(region, LABELS)
    maps = explainer(images, LABELS)
    assert lower.shape == maps.shape
    signs = np.array(list(itertools.product((0, 1), repeat=8)))[::5].reshape(-1, 1, 2, 2, 2)
    corners = np.where(signs, region.upper, region.lower)
    found = [explainer(points, LABELS) for points in [*corners, *region.sample(40, 3)]]
    assert (np.array(found) >= lower - 1e-6).all()
    assert (np.array(found) <= upper + 1e-6).all()
    distance = [*ORDERS][len(name) % 3]
    settings = {"radius": radius, "distance": distance, "clip": (0.0, 0.8), "nb_samples": 9}
    metric = CertifiedStability(model, images, LABELS, **settings, steps=3, restarts=2)
    interval = metric.detailed_evaluate(explainer).interval
    largest = np.max([distances(maps, other, distance) for other in found], axis=0)
    assert (interval.certified >= largest - 1e-6).all()
    assert (interval.attacked <= interval.certified).all()
    assert (interval.attacked > 1e-4).any()
    average = AverageStability(model, images, LABELS, **settings, two_sided=True)
    assert (average.evaluate_samples(explainer) <= interval.attacked + 1e-6).all()


@pytest.mark.parametrize("norm", [1, np.inf])
def test_exact_where_maps_are_linear(norm):
    model = sequential((3,), L.Dense(2))
    weights = model.get_weights()[0][:, 1]
    inputs = np.array([[0.5, 0.2, 0.9]], np.float32)
    metric = CertifiedStability(model, inputs, [1], radius=0.1, distance="linf", norm=norm)
    result = metric.detailed_evaluate(GradientInput(model))  # w x
    expected = 0.1 * np.abs(weights).max()
    np.testing.assert_allclose(result.scores, [expected], rtol=1e-5)
    np.testing.assert_allclose(result.interval.attacked, [expected], rtol=0.02)
    np.testing.assert_allclose(result.looseness, [1], rtol=0.02)
    assert metric(GradientInput(model)) == result.score
    assert "attacked, certified" in repr(result)
    still = metric.detailed_evaluate(Saliency(model))
    assert still.scores[0] < 1e-5 and still.interval.attacked[0] == 0


@pytest.mark.usefixtures("eager")
def test_it_grows_with_the_radius_and_by_method(model, images):
    explainer = Saliency(model)
    metric = CertifiedStability(model, images, LABELS, radius=0.0, steps=2, restarts=1)
    assert (metric.evaluate_samples(explainer) < 1e-5).all()
    before = np.zeros(3)
    for radius in (0.01, 0.03, 0.1):
        metric.radius = radius
        found = metric.evaluate_samples(explainer)
        assert (found >= before).all()
        before = found
    metric.method = "ibp"
    assert (metric.evaluate_samples(explainer) >= found * (1 - 1e-5)).all()
    metric.batch_size = 1
    np.testing.assert_allclose(
        metric.evaluate(explainer), metric.evaluate_samples(explainer).mean()
    )


@pytest.mark.usefixtures("eager")
def test_vacuous_distances_are_said(images):
    layers = [L.Dense(40, activation="relu") for _ in range(4)]
    deep = sequential((2, 2, 2), L.Flatten(), *layers, L.Dense(3), seed=1)
    metric = CertifiedStability(deep, images, radius=3.0, method="ibp", steps=1, restarts=1)
    with pytest.warns(VacuousWarning, match="of 3 of 3 inputs says nothing.*radius=3.0") as caught:
        result = metric.detailed_evaluate(Saliency(deep))
    (told,) = (one for one in caught if one.category is VacuousWarning)
    assert told.filename == __file__
    assert (result.looseness > 100).all()


def test_a_contradiction_is_raised(model, images, monkeypatch):
    explainer = GradientInput(model)
    bounds = type(explainer)._bounds_of_maps

    def too_narrow(self, region, weights, method, dtype):
        lower, upper = bounds(self, region, weights, method, dtype)
        if dtype == "float64":
            return lower, upper
        maps = self._explain(region.center, weights)
        return maps - 1e-6, maps + 1e-6

    monkeypatch.setattr(type(explainer), "_bounds_of_maps", too_narrow)
    with pytest.raises(ContradictionError, match="a map whose l2 distance"):
        CertifiedStability(model, images, LABELS, radius=0.1)(explainer)


def test_what_cannot_be_bounded_is_refused(model, images):
    metric = CertifiedStability(model, images, LABELS)
    for explainer in (GradCAM(model), lambda inputs, targets: inputs, MarginGradientRange(model)):
        with pytest.raises(ValueError, match="AverageStability measures any explainer"):
            metric(explainer)
    for settings in ({"operator": "classification"}, {"output_layer": -1}):
        with pytest.raises(ValueError, match=f"leave {next(iter(settings))} out"):
            metric(Saliency(model, **settings))
    squares = type("Squares", (Saliency,), {"_of_features": lambda self, x, weights: x**2})
    with pytest.raises(
        ValueError, match="other maps.*Received: Squares, whose _mean is .*Saliency"
    ):
        metric(squares(model))
    with pytest.raises(ValueError, match="distance must be one of l1, l2, linf"):
        CertifiedStability(model, images, distance=lambda first, second: 0)
    with pytest.raises(ValueError, match="leave the valid range"):
        CertifiedStability(model, images, clip=(0.0, 0.1))
    with pytest.raises(ValueError, match="named|by name"):
        metric(AttributionBound(model, attribution=lambda model, x, y: x, beta=10.0))
