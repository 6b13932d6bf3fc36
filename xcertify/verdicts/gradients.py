"""Gradients: their bounds, by the engine in float64."""

from __future__ import annotations

import keras
import numpy as np

from xcertify.attributions import CertifiedGradient
from xcertify.certificates import GradientCertificate
from xcertify.criteria import farthest
from xcertify.verdicts.findings import ENGINE, Findings


def check_gradients(
    certificate: GradientCertificate, model: keras.Model, attack: bool, findings: Findings
) -> None:
    """See `Check`: bounds of explanations."""
    findings.means[:] = ENGINE
    try:
        explainer = CertifiedGradient(model, **certificate.settings)
    except (TypeError, ValueError) as error:
        findings.doubt(True, f"its settings make no CertifiedGradient: {error}")
        return
    region, targets = findings.ball, certificate.targets
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
