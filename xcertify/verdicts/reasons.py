"""Sufficient reasons: what is irrelevant, proved again."""

from __future__ import annotations

import keras
import numpy as np

from xcertify.certificates import ReasonCertificate
from xcertify.reasons.recheck import recheck_reasons
from xcertify.recheck import Domain, domains, upper_bounds
from xcertify.recheck_layers import Network, UnknownLayerError
from xcertify.verdicts.findings import CHECKER, DECIDED, Findings


def check_reasons(
    certificate: ReasonCertificate, model: keras.Model, attack: bool, findings: Findings
) -> None:
    """See `Check`: what is irrelevant, and the witnesses."""
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
    means = f"{CHECKER}; witnesses by evaluation", DECIDED
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
