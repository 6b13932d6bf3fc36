"""Attacks on explanations by inputs near the given ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attacks.ascent import PGD
from xcertify.attacks.maps import Explained, Explanation, MapAttackResult, as_target_maps, flat
from xcertify.checks import whole_number
from xcertify.logits import logits_of
from xcertify.regions import Region
from xcertify.smoothing import BETAS, softplus_copy


def top_k_attack(
    model: Callable,
    explanation: Explanation,
    region: Region,
    targets: Any = None,
    *,
    k: int,
    betas: Sequence[float] | None = BETAS,
    steps: int = 30,
    step_size: float = 0.5,
    restarts: int = 1,
    mask: Any = None,
    batch_size: int = 128,
    seed: int = 0,
) -> MapAttackResult:
    """Move features out of the k most important ones, with the predicted class unchanged.

    Minimises the sum of the attributions of the features that are the top k at the nominal input
    (Ghorbani et al., the top-k attack).

    Parameters
    ----------
    model
        Keras model, or a callable that returns logits.
    explanation
        (model, inputs, targets) -> maps, see `xcertify.attacks.maps`. Compared as it is, with its
        sign.
    region
        N regions in which the inputs may move.
    targets
        What is explained: integer labels (N,), one-hot rows or weights (N, K), or None for the
        predicted class.
    k
        Number of important features.
    betas
        A ReLU network has no second derivative, so gradient steps use the maps of a copy whose
        ReLUs are softplus(beta z) / beta, for each beta in turn, beginning where the last one
        ended; what counts are the maps of the model itself. None: steps use the model's own maps.
    steps, step_size, restarts, mask, batch_size, seed
        As for `PGD`, for each beta.

    Returns
    -------
    result
        `values`: share of the original top k that is not among the top k any more, from 0 to 1.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.

    No guarantee
    ------------
    An empirical attack.

    References
    ----------
    Ghorbani, Abid, Zou: Interpretation of Neural Networks is Fragile, AAAI 2019.

    Examples
    --------
    >>> top_k_attack(model, input_gradient, Ball(images, 0.05), labels, k=15).values
    """
    explained = Explained(model, explanation, region.center, targets, batch_size)
    nb_features = explained.maps[0].size
    k = whole_number("k", k, most=nb_features - 1)
    order = np.argsort(-explained.maps.reshape(len(region), -1), axis=1, kind="stable")
    is_top = np.zeros((len(region), nb_features), np.float32)
    np.put_along_axis(is_top, order[:, :k], 1, axis=1)
    top = tf.constant(is_top)

    def displaced(maps: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        best = tf.math.top_k(flat(maps), k).indices
        return 1 - tf.reduce_mean(tf.gather(tf.gather(top, samples), best, batch_dims=1), axis=1)

    def climbed(maps: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        return -tf.reduce_sum(flat(maps) * tf.gather(top, samples), axis=1)

    objective = _Objective(explained, region.center, displaced, climbed)
    settings = {"steps": steps, "step_size": step_size, "restarts": restarts, "seed": seed}
    return _attack(objective, region, betas, mask, batch_size=batch_size, **settings)


def targeted_map_attack(
    model: Callable,
    explanation: Explanation,
    region: Region,
    target_maps: Any,
    targets: Any = None,
    *,
    betas: Sequence[float] | None = BETAS,
    steps: int = 30,
    step_size: float = 0.5,
    restarts: int = 1,
    mask: Any = None,
    batch_size: int = 128,
    seed: int = 0,
) -> MapAttackResult:
    """Bring the maps as close as possible to given ones, with the predicted class unchanged.

    Minimises the mean squared error between the map and its target (Dombrowski et al.; there a
    penalty keeps the outputs, here no point of another class is taken).

    Parameters
    ----------
    target_maps
        (N, *map) or (*map): what the maps shall look like, in the scale of the maps.
    model, explanation, region, targets, betas
        As for `top_k_attack`.
    steps, step_size, restarts, mask, batch_size, seed
        As for `PGD`, for each beta.

    Returns
    -------
    result
        `values`: minus the mean squared error, at most 0.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.

    No guarantee
    ------------
    An empirical attack.

    References
    ----------
    Dombrowski et al.: Explanations Can Be Manipulated and Geometry Is to Blame, NeurIPS 2019.

    Examples
    --------
    >>> targeted_map_attack(model, input_gradient, Ball(images, 0.05), maps[::-1], labels).values
    """
    explained = Explained(model, explanation, region.center, targets, batch_size)
    wanted = tf.constant(as_target_maps(target_maps, explained.maps))

    def closeness(maps: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        return -tf.reduce_mean(flat(maps - tf.gather(wanted, samples)) ** 2, axis=1)

    objective = _Objective(explained, region.center, closeness, closeness)
    settings = {"steps": steps, "step_size": step_size, "restarts": restarts, "seed": seed}
    return _attack(objective, region, betas, mask, batch_size=batch_size, **settings)


@dataclass(frozen=True, eq=False)
class _Objective:
    """What `PGD` climbs: a measure of the maps, where the class stays.

    Attributes
    ----------
    explained
        The model and its explanations.
    centers
        (N, *shape): the nominal inputs, which are of their own class, whatever their margin.
    judged, climbed
        (maps (B, *map), samples (B,)) -> (B,): what decides which point is best, of the model's
        own maps, and what is climbed to find it.
    smooth
        Logits of a copy with softplus for ReLU, whose maps are climbed; None: those of the model.
    """

    explained: Explained
    centers: np.ndarray
    judged: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    climbed: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    smooth: Callable[[tf.Tensor], tf.Tensor] | None = None

    def __call__(self, points: tf.Tensor, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Values (B,) of points (B, *shape), -inf where the class changed, and what is climbed."""
        targets = tf.gather(tf.constant(self.explained.targets), samples)
        maps = self.explained.maps_at(points, targets)
        values = tf.where(self._kept(points, samples), self.judged(maps, samples), -np.inf)
        if self.smooth is not None:
            maps = self.explained.explanation(self.smooth, points, targets)
        return values, self.climbed(maps, samples)

    def _kept(self, points: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        """Where the class is that of the nominal input, however its logits were rounded, (B,)."""
        kept = self.explained.keeps_class(points, tf.gather(self.explained.classes, samples))
        at_start = points == tf.gather(tf.constant(self.centers), samples)
        return kept | tf.reduce_all(flat(at_start), axis=1)


def _attack(
    objective: _Objective,
    region: Region,
    betas: Sequence[float] | None,
    mask: Any,
    **settings: Any,
) -> MapAttackResult:
    """The worst maps that are found; for each beta in turn on a copy with that softplus."""
    explained = objective.explained
    if betas is None or not isinstance(explained.model, keras.Model):
        found = PGD(objective=objective, **settings)(region, mask=mask)
    else:
        copy, beta = softplus_copy(explained.model)
        attack = PGD(objective=replace(objective, smooth=logits_of(copy)), **settings)
        points = None
        for sharpness in betas:
            beta.assign(sharpness)
            found = attack(region, mask=mask, starts=points)
            points = found.points
    return MapAttackResult(
        found.points, explained.maps_of(found.points), explained.maps, found.values
    )
