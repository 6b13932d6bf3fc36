"""The estimate of a model."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from xcertify import attributions
from xcertify.attributions.base import Explainer
from xcertify.bounds import LayerCoverage, UnsupportedLayerError, Work, coverage_of, work_of
from xcertify.estimates.costs import Cost, first_sentence
from xcertify.estimates.explainers import costs_of
from xcertify.estimates.text import text_of
from xcertify.estimates.units import Units
from xcertify.inputs import input_shape_of


@dataclass(frozen=True)
class Estimate:
    """What a model allows and what it costs; printed, it is three tables.

    Attributes
    ----------
    model
        Name of the model.
    layers
        How each layer is bounded; none of a model whose layers are not known.
    methods
        Costs of bounds, of all outputs and of the gradient of one.
    explainers
        Costs of explainers, with each method that they have.
    refused
        Why the model cannot be bounded; "" where it can.
    seconds
        That the estimate took.

    No guarantee
    ------------
    Costs are estimates: of this machine as busy as it was, and of inputs like the one that was
    given. Searches (`CORGI`, `RelEx`, `SufficientReason`) end earlier or later on others.
    """

    model: str
    layers: list[LayerCoverage]
    methods: list[Cost]
    explainers: list[Cost]
    refused: str
    seconds: float

    def __str__(self) -> str:
        return "\n".join(
            text_of(self.model, self.layers, self.methods, self.explainers, self.refused)
        )


def estimate(model: keras.Model, *, input: Any = None, seconds: float = 20) -> Estimate:
    """What of a model can be bounded, and what each explainer would cost.

    Parameters
    ----------
    model
        A built Keras model that classifies.
    input
        One input, (*shape) or (1, *shape), like those that will be explained. None: random numbers
        from 0 to 1.
    seconds
        That measuring may take, about: what is left then is estimated.

    Returns
    -------
    estimate
        With the rows `layers`, `methods` and `explainers`; ``print(estimate)`` shows them.

    Raises
    ------
    ValueError
        For a model that no explainer takes, and an input that does not fit it.

    No guarantee
    ------------
    Of costs. On three small networks they were 0.28 to 3.3 times the time of the processor, most of
    them 0.6 to 1.4 times (``pytest -m slow tests/test_estimates.py`` prints them). What is not
    measured for want of time, and inputs on which a search goes on, may be farther off.

    Examples
    --------
    >>> print(estimate(model))
    """
    begin = time.monotonic()
    one = _input(model, input)
    layers, work, refused = _bounded(model)
    sizes = [math.prod(n or 1 for n in layer.shape) for layer in layers if layer.shape]
    units = Units(model, one, work, one.size + sum(sizes), begin + seconds)
    methods = [] if work is None else list(_methods(units, work))
    explainers = [
        cost
        for name in attributions.__all__
        if isinstance(kind := getattr(attributions, name), type) and issubclass(kind, Explainer)
        for cost in costs_of(kind, units, refused)
    ]
    return Estimate(
        getattr(model, "name", str(model)),
        layers,
        methods,
        explainers,
        refused,
        time.monotonic() - begin,
    )


def _input(model: Any, given: Any) -> np.ndarray:
    """One input (1, *shape) float32."""
    shape = input_shape_of(model)
    if given is None:
        if shape is None or None in shape:
            raise ValueError(
                f"the shape of the model's input is not known: give an input. Received: {shape}"
            )
        fixed = [size or 1 for size in shape]
        types = [str(tensor.dtype) for tensor in getattr(model, "inputs", None) or ()]
        if types and types[0].startswith("int"):
            raise ValueError(
                f"the model takes whole numbers ({types[0]}), such as words, which explainers do "
                f"not vary: estimate the model behind its embedding, "
                f"xcertify.behind.behind(model, layer), or give an input"
            )
        return np.random.default_rng(0).random((1, *fixed)).astype(np.float32)
    one = np.asarray(given, np.float32)
    one = one[None] if shape is not None and one.ndim == len(shape) else one
    if one.shape[0] != 1 or (shape is not None and one.ndim != len(shape) + 1):
        raise ValueError(
            f"input must be one input, of shape {shape}. Received: shape {np.shape(given)}"
        )
    return one


def _bounded(model: Any) -> tuple[list[LayerCoverage], Work | None, str]:
    """The layers, the work that bounds are, and why there are none."""
    layers: list[LayerCoverage] = []
    try:
        layers = coverage_of(model)
        return layers, work_of(model), ""
    except UnsupportedLayerError as error:
        return layers, None, str(error)


def _methods(units: Units, work: Work) -> Iterator[Cost]:
    for (what, method), seconds in units.bounds.items():
        is_measured = (what, method) in units.measured
        yield Cost(what, method, True, seconds, units.nb_bytes(method), is_measured)
    if work.gradient_reason:
        yield Cost(
            "gradient",
            "",
            True,
            math.nan,
            refused=True,
            reason=first_sentence(work.gradient_reason),
        )
