"""Verdicts on certificates: what they say, found again by other means than made it.

By which, is said of every input in `Verdict.means`. What linear bounds closed is bounded anew by
the checker of `xcertify.recheck`, which shares no code with the engine; the rest by the engine in
float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from xcertify.attacks import PGD
from xcertify.attacks.on_masks import beside_masks
from xcertify.attributions import EVA, CertifiedGradient, RelEx
from xcertify.attributions.overlaps import with_cells_held
from xcertify.bounds import ProofTree, Verifier, contains
from xcertify.certificates import (
    Certificate,
    GradientCertificate,
    MaskCertificate,
    OverlapCertificate,
    ReasonCertificate,
)
from xcertify.criteria import farthest
from xcertify.fingerprints import hash_of_architecture, hash_of_weights
from xcertify.grid import cells_of_entries, grid_cells
from xcertify.logits import logits_of
from xcertify.radii import ContradictionError
from xcertify.reasons.recheck import recheck_reasons
from xcertify.recheck import Domain, domains, upper_bounds
from xcertify.recheck_layers import Network, UnknownLayerError
from xcertify.regions import Ball, valid_range
from xcertify.targets import margin_rows, stays_in_class

STATUS = ("confirmed", "refuted", "not checked")

_CHECKER = "linear bounds in float64, rounded outward, without the engine"
_ENGINE = "bounds of the engine in float64"
# What float32 rounds, in units of 2**-24 of the sizes of all terms: by how much the bounds of the
# engine are above those of the checker (up to 70 seen), and below, where lines differ by roundings.
_ABOVE, _BELOW, _EVALUATED = 300, 2, 16
_AGAIN = 4  # and by how much they differ, in other numbers of threads or on other machines
_LEANS = (1e-5, -1e-5)  # of intervals that float32 may see on the other side of the middle
_MOST_PARTS = 16  # of one input that are attacked
_SECONDS = 60.0  # for each input, on average, of decisions


@dataclass(frozen=True, repr=False)
class Verdict:
    """What was found of the certificates of N inputs.

    Attributes
    ----------
    status
        (N,) of "confirmed": proved again, and all else that is stated is what it should be;
        "refuted": something that is stated is shown to be false; "not checked": neither.
    means
        (N,) words: by what.
    reason
        (N,) words: why not confirmed; "" where it is.
    proved
        (N,) float64: the certificate's headline as it was proved again; NaN where it was not.
    attained
        (N,) float64: what was attained again of it; NaN without an attack.

    Guarantee
    ---------
    Of "confirmed": that of the means. What float32 rounds, at most a hundred units in the last
    place of the terms of a bound, may be between both bounds; a prediction that is said to stay is
    proved to stay. Of "refuted": a point in the region, evaluated in float64 with all roundings.
    **No guarantee** that other statements, such as `seconds` or contributions, are as they were.
    """

    status: np.ndarray
    means: np.ndarray
    reason: np.ndarray
    proved: np.ndarray
    attained: np.ndarray

    @property
    def confirmed(self) -> np.ndarray:
        """(N,) bool."""
        return self.status == "confirmed"

    @property
    def refuted(self) -> np.ndarray:
        """(N,) bool."""
        return self.status == "refuted"

    def __len__(self) -> int:
        return len(self.status)

    def __repr__(self) -> str:
        words = ", ".join(f"{int((self.status == word).sum())} {word}" for word in STATUS)
        return f"<Verdict of {len(self)}: {words}>"


def recheck(
    certificate: Any, model: keras.Model, *, attack: bool = True, check_model: bool = True
) -> Verdict:
    """Verify a certificate again, by other means than made it.

    Parameters
    ----------
    certificate
        Of any explainer, or `Decision.proof`; loaded from a file for instance.
    model
        The model that it is for.
    attack
        Whether attacks are made again, too: what they are said to have attained must be attained,
        and where a bound is not proved they look for a point that refutes it.
    check_model
        Whether another model than the certificate names is refused. False: its numbers must tell.

    Returns
    -------
    verdict
        Of each input.

    Raises
    ------
    ValueError
        If the model is not the one that the certificate is for; the message names what differs.
        And if parts of the certificate contradict each other.

    Examples
    --------
    >>> recheck(Certificate.load("certificate.npz"), model).status
    array(['confirmed', 'confirmed'], dtype='<U11')
    """
    if isinstance(certificate, ProofTree):
        found = Verifier(model, **certificate.settings).recheck(certificate)
        return _by_answers(found, "the proof tree, bounded by the engine in float64")
    if not isinstance(certificate, Certificate):
        raise ValueError(
            f"certificate must be one of xcertify.certificates, or a ProofTree. "
            f"Received: {type(certificate).__name__}"
        )
    if check_model:
        _refuse_another(certificate, model)
    checks: dict[type, Callable[..., None]] = {
        OverlapCertificate: _overlaps,
        MaskCertificate: _masks,
        ReasonCertificate: _reasons,
        GradientCertificate: _gradients,
    }
    check = checks.get(type(certificate), _nothing)
    findings = _Findings(certificate)
    try:
        certificate.check()
    except ValueError as error:
        if check is _reasons:  # its parts could not even be read
            raise
        findings.doubt(True, str(error))
        return findings.verdict()
    if not certificate.arithmetic.startswith(("real", "float32")):
        findings.doubt(True, f"its arithmetic is {certificate.arithmetic!r}: nothing is proved")
    elif getattr(certificate.region, "nb_changed", None) is not None:
        findings.doubt(True, "where few features may change, nothing is bounded again")
    elif findings.has_its_region():
        try:
            check(certificate, model, attack, findings)
        except UnknownLayerError as error:
            findings.doubt(True, f"the checker cannot read the model: {error}")
    return findings.verdict()


def _refuse_another(certificate: Any, model: keras.Model) -> None:
    """A ValueError for another model than the certificate names."""
    origin = certificate.origin
    if origin is not None and origin.architecture != hash_of_architecture(model):
        raise ValueError(
            f"the architecture of the model '{model.name}' is not that of the model that the "
            f"certificate is for. Load the model that was certified, or certify this one"
        )
    weights = getattr(certificate, "fingerprint", origin and origin.weights)
    if weights is not None and weights != hash_of_weights(model):
        raise ValueError(
            f"the weights of the model '{model.name}' are not those that the certificate is "
            f"for. Load the model that was certified, or certify this one"
        )


class _Findings:
    """What is found of N inputs, to become a verdict."""

    def __init__(self, certificate: Any) -> None:
        self.certificate, self.nb = certificate, len(certificate)
        self.means = np.full(self.nb, "", object)
        self.proved, self.attained = np.full(self.nb, np.nan), np.full(self.nb, np.nan)
        self._doubts: list[list[str]] = [[] for _ in range(self.nb)]
        self._refuted: list[list[str]] = [[] for _ in range(self.nb)]

    @property
    def settings(self) -> dict[str, Any]:
        """Of the explainer."""
        return {} if self.certificate.origin is None else self.certificate.origin.settings

    def doubt(self, where: Any, reason: str) -> None:
        """Note what is not confirmed, (N,) bool."""
        for sample in map(int, np.flatnonzero(np.broadcast_to(where, self.nb))):
            self._doubts[sample].append(reason)

    def refute(self, where: Any, reason: str) -> None:
        """Note what is shown to be false, (N,) bool."""
        for sample in map(int, np.flatnonzero(np.broadcast_to(where, self.nb))):
            self._refuted[sample].append(reason)

    @property
    def open(self) -> np.ndarray:
        """(N,) bool: where nothing was noted."""
        return np.array([not (a or b) for a, b in zip(self._doubts, self._refuted)], bool)

    def has_its_region(self) -> bool:
        """Whether the regions have the sides that their centers and radii make."""
        region = self.certificate.region
        if region.epsilon is None:
            return True
        again = Ball(region.center, region.epsilon, region.norm, region.clip)
        same = [a == b for a, b in zip((again.lower, again.upper), (region.lower, region.upper))]
        other = ~np.all(same, axis=(0, *range(2, np.ndim(same))))
        self.doubt(other, "the sides of its region are not those of its radius and valid range")
        return bool(not other.all())

    def compare(self, name: str, stated: Any, again: Any, tolerance: Any) -> np.ndarray:
        """Doubt what was evaluated otherwise; where it is the same, (N,) bool."""
        with np.errstate(invalid="ignore"):
            same = (np.abs(np.asarray(stated, float) - again) <= tolerance) | (stated == again)
        same = same.reshape(self.nb, -1).all(axis=1)
        self.doubt(~same, f"{name} is not what is found again")
        return same

    def verdict(self) -> Verdict:
        """What was noted."""
        status = np.full(self.nb, "confirmed", object)
        status[[bool(doubts) for doubts in self._doubts]] = "not checked"
        status[[bool(shown) for shown in self._refuted]] = "refuted"
        reasons = ["; ".join(dict.fromkeys(a + b)) for a, b in zip(self._refuted, self._doubts)]
        kinds, means = np.array(status.tolist(), str), np.array(self.means.tolist(), str)
        return Verdict(kinds, means, np.array(reasons, str), self.proved, self.attained)


def _by_answers(confirmed: np.ndarray, means: str) -> Verdict:
    """Of certificates that are proved again or not."""
    unknown = np.full(len(confirmed), np.nan)
    status = np.where(confirmed, "confirmed", "not checked")
    reason = np.where(confirmed, "", "it is not proved again")
    return Verdict(status, np.full(len(confirmed), means), reason, unknown, unknown.copy())


def _nothing(certificate: Any, model: Any, attack: bool, findings: _Findings) -> None:
    name = type(certificate).__name__
    findings.doubt(True, f"there are no other means than those that made a {name}")


# --- overlaps -----------------------------------------------------------------------------------


def _margins(network: Network, point: np.ndarray, rows: np.ndarray) -> tuple[float, float, float]:
    """The largest of rows at a point: not less than, not more than; and what float32 may round."""
    point = np.asarray(point, np.float64)
    domain = Domain(point, point, point)
    upper, amount = upper_bounds(network, domain, rows, method="crown-ibp")
    lower, _ = upper_bounds(network, domain, -rows, method="crown-ibp")
    return float(np.max(-lower)), float(upper.max()), _EVALUATED * 2.0**-24 * float(amount.max())


def _overlaps(
    certificate: OverlapCertificate, model: keras.Model, attack: bool, findings: _Findings
) -> None:
    settings = findings.settings
    explainer = "EVA" if certificate.origin is None else certificate.origin.explainer
    if explainer != "EVA" or certificate.method not in ("crown", "crown-ibp", "ibp"):
        how = f"{explainer}, method={certificate.method!r}"
        findings.doubt(True, f"the checker has no such bounds ({how})")
        return
    findings.means[:] = _CHECKER
    region, classes, network = certificate.region, certificate.targets, Network(model)
    cells = grid_cells(region.shape, _as_grid(settings.get("grid_size")))
    known = certificate.origin is None or np.array_equal(cells, certificate.cells)
    findings.doubt(not known, "its cells are not those of grid_size")
    in_class = classes < max(network.nb_outputs, 2)
    findings.doubt(~in_class, "its targets are no classes of the model")
    rows = np.asarray(margin_rows(np.where(in_class, classes, 0), network.nb_outputs))
    stated = np.concatenate([certificate.overlap[:, None], certificate.cell_overlaps], axis=1)
    findings.doubt(~np.isfinite(stated).all(axis=1), "it has bounds that are not finite")
    found = [_margins(network, *pair) for pair in zip(region.center, rows)]
    nominal, rounded = np.array([(low + up) / 2 for low, up, _ in found]), np.array(found)[:, 2]
    findings.compare("nominal", certificate.nominal, nominal, rounded)
    again = _Overlaps(network, certificate, settings)
    for sample in map(int, np.flatnonzero(in_class & np.isfinite(stated).all(axis=1))):
        upper, above, below = again.bounds(sample, stated[sample])
        findings.proved[sample] = upper[0]
        where = np.arange(findings.nb) == sample
        high = upper > stated[sample] + below
        findings.doubt(where & high[0], "the overlap is not bounded so tightly again")
        findings.doubt(where & high[1:].any(), "cell_overlaps are not bounded so tightly again")
        low = stated[sample] > upper + above
        findings.doubt(where & low.any(), "its bounds are not what the method gives")
        is_close = (stated[sample, 0] < 0) & (upper[0] >= 0)
        findings.doubt(where & is_close, "the prediction is not proved again to stay")
        if attack and high.any():
            parts = np.flatnonzero(high)[:_MOST_PARTS]
            shown = _refutes(network, certificate, model, sample, parts, rows[sample])
            findings.refute(where & shown, "a point of the region has a larger overlap")
    if certificate.decision is not None:
        _decisions(certificate, model, network, rows, findings)
    _attained_overlaps(certificate, model, attack, findings, nominal, rounded)


def _ball(certificate: Certificate) -> Ball:
    region = certificate.region
    return Ball(region.center, region.epsilon, region.norm, region.clip)


def _as_grid(grid_size: Any) -> Any:
    return tuple(grid_size) if isinstance(grid_size, list) else grid_size


class _Overlaps:
    """Bounds of overlaps by the checker, in the form in which EVA has them."""

    def __init__(
        self, network: Network, certificate: OverlapCertificate, settings: dict[str, Any]
    ) -> None:
        self.network, self.certificate = network, certificate
        self.is_exact = settings.get("mode", "one-pass") == "exact"
        self.form = settings.get("overlap", "margin")
        self.cells = cells_of_entries(certificate.cells, certificate.region.shape)

    def bounds(self, sample: int, stated: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Bounds (1 + cells,) of an input, and how far stated ones may be above and below them."""
        first = found = self._bounds(sample, 0.0)
        for lean in _LEANS:
            if ((found[0] <= stated + found[2]) & (stated <= found[0] + found[1])).all():
                return found
            found = self._bounds(sample, lean)
        is_it = ((found[0] <= stated + found[2]) & (stated <= found[0] + found[1])).all()
        return found if is_it else first

    def _bounds(self, sample: int, lean: float) -> tuple[np.ndarray, float, float]:
        region = self.certificate.region[sample : sample + 1]
        network, classes = self.network, self.certificate.targets[sample : sample + 1]
        rows = np.asarray(margin_rows(classes, network.nb_outputs))[0].astype(np.float64)
        own = None
        if self.form == "separate" and network.nb_outputs > 1:
            rows, own = np.maximum(rows, 0.0), np.minimum(rows[:1], 0.0)  # f_c', and -f_c
        size = len(rows)
        rows = rows if own is None else np.concatenate([rows, own])
        method = self.certificate.method
        if self.is_exact:
            parts = [
                own for _, one in with_cells_held(region, self.cells, 1) for own in domains(one)
            ]
            found = [upper_bounds(network, own, rows, None, method, lean) for own in parts]
            upper = np.stack([bounds for bounds, _ in found], axis=1)
            amount = max(amount.max() for _, amount in found)
        else:
            (domain,) = domains(region)
            upper, amounts = upper_bounds(network, domain, rows, self.cells, method, lean)
            amount = amounts.max()
        largest = upper[:size].max(axis=0) + (0.0 if own is None else upper[size])
        largest = np.nextafter(largest, np.inf) if own is not None else largest
        unit = 2.0**-24 * float(amount) * (1 if own is None else 2)
        return np.minimum(largest, largest[0]), _ABOVE * unit, _BELOW * unit


def _refutes(
    network: Network,
    certificate: OverlapCertificate,
    model: keras.Model,
    sample: int,
    parts: np.ndarray,
    rows: np.ndarray,
) -> bool:
    """Whether a point is found whose overlap is larger than stated, of one of some parts."""
    cells = cells_of_entries(certificate.cells, certificate.region.shape)
    stated = np.append(certificate.overlap[sample], certificate.cell_overlaps[sample])
    held = np.stack([cells == part - 1 for part in parts])  # -1: none
    region = certificate.region[np.full(len(parts), sample)].fix(held)
    classes = np.full(len(parts), certificate.targets[sample])
    points = PGD(logits_of(model), restarts=2)(region, classes).points.astype(np.float64)
    center = region.center.astype(np.float64)
    points = center + (1 - 2.0**-20) * (
        points - center
    )  # not on the side, which is rounded outward
    inside = contains(region, points)
    found = [_margins(network, point, rows)[0] for point in points]
    return bool((inside & (np.array(found) > stated[parts])).any())


def _decisions(
    certificate: OverlapCertificate,
    model: keras.Model,
    network: Network,
    rows: np.ndarray,
    findings: _Findings,
) -> None:
    """What was decided beyond bounds: proved again by branch and bound, or shown again."""
    decision, region = certificate.decision, certificate.region
    assert decision is not None
    by_bounds = certificate.overlap < 0
    findings.doubt(by_bounds & ~decision.holds, "bounds prove what is not said to hold")
    for sample in map(int, np.flatnonzero(decision.violated)):
        where, one = np.arange(findings.nb) == sample, slice(sample, sample + 1)
        point = decision.counterexamples[one]
        is_one = bool(np.isfinite(point).all() and contains(region[one], point).all())
        is_one = is_one and _margins(network, point[0], rows[sample])[1] >= 0
        findings.refute(where & (not is_one), "its counterexample is none")
    left = np.flatnonzero(decision.holds & ~by_bounds & findings.open)
    if len(left):
        verifier = Verifier(model, dtype="float64", strip_head=True)
        asked = stays_in_class(certificate.targets[left], network.nb_outputs)
        timeout = _SECONDS * len(left)
        again = verifier.decide(region[left], *asked, timeout=timeout, verbose=False)
        where = np.zeros((2, findings.nb), bool)
        where[0, left], where[1, left] = again.violated, again.unknown
        findings.refute(where[0], "a point of the region has another class")
        findings.doubt(where[1], "branch and bound does not prove again that the class stays")
        findings.means[left] = f"{_CHECKER}; branch and bound of the engine in float64"


def _attained_overlaps(
    certificate: OverlapCertificate,
    model: keras.Model,
    attack: bool,
    findings: _Findings,
    nominal: np.ndarray,
    rounded: np.ndarray,
) -> None:
    """What attacks attained: not less than the input itself, not more than is proved, and again."""
    for name, values in (("attained", certificate.attained), ("attacked", certificate.attacked)):
        if values is None:
            continue
        findings.doubt(~(values >= nominal - rounded), f"{name} is less than at the input itself")
        with np.errstate(invalid="ignore"):
            more = values > findings.proved + rounded
        findings.refute(more, f"{name} is more than is proved that any point attains")
    if not attack or findings.certificate.origin is None:
        return
    names = ("epsilon", "in_words")
    own = {n: v for n, v in findings.settings.items() if n not in names}
    own |= {
        "attack": certificate.attacked is not None,
        "epsilon": certificate.region.epsilon,
        "grid_size": _as_grid(own.get("grid_size")),
    }
    try:
        again = EVA(model, **own)._certify(_ball(certificate), certificate.targets)
    except ContradictionError:  # of the engine itself
        findings.doubt(True, "an attack of the engine contradicts its bounds")
        return
    findings.attained[:] = again.attained
    room = rounded + 1e-3 * np.abs(again.attained - nominal)
    findings.compare("attained", certificate.attained, again.attained, room)
    if certificate.attacked is not None and again.attacked is not None:
        findings.compare("attacked", certificate.attacked, again.attacked, room)
    # the method once more: nothing is proved by it, but who moved a bound by little is found
    sides = [
        np.concatenate([c.overlap[:, None], c.cell_overlaps], axis=1) for c in (certificate, again)
    ]
    differ = np.abs(sides[0] - sides[1]).max(axis=1) > _AGAIN / _EVALUATED * rounded
    alike = np.abs(findings.proved - again.overlap) <= _ABOVE / _EVALUATED * rounded
    findings.doubt(differ & alike, "its bounds are not what the method gives once more")


# --- masks --------------------------------------------------------------------------------------


def _masks(
    certificate: MaskCertificate, model: keras.Model, attack: bool, findings: _Findings
) -> None:
    findings.means[:] = _CHECKER
    method, settings = certificate.method, findings.settings
    if method not in ("crown", "crown-ibp", "ibp"):
        findings.doubt(True, f"the checker has no such bounds (method={method!r})")
        return
    network, classes = Network(model), certificate.targets
    in_class = classes < max(network.nb_outputs, 2)
    findings.doubt(~in_class, "its targets are no classes of the model")
    outside = ~((certificate.masks >= 0) & (certificate.masks <= 1))
    findings.doubt(outside.reshape(findings.nb, -1).any(axis=1), "its masks are not within [0, 1]")
    rows = np.asarray(margin_rows(np.where(in_class, classes, 0), network.nb_outputs))
    steps = _mask_steps(certificate, settings)
    findings.doubt(np.isnan(steps), "its radius is none that was tested")
    for sample in map(int, np.flatnonzero(findings.open)):
        where, radius = np.arange(findings.nb) == sample, certificate.certified[sample]
        if radius > 0:
            upper, unit = _kept_margin(network, certificate, sample, radius, rows[sample])
            findings.doubt(where & (upper >= 0), "the class is not proved again within its radius")
        if np.isfinite(steps[sample]):
            upper, unit = _kept_margin(network, certificate, sample, steps[sample], rows[sample])
            low = upper < -_ABOVE * unit
            findings.doubt(where & low, "its radius is not what the method gives: more is proved")
        findings.proved[sample] = radius
    attacked = certificate.attacked
    if attacked is None:
        return
    nearer = attacked < certificate.certified
    findings.refute(nearer, "its attack succeeds within the radius that it certifies")
    if attack and certificate.origin is not None and not outside.any():
        again = _mask_attack(certificate, model, settings)
        findings.attained[:] = again
        finite = np.where(np.isfinite(again), again, 0.0)
        findings.compare("attacked", attacked, again, 1e-3 * finite)
        inside = again < certificate.certified
        findings.refute(inside, "an attack succeeds within the radius that it certifies")


def _mask_steps(certificate: MaskCertificate, settings: dict[str, Any]) -> np.ndarray:
    """The next radius that was tested and not proved, (N,): inf for none, NaN for others' radii."""
    if certificate.attacked is None or "nb_halvings" not in settings:
        return np.full(len(certificate.certified), np.inf)
    attacked = certificate.attacked
    ends = np.where(np.isfinite(attacked), attacked, settings["largest_radius"])
    step = ends / 2.0 ** settings["nb_halvings"]
    number = np.round(
        np.divide(certificate.certified, step, where=step > 0, out=np.zeros(len(step)))
    )
    of_grid = np.abs(number * step - certificate.certified) <= 1e-9 * ends
    following = np.where(certificate.certified >= ends, np.inf, (number + 1) * step)
    return np.where(of_grid, following, np.nan)


def _kept_margin(
    network: Network, certificate: MaskCertificate, sample: int, radius: float, rows: np.ndarray
) -> tuple[float, float]:
    """A bound of the margins of what a mask keeps within a radius, and a unit of its roundings."""
    region, one = certificate.region, slice(sample, sample + 1)
    clip = None if region.clip is None else valid_range(region.clip, region.shape, np.float32)
    ball = Ball(region.center[one].astype(np.float64), radius, region.norm, clip)
    mask, neutral = (
        np.asarray(x, np.float64) for x in (certificate.masks[sample], certificate.neutral_value)
    )
    size = np.abs(neutral) * (1 + mask)
    behind = network.behind(mask, neutral - mask * neutral, size)
    (domain,) = domains(ball)
    upper, amount = upper_bounds(behind, domain, rows, method=certificate.method)
    return float(upper.max()), 2.0**-24 * float(amount.max())


def _mask_attack(
    certificate: MaskCertificate, model: keras.Model, settings: dict[str, Any]
) -> np.ndarray:
    """The distances that the attack of RelEx finds again, (N,)."""
    explainer = RelEx(model, **settings)
    attack = explainer._attack(certificate.neutral_value)
    region = explainer.perturbation.around(certificate.region.center)
    return attack(beside_masks(region, certificate.masks), certificate.targets).distances


# --- the engine in float64 ----------------------------------------------------------------------


def _reasons(
    certificate: ReasonCertificate, model: keras.Model, attack: bool, findings: _Findings
) -> None:
    region = certificate.region.fix(certificate.entries(certificate.kept))
    proved, nb_outputs = np.zeros(findings.nb, bool), certificate.answers.nb_outputs
    try:
        network = Network(model)
        if network.nb_outputs == nb_outputs:
            asked = zip(domains(region), *certificate.answers.property())
            proved = np.array([_holds(network, *own) for own in asked], bool)
    except UnknownLayerError:
        pass
    confirmed = recheck_reasons(certificate, model, proved)
    means = f"{_CHECKER}; witnesses by evaluation", "branch and bound of the engine in float64"
    findings.means[:] = np.where(proved, *means)
    findings.proved[confirmed] = certificate.certified[confirmed]
    findings.doubt(~confirmed, "the set, a witness or the smallest size is not found again")


def _holds(network: Network, domain: Domain, rows: np.ndarray, limits: np.ndarray) -> bool:
    """Whether linear bounds prove a property: (P, J, K) and (P, J), see `Verifier.decide`."""
    if np.isneginf(limits).any(axis=1).all():
        return True
    flat = -rows.reshape(-1, rows.shape[-1]).astype(np.float64)
    upper, _ = upper_bounds(network, domain, flat)
    return bool((upper.reshape(limits.shape) < -limits).any(axis=1).all())


def _gradients(
    certificate: GradientCertificate, model: keras.Model, attack: bool, findings: _Findings
) -> None:
    findings.means[:] = _ENGINE
    explainer = CertifiedGradient(model, **certificate.settings)
    region, targets = _ball(certificate), certificate.targets
    lower, upper = explainer._bounds(region, targets, "float64")
    findings.doubt(~_within(certificate, lower, upper), "its bounds are not proved again")
    size = _per_input(np.maximum(np.abs(lower), np.abs(upper)))
    room = np.maximum(lower - certificate.lower, certificate.upper - upper)
    findings.doubt(_per_input(room) > 1e-4 * size, "its bounds are not what the method gives")
    explanation = explainer._of_features(region.center, targets)
    found = _per_input(np.abs(explanation))
    off = _per_input(np.abs(certificate.explanation - explanation)) > 1e-4 * found
    findings.doubt(off, "its explanation is not that of the model")
    sides = certificate.lower, certificate.upper, certificate.explanation
    again = farthest(*sides, "l2_ratio")
    findings.compare("certified", certificate.certified, again, 1e-9 * np.abs(again))
    findings.proved[:] = farthest(lower, upper, explanation, "l2_ratio")
    outside = (explanation < certificate.lower) | (explanation > certificate.upper)
    roundings = 1e-5 * found.reshape(-1, *[1] * (outside.ndim - 1))
    outside &= (explanation < certificate.lower - roundings) | (
        explanation > certificate.upper + roundings
    )
    findings.refute(_per_input(outside) > 0, "the explanation of the input leaves its bounds")
    if attack and certificate.attained is not None:
        attained = explainer._attained(region, targets, explanation)
        findings.attained[:] = attained
        findings.compare("attained", certificate.attained, attained, 1e-3 * np.abs(attained) + 1e-6)


def _within(certificate: GradientCertificate, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Where other bounds lie within those of a certificate, (N,) bool."""
    inside = (certificate.lower <= lower) & (upper <= certificate.upper)
    return np.all(inside.reshape(len(inside), -1), axis=1)


def _per_input(values: np.ndarray) -> np.ndarray:
    """The largest value of each input, (N,) float64."""
    return values.reshape(len(values), -1).max(axis=1).astype(np.float64)
