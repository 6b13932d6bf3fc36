"""Which kind of certificate is verified by what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from xcertify.bounds import ProofTree, Verifier
from xcertify.certificates import (
    Certificate,
    CosineCertificate,
    DeviationCertificate,
    GradientCertificate,
    MaskCertificate,
    OverlapCertificate,
    RadiusCertificate,
    ReasonCertificate,
    SmoothedCertificate,
    TopKCertificate,
)
from xcertify.fingerprints import hash_of_architecture, hash_of_weights
from xcertify.recheck_layers import UnknownLayerError
from xcertify.verdicts.deviations import check_deviations
from xcertify.verdicts.findings import Findings, Verdict, by_answers
from xcertify.verdicts.gradients import check_gradients
from xcertify.verdicts.masks import check_masks
from xcertify.verdicts.overlaps import check_overlaps
from xcertify.verdicts.radii import check_radii
from xcertify.verdicts.reasons import check_reasons
from xcertify.verdicts.sampled import check_cosines, check_smoothed
from xcertify.verdicts.top_k import check_top_k

_EXPLAINERS = {
    OverlapCertificate: "EVA",
    MaskCertificate: "RelEx",
    ReasonCertificate: "SufficientReason",
    GradientCertificate: "CertifiedGradient",
    TopKCertificate: "CORGI",
    SmoothedCertificate: "SmoothedAttribution",
    CosineCertificate: "UniformlySmoothedAttribution",
}
_SAMPLED = (SmoothedCertificate, CosineCertificate)


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
        return by_answers(found, "the proof tree, bounded by the engine in float64")
    if not isinstance(certificate, Certificate):
        raise ValueError(
            f"certificate must be one of xcertify.certificates, or a ProofTree. "
            f"Received: {type(certificate).__name__}"
        )
    if check_model:
        _refuse_another(certificate, model)
    checks: dict[type, Callable[..., None]] = {
        OverlapCertificate: check_overlaps,
        MaskCertificate: check_masks,
        ReasonCertificate: check_reasons,
        GradientCertificate: check_gradients,
        TopKCertificate: check_top_k,
        RadiusCertificate: check_radii,
        DeviationCertificate: check_deviations,
        SmoothedCertificate: check_smoothed,
        CosineCertificate: check_cosines,
    }
    check = checks.get(type(certificate), _nothing)
    findings = Findings(certificate)
    try:
        certificate.check()
    except ValueError as error:
        if check is check_reasons:  # its parts could not even be read
            raise
        findings.doubt(True, str(error))
        return findings.verdict()
    arithmetic = "sampled" if isinstance(certificate, _SAMPLED) else "real"
    if certificate.arithmetic != arithmetic:  # no explainer proves anything of float32
        what = f"nothing is proved again of other arithmetic than {arithmetic}"
        findings.doubt(True, f"its arithmetic is {certificate.arithmetic!r}: {what}")
    elif not _is_of_its_explainer(certificate, findings):
        pass
    elif certificate.region.center.dtype != np.float32:
        findings.doubt(True, "its inputs are not in float32, as explainers have them")
    elif getattr(certificate.region, "choices", None) is not None:
        findings.doubt(True, "of texts whose words may be others nothing is bounded again")
    elif getattr(certificate.region, "nb_changed", None) is not None:
        findings.doubt(True, "where few features may change, nothing is bounded again")
    elif findings.has_its_region():
        try:
            check(certificate, model, attack, findings)
        except UnknownLayerError as error:
            findings.doubt(True, f"the checker cannot read the model: {error}")
    return findings.verdict()


def _is_of_its_explainer(certificate: Any, findings: Findings) -> bool:
    """Whether the explainer makes such certificates, by the method of its settings."""
    origin = certificate.origin
    name = _EXPLAINERS.get(type(certificate))
    if origin is None or name is None:
        return True
    stated = certificate.method.removeprefix("first order; proved by ")
    method = origin.settings.get("method", stated)
    findings.doubt(origin.explainer != name, f"its origin is not said to be {name}")
    findings.doubt(method != stated, "its method is not that of its settings")
    return bool(origin.explainer == name and method == stated)


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


def _nothing(certificate: Any, model: Any, attack: bool, findings: Findings) -> None:
    name = type(certificate).__name__
    findings.doubt(True, f"there are no other means than those that made a {name}")
