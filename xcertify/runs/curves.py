"""The picture of what is proved of a run beside what attacks attained."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure

from xcertify.plots.style import INK, NEGATIVE, POSITIVE
from xcertify.runs.proved import Headline, Rows

_POINTS = 240


def curves(rows: Rows, headline: Headline) -> bytes | None:
    """An SVG: the share of inputs against the quantity, as it is proved and as it is attacked.

    Of a radius, the share of inputs whose radius is at least so large; of a bound, the share whose
    bound is at most so large. The truth lies between the two lines. None where nothing is finite.

    Parameters
    ----------
    rows
        The numbers of the run.
    headline
        What they mean.
    """
    certified = rows.certified[~np.isnan(rows.certified)]
    attacked = rows.attacked[~np.isnan(rows.attacked)]
    finite = np.concatenate([certified, attacked])
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return None
    low, high = np.percentile(finite, [0 if headline.grows else 1, 99])
    low = 0.0 if headline.grows else low
    margin = 0.05 * ((high - low) or abs(high) or 1.0)
    axis = np.linspace(low if headline.grows else low - margin, high + margin, _POINTS)
    figure = Figure((4.3, 2.9), layout="constrained")
    axes = figure.add_subplot()
    proved = _shares(certified, axis, headline.grows)
    axes.plot(axis, proved, color=NEGATIVE, linewidth=1.8, label=headline.word)
    if len(attacked):
        reached = _shares(attacked, axis, headline.grows)
        axes.plot(axis, reached, "--", color=POSITIVE, linewidth=1.8, label=rows.how)
        if len(attacked) == len(certified):
            axes.fill_between(axis, proved, reached, color="#999999", alpha=0.2, linewidth=0)
    if headline.below is not None and axis[0] < headline.below < axis[-1]:
        axes.axvline(headline.below, color=INK, linewidth=0.8)
    axes.set_xlabel(headline.quantity, fontsize=9, color=INK)
    side = "at least" if headline.grows else "at most"
    axes.set_ylabel(f"share of inputs with {side} this", fontsize=9, color=INK)
    axes.set_ylim(-0.03, 1.03)
    axes.tick_params(labelsize=9, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _shares(values: np.ndarray, axis: np.ndarray, grows: bool) -> np.ndarray:
    """The share of values that are at least (or at most) each number of the axis."""
    ordered = np.sort(values)
    if grows:
        return 1 - np.searchsorted(ordered, axis, side="left") / len(values)
    return np.searchsorted(ordered, axis, side="right") / len(values)
