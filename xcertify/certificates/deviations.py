"""Certificates of how far an attribution can move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xcertify.certificates.base import Certificate
from xcertify.certificates.forms import BOOLEANS, FLOATS, WORDS, Form, Rows, refuse_inputs
from xcertify.regions import as_column, describe_span


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
    beta
        (N,): what was looked at is a copy of the model with ``softplus(beta z) / beta`` for every
        ReLU; inf: the model itself.
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

    _rows: ClassVar[dict[str, Form]] = {
        "beta": Form(FLOATS, values="infinite"),
        "epsilon": Form(FLOATS),
        "explanation": Form(FLOATS, ("...",)),
        "euclidean_estimate": Form(FLOATS, values="infinite"),
        "singular_value_lower": Form(FLOATS, values="infinite"),
        "singular_value_upper": Form(FLOATS, values="infinite"),
        "decided": Form(WORDS),
        "direction": Form(FLOATS, ("input",)),
        "reached": Form(FLOATS, values="infinite"),
        "attained": Form(BOOLEANS),
        "factor": Form(FLOATS, values="infinite"),
        "proved_cosine": Form(FLOATS, values="infinite", optional=True),
        "targets": Form(FLOATS, ("outputs",)),
    }
    _words: ClassVar[dict[str, Any]] = {"kinks": tuple}

    beta: np.ndarray
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

    def check(self) -> None:
        """Refuse parts that contradict each other, see `Certificate`."""
        super().check()
        radius = self.region.epsilon
        if radius is None:
            raise ValueError("the regions of the certificate must be balls. Received: boxes")
        differ = radius != as_column(self.epsilon, self.region.center)
        refuse_inputs(differ, "epsilon is not that of the regions")
        if not all(isinstance(name, str) for name in self.kinks):
            raise ValueError(f"kinks must be names of layers. Received: {self.kinks!r}"[:300])

    @classmethod
    def _fields(cls, rows: Rows, shared: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
        found = super()._fields(rows, shared, words)
        return found | {"decided": tuple(found["decided"].tolist())}

    @property
    def network(self) -> str:
        """What was looked at, in words: the model, or its copies with softplus for ReLU."""
        if np.isinf(self.beta).all():
            return "the model"
        copies = "a copy" if (self.beta == self.beta[0]).all() else "copies"
        return f"{copies} with softplus, beta {describe_span(self.beta)}"

    @property
    def proved_euclidean(self) -> np.ndarray | None:
        """(N,): ``interval.certified``; None if nothing was to be proved."""
        return None if self.proved_cosine is None else self.interval.certified

    @property
    def vacuous(self) -> np.ndarray:
        """(N,) bool: see `Certificate`; only of proofs that let an attribution move its length."""
        flat = self.explanation.reshape(len(self.explanation), -1).astype(np.float64)
        is_far = self.certified > np.linalg.norm(flat, axis=1)
        return super().vacuous & is_far & (self.proved_cosine is not None)

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
        wider = "" if self.proved_euclidean is None else self._wider
        unseen = f"; not smooth: {', '.join(self.kinks)}" if self.kinks else ""
        return (
            f"<DeviationCertificate: {len(self.epsilon)} attributions of {self.network} on "
            f"{self.region}; deviation estimated at {np.median(self.euclidean_estimate):.4g}, "
            f"{proved} (medians){wider}{unseen}; {self.method}>"
        )
