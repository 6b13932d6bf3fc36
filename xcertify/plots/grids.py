"""Explanations of images over their inputs, one and many."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from xcertify.checks import whole_number
from xcertify.plots.maps import draw_attribution, draw_image
from xcertify.plots.style import (
    add_colour_bar,
    arguments_of_imshow,
    as_maps,
    is_signed,
    limits_of,
    new_grid,
    one_per_map,
    treated,
)


def plot_attributions(
    explanations: Any,
    images: Any = None,
    cmap: str | Colormap | None = None,
    alpha: float | None = None,
    clip_percentile: float | None = None,
    absolute_value: bool = False,
    cols: int = 5,
    img_size: float = 2.0,
    *,
    normalize_value: bool = False,
    titles: Sequence[str] | None = None,
    shared_scale: bool = False,
    figure: Figure | None = None,
    **plot_kwargs: Any,
) -> Figure:
    """Draw a batch of explanations as a grid, each over its input.

    Where `cmap` or `alpha` is given the colours are those of Xplique's function of the same name.

    Parameters
    ----------
    explanations
        (N, H, W, C) or (N, H, W) for images, (N, T, W) for time series, (N, W) for tables. Of
        channels the mean is drawn.
    images
        The explained images, (N, H, W, C).
    cmap
        A colour map of matplotlib or its name, from the lowest value of a map to its highest.
        Default: the own one, red above zero and blue below where maps have signs; "viridis" with
        `alpha`.
    alpha
        Opacity of the maps, from 0 to 1, over images in their colours. Default: by the values of a
        map, over pale grey; .5 with `cmap`.
    clip_percentile
        The values of each map are cut at this percentile and at 100 minus it. Default: not cut.
    absolute_value
        Whether magnitudes are drawn.
    cols
        Most maps beside each other.
    img_size
        Width and height of one map, in inches.
    normalize_value
        Whether each map is stretched to [0, 1], of which `vmin` and `vmax` then speak.
    titles
        A text above each map.
    shared_scale
        True: one scale for all maps, so that their values can be compared; False (default): each
        map has its own, and the colour bar goes from its lowest to its highest value.
    figure
        An empty figure to draw on. Default: a new one.
    **plot_kwargs
        Of matplotlib's ``imshow``: vmin, vmax, interpolation and aspect.

    Returns
    -------
    matplotlib.figure.Figure
        With one axes per map and then one for the colour bar.

    Raises
    ------
    ValueError
        For NaN or infinite values, shapes that do not fit, and colours that are none.
    TypeError
        For other arguments of ``imshow``.

    Examples
    --------
    >>> plot_attributions(maps, images, titles=["seven", "two"]).savefig("maps.png")
    >>> plot_attributions(maps, images, cmap="jet", alpha=0.4, clip_percentile=0.1)
    """
    settings = arguments_of_imshow(plot_kwargs)
    maps = treated(as_maps(explanations), clip_percentile, absolute_value, normalize_value)
    images = one_per_map(images, len(maps), "images")
    titles = one_per_map(titles, len(maps), "titles")
    signed = cmap is None and alpha is None and is_signed(maps)
    if shared_scale:
        settings = dict(zip(("vmin", "vmax"), limits_of(maps, signed))) | settings
    cols = min(whole_number("cols", cols), len(maps))
    figure, grid = new_grid(-(-len(maps) // cols), cols, img_size, figure)
    for index, (one, image, title) in enumerate(zip(maps, images, titles, strict=True)):
        axes = figure.add_subplot(grid[divmod(index, cols)])
        drawn = draw_attribution(
            axes, one, image, cmap=cmap, alpha=alpha, signed=signed, **settings
        )
        axes.set_title(title, fontsize=9)
    is_shared = {"vmin", "vmax"} <= settings.keys()
    add_colour_bar(figure.add_subplot(grid[:, -1]), drawn, signed, is_shared=is_shared)
    return figure


def plot_attribution(
    explanation: Any,
    image: Any = None,
    cmap: str | Colormap | None = None,
    alpha: float | None = None,
    clip_percentile: float | None = None,
    absolute_value: bool = False,
    normalize_value: bool = False,
    *,
    title: str | None = None,
    img_size: float = 4.0,
    figure: Figure | None = None,
    **plot_kwargs: Any,
) -> Figure:
    """Draw one explanation over its input, beside a bar with its values.

    `draw_attribution` draws on given axes, such as ``pyplot.gca()``.

    Parameters
    ----------
    explanation
        (H, W, C) or (H, W) for an image, (T, W) for a time series, (W,) for a row of a table.
    image
        The explained image, (H, W, C) or (H, W).
    cmap
        As for `plot_attributions`.
    alpha
        As for `plot_attributions`.
    clip_percentile
        As for `plot_attributions`.
    absolute_value
        As for `plot_attributions`.
    normalize_value
        As for `plot_attributions`.
    title
        A text above the map.
    img_size
        Width and height of the map, in inches.
    figure
        An empty figure to draw on. Default: a new one.
    **plot_kwargs
        Of matplotlib's ``imshow``: vmin, vmax, interpolation and aspect.

    Returns
    -------
    matplotlib.figure.Figure
        With an axes for the map and one for the colour bar.

    Raises
    ------
    ValueError
        For NaN or infinite values, shapes that do not fit, and colours that are none.
    TypeError
        For other arguments of ``imshow``.

    Examples
    --------
    >>> plot_attribution(maps[0], images[0]).savefig("map.png")
    """
    explanation = np.asarray(explanation)
    if explanation.ndim not in (1, 2, 3):
        raise ValueError(
            "explanation must be of one sample, (H, W, C), (H, W), (T, W) or (W,); "
            f"plot_attributions draws several. Received: shape {explanation.shape}"
        )
    return plot_attributions(
        explanation[None],
        None if image is None else [image],
        cmap,
        alpha,
        clip_percentile,
        absolute_value,
        1,
        img_size,
        normalize_value=normalize_value,
        titles=[title or ""],
        shared_scale=True,
        figure=figure,
        **plot_kwargs,
    )


def plot_comparison(
    explanations: Mapping[str, Any],
    images: Any,
    *,
    titles: Sequence[str] | None = None,
    img_size: float = 1.4,
    figure: Figure | None = None,
) -> Figure:
    """Draw the inputs in a row, and under them the maps of several explainers, a row each.

    Every map has its own scale, since the values of two explainers have no common unit.

    Parameters
    ----------
    explanations
        Name of an explainer -> its maps, (N, H, W, C) or (N, H, W).
    images
        The explained images, (N, H, W, C).
    titles
        A text above each image.
    img_size
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
    figure, grid = new_grid(1 + len(rows), len(images), img_size, figure)
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(grid[0, column])
        draw_image(axes, image)
        axes.set_title(title, fontsize=9)
    for row, (name, maps) in enumerate(rows.items(), start=1):
        signed = is_signed(maps)
        for column, (one, image) in enumerate(zip(maps, images, strict=True)):
            axes = figure.add_subplot(grid[row, column])
            drawn = draw_attribution(axes, one, image, signed=signed)
            if column == 0:
                axes.set_ylabel(textwrap.fill(name, 16, break_long_words=False), fontsize=9)
        add_colour_bar(figure.add_subplot(grid[row, -1]), drawn, signed)
    return figure
