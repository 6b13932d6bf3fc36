"""What a benchmark of sufficient reasons checks itself, with nothing but the plain Keras model.

Used by `sufficient_reason.py`: published sets of features, attacks on sets, and witnesses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from xcertify.regions import Region
from xcertify.tracing import graph_of

NB_STEPS = 40  # of a gradient ascent
ASCENTS = 10  # one attack of so many is a gradient ascent, the others are random corners


class Published(NamedTuple):
    """What FAME published about one network, image by image.

    `inputs` (N, *input) float32, `kept` (N, *input) bool; `figures` has one value (N,) a name.
    """

    model: keras.Model
    inputs: np.ndarray
    kept: np.ndarray
    figures: dict[str, np.ndarray]


def read_published(folder: Path, name: str, nb_inputs: int | None = None) -> Published:
    """The network of a name, and the first rows of what was published about it."""
    model = keras.models.load_model(folder / f"{name}.keras", compile=False)
    with np.load(folder / f"{name}.npz") as file:
        arrays = {key: array[:nb_inputs] for key, array in file.items()}
    images, kept = (arrays.pop(key) for key in ("image", "kept"))
    shape = (len(images), *model.input_shape[1:])
    inputs = (images / 255).astype(np.float32)
    return Published(model, inputs.reshape(shape), kept.reshape(shape), arrays)


class Attacked(NamedTuple):
    """The strongest of many attacks on one set.

    `margin` is the largest f_c' - f_c over all other classes c', at `point` (*input), as one call
    of the plain model gives it.
    """

    margin: float
    point: np.ndarray

    @property
    def broken(self) -> bool:
        """Whether the class is another one there."""
        return self.margin > 0


class Attack:
    """Random corners of a box, and projected gradient ascents from random points of it.

    One attack of ten is an ascent of 40 signed steps, each towards one of the other classes in
    turn; its first step leads to a corner, the others are shorter and shorter. Each corner has
    its own share of features at their upper side.

    Parameters
    ----------
    model
        Keras model, (B, *shape) -> (B, K) logits.
    nb_attacks
        Of each set.
    at_once
        Points that are held at once.
    seed
        Of corners and starts: the same draws for each set.
    """

    def __init__(
        self, model: keras.Model, nb_attacks: int, *, at_once: int = 2048, seed: int = 0
    ) -> None:
        self.model, self.nb_attacks, self.at_once, self.seed = model, nb_attacks, at_once, seed
        one, number = model.input_shape[1:], tf.TensorSpec((), tf.int32)
        of_inputs = [tf.TensorSpec(shape) for shape in ((None, *one), one, one)]
        signature = (*of_inputs, number, tf.TensorSpec((None,), tf.int32))
        self._climb = graph_of(self._ascend, input_signature=signature)

    def __call__(self, lower: np.ndarray, upper: np.ndarray, label: int) -> Attacked:
        """Attack one box, sides (*input), of an input whose class is `label`."""
        generator = np.random.default_rng(self.seed)
        nb_ascents = -(-self.nb_attacks // ASCENTS)
        found = [self._largest(lower[None], label)]
        for nb in batches(self.nb_attacks - nb_ascents, self.at_once):
            found.append(self._largest(corners(lower, upper, nb, generator), label))
        for nb in batches(nb_ascents, self.at_once):
            starts = corners(lower, upper, nb, generator)
            starts[::2] += generator.random(starts[::2].shape, np.float32) * (lower - starts[::2])
            found.append(self._from(starts, lower, upper, label))
        best = max(found, key=lambda attacked: attacked.margin)
        return self._largest(best.point[None], label)  # one call of the plain model

    def _largest(self, points: np.ndarray, label: int) -> Attacked:
        margins = margins_of(self.model, points, label)
        best = int(margins.argmax())
        return Attacked(float(margins[best]), points[best])

    def _from(
        self, starts: np.ndarray, lower: np.ndarray, upper: np.ndarray, label: int
    ) -> Attacked:
        others = np.delete(np.arange(self.model.output_shape[-1]), label)
        aims = others[np.arange(len(starts)) % len(others)].astype(np.int32)
        starts = np.clip(starts, lower, upper)
        sides = tf.constant(lower), tf.constant(upper)
        margin, point = self._climb(starts, *sides, tf.constant(label, tf.int32), aims)
        return Attacked(float(margin), point.numpy())

    def _ascend(
        self, points: tf.Tensor, lower: tf.Tensor, upper: tf.Tensor, label: tf.Tensor, aims: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The largest margin on the way of all points (B, *input), and where it is."""
        margin, worst = tf.constant(-np.inf), lower
        for step in tf.range(NB_STEPS + 1):
            with tf.GradientTape() as tape:
                tape.watch(points)
                logits = self.model(points, training=False)
                own = logits[:, label]
                towards = tf.reduce_sum(tf.gather(logits, aims, axis=1, batch_dims=1) - own)
            others = tf.where(tf.range(logits.shape[1]) == label, -np.inf, logits)
            margins = tf.reduce_max(others, axis=1) - own
            best = tf.argmax(margins)
            if margins[best] > margin:
                margin, worst = margins[best], points[best]
            share = 1 - tf.cast(step, points.dtype) / NB_STEPS
            points += share * (upper - lower) * tf.sign(tape.gradient(towards, points))
            points = tf.clip_by_value(points, lower, upper)
        return margin, worst


def batches(nb_all: int, at_once: int) -> list[int]:
    """How many are held at once, again and again."""
    return [min(at_once, nb_all - first) for first in range(0, nb_all, at_once)]


def corners(
    lower: np.ndarray, upper: np.ndarray, nb_corners: int, generator: np.random.Generator
) -> np.ndarray:
    """Corners (nb_corners, *input); how many features are at their upper side differs widely."""
    ones = (1,) * lower.ndim
    share = generator.random((nb_corners, *ones), np.float32)
    at_upper = generator.random((nb_corners, *lower.shape), np.float32) < share
    return np.where(at_upper, upper, lower)


def margins_of(model: keras.Model, points: np.ndarray, label: int) -> np.ndarray:
    """max_c' f_c' - f_c over all other classes, (B,), by one call of the model."""
    logits = keras.ops.convert_to_numpy(model(points, training=False))
    return np.delete(logits, label, axis=1).max(axis=1) - logits[:, label]


def on_inputs(mask: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """A mask of features (N, *features) as one of the inputs (N, *input): with their channels."""
    mask = mask.reshape(mask.shape + (1,) * (inputs.ndim - mask.ndim))
    return np.broadcast_to(mask, inputs.shape)


def wrong_witnesses(model: keras.Model, certificate: Any, region: Region) -> list[str]:
    """What is wrong with the witnesses of the only input of a certificate, in words.

    Each needed group must have one: a point of the region, where besides that group only what is
    irrelevant has moved, and whose class is another one in a call of the plain model.
    """
    witnesses, label = certificate.witnesses[0], int(certificate.targets[0])
    needed = np.unique(certificate.features[certificate.needed])
    if set(needed) != set(witnesses):
        return [f"{len(needed)} groups are needed, {len(witnesses)} have a witness"]
    if not witnesses:
        return []
    center, found = region.center[0], []
    points = np.stack([witnesses[group] for group in needed])
    margins = margins_of(model, points, label)
    for group, point, margin in zip(needed, points, margins):
        own = certificate.irrelevant | (certificate.features == group)
        may_move = on_inputs(own, region.center)[0]
        if not margin >= 0:
            found.append(f"group {group}: margin {margin}")
        if not np.all((region.lower[0] <= point) & (point <= region.upper[0])):
            found.append(f"group {group}: outside the region")
        if np.any((point != center) & ~may_move):
            found.append(f"group {group}: what is needed has moved, too")
    return found
