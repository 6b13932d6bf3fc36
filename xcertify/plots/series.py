"""Explanations of time series."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator

from xcertify.checks import whole_number
from xcertify.plots.maps import draw_attribution
from xcertify.plots.style import INK, arguments_of_imshow, as_maps, one_per_map, treated


def draw_series(
    axes: Axes,
    series: Any,
    explanation: Any,
    *,
    names: Sequence[str] | None = None,
    **settings: Any,
) -> ScalarMappable:
    """Draw a time series over its explanation: a strip for each variable, time to the right.

    Parameters
    ----------
    axes
        Where to draw.
    series
        (T, W), or (T,) of one variable. None: the explanation alone is drawn.
    explanation
        Of the same shape; drawn as colours behind the lines.
    names
        Of the variables. Default: their numbers.
    **settings
        Of `draw_attribution`: cmap, alpha, vmin, vmax, signed, interpolation and aspect ("auto").

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
    explanation = np.asarray(explanation, np.float64)
    shape = np.shape(explanation if series is None else series)
    if shape != explanation.shape or len(shape) not in (1, 2):
        raise ValueError(
            f"a series and its explanation must both be (T, W) or (T,). "
            f"Received: {shape} and {explanation.shape}"
        )
    explanation = explanation.reshape(len(explanation), -1).T  # (W, T)
    shown = one_per_map(names, len(explanation), "names")
    drawn = draw_attribution(axes, explanation, **{"aspect": "auto", **settings})
    if series is not None:
        _draw_lines(axes, np.asarray(series, np.float64).reshape(explanation.T.shape).T)
    shown = [str(i) if name is None else name for i, name in enumerate(shown)]
    axes.set_yticks(range(len(explanation)), shown)
    axes.set_xlabel("time step", fontsize=8)
    axes.tick_params(labelsize=7, colors=INK, bottom=True)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return drawn


def plot_timeseries_attributions(
    explanations: Any,
    features: Sequence[str] | None = None,
    title: str | None = None,
    subtitles: Sequence[str] | None = None,
    filepath: str | PathLike | None = None,
    cmap: str | Colormap | None = None,
    colorbar: bool = False,
    clip_percentile: float | None = None,
    absolute_value: bool = False,
    cols: int = 5,
    img_size: float = 3.0,
    *,
    series: Any = None,
    figure: Figure | None = None,
    **plot_kwargs: Any,
) -> Figure:
    """Draw explanations of time series as a grid: a strip for each variable, time to the right.

    Zero is the middle of every colour scale, which reaches to the largest magnitude of the map.

    Parameters
    ----------
    explanations
        (N, T, W): of N series of T steps and W variables.
    features
        Names of the W variables. Default: their numbers.
    title
        A text above the grid.
    subtitles
        A text above each map.
    filepath
        A file that the picture is saved in as well.
    cmap
        A colour map of matplotlib or its name. Default: red above zero, blue below.
    colorbar
        Whether each map gets a bar with its values.
    clip_percentile
        The values of each map are cut at this percentile and at 100 minus it. Default: not cut.
    absolute_value
        Whether magnitudes are drawn.
    cols
        Most maps beside each other.
    img_size
        Width of one map, in inches.
    series
        (N, T, W): the explained series, drawn as lines over the maps.
    figure
        An empty figure to draw on. Default: a new one.
    **plot_kwargs
        Of matplotlib's ``imshow``: vmin, vmax, interpolation and aspect.

    Returns
    -------
    matplotlib.figure.Figure
        With one axes per map, and one per colour bar.

    Raises
    ------
    ValueError
        For NaN or infinite values, shapes and counts that do not fit, and colours that are none.
    TypeError
        For other arguments of ``imshow``.

    Examples
    --------
    >>> plot_timeseries_attributions(maps, ["load", "price"], series=series).savefig("maps.png")
    """
    settings = arguments_of_imshow(plot_kwargs)
    maps = as_maps(explanations)
    if maps.ndim != 3:
        raise ValueError(f"explanations must be (N, T, W). Received: shape {maps.shape}")
    maps = treated(maps, clip_percentile, absolute_value, normalize_value=False)
    series = one_per_map(series, len(maps), "series")
    subtitles = one_per_map(subtitles, len(maps), "subtitles")
    cols = min(whole_number("cols", cols), len(maps))
    nb_rows = -(-len(maps) // cols)
    if figure is None:
        height = (0.28 * maps.shape[2] + 0.9) * nb_rows
        figure = Figure(figsize=(img_size * cols, height), layout="constrained", dpi=150)
    alpha = None if cmap is None else 1.0
    for place, (one, lines, subtitle) in enumerate(zip(maps, series, subtitles, strict=True), 1):
        axes = figure.add_subplot(nb_rows, cols, place)
        drawn = draw_series(
            axes, lines, one, names=features, cmap=cmap, alpha=alpha, signed=True, **settings
        )
        axes.set_title(subtitle, fontsize=9)
        if colorbar:
            bar = figure.colorbar(drawn, ax=axes)
            bar.outline.set_visible(False)
            bar.ax.tick_params(length=0, labelsize=7, labelcolor=INK)
    if title is not None:
        figure.suptitle(title, fontsize=10)
    if filepath is not None:
        figure.savefig(filepath)
    return figure


def _draw_lines(axes: Axes, series: np.ndarray) -> None:
    """Of (W, T): each variable from its lowest to its highest value, on a strip of its own."""
    span = np.ptp(series, axis=1, keepdims=True)
    middle = (series.max(axis=1, keepdims=True) + series.min(axis=1, keepdims=True)) / 2
    # A strip is 1 high and its y axis points down; lines leave a tenth of it free on each side.
    lines = np.arange(len(series))[:, None] - 0.8 * (series - middle) / np.where(span > 0, span, 1)
    halo = Stroke(linewidth=2.5, foreground="white"), Normal()  # a dark line on dark colours
    axes.plot(lines.T, color=INK, linewidth=1, path_effects=halo)
