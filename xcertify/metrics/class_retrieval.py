"""Class retrieval: whether what a mask keeps of an attacked input still has the class.

Source: Lim, Lee, Kim, Building Reliable Explanations of Unreliable Neural Networks, CVPR 2021,
section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.inputs import evaluate_in_batches
from xcertify.logits import classes_of, logits_of, two_classes
from xcertify.metrics.base import Metric, MetricResult
from xcertify.metrics.baselines import Baseline, baseline_values
from xcertify.metrics.explanations import value_of_each_entry
from xcertify.models import channels_last_layer
from xcertify.targets import target_classes
from xcertify.tracing import traced


def as_masks(explanations: Any, inputs: Any, percentile: float = 99.0) -> np.ndarray:
    """Explanations of any explainer as masks: magnitudes, divided by a high percentile of them.

    Parameters
    ----------
    explanations
        (N, H, W), (N, H, W, 1) or (N, H, W, C) for images, else the shape of the inputs. The
        magnitude counts; to count positive attributions only, cut the others off first.
    inputs
        The inputs (N, *shape) that they explain.
    percentile
        Of each explanation: what becomes 1; all above is cut to 1. A map of zeros becomes a mask
        of zeros.

    Returns
    -------
    masks
        (N, *shape) float32 in [0, 1].

    Raises
    ------
    ValueError
        For a shape that does not fit.

    Source: Lim et al., CVPR 2021 (the authors' code).
    """
    inputs = np.asarray(inputs)
    sizes = np.abs(value_of_each_entry(explanations, inputs))
    flat = sizes.reshape(len(sizes), -1)
    high = np.percentile(flat, percentile, axis=1, keepdims=True)
    high = np.where(high > 0, high, flat.max(axis=1, keepdims=True))
    masks = np.divide(flat, high, out=np.zeros_like(flat), where=high > 0)
    return np.minimum(masks, 1).reshape(inputs.shape)


def retrieval(
    logits: Callable[[np.ndarray], np.ndarray],
    inputs: np.ndarray,
    targets: Any,
    masks: Any,
    *,
    neutral_value: Baseline = 0.0,
    seed: int = 0,
) -> MetricResult:
    """Whether ``argmax f(n + m (x - n))`` is the target class, for inputs x, masks m, neutral n.

    Parameters
    ----------
    logits
        f: inputs (N, *shape) -> (N, K), of all of them; a single logit counts as two classes.
    inputs
        (N, *shape) float32, images with their channels last.
    targets
        As for `xcertify.targets.target_classes`.
    masks, neutral_value, seed
        As for `ClassRetrieval`.

    Returns
    -------
    result
        As of `ClassRetrieval.detailed_evaluate`.
    """
    masks = value_of_each_entry(masks, inputs)
    if not ((masks >= 0) & (masks <= 1)).all():
        raise ValueError(
            f"masks must be within [0, 1]: make them of explanations by as_masks. "
            f"Received: {masks.min():.4g} to {masks.max():.4g}"
        )
    neutral = baseline_values(neutral_value, inputs, seed)
    classes = target_classes(logits(inputs), targets)
    kept = two_classes(logits(neutral + masks * (inputs - neutral))).numpy()  # (N, K)
    largest = np.sort(kept, axis=1)
    return MetricResult(
        metric="ClassRetrieval",
        axis=np.arange(kept.shape[1]),
        axis_label="class",
        curves=tf.nn.softmax(kept).numpy(),
        scores=(kept.argmax(axis=1) == classes).astype(float),
        tied=largest[:, -1] == largest[:, -2],
        higher_is_better=True,
    )


class ClassRetrieval(Metric):
    """Target-class retrieval: whether what a mask keeps of an input is given the target class.

    For attacked inputs x_adv and the classes of the clean ones, that is the paper's measure: with
    masks of the attacked inputs, ``m_adv * x_adv``, whether the explainer still finds evidence of
    the class; with masks of the clean ones, ``m_0 * x_adv``, whether these are robust.

    Parameters
    ----------
    model
        Keras model or TensorFlow callable, (B, *shape) -> (B, K); its class is that of the largest
        logit (a callable must return logits). A single logit counts as two classes.
    inputs
        What is masked, (N, *shape): the attacked inputs.
    targets
        The classes to be retrieved, such as those that the model gave the clean inputs: labels
        (N,) or one-hot rows (N, K). None: the classes predicted for `inputs`.
    batch_size
        Number of masked inputs that are evaluated at once; None for all.
    neutral_value
        What masked-out features become, as for `baseline_values`.
    seed
        Of a random neutral value.

    Raises
    ------
    ValueError
        For arguments that do not fit, and masks that leave [0, 1]; see `as_masks`.

    No guarantee
    ------------
    A mask with values for every pixel can be made to retrieve *any* class, like an adversarial
    perturbation: retrieval says that evidence was found, not that a person would see it. See
    `RelEx.certify` for a proof of how stable a retrieved class is.

    Examples
    --------
    >>> metric = ClassRetrieval(model, attacked_images, clean_classes)
    >>> metric.evaluate(RelEx(model).masks(attacked_images, clean_classes))
    >>> metric.evaluate(as_masks(Saliency(model)(attacked_images, clean_classes), attacked_images))
    """

    higher_is_better = True

    def __init__(
        self,
        model: Callable,
        inputs: Any,
        targets: Any = None,
        batch_size: int | None = 512,
        neutral_value: Baseline = 0.0,
        *,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, inputs, targets, batch_size, seed=seed, verbose=verbose)
        self.neutral_value = neutral_value

    def detailed_evaluate(self, explanations: Any) -> MetricResult:
        """Scores (1 where the class is retrieved, else 0) and probabilities of every sample.

        `curves` are the softmax probabilities of all classes, (N, K), `axis` the classes.
        """
        return retrieval(
            self._logits,
            self._points,
            classes_of(self.model, self._logits(self._points), self.targets),
            explanations,
            neutral_value=self.neutral_value,
            seed=self.seed,
        )

    def _logits(self, inputs: np.ndarray) -> np.ndarray:
        """Logits (N, K) of inputs, `batch_size` at a time."""
        points = tf.TensorSpec((None, *inputs.shape[1:]), tf.float32)
        start = channels_last_layer(self.model)
        logits = self._derive(
            "logits",
            lambda: traced(logits_of(self.model, start), input_signature=[points], autograph=False),
        )
        return evaluate_in_batches(logits, self._nb_at_once, inputs)
