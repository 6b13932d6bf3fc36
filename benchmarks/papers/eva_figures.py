"""Pictures of what EVA and other explainers score on fresh images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from protocol.intervals import mean_interval
from protocol.pieces import Records

from papers.eva_methods import CONTROL
from papers.eva_tables import RANDOM, TITLES, head, scores_of

COLOURS = {"EVA": "#1f5fa8", "Control": "#c0561e"}
OTHER = "#777777"


def draw_scores(records: Records, folder: Path) -> None:
    """A picture for each kind of network that is stored: means with their intervals."""
    for net in TITLES:
        scores = scores_of(records, net, RANDOM)
        if not scores:
            continue
        most = max(found.nb_images for found in scores.values())
        shown = {m: found for m, found in scores.items() if found.nb_images == most}
        places = np.arange(len(shown))[::-1]
        figure = Figure((10, 1.2 + 0.25 * len(shown)), layout="constrained")
        panels = figure.subplots(1, len(RANDOM), sharey=True)
        for axes, column in zip(panels, RANDOM):
            for place, (method, found) in zip(places, shown.items()):
                mean = mean_interval(found.values[column])
                colour = COLOURS.get(method.split(",")[0].split(":")[0], OTHER)
                mark = "s" if method == CONTROL else "o"
                axes.plot([mean.low, mean.high], [place, place], color=colour, lw=1.5)
                axes.plot(mean.mean, place, mark, color=colour, ms=4)
            axes.set_title(head(column), fontsize=9)
            axes.tick_params(labelsize=8)
            axes.grid(axis="x", color="#dddddd", lw=0.5)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_yticks(
            places, [name.replace("margin gradient", "gradient") for name in shown]
        )
        figure.suptitle(f"{TITLES[net]}, {most} fresh images, random baseline", fontsize=10)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"eva-fresh-{net}.png", dpi=110)
