"""Pictures of explanations over their inputs."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator

from xcertify.plots.style import (
    INK,
    add_colour_bar,
    as_maps,
    as_pixels,
    colormap_of,
    is_signed,
    limits_of,
    new_grid,
    one_per_map,
)


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
    image = as_pixels(image)
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
    (explanation,) = as_maps([explanation])
    signed = is_signed(explanation) if signed is None else signed
    scale = Normalize(*(limits or limits_of(explanation, signed)))
    colormap = colormap_of(signed)
    if explanation.ndim == 1:
        return _draw_bars(axes, explanation, ScalarMappable(scale, colormap))
    if image is not None:
        image = as_pixels(image)
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
    axes.contour(places[1], places[0], chosen, levels=[0.5], colors=INK, linewidths=1.2)


def draw_targeted(
    axes: Axes,
    positive: Any,
    negative: Any,
    image: Any = None,
    *,
    limits: tuple[float, float] | None = None,
) -> ScalarMappable:
    """Draw a targeted explanation: red where adding to a feature counts, blue where taking away.

    Each feature has the colour of the larger of its two values; both maps share one scale.

    Parameters
    ----------
    axes
        Where to draw.
    positive, negative
        The two maps of one sample, as `EVA.explain_targeted` returns them.
    image, limits
        As for `draw_attribution`.

    Returns
    -------
    matplotlib.cm.ScalarMappable
        Carries the colour scale; what is blue has minus its value.

    Raises
    ------
    ValueError
        As `draw_attribution`.

    Examples
    --------
    >>> maps = explainer.explain_targeted(images, labels)
    >>> draw_targeted(axes, maps.positive[0], maps.negative[0], images[0])
    """
    positive, negative = np.asarray(positive), np.asarray(negative)
    merged = np.where(positive >= negative, positive, -negative)
    return draw_attribution(axes, merged, image, limits=limits, signed=True)


def draw_series(
    axes: Axes, series: Any, explanation: Any, *, names: Sequence[str] | None = None
) -> ScalarMappable:
    """Draw a time series over its explanation: a strip for each variable, time to the right.

    Parameters
    ----------
    axes
        Where to draw.
    series
        (T, W), or (T,) of one variable.
    explanation
        Of the same shape; drawn as colours behind the lines.
    names
        Of the variables. Default: their numbers.

    Returns
    -------
    matplotlib.cm.ScalarMappable
        Carries the colour scale.

    Raises
    ------
    ValueError
        For shapes that do not fit, and for NaN or infinite values.

    Examples
    --------
    >>> draw_series(axes, series[0], explainer.explain(series)[0])
    """
    series, explanation = np.asarray(series, np.float64), np.asarray(explanation, np.float64)
    if series.shape != explanation.shape or series.ndim not in (1, 2):
        raise ValueError(
            f"a series and its explanation must both be (T, W) or (T,). "
            f"Received: {series.shape} and {explanation.shape}"
        )
    series, explanation = (v.reshape(len(v), -1).T for v in (series, explanation))  # (W, T)
    names = one_per_map(names, len(series), "names")
    drawn = draw_attribution(axes, explanation)
    span = np.ptp(series, axis=1, keepdims=True)
    middle = (series.max(axis=1, keepdims=True) + series.min(axis=1, keepdims=True)) / 2
    # A strip is 1 high and its y axis points down; lines leave a tenth of it free on each side.
    lines = np.arange(len(series))[:, None] - 0.8 * (series - middle) / np.where(span > 0, span, 1)
    halo = Stroke(linewidth=2.5, foreground="white"), Normal()  # a dark line on dark colours
    axes.plot(lines.T, color=INK, linewidth=1, path_effects=halo)
    axes.set_aspect("auto")
    shown = [str(i) if name is None else name for i, name in enumerate(names)]
    axes.set_yticks(range(len(series)), shown)
    axes.set_xlabel("time step", fontsize=8)
    axes.tick_params(labelsize=7, colors=INK, bottom=True)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return drawn


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
    maps = as_maps(explanations)
    images = one_per_map(images, len(maps), "images")
    titles = one_per_map(titles, len(maps), "titles")
    signed = is_signed(maps)
    limits = limits_of(maps, signed) if shared_scale else None
    nb_columns = min(nb_columns, len(maps))
    figure, grid = new_grid(-(-len(maps) // nb_columns), nb_columns, size, figure)
    for index, (one, image, title) in enumerate(zip(maps, images, titles, strict=True)):
        axes = figure.add_subplot(grid[divmod(index, nb_columns)])
        drawn = draw_attribution(axes, one, image, limits=limits, signed=signed)
        axes.set_title(title, fontsize=9)
    add_colour_bar(figure.add_subplot(grid[:, -1]), signed, drawn.norm if shared_scale else None)
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
    rows = {name: as_maps(maps) for name, maps in explanations.items()}
    for maps in rows.values():
        one_per_map(maps, len(images), "maps")
    titles = one_per_map(titles, len(images), "titles")
    figure, grid = new_grid(1 + len(rows), len(images), size, figure)
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(grid[0, column])
        draw_image(axes, image)
        axes.set_title(title, fontsize=9)
    for row, (name, maps) in enumerate(rows.items(), start=1):
        signed = is_signed(maps)
        for column, (one, image) in enumerate(zip(maps, images, strict=True)):
            axes = figure.add_subplot(grid[row, column])
            draw_attribution(axes, one, image, signed=signed)
            if column == 0:
                axes.set_ylabel(textwrap.fill(name, 16, break_long_words=False), fontsize=9)
        add_colour_bar(figure.add_subplot(grid[row, -1]), signed)
    return figure


def _draw_bars(axes: Axes, explanation: np.ndarray, scale: ScalarMappable) -> ScalarMappable:
    features = np.arange(len(explanation))
    axes.bar(features, explanation, color=scale.to_rgba(explanation), edgecolor=INK, linewidth=0.6)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("feature", fontsize=8)
    axes.tick_params(labelsize=7, colors=INK)
    return scale
