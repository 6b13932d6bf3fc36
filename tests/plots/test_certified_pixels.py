"""Certified in, certified out and abstained: colours that are told apart, in grey as well."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from xcertify.plots import draw_certified_pixels, plot_certified_pixels
from xcertify.plots.certified_pixels import ABSTAINED, CERTIFIED_IN, CERTIFIED_OUT
from xcertify.regions import Ball

COLOURS = (CERTIFIED_IN, ABSTAINED, CERTIFIED_OUT)
RANDOM = np.random.default_rng(0)


def made(shape, channels=1):
    """What a certificate says of two inputs of this shape: the first and the second pixel."""
    inputs = RANDOM.random((2, *shape, channels) if len(shape) == 2 else (2, *shape))
    maps = (2, *shape, 1) if len(shape) == 2 else (2, *shape)
    inside, outside, radii = (np.zeros(maps, kind) for kind in (bool, bool, float))
    for one, place in (inside, 0), (outside, 1), (radii, 0):
        one.reshape(2, -1)[:, place] = True
    radii *= 0.25
    return SimpleNamespace(
        certified_in=inside,
        certified_out=outside,
        radii=radii,
        region=Ball(inputs, 0.1, 2),
        radius=0.1,
        describe_level=lambda: "confidence 0.999 of each input",
        top=0.25,
    )


def grey(colour):
    return np.dot(to_rgb(colour), [0.299, 0.587, 0.114])


def test_colours_differ_in_grey_and_from_white():
    levels = [grey(colour) for colour in COLOURS]
    assert np.all(np.diff(levels) > 0.25)  # from in to out, lighter and lighter
    assert levels[-1] < 0.97


def test_every_pixel_has_the_colour_of_its_answer():
    inside = np.array([[True, False], [False, False]])
    outside = np.array([[False, False], [True, False]])
    axes = Figure((1, 1), dpi=40).add_axes((0, 0, 1, 1))
    draw_certified_pixels(axes, inside, outside)
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    shown = np.asarray(canvas.buffer_rgba())[10::20, 10::20, :3] / 255
    places = [[0, 1], [2, 1]]
    np.testing.assert_allclose(shown, [[to_rgb(COLOURS[n]) for n in row] for row in places])


@pytest.mark.parametrize(
    ("shape", "titles"),
    [
        ((4, 6), ["input", "share of maps", "certified", "radius of each pixel"]),
        ((9,), ["share of maps", "certified", "radius of each"]),
    ],
)
def test_figures_of_images_and_tables(shape, titles):
    certificate = made(shape)
    shares = np.full(certificate.radii.shape, 0.5)
    figure = plot_certified_pixels(certificate, shares)
    FigureCanvasAgg(figure).draw()
    shown = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert shown == titles
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words[0] == "certified in the top 25 %" and words[1].startswith("abstained")
    assert "within l2 0.1; confidence 0.999 of each input" in legend.get_title().get_text()
    handles = [patch.get_facecolor()[:3] for patch in legend.get_patches()]
    assert handles == [to_rgb(colour) for colour in COLOURS]
    bar = figure.axes[-1]
    assert bar.get_ylim() == (0, 0.25)  # the largest radius, of all inputs


def test_shares_are_written_below_and_radii_of_0_are_left_white():
    certificate = made((2, 2), channels=3)
    figure = plot_certified_pixels(certificate)
    labels = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert labels == ["in 25%, out 25%, abstained 50%"] * 2
    radii = figure.axes[2].images[0].get_array()
    assert radii.mask.tolist() == [[False, True], [True, True]]


def test_series_and_images_of_many_channels():
    series = made((7,))
    series.certified_in, series.certified_out, series.radii = (
        part[..., None] for part in (series.certified_in, series.certified_out, series.radii)
    )
    series.region = Ball(RANDOM.random((2, 7, 1)), 0.1, 2)
    FigureCanvasAgg(plot_certified_pixels(series)).draw()
    titles = [axes.get_title() for axes in plot_certified_pixels(made((4, 4), 5)).axes]
    assert titles[:2] == ["certified", "radius of each pixel"]  # such inputs have no colours


def test_what_does_not_fit_is_refused():
    both = np.ones((2, 2), bool)
    axes = Figure().add_subplot()
    with pytest.raises(ValueError, match="both in and out. Received: 4 that are"):
        draw_certified_pixels(axes, both, both)
    with pytest.raises(ValueError, match=r"Received: \(2, 2\) and \(2,\)"):
        draw_certified_pixels(axes, both, both[0])
    with pytest.raises(ValueError, match=r"must be those of the certified maps, \(2, 9\)"):
        plot_certified_pixels(made((9,)), np.zeros((2, 8)))
