"""One input of a run and its map as a picture: images, bars of tables, lines of series."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from xcertify.plots import draw_attribution, draw_image, draw_series, plot_feature_impact

if TYPE_CHECKING:
    from xcertify.runs.folder import Run

_LAST_LETTER = 0x500  # Latin, Greek and Cyrillic: what the font of every installation has
_MOST_LETTERS = 20
_MOST_FEATURES = 10


class Input(NamedTuple):
    """An input of a run; None what cannot be read any more.

    Attributes
    ----------
    given
        Of the source's shape.
    name
        Of its file.
    feature_names
        Of a table.
    """

    given: np.ndarray | None = None
    name: str | None = None
    feature_names: Sequence[str] | None = None


def input_of(run: Run, number: int) -> Input:
    """An input of a run by its number; without anything where its data has moved."""
    try:
        source = run.source()
        batch = source.read(number, number + 1)
    except (OSError, ValueError, ImportError):
        return Input()
    return Input(batch.inputs[0], batch.names[0], source.feature_names)


def draw_map(axes: Axes, explanation: np.ndarray, given: Any) -> None:
    """Draw a map on axes: over its image, behind its series, or as bars.

    Parameters
    ----------
    axes
        Where to draw.
    explanation
        (H, W, C), (T, W) or (W,).
    given
        The input, or None where it cannot be read.
    """
    if explanation.ndim == 2:
        draw_series(axes, given, explanation)
    elif explanation.ndim == 3:
        draw_attribution(axes, explanation, image_under(explanation, given))
    else:
        draw_attribution(axes, explanation)


def image_under(explanation: np.ndarray, given: Any) -> np.ndarray | None:
    """The image of a map with its channels last, None where it cannot be drawn under it."""
    if given is None or np.ndim(given) != 3:
        return None
    image = np.asarray(given)
    size = explanation.shape[:2]
    if image.shape[:2] != size and image.shape[1:] == size:
        image = np.moveaxis(image, 0, -1)
    fits = image.shape[:2] == size and image.shape[2] in (1, 3) and np.isfinite(image).all()
    return image if fits else None


def is_drawn(shape: Sequence[int]) -> bool:
    """Whether there are pictures of maps of this shape."""
    return 1 <= len(shape) <= 3 and all(shape)


def picture(explanation: np.ndarray, given: Any, names: Sequence[str] | None = None) -> bytes:
    """A PNG of one map, beside its input where that is an image.

    Parameters
    ----------
    explanation, given
        As for `draw_map`.
    names
        Of the features of a table or the variables of a series.
    """
    names = None if names is None else [plain(name) for name in names]
    if explanation.ndim == 1:
        values = None if given is None else np.asarray(given, np.float64)
        if values is not None and not np.isfinite(values).all():
            values = None
        figure = plot_feature_impact(explanation, names, values, _MOST_FEATURES)
        figure.axes[0].margins(x=0.3)
        figure.set_size_inches(4.2, 0.26 * min(len(explanation), _MOST_FEATURES) + 0.9)
    elif explanation.ndim == 2:
        figure = Figure((4.2, min(0.28 * explanation.shape[1] + 0.9, 6)), layout="constrained")
        draw_series(figure.add_subplot(), given, explanation, names=names)
    else:
        image = image_under(explanation, given)
        columns = 1 if image is None else 2
        figure = Figure((1.6 * columns, 1.6), layout="constrained")
        if image is not None:
            draw_image(figure.add_subplot(1, 2, 1), image)
        draw_map(figure.add_subplot(1, columns, columns), explanation, given)
    return as_png(figure)


def as_png(figure: Figure, dpi: int = 150) -> bytes:
    """The bytes of a PNG file, small ones: of 256 colours."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(256).save(small, format="png", optimize=True)
    return small.getvalue()


def plain(text: Any) -> str:
    """A name as it can be written in a picture: short, no formula, in letters of any font."""
    text = str(text)
    text = "".join(c if c.isprintable() and ord(c) < _LAST_LETTER else "?" for c in text)
    if len(text) > _MOST_LETTERS:
        text = text[: _MOST_LETTERS - 1] + "…"
    return text.replace("$", r"\$")
