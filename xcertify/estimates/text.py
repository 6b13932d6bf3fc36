"""An estimate as tables to read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from xcertify.bounds import LayerCoverage
from xcertify.estimates.costs import Cost, first_sentence


def text_of(
    name: str,
    layers: list[LayerCoverage],
    methods: list[Cost],
    explainers: list[Cost],
    refused: str,
) -> Iterator[str]:
    """Lines of text; parameters are the parts of an `Estimate`."""
    yield f"{name}: {len(layers)} layers"
    if refused:
        yield f"\nIt cannot be bounded as a whole. {first_sentence(refused)}"
    if layers:
        yield ""
        yield from _table(
            ("layer", "class", "output", "parameters", "bounded by", "gradient"),
            [
                (
                    layer.name,
                    layer.kind,
                    "?" if layer.shape is None else str(layer.shape),
                    f"{layer.nb_parameters:,}",
                    _SAID.get(layer.bounded, layer.bounded),
                    "yes" if layer.gradient else "no",
                )
                for layer in layers
            ],
        )
        for layer in layers:
            for what, reason in (("", layer.reason), ("gradient: ", layer.gradient_reason)):
                if reason and not (what and layer.reason):
                    yield f"  {layer.name}: {what}{first_sentence(reason)}"
    for title, costs in (("bounds of", methods), ("explainer", explainers)):
        if costs:
            yield ""
            yield from _costs(title, costs)
    yield ""
    yield (
        "* proves something. Seconds are those of one processor; ~ is counted in what was measured,"
    )
    yield "and may be off by a factor of 4. Memory is what is held at once, about."


def _costs(title: str, costs: list[Cost]) -> Iterator[str]:
    rows = [
        (
            f"{cost.name} *" if cost.proves and title == "explainer" else cost.name,
            cost.method,
            _duration(cost),
            _bytes(cost),
            cost.practical,
        )
        for cost in costs
    ]
    yield from _table((title, "method", "seconds an input", "memory", "practical"), rows)
    reasons: dict[str, list[str]] = {}
    for cost in costs:
        if cost.reason and cost.name not in reasons.setdefault(cost.reason, []):
            reasons[cost.reason].append(cost.name)
    for reason, names in reasons.items():
        yield f"  {', '.join(names)}: {reason}"


_SAID = {"intervals": "intervals only", "refused": "REFUSED", "left out": "left out (logits)"}


def _duration(cost: Cost) -> str:
    if math.isnan(cost.seconds):
        return "-"
    return f"{'' if cost.is_measured else '~'}{cost.seconds:.2g}"


def _bytes(cost: Cost) -> str:
    if not cost.nb_bytes or cost.refused:
        return "-"
    nb_mib = cost.nb_bytes / 2**20
    return f"{nb_mib / 1024:.1f} GiB" if nb_mib >= 512 else f"{max(nb_mib, 0.1):.3g} MiB"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    for row in (head, *rows):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip()
