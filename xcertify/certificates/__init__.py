"""Certificates: what was proved, frozen."""

from xcertify.certificates.base import Certificate, describe_weights, load
from xcertify.certificates.cosines import CosineCertificate
from xcertify.certificates.deviations import DeviationCertificate
from xcertify.certificates.gradients import GradientCertificate
from xcertify.certificates.masks import MaskCertificate
from xcertify.certificates.origins import Origin, fingerprint
from xcertify.certificates.overlaps import OverlapCertificate
from xcertify.certificates.radii import RadiusCertificate
from xcertify.certificates.reasons import ReasonCertificate
from xcertify.certificates.smoothed import SmoothedCertificate
from xcertify.certificates.top_k import TopKCertificate

__all__ = [
    "Certificate",
    "CosineCertificate",
    "DeviationCertificate",
    "GradientCertificate",
    "MaskCertificate",
    "Origin",
    "OverlapCertificate",
    "RadiusCertificate",
    "ReasonCertificate",
    "SmoothedCertificate",
    "TopKCertificate",
    "describe_weights",
    "fingerprint",
    "load",
]
