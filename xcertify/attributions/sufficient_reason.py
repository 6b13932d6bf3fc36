"""SufficientReason: features that are proved to be enough for an answer.

Sources: Wu et al., VeriX: Towards Verified Explainability of Deep Neural Networks, 2023; Boumazouza
et al., FAME: Formal Abstract Minimal Explanations, 2026 (freeing by linear bounds as a knapsack).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from xcertify.answers import Answers
from xcertify.attributions.base import Certifying, ClassExplainer
from xcertify.certificates import Certificate, ReasonCertificate, fingerprint
from xcertify.checks import positive
from xcertify.inputs import in_batches
from xcertify.perturbation import as_outside
from xcertify.progress import progress_bar
from xcertify.radii import Interval
from xcertify.reasons.check import asked_outputs
from xcertify.reasons.features import Features
from xcertify.reasons.order import order_of
from xcertify.reasons.sets import Sets, sufficient_sets
from xcertify.regions import Region, as_norm
from xcertify.usefulness import warn_vacuous
from xcertify.words import Words

METHODS = ("crown", "crown-ibp")
_NB_ENTRIES = 2**17  # of the inputs that are worked on together
SETTINGS = (
    *("groups", "grid_size", "order", "towards", "delta", "class_groups", "time_limit"),
    *("complete", "batch_size", "seed"),
)


class SufficientReason(Certifying, ClassExplainer):
    """SufficientReason: a set of features that is proved to be enough for the model's answer.

    Each feature gets one of three words. *Irrelevant*: it is proved that all irrelevant features
    may move within the region, together and in all directions, and the answer stays. *Needed*: with
    it free as well an input was found that has another answer, which is kept. *Unknown*: neither,
    within the time. What is needed or unknown is a sufficient set (an abductive explanation); if
    nothing is unknown, no part of it is sufficient.

    Linear bounds free many features at once, attacks show which others are needed, branch and bound
    (`Verifier.decide`) decides the rest. At the end the whole set is proved again in float64.

    Parameters
    ----------
    model
        A Keras model that `Verifier` can bound. A single logit counts as two classes.
    epsilon
        Radius of the region, in units of the inputs: a scalar or as for `Ball`.
    norm
        inf, 2 or 1.
    clip
        Valid range of the inputs, (low, high); None: no limits.
    groups
        Integer labels of features that are freed together, such as one-hot columns, superpixels or
        time steps: (H, W), (T, W) or (W,), or with N in front for labels of each input. None: each
        pixel with its channels, each variable at a time, each column is a feature.
    grid_size
        Cells per side that are freed together, as for `EVA`; not with `groups`.
    order
        In which order features are freed, as far as that can be proved. None: those first that
        contribute least to the bound. An explainer, or a map (*features) or (N, *features): those
        first that it finds least important; a group counts as its largest feature. A list of these:
        the smallest of the sets is given.
    towards
        Class or classes (N,): the question is only whether the class stays above this one.
    delta
        For regression: the output that the targets name stays less than `delta` away from its value
        at the input; a number or (N,).
    class_groups
        (K,) integer labels of classes: the question is whether the label stays.
    time_limit
        Seconds that a call may take for each input, on average, about; None: no limit.
    complete
        Whether branch and bound goes on where attacks and linear bounds end.
    ranked
        Whether maps show, within each word, what features contribute to the bound.
    method
        Of the linear bounds: "crown" or "crown-ibp".
    outside
        What becomes of inputs outside `clip`, as for `EVA`.
    batch_size
        Most regions that are bounded or attacked at once.
    seed
        Of the attacks.
    verbose
        Whether to show how many features are settled.

    Raises
    ------
    ValueError
        For settings that do not fit; for inputs outside `clip`; and for an input at which the model
        does not give the answer (another class as target, a tie, NaN).
    UnsupportedLayerError
        At the first use, for a model that cannot be bounded.
    ContradictionError
        If an attack succeeds where something is proved: a bug, to be reported.

    Guarantee
    ---------
    That of `ReasonCertificate`. An interrupted call (Ctrl-C), and one whose time is over, give what
    is proved by then.

    Examples
    --------
    >>> explainer = SufficientReason(model, epsilon=0.05, clip=(0.0, 1.0))
    >>> maps = explainer.explain(images)                  # (N, H, W, 1): 1 needed, 0 irrelevant
    >>> certificate = explainer.certify(images)
    >>> certificate.sizes, certificate.minimal            # (N,), (N,)
    """

    def __init__(
        self,
        model: keras.Model,
        epsilon: Any = 0.05,
        norm: float = np.inf,
        clip: tuple[Any, Any] | None = None,
        groups: Any = None,
        grid_size: int | tuple[int, int] | None = None,
        order: Any = None,
        *,
        towards: Any = None,
        delta: Any = None,
        class_groups: Any = None,
        time_limit: float | None = 60.0,
        complete: bool = True,
        ranked: bool = False,
        method: str = "crown",
        outside: str = "error",
        batch_size: int | None = 512,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}. Received: {method!r}")
        if time_limit is not None:
            positive("time_limit", time_limit, or_zero=True)
        super().__init__(model, batch_size=batch_size, seed=seed, verbose=verbose)
        self.epsilon, self.norm, self.clip = epsilon, as_norm(norm), clip
        self.groups, self.grid_size, self.order = groups, grid_size, order
        self.towards, self.delta, self.class_groups = towards, delta, class_groups
        self.time_limit, self.complete, self.ranked = time_limit, complete, ranked
        self.method, self.outside = method, as_outside(outside)

    def certify(self, inputs: Any, targets: Any = None) -> Any:
        """What is proved of each input, see `ReasonCertificate`.

        Parameters
        ----------
        inputs
            As for `explain`; or texts whose words may be others, `Words`, which take the place of
            `epsilon`, `norm` and `clip`. Their features are their positions: irrelevant is what can
            be any of its words, all of these positions at the same time.
        targets
            As for `explain`.

        Raises
        ------
        ValueError, UnsupportedLayerError, ContradictionError
            See the class.

        Examples
        --------
        >>> region = Words.of_tokens(tokens, synonyms, vectors)
        >>> explainer = SufficientReason(behind(model, "embedding"))
        >>> explainer.certify(region).irrelevant[..., 0]                          # (N, T) bool
        """
        if not isinstance(inputs, Words):
            return super().certify(inputs, targets)
        _, targets = self._prepare(inputs.center, targets)
        return self._given_out(self._certify(inputs, targets))

    def _resolve(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        """Classes (N,) int, or with `delta` numbers of outputs."""
        return asked_outputs(self.model, self._logits(inputs), targets, self.delta)

    def _explain(self, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
        certificate = self._certify(self._looked_at(self._region(inputs)), classes)
        self._warn_of(certificate)
        return certificate.maps(ranked=self.ranked)

    def _stated(self) -> dict[str, Any]:
        settings, order = super()._stated(), self.order
        is_map = not (
            order is None or isinstance(order, (list, tuple)) or hasattr(order, "explain")
        )
        return settings | {"order": [order] if is_map else order}  # as a list it would be several

    def _warn_of(self, certificate: Certificate) -> None:
        """A `VacuousWarning` for inputs of which nothing was found out."""
        nothing = certificate.vacuous
        if not nothing.any():
            return
        first = int(np.argmax(nothing))
        tried = ["a longer time_limit", "a smaller epsilon (see suggest_epsilon)"]
        tried += ["groups or a grid_size"]
        warn_vacuous(
            f"SufficientReason: of {int(nothing.sum())} of {len(nothing)} inputs, the first one "
            f"input {first}, no feature is proved to be irrelevant or needed with "
            f"epsilon={self.epsilon!r}, so that the map says nothing. Try "
            f"{', '.join(tried)}"
        )

    def _certify(self, region: Region, classes: np.ndarray) -> ReasonCertificate:
        shape = region.shape
        groups = self.groups
        if isinstance(region, Words) and groups is None:
            groups = np.repeat(np.arange(shape[0])[:, None], shape[1], axis=1)
        features = Features.of(shape, len(region), groups, self.grid_size)
        precise = self._verifier_of("crown", "float64")
        outputs = precise.evaluate(region.center).reshape(len(region), -1)
        answers = Answers.of(
            outputs,
            classes,
            towards=self.towards,
            class_groups=self.class_groups,
            delta=self.delta,
        )
        answers.check(outputs)
        orders = self._orders(region, classes, features)
        sets = Sets.joined(list(self._found(region, features, answers, orders)))
        words = {
            "irrelevant": sets.irrelevant,
            "needed": sets.needed,
            "unknown": features.valid & ~sets.irrelevant & ~sets.needed,
        }
        sizes = (features.valid & ~sets.irrelevant).sum(axis=1)
        return ReasonCertificate(
            region=region,
            method=self.method,
            arithmetic=self._verifier_of(self.method).guarantee,
            interval=Interval(sizes.astype(np.float64), sets.smallest.astype(np.float64)),
            **{name: features.expand(groups) for name, groups in words.items()},  # type: ignore[arg-type]
            features=features.labels,
            sizes=sizes,
            smallest=sets.smallest,
            witnesses=[
                {features.label_of(sample, number): point for number, point in own.items()}
                for sample, own in enumerate(sets.witnesses)
            ],
            targets=classes,
            answers=answers,
            contributions=features.expand(sets.contributions).astype(np.float32),
            seconds=sets.seconds,
            reason=sets.reason.astype(str),
            settings={name: value for name, value in self._stated().items() if name in SETTINGS},
            fingerprint=fingerprint(self.model),
        )

    def _found(
        self,
        region: Region,
        features: Features,
        answers: Answers,
        orders: list[np.ndarray | None],
    ) -> Iterator[Sets]:
        """The sets of some inputs at a time; of those behind an interruption nothing is known."""
        verifiers = self._verifier_of(self.method), self._verifier_of("crown", "float64")
        limit = math.inf if self.time_limit is None else self.time_limit
        step = max(1, min(self._nb_at_once, _NB_ENTRIES // math.prod(region.shape)))
        total = len(orders) * int(features.valid.sum())
        begin, interrupted = time.monotonic(), False
        with progress_bar(total, "feature", verbose=self.verbose) as progress:
            for some in in_batches(np.arange(len(region)), step):
                best = Sets.none(features[some], "interrupted")
                until = begin + limit * (some[-1] + 1)
                for number, order in enumerate(orders):
                    if interrupted:
                        break
                    now = time.monotonic()
                    sets = sufficient_sets(
                        verifiers,
                        region[some],
                        features[some],
                        answers[some],
                        None if order is None else order[some],
                        complete=self.complete,
                        deadline=now + (until - now) / (len(orders) - number),
                        batch_size=self._nb_at_once,
                        seed=self.seed,
                        progress=progress,
                    )
                    best = best.or_smaller(sets) if number else sets
                    interrupted = sets.interrupted
                yield best

    def _orders(
        self, region: Region, classes: np.ndarray, features: Features
    ) -> list[np.ndarray | None]:
        """Groups (N, G) in the orders in which they are freed; None: by contribution."""
        several = isinstance(self.order, (list, tuple))
        orders = list(self.order) if several else [self.order]
        if not orders:
            raise ValueError("order must be at least one order. Received: an empty list")
        found: list[np.ndarray | None] = []
        for order in orders:
            if order is None:
                found.append(None)
                continue
            if hasattr(order, "explain"):
                inputs = region.center.astype(np.float32)
                inputs = inputs if self._start is None else np.moveaxis(inputs, -1, 1)
                # of a single output that stays within delta there are no classes
                is_single = self.delta is not None and self._verifier_of("crown").nb_outputs == 1
                order = order.explain(inputs, None if is_single else classes)
            found.append(order_of(order, features))
        return found
