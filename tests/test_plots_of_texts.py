"""Pictures of texts: which words are drawn, on which colours, and what does not fit."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from xcertify.plots import plot_texts

TEXTS = [["a", "red", "", "apple"], ["wren"]]
VALUES = np.array([[0.0, 2.0, 9.0, -1.0, 5.0], [1.0, 0.0, 0.0, 0.0, 0.0]])


def drawn(figure):
    """The texts of a picture, from left to right and line by line."""
    found = sorted(figure.axes[0].texts, key=lambda text: text.get_position()[::-1])
    return [text.get_text() for text in found]


def colour(figure, word):
    (text,) = (text for text in figure.axes[0].texts if text.get_text() == word)
    return np.array(text.get_bbox_patch().get_facecolor())


def test_words_are_in_lines_and_on_the_colours_of_their_values():
    figure = plot_texts(VALUES, TEXTS, subtitles=["fruit", "bird"], signed=True, vmin=-2, vmax=2)
    assert drawn(figure) == ["fruit", "a", "red", "apple", "bird", "wren"]
    assert colour(figure, "a")[3] < 0.1  # 0 shows nothing
    red, apple = colour(figure, "red"), colour(figure, "apple")
    assert red[0] > red[2]
    assert apple[2] > apple[0]


def test_words_do_not_overlap(tmp_path):
    figure = plot_texts(VALUES[:, :4], TEXTS, filepath=tmp_path / "texts.png")
    renderer = FigureCanvasAgg(figure).get_renderer()
    words = [text for text in figure.axes[0].texts if text.get_text()]
    boxes = [word.get_window_extent(renderer) for word in words]
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)
    assert (tmp_path / "texts.png").stat().st_size > 1000


def test_vectors_count_by_their_sums():
    vectors = np.stack([VALUES / 2, VALUES / 2], axis=2)
    colours = [colour(plot_texts(values, TEXTS), "red") for values in (VALUES, vectors)]
    np.testing.assert_array_equal(*colours)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (VALUES[:1], r"must be \(N, T\)"),
        (VALUES[:, :3], "up to T = 4 words"),
        (np.where(VALUES == 9, np.nan, VALUES), "NaN or infinite values in sample 0"),
    ],
)
def test_values_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        plot_texts(values, TEXTS)
