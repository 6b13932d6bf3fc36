"""Which features of a tiny network are enough for its answer: brute force over all subsets.

A set of features is enough where nothing that the others do inside the region changes the answer.
The network is that of `brute_force`, in float64. A subset that is freed is a number whose bits are
the groups of features. Points with every feature low, nominal or high (and random ones) refute most
subsets at once; what is left is decided by cells, by a mixed-integer program, or by boxes that are
halved, each an interval that holds the worst value of the property. Nothing of the engine is used.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from brute_force import Affine, Area, Elementwise, Largest, Net, by_grid, by_pieces, property_values
from brute_force import with_property as joined

MOST_CORNERS = 60_000  # more than 3^10
HAS_PROGRAMS = importlib.util.find_spec("scipy") is not None
Property = tuple[np.ndarray, np.ndarray]  # rows (P, J, K) and limits (P, J): violated where <= 0


# --- what must not change -----------------------------------------------------------------------


def class_stays(own: int, nb_outputs: int) -> Property:
    """f_c > f_c' for all other classes c'; of a single logit z, z > 0 for class 1, z < 0 for 0."""
    if nb_outputs == 1:
        return np.array([[[1.0 if own else -1.0]]]), np.zeros((1, 1))
    return beats(own, [other for other in range(nb_outputs) if other != own], nb_outputs)


def beats(own: int, others: Sequence[int], nb_outputs: int) -> Property:
    """f_c > f_c' for some other classes c'."""
    unit = np.eye(nb_outputs)
    rows = np.array([[unit[own] - unit[other]] for other in others])
    return rows, np.zeros(rows.shape[:2])


def label_stays(own: int, labels: Sequence[int]) -> Property:
    """For each class of another label there is one of the own label with a larger logit."""
    unit, labels = np.eye(len(labels)), np.asarray(labels)
    inside, outside = (np.flatnonzero((labels == labels[own]) == same) for same in (True, False))
    rows = np.array([[unit[mine] - unit[other] for mine in inside] for other in outside])
    return rows, np.zeros(rows.shape[:2])


def stays_within(output: int, delta: float, value: float, nb_outputs: int) -> Property:
    """|f - value| < delta, of one output."""
    row = np.eye(nb_outputs)[output]
    return np.array([[row], [-row]]), np.array([[value - delta], [-value - delta]])


# --- the answers of all subsets -----------------------------------------------------------------


@dataclass
class Subsets:
    """For each set of groups of features that is freed: whether the answer can change.

    numbers (d,): the group of each entry of an input, from 0 on without a gap.
    """

    net: Net
    area: Area
    numbers: np.ndarray
    rows: np.ndarray
    limits: np.ndarray

    def __post_init__(self) -> None:
        self._known: dict[int, tuple[float, float]] = {}
        assert set(self.numbers) == set(range(self.nb_groups)) and self.nb_groups <= 12

    @property
    def nb_groups(self) -> int:
        return int(self.numbers.max()) + 1

    @cached_property
    def movable(self) -> np.ndarray:
        """Which entries (d,) can leave their nominal value at all."""
        moves = self.area.low < self.area.high
        return moves if self.area.radii is None else moves & (self.area.radii > 0)

    def mask_of(self, groups: Any) -> int:
        """The subset of groups given by numbers, or by a flag for each."""
        groups = np.asarray(groups)
        groups = np.flatnonzero(groups) if groups.dtype == bool else groups
        return sum(1 << int(group) for group in groups)

    @property
    def immovable(self) -> int:
        """The subset of groups none of whose entries can move."""
        moving = set(self.numbers[self.movable])
        return self.mask_of([group for group in range(self.nb_groups) if group not in moving])

    def value(self, points: np.ndarray) -> np.ndarray:
        """Of the property at points (B, d); the answer changes where it is at most 0."""
        return property_values(self.rows, self.limits, self.net.values(points))

    @cached_property
    def seen(self) -> np.ndarray:
        """(2^G,): the smallest value at all points that were tried and that change no other."""
        area, d = self.area, len(self.numbers)
        moving = np.flatnonzero(self.movable)
        sides = np.stack([area.center, area.low, area.high])
        generator = np.random.default_rng(0)
        if 3 ** len(moving) <= MOST_CORNERS:
            chosen = np.array(list(itertools.product(range(3), repeat=len(moving))), int)
        else:
            chosen = generator.integers(0, 3, (MOST_CORNERS, len(moving)))
        found = np.full(2**self.nb_groups, np.inf)
        for part in np.array_split(chosen.reshape(len(chosen), -1), len(chosen) // 20_000 + 1):
            which = np.zeros((len(part), d), int)
            which[:, moving] = part
            corners = np.take_along_axis(sides, which, 0)
            share = generator.random(corners.shape)
            inner = area.center + share * (corners - area.center)
            for points in (area.pulled(corners), area.pulled(inner)):
                changed = np.zeros((len(part), self.nb_groups), bool)
                for entry in moving:
                    changed[:, self.numbers[entry]] |= which[:, entry] > 0
                np.minimum.at(found, changed @ (1 << np.arange(self.nb_groups)), self.value(points))
        for group in range(self.nb_groups):
            pairs = found.reshape(-1, 2, 1 << group)
            pairs[:, 1] = pairs.min(1)
        return found

    def worst(self, free: int) -> tuple[float, float]:
        """An interval that holds the smallest value of the property with a subset freed."""
        if free not in self._known:
            lowest, highest = self._bounded(free)
            self._known[free] = lowest, min(highest, float(self.seen[free]))
        return self._known[free]

    def enough(self, free: int) -> bool | None:
        """Whether the others are enough: the answer stays with a subset freed. None: a near tie."""
        if self.seen[free] <= 0:
            return False
        for known, (lowest, highest) in self._known.items():
            if lowest > 0 and free & ~known == 0:
                return True
            if highest <= 0 and known & ~free == 0:
                return False
        lowest, highest = self.worst(free)
        return True if lowest > 0 else False if highest <= 0 else None

    def table(self) -> list[bool | None]:
        """`enough` of all 2^G subsets, from the largest one on."""
        found = {free: self.enough(free) for free in self._by_size(largest_first=True)}
        return [found[free] for free in range(2**self.nb_groups)]

    def smallest(self) -> tuple[int, int]:
        """Least and most that the size of the smallest set that is enough may be."""
        least = None
        for free in self._by_size(largest_first=True):
            size, enough = self.nb_groups - free.bit_count(), self.enough(free)
            if enough is not False and least is None:
                least = size
            if enough:
                return least, size
        raise AssertionError("the answer already changes at the center")

    def smaller_than(self, size: int) -> bool:
        """Whether some set of fewer than `size` groups is enough, without a doubt."""
        most = self.nb_groups - size + 1  # groups that such a set frees, at least
        if most > self.nb_groups:
            return False
        frees = [free for free in range(2**self.nb_groups) if free.bit_count() == most]
        return any(self.enough(free) for free in frees)

    def _by_size(self, largest_first: bool) -> list[int]:
        order = sorted(range(2**self.nb_groups), key=lambda free: (free.bit_count(), free))
        return order[::-1] if largest_first else order

    def _bounded(self, free: int) -> tuple[float, float]:
        freed = (free >> self.numbers) & 1 > 0
        entries = np.flatnonzero(freed & self.movable)
        if not len(entries):
            (value,) = self.value(self.area.center[None])
            return float(value) - 1e-12, float(value) + 1e-12
        asked, area = joined(self.net, self.rows, self.limits), self.area
        asked = with_others_held(asked, area.center, entries)
        radii = None if area.radii is None else area.radii[entries]
        part = Area(area.low[entries], area.high[entries], area.center[entries], radii, area.norm)
        even = radii is None or (len(entries) == 2 and len(set(radii)) == 1)
        if asked.straight and even:
            if len(entries) <= 2:
                value, _ = by_pieces(asked, part)
                return value - 1e-7, value + 1e-7
            if radii is None and HAS_PROGRAMS:
                return by_program(asked, part)
        return by_grid_until_clear(asked, part)


def with_others_held(net: Net, center: np.ndarray, entries: np.ndarray) -> Net:
    """The network of some entries of its input, with the others at a center (d,)."""
    place = np.eye(len(center))[entries]
    first = Affine((0,), (place,), np.where(np.isin(np.arange(len(center)), entries), 0, center))
    moved = [replace(node, parents=tuple(p + 1 for p in node.parents)) for node in net.nodes]
    return Net([first, *moved])


def by_grid_until_clear(net: Net, area: Area) -> tuple[float, float]:
    """`by_grid` with a tolerance that shrinks until the interval leaves 0 out."""
    lowest, highest = -np.inf, np.inf
    for tolerance in (0.1, 0.01, 1e-3):
        if lowest <= 0 < highest:
            found = by_grid(net, area, tolerance, nb_boxes=20_000)
            lowest, highest = max(lowest, found[0]), min(highest, found[1])
    return lowest - 1e-12, highest


# --- exact: a mixed-integer program -------------------------------------------------------------


class Program:
    """min of an output of a piecewise linear network over a box, for `scipy.optimize.milp`."""

    def __init__(self, net: Net, area: Area) -> None:
        self.low, self.high, self.integral = list(area.low), list(area.high), [0] * len(area.low)
        self.matrix: list[dict[int, float]] = []
        self.ends: list[float] = []  # matrix @ x <= ends
        self.equal: list[bool] = []
        self.inputs = list(range(len(area.low)))
        variables = [self.inputs]
        for node in net.nodes:
            variables.append(self._added(node, [variables[parent] for parent in node.parents]))
        self.outputs = variables[-1]

    def least(self, output: int) -> tuple[float, np.ndarray]:
        """A lower bound of an output, but for 1e-5, and the inputs of the best point found."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import lil_matrix

        matrix = lil_matrix((len(self.matrix), len(self.low)))
        for row, entries in enumerate(self.matrix):
            for column, number in entries.items():
                matrix[row, column] = number
        ends = np.array(self.ends)
        rows = LinearConstraint(matrix.tocsr(), np.where(self.equal, ends, -np.inf), ends)
        cost = np.zeros(len(self.low))
        cost[self.outputs[output]] = 1.0
        found = milp(
            cost,
            integrality=self.integral,
            bounds=Bounds(self.low, self.high),
            constraints=rows,
            options={"mip_rel_gap": 0.0},
        )
        assert found.status == 0, found.message
        return float(found.mip_dual_bound), found.x[self.inputs]

    def _variable(self, low: float, high: float, integral: int = 0) -> int:
        self.low.append(low - 1e-9)
        self.high.append(high + 1e-9)
        if integral:
            self.low[-1], self.high[-1] = low, high
        self.integral.append(integral)
        return len(self.low) - 1

    def _at_most(self, entries: dict[int, float], end: float, equal: bool = False) -> None:
        self.matrix.append(entries)
        self.ends.append(end)
        self.equal.append(equal)

    def _added(self, node: Any, parents: list[list[int]]) -> list[int]:
        if isinstance(node, Affine):
            joint = [variable for variables in parents for variable in variables]
            matrix = np.concatenate(node.matrices)
            return [self._affine(joint, column, end) for column, end in zip(matrix.T, node.bias)]
        if isinstance(node, Elementwise):
            curve, size = node.curve, len(parents[0])
            assert curve.kinks is not None
            pieces = [curve.piece(number, size) for number in range(len(curve.kinks) + 1)]
            return [
                self._curve(variable, curve.kinks, [(s[i], b[i]) for s, b in pieces])
                for i, variable in enumerate(parents[0])
            ]
        assert isinstance(node, Largest)
        return [self._largest([parents[0][member] for member in group]) for group in node.groups]

    def _affine(self, variables: list[int], slopes: np.ndarray, end: float) -> int:
        sides = np.array([[self.low[v], self.high[v]] for v in variables]) * slopes[:, None]
        added = self._variable(sides.min(1).sum() + end, sides.max(1).sum() + end)
        entries = {added: -1.0}
        for variable, slope in zip(variables, slopes):  # of which one may be there twice
            entries[variable] = entries.get(variable, 0.0) + float(slope)
        self._at_most(entries, -end, equal=True)
        return added

    def _curve(self, z: int, kinks: tuple[float, ...], pieces: list[tuple[float, float]]) -> int:
        """slope_0 z + intercept_0 + sum_k (slope_k+1 - slope_k) relu(z - kink_k)."""
        bends = [self._bend(z, kink) for kink in kinks]
        steps = np.diff([slope for slope, _ in pieces])
        return self._affine([z, *bends], np.array([pieces[0][0], *steps]), pieces[0][1])

    def _bend(self, z: int, kink: float) -> int:
        """relu(z - kink)."""
        low, high = self.low[z] - kink, self.high[z] - kink
        if low >= 0 or high <= 0:
            return self._affine([z], np.array([float(low >= 0)]), -kink * (low >= 0))
        y, on = self._variable(0.0, high), self._variable(0, 1, integral=1)
        self._at_most({z: 1.0, y: -1.0}, kink)  # y >= z - kink
        self._at_most({y: 1.0, z: -1.0, on: -low}, -kink - low)  # y <= z - kink - low (1 - on)
        self._at_most({y: 1.0, on: -high}, 0.0)
        return y

    def _largest(self, members: list[int]) -> int:
        low, high = max(self.low[m] for m in members), max(self.high[m] for m in members)
        y = self._variable(low, high)
        chosen = [self._variable(0, 1, integral=1) for _ in members]
        for m, on in zip(members, chosen):
            gap = high - self.low[m] + 1e-6
            self._at_most({m: 1.0, y: -1.0}, 0.0)
            self._at_most({y: 1.0, m: -1.0, on: gap}, gap)  # y <= m + gap (1 - on)
        self._at_most(dict.fromkeys(chosen, 1.0), 1.0, equal=True)
        return y


def by_program(net: Net, area: Area) -> tuple[float, float]:
    """An interval that holds the smallest value of any output over a box."""
    assert area.radii is None
    program, lowest, highest = Program(net, area), np.inf, np.inf
    for output in range(len(program.outputs)):
        if program.low[program.outputs[output]] > highest:
            continue
        value, point = program.least(output)
        values = net.values(np.clip(point, area.low, area.high)[None])
        lowest, highest = min(lowest, value - 1e-5), min(highest, float(values.min()))
    return lowest, highest
