"""The engine: one network by one method, asked part by part what a memory budget allows."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify.bounds import backend
from xcertify.bounds.comparison import Comparison, compare, refuse_excluding
from xcertify.bounds.graph.backpropagation import GradientGraph, gradient_graph
from xcertify.bounds.graph.operations import Elementwise, Input, Options
from xcertify.bounds.network import Network, refuse_weights_that_are_not_finite
from xcertify.bounds.propagation.budget import Budget, batches
from xcertify.bounds.propagation.depth import refines
from xcertify.bounds.propagation.target_rows import RowForm, TargetRows
from xcertify.bounds.queries import Queries
from xcertify.bounds.query import Query, round_outward
from xcertify.regions import Region

Sides = Sequence[np.ndarray]

_COMPUTED_PER_NODE = 3.5e7
_FILLED_UNCOMPILED = 0.2  # of the memory budget
_TIMES_UNCOMPILED = 8  # as many bytes as it has, as they are counted, for a single sample


@dataclass(frozen=True)
class Question:
    """What is asked, of whatever regions and rows.

    Attributes
    ----------
    function
        ``function(node, rows, query)`` of tensors, as in `Queries`; gives lower and upper sides
        (N, S, ...) in turn.
    node
        The node of the graph that rows start from.
    key
        Tells it apart from other questions about the node.
    per_pair
        Bytes that come back for each pair of a sample and a row.
    pairs_at_once
        How many pairs are worked on at a time, where each takes as much as a sample.
    """

    function: Callable[[int, TargetRows, Query], Any]
    node: int
    key: tuple
    per_pair: int = 16
    pairs_at_once: int | None = None


class Engine:
    """A network as it is now, and what has been compiled of it.

    Parameters
    ----------
    network
        What is bounded.
    method, options, budget, optimizer
        See `Queries`.
    compile
        See `Verifier`.
    state
        All that the network was read from but weights; see `comparison.compare`.
    """

    def __init__(
        self,
        network: Network,
        method: str,
        options: Options,
        budget: Budget,
        optimizer: tuple[int, float],
        compile: bool | str,
        state: Any,
    ) -> None:
        self.network, self.graph = network, network.graph()
        self.dtype, self.budget = options.dtype, budget
        self.queries = Queries(self.graph, method, options, budget, optimizer)
        # Without seeds and metrics, which no bound depends on.
        self._variables = network.model.weights
        self._state, self._compared, self.compile = state, False, compile
        self._kept: dict[Any, Any] = {}
        self._lock = threading.RLock()

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the input that varies and of the others behind it."""
        return [node.shape for node in self.graph.nodes[: self.graph.nb_inputs]]

    @property
    def constant_types(self) -> list[str]:
        """Types of the inputs that do not vary."""
        inputs = (node.operation for node in self.graph.nodes[1 : self.graph.nb_inputs])
        return [made.dtype for made in inputs if isinstance(made, Input)]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what is bounded."""
        return self.graph.nodes[self.graph.output].shape

    @property
    def nb_outputs(self) -> int:
        """Number of the outputs, flattened."""
        return math.prod(self.output_shape)

    # --- asked ------------------------------------------------------------------------------------

    def answer(
        self,
        question: Question,
        region: Region,
        rows: Any,
        constants: Sequence[Any],
        weight_radii: Sequence[np.ndarray] = (),
    ) -> list[np.ndarray]:
        """Sides (N, S, ...) of all samples and rows, rounded outward; parameters as for `parts`."""
        nb_rows = self._nb_rows(question, rows)
        found: list[np.ndarray] = []
        for samples, some, sides in self.parts(question, region, rows, constants, weight_radii):
            found = found or [
                np.empty((len(region), nb_rows, *side.shape[2:]), self.dtype) for side in sides
            ]
            for number, side in enumerate(sides):
                round_outward(side, found[number][samples, some], up=number % 2 == 1)
        return found

    def parts(
        self,
        question: Question,
        region: Region,
        rows: Any,
        constants: Sequence[Any],
        weight_radii: Sequence[np.ndarray] = (),
    ) -> Iterator[tuple[slice, slice, Sides]]:
        """Sides for some samples and rows at a time, as the budget allows.

        Parameters
        ----------
        question
            What is asked.
        region
            N regions.
        rows
            (S, size of the node) or (N, S, size of the node), or None for its entries.
        constants
            The inputs that do not vary, (N, *shape) each.
        weight_radii
            See `Query`.
        """
        shape = self.graph.nodes[question.node].shape
        name = "entries" if rows is None else "shared" if rows.ndim == 2 else "own"
        form = RowForm(name, shape, self.dtype)
        # What is handed over is held as an array and as a tensor.
        nb_pairs = question.pairs_at_once or self.budget.nb_pairs(
            question.per_pair + 2 * form.per_pair
        )
        nb_samples, finite = self.budget.nb_samples(self.graph), True
        nb_rows = self._nb_rows(question, rows)
        for samples, some in batches(len(region), nb_rows, nb_samples, nb_pairs):
            query = Query.over(
                region[samples],
                [constant[samples] for constant in constants],
                [radius[samples] for radius in weight_radii],
                self.dtype,
            )
            ask, nb_asked = self._compiled(question, form, query.form), some.stop - some.start
            filled = len(query.center) * nb_asked / nb_pairs
            if not self._fits_alone(question.node, len(query.center)):
                filled = max(filled, len(query.center) / nb_samples)
            share = self._share(question, len(query.center), nb_asked, filled)
            with backend.full_precision():
                sides = ask(form.handed(rows, samples, some), *query.values, share=share)
            sides = [np.asarray(side) for side in sides]
            if finite and not all(np.isfinite(side).all() for side in sides):
                refuse_weights_that_are_not_finite(self.graph, self.network.model)
                finite = False
            yield samples, some, sides

    def evaluate(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """The network itself, (N, *outputs) in the working type, of all its inputs."""
        signature = [((None, *shape), self.dtype) for shape in self.input_shapes]
        function = self.compiled(
            ("evaluate",), lambda *inputs: self.graph.evaluate(inputs), signature
        )
        step = self.budget.nb_samples(self.graph)
        found = np.empty((len(inputs[0]), *self.output_shape), self.dtype)
        with backend.full_precision():
            for samples, _ in batches(len(found), 1, step, step):
                values = [array[samples].astype(self.dtype, copy=False) for array in inputs]
                found[samples] = function(*values, share=self._share(None, len(values[0]), 0))
        if not np.isfinite(found).all():
            self._refuse_outputs(found)
        return found

    def gradients(self, loss: str) -> GradientGraph:
        """The network and its backpropagation."""
        return self._keep(("gradient", loss), lambda: gradient_graph(self.graph, loss))

    @property
    def is_large(self) -> bool:
        """Whether rows of inner tensors do not go back unless they are asked to."""
        output = self.graph.output
        return self._keep(("large",), lambda: not refines("auto", self.graph, [output]))

    def refines(self, node: int) -> bool:
        """Whether rows of tensors before a node go back, as those of "crown" in small networks."""
        return self._keep(("refines", node), lambda: self.queries.refines(node))

    def _fits_alone(self, node: int, nb_samples: int) -> bool:
        """Whether it is one sample whose intervals and relaxations fit the budget uncompiled.

        One after the other, without backward passes of inner tensors, they take about a tenth of
        what the budget counts with.
        """
        if nb_samples > 1 or self.queries.method == "alpha-crown" or self.refines(node):
            return False
        return self.budget.bytes_of(self.graph)[0] <= _TIMES_UNCOMPILED * self.budget.nb_bytes

    def _nb_rows(self, question: Question, rows: Any) -> int:
        return math.prod(self.graph.nodes[question.node].shape) if rows is None else rows.shape[-2]

    def _compiled(self, question: Question, rows: RowForm, form: Query) -> Callable:
        """A question as a compiled function of rows and of the values of a query."""

        def traced(handed: Any, *values: Any) -> Any:
            query = form.filled(values)
            target = TargetRows(rows, handed, query.nb_samples)
            return question.function(question.node, target, query)

        key = (question.key, question.node, rows, form)
        return self.compiled(key, traced, [rows.signature, *form.values])

    def compiled(
        self,
        key: tuple,
        function: Callable,
        signature: Sequence[tuple[tuple, str]],
        only_if_possible: bool = False,
    ) -> backend.Compiled:
        """A function of tensors and of the network's current weights, compiled once for each key.

        `signature` and `only_if_possible` as for `backend.Compiled`.
        """

        def make() -> backend.Compiled:
            return backend.Compiled(function, signature, self._variables, only_if_possible)

        return self._keep(("compiled", *key), make)

    def _share(
        self, question: Question | None, nb_samples: int, nb_rows: int, filled: float = 0.0
    ) -> float:
        """What a question takes uncompiled, as a share of what it takes to compile it.

        To run the operations of a graph one by one takes a tenth of the time that it takes to
        compile them. What they compute, S rows that go back through E entries of the network, comes
        on top: as much again for every `_COMPUTED_PER_NODE` entries and node. Whoever optimises
        lines computes it again in every step. (`benchmarks/first_call.py` has both sides.)
        Uncompiled, nothing is freed before its time, so that what fills much of the memory budget
        is compiled.
        """
        if self.compile != "auto":
            return math.inf if self.compile else 0.0
        if filled > _FILLED_UNCOMPILED:
            return math.inf
        nodes = self.graph.nodes
        if question is not None and self.refines(question.node):
            nb_rows += sum(
                math.prod(nodes[parent].shape)
                for node in nodes
                if isinstance(node.operation, Elementwise)
                for parent in node.parents
            )
        entries = sum(math.prod(node.shape) for node in nodes)
        computed = nb_samples * nb_rows * entries / (_COMPUTED_PER_NODE * len(nodes))
        if self.queries.method == "alpha-crown" and question is not None:
            return 0.2 + 0.1 * self.queries.optimizer[0] * computed
        return 0.1 + 0.1 * computed

    def _keep(self, key: Any, make: Callable[[], Any]) -> Any:
        """What is made once, also where several threads ask for it."""
        if key not in self._kept:
            with self._lock:
                if key not in self._kept:
                    self._kept[key] = make()
        return self._kept[key]

    def _refuse_outputs(self, found: np.ndarray) -> None:
        """An error for outputs that are not finite, by the weights where it is them."""
        refuse_weights_that_are_not_finite(self.graph, self.network.model)
        sample = int(np.argmin(np.isfinite(found).reshape(len(found), -1).all(axis=1)))
        raise ValueError(
            f"the outputs of the model '{self.network.model.name}' are NaN or overflow "
            f"{self.dtype} in sample {sample}. Scale the inputs, or use dtype='float64' where "
            f"there is that choice. Received: {found[sample].reshape(-1)[:5].tolist()}"
        )

    # --- compared with the model ------------------------------------------------------------------

    def compare(
        self, region: Region | None, inputs: np.ndarray, constants: Sequence[Any]
    ) -> Comparison | None:
        """The graph beside the model at the first use; None where that has been done before."""
        if self._compared:
            return None
        with self._lock:
            if self._compared:
                return None
            arrays = [inputs, *(np.asarray(values) for values in constants)]
            found = compare(self.network, self.graph, region, arrays, self._state)
            self._compared = True
            return found

    def confirm(
        self, compared: Comparison, lower: np.ndarray, upper: np.ndarray, rows: Any
    ) -> None:
        """Refuse bounds (P, S) that exclude points of the region, at which the model is known."""
        excluded = compared.excluded(lower, upper, rows)
        if excluded.any() and compared.region is not None:
            self._compared = False  # whoever asks next is refused, too
            refuse_excluding(self.graph, compared.region, compared, excluded)
