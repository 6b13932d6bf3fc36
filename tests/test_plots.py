import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from xcertify.plots import (
    draw_attribution,
    draw_image,
    plot_attributions,
    plot_comparison,
    plot_curves,
)

RED_PATCH, BLUE_PATCH = (1, 2), (6, 5)


@pytest.fixture
def maps():
    """Two maps of 8x8: one positive, one with a positive and a smaller negative pixel."""
    maps = np.zeros((2, 8, 8, 1), np.float32)
    maps[:, 1, 2] = [[3.0], [2.0]]
    maps[1, 6, 5] = -1.0
    return maps


def new_axes():
    return Figure(figsize=(2, 2), dpi=80).add_axes((0, 0, 1, 1))


def pixels(axes):
    """The drawn colours of 8x8 cells, each at its centre, RGB in [0, 1]."""
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    shown = np.asarray(canvas.buffer_rgba())[..., :3] / 255
    return shown[10::20, 10::20]


def test_heat_is_drawn_where_the_map_is_high(maps):
    axes = new_axes()
    drawn = draw_attribution(axes, maps[0])
    shown = pixels(axes)
    assert drawn.get_array().max() == 3
    assert drawn.get_clim() == (0, 3)
    red, green, blue = shown[RED_PATCH]
    assert red > 0.4 > max(green, blue)
    others = np.ones((8, 8), bool)
    others[RED_PATCH] = False
    np.testing.assert_allclose(shown[others], 1, atol=0.01)


def test_signed_maps_are_centred_at_zero_red_above_blue_below(maps):
    axes = new_axes()
    drawn = draw_attribution(axes, maps[1])
    shown = pixels(axes)
    assert drawn.get_clim() == (-2, 2)
    assert shown[RED_PATCH][0] > shown[RED_PATCH][2] + 0.3
    assert shown[BLUE_PATCH][2] > shown[BLUE_PATCH][0] + 0.3
    np.testing.assert_allclose(shown[0, 0], 1, atol=0.01)


def test_tiny_negative_values_do_not_make_a_map_signed(maps):
    maps[0, 0, 0] = -0.01
    assert draw_attribution(new_axes(), maps[0]).get_clim() == pytest.approx((-0.01, 3))


def test_strength_and_sign_are_readable_in_grey():
    ramp = np.linspace(-1, 1, 41)[None]
    grey = (0.299, 0.587, 0.114)
    heat = draw_attribution(new_axes(), abs(ramp)).to_rgba(ramp[0, 20:])
    shown = 1 - heat[:, 3] * (1 - heat[:, :3] @ grey)  # over white
    assert (np.diff(shown) < 0).all()  # the stronger the darker
    signed = draw_attribution(new_axes(), ramp).to_rgba(ramp[0])
    shown = 1 - signed[:, 3] * (1 - signed[:, :3] @ grey)
    assert shown[0] < shown[-1] - 0.1  # blue is darker than red


def test_input_shines_through_where_the_map_is_low(maps):
    image = np.zeros((8, 8, 1))
    image[3, 3] = 1.0
    axes = new_axes()
    draw_attribution(axes, maps[0], image)
    shown = pixels(axes)
    np.testing.assert_allclose(shown[3, 3], 1, atol=0.01)
    np.testing.assert_allclose(shown[4, 4], 0.75, atol=0.01)


def test_colour_images_and_other_ranges():
    axes = new_axes()
    image = np.zeros((8, 8, 3), np.uint8)
    image[2, 5] = (255, 0, 0)
    draw_image(axes, image)
    shown = pixels(axes)
    np.testing.assert_allclose(shown[2, 5], (1, 0, 0), atol=0.01)
    assert shown.sum() == pytest.approx(1, abs=0.05)


def test_constant_map_is_blank():
    axes = new_axes()
    draw_attribution(axes, np.full((8, 8), 5.0))
    np.testing.assert_allclose(pixels(axes), 1, atol=0.01)


def test_table_rows_are_bars():
    axes = new_axes()
    draw_attribution(axes, np.array([1.0, -2.0, 0.5]))
    assert [bar.get_height() for bar in axes.patches] == [1, -2, 0.5]


def test_grid_has_one_axes_per_map_and_a_colour_bar(maps):
    figure = plot_attributions(
        np.repeat(maps, 3, axis=0), np.ones((6, 8, 8, 1)), titles="abcdef", nb_columns=4
    )
    *cells, bar = figure.axes
    assert [axes.get_title() for axes in cells] == list("abcdef")
    assert [label.get_text() for label in bar.get_yticklabels()] == ["negative", "0", "positive"]
    rows = {round(axes.get_subplotspec().rowspan.start) for axes in cells}
    assert rows == {0, 1}


@pytest.mark.parametrize(("shared", "limits"), [(True, [3, 3]), (False, [3, 2])])
def test_scale_is_shared_or_of_each_map(maps, shared, limits):
    figure = plot_attributions(maps, shared_scale=shared)
    drawn = [axes.images[-1].get_clim() for axes in figure.axes[:-1]]
    assert drawn == [(-limit, limit) for limit in limits]
    if shared:
        assert figure.axes[-1].get_ylim() == (-3, 3)


def test_comparison_draws_inputs_then_a_row_per_explainer(maps):
    images = np.random.default_rng(0).random((2, 8, 8, 3))
    figure = plot_comparison({"EVA": abs(maps), "Other": maps}, images, titles=["a", "b"])
    titles = [axes.get_title() for axes in figure.axes[:2]]
    names = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert (titles, names) == (["a", "b"], ["EVA", "Other"])
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), images[0])
    assert len(figure.axes) == 2 + (2 + 1) + (2 + 1)


def test_given_figure_is_drawn_on_and_pyplot_is_left_alone(maps):
    figure = Figure()
    assert plot_attributions(maps, figure=figure) is figure
    if "matplotlib.pyplot" in sys.modules:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()


def test_arguments_are_not_changed(maps):
    before = maps.copy()
    plot_attributions(maps, maps)
    np.testing.assert_array_equal(maps, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.full((1, 4, 4), np.nan),), "NaN or infinite values in sample 0"),
        ((np.zeros((2, 4, 4, 3)),), r"reduce channels first. Received: shape \(2, 4, 4, 3\)"),
        ((np.zeros((2, 4, 4)), np.zeros((3, 4, 4, 1))), "one per map, 2. Received: 3"),
        ((np.zeros((2, 4, 4)), np.zeros((2, 5, 4, 1))), r"Received: \(5, 4\) and \(4, 4\)"),
        ((np.zeros((1, 4, 4)), np.zeros((1, 4, 4, 2))), r"Received: shape \(4, 4, 2\)"),
    ],
)
def test_wrong_shapes_and_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_attributions(*arguments)


def test_curves_are_the_means_and_share_a_legend():
    class Result:
        axis, axis_label = np.array([0.0, 0.5, 1.0]), "share"
        mean_curve = np.array([1.0, 0.5, 0.0])

    figure = plot_curves({"Deletion": {"a": Result, "b": Result}, "Insertion": {"b": Result}})
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["Deletion", "Insertion"]
    np.testing.assert_array_equal(first.lines[0].get_xydata(), [[0, 1], [0.5, 0.5], [1, 0]])
    assert len(second.lines) == 1
    assert first.lines[1].get_color() is not None
    np.testing.assert_array_equal(first.lines[1].get_color(), second.lines[0].get_color())
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert first.get_xlabel() == "share"
