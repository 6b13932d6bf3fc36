"""Explanations of texts: words on coloured ground."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from xcertify.plots.style import INK, colormap_of, is_signed, limits_of, one_per_map

_SIZE = 9.0  # points; a letter of a monospaced font is 0.6 as wide, a line of words 2.2 as high
_LETTER, _LINE = 0.602 * _SIZE / 72, 2.2 * _SIZE / 72  # inches
_BRIGHTNESS = np.array([0.3, 0.6, 0.1])  # of red, green and blue


def plot_texts(
    explanations: Any,
    texts: Sequence[Sequence[str]],
    *,
    subtitles: Sequence[str] | None = None,
    signed: bool | None = None,
    cmap: str | Colormap | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    filepath: str | PathLike | None = None,
) -> Figure:
    """Draw texts, each word on the colour of its explanation: a line for each text.

    Parameters
    ----------
    explanations
        (N, T): a value for each word; or (N, T, E), whose sums over E are.
    texts
        N lists of words. What is behind their ends, and empty words, is not drawn.
    subtitles
        A text at the left of each line, such as its class.
    signed
        Whether zero is the middle of the colour scale. None: where values on both sides say so.
    cmap
        A colour map of matplotlib or its name. Default: red above zero, blue below.
    vmin, vmax
        Ends of the colour scale. Default: those of each text.
    filepath
        A file that the picture is saved in as well.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Raises
    ------
    ValueError
        For values that do not fit the texts, and NaN or infinite ones.

    Examples
    --------
    >>> plot_texts(certificate.maps(), [text.split() for text in texts])
    """
    values = np.asarray(explanations, np.float64)
    values = values.sum(axis=2) if values.ndim == 3 else values
    longest = max((len(text) for text in texts), default=0)
    if values.ndim != 2 or len(values) != len(texts) or values.shape[1] < longest or not len(texts):
        raise ValueError(
            f"explanations must be (N, T) or (N, T, E), for N = {len(texts)} texts of up to "
            f"T = {longest} words. Received: shape {np.shape(explanations)}"
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"explanations have NaN or infinite values in sample "
            f"{int(np.argmin(np.isfinite(values).all(axis=1)))}"
        )
    names = [
        "" if name is None else name for name in one_per_map(subtitles, len(texts), "subtitles")
    ]
    margin = max(map(len, names)) + 2
    width = margin + max(sum(len(word) + 1 for word in text) for text in texts) + 1
    figure = Figure(figsize=(width * _LETTER, len(texts) * _LINE))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(len(texts) - 0.5, -0.5))
    axes.set_axis_off()
    font: dict[str, Any] = {"family": "monospace", "size": _SIZE, "va": "center"}
    for line, (name, text, own) in enumerate(zip(names, texts, values)):
        axes.text(0.5, line, name, color=INK, **font)
        own = own[: len(text)]
        is_both = is_signed(own) if signed is None else signed
        low, high = limits_of(own, is_both)
        scale = Normalize(low if vmin is None else vmin, high if vmax is None else vmax)
        colours = ScalarMappable(scale, colormap_of(is_both, cmap)).to_rgba(own)
        place: float = margin
        for word, colour in zip(text, colours):
            if word:
                box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
                is_dark = colour[3] * (1 - colour[:3] @ _BRIGHTNESS) > 0.5
                ink = "white" if is_dark else INK
                axes.text(place, line, word, bbox=box, color=ink, **font)
                place += len(word) + 1
    if filepath is not None:
        figure.savefig(filepath)
    return figure
