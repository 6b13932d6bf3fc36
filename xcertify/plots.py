"""Pictures of explanations.

Every function draws with matplotlib's objects alone (no pyplot, no global state) and returns what
it drew, so that a picture can be saved, shown, or changed further::

    figure = plot_attributions(maps, images)
    figure.savefig("maps.png")
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, Normalize
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.image import AxesImage
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator

_INK = "#444444"


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
    image = _pixels(image)
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
    (explanation,) = _maps([explanation])
    signed = _is_signed(explanation) if signed is None else signed
    scale = Normalize(*(limits or _limits(explanation, signed)))
    colormap = _colormap(signed)
    if explanation.ndim == 1:
        return _draw_bars(axes, explanation, ScalarMappable(scale, colormap))
    if image is not None:
        image = _pixels(image)
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
    axes.contour(places[1], places[0], chosen, levels=[0.5], colors=_INK, linewidths=1.2)


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
    names = _batch(names, len(explanation), "names")
    features = np.arange(len(explanation))
    proved = (lower > 0) | (upper < 0)
    colours = ["#c2381a" if value > 0 else "#2f55b8" for value in explanation]
    bars = axes.bar(features, explanation, color=colours, edgecolor=_INK, linewidth=0.6)
    for bar, sure in zip(bars, proved):
        if not sure:
            bar.set(alpha=0.35, hatch="///")
    reach = np.stack([explanation - lower, upper - explanation]).clip(min=0)
    axes.errorbar(features, explanation, reach, fmt="none", ecolor=_INK, elinewidth=1, capsize=3)
    axes.axhline(0, color=_INK, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7, colors=_INK)
    if names[0] is None:
        axes.set_xlabel("feature", fontsize=8)
    else:
        axes.set_xticks(features, names, rotation=90)
    return bars


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
    names = _batch(names, len(series), "names")
    drawn = draw_attribution(axes, explanation)
    span = np.ptp(series, axis=1, keepdims=True)
    middle = (series.max(axis=1, keepdims=True) + series.min(axis=1, keepdims=True)) / 2
    # A strip is 1 high and its y axis points down; lines leave a tenth of it free on each side.
    lines = np.arange(len(series))[:, None] - 0.8 * (series - middle) / np.where(span > 0, span, 1)
    halo = Stroke(linewidth=2.5, foreground="white"), Normal()  # a dark line on dark colours
    axes.plot(lines.T, color=_INK, linewidth=1, path_effects=halo)
    axes.set_aspect("auto")
    shown = [str(i) if name is None else name for i, name in enumerate(names)]
    axes.set_yticks(range(len(series)), shown)
    axes.set_xlabel("time step", fontsize=8)
    axes.tick_params(labelsize=7, colors=_INK, bottom=True)
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
    maps = _maps(explanations)
    images = _batch(images, len(maps), "images")
    titles = _batch(titles, len(maps), "titles")
    signed = _is_signed(maps)
    limits = _limits(maps, signed) if shared_scale else None
    nb_columns = min(nb_columns, len(maps))
    figure, grid = _grid(-(-len(maps) // nb_columns), nb_columns, size, figure)
    for index, (one, image, title) in enumerate(zip(maps, images, titles, strict=True)):
        axes = figure.add_subplot(grid[divmod(index, nb_columns)])
        drawn = draw_attribution(axes, one, image, limits=limits, signed=signed)
        axes.set_title(title, fontsize=9)
    _colour_bar(figure.add_subplot(grid[:, -1]), signed, drawn.norm if shared_scale else None)
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
    rows = {name: _maps(maps) for name, maps in explanations.items()}
    for maps in rows.values():
        _batch(maps, len(images), "maps")
    titles = _batch(titles, len(images), "titles")
    figure, grid = _grid(1 + len(rows), len(images), size, figure)
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(grid[0, column])
        draw_image(axes, image)
        axes.set_title(title, fontsize=9)
    for row, (name, maps) in enumerate(rows.items(), start=1):
        signed = _is_signed(maps)
        for column, (one, image) in enumerate(zip(maps, images, strict=True)):
            axes = figure.add_subplot(grid[row, column])
            draw_attribution(axes, one, image, signed=signed)
            if column == 0:
                axes.set_ylabel(textwrap.fill(name, 16, break_long_words=False), fontsize=9)
        _colour_bar(figure.add_subplot(grid[row, -1]), signed)
    return figure


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
    maps = np.stack([_maps(part) for part in parts], axis=1)
    signs = (maps[:, 1] > 0).astype(float) - (maps[:, 2] < 0)
    figure, grid = _grid(nb_samples, 5, size, figure)
    titles = ("input", "explanation", "lower bound", "upper bound", "proved signs")
    for row in range(nb_samples):
        limits = _limits(maps[row], signed=True)
        columns = [figure.add_subplot(grid[row, column]) for column in range(5)]
        draw_image(columns[0], certificate.inputs[row])
        for axes, one in zip(columns[1:4], maps[row]):
            drawn = draw_attribution(axes, one, limits=limits, signed=True)
        draw_attribution(columns[4], signs[row], limits=(-1, 1), signed=True)
        if row == 0:
            for axes, title in zip(columns, titles):
                axes.set_title(title, fontsize=9)
        _colour_bar(figure.add_subplot(grid[row, -1]), signed=True, scale=drawn.norm)
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


def plot_curves(
    results: Mapping[str, Mapping[str, Any]],
    *,
    nb_columns: int = 2,
    size: float = 3.2,
    figure: Figure | None = None,
) -> Figure:
    """Draw the mean curves of metrics: a panel for each metric, a line for each explainer.

    A metric whose values are intervals, such as `RobustnessSr` and `SufficientSize`, gets a band
    from the mean of what is proved to the mean of what was attacked: the true curve lies within it.

    Parameters
    ----------
    results
        Title of a panel -> name of an explainer -> its `xcertify.metrics.MetricResult`.
    nb_columns
        Most panels beside each other.
    size
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
    nb_columns = min(nb_columns, len(results))
    nb_rows = -(-len(results) // nb_columns)
    if figure is None:
        width = 1.3 * size * nb_columns + 2.8
        figure = Figure(figsize=(width, size * nb_rows), layout="constrained", dpi=150)
    lines = {}
    for place, (title, curves) in enumerate(results.items(), start=1):
        axes = figure.add_subplot(nb_rows, nb_columns, place)
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
        axes.tick_params(labelsize=7, colors=_INK)
        axes.spines[["top", "right"]].set_visible(False)
    wrapped = [textwrap.fill(name, 30) for name in lines]
    figure.legend(lines.values(), wrapped, loc="outside right center", fontsize=8, frameon=False)
    return figure


def _maps(explanations: Any) -> np.ndarray:
    maps = np.asarray(explanations, dtype=np.float64)
    if maps.ndim == 4 and maps.shape[-1] == 1:
        maps = maps[..., 0]
    if maps.ndim not in (2, 3) or maps.size == 0:
        raise ValueError(
            "explanations must be (N, H, W, 1), (N, H, W), (N, T, W) or (N, W), with at least one "
            f"map; reduce channels first. Received: shape {maps.shape}"
        )
    bad = ~np.isfinite(maps).reshape(len(maps), -1).all(axis=1)
    if bad.any():
        raise ValueError(f"explanations have NaN or infinite values in sample {bad.argmax()}")
    return maps


def _batch(values: Any, nb_maps: int, name: str) -> Any:
    if values is None:
        return [None] * nb_maps
    if len(values) != nb_maps:
        raise ValueError(f"{name} must be one per map, {nb_maps}. Received: {len(values)}")
    return values


def _pixels(image: Any) -> np.ndarray:
    pixels = np.asarray(image, dtype=np.float64)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 2 and pixels.shape[2:] != (3,):
        raise ValueError(
            f"an image must be (H, W), (H, W, 1) or (H, W, 3). Received: shape {np.shape(image)}"
        )
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:
        pixels = (pixels - low) / (high - low or 1)
    return pixels


def _is_signed(maps: np.ndarray) -> bool:
    return bool(-maps.min() > 0.05 * np.abs(maps).max())


def _limits(maps: np.ndarray, signed: bool) -> tuple[float, float]:
    low, high = maps.min(), maps.max()
    if signed:
        low, high = -np.abs(maps).max(), np.abs(maps).max()
    return (low, high) if low < high else (low, low + 1.0)  # a constant map says nothing


def _colormap(signed: bool) -> Colormap:
    """Transparent where a map says nothing, so that the input shows; darker the more it says.

    Blue is darker than red at the same strength, so that signs differ in grey too.
    """
    strength = np.linspace(0, 1, 256)
    if not signed:
        colours = colormaps["YlOrRd"](0.25 + 0.75 * strength)
        colours[:, 3] = np.minimum(strength / 0.6, 1)
        return ListedColormap(colours, "xcertify")
    blend = LinearSegmentedColormap.from_list(
        "", ["#0b1f66", "#2f55b8", "#c5d3f2", "#ffe3d3", "#f0743e", "#c2381a"]
    )
    colours = blend(strength)
    colours[:, 3] = np.minimum(np.abs(2 * strength - 1) / 0.5, 1)
    return ListedColormap(colours, "xcertify signed")


def _draw_bars(axes: Axes, explanation: np.ndarray, scale: ScalarMappable) -> ScalarMappable:
    features = np.arange(len(explanation))
    axes.bar(features, explanation, color=scale.to_rgba(explanation), edgecolor=_INK, linewidth=0.6)
    axes.axhline(0, color=_INK, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("feature", fontsize=8)
    axes.tick_params(labelsize=7, colors=_INK)
    return scale


def _grid(
    nb_rows: int, nb_columns: int, size: float, figure: Figure | None
) -> tuple[Figure, GridSpec]:
    """Equal cells, and a narrow last column for colour bars."""
    if figure is None:
        width, height = size * nb_columns + 0.9, size * nb_rows + 0.4
        figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    widths = [1] * nb_columns + [0.06]
    return figure, figure.add_gridspec(nb_rows, nb_columns + 1, width_ratios=widths)


def _colour_bar(axes: Axes, signed: bool, scale: Any = None) -> None:
    """Values if the maps share one scale, words if each has its own."""
    shown = ScalarMappable(scale or Normalize(-1 if signed else 0, 1), _colormap(signed))
    bar = axes.figure.colorbar(shown, cax=axes)
    bar.outline.set_visible(False)
    axes.tick_params(length=0, labelsize=8, labelcolor=_INK)
    if scale is None:
        names = ["negative", "0", "positive"] if signed else ["lowest", "highest"]
        bar.set_ticks([-1, 0, 1] if signed else [0, 1], labels=names)
