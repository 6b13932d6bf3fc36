"""Explainers and metrics of both libraries, each with those of the other."""

import keras
import numpy as np
import pytest
from matplotlib import pyplot
from networks import sequential

from xcertify import attributions, metrics, plots

theirs = pytest.importorskip("xplique.attributions", reason="Xplique is not installed")
their_metrics = pytest.importorskip("xplique.metrics", reason="Xplique is not installed")

L = keras.layers
ONE_HOT = np.eye(3, dtype=np.float32)[[2, 0, 1]]


def cells_of(image):
    """Four by four squares, for explainers by superpixels."""
    rows, columns = np.mgrid[:8, :8] // 2
    return (4 * rows + columns).astype(np.int32)


BY_CELLS = {"nb_samples": 30, "map_to_interpret_space": cells_of, "ref_value": np.zeros(2, "f4")}
THEIRS = {
    "Saliency": {},
    "GradientInput": {},
    "IntegratedGradients": {"steps": 5},
    "SmoothGrad": {"nb_samples": 5},
    "SquareGrad": {"nb_samples": 5},
    "VarGrad": {"nb_samples": 5},
    "DeconvNet": {},
    "GuidedBackprop": {},
    "GradCAM": {},
    "GradCAMPP": {},
    "Occlusion": {"patch_size": 2, "patch_stride": 2},
    "Rise": {"nb_samples": 30, "grid_size": 4},
    "SobolAttributionMethod": {"grid_size": 4, "nb_design": 4},
    "HsicAttributionMethod": {"grid_size": 4, "nb_design": 50},
    "KernelShap": BY_CELLS,
    "Lime": BY_CELLS,
}
OURS = {
    "Saliency": {},
    "IntegratedGradients": {"steps": 5},
    "Occlusion": {"patch_size": 2, "patch_stride": 2},
    "GradCAM": {},
    "CertifiedGradient": {},
    "EVA": {"epsilon": 0.05, "clip": (0, 1), "outside": "clip"},
    "RandomMap": {},
}
FIDELITY = {
    "Deletion": {"steps": 4},
    "Insertion": {"steps": 4},
    "MuFidelity": {"nb_samples": 20, "grid_size": 4},
}


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


@pytest.mark.parametrize("name", THEIRS)
def test_their_explainers_in_our_metrics_and_pictures(name, model, images):
    if name == "Lime":
        pytest.importorskip("sklearn")
    explainer = getattr(theirs, name)(model, **THEIRS[name])
    maps = np.asarray(explainer.explain(images, ONE_HOT))
    for metric, settings in FIDELITY.items():
        score = getattr(metrics, metric)(model, images, ONE_HOT, 64, **settings)(maps)
        assert np.isfinite(score)
        if metric != "MuFidelity" and all(len(np.unique(one)) == one[..., :1].size for one in maps):
            expected = getattr(their_metrics, metric)(model, images, ONE_HOT, 64, **settings)(maps)
            assert score == pytest.approx(float(expected), rel=1e-5, abs=1e-6)
    found = metrics.AverageStability(model, images, ONE_HOT, 64, nb_samples=2)(explainer)
    assert np.isfinite(found) and found >= 0
    figure = plots.plot_attributions(maps, images[..., :1])
    assert len([axes for axes in figure.axes if axes.images]) == 3
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("name", OURS)
def test_our_explainers_in_their_metrics(name, model, images):
    explainer = getattr(attributions, name)(model, **OURS[name])
    maps = explainer(images, ONE_HOT)
    scores = {
        metric: getattr(their_metrics, metric)(model, images, ONE_HOT, 64, **settings)(maps)
        for metric, settings in FIDELITY.items()
    }
    for metric in ("AverageDropMetric", "AverageGainMetric", "AverageIncreaseMetric"):
        scores[metric] = getattr(their_metrics, metric)(model, images, ONE_HOT, 64)(maps)
    for metric in ("Complexity", "Sparseness"):
        scores[metric] = getattr(their_metrics, metric)()(maps)
    # which give the explainer inputs up to 1.2, other classes and another model
    far = {"radius": 0.2, "nb_samples": 2}
    scores["AverageStability"] = their_metrics.AverageStability(model, images, ONE_HOT, **far)(
        explainer
    )
    scores["RandomLogitMetric"] = their_metrics.RandomLogitMetric(model, images, ONE_HOT)(explainer)
    randomized = their_metrics.ModelRandomizationMetric(model, images, ONE_HOT)(explainer)
    scores["ModelRandomizationMetric"] = randomized
    assert len(scores) == 11
    assert np.isfinite([float(score) for score in scores.values()]).all(), scores
    assert explainer.model is model
    np.testing.assert_allclose(explainer(images, ONE_HOT), maps, rtol=1e-5)


def test_stability_leaves_the_valid_range_unless_inputs_are_cut(model, images):
    stability = their_metrics.AverageStability(model, images, ONE_HOT, radius=0.9, nb_samples=2)
    with pytest.raises(ValueError, match="outside='clip'"):
        stability(attributions.EVA(model, clip=(0, 1)))
    assert stability(attributions.EVA(model, clip=(0, 1), outside="clip")) > 0
