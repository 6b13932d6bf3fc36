"""Revealed features: what a model says of inputs of which only some features are shown."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xcertify.checks import positive, whole_number
from xcertify.inputs import in_batches
from xcertify.logits import two_classes
from xcertify.reasons import Features
from xcertify.sampling import Draw

_NB_ENTRIES = 2**22  # random numbers that are held at once


class Votes:
    """Votes of a model on sets of features that are shown; all others have a baseline's value.

    With multiplicative smoothing there are q masks T_s = {i : (v_i + s) mod q < k}, s = 0..q-1, of
    numbers v_i in 0..q-1, fixed by `seed`. Each has one vote, for the class that the model gives
    where what is in the set *and* in the mask is shown. Every feature is in exactly k masks, so
    that showing one more changes at most k votes. Without (q = k = 1) the one vote is the model's.

    Parameters
    ----------
    logits
        Arrays (B, *shape) to logits (B, K), a few at a time.
    inputs, baselines
        (N, *shape) float32: values of what is shown, and of what is not.
    features
        What is shown, or not, together; G groups.
    keep, levels
        k / q and q, as for `Stability`.
    seed
        Of the numbers v.
    batch_size
        Most masked inputs that are held at once.
    """

    def __init__(
        self,
        logits: Callable[[np.ndarray], np.ndarray],
        inputs: np.ndarray,
        baselines: np.ndarray,
        features: Features,
        *,
        keep: float,
        levels: int,
        seed: int,
        batch_size: int,
    ) -> None:
        self._logits, self._inputs, self._baselines = logits, inputs, baselines
        self._places = features.places.reshape(len(features), -1)
        self._shape, self._batch_size = features.places.shape[1:], batch_size
        self.nb_kept, self.nb_levels = kept_levels(keep, levels)
        numbers = np.random.default_rng(seed).integers(self.nb_levels, size=features.nb_groups)
        levels_of = (numbers + np.arange(self.nb_levels)[:, None]) % self.nb_levels
        self._masks = levels_of < self.nb_kept  # (q, G)

    def __call__(self, which: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """Votes (B, K) int for each class, of inputs (B,) with groups (B, G) bool shown."""
        rows = np.arange(len(which) * self.nb_levels)
        parts = []
        for some in in_batches(rows, self._batch_size):
            sets, masks = np.divmod(some, self.nb_levels)
            parts.append(self._one_vote(which[sets], shown[sets] & self._masks[masks]))
        votes = np.concatenate(parts)
        return votes.reshape(len(which), self.nb_levels, -1).sum(axis=1)

    def _one_vote(self, which: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """1 for the class of the largest logit (the first of equal ones), else 0, (B, K) int."""
        of_features = np.take_along_axis(shown, self._places[which], axis=1)
        mask = of_features.reshape(len(which), *self._shape)
        if self._inputs.ndim == 4:  # of all channels of a pixel
            mask = mask[..., None]
        points = np.where(mask, self._inputs[which], self._baselines[which])
        logits = two_classes(self._logits(points)).numpy()
        missing = np.isnan(logits).any(axis=1)
        if missing.any():
            raise ValueError(
                f"the model's outputs are NaN where only some features of an input are shown; "
                f"another baseline_mode may keep away from it. "
                f"Received: NaN for sample {int(which[np.argmax(missing)])}"
            )
        return (np.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None]).astype(int)


def kept_levels(keep: float, levels: int) -> tuple[int, int]:
    """k and q of a share k / q that is kept; 1 and 1 where all is.

    Raises
    ------
    ValueError
        For a share that is not in ]0, 1], or no multiple of 1 / q.
    """
    levels = whole_number("levels", levels)
    nb_kept = round(float(positive("keep", keep)) * levels)
    if not 0 < nb_kept <= levels or abs(nb_kept / levels - keep) > 1e-9:
        raise ValueError(
            f"keep must be a multiple of 1 / levels in ]0, 1], such as "
            f"{min(max(nb_kept, 1), levels)} / {levels}: each feature is in a whole number of the "
            f"masks. Received: keep={keep!r} with levels={levels}"
        )
    return (1, 1) if nb_kept == levels else (nb_kept, levels)


def hard_radii(votes: np.ndarray, classes: np.ndarray, nb_kept: int) -> np.ndarray:
    """How many more features may be shown, whichever, so that the class provably stays.

    Each one changes at most k votes, of which a class may lose all and another may get them: r
    features close the gap between both by at most 2 k r. The class stays where that is less.

    Parameters
    ----------
    votes
        Of the sets, (N, K) int.
    classes
        The class that is to stay, (N,) int.
    nb_kept
        k.

    Returns
    -------
    radii
        (N,) int; -1 where the class is not even that of the set itself.
    """
    samples = np.arange(len(votes))
    others = votes.copy()
    others[samples, classes] = -1
    gaps = votes[samples, classes] - others.max(axis=1)
    stays = votes.argmax(axis=1) == classes
    return np.where(stays, np.maximum((gaps - 1) // (2 * nb_kept), 0), -1)


def shares_of_sizes(nb_hidden: int, radius: int) -> np.ndarray:
    """How likely a uniform set of at most `radius` of `nb_hidden` features has 0, 1, ... of them.

    Proportional to their numbers (nb_hidden choose size), which overflow: by logarithms, and
    divided by the largest.
    """
    sizes = np.arange(min(radius, nb_hidden))
    logs = np.concatenate([[0.0], np.cumsum(np.log((nb_hidden - sizes) / (sizes + 1)))])
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def set_draws(hidden: np.ndarray, radius: int) -> Draw:
    """Draws for `sampled`: uniform sets of at most `radius` features that are hidden.

    A size is drawn as likely as there are sets of it, then the features of the least of as many
    random numbers as there are features.

    Parameters
    ----------
    hidden
        (N, G) bool: what the sets are of.
    radius
        Most features of a set.

    Returns
    -------
    draw
        Gives sets (count, G) bool.
    """

    def draw(generator: np.random.Generator, n: int, count: int) -> np.ndarray:
        (free,) = np.nonzero(hidden[n])
        sets = np.zeros((count, hidden.shape[1]), bool)
        if not len(free):
            return sets
        most = min(radius, len(free))
        up_to = np.cumsum(shares_of_sizes(len(free), most))[:-1]  # likely to have at most j
        for rows in in_batches(np.arange(count), max(1, _NB_ENTRIES // len(free))):
            numbers = generator.random((len(rows), 1 + len(free)))
            sizes = np.searchsorted(up_to, numbers[:, 0], side="right")
            keys = numbers[:, 1:]
            sets[np.ix_(rows, free)] = keys <= _least(keys, most, sizes)[:, None]
        return sets

    return draw


def _least(keys: np.ndarray, most: int, sizes: np.ndarray) -> np.ndarray:
    """The largest of the `sizes` (B,) least keys in [0, 1) of each row, (B,); -1 of none."""
    least = np.sort(np.partition(keys, most - 1, axis=1)[:, :most], axis=1)
    ends = np.concatenate([np.full((len(keys), 1), -1.0), least], axis=1)
    return ends[np.arange(len(keys)), sizes]
