"""Projected gradient ascent inside a region: a lower bound of what a verifier bounds from above."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.ascent import arrays_of, ascend, best_of_restarts, random_start, runs
from xcertify.attacks.margins import margins, runners_up
from xcertify.attacks.roundings import ClassChange
from xcertify.batches import most_at_once
from xcertify.checks import whole_number
from xcertify.inputs import evaluate_in_batches, in_batches
from xcertify.logits import classes_of, logits_of, two_classes
from xcertify.regions import Region, refuse_other_regions
from xcertify.settings import Settings
from xcertify.tracing import traced

Objective = Callable[[tf.Tensor, tf.Tensor], Any]


@dataclass(frozen=True, eq=False)
class AttackResult:
    """The worst points that an attack found.

    Attributes
    ----------
    points
        (N, *shape), inside the region.
    values
        The objective there, (N,), in the model's own arithmetic. For the margin: the adversarial
        overlap that was attained, positive where the prediction was changed.
    changed
        For the margin, (N,) bool: where the class was changed (with `targeted`: reached) beyond
        what roundings can feign, as for `MinimalResult`. None for an objective.

    No guarantee
    ------------
    A stronger attack may find larger values.
    """

    points: np.ndarray
    values: np.ndarray
    changed: np.ndarray | None = None

    def __repr__(self) -> str:
        return (
            f"<AttackResult: {len(self.values)} samples, values from {self.values.min():.4g} "
            f"to {self.values.max():.4g}>"
        )


class PGD(Settings):
    """Projected gradient ascent, compiled once and run on any number of regions.

    Every step goes along the steepest ascent of the region's norm, leaves out the features that
    cannot move (held by `Region.fix`, or at a side of the box that the gradient points out of)
    *before* it is normalised, and is then brought back into the region. Steps shrink linearly to
    zero; the best point on the way is kept.

    Parameters
    ----------
    model
        Keras model or TensorFlow callable, (B, *shape) -> (B, K). The margin between its logits is
        attacked: a softmax or sigmoid at the end of a Keras model is left out, a callable must
        return logits. A single logit z counts as two, 0 and z. None if there is an `objective`.
    objective
        What to maximise instead of the margin: a callable (points, samples) -> (B,), both
        tensors, with points (B, *shape) and samples (B,) the number of the region of each, by
        which a row of other data is found (`tf.gather(rows, samples)`). It may also return a pair
        of (B,): the value that decides which point is best, and one to climb, which must have a
        gradient. A value of -inf is never taken.
    targeted
        Without, the targets are the classes to leave, and the margin max_{c' != c} f_c' - f_c is
        maximised; with it they are the classes to reach, and f_c - max_{c' != c} f_c' is.
    steps
        Number of gradient steps.
    step_size
        Length of the first step, as a share of the region's radius (of half its width in a box).
    restarts
        Number of starts. The first is the nominal input and climbs the margin of any class; the
        others are random points (the same draws for all samples) and climb towards the second,
        third, fourth and again any other class in turn: the nearest is not always the easiest.
    batch_size
        Number of points that are attacked at once.
    seed
        Of the random starts.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.

    No guarantee
    ------------
    What the attack does not find may exist all the same.

    References
    ----------
    Madry et al.: Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018.

    Examples
    --------
    >>> attack = PGD(model, restarts=5)
    >>> attack(Ball(images, epsilon=0.1, clip=(0, 1)), labels).values

    A `Perturbation`, as explainers take it, is one of all inputs:

    >>> perturbation = Perturbation(0.1, clip=(0.0, 1.0))
    >>> certificate = EVA(model, perturbation=perturbation).certify(images, labels)
    >>> attack(perturbation.around(images), labels).values
    """

    def __init__(
        self,
        model: Callable | None = None,
        *,
        objective: Objective | None = None,
        targeted: bool = False,
        steps: int = 50,
        step_size: float = 0.5,
        restarts: int = 1,
        batch_size: int = 512,
        seed: int = 0,
    ) -> None:
        if not callable(objective if model is None else model):
            raise ValueError(
                f"an attack needs a model or an objective, a callable. "
                f"Received: model={model!r}, objective={objective!r}"
            )
        if not step_size > 0:
            raise ValueError(f"step_size must be positive. Received: {step_size!r}")
        self.model: Any = model  # None beside an objective
        self.objective, self.targeted = objective, targeted
        self.steps, self.step_size = whole_number("steps", steps, least=0), step_size
        self.restarts = whole_number("restarts", restarts)
        self.batch_size, self.seed = whole_number("batch_size", batch_size), seed

    @property
    def _nb_at_once(self) -> int:
        """`batch_size`, or fewer where memory does not hold so many."""
        return self._derive("at once", lambda: most_at_once(self.model, self.batch_size))

    @tf.autograph.experimental.do_not_convert
    def _logits(self, points: Any) -> tf.Tensor:
        return self._derive("logits", lambda: logits_of(self.model))(points)

    def __call__(
        self,
        region: Region,
        targets: Any = None,
        mask: Any = None,
        starts: Any = None,
        stop_above: float = math.inf,
    ) -> AttackResult:
        """Attack every region.

        Parameters
        ----------
        region
            N regions.
        targets
            Integer labels (N,), one-hot rows (N, K), or None for the classes predicted at the
            nominal inputs. Not used with an `objective`.
        mask
            Boolean, (*shape) or (N, *shape); True where a feature is held at its nominal value,
            as in `Region.fix`.
        starts
            (N, *shape): points to start from instead of the nominal inputs; they are brought into
            the region first.
        stop_above
            Stop early once every sample has reached more than this, as 0 for a changed class.

        Returns
        -------
        result
            The best points of all restarts and steps, and the objective there.

        Raises
        ------
        ValueError
            For arguments that do not fit, and an objective that is NaN or -inf at every point.
        """
        refuse_other_regions(region)
        if mask is not None:
            region = region.fix(mask)
        classes, aims = self._classes(region, targets)  # (N,), (N, cycle)
        noise = np.random.default_rng(self.seed).random((self.restarts - 1, *region.shape))
        begin = region.center if starts is None else region.project(np.asarray(starts))
        best, value = np.array(begin), np.full(len(region), -np.inf, np.float32)
        for some, restarts in runs(len(region), self.restarts, self._nb_at_once):
            points = [
                random_start(region[some], noise[r - 1]) if r else begin[some] for r in restarts
            ]
            every = np.tile(some, len(restarts))  # one restart of all samples after the other
            found = self._climb(
                region[every],
                np.concatenate(points),
                classes[every],
                np.concatenate([aims[some, r % aims.shape[1]] for r in restarts]),
                every,
                stop_above,
            )
            found_points, found_value = best_of_restarts(*found, len(restarts))
            better = found_value > value[some]
            best[some[better]] = found_points[better]
            value[some[better]] = found_value[better]
        if np.isneginf(value).any():
            raise ValueError(
                f"the objective is NaN or -inf at every point that was tried for sample "
                f"{int(np.argmax(np.isneginf(value)))}: check it, or the model"
            )
        return AttackResult(best, value, self._changed(best, classes))

    def _changed(self, points: np.ndarray, classes: np.ndarray) -> np.ndarray | None:
        if self.objective is not None:
            return None
        change = self._derive_shared("change", lambda: ClassChange(self.model))
        parts = zip(*(in_batches(array, self._nb_at_once) for array in (points, classes)))
        return np.concatenate([change(*part, self.targeted) for part in parts])

    def _classes(self, region: Region, targets: Any) -> tuple[np.ndarray, np.ndarray]:
        """Classes (N,), and the class that each restart aims at, (N, cycle), -1 for any."""
        nothing = np.zeros(len(region), np.int32)
        if self.objective is not None:
            return nothing, nothing[:, None]
        if targets is None and self.targeted:
            raise ValueError("a targeted attack needs targets: the classes to reach")
        logits = evaluate_in_batches(self._logits, self._nb_at_once, region.center)
        classes = classes_of(self.model, logits, targets).astype(np.int32)
        if self.targeted:
            return classes, nothing[:, None] - 1
        return classes, runners_up(two_classes(tf.constant(logits)).numpy(), classes)

    def _climb(
        self,
        region: Region,
        points: np.ndarray,
        classes: np.ndarray,
        aims: np.ndarray,
        samples: np.ndarray,
        stop_above: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Best points and values from one start each."""
        dtype = region.center.dtype
        norm, arrays = arrays_of(region)
        found, value = self._compile(region.shape, dtype, norm)(
            *(tf.constant(array, dtype) for array in (*arrays, points)),
            tf.constant(self.steps),
            tf.constant(self.step_size, dtype),
            tf.constant(stop_above, tf.float32),
            *map(tf.constant, (classes, aims, samples)),
        )
        return found.numpy(), value.numpy()

    def _compile(self, shape: tuple[int, ...], dtype: Any, norm: float) -> Callable:
        """The loop; traced once per shape of the inputs, not per batch."""
        inputs, number = tf.TensorSpec((None, *shape), dtype), tf.TensorSpec((), tf.int32)
        signature = [
            *[inputs] * 5,
            number,
            tf.TensorSpec((), dtype),
            tf.TensorSpec((), tf.float32),
            *[tf.TensorSpec((None,), tf.int32)] * 3,
        ]
        key = (shape, dtype, norm)
        if self.objective is not None:  # which may have conditions and loops
            loop = partial(ascend, self._of_objective, norm)
            return self._derive(key, lambda: traced(loop, input_signature=signature))

        def make() -> Callable:
            loop = partial(ascend, partial(_of_classes, logits_of(self.model), self.targeted), norm)
            return traced(loop, input_signature=signature, autograph=False)

        return self._derive_shared(("ascent", self.targeted, *key), make)

    def _of_objective(
        self, points: tf.Tensor, classes: tf.Tensor, aims: tf.Tensor, samples: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """What is sought, (B,), and what is climbed to find it."""
        assert self.objective is not None
        values = self.objective(points, samples)
        values = values if isinstance(values, tuple) else (values, values)
        return tuple(tf.ensure_shape(tf.cast(value, tf.float32), [None]) for value in values)


def _of_classes(
    logits: Callable,
    targeted: bool,
    points: tf.Tensor,
    classes: tf.Tensor,
    aims: tf.Tensor,
    samples: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The same, from the margins of logits (B, K)."""
    largest, aimed = margins(two_classes(logits(points)), classes, aims)
    return (-largest, -aimed) if targeted else (largest, aimed)


def pgd(
    model: Callable | None,
    region: Region,
    targets: Any = None,
    *,
    mask: Any = None,
    **settings: Any,
) -> AttackResult:
    """The worst points of regions that projected gradient ascent finds.

    Parameters
    ----------
    model, **settings
        As for the class `PGD`, which does not compile anew at every call.
    region, targets, mask
        As for a call of it.

    No guarantee
    ------------
    What the attack does not find may exist all the same.

    Examples
    --------
    >>> pgd(model, Ball(images, epsilon=0.1, clip=(0, 1)), labels, restarts=5).values
    """
    return PGD(model, **settings)(region, targets, mask)
