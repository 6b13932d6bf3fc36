"""Pictures of metrics."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xcertify.checks import whole_number
from xcertify.plots.style import INK

_BESIDE = 0.07  # of the distance of two points, between the bars of two explainers


def plot_curves(
    results: Mapping[str, Mapping[str, Any]],
    *,
    cols: int = 2,
    img_size: float = 3.2,
    sample: int | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw the mean curves of metrics: a panel for each metric, a line for each explainer.

    A metric whose values are intervals, such as `RobustnessSr` and `SufficientSize`, gets a band
    from the mean of what is proved to the mean of what was attacked: the true curve lies within it.
    One whose values are estimates, such as `Stability`, gets the confidence bars that its result
    states. Of `ProbableSize` the line is the share of inputs that is certified at each size, and a
    thin one with crosses the share without a known counterexample.

    Parameters
    ----------
    results
        Title of a panel -> name of an explainer -> its `xcertify.metrics.MetricResult`.
    cols
        Most panels beside each other.
    img_size
        Height of one panel, in inches.
    sample
        Draws the curve of this input alone, with its own bars. Default: the mean of all.
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
    lines: dict[str, Line2D] = {}
    for place, (title, curves) in enumerate(results.items(), start=1):
        axes = figure.add_subplot(nb_rows, cols, place)
        for number, (name, result) in enumerate(curves.items()):
            style = ("-", "--", ":")[number % 3]  # lines differ without colour too
            drawn = {"linestyle": style, "color": colours[name]}
            lines[name], *others = _draw_curve(axes, result, sample, number, drawn)
            lines |= {str(line.get_label()): line for line in others}
            axes.set_xlabel(result.axis_label, fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7, colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
    wrapped = [textwrap.fill(name, 30) for name in lines]
    figure.legend(lines.values(), wrapped, loc="outside right center", fontsize=8, frameon=False)
    return figure


def _draw_curve(
    axes: Axes, result: Any, sample: int | None, number: int, drawn: dict[str, Any]
) -> list[Line2D]:
    """The line of one explainer with its bars or bands; behind it, others for the legend."""

    def one(curves: Any) -> np.ndarray:
        return np.mean(curves, axis=0) if sample is None else np.asarray(curves)[sample]

    curve = result.mean_curve if sample is None else result.curves[sample]
    bars = _bars(result, sample)
    if bars is None:
        found = axes.plot(result.axis, curve, linewidth=1.5, **drawn)
    else:
        step = np.ptp(result.axis) / max(1, len(result.axis) - 1)
        moved = result.axis + _BESIDE * number * step  # so that no bar hides another one
        below, above = bars
        made = axes.errorbar(
            moved,
            curve,
            np.maximum([curve - below, above - curve], 0),
            marker="o",
            markersize=2.5,
            linewidth=1.2,
            elinewidth=0.9,
            capsize=2,
            **drawn,
        )
        found = [made.lines[0]]
    for other in ("certified_curves", "attacked_curves"):
        end = getattr(result, other, None)
        if end is not None:
            axes.fill_between(
                result.axis, one(end), curve, color=drawn["color"], alpha=0.2, linewidth=0
            )
    unrefuted = getattr(result, "unrefuted_curves", None)
    if unrefuted is not None:
        thin = drawn | {"linewidth": 0.7, "marker": "x", "markersize": 3}
        axes.plot(result.axis, one(unrefuted), **thin)
        found.append(Line2D([], [], **thin | {"color": INK}, label="x: no counterexample known"))
    return found


def _bars(result: Any, sample: int | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Ends of the confidence bars (P,) of a mean curve, or of that of one sample; None without."""
    if sample is not None:
        lower, upper = getattr(result, "lower", None), getattr(result, "upper", None)
        if lower is None or upper is None:
            return None
        return lower[sample], upper[sample]
    error = getattr(result, "mean_error", None)
    if error is None:
        return None
    return np.clip(result.mean_curve - error, 0, 1), np.clip(result.mean_curve + error, 0, 1)
