"""CertifiedGradient: explanations by gradients, and proved bounds of all that they can become.

Source: Wicker et al., Robust Explanation Constraints for Neural Networks, ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from xcertify.attacks import CriterionAttack, WeightCriterionAttack
from xcertify.attributions.base import Certifying
from xcertify.attributions.gradients import GradientExplainer
from xcertify.bounds import Verifier
from xcertify.bounds.propagation.gradient import GRADIENT_METHODS
from xcertify.certificates import GradientCertificate, RadiusCertificate, fingerprint
from xcertify.checks import whole_number
from xcertify.criteria import Criterion, farthest
from xcertify.inputs import in_batches, spread_value
from xcertify.models import gradient_by, refuse_channels_first
from xcertify.radii import Interval, RadiusSearch, compare_radii
from xcertify.regions import Ball, Region, as_column, as_norm
from xcertify.settings import setting_names
from xcertify.targets import target_classes

LOSSES = ("logit", "cross-entropy")
ATTRIBUTIONS = ("gradient", "gradient_input", "integrated_gradients", "smoothgrad")
PATHS = ("sum", "integral")

_SMALLEST = 2.0**-16  # the smallest radius that is tried, as a share of the largest
_NB_ATTACKS = 6


class CertifiedGradient(GradientExplainer, Certifying):
    """The gradient, or an explanation made of gradients, with proved bounds of how it can change.

    Parameters
    ----------
    model
        A Keras model that `Verifier` can bound, with derivatives that are bounded. Softmax or
        sigmoid at its end is left out.
    epsilon
        How far inputs may move, in units of the inputs: a scalar or as for `Ball`.
    gamma
        How far weights may move: each within [w - gamma |w|, w + gamma |w|].
    norm
        inf, 2 or 1, of the region of inputs.
    clip
        Valid range of the inputs, (low, high); None: no limits.
    loss
        What is differentiated: "logit" (the target's; for weights (N, K) as targets their sum with
        the logits) or "cross-entropy" (of the target class).
    attribution
        "gradient"; "gradient_input", times the input; "integrated_gradients", the mean gradient on
        the way from `baseline_value` times that way; "smoothgrad", the mean gradient at noisy
        copies, with noise that `seed` fixes and that is the same for every input.
    method
        How to bound: "crown" (tightest), "crown-ibp", "crown-interval", "interval" (cheapest, the
        paper's); see `Verifier.bound_gradient`.
    bias_radius
        Radius of the biases; None: as `gamma` says.
    steps
        Points on the way of integrated gradients, in the middle of equal pieces.
    path
        "sum": bounds hold for the mean over these points, as `explain` computes it. "integral": the
        pieces are enclosed whole, so that bounds hold for the integral too, and are wider.
    baseline_value
        Where the way begins: a number, or an array of the shape of one input.
    nb_samples, noise
        Number of noisy copies, and the standard deviation of their noise.
    reducer
        How the channels of an image become one value in `explain`: "mean", "max", "min" or "sum".
        Certificates are about all features.
    batch_size
        Most points whose gradients are taken or bounded at once.
    seed
        Of the noise, and of attacks.
    verbose
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        For an unknown loss, attribution, method or path, and for inputs outside `clip`.
    UnsupportedLayerError
        At the first certificate, for a layer whose derivative, or whose weights, cannot be bounded.

    Guarantee
    ---------
    Of `certify` and `radius`: no point of the region, and no weights near the model's, have an
    explanation outside of the certificate, in real arithmetic, whatever subgradient is taken at a
    kink; see `Verifier.bound_gradient` and `GradientCertificate`. The map of `explain` itself is
    the ordinary one and proves nothing.

    References
    ----------
    Wicker et al.: Robust Explanation Constraints for Neural Networks, ICLR 2023.

    Examples
    --------
    >>> explainer = CertifiedGradient(model, epsilon=0.01, clip=(0.0, 1.0))
    >>> maps = explainer.explain(images, labels)             # (N, H, W, 1)
    >>> certificate = explainer.certify(images, labels)
    >>> certificate.within(0.5), certificate.signs           # (N,) bool, (N, H, W, C) int8
    >>> explainer.radius(images, Within(0.5), labels)        # largest certified epsilon
    """

    def __init__(
        self,
        model: keras.Model,
        epsilon: Any = 0.01,
        gamma: Any = 0.0,
        norm: float = np.inf,
        clip: tuple[Any, Any] | None = None,
        loss: str = "logit",
        attribution: str = "gradient",
        method: str = "crown",
        *,
        bias_radius: float | None = None,
        steps: int = 20,
        path: str = "sum",
        baseline_value: Any = 0.0,
        nb_samples: int = 20,
        noise: float = 0.1,
        reducer: str = "mean",
        batch_size: int | None = 64,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        for name, value, names in [
            ("loss", loss, LOSSES),
            ("attribution", attribution, ATTRIBUTIONS),
            ("method", method, GRADIENT_METHODS),
            ("path", path, PATHS),
        ]:
            if value not in names:
                raise ValueError(f"{name} must be one of {', '.join(names)}. Received: {value!r}")
        if not noise >= 0:
            raise ValueError(f"noise must be a standard deviation, at least 0. Received: {noise!r}")
        super().__init__(model, reducer=reducer, batch_size=batch_size, seed=seed, verbose=verbose)
        self.epsilon, self.gamma, self.bias_radius = epsilon, gamma, bias_radius
        self.norm, self.clip, self.loss = as_norm(norm), clip, loss
        self.attribution, self.method, self.path = attribution, method, path
        self.steps, self.baseline_value = whole_number("steps", steps), baseline_value
        self.nb_samples, self.noise = whole_number("nb_samples", nb_samples), noise

    def _certify(self, region: Ball, weights: np.ndarray) -> GradientCertificate:
        inputs = region.center
        lower, upper = self._bounds(inputs, weights, self.epsilon, self.gamma)
        explanation = self._of_features(inputs, weights)
        return GradientCertificate(
            region=region,
            method=self.method,
            arithmetic=self._verifier("float32").guarantee,
            interval=Interval(farthest(lower, upper, explanation, "l2_ratio")),
            lower=lower,
            upper=upper,
            explanation=explanation,
            targets=weights,
            settings=self._settings(),
            fingerprint=fingerprint(self.model),
        )

    def recheck(self, certificate: GradientCertificate) -> np.ndarray:
        """Bounds computed anew in float64: where they lie within those of a certificate, (N,) bool.

        See `GradientCertificate.recheck`.
        """
        arguments = (certificate.inputs, certificate.targets, self.epsilon, self.gamma)
        lower, upper = self._bounds(*arguments, dtype="float64")
        inside = (certificate.lower <= lower) & (upper <= certificate.upper)
        return inside.reshape(len(inside), -1).all(axis=1)

    def radius(
        self,
        inputs: Any,
        criterion: Criterion,
        targets: Any = None,
        *,
        varied: str = "epsilon",
        largest: float = 1.0,
        nb_halvings: int = 10,
        attack: bool = True,
        attack_steps: int = 20,
    ) -> RadiusCertificate:
        """The largest radius of a region on which a criterion is proved, and the least attacked.

        Bisection of the logarithm of the radius, of all inputs at once; the largest radius that was
        tried and proved is returned, so that it does not matter that bounds are not monotone.

        Parameters
        ----------
        inputs, targets
            As for `explain`.
        criterion
            One of `xcertify.criteria`: `Within`, `Excludes`, `KeepsTop`, `KeepsOut`, `KeepsSigns`.
        varied
            "epsilon": the region of inputs grows, `gamma` stays. "gamma": the region of weights
            grows, `epsilon` stays.
        largest
            Radius to stop at. Radii below ``largest / 65536`` count as 0.
        nb_halvings
            Number of bisections; 10 find the radius to one percent.
        attack
            Whether to look for the least radius at which the criterion can be broken: by projected
            gradient ascent on the same explanation (on a copy with softplus for ReLU); for "gamma"
            in the weights, with weights of its own for each input.
        attack_steps
            Gradient steps of each attack, for each of three softplus.

        Returns
        -------
        radii
            `certified` and `attacked`, (N,).

        Raises
        ------
        ValueError
            For arguments that do not fit, and as `certify`.
        ContradictionError
            If an attack breaks the criterion within a certified radius, where it is looked for,
            too: a bug, to be reported.

        Guarantee
        ---------
        Of `certified`, as for `certify`. `attacked` is broken by a point, or by weights, found in
        float32 and beyond what it can be expected to round; for a point it is not proved in float64
        that the criterion holds there. No larger radius can be certified.
        """
        if varied not in ("epsilon", "gamma"):
            raise ValueError(f"varied must be 'epsilon' or 'gamma'. Received: {varied!r}")
        if not largest > 0:
            raise ValueError(f"largest must be above 0. Received: {largest!r}")
        refuse_channels_first(self.model, "CertifiedGradient.radius")
        inputs, weights = self._prepare(inputs, targets)
        original = self._of_features(inputs, weights)

        search = RadiusSearch(
            np.full(len(inputs), largest * _SMALLEST),
            largest,
            nb_halvings=nb_halvings,
            test_low=True,
            test_high="first",
            whole=True,
        )
        for _, radius in search:
            radii = self._radii(radius if varied == "gamma" else as_column(radius, inputs), varied)
            search.answer(criterion.holds(*self._bounds(inputs, weights, *radii), original))
        certified = search.held
        region = Ball(inputs, self.epsilon, self.norm, self.clip)
        region = region.resized(certified) if varied == "epsilon" else region
        attacked = None
        if attack:
            look = self._attacked_epsilon if varied == "epsilon" else self._attacked_gamma
            attacked = look(inputs, weights, original, criterion, certified, largest, attack_steps)
            compare_radii(
                certified,
                attacked,
                what=f"an explanation that breaks {criterion!r}",
                method=self.method,
                region=region,
            )
        return RadiusCertificate(
            region=region,
            method=self.method,
            arithmetic=self._verifier("float32").guarantee,
            interval=Interval(certified, attacked),
            varied=varied,
            criterion=repr(criterion),
        )

    # --- the explanation ------------------------------------------------------------------------

    def explanation(self, model: Any, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """The explanation as TensorFlow operations, in the form that `xcertify.attacks` takes.

        Parameters
        ----------
        model
            Gives logits (B, K).
        inputs, targets
            (B, *shape) and weights of the logits (B, K).

        Returns
        -------
        maps
            (B, *shape).
        """
        shape = inputs.shape[1:]
        scales, shifts = self._variants(tuple(shape))
        nb_variants = len(scales)
        along = (1, nb_variants, *[1] * len(shape))
        points = inputs[:, None] * tf.cast(scales.reshape(along), inputs.dtype)
        points = tf.reshape(points + tf.cast(shifts, inputs.dtype), (-1, *shape))
        weights = tf.repeat(tf.cast(targets, inputs.dtype), nb_variants, axis=0)
        with tf.GradientTape() as tape:
            tape.watch(points)
            score = tf.reduce_sum(self._score(tf.cast(model(points), inputs.dtype), weights))
        gradients = tf.reshape(gradient_by(tape, score, points), (-1, nb_variants, *shape))
        maps = tf.reduce_mean(gradients, axis=1)
        baseline = self._baseline(tuple(shape))
        return maps if baseline is None else maps * (inputs - tf.cast(baseline, inputs.dtype))

    def _score(self, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        if self.loss == "logit":
            return logits * weights
        if logits.shape[-1] == 1:
            labels = tf.cast(weights > 0, logits.dtype)
            return tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
        return tf.nn.softmax_cross_entropy_with_logits(weights, logits)

    def _variants(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Scales (V,) and shifts (V, *shape) of the points at which gradients are taken."""
        if self.attribution == "integrated_gradients":
            scales = (np.arange(self.steps, dtype=np.float32) + 0.5) / self.steps
            away = (1 - scales).reshape(-1, *[1] * len(shape))
            return scales, away * self._baseline(shape)
        if self.attribution == "smoothgrad":
            generator = np.random.default_rng(self.seed)
            noise = generator.standard_normal((self.nb_samples, *shape), np.float32)
            return np.ones(self.nb_samples, np.float32), noise * np.float32(self.noise)
        return np.ones(1, np.float32), np.zeros((1, *shape), np.float32)

    def _baseline(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """What is subtracted from the input before it is multiplied with; None for gradients."""
        if self.attribution in ("gradient", "smoothgrad"):
            return None
        value = 0.0 if self.attribution == "gradient_input" else self.baseline_value
        return spread_value("baseline_value", value, (1, *shape), per_sample=False)

    def _resolve(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        """Weights of the logits, (N, K) float32."""
        if self.loss == "logit":
            return super()._resolve(inputs, targets)
        logits = self._logits(inputs)
        classes = target_classes(logits, targets)
        if logits.shape[1] == 1:
            return np.where(classes == 1, 1, -1).astype(np.float32)[:, None]
        return np.eye(logits.shape[1], dtype=np.float32)[classes]

    def _of_features(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        maps = self._compile(
            self._maps,
            ((None, *inputs.shape[1:]), tf.float32),
            ((None, weights.shape[1]), tf.float32),
        )
        size = max(1, self._nb_at_once // len(self._variants(inputs.shape[1:])[0]))
        pairs = zip(in_batches(inputs, size), in_batches(weights, size))
        return np.concatenate([maps(*pair).numpy() for pair in pairs])

    def _maps(self, inputs: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        return self.explanation(self._logits_at, inputs, weights)

    # --- bounds ---------------------------------------------------------------------------------

    def _verifier(self, dtype: str) -> Verifier:
        return self._derive(
            ("verifier", dtype),
            lambda: Verifier(self.model, dtype=dtype, logits=True, start_layer=self._start),
        )

    def _bounds(
        self,
        inputs: np.ndarray,
        weights: np.ndarray,
        epsilon: Any,
        gamma: Any,
        dtype: str = "float32",
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the explanations, (N, *shape) each."""
        region = Ball(inputs, epsilon, self.norm, self.clip)
        gamma = np.broadcast_to(np.asarray(gamma, np.float64), len(inputs))
        nb_variants = len(self._variants(region.shape)[0])
        totals = np.zeros((2, *inputs.shape))
        pairs = np.arange(len(inputs) * nb_variants)
        with tqdm(total=len(pairs), unit="region", disable=not self.verbose) as progress:
            for part in in_batches(pairs, self._nb_at_once):
                sample, variant = np.divmod(part, nb_variants)
                sides = self._verifier(dtype).bound_gradient(
                    self._moved(region, sample, variant),
                    method=self.method,
                    gamma=gamma[sample],
                    bias_radius=self.bias_radius,
                    **self._rows(weights[sample]),
                )
                for total, side in zip(totals, sides):
                    np.add.at(total, sample, side[:, 0].astype(np.float64))
                progress.update(len(part))
        totals /= nb_variants
        baseline = self._baseline(region.shape)
        if baseline is not None:
            factors = [side.astype(np.float64) - baseline for side in (region.lower, region.upper)]
            with np.errstate(invalid="ignore"):  # bounds that overflowed are infinite
                corners = [total * factor for total in totals for factor in factors]
            lowest, highest = np.min(corners, axis=0), np.max(corners, axis=0)
            lowest = np.where(np.isnan(lowest), -np.inf, lowest)
            totals = np.stack([lowest, np.where(np.isnan(highest), np.inf, highest)])
        if nb_variants > 1 or baseline is not None:  # roundings of float64
            slack = 1e-12 * np.abs(totals)
            totals = [totals[0] - slack[0], totals[1] + slack[1]]
        with np.errstate(over="ignore"):  # to infinity, which is a bound
            return Region(inputs, *totals).sides(dtype)

    def _at(self, points: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sides of the explanations at single points, with the weights as they are, in float64."""
        settings = {name: getattr(self, name) for name in setting_names(CertifiedGradient)}
        settings |= {"epsilon": 0.0, "gamma": 0.0, "bias_radius": None, "norm": np.inf}
        settings |= {"clip": None, "path": "sum", "method": "interval", "verbose": False}
        explainer = self._derive("exact", lambda: CertifiedGradient(**settings))
        return explainer._bounds(points, weights, 0.0, 0.0, dtype="float64")

    def _rows(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """What `Verifier.bound_gradient` is asked for."""
        if self.loss == "logit":
            return {"rows": weights[:, None]}
        single = weights.shape[1] == 1
        return {"labels": (weights[:, 0] > 0).astype(int) if single else weights.argmax(axis=1)}

    def _moved(self, region: Region, sample: np.ndarray, variant: np.ndarray) -> Region:
        """The regions around the points of pairs of a sample and a variant, in float64."""
        scales, shifts = (v.astype(np.float64) for v in self._variants(region.shape))
        along = (-1, *[1] * len(region.shape))
        some = region[sample]
        sides = [s.astype(np.float64) for s in (some.center, some.lower, some.upper)]
        whole = self.attribution == "integrated_gradients" and self.path == "integral"
        if whole:
            # From one end of the piece to the other, whatever the point of the region.
            baseline = self._baseline(region.shape).astype(np.float64)
            ends = [(variant + end).reshape(along) / len(scales) for end in (0, 1)]
            points = [baseline + end * (s - baseline) for end in ends for s in sides[1:]]
            lower, upper = np.min(points, axis=0), np.max(points, axis=0)
            center = np.clip((lower + upper) / 2, lower, upper)
            return Region(center, *_outward(lower, upper))
        scale = scales[variant].reshape(along)
        center, lower, upper = (scale * side + shifts[variant] for side in sides)
        epsilon = None if some.epsilon is None else some.epsilon * scale * (1 + 1e-15)
        return Region(center, *_outward(lower, upper), epsilon, region.norm)

    def _settings(self) -> dict[str, Any]:
        """Arguments of the constructor that decide what is certified, ready for JSON."""
        names = ("epsilon", "gamma", "norm", "clip", "loss", "attribution", "method")
        names += ("bias_radius", "steps", "path", "baseline_value", "nb_samples", "noise", "seed")
        settings = {name: getattr(self, name) for name in names}

        def plain(value: Any) -> Any:
            if isinstance(value, (tuple, list)):
                return [plain(one) for one in value]
            is_number = isinstance(value, (np.ndarray, np.generic))
            return value.tolist() if is_number else value

        return {name: plain(value) for name, value in settings.items()}

    # --- radii ----------------------------------------------------------------------------------

    def _radii(self, radius: Any, varied: str) -> tuple[Any, Any]:
        """Epsilon and gamma, of which one is the radius."""
        if varied == "gamma":
            return self.epsilon, radius
        return radius, self.gamma

    def _attacked_epsilon(
        self,
        inputs: np.ndarray,
        weights: np.ndarray,
        original: np.ndarray,
        criterion: Criterion,
        certified: np.ndarray,
        largest: float,
        steps: int,
    ) -> np.ndarray:
        """Least radius of the region at which the criterion was broken, by bisection."""
        nb_variants = len(self._variants(inputs.shape[1:])[0])
        attack = CriterionAttack(
            self.model,
            self.explanation,
            criterion,
            original,
            weights,
            steps=steps,
            batch_size=max(1, 4 * self._nb_at_once // nb_variants),
            seed=self.seed,
            exact=lambda points, samples: self._at(points, weights[samples]),
        )

        def broken(radius: np.ndarray) -> np.ndarray:
            region = Ball(inputs, as_column(radius, inputs), self.norm, self.clip)
            return attack.breaks(attack(region))

        return _least_broken(broken, certified, largest)

    def _attacked_gamma(
        self,
        inputs: np.ndarray,
        weights: np.ndarray,
        original: np.ndarray,
        criterion: Criterion,
        certified: np.ndarray,
        largest: float,
        steps: int,
    ) -> np.ndarray:
        """Least relative change of the weights, of each input its own, that broke the criterion."""
        attack = WeightCriterionAttack(
            self.model,
            self.explanation,
            criterion,
            inputs,
            original,
            weights,
            bias_radius=self.bias_radius,
            steps=steps,
            seed=self.seed,
        )
        return _least_broken(lambda radius: attack.breaks(attack(radius)), certified, largest)


def _least_broken(
    broken: Callable[[np.ndarray], np.ndarray], certified: np.ndarray, largest: float
) -> np.ndarray:
    """Least radii (N,) that were tried and broken, the certified ones among them, by bisection."""
    search = RadiusSearch(
        np.maximum(certified, largest * _SMALLEST),
        largest,
        nb_halvings=_NB_ATTACKS - 1,
        test_low=certified > 0,  # nothing should be found there
        test_high="first",
        whole=True,
    )
    for _, radii in search:
        search.answer(~broken(radii))
    return search.broken


def _outward(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sides moved outward by more than the roundings of a few operations in float64."""
    slack = 1e-15 * (np.abs(lower) + np.abs(upper)) + 1e-300
    return lower - slack, upper + slack
