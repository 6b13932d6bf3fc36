"""What all pictures share: the ink, arrays as they are drawn, colours and grids."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

INK = "#444444"


def as_maps(explanations: Any) -> np.ndarray:
    """Explanations as float64 maps (N, H, W) or (N, W); refused where they are none."""
    maps = np.asarray(explanations, dtype=np.float64)
    if maps.ndim == 4 and maps.shape[-1] == 1:
        maps = maps[..., 0]
    if maps.ndim not in (2, 3) or maps.size == 0:
        raise ValueError(
            "explanations must be (N, H, W, 1), (N, H, W), (N, T, W) or (N, W), with at least one "
            f"map; reduce channels first. Received: shape {maps.shape}"
        )
    bad = ~np.isfinite(maps).reshape(len(maps), -1).all(axis=1)
    if bad.any():
        raise ValueError(f"explanations have NaN or infinite values in sample {bad.argmax()}")
    return maps


def one_per_map(values: Any, nb_maps: int, name: str) -> Any:
    """The values, one for each map, or as many None."""
    if values is None:
        return [None] * nb_maps
    if len(values) != nb_maps:
        raise ValueError(f"{name} must be one per map, {nb_maps}. Received: {len(values)}")
    return values


def as_pixels(image: Any) -> np.ndarray:
    """An image (H, W) or (H, W, 3) with values in [0, 1], to which others are stretched."""
    pixels = np.asarray(image, dtype=np.float64)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 2 and pixels.shape[2:] != (3,):
        raise ValueError(
            f"an image must be (H, W), (H, W, 1) or (H, W, 3). Received: shape {np.shape(image)}"
        )
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:
        pixels = (pixels - low) / (high - low or 1)
    return pixels


def is_signed(maps: np.ndarray) -> bool:
    """Whether a negative value reaches 5 % of the largest magnitude."""
    return bool(-maps.min() > 0.05 * np.abs(maps).max())


def limits_of(maps: np.ndarray, signed: bool) -> tuple[float, float]:
    """Lowest and highest value of a colour scale."""
    low, high = maps.min(), maps.max()
    if signed:
        low, high = -np.abs(maps).max(), np.abs(maps).max()
    return (low, high) if low < high else (low, low + 1.0)  # a constant map says nothing


def colormap_of(signed: bool) -> Colormap:
    """Transparent where a map says nothing, so that the input shows; darker the more it says.

    Blue is darker than red at the same strength, so that signs differ in grey too.
    """
    strength = np.linspace(0, 1, 256)
    if not signed:
        colours = colormaps["YlOrRd"](0.25 + 0.75 * strength)
        colours[:, 3] = np.minimum(strength / 0.6, 1)
        return ListedColormap(colours, "xcertify")
    blend = LinearSegmentedColormap.from_list(
        "", ["#0b1f66", "#2f55b8", "#c5d3f2", "#ffe3d3", "#f0743e", "#c2381a"]
    )
    colours = blend(strength)
    colours[:, 3] = np.minimum(np.abs(2 * strength - 1) / 0.5, 1)
    return ListedColormap(colours, "xcertify signed")


def new_grid(
    nb_rows: int, nb_columns: int, size: float, figure: Figure | None
) -> tuple[Figure, GridSpec]:
    """Equal cells, and a narrow last column for colour bars."""
    if figure is None:
        width, height = size * nb_columns + 0.9, size * nb_rows + 0.4
        figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    widths = [1] * nb_columns + [0.06]
    return figure, figure.add_gridspec(nb_rows, nb_columns + 1, width_ratios=widths)


def add_colour_bar(axes: Axes, signed: bool, scale: Any = None) -> None:
    """Values if the maps share one scale, words if each has its own."""
    shown = ScalarMappable(scale or Normalize(-1 if signed else 0, 1), colormap_of(signed))
    bar = axes.figure.colorbar(shown, cax=axes)
    bar.outline.set_visible(False)
    axes.tick_params(length=0, labelsize=8, labelcolor=INK)
    if scale is None:
        names = ["negative", "0", "positive"] if signed else ["lowest", "highest"]
        bar.set_ticks([-1, 0, 1] if signed else [0, 1], labels=names)
