"""RelEx: masks that are learned, so that what they keep is enough for the class, noise or not.

Source: Lim, Lee, Kim, Building Reliable Explanations of Unreliable Neural Networks: Locally
Smoothing Perspective of Model Interpretation, CVPR 2021.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from xcertify.attacks.minimal import MinimalPerturbation
from xcertify.attacks.steps import per_sample
from xcertify.attributions.base import Certifying, ClassExplainer, check_reducer, reduce_channels
from xcertify.bounds import Verifier
from xcertify.certificates import MaskCertificate
from xcertify.checks import whole_number
from xcertify.inputs import in_batches, spread_value
from xcertify.logits import two_classes
from xcertify.models import gradient_by
from xcertify.radii import Interval, RadiusSearch, compare_radii, keeps_class
from xcertify.regions import Ball, Box, Region, as_column, as_norm, valid_range

FORMS = ("mask", "pull")

_PATIENCE = 10  # steps in a row over which a loss that has settled stays the same
_SMALL = 32 * 32 * 3  # the size down to which the paper's settings are taken as they are
_FIRST_VALUES = 0.01  # masks begin at random between 0 and this


class RelEx(Certifying, ClassExplainer):
    """RelEx: a mask for every input, such that the class survives in what it keeps, and only there.

    With the masked features drawn to a neutral value n, ``keep(m, x) = n + m (x - n)``, the mask m
    in [0, 1] of an input x minimises by gradient descent (Eq. 11)::

        mean of  -log f_c(keep(m, x_i))  -  background * log(1 - f_c(keep(1 - m, x_i)))
        + sparsity * sum(m)

    over noisy copies x_i of x, which are drawn anew at each step; f_c is the probability of the
    target class. All inputs are optimised side by side, each by itself: neither the others nor
    `batch_size` change a mask (beyond rounding).

    Parameters
    ----------
    model
        A built Keras classifier. A single logit counts as two classes.
    nb_samples
        Number of noisy copies. 1: the input itself, without noise (the paper's variant without the
        batch).
    steps
        Number of gradient steps, at most.
    learning_rate
        Length of a step, before momentum: the gradient of each mask is divided by its Euclidean
        norm. None: the paper's 0.1, for inputs smaller than 32x32x3 times
        ``sqrt(size / 3072)``: their masks move as those of inputs enlarged to that size.
    momentum
        Share of the last step that is made again, in [0, 1[.
    noise
        Standard deviation of the noise, as a share of the range (max - min) of each input.
    sparsity
        Weight lambda_1 of the sum of the mask. None: the paper's 1e-4, for inputs smaller than
        32x32x3 times ``3072 / size``: their masks cost as much as those of inputs enlarged to that
        size.
    background
        Weight lambda_2 of the second term, which asks that the class is lost without what the mask
        keeps.
    neutral_value
        n, what masked-out features become: a number, or an array that fits the shape of one input.
        In the model's own input scale: 0 is the mean colour if inputs are standardised, and black
        if they are in [0, 1].
    form
        What `explain` shows. "mask": the mask, as in the paper; most of its values are 0, and say
        nothing of an order among them. "pull": where the descent was heading at its end, minus its
        velocity; signed, not cut to [0, 1], so that all features have a rank.
    tolerance
        A mask is left alone once its loss has stayed within this range for 10 steps; 0: never.
    reducer
        How the channels of an image become one value: "mean" (default), "max", "min" or
        "sum".
    norm, clip
        Of the region that `certify` looks at: inf, 2 or 1, and the valid range (low, high) of the
        inputs; see `Ball`.
    method
        How `certify` bounds, a name of `Verifier`.
    largest_radius
        How far `certify` looks, in units of the inputs.
    nb_halvings
        Of the search of `certify`: its radius is exact to the attacked one divided by two to this
        power.
    batch_size
        Most masked copies that are held at once, be they kept or removed; the masks, and as many
        gradients and velocities, are held for as many inputs.
    seed
        Of the first masks and of the noise, which all inputs share.
    verbose
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        For arguments that do not fit; the message says which and what to do.
    UnsupportedLayerError
        At `certify`, for a model that cannot be bounded.

    Guarantee
    ---------
    Of `certify`: no input within `certified` of the given one (in `norm` and `clip`) changes the
    class of what the mask keeps of it, with the mask held; see `MaskCertificate`. **No guarantee**
    of a mask itself: it is where a descent ended. It can be learned for any class, present or not:
    what it keeps is a reason for the model, not necessarily for a person.

    References
    ----------
    Lim, Lee, Kim: Building Reliable Explanations of Unreliable Neural Networks, CVPR 2021.

    Examples
    --------
    >>> explainer = RelEx(model, clip=(0.0, 1.0))
    >>> maps = explainer.explain(images, labels)            # (N, H, W, 1)
    >>> masks = explainer.masks(images, labels)             # (N, H, W, C), in [0, 1]
    >>> certificate = explainer.certify(images, labels)
    >>> certificate.certified, certificate.attacked         # (N,), (N,)
    """

    def __init__(
        self,
        model: keras.Model,
        nb_samples: int = 50,
        steps: int = 50,
        learning_rate: float | None = None,
        momentum: float = 0.99,
        noise: float = 0.1,
        sparsity: float | None = None,
        background: float = 1.0,
        neutral_value: Any = 0.0,
        form: str = "mask",
        *,
        tolerance: float = 0.01,
        reducer: str = "mean",
        norm: float = np.inf,
        clip: tuple[Any, Any] | None = None,
        method: str = "crown",
        largest_radius: float = 1.0,
        nb_halvings: int = 8,
        batch_size: int | None = 512,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form must be 'mask' or 'pull'. Received: {form!r}")
        check_reducer(reducer)
        if learning_rate is not None and not learning_rate > 0:
            raise ValueError(f"learning_rate must be positive. Received: {learning_rate!r}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1[. Received: {momentum!r}")
        for name, value in [
            ("noise", noise), ("sparsity", sparsity or 0.0),
            ("background", background), ("tolerance", tolerance),
        ]:  # fmt: skip
            if not 0 <= value < np.inf:
                raise ValueError(f"{name} must be 0 or positive. Received: {value!r}")
        if not 0 < largest_radius < np.inf:
            raise ValueError(f"largest_radius must be above 0. Received: {largest_radius!r}")
        super().__init__(model, batch_size=batch_size, seed=seed, verbose=verbose)
        self.nb_samples = whole_number("nb_samples", nb_samples)
        self.steps = whole_number("steps", steps)
        self.nb_halvings = whole_number("nb_halvings", nb_halvings)
        self.learning_rate, self.momentum, self.noise = learning_rate, momentum, noise
        self.sparsity, self.background = sparsity, background
        self.neutral_value, self.form = neutral_value, form
        self.tolerance, self.reducer = tolerance, reducer
        self.norm, self.clip, self.method = as_norm(norm), clip, method
        self.largest_radius = largest_radius

    def masks(self, inputs: Any, targets: Any = None) -> np.ndarray:
        """The learned masks, one value per feature and channel.

        Parameters and errors as for `explain`.

        Returns
        -------
        masks
            (N, *shape) float32 in [0, 1].
        """
        return self._learn(*self._prepare(inputs, targets))[0]

    def keep(self, inputs: Any, masks: Any) -> np.ndarray:
        """What masks keep of inputs: ``n + m (x - n)``, (N, *shape) float32."""
        inputs, _ = self._prepare(inputs, None)
        return _keep(inputs, _checked(masks, inputs), self._neutral(inputs.shape[1:]))

    def _certify(self, region: Ball, classes: np.ndarray, masks: Any = None) -> MaskCertificate:
        inputs = region.center
        masks = self._learn(inputs, classes)[0] if masks is None else _checked(masks, inputs)
        attacked = self._attack(inputs, masks, classes)
        certified = self._prove(inputs, masks, classes, attacked)
        region = region.resized(certified)
        what = "another class of what the mask keeps"
        compare_radii(certified, attacked, what=what, method=self.method, region=region)
        return MaskCertificate(
            region=region,
            method=self.method,
            arithmetic=self._verifier.guarantee,
            interval=Interval(certified, attacked),
            masks=masks,
            neutral_value=self._neutral(inputs.shape[1:]),
            targets=classes,
        )

    def _explain(self, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
        masks, pulls = self._learn(inputs, classes)
        return reduce_channels(masks if self.form == "mask" else pulls, self.reducer)

    def _neutral(self, shape: tuple[int, ...]) -> np.ndarray:
        return spread_value("neutral_value", self.neutral_value, (1, *shape), per_sample=False)

    # --- the descent --------------------------------------------------------------------------

    def _learn(self, inputs: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Masks and pulls, (N, *shape) each."""
        total = len(inputs) * self.steps
        with tqdm(total=total, unit="step", disable=not self.verbose) as progress:
            groups = zip(
                in_batches(inputs, self._nb_at_once), in_batches(classes, self._nb_at_once)
            )
            found = [self._descend(*group, progress) for group in groups]
        masks, pulls = map(np.concatenate, zip(*found))
        return masks, pulls

    def _descend(
        self, inputs: np.ndarray, classes: np.ndarray, progress: tqdm
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same of some inputs. One that has settled is left out of all further steps."""
        shape, size = inputs.shape[1:], inputs[0].size
        generator = np.random.default_rng(self.seed)
        first = generator.uniform(0, _FIRST_VALUES, shape).astype(np.float32)
        masks = np.repeat(first[None], len(inputs), axis=0)
        velocity = np.zeros_like(masks)
        losses = np.full((self.steps, len(inputs)), np.nan)
        rate, sparsity = self._for_size(size)
        active = np.arange(len(inputs))
        for step in range(self.steps):
            loss, gradient = self._losses(inputs[active], masks[active], classes[active], generator)
            column = (-1, *[1] * len(shape))
            losses[step, active] = loss + sparsity * masks[active].reshape(-1, size).sum(1)
            gradient += sparsity
            length = np.linalg.norm(gradient.reshape(-1, size), axis=1).reshape(column)
            velocity[active] *= self.momentum
            velocity[active] += gradient / np.maximum(length, np.finfo(np.float32).tiny)
            masks[active] = np.clip(masks[active] - rate * velocity[active], 0, 1)
            progress.update(len(active))
            if self.tolerance and step + 1 >= _PATIENCE:
                settled = np.ptp(losses[step + 1 - _PATIENCE : step + 1, active], 0)
                settled = settled <= self.tolerance
                progress.update(int(settled.sum()) * (self.steps - step - 1))
                active = active[~settled]
                if not len(active):
                    break
        return masks, -velocity

    def _for_size(self, size: int) -> tuple[np.float32, np.float32]:
        """Learning rate and sparsity for inputs of so many entries."""
        rate, sparsity = self.learning_rate, self.sparsity
        if rate is None:
            rate = 0.1 * min(1, size / _SMALL) ** 0.5
        if sparsity is None:
            sparsity = 1e-4 * max(1, _SMALL / size)
        return np.float32(rate), np.float32(sparsity)

    def _losses(
        self,
        inputs: np.ndarray,
        masks: np.ndarray,
        classes: np.ndarray,
        generator: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means over the copies of the two losses of each mask, (N,), and their gradients."""
        shape = inputs.shape[1:]
        losses_at = self._compile(
            self._losses_at,
            *[((None, *shape), tf.float32)] * 2,
            ((None,), tf.int32),
            ((None, *shape), tf.float32),
            (shape, tf.float32),
            ((), tf.float32),
        )
        neutral, background = self._neutral(shape), np.float32(self.background)
        classes = classes.astype(np.int32)
        loss, gradient = np.zeros(len(inputs), np.float32), np.zeros_like(inputs)
        nb_at_once = max(1, self._nb_at_once // 2)
        for first in range(0, self.nb_samples, nb_at_once):
            nb_samples = min(nb_at_once, self.nb_samples - first)
            noise = np.zeros((1, *shape), np.float32)
            if self.nb_samples > 1:
                noise = generator.standard_normal((nb_samples, *shape), np.float32)
                noise *= np.float32(self.noise)
            for some in in_batches(np.arange(len(inputs)), nb_at_once // nb_samples):
                arrays = inputs[some], masks[some], classes[some]
                found = losses_at(*arrays, noise, neutral, background)
                loss[some] += found[0].numpy()
                gradient[some] += found[1].numpy()
        return loss / self.nb_samples, gradient / self.nb_samples

    def _losses_at(
        self,
        inputs: tf.Tensor,
        masks: tf.Tensor,
        classes: tf.Tensor,
        noise: tf.Tensor,
        neutral: tf.Tensor,
        background: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Sums over noisy copies (S) of the losses of each input, (N,), and their gradients.

        `noise` (S, *shape) is in units of the range of an input.
        """
        axes = list(range(1, inputs.shape.rank))
        reach = tf.reduce_max(inputs, axes) - tf.reduce_min(inputs, axes)
        spread = per_sample(reach, inputs)[:, None]
        copies = inputs[:, None] + spread * noise
        nb_samples = tf.shape(noise)[0]
        labels = tf.repeat(classes, nb_samples)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(masks)
            kept, _ = self._log_shares(_keep(copies, masks[:, None], neutral), labels)
            _, lost = self._log_shares(_keep(copies, 1 - masks[:, None], neutral), labels)
            losses = tf.reshape(-kept - background * lost, [-1, nb_samples])
            losses = tf.reduce_sum(losses, axis=1)
            total = tf.reduce_sum(losses)
        return losses, gradient_by(tape, total, masks)

    def _log_shares(self, points: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """log f_c and log(1 - f_c) of points (N, S, *shape), flat, by the logits.

        By the logits, log(1 - f_c) needs no small number inside (the paper's code adds 1e-7), and
        its gradient does not vanish where the model is sure.
        """
        points = tf.reshape(points, [-1, *points.shape[2:]])
        logits = two_classes(self._logits_at(points))
        own = tf.one_hot(labels, logits.shape[1], on_value=True, off_value=False)
        total = tf.reduce_logsumexp(logits, axis=1)
        others = tf.reduce_logsumexp(tf.where(own, -np.inf, logits), axis=1)
        return tf.gather(logits, labels, batch_dims=1) - total, others - total

    # --- the certificate ----------------------------------------------------------------------

    @property
    def _verifier(self) -> Verifier:
        return self._derive(
            "verifier",
            lambda: Verifier(self.model, self.method, strip_head=True, start_layer=self._start),
        )

    @property
    def _exact_verifier(self) -> Verifier:
        return self._derive(
            "exact verifier",
            lambda: Verifier(
                self.model, "ibp", dtype="float64", strip_head=True, start_layer=self._start
            ),
        )

    def _kept_region(self, inputs: np.ndarray, masks: np.ndarray, radii: np.ndarray) -> Region:
        """What masks keep of the inputs within each radius."""
        clip = self.clip
        if clip is not None:  # up to where attacks go, in float32
            clip = valid_range(clip, inputs.shape, np.float32)
        region = Ball(inputs.astype(np.float64), as_column(radii, inputs), self.norm, clip)
        return kept_region(region, masks, self._neutral(inputs.shape[1:]))

    def _prove(
        self, inputs: np.ndarray, masks: np.ndarray, classes: np.ndarray, attacked: np.ndarray
    ) -> np.ndarray:
        """Largest radius that was tested and proved, by bisection up to the attacked one."""
        ends = np.where(np.isfinite(attacked), attacked, self.largest_radius)
        search = RadiusSearch(
            0.0, ends, nb_halvings=self.nb_halvings, linear=True, test_high="last"
        )
        for some, radii in search:
            region = self._kept_region(inputs[some], masks[some], radii)
            search.answer(keeps_class(self._verifier, region, classes[some]))
        return search.held

    def _attack(self, inputs: np.ndarray, masks: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Distance of the nearest input found of which the mask keeps another class, (N,)."""
        shape = inputs.shape[1:]
        neutral = self._neutral(shape)

        def of_kept(stacked: tf.Tensor) -> tf.Tensor:
            points, masks = tf.split(stacked, 2, axis=-1)
            return self._logits_at(_keep(points, masks, neutral))

        def exact(stacked: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            points, masks = np.split(stacked, 2, axis=-1)
            region = kept_region(Ball(points.astype(np.float64), 0.0), masks, neutral)
            return self._exact_verifier.bound_rows(region, rows)

        attack = self._derive(
            ("attack", shape),
            lambda: MinimalPerturbation(
                of_kept,
                norm=self.norm,
                batch_size=self._nb_at_once,
                seed=self.seed,
                exact=exact,
            ),
        )
        reach = Ball(inputs, self.largest_radius, clip=self.clip)
        # the masks go beside the inputs, as features that are held
        sides = (np.concatenate([side, masks], -1) for side in (reach.lower, reach.upper, inputs))
        return attack(Box(*sides), classes).distances


def kept_region(region: Region, masks: np.ndarray, neutral: np.ndarray) -> Region:
    """What masks keep of every point of a region: its image under ``x -> n + m (x - n)``.

    Parameters
    ----------
    region
        N regions in float64.
    masks
        (N, *shape) float32 in [0, 1], held.
    neutral
        n, (*shape) float32.

    Guarantee
    ---------
    The image of every point lies in the result: its sides, and the radii of a ball, are widened by
    what float64 rounds on the way.
    """
    masks, neutral = masks.astype(np.float64), neutral.astype(np.float64)

    def image(points: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        size = np.abs(neutral) + masks * (np.abs(points) + np.abs(neutral))
        return _keep(points, masks, neutral), np.where(masks > 0, scale * size, 0)

    unit = np.finfo(np.float64).eps
    # a float32 number times a float32 mask is exact in float64: centers move where n is not 0
    center, error = image(region.center, 2 * unit)
    error = np.where(neutral == 0, 0, error)
    # twice as much as needed, for the differences to the center that bounds are made of
    (lower, slack), (upper, excess) = image(region.lower, 4 * unit), image(region.upper, 4 * unit)
    lower, upper = lower - slack, upper + excess
    if np.isinf(region.norm):
        return Region(center, lower, upper)
    epsilon = masks * np.broadcast_to(region.epsilon, center.shape)
    shift = np.divide(error, epsilon, out=np.zeros_like(error), where=epsilon > 0)
    shift = np.linalg.norm(shift.reshape(len(shift), -1), region.norm, axis=1)
    grown = epsilon * (1 + 2 * shift.reshape(-1, *[1] * (epsilon.ndim - 1)) + 4 * unit)
    return Region(center, lower, upper, grown, region.norm)


def _keep(points: Any, masks: Any, neutral: Any) -> Any:
    """What masks keep of points, of NumPy or TensorFlow."""
    return neutral + masks * (points - neutral)


def _checked(masks: Any, inputs: np.ndarray) -> np.ndarray:
    masks = np.asarray(masks)
    if masks.shape != inputs.shape or masks.dtype.kind not in "fiub":
        raise ValueError(
            f"masks must have one value per feature, the shape {inputs.shape} of the inputs. "
            f"Received: shape {masks.shape} of {masks.dtype}"
        )
    masks = masks.astype(np.float32)
    if not ((masks >= 0) & (masks <= 1)).all():
        raise ValueError(
            f"masks must be within [0, 1]. Received: {masks.min():.4g} to {masks.max():.4g}"
        )
    return masks
