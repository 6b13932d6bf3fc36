"""Explanations of rows of tables: of one, and of many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from xcertify.checks import whole_number
from xcertify.plots.style import INK, NEGATIVE, POSITIVE, one_per_map, treated


def draw_intervals(
    axes: Axes, explanation: Any, lower: Any, upper: Any, *, names: Sequence[str] | None = None
) -> BarContainer:
    """Draw the explanation of a row of a table as bars, with a proved interval for each.

    Bars whose sign is proved are dark and full, the others pale and hatched.

    Parameters
    ----------
    axes
        Where to draw.
    explanation
        (W,), for example of a `xcertify.certificates.GradientCertificate`.
    lower
        (W,): its lower bounds.
    upper
        (W,): its upper bounds.
    names
        Of the features. Default: their numbers.

    Returns
    -------
    matplotlib.container.BarContainer
        The bars.

    Raises
    ------
    ValueError
        For shapes that do not fit.

    Examples
    --------
    >>> found = explainer.certify(rows)
    >>> draw_intervals(axes, found.explanation[0], found.lower[0], found.upper[0], names=columns)
    """
    explanation = _as_table(explanation, "explanation", 1)
    names = one_per_map(names, len(explanation), "names")
    interval = _interval(explanation, lower, upper)
    bars = _draw_bars(axes, explanation, interval, upright=True)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7, colors=INK)
    if names[0] is None:
        axes.set_xlabel("feature", fontsize=8)
    else:
        axes.set_xticks(range(len(explanation)), names, rotation=90)
    return bars


def plot_feature_impact(
    explanation: Any,
    features_name: Sequence[str] | None = None,
    features_value: Any = None,
    max_display: int | None = None,
    *,
    lower: Any = None,
    upper: Any = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw the explanation of one row of a table as bars, red above zero and blue below.

    With `lower` and `upper` each bar has the interval that is proved, and is pale and hatched where
    it does not prove the sign.

    Parameters
    ----------
    explanation
        (W,).
    features_name
        Names of the W columns. Default: "Feature 0" and so on.
    features_value
        The W values of the row, numbers or words, which are written beside the names.
    max_display
        How many features are drawn: those of the largest magnitude, the largest first. Default:
        all, in the order of the columns.
    lower
        (W,): lower bounds of the explanation, as of `xcertify.certificates.GradientCertificate`.
    upper
        (W,): upper bounds of the explanation.
    figure
        An empty figure to draw on. Default: a new one.

    Returns
    -------
    matplotlib.figure.Figure
        With one axes, features from top to bottom.

    Raises
    ------
    ValueError
        For shapes and counts that do not fit, and NaN or infinite values.

    Examples
    --------
    >>> plot_feature_impact(maps[0], columns, rows[0], max_display=10)
    >>> found = explainer.certify(rows[:1])
    >>> plot_feature_impact(
    ...     found.explanation[0], columns, lower=found.lower[0], upper=found.upper[0]
    ... )
    """
    explanation = _as_table(explanation, "explanation", 1)
    values = one_per_map(features_value, len(explanation), "features_value")
    names = [
        name if value is None else f"{name} = {_text(value)}"
        for name, value in zip(_names(features_name, len(explanation)), values)
    ]
    shown = _largest(np.abs(explanation), max_display)
    explanation, interval = explanation[shown], _interval(explanation, lower, upper)
    interval = None if interval is None else interval[:, shown]
    figure, axes = _new_axes(figure, (6.4, 0.26 * len(shown) + 0.9))
    _draw_bars(axes, explanation, interval, upright=False)
    drawn = explanation[None] if interval is None else np.stack([explanation, *interval])
    for place, (value, low, high) in enumerate(zip(explanation, drawn.min(0), drawn.max(0))):
        is_right = value >= 0
        axes.annotate(
            _text(value),
            (high if is_right else low, place),
            xytext=(4 if is_right else -4, 0),
            textcoords="offset points",
            ha="left" if is_right else "right",
            va="center",
            fontsize=7,
            color=INK,
        )
    axes.margins(x=0.15)
    axes.set_xlabel("attribution", fontsize=8)
    _name_rows(axes, [names[i] for i in shown], len(names))
    return figure


def plot_mean_feature_impact(
    explanations: Any,
    features_name: Sequence[str] | None = None,
    max_display: int | None = None,
    *,
    figure: Figure | None = None,
) -> Figure:
    """Draw the mean of explanations of rows of a table as bars.

    Values of opposite signs cancel in a mean; `summary_plot_tabular` shows each of them.

    Parameters
    ----------
    explanations
        (N, W).
    features_name
        Names of the W columns. Default: "Feature 0" and so on.
    max_display
        How many features are drawn: those whose mean has the largest magnitude. Default: all.
    figure
        An empty figure to draw on. Default: a new one.

    Returns
    -------
    matplotlib.figure.Figure
        As of `plot_feature_impact`.

    Raises
    ------
    ValueError
        For shapes and counts that do not fit, and NaN or infinite values.

    Examples
    --------
    >>> plot_mean_feature_impact(maps, columns, max_display=10)
    """
    mean = _as_table(explanations, "explanations", 2).mean(axis=0)
    figure = plot_feature_impact(mean, features_name, None, max_display, figure=figure)
    figure.axes[0].set_xlabel("mean attribution", fontsize=8)
    return figure


def summary_plot_tabular(
    explanations: Any,
    features_values: Any = None,
    features_name: Sequence[str] | None = None,
    max_display: int | None = None,
    cmap: str | Colormap = "viridis",
    clip_percentile: float | None = 1,
    alpha: float = 1,
    plot_size: float | tuple[float, float] | None = None,
    *,
    figure: Figure | None = None,
) -> Figure:
    """Draw every explanation of rows of a table: a line for each feature, a dot for each row.

    A dot lies where its attribution is, in the colour of the feature's value. Dots that would cover
    each other are put above and below the line.

    Parameters
    ----------
    explanations
        (N, W).
    features_values
        (N, W): the explained rows, as numbers. Default: all dots are grey.
    features_name
        Names of the W columns. Default: "Feature 0" and so on.
    max_display
        How many features are drawn: those of the largest mean magnitude, the largest first.
        Default: all, in the order of the columns.
    cmap
        A colour map of matplotlib or its name, from the lowest value of a feature to its highest.
    clip_percentile
        The values of each feature are cut at this percentile and at 100 minus it. None: not cut.
    alpha
        Opacity of the dots, from 0 to 1.
    plot_size
        Width and height of the picture, or the height of one line, in inches. Default: .4 a line.
    figure
        An empty figure to draw on. Default: a new one.

    Returns
    -------
    matplotlib.figure.Figure
        With one axes, features from top to bottom, and one for the colour bar where there are
        values.

    Raises
    ------
    ValueError
        For shapes, counts and sizes that do not fit, and NaN or infinite values.

    Examples
    --------
    >>> summary_plot_tabular(maps, rows, columns, max_display=10).savefig("summary.png")
    """
    explanations = _as_table(explanations, "explanations", 2)
    names = _names(features_name, explanations.shape[1])
    shown = _largest(np.abs(explanations).mean(axis=0), max_display)
    figure, axes = _new_axes(figure, _size(plot_size, len(shown)))
    colours: Any = ["slategrey"] * len(shown)
    if features_values is not None:
        values = _as_table(features_values, "features_values", 2)
        if values.shape != explanations.shape:
            raise ValueError(
                "features_values must have the shape of the explanations, "
                f"{explanations.shape}. Received: {values.shape}"
            )
        scale = ScalarMappable(cmap=cmap)
        scale.set_clim(0, 1)
        colours = [scale.to_rgba(own) for own in treated(values.T, clip_percentile, False, True)]
        colours = [colours[i] for i in shown]
    low, span = explanations[:, shown].min(), np.ptp(explanations[:, shown])
    for place, (feature, colour) in enumerate(zip(shown, colours)):
        own = explanations[:, feature]
        heights = place + _apart(np.round(100 * (own - low) / (span or 1)))
        axes.axhline(place, color="lightgrey", linewidth=0.5, zorder=0)
        axes.scatter(own, heights, s=12, c=colour, alpha=alpha, linewidth=0, rasterized=True)
    axes.set_xlabel("attribution", fontsize=8)
    _name_rows(axes, [names[i] for i in shown], len(names))
    if features_values is not None:
        bar = figure.colorbar(scale, ax=axes, aspect=40)
        bar.outline.set_visible(False)
        bar.set_ticks([0, 1], labels=["low", "high"])
        bar.set_label("value of the feature", fontsize=8, color=INK, labelpad=-8)
        bar.ax.tick_params(length=0, labelsize=8, labelcolor=INK)
    return figure


def _as_table(values: Any, name: str, rank: int) -> np.ndarray:
    """Finite numbers (W,) or (N, W), or a ValueError that names the argument."""
    values = np.asarray(values, np.float64)
    if values.ndim != rank or not values.size:
        shape = "(W,)" if rank == 1 else "(N, W)"
        raise ValueError(f"{name} must be {shape}. Received: shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite. Received: NaN or infinite values")
    return values


def _interval(explanation: np.ndarray, lower: Any, upper: Any) -> np.ndarray | None:
    """Both bounds (2, W), or None where there are none."""
    if lower is None and upper is None:
        return None
    if not np.shape(explanation) == np.shape(lower) == np.shape(upper):
        raise ValueError(
            f"explanation, lower and upper must be of one shape (W,). "
            f"Received: {np.shape(explanation)}, {np.shape(lower)}, {np.shape(upper)}"
        )
    return _as_table([lower, upper], "lower and upper", 2)


def _draw_bars(
    axes: Axes, explanation: np.ndarray, interval: np.ndarray | None, *, upright: bool
) -> BarContainer:
    """Bars, with whiskers over the intervals (2, W) where there are some."""
    places = np.arange(len(explanation))
    colours = [POSITIVE if value > 0 else NEGATIVE for value in explanation]
    draw = axes.bar if upright else axes.barh
    bars = draw(places, explanation, color=colours, edgecolor=INK, linewidth=0.6)
    if interval is None:
        return bars
    lower, upper = interval
    for bar, sure in zip(bars, (lower > 0) | (upper < 0)):
        if not sure:
            bar.set(alpha=0.35, hatch="///")
    reach = np.stack([explanation - lower, upper - explanation]).clip(min=0)
    whiskers: dict[str, Any] = {"fmt": "none", "ecolor": INK, "elinewidth": 1, "capsize": 3}
    if upright:
        axes.errorbar(places, explanation, yerr=reach, **whiskers)
    else:
        axes.errorbar(explanation, places, xerr=reach, **whiskers)
    return bars


def _apart(bins: np.ndarray) -> np.ndarray:
    """Heights around 0 for dots in bins: 0, one above, one below, two above, ..., within .4."""
    _, labels, counts = np.unique(bins, return_inverse=True, return_counts=True)
    order = np.argsort(labels, kind="stable")
    ranks = np.empty(len(bins), int)
    ranks[order] = np.arange(len(bins)) - np.repeat(np.cumsum(counts) - counts, counts)
    steps = (ranks + 1) // 2 * (-1) ** ranks
    return steps * min(0.14, 0.4 / max(1, np.abs(steps).max()))


def _names(names: Sequence[str] | None, nb_features: int) -> list[str]:
    given = one_per_map(names, nb_features, "features_name")
    return [f"Feature {n}" if name is None else str(name) for n, name in enumerate(given)]


def _largest(sizes: np.ndarray, max_display: int | None) -> np.ndarray:
    """The features that are drawn, in their order."""
    if max_display is None:
        return np.arange(len(sizes))
    return np.argsort(-sizes, kind="stable")[: whole_number("max_display", max_display)]


def _text(value: Any) -> str:
    if not np.issubdtype(np.asarray(value).dtype, np.number):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _size(plot_size: Any, nb_rows: int) -> tuple[float, float]:
    """Width and height, in inches."""
    both = (8, 0.4 if plot_size is None else plot_size) if np.ndim(plot_size) == 0 else plot_size
    if len(both) != 2 or not all(isinstance(v, (int, float)) and v > 0 for v in both):
        raise ValueError(
            "plot_size must be the height of a line, or (width, height), in inches. "
            f"Received: {plot_size!r}"
        )
    width, height = both
    return (width, height * nb_rows + 1) if np.ndim(plot_size) == 0 else (width, height)


def _new_axes(figure: Figure | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    if figure is None:
        figure = Figure(figsize=size, layout="constrained", dpi=150)
    return figure, figure.add_subplot()


def _name_rows(axes: Axes, names: list[str], nb_features: int) -> None:
    """Names from top to bottom, and how many features are left out."""
    axes.axvline(0, color=INK, linewidth=0.8, zorder=0.5)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.tick_params("y", length=0)
    if len(names) < nb_features:
        axes.set_title(f"the largest {len(names)} of {nb_features}", fontsize=8, color=INK)
