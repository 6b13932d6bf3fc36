"""The derivative J of an attribution g by its input, by its products, and true deviations of g.

Of M points: J is (M, m, d), with m entries of g and d features, and is never held for all of them
at once. Estimates to first order say how large ``|J delta|`` can be; `largest_deviation` climbs the
true ``|g(x + delta) - g(x)|``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.attacks.maps import Explanation
from xcertify.attributions import quadratic_forms
from xcertify.attributions.quadratic_forms import Product, Rates
from xcertify.inputs import in_batches
from xcertify.logits import two_classes
from xcertify.progress import progress_bar
from xcertify.regions import Region, as_column
from xcertify.tracing import traced

NB_ASCENTS = 10  # steps of an ascent of the true deviation

_MEMORY = 2**29  # bytes for matrices, or for the bases of Lanczos' method, at once
_NB_PROBES = 16
_NB_DESCENTS = {True: 8, False: 2}  # with and without the matrix
_UNCONNECTED = tf.UnconnectedGradients.ZERO


class Jacobian:
    """An attribution g, its derivative J and that of the logits, at any number of points.

    Parameters
    ----------
    explanation
        (model, points (B, *shape), weights (B, K)) -> g, (B, *map): of TensorFlow operations, twice
        differentiable.
    logits
        The model: points (B, *shape) -> (B, K) float32.
    batch_size
        Most points at once.
    name
        Of the model, for messages.
    """

    def __init__(
        self, explanation: Explanation, logits: Callable, batch_size: int, name: Any
    ) -> None:
        self._maps_of = partial(explanation, logits)
        self._logits, self._batch_size, self._name = logits, batch_size, name
        self._graphs: dict[Any, Callable] = {}

    def maps(self, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """g, (M, *map)."""
        return self._run(_maps, points, weights)

    def gram(self, points: np.ndarray, weights: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """J^T J v of vectors v (M, *shape), (M, *shape)."""
        return self._run(_gram, points, weights, vectors)

    def deviations(
        self, points: np.ndarray, weights: np.ndarray, maps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distances |g - maps|, (M,), and the slopes of their squares by the points, (M, d)."""
        found = self._run(_deviations, points, weights, maps)
        return found[:, 0], found[:, 1:]

    def products(self, inputs: np.ndarray, weights: np.ndarray) -> Product:
        """The function (N, ..., d) -> (N, ..., d) that multiplies by J^T J of each input."""

        def multiply(vectors: np.ndarray) -> np.ndarray:
            times = vectors.size // inputs.size
            points, rows = (np.repeat(array, times, axis=0) for array in (inputs, weights))
            return self.gram(points, rows, vectors.reshape(points.shape)).reshape(vectors.shape)

        return multiply

    def matrix(
        self, inputs: np.ndarray, weights: np.ndarray, map_shape: tuple[int, ...]
    ) -> np.ndarray:
        """J^T J of each input, (N, d, d) float64, from the rows of J."""
        units = np.eye(math.prod(map_shape), dtype=np.float32).reshape(-1, *map_shape)
        jacobian = self._pulled_back(inputs, weights, units).astype(np.float64)
        return np.matmul(np.swapaxes(jacobian, 1, 2), jacobian)

    def diagonals(
        self, inputs: np.ndarray, weights: np.ndarray, map_shape: tuple[int, ...], seed: int
    ) -> np.ndarray:
        """Diagonals of J^T J, (N, d) float64, estimated with random signs (Hutchinson)."""
        generator = np.random.default_rng(seed)
        signs = generator.choice(np.array([-1, 1], np.float32), (_NB_PROBES, *map_shape))
        return (self._pulled_back(inputs, weights, signs).astype(np.float64) ** 2).mean(axis=1)

    def keeps_label(self, inputs: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Whether a step, and the opposite one, leave the class as it is to first order, (2, N)."""
        logits, slopes = np.moveaxis(self._run(_linear, inputs, steps), 1, 0)
        logits, slopes = (two_classes(tf.constant(v)).numpy() for v in (logits, slopes))
        before = logits.argmax(axis=1)
        return np.array([(logits + sign * slopes).argmax(axis=1) == before for sign in (1, -1)])

    def _pulled_back(
        self, inputs: np.ndarray, weights: np.ndarray, outputs: np.ndarray
    ) -> np.ndarray:
        """J^T u of each input for every one of `outputs` (R, *map), (N, R, d)."""
        points, rows = (np.repeat(array, len(outputs), axis=0) for array in (inputs, weights))
        wanted = np.tile(outputs, (len(inputs), *[1] * (outputs.ndim - 1)))
        pulled = self._run(_transposed, points, rows, wanted)
        return pulled.reshape(len(inputs), len(outputs), -1)

    def _run(self, function: Callable, *arrays: np.ndarray) -> np.ndarray:
        """One of the functions below as a graph, of all points."""
        arrays = tuple(array.astype(np.float32, copy=False) for array in arrays)
        compiled = self._compiled(function, *(array.shape[1:] for array in arrays))
        pieces = zip(*(in_batches(array, self._batch_size) for array in arrays))
        try:
            found = np.concatenate([compiled(*piece).numpy() for piece in pieces])
        except TypeError as error:
            if "variant" not in str(error):  # of the lists that a loop keeps
                raise
            raise ValueError(
                f"the model has a loop, such as that of a recurrent layer, through which "
                f"TensorFlow does not take the second derivatives that AttributionBound needs; "
                f"build the layer with unroll=True. Received: the model {self._name!r}"
            ) from error
        if not np.isfinite(found).all():
            raise ValueError(
                f"the attribution, or its derivative, is NaN or infinite at or near an input: look "
                f"for weights that are, for a root or a logarithm at 0, and for numbers beyond "
                f"those of float32. Received: the model {self._name!r}"
            )
        return found

    def _compiled(self, function: Callable, *shapes: tuple[int, ...]) -> Callable:
        key = (function, *shapes)
        if key not in self._graphs:
            source = self._logits if function is _linear else self._maps_of
            signature = [tf.TensorSpec((None, *shape), tf.float32) for shape in shapes]
            graph = traced(partial(function, source), input_signature=signature, autograph=False)
            self._graphs.setdefault(key, graph)
        return self._graphs[key]


def largest_deviation(
    jacobian: Jacobian,
    inputs: np.ndarray,
    weights: np.ndarray,
    maps: np.ndarray,
    steps: np.ndarray,
    radii: np.ndarray,
    norm: float,
    *,
    inside: Region | None = None,
    nb_ascents: int = NB_ASCENTS,
) -> np.ndarray:
    """The largest ``|g(x + delta) - g(x)|`` of two opposite steps and of an ascent from each, (N,).

    Parameters
    ----------
    jacobian
        Of g.
    inputs, weights, maps
        x (N, *shape), the weights of its logits (N, K), and g(x) (N, *map).
    steps
        (N, *shape), to begin with: delta and -delta.
    radii, norm
        (N,) and p: each further delta is the steepest of this length.
    inside
        Regions in which all points are brought; None: points are in the balls, up to roundings.
    nb_ascents
        Number of further deltas.
    """
    centers, rows, originals = (np.concatenate([v, v]) for v in (inputs, weights, maps))
    steps, radii = np.concatenate([steps, -steps]), np.concatenate([radii, radii])
    both = None if inside is None else inside[np.arange(2 * len(inputs)) % len(inputs)]
    largest = np.zeros(len(steps))
    for _ in range(1 + nb_ascents):
        points = centers + steps if both is None else both.project(centers + steps)
        distances, slopes = jacobian.deviations(points, rows, originals)
        largest = np.maximum(largest, distances)
        directions = quadratic_forms.steepest(slopes.astype(np.float64), norm)
        steps = as_column(radii, inputs) * directions.reshape(steps.shape)
    return largest.reshape(2, -1).max(axis=0)


def deviation_rates(
    jacobian: Jacobian,
    inputs: np.ndarray,
    weights: np.ndarray,
    map_shape: tuple[int, ...],
    norm: float,
    *,
    largest_matrix: int,
    verbose: bool = False,
    **settings: Any,
) -> Rates:
    """The largest ``|J delta|`` of deltas of norm 1, of each input, from both sides.

    Parameters
    ----------
    jacobian, inputs, weights
        As for `largest_deviation`; `map_shape` is that of g.
    norm
        p at least 2, or inf.
    largest_matrix
        Up to so many features J^T J is computed whole for p > 2.
    verbose
        Whether to show a progress bar.
    settings
        Of `quadratic_forms.largest_eigenvalue`.
    """
    flat = inputs[0].size
    whole = norm > 2 and flat <= largest_matrix
    bytes_each = 8 * flat * (5 * flat if whole else 2 * (settings["nb_products"] + 1))
    if norm > 2 and not whole:
        bytes_each *= quadratic_forms.NB_CANDIDATES
    found = []
    with progress_bar(len(inputs), "input", verbose=verbose) as progress:
        for part in in_batches(np.arange(len(inputs)), max(1, _MEMORY // bytes_each)):
            some = jacobian, inputs[part], weights[part]
            if norm == 2:
                multiply, shape = jacobian.products(*some[1:]), (len(part), flat)
                rates = quadratic_forms.rates_of_l2(multiply, shape, **settings)
            else:
                rates = _rates_of_lp(*some, map_shape, norm, whole, settings)
            found.append(rates)
            progress.update(len(part))
    rates = Rates(*map(np.concatenate, zip(*found)))
    return rates._replace(direction=rates.direction.reshape(inputs.shape))


def _rates_of_lp(
    jacobian: Jacobian,
    inputs: np.ndarray,
    weights: np.ndarray,
    map_shape: tuple[int, ...],
    norm: float,
    whole: bool,
    settings: dict[str, Any],
) -> Rates:
    """For p > 2: of J^T J computed whole, or of its products and estimates of its diagonal."""
    matrix = None
    if whole:
        matrix = jacobian.matrix(inputs, weights, map_shape)
        multiply, sums = _products_with(matrix), np.abs(matrix).sum(axis=-1)
    else:
        multiply = jacobian.products(inputs, weights)
        sums = jacobian.diagonals(inputs, weights, map_shape, settings["seed"])
    settings = settings | {"matrix": matrix, "nb_descents": _NB_DESCENTS[whole]}
    return quadratic_forms.rates_of_lp(multiply, sums.shape, norm, sums, **settings)


def _products_with(matrix: np.ndarray) -> Product:
    """The function (N, ..., d) -> (N, ..., d) that multiplies by matrices (N, d, d)."""
    nb_samples, nb_features, _ = matrix.shape

    def multiply(vectors: np.ndarray) -> np.ndarray:
        rows = vectors.reshape(nb_samples, -1, nb_features)
        return np.matmul(rows, matrix).reshape(vectors.shape)

    return multiply


# --- what is compiled: g and its derivatives at some points --------------------------------------


def _maps(maps_of: Callable, points: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return maps_of(points, weights)


def _gram(
    maps_of: Callable, points: tf.Tensor, weights: tf.Tensor, directions: tf.Tensor
) -> tf.Tensor:
    """J^T J v, (B, *shape): forward over reverse, and reverse on the same evaluation."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(points)
        with tf.autodiff.ForwardAccumulator(points, directions) as accumulator:
            maps = maps_of(points, weights)
        image = accumulator.jvp(maps, _UNCONNECTED)
    return tape.gradient(maps, points, image, _UNCONNECTED)


def _transposed(
    maps_of: Callable, points: tf.Tensor, weights: tf.Tensor, outputs: tf.Tensor
) -> tf.Tensor:
    """J^T u, (B, *shape)."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(points)
        maps = maps_of(points, weights)
    return tape.gradient(maps, points, outputs, _UNCONNECTED)


def _deviations(
    maps_of: Callable, points: tf.Tensor, weights: tf.Tensor, originals: tf.Tensor
) -> tf.Tensor:
    """Distances of the maps to others, and the slopes of their squares, (B, 1 + d)."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(points)
        moved = maps_of(points, weights) - originals
        squares = tf.reduce_sum(tf.reshape(moved, (tf.shape(moved)[0], -1)) ** 2, axis=1)
    slopes = tape.gradient(squares, points, unconnected_gradients=_UNCONNECTED)
    flat = tf.reshape(slopes, (-1, math.prod(points.shape[1:])))
    return tf.concat([tf.sqrt(squares)[:, None], flat], axis=1)


def _linear(logits_of: Callable, points: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    """Logits at the points and what a step adds to them to first order, (B, 2, K)."""
    with tf.autodiff.ForwardAccumulator(points, steps) as accumulator:
        logits = logits_of(points)
    return tf.stack([logits, accumulator.jvp(logits, _UNCONNECTED)], axis=1)
