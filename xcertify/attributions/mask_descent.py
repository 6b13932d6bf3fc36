"""The descent that learns the masks of RelEx: what it goes down, and its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from xcertify.ascent import per_sample
from xcertify.inputs import in_batches
from xcertify.logits import two_classes
from xcertify.masks import keep
from xcertify.models import gradient_by
from xcertify.regions import as_column

_PATIENCE = 10  # steps in a row over which a loss that has settled stays the same
_SMALL = 32 * 32 * 3  # the size down to which the paper's settings are taken as they are
_FIRST_VALUES = 0.01  # masks begin at random between 0 and this, as in the paper
_DECAYS = 0.9, 0.999  # of Adam
_SMALLEST = 1e-8  # added to what Adam divides by


@dataclass(frozen=True)
class Descent:
    """How masks are learned; what is not named here is an argument of `RelEx`.

    Attributes
    ----------
    losses_at
        `losses_of_copies` of a model, as a graph.
    learning_rate, sparsity
        For inputs of their size, see `for_size`.
    neutral_value
        n, (*shape) float32.
    nb_at_once
        Most masked copies that are held at once, kept and removed together.
    start
        Value of all masks at first. None: random, near 0.
    """

    losses_at: Callable
    nb_samples: int
    steps: int
    learning_rate: float
    momentum: float
    noise: float
    sparsity: float
    background: float
    neutral_value: np.ndarray
    tolerance: float
    nb_at_once: int
    seed: int
    start: float | None
    optimizer: str

    def learn(
        self, inputs: np.ndarray, classes: np.ndarray, progress: tqdm
    ) -> tuple[np.ndarray, np.ndarray]:
        """Masks of inputs for classes (N,), and where they were heading, (N, *shape) each.

        An input that has settled is left out of all further steps. `progress` counts the steps of
        each input.
        """
        generator = np.random.default_rng(self.seed)
        masks = np.repeat(self._first(inputs.shape[1:], generator)[None], len(inputs), axis=0)
        velocity, squares = np.zeros_like(masks), np.zeros_like(masks)
        losses = np.full((self.steps, len(inputs)), np.nan)
        active = np.arange(len(inputs))
        for step in range(self.steps):
            losses[step, active], gradient = self.mean_losses(
                inputs[active], masks[active], classes[active], generator
            )
            if self.optimizer == "adam":
                for sums, values, decay in zip(
                    (velocity, squares), (gradient, gradient**2), _DECAYS
                ):
                    sums[active] = decay * sums[active] + np.float32(1 - decay) * values
                first, second = (1 - decay ** (step + 1) for decay in _DECAYS)
                move = velocity[active] / first / (np.sqrt(squares[active] / second) + _SMALLEST)
            else:
                velocity[active] *= self.momentum
                velocity[active] += gradient / as_column(_lengths(gradient), gradient)
                move = velocity[active]
            masks[active] = np.clip(masks[active] - np.float32(self.learning_rate) * move, 0, 1)
            settled = self._settled(losses[: step + 1, active])
            nb_left = self.steps - step - 1
            progress.update(len(active) + int(settled.sum()) * nb_left)
            active = active[~settled]
            if not len(active):
                break
        return masks, -velocity

    def _first(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        """The mask from which all inputs begin, (*shape) float32."""
        if self.start is None:
            return generator.uniform(0, _FIRST_VALUES, shape).astype(np.float32)
        return np.full(shape, self.start, np.float32)

    def mean_losses(
        self,
        inputs: np.ndarray,
        masks: np.ndarray,
        classes: np.ndarray,
        generator: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Losses of masks (N, *shape) over fresh copies, (N,), and their gradients (N, *shape)."""
        neutral, background = self.neutral_value, np.float32(self.background)
        sparsity, classes = np.float32(self.sparsity), classes.astype(np.int32)
        loss, gradient = np.zeros(len(inputs), np.float32), np.zeros_like(inputs)
        nb_at_once = max(1, self.nb_at_once // 2)  # each copy is kept and removed
        for copies in in_batches(np.arange(self.nb_samples), nb_at_once):
            noise = self._noise(len(copies), inputs.shape[1:], generator)
            for some in in_batches(np.arange(len(inputs)), nb_at_once // len(copies)):
                arrays = inputs[some], masks[some], classes[some]
                found = self.losses_at(*arrays, noise, neutral, background)
                loss[some] += found[0].numpy()
                gradient[some] += found[1].numpy()
        total = masks.reshape(len(masks), -1).sum(axis=1)
        return loss / self.nb_samples + sparsity * total, gradient / self.nb_samples + sparsity

    def _noise(
        self, nb_copies: int, shape: tuple[int, ...], generator: np.random.Generator
    ) -> np.ndarray:
        """What is added to all inputs, in units of their ranges, (S, *shape) float32."""
        if self.nb_samples == 1:  # the input itself
            return np.zeros((1, *shape), np.float32)
        return generator.standard_normal((nb_copies, *shape), np.float32) * np.float32(self.noise)

    def _settled(self, losses: np.ndarray) -> np.ndarray:
        """Which of the losses (steps so far, M) stay within the tolerance, (M,) bool."""
        if not self.tolerance or len(losses) < _PATIENCE:
            return np.zeros(losses.shape[1], bool)
        return np.ptp(losses[-_PATIENCE:], axis=0) <= self.tolerance


def for_size(
    learning_rate: float | None, sparsity: float | None, size: int, optimizer: str = "sgd"
) -> tuple[float, float]:
    """Learning rate and sparsity for inputs of so many entries.

    None is 0.1 and 1e-4, as in the paper; of inputs smaller than 32x32x3 = 3072 as if they were
    enlarged to that size, ``0.1 sqrt(size / 3072)`` and ``1e-4 * 3072 / size``. Steps of "adam" are
    of each entry, and their length, 0.1, does not follow the size.
    """
    if learning_rate is None:
        learning_rate = 0.1 if optimizer == "adam" else 0.1 * min(1, size / _SMALL) ** 0.5
    if sparsity is None:
        sparsity = 1e-4 * max(1, _SMALL / size)
    return learning_rate, sparsity


def losses_of_copies(
    logits_at: Callable[[tf.Tensor], tf.Tensor],
    inputs: tf.Tensor,
    masks: tf.Tensor,
    classes: tf.Tensor,
    noise: tf.Tensor,
    neutral: tf.Tensor,
    background: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums over noisy copies x_i of the losses of each mask, (N,), and their gradients.

    ``sum over i of -log f_c(keep(m, x_i)) - background log(1 - f_c(keep(1 - m, x_i)))`` with
    ``x_i = x + (max x - min x) noise_i``.

    Parameters
    ----------
    logits_at
        (B, *shape) -> (B, K).
    inputs, masks
        x and m, (N, *shape).
    classes
        c, (N,) int.
    noise
        (S, *shape), in units of the range of an input.
    neutral
        n, (*shape).
    background
        A number.
    """
    axes = list(range(1, inputs.shape.rank))
    ranges = tf.reduce_max(inputs, axes) - tf.reduce_min(inputs, axes)
    copies = inputs[:, None] + per_sample(ranges, inputs)[:, None] * noise  # (N, S, *shape)
    labels = tf.repeat(classes, tf.shape(noise)[0])
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(masks)
        kept = _of_logits(logits_at, keep(copies, masks[:, None], neutral))
        removed = _of_logits(logits_at, keep(copies, 1 - masks[:, None], neutral))
        own, _ = log_probabilities(kept, labels)
        _, others = log_probabilities(removed, labels)
        losses = tf.reshape(-own - background * others, [-1, tf.shape(noise)[0]])
        losses = tf.reduce_sum(losses, axis=1)
        total = tf.reduce_sum(losses)
    return losses, gradient_by(tape, total, masks)


def _of_logits(logits_at: Callable, points: tf.Tensor) -> tf.Tensor:
    """Logits (N S, K), K at least 2, of points (N, S, *shape)."""
    return two_classes(logits_at(tf.reshape(points, [-1, *points.shape[2:]])))


def log_probabilities(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """log f_c and log(1 - f_c), (B,) each, of logits (B, K) and labels c (B,).

    By the logits, log(1 - f_c) needs no small number inside (the paper's code adds 1e-7), and its
    gradient does not vanish where the model is sure.
    """
    own = tf.one_hot(labels, logits.shape[1], on_value=True, off_value=False)
    total = tf.reduce_logsumexp(logits, axis=1)
    others = tf.reduce_logsumexp(tf.where(own, -np.inf, logits), axis=1)
    return tf.gather(logits, labels, batch_dims=1) - total, others - total


def _lengths(gradient: np.ndarray) -> np.ndarray:
    """Euclidean norms (N,) of gradients (N, *shape), above 0."""
    lengths = np.linalg.norm(gradient.reshape(len(gradient), -1), axis=1)
    return np.maximum(lengths, np.finfo(np.float32).tiny)
