"""A tree of branch and bound proved once more: along its splits, without the search."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xcertify.bounds.branching.compiled import Branching
from xcertify.bounds.branching.decide import bound_whole
from xcertify.bounds.branching.layout import Layout
from xcertify.bounds.branching.problems import Problems
from xcertify.bounds.branching.proof import Growth, ProofTree
from xcertify.bounds.branching.search import Search
from xcertify.bounds.engine import Engine
from xcertify.regions import Region

# For leaves that are not proved at once:
_MORE_STEPS = 100  # of the optimisation
_MORE_BRANCHES = 200  # of a region, into which its leaves are cut further


def recheck(
    proof: ProofTree,
    engines: tuple[Engine, Engine],
    bound: Callable[..., tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Prove the leaves of a tree anew, (N,) bool.

    Parameters
    ----------
    proof
        A tree that was checked.
    engines
        The engine of "crown", and that of "alpha-crown".
    bound
        As for `Decider`.

    Returns
    -------
    proved
        Regions whose leaves are all proved. A warning names the leaves that are not, of regions
        that the tree says to hold.

    Raises
    ------
    ValueError
        If the network has other tensors than the tree is about.

    Guarantee
    ---------
    The leaves cover a region by the form of the tree, and the bounds of each are computed here.
    Nothing else of the tree counts.
    """
    crown, alpha = engines
    by_inputs = proof.strategy == "inputs"
    branching = Branching(crown if by_inputs else alpha, proof.strategy)
    described = branching.layout.described
    if described != (proof.layers, proof.sizes):
        raise ValueError(
            f"the model's activations are not those of the proof, which has "
            f"{[*zip(proof.layers, proof.sizes)]}. Received: {[*zip(*described)]}"
        )
    region, shape = proof.region, crown.output_shape
    question = proof.rows, proof.limits
    problems = Problems(region, proof.constants, *question, shape, crown.dtype)
    problems.violated[~proof.holds] = True  # nothing is to be proved of them
    whole = problems.region_of[proof.is_leaf[: len(problems.region_of)] & problems.needed]
    bound_whole(problems, np.unique(whole), bound, *question)
    retraced = Retraced(branching, problems, proof)
    retraced.run()
    if len(retraced.pool):
        retraced.persist()
    proved = problems.holds & proof.holds
    if not proved[proof.holds].all():
        warnings.warn(
            f"leaves that could not be proved again: {proof.describe(retraced.unproved)}",
            UserWarning,
            stacklevel=3,
        )
    return proved


class Retraced(Search):
    """The search along a tree that is there: nothing is chosen, attacked or weighed.

    The parts of a node that is proved need no proof of their own.

    Parameters
    ----------
    branching, problems
        As for `Search`.
    proof
        The tree.
    """

    def __init__(self, branching: Branching, problems: Problems, proof: ProofTree) -> None:
        self._given = _Given(proof)
        super().__init__(branching, problems, lambda *_: None, self._given, math.inf, None)

    @property
    def unproved(self) -> np.ndarray:
        """Numbers of the nodes that are left, in order."""
        return np.unique(self.pool.column("node", self.pool.places))

    def persist(self) -> None:
        """More work on the leaves that are left, whose proof took other steps than before."""
        for some in self.branching.in_batches(self.pool.places):
            # All others stay: what has no open branches is closed.
            self._bound(self.pool.take(some), _MORE_STEPS)
        self.problems.nb_branches[:] = 0
        search = Search(
            self.branching, self.problems, self.check, self.tree, math.inf, _MORE_BRANCHES
        )
        search.pool = self.pool
        search.go_on()

    def _chosen(self) -> np.ndarray:
        """The latest nodes first, so that few are open at a time."""
        places = self.pool.places
        places = places[self._can_split(places)]
        order = np.argsort(-self.pool.column("node", places), kind="stable")
        return places[order[: max(1, self.branching.batch_size // 2)]]

    def _can_split(self, places: np.ndarray) -> np.ndarray:
        return self._given.splits[self.pool.column("node", places)] >= 0

    def _choice(self, parents: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        splits = self._given.splits[parents["node"]]
        return self._given.proof.entries[splits], self._given.proof.values[splits]


class _Given(Growth):
    """A tree that does not grow: parts have the numbers that they have there, those of leaves too.

    Attributes
    ----------
    splits
        (Q + 2 B,) int: the split of each node, -1 of leaves.
    """

    def __init__(self, proof: ProofTree) -> None:
        nb_splits = len(proof.split_nodes)
        self.proof, self._nb_roots = proof, len(proof.margins) - 2 * nb_splits
        super().__init__(self._nb_roots, is_kept=False)
        self.splits = np.full(len(proof.margins), -1)
        self.splits[proof.split_nodes] = np.arange(nb_splits)

    def split(self, nodes: np.ndarray, entries: np.ndarray, values: np.ndarray) -> np.ndarray:
        below, is_leaf = self._nb_roots + 2 * self.splits[nodes], self.splits[nodes] < 0
        parts = np.stack([below, below + 1], axis=1)
        return np.where(is_leaf[:, None], nodes[:, None], parts).reshape(-1)


def check_question(
    proof: ProofTree, region: Region | None, rows: Any, limits: Any, constants: Sequence[Any] | None
) -> None:
    """Refuse a proof that is of another question than the one that is meant, as far as it is given.

    Raises
    ------
    ValueError
        The message names what differs.
    """
    others: dict[str, list[tuple[Any, Any]]] = {}
    if region is not None:
        names = ("center", "lower", "upper", "norm")
        others["region"] = [(getattr(region, n), getattr(proof.region, n)) for n in names]
        if not math.isinf(region.norm) and not math.isinf(proof.region.norm):
            radii = [
                np.broadcast_to(np.asarray(r.epsilon), r.center.shape)
                for r in (region, proof.region)
            ]
            others["region"].append((radii[0], radii[1]))
    given = {"rows": (rows, proof.rows, 4), "limits": (limits, proof.limits, 3)}
    for name, (array, own, nb_axes) in given.items():
        if array is not None:
            array = np.asarray(array)
            if array.ndim < nb_axes:  # one for all samples
                array = np.broadcast_to(array, (len(own), *array.shape))
            others[name] = [(array, own)]
    if constants is not None:
        others["constants"] = [(len(constants), len(proof.constants))]
        others["constants"] += [*zip(constants, proof.constants)]
    for name, pairs in others.items():
        if not all(np.array_equal(*pair) for pair in pairs):
            raise ValueError(
                f"{name} must be those of the proof, which is about {proof.region}. Decide with "
                f"your own and proof=True, or leave them out. Received: other {name}"
            )


def tensors_at(engine: Engine, inputs: Sequence[np.ndarray], strategy: str) -> np.ndarray:
    """The tensors that can be split at points, (M, D) float64, of inputs (M, *shape) each.

    For tests of `Leaves`: **no guarantee** beyond that of the arithmetic of float64.
    """
    graph = engine.graph
    layout = Layout(graph, graph.output, strategy == "inputs")
    if not layout.tensors:
        return np.zeros((len(inputs[0]), 0))
    values = {i: np.asarray(array, np.float64) for i, array in enumerate(inputs)}
    for index in graph.ancestors(layout.tensors):
        node = graph.nodes[index]
        values[index] = node.operation.evaluate(*(values[parent] for parent in node.parents))
    return np.asarray(layout.joined([values[i] for i in layout.tensors], 1))
