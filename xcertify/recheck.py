"""Certificates proved once more, with the model that they are for."""

from __future__ import annotations

import keras
import numpy as np

from xcertify.attributions import CertifiedGradient
from xcertify.bounds import ProofTree, Verifier
from xcertify.certificates import GradientCertificate, fingerprint


def recheck(certificate: GradientCertificate | ProofTree, model: keras.Model) -> np.ndarray:
    """Prove the bounds of a certificate anew, in float64, (N,) bool.

    Parameters
    ----------
    certificate
        Of `CertifiedGradient`, or `Decision.proof`; loaded from a file for instance.
    model
        The model that it is for.

    Returns
    -------
    proved
        True where new bounds, computed in float64 for the certificate's regions with its settings,
        lie within its own. False does not refute them: near a tie the engine may choose other lines
        in float64, which may be looser. Of a `ProofTree`: see `Verifier.recheck`.

    Raises
    ------
    ValueError
        If the model's weights are not those of the certificate, or a tree was changed.

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
    return CertifiedGradient(model, **certificate.settings).recheck(certificate)
