"""The first maps of a run in one picture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xcertify.checks import whole_number
from xcertify.runs.pictures import draw_map, input_of, is_drawn
from xcertify.runs.proved import NUMBERS, Headline, Rows, headline_of

if TYPE_CHECKING:
    from xcertify.runs.folder import Run

_COLUMNS = 8
_SIZES = {3: (1.5, 1.9), 2: (3.0, 1.9), 1: (3.0, 1.9)}  # inches of one map, by its axes


def draw_sheet(run: Run, path: str | os.PathLike[str], most: int = 48) -> int:
    """Draw the first maps of a run over their inputs, with what is proved of each above it.

    Images are drawn under their maps, series before them, and maps of tables as bars. Inputs with
    an error are left out. Only what is drawn is read.

    Parameters
    ----------
    run
        Of any explainer, finished or not.
    path
        A PNG file; one that is there is replaced.
    most
        Most maps.

    Returns
    -------
    nb_drawn
        Number of maps in the picture. Of 0 maps no picture is written.

    Raises
    ------
    ValueError
        For a `most` that is no whole number above 0.

    Examples
    --------
    >>> draw_sheet(Run.open("runs/a"), "runs/a/maps.png")
    48
    """
    most = whole_number("most", most)
    drawn = [
        (explanation, given, title)
        for explanation, given, title in _first(run, most)
        if is_drawn(explanation.shape) and np.isfinite(explanation).all()
    ]
    if not drawn:
        return 0
    width, height = _SIZES[drawn[0][0].ndim]
    columns = min(len(drawn), max(1, int(_COLUMNS * 1.5 / width)))
    nb_rows = -(-len(drawn) // columns)
    figure = Figure((width * columns, height * nb_rows), layout="constrained", dpi=100)
    for place, (explanation, given, title) in enumerate(drawn, 1):
        axes: Axes = figure.add_subplot(nb_rows, columns, place)
        draw_map(axes, explanation, given)
        axes.set_title(title, fontsize=8, parse_math=False)
    figure.savefig(path, format="png")
    return len(drawn)


def _first(run: Run, most: int) -> list[tuple[np.ndarray, Any, str]]:
    """Maps, inputs and titles of the first inputs without an error."""
    wanted = [name for name in ("input", "error", *NUMBERS) if name in run.columns]
    tables: list[pa.Table] = []
    for table in run.tables(wanted):
        tables.append(table.filter(table["error"].is_null()))
        if sum(map(len, tables)) >= most:
            break
    if not tables:
        return []
    rows = Rows.of(pa.concat_tables(tables, promote_options="default").slice(0, most))
    _, certificate = next(run.certificates(), (None, None))
    headline = None if certificate is None else headline_of(certificate)
    proved = None if headline is None else rows.proved(headline)
    found = []
    for place in range(len(rows.numbers)):
        number = int(rows.numbers[place])
        explanation = run.map_of(number)
        if explanation is None:
            break
        title = _title(rows, place, headline, proved)
        found.append((explanation, input_of(run, number).given, title))
    return found


def _title(rows: Rows, place: int, headline: Headline | None, proved: np.ndarray | None) -> str:
    """Number, class and what is proved, in two lines."""
    first = f"{rows.numbers[place]}"
    if np.isfinite(rows.targets[place]):
        first += f": class {int(rows.targets[place])}"
    if headline is None or proved is None:
        return first
    if rows.has_robust:
        return f"{first}\n{'proved' if proved[place] else 'not proved'}"
    return f"{first}\n{headline.each.format(f'{rows.certified[place]:.3g}')}"
