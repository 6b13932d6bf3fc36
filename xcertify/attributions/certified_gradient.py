"""CertifiedGradient: explanations by gradients, and proved bounds of all that they can become.

Source: Wicker et al., Robust Explanation Constraints for Neural Networks, ICLR 2023.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attributions.base import Certifying
from xcertify.attributions.gradient_means import (
    ATTRIBUTIONS,
    LOSSES,
    PATHS,
    GradientMean,
    bound_explanations,
    gradient_mean,
)
from xcertify.attributions.gradient_radii import (
    SMALLEST,
    VARIED,
    Claim,
    attacked_radii,
    proved_radii,
)
from xcertify.attributions.gradients import GradientExplainer
from xcertify.bounds import Verifier, gradient_method
from xcertify.certificates import GradientCertificate, RadiusCertificate, fingerprint
from xcertify.checks import whole_number
from xcertify.criteria import Criterion, farthest
from xcertify.inputs import in_batches
from xcertify.logits import classes_of
from xcertify.models import refuse_channels_first
from xcertify.perturbation import as_outside
from xcertify.radii import Interval, compare_radii
from xcertify.regions import Ball, Region, as_norm
from xcertify.settings import setting_names

_NB_CORNERS = 4  # at which explanations are looked at, for `looseness`


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
        How to bound: "crown" (tightest), "crown-ibp", "ibp-crown", "ibp" (intervals: cheapest, the
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
    outside
        What becomes of inputs outside `clip`, as for `EVA`.
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
        reducer: str | None = "mean",
        outside: str = "error",
        batch_size: int | None = 64,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        for name, value, names in [
            ("loss", loss, LOSSES),
            ("attribution", attribution, ATTRIBUTIONS),
            ("path", path, PATHS),
        ]:
            if value not in names:
                raise ValueError(f"{name} must be one of {', '.join(names)}. Received: {value!r}")
        if not noise >= 0:
            raise ValueError(f"noise must be a standard deviation, at least 0. Received: {noise!r}")
        super().__init__(model, reducer=reducer, batch_size=batch_size, seed=seed, verbose=verbose)
        self.epsilon, self.gamma, self.bias_radius = epsilon, gamma, bias_radius
        self.norm, self.clip, self.loss = as_norm(norm), clip, loss
        self.outside = as_outside(outside)
        self.attribution, self.path = attribution, path
        self.method = gradient_method(method, stacklevel=4)  # whoever calls the class
        self.steps, self.baseline_value = whole_number("steps", steps), baseline_value
        self.nb_samples, self.noise = whole_number("nb_samples", nb_samples), noise

    @property
    def _method_before(self) -> str:
        return "crown"  # of the network; `method` is of its gradient

    def _certify(self, region: Ball, weights: np.ndarray) -> GradientCertificate:
        lower, upper = self._bounds(region, weights)
        explanation = self._of_features(region.center, weights)
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
            attained=self._attained(region, weights, explanation),
        )

    def _attained(self, region: Ball, weights: np.ndarray, explanation: np.ndarray) -> np.ndarray:
        """The largest distance, in units of its length, to the explanation at some corners.

        NaN where weights may move, too: nobody looked at what they attain.
        """
        if np.any(self.gamma) or self.bias_radius:
            return np.full(len(region), np.nan)
        found = [
            self._of_features(corners, weights)
            for corners in region.corners(_NB_CORNERS, self.seed)
        ]
        distances = [farthest(maps, maps, explanation, "l2_ratio") for maps in found]
        return np.max(distances, axis=0).astype(np.float64)

    def recheck(self, certificate: GradientCertificate) -> np.ndarray:
        """Bounds computed anew in float64: where they lie within those of a certificate, (N,) bool.

        Over the regions of the certificate, with the settings of this explainer;
        `xcertify.recheck.recheck` makes the explainer that the certificate names.
        """
        lower, upper = self._bounds(certificate.region, certificate.targets, "float64")
        inside = (certificate.lower <= lower) & (upper <= certificate.upper)
        return np.all(inside.reshape(len(inside), -1), axis=1)

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
        if varied not in VARIED:
            raise ValueError(f"varied must be 'epsilon' or 'gamma'. Received: {varied!r}")
        if not largest > 0:
            raise ValueError(f"largest must be above 0. Received: {largest!r}")
        refuse_channels_first(self.model, "CertifiedGradient.radius")
        inputs, weights = self._prepare(inputs, targets)
        region = self._region(inputs)
        least = region.resized(np.full(len(inputs), largest * SMALLEST))
        self._warn_before(least if varied == "epsilon" else region)
        claim = Claim(
            criterion,
            self._mean(inputs.shape[1:]),
            weights,
            original=self._of_features(inputs, weights),
            region=region,
            varied=varied,
            gamma=self.gamma,
            bias_radius=self.bias_radius,
            largest=largest,
        )
        verifier, size = self._verifier("float32"), self._nb_at_once
        certified = proved_radii(
            claim,
            verifier,
            method=self.method,
            nb_halvings=nb_halvings,
            batch_size=size,
            verbose=self.verbose,
        )
        attacked = None
        if attack:
            exact, settings = self._verifier("float64"), {"steps": attack_steps, "seed": self.seed}
            attacked = attacked_radii(
                claim, self.model, exact, certified, batch_size=size, **settings
            )
            what, where = f"an explanation that breaks {criterion!r}", claim.describe(certified)
            compare_radii(certified, attacked, what=what, method=self.method, region=where)
        found = RadiusCertificate(
            region=claim.at(certified)[0],
            method=self.method,
            arithmetic=verifier.guarantee,
            interval=Interval(certified, attacked),
            varied=varied,
            settings=self._settings(),
            targets=weights,
            search={
                "largest": float(largest),
                "nb_halvings": int(nb_halvings),
                "attack_steps": int(attack_steps),
            },
            **RadiusCertificate.asking(criterion, inputs.shape),
        )
        return self._given_out(found)

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
        return self._mean(tuple(inputs.shape[1:])).maps(model, inputs, targets)

    def _mean(self, shape: tuple[int, ...]) -> GradientMean:
        """The explanation of inputs of a shape."""
        names = ("loss", "steps", "path", "baseline_value", "nb_samples", "noise", "seed")
        settings = {name: getattr(self, name) for name in names}
        return self._derive(
            ("mean", shape), lambda: gradient_mean(self.attribution, shape, **settings)
        )

    def _resolve(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        """Weights of the logits, (N, K) float32."""
        if self.loss == "logit":
            return super()._resolve(inputs, targets)
        logits = self._logits(inputs)
        classes = classes_of(self.model, logits, targets)
        if logits.shape[1] == 1:
            return np.where(classes == 1, 1, -1).astype(np.float32)[:, None]
        return np.eye(logits.shape[1], dtype=np.float32)[classes]

    def _of_features(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        maps = self._compile(
            self._maps,
            ((None, *inputs.shape[1:]), tf.float32),
            ((None, weights.shape[1]), tf.float32),
        )
        size = max(1, self._nb_at_once // len(self._mean(inputs.shape[1:])))
        pairs = zip(in_batches(inputs, size), in_batches(weights, size))
        return np.concatenate([maps(*pair).numpy() for pair in pairs])

    def _maps(self, inputs: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        return self.explanation(self._logits_at, inputs, weights)

    def _verifier(self, dtype: str) -> Verifier:
        return self._derive(
            ("verifier", dtype),
            lambda: Verifier(self.model, dtype=dtype, strip_head=True, start_layer=self._start),
        )

    def _bounds(
        self, region: Region, weights: np.ndarray, dtype: str = "float32"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the explanations over regions, (N, *shape) each."""
        return bound_explanations(
            self._verifier(dtype),
            self._mean(region.shape),
            region,
            weights,
            method=self.method,
            gamma=self.gamma,
            bias_radius=self.bias_radius,
            batch_size=self._nb_at_once,
            verbose=self.verbose,
        )

    def _settings(self) -> dict[str, Any]:
        """Arguments of the constructor that decide what is certified, ready for JSON."""
        of_how = ("reducer", "batch_size", "verbose", "model")
        names = [name for name in setting_names(CertifiedGradient) if name not in of_how]
        return {name: _plain(getattr(self, name)) for name in names}


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
