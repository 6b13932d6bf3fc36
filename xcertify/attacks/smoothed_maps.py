"""Attacks on smoothed maps: on what a map is for most noise, not on the map of the input itself.

With noise n, independent normal numbers of standard deviation sigma, an entry of the smoothed map
is *in* the top set of x if it is among the k largest of the map of x + n for more than half of the
noise. A point x' *flips* an entry if the majority is another one there. Which way it went is told
by fresh samples at x' alone: whatever was climbed to find the point only proposes it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.attacks.ascent import PGD
from xcertify.attacks.maps import Explanation, climbed_copy, flat, free_variable, input_gradient
from xcertify.attacks.minimal import MinimalResult
from xcertify.attacks.roundings import distances_of
from xcertify.checks import nb_at_once, positive, whole_number
from xcertify.models import has_gradient
from xcertify.radii import RadiusSearch
from xcertify.regions import Ball, Region, as_column, valid_range
from xcertify.settings import Settings
from xcertify.smoothing import SmoothCopy
from xcertify.statistics import binomial_tail, rejected

# (numbers of inputs (M,), points (M, *shape)) -> in how many of fresh noisy maps each entry is in
# the top set, (M, *map) int
Votes = Callable[[np.ndarray, np.ndarray], np.ndarray]

_NB_ROUNDS = 10
_SOFTNESS = 0.3  # of the border of a top set, in mean distances of entries to it
_WIDTH = 0.1  # share of the noise over which an entry counts as being on its way


@dataclass(frozen=True, eq=False)
class SmoothedMapResult:
    """The points at which an attack flipped most entries of smoothed maps.

    Attributes
    ----------
    points
        (N, *shape) float32, inside the region.
    flipped
        (N, *map) bool: entries whose majority is another one at the point, by fresh samples.
    counts
        (N, *map) int: for how many of `nb_samples` fresh samples at the point each entry has the
        answer that it has at the nominal input. An estimate, and of a point that these samples
        chose among others: a little too low.
    nb_samples, alpha
        Number of these samples, and the level of the test.

    Guarantee
    ---------
    Statistical. What is random: the noise of `votes` alone. Fixed before it is looked at: the
    points that are tried, `chosen`, the model, the explainer and all settings. If the samples of a
    point are independent, then for each input, with a probability of at least 1 - `alpha`, *every*
    entry that is True in `flipped` has the chosen answer for at most half of the noise at its
    point: all entries and all points that were tried for this input are tested together (Holm).
    Whether what was chosen is the majority at the nominal input itself is not tested here.

    No guarantee
    ------------
    Of what is not flipped: a stronger attack, or more samples, may flip it.
    """

    points: np.ndarray
    flipped: np.ndarray
    counts: np.ndarray
    nb_samples: int
    alpha: float

    @property
    def seems_flipped(self) -> np.ndarray:
        """(N, *map) bool: where less than half of the samples have the old answer; an estimate."""
        return 2 * self.counts < self.nb_samples

    def __repr__(self) -> str:
        nb_flipped = int(self.flipped.reshape(len(self.points), -1).any(axis=1).sum())
        return (
            f"<SmoothedMapResult: {len(self.points)} samples, {nb_flipped} with a flipped entry, "
            f"{int(self.flipped.sum())} entries in all>"
        )


class SmoothedMapAttack(Settings):
    """Search for points near inputs at which entries of the smoothed map have another majority.

    Projected gradient ascent in an l2 ball of an expectation over noise, estimated by `nb_draws`
    draws (Athalye et al.)::

        sum over aimed entries i of  S((1/2 - p_i) / 0.1),
        p_i = mean over draws n of  S(+-(map_i(x' + n) - border(x' + n)) / temperature)

    with the logistic function S, the sign by the answer of i at the nominal input, and the middle
    of the entries in places k and k + 1 as border: a differentiable count of flipped entries. The
    noise is drawn anew in each of ten rounds and held within one, so that what is climbed does not
    jitter (as Salman et al. do). A network of ReLUs is climbed on a copy with softplus. One start
    aims at all entries together, the others at one each, the weakest.

    Parameters
    ----------
    model
        Keras model or callable of logits, as for `xcertify.attacks.PGD`.
    explanation
        (model, inputs, targets) -> maps (B, *map) of TensorFlow operations, differentiable, see
        `xcertify.attacks.maps`. None: the maps that are attacked have no derivative, and the
        magnitude of the model's gradient is climbed in their place (a transfer), beside random
        directions; where even that has another number of entries, or the model has no gradient,
        random directions only. That finds far less: maps of RISE are flipped for all images where
        their own derivative is climbed, and for one in five by the transfer
        (`benchmarks/statistical_attacks.py`).
    sigma
        Standard deviation of the noise, in units of the inputs as the model takes them.
    k
        Number of entries of a top set.
    clip
        Range to which noisy points are cut, as for `Ball`; None: they are not.
    steps, step_size
        Number of gradient steps of each start, in all rounds together, and the length of the first
        step of a round as a share of the radius.
    nb_draws
        Number of draws of the noise for a gradient.
    nb_weakest
        Number of aimed entries, those with the smallest shares, that are attacked by themselves.
    nb_directions
        Number of random points on the sphere that are tried beside the ascents.
    alpha
        Level of the test that decides what is flipped, for each input.
    batch_size
        Number of noisy points that are explained at once by the ascent, at least `nb_draws`.
    seed
        Of the noise of the ascent and of the random directions.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.

    No guarantee
    ------------
    An empirical attack: what it does not flip may flip all the same.

    References
    ----------
    Athalye, Engstrom, Ilyas, Kwok: Synthesizing Robust Adversarial Examples, ICML 2018 (expectation
    over transformation). Salman et al.: Provably Robust Deep Learning via Adversarially Trained
    Smoothed Classifiers, NeurIPS 2019 (attacks on smoothed classifiers).

    Examples
    --------
    >>> explainer = SmoothedAttribution(Saliency(model, reducer=None), sigma=0.25, top=0.2)
    >>> found = explainer.certify(images)
    >>> def votes(numbers, points):
    ...     return explainer.votes(points, found.targets[numbers], nb_samples=500, purpose="attack")
    >>> k = round(0.2 * found.chosen[0].size)
    >>> attack = SmoothedMapAttack(model, sigma=0.25, k=k)
    >>> attack(found.region, found.targets, found.chosen, votes, nb_samples=500).flipped
    """

    def __init__(
        self,
        model: Callable,
        explanation: Explanation | None = None,
        *,
        sigma: float,
        k: int,
        clip: tuple[Any, Any] | None = None,
        steps: int = 100,
        step_size: float = 0.5,
        nb_draws: int = 16,
        nb_weakest: int = 2,
        nb_directions: int = 2,
        alpha: float = 0.001,
        batch_size: int | None = 512,
        seed: int = 0,
    ) -> None:
        if not callable(model):
            raise ValueError(f"model must be a model or a callable. Received: {model!r}")
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must be a level between 0 and 1. Received: {alpha!r}")
        self.model, self.explanation = model, explanation
        self.sigma, self.k, self.clip = positive("sigma", sigma), whole_number("k", k), clip
        self.steps = whole_number("steps", steps, least=0)
        self.step_size = positive("step_size", step_size)
        self.nb_draws = whole_number("nb_draws", nb_draws)
        self.nb_weakest = whole_number("nb_weakest", nb_weakest, least=0)
        self.nb_directions = whole_number("nb_directions", nb_directions, least=0)
        self.alpha, self.batch_size, self.seed = alpha, batch_size, seed
        nb_at_once(batch_size)
        # Variables, so that a call with other samples does not compile anew; one call at a time.
        self._draws, self._targets = free_variable(tf.float32), free_variable(tf.float32)
        self._chosen, self._aims = free_variable(tf.bool, 2), free_variable(tf.bool, 2)
        self._lock = threading.Lock()

    def __call__(
        self,
        region: Region,
        targets: np.ndarray,
        chosen: np.ndarray,
        votes: Votes,
        *,
        nb_samples: int,
        aimed: np.ndarray | None = None,
        shares: np.ndarray | None = None,
    ) -> SmoothedMapResult:
        """Attack every region.

        Parameters
        ----------
        region
            N balls of the norm 2.
        targets
            (N, K): weights of the logits, as the explanation takes them; of every noisy point too.
        chosen
            (N, *map) bool: whether an entry is in the majority's top set at the nominal input.
        votes
            (numbers (M,) of inputs, points (M, *shape)) -> (M, *map) int: in how many of
            `nb_samples` noisy maps of each point, with noise that nobody has looked at before, an
            entry is in the top set.
        nb_samples
            Of `votes`.
        aimed
            (N, *map) bool: the entries that are attacked. None: all. Others are judged, too.
        shares
            (N, *map): how often an entry has its answer at the nominal input, which says which ones
            are the weakest. None: they are in the order of the map.

        Returns
        -------
        result
            For each input the point at which most of the aimed entries are flipped, of equal ones
            that at which one of them is nearest to it.

        Raises
        ------
        ValueError
            For arguments that do not fit.
        """
        chosen = np.asarray(chosen, bool)
        aimed = np.ones(chosen.shape, bool) if aimed is None else np.asarray(aimed, bool)
        shares = np.zeros(chosen.shape) if shares is None else np.asarray(shares)
        wanted = (len(region), *chosen.shape[1:])
        if region.norm != 2 or any(a.shape != wanted for a in (chosen, aimed, shares)):
            raise ValueError(
                f"region must be balls of the norm 2, and chosen, aimed and shares must be "
                f"(N, *map) each with N={len(region)}. Received: {region!r}, {chosen.shape}, "
                f"{aimed.shape}, {shares.shape}"
            )
        rows = [array.reshape(len(region), -1) for array in (chosen, aimed, shares)]
        candidates = self._candidates(region, np.asarray(targets, np.float32), *rows)
        everyone = np.tile(np.arange(len(region)), len(candidates))
        counts = votes(everyone, candidates.reshape(-1, *region.shape))
        counts = np.reshape(counts, (len(candidates), *rows[0].shape)).astype(np.int64)  # (C, N, d)
        counts = np.where(rows[0], counts, nb_samples - counts)
        flipped = self._flipped(counts, nb_samples)
        lowest = np.where(rows[1], counts, nb_samples).min(axis=-1)
        score = (flipped & rows[1]).sum(axis=-1) - lowest / (nb_samples + 1)
        best = score.argmax(axis=0), np.arange(len(region))
        found = flipped[best].reshape(chosen.shape), counts[best].reshape(chosen.shape)
        return SmoothedMapResult(candidates[best], *found, nb_samples, self.alpha)

    def radii(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        chosen: np.ndarray,
        votes: Votes,
        *,
        nb_samples: int,
        low: Any,
        high: float,
        aimed: np.ndarray | None = None,
        shares: np.ndarray | None = None,
        nb_halvings: int = 5,
    ) -> MinimalResult:
        """The least radii at which one of the aimed entries was flipped.

        Parameters
        ----------
        inputs
            (N, *shape).
        targets, chosen, votes, nb_samples, aimed, shares
            As for a call.
        low
            Radii above 0, a number or (N,), that are tried first; larger ones from there on.
        high
            Largest radius that is tried.
        nb_halvings
            Of the logarithm of the radius.

        Returns
        -------
        result
            Points, and their l2 distances to the inputs, inf where nothing was flipped. Each test
            of the search has the level `alpha` by itself.
        """
        aimed = np.ones(chosen.shape, bool) if aimed is None else np.asarray(aimed, bool)
        points, distances = np.array(inputs, np.float32), np.full(len(inputs), np.inf)
        search = RadiusSearch(
            low, np.full(len(inputs), high), nb_halvings=nb_halvings, test_low=True
        )
        for some, radii in search:
            result = self(
                Ball(inputs[some], as_column(radii, inputs), norm=2),
                targets[some],
                chosen[some],
                partial(_votes_of_some, votes, some),
                nb_samples=nb_samples,
                aimed=aimed[some],
                shares=None if shares is None else shares[some],
            )
            broken = (result.flipped & aimed[some]).reshape(len(some), -1).any(axis=1)
            moved = result.points[broken]
            distances[some[broken]] = distances_of(moved - inputs[some[broken]].astype(float), 2)
            points[some[broken]] = moved
            search.answer(~broken)
        return MinimalResult(points, distances)

    def _candidates(self, region: Region, targets: np.ndarray, *rows: np.ndarray) -> np.ndarray:
        """Points (C, N, *shape) to be judged; `rows` are chosen, aimed and shares, (N, d) each."""
        generator = np.random.default_rng(self.seed)
        ways = generator.standard_normal((self.nb_directions, 1, *region.shape))
        lengths = np.sqrt((ways**2).sum(axis=tuple(range(1, ways.ndim)), keepdims=True))
        assert region.epsilon is not None  # of a ball
        around = region.center + region.epsilon * ways / lengths
        around = region.project(around.astype(np.float32))
        if self._explanation_of(region.shape, rows[0].shape[1]) is None:
            return np.concatenate([region.center[None].astype(np.float32), around])
        return np.concatenate([self._climb(region, targets, generator, *rows), around])

    def _climb(
        self,
        region: Region,
        targets: np.ndarray,
        generator: np.random.Generator,
        chosen: np.ndarray,
        aimed: np.ndarray,
        shares: np.ndarray,
    ) -> np.ndarray:
        """Points (G, N, *shape), of all aimed entries together and of each of the weakest."""
        aims = np.stack([aimed, *_weakest(aimed, shares, self.nb_weakest)])  # (G, N, d)
        everyone = np.tile(np.arange(len(region)), len(aims))
        copy, _ = self._climbed()  # not while a graph is traced
        pgd = self._derive(("ascent", aims.shape[-1]), lambda: self._make_ascent(aims.shape[-1]))
        points: np.ndarray | None = None
        with self._lock:
            self._targets.assign(targets)
            self._chosen.assign(chosen)
            self._aims.assign(aims.reshape(-1, aims.shape[-1]))
            if copy is not None:
                copy.update()
            for _ in range(self._nb_rounds):
                draws = generator.standard_normal((self.nb_draws, *region.shape), np.float32)
                self._draws.assign(np.float32(self.sigma) * draws)
                points = pgd(region[everyone], starts=points).points
        assert points is not None
        return points.astype(np.float32).reshape(len(aims), *region.center.shape)

    def _flipped(self, counts: np.ndarray, nb_samples: int) -> np.ndarray:
        """Where counts (C, N, d) of the old answer show another majority, at `alpha` an input."""
        numbers = np.arange(nb_samples + 1)
        tails = binomial_tail(numbers, nb_samples, 0.5)  # of the other answer, at a share of 1/2
        p_values = tails[nb_samples - counts].transpose(1, 0, 2)
        found = rejected(p_values.reshape(len(p_values), -1), self.alpha, "holm")
        return found.reshape(p_values.shape).transpose(1, 0, 2)

    @tf.autograph.experimental.do_not_convert
    def _objective(self, nb_entries: int, points: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        """A differentiable count of the aimed entries that are flipped, (B,)."""
        inputs = tf.math.floormod(samples, tf.shape(self._targets)[0])
        chosen, aims = tf.gather(self._chosen, inputs), tf.gather(self._aims, samples)
        shape = tuple(points.shape[1:])
        noisy = tf.reshape(points[:, None] + self._draws, (-1, *shape))  # (B V, *shape)
        if self.clip is not None:
            noisy = tf.clip_by_value(noisy, *valid_range(self.clip, shape, np.float32))
        targets = tf.repeat(tf.gather(self._targets, inputs), self.nb_draws, axis=0)
        explanation = self._explanation_of(shape, nb_entries)
        assert explanation is not None
        maps = flat(explanation(self._climbed()[1], noisy, targets))
        inside = soft_top(tf.ensure_shape(maps, [None, nb_entries]), self.k)
        inside = tf.reduce_mean(tf.reshape(inside, (-1, self.nb_draws, nb_entries)), axis=1)
        kept = tf.where(chosen, inside, 1 - inside)
        moved = tf.sigmoid((0.5 - kept) / _WIDTH)
        nothing = tf.reduce_sum(0 * flat(points), axis=1)  # a map that never changes climbs by 0
        return tf.reduce_sum(tf.where(aims, moved, tf.zeros_like(moved)), axis=1) + nothing

    def _explanation_of(self, shape: tuple[int, ...], nb_entries: int) -> Explanation | None:
        """What is climbed for maps of so many entries: as given, or a gradient if one fits."""
        if self.explanation is not None:
            return self.explanation
        logits = self._climbed()[1]
        if not self._derive(("has gradient", shape), lambda: has_gradient(logits, shape)):
            return None
        for size, axis in ((math.prod(shape), None), (math.prod(shape[:-1]), -1)):
            if nb_entries == size:
                return partial(_gradient_sizes, axis)
        return None

    def _climbed(self) -> tuple[SmoothCopy | None, Callable]:
        """A copy with softplus for ReLU, if the model has any, and the logits that are climbed."""
        return self._derive("climbed", lambda: climbed_copy(self.model))

    @property
    def _nb_rounds(self) -> int:
        """Ten, or one for each step where these are fewer."""
        return min(_NB_ROUNDS, max(1, self.steps))

    def _make_ascent(self, nb_entries: int) -> PGD:
        return PGD(
            objective=partial(self._objective, nb_entries),
            steps=math.ceil(self.steps / self._nb_rounds),
            step_size=self.step_size,
            batch_size=max(1, nb_at_once(self.batch_size) // self.nb_draws),
        )


def soft_top(maps: tf.Tensor, k: int) -> tf.Tensor:
    """How far each entry is among the k largest of its map, (B, d), from 0 to 1; 1/2 at the border.

    The logistic function of its distance to the middle between the entries in places k and k + 1,
    in units of 0.3 of the mean distance.

    Parameters
    ----------
    maps
        (B, d).
    k
        From 1 to d - 1; more is taken as d - 1.
    """
    size = maps.shape[1]
    place = min(k, size - 1)
    largest = tf.math.top_k(maps, place + 1).values
    above = maps - tf.reduce_mean(largest[:, max(place - 1, 0) :], axis=1, keepdims=True)
    unit = tf.stop_gradient(_SOFTNESS * tf.reduce_mean(tf.abs(above), axis=1, keepdims=True))
    return tf.sigmoid(tf.math.divide_no_nan(above, unit))


def _votes_of_some(
    votes: Votes, some: np.ndarray, numbers: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """Votes at points of the inputs `numbers` among `some`."""
    return votes(some[numbers], points)


def _gradient_sizes(
    axis: int | None, model: Callable, inputs: tf.Tensor, targets: tf.Tensor
) -> tf.Tensor:
    """Magnitudes of the gradient, the largest along an axis if one is given."""
    sizes = tf.abs(input_gradient(model, inputs, targets))
    return sizes if axis is None else tf.reduce_max(sizes, axis=axis)


def _weakest(aimed: np.ndarray, shares: np.ndarray, number: int) -> list[np.ndarray]:
    """For each of some numbers of entries the one with the next larger share, (N, d) bool each."""
    order = np.argsort(np.where(aimed, shares, np.inf), axis=1, kind="stable")
    alone = [np.zeros(aimed.shape, bool) for _ in range(min(number, aimed.shape[1]))]
    for place, mask in enumerate(alone):
        np.put_along_axis(mask, order[:, place, None], True, axis=1)
    return [mask & aimed for mask in alone]
