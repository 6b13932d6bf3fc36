"""Pictures of which pixels are certified to be in the top set of a smoothed map, and which not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch

from xcertify.plots.maps import draw_attribution, draw_image
from xcertify.plots.style import INK, add_colour_bar, as_maps, new_grid

# Navy, orange and ivory: far from each other to all eyes, and in grey .13, .63 and .93.
CERTIFIED_IN, ABSTAINED, CERTIFIED_OUT = "#0b1f66", "#e8853a", "#f3eee0"
_OUT, _ABSTAINED, _IN = 0, 1, 2  # places in the colour map, which goes from light to dark
_COLOURS = ListedColormap([CERTIFIED_OUT, ABSTAINED, CERTIFIED_IN], "certified pixels")
_PLACES = BoundaryNorm([-0.5, 0.5, 1.5, 2.5], 3)


def draw_certified_pixels(axes: Axes, certified_in: Any, certified_out: Any) -> AxesImage:
    """Draw which pixels of one map are certified in, certified out, and abstained, on given axes.

    Parameters
    ----------
    axes
        Where to draw.
    certified_in, certified_out
        Bool, (H, W) or (H, W, 1) of an image, (T, W) of a time series, (W,) of a row of a table.

    Returns
    -------
    matplotlib.image.AxesImage
        Navy where certified in, ivory where certified out, orange where abstained.

    Raises
    ------
    ValueError
        If both are not of one such shape, or if both are true of a pixel.
    """
    inside, outside = np.asarray(certified_in, bool), np.asarray(certified_out, bool)
    if inside.shape != outside.shape or inside.ndim not in (1, 2, 3):
        raise ValueError(
            "certified_in and certified_out must be of one map, (H, W, 1), (H, W), (T, W) or (W,). "
            f"Received: {inside.shape} and {outside.shape}"
        )
    if (inside & outside).any():
        raise ValueError(
            "no pixel must be certified both in and out. "
            f"Received: {int((inside & outside).sum())} that are"
        )
    words = np.where(inside, _IN, np.where(outside, _OUT, _ABSTAINED))
    return _draw(axes, words, cmap=_COLOURS, norm=_PLACES)


def plot_certified_pixels(
    certificate: Any,
    explanations: Any = None,
    *,
    names: Sequence[str] | None = None,
    img_size: float = 1.7,
    figure: Figure | None = None,
) -> Figure:
    """Draw what `SmoothedAttribution` certifies: pixels in the top set, not in it, and abstained.

    Beside it the radius of each pixel, which does not end at that of the certificate.

    Parameters
    ----------
    certificate
        A `xcertify.certificates.SmoothedCertificate`.
    explanations
        What `SmoothedAttribution.explain` gave for its inputs: the shares of noisy maps in whose
        top set each pixel is, drawn as well. Default: not drawn.
    names
        Of the features of a table.
    img_size
        Height of one sample, in inches.
    figure
        An empty figure to draw on. Default: a new one.

    Returns
    -------
    matplotlib.figure.Figure
        Of images and series a row for each: input, shares if there are any, the three answers in
        navy, orange and ivory, told apart in grey as well, with their shares below; the radii, and
        their colour bar, which all rows share. Of tables one row of axes, where each sample is a
        line of squares.

    Raises
    ------
    ValueError
        For explanations of another shape than the certified maps.

    Examples
    --------
    >>> explainer = SmoothedAttribution(Saliency(model), sigma=0.15, top=0.2)
    >>> plot_certified_pixels(explainer.certify(images), explainer.explain(images))
    """
    inside, outside = certificate.certified_in, certificate.certified_out
    radii, inputs = np.asarray(certificate.radii), np.asarray(certificate.region.center)
    if explanations is not None and np.shape(explanations) != inside.shape:
        raise ValueError(
            f"explanations must be those of the certified maps, {inside.shape}. "
            f"Received: {np.shape(explanations)}"
        )
    scale = Normalize(0, float(radii.max(initial=0)) or 1.0)
    if inside.ndim == 2:
        return _plot_table(certificate, explanations, scale, names, img_size, figure)
    is_drawn = inputs.ndim == 3 or (inputs.ndim == 4 and inputs.shape[-1] in (1, 3))
    titles = ["input"] * is_drawn + ["share of maps"] * (explanations is not None)
    titles += ["certified", "radius of each pixel"]
    figure, grid = new_grid(len(inside), len(titles), img_size, figure)
    for row in range(len(inside)):
        columns = [figure.add_subplot(grid[row, column]) for column in range(len(titles))]
        left = iter(columns)
        if is_drawn and inputs.ndim == 4:
            draw_image(next(left), inputs[row])
        elif is_drawn:
            _draw(next(left), inputs[row], cmap="gray")
        if explanations is not None:
            _draw_shares(next(left), as_maps(explanations)[row])
        axes = next(left)
        draw_certified_pixels(axes, inside[row], outside[row])
        axes.set_xlabel(_shares(inside[row], outside[row]), fontsize=7, color=INK)
        drawn = _draw_radii(next(left), radii[row], scale)
        if row == 0:
            for axes, title in zip(columns, titles):
                axes.set_title(title, fontsize=9)
    add_colour_bar(figure.add_subplot(grid[:, -1]), drawn, signed=False, is_shared=True)
    return _with_legend(figure, certificate)


def _plot_table(
    certificate: Any,
    explanations: Any,
    scale: Normalize,
    names: Sequence[str] | None,
    img_size: float,
    figure: Figure | None,
) -> Figure:
    """Samples as lines of squares, features as columns."""
    inside, radii = certificate.certified_in, certificate.radii
    titles = ["share of maps"] * (explanations is not None) + ["certified", "radius of each"]
    if figure is None:
        width = (max(0.25 * inside.shape[1], img_size) + 0.5) * len(titles) + 0.9
        height = 0.25 * len(inside) + 0.6 * img_size + 0.5
        figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    grid = figure.add_gridspec(1, len(titles) + 1, width_ratios=[1] * len(titles) + [0.06])
    columns = [figure.add_subplot(grid[0, column]) for column in range(len(titles))]
    if explanations is not None:
        _draw_shares(columns[0], np.asarray(explanations, np.float64))
    draw_certified_pixels(columns[-2], inside, certificate.certified_out)
    drawn = _draw_radii(columns[-1], radii, scale)
    for axes, title in zip(columns, titles):
        axes.set_title(title, fontsize=9)
        if names is not None:
            axes.set_xticks(range(inside.shape[1]), names, rotation=90, fontsize=7, color=INK)
            axes.tick_params(length=0)
    columns[0].set_yticks(range(len(inside)), map(str, range(len(inside))), fontsize=7, color=INK)
    columns[0].tick_params(length=0)
    columns[0].set_ylabel("sample", fontsize=7, color=INK)
    add_colour_bar(figure.add_subplot(grid[0, -1]), drawn, signed=False, is_shared=True)
    return _with_legend(figure, certificate)


def _draw(axes: Axes, values: np.ndarray, **colours: Any) -> AxesImage:
    """Values (H, W[, 1]), or (W,) as one line; what is no square grid fills its axes."""
    rows = np.atleast_2d(values[..., 0] if values.ndim == 3 else values)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(linewidth=0.5, color=INK)
    is_slender = not 1 / 3 <= rows.shape[0] / rows.shape[1] <= 3
    drawn = axes.imshow(rows, interpolation="nearest", **colours)
    axes.set_aspect("auto" if is_slender else "equal")
    return drawn


def _draw_shares(axes: Axes, shares: np.ndarray) -> ScalarMappable:
    axes.spines[:].set(linewidth=0.5, color=INK)
    return draw_attribution(axes, shares, vmin=0, vmax=1, signed=False)


def _draw_radii(axes: Axes, radii: np.ndarray, scale: Normalize) -> AxesImage:
    """Radii, white where there is none; darker is more, as it is of the other colours."""
    shown = np.ma.masked_equal(np.asarray(radii, np.float64), 0)
    return _draw(axes, shown, cmap="Greens", norm=scale)


def _shares(inside: np.ndarray, outside: np.ndarray) -> str:
    shares = inside.mean(), outside.mean(), 1 - inside.mean() - outside.mean()
    return "in {:.0%}, out {:.0%}, abstained {:.0%}".format(*np.abs(shares))


def _with_legend(figure: Figure, certificate: Any) -> Figure:
    """What the colours mean, and of which inputs and how surely it holds."""
    top = f"top {100 * certificate.top:.3g} %"
    colours = (CERTIFIED_IN, ABSTAINED, CERTIFIED_OUT)
    words = (f"certified in the {top}", "abstained: nothing is said", f"certified not in the {top}")
    if figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained")
    legend = figure.legend(
        [Patch(facecolor=colour, edgecolor=INK, linewidth=0.5) for colour in colours],
        words,
        loc="outside lower center",
        ncols=len(words),
        fontsize=7,
        frameon=False,
        handlelength=1.0,
        handleheight=1.0,
        columnspacing=1.2,
        title=(
            f"of the smoothed map, for every input within l2 {certificate.radius:.3g}; "
            f"{certificate.describe_level()}"
        ),
        title_fontsize=7,
    )
    legend.get_title().set_color(INK)
    return figure
