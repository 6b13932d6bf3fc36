"""Pictures as Xplique's functions of the same names draw them, from the same calls."""

import inspect

import numpy as np
import pytest
from matplotlib import pyplot

from xcertify import plots

theirs = pytest.importorskip("xplique.plots", reason="Xplique is not installed")

GENERATOR = np.random.default_rng(0)
MAPS = GENERATOR.normal(size=(3, 8, 8)).astype("f4")
IMAGES = GENERATOR.normal(size=(3, 8, 8, 3)).astype("f4")
TABLE = GENERATOR.normal(size=(20, 4)).astype("f4")
ROWS = GENERATOR.normal(size=(20, 4))
NAMES = ["age", "income", "debt", "years"]
SERIES = GENERATOR.normal(size=(2, 6, 3)).astype("f4")


@pytest.fixture(autouse=True)
def canvas():
    """Xplique draws on pyplot; we do not."""
    yield
    pyplot.close("all")


def theirs_of(name, *arguments, **settings):
    getattr(theirs, name)(*arguments, **settings)
    return pyplot.gcf()


def ours_of(name, *arguments, **settings):
    figure = getattr(plots, name)(*arguments, **settings)
    assert not pyplot.get_fignums()
    return figure


@pytest.mark.parametrize(
    "name",
    [
        "plot_attribution",
        "plot_attributions",
        "plot_feature_impact",
        "plot_mean_feature_impact",
        "plot_timeseries_attributions",
        "summary_plot_tabular",
    ],
)
def test_arguments_have_their_names_and_order(name):
    asked = [
        parameter.name
        for parameter in inspect.signature(getattr(theirs, name)).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    taken = [
        parameter.name
        for parameter in inspect.signature(getattr(plots, name)).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    assert taken == asked


CALLS = [
    (("jet",), {}),
    ((), {"alpha": 0.3}),
    (("viridis", 0.5, 0.1, False, 2, 1.5), {}),
    ((), {"cmap": "cividis", "absolute_value": True}),
    ((), {"cmap": "inferno", "alpha": 0.8, "clip_percentile": 5, "absolute_value": True}),
    ((), {"cmap": "gray", "vmin": 0.2, "vmax": 0.9, "interpolation": "bilinear"}),
]


@pytest.mark.parametrize(("arguments", "settings"), CALLS)
@pytest.mark.parametrize("images", [None, IMAGES])
def test_grids_are_those_of_xplique(arguments, settings, images):
    """The only default of theirs that has to be said here is .1 of clip_percentile."""
    asked = dict(zip(["cmap", "alpha", "clip_percentile", "absolute_value"], arguments)) | settings
    ours = ours_of("plot_attributions", MAPS, images, *arguments, normalize_value=True, **settings)
    other = theirs_of("plot_attributions", MAPS, images, **{"clip_percentile": None, **asked})
    *cells, _ = ours.axes
    assert len(cells) == len(other.axes) == 3
    for one, two in zip(cells, other.axes):
        assert_same(one.images, two.images)
        assert one.images[-1].get_interpolation() == settings.get("interpolation", "nearest")


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs):
        np.testing.assert_allclose(one.get_array(), two.get_array(), atol=1e-6)
    np.testing.assert_allclose(one.get_clim(), two.get_clim(), atol=1e-6)
    shown = np.linspace(0, 1, 50)
    expected = two.to_rgba(two.norm.inverse(shown), alpha=two.get_alpha())
    np.testing.assert_allclose(one.to_rgba(one.norm.inverse(shown)), expected, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"normalize_value": False}, {"vmin": 0.25, "vmax": 1}])
def test_one_map_is_that_of_xplique(settings):
    arguments = MAPS[0], IMAGES[0], "jet", 0.5, 0.1, False
    settings = {"normalize_value": True, **settings}
    ours = ours_of("plot_attribution", *arguments, **settings)
    cell, bar = ours.axes
    other = theirs_of("plot_attribution", *arguments, **settings)
    assert_same(cell.images, other.axes[0].images)
    assert bar.get_ylim() == pytest.approx(cell.images[-1].get_clim())


def test_colours_do_not_depend_on_normalisation():
    """So that the bar may say the values: our default."""
    raw, stretched = (
        ours_of("plot_attribution", MAPS[0], None, "jet", normalize_value=choice).axes[0].images[-1]
        for choice in (False, True)
    )
    np.testing.assert_allclose(
        raw.to_rgba(raw.get_array()), stretched.to_rgba(stretched.get_array()), atol=0.03
    )
    np.testing.assert_array_equal(raw.get_array(), MAPS[0])


def test_what_is_asked_of_values_keeps_our_colours():
    (cell, _) = plots.plot_attribution(MAPS[0], clip_percentile=10).axes
    low, high = np.percentile(MAPS[0], (10, 90))
    np.testing.assert_allclose(cell.images[-1].get_array(), MAPS[0].clip(low, high), atol=1e-6)
    assert cell.images[-1].cmap.name == "xcertify signed"
    (cell, _) = plots.plot_attribution(MAPS[0], absolute_value=True).axes
    np.testing.assert_array_equal(cell.images[-1].get_array(), np.abs(MAPS[0]))
    assert cell.images[-1].cmap.name == "xcertify"


def test_channels_are_averaged():
    """Xplique draws three of them as red, green and blue, and fails on others."""
    maps = GENERATOR.normal(size=(2, 8, 8, 3)).astype("f4")
    figure = plots.plot_attributions(maps, IMAGES[:2], "jet", absolute_value=True)
    for axes, one in zip(figure.axes, maps):
        np.testing.assert_allclose(axes.images[-1].get_array(), np.abs(one.mean(-1)), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"origin": "lower"}, TypeError, r"only vmin, .* are taken here; set others on .*'lower'"),
        ({"nb_columns": 3}, TypeError, "nb_columns is called cols here. Received: nb_columns=3"),
        ({"size": 3}, TypeError, "size is called img_size here"),
        ({"cols": 0}, ValueError, "cols must be a whole number above 0"),
        ({"clip_percentile": 50}, ValueError, "below 50: .* Received: 50"),
        ({"clip_percentile": "1"}, ValueError, "clip_percentile must be .* Received: '1'"),
        ({"alpha": "1"}, ValueError, "alpha must be a number from 0 to 1. Received: '1'"),
        ({"alpha": 1.5}, ValueError, "alpha must be a number from 0 to 1. Received: 1.5"),
        ({"cmap": "jett"}, ValueError, "'jett' is not a valid value for cmap"),
        ({"images": IMAGES[:, ::2]}, ValueError, r"tf.image.resize\(maps, images.shape\[1:3\]\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(settings, error, message):
    with pytest.raises(error, match=message):
        plots.plot_attributions(MAPS, **settings)


def test_one_map_is_not_a_batch():
    with pytest.raises(ValueError, match=r"of one sample.*plot_attributions draws several"):
        plots.plot_attribution(MAPS[:1, ..., None])


@pytest.mark.parametrize("max_display", [None, 3])
@pytest.mark.parametrize("values", [None, ROWS[0]])
def test_bars_are_those_of_xplique(max_display, values):
    (axes,) = ours_of("plot_feature_impact", TABLE[0], NAMES, values, max_display).axes
    (others,) = theirs_of("plot_feature_impact", TABLE[0], NAMES, values, max_display).axes
    assert widths(axes) == pytest.approx(widths(others))
    assert [label.split(" = ")[0] for label in labels(axes)] == [
        label.split(" = ")[-1] for label in labels(others)
    ]


@pytest.mark.parametrize("max_display", [None, 2])
def test_mean_bars_are_those_of_xplique(max_display):
    (axes,) = ours_of("plot_mean_feature_impact", TABLE, NAMES, max_display).axes
    (others,) = theirs_of("plot_mean_feature_impact", TABLE, NAMES, max_display).axes
    assert (labels(axes), widths(axes)) == (labels(others), pytest.approx(widths(others)))


def widths(axes):
    return [bar.get_width() for bar in axes.patches]


def labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


@pytest.mark.parametrize(
    "arguments", [(), (ROWS,), (ROWS, NAMES, 3, "plasma", 5, 0.5, (6.0, 4.0)), (ROWS, None, 2)]
)
def test_summaries_are_those_of_xplique(arguments):
    figure = ours_of("summary_plot_tabular", TABLE, *arguments)
    other = theirs_of("summary_plot_tabular", TABLE, *arguments)
    other.canvas.draw()  # colours are made there
    axes, others = figure.axes[0], other.axes[0]
    assert labels(axes) == labels(others)
    assert len(axes.collections) == len(others.collections)
    for dots, more in zip(axes.collections, others.collections):
        np.testing.assert_allclose(dots.get_offsets()[:, 0], more.get_offsets()[:, 0])
        colours = np.broadcast_to(dots.get_facecolors(), (len(TABLE), 4))
        expected = np.broadcast_to(more.get_facecolors(), (len(TABLE), 4))
        np.testing.assert_allclose(colours, expected, atol=0.02)
    if len(arguments) == 7:
        np.testing.assert_array_equal(figure.get_size_inches(), other.get_size_inches())


def test_series_are_those_of_xplique_but_for_their_scale(tmp_path):
    """Theirs is stretched to [0, 1] on a scale from -1 to 1: what is negative looks positive."""
    names, file = ["a", "b", "c"], tmp_path / "theirs.png"
    arguments = names, "title", ["one", "two"]
    figure = ours_of("plot_timeseries_attributions", SERIES, *arguments, tmp_path / "ours.png")
    other = theirs_of("plot_timeseries_attributions", SERIES, *arguments, file, clip_percentile=0)
    assert figure.get_suptitle() == other.get_suptitle() == "title"
    assert (tmp_path / "ours.png").is_file()
    for axes, others, one in zip(figure.axes, other.axes, SERIES, strict=True):
        assert axes.get_title() == others.get_title()
        assert labels(axes) == labels(others) == names
        np.testing.assert_array_equal(axes.images[0].get_array(), one.T)
        largest = float(np.abs(one).max())
        assert axes.images[0].get_clim() == (-largest, largest)
        stretched = np.asarray(others.images[0].get_array())
        assert stretched.min() == 0 and one.min() < 0 and others.images[0].get_clim() == (-1, 1)
