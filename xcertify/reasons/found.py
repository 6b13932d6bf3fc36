"""What is known of the groups of features of N inputs, while a sufficient set is looked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from xcertify.bounds import WorstPoints
from xcertify.reasons.features import Features
from xcertify.regions import Region


class Found:
    """The three words for each group: irrelevant, needed, and open for what is neither yet.

    Parameters
    ----------
    region
        N regions.
    features
        Their groups.

    Attributes
    ----------
    irrelevant, needed
        (N, G) bool.
    added
        (N, G) int: in which step a group became irrelevant; 0 for what cannot move.
    witnesses
        (N) dictionaries {number of a needed group: input}.
    worst
        (N, *input): the points where all irrelevant groups are nearest to another answer.
    contributions
        (N, G) float64: what each group costs a bound.
    seconds
        (N,): time that each input took.
    step
        The number of steps so far.
    """

    def __init__(self, region: Region, features: Features) -> None:
        self.region, self.features = region, features
        shape = (len(features), features.nb_groups)
        moves = features.sums((region.upper > region.lower).astype(np.float64)) > 0
        self.irrelevant = features.valid & ~moves
        self.needed, self.added = np.zeros(shape, bool), np.zeros(shape, int)
        self.witnesses: list[dict[int, np.ndarray]] = [{} for _ in range(len(features))]
        self.worst = region.center.copy()
        self.contributions = np.zeros(shape)
        self.seconds, self.step = np.zeros(len(features)), 0

    @property
    def open(self) -> np.ndarray:
        """(N, G) bool: neither irrelevant nor needed."""
        return self.features.valid & ~self.irrelevant & ~self.needed

    def freed(self, samples: np.ndarray, groups: np.ndarray) -> Region:
        """The parts of the regions of samples (M,) where only some groups (M, G) move."""
        return self.region[samples].fix(~self.features[samples].to_inputs(groups))

    def with_one(self, samples: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """The irrelevant groups of samples (M,), and one of `groups` (M,) each: (M, G)."""
        masks = self.irrelevant[samples].copy()
        masks[np.arange(len(samples)), groups] = True
        return masks

    def free(self, samples: np.ndarray, groups: np.ndarray) -> None:
        """Groups (M, G) of different samples (M,) are irrelevant, together with all that are."""
        self.step += 1
        new = groups & ~self.irrelevant[samples]
        self.irrelevant[samples] |= groups
        self.added[samples] = np.where(new, self.step, self.added[samples])

    def need(self, samples: np.ndarray, groups: np.ndarray, points: np.ndarray) -> None:
        """Groups (M,) of samples (M,) are needed, as points (M, *input) show."""
        self.needed[samples, groups] = True
        for sample, group, point in zip(samples.tolist(), groups.tolist(), points):
            self.witnesses[sample][group] = np.array(point, np.float32)

    def note_worst(self, samples: np.ndarray, found: WorstPoints) -> None:
        """Keep the worst points of regions in which the irrelevant groups of samples move."""
        self.worst[samples] = found.points

    def back_to(self, samples: np.ndarray, steps: np.ndarray) -> None:
        """Only what became irrelevant in the first steps (M,) is so in samples (M,).

        Witnesses in which others move show nothing any more.
        """
        self.irrelevant[samples] &= self.added[samples] <= steps[:, None]
        for sample in samples.tolist():
            own = self.witnesses[sample]
            if not own:
                continue
            numbers = np.array(list(own))
            moved = self.moved(np.full(len(own), sample), np.stack(list(own.values())))
            moved[np.arange(len(own)), numbers] = False
            wrong = numbers[(moved & ~self.irrelevant[sample]).any(axis=1)]
            self.needed[sample, wrong] = False
            for number in wrong.tolist():
                del own[number]

    def moved(self, samples: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The groups (M, G) in which points (M, *input) differ from the inputs of samples (M,)."""
        differs = points != self.region.center[samples]
        return self.features[samples].sums(differs.astype(np.float64)) > 0

    @contextmanager
    def timed(self, samples: np.ndarray) -> Iterator[None]:
        """What is done inside takes the time of samples (M,), each as often as it occurs."""
        begin = time.monotonic()
        try:
            yield
        finally:
            if len(samples):
                np.add.at(self.seconds, samples, (time.monotonic() - begin) / len(samples))
