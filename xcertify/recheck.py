"""Certificates proved once more, with the model that they are for."""

from __future__ import annotations

import keras
import numpy as np

from xcertify.attributions import CertifiedGradient
from xcertify.bounds import ProofTree, Verifier
from xcertify.certificates import GradientCertificate, ReasonCertificate, fingerprint
from xcertify.reasons.recheck import recheck_reasons


def recheck(
    certificate: GradientCertificate | ReasonCertificate | ProofTree, model: keras.Model
) -> np.ndarray:
    """Prove the bounds of a certificate anew, in float64, (N,) bool.

    Parameters
    ----------
    certificate
        Of `CertifiedGradient` or `SufficientReason`, or `Decision.proof`; loaded from a file for
        instance.
    model
        The model that it is for.

    Returns
    -------
    proved
        True where new bounds, computed in float64 for the certificate's regions with its settings,
        lie within its own. False does not refute them: near a tie the engine may choose other lines
        in float64, which may be looser. Of a `ReasonCertificate`: where the set is proved anew by
        `Verifier.decide` in float64, every witness is what it should be, and all of them show that
        sufficient sets are not smaller than stated. Of a `ProofTree`: see `Verifier.recheck`.

    Raises
    ------
    ValueError
        If the model's weights are not those of the certificate, or its parts contradict each other.

    Examples
    --------
    >>> recheck(GradientCertificate.load("certificate.npz"), model).all()
    True
    """
    if isinstance(certificate, ProofTree):
        return Verifier(model, **certificate.settings).recheck(certificate)
    if fingerprint(model) != certificate.fingerprint:
        raise ValueError(
            f"the weights of the model '{model.name}' are not those that the certificate is "
            f"for. Load the model that was certified, or certify this one"
        )
    if isinstance(certificate, ReasonCertificate):
        return recheck_reasons(certificate, model)
    return CertifiedGradient(model, **certificate.settings).recheck(certificate)
