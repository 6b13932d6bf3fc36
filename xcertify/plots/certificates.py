"""Pictures of what is proved of explanations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from xcertify.plots.maps import draw_attribution, draw_cells, draw_image, plot_attributions
from xcertify.plots.style import INK, add_colour_bar, as_maps, limits_of, new_grid, one_per_map


def draw_intervals(
    axes: Axes, explanation: Any, lower: Any, upper: Any, *, names: Sequence[str] | None = None
) -> BarContainer:
    """Draw the explanation of a row of a table as bars, with a proved interval for each.

    Bars whose sign is proved are dark and full, the others pale and hatched.

    Parameters
    ----------
    axes
        Where to draw.
    explanation, lower, upper
        (W,), for example of a `xcertify.certificates.GradientCertificate`.
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
    explanation, lower, upper = (np.asarray(v, np.float64) for v in (explanation, lower, upper))
    if not explanation.shape == lower.shape == upper.shape == explanation.shape[:1]:
        raise ValueError(
            f"explanation, lower and upper must be of one shape (W,). "
            f"Received: {explanation.shape}, {lower.shape}, {upper.shape}"
        )
    names = one_per_map(names, len(explanation), "names")
    features = np.arange(len(explanation))
    proved = (lower > 0) | (upper < 0)
    colours = ["#c2381a" if value > 0 else "#2f55b8" for value in explanation]
    bars = axes.bar(features, explanation, color=colours, edgecolor=INK, linewidth=0.6)
    for bar, sure in zip(bars, proved):
        if not sure:
            bar.set(alpha=0.35, hatch="///")
    reach = np.stack([explanation - lower, upper - explanation]).clip(min=0)
    axes.errorbar(features, explanation, reach, fmt="none", ecolor=INK, elinewidth=1, capsize=3)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7, colors=INK)
    if names[0] is None:
        axes.set_xlabel("feature", fontsize=8)
    else:
        axes.set_xticks(features, names, rotation=90)
    return bars


def plot_gradient_certificate(
    certificate: Any,
    *,
    names: Sequence[str] | None = None,
    size: float = 1.5,
    figure: Figure | None = None,
) -> Figure:
    """Draw what `CertifiedGradient` proves: explanation, lower and upper bound, proved signs.

    Parameters
    ----------
    certificate
        A `xcertify.certificates.GradientCertificate`. Of images, channels are averaged: the means
        of the bounds are bounds of the mean. Of tables, each sample is drawn as bars with
        intervals; see `draw_intervals`.
    names
        Of the features of a table.
    size
        Height of one sample, in inches.
    figure
        An empty figure to draw on. Default: a new one.

    Returns
    -------
    matplotlib.figure.Figure
        A row for each sample: input, explanation, lower, upper, signs (red and blue; white: not
        proved) and a colour bar, which the middle three share. Of tables: one axes for each sample.

    Examples
    --------
    >>> plot_gradient_certificate(explainer.certify(images[:3])).savefig("certificate.png")
    """
    parts = (certificate.explanation, certificate.lower, certificate.upper)
    nb_samples = len(certificate.explanation)
    if certificate.explanation.ndim == 2:
        if figure is None:
            figure = Figure(
                figsize=(max(4, 0.25 * certificate.explanation.shape[1]), 1.6 * size * nb_samples),
                layout="constrained",
                dpi=150,
            )
        for number, arrays in enumerate(zip(*parts)):
            axes = figure.add_subplot(nb_samples, 1, number + 1)
            draw_intervals(axes, *arrays, names=names)
        return figure
    if certificate.explanation.ndim == 4:
        parts = tuple(part.mean(axis=-1) for part in parts)
    maps = np.stack([as_maps(part) for part in parts], axis=1)
    signs = (maps[:, 1] > 0).astype(float) - (maps[:, 2] < 0)
    figure, grid = new_grid(nb_samples, 5, size, figure)
    titles = ("input", "explanation", "lower bound", "upper bound", "proved signs")
    for row in range(nb_samples):
        limits = limits_of(maps[row], signed=True)
        columns = [figure.add_subplot(grid[row, column]) for column in range(5)]
        draw_image(columns[0], certificate.inputs[row])
        for axes, one in zip(columns[1:4], maps[row]):
            drawn = draw_attribution(axes, one, limits=limits, signed=True)
        draw_attribution(columns[4], signs[row], limits=(-1, 1), signed=True)
        if row == 0:
            for axes, title in zip(columns, titles):
                axes.set_title(title, fontsize=9)
        add_colour_bar(figure.add_subplot(grid[row, -1]), signed=True, scale=drawn.norm)
    return figure


def plot_top_k(
    certificate: Any,
    explanations: Any,
    images: Any,
    *,
    nb_columns: int = 6,
    size: float = 1.8,
    figure: Figure | None = None,
) -> Figure:
    """Draw class activation maps with the outline of their top k cells and the proved radius.

    Parameters
    ----------
    certificate
        What `CORGI.certify` returned for these images.
    explanations
        Maps of the size of the images, (N, H, W, 1), as `CORGI.explain` gives them.
    images
        (N, H, W, C).
    nb_columns, size, figure
        As for `plot_attributions`.

    Returns
    -------
    matplotlib.figure.Figure
        As of `plot_attributions`; above each map the interval in which the largest radius lies
        within which these cells stay the top k, from proved to attacked.

    Examples
    --------
    >>> plot_top_k(explainer.certify(images), explainer.explain(images), images)
    """
    attacked = certificate.attacked
    titles = [f"[{r:.2g}, {'?' if attacked is None else format(attacked[i], '.2g')}]"
              for i, r in enumerate(certificate.radius)]  # fmt: skip
    figure = plot_attributions(
        explanations, images, titles=titles, nb_columns=nb_columns, size=size, figure=figure
    )
    for axes, cells, image in zip(figure.axes, certificate.cells, images):
        draw_cells(axes, cells, certificate.map_shape, np.shape(image))
    return figure
