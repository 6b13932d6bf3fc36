"""Pictures of what is proved of explanations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from xcertify.plots.grids import plot_attributions
from xcertify.plots.maps import draw_attribution, draw_cells, draw_image
from xcertify.plots.style import add_colour_bar, as_maps, limits_of, new_grid
from xcertify.plots.tables import draw_intervals


def plot_gradient_certificate(
    certificate: Any,
    *,
    names: Sequence[str] | None = None,
    img_size: float = 1.5,
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
    img_size
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
                figsize=(
                    max(4, 0.25 * certificate.explanation.shape[1]),
                    1.6 * img_size * nb_samples,
                ),
                layout="constrained",
                dpi=150,
            )
        for number, arrays in enumerate(zip(*parts)):
            axes = figure.add_subplot(nb_samples, 1, number + 1)
            draw_intervals(axes, *arrays, names=names)
        return figure
    maps = np.stack([as_maps(part) for part in parts], axis=1)
    signs = (maps[:, 1] > 0).astype(float) - (maps[:, 2] < 0)
    figure, grid = new_grid(nb_samples, 5, img_size, figure)
    titles = ("input", "explanation", "lower bound", "upper bound", "proved signs")
    for row in range(nb_samples):
        vmin, vmax = limits_of(maps[row], signed=True)
        columns = [figure.add_subplot(grid[row, column]) for column in range(5)]
        draw_image(columns[0], certificate.inputs[row])
        for axes, one in zip(columns[1:4], maps[row]):
            drawn = draw_attribution(axes, one, vmin=vmin, vmax=vmax, signed=True)
        draw_attribution(columns[4], signs[row], vmin=-1, vmax=1, signed=True)
        if row == 0:
            for axes, title in zip(columns, titles):
                axes.set_title(title, fontsize=9)
        add_colour_bar(figure.add_subplot(grid[row, -1]), drawn, signed=True, is_shared=True)
    return figure


def plot_top_k(
    certificate: Any,
    explanations: Any,
    images: Any,
    *,
    cols: int = 5,
    img_size: float = 2.0,
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
    cols
        Most maps beside each other.
    img_size
        Width and height of one map, in inches.
    figure
        An empty figure to draw on. Default: a new one.

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
        explanations, images, titles=titles, cols=cols, img_size=img_size, figure=figure
    )
    for axes, cells, image in zip(figure.axes, certificate.cells, images):
        draw_cells(axes, cells, certificate.map_shape, np.shape(image))
    return figure
