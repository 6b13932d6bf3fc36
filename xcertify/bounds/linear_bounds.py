"""Linear bounds as a result: lines under and over outputs, and what they say about a region."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from xcertify.bounds.propagation.budget import batches
from xcertify.regions import Region, sums_by_group
from xcertify.words import Words

_BLOCK = 2**17  # coefficients that are looked at together, some MiB with all that is made of them


@dataclass(frozen=True)
class LinearBounds:
    """Linear functions of the input under and over rows of outputs, valid on a whole region.

    ``lower_coefficients . (x - center) + lower_bias <= rows @ f(x)
    <= upper_coefficients . (x - center) + upper_bias`` for every x of the region.

    Attributes
    ----------
    region
        Where they hold.
    lower_coefficients, upper_coefficients
        (N, S, *input).
    lower_bias, upper_bias
        (N, S) float64. Where no line is proved, since numbers overflow, the coefficients are
        zeros and the bias is -inf below and inf above.

    Guarantee
    ---------
    That of the `Verifier` that made them. Where few groups of features may leave the center
    (`Region.at_most`), the lines and all bounds that they give hold at such inputs only.
    """

    region: Region
    lower_coefficients: np.ndarray
    lower_bias: np.ndarray
    upper_coefficients: np.ndarray
    upper_bias: np.ndarray

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of the rows over the region, (N, S) float64."""
        cells = np.zeros(self.region.shape, dtype=int)
        return self.smallest(cells)[0], self.largest(cells)[0]

    def at(self, samples: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values of the lines at points (P, *input) of the regions `samples` (P,), (P, S) each."""
        steps = (points - self.region.center[samples].astype(np.float64)).reshape(len(points), -1)

        def values(coefficients: np.ndarray, bias: np.ndarray) -> np.ndarray:
            flat = coefficients[samples].reshape(*bias[samples].shape, -1).astype(np.float64)
            return np.einsum("psd,pd->ps", flat, steps) + bias[samples]

        return (
            values(self.lower_coefficients, self.lower_bias),
            values(self.upper_coefficients, self.upper_bias),
        )

    def bounds_with_fixed(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the rows with the features of one cell at a time held at the center.

        The lines of the whole region are valid on each of its parts, so that one backward pass
        serves for all cells.

        Parameters
        ----------
        cells
            Integers (*input): number of the cell that each feature belongs to, from 0 on.

        Returns
        -------
        lower, upper
            (N, S, cells) float64.
        """
        return self.smallest(cells)[1], self.largest(cells)[1]

    def largest(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Upper bounds of the rows over the region, (N, S), and with each cell held, (N, S, cells).

        `cells` as in `bounds_with_fixed`.
        """
        return _largest(self.region, self.upper_coefficients, self.upper_bias, cells, 1)

    def smallest(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower bounds of the rows, as `largest`."""
        full, fixed = _largest(self.region, self.lower_coefficients, self.lower_bias, cells, -1)
        return -full, -fixed

    def room_for(self, region: Region, nb_rows: int) -> LinearBounds:
        """Arrays of the same types for the lines of `nb_rows` on a region, not filled."""
        size = (len(region), nb_rows)
        return LinearBounds(
            region, *(np.empty((*size, *a.shape[2:]), a.dtype) for a in self._lines)
        )

    def put(self, samples: slice, rows: slice, lines: LinearBounds) -> None:
        """Fill in the lines of some samples and rows."""
        for array, values in zip(self._lines, lines._lines):
            array[samples, rows] = values

    @property
    def _lines(self) -> tuple[np.ndarray, ...]:
        return self.lower_coefficients, self.lower_bias, self.upper_coefficients, self.upper_bias


def _largest(
    region: Region, coefficients: np.ndarray, bias: np.ndarray, cells: np.ndarray, sign: int
) -> tuple[np.ndarray, np.ndarray]:
    """Largest value of each line times `sign`, (N, S), and with each cell fixed, (N, S, cells)."""
    full = np.empty(bias.shape)
    fixed = np.empty((*bias.shape, cells.max() + 1))
    nb_samples, nb_rows = bias.shape
    for samples, rows in batches(nb_samples, nb_rows, nb_samples, _BLOCK // cells.size):
        with np.errstate(over="ignore", invalid="ignore"):
            found = _largest_of_some(
                region[samples],
                sign * coefficients[samples, rows],
                sign * bias[samples, rows],
                cells,
            )
        for array, values in zip((fixed, full), found):
            # An overflow leaves nothing proved.
            array[samples, rows] = np.where(np.isnan(values), np.inf, values)
    return full, fixed


def _largest_of_some(
    region: Region, coefficients: np.ndarray, bias: np.ndarray, cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Largest value of each line with each cell fixed, (N, S, cells), and without, (N, S)."""
    nb_samples, nb_rows = bias.shape
    sums = _Sums(region.nb_changed, region.groups, cells)
    center = region.center.astype(np.float64)
    below = (region.lower - center)[:, None]
    above = (region.upper - center)[:, None]
    # Products of float32 numbers are exact in float64; the sums are off by 1e-12 at the most.
    terms = coefficients * np.where(coefficients > 0, above, below)
    fixed, full = sums.without_cells(terms)
    slack = 1e-12 * (np.abs(terms).reshape(nb_samples, nb_rows, -1).sum(axis=-1) + np.abs(bias))
    if isinstance(region, Words) and (cells == cells[:, :1]).all():
        groups = None if region.groups is None else region.groups[..., :1]
        of_words = _Sums(region.nb_changed, groups, cells[:, :1])
        words_fixed, words_full = of_words.without_cells(region.gains(coefficients)[..., None])
        fixed, full = np.minimum(fixed, words_fixed), np.minimum(full, words_full)
    if not math.isinf(region.norm):
        # The ball part by its dual norm, over the features that can move the right way.
        usable = np.where(coefficients > 0, above, -below) > 0
        scaled = np.where(usable, np.abs(coefficients) * np.asarray(region.epsilon)[:, None], 0.0)
        if region.norm == 2:
            ball_fixed, ball_full = sums.without_cells(scaled**2)
            room = 1e-12 * ball_full[..., None]
            ball_fixed = np.sqrt(np.maximum(ball_fixed, 0.0) + room)
            ball_full = np.sqrt(ball_full) * (1 + 1e-12)
        else:
            ball_fixed, ball_full = _largest_without(scaled, cells)
        fixed, full = np.minimum(fixed, ball_fixed), np.minimum(full, ball_full)
    fixed = bias[..., None] + fixed + slack[..., None]
    return fixed, bias + full + slack


class _Sums:
    """Largest sums of terms at least 0 over regions: of all terms, or of so many groups of them.

    Parameters
    ----------
    nb_changed, groups
        Of N regions.
    cells
        (*input) int.
    """

    def __init__(
        self, nb_changed: np.ndarray | None, groups: np.ndarray | None, cells: np.ndarray
    ) -> None:
        self._nb_changed, self._groups, self._cells = nb_changed, groups, cells
        self._order = np.argsort(cells, axis=None, kind="stable")
        numbers = np.arange(cells.max() + 1)
        self._starts = np.searchsorted(cells.reshape(-1)[self._order], numbers)

    def without_cells(self, terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Without each cell, (N, S, cells), and of all, (N, S), for terms (N, S, *input)."""
        if self._groups is not None:
            full = self._of_few(terms)
            each = [self._of_few(terms * (self._cells != c)) for c in range(len(self._starts))]
            return np.stack(each, axis=-1), full
        terms = terms.reshape(*terms.shape[:2], -1)[..., self._order]
        if len(self._starts) < len(self._order):
            terms = np.add.reduceat(terms, self._starts, axis=-1)
        full = terms.sum(axis=-1)
        return full[..., None] - terms, full

    def _of_few(self, terms: np.ndarray) -> np.ndarray:
        """The sum of the terms that are in no group and of the largest groups, (N, S)."""
        assert self._groups is not None
        assert self._nb_changed is not None
        of_groups = sums_by_group(np.moveaxis(terms, 1, 0), self._groups)  # (S, N, G)
        of_groups = -np.sort(-of_groups, axis=-1)
        counts = np.arange(of_groups.shape[-1]) < self._nb_changed[:, None]  # (N, G)
        free = np.where(self._groups[:, None] < 0, terms, 0.0).reshape(*terms.shape[:2], -1)
        return (of_groups * counts).sum(axis=-1).T + free.sum(axis=-1)


def _largest_without(scaled: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest entry outside each cell, (N, S, cells), and of all, (N, S)."""
    flat, cell = scaled.reshape(*scaled.shape[:2], -1), cells.reshape(-1)
    best = flat.argmax(axis=-1)
    full = np.take_along_axis(flat, best[..., None], axis=-1)[..., 0]
    # Outside the cell of the largest entry it is that entry; inside, the largest of the others.
    others = np.where(cell == cell[best][..., None], 0.0, flat).max(axis=-1)
    own = np.arange(cells.max() + 1) == cell[best][..., None]
    return np.where(own, others[..., None], full[..., None]), full
