"""Explainers that look at the score while parts of the input are masked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attacks.maps import Explanation, flat
from xcertify.attributions.base import Explainer, OperatorExplainer
from xcertify.checks import one_number, whole_number, whole_numbers
from xcertify.inputs import in_batches, spread_value
from xcertify.models import gradient_by, has_gradient
from xcertify.operators import Operator
from xcertify.progress import progress_bar

_NB_CLIMBED = 128  # most masks of a map that is derived: each is evaluated for every step


class MaskExplainer(OperatorExplainer):
    """What explainers by masks share: scores of masked inputs.

    A mask holds the share of each feature that is kept, (H, W) for images, whose channels go
    together, else the shape of the input; the rest is one of `values` (N, *shape).
    """

    def _masked_scores(
        self,
        inputs: np.ndarray,
        weights: np.ndarray,
        masks: Callable[[slice], np.ndarray],
        nb_masks: int,
        values: np.ndarray,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Masks (V, features) and the scores with them (N, V), as many masks as fit at a time."""
        if inputs.ndim > 4:
            raise ValueError(
                f"inputs must be images (N, H, W, C), time series (N, T, W) or tabular (N, W) to "
                f"be masked. Received: {inputs.shape}"
            )
        features = inputs.shape[1:3] if inputs.ndim == 4 else inputs.shape[1:]
        scores_at = self._compile(
            self._scores_behind,
            ((None, *inputs.shape[1:]), tf.float32),
            ((None, *weights.shape[1:]), tf.float32),
            ((None, *features), tf.float32),
            ((None, *inputs.shape[1:]), tf.float32),
            ((None,), tf.int32),
            ((None,), tf.int32),
        )
        total = len(inputs) * nb_masks
        with progress_bar(total, "sample", verbose=self.verbose) as progress:
            for first in range(0, nb_masks, self._nb_at_once):
                some = masks(slice(first, min(first + self._nb_at_once, nb_masks)))
                scores = np.empty(len(inputs) * len(some), np.float32)
                for pairs in in_batches(np.arange(len(scores), dtype=np.int32), self._nb_at_once):
                    sample, mask = np.divmod(pairs, np.int32(len(some)))
                    near = slice(sample[0], sample[-1] + 1)
                    scores[pairs] = scores_at(
                        inputs[near],
                        weights[near],
                        some,
                        values[near],
                        sample - sample[0],
                        mask,
                    )
                    progress.update(len(pairs))
                yield some.reshape(len(some), -1), scores.reshape(len(inputs), len(some))

    def _scores_behind(
        self,
        inputs: tf.Tensor,
        weights: tf.Tensor,
        masks: tf.Tensor,
        values: tf.Tensor,
        sample: tf.Tensor,
        mask: tf.Tensor,
    ) -> tf.Tensor:
        kept = tf.gather(masks, mask)
        if inputs.shape.rank == 4:
            kept = kept[..., tf.newaxis]
        points = kept * tf.gather(inputs, sample) + (1 - kept) * tf.gather(values, sample)
        return self._scores_at(points, tf.gather(weights, sample))

    def _is_derived(self, kind: type[Explainer], shape: tuple[int, ...]) -> bool:
        """Whether maps are those of a class, of logits that have a gradient."""
        own = type(self)._explain is kind._explain and self._strips_head
        return own and has_gradient(self._logits_at, shape)

    def _maps_by(
        self,
        masks: np.ndarray,
        shares: np.ndarray,
        value: np.ndarray,
        model: Callable,
        inputs: tf.Tensor,
        targets: tf.Tensor,
    ) -> tf.Tensor:
        """Maps ``sum_v score(x behind masks[v]) shares[v]`` as TensorFlow operations.

        One mask at a time, evaluated again for the derivative, so that memory holds as much as for
        V = 1.

        Parameters
        ----------
        masks, shares
            (V, *features).
        value
            What masked features become, (*shape).
        model, inputs, targets
            Logits, (B, *shape) and weights of logits (B, K), as `xcertify.attacks` gives them.
        """
        pairs = tf.constant(masks), tf.constant(shares.reshape(len(shares), -1))
        of_image = inputs.shape.rank == 4

        def scores(points: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
            mask = mask[..., tf.newaxis] if of_image else mask
            logits = tf.cast(model(mask * points + (1 - mask) * value), tf.float32)
            return tf.reduce_sum(flat(logits * targets), axis=1)

        @tf.custom_gradient
        def summed(points: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            def add(total: tf.Tensor, pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
                return total + scores(points, pair[0])[:, tf.newaxis] * pair[1]

            def derive(upstream: tf.Tensor, variables: Any = None) -> Any:
                def add_gradient(total: tf.Tensor, pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
                    by_scores = tf.linalg.matvec(upstream, pair[1])
                    with tf.GradientTape(watch_accessed_variables=False) as tape:
                        tape.watch(points)
                        score = tf.reduce_sum(scores(points, pair[0]) * by_scores)
                    return total + gradient_by(tape, score, points)

                nothing = tf.zeros_like(points)
                gradient = tf.foldl(add_gradient, pairs, nothing, parallel_iterations=1)
                return gradient if variables is None else (gradient, [None] * len(variables))

            nothing = tf.zeros((tf.shape(points)[0], pairs[1].shape[1]))
            return tf.foldl(add, pairs, nothing, parallel_iterations=1), derive

        return tf.reshape(summed(inputs), (-1, *_map_shape(inputs.shape[1:])))


class Occlusion(MaskExplainer):
    """Occlusion: how much the logit falls when a patch is covered.

    Parameters
    ----------
    model, batch_size, operator, seed, verbose
        As for `Saliency`.
    patch_size, patch_stride
        Side of the patch, and from one patch to the next. For images in pixels: a number, or a pair
        (rows, columns). For time series a number of steps, where variables are covered one at a
        time, or a pair (steps, variables). Features of tables are covered one at a time.
    occlusion_value
        What a covered feature becomes: a number, or an array per channel (C,), for one input
        (*shape), or for each of them (N, *shape).

    No guarantee
    ------------
    A feature is tried together with the rest of its patch and with one value only.

    References
    ----------
    Zeiler, Fergus: Visualizing and Understanding Convolutional Networks, ECCV 2014.

    Examples
    --------
    >>> Occlusion(model, patch_size=4, patch_stride=2).explain(images, labels)
    """

    def __init__(
        self,
        model: keras.Model,
        batch_size: int | None = 512,
        operator: Operator | str | None = None,
        patch_size: int | tuple[int, int] = 3,
        patch_stride: int | tuple[int, int] = 3,
        occlusion_value: Any = 0.0,
        *,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            model, batch_size=batch_size, operator=operator, seed=seed, verbose=verbose
        )
        sizes = whole_numbers("patch_size", patch_size)
        strides = whole_numbers("patch_stride", patch_stride)
        self.patch_size, self.patch_stride = patch_size, patch_stride
        _refuse_gaps(sizes, strides)
        self.occlusion_value = occlusion_value

    def _explain(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        masks = 1 - self._patches(inputs.shape[1:])
        covered = spread_value("occlusion_value", self.occlusion_value, inputs.shape)
        nominal = self._scores(inputs, weights)[:, None]
        maps = sum(
            (nominal - scores) @ (1 - kept)
            for kept, scores in self._masked_scores(
                inputs, weights, lambda some: masks[some], len(masks), covered
            )
        )
        return as_maps(maps, inputs)

    def _as_operations(self, shape: tuple[int, ...]) -> Explanation | None:
        patches = self._patches(shape)
        if len(patches) > _NB_CLIMBED or not self._is_derived(Occlusion, shape):
            return None
        value = spread_value("occlusion_value", self.occlusion_value, (1, *shape), per_sample=False)
        masks = np.concatenate([np.ones_like(patches[:1]), 1 - patches])  # nothing is covered first
        shares = np.concatenate([patches.sum(axis=0, keepdims=True), -patches])
        return partial(self._maps_by, masks, shares, value)

    def _patches(self, shape: tuple[int, ...]) -> np.ndarray:
        """Patches, (V, *features), 1 where the input is covered."""
        sizes: tuple[int, ...] = whole_numbers("patch_size", self.patch_size)
        strides: tuple[int, ...] = whole_numbers("patch_stride", self.patch_stride)
        if len(shape) == 2:  # a number is one of time steps, of one variable
            sizes = sizes if isinstance(self.patch_size, (tuple, list)) else (sizes[0], 1)
            strides = strides if isinstance(self.patch_stride, (tuple, list)) else (strides[0], 1)
            _refuse_gaps(sizes, strides)
        if len(shape) == 1:
            sizes = strides = (1,)
        spans = []
        for size, length, stride in zip(shape, sizes, strides):
            first = np.arange(0, max(size - length, 0) + stride, stride)[:, None]
            spans.append((np.arange(size) >= first) & (np.arange(size) < first + length))
        if len(spans) == 1:
            return spans[0].astype(np.float32)
        both = spans[0][:, None, :, None] & spans[1][None, :, None, :]
        return both.reshape(-1, *both.shape[2:]).astype(np.float32)


def _refuse_gaps(sizes: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """A ValueError for patches (rows, columns) between which features are never covered."""
    if strides[0] > sizes[0] or strides[1] > sizes[1]:
        raise ValueError(
            f"patch_stride must not be larger than patch_size, {sizes}: there would be features "
            f"that are never covered. Received: {strides}"
        )


class Rise(MaskExplainer):
    """RISE: the mean score over random masks that leave a feature visible.

    Parameters
    ----------
    model, batch_size, operator, verbose
        As for `Saliency`.
    seed
        Of the masks, which all inputs share.
    nb_samples
        Number of masks.
    grid_size
        Cells per side of a coarse mask, of images, where it may be a pair (rows, columns), and
        along time; it is enlarged bilinearly and shifted at random. Tabular features have a mask of
        their own.
    preservation_probability
        Probability that a cell is visible.
    mask_value
        What a masked feature becomes, as `occlusion_value` of `Occlusion`.

    No guarantee
    ------------
    An estimate from random masks.

    References
    ----------
    Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box Models,
    BMVC 2018. There the scores are probabilities; here, as everywhere, logits.

    Examples
    --------
    >>> Rise(model, nb_samples=1000).explain(images, labels)
    """

    def __init__(
        self,
        model: keras.Model,
        batch_size: int | None = 512,
        operator: Operator | str | None = None,
        nb_samples: int = 4000,
        grid_size: int | tuple[int, int] = 7,
        preservation_probability: float = 0.5,
        mask_value: Any = 0.0,
        *,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            model, batch_size=batch_size, operator=operator, seed=seed, verbose=verbose
        )
        if not 0 < preservation_probability < 1:
            raise ValueError(
                f"preservation_probability must be inside ]0, 1[. "
                f"Received: {preservation_probability!r}"
            )
        self.nb_samples = whole_number("nb_samples", nb_samples)
        whole_numbers("grid_size", grid_size)
        self.grid_size = grid_size
        self.preservation_probability = preservation_probability
        self.mask_value = mask_value

    def _explain(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        masks = self._random_masks(inputs.shape[1:])
        masked = spread_value("mask_value", self.mask_value, inputs.shape)
        sums = [
            (scores @ kept, kept.sum(axis=0))
            for kept, scores in self._masked_scores(inputs, weights, masks, self.nb_samples, masked)
        ]
        scores, visible = map(sum, zip(*sums))
        return as_maps(scores / np.maximum(visible, 1e-4), inputs)

    def _as_operations(self, shape: tuple[int, ...]) -> Explanation | None:
        """See `Explainer`: of the first masks alone, where there are very many."""
        if not self._is_derived(Rise, shape):
            return None
        value = spread_value("mask_value", self.mask_value, (1, *shape), per_sample=False)
        masks = self._random_masks(shape)(slice(_NB_CLIMBED))
        return partial(self._maps_by, masks, masks / np.maximum(masks.sum(axis=0), 1e-4), value)

    def _random_masks(self, shape: tuple[int, ...]) -> Callable[[slice], np.ndarray]:
        """A function that gives some of the masks, (V, *features), always the same ones."""
        features = shape[:2]
        along = len(shape) - 1  # axes of space and time
        sizes: tuple[int, ...] = whole_numbers("grid_size", self.grid_size)
        if along == 1:
            sizes = (one_number("grid_size", self.grid_size, "time series"),)
        cells = [min(pair) for pair in zip(sizes, features[:along])] + [*features[along:]]
        generator = np.random.default_rng(self.seed)
        coarse = generator.random((self.nb_samples, *cells)) < self.preservation_probability
        shifts = generator.random((self.nb_samples, along))

        def masks(some: slice) -> np.ndarray:
            fine = coarse[some].astype(np.float32)
            for axis in range(along):
                fine = _enlarge(fine, axis + 1, features[axis], shifts[some, axis])
            return fine

        return masks


def _enlarge(coarse: np.ndarray, axis: int, size: int, shifts: np.ndarray) -> np.ndarray:
    """Masks (V, ...) with `size` values along an axis, linear between the middles of the cells.

    The cells cover the axis and one cell more; `shifts` (V,), in cells, say where it begins.
    """
    nb_cells = coarse.shape[axis]
    share = (np.arange(size) + 0.5) / size * nb_cells + shifts[:, None]
    place = np.clip(share * nb_cells / (nb_cells + 1) - 0.5, 0, nb_cells - 1)
    place = place.reshape(len(coarse), *[1] * (axis - 1), size, *[1] * (coarse.ndim - axis - 1))
    before, after = np.floor(place).astype(int), np.ceil(place).astype(int)
    left, right = (np.take_along_axis(coarse, index, axis) for index in (before, after))
    return left + np.float32(place - before) * (right - left)


def as_maps(maps: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Flat maps (N, features) as (N, H, W, 1) for images, else the shape of the inputs."""
    return maps.reshape(len(inputs), *_map_shape(inputs.shape[1:]))


def _map_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """(H, W, 1) of images, else the shape of the inputs."""
    return (*shape[:-1], 1) if len(shape) == 3 else tuple(shape)
