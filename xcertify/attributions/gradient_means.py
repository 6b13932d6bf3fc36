"""Means of gradients times a factor: explanations by gradients, evaluated and bounded.

With a score s(x) of the logits, V scales a_v, V shifts b_v and perhaps a baseline::

    g(x) = mean_v ds/dx (a_v x + b_v)            times (x - baseline) where there is one

is the gradient (a = 1, b = 0), SmoothGrad (b_v: noise), gradient times input (baseline 0) and
integrated gradients (a_v: shares of the way from the baseline).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.bounds import Verifier
from xcertify.inputs import in_batches, spread_value
from xcertify.models import gradient_by
from xcertify.progress import progress_bar
from xcertify.regions import Region

ATTRIBUTIONS = ("gradient", "gradient_input", "integrated_gradients", "smoothgrad")
LOSSES = ("logit", "cross-entropy")
PATHS = ("sum", "integral")


@dataclass(frozen=True, eq=False)
class GradientMean:
    """An explanation ``mean_v ds/dx (a_v x + b_v)``, perhaps times ``x - baseline``.

    Attributes
    ----------
    loss
        The score: "logit", a weighted sum of the logits, or "cross-entropy".
    scales
        a, (V,) float32.
    shifts
        b, (V, *shape) float32.
    baseline
        (*shape) float32, or None for no factor.
    by_pieces
        Whether bounds are of the pieces of the way, from ``baseline + v / V (x - baseline)`` to
        ``baseline + (v + 1) / V (x - baseline)``, instead of the points: for the integral, too.
    """

    loss: str
    scales: np.ndarray
    shifts: np.ndarray
    baseline: np.ndarray | None
    by_pieces: bool = False

    def __len__(self) -> int:
        """V, the number of gradients."""
        return len(self.scales)

    def maps(self, model: Callable, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """The explanation as TensorFlow operations, (B, *shape), in the type of the inputs.

        Parameters
        ----------
        model
            Gives logits (B, K).
        inputs, targets
            (B, *shape) and weights of the logits (B, K); one-hot rows for the cross-entropy.
        """
        shape = inputs.shape[1:]
        along = (1, len(self), *[1] * len(shape))
        points = inputs[:, None] * tf.cast(self.scales.reshape(along), inputs.dtype)
        points = tf.reshape(points + tf.cast(self.shifts, inputs.dtype), (-1, *shape))  # (B V, ...)
        weights = tf.repeat(tf.cast(targets, inputs.dtype), len(self), axis=0)
        with tf.GradientTape() as tape:
            tape.watch(points)
            score = tf.reduce_sum(_score(self.loss, tf.cast(model(points), inputs.dtype), weights))
        gradients = tf.reshape(gradient_by(tape, score, points), (-1, len(self), *shape))
        maps = tf.reduce_mean(gradients, axis=1)
        if self.baseline is None:
            return maps
        return maps * (inputs - tf.cast(self.baseline, inputs.dtype))

    def regions(self, region: Region, sample: np.ndarray, variant: np.ndarray) -> Region:
        """Where gradients are taken for x in a region: ``a_v x + b_v`` (P,), in float64.

        `sample` and `variant` (P,) say for which region n and which v.
        """
        along = (-1, *[1] * len(region.shape))
        some = region[sample]
        sides = [s.astype(np.float64) for s in (some.center, some.lower, some.upper)]
        if self.by_pieces and self.baseline is not None:
            # from one end of the piece to the other, whatever the point of the region
            baseline = self.baseline.astype(np.float64)
            ends = [(variant + end).reshape(along) / len(self) for end in (0, 1)]
            points = [baseline + end * (s - baseline) for end in ends for s in sides[1:]]
            lower, upper = np.min(points, axis=0), np.max(points, axis=0)
            center = np.clip((lower + upper) / 2, lower, upper)
            return Region(center, *_outward(lower, upper))
        scale = self.scales.astype(np.float64)[variant].reshape(along)
        shift = self.shifts.astype(np.float64)[variant]
        center, lower, upper = (scale * side + shift for side in sides)
        epsilon = None if some.epsilon is None else some.epsilon * scale * (1 + 1e-15)
        return Region(center, *_outward(lower, upper), epsilon, region.norm)


def gradient_mean(
    attribution: str,
    shape: tuple[int, ...],
    *,
    loss: str = "logit",
    steps: int = 1,
    path: str = "sum",
    baseline_value: Any = 0.0,
    nb_samples: int = 1,
    noise: float = 0.0,
    seed: int = 0,
) -> GradientMean:
    """One of `ATTRIBUTIONS` for inputs of a shape; see `CertifiedGradient` for the settings."""
    one = np.ones(1, np.float32), np.zeros((1, *shape), np.float32)
    if attribution == "smoothgrad":
        draws = np.random.default_rng(seed).standard_normal((nb_samples, *shape), np.float32)
        return GradientMean(loss, np.ones(nb_samples, np.float32), draws * np.float32(noise), None)
    if attribution == "gradient":
        return GradientMean(loss, *one, None)
    value = 0.0 if attribution == "gradient_input" else baseline_value
    baseline = spread_value("baseline_value", value, (1, *shape), per_sample=False)
    if attribution == "gradient_input":
        return GradientMean(loss, *one, baseline)
    scales = (np.arange(steps, dtype=np.float32) + 0.5) / steps
    shifts = (1 - scales).reshape(-1, *[1] * len(shape)) * baseline
    return GradientMean(loss, scales, shifts, baseline, path == "integral")


def bound_explanations(
    verifier: Verifier,
    mean: GradientMean,
    region: Region,
    weights: np.ndarray,
    *,
    method: str,
    gamma: Any = 0.0,
    bias_radius: float | None = None,
    batch_size: int | None = None,
    verbose: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of every explanation over each region, and over a region of weights.

    Parameters
    ----------
    verifier
        Of the logits.
    mean
        The explanation g.
    region
        N regions of inputs.
    weights
        (N, K): of the logits in the score; one-hot rows for the cross-entropy.
    method, gamma, bias_radius
        As for `Verifier.bound_gradient`; `gamma` a number or (N,).
    batch_size
        Most gradients that are bounded at once; None: all.
    verbose
        Whether to show a progress bar.

    Returns
    -------
    lower, upper
        (N, *shape), in the verifier's dtype.

    Guarantee
    ---------
    That of `Verifier.bound_gradient`, with the roundings of the mean and of the product.
    """
    gamma = np.broadcast_to(np.asarray(gamma, np.float64), len(region))
    totals = np.zeros((2, len(region), *region.shape))  # sums of lower and of upper gradients
    pairs = np.arange(len(region) * len(mean))
    with progress_bar(len(pairs), "region", verbose=verbose) as progress:
        for part in in_batches(pairs, batch_size):
            sample, variant = np.divmod(part, len(mean))
            sides = verifier.bound_gradient(
                mean.regions(region, sample, variant),
                method=method,
                gamma=gamma[sample],
                bias_radius=bias_radius,
                **_asked(mean.loss, weights[sample]),
            )
            for total, side in zip(totals, sides):  # side: (P, 1, *shape)
                np.add.at(total, sample, side[:, 0].astype(np.float64))
            progress.update(len(part))
    lower, upper = totals / len(mean)
    if mean.baseline is not None:
        lower, upper = _times_way(lower, upper, region, mean.baseline)
    if len(mean) > 1 or mean.baseline is not None:  # roundings of float64
        lower, upper = lower - 1e-12 * np.abs(lower), upper + 1e-12 * np.abs(upper)
    return Region(region.center, lower, upper).sides(verifier.dtype)


def _times_way(
    lower: np.ndarray, upper: np.ndarray, region: Region, baseline: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients between two sides times ``x - baseline``: the extremes are at the four corners."""
    ways = [side.astype(np.float64) - baseline for side in (region.lower, region.upper)]
    with np.errstate(invalid="ignore"):  # bounds that overflowed are infinite, and inf * 0 is NaN
        corners = [side * way for side in (lower, upper) for way in ways]
    lowest, highest = np.min(corners, axis=0), np.max(corners, axis=0)
    unknown = np.isnan(lowest) | np.isnan(highest)
    return np.where(unknown, -np.inf, lowest), np.where(unknown, np.inf, highest)


def _score(loss: str, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """What is differentiated, of logits and weights (B, K); its sum over all axes counts."""
    if loss == "logit":
        return logits * weights
    if logits.shape[-1] == 1:
        labels = tf.cast(weights > 0, logits.dtype)
        return tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
    return tf.nn.softmax_cross_entropy_with_logits(weights, logits)


def _asked(loss: str, weights: np.ndarray) -> dict[str, Any]:
    """What `Verifier.bound_gradient` is asked for."""
    if loss == "logit":
        return {"rows": weights[:, None]}
    single = weights.shape[1] == 1
    return {"labels": (weights[:, 0] > 0).astype(int) if single else weights.argmax(axis=1)}


def _outward(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sides moved outward by more than the roundings of a few operations in float64."""
    slack = 1e-15 * (np.abs(lower) + np.abs(upper)) + 1e-300
    return lower - slack, upper + slack
