"""AttributionBound: how far noise can move an attribution, to first order and, on request, proved.

Source: Wang & Kong, A Practical Upper Bound for the Worst-Case Attribution Deviations, CVPR 2023.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from xcertify.attacks.maps import Explanation
from xcertify.attacks.roundings import relative_allowance
from xcertify.attributions.base import Certifying
from xcertify.attributions.gradient_means import bound_explanations
from xcertify.attributions.gradient_radii import Claim, proved_radii
from xcertify.attributions.jacobian import NB_ASCENTS, deviation_rates, largest_deviation
from xcertify.attributions.quadratic_forms import Rates
from xcertify.attributions.smooth_attribution import SmoothAttribution, attribution_of
from xcertify.bounds import Verifier, gradient_method
from xcertify.certificates import DeviationCertificate
from xcertify.checks import whole_number
from xcertify.criteria import Within, farthest
from xcertify.models import refuse_channels_first
from xcertify.perturbation import as_outside
from xcertify.radii import Interval, compare_bounds
from xcertify.regions import Ball, Norm, Region, as_column
from xcertify.smoothing import kinks

DEVIATIONS = ("euclidean", "cosine")


class AttributionBound(SmoothAttribution, Certifying):
    """An attribution, an estimate of how far perturbations can move it, and a proof on request.

    The estimate is the paper's: the attribution is taken to be linear in the perturbation,
    ``g(x + delta) = g(x) + J delta``, and ``|J delta|`` is bounded. Beside it, `proved` gives what
    the bounds of `Verifier` prove of the same attribution, without that assumption.

    Parameters
    ----------
    model
        A Keras classifier, or any TensorFlow callable that returns logits. With piecewise linear
        activations such as ReLU it has no second derivative: a copy is explained, see `beta`.
    epsilon
        Radius of the perturbations, in units of the inputs: a number, or one per input (N,).
    norm
        2, any p above 2, or inf.
    attribution
        "saliency", the gradient of the target's logit with its sign; "gradient_input", times the
        input; "integrated_gradients", the mean gradient at `steps` points between `baseline_value`
        and the input, times that way. Or a callable (model, inputs, targets) -> maps of TensorFlow
        operations, twice differentiable: `model` gives logits (B, K), `inputs` are (B, *shape),
        `targets` weights (B, K), maps are (B, *map), and samples do not depend on each other.
    clip
        Valid range of the inputs, (low, high), for `proved`; estimates are for the whole ball.
    beta
        Softplus for ReLU: everything (maps, estimates, proofs) is about a copy of the model with
        ``softplus(beta z) / beta`` in place of every ReLU. The model itself is not touched. "auto"
        (default): for each input the smallest of some numbers with which no logit is off by more
        than a tenth of the margin between the two largest ones, see `betas`; certificates say
        which. A model without ReLU is explained itself. None: the model itself, whatever it has.
    steps, baseline_value
        Of integrated gradients, as for `CertifiedGradient`.
    proved
        Whether `certify` also gives proved bounds; needs norm 2 or inf and a named attribution.
    method
        Of `proved`, a method of `Verifier.bound_gradient`.
    nb_products
        Most products ``J^T J v`` spent on one eigenvalue; it stops before, at `tolerance`.
    tolerance
        How near to each other the two sides of the largest singular value should come, as a share.
    failure
        Probability, over `seed`, that the upper side of a singular value is too small.
    largest_matrix
        For norms above 2: up to this number of features J^T J is computed whole. Beyond, only its
        products with vectors are, which gives looser estimates.
    reducer
        How the channels of an image become one value in `explain`: "mean", "max", "min" or "sum".
        Certificates are about all features.
    outside
        What becomes of inputs outside `clip`, as for `EVA`.
    batch_size
        Most points whose gradients are taken at once.
    seed
        Of the start of Lanczos' method, the same for every input.
    verbose
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        For arguments that do not fit; and in `certify` and `epsilon_for`, for a model whose
        activations have no second derivative, naming the layer, and for one with a recurrent layer
        that is not unrolled.

    Guarantee
    ---------
    Of `proved_euclidean` and `proved_cosine`, that of `CertifiedGradient`: no perturbation within
    `epsilon` and `clip` moves the attribution farther.

    No guarantee
    ------------
    Every other figure is an estimate: it would be a bound if the attribution were linear within
    `epsilon`. On a network that is not, perturbations that go farther exist and were found.

    References
    ----------
    Wang, Kong: A Practical Upper Bound for the Worst-Case Attribution Deviations, CVPR 2023.

    Examples
    --------
    >>> explainer = AttributionBound(model, epsilon=0.05, clip=(0.0, 1.0), proved=True)
    >>> maps = explainer.explain(images, labels)                   # (N, H, W, 1)
    >>> certificate = explainer.certify(images, labels)
    >>> certificate.euclidean_estimate, certificate.proved_euclidean   # (N,) each
    >>> explainer.epsilon_for(0.1, images, labels, deviation="cosine")
    """

    def __init__(
        self,
        model: keras.Model,
        epsilon: Any = 0.05,
        norm: Norm = 2,
        attribution: str | Explanation = "saliency",
        clip: tuple[Any, Any] | None = None,
        beta: float | str | None = "auto",
        *,
        steps: int = 20,
        baseline_value: Any = 0.0,
        proved: bool = False,
        method: str = "crown",
        nb_products: int = 40,
        tolerance: float = 1e-3,
        failure: float = 1e-6,
        largest_matrix: int = 4096,
        reducer: str | None = "mean",
        outside: str = "error",
        batch_size: int | None = 128,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            model,
            attribution,
            beta,
            steps=steps,
            baseline_value=baseline_value,
            reducer=reducer,
            batch_size=batch_size,
            seed=seed,
            verbose=verbose,
        )
        norm = math.inf if norm == "inf" else norm
        if isinstance(norm, bool) or not isinstance(norm, (int, float, np.number)) or not norm >= 2:
            raise ValueError(f"norm must be 2, a larger number or np.inf. Received: {norm!r}")
        if not 0 < failure < 1 or not tolerance > 0:
            raise ValueError(
                f"failure must be a probability between 0 and 1 and tolerance positive. "
                f"Received: {failure!r}, {tolerance!r}"
            )
        if proved:
            attribution_of(attribution)  # refuses a callable
        if proved and norm not in (2, math.inf):
            raise ValueError(f"proved=True needs norm 2 or np.inf. Received: {norm!r}")
        self.epsilon, self.norm, self.clip, self.proved = epsilon, norm, clip, proved
        self.outside = as_outside(outside)
        self.method = gradient_method(method, stacklevel=4)  # whoever calls the class
        self.nb_products = whole_number("nb_products", nb_products)
        self.tolerance, self.failure = tolerance, failure
        self.largest_matrix = int(largest_matrix)

    def _region(self, inputs: np.ndarray) -> Region:
        """The regions around inputs, of any norm p from 2 on."""
        limits = np.finfo(np.float64).max, "a finite number of at least 0"
        epsilon = as_column(_one_each("epsilon", self.epsilon, len(inputs), *limits), inputs)
        if self.norm in (2, math.inf):
            return Ball(inputs, epsilon, self.norm, self.clip)
        box = Ball(inputs, epsilon, math.inf, self.clip)
        return Region(inputs, box.lower, box.upper, epsilon, self.norm, self.clip)

    @property
    def _takes_bounds(self) -> bool:
        return self.proved

    @property
    def _method_before(self) -> str:
        return "crown"  # of the network; `method` is of its gradient

    def _certify(self, region: Region, weights: np.ndarray) -> DeviationCertificate:
        if self.proved:
            refuse_channels_first(self.model, "proved=True")
        networks = [*self._by_network(region.center)]
        parts = [one._certify_network(region[some], weights[some]) for some, one in networks]
        order = np.argsort(np.concatenate([some for some, _ in networks]))
        together = DeviationCertificate.concatenate(parts)[order]
        return dataclasses.replace(together, region=region)

    def _certify_network(self, region: Region, weights: np.ndarray) -> DeviationCertificate:
        """The certificate of inputs that have one network."""
        self._refuse_without_curvature()
        inputs = region.center
        epsilon = np.asarray(region.epsilon).reshape(len(region), -1)[:, 0]
        maps = self._of_features(inputs, weights)
        rates = self._rates(inputs, weights, maps.shape[1:])
        steps = (rates.direction * as_column(epsilon, inputs)).astype(np.float32)
        about = self._jacobian, inputs, weights, maps, steps, epsilon, self.norm
        observed = largest_deviation(*about)
        estimate = epsilon * rates.upper
        ratio = np.divide(observed, estimate, out=np.ones(len(inputs)), where=estimate > 0)
        euclidean, cosine = np.full(len(inputs), np.inf), None
        if self.proved:
            euclidean, cosine = self._proofs(region, weights, maps)
        if self.proved or self.clip is not None:  # in the region, not in the whole ball
            nb_ascents = NB_ASCENTS if self.proved else 0
            observed = largest_deviation(*about, inside=region, nb_ascents=nb_ascents)
        self._compare(euclidean, observed, maps, region)
        is_copy = self.network is not self.model
        return DeviationCertificate(
            region=region,
            method=self._said_method,
            arithmetic=self._verifier.guarantee if self.proved else "none",
            interval=Interval(euclidean, observed),
            epsilon=epsilon,
            explanation=maps,
            euclidean_estimate=estimate,
            singular_value_lower=rates.singular_lower,
            singular_value_upper=rates.singular_upper,
            decided=tuple(rates.decided.tolist()),
            factor=np.maximum(ratio, 1.0),
            direction=rates.direction,
            reached=epsilon * rates.lower,
            attained=np.any(self._jacobian.keeps_label(inputs, steps), axis=0),
            proved_cosine=cosine,
            targets=weights,
            beta=np.full(len(inputs), self.beta if is_copy else math.inf),
            kinks=tuple(name for name, _ in kinks(self.network)),
        )

    def epsilon_for(
        self,
        threshold: Any,
        inputs: Any,
        targets: Any = None,
        *,
        deviation: str = "euclidean",
        proved: bool = False,
        largest: float = 1.0,
    ) -> np.ndarray:
        """The radius up to which the deviation stays below a threshold: an estimate, or proved.

        Parameters
        ----------
        threshold
            Largest deviation allowed, a number or (N,): a distance, or for "cosine" a cosine
            distance from 0 to 1.
        inputs, targets
            As for `explain`.
        deviation
            "euclidean" or "cosine".
        proved
            Whether to prove the radius, by bisection of `CertifiedGradient.radius`.
        largest
            Largest radius that is tried with `proved`; those below ``largest / 65536`` count as 0.

        Returns
        -------
        epsilon
            (N,). Estimates are inf where nothing moves the attribution to first order.

        Raises
        ------
        ValueError
            For arguments that do not fit, and as `certify`.

        Guarantee
        ---------
        With `proved`: that of `CertifiedGradient.radius`.

        No guarantee
        ------------
        Without it the estimate is inverted (the alternative formulation of the paper's section 3).
        """
        if deviation not in DEVIATIONS:
            raise ValueError(
                f"deviation must be one of {', '.join(DEVIATIONS)}. Received: {deviation!r}"
            )
        inputs, weights = self._prepare(inputs, targets)
        cosine = deviation == "cosine"
        limits = (1.0, "a number from 0 to 1") if cosine else (math.inf, "a number at least 0")
        threshold = _one_each("threshold", threshold, len(inputs), *limits)
        if proved:
            refuse_channels_first(self.model, "proved=True")
        found = np.empty(len(inputs))
        for some, one in self._by_network(inputs):
            about = inputs[some], weights[some], threshold[some], deviation
            found[some] = one._radii(*about, largest if proved else None)
        return found

    def _radii(
        self,
        inputs: np.ndarray,
        weights: np.ndarray,
        threshold: np.ndarray,
        deviation: str,
        largest: float | None,
    ) -> np.ndarray:
        """`epsilon_for` of inputs that have one network; an estimate where `largest` is None."""
        self._refuse_without_curvature()
        maps = self._of_features(inputs, weights)
        if largest is not None:
            return self._proved_radii(inputs, weights, maps, threshold, deviation, largest)
        reach = threshold
        if deviation == "cosine":
            reach = _lengths(maps) * np.sqrt(2 * threshold - threshold**2)
        rate = self._rates(inputs, weights, maps.shape[1:]).upper
        return np.divide(reach, rate, out=np.full(len(inputs), np.inf), where=rate > 0)

    def _rates(self, inputs: np.ndarray, weights: np.ndarray, map_shape: tuple[int, ...]) -> Rates:
        """Deviations to first order for epsilon 1."""
        return deviation_rates(
            self._jacobian,
            inputs,
            weights,
            map_shape,
            self.norm,
            largest_matrix=self.largest_matrix,
            verbose=self.verbose,
            nb_products=self.nb_products,
            tolerance=2 * self.tolerance,  # of its square
            failure=self.failure,
            seed=self.seed,
        )

    @property
    def _verifier(self) -> Verifier:
        """Of the logits."""
        return self._derive(
            ("verifier", self._dtype),
            lambda: Verifier(self.network, dtype=self._dtype, strip_head=True),
        )

    @property
    def _said_method(self) -> str:
        """Of certificates."""
        return f"first order; proved by {self.method}" if self.proved else "first order"

    def _proofs(
        self, region: Region, weights: np.ndarray, maps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Proved Euclidean and cosine distances to the attributions of the inputs, (N,) each."""
        lower, upper = bound_explanations(
            self._verifier,
            self._mean(region.shape),
            region,
            weights,
            method=self.method,
            batch_size=self._nb_at_once,
            verbose=self.verbose,
        )
        euclidean = np.sqrt(farthest(lower, upper, maps, "mse") * maps[0].size)
        return euclidean, 1 - farthest(lower, upper, maps, "cosine")

    def _compare(
        self, proved: np.ndarray, observed: np.ndarray, maps: np.ndarray, region: Region
    ) -> None:
        """Refuse distances that were observed beyond the proved ones, less their roundings."""
        slack = relative_allowance(maps[0].size) * (observed + _lengths(maps))
        what = "an attribution whose Euclidean distance is"
        compare_bounds(proved, observed - slack, what=what, method=self.method, region=region)

    def _proved_radii(
        self,
        inputs: np.ndarray,
        weights: np.ndarray,
        maps: np.ndarray,
        threshold: np.ndarray,
        deviation: str,
        largest: float,
    ) -> np.ndarray:
        """Radii up to which the deviation is proved to stay below a threshold, (N,)."""
        criterion = Within(threshold**2 / maps[0].size, "mse")
        if deviation == "cosine":
            criterion = Within(1 - threshold, "cosine")
        norm = self.norm if self.proved else math.inf  # of a ball that holds those of any p
        region, mean = Ball(inputs, 0.0, norm, self.clip), self._mean(inputs.shape[1:])
        claim = Claim(criterion, mean, weights, maps, region, largest=largest)
        return proved_radii(
            claim,
            self._verifier,
            method=self.method,
            batch_size=self._nb_at_once,
            verbose=self.verbose,
        )


def _one_each(name: str, value: Any, nb_inputs: int, most: float, what: str) -> np.ndarray:
    """A number from 0 to `most`, or one per input, as (N,) float64."""
    values = np.asarray(value, np.float64)
    fits = values.shape in ((), (nb_inputs,))
    if not fits or not ((values >= 0) & (values <= most)).all():
        raise ValueError(
            f"{name} must be {what}, or one per input ({nb_inputs},). Received: {value!r}"
        )
    return np.broadcast_to(values, (nb_inputs,)).copy()


def _lengths(values: np.ndarray) -> np.ndarray:
    """Euclidean lengths (N,) of values (N, *shape)."""
    return np.linalg.norm(values.reshape(len(values), -1).astype(np.float64), axis=1)
