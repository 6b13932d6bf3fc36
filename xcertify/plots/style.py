"""What all pictures share: the ink, arrays as they are drawn, colours and grids."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

INK = "#444444"
POSITIVE, NEGATIVE = "#c2381a", "#2f55b8"

_OF_IMSHOW = ("vmin", "vmax", "interpolation", "aspect")
_RENAMED = {"nb_columns": "cols", "size": "img_size", "limits": "vmin and vmax"}


def as_maps(explanations: Any) -> np.ndarray:
    """Explanations as float64 maps (N, H, W) or (N, W); refused where they are none.

    Of (N, H, W, C) it is the mean over channels.
    """
    maps = np.asarray(explanations, dtype=np.float64)
    if maps.ndim not in (2, 3, 4) or maps.size == 0:
        raise ValueError(
            "explanations must be (N, H, W, C), (N, H, W), (N, T, W) or (N, W), with at least one "
            f"map. Received: shape {maps.shape}"
        )
    if maps.ndim == 4:
        maps = maps.mean(axis=-1)
    bad = ~np.isfinite(maps).reshape(len(maps), -1).all(axis=1)
    if bad.any():
        raise ValueError(f"explanations have NaN or infinite values in sample {bad.argmax()}")
    return maps


def treated(
    maps: np.ndarray, clip_percentile: float | None, absolute_value: bool, normalize_value: bool
) -> np.ndarray:
    """Maps (N, ...), of each its magnitudes, cut at its percentiles, stretched to [0, 1]."""
    is_number = isinstance(clip_percentile, Real)
    if clip_percentile is not None and not (is_number and 0 <= clip_percentile < 50):
        raise ValueError(
            "clip_percentile must be at least 0 and below 50: 1 cuts what is below the first and "
            f"above the 99th percentile. Received: {clip_percentile!r}"
        )
    axes = tuple(range(1, maps.ndim))
    if absolute_value:
        maps = np.abs(maps)
    if clip_percentile:
        ends = clip_percentile, 100 - clip_percentile
        maps = np.clip(maps, *np.percentile(maps, ends, axis=axes, keepdims=True))
    if normalize_value:
        low, span = maps.min(axes, keepdims=True), np.ptp(maps, axes, keepdims=True)
        maps = (maps - low) / np.where(span > 0, span, 1)
    return maps


def arguments_of_imshow(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, or a TypeError that says what to do with those that do not fit."""
    for name, value in given.items():
        if name in _RENAMED:
            raise TypeError(f"{name} is called {_RENAMED[name]} here. Received: {name}={value!r}")
        if name not in _OF_IMSHOW:
            raise TypeError(
                f"of the arguments of imshow only {', '.join(_OF_IMSHOW)} are taken here; set "
                "others on what is drawn, figure.axes[0].images[-1].set(...). "
                f"Received: {name}={value!r}"
            )
    return given


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


def colormap_of(
    signed: bool, cmap: str | Colormap | None = None, alpha: float | None = None
) -> Colormap:
    """Transparent where a map says nothing, so that the input shows; darker the more it says.

    Blue is darker than red at the same strength, so that signs differ in grey too. Where a colour
    map or an opacity is given, that one with one opacity for all (defaults: viridis, .5).
    """
    if cmap is not None or alpha is not None:
        given = colormaps.get_cmap("viridis" if cmap is None else cmap)
        colours = given(np.arange(given.N))
        colours[:, 3] = 0.5 if alpha is None else _opacity(alpha)
        return ListedColormap(colours, given.name)
    strength = np.linspace(0, 1, 256)
    if not signed:
        colours = colormaps["YlOrRd"](0.25 + 0.75 * strength)
        colours[:, 3] = np.minimum(strength / 0.6, 1)
        return ListedColormap(colours, "xcertify")
    blend = LinearSegmentedColormap.from_list(
        "", ["#0b1f66", NEGATIVE, "#c5d3f2", "#ffe3d3", "#f0743e", POSITIVE]
    )
    colours = blend(strength)
    colours[:, 3] = np.minimum(np.abs(2 * strength - 1) / 0.5, 1)
    return ListedColormap(colours, "xcertify signed")


def _opacity(alpha: Any) -> float:
    if not isinstance(alpha, Real) or not 0 <= float(alpha) <= 1:
        raise ValueError(f"alpha must be a number from 0 to 1. Received: {alpha!r}")
    return float(alpha)


def new_grid(
    nb_rows: int, cols: int, img_size: float, figure: Figure | None
) -> tuple[Figure, GridSpec]:
    """Equal cells, and a narrow last column for colour bars."""
    if figure is None:
        width, height = img_size * cols + 0.9, img_size * nb_rows + 0.4
        figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    return figure, figure.add_gridspec(nb_rows, cols + 1, width_ratios=[1] * cols + [0.06])


def add_colour_bar(
    axes: Axes, drawn: ScalarMappable, signed: bool, *, is_shared: bool = False
) -> None:
    """Values if all maps have the scale of the drawn one, words if each has its own."""
    scale = drawn.norm if is_shared else Normalize(-1 if signed else 0, 1)
    bar = axes.figure.colorbar(ScalarMappable(scale, drawn.cmap), cax=axes)
    bar.outline.set_visible(False)
    axes.tick_params(length=0, labelsize=8, labelcolor=INK)
    if not is_shared:
        names = ["negative", "0", "positive"] if signed else ["lowest", "highest"]
        bar.set_ticks([-1, 0, 1] if signed else [0, 1], labels=names)
