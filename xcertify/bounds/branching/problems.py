"""What is to be decided, as one problem for each region and each conjunction of its property."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xcertify.bounds.query import Query
from xcertify.regions import Region
from xcertify.words import Words


def numbered(limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regions and conjunctions (Q,) that limits (N, P, J) do not rule out."""
    regions, numbers = np.nonzero((limits > -np.inf).all(axis=2))
    return regions, numbers


class Problems:
    """Q problems: region n and conjunction p, for all that may be violated.

    A problem holds if for no x of the region ``rows[j] @ f(x) <= limits[j]`` for all j.

    Parameters
    ----------
    region, constants
        N regions, and the inputs that do not vary.
    rows
        (N, P, J, K) float.
    limits
        (N, P, J) float64.
    shape
        Of the outputs.
    dtype
        Working type.

    Attributes
    ----------
    region_of, number_of
        (Q,) int: numbers n and p.
    rows, limits
        (Q, J, *outputs) in the working type, and (Q, J) float64.
    lower
        (Q,) float64: what is proved of ``min_x max_j (rows[j] @ f(x) - limits[j])``.
    leaves
        (Q,): the same over what is closed; inf where nothing is yet.
    started, closed
        (Q,) bool: whether a problem is or was in branches, and whether it is proved to hold.
    nb_branches
        (N,).
    violated
        (N,) bool.
    """

    def __init__(
        self,
        region: Region,
        constants: Sequence[np.ndarray],
        rows: np.ndarray,
        limits: np.ndarray,
        shape: tuple[int, ...],
        dtype: str,
    ) -> None:
        self.region, self.constants, self.dtype = region, constants, dtype
        self.region_of, self.number_of = numbered(limits)
        self.rows = rows[self.region_of, self.number_of].astype(dtype)
        self.rows = self.rows.reshape(*self.rows.shape[:2], *shape)
        self.limits = limits[self.region_of, self.number_of].astype(np.float64)
        self.lower = np.full(len(self.region_of), -np.inf)
        self.leaves = np.full(len(self.region_of), np.inf)
        self.started, self.closed = np.zeros((2, len(self.region_of)), bool)
        self.nb_branches = np.zeros(len(region), int)
        self.violated = np.zeros(len(region), bool)
        self._query = Query.over(region, constants, [], dtype)

    @property
    def needed(self) -> np.ndarray:
        """(Q,) bool: what is still to be proved."""
        return ~self.closed & ~self.violated[self.region_of]

    @property
    def open(self) -> np.ndarray:
        """Numbers of those."""
        return np.flatnonzero(self.needed)

    @property
    def worst(self) -> float:
        """The least bound of what is open, for progress."""
        return float(self.lower[self.needed].min(initial=np.inf))

    @property
    def holds(self) -> np.ndarray:
        """(N,) bool: which regions have no problem left that is not closed."""
        found = np.ones(len(self.violated), bool)
        found[self.region_of[~self.closed]] = False
        return found

    @property
    def worst_of_regions(self) -> np.ndarray:
        """(N,) float64: the least bound of the problems of each region."""
        found = np.full(len(self.violated), np.inf)
        np.minimum.at(found, self.region_of, self.lower)
        return found

    def regions(self, regions: np.ndarray) -> Query:
        """Some of the regions."""
        return self._query.map(lambda array: array[regions])

    def query(self, some: np.ndarray) -> Query:
        """The whole regions of problems."""
        return self.regions(self.region_of[some])

    def hull(
        self, some: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (M, *input) of branches of problems (M,), as small as what they hold of regions.

        Beside these which of them hold nothing, (M,) bool.
        """
        if isinstance(self.region, Words):
            return self.region[self.region_of[some]].hull_within(lower, upper)
        return lower, upper, np.any((lower > upper).reshape(len(lower), -1), axis=1)

    def to_split(
        self,
        feature: np.ndarray,
        cut: tuple[np.ndarray, np.ndarray],
        whole: tuple[np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes of branches that were bounded, and the features (M,) to split next.

        Of texts a cut may leave one alone, of which the bounds were not: then the box stays as it
        was. And where it leaves one word at the position of a feature, another is split.
        """
        lower, upper = cut
        if not isinstance(self.region, Words):
            return feature, lower, upper
        width = (upper - lower).reshape(len(feature), -1)
        is_point = (width <= 0).all(axis=1)[:, None, None]
        lower, upper = (np.where(is_point, *sides) for sides in zip(whole, cut))
        width = (upper - lower).reshape(len(feature), -1)
        gone = width[np.arange(len(feature)), feature] <= 0
        return np.where(gone, width.argmax(axis=1), feature).astype(feature.dtype), lower, upper

    def note_bounds(self, regions: np.ndarray, margins: np.ndarray) -> None:
        """Bounds (M, P) of the conjunctions of whole regions (M,)."""
        place = np.full(len(self.violated), -1)
        place[regions] = np.arange(len(regions))
        some = np.flatnonzero(place[self.region_of] >= 0)
        found = margins[place[self.region_of[some]], self.number_of[some]]
        self.lower[some] = np.fmax(self.lower[some], found)
        self.closed[some] |= self.lower[some] > 0

    def note_branches(self, some: np.ndarray) -> None:
        """Count the branches of problems, (M,) int."""
        np.add.at(self.nb_branches, self.region_of[some], 1)
        self.started[some] = True

    def note_leaves(self, some: np.ndarray, margins: np.ndarray) -> None:
        """Branches that are closed."""
        np.minimum.at(self.leaves, some, margins)

    def note_open(self, some: np.ndarray, margins: np.ndarray) -> None:
        """All branches that are open: without any, a problem that was started is closed."""
        least = self.leaves.copy()
        np.minimum.at(least, some, margins)
        is_open = np.zeros(len(self.closed), bool)
        is_open[some] = True
        known = self.needed & self.started
        self.lower = np.where(known, np.fmax(self.lower, least), self.lower)
        self.closed |= self.started & ~is_open
