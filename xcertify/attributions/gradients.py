"""Explainers that look at gradients: fast, and blind to all but the nearest surroundings."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attributions.base import OperatorExplainer, check_reducer, reduce_channels
from xcertify.attributions.gradient_means import GradientMean, gradient_mean
from xcertify.attributions.map_changes import BoundedMaps
from xcertify.checks import whole_number
from xcertify.inputs import in_batches, spread_value
from xcertify.models import gradient_by
from xcertify.operators import Operator
from xcertify.progress import progress_bar


class GradientExplainer(BoundedMaps):
    """What explainers by gradients share; a subclass implements `_of_features`.

    Parameters
    ----------
    reducer
        How the channels of an image become one value: "mean", "max", "min" or "sum"; None: they
        stay apart.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        reducer: str | None = "mean",
        batch_size: int | None = 512,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        check_reducer(reducer)
        super().__init__(model, batch_size=batch_size, seed=seed, verbose=verbose)
        self.reducer = reducer

    def _explain(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return reduce_channels(self._of_features(inputs, weights), self.reducer)

    def _of_features(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """One value per feature, (N, *shape): by default the gradient."""
        return self._mean_gradients(inputs, weights)

    def _mean_gradients(
        self,
        inputs: np.ndarray,
        weights: np.ndarray,
        scales: Any = (1.0,),
        shifts: np.ndarray | None = None,
        starts: Any = 0.0,
    ) -> np.ndarray:
        """Mean gradient over the V points ``start + scale * (x - start) + shift`` of each input.

        `scales` (V,) and `shifts` (V, *shape) are the same for all inputs, `starts` (N, *shape) are
        not.
        """
        shape = inputs.shape[1:]
        scales = np.asarray(scales, np.float32)
        shifts = np.zeros((len(scales), *shape), np.float32) if shifts is None else shifts
        starts = np.broadcast_to(np.float32(starts), inputs.shape)
        summed = self._compile(
            self._summed_gradients,
            ((None, *shape), tf.float32),
            ((None, *shape), tf.float32),
            ((None, *weights.shape[1:]), tf.float32),
            ((None,), tf.float32),
            ((None, *shape), tf.float32),
            ((None,), tf.int32),
            ((None,), tf.int32),
        )
        total = np.zeros(inputs.shape, np.float32)
        pairs = np.arange(len(inputs) * len(scales))
        with progress_bar(len(pairs), "gradient", verbose=self.verbose) as progress:
            for part in in_batches(pairs, self._nb_at_once):
                sample, variant = np.divmod(part, len(scales))
                some = slice(sample[0], sample[-1] + 1)
                places = (sample - sample[0]).astype(np.int32), variant.astype(np.int32)
                at = inputs[some], starts[some], weights[some]
                total[some] += summed(*at, scales, shifts, *places)
                progress.update(len(part))
        return total / len(scales)

    def _summed_gradients(
        self,
        inputs: tf.Tensor,
        starts: tf.Tensor,
        weights: tf.Tensor,
        scales: tf.Tensor,
        shifts: tf.Tensor,
        sample: tf.Tensor,
        variant: tf.Tensor,
    ) -> tf.Tensor:
        """Gradients at the points of pairs (sample, variant), summed over those of a sample."""
        scale = tf.reshape(tf.gather(scales, variant), [-1] + [1] * (inputs.shape.rank - 1))
        start = tf.gather(starts, sample)
        points = start + scale * (tf.gather(inputs, sample) - start) + tf.gather(shifts, variant)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(points)
            score = tf.reduce_sum(self._scores_at(points, tf.gather(weights, sample)))
        return tf.math.segment_sum(gradient_by(tape, score, points), sample)


class Saliency(OperatorExplainer, GradientExplainer):
    """Saliency: the magnitude of the gradient of the target's logit.

    Parameters
    ----------
    model
        A Keras classifier, called at inference, or any TensorFlow callable that returns logits.
        Explained is the logit of the target, or with weights as targets their sum of logits; for a
        single output see `xcertify.targets`.
    output_layer
        The layer whose outputs are explained, just as they are: its name, or its number in
        `model.layers` (0 is the first, -1 the last). None: the logits, a softmax or sigmoid at the
        end of the model being left out.
    batch_size
        Most perturbed samples that are held at once; None: all.
    operator
        What is explained of the outputs, just as the model (or `output_layer`) gives them: a
        function (model, inputs, targets) -> scores (B,), where labels as targets become one-hot
        rows (B, K); or the name of a task, "classification", "regression" (both: the sum of targets
        times outputs) or "semantic segmentation" (its mean over the pixels where targets (N, h, w,
        K) are not 0). None: the sum of targets times logits.
    reducer
        How the channels of an image become one value: "max" (default), "mean", "min" or "sum";
        None: they stay apart, and maps are (N, H, W, C).
    seed
        Of what is random, which here is nothing.
    verbose
        Whether to show a progress bar.

    No guarantee
    ------------
    The gradient says how the logit changes next to the input, and nothing about larger changes.

    References
    ----------
    Simonyan, Vedaldi, Zisserman: Deep Inside Convolutional Networks, ICLR 2014 workshop.

    Examples
    --------
    >>> Saliency(model).explain(images, labels)
    >>> Saliency(model, output_layer=-2).explain(images, labels)
    """

    def __init__(
        self,
        model: keras.Model,
        output_layer: str | int | None = None,
        batch_size: int | None = 512,
        operator: Operator | str | None = None,
        reducer: str | None = "max",
        *,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            model,
            output_layer=output_layer,
            batch_size=batch_size,
            operator=operator,
            reducer=reducer,
            seed=seed,
            verbose=verbose,
        )

    _is_magnitude = True

    def _mean(self, shape: tuple[int, ...]) -> GradientMean:
        return gradient_mean("gradient", shape)

    def _of_features(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.abs(self._mean_gradients(inputs, weights))


class GradientInput(OperatorExplainer, GradientExplainer):
    """Gradient times input: for a linear model, what each feature adds to the logit.

    Parameters
    ----------
    model, output_layer, batch_size, operator, seed, verbose
        As for `Saliency`.
    reducer
        As for `Saliency`, default "mean".

    No guarantee
    ------------
    Exact for a linear model only. A feature that is 0 never matters.

    References
    ----------
    Ancona et al.: Towards Better Understanding of Gradient-based Attribution Methods for Deep
    Neural Networks, ICLR 2018.

    Examples
    --------
    >>> GradientInput(model).explain(images, labels)
    """

    def __init__(
        self,
        model: keras.Model,
        output_layer: str | int | None = None,
        batch_size: int | None = 512,
        operator: Operator | str | None = None,
        reducer: str | None = "mean",
        *,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            model,
            output_layer=output_layer,
            batch_size=batch_size,
            operator=operator,
            reducer=reducer,
            seed=seed,
            verbose=verbose,
        )

    def _mean(self, shape: tuple[int, ...]) -> GradientMean:
        return gradient_mean("gradient_input", shape)

    def _of_features(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return self._mean_gradients(inputs, weights) * inputs


class IntegratedGradients(OperatorExplainer, GradientExplainer):
    """Integrated gradients: mean gradient from a baseline to the input, times their difference.

    Parameters
    ----------
    model, output_layer, batch_size, operator, seed, verbose
        As for `Saliency`.
    reducer
        As for `Saliency`, default "mean".
    steps
        Number of points on the way, in the middle of equal pieces.
    baseline_value
        Where the way begins: a number, or an array per channel (C,), for one input (*shape), or for
        each of them (N, *shape).

    No guarantee
    ------------
    The attributions of all features add up to the change of the logit, up to the error of the
    sum over `steps`; which feature gets which share is a convention.

    References
    ----------
    Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks, ICML 2017.

    Examples
    --------
    >>> IntegratedGradients(model, steps=100).explain(images, labels)
    """

    _meant = "steps"

    def __init__(
        self,
        model: keras.Model,
        output_layer: str | int | None = None,
        batch_size: int | None = 512,
        operator: Operator | str | None = None,
        reducer: str | None = "mean",
        steps: int = 50,
        baseline_value: Any = 0.0,
        *,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            model,
            output_layer=output_layer,
            batch_size=batch_size,
            operator=operator,
            reducer=reducer,
            seed=seed,
            verbose=verbose,
        )
        self.steps, self.baseline_value = whole_number("steps", steps), baseline_value

    def _mean(self, shape: tuple[int, ...]) -> GradientMean:
        settings = {"steps": self.steps, "baseline_value": self.baseline_value}
        return gradient_mean("integrated_gradients", shape, **settings)

    def _of_features(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        baseline = spread_value("baseline_value", self.baseline_value, inputs.shape)
        share = (np.arange(self.steps, dtype=np.float32) + 0.5) / self.steps
        return self._mean_gradients(inputs, weights, share, starts=baseline) * (inputs - baseline)


class SmoothGrad(OperatorExplainer, GradientExplainer):
    """SmoothGrad: the mean gradient at noisy copies of the input.

    Parameters
    ----------
    model, output_layer, batch_size, operator, verbose
        As for `Saliency`.
    reducer
        As for `Saliency`, default "mean".
    seed
        Of the noise, of which all inputs share the draws.
    nb_samples
        Number of noisy copies.
    noise
        Standard deviation of the noise, in units of the inputs.

    No guarantee
    ------------
    A mean over random points, none of which has to be near the worst one.

    References
    ----------
    Smilkov et al.: SmoothGrad: removing noise by adding noise, 2017.

    Examples
    --------
    >>> SmoothGrad(model, nb_samples=50, noise=0.2).explain(images, labels)
    """

    _meant = "nb_samples"

    def __init__(
        self,
        model: keras.Model,
        output_layer: str | int | None = None,
        batch_size: int | None = 512,
        operator: Operator | str | None = None,
        reducer: str | None = "mean",
        nb_samples: int = 50,
        noise: float = 0.2,
        *,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            model,
            output_layer=output_layer,
            batch_size=batch_size,
            operator=operator,
            reducer=reducer,
            seed=seed,
            verbose=verbose,
        )
        if not noise >= 0:
            raise ValueError(f"noise must be a standard deviation, at least 0. Received: {noise!r}")
        self.nb_samples, self.noise = whole_number("nb_samples", nb_samples), noise

    def _mean(self, shape: tuple[int, ...]) -> GradientMean:
        settings: dict[str, Any] = {"nb_samples": self.nb_samples, "noise": self.noise}
        return gradient_mean("smoothgrad", shape, seed=self.seed, **settings)

    def _of_features(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        generator = np.random.default_rng(self.seed)
        noise = generator.standard_normal((self.nb_samples, *inputs.shape[1:]), np.float32)
        scales = np.ones(self.nb_samples)
        return self._mean_gradients(inputs, weights, scales, noise * np.float32(self.noise))
