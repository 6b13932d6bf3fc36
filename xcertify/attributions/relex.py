"""RelEx: masks that are learned, so that what they keep is enough for the class, noise or not.

Source: Lim, Lee, Kim, Building Reliable Explanations of Unreliable Neural Networks: Locally
Smoothing Perspective of Model Interpretation, CVPR 2021.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attacks.minimal import MinimalPerturbation
from xcertify.attacks.on_masks import attack_on_kept, beside_masks
from xcertify.attributions.base import Certifying, ClassExplainer, check_reducer, reduce_channels
from xcertify.attributions.mask_descent import Descent, for_size, losses_of_copies
from xcertify.attributions.mask_radii import proved_radii
from xcertify.bounds import Verifier
from xcertify.certificates import MaskCertificate
from xcertify.checks import positive, whole_number
from xcertify.inputs import in_batches, spread_value
from xcertify.masks import check_masks, keep, with_order
from xcertify.perturbation import as_outside
from xcertify.progress import progress_bar
from xcertify.radii import Interval, compare_radii
from xcertify.regions import Ball, as_norm

FORMS = ("mask", "pull")
OPTIMIZERS = ("sgd", "adam")


class RelEx(Certifying, ClassExplainer):
    """RelEx: a mask for every input, such that the class survives in what it keeps, and only there.

    With the masked features moved to a neutral value n, ``keep(m, x) = n + m (x - n)``, the mask m
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
        ``sqrt(size / 3072)``: their masks move as those of inputs enlarged to that size. With
        ``optimizer="adam"`` about the length of a step of each value; None: 0.1.
    momentum
        Share of the last step that is made again, in [0, 1[. Of ``optimizer="sgd"`` only.
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
        What `explain` shows. "pull": where the descent was heading at its end, minus its velocity
        (with "adam" minus its mean of past gradients); signed, not cut to [0, 1]. "mask": the mask,
        as in the paper, of which most values are 0; to rank these, too, numbers below 1e-6 in the
        order of the pull stand in their place. `masks` has the zeros.
    start
        Value of every mask at first, in [0, 1]. "paper": random between 0 and 0.01, as in the
        paper. From there some descents end before what the mask keeps has the class; from 0.3
        (default) hardly any do. See the page of RelEx.
    optimizer
        "sgd": steps along the gradient divided by its length, with momentum, as in the paper.
        "adam": Adam (Kingma & Ba, 2015) with decays 0.9 and 0.999.
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
    outside
        What becomes of inputs outside `clip`, as for `EVA`.
    batch_size
        Most masked copies that are held at once, be they kept or removed; the masks, and as many
        gradients and velocities, are held for as many inputs.
    seed
        Of the noise, and of the first masks of ``start="paper"``; all inputs share them.
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
        start: float | str = 0.3,
        optimizer: str = "sgd",
        tolerance: float = 0.01,
        reducer: str | None = "mean",
        norm: float = np.inf,
        clip: tuple[Any, Any] | None = None,
        method: str = "crown",
        largest_radius: float = 1.0,
        nb_halvings: int = 8,
        outside: str = "error",
        batch_size: int | None = 512,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form must be 'mask' or 'pull'. Received: {form!r}")
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be 'sgd' or 'adam'. Received: {optimizer!r}")
        check_reducer(reducer)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1[. Received: {momentum!r}")
        numbers = {"noise": noise, "background": background, "tolerance": tolerance}
        for name, value in (numbers | {"sparsity": 0.0 if sparsity is None else sparsity}).items():
            positive(name, value, or_zero=True)
        if learning_rate is not None:
            positive("learning_rate", learning_rate)
        if start != "paper" and (isinstance(start, (bool, str)) or not 0 <= start <= 1):
            raise ValueError(f"start must be a number in [0, 1], or 'paper'. Received: {start!r}")
        super().__init__(model, batch_size=batch_size, seed=seed, verbose=verbose)
        self.nb_samples = whole_number("nb_samples", nb_samples)
        self.steps = whole_number("steps", steps)
        self.nb_halvings = whole_number("nb_halvings", nb_halvings)
        self.learning_rate, self.momentum, self.noise = learning_rate, momentum, noise
        self.sparsity, self.background = sparsity, background
        self.neutral_value, self.form = neutral_value, form
        self.start, self.optimizer = start, optimizer
        self.tolerance, self.reducer = tolerance, reducer
        self.norm, self.clip, self.method = as_norm(norm), clip, method
        self.outside = as_outside(outside)
        self.largest_radius = positive("largest_radius", largest_radius)

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
        return keep(inputs, check_masks(masks, inputs), self._neutral(inputs.shape[1:]))

    def certify(
        self,
        inputs: Any,
        targets: Any = None,
        masks: Any = None,
        *,
        complete: bool = False,
        timeout: float | None = 60.0,
    ) -> MaskCertificate:
        """How far each input is proved to move without another class of what its mask keeps.

        Parameters
        ----------
        inputs, targets
            As for `explain`.
        masks
            m, (N, *shape) in [0, 1], held while the input moves. None: those that are learned.
        complete
            Whether `Verifier.decide` goes on where the bounds of the method end.
        timeout
            Seconds that the proofs may then take, about, for all inputs together; None: no limit.

        Returns
        -------
        certificate
            Radii between what is proved and what an attack found.

        Raises
        ------
        ValueError
            As `explain`; for inputs outside `clip`, and masks that do not fit.
        UnsupportedLayerError
            For a model that cannot be bounded.
        ContradictionError
            If an attack succeeds inside what is certified: a bug, to be reported.
        """
        inputs, classes = self._prepare(inputs, targets)
        region = self._looked_at(self.perturbation.around(inputs))
        decisions = {"timeout": timeout, "seed": self.seed} if complete else None
        return self._given_out(self._certify(region, classes, masks, decisions))

    def _certify(
        self,
        region: Ball,
        classes: np.ndarray,
        masks: Any = None,
        decisions: dict[str, Any] | None = None,
    ) -> MaskCertificate:
        inputs, neutral = region.center, self._neutral(region.shape)
        masks = self._learn(inputs, classes)[0] if masks is None else check_masks(masks, inputs)
        attacked = self._attack(neutral)(beside_masks(region, masks), classes).distances
        ends = np.where(np.isfinite(attacked), attacked, self.largest_radius)
        if decisions is not None:
            decisions["attacked"] = attacked
        certified = proved_radii(
            self._verifier, region, masks, neutral, classes, ends, self.nb_halvings, decisions
        )
        region = region.resized(certified)
        what = "another class of what the mask keeps"
        compare_radii(certified, attacked, what=what, method=self.method, region=region)
        return MaskCertificate(
            region=region,
            method=self.method,
            arithmetic=self._verifier.guarantee,
            interval=Interval(certified, attacked),
            masks=masks,
            neutral_value=neutral,
            targets=classes,
        )

    def _least(self, region: Ball) -> Ball:
        radius = self.largest_radius * 2.0**-self.nb_halvings
        return region.resized(np.full(len(region), radius))

    def _explain(self, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
        masks, pulls = self._learn(inputs, classes)
        maps = with_order(masks, pulls) if self.form == "mask" else pulls
        return reduce_channels(maps, self.reducer)

    def _neutral(self, shape: tuple[int, ...]) -> np.ndarray:
        return spread_value("neutral_value", self.neutral_value, (1, *shape), per_sample=False)

    def _learn(self, inputs: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Masks and pulls, (N, *shape) each."""
        descent, found = self._descent(inputs.shape[1:]), []
        total = len(inputs) * self.steps
        with progress_bar(total, "step", verbose=self.verbose) as progress:
            for some in in_batches(np.arange(len(inputs)), self._nb_at_once):
                found.append(descent.learn(inputs[some], classes[some], progress))
        masks, pulls = map(np.concatenate, zip(*found))
        return masks, pulls

    def _descent(self, shape: tuple[int, ...]) -> Descent:
        """The descent for inputs of a shape."""
        losses_at = self._compile(
            self._losses_at,
            *[((None, *shape), tf.float32)] * 2,  # inputs and masks
            ((None,), tf.int32),  # classes
            ((None, *shape), tf.float32),  # noise
            (shape, tf.float32),  # neutral value
            ((), tf.float32),  # background
        )
        rate, sparsity = for_size(
            self.learning_rate, self.sparsity, math.prod(shape), self.optimizer
        )
        return Descent(
            losses_at,
            nb_samples=self.nb_samples,
            steps=self.steps,
            learning_rate=rate,
            momentum=self.momentum,
            noise=self.noise,
            sparsity=sparsity,
            background=self.background,
            neutral_value=self._neutral(shape),
            tolerance=self.tolerance,
            nb_at_once=self._nb_at_once,
            seed=self.seed,
            start=None if self.start == "paper" else float(self.start),
            optimizer=self.optimizer,
        )

    def _losses_at(self, *tensors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return losses_of_copies(self._logits_at, *tensors)

    @property
    def _verifier(self) -> Verifier:
        return self._verifier_of(self.method)

    def _attack(self, neutral: np.ndarray) -> MinimalPerturbation:
        """The attack on inputs with their masks beside them."""
        return self._derive(
            ("attack", neutral.shape),
            lambda: attack_on_kept(
                self._logits_at,
                self._verifier_of("ibp", "float64"),
                neutral,
                norm=self.norm,
                batch_size=self._nb_at_once,
                seed=self.seed,
            ),
        )
