"""The questions of branch and bound to one network, compiled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from xcertify.bounds import backend
from xcertify.bounds.branching.bounding import Bounding, Branches
from xcertify.bounds.branching.layout import Layout
from xcertify.bounds.engine import Engine
from xcertify.bounds.query import Query

_LARGEST_BATCH = {"activations": 256, "inputs": 1024}
_TENSORS_HELD = 40  # of the size of a branch, while it is bounded


class Branching:
    """The questions of branch and bound, compiled for one network.

    Parameters
    ----------
    engine
        The network.
    strategy
        "activations": the intervals before activations are split, shares and multipliers are
        optimised. "inputs": boxes of inputs are split, and all tensors bounded anew.
    """

    def __init__(self, engine: Engine, strategy: str, **settings: Any) -> None:
        self.engine, self.strategy = engine, strategy
        graph, by_inputs = engine.graph, strategy == "inputs"
        self.layout = Layout(graph, graph.output, by_inputs)
        options = replace(engine.queries.options, alternatives=not by_inputs)
        self.bounding = Bounding(
            self.layout,
            graph.output,
            options,
            engine.budget,
            refine=by_inputs,
            **settings,
        )

    @property
    def batch_size(self) -> int:
        """Branches that are bounded at once."""
        entries = sum(math.prod(node.shape) for node in self.engine.graph.nodes)
        per_branch = entries * _TENSORS_HELD * self.engine.budget.item_size
        fitting = int(0.4 * self.engine.budget.nb_bytes) // per_branch
        return max(2, min(fitting, _LARGEST_BATCH[self.strategy]))

    def in_batches(self, some: np.ndarray) -> Iterator[np.ndarray]:
        """Numbers (M,) in parts that are bounded at once."""
        step = self.batch_size
        return (some[first : first + step] for first in range(0, len(some), step))

    def roots(self, query: Query, optimizer: tuple[int, float] | None) -> list[np.ndarray]:
        """See `Bounding.roots`."""
        function = partial(self.bounding.roots, optimizer=optimizer)
        return self._call(("roots", optimizer), function, query, [])

    def bounds(self, query: Query, branches: Branches, nb_steps: int) -> list[np.ndarray]:
        """See `Bounding.bounds`."""

        def function(query: Query, *arrays: Any) -> Any:
            return self.bounding.bounds(query, Branches(*arrays[:-1]), arrays[-1])

        return self._call(("bounds",), function, query, [*branches, np.int32(nb_steps)])

    def probe(
        self, query: Query, branches: Branches, entries: Any, down: Any, up: Any
    ) -> np.ndarray:
        """See `Bounding.probe`."""

        def function(query: Query, *arrays: Any) -> Any:
            return [self.bounding.probe(query, Branches(*arrays[:-3]), *arrays[-3:])]

        (found,) = self._call(("probe",), function, query, [*branches, entries, down, up])
        return found

    def _call(
        self, name: tuple, function: Any, query: Query, arrays: Sequence[Any]
    ) -> list[np.ndarray]:
        """What a function of a query and of arrays gives, as arrays."""
        form, nb_values = query.form, len(query.values)

        def traced(*tensors: Any) -> Any:
            return function(form.filled(tensors[:nb_values]), *tensors[nb_values:])

        signature = [
            ((None, *a.shape[1:]) if a.ndim else (), str(a.dtype)) for a in (*query.values, *arrays)
        ]
        bounding = self.bounding
        rates = bounding.share_rate, bounding.multiplier_rate, bounding.nb_candidates
        key = ("branching", name, self.strategy, form, tuple(signature), bounding.options, rates)
        compiled = self.engine.compiled(key, traced, signature)
        share = 0.0 if self.engine.compile is False else math.inf
        with backend.full_precision():
            found = compiled(*query.values, *arrays, share=share)
        return [np.asarray(part) for part in found]
