"""What explainers cost, counted in units that were measured."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from xcertify import attributions
from xcertify.attributions.base import WITHOUT_BOUNDS, Certifying, Explainer
from xcertify.bounds import GRADIENT_METHODS, METHODS
from xcertify.estimates.costs import Cost, first_sentence
from xcertify.estimates.units import NoBounds, Units
from xcertify.grid import grid_cells


def _evaluations(one: Any, units: Units) -> float:
    """Of a number of evaluations with something hidden, at many points."""
    shape = units.inputs.shape[1:]
    if isinstance(one, attributions.Rise):
        return units.call + one.nb_samples * units.hidden
    if isinstance(one, attributions.SampledEVA):
        nb_cells = int(grid_cells(shape, one.grid_size).max()) + 1
        return units.call + (1 + nb_cells) * one.nb_samples * units.point
    sides = np.broadcast_to(one.patch_stride, min(len(shape), 2))
    nb_patches = math.prod(-(-size // side) for size, side in zip(shape, sides))
    return units.call + nb_patches * units.point


def _subsets(one: Any, units: Units) -> float:
    """Of GreedyAS: an attack on each subset, in each of its rounds."""
    nb_rounds = max(1, round(one.last_share / one.share))
    return nb_rounds * one.nb_subsets * one.steps * one.restarts * units.slope


def _mask(one: Any, units: Units) -> float:
    """Of RelEx: a descent, an attack of about as many gradients as two of it, and a search."""
    descent = one.steps * (units.call + one.nb_samples * units.slope) / 2
    return descent + 2 * one.steps * units.call + one.nb_halvings * units.bound(one.method)


def _reason(one: Any, units: Units) -> float:
    """Of SufficientReason: some bounds for each group of features, while there is time."""
    groups = grid_cells(units.inputs.shape[1:], one.grid_size)
    most = math.inf if one.time_limit is None else float(one.time_limit)
    return min(most, (1 + int(groups.max())) * units.bound(one.method))


def _noisy_gradients(one: Any, units: Units) -> float:
    """Of certificates from samples: a gradient at each of them."""
    return units.call + (one.nb_choosing + one.nb_samples) * units.slope


# By explainer: seconds for each input, of `certify` where there is that. The numbers are how often
# each of the units was found in what was measured (tests/test_estimates.py).
_COSTS: dict[str, Callable[[Any, Units], float]] = {
    "AttributionBound": lambda one, units: one.nb_products * units.call,
    "CORGI": lambda one, units: 30 * units.bound(one.method),
    "CertifiedGradient": lambda one, units: units.bound(one.method, "gradient") + 5 * units.call,
    "EVA": lambda one, units: 2.3 * units.bound(one.method),
    "GradCAM": lambda one, units: units.call,
    "GradCAMPP": lambda one, units: units.call,
    "GradientInput": lambda one, units: units.call,
    "GreedyAS": _subsets,
    "IntegratedGradients": lambda one, units: units.call + one.steps * units.slope,
    "MarginGradientRange": lambda one, units: units.call,
    "Occlusion": _evaluations,
    "RandomMap": lambda one, units: units.call / 10,
    "RelEx": _mask,
    "Rise": _evaluations,
    "SampledEVA": _evaluations,
    "Saliency": lambda one, units: units.call,
    "SmoothGrad": lambda one, units: units.call + one.nb_samples * units.slope,
    "SmoothedAttribution": _noisy_gradients,
    "SufficientReason": _reason,
    "UniformlySmoothedAttribution": _noisy_gradients,
}
_NOTES = {
    "AttributionBound": "estimates alone; proved=True adds bounds of the gradient",
    "CORGI": "a search, which on other inputs may take several times as long",
    "RelEx": "a search, which on other inputs may take several times as long",
    "SmoothedAttribution": "certificates of gradient maps; of others so many times their cost",
    "SufficientReason": "a search, which takes up to its time_limit for an input",
    "UniformlySmoothedAttribution": "certificates of gradient maps; of others so many times their "
    "cost",
}
_LOOK_FOR_LAYERS = ("CORGI", "GradCAM", "GradCAMPP")  # what they refuse `explain` alone says


def costs_of(kind: type[Explainer], units: Units, refused: str) -> Iterator[Cost]:
    """Of an explainer, with each of its methods.

    Parameters
    ----------
    kind
        Its class; settings are the defaults.
    units
        What was measured of the model.
    refused
        Why the model cannot be bounded, "" where it can.
    """
    parameters = inspect.signature(kind).parameters
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is not parameter.VAR_KEYWORD
        and name not in ("model", "explainer")
    ]
    if needed:
        reason = f"depends on {', '.join(needed)}"
        yield Cost(kind.__name__, "", False, math.nan, reason=reason)
        return
    proves = issubclass(kind, Certifying) and "proved" not in parameters
    if not proves or "method" not in parameters:
        yield _cost(kind, {}, proves, units)
        return
    if refused:
        reason = f"{first_sentence(refused)} Use {WITHOUT_BOUNDS}."
        yield Cost(kind.__name__, "", proves, math.nan, refused=True, reason=reason)
        return
    names = GRADIENT_METHODS if kind is attributions.CertifiedGradient else METHODS
    found = [_cost(kind, {"method": method}, proves, units) for method in names]
    # A method that is refused beside others is one that the explainer has not.
    yield from [cost for cost in found if not cost.refused] or [replace(found[-1], method="")]


def _cost(kind: type[Explainer], settings: dict[str, Any], proves: bool, units: Units) -> Cost:
    """Of an explainer with these settings, or the reason why there is none for this model."""
    name, method = kind.__name__, settings.get("method", "")
    try:
        one = kind.of_model(units.model, **settings)
        one._prepare(units.one, None)
        if name in _LOOK_FOR_LAYERS:
            one.explain(units.one)
        seconds = _COSTS[name](one, units) if name in _COSTS else math.nan
    except NoBounds as error:
        reason = f"{first_sentence(str(error))} Use {WITHOUT_BOUNDS}."
        return Cost(name, method, proves, math.nan, refused=True, reason=reason)
    except ValueError as error:
        reason = first_sentence(str(error))
        return Cost(name, method, proves, math.nan, refused=True, reason=reason)
    reason = _NOTES.get(name, "")
    return Cost(name, method, proves, seconds, units.nb_bytes(method), reason=reason)
