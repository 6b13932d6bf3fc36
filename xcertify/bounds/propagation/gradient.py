"""Bounds of the input gradient, on the graph of the network and its backpropagation.

Products of a gradient and a factor of which only a range is known are bounded by chords in the
gradient; where the factor is a smooth function of the network, by McCormick's planes and the lines
of that function.

Sources: Wicker et al., Robust Explanation Constraints for Neural Networks, 2023 (intervals); Shi et
al., Efficiently Computing Local Lipschitz Constants of Neural Networks via Bound Propagation, 2022
(linear bounds).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from keras import ops

from xcertify.bounds.graph.backpropagation import GradientGraph
from xcertify.bounds.graph.operations import Enclosure, Options
from xcertify.bounds.graph.weights import varied
from xcertify.bounds.propagation import interval
from xcertify.bounds.propagation.budget import Budget
from xcertify.bounds.propagation.closing import Domain
from xcertify.bounds.propagation.refinement import BackwardBounds

GRADIENT_METHODS = ("ibp", "ibp-crown", "crown-ibp", "crown")
FORMER_GRADIENT_METHODS = {"interval": "ibp", "crown-interval": "ibp-crown"}


def gradient_method(name: str, stacklevel: int = 2) -> str:
    """One of `GRADIENT_METHODS`, from its name or, with a warning, from its former one.

    Parameters
    ----------
    name
        As a user gave it.
    stacklevel
        Of the warning; 2 is the caller of this function.

    Raises
    ------
    ValueError
        For any other name.
    """
    if name in FORMER_GRADIENT_METHODS:
        former, name = name, FORMER_GRADIENT_METHODS[name]
        warnings.warn(
            f"method={former!r} of gradients is deprecated. Write method={name!r}",
            DeprecationWarning,
            stacklevel=stacklevel,
        )
    if name not in GRADIENT_METHODS:
        raise ValueError(f"method must be one of {', '.join(GRADIENT_METHODS)}. Received: {name!r}")
    return name


def enclose_gradient(
    graph: GradientGraph,
    domain: Domain,
    rows: Any,
    options: Options,
    method: str,
    budget: Budget,
    weight_radii: Sequence[Any] = (),
) -> tuple[Enclosure, Any]:
    """All gradients by the input over regions, (N * S, *input), and which are known, (N * S,) bool.

    Of a gradient that is not finite at the center itself nothing is known.

    Parameters
    ----------
    graph
        The network and its backpropagation.
    domain
        The regions.
    rows
        (N, S, *outputs): rows of the logits, or what is subtracted from the probabilities.
    options
        Arithmetic.
    method
        One of `GRADIENT_METHODS`.
    budget
        Says how many rows go back at once.
    weight_radii
        Of weights and, if they have their own, of biases, (N,) each; see `weights.varied`.
    """
    enclosures = _enclose_network(graph, domain, options, method, budget, weight_radii)
    nb_rows = ops.shape(rows)[1]

    def each(tensor: Any) -> Any:
        """A tensor (N, ...) for every row, (N * S, ...)."""
        return ops.repeat(tensor, nb_rows, axis=0)

    known = {index: Enclosure(*map(each, e)) for index, e in enclosures.items()}
    rows = ops.cast(ops.reshape(rows, (-1, *rows.shape[2:])), "float64")
    zeros = ops.zeros_like(rows, dtype=options.dtype)
    known[graph.seed] = Enclosure(rows, zeros, zeros)
    weight_radii = [each(radii) for radii in weight_radii]
    if method.startswith("ibp"):
        backward = varied(graph.intervals, *weight_radii)
        interval.propagate(backward, known, options, [graph.output])
        return known[graph.output], interval.finite(known)
    backward = varied(graph.graph, *weight_radii)
    bounds = BackwardBounds(
        backward,
        domain.each(each, known),
        options,
        [graph.output],
        refine=False if method == "crown-ibp" else range(graph.seed + 1, len(backward.nodes)),
        relax=True,
        budget=budget,
    )
    if graph.output not in bounds.exact:
        widths = bounds.enclosures[graph.output]
        bounds.refine(graph.output, widths.upper > widths.lower)
    return bounds.enclosures[graph.output], interval.finite(bounds.enclosures)


def _enclose_network(
    graph: GradientGraph,
    domain: Domain,
    options: Options,
    method: str,
    budget: Budget,
    weight_radii: Sequence[Any],
) -> interval.Enclosures:
    """Enclosures (N, *shape) of what the gradients are made of."""
    network = varied(graph.network, *weight_radii)
    if method != "ibp":
        refine = method != "crown-ibp"
        bounds = BackwardBounds(
            network, domain, options, graph.targets, refine, relax=True, budget=budget
        )
        return bounds.enclosures
    enclosures = dict(domain.known)
    interval.propagate(network, enclosures, options, graph.targets)
    return enclosures
