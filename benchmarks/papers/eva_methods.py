"""The methods that EVA is compared with, and the settings of each that are tried on validation.

Every method has six settings to choose from, or as many as it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

from xcertify import attributions
from xcertify.attributions import EVA, EVAHybrid, GreedyAS, MarginGradientRange, SampledEVA
from xcertify.commands.benchmark.candidates import _latent_layer, _XpliqueExplainer

CLIP = (0.0, 1.0)
GRID = 12  # cells of the paper
COLOUR_GRID = 8  # 12 does not divide 32
COLOUR_RADII = (0.00005, 0.0002, 0.0005, 0.002)  # bounds say nothing of colour images farther out
MANY: dict[str, Any] = {"batch_size": 2048}
GROUPS = ("eva", "others", "greedy")
EXACT = ("EVA exact", "EVA exact, as in the paper")
SLOWER = ("EVA sampled", "EVA hybrid")
GREEDY = ("Greedy-AS", "Greedy-AS of the complement")
CONTROL = "Control: margin gradient x range"
DEFAULT = "EVA, default settings"
ROUNDS = "EVA, in rounds"

# setting in words -> what makes the explainer of a model, for a seed
Settings = dict[str, Callable[[keras.Model, int], Any]]


def methods(group: str, of_digits: bool) -> dict[str, Settings]:
    """Method -> its settings; radii and cells are those of digits, or of colour images."""
    if group == "eva":
        return _of_digits() if of_digits else _of_colours()
    if group == "greedy":
        return _of_greedy()
    found = _of_others()
    if not of_digits:
        found["Grad-CAM"] = {"-": partial(_seeded, attributions.GradCAM)}
        found["Grad-CAM++"] = {"-": partial(_seeded, attributions.GradCAMPP)}
        cells = f"Saliency, {COLOUR_GRID}x{COLOUR_GRID}"
        found[cells] = {"-": partial(_over_cells, found["Saliency"]["-"])}
    return found


def _of_digits() -> dict[str, Settings]:
    """All forms of EVA, and the control."""
    return _of_eva((0.01, 0.02, 0.05, 0.1), GRID)


def _of_colours() -> dict[str, Settings]:
    """Forms whose bounds take at most a few seconds an image; the control with cells, too."""
    found = _of_eva(COLOUR_RADII, COLOUR_GRID)
    for method in (*EXACT, ROUNDS, *SLOWER):
        del found[method]
    cells = f"{COLOUR_GRID}x{COLOUR_GRID}"
    found[f"EVA, crown-ibp, {cells}"] = {
        setting: partial(make, grid_size=COLOUR_GRID)
        for setting, make in found["EVA, crown-ibp"].items()
    }
    found[f"{CONTROL}, {cells}"] = {
        setting: partial(_over_cells, make) for setting, make in found[CONTROL].items()
    }
    return found


def _of_eva(radii: tuple[float, ...], grid: int) -> dict[str, Settings]:
    """EVA in its forms, and the control, which costs a gradient and proves nothing."""
    low, small, middle, large = radii
    six = [(small, 0), (small, 2), (middle, 0), (middle, 2), (large, 2), (low, 2)]
    three = [(low, 2), (small, 2), (middle, 2), (large, 2), (small, 0), (middle, 0)]

    def of(kind: type, pairs: list[tuple[float, float]], **more: Any) -> Settings:
        return {
            f"ε {epsilon:g}, T {temperature:g}": partial(
                _without_seed, kind, epsilon=epsilon, temperature=temperature, clip=CLIP, **more
            )
            for epsilon, temperature in pairs
        }

    def in_rounds(kind: type, **more: Any) -> Settings:
        tried = [(4, small, 1), (4, small, 2), (4, small, 4), (4, middle, 2), (3, small, 2)]
        return {
            f"{nb} rounds, ε {epsilon:g}, T {temperature:g}": partial(
                *(_without_seed, kind),
                **{"nb_rounds": nb, "epsilon": epsilon, "temperature": temperature},
                clip=CLIP,
                **more,
            )
            for nb, epsilon, temperature in [*tried, (5, small, 2)]
        }

    fast: dict[str, Any] = {"batch_size": 64}
    exact: dict[str, Any] = {"mode": "exact", "grid_size": grid}
    whole = CLIP[1] - CLIP[0]
    return {
        DEFAULT: {"-": partial(_without_seed, EVA, clip=CLIP, **fast)},
        "EVA, crown": of(EVA, six, **fast),
        "EVA, crown-ibp": of(EVA, six, method="crown-ibp", **fast),
        f"EVA, crown, {grid}x{grid}": of(EVA, six, grid_size=grid, **fast),
        ROUNDS: in_rounds(EVA, **fast),
        f"{ROUNDS}, crown-ibp": in_rounds(EVA, method="crown-ibp", **fast),
        CONTROL: of(MarginGradientRange, [*six[:4], (whole, 0), (whole, 2)]),
        f"{CONTROL}, in rounds": in_rounds(MarginGradientRange),
        EXACT[0]: of(EVA, three, **exact),
        EXACT[1]: {
            f"ε {epsilon:g}": partial(
                *(_without_seed, EVA),
                **exact | {"epsilon": epsilon, "clip": CLIP},
                overlap="separate",
                temperature=0,
            )
            for epsilon in (*radii, 0.5)
        },
        SLOWER[0]: _with_seed(of(SampledEVA, three, grid_size=grid), SampledEVA),
        SLOWER[1]: {
            f"ε {epsilon:g}, T {temperature:g}": partial(_hybrid, grid, epsilon, temperature)
            for epsilon, temperature in three
        },
    }


def _of_others() -> dict[str, Settings]:
    """Published methods, Xplique's own where ours has none."""
    gradients = {"-": partial(_seeded, attributions.Saliency)}
    found = {
        "Saliency": gradients,
        "Gradient x input": {"-": partial(_seeded, attributions.GradientInput)},
        "SmoothGrad": {
            f"noise {noise:g}": partial(_seeded, attributions.SmoothGrad, noise=noise)
            for noise in (0.01, 0.03, 0.05, 0.1, 0.2, 0.3)
        },
        "Integrated gradients": {
            f"from {value:g}": partial(
                _seeded, attributions.IntegratedGradients, baseline_value=value
            )
            for value in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
        },
        "Occlusion": {
            f"patch {size}, stride {stride}, by {value:g}": partial(
                *(_seeded, attributions.Occlusion),
                patch_size=size,
                patch_stride=stride,
                occlusion_value=value,
                **MANY,
            )
            for size, stride, value in (
                *((1, 1, 0), (3, 1, 0), (3, 3, 0), (5, 2, 0), (3, 1, 0.5), (3, 1, 1)),
            )
        },
        "RISE": {
            f"grid {grid}, kept {share:g}": partial(
                *(_seeded, attributions.Rise),
                grid_size=grid,
                preservation_probability=share,
                nb_samples=1000,
                **MANY,
            )
            for grid, share in ((4, 0.5), (7, 0.5), (7, 0.3), (7, 0.7), (10, 0.5), (14, 0.5))
        },
        "Random map": {"-": partial(_seeded, attributions.RandomMap)},
    }
    for name in ("VarGrad", "SobolAttributionMethod", "HsicAttributionMethod"):
        found[f"Xplique {name}"] = {"-": partial(_xplique, name)}
    return found


def _of_greedy() -> dict[str, Settings]:
    """Greedy-AS for either side of Robustness-Sr: thousands of attacks for an image."""
    found: dict[str, Settings] = {}
    for name in GREEDY:
        found[name] = {
            f"share {share:g}, added with {chance:g}": partial(
                *(_seeded, GreedyAS),
                complement=name != GREEDY[0],
                share=share,
                probability=chance,
                nb_subsets=1000,
                clip=CLIP,
                **MANY,
            )
            for share, chance in ((0.05, 0.2), (0.05, 0.4), (0.1, 0.2))
        }
    return found


def _seeded(kind: type, model: keras.Model, seed: int, **settings: Any) -> Any:
    return kind(model, seed=seed, **settings)


def _without_seed(kind: type, model: keras.Model, seed: int, **settings: Any) -> Any:
    return kind(model, **settings)


def _with_seed(settings: Settings, kind: type) -> Settings:
    return {name: partial(_seeded, kind, **make.keywords) for name, make in settings.items()}


def _hybrid(grid: int, epsilon: float, temperature: float, model: keras.Model, seed: int) -> Any:
    """Cut before the last but one layer that has weights."""
    return EVAHybrid(
        *(model, _latent_layer(model)),
        epsilon=epsilon,
        temperature=temperature,
        clip=CLIP,
        grid_size=grid,
        seed=seed,
    )


def _xplique(name: str, model: keras.Model, seed: int) -> Any:
    return _XpliqueExplainer(model, name)


@dataclasses.dataclass(frozen=True)
class _OverCells:
    """An explainer whose maps are averaged over cells of images, as EVA with cells is compared."""

    explainer: Any

    def explain(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """(N, H, W, 1): the mean over each cell, at all of its pixels."""
        maps = np.asarray(self.explainer.explain(images, classes))
        size = maps.shape[1] // COLOUR_GRID
        cells = maps.reshape(len(maps), COLOUR_GRID, size, COLOUR_GRID, size, 1)
        return np.broadcast_to(cells.mean((2, 4), keepdims=True), cells.shape).reshape(maps.shape)


def _over_cells(
    make: Callable[[keras.Model, int], Any], model: keras.Model, seed: int
) -> _OverCells:
    return _OverCells(make(model, seed))
