"""Attacks on what a certificate claims of explanations: the same criterion and explanation."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attacks.ascent import PGD
from xcertify.attacks.maps import Explanation, MapAttackResult
from xcertify.attacks.roundings import relative_allowance
from xcertify.criteria import DISTANCES, Criterion, Excludes, KeepsOut, KeepsSigns, KeepsTop, Within
from xcertify.logits import logits_of
from xcertify.regions import Region, as_column
from xcertify.settings import Settings
from xcertify.smoothing import BETAS, SmoothCopy
from xcertify.tracing import traced

_INWARD = 2.0**-22  # share of weights, and of their radii, that covers roundings of both in float32

Pair = tuple[tf.Tensor, tf.Tensor]


@singledispatch
def violation(criterion: Criterion, maps: tf.Tensor, original: tf.Tensor, goal: tf.Tensor) -> Pair:
    """How badly explanations violate a criterion, (B,), and a form of it to climb, (B,).

    For a criterion of one's own: ``violation.register(MyCriterion, function)``.

    Parameters
    ----------
    criterion
        One of `xcertify.criteria`.
    maps, original, goal
        (B, D): explanations, those that are defended, and ``criterion.goal``.
    """
    if not hasattr(criterion, "badness"):
        raise TypeError(
            f"nothing says how badly {type(criterion).__name__} is violated: "
            f"xcertify.attacks.on_criteria.violation.register(...) does. Received: {criterion!r}"
        )
    warnings.warn(
        "a criterion's method badness is deprecated. Write "
        "xcertify.attacks.on_criteria.violation.register(type(criterion), function)",
        DeprecationWarning,
        stacklevel=2,
    )
    return criterion.badness(maps, original, goal)


@violation.register
def _(criterion: Within, maps: tf.Tensor, original: tf.Tensor, goal: tf.Tensor) -> Pair:
    if criterion.measure == "cosine":
        return (-_cosine(maps, original),) * 2
    return _distances(criterion.measure, maps - original)


@violation.register
def _(criterion: Excludes, maps: tf.Tensor, original: tf.Tensor, goal: tf.Tensor) -> Pair:
    if criterion.measure == "cosine":
        return (_cosine(maps, goal),) * 2
    value, climbed = _distances(criterion.measure, maps - goal)
    return -value, -climbed


@violation.register
def _(criterion: KeepsTop, maps: tf.Tensor, original: tf.Tensor, goal: tf.Tensor) -> Pair:
    sizes, first = tf.abs(maps), tf.math.top_k(tf.abs(original), criterion.k).indices
    chosen = tf.reduce_max(tf.one_hot(first, maps.shape[1], dtype=maps.dtype), axis=1)
    inside = tf.reduce_min(tf.where(chosen > 0, sizes, np.inf), axis=1)
    outside = tf.reduce_max(tf.where(chosen > 0, -np.inf, sizes), axis=1)
    return outside - inside, outside - tf.reduce_sum(sizes * chosen, axis=1) / criterion.k


@violation.register
def _(criterion: KeepsOut, maps: tf.Tensor, original: tf.Tensor, goal: tf.Tensor) -> Pair:
    sizes = tf.abs(maps)
    largest = tf.reduce_max(tf.where(goal > 0, sizes, -np.inf), axis=1)
    others = tf.math.top_k(tf.where(goal > 0, -np.inf, sizes), criterion.k).values[:, -1]
    return (largest - others,) * 2


@violation.register
def _(criterion: KeepsSigns, maps: tf.Tensor, original: tf.Tensor, goal: tf.Tensor) -> Pair:
    kept = tf.where(goal > 0, maps * tf.sign(original), np.inf)
    return (-tf.reduce_min(kept, axis=1),) * 2


class CriterionAttack(Settings):
    """Search of regions for explanations that break a criterion; compiled once for all regions.

    Projected gradient ascent of how badly the criterion is broken. A ReLU network has no second
    derivative: its explanations are climbed on a copy with softplus(beta z) / beta, for one beta
    after the other, and judged on the model itself. The predicted class may change, as it may in a
    certificate.

    Parameters
    ----------
    model
        Keras model.
    explanation
        (model, inputs, targets) -> maps, see `xcertify.attacks.maps`.
    criterion
        One of `xcertify.criteria`.
    original
        (N, *map): the explanations that the criterion defends.
    targets
        (N, K): weights of the logits, as the explanation takes them.
    steps, restarts, batch_size, seed
        As for `PGD`, for each beta.
    exact
        (points (M, *shape), samples (M,)) -> lower and upper sides (M, *map) of the explanations
        there in real arithmetic, whatever is taken at kinks. None: not known.

    No guarantee
    ------------
    An empirical attack: what it does not find may exist all the same.

    Examples
    --------
    >>> attack = CriterionAttack(model, input_gradient, Within(0.5), maps, one_hot)
    >>> attack.breaks(attack(Ball(images, 0.05)))
    """

    def __init__(
        self,
        model: keras.Model,
        explanation: Explanation,
        criterion: Criterion,
        original: np.ndarray,
        targets: np.ndarray,
        *,
        steps: int = 20,
        restarts: int = 2,
        batch_size: int = 128,
        seed: int = 0,
        exact: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> None:
        self.model, self.explanation, self.criterion = model, explanation, criterion
        self.original, self.targets, self.batch_size = original, targets, batch_size
        self.steps, self.restarts, self.seed, self.exact = steps, restarts, seed, exact
        self._lock = threading.Lock()  # the smooth copy has one beta for all calls

    def __call__(self, region: Region) -> MapAttackResult:
        """Attack N regions; `values` of the result say how badly the criterion is broken."""
        smooth = self._derive("smooth", lambda: SmoothCopy(self.model))
        self._derive("logits", self._make_logits)  # not while a graph is traced
        pgd = self._derive("ascent", self._make_ascent)
        maps_of = self._derive("maps", self._make_maps)
        points: np.ndarray | None = None
        with self._lock:
            smooth.update()
            for beta in BETAS:
                smooth.beta.assign(beta)
                found = pgd(region, starts=points)
                points = found.points
        maps = [
            maps_of(found.points[s : s + self.batch_size], self.targets[s : s + self.batch_size])
            for s in range(0, len(found.points), self.batch_size)
        ]
        return MapAttackResult(found.points, np.concatenate(maps), self.original, found.values)

    def breaks(self, result: MapAttackResult) -> np.ndarray:
        """Where the explanations of a result break the criterion beyond roundings, (N,) bool.

        In the model's arithmetic by more than can be expected of it (`xcertify.attacks.roundings`,
        as a share of the largest entry of the map), and not only there: with `exact` the criterion
        must not be proved at the point.
        """
        broken = breaks_for_certain(self.criterion, result.maps, self.original)
        some = np.flatnonzero(broken)
        if self.exact is not None and len(some):
            sides = self.exact(result.points[some], some)
            broken &= not_proved(self.criterion, result, some, *sides)
        return broken

    def _objective(self, points: tf.Tensor, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        goal = np.broadcast_to(np.asarray(self.criterion.goal, np.float32), self.original.shape)
        data = (tf.constant(_flat(v), tf.float32) for v in (self.targets, self.original, goal))
        targets, original, goal = (tf.gather(values, samples) for values in data)

        def violated(model: Any) -> Pair:
            maps = self.explanation(model, points, targets)
            maps = tf.reshape(maps, (-1, original.shape[1]))
            return violation(self.criterion, maps, original, goal)

        logits, smooth = self._derive("logits", self._make_logits)
        flat = tf.reshape(points, [tf.shape(points)[0], -1])
        nothing = tf.reduce_sum(0 * flat, axis=1)  # a map that is the same everywhere climbs by 0
        return violated(logits)[0], violated(smooth)[1] + nothing

    def _make_logits(self) -> tuple[Callable, Callable]:
        copy = self._derive("smooth", lambda: SmoothCopy(self.model)).model
        return logits_of(self.model), logits_of(copy)

    def _make_ascent(self) -> PGD:
        return PGD(
            objective=self._objective,
            steps=self.steps,
            restarts=self.restarts,
            batch_size=self.batch_size,
            seed=self.seed,
        )

    def _make_maps(self) -> Callable:
        logits, _ = self._derive("logits", self._make_logits)
        return traced(
            lambda points, targets: self.explanation(logits, points, targets),
            reduce_retracing=True,
        )


class WeightCriterionAttack(Settings):
    """Search of the weights near a model's for explanations that break a criterion.

    Every input has weights of its own, so that this is the attack on what `CertifiedGradient`
    claims with `gamma`; `weight_attack` looks for one change that fools all inputs. Gradient
    steps of equal relative size from random weights, on a copy with softplus for ReLU, for the
    betas of `CriterionAttack` in turn; what counts are the maps of the model itself. The predicted
    class may change, as it may in a certificate.

    Parameters
    ----------
    model
        Keras model; it is not touched.
    explanation, criterion, original, targets
        As for `CriterionAttack`.
    inputs
        (N, *shape), in the order of `original` and `targets`.
    bias_radius
        How far biases may move; None: as all weights.
    steps, step_size
        Number of steps, and the length of the first one as a share of the radius; it falls to zero.
    restarts
        Number of random weights to begin with.
    seed
        Of these weights.

    No guarantee
    ------------
    An empirical attack, in float32.

    Examples
    --------
    >>> attack = WeightCriterionAttack(model, input_gradient, Within(0.5), images, maps, one_hot)
    >>> attack.breaks(attack(0.05))
    """

    def __init__(
        self,
        model: keras.Model,
        explanation: Explanation,
        criterion: Criterion,
        inputs: np.ndarray,
        original: np.ndarray,
        targets: np.ndarray,
        *,
        bias_radius: float | None = None,
        steps: int = 20,
        step_size: float = 0.4,
        restarts: int = 6,
        seed: int = 0,
    ) -> None:
        self.explanation, self.criterion, self.bias_radius = explanation, criterion, bias_radius
        self.model, self.inputs, self.original, self.targets = model, inputs, original, targets
        self.steps, self.step_size, self.restarts, self.seed = steps, step_size, restarts, seed
        self._lock = threading.Lock()  # the smooth copy has one beta for all calls

    def __call__(self, gamma: Any) -> MapAttackResult:
        """Attack with weights in [w - gamma |w|, w + gamma |w|]; gamma is a number or (N,)."""
        # rounded inward, as the weights below: a certificate ends at gamma
        gammas = np.broadcast_to(np.asarray(gamma, np.float64), len(self.inputs))
        gammas = tf.constant(np.maximum(gammas * (1 - _INWARD) - _INWARD, 0), tf.float32)
        best, best_values = self.original, np.full(len(self.inputs), -np.inf)
        smooth = self._derive("smooth", lambda: SmoothCopy(self.model))
        attack = self._derive("attack", lambda: traced(self._of_samples))
        for number in range(self.restarts):
            with self._lock:
                smooth.update()
                smooth.beta.assign(BETAS[number % len(BETAS)])
                maps, values = attack(gammas, tf.constant(self.seed + number))
            better = (values.numpy() > best_values).reshape(-1, *[1] * (best.ndim - 1))
            best = np.where(better, maps.numpy().reshape(best.shape), best)
            best_values = np.maximum(best_values, values)
        return MapAttackResult(self.inputs, best, self.original, best_values)

    def breaks(self, result: MapAttackResult) -> np.ndarray:
        """Where the explanations of a result break the criterion beyond roundings, (N,) bool.

        In the model's arithmetic, as for `CriterionAttack`.
        """
        return breaks_for_certain(self.criterion, result.maps, self.original)

    def _of_samples(self, gammas: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """One sample after the other inside the graph: the weights of one are held at a time."""
        goal = np.broadcast_to(np.asarray(self.criterion.goal, np.float32), self.original.shape)
        arrays = self.inputs, self.targets, _flat(self.original), _flat(goal)
        data = [tf.constant(values, tf.float32) for values in arrays]
        of_each = tf.range(len(self.inputs)), gammas, *data
        kinds = tf.TensorSpec(data[-1].shape[1:]), tf.TensorSpec(())
        copy = self._derive("smooth", lambda: SmoothCopy(self.model)).model
        own = logits_of(self.model), self.model.trainable_variables
        smooth = logits_of(copy), copy.trainable_variables
        return tf.map_fn(
            lambda sample: self._of_sample(seed, own, smooth, *sample),
            of_each,
            fn_output_signature=kinds,
        )

    def _of_sample(
        self,
        seed: tf.Tensor,
        own: tuple[Callable, list],
        smooth: tuple[Callable, list],
        number: tf.Tensor,
        gamma: tf.Tensor,
        *data: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Best maps of one sample; `own` and `smooth` are logits and the weights that vary."""
        point, target, original, goal = (tensor[None] for tensor in data)
        centers = [tf.convert_to_tensor(weight) for weight in own[1]]
        radii = [self._radius(w, c, gamma) for w, c in zip(own[1], centers)]

        def maps_of(logits: Any, variables: list, weights: list[tf.Tensor]) -> tf.Tensor:
            with keras.StatelessScope(state_mapping=list(zip(variables, weights))):
                maps = self.explanation(logits, point, target)
            return tf.reshape(maps, original.shape)

        def step(count: tf.Tensor, weights: list, best: tf.Tensor, best_value: tf.Tensor) -> tuple:
            maps = maps_of(*own, weights)
            value = violation(self.criterion, maps, original, goal)[0][0]
            best = tf.where(value > best_value, maps, best)
            with tf.GradientTape() as tape:
                tape.watch(weights)
                climbed = maps_of(*smooth, weights)
                climbed = violation(self.criterion, climbed, original, goal)[1]
            unconnected = tf.UnconnectedGradients.ZERO
            directions = tape.gradient(climbed, weights, unconnected_gradients=unconnected)
            length = self.step_size * (1 - tf.cast(count, tf.float32) / max(self.steps, 1))
            moved = [
                tf.clip_by_value(w + length * r * tf.sign(d), c - r, c + r)
                for w, c, r, d in zip(weights, centers, radii, directions)
            ]
            return count + 1, moved, best, tf.maximum(value, best_value)

        starts = [
            c + r * tf.random.stateless_uniform(c.shape, (1000 * seed + index, number), -1, 1)
            for index, (c, r) in enumerate(zip(centers, radii))
        ]
        first = tf.constant(0), starts, original, tf.constant(-np.inf, tf.float32)
        found = tf.while_loop(
            lambda count, *_: count <= self.steps, step, first, parallel_iterations=1
        )
        return found[2][0], found[3]

    def _radius(self, weight: Any, center: tf.Tensor, gamma: tf.Tensor) -> tf.Tensor:
        if self.bias_radius is not None and weight.name in ("bias", "beta"):
            radius = tf.fill(center.shape, tf.constant(self.bias_radius, tf.float32))
            return tf.maximum(radius * (1 - _INWARD) - _INWARD * tf.abs(center), 0)
        return gamma * tf.abs(center)


def breaks_for_certain(criterion: Criterion, maps: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Where explanations break a criterion, however float32 may have rounded them, (N,) bool."""
    maps = np.asarray(maps, np.float64)
    slack = np.abs(_flat(maps)).max(axis=1) * relative_allowance(maps[0].size)
    slack = as_column(slack, maps)
    return criterion.broken(maps - slack, maps + slack, original)


def not_proved(
    criterion: Criterion,
    result: MapAttackResult,
    samples: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
) -> np.ndarray:
    """Where a criterion is not proved to hold at the points that an attack found, (N,) bool.

    Parameters
    ----------
    criterion, result
        Of N samples.
    samples
        (M,): those whose explanations are known in real arithmetic; of the others the maps count.
    lower, upper
        (M, *map): their sides.
    """
    below, above = (np.array(result.maps, np.float64) for _ in range(2))
    below[samples], above[samples] = lower, upper
    return ~criterion.holds(below, above, result.original_maps)


def _distances(measure: str, differences: tf.Tensor) -> Pair:
    """How long differences (B, D) are, (B,), and what grows with it and is smooth at zero."""
    squares = tf.reduce_mean(differences**2, axis=1)
    if measure not in DISTANCES:
        return squares, squares
    lengths = tf.norm(differences, DISTANCES[measure], axis=1)
    return lengths, squares if measure == "l2" else lengths


def _cosine(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    product = tf.reduce_sum(first * second, axis=1)
    lengths = tf.norm(first + 1e-30, axis=1) * tf.norm(second + 1e-30, axis=1)
    return tf.math.divide_no_nan(product, lengths)


def _flat(values: np.ndarray) -> np.ndarray:
    return np.reshape(values, (len(values), -1))
