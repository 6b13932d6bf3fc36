"""AttributionBound: how far noise can move an attribution, to first order and, on request, proved.

Source: Wang & Kong, A Practical Upper Bound for the Worst-Case Attribution Deviations, CVPR 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from xcertify.attacks.maps import Explanation
from xcertify.attacks.roundings import relative_allowance
from xcertify.attributions import quadratic_forms
from xcertify.attributions.base import Certifying
from xcertify.attributions.certified_gradient import CertifiedGradient
from xcertify.attributions.gradients import GradientExplainer
from xcertify.bounds.graph import activations
from xcertify.bounds.graph.relaxations import Activation
from xcertify.bounds.rules.registry import ACTIVATIONS, keras_activation
from xcertify.certificates import DeviationCertificate
from xcertify.checks import whole_number
from xcertify.criteria import Within
from xcertify.inputs import in_batches, input_shape_of
from xcertify.logits import logits_of, two_classes
from xcertify.models import refuse_channels_first
from xcertify.radii import Interval, compare_bounds
from xcertify.regions import Ball, Region
from xcertify.smoothing import SmoothCopy, SmoothReLU

ATTRIBUTIONS = {
    "saliency": "gradient",
    "gradient_input": "gradient_input",
    "integrated_gradients": "integrated_gradients",
}
DEVIATIONS = ("euclidean", "cosine")

_MEMORY = 2**29  # bytes for matrices, or for the bases of Lanczos' method, at once
_NB_PROBES = 16
_NB_ASCENTS = 10
_NB_DESCENTS = {True: 8, False: 2}  # with and without the matrix


class AttributionBound(GradientExplainer, Certifying):
    """An attribution, an estimate of how far perturbations can move it, and a proof on request.

    The estimate is the paper's: the attribution is taken to be linear in the perturbation,
    ``g(x + delta) = g(x) + J delta``, and ``|J delta|`` is bounded. Beside it, `proved` gives what
    the bounds of `Verifier` prove of the same attribution, without that assumption.

    Parameters
    ----------
    model
        A Keras classifier, or any TensorFlow callable that returns logits. With piecewise linear
        activations such as ReLU it has no second derivative: give `beta`.
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
        Softplus for ReLU: everything (maps, estimates, proofs) is then about a copy of the model
        with ``softplus(beta z) / beta`` in place of every ReLU. The model itself is not touched.
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
    >>> explainer = AttributionBound(model, epsilon=0.05, beta=10.0, clip=(0.0, 1.0), proved=True)
    >>> maps = explainer.explain(images, labels)                   # (N, H, W, 1)
    >>> certificate = explainer.certify(images, labels)
    >>> certificate.euclidean_estimate, certificate.proved_euclidean   # (N,) each
    >>> explainer.epsilon_for(0.1, images, labels, deviation="cosine")
    """

    def __init__(
        self,
        model: keras.Model,
        epsilon: Any = 0.05,
        norm: float = 2,
        attribution: str | Explanation = "saliency",
        clip: tuple[Any, Any] | None = None,
        beta: float | None = None,
        *,
        steps: int = 20,
        baseline_value: Any = 0.0,
        proved: bool = False,
        method: str = "crown",
        nb_products: int = 40,
        tolerance: float = 1e-3,
        failure: float = 1e-6,
        largest_matrix: int = 4096,
        reducer: str = "mean",
        batch_size: int | None = 128,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(model, reducer=reducer, batch_size=batch_size, seed=seed, verbose=verbose)
        norm = math.inf if norm == "inf" else norm
        if isinstance(norm, bool) or not isinstance(norm, (int, float, np.number)) or not norm >= 2:
            raise ValueError(f"norm must be 2, a larger number or np.inf. Received: {norm!r}")
        if not callable(attribution) and attribution not in ATTRIBUTIONS:
            raise ValueError(
                f"attribution must be one of {', '.join(ATTRIBUTIONS)}, or a callable. "
                f"Received: {attribution!r}"
            )
        if beta is not None and not 0 < beta < math.inf:
            raise ValueError(f"beta must be a number above 0, or None. Received: {beta!r}")
        if not 0 < failure < 1 or not tolerance > 0:
            raise ValueError(
                f"failure must be a probability between 0 and 1 and tolerance positive. "
                f"Received: {failure!r}, {tolerance!r}"
            )
        if proved and callable(attribution):
            raise ValueError(
                f"proved=True needs an attribution by name: {', '.join(ATTRIBUTIONS)}. "
                f"Received: {attribution!r}"
            )
        if proved and norm not in (2, math.inf):
            raise ValueError(f"proved=True needs norm 2 or np.inf. Received: {norm!r}")
        self.epsilon, self.norm, self.attribution, self.clip = epsilon, norm, attribution, clip
        self.beta, self.proved, self.method = beta, proved, method
        self.steps, self.baseline_value = whole_number("steps", steps), baseline_value
        self.nb_products = whole_number("nb_products", nb_products)
        self.tolerance, self.failure = tolerance, failure
        self.largest_matrix = int(largest_matrix)

    @property
    def network(self) -> Any:
        """What is explained: the model, or with `beta` its copy with softplus for ReLU."""
        smooth = self._derive("smooth", self._smooth_copy)
        return self.model if smooth is None else smooth.model

    def _smooth_copy(self) -> SmoothCopy | None:
        if self.beta is not None and isinstance(self.model, keras.Model):
            smooth = SmoothCopy(self.model)
            smooth.beta.assign(self.beta)
            if any(isinstance(function, SmoothReLU) for _, function in _functions(smooth.model)):
                return smooth
        return None

    def _region(self, inputs: np.ndarray) -> Region:
        """The regions around inputs, of any norm p from 2 on."""
        epsilon = _as_points(self._epsilons(len(inputs)), inputs)
        if self.norm in (2, math.inf):
            return Ball(inputs, epsilon, self.norm, self.clip)
        box = Ball(inputs, epsilon, math.inf, self.clip)
        return Region(inputs, box.lower, box.upper, epsilon, self.norm, self.clip)

    def _certify(self, region: Region, weights: np.ndarray) -> DeviationCertificate:
        if self.proved:
            refuse_channels_first(self.model, "proved=True")
        self._refuse_without_curvature()
        given = region.center
        epsilon = self._epsilons(len(given))
        maps = self._of_features(given, weights)
        rates = self._rates(given, weights, maps.shape[1:])
        shifts = (rates.direction * _as_points(epsilon, given)).astype(np.float32)
        observed = self._observed(given, weights, maps, shifts)
        kept = self._keep_labels(given, shifts)
        estimate = epsilon * rates.upper
        ratio = np.divide(observed, estimate, out=np.ones(len(given)), where=estimate > 0)
        euclidean, cosine, arithmetic = None, None, "none"
        interval = Interval(np.full(len(given), np.inf), observed)
        if self.proved:
            euclidean, cosine, arithmetic = self._proofs(given, weights)
            attained = self._observed(given, weights, maps, shifts, region)
            interval = Interval(euclidean, attained.copy())
            attained -= relative_allowance(given[0].size) * (attained + _lengths(maps))
            what = "an attribution whose Euclidean distance is"
            compare_bounds(euclidean, attained, what=what, method=self.method, region=region)
        is_copy = self.network is not self.model
        return DeviationCertificate(
            region=region,
            method=f"first order; proved by {self.method}" if self.proved else "first order",
            arithmetic=arithmetic,
            interval=interval,
            epsilon=epsilon,
            explanation=maps,
            euclidean_estimate=estimate,
            singular_value_lower=rates.singular_lower,
            singular_value_upper=rates.singular_upper,
            decided=tuple(rates.decided.tolist()),
            factor=np.maximum(ratio, 1.0),
            direction=rates.direction,
            reached=epsilon * rates.lower,
            attained=kept.any(axis=0),
            proved_euclidean=euclidean,
            proved_cosine=cosine,
            targets=weights,
            network=f"a copy with softplus, beta {self.beta:g}" if is_copy else "the model",
            kinks=tuple(name for name, _ in _kinks(self.network)),
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
        given, weights = self._prepare(inputs, targets)
        threshold = np.asarray(threshold, np.float64)
        cosine = deviation == "cosine"
        fits = threshold.shape in ((), (len(given),)) and (threshold >= 0).all()
        if not fits or (cosine and not (threshold <= 1).all()):
            limits = "from 0 to 1" if cosine else "at least 0"
            raise ValueError(
                f"threshold must be a number {limits}, or one per input ({len(given)},). "
                f"Received: {threshold}"
            )
        self._refuse_without_curvature()
        maps = self._of_features(given, weights)
        lengths = _lengths(maps)
        if proved:
            refuse_channels_first(self.model, "proved=True")
            if cosine:
                criterion = Within(1 - threshold, "cosine")
            else:
                criterion = Within(threshold**2 / maps[0].size, "mse")
            radii = self._certified().radius(
                given, criterion, weights, largest=largest, attack=False
            )
            return radii.certified
        reach = lengths * np.sqrt(2 * threshold - threshold**2) if cosine else threshold
        rate = self._rates(given, weights, maps.shape[1:]).upper
        reach = np.broadcast_to(reach, rate.shape)
        return np.divide(reach, rate, out=np.full(len(given), np.inf), where=rate > 0)

    # --- the attribution ------------------------------------------------------------------------

    def explanation(self, model: Callable, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """The attribution as TensorFlow operations, in the form that `xcertify.attacks` takes.

        Parameters
        ----------
        model
            Gives logits (B, K); that of `network` for what is certified here.
        inputs, targets
            (B, *shape) and weights of the logits (B, K).

        Returns
        -------
        maps
            (B, *shape), or (B, *map) of a callable `attribution`.
        """
        explain = self.attribution
        return (explain if callable(explain) else self._certified().explanation)(
            model, inputs, targets
        )

    def _certified(self) -> CertifiedGradient:
        """The same attribution with proved bounds; made once, since it compiles."""
        epsilon = np.asarray(self.epsilon, np.float64)
        if epsilon.ndim:  # one per input, whatever their number
            epsilon = epsilon.reshape(-1, *[1] * len(input_shape_of(self.network) or ()))
        return self._derive(
            "certified",
            lambda: CertifiedGradient(
                self.network,
                epsilon,
                norm=self.norm if self.proved else math.inf,  # it takes no other p
                clip=self.clip,
                attribution=ATTRIBUTIONS[self.attribution],
                method=self.method,
                steps=self.steps,
                baseline_value=self.baseline_value,
                batch_size=self._nb_at_once,
                verbose=self.verbose,
            ),
        )

    def _proofs(self, inputs: np.ndarray, targets: Any) -> tuple[np.ndarray, np.ndarray, str]:
        """Proved Euclidean and cosine distances, (N,) each, and in which arithmetic."""
        certificate = self._certified().certify(inputs, targets)
        euclidean = np.sqrt(certificate.farthest("mse") * inputs[0].size)
        return euclidean, 1 - certificate.farthest("cosine"), certificate.arithmetic

    def _of_features(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return self._in_parts(self._maps, inputs, weights)

    def _resolve(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        # first in every call: a copy must not be made while a graph is traced, nor be outdated
        smooth = self._derive("smooth", self._smooth_copy)
        if smooth is not None:
            smooth.update()
        return super()._resolve(inputs, targets)

    def _logits_at(self, points: tf.Tensor) -> tf.Tensor:
        logits = self._derive("logits", lambda: logits_of(self.network, self._start))
        return tf.cast(logits(points), tf.float32)

    # --- graphs, for some points each -----------------------------------------------------------

    def _maps(self, inputs: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        return self.explanation(self._logits_at, inputs, weights)

    def _gram(self, inputs: tf.Tensor, weights: tf.Tensor, directions: tf.Tensor) -> tf.Tensor:
        """J^T J v, (B, *shape): forward over reverse, and reverse on the same evaluation."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            with tf.autodiff.ForwardAccumulator(inputs, directions) as accumulator:
                maps = self._maps(inputs, weights)
            image = accumulator.jvp(maps, tf.UnconnectedGradients.ZERO)
        return tape.gradient(maps, inputs, image, tf.UnconnectedGradients.ZERO)

    def _transposed(self, inputs: tf.Tensor, weights: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        """J^T u, (B, *shape)."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            maps = self._maps(inputs, weights)
        return tape.gradient(maps, inputs, outputs, tf.UnconnectedGradients.ZERO)

    def _linear_logits(self, inputs: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
        """Logits at the inputs and what a step adds to them to first order, (B, 2, K)."""
        with tf.autodiff.ForwardAccumulator(inputs, steps) as accumulator:
            logits = self._logits_at(inputs)
        return tf.stack([logits, accumulator.jvp(logits, tf.UnconnectedGradients.ZERO)], axis=1)

    def _in_parts(self, function: Callable, *arrays: np.ndarray) -> np.ndarray:
        """A graph of many points, `batch_size` at a time."""
        arrays = [array.astype(np.float32, copy=False) for array in arrays]
        specs = [((None, *array.shape[1:]), tf.float32) for array in arrays]
        compiled = self._compile(function, *specs)
        along = self.attribution == "integrated_gradients"
        size = max(1, self._nb_at_once // (self.steps if along else 1))
        pieces = zip(*(in_batches(array, size) for array in arrays))
        try:
            found = np.concatenate([compiled(*piece).numpy() for piece in pieces])
        except TypeError as error:
            if "variant" not in str(error):  # of the lists that a loop keeps
                raise
            raise ValueError(
                f"the model has a loop, such as that of a recurrent layer, through which "
                f"TensorFlow does not take the second derivatives that AttributionBound needs; "
                f"build the layer with unroll=True. Received: the model "
                f"{getattr(self.model, 'name', self.model)!r}"
            ) from error
        if not np.isfinite(found).all():
            raise ValueError(
                f"the attribution, or its derivative, is NaN or infinite at or near an input: look "
                f"for weights that are, for a root or a logarithm at 0, and for numbers beyond "
                f"those of float32. Received: the model {getattr(self.model, 'name', self.model)!r}"
            )
        return found

    def _climb(self, points: tf.Tensor, weights: tf.Tensor, maps: tf.Tensor) -> tf.Tensor:
        """Distances of the maps at some points to others, and their slopes, (B, 1 + d)."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(points)
            moved = self._maps(points, weights) - maps
            squares = tf.reduce_sum(tf.reshape(moved, (tf.shape(moved)[0], -1)) ** 2, axis=1)
        unconnected = tf.UnconnectedGradients.ZERO
        slopes = tape.gradient(squares, points, unconnected_gradients=unconnected)
        flat = tf.reshape(slopes, (-1, math.prod(points.shape[1:])))
        return tf.concat([tf.sqrt(squares)[:, None], flat], axis=1)

    def _observed(
        self,
        inputs: np.ndarray,
        weights: np.ndarray,
        maps: np.ndarray,
        steps: np.ndarray,
        inside: Region | None = None,
    ) -> np.ndarray:
        """Largest true deviation of two opposite steps and of an ascent from them, (N,).

        In the whole ball, up to roundings; or at points brought into a region.
        """
        centers, rows, originals = (np.concatenate([v, v]) for v in (inputs, weights, maps))
        steps = np.concatenate([steps, -steps])
        radii = np.concatenate([self._epsilons(len(inputs))] * 2)
        largest = np.zeros(len(steps))
        for _ in range(1 + _NB_ASCENTS):
            points = centers + steps
            if inside is not None:
                points = inside[np.arange(len(points)) % len(inputs)].project(points)
            found = self._in_parts(self._climb, points, rows, originals)
            largest = np.maximum(largest, found[:, 0])
            directions = quadratic_forms.steepest(found[:, 1:].astype(np.float64), self.norm)
            steps = _as_points(radii, inputs) * directions.reshape(steps.shape)
        return largest.reshape(2, -1).max(axis=0)

    # --- estimates ------------------------------------------------------------------------------

    def _rates(self, inputs: np.ndarray, weights: np.ndarray, map_shape: tuple) -> _Rates:
        """Deviations to first order for epsilon 1."""
        nb_features = inputs[0].size
        whole = self.norm > 2 and nb_features <= self.largest_matrix
        bytes_each = 8 * nb_features * (5 * nb_features if whole else 2 * (self.nb_products + 1))
        if self.norm > 2 and not whole:
            bytes_each *= quadratic_forms.NB_CANDIDATES
        found = []
        with tqdm(total=len(inputs), unit="input", disable=not self.verbose) as progress:
            for part in in_batches(np.arange(len(inputs)), max(1, _MEMORY // bytes_each)):
                some = inputs[part], weights[part]
                if self.norm == 2:
                    found.append(self._by_singular_value(*some))
                else:
                    found.append(self._by_duals(*some, map_shape, whole))
                progress.update(len(part))
        upper, lower, direction, *others = (np.concatenate(values) for values in zip(*found))
        return _Rates(upper, lower, direction.reshape(inputs.shape), *others)

    def _by_singular_value(self, inputs: np.ndarray, weights: np.ndarray) -> _Rates:
        """Theorem 1, without J."""
        multiply = self._products(inputs, weights)
        flat = len(inputs), inputs[0].size
        found = quadratic_forms.largest_eigenvalue(multiply, flat, **self._settings())
        lower, upper = np.sqrt(found.lower), np.sqrt(found.upper)
        decided = np.full(len(inputs), "theorem 1")
        return _Rates(upper, lower, found.vector, lower, upper, decided)

    def _by_duals(
        self, inputs: np.ndarray, weights: np.ndarray, map_shape: tuple, whole: bool
    ) -> _Rates:
        """The least of Corollary 1, Theorem 2 and the dual; of J^T J if it is computed whole."""
        flat = len(inputs), inputs[0].size
        if whole:
            matrix = self._matrix(inputs, weights, map_shape)
            sums = np.abs(matrix).sum(axis=-1)

            def multiply(vectors: np.ndarray) -> np.ndarray:
                return np.matmul(vectors.reshape(flat[0], -1, flat[1]), matrix).reshape(
                    vectors.shape
                )

        else:
            matrix, multiply = None, self._products(inputs, weights)
            sums = self._diagonals(inputs, weights, map_shape)
        bound, decided, plain = quadratic_forms.least_dual(
            multiply,
            flat,
            self.norm,
            sums,
            matrix=matrix,
            nb_descents=_NB_DESCENTS[whole],
            **self._settings(),
        )
        value, direction = quadratic_forms.ascent(multiply, plain.vector, self.norm)
        names = np.array(quadratic_forms.NAMES)[decided]
        roots = (np.sqrt(part) for part in (bound, value))
        return _Rates(*roots, direction, np.sqrt(plain.lower), np.sqrt(plain.upper), names)

    def _products(self, inputs: np.ndarray, weights: np.ndarray) -> quadratic_forms.Product:
        """(B, ..., d) -> (B, ..., d), products with J^T J."""

        def multiply(vectors: np.ndarray) -> np.ndarray:
            times = vectors.size // inputs.size
            points, rows = (np.repeat(array, times, axis=0) for array in (inputs, weights))
            image = self._in_parts(self._gram, points, rows, vectors.reshape(points.shape))
            return image.reshape(vectors.shape)

        return multiply

    def _matrix(self, inputs: np.ndarray, weights: np.ndarray, map_shape: tuple) -> np.ndarray:
        """J^T J of each input, (B, d, d) float64, from the rows of J."""
        units = np.eye(math.prod(map_shape), dtype=np.float32).reshape(-1, *map_shape)
        jacobian = self._pulled_back(inputs, weights, units).astype(np.float64)
        return np.matmul(np.swapaxes(jacobian, 1, 2), jacobian)

    def _diagonals(self, inputs: np.ndarray, weights: np.ndarray, map_shape: tuple) -> np.ndarray:
        """Diagonals of J^T J, (B, d), estimated with random signs (Hutchinson)."""
        generator = np.random.default_rng(self.seed)
        signs = generator.choice(np.array([-1, 1], np.float32), (_NB_PROBES, *map_shape))
        return (self._pulled_back(inputs, weights, signs).astype(np.float64) ** 2).mean(axis=1)

    def _pulled_back(
        self, inputs: np.ndarray, weights: np.ndarray, outputs: np.ndarray
    ) -> np.ndarray:
        """J^T u of each input for every one of `outputs` (M, *map), (B, M, d)."""
        points, rows = (np.repeat(array, len(outputs), axis=0) for array in (inputs, weights))
        wanted = np.tile(outputs, (len(inputs), *[1] * (outputs.ndim - 1)))
        pulled = self._in_parts(self._transposed, points, rows, wanted)
        return pulled.reshape(len(inputs), len(outputs), -1)

    def _settings(self) -> dict[str, Any]:
        """Of `quadratic_forms.largest_eigenvalue`."""
        return {
            "nb_products": self.nb_products,
            "tolerance": 2 * self.tolerance,  # of its square
            "failure": self.failure,
            "seed": self.seed,
        }

    def _keep_labels(self, inputs: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Whether a step, and the opposite one, leave the class as it is to first order, (2, B)."""
        logits, slopes = np.moveaxis(self._in_parts(self._linear_logits, inputs, steps), 1, 0)
        logits, slopes = (two_classes(tf.constant(v)).numpy() for v in (logits, slopes))
        before = logits.argmax(axis=1)
        return np.array([(logits + sign * slopes).argmax(axis=1) == before for sign in (1, -1)])

    def _epsilons(self, nb_inputs: int) -> np.ndarray:
        epsilon = np.asarray(self.epsilon, np.float64)
        fits = epsilon.shape in ((), (nb_inputs,)) and np.isfinite(epsilon).all()
        if not fits or not (epsilon >= 0).all():
            raise ValueError(
                f"epsilon must be a finite number of at least 0, or one per input ({nb_inputs},). "
                f"Received: {self.epsilon!r}"
            )
        return np.broadcast_to(epsilon, (nb_inputs,)).copy()

    def _refuse_without_curvature(self) -> None:
        """A ValueError for layers whose second derivative is zero almost everywhere."""
        for name, facts in _kinks(self.network):
            if facts is None or not facts.piecewise_linear:
                continue
            cure = "give beta=, such as beta=10.0, for a copy of the model with softplus instead"
            if self.beta is not None:
                cure = "beta replaces ReLU and LeakyReLU only: use one of them, or a smooth one"
            raise ValueError(
                f"the activation {facts.name} of the layer '{name}' has a second derivative of "
                f"zero almost everywhere, so that the estimate would miss how the attribution "
                f"changes; {cure}. Received: beta={self.beta!r}"
            )


class _Rates(NamedTuple):
    """For epsilon 1, (N,) but for the direction: the deviation to first order, from both sides."""

    upper: np.ndarray
    lower: np.ndarray
    direction: np.ndarray
    singular_lower: np.ndarray
    singular_upper: np.ndarray
    decided: np.ndarray


# --- which layers have no second derivative -----------------------------------------------------

_RECTIFIERS = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.PReLU)
_OPERATIONS = {
    **dict.fromkeys(("Relu", "ReLU", "LeakyRelu"), activations.RELU),
    "Relu6": activations.RELU6,
}
_SELECTIONS = ("MaxPooling", "GlobalMaxPooling", "Maximum", "Minimum", "Absolute")


def _functions(model: Any) -> Iterator[tuple[keras.Layer, Any]]:
    """Layers and nodes of a Keras model, nested ones too, each with its activation or None."""
    for layer in getattr(model, "operations", getattr(model, "layers", ())):
        if isinstance(layer, keras.Model):
            yield from _functions(layer)
        elif isinstance(layer, SmoothReLU):
            yield layer, layer
        else:
            yield layer, getattr(layer, "activation", None)


def _kinks(model: Any) -> Iterator[tuple[str, Activation | None]]:
    """Names of layers whose derivative jumps, with the facts of their activation if it does."""
    for layer, function in _functions(model):
        facts = ACTIVATIONS.get(keras_activation(function)) if callable(function) else None
        if isinstance(layer, _RECTIFIERS):
            facts = activations.RELU
        facts = _OPERATIONS.get(type(layer).__name__, facts)
        if facts is not None and facts.kinks and facts.slope is None:
            yield layer.name, facts
        elif type(layer).__name__.startswith(_SELECTIONS):
            yield layer.name, None


def _lengths(values: np.ndarray) -> np.ndarray:
    return np.linalg.norm(values.reshape(len(values), -1).astype(np.float64), axis=1)


def _as_points(values: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """(N,) with as many axes as the inputs."""
    return values.reshape(-1, *[1] * (inputs.ndim - 1))
