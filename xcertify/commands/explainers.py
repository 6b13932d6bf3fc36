"""Explainers by their names."""

from __future__ import annotations

from xcertify.commands.quiet import start_tensorflow


def explainers() -> dict[str, type]:
    """All explainers of `xcertify.attributions`, by name."""
    start_tensorflow()
    from xcertify import attributions

    found = {name: getattr(attributions, name) for name in attributions.__all__}
    return {name: kind for name, kind in found.items() if hasattr(kind, "explain")}


def explainer_named(name: str, *, certifies: bool = False) -> type:
    """The class that is meant: EVAHybrid, evahybrid, eva-hybrid and eva_hybrid are one.

    Parameters
    ----------
    certifies
        Whether it has to have certificates.

    Raises
    ------
    ValueError
        With all names, for another one; and for an explainer without certificates.
    """
    known = explainers()
    certifying = {word: kind for word, kind in known.items() if hasattr(kind, "certify")}
    meant = {word.lower(): kind for word, kind in known.items()}
    kind = meant.get(str(name).replace("-", "").replace("_", "").lower())
    if kind is None:
        names = sorted(certifying if certifies else known, key=str.lower)
        raise ValueError(f"explainer must be one of {', '.join(names)}. Received: {name}")
    if certifies and kind.__name__ not in certifying:
        raise ValueError(
            f"{kind.__name__} proves nothing: write xcertify explain, or --explainer with one of "
            f"{', '.join(sorted(certifying, key=str.lower))}"
        )
    return kind
