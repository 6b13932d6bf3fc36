"""Attacks on the direction of smoothed maps: how far the mean of noisy maps can be turned."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.attacks.ascent import PGD
from xcertify.attacks.maps import Explanation, climbed_copy, flat, free_variable
from xcertify.checks import nb_at_once, whole_number
from xcertify.regions import Region, valid_range
from xcertify.sampling import Draw
from xcertify.settings import Settings
from xcertify.smoothing import BETAS, SmoothCopy


class SmoothedCosineAttack(Settings):
    """Search for points near inputs at which the mean of noisy maps has another direction.

    Projected gradient descent in an l2 ball of the cosine between a given direction and the mean of
    the maps at x' + noise, each scaled to length 1, over `nb_draws` draws of the noise. The noise
    is drawn anew in each of three rounds. A network of ReLUs is climbed on a copy with softplus,
    sharper in each round. Which point is worst is for the caller to say, by fresh samples.

    Parameters
    ----------
    model
        Keras model or callable of logits, as for `xcertify.attacks.PGD`.
    explanation
        (model, inputs, targets) -> maps (B, *map) of TensorFlow operations, differentiable, see
        `xcertify.attacks.maps`.
    noise
        Draws of the noise, as for `xcertify.sampling.sampled`.
    clip
        What noisy points are cut to before they are explained, (low, high); None: they are not.
    steps, step_size
        Of the descent, in all rounds together, as for `PGD`.
    nb_draws
        Of the noise, the same for all inputs.
    batch_size
        Most noisy points that are explained at once.
    seed
        Of the draws.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.

    No guarantee
    ------------
    An empirical attack: what it does not turn may turn all the same.

    References
    ----------
    Athalye, Engstrom, Ilyas, Kwok: Synthesizing Robust Adversarial Examples, ICML 2018 (expectation
    over transformation). Salman et al.: Provably Robust Deep Learning via Adversarially Trained
    Smoothed Classifiers, NeurIPS 2019.

    Examples
    --------
    >>> attack = SmoothedCosineAttack(model, input_gradient, normal_draws(images.shape[1:]))
    >>> points = attack(Ball(images, 0.1, norm=2), weights, maps)
    """

    def __init__(
        self,
        model: Callable,
        explanation: Explanation,
        noise: Draw,
        *,
        clip: tuple[Any, Any] | None = None,
        steps: int = 100,
        step_size: float = 0.5,
        nb_draws: int = 32,
        batch_size: int | None = 512,
        seed: int = 0,
    ) -> None:
        self.model, self.explanation, self.noise, self.clip = model, explanation, noise, clip
        self.steps, self.step_size = whole_number("steps", steps, least=0), step_size
        self.nb_draws = whole_number("nb_draws", nb_draws)
        self.batch_size, self.seed = batch_size, seed
        nb_at_once(batch_size)
        # Variables, so that a call with other samples does not compile anew; one call at a time.
        self._draws, self._targets, self._directions = (
            free_variable(tf.float32, rank) for rank in (None, None, 2)
        )
        self._lock = threading.Lock()

    def __call__(self, region: Region, targets: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Attack every region.

        Parameters
        ----------
        region
            N balls of the norm 2.
        targets
            (N, K): weights of the logits, as the explanation takes them.
        directions
            (N, *map): the smoothed maps of the inputs, of any length.

        Returns
        -------
        points
            (N, *shape) float32, inside the region.
        """
        generator = np.random.default_rng(self.seed)
        copy, _ = self._climbed()  # not while a graph is traced
        pgd = self._derive("ascent", self._make_ascent)
        points: np.ndarray | None = None
        with self._lock:
            self._targets.assign(targets)
            self._directions.assign(np.reshape(directions, (len(region), -1)))
            if copy is not None:
                copy.update()
            for beta in BETAS:
                self._draws.assign(self.noise(generator, 0, self.nb_draws))
                if copy is not None:
                    copy.beta.assign(beta)
                points = pgd(region, starts=points).points
        assert points is not None
        return points.astype(np.float32)

    @tf.autograph.experimental.do_not_convert
    def _objective(self, points: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        """Minus the cosine to the given directions, (B,)."""
        shape = tuple(points.shape[1:])
        noisy = tf.reshape(points[:, None] + self._draws, (-1, *shape))  # (B V, *shape)
        if self.clip is not None:
            noisy = tf.clip_by_value(noisy, *valid_range(self.clip, shape, np.float32))
        targets = tf.repeat(tf.gather(self._targets, samples), self.nb_draws, axis=0)
        maps = flat(self.explanation(self._climbed()[1], noisy, targets))
        maps = tf.math.l2_normalize(maps, axis=1)
        means = tf.reduce_mean(tf.reshape(maps, (-1, self.nb_draws, tf.shape(maps)[1])), axis=1)
        directions = tf.math.l2_normalize(tf.gather(self._directions, samples), axis=1)
        nothing = tf.reduce_sum(0 * flat(points), axis=1)  # a map that never changes climbs by 0
        return nothing - tf.reduce_sum(tf.math.l2_normalize(means, axis=1) * directions, axis=1)

    def _climbed(self) -> tuple[SmoothCopy | None, Callable]:
        """A copy with softplus for ReLU, if the model has any, and the logits that are climbed."""
        return self._derive("climbed", lambda: climbed_copy(self.model))

    def _make_ascent(self) -> PGD:
        return PGD(
            objective=self._objective,
            steps=math.ceil(self.steps / len(BETAS)),
            step_size=self.step_size,
            batch_size=max(1, nb_at_once(self.batch_size) // self.nb_draws),
        )
