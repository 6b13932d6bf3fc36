"""A run as one page that anybody can open, without xcertify and without a network."""

from __future__ import annotations

import base64
import inspect
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from xcertify.certificates import SmoothedCertificate
from xcertify.plots import plot_certified_pixels
from xcertify.runs.curves import curves
from xcertify.runs.pictures import as_png, input_of, is_drawn, picture
from xcertify.runs.proved import NUMBERS, Headline, Rows, headline_of

if TYPE_CHECKING:
    from xcertify.runs.folder import Run

_TEMPLATE = "report.html.jinja"
_NEEDED = (
    *("command", "explainer", "settings", "model", "architecture", "weights", "source", "targets"),
    *("batch", "threads", "device", "versions"),
)
_QUANTILES = {"least": 0, "10 %": 10, "median": 50, "90 %": 90, "largest": 100}
_MINUS, _NOTHING, _BULLET = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{BULLET}"
_MOST_CLASSES = 30
_MOST_ERRORS = 50
_MOST_MAPS = 4  # of a kind
_MOST_LETTERS = 2000


def write_report(run: Run, path: str | os.PathLike[str]) -> None:
    """Write one HTML page about a run: what was asked, what is proved, and how to check it.

    The page needs nothing else: no script, no font, no other file, and no request leaves it. Names
    of files, messages and settings are shown as text, whatever they hold.

    Parameters
    ----------
    run
        Of any explainer, finished or not. Its numbers are read, and of its maps and inputs those
        that are drawn.
    path
        The file; one that is there is replaced.

    Raises
    ------
    ValueError
        For rows that were changed, and settings in which something is missing.
    OSError
        If the file cannot be written.

    Guarantee
    ---------
    The page repeats what the run says, and proves nothing of its own: what holds is what
    ``xcertify recheck`` confirms.

    Examples
    --------
    >>> write_report(Run.open("runs/a"), "report.html")
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    page = environment.get_template(_TEMPLATE).render(_content(run))
    Path(path).write_text(page, encoding="utf-8")


def _content(run: Run) -> dict[str, Any]:
    """Everything that the page shows, by the names of the template."""
    settings = run.settings
    missing = [name for name in _NEEDED if name not in settings]
    if missing:
        raise ValueError(
            f"the settings of the run say nothing of {', '.join(missing)}: they were changed, or "
            f"are those of another version. Received: {', '.join(map(str, settings))}"
        )
    table = run.table([name for name in ("input", "error", *NUMBERS) if name in run.columns])
    rows = Rows.of(table)
    _, certificate = next(run.certificates(), (None, None))
    headline = None if certificate is None else headline_of(certificate)
    kinds = _explainer_class(settings["explainer"]), *_certificate_classes(certificate)
    return {
        "settings": settings,
        "region": None if certificate is None else _region(certificate, settings["settings"]),
        "certificate": certificate,
        "headline": headline,
        "level": "" if certificate is None else certificate.describe_level(),
        "nb_inputs": settings["source"]["nb_inputs"],
        "nb_rows": len(rows.numbers),
        "nb_errors": int(rows.failed.sum()),
        "is_complete": not run.missing,
        "summaries": [text for kind in kinds[:2] if (text := _first_paragraph(kind))],
        "proved": None if headline is None else _proved(rows, headline),
        "classes": _classes(rows, headline),
        "curves": None if headline is None else _as_data(curves(rows, headline), "svg+xml"),
        "pixels": _certified_pixels(run),
        "groups": _pictures(run, rows, headline),
        "errors": _errors(run, rows),
        "most_errors": _MOST_ERRORS,
        "warnings": settings.get("warnings") or [],
        "guarantees": [
            found for kind in kinds if (found := _guarantee(kind, settings["command"] == "certify"))
        ],
        "recheck": _recheck(run),
        "seconds": _seconds(rows),
    }


# --- numbers --------------------------------------------------------------------------------------


def _proved(rows: Rows, headline: Headline) -> dict[str, Any]:
    """Shares and quantiles of what is proved."""
    known = ~rows.failed
    proved = rows.proved(headline) & known
    attacked = None if np.isnan(rows.attacked).all() else _quantiles(rows.attacked[known])
    return {
        "nb": int(proved.sum()),
        "share": _share(proved.sum(), known.sum()),
        "nb_known": int(known.sum()),
        "nb_vacuous": int((rows.vacuous & known).sum()),
        "vacuous": _share((rows.vacuous & known).sum(), known.sum()),
        "names": list(_QUANTILES),
        "how": rows.how,
        "certified": _quantiles(rows.certified[known]),
        "attacked": attacked,
        "looseness": None if np.isnan(rows.looseness).all() else _quantiles(rows.looseness[known]),
    }


def _classes(rows: Rows, headline: Headline | None) -> dict[str, Any]:
    """What is proved of each class, the most frequent ones, in their order."""
    known = ~rows.failed & ~np.isnan(rows.targets)
    labels, counts = np.unique(rows.targets[known], return_counts=True)
    shown = np.sort(labels[np.argsort(-counts, kind="stable")[:_MOST_CLASSES]])
    found = []
    for label in shown:
        own = known & (rows.targets == label)
        entry: dict[str, Any] = {"label": int(label), "nb": int(own.sum())}
        if headline is not None:
            entry["share"] = _share((rows.proved(headline) & own).sum(), own.sum())
            entry["certified"] = _number(_median(rows.certified[own]))
            entry["attacked"] = _number(_median(rows.attacked[own]))
        found.append(entry)
    return {
        "rows": found,
        "nb_left_out": len(labels) - len(shown),
        "how": None if np.isnan(rows.attacked).all() else rows.how,
    }


def _seconds(rows: Rows) -> dict[str, str] | None:
    known = rows.seconds[~np.isnan(rows.seconds)]
    if not len(known):
        return None
    return {"total": _duration(known.sum()), "each": f"{_number(known.mean())} s"}


def _quantiles(values: np.ndarray) -> list[str]:
    """Of values (N,), NaN left out; infinite ones count."""
    ordered = np.sort(values[~np.isnan(values)])
    if not len(ordered):
        return [_NOTHING] * len(_QUANTILES)
    places = [round(share / 100 * (len(ordered) - 1)) for share in _QUANTILES.values()]
    return [_number(ordered[place]) for place in places]


def _median(values: np.ndarray) -> float:
    ordered = np.sort(values[~np.isnan(values)])
    return float(ordered[(len(ordered) - 1) // 2]) if len(ordered) else np.nan


def _share(part: Any, whole: Any) -> str:
    return f"{100 * part / whole:.1f} %" if whole else _NOTHING


def _number(value: float) -> str:
    if np.isnan(value):
        return _NOTHING
    if np.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    return f"{value:.4g}".replace("-", _MINUS)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes < 120 else f"{minutes / 60:.3g} h"


# --- pictures -------------------------------------------------------------------------------------


def _pictures(run: Run, rows: Rows, headline: Headline | None) -> list[dict[str, Any]]:
    """Groups of maps: a title, and for each map its picture and a text."""
    if headline is None:
        places = {"The first maps": np.flatnonzero(~rows.failed)[: 2 * _MOST_MAPS]}
    else:
        places = _chosen(rows, headline)
    groups = []
    for title, some in places.items():
        shown = [found for place in some if (found := _shown_map(run, rows, place, headline))]
        if shown:
            groups.append({"title": title, "maps": shown})
    return groups


def _certified_pixels(run: Run) -> dict[str, Any] | None:
    """A picture of what is certified of the pixels of the first maps; None where it is not."""
    numbers, certificate = next(run.certificates(), (np.zeros(0, int), None))
    if not isinstance(certificate, SmoothedCertificate):
        return None
    first = certificate[:_MOST_MAPS]
    figure = plot_certified_pixels(first, first.votes)
    return {
        "numbers": ", ".join(map(str, numbers[:_MOST_MAPS].tolist())),
        "picture": _as_data(as_png(figure), "png"),
    }


def _chosen(rows: Rows, headline: Headline) -> dict[str, np.ndarray]:
    """Places of typical inputs, of those with the best proof, and of some without one."""
    order = rows.better(headline)
    middle = max(0, len(order) // 2 - _MOST_MAPS // 2)
    typical = order[middle : middle + _MOST_MAPS]
    order = order[~np.isin(order, typical)]
    proved = rows.proved(headline)[order]
    rest = order[~proved]
    spread = np.linspace(0, len(rest) - 1, min(_MOST_MAPS, len(rest))).round().astype(int)
    return {
        "Typical: around the median": typical,
        f"Best {headline.word}": order[proved][:_MOST_MAPS],
        f"Not {headline.word}": rest[spread],
    }


def _shown_map(
    run: Run, rows: Rows, place: int, headline: Headline | None
) -> dict[str, Any] | None:
    """The picture of one map and the words below it; None where there is no map to draw."""
    number = int(rows.numbers[place])
    explanation = run.map_of(number)
    if explanation is None or not is_drawn(explanation.shape):
        return None
    if not np.isfinite(explanation).all():
        return None
    found = input_of(run, number)
    words = [f"class {int(rows.targets[place])}"] if np.isfinite(rows.targets[place]) else []
    if headline is not None:
        words.append(headline.each.format(_number(rows.certified[place])))
        if not np.isnan(rows.attacked[place]):
            words.append(f"{rows.how} {_number(rows.attacked[place])}")
    return {
        "number": number,
        "name": found.name,
        "words": ", ".join(words),
        "is_wide": explanation.ndim < 3,
        "picture": _as_data(picture(explanation, found.given, found.feature_names), "png"),
    }


def _as_data(content: bytes | None, kind: str) -> Markup | None:
    if content is None:
        return None
    return Markup(f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}")


# --- words ----------------------------------------------------------------------------------------


def _errors(run: Run, rows: Rows) -> list[dict[str, Any]]:
    """The first rows with an error."""
    if not rows.failed.any():
        return []
    table = run.table(["input", "name", "error"])
    table = table.filter(table["error"].is_valid()).slice(0, _MOST_ERRORS)
    return table.to_pylist()


def _region(certificate: Any, settings: dict[str, Any]) -> str:
    """Which inputs are meant, in words: of a given radius, else that it was looked for."""
    if settings.get("epsilon") is not None or headline_of(certificate).sampled:
        return str(certificate.region)
    norm = {"inf": "l_inf", "2": "l2", "1": "l1"}.get(str(settings.get("norm")), "")
    clip = settings.get("clip")
    within = "" if clip is None else f", within the valid range {clip}"
    return f"{norm} balls around the inputs{within}, of the largest radius that was proved".strip()


def _explainer_class(name: str) -> type | None:
    from xcertify import attributions

    return getattr(attributions, name, None)


def _certificate_classes(certificate: Any) -> tuple[type | None, ...]:
    """Whose docstrings say what is proved: of the certificate, and of the bounds behind it."""
    from xcertify.bounds import Verifier

    if certificate is None:
        return (None,)
    sampled = headline_of(certificate).sampled  # without bounds
    return (type(certificate),) if sampled else (type(certificate), Verifier)


def _first_paragraph(kind: type | None) -> str:
    return inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0] if kind else ""


def _guarantee(kind: type | None, proves: bool) -> dict[str, Any] | None:
    """What a class guarantees, of a run that proves something, and what not, as HTML."""
    if kind is None:
        return None
    sections = _sections(inspect.cleandoc(kind.__doc__ or ""))
    found = {
        "of": kind.__name__,
        "yes": list(_prose(sections.get("Guarantee", ""))) if proves else [],
        "no": list(_prose(sections.get("No guarantee", ""))),
    }
    return found if found["yes"] or found["no"] else None


def _sections(text: str) -> dict[str, str]:
    """The sections of a docstring, by their titles."""
    parts = re.split(r"^(\S.*)\n-{3,}$", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2]))
    # What follows without a title of its own, such as a source, is another subject.
    return {title: re.split(r"\n\nSources?: ", body)[0] for title, body in sections.items()}


def _prose(text: str) -> Iterator[Markup]:
    """Paragraphs and items of a docstring as HTML: code, bold and slanted letters."""
    for paragraph in re.split(r"\n\n|\n(?=- )", text.strip()):
        if paragraph:
            html = re.sub(r"(``?)(.+?)\1", r"<code>\2</code>", str(escape(paragraph)))
            html = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html)
            html = re.sub(r"(?<!\w)\*(\w[^*]*)\*", r"<em>\1</em>", html)
            yield Markup(re.sub(r"^- ", f"{_BULLET} ", html))


def _recheck(run: Run) -> str:
    """The command that proves all of it again."""
    settings = run.settings
    words = ["xcertify", "recheck", str(run.folder), "--model", str(settings["model"])]
    for custom in settings.get("custom") or ():
        words += ["--custom", str(custom)]
    return shlex.join(words)


def _shown(value: Any) -> Any:
    """Any text as it can be shown: without what turns, hides or ends a line, and not endless."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = re.sub(r"[\t\n\v\f\r]+", " ", value)
    if len(text) > _MOST_LETTERS:
        text = text[:_MOST_LETTERS] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
