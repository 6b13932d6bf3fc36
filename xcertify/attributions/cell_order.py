"""What is proved of the order of the cells of maps, over regions of inputs.

A *pair* are a cell i of the top k and a cell j of the others, at the nominal input. It is proved
where ``map[i] > map[j]`` at every point of the region: entry (i, j) of an array (N, k, S - k) of
bool, cells in the order of `RankedMaps.ranking`. Every way to prove pairs is a `Form`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from xcertify.attributions.class_activation import WeightDeviation, WeightedChannels
from xcertify.bounds import Verifier
from xcertify.inputs import in_batches
from xcertify.regions import Region

_ENTRIES = 2**24  # of rows or gradients that are held at once
_K = 15
_DUAL = {np.inf: 1, 2: 2, 1: np.inf}


@dataclass(frozen=True, eq=False)
class RankedMaps:
    """Which cells of N maps are the largest, and what the maps are made of.

    Attributes
    ----------
    target_rows
        (N, D): the classes, see `WeightedChannels`.
    weights
        (N, K) float32: weights of the channels at the nominal inputs.
    ranking
        (N, S): numbers of the cells, those with the largest values first.
    gap
        (N,): value of the k-th cell minus that of the next one.
    k, k2
        The first k of them have to stay among the k2 largest.
    """

    target_rows: np.ndarray
    weights: np.ndarray
    ranking: np.ndarray
    gap: np.ndarray
    k: int
    k2: int

    @classmethod
    def of(
        cls,
        maps: np.ndarray,
        target_rows: np.ndarray,
        weights: np.ndarray,
        k: int | None,
        k2: int | None,
    ) -> RankedMaps:
        """Those of maps (N, S) at the nominal inputs.

        k is 15 where it is None, or half of S if that is less; k2 is k where it is None.

        Raises
        ------
        ValueError
            If k or k2 are too large for the number of cells, or k2 is below k.
        """
        nb_cells = maps.shape[1]
        if nb_cells == 1:
            raise ValueError(
                "the map has one cell, so that nothing can be said of an order: give as conv_layer "
                "an earlier layer, whose map is larger, with explanation='grad-cam'"
            )
        if k is None:
            k = min(_K, nb_cells // 2, nb_cells if k2 is None else k2)
        k2 = k if k2 is None else k2
        if not k <= k2 < nb_cells:
            raise ValueError(
                f"k and k2 must be 0 < k <= k2 < {nb_cells}, the number of cells of the map. "
                f"Received: k={k}, k2={k2}"
            )
        ranking = np.argsort(-maps, axis=1, kind="stable")
        kth, next_one = np.take_along_axis(maps, ranking[:, k - 1 : k + 1], axis=1).T
        return cls(target_rows, weights.astype(np.float32), ranking, kth - next_one, k, k2)

    def __getitem__(self, samples: np.ndarray) -> RankedMaps:
        """Some of the maps."""
        names = ("target_rows", "weights", "ranking", "gap")
        return replace(self, **{name: getattr(self, name)[samples] for name in names})

    @property
    def nb_cells(self) -> int:
        """Number S of cells."""
        return self.ranking.shape[1]

    @property
    def in_top(self) -> np.ndarray:
        """(N, S) bool: which cells are the top k."""
        top = np.zeros(self.ranking.shape, bool)
        np.put_along_axis(top, self.ranking[:, : self.k], True, axis=1)
        return top

    def nothing_proved(self) -> np.ndarray:
        """No pair of any map, (N, k, S - k)."""
        return np.zeros((len(self.ranking), self.k, self.nb_cells - self.k), bool)

    def split(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (N, S, ...) of the cells: those of the top k, (N, k, ...), and of the others."""
        ranking = self.ranking.reshape(*self.ranking.shape, *[1] * (values.ndim - 2))
        values = np.take_along_axis(values, ranking, axis=1)
        return values[:, : self.k], values[:, self.k :]

    def stay(self, proved: np.ndarray) -> np.ndarray:
        """Which of the top k stay among the top k2, by pairs that are proved, (N, k).

        At most k2 - k of the others are not proved to be smaller: with the k - 1 others of the top
        k, fewer than k2 cells can be as large.
        """
        return (~proved).sum(axis=2) <= self.k2 - self.k

    def open_pairs(self, proved: np.ndarray) -> np.ndarray:
        """Pairs that are not proved, of cells that still need them, (N, k, S - k)."""
        return ~proved & ~self.stay(proved)[:, :, None]

    def apart(
        self, lower: np.ndarray, upper: np.ndarray, deviation: WeightDeviation | None
    ) -> np.ndarray:
        """Pairs with ``lower[i] > upper[j]``, of bounds (N, S) of maps with the fixed weights."""
        if deviation is not None:
            lower, upper = lower - deviation.of_cells(), upper + deviation.of_cells()
        return self.split(lower)[0][:, :, None] > self.split(upper)[1][:, None]


@dataclass(frozen=True, eq=False)
class Form(ABC):
    """A way to prove which cells of a map are larger than which others.

    Attributes
    ----------
    activation
        The maps.
    verifier
        Of the maps, ``activation.verifier(method)``.
    nb_pairs
        Most pairs of one map that get rows of their own.

    Guarantee
    ---------
    A pair is given as proved only if its first cell is larger at every point of the region, for
    maps in real arithmetic: by bounds of the verifier, with roundings of what is computed from them
    covered.
    """

    activation: WeightedChannels
    verifier: Verifier
    nb_pairs: int

    @abstractmethod
    def prove(
        self,
        maps: RankedMaps,
        region: Region,
        deviation: WeightDeviation | None,
        proved: np.ndarray,
    ) -> np.ndarray:
        """Pairs (N, k, S - k) that are proved on N balls.

        Parameters
        ----------
        maps
            At the centers of the balls.
        region
            The balls.
        deviation
            How far weights can be from ``maps.weights`` on them; None where they are fixed.
        proved
            (N, k, S - k): pairs that are known to be proved, which the result contains.
        """


class PerChannel(Form):
    """Bounds of each channel, put together by the signs of the weights.

    ``sum_k min(w_k l_k, w_k u_k) <= map <= sum_k max(w_k l_k, w_k u_k)``: Eq. 1-2 of Gu et al.
    """

    def prove(
        self,
        maps: RankedMaps,
        region: Region,
        deviation: WeightDeviation | None,
        proved: np.ndarray,
    ) -> np.ndarray:
        """See `Form`."""
        weights = self.activation.per_cell(maps.weights)  # (N, h, w, K)
        lower, upper = self.verifier.bound_layer(
            region, self.activation.models.body.name, [weights]
        )
        ends = weights * lower.astype(np.float64), weights * upper.astype(np.float64)
        # Products of float32 numbers are exact in float64; the sums are off by 1e-12 at the most.
        slack = 1e-12 * np.maximum(*map(np.abs, ends)).sum(axis=-1)
        lower = np.minimum(*ends).sum(axis=-1) - slack
        upper = np.maximum(*ends).sum(axis=-1) + slack
        return proved | maps.apart(*_by_cells(lower, upper), deviation)


class WholeMap(Form):
    """Bounds of each cell as an output: what a pixel does to several channels is counted once."""

    def prove(
        self,
        maps: RankedMaps,
        region: Region,
        deviation: WeightDeviation | None,
        proved: np.ndarray,
    ) -> np.ndarray:
        """See `Form`."""
        weights = self.activation.per_cell(maps.weights)
        bounds = self.verifier.bound_layer(region, self.activation.models.output_layer, [weights])
        return proved | maps.apart(*_by_cells(*bounds), deviation)


class Pairwise(WholeMap):
    """Bounds of ``map[i] - map[j]`` as an output, for the pairs that bounds of cells leave open."""

    def prove(
        self,
        maps: RankedMaps,
        region: Region,
        deviation: WeightDeviation | None,
        proved: np.ndarray,
    ) -> np.ndarray:
        """See `Form`."""
        proved = proved.copy()
        # A row for each pair costs as much as one for each cell.
        many = np.flatnonzero(maps.open_pairs(proved).sum(axis=(1, 2)) > maps.nb_cells)
        if len(many):
            varying = None if deviation is None else deviation[many]
            proved[many] = super().prove(maps[many], region[many], varying, proved[many])
        pairs = maps.open_pairs(proved)
        nb_open = pairs.sum(axis=(1, 2))
        few = np.flatnonzero((nb_open > 0) & (nb_open <= self.nb_pairs))
        row_size = max(nb_open[few], default=1) * math.prod(self.activation.shape)
        for some in in_batches(few, max(1, _ENTRIES // row_size)):
            varying = None if deviation is None else deviation[some]
            sample, top, other = np.nonzero(pairs[some])  # (M,) each
            rows, place = _rows_of_pairs(maps[some], sample, top, other)
            weights = self.activation.per_cell(maps.weights[some])
            lower, _ = self.verifier.bound_rows(region[some], rows, [weights])
            error: np.ndarray | float = 0.0
            if varying is not None:
                ranking = maps.ranking[some]
                cells = ranking[sample, top], ranking[sample, maps.k + other]
                error = varying.of_differences(sample, *cells)
            proved[some[sample], top, other] |= lower[sample, place] > error
        return proved


class Lipschitz(Form):
    """The difference at the input exceeds the radius times a Lipschitz constant (Theorem 8.3).

    The constant of ``map[i] - map[j]`` is the largest dual norm of its gradient on the region.
    """

    def prove(
        self,
        maps: RankedMaps,
        region: Region,
        deviation: WeightDeviation | None,
        proved: np.ndarray,
    ) -> np.ndarray:
        """See `Form`; for fixed weights only."""
        constants = []
        for some in in_batches(np.arange(len(region)), self._nb_at_once(maps, region)):
            weights = self.activation.per_cell(maps.weights[some])
            bounds = self.verifier.bound_gradient(region[some], constants=[weights])
            constants.append(_lipschitz_constants(maps[some], *bounds, _DUAL[region.norm]))
        nominal = region.resized(np.zeros(len(region)))
        weights = self.activation.per_cell(maps.weights)
        bounds = self.verifier.bound_layer(nominal, self.activation.models.output_layer, [weights])
        lower, upper = _by_cells(*bounds)
        gap = maps.split(lower)[0][:, :, None] - maps.split(upper)[1][:, None]
        radii = np.broadcast_to(np.asarray(region.epsilon), region.center.shape).reshape(
            len(region), -1
        )
        # 1e-9 for the float64 roundings of the sums in the constants.
        reach = radii.max(axis=1)[:, None, None] * np.concatenate(constants) * (1 + 1e-9)
        return proved | (gap > reach)

    def _nb_at_once(self, maps: RankedMaps, region: Region) -> int:
        return max(1, _ENTRIES // (maps.nb_cells * math.prod(region.shape)))


FORMS: dict[str, type[Form]] = {
    "per-channel": PerChannel,
    "map": WholeMap,
    "pairwise": Pairwise,
    "lipschitz": Lipschitz,
}


def _by_cells(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (N, h, w) or (N, h, w, 1) of maps as (N, S) float64."""
    return lower.reshape(len(lower), -1).astype("f8"), upper.reshape(len(upper), -1).astype("f8")


def _rows_of_pairs(
    maps: RankedMaps, sample: np.ndarray, top: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ``map[i] - map[j]``, (N, P, S) float32, and which of its map is each pair's, (M,).

    A pair m is of the map ``sample[m]``, ascending, i the cell of rank ``top[m]`` and j that of
    rank ``k + other[m]``. P are the pairs of the map that has most; zeros fill the others.
    """
    count = np.bincount(sample, minlength=len(maps.ranking))
    place = np.arange(len(sample)) - np.repeat(np.cumsum(count) - count, count)
    rows = np.zeros((len(maps.ranking), int(count.max()), maps.nb_cells), np.float32)
    rows[sample, place, maps.ranking[sample, top]] = 1
    rows[sample, place, maps.ranking[sample, maps.k + other]] = -1
    return rows, place


def _lipschitz_constants(
    maps: RankedMaps, lower: np.ndarray, upper: np.ndarray, dual: float
) -> np.ndarray:
    """Bounds of the norms of the gradients of ``map[i] - map[j]``, (N, k, S - k).

    Of gradients within bounds l, u (N, S, *input) of the cells they are
    ``|| (l_i + u_i) / 2 - (l_j + u_j) / 2 || + || (u_i - l_i) / 2 || + || (u_j - l_j) / 2 ||``.
    """
    lower, upper = (side.reshape(*side.shape[:2], -1).astype(float) for side in (lower, upper))
    top, others = maps.split((lower + upper) / 2)  # (N, k, size), (N, S - k, size)
    radii = np.linalg.norm((upper - lower) / 2, dual, axis=-1)
    own, their = maps.split(radii)
    constants = own[:, :, None] + their[:, None]
    nb_at_once = max(1, _ENTRIES // (maps.nb_cells * lower.shape[-1]))
    cells = np.indices(own.shape).reshape(2, -1).T
    apart = [
        np.linalg.norm(top[n, i][:, None] - others[n], dual, axis=-1)
        for n, i in (part.T for part in in_batches(cells, nb_at_once))
    ]
    return constants + np.concatenate(apart).reshape(constants.shape)
