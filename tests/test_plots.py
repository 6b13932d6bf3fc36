import sys

import keras
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from xcertify.answers import Answers
from xcertify.certificates import GradientCertificate, ReasonCertificate, TopKCertificate
from xcertify.plots import (
    draw_attribution,
    draw_image,
    draw_intervals,
    draw_series,
    draw_targeted,
    plot_attributions,
    plot_comparison,
    plot_curves,
    plot_gradient_certificate,
    plot_reasons,
    plot_top_k,
)
from xcertify.radii import Interval
from xcertify.regions import Ball

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
        np.repeat(maps, 3, axis=0), np.ones((6, 8, 8, 1)), titles="abcdef", cols=4
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
        ((np.zeros((2, 4, 4, 3, 1)),), r"at least one map. Received: shape \(2, 4, 4, 3, 1\)"),
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


def test_bands_reach_from_proved_to_attacked():
    class Result:
        axis, axis_label = np.array([0.0, 1.0]), "share"
        mean_curve = np.array([3.0, 2.0])
        certified_curves = np.array([[1.0, 0.0], [2.0, 1.0]])

    (axes,) = plot_curves({"RobustnessSr": {"a": Result}}).axes
    (band,) = axes.collections
    corners = {tuple(point) for point in band.get_paths()[0].vertices}
    assert corners == {(0.0, 1.5), (0.0, 3.0), (1.0, 0.5), (1.0, 2.0)}


def test_targeted_maps_are_red_where_adding_and_blue_where_taking_counts(maps):
    axes, negative = new_axes(), np.zeros_like(maps[0])
    negative[BLUE_PATCH] = 4.0
    drawn = draw_targeted(axes, maps[0], negative)
    shown = pixels(axes)
    assert drawn.get_clim() == (-4, 4)
    assert shown[RED_PATCH][0] > shown[RED_PATCH][2] + 0.3
    assert shown[BLUE_PATCH][2] > shown[BLUE_PATCH][0] + 0.3
    np.testing.assert_allclose(shown[0, 0], 1, atol=0.01)


def test_intervals_are_drawn_and_unproved_signs_are_hatched():
    axes = new_axes()
    bars = draw_intervals(
        axes, [1.0, -2.0, 0.5], [0.5, -3.0, -0.1], [1.5, 0.2, 0.5], names=["a", "b", "c"]
    )
    assert [bar.get_height() for bar in bars] == [1, -2, 0.5]
    assert [bool(bar.get_hatch()) for bar in bars] == [False, True, True]
    ends = axes.collections[0].get_segments()
    np.testing.assert_allclose([s[:, 1] for s in ends], [[0.5, 1.5], [-3, 0.2], [-0.1, 0.5]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="one shape"):
        draw_intervals(axes, [1.0], [0.0, 0.0], [1.0])


def test_series_run_to_the_right_over_their_explanation():
    series = np.stack([np.linspace(0, 1, 6), np.full(6, 7.0)], axis=1)
    explanation = np.zeros((6, 2))
    explanation[4, 1] = 2.0
    axes = new_axes()
    drawn = draw_series(axes, series, explanation, names=["rises", "rests"])
    np.testing.assert_array_equal(drawn.get_array(), explanation.T)
    rises, rests = (line.get_ydata() for line in axes.lines)
    np.testing.assert_allclose(rises[[0, -1]], [0.4, -0.4])  # the axis points down
    np.testing.assert_allclose(rests, 1)
    assert axes.get_ylim() == (1.5, -0.5)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rises", "rests"]
    with pytest.raises(ValueError, match=r"Received: \(6, 2\) and \(5, 2\)"):
        draw_series(axes, series, explanation[:5])


def gradient_certificate(shape):
    explanation = np.random.default_rng(0).normal(size=(2, *shape)).astype("f4")
    return GradientCertificate(
        region=Ball(np.zeros_like(explanation), 0.1), method="crown", arithmetic="real",
        interval=Interval(np.ones(2)), lower=explanation - 0.5, upper=explanation + 0.5,
        explanation=explanation, targets=np.eye(2), settings={}, fingerprint="",
    )  # fmt: skip


def test_gradient_certificates_share_a_scale_and_show_proved_signs():
    found = gradient_certificate((4, 4, 3))
    figure = plot_gradient_certificate(found)
    assert len(figure.axes) == 2 * 6
    _, nominal, lower, upper, signs, _ = figure.axes[:6]
    mean = found.explanation[0].mean(-1)
    for axes, values in ((nominal, mean), (lower, mean - 0.5), (upper, mean + 0.5)):
        np.testing.assert_allclose(axes.images[-1].get_array(), values, atol=1e-6)
        assert axes.images[-1].get_clim() == nominal.images[-1].get_clim()
    expected = np.where(mean > 0.5, 1, np.where(mean < -0.5, -1, 0))
    np.testing.assert_array_equal(signs.images[-1].get_array(), expected)
    table = plot_gradient_certificate(gradient_certificate((5,)), names="abcde")
    assert [len(axes.patches) for axes in table.axes] == [5, 5]


def test_top_k_cells_are_outlined_below_their_interval(maps):
    found = TopKCertificate(
        region=Ball(maps[:2], 0.1), method="crown", arithmetic="real", form="map", k=1, k2=1,
        explanation="cam",
        interval=Interval(np.array([0.01, 0.0]), np.array([0.02, 0.5])), prediction_radius=None,
        gap=np.ones(2), cells=np.array([[3], [0]]), map_shape=(2, 2), targets=np.zeros((2, 2)),
    )  # fmt: skip
    first, second, _ = plot_top_k(found, maps, np.ones((2, 8, 8, 3))).axes
    assert [axes.get_title() for axes in (first, second)] == ["[0.01, 0.02]", "[0, 0.5]"]
    (outline,) = first.collections
    corners = outline.get_paths()[0].vertices
    assert corners.min() == pytest.approx(3.5, abs=0.3)  # the lower right quarter of 8x8 pixels


NEEDED, UNKNOWN = (1, 2), (6, 5)


def reason_certificate(inputs, words, witnesses, features=None, **answers):
    """Of hand-made words (N, *features): 0 irrelevant, 1 unknown, 2 needed."""
    words, nb = np.asarray(words), len(inputs)
    if features is None:
        features = np.broadcast_to(np.arange(words[0].size).reshape(words[0].shape), words.shape)
    kept = [np.unique(own[word > 0]).size for own, word in zip(features, words)]
    return ReasonCertificate(
        region=Ball(inputs, 0.25, clip=(0, 1)), method="crown", arithmetic="real",
        interval=Interval(np.array(kept, float), np.zeros(nb)), irrelevant=words == 0,
        needed=words == 2, unknown=words == 1, features=features, sizes=np.array(kept),
        smallest=np.zeros(nb, int), witnesses=witnesses, targets=np.zeros(nb, int),
        answers=Answers(np.zeros(nb, int), 2, **answers), contributions=words.astype("f4"),
        seconds=np.ones(nb), reason=np.full(nb, ""), settings={}, fingerprint="",
    )  # fmt: skip


@pytest.fixture
def reasons():
    """Two images: one of a needed and an unknown pixel with two witnesses, one that needs none."""
    images = np.full((2, 8, 8, 1), 0.5, "f4")
    words = np.zeros((2, 8, 8), int)
    words[(0, *NEEDED)], words[(0, *UNKNOWN)], words[0, 0, 0] = 2, 1, 2
    near, far = images[0].copy(), images[0].copy()
    near[NEEDED], near[4, 4] = 0.75, 0.25
    far[:] = 0.75
    return reason_certificate(images, words, [{0: far, 10: near}, {}])


def test_needed_pixels_are_marked_beside_the_nearest_witness(reasons):
    np.testing.assert_allclose(reasons.needed_share, [2 / 64, 0])
    np.testing.assert_allclose(reasons.unknown_share, [1 / 64, 0])
    figure = plot_reasons(reasons)
    assert len(figure.axes) == 2 * 5
    nominal, enough, witness, difference, bar = figure.axes[:5]
    titles = [axes.get_title() for axes in (nominal, enough, witness)]
    assert titles[:2] == ["class 0", "3 of 64 are enough\n2 needed, 1 unknown"]
    assert titles[2].endswith("another answer")
    shown = enough.images[-1].get_array()
    red, _, blue = shown[NEEDED]
    assert red > blue + 0.3
    red, _, blue = shown[UNKNOWN]
    assert blue > red + 0.3
    assert np.ptp(shown[4, 4]) == 0
    assert shown[4, 4, 0] > 0.7
    (dots,) = enough.lines
    np.testing.assert_array_equal(dots.get_xydata(), [UNKNOWN[::-1]])
    near = reasons.witnesses[0][10]
    np.testing.assert_allclose(witness.images[-1].get_array(), near[..., 0])
    np.testing.assert_allclose(difference.images[-1].get_array(), (near - 0.5)[..., 0])
    assert difference.images[-1].get_clim() == bar.get_ylim() == (-0.25, 0.25)
    for axes in (enough, witness, difference):
        (frame,) = axes.patches
        assert frame.get_bbox().extents.tolist() == [0.5, -0.5, 3.5, 2.5]  # around (1, 2)
    _, nothing, missing, *_ = figure.axes[5:]
    assert nothing.get_title().startswith("0 of 64 are enough")
    assert missing.get_title() == "no witness"
    limits = {axes.get_xlim() for axes in (nominal, enough, witness, difference)}
    assert limits == {(-0.5, 7.5)}  # whatever is drawn over an image
    words = [text.get_text().split(":")[0] for text in figure.legends[0].get_texts()]
    assert words == ["needed", "unknown", "irrelevant"]
    FigureCanvasAgg(figure).draw()


def always(number, shape):
    """A model that gives every input the same of two classes."""
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.set_weights([0 * model.get_weights()[0], np.eye(2)[number]])
    return model


def test_another_witness_may_be_shown_with_its_answer(reasons):
    model = always(1, (8, 8, 1))
    figure = plot_reasons(reasons, model=model, shown=[0, None], class_names=["a cat", "a dog"])
    nominal, _, witness, *_ = figure.axes
    assert nominal.get_title() == "a cat"
    assert witness.get_title().endswith(":\na dog")
    assert np.ptp(witness.images[-1].get_array()) == 0
    (frame,) = witness.patches
    assert frame.get_bbox().extents.tolist() == [-1.5, -1.5, 1.5, 1.5]
    with pytest.raises(ValueError, match=r"Received: 20 for sample 0"):
        plot_reasons(reasons, shown=[20, None])
    with pytest.raises(ValueError, match="one per map, 2"):
        plot_reasons(reasons, shown=[0])


def test_other_pictures_and_units_of_images(reasons):
    drawn = np.random.default_rng(0).random((2, 8, 8, 1))
    figure = plot_reasons(reasons, drawn)
    np.testing.assert_allclose(figure.axes[0].images[-1].get_array(), drawn[0, ..., 0])
    with pytest.raises(ValueError, match=r"Received: \(1, 8, 8, 1\)"):
        plot_reasons(reasons, drawn[:1])
    figure = plot_reasons(reasons, to_units=lambda points: points - 0.25)
    np.testing.assert_allclose(figure.axes[0].images[-1].get_array(), 0.25)
    assert figure.axes[3].images[-1].get_clim() == (-0.25, 0.25)  # of a difference
    given = Figure()
    assert plot_reasons(reasons, figure=given) is given
    if "matplotlib.pyplot" in sys.modules:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()


def test_reasons_of_series_run_to_the_right():
    series = np.full((1, 6, 2), 0.5, "f4")
    words = np.zeros((1, 6, 2), int)
    words[0, 4, 1], words[0, 2, 0] = 2, 1
    moved = series[0].copy()
    moved[4, 1] = 0.75
    figure = plot_reasons(reason_certificate(series, words, [{9: moved}]))
    _, enough, _, difference, _ = figure.axes
    red, _, blue = enough.images[-1].get_array()[1, 4]
    assert red > blue + 0.3
    assert difference.images[-1].get_array()[1, 4] == 0.25
    (frame,) = difference.patches
    assert frame.get_bbox().extents.tolist() == [3.5, 0.5, 4.5, 1.5]


def test_reasons_of_tables_are_lists_with_what_would_change_the_answer():
    rows = np.float32([[0.5, 0, 1, 0.5, 0.5]])
    features = np.array([[3, 7, 7, 8, 9]])
    moved = np.float32([0.5, 0.25, 0.75, 0.25, 0.5])
    found = reason_certificate(
        rows, [[1, 2, 2, 0, 0]], [{7: moved}], features, class_groups=np.array([4, 5])
    )
    names = ["age", "housing=own", "housing=rent", "amount", "rate"]
    scale = np.array([100, 1, 1, 10_000, 1])
    settings = {"feature_names": names, "to_units": lambda points: points * scale}
    figure = plot_reasons(found, model=always(1, (5,)), **settings)
    (axes,) = figure.axes
    listed = [label.get_text() for label in axes.get_yticklabels()]
    assert listed == ["housing = rent", "age = 50", "amount = 5,000", "rate = 0.5"]
    assert [label.get_fontweight() for label in axes.get_yticklabels()][:2] == ["bold", "normal"]
    assert [bar.get_width() for bar in axes.patches] == [1, -1]  # as far as they may
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["own 0 → 0.25, ...", "5,000 → 2,500"]
    title = axes.get_title(loc="right")
    assert title.startswith("class 0: 2 of 4 features are enough (1 needed, 1 unknown)")
    assert "a change to class 1" in title
    few = plot_reasons(found, most=3, group_names={7: "home"}, **settings).axes[0]
    assert "1 more are not listed" in few.get_title(loc="right")
    assert few.get_yticklabels()[0].get_text() == "home = rent"
    with pytest.raises(ValueError, match="feature_names must be one per map, 5"):
        plot_reasons(found, feature_names=names[:3])
    # without names, and without a witness
    plain = reason_certificate(rows, [[1, 0, 0, 0, 0]], [{}])
    axes = plot_reasons(plain).axes[0]
    assert axes.get_yticklabels()[0].get_text() == "feature 0 = 0.5"
    assert not axes.patches
    assert "\n" not in axes.get_title(loc="right")


def test_reasons_of_other_questions_name_their_answers():
    rows, moved = np.float32([[0.5, 0.5]]), np.float32([0.75, 0.5])
    model = always(1, (2,))
    towards = reason_certificate(rows, [[2, 0]], [{0: moved}], towards=np.array([1]))
    assert "a change to class 1" in plot_reasons(towards, model=model).axes[0].get_title(
        loc="right"
    )
    output = {"delta": np.array([0.5]), "values": np.array([1.25])}
    within = reason_certificate(rows, [[2, 0]], [{0: moved}], **output)
    title = plot_reasons(within, model=always(0, (2,))).axes[0].get_title(loc="right")
    assert title.startswith("1.25 ± 0.5: 1 of 2 features is enough")
    assert "a change to 1;" in title
