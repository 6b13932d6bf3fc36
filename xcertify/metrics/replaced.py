"""Scores of inputs of which some features are replaced by a baseline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.checks import nb_at_once
from xcertify.inputs import in_batches
from xcertify.metrics.baselines import Baseline, baseline_values
from xcertify.metrics.scores import Score
from xcertify.progress import progress_bar


class ReplacedScores:
    """Scores of V variants of every input: it says which come next, and is told what they replace.

    ::

        scores = ReplacedScores(score, inputs, targets, nb_variants, ...)
        for samples, variants in scores:
            scores.replace(mask_of(samples, variants))
        scores.values

    Parameters
    ----------
    score
        What is watched.
    inputs, targets
        (N, *shape), images with their channels last, and any form of targets.
    nb_variants
        V.
    baseline_mode, seed
        What takes the place of features, see `baseline_values`.
    batch_size
        Most variants that are held at once; None: all.
    name, verbose
        Of a progress bar of variants, and whether to show it.
    """

    def __init__(
        self,
        score: Score,
        inputs: np.ndarray,
        targets: Any,
        nb_variants: int,
        *,
        baseline_mode: Baseline,
        seed: int,
        batch_size: int | None,
        name: str,
        verbose: bool,
    ) -> None:
        self._score, self._nb_at_once = score, nb_at_once(batch_size)
        self._baselines = tf.constant(baseline_values(baseline_mode, inputs, seed))
        self._targets = tf.constant(score.targets(inputs, targets, batch_size))
        self._inputs, self._is_image = tf.constant(inputs), inputs.ndim == 4
        self._scores = np.empty((len(inputs), nb_variants), np.float32)
        self._progress: dict[str, Any] = {"unit": "sample", "name": name, "verbose": verbose}
        self._mask: tf.Tensor | None = None

    def __iter__(self) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Which samples (B,) and which variants of them (B,) come next; `replace` is due."""
        flat, nb_variants = self._scores.reshape(-1), self._scores.shape[1]
        with progress_bar(flat.size, **self._progress) as progress:
            for some in in_batches(np.arange(flat.size), self._nb_at_once):
                samples, variants = map(tf.constant, np.divmod(some, nb_variants))
                yield samples, variants
                flat[some] = self._scores_of(samples)
                progress.update(len(some))

    def replace(self, mask: tf.Tensor) -> None:
        """Where the variants have the baseline's value, (B, *features) bool.

        A feature of an image is a pixel with all its channels.
        """
        self._mask = mask[..., tf.newaxis] if self._is_image else mask

    @property
    def values(self) -> np.ndarray:
        """The scores, (N, V) float32.

        Raises
        ------
        ValueError
            Where one is NaN; the message names the first such sample.
        """
        missing = np.isnan(self._scores).any(axis=1)
        if missing.any():
            raise ValueError(
                f"the score of sample {int(np.argmax(missing))} is NaN for some of its perturbed "
                f"versions: the model's outputs there are not finite (an overflow, the root or "
                f"logarithm of 0); another baseline_mode may keep away from it"
            )
        return self._scores

    def _scores_of(self, samples: tf.Tensor) -> np.ndarray:
        """Scores (B,) of samples with the features of the mask replaced."""
        baselines, inputs, targets = (
            tf.gather(values, samples) for values in (self._baselines, self._inputs, self._targets)
        )
        return self._score(tf.where(self._mask, baselines, inputs), targets).numpy()
