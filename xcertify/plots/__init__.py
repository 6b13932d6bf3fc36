"""Pictures of explanations.

Every function draws with matplotlib's objects alone (no pyplot, no global state) and returns what
it drew, so that a picture can be saved, shown, or changed further::

    figure = plot_attributions(maps, images)
    figure.savefig("maps.png")
"""

from xcertify.plots.certificates import plot_gradient_certificate, plot_top_k
from xcertify.plots.certified_pixels import draw_certified_pixels, plot_certified_pixels
from xcertify.plots.curves import plot_curves
from xcertify.plots.grids import plot_attribution, plot_attributions, plot_comparison
from xcertify.plots.maps import draw_attribution, draw_cells, draw_image, draw_targeted
from xcertify.plots.reasons import plot_reasons
from xcertify.plots.series import draw_series, plot_timeseries_attributions
from xcertify.plots.tables import (
    draw_intervals,
    plot_feature_impact,
    plot_mean_feature_impact,
    summary_plot_tabular,
)
from xcertify.plots.texts import plot_texts

__all__ = [
    "draw_attribution",
    "draw_cells",
    "draw_certified_pixels",
    "draw_image",
    "draw_intervals",
    "draw_series",
    "draw_targeted",
    "plot_attribution",
    "plot_attributions",
    "plot_certified_pixels",
    "plot_comparison",
    "plot_curves",
    "plot_feature_impact",
    "plot_gradient_certificate",
    "plot_mean_feature_impact",
    "plot_reasons",
    "plot_texts",
    "plot_timeseries_attributions",
    "plot_top_k",
    "summary_plot_tabular",
]
