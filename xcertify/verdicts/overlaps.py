"""Overlaps of EVA: bounded again, decided again, attacked again."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np

from xcertify.answers import Answers
from xcertify.attacks import PGD
from xcertify.attributions import EVA
from xcertify.bounds import Verifier, contains
from xcertify.certificates import OverlapCertificate
from xcertify.grid import cells_of_entries, grid_cells
from xcertify.logits import logits_of
from xcertify.radii import ContradictionError
from xcertify.recheck_layers import UnknownLayerError
from xcertify.verdicts.findings import ABOVE, DECIDED, EVALUATED, METHODS, SECONDS, Findings
from xcertify.verdicts.overlap_bounds import ByChecker, ByEngine, overlap_of

_AGAIN = 4  # units by which float32 differs in other numbers of threads or on other machines
_MOST_PARTS = 16  # of one input that are attacked

Means = ByChecker | ByEngine


def check_overlaps(
    certificate: OverlapCertificate, model: keras.Model, attack: bool, findings: Findings
) -> None:
    """See `Check`: bounds of the checker, or of the engine in float64; decisions, and attacks."""
    means = _means(certificate, model, findings)
    if means is None:
        return
    findings.means[:] = means.words
    region, settings = certificate.region, findings.settings
    cells = grid_cells(region.shape, settings.get("grid_size"))
    known = certificate.origin is None or np.array_equal(cells, certificate.cells)
    findings.doubt(not known, "its cells are not those of grid_size")
    targets = findings.classes(means.nb_outputs)
    in_class = targets == certificate.targets
    if certificate.answers is not None and not _are_of(certificate.answers, means, findings):
        return
    overlap = replace(overlap_of(certificate), classes=targets)
    rows = np.asarray(overlap.rows(means.nb_outputs))
    offsets = np.zeros(rows.shape[:2]) if overlap.offsets is None else overlap.offsets
    stated = np.concatenate([certificate.overlap[:, None], certificate.cell_overlaps], axis=1)
    is_finite = np.isfinite(stated).all(axis=1)
    findings.doubt(~is_finite, "it has bounds that are not finite")
    found = [means.margins(*asked) for asked in zip(region.center, rows, offsets)]
    nominal, rounded = np.array([(low + up) / 2 for low, up, _ in found]), np.array(found)[:, 2]
    findings.compare("nominal", certificate.nominal, nominal, rounded)
    if certificate.answers is not None:
        differ = nominal + certificate.answers.delta > rounded
        findings.doubt(differ, "its values are not the outputs at the inputs")
    loose = np.zeros(findings.nb, bool)  # by more than float32 rounds, or by a tie of lines
    for sample in map(int, np.flatnonzero(in_class & is_finite)):
        upper, above, below = means.bounds(sample, stated[sample])
        findings.proved[sample] = upper[0]
        where = np.arange(findings.nb) == sample
        high = ~((upper <= stated[sample] + below) & np.isfinite(upper))
        findings.doubt(where & high[0], "the overlap is not bounded so tightly again")
        findings.doubt(where & high[1:].any(), "cell_overlaps are not bounded so tightly again")
        loose[sample] = (stated[sample] > upper + above).any()
        is_close = (stated[sample, 0] < 0) & (upper[0] >= 0)
        findings.doubt(where & is_close, "the prediction is not proved again to stay")
        if attack and high.any():
            parts = np.flatnonzero(high)[:_MOST_PARTS]
            asked = rows[sample], offsets[sample]
            shown = _refutes(means, certificate, model, sample, parts, *asked)
            findings.refute(where & shown, "a point of the region has a larger overlap")
    if certificate.decision is not None and in_class.all():
        _decisions(certificate, model, means, (rows, offsets), nominal, rounded, findings)
    is_method = np.zeros(findings.nb, bool)
    if in_class.all():
        is_method = _attained_overlaps(certificate, model, attack, findings, nominal, rounded)
    findings.doubt(loose & ~is_method, "its bounds are not what the method gives")


def _means(certificate: OverlapCertificate, model: keras.Model, findings: Findings) -> Means | None:
    """By what bounds are found again: by the checker, where it knows the model and the method."""
    if certificate.method in METHODS:
        try:
            own = certificate.origin is None or certificate.origin.explainer == EVA.__name__
            if own:
                return ByChecker(certificate, model, findings.settings)
        except UnknownLayerError:
            pass
    explainer = findings.explainer(EVA, model)
    return None if explainer is None else ByEngine(certificate, explainer)


def _are_of(answers: Answers, means: Means, findings: Findings) -> bool:
    """Whether the answers of a regression are of this model, and those of the settings."""
    is_of = answers.nb_outputs == means.nb_outputs
    findings.doubt(not is_of, "its answers are of another number of outputs")
    if findings.certificate.origin is not None:
        try:
            delta = np.asarray(findings.settings.get("delta"), np.float64)
            same = np.broadcast_to(delta, findings.nb) == answers.delta
        except (TypeError, ValueError):  # no numbers, or others than one for each input
            same = np.zeros(findings.nb, bool)
        findings.doubt(~same, "its delta is not that of its settings")
    return is_of


def _refutes(
    means: Means,
    certificate: OverlapCertificate,
    model: keras.Model,
    sample: int,
    parts: np.ndarray,
    rows: np.ndarray,
    offsets: np.ndarray,
) -> bool:
    """Whether a point is found whose overlap is larger than stated, of one of some parts."""
    cells = cells_of_entries(certificate.cells, certificate.region.shape)
    stated = np.append(certificate.overlap[sample], certificate.cell_overlaps[sample])
    held = np.stack([cells == part - 1 for part in parts])  # -1: none
    region = certificate.region[np.full(len(parts), sample)].fix(held)
    if certificate.answers is None:
        classes = np.full(len(parts), certificate.targets[sample])
        points = PGD(logits_of(model), restarts=2)(region, classes).points.astype(np.float64)
    else:
        asked = certificate.answers[np.full(len(parts), sample)].property()
        points = Verifier(model, dtype="float64").attack(region, *asked).points.astype(np.float64)
    center = region.center.astype(np.float64)
    points = center + (1 - 2.0**-20) * (
        points - center
    )  # not on the side, which is rounded outward
    inside = contains(region, points)
    found = [means.margins(point, rows, offsets)[0] for point in points]
    return bool((inside & (np.array(found) > stated[parts])).any())


def _decisions(
    certificate: OverlapCertificate,
    model: keras.Model,
    means: Means,
    margins: tuple[np.ndarray, np.ndarray],
    nominal: np.ndarray,
    rounded: np.ndarray,
    findings: Findings,
) -> None:
    """What was decided beyond bounds: proved again by branch and bound, or shown again."""
    decision, region = certificate.decision, certificate.region
    assert decision is not None
    by_bounds = certificate.overlap < 0
    findings.doubt(by_bounds & ~decision.holds, "bounds prove what is not said to hold")
    findings.doubt(np.isnan(decision.lower), "the lower bound of its decision is no number")
    worst = np.maximum(certificate.attained, nominal) + rounded  # margins of other classes
    for sample in map(int, np.flatnonzero(decision.violated)):
        where, one = np.arange(findings.nb) == sample, slice(sample, sample + 1)
        point = decision.counterexamples[one]
        is_one = bool(np.isfinite(point).all() and contains(region[one], point).all())
        rows, offsets = (array[sample] for array in margins)
        margin = means.margins(point[0], rows, offsets)[1] if is_one else -np.inf
        findings.refute(where & ~(margin >= 0), "its counterexample is none")
        worst[sample] = max(worst[sample], margin + rounded[sample])
    proved = np.where(np.isnan(findings.proved), np.inf, findings.proved)
    is_lower = decision.lower <= np.maximum(-proved, -certificate.overlap)  # by what is bounded
    left = np.flatnonzero((~by_bounds & decision.holds | ~is_lower) & findings.open)
    if len(left):
        verifier = Verifier(model, dtype="float64", strip_head=True)
        lower = decision.lower[left]
        lower = np.where(lower > -np.inf, lower - 1e-5 * (1 + np.abs(lower)), lower)
        lower = np.where(decision.holds[left], np.maximum(lower, 0.0), lower)
        answers = certificate.answers or Answers(certificate.targets, means.nb_outputs)
        asked, limits = answers[left].property()
        limits = limits + lower.reshape(-1, *[1] * (np.ndim(limits) - 1))
        timeout = SECONDS * len(left)
        again = verifier.decide(region[left], asked, limits, timeout=timeout, verbose=False)
        where = np.zeros((2, findings.nb), bool)
        where[0, left], where[1, left] = again.violated, again.unknown
        holds = decision.holds
        findings.refute(where[0] & holds, "a point of the region has another class, or nearly")
        findings.refute(where[0] & ~holds, "a point of the region is below the lower bound")
        findings.doubt(where[1] & holds, "branch and bound does not prove again what holds")
        findings.doubt(where[1] & ~holds, "the lower bound is not proved again")
        findings.means[left] = f"{means.words}; {DECIDED}"
        reached = -(again.upper + lower)  # `upper` is above the limit
        worst[left] = np.fmax(worst[left], reached + 1e-5 * (1 + np.abs(reached)))
    upper = decision.upper
    attained = (upper >= decision.lower) & (upper <= rounded - nominal) & (-upper <= worst)
    findings.doubt(~attained, "the upper bound of its decision is not attained again")


def _attained_overlaps(
    certificate: OverlapCertificate,
    model: keras.Model,
    attack: bool,
    findings: Findings,
    nominal: np.ndarray,
    rounded: np.ndarray,
) -> np.ndarray:
    """What attacks attained: not less than the input itself, not more than is proved, and again.

    Gives back where the method, once more, has the bounds that are stated, (N,) bool.
    """
    unknown = np.zeros(findings.nb, bool)
    for name, values in (("attained", certificate.attained), ("attacked", certificate.attacked)):
        if values is None:
            continue
        findings.doubt(~(values >= nominal - rounded), f"{name} is less than at the input itself")
        with np.errstate(invalid="ignore"):
            more = values > findings.proved + rounded
        findings.refute(more, f"{name} is more than is proved that any point attains")
    if not attack:
        return unknown
    if certificate.origin is None:
        is_said = certificate.attained > nominal + rounded
        findings.doubt(is_said, "no origin says by which attack it attained what it says")
        return unknown
    names = ("epsilon", "in_words")
    own = {n: v for n, v in findings.settings.items() if n not in names}
    own |= {
        "attack": certificate.attacked is not None,
        "epsilon": certificate.region.epsilon,
    }
    if certificate.answers is not None:
        own["delta"] = certificate.answers.delta
    try:
        explainer = EVA(model, **own)
    except (TypeError, ValueError) as error:
        findings.doubt(True, f"its settings make no EVA: {error}")
        return unknown
    try:
        again = explainer._certify(findings.ball, certificate.targets)
    except ContradictionError:  # of the engine itself
        findings.doubt(True, "an attack of the engine contradicts its bounds")
        return unknown
    findings.attained[:] = again.attained
    room = rounded + 1e-3 * np.abs(again.attained - nominal)
    findings.compare("attained", certificate.attained, again.attained, room)
    if certificate.attacked is not None and again.attacked is not None:
        findings.compare("attacked", certificate.attacked, again.attacked, room)
    # the method once more: nothing is proved by it, but who moved a bound by little is found
    sides = [
        np.concatenate([c.overlap[:, None], c.cell_overlaps], axis=1) for c in (certificate, again)
    ]
    differ = np.abs(sides[0] - sides[1]).max(axis=1) > _AGAIN / EVALUATED * rounded
    alike = np.abs(findings.proved - again.overlap) <= ABOVE / EVALUATED * rounded
    findings.doubt(differ & alike, "its bounds are not what the method gives once more")
    return ~differ
