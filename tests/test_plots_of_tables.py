import numpy as np
import pytest

from xcertify.plots import (
    draw_series,
    plot_feature_impact,
    plot_mean_feature_impact,
    plot_timeseries_attributions,
    summary_plot_tabular,
)


def labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_bars_run_down_with_names_values_and_signs():
    (axes,) = plot_feature_impact(
        [0.5, -2000.0, 0.001], ["age", "job", "rate"], [31.25, "clerk", 12_345]
    ).axes
    assert labels(axes) == ["age = 31.2", "job = clerk", "rate = 12,345"]
    assert axes.yaxis_inverted()
    assert [text.get_text() for text in axes.texts] == ["0.5", "-2,000", "0.001"]
    red, blue, also_red = (bar.get_facecolor() for bar in axes.patches)
    assert red == also_red and red[0] > red[2] and blue[2] > blue[0]


def test_the_largest_bars_are_drawn_and_the_others_counted():
    (axes,) = plot_feature_impact([0.5, -2, 0.1, 1], max_display=2).axes
    assert labels(axes) == ["Feature 1", "Feature 3"]
    assert axes.get_title() == "the largest 2 of 4"
    assert plot_feature_impact([0.5, -2]).axes[0].get_title() == ""


def test_proved_intervals_and_unproved_signs():
    (axes,) = plot_feature_impact(
        [1.0, -2.0, 0.5], max_display=2, lower=[0.5, -3.0, 0.4], upper=[1.5, 0.2, 0.6]
    ).axes
    assert [bar.get_width() for bar in axes.patches] == [-2, 1]
    assert [bool(bar.get_hatch()) for bar in axes.patches] == [True, False]
    (whiskers,) = axes.collections
    ends = [segment[:, 0] for segment in whiskers.get_segments()]
    np.testing.assert_allclose(ends, [[-3, 0.2], [0.5, 1.5]])
    assert [text.xy[0] for text in axes.texts] == [-3, 1.5]  # behind the whiskers


def test_means_of_rows():
    (axes,) = plot_mean_feature_impact([[1.0, -4.0], [3.0, 4.0]]).axes
    assert [bar.get_width() for bar in axes.patches] == [2, 0]
    assert axes.get_xlabel() == "mean attribution"


def test_dots_at_one_place_are_put_apart():
    explanations = np.array([[1.0, 0], [1, 1], [1, 2], [5, 3]])
    axes, bar = summary_plot_tabular(explanations, features_values=explanations[::-1]).axes
    first, second = axes.collections
    np.testing.assert_allclose(first.get_offsets()[:, 0], [1, 1, 1, 5])
    np.testing.assert_allclose(first.get_offsets()[:, 1], [0, -0.14, 0.14, 0])
    np.testing.assert_allclose(second.get_offsets()[:, 1], 1)
    assert [label.get_text() for label in bar.get_yticklabels()] == ["low", "high"]
    many = summary_plot_tabular(np.zeros((500, 1))).axes[0].collections[0].get_offsets()
    assert len(np.unique(many[:, 1])) == 500 and np.abs(many[:, 1]).max() <= 0.4


def test_heights_of_lines():
    default, higher, given = (
        summary_plot_tabular(np.eye(5), plot_size=size).get_size_inches().tolist()
        for size in (None, 1, (3, 4))
    )
    assert (default, higher, given) == ([8, 3], [8, 6], [3, 4])


@pytest.mark.parametrize(
    ("draw", "arguments", "settings", "message"),
    [
        (plot_feature_impact, (np.ones((1, 3)),), {}, r"explanation must be \(W,\)"),
        (plot_feature_impact, ([np.nan],), {}, "explanation must be finite"),
        (plot_feature_impact, ([1.0, 2.0], ["a"]), {}, "features_name must be one per map, 2"),
        (plot_feature_impact, ([1.0], None, [1, 2]), {}, "features_value must be one per map, 1"),
        (plot_feature_impact, ([1.0],), {"max_display": 0}, "max_display must be a whole number"),
        (plot_feature_impact, ([1.0],), {"lower": [0.0]}, r"of one shape \(W,\)"),
        (plot_feature_impact, ([1.0],), {"lower": [0.0, 1], "upper": [2.0]}, "of one shape"),
        (plot_mean_feature_impact, ([1.0],), {}, r"explanations must be \(N, W\)"),
        (summary_plot_tabular, (np.eye(3), np.eye(2)), {}, r"\(3, 3\). Received: \(2, 2\)"),
        (summary_plot_tabular, (np.eye(3),), {"plot_size": (1, 2, 3)}, "plot_size must be"),
        (summary_plot_tabular, (np.eye(3),), {"plot_size": "large"}, "plot_size must be"),
        (plot_timeseries_attributions, (np.eye(3),), {}, r"must be \(N, T, W\)"),
        (plot_timeseries_attributions, (np.ones((1, 4, 2)), ["a"]), {}, "one per map, 2"),
    ],
)
def test_what_does_not_fit_is_refused(draw, arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        draw(*arguments, **settings)


def test_series_and_their_maps_in_a_grid():
    maps = np.random.default_rng(0).normal(size=(3, 5, 2))
    series = np.arange(30.0).reshape(3, 5, 2)
    figure = plot_timeseries_attributions(maps, colorbar=True, cols=2, series=series, cmap="PuOr")
    assert len(figure.axes) == 3 + 3
    first = figure.axes[0]
    assert len(first.lines) == 2 and labels(first) == ["0", "1"]
    assert first.images[0].cmap(0)[3] == 1  # as opaque as the colour map
    assert first.get_aspect() == "auto"
    bare = plot_timeseries_attributions(maps, absolute_value=True)
    assert not bare.axes[0].lines
    np.testing.assert_array_equal(bare.axes[0].images[0].get_array(), np.abs(maps[0]).T)
    with pytest.raises(TypeError, match="only vmin, vmax, interpolation, aspect"):
        plot_timeseries_attributions(maps, origin="lower")


def test_a_map_without_its_series():
    axes = plot_feature_impact([1.0]).add_subplot()
    drawn = draw_series(axes, None, np.arange(4.0), cmap="gray", alpha=1)
    assert drawn.get_array().shape == (1, 4)
    assert not axes.lines
