"""What roundings can feign: whether the class really changes at the point that an attack returns.

Certificates are about real arithmetic, attacks are climbed in the model's own. At the boundary of
two classes the two differ, and kernels differ from each other. A point counts as one of another
class only if its margin is positive in the model's own arithmetic by more than the roundings that
are to be expected there (`allowance`), and in real arithmetic too, where that can be computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.ascent import lengths
from xcertify.attacks.margins import margins
from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.keras_graph import layers_of
from xcertify.logits import logits_of, two_classes
from xcertify.regions import Ball, Region, as_column
from xcertify.targets import margin_rows
from xcertify.tracing import traced

# (points (N, *shape), rows (N, S, K)) -> sides (N, S) of what the rows of the logits are there
Exact = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

_STRETCHES = (1.0, 1.0001, 1.001, 1.01)  # of perturbations that do not change the class for certain
# How the logits of a point are bounded. Values of activations with constants that a network may
# round, such as GELU, are intervals that deep networks widen; what is left open goes to the second.
_METHODS = ("ibp", "crown-ibp")
_UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def unit_roundoff(model: Any, logits: Any) -> float:
    """That of the coarsest type in which a model computes its logits; at least float32's."""
    types = {tf.as_dtype(logits.dtype).name}
    if isinstance(model, keras.Model):
        types |= {layer.compute_dtype for layer in layers_of(model)}
    return max([_UNITS["float32"], *(_UNITS.get(name, 0.0) for name in types)])


def relative_allowance(nb_terms: int, unit: float = _UNITS["float32"]) -> float:
    """``(64 + 8 sqrt(n)) u``: what roundings can be expected to cost, as a share of sizes.

    A sum of n products is mostly off by no more than a few sqrt(n) u times the sum of their sizes
    (Higham, Mary: A New Approach to Probabilistic Rounding Error Analysis, 2019); 64 stands for
    the other layers.
    """
    return (64 + 8 * math.sqrt(nb_terms)) * unit


def allowance(
    logits: tf.Tensor, gradient: tf.Tensor | None, points: tf.Tensor, unit: float
) -> tf.Tensor:
    """How far roundings can be expected to move a margin of the logits, (B,).

    `relative_allowance` times ``max |f| + sum |g x|`` for inputs x of n features, logits f and
    gradient g of the margin: that of g x is the sum of sizes in a linear model.

    Parameters
    ----------
    logits, gradient, points
        (B, K), and (B, *shape) each; None if the margin does not depend on the points.
    unit
        u, see `unit_roundoff`.

    No guarantee
    ------------
    Nobody knows what a callable rounds. Where the model can be read, `ClassChange` proves the
    change in real arithmetic beside it.
    """
    size = tf.reduce_max(abs(logits), axis=1)
    if gradient is not None:
        size += tf.cast(lengths(gradient * points, 1), size.dtype)
    return size * relative_allowance(math.prod(points.shape[1:]), unit)


def margin_with_allowance(
    model: Any, logits_at: Callable, points: tf.Tensor, classes: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Logits (B, K), margins max f_c' - f_c (B,), and how far roundings may have moved these."""
    with tf.GradientTape() as tape:
        tape.watch(points)
        raw = logits_at(points)
        logits = two_classes(raw)
        largest, _ = margins(logits, classes, tf.fill(tf.shape(classes), -1))
    gradient = tape.gradient(largest, points)
    return raw, largest, allowance(logits, gradient, points, unit_roundoff(model, raw))


class ClassChange:
    """Says of points whether their class is another one: in the model's arithmetic, and in real.

    Parameters
    ----------
    model
        As for `PGD`.
    exact
        (points (N, *shape), rows (N, S, K)) -> lower and upper sides (N, S) of the rows of the
        logits in real arithmetic. None: those of `Verifier` in float64, if it can read the model;
        else the `allowance` alone decides.
    """

    def __init__(self, model: Callable, exact: Exact | None = None) -> None:
        self._model, self._logits, self._exact = model, logits_of(model), exact
        self._graphs: dict[tuple, Callable] = {}
        self._verifiers: dict[str, Verifier] = {}
        is_read = exact is None and isinstance(model, keras.Model)
        self._methods: tuple[str, ...] = _METHODS if is_read else ()

    def __call__(
        self, points: np.ndarray, classes: np.ndarray, targeted: bool = False
    ) -> np.ndarray:
        """Where points (N, *shape) have left their classes (N,), or reached them, (N,) bool."""
        labels = tf.constant(classes, tf.int32)
        own = self._graph(points.shape[1:], points.dtype)
        margin, nb_logits = own(tf.constant(points), labels, tf.constant(targeted))
        changed = margin.numpy() > 0
        some = np.flatnonzero(changed)
        if len(some):
            rows = np.asarray(margin_rows(classes[some], int(nb_logits)))
            changed[some] = self._in_reality(points[some], rows, targeted)
        return changed

    def settle(
        self,
        region: Region,
        points: np.ndarray,
        classes: np.ndarray,
        samples: np.ndarray,
        norm: float,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nearest of each sample's points whose class has changed.

        A point that does not count yet is moved on, away from the center. Nearer ones are tested
        first, so that most samples cost one test.

        Parameters
        ----------
        region
            The regions of M points.
        points, classes, samples
            (M, *shape), inside the regions; (M,) the classes to leave; (M,) the sample of each.
        norm
            By which they are near.

        Returns
        -------
        places, points, distances
            Of the samples that have one: (S,) which of the M it was, rising by sample;
            (S, *shape), inside the region and in its type; (S,) float64 from the centers.
        """
        points, center = np.array(points), region.center.astype(np.float64)
        steps = points - center
        distances = distances_of(steps, norm)
        moves = np.zeros(len(points), int)  # how often each has been moved on
        is_open, won = np.ones(len(points), bool), np.zeros(len(points), bool)
        while is_open.any():
            some = np.flatnonzero(is_open)
            some = some[nearest_of(samples[some], distances[some])]
            changed = self(points[some], classes[some])
            won[some[changed]] = True
            is_open &= ~np.isin(samples, samples[some[changed]])
            moved = some[~changed]
            moves[moved] += 1
            is_open[moved] = moves[moved] < len(_STRETCHES)
            moved = moved[is_open[moved]]
            if len(moved):
                stretch = as_column(np.array(_STRETCHES)[moves[moved]], steps)
                farther = (center[moved] + stretch * steps[moved]).astype(points.dtype)
                points[moved] = region[moved].project(farther)
                distances[moved] = distances_of(points[moved] - center[moved], norm)
        places = np.flatnonzero(won)
        places = places[np.argsort(samples[places])]
        return places, points[places], distances[places]

    def _graph(self, shape: tuple[int, ...], dtype: Any) -> Callable:
        """The margins in the model's arithmetic; traced once for a shape of the inputs."""
        if (shape, dtype) not in self._graphs:
            kinds = [((None, *shape), dtype), ((None,), tf.int32), ((), tf.bool)]
            signature = [tf.TensorSpec(*kind) for kind in kinds]
            self._graphs[shape, dtype] = traced(
                self._own_margins, input_signature=signature, autograph=False
            )
        return self._graphs[shape, dtype]

    def _own_margins(
        self, points: tf.Tensor, classes: tf.Tensor, targeted: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Margins less their allowance, (B,), and the number of logits."""
        raw, largest, slack = margin_with_allowance(self._model, self._logits, points, classes)
        return tf.where(targeted, -largest, largest) - slack, tf.shape(raw)[-1]

    def _in_reality(self, points: np.ndarray, rows: np.ndarray, targeted: bool) -> np.ndarray:
        """Where the change is proved in real arithmetic, or nothing can be proved, (N,) bool."""
        changed = np.ones(len(points), bool)
        left = np.arange(len(points))
        for sides_at in self._sides():
            try:
                lower, upper = sides_at(points[left], rows[left])
            except UnsupportedLayerError:
                break
            changed[left] = (upper < 0).all(axis=1) if targeted else (lower > 0).any(axis=1)
            same = (lower >= 0).any(axis=1) if targeted else (upper <= 0).all(axis=1)
            left = left[~changed[left] & ~same]
            if not len(left):
                break
        return changed

    def _sides(self) -> Iterator[Exact]:
        """What gives sides in real arithmetic: each is asked where the one before leaves open."""
        if self._exact is not None:
            yield self._exact
        for method in self._methods:
            yield partial(self._bounds, method)

    def _bounds(
        self, method: str, points: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of the rows at the points, by the verifier of a method."""
        try:
            if method not in self._verifiers:
                self._verifiers[method] = Verifier(
                    self._model, method, dtype="float64", strip_head=True
                )
            return self._verifiers[method].bound_rows(Ball(points.astype(np.float64), 0.0), rows)
        except UnsupportedLayerError:
            self._methods = self._methods[: self._methods.index(method)]  # not asked again
            raise


def nearest_of(samples: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Places, among points of samples (M,), of the nearest of each sample."""
    order = np.lexsort((distances, samples))
    return order[np.unique(samples[order], return_index=True)[1]]


def distances_of(steps: np.ndarray, norm: float) -> np.ndarray:
    """Norm of each step (N, *shape), (N,) float64."""
    flat = steps.reshape(len(steps), math.prod(steps.shape[1:])).astype(np.float64)
    return np.linalg.norm(flat, norm, axis=1)
