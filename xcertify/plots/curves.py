"""Pictures of metrics."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from xcertify.checks import whole_number
from xcertify.plots.style import INK


def plot_curves(
    results: Mapping[str, Mapping[str, Any]],
    *,
    cols: int = 2,
    img_size: float = 3.2,
    figure: Figure | None = None,
) -> Figure:
    """Draw the mean curves of metrics: a panel for each metric, a line for each explainer.

    A metric whose values are intervals, such as `RobustnessSr` and `SufficientSize`, gets a band
    from the mean of what is proved to the mean of what was attacked: the true curve lies within it.

    Parameters
    ----------
    results
        Title of a panel -> name of an explainer -> its `xcertify.metrics.MetricResult`.
    cols
        Most panels beside each other.
    img_size
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
    cols = min(whole_number("cols", cols), len(results))
    nb_rows = -(-len(results) // cols)
    if figure is None:
        width = 1.3 * img_size * cols + 2.8
        figure = Figure(figsize=(width, img_size * nb_rows), layout="constrained", dpi=150)
    lines = {}
    for place, (title, curves) in enumerate(results.items(), start=1):
        axes = figure.add_subplot(nb_rows, cols, place)
        for number, (name, result) in enumerate(curves.items()):
            style = ("-", "--", ":")[number % 3]  # lines differ without colour too
            (lines[name],) = axes.plot(
                result.axis, result.mean_curve, style, color=colours[name], linewidth=1.5
            )
            for other in ("certified_curves", "attacked_curves"):
                end = getattr(result, other, None)
                if end is not None:
                    axes.fill_between(
                        result.axis,
                        np.mean(end, axis=0),
                        result.mean_curve,
                        color=colours[name],
                        alpha=0.2,
                        linewidth=0,
                    )
            axes.set_xlabel(result.axis_label, fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7, colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
    wrapped = [textwrap.fill(name, 30) for name in lines]
    figure.legend(lines.values(), wrapped, loc="outside right center", fontsize=8, frameon=False)
    return figure
