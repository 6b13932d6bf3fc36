"""Curves of estimates: bars as far as the result states, of the mean and of one input."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.testing import assert_allclose

from xcertify.metrics.base import MetricResult
from xcertify.metrics.probable_size import ProbableResult
from xcertify.metrics.stability import SoftStabilityResult
from xcertify.plots import plot_curves
from xcertify.radii import Interval

CURVES = np.array([[1.0, 0.9, 0.5], [0.8, 0.3, 0.1]])
COMMON = {
    "axis": np.array([10, 20, 30]),
    "axis_label": "further features",
    "curves": CURVES,
    "scores": CURVES[:, -1],
    "tied": np.zeros(2, bool),
    "higher_is_better": True,
}
EMPTY = Interval(np.zeros(2), np.zeros(2))


def stability():
    return SoftStabilityResult(
        metric="Stability",
        **COMMON,
        lower=CURVES - 0.05,
        upper=np.minimum(CURVES + 0.1, 1),
        nb_samples=150,
        error=0.1,
        confidence=0.9,
        together="each",
        mean_error=0.2,
        interval=EMPTY,
        selected=np.zeros((2, 4), bool),
        classes=np.zeros(2, int),
    )


def probable():
    return ProbableResult(
        metric="ProbableSize",
        **COMMON,
        unrefuted_curves=CURVES / 2,
        interval=EMPTY,
        nb_features=np.full(2, 4),
        nb_drawn=np.zeros(2, int),
        share=0.95,
        delta=0.01,
    )


def bars_of(axes, number):
    """Middles (P, 2) of the points, and lower and upper ends of the bars, of an explainer."""
    container = axes.containers[number]
    (bars,) = container.lines[2]
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    return container.lines[0].get_xydata(), ends.T


def test_bars_of_means_reach_as_far_as_their_error_and_not_beyond_0_and_1():
    figure = plot_curves({"Stability": {"one": stability(), "other": stability()}})
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    points, (lower, upper) = bars_of(axes, 0)
    assert_allclose(points, np.column_stack([COMMON["axis"], [0.9, 0.6, 0.3]]))
    assert_allclose(lower, [0.7, 0.4, 0.1])
    assert_allclose(upper, [1.0, 0.8, 0.5])
    beside, _ = bars_of(axes, 1)
    assert np.all(beside[:, 0] > points[:, 0]) and np.all(beside[:, 1] == points[:, 1])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "other"]


@pytest.mark.parametrize("sample", [0, 1])
def test_bars_of_one_input_are_its_own(sample):
    result = stability()
    (axes,) = plot_curves({"Stability": {"one": result}}, sample=sample).axes
    points, (lower, upper) = bars_of(axes, 0)
    assert_allclose(points[:, 1], CURVES[sample])
    assert_allclose(lower, result.lower[sample])
    assert_allclose(upper, result.upper[sample])


def test_probable_sizes_have_a_thin_line_of_what_no_counterexample_is_known_of():
    figure = plot_curves({"ProbableSize": {"one": probable()}})
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    certified, unrefuted = axes.lines
    assert_allclose(certified.get_ydata(), [0.9, 0.6, 0.3])
    assert_allclose(unrefuted.get_ydata(), [0.45, 0.3, 0.15])
    assert unrefuted.get_linewidth() < certified.get_linewidth()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["one", "x: no counterexample known"]


def test_curves_without_errors_have_no_bars():
    (axes,) = plot_curves({"Deletion": {"one": MetricResult(metric="Deletion", **COMMON)}}).axes
    assert not axes.containers
    assert_allclose(axes.lines[0].get_ydata(), [0.9, 0.6, 0.3])
    (axes,) = plot_curves({"": {"one": MetricResult(metric="", **COMMON)}}, sample=1).axes
    assert_allclose(axes.lines[0].get_ydata(), CURVES[1])
