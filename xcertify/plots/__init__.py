"""Pictures of explanations.

Every function draws with matplotlib's objects alone (no pyplot, no global state) and returns what
it drew, so that a picture can be saved, shown, or changed further::

    figure = plot_attributions(maps, images)
    figure.savefig("maps.png")
"""

from xcertify.plots.certificates import draw_intervals, plot_gradient_certificate, plot_top_k
from xcertify.plots.curves import plot_curves
from xcertify.plots.maps import (
    draw_attribution,
    draw_cells,
    draw_image,
    draw_series,
    draw_targeted,
    plot_attributions,
    plot_comparison,
)
from xcertify.plots.reasons import plot_reasons

__all__ = [
    "draw_attribution",
    "draw_cells",
    "draw_image",
    "draw_intervals",
    "draw_series",
    "draw_targeted",
    "plot_attributions",
    "plot_comparison",
    "plot_curves",
    "plot_gradient_certificate",
    "plot_reasons",
    "plot_top_k",
]
