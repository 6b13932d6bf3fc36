"""ProofTree: the certificate of branch and bound, which can be saved and proved once more."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xcertify.bounds.branching.problems import numbered
from xcertify.fingerprints import hash_of
from xcertify.regions import Region


class Leaves(NamedTuple):
    """The L leaves of one problem: the parts of a region that its splits leave.

    Attributes
    ----------
    nodes
        (L,) int: their numbers in the tree.
    margins
        (L,) float64: what is proved of each; above 0 where it is closed.
    box_lower, box_upper
        (L, F) float64: inputs, flattened.
    lower, upper
        (L, D) float64: the tensors; infinite where nothing was split.
    """

    nodes: np.ndarray
    margins: np.ndarray
    box_lower: np.ndarray
    box_upper: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    def contain(self, points: np.ndarray, tensors: np.ndarray) -> np.ndarray:
        """Which leaves hold points (M, *input), of which the tensors are (M, D): (M, L) bool."""
        points = points.reshape(len(points), 1, -1)
        values = np.concatenate([points, tensors[:, None]], axis=2)  # (M, 1, F + D)
        lower = np.concatenate([self.box_lower, self.lower], axis=1)
        upper = np.concatenate([self.box_upper, self.upper], axis=1)
        return np.all((lower <= values) & (values <= upper), axis=2)


@dataclass(frozen=True, eq=False, repr=False)
class ProofTree:
    """How each of N regions was cut, and what was proved of each part: see `Verifier.recheck`.

    There are Q problems, one for each region and conjunction that may be violated, and B splits.
    Nodes 0 to Q - 1 are the whole regions of these problems. Split b of node n makes the nodes
    Q + 2 b, where the value at an entry is at most `values[b]`, and Q + 2 b + 1, where it is at
    least that. So both parts always exist and share one value: the leaves, which are the nodes that
    are not split, cover the region by construction.

    Attributes
    ----------
    region, constants, rows, limits
        The question, as in `Verifier.decide`; rows (N, P, J, K), limits (N, P, J).
    settings
        Arguments of the `Verifier`, by name.
    strategy
        "inputs" or "activations".
    fingerprint
        Hash of the model's weights.
    layers, sizes
        Of each tensor that can be split the layer that it belongs to, and its number of entries; D
        together.
    split_nodes
        (B,) int: the node that is split.
    entries
        (B,) int: below D the entry of the tensors in one row, else D and the feature of the input.
    values
        (B,) float64: where it is split.
    margins
        (Q + 2 B,) float64: what is proved of ``min_x max_j (rows[p, j] @ f(x) - limits[p, j])`` in
        the part of each node; -inf where nothing is.
    digests
        SHA-256 of the parts above, by name.

    Guarantee
    ---------
    That of `Decision`, where `holds`. `Verifier.recheck` proves it anew and trusts no margin.
    """

    region: Region
    constants: tuple[np.ndarray, ...]
    rows: np.ndarray
    limits: np.ndarray
    settings: dict[str, Any]
    strategy: str
    fingerprint: str
    layers: tuple[str, ...]
    sizes: tuple[int, ...]
    split_nodes: np.ndarray
    entries: np.ndarray
    values: np.ndarray
    margins: np.ndarray
    digests: dict[str, str] = dataclasses.field(default_factory=dict)

    # --- what it says -----------------------------------------------------------------------------

    @property
    def problems(self) -> tuple[np.ndarray, np.ndarray]:
        """(Q,) int twice: the region and the conjunction of each problem."""
        return numbered(self.limits)

    @property
    def parents(self) -> np.ndarray:
        """(Q + 2 B,) int: the node that each one is a part of; -1 for a whole region."""
        roots = np.full(len(self.margins) - 2 * len(self.split_nodes), -1)
        return np.concatenate([roots, np.repeat(self.split_nodes, 2)])

    @property
    def is_leaf(self) -> np.ndarray:
        """(Q + 2 B,) bool: nodes that are not split."""
        found = np.ones(len(self.margins), bool)
        found[self.split_nodes] = False
        return found

    @property
    def problem_of(self) -> np.ndarray:
        """(Q + 2 B,) int: the problem of each node."""
        parents, each = self.parents, np.arange(len(self.margins))
        found = np.where(parents < 0, each, parents)
        while (parents[found] >= 0).any():
            found = found[found]
        return found

    @property
    def complete(self) -> np.ndarray:
        """(Q,) bool: problems whose leaves are all proved."""
        found = np.ones(len(self.problems[0]), bool)
        found[self.problem_of[self.is_leaf & ~(self.margins > 0)]] = False
        return found

    @property
    def holds(self) -> np.ndarray:
        """(N,) bool: regions whose problems are all complete."""
        found = np.ones(len(self.region), bool)
        found[self.problems[0][~self.complete]] = False
        return found

    def leaves(self, sample: int, number: int) -> Leaves:
        """The leaves of conjunction `number` in region `sample`, as wide as they were cut.

        Raises
        ------
        ValueError
            If there is no such problem: a limit of -inf rules it out.
        """
        regions, numbers = self.problems
        problem = np.flatnonzero((regions == sample) & (numbers == number))
        if not len(problem):
            raise ValueError(
                f"(sample, number) must be a region and a conjunction that may be violated. "
                f"Received: {(sample, number)}"
            )
        nb_entries, nb_problems = sum(self.sizes), len(self.problems[0])
        own = np.flatnonzero(self.problem_of == problem[0])
        place = np.searchsorted(own, own)  # parents come before their parts
        sides = np.full((2, len(own), nb_entries + np.prod(self.region.shape, dtype=int)), np.inf)
        sides[0] = -np.inf
        box = (side[sample].reshape(-1) for side in (self.region.lower, self.region.upper))
        sides[:, 0, nb_entries:] = np.stack([*box])
        for node in own[1:]:
            split, part = divmod(node - nb_problems, 2)
            place = np.searchsorted(own, [node, self.split_nodes[split]])
            sides[:, place[0]] = sides[:, place[1]]
            entry, value = self.entries[split], self.values[split]
            inner = np.maximum if part else np.minimum
            sides[1 - part, place[0], entry] = inner(sides[1 - part, place[0], entry], value)
        kept = self.is_leaf[own]
        lower, upper = sides[:, kept]
        boxes = lower[:, nb_entries:], upper[:, nb_entries:]
        nodes = own[kept]
        return Leaves(
            nodes, self.margins[nodes], *boxes, lower[:, :nb_entries], upper[:, :nb_entries]
        )

    def describe(self, nodes: np.ndarray) -> str:
        """Nodes in words, the first ones, with their regions and conjunctions."""
        regions, numbers = self.problems
        shown = [
            f"node {n} (region {regions[q]}, conjunction {numbers[q]})"
            for n, q in zip(nodes[:3], self.problem_of[nodes[:3]])
        ]
        more = f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
        return ", ".join(shown) + more

    # --- checked ----------------------------------------------------------------------------------

    def sealed(self) -> ProofTree:
        """The same with digests of what it is now."""
        return dataclasses.replace(self, digests=self._digests())

    def check(self) -> None:
        """Refuse a tree that is none, or that is not as it was made.

        Raises
        ------
        ValueError
            The message names what is wrong.
        """
        self._check_form()
        found = self._digests()
        changed = [name for name in found if self.digests.get(name) != found[name]]
        if changed:
            raise ValueError(
                f"the proof was changed since it was made: {', '.join(changed)} differ from what "
                f"their digests say. Decide anew with proof=True"
            )

    def _check_form(self) -> None:
        nb_splits, nb_problems = len(self.split_nodes), len(self.problems[0])
        nb_entries = sum(self.sizes) + int(np.prod(self.region.shape))
        for name in ("split_nodes", "entries"):
            if getattr(self, name).dtype.kind not in "iu":
                _refuse(f"{name} are no whole numbers")
        sizes = {name: len(getattr(self, name)) for name in ("entries", "values")}
        if set(sizes.values()) != {nb_splits}:
            _refuse(f"{nb_splits} nodes are split, but there are so many others: {sizes}")
        if len(self.margins) != nb_problems + 2 * nb_splits:
            _refuse(
                f"{nb_problems} problems and {nb_splits} splits have "
                f"{nb_problems + 2 * nb_splits} nodes, but there are {len(self.margins)} margins: "
                f"a leaf is missing"
            )
        earlier = nb_problems + 2 * np.arange(nb_splits)
        wrong = np.flatnonzero((self.split_nodes < 0) | (self.split_nodes >= earlier))
        if len(wrong):
            _refuse(f"split {wrong[0]} is of node {self.split_nodes[wrong[0]]}, made after it")
        nodes, counts = np.unique(self.split_nodes, return_counts=True)
        if (counts > 1).any():
            _refuse(f"node {nodes[counts > 1][0]} is split twice")
        wrong = np.flatnonzero((self.entries < 0) | (self.entries >= nb_entries))
        if len(wrong):
            _refuse(f"split {wrong[0]} is at entry {self.entries[wrong[0]]} of {nb_entries}")
        wrong = np.flatnonzero(~np.isfinite(self.values))
        if len(wrong):
            _refuse(f"split {wrong[0]} is at {self.values[wrong[0]]}, which is no number")
        if np.isnan(self.margins).any():
            _refuse(f"the margin of {self.describe(np.flatnonzero(np.isnan(self.margins)))} is NaN")

    def _digests(self) -> dict[str, str]:
        parts: dict[str, list[np.ndarray]] = {}
        for name, array in self._arrays().items():
            parts.setdefault(_PARTS.get(name.split("_")[0], name), []).append(array)
        parts["settings"] = [np.array(json.dumps(self._text()))]
        return {name: hash_of(arrays) for name, arrays in parts.items()}

    # --- files ------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one .npz file, which `load` reads without executing anything."""
        text = self._text() | {"digests": self.digests}
        arrays: dict[str, Any] = {"text": np.array(json.dumps(text))} | self._arrays()
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ProofTree:
        """Read what `save` wrote. Nothing of it is trusted before `Verifier.recheck`.

        Raises
        ------
        ValueError
            If the file is not a proof, or holds no tree.
        """
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        try:
            text = json.loads(str(arrays["text"]))
            center, lower, upper = (arrays[f"region_{name}"] for name in _SIDES)
            region = Region(center, lower, upper, arrays.get("region_epsilon"), text.pop("norm"))
            constants = tuple(arrays[f"constants_{i}"] for i in range(text.pop("nb_constants")))
            text |= {name: tuple(text[name]) for name in ("layers", "sizes")}
            own = {name: arrays[name] for name in _OWN}
            found = cls(region=region, constants=constants, **own, **text)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the file must be a proof of branch and bound. Received: {os.fspath(path)!r} with "
                f"{', '.join(arrays)}"
            ) from error
        found._check_form()
        return found

    def _arrays(self) -> dict[str, np.ndarray]:
        """All arrays by their names in a file."""
        region = self.region
        found = {f"region_{name}": getattr(region, name) for name in _SIDES}
        if region.epsilon is not None:
            epsilon = np.broadcast_to(np.asarray(region.epsilon), region.center.shape)
            found["region_epsilon"] = epsilon
        found |= {f"constants_{i}": array for i, array in enumerate(self.constants)}
        return found | {name: getattr(self, name) for name in _OWN}

    def _text(self) -> dict[str, Any]:
        """All else."""
        names = ("settings", "strategy", "fingerprint", "layers", "sizes")
        found = {name: getattr(self, name) for name in names}
        return found | {"norm": self.region.norm, "nb_constants": len(self.constants)}

    def __repr__(self) -> str:
        return (
            f"<ProofTree: {int(self.holds.sum())} of {len(self.region)} regions proved, "
            f"{self.region}; {len(self.split_nodes)} splits of {self.strategy}>"
        )


_SIDES = ("center", "lower", "upper")
_OWN = ("rows", "limits", "split_nodes", "entries", "values", "margins")
_PARTS = {
    "region": "the region",
    "constants": "the constants",
    "split": "the nodes that are split",
    "entries": "the entries that are split",
    "values": "the values at splits",
    "margins": "the margins",
}


def _refuse(what: str) -> None:
    raise ValueError(f"the proof is no tree that covers its regions: {what}")


class Growth:
    """A tree as it grows: one entry of a list for each batch of branches.

    Parameters
    ----------
    nb_problems
        Q, which are the first nodes.
    is_kept
        Whether anything is noted; else nodes have numbers and no more.
    """

    def __init__(self, nb_problems: int, is_kept: bool) -> None:
        self._nb_problems = self._nb_nodes = nb_problems
        self._is_kept = is_kept
        # (split nodes, entries, values) and (nodes, margins)
        self._splits: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._margins: list[tuple[np.ndarray, np.ndarray]] = []

    def split(self, nodes: np.ndarray, entries: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Split nodes (M,); gives both parts of each, one after the other, (2 M,) int."""
        if self._is_kept:
            self._splits.append((nodes, entries, values))
        first = self._nb_nodes
        self._nb_nodes += 2 * len(nodes)
        return np.arange(first, self._nb_nodes)

    def note(self, nodes: np.ndarray, margins: np.ndarray) -> None:
        """What is proved of nodes (M,)."""
        if self._is_kept:
            self._margins.append((nodes, margins))

    def tree(self, roots: np.ndarray, make: Callable[..., ProofTree]) -> ProofTree:
        """The tree as it is now.

        Parameters
        ----------
        roots
            (Q,): what is proved of the problems.
        make
            `ProofTree` with all but the arrays of the tree.
        """
        nothing = np.zeros(0, int), np.zeros(0, int), np.zeros(0)
        splits = [np.concatenate(arrays) for arrays in zip(nothing, *self._splits)]
        margins = np.full(self._nb_problems + 2 * len(splits[0]), -np.inf)
        for nodes, found in self._margins:
            margins[nodes] = found
        margins[: self._nb_problems] = np.fmax(margins[: self._nb_problems], roots)
        names = ("split_nodes", "entries", "values")
        return make(**dict(zip(names, splits)), margins=margins).sealed()
