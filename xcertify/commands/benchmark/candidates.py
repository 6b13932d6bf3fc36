"""The explainers that are compared: what each is called, and how it is made."""

from __future__ import annotations

import fnmatch
import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from xcertify import attributions
from xcertify.attributions import EVA, EVAHybrid, GreedyAS, MarginGradientRange, SampledEVA
from xcertify.commands.images import CLIP

GRID = 12  # of the paper: cells of EVA where it does not take pixels, and of MuFidelity
EXACT = ("ibp", "crown-ibp", "crown", "decomon:forward-ibp", "decomon:crown")  # bound methods
XPLIQUE = (
    "Saliency",
    "GradientInput",
    "SmoothGrad",
    "VarGrad",
    "IntegratedGradients",
    "Occlusion",
    "GradCAM",
    "GradCAMPP",
    "Rise",
    "SobolAttributionMethod",
    "HsicAttributionMethod",
)

Candidates = dict[str, Callable[[], Any]]  # name -> what makes the explainer


def candidates(model: keras.Model, epsilons: Sequence[float], seed: int) -> Candidates:
    """All explainers of a model: EVA and its controls for each radius, and the others."""
    found: Candidates = {}
    for epsilon in epsilons:
        found |= _of_radius(model, epsilon, seed)
    return found | _of_whole_range(model) | _without_radius(model, seed) | _of_xplique(model)


def choose(found: Candidates, wanted: Sequence[str]) -> Candidates:
    """The candidates whose name has one of the wanted parts, with * and ?; all for none.

    Raises
    ------
    ValueError
        For a part that no name has.
    """
    patterns = [f"*{part.lower()}*" for part in wanted] or ["*"]
    chosen: set[str] = set()
    for pattern in patterns:
        names = [name for name in found if fnmatch.fnmatchcase(name.lower(), pattern)]
        if not names:
            raise ValueError(
                f"explainers must be names, or parts of names, of: {'; '.join(found)}. "
                f"Received: {pattern.strip('*')!r}"
            )
        chosen.update(names)
    return {name: make for name, make in found.items() if name in chosen}


def _of_radius(model: keras.Model, epsilon: float, seed: int) -> Candidates:
    """EVA in its forms, and the controls at its own radius."""
    region: dict[str, Any] = {"epsilon": epsilon, "clip": CLIP}
    fast = partial(EVA, model, batch_size=64, **region)
    exact = partial(EVA, model, mode="exact", grid_size=GRID, **region)
    cut = _latent_layer(model)
    found: Candidates = {
        "EVA one-pass, crown, pixels": fast,
        "EVA one-pass, crown, pixels, T 0": partial(fast, temperature=0),
        f"EVA one-pass, crown, {GRID}x{GRID}": partial(fast, grid_size=GRID),
        "EVA one-pass, crown-ibp, pixels": partial(fast, method="crown-ibp"),
    }
    for method in EXACT:
        found[f"EVA exact, {method}, {GRID}x{GRID}"] = partial(exact, method=method)
    found |= {
        f"EVA exact, crown, {GRID}x{GRID}, as in the paper": partial(
            exact, overlap="separate", temperature=0
        ),
        f"EVA hybrid, crown, {GRID}x{GRID}": partial(
            EVAHybrid, model, cut, grid_size=GRID, seed=seed, **region
        ),
        f"EVA sampled, {GRID}x{GRID}": partial(
            SampledEVA, model, grid_size=GRID, seed=seed, **region
        ),
        "Control: margin gradient x range": partial(MarginGradientRange, model, **region),
        "Control: margin gradient x range, T 0": partial(
            MarginGradientRange, model, temperature=0, **region
        ),
    }
    return {f"{name}, ε {epsilon:g}": make for name, make in found.items()}


def _of_whole_range(model: keras.Model) -> Candidates:
    """Controls not tied to EVA's radius, a handicap for them: a gradient does not get loose."""
    control = partial(MarginGradientRange, model, epsilon=CLIP[1] - CLIP[0], clip=CLIP)
    return {
        "Control: margin gradient x range, whole range": control,
        "Control: margin gradient x range, T 0, whole range": partial(control, temperature=0),
    }


def _without_radius(model: keras.Model, seed: int) -> Candidates:
    """The explainers to compare with."""
    many: dict[str, Any] = {"batch_size": 2048}
    greedy = partial(GreedyAS, model, nb_subsets=1000, clip=CLIP, seed=seed, **many)
    grad_cam = {"Grad-CAM": partial(attributions.GradCAM, model)} if _has_maps(model) else {}
    return {
        "Saliency": partial(attributions.Saliency, model),
        "Gradient x input": partial(attributions.GradientInput, model),
        "SmoothGrad": partial(attributions.SmoothGrad, model, seed=seed),
        "Integrated gradients": partial(attributions.IntegratedGradients, model),
        **grad_cam,
        "Occlusion": partial(attributions.Occlusion, model, **many),
        "RISE": partial(attributions.Rise, model, seed=seed, **many),
        "Greedy-AS": greedy,
        "Greedy-AS of the complement": partial(greedy, complement=True),
        "Random map": partial(attributions.RandomMap, model, seed=seed),
    }


def _of_xplique(model: keras.Model) -> Candidates:
    """Xplique's methods of the paper and two more, where it is installed."""
    if importlib.util.find_spec("xplique") is None:
        return {}
    names = [name for name in XPLIQUE if _has_maps(model) or not name.startswith("GradCAM")]
    return {f"Xplique {name}": partial(_XpliqueExplainer, model, name) for name in names}


def _has_maps(model: keras.Model) -> bool:
    return any(isinstance(layer, keras.layers.Conv2D) for layer in model.layers)


def _latent_layer(model: keras.Model) -> str:
    """Where EVAHybrid cuts: the layer before the last but one that has weights."""
    weighted = [place for place, layer in enumerate(model.layers) if layer.weights]
    return model.layers[weighted[max(0, len(weighted) - 2)] - 1].name


class _XpliqueExplainer:
    """An explainer of Xplique, called as ours are."""

    def __init__(self, model: keras.Model, name: str) -> None:
        from xplique import attributions as xplique

        self.nb_classes = math.prod(model.output_shape[1:])
        self.explainer = getattr(xplique, name)(model, batch_size=512)

    def explain(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        one_hot = np.eye(self.nb_classes, dtype=np.float32)[classes]
        return np.asarray(self.explainer.explain(images, one_hot))
