"""Certificates: what was proved, frozen."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcertify import criteria
from xcertify.bounds import FORMER_GRADIENT_METHODS, Decision
from xcertify.fingerprints import hash_of_weights
from xcertify.radii import Interval
from xcertify.regions import Ball, Region, describe_span


@dataclass(frozen=True, repr=False)
class Certificate:
    """What every certificate says beside its numbers.

    Attributes
    ----------
    region
        The N regions that it is about, around the inputs: of a radius, the balls of the certified
        radii. ``str(region)`` says it in words.
    method
        How the bounds were computed, a name of `Verifier`.
    arithmetic
        "real": proved for the network in real arithmetic; "float32": for its evaluation in float32
        as well; "decomon": as decomon computes it; "none": nothing is proved. Behind it in
        brackets, where the model computes in half precision: that this is not covered.
    interval
        The headline: of one number of each input, named below, what is proved and what an attack
        found.
    """

    region: Region
    method: str
    arithmetic: str
    interval: Interval

    @property
    def certified(self) -> np.ndarray:
        """(N,): ``interval.certified``."""
        return self.interval.certified

    @property
    def attacked(self) -> np.ndarray | None:
        """(N,): ``interval.attacked``; None without an attack."""
        return self.interval.attacked

    def to_dict(self) -> dict[str, Any]:
        """All fields with arrays as nested lists, ready for JSON; the region as a dictionary."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: _plain(value) for name, value in fields.items()}

    @property
    def _how(self) -> str:
        """Method and arithmetic, for `repr`."""
        name, *note = self.arithmetic.split(" ", 1)
        return " ".join([f"{self.method}, {name} arithmetic", *note])


def _plain(value: Any) -> Any:
    """A field of a certificate as JSON has it."""
    if isinstance(value, (Region, Interval, Decision)):
        return value.to_dict()
    return value.tolist() if isinstance(value, np.ndarray) else value


@dataclass(frozen=True, repr=False)
class OverlapCertificate(Certificate):
    """Proved upper bounds of the adversarial overlap (EVA, Eq. 1), one entry per input.

    The overlap of a region is the largest value of ``f_c' - f_c`` over its points and over all
    other classes c'. Where it is negative the model gives class c on the whole region.

    Attributes
    ----------
    interval
        The overlap: `certified` (N,), that no point of the region exceeds; `attacked` (N,), that of
        a point that was found, if there was an attack.
    cell_overlaps
        (N, cells): the same with the features of one cell held at their nominal value.
    cells
        (H, W), (T, W) or (W,): the cell that each feature belongs to.
    targets
        (N,) int: class c.
    decision
        Whether the predictions stay, for all N inputs, with counterexamples where they do not; its
        `reason` says by what: the bounds of the method, or what `Verifier.decide` names. None
        where the bounds alone were asked.

    Guarantee
    ---------
    That of the `Verifier` method, on every point of the region; of `robust` that of `Decision`,
    where it is what proves it.
    """

    cell_overlaps: np.ndarray
    cells: np.ndarray
    targets: np.ndarray
    decision: Decision | None = None

    @property
    def overlap(self) -> np.ndarray:
        """(N,): ``interval.certified``, no point of the region has a larger overlap."""
        return self.interval.certified

    @property
    def robust(self) -> np.ndarray:
        """(N,) bool: the prediction is proved to be c on the whole region."""
        by_bounds = self.overlap < 0
        return by_bounds if self.decision is None else by_bounds | self.decision.holds

    def __repr__(self) -> str:
        attacked = changed = ""
        if self.decision is not None:
            changed = f" and {int(self.decision.violated.sum())} to change"
        if self.attacked is not None:
            attacked = f", attacked {np.median(self.attacked):.4g}"
        return (
            f"<OverlapCertificate: {int(self.robust.sum())} of {len(self.robust)} predictions "
            f"proved constant{changed} on {self.region}; overlap at most {self.overlap.max():.4g}, "
            f"median {np.median(self.overlap):.4g}{attacked}; {self.cell_overlaps.shape[1]} cells; "
            f"{self._how}>"
        )


@dataclass(frozen=True, repr=False)
class GradientCertificate(Certificate):
    """Proved bounds of every explanation by gradients over a region (CertifiedGradient).

    Attributes
    ----------
    interval
        The largest distance of an explanation to that of the input, in units of its length
        (``farthest()``): `certified` (N,).
    lower, upper
        (N, *input): no explanation of a point of the region, and of any of the weights, leaves
        these bounds (the set E of the paper).
    explanation
        (N, *input): the explanation of the inputs themselves, that is defended.
    targets
        (N, K): weights of the logits whose sum is explained; one-hot rows for the cross-entropy.
    settings
        Arguments of the explainer, by name.
    fingerprint
        Hash of the model's weights, see `fingerprint`.

    Guarantee
    ---------
    That of `Verifier.bound_gradient`, for the points of the region, the weights near the model's,
    and every choice of a subgradient at kinks. What the methods and properties say is true of all
    explanations between `lower` and `upper`, which may be more than there are.

    Source: Wicker et al., Robust Explanation Constraints for Neural Networks, 2023, Definitions 1
    and 2, section 4.1.
    """

    lower: np.ndarray
    upper: np.ndarray
    explanation: np.ndarray
    targets: np.ndarray
    settings: dict[str, Any]
    fingerprint: str

    @property
    def _of_weights(self) -> str:
        """How far weights move, for `repr`."""
        return describe_weights(self.settings["gamma"], self.settings["bias_radius"])

    @property
    def inputs(self) -> np.ndarray:
        """(N, *input): the centers of the regions, with channels last."""
        return self.region.center

    @property
    def delta(self) -> np.ndarray:
        """(N, *input): no two explanations of the region differ by more (Definitions 1 and 2)."""
        return np.nextafter(self.upper - self.lower, np.inf, dtype=self.upper.dtype)

    @property
    def signs(self) -> np.ndarray:
        """(N, *input) int8: 1 or -1 where the sign is proved, else 0."""
        return (self.lower > 0).astype(np.int8) - (self.upper < 0).astype(np.int8)

    @property
    def lipschitz(self) -> np.ndarray | None:
        """(N,): the explained score changes by at most this times the distance of two points.

        Both in the region, distances in its norm; for every one of the weights. None for
        explanations that are not the gradient itself.
        """
        if self.settings["attribution"] != "gradient":
            return None
        sizes = np.maximum(np.abs(self.lower), np.abs(self.upper)).reshape(len(self.lower), -1)
        order = {np.inf: 1, 2: 2, 1: np.inf}[self.region.norm]
        return np.linalg.norm(sizes.astype(np.float64), order, axis=1) * (1 + 1e-12)

    def within(self, tau: float, measure: str = "l2_ratio") -> np.ndarray:
        """Where no explanation is farther than `tau` from `explanation`, (N,) bool.

        No untargeted attack can succeed there; see `criteria.Within`.
        """
        return self.proves(criteria.Within(tau, measure))

    def excludes(self, target_map: Any, tau: float, measure: str = "mse") -> np.ndarray:
        """Where no explanation comes within `tau` of a map, (N,) bool.

        No targeted attack can succeed there; see `criteria.Excludes`.
        """
        return self.proves(criteria.Excludes(target_map, tau, measure))

    def proves(self, criterion: criteria.Criterion) -> np.ndarray:
        """Where any criterion is proved, (N,) bool."""
        return criterion.holds(self.lower, self.upper, self.explanation)

    def farthest(self, measure: str = "l2_ratio") -> np.ndarray:
        """Proved largest distance (least cosine) to `explanation`, (N,); see `criteria`."""
        return criteria.farthest(self.lower, self.upper, self.explanation, measure)

    def in_top(self, k: int) -> np.ndarray:
        """Features proved to be among the k of largest magnitude, (N, *input) bool."""
        return criteria.in_top(self.lower, self.upper, k)

    def out_of_top(self, k: int) -> np.ndarray:
        """Features proved not to be among the k of largest magnitude, (N, *input) bool."""
        return criteria.out_of_top(self.lower, self.upper, k)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one .npz file, which `load` reads without executing anything."""
        names = ("lower", "upper", "explanation", "inputs", "targets")
        arrays = {name: getattr(self, name) for name in names} | {"epsilon": self.region.epsilon}
        others = ("method", "arithmetic", "settings", "fingerprint")
        text = {name: getattr(self, name) for name in others}
        with open(path, "wb") as file:
            np.savez_compressed(file, text=np.array(json.dumps(text)), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GradientCertificate:
        """Read what `save` wrote, in this version or an earlier one.

        Raises
        ------
        ValueError
            If the file is not a gradient certificate.
        """
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        try:
            text = json.loads(str(arrays.pop("text")))
            text.pop("region", None)  # a sentence, in files of earlier versions
            settings = text["settings"]
            for named in (text, settings):
                named["method"] = FORMER_GRADIENT_METHODS.get(named["method"], named["method"])
            epsilon = arrays.pop("epsilon", settings["epsilon"])
            region = Ball(arrays.pop("inputs"), epsilon, settings["norm"], settings["clip"])
            sides = arrays["lower"], arrays["upper"]
            interval = Interval(criteria.farthest(*sides, arrays["explanation"], "l2_ratio"))
            return cls(region=region, interval=interval, **text, **arrays)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the file must be a gradient certificate. Received: {os.fspath(path)!r} with "
                f"{', '.join(arrays)}"
            ) from error

    def recheck(self, model: Any) -> np.ndarray:
        """Deprecated: write ``xcertify.recheck.recheck(certificate, model)``."""
        warnings.warn(
            "GradientCertificate.recheck is deprecated. Write "
            "xcertify.recheck.recheck(certificate, model)",
            DeprecationWarning,
            stacklevel=2,
        )
        # by name: explainers make certificates, so that a certificate can import none
        return importlib.import_module("xcertify.recheck").recheck(self, model)

    def __repr__(self) -> str:
        return (
            f"<GradientCertificate: {self.settings['attribution']} of {len(self.lower)} inputs on "
            f"{self.region}{self._of_weights}; mean width {self.delta.mean():.4g}, signs proved "
            f"for {(self.signs != 0).mean():.1%} of the features, distance to the explanation at "
            f"most {np.median(self.farthest()):.3g} times its length (median); {self._how}>"
        )


@dataclass(frozen=True, repr=False)
class RadiusCertificate(Certificate):
    """The largest radius up to which a criterion is proved, and where an attack breaks it.

    Attributes
    ----------
    interval
        The radius: for `certified` (N,) and every smaller one the criterion is proved, 0 where for
        none; for `attacked` (N,) an explanation was found that breaks it, inf where none was.
    varied
        "epsilon", the radius of inputs, or "gamma", that of weights.
    criterion
        In words.
    settings
        Arguments of the explainer, by name.

    Guarantee
    ---------
    Of `certified`: that of `GradientCertificate` at this radius; smaller regions lie inside.
    """

    varied: str
    criterion: str
    settings: dict[str, Any]

    def __repr__(self) -> str:
        attacked = "not attacked"
        if self.attacked is not None:
            attacked = f"attacked from {np.median(self.attacked):.4g}"
        gamma = self.certified if self.varied == "gamma" else self.settings["gamma"]
        return (
            f"<RadiusCertificate: {self.criterion} for {self.varied} up to "
            f"{np.median(self.certified):.4g}, {attacked} (medians of {len(self.certified)}), on "
            f"{self.region}{describe_weights(gamma, self.settings['bias_radius'])}; {self._how}>"
        )


def describe_weights(gamma: Any, bias_radius: float | None) -> str:
    """How far weights may move, in words that follow those of a region; "" if they may not."""
    if not (np.any(gamma) or bias_radius):
        return ""
    biases = "" if bias_radius is None else f", biases within {bias_radius:g}"
    return f", weights within {describe_span(gamma)} of their size{biases}"


def fingerprint(model: Any) -> str:
    """SHA-256 of a Keras model's weights: their shapes, types and values, in order."""
    return hash_of_weights(model)


@dataclass(frozen=True, repr=False)
class TopKCertificate(Certificate):
    """Radii within which the most important cells of a map stay so (CORGI), one entry per input.

    The true radius of an input, where the first cell leaves, is in `interval`.

    Attributes
    ----------
    form
        How maps were bounded, a form of `CORGI`.
    k, k2
        The k largest cells are proved to stay among the k2 largest.
    interval
        The radius, in units of the inputs: `certified` (N,), the largest one that was tested and
        proved, 0 where none was; `attacked` (N,), the distance of the nearest point that was found
        where a cell has left, inf where none was.
    prediction_radius
        (N,): the model is proved to give the target class within it; None if not asked for.
    gap
        (N,): the value of the k-th cell minus that of the next one, at the input.
    cells
        (N, k) int: the top k cells, the largest first, counted row by row through the map.
    map_shape
        (h, w) of the map.
    targets
        (N,) int: the class whose map it is.

    Guarantee
    ---------
    Of `radius` and `prediction_radius`, that of `CORGI`. `attacked` is the distance of a point at
    which the map was evaluated in float64; nearer ones may exist.
    """

    form: str
    k: int
    k2: int
    prediction_radius: np.ndarray | None
    gap: np.ndarray
    cells: np.ndarray
    map_shape: tuple[int, int]
    targets: np.ndarray

    @property
    def radius(self) -> np.ndarray:
        """(N,): ``interval.certified``."""
        return self.interval.certified

    @property
    def joint_radius(self) -> np.ndarray:
        """(N,): within it, both the cells and the class are proved."""
        if self.prediction_radius is None:
            raise ValueError("the class was not looked at: ask for it with prediction=True")
        return np.minimum(self.radius, self.prediction_radius)

    def __repr__(self) -> str:
        found = ""
        if self.attacked is not None:
            found = f", attacked at {np.median(self.attacked):.4g}"
        return (
            f"<TopKCertificate: top {self.k} of {len(self.radius)} maps within the top {self.k2}, "
            f"on {self.region}; median radius {np.median(self.radius):.4g}{found}; "
            f"{self.form}, {self._how}>"
        )


@dataclass(frozen=True, repr=False)
class MaskCertificate(Certificate):
    """Radii within which what a mask keeps keeps its class (RelEx), one entry per input.

    For an input x, its mask m and the neutral value n, ``f(n + m (x' - n))`` is looked at for all
    x' near x, with the same m. The true radius is in `interval`.

    Attributes
    ----------
    interval
        The radius: no x' within `certified` (N,) of x gives another class, 0 where none was proved;
        `attacked` (N,) is the distance of the nearest x' found that does, 0 where x itself does,
        inf where none was found.
    masks
        (N, *input) float32 in [0, 1].
    neutral_value
        (*input) float32: n.
    targets
        (N,) int: the class that is kept.

    Guarantee
    ---------
    Of `certified`: that of the `Verifier` method, for the network at ``n + m (x' - n)`` in real
    arithmetic. Each radius was tested itself. It says nothing of the mask that would be learned
    for x'.
    """

    masks: np.ndarray
    neutral_value: np.ndarray
    targets: np.ndarray

    def __repr__(self) -> str:
        attacked = ""
        if self.attacked is not None:
            attacked = f", attacked at {np.median(self.attacked):.4g}"
        return (
            f"<MaskCertificate: {int((self.certified > 0).sum())} of {len(self.certified)} masked "
            f"inputs proved to keep their class, on {self.region}; median radius "
            f"{np.median(self.certified):.4g}{attacked}; {self._how}>"
        )


@dataclass(frozen=True, repr=False)
class DeviationCertificate(Certificate):
    """How far perturbations can move an attribution (AttributionBound), one entry per input.

    Only `certified` and `proved_cosine` are proved. The other deviations are estimates of first
    order: they would be bounds if the attribution were linear within `epsilon`.

    Attributes
    ----------
    interval
        The largest Euclidean distance that a perturbation within epsilon and the valid range moves
        the attribution: `certified` (N,), proved that none moves it farther, inf where that was not
        asked for; `attacked` (N,), the largest that was observed there.
    network
        What was looked at: the model, or its copy with softplus for ReLU.
    kinks
        Names of layers, such as max pooling, whose derivative jumps: the estimates do not see it.
    epsilon
        (N,) radii.
    explanation
        (N, *map): g(x), the attribution of the inputs.
    euclidean_estimate
        (N,): T_e, an upper side of the largest ``|J delta|`` over the ball, J the derivative of g.
    singular_value_lower, singular_value_upper
        (N,): between them is the largest singular value of J; the upper one with the probability
        that `AttributionBound.failure` leaves.
    decided
        N words: "theorem 1" for norm 2; else which was the least, "corollary 1", "theorem 2" or
        "diagonal dual".
    direction
        (N, *input): of length 1 in the norm; where ``|J delta|`` is largest, as far as was found.
    reached
        (N,): ``|J delta|`` there, for epsilon. Where it equals the estimate, that is tight.
    attained
        (N,) bool: whether one of both steps, ``epsilon direction`` or its opposite, keeps the
        predicted class against all others to first order (the label constraint). Then the
        constraint leaves `reached`, and so for norm 2 the estimate, as they are. Else the estimate
        holds all the same and may be larger than needed.
    factor
        (N,): c of Eq. 11, the largest true deviation found in units of the estimate, at least 1.
        Looked at are these two steps, as in the paper, and ten steps of an ascent from each.
    proved_cosine
        (N,) or None: no perturbation within epsilon and the valid range moves the attribution by
        more, in cosine distance.
    targets
        (N, K): weights of the logits that are explained.

    Guarantee
    ---------
    Of `proved_euclidean` and `proved_cosine`: that of `GradientCertificate`, for `network`.

    No guarantee
    ------------
    Of everything else. `factor` makes up for what two ascents found, not for what there is.

    Source: Wang & Kong, A Practical Upper Bound for the Worst-Case Attribution Deviations, 2023,
    Theorems 1 and 2, Corollaries 1 and 2, Eq. 10 and 11.
    """

    network: str
    kinks: tuple[str, ...]
    epsilon: np.ndarray
    explanation: np.ndarray
    euclidean_estimate: np.ndarray
    singular_value_lower: np.ndarray
    singular_value_upper: np.ndarray
    decided: tuple[str, ...]
    direction: np.ndarray
    reached: np.ndarray
    attained: np.ndarray
    factor: np.ndarray
    proved_cosine: np.ndarray | None
    targets: np.ndarray

    @property
    def proved_euclidean(self) -> np.ndarray | None:
        """(N,): ``interval.certified``; None if nothing was to be proved."""
        return None if self.proved_cosine is None else self.interval.certified

    @property
    def cosine_estimate(self) -> np.ndarray:
        """(N,): T_c, cosine distance for `euclidean_estimate` (Eq. 10); 2, any, beyond |g|."""
        return self._cosine(self.euclidean_estimate)

    @property
    def adapted_euclidean_estimate(self) -> np.ndarray:
        """(N,): c T_e."""
        return self.factor * self.euclidean_estimate

    @property
    def adapted_cosine_estimate(self) -> np.ndarray:
        """(N,): cosine distance for c T_e."""
        return self._cosine(self.adapted_euclidean_estimate)

    def _cosine(self, distances: np.ndarray) -> np.ndarray:
        flat = self.explanation.reshape(len(distances), -1).astype(np.float64)
        lengths = np.linalg.norm(flat, axis=1)
        share = np.divide(distances, lengths, out=np.full(len(lengths), np.inf), where=lengths > 0)
        share = np.where(distances == 0, 0.0, share)
        return np.where(share <= 1, 1 - np.sqrt(1 - np.minimum(share, 1) ** 2), 2.0)

    def __repr__(self) -> str:
        proved = "nothing proved"
        if self.proved_euclidean is not None:
            proved = f"proved to be at most {np.median(self.proved_euclidean):.4g}"
        unseen = f"; not smooth: {', '.join(self.kinks)}" if self.kinks else ""
        return (
            f"<DeviationCertificate: {len(self.epsilon)} attributions of {self.network} on "
            f"{self.region}; deviation estimated at {np.median(self.euclidean_estimate):.4g}, "
            f"{proved} (medians){unseen}; {self.method}>"
        )
