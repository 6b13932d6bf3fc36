"""Words: texts in which each position holds one of a few words, each word a vector.

A text is a row of T vectors of E numbers, those of its words. Where a word may be a synonym, the
input is one of finitely many points, and no ball or box: the box around the vectors of "good",
"fine" and "great" holds many points that are no word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xcertify.regions import Region, as_batch, sums_by_group

__all__ = ["Words", "refuse_words"]


class Words(Region):
    """All texts in which the word of each position is the given one, or another that is allowed.

    ``{ x : x_t is center_t or one of others_t, for every position t }``; `at_most` keeps those in
    which few positions, whichever, differ from the center. A text is what comes behind an
    embedding layer, so that a `Verifier` of the whole model takes such regions with
    ``start_layer=`` the name of that layer.

    Parameters
    ----------
    center
        Vectors of the words of N texts, (N, T, E).
    others
        Vectors of the words that may stand there instead, (N, T, W, E).
    allowed
        Which of them may, (N, T, W) bool. None: all.

    Attributes
    ----------
    choices
        (N, T, 1 + W, E): the vector of the center first, and in the place of what is not allowed.
    tokens
        (N, T, 1 + W) int: the words that these are vectors of; None unless made by `of_tokens`.

    Raises
    ------
    ValueError
        For shapes that do not fit, and NaN or infinite values.

    Guarantee
    ---------
    Bounds of `Verifier` hold at every text of the region. Linear functions are bounded exactly, but
    for roundings: by their largest value at each position, over its words. Intervals of tensors
    inside the network begin with the box around the words. Attacks and counterexamples are texts of
    the region.

    Source of the idea: Jia et al., Certified Robustness to Adversarial Word Substitutions, 2019;
    exact closing of linear bounds over sets of words: Xu et al., Automatic Perturbation Analysis
    for Scalable Certified Robustness and Beyond, 2020.

    Examples
    --------
    >>> vectors = model.get_layer("embedding").get_weights()[0]              # (V, E)
    >>> region = Words.of_tokens(tokens, {17: [4, 90], 25: [31]}, vectors)
    >>> Verifier(model, start_layer="embedding").bound_outputs(region.at_most(2))
    """

    choices: np.ndarray
    tokens: np.ndarray | None

    def __init__(self, center: Any, others: Any, allowed: Any = None) -> None:
        center, others = as_batch(center, "center"), as_batch(others, "others")
        if center.ndim != 3 or others.ndim != 4 or others.shape[:2] != center.shape[:2]:
            raise ValueError(
                f"center must be (N, T, E), and others (N, T, W, E), vectors for each of its "
                f"positions. Received: shapes {center.shape} and {others.shape}"
            )
        if others.shape[3] != center.shape[2]:
            raise ValueError(
                f"others must be vectors of {center.shape[2]} numbers, as those of center. "
                f"Received: shape {others.shape}"
            )
        if allowed is None:
            allowed = np.ones(others.shape[:3], bool)
        allowed = np.asarray(allowed)
        if allowed.dtype != bool or allowed.shape != others.shape[:3]:
            raise ValueError(
                f"allowed must be boolean, {others.shape[:3]}, one entry for each of others. "
                f"Received: {allowed.dtype} of shape {allowed.shape}"
            )
        own = center[:, :, None]
        others = np.where(allowed[..., None], others, own).astype(center.dtype, copy=False)
        self._set(center, np.concatenate([own, others], axis=2))
        self.tokens = None

    def _set(self, center: np.ndarray, choices: np.ndarray) -> None:
        """The region of these choices, the first of which are the center."""
        super().__init__(center, choices.min(axis=2), choices.max(axis=2))
        self.choices = choices

    @classmethod
    def of_tokens(cls, tokens: Any, synonyms: Any, vectors: Any) -> Words:
        """The texts of N rows of tokens in which words may be their synonyms.

        Parameters
        ----------
        tokens
            Numbers of words, (N, T) int.
        synonyms
            A dictionary {token: tokens that may take its place}; or for each position its own,
            (N, T, W) int, -1 for none.
        vectors
            Those of all words, (V, E): the weights of the embedding layer.

        Raises
        ------
        ValueError
            For tokens that have no vector, and shapes that do not fit.

        Examples
        --------
        >>> Words.of_tokens([[3, 17, 5]], {17: [4, 90]}, vectors)
        """
        tokens, vectors = np.asarray(tokens), as_batch(vectors, "vectors")
        if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or vectors.ndim != 2:
            raise ValueError(
                f"tokens must be integers (N, T), and vectors (V, E). Received: {tokens.dtype} of "
                f"shape {tokens.shape}, and shape {vectors.shape}"
            )
        found = _listed(tokens, synonyms)
        every = np.concatenate(
            [tokens[..., None], np.where(found < 0, tokens[..., None], found)], 2
        )
        if every.size and not 0 <= every.min() <= every.max() < len(vectors):
            raise ValueError(
                f"tokens and synonyms must be from 0 to {len(vectors) - 1}, the rows of vectors. "
                f"Received: {every.min()} to {every.max()}"
            )
        region = cls(vectors[tokens], vectors[every[..., 1:]])
        region.tokens = every
        return region

    # --- what it holds ----------------------------------------------------------------------------

    @property
    def nb_choices(self) -> np.ndarray:
        """How many words may stand at each position, the given one among them, (N, T) int."""
        last = np.arange(1, self.choices.shape[2] + 1) * self.other
        return np.maximum(last.max(axis=2), 1)

    @property
    def other(self) -> np.ndarray:
        """Which of the choices are not the center, (N, T, 1 + W) bool."""
        return (self.choices != self.center[:, :, None]).any(axis=3)

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """The number of the choice that is nearest to points (..., N, T, E), (..., N, T) int."""
        best = np.full(points.shape[:-1], np.inf)
        found = np.zeros(points.shape[:-1], int)
        for number in range(self.choices.shape[2]):
            step = points.astype(np.float64) - self.choices[:, :, number]
            length = np.einsum("...e,...e->...", step, step)
            found = np.where(length < best, number, found)
            best = np.minimum(length, best)
        return found

    def chosen(self, numbers: np.ndarray) -> np.ndarray:
        """The texts (..., N, T, E) of choices by their numbers (..., N, T)."""
        nb_texts, nb_positions = self.center.shape[:2]
        return self.choices[np.arange(nb_texts)[:, None], np.arange(nb_positions), numbers]

    def tokens_at(self, points: np.ndarray) -> np.ndarray:
        """Tokens (..., N, T) of texts (..., N, T, E): those of the words nearest to them.

        Raises
        ------
        ValueError
            For a region that was not made of tokens.
        """
        if self.tokens is None:
            raise ValueError("tokens_at is of regions that Words.of_tokens made")
        numbers = self.nearest(np.asarray(points))
        nb_texts, nb_positions = self.center.shape[:2]
        return self.tokens[np.arange(nb_texts)[:, None], np.arange(nb_positions), numbers]

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Which of texts (N, T, E) are those of the N regions, (N,) bool."""
        inside = np.all(self.chosen(self.nearest(points)) == points, axis=(1, 2))
        if self.nb_changed is not None:
            inside &= self.count_changed(points) <= self.nb_changed
        return inside

    def gains(self, coefficients: np.ndarray) -> np.ndarray:
        """What linear functions (N, S, T, E) of ``x - center`` gain at most at each position.

        (N, S, T) float64, at least 0, roundings of float64 aside.
        """
        step = self.choices.astype(np.float64) - self.center[:, :, None]
        values = np.einsum("nste,ntwe->nstw", coefficients.astype(np.float64), step)
        return values.max(axis=3)

    def hull_within(
        self, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The smallest boxes around the texts that lie in given boxes, lower and upper (N, T, E).

        Returns
        -------
        lower, upper
            (N, T, E); as given where there is no text.
        empty
            (N,) bool: where there is none.
        """
        above, below = self.choices >= lower[:, :, None], self.choices <= upper[:, :, None]
        inside = np.all(above & below, axis=3)  # (N, T, 1 + W)
        empty = ~np.all(inside.any(axis=2), axis=1)
        if self.nb_changed is not None and self.groups is not None:
            # Groups whose center is outside have changed; once these are all, no other has.
            has_center = (inside & ~self.other).any(axis=2)  # (N, T)
            groups = self.groups[..., 0]
            changed = sums_by_group(~has_center, groups) > 0  # (N, G)
            empty |= changed.sum(axis=1) > self.nb_changed
            is_full = changed.sum(axis=1) == self.nb_changed
            others = ~np.take_along_axis(changed, np.maximum(groups, 0), axis=1) & (groups >= 0)
            inside &= ~(others & is_full[:, None])[..., None] | ~self.other
        inside = inside[..., None]
        hull = (
            np.where(inside, self.choices, np.inf).min(axis=2),
            np.where(inside, self.choices, -np.inf).max(axis=2),
        )
        keeps = empty[:, None, None]
        return np.where(keeps, lower, hull[0]), np.where(keeps, upper, hull[1]), empty

    # --- parts ------------------------------------------------------------------------------------

    def __getitem__(self, index: slice | np.ndarray) -> Words:
        """The regions of some texts, by a slice or an array of indices."""
        some = super().__getitem__(index)
        region = self._with(some.center, self.choices[index])
        region.nb_changed, region.groups = some.nb_changed, some.groups
        region.tokens = None if self.tokens is None else self.tokens[index]
        return region

    def _with(self, center: np.ndarray, choices: np.ndarray) -> Words:
        region = Words.__new__(Words)
        region._set(center, choices)
        region.tokens = self.tokens
        return region

    def _joined(self, parts: Sequence[Region]) -> Region:
        """As for all regions; those of fewer choices are filled up with the center."""
        words = [part for part in parts if isinstance(part, Words)]
        few = {part.nb_changed is None for part in parts}
        if len(words) < len(parts) or len({part.shape for part in parts}) > 1 or len(few) > 1:
            raise ValueError(
                f"regions must all be words of one shape, with at_most or without. "
                f"Received: {', '.join(map(str, parts))}"
            )
        most = max(part.choices.shape[2] for part in words)
        center = np.concatenate([part.center for part in words])
        region = words[0]._with(center, np.concatenate([part._filled(most) for part in words]))
        tokens = [part.tokens for part in words]
        region.tokens = None
        if all(one is not None for one in tokens):
            region.tokens = np.concatenate([_padded(one, most) for one in tokens])
        if words[0].nb_changed is not None:
            names = ("nb_changed", "groups")
            region.nb_changed, region.groups = (
                np.concatenate([getattr(part, name) for part in words]) for name in names
            )
        return region

    def _filled(self, size: int) -> np.ndarray:
        """Choices (N, T, size, E)."""
        return _padded(self.choices, size)

    def as_type(self, dtype: str) -> Words:
        """The same with vectors in another floating type."""
        region = self[:]
        region._set(self.center.astype(dtype), self.choices.astype(dtype))
        region.nb_changed, region.groups = self.nb_changed, self.groups
        return region

    def fix(self, mask: Any) -> Words:
        """The part of the region where the words of some positions stay.

        Parameters
        ----------
        mask
            Boolean, (T, E) or (N, T, E), the same along E; or (T,) or (N, T): True where a word is
            held.

        Raises
        ------
        ValueError
            If the mask is not boolean, does not fit, or holds a part of a vector.
        """
        mask = np.asarray(mask)
        if mask.shape in (self.shape[:1], self.center.shape[:2]):
            mask = np.broadcast_to(mask[..., None], (*mask.shape, self.shape[1]))
        super().fix(mask)  # refuses what does not fit
        if (mask != mask[..., :1]).any():
            raise ValueError(
                "mask must hold whole words: True at all entries of a vector, or at none"
            )
        held = np.broadcast_to(mask[..., :1], self.center.shape)[..., :1]
        region = self[:]
        region._hold(held)
        return region

    def _hold(self, held: np.ndarray) -> None:
        """Only the center is left at positions (N, T, 1) bool."""
        few = self.nb_changed, self.groups
        self._set(self.center, np.where(held[:, :, None], self.center[:, :, None], self.choices))
        self.nb_changed, self.groups = few

    def at_most(self, nb_changed: Any, groups: Any = None, free: Any = None) -> Region:
        """The texts in which few positions have other words, as `Region.at_most`.

        Parameters
        ----------
        nb_changed, free
            As there.
        groups
            As there, the same along E; or (T,) or (N, T). None: every position is a group.

        Raises
        ------
        ValueError
            As there, and for groups that hold parts of a vector.
        """
        groups = np.arange(self.shape[0]) if groups is None else np.asarray(groups)
        if groups.shape in (self.shape[:1], self.center.shape[:2]):
            groups = np.broadcast_to(groups[..., None], (*groups.shape, self.shape[1]))
        if (groups != groups[..., :1]).any():
            raise ValueError("groups must be of whole words: the same at all entries of a vector")
        return super().at_most(nb_changed, groups, free)

    def _change_few(self, nb_changed: np.ndarray, groups: np.ndarray) -> None:
        self.nb_changed, self.groups = nb_changed, groups
        held = (groups >= 0) & (nb_changed[:, None, None] == 0)
        self._hold(held[..., :1])

    def positive(self) -> Region:
        """Refused: of two words, each is above the other in some entries of their vectors."""
        raise ValueError(
            "positive, negative and one_way are parts of balls and boxes. Received: words, "
            "which are above the given one in some entries of their vectors and below it in others"
        )

    negative = positive

    def one_way(self, up: Any = None, down: Any = None) -> Region:
        """Refused, with a ValueError, for the same reason."""
        return self.positive()

    # --- points -----------------------------------------------------------------------------------

    def sample(self, nb_samples: int, seed: int | None = 0) -> np.ndarray:
        """Random texts of the region, (nb_samples, N, T, E); see `Region.sample`."""
        generator = np.random.default_rng(seed)
        share = generator.random((nb_samples, 1, self.shape[0]))
        points = self.chosen((share * self.nb_choices).astype(int))
        if self.groups is not None:
            nb_groups = int(self.groups.max(initial=0)) + 1
            points = self.with_few(points, generator.random((nb_samples, len(self), nb_groups)))
        return points

    def project(self, points: np.ndarray) -> np.ndarray:
        """The texts of the region near points (..., N, T, E): at each position the nearest word.

        Where few positions may have another word, those where it is farthest from the center keep
        it.
        """
        return self.with_few(self.chosen(self.nearest(points)).astype(points.dtype))

    # --- in words ---------------------------------------------------------------------------------

    def describe(self) -> str:
        """In words: how many positions may have another word, and how many words."""
        several = (self.nb_choices > 1).sum(axis=1)
        most = int(self.nb_choices.max(initial=1))
        found = f"texts with up to {most} words at up to {several.max(initial=0)} positions"
        if self.nb_changed is None:
            return found
        return f"{found}, at most {int(self.nb_changed.max(initial=0))} of which differ"

    def to_dict(self) -> dict[str, Any]:
        """As `Region.to_dict`, with `choices`, and `tokens` if there are any."""
        tokens = {} if self.tokens is None else {"tokens": self.tokens.tolist()}
        return super().to_dict() | {"choices": self.choices.tolist()} | tokens

    def __repr__(self) -> str:
        return f"<Words: {len(self)} regions of shape {self.shape}, {self.describe()}>"


def refuse_words(region: Region, what: str) -> None:
    """A ValueError for texts whose words are others.

    Parameters
    ----------
    region
        Any region.
    what
        Does not know them, for the message.
    """
    if isinstance(region, Words):
        raise ValueError(
            f"{what} is not available for sets of words. Give a Ball around the vectors, or the "
            f"Box(region.lower, region.upper), which holds more points. Received: {region}"
        )


def _listed(tokens: np.ndarray, synonyms: Any) -> np.ndarray:
    """Synonyms (N, T, W) int of tokens (N, T), -1 for none."""
    if isinstance(synonyms, Mapping):
        lists = {int(token): [*map(int, others)] for token, others in synonyms.items()}
        most = max([len(lists.get(token, ())) for token in np.unique(tokens).tolist()], default=0)
        found = np.full((*tokens.shape, most), -1)
        for token in np.unique(tokens).tolist():
            others = lists.get(token, [])
            found[tokens == token, : len(others)] = others
        return found
    found = np.asarray(synonyms)
    if found.ndim != 3 or found.shape[:2] != tokens.shape or found.dtype.kind not in "iu":
        raise ValueError(
            f"synonyms must be a dictionary {{token: tokens}}, or integers (N, T, W) for tokens "
            f"(N, T), {tokens.shape}. Received: {type(synonyms).__name__} of shape {found.shape}"
        )
    return found


def _padded(values: np.ndarray | None, size: int) -> np.ndarray:
    """Choices, or tokens, (N, T, W, ...) with the first of each position up to a size."""
    assert values is not None
    first = np.repeat(values[:, :, :1], size - values.shape[2], axis=2)
    return np.concatenate([values, first], axis=2)
