"""Pictures of explanations.

Every function draws with matplotlib's objects alone (no pyplot, no global state) and returns what
it drew, so that a picture can be saved, shown, or changed further::

    figure = plot_attributions(maps, images)
    figure.savefig("maps.png")
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.image import AxesImage

_INK = "#444444"


def draw_image(axes: Axes, image: Any) -> AxesImage:
    """Draw one image on the given axes.

    Parameters
    ----------
    axes
        Where to draw.
    image
        Grey, (H, W) or (H, W, 1), or colour, (H, W, 3). Values in [0, 1] are taken as they are,
        others are stretched to it.

    Returns
    -------
    matplotlib.image.AxesImage
        The drawn image.
    """
    image = _pixels(image)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def draw_attribution(
    axes: Axes,
    explanation: Any,
    image: Any = None,
    *,
    limits: tuple[float, float] | None = None,
    signed: bool | None = None,
) -> ScalarMappable:
    """Draw one explanation on the given axes.

    Parameters
    ----------
    axes
        Where to draw.
    explanation
        Map of an image, (H, W) or (H, W, 1); of a time series, (T, W), drawn with time
        downwards; of a row of a table, (W,), drawn as bars.
    image
        The explained image, (H, W), (H, W, 1) or (H, W, 3), drawn in pale grey under the map.
    limits
        Lowest and highest value of the colour scale. Default: those of the map; of a signed map,
        -m and m with m its largest magnitude.
    signed
        Whether zero is the middle of the scale, red above and blue below. Default: whether a
        negative value reaches 5 % of the largest magnitude.

    Returns
    -------
    matplotlib.cm.ScalarMappable
        Carries the colour scale, as ``figure.colorbar`` wants it; for all but bars it is the drawn
        `matplotlib.image.AxesImage`.

    Raises
    ------
    ValueError
        For a map with NaN or infinite values, or shapes that do not fit.
    """
    (explanation,) = _maps([explanation])
    signed = _is_signed(explanation) if signed is None else signed
    scale = Normalize(*(limits or _limits(explanation, signed)))
    colormap = _colormap(signed)
    if explanation.ndim == 1:
        return _draw_bars(axes, explanation, ScalarMappable(scale, colormap))
    if image is not None:
        image = _pixels(image)
        if image.shape[:2] != explanation.shape:
            raise ValueError(
                f"an image and its map must have one height and width. "
                f"Received: {image.shape[:2]} and {explanation.shape}"
            )
        grey = image if image.ndim == 2 else image @ (0.299, 0.587, 0.114)  # luma of ITU-R BT.601
        draw_image(axes, 0.75 + 0.25 * grey)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(image is None)
    slender = not 1 / 4 <= explanation.shape[0] / explanation.shape[1] <= 4
    return axes.imshow(
        explanation,
        cmap=colormap,
        norm=scale,
        interpolation="nearest",
        aspect="auto" if slender and image is None else "equal",
    )


def draw_cells(
    axes: Axes, cells: Any, map_shape: tuple[int, int], image_shape: tuple[int, ...]
) -> None:
    """Outline cells of a coarse map on an image: the certified top k of `CORGI`, for example.

    Parameters
    ----------
    axes
        Where the image was drawn.
    cells
        (k,) int: the cells, counted row by row through the map.
    map_shape
        (h, w) of the map.
    image_shape
        (H, W, ...) of the image.

    Examples
    --------
    >>> draw_attribution(axes, maps[0], images[0])
    >>> draw_cells(axes, certificate.cells[0], certificate.map_shape, images[0].shape)
    """
    chosen = np.zeros(np.prod(map_shape))
    chosen[np.asarray(cells)] = 1
    # Enlarged, so that the half-way contour runs along the borders of cells.
    fine = 8
    chosen = chosen.reshape(map_shape).repeat(fine, axis=0).repeat(fine, axis=1)
    places = [
        (np.arange(size * fine) + 0.5) / (size * fine) * extent - 0.5
        for size, extent in zip(map_shape, image_shape)
    ]
    axes.contour(places[1], places[0], chosen, levels=[0.5], colors=_INK, linewidths=1.2)


def plot_attributions(
    explanations: Any,
    images: Any = None,
    *,
    titles: Sequence[str] | None = None,
    shared_scale: bool = False,
    nb_columns: int = 8,
    size: float = 1.6,
    figure: Figure | None = None,
) -> Figure:
    """Draw a batch of explanations as a grid, each over its input.

    Parameters
    ----------
    explanations
        (N, H, W, 1) or (N, H, W) for images, (N, T, W) for time series, (N, W) for tables.
    images
        The explained images, (N, H, W, C).
    titles
        A text above each map.
    shared_scale
        True: one scale for all maps, so that their values can be compared; False (default): each
        map has its own, and the colour bar goes from its lowest to its highest value.
    nb_columns
        Most maps beside each other.
    size
        Width and height of one map, in inches.
    figure
        An empty figure to draw on. Default: a new one.

    Returns
    -------
    matplotlib.figure.Figure
        With one axes per map and then one for the colour bar.

    Raises
    ------
    ValueError
        For NaN or infinite values, or shapes that do not fit.

    Examples
    --------
    >>> plot_attributions(maps, images, titles=["seven", "two"]).savefig("maps.png")
    """
    maps = _maps(explanations)
    images = _batch(images, len(maps), "images")
    titles = _batch(titles, len(maps), "titles")
    signed = _is_signed(maps)
    limits = _limits(maps, signed) if shared_scale else None
    nb_columns = min(nb_columns, len(maps))
    figure, grid = _grid(-(-len(maps) // nb_columns), nb_columns, size, figure)
    for index, (one, image, title) in enumerate(zip(maps, images, titles, strict=True)):
        axes = figure.add_subplot(grid[divmod(index, nb_columns)])
        drawn = draw_attribution(axes, one, image, limits=limits, signed=signed)
        axes.set_title(title, fontsize=9)
    _colour_bar(figure.add_subplot(grid[:, -1]), signed, drawn.norm if shared_scale else None)
    return figure


def plot_comparison(
    explanations: Mapping[str, Any],
    images: Any,
    *,
    titles: Sequence[str] | None = None,
    size: float = 1.4,
    figure: Figure | None = None,
) -> Figure:
    """Draw the inputs in a row, and under them the maps of several explainers, a row each.

    Every map has its own scale, since the values of two explainers have no common unit.

    Parameters
    ----------
    explanations
        Name of an explainer -> its maps, (N, H, W, 1) or (N, H, W).
    images
        The explained images, (N, H, W, C).
    titles
        A text above each image.
    size
        Width and height of one map, in inches.
    figure
        An empty figure to draw on. Default: a new one.

    Returns
    -------
    matplotlib.figure.Figure
        With one axes per image and per map, row by row, and then one colour bar per explainer.

    Raises
    ------
    ValueError
        For NaN or infinite values, or shapes that do not fit.

    Examples
    --------
    >>> plot_comparison({"EVA": maps, "Saliency": others}, images).savefig("comparison.png")
    """
    rows = {name: _maps(maps) for name, maps in explanations.items()}
    for maps in rows.values():
        _batch(maps, len(images), "maps")
    titles = _batch(titles, len(images), "titles")
    figure, grid = _grid(1 + len(rows), len(images), size, figure)
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(grid[0, column])
        draw_image(axes, image)
        axes.set_title(title, fontsize=9)
    for row, (name, maps) in enumerate(rows.items(), start=1):
        signed = _is_signed(maps)
        for column, (one, image) in enumerate(zip(maps, images, strict=True)):
            axes = figure.add_subplot(grid[row, column])
            draw_attribution(axes, one, image, signed=signed)
            if column == 0:
                axes.set_ylabel(textwrap.fill(name, 16), fontsize=9)
        _colour_bar(figure.add_subplot(grid[row, -1]), signed)
    return figure


def plot_curves(
    results: Mapping[str, Mapping[str, Any]],
    *,
    nb_columns: int = 2,
    size: float = 3.2,
    figure: Figure | None = None,
) -> Figure:
    """Draw the mean curves of metrics: a panel for each metric, a line for each explainer.

    Parameters
    ----------
    results
        Title of a panel -> name of an explainer -> its `xcertify.metrics.MetricResult`.
    nb_columns
        Most panels beside each other.
    size
        Height of one panel, in inches.
    figure
        An empty figure to draw on. Default: a new one.

    Returns
    -------
    matplotlib.figure.Figure
        With one axes per panel.

    Examples
    --------
    >>> plot_curves({"Deletion": {"EVA": Deletion(model, images).detailed_evaluate(maps)}})
    """
    names = list(dict.fromkeys(name for lines in results.values() for name in lines))
    colours = dict(zip(names, colormaps["turbo"](np.linspace(0.05, 0.95, len(names)))))
    nb_columns = min(nb_columns, len(results))
    nb_rows = -(-len(results) // nb_columns)
    if figure is None:
        width = 1.3 * size * nb_columns + 2.8
        figure = Figure(figsize=(width, size * nb_rows), layout="constrained", dpi=150)
    lines = {}
    for place, (title, curves) in enumerate(results.items(), start=1):
        axes = figure.add_subplot(nb_rows, nb_columns, place)
        for number, (name, result) in enumerate(curves.items()):
            style = ("-", "--", ":")[number % 3]  # lines differ without colour too
            (lines[name],) = axes.plot(
                result.axis, result.mean_curve, style, color=colours[name], linewidth=1.5
            )
            axes.set_xlabel(result.axis_label, fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7, colors=_INK)
        axes.spines[["top", "right"]].set_visible(False)
    wrapped = [textwrap.fill(name, 30) for name in lines]
    figure.legend(lines.values(), wrapped, loc="outside right center", fontsize=8, frameon=False)
    return figure


def _maps(explanations: Any) -> np.ndarray:
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


def _batch(values: Any, nb_maps: int, name: str) -> Any:
    if values is None:
        return [None] * nb_maps
    if len(values) != nb_maps:
        raise ValueError(f"{name} must be one per map, {nb_maps}. Received: {len(values)}")
    return values


def _pixels(image: Any) -> np.ndarray:
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


def _is_signed(maps: np.ndarray) -> bool:
    return bool(-maps.min() > 0.05 * np.abs(maps).max())


def _limits(maps: np.ndarray, signed: bool) -> tuple[float, float]:
    low, high = maps.min(), maps.max()
    if signed:
        low, high = -np.abs(maps).max(), np.abs(maps).max()
    return (low, high) if low < high else (low, low + 1.0)  # a constant map says nothing


def _colormap(signed: bool) -> Colormap:
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


def _draw_bars(axes: Axes, explanation: np.ndarray, scale: ScalarMappable) -> ScalarMappable:
    features = np.arange(len(explanation))
    axes.bar(features, explanation, color=scale.to_rgba(explanation), edgecolor=_INK, linewidth=0.6)
    axes.axhline(0, color=_INK, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("feature", fontsize=8)
    axes.tick_params(labelsize=7, colors=_INK)
    return scale


def _grid(
    nb_rows: int, nb_columns: int, size: float, figure: Figure | None
) -> tuple[Figure, GridSpec]:
    """Equal cells, and a narrow last column for colour bars."""
    if figure is None:
        width, height = size * nb_columns + 0.9, size * nb_rows + 0.4
        figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    widths = [1] * nb_columns + [0.06]
    return figure, figure.add_gridspec(nb_rows, nb_columns + 1, width_ratios=widths)


def _colour_bar(axes: Axes, signed: bool, scale: Normalize | None = None) -> None:
    """Values if the maps share one scale, words if each has its own."""
    shown = ScalarMappable(scale or Normalize(-1 if signed else 0, 1), _colormap(signed))
    bar = axes.figure.colorbar(shown, cax=axes)
    bar.outline.set_visible(False)
    axes.tick_params(length=0, labelsize=8, labelcolor=_INK)
    if scale is None:
        names = ["negative", "0", "positive"] if signed else ["lowest", "highest"]
        bar.set_ticks([-1, 0, 1] if signed else [0, 1], labels=names)
