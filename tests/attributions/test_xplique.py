"""Drop-in for Xplique: its maps, numbers and pictures beside ours, each made of the other's."""

import keras
import numpy as np
import pytest
from matplotlib import pyplot
from networks import sequential

from xcertify import attributions, metrics, plots

theirs = pytest.importorskip("xplique.attributions", reason="Xplique is not installed")
their_metrics = pytest.importorskip("xplique.metrics", reason="Xplique is not installed")
their_plots = pytest.importorskip("xplique.plots", reason="Xplique is not installed")

L = keras.layers
LABELS = np.array([2, 0, 1])
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]
SETTINGS = {"IntegratedGradients": {"steps": 5}, "SmoothGrad": {"nb_samples": 5}}
# Of the explanation that both have, and some that only one of them has.
GRADIENTS = ["Saliency", "GradientInput", "IntegratedGradients", "SmoothGrad"]
THEIRS = [*GRADIENTS, "SquareGrad", "VarGrad", "DeconvNet", "GuidedBackprop"]
OURS = [*GRADIENTS, "EVA", "CertifiedGradient", "MarginGradientRange", "RandomMap"]


@pytest.fixture(scope="module")
def model():
    return sequential(
        (8, 8, 2),
        L.Conv2D(3, 3, padding="same", activation="tanh"),
        L.Conv2D(3, 3, padding="same", activation="relu"),
        L.Flatten(),
        L.Dense(3),
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((3, 8, 8, 2), dtype=np.float32)


@pytest.fixture(scope="module")
def maps(model, images):
    """Of both libraries, by library and name."""
    found = {
        (module, name): maps_of(module, name, model, images, ONE_HOT)
        for module, names in ((theirs, THEIRS), (attributions, OURS))
        for name in names
    }
    assert_without_ties(np.concatenate([*found.values()]))
    return found


@pytest.fixture
def canvas():
    """Xplique draws on pyplot."""
    assert not pyplot.get_fignums()
    yield pyplot
    pyplot.close("all")


def maps_of(module, name, model, images, targets):
    explainer = getattr(module, name)(model, **SETTINGS.get(name, {}))
    return np.asarray(explainer.explain(images, targets))


def assert_without_ties(maps):
    """Equal features are told apart by the rule of each library."""
    assert all(len(np.unique(one)) == one.size for one in maps)


@pytest.mark.parametrize(
    ("name", "ours", "others"),
    [
        ("Saliency", {}, {}),
        ("GradientInput", {}, {}),
        ("IntegratedGradients", {"steps": 500}, {"steps": 501}),
        (
            "Occlusion",
            {"patch_size": 2, "patch_stride": 1},
            {"patch_size": 2, "patch_stride": 1},
        ),
        ("GradCAM", {}, {}),
    ],
)
def test_same_maps(name, ours, others, model, images):
    found = getattr(attributions, name)(model, **ours)(images, LABELS)
    expected = np.asarray(getattr(theirs, name)(model, **others).explain(images, ONE_HOT))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_same_maps_but_for_what_is_drawn(model, images):
    smooth = attributions.SmoothGrad(model, nb_samples=2000)(images, LABELS)
    expected = theirs.SmoothGrad(model, nb_samples=2000).explain(images, ONE_HOT)
    np.testing.assert_allclose(smooth, expected, atol=0.02)
    rise = attributions.Rise(model, nb_samples=4000, grid_size=3)(images, LABELS)
    expected = np.asarray(theirs.Rise(model, nb_samples=4000, grid_size=3).explain(images, ONE_HOT))
    assert np.corrcoef(rise.ravel(), expected.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("name", ["Deletion", "Insertion"])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_same_numbers(name, activation, model, images, maps):
    # model, inputs, targets, batch_size, baseline_mode, steps, share, operator: in one order
    arguments = (model, images, ONE_HOT, 64, 0.2, 4, 0.9, None, activation)
    ours = getattr(metrics, name)(*arguments)
    others = getattr(their_metrics, name)(*arguments)
    for (module, explainer), one in maps.items():
        expected = float(others(one))
        message = f"{module.__name__}.{explainer}"
        assert ours(one) == pytest.approx(expected, rel=1e-6, abs=1e-6), message


@pytest.mark.parametrize("shape", [(7,), (5, 3)])
@pytest.mark.parametrize("name", ["Deletion", "Insertion"])
def test_same_numbers_of_tables_and_series(name, shape):
    model = sequential(shape, L.Flatten(), L.Dense(6, "tanh"), L.Dense(3))
    inputs = np.random.default_rng(1).random((3, *shape), dtype=np.float32)
    arguments = (model, inputs, ONE_HOT, 64, 0.2, 4, 0.9)
    maps = attributions.GradientInput(model)(inputs, LABELS)
    expected = float(getattr(their_metrics, name)(*arguments)(maps))
    assert getattr(metrics, name)(*arguments)(maps) == pytest.approx(expected, abs=1e-6)


def test_fidelity_of_subsets(model, images):
    """Both draw their subsets: a map that says what covering does is found to be faithful."""
    settings = {"batch_size": 64, "grid_size": 4, "subset_percent": 0.2, "nb_samples": 400}
    settings |= {"baseline_mode": 0.0}
    ours = metrics.MuFidelity(model, images, ONE_HOT, **settings)
    others = their_metrics.MuFidelity(model, images, ONE_HOT, **settings)
    good = attributions.Occlusion(model, patch_size=2, patch_stride=2)(images, LABELS)
    also_good = np.asarray(
        theirs.Occlusion(model, patch_size=2, patch_stride=2).explain(images, ONE_HOT)
    )
    np.testing.assert_allclose(good, also_good, atol=1e-5)
    for maps, sign in ((good, 1), (also_good, 1), (-good, -1)):
        assert sign * ours(maps) > 0.7
        assert sign * float(others(maps)) > 0.7
        assert ours(maps) == pytest.approx(float(others(maps)), abs=0.1)


def test_their_metric_of_explainers(model, images):
    stability = their_metrics.AverageStability(model, images, ONE_HOT, nb_samples=4)
    found = [float(stability(kind(model))) for kind in (attributions.Saliency, theirs.Saliency)]
    assert found[0] == pytest.approx(found[1], rel=1e-4) and found[0] > 0


@pytest.mark.parametrize("name", ["EVA", "GradCAM", "Saliency"])
def test_their_picture_of_our_maps(name, model, images, canvas):
    maps = maps_of(attributions, name, model, images, LABELS)
    their_plots.plot_attributions(maps, images[..., :1], cols=3, clip_percentile=None)
    drawn = [axes.images[-1].get_array() for axes in canvas.gcf().axes]
    assert len(drawn) == 3
    for one, array in zip(maps, drawn):
        smallest, largest = one.min(), one.max()
        expected = (one[..., 0] - smallest) / max(largest - smallest, 1e-8)
        np.testing.assert_allclose(np.squeeze(array), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["Saliency", "GradCAMPP", "Rise"])
def test_our_picture_of_their_maps(name, model, images, canvas):
    maps = maps_of(theirs, name, model, images, ONE_HOT)
    figure = plots.plot_attributions(maps, images[..., :1])
    drawn = [axes.images[-1].get_array() for axes in figure.axes if axes.images]
    assert len(drawn) == 3 and not canvas.get_fignums()
    for one, array in zip(maps, drawn):
        order = np.argsort(np.ravel(one), kind="stable")
        assert (np.diff(np.ravel(np.squeeze(array))[order]) >= -1e-6).all()
