"""An attack on what a certificate claims of explanations: the same criterion and explanation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attacks.ascent import PGD
from xcertify.attacks.maps import BETAS, Explanation, MapAttackResult, softplus_copy
from xcertify.criteria import Criterion
from xcertify.logits import logits_of
from xcertify.regions import Region


class CriterionAttack:
    """Search of regions for explanations that break a criterion; compiled once for all regions.

    Projected gradient ascent of how badly the criterion is broken. A ReLU network has no second
    derivative: its explanations are climbed on a copy with softplus(beta z) / beta, for one beta
    after the other, and judged on the model itself. The predicted class may change, as it may in a
    certificate.

    Parameters
    ----------
    model
        Keras model.
    explanation
        (model, inputs, targets) -> maps, see `xcertify.attacks.maps`.
    criterion
        One of `xcertify.criteria`.
    original
        (N, *map): the explanations that the criterion defends.
    targets
        (N, K): weights of the logits, as the explanation takes them.
    steps, restarts, batch_size, seed
        As for `PGD`, for each beta.

    No guarantee
    ------------
    An empirical attack: what it does not find may exist all the same.

    Examples
    --------
    >>> attack = CriterionAttack(model, input_gradient, Within(0.5), maps, one_hot)
    >>> attack.breaks(attack(Ball(images, 0.05)))
    """

    def __init__(
        self,
        model: keras.Model,
        explanation: Explanation,
        criterion: Criterion,
        original: np.ndarray,
        targets: np.ndarray,
        *,
        steps: int = 20,
        restarts: int = 2,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        self.model, self.explanation, self.criterion = model, explanation, criterion
        self.original, self.targets, self.batch_size = original, targets, batch_size
        self._logits = logits_of(model)
        copy, self._beta = softplus_copy(model)
        self._smooth = logits_of(copy)
        goal = np.broadcast_to(np.asarray(criterion.goal, np.float32), original.shape)
        self._data = [tf.constant(_flat(v), tf.float32) for v in (targets, original, goal)]
        self._pgd = PGD(
            objective=self._objective,
            steps=steps,
            restarts=restarts,
            batch_size=batch_size,
            seed=seed,
        )
        self._maps = tf.function(
            lambda points, targets: explanation(self._logits, points, targets),
            reduce_retracing=True,
        )

    def __call__(self, region: Region) -> MapAttackResult:
        """Attack N regions; `values` of the result say how badly the criterion is broken."""
        points = None
        for beta in BETAS:
            self._beta.assign(beta)
            found = self._pgd(region, starts=points)
            points = found.points
        maps = [
            self._maps(points[s : s + self.batch_size], self.targets[s : s + self.batch_size])
            for s in range(0, len(points), self.batch_size)
        ]
        return MapAttackResult(points, np.concatenate(maps), self.original, found.values)

    def breaks(self, result: MapAttackResult) -> np.ndarray:
        """Where the explanations of a result break the criterion, (N,) bool."""
        return ~self.criterion.holds(result.maps, result.maps, self.original)

    def _objective(self, points: tf.Tensor, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        targets, original, goal = (tf.gather(tensor, samples) for tensor in self._data)

        def badness(model: Any) -> tuple[tf.Tensor, tf.Tensor]:
            maps = self.explanation(model, points, targets)
            maps = tf.reshape(maps, (-1, original.shape[1]))
            return self.criterion.badness(maps, original, goal)

        return badness(self._logits)[0], badness(self._smooth)[1]


def _flat(values: np.ndarray) -> np.ndarray:
    return np.reshape(values, (len(values), -1))
