"""Deviations of attributions: proofs again by the engine in float64, estimates evaluated again."""

from __future__ import annotations

import keras
import numpy as np

from xcertify.attributions import AttributionBound
from xcertify.certificates import DeviationCertificate
from xcertify.radii import ContradictionError
from xcertify.regions import Ball
from xcertify.verdicts.findings import ENGINE, Findings

_NAMES = ("proved_euclidean", "proved_cosine")
_ROUNDED = 1e-6  # share of a bound that float32 may round
_WIDER = 1e-3  # and by which those of float32 are wider: 2.5e-4 seen, of 784 features


def check_deviations(
    certificate: DeviationCertificate, model: keras.Model, attack: bool, findings: Findings
) -> None:
    """See `Check`: how far attributions are proved to move at most, and all estimates of it."""
    euclidean, cosine = certificate.proved_euclidean, certificate.proved_cosine
    if euclidean is None or cosine is None:
        findings.doubt(True, "nothing is proved")
        return
    explainer = findings.explainer(AttributionBound, model)
    if explainer is None:
        return
    if certificate.method != explainer._said_method or certificate.attacked is None:
        findings.doubt(True, "its method, or what it observed, is not what its settings give")
        return
    findings.means[:] = f"{ENGINE}; estimates by evaluation"
    explainer._update()  # the copy with softplus
    region, weights, maps = findings.ball, certificate.targets, certificate.explanation
    own = explainer._of_features(region.center, weights)
    if own.shape != maps.shape:
        findings.doubt(True, "its explanation is not of the shape of the model's")
        return
    sizes = np.abs(own).reshape(findings.nb, -1).max(axis=1)
    room = 1e-4 * sizes.reshape(-1, *[1] * (own.ndim - 1))
    findings.compare("explanation", maps, own, room)
    findings.compare("beta", certificate.beta, explainer._betas(region.center), 0.0)
    found = _proofs(certificate, explainer, region)
    lengths = np.linalg.norm(own.reshape(findings.nb, -1).astype(np.float64), axis=1)
    turned = np.sqrt(2 * np.maximum(found[1], 0.0))  # an angle, of which float32 rounds as much
    rooms = _ROUNDED * lengths, _ROUNDED * turned + 1e-9
    for name, stated, again, room in zip(_NAMES, (euclidean, cosine), found, rooms):
        below = ~(stated >= again * (1 - _ROUNDED) - 1e-3 * room)  # also of NaN
        above = ~(stated <= again * (1 + 2 * _WIDER) + room)
        findings.doubt(below, f"{name} is not proved again")
        findings.doubt(above, f"{name} is not what the method gives: less is proved")
    findings.proved[:] = found[0]
    observed = np.asarray(certificate.attacked)
    more = observed - 1e-4 * (observed + lengths) > found[0]
    findings.refute(more, "it observed a larger deviation than is proved")
    if attack:
        _check_estimates(certificate, explainer, region, findings)


def _proofs(
    certificate: DeviationCertificate, explainer: AttributionBound, region: Ball
) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean and cosine distances (N,) that are proved in float64."""
    found = np.full((2, len(region)), np.nan)
    for some, one in explainer._by_network(region.center):
        about = region[some], certificate.targets[some], certificate.explanation[some]
        one._dtype = "float64"
        found[:, some] = one._proofs(*about)
        one._dtype = "float32"
    return found[0], found[1]


def _check_estimates(
    certificate: DeviationCertificate,
    explainer: AttributionBound,
    region: Ball,
    findings: Findings,
) -> None:
    """What is evaluated, of which nothing is proved: the same as once more."""
    weights = certificate.targets
    try:
        again = explainer._certify(region, weights)
    except ContradictionError:
        findings.doubt(True, "an attack of the engine contradicts its bounds")
        return
    findings.attained[:] = np.asarray(again.attacked)
    names = ("euclidean_estimate", "singular_value_lower", "singular_value_upper")
    for name in (*names, "reached", "factor", "attacked", "attained"):
        own = np.asarray(getattr(again, name), np.float64)
        room = 1e-3 * np.where(np.isfinite(own), np.abs(own), 0.0)
        findings.compare(name, np.asarray(getattr(certificate, name), np.float64), own, room)
    findings.doubt(
        np.array(certificate.decided) != np.array(again.decided), "decided is not what is found"
    )
    findings.doubt(certificate.kinks != again.kinks, "kinks are not those of the model")
    reached = np.full(findings.nb, np.nan)
    for some, one in explainer._by_network(region.center):
        steps = certificate.direction[some]
        moved = one._jacobian.gram(region.center[some], weights[some], steps)
        squares = (moved.astype(np.float64) * steps).reshape(len(some), -1).sum(axis=1)
        reached[some] = np.sqrt(np.maximum(squares, 0.0)) * certificate.epsilon[some]
    findings.compare("direction", certificate.reached, reached, 1e-3 * np.abs(reached))
    flat = certificate.direction.reshape(findings.nb, -1).astype(np.float64)
    length = np.linalg.norm(flat, certificate.region.norm, axis=1)
    findings.compare("the length of direction", length, np.ones(findings.nb), 1e-4)
