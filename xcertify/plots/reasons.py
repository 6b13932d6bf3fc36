"""Pictures of sufficient reasons: what is enough for an answer, and what would change it."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from xcertify.logits import logits_of
from xcertify.models import channels_last_layer
from xcertify.plots.maps import draw_attribution, draw_image
from xcertify.plots.series import draw_series
from xcertify.plots.style import INK, add_colour_bar, as_pixels, new_grid, one_per_map

# Vermilion and blue of Okabe and Ito, which all eyes tell apart; in grey, dots and marks do.
_NEEDED, _UNKNOWN, _IRRELEVANT = "needed", "unknown", "irrelevant"
_COLOURS = {_NEEDED: "#d55e00", _UNKNOWN: "#0072b2", _IRRELEVANT: "#c9c9c9"}
_MEANINGS = {
    _NEEDED: "needed: free, it can change the answer",
    _UNKNOWN: "unknown: kept, to be safe",
    _IRRELEVANT: "irrelevant: all of it may move at once, proved",
}
_SEPARATORS = " =_:./-"  # between the name of a group and that of its column
_MOVED = 1e-3  # of the reach of a feature: what is worth a word


def plot_reasons(
    certificate: Any,
    inputs: Any = None,
    *,
    model: Callable | None = None,
    shown: Sequence[int | None] | None = None,
    class_names: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    group_names: Mapping[int, str] | None = None,
    to_units: Callable[[np.ndarray], Any] | None = None,
    most: int = 24,
    img_size: float = 1.7,
    figure: Figure | None = None,
) -> Figure:
    """Draw what is enough for an answer, beside an input with another answer if less is kept.

    Of an image or a time series: itself, the features that are needed (and, dotted, unknown), a
    witness, and what has moved there; a frame marks the needed feature that the witness frees. Of
    a row of a table: a list of the features with what each of them is, and bars of what has moved.

    Parameters
    ----------
    certificate
        A `xcertify.certificates.ReasonCertificate`.
    inputs
        (N, *input): what is drawn of images in the place of the certificate's inputs.
    model
        Says which answer the witness has, so that it can be written down. None: "another answer".
    shown
        N labels of needed features, whose witnesses are drawn; None for one of them, or for all:
        the witness that is nearest to the input, in l2.
    class_names
        Names of the classes. Default: "class 0" and so on.
    feature_names
        Of a table: one for each column. A group of columns is named by what theirs begin with.
    group_names
        Of a table: names of groups by their labels, where there are better ones.
    to_units
        Maps inputs (M, *input) to the units that are shown, such as ``scaler.inverse_transform`` of
        a standardised table. Default: as they are.
    most
        Of a table: the most features that are listed; how many are left is said.
    img_size
        Height of an image, in inches.
    figure
        An empty figure to draw on. Default: a new one.

    Returns
    -------
    matplotlib.figure.Figure
        Of images and series a row for each, of four axes and one for a colour bar; of tables one
        axes for each row.

    Raises
    ------
    ValueError
        For a label that has no witness, and names or inputs that do not fit.

    Examples
    --------
    >>> certificate = SufficientReason(model, epsilon=0.05, clip=(0, 1)).certify(images)
    >>> plot_reasons(certificate, model=model).savefig("reasons.png")
    """
    if inputs is not None and np.shape(inputs) != certificate.inputs.shape:
        raise ValueError(
            f"inputs must be those of the certificate, {certificate.inputs.shape}. "
            f"Received: {np.shape(inputs)}"
        )
    labels = one_per_map(shown, len(certificate.sizes), "shown")
    reasons = [
        _Reason(certificate, number, label, model, class_names, to_units)
        for number, label in enumerate(labels)
    ]
    if certificate.inputs.ndim == 2:
        names = _Names(certificate.inputs.shape[1], feature_names, group_names)
        return _plot_rows(reasons, names, most, figure)
    if inputs is not None:
        for reason, drawn in zip(reasons, np.asarray(inputs)):
            reason.drawn = drawn
    return _plot_maps(reasons, img_size, figure)


class _Reason:
    """One input of a certificate, its witness, and the words for both.

    Attributes
    ----------
    nominal, drawn
        (*input): the input, and what is shown of it.
    labels, words
        (*features): the group of each feature, and what it is.
    label, witness
        The group that a witness frees, and the witness (*input); None and the input itself where
        there is no witness.
    """

    def __init__(
        self,
        certificate: Any,
        number: int,
        label: int | None,
        model: Callable | None,
        class_names: Sequence[str] | None,
        to_units: Callable[[np.ndarray], Any] | None,
    ) -> None:
        self._certificate, self._number = certificate, number
        self._class_names, self._to_units = class_names, to_units
        self.nominal = np.asarray(certificate.inputs[number], np.float64)
        self.labels = np.asarray(certificate.features[number])
        self.words = np.full(self.labels.shape, _IRRELEVANT, object)
        self.words[certificate.needed[number]] = _NEEDED
        self.words[certificate.unknown[number]] = _UNKNOWN
        self.contributions = np.asarray(certificate.contributions[number], np.float64)
        self.label = self._nearest() if label is None else label
        if label is not None and label not in certificate.witnesses[number]:
            raise ValueError(
                f"shown must be labels of needed features, which have witnesses. "
                f"Received: {label!r} for sample {number}"
            )
        self.witness = self.nominal
        if self.label is not None:
            self.witness = np.asarray(certificate.witnesses[number][self.label], np.float64)
        self.drawn = self.units(self.nominal)
        self.other = self._other_answer(model)

    def units(self, values: np.ndarray) -> np.ndarray:
        """An input (*input) in the units that are shown."""
        if self._to_units is None:
            return values
        return np.asarray(self._to_units(values[None]), np.float64)[0]

    def _nearest(self) -> int | None:
        """The label whose witness is nearest to the input."""
        witnesses = self._certificate.witnesses[self._number]
        far = {key: np.linalg.norm(point - self.nominal) for key, point in witnesses.items()}
        return min(far, key=far.__getitem__) if far else None

    @property
    def moved(self) -> np.ndarray:
        """(*input): how far the witness moved, as shares of how far it may, from -1 to 1."""
        region, step = self._certificate.region, self.witness - self.nominal
        reach = np.maximum(
            region.upper[self._number] - self.nominal, self.nominal - region.lower[self._number]
        )
        return np.divide(step, reach, out=np.zeros_like(step), where=reach > 0)

    @property
    def answer(self) -> str:
        """The answer for the input."""
        answers, target = self._certificate.answers, int(self._certificate.targets[self._number])
        if answers.delta is not None:
            return f"{_number(answers.values[self._number])} ± {answers.delta[self._number]:.2g}"
        return self._name(target)

    def enough(self, what: str = "") -> str:
        """How many features are enough."""
        count = int(self._certificate.sizes[self._number])
        total = int(self._certificate.nb_groups[self._number])
        verb = "is" if count == 1 else "are"
        return f"{count} of {total} {what}{verb} enough"

    def nb(self, word: str) -> int:
        """Number of groups that a word is said of."""
        return len(np.unique(self.labels[self.words == word]))

    def _other_answer(self, model: Callable | None) -> str:
        """The answer for the witness."""
        answers = self._certificate.answers
        if model is None or self.label is None:
            return "another answer"
        point = self.witness[None].astype(np.float32)
        logits = np.asarray(logits_of(model, channels_last_layer(model))(point))[0]
        if answers.delta is not None:
            return _number(logits[answers.classes[self._number]])
        if answers.towards is not None:
            return self._name(int(answers.towards[self._number]))
        return self._name(int(logits.argmax() if len(logits) > 1 else logits[0] > 0))

    def _name(self, number: int) -> str:
        return f"class {number}" if self._class_names is None else str(self._class_names[number])


# --- images and time series -----------------------------------------------------------------------


def _plot_maps(reasons: list[_Reason], img_size: float, figure: Figure | None) -> Figure:
    given = figure is not None
    figure, grid = new_grid(len(reasons), 4, img_size, figure)
    if not given:  # titles of two lines, and a legend below
        figure.set_figheight((img_size + 0.5) * len(reasons) + 0.5)
    for row, reason in enumerate(reasons):
        columns = [figure.add_subplot(grid[row, column]) for column in range(4)]
        _draw_input(columns[0], reason.drawn)
        columns[0].set_title(reason.answer, fontsize=8)
        _draw_words(columns[1], reason)
        columns[1].set_title(f"{reason.enough()}\n{_counts(reason)}", fontsize=8)
        bar = figure.add_subplot(grid[row, -1])
        if reason.label is None:
            for axes in (*columns[2:], bar):
                axes.set_axis_off()
            columns[2].set_title("no witness", fontsize=8)
            continue
        _draw_input(columns[2], reason.units(reason.witness))
        columns[2].set_title(f"framed one free too:\n{reason.other}", fontsize=8)
        drawn = _draw_moved(columns[3], reason)
        columns[3].set_title("difference\nto the input", fontsize=8)
        for axes in columns[1:]:
            _frame(axes, reason)
        add_colour_bar(bar, drawn, signed=True, is_shared=True)
        bar.tick_params(labelsize=6)
    _legend(figure, reasons)
    return figure


def _draw_input(axes: Axes, values: np.ndarray) -> None:
    if values.ndim == 3:
        draw_image(axes, values)
    else:
        draw_series(axes, values, np.zeros(values.shape))


def _draw_words(axes: Axes, reason: _Reason) -> None:
    """Colours over the input: pale where it is irrelevant, dots where that is not known."""
    words = reason.words
    colours = np.ones((*words.shape, 3))
    for word in (_NEEDED, _UNKNOWN):
        colours[words == word] = to_rgb(_COLOURS[word])
    marked = (words != _IRRELEVANT)[..., None]
    if reason.drawn.ndim == 3:
        image = as_pixels(reason.drawn)
        grey = (image if image.ndim == 2 else image @ (0.299, 0.587, 0.114))[..., None]
        draw_image(
            axes, np.where(marked, 0.75 * colours + 0.25 * (0.4 + 0.6 * grey), 0.75 + 0.25 * grey)
        )
    else:
        draw_series(axes, reason.drawn, np.zeros(words.shape))
        behind = np.where(marked, 0.6 * colours + 0.4, 0.9).transpose(1, 0, 2)
        axes.imshow(behind, aspect="auto", zorder=0)
    axes.set_autoscale_on(False)
    rows, columns = np.nonzero(words == _UNKNOWN)
    if reason.drawn.ndim == 2:
        rows, columns = columns, rows
    axes.plot(columns, rows, ".", color="white", markersize=1.5, markeredgewidth=0)


def _draw_moved(axes: Axes, reason: _Reason) -> Any:
    step = reason.units(reason.witness) - reason.units(reason.nominal)
    if step.ndim == 3:
        step = np.take_along_axis(step, np.abs(step).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    else:
        step = step.T
    drawn = draw_attribution(axes, step, signed=True)
    axes.set_aspect("equal" if reason.drawn.ndim == 3 else "auto")
    return drawn


def _frame(axes: Axes, reason: _Reason) -> None:
    """A frame around the group that the witness frees, in images one pixel away from it."""
    places, away = np.argwhere(reason.labels == reason.label), 0.5
    if reason.drawn.ndim == 3:
        places, away = places[:, ::-1], 1.5  # along x, along y
    low, high = places.min(axis=0) - away, places.max(axis=0) + away
    frame = Rectangle(low, *(high - low), fill=False, edgecolor="black", linewidth=1)
    axes.set_autoscale_on(False)
    frame.set_path_effects([Stroke(linewidth=2.4, foreground="white"), Normal()])
    axes.add_patch(frame)


# --- tables ---------------------------------------------------------------------------------------


class _Names:
    """Names of the columns of a table, and of groups of them."""

    def __init__(
        self, nb_columns: int, names: Sequence[str] | None, groups: Mapping[int, str] | None
    ) -> None:
        given = one_per_map(names, nb_columns, "feature_names")
        self._columns = [
            f"feature {n}" if name is None else str(name) for n, name in enumerate(given)
        ]
        self._groups = groups or {}

    def group(self, label: int, columns: np.ndarray) -> str:
        """Name of a group of columns."""
        names = [self._columns[n] for n in columns]
        alike = self._alike(columns).rstrip(_SEPARATORS)
        return self._groups.get(label, names[0] if len(names) == 1 else alike or ", ".join(names))

    def value(self, column: int, columns: np.ndarray) -> str:
        """Name of one column in its group: what is left of it."""
        return self._columns[column][len(self._alike(columns)) :] if len(columns) > 1 else ""

    def _alike(self, columns: np.ndarray) -> str:
        """What the names of columns begin with, up to a separator."""
        letters = zip(*(self._columns[n] for n in columns))
        alike = "".join(
            own[0] for own in itertools.takewhile(lambda own: len(set(own)) == 1, letters)
        )
        return re.sub(f"[^{_SEPARATORS}]*$", "", alike)

    def values(self, row: np.ndarray, columns: np.ndarray) -> str:
        """What a group of columns has as its value."""
        own = row[columns]
        if len(columns) > 1 and np.isin(own, (0, 1)).all() and own.sum() == 1:
            return self.value(int(columns[own.argmax()]), columns)
        return ", ".join(map(_number, own[:3])) + ", ..." * (len(own) > 3)

    def changes(self, before: np.ndarray, after: np.ndarray, columns: np.ndarray) -> str:
        """From what to what the column of a group moved that moved most."""
        steps = np.abs(after - before)[columns]
        most = int(columns[steps.argmax()])
        text = f"{self.value(most, columns)} {_number(before[most])} → {_number(after[most])}"
        return text.strip() + ", ..." * bool((steps > 0).sum() > 1)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _plot_rows(reasons: list[_Reason], names: _Names, most: int, figure: Figure | None) -> Figure:
    lists = [_listed(reason, most) for reason in reasons]
    heights = [0.17 * len(listed) + 0.9 for listed in lists]
    if figure is None:
        figure = Figure(figsize=(6.4, sum(heights) + 0.4), layout="constrained", dpi=150)
    grid = figure.add_gridspec(len(reasons), 1, height_ratios=heights)
    for row, (reason, listed) in enumerate(zip(reasons, lists)):
        _draw_list(figure.add_subplot(grid[row, 0]), reason, listed, names)
    _legend(figure, reasons)
    return figure


def _listed(reason: _Reason, most: int) -> list[tuple[int, np.ndarray, str]]:
    """Groups as (label, columns, word): by word, and within it by contribution."""
    found = []
    for label in np.unique(reason.labels):
        columns = np.flatnonzero(reason.labels == label)
        word = reason.words[columns[0]]
        order = list(_COLOURS).index(word), -reason.contributions[columns].sum()
        found.append((order, int(label), columns, word))
    found.sort(key=lambda one: (*one[0], one[1]))
    return [one[1:] for one in found[:most]]


def _draw_list(
    axes: Axes, reason: _Reason, listed: list[tuple[int, np.ndarray, str]], names: _Names
) -> None:
    """A line for each feature: its name and value, what it is, and how far the witness moved it."""
    before, after, moved = reason.drawn, reason.units(reason.witness), reason.moved
    for place, (label, columns, word) in enumerate(listed):
        for mark in _marks(word):
            mark.set_data([-1.12], [place])
            axes.add_line(mark)
        share = moved[columns[np.abs(moved[columns]).argmax()]]
        if abs(share) < _MOVED:
            continue
        is_freed = label == reason.label
        axes.barh(place, share, 0.7, color=_COLOURS[word])
        text = names.changes(before, after, columns)
        weight = "bold" if is_freed else "normal"
        axes.text(1.06, place, text, va="center", fontsize=7, color=INK, fontweight=weight)
    ticks = [f"{names.group(n, c)} = {names.values(before, c)}" for n, c, _ in listed]
    axes.set_yticks(range(len(listed)), ticks, fontsize=7)
    for tick, (label, _, _) in zip(axes.get_yticklabels(), listed):
        tick.set_fontweight("bold" if label == reason.label else "normal")
    words = [word for *_, word in listed]
    for place in range(1, len(words)):
        if words[place] != words[place - 1]:
            axes.axhline(place - 0.5, color=INK, linewidth=0.5)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlim(-1.18, 1)
    axes.set_ylim(len(listed) - 0.4, -0.6)
    axes.set_xticks([-1, 0, 1], ["as far\ndown as it may", "not moved", "as far\nup as it may"])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=7, colors=INK)
    # above the names as well: beside long ones there is little room
    axes.set_title(_title(reason, len(listed)), fontsize=8, loc="right", ma="left", color=INK)


def _title(reason: _Reason, nb_listed: int) -> str:
    nb_left = len(np.unique(reason.labels)) - nb_listed
    text = f"{reason.answer}: {reason.enough('features ')} ({_counts(reason)})"
    if nb_left:
        text += f"; {nb_left} more are not listed"
    if reason.label is None:
        return text
    return f"{text}\nbars: a change to {reason.other}; of the needed ones, only the bold one moves"


# --- both -----------------------------------------------------------------------------------------


def _counts(reason: _Reason) -> str:
    nb_unknown = reason.nb(_UNKNOWN)
    return f"{reason.nb(_NEEDED)} needed" + f", {nb_unknown} unknown" * (nb_unknown > 0)


def _marks(word: str) -> list[Line2D]:
    """A square, with a dot for what is unknown: as features are drawn, and as the legend says."""
    square = Line2D([], [], linestyle="", marker="s", color=_COLOURS[word], markersize=6)
    dot = Line2D([], [], linestyle="", marker=".", color="white", markersize=3, markeredgewidth=0)
    return [square, dot] if word == _UNKNOWN else [square]


def _legend(figure: Figure, reasons: list[_Reason]) -> None:
    if figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained")
    words = [word for word in _COLOURS if any(reason.nb(word) for reason in reasons)]
    handles: list[Any] = [tuple(_marks(word)) for word in words]
    texts = [textwrap.fill(_MEANINGS[word], 26) for word in words]
    figure.legend(
        handles,
        texts,
        loc="outside lower center",
        ncols=len(words),
        fontsize=7,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.2,
    )
