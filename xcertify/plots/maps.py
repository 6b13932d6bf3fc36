"""One explanation over its input, drawn on given axes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.image import AxesImage

from xcertify.plots.style import INK, as_maps, as_pixels, colormap_of, is_signed, limits_of


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
    image = as_pixels(image)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def draw_attribution(
    axes: Axes,
    explanation: Any,
    image: Any = None,
    *,
    cmap: str | Colormap | None = None,
    alpha: float | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    signed: bool | None = None,
    interpolation: str = "nearest",
    aspect: Literal["equal", "auto"] | float | None = None,
) -> ScalarMappable:
    """Draw one explanation on the given axes.

    Without `cmap` and `alpha` the image is pale grey, and the map over it is transparent where it
    is 0 and darker the more it says. With one of them the picture is that of Xplique's
    `plot_attribution`: the image in its colours, and over it the map in one opacity.

    Parameters
    ----------
    axes
        Where to draw.
    explanation
        Map of an image, (H, W) or (H, W, C), of which the mean over channels is drawn; of a time
        series, (T, W), drawn with time downwards; of a row of a table, (W,), drawn as bars.
    image
        The explained image, (H, W), (H, W, 1) or (H, W, 3), drawn under the map.
    cmap
        A colour map of matplotlib or its name. Default: the own one; "viridis" with `alpha`.
    alpha
        Opacity of the map, from 0 to 1. Default: by its values; .5 with `cmap`.
    vmin
        Lowest value of the colour scale. Default: that of the map; of a signed map, -m with m its
        largest magnitude.
    vmax
        Highest value of the colour scale. Default: that of the map; of a signed map, m.
    signed
        Whether zero is the middle of the scale; in the own colours, red above and blue below.
        Default: whether a negative value reaches 5 % of the largest magnitude, and False with
        `cmap` or `alpha`.
    interpolation
        Between pixels, as matplotlib's ``imshow`` takes it.
    aspect
        As ``imshow`` takes it. Default: square pixels; "auto" for slender maps without an image.

    Returns
    -------
    matplotlib.cm.ScalarMappable
        Carries the colour scale, as ``figure.colorbar`` wants it; for all but bars it is the drawn
        `matplotlib.image.AxesImage`.

    Raises
    ------
    ValueError
        For a map with NaN or infinite values, shapes that do not fit, and colours that are none.

    Examples
    --------
    >>> draw_attribution(axes, maps[0], images[0])
    >>> draw_attribution(axes, maps[0], images[0], cmap="jet", alpha=0.4)
    """
    (explanation,) = as_maps([explanation])
    is_own = cmap is None and alpha is None
    if signed is None:
        signed = is_own and is_signed(explanation)
    low, high = limits_of(explanation, signed)
    scale = Normalize(low if vmin is None else vmin, high if vmax is None else vmax)
    colormap = colormap_of(signed, cmap, alpha)
    if explanation.ndim == 1:
        return _draw_bars(axes, explanation, ScalarMappable(scale, colormap))
    if image is not None:
        image = as_pixels(image)
        if image.shape[:2] != explanation.shape:
            raise ValueError(
                "an image and its map must have one height and width: for coarse maps write "
                "tf.image.resize(maps, images.shape[1:3]). "
                f"Received: {image.shape[:2]} and {explanation.shape}"
            )
        draw_image(axes, _pale(image) if is_own else image)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(image is None)
    if aspect is None:
        slender = not 1 / 4 <= explanation.shape[0] / explanation.shape[1] <= 4
        aspect = "auto" if slender and image is None else "equal"
    return axes.imshow(
        explanation, cmap=colormap, norm=scale, interpolation=interpolation, aspect=aspect
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
    axes.contour(places[1], places[0], chosen, levels=[0.5], colors=INK, linewidths=1.2)


def draw_targeted(
    axes: Axes,
    positive: Any,
    negative: Any,
    image: Any = None,
    **settings: Any,
) -> ScalarMappable:
    """Draw a targeted explanation: red where adding to a feature counts, blue where taking away.

    Each feature has the colour of the larger of its two values; both maps share one scale.

    Parameters
    ----------
    axes
        Where to draw.
    positive
        The map of adding for one sample, (H, W) or (H, W, 1), as `EVA.explain_targeted` gives it.
    negative
        The map of taking away, of the same shape.
    image
        The explained image, as for `draw_attribution`.
    **settings
        Of `draw_attribution`: cmap, alpha, vmin, vmax, interpolation and aspect.

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
    return draw_attribution(axes, merged, image, signed=True, **settings)


def _pale(pixels: np.ndarray) -> np.ndarray:
    grey = pixels if pixels.ndim == 2 else pixels @ (0.299, 0.587, 0.114)  # luma of ITU-R BT.601
    return 0.75 + 0.25 * grey


def _draw_bars(axes: Axes, explanation: np.ndarray, scale: ScalarMappable) -> ScalarMappable:
    features = np.arange(len(explanation))
    axes.bar(features, explanation, color=scale.to_rgba(explanation), edgecolor=INK, linewidth=0.6)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("feature", fontsize=8)
    axes.tick_params(labelsize=7, colors=INK)
    return scale
